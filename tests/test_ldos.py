"""`LDOS`: the container, and the physics against states, sums and integrals done by hand."""

import copy
import operator
import pickle
from dataclasses import replace
from math import erf, factorial, sqrt
from pathlib import Path

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import KFold, train_test_split
from sklearn.utils import _safe_indexing

from tinynet_sklearn import LDOS, EnergyGrid, Levels, PerAtomArray
from tinynet_sklearn.energy_grid import ZEROS

DATA = Path(__file__).parents[2] / "shared" / "data" / "gpaw"
SIZES = (3, 1, 4, 2, 3)


def grid(low=-8.0, high=6.0, step=0.05, width=0.2, zero="absolute"):
    return EnergyGrid(low + step * np.arange(round((high - low) / step) + 1), width=width, zero=zero)


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


def known_ldos(sizes=SIZES, energies=None, seed=0, **options):
    """Random curves with everything that can be known of their structures, which all tells them apart."""
    rng = np.random.default_rng(seed)
    axis = grid(-2, 2, 0.5) if energies is None else energies
    n = len(sizes)
    known = {
        "levels": Levels(*rng.normal(size=(5, n))),
        "reference_total": rng.normal(size=(n, len(axis))),
        "sources": tuple(f"run {i}" for i in range(n)),
    } | options
    arrays = [rng.uniform(0, 1, size=(m, len(axis))) for m in sizes]
    return LDOS.from_arrays(arrays, axis, [8 + np.arange(m) % 2 for m in sizes], **known)


def levels_of(ldos):
    found = ldos.levels
    return np.array([found.fermi, found.vbm, found.cbm, found.n_electrons, found.shift])


def assert_same(a, b):
    assert type(a) is type(b) is LDOS
    assert a.grid.difference(b.grid) is None
    assert_array_equal(a.values, b.values)
    assert_array_equal(a.offsets, b.offsets)
    assert_array_equal(a.species, b.species)
    assert_array_equal(levels_of(a), levels_of(b))
    assert a.sources == b.sources
    assert (a.reference_total is None) == (b.reference_total is None)
    if a.reference_total is not None:
        assert_array_equal(a.reference_total, b.reference_total)


def random_states(n_atoms=3, n_k=2, n_states=6, seed=0, low=-3.0, high=3.0):
    """Eigenvalues (n_k, n_states) and weights (n_k, n_states, n_atoms)."""
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (n_k, n_states)), rng.dirichlet(np.ones(n_atoms), (n_k, n_states))


def insulator(shifts=(0.0,), width=0.05, gap=2.0, step=0.02, window=(-6.0, 6.0), known=True):
    """Four flat bands, two below and two above a gap at zero, moved by shifts; atoms with unequal shares."""
    steps = np.linspace(0, 2, 401)[:, None]  # along k
    states = np.concatenate([-gap / 2 - 2 + steps] * 2 + [gap / 2 + steps] * 2, axis=1)
    share = np.tile([[0.7, 0.3], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8]], (401, 1, 1))
    shifts = np.asarray(shifts, dtype=np.float64)
    n = len(shifts)
    levels = Levels(
        fermi=shifts if known else None,
        vbm=shifts - gap / 2 if known else None,
        cbm=shifts + gap / 2 if known else None,
        n_electrons=np.full(n, 4.0),
    )
    return LDOS.from_states(
        [states + s for s in shifts],
        [share] * n,
        grid(*window, step, width),
        [[8, 1]] * n,
        levels=levels,
        sources=[f"run {i}" for i in range(n)],
    )


# ---- The container -----------------------------------------------------------------------------------------


def test_what_it_says_of_itself():
    assert repr(known_ldos()) == (
        "<LDOS: 5 structures, 13 atoms, species 8 9, 9 energies, -2 to 2 eV from the zero of the "
        "calculation, width 0.2 eV>"
    )
    assert repr(known_ldos()[:0]) == (
        "<LDOS: 0 structures, 0 atoms, species none, 9 energies, -2 to 2 eV from the zero of the "
        "calculation, width 0.2 eV>"
    )


def test_what_is_not_given_is_not_known():
    ldos = LDOS.from_arrays([np.ones((2, 3)), np.ones((1, 3))], [0, 1, 2], sources=None)
    assert (ldos.shape, ldos.sources, ldos.reference_total) == ((2, 3), ("", ""), None)
    assert isinstance(ldos.grid, EnergyGrid)
    assert_array_equal(ldos.energies, [0, 1, 2])
    assert_array_equal(ldos.species, [0, 0, 0])
    assert np.isnan(levels_of(ldos)).all()
    direct = LDOS(np.ones((3, 3)), [0, 2, 3], [0, 0, 0], grid=range(3), sources=np.array(["a", "b"]))
    assert direct.sources == ("a", "b")


@pytest.mark.parametrize(
    "key",
    [
        slice(1, 3),
        slice(None),
        slice(None, None, -2),
        slice(4, 2),
        [3, 0, 0],
        [-1, -5],
        [],
        np.array([2], dtype=np.int32),
        np.array([True, False, False, True, True]),
        np.zeros(5, dtype=bool),
    ],
)
def test_structures_are_selected_with_all_that_is_known_of_them(key):
    ldos = known_ldos()
    chosen = np.arange(5)[key]
    for part in (ldos[key], ldos[key, ...]):
        assert isinstance(part, LDOS)
        assert part.shape == (len(chosen), 9)
        assert part.grid is ldos.grid
        assert part.sources == tuple(f"run {i}" for i in chosen)
        assert_array_equal(part.counts, np.array(SIZES)[chosen])
        assert_array_equal(part.reference_total, ldos.reference_total[chosen])
        assert_array_equal(levels_of(part), levels_of(ldos)[:, chosen])
        for found, i in zip(part, chosen, strict=True):
            assert_array_equal(found, ldos[int(i)])
        assert_array_equal(part.total(), ldos.total()[chosen])


def test_one_structure_is_a_view_of_its_curves():
    ldos = known_ldos()
    assert ldos[2].shape == (4, 9)
    assert np.shares_memory(ldos[2], ldos.values)
    assert_array_equal(ldos[np.int64(-1)], ldos[4])
    with pytest.raises(IndexError):
        ldos[5]


def test_scikit_learn_splits_between_structures():
    ldos = known_ldos()
    train, test = train_test_split(ldos, test_size=2, random_state=0)
    assert (len(train), len(test)) == (3, 2)
    assert set(train.sources) | set(test.sources) == set(ldos.sources)
    assert_same(_safe_indexing(ldos, [1, 3]), ldos[[1, 3]])
    assert_same(_safe_indexing(ldos, np.array([True, False, True, False, False])), ldos[[0, 2]])
    # what cross_val_predict does: predictions of the folds one after the other, then back in order
    order, parts = [], []
    for _, fold in KFold(3, shuffle=True, random_state=1).split(np.zeros(5), ldos):
        order.append(fold)
        parts.append(ldos[fold])
    back = np.empty(5, dtype=int)
    back[np.concatenate(order)] = np.arange(5)
    assert_same(np.concatenate(parts)[back], ldos)


def test_joining_cuts_back_into_the_parts():
    ldos = known_ldos()
    for join in (np.concatenate, np.vstack):
        assert_same(join([ldos[:2], ldos[2:2], ldos[2:]]), ldos)
    assert_same(np.concatenate([ldos], axis=0), ldos)
    assert_same(np.concatenate([ldos[:1], ldos[1:]], -2), ldos)


def test_totals_that_only_one_part_knows():
    known, unknown = known_ldos(), known_ldos(reference_total=None)
    joined = np.concatenate([unknown, known])
    assert np.isnan(joined.reference_total[:5]).all()
    assert_array_equal(joined.reference_total[5:], known.reference_total)
    assert np.concatenate([unknown, unknown]).reference_total is None
    assert np.isnan(joined.sum_rule_residual()[:5]).all()
    assert np.isfinite(joined.sum_rule_residual()[5:]).all()


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (grid(-2, 2, 0.25), "9 energies from -2 to 2 eV and 17 from -2 to 2 eV"),
        (grid(-2.5, 1.5, 0.5), "9 energies from -2 to 2 eV and 9 from -2.5 to 1.5 eV"),
        (
            grid(-2, 2, 0.5, zero="vbm"),
            "energies from the zero of the calculation and from the valence band maximum",
        ),
        (grid(-2, 2, 0.5, width=0.3), "widths of 0.2 eV and 0.3 eV"),
        (grid(-2, 2, 0.5, width=None), "widths of 0.2 eV and unknown size"),
    ],
)
def test_different_grids_are_not_joined(other, difference):
    first, second = known_ldos(), known_ldos(energies=other, sources=["far/away.PDOS"] * 5)
    assert message_of(ValueError, lambda: np.concatenate([first, first, second])) == (
        f"LDOS must be on one grid to be joined; numbers 0 (run 0) and 2 (far/away.PDOS) have {difference}. "
        "Bring them together with aligned, resampled or broadened."
    )
    assert message_of(ValueError, lambda: np.vstack([first[:0], known_ldos(energies=other, sources=())])) == (
        f"LDOS must be on one grid to be joined; numbers 0 and 1 have {difference}. "
        "Bring them together with aligned, resampled or broadened."
    )


