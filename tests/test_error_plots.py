"""`ErrorDistributionDisplay`: what is drawn, and that nothing is left behind."""

import re
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyRegressor

from tinynet_sklearn import PerAtomArray
from tinynet_sklearn.error_plots import ErrorDistributionDisplay
from tinynet_sklearn.plotting import COLORS

SPECIES = [[56, 22, 8, 8, 8]] * 40


@pytest.fixture
def true():
    rng = np.random.default_rng(0)
    return PerAtomArray.from_list(list(rng.normal(size=(40, 5, 3))), species=SPECIES)


@pytest.fixture
def predicted(true):
    errors = np.random.default_rng(1).lognormal(-3.0, 1.0, size=true.values.shape)
    return true.with_values(true.values + errors * (1 + (true.species == 8))[:, None])


def norms(true, predicted, number=None):
    errors = np.linalg.norm(predicted.values - true.values, axis=1)
    return errors if number is None else errors[true.species == number]


def curves(display):
    """Lines of the species, without those that mark shares."""
    return [line for line in display.ax_.lines if len(line.get_xdata()) > 2]


def places(display):
    return [tuple(points.get_offsets().data[0]) for points in display.ax_.collections]


def test_quantiles_are_those_of_the_norms(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true, predicted)
    assert list(display.quantiles_) == ["O", "Ti", "Ba", "all"]
    for name, number in {"O": 8, "Ti": 22, "Ba": 56, "all": None}.items():
        errors = norms(true, predicted, number)
        assert_allclose(display.quantiles_[name], [*np.quantile(errors, [0.5, 0.95]), errors.max()])


def test_components(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true, predicted, kind="component")
    errors = np.abs(predicted.values - true.values)
    assert_allclose(display.quantiles_["all"], [*np.quantile(errors, [0.5, 0.95]), errors.max()])
    assert display.errors["O"].shape == (40 * 3 * 3,)
    assert display.ax_.get_xlabel() == "Absolute error of a force component (eV/Å)"
    assert display.ax_.get_ylabel() == "Components with smaller errors"


def test_the_cumulative_curve_rises_by_one_error_at_a_time(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true, predicted)
    errors = np.sort(norms(true, predicted, 22))
    x, y = curves(display)[1].get_data()
    low, high = display.ax_.get_xlim()
    assert_allclose(x[1:-1], np.clip(errors, low, None))
    assert_allclose(y[1:-1], np.arange(1, 41) / 40)
    assert (x[0], y[0], y[-1]) == (low, 0.0, 1.0)
    assert_allclose(x[-1], high)
    assert high > errors.max()
    assert curves(display)[1].get_drawstyle() == "steps-post"
    assert display.ax_.get_xscale() == "log"
    assert display.ax_.get_ylabel() == "Atoms with smaller errors"
    assert display.ax_.get_xlabel() == "Norm of the force error (eV/Å)"


def test_median_and_95_percent_are_marked_on_the_curves(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true, predicted)
    wanted = [
        (display.quantiles_[name][k], share)
        for name in ("O", "Ti", "Ba")
        for k, share in ((0, 0.5), (1, 0.95))
    ]
    assert_allclose(places(display), wanted)
    guides = [line.get_ydata()[0] for line in display.ax_.lines if len(line.get_xdata()) == 2]
    assert guides == [0.5, 0.95]
    faces = [matplotlib.colors.to_hex(points.get_facecolor()[0]) for points in display.ax_.collections]
    assert faces[:2] == [COLORS[0].lower(), "#ffffff"]


def test_the_histogram_holds_all_errors(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true, predicted, style="histogram")
    for line, number in zip(curves(display), (8, 22, 56), strict=True):
        x, y = line.get_data()
        errors = np.clip(norms(true, predicted, number), x[0], x[-1])
        assert y.sum() == pytest.approx(1.0)
        assert_allclose(y[:-1], np.histogram(errors, x)[0] / len(errors))
        assert_allclose(np.diff(np.log10(x)), 1 / 8)
    for (x, y), line in zip(places(display)[::2], curves(display), strict=True):
        edges, heights = line.get_data()
        assert y == heights[np.flatnonzero(edges <= x)[-1]]
    assert display.ax_.get_ylabel() == "Share of atoms in a bin"


