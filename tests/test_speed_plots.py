"""`SpeedDisplay`: what is timed and drawn."""

import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, PerAtomArray
from tinynet_sklearn.speed_plots import SpeedDisplay

ROWS = [
    {"n_atoms": 5000, "microseconds": 0.73, "n_threads": 1},
    {"n_atoms": 160, "microseconds": 0.84, "n_threads": 1},
    {"n_atoms": 40000, "microseconds": 0.49, "n_threads": 2},
    {"n_atoms": 40000, "microseconds": 0.84, "n_threads": 1},
]


@pytest.fixture
def crystal():
    return bulk("NaCl", "rocksalt", a=5.64, cubic=True)


@pytest.fixture
def model(crystal):
    rng = np.random.default_rng(0)
    frames = [crystal.copy() for _ in range(4)]
    for frame in frames:
        frame.rattle(0.05, rng=rng)
    forces = PerAtomArray.from_list([rng.normal(size=(8, 3)) for _ in frames])
    embed = CycleMomentFeaturizer(n=2, N=1, bonds=3.2)
    net = BPNNRegressor((4,), max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(embed, net).fit(frames, forces)


def test_a_line_for_each_model_in_the_order_of_the_atoms():
    display = SpeedDisplay.from_table(ROWS, model="n_threads")
    assert [line.get_label() for line in display.lines_] == ["1", "2"]
    assert_array_equal(display.lines_[0].get_xdata(), [160, 5000, 40000])
    assert_array_equal(display.lines_[0].get_ydata(), [0.84, 0.73, 0.84])
    assert_array_equal(display.lines_[1].get_xydata(), [[40000, 0.49]])
    assert display.ax_.get_legend().get_title().get_text() == "n threads"


def test_axes():
    axes = SpeedDisplay.from_table(ROWS, model="n_threads").ax_
    assert axes.get_xlabel() == "Number of atoms"
    assert axes.get_ylabel() == "Time per atom and step (µs)"
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0.0, "times that differ little start at zero"


def test_times_of_several_sizes_are_on_a_logarithmic_axis():
    rows = [*ROWS, {"n_atoms": 160, "microseconds": 160.0, "n_threads": "DeePMD-kit"}]
    display = SpeedDisplay.from_table(rows, model="n_threads")
    assert display.ax_.get_yscale() == "log"
    display.figure_.draw_without_rendering()
    assert "10" in [tick.get_text() for tick in display.ax_.get_yticklabels()], "not a power of ten"


def test_many_models_are_named_above_the_axes():
    rows = [{"n_atoms": 8, "microseconds": 1.0, "name": f"model {k}"} for k in range(6)]
    for part, above in ((rows, True), (rows[:3], False), ([rows[0], rows[1] | {"name": "x" * 30}], True)):
        display = SpeedDisplay.from_table(part, model="name")
        display.figure_.draw_without_rendering()
        legend, frame = display.ax_.get_legend().get_window_extent(), display.ax_.get_window_extent()
        assert (legend.y0 >= frame.y1 - 1) == above
        assert legend.y1 <= display.figure_.bbox.y1 + 1


def test_thirty_models_are_told_apart():
    rows = [{"n_atoms": n, "microseconds": k + 1.0, "name": f"model {k}"} for k in range(30) for n in (8, 64)]
    display = SpeedDisplay.from_table(rows, model="name")
    lines = display.lines_
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 30
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}) == 30
    display.figure_.draw_without_rendering()
    legend, frame = display.ax_.get_legend().get_window_extent(), display.ax_.get_window_extent()
    assert legend.y0 >= frame.y1 - 1
    assert legend.y1 <= display.figure_.bbox.y1 + 1
    assert frame.height > 2.0 * display.figure_.dpi


def test_lines_differ_in_more_than_colour():
    lines = SpeedDisplay.from_table(ROWS, model="n_threads").lines_
    for look in ("color", "marker", "linestyle"):
        assert getattr(lines[0], f"get_{look}")() != getattr(lines[1], f"get_{look}")()