def test_other_rows_are_not_joined():
    ldos = known_ldos()
    rows = PerAtomArray(ldos.values, ldos.offsets, ldos.species)
    for parts in ([ldos, rows], [rows, ldos]):
        assert message_of(TypeError, lambda parts=parts: np.concatenate(parts)) == (
            "LDOS are joined with LDOS only; got PerAtomArray, of unknown energies. Give it a grid first: "
            "LDOS(a.values, a.offsets, a.species, grid=grid)."
        )
    assert message_of(TypeError, lambda: np.concatenate([ldos, ldos.values])) == (
        "LDOS are joined with LDOS only; got ndarray, of unknown energies. Give it a grid first: "
        "LDOS(a.values, a.offsets, a.species, grid=grid)."
    )


def test_columns_are_not_joined():
    ldos = known_ldos()
    for join in (
        np.hstack,
        lambda parts: np.concatenate(parts, axis=1),
        lambda parts: np.concatenate(parts, -1),
        lambda parts: np.hstack([part[:0] for part in parts]),
    ):
        assert message_of(ValueError, lambda join=join: join([ldos, ldos])) == (
            "LDOS are joined along axis 0, structure after structure; got axis 1."
        )


def test_other_numpy_functions_and_arithmetic_are_refused():
    ldos = known_ldos()
    assert message_of(TypeError, lambda: np.mean(ldos)) == (
        "numpy.mean is not defined for a PerAtomArray, whose first axis counts structures while its numbers "
        "belong to atoms. Call numpy.mean on the rows, a.values, or put the transformer that calls it into "
        "PerAtom(...), as in PerAtom(StandardScaler())."
    )
    with pytest.raises(TypeError):
        np.concatenate([ldos, ldos], dtype=np.float32)
    with pytest.raises(TypeError):
        operator.add(ldos, ldos)
    with pytest.raises(TypeError):
        np.exp(ldos)


def test_scaled_curves_have_the_same_grid_but_not_the_total_of_the_calculation():
    ldos = known_ldos()
    for scaled in (2 * ldos, ldos * np.float32(2)):
        assert isinstance(scaled, LDOS)
        assert_array_equal(scaled.values, 2 * ldos.values)
        assert scaled.reference_total is None
        assert scaled.grid is ldos.grid


def test_other_curves_of_the_same_atoms():
    ldos = known_ldos(reference_total=None)
    predicted = ldos.with_values(np.zeros((13, 9), dtype=np.float32))
    assert isinstance(predicted, LDOS)
    assert predicted.dtype == np.float32
    assert predicted.grid is ldos.grid
    assert predicted.sources == ldos.sources
    assert predicted.reference_total is None
    assert_array_equal(levels_of(predicted), levels_of(ldos))
    assert message_of(ValueError, lambda: ldos.with_values(np.zeros((13, 4)))) == (
        "values must have one column for each of the 9 energies; got 4."
    )
    assert message_of(ValueError, lambda: ldos.with_values(np.zeros((4, 9)))) == (
        "values must hold one row for each of the 13 atoms; got 4 rows. Rows cannot be added or removed "
        "here; select structures by indexing."
    )


@pytest.mark.parametrize("duplicate", [lambda a: pickle.loads(pickle.dumps(a)), copy.copy, copy.deepcopy])
def test_copies(duplicate):
    for ldos in (known_ldos(), known_ldos(reference_total=None), known_ldos()[:0]):
        assert_same(duplicate(ldos), ldos)


def test_read_only_memory_maps(tmp_path):
    """joblib hands them to worker processes; nothing may be written into them."""
    joblib.dump(insulator([0.0, 0.3]), tmp_path / "ldos")
    ldos, own = joblib.load(tmp_path / "ldos", mmap_mode="r"), insulator([0.0, 0.3])
    assert isinstance(ldos.values, np.memmap)
    assert_same(ldos, own)
    assert_same(np.concatenate([ldos[[1]], ldos[:1]]), own[[1, 0]])
    for work in (
        lambda a: a.moments(4, "mean"),
        lambda a: a.band_energy(),
        lambda a: a.gap(),
        lambda a: a.broadened(0.2).values,
        lambda a: a.aligned("learned").values,
        lambda a: a.aligned("vbm").resampled([-0.1, 0, 0.1]).values,
    ):
        assert_array_equal(work(ldos), work(own))


def test_single_precision_stays_but_sums_are_double():
    double = insulator()
    single = double.with_values(double.values.astype(np.float32))
    assert single.dtype == np.float32
    assert single[:1].dtype == single.window(-1, 1).dtype == np.float32
    assert single.total().dtype == single.moments(2).dtype == single.integrals().dtype == np.float64
    assert_allclose(single.moments(3), double.moments(3), atol=1e-5)
    assert_allclose(single.broadened(0.2).values, double.broadened(0.2).values, atol=1e-6)
    assert_allclose(single.gap(), double.gap(), atol=1e-5)


def test_half_precision_is_enough_for_storage():
    double = insulator()
    half = double.with_values(double.values.astype(np.float16))
    assert_allclose(half.integrals(), double.integrals(), atol=2e-3)
    assert_allclose(half.aligned("vbm").values, double.aligned("vbm").values, atol=2e-3)


def test_structures_without_atoms_have_no_states():
    curves = np.ones((2, 3))
    ldos = LDOS.from_arrays(
        [curves, np.ones((0, 3))], grid(0, 2, 1, width=0.5), levels=Levels(fermi=[1.0, 1.0])
    )
    assert_array_equal(ldos.total(), [[2, 2, 2], [0, 0, 0]])
    assert_array_equal(ldos.integrals(), [2, 2])
    assert_array_equal(ldos.band_energy(), [0.5, 0.5])
    assert_array_equal(ldos.gap(), [0.0, np.nan])
    assert_array_equal(ldos.resampled([0, 1]).values, curves[:, :2])


def test_no_structures_at_all():
    ldos = insulator()[:0]
    assert ldos.total().shape == (0, 601)
    assert ldos.integrals().shape == ldos.fermi_level().shape == ldos.gap().shape == (0,)
    assert ldos.moments(3, "mean").shape == (0, 3)
    for other in (ldos.window(-1, 1), ldos.resampled([0, 0.1]), ldos.broadened(0.2), ldos.aligned("none")):
        assert (len(other), len(other.values)) == (0, 0)
    assert message_of(ValueError, lambda: ldos.aligned()) == (
        "aligned needs at least one structure; got none."
    )


def test_it_is_a_target_of_scikit_learn():
    """`y` of any estimator that takes rows: one curve per atom."""
    ldos = known_ldos()
    model = DummyRegressor().fit(np.zeros((13, 1)), np.asarray(ldos))
    assert_allclose(model.predict(np.zeros((1, 1)))[0], ldos.values.mean(axis=0))


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        (
            {"grid": grid(0, 4, 1)},
            ValueError,
            "values must have one column for each of the 5 energies; got 3.",
        ),
        (
            {"levels": Levels.unknown(3)},
            ValueError,
            "levels must be of the 2 structures of values; got 3.",
        ),
        ({"levels": np.zeros(2)}, TypeError, "levels must be Levels or None; got ndarray of shape (2,)."),
        (
            {"reference_total": np.zeros((3, 3))},
            ValueError,
            "reference_total must have one row per structure and one column per energy, (2, 3); got shape "
            "(3, 3).",
        ),
        ({"sources": ["a"]}, ValueError, "sources must name the 2 structures; got 1 names."),
        ({"sources": "ab"}, TypeError, "sources must hold one name per structure; got the text 'ab'."),
        (
            {"grid": [0, 1, 3]},
            ValueError,
            "energies must ascend in equal steps; got steps from 1 to 2 eV. Interpolate the curves onto such "
            "energies first.",
        ),
        (
            {"grid": None},
            ValueError,
            "energies must be at least two finite numbers in a row; got an array of "
            "shape () with NaN or infinity.",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, kind, expected):
    known = {"grid": grid(0, 2, 1)} | options
    assert message_of(kind, lambda: LDOS(np.ones((3, 3)), [0, 1, 3], [1, 1, 8], **known)) == expected


# ---- From states -------------------------------------------------------------------------------------------


def brute_force(eigenvalues, weights, k_weights, energies, width, degeneracy):
    """One Gaussian at a time."""
    curves = np.zeros((weights.shape[2], len(energies)))
    for k, states in enumerate(eigenvalues):
        for n, state in enumerate(states):
            if np.isnan(state):
                continue
            for atom in range(weights.shape[2]):
                peak = np.exp(-((energies - state) ** 2) / (2 * width**2)) / sqrt(2 * np.pi * width**2)
                curves[atom] += degeneracy * k_weights[k] * weights[k, n, atom] * peak
    return curves


