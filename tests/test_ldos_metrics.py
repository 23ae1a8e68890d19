"""Errors of densities of states: identities, limits, SciPy, and the whole of every message."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import wasserstein_distance
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import GridSearchCV

from tinynet_sklearn import LDOS, EnergyGrid, PerAtomArray
from tinynet_sklearn import ldos_metrics as m
from tinynet_sklearn.curve_report import ldos_report

ENERGIES = np.linspace(-8.0, 8.0, 321)
SPECIES = [[8, 8, 42], [8, 42], [8, 8, 8, 42]]

SCALARS = [
    m.ldos_rmse,
    m.ldos_mae,
    m.ldos_r2,
    m.ldos_wasserstein,
    m.ldos_cosine,
    m.ldos_integral_error,
]


def gaussians(means, widths=0.5, counts=1.0):
    """Normalised peaks (n, n_energies), times numbers of states."""
    means, widths, counts = (
        np.reshape(np.broadcast_to(a, np.shape(means)), (-1, 1)) for a in (means, widths, counts)
    )
    return counts / (widths * np.sqrt(2 * np.pi)) * np.exp(-((ENERGIES - means) ** 2) / (2 * widths**2))


def ldos(rows, energies=ENERGIES, species=SPECIES, **of_grid):
    parts = np.split(np.asarray(rows), np.cumsum([len(s) for s in species])[:-1])
    return LDOS.from_arrays(parts, EnergyGrid(energies, **of_grid), species)


@pytest.fixture
def means():
    return np.random.default_rng(0).uniform(-2, 2, 9)


@pytest.fixture
def true(means):
    widths, counts = np.linspace(0.3, 0.8, 9), np.linspace(1, 3, 9)
    return ldos(gaussians(means, widths, counts) + gaussians(means + 1.5, 0.4))


@pytest.fixture
def predicted(true):
    noise = np.random.default_rng(1).normal(size=true.values.shape)
    return true.with_values(true.values + 0.05 * noise)


def as_kinds(curves):
    return [curves, list(curves), curves.values, PerAtomArray(curves.values, curves.offsets, curves.species)]


# ---- Identities and limits ---------------------------------------------------------------------------------


def test_no_error_without_difference(true):
    found = {metric.__name__: metric(true, true) for metric in SCALARS}
    assert_allclose(list(found.values()), [0.0, 0.0, 1.0, 0.0, 1.0, 0.0], atol=1e-14, err_msg=str(found))
    assert all((errors == 0).all() for errors in m.ldos_moment_errors(true, true).values())


@pytest.mark.parametrize("metric", SCALARS)
def test_all_kinds_of_input_agree(metric, true, predicted):
    expected = metric(true, predicted)
    for other in as_kinds(predicted):
        assert metric(true, other) == pytest.approx(expected)
    if metric is not m.ldos_r2:  # rows alone do not know their species
        for other in as_kinds(true):
            assert metric(other, predicted) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [m.ldos_rmse, m.ldos_mae, m.ldos_wasserstein, m.ldos_cosine])
def test_symmetric_measures(metric, true, predicted):
    assert metric(true, predicted) == pytest.approx(metric(predicted, true))


def test_rmse_and_mae_are_those_of_numpy(true, predicted):
    error = predicted.values - true.values
    assert m.ldos_rmse(true, predicted) == pytest.approx(np.sqrt(np.mean(error**2)))
    assert m.ldos_mae(true, predicted) == pytest.approx(np.mean(np.abs(error)))


@pytest.mark.parametrize("shift", [0.05, -0.5, 2.0])
def test_shifted_curves_are_as_far_apart_as_the_shift(means, shift):
    assert m.ldos_wasserstein(ldos(gaussians(means)), gaussians(means + shift)) == pytest.approx(abs(shift))


def test_wasserstein_is_that_of_scipy(true, predicted):
    inside = np.ones(len(ENERGIES))
    inside[[0, -1]] = 0.5
    expected = [
        wasserstein_distance(ENERGIES, ENERGIES, inside * a, inside * np.maximum(b, 0.0))
        for a, b in zip(true.values, predicted.values, strict=True)
    ]
    assert m.ldos_wasserstein(true, predicted) == pytest.approx(np.mean(expected), rel=1e-10)


def test_wasserstein_and_cosine_do_not_see_the_number_of_states(true, predicted):
    assert m.ldos_wasserstein(true, 3.0 * predicted) == pytest.approx(m.ldos_wasserstein(true, predicted))
    assert m.ldos_cosine(true, 3.0 * predicted) == pytest.approx(m.ldos_cosine(true, predicted))


@pytest.mark.parametrize("factor", [0.7, 1.25])
def test_scaled_curves_have_scaled_numbers_of_states(true, factor):
    assert m.ldos_integral_error(true, factor * true) == pytest.approx(abs(factor - 1))


def test_cosine_is_the_mean_over_atoms(true, predicted):
    a, b = true.values, predicted.values
    expected = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    assert m.ldos_cosine(true, predicted) == pytest.approx(expected.mean())


def test_inputs_are_left_alone(true, predicted):
    before = true.values.copy(), predicted.values.copy()
    true.values.flags.writeable = predicted.values.flags.writeable = False
    ldos_report(true, predicted, exclude_empty=0.1)
    m.ldos_moment_errors(true, predicted)
    assert (true.values == before[0]).all()
    assert (predicted.values == before[1]).all()


# ---- Curves without states ---------------------------------------------------------------------------------


def test_a_prediction_without_states_counts_as_the_worst(true):
    nothing = true.with_values(np.zeros_like(true.values))
    assert m.ldos_wasserstein(true, nothing) == pytest.approx(16.0)
    assert m.ldos_wasserstein(true, -1.0 * true) == pytest.approx(16.0), "negative values are no states"
    assert m.ldos_cosine(true, nothing) == 0.0
    assert m.ldos_integral_error(true, nothing) == 1.0
    assert np.isinf(m.ldos_moment_errors(true, nothing)["all"]).all()


def test_references_without_states_are_left_out(true, predicted):
    values = true.values.copy()
    values[3:5] = 0.0  # structure 1
    some = true.with_values(values)
    for metric in (m.ldos_wasserstein, m.ldos_cosine, m.ldos_integral_error):
        assert metric(some, predicted) == pytest.approx(metric(true[[0, 2]], predicted[[0, 2]]))
    found, expected = (
        m.ldos_moment_errors(a, b) for a, b in [(some, predicted), (true[[0, 2]], predicted[[0, 2]])]
    )
    for name in ("O", "Mo", "all"):
        assert_allclose(found[name], expected[name])


def test_nothing_to_compare_with_is_nan(true):
    nothing = true.with_values(np.zeros_like(true.values))
    for metric in (m.ldos_r2, m.ldos_wasserstein, m.ldos_cosine, m.ldos_integral_error):
        assert np.isnan(metric(nothing, true))
    assert np.isnan(m.ldos_rmse(nothing, true, exclude_empty=0.0))
    assert np.isnan(m.ldos_moment_errors(nothing, true)["all"]).all()


# ---- R2 and its baseline -----------------------------------------------------------------------------------


def test_mean_of_each_species_has_no_r2(true):
    means = m.ldos_species_means(true)
    assert list(means) == ["O", "Mo"]
    oxygen = true.species == 8
    assert_allclose(means["O"], true.values[oxygen].mean(axis=0))
    mean = np.where(oxygen[:, None], means["O"], means["Mo"])
    assert m.ldos_r2(true, mean) == pytest.approx(0.0, abs=1e-12)
    halfway = (true.values + mean) / 2
    assert m.ldos_r2(true, halfway) == pytest.approx(0.75)


def test_r2_about_the_mean_of_the_training(true, predicted):
    training = true.with_values(true.values + 0.1)
    means = m.ldos_species_means(training)
    by_hand = {"O": means["O"], 42: means["Mo"], "Ti": means["O"]}  # what is not needed may be there
    sst = sum(
        np.sum((true.values[true.species == z] - means[name]) ** 2) for z, name in ((8, "O"), (42, "Mo"))
    )
    expected = 1 - np.sum((predicted.values - true.values) ** 2) / sst
    for baseline in (training, as_kinds(training)[3], means, by_hand):
        assert m.ldos_r2(true, predicted, baseline=baseline) == pytest.approx(expected)
    assert m.ldos_r2(true, predicted) < expected, "about their own mean, squares are least"


def test_r2_of_equal_atoms_is_nan_in_spite_of_rounding():
    same = ldos(np.tile(gaussians([0.3]), (9, 1)))
    assert np.isnan(m.ldos_r2(same, 1.1 * same))


# ---- Windows without states --------------------------------------------------------------------------------


def wider(curves, times=3):
    """The same curves in a window that is empty for the most part."""
    step = ENERGIES[1] - ENERGIES[0]
    more = np.concatenate([ENERGIES, ENERGIES[-1] + step * np.arange(1, times * len(ENERGIES))])
    return curves, ldos(np.pad(curves.values, ((0, 0), (0, len(more) - len(ENERGIES)))), more)


def test_empty_windows_flatter_unless_they_are_excluded(true):
    sharp = true.with_values(np.where(true.values > 1e-3, true.values, 0.0))
    near, far = wider(sharp)
    shorter, longer = wider(sharp.with_values(sharp.values**1.1))
    assert m.ldos_rmse(far, longer) < 0.6 * m.ldos_rmse(near, shorter)
    for metric in (m.ldos_rmse, m.ldos_mae, m.ldos_r2):
        assert metric(far, longer, exclude_empty=0.01) == pytest.approx(
            metric(near, shorter, exclude_empty=0.01)
        )
    for metric in (m.ldos_wasserstein, m.ldos_cosine, m.ldos_integral_error):
        assert metric(far, longer) == pytest.approx(metric(near, shorter))
    a, b = m.ldos_moment_errors(far, longer, 4), m.ldos_moment_errors(near, shorter, 4)
    assert_allclose(a["all"], b["all"], atol=1e-12)


def test_each_species_has_its_own_window():
    """Of Mo, energies count at which Mo has states, whatever O has there."""
    rows = np.zeros((9, len(ENERGIES)))
    numbers = np.concatenate(SPECIES)
    rows[numbers == 8, 100:110] = 2.0
    rows[numbers == 42, 200:220] = 0.1  # below 1 % of nothing but its own peak
    rows[8, 205] = -0.5  # negative values are content, too
    curves = ldos(rows)
    report = ldos_report(curves, curves.with_values(rows + 0.3), exclude_empty=0.01)
    assert report["O"]["counted"] == pytest.approx(10 / len(ENERGIES))
    assert report["Mo"]["counted"] == pytest.approx(20 / len(ENERGIES))
    assert report["all"]["counted"] == pytest.approx((6 * 10 + 3 * 20) / (9 * len(ENERGIES)))
    assert report["all"]["rmse"] == pytest.approx(0.3)


# ---- Moments -----------------------------------------------------------------------------------------------


def test_moments_of_gaussians_are_those_of_the_formula(means):
    """mu_1 is the mean, mu_2 the variance; odd central ones are zero in all atoms, so they have no scale."""
    widths = np.linspace(0.3, 0.8, 9)
    true = ldos(gaussians(means, widths))
    found = m.ldos_moment_errors(true, gaussians(means + 0.1, 1.05 * widths), n=5)["O"]
    of = np.concatenate(SPECIES) == 8
    variances, fourth = widths[of] ** 2, 3 * widths[of] ** 4
    expected = [
        0.1 / means[of].std(),
        np.sqrt(np.mean((variances * (1.05**2 - 1)) ** 2)) / variances.std(),
        np.nan,
        np.sqrt(np.mean((fourth * (1.05**4 - 1)) ** 2)) / fourth.std(),
        np.nan,
    ]
    assert_allclose(found, expected, rtol=1e-6)


def test_moments_about_an_energy(means):
    true = ldos(gaussians(means))
    found = m.ldos_moment_errors(true, gaussians(means + 0.1), n=2, center=1.0)["Mo"]
    of = means[np.concatenate(SPECIES) == 42]
    second = (of - 1.0) ** 2
    change = (of - 0.9) ** 2 - second
    assert_allclose(found, [0.1 / of.std(), np.sqrt(np.mean(change**2)) / second.std()], rtol=1e-6)


def test_mean_moments_have_error_one_and_all_is_the_mean_square(true, predicted):
    errors = m.ldos_moment_errors(true, predicted, n=6)
    assert list(errors) == ["O", "Mo", "all"]
    n_oxygen = np.count_nonzero(true.species == 8)
    mixed = np.sqrt((n_oxygen * errors["O"] ** 2 + (9 - n_oxygen) * errors["Mo"] ** 2) / 9)
    assert_allclose(errors["all"], mixed)

    peaks = gaussians([-1.0, 1.0, 0.0])
    only_mean_moves = ldos(peaks[:2], species=[[8, 8]])
    assert m.ldos_moment_errors(only_mean_moves, peaks[[2, 2]], n=1)["O"] == pytest.approx(1.0)


def test_moments_of_unknown_species_are_of_all(true, predicted):
    anonymous = LDOS(true.values, true.offsets, np.zeros(9, dtype=int), grid=true.grid)
    assert list(m.ldos_moment_errors(anonymous, predicted.values)) == ["all"]
    assert list(m.ldos_moment_errors(anonymous, predicted)) == ["O", "Mo", "all"]


# ---- Report ------------------------------------------------------------------------------------------------


def test_report_has_what_the_functions_give(true, predicted):
    report = ldos_report(true, predicted, baseline=predicted, exclude_empty=0.01)
    assert list(report) == ["O", "Mo", "all"]
    oxygen = true.species == 8
    for name, rows in (("O", oxygen), ("Mo", ~oxygen), ("all", oxygen | ~oxygen)):
        numbers = true.species[rows]
        a, b = (LDOS(y.values[rows], [0, rows.sum()], numbers, grid=y.grid) for y in (true, predicted))
        assert report[name] == pytest.approx(
            {
                "atoms": rows.sum(),
                "counted": report[name]["counted"],
                "rmse": m.ldos_rmse(a, b, exclude_empty=0.01),
                "mae": m.ldos_mae(a, b, exclude_empty=0.01),
                "r2": m.ldos_r2(a, b, baseline=predicted, exclude_empty=0.01),
                "wasserstein": m.ldos_wasserstein(a, b),
                "cosine": m.ldos_cosine(a, b),
                "integral_error": m.ldos_integral_error(a, b),
            }
        )


def test_report_prints_as_a_table(true):
    same = ldos(np.tile(gaussians([0.3]), (9, 1)))
    assert str(ldos_report(same, 1.1 * same)).splitlines() == [
        "      atoms        RMSE         MAE   R2   Wasserstein   cosine   states",
        "              1/eV/atom   1/eV/atom                 eV",
        "O         6      0.0187      0.0062    -        0.0000   1.0000   10.00%",
        "Mo        3      0.0187      0.0062    -        0.0000   1.0000   10.00%",
        "all       9      0.0187      0.0062    -        0.0000   1.0000   10.00%",
    ]
    counted = str(ldos_report(true, 1.1 * true, exclude_empty=0.01)).splitlines()
    assert counted[0].split()[:3] == ["atoms", "counted", "RMSE"]
    assert all(len(line.split()) == 9 for line in counted[2:])


def test_report_without_species_is_of_all(true):
    anonymous = LDOS(true.values, true.offsets, np.zeros(9, dtype=int), grid=true.grid)
    assert list(ldos_report(anonymous, 1.1 * true.values)) == ["all"]


# ---- Scorers -----------------------------------------------------------------------------------------------


class ScaledMean(RegressorMixin, BaseEstimator):
    """Predicts the mean curve of the training, times a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, X, y):
        self.y_ = y
        return self

    def predict(self, X):
        mean = self.y_.values.mean(axis=0)
        low, high = np.where(ENERGIES < 0, mean, 0.0), np.where(ENERGIES < 0, 0.0, mean)
        rows = np.tile(low + self.factor * high, (len(X.values), 1))
        return LDOS(rows, X.offsets, X.species, grid=self.y_.grid)


