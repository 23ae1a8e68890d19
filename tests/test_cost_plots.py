"""`AccuracyCostDisplay`: the front, the model to pick, and what is drawn."""

import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, load_moo3
from tinynet_sklearn.cost_plots import AccuracyCostDisplay
from tinynet_sklearn.metrics import force_cosine_scorer, force_rmse_scorer

NAMES = ["L0(2)", "L4(1)", "L4(2)", "L4(3)", "L6(3)"]
ERRORS = [0.149, 0.327, 0.143, 0.084, 0.084]
COSTS = [1.1, 0.9, 1.5, 2.9, 5.2]


def display_of(**options):
    return AccuracyCostDisplay.from_results(NAMES, ERRORS, COSTS, **options)


def brute_front(errors, costs):
    """No other is at least as good in both and better in one."""
    both = [(e, c) for e, c in zip(errors, costs, strict=True) if np.isfinite(e) and np.isfinite(c)]
    kept = {p for p in both if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in both)}
    return sorted(kept, key=lambda p: p[1])


def test_the_front_is_what_no_other_beats():
    display = display_of()
    assert [NAMES[k] for k in display.front_] == ["L4(1)", "L0(2)", "L4(2)", "L4(3)"]


@pytest.mark.parametrize("seed", range(20))
def test_the_front_of_random_models(seed):
    rng = np.random.default_rng(seed)
    errors, costs = rng.integers(1, 8, size=(2, 15)).astype(float)
    errors[rng.integers(15)] = np.nan
    display = AccuracyCostDisplay.from_results([str(k) for k in range(15)], errors, costs)
    found = [(errors[k], costs[k]) for k in display.front_]
    assert found == brute_front(errors, costs)
    pick = display.pick_index_
    near = [c for e, c in zip(errors, costs, strict=True) if e <= 1.1 * np.nanmin(errors)]
    assert costs[pick] == min(near), "the cheapest of those that are near the best"


@pytest.mark.parametrize(
    ("tolerance", "pick"), [(0.0, "L4(3)"), (0.1, "L4(3)"), (0.75, "L4(2)"), (9.0, "L4(1)")]
)
def test_tolerance_decides_what_to_pick(tolerance, pick):
    display = display_of(tolerance=tolerance)
    assert display.pick_ == pick
    assert NAMES[display.pick_index_] == pick
    assert display.ax_.get_title(loc="left").startswith(f"Pick {pick}: ")


def test_words():
    axes = display_of().ax_
    assert axes.get_xlabel() == "Time of a prediction (µs/atom)"
    assert axes.get_ylabel() == "RMSE of forces (eV/Å)"
    assert axes.get_title(loc="left") == "Pick L4(3): 0.084 eV/Å for 2.9 µs/atom"
    axes = display_of(quantity="1 - R²", unit="", cost="Columns", cost_unit="").ax_
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Columns", "1 - R²")
    assert axes.get_title(loc="left") == "Pick L4(3): 0.084 for 2.9 columns"


def test_marks_of_all_models_and_a_ring_around_one():
    display = display_of()
    on_front, others, ring = (points.get_offsets().data for points in display.ax_.collections)
    assert_allclose(on_front[np.argsort(on_front[:, 0])], np.transpose([COSTS, ERRORS])[display.front_])
    assert_allclose(others, [[5.2, 0.084]])
    assert_allclose(ring, [[2.9, 0.084]])
    assert_allclose(display.ax_.collections[1].get_facecolor(), [[1, 1, 1, 1]]), "hollow: beaten by others"
    assert_array_equal(display.line_.get_xdata(), np.array(COSTS)[display.front_])
    assert display.line_.get_drawstyle() == "steps-post"


