"""Walks, cycles and shells: against their definition in plain Python, and against the published numbers."""

from collections import Counter

import numpy as np
import pytest
from crystals import BONDED, copper, perovskite, rattled, rhenium_trioxide
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    Bonds,
    Vertex,
    Walk,
    brute_force_bonds,
    closed_walks,
    different_within,
    edges_of,
    hop_distances,
    length_of,
    merged,
    neighbors,
    open_walks,
    simple_cycles,
    species_sequence,
)

from tinynet_sklearn import CutoffBonds, CycleMomentFeaturizer, _kernels, build_bond_graph, paths
from tinynet_sklearn.paths import Ball, PathSpec, atom_paths, check_size, count_paths, hop_ball

LIKE = CutoffBonds(3.0, heteroatomic=False)

#: Graph and the longest walks that plain Python lists in a moment.
GRAPHS = {
    "perovskite": 4,
    "MoO3": 6,
    "rock salt": 5,
    "fcc": 4,  # triangles: odd cycles between images of one atom
    "simple cubic": 6,
    "diamond": 7,
    "wurtzite": 6,
    "slab": 4,
    "wire": 8,
    "benzene": 8,  # one ring of six
    "cyclopropane": 6,  # one ring of three
    "methanol": 6,  # a tree: no ring at all
}


def graph_and_bonds(name: str):
    """The bond graph under test, and the same bonds as a plain dictionary."""
    make, rule = BONDED[name]
    graph = build_bond_graph(make(), rule)
    ends = [(int(j), tuple(s)) for j, s in zip(graph.targets, graph.shifts.tolist(), strict=True)]
    bonds: Bonds = {i: ends[graph.offsets[i] : graph.offsets[i + 1]] for i in range(graph.n_atoms)}
    return graph, bonds


def vertex_names(ball: Ball) -> list[Vertex]:
    return [(int(a), tuple(c)) for a, c in zip(ball.atoms, ball.cells.tolist(), strict=True)]


def enumerated(ball: Ball, n_hops: int, *, closed: bool, simple: bool) -> tuple[list[Walk], np.ndarray]:
    """Walks from the kernel as tuples of (atom, cell), and their bonds."""
    vertices, bonds, complete = _kernels.enumerate_walks(
        n_hops, closed, simple, 10**6, 10**9, ball.hops, ball.edge_offsets, ball.edge_targets, ball.edge_bonds
    )
    assert complete
    names = vertex_names(ball)
    return [tuple(names[v] for v in walk) for walk in vertices], bonds


# ---- Kernels against their definition ----------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAPHS)
def test_a_ball_holds_every_vertex_at_its_shortest_distance_and_every_edge_between_them(name):
    graph, bonds = graph_and_bonds(name)
    for atom in range(graph.n_atoms):
        ball = hop_ball(graph, atom, 3)
        names = vertex_names(ball)
        assert names[0] == (atom, (0, 0, 0))
        assert dict(zip(names, ball.hops.tolist(), strict=True)) == hop_distances(bonds, atom, 3)
        assert len(set(names)) == len(ball)
        assert (np.diff(ball.hops) >= 0).all()
        assert_array_equal(ball.numbers, graph.numbers[ball.atoms])
        for v, vertex in enumerate(names):
            targets = ball.edge_targets[ball.edge_offsets[v] : ball.edge_offsets[v + 1]]
            inside = [other for other in neighbors(bonds, vertex) if other in set(names)]
            assert [names[w] for w in targets] == inside


