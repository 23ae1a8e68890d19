"""`CycleMomentFeaturizer` on real structures: what it computes, and what must not matter."""

import copy
import pickle
import re
from collections import defaultdict

import numpy as np
import pytest
from ase import Atoms
from crystals import (
    BONDED,
    copper,
    methanol,
    perovskite,
    rattled,
    repeated,
    rhenium_trioxide,
    skewed,
    trajectory,
)
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    Bonds,
    closed_walks,
    edges_of,
    hop_distances,
    length_of,
    open_walks,
    position,
    simple_cycles,
    species_sequence,
)
from pymatgen.core import Structure
from sklearn.base import clone
from symmetry import (
    TOLERANCE,
    assert_same_features,
    assert_same_rows,
    assert_same_up_to_frames,
    operation_between,
    random_rotation,
    rotated,
    scalar_columns,
    space_group,
    strayed,
    translated,
    vector_columns,
    with_turned_vectors,
    wrapped,
)

from tinynet_sklearn import CutoffBonds, CycleMomentFeaturizer, PerAtomArray, build_bond_graph
from tinynet_sklearn.features import CHUNK

CRYSTALS = ["perovskite", "MoO3", "rock salt", "fcc", "diamond", "wurtzite", "rutile"]
NOT_CRYSTALS = ["slab", "wire", "methanol", "benzene", "cyclopropane"]


def featurizer_for(name: str, **options) -> CycleMomentFeaturizer:
    """Fitted to the ideal structure, with its bonds."""
    make, rule = BONDED[name]
    return CycleMomentFeaturizer(**{"n": 4, "N": 2, "bonds": rule, "reference": "first", **options}).fit(
        [make()]
    )


def plain_bonds(graph) -> Bonds:
    ends = [(int(j), tuple(s)) for j, s in zip(graph.targets, graph.shifts.tolist(), strict=True)]
    return {i: ends[graph.offsets[i] : graph.offsets[i + 1]] for i in range(graph.n_atoms)}


# ---- What is computed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MoO3", "perovskite", "slab", "wire", "rock salt", "methanol"])
@pytest.mark.parametrize("paths", ["all", "simple"])
def test_published_vectors_number_for_number(name, paths):
    """L: exp(-length) of every walk, longest last; N: Z, x, y, z of every walk's end, depth first; own Z."""
    make, rule = BONDED[name]
    atoms = rattled(make(), seed=1)
    found = CycleMomentFeaturizer.published(4, 2, paths, bonds=rule).fit_transform([atoms])[0]
    bonds = plain_bonds(build_bond_graph(atoms, rule))
    oracle = simple_cycles if paths == "simple" else closed_walks
    walks = {m: [oracle(bonds, i, m) for i in range(len(atoms))] for m in (2, 4)}
    ends = {h: [[w[-1] for w in open_walks(bonds, i, h)] for i in range(len(atoms))] for h in (1, 2)}
    for i in range(len(atoms)):
        expected = []
        for m in (2, 4):
            block = sorted((np.exp(-length_of(walk, atoms)) for walk in walks[m][i]), reverse=True)
            expected += block + [0.0] * (max(map(len, walks[m])) - len(block))
        for h in (1, 2):
            block = [
                number
                for end in ends[h][i]
                for number in (atoms.numbers[end[0]], *(position(atoms, end) - atoms.positions[i]))
            ]
            expected += block + [0.0] * (4 * max(map(len, ends[h])) - len(block))
        assert_allclose(found[i], [*expected, atoms.numbers[i]], rtol=0, atol=1e-12)


def values_by_label(featurizer, row, species):
    """Sorted values of the columns that serve centres of a species, by label, without zeros (padding)."""
    values = defaultdict(list)
    for name, value in zip(featurizer.get_feature_names_out(), row, strict=True):
        kind, labels, axis = re.fullmatch(r"([LN]\d+)\[(.*)\](?:\.([xyz]))?", name).groups()
        for label in labels.split("|"):
            sequence, _ = label.split("#")
            if re.split("[-:]", sequence)[0] == species and abs(value) > 1e-12:
                values[kind, sequence, axis].append(value)
    return {key: sorted(found) for key, found in values.items()}


