"""What `CycleMomentFeaturizer` says to structures and parameters that it cannot use; whole messages."""

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from crystals import copper, perovskite, rattled, rhenium_trioxide, trajectory
from sklearn.exceptions import NotFittedError

from tinynet_sklearn import CutoffBonds, CycleMomentFeaturizer, _validation, features
from tinynet_sklearn.features import CHUNK


def failure(kind, call, *arguments):
    with pytest.raises(kind) as error:
        call(*arguments)
    return str(error.value)


@pytest.fixture
def fitted():
    return CycleMomentFeaturizer(n=2, N=1).fit([perovskite()])


@pytest.fixture(params=["fit", "transform"])
def step(request, fitted):
    """Both methods take a list of structures and check it in the same way."""
    return getattr(fitted, request.param)


# ---- X is no list of usable structures ---------------------------------------------------------------------


def test_a_bare_structure(step):
    assert failure(TypeError, step, perovskite()) == (
        "X must be a list of structures, got a single Atoms; pass [atoms]."
    )


def test_an_empty_list(step):
    assert failure(ValueError, step, []) == "X must hold at least one structure, got an empty list."


def test_a_table_of_numbers(step):
    assert failure(TypeError, step, np.zeros((5, 3))) == (
        "X must be a list of ase.Atoms or pymatgen Structures, got ndarray at index 0; convert it first."
    )


def test_positions_that_are_no_numbers(step):
    bad = perovskite()
    bad.positions[2, 0] = np.nan
    assert failure(ValueError, step, [perovskite(), bad]) == (
        "X has structures that cannot be used:\n  structure 1, atom 2: position is [nan  2.  0.]; remove it."
    )


def test_a_cell_without_volume(step):
    flat = perovskite()
    flat.cell[2] = 0
    assert failure(ValueError, step, [flat]) == (
        "X has structures that cannot be used:\n"
        "  structure 0: periodic, but its cell has a volume of 0 Angstrom^3 for 5 atoms; set the cell, or "
        "pbc=False."
    )


# ---- Structures that are not those of the reference --------------------------------------------------------

REMEDY = (
    "fit on structures of one crystal, one featurizer per crystal, or take topology='each' or a "
    "SmoothMomentFeaturizer."
)


@pytest.mark.parametrize(
    ("stranger", "problem"),
    [
        (perovskite() * (2, 1, 1), "it has 10 atoms, the reference 5"),
        (perovskite()[[0, 2, 1, 3, 4]], "atom 1 is O, in the reference Ti"),
        (
            Atoms("SrTiO3", perovskite().positions, cell=[4, 4, 4], pbc=True),
            "atom 0 is Sr, in the reference Ba",
        ),
        (
            Atoms("BaTiO3", perovskite().positions, cell=[4, 4, 4], pbc=(True, True, False)),
            "pbc is [True, True, False], in the reference [True, True, True]",
        ),
    ],
    ids=["atom count", "order of species", "unseen species", "pbc"],
)
def test_structures_of_another_crystal(step, stranger, problem):
    assert failure(ValueError, step, [perovskite(), stranger]) == (
        f"X has structures that do not share the reference's atoms:\n  structure 1: {problem}; {REMEDY}"
    )


def test_all_structures_of_another_crystal_are_reported_at_once(step):
    message = failure(ValueError, step, [perovskite()] * 3 + [rhenium_trioxide()] * 8)
    assert message == "\n".join(
        [
            "X has structures that do not share the reference's atoms:",
            *(f"  structure {k}: it has 4 atoms, the reference 5; {REMEDY}" for k in range(3, 8)),
            "  ... and 3 more",
        ]
    )


def test_structures_that_do_not_fit_a_given_reference():
    featurizer = CycleMomentFeaturizer(reference=perovskite())
    assert failure(ValueError, featurizer.fit, [rhenium_trioxide()]) == (
        "X has structures that do not share the reference's atoms:\n"
        f"  structure 0: it has 4 atoms, the reference 5; {REMEDY}"
    )


