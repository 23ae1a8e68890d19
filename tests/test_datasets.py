"""The bundled data: complete, described, with bonds that are right, and split without leaks."""

import re
from importlib.resources import files

import numpy as np
import pytest
from ase.io import read
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GroupKFold

from tinynet_sklearn import LDOS, EnergyGrid, build_bond_graph, load_batio3, load_moo3
from tinynet_sklearn.reference import mean_structure
from tinynet_sklearn.structures import as_structures

LOADERS = [load_batio3, load_moo3]

COORDINATION = {
    load_batio3: {"Ba": {"12 O": 4}, "O": {"2 Ti + 4 Ba": 12}, "Ti": {"6 O": 4}},
    load_moo3: {"Mo": {"6 O": 4}, "O": {"1 Mo": 4, "2 Mo": 4, "3 Mo": 4}},
}


@pytest.fixture(scope="module", params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request):
    return request.param


@pytest.fixture(scope="module")
def data(loader):
    return loader()


def source(data):
    return read(files("tinynet_sklearn") / "data" / data.filename, ":")


def test_every_part_is_as_long_as_the_list_of_structures(data):
    n = len(data.structures)
    assert n == {"batio3_gpaw.extxyz": 79, "moo3_gpaw.extxyz": 81}[data.filename]
    for name in ("target", "groups", "temperatures", "energies", "frames"):
        assert len(data[name]) == n


def test_forces_are_those_of_the_file_atom_by_atom(data):
    for atoms, given, forces in zip(source(data), data.structures, data.target, strict=True):
        assert_array_equal(forces, atoms.get_forces())
        assert_array_equal(given.positions, atoms.positions)
    assert_array_equal(data.target.species, np.concatenate([a.numbers for a in data.structures]))
    assert data.target_unit == "eV/Angstrom"


def test_the_net_force_is_not_removed(data):
    net = np.array([forces.sum(axis=0) for forces in data.target])
    assert_allclose(net, [atoms.info["net_force"] for atoms in data.structures], atol=1e-6)
    assert np.abs(net).max() > 0.1


def test_energies_belong_to_the_forces(data):
    expected = [atoms.calc.results["free_energy"] for atoms in source(data)]
    assert_array_equal(data.energies, expected)


def test_structures_carry_no_calculator_but_what_is_known_about_them(data):
    for k, atoms in enumerate(data.structures):
        assert atoms.calc is None
        assert atoms.info["temperature"] == data.temperatures[k]
        assert atoms.info["frame"] == data.frames[k]
        assert atoms.info["seed"] == data.groups[k]
    assert set(data.temperatures) == {0, 100, 300, 500}
    assert (data.temperatures == 0).sum() == 1


def test_groups_split_without_leaks(data):
    assert len(set(data.groups)) == len(data.groups), "independent draws: a group each"
    folds = list(GroupKFold(5).split(data.structures, groups=data.groups))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(data.groups)))


def test_the_suggested_bonds_are_right_in_the_mean_and_in_every_frame(loader, data):
    for structure in [mean_structure(as_structures(data.structures)), *data.structures]:
        graph = build_bond_graph(structure, data.bonds)
        assert graph.coordination_by_species() == COORDINATION[loader]


def test_the_description_says_where_the_data_are_from_and_what_they_are_not_for(data):
    for word in ("GPAW", "PBE", "eV/Angstrom", "not good for", "BSD-3-Clause", "net force is not removed"):
        assert word in data.DESCR
    noise = re.search(r"one label carries about\s+([\d.]+\d)", data.DESCR)
    assert float(noise.group(1)) == data.label_noise


def test_every_load_is_a_fresh_copy(loader, data):
    data.structures[0].positions[0] += 1.0
    data.bonds["H-H"] = 1.0
    again = loader()
    assert not np.array_equal(again.structures[0].positions, data.structures[0].positions)
    assert "H-H" not in again.bonds
    data.structures[0].positions[0] -= 1.0
    del data.bonds["H-H"]


@pytest.mark.parametrize("target", ["charges", None, ["forces"]])
def test_unknown_target(loader, target):
    with pytest.raises(ValueError, match="target") as error:
        loader(target)
    assert str(error.value) == f"target must be one of 'forces', 'ldos', got {target!r}."


def test_the_files_come_with_the_package():
    folder = files("tinynet_sklearn") / "data"
    for name in ("batio3_gpaw", "moo3_gpaw"):
        assert (folder / f"{name}.extxyz").is_file()
        assert (folder / f"{name}.md").is_file()
        assert (folder / f"{name}_states.npz").is_file()


# ---- Densities of states -----------------------------------------------------------------------------------

#: Electrons that the calculations count for a cell, in the states from -40 eV up.
ELECTRONS = {load_batio3: 120, load_moo3: 96}


@pytest.fixture(scope="module")
def states(loader):
    return loader("ldos")


