"""`SmoothMomentFeaturizer`: the embedding for structures that do not share a topology."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import physical_memory
from tinynet_sklearn.channels import channel_weights
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.graph import MIN_DISTANCE, pairs_within
from tinynet_sklearn.moments import SmoothGeometry, SmoothMoments
from tinynet_sklearn.potential_targets import PotentialTargets
from tinynet_sklearn.structures import as_structures
from tinynet_sklearn.vector_moments import smooth_vectors

__all__ = ["SmoothMomentFeaturizer"]

#: "auto" puts `inner` this much below the shortest distance in the training structures.
INNER_MARGIN = 0.95


class SmoothMomentFeaturizer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Sums over closed walks whose bonds fade out at a cutoff: one bond graph per structure.

    For structures that differ in their atoms or bonds: molecules, slabs, melts, alloys, growing data sets.
    Sums per walk length and species sequence do not depend on the numbering of atoms, and change smoothly as
    bonds form and break. The columns are invariant and know their derivatives, as `BPNNPotential` needs. With
    ``n_vector`` above zero, vectors go along that turn with the structure: on these, `BPNNRegressor` builds
    forces and other vector targets. For crystals that keep their bonds, `CycleMomentFeaturizer` is the
    cheaper choice.

    Parameters
    ----------
    n : {2, 3, 4}, default=4
        Longest closed walk, in hops.
    cutoff : float, default=5.0
        Angstrom; bonds fade out at this length. Every pair within it is bonded.
    n_pair, n_triangle, n_square : int, default=8, 4, 2
        Number of hopping functions in walks of 2, 3 and 4 hops: Chebyshev polynomials of the hopping element
        exp(-decay * d).
    n_vector : int, default=0
        Number of hopping functions in vectors over three atoms, at most ``n_pair``; 0 makes no vectors, 3 is
        a good number, 2 from three species on. See `tinynet_sklearn.vector_moments`.
    triangle_cutoff : float or None, default=None
        Angstrom; cutoff of the bonds in walks of 3 and 4 hops. None is `cutoff`; the cost grows with its
        sixth power.
    inner : float or "auto", default="auto"
        Angstrom; polynomials are of size one beyond it and grow fast below. "auto" takes 95 % of the shortest
        distance in the structures passed to `fit`.
    decay : float, default=0.3
        Per Angstrom.
    species_channels : int or None, default=None
        Number of channels that stand in for the species of neighbors: every atom counts in all of them, with
        weights that follow from covalent radius, electronegativity, group and period
        (`tinynet_sklearn.channels`). None keeps species apart: then columns grow with the third power of the
        number of species (n=4), otherwise with that of channels. As many channels as species say the same in
        other words; from about four species on, 2 or 3 are better, unless data abound.

    Attributes
    ----------
    moments_ : SmoothMoments
        What the columns are; ``moments_.weights`` are those of the species (ascending) in the channels.
    n_features_out_ : int
        Number of columns.

    References
    ----------
    F. Ducastelle and F. Cyrot-Lackmann, J. Phys. Chem. Solids 31, 1295 (1970), for the moments; R. Drautz,
    Phys. Rev. B 99, 014104 (2019), for polynomials of an exponential as radial functions; M. J. Willatt,
    F. Musil and M. Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018), for channels.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from tinynet_sklearn import SmoothMomentFeaturizer
    >>> water, methane = molecule("H2O"), molecule("CH4")
    >>> SmoothMomentFeaturizer(n=3, n_pair=4, n_triangle=2).fit_transform([water, methane])
    <PerAtomArray: 2 structures, 8 atoms, 54 columns, species 1 6 8, float64, lab frame>
    >>> two = SmoothMomentFeaturizer(n=3, n_pair=4, n_triangle=2, species_channels=2)
    >>> two.fit_transform([water, methane])
    <PerAtomArray: 2 structures, 8 atoms, 28 columns, species 1 6 8, float64, lab frame>
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n": [Interval(Integral, 2, 4, closed="both")],
        "cutoff": [Interval(Real, 0, None, closed="neither")],
        "n_pair": [Interval(Integral, 1, None, closed="left")],
        "n_triangle": [Interval(Integral, 1, None, closed="left")],
        "n_square": [Interval(Integral, 1, None, closed="left")],
        "n_vector": [Interval(Integral, 0, None, closed="left")],
        "triangle_cutoff": [None, Interval(Real, 0, None, closed="neither")],
        "inner": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "decay": [Interval(Real, 0, None, closed="neither")],
        "species_channels": [None, Interval(Integral, 1, None, closed="left")],
    }

    #: For models that were saved by versions without these parameters.
    n_vector: int = 0
    species_channels: int | None = None

    def __init__(
        self,
        n: int = 4,
        cutoff: float = 5.0,
        *,
        n_pair: int = 8,
        n_triangle: int = 4,
        n_square: int = 2,
        n_vector: int = 0,
        triangle_cutoff: float | None = None,
        inner: float | str = "auto",
        decay: float = 0.3,
        species_channels: int | None = None,
    ) -> None:
        self.n = n
        self.cutoff = cutoff
        self.n_pair = n_pair
        self.n_triangle = n_triangle
        self.n_square = n_square
        self.n_vector = n_vector
        self.triangle_cutoff = triangle_cutoff
        self.inner = inner
        self.decay = decay
        self.species_channels = species_channels

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Sequence[Any], y: Any = None) -> SmoothMomentFeaturizer:
        """Learn the species, and the shortest distance.

        Parameters
        ----------
        X : list of ase.Atoms or pymatgen Structure
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If structures or parameters cannot be used.
        TypeError
            If X is not a list of structures.
        """
        structures = as_structures(X)
        if self.n_vector > self.n_pair:
            raise ValueError(
                f"n_vector must be at most n_pair={self.n_pair}, whose hopping functions vectors share; got "
                f"{self.n_vector}. Raise n_pair."
            )
        inner = self.inner
        if inner == "auto":
            reach = self.cutoff if self.triangle_cutoff is None else self.triangle_cutoff
            # coinciding atoms are reported by transform, with their numbers
            shortest = [pairs_within(s, reach)[3].min(initial=reach) for s in structures]
            if min(shortest) >= reach:
                raise ValueError(
                    f"a cutoff of {reach:g} Angstrom must reach a neighbour of some atom in X; it "
                    "reaches none. Raise it."
                )
            inner = INNER_MARGIN * max(MIN_DISTANCE, min(shortest))
        species = tuple(int(z) for z in np.unique(np.concatenate([s.numbers for s in structures])))
        weights = None
        if self.species_channels is not None:
            weights = channel_weights(species, int(self.species_channels))
        self.moments_ = SmoothMoments(
            species=species,
            cutoff=float(self.cutoff),
            n=int(self.n),
            n_pair=int(self.n_pair),
            n_triangle=int(self.n_triangle),
            n_square=int(self.n_square),
            triangle_cutoff=None if self.triangle_cutoff is None else float(self.triangle_cutoff),
            inner=float(inner),
            decay=float(self.decay),
            weights=None if weights is None else tuple(tuple(map(float, row)) for row in weights),
        )
        self.n_features_out_ = self.moments_.n_columns
        return self

    def transform(self, X: Sequence[Any]) -> PerAtomArray:
        """Compute the sums of all atoms.

        Parameters
        ----------
        X : list of ase.Atoms or pymatgen Structure

        Returns
        -------
        PerAtomArray
            One row per atom, ``n_features_out_`` columns, with derivatives.

        Raises
        ------
        ValueError
            If structures cannot be used; all of them are named. If the columns do not fit into memory.
        """
        check_is_fitted(self)
        structures = as_structures(X)
        self._check_memory(sum(len(s) for s in structures))
        geometry = SmoothGeometry(self.moments_, structures, PotentialTargets.from_structures(X))
        return PerAtomArray(
            geometry.values(),
            np.concatenate([[0], np.cumsum([len(s) for s in structures])]),
            np.concatenate([s.numbers for s in structures]),
            geometry=geometry,
            vectors=smooth_vectors(geometry, int(self.n_vector)) if self.n_vector else None,
            invariant=True,
        )

    def _check_memory(self, n_rows: int) -> None:
        needed, present = 8.0 * n_rows * self.n_features_out_, physical_memory()
        if needed > present:
            raise ValueError(
                f"X must make columns that fit into memory; {n_rows:,} atoms with {self.n_features_out_:,} "
                f"columns each, for {self.moments_.n_channels} species or channels, are "
                f"{needed / 2**30:,.1f} GiB, and there are {present / 2**30:,.1f}. Set species_channels, "
                "lower n, n_pair, n_triangle or n_square, or pass fewer structures at a time."
            )

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Readable names of the columns, such as ``mu3[O-Ti]0,1,2``.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str objects, shape (n_columns,)
        """
        check_is_fitted(self)
        return np.asarray(self.moments_.names(), dtype=object)
