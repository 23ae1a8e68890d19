"""`MultiTargetRegressor`: several regressors on the same features, such as one of forces and one of the LDOS.

What an embedding can tell of atoms, it may tell all at once: a pipeline makes the features once for all of
its regressors. (The compiled path of `TinyNetCalculator` evaluates one regressor after the other.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.utils import Bunch
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import described
from tinynet_sklearn.target_sets import TargetSet

__all__ = ["MultiTargetRegressor", "predicts_energy", "target_scorer"]


def predicts_energy(regressor: Any) -> bool:
    """Whether a regressor knows energies: ``predict(X, output="all")``."""
    return "output" in inspect.signature(regressor.predict).parameters


def target_scorer(name: str, scorer: Callable[[Any, Any, Any], float]) -> Callable[[Any, Any, Any], float]:
    """Scorer of a `MultiTargetRegressor`, or a pipeline that ends in one, by one kind of its targets.

    Parameters
    ----------
    name : str
        Of the targets.
    scorer : callable
        Scorer of a regressor of these targets alone, such as ``ldos_rmse_scorer``.

    Returns
    -------
    callable
        For ``GridSearchCV(scoring=...)`` and ``cross_validate``, with a `TargetSet` as y.

    Examples
    --------
    >>> from tinynet_sklearn.ldos_metrics import ldos_rmse_scorer
    >>> from tinynet_sklearn.metrics import force_rmse_scorer
    >>> scoring = {
    ...     "forces": target_scorer("forces", force_rmse_scorer),
    ...     "ldos": target_scorer("ldos", ldos_rmse_scorer),
    ... }
    """
    return _TargetScorer(name, scorer)


class _TargetScorer:
    """What `target_scorer` returns; a class, so that workers can be sent it."""

    def __init__(self, name: str, scorer: Callable[[Any, Any, Any], float]) -> None:
        self.name, self.scorer = name, scorer

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        return float(self.scorer(_OneOf(estimator, self.name), X, y[self.name]))


class _OneOf(RegressorMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """One kind of predictions of a fitted estimator, as scorers want it."""

    def __init__(self, estimator: Any, name: str) -> None:
        self.estimator = estimator
        self.name = name

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> Any:
        return self.estimator.predict(X)[self.name]


class MultiTargetRegressor(MultiOutputMixin, RegressorMixin, _BaseComposition):  # type: ignore[misc, unused-ignore]
    """Several regressors, one for each kind of targets, on the same features.

    The last step of a pipeline whose features are made once. `TinyNetCalculator` gives the results of all
    regressors in one call: ``results["forces"]`` and ``results["ldos"]``.

    Parameters
    ----------
    regressors : list of (str, estimator)
        Name of the targets, as in the `TargetSet` of `fit`, and what learns them: `BPNNRegressor`,
        `BPNNPotential` or another regressor of per-atom data. Parameters are reached as ``forces__max_iter``.

    Attributes
    ----------
    regressors_ : list of estimators
        Fitted clones, in the order of `regressors`.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, MultiTargetRegressor, TargetSet
    >>> from tinynet_sklearn import load_moo3
    >>> data, ldos = load_moo3(), load_moo3("ldos").target
    >>> quick = {"max_iter": 2, "random_state": 0}
    >>> model = make_pipeline(
    ...     CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds),
    ...     MultiTargetRegressor([("forces", BPNNRegressor(**quick)), ("ldos", BPNNRegressor(**quick))]),
    ... )
    >>> targets = TargetSet(forces=data.target, ldos=ldos)
    >>> import warnings
    >>> with warnings.catch_warnings():  # two iterations are not many
    ...     warnings.simplefilter("ignore")
    ...     model = model.fit(data.structures[:20], targets[:20])
    >>> model.predict(data.structures[20:22])
    <TargetSet: 2 structures, forces, ldos>
    """

    def __init__(self, regressors: Sequence[tuple[str, Any]]) -> None:
        self.regressors = regressors

    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> MultiTargetRegressor:
        """Fit all regressors, one after the other.

        Parameters
        ----------
        X : PerAtomArray
            Features.
        y : TargetSet or mapping
            With the name of every regressor.
        sample_weight, groups : array-like of shape (n_structures,) or None, default=None
            Handed on to all regressors, unless None.

        Returns
        -------
        MultiTargetRegressor
            The estimator itself.

        Raises
        ------
        TypeError
            If y is no mapping, or `regressors` no list of names and estimators.
        ValueError
            If names are missing or given twice.
        """
        self._check_regressors()
        self._check_targets(y)
        extra = {"sample_weight": sample_weight, "groups": groups}
        given = {name: value for name, value in extra.items() if value is not None}
        fitted = [clone(regressor).fit(X, y[name], **given) for name, regressor in self.regressors]
        self.regressors_: list[Any] = fitted
        return self

    def predict(self, X: Any) -> TargetSet:
        """Predict all targets.

        Parameters
        ----------
        X : PerAtomArray
            Features.

        Returns
        -------
        TargetSet
            Under the names of the regressors; of a `BPNNPotential`, `PotentialTargets`.
        """
        check_is_fitted(self)
        found = {}
        for (name, _), regressor in zip(self.regressors, self.regressors_, strict=True):
            wanted = {"output": "all"} if predicts_energy(regressor) else {}
            found[name] = regressor.predict(X, **wanted)
        return TargetSet(**found)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Mean of the scores of the regressors.

        Parameters
        ----------
        X : PerAtomArray
            Features.
        y : TargetSet or mapping
            Targets as in `fit`.
        sample_weight : array-like of shape (n_structures,) or None, default=None
            Weights as in `fit`.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        self._check_targets(y)
        parts = zip(self.regressors, self.regressors_, strict=True)
        return float(np.mean([part.score(X, y[name], sample_weight) for (name, _), part in parts]))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of this estimator and of the regressors in it.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return those of the regressors, as ``name__parameter``.

        Returns
        -------
        dict
        """
        found: dict[str, Any] = self._get_params("regressors", deep=deep)
        return found

    def set_params(self, **parameters: Any) -> MultiTargetRegressor:
        """Set parameters of this estimator or of the regressors in it.

        Parameters
        ----------
        **parameters
            Such as ``forces__max_iter=200``, or ``forces=BPNNPotential()``.

        Returns
        -------
        MultiTargetRegressor
            The estimator itself.
        """
        self._set_params("regressors", **parameters)
        return self

    @property
    def named_regressors_(self) -> Bunch:
        """The fitted regressors by name."""
        check_is_fitted(self)
        parts = zip(self.regressors, self.regressors_, strict=True)
        return Bunch(**{name: part for (name, _), part in parts})

    @property
    def n_features_in_(self) -> int:
        """Number of columns of X."""
        return int(self.regressors_[0].n_features_in_)

    def _check_targets(self, y: Any) -> None:
        if not isinstance(y, Mapping):
            raise TypeError(
                f"y must be a TargetSet with {self._names_in_words()}; got {described(y)}. Write "
                "TargetSet(forces=..., ldos=...)."
            )
        missing = [name for name, _ in self.regressors if name not in y]
        if missing:
            raise ValueError(
                f"y must have targets for every regressor, {self._names_in_words()}; got "
                f"{', '.join(map(repr, y)) or 'none'}. Add {', '.join(map(repr, missing))}, or leave the "
                "regressor out."
            )

    def _names_in_words(self) -> str:
        return ", ".join(repr(name) for name, _ in self.regressors)

    def _check_regressors(self) -> None:
        given = self.regressors
        pairs = isinstance(given, list | tuple) and all(
            isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in given
        )
        if not pairs or not given:
            raise TypeError(
                "regressors must be a list of (name, estimator), such as [('forces', BPNNRegressor()), "
                f"('ldos', BPNNRegressor())]; got {described(given)}."
            )
        self._validate_names([name for name, _ in given])
