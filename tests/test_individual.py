"""Bond graphs of their own: equality with one for all, brute force, what must not matter, bonds that come."""

import pickle
import re
from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols
from crystals import BONDED, LIKE_ATOMS, methanol, perovskite, rattled, repeated, rutile, trajectory
from derivatives import difference, gradient_of, moved, virial_of
from numpy.testing import assert_allclose, assert_array_equal
from oracles import any_within, different_within, hopping_moments
from pymatgen.analysis.local_env import MinimumDistanceNN
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from symmetry import (
    assert_same_rows,
    random_rotation,
    rotated,
    strayed,
    translated,
    with_turned_vectors,
    wrapped,
)

from tinynet_sklearn import (
    CutoffBonds,
    CycleMomentFeaturizer,
    NaturalBonds,
    PairBonds,
    PerAtomArray,
    build_bond_graph,
    individual,
    load_model,
    save_model,
    topologies,
)
from tinynet_sklearn.features import CHUNK
from tinynet_sklearn.graph import NearNeighborBonds
from tinynet_sklearn.individual import KEPT_TOPOLOGIES
from tinynet_sklearn.switching import switch

#: Width over which bonds fade here, Angstrom; with the cutoffs below, some bonds of all structures do.
FADE = 0.7


def alloy(n_species=2, seed=0):
    """Fcc of eight atoms: Cu and Au, or six species."""
    atoms = bulk("Cu", "fcc", a=3.8) * (2, 2, 2)
    species = [29, 79, 28, 46, 78, 47][:n_species]
    atoms.numbers = np.random.default_rng(seed).permutation(np.resize(species, 8))
    return atoms


def cluster():
    """Eight atoms of three species in a heap: bonds, triangles, nothing periodic."""
    rng = np.random.default_rng(5)
    positions = 1.9 * np.array(list(product(range(2), repeat=3)), float) + 0.3 * rng.normal(size=(8, 3))
    return Atoms("TiOOTiOTiOSr", positions=positions)


#: Structures, with bonds of which some are about to break.
STRUCTURES = {
    "perovskite": (perovskite, 3.1),
    "alloy": (alloy, CutoffBonds(3.2, heteroatomic=False)),
    "rutile": (rutile, PairBonds({"Ti-O": 2.4, "O-O": 2.8})),
    "slab": BONDED["slab"],
    "wire": (BONDED["wire"][0], 1.9),
    "methanol": (methanol, NaturalBonds(1.4)),
    "cluster": (cluster, CutoffBonds(2.8, heteroatomic=False)),
}

MODES = {
    "as is": {},
    "sums": {"aggregate": "sum"},
    "simple": {"paths": "simple"},
    "one hop": {"N": 1},
    "walks alone": {"N": 0},
    "distances": {"coordinates": "distances"},
    "one distance": {"N": 1, "coordinates": "distances"},
    "sums and distances": {"coordinates": "distances", "aggregate": "sum"},
    "lab": {"frame": "lab"},
    "all duplicates": {"duplicates": "keep", "neighbors": "walks"},
    "few columns": {"blocks": "hops", "species_columns": True},
}


def atoms_of(name, seed=1, amplitude=0.08):
    """Rattled and strained, so that not even two images are equally far away, where entries had no order."""
    atoms = STRUCTURES[name][0]()
    strain = 0.03 * np.random.default_rng(seed + 100).normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return rattled(atoms, seed, amplitude)


def each(name, **options):
    """Featurizer of structures with a graph each, not fitted."""
    n = 3 if name == "alloy" else 4  # which has thousands of walks of four hops
    return CycleMomentFeaturizer(
        **{"n": n, "N": 2, "bonds": STRUCTURES[name][1], "topology": "each", **options}
    )


def columns_of(featurizer, kind, label):
    """Columns of entries such as ``N1`` of ``Ti:O``, in their order."""
    found = []
    for k, name in enumerate(featurizer.get_feature_names_out()):
        its_kind, labels = re.fullmatch(r"(\w+)\[(.*)\]", name).groups()
        found += (
            [k] if its_kind == kind and label in [part.split("#")[0] for part in labels.split("|")] else []
        )
    return found


def message(error):
    return str(error.value)


# ---- Equal to one graph for all, where that serves all -----------------------------------------------------

EQUAL = {
    "as is": {},
    "duplicates": {"duplicates": "keep"},
    "walks to neighbours": {"neighbors": "walks"},
    "sums": {"aggregate": "sum"},
    "distances": {"coordinates": "distances"},
    "few columns": {"blocks": "hops", "species_columns": True},
    "even walks, three shells": {"odd_walks": False, "N": 3, "coordinates": "distances"},
    "species": {"species_columns": True},
    "walks alone": {"N": 0},
    "neighbours alone": {"n": 0},
}

WITH_TRIANGLES = {"fcc", "cyclopropane"}


@pytest.mark.parametrize("name", ["perovskite", "rock salt", "fcc", "rutile", "slab", "wire", "methanol"])
@pytest.mark.parametrize("paths", ["all", "simple"])
@pytest.mark.parametrize("setting", EQUAL)
def test_equal_to_one_graph_for_all_number_for_number(name, paths, setting):
    make, rule = BONDED[name]
    ideal = make() if len(make()) > 1 else make() * (2, 1, 1)
    frames = trajectory(ideal, 3, amplitude=0.02, seed=1)
    n = 5 if name in WITH_TRIANGLES and EQUAL[setting].get("odd_walks", True) else 4
    options = {"n": n, "N": 2, "bonds": rule, "paths": paths, "frame": "lab", **EQUAL[setting]}
    one = CycleMomentFeaturizer(order="value", reference=ideal, **options)
    own = CycleMomentFeaturizer(topology="each", **options)
    expected, found = one.fit_transform(frames), own.fit_transform(frames)
    assert_array_equal(own.get_feature_names_out(), one.get_feature_names_out())
    assert_allclose(found.values, expected.values, rtol=0, atol=1e-12)
    assert_array_equal(found.offsets, expected.offsets)
    assert_array_equal(found.species, expected.species)
    assert np.abs(found.values).max() > 1e-3


def test_odd_walks_that_do_not_exist_are_warned_of():
    with pytest.warns(UserWarning, match="adds nothing") as caught:
        each("perovskite", n=5).fit([perovskite()])
    assert [str(w.message) for w in caught] == [
        "n=5 adds nothing to n=4: no atom has a closed walk of 5 hops on this bond graph. Odd walks need "
        "rings of bonds of odd length."
    ]
    with pytest.warns(UserWarning, match="^n=5 adds nothing to n=4: odd_walks=False leaves out walks of odd"):
        each("cluster", n=5, odd_walks=False).fit([cluster()])


# ---- Brute force -------------------------------------------------------------------------------------------


def fading(x):
    """The switch as a polynomial, coefficient by coefficient; falls from 1 to 0."""
    x = np.clip(x, 0.0, 1.0)
    return 1 - 10 * x**3 + 15 * x**4 - 6 * x**5


def open_cluster(atoms, cutoff, fade, like, reach):
    """Bond weights W (n, n) and positions of an open cluster, and which atoms stand in its home cell."""
    spans = [range(-reach, reach + 1) if periodic else range(1) for periodic in atoms.pbc]
    cells = np.array(list(product(*spans)))
    positions = (atoms.positions + (cells @ atoms.cell.array)[:, None]).reshape(-1, 3)
    numbers = np.tile(atoms.numbers, len(cells))
    lengths = cdist(positions, positions)
    bonded = (lengths > 0) & (lengths < cutoff) & (like | (numbers[:, None] != numbers))
    weights = np.where(bonded, fading((lengths - cutoff + fade) / fade) if fade else 1.0, 0.0)
    home = np.flatnonzero(np.repeat((cells == 0).all(axis=1), len(atoms)))
    outermost = np.repeat((np.abs(cells) == reach).any(axis=1) & atoms.pbc.any(), len(atoms))
    return weights, lengths, positions, numbers, home, outermost


