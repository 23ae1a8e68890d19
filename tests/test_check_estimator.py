"""scikit-learn's whole suite of checks, on plain tables."""

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from tinynet_sklearn import BPNNRegressor, CommitteeRegressor

#: Checks that cannot pass, each with its reason.
EXPECTED_FAILURES: dict[str, str] = {}


def expected(estimator: Any) -> dict[str, str]:
    return EXPECTED_FAILURES


# The checks fit tiny random tables with the default budget; that some do not converge is no failure.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        BPNNRegressor(random_state=0),
        BPNNRegressor(networks="shared", scaler="minmax", target_scaler=None),
        CommitteeRegressor(BPNNRegressor((8,), max_iter=60), n_estimators=2, random_state=0),
    ],
    expected_failed_checks=expected,
)
def test_scikit_learn_check(estimator, check):
    check(estimator)
