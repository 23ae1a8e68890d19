"""The per-atom container: what it holds, how it is cut and joined, and what it refuses."""

import operator
import pickle

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import ColumnSymmetry, SiteFrames
from tinynet_sklearn.targets import as_target

EQUAL = (3, 3, 3, 3)
UNEQUAL = (2, 5, 1, 3)
QUARTER_TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
MIRROR = np.diag([-1.0, 1.0, 1.0])


def random_rotations(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, 3, 3)))[0]


def swap_symmetry():
    """Columns 0 and 1 are scalars of two equivalent neighbours, 2:5 and 5:8 their vectors."""
    swap = [1, 0, 5, 6, 7, 2, 3, 4]
    return ColumnSymmetry(
        gather=(np.array([range(8), swap]), np.array([range(8)])),
        rotations=(np.stack([np.eye(3), MIRROR]), np.eye(3)[None]),
        vector_columns=np.array([[2, 3, 4], [5, 6, 7]]),
    )


def per_atom_array(sizes=UNEQUAL, k=8, framed=False, symmetry=None, seed=0):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    frames = SiteFrames(random_rotations(n), np.arange(n) % 2, symmetry) if framed or symmetry else None
    arrays = [rng.normal(size=(m, k)) for m in sizes]
    return PerAtomArray.from_list(arrays, [8 + np.arange(m) % 2 for m in sizes], frames)


def message(error):
    return str(error.value)


@pytest.fixture(params=[EQUAL, UNEQUAL], ids=["equal sizes", "unequal sizes"])
def array(request):
    return per_atom_array(request.param, framed=True, symmetry=swap_symmetry())


# ---- ColumnSymmetry and SiteFrames ------------------------------------------------------------


def test_an_operation_permutes_scalars_and_turns_the_vectors_of_exchanged_neighbours():
    rows = np.arange(8.0)[None]
    image = swap_symmetry().apply(rows, site=0, operation=1)
    assert_array_equal(image, [[1, 0, -5, 6, 7, -2, 3, 4]])
    assert_array_equal(rows, np.arange(8.0)[None])


def test_operation_zero_is_the_identity_and_a_mirror_is_its_own_inverse():
    symmetry, rows = swap_symmetry(), np.random.default_rng(0).normal(size=(4, 8))
    assert_array_equal(symmetry.apply(rows, 0, 0), rows)
    assert_allclose(symmetry.apply(symmetry.apply(rows, 0, 1), 0, 1), rows, rtol=0, atol=1e-15)


def test_an_operation_keeps_single_precision_and_accepts_no_vectors_at_all():
    scalars = ColumnSymmetry(
        (np.array([[0, 1], [1, 0]]),), (np.stack([np.eye(3), MIRROR]),), np.empty((0, 3), int)
    )
    image = scalars.apply(np.array([[1, 2]], dtype=np.float32), 0, 1)
    assert image.dtype == np.float32
    assert_array_equal(image, [[2, 1]])


def test_column_symmetries_are_compared_by_their_numbers():
    symmetry = swap_symmetry()
    assert symmetry.equals(symmetry)
    assert symmetry.equals(swap_symmetry())
    assert not symmetry.equals(
        ColumnSymmetry(symmetry.gather[:1], symmetry.rotations[:1], symmetry.vector_columns)
    )


@pytest.mark.parametrize(
    ("gather", "rotations", "expected"),
    [
        ((), (), "gather and rotations must hold one array per site class, at least one; got 0 and 0."),
        (
            ([[0, 1]],),
            (np.eye(3)[None], np.eye(3)[None]),
            "gather and rotations must hold one array per site class, at least one; got 1 and 2.",
        ),
        (
            ([[0, 1]], [[0, 1, 2]]),
            (np.eye(3)[None], np.eye(3)[None]),
            "site class 1: gather must have shape (n_ops, 2) and rotations (n_ops, 3, 3) with the same "
            "n_ops; got (1, 3) and (1, 3, 3).",
        ),
        (
            ([[1, 0]],),
            (np.eye(3)[None],),
            "site class 0: operation 0 must be the identity (gather 0, 1, 2, ..., the unit matrix as "
            "rotation). Put the identity first in the list of operations.",
        ),
        (
            ([[0, 1]],),
            (MIRROR[None],),
            "site class 0: operation 0 must be the identity (gather 0, 1, 2, ..., the unit matrix as "
            "rotation). Put the identity first in the list of operations.",
        ),
    ],
)
def test_a_symmetry_that_does_not_fit_together_is_refused(gather, rotations, expected):
    with pytest.raises(ValueError, match="gather") as error:
        ColumnSymmetry(gather, rotations, np.empty((0, 3), int))
    assert message(error) == expected