def test_curves_differ_in_more_than_colour(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true, predicted)
    assert len({line.get_linestyle() for line in curves(display)}) == 3
    assert len({line.get_color() for line in curves(display)}) == 3
    assert len({points.get_paths()[0].vertices.tobytes() for points in display.ax_.collections}) == 3


def test_the_legend_has_the_numbers(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true, predicted)
    legend = display.ax_.get_legend()
    rows = [text.get_text().split() for text in legend.get_texts()]
    wanted = [[name, *(f"{x:.3f}" for x in numbers)] for name, numbers in display.quantiles_.items()]
    assert rows == wanted
    assert legend.get_title().get_text().split() == ["median", "95", "%", "max"]


def test_the_legend_hides_nothing(true, predicted):
    ax = Figure(layout="constrained", figsize=(3.5, 3)).subplots()
    ErrorDistributionDisplay.from_predictions(true, predicted, ax=ax)
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1 - 1


def test_one_species_needs_no_line_for_all(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true.values, predicted.values)
    assert [text.get_text().split()[0] for text in display.ax_.get_legend().get_texts()] == ["atoms"]
    assert list(display.quantiles_) == ["atoms", "all"]


@pytest.mark.parametrize("style", ["cumulative", "histogram"])
def test_no_errors_at_all(true, style):
    display = ErrorDistributionDisplay.from_predictions(true, true, style=style)
    display.figure_.draw_without_rendering()
    assert display.quantiles_["all"] == (0.0, 0.0, 0.0)
    assert np.isfinite(places(display)).all()


@pytest.mark.parametrize("style", ["cumulative", "histogram"])
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_equal_errors_of_any_size(true, style, size):
    display = ErrorDistributionDisplay.from_predictions(
        true.with_values(np.zeros_like(true.values)),
        true.with_values(np.full_like(true.values, size)),
        style=style,
    )
    display.figure_.draw_without_rendering()
    low, high = display.ax_.get_xlim()
    assert low < np.sqrt(3) * size < high


def test_few_exact_atoms_do_not_stretch_the_axis(true, predicted):
    values = predicted.values.copy()
    values[:3] = true.values[:3]
    display = ErrorDistributionDisplay.from_predictions(true, predicted.with_values(values))
    low, high = display.ax_.get_xlim()
    assert high / low < 1e5


@pytest.mark.parametrize("style", ["cumulative", "histogram"])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e7])
def test_one_wild_error_does_not_push_the_others_off_the_axis(true, predicted, style, size):
    values = predicted.values.copy()
    values[7] += size
    wild = predicted.with_values(values)
    display = ErrorDistributionDisplay.from_predictions(true, wild, style=style)
    low, high = display.ax_.get_xlim()
    errors = norms(true, wild)
    assert np.mean(errors < low) <= 0.01, "the first percentile and what is above it are seen"
    assert high > errors.max() > size
    for name, place in zip(("O", "Ti", "Ba"), places(display)[::2], strict=True):
        assert_allclose(place[0], display.quantiles_[name][0])
        assert place[0] > 3 * low
    assert all(np.ptp(line.get_ydata()[line.get_xdata() < 10.0]) > 0.1 for line in curves(display))


def test_a_species_that_failed_leaves_the_others_on_the_axis(true, predicted):
    values = predicted.values.copy()
    values[true.species == 22] *= 1e6
    display = ErrorDistributionDisplay.from_predictions(true, predicted.with_values(values))
    low, high = display.ax_.get_xlim()
    assert low < 0.5 * display.quantiles_["O"][0]
    assert high > display.quantiles_["Ti"][2]


@pytest.mark.parametrize("rounding", [0.0, 1e-16])
def test_atoms_without_an_error_do_not_stretch_the_axis(true, predicted, rounding):
    """As those whose forces vanish by symmetry, here most of them."""
    values = predicted.values.copy()
    values[true.species == 8] = true.values[true.species == 8] + rounding
    display = ErrorDistributionDisplay.from_predictions(true, predicted.with_values(values))
    low, high = display.ax_.get_xlim()
    assert low < 0.1 * display.quantiles_["Ti"][0]
    assert high / low < 1e6


