"""Errors of potentials and their scorers."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from tinynet_sklearn import BPNNPotential, PerAtomArray, PotentialTargets, potential_metrics
from tinynet_sklearn.potential_metrics import (
    energy_mae,
    energy_mae_scorer,
    energy_rmse,
    potential_force_mae_scorer,
    potential_force_rmse_scorer,
    stress_rmse,
    stress_rmse_scorer,
)

SCORERS = [
    energy_mae_scorer,
    potential_force_mae_scorer,
    potential_force_rmse_scorer,
    stress_rmse_scorer,
]


def pair():
    """Three structures of 1, 2 and 3 atoms; of the last, little is known."""
    species = [[8], [8, 1], [8, 1, 1]]
    true = PerAtomArray.from_list([np.zeros((len(s), 3)) for s in species], species=species)
    true.values[3:] = np.nan
    predicted = true.with_values(np.tile([3.0, 4.0, -5.0], (6, 1)))
    stress = np.zeros((3, 6))
    stress[2], stress[0, 0] = np.nan, 1.0
    return (
        PotentialTargets([1.0, 2.0, np.nan], true, stress),
        PotentialTargets([1.5, 0.0, 7.0], predicted, np.full((3, 6), 0.5)),
    )


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


def test_energies_are_compared_per_atom():
    true, predicted = pair()
    assert energy_mae(true, predicted) == pytest.approx((0.5 + 1.0) / 2)
    assert energy_rmse(true, predicted) == pytest.approx(np.sqrt((0.25 + 1.0) / 2))
    alone = PotentialTargets(predicted.energy)
    assert energy_mae(true, alone) == pytest.approx(0.75)  # forces of either say how many atoms there are


def test_stresses_are_compared_component_by_component():
    assert stress_rmse(*pair()) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scorer", "error"),
    [
        (energy_mae_scorer, 0.75),
        (stress_rmse_scorer, 0.5),
        (potential_force_mae_scorer, 4.0),
        (potential_force_rmse_scorer, np.sqrt(50 / 3)),
    ],
)
def test_scorers_negate_errors(scorer, error):
    true, predicted = pair()
    asked = []
    model = SimpleNamespace(predict=lambda X, output: asked.append(output) or predicted)
    X = true.forces.with_values(np.zeros((6, 2)))
    assert scorer(model, X, true) == pytest.approx(-error)
    assert asked == ["all"]


@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_have_names_and_can_be_sent_to_other_processes(scorer):
    name = repr(scorer)
    assert getattr(potential_metrics, name) is scorer
    assert name in potential_metrics.__all__
    true, predicted = pair()
    model = SimpleNamespace(predict=lambda X, output: predicted)
    X = true.forces.with_values(np.zeros((6, 2)))
    copy = pickle.loads(pickle.dumps(scorer))
    assert_allclose(copy(model, X, true), scorer(model, X, true))
    assert repr(clone(GridSearchCV(BPNNPotential(), {}, scoring=scorer)).scoring) == name


def test_predictions_that_are_not_finite_are_not_passed_over():
    true, predicted = pair()
    predicted.energy[0] = np.nan
    assert np.isnan(energy_mae(true, predicted))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            lambda true, predicted: energy_mae(PotentialTargets(forces=true.forces), predicted),
            "y_true and y_pred must have energy; y_true is <PotentialTargets: 3 structures, forces>.",
        ),
        (
            lambda true, predicted: stress_rmse(true, PotentialTargets(predicted.energy)),
            "y_true and y_pred must have stress; y_pred is <PotentialTargets: 3 structures, energy>.",
        ),
        (
            lambda true, predicted: energy_rmse(true, predicted[:2]),
            "y_true and y_pred must be of the same structures; got 3 and 2.",
        ),
        (
            lambda true, predicted: energy_mae(
                PotentialTargets(true.energy), PotentialTargets(predicted.energy)
            ),
            "y_true or y_pred must have forces, from which the number of atoms is known; got none. Take "
            "y_pred from predict(X, output='all').",
        ),
        (
            lambda true, predicted: energy_mae(true[2:], predicted[2:]),
            "y_true must hold known energy of at least one structure; got NaN for all 1. Score on structures "
            "that have references.",
        ),
    ],
)
def test_what_cannot_be_compared(error, message):
    assert message_of(ValueError, lambda: error(*pair())) == message


def test_what_is_no_target_is_refused():
    known = PotentialTargets(energy=np.zeros(2))
    with pytest.raises(TypeError) as error:
        stress_rmse({"stress": np.zeros((2, 6))}, known)
    assert str(error.value) == (
        "y_true must be PotentialTargets; got dict. Write PotentialTargets(energy=..., forces=..., "
        "stress=...)."
    )