@pytest.mark.parametrize(
    ("names", "wanted"),
    [("front", ["L4(1)", "L0(2)", "L4(2)", "L4(3)"]), ("all", ["L4(1)", "L0(2)", "L4(2)", "L4(3)", "L6(3)"]),
     ("pick", ["L4(3)"])],
)  # fmt: skip
def test_names(names, wanted):
    display = display_of(names=names)
    assert [text.get_text() for text in display.text_] == wanted
    assert [text.get_text() for text in display.text_ if text.get_fontweight() == "bold"] == ["L4(3)"]


@pytest.mark.parametrize("size", [(6.2, 4.2), (3.0, 2.4)])
@pytest.mark.parametrize("names", ["front", "all"])
def test_names_neither_overlap_nor_leave_the_axes(size, names):
    rng = np.random.default_rng(1)
    costs = np.sort(rng.uniform(1.0, 1.2, 9))
    errors = np.sort(rng.uniform(0.1, 0.12, 9))[::-1]
    labels = [f"L{k}({k}), alpha=1e-05" for k in range(9)]
    ax = Figure(figsize=size, layout="constrained").subplots()
    display = AccuracyCostDisplay.from_results(labels, errors, costs, ax=ax, names=names)
    display.figure_.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in display.text_]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    frame = ax.get_window_extent()
    assert all(box.y0 >= frame.y0 - 1 for box in boxes)


LONG = ["a very long name of some model with number {}", "/home/me/models/of/2026/{}_really_final.tinynet"]


@pytest.mark.parametrize("name", LONG)
def test_long_names_stay_within_the_axes_and_the_title_on_the_page(name):
    rng = np.random.default_rng(0)
    labels = [name.format(k) for k in range(80)]
    errors, costs = rng.random(80), 10 * rng.random(80)
    display = AccuracyCostDisplay.from_results(labels, errors, costs, groups=["a rather long group"] * 80)
    display.figure_.draw_without_rendering()
    frame, page = display.ax_.get_window_extent(), display.figure_.bbox
    for text, k in zip(display.text_, display.front_, strict=True):
        box = Text.get_window_extent(text)
        assert (box.x0 >= frame.x0, box.y0 >= frame.y0) == (True, True)
        assert "".join(text.get_text().split()) == labels[k].replace(" ", ""), "broken, but whole"
    (title,) = (text for text in display.ax_.findobj(Text) if text.get_text().startswith("Pick"))
    assert title.get_window_extent().x1 <= page.x1
    assert "".join(display.pick_.split()) in "".join(title.get_text().split())


def test_names_without_room_lose_their_middle():
    labels = [LONG[0].format(k) for k in range(5)]
    ax = Figure(figsize=(3.0, 2.4), layout="constrained").subplots()
    costs, errors = [1.0, 1.1, 1.2, 1.3, 1.4], [0.14, 0.13, 0.12, 0.11, 0.1]
    display = AccuracyCostDisplay.from_results(labels, errors, costs, ax=ax, tolerance=0.0)
    texts = [text.get_text() for text in display.text_]
    for k, text in enumerate(texts):
        assert text.startswith("a very")
        assert "…" in text
        assert text.endswith(f" {k}")
    display.figure_.draw_without_rendering()
    frame = ax.get_window_extent()
    assert all(Text.get_window_extent(text).x0 >= frame.x0 for text in display.text_)
    assert display.pick_ == labels[4]


