"""`EnergyGrid` and `Levels`: what an axis of energies is, when two are the same, and what is refused."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tinynet_sklearn import EnergyGrid, Levels
from tinynet_sklearn.energy_grid import ZEROS, zero_in_words


def grid(low=-8.0, high=4.0, n=121, **options):
    return EnergyGrid(np.linspace(low, high, n), **options)


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---- EnergyGrid --------------------------------------------------------------------------------------------


def test_what_a_grid_knows():
    axis = grid(width=0.2, zero="vbm")
    assert (len(axis), axis.low, axis.high, axis.width, axis.zero) == (121, -8.0, 4.0, 0.2, "vbm")
    assert axis.step == pytest.approx(0.1, rel=1e-14)
    assert axis.energies.dtype == np.float64
    assert repr(axis) == (
        "<EnergyGrid: 121 energies, -8 to 4 eV from the valence band maximum, width 0.2 eV>"
    )
    assert repr(grid(n=2)) == (
        "<EnergyGrid: 2 energies, -8 to 4 eV from the zero of the calculation, width not known>"
    )


def test_energies_may_be_a_list_or_integers_and_the_width_a_numpy_number():
    axis = EnergyGrid([0, 1, 2], width=np.float32(0.5))
    assert_array_equal(axis.energies, [0.0, 1.0, 2.0])
    assert isinstance(axis.width, float)
    assert EnergyGrid(range(3), width=1).width == 1.0


def test_energies_rounded_in_a_text_file_are_made_even():
    exact = np.linspace(-7.123, 5.456, 301)  # steps of 0.0419 eV
    axis = EnergyGrid(np.round(exact, 3))
    assert_allclose(axis.energies, exact, atol=6e-4)
    assert_allclose(np.diff(axis.energies), axis.step, rtol=1e-12)
    assert axis.low == -7.123
    assert axis.high == 5.456


def test_it_takes_no_hold_of_the_array_it_was_given():
    given = np.linspace(0, 1, 11)
    axis = EnergyGrid(given)
    given += 1
    assert axis.low == 0.0


def test_zeros_in_words():
    assert [zero_in_words(zero) for zero in ZEROS] == [
        "zero of the calculation",
        "Fermi level",
        "valence band maximum",
        "lowest states",
        "mean occupied energy",
        "common zero",
    ]
    assert zero_in_words("vacuum") == "vacuum"


NEAR = "energies must be at least two finite numbers in a row; got an array of shape "
STEPS = "energies must ascend in equal steps; got steps from "
FIRST = " eV. Interpolate the curves onto such energies first."


@pytest.mark.parametrize(
    ("energies", "expected"),
    [
        ([], f"{NEAR}(0,)."),
        ([1.0], f"{NEAR}(1,)."),
        (1.0, f"{NEAR}()."),
        (np.zeros((2, 3)), f"{NEAR}(2, 3)."),
        ([0.0, np.nan, 2.0], f"{NEAR}(3,) with NaN or infinity."),
        ([0.0, 1.0, np.inf], f"{NEAR}(3,) with NaN or infinity."),
        ([0.0, 1.0, 3.0], f"{STEPS}1 to 2{FIRST}"),
        ([0.0, 1.0, 2.1, 3.0], f"{STEPS}0.9 to 1.1{FIRST}"),
        ([2.0, 1.0, 0.0], f"{STEPS}-1 to -1{FIRST}"),
        ([1.0, 1.0, 1.0], f"{STEPS}0 to 0{FIRST}"),
        ([0.0, 2.0, 1.0, 3.0], f"{STEPS}-1 to 2{FIRST}"),
        (np.geomspace(1, 10, 4), f"{STEPS}1.15443 to 5.35841{FIRST}"),
    ],
)
def test_energies_that_are_no_grid_are_refused(energies, expected):
    assert message_of(ValueError, lambda: EnergyGrid(energies)) == expected


@pytest.mark.parametrize(
    ("energies", "what"), [("low", "str"), ([[0, 1], [2]], "list"), (grid(), "EnergyGrid")]
)
def test_energies_that_are_no_numbers_are_refused(energies, what):
    assert message_of(TypeError, lambda: EnergyGrid(energies)) == f"energies must be numbers; got {what}."


@pytest.mark.parametrize("width", [0.0, -0.1, np.nan, np.inf, "0.2", [0.2], 0.2j])
def test_widths_that_are_none_are_refused(width):
    assert message_of(ValueError, lambda: grid(width=width)) == (
        "width must be the standard deviation of a Gaussian in eV, or None if it is not known; got "
        f"{width!r}."
    )


def test_zeros_that_are_none_are_refused():
    assert message_of(ValueError, lambda: grid(zero="vacuum")) == (
        "zero must be one of 'absolute', 'fermi', 'vbm', 'onset', 'centroid', 'learned'; got 'vacuum'."
    )


@pytest.mark.parametrize(
    "other",
    [
        grid(width=0.2),
        grid(-8 + 1e-5, 4 - 1e-5, width=0.2),
        grid(width=0.2 * (1 + 1e-4)),
        EnergyGrid(np.round(np.linspace(-8, 4, 121), 3), 0.2),
        pickle.loads(pickle.dumps(grid(width=0.2))),
    ],
)
def test_the_same_grid(other):
    axis = grid(width=0.2)
    assert axis.difference(other) is None
    assert other.difference(axis) is None


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (
            grid(width=0.2, zero="fermi"),
            "energies from the zero of the calculation and from the Fermi level",
        ),
        (grid(n=61, width=0.2), "121 energies from -8 to 4 eV and 61 from -8 to 4 eV"),
        (grid(-9, 3, width=0.2), "121 energies from -8 to 4 eV and 121 from -9 to 3 eV"),
        (grid(-8, 4.0002, width=0.2), "121 energies from -8 to 4 eV and 121 from -8 to 4.0002 eV"),
        (grid(width=0.25), "widths of 0.2 eV and 0.25 eV"),
        (grid(width=None), "widths of 0.2 eV and unknown size"),
    ],
)
def test_different_grids_in_words(other, expected):
    assert grid(width=0.2).difference(other) == expected
    assert other.difference(grid(width=0.2)) is not None


def test_a_small_difference_is_not_hidden_by_rounding():
    fine = EnergyGrid(np.arange(11) * 1e-3 - 10.0)
    moved = EnergyGrid(fine.energies + 5e-6)
    assert fine.difference(moved) == "11 energies from -10 to -9.99 eV and 11 from -9.999995 to -9.989995 eV"


def test_an_unknown_width_is_not_a_width_of_one():
    assert grid(width=1.0).difference(grid()) == "widths of 1 eV and unknown size"


def test_integrals_are_exact_for_straight_lines_and_converge_for_others():
    axis = grid(-1, 3, 41)
    assert_allclose(axis.integrate([axis.energies, np.ones(41)]), [4.0, 4.0], rtol=1e-14)
    assert axis.integrate(np.ones((2, 0, 41))).shape == (2, 0)
    assert_allclose(axis.integrate(np.cos(axis.energies)), np.sin(3) - np.sin(-1), rtol=axis.step**2)


def test_the_integral_up_to_every_energy():
    axis = grid(0, 2, 2001)
    found = axis.cumulative(np.sin(axis.energies))
    assert found.shape == (2001,)
    assert found[0] == 0.0
    assert_allclose(found, 1 - np.cos(axis.energies), atol=1e-6)
    curves = np.random.default_rng(0).normal(size=(3, 2001))
    assert_allclose(axis.cumulative(curves)[:, -1], axis.integrate(curves), rtol=1e-12)
    assert_allclose(
        axis.cumulative(curves.astype(np.float32)), axis.cumulative(curves), atol=1e-6
    )  # counts of many small numbers in double precision


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (None, None, slice(0, 121)),
        (-8, 4, slice(0, 121)),
        (-8 + 1e-6, 4 - 1e-6, slice(0, 121)),
        (-7.95, None, slice(1, 121)),
        (None, -7.9, slice(0, 2)),
        (0.0, 0.1, slice(80, 82)),
        (-100, 100, slice(0, 121)),
    ],
)
def test_which_energies_are_in_a_window(low, high, expected):
    axis = grid(width=0.2, zero="fermi")
    assert axis.window(low, high) == expected
    part = axis.at(expected)
    assert_allclose(part.energies, axis.energies[expected], atol=1e-12)
    assert (part.width, part.zero) == (0.2, "fermi")


@pytest.mark.parametrize(
    ("low", "high", "named"),
    [(0.0, 0.05, "0 to 0.05"), (2, 1, "2 to 1"), (4, None, "4 to 4"), (np.nan, None, "nan to 4")],
)
def test_windows_without_energies_are_refused(low, high, named):
    assert message_of(ValueError, lambda: grid().window(low, high)) == (
        f"low and high must hold at least two energies between them; got {named} eV of a grid from -8 to 4 "
        "eV from the zero of the calculation."
    )


# ---- Levels ------------------------------------------------------------------------------------------------


def arrays_of(levels):
    return np.array([levels.fermi, levels.vbm, levels.cbm, levels.n_electrons, levels.shift])


def test_what_is_not_given_is_not_known():
    levels = Levels(vbm=[1, 2], n_electrons=[8, None])
    assert len(levels) == 2
    assert_array_equal(arrays_of(levels)[1], [1.0, 2.0])
    assert_array_equal(levels.n_electrons, [8.0, np.nan])
    assert np.isnan(arrays_of(levels)[[0, 2, 4]]).all()
    assert np.isnan(arrays_of(Levels.unknown(3))).all()
    assert len(Levels.unknown(0)) == 0


@pytest.mark.parametrize(
    "key", [slice(1, 3), slice(None, None, -1), [2, 0], np.array([True, False, True, False]), [], slice(0, 0)]
)
def test_levels_are_selected_by_structure(key):
    numbers = np.arange(20.0).reshape(5, 4)
    assert_array_equal(arrays_of(Levels(*numbers)[key]), numbers[:, key])


def test_levels_are_joined_and_cut_again():
    first, second = Levels(fermi=[1.0, 2.0]), Levels(vbm=[0.5], shift=[3.0])
    both = Levels.joined([first, second])
    assert_array_equal(arrays_of(both[:2]), arrays_of(first))
    assert_array_equal(arrays_of(both[2:]), arrays_of(second))


def test_a_zero_that_moves_up_takes_the_levels_along():
    levels = Levels(fermi=[1.0, 2.0], vbm=[0.5, np.nan], cbm=[1.5, 3.0], n_electrons=[8, 9])
    once = levels.moved(np.array([0.25, -1.0]))
    assert_array_equal(arrays_of(once), [[0.75, 3.0], [0.25, np.nan], [1.25, 4.0], [8, 9], [0.25, -1.0]])
    assert_array_equal(once.moved(np.array([1.0, 1.0])).shift, [1.25, 0.0])


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({}, "none"),
        ({"fermi": 1.0}, "fermi of shape ()"),
        ({"vbm": [[1.0]]}, "vbm of shape (1, 1)"),
        ({"fermi": [1.0], "cbm": [1.0, 2.0]}, "fermi of shape (1,), cbm of shape (2,)"),
    ],
)
def test_levels_that_do_not_fit_are_refused(arrays, named):
    assert message_of(ValueError, lambda: Levels(**arrays)) == (
        f"levels must hold one number per structure in each of its arrays; got {named}."
    )


@pytest.mark.parametrize(
    ("given", "named"), [(["a"], "['a']"), ([[1], [1, 2]], "[[1], [1, 2]]"), ("b", "'b'")]
)
def test_levels_that_are_no_numbers_are_refused(given, named):
    assert message_of(TypeError, lambda: Levels(fermi=given)) == (
        f"fermi must hold one number per structure; got {named}. Write NaN where it is not known."
    )


@pytest.mark.parametrize(("given", "named"), [("a", "'a'"), ((-5, 5), "(-5, 5)"), ([1.0], "[1.0]")])
def test_windows_between_other_things_than_energies_are_refused(given, named):
    assert message_of(TypeError, lambda: grid().window(None, given)) == (
        f"high must be an energy in eV, or None for the end of the grid; got {named}. Pass numbers, as in "
        "low=-5, high=5."
    )
    assert grid().window(np.float32(-8), np.array(4)) == grid().window(None, None)
