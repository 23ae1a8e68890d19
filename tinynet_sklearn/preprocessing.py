"""Transformers of scikit-learn, put to work on the rows of a `PerAtomArray`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context, clone
from sklearn.utils import Tags, get_tags
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import described, first_few, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.targets import as_target

__all__ = ["PerAtom"]


def _transformer_has(method: str) -> Callable[[PerAtom], bool]:
    """Offer a method only where the wrapped transformer has it."""

    def check(self: PerAtom) -> bool:
        getattr(self.transformer, method)  # its AttributeError says what is missing, and where
        return True

    return check


class PerAtom(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Apply a transformer of tables to the rows, one per atom, of a `PerAtomArray`.

    The transformers of scikit-learn expect one row per sample. Here a sample is a structure and a row an
    atom; `PerAtom` hands the rows over and puts structures, species and site frames around the result again.

    Parameters
    ----------
    transformer : estimator
        Any transformer of two-dimensional arrays that keeps the number of rows. It is cloned, never fitted
        itself. Its parameters are reached as ``transformer__...``. If it uses targets, it gets those of its
        rows, of all components (``SelectKBest`` takes one).
    per_species : bool, default=False
        Fit one clone for each species, on the rows of that species. All must give the same number of columns.

    Attributes
    ----------
    transformer_ : estimator
        The fitted transformer; only if `per_species` is False.
    transformers_ : dict of int to estimator
        The fitted transformer of each atomic number; only if `per_species` is True.
    n_features_in_ : int
        Number of columns seen in `fit`.

    Notes
    -----
    The result keeps the rotations and site classes of ``X.frames``, so that vector targets still find their
    way back to the laboratory, but not its `ColumnSymmetry`: after scaling or mixing, the operations of a
    site group no longer act on the columns as permutations and rotations.

    ``set_output`` is not offered and the global ``transform_output`` is ignored, since a data frame has no
    place for structures.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import StandardScaler
    >>> from tinynet_sklearn import PerAtom, PerAtomArray
    >>> X = PerAtomArray.from_list([[[1.0], [3.0]], [[2.0], [8.0], [5.0]]], species=[[8, 8], [8, 1, 1]])
    >>> np.asarray(PerAtom(StandardScaler(with_std=False), per_species=True).fit_transform(X)).ravel()
    array([-1. ,  1. ,  0. ,  1.5, -1.5])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "transformer": [HasMethods(["fit", "transform"])],
        "per_species": ["boolean"],
    }

    def __init__(self, transformer: Any, per_species: bool = False) -> None:
        self.transformer = transformer
        self.per_species = per_species

    # The transformer is the user's and has not been validated yet, hence nested validation is not skipped.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: PerAtomArray, y: Any = None) -> PerAtom:
        """Fit the transformer to the rows.

        Parameters
        ----------
        X : PerAtomArray of shape (n_structures, n_features)
            Features per atom.
        y : PerAtomArray or list of arrays of shape (n_atoms, k), default=None
            Targets per atom, handed on row by row. Targets of another kind, such as energies per structure,
            are withheld from the transformer, and refused if it requires any.

        Returns
        -------
        self : PerAtom
            The fitted transformer.

        Raises
        ------
        TypeError
            If `X` is not a `PerAtomArray`.
        """
        X = self._checked(X)
        targets = self._row_targets(y, X)
        for name in ("transformer_", "transformers_"):  # a refit with the other per_species leaves no remains
            if hasattr(self, name):
                delattr(self, name)
        if self.per_species:
            self.transformers_ = {
                int(z): self._fitted_clone(X.values[rows], None if targets is None else targets[rows])
                for z, rows in _rows_by_species(X)
            }
        else:
            self.transformer_ = self._fitted_clone(X.values, targets)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: PerAtomArray) -> PerAtomArray:
        """Transform the rows.

        Parameters
        ----------
        X : PerAtomArray of shape (n_structures, n_features)
            Features per atom.

        Returns
        -------
        PerAtomArray of shape (n_structures, n_features_out)
            The same atoms, with new columns.

        Raises
        ------
        TypeError
            If `X` is not a `PerAtomArray`.
        ValueError
            If `X` holds a species that was not there in `fit` (with ``per_species=True``).
        """
        return self._apply("transform", X)

    @available_if(_transformer_has("inverse_transform"))
    def inverse_transform(self, X: PerAtomArray) -> PerAtomArray:
        """Take the rows back to the columns seen in `fit`.

        Parameters
        ----------
        X : PerAtomArray of shape (n_structures, n_features_out)
            Transformed features per atom.

        Returns
        -------
        PerAtomArray of shape (n_structures, n_features)
            The same atoms, with the former columns.
        """
        return self._apply("inverse_transform", X)

    @available_if(_transformer_has("get_feature_names_out"))
    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Names of the columns that `transform` returns.

        Parameters
        ----------
        input_features : array-like of shape (n_features,), str, default=None
            Names of the columns of `X`; None stands for x0, x1, ...

        Returns
        -------
        ndarray of shape (n_features_out,), str
            The names that the transformer gives. Where the species differ (each may have selected its own
            columns), the column is called after the class of the transformer and its position.
        """
        check_is_fitted(self)
        fitted = list(self.transformers_.values()) if hasattr(self, "transformers_") else [self.transformer_]
        names = np.stack([np.asarray(t.get_feature_names_out(input_features), dtype=object) for t in fitted])
        stem = type(self.transformer).__name__.lower()
        neutral = np.array([f"{stem}{column}" for column in range(names.shape[1])], dtype=object)
        return np.where((names == names[0]).all(axis=0), names[0], neutral)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.transformer)
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = inner.input_tags.allow_nan
        tags.target_tags.required = inner.target_tags.required
        if inner.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = inner.transformer_tags.preserves_dtype
        return tags

    def _row_targets(self, y: Any, X: PerAtomArray) -> FloatArray | None:
        is_per_atom = isinstance(y, PerAtomArray) or (
            isinstance(y, list | tuple) and any(np.ndim(a) == 2 for a in y)
        )
        if y is None or not (is_per_atom or get_tags(self.transformer).target_tags.required):
            return None
        targets = as_target(y, X).values
        return targets.ravel() if targets.shape[1] == 1 else targets

    def _fitted_clone(self, rows: FloatArray, targets: FloatArray | None) -> Any:
        return clone(self.transformer).fit(rows, targets)

    def _apply(self, method: str, X: PerAtomArray) -> PerAtomArray:
        check_is_fitted(self)
        X = self._checked(X)
        if not hasattr(self, "transformers_"):
            return X.with_values(self._dense(getattr(self.transformer_, method)(X.values)))
        self._refuse_unseen_species(X)
        parts = {
            z: self._dense(getattr(self.transformers_[z], method)(X.values[rows]))
            for z, rows in _rows_by_species(X)
        }
        widths = [part.shape[1] for part in parts.values()]
        if len(set(widths)) > 1:
            cases = [f"{n} for {species_name(z)}" for z, n in zip(parts, widths, strict=True)]
            raise ValueError(
                "transformer must give equally many columns for every species; "
                f"{self._name()} gave {', '.join(cases)}. Fix their number, as in PCA(n_components=10), or "
                "set per_species=False."
            )
        values = np.empty((len(X.values), widths[0]), dtype=np.result_type(*parts.values()))
        for z, rows in _rows_by_species(X):
            values[rows] = parts[z]
        return X.with_values(values)

    def _checked(self, X: Any) -> PerAtomArray:
        if not isinstance(X, PerAtomArray):
            raise TypeError(
                f"X must be a PerAtomArray for {self._name()}; got {described(X)}. Put it after a "
                "featurizer, wrap each transformer between them into PerAtom(...) too, and leave "
                "transform_output at 'default'."
            )
        if not len(X.values):
            raise ValueError(
                f"X must hold at least one atom for {self._name()}; got {X!r}. Check how structures were "
                "selected."
            )
        return X

    def _refuse_unseen_species(self, X: PerAtomArray) -> None:
        unseen = np.flatnonzero(~np.isin(X.species, list(self.transformers_)))
        if not len(unseen):
            return
        structures = X.structure_of_row[unseen]
        cases = [
            f"{species_name(X.species[row])} (structure {structure}, atom {row - X.offsets[structure]})"
            for row, structure in zip(unseen, structures, strict=True)
        ]
        seen = ", ".join(species_name(z) for z in sorted(self.transformers_))
        raise ValueError(
            f"X must hold species that {self._name()} was fitted on, {seen}; got {first_few(cases)}. "
            "Fit on structures with all species, or set per_species=False."
        )

    def _dense(self, values: Any) -> FloatArray:
        if hasattr(values, "toarray"):
            raise TypeError(
                f"transformer must return a dense array; {self._name()} got {described(values)}. Ask for a "
                "dense one, usually with sparse_output=False."
            )
        return np.asarray(values)

    def _name(self) -> str:
        return f"PerAtom({type(self.transformer).__name__}())"


def _rows_by_species(X: PerAtomArray) -> Iterator[tuple[int, IntArray]]:
    for number in np.unique(X.species):
        yield int(number), np.flatnonzero(X.species == number)