@pytest.mark.parametrize("degeneracy", [1.0, 2.0])
@pytest.mark.parametrize("origin", [0.0, 0.7])
def test_curves_are_sums_of_gaussians(degeneracy, origin):
    axis, k_weights = grid(), np.array([0.25, 0.75])
    sets = [random_states(n, seed=n) for n in (3, 1, 4)]
    sets[1][0][0, -2:] = np.nan  # padding, as in the files
    sets[1][1][0, -2:] = np.nan
    ldos = LDOS.from_states(
        [e for e, _ in sets],
        [w for _, w in sets],
        axis,
        [[8, 8, 1], [1], [8, 8, 8, 1]],
        k_weights=k_weights,
        origins=[origin] * 3,
        degeneracy=degeneracy,
        sources=["a", "b", "c"],
    )
    for found, (eigenvalues, weights) in zip(ldos, sets, strict=True):
        expected = brute_force(eigenvalues - origin, weights, k_weights, axis.energies, 0.2, degeneracy)
        assert_allclose(found, expected, atol=1e-7)  # exp(-18) of each state is cut off outside
    assert ldos.sources == ("a", "b", "c")
    assert_array_equal(ldos.levels.shift, [origin] * 3)
    # every state of every atom is in the window: the total counts them
    assert_allclose(ldos.integrals()[:3].sum(), degeneracy * 6, rtol=1e-12)


def test_states_beyond_the_window_reach_into_it_and_no_further():
    axis = grid(-1, 1, 0.01, width=0.1)
    levels = np.array([[-1.3, 1.5, 1.61, -40.0]])
    weights = np.ones((1, 4, 1))
    found = LDOS.from_states([levels], [weights], axis)
    expected = brute_force(levels, weights, [1.0], axis.energies, 0.1, 2.0)
    assert_allclose(found.values, expected, atol=2 * np.exp(-18) / 0.1)
    assert found.values[0, 0] > 1e-2


def test_integrals_are_differences_of_error_functions():
    width, levels = 0.2, np.array([[-1.0, 0.3, 2.0]])
    weights = np.random.default_rng(0).uniform(0, 1, (1, 3, 2))
    ldos = LDOS.from_states([levels], [weights], grid(width=width, step=0.01), degeneracy=2)

    def below(energy):
        s = width * sqrt(2)
        return np.array([[0.5 * (1 + erf((energy - e) / s)) for e in levels[0]]]) @ (2 * weights[0])

    for low, high in ((-1.003, 0.5), (-8, 0.2999), (0.3, 6.0), (-0.5, -0.5)):
        assert_allclose(ldos.integrals(low, high), (below(high) - below(low))[0], atol=1e-4)
    assert_allclose(ldos.integrals(), 2 * weights[0].sum(axis=0), rtol=1e-9)
    assert_allclose(ldos.integrals(None, 0.4) + ldos.integrals(0.4, None), ldos.integrals(), rtol=1e-12)


def test_the_sum_over_atoms_is_the_total():
    sets = [random_states(n, seed=n) for n in (2, 5)]
    ldos = LDOS.from_states([e for e, _ in sets], [w for _, w in sets], grid())
    whole = LDOS.from_states([e for e, _ in sets], [np.ones((2, 6, 1))] * 2, grid())
    assert_allclose(ldos.total(), whole.values, atol=1e-12)
    ldos = LDOS.from_arrays(list(ldos), ldos.grid, reference_total=whole.values + 0.1)
    assert_allclose(ldos.sum_rule_residual(), -0.1, atol=1e-12)


STATES = [np.zeros((2, 3))]
SHARES = [np.ones((2, 3, 1))]


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        (
            (STATES, SHARES, grid(width=None)),
            {},
            "grid must have the width to which states are broadened; got None. Pass EnergyGrid(energies, "
            "width=0.2).",
        ),
        ((STATES, SHARES * 2, grid()), {}, "weights must be of the 1 structures of eigenvalues; got 2."),
        (
            (STATES * 2, [SHARES[0], np.ones((2, 2, 1))], grid()),
            {},
            "eigenvalues must have the shape (n_k, n_states) and weights (n_k, n_states, n_atoms); got "
            "(2, 3) and "
            "(2, 2, 1) for structure 1.",
        ),
        (
            ([np.zeros(3)], [np.ones((3, 1))], grid()),
            {},
            "eigenvalues must have the shape (n_k, n_states) and weights (n_k, n_states, n_atoms); got "
            "(3,) and "
            "(3, 1) for structure 0.",
        ),
        (
            (STATES, SHARES, grid()),
            {"k_weights": [1.0]},
            "k_weights must hold one weight for each of the 2 points k; got shape (1,).",
        ),
        (
            (STATES, SHARES, grid()),
            {"k_weights": [1, 3]},
            "k_weights must sum to one; got a sum of 4. Divide by it, and give the electrons of a full "
            "state as "
            "degeneracy.",
        ),
        (
            (STATES, SHARES, grid()),
            {"origins": [0.0, 1.0]},
            "origins must be one number, or one for each of the 1 structures; got shape (2,).",
        ),
        (
            (STATES * 3, SHARES * 3, grid()),
            {"origins": [0.0, np.nan, np.nan]},
            "origins must be finite; got nan for structure 1. Leave it out, or take another zero.",
        ),
        (
            (STATES, SHARES, grid()),
            {"levels": Levels.unknown(2)},
            "levels must be of the 1 structures; got 2.",
        ),
        (([], [], grid()), {}, "arrays must hold one (n_atoms, k) array per structure; got an empty list."),
    ],
)
def test_states_that_do_not_fit_are_refused(arguments, options, expected):
    assert message_of(ValueError, lambda: LDOS.from_states(*arguments, **options)) == expected


def test_one_name_for_all_structures_is_refused():
    assert message_of(TypeError, lambda: LDOS.from_states(STATES, SHARES, grid(), sources="a")) == (
        "sources must hold one name per structure; got the text 'a'."
    )


# ---- Moments -----------------------------------------------------------------------------------------------


