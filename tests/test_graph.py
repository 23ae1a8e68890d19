"""Bond rules and the bond graph, against a double loop over atoms and images."""

import re
import warnings
from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from crystals import (
    BONDED,
    benzene,
    chain,
    copper,
    cyclopropane,
    diamond,
    methanol,
    perovskite,
    polonium,
    rattled,
    rhenium_trioxide,
    rocksalt,
    rutile,
    skewed,
    slab,
    wire,
    wurtzite,
)
from numpy.testing import assert_allclose, assert_array_equal
from oracles import Bonds, any_within, brute_force_bonds, different_within, position, touching
from pymatgen.analysis.local_env import (
    CovalentBondNN,
    CrystalNN,
    CutOffDictNN,
    MinimumDistanceNN,
    NearNeighbors,
    VoronoiNN,
)

from tinynet_sklearn import (
    BondGraph,
    CutoffBonds,
    NaturalBonds,
    NearNeighborBonds,
    PairBonds,
    build_bond_graph,
)
from tinynet_sklearn.graph import MAX_PAIRS, _expected_neighbors, as_bond_rule, bond_graph
from tinynet_sklearn.structures import as_structures

LIKE = CutoffBonds(3.0, heteroatomic=False)


def bonds_of(graph: BondGraph) -> Bonds:
    """The graph in the words of the oracle: for every atom its neighbours as (atom, cell)."""
    return {
        i: [
            (int(graph.targets[b]), tuple(int(c) for c in graph.shifts[b]))
            for b in range(graph.offsets[i], graph.offsets[i + 1])
        ]
        for i in range(graph.n_atoms)
    }


def named(graph: BondGraph) -> tuple[list, ...]:
    """All arrays of a graph as lists, to compare graphs number for number."""
    return tuple(np.asarray(getattr(graph, name)).tolist() for name in graph.__dataclass_fields__)


