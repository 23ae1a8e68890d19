"""`suggest_bonds`: which pairs, up to where, and what it says when it cannot tell."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.spacegroup import crystal
from crystals import diamond, perovskite, rattled, rocksalt, rutile, slab, trajectory, wurtzite
from pymatgen.core import Structure

from tinynet_sklearn import CycleMomentFeaturizer, build_bond_graph, load_batio3, load_moo3
from tinynet_sklearn.bond_suggestion import bonds_text, suggest_bonds
from tinynet_sklearn.learning_settings import parse_bonds


def coordination(atoms, bonds):
    return {s: dict(counts) for s, counts in build_bond_graph(atoms, bonds).coordination_by_species().items()}


def alloy(symbols, structure, a, seed=0, fraction=0.5):
    atoms = bulk(symbols[0], structure, a=a, cubic=True) * (3, 3, 3)
    chosen = np.random.default_rng(seed).random(len(atoms)) < fraction
    atoms.set_chemical_symbols(np.where(chosen, symbols[1], symbols[0]).tolist())
    return rattled(atoms, seed, 0.08)


def aragonite():
    return crystal(
        ["Ca", "C", "O", "O"],
        [(0.2405, 0.25, 0.4150), (0.0852, 0.25, 0.7621), (0.0955, 0.25, 0.9225), (0.0873, 0.4735, 0.6806)],
        spacegroup=62,
        cellpar=[5.7404, 4.9614, 7.9671, 90, 90, 90],
    )


def lithium_iron_phosphate():
    oxygens = [(0.0968, 0.25, 0.7428), (0.4571, 0.25, 0.2060), (0.1656, 0.0465, 0.2848)]
    return crystal(
        ["Li", "Fe", "P", "O", "O", "O"],
        [(0, 0, 0), (0.2822, 0.25, 0.9747), (0.0948, 0.25, 0.4182), *oxygens],
        spacegroup=62,
        cellpar=[10.3290, 6.0065, 4.6908, 90, 90, 90],
    )


def pyrite():
    return crystal(
        ["Fe", "S"], [(0, 0, 0), (0.385, 0.385, 0.385)], spacegroup=205, cellpar=[5.418] * 3 + [90] * 3
    )


def iron_arsenide():
    """LaFeAsO: two anions between two metals."""
    return crystal(
        ["La", "Fe", "As", "O"],
        [(0.25, 0.25, 0.1415), (0.75, 0.25, 0.5), (0.25, 0.25, 0.6512), (0.75, 0.25, 0)],
        spacegroup=129,
        setting=2,
        cellpar=[4.035, 4.035, 8.741, 90, 90, 90],
    )


def orthorhombic_perovskite():
    """CaTiO3: Ca-O from 2.36 to 3.24."""
    return crystal(
        ["Ca", "Ti", "O", "O"],
        [(0.0359, 0.25, 0.9935), (0, 0, 0.5), (0.4839, 0.25, 0.0711), (0.2888, 0.0373, 0.7103)],
        spacegroup=62,
        cellpar=[5.4405, 7.6436, 5.3812, 90, 90, 90],
    )


def tetragonal_perovskite():
    """PbTiO3: Ti-O 1.77, 1.98 and 2.38."""
    places = [[0, 0, 0], [0.5, 0.5, 0.5377], [0.5, 0.5, 0.1118], [0.5, 0, 0.6174], [0, 0.5, 0.6174]]
    return Atoms("PbTiO3", scaled_positions=places, cell=[3.904, 3.904, 4.152], pbc=True)


def stishovite():
    return crystal(
        ["Si", "O"], [(0, 0, 0), (0.306, 0.306, 0)], spacegroup=136, cellpar=[4.18] * 2 + [2.667] + [90] * 3
    )


# ---- Which pairs are bonded --------------------------------------------------------------------------------

CHEMISTRY = {
    "oxide": (perovskite, {"Ba": {"12 O": 1}, "O": {"2 Ti + 4 Ba": 3}, "Ti": {"6 O": 1}}),
    "rutile": (rutile, {"O": {"3 Ti": 4}, "Ti": {"6 O": 2}}),
    "cations that touch": (stishovite, {"O": {"3 Si": 4}, "Si": {"6 O": 2}}),
    "tilted octahedra": (
        orthorhombic_perovskite,
        {"Ca": {"12 O": 4}, "O": {"4 Ca + 2 Ti": 12}, "Ti": {"6 O": 4}},
    ),
    "off-centre": (tetragonal_perovskite, {"O": {"2 Ti + 4 Pb": 3}, "Pb": {"12 O": 1}, "Ti": {"6 O": 1}}),
    "halide": (rocksalt, {"Cl": {"6 Na": 1}, "Na": {"6 Cl": 1}}),
    "semiconductor": (lambda: bulk("GaAs", "zincblende", a=5.65), {"As": {"4 Ga": 1}, "Ga": {"4 As": 1}}),
    "carbide": (lambda: bulk("SiC", "zincblende", a=4.36), {"C": {"4 Si": 1}, "Si": {"4 C": 1}}),
    "wurtzite": (wurtzite, {"O": {"4 Zn": 2}, "Zn": {"4 O": 2}}),
    "hydride": (lambda: bulk("PdH", "rocksalt", a=4.09), {"H": {"6 Pd": 1}, "Pd": {"6 H": 1}}),
    "Zintl phase": (lambda: bulk("SiMg2", "fluorite", a=6.35), {"Mg": {"4 Si": 2}, "Si": {"8 Mg": 1}}),
    "carbonate": (aragonite, {"C": {"3 O": 4}, "Ca": {"9 O": 4}, "O": {"1 C + 3 Ca": 12}}),
    "phosphate": (
        lithium_iron_phosphate,
        {
            "Fe": {"6 O": 4},
            "Li": {"6 O": 4},
            "O": {"2 Li + 1 P + 1 Fe": 8, "1 Li + 1 P + 2 Fe": 8},
            "P": {"4 O": 4},
        },
    ),
    "disulfide": (pyrite, {"Fe": {"6 S": 4}, "S": {"1 S + 3 Fe": 8}}),
    "two anions": (
        iron_arsenide,
        {
            "As": {"4 Fe + 4 La": 2},
            "Fe": {"4 Fe + 4 As": 2},
            "La": {"4 O + 4 As": 2},
            "O": {"4 La": 2},
        },
    ),
    "fcc": (lambda: bulk("Cu"), {"Cu": {"12 Cu": 1}}),
    "fcc, wide": (lambda: bulk("Al"), {"Al": {"12 Al": 1}}),
    "hcp": (lambda: bulk("Ti"), {"Ti": {"12 Ti": 2}}),
    "bcc": (lambda: bulk("Mo"), {"Mo": {"14 Mo": 1}}),
    "bcc, large": (lambda: bulk("Cs"), {"Cs": {"14 Cs": 1}}),
    "diamond": (diamond, {"C": {"4 C": 2}}),
    "intermetallic": (
        lambda: bulk("NiAl", "cesiumchloride", a=2.88),
        {"Al": {"6 Al + 8 Ni": 1}, "Ni": {"8 Al + 6 Ni": 1}},
    ),
    "noble gas": (lambda: bulk("Ar"), {"Ar": {"12 Ar": 1}}),
    "ethanol": (
        lambda: molecule("CH3CH2OH"),
        {
            "C": {"2 H + 1 C + 1 O": 1, "3 H + 1 C": 1},
            "H": {"1 C": 5, "1 O": 1},
            "O": {"1 H + 1 C": 1},
        },
    ),
    "ether": (lambda: molecule("CH3OCH3"), {"C": {"3 H + 1 O": 2}, "H": {"1 C": 6}, "O": {"2 C": 1}}),
    "nitrile": (
        lambda: molecule("CH3CN"),
        {"C": {"1 C + 1 N": 1, "3 H + 1 C": 1}, "H": {"1 C": 3}, "N": {"1 C": 1}},
    ),
    "peroxide": (lambda: molecule("H2O2"), {"H": {"1 O": 2}, "O": {"1 H + 1 O": 2}}),
    "disilane": (lambda: molecule("Si2H6"), {"H": {"1 Si": 6}, "Si": {"3 H + 1 Si": 2}}),
    "carbon dioxide": (lambda: molecule("CO2"), {"C": {"2 O": 1}, "O": {"1 C": 2}}),
    "hydrogen": (lambda: molecule("H2"), {"H": {"1 H": 2}}),
}


@pytest.mark.parametrize("name", CHEMISTRY)
def test_ideal_structures_have_the_bonds_of_the_textbook(name):
    make, expected = CHEMISTRY[name]
    found = coordination(make(), suggest_bonds([make()]))
    assert found == expected


@pytest.mark.parametrize("name", CHEMISTRY)
def test_they_keep_them_when_they_shake(name):
    make, expected = CHEMISTRY[name]
    atoms = make() * (2, 2, 2) if make().pbc.any() else make()
    bonds = suggest_bonds(trajectory(atoms, 6, 0.04))
    assert coordination(make(), bonds) == expected


@pytest.mark.parametrize(
    ("symbols", "structure", "a", "neighbours"),
    [(("Cu", "Au"), "fcc", 3.85, 12), (("Mo", "W"), "bcc", 3.16, 14)],
)
@pytest.mark.parametrize("fraction", [0.5, 0.05])
def test_alloys_have_all_pairs(symbols, structure, a, neighbours, fraction):
    frames = [alloy(symbols, structure, a, seed, fraction) for seed in range(4)]
    bonds = suggest_bonds(frames)
    assert len(bonds) == 3
    counts = np.concatenate([build_bond_graph(atoms, bonds).coordination for atoms in frames])
    assert (counts == neighbours).mean() > 0.97


def test_a_metal_below_adsorbates_is_bonded_to_itself():
    atoms = fcc111("Pt", (3, 3, 3), vacuum=8.0)
    add_adsorbate(atoms, Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.15]]), 1.85, "ontop")
    bonds = suggest_bonds(trajectory(atoms, 3))
    assert list(bonds) == ["C-O", "Pt-C", "Pt-Pt"]
    assert 3.0 < bonds["Pt-Pt"] < 3.7


def test_a_metal_beside_its_oxide_is_judged_where_it_is_metal():
    oxide, metal = trajectory(rutile() * (2, 2, 2), 3), trajectory(bulk("Ti") * (2, 2, 2), 3)
    bonds = suggest_bonds([*oxide, *metal])
    assert list(bonds) == ["Ti-O", "Ti-Ti"]
    assert bonds["Ti-Ti"] == suggest_bonds(metal)["Ti-Ti"]
    assert bonds["Ti-O"] == suggest_bonds(oxide)["Ti-O"]


def test_several_molecules_and_phases_in_one_set():
    names = ["CH3CH2OH", "C6H6", "CH3CN", "CO2", "H2O", "NH3"]
    frames = [atoms for name in names for atoms in trajectory(molecule(name), 4, 0.03)]
    bonds = suggest_bonds(frames)
    assert list(bonds) == ["C-C", "C-H", "C-N", "C-O", "H-N", "H-O"]
    assert coordination(molecule("CH3CN"), bonds) == CHEMISTRY["nitrile"][1]
    oxides = suggest_bonds([*trajectory(rutile(), 3), *trajectory(perovskite(), 3), slab()])
    assert list(oxides) == ["Ba-O", "Ti-O"]
    assert coordination(rutile(), oxides) == CHEMISTRY["rutile"][1]


# ---- Up to where -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_batio3, load_moo3])
def test_bundled_data_have_the_bonds_of_their_authors(load):
    data = load()
    bonds = suggest_bonds(data.structures)
    assert list(bonds) == sorted(data.bonds)
    for atoms in data.structures[::10]:
        assert coordination(atoms, bonds) == coordination(atoms, data.bonds)


@pytest.mark.parametrize("amplitude", [0.1, 0.15])
def test_heat_keeps_twelve_neighbours_of_barium(amplitude):
    frames = trajectory(perovskite() * (2, 2, 2), 4, amplitude)
    bonds = suggest_bonds(frames)
    for atoms in frames:
        assert coordination(atoms, bonds)["Ba"] == {"12 O": 8}
        assert coordination(atoms, bonds)["Ti"] == {"6 O": 8}


def test_without_a_gap_it_is_the_minimum():
    """Copper shaken until shells overlap, as in a melt."""
    frames = trajectory(bulk("Cu", cubic=True) * (3, 3, 3), 6, 0.3)
    cutoff = suggest_bonds(frames)["Cu-Cu"]
    assert 3.2 < cutoff < 3.5
    counts = np.concatenate([build_bond_graph(a, {"Cu-Cu": cutoff}).coordination for a in frames])
    assert 12.0 < counts.mean() < 14.0


def test_cutoffs_are_rounded():
    for bonds in (suggest_bonds([perovskite()]), suggest_bonds(trajectory(rutile() * (2, 2, 2), 2, 0.1))):
        for cutoff in bonds.values():
            assert cutoff == round(cutoff, 2)


def test_order_of_atoms_and_structures_does_not_matter():
    frames = [*trajectory(perovskite() * (2, 1, 1), 3, 0.1), *trajectory(rutile(), 2, 0.1)]
    rng = np.random.default_rng(0)
    shuffled = [atoms[rng.permutation(len(atoms))] for atoms in frames[::-1]]
    assert suggest_bonds(shuffled) == suggest_bonds(frames)


def test_supercells_and_images_do_not_matter():
    frames = trajectory(perovskite(), 4, 0.08)
    larger = [atoms * (2, 1, 2) for atoms in frames]
    for k, atoms in enumerate(larger):
        cells = np.random.default_rng(k).integers(-2, 3, size=(len(atoms), 3))
        atoms.positions += cells @ atoms.cell.array
    assert suggest_bonds(larger) == suggest_bonds(frames)


def test_rotations_do_not_matter():
    frames = trajectory(molecule("CH3CH2OH"), 5)
    turned = [atoms.copy() for atoms in frames]
    for k, atoms in enumerate(turned):
        atoms.rotate(37.0 * k, (1, 2, 3))
    assert suggest_bonds(turned) == suggest_bonds(frames)


def test_pymatgen_structures():
    from pymatgen.io.ase import AseAtomsAdaptor

    assert suggest_bonds([AseAtomsAdaptor.get_structure(perovskite())]) == suggest_bonds([perovskite()])


def test_the_featurizer_takes_them():
    frames = trajectory(perovskite(), 3)
    features = CycleMomentFeaturizer(n=2, N=1, bonds=suggest_bonds(frames)).fit_transform(frames)
    assert len(features.values) == 15


# ---- What the user names -----------------------------------------------------------------------------------


def test_named_pairs_in_either_order():
    frames = trajectory(perovskite(), 3)
    bonds = suggest_bonds(frames, pairs=["O-Ti", "Ti-Ba"])
    assert list(bonds) == ["Ba-Ti", "Ti-O"]
    assert bonds["Ti-O"] == suggest_bonds(frames)["Ti-O"]
    assert coordination(perovskite(), {"Ba-Ti": bonds["Ba-Ti"]})["Ba"] == {"8 Ti": 1}


def test_all_pairs():
    assert list(suggest_bonds([perovskite()], pairs="all")) == [
        "Ba-Ba",
        "Ba-O",
        "Ba-Ti",
        "O-O",
        "Ti-O",
        "Ti-Ti",
    ]


def test_the_range_can_be_given():
    assert suggest_bonds([perovskite()], r_max=5.5) == suggest_bonds([perovskite()])


# ---- What it says when it cannot tell ----------------------------------------------------------------------


def message(*args, kind=ValueError, **kwargs):
    with pytest.raises(kind) as error:
        suggest_bonds(*args, **kwargs)
    return str(error.value)


def test_a_named_pair_without_minimum():
    assert message([rocksalt()], pairs=["Na-Cl", "Cl-Cl"], r_max=4.2) == (
        "pairs=['Na-Cl', 'Cl-Cl'] gives no cutoffs:\n"
        "  Cl-Cl: g(r) has no minimum between its first maximum at 4.00 and r_max=4.2 Angstrom; raise r_max, "
        "pass more structures, or write a cutoff of your own."
    )


def test_a_named_pair_without_distances():
    assert message([rutile()], pairs=["Ti-Ti"], r_max=2.5) == (
        "pairs=['Ti-Ti'] gives no cutoffs:\n"
        "  Ti-Ti: none of these atoms are within r_max=2.5 Angstrom of each other; raise it."
    )


def test_a_bonded_pair_without_minimum_is_left_out_with_a_warning():
    sentence = (
        "Pairs without a cutoff were left out. Ba-O: g(r) has no minimum between its first maximum at 2.83 "
        "and r_max=3 Angstrom; raise r_max, pass more structures, or write a cutoff of your own."
    )
    with pytest.warns(UserWarning, match="left out") as caught:
        assert suggest_bonds([perovskite()], r_max=3.0) == {"Ti-O": 2.7}
    assert [str(w.message) for w in caught] == [sentence]
    assert caught[0].filename == __file__


def test_no_pair_with_a_minimum():
    assert message([bulk("Cu")], r_max=2.7) == (
        "pairs='auto' gives no cutoffs:\n"
        "  Cu-Cu: g(r) has no minimum between its first maximum at 2.56 and r_max=2.7 Angstrom; raise r_max, "
        "pass more structures, or write a cutoff of your own."
    )


def test_single_atoms():
    assert message([Atoms("H"), Atoms("O")]) == (
        "structures must have atoms near each other, got only single ones. Leave out isolated atoms."
    )


@pytest.mark.parametrize(
    ("atoms", "r_max", "searched"),
    [
        (rutile(), 1.0, "1 Angstrom"),
        (bulk("Cu"), 2, "2 Angstrom"),
        (Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 9.0]]), None, "None, which took 6 Angstrom"),
    ],
)
def test_ranges_without_any_atoms(atoms, r_max, searched):
    assert message([atoms], r_max=r_max) == (
        f"r_max must reach the nearest neighbours, got {searched}, and no two atoms are that close. Raise it."
    )


def test_atoms_in_one_place():
    water = molecule("H2O")
    water.positions[2] = water.positions[1]
    assert message([molecule("H2O"), water]) == (
        "structures must have every atom in a place of its own:\n"
        "  structure 1: atoms 1 and 2 are 0 Angstrom apart; remove one of them"
    )


def test_single_atoms_beside_others_do_no_harm():
    assert suggest_bonds([Atoms("H"), Atoms("O"), molecule("H2O")]) == suggest_bonds([molecule("H2O")])


@pytest.mark.parametrize("pairs", ["some", "Ti-O", [], ["Ti"], ["Ti-O-Ti"], [("Ti", "O")], None])
def test_pairs_that_make_no_sense(pairs):
    assert message([rutile()], pairs=pairs) == (
        f"pairs must be 'auto', 'all' or a list of pairs such as ['Ti-O'], got {pairs!r}."
    )


def test_pairs_that_are_not_there():
    assert message([rutile()], pairs=["Zr-O"]) == (
        "pairs must be of species that share a structure, got 'Zr-O'; there are O-O, Ti-O, Ti-Ti."
    )
    assert (
        message([rutile()], pairs=["Q-O"]) == "'Q' is not a chemical symbol; use names such as 'Ba' or 'O'."
    )


@pytest.mark.parametrize("r_max", [0.5, -1, np.inf, np.nan, "6", True])
def test_ranges_that_make_no_sense(r_max):
    assert message([rutile()], r_max=r_max) == (
        f"r_max must be None or a distance of at least 1 Angstrom, got {r_max!r}; twice a bond is enough."
    )


def test_a_single_structure():
    assert message(rutile(), kind=TypeError) == (
        "structures must be a list of structures, got a single Atoms; pass [atoms]."
    )


def test_structures_are_not_changed():
    atoms = rattled(perovskite(), 0)
    before = atoms.copy()
    suggest_bonds([atoms])
    assert atoms == before


# ---- Data that are not part of the repository --------------------------------------------------------------

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the public data sets")
@pytest.mark.parametrize(
    ("element", "low", "high", "neighbours"), [("Si", 2.8, 3.4, 4), ("Mo", 3.6, 4.0, 14)]
)
def test_elements_as_crystals_surfaces_and_melts(element, low, high, neighbours):
    entries = json.loads((SHARED / "mlearn" / element / "test.json").read_text())
    frames = [Structure.from_dict(entry["structure"]) for entry in entries]
    bonds = suggest_bonds(frames)
    ((pair, cutoff),) = bonds.items()
    assert pair == f"{element}-{element}"
    assert low < cutoff < high
    counts = np.concatenate([build_bond_graph(frame, bonds).coordination for frame in frames])
    assert np.bincount(counts).argmax() == neighbours


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the public data sets")
@pytest.mark.parametrize("run", ["BT-300K", "BT-900K"])
def test_barium_titanate_in_molecular_dynamics(run):
    folder = SHARED / "batio3_aimd" / run
    names = np.array((folder / "type_map.raw").read_text().split())
    symbols = names[np.loadtxt(folder / "type.raw", dtype=int)]
    frames = [
        Atoms(symbols, positions=positions.reshape(-1, 3), cell=cell.reshape(3, 3), pbc=True)
        for part in sorted(folder.glob("set.*"))
        for positions, cell in zip(np.load(part / "coord.npy"), np.load(part / "box.npy"), strict=True)
    ][5::20]
    bonds = suggest_bonds(frames)
    assert list(bonds) == ["Ba-O", "Ti-O"]
    counts = [build_bond_graph(frame, bonds).coordination_by_species() for frame in frames]
    assert all(list(found["Ba"]) == ["12 O"] and list(found["Ti"]) == ["6 O"] for found in counts)


def test_cutoffs_are_written_as_the_command_line_reads_them():
    bonds = {"Ba-O": 3.6, "Ti-O": 2.75, "O-O": 3.0}
    assert bonds_text(bonds) == "Ba-O=3.6,Ti-O=2.75,O-O=3"
    assert parse_bonds(bonds_text(bonds)) == bonds
    assert bonds_text({}) == ""
