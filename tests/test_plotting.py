"""`ParityDisplay`, `LossCurveDisplay`: what is drawn, and that nothing is left behind."""

import subprocess
import sys

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CycleMomentFeaturizer,
    LossCurveDisplay,
    ParityDisplay,
    PerAtomArray,
    SiteFrames,
    load_batio3,
)
from tinynet_sklearn.frames import ColumnSymmetry
from tinynet_sklearn.plotting import COLORS, MARKERS, entry_look

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


def test_looks_of_many_species_are_distinct_in_colour_and_in_grey():
    looks = [entry_look(k) for k in range(56)]
    assert len({(look.color, look.marker) for look in looks}) == 56
    assert len({(look.color, look.linestyle) for look in looks}) == 56
    shades = [np.dot([0.299, 0.587, 0.114], matplotlib.colors.to_rgb(look.color)) for look in looks]
    markers = [look.marker for look in looks[:20]]
    alike = [(i, j) for j in range(20) for i in range(j) if markers[i] == markers[j]]
    assert min(abs(shades[i] - shades[j]) for i, j in alike) > 0.05, "one marker in two greys"


@pytest.mark.parametrize("n_species", [8, 30])
def test_many_species_are_told_apart_and_named_beside_the_axes(n_species):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3 * n_species, 3))
    true = PerAtomArray(values, [0, len(values)], np.repeat(np.arange(1, n_species + 1), 3))
    display = ParityDisplay.from_predictions(true, true.with_values(values + rng.normal(size=values.shape)))
    looks = {
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in display.ax_.collections
    }
    assert len(looks) == n_species
    display.figure_.draw_without_rendering()
    legend, frame = display.ax_.get_legend().get_window_extent(), display.ax_.get_window_extent()
    page = display.figure_.bbox
    assert legend.x0 > frame.x1
    assert page.x0 <= legend.x0 <= legend.x1 <= page.x1
    assert page.y0 <= legend.y0 <= legend.y1 <= page.y1
    assert frame.width > 0.75 * page.height
    words = [text.get_text().split() for text in display.ax_.get_legend().get_texts()]
    assert {word[0] for word in words if word[0] != "RMSE"} == set(display.errors_)


def test_many_species_are_named_within_axes_that_have_no_room_beside():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(36, 3))
    true = PerAtomArray(values, [0, 36], np.repeat(np.arange(1, 13), 3))
    ax = Figure(figsize=(5, 5)).subplots()
    display = ParityDisplay.from_predictions(true, true.with_values(values), ax=ax)
    display.figure_.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x1 < ax.get_window_extent().x1


def test_few_species_are_named_within_the_axes(true, predicted):
    display = ParityDisplay.from_predictions(true, predicted)
    display.figure_.draw_without_rendering()
    legend, frame = display.ax_.get_legend().get_window_extent(), display.ax_.get_window_extent()
    assert legend.x1 < frame.x1


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


# ---- Learning curves ---------------------------------------------------------------------------------------

HISTORY = {
    8: {"loss": [0.9, 0.4, 0.2, 0.1], "validation": [1.0, 0.5, 0.6, 0.7], "time": [0.1, 0.2, 0.3, 0.4]},
    22: {"loss": [0.8, 0.3, 0.2], "validation": [0.9, 0.5, 0.3], "time": [0.5, 0.6, 0.7]},
    56: {"loss": [0.7, 0.6], "time": [0.8, 0.9]},
}


def without(kind):
    return {key: {k: v for k, v in curves.items() if k != kind} for key, curves in HISTORY.items()}


def many(n, **more):
    return {key: {"loss": [1.0 + key, 0.5 + key, 0.3 + key], **more} for key in range(n)}


def drawn(display, *kinds):
    """Lines by label: losses, validation losses, marks at the weights that were kept."""
    by_label = {line.get_label(): line for line in display.ax_.lines}
    return {label: line for label, line in by_label.items() if label.rsplit(", ")[-1] in kinds}


