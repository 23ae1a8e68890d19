"""What `inspect_structures` says about good and about spoiled data."""

import io
import json
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixedPlane
from numpy.testing import assert_allclose
from rich.console import Console

from tinynet_sklearn import CycleMomentFeaturizer, build_bond_graph, load_batio3, load_moo3, suggest_bonds
from tinynet_sklearn.distances import HISTOGRAM_BIN, HISTOGRAM_RANGE, suggested_cutoff
from tinynet_sklearn.graph import PairBonds
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
    print_inspection(console, "data", inspect_structures(load_batio3().structures[:5], 3.1))
    lines = console.file.getvalue().splitlines()
    assert lines[lines.index("Suggested bonds") + 1].strip() == "--bonds Ba-O=3.8,Ti-O=2.7"


@pytest.mark.parametrize(
    ("structures", "used"),
    [([bulk("Cu", cubic=True)], {"Cu-Cu": 3.1}), ([Atoms("H")], 3.1)],
    ids=["as suggested", "nothing to suggest"],
)
def test_bonds_that_are_not_given(structures, used):
    found = inspect_structures(structures, None)
    assert found == inspect_structures(structures, used)
    assert found.bonds == used


def test_json_holds_everything():
    found = inspect_structures(good_frames(), BONDS)
    assert found.as_dict()["bonds"] == BONDS
    for bonds in ({("Na", "Cl"): 3}, {"Na-Cl": np.float32(3.0)}):
        assert json.loads(json.dumps(inspect_structures(good_frames(), bonds).as_dict()))["bonds"] == {
            "Na-Cl": 3.0
        }
    rule = PairBonds({"Na-Cl": 3.0})
    assert inspect_structures(good_frames(), rule).as_dict()["bonds"] == repr(rule)
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


def test_energies_and_stresses_that_are_not_finite():
    frames = good_frames()
    frames[1].calc.results["energy"] = np.nan
    frames[2].calc.results["stress"] = np.full(6, np.inf)
    assert problems(frames) == [
        ("Energies with NaN or infinite values.", [1]),
        ("Stresses with NaN or infinite values.", [2]),
    ]


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


ANY = (
    "CycleMomentFeaturizer(topology='each') and SmoothMomentFeaturizer() take such frames as they are; "
    "CycleMomentFeaturizer() takes one set of atoms in one order, with the same bonds in all frames."
)


def notes(frames, bonds=BONDS):
    return [(f.message, f.frames) for f in inspect_structures(frames, bonds).findings if not f.problem]


def test_mixed_sizes():
    frames = [*good_frames(3), with_forces(molecule("H2O"), balanced(molecule("H2O")))]
    found = inspect_structures(frames, "natural")
    assert [(t.formula, t.frames) for t in found.topologies] == [("Na4Cl4", [0, 1, 2]), ("H2O", [3])]
    assert found.problems == []
    assert [(finding.message, finding.frames) for finding in found.findings] == [
        (f"Frames of 2 different sets of atoms (Na4Cl4, H2O). {ANY}", [])
    ]


def test_another_order_of_the_atoms():
    frame = good_frames(2)[1][[1, 0, 2, 3, 4, 5, 6, 7]]
    with_forces(frame, balanced(frame))
    frames = [*good_frames(2)[:1], frame]
    assert problems(frames) == []
    assert notes(frames) == [
        (
            f"Frames of 2 different sets of atoms (Na4Cl4). {ANY} Some differ only in the order of the "
            "atoms, or in pbc: make these alike in one crystal.",
            [],
        )
    ]