def test_frames_turn_vectors_there_and_back():
    frames = SiteFrames(np.stack([QUARTER_TURN, MIRROR]), np.array([0, 0]))
    vectors = np.array([[1.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    assert_array_equal(frames.to_frame(vectors), [[0, 1, 0], [-1, 2, 3]])
    assert_array_equal(frames.to_lab(frames.to_frame(vectors)), vectors)


def test_taking_rows_keeps_the_symmetry_and_dropping_it_keeps_the_rest():
    symmetry = swap_symmetry()
    frames = SiteFrames(random_rotations(5), np.array([0, 1, 0, 1, 0]), symmetry)
    taken = frames.take(np.array([4, 1]))
    assert_array_equal(taken.rotations, frames.rotations[[4, 1]])
    assert_array_equal(taken.sites, [0, 1])
    assert taken.symmetry is symmetry
    assert taken.without_symmetry().symmetry is None
    assert_array_equal(taken.without_symmetry().rotations, taken.rotations)


@pytest.mark.parametrize(
    ("rotations", "sites", "expected"),
    [
        (
            np.eye(3)[None],
            [0, 0],
            "rotations must have shape (n_rows, 3, 3) with one row per entry of sites; got (1, 3, 3) for 2 "
            "sites.",
        ),
        (
            [np.eye(3), 2 * np.eye(3), np.full((3, 3), np.nan)],
            [0, 0, 0],
            "rotations must be orthogonal matrices; 2 of 3 are not, the first in row 1. Orthonormalize the "
            "axes before building SiteFrames.",
        ),
        (np.eye(3)[None], [2], "sites must lie in 0..1, the site classes of symmetry; got 2..2."),
    ],
)
def test_frames_that_do_not_fit_are_refused(rotations, sites, expected):
    with pytest.raises(ValueError, match="must") as error:
        SiteFrames(rotations, sites, swap_symmetry())
    assert message(error) == expected


def test_vectors_of_the_wrong_number_are_refused():
    with pytest.raises(ValueError, match="vectors") as error:
        SiteFrames(random_rotations(2), [0, 0]).to_lab(np.zeros((3, 3)))
    assert message(error) == "vectors must have shape (2, 3), one per row of the frames; got (3, 3)."


# ---- PerAtomArray: contents ------------------------------------------------------------


def test_it_counts_structures_and_stacks_atoms(array):
    assert len(array) == 4
    assert array.shape == (4, 8)
    assert array.ndim == 2
    assert array.dtype == np.float64
    assert np.asarray(array) is array.values
    assert np.asarray(array).shape == (sum(array.counts), 8)
    assert_array_equal(array.structure_of_row, np.repeat(range(4), array.counts))
    assert array.nbytes > array.values.nbytes + array.frames.rotations.nbytes


def test_iteration_and_integers_give_views(array):
    for i, part in enumerate(array):
        assert np.shares_memory(part, array.values)
        assert_array_equal(part, array[i])
        assert_array_equal(part, array[np.int64(i), ...])
    assert_array_equal(array[-1], array[3])


@pytest.mark.parametrize(
    "key",
    [
        slice(1, 3),
        slice(3, 1),
        slice(None, None, -2),
        [3, 0, 0],
        np.array([-1, 1]),
        np.array([1, 2], dtype=np.uint8),
        [True, False, False, True],
        np.zeros(4, bool),
        [],
        (np.array([2, 0]), Ellipsis),
    ],
    ids=str,
)
def test_selections_keep_values_species_and_frames_together(array, key):
    selection = array[key]
    chosen = np.arange(4)[key if not isinstance(key, list) or key else slice(0)]
    assert isinstance(selection, PerAtomArray)
    assert_array_equal(selection.counts, array.counts[chosen])
    rows = np.concatenate([np.arange(array.offsets[i], array.offsets[i + 1]) for i in chosen] or [[]]).astype(
        int
    )
    assert_array_equal(selection.values, array.values[rows])
    assert_array_equal(selection.species, array.species[rows])
    assert_array_equal(selection.frames.rotations, array.frames.rotations[rows])
    assert_array_equal(selection.frames.sites, array.frames.sites[rows])
    assert selection.frames.symmetry is array.frames.symmetry


def test_a_slice_costs_no_copy_of_the_values(array):
    assert np.shares_memory(array[1:3].values, array.values)


@pytest.mark.parametrize("key", [4, -5, [0, 4], np.int32(4)], ids=str)
def test_a_structure_out_of_range_is_refused(key):
    with pytest.raises(IndexError) as error:
        per_atom_array()[key]
    wrong = key[1] if isinstance(key, list) else key
    assert message(error) == f"structure {wrong} is out of range: the PerAtomArray holds 4 structures."


@pytest.mark.parametrize(
    ("key", "received"),
    [
        ([True, False], "list of shape (2,) and type bool"),
        (True, "bool of shape () and type bool"),
        ([1.0], "list of shape (1,) and type float64"),
        ([[0, 1]], "list of shape (1, 2) and type int64"),
        (None, "NoneType of shape () and type object"),
    ],
)
def test_a_key_that_selects_no_structures_is_refused(key, received):
    with pytest.raises(IndexError) as error:
        per_atom_array()[key]
    assert message(error) == (
        "a PerAtomArray is indexed by an int, a slice, a 1-D array of ints or a mask with one bool for each "
        f"of its 4 structures; got {received}."
    )


def test_columns_are_not_reached_by_indexing():
    with pytest.raises(TypeError) as error:
        per_atom_array()[:, 0]
    assert message(error) == (
        "a PerAtomArray is indexed by structure alone, got (slice(None, None, None), 0). "
        "Select columns with a.with_values(a.values[:, columns])."
    )


def test_it_describes_itself():
    assert repr(per_atom_array(framed=True)) == (
        "<PerAtomArray: 4 structures, 11 atoms, 8 columns, species 8 9, float64, site frames>"
    )
    assert repr(per_atom_array()[[]]) == (
        "<PerAtomArray: 0 structures, 0 atoms, 8 columns, species none, float64, lab frame>"
    )


def test_the_array_protocol_honours_dtype_and_copy(array):
    assert np.asarray(array, dtype=np.float32).dtype == np.float32
    assert not np.shares_memory(np.array(array, copy=True), array.values)


def test_it_survives_pickling_and_hashes_by_content(array):
    twin = pickle.loads(pickle.dumps(array))
    assert_array_equal(twin.values, array.values)
    assert twin.frames.symmetry.equals(array.frames.symmetry)
    assert joblib.hash(twin) == joblib.hash(array)
    assert joblib.hash(array.with_values(array.values + 1, keep_symmetry=True)) != joblib.hash(array)


def test_it_works_on_read_only_memory(array):
    array.values.flags.writeable = False
    array.offsets.flags.writeable = False
    array.species.flags.writeable = False
    array.frames.rotations.flags.writeable = False
    again = np.concatenate([array[[1, 0]], array[2:]])
    assert_array_equal((2 * again).values[-1], 2 * array.values[-1])
    assert_allclose(array.frames.to_lab(array.values[:, :3]).shape, (len(array.values), 3))
    array.frames.symmetry.apply(array.values, 0, 1)


def test_integers_become_floats_and_single_precision_stays():
    assert PerAtomArray.from_list([[[1], [2]]]).dtype == np.float64
    assert PerAtomArray.from_list([np.zeros((2, 1), np.float32)]).dtype == np.float32


def test_species_are_unknown_unless_given():
    assert_array_equal(PerAtomArray.from_list([np.zeros((2, 1))]).species, [0, 0])


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        (
            {"values": np.zeros(3)},
            ValueError,
            "values must have the shape (n_rows, k), one row per atom; got (3,). "
            "Write one number per atom as a column, a.reshape(-1, 1).",
        ),
        ({"values": [["a"]]}, TypeError, "values must be real numbers; got type <U1."),
        (
            {"values": np.zeros((3, 1), complex)},
            TypeError,
            "values must be real numbers; got type complex128.",
        ),
        (
            {"offsets": [0, 2]},
            ValueError,
            "offsets must rise from 0 to the number of rows, 3, without stepping back; got [0, 2]. "
            "PerAtomArray.from_list works them out for you.",
        ),
        (
            {"offsets": [0, 2, 1, 3, 3, 3, 3]},
            ValueError,
            "offsets must rise from 0 to the number of rows, 3, without stepping back; got [0, 2, 1, 3, 3, "
            "3, ...]. PerAtomArray.from_list works them out for you.",
        ),
        ({"offsets": [0.0, 3.0]}, TypeError, "offsets must be integers; got type float64."),
        ({"species": [[8, 8, 8]]}, ValueError, "species must have 1 dimension; got shape (1, 3)."),
        ({"species": [8]}, ValueError, "species must hold one atomic number per row; got 1 for 3 rows."),
        (
            {"frames": SiteFrames(random_rotations(2), [0, 0])},
            ValueError,
            "frames must hold one frame per row; got 2 for 3 rows.",
        ),
        (
            {"frames": SiteFrames(random_rotations(3), [0, 0, 1], swap_symmetry())},
            ValueError,
            "frames.symmetry acts on 8 columns; values has 1. "
            "Pass frames.without_symmetry() if the columns were mixed or selected.",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, kind, expected):
    parts = {"values": np.zeros((3, 1)), "offsets": [0, 1, 3], "species": [8, 1, 1]} | changes
    with pytest.raises(kind) as error:
        PerAtomArray(**parts)
    assert message(error) == expected


@pytest.mark.parametrize(
    ("arrays", "species", "expected"),
    [
        ([], None, "arrays must hold one (n_atoms, k) array per structure; got an empty list."),
        (
            [np.zeros((2, 3)), np.zeros(3), np.zeros((2, 2))],
            None,
            "arrays must all have the shape (n_atoms, 3); got (3,) for structure 1; (2, 2) for structure 2. "
            "Write one number per atom as a column, a.reshape(-1, 1).",
        ),
        (
            np.zeros((5, 3)),
            None,
            "arrays must all have the shape (n_atoms, k); got (3,) for structure 0; (3,) for structure 1; "
            "(3,) for structure 2; and 2 more. Write one number per atom as a column, a.reshape(-1, 1).",
        ),
        (
            [np.zeros((2, 1))],
            [[8, 8], [8]],
            "species must hold one list of atomic numbers per structure; got 2 lists for 1 structures.",
        ),
        (
            [np.zeros((2, 1)), np.zeros((1, 1))],
            [[8, 8], [8, 1]],
            "species must hold one atomic number per row; got 2 species and 1 rows for structure 1.",
        ),
    ],
)
def test_lists_that_cannot_be_stacked_are_refused(arrays, species, expected):
    with pytest.raises(ValueError, match="must") as error:
        PerAtomArray.from_list(arrays, species)
    assert message(error) == expected


# ---- PerAtomArray: joining, scaling, replacing ---------------------------------------------------


@pytest.mark.parametrize("join", [np.concatenate, np.vstack])
def test_joining_structures_undoes_cutting_them(array, join):
    whole = join([array[:1], array[1:]])
    assert_array_equal(whole.values, array.values)
    assert_array_equal(whole.offsets, array.offsets)
    assert_array_equal(whole.species, array.species)
    assert_array_equal(whole.frames.rotations, array.frames.rotations)
    assert whole.frames.symmetry is array.frames.symmetry


def test_joining_structures_keeps_a_symmetry_that_all_share_by_number():
    a, b = (per_atom_array(symmetry=swap_symmetry(), seed=s) for s in (0, 1))
    assert np.concatenate([a, b]).frames.symmetry.equals(swap_symmetry())
    assert np.concatenate([a, b.with_values(b.values)]).frames.symmetry is None
    assert np.concatenate([b.with_values(b.values), a]).frames.symmetry is None


@pytest.mark.parametrize(
    "join", [lambda a: np.concatenate(a, axis=1), lambda a: np.concatenate(a, -1), np.hstack]
)
def test_joining_columns_keeps_atoms_and_frames_but_no_symmetry_if_a_part_has_none(array, join):
    scalars = PerAtomArray(array.values[:, :2], array.offsets, array.species)
    both = join([scalars, array])
    assert_array_equal(both.values, np.hstack([array.values[:, :2], array.values]))
    assert_array_equal(both.offsets, array.offsets)
    assert_array_equal(both.species, array.species)
    assert_array_equal(both.frames.rotations, array.frames.rotations)
    assert both.frames.symmetry is None


def flip_symmetry():
    """The site groups of `swap_symmetry` on other columns: two scalars around one vector."""
    return ColumnSymmetry(
        gather=(np.array([range(5), [4, 1, 2, 3, 0]]), np.array([range(5)])),
        rotations=(np.stack([np.eye(3), MIRROR]), np.eye(3)[None]),
        vector_columns=np.array([[1, 2, 3]]),
    )


def test_joined_columns_keep_the_site_groups_that_act_on_all_parts(array):
    rng = np.random.default_rng(1)
    frames = array.frames
    narrow = PerAtomArray(
        rng.normal(size=(len(array.values), 5)),
        array.offsets,
        array.species,
        SiteFrames(frames.rotations, frames.sites, flip_symmetry()),
    )
    parts = [array, 2 * narrow, array]
    joined = np.hstack(parts)
    symmetry = joined.frames.symmetry
    assert symmetry.n_features == 21
    for site, n_operations in ((0, 2), (1, 1)):
        rows = joined.frames.sites == site
        assert symmetry.rotations[site].shape == (n_operations, 3, 3)
        for op in range(n_operations):
            images = [p.frames.symmetry.apply(p.values[rows], site, op) for p in parts]
            assert_array_equal(symmetry.apply(joined.values[rows], site, op), np.hstack(images))
    assert np.hstack([joined[1:], joined[1:]]).frames.symmetry.n_features == 42


@pytest.mark.parametrize("change", ["order", "number", "classes", "sites"])
def test_joined_columns_lose_site_groups_that_differ(array, change):
    a = array.frames.symmetry
    gather, rotations, sites = list(a.gather), list(a.rotations), array.frames.sites
    if change == "order":
        gather[0], rotations[0] = np.tile(gather[0][0], (2, 1)), np.stack([np.eye(3), -MIRROR])
    elif change == "number":
        gather[0], rotations[0] = gather[0][:1], rotations[0][:1]
    elif change == "classes":
        gather, rotations = gather[:1] * 3, rotations[:1] * 3
    else:
        sites = 1 - sites
    other = SiteFrames(array.frames.rotations, sites, ColumnSymmetry(gather, rotations, a.vector_columns))
    both = np.hstack([array, PerAtomArray(array.values, array.offsets, array.species, other)])
    assert both.frames.symmetry is None
    assert_array_equal(both.frames.sites, array.frames.sites)


def test_a_single_part_joined_along_columns_keeps_its_symmetry(array):
    assert np.hstack([array]).frames.symmetry is array.frames.symmetry


@pytest.mark.parametrize("first", [True, False])
def test_site_groups_leave_invariant_columns_alone(array, first):
    fixed = PerAtomArray(array.values[:, :2], array.offsets, array.species, invariant=True)
    both = np.hstack([fixed, array] if first else [array, fixed])
    symmetry = both.frames.symmetry
    assert symmetry.n_features == array.shape[1] + 2
    for site in (0, 1):
        rows = both.frames.sites == site
        for op in range(len(symmetry.rotations[site])):
            image = array.frames.symmetry.apply(array.values[rows], site, op)
            parts = [fixed.values[rows], image] if first else [image, fixed.values[rows]]
            assert_array_equal(symmetry.apply(both.values[rows], site, op), np.hstack(parts))
    assert not both.invariant


def test_columns_of_unknown_behaviour_cost_the_site_groups(array):
    bare = PerAtomArray(array.values[:, :2], array.offsets, array.species)
    for parts in ([bare, array], [array, bare], [array, bare.with_values(bare.values), array]):
        frames = np.hstack(parts).frames
        assert frames.symmetry is None
        assert_array_equal(frames.rotations, array.frames.rotations)


def test_invariance_goes_with_structures_and_other_columns():
    fixed = PerAtomArray(np.ones((4, 2)), [0, 1, 4], [8, 1, 1, 1], invariant=True)
    for other in (fixed[1:], fixed[[1]], fixed.with_values(np.ones((4, 5))), 2 * fixed):
        assert other.invariant
    bare = PerAtomArray(np.ones((4, 2)), [0, 1, 4], [8, 1, 1, 1])
    for join in (np.vstack, np.hstack):
        assert join([fixed, fixed]).invariant
        assert not join([fixed, bare]).invariant


def test_columns_without_frames_stay_without(array):
    bare = PerAtomArray(array.values, array.offsets, array.species)
    assert np.hstack([bare, bare]).frames is None


def test_joins_that_would_mix_up_atoms_are_refused():
    a, other_sizes = per_atom_array(UNEQUAL), per_atom_array(EQUAL)
    with pytest.raises(ValueError, match="axis 1") as error:
        np.hstack([a, other_sizes])
    assert message(error) == (
        "PerAtomArrays joined along axis 1 must describe the same atoms, with equal offsets and species; "
        "array 1 does not match array 0: <PerAtomArray: 4 structures, 12 atoms, 8 columns, species 8 9, "
        "float64, lab frame> and <PerAtomArray: 4 structures, 11 atoms, 8 columns, species 8 9, float64, "
        "lab frame>. Make them from the same structures."
    )
    with pytest.raises(ValueError, match="axis 1"):
        np.hstack([a, PerAtomArray(a.values, a.offsets, a.species + 1)])


def test_joins_that_would_mix_up_frames_are_refused():
    a = per_atom_array(framed=True)
    bare = per_atom_array()
    with pytest.raises(ValueError, match="axis 0") as error:
        np.concatenate([bare, a])
    assert message(error) == (
        "PerAtomArrays joined along axis 0 must all carry site frames or none of them; got 1 of 2 with "
        "frames. Featurize all structures with the same frame=."
    )
    turned = SiteFrames(random_rotations(11, seed=7), a.frames.sites)
    with pytest.raises(ValueError, match="axis 1") as error:
        np.hstack([bare, a, PerAtomArray(a.values, a.offsets, a.species, turned)])
    assert message(error) == (
        "PerAtomArrays joined along axis 1 must share their site frames; the rotations of arrays 1 and 2 "
        "differ. Use the same reference structure for both, or frame='lab'."
    )


def test_joining_structures_of_different_width_is_refused():
    with pytest.raises(ValueError, match="axis 0") as error:
        np.concatenate([per_atom_array(k=2), per_atom_array(k=3)])
    assert message(error) == "PerAtomArrays joined along axis 0 must have equally many columns; got [2, 3]."


@pytest.mark.parametrize("axis", [None, 2])
def test_a_join_along_no_known_axis_is_refused(axis):
    with pytest.raises(ValueError, match="axis") as error:
        np.concatenate([per_atom_array()] * 2, axis=axis)
    assert message(error) == f"axis must be 0 (structures) or 1 (columns) to join PerAtomArrays; got {axis}."


def test_joins_with_strangers_and_with_options_are_refused():
    a = per_atom_array()
    with pytest.raises(TypeError) as error:
        np.hstack([a.values, a])
    assert message(error) == (
        "PerAtomArrays can be joined with PerAtomArrays only; got ndarray at position 0. Put the "
        "transformer that made it into PerAtom(...), or build one with PerAtomArray.from_list."
    )
    with pytest.raises(TypeError) as error:
        np.concatenate([a, a], dtype=np.float32)
    assert message(error) == (
        "PerAtomArrays are joined without further options; got dtype. Convert the result instead, as in "
        "a.with_values(a.values.astype(np.float32))."
    )


@pytest.mark.parametrize("factor", [2, 2.0, np.float64(2), np.int32(2), np.float32(2)])
def test_scaling_works_from_both_sides_and_keeps_precision_and_symmetry(factor):
    a = per_atom_array(symmetry=swap_symmetry())
    single = a.with_values(a.values.astype(np.float32), keep_symmetry=True)
    for product in (single * factor, factor * single):
        assert isinstance(product, PerAtomArray)
        assert product.dtype == np.float32
        assert_array_equal(product.values, 2 * single.values)
        assert product.frames.symmetry is a.frames.symmetry


def test_new_values_keep_the_frames_and_the_symmetry_only_on_request(array):
    new = array.with_values(array.values[:, :2])
    assert new.shape == (4, 2)
    assert new.frames.symmetry is None
    assert_array_equal(new.frames.rotations, array.frames.rotations)
    assert array.with_values(-array.values, keep_symmetry=True).frames.symmetry is array.frames.symmetry


def test_new_values_for_other_atoms_are_refused():
    with pytest.raises(ValueError, match="values") as error:
        per_atom_array().with_values(np.zeros((4, 2)))
    assert message(error) == (
        "values must hold one row for each of the 11 atoms; got 4 rows. Rows cannot be added or removed "
        "here; select structures by indexing."
    )


# ---- PerAtomArray: what NumPy may not do ---------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "name"),
    [(np.mean, "numpy.mean"), (np.linalg.norm, "numpy.linalg.norm"), (np.stack, "numpy.stack")],
)
def test_other_numpy_functions_name_the_way_out(function, name):
    a = per_atom_array()
    with pytest.raises(TypeError) as error:
        function([a, a] if function is np.stack else a)
    assert message(error) == (
        f"{name} is not defined for a PerAtomArray, whose first axis counts structures while its numbers "
        f"belong to atoms. Call {name} on the rows, a.values, or put the transformer that calls it into "
        "PerAtom(...), as in PerAtom(StandardScaler())."
    )


def test_ufuncs_are_refused():
    with pytest.raises(TypeError) as error:
        np.exp(per_atom_array())
    assert message(error) == "operand 'PerAtomArray' does not support ufuncs (__array_ufunc__=None)"


@pytest.mark.parametrize("operate", [operator.add, operator.sub, operator.truediv, operator.matmul])
def test_arithmetic_other_than_scaling_is_refused(operate):
    a = per_atom_array()
    for left, right in ((a, a), (a.values, a), (1.0, a)):
        # ndarray + sequence is a special case of NumPy with words of its own
        with pytest.raises(TypeError, match=r"^(unsupported operand type|Concatenation operation)"):
            operate(left, right)
    with pytest.raises(TypeError) as error:
        operate(a, a.values)
    assert message(error) == "operand 'PerAtomArray' does not support ufuncs (__array_ufunc__=None)"


def test_scaling_by_an_array_is_refused():
    a = per_atom_array()
    with pytest.raises(TypeError) as error:
        a * np.ones(8)
    assert message(error) == "operand 'PerAtomArray' does not support ufuncs (__array_ufunc__=None)"


def test_equality_is_identity():
    a = per_atom_array()
    assert a == a
    assert a != per_atom_array()


def test_there_is_no_array_api_namespace():
    with pytest.raises(TypeError) as error:
        per_atom_array().__array_namespace__()
    assert message(error) == (
        "a PerAtomArray has no array-API namespace, which would take its rows for samples. Switch the "
        "dispatch off with sklearn.set_config(array_api_dispatch=False)."
    )


# ---- as_target ------------------------------------------------------------


def test_one_number_per_atom_needs_no_column_axis():
    X = per_atom_array(UNEQUAL)
    arrays = [np.full(n, float(i)) for i, n in enumerate(UNEQUAL)]
    assert_array_equal(as_target(arrays, X).values, np.concatenate(arrays)[:, None])


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal sizes", "unequal sizes"])
def test_targets_may_come_as_a_list_a_tuple_or_a_container(sizes):
    X = per_atom_array(sizes)
    arrays = [np.full((n, 3), float(i)) for i, n in enumerate(sizes)]
    for y in (arrays, tuple(arrays), [a.tolist() for a in arrays], PerAtomArray.from_list(arrays)):
        target = as_target(y, X)
        assert_array_equal(target.species, X.species)
        assert_array_equal(target.values, np.concatenate(arrays))
    if sizes == EQUAL:
        assert_array_equal(as_target(np.stack(arrays), X).values, np.concatenate(arrays))


def test_plain_rows_are_no_targets_since_their_structures_are_lost():
    X = per_atom_array()
    with pytest.raises(TypeError) as error:
        as_target(np.zeros((11, 3)), X)
    assert message(error) == (
        "y must hold one (n_atoms, k) array per structure, in a list or a PerAtomArray; got ndarray of shape "
        "(11, 3). Split rows of all atoms with PerAtomArray(y, X.offsets, X.species). Meta-estimators that "
        "flatten targets (TransformedTargetRegressor, Bagging, Voting, Stacking) are not supported."
    )


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([np.zeros((2, 3))], "y must have one part per structure of X; got 1 for 4 structures."),
        (
            [np.zeros((3, 3))] * 4,
            "y must have one row per atom of X; got 3 rows for the 2 atoms of structure 0; 3 rows for the 5 "
            "atoms of structure 1; 3 rows for the 1 atoms of structure 2.",
        ),
        (
            PerAtomArray(np.zeros((11, 3)), [0, 2, 7, 8, 11], [8, 9, 8, 8, 8, 9, 8, 8, 8, 9, 8]),
            "y must list the atoms in the order of X; atom 1 of structure 1 has atomic number 8 in y and 9 "
            "in X. Take X and y from the same structures.",
        ),
    ],
)
def test_targets_of_other_atoms_are_refused(y, expected):
    with pytest.raises(ValueError, match="y must") as error:
        as_target(y, per_atom_array(UNEQUAL))
    assert message(error) == expected