HEAPS = {
    "Cu-Au": (lambda: rattled(alloy(2), 1), 3.2, True),
    "six metals": (lambda: rattled(alloy(6), 2), 3.2, True),
    "fcc": (lambda: rattled(bulk("Cu", "fcc", a=3.61) * (2, 2, 2), 3), 3.0, True),
    "perovskite": (lambda: rattled(perovskite(), 4), 3.1, False),
    "cluster": (cluster, 2.8, True),
}


def heap(name, fade, n):
    make, cutoff, like = HEAPS[name]
    atoms = make()
    embed = CycleMomentFeaturizer(
        n=n, N=0, bonds=CutoffBonds(cutoff, heteroatomic=not like), topology="each", fade=fade,
        aggregate="sum", frame="neighbors",
    )  # fmt: skip
    parts = open_cluster(atoms, cutoff, fade, like, reach=2)
    return atoms, embed, parts


@pytest.mark.parametrize("name", HEAPS)
@pytest.mark.parametrize("fade", [0.0, FADE])
def test_sums_are_moments_and_their_directions_moments_with_a_first_hop(name, fade):
    n = 4 if name == "perovskite" else 5
    atoms, embed, (weights, lengths, positions, _, home, outermost) = heap(name, fade, n)
    features = embed.fit_transform([atoms])
    names = embed.get_feature_names_out()
    hopping = weights * np.exp(-lengths)
    # far enough: half a walk does not lead to the outermost cells
    assert not np.linalg.matrix_power(hopping, n // 2)[home][:, outermost].any()
    directions = (positions[None] - positions[home, None]) / np.where(lengths[home] > 0, lengths[home], 1.0)[
        :, :, None
    ]
    power = np.eye(len(hopping))[:, home]
    assert features.vectors.shape == (len(atoms), len(names), 3)
    for m in range(2, n + 1):
        power = hopping @ power  # H^(m-1) |i>
        mine = [k for k, label in enumerate(names) if label.startswith(f"mu{m}[")]
        moments = np.einsum("ij,ji->i", hopping[home], power)
        assert_allclose(features.values[:, mine].sum(axis=1), moments, rtol=1e-11, atol=1e-14)
        first = np.einsum("ij,ijc,ji->ic", hopping[home], directions, power)
        assert_allclose(features.vectors[:, mine].sum(axis=1), first, rtol=0, atol=1e-12)
        assert (moments > 0).any() == bool(mine)


@pytest.mark.parametrize("name", ["Cu-Au", "fcc", "cluster"])
def test_without_fading_the_moments_are_those_of_another_brute_force(name):
    atoms, embed, _ = heap(name, 0.0, 5)
    rows = embed.fit_transform([atoms]).values
    cutoff, like = HEAPS[name][1:]
    expected = hopping_moments(atoms, (any_within if like else different_within)(cutoff), 5, reach=3)
    names = embed.get_feature_names_out()
    for m, moments in expected.items():
        mine = [label.startswith(f"mu{m}[") for label in names]
        assert_allclose(rows[:, mine].sum(axis=1), moments, rtol=1e-11)


def test_each_species_sequence_has_a_sum_of_its_own():
    """Moments of H from which all hops but those along the sequence, or its reverse, are taken out."""
    atoms, embed, (weights, lengths, _, numbers, home, _) = heap("six metals", FADE, 3)
    rows, names = embed.fit_transform([atoms]).values, embed.get_feature_names_out()
    hopping = weights * np.exp(-lengths)
    for column, name in enumerate(names):
        if name.startswith("mu3["):
            sequence = re.fullmatch(r"mu3\[(.*)\]", name)[1]
            z = [Atoms(symbol).numbers[0] for symbol in sequence.split("-")]
            orders = {(z[1], z[2]), (z[2], z[1])}
            masks = [((numbers == a).astype(float), (numbers == b).astype(float)) for a, b in orders]
            expected = sum(
                np.einsum("ij,j,jk,k,ki->i", hopping[home], a, hopping, b, hopping[:, home], optimize=True)
                for a, b in masks
            )
            assert_allclose(rows[:, column], np.where(atoms.numbers == z[0], expected, 0.0), atol=1e-13)
    assert sum(name.startswith("mu3[") for name in names) > 30


@pytest.mark.parametrize("name", HEAPS)
@pytest.mark.parametrize("fade", [0.0, FADE])
def test_neighbours_count_as_far_as_bonds_lead_to_them(name, fade):
    """r_h = 1 - prod(1 - r w) over a cluster, times what shorter ways left over."""
    atoms, embed, (weights, lengths, positions, numbers, home, _) = heap(name, fade, 0)
    embed.set_params(n=0, N=2, aggregate=None)
    features = embed.fit_transform([atoms])
    for i, centre in enumerate(home):
        reached = np.zeros(len(weights))
        reached[centre] = 1.0
        left = 1.0 - reached
        for h in (1, 2):
            reached = 1.0 - np.prod(1.0 - reached[:, None] * weights, axis=0)
            nearness = reached * left * np.exp(-lengths[centre])
            left = left * (1.0 - reached)
            for z in np.unique(numbers):
                pair = f"{chemical_symbols[atoms.numbers[i]]}:{chemical_symbols[z]}"
                mine = columns_of(embed, f"N{h}", pair)
                others = np.flatnonzero((numbers == z) & (nearness > 0.0))
                order = others[np.argsort(-nearness[others])]
                row = features.values[i, mine]
                assert_allclose(row[: len(order)], nearness[order], rtol=0, atol=1e-12)
                assert not row[len(order) :].any()
                turned = features.vectors[i, mine]
                there = positions[order] - positions[centre]
                sums = (nearness[order] / lengths[centre, order]) @ there
                assert_allclose(turned.sum(axis=0), sums, rtol=0, atol=1e-12)
                assert not turned[len(order) :].any()


@pytest.mark.parametrize("width", [0.3, 1.0, 5.0])
def test_the_switch_goes_from_one_to_zero_without_a_kink(width):
    limit = 3.0
    lengths = np.linspace(max(limit - width, 0.0) - 0.1, limit + 0.1, 4001)
    weights, slopes = switch(lengths, np.full_like(lengths, limit), width)
    assert_allclose(weights, fading((lengths - limit + width) / width), atol=1e-12)
    assert_allclose(np.gradient(weights, lengths)[1:-1], slopes[1:-1], atol=1e-4 / width**2)
    step = lengths[1] - lengths[0]
    assert np.abs(np.diff(slopes)).max() < 6.0 / width**2 * step  # |w''| is at most 5.8 / width^2
    assert weights[0] == (1.0 if width < limit else weights[0])
    assert weights[-1] == 0.0
    assert (np.diff(weights) <= 0).all()


def test_without_a_width_bonds_are_whole_up_to_their_cutoff():
    weights, slopes = switch(np.array([2.9, 3.0, 3.1]), np.full(3, 3.0), 0.0)
    assert_array_equal(weights, [1.0, 0.0, 0.0])
    assert_array_equal(slopes, 0.0)


@pytest.mark.parametrize(
    "rule", [CutoffBonds(3.0, heteroatomic=False), PairBonds({"O-Ti": 2.5, "O-O": 3.0}), NaturalBonds(1.3)]
)
@pytest.mark.parametrize("pair", [(22, 8), (8, 22), (8, 8)])
def test_limits_are_where_bonds_end(rule, pair):
    a, b = np.array(pair)
    (limit,) = rule.limits(np.array([a]), np.array([b]))
    for distance, n_bonds in [(limit - 1e-6, 1), (limit + 1e-6, 0)]:
        atoms = Atoms([a, b], positions=[[0, 0, 0], [distance, 0, 0]])
        assert build_bond_graph(atoms, rule).n_bonds == n_bonds


# ---- What must not matter ----------------------------------------------------------------------------------

#: Modes of columns without directions in the laboratory.
TURNABLE = [mode for mode in MODES if mode not in ("lab",)]


def fades_of(mode):
    unfit = "neighbors" in MODES[mode] or "species_columns" in MODES[mode]
    return [0.0] if unfit else [0.0, FADE]


CASES = [
    (name, mode, fade)
    for name in STRUCTURES
    for mode in MODES
    for fade in fades_of(mode)
    if name in ("perovskite", "cluster") or mode in ("as is", "sums")
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "{}, {}, fade {}".format(*case))
def case(request):
    """Fitted featurizer, a structure, its features, and slopes of columns with their gradient and virial."""
    name, mode, fade = request.param
    atoms = atoms_of(name)
    embed = each(name, fade=fade, **MODES[mode]).fit([atoms])
    return embed, atoms, embed.transform([atoms])


def slopes_of(features):
    return np.random.default_rng(7).normal(size=features.values.shape)


def assert_same_pull(found, expected, rows=slice(None), turn=None):
    """Equal gradients and virials of the same slopes, rows taken as given and vectors turned."""
    assert (found.geometry is None) == (expected.geometry is None)
    if expected.geometry is None:
        return
    slopes, turn = slopes_of(expected), np.eye(3) if turn is None else turn
    gradient, virials = expected.geometry.pull(slopes)
    its_gradient, its_virials = found.geometry.pull(slopes[rows])
    size = max(np.abs(gradient).max(), 1.0)
    assert_allclose(its_gradient, (gradient @ turn.T)[rows], rtol=0, atol=1e-10 * size)
    turned = turn @ virials @ turn.T
    assert_allclose(its_virials, turned, rtol=0, atol=1e-10 * max(np.abs(turned).max(), 1.0))


def assert_same_vectors(found, expected, rows=slice(None), turn=None):
    assert (found.vectors is None) == (expected.vectors is None)
    if expected.vectors is not None:
        turned = expected.vectors if turn is None else expected.vectors @ turn.T
        assert_allclose(found.vectors, turned[rows], rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", [0, 1])
def test_numbers_of_atoms_do_not_matter(case, seed):
    embed, atoms, features = case
    order = np.random.default_rng(seed).permutation(len(atoms))
    found = embed.transform([atoms[order]])
    assert_same_rows(found.values, features.values[order])
    assert_same_vectors(found, features, order)
    assert_same_pull(found, features, order)


def test_periodic_images_and_origin_do_not_matter(case):
    embed, atoms, features = case
    for other in (strayed(atoms, 3), wrapped(atoms), translated(atoms, [0.3, -7.0, 12.1])):
        found = embed.transform([other])
        assert_same_rows(found.values, features.values, scale=10)
        assert_same_vectors(found, features)
        assert_same_pull(found, features)


@pytest.mark.parametrize("proper", [True, False], ids=["rotation", "reflection"])
def test_columns_stay_and_vectors_turn_with_the_structure(case, proper):
    embed, atoms, features = case
    turn = random_rotation(4, proper)
    found = embed.transform([rotated(atoms, turn)])
    if embed.frame == "lab":
        if not atoms.pbc.any():  # images of one atom are equally far away, in an order of the laboratory
            assert_same_rows(found.values, with_turned_vectors(embed, features.values, turn))
        return
    assert_same_rows(found.values, features.values)
    assert_same_vectors(found, features, turn=turn)
    assert_same_pull(found, features, turn=turn)


def test_a_supercell_repeats_the_rows(case):
    embed, atoms, features = case
    if atoms.pbc.any():
        shape = tuple(2 if periodic else 1 for periodic in atoms.pbc)
        found, n = embed.transform([repeated(atoms, shape)]), int(np.prod(shape))
        assert_same_rows(found.values, np.tile(features.values, (n, 1)))
        rows = np.tile(np.arange(len(atoms)), n)
        assert_same_vectors(found, features, rows)
        if features.geometry is not None:  # one slope per row: columns of equal value have no order
            slopes = np.broadcast_to(slopes_of(features)[:, :1], features.values.shape)
            gradient, virials = features.geometry.pull(slopes)
            its_gradient, its_virials = found.geometry.pull(slopes[rows])
            assert_allclose(its_gradient, gradient[rows], rtol=0, atol=1e-10)
            assert_allclose(its_virials, n * virials, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["perovskite", "fcc", "diamond", "rutile", "slab", "cyclopropane", "chain"])
@pytest.mark.parametrize("options", [{}, {"aggregate": "sum"}, {"fade": 0.4, "N": 1}], ids=str)
def test_vectors_of_ideal_structures_turn_with_them(name, options):
    """Equal distances everywhere: no direction of the laboratory may decide which vector comes first."""
    make, rule = BONDED[name]
    atoms = make()
    embed = CycleMomentFeaturizer(**{"n": 4, "N": 2, "bonds": rule, "topology": "each", **options})
    features = embed.fit_transform([atoms])
    for turn in (random_rotation(0), random_rotation(1, proper=False), np.diag([1.0, -1.0, -1.0])):
        found = embed.transform([rotated(atoms, turn)])
        assert_same_rows(found.values, features.values)
        assert_same_vectors(found, features, turn=turn)
    order = np.random.default_rng(0).permutation(len(atoms))
    assert_same_vectors(embed.transform([atoms[order]]), features, order)


@pytest.mark.parametrize("name", ["perovskite", "fcc", "diamond"])
def test_nothing_points_anywhere_from_a_site_without_a_direction(name):
    """The groups of these sites leave no vector in place."""
    make, rule = BONDED[name]
    features = CycleMomentFeaturizer(n=4, N=2, bonds=rule, topology="each").fit_transform([make()])
    assert_allclose(features.vectors, 0.0, rtol=0, atol=1e-9)


def test_structures_are_embedded_one_by_one_in_any_order(case):
    embed, atoms, _ = case
    frames = [rattled(atoms, k, 0.01) for k in range(3)] + [atoms]
    own = clone(embed).fit(frames)
    together = own.transform(frames)
    for order in ([3, 2, 1, 0], [1], [2, 2, 0]):
        found = own.transform([frames[k] for k in order])
        for part, k in zip(found, order, strict=True):
            assert_array_equal(part, together[k])
        if found.vectors is not None:
            assert_array_equal(found.vectors, together[order].vectors)
    assert_array_equal(clone(own).fit(frames[::-1]).transform(frames).values, together.values)


# ---- Derivatives -------------------------------------------------------------------------------------------


def offered(case):
    return case[2].geometry is not None


def test_derivatives_are_offered_where_columns_are_made_of_distances(case):
    embed, _, features = case
    scalar = embed.coordinates == "distances" or embed.N == 0
    assert offered(case) == (scalar and not (embed.fade and embed.N > 1))
    assert (features.vectors is None) == (embed.frame == "lab" or embed.coordinates == "distances")


def test_push_is_the_rate_of_the_columns(case):
    embed, atoms, features = case
    if not offered(case):
        return
    rng = np.random.default_rng(2)
    velocities, strains = rng.normal(size=(len(atoms), 3)), rng.normal(size=(1, 3, 3))
    rates = features.geometry.push(velocities, strains)
    assert rates.shape == features.values.shape
    expected = difference(lambda h: embed.transform([moved(atoms, velocities, strains[0], h)]).values, 2e-6)
    assert_allclose(rates, expected, rtol=1e-5, atol=1e-6 * np.abs(rates).max())
    assert np.abs(rates).max() > 1e-3


def test_pull_is_the_transpose_of_push(case):
    _, atoms, features = case
    if not offered(case):
        return
    rng = np.random.default_rng(3)
    velocities, strains = rng.normal(size=(len(atoms), 3)), rng.normal(size=(1, 3, 3))
    slopes = slopes_of(features)
    gradient, virials = features.geometry.pull(slopes)
    assert gradient.shape == (len(atoms), 3)
    assert virials.shape == (1, 3, 3)
    pushed = (features.geometry.push(velocities, strains) * slopes).sum()
    pulled = (gradient * velocities).sum() + (virials * strains).sum()
    size = np.abs(gradient * velocities).sum() + np.abs(virials * strains).sum()
    assert_allclose(pushed, pulled, rtol=0, atol=1e-13 * size)
    assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-12 * np.abs(gradient).max())
    assert_allclose(virials, virials.transpose(0, 2, 1), rtol=0, atol=1e-12 * np.abs(virials).max())


@pytest.mark.parametrize("name", ["perovskite", "cluster", "slab"])
@pytest.mark.parametrize(("fade", "N"), [(0.0, 0), (0.0, 1), (0.0, 2), (FADE, 0), (FADE, 1)])
def test_pull_is_the_gradient_of_an_energy(name, fade, N):
    atoms = atoms_of(name)
    embed = each(name, fade=fade, N=N, n=2, coordinates="distances").fit([atoms])
    features = embed.transform([atoms])
    slopes = slopes_of(features)

    def energy(frames):
        return np.einsum("frc,rc->f", np.array(list(embed.transform(frames))), slopes)

    gradient, virials = features.geometry.pull(slopes)
    expected = gradient_of(energy, atoms, step=1e-5)
    assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())
    assert_allclose(virials[0], virial_of(energy, atoms), rtol=1e-6, atol=1e-6 * np.abs(virials).max())


