"""The bundled data: complete, described, with bonds that are right, and split without leaks."""

import re
from importlib.resources import files

import numpy as np
import pytest
from ase.io import read
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GroupKFold

from tinynet_sklearn import build_bond_graph, load_batio3, load_moo3
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


@pytest.mark.parametrize("target", ["ldos", None, ["forces"]])
def test_unknown_target(loader, target):
    with pytest.raises(ValueError, match="target") as error:
        loader(target)
    assert str(error.value) == f"target must be one of 'forces', got {target!r}."


def test_the_files_come_with_the_package():
    folder = files("tinynet_sklearn") / "data"
    for name in ("batio3_gpaw", "moo3_gpaw"):
        assert (folder / f"{name}.extxyz").is_file()
        assert (folder / f"{name}.md").is_file()
