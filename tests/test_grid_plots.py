"""`GridHeatmapDisplay`: which number stands where, and what is drawn."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures

from tinynet_sklearn.grid_plots import GridHeatmapDisplay
from tinynet_sklearn.grid_tables import rows_of_table
from tinynet_sklearn.metrics import force_cosine_scorer, force_rmse_scorer

#: Rows as csv.DictReader reads them: two seeds of one cell, a failure, and no row for n = N = 0.
ROWS = [
    {"n": "0", "N": "2", "seed": "0", "test": "0.15"},
    {"n": "10", "N": "0", "seed": "0", "test": "nan"},
    {"n": "10", "N": "2", "seed": "0", "test": "0.08"},
    {"n": "10", "N": "2", "seed": "1", "test": "0.12"},
    {"n": "2", "N": "0", "seed": "0", "test": "0.55"},
    {"n": "2", "N": "2", "seed": "0", "test": "0.14"},
]


def display_of(**options):
    return GridHeatmapDisplay.from_table(ROWS, x="N", y="n", score="test", **options)


def candidates(scores, **columns):
    """Results of a search over n and N (and what else is given)."""
    params = [
        {"embed__n": n, "embed__N": N} | {f"net__{name}": values[k] for name, values in columns.items()}
        for k, (n, N) in enumerate([(2, 1), (2, 2), (4, 1), (4, 2), (4, 2)][: len(scores)])
    ]
    return {"params": params, "mean_test_score": np.array(scores)}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    return X, np.column_stack([X[:, 0] ** 2, X[:, 1], X[:, 0] * X[:, 1]]) + 0.05 * rng.normal(size=(40, 3))


@pytest.fixture
def pipe():
    return Pipeline([("poly", PolynomialFeatures()), ("ridge", Ridge())])


def texts(display):
    return np.vectorize(lambda text: "" if text is None else text.get_text())(display.text_)


# ---- Tables ------------------------------------------------------------------------------------------------


def test_numbers_of_a_file_stand_in_order():
    display = display_of()
    assert_array_equal(display.values_, [[np.nan, 0.15], [0.55, 0.14], [np.nan, 0.08]])
    assert texts(display).tolist() == [["", "0.150"], ["0.550", "0.140"], ["failed", "0.080"]]
    assert [tick.get_text() for tick in display.ax_.get_yticklabels()] == ["0", "2", "10"], "as numbers"
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["0", "2"]
    assert (display.best_, display.best_value_) == ({"N": 2, "n": 10}, 0.08)


@pytest.mark.parametrize(("reduce", "value"), [("best", 0.08), ("median", 0.10), ("mean", 0.10)])
def test_several_rows_of_a_cell(reduce, value):
    display = display_of(reduce=reduce)
    assert display.values_[2, 1] == pytest.approx(value)
    assert display.ax_.get_title(loc="left") == f"{reduce} of the rows of each cell"


def test_the_best_of_scores_is_the_largest():
    display = display_of(greater_is_better=True)
    assert (display.best_, display.best_value_) == ({"N": 0, "n": 2}, 0.55)
    assert display.values_[2, 1] == 0.12


def test_the_better_is_the_brighter():
    for greater in (False, True):
        display = display_of(greater_is_better=greater, scale="linear")
        values = np.sort(display.values_[np.isfinite(display.values_)])
        brightness = [display.im_.to_rgba(value)[:3] @ np.array([0.3, 0.6, 0.1]) for value in values]
        assert (np.diff(brightness) * (1 if greater else -1) > 0).all()


@pytest.mark.parametrize(
    "table",
    [
        {"n": [2, 4], "N": [1, 1], "score": [0.3, 0.2]},
        [{"n": 2, "N": 1, "score": 0.3}, {"n": 4, "N": 1, "score": 0.2}],
        {"n": np.array([2, 4]), "N": np.array([1, 1]), "score": np.array([0.3, 0.2])},
    ],
)
def test_kinds_of_tables(table):
    assert_array_equal(GridHeatmapDisplay.from_table(table, x="N", y="n").values_, [[0.3], [0.2]])


def test_failed_fits_may_be_left_empty():
    rows = [{"n": "2", "score": "0.3"}, {"n": "4", "score": ""}, {"n": "6", "score": "0"}]
    assert_array_equal(GridHeatmapDisplay.from_table(rows, x="n").values_, [[0.3, np.nan, 0.0]])


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    display = GridHeatmapDisplay.from_table(pandas.DataFrame(ROWS), x="N", y="n", score="test")
    assert_array_equal(display.values_, display_of().values_)


def test_an_array_with_cells_that_nobody_asked_for():
    values = np.ma.masked_array([[0.0, 0.3], [0.2, np.nan]], mask=[[True, False], [False, False]])
    display = GridHeatmapDisplay.from_table(
        values, x=("N", [0, 1]), y=("n", [0, 2]), quantity="MAE", unit="eV/Å"
    )
    assert texts(display).tolist() == [["", "0.300"], ["0.200", "failed"]]
    assert display.colorbar_.ax.get_ylabel() == "MAE (eV/Å)"
    hatched = [patch for patch in display.ax_.patches if patch.get_hatch()]
    assert [patch.get_xy() for patch in hatched] == [(-0.5, -0.5)]


@pytest.mark.parametrize("shape", [(2, 3), (8, 3), (1, 3)])
@pytest.mark.parametrize("decades", [0.1, 0.8, 1.2, 2.4, 3.0, 6.0, 10.0, 20.0])
def test_the_colour_bar_has_readable_numbers(decades, shape):
    values = 10.0 ** (np.linspace(-3.1, decades - 3.1, shape[0] * shape[1]).reshape(shape))
    axes = {"x": ("N", range(shape[1])), "y": ("n", range(shape[0]))}
    display = GridHeatmapDisplay.from_table(values, **axes, scale="log")
    display.figure_.draw_without_rendering()
    low, high = display.im_.get_clim()
    axis = display.colorbar_.ax.yaxis
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [tick.label2.get_window_extent() for tick in ticks if tick.label2.get_text()]
    assert len(boxes) >= 2
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_one_row():
    display = GridHeatmapDisplay.from_table([0.3, 0.1], x=("hidden", [(8, 16), (16, 32)]))
    assert display.best_ == {"hidden": (16, 32)}
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["8x16", "16x32"]
    assert len(display.ax_.get_yticks()) == 0
    display.figure_.draw_without_rendering()


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (
            ValueError,
            "table must have rows with the columns 'N', 'm', 'test'; got 6 rows, of the columns 'n'; 'N'; "
            "'seed'; 'test'.",
            {"table": ROWS, "x": "N", "y": "m", "score": "test"},
        ),
        (
            ValueError,
            "table must have rows with the columns 'N', 'n', 'test'; got 0 rows, of the columns none.",
            {"table": [], "x": "N", "y": "n", "score": "test"},
        ),
        (
            ValueError,
            "table must have numbers in column 'test'; got 'bad'. Write nan for fits that failed.",
            {"table": [{"n": 2, "test": "bad"}], "x": "n", "score": "test"},
        ),
        (
            ValueError,
            "table must have columns of one length; got 2 in 'n', 1 in 'test'.",
            {"table": {"n": [1, 2], "test": [1.0]}, "x": "n", "score": "test"},
        ),
        (
            TypeError,
            "table must be a list of dicts, a dict of columns or a DataFrame; got ndarray of shape (2, 2). "
            "With an array, pass x=(name, values) and y=(name, values).",
            {"table": np.eye(2), "x": "n", "y": "N"},
        ),
        (
            ValueError,
            "reduce must be 'best', 'median' or 'mean'; got 'min'.",
            {"table": ROWS, "x": "N", "y": "n", "score": "test", "reduce": "min"},
        ),
        (
            ValueError,
            "y must be (name, values) with an array, or the name of a column of a table; got 'n'. Write "
            "y=('N', [0, 1, 2]).",
            {"table": np.eye(2), "x": ("N", [0, 1]), "y": "n"},
        ),
        (
            ValueError,
            "table must have a row for each of the 3 values of y and a column for each of the 2 of x; got an "
            "array of shape (2, 2).",
            {"table": np.eye(2), "x": ("N", [0, 1]), "y": ("n", [0, 2, 4])},
        ),
    ],
)
def test_bad_tables(error, message, arguments):
    with pytest.raises(error, match=re.escape(message)):
        GridHeatmapDisplay.from_table(**arguments)


def test_rows_of_a_table_of_columns():
    assert rows_of_table({"a": [1, 2], "b": [3, 4]}, ["a"]) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]


# ---- Searches ----------------------------------------------------------------------------------------------


def test_a_search_by_the_names_of_the_paper(data, pipe):
    """N along x and n along y, whatever the order of the grid."""
    display = GridHeatmapDisplay.from_search(candidates([-0.5, -0.2, -0.3, -0.1]))
    assert_array_equal(display.values_, [[0.5, 0.2], [0.3, 0.1]])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("$N$", "$n$")
    assert display.best_ == {"embed__N": 2, "embed__n": 4}


def test_a_fitted_search(data, pipe):
    grid = {"ridge__alpha": [1.0, 1e-3, 1e2], "poly__degree": [1, 2]}
    search = GridSearchCV(pipe, grid, scoring=force_rmse_scorer, cv=4).fit(*data)
    display = GridHeatmapDisplay.from_search(search)
    assert display.best_ == search.best_params_
    assert display.best_value_ == pytest.approx(-search.best_score_)
    means = dict(
        zip(map(str, search.cv_results_["params"]), -search.cv_results_["mean_test_score"], strict=True)
    )
    for row, alpha in enumerate([1e-3, 1.0, 1e2]):
        for column, degree in enumerate([1, 2]):
            wanted = means[str({"poly__degree": degree, "ridge__alpha": alpha})]
            assert display.values_[row, column] == pytest.approx(wanted)
    assert display.colorbar_.ax.get_ylabel() == "RMSE of forces (eV/Å)"
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("degree", "alpha")


def test_axes_by_name_and_other_metrics(data, pipe):
    grid = {"poly__degree": [1, 2], "ridge__alpha": [1e-3, 1.0]}
    scoring = {"rmse": force_rmse_scorer, "cosine": force_cosine_scorer}
    search = GridSearchCV(pipe, grid, scoring=scoring, refit="rmse", cv=4).fit(*data)
    display = GridHeatmapDisplay.from_search(search, x="alpha", y="poly__degree", score="cosine")
    assert display.best_value_ == pytest.approx(search.cv_results_["mean_test_cosine"].max())
    assert display.ax_.get_xlabel() == "alpha"
    times = GridHeatmapDisplay.from_search(search, score="mean_fit_time")
    assert times.colorbar_.ax.get_ylabel() == "Time of a fit (s)"


def test_a_cell_has_the_best_of_other_parameters():
    results = candidates([-0.5, -0.2, -0.3, -0.1, -0.05], alpha=[1.0, 1.0, 1.0, 1.0, 0.1])
    display = GridHeatmapDisplay.from_search(results)
    assert display.values_[1, 1] == 0.05
    assert display.ax_.get_title(loc="left") == "best of alpha in each cell"
    fixed = GridHeatmapDisplay.from_search(results, fixed={"alpha": 1.0})
    assert fixed.values_[1, 1] == 0.1
    assert fixed.ax_.get_title(loc="left") == "alpha=1"


def test_a_single_parameter_makes_one_row(data):
    search = RandomizedSearchCV(Ridge(), {"alpha": [1e-3, 1.0, 1e3]}, n_iter=3, cv=3, random_state=0).fit(
        *data
    )
    display = GridHeatmapDisplay.from_search(search)
    assert display.values_.shape == (1, 3)
    assert display.best_ == search.best_params_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_fits_that_failed(data, pipe):
    with pytest.warns((FitFailedWarning, UserWarning)):
        search = GridSearchCV(pipe, {"poly__degree": [-1, 1], "ridge__alpha": [1.0, 2.0]}, cv=3).fit(*data)
    display = GridHeatmapDisplay.from_search(search)
    assert texts(display)[:, 0].tolist() == ["failed", "failed"]
    assert display.best_["poly__degree"] == 1


def test_all_fits_failed():
    display = GridHeatmapDisplay.from_search(candidates([np.nan] * 4))
    assert (texts(display) == "failed").all()
    assert display.best_ == {}
    assert np.isnan(display.best_value_)
    assert display.colorbar_ is None
    display.figure_.draw_without_rendering()


def test_candidates_that_a_halving_search_dropped_stand_in_parentheses(data, pipe):
    grid = {"poly__degree": [1, 2], "ridge__alpha": [1e-3, 1e3]}
    search = HalvingGridSearchCV(
        pipe, grid, scoring=force_rmse_scorer, cv=2, factor=2, min_resources=10, random_state=0
    ).fit(*data)
    display = GridHeatmapDisplay.from_search(search)
    assert display.best_ == search.best_params_
    in_parentheses = np.char.startswith(texts(display).astype(str), "(")
    results = search.cv_results_
    last = {
        str(p)
        for p, it in zip(results["params"], results["iter"], strict=True)
        if it == results["iter"].max()
    }
    assert in_parentheses.sum() == 4 - len(last) > 0
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["best", "( ) dropped early"]


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("x and y must be two parameters; got 'embed__n' for both.", {"x": "n", "y": "n"}),
        ("x must name a parameter that was searched; got 'depth'.", {"x": "depth"}),
        ("search must vary a parameter to draw a map of; got 4 candidates", {"results": "equal"}),
        ("scale must be 'auto', 'linear' or 'log'; got 'sqrt'.", {"scale": "sqrt"}),
        (
            "scale='log' needs positive values; got -0.5 as the lowest. Take 'linear'.",
            {"scale": "log", "negate": False},
        ),
    ],
)
def test_bad_searches(message, options):
    results = candidates([-0.5, -0.2, -0.3, -0.1])
    if options.pop("results", None):
        results["params"] = [{"a": 1, "b": k} for k in range(4)]
        options = {"fixed": {"b": 0}}
        message = "search must vary a parameter to draw a map of; got 1 candidates that do not."
    with pytest.raises(ValueError, match=re.escape(message)):
        GridHeatmapDisplay.from_search(results, **options)


# ---- Look --------------------------------------------------------------------------------------------------


def luminance(color):
    rgb = np.asarray(matplotlib.colors.to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("cmap", [None, "viridis", "Greys"])
def test_numbers_are_readable_on_their_colours(cmap):
    values = np.linspace(0.1, 0.3, 30).reshape(5, 6)
    display = GridHeatmapDisplay.from_table(values, x=("N", range(6)), y=("n", range(5)), cmap=cmap)
    for (row, column), value in np.ndenumerate(values):
        pair = sorted(
            [luminance(display.im_.to_rgba(value)[:3]), luminance(display.text_[row, column].get_color())]
        )
        assert (pair[1] + 0.05) / (pair[0] + 0.05) > 4.5, "WCAG 2, normal text"


def test_numbers_that_span_much_get_a_logarithmic_scale():
    values = [[0.01, 1.0]]
    display = GridHeatmapDisplay.from_table(values, x=("N", [0, 1]), y=("n", [0]))
    assert isinstance(display.im_.norm, LogNorm)
    display.figure_.draw_without_rendering()
    assert not isinstance(GridHeatmapDisplay.from_table([[0.5, 1.0]], x=("N", [0, 1])).im_.norm, LogNorm)
    linear = GridHeatmapDisplay.from_table(values, x=("N", [0, 1]), scale="linear")
    assert not isinstance(linear.im_.norm, LogNorm)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_equal_numbers_draw_without_a_warning(value):
    display = GridHeatmapDisplay.from_table([[value, value]], x=("N", [0, 1]))
    display.figure_.draw_without_rendering()
    assert display.best_ == {"N": 0}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([[0.1234, 0.3]], ["0.123", "0.300"]),
        ([[0.0123, 0.02]], ["0.0123", "0.0200"]),
        ([[12.34, 25.0]], ["12.3", "25.0"]),
        ([[1234.0, 5678.0]], ["1234", "5678"]),
        ([[1e-8, 2e-8]], ["1e-08", "2e-08"]),
        ([[0.0, 0.0]], ["0.00", "0.00"]),
    ],
)
def test_digits(values, wanted):
    assert texts(GridHeatmapDisplay.from_table(values, x=("N", [0, 1])))[0].tolist() == wanted


def test_numbers_can_be_left_out():
    display = display_of(include_values=False, values_format=".1f")
    assert set(texts(display).ravel()) == {"", "failed"}
    many = GridHeatmapDisplay.from_table(np.ones((21, 20)), x=("a", range(20)), y=("b", range(21)))
    assert (texts(many) == "").all()
    assert texts(display_of(values_format=".1f"))[1].tolist() == ["0.6", "0.1"]


def test_the_best_cell_is_framed_and_bold():
    display = display_of()
    frames = [patch for patch in display.ax_.patches if not patch.get_fill()]
    assert {patch.get_xy() for patch in frames} == {(0.5, 1.5)}
    assert [to_hex(patch.get_edgecolor()) for patch in frames] == ["#ffffff", "#000000"]
    bold = [text.get_text() for text in display.text_.ravel() if text and text.get_fontweight() == "bold"]
    assert bold == ["0.080"]
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["best", "not tried"]


def test_it_draws_into_given_axes_and_again():
    figure = Figure(layout="constrained")
    ax = figure.subplots(1, 2)[0]
    display = display_of(ax=ax, colorbar=False, text_kw={"fontsize": 5}, im_kw={"alpha": 0.5})
    assert display.ax_ is ax
    assert display.colorbar_ is None
    assert display.text_[0, 1].get_fontsize() == 5
    assert display.im_.get_alpha() == 0.5
    assert len(figure.axes) == 2
    assert display.plot() is display
    assert display.ax_ is not ax
    display.figure_.draw_without_rendering()


def test_pyplot_is_not_touched():
    code = (
        "import sys\n"
        "from tinynet_sklearn.grid_plots import GridHeatmapDisplay\n"
        "assert 'matplotlib' not in sys.modules\n"
        "GridHeatmapDisplay.from_table([[0.1, 0.2]], x=('N', [0, 1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# ---- The paper's figures -----------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cells_of_the_figures():
    """Test errors by conventions, figure, material, n and N."""
    found = {}
    for figure in ("1a", "3a"):
        path = ROOT / "benchmarks" / "results" / f"figure_{figure}.csv"
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = (row["conventions"], figure, row["material"], int(row["n"]), int(row["N"]))
                found[key] = float(row["test"])
    return found


@pytest.fixture(scope="module")
def errors_of_the_figures(cells_of_the_figures):
    """Those of the published conventions, by figure, material, n and N."""
    return {key[1:]: error for key, error in cells_of_the_figures.items() if key[0] == "published"}


def test_the_tables_of_the_documentation_are_those_of_the_results(cells_of_the_figures):
    page = (ROOT / "docs" / "plots.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*N=0.*\|\n)(?:^\|.*\|\n)+", page, flags=re.MULTILINE)
    kinds = [(conventions, figure) for conventions in ("published", "default") for figure in ("1a", "3a")]
    shown = {}
    for kind, table in zip(kinds, tables, strict=True):
        head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        columns = []  # a material is named where its numbers begin
        for cell in head[1:]:
            material, N = cell.split(", N=") if ", " in cell else (columns[-1][0], cell)
            columns.append((material, int(N)))
        for n, *cells in rows:
            for (material, N), cell in zip(columns, cells, strict=True):
                if cell:
                    shown[(*kind, material, int(n), N)] = cell
    assert shown.keys() == cells_of_the_figures.keys()
    for key, cell in shown.items():
        assert float(cell.strip("*")) == pytest.approx(cells_of_the_figures[key], abs=5.1e-4)
    for part in {key[:3] for key in shown}:
        (best,) = [key for key, cell in shown.items() if key[:3] == part and "*" in cell]
        of_part = {key: error for key, error in cells_of_the_figures.items() if key[:3] == part}
        assert of_part[best] == min(of_part.values())


@pytest.mark.parametrize(("material", "zero"), [("MoO3", 0.855), ("BaTiO3", 0.597)])
def test_what_the_paper_found_is_in_the_results(errors_of_the_figures, material, zero):
    forces = {key[2:]: e for key, e in errors_of_the_figures.items() if key[:2] == ("1a", material)}
    curves = {key[2:]: e for key, e in errors_of_the_figures.items() if key[:2] == ("3a", material)}
    for n, N in forces:
        if N == 0:
            assert forces[n, 0] > 0.99 * zero, "scalars cannot make a vector"
            assert curves[n, 0] < 0.99 * min(e for (m, _), e in curves.items() if m == 0), (
                "walks make an LDOS"
            )
        else:
            assert forces[n, N] < 0.9 * zero
    for n in (2, 4, 6):
        same = [e for (m, _), e in curves.items() if m == n]
        assert max(same) / min(same) < 1.04, "neighbours add nothing to walks"
        assert min(same) < min(e for (m, _), e in curves.items() if m == n - 2)
