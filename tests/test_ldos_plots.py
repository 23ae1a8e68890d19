"""`LDOSDisplay`, `LDOSMapDisplay`, `MomentErrorDisplay`: the numbers that are drawn."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from tinynet_sklearn import LDOS, EnergyGrid, Levels, PerAtomArray
from tinynet_sklearn.ldos_map import LDOSMapDisplay
from tinynet_sklearn.ldos_metrics import ldos_moment_errors
from tinynet_sklearn.ldos_panels import Panel, draw_panel, shades
from tinynet_sklearn.ldos_plots import LDOSDisplay
from tinynet_sklearn.moment_plots import MomentErrorDisplay
from tinynet_sklearn.plotting import COLORS, new_axes

ENERGIES = np.linspace(-8.0, 4.0, 121)
SPECIES = [[42, 8, 8]] * 4
FERMI = np.array([0.5, 0.6, np.nan, 9.0])


@pytest.fixture
def true():
    means = np.random.default_rng(0).uniform(-6, -2, (4, 3, 1))
    levels = Levels(fermi=FERMI, vbm=np.zeros(4), cbm=FERMI + 0.5)
    grid = EnergyGrid(ENERGIES, width=0.4, zero="vbm")
    return LDOS.from_arrays(list(np.exp(-3 * (ENERGIES - means) ** 2)), grid, SPECIES, levels=levels)


@pytest.fixture
def predicted(true):
    """Errors grow from atom to atom."""
    return true.with_values(true.values * (1 + 0.05 * np.arange(1, 13)[:, None]))


def line(ax, label):
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def curve(ax, label):
    return line(ax, label).get_ydata()


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def verticals(ax):
    """Energies of vertical lines."""
    return sorted(line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1)


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---- LDOSDisplay -------------------------------------------------------------------------------------------


def test_a_panel_for_each_species_with_its_typical_atom(true, predicted):
    display = LDOSDisplay.from_predictions(true, predicted)
    assert len(display.axes_) == len(display.insets_) == 2
    assert display.ax_ is display.axes_[0]
    assert display.figure_ is display.ax_.figure
    error = np.abs(predicted.values - true.values).mean(axis=1)
    for ax, name, z, (structure, atom) in zip(
        display.axes_, ["O", "Mo"], [8, 42], display.shown_, strict=True
    ):
        rows = np.flatnonzero(true.species == z)
        assert_allclose(display.errors_[name], error[rows])
        closest = rows[np.argmin(np.abs(error[rows] - error[rows].mean()))]
        assert (structure, atom) == divmod(closest, 3)
        assert ax.get_title(loc="left") == f"{name}: atom {atom}, structure {structure}"
        assert_array_equal(curve(ax, "reference"), true[structure][atom])
        assert_array_equal(curve(ax, "prediction"), predicted[structure][atom])
        assert_array_equal(line(ax, "reference").get_xdata(), ENERGIES)


def test_the_inset_has_the_errors_of_all_atoms(true, predicted):
    display = LDOSDisplay.from_predictions(true, predicted)
    for inset, (name, errors), (structure, atom) in zip(
        display.insets_, display.errors_.items(), display.shown_, strict=True
    ):
        assert sum(bar.get_height() for bar in inset.patches) == len(errors), name
        row = 3 * structure + atom
        shown = np.abs(predicted.values[row] - true.values[row]).mean()
        assert verticals(inset) == [pytest.approx(shown)]
        assert inset.get_xlabel() == "MAE (states/eV/atom)"


def test_axes_say_what_zero_is(true, predicted):
    display = LDOSDisplay.from_predictions(true, predicted)
    assert [ax.get_ylabel() for ax in display.axes_] == ["LDOS (states/eV/atom)"] * 2
    assert [ax.get_xlabel() for ax in display.axes_] == ["", "Energy from the valence band maximum (eV)"]
    absolute = true.on_grid(EnergyGrid(ENERGIES))
    display = LDOSDisplay.from_predictions(absolute, predicted.values, kind="total")
    assert [inset.get_xlabel() for inset in display.insets_] == ["MAE (states/eV)"], "sums over atoms"
    axes = display.ax_
    assert axes.get_xlabel() == "Energy from the zero of the calculation (eV)"
    assert axes.get_ylabel() == "DOS (states/eV)"
    assert axes.get_xlim() == (-8.0, 4.0)


def test_lines_at_zero_and_at_a_known_fermi_level(true, predicted):
    display = LDOSDisplay.from_predictions(true, predicted, which=[(0, 0), (2, 0), (3, 0)])
    assert [verticals(ax) for ax in display.axes_] == [[0.0, 0.5], [0.0], [0.0]]  # unknown; outside
    assert legend_of(display.ax_) == ["reference", "prediction", "Fermi level"]

    absolute = true.on_grid(EnergyGrid(ENERGIES))
    assert verticals(LDOSDisplay.from_predictions(absolute, 1.1 * absolute, which=[(1, 0)]).ax_) == [0.6]
    metal = true.on_grid(EnergyGrid(ENERGIES, zero="fermi"))
    display = LDOSDisplay.from_predictions(metal, 1.1 * metal, which=[(1, 0)])
    assert verticals(display.ax_) == [0.0]
    assert legend_of(display.ax_) == ["reference", "prediction"]


def test_bright_and_dark_of_one_hue(true, predicted):
    display = LDOSDisplay.from_predictions(true, predicted)
    for ax, color in zip(display.axes_, COLORS, strict=False):
        assert line(ax, "reference").get_color() == shades(color)[0]
        assert line(ax, "prediction").get_color() == shades(color)[1]
    gray = [[np.dot([0.299, 0.587, 0.114], to_rgb(c)) for c in shades(color)] for color in COLORS]
    assert all(bright - dark > 0.3 for bright, dark in gray), "told apart without colour"


def test_curves_and_inset_do_not_meet(true, predicted):
    """Nor with curves that fill the whole window."""
    flat = true.with_values(np.ones_like(true.values))
    for y_true, y_pred in ((true, predicted), (flat, 1.1 * flat)):
        display = LDOSDisplay.from_predictions(y_true, y_pred)
        display.figure_.draw_without_rendering()
        for ax, inset in zip(display.axes_, display.insets_, strict=True):
            box = inset.get_tightbbox().transformed(ax.transData.inverted())
            under = (box.x0 <= ENERGIES) & (box.x1 >= ENERGIES)
            highest = max(curve(ax, label)[under].max() for label in ("reference", "prediction"))
            assert highest < box.y0
            assert ax.get_ylim()[1] > curve(ax, "prediction").max()


def test_lines_end_below_the_inset():
    """Here the inset has nowhere to go but over a line."""
    grid = EnergyGrid(np.linspace(-0.5, 0.5, 101), zero="vbm")
    narrow = np.where(np.abs(grid.energies) < 0.2, 0.0, 10.0)
    panel = Panel("", COLORS[0], "states/eV", narrow, narrow, None, 0.4, 0.1, np.array([0.1, 0.2]))
    ax = new_axes(4.0, 2.0)
    draw_panel(ax, panel, grid, {}, {})
    ends = {line.get_xdata()[0]: line.get_ydata()[1] for line in ax.lines if len(line.get_xdata()) == 2}
    assert list(ends) == [0.0, 0.4]
    assert ends[0.0] < 0.5
    assert ends[0.4] == 1.0


def test_negative_values_are_shown(true):
    display = LDOSDisplay.from_predictions(true, true.with_values(true.values - 0.5))
    assert all(ax.get_ylim()[0] < -0.5 for ax in display.axes_)
    assert all(ax.get_ylim()[0] == 0 for ax in LDOSDisplay.from_predictions(true, true).axes_)


def test_chosen_atoms(true, predicted):
    display = LDOSDisplay.from_predictions(true, predicted, which=[(1, 2), (-1, -3)])
    assert display.shown_ == [(1, 2), (3, 0)]
    assert [ax.get_title(loc="left") for ax in display.axes_] == [
        "O: atom 2, structure 1",
        "Mo: atom 0, structure 3",
    ]
    assert_array_equal(curve(display.axes_[1], "reference"), true[3][0])


def test_totals_and_the_total_of_the_calculation(true, predicted):
    own = 1.1 * true.total()
    own[3] = np.nan
    with_own = replace(true, reference_total=own)
    display = LDOSDisplay.from_predictions(with_own, predicted, kind="total", which=[1, -1])
    assert display.shown_ == [1, 3]
    assert_allclose(curve(display.axes_[0], "reference"), true.total()[1])
    assert_allclose(curve(display.axes_[1], "prediction"), predicted.total()[3])
    assert_allclose(curve(display.axes_[0], "calculation"), own[1])
    assert [line.get_label() for line in display.axes_[1].lines].count("calculation") == 0
    assert legend_of(display.ax_) == ["reference", "prediction", "calculation", "Fermi level"]
    assert_allclose(display.errors_["total"], np.abs(predicted.total() - true.total()).mean(axis=1))

    typical = LDOSDisplay.from_predictions(true, predicted, kind="total")
    errors = typical.errors_["total"]
    assert typical.shown_ == [np.argmin(np.abs(errors - errors.mean()))]
    assert typical.ax_.get_title(loc="left") == f"Total: structure {typical.shown_[0]}"


def test_a_single_structure_has_no_distribution(true, predicted):
    display = LDOSDisplay.from_predictions(true[:1], predicted[:1], kind="total")
    assert display.insets_ == []


def test_atoms_of_unknown_species(true, predicted):
    anonymous = LDOS(true.values, true.offsets, np.zeros(12, dtype=int), grid=true.grid)
    display = LDOSDisplay.from_predictions(anonymous, predicted.values)
    assert list(display.errors_) == ["atoms"]
    display = LDOSDisplay.from_predictions(
        anonymous, PerAtomArray(predicted.values, true.offsets, true.species)
    )
    assert list(display.errors_) == ["O", "Mo"]


def test_from_estimator_predicts(true, predicted):
    estimator = SimpleNamespace(predict=lambda X: predicted if X == "structures" else None)
    display = LDOSDisplay.from_estimator(estimator, "structures", true, kind="total", which=[2])
    assert_allclose(curve(display.ax_, "prediction"), predicted.total()[2])


def test_given_axes_and_styles_are_used(true, predicted):
    axes = Figure().subplots(1, 2)
    display = LDOSDisplay.from_predictions(
        true, predicted, axes=axes, reference_kwargs={"alpha": 0.5}, prediction_kwargs={"linewidth": 3.0}
    )
    assert list(display.axes_) == list(axes)
    assert line(axes[0], "reference").get_alpha() == 0.5
    assert line(axes[1], "prediction").get_linewidth() == 3.0
    single = Figure().subplots()
    assert display.plot(single, which=[(0, 1)]).ax_ is single


def test_messages_of_ldos_display(true, predicted):
    def call(error_type, **arguments):
        return message_of(error_type, lambda: LDOSDisplay.from_predictions(true, predicted, **arguments))

    assert call(ValueError, kind="ldos") == "kind must be 'atoms' or 'total'; got 'ldos'."
    assert call(ValueError, axes=new_axes(3, 3)) == (
        "axes must hold one Axes for each of the 2 panels; got 1. Pass None for a new figure, or choose the "
        "panels with which=."
    )
    for which in ([1], [], [(0, 1), 2], [(0.5, 1.0)], [(1, 2, 3)]):
        assert call(ValueError, which=which) == (
            f"which must be a list of (structure, atom) with kind='atoms'; got {which!r}."
        )
    for which in ([(0, 1)], 0):
        assert call(ValueError, which=which, kind="total") == (
            f"which must be a list of structures with kind='total'; got {which!r}."
        )
    assert call(IndexError, which=[(4, 0)]) == "which must be in y_true, which has 4 structures; got 4."
    assert call(IndexError, which=[(1, 0), (2, 3)]) == (
        "which must be in y_true, which has 3 atoms in structure 2; got 3."
    )
    assert (
        call(IndexError, which=[-5], kind="total")
        == "which must be in y_true, which has 4 structures; got -5."
    )
    assert message_of(ValueError, lambda: LDOSDisplay.from_predictions(true.values, predicted.values)) == (
        "y_true or y_pred must be an LDOS, which knows its energies; got ndarray and ndarray. Write "
        "LDOS.from_arrays(curves, EnergyGrid(energies, width=...), species)."
    )


# ---- LDOSMapDisplay ----------------------------------------------------------------------------------------


def drawn(display):
    """Colours (n_structures, n_energies)."""
    return display.mesh_.get_array().T


@pytest.mark.parametrize(
    ("atoms", "columns", "quantity"),
    [
        (None, [0, 1, 2], "DOS"),
        ("O", [1, 2], "LDOS of O"),
        ("Mo", [0], "LDOS of Mo"),
        (0, [0], "LDOS of Mo atom 0"),
        (-1, [2], "LDOS of O atom -1"),
        ([0, 2], [0, 2], "LDOS of 2 atoms"),
    ],
)
def test_maps_sum_the_chosen_atoms(true, atoms, columns, quantity):
    display = LDOSMapDisplay.from_predictions(true, atoms=atoms)
    assert_allclose(drawn(display), true.values.reshape(4, 3, -1)[:, columns].sum(axis=1))
    assert display.colorbar_.ax.get_ylabel() == f"{quantity} (states/eV)"
    assert display.mesh_.get_rasterized()
    assert display.mesh_.norm.vmin == 0.0


def test_every_structure_stands_in_the_middle_of_its_column(true):
    display = LDOSMapDisplay.from_predictions(true, times=[0.0, 1.0, 2.0, 6.0], time_unit="fs")
    corners = display.mesh_.get_coordinates()
    assert_allclose(corners[0, :, 0], [-0.5, 0.5, 1.5, 4.0, 8.0])
    assert_allclose(corners[:, 0, 1], np.linspace(-8.05, 4.05, 122))
    assert display.ax_.get_xlabel() == "Time (fs)"
    assert display.ax_.get_ylabel() == "Energy from the valence band maximum (eV)"
    assert display.ax_.get_ylim() == (-8.0, 4.0)

    numbered = LDOSMapDisplay.from_predictions(true)
    assert_allclose(numbered.mesh_.get_coordinates()[0, :, 0], np.arange(5) - 0.5)
    assert numbered.ax_.get_xlabel() == "Structure"
    assert all(tick == round(tick) for tick in numbered.ax_.get_xticks())
    single = LDOSMapDisplay.from_predictions(true[:1], times=[3.0])
    assert_allclose(single.mesh_.get_coordinates()[0, :, 0], [2.5, 3.5])


def test_known_levels_are_lines(true):
    display = LDOSMapDisplay.from_predictions(true, times=[0.1, 0.2, 0.3, 0.4])
    assert (
        list(display.levels_)
        == [
            "Fermi level",
            "valence band maximum",
            "conduction band minimum",
        ]
        == legend_of(display.ax_)
    )
    assert_array_equal(curve(display.ax_, "Fermi level"), FERMI)
    assert_array_equal(curve(display.ax_, "conduction band minimum"), FERMI + 0.5)
    assert_array_equal(line(display.ax_, "Fermi level").get_xdata(), [0.1, 0.2, 0.3, 0.4])


def test_levels_that_structures_do_not_know_are_not_drawn(true):
    bare = LDOS(true.values, true.offsets, true.species, grid=true.grid)
    assert LDOSMapDisplay.from_predictions(bare).levels_ == {}  # zero is where it was in training: no result


def test_map_from_estimator_and_into_given_axes(true):
    estimator = SimpleNamespace(predict=lambda X: true if X == "frames" else None)
    ax = Figure().subplots()
    display = LDOSMapDisplay.from_estimator(
        estimator, "frames", times=range(4), atoms="O", ax=ax, mesh_kwargs={"vmax": 5.0, "cmap": "viridis"}
    )
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert display.mesh_.norm.vmax == 5.0
    assert display.mesh_.get_cmap().name == "viridis"


def test_messages_of_maps(true):
    def call(error_type, ldos=true, **arguments):
        return message_of(error_type, lambda: LDOSMapDisplay.from_predictions(ldos, **arguments))

    assert call(TypeError, true.values) == (
        "ldos must be an LDOS, which knows its energies; got ndarray of shape (12, 121). Write "
        "LDOS.from_arrays(curves, grid, species), or fit the estimator with an LDOS as y."
    )
    broken = true.values.copy()
    broken[4, 7] = np.nan
    assert call(ValueError, true.with_values(broken)) == (
        "ldos must be finite; got NaN or infinity in structure 1. Leave these structures out."
    )
    assert call(ValueError, true[:0]) == "ldos must have at least one structure; got none."
    assert call(ValueError, time_unit="s") == "time_unit must be 'ps' or 'fs'; got 's'."
    assert call(ValueError, times=["a", "b"]) == "times must be numbers; got list."
    assert call(ValueError, times=[0.0, 1.0]) == (
        "times must hold one number for each of the 4 structures; got shape (2,)."
    )
    assert call(ValueError, times=[0.0, 1.0, 1.0, 2.0]) == (
        "times must be finite and ascend; got 1, 1 for structures 1 and 2. Sort the structures by time."
    )
    assert call(ValueError, times=[0.0, 1.0, 2.0, np.inf]) == (
        "times must be finite and ascend; got 2, inf for structures 2 and 3. Sort the structures by time."
    )
    assert call(ValueError, atoms="Ti") == "atoms must be a species of ldos, O, Mo; got 'Ti'."
    assert call(TypeError, atoms=1.5) == (
        "atoms must be None, a chemical symbol, or indices of atoms as an int or a list of them; got 1.5."
    )
    assert call(IndexError, atoms=[0, 3]) == (
        "atoms must be in every structure; got [0, 3] with 3 atoms in structure 0; 3 atoms in structure 1; 3 "
        "atoms in structure 2; and 1 more."
    )


# ---- MomentErrorDisplay ------------------------------------------------------------------------------------


@pytest.fixture
def by_n(true):
    """The greater n, the smaller the shift."""
    noise = np.random.default_rng(2).normal(size=true.values.shape)
    return {n: true.with_values(true.values + 0.02 / n * noise) for n in (6, 2, 4)}


def test_a_line_for_each_n_filled_up_to_n(true, by_n):
    display = MomentErrorDisplay.from_predictions(true, by_n, orders=8)
    assert legend_of(display.ax_) == [
        "n = 2",
        "n = 4",
        "n = 6",
        "mean of the species",
        "order up to n",
        "order above n",
    ]
    for n, predicted in by_n.items():
        expected = ldos_moment_errors(true, predicted, 8)["all"]
        assert_allclose(curve(display.ax_, f"n = {n}"), expected)
        assert_array_equal(line(display.ax_, f"n = {n}").get_xdata(), np.arange(1, 9))
    assert display.ax_.get_yscale() == "log"
    marks = [line for line in display.ax_.lines if line.get_linestyle() == "None"]
    filled = [len(line.get_xdata()) for line in marks if line.get_markerfacecolor() != "white"]
    assert filled == [2, 4, 6]
    assert len(display.figure_.axes) == 1


def test_named_models_and_one_species(true, by_n):
    named = {"SOAP": by_n[2], "L4(0)": by_n[4]}
    display = MomentErrorDisplay.from_predictions(true, named, species="O", orders=3, center=-3.0)
    assert legend_of(display.ax_) == ["SOAP", "L4(0)", "mean of the species"]
    assert_allclose(curve(display.ax_, "SOAP"), ldos_moment_errors(true, by_n[2], 3, center=-3.0)["O"])
    assert [line(display.ax_, name).get_color() for name in named] == list(COLORS[:2])
    assert display.ax_.get_ylabel() == "RMSE / spread, O"
    assert display.ax_.get_xlabel() == "Order of the moment"


def test_moments_that_do_not_exist_leave_gaps(true):
    nothing = true.with_values(np.zeros_like(true.values))
    display = MomentErrorDisplay.from_predictions(true, {"nothing": nothing, "double": 2.0 * true})
    assert np.isnan(curve(display.ax_, "nothing")).all()
    assert np.isinf(display.errors["nothing"]).all()


def test_moments_from_estimators(true, by_n):
    models = {n: SimpleNamespace(predict=lambda X, n=n: by_n[n]) for n in by_n}
    ax = Figure().subplots()
    display = MomentErrorDisplay.from_estimators(models, "X", true, ax=ax, line_kwargs={"linewidth": 3.0})
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert line(ax, "n = 2").get_linewidth() == 3.0
    assert_allclose(display.errors[4], ldos_moment_errors(true, by_n[4])["all"])


def test_messages_of_moments(true, by_n):
    assert message_of(TypeError, lambda: MomentErrorDisplay.from_predictions(true, true)) == (
        "predictions must be a dict of predicted LDOS by name; got LDOS of shape (4, 121)."
    )
    assert message_of(ValueError, lambda: MomentErrorDisplay.from_estimators({}, "X", true)) == (
        "estimators must hold at least one model; got an empty dict."
    )
    assert message_of(ValueError, lambda: MomentErrorDisplay.from_predictions(true, by_n, species="Ti")) == (
        "species must be one of 'O', 'Mo', 'all'; got 'Ti'."
    )


def test_no_screen_and_no_open_figures(tmp_path):
    """With pyplot never imported, no window can open and no figure stays in its list."""
    code = (
        "import sys, numpy as np\n"
        "from tinynet_sklearn.ldos import LDOS\n"
        "from tinynet_sklearn.ldos_map import LDOSMapDisplay\n"
        "from tinynet_sklearn.ldos_plots import LDOSDisplay\n"
        "from tinynet_sklearn.moment_plots import MomentErrorDisplay\n"
        "assert 'matplotlib' not in sys.modules\n"
        "curves = np.random.default_rng(0).random((4, 9))\n"
        "y = LDOS.from_arrays([curves] * 3, np.arange(9.0), [[1, 1, 8, 8]] * 3)\n"
        "displays = [LDOSDisplay.from_predictions(y, 2 * y), LDOSMapDisplay.from_predictions(y),\n"
        "            MomentErrorDisplay.from_predictions(y, {4: y.values**2})]\n"
        "for i, display in enumerate(displays):\n"
        f"    display.figure_.savefig({str(tmp_path)!r} + f'/{{i}}.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert all((tmp_path / f"{i}.png").stat().st_size > 10_000 for i in range(3))
