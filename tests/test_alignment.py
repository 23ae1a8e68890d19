"""Onsets, gaps, Fermi levels and common zeros of curves, against shapes whose answer is known on paper."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erf, erfinv

from tinynet_sklearn.alignment import common_shifts, gap_edges, level_in_gap, level_of_count, onset

ENERGIES = np.linspace(-10, 10, 401)  # steps of 0.05 eV
STEP = 0.05
SPECIES = np.array([8, 8, 1])


def box(low, high, smear=0.0):
    """One state per eV between two energies, with edges of a Gaussian width."""
    if not smear:
        return np.where((low < ENERGIES) & (high > ENERGIES), 1.0, 0.0)
    s = np.sqrt(2) * smear
    return 0.5 * (erf((ENERGIES - low) / s) - erf((ENERGIES - high) / s))


def triangle(center, half):
    return np.clip(1 - np.abs(ENERGIES - center) / half, 0, None)


def count(curve):
    return np.concatenate([[0], np.cumsum((curve[1:] + curve[:-1]) / 2) * STEP])


# ---- Onset and gap -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.5])
def test_the_onset_of_a_straight_flank_is_found_between_energies(threshold):
    curve = triangle(0.013, 2.0)
    # the peak lies between two energies: the highest value on the grid is what fractions are of
    assert_allclose(
        onset(ENERGIES, curve, threshold), 0.013 - 2 + 2 * threshold * curve.max(), atol=0.4 * STEP
    )


def test_there_is_no_onset_where_states_go_on_below_or_are_none():
    assert np.isnan(onset(ENERGIES, box(-20, 0, 0.3), 0.01))
    assert np.isnan(onset(ENERGIES, np.zeros(401), 0.01))
    assert np.isfinite(onset(ENERGIES, box(-9, 0, 0.1), 0.01))


@pytest.mark.parametrize("fermi", [-0.5, 0.0, 0.6, 1.2])
def test_the_gap_between_two_bands_wherever_the_fermi_level_is_in_it(fermi):
    smear, threshold = 0.1, 0.01
    curve = box(-5, -1, smear) + box(2, 6, smear)
    tail = np.sqrt(2) * smear * erfinv(1 - 2 * threshold)  # where an edge has fallen to the threshold
    assert_allclose(gap_edges(ENERGIES, curve, fermi, threshold), (-1 + tail, 2 - tail), atol=0.2 * STEP)


def test_a_metal_has_its_edges_at_the_fermi_level():
    assert gap_edges(ENERGIES, box(-5, 5, 0.1), 0.7, 0.01) == (0.7, 0.7)


def test_bands_beyond_the_energies_have_no_edge():
    assert_array_equal(np.isnan(gap_edges(ENERGIES, box(-5, -1, 0.1), 0.0, 0.01)), [False, True])
    assert_array_equal(np.isnan(gap_edges(ENERGIES, box(2, 5, 0.1), 0.0, 0.01)), [True, False])
    for fermi in (-10.1, 10.1):
        assert np.isnan(gap_edges(ENERGIES, box(-5, 5, 0.1), fermi, 0.01)).all()
    assert np.isnan(gap_edges(ENERGIES, np.zeros(401), 0.0, 0.01)).all()


def test_a_fermi_level_just_beside_a_band_edge_lies_between_the_edges():
    curve = box(-5, -1) + box(2, 6)  # jumps from 1 to 0 between two energies
    for fermi in (-1.0001, -1.0, 1.9999, 2.0):
        vbm, cbm = gap_edges(ENERGIES, curve, fermi, 0.01)
        assert vbm <= fermi <= cbm
        assert_allclose([vbm, cbm], [-1, 2], atol=1.01 * STEP)


# ---- Fermi level -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0.5, 1.0, 2.345, 3.9])
def test_the_fermi_level_of_a_metal_is_where_the_count_is_reached(n):
    counted = count(box(-5, 5, 0.1))
    assert_allclose(level_of_count(ENERGIES, counted, n, 1e-6), np.interp(n, counted, ENERGIES), atol=1e-4)
    assert_allclose(level_of_count(ENERGIES, counted, n, 1e-6), n - 5, atol=1e-3 if n > 0.4 else 1)


@pytest.mark.parametrize("surplus", [-0.009, 0.0, 0.009])
def test_the_fermi_level_of_an_insulator_is_in_the_middle_of_its_gap(surplus):
    curve = box(-5, -1, 0.1) + box(2, 6, 0.1)
    assert_allclose(level_of_count(ENERGIES, count(curve), 4 + surplus, 0.01), 0.5, atol=0.1)
    assert_allclose(level_of_count(ENERGIES, count(curve), 4.0, 0.01), 0.5, atol=1e-6)


def test_a_band_filled_beside_a_wide_gap_keeps_its_own_fermi_level():
    """Counts that stand still in the gap must not be taken for the flank of the band."""
    curve = box(-5, -1) + box(2, 6)
    total = count(curve)[-1] / 2
    for n in (0.3, 1.0, 3.9, total - 0.02):
        assert_allclose(level_of_count(ENERGIES, count(curve), n, 0.01), n - 5, atol=0.06)
        assert_allclose(level_of_count(ENERGIES, count(curve), n + total, 0.01), n + 2, atol=0.06)


def test_wide_steps_are_counted_along_straight_lines():
    energies = np.arange(8.0)
    counted = np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0])
    for n, expected in ((0.0, 0.5), (0.25, 1.25), (1.0, 3.5), (1.5, 5.25), (2.0, 5.5), (3.0, 6.5)):
        assert_allclose(level_of_count(energies, counted, n, 1e-9), expected, atol=1e-8)


def test_no_electrons_and_all_of_them():
    counted = count(box(-5, 5))
    assert_allclose(level_of_count(ENERGIES, counted, 0.0, 1e-3), (-10 - 5) / 2, atol=0.05)
    assert_allclose(level_of_count(ENERGIES, counted, counted[-1], 1e-3), (10 + 5) / 2, atol=0.05)
    assert_allclose(level_of_count(ENERGIES, counted, -1e-12, 1e-3), -7.5, atol=0.05)  # zero, by rounding


@pytest.mark.parametrize("n", [-0.1, 10.1, np.nan])
def test_other_counts_have_no_level(n):
    assert np.isnan(level_of_count(ENERGIES, count(box(-5, 5)), n, 0.01))


def test_curves_a_little_below_zero_do_not_confuse_the_count():
    """Projections are negative in places: the count goes back by a little in the gap."""
    curve = box(-5, -1, 0.1) + box(2, 6, 0.1) - 0.002 * box(0, 1.5, 0.1)
    assert_allclose(level_of_count(ENERGIES, count(curve), 4.0, 0.01), 0.5, atol=0.02)


@pytest.mark.parametrize(("n", "expected"), [(4.0, 0.5), (4.03, 0.5), (3.97, 0.5), (7.96, 4.0), (8.04, 4.0)])
def test_the_gap_in_which_a_count_nearly_ends(n, expected):
    curve = box(-5, -1, 0.1) + box(2, 6, 0.1)  # 4 + 4 states; above 6 eV the energies end within a gap
    expected = expected if n < 5 else (6 + 2.326 * 0.1 + 10) / 2
    assert_allclose(level_in_gap(ENERGIES, curve, count(curve), n, 0.01, 0.05), expected, atol=0.02)
    assert np.isnan(level_in_gap(ENERGIES, curve, count(curve), n + 0.5, 0.01, 0.05))


def test_the_nearest_of_several_gaps():
    curve = box(-5, -3) + 0.1 * box(-1, 0) + box(2, 4)
    whole = count(curve)
    for n, expected in ((whole[-1] / 2 - 0.045, -2.0), (whole[-1] / 2 + 0.045, 1.0)):
        assert_allclose(level_in_gap(ENERGIES, curve, whole, n, 0.01, 0.2), expected, atol=0.1)


def test_a_dip_of_one_step_is_no_gap():
    curve = box(-5, 5)
    curve[200] = 0.0
    assert np.isnan(level_in_gap(ENERGIES, curve, count(curve), count(curve)[200], 0.01, 0.1))
    curve[199:203] = 0.0
    assert np.isfinite(level_in_gap(ENERGIES, curve, count(curve), count(curve)[200], 0.01, 0.1))


def test_nothing_has_no_gaps():
    for curve in (np.zeros(401), -box(-5, 5), np.full(401, np.nan)):
        assert np.isnan(level_in_gap(ENERGIES, curve, count(curve), 0.0, 0.01, 1.0))


# ---- Common zeros ------------------------------------------------------------------------------------------


def peaks(shift=0.0, seed=0, n_atoms=3, width=0.3):
    """Curves of atoms with four peaks each between -5 and 5 eV."""
    rng = np.random.default_rng(seed)
    centers, heights = rng.uniform(-5, 5, (n_atoms, 4)), rng.uniform(0.5, 2, (n_atoms, 4))
    distance = (ENERGIES - centers[..., None] - shift) / width
    return np.einsum("ap,ape->ae", heights, np.exp(-0.5 * distance**2))


def test_rigid_shifts_are_found():
    rng = np.random.default_rng(3)
    shifts = rng.uniform(-1.5, 1.5, 12)
    found = common_shifts([peaks(s) for s in shifts], [SPECIES] * 12, ENERGIES)
    assert_allclose(found, shifts - shifts.mean(), atol=1e-2 * STEP)
    assert_allclose(found.mean(), 0, atol=1e-12)


def test_the_order_of_structures_does_not_matter():
    rng = np.random.default_rng(4)
    curves = [peaks(s, seed) for s, seed in zip(rng.uniform(-1, 1, 8), [0, 0, 1, 1, 2, 2, 0, 1], strict=True)]
    labels = [SPECIES] * 8
    order = rng.permutation(8)
    straight = common_shifts(curves, labels, ENERGIES)
    permuted = common_shifts([curves[i] for i in order], labels, ENERGIES)
    assert_allclose(permuted, straight[order], atol=1e-9)


def test_the_order_of_atoms_does_not_matter():
    shifts = [0.4, -0.3, 0.1]
    straight = common_shifts([peaks(s) for s in shifts], [SPECIES] * 3, ENERGIES)
    turned = [peaks(shifts[0])[::-1], *(peaks(s) for s in shifts[1:])]
    labels = [np.array([1, 8, 8]), *[SPECIES] * 2]
    assert_allclose(common_shifts(turned, labels, ENERGIES), straight, atol=1e-9)


def test_structures_of_other_compositions_and_sizes():
    """One has three atoms twice, one only the oxygen, one an atom that no other has."""
    shifts = np.array([0.7, -0.4, 0.2, -0.9])
    whole, double = peaks(shifts[0]), np.tile(peaks(shifts[1]), (2, 1))
    oxygen = peaks(shifts[2])[:2]
    stranger = np.concatenate([peaks(shifts[3]), peaks(shifts[3], seed=9)[:1]])
    labels = [[8, 8, 1], [8, 8, 1] * 2, [8, 8], [8, 8, 1, 42]]
    found = common_shifts([whole, double, oxygen, stranger], [np.array(names) for names in labels], ENERGIES)
    assert_allclose(found - found[0], shifts - shifts[0], atol=1e-2 * STEP)


def test_noise_and_different_structures_leave_the_zero_where_most_states_agree():
    rng = np.random.default_rng(5)
    shifts = rng.uniform(-1, 1, 10)
    curves = [peaks(s) * rng.uniform(0.9, 1.1, (3, 1)) + rng.normal(0, 0.02, (3, 401)) for s in shifts]
    found = common_shifts(curves, [SPECIES] * 10, ENERGIES)
    assert_allclose(found, shifts - shifts.mean(), atol=0.2 * STEP)


@pytest.mark.parametrize("seed", range(6))
def test_two_structures_far_apart(seed):
    """The mean of two curves that lie apart has both in it; neither may take itself for the other."""
    found = common_shifts(
        [peaks(2.3, seed, width=0.1), peaks(-1.1, seed, width=0.1)], [SPECIES] * 2, ENERGIES
    )
    assert_allclose(found, [1.7, -1.7], atol=1e-2 * STEP)


@pytest.mark.parametrize("seed", range(6))
def test_three_structures_far_apart_with_peaks_of_their_own(seed):
    shifts = np.array([2.3, -1.1, 0.4])
    curves = [peaks(s, seed) + 0.3 * peaks(s, 100 + i) for i, s in enumerate(shifts)]
    found = common_shifts(curves, [SPECIES] * 3, ENERGIES)
    assert_allclose(found, shifts - shifts.mean(), atol=0.2)


def test_one_structure_stays_where_it_is():
    assert_allclose(common_shifts([peaks(0.5)], [SPECIES], ENERGIES), [0.0], atol=1e-9)


@pytest.mark.parametrize("rows", [0, 3])
def test_structures_without_states_or_atoms_do_not_disturb_the_others(rows):
    found = common_shifts(
        [peaks(0.5), np.zeros((rows, 401)), peaks(-0.5)], [SPECIES, SPECIES[:rows], SPECIES], ENERGIES
    )
    assert_allclose(found[0] - found[2], 1.0, atol=1e-2 * STEP)
    assert abs(found[1]) < 1
    assert_array_equal(common_shifts([np.zeros((3, 401))] * 2, [SPECIES] * 2, ENERGIES), [0, 0])