def gaussian_moment(n, mean, width):
    """Moment n about zero of a Gaussian."""
    return sum(
        factorial(n) // (factorial(n - 2 * j) * factorial(j) * 2**j) * mean ** (n - 2 * j) * width ** (2 * j)
        for j in range(n // 2 + 1)
    )


def test_moments_of_gaussians():
    levels = np.array([[-1.0, 0.3, 2.0]])
    weights = np.random.default_rng(1).uniform(0, 1, (1, 3, 2))
    ldos = LDOS.from_states([levels], [weights], grid(width=0.4))
    share = weights[0] / weights[0].sum(axis=0)
    means = levels[0] @ share
    raw, central, about = ldos.moments(6), ldos.moments(6, "mean"), ldos.moments(6, 0.5)
    for n in range(1, 7):
        for atom in range(2):
            expected = [
                share[:, atom] @ [gaussian_moment(n, e - c, 0.4) for e in levels[0]] for c in (0, 0.5)
            ]
            assert_allclose([raw[atom, n - 1], about[atom, n - 1]], expected, rtol=1e-7)
            spread = share[:, atom] @ [gaussian_moment(n, e - means[atom], 0.4) for e in levels[0]]
            assert_allclose(central[atom, n - 1], means[atom] if n == 1 else spread, rtol=1e-7, atol=1e-9)


def test_broadening_adds_its_square_to_the_second_central_moment():
    ldos = LDOS.from_states(*([part] for part in random_states(low=-1, high=1)), grid(-9, 9))
    wide = ldos.broadened(0.5)
    assert_allclose(wide.moments(3, "mean")[:, 0], ldos.moments(1)[:, 0], atol=1e-7)
    assert_allclose(wide.moments(3, "mean")[:, 1] - ldos.moments(3, "mean")[:, 1], 0.5**2 - 0.2**2, rtol=1e-6)
    assert_allclose(wide.moments(3, "mean")[:, 2], ldos.moments(3, "mean")[:, 2], atol=1e-6)


def test_moments_do_not_depend_on_the_number_of_states():
    ldos = insulator()
    assert_allclose((3 * ldos).moments(4), ldos.moments(4), rtol=1e-12)


def test_curves_without_states_have_no_moments():
    ldos = LDOS.from_arrays([[[0, 0, 0], [0, 1, 0]]], [-1, 0, 1])
    assert_array_equal(ldos.moments(2), [[np.nan, np.nan], [0, 0]])
    assert_array_equal(ldos.moments(2, "mean"), [[np.nan, np.nan], [0, 0]])


@pytest.mark.parametrize("n", [0, -1, 2.0, "3"])
def test_orders_that_are_none_are_refused(n):
    assert message_of(ValueError, lambda: known_ldos().moments(n)) == (
        f"n must be a positive whole number; got {n!r}."
    )


def test_centers_that_are_none_are_refused():
    assert message_of(ValueError, lambda: known_ldos().moments(2, "median")) == (
        "center must be an energy in eV or 'mean'; got 'median'."
    )


# ---- Electrons ---------------------------------------------------------------------------------------------


def test_the_gap_of_an_insulator():
    ldos = insulator([0.0, 0.31, -0.4], width=0.02, step=0.01)
    vbm, cbm = ldos.band_edges()
    # a band edge of this width reaches 2.33 widths into the gap before it falls to a hundredth
    reach = 2.33 * 0.02
    assert_allclose(vbm, np.array([0.0, 0.31, -0.4]) - 1 + reach, atol=5e-3)
    assert_allclose(cbm, np.array([0.0, 0.31, -0.4]) + 1 - reach, atol=5e-3)
    assert_allclose(ldos.gap(), 2 - 2 * reach, atol=1e-2)
    assert_allclose(ldos.gap(0.5), 2, atol=1e-2)  # at half the height the edges are those of the states


def test_the_fermi_level_follows_from_the_electrons():
    """Known or not, the gap is the same, and the middle of it is the Fermi level."""
    shifts = np.array([0.0, 0.31, -0.4])
    known, counted = insulator(shifts), insulator(shifts, known=False)
    assert np.isnan(counted.levels.fermi).all()
    assert_allclose(counted.fermi_level(), shifts, atol=1e-6)
    assert_allclose(counted.gap(), known.gap(), atol=1e-12)
    assert_allclose(counted.band_energy(), known.band_energy(), atol=1e-6)
    assert_allclose(counted.fermi_level(4.0), counted.fermi_level([4, 4, 4]))


def test_the_fermi_level_of_a_metal():
    """Filled to the middle of the lower band."""
    ldos = insulator([0.0, 0.3])
    assert_allclose(ldos.fermi_level(2.0), [-2.0, -1.7], atol=1e-3)
    assert_allclose(ldos.fermi_level([1.0, 6.0]), [-2.5, 2.3], atol=4e-3)
    metal = LDOS.from_arrays(list(ldos), ldos.grid, levels=Levels(n_electrons=[2.0, 2.0]))
    assert_array_equal(metal.gap(), [0, 0])
    assert np.isnan(metal.band_edges()).all()


def test_no_electrons_and_all_of_them():
    ldos = insulator()
    assert_allclose(ldos.fermi_level(0.0), (-6 - 3) / 2, atol=0.1)
    assert_allclose(ldos.fermi_level(8.0), (6 + 3) / 2, atol=0.1)


def test_where_the_fermi_level_is_not_known_there_is_no_gap_but_no_metal_either():
    ldos = LDOS.from_arrays(list(insulator()), insulator().grid)
    assert np.isnan(ldos.gap()).all()
    assert np.isnan(ldos.band_edges()).all()


@pytest.mark.parametrize("window", [(-0.5, 6.0), (-6.0, 0.5), (2.0, 6.0), (-6.0, -0.01)])
def test_bands_beyond_the_energies_are_no_metal(window):
    """Ends of the gap, or the Fermi level, are outside of the window: nothing is known of the gap."""
    ldos = insulator([0.0, 0.0]).window(*window)
    assert np.isnan(ldos.gap()).all()


def test_band_energies_are_sums_over_occupied_states():
    eigenvalues, weights = random_states(3, n_k=4, n_states=30, low=-4, high=4)
    occupied = eigenvalues < 0
    ldos = LDOS.from_states(
        [eigenvalues], [weights], grid(-5, 5, 0.002, width=0.01), levels=Levels(fermi=[0.0])
    )
    expected = 2 * np.einsum("ks,ks,ksa->a", eigenvalues, occupied, weights) / 4
    assert_allclose(ldos.band_energy(), expected, atol=1e-2)
    assert_allclose(ldos.band_energy([0.0]), ldos.band_energy(), rtol=1e-12)
    assert_allclose(ldos.band_energy(0.0), ldos.band_energy(), rtol=1e-12)
    # all states: their mean energy, which no width changes
    everything = 2 * np.einsum("ks,ksa->a", eigenvalues, weights) / 4
    assert_allclose(ldos.band_energy(4.99), everything, atol=1e-6)
    assert_allclose(ldos.moments(1)[:, 0] * ldos.integrals(), everything, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda a: a.integrals(low=-7),
            "low must be between -6 and 6 eV; got -7.",
        ),
        (lambda a: a.integrals(high=6.5), "high must be between -6 and 6 eV; got 6.5."),
        (lambda a: a.integrals(high=np.nan), "high must be between -6 and 6 eV; got nan."),
        (
            lambda a: a.band_energy([0.0, 7.0]),
            "fermi must be between -6 and 6 eV; got 7 for structure 1 (run 1). Pass fermi=, or keep more "
            "of the "
            "energies.",
        ),
        (
            lambda a: LDOS.from_arrays(list(a), a.grid).band_energy(),
            "fermi must be between -6 and 6 eV; got nan for structure 0. Pass fermi=, or keep more of the "
            "energies.",
        ),
        (
            lambda a: a.band_energy([0.0, 1.0, 2.0]),
            "fermi must be one number, or one for each of the 2 structures; got shape (3,).",
        ),
        (
            lambda a: a.fermi_level([[1.0, 2.0]]),
            "n_electrons must be one number, or one for each of the 2 structures; got shape (1, 2).",
        ),
        (
            lambda a: LDOS.from_arrays(list(a), a.grid).fermi_level(),
            "n_electrons must be given where it is not known; got NaN for structure 0.",
        ),
        (
            lambda a: a.fermi_level([4.0, 8.1]),
            "n_electrons must be the electrons above the lowest energy of the grid, from 0 to the 8 states "
            "between -6 and 6 eV; got 8.1 for structure 1 (run 1). Leave out those in lower states, or keep "
            "more of the energies.",
        ),
        (
            lambda a: a.fermi_level(-1),
            "n_electrons must be the electrons above the lowest energy of the grid, from 0 to the 8 states "
            "between -6 and 6 eV; got -1 for structure 0 (run 0). Leave out those in lower states, or keep "
            "more of the energies.",
        ),
        (
            lambda a: a.sum_rule_residual(),
            "sum_rule_residual needs the total density of states of the calculation; reference_total is "
            "None. "
            "Read it together with the projections, or pass it.",
        ),
    ],
)
def test_questions_without_an_answer(call, expected):
    assert message_of(ValueError, lambda: call(insulator([0.0, 0.1]))) == expected


# ---- Electrons that are counted through windows and other energies -----------------------------------------


def filled_to(fermi, width=0.2, low=-8.0):
    """Random states below the lower end of the grid and above, and the electrons up to an energy."""
    eigenvalues, weights = random_states(3, n_k=3, n_states=120, low=-10, high=6, seed=4)
    filled = [
        1 + erf((fermi - e) / 0.2 / sqrt(2)) for e in eigenvalues.ravel()
    ]  # of all states, at a width of 0.2
    levels = Levels(fermi=[fermi], n_electrons=[sum(filled) / 3])
    return LDOS.from_states([eigenvalues], [weights], grid(low, 5, 0.05, width), levels=levels)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a,
        lambda a: a.window(-6.013, 4),
        lambda a: a.resampled(np.arange(-7.33, 4, 0.031)),
        lambda a: a.aligned("fermi"),
        lambda a: a.aligned("fermi", energies=np.arange(-6, 2, 0.1)),
        lambda a: a.aligned("fermi").window(-5, 2).resampled(np.linspace(-4.99, 1.5, 301)),
    ],
)
def test_electrons_are_those_between_the_lowest_energy_and_the_fermi_level(change):
    ldos = change(filled_to(1.0))
    fermi = float(ldos.levels.fermi[0])
    assert_allclose(ldos.integrals(None, fermi).sum(), ldos.levels.n_electrons[0], atol=5e-3)
    assert_allclose(ldos.fermi_level(), fermi, atol=2e-3)


@pytest.mark.parametrize("low", [-8.0, -7.77, -9.9])
def test_broadened_states_are_counted_where_they_went(low):
    """The grid begins among states: what is folded below its lowest energy is no longer in it."""
    found, wide = filled_to(1.0, 0.2, low).broadened(0.5), filled_to(1.0, 0.5, low)
    below = wide.integrals(None, found.grid.low).sum()
    assert_allclose(found.levels.n_electrons, wide.levels.n_electrons - below, atol=5e-3)


# ---- Other energies ----------------------------------------------------------------------------------------


def test_a_window_is_a_part_of_everything():
    ldos = known_ldos(energies=grid(-2, 2, 0.25))
    part = ldos.window(-1.0, 0.5)
    assert_allclose(part.energies, np.arange(-1, 0.51, 0.25))
    assert_array_equal(part.values, ldos.values[:, 4:11])
    assert_array_equal(part.reference_total, ldos.reference_total[:, 4:11])
    assert part.sources == ldos.sources
    kept = [0, 1, 2, 4]  # all levels but the number of electrons
    assert_array_equal(levels_of(part)[kept], levels_of(ldos)[kept])
    assert_same(ldos.window(), ldos)
    whole = part.integrals() - ldos.integrals(-1.0, 0.5)
    assert_allclose(whole, 0, atol=1e-12)


def test_a_window_without_energies_is_refused():
    assert message_of(ValueError, lambda: known_ldos().window(0.1, 0.2)) == (
        "low and high must hold at least two energies between them; got 0.1 to 0.2 eV of a grid from -2 "
        "to 2 eV "
        "from the zero of the calculation."
    )


def test_resampling_on_the_same_energies_changes_nothing():
    ldos = known_ldos(energies=grid(-2, 2, 0.4))
    same = ldos.resampled(ldos.energies)
    assert_allclose(same.values, ldos.values, atol=1e-12)
    assert_allclose(same.reference_total, ldos.reference_total, atol=1e-12)
    assert_allclose(same.levels.n_electrons, ldos.levels.n_electrons, atol=1e-12)
    assert same.grid.difference(ldos.grid) is None


@pytest.mark.parametrize("energies", [np.linspace(-4, 4, 333), np.linspace(-1.23, 0.77, 41)])
def test_resampled_curves_are_those_of_the_states(energies):
    eigenvalues, weights = random_states()
    coarse = LDOS.from_states([eigenvalues], [weights], grid(step=0.05, width=0.2))
    direct = LDOS.from_states([eigenvalues], [weights], EnergyGrid(energies, 0.2))
    found = coarse.resampled(energies)
    assert_allclose(found.values, direct.values, atol=1e-4 * direct.values.max())
    assert found.grid.difference(direct.grid) is None