def test_geometry_is_sliced_with_the_structures():
    frames = [atoms_of("perovskite", 1), repeated(atoms_of("perovskite", 2), (2, 1, 1))]
    features = each("perovskite", coordinates="distances").fit_transform(frames)
    slopes = slopes_of(features)
    gradient, virials = features.geometry.pull(slopes)
    part = features[[1]]
    assert len(part.geometry) == 1
    its_gradient, its_virials = part.geometry.pull(slopes[5:])
    assert_array_equal(its_gradient, gradient[5:])
    assert_array_equal(its_virials, virials[1:])
    assert_allclose(features.geometry.volumes, [f.get_volume() for f in frames])
    assert np.isnan(each("methanol", N=0).fit_transform([methanol()]).geometry.volumes).all()


# ---- Bonds that form and break -----------------------------------------------------------------------------


def largest_changes(path, value, n_coarse=30, finer=8):
    """Largest change of any number from one step to the next along a path, for steps of 1 and of 1 / finer.

    Where numbers follow the path without a jump, the second is smaller by the same factor.
    """
    changes = []
    for n in (n_coarse, n_coarse * finer):
        found = value([path(t) for t in np.linspace(0.0, 1.0, n + 1)])
        changes.append(np.abs(np.diff(found, axis=0)).max())
    return changes