def test_many_species(true):
    numbers = np.repeat(np.arange(1, 31), 4)
    rng = np.random.default_rng(0)
    many = PerAtomArray(rng.normal(size=(120, 3)), [0, 120], numbers)
    errors = rng.normal(size=(120, 3))
    display = ErrorDistributionDisplay.from_predictions(many, many.with_values(many.values + errors))
    lines = curves(display)
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}) == 30
    marks = display.ax_.collections[::2]
    shapes = {(tuple(m.get_edgecolor()[0]), m.get_paths()[0].vertices.tobytes()) for m in marks}
    assert len(shapes) == 30
    display.figure_.draw_without_rendering()
    legend, frame = display.ax_.get_legend().get_window_extent(), display.ax_.get_window_extent()
    page = display.figure_.bbox
    assert legend.y0 >= frame.y1 - 1
    assert legend.y1 <= page.y1
    assert legend.x1 <= page.x1
    assert frame.height > 2.5 * display.figure_.dpi
    rows = [text.get_text().split() for text in display.ax_.get_legend().get_texts()]
    header = ["median", "95", "%", "max"]
    assert [rows[0], rows[17]] == [header, header], "above each of two columns"
    assert [row[0] for row in rows if row != header] == list(display.quantiles_)


def test_from_estimator_predicts(true):
    X = PerAtomArray.from_list([np.zeros((5, 1))] * 40, species=SPECIES)
    model = DummyRegressor().fit(X.values, true.values)
    display = ErrorDistributionDisplay.from_estimator(model, X.values, true)
    errors = np.linalg.norm(true.values - true.values.mean(axis=0), axis=1)
    assert_allclose(display.quantiles_["all"][2], errors.max())


def test_forces_of_targets_of_several_kinds(true, predicted):
    kinds = [SimpleNamespace(forces=true), SimpleNamespace(forces=predicted)]
    display = ErrorDistributionDisplay.from_predictions(*kinds)
    assert_array_equal(display.errors["Ti"], norms(true, predicted, 22))


def test_it_draws_into_given_axes_and_again(true, predicted):
    ax = Figure(layout="constrained", figsize=(3, 2.4)).subplots()
    display = ErrorDistributionDisplay.from_predictions(
        true, predicted, ax=ax, line_kwargs={"linewidth": 3.0}
    )
    assert display.ax_ is ax
    assert curves(display)[0].get_linewidth() == 3.0
    again = display.plot()
    assert again is display
    assert display.ax_ is not ax
    assert len(curves(display)) == 3
    display.figure_.draw_without_rendering()


def test_words_for_other_quantities(true, predicted):
    display = ErrorDistributionDisplay.from_predictions(true, predicted, quantity="dipole", unit="e Å")
    assert display.ax_.get_xlabel() == "Norm of the dipole error (e Å)"
    display = ErrorDistributionDisplay.from_predictions(true, predicted, quantity="charge", unit="")
    assert display.ax_.get_xlabel() == "Norm of the charge error"


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("kind must be 'norm' or 'component'; got 'both'.", {"kind": "both"}),
        ("style must be 'cumulative' or 'histogram'; got 'violin'.", {"style": "violin"}),
    ],
)
def test_bad_choices(true, predicted, message, options):
    with pytest.raises(ValueError, match=re.escape(message)):
        ErrorDistributionDisplay.from_predictions(true, predicted, **options)


def test_other_atoms(true, predicted):
    message = "y_true and y_pred must hold the same structures; got 40 and 3 of them."
    with pytest.raises(ValueError, match=re.escape(message)):
        ErrorDistributionDisplay.from_predictions(true, predicted[:3])


def test_pyplot_is_not_touched():
    code = (
        "import sys, numpy as np\n"
        "from tinynet_sklearn.error_plots import ErrorDistributionDisplay\n"
        "assert 'matplotlib' not in sys.modules\n"
        "ErrorDistributionDisplay.from_predictions(np.zeros((4, 3)), np.ones((4, 3)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
