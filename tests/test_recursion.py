"""Recursion coefficients: of known orthogonal polynomials, of crystals, and their errors."""

import numpy as np
import pytest
from crystals import rattled, rhenium_trioxide
from numpy.testing import assert_allclose
from oracles import brute_force_bonds, different_within
from tight_binding import tight_binding_states

from tinynet_sklearn import LDOS, EnergyGrid, MomentErrorDisplay
from tinynet_sklearn.ldos_metrics import ldos_recursion_errors
from tinynet_sklearn.recursion import recursion_coefficients

FINE = np.linspace(-8.0, 8.0, 3201)


def test_a_gaussian_gives_the_polynomials_of_hermite():
    curve = np.exp(-0.5 * ((FINE - 0.3) / 0.7) ** 2)
    a, b = recursion_coefficients(FINE, curve[None], 5)
    assert_allclose(a, 0.3, atol=1e-10)
    assert_allclose(b[0], 0.7 * np.sqrt(np.arange(1, 6)), rtol=1e-10)


def test_a_semicircle_gives_the_polynomials_of_chebyshev():
    curve = np.sqrt(np.clip(4.0 - FINE**2, 0.0, None))
    a, b = recursion_coefficients(FINE, curve[None], 6)
    assert_allclose(a, 0.0, atol=1e-12)
    assert_allclose(b, 1.0, rtol=1e-3)  # a quarter of the band width


def test_few_levels_end_the_chain():
    weights = np.zeros((1, 11))
    weights[0, [2, 8]] = 1.0
    a, b = recursion_coefficients(np.arange(11.0), weights, 4)
    assert_allclose(a[0, :2], [5.0, 5.0])
    assert_allclose(b[0, :2], [3.0, 0.0], atol=1e-12)
    assert np.isnan(a[0, 2:]).all()
    assert np.isnan(b[0, 2:]).all()


def test_coefficients_follow_from_moments():
    """b_1^2 = mu_2 and b_2^2 = (mu_4 - mu_2^2) / mu_2 about the centre of a symmetric band."""
    rng = np.random.default_rng(0)
    half = rng.uniform(0.1, 1.0, (3, 60))
    curves = np.concatenate([half[:, ::-1], half[:, :1] * 0 + 1.0, half], axis=1)
    curves[:, [0, -1]] = 0.0
    ldos = LDOS.from_arrays([curves], np.arange(-60, 61) / 20.0)
    mu = ldos.moments(4)
    _, b = ldos.recursion_coefficients(2)
    assert_allclose(b[:, 0] ** 2, mu[:, 1], rtol=1e-12)
    assert_allclose(b[:, 1] ** 2, (mu[:, 3] - mu[:, 1] ** 2) / mu[:, 1], rtol=1e-10)


def test_states_of_a_crystal_give_its_hopping():
    """b_1^2 of an atom is the sum of the squared hopping elements of its bonds."""
    atoms = rattled(rhenium_trioxide(), 3, amplitude=0.05)
    bonds = brute_force_bonds(rhenium_trioxide(), different_within(3.1))
    eigenvalues, weights, k_weights = tight_binding_states(atoms, bonds, 6)
    levels = np.unique(eigenvalues.ravel())
    share = np.array(
        [(k_weights[:, None, None] * weights)[eigenvalues == level].sum(axis=0) for level in levels]
    )
    _, b = recursion_coefficients(levels, share.T, 1)
    second = np.einsum("k,ks,ksa->a", k_weights, eigenvalues**2, weights)
    assert_allclose(b[:, 0] ** 2, second, rtol=1e-10)


def test_curves_without_states_have_none_and_negative_values_count_as_zero():
    energies = np.linspace(-4, 4, 81)
    curve = np.exp(-2 * energies**2)
    ldos = LDOS.from_arrays([np.stack([curve, 0 * curve, np.where(energies > 2, -1.0, curve)])], energies)
    a, b = ldos.recursion_coefficients(2)
    assert np.isnan([a[1], b[1]]).all()
    cut = LDOS.from_arrays([np.where(energies > 2, 0.0, curve)[None]], energies)
    assert_allclose([a[2], b[2]], np.array(cut.recursion_coefficients(2))[:, 0])


@pytest.mark.parametrize("n", [0, 3, 1.5, "2"])
def test_orders_that_do_not_exist(n):
    ldos = LDOS.from_arrays([[[1.0, 2.0, 1.0]]], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message follows
        ldos.recursion_coefficients(n)
    assert str(refusal.value) == f"n must be a positive whole number below the 3 energies; got {n!r}."


def test_errors_are_relative_to_the_spread_within_a_species():
    widths = np.array([0.5, 0.6, 0.8, 0.9])
    grid = EnergyGrid(FINE[::10])
    curves = np.exp(-0.5 * (grid.energies / widths[:, None]) ** 2)
    true = LDOS.from_arrays([curves], grid, [[8, 8, 22, 22]])
    wider = np.exp(-0.5 * (grid.energies / (widths[:, None] + 0.1)) ** 2)
    errors = ldos_recursion_errors(true, wider, n=2)
    assert_allclose(errors["O"], 0.1 / 0.05, rtol=1e-6)
    assert_allclose(errors["all"], 2.0, rtol=1e-6)
    missing = ldos_recursion_errors(true, 0 * curves, n=2)
    assert np.isinf(missing["all"]).all()


def test_marks_are_filled_where_walks_reach_far_enough():
    grid = EnergyGrid(FINE[::20])
    widths = np.array([[0.5], [0.6], [0.8]])
    true = LDOS.from_arrays([np.exp(-0.5 * (grid.energies / widths) ** 2)], grid)
    wider = {n: np.exp(-0.5 * (grid.energies / (widths + 0.1 / n)) ** 2) for n in (2, 4)}
    display = MomentErrorDisplay.from_predictions(true, wider, orders=3, quantity="recursion")
    filled = [line for line in display.ax_.lines if line.get_linestyle() == "None"][::2]
    assert [line.get_xdata().tolist() for line in filled] == [[1], [1, 2]]
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts[-2:] == ["k up to n / 2", "k above n / 2"]
    with pytest.raises(ValueError, match=r"^quantity must be one of 'moments', 'recursion'; got 'b'\.$"):
        MomentErrorDisplay.from_predictions(true, wider, quantity="b")