@pytest.mark.parametrize("max_vertices", [1, 12, 13, 14, 54, 55, 56, 1000])
def test_a_ball_that_would_be_too_large_keeps_its_complete_shells(max_vertices):
    graph, _ = graph_and_bonds("fcc")  # shells of 1, 12, 42, 92 atoms
    arrays = _kernels.hop_ball(0, 3, max_vertices, graph.offsets, graph.targets, graph.shifts, graph.bond_ids)
    radius = arrays[-1]
    complete = {0: 1, 1: 13, 2: 55, 3: 147}
    assert radius == max(r for r, size in complete.items() if size <= max_vertices)
    whole = hop_ball(graph, 0, radius)
    for found, expected in zip(
        arrays,
        [
            whole.atoms,
            whole.cells,
            whole.hops,
            whole.edge_offsets,
            whole.edge_targets,
            whole.edge_bonds,
            radius,
        ],
        strict=True,
    ):
        assert_array_equal(found, expected)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(
    ("oracle", "closed", "simple"),
    [(closed_walks, True, False), (simple_cycles, True, True), (open_walks, False, False)],
    ids=["closed walks", "simple cycles", "open walks"],
)
def test_walks_are_those_of_the_definition_in_depth_first_order(name, oracle, closed, simple):
    graph, bonds = graph_and_bonds(name)
    for n_hops in range(1, GRAPHS[name] + 1 if closed else 4):
        for atom in range(graph.n_atoms):
            ball = hop_ball(graph, atom, n_hops // 2 if closed else n_hops)
            found, _ = enumerated(ball, n_hops, closed=closed, simple=simple)
            assert found == oracle(bonds, atom, n_hops)


@pytest.mark.parametrize("name", ["perovskite", "fcc", "wire", "cyclopropane"])
def test_the_bonds_of_a_walk_have_its_length(name):
    make, rule = BONDED[name]
    atoms = rattled(make(), seed=1)
    graph = build_bond_graph(atoms, rule)
    lengths = np.linalg.norm(graph.bond_vectors(atoms.positions, atoms.cell.array), axis=1)
    walks, bonds = enumerated(hop_ball(graph, 0, 2), 4, closed=True, simple=False)
    assert_allclose(lengths[bonds].sum(axis=1), [length_of(walk, atoms) for walk in walks], rtol=1e-12)


def test_odd_cycles_exist_where_a_ring_of_bonds_has_odd_length():
    counts = {
        name: count_paths(graph_and_bonds(name)[0], PathSpec(5, 0)).walks for name in ("fcc", "cyclopropane")
    }
    assert [int(counts["fcc"][m][0]) for m in (2, 3, 4, 5)] == [12, 48, 540, 4320]
    assert [int(counts["cyclopropane"][m].max()) for m in (2, 3, 4, 5)] == [4, 2, 22, 26]
    bipartite = count_paths(graph_and_bonds("perovskite")[0], PathSpec(5, 0)).walks
    assert not bipartite[3].any()
    assert not bipartite[5].any()


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("simple", [False, True], ids=["all walks", "simple cycles"])
def test_counts_are_the_numbers_of_walks_ends_and_vertices(name, simple):
    graph, bonds = graph_and_bonds(name)
    n = GRAPHS[name]
    counts = count_paths(graph, PathSpec(n, 3, simple=simple))
    oracle = simple_cycles if simple else closed_walks
    for atom in range(graph.n_atoms):
        assert {m: counts.walks[m][atom] for m in range(2, n + 1)} == {
            m: len(oracle(bonds, atom, m)) for m in range(2, n + 1)
        }
        shells = Counter(hop_distances(bonds, atom, 3).values())
        assert {h: counts.shells[h][atom] for h in (1, 2, 3)} == {h: shells[h] for h in (1, 2, 3)}
        assert {h: counts.ends[h][atom] for h in (1, 2, 3)} == {
            h: len(open_walks(bonds, atom, h)) for h in (1, 2, 3)
        }


def test_enumeration_says_when_it_gave_up():
    ball = hop_ball(build_bond_graph(copper(), LIKE), 0, 2)
    arrays = (ball.hops, ball.edge_offsets, ball.edge_targets, ball.edge_bonds)
    everything, _, complete = _kernels.enumerate_walks(4, True, False, 540, 10**9, *arrays)
    assert (len(everything), complete) == (540, True)
    cut_short, _, complete = _kernels.enumerate_walks(4, True, False, 539, 10**9, *arrays)
    assert (len(cut_short), complete) == (539, False)
    cut_short, _, complete = _kernels.enumerate_walks(4, True, False, 540, 100, *arrays)
    assert len(cut_short) < 100
    assert not complete


def test_kernels_accept_read_only_arrays():
    graph = build_bond_graph(perovskite(), 3.1)
    for name in ("offsets", "targets", "shifts", "bond_ids"):
        getattr(graph, name).flags.writeable = False
    ball = hop_ball(graph, 0, 2)
    for name in ("hops", "edge_offsets", "edge_targets", "edge_bonds"):
        getattr(ball, name).flags.writeable = False
    walks, _ = enumerated(ball, 4, closed=True, simple=True)
    assert len(walks) == 120


# ---- Merging, slots and their order ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perovskite", "fcc", "diamond", "benzene", "cyclopropane", "wire"])
@pytest.mark.parametrize("simple", [False, True], ids=["all walks", "simple cycles"])
def test_merged_walks_are_those_over_the_same_edges_and_their_weights_count_them(name, simple):
    graph, bonds = graph_and_bonds(name)
    n = min(GRAPHS[name], 6)
    oracle = simple_cycles if simple else closed_walks
    for atom in range(graph.n_atoms):
        ball = hop_ball(graph, atom, n // 2)
        names = vertex_names(ball)
        found = atom_paths(ball, PathSpec(n, 0, simple=simple), np.arange(len(ball))).walks
        for m in range(2, n + 1):
            keys, _, _, weights = found[m]
            walks = {
                tuple(
                    sorted(tuple(sorted((names[e // len(ball)], names[e % len(ball)]))) for e in key)
                ): weight
                for key, weight in zip(keys.tolist(), weights.tolist(), strict=True)
            }
            assert walks == merged(oracle(bonds, atom, m))


def test_a_simple_cycle_and_its_reverse_are_one_entry():
    graph = build_bond_graph(perovskite(), 3.1)
    ball = hop_ball(graph, 0, 3)
    kept = atom_paths(ball, PathSpec(6, 0, simple=True, merge=False), np.arange(len(ball))).walks
    once = atom_paths(ball, PathSpec(6, 0, simple=True, merge=True), np.arange(len(ball))).walks
    assert [len(kept[m][0]) for m in (2, 4, 6)] == [12, 120, 1944]
    assert [len(once[m][0]) for m in (2, 4, 6)] == [12, 60, 972]
    assert_array_equal(once[4][3], np.full(60, 2.0))


@pytest.mark.parametrize("name", ["perovskite", "cyclopropane"])
def test_sums_keep_species_sequences_apart(name):
    atoms = BONDED[name][0]()
    graph, bonds = graph_and_bonds(name)
    for atom in range(len(atoms)):
        ball = hop_ball(graph, atom, 2)
        found = atom_paths(ball, PathSpec(4, 0, sum_walks=True), np.arange(len(ball))).walks
        for m in (2, 3, 4):
            _, _, labels, weights = found[m]
            counted = Counter()
            for label, weight in zip(map(tuple, labels.tolist()), weights, strict=True):
                counted[label] += weight
            assert counted == Counter(species_sequence(w, atoms) for w in closed_walks(bonds, atom, m))


def test_unique_neighbours_are_the_shells_and_walk_ends_have_multiplicity():
    graph, bonds = graph_and_bonds("fcc")
    ball = hop_ball(graph, 0, 2)
    names = vertex_names(ball)
    ranks = np.arange(len(ball))
    once = atom_paths(ball, PathSpec(0, 2), ranks).neighbors
    assert [len(once[h]) for h in (1, 2)] == [12, 42]
    ends = atom_paths(ball, PathSpec(0, 2, unique_neighbors=False, by_class=False), ranks).neighbors
    for h in (1, 2):
        expected = [walk[-1] for walk in open_walks(bonds, 0, h)]
        assert [names[v] for v in ends[h]] == expected  # depth-first, as published
    by_rank = atom_paths(ball, PathSpec(0, 2, unique_neighbors=False), ranks).neighbors
    assert [names[v] for v in by_rank[2]] == sorted((names[v] for v in ends[2]), key=names.index)


def test_slots_follow_the_ranks_whatever_the_order_of_the_search():
    """Matching ranks make matching slots, although the search meets the walks in another order."""
    graph = build_bond_graph(rhenium_trioxide(), 3.1)
    ball = hop_ball(graph, 0, 3)
    spec = PathSpec(6, 2)
    ranks = np.r_[0, 1 + np.random.default_rng(0).permutation(len(ball) - 1)]
    shuffled = atom_paths(ball, spec, ranks)
    renumbered = renamed(ball, ranks)
    direct = atom_paths(renumbered, spec, np.arange(len(ball)))
    for m in spec.lengths:
        for k in (0, 2, 3):  # keys, labels, weights
            assert_array_equal(shuffled.walks[m][k], direct.walks[m][k])
    for h in (1, 2):
        assert_array_equal(ranks[shuffled.neighbors[h]], direct.neighbors[h])


def renamed(ball: Ball, ranks: np.ndarray) -> Ball:
    """The ball with its vertices renumbered, as another atom's search might have found them."""
    order = np.argsort(ranks)
    rows = [np.arange(ball.edge_offsets[v], ball.edge_offsets[v + 1]) for v in order]
    edges = np.concatenate(rows)
    return Ball(
        ball.centre,
        ball.numbers[order],
        ball.atoms[order],
        ball.cells[order],
        ball.hops[order],
        np.concatenate([[0], np.cumsum([len(row) for row in rows])]),
        ranks[ball.edge_targets[edges]],
        ball.edge_bonds[edges],
        ball.radius,
    )


@pytest.mark.parametrize("seed", range(3))
def test_merged_walks_have_equal_lengths_in_every_frame(seed):
    atoms = rattled(perovskite(), seed, amplitude=0.2)
    bonds = brute_force_bonds(perovskite(), different_within(3.1))
    lengths: dict = {}
    for walk in closed_walks(bonds, 1, 4):
        lengths.setdefault(edges_of(walk), []).append(length_of(walk, atoms))
    assert max(map(len, lengths.values())) > 1
    assert_allclose([max(group) - min(group) for group in lengths.values()], 0, atol=1e-12)


# ---- The published numbers ---------------------------------------------------------------------------------


def published_spec(n: int, N: int, which: str) -> PathSpec:
    return PathSpec(
        n,
        N,
        simple=which == "simple",
        merge=False,
        unique_neighbors=False,
        odd_walks=False,
        neighbor_species=True,
    )


def row(length, n, N):
    """One entry of the tables."""
    return pytest.param(n, N, length, id=f"L{n}({N})")


MOO3_ALL_WALKS = [
    row(6, 2, 0), row(48, 4, 0), row(372, 6, 0), row(3054, 8, 0), row(26490, 10, 0),
    row(24, 0, 1), row(64, 0, 2), row(352, 0, 3), row(872, 0, 4),
    row(112, 4, 2), row(920, 4, 4), row(1244, 6, 4), row(3926, 8, 4),
]  # fmt: skip
MOO3_SIMPLE_CYCLES = [row(30, 8, 0)]
BATIO3_SIMPLE_CYCLES = [
    row(420, 4, 2), row(19284, 4, 4),
    row(2124, 6, 1), row(2364, 6, 2), row(5244, 6, 3), row(21228, 6, 4),
]  # fmt: skip


class TestPublishedLengths:
    """Lengths of vectors with the published conventions, which append one column for the own species."""

    @staticmethod
    def check(atoms, n, N, which, length):
        featurizer = CycleMomentFeaturizer.published(n, N, which).fit([atoms])
        assert featurizer.n_features_out_ == length + 1
        assert featurizer.transform([atoms]).shape == (1, length + 1)
        spec = published_spec(n, N, which)
        assert count_paths(featurizer.table_.graph, spec).vector_length(spec) == length

    @pytest.mark.parametrize(("n", "N", "length"), MOO3_ALL_WALKS)
    def test_moo3_all_walks(self, n, N, length):
        self.check(rhenium_trioxide(), n, N, "all", length)

    @pytest.mark.parametrize(("n", "N", "length"), MOO3_SIMPLE_CYCLES)
    def test_moo3_simple_cycles(self, n, N, length):
        self.check(rhenium_trioxide(), n, N, "simple", length)

    @pytest.mark.parametrize(("n", "N", "length"), BATIO3_SIMPLE_CYCLES)
    def test_batio3_simple_cycles(self, n, N, length):
        self.check(perovskite(), n, N, "simple", length)

    def test_a_supercell_has_the_same_length(self):
        self.check(rhenium_trioxide() * (2, 2, 2), 4, 2, "all", 112)


def by_species(atoms, found):
    """One value per species; all atoms of a species must agree."""
    values = {}
    for symbol, value in zip(atoms.symbols, found, strict=True):
        assert values.setdefault(symbol, value) == value
    return values


def counts_by_species(atoms, kind, spec):
    counted = getattr(count_paths(build_bond_graph(atoms, 3.1), spec), kind)
    rows = [by_species(atoms, counted[key].astype(int)) for key in sorted(counted)]
    return {symbol: [line[symbol] for line in rows] for symbol in rows[0]}


def test_closed_walks_per_species_of_moo3():
    found = counts_by_species(rhenium_trioxide(), "walks", PathSpec(10, 0, odd_walks=False))
    assert found == {"Mo": [6, 42, 324, 2682, 23436], "O": [2, 14, 108, 894, 7812]}


def test_simple_cycles_per_species_of_moo3():
    found = counts_by_species(rhenium_trioxide(), "walks", PathSpec(8, 0, simple=True, odd_walks=False))
    assert found == {"Mo": [6, 0, 0, 24], "O": [2, 0, 0, 8]}


def test_simple_cycles_per_species_of_batio3():
    found = counts_by_species(perovskite(), "walks", PathSpec(6, 0, simple=True, odd_walks=False))
    assert found == {"Ba": [12, 120, 1944], "Ti": [6, 48, 768], "O": [6, 56, 904]}


def test_walk_ends_of_moo3():
    ends = count_paths(build_bond_graph(rhenium_trioxide(), 3.1), PathSpec(0, 4)).ends
    assert [int(ends[h].max()) for h in (1, 2, 3, 4)] == [6, 10, 72, 130]


def test_walk_ends_of_batio3():
    found = counts_by_species(perovskite(), "ends", PathSpec(0, 4))
    assert found["Ba"] == [12, 60, 720, 3996]


def test_unique_neighbours_of_batio3_are_268_where_walks_end_4788_times():
    spec = PathSpec(0, 4)
    counts = count_paths(build_bond_graph(perovskite(), 3.1), spec)
    assert int(sum(counts.shells[h][0] for h in (1, 2, 3, 4))) == 268
    assert [int(counts.shells[h][0]) for h in (1, 2)] == [12, 26]
    assert int(sum(counts.ends[h][0] for h in (1, 2, 3, 4))) == 4788


# ---- Count before you allocate -----------------------------------------------------------------------------


def refusal(spec, atoms=None, bonds=3.1):
    graph = build_bond_graph(perovskite() if atoms is None else atoms, bonds)
    with pytest.raises(ValueError, match="would give vectors of") as error:
        check_size(count_paths(graph, spec), spec)
    return str(error.value)


LIMITS = "(limits: 1,000,000 and 50,000,000)"


def test_too_many_walks_are_refused_with_the_count_the_cause_and_the_way_out():
    assert refusal(PathSpec(10, 2)) == (
        f"n=10, N=2 would give vectors of 20,407,950 entries and tables worth 524,152,244 hops "
        f"{LIMITS}; the "
        "largest part are 19,939,896 closed walks of 10 hops from one atom. "
        "Use paths='simple' or a smaller n or N or fewer bonds."
    )


def test_walks_too_many_to_be_counted_are_refused_without_counting_them():
    assert refusal(PathSpec(1000, 0)) == (
        f"n=1000, N=0 would give vectors of >1,000,000 entries and tables worth >1,000,000 hops "
        f"{LIMITS}; the "
        "largest part are 19,939,896 closed walks of 10 hops from one atom. "
        "Use paths='simple' or a smaller n or N or fewer bonds."
    )


@pytest.mark.slow
def test_too_many_simple_cycles_are_refused_without_proposing_them():
    assert refusal(PathSpec(12, 1, simple=True)) == (
        f"n=12, N=1 would give vectors of >1,000,000 entries and tables worth >1,000,000 hops "
        f"{LIMITS}; the "
        "largest part are >1,000,000 simple cycles of 10 hops from one atom. "
        "Use a smaller n or N or fewer bonds."
    )


def test_too_many_walk_ends_are_refused_and_unique_neighbours_proposed():
    assert refusal(PathSpec(0, 8, unique_neighbors=False)) == (
        f"n=0, N=8 would give vectors of 53,950,824 entries and tables worth 979,358,688 hops "
        f"{LIMITS}; the largest part "
        "are 15,095,772 neighbours at 8 hops from one atom. "
        "Use neighbors='unique' or a smaller n or N or fewer bonds."
    )


@pytest.mark.slow
def test_too_many_unique_neighbours_are_refused():
    assert refusal(PathSpec(0, 1000)) == (
        f"n=0, N=1000 would give vectors of >1,000,000 entries and tables worth >1,000,000 hops "
        f"{LIMITS}; the largest "
        "part are >1,000,000 neighbours at 63 hops from one atom. Use a smaller n or N or fewer bonds."
    )


def test_huge_counts_are_rounded():
    assert refusal(PathSpec(0, 20, unique_neighbors=False), copper(), LIKE) == (
        f"n=0, N=20 would give vectors of 1.3e+22 entries and tables worth 5.8e+22 hops "
        f"{LIMITS}; the largest part "
        "are 3.8e+21 neighbours at 20 hops from one atom. "
        "Use neighbors='unique' or a smaller n or N or fewer bonds."
    )


def test_many_hops_are_refused_although_every_vector_is_short_enough(monkeypatch):
    monkeypatch.setattr(paths, "MAX_TABLE_HOPS", 1000)
    assert refusal(PathSpec(4, 0)) == (
        "n=4, N=0 would give vectors of 336 entries and tables worth 3,576 hops (limits: 1,000,000 and "
        "1,000); the largest part are 324 closed walks of 4 hops from one atom. "
        "Use paths='simple' or a smaller n or N or fewer bonds."
    )


@pytest.mark.parametrize("simple", [False, True], ids=["all walks", "simple cycles"])
def test_surroundings_too_large_to_be_searched_count_as_infinitely_many(monkeypatch, simple):
    graph = build_bond_graph(copper(), LIKE)
    monkeypatch.setattr(paths, "MAX_COLUMNS", 12)  # 13 atoms within one hop, and 12 walks there and back
    counts = count_paths(graph, PathSpec(3, 0, simple=simple))
    assert {m: float(counts.walks[m][0]) for m in (2, 3)} == {2: np.inf, 3: np.inf}
    monkeypatch.setattr(paths, "MAX_COLUMNS", 13)
    counts = count_paths(graph, PathSpec(4, 2, simple=simple))
    assert {m: float(counts.walks[m][0]) for m in (2, 3, 4)} == {2: 12, 3: 48, 4: np.inf}
    assert {h: float(counts.shells[h][0]) for h in (1, 2)} == {1: 12, 2: np.inf}


def test_the_featurizer_refuses_before_it_allocates():
    featurizer = CycleMomentFeaturizer(n=20, N=2)
    with pytest.raises(ValueError, match="n=20, N=2 would give vectors of >1,000,000 entries"):
        featurizer.fit([perovskite() * (2, 2, 2)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [PathSpec(100, 0), PathSpec(100, 0, simple=True), PathSpec(0, 300), PathSpec(1000, 10000)],
    ids=["walks", "cycles", "neighbours", "everything"],
)
def test_explosions_are_given_up_at_the_first_atom(spec):
    """Going on would take hours, or all of the memory."""
    graph = build_bond_graph(perovskite() * (2, 2, 2), 3.1)
    counts = count_paths(graph, spec)
    found = [c for kind in (counts.walks, counts.ends, counts.shells) for c in kind.values()]
    assert any(np.isinf(c[0]) for c in found)
    assert not any(c[1:].any() for c in found)
    with pytest.raises(ValueError, match=r"Use .*a smaller n or N or fewer bonds\.$"):
        check_size(counts, spec)


def test_what_fits_is_not_refused():
    spec = PathSpec(6, 4, simple=True)
    check_size(count_paths(build_bond_graph(perovskite(), 3.1), spec), spec)
    empty = PathSpec(0, 0)
    check_size(count_paths(build_bond_graph(perovskite(), 3.1), empty), empty)
