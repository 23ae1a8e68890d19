"""`FunctionFeaturizer`: any function that describes structures or sites, as a step of a pipeline.

Descriptors come as functions of a structure that give one row per atom (DScribe's ``create``, a few lines of
one's own), or as functions of a structure and the number of a site that give the row of that site (matminer's
``featurize``). Either becomes a `PerAtomArray` here, checked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import first_few
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.structures import AtomicStructure, as_structures, raise_problems

__all__ = ["FunctionFeaturizer"]

#: Structures per joblib task.
CHUNK = 16

#: A structure as plain arrays, and, where the function takes its kind, as the user's object.
Given = tuple[AtomicStructure, Any]


class FunctionFeaturizer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Features of every atom from a function.

    Parameters
    ----------
    function : callable
        With ``per="structure"``, ``function(structure)`` returns an array of shape (n_atoms, n_columns), or
        (n_atoms,) for one column. With ``per="site"``, ``function(structure, index)`` returns the n_columns
        numbers of one atom. It must give equally many columns for all structures, and should not change the
        structure. Pass bound methods for objects: ``fingerprint.featurize``, not ``fingerprint``.
    per : {"structure", "site"}, default="structure"
        What one call describes.
    structures : {"ase", "pymatgen"}, default="ase"
        What the function is given, whatever X holds: ``ase.Atoms``, or a pymatgen ``Structure`` (``Molecule``
        where no direction is periodic). Structures of this kind come as copies with all that they carry
        (charges, magnetic moments, tags, ``info``; no calculator); of the other kind, elements, positions,
        cell and periodicity are converted.
    names : sequence of str or None, default=None
        Names of the columns; None calls them after the function.
    invariant : bool, default=False
        Whether no column changes when a structure is turned or mirrored: joined with columns in site frames,
        the site groups of these then stay in force.
    n_jobs : int or None, default=None
        Processes of `transform`, as in joblib. The function must then be picklable: no lambda.

    Attributes
    ----------
    n_features_out_ : int
        Number of columns.

    Notes
    -----
    There is nothing to learn but the number of columns, for which `fit` describes the first structure. A
    function that does not know a species, or finds fewer columns for it, is refused with the place where it
    happened.

    `save_model` refuses a pipeline with this step, since a function is code: pickle it, or save the steps
    behind it.

    Examples
    --------
    >>> import numpy as np
    >>> from ase.build import molecule
    >>> from tinynet_sklearn.function_features import FunctionFeaturizer
    >>> def mean_distance(atoms):
    ...     return atoms.get_all_distances().mean(axis=1)
    >>> FunctionFeaturizer(mean_distance).fit_transform([molecule("H2O"), molecule("CH4")])
    <PerAtomArray: 2 structures, 8 atoms, 1 columns, species 1 6 8, float64, lab frame>
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "function": [callable],
        "per": [StrOptions({"structure", "site"})],
        "structures": [StrOptions({"ase", "pymatgen"})],
        "names": ["array-like", None],
        "invariant": ["boolean"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        per: str = "structure",
        structures: str = "ase",
        names: Sequence[str] | None = None,
        invariant: bool = False,
        n_jobs: int | None = None,
    ) -> None:
        self.function = function
        self.per = per
        self.structures = structures
        self.names = names
        self.invariant = invariant
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Sequence[Any], y: Any = None) -> FunctionFeaturizer:
        """Count the columns, on the first structure.

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
            If structures cannot be used, the function fails or returns something else than rows of numbers,
            or `names` are not as many as columns.
        TypeError
            If X is not a list of structures.
        """
        rows, fault = _described(self.function, self.per, self.structures, 0, self._given(X)[0])
        if fault:
            self._refuse([f"structure 0: {fault}."])
        if self.names is not None and len(self.names) != rows.shape[1]:
            raise ValueError(
                f"names must hold one name for each of the {rows.shape[1]} columns that function returns; "
                f"got {len(self.names)}."
            )
        self.n_features_out_ = int(rows.shape[1])
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
        ValueError
            If structures cannot be used, the function fails for one, or it returned something else than
            finite rows of ``n_features_out_`` numbers for some; all of them are named.
        """
        check_is_fitted(self)
        structures = self._given(X)
        starts = range(0, len(structures), CHUNK)
        parallel = Parallel(n_jobs=min(effective_n_jobs(self.n_jobs), len(starts)))
        task = (self.function, self.per, self.structures)
        parts = parallel(delayed(_all_described)(*task, k, structures[k : k + CHUNK]) for k in starts)
        found = [pair for part in parts for pair in part]
        problems = []
        for k, (rows, fault) in enumerate(found):
            if not fault and rows.shape[1] != self.n_features_out_:
                fault = f"{rows.shape[1]} columns, {self.n_features_out_} in fit"
            if not fault and not np.isfinite(rows).all():
                atom, column = np.argwhere(~np.isfinite(rows))[0]
                fault = f"{rows[atom, column]} in column {column} of atom {atom}"
            if fault:
                problems.append(f"structure {k}: {fault}.")
        self._refuse(problems)
        return PerAtomArray(
            np.concatenate([rows for rows, _ in found]),
            np.concatenate([[0], np.cumsum([len(plain) for plain, _ in structures])]),
            np.concatenate([plain.numbers for plain, _ in structures]),
            invariant=self.invariant,
        )

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """`names`, or ``function0``, ``function1``, ... after the name of the function.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str objects, shape (n_columns,)
        """
        check_is_fitted(self)
        if self.names is not None:
            return np.asarray(self.names, dtype=object)
        return np.asarray([f"{_name(self.function)}{k}" for k in range(self.n_features_out_)], dtype=object)

    def _given(self, X: Sequence[Any]) -> list[Given]:
        """Checked structures, each with a copy of the user's own where the function takes its kind."""
        X = list(X) if isinstance(X, Iterator) else X
        plain = as_structures(X)
        ase = self.structures == "ase"
        own = [isinstance(x, Atoms) if ase else hasattr(x, "cart_coords") for x in X]
        return [(s, x.copy() if mine else None) for s, x, mine in zip(plain, X, own, strict=True)]

    def _refuse(self, problems: list[str]) -> None:
        asked = "of shape (n_atoms, n_columns)" if self.per == "structure" else "for each site, equally many"
        raise_problems(
            f"function must return finite numbers {asked}; {_name(self.function)} gave otherwise", problems
        )


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