@pytest.mark.parametrize(
    "name", ["perovskite", "fcc", "diamond", "wurtzite", "slab", "chain", "methanol", "cyclopropane"]
)
@pytest.mark.parametrize("order", ["direction", "value"])
def test_each_walk_and_each_neighbour_once_under_its_name(name, order):
    make, rule = BONDED[name]
    atoms = rattled(make() if len(make()) > 1 else make() * (2, 1, 1), seed=2, amplitude=0.03)
    featurizer = CycleMomentFeaturizer(n=4, N=2, bonds=rule, frame="lab", order=order)
    rows = featurizer.fit_transform([atoms])[0]
    bonds = plain_bonds(featurizer.table_.graph)
    symbols = atoms.get_chemical_symbols()
    for i in range(len(atoms)):
        expected = defaultdict(list)
        for m in (2, 3, 4):
            once = {}
            for walk in closed_walks(bonds, i, m):
                label = species_sequence(walk, atoms)
                known, _ = once.get(edges_of(walk), (label, None))
                once[edges_of(walk)] = (min(known, label), np.exp(-length_of(walk, atoms)))
            for label, value in once.values():
                expected[f"L{m}", "-".join(Atoms(numbers=label).get_chemical_symbols()), None].append(value)
        for vertex, hop in hop_distances(bonds, i, 2).items():
            if hop:
                label = f"{symbols[i]}:{symbols[vertex[0]]}"
                for axis, d in zip("xyz", position(atoms, vertex) - atoms.positions[i], strict=True):
                    if abs(d) > 1e-12:
                        expected[f"N{hop}", label, axis].append(d)
        found = values_by_label(featurizer, rows[i], symbols[i])
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert_allclose(found[key], sorted(values), rtol=0, atol=1e-12, err_msg=str(key))


def test_order_value_sorts_walks_by_value_and_neighbours_by_distance_inside_each_class():
    atoms = rattled(perovskite(), seed=3)
    featurizer = CycleMomentFeaturizer(n=4, N=2, frame="lab", order="value").fit([perovskite()])
    rows = featurizer.transform([atoms])[0]
    names = featurizer.get_feature_names_out()
    for symbol, row in zip(atoms.symbols, rows, strict=True):
        classes = defaultdict(list)
        for column, name in enumerate(names):
            for label in re.search(r"\[(.*)\]", name).group(1).split("|"):
                if re.split("[-:#]", label)[0] == symbol and not name.endswith((".y", ".z")):
                    value = row[column] if name[0] == "L" else -np.linalg.norm(row[column : column + 3])
                    classes[name[:2], label.split("#")[0]].append(value)
        assert len(classes) > 4
        for values in classes.values():
            assert_array_equal(values, sorted(values, reverse=True))


def test_depth_first_order_sorts_the_walks_of_each_length():
    featurizer = CycleMomentFeaturizer.published(4, 0).fit([perovskite()])
    rows = featurizer.transform(trajectory(perovskite(), 3)).values
    for start, stop in ((0, 12), (12, 336)):
        assert (np.diff(rows[:, start:stop], axis=1) <= 0).all()


def test_odd_walks_are_a_block_of_their_own():
    featurizer = featurizer_for("fcc", n=3, N=0)
    assert len(scalar_columns(featurizer)) == 12 / 1 + 24
    (row,) = featurizer.transform([copper()])[0]
    d = 3.61 / np.sqrt(2)
    assert_allclose(row, [np.exp(-2 * d)] * 12 + [np.exp(-3 * d)] * 24, rtol=1e-12)


# ---- The container that comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRYSTALS + NOT_CRYSTALS)
@pytest.mark.parametrize("frame", ["lab", "site"])
def test_one_row_per_atom(name, frame):
    make, rule = BONDED[name]
    frames = trajectory(make(), 3, amplitude=0.02)
    featurizer = CycleMomentFeaturizer(bonds=rule, frame=frame)
    features = featurizer.fit_transform(frames)
    n_atoms = len(make())
    assert isinstance(features, PerAtomArray)
    assert features.shape == (3, featurizer.n_features_out_)
    assert_array_equal(features.offsets, n_atoms * np.arange(4))
    assert_array_equal(features.species, np.tile(make().numbers, 3))
    assert np.isfinite(features.values).all()
    assert (features.frames is not None) == (frame == "site")
    if frame == "site":
        assert features.frames.symmetry is featurizer.symmetry_


@pytest.mark.parametrize("pbc", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)], ids=str)
def test_every_combination_of_periodic_directions(pbc):
    cluster = rhenium_trioxide() * (2, 2, 2)
    cluster.pbc = pbc
    frames = trajectory(cluster, 2)
    featurizer = CycleMomentFeaturizer(n=4, N=2).fit(frames)
    assert_same_features(
        featurizer.transform([translated(frames[0], (40.0, -3.0, 9.9))]), featurizer.transform(frames[:1])
    )
    bonds_of_molybdenum = featurizer.table_.graph.coordination[cluster.numbers == 42]
    assert min(bonds_of_molybdenum) == 3 + sum(pbc)  # at a corner, an edge, a face, or inside