def legend_of(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_every_loss_is_a_line():
    display = LossCurveDisplay.from_history(HISTORY)
    assert list(drawn(display, "loss")) == ["O, loss", "Ti, loss", "Ba, loss"]
    assert list(drawn(display, "validation")) == ["O, validation", "Ti, validation"]
    for kind, style in {"loss": "-", "validation": "--"}.items():
        for label, line in drawn(display, kind).items():
            expected = HISTORY[{"O": 8, "Ti": 22, "Ba": 56}[label.split(",")[0]]][kind]
            assert_array_equal(line.get_data(), [np.arange(1, len(expected) + 1), expected])
            assert line.get_linestyle() == style
    assert display.ax_.get_yscale() == "log"
    assert display.ax_.get_xlabel() == "Iteration"
    assert display.ax_.get_ylabel() == "Loss (MSE of scaled targets)"
    assert legend_of(display) == ["O", "Ti", "Ba", "training", "validation", "weights kept"]


def test_a_network_has_one_colour_and_one_marker():
    display = LossCurveDisplay.from_history(HISTORY)
    losses = drawn(display, "loss").values()
    assert [line.get_color() for line in losses] == list(COLORS[:3]), "as ParityDisplay colours these species"
    assert [line.get_color() for line in drawn(display, "validation").values()] == list(COLORS[:2])
    looks = [(mark.get_color(), mark.get_marker()) for mark in drawn(display, "kept").values()]
    assert looks == list(zip(COLORS[:2], MARKERS[:2], strict=True))


def test_marks_stand_at_the_weights_that_were_kept():
    display = LossCurveDisplay.from_history(HISTORY)
    assert display.kept_ == {"O": 2, "Ti": 3}
    marks = {label: line.get_xydata().tolist() for label, line in drawn(display, "kept").items()}
    assert marks == {"O, kept": [[2, 0.5]], "Ti, kept": [[3, 0.3]]}


def test_time_and_root():
    display = LossCurveDisplay.from_history(HISTORY, x="time", scale="rmse")
    lines = drawn(display, "validation", "kept")
    time, validation = HISTORY[8]["time"], HISTORY[8]["validation"]
    assert_allclose(lines["O, validation"].get_data(), [time, np.sqrt(validation)])
    assert_allclose(lines["O, kept"].get_xydata(), [[0.2, np.sqrt(0.5)]])
    assert display.ax_.get_xlabel() == "Training time of the network (s)"
    assert display.ax_.get_ylabel() == "Root of the loss (RMSE of scaled targets)"


def test_without_validation_there_is_nothing_to_mark():
    display = LossCurveDisplay.from_history(without("validation"))
    assert display.kept_ == {}
    assert list(drawn(display, "validation", "kept")) == []
    assert legend_of(display) == ["O", "Ti", "Ba"]


def test_a_validation_loss_that_is_nan():
    history = {
        8: {"loss": [1.0, 0.5, 0.2], "validation": [np.nan, 0.5, 0.7]},
        1: {"loss": [1.0], "validation": [np.nan]},
    }
    assert LossCurveDisplay.from_history(history).kept_ == {"O": 2}


def test_equal_curves_are_one_network():
    """As history_ has them with networks="shared"."""
    shared = {z: {kind: np.array(HISTORY[8][kind]) for kind in ("loss", "validation")} for z in (8, 22, 56)}
    display = LossCurveDisplay.from_history(shared)
    assert len(display.ax_.lines) == 3
    assert display.kept_ == {"O, Ti, Ba": 2}


def test_networks_without_iterations_are_left_out():
    display = LossCurveDisplay.from_history(HISTORY | {1: {"loss": []}})
    assert list(display.curves) == ["O", "Ti", "Ba"]


def test_a_single_iteration_is_a_point():
    (line,) = LossCurveDisplay.from_history({8: {"loss": [0.5]}}).ax_.lines
    assert line.get_marker() == MARKERS[0]


def test_names():
    history = {0: HISTORY[8], "adam": HISTORY[22]}
    assert list(LossCurveDisplay.from_history(history).curves) == ["network", "adam"]
    names = {0: "apical O", "adam": "Ti with Adam", 7: "not there"}
    assert list(LossCurveDisplay.from_history(history, names=names).curves) == ["apical O", "Ti with Adam"]


@pytest.mark.parametrize(("n", "columns"), [(5, 0), (6, 1), (15, 1), (16, 2), (40, 3)])
def test_many_networks_can_be_told_apart(n, columns):
    display = LossCurveDisplay.from_history(many(n), names={key: f"site {key}" for key in range(n)})
    looks = {(line.get_color(), line.get_marker()) for line in display.ax_.lines}
    assert len(looks) == n
    legend = display.ax_.get_legend()
    assert len(legend_of(display)) == n
    assert legend._ncols == max(columns, 1)
    display.figure_.draw_without_rendering()
    plot, legend_box = display.ax_.get_window_extent(), legend.get_window_extent()
    assert (legend_box.x0 >= plot.x1) == (columns > 0), "beside the plot where it would hide curves"
    assert display.figure_.bbox.x0 <= legend_box.x0 < legend_box.x1 <= display.figure_.bbox.x1
    assert display.figure_.bbox.y0 <= legend_box.y0
    assert plot.width > 0.6 * 6.0 * display.figure_.dpi


@pytest.mark.parametrize(
    ("losses", "labels"),
    [
        ([1.0, 0.3], ["0.3", "0.4", "0.6", "1"]),
        ([1.0, 0.012], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
        ([1.0, 1e-4], ["$\\mathdefault{10^{-4}}$", "$\\mathdefault{10^{-2}}$", "$\\mathdefault{10^{0}}$"]),
    ],
)
def test_labels_of_the_logarithmic_axis(losses, labels):
    axes = LossCurveDisplay.from_history({8: {"loss": losses}}).ax_
    low, high = axes.get_ylim()
    ticks = [
        (tick, text.get_text()) for tick, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    ]
    shown = [text for tick, text in ticks if low <= tick <= high]
    assert [text for text in labels if text not in shown] == []


def test_a_loss_of_zero_is_below_the_logarithmic_axis():
    display = LossCurveDisplay.from_history({8: {"loss": [1.0, 0.0], "validation": [0.0, 0.0]}})
    display.figure_.draw_without_rendering()
    assert display.ax_.get_ylim()[0] > 0


def test_curves_of_a_fitted_regressor():
    X = np.linspace(-1, 1, 40)[:, None]
    net = BPNNRegressor((3,), early_stopping=True, max_iter=30, random_state=0)
    pipe = make_pipeline(StandardScaler(), net).fit(X, np.sin(3 * X))
    display = LossCurveDisplay.from_estimator(pipe)
    (history,) = pipe[-1].history_.values()
    assert_array_equal(drawn(display, "loss")["network, loss"].get_ydata(), history["loss"])
    assert display.kept_ == {"network": int(np.argmin(history["validation"])) + 1}
    assert list(LossCurveDisplay.from_estimator(pipe[-1], names={0: "sine"}).kept_) == ["sine"]


@pytest.mark.parametrize(
    ("networks", "expected"), [("per-species", ["H", "O"]), ("per-site", ["site 0", "site 1"])]
)
def test_networks_are_named_after_species_or_sites(networks, expected):
    rng = np.random.default_rng(0)
    identity = (np.arange(2)[None],) * 2, (np.eye(3)[None],) * 2
    symmetry = ColumnSymmetry(*identity, vector_columns=np.empty((0, 3), dtype=int))
    frames = SiteFrames(np.tile(np.eye(3), (20, 1, 1)), np.tile([0, 1], 10), symmetry)
    X = PerAtomArray(rng.normal(size=(20, 2)), np.arange(0, 21, 2), np.tile([8, 1], 10), frames)
    net = BPNNRegressor(networks=networks, early_stopping=True, max_iter=5, random_state=0)
    net.fit(X, X.with_values(X.values[:, :1] ** 2))
    assert list(LossCurveDisplay.from_estimator(net).curves) == expected


def test_given_axes_and_line_styles_are_used():
    axes = Figure().subplots(1, 2)
    display = LossCurveDisplay.from_history(HISTORY, ax=axes[1], line_kwargs={"lw": 3.0, "alpha": 0.5})
    assert display.ax_ is axes[1]
    assert display.figure_ is axes[1].figure
    assert {line.get_linewidth() for line in drawn(display, "loss", "validation").values()} == {3.0}
    assert display.plot(axes[0], scale="rmse").ax_ is axes[0]


def test_colours_differ_in_grey_or_marker():
    """Networks in one colour, or of equal grey, are told apart by their markers."""
    red, green, blue = np.array([matplotlib.colors.to_rgb(color) for color in COLORS]).T
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    assert grey.max() < 0.75, "visible on white paper"
    assert len(set(MARKERS)) == len(MARKERS) > len(COLORS)


@pytest.mark.parametrize(
    ("history", "kind", "message"),
    [
        (
            [HISTORY[8]],
            TypeError,
            "history must be a dict of the curves of each network, as history_ of a fitted regressor, got "
            "list. Plot an estimator with from_estimator.",
        ),
        (
            {"loss": np.ones(3)},
            TypeError,
            "history['loss'] must be a dict of the curves of one network with \"loss\" among them, got "
            "ndarray of shape (3,). Pass the whole of history_, with one such dict for each network.",
        ),
        (
            {8: {"validation": [1.0]}},
            TypeError,
            'history[8] must be a dict of the curves of one network with "loss" among them, got the keys '
            "['validation']. Pass the whole of history_, with one such dict for each network.",
        ),
        (
            {8: {"loss": [1.0, 0.5], "validation": [1.0]}},
            ValueError,
            "history[8] must hold curves of one shape (n_iter,), a value per iteration, got loss (2,), "
            "validation (1,). Cut them to the iterations that they share.",
        ),
        (
            {8: {"loss": [[1.0, 0.5]]}},
            ValueError,
            "history[8] must hold curves of one shape (n_iter,), a value per iteration, got loss (1, 2). "
            "Cut them to the iterations that they share.",
        ),
        (
            {8: {"loss": []}},
            ValueError,
            "history must have a network with at least one iteration, got 1 networks without. Fit first.",
        ),
    ],
)
def test_histories_that_cannot_be_drawn(history, kind, message):
    with pytest.raises(kind) as error:
        LossCurveDisplay.from_history(history)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "epoch"}, "x must be 'iteration' or 'time', got 'epoch'."),
        ({"scale": "mae"}, "scale must be 'loss' or 'rmse', got 'mae'."),
        (
            {"names": {8: "O"}},
            "names must have a name for every key of history, got none for 22; 56. Add them.",
        ),
        (
            {"names": {8: "O", 22: "O", 56: "Ba"}},
            "names must tell networks apart, got 'O' more than once. Rename one of them.",
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match="must") as error:
        LossCurveDisplay.from_history(HISTORY, **options)
    assert str(error.value) == message


