"""What `inspect_structures` says about good and about spoiled data."""

import io
import json
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixedPlane
from numpy.testing import assert_allclose
from rich.console import Console

from tinynet_sklearn import CycleMomentFeaturizer, build_bond_graph, load_batio3, load_moo3
from tinynet_sklearn.distances import HISTOGRAM_BIN, HISTOGRAM_RANGE, suggested_cutoff
from tinynet_sklearn.inspection import inspect_structures
from tinynet_sklearn.lengths import vector_lengths
from tinynet_sklearn.paths import PathSpec, count_paths
from tinynet_sklearn.reports import print_inspection

BONDS = 3.3


def salt(seed=0, displacement=0.05):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(displacement, seed=seed)
    return atoms


def with_forces(atoms, forces):
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    return atoms


def balanced(atoms, seed=0, size=1.0):
    forces = size * np.random.default_rng(seed).normal(size=(len(atoms), 3))
    return forces - forces.mean(axis=0)


def good_frames(n=5):
    return [with_forces(salt(k), balanced(salt(k), k)) for k in range(n)]


def problems(frames, bonds=BONDS):
    return [(f.message, f.frames) for f in inspect_structures(frames, bonds).problems]


def test_good_frames_have_nothing_wrong():
    found = inspect_structures(good_frames(), BONDS)
    assert found.findings == []
    assert found.n_frames == 5
    assert found.species == {"Na": 20, "Cl": 20}
    (topology,) = found.topologies
    assert topology.formula == "Na4Cl4"
    assert topology.coordination == {"Cl": {"6 Na": 4}, "Na": {"6 Cl": 4}}
    assert topology.different == {}
    assert topology.frames == list(range(5))
    assert topology.pbc == [True] * 3


@pytest.mark.parametrize("load", [load_batio3, load_moo3])
def test_bundled_data(load):
    data = load()
    found = inspect_structures(data.structures, data.bonds)
    assert found.problems == []
    assert found.topologies[0].different == {}
    for pair in found.distances:
        if pair.longest is not None:
            assert pair.longest < data.bonds[pair.pair] < pair.next


def test_cutoffs_are_suggested():
    found = inspect_structures(load_moo3().structures, 2.5)
    assert found.suggested_bonds == {"Mo-O": 2.7}
    assert inspect_structures([Atoms("H")]).suggested_bonds == {}


def test_suggestions_are_printed_as_the_command_line_takes_them():
    console = Console(file=io.StringIO(), width=110)
    print_inspection(console, "data", 3.1, inspect_structures(load_batio3().structures[:5], 3.1))
    lines = console.file.getvalue().splitlines()
    assert lines[lines.index("Suggested bonds") + 1].strip() == "--bonds Ba-O=3.8,Ti-O=2.7"


def test_json_holds_everything():
    found = inspect_structures(good_frames(), BONDS)
    assert json.loads(json.dumps(found.as_dict()))["topologies"][0]["formula"] == "Na4Cl4"