@pytest.mark.parametrize("name", ["perovskite", "fcc", "wurtzite", "methanol"])
@pytest.mark.parametrize(
    "options",
    [
        {"frame": "site"},
        {"frame": "lab"},
        {"frame": "lab", "order": "value"},
        {"frame": "lab", "order": "depth-first"},
        {"neighbors": "walks", "duplicates": "keep", "species_columns": True},
        {"aggregate": "sum"},
        {"paths": "simple", "n": 6},
    ],
    ids=str,
)
def test_every_column_has_a_readable_name_of_its_own(name, options):
    featurizer = featurizer_for(name, **options)
    names = featurizer.get_feature_names_out()
    assert names.shape == (featurizer.n_features_out_,)
    assert names.dtype == object
    assert len(set(names)) == len(names)
    element = "[A-Z][a-z]?"
    walk = f"{element}(-{element})*#[0-9]+"
    end = f"{element}(:{element})?#[0-9]+"
    pattern = rf"L\d\[{walk}(\|{walk})*\]|mu\d\[{element}(-{element})*\]|N\d\[{end}(\|{end})*\]\.[xyzZ]|Z"
    assert [name for name in names if not re.fullmatch(pattern, name)] == []


def test_names_of_a_small_vector():
    assert featurizer_for("rock salt", n=2, N=0).get_feature_names_out().tolist() == [
        f"L2[Na-Cl#{k}|Cl-Na#{k}]" for k in range(6)
    ]
    assert featurizer_for("diamond", n=0, N=1).get_feature_names_out()[:4].tolist() == [
        "N1[C:C#0].x", "N1[C:C#0].y", "N1[C:C#0].z", "N1[C:C#1].x",
    ]  # fmt: skip
    assert featurizer_for("perovskite", n=2, N=0, aggregate="sum").get_feature_names_out().tolist() == [
        "mu2[O-Ti]", "mu2[O-Ba]", "mu2[Ti-O]", "mu2[Ba-O]",
    ]  # fmt: skip
    published = CycleMomentFeaturizer.published(2, 1).fit([perovskite()]).get_feature_names_out()
    assert published[[0, 6, 12, 36, -1]].tolist() == [
        "L2[O#0|Ti#0|Ba#0]", "L2[Ba#6]", "N1[O#0|Ti#0|Ba#0].Z", "N1[Ba#6].Z", "Z",
    ]  # fmt: skip


def test_species_columns_hold_atomic_numbers():
    featurizer = featurizer_for("perovskite", species_columns=True)
    names = featurizer.get_feature_names_out()
    rows = featurizer.transform([perovskite()])[0]
    assert_array_equal(rows[:, -1], [56, 22, 8, 8, 8])
    around_barium = [
        k for k, name in enumerate(names) if name.endswith(".Z") and name.startswith("N1") and "Ba:O" in name
    ]
    assert_array_equal(rows[0, around_barium], np.full(12, 8))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"aggregate": "sum"}, {"frame": "lab", "order": "value"}], ids=str)
def test_dtype_and_agreement_of_both_precisions(dtype, options):
    frames = trajectory(perovskite(), 2)
    exact = CycleMomentFeaturizer(**options).fit_transform(frames).values
    found = CycleMomentFeaturizer(dtype=dtype, **options).fit_transform(frames).values
    assert found.dtype == dtype
    assert_allclose(found, exact, rtol=0, atol=TOLERANCE[found.dtype])


# ---- What must not matter: where the atoms stand, how they are numbered, which cell ------------------------


ORDERS = [
    {"frame": "site"},
    {"frame": "lab"},
    {"frame": "lab", "order": "value"},
    {
        "frame": "lab",
        "order": "depth-first",
        "neighbors": "walks",
        "duplicates": "keep",
        "species_columns": True,
    },
]
orders = pytest.mark.parametrize("options", ORDERS, ids=["site", "lab", "value", "depth-first"])


@orders
@pytest.mark.parametrize("name", CRYSTALS + NOT_CRYSTALS)
@pytest.mark.parametrize(
    "move",
    [
        lambda atoms: translated(atoms, (0.3, -20.0, 7.7)),
        wrapped,
        lambda atoms: strayed(atoms, seed=1),
        lambda atoms: wrapped(translated(atoms, (1.9, 1.9, 1.9))),
    ],
    ids=["translated", "wrapped", "strayed", "translated and wrapped"],
)
def test_translation_and_wrapping(name, options, move):
    featurizer = featurizer_for(name, **options)
    atoms = rattled(BONDED[name][0](), seed=4)
    assert_same_features(featurizer.transform([move(atoms)]), featurizer.transform([atoms]))