# ---- Vectors beside the columns ----------------------------------------------------------------------------


def with_vectors(array, n_vectors=2, seed=3):
    vectors = np.random.default_rng(seed).normal(size=(len(array.values), n_vectors, 3))
    return PerAtomArray(array.values, array.offsets, array.species, array.frames, vectors=vectors)


def test_vectors_follow_their_structures():
    array = with_vectors(per_atom_array(UNEQUAL))
    parts = np.split(array.vectors, array.offsets[1:-1])
    for key in (slice(1, 3), slice(None, None, -1), [2, 0, 2], np.array([True, False, True, False])):
        chosen = np.arange(4)[key]
        expected = np.concatenate([parts[k] for k in chosen])
        assert_array_equal(array[key].vectors, expected)
    assert array[:0].vectors.shape == (0, 2, 3)
    again = np.concatenate([array[[1, 0]], array[2:]])
    assert_array_equal(again.vectors, array[[1, 0, 2, 3]].vectors)


@pytest.mark.parametrize(
    "copy", [lambda a: pickle.loads(pickle.dumps(a)), lambda a: 1.0 * a, lambda a: a * 2]
)
def test_copies_and_multiples_keep_vectors_as_they_are(copy):
    array = with_vectors(per_atom_array(UNEQUAL))
    assert_array_equal(copy(array).vectors, array.vectors)