@pytest.mark.parametrize("size", [(6.2, 4.2), (3.0, 2.4)])
@pytest.mark.parametrize("decades", [0.8, 1.5, 2.4, 3.0, 5.0, 9.0])
def test_numbers_at_the_axes_do_not_overlap(decades, size):
    rng = np.random.default_rng(0)
    costs, errors = 10 ** (decades * rng.random(80) - 2.0), 10 ** (decades * rng.random(80) - 3.0)
    ax = Figure(figsize=size, layout="constrained").subplots()
    display = AccuracyCostDisplay.from_results([LONG[0].format(k) for k in range(80)], errors, costs, ax=ax)
    display.figure_.draw_without_rendering()
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.label1.get_window_extent() for tick in ticks if tick.label1.get_text()]
        assert len(boxes) >= 2
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_many_groups_are_told_apart_and_named_beside_the_axes():
    rng = np.random.default_rng(0)
    names = [f"group {k}" for k in range(30)]
    display = AccuracyCostDisplay.from_results(names, rng.random(30), 1 + rng.random(30), groups=names)
    marks = [points for points in display.ax_.collections if points.get_label() in names]
    looks = {(tuple(p.get_edgecolor()[0]), p.get_paths()[0].vertices.tobytes()) for p in marks}
    assert len(looks) == len(marks) == 30
    display.figure_.draw_without_rendering()
    legend, frame = display.ax_.get_legend().get_window_extent(), display.ax_.get_window_extent()
    assert legend.x0 > frame.x1
    assert legend.x1 <= display.figure_.bbox.x1
    assert legend.y0 >= 0


def test_many_groups_are_named_within_axes_that_have_no_room_beside():
    names = [f"group {k}" for k in range(12)]
    ax = Figure(figsize=(6, 5)).subplots()
    AccuracyCostDisplay.from_results(names, np.arange(1.0, 13), np.arange(1.0, 13), groups=names, ax=ax)
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x1 < ax.get_window_extent().x1


def test_groups_differ_in_colour_and_mark():
    groups = ["direct", "direct", "energy", "energy", "energy"]
    display = display_of(groups=groups)
    assert display.ax_.get_title(loc="left").startswith("Pick L4(3), energy: ")
    legend = display.ax_.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["direct", "energy"]
    first, second = (
        next(p for p in display.ax_.collections if p.get_label() == name) for name in ("direct", "energy")
    )
    assert (first.get_edgecolor() != second.get_edgecolor()).any()
    assert first.get_paths()[0].vertices.shape != second.get_paths()[0].vertices.shape


def test_axes_that_span_much_are_logarithmic():
    display = display_of()
    assert (display.ax_.get_xscale(), display.ax_.get_yscale()) == ("log", "linear")
    display = AccuracyCostDisplay.from_results(["a", "b"], [0.0, 1.0], [1.0, 2.0])
    assert (display.ax_.get_xscale(), display.ax_.get_yscale()) == ("linear", "linear")
    display.figure_.draw_without_rendering()
    assert display.pick_ == "a"


def test_one_model():
    display = AccuracyCostDisplay.from_results(["only"], [0.1], [2.0])
    display.figure_.draw_without_rendering()
    assert (display.pick_, display.front_.tolist()) == ("only", [0])


def test_it_draws_into_given_axes_and_again():
    ax = Figure(layout="constrained").subplots(1, 2)[1]
    display = display_of(ax=ax, scatter_kwargs={"s": 80.0})
    assert display.ax_ is ax
    assert display.ax_.collections[0].get_sizes() == [80.0]
    assert display.plot() is display
    assert display.ax_ is not ax
    assert display.pick_ == "L4(3)"


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (
            "labels, errors and costs must have one entry for each model; got 5 labels, 4 errors, 5 costs.",
            {"errors": ERRORS[:4]},
        ),
        (
            "labels, errors and costs must have one entry for each model; got 5 labels, 5 errors, 5 costs, 1 "
            "groups.",
            {"groups": ["a"]},
        ),
        (
            "errors and costs must both be known of at least one model; got none of 5. Models that failed "
            "may have NaN.",
            {"errors": [np.nan] * 5},
        ),
        (
            "errors must not be negative; got -0.1 for L4(1). Turn the sign of negated scores; of scores to "
            "be maximised, pass what is missing to the best, as 1 - R².",
            {"errors": [0.1, -0.1, 0.2, 0.3, 0.4]},
        ),
        ("tolerance must not be negative; got -1. 0.1 stands for 10 %.", {"tolerance": -1}),
        ("names must be 'front', 'all' or 'pick'; got 'none'.", {"names": "none"}),
    ],
)
def test_bad_input(message, change):
    arguments = {"labels": NAMES, "errors": ERRORS, "costs": COSTS} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        AccuracyCostDisplay.from_results(**arguments)


