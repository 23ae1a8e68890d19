"""The moments theorem, with electrons in it: densities of states by diagonalisation, moments by walking.

    sum over k-points and states of w_k |c_i|^2 e^m  =  sum over the closed walks of m hops from atom i

`test_moments` holds the walk sums against powers of a matrix. Here they are held against the spectrum.
"""

import numpy as np
import pytest
from crystals import BONDED, copper, perovskite, rattled, rhenium_trioxide, rutile, skewed, slab
from numpy.testing import assert_allclose, assert_array_less
from oracles import any_within, brute_force_bonds, different_within
from tight_binding import moments_of_states, repeats_for, tight_binding_states

from tinynet_sklearn import CycleMomentFeaturizer

#: Structure, its bonds for the oracle and for the package, longest walk.
CASES = {
    "perovskite": (perovskite(), different_within(3.1), 3.1, 6),
    "MoO3": (rhenium_trioxide(), different_within(3.1), 3.1, 8),
    "MoO3, supercell": (rhenium_trioxide() * (2, 1, 1), different_within(3.1), 3.1, 8),
    "MoO3, oblique cell": (skewed(rhenium_trioxide()), different_within(3.1), 3.1, 6),
    "rutile": (rutile(), different_within(2.2), 2.2, 8),
    "slab": (slab(), different_within(3.1), 3.1, 6),
    "fcc": (copper(), any_within(3.0), BONDED["fcc"][1], 6),
}

#: Bonds lead from one half of the atoms to the other: no closed walk has an odd number of hops.
BIPARTITE = [name for name in CASES if name != "fcc"]


def rattled_states(name, seed=5):
    """A rattled crystal with the bonds of the ideal one; its bond rule, longest walk, and states."""
    ideal, bonded, rule, n = CASES[name]
    atoms = rattled(ideal, seed, amplitude=0.03)
    bonds = brute_force_bonds(ideal, bonded, reach=5)
    return atoms, rule, n, tight_binding_states(atoms, bonds, repeats_for(bonds, n))


def walk_sums(atoms, rule, n, reference="first", **options):
    """Moments 2, ..., n of every atom, summed over the sequences of species: (n - 1, atoms)."""
    featurizer = CycleMomentFeaturizer(n=n, N=0, bonds=rule, reference=reference, frame="lab", **options)
    rows = featurizer.fit_transform([atoms])[0]
    hops = np.array([int(name.split("[")[0].lstrip("Lmu")) for name in featurizer.get_feature_names_out()])
    return np.array([rows[:, hops == m].sum(axis=1) for m in range(2, n + 1)])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "options", [{"aggregate": "sum"}, {"duplicates": "keep"}], ids=["sums", "list of all walks"]
)
def test_densities_of_states_have_the_moments_that_the_walks_add_up_to(name, options):
    atoms, rule, n, states = rattled_states(name)
    expected = np.array([moments_of_states(*states, m) for m in range(2, n + 1)])
    found = walk_sums(atoms, rule, n, reference=CASES[name][0], **options)
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_moments_of_the_perovskite_up_to_eight_hops():
    """123,000 walks of 8 hops from one Ba."""
    atoms = rattled(perovskite(), 6, amplitude=0.03)
    bonds = brute_force_bonds(perovskite(), different_within(3.1))
    states = tight_binding_states(atoms, bonds, repeats_for(bonds, 8))
    expected = np.array([moments_of_states(*states, m) for m in range(2, 9)])
    found = walk_sums(atoms, 3.1, 8, reference=perovskite(), aggregate="sum")
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", BIPARTITE)
def test_odd_moments_vanish_where_like_atoms_are_not_bonded(name):
    atoms, rule, n, states = rattled_states(name)
    for m in range(1, n + 1, 2):
        assert_allclose(moments_of_states(*states, m), 0, atol=1e-14)
    sums = walk_sums(atoms, rule, n, reference=CASES[name][0], aggregate="sum")
    assert not sums[1::2].any()


def test_odd_moments_of_a_crystal_with_triangles_do_not_vanish():
    _, _, _, states = rattled_states("fcc")
    assert_array_less(1e-4, moments_of_states(*states, 3))


def test_atoms_share_every_state_and_every_atom_has_one_orbital():
    atoms, _, _, (eigenvalues, weights, k_weights) = rattled_states("rutile")
    n_k = len(k_weights)
    assert eigenvalues.shape == (n_k, len(atoms))
    assert weights.shape == (n_k, len(atoms), len(atoms))
    assert_allclose(k_weights.sum(), 1)
    assert_allclose(weights.sum(axis=2), 1)
    assert_allclose(moments_of_states(eigenvalues, weights, k_weights, 0), 1)
    assert_allclose(moments_of_states(eigenvalues, weights, k_weights, 1), 0, atol=1e-14)


def test_merged_walks_alone_are_not_the_moments():
    """An entry of the default list stands for all walks over the same bonds; the moment counts each."""
    atoms, rule, n, states = rattled_states("rutile")
    expected = np.array([moments_of_states(*states, m) for m in range(2, n + 1)])
    merged = walk_sums(atoms, rule, n, reference=CASES["rutile"][0])
    assert_allclose(merged[0], expected[0], rtol=1e-10)  # there and back: one walk for one bond
    assert_array_less(merged[2], 0.9 * expected[2])


def test_a_coarse_grid_counts_walks_around_the_crystal():
    """With two k-points along x, four hops Mo-O-Mo-O-Mo along x end where they began."""
    bonds = brute_force_bonds(rhenium_trioxide(), different_within(3.1))
    atoms = rattled(rhenium_trioxide(), 7)
    fine, coarse = (tight_binding_states(atoms, bonds, n_k) for n_k in (5, 2))
    assert_allclose(moments_of_states(*coarse, 2), moments_of_states(*fine, 2), rtol=1e-12)
    assert_array_less(1.01 * moments_of_states(*fine, 4), moments_of_states(*coarse, 4))


def test_a_gamma_centred_grid_of_the_cell_is_the_gamma_point_of_its_supercell():
    bonds = brute_force_bonds(rhenium_trioxide(), different_within(3.1))
    small = tight_binding_states(rhenium_trioxide(), bonds, 2)
    large = rhenium_trioxide() * (2, 2, 2)
    big = tight_binding_states(large, brute_force_bonds(large, different_within(3.1), reach=2), 1)
    assert_allclose(np.sort(small[0].ravel()), np.sort(big[0].ravel()), atol=1e-12)