def test_resampling_keeps_what_is_not_known_of_one_structure_to_itself():
    total = np.ones((5, 9))
    total[1, 3] = np.nan
    found = known_ldos(reference_total=total).resampled([-0.1, 0, 0.1]).reference_total
    assert_array_equal(np.isnan(found).any(axis=1), [False, True, False, False, False])


@pytest.mark.parametrize(
    ("energies", "expected"),
    [
        (
            [-3, 0, 3],
            "energies must lie between -2 and 2 eV, where curves are known; got -3 to 3. Choose fewer, or "
            "read "
            "files of wider windows.",
        ),
        (
            [1.0, 0.0],
            "energies must ascend in equal steps; got steps from -1 to -1 eV. Interpolate the curves onto "
            "such "
            "energies first.",
        ),
    ],
)
def test_energies_where_nothing_is_known_are_refused(energies, expected):
    assert message_of(ValueError, lambda: known_ldos().resampled(energies)) == expected


def test_curves_with_gaps_are_not_interpolated():
    ldos = known_ldos()
    values = ldos.values.copy()
    values[3, 2] = np.nan  # the only atom of structure 1
    for change in (lambda a: a.resampled([0, 0.1]), lambda a: a.resampled([0, 0.3])):
        assert message_of(ValueError, lambda change=change: change(ldos.with_values(values))) == (
            "values must be finite to be interpolated; got NaN or infinity for structure 1 (run 1). "
            "Leave it out."
        )


@pytest.mark.parametrize("ratio", [1.003, 1.05, 1.1, 1.3, 2.0, 4.0])
@pytest.mark.parametrize("step", [0.05, 0.1, 0.2])
def test_broader_curves_are_those_of_broader_states(ratio, step):
    """From a small fraction of a step of the grid to several steps; steps are at most the width."""
    eigenvalues, weights = random_states()
    ldos = LDOS.from_states([eigenvalues], [weights], grid(-9, 9, step, width=0.2))
    wide = ldos.broadened(0.2 * ratio)
    direct = LDOS.from_states([eigenvalues], [weights], EnergyGrid(wide.energies, 0.2 * ratio))
    accuracy = {0.05: 1e-5, 0.1: 3e-4, 0.2: 3e-3}[step]
    assert_allclose(wide.values, direct.values, atol=accuracy * direct.values.max())
    assert wide.grid.difference(direct.grid) is None
    assert wide.grid.low - ldos.grid.low == pytest.approx(6 * sqrt(ratio**2 - 1) * 0.2, abs=step)


def test_broadening_is_right_up_to_the_ends_that_are_left():
    """States that go on beyond the window on both sides."""
    eigenvalues, weights = random_states(2, 1, 300, low=-20, high=20)
    ldos = LDOS.from_states([eigenvalues], [weights], grid())
    wide = ldos.broadened(0.4)
    direct = LDOS.from_states([eigenvalues], [weights], EnergyGrid(wide.energies, 0.4))
    assert_allclose(wide.values, direct.values, atol=1e-6 * direct.values.max())


def test_broadening_in_two_steps_is_broadening_in_one():
    ldos = LDOS.from_states(*([part] for part in random_states()), grid(-10, 10))
    twice, once = ldos.broadened(0.3).broadened(0.5), ldos.broadened(0.5)
    assert_allclose(twice.values, once.resampled(twice.energies).values, atol=1e-6)
    assert ldos.broadened(0.2) is ldos


def test_broadening_takes_the_totals_along():
    ldos = known_ldos(energies=grid())
    own = LDOS.from_arrays(list(ldos), ldos.grid, reference_total=ldos.total()).broadened(0.3)
    assert_allclose(own.sum_rule_residual(), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda a: a.broadened(0.1),
            "width must be at least the present one, 0.2 eV; got 0.1. Broaden the states themselves "
            "(LDOS.from_states), or calculate the curves anew.",
        ),
        (
            lambda a: a.on_grid(EnergyGrid(a.energies)).broadened(0.3),
            "broadened needs the present width, which is not known; state it with "
            "ldos.on_grid(dataclasses.replace(ldos.grid, width=...)).",
        ),
        (
            lambda a: a.broadened(2.0),
            "width must leave energies that are 6 added widths from both ends; got 2 eV on -8 to 6 eV. "
            "Read files "
            "of wider windows.",
        ),
        (
            lambda a: a.on_grid(grid(0, 1)),
            "grid must have as many energies as the curves, 281; got 21. Use resampled to interpolate at "
            "other energies, or window to keep a part.",
        ),
    ],
)
def test_widths_that_cannot_be_reached(call, expected):
    assert message_of(ValueError, lambda: call(known_ldos(energies=grid()))) == expected


def test_a_width_is_stated_by_hand():
    ldos = known_ldos(energies=grid(-2, 2, 0.5, width=None))
    stated = ldos.on_grid(EnergyGrid(ldos.energies, width=0.3, zero="vbm"))
    assert_same(stated.on_grid(ldos.grid), ldos)
    assert (stated.grid.width, stated.grid.zero) == (0.3, "vbm")


# ---- Common zeros ------------------------------------------------------------------------------------------

SHIFTS = np.array([0.0, 0.413, -0.57, 1.1])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("zero", ["auto", "vbm", "fermi", "onset", "learned"])
def test_copies_of_one_structure_become_the_same_curves(zero, known):
    ldos = insulator(SHIFTS, width=0.1, known=known)
    found = ldos.aligned(zero)
    assert found.grid.zero == ("vbm" if zero == "auto" else zero)
    assert found.grid.width == 0.1
    assert found.grid.step == pytest.approx(0.02)
    assert len(found.grid) > 400
    assert_allclose(found.levels.shift - found.levels.shift[0], SHIFTS, atol=2e-3)
    for curves in found:
        assert_allclose(curves, found[0], atol=0.02)
    kept = found.levels
    for name in ("fermi", "vbm", "cbm"):
        before = getattr(ldos.levels, name)
        expected = np.zeros(4) if name == found.grid.zero else before - kept.shift
        assert_allclose(getattr(kept, name), expected, atol=1e-12)
    assert found.sources == ldos.sources


def test_zeros_are_what_they_are_called():
    ldos = insulator(SHIFTS, width=0.1)
    assert_allclose(ldos.aligned("vbm").levels.vbm, 0, atol=1e-12)
    assert_allclose(ldos.aligned("fermi").levels.fermi, 0, atol=1e-12)
    assert_allclose(ldos.aligned("learned").levels.shift.mean(), 0, atol=1e-12)
    onset = ldos.aligned("onset")
    below = np.interp(0, onset.energies, onset.total()[0])
    assert_allclose(below, 0.01 * onset.total()[0].max(), rtol=0.1)
    read_off = insulator(SHIFTS, width=0.1, known=False).aligned("vbm")
    assert_allclose(read_off.levels.shift, SHIFTS - 1 + 2.33 * 0.1, atol=0.02)
    assert_allclose(read_off.fermi_level(), 1 - 2.33 * 0.1, atol=0.02)


def test_energies_of_the_result():
    ldos = insulator(SHIFTS, width=0.1)
    found = ldos.aligned("vbm")
    assert np.abs(found.energies).min() < 1e-9  # the new zero is one of the energies
    assert found.grid.low == pytest.approx(-6 - (SHIFTS.min() - 1), abs=0.02)
    assert found.grid.high == pytest.approx(6 - (SHIFTS.max() - 1), abs=0.02)
    chosen = ldos.aligned("vbm", energies=np.linspace(-3, 4, 71))
    assert_allclose(chosen.energies, np.linspace(-3, 4, 71))
    assert_allclose(chosen.values, found.resampled(chosen.energies).values, atol=5e-3)


def test_aligned_curves_are_those_of_moved_states():
    eigenvalues, weights = random_states()
    levels = Levels(vbm=[0.321], fermi=[0.5], n_electrons=[9.0])
    ldos = LDOS.from_states([eigenvalues], [weights], grid(), levels=levels)
    found = ldos.aligned("vbm")
    direct = LDOS.from_states([eigenvalues], [weights], found.grid, levels=levels, origins=[0.321])
    assert_allclose(found.values, direct.values, atol=1e-4 * direct.values.max())
    assert_allclose(levels_of(found), levels_of(direct), atol=1e-6)


def test_two_alignments_one_after_the_other():
    ldos = insulator(SHIFTS, width=0.1)
    both = ldos.aligned("fermi").aligned("vbm")
    once = ldos.aligned("vbm")
    assert_allclose(both.levels.shift, once.levels.shift, atol=1e-12)
    assert both.grid.zero == "vbm"
    common = np.linspace(-3, 3, 121)
    assert_allclose(both.resampled(common).values, once.resampled(common).values, atol=5e-3)
    again = once.aligned("vbm")
    assert_allclose(again.values, once.values, atol=1e-9)
    assert_allclose(again.levels.shift, once.levels.shift, atol=1e-12)