def escape(t):
    """An atom that leaves three others of its kind, and another one, one after the other; no two swap."""
    positions = [[0.0, 0, 0], [1.9, 0, 0], [0, 2.1, 0], [0, 0, 2.3 + 1.2 * t], [-1.5 - 2.2 * t, -1.0, 0.3]]
    return Atoms("TiO3Sr", positions=positions)


def triangle(t):
    """A hop-2 neighbour that becomes a hop-1 neighbour: angle at Ti from 180 to 60 degrees."""
    angle = np.pi * (1.0 - 2.0 / 3.0 * t)
    return Atoms("OTiMg", positions=[[2.0, 0, 0], [0, 0, 0], [2.2 * np.cos(angle), 2.2 * np.sin(angle), 0.0]])


def wandering(t):
    """An atom of a crystal on its way through a cage, in which many bonds form and break."""
    atoms = rattled(perovskite() * (2, 1, 1), 1, 0.1)
    atoms.positions[1] += t * np.array([0.7, 1.1, 1.9])
    return atoms


PATHS = {
    "escape": (escape, CutoffBonds(2.9, heteroatomic=False)),
    "triangle": (triangle, CutoffBonds(2.9)),
    "wandering": (wandering, CutoffBonds(3.1)),
}
CONTINUOUS = {
    "lists": {"coordinates": "distances"},
    "sums": {"aggregate": "sum", "coordinates": "distances"},
    "simple": {"paths": "simple", "coordinates": "distances"},
    "few columns": {"blocks": "hops", "coordinates": "distances"},
    "walks": {"N": 0},
}


@pytest.mark.parametrize(
    ("name", "mode", "N"),
    [
        *product(["escape", "triangle"], CONTINUOUS, [1, 2]),
        ("wandering", "lists", 2),
        ("wandering", "sums", 1),
    ],
)
def test_columns_do_not_jump_where_bonds_fade(name, mode, N):
    path, rule = PATHS[name]
    options = {"n": 4, "N": N, "bonds": rule, "topology": "each", **CONTINUOUS[mode]}

    def values(frames, fade):
        embed = CycleMomentFeaturizer(**options, fade=fade)
        return np.array(list(embed.fit_transform(frames)))

    coarse, fine = largest_changes(path, lambda frames: values(frames, FADE))
    assert fine < coarse / 5
    coarse, fine = largest_changes(path, lambda frames: values(frames, 0.0))
    assert fine > coarse / 3


@pytest.mark.parametrize("name", ["escape", "triangle"])
@pytest.mark.parametrize("options", [{}, {"aggregate": "sum"}, {"aggregate": "sum", "N": 0}], ids=str)
def test_vectors_do_not_jump_where_bonds_fade(name, options):
    path, rule = PATHS[name]
    options = {"n": 4, "N": 2, "bonds": rule, "topology": "each", **options}

    def vectors(frames, fade):
        found = CycleMomentFeaturizer(**options, fade=fade).fit_transform(frames)
        vectors = found.vectors.reshape(len(frames), len(frames[0]), -1)
        return vectors[:, 0]  # whose neighbours of one species do not overtake each other

    coarse, fine = largest_changes(path, lambda frames: vectors(frames, FADE))
    assert fine < coarse / 6
    coarse, fine = largest_changes(path, lambda frames: vectors(frames, 0.0))
    assert fine > coarse / 2


def test_sums_of_directions_do_not_jump_anywhere():
    def vectors(frames, fade):
        embed = CycleMomentFeaturizer(4, 0, bonds=3.1, topology="each", fade=fade, aggregate="sum")
        return embed.fit_transform(frames).vectors.reshape(len(frames), -1)

    coarse, fine = largest_changes(wandering, lambda frames: vectors(frames, FADE))
    assert fine < coarse / 6
    coarse, fine = largest_changes(wandering, lambda frames: vectors(frames, 0.0))
    assert fine > coarse / 4


@pytest.mark.parametrize("name", PATHS)
def test_gradients_of_sums_do_not_jump_where_bonds_fade(name):
    path, rule = PATHS[name]

    def gradients(frames, fade):
        embed = CycleMomentFeaturizer(4, 0, bonds=rule, topology="each", fade=fade, aggregate="sum")
        features = embed.fit_transform(frames)
        slopes = np.random.default_rng(0).normal(size=features[0].shape)
        return features.geometry.pull(np.tile(slopes, (len(frames), 1)))[0].reshape(len(frames), -1)

    coarse, fine = largest_changes(path, lambda frames: gradients(frames, FADE))
    assert fine < coarse / 6
    coarse, fine = largest_changes(path, lambda frames: gradients(frames, 0.0))
    assert fine > coarse / 3


def test_a_neighbour_two_hops_away_becomes_one_a_hop_away_bit_by_bit():
    """It is both to degrees that add up to one while the bonds that lead to it are whole."""
    frames = [triangle(t) for t in np.linspace(0.0, 1.0, 81)]
    embed = CycleMomentFeaturizer(
        n=0, N=2, bonds=CutoffBonds(2.9), topology="each", fade=0.5, coordinates="distances"
    )
    rows = np.array(list(embed.fit_transform(frames)))[:, 0]
    distances = np.array([frame.get_distance(0, 2) for frame in frames])
    (near,), (far,) = columns_of(embed, "N1", "O:Mg"), columns_of(embed, "N2", "O:Mg")
    degree = fading((distances - 2.9 + 0.5) / 0.5)
    assert_allclose(rows[:, near], degree * np.exp(-distances), rtol=0, atol=1e-14)
    assert_allclose(rows[:, far], (1.0 - degree) * np.exp(-distances), rtol=0, atol=1e-14)
    assert degree.min() == 0.0
    assert degree.max() == 1.0
    assert ((degree > 0.01) & (degree < 0.99)).sum() > 5


