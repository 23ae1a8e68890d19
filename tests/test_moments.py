"""The theorem behind the embedding: sums over closed walks are diagonals of powers of the hopping matrix.

    mu_i^(m) = (H^m)_ii,  H_ij = exp(-d_ij) on bonds, 0 elsewhere

H is built in `oracles.hopping_moments` without the package, as the matrix of an open cluster.
"""

import numpy as np
import pytest
from crystals import (
    BONDED,
    benzene,
    copper,
    cyclopropane,
    diamond,
    perovskite,
    rattled,
    rhenium_trioxide,
    slab,
    wurtzite,
)
from numpy.testing import assert_allclose
from oracles import any_within, different_within, hopping_moments, touching

from tinynet_sklearn import CycleMomentFeaturizer, build_bond_graph
from tinynet_sklearn.paths import PathSpec, atom_paths, hop_ball

#: By name in BONDED: structure, its bonds for the oracle, longest walks, cells around the home cell.
CASES = {
    "perovskite": (perovskite, different_within(3.1), 6, 3),
    "MoO3": (rhenium_trioxide, different_within(3.1), 8, 3),
    "wurtzite": (wurtzite, different_within(2.2), 8, 4),
    "diamond": (diamond, any_within(1.7), 8, 5),
    "fcc": (copper, any_within(3.0), 6, 4),
    "slab": (slab, different_within(3.1), 6, 3),
    "benzene": (benzene, touching(1.15), 8, 0),
    "cyclopropane": (cyclopropane, touching(1.15), 8, 0),
}


@pytest.fixture(params=CASES)
def case(request):
    make, bonded, n, reach = CASES[request.param]
    atoms = rattled(make(), seed=1, amplitude=0.03)
    # The walks are those of the ideal structure, whose bonds the rattled one keeps (checked).
    rule = BONDED[request.param][1]
    assert build_bond_graph(atoms, rule).n_bonds == build_bond_graph(make(), rule).n_bonds
    return atoms, rule, n, hopping_moments(atoms, bonded, n, reach)


def sums_by_length(featurizer, rows):
    """Sum of the columns of each walk length, dictionary of (n_atoms,) arrays."""
    names = featurizer.get_feature_names_out()
    lengths = np.array([int(name.split("[")[0].lstrip("Lmu")) for name in names])
    return {m: rows[:, lengths == m].sum(axis=1) for m in range(2, featurizer.n + 1)}


def assert_moments(found, expected):
    assert found.keys() == expected.keys()
    for m in expected:
        assert_allclose(found[m], expected[m], rtol=1e-12, atol=0, err_msg=f"moment {m}")


@pytest.mark.parametrize(
    "options", [{"aggregate": "sum"}, {"duplicates": "keep"}], ids=["sums", "list of all walks"]
)
@pytest.mark.parametrize("frame", ["lab", "site"])
def test_features_sum_to_the_diagonal_of_powers_of_the_hopping_matrix(case, options, frame):
    atoms, rule, n, moments = case
    featurizer = CycleMomentFeaturizer(n=n, N=0, bonds=rule, frame=frame, **options)
    assert_moments(sums_by_length(featurizer, featurizer.fit_transform([atoms])[0]), moments)


def test_merged_walks_times_their_weights_sum_to_the_same_moments(case):
    atoms, rule, n, moments = case
    graph = build_bond_graph(atoms, rule)
    factors = np.exp(-np.linalg.norm(graph.bond_vectors(atoms.positions, atoms.cell.array), axis=1))
    spec = PathSpec(n, 0, merge=True)
    found = {m: np.zeros(len(atoms)) for m in spec.lengths}
    for atom in range(len(atoms)):
        ball = hop_ball(graph, atom, spec.radius)
        for m, (_, bonds, _, weights) in atom_paths(ball, spec, np.arange(len(ball))).walks.items():
            found[m][atom] = weights @ factors[bonds].prod(axis=1)
    assert_moments(found, moments)


@pytest.mark.slow
def test_eighth_moment_of_the_perovskite():
    """123,000 walks of 8 hops from one Ba."""
    atoms = rattled(perovskite(), seed=2)
    featurizer = CycleMomentFeaturizer(n=8, N=0, aggregate="sum", frame="lab")
    rows = featurizer.fit_transform([atoms])[0]
    assert_moments(sums_by_length(featurizer, rows), hopping_moments(atoms, different_within(3.1), 8, 3))


def test_without_odd_walks_the_even_moments_stay():
    atoms = rattled(copper() * (2, 1, 1), seed=3)
    both, even = (
        CycleMomentFeaturizer(n=4, N=0, bonds=BONDED["fcc"][1], aggregate="sum", odd_walks=odd).fit([atoms])
        for odd in (True, False)
    )
    expected = sums_by_length(both, both.transform([atoms])[0])
    found = sums_by_length(even, even.transform([atoms])[0])
    assert expected[3].all()
    assert_moments(found, {m: expected[m] * (m % 2 == 0) for m in expected})