def liquid(seed):
    """Places of a crystal that is not cold, atoms in any of them."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.15, seed=seed)
    atoms.positions = np.random.default_rng(seed).permutation(atoms.positions)
    return with_forces(atoms, balanced(atoms, seed))


def test_a_liquid():
    frames = [liquid(seed) for seed in range(3)]
    found = inspect_structures(frames, {"Cu-Cu": 3.0})
    assert found.lengths == []
    (topology,) = found.topologies
    assert not topology.shared
    graphs = [build_bond_graph(frame, {"Cu-Cu": 3.0}) for frame in frames]
    counts = np.bincount(np.concatenate([graph.coordination for graph in graphs]))
    assert topology.coordination == {"Cu": {f"{k} Cu": n for k, n in enumerate(counts) if n}}
    assert list(topology.coordination["Cu"]) == [f"{k} Cu" for k, n in enumerate(counts) if n]
    (note,) = found.findings
    assert not note.problem
    assert re.fullmatch(
        r"No bonds in common: for example, atoms \d+ and \d+ are \d\.\d\d Angstrom apart in frame \d and "
        rf"\d\.\d\d in the mean structure\. {re.escape(ANY)}",
        note.message,
    )


def test_a_crystal_that_melts_in_a_few_frames_is_still_one():
    frames = [salt(k).repeat(2) for k in range(9)]
    frames[4].rattle(0.8, seed=4)
    assert any("Not one crystal" in message for message, _ in problems(frames))
    assert inspect_structures(frames, BONDS).topologies[0].shared


def test_atoms_that_change_partners():
    """Pairs along x, then along y: every atom has a bond in every frame, and none in the mean."""
    frames = []
    for axis in (0, 1):
        positions = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [4, 4, 0]], dtype=float)
        positions[:, axis] = 1.0 + 0.5 * positions[:, axis]
        atoms = Atoms("Ne4", positions=positions, cell=[12] * 3, pbc=True)
        frames.append(with_forces(atoms, balanced(atoms)))
    found = inspect_structures(frames, {"Ne-Ne": 2.5})
    assert found.topologies[0].coordination == {"Ne": {"1 Ne": 8}}
    assert [(f.message, f.problem) for f in found.findings] == [(f"No bonds in common. {ANY}", False)]


def test_atoms_without_bonds_among_different_structures():
    """A note where their species have bonds elsewhere, a problem where they never have."""
    water = [molecule("H2O") + Atoms("H", positions=[[0, 0, 5.0]]), molecule("H2O"), Atoms("O")]
    found = [(f.message, f.frames, f.problem) for f in inspect_structures(water, "natural").findings]
    assert found[:-1] == [
        ("No bonds in O with bonds='natural': columns of these atoms are zero.", [], False),
        (f"Frames of 3 different sets of atoms (H3O, H2O, O). {ANY}", [], False),
        ("Atoms without bonds: their columns are zero.", [0], False),
    ]
    helium = [molecule("H2O") + Atoms("He", positions=[[0, 0, 9.0]]), molecule("CH4")]
    assert problems(helium, "natural") == [("No atom of He has bonds in any frame; raise the cutoff.", [])]


def test_the_suggested_bonds_are_named_where_they_help():
    """Copper below the surface: a single cutoff bonds it to the adsorbate only."""
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    cutoffs = inspect_structures([slab]).suggested_bonds
    named = ",".join(f"{pair}={cutoff:g}" for pair, cutoff in cutoffs.items())
    remedy = f"pass the suggested ones, bonds={cutoffs}, or --bonds {named}."
    assert problems([slab], 3.1) == [
        (f"The mean structure of Cu12O has atoms without bonds (Cu); {remedy}", [])
    ]
    message = f"Atoms without bonds: their columns are zero; {remedy}"
    assert (message, [0, 1]) in notes([slab, slab * (2, 1, 1)], 3.1)
    assert problems([slab, slab * (2, 1, 1)], cutoffs) == []


SPLIT = (
    "Split the file, or bring the atoms into one order; where bonds are meant to break, take "
    "CycleMomentFeaturizer(topology='each') or SmoothMomentFeaturizer()."
)


def test_another_crystal_of_the_same_atoms():
    frames = good_frames(20)
    chlorine = frames[4].numbers == 17
    frames[4].positions[chlorine] += 5.64 * np.array([-0.25, 0.25, 0.25])  # rock salt to zinc blende
    ((message, where),) = problems(frames, 3.1)
    assert where == [4]
    assert re.fullmatch(
        r"Not one crystal: for example, atoms \d and \d are 4\.\d\d Angstrom apart in frame 4 and 2\.\d\d in "
        rf"the mean structure\. {re.escape(SPLIT)}",
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
        rf"\d\.\d\d in the mean structure\. {re.escape(SPLIT)}",
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
    ("atoms", "bonds", "named"),
    [
        (bulk("Mo"), {"Mo-Mo": 3.8}, "Mo-Mo=3.8"),
        (bulk("Cu"), {"Cu-Cu": 3.1}, "Cu-Cu=3.1"),
        (molecule("H2"), {"H-H": 1.0}, "H-H=1"),
    ],
    ids=["Mo", "Cu", "H2"],
)
def test_no_bonds_in_an_element(atoms, bonds, named):
    found = inspect_structures([atoms], 3.1)
    assert [finding.message for finding in found.problems] == [
        f"No bonds in {atoms.symbols} with bonds=3.1: a single number bonds different species only; pass the "
        f"suggested ones, bonds={bonds}, or --bonds {named}."
    ]
    assert found.lengths == []
    assert inspect_structures([atoms], bonds).problems == []


@pytest.mark.parametrize("atoms", [Atoms("H"), Atoms("HF", positions=[[0, 0, 0], [0, 0, 9.0]])])
def test_no_bonds_between_atoms_that_are_far_apart(atoms):
    assert problems([atoms], 3.1) == [
        (
            f"No bonds in {atoms.symbols.formula.format('metal')} with bonds=3.1; raise the cutoff or, if "
            "the atoms are far apart, leave them out.",
            [],
        )
    ]


def test_the_cutoff_named_for_an_element_bonds_its_first_shell():
    found = inspect_structures([bulk("Mo")], {"Mo-Mo": 2.95})
    assert found.problems == []
    assert found.topologies[0].coordination == {"Mo": {"8 Mo": 1}}


def test_no_bonds_in_elements_and_in_compounds():
    far = Atoms("HF", positions=[[0, 0, 0], [0, 0, 4.0]])
    (message,) = (message for message, _ in problems([bulk("Cu"), bulk("Mo"), far], 3.1))
    cutoffs = inspect_structures([bulk("Cu"), bulk("Mo"), far]).suggested_bonds
    named = ",".join(f"{pair}={cutoff:g}" for pair, cutoff in cutoffs.items())
    assert message == (
        "No bonds in Cu, Mo, FH with bonds=3.1: a single number bonds different species only; pass the "
        f"suggested ones, bonds={cutoffs}, or --bonds {named}."
    )


def test_like_atoms_that_a_single_number_does_not_bond():
    atoms = molecule("CH3CH2OH")
    with_forces(atoms, balanced(atoms))
    cutoffs = suggest_bonds([atoms])
    named = ",".join(f"{pair}={cutoff:g}" for pair, cutoff in cutoffs.items())
    assert notes([atoms], 3.1) == [
        (
            "bonds=3.1 bonds different species only, no C-C; pass the suggested ones, "
            f"bonds={cutoffs}, or --bonds {named}.",
            [],
        )
    ]
    assert inspect_structures([atoms], cutoffs).findings == []


def test_no_bonds_in_a_compound():
    assert problems([salt()], 2.0) == [
        (
            "No bonds in Na4Cl4 with bonds=2.0; pass the suggested ones, bonds={'Na-Cl': 3.8}, or --bonds "
            "Na-Cl=3.8.",
            [],
        )
    ]


def test_atoms_in_one_place_spoil_no_suggestions():
    water = molecule("H2O")
    water.positions[2] = water.positions[1]
    found = inspect_structures([molecule("H2O"), water], "natural")
    assert found.suggested_bonds == suggest_bonds([molecule("H2O")])
    assert "Atoms 1 (H) and 2 (H) are 0.00 Angstrom apart." in [f.message for f in found.problems]


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