def _all_described(
    function: Callable[..., Any], per: str, kind: str, start: int, structures: list[Given]
) -> list[tuple[FloatArray, str]]:
    """Rows and fault of each structure, from the one with this number on: one task of joblib."""
    return [_described(function, per, kind, start + k, given) for k, given in enumerate(structures)]


def _converted(structure: AtomicStructure, kind: str) -> Any:
    """A structure as ASE or pymatgen has it."""
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    if kind == "ase":
        return atoms
    from pymatgen.io.ase import AseAtomsAdaptor

    adaptor = AseAtomsAdaptor()
    return adaptor.get_structure(atoms) if structure.pbc.any() else adaptor.get_molecule(atoms)


def _called(function: Callable[..., Any], place: str, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise ValueError(
            f"function must describe every structure; {_name(function)} raised {type(error).__name__} for "
            f"{place}: {error}. Leave it out, or make the function cope with it."
        ) from error


def _described(
    function: Callable[..., Any], per: str, kind: str, number: int, given: Given
) -> tuple[FloatArray, str]:
    """Rows (n_atoms, n_columns) of a structure, and what is wrong with them ("" if nothing is)."""
    structure, own = given
    asked = _converted(structure, kind) if own is None else own
    place = f"structure {number}"
    none: FloatArray = np.empty((len(structure), 0))
    if per == "site":
        parts = [np.ravel(_called(function, f"{place}, atom {k}", asked, k)) for k in range(len(structure))]
        widths = {len(part) for part in parts}
        if len(widths) > 1:
            listed = [f"{len(part)} numbers for atom {k}" for k, part in enumerate(parts)]
            return none, first_few(listed)
        found: Any = parts
    else:
        found = _called(function, place, asked)
    try:
        rows = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        return none, f"no numbers, but {type(found).__name__}"
    if rows.ndim == 1:
        rows = rows[:, None]
    if rows.ndim != 2 or len(rows) != len(structure):
        return none, f"shape {rows.shape} for {len(structure)} atoms"
    return rows, ""