@orders
def test_fit_does_not_care_about_wrapping_either(options):
    frames = trajectory(perovskite(), 6)
    moved = [wrapped(translated(atoms, (0.7 * k, 1.1, -0.4 * k))) for k, atoms in enumerate(frames)]
    moved[0] = frames[0]  # sets the origin
    a, b = (CycleMomentFeaturizer(**options).fit(X) for X in (frames, moved))
    assert_same_features(b.transform(moved), a.transform(frames))


@orders
def test_permutation_of_structures(options):
    featurizer = featurizer_for("perovskite", **options)
    frames = trajectory(perovskite(), 5)
    order = [3, 0, 4, 1, 2]
    together, shuffled = featurizer.transform(frames), featurizer.transform([frames[k] for k in order])
    assert_array_equal(shuffled.values, together[order].values)
    one_by_one = np.concatenate([featurizer.transform([atoms]).values for atoms in frames])
    assert_array_equal(one_by_one, together.values)


ATOM_ORDER = [4, 0, 2, 1, 3]


@pytest.mark.parametrize("name", ["perovskite", "fcc", "slab"])
@pytest.mark.parametrize("options", [{"order": "value"}, {"order": "direction"}], ids=["value", "direction"])
def test_permutation_of_atoms_in_the_lab_frame(name, options):
    make, rule = BONDED[name]
    ideal = make() if len(make()) > 1 else make() * (5, 1, 1)
    order = np.random.default_rng(5).permutation(len(ideal))
    atoms = rattled(ideal, seed=5)
    rows, shuffled = (
        CycleMomentFeaturizer(bonds=rule, frame="lab", reference=reference, **options).fit_transform([frame])
        for reference, frame in ((ideal, atoms), (ideal[order], atoms[order]))
    )
    assert_same_rows(shuffled.values, rows.values[order])


def test_permutation_of_atoms_with_the_published_order_leaves_the_walks_alone():
    atoms = rattled(perovskite(), seed=6)
    plain, shuffled = (
        CycleMomentFeaturizer.published(4, 0).fit_transform([a]) for a in (atoms, atoms[ATOM_ORDER])
    )
    assert_same_rows(shuffled.values, plain.values[ATOM_ORDER])


def test_permutation_of_atoms_with_site_frames_may_only_renumber_slots():
    """Another atom becomes the representative, whose directions name the slots: same numbers, other slots."""
    atoms = rattled(perovskite(), seed=7)
    by_row = []
    for frame, ideal in ((atoms, perovskite()), (atoms[ATOM_ORDER], perovskite()[ATOM_ORDER])):
        featurizer = CycleMomentFeaturizer(reference=ideal).fit([frame])
        rows = featurizer.transform([frame]).values
        distances = np.linalg.norm(rows[:, vector_columns(featurizer)], axis=2)
        by_row.append(np.sort(np.hstack([rows[:, scalar_columns(featurizer)], distances]), axis=1))
    assert_same_rows(by_row[1], by_row[0][ATOM_ORDER])


SUPERCELLS = {"2x1x3": (2, 1, 3), "sheared": ((1, 1, 0), (-1, 1, 0), (0, 1, 2))}