def test_no_times():
    with pytest.raises(ValueError, match="time") as error:
        LossCurveDisplay.from_history(HISTORY | {22: without("time")[22]}, x="time")
    assert str(error.value) == (
        "x='time' needs the seconds of each iteration as \"time\" in the history of every network; got none "
        "for Ti. Fit again, or use x='iteration'."
    )


@pytest.mark.parametrize(
    ("estimator", "received"),
    [
        (DummyRegressor(), "DummyRegressor"),
        (make_pipeline(StandardScaler(), DummyRegressor()), "DummyRegressor as its last step"),
    ],
)
def test_other_estimators(estimator, received):
    with pytest.raises(TypeError) as error:
        LossCurveDisplay.from_estimator(estimator)
    assert str(error.value) == (
        "estimator must be a fitted BPNNRegressor or BPNNPotential, or end a Pipeline as one; got "
        f"{received}. Of a search, pass best_estimator_."
    )


def test_the_curve_of_a_potential():
    data = load_batio3()
    embedding = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances")
    model = make_pipeline(embedding, BPNNPotential((4,), max_iter=3, solver="adam", random_state=0))
    model.fit(data.structures[:10], data.target[:10])
    axes = Figure().subplots()
    display = LossCurveDisplay.from_estimator(model, ax=axes)
    assert len(display.ax_.lines[0].get_xdata()) == 3
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["potential"]


def test_a_regressor_that_is_not_fitted():
    with pytest.raises(NotFittedError, match=r"^This BPNNRegressor instance is not fitted yet"):
        LossCurveDisplay.from_estimator(BPNNRegressor())