def with_stretched_bond(length):
    """Two atoms in a row, the second one moved: BaO, and far away a second pair that stays."""
    return Atoms("BaOBaO", positions=[[0, 0, 0], [0, 0, length], [9, 0, 0], [9, 0, 2.5]])


def test_a_bond_stretched_to_more_than_half_as_much_again():
    featurizer = CycleMomentFeaturizer(n=2, N=1).fit([with_stretched_bond(2.5)])
    featurizer.transform([with_stretched_bond(3.74)])
    frames = [with_stretched_bond(2.5)] * (CHUNK + 10)
    frames[3] = frames[CHUNK + 4] = with_stretched_bond(3.76)  # in two chunks of the work
    problem = (
        "the bond between atoms 0 and 1 is 3.76 Angstrom, in the reference 2.50; fit on structures that keep "
        "their bonds and the order of their atoms."
    )
    assert failure(ValueError, featurizer.transform, frames) == (
        "X has structures that do not share the reference's bonds:\n"
        f"  structure 3: {problem}\n"
        f"  structure {CHUNK + 4}: {problem}"
    )


def test_equal_atoms_in_another_order_show_by_their_bonds():
    large = perovskite() * (3, 3, 3)
    order = np.arange(len(large))
    order[[2, 67]] = order[[67, 2]]  # O atoms of two cells that touch at a corner only
    featurizer = CycleMomentFeaturizer(n=2, N=0).fit([large])
    message = failure(ValueError, featurizer.transform, [large[order]])
    pattern = (
        r"X has structures that do not share the reference's bonds:\n"
        r"  structure 0: the bond between atoms \d+ and \d+ is \d\.\d\d Angstrom, in the reference 2\.\d\d; "
        r"fit on structures that keep their bonds and the order of their atoms\."
    )
    assert re.fullmatch(pattern, message)


# ---- Graphs that cannot be used ----------------------------------------------------------------------------


def test_an_atom_without_bonds():
    lonely = perovskite() + Atoms("He", positions=[[1.2, 1.2, 0.1]])
    assert failure(ValueError, CycleMomentFeaturizer(bonds={"Ba-O": 3.1, "Ti-O": 3.1}).fit, [lonely]) == (
        "bonds={'Ba-O': 3.1, 'Ti-O': 3.1} gives no usable bond graph of the reference structure:\n"
        "  atom 5 (He) has no bonds (1 of 6 atoms have none); raise the cutoff, or bond like atoms with "
        "CutoffBonds(cutoff, heteroatomic=False)."
    )


def test_no_bonds_at_all_between_like_atoms():
    assert failure(ValueError, CycleMomentFeaturizer().fit, [copper()]) == (
        "bonds=3.1 gives no usable bond graph of the reference structure:\n"
        "  atom 0 (Cu) has no bonds (1 of 1 atoms have none); raise the cutoff, or bond like atoms with "
        "CutoffBonds(cutoff, heteroatomic=False)."
    )


def test_atoms_written_twice_are_found_whether_bonded_or_not():
    doubled = perovskite()
    doubled += doubled[[2]]  # O on O, which are never bonded with bonds=3.1
    doubled += doubled[[0]]
    doubled.positions[6, 1] += 4.1  # Ba on an image of Ba, nearly
    remedy = "remove one of them (if it is only their mean positions that meet, use reference='first')."
    assert failure(ValueError, CycleMomentFeaturizer().fit, [doubled]) == (
        "bonds=3.1 gives no usable bond graph of the reference structure:\n"
        f"  atoms 0 and 6 are 0.1 Angstrom apart; {remedy}\n"
        f"  atoms 2 and 5 are 0 Angstrom apart; {remedy}"
    )


def test_what_is_no_bond_rule():
    assert failure(TypeError, CycleMomentFeaturizer(bonds="covalent").fit, [perovskite()]) == (
        "bonds must be a cutoff in Angstrom, a mapping such as {'Ti-O': 2.6}, 'natural', a pymatgen "
        "NearNeighbors strategy or a bond rule, got 'covalent'."
    )