@pytest.mark.parametrize("name", ["rmse", "r2", "wasserstein"])
def test_scorers_in_a_grid_search(name):
    scorer = getattr(m, f"ldos_{name}_scorer")
    means = np.random.default_rng(2).uniform(-0.5, 0.5, 24)
    y = ldos(gaussians(means), species=[[8, 8]] * 12)
    X = PerAtomArray(np.zeros((24, 2)), y.offsets, y.species)
    search = GridSearchCV(ScaledMean(), {"factor": [5.0, 1.0, 30.0]}, scoring=scorer, cv=3).fit(X, y)
    assert search.best_params_ == {"factor": 1.0}
    sign = 1 if name == "r2" else -1
    expected = sign * getattr(m, f"ldos_{name}")(y, search.best_estimator_.predict(X))
    assert scorer(search.best_estimator_, X, y) == pytest.approx(expected)
    assert pickle.loads(pickle.dumps(scorer))(search.best_estimator_, X, y) == pytest.approx(expected)


# ---- Messages ----------------------------------------------------------------------------------------------

Y = ldos(gaussians(np.zeros(9)))
SHORT = ldos(gaussians(np.zeros(9))[:, :200], ENERGIES[:200])

OTHERS = "321 energies from -8 to 8 eV and 200 from -8 to 1.95 eV"
TOGETHER = "Bring them together with aligned, resampled or broadened."


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: m.ldos_rmse(Y, SHORT),
            f"y_true and y_pred must be on one grid of energies; got {OTHERS}. {TOGETHER}",
        ),
        (
            lambda: m.ldos_mae(Y, ldos(Y.values, zero="vbm")),
            "y_true and y_pred must be on one grid of energies; got energies from the zero of the "
            f"calculation and from the valence band maximum. {TOGETHER}",
        ),
        (
            lambda: m.ldos_rmse(Y, Y.values[:, :200]),
            "y_true and y_pred must have the same rows and columns; got (9, 321) and (9, 200).",
        ),
        (
            lambda: m.ldos_cosine(Y, [[1.0, np.nan]]),
            "y_pred must be finite; got nan in row 1, column 0.",
        ),
        (
            lambda: m.ldos_cosine(np.full((2, 3), np.inf), Y),
            "y_true must be finite; got inf in row 0, column 0; inf in row 0, column 1; inf in row 0, column "
            "2; and 3 more.",
        ),
        (
            lambda: m.ldos_wasserstein(Y.values, list(Y)),
            "y_true or y_pred must be an LDOS, which knows its energies; got ndarray and list. Write "
            "LDOS.from_arrays(curves, EnergyGrid(energies, width=...), species).",
        ),
        (
            lambda: m.ldos_rmse(Y, Y, exclude_empty=1.0),
            "exclude_empty must be a fraction of the highest peak, from 0 to below 1, or None to count all "
            "energies; got 1.0.",
        ),
        (
            lambda: m.ldos_rmse(Y, Y, exclude_empty="1 %"),
            "exclude_empty must be a fraction of the highest peak, from 0 to below 1, or None to count all "
            "energies; got '1 %'.",
        ),
        (
            lambda: m.ldos_r2(Y, Y, baseline={"O": np.zeros(321)}),
            "baseline must have a mean curve for every species; got none for Mo. Add structures with these "
            "species, or score without baseline.",
        ),
        (
            lambda: m.ldos_r2(Y, Y, baseline={"O": np.zeros(321), 42: [1.0, 2.0]}),
            "baseline must have curves of shape (321,), one value for each energy of y_true; got (2,) for "
            "Mo. Take them from references on the same energies.",
        ),
        (
            lambda: m.ldos_r2(Y, Y, baseline=SHORT),
            f"baseline must be on the grid of y_true and y_pred; got {OTHERS}, the latter in baseline. "
            f"{TOGETHER}",
        ),
        (
            lambda: m.ldos_moment_errors(Y, Y, center="median"),
            "center must be an energy in eV or 'mean'; got 'median'.",
        ),
        (
            lambda: m.ldos_moment_errors(Y, Y, n=0),
            "n must be a positive whole number; got 0.",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        call()
    assert str(error.value) == message


def test_message_of_a_baseline_of_another_kind():
    with pytest.raises(TypeError) as error:
        m.ldos_r2(Y, Y, baseline=Y.values)
    assert str(error.value) == (
        "baseline must be an LDOS to take means from, or a dict of mean curves by species; got ndarray of "
        "shape (9, 321). Pass the references of the training, or ldos_species_means of them."
    )