@pytest.mark.parametrize("shape", SUPERCELLS)
@pytest.mark.parametrize("name", ["perovskite", "fcc", "wurtzite"])
@pytest.mark.parametrize("options", [{"order": "value"}, {"order": "direction"}], ids=["value", "direction"])
def test_supercell_in_the_lab_frame(name, shape, options):
    make, rule = BONDED[name]
    atoms, large = (
        repeated(a, SUPERCELLS[shape]) if k else a for k, a in enumerate([rattled(make(), 8)] * 2)
    )
    rows, many = (
        CycleMomentFeaturizer(bonds=rule, frame="lab", reference=ideal, **options)
        .fit_transform([frame])
        .values
        for ideal, frame in ((make(), atoms), (repeated(make(), SUPERCELLS[shape]), large))
    )
    assert_same_rows(many, np.tile(rows, (len(large) // len(atoms), 1)))


@pytest.mark.parametrize("shape", SUPERCELLS)
@pytest.mark.parametrize("name", ["perovskite", "rutile", "wurtzite"])
def test_supercell_with_site_frames(name, shape):
    make, rule = BONDED[name]
    atoms = rattled(make(), seed=9)
    large = repeated(atoms, SUPERCELLS[shape])
    small = CycleMomentFeaturizer(bonds=rule, reference=make()).fit_transform([atoms])
    many = CycleMomentFeaturizer(bonds=rule, reference=repeated(make(), SUPERCELLS[shape])).fit_transform(
        [large]
    )
    for copy_of in range(len(large) // len(atoms)):
        images = copy_of * len(atoms) + np.arange(len(atoms))
        assert_same_up_to_frames(many, small, np.eye(3), images)


@pytest.mark.parametrize("name", ["perovskite", "wurtzite", "rutile", "fcc"])
@pytest.mark.parametrize("options", ORDERS[:3], ids=["site", "lab", "value"])
def test_an_equivalent_skewed_cell(name, options):
    make, rule = BONDED[name]
    atoms = rattled(make(), seed=10)
    rows, oblique = (
        CycleMomentFeaturizer(bonds=rule, reference=ideal, **options).fit_transform([frame])
        for ideal, frame in ((make(), atoms), (wrapped(skewed(make())), wrapped(skewed(atoms))))
    )
    if options["frame"] == "site":
        assert_same_up_to_frames(oblique, rows, np.eye(3))
    else:
        assert_same_rows(oblique.values, rows.values)


# ---- What must not matter: how the crystal is turned -------------------------------------------------------


@pytest.mark.parametrize("name", CRYSTALS + NOT_CRYSTALS)
@pytest.mark.parametrize("options", ORDERS[1:], ids=["lab", "value", "depth-first"])
def test_in_the_lab_frame_walks_are_invariant_and_coordinates_turn_along(name, options):
    featurizer = featurizer_for(name, **options)
    atoms = rattled(BONDED[name][0](), seed=11)
    rotation = random_rotation(seed=11)
    before, after = (
        featurizer.transform([atoms]).values,
        featurizer.transform([rotated(atoms, rotation)]).values,
    )
    assert_same_rows(after[:, scalar_columns(featurizer)], before[:, scalar_columns(featurizer)])
    assert_same_rows(after, with_turned_vectors(featurizer, before, rotation))


@pytest.mark.parametrize("name", CRYSTALS + NOT_CRYSTALS)
def test_site_frames_turn_along_and_features_stay(name):
    featurizer = featurizer_for(name)
    atoms = rattled(BONDED[name][0](), seed=12)
    rotation = random_rotation(seed=12)
    before, after = featurizer.transform([atoms]), featurizer.transform([rotated(atoms, rotation)])
    assert_same_rows(after.values, before.values)
    assert_allclose(after.frames.rotations, before.frames.rotations @ rotation.T, rtol=0, atol=1e-9)
    forces = np.random.default_rng(12).normal(size=(len(atoms), 3))
    assert_allclose(
        after.frames.to_frame(forces @ rotation.T), before.frames.to_frame(forces), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", ["perovskite", "wurtzite"])
def test_mirror_images_of_crystals_have_the_same_features(name):
    featurizer = featurizer_for(name)
    atoms = rattled(BONDED[name][0](), seed=13)
    mirror = random_rotation(seed=13, proper=False)
    before, after = featurizer.transform([atoms]), featurizer.transform([rotated(atoms, mirror)])
    assert_same_rows(after.values, before.values)
    assert_allclose(after.frames.rotations, before.frames.rotations @ mirror.T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["perovskite", "wurtzite", "slab", "wire", "methanol"])
def test_the_mean_of_turning_frames_is_the_mean_of_frames_that_do_not_turn(name):
    make, rule = BONDED[name]
    frames = trajectory(make(), 8, amplitude=0.03)
    turning = [frames[0], *(rotated(a, random_rotation(seed=k)) for k, a in enumerate(frames[1:]))]
    still, tumbling = (CycleMomentFeaturizer(bonds=rule).fit(X) for X in (frames, turning))
    assert_allclose(tumbling.reference_.positions, still.reference_.positions, rtol=0, atol=1e-9)
    assert_allclose(tumbling.reference_.cell, still.reference_.cell, rtol=0, atol=1e-9)
    assert_same_rows(tumbling.transform(turning).values, still.transform(frames).values)


@pytest.mark.parametrize("name", ["slab", "chain", "wire"])
def test_thermal_motion_in_a_fixed_cell_is_no_rotation(name):
    make, rule = BONDED[name]
    frames = trajectory(make(), 10, amplitude=0.03)
    featurizer = CycleMomentFeaturizer(bonds=rule).fit(frames)
    periodic = make().pbc
    assert_allclose(featurizer.reference_.cell[periodic], make().cell.array[periodic], rtol=0, atol=1e-9)
    rotations = featurizer.transform(frames).frames.rotations.reshape(10, len(make()), 3, 3)
    lattice = make().cell.array[periodic]
    assert_allclose(
        lattice @ np.swapaxes(rotations, 2, 3),
        np.broadcast_to(
            lattice @ featurizer.sites_.rotations.transpose(0, 2, 1), (10, len(make()), len(lattice), 3)
        ),
        rtol=0,
        atol=1e-9,
    )


def test_molecules_that_turn_head_over_heels_keep_a_usable_reference():
    water = methanol()
    upside_down = rotated(water, np.diag([-1.0, -1.0, 1.0]))
    featurizer = CycleMomentFeaturizer(bonds="natural").fit([water, upside_down])
    first, second = featurizer.transform([water, upside_down])
    assert_same_rows(second, first)


def test_a_linear_molecule_has_frames_that_follow_its_axis():
    molecule = Atoms("CO2", positions=[[0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]])
    featurizer = CycleMomentFeaturizer(bonds=1.5).fit([molecule])
    atoms = translated(molecule, (5, 5, 5))
    atoms.positions[0, 2] += 0.1
    rotation = random_rotation(seed=14)
    before, after = featurizer.transform([atoms, rotated(atoms, rotation)])
    assert_same_rows(after, before)


# ---- Site frames and site groups ---------------------------------------------------------------------------


SITE_OPTIONS = {
    "defaults": {},
    "all walks and ends": {"neighbors": "walks", "duplicates": "keep", "species_columns": True, "N": 1},
    "simple cycles": {"paths": "simple", "N": 1},
    "sums": {"aggregate": "sum"},
}


@pytest.mark.parametrize("options", SITE_OPTIONS)
@pytest.mark.parametrize("name", CRYSTALS)
def test_atoms_that_a_space_group_operation_exchanges_have_the_same_features(name, options):
    """The key test: carry a rattled frame through every operation of the ideal crystal's space group.

    Atom i arrives at site images[i], turned by R. Its row there must be its old row after *the* operation of
    the site group that R amounts to in the frames of the two sites.
    """
    featurizer = featurizer_for(name, **SITE_OPTIONS[options])
    ideal = BONDED[name][0]()
    atoms = rattled(ideal, seed=15)
    before = featurizer.transform([atoms])
    n_operations = 0
    for operation in space_group(ideal):
        after = featurizer.transform([operation.image(atoms)])
        assert_same_up_to_frames(after, before, operation.rotation, operation.images)
        n_operations += 1
    assert n_operations >= 12


@pytest.mark.parametrize("name", CRYSTALS)
def test_turning_a_crystal_about_an_atom_is_the_action_of_its_site_group(name):
    """Every operation of every site group, as a rotation of the whole rattled crystal about the atom."""
    featurizer = featurizer_for(name)
    ideal = BONDED[name][0]()
    atoms = rattled(ideal, seed=16)
    symmetry, sites = featurizer.symmetry_, featurizer.sites_
    before = featurizer.transform([atoms]).values
    for site, representative in enumerate(sites.representatives):
        found = set()
        for operation in space_group(ideal):
            if operation.images[representative] != representative:
                continue
            after = featurizer.transform([operation.image(atoms)]).values
            number = operation_between(symmetry, site, operation.rotation)
            expected = symmetry.apply(before[[representative]], site, number)
            assert_same_rows(after[[representative]], expected)
            found.add(number)
        assert found == set(range(len(symmetry.gather[site])))


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("perovskite", {"Ba": 48, "Ti": 48, "O": 16}),
        ("MoO3", {"Mo": 48, "O": 16}),
        ("rock salt", {"Na": 48, "Cl": 48}),
        ("fcc", {"Cu": 48}),
        ("diamond", {"C": 24}),
        ("wurtzite", {"Zn": 6, "O": 6}),
        ("rutile", {"Ti": 8, "O": 4}),
    ],
)
@pytest.mark.parametrize("reference", ["ideal", "mean of a trajectory"])
def test_site_groups_have_the_order_of_the_textbook(name, orders, reference):
    make, rule = BONDED[name]
    frames = [make()] if reference == "ideal" else trajectory(make(), 20, amplitude=0.08)
    featurizer = CycleMomentFeaturizer(bonds=rule).fit(frames)
    symbols = make().get_chemical_symbols()
    found = {
        symbols[atom]: len(featurizer.symmetry_.gather[site])
        for site, atom in enumerate(featurizer.sites_.representatives)
    }
    assert found == orders
    assert len(featurizer.sites_.representatives) == len(orders)


@pytest.mark.parametrize("name", ["perovskite", "wurtzite", "rutile"])
def test_site_groups_are_groups_and_act_as_such(name):
    featurizer = featurizer_for(name)
    symmetry = featurizer.symmetry_
    rows = featurizer.transform([rattled(BONDED[name][0](), seed=17)]).values
    for site, atom in enumerate(featurizer.sites_.representatives):
        row, rotations = rows[[atom]], symmetry.rotations[site]
        assert_allclose(rotations[0], np.eye(3), atol=1e-12)
        for a in range(len(rotations)):
            assert_array_equal(np.sort(symmetry.gather[site][a]), np.arange(rows.shape[1]))
            for b in range(0, len(rotations), 5):
                product = operation_between(symmetry, site, rotations[b] @ rotations[a])
                once = symmetry.apply(row, site, product)
                twice = symmetry.apply(symmetry.apply(row, site, a), site, b)
                assert_same_rows(twice, once)


def test_with_an_ideal_crystal_all_equivalent_atoms_have_the_same_row():
    for name in CRYSTALS:
        features = featurizer_for(name).transform([BONDED[name][0]()])
        for site in np.unique(features.frames.sites):
            rows = features.values[features.frames.sites == site]
            assert_same_rows(rows, np.tile(rows[:1], (len(rows), 1)))


def test_slots_follow_species_and_direction():
    """The first neighbours of Ti: along -x, -y, -z, +z, +y, +x."""
    featurizer = featurizer_for("perovskite", n=2, N=1)
    titanium = featurizer.transform([perovskite()])[0][1]
    vectors = titanium[vector_columns(featurizer)][:6]
    expected = 2.0 * np.array([[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    assert_allclose(vectors, expected, atol=1e-12)


def test_layers_of_a_slab_are_different_sites():
    sites = featurizer_for("slab").sites_
    barium, titanium = sites.classes[[0, 5]], sites.classes[[1, 6]]
    assert len(set(barium)) == len(set(titanium)) == 2


def test_a_wide_tolerance_is_what_forgives_thermal_noise():
    frame = [rattled(perovskite(), seed=18, amplitude=0.1)]
    strict = CycleMomentFeaturizer(site_tolerance=0.01).fit(frame)
    tolerant = CycleMomentFeaturizer(site_tolerance=0.8).fit(frame)
    assert len(strict.sites_.representatives) == 5
    assert len(tolerant.sites_.representatives) == 3


# ---- The reference -----------------------------------------------------------------------------------------


def test_the_reference_is_the_mean_the_first_or_a_given_structure():
    frames = trajectory(perovskite(), 10)
    mean = CycleMomentFeaturizer(reference="mean").fit(frames).reference_
    first = CycleMomentFeaturizer(reference="first").fit(frames).reference_
    given = CycleMomentFeaturizer(reference=perovskite()).fit(frames).reference_
    assert_array_equal(first.positions, frames[0].positions)
    assert_array_equal(given.positions, perovskite().positions)
    assert_array_equal(first.cell, frames[0].cell.array)
    average = np.mean([a.positions - a.positions.mean(axis=0) for a in frames], axis=0)
    assert_allclose(mean.positions - mean.positions.mean(axis=0), average, rtol=0, atol=1e-12)
    assert_allclose(mean.cell, perovskite().cell.array, rtol=0, atol=1e-12)


def test_the_mean_cell_of_a_breathing_crystal():
    frames = []
    for scale in (0.98, 1.0, 1.02, 1.04):
        frames.append(perovskite())
        frames[-1].set_cell(scale * perovskite().cell.array, scale_atoms=True)
    mean = CycleMomentFeaturizer().fit(frames).reference_
    assert_allclose(mean.cell, 1.01 * perovskite().cell.array, rtol=1e-12)


def test_the_bonds_of_the_reference_serve_every_frame():
    """A bond stretched beyond the cutoff stays a bond; a stranger that comes close does not become one."""
    featurizer = featurizer_for("perovskite")
    atoms = perovskite()
    atoms.positions[2, 2] += 0.4
    lengths = -np.log(featurizer.transform([atoms])[0][1, :6]) / 2
    assert_allclose(np.sort(lengths), np.sort([2, 2, 2, 2, 1.6, 2.4]), rtol=0.02)
    assert lengths.max() > 2.0
    short = CycleMomentFeaturizer(bonds=2.1, reference=perovskite()[1:]).fit([atoms[1:]])
    assert short.table_.graph.coordination[0] == 6


# ---- An estimator like any other ---------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["lab", "site"])
def test_the_number_of_jobs_does_not_change_a_bit(frame):
    frames = trajectory(perovskite(), 2 * CHUNK + 7)
    one, two = (CycleMomentFeaturizer(frame=frame, n_jobs=n).fit(frames).transform(frames) for n in (1, 2))
    assert_array_equal(one.values, two.values)
    if frame == "site":
        assert_array_equal(one.frames.rotations, two.frames.rotations)


def test_pymatgen_structures_are_as_good_as_ase_atoms():
    frames = trajectory(perovskite(), 2)
    lattice = perovskite().cell.array
    converted = [Structure(lattice, list(a.symbols), a.positions, coords_are_cartesian=True) for a in frames]
    assert_same_features(
        CycleMomentFeaturizer().fit_transform(converted), CycleMomentFeaturizer().fit_transform(frames)
    )


def test_one_structure_is_enough():
    features = CycleMomentFeaturizer().fit_transform([perovskite()])
    assert features.shape[0] == 1
    assert len(features.values) == 5


def test_the_input_is_not_mutated_not_even_read_only_input():
    frames = trajectory(perovskite(), 3)
    kept = copy.deepcopy(frames)
    for atoms in frames:
        for name in ("positions", "numbers"):
            atoms.arrays[name].flags.writeable = False
        atoms.cell.array.flags.writeable = False
    CycleMomentFeaturizer().fit(frames).transform(frames)
    assert frames == kept


def test_fitting_again_gives_the_same_and_forgets_the_past():
    frames = trajectory(perovskite(), 3)
    featurizer = CycleMomentFeaturizer().fit(frames)
    once = featurizer.transform(frames)
    featurizer.set_params(n=2).fit(trajectory(rhenium_trioxide(), 2))
    featurizer.set_params(n=4).fit(frames)
    assert_array_equal(featurizer.transform(frames).values, once.values)
    assert_array_equal(featurizer.fit_transform(frames).values, once.values)


@pytest.mark.parametrize("options", [{}, {"frame": "lab", "order": "value", "dtype": "float32"}], ids=str)
def test_pickle_and_clone(options):
    frames = trajectory(perovskite(), 3)
    featurizer = CycleMomentFeaturizer(**options).fit(frames)
    expected = featurizer.transform(frames)
    thawed = pickle.loads(pickle.dumps(featurizer))
    assert_array_equal(thawed.transform(frames).values, expected.values)
    fresh = clone(featurizer)
    assert fresh.get_params() == featurizer.get_params()
    assert not hasattr(fresh, "table_")
    assert_array_equal(fresh.fit_transform(frames).values, expected.values)


def test_the_published_preset_can_be_departed_from_one_by_one():
    preset = CycleMomentFeaturizer.published(6, 4, "simple", bonds=2.5)
    assert preset.get_params() == {
        "n": 6, "N": 4, "paths": "simple", "bonds": 2.5, "topology": "reference", "reference": "first",
        "fade": 0.0, "overflow": "error", "blocks": "species",
        "neighbors": "walks", "duplicates": "keep", "order": "depth-first", "frame": "lab",
            "coordinates": "vectors", "aggregate": None,
        "odd_walks": False, "species_columns": True, "site_tolerance": 0.6, "n_jobs": None,
        "dtype": "float64",
    }  # fmt: skip


@pytest.mark.parametrize("bonds", [CutoffBonds(3.1), {"Ba-O": 3.1, "Ti-O": 2.7}, 3], ids=str)
def test_bonds_in_any_form(bonds):
    assert_same_features(
        CycleMomentFeaturizer(bonds=bonds).fit_transform([perovskite()]),
        CycleMomentFeaturizer().fit_transform([perovskite()]),
    )


@pytest.mark.parametrize(("n", "N", "blocks"), [(0, 1, "N1"), (1, 1, "N1"), (2, 0, "L2")], ids=str)
def test_blocks_can_be_left_out(n, N, blocks):
    options = {"n": n, "N": N, "bonds": BONDED["fcc"][1]}
    if n == 1:
        with pytest.warns(UserWarning, match="n=1 adds nothing"):
            names = CycleMomentFeaturizer(**options).fit([copper()]).get_feature_names_out()
    else:
        names = CycleMomentFeaturizer(**options).fit([copper()]).get_feature_names_out()
    assert {name[:2] for name in names} == {blocks}