def test_densities_of_states_are_of_the_same_structures(data, states):
    ldos = states.target
    assert isinstance(ldos, LDOS)
    assert ldos.shape == (len(data.structures), 241)
    assert_array_equal(ldos.offsets, data.target.offsets)
    assert_array_equal(ldos.species, data.target.species)
    assert_array_equal(states.forces.values, data.target.values)
    assert_array_equal(data.forces.values, data.target.values)
    assert (states.target_name, states.target_unit) == ("ldos", "states/eV/atom")
    assert (data.target_name, data.target_unit) == ("forces", "eV/Angstrom")
    assert np.isnan(states.label_noise)
    assert_array_equal(states.energies, data.energies)
    assert_array_equal(states.groups, data.groups)
    for one, other in zip(states.structures, data.structures, strict=True):
        assert_allclose(one.positions, other.positions, atol=1e-12)
        assert one.calc is None
    for word in ("Mulliken", "density of states"):
        assert word in re.sub(r"\s+", " ", states.DESCR).replace("densities of states", "density of states")


def test_the_energies_on_which_they_come(states):
    grid = states.target.grid
    assert (grid.low, grid.high, grid.width, grid.zero) == (-7.0, 5.0, 0.2, "vbm")
    assert grid.step == pytest.approx(0.05, rel=1e-12)
    levels = states.target.levels
    assert_allclose(levels.vbm, 0.0, atol=1e-12)
    assert_allclose(levels.shift, [atoms.info["vbm"] for atoms in states.structures], atol=1e-6)
    gaps = [atoms.info["cbm"] - atoms.info["vbm"] for atoms in states.structures]
    assert_allclose(levels.cbm, gaps, atol=1e-6)


def test_valence_electrons_are_counted(states):
    """From -7 eV up: 72 in the O 2p bands of 12 O."""
    ldos = states.target
    assert_allclose(ldos.levels.n_electrons, 72.0, atol=0.5)
    assert np.median(np.abs(ldos.levels.n_electrons - 72.0)) < 0.02
    in_gap = 0.5 * (ldos.levels.vbm + ldos.levels.cbm)
    counted = [
        part.integrals(high=float(level)).sum()
        for part, level in zip((ldos[i : i + 1] for i in range(10)), in_gap, strict=False)
    ]
    assert_allclose(counted, 72.0, atol=0.5)  # with the tails of broadened states
    fermi = ldos[:10].fermi_level()
    assert (fermi > ldos.levels.vbm[:10] - 0.3).all()
    assert (fermi < ldos.levels.cbm[:10] + 0.3).all()


def test_other_energies(loader, states):
    wide = EnergyGrid(np.linspace(-40.0, 12.0, 521), width=0.3, zero="absolute")
    ldos = loader("ldos", grid=wide).target
    assert ldos.grid.difference(wide) is None
    assert_array_equal(ldos.levels.shift, 0.0)
    assert_allclose(ldos.levels.n_electrons, ELECTRONS[loader], atol=1e-6)
    in_gap = float(0.5 * (ldos.levels.vbm[0] + ldos.levels.cbm[0]))
    assert ldos[:1].integrals(high=in_gap).sum() == pytest.approx(ELECTRONS[loader], abs=0.1)
    fermi = EnergyGrid(np.linspace(-6.0, 4.0, 101), width=0.4, zero="fermi")
    from_fermi = loader("ldos", grid=fermi).target
    assert_allclose(from_fermi.levels.fermi, 0.0, atol=1e-12)
    # the same states, from another zero and with broader peaks
    same = states.target[:3].broadened(0.4)
    shift = states.target.levels.fermi
    for i in range(3):
        wanted = fermi.energies + shift[i]
        inside = (wanted >= same.grid.low) & (wanted <= same.grid.high)
        assert inside.sum() > 60
        moved = np.interp(wanted[inside], same.energies, same.total()[i])
        assert_allclose(from_fermi.total()[i, inside], moved, atol=0.01 * same.total()[i].max())


@pytest.mark.parametrize(
    ("grid", "kind", "message"),
    [
        (
            EnergyGrid(np.linspace(-5, 5, 11)),
            ValueError,
            "grid must have the width to which states are broadened; got None. Pass EnergyGrid(energies, "
            "width=0.2).",
        ),
        (
            np.linspace(-5, 5, 11),
            TypeError,
            "grid must be an EnergyGrid or None; got ndarray of shape (11,). Write EnergyGrid(energies, "
            "width=0.2, zero='vbm').",
        ),
    ],
    ids=["no width", "array"],
)
def test_grids_that_cannot_be(loader, grid, kind, message):
    with pytest.raises(kind) as error:
        loader("ldos", grid=grid)
    assert str(error.value) == message


def test_zeros_that_states_do_not_tell(loader):
    with pytest.raises(ValueError, match="zero") as error:
        loader("ldos", grid=EnergyGrid(np.linspace(-5, 5, 11), 0.2, "onset"))
    assert str(error.value).endswith(
        "_states.npz: zero must be one of 'absolute', 'vbm', 'fermi' for its states; got 'onset'. Use "
        "LDOS.aligned afterwards for others."
    )


def test_forces_need_no_grid(loader):
    with pytest.raises(ValueError, match="grid") as error:
        loader(grid=EnergyGrid(np.linspace(-5, 5, 11), 0.2))
    assert str(error.value) == "grid is for target='ldos'; got it with target='forces'."