def test_vectors_too_long_for_any_memory():
    assert failure(ValueError, CycleMomentFeaturizer(n=10, N=2).fit, [perovskite()]) == (
        "n=10, N=2 would give vectors of 20,407,950 entries and tables worth 524,152,244 hops (limits: "
        "1,000,000 and 50,000,000); the largest part are 19,939,896 closed walks of 10 hops from one atom. "
        "Use paths='simple' or a smaller n or N or fewer bonds."
    )


# ---- Parameters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "contract"),
    [
        ({"n": -1}, "an int in the range [0, inf). Got -1"),
        ({"N": -2}, "an int in the range [0, inf). Got -2"),
        ({"n": 4.0}, "an int in the range [0, inf). Got 4.0"),
        ({"paths": "cycles"}, "a str among {'all', 'simple'}. Got 'cycles'"),
        ({"topology": "structure"}, "a str among {'each', 'reference'}. Got 'structure'"),
        ({"neighbors": "all"}, "a str among {'unique', 'walks'}. Got 'all'"),
        ({"duplicates": "drop"}, "a str among {'keep', 'merge'}. Got 'drop'"),
        ({"order": "random"}, "a str among {'auto', 'depth-first', 'direction', 'value'}. Got 'random'"),
        ({"frame": "crystal"}, "a str among {'auto', 'lab', 'neighbors', 'site'}. Got 'crystal'"),
        ({"aggregate": "mean"}, "a str among {'sum'} or None. Got 'mean'"),
        ({"odd_walks": "yes"}, "an instance of 'bool' or an instance of 'numpy.bool'. Got 'yes'"),
        ({"site_tolerance": 0.0}, "a float in the range (0.0, inf). Got 0.0"),
        ({"dtype": "float16"}, "a str among {'float32', 'float64'}. Got 'float16'"),
    ],
    ids=str,
)
def test_parameters_out_of_range(parameters, contract):
    (name,) = parameters
    found = failure(ValueError, CycleMomentFeaturizer(**parameters).fit, [perovskite()])
    # scikit-learn prints the members of a set in any order.
    assert sorted(found) == sorted(
        f"The {name!r} parameter of CycleMomentFeaturizer must be {contract} instead."
    )
    assert found.startswith(f"The {name!r} parameter of CycleMomentFeaturizer must be ")


@pytest.mark.parametrize("order", ["value", "depth-first"])
def test_site_frames_need_slots(order):
    assert failure(ValueError, CycleMomentFeaturizer(order=order, frame="site").fit, [perovskite()]) == (
        f"frame='site' needs order='direction', got order='{order}': sorted entries have no site. "
        "Use frame='lab'."
    )


@pytest.mark.parametrize(
    ("reference", "shown"),
    [("median", "'median'"), ("POSCAR", "'POSCAR'"), (None, "None"), (0, "0")],
    ids=str,
)
def test_a_reference_that_is_neither_word_nor_structure(reference, shown):
    assert failure(ValueError, CycleMomentFeaturizer(reference=reference).fit, [perovskite()]) == (
        f"reference must be 'mean', 'first' or a structure, got {shown}; read a file with ase.io.read first."
    )


def test_a_reference_that_cannot_be_used():
    reference = perovskite()
    reference.positions[:] = np.nan
    assert failure(ValueError, CycleMomentFeaturizer(reference=reference).fit, [perovskite()]) == (
        "reference has structures that cannot be used:\n"
        "  structure 0, atom 0: position is [nan nan nan]; remove it."
    )


@pytest.mark.parametrize("n", [3, 5])
def test_an_odd_n_that_adds_nothing(n):
    with pytest.warns(UserWarning, match="adds nothing") as caught:
        odd = CycleMomentFeaturizer(n=n).fit([perovskite()])
    assert [str(warning.message) for warning in caught] == [
        f"n={n} adds nothing to n={n - 1}: no atom has a closed walk of {n} hops on this bond graph. "
        "Odd walks need rings of bonds of odd length."
    ]
    assert caught[0].filename == __file__
    assert odd.n_features_out_ == CycleMomentFeaturizer(n=n - 1).fit([perovskite()]).n_features_out_


