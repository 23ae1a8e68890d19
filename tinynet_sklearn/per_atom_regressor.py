"""`PerAtomRegressor`: regressors of tables, put to work on the rows of a `PerAtomArray`."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, _fit_context, clone
from sklearn.utils import Tags, get_tags
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from tinynet_sklearn._validation import described, first_few, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.ldos import LDOS
from tinynet_sklearn.ldos_metrics import r2_of_targets
from tinynet_sklearn.rows import check_finite, check_structure_weights, per_atom_targets, refuse_structures

__all__ = ["PerAtomRegressor"]

#: What to warn of where no column can point anywhere.
BLIND = (
    "y has 3 columns, as forces have, but the columns of X do not change when a structure is turned, and it "
    "carries no site frames: no direction can be learned from them. Use CycleMomentFeaturizer(frame='site'), "
    "or BPNNRegressor, which combines vectors; if the three columns are no vector, target='scalar' silences "
    "this."
)


class PerAtomRegressor(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    """Fit a regressor of tables to the rows, one per atom, of a `PerAtomArray`.

    The regressors of scikit-learn expect one row per sample. Here a sample is a structure and a row an atom;
    this hands the rows over and puts structures around the predictions again. What `BPNNRegressor` is for
    networks, it is for ridges, kernels, forests and the rest: the same X and y, the same score.

    Parameters
    ----------
    estimator : estimator
        Any regressor of two-dimensional arrays, or a pipeline that ends in one. It is cloned, never fitted
        itself. Its parameters are reached as ``estimator__...``. Targets of several columns (forces, curves)
        need one that takes several; wrap others into ``MultiOutputRegressor``.
    per_species : bool, default=False
        Fit one clone for each species, on the rows of that species.
    target : {"auto", "vector", "scalar"}, default="auto"
        Whether targets are vectors. They are learned in the site frames of the features and turned back, so
        that atoms that the crystal makes equivalent teach the same model. "auto": if they are 3 wide and X
        carries site frames.

    Attributes
    ----------
    estimator_ : estimator
        The fitted regressor; only if `per_species` is False.
    estimators_ : dict of int to estimator
        The fitted regressor of each atomic number; only if `per_species` is True.
    n_features_in_ : int
        Number of columns of X.
    n_outputs_ : int
        Width of the targets.
    target_grid_ : EnergyGrid or None
        Energies of the targets, if they were an `LDOS`; predictions then are, too.
    target_is_vector_ : bool
        Whether the targets were learned as vectors.

    Notes
    -----
    Predictions are not averaged over the operations of the site groups, as those of `BPNNRegressor` are. Nor
    are the vectors beside the columns (``X.vectors``) used.

    Most regressors want columns of like scale: put ``PerAtom(StandardScaler())`` before this one.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from tinynet_sklearn import PerAtomArray
    >>> from tinynet_sklearn.per_atom_regressor import PerAtomRegressor
    >>> X = PerAtomArray.from_list([[[1.0], [3.0]], [[2.0], [8.0], [5.0]]], species=[[8, 8], [8, 1, 1]])
    >>> y = PerAtomArray.from_list([2 * rows for rows in X])
    >>> PerAtomRegressor(Ridge(alpha=1e-9)).fit(X, y).predict(X[[1]])
    <PerAtomArray: 1 structures, 3 atoms, 1 columns, species 1 8, float64, lab frame>
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "per_species": ["boolean"],
        "target": [StrOptions({"auto", "vector", "scalar"})],
    }

    def __init__(self, estimator: Any, per_species: bool = False, target: str = "auto") -> None:
        self.estimator = estimator
        self.per_species = per_species
        self.target = target

    # The estimator is the user's and has not been validated yet, hence nested validation is not skipped.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: PerAtomArray, y: Any, sample_weight: ArrayLike | None = None) -> PerAtomRegressor:
        """Fit the regressor to the rows.

        Parameters
        ----------
        X : PerAtomArray of shape (n_structures, n_features)
            Features per atom.
        y : PerAtomArray, LDOS, or list of array-like of shape (n_atoms, k) or (n_atoms,)
            Targets of the same atoms, vectors in the laboratory frame (or in that of ``y.frames``).
        sample_weight : array-like of shape (n_structures,) or None, default=None
            Weight of each structure, handed on for each of its atoms. Structures of weight zero are left out.

        Returns
        -------
        self : PerAtomRegressor
            The fitted regressor.

        Raises
        ------
        TypeError
            If X is not a `PerAtomArray`, y is of a kind from which structures cannot be told, or weights are
            given to a regressor that takes none.
        ValueError
            If y does not fit X, a number is not finite, or vectors are not 3 wide.
        """
        X = self._checked(X, reset=True)
        targets = per_atom_targets(y, X)
        grid = y.grid if isinstance(y, LDOS) else None
        vector = self._learns_vectors(X, targets.shape[1], grid)
        framed = vector and X.frames is not None
        if framed and X.frames is not None:
            targets = X.frames.to_frame(targets)
        weight = self._row_weights(sample_weight, X)
        counted = np.ones(len(X.values), dtype=bool) if weight is None else weight > 0

        def fitted(rows: Any) -> Any:
            options = {} if weight is None else {"sample_weight": weight[rows]}
            columns = targets[rows].ravel() if targets.shape[1] == 1 else targets[rows]
            return clone(self.estimator).fit(X.values[rows], columns, **options)

        members: dict[str, Any]
        if self.per_species:
            species = np.unique(X.species[counted])
            members = {"estimators_": {int(z): fitted(counted & (X.species == z)) for z in species}}
        else:
            members = {"estimator_": fitted(counted)}
        # From here on nothing is refused: a fit that fails leaves the last one as it was.
        for name in ("estimator_", "estimators_"):  # a refit with the other per_species leaves no remains
            if hasattr(self, name):
                delattr(self, name)
        for name, value in members.items():
            setattr(self, name, value)
        self._framed = framed
        self.n_outputs_ = int(targets.shape[1])
        self.target_grid_: EnergyGrid | None = grid
        self.target_is_vector_ = vector
        return self

    def predict(self, X: PerAtomArray) -> PerAtomArray:
        """Predict the targets of atoms.

        Parameters
        ----------
        X : PerAtomArray of shape (n_structures, n_features)
            Features as in `fit`.

        Returns
        -------
        PerAtomArray or LDOS
            Of the same atoms, an `LDOS` after a fit to one; vectors in the laboratory frame.

        Raises
        ------
        TypeError
            If X is not a `PerAtomArray`.
        ValueError
            If X holds a species that was not there in `fit` (with ``per_species=True``), or carries no site
            frames where `fit` had them.
        """
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        if self._framed and X.frames is None:
            raise ValueError(
                "X must carry site frames, as it did in fit, to turn predicted vectors back to the "
                "laboratory; got features without frames. Make them with the featurizer that made those for "
                "fit."
            )
        values: FloatArray = np.empty((len(X.values), self.n_outputs_))
        if hasattr(self, "estimators_"):
            self._refuse_unseen_species(X)
            for z in np.unique(X.species):
                rows = X.species == z
                values[rows] = self._columns(self.estimators_[int(z)], X.values[rows])
        else:
            values[:] = self._columns(self.estimator_, X.values)
        if self._framed and X.frames is not None:
            values = X.frames.to_lab(values)
        if self.target_grid_ is not None:
            return LDOS(values, X.offsets, X.species, grid=self.target_grid_)
        return PerAtomArray(values, X.offsets, X.species)

    def score(self, X: PerAtomArray, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination R² over all rows, averaged over the target columns.

        Of an `LDOS`, about the mean curve of each species, all energies together (`ldos_r2`).

        Parameters
        ----------
        X : PerAtomArray of shape (n_structures, n_features)
            Features.
        y : PerAtomArray, LDOS or list of array-like
            Targets as in `fit`.
        sample_weight : array-like of shape (n_structures,) or None, default=None
            Weight of each structure.

        Returns
        -------
        float
        """
        return r2_of_targets(y, self.predict(X), sample_weight)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = inner.input_tags.allow_nan
        tags.target_tags.multi_output = inner.target_tags.multi_output
        tags.non_deterministic = inner.non_deterministic
        return tags

    def _checked(self, X: Any, reset: bool) -> PerAtomArray:
        refuse_structures(X)
        if not isinstance(X, PerAtomArray):
            raise TypeError(
                f"X must be a PerAtomArray for {self._name()}; got {described(X)}. Put it behind a "
                "featurizer, wrap each transformer between them into PerAtom(...), and leave "
                "transform_output at 'default'; a plain table needs no PerAtomRegressor."
            )
        if not len(X.values):
            raise ValueError(
                f"X must hold at least one atom for {self._name()}; got {X!r}. Check how structures were "
                "selected."
            )
        validate_data(self, X, reset=reset, skip_check_array=True)
        if not get_tags(self.estimator).input_tags.allow_nan:
            check_finite(X, "X")
        return X

    def _learns_vectors(self, X: PerAtomArray, width: int, grid: EnergyGrid | None) -> bool:
        if self.target == "vector" and (width != 3 or grid is not None):
            got = "an LDOS" if grid is not None else str(width)
            raise ValueError(
                f"target='vector' needs targets with 3 columns, x, y and z; got {got}. Use target='scalar'."
            )
        if self.target == "scalar" or width != 3 or grid is not None:
            return False
        if X.frames is None and (X.invariant or X.vectors is not None):
            warnings.warn(BLIND, UserWarning, stacklevel=4)  # fit, its validation wrapper, the user
        return self.target == "vector" or X.frames is not None

    def _row_weights(self, sample_weight: ArrayLike | None, X: PerAtomArray) -> FloatArray | None:
        weight = check_structure_weights(sample_weight, len(X))
        if weight is None:
            return None
        if not has_fit_parameter(self.estimator, "sample_weight"):
            raise TypeError(
                f"sample_weight must be None for {self._name()}, whose fit takes no weights. Leave "
                "structures out instead, or choose a regressor that takes them; of a pipeline inside, put "
                "the steps before the regressor outside, in PerAtom(...)."
            )
        per_row: FloatArray = weight[X.structure_of_row]
        return per_row

    def _columns(self, estimator: Any, rows: FloatArray) -> FloatArray:
        """Predictions of a fitted regressor, always in columns."""
        return np.asarray(estimator.predict(rows), dtype=np.float64).reshape(len(rows), self.n_outputs_)

    def _refuse_unseen_species(self, X: PerAtomArray) -> None:
        unseen = np.flatnonzero(~np.isin(X.species, list(self.estimators_)))
        if not len(unseen):
            return
        structures = X.structure_of_row[unseen]
        cases = [
            f"{species_name(X.species[row])} (structure {structure}, atom {row - X.offsets[structure]})"
            for row, structure in zip(unseen, structures, strict=True)
        ]
        seen = ", ".join(species_name(z) for z in sorted(self.estimators_))
        raise ValueError(
            f"X must hold species that {self._name()} was fitted on, {seen}; got {first_few(cases)}. "
            "Fit on structures with all species, or set per_species=False."
        )

    def _name(self) -> str:
        return f"PerAtomRegressor({type(self.estimator).__name__}())"
