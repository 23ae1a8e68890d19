"""Pair distributions: counts against brute force, even densities, and where first shells end."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from crystals import copper, perovskite, rattled, rutile, skewed, slab, trajectory
from numpy.testing import assert_allclose, assert_array_equal

from tinynet_sklearn.graph import CutoffBonds, PairBonds
from tinynet_sklearn.pair_distributions import BIN, PairDistribution, bonded_counts, pair_distributions
from tinynet_sklearn.structures import as_structures

R_MAX = 6.0


def distributions(frames, r_max=R_MAX):
    return pair_distributions(as_structures(frames), r_max)


def counted_by_hand(atoms, first, last):
    """Histogram over all images, in plain NumPy."""
    shifts = np.array(np.meshgrid(*[np.arange(-3, 4)] * 3)).reshape(3, -1).T * atoms.pbc
    images = atoms.positions + (np.unique(shifts, axis=0) @ atoms.cell.array)[:, None]
    ends = images[:, atoms.numbers == last]
    found = [np.linalg.norm(ends - a, axis=2) for a in atoms.positions[atoms.numbers == first]]
    lengths = np.concatenate([f.ravel() for f in found])
    return np.histogram(lengths[(lengths > 1e-6) & (lengths < R_MAX)] / BIN, np.arange(R_MAX / BIN + 1))[0]


@pytest.mark.parametrize("make", [perovskite, rutile, copper, slab])
def test_counts_are_those_of_brute_force(make):
    atoms = rattled(make(), seed=0)
    atoms.set_cell(1.0007 * atoms.cell, scale_atoms=True)  # no lattice vector ends on the edge of a bin
    for (first, last), found in distributions([atoms]).items():
        assert_array_equal(found.counts, counted_by_hand(atoms, first, last))


def test_structures_add_up():
    frames = [*trajectory(perovskite(), 2), rattled(perovskite() * (2, 1, 1), seed=5)]
    together, apart = distributions(frames), [distributions([atoms]) for atoms in frames]
    for pair, found in together.items():
        assert_array_equal(found.counts, sum(one[pair].counts for one in apart))
        assert found.n_atoms == tuple(np.sum([one[pair].n_atoms for one in apart], axis=0))
        assert found.ideal == pytest.approx(sum(one[pair].ideal for one in apart))


def test_only_structures_with_both_species_count():
    found = distributions([rutile(), bulk("Ti"), bulk("Cu")])
    assert found[8, 22].n_atoms == (2, 4)
    assert found[22, 22].n_atoms == (4, 4)
    assert (8, 29) not in found


def test_an_even_density_has_g_of_one_up_to_the_last_bin():
    rng = np.random.default_rng(0)
    gas = [
        Atoms("Ar300", positions=14.0 * rng.random((300, 3)), cell=[14.0] * 3, pbc=True) for _ in range(12)
    ]
    (found,) = distributions(gas).values()
    far = found.distances > 1.5
    assert_allclose(found.g[far], 1.0, atol=0.08)
    assert_allclose(found.g[-50:].mean(), 1.0, atol=0.02)


def test_molecules_have_a_density_but_no_g():
    found = distributions([molecule("H2O")])
    assert found[1, 8].g is None
    shell = found[1, 8].density * 4.0 * np.pi * found[1, 8].distances ** 2 * BIN
    assert shell.sum() == pytest.approx(1.0, rel=0.02)  # one O around an H
    assert (8, 8) not in found


def test_coordination_counts_from_the_species_that_is_named_first():
    found = distributions([perovskite()])
    assert found[8, 56].pair == "Ba-O"
    assert found[8, 56].species == (56, 8)
    assert found[8, 56].coordination[round(3.2 / BIN)] == 12.0
    assert found[8, 22].coordination[round(2.5 / BIN)] == 6.0


def test_supercells_and_skewed_cells_change_nothing():
    atoms = rattled(perovskite(), seed=1)
    for other in (atoms * (2, 1, 3), skewed(atoms)):
        for pair, found in distributions([other]).items():
            reference = distributions([atoms])[pair]
            assert_allclose(found.g, reference.g, rtol=0.02, atol=0.02)
            assert_allclose(found.coordination[-1], reference.coordination[-1], rtol=0.01)


def test_bonds_are_counted_like_pairs():
    frames = trajectory(perovskite() * (2, 1, 1), 3)
    found = distributions(frames)
    bonded = bonded_counts(
        as_structures(frames), PairBonds({"Ti-O": 2.7, "Ba-Ti": 4.0}), len(found[8, 22].counts)
    )
    assert sorted(bonded) == [(8, 22), (22, 56)]
    for pair, limit in {(8, 22): 2.7, (22, 56): 4.0}.items():
        inside = found[pair].distances < limit
        assert_array_equal(bonded[pair], np.where(inside, found[pair].counts, 0))
    like = bonded_counts(as_structures([copper()]), CutoffBonds(3.0, heteroatomic=False), 600)
    assert like[29, 29].sum() == 12


def test_bonds_beyond_the_last_bin_are_not_counted():
    like = bonded_counts(as_structures([copper()]), CutoffBonds(4.0, heteroatomic=False), 300)
    assert like[29, 29].shape == (300,)
    assert like[29, 29].sum() == 12


# ---- The first shell ---------------------------------------------------------------------------------------


def synthetic(shells, n_atoms=1000, spread=0.08, r_max=8.0, background=None, seed=0):
    """Distances around given means: ``{distance: neighbours}``, plus an even density from a distance on."""
    rng = np.random.default_rng(seed)
    lengths = [rng.normal(d, spread, size=round(n * n_atoms)) for d, n in shells.items()]
    if background is not None:
        start, number = background
        lengths.append(np.cbrt(rng.uniform(start**3, r_max**3, size=number * n_atoms)))
    counts = np.histogram(np.concatenate(lengths) / BIN, np.arange(r_max / BIN + 1))[0]
    middles = (np.arange(len(counts)) + 0.5) * BIN
    return PairDistribution((42, 8), middles, counts, (n_atoms, 3 * n_atoms), np.nan).first_shell


def test_the_middle_of_a_narrow_gap():
    shell = synthetic({2.0: 6, 2.8: 8}, spread=0.04)
    assert shell.peak == pytest.approx(2.0, abs=0.02)
    assert shell.cutoff == pytest.approx(2.4, abs=0.051)


def test_in_a_wide_gap_near_the_shell():
    assert synthetic({2.0: 6, 4.5: 8}).cutoff == 2.7
    assert synthetic({2.0: 6}).cutoff == 2.7


def test_but_never_inside_of_the_shell():
    assert synthetic({1.7: 5, 2.02: 2, 2.4: 3, 4.0: 5}, spread=0.03).cutoff >= 2.6


@pytest.mark.parametrize("seed", range(3))
def test_the_minimum_where_there_is_no_gap(seed):
    shell = synthetic({2.5: 8, 4.0: 20}, spread=0.25, background=(2.6, 60), seed=seed)
    assert 2.95 < shell.cutoff < 3.45


@pytest.mark.parametrize("ratio", [1.08, 1.155, 1.19])
def test_split_shells_are_one(ratio):
    assert synthetic({2.7: 8, 2.7 * ratio: 6, 2.7 * 1.633: 12}).cutoff > 2.7 * ratio + 0.2


def test_the_second_shell_of_fcc_is_another():
    assert 2.8 < synthetic({2.55: 12, 2.55 * 1.414: 6, 2.55 * 1.732: 24}, spread=0.12).cutoff < 3.4


def test_bonds_within_covalent_distance_are_one_shell():
    assert synthetic({1.70: 1, 2.30: 1, 3.6: 6}).cutoff > 2.5  # Mo-O, radii add to 2.20


def test_stray_pairs_are_no_shell():
    assert synthetic({1.2: 0.01, 2.0: 6, 4.0: 8}).peak == pytest.approx(2.0, abs=0.03)
    assert synthetic({1.2: 0.2, 2.0: 6, 4.0: 8}).peak == pytest.approx(1.2, abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_few_pairs_are_enough(seed):
    shell = synthetic({2.0: 6, 2.9: 3}, n_atoms=4, spread=0.07, seed=seed)
    assert 2.2 < shell.cutoff < 2.7


def test_a_maximum_without_minimum_has_no_cutoff():
    assert synthetic({}, background=(2.0, 200)).cutoff is None
    assert synthetic({2.0: 6}, r_max=2.05).cutoff is None
