"""`CommitteeRegressor`: several copies of one regressor, trained from different seeds, that vote.

scikit-learn's own ensembles flatten structures into rows; this one leaves X and y to its members, and
averages their `PerAtomArray`.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, _fit_context, clone
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from tinynet_sklearn._validation import described
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.ldos_metrics import r2_of_targets
from tinynet_sklearn.regressor import BPNNRegressor

__all__ = ["CommitteeRegressor"]


class CommitteeRegressor(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    """Fit clones of a regressor from different seeds and average their predictions.

    Small networks end in different minima, depending on where they start. The squared error of their mean is
    never above the average of their squared errors, and where they disagree the data did not decide.

    Parameters
    ----------
    estimator : estimator or None, default=None
        Regressor of per-atom data or of plain tables, or a pipeline that ends in one. It is cloned, never
        fitted itself, and must have a `random_state`, or a part that has one. Its parameters are reached as
        ``estimator__...``. None stands for ``BPNNRegressor()``, without parameters to reach.
    n_estimators : int, default=4
        Number of members.
    n_jobs : int or None, default=None
        Members fitted side by side, in threads unless a joblib backend is set. The result does not depend on
        it. Leave the `n_jobs` of `estimator` at None: each member would start so many workers of its own.
    random_state : int, RandomState instance or None, default=None
        Source of the seeds of the members, which replace every `random_state` in `estimator`. Equal seeds
        give equal fits, and the members of a smaller committee are the first ones of a larger.

    Attributes
    ----------
    estimators_ : list of estimator
        The fitted members.
    n_features_in_ : int
        Number of columns of X, where the members count them.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, if X is a data frame.
    n_outputs_ : int
        Width of the targets, where the members know it.
    target_grid_ : EnergyGrid or None
        Energies of the targets, if they were an `LDOS` and the members know them.

    Notes
    -----
    Behind a featurizer in a pipeline, features are calculated once for all members; a committee of whole
    pipelines repeats them for each.

    With ``early_stopping=True`` every member holds out other structures, so that the committee as a whole
    has trained on nearly all. `warm_start` of the members has no effect, since every `fit` begins with new
    clones.

    The disagreement comes from the seeds alone. It tells where a prediction should not be trusted, but as an
    error bar it is too small: what all members get wrong in the same way (features that lack what decides,
    noise of the labels) does not show.

    An error in one member ends the fit, and what was fitted before stays. BLAS runs on one thread meanwhile.
    Ctrl-C reaches the member in training, which may keep its best weights (`BPNNRegressor` does) and let the
    next one begin; with members side by side it ends the whole fit.

    References
    ----------
    C. Schran, K. Brezina and O. Marsalek, Committee neural network potentials control generalization errors
    and enable active learning, J. Chem. Phys. 153, 104105 (2020).

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import BPNNRegressor, CommitteeRegressor, PerAtomArray
    >>> bond = [np.array([[d], [-d]]) for d in np.linspace(-1, 1, 30)]
    >>> X = PerAtomArray.from_list(bond, species=[[8, 1]] * 30)
    >>> y = [np.sin(d) for d in bond]
    >>> net = BPNNRegressor(hidden_layer_sizes=(4,), early_stopping=True)
    >>> committee = CommitteeRegressor(net, n_estimators=3, random_state=0).fit(X, y)
    >>> mean, std = committee.predict(X, return_std=True)
    >>> std
    <PerAtomArray: 30 structures, 60 atoms, 1 columns, species 1 8, float64, lab frame>
    >>> unknown = X.with_values(X.values + 3)
    >>> bool(committee.predict(unknown, return_std=True)[1].values.mean() > std.values.mean())
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [None, HasMethods(["fit", "predict"])],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [
            None,
            Interval(Integral, None, -1, closed="right"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any = None,
        n_estimators: int = 4,
        *,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.n_estimators = n_estimators
        self.n_jobs = n_jobs
        self.random_state = random_state

    # The estimator is the user's and has not been validated yet, hence nested validation is not skipped.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, **fit_params: Any
    ) -> CommitteeRegressor:
        """Fit the members.

        Parameters
        ----------
        X : PerAtomArray or array-like of shape (n_samples, n_features)
            Features, or whatever else the members take (pipelines: structures).
        y : PerAtomArray, list of array-like of shape (n_atoms, k) or (n_atoms,), or array-like
            Targets, as the members take them.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each structure, or of each row of a plain table; handed on unless None.
        **fit_params
            Handed on to `fit` of every member, such as ``net__sample_weight`` for pipelines.

        Returns
        -------
        CommitteeRegressor
            The estimator itself.

        Raises
        ------
        ValueError
            If nothing in `estimator` has a `random_state`: all members would be equal.
        """
        if sample_weight is not None:
            fit_params["sample_weight"] = sample_weight
        members = self._seeded_clones()
        # BPNNRegressor sets this limit, which counts for the whole process, and takes it back. In threads,
        # the first member that is done would take it from the others; within an outer limit it takes nothing.
        with threadpool_limits(limits=1, user_api="blas"):
            self.estimators_: list[Any] = Parallel(n_jobs=self.n_jobs, prefer="threads")(
                delayed(_fitted)(member, X, y, fit_params) for member in members
            )
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Average the predictions of the members.

        Parameters
        ----------
        X : PerAtomArray or array-like of shape (n_samples, n_features)
            Features as in `fit`.
        return_std : bool, default=False
            Whether to return the disagreement, too.

        Returns
        -------
        mean : PerAtomArray or ndarray of shape (n_samples,) or (n_samples, k)
            Of the kind that the members give, in the unit of the targets.
        std : PerAtomArray or ndarray of shape (n_samples,) or (n_samples, k)
            Only if `return_std`: the disagreement, the population standard deviation over the members, for
            each component, in the unit of the targets.
        """
        check_is_fitted(self)
        predictions = [member.predict(X) for member in self.estimators_]
        rows = np.stack([np.asarray(prediction) for prediction in predictions])
        mean = _like(predictions[0], rows.mean(axis=0))
        return (mean, _like(predictions[0], rows.std(axis=0))) if return_std else mean

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination R² of the mean over all rows, averaged over the target columns.

        Of an `LDOS`, about the mean curve of each species, all energies together (`ldos_r2`).

        Parameters
        ----------
        X : PerAtomArray or array-like of shape (n_samples, n_features)
            Features as in `fit`.
        y : PerAtomArray, list of array-like, or array-like
            Targets as in `fit`.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each structure, or of each row of a plain table.

        Returns
        -------
        float
        """
        return r2_of_targets(y, self.predict(X), sample_weight)

    @property
    def n_features_in_(self) -> int:
        """Number of columns of X, where the members count them."""
        return int(self.estimators_[0].n_features_in_)

    @property
    def n_outputs_(self) -> int:
        """Width of the targets, where the members know it."""
        return int(self.estimators_[0].n_outputs_)

    @property
    def target_grid_(self) -> EnergyGrid | None:
        """Energies of the targets, if they were an `LDOS` and the members know them."""
        grid: EnergyGrid | None = self.estimators_[0].target_grid_
        return grid

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Names of the columns, if X was a data frame."""
        names: NDArray[np.object_] = self.estimators_[0].feature_names_in_
        return names

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self._estimator())
        tags.input_tags, tags.target_tags = inner.input_tags, inner.target_tags
        return tags

    def _estimator(self) -> Any:
        return BPNNRegressor() if self.estimator is None else self.estimator

    def _seeded_clones(self) -> list[Any]:
        """Unfitted members, each with seeds of its own, drawn one member after the other."""
        estimator = self._estimator()
        parameters = estimator.get_params(deep=True)
        places = sorted(name for name in parameters if name.rpartition("__")[2] == "random_state")
        if not places:
            raise ValueError(
                "estimator must have a random_state, or a part that has one, so that members differ; got "
                f"{described(estimator)}, whose clones would all be equal. Pass a regressor that starts at "
                "random, such as BPNNRegressor()."
            )
        rng = check_random_state(self.random_state)
        largest = np.iinfo(np.int32).max
        return [
            clone(estimator).set_params(**{place: int(rng.randint(largest)) for place in places})
            for _ in range(self.n_estimators)
        ]


def _fitted(member: Any, X: Any, y: Any, fit_params: dict[str, Any]) -> Any:
    return member.fit(X, y, **fit_params)


def _like(prediction: Any, values: NDArray[Any]) -> Any:
    return prediction.with_values(values) if isinstance(prediction, PerAtomArray) else values