def test_nothing_to_align():
    ldos = insulator(SHIFTS)
    assert ldos.aligned("none") is ldos
    assert_same(ldos.aligned("none", energies=[0, 0.1]), ldos.resampled([0, 0.1]))


def test_auto_takes_the_fermi_level_where_one_structure_is_a_metal():
    insulating = insulator([0.0, 0.3])
    levels = Levels(fermi=[-2.0])
    metal = LDOS.from_arrays([insulating[0]], insulating.grid, [[8, 1]], levels=levels)
    mixed = np.concatenate([insulating, metal]).aligned()
    assert mixed.grid.zero == "fermi"
    assert_allclose(mixed.levels.shift, [0.0, 0.3, -2.0])


def test_learned_zeros_do_not_depend_on_what_was_before():
    """Shifted before or not, the curves end in the same place, up to one constant for all."""
    rng = np.random.default_rng(2)
    sets = [random_states(n, seed=n) for n in (2, 3, 3, 4)] * 2
    names = [[8, 1], [8, 8, 1], [8, 8, 1], [8, 8, 1, 1]] * 2
    origins = rng.uniform(-0.5, 0.5, 8)

    def made(origins):
        return LDOS.from_states(
            [e for e, _ in sets], [w for _, w in sets], grid(-6, 6), names, origins=origins
        )

    plain, moved = made(None).aligned("learned"), made(origins).aligned("learned")
    difference = moved.levels.shift - plain.levels.shift
    assert_allclose(difference - difference.mean(), 0, atol=1e-2 * 0.05)
    order = rng.permutation(8)
    turned = made(origins)[order].aligned("learned")
    assert_allclose(turned.values, moved[order].values, atol=1e-9)


def test_a_structure_of_another_composition_is_aligned_by_what_it_shares():
    ldos = insulator([0.0, 0.4], width=0.1)
    oxygen = LDOS.from_arrays([insulator([-0.3], width=0.1)[0][:1]], ldos.grid, [[8]])
    found = np.concatenate([ldos, oxygen]).aligned("learned")
    assert_allclose(np.diff(found.levels.shift), [0.4, -0.7], atol=1e-2 * 0.02)
    assert_array_equal(found.counts, [2, 2, 1])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda a: a.aligned("vacuum"),
            "zero must be 'auto', 'vbm', 'fermi', 'onset', 'centroid', 'learned' or 'none'; got 'vacuum'.",
        ),
        (
            lambda a: a.aligned("absolute"),
            "zero must be 'auto', 'vbm', 'fermi', 'onset', 'centroid', 'learned' or 'none'; got 'absolute'.",
        ),
        (
            lambda a: LDOS.from_arrays(list(a), a.grid).aligned("auto"),
            "zero='fermi' must exist in every structure; structure 0; structure 1; structure 2; and 1 "
            "more has "
            "none: neither the Fermi level nor the number of electrons is known; pass levels.",
        ),
        (
            lambda a: LDOS.from_arrays(list(a)[:1], a.grid, levels=Levels(fermi=[-2.0])).aligned("vbm"),
            "zero='vbm' must exist in every structure; structure 0 has none: no gap was found around a known "
            "Fermi level; use zero='fermi'.",
        ),
        (
            lambda a: a.window(-1.5, 6)[:1].aligned("onset"),
            "zero='onset' must exist in every structure; structure 0 (run 0) has none: the curve begins "
            "above the "
            "threshold; keep lower energies.",
        ),
        (
            lambda a: a.aligned("fermi", energies=np.linspace(-6, 4, 11)),
            "energies must be known in every structure; -6 to 4 eV from the Fermi level are wanted and "
            "known are "
            "-5.43 to 6.57 eV for structure 2 (run 2).",
        ),
        (
            lambda a: a.aligned("vbm", energies=np.linspace(-7, 9, 17)),
            "energies must be known in every structure; -7 to 9 eV from the valence band maximum are "
            "wanted and "
            "known are -5 to 7 eV for structure 0 (run 0); -5.413 to 6.587 eV for structure 1 (run 1); "
            "-4.43 to "
            "7.57 eV for structure 2 (run 2); and 1 more.",
        ),
        (
            lambda a: a.window(-0.5, 0.5).aligned("fermi"),
            "the structures must share energies after alignment; got zeros from -0.57 to 1.1 eV on "
            "energies from "
            "-0.5 to 0.5 eV. Leave structures out, or read files of wider windows.",
        ),
    ],
)
def test_zeros_that_do_not_exist(call, expected):
    assert message_of(ValueError, lambda: call(insulator(SHIFTS))) == expected


def test_every_zero_can_be_named():
    assert set(ZEROS) == {"absolute", "fermi", "vbm", "onset", "centroid", "learned"}


# ---- Real calculations -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["moo3", "batio3"])
def calculations(request):
    path = DATA / f"{request.param}_gpaw_ldos.npz"
    if not path.exists():
        pytest.skip("the GPAW data are not here")
    with np.load(path) as file:
        return {name: file[name][:6] if len(file[name]) > 20 else file[name] for name in file.files} | {
            "energies": file["energies"],
            "numbers": file["numbers"],
        }


def from_calculations(data, axis, origins, **levels):
    return LDOS.from_states(
        list(data["eigenvalues"]),
        [weights.astype(np.float64).sum(axis=-1) for weights in data["state_weights"]],
        axis,
        [data["numbers"]] * len(data["eigenvalues"]),
        k_weights=data["k_weights"],
        origins=origins,
        levels=Levels(
            fermi=data["fermi"],
            vbm=data["vbm"],
            cbm=data["cbm"],
            n_electrons=2.0 * data["n_occupied"],
            **levels,
        ),
    )


def test_stored_curves_follow_from_the_stored_states(calculations):
    axis = EnergyGrid(calculations["energies"], 0.2, "vbm")
    ldos = from_calculations(calculations, axis, calculations["vbm"])
    stored = calculations["ldos"]
    assert_allclose(ldos.values.reshape(stored.shape), stored, atol=2e-3 * np.abs(stored).max())


def test_electrons_of_real_insulators_fill_the_states_up_to_the_gap(calculations):
    axis = EnergyGrid(np.arange(0, 15.001, 0.05) - 12, 0.1, "vbm")
    ldos = from_calculations(calculations, axis, calculations["vbm"])
    gap = calculations["cbm"] - calculations["vbm"]
    assert_allclose(ldos.levels.vbm, 0, atol=1e-9)
    assert_allclose(
        ldos.integrals(None, 0.7).reshape(len(gap), -1).sum(axis=1), ldos.levels.n_electrons, atol=0.05
    )
    assert_allclose(ldos.fermi_level(), gap / 2, atol=0.3)
    assert ((ldos.gap() > gap - 10 * 0.1) & (ldos.gap() < gap + 0.2)).all()
    rising = from_calculations(
        calculations, EnergyGrid(np.arange(-10, 18.001, 0.05), 0.1), np.zeros(len(gap))
    ).aligned("vbm")
    common = rising.resampled(np.arange(-6, 3, 0.05))
    assert_allclose(common.values, ldos.resampled(common.energies).values, atol=0.02)
    assert_allclose(common.levels.n_electrons, ldos.resampled(common.energies).levels.n_electrons, atol=1e-2)


def test_random_zeros_of_real_structures_are_learned_again(calculations):
    """Structures differ, so their learned zeros are not their band edges, but always the same."""
    shifts = np.random.default_rng(0).uniform(-1, 1, len(calculations["vbm"]))
    axis = EnergyGrid(np.arange(-26, 16.001, 0.05), 0.2)  # all states: none come in or go out
    still = from_calculations(calculations, axis, calculations["vbm"]).aligned("learned")
    moved = from_calculations(calculations, axis, calculations["vbm"] + shifts).aligned("learned")
    difference = moved.levels.shift - still.levels.shift
    assert_allclose(difference - difference.mean(), 0, atol=1e-2 * 0.05)


# ---- The mean occupied energy, and totals that hold more than the atoms ------------------------------------


def test_centroid_is_the_mean_energy_of_the_occupied_states():
    ldos = insulator([0.0, 0.4, -0.7], width=0.05, step=0.01)
    moved = ldos.aligned("centroid")
    assert moved.grid.zero == "centroid"
    for i, total in enumerate(ldos.total()):
        occupied = ldos.energies <= ldos.levels.fermi[i]
        mean = np.sum(total * ldos.energies * occupied) / np.sum(total * occupied)
        assert moved.levels.shift[i] == pytest.approx(mean, abs=1e-3)
    below = moved.window(None, float(moved.levels.fermi.min()))
    assert_allclose(below.moments(1, center=0.0).mean(), 0.0, atol=1e-3)


def test_rigid_shifts_do_not_change_curves_from_their_centroid():
    ldos = insulator([0.0, 0.31, -0.4], width=0.1, step=0.02)
    moved = ldos.aligned("centroid", energies=np.arange(-2, 3.001, 0.02))
    assert_allclose(moved[1], moved[0], atol=2e-3)
    assert_allclose(moved[2], moved[0], atol=2e-3)


def test_no_centroid_without_a_fermi_level():
    ldos = insulator([0.0], known=False)
    unknown = LDOS(ldos.values, ldos.offsets, ldos.species, grid=ldos.grid)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message follows
        unknown.aligned("centroid")
    assert str(refusal.value) == (
        "zero='centroid' must exist in every structure; structure 0 has none: the Fermi level is not known, "
        "or no states are below it; pass levels."
    )


