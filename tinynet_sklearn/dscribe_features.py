"""`DScribeFeaturizer`: descriptors of DScribe (SOAP, ACSF, LMBTR) as per-atom arrays.

DScribe (https://singroup.github.io/dscribe) is optional: ``pip install dscribe``. It computes numbers of one
structure; here they become rows that scikit-learn counts and joins by structure, with two precautions (what
LMBTR needs beyond is in `dscribe_descriptors`):

- Atoms are moved into the cell along its periodic directions first. DScribe 2.1 repeats the cell as far as
  its cutoff reaches beyond the *cell*, so that atoms outside of it would miss neighbours, without a word.
- Directions that are not periodic get a lattice vector where there is none, which DScribe asks for but does
  not use.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import first_few, physical_memory, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.dscribe_descriptors import column_names, descriptor_of
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.graph import coinciding_atoms
from tinynet_sklearn.structures import AtomicStructure, as_structures, atomic_number, raise_problems

__all__ = ["DScribeFeaturizer"]

#: Structures per joblib task. Processes take long to start and little to hand over.
CHUNK = 16

#: How to have fewer columns.
FEWER_COLUMNS = {
    "soap": "Set compression, lower n_max or l_max",
    "acsf": "Take fewer functions",
    "lmbtr": "Take fewer points of grid",
}


class DScribeFeaturizer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """SOAP, ACSF or LMBTR of every atom, computed by DScribe.

    For comparison with the cycle-moment embeddings, and to join with them in a ``FeatureUnion``. Structures
    may differ in size, species and periodicity (in none to three directions). Columns are invariant under
    rotations: alone, they suit targets that are, such as densities of states or charges, not forces.

    Parameters
    ----------
    descriptor : {"soap", "acsf", "lmbtr"}, default="soap"
        Smooth overlap of atomic positions, atom-centred symmetry functions, or local many-body tensor
        representation. Settings of the others are ignored.
    r_cut : float, default=5.0
        Angstrom; how far a descriptor looks. SOAP with ``rbf="gto"`` needs more than 1. Three atoms count in
        LMBTR up to a perimeter of twice as much.
    n_max, l_max : int, default=6, 4
        SOAP: number of radial functions, and highest degree of the spherical harmonics, at most 20.
    sigma : float, default=0.5
        SOAP: standard deviation of the Gaussians that stand for atoms, Angstrom.
    rbf : {"gto", "polynomial"}, default="gto"
        SOAP: radial functions.
    weighting : dict or None, default=None
        SOAP: how neighbours count with their distance, as DScribe's `weighting`: for example
        ``{"function": "poly", "c": 1, "m": 1, "r0": 5.0}``.
    compression : {"off", "mu2", "mu1nu1", "crossover"}, default="off"
        SOAP: which products of species are kept. Columns grow with the square of the number of species
        ("off"), with the number ("mu1nu1", "crossover") or not at all ("mu2", which ignores species).
    g2_params, g3_params, g4_params, g5_params : sequence or None, default=None
        ACSF: one row ``(eta, R_s)``, number ``kappa``, row ``(eta, zeta, lambda)`` for each function, in
        Angstrom and 1/Angstrom^2; empty for none. None takes 18 functions G2 and 4 functions G4, none of
        the others. G1, the sum of the cutoff functions, is always there.
    geometry : {"inverse_distance", "distance", "angle", "cosine"}, default="inverse_distance"
        LMBTR: of what in the surroundings there is a spectrum, in 1/Angstrom, Angstrom or degrees. Angles are
        those among three atoms, one of them the atom itself; join two featurizers to have pairs, too.
    grid : tuple (float, float, int, float) or None, default=None
        LMBTR: first and last point, number of points and standard deviation of the Gaussians. None takes
        ``(0, 1.5, 51, 0.03)``, ``(0, r_cut, 51, 0.1)``, ``(0, 180, 37, 5)`` or ``(-1, 1, 41, 0.05)``.
    threshold : float, default=1e-3
        LMBTR: what the weight, 1 at distance 0, has decayed to at `r_cut`, where it is cut off.
    normalization : {"none", "l2"}, default="none"
        LMBTR: "l2" makes every row a vector of length 1.
    species : sequence of str or int, or None, default=None
        Symbols or atomic numbers to be described; None takes those in `fit`.
    n_jobs : int or None, default=None
        Processes of `transform` (DScribe holds Python's lock, so that threads would wait for each other), as
        in joblib; they take about two seconds to start. The result does not depend on it.
    dtype : {"float64", "float32"}, default="float64"
        Type of the features.

    Attributes
    ----------
    species_ : ndarray of shape (n_species,), int
        Atomic numbers that are described, ascending.
    n_features_out_ : int
        Number of columns.

    Notes
    -----
    Derivatives are not offered, so `BPNNPotential` cannot use these columns: DScribe has analytical ones for
    SOAP of molecules only, and otherwise moves every atom in turn. Columns tell of the surroundings of an
    atom, not of its own species (ACSF, LMBTR) or hardly (SOAP): use one model per species.

    LMBTR is a sum of Gaussians, one for each pair or three of atoms, with weights ``exp(-s x)``; x is the
    distance or the perimeter. Weights end with a step from `threshold` to 0. DScribe holds all distances of a
    structure and its surroundings at once. DScribe 2.1 cannot compute LMBTR with ASE 3.27 or newer (its issue
    165); this is mended in `dscribe_descriptors`.

    References
    ----------
    L. Himanen et al., Comput. Phys. Commun. 247, 106949 (2020), for DScribe and its LMBTR; A. P. Bartók,
    R. Kondor and G. Csányi, Phys. Rev. B 87, 184115 (2013), for SOAP; J. Behler, J. Chem. Phys. 134, 074106
    (2011), for ACSF; J. P. Darby, J. R. Kermode and G. Csányi, npj Comput. Mater. 8, 166 (2022), for
    compression; H. Huo and M. Rupp, Mach. Learn.: Sci. Technol. 3, 045017 (2022), for many-body tensors.

    Examples
    --------
    >>> from ase.build import bulk, molecule
    >>> from tinynet_sklearn.dscribe_features import DScribeFeaturizer
    >>> soap = DScribeFeaturizer(n_max=3, l_max=2)
    >>> soap.fit_transform([molecule("H2O"), bulk("MgO", "rocksalt", a=4.21)])  # doctest: +SKIP
    <PerAtomArray: 2 structures, 5 atoms, 135 columns, species 1 8 12, float64, lab frame>
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "descriptor": [StrOptions({"soap", "acsf", "lmbtr"})],
        "r_cut": [Interval(Real, 0, None, closed="neither")],
        "n_max": [Interval(Integral, 1, None, closed="left")],
        "l_max": [Interval(Integral, 0, 20, closed="both")],
        "sigma": [Interval(Real, 0, None, closed="neither")],
        "rbf": [StrOptions({"gto", "polynomial"})],
        "weighting": [dict, None],
        "compression": [StrOptions({"off", "mu2", "mu1nu1", "crossover"})],
        "g2_params": ["array-like", None],
        "g3_params": ["array-like", None],
        "g4_params": ["array-like", None],
        "g5_params": ["array-like", None],
        "geometry": [StrOptions({"inverse_distance", "distance", "angle", "cosine"})],
        "grid": ["array-like", None],
        "threshold": [Interval(Real, 0, 1, closed="neither")],
        "normalization": [StrOptions({"none", "l2"})],
        "species": ["array-like", None],
        "n_jobs": [Integral, None],
        "dtype": [StrOptions({"float64", "float32"})],
    }

    def __init__(
        self,
        descriptor: str = "soap",
        r_cut: float = 5.0,
        *,
        n_max: int = 6,
        l_max: int = 4,
        sigma: float = 0.5,
        rbf: str = "gto",
        weighting: dict[str, Any] | None = None,
        compression: str = "off",
        g2_params: Any = None,
        g3_params: Any = None,
        g4_params: Any = None,
        g5_params: Any = None,
        geometry: str = "inverse_distance",
        grid: Sequence[float] | None = None,
        threshold: float = 1e-3,
        normalization: str = "none",
        species: Sequence[str | int] | None = None,
        n_jobs: int | None = None,
        dtype: str = "float64",
    ) -> None:
        self.descriptor = descriptor
        self.r_cut = r_cut
        self.n_max = n_max
        self.l_max = l_max
        self.sigma = sigma
        self.rbf = rbf
        self.weighting = weighting
        self.compression = compression
        self.g2_params = g2_params
        self.g3_params = g3_params
        self.g4_params = g4_params
        self.g5_params = g5_params
        self.geometry = geometry
        self.grid = grid
        self.threshold = threshold
        self.normalization = normalization
        self.species = species
        self.n_jobs = n_jobs
        self.dtype = dtype

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Sequence[Any], y: Any = None) -> DScribeFeaturizer:
        """Learn the species and count the columns.

        Parameters
        ----------
        X : list of ase.Atoms or pymatgen Structure
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ImportError
            If DScribe is not installed.
        ValueError
            If structures or settings cannot be used.
        TypeError
            If X is not a list of structures.
        """
        structures = as_structures(X)
        if self.species is None:
            self.species_: IntArray = np.unique(np.concatenate([s.numbers for s in structures]))
        else:
            given = [atomic_number(s) if isinstance(s, str) else int(s) for s in self.species]
            self.species_ = np.unique(np.array(given, dtype=np.int64))
            if not len(self.species_) or self.species_[0] < 1:
                raise ValueError(
                    "species must hold chemical symbols or atomic numbers from 1 on, at least one; got "
                    f"{list(self.species)!r}. None takes those in fit."
                )
        self._refuse_unseen_species(structures)
        self.n_features_out_ = int(self._descriptor().get_number_of_features())
        return self

    def transform(self, X: Sequence[Any]) -> PerAtomArray:
        """Describe all atoms.

        Parameters
        ----------
        X : list of ase.Atoms or pymatgen Structure

        Returns
        -------
        PerAtomArray
            One row per atom, ``n_features_out_`` columns.

        Raises
        ------
        ImportError
            If DScribe is not installed.
        ValueError
            If structures cannot be used, hold species that are not described, or atoms in one place; all of
            them are named. If the columns, or the distances of LMBTR, do not fit into memory.
        """
        check_is_fitted(self)
        structures = as_structures(X)
        self._refuse_unseen_species(structures)
        coinciding = [f"structure {k}: {p}." for k, s in enumerate(structures) for p in coinciding_atoms(s)]
        raise_problems("X has structures with atoms in the same place", coinciding)
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
        self._check_memory(structures)
        values = np.empty((offsets[-1], self.n_features_out_), dtype=self.dtype)
        chunks = [structures[start : start + CHUNK] for start in range(0, len(structures), CHUNK)]
        parallel = Parallel(n_jobs=min(effective_n_jobs(self.n_jobs), len(chunks)), return_as="generator")
        done = 0
        # each task makes use of a descriptor of its own, in case a user chose threads
        for rows in parallel(delayed(_described)(self._descriptor(), chunk) for chunk in chunks):
            values[done : done + len(rows)] = rows
            done += len(rows)
        species = np.concatenate([s.numbers for s in structures])
        return PerAtomArray(values, offsets, species, invariant=True)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the columns, such as ``soap[O-Ti]n0,2,l1``, ``G2[O](2,1.5)`` or ``lmbtr[X-O-Ti]90``.

        In the first, the density of O takes part with radial function 0, that of Ti with 2; ``*`` stands for
        all species together. In the last, X is the atom itself, and the angle is that at O.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str objects, shape (n_columns,)
        """
        check_is_fitted(self)
        return np.asarray(column_names(self.get_params(deep=False), self.species_), dtype=object)

    def _descriptor(self) -> Any:
        """DScribe's object, made anew: nothing of DScribe is kept in a fitted featurizer."""
        return descriptor_of(self.get_params(deep=False), self.species_)

    def _refuse_unseen_species(self, structures: list[AtomicStructure]) -> None:
        known = ", ".join(species_name(z) for z in self.species_)
        unseen = [
            f"structure {k}: {first_few([f'atom {i} is {species_name(s.numbers[i])}' for i in atoms])}."
            for k, s in enumerate(structures)
            if len(atoms := np.flatnonzero(~np.isin(s.numbers, self.species_)))
        ]
        came_from = "fit has not seen (it saw" if self.species is None else "species does not name (it names"
        raise_problems(f"X has atoms of species that {came_from} {known})", unseen)

    def _check_memory(self, structures: list[AtomicStructure]) -> None:
        n_rows, present = sum(map(len, structures)), physical_memory()
        needed = float(np.dtype(self.dtype).itemsize) * n_rows * self.n_features_out_
        if needed > present:
            raise ValueError(
                f"X must make columns that fit into memory; {n_rows:,} atoms with {self.n_features_out_:,} "
                f"columns each, for {len(self.species_)} species, are {needed / 2**30:,.1f} GiB, and there "
                f"are {present / 2**30:,.1f}. {FEWER_COLUMNS[self.descriptor]}, or pass fewer "
                "structures at a time."
            )
        largest = max(range(len(structures)), key=lambda k: len(structures[k]))
        n_atoms = len(structures[largest])
        distances = 16.0 * n_atoms**2  # and a copy; images of atoms come on top
        if self.descriptor == "lmbtr" and distances > present:
            raise ValueError(
                "X must hold structures whose distances fit into memory, as DScribe's LMBTR keeps all of "
                f"them; the {n_atoms:,} atoms of structure {largest} take at least "
                f"{distances / 2**30:,.1f} GiB, and there are {present / 2**30:,.1f}. Pass smaller ones, or "
                "take another descriptor."
            )


def _described(descriptor: Any, structures: list[AtomicStructure]) -> FloatArray:
    """Rows (n_atoms of all, n_columns) of some structures."""
    rows: FloatArray = np.concatenate(
        [descriptor.create_single(_inside(structure)) for structure in structures]
    )
    return rows


def _inside(structure: AtomicStructure) -> Atoms:
    """Structure as DScribe wants it, its atoms in the cell along periodic directions."""
    cells = np.where(structure.pbc, np.floor(structure.scaled_positions()), 0.0)
    return Atoms(
        numbers=structure.numbers,
        positions=structure.positions - cells @ structure.cell,
        cell=structure.cell,
        pbc=structure.pbc,
    )
