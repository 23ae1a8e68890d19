"""`ParityDisplay`: what is drawn, and that nothing is left behind."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal

from tinynet_sklearn import ParityDisplay, PerAtomArray
from tinynet_sklearn.plotting import COLORS

SPECIES = [[56, 22, 8, 8, 8]] * 4


@pytest.fixture
def true():
    rng = np.random.default_rng(0)
    return PerAtomArray.from_list(list(rng.normal(size=(4, 5, 3))), species=SPECIES)


@pytest.fixture
def predicted(true):
    return true.with_values(true.values + 0.1)


def points(display):
    """(x, y) of every scatter."""
    return [collection.get_offsets().data for collection in display.ax_.collections]


def test_every_component_is_a_point(true, predicted):
    display = ParityDisplay.from_predictions(true, predicted)
    x, y = np.concatenate(points(display)).T
    assert_array_equal(np.sort(x), np.sort(true.values.ravel()))
    assert_array_equal(np.sort(y), np.sort(predicted.values.ravel()))
    assert [len(p) for p in points(display)] == [36, 12, 12], "the most numerous species lies below"
    assert all(collection.get_rasterized() for collection in display.ax_.collections)


def test_axes_are_equal_and_have_units(true, predicted):
    axes = ParityDisplay.from_predictions(true, predicted).ax_
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_aspect() == 1.0
    assert axes.get_xlabel() == "True force component (eV/Å)"
    assert axes.get_ylabel() == "Predicted force component (eV/Å)"
    assert axes.get_xlim()[0] < true.values.min()
    assert axes.get_xlim()[1] > predicted.values.max()


def test_the_line_is_the_identity(true, predicted):
    (line,) = ParityDisplay.from_predictions(true, predicted).ax_.lines
    assert line.get_slope() == 1.0
    assert line.get_xy1() == (0.0, 0.0)


def test_legend_has_errors_of_each_species_and_of_all(true):
    error = np.where(true.species == 8, 0.3, 0.1)[:, None] * [1.0, -1.0, 1.0]
    display = ParityDisplay.from_predictions(true, true.with_values(true.values + error))
    legend = display.ax_.get_legend()
    rows = [text.get_text().split() for text in legend.get_texts()]
    everything = np.sqrt((3 * 0.3**2 + 2 * 0.1**2) / 5)
    assert rows == [
        ["O", "0.300", "0.300"],
        ["Ti", "0.100", "0.100"],
        ["Ba", "0.100", "0.100"],
        ["all", f"{everything:.3f}", "0.220"],
    ]
    assert legend.get_title().get_text().split() == ["RMSE", "MAE"]
    assert display.errors_["O"] == pytest.approx((0.3, 0.3))


def test_species_keep_their_colours_apart(true, predicted):
    display = ParityDisplay.from_predictions(true, predicted)
    colors = {tuple(c.get_facecolor()[0][:3]) for c in display.ax_.collections}
    assert len(colors) == 3
    assert len(set(COLORS)) == len(COLORS)


def test_rows_and_lists_without_species(true, predicted):
    for y_true, y_pred in [(true.values, predicted.values), (list(true), list(predicted))]:
        display = ParityDisplay.from_predictions(y_true, y_pred)
        assert [text.get_text().split()[0] for text in display.ax_.get_legend().get_texts()] == ["atoms"]


def test_species_may_come_with_the_prediction(true, predicted):
    display = ParityDisplay.from_predictions(list(true), predicted)
    assert list(display.errors_) == ["O", "Ti", "Ba", "all"]


def test_from_estimator_predicts(true, predicted):
    class Estimator:
        def predict(self, X):
            return predicted if X == "structures" else None

    display = ParityDisplay.from_estimator(Estimator(), "structures", true, quantity="charge", unit="e")
    assert display.errors_["all"] == pytest.approx((0.1, 0.1))
    assert display.ax_.get_xlabel() == "True charge (e)"


def test_given_axes_and_styles_are_used(true, predicted):
    axes = Figure().subplots(1, 2)
    display = ParityDisplay.from_predictions(true, predicted, ax=axes[1], scatter_kwargs={"alpha": 1.0})
    assert display.ax_ is axes[1]
    assert display.figure_ is axes[1].figure
    assert {collection.get_alpha() for collection in display.ax_.collections} == {1.0}
    assert display.plot(axes[0]).ax_ is axes[0]


def test_a_single_value_has_room_around_it():
    axes = ParityDisplay.from_predictions(np.array([[2.0]]), np.array([[2.0]])).ax_
    assert axes.get_xlim() == (1.0, 3.0)


def test_other_atoms(true, predicted):
    with pytest.raises(ValueError, match="same atoms") as error:
        ParityDisplay.from_predictions(true, predicted[:2])
    assert str(error.value) == (
        "y_true and y_pred must be of the same atoms and width, got (20, 3) and (10, 3) (rows, columns); "
        "predict the structures that y_true is of."
    )


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="at least one") as error:
        ParityDisplay.from_predictions(np.zeros((0, 3)), np.zeros((0, 3)))
    assert str(error.value) == "y_true must have at least one value, got shape (0, 3)."


def test_values_that_are_not_finite(true):
    values = true.values.copy()
    values[3, 1] = np.nan
    with pytest.raises(ValueError, match="finite") as error:
        ParityDisplay.from_predictions(true, true.with_values(values))
    assert str(error.value) == "y_pred must be finite, got 1 NaN or infinite values of 60."


def test_no_screen_and_no_open_figures(tmp_path):
    """With pyplot never imported, no window can open and no figure stays in its list."""
    code = (
        "import sys, numpy as np\n"
        "from tinynet_sklearn.plotting import ParityDisplay\n"
        "assert 'matplotlib' not in sys.modules\n"
        "display = ParityDisplay.from_predictions(np.eye(3), np.eye(3))\n"
        f"display.figure_.savefig({str(tmp_path / 'parity.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert (tmp_path / "parity.png").stat().st_size > 10_000