def test_electrons_are_counted_in_the_total_of_the_calculation():
    """Projections on atoms keep 80 % of the states here, and a count in them would end 20 % too late."""
    whole = insulator([0.0, 0.2])
    kept = LDOS(
        0.8 * whole.values,
        whole.offsets,
        whole.species,
        grid=whole.grid,
        levels=whole.levels,
        reference_total=whole.total(),
    )
    assert_allclose(kept.fermi_level(), whole.fermi_level())
    cut = kept.window(whole.energies[150], None)
    assert_allclose(cut.levels.n_electrons, whole.window(whole.energies[150], None).levels.n_electrons)


# ---- Fermi levels and gaps of predictions ------------------------------------------------------------------


@pytest.mark.parametrize("error", [-0.005, -0.001, 0.001, 0.005, 0.0099])
def test_a_predicted_insulator_has_its_fermi_level_in_the_gap(error):
    """A model gets the number of states right to half a percent; the count does not end in the gap."""
    shifts = np.array([0.0, 0.31])
    true = insulator(shifts, width=0.05)
    predicted = true.with_values((1 + error) * true.values)
    counted = predicted.with_levels(Levels(n_electrons=[4.0, 4.0]))
    assert_allclose(counted.fermi_level(), shifts, atol=0.02)
    assert_array_equal(counted.known_fermi(), counted.fermi_level())
    assert_allclose(counted.gap(), true.gap(), atol=1e-9)
    many = true.with_values(25 * (1 + error) * true.values)  # what differs is a fraction of the electrons
    assert_allclose(many.fermi_level(100), shifts, atol=1e-6)
    alone = many.fermi_level(100, tolerance=0)
    assert (np.abs(alone - shifts) > 0.8).all()  # at the edge of one of the bands


def test_a_count_too_far_from_the_gap_ends_in_a_band():
    ldos = insulator([0.0])
    for n in (3.9, 4.1):
        level = ldos.fermi_level(n)
        assert_array_equal(level, ldos.fermi_level(n, tolerance=0))
        assert abs(level[0]) > 1
        assert_allclose(ldos.fermi_level(n, tolerance=0.03), 0, atol=1e-6)


@pytest.mark.parametrize("high", [0.5, 0.2])
def test_where_the_energies_end_within_the_gap_the_fermi_level_is_half_way_to_their_end(high):
    ldos = insulator([0.0]).window(-6, high)
    (vbm,) = insulator([0.0]).band_edges()[0]
    for n in (4.0, 3.98, 4.02):  # more than the states can hold, too
        assert_allclose(ldos.fermi_level(n), (vbm + high) / 2, atol=0.05)
    assert_allclose(insulator([0.0]).window(-6, 0.5).levels.n_electrons, 4.0, atol=1e-6)
    with pytest.raises(ValueError, match="n_electrons must be"):
        ldos.fermi_level(4.02, tolerance=0)


def test_counts_in_the_total_of_a_calculation_are_exact():
    """A metal that has its Fermi level just above a gap keeps it."""
    whole = insulator([0.0])
    known = LDOS.from_arrays(list(whole), whole.grid, reference_total=whole.total())
    assert_allclose(known.fermi_level(4.035), known.fermi_level(4.035, tolerance=0), atol=0)
    assert known.fermi_level(4.035) > 0.95
    assert_allclose(whole.fermi_level(4.035), 0, atol=1e-6)


def test_references_keep_their_fermi_levels():
    for ldos in (insulator(SHIFTS), insulator(SHIFTS, known=False), insulator(SHIFTS, known=False, gap=0.5)):
        assert_array_equal(ldos.fermi_level(), ldos.fermi_level(tolerance=0))
    for n in (0.5, 1.0, 2.0, 3.5, 4.0, 5.0, 7.5, 8.0):
        assert_array_equal(insulator(SHIFTS).fermi_level(n), insulator(SHIFTS).fermi_level(n, tolerance=0))


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, np.nan, "0.01", None])
def test_tolerances_that_are_none_are_refused(tolerance):
    assert message_of(ValueError, lambda: insulator().fermi_level(tolerance=tolerance)) == (
        f"tolerance must be a fraction of the electrons, from 0 to below 1; got {tolerance!r}."
    )


def test_energies_from_the_fermi_level_have_it_at_zero():
    predicted = LDOS.from_arrays(list(insulator([0.0])), replace(insulator().grid, zero="fermi"))
    assert_array_equal(predicted.known_fermi(), [0.0])
    assert_allclose(predicted.gap(), insulator([0.0]).gap(), atol=1e-12)
    assert_array_equal(predicted.with_levels(fermi=0.2).known_fermi(), [0.2])
    assert np.isfinite(predicted.band_energy()).all()


@pytest.mark.parametrize("above", [0.0, 0.1])
def test_energies_from_the_valence_band_maximum_have_a_gap_there(above):
    """What a model predicts: curves without levels."""
    true = insulator([-above] * 2, width=0.05).aligned("vbm")
    predicted = LDOS.from_arrays(list(true), true.grid)
    assert_allclose(predicted.gap(), true.gap(), atol=1e-9)
    assert_allclose(predicted.band_edges(), true.band_edges(), atol=1e-9)
    assert np.isnan(predicted.known_fermi()).all()
    absolute = predicted.on_grid(replace(true.grid, zero="absolute"))
    assert np.isnan(absolute.gap()).all()


def test_a_gap_far_above_the_valence_band_maximum_is_not_taken_for_it():
    ldos = insulator([3.5]).on_grid(replace(insulator().grid, zero="vbm")).with_levels(Levels.unknown(1))
    assert np.isnan(ldos.gap()).all()  # the band ends 2.5 eV above zero


def test_the_level_that_is_zero_now_is_known():
    ldos = insulator(SHIFTS, width=0.1, known=False)
    assert_array_equal(ldos.aligned("fermi").levels.fermi, np.zeros(4))
    assert np.isnan(ldos.aligned("fermi").levels.vbm).all()
    once = ldos.aligned("vbm")
    assert_array_equal(once.levels.vbm, np.zeros(4))
    again = once.aligned("vbm")
    assert_array_equal(again.levels.shift, once.levels.shift)
    assert_allclose(again.values, once.values, atol=1e-12)


def test_one_unknown_edge_does_not_shift_the_others_twice():
    """Edges are read off the curves of all, and then are those of all."""
    ldos = insulator(SHIFTS, width=0.1)
    vbm = np.array(ldos.levels.vbm)
    vbm[1] = np.nan
    once = ldos.with_levels(vbm=vbm).aligned("vbm")
    assert_allclose(once.levels.shift, ldos.band_edges()[0])
    assert_array_equal(once.aligned("vbm").levels.shift, once.levels.shift)
    unlabelled = LDOS.from_arrays(list(once), once.grid)
    assert_array_equal(unlabelled.aligned("vbm").levels.shift, np.zeros(4))


# ---- Other levels ------------------------------------------------------------------------------------------


def test_levels_are_given_to_curves():
    ldos = known_ldos()
    assert_same(ldos.with_levels(), ldos)
    assert_same(ldos.with_levels(ldos.levels), ldos)
    found = ldos.with_levels(Levels(vbm=np.arange(5.0)), n_electrons=96, fermi=np.ones(5), cbm=None)
    assert_array_equal(levels_of(found)[[0, 1, 3]], [np.ones(5), np.arange(5.0), np.full(5, 96.0)])
    assert np.isnan(levels_of(found)[[2, 4]]).all()
    assert_array_equal(levels_of(ldos.with_levels(cbm=None))[[0, 1, 3]], levels_of(ldos)[[0, 1, 3]])
    assert found.reference_total is ldos.reference_total
    assert isinstance(found, LDOS)


@pytest.mark.parametrize(
    ("call", "kind", "expected"),
    [
        (
            lambda a: a.with_levels(efermi=1.0),
            TypeError,
            "with_levels takes levels and fermi, vbm, cbm, n_electrons, shift; got efermi. Use one of these "
            "names.",
        ),
        (
            lambda a: a.with_levels(n_electrons="many"),
            TypeError,
            "n_electrons must be one number, or one for each of the 5 structures; got 'many'.",
        ),
        (
            lambda a: a.with_levels(fermi=[1.0, 2.0]),
            ValueError,
            "fermi must be one number, or one for each of the 5 structures; got shape (2,).",
        ),
        (
            lambda a: a.with_levels(Levels.unknown(2)),
            ValueError,
            "levels must be of the 5 structures of values; got 2.",
        ),
        (
            lambda a: a.with_levels(np.ones(5)),
            TypeError,
            "levels must be Levels or None; got ndarray of shape (5,).",
        ),
    ],
)
def test_levels_that_are_none(call, kind, expected):
    assert message_of(kind, lambda: call(known_ldos())) == expected


# ---- Projections that lose states --------------------------------------------------------------------------