def test_new_columns_keep_the_vectors():
    array = with_vectors(per_atom_array(UNEQUAL))
    assert array.with_values(array.values[:, :1]).vectors is array.vectors


@pytest.mark.parametrize("join", [np.concatenate, np.vstack])
def test_vectors_are_joined_with_their_structures(join):
    a, b = (with_vectors(per_atom_array(UNEQUAL, seed=s), seed=s) for s in (0, 1))
    assert_array_equal(join([a, b]).vectors, np.concatenate([a.vectors, b.vectors]))
    assert join([per_atom_array(), per_atom_array()]).vectors is None


def test_vectors_of_joined_columns_stand_behind_each_other():
    a, b = with_vectors(per_atom_array(UNEQUAL), 2), with_vectors(per_atom_array(UNEQUAL, k=3), 4, seed=5)
    bare = per_atom_array(UNEQUAL, k=1)
    joined = np.hstack([a, bare, b])
    assert_array_equal(joined.vectors, np.concatenate([a.vectors, b.vectors], axis=1))
    assert joined.values.shape[1] == 12
    assert np.hstack([bare, bare]).vectors is None


@pytest.mark.parametrize(
    ("counts", "shown"), [((2, 0), "[2, 0]"), ((2, 3), "[2, 3]"), ((0, 2, 2), "[0, 2, 2]")]
)
def test_structures_with_other_vectors_are_not_joined(counts, shown):
    parts = [with_vectors(per_atom_array(), n) if n else per_atom_array() for n in counts]
    with pytest.raises(ValueError, match="equally many") as error:
        np.concatenate(parts)
    assert message(error) == (
        f"PerAtomArrays joined along axis 0 must have equally many vectors; got {shown}."
    )


@pytest.mark.parametrize(
    ("vectors", "found"),
    [
        (np.zeros((10, 2, 3)), "float64 of shape (10, 2, 3)"),
        (np.zeros((11, 3)), "float64 of shape (11, 3)"),
        (np.zeros((11, 2, 2)), "float64 of shape (11, 2, 2)"),
        (np.zeros((11, 2, 3), dtype=int), "int64 of shape (11, 2, 3)"),
    ],
)
def test_vectors_that_do_not_fit_the_rows_are_refused(vectors, found):
    array = per_atom_array(UNEQUAL)
    with pytest.raises(ValueError, match="vectors must") as error:
        PerAtomArray(array.values, array.offsets, array.species, vectors=vectors)
    assert message(error) == (
        "vectors must be floats of shape (11, n_vectors, 3), one list of vectors per row; got " + found + "."
    )


def test_vectors_are_counted_and_shown():
    bare = per_atom_array(UNEQUAL)
    array = with_vectors(bare)
    assert array.nbytes == bare.nbytes + 11 * 2 * 3 * 8
    assert repr(array) == repr(bare).replace("lab frame", "2 vectors")
    assert bare.vectors is None