# ---- More walks or neighbours than in fit ------------------------------------------------------------------


def star(n_oxygen, distance=2.0, more=()):
    """Ti with O around it, and further atoms."""
    directions = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]][:n_oxygen]
    reach = distance + 0.01 * np.arange(n_oxygen)
    positions = [[0, 0, 0], *(np.array(directions) * reach[:, None])]
    atoms = Atoms(f"TiO{n_oxygen}", positions=positions)
    for symbol, position in more:
        atoms += Atoms(symbol, positions=[position])
    return atoms


TOO_MUCH = (
    "X has atoms with more walks or neighbours than any in fit; fit on structures with such surroundings, or "
    "set overflow='truncate' or 'clip':\n  "
)


def test_too_many_neighbours_and_walks_are_named_with_their_atom_and_structure():
    embed = CycleMomentFeaturizer(n=2, N=1, bonds=2.5, topology="each").fit([star(4)])
    with pytest.raises(ValueError, match="more walks") as error:
        embed.transform([star(3), star(6), star(4), star(5)])
    assert message(error) == TOO_MUCH + "\n  ".join(
        [
            "structure 1: atom 0 (Ti) has 6 closed walks of 2 hops along Ti-O, at most 4 in fit.",
            "structure 1: atom 0 (Ti) has 6 O neighbours at 1 hop, at most 4 in fit.",
            "structure 3: atom 0 (Ti) has 5 closed walks of 2 hops along Ti-O, at most 4 in fit.",
            "structure 3: atom 0 (Ti) has 5 O neighbours at 1 hop, at most 4 in fit.",
        ]
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"n": 0, "N": 2},
            "structure 0: atom 3 (Sr) has 2 O neighbours at 2 hops, at most 1 in fit.",
        ),
        (
            {"n": 4, "N": 0, "aggregate": "sum"},
            "structure 0: atom 0 (Ti) has closed walks of 2 hops along Ti-Sr, no atom had in fit.\n"
            "  structure 0: atom 0 (Ti) has closed walks of 4 hops along Ti-O-Ti-Sr, no atom had in fit.\n"
            "  structure 0: atom 0 (Ti) has closed walks of 4 hops along Ti-Sr-Ti-Sr, no atom had in fit.\n"
            "  structure 0: atom 1 (O) has closed walks of 4 hops along O-Ti-Sr-Ti, no atom had in fit.\n"
            "  structure 0: atom 2 (O) has closed walks of 4 hops along O-Ti-Sr-Ti, no atom had in fit.\n"
            "  ... and 3 more",
        ),
        (
            {"n": 0, "N": 1, "blocks": "hops"},
            "structure 0: atom 0 (Ti) has 3 neighbours at 1 hop, at most 2 in fit.",
        ),
    ],
    ids=["hops", "sums", "no sequences"],
)
def test_kinds_of_walks_and_neighbours_that_fit_has_not_seen_are_named(options, expected):
    """Sr beside an O, in fit; beside the Ti here."""
    known = [star(2), Atoms("OSr", positions=[[0, 0, 0], [2.0, 0, 0]])]
    if options["n"] == 0 and options["N"] == 2:
        known.append(Atoms("SrOO", positions=[[0, 0, 0], [2.0, 0, 0], [3.9, 0, 0]]))
        rule = PairBonds({"Ti-O": 2.5, "Ti-Sr": 2.5, "Sr-O": 2.1, "O-O": 2.1})
    else:
        rule = PairBonds({"Ti-O": 2.5, "Ti-Sr": 2.5, "Sr-O": 2.1})
    embed = CycleMomentFeaturizer(**options, bonds=rule, topology="each").fit(known)
    with pytest.raises(ValueError, match="more walks") as error:
        embed.transform([star(2, more=[("Sr", [0, 0, 2.2])])])
    found = message(error)
    if options["N"] == 2:
        found = "\n".join(line for line in found.split("\n") if "1 hop," not in line)
    assert found == TOO_MUCH + expected


@pytest.mark.parametrize("options", [{}, {"aggregate": "sum"}, {"blocks": "hops"}, {"frame": "lab"}], ids=str)
def test_truncated_rows_are_the_first_columns_of_wider_ones(options):
    few, many = rattled(star(3), 1, 0.03), rattled(star(6), 2, 0.03)
    options = {"n": 4, "N": 1, "bonds": 2.5, "topology": "each", **options}
    narrow = CycleMomentFeaturizer(overflow="truncate", **options).fit([few])
    wide = CycleMomentFeaturizer(**options).fit([many])
    rows, whole = narrow.transform([many]), wide.transform([many])
    found = by_label(narrow.get_feature_names_out(), rows.values[0], "Ti")
    expected = by_label(wide.get_feature_names_out(), whole.values[0], "Ti")
    assert found == {label: expected[label] for label in found}
    room = by_label(narrow.get_feature_names_out(), narrow.transform([few]).values[0], "Ti")
    assert found.keys() == room.keys() or options.get("aggregate") == "sum"
    assert len(found) < len(expected)


def test_truncation_keeps_the_nearest_neighbours_with_their_directions_and_derivatives():
    few, many = star(3), star(6)
    options = {"n": 2, "N": 1, "bonds": 2.5, "topology": "each", "overflow": "truncate"}
    rows = CycleMomentFeaturizer(**options).fit([few]).transform([many])
    nearest = np.exp(-np.array([2.0, 2.01, 2.02]))
    assert_allclose(rows.values[0], [*nearest**2, *nearest], rtol=1e-12)
    expected = nearest[:, None] * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0]])
    assert_allclose(rows.vectors[0], expected, rtol=0, atol=1e-12)
    embed = CycleMomentFeaturizer(**options, coordinates="distances").fit([few])
    geometry = embed.transform([many]).geometry
    velocities = np.random.default_rng(0).normal(size=(7, 3))
    expected = difference(
        lambda h: embed.transform([moved(many, velocities, np.zeros((3, 3)), h)]).values, 1e-5
    )
    assert_allclose(geometry.push(velocities, np.zeros((1, 3, 3))), expected, rtol=1e-6, atol=1e-9)
    slopes = np.zeros((7, embed.n_features_out_))
    slopes[0] = 1.0
    gradient, _ = geometry.pull(slopes)
    assert not gradient[4:].any()  # which are not among the nearest
    assert gradient[1:4].any(axis=1).all()


def test_clipping_holds_every_column_in_the_range_of_its_species():
    frames = [rattled(star(4), k, 0.05) for k in range(6)]
    options = {"n": 4, "N": 1, "bonds": 2.5, "topology": "each", "coordinates": "distances"}
    embed = CycleMomentFeaturizer(overflow="clip", **options).fit(frames)
    inside = embed.transform(frames)
    assert_array_equal(inside.values, CycleMomentFeaturizer(**options).fit(frames).transform(frames).values)
    assert sorted(embed.ranges_) == [8, 22]
    others = [rattled(star(5), k, 0.2) for k in range(20, 26)]
    found = embed.transform(others)
    free = CycleMomentFeaturizer(overflow="truncate", **options).fit(frames).transform(others)
    for z, (low, high) in embed.ranges_.items():
        rows = inside.values[inside.species == z]
        assert_array_equal(low, rows.min(axis=0))
        assert_array_equal(high, rows.max(axis=0))
        mine = found.species == z
        assert_array_equal(found.values[mine], np.clip(free.values[mine], low, high))
    assert (found.values != free.values).any()