def test_repeated_rows_give_their_median():
    table = {"n_atoms": [8, 8, 8], "microseconds": [1.0, 2.0, 50.0]}
    display = SpeedDisplay.from_table(table)
    assert_array_equal(display.lines_[0].get_xydata(), [[8, 2.0]])
    assert display.ax_.get_legend() is None


def test_text_of_a_file_is_read():
    display = SpeedDisplay.from_table([{"atoms": "160", "us": "0.5"}], n_atoms="atoms", microseconds="us")
    assert_array_equal(display.lines_[0].get_xydata(), [[160, 0.5]])


def test_models_and_calculators_are_timed_on_supercells(model, crystal):
    models = {"L2(1)": model, "Lennard-Jones": LennardJones(sigma=2.0, rc=4.0)}
    display = SpeedDisplay.from_estimators(models, crystal, repeats=[(2, 2, 1), (1, 1, 1)], calls=2)
    assert list(display.times) == ["L2(1)", "Lennard-Jones"]
    for sizes, times in display.times.values():
        assert_array_equal(sizes, [8, 32])
        assert (times > 0).all()
    assert [line.get_label() for line in display.lines_] == list(models)
    assert crystal.calc is None


def test_it_draws_into_given_axes_and_again():
    ax = Figure(layout="constrained", figsize=(3, 2.4)).subplots()
    display = SpeedDisplay.from_table(ROWS, model="n_threads", ax=ax, line_kwargs={"linewidth": 3.0})
    assert display.ax_ is ax
    assert display.lines_[0].get_linewidth() == 3.0
    assert display.plot() is display
    assert display.ax_ is not ax
    assert len(display.lines_) == 2
    assert_allclose(display.lines_[0].get_linewidth(), 1.6)
    display.figure_.draw_without_rendering()


@pytest.mark.parametrize(
    ("message", "table"),
    [
        (
            "table must have rows with the columns 'n_atoms', 'microseconds'; got 1 rows, of the columns "
            "'n'.",
            [{"n": 1}],
        ),
        (
            "table must have positive numbers in column 'microseconds'; got 'fast'. Leave rows without a "
            "time out.",
            [{"n_atoms": 1, "microseconds": "fast"}],
        ),
        (
            "table must have positive numbers in column 'n_atoms'; got 0. Leave rows without a time out.",
            [{"n_atoms": 0, "microseconds": 1.0}],
        ),
        (
            "table must have positive numbers in column 'microseconds'; got nan. Leave rows without a "
            "time out.",
            [{"n_atoms": 8, "microseconds": float("nan")}],
        ),
    ],
)
def test_bad_tables(message, table):
    with pytest.raises(ValueError, match=re.escape(message)):
        SpeedDisplay.from_table(table)


def test_a_single_model_is_no_dict_of_models(model, crystal):
    message = "estimators must be a dict of fitted models by name; got Pipeline. Write {'L4(2)': pipe}."
    with pytest.raises(TypeError, match=re.escape(message)):
        SpeedDisplay.from_estimators(model, crystal)


@pytest.mark.parametrize(("models", "repeats", "counts"), [({}, [(1, 1, 1)], (0, 1)), ({"a": 0}, [], (1, 0))])
def test_nothing_to_time(crystal, models, repeats, counts):
    message = "estimators and repeats must not be empty; got {} models and {} supercells.".format(*counts)
    with pytest.raises(ValueError, match=re.escape(message)):
        SpeedDisplay.from_estimators(models, crystal, repeats=repeats)


def test_pyplot_is_not_touched():
    code = (
        "import sys\n"
        "from tinynet_sklearn.speed_plots import SpeedDisplay\n"
        "assert 'matplotlib' not in sys.modules\n"
        "SpeedDisplay.from_table([{'n_atoms': 8, 'microseconds': 1.0}])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
