"""`PairDistributionDisplay`: what is drawn, and that nothing is left behind."""

import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from crystals import perovskite, rutile, trajectory
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from pymatgen.analysis.local_env import MinimumDistanceNN

from tinynet_sklearn.bond_suggestion import suggest_bonds
from tinynet_sklearn.graph import CutoffBonds
from tinynet_sklearn.pair_distribution_plots import PairDistributionDisplay
from tinynet_sklearn.pair_distributions import BIN, pair_distributions
from tinynet_sklearn.structures import as_structures


@pytest.fixture(scope="module")
def frames():
    return trajectory(perovskite() * (2, 1, 1), 4, 0.06)


def curve(ax):
    return next(line for line in ax.lines if line.get_label() == "g(r)").get_xydata()


def cutoff_line(ax):
    lines = [line for line in ax.lines if line.get_label() == "cutoff"]
    return lines[0].get_xdata()[0] if lines else None


def right_axes(display):
    return [ax for ax in display.figure_.axes if not any(ax is panel for panel in display.axes_)]


def test_without_a_rule_it_marks_what_is_suggested(frames):
    display = PairDistributionDisplay.from_structures(frames)
    assert display.cutoffs_ == suggest_bonds(frames)
    assert [cutoff_line(ax) for ax in display.axes_] == list(display.cutoffs_.values())
    assert display.coordination_ == {"Ba-O": (12.0, 4.0), "Ti-O": (6.0, 2.0)}
    assert [ax.get_title(loc="left") for ax in display.axes_] == [
        f"Ba-O < {display.cutoffs_['Ba-O']:.2f} Å\n12 O around Ba, 4 Ba around O",
        f"Ti-O < {display.cutoffs_['Ti-O']:.2f} Å\n6 O around Ti, 2 Ti around O",
    ]


def test_the_curve_is_g(frames):
    display = PairDistributionDisplay.from_structures(frames)
    found = pair_distributions(as_structures(frames), 8.6)[8, 22]
    assert_allclose(curve(display.axes_[1])[:, 1], found.g)
    assert_allclose(curve(display.axes_[1])[:, 0], found.distances)
    assert display.axes_[1].get_ylabel() == "$g(r)$, solid"
    assert display.axes_[1].get_xlabel() == "Distance (Å)"


def test_the_dashed_line_counts_neighbours_on_an_axis_of_its_own(frames):
    display = PairDistributionDisplay.from_structures(frames)
    counting = right_axes(display)[1]
    (line,) = counting.lines
    x, y = line.get_xydata().T
    assert y[np.searchsorted(x, display.cutoffs_["Ti-O"])] == 6.0
    assert counting.get_ylabel() == "O around Ti, dashed"
    assert line.get_linestyle() == "--"
    assert counting.get_ylim()[1] > 6.0


def test_lines_differ_without_colours(frames):
    display = PairDistributionDisplay.from_structures(frames)
    solid, dotted = display.ax_.lines
    assert solid.get_linestyle() == "-"
    assert dotted.get_linestyle() != "-"


def test_what_is_bonded_is_filled(frames):
    display = PairDistributionDisplay.from_structures(frames, {"Ti-O": 2.0})
    (panel,) = display.axes_
    (area,) = panel.collections
    x, y = area.get_paths()[0].vertices.T
    assert x[y > 0.0].max() == pytest.approx(2.0, abs=BIN)
    assert y.max() == pytest.approx(curve(panel)[:, 1].max(), rel=0.02)
    assert 0.0 < display.coordination_["Ti-O"][0] < 6.0


def test_a_cutoff_at_the_shortest_distance_draws_a_panel():
    display = PairDistributionDisplay.from_structures([rutile()], {"Ti-O": 1.9464}, pairs="all")
    assert [ax.get_ylim()[1] > 0.0 for ax in right_axes(display)] == [True] * 3


def test_panels_show_the_second_shell_and_not_much_more(frames):
    display = PairDistributionDisplay.from_structures(frames)
    low, high = display.axes_[1].get_xlim()
    assert 1.0 < low < 1.8
    assert 4.0 < high < 5.5


def test_a_given_range_ends_the_panels(frames):
    display = PairDistributionDisplay.from_structures(frames, r_max=7.0)
    assert [ax.get_xlim()[1] for ax in display.axes_] == [7.0, 7.0]


@pytest.mark.parametrize(
    ("bonds", "cutoffs"),
    [
        (3.1, {"Ba-O": 3.1, "Ti-O": 3.1}),
        ({"Ti-O": 2.6, "O-O": 3.2}, {"O-O": 3.2, "Ti-O": 2.6}),
        (CutoffBonds(3.0, heteroatomic=False), {"Ba-O": 3.0, "O-O": 3.0, "Ti-O": 3.0}),
        (MinimumDistanceNN(tol=0.25), {}),
    ],
)
def test_any_rule_can_be_looked_at(frames, bonds, cutoffs):
    display = PairDistributionDisplay.from_structures(frames[:1], bonds)
    assert display.cutoffs_ == cutoffs
    assert display.coordination_["Ti-O"] == (6.0, 2.0)
    for ax, pair in zip(display.axes_, display.coordination_, strict=True):
        assert cutoff_line(ax) == cutoffs.get(pair)