def test_from_estimators_measures():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    y = 2.0 * X
    models = {"mean": DummyRegressor().fit(X, y), "linear": Ridge(1e-6).fit(X, y)}
    display = AccuracyCostDisplay.from_estimators(models, X, y, repeats=2, tolerance=0.0)
    assert display.labels == ["mean", "linear"]
    assert_allclose(display.errors, [np.sqrt(np.mean((y - y.mean(axis=0)) ** 2)), 0.0], atol=1e-6)
    assert (display.costs > 0).all()
    assert display.pick_ == "linear"
    message = "estimators must be a dict of fitted models by name; got list. Write {'L4(2)': pipe}."
    with pytest.raises(TypeError, match=re.escape(message)):
        AccuracyCostDisplay.from_estimators(list(models.values()), X, y)


RESULTS = {
    "params": [
        {"embed__n": 2, "embed__N": 1, "net__alpha": 1e-5},
        {"embed__n": 4, "embed__N": 2, "net__alpha": 1e-5},
        {"embed__n": 4, "embed__N": 2, "net__alpha": 1e-3},
    ],
    "mean_test_score": np.array([-0.3, -0.1, -0.15]),
    "mean_score_time": np.array([0.001, 0.004, 0.002]),
}


def test_from_the_results_of_a_search():
    display = AccuracyCostDisplay.from_search(RESULTS, tolerance=0.6)
    assert list(display.labels) == ["L2(1), alpha=1e-05", "L4(2), alpha=1e-05", "L4(2), alpha=0.001"]
    assert_allclose(display.costs, [1.0, 4.0, 2.0])
    assert display.ax_.get_xlabel() == "Time to score a fold (ms)"
    assert display.pick_params_ == {"embed__n": 4, "embed__N": 2, "net__alpha": 1e-3}


def test_a_single_candidate_has_a_name():
    one = {name: column[:1] for name, column in RESULTS.items()}
    assert AccuracyCostDisplay.from_search(one).pick_ == "L2(1), alpha=1e-05"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_from_a_search_over_structures():
    data = load_moo3()
    structures, target, groups = data.structures[:12], data.target[:12], data.groups[:12]
    pipe = Pipeline(
        [
            ("embed", CycleMomentFeaturizer(bonds=data.bonds)),
            ("net", BPNNRegressor((4,), max_iter=2, random_state=0)),
        ]
    )
    grid = {"embed__n": [0, 2], "embed__N": [1]}
    search = GridSearchCV(pipe, grid, scoring=force_rmse_scorer, cv=GroupKFold(3))
    search.fit(structures, target, groups=groups)
    display = AccuracyCostDisplay.from_search(search, structures, groups=groups)
    seconds = search.cv_results_["mean_score_time"]
    assert_allclose(display.costs, 1e6 * seconds / (4 * 16))
    assert_allclose(display.errors, -search.cv_results_["mean_test_score"])
    assert list(display.labels) == ["n=0", "n=2"]
    assert (display.quantity, display.unit) == ("RMSE of forces", "eV/Å")
    search.estimator.set_params(**display.pick_params_)


def test_a_score_to_be_maximised_is_no_error():
    X = np.random.default_rng(0).normal(size=(12, 3))
    search = GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, scoring=force_cosine_scorer, cv=2).fit(X, X)
    message = (
        "score must be an error, the lower the better; got 'mean_test_score' (Cosine of forces), of which "
        "more is better. Name an error with score=."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        AccuracyCostDisplay.from_search(search)


def test_pyplot_is_not_touched():
    code = (
        "import sys\n"
        "from tinynet_sklearn.cost_plots import AccuracyCostDisplay\n"
        "assert 'matplotlib' not in sys.modules\n"
        "AccuracyCostDisplay.from_results(['a'], [0.1], [1.0])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