def test_what_is_clipped_does_not_move():
    frames = [rattled(star(4), k, 0.05) for k in range(6)]
    embed = CycleMomentFeaturizer(
        n=4, N=1, bonds=2.6, topology="each", overflow="clip", coordinates="distances", fade=0.5
    )
    embed.fit(frames)
    atoms = rattled(star(5), 30, 0.1)
    features = embed.transform([atoms])
    rng = np.random.default_rng(1)
    velocities, strains = rng.normal(size=(len(atoms), 3)), rng.normal(size=(1, 3, 3))
    rates = features.geometry.push(velocities, strains)
    expected = difference(lambda h: embed.transform([moved(atoms, velocities, strains[0], h)]).values, 1e-6)
    assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)
    slopes = slopes_of(features)
    gradient, virials = features.geometry.pull(slopes)
    pulled = (gradient * velocities).sum() + (virials * strains).sum()
    assert_allclose(pulled, (rates * slopes).sum(), rtol=1e-10)
    free = clone(embed).set_params(overflow="truncate").fit(frames).transform([atoms])
    clipped = features.values != free.values
    assert clipped.any()
    assert not clipped.all()
    assert not rates[clipped].any()


# ---- What cannot be embedded -------------------------------------------------------------------------------


def test_species_that_fit_has_not_seen_are_named():
    embed = each("cluster", overflow="clip").fit([cluster()])
    with pytest.raises(ValueError, match="species") as error:
        embed.transform([cluster(), methanol(), Atoms("TiNa", positions=[[0, 0, 0], [2, 0, 0]])])
    assert message(error) == (
        "X has atoms of species that fit has not seen (it saw O, Ti, Sr):\n"
        "  structure 1: atom 2 is H\n  structure 1: atom 0 is C\n  structure 2: atom 1 is Na"
    )


def test_species_without_bonds_are_refused():
    atoms = Atoms("TiOBaSr", positions=[[0, 0, 0], [2.0, 0, 0], [0, 6.0, 0], [0, 0, 6.0]])
    with pytest.raises(ValueError, match="no bonds") as error:
        CycleMomentFeaturizer(bonds=3.1, topology="each").fit([atoms])
    assert message(error) == (
        "bonds=3.1 gives no bonds to any atom of Sr, Ba in X. Raise the cutoff, name pairs with these "
        "species, or bond like atoms with CutoffBonds(cutoff, heteroatomic=False)."
    )


COINCIDING = "structure {}: atoms 0 and 1 are {} Angstrom apart; remove one of them"


def test_atoms_in_one_place_are_refused():
    good = Atoms("TiO", positions=[[0, 0, 0], [2.0, 0, 0]])
    bad = [Atoms("TiO", positions=[[0, 0, 0], [x, 0, 0]]) for x in (0.1, 0.0)]
    expected = "X has structures with atoms in the same place:\n  " + "\n  ".join(
        [COINCIDING.format(1, "0.1"), COINCIDING.format(2, "0")]
    )
    for options in ({}, {"aggregate": "sum"}, {"fade": 0.5}):
        embed = CycleMomentFeaturizer(n=2, N=1, bonds=3.1, topology="each", **options)
        with pytest.raises(ValueError, match="same place") as error:
            embed.fit([good, *bad])
        assert message(error) == expected
        with pytest.raises(ValueError, match="same place") as error:
            embed.fit([good]).transform([good, *bad])
        assert message(error) == expected


def test_too_many_columns_are_refused(monkeypatch):
    """150: over two bonds of Ba, 12 * 11 / 2; over one, twice, 12; on from each O to another Ba, 12 * 3; and
    around squares, 6 Ba on the axes with 4 O in common."""
    monkeypatch.setattr(individual, "MAX_COLUMNS", 100)
    with pytest.raises(ValueError, match="entries") as error:
        CycleMomentFeaturizer(n=4, N=1, bonds=3.1, topology="each").fit([perovskite()])
    names = "n=4, N=1 would give vectors of {} entries (limit: 100), of which {} are the largest part. Use a "
    n_columns = (
        CycleMomentFeaturizer(n=4, N=1, bonds=3.1, order="value", frame="lab", coordinates="distances")
        .fit([perovskite()])
        .n_features_out_
    )
    assert message(error) == (
        names.format(n_columns, "150 closed walks of 4 hops along Ba-O-Ba-O")
        + "smaller n or N, paths='simple' or fewer bonds."
    )


@pytest.mark.parametrize("what", ["walks", "neighbours"])
def test_too_many_walks_of_one_structure_are_refused(monkeypatch, what):
    """More than all the tables may hold, of atoms each of which has few."""
    monkeypatch.setattr(topologies, "MAX_TABLE_HOPS", 1000)
    n, N = (4, 0) if what == "walks" else (0, 2)
    with pytest.raises(ValueError, match="more than") as error:
        CycleMomentFeaturizer(n=n, N=N, bonds=3.1, topology="each").fit([perovskite() * (3, 3, 3)])
    assert message(error) == (
        f"n={n}, N={N} would give more than 1,000 hops of closed walks and neighbours for 1024 atoms. Use a "
        "smaller n or N, paths='simple' or fewer bonds."
    )


@pytest.mark.parametrize("what", ["walks", "neighbours"])
def test_tables_that_do_not_fit_in_memory_are_refused(monkeypatch, what):
    monkeypatch.setattr(topologies, "physical_memory", lambda: 2**14)
    n, N = (4, 0) if what == "walks" else (0, 2)
    with pytest.raises(ValueError, match="GiB") as error:
        CycleMomentFeaturizer(n=n, N=N, bonds=3.1, topology="each").fit([perovskite() * (2, 2, 2)])
    assert message(error) == (
        f"n={n}, N={N} would give tables of 0.0 GiB for one structure of 40 atoms, this machine has "
        "0.0. Use a "
        "smaller n or N, paths='simple' or fewer bonds."
    )


@pytest.mark.parametrize("options", [{}, {"aggregate": "sum"}, {"coordinates": "distances"}, {"fade": 0.5}])
def test_atoms_are_worked_through_in_blocks(monkeypatch, options):
    atoms = rattled(perovskite() * (2, 1, 1), 0)
    embed = CycleMomentFeaturizer(n=4, N=2, bonds=3.1, topology="each", **options)
    whole = embed.fit_transform([atoms])
    monkeypatch.setattr(topologies, "BLOCK_ATOMS", 3)
    parts = clone(embed).fit_transform([atoms])
    assert_array_equal(parts.values, whole.values)
    if whole.vectors is not None:
        assert_allclose(parts.vectors, whole.vectors, rtol=0, atol=1e-15)
    if whole.geometry is not None:
        slopes = np.random.default_rng(0).normal(size=whole.values.shape)
        assert_allclose(parts.geometry.pull(slopes)[0], whole.geometry.pull(slopes)[0], rtol=0, atol=1e-13)


def test_walks_beyond_number_are_refused_as_those_of_a_reference():
    messages = []
    for topology in ("each", "reference"):
        embed = CycleMomentFeaturizer(n=14, N=0, bonds=3.1, topology=topology)
        with pytest.raises(ValueError, match="would give vectors") as error:
            embed.fit([perovskite()])
        messages.append(message(error))
    assert messages[0] == messages[1]


REFUSED = [
    (
        {"order": "direction"},
        "topology='each' needs order='value', got order='direction': structures with bonds of their own "
        "share no directions and no numbering. Use order='auto'.",
    ),
    (
        {"order": "depth-first"},
        "topology='each' needs order='value', got order='depth-first': structures with bonds of their own "
        "share no directions and no numbering. Use order='auto'.",
    ),
    (
        {"frame": "site"},
        "frame='site' needs topology='reference', got topology='each': without a common structure there are "
        "no equivalent sites. Use frame='auto'.",
    ),
    (
        {"topology": "reference", "frame": "site", "order": "value"},
        "frame='site' needs order='direction', got order='value': sorted entries have no site. Use "
        "frame='lab'.",
    ),
    (
        {"topology": "reference", "frame": "neighbors"},
        "frame='neighbors' needs topology='each', got topology='reference'. Use frame='site' or 'lab' there.",
    ),
    (
        {"frame": "neighbors", "coordinates": "distances"},
        "frame='neighbors' is for coordinates='vectors', got coordinates='distances', which leaves "
        "directions out. Use frame='auto'.",
    ),
    (
        {"coordinates": "distances", "species_columns": True},
        "species_columns=True puts atomic numbers before the vectors of neighbours, which "
        "coordinates='distances' leaves out. Set species_columns=False.",
    ),
    (
        {"topology": "reference", "blocks": "hops"},
        "blocks='hops' needs order='value', got order='direction': only sorted entries may change their "
        "places.",
    ),
    (
        {"reference": "first"},
        "reference is for topology='reference'; with topology='each' no structure serves the others, got "
        "reference='first'. Leave it out.",
    ),
    (
        {"topology": "reference", "fade": 0.5},
        "fade=0.5 needs topology='each', got topology='reference', where bonds neither form nor break. Set "
        "fade=0.",
    ),
    (
        {"fade": 0.5, "neighbors": "walks"},
        "fade=0.5 needs neighbors='unique', got neighbors='walks'. Set one of them back.",
    ),
    (
        {"fade": 0.5, "species_columns": True, "blocks": "hops"},
        "fade=0.5 needs species_columns=False, got True: atomic numbers before neighbours do not fade with "
        "them. Use blocks='species', which tells species apart.",
    ),
]