def test_without_the_total_electrons_are_those_that_are_projected():
    """80 % of the valence states and 60 % of the empty ones are on the atoms."""
    whole = insulator([0.0, 0.2], known=False)
    kept = np.where(whole.energies < 0, 0.8, 0.6) * whole.values
    known = LDOS(
        kept,
        whole.offsets,
        whole.species,
        grid=whole.grid,
        levels=Levels(n_electrons=[4.0, 4.0]),
        reference_total=whole.total(),
    )
    for dropped in (known.with_values(kept), known[:1].with_values(kept[:2])):
        assert_allclose(dropped.levels.n_electrons, 3.2, rtol=1e-6)
        assert_allclose(dropped.fermi_level(), [0.0, 0.2][: len(dropped)], atol=0.01)
        assert_allclose(dropped.fermi_level(tolerance=0), [0.0, 0.2][: len(dropped)], atol=0.01)
    partly = np.array(known.reference_total)
    partly[1] = np.nan
    assert_allclose(
        replace(known, reference_total=partly).with_values(kept).levels.n_electrons, [3.2, 4.0], rtol=1e-6
    )
    metal = known.with_levels(n_electrons=2.0).with_values(kept)
    assert_allclose(metal.levels.n_electrons, 1.6, rtol=1e-3)
    assert_allclose(metal.fermi_level(), [-2.0, -1.8], atol=1e-2)


def test_electrons_are_not_known_in_projections_without_a_fermi_level():
    whole = insulator([0.0])
    known = LDOS.from_arrays(
        list(whole), whole.grid, reference_total=whole.total(), levels=Levels(n_electrons=[9.0])
    )
    assert np.isnan(known.with_values(whole.values).levels.n_electrons).all()
    below = known.window(2, 4).with_levels(fermi=1.0, n_electrons=1.0)
    assert np.isnan(below.with_values(below.values).levels.n_electrons).all()


@pytest.mark.parametrize("low", [-8.0, -1.93])
def test_electrons_of_states_are_counted_in_what_is_projected(low):
    steps = np.linspace(0, 1, 301)[:, None]
    states = np.concatenate([-3 + steps, -2 + steps, 1 + steps], axis=1)  # two bands below the gap
    share = np.tile([[[0.5, 0.4]], [[0.3, 0.4]], [[0.2, 0.3]]], (301, 1, 1, 1)).reshape(301, 3, 2)
    levels = Levels(n_electrons=[4.0])
    ldos = LDOS.from_states([states], [share], grid(low, 4, 0.02, 0.05), levels=levels)
    assert_allclose(ldos.fermi_level(tolerance=0), 0, atol=0.01)
    assert_allclose(ldos.integrals(None, 0.0).sum(), ldos.levels.n_electrons[0], atol=1e-3)
    half = LDOS.from_states([states], [share], grid(-8, 4, 0.02, 0.05), levels=Levels(n_electrons=[3.0]))
    assert_allclose(half.levels.n_electrons, 2 * 0.9 + 0.7, rtol=1e-6)
    assert_allclose(half.fermi_level(), -1.5, atol=0.01)


def test_rounding_of_weights_does_not_change_the_electrons():
    states, share = random_states()
    rounded = share * (1 + 2e-4)
    ldos = LDOS.from_states([states], [rounded], grid(), levels=Levels(n_electrons=[6.0]))
    assert_allclose(ldos.levels.n_electrons, 6.0, atol=1e-9)
    empty = LDOS.from_states([states], [share], grid(), levels=Levels(n_electrons=[0.0]))
    assert_allclose(empty.levels.n_electrons, 0.0, atol=1e-9)


# ---- Grids as energies, and steps that are too wide --------------------------------------------------------


def test_grids_are_energies():
    ldos = insulator([0.0, 0.2])
    wanted = np.linspace(-3, 3, 121)
    for given in (EnergyGrid(wanted), EnergyGrid(wanted, width=0.05)):
        assert_same(ldos.resampled(given), ldos.resampled(wanted))
    for given in (EnergyGrid(wanted), EnergyGrid(wanted, width=0.3, zero="fermi")):
        assert_same(ldos.aligned("vbm", energies=given), ldos.aligned("vbm", energies=wanted))
    assert message_of(ValueError, lambda: ldos.resampled(EnergyGrid(wanted, zero="vbm"))) == (
        "energies must count from the zero of the calculation, as the curves do; got a grid from the valence "
        "band maximum. Use aligned first, or pass grid.energies."
    )
    assert message_of(ValueError, lambda: ldos.resampled(EnergyGrid(wanted, width=0.3))) == (
        "energies must be a grid of the width of the curves, 0.05 eV, or without one; got a width of 0.3 eV. "
        "Use broadened, or pass grid.energies."
    )
    unknown = ldos.on_grid(replace(ldos.grid, width=None))
    assert message_of(ValueError, lambda: unknown.resampled(EnergyGrid(wanted, width=0.3))) == (
        "energies must be a grid of the width of the curves, unknown, or without one; got a width of 0.3 eV. "
        "Use broadened, or pass grid.energies."
    )


def test_peaks_between_two_energies_are_refused():
    states, share = random_states()
    assert LDOS.from_states([states], [share], grid(step=0.4, width=0.2)).grid.step == pytest.approx(0.4)
    assert message_of(ValueError, lambda: LDOS.from_states([states], [share], grid(step=0.5))) == (
        "grid must have steps of at most twice its width of 0.2 eV, or states fall between its energies; got "
        "steps of 0.5 eV. Take a finer grid, or a greater width."
    )
    ldos = insulator([0.0], width=0.05)
    coarse = np.arange(-3, 3.1, 0.2)
    for change in (
        lambda: ldos.resampled(coarse),
        lambda: ldos.aligned("vbm", energies=coarse),
        lambda: ldos.aligned("none", energies=coarse),
    ):
        assert message_of(ValueError, change) == (
            "energies must have steps of at most twice the width of 0.05 eV, or peaks fall between them; got "
            "steps of 0.2 eV. Broaden the curves first (broadened(0.1)), or choose a finer grid."
        )
    assert ldos.broadened(0.1).resampled(coarse).grid.step == pytest.approx(0.2)
    unknown = ldos.on_grid(replace(ldos.grid, width=None))
    assert len(unknown.resampled(coarse).grid) == 31


# ---- Nonsense ----------------------------------------------------------------------------------------------


def test_the_advice_on_the_width_keeps_the_zero():
    ldos = insulator([0.0]).aligned("vbm")
    unknown = ldos.on_grid(replace(ldos.grid, width=None))
    with pytest.raises(ValueError, match=r"dataclasses\.replace\(ldos\.grid, width=\.\.\.\)"):
        unknown.broadened(0.3)
    assert_same(unknown.on_grid(replace(unknown.grid, width=0.05)), ldos)


@pytest.mark.parametrize("energies", [np.arange(9.0), None, [1, 2]])
def test_only_a_grid_describes_a_grid(energies):
    named = {np.ndarray: "ndarray of shape (9,)", type(None): "NoneType", list: "list"}[type(energies)]
    assert message_of(TypeError, lambda: known_ldos().on_grid(energies)) == (
        f"grid must be an EnergyGrid, which says zero and width; got {named}. Pass EnergyGrid(energies, "
        "width=..., zero=...)."
    )


@pytest.mark.parametrize("width", [np.nan, "0.3", None, 0.0, -1, np.inf])
def test_widths_that_are_none_are_refused(width):
    assert message_of(ValueError, lambda: insulator().broadened(width)) == (
        f"width must be the standard deviation of a Gaussian in eV, a positive number; got {width!r}."
    )


@pytest.mark.parametrize(
    ("call", "name", "named"),
    [
        (lambda a: a.window("a", 1), "low", "'a'"),
        (lambda a: a.window((-5, 5)), "low", "(-5, 5)"),
        (lambda a: a.window(-5, [5]), "high", "[5]"),
        (lambda a: a.integrals("-1"), "low", "'-1'"),
        (lambda a: a.integrals(None, object), "high", "<class 'object'>"),
    ],
)
def test_ends_that_are_no_energies(call, name, named):
    assert message_of(TypeError, lambda: call(insulator())) == (
        f"{name} must be an energy in eV, or None for the end of the grid; got {named}. Pass numbers, as in "
        "low=-5, high=5."
    )


def test_integrals_that_run_backwards_are_refused():
    assert message_of(ValueError, lambda: insulator().integrals(2, 1)) == (
        "low must be at most high; got 2 and 1 eV. Exchange the two."
    )


@pytest.mark.parametrize("threshold", [0.0, 1.0, 2, -0.1, np.nan, "0.1", None])
@pytest.mark.parametrize(
    "call",
    [
        lambda a, t: a.gap(t),
        lambda a, t: a.band_edges(t),
        lambda a, t: a.aligned("onset", threshold=t),
    ],
)
def test_thresholds_that_are_no_fractions(call, threshold):
    assert message_of(ValueError, lambda: call(insulator(), threshold)) == (
        f"threshold must be a fraction of the highest value, between 0 and 1; got {threshold!r}."
    )


def test_a_count_that_ends_near_an_edge_of_the_gap_takes_its_middle():
    """A few electrons more than the valence band of a large structure holds, in the tail of the next one."""
    whole = insulator([0.0], width=0.1)
    large = whole.with_values(1000 * whole.values)
    counted = large.grid.cumulative(large.total())[0]
    n_electrons = np.interp(0.74, large.energies, counted)
    assert abs(float(large.fermi_level(n_electrons)[0])) < 0.05
    assert float(large.fermi_level(n_electrons, tolerance=0)[0]) > 0.7