def test_an_odd_n_without_odd_walks():
    triangles = CycleMomentFeaturizer(n=3, bonds=CutoffBonds(3.0, heteroatomic=False), odd_walks=False)
    with pytest.warns(UserWarning, match="adds nothing") as caught:
        triangles.fit([copper()])
    assert [str(warning.message) for warning in caught] == [
        "n=3 adds nothing to n=2: odd_walks=False leaves out walks of odd length."
    ]


def test_an_odd_n_with_triangles_of_bonds_is_nothing_to_warn_of():
    CycleMomentFeaturizer(n=3, bonds=CutoffBonds(3.0, heteroatomic=False)).fit([copper()])


# ---- Order of calls, memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [lambda f: f.transform([perovskite()]), lambda f: f.get_feature_names_out()])
def test_an_unfitted_featurizer(call):
    assert failure(NotFittedError, call, CycleMomentFeaturizer()) == (
        "This CycleMomentFeaturizer instance is not fitted yet. Call 'fit' with appropriate arguments before "
        "using this estimator."
    )


def test_more_rows_than_the_machine_can_hold(monkeypatch, fitted):
    monkeypatch.setattr(features, "physical_memory", lambda: 2.0**20)
    frames = trajectory(perovskite(), 1000)
    assert fitted.n_features_out_ == 48
    assert failure(MemoryError, fitted.transform, frames) == (
        "5000 atoms times 48 features need 0.0 GiB, this machine has 0.0; use fewer structures at a time, "
        "dtype='float32', or a smaller n or N."
    )
    monkeypatch.setattr(features, "physical_memory", lambda: 2.0**21)
    assert fitted.transform(frames).values.nbytes <= 2**21


def test_physical_memory_is_a_sensible_number_or_unknown(monkeypatch):
    assert _validation.physical_memory() > 2**28
    monkeypatch.setattr(_validation.os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert _validation.physical_memory() == float("inf")


def test_a_failed_fit_names_the_cause_and_a_later_one_succeeds():
    featurizer = CycleMomentFeaturizer()
    failure(ValueError, featurizer.fit, [])
    assert featurizer.fit([rattled(perovskite(), 0)]).transform([perovskite()]).shape[0] == 1


def test_neighbours_that_changed_places_are_refused_in_fit_and_transform():
    crystal = bulk("Si", cubic=True) * (2, 2, 2)
    order = np.arange(len(crystal))
    order[[0, 1]] = order[[1, 0]]
    featurizer = CycleMomentFeaturizer(n=2, N=1, bonds=CutoffBonds(2.9, heteroatomic=False))
    pattern = (
        r"X has structures that do not share the reference's bonds:\n"
        r"  structure 1: the bond between atoms \d+ and \d+ is \d\.\d\d Angstrom, in the reference 2\.\d\d; "
        r"fit on structures that keep their bonds and the order of their atoms\."
    )
    frames = [crystal, crystal[order], *[crystal] * 8]
    assert re.fullmatch(pattern, failure(ValueError, featurizer.fit, frames))
    featurizer.fit([crystal])
    assert re.fullmatch(pattern, failure(ValueError, featurizer.transform, frames))


def test_other_lattice_vectors_of_the_same_crystal_are_refused():
    crystal = bulk("NaCl", "rocksalt", a=5.64)
    turned_over = crystal.copy()
    turned_over.set_cell(crystal.cell.array * [[1], [-1], [1]])
    assert failure(ValueError, CycleMomentFeaturizer().fit([crystal]).transform, [turned_over]) == (
        "X has structures that do not share the reference's atoms:\n"
        "  structure 0: its cell is the reference's stretched by 0.52 to 1.93, so it is another one or has "
        f"other lattice vectors; {REMEDY}"
    )