@pytest.mark.parametrize(("options", "expected"), REFUSED, ids=lambda value: str(value)[:60])
def test_parameters_that_contradict_each_other_are_refused(options, expected):
    with pytest.raises(ValueError, match=r"needs|is for|puts") as error:
        CycleMomentFeaturizer(**{"topology": "each", **options}).fit([perovskite()])
    assert message(error) == expected


def test_fading_needs_bonds_that_end_at_a_cutoff():
    rule = NearNeighborBonds(MinimumDistanceNN())
    with pytest.raises(ValueError, match="cutoff") as error:
        CycleMomentFeaturizer(topology="each", fade=0.5, bonds=rule).fit([perovskite()])
    assert message(error) == (
        f"fade=0.5 needs bonds that end at a cutoff, got {rule!r}. Use a cutoff in Angstrom, a mapping such "
        "as {'Ti-O': 2.6}, or 'natural'."
    )
    assert len(CycleMomentFeaturizer(topology="each", bonds=rule).fit_transform([perovskite()])) == 1


def test_a_structure_as_reference_is_refused_too():
    with pytest.raises(ValueError, match=r"^reference is for topology="):
        CycleMomentFeaturizer(topology="each", reference=perovskite()).fit([perovskite()])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fade": -0.1}, "The 'fade' parameter of CycleMomentFeaturizer must be a float in the range "
         "[0.0, inf). Got -0.1 instead."),
        ({"topology": "own"}, "The 'topology' parameter of CycleMomentFeaturizer must be a str among "),
        ({"overflow": "wrap"}, "The 'overflow' parameter of CycleMomentFeaturizer must be a str among "),
    ],
)  # fmt: skip
def test_values_that_parameters_do_not_take_are_refused(options, expected):
    with pytest.raises(ValueError, match="parameter") as error:
        CycleMomentFeaturizer(**options).fit([perovskite()])
    assert message(error).startswith(expected)


# ---- Structures of any size, and the conventions of scikit-learn -------------------------------------------


def test_structures_of_any_size_and_composition_share_the_columns():
    frames = [methanol(), cluster(), rattled(perovskite(), 1), alloy(), rutile(), bulk("Ti", "hcp")]
    embed = CycleMomentFeaturizer(n=3, N=1, bonds=CutoffBonds(3.0, heteroatomic=False), topology="each")
    together = embed.fit_transform(frames)
    assert together.shape == (6, embed.n_features_out_)
    assert_array_equal(together.counts, [len(a) for a in frames])
    names = embed.get_feature_names_out()
    assert len(set(names)) == len(names) == embed.n_features_out_
    for atoms, rows in zip(frames, together, strict=True):
        own = clone(embed).fit([atoms])
        alone = own.transform([atoms]).values
        for i, row in enumerate(rows):
            # the same numbers under the same labels, zeros elsewhere
            symbol = atoms.get_chemical_symbols()[i]
            assert by_label(names, row, symbol) == by_label(own.get_feature_names_out(), alone[i], symbol)


def by_label(names, row, symbol):
    """Entries of the row of an atom, by the labels that stand for its species; without zeros."""
    found = {}
    for name, value in zip(names, row, strict=True):
        kind, labels, axis = re.fullmatch(r"(\w+)\[(.*)\](\.[xyz])?", name).groups()
        for label in labels.split("|"):
            if re.split("[-:#]", label)[0] == symbol and value:
                found[kind, label, axis] = value
    assert len(found) == np.count_nonzero(row)
    return found


def test_isolated_atoms_have_empty_rows():
    atoms = Atoms("TiOO", positions=[[0, 0, 0], [2.0, 0, 0], [50.0, 0, 0]])
    features = CycleMomentFeaturizer(n=4, N=2, bonds=3.1, topology="each", fade=0.5).fit_transform([atoms])
    assert features.values[0].any()
    assert not features.values[2].any()
    assert not features.vectors[2].any()
    embed = CycleMomentFeaturizer(
        n=4, N=1, bonds=3.1, topology="each", coordinates="distances", species_columns=False
    ).fit([atoms])
    alone = embed.transform([Atoms("O"), Atoms("Ti", cell=[9, 9, 9], pbc=True)])
    assert_array_equal(alone.values, 0.0)
    gradient, virials = alone.geometry.pull(np.ones_like(alone.values))
    assert_array_equal(gradient, 0.0)
    assert_array_equal(virials, 0.0)


@pytest.mark.parametrize(("n", "N"), [(0, 0), (1, 0), (0, 1), (2, 0)])
@pytest.mark.parametrize("fade", [0.0, 0.5])
def test_nothing_but_walks_or_neighbours_or_nothing_at_all(n, N, fade):
    embed = CycleMomentFeaturizer(n=n, N=N, bonds=3.1, topology="each", fade=fade)
    if n == 1:
        with pytest.warns(UserWarning, match="n=1 adds nothing"):
            embed.fit([perovskite()])
    else:
        embed.fit([perovskite()])
    features = embed.transform([perovskite()])
    expected = {(0, 0): 0, (1, 0): 0, (0, 1): 12, (2, 0): 12}[n, N]
    assert features.shape == (1, expected)
    assert len(embed.get_feature_names_out()) == expected
    assert features.vectors.shape == (5, expected if N else 0, 3)
    if N == 0:
        gradient, _ = features.geometry.pull(np.ones_like(features.values))
        assert gradient.shape == (5, 3)


def test_a_structure_of_one_atom_in_a_crystal_is_bonded_to_its_images():
    embed = CycleMomentFeaturizer(n=3, N=1, bonds=LIKE_ATOMS, topology="each", aggregate="sum")
    features = embed.fit_transform([bulk("Cu", "fcc", a=3.61)])
    h = np.exp(-3.61 / np.sqrt(2))
    assert_allclose(features.values[0], [12 * h**2, 48 * h**3, *[h] * 12], rtol=1e-12)


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_threads_give_the_same_numbers(n_jobs):
    frames = [rattled(perovskite(), k, 0.1) for k in range(2 * CHUNK + 3)]
    embed = each("perovskite", n=2, fade=0.4).fit(frames)
    alone = embed.transform(frames)
    found = pickle.loads(pickle.dumps(embed)).set_params(n_jobs=n_jobs).transform(frames)
    assert_array_equal(found.values, alone.values)
    assert_array_equal(found.vectors, alone.vectors)


def test_more_topologies_than_are_kept_do_not_mix():
    frames = [rattled(perovskite(), k, 0.3) for k in range(KEPT_TOPOLOGIES + 5)]
    embed = each("perovskite", n=2, N=1).fit(frames)
    together = embed.transform(frames + frames[::-1])
    graphs = {build_bond_graph(a, 3.1).n_bonds for a in frames}
    assert len(graphs) > 5
    for k, atoms in enumerate(frames):
        fresh = pickle.loads(pickle.dumps(embed)).transform([atoms])
        assert_array_equal(together[k], fresh.values)
        assert_array_equal(together[2 * len(frames) - 1 - k], fresh.values)