def test_distances_against_counting_by_hand():
    frames = good_frames()
    pairs = {pair.pair: pair for pair in inspect_structures(frames, BONDS).distances}
    assert list(pairs) == ["Na-Cl", "Cl-Cl", "Na-Na"]
    bonds = np.concatenate([_lengths(atoms, BONDS) for atoms in frames])
    assert pairs["Na-Cl"].bonds_per_frame == 24
    assert_allclose(
        [pairs["Na-Cl"].shortest, pairs["Na-Cl"].mean, pairs["Na-Cl"].longest],
        [bonds.min(), bonds.mean(), bonds.max()],
    )
    edges = np.arange(0.0, HISTOGRAM_RANGE + 1e-9, HISTOGRAM_BIN)
    assert pairs["Na-Cl"].bonded == np.histogram(bonds, edges)[0].tolist()
    far = _distances_by_hand(frames, 11, 11)
    assert pairs["Na-Na"].histogram == (np.histogram(far, edges)[0] // 2).tolist()
    assert pairs["Na-Na"].next == pytest.approx(far.min())
    assert pairs["Na-Na"].shortest is None


def _lengths(atoms, bonds):
    graph = build_bond_graph(atoms, bonds)
    return graph.bond_lengths(atoms.positions, atoms.cell.array)


def _distances_by_hand(frames, a, b):
    shifts = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T
    found = []
    for atoms in frames:
        images = atoms.positions[None] + (shifts @ atoms.cell.array)[:, None]
        for i in np.flatnonzero(atoms.numbers == a):
            d = np.linalg.norm(images[:, atoms.numbers == b] - atoms.positions[i], axis=2).ravel()
            found.append(d[d > 1e-6])
    return np.concatenate(found)


def test_the_suggested_cutoff_stands_in_the_gap():
    (pair, *_) = inspect_structures(good_frames(), BONDS).distances
    assert pair.longest < suggested_cutoff(pair) < pair.next
    assert suggested_cutoff(pair) == pytest.approx(0.5 * (pair.longest + pair.next), abs=HISTOGRAM_BIN)
    unbonded = inspect_structures(good_frames(), BONDS).distances[-1]
    assert suggested_cutoff(unbonded) is None


@pytest.mark.parametrize("bonds", [{"Ba-O": 3.6, "Ti-O": 2.7}, 3.1])
def test_exact_vector_lengths_are_those_of_the_featurizer(bonds):
    frame = load_batio3().structures[0]
    for length in vector_lengths(build_bond_graph(frame, bonds), (0, 2, 4), (0, 1, 2)):
        featurizer = CycleMomentFeaturizer(length.n, length.N, length.paths, bonds, reference="first")
        assert length.exact
        assert featurizer.fit([frame]).n_features_out_ == length.entries


def test_lengths_that_explode_are_counted_not_built():
    graph = build_bond_graph(bulk("NaCl", "rocksalt", a=5.64), 3.0)
    found = {(x.paths, x.n): x for x in vector_lengths(graph, (6, 8, 10), (0,))}
    assert found["all", 6].exact
    counts = count_paths(graph, PathSpec(8, 0))
    assert (found["all", 8].exact, found["all", 8].entries) == (True, found["all", 8].entries)
    assert found["all", 8].entries < sum(walks.max() for walks in counts.walks.values())
    assert found["all", 10].entries is None
    assert not found["all", 10].exact


def test_progress_counts_frames():
    seen = []
    inspect_structures(good_frames(3), BONDS, progress=seen.append)
    assert seen == [1, 1, 1]


def test_pymatgen_structures():
    from pymatgen.io.ase import AseAtomsAdaptor

    found = inspect_structures([AseAtomsAdaptor.get_structure(salt())], BONDS)
    assert found.species == {"Na": 4, "Cl": 4}
    assert found.forces.frames == 0


# ---- Forces ------------------------------------------------------------------------------------------------


def test_statistics_of_forces():
    frames = good_frames()
    forces = np.concatenate([atoms.get_forces() for atoms in frames])
    sodium = np.concatenate([atoms.get_forces()[atoms.numbers == 11] for atoms in frames])
    found = inspect_structures(frames, BONDS).forces
    assert found.frames == 5
    assert found.rms == pytest.approx(np.sqrt((forces**2).mean()))
    assert found.largest == np.abs(forces).max()
    assert found.rms_by_species["Na"] == pytest.approx(np.sqrt((sodium**2).mean()))
    assert found.net_largest == pytest.approx(0.0, abs=1e-12)


def test_no_forces_at_all_is_no_problem():
    (note,) = inspect_structures([salt()], BONDS).findings
    assert not note.problem
    assert note.message == "No frame has forces: enough to predict, not to train."


def test_forces_under_another_name():
    frame = salt()
    frame.arrays["REF_forces"] = balanced(frame)
    (note,) = inspect_structures([frame], BONDS).findings
    assert note.message == (
        "No frame has forces: enough to predict, not to train. There are arrays named REF_forces: "
        "y = [a.arrays[name] for a in frames]."
    )


def test_forces_missing_in_some_frames():
    assert problems([*good_frames(), salt(9)]) == [("No forces, while other frames have them.", [5])]


def test_forces_that_are_not_finite():
    frames = good_frames()
    frames[2].calc.results["forces"][0, 0] = np.nan
    assert problems(frames) == [("Forces with NaN or infinite values.", [2])]
    everything = [with_forces(salt(), np.full((8, 3), np.inf))]
    assert problems(everything) == [("Forces with NaN or infinite values.", [0])]


def test_forces_that_are_zero():
    assert problems([with_forces(salt(), np.zeros((8, 3)))]) == [("All forces are zero.", [])]


def test_forces_that_are_huge():
    frames = good_frames(40)
    frames[7].calc.results["forces"][0] += 40.0
    frames[7].calc.results["forces"][1] -= 40.0
    ((message, where),) = problems(frames)
    assert where == [7]
    pattern = (
        r"Forces beyond [\d.]+ eV/Angstrom \(the RMS of all is [\d.]+\): wrong units, atoms that collide, "
        r"or an unconverged calculation\."
    )
    assert re.fullmatch(pattern, message)


def test_forces_that_do_not_balance():
    frames = good_frames()
    frames[1].calc.results["forces"] += 0.5
    assert problems(frames) == [
        (
            "Net forces of more than 10% of the RMS force per atom: an unconverged calculation, fixed atoms, "
            "or an external field.",
            [1],
        )
    ]


# ---- Structures --------------------------------------------------------------------------------------------


def test_frames_that_cannot_be_used():
    broken = salt()
    broken.positions[3, 1] = np.nan
    flat = Atoms("H", cell=np.zeros((3, 3)), pbc=True)
    found = problems([salt(), broken, Atoms(), flat])
    assert found == [
        (f"Atom 3: position is {broken.positions[3]}; remove it.", [1]),
        ("It has no atoms; remove it.", [2]),
        (
            "Periodic, but its cell has a volume of 0 Angstrom^3 for 1 atoms; set the cell, or pbc=False.",
            [3],
        ),
    ]


def test_only_frames_that_cannot_be_used():
    found = inspect_structures([Atoms()], BONDS)
    assert found.topologies == []
    assert found.lengths == []
    assert len(found.problems) == 1


def test_overlapping_atoms():
    frame = salt()
    frame.positions[1] = frame.positions[0] + [0.5, 0.0, 0.0]
    messages = [message for message, _ in problems([frame])]
    assert "Atoms 0 (Na) and 1 (Cl) are 0.50 Angstrom apart." in messages


def test_copies():
    frames = good_frames(3)
    assert problems([*frames, frames[1]]) == [
        ("Copies of earlier frames (3 = 1): in both training and test they flatter the error.", [3])
    ]


def test_mixed_sizes():
    frames = [*good_frames(3), with_forces(molecule("H2O"), balanced(molecule("H2O")))]
    found = inspect_structures(frames, "natural")
    assert [(t.formula, t.frames) for t in found.topologies] == [("Na4Cl4", [0, 1, 2]), ("H2O", [3])]
    (message,) = (finding.message for finding in found.problems)
    assert message == (
        "Frames of 2 different sets of atoms (Na4Cl4, H2O); one featurizer serves one set, atoms in one "
        "order. Split the file."
    )


def test_another_order_of_the_atoms():
    frame = good_frames(2)[1][[1, 0, 2, 3, 4, 5, 6, 7]]
    with_forces(frame, balanced(frame))
    (message,) = (message for message, _ in problems([*good_frames(2)[:1], frame]))
    assert message.endswith("Some differ only in the order of the atoms, or in pbc.")


def test_another_crystal_of_the_same_atoms():
    frames = good_frames(20)
    chlorine = frames[4].numbers == 17
    frames[4].positions[chlorine] += 5.64 * np.array([-0.25, 0.25, 0.25])  # rock salt to zinc blende
    ((message, where),) = problems(frames, 3.1)
    assert where == [4]
    assert re.fullmatch(
        r"Not one crystal: for example, atoms \d and \d are 4\.\d\d Angstrom apart in frame 4 and 2\.\d\d in "
        r"the mean structure\. Split the file, or bring the atoms into one order\.",
        message,
    )


def test_a_frame_that_is_expanded_beyond_the_cutoff():
    frames = good_frames(20)
    frames[4].set_cell(1.2 * frames[4].cell, scale_atoms=True)
    ((message, where),) = problems(frames, 3.1)
    assert where == [4]
    assert message == (
        "Less than 75% of the bonds of the mean structure: another structure, atoms in another order, or a "
        "cutoff that cuts through a shell."
    )


def test_atoms_of_one_species_exchanged():
    frames = [salt(k).repeat(2) for k in range(9)]
    a, b = np.flatnonzero(frames[4].numbers == 11)[:2]
    frames[4].positions[[a, b]] = frames[4].positions[[b, a]]
    ((message, where),) = problems(frames)
    assert where == [4]
    assert re.fullmatch(
        r"Not one crystal: for example, atoms \d+ and \d+ are [67]\.\d\d Angstrom apart in frame 4 and "
        r"\d\.\d\d in the mean structure\. Split the file, or bring the atoms into one order\.",
        message,
    )


def test_bonds_that_cross_the_cutoff():
    (note,) = inspect_structures(good_frames(), 2.95).findings
    assert not note.problem
    assert note.frames
    assert re.fullmatch(
        rf"{len(note.frames)} of 5 frames of Na4Cl4 do not have the bonds of the mean structure \(\d+ lost, "
        r"0 gained in all\)\. Those of the mean serve all frames, which is right where bonds only cross the "
        r"cutoff as they vibrate\. Cutoffs between the shells: Na-Cl=3\.\d+\.",
        note.message,
    )


def test_forces_of_frames_with_constraints():
    frames = good_frames(4)
    frames[1].set_constraint(FixAtoms([0]))
    frames[3].set_constraint([FixAtoms([0]), FixedPlane([1], (0, 0, 1))])
    assert not frames[1].get_forces()[0].any()
    found = inspect_structures(frames, BONDS)
    assert [(f.message, f.frames) for f in found.problems] == [
        (
            "Constraints of ASE (FixAtoms, FixedPlane): atoms.get_forces() gives zeros for fixed atoms, and "
            "a fit would learn these. Use y = [a.get_forces(apply_constraint=False) for a in frames].",
            [1, 3],
        )
    ]
    assert found.forces.rms == inspect_structures(good_frames(4), BONDS).forces.rms


def test_constraints_without_forces_do_no_harm():
    frame = salt()
    frame.set_constraint(FixAtoms([0]))
    assert problems([frame]) == []


@pytest.mark.parametrize(
    ("atoms", "remedy"),
    [
        (bulk("Mo"), "name the pair, as in Mo-Mo=2.95 (between the first shells)."),
        (bulk("Cu"), "name the pair, as in Cu-Cu=3.1 (between the first shells)."),
        (molecule("H2"), "name the pair H-H and a cutoff; no gap between its shells suggests one."),
        (Atoms("H"), "name the pair H-H and a cutoff; none of its atoms are within 5.0 Angstrom."),
    ],
    ids=["Mo", "Cu", "H2", "H"],
)
def test_no_bonds_in_an_element(atoms, remedy):
    found = inspect_structures([atoms], 3.1)
    formula = atoms.get_chemical_formula()
    assert [finding.message for finding in found.problems] == [
        f"No bonds in {formula} with bonds=3.1: a single number bonds different species only; {remedy}"
    ]
    assert found.lengths == []


def test_the_cutoff_named_for_an_element_bonds_its_first_shell():
    found = inspect_structures([bulk("Mo")], {"Mo-Mo": 2.95})
    assert found.problems == []
    assert found.topologies[0].coordination == {"Mo": {"8 Mo": 1}}


def test_no_bonds_in_elements_and_in_compounds():
    far = Atoms("HF", positions=[[0, 0, 0], [0, 0, 4.0]])
    (message,) = (message for message, _ in problems([bulk("Cu"), bulk("Mo"), far], 3.1)[1:])
    assert message == (
        "No bonds in Cu, Mo, FH with bonds=3.1: a single number bonds different species only; name the pair, "
        "as in Cu-Cu=3.1,Mo-Mo=2.95 (between the first shells). For the others, raise the cutoff."
    )


def test_no_bonds_in_a_compound():
    assert problems([salt()], 2.0) == [("No bonds in Na4Cl4 with bonds=2.0; raise the cutoff.", [])]


def test_isolated_atoms():
    frame = molecule("H2O")
    frame += Atoms("He", positions=[[0, 0, 6.0]])
    assert (
        "The mean structure of H2HeO has atoms without bonds (He); raise the cutoff.",
        [],
    ) in problems([frame], "natural")


def test_atoms_that_lose_all_bonds_in_some_frame():
    frames = [molecule("H2") for _ in range(10)]
    frames[9].positions[1, 2] -= 0.4
    found = inspect_structures(frames, {"H-H": 1.0})
    assert ("Atoms that have lost all their bonds.", [9]) in [(f.message, f.frames) for f in found.findings]


def test_nothing_to_inspect():
    with pytest.raises(ValueError, match="at least one") as error:
        inspect_structures([])
    assert str(error.value) == "structures must hold at least one structure, got an empty list."
