"""scikit-learn's own checks on `CycleMomentFeaturizer`.

Its X are structures, so the checks that feed tables cannot apply as they are. The data-free ones are run by
name; all others run on an adapter that reads each row of a table as the displacements of a small crystal.
"""

import numpy as np
import pytest
from ase import Atoms
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from tinynet_sklearn import CycleMomentFeaturizer

DATA_FREE = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]


@pytest.mark.parametrize("name", DATA_FREE)
def test_data_free_checks(name):
    getattr(estimator_checks, name)("CycleMomentFeaturizer", CycleMomentFeaturizer())


class RowsAsStructures(TransformerMixin, BaseEstimator):
    """Each row of a table displaces the atoms of a chain; the vectors of all its atoms are the output."""

    def __init__(self, n=4, N=1, n_jobs=None):
        self.n = n
        self.N = N
        self.n_jobs = n_jobs

    def fit(self, X, y=None):
        X = validate_data(self, X)
        # The chain itself is the reference, so that a fit on fewer rows computes the same vectors.
        self.featurizer_ = CycleMomentFeaturizer(
            self.n, self.N, bonds=3.5, reference=_chain(np.zeros(X.shape[1])), n_jobs=self.n_jobs
        ).fit(_chains(X))
        return self

    def transform(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        return self.featurizer_.transform(_chains(X)).values.reshape(len(X), -1)


def _chain(row):
    n_pairs = len(row)
    positions = np.zeros((2 * n_pairs, 3))
    positions[:, 0] = 2.5 * np.arange(2 * n_pairs)
    positions[::2, 0] += 0.3 * np.tanh(row)
    return Atoms("NaCl" * n_pairs, positions=positions, cell=[5.0 * n_pairs, 8, 9], pbc=[True, False, False])


def _chains(X):
    return [_chain(row) for row in X]


@parametrize_with_checks([RowsAsStructures(), RowsAsStructures(n=2, N=2, n_jobs=2)])
def test_checks_on_structures_made_of_rows(estimator, check):
    check(estimator)