def test_single_precision_is_a_rounding():
    atoms = [atoms_of("cluster")]
    double, single = (each("cluster", dtype=dtype).fit_transform(atoms) for dtype in ("float64", "float32"))
    assert single.dtype == np.float32
    assert_array_equal(single.values, double.values.astype(np.float32))
    assert_array_equal(single.vectors, double.vectors)


@pytest.mark.parametrize("overflow", ["error", "truncate", "clip"])
def test_saved_and_cloned_featurizers_give_the_same(overflow, tmp_path):
    frames = [atoms_of("cluster", seed) for seed in range(3)]
    embed = each("cluster", overflow=overflow, fade=0.4).fit(frames)
    expected = embed.transform(frames)
    save_model(make_pipeline(embed), tmp_path / "model.skops")
    for other in (
        clone(embed).fit(frames),
        pickle.loads(pickle.dumps(embed)),
        load_model(tmp_path / "model.skops"),
    ):
        found = other.transform(frames)
        assert isinstance(found, PerAtomArray)
        assert_array_equal(found.values, expected.values)
        assert_array_equal(found.vectors, expected.vectors)
    assert clone(embed).get_params() == embed.get_params()


def test_auto_resolves_by_topology():
    crystal = [perovskite()]
    assert CycleMomentFeaturizer(2, 1).fit_transform(crystal).frames is not None
    own = CycleMomentFeaturizer(2, 1, topology="each").fit_transform(crystal)
    assert own.frames is None
    assert own.vectors is not None
    spelled_out = CycleMomentFeaturizer(2, 1, topology="each", order="value", frame="neighbors")
    same = spelled_out.fit_transform(crystal)
    assert_array_equal(same.values, own.values)
    assert CycleMomentFeaturizer(2, 1, order="value").fit_transform(crystal).frames is None


def test_a_refitted_featurizer_forgets_the_bonds_of_before():
    embed = CycleMomentFeaturizer(2, 1, bonds=2.5, topology="each").fit([star(3)])
    embed.transform([star(3)])
    embed.set_params(bonds=1.0, topology="each", n=0, N=0).fit([star(3)])
    assert embed.transform([star(3)]).shape == (1, 0)
    embed.set_params(bonds=2.5, n=2, N=1, fade=0.6).fit([star(3)])
    assert embed.transform([star(3)]).values[0, 0] < np.exp(-4.0)


@pytest.mark.parametrize("overflow", ["truncate", "clip"])
@pytest.mark.parametrize(
    "options", [{"n": 0, "N": 1}, {"n": 4, "N": 0}, {"n": 3, "N": 2}, {"n": 3, "N": 1, "fade": 0.5}]
)
def test_slopes_of_equal_entries_obey_the_symmetry(options, overflow):
    """Any energy of sorted entries has no slope where all atoms of a crystal stand on symmetric sites."""
    ideal = bulk("Cu", "fcc", a=3.61, cubic=True)
    embed = CycleMomentFeaturizer(
        bonds=LIKE_ATOMS, topology="each", coordinates="distances", overflow=overflow, **options
    ).fit([rattled(ideal, seed) for seed in range(3)])
    geometry = embed.transform([ideal]).geometry
    slopes = np.tile(np.random.default_rng(0).normal(size=embed.n_features_out_), (4, 1))
    gradient, virials = geometry.pull(slopes)
    assert_allclose(gradient, 0, atol=1e-13)
    assert_allclose(virials[0], virials[0, 0, 0] * np.eye(3), atol=1e-12)
    assert abs(virials[0, 0, 0]) > 1e-3
    # and both products stay transposes of each other
    rng = np.random.default_rng(1)
    free, velocities, strain = (
        rng.normal(size=slopes.shape),
        rng.normal(size=(4, 3)),
        rng.normal(size=(1, 3, 3)),
    )
    gradient, virials = geometry.pull(free)
    both = np.vdot(gradient, velocities) + np.vdot(virials, strain)
    assert_allclose(np.vdot(free, geometry.push(velocities, strain)), both, rtol=1e-10)


def test_atoms_in_one_place_are_refused_bonded_or_not():
    embed = CycleMomentFeaturizer(n=2, N=1, bonds=1.5, topology="each")
    good = Atoms("OH2", positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    bad = Atoms("OH2", positions=[[0, 0, 0], [1, 0, 0], [1.1, 0, 0]])
    with pytest.raises(ValueError, match="same place") as error:
        embed.fit([good]).transform([good, bad])
    assert message(error) == (
        "X has structures with atoms in the same place:\n"
        "  structure 1: atoms 1 and 2 are 0.1 Angstrom apart; remove one of them"
    )


@pytest.mark.parametrize(
    ("bonds", "fade", "pair", "cutoff"),
    [
        ({"O-H": 1.2, "H-H": 0.9}, 1.0, "H-H", "0.9"),
        (CutoffBonds(1.2), 1.2, "O-H", "1.2"),
        (NaturalBonds(1.0, heteroatomic=True), 1.0, "O-H", "0.97"),
    ],
)
def test_bonds_must_not_fade_from_their_beginning(bonds, fade, pair, cutoff):
    embed = CycleMomentFeaturizer(n=2, N=1, bonds=bonds, topology="each", fade=fade)
    water = Atoms("OH2", positions=[[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0]])
    with pytest.raises(ValueError, match="fade") as error:
        embed.fit([water])
    assert message(error) == (
        f"fade must be smaller than the cutoff of every bond; got {fade:g} Angstrom for {pair} with "
        f"{cutoff}. "
        "It is the width over which bonds end, usually 0.3 to 1 Angstrom."
    )
    embed.set_params(fade=0.5).fit([water])


@pytest.mark.parametrize("overflow", ["truncate", "clip"])
@pytest.mark.parametrize("options", [{"aggregate": "sum"}, {"coordinates": "distances", "N": 1}, {"N": 1}])
def test_atoms_that_found_no_column_are_told(overflow, options):
    """Gold beside gold, where in fit there was one atom of gold alone."""
    one, two = (bulk("Cu", "fcc", a=3.61, cubic=True) * (3, 1, 1) for _ in range(2))
    one.symbols[0] = two.symbols[0] = two.symbols[1] = "Au"
    embed = CycleMomentFeaturizer(
        **{"n": 2, "N": 0, **options}, bonds=LIKE_ATOMS, topology="each", overflow=overflow
    ).fit([one, rattled(one, 0)])
    known, strange = embed.overflowing([one, two])
    assert not known.any()
    neighbors = build_bond_graph(two, LIKE_ATOMS)
    beside = [
        np.isin(neighbors.targets[neighbors.offsets[i] : neighbors.offsets[i + 1]], [0, 1]).sum()
        for i in range(12)
    ]
    alone = build_bond_graph(one, LIKE_ATOMS)
    before = [(alone.targets[alone.offsets[i] : alone.offsets[i + 1]] == 0).sum() for i in range(12)]
    more = np.array([b > max(before) or (i < 2) for i, b in enumerate(beside)])
    assert_array_equal(strange[more], True)
    reference = CycleMomentFeaturizer(2, 1, bonds=LIKE_ATOMS).fit([one])
    assert not reference.overflowing([one])[0].any()


def test_messages_on_settings_that_were_changed_after_fit():
    embed = CycleMomentFeaturizer(2, 0, bonds=3.1, topology="each").fit([perovskite()])
    embed.set_params(overflow="clip")
    with pytest.raises(ValueError, match="clip") as error:
        embed.transform([perovskite()])
    assert message(error) == (
        "overflow='clip' needs the ranges of the columns in fit; this featurizer was fitted with "
        "another overflow. "
        "Fit it again, or use 'truncate'."
    )
    with pytest.raises(ValueError, match="hops") as error:
        embed.set_params(blocks="hops", aggregate="sum").fit([perovskite()])
    assert message(error) == (
        "blocks='hops' is for lists of walks, got aggregate='sum', which has one column per species "
        "sequence. Use "
        "SmoothMomentFeaturizer(species_channels=...) for sums over many species."
    )