# ---- Bonds by distance -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("atoms", "bonds", "bonded"),
    [
        pytest.param(perovskite(), 3.1, different_within(3.1), id="perovskite"),
        pytest.param(rocksalt(), 3.0, different_within(3.0), id="rock salt, images of one atom only"),
        pytest.param(copper(), LIKE, any_within(3.0), id="fcc, own images"),
        pytest.param(copper(), CutoffBonds(3.7, heteroatomic=False), any_within(3.7), id="fcc, two shells"),
        pytest.param(polonium(), CutoffBonds(3.5, heteroatomic=False), any_within(3.5), id="sc, own images"),
        pytest.param(wurtzite(), 2.2, different_within(2.2), id="wurtzite"),
        pytest.param(rutile(), CutoffBonds(3.0, heteroatomic=False), any_within(3.0), id="rutile, O-O, too"),
        pytest.param(skewed(perovskite()), 3.1, different_within(3.1), id="skewed perovskite"),
        pytest.param(skewed(copper()), LIKE, any_within(3.0), id="skewed fcc"),
        pytest.param(slab(), 3.1, different_within(3.1), id="slab"),
        pytest.param(wire(), 1.7, different_within(1.7), id="wire"),
        pytest.param(chain(), 1.7, different_within(1.7), id="straight chain"),
        pytest.param(methanol(), "natural", touching(1.15), id="methanol, natural cutoffs"),
        pytest.param(benzene(), NaturalBonds(1.3), touching(1.3), id="benzene, wider natural cutoffs"),
        pytest.param(diamond(), "natural", touching(1.15), id="diamond, natural cutoffs"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shaken", [False, True], ids=["ideal", "rattled"])
def test_graph_holds_the_bonds_of_the_double_loop(atoms, bonds, bonded, shaken):
    if shaken:
        atoms = rattled(atoms, seed=1)
    assert bonds_of(build_bond_graph(atoms, bonds)) == brute_force_bonds(atoms, bonded, reach=6)


@pytest.mark.parametrize(
    "pbc", [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)], ids=str
)
def test_every_combination_of_periodic_directions(pbc):
    atoms = rattled(rhenium_trioxide(), seed=2)
    atoms.pbc = pbc
    # Four atoms that miss neighbours at their faces: isolated ones are a matter of the featurizer.
    expected = brute_force_bonds(atoms, different_within(3.1))
    assert bonds_of(build_bond_graph(atoms, 3.1)) == expected
    assert len(expected[0]) == 3 + sum(pbc)


def test_bonds_start_below_the_cutoff_not_at_it():
    pair = Atoms("BaO", positions=[[0, 0, 0], [0, 0, 2.5]])
    assert build_bond_graph(pair, 2.5).n_bonds == 0
    assert build_bond_graph(pair, np.nextafter(2.5, 3)).n_bonds == 1
    assert build_bond_graph(pair, {"Ba-O": 2.5}).n_bonds == 0
    assert build_bond_graph(pair, {"Ba-O": np.nextafter(2.5, 3)}).n_bonds == 1


def test_pairs_have_cutoffs_of_their_own_and_only_those_named_are_bonded():
    def bonded(a, b, d):
        return ({a, b} == {56, 8} and d < 3.0) or ({a, b} == {22, 56} and d < 3.6)

    atoms = rattled(perovskite(), seed=3)
    expected = brute_force_bonds(atoms, bonded)
    assert bonds_of(build_bond_graph(atoms, {"Ba-O": 3.0, "Ti-Ba": 3.6})) == expected
    assert bonds_of(build_bond_graph(atoms, {("O", "Ba"): 3.0, ("Ba", "Ti"): 3.6})) == expected


def test_pairs_of_like_atoms_can_be_named():
    graph = build_bond_graph(diamond(), {"C-C": 1.7})
    assert graph.coordination_by_species() == {"C": Counter({"4 C": 2})}


def test_natural_bonds_can_leave_out_like_atoms():
    graph = build_bond_graph(benzene(), NaturalBonds(heteroatomic=True))
    assert graph.coordination_by_species() == {"C": Counter({"1 H": 6}), "H": Counter({"1 C": 6})}


def test_structures_without_any_bond_give_an_empty_graph():
    graph = build_bond_graph(perovskite(), 1.0)
    assert graph.n_bonds == 0
    assert_array_equal(graph.coordination, np.zeros(5))
    assert graph.bond_shifts.shape == (0, 3)


# ---- Where atoms stand in the cell does not matter ---------------------------------------------------------


@pytest.mark.parametrize("name", BONDED)
def test_translation_leaves_the_graph_alone(name):
    make, bonds = BONDED[name]
    atoms = rattled(make(), seed=4)
    moved = atoms.copy()
    moved.positions += [17.3, -5.1, 0.77]
    assert named(build_bond_graph(moved, bonds)) == named(build_bond_graph(atoms, bonds))


@pytest.mark.parametrize("name", [name for name in BONDED if BONDED[name][0]().pbc.any()])
def test_unwrapped_atoms_keep_their_bonds_with_other_cell_numbers(name):
    make, bonds = BONDED[name]
    atoms = rattled(make(), seed=5)
    strayed = atoms.copy()
    images = np.random.default_rng(5).integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc
    strayed.positions += images @ atoms.cell.array
    graph, far = build_bond_graph(atoms, bonds), build_bond_graph(strayed, bonds)
    assert bonds_of(far) == {
        i: sorted((j, tuple(np.add(cell, images[i] - images[j]).tolist())) for j, cell in around)
        for i, around in bonds_of(graph).items()
    }


@pytest.mark.parametrize("name", ["perovskite", "fcc", "wurtzite", "rutile"])
def test_equivalent_cells_have_the_same_bonds(name):
    make, bonds = BONDED[name]
    atoms = rattled(make(), seed=6)
    graph, oblique = build_bond_graph(atoms, bonds), build_bond_graph(skewed(atoms), bonds)
    ends = [
        sorted(tuple(np.round(position(cell, end), 8)) for around in bonds_of(g).values() for end in around)
        for g, cell in ((graph, atoms), (oblique, skewed(atoms)))
    ]
    assert_allclose(ends[0], ends[1], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "matrix", [np.diag([2, 1, 3]), [[1, 1, 0], [-1, 1, 0], [0, 1, 2]]], ids=["2x1x3", "sheared"]
)
def test_a_supercell_has_the_bonds_of_its_cells(matrix):
    atoms = rattled(perovskite(), seed=7)
    supercell = make_supercell(atoms, matrix)
    graph = build_bond_graph(atoms, 3.1)
    large = build_bond_graph(supercell, 3.1)
    assert_array_equal(large.coordination, np.tile(graph.coordination, len(supercell) // len(atoms)))
    lengths = np.linalg.norm(graph.bond_vectors(atoms.positions, atoms.cell.array), axis=1)
    repeated = np.linalg.norm(large.bond_vectors(supercell.positions, supercell.cell.array), axis=1)
    assert_allclose(np.sort(repeated), np.sort(np.tile(lengths, len(supercell) // len(atoms))), rtol=1e-12)


# ---- The arrays --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BONDED)
def test_both_directions_of_a_bond_share_its_number_and_its_length(name):
    make, bonds = BONDED[name]
    atoms = rattled(make(), seed=8)
    (structure,) = as_structures([atoms])
    graph = build_bond_graph(atoms, bonds)
    starts = np.repeat(np.arange(graph.n_atoms), graph.coordination)
    assert_array_equal(np.bincount(graph.bond_ids, minlength=graph.n_bonds), np.full(graph.n_bonds, 2))
    vectors = structure.positions[graph.targets] + graph.shifts @ structure.cell - structure.positions[starts]
    of_bond = graph.bond_vectors(structure.positions, structure.cell)[graph.bond_ids]
    along = (graph.first[graph.bond_ids] == starts) & (graph.last[graph.bond_ids] == graph.targets)
    along &= (graph.bond_shifts[graph.bond_ids] == graph.shifts).all(axis=1)
    assert_array_equal(np.bincount(graph.bond_ids, weights=along), np.ones(graph.n_bonds))
    assert_allclose(np.where(along[:, None], vectors, -vectors), of_bond, rtol=0, atol=1e-12)


def test_a_rule_may_name_bonds_once_twice_or_in_any_order():
    class Listed:
        def __init__(self, rows):
            self.rows = np.array(rows)

        def directed_bonds(self, structure):
            return self.rows[:, 0], self.rows[:, 1], self.rows[:, 2:]

    (structure,) = as_structures([rocksalt()])
    once = [[0, 1, 0, 0, 0], [0, 1, -1, 0, 0], [0, 0, 1, 0, 0]]
    again = [[1, 0, 1, 0, 0], [0, 0, -1, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, -1, 0, 0]]
    graph = bond_graph(structure, Listed(once))
    assert named(graph) == named(bond_graph(structure, Listed(again)))
    assert bonds_of(graph) == {
        0: [(0, (-1, 0, 0)), (0, (1, 0, 0)), (1, (-1, 0, 0)), (1, (0, 0, 0))],
        1: [(0, (0, 0, 0)), (0, (1, 0, 0))],
    }
    assert graph.n_bonds == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("perovskite", {"Ba": {"12 O": 1}, "O": {"2 Ti + 4 Ba": 3}, "Ti": {"6 O": 1}}),
        ("MoO3", {"Mo": {"6 O": 1}, "O": {"2 Mo": 3}}),
        ("fcc", {"Cu": {"12 Cu": 1}}),
        ("methanol", {"C": {"3 H + 1 O": 1}, "H": {"1 C": 3, "1 O": 1}, "O": {"1 H + 1 C": 1}}),
    ],
)
def test_coordination_by_species(name, expected):
    make, bonds = BONDED[name]
    found = build_bond_graph(make(), bonds).coordination_by_species()
    assert found == {symbol: Counter(around) for symbol, around in expected.items()}
    assert list(found) == sorted(found)


def test_an_atom_without_bonds_is_listed_as_none():
    pair = Atoms("BaOHe", positions=[[0, 0, 0], [0, 0, 2.5], [0, 0, 9]])
    assert build_bond_graph(pair, 3.1).coordination_by_species()["He"] == Counter({"none": 1})


# ---- pymatgen strategies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shifted", [False, True], ids=["wrapped", "unwrapped"])
@pytest.mark.parametrize("name", ["perovskite", "skewed perovskite", "slab"])
def test_a_strategy_with_the_same_cutoffs_gives_the_same_graph(name, shifted):
    make = {"perovskite": perovskite, "skewed perovskite": lambda: skewed(perovskite()), "slab": slab}[name]
    atoms = rattled(make(), seed=9)
    if shifted:
        atoms.positions += [[7.9, -4.1, 0.3]] + np.random.default_rng(9).integers(
            -2, 3, (len(atoms), 3)
        ) * atoms.pbc @ atoms.cell.array
    strategy = CutOffDictNN({("Ba", "O"): 3.1, ("Ti", "O"): 3.1})
    assert named(build_bond_graph(atoms, strategy)) == named(build_bond_graph(atoms, 3.1))


def test_a_strategy_that_bonds_an_atom_to_its_own_images():
    strategy = CutOffDictNN({("Cu", "Cu"): 3.0})
    assert named(build_bond_graph(copper(), strategy)) == named(build_bond_graph(copper(), LIKE))


def test_a_voronoi_strategy_survives_atoms_outside_of_the_cell():
    atoms = polonium()
    atoms.positions += [-11.0, 8.0, 30.0]
    graph = build_bond_graph(atoms, NearNeighborBonds(VoronoiNN(tol=0.3)))
    assert named(graph) == named(build_bond_graph(atoms, CutoffBonds(3.5, heteroatomic=False)))


class OneSided(NearNeighbors):
    """Lists the Ti neighbours of O atoms, but nothing around Ti: as far from symmetric as can be."""

    structures_allowed = True

    def get_nn_info(self, structure, n):
        if structure[n].specie.symbol != "O":
            return []
        near = structure.get_neighbors(structure[n], 3.1)
        return [
            {"site": site, "image": site.image, "weight": 1, "site_index": site.index}
            for site in near
            if site.specie.symbol == "Ti"
        ]


def test_one_sided_neighbour_lists_are_symmetrised():
    assert named(build_bond_graph(perovskite(), OneSided())) == named(
        build_bond_graph(perovskite(), {"Ti-O": 3.1})
    )


def test_crystal_nn_is_symmetrised_and_can_leave_out_like_atoms():
    atoms = rattled(perovskite(), seed=10)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No oxidation states specified on sites")
        graph = build_bond_graph(atoms, CrystalNN(distance_cutoffs=None, x_diff_weight=0))
        hetero = build_bond_graph(
            atoms, NearNeighborBonds(CrystalNN(distance_cutoffs=None, x_diff_weight=0), heteroatomic=True)
        )
    around = bonds_of(graph)
    assert all((i, tuple(-np.array(cell))) in around[j] for i in around for j, cell in around[i])
    assert set(bonds_of(hetero)[1]) == {end for end in around[1] if atoms.numbers[end[0]] != atoms.numbers[1]}
    assert hetero.coordination[1] == 6  # Ti


@pytest.mark.parametrize(
    "strategy", [CovalentBondNN(), MinimumDistanceNN(tol=0.2)], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("make", [benzene, cyclopropane])
def test_molecule_strategies(make, strategy):
    molecule = make()
    if isinstance(strategy, MinimumDistanceNN):
        molecule = molecule[molecule.numbers == 6]  # nearest neighbours alone: the ring of carbon
    assert named(build_bond_graph(molecule, strategy)) == named(build_bond_graph(molecule, "natural"))


# ---- Short forms and errors --------------------------------------------------------------------------------


def test_short_forms_of_rules():
    strategy = CutOffDictNN({("Ba", "O"): 3.1})
    assert as_bond_rule(2.9) == CutoffBonds(2.9)
    assert as_bond_rule(3) == CutoffBonds(3.0)
    assert as_bond_rule(np.float32(2.5)) == CutoffBonds(2.5)
    assert as_bond_rule({"Ti-O": 2.6}) == PairBonds({"Ti-O": 2.6})
    assert as_bond_rule("natural") == NaturalBonds(1.15)
    assert as_bond_rule(strategy) == NearNeighborBonds(strategy)
    rule = NaturalBonds(1.3)
    assert as_bond_rule(rule) is rule


@pytest.mark.parametrize(
    ("bonds", "shown"),
    [
        (None, "None"),
        (True, "True"),
        ("covalent", "'covalent'"),
        ([3.1], r"[3.1]"),
        (CutoffBonds, "<class 'tinynet_sklearn.graph.CutoffBonds'>"),
        (CrystalNN, repr(CrystalNN)),
    ],
    ids=str,
)
def test_as_bond_rule_refuses_what_is_no_rule(bonds, shown):
    with pytest.raises(TypeError) as error:
        as_bond_rule(bonds)
    assert str(error.value) == (
        "bonds must be a cutoff in Angstrom, a mapping such as {'Ti-O': 2.6}, 'natural', a pymatgen "
        f"NearNeighbors strategy or a bond rule, got {shown}."
    )


@pytest.mark.parametrize(
    ("bonds", "message"),
    [
        (0.0, "cutoff must be positive and finite (Angstrom), got 0.0."),
        (-3, "cutoff must be positive and finite (Angstrom), got -3.0."),
        (float("nan"), "cutoff must be positive and finite (Angstrom), got nan."),
        (float("inf"), "cutoff must be positive and finite (Angstrom), got inf."),
        (CutoffBonds("3.1"), "cutoff must be positive and finite (Angstrom), got '3.1'."),
        (NaturalBonds(-1.0), "factor must be positive and finite, got -1.0."),
        (NaturalBonds(None), "factor must be positive and finite, got None."),
        ({}, "cutoffs must name at least one pair of species, got {}; e.g. {'Ti-O': 2.6}."),
        ({"Ti-O": 0}, "cutoffs must map pairs such as 'Ti-O' to positive lengths, got 'Ti-O': 0."),
        ({"Ti-O": "2"}, "cutoffs must map pairs such as 'Ti-O' to positive lengths, got 'Ti-O': '2'."),
        ({"Ti-O": np.inf}, "cutoffs must map pairs such as 'Ti-O' to positive lengths, got 'Ti-O': inf."),
        ({"TiO": 2.6}, "cutoffs must map pairs such as 'Ti-O' to positive lengths, got 'TiO': 2.6."),
        ({"Ti-O-Ti": 2.6}, "cutoffs must map pairs such as 'Ti-O' to positive lengths, got 'Ti-O-Ti': 2.6."),
        ({22: 2.6}, "cutoffs must map pairs such as 'Ti-O' to positive lengths, got 22: 2.6."),
        ({"Ti-Ox": 2.6}, "'Ox' is not a chemical symbol; use names such as 'Ba' or 'O'."),
        ({"Ti-": 2.6}, "'' is not a chemical symbol; use names such as 'Ba' or 'O'."),
        ({"Ti-O2": 2.6}, "'O2' is not a chemical symbol; use names such as 'Ba' or 'O'."),
        ({(22, 8): 2.6}, "22 is not a chemical symbol; use names such as 'Ba' or 'O'."),
    ],
    ids=str,
)
def test_rules_refuse_lengths_and_names_they_cannot_use(bonds, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_bond_graph(perovskite(), bonds)


@pytest.mark.parametrize("strategy", [3.1, CrystalNN], ids=str)
def test_near_neighbor_bonds_need_a_strategy(strategy):
    with pytest.raises(TypeError) as error:
        build_bond_graph(perovskite(), NearNeighborBonds(strategy))
    assert str(error.value) == (
        f"strategy must be a pymatgen NearNeighbors object such as CrystalNN(), got {strategy!r}."
    )


def test_building_a_graph_leaves_the_structure_alone():
    atoms = rattled(slab(), seed=11)
    before = atoms.copy()
    build_bond_graph(atoms, 3.1)
    assert atoms == before
    assert_array_equal(atoms.cell.array, before.cell.array)


# ---- Cutoffs that would find too many pairs ----------------------------------------------------------------


@pytest.mark.parametrize("pbc", ["TTT", "TTF", "FTT", "TFT", "FTF", "FFF"])
def test_expected_neighbors_are_about_those_found(pbc):
    atoms = skewed(perovskite()).repeat((5, 4, 3))
    atoms.pbc = [letter == "T" for letter in pbc]
    (structure,) = as_structures([atoms])
    for cutoff in (5.0, 9.0, 30.0):
        found = len(CutoffBonds(cutoff, heteroatomic=False).directed_bonds(structure)[0]) / len(atoms)
        assert 0.8 * found < _expected_neighbors(structure, cutoff) < 4.0 * found


@pytest.mark.parametrize("bonds", [310.0, {"Cu-Cu": 310}, CutoffBonds(310.0, heteroatomic=False)])
def test_a_cutoff_in_picometres(bonds):
    with pytest.raises(ValueError, match="picometres") as error:
        build_bond_graph(copper(), bonds)
    count = f"{4 / 3 * np.pi * 310**3 / copper().get_volume() * len(copper()):.2g}"
    assert str(error.value) == (
        f"a cutoff of 310 Angstrom would give about {count} neighbours of each atom, "
        f"{float(count) * len(copper()):.2g} pairs in all; up to 100,000 and 50,000,000 are allowed. Is it "
        "in picometres? Cutoffs are in Angstrom."
    )


def test_too_many_pairs_in_all():
    atoms = copper().repeat(60 if len(copper()) == 1 else 38)
    with pytest.raises(ValueError, match="picometres"):
        build_bond_graph(atoms, 12.0)
    assert len(atoms) * 600 > MAX_PAIRS


def test_the_longest_cutoff_there_is():
    with pytest.raises(ValueError, match="a cutoff of 1e\\+300 Angstrom would give about"):
        build_bond_graph(copper(), 1e300)


def test_molecules_have_no_more_pairs_than_atoms_squared():
    assert build_bond_graph(methanol(), CutoffBonds(310.0, heteroatomic=False)).n_bonds == 15