def test_pairs_that_are_not_bonded(frames):
    display = PairDistributionDisplay.from_structures(frames, {"Ti-O": 2.7}, pairs="all")
    titles = [ax.get_title(loc="left") for ax in display.axes_]
    assert titles[0] == "Ba-Ba\nnot bonded"
    assert len(titles) == 6
    assert list(display.cutoffs_) == ["Ti-O"]
    one = PairDistributionDisplay.from_structures(frames, {"Ti-O": 2.7}, pairs=["O-O"])
    assert list(one.coordination_) == ["O-O"]


def test_like_atoms_are_counted_once():
    display = PairDistributionDisplay.from_structures([bulk("Cu")])
    assert display.coordination_ == {"Cu-Cu": (12.0, 12.0)}
    assert display.ax_.get_title(loc="left") == "Cu-Cu < 3.10 Å\n12 Cu around Cu"


def test_molecules_have_a_density():
    display = PairDistributionDisplay.from_structures(trajectory(molecule("H2O"), 5))
    assert display.ax_.get_ylabel() == "O atoms per Å$^3$, solid"
    assert display.coordination_ == {"H-O": (1.0, 2.0)}


def test_a_pair_without_cutoff_is_shown_without(frames):
    display = PairDistributionDisplay.from_structures(frames, r_max=2.9)
    assert list(display.cutoffs_) == ["Ti-O"]
    assert display.axes_[0].get_title(loc="left") == "Ba-O\nnot bonded"
    nothing = PairDistributionDisplay.from_structures([bulk("Cu")], r_max=2.7)
    assert nothing.cutoffs_ == {}


def test_given_axes_and_styles_are_used(frames):
    axes = Figure().subplots(1, 2)
    display = PairDistributionDisplay.from_structures(frames, ax=axes, line_kwargs={"linewidth": 3.0})
    assert_array_equal(display.axes_, axes)
    assert display.ax_ is axes[0]
    assert display.figure_ is axes[0].figure
    assert axes[0].lines[0].get_linewidth() == 3.0
    single = Figure().subplots()
    assert PairDistributionDisplay.from_structures(frames, {"Ti-O": 2.7}, ax=single).ax_ is single


def test_panels_stand_in_rows_of_three(frames):
    display = PairDistributionDisplay.from_structures(frames, pairs=["Ba-O", "Ti-O", "O-O", "Ba-Ti"])
    assert display.axes_.shape == (4,)
    assert len(display.figure_.axes) == 8  # four panels, each with an axis on its right
    rows = {round(ax.get_position().y0, 2) for ax in display.axes_}
    assert len(rows) == 2


def test_plot_again(frames):
    display = PairDistributionDisplay.from_structures(frames)
    first = display.figure_
    assert display.plot() is display
    assert display.figure_ is not first


# ---- Errors ------------------------------------------------------------------------------------------------


def test_too_few_axes(frames):
    with pytest.raises(ValueError, match="one Axes") as error:
        PairDistributionDisplay.from_structures(frames, ax=Figure().subplots())
    assert str(error.value) == (
        "ax must hold one Axes for each of the 2 panels; got 1. Pass None for a new figure, or choose the "
        "panels with pairs=."
    )


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="nothing to draw") as error:
        PairDistributionDisplay.from_structures([rutile()], {"Ti-O": 1.5})
    assert str(error.value) == (
        "structures have nothing to draw with bonds={'Ti-O': 1.5} and pairs='auto'; use pairs='all' or a "
        "larger r_max."
    )
    with pytest.raises(ValueError, match="nothing to draw"):
        PairDistributionDisplay.from_structures([Atoms("H")])


def test_what_suggest_bonds_refuses():
    with pytest.raises(ValueError, match="pairs must be 'auto'"):
        PairDistributionDisplay.from_structures([rutile()], pairs="some")
    with pytest.raises(ValueError, match="r_max must be"):
        PairDistributionDisplay.from_structures([rutile()], r_max=0.0)
    with pytest.raises(TypeError, match="bonds must be a cutoff"):
        PairDistributionDisplay.from_structures([rutile()], "some")


def test_atoms_in_one_place():
    water = molecule("H2O")
    water.positions[2] = water.positions[1]
    with pytest.raises(ValueError, match="place of its own") as error:
        PairDistributionDisplay.from_structures([water], {"O-H": 1.2})
    assert str(error.value) == (
        "structures must have every atom in a place of its own:\n"
        "  structure 0: atoms 1 and 2 are 0 Angstrom apart; remove one of them"
    )


def test_pyplot_is_not_loaded():
    code = (
        "import sys\n"
        "from ase.build import bulk\n"
        "from tinynet_sklearn.pair_distribution_plots import PairDistributionDisplay\n"
        "assert 'matplotlib' not in sys.modules\n"
        "PairDistributionDisplay.from_structures([bulk('Cu')])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
