"""Data sets from files of any kind: what comes out, what is said about the rest, and what is never run."""

import bz2
import gzip
import io
import json
import pickle
import re
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from numpy.testing import assert_array_equal
from program_files import FORCES, deepmd_system, salt, siesta_run
from pymatgen.io.ase import AseAtomsAdaptor

from tinynet_sklearn import LDOS, PerAtomArray, PotentialTargets
from tinynet_sklearn.dataset_files import read_dataset
from tinynet_sklearn.io import read_structures
from tinynet_sklearn.ldos_io import read_ldos

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def frames(n=3, seed=0, **more):
    """Rock salt with random displacements, forces, energies and stresses."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        atoms = bulk("NaCl", "rocksalt", a=5.64)
        atoms.rattle(0.1, rng=rng)
        results = {"energy": rng.normal(), "forces": rng.normal(size=(2, 3)), "stress": rng.normal(size=6)}
        atoms.calc = SinglePointCalculator(atoms, **{**results, **more})
        found.append(atoms)
    return found


def rows(atoms):
    return atoms.calc.results["forces"]


def refused(*args, error=ValueError, **kwargs):
    with pytest.raises(error) as info:
        read_dataset(*args, **kwargs)
    return str(info.value)


def skipped(*args, **kwargs):
    with pytest.warns(UserWarning, match="left out") as caught:
        data = read_dataset(*args, on_problem="skip", **kwargs)
    said = [str(w.message) for w in caught if w.category is UserWarning]  # ASE may warn of deprecations
    assert len(said) == 1
    return data, said[0]


def xyz(path, n=3, **kwargs):
    """Lines of a file of frames; four lines each."""
    write(path, frames(n, **kwargs))
    return path.read_text().splitlines(keepends=True)


# ---- What comes out ----


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.extxyz.gz", "a.traj", "a.db", "a.json"])
def test_files_and_databases_of_ase(tmp_path, name):
    known = frames()
    if name.endswith((".db", ".json")):
        with connect(tmp_path / name) as database:
            for atoms in known:
                database.write(atoms)
    else:
        write(tmp_path / name, known, **({"format": "extxyz"} if "xyz" in name else {}))
    exact = not name.startswith("a.extxyz") and not name.startswith("a.xyz")
    for path in (tmp_path / name, tmp_path, str(tmp_path / "*.*"), [tmp_path / name]):
        data = read_dataset(path, "potential")
        assert [str(source) for source in data.sources] == [f"{tmp_path / name}, frame {i}" for i in range(3)]
        assert isinstance(data.y, PotentialTargets)
        close = 0.0 if exact else 1e-7
        np.testing.assert_allclose(data.y.forces.values, np.concatenate([rows(a) for a in known]), atol=close)
        np.testing.assert_allclose(data.y.energy, [a.calc.results["energy"] for a in known], atol=close)
        np.testing.assert_allclose(data.y.stress, [a.calc.results["stress"] for a in known], atol=close)
        assert_array_equal(data.groups, 0)
        assert all(atoms.calc is None for atoms in data.structures)


@pytest.mark.parametrize("name", ["a.db", "a.json"])
def test_columns_and_data_of_databases(tmp_path, name):
    known = frames()
    with connect(tmp_path / name) as database:
        for atoms in known:
            bare = atoms.copy()
            database.write(bare, dft_energy=atoms.calc.results["energy"], data={"dft_forces": rows(atoms)})
    data = read_dataset(tmp_path / name, "potential", keys={"energy": "dft_energy", "forces": "dft_forces"})
    assert_array_equal(data.y.forces.values, np.concatenate([rows(a) for a in known]))
    assert_array_equal(data.y.energy, [a.calc.results["energy"] for a in known])
    assert data.structures[1].info["dft_energy"] == known[1].calc.results["energy"]


def test_odd_data_of_databases(tmp_path):
    known = frames(1)[0]
    odd = {"ragged": [[1.0], [1.0, 2.0]], "words": ["a"] * len(known), "complex": np.ones(len(known)) * 1j}
    with connect(tmp_path / "a.db") as database:
        database.write(known, data=odd | {"charges": np.ones(len(known))})
    data = read_dataset(tmp_path)
    assert set(data.structures[0].arrays) == {"numbers", "positions", "charges"}
    assert data.structures[0].info["ragged"] == odd["ragged"]


def test_unknown_objects_in_databases(tmp_path):
    with connect(tmp_path / "a.db") as database:
        for i, atoms in enumerate(frames()):
            database.write(atoms, data={"strange": {"__ase_objtype__": "nothing"}} if i == 1 else {})
    assert len(read_dataset(tmp_path / "a.db")) == 3


@pytest.mark.parametrize("tables", [[], ["CREATE TABLE notes (text)"]])
def test_databases_of_others_stay_as_they_are(tmp_path, tables):
    path = tmp_path / "mine.db"
    with closing(sqlite3.connect(path)) as database:
        for command in tables:
            database.execute(command)
        database.commit()
    path.touch()
    before = path.read_bytes()
    assert refused(path).startswith(f"cannot read {path}: ValueError: it is no database of ASE. ")
    assert path.read_bytes() == before


def test_endings_in_capitals(tmp_path):
    known = frames()
    write(tmp_path / "A.EXTXYZ", known)
    table(known).to_csv(tmp_path / "B.CSV", index=False)
    with connect(tmp_path / "c.db") as database:
        database.write(known[0])
    (tmp_path / "c.db").rename(tmp_path / "C.DB")
    with tarfile.open(tmp_path / "D.TGZ", "w:gz") as archive:
        archive.add(tmp_path / "A.EXTXYZ", "one.extxyz")
    with gzip.open(tmp_path / "E.XYZ.GZ", "wt") as file:
        file.write((tmp_path / "A.EXTXYZ").read_text())
    assert len(read_dataset(tmp_path)) == 3 + 3 + 1 + 3 + 3


def test_results_stay_with_structures_where_nothing_is_to_be_learned(tmp_path):
    write(tmp_path / "a.extxyz", frames())
    data = read_dataset(tmp_path, None)
    assert data.y is None
    assert set(data.structures[0].calc.results) == {"energy", "forces", "stress"}


def test_kinds_of_files_together(tmp_path):
    write(tmp_path / "b10.extxyz", frames(2))
    write(tmp_path / "b9.traj", frames(1))
    deepmd_system(tmp_path / "deep" / "system")
    siesta_run(tmp_path / "runs" / "one")
    (tmp_path / "notes.csv").write_text("step,loss\n1,2.0\n")
    (tmp_path / "settings.json").write_text('{"n": 4}')
    (tmp_path / ".hidden.xyz").write_text("nothing")
    data = read_dataset(tmp_path)
    assert repr(data) == (
        "<Dataset: 7 structures, 2 atoms each, Na Cl, 4 groups, y=<PerAtomArray: 7 structures, 14 atoms, 3 "
        "columns, species 11 17, float64, lab frame>>"
    )
    assert [Path(source.file).name for source in data.sources] == [
        *["b9.traj", "b10.extxyz", "b10.extxyz"], *["set.000"] * 2, "set.001", "salt.XV",
    ]  # fmt: skip
    assert data.groups.tolist() == [0, 1, 1, 2, 2, 2, 3]
    assert_array_equal(data.y[-1], FORCES)
    assert (data.problems, len(data[:0])) == ((), 0)
    half = data[data.groups == 1]
    assert half.sources == data.sources[1:3]
    assert_array_equal(half.y.values, data.y[[1, 2]].values)
    with pytest.raises(TypeError) as error:
        data[1]
    assert str(error.value) == (
        "a Dataset is indexed by a slice, an array of integers or a mask; got 1. Write data.structures[1], "
        "or data[[1]]."
    )


def test_a_file_that_is_named_twice_is_read_once(tmp_path):
    write(tmp_path / "a.extxyz", frames())
    assert len(read_dataset([tmp_path / "a.extxyz", tmp_path, tmp_path / "*.extxyz"])) == 3


def test_a_file_with_several_paths_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.extxyz", frames())
    Path("link.extxyz").symlink_to("a.extxyz")
    data = read_dataset(["a.extxyz", tmp_path / "a.extxyz", "link.extxyz", "."])
    assert (len(data), data.groups.tolist()) == (3, [0, 0, 0])


def test_densities_of_states_with_several_paths_are_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    siesta_run(tmp_path / "one")
    siesta_run(tmp_path / "two", shift=0.3)
    data = read_dataset(["one", tmp_path, "two"], "ldos", energies=np.linspace(-6, 3, 91), zero="fermi")
    assert (len(data), data.groups.tolist(), len(data.y)) == (2, [0, 1], 2)


def test_links_in_a_circle_end(tmp_path):
    write(tmp_path / "a.extxyz", frames())
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "back").symlink_to(tmp_path)
    assert len(read_dataset(tmp_path)) == 3


def test_progress(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tinynet_sklearn.dataset_files.PAUSE", -1.0)
    write(tmp_path / "a.extxyz", frames(2))
    read_dataset(tmp_path, verbose=True)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "read_dataset: 1 structures from 1 of 1 files and runs"
    assert said[-1] == "read_dataset: 2 structures from 1 of 1 files and runs"


def test_densities_of_states(tmp_path):
    siesta_run(tmp_path / "one")
    siesta_run(tmp_path / "two", shift=0.3)
    (siesta_run(tmp_path / "three") / "salt.PDOS").write_text("<pdos>")
    energies = np.linspace(-6, 3, 91)
    data, said = skipped(tmp_path, "ldos", energies=energies, zero="fermi")
    assert isinstance(data.y, LDOS)
    assert (len(data), data.groups.tolist(), len(data.problems)) == (2, [0, 1], 1)
    assert said == f"runs that cannot be used are left out: {data.problems[0]}"
    assert data.problems[0].startswith(f"cannot read {tmp_path / 'three' / 'salt.PDOS'}: ")
    assert refused(tmp_path, "ldos", energies=energies, zero="fermi") == (
        f"1 of 3 runs in {tmp_path} cannot be read:\n  {data.problems[0]}"
    )


def test_what_read_ldos_may_do_about_problems(tmp_path):
    with pytest.raises(ValueError, match="on_problem") as error:
        read_ldos(siesta_run(tmp_path / "one"), on_problem="warn")
    assert str(error.value) == "on_problem must be 'raise' or 'skip'; got 'warn'."


# ---- DeePMD-kit ----


def mixed_system(folder):
    """Two frames of up to three atoms, as DeePMD-kit calls "mixed"."""
    part = folder / "set.000"
    part.mkdir(parents=True)
    (folder / "type.raw").write_text("0\n0\n0\n")
    (folder / "type_map.raw").write_text("Na Cl\n")
    np.save(part / "real_atom_types.npy", np.array([[1, 0, -1], [0, 1, 1]]))
    np.save(part / "coord.npy", np.arange(18.0).reshape(2, 9))
    np.save(part / "box.npy", np.tile(20 * np.eye(3).ravel(), (2, 1)))
    np.save(part / "force.npy", -np.arange(18.0).reshape(2, 9))
    np.save(part / "energy.npy", np.array([1.5, 2.5]))
    np.save(part / "virial.npy", np.tile(np.arange(9.0), (2, 1)))
    return folder


def test_mixed_systems(tmp_path):
    data = read_dataset(mixed_system(tmp_path / "mixed"), "potential")
    assert [str(atoms.symbols) for atoms in data.structures] == ["ClNa", "NaCl2"]
    assert_array_equal(data.structures[0].positions, np.arange(6.0).reshape(2, 3))
    assert_array_equal(data.y.forces.values, -np.arange(18.0).reshape(6, 3)[[0, 1, 3, 4, 5]])
    assert_array_equal(data.y.energy, [1.5, 2.5])
    assert_array_equal(data.y.stress[0], -np.array([0, 4, 8, 5, 2, 1]) / 8000.0)


@pytest.mark.parametrize("kind", [-2, 2])
def test_types_that_a_mixed_system_has_not(tmp_path, kind):
    part = mixed_system(tmp_path / "mixed") / "set.000"
    np.save(part / "real_atom_types.npy", np.array([[1, 0, -1], [0, 1, kind]]))
    assert refused(tmp_path / "mixed") == (
        f"cannot read {part / 'real_atom_types.npy'}: types must be between -1 and 1, the symbols of "
        f"type_map.raw; got {min(kind, -1)} to {max(kind, 1)}."
    )


def test_a_damaged_set_costs_no_other(tmp_path):
    system = deepmd_system(tmp_path / "system")
    part = system / "set.000" / "force.npy"
    part.write_bytes(part.read_bytes()[:-8])
    data, _ = skipped(system)
    assert [str(source) for source in data.sources] == [f"{system / 'set.001'}, frame 0"]
    assert data.problems[0].startswith(f"cannot read {part}: ValueError: ")
    assert data.problems[0].endswith("(After 1 frame that can be read.)")


def test_a_frame_of_a_system_with_nan(tmp_path):
    system = deepmd_system(tmp_path / "system")
    forces = np.load(system / "set.000" / "force.npy")
    forces[1, 3] = np.nan
    np.save(system / "set.000" / "force.npy", forces)
    data, _ = skipped(system)
    assert len(data) == 2
    assert data.problems == (
        f"{system / 'set.000'}, frame 1, atom 1: force is {forces[1].reshape(-1, 3)[1]}.",
    )


# ---- JSON and tables ----


def entry(atoms, **more):
    structure = AseAtomsAdaptor.get_structure(atoms).as_dict()
    outputs = {"energy": atoms.calc.results["energy"], "forces": rows(atoms).tolist()}
    return {"structure": structure, "outputs": outputs, "group": "rattled", **more}


def test_entries_of_mlearn(tmp_path):
    known = frames()
    text = json.dumps([entry(atoms) for atoms in known])
    (tmp_path / "training.json").write_text(text)
    (tmp_path / "training.json.bz2").write_bytes(bz2.compress(text.encode()))
    data = read_dataset(tmp_path, "potential")
    assert_array_equal(data.y.energy, 2 * [atoms.calc.results["energy"] for atoms in known])
    assert_array_equal(data.y.forces.values, np.tile(np.concatenate([rows(a) for a in known]), (2, 1)))
    np.testing.assert_allclose(data.structures[1].positions, known[1].positions, atol=1e-12)
    assert data.structures[0].info == {"group": "rattled"}


def test_entries_with_mistakes(tmp_path):
    path = tmp_path / "training.json"
    entries = [entry(atoms) for atoms in frames(5)]
    del entries[0]["structure"]["sites"][1]["species"]
    entries[1]["structure"]["sites"][0]["species"][0]["occu"] = 0.5
    entries[2]["outputs"]["forces"].pop()
    entries[3]["structure"]["sites"][0]["species"][0]["element"] = "Xx"
    path.write_text(json.dumps(entries))
    data, said = skipped(path)
    assert len(data) == 1
    advice = "Write it as pymatgen's as_dict does."
    assert data.problems == (
        f"{path}, frame 0: it has no 'species'. {advice}",
        f"{path}, frame 1: site 0 is partially occupied. {advice}",
        f"{path}, frame 2: forces of 2 sites have the shape (1, 3). {advice}",
        f"{path}, frame 3: 'Xx' is not a chemical symbol; use names such as 'Ba' or 'O'. {advice}",
    )
    assert said == (
        f"4 of 5 frames cannot be used and are left out: {'; '.join(data.problems[:3])}; and 1 more"
    )


def test_other_json_is_read_by_nobody(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"@module": "os", "@class": "system", "n": 4}')
    assert refused(path) == (
        f"cannot read {path}: it is no list of structures of pymatgen, or of entries with a 'structure', and "
        "no database of ASE. Write it with one of them."
    )
    assert refused(tmp_path) == (
        f"cannot read {tmp_path}: there are no structures in a format that is known. Name the files "
        "themselves."
    )


def table(known):
    pandas = pytest.importorskip("pandas")
    cells = [name + axis for name in "abc" for axis in "xyz"]
    lines = [
        {"structure": "salt", "frame": i, "species": symbol, "energy": atoms.calc.results["energy"]}
        | dict(zip(["x", "y", "z", "fx", "fy", "fz", *cells],
                   [*position, *force, *atoms.cell.array.ravel()], strict=True))
        for i, atoms in enumerate(known)
        for symbol, position, force in zip(atoms.symbols, atoms.positions, rows(atoms), strict=True)
    ]  # fmt: skip
    return pandas.DataFrame(lines)


@pytest.mark.parametrize("name", ["atoms.csv", "atoms.csv.gz", "atoms.parquet"])
def test_tables_give_the_very_numbers(tmp_path, name):
    known = frames()
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        table(known).to_parquet(tmp_path / name)
    else:
        table(known).to_csv(tmp_path / name, index=False)
    data = read_dataset(tmp_path, "potential")
    assert_array_equal(data.y.energy, [atoms.calc.results["energy"] for atoms in known])
    for i, atoms in enumerate(known):
        assert_array_equal(data.y.forces[i], rows(atoms))
        assert_array_equal(data.structures[i].positions, atoms.positions)
        assert_array_equal(data.structures[i].cell.array, atoms.cell.array)
        assert data.structures[i].pbc.all()
        assert data.structures[i].info == {"structure": "salt"}
        assert data.sources[i].frame == i


def test_a_table_without_a_column(tmp_path):
    path = tmp_path / "atoms.csv"
    table(frames()).drop(columns=["species", "structure", "frame"]).to_csv(path)
    message = (
        f"cannot read {path}: a table of atoms has the columns structure or frame, species, x, y, z; it "
        "lacks structure or frame, species. Rename its columns."
    )
    assert refused(path) == message
    assert refused(tmp_path) == message


def test_a_table_with_semicolons(tmp_path):
    path = tmp_path / "atoms.csv"
    table(frames()).to_csv(path, sep=";", index=False)
    assert refused(path) == (
        f"cannot read {path}: a table of atoms has the columns structure or frame, species, x, y, z; it "
        "lacks structure or frame, species, x, y, z. Separate its columns by commas."
    )


@pytest.mark.parametrize(
    ("column", "columns"),
    [
        ("cz", "lattice vectors are the columns ax, ay, az, bx, by, bz, cx, cy, cz"),
        ("fy", "forces are the columns fx, fy, fz"),
    ],
)
def test_a_table_with_a_part_of_a_quantity(tmp_path, column, columns):
    """A crystal must not become a molecule by a misprint."""
    path = tmp_path / "atoms.csv"
    table(frames()).rename(columns={column: "misprint"}).to_csv(path)
    assert refused(path) == (
        f"cannot read {path}: {columns}; it lacks {column}. Add or rename them, or leave out all."
    )


def test_a_table_with_an_empty_column_of_structures(tmp_path):
    path = tmp_path / "atoms.csv"
    table(frames()).assign(structure=np.nan).to_csv(path, index=False)
    assert len(read_dataset(path)) == 3


def test_a_table_with_atoms_of_no_structure(tmp_path):
    path = tmp_path / "atoms.csv"
    rows_ = table(frames()).astype({"frame": float})
    rows_.loc[1, "frame"] = np.nan
    rows_.to_csv(path)
    assert refused(path) == (
        f"cannot read {path}: row 2 of the atoms has no frame. Say which structure every row belongs to."
    )


def test_a_table_with_mistakes(tmp_path):
    path = tmp_path / "atoms.csv"
    rows_ = table(frames(4))
    rows_.loc[1, "energy"] += 1
    rows_.loc[2, "species"] = "Xx"
    rows_.loc[5, "fy"] = np.nan
    rows_.to_csv(path, index=False)
    data, _ = skipped(path)
    assert [source.frame for source in data.sources] == [3]
    force = rows_.loc[5, ["fx", "fy", "fz"]].to_numpy(dtype=float)
    assert data.problems == (
        f"{path}, frame 0: its rows have different energies. Correct the table.",
        f"{path}, frame 1: 'Xx' is not a chemical symbol; use names such as 'Ba' or 'O'. Correct the table.",
        f"{path}, frame 2, atom 1: force is {force}.",
    )


@pytest.mark.parametrize(("name", "needed"), [("a.csv", "pandas"), ("a.parquet", "pandas and pyarrow")])
def test_tables_need_pandas(tmp_path, monkeypatch, name, needed):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    (tmp_path / name).write_text("frame,species,x,y,z\n")
    assert refused(tmp_path, error=ImportError) == (
        f"cannot read {tmp_path / name} without {needed}. Install them with pip install "
        "'tinynet_sklearn[tables]'."
    )


# ---- Archives ----


def pack(path, members):
    """An archive of names and contents; what is no content is a TarInfo."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(content, tarfile.TarInfo):
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return name, member


def test_archives(tmp_path):
    text = "".join(xyz(tmp_path / "a.extxyz")).encode()
    path = pack(tmp_path / "all.tar.gz", [("set/two.extxyz", text), ("set/one.extxyz", text)])
    data = read_dataset(path)
    assert [str(source) for source in data.sources[2:4]] == [
        f"{path}/set/one.extxyz, frame 2", f"{path}/set/two.extxyz, frame 0",
    ]  # fmt: skip
    assert data.groups.tolist() == [0, 0, 0, 1, 1, 1]


def test_archives_write_nowhere_else(tmp_path):
    text = "".join(xyz(tmp_path / "a.extxyz")).encode()
    outside = tmp_path / "outside.extxyz"
    members = [
        ("good.extxyz", text),
        ("../outside.extxyz", text),
        link("way", str(tmp_path)),
        ("way/outside.extxyz", text),
        link("hard", "/etc/hostname", tarfile.LNKTYPE),
        link("null", "", tarfile.CHRTYPE),
        (str(outside), text),
    ]
    path = pack(tmp_path / "all.tar.gz", members)
    data, _ = skipped(path)
    assert not outside.exists()
    # names that begin with / are taken as if they did not; those through the link become folders
    assert [Path(source.file).name for source in data.sources[::3]].count("outside.extxyz") == len(
        data
    ) // 3 - 1
    cannot = f"cannot read {path}: "
    assert [problem.replace(cannot, "") for problem in data.problems[1:]] == [
        "way is a link. Pack files only.",
        "hard is a link. Pack files only.",
        "null is a device. Pack files only.",
    ]
    assert re.fullmatch(
        re.escape(cannot)
        + r"'../outside.extxyz' would be extracted to '.*', which is outside the destination. "
        r"Pack it again\.",
        data.problems[0],
    )
    assert refused(path).startswith("4 of ")


def test_an_archive_that_was_cut_off_gives_what_is_there(tmp_path):
    text = "".join(xyz(tmp_path / "a.extxyz")).encode()
    noise = np.random.default_rng(0).bytes(50_000)
    path = pack(tmp_path / "all.tar.gz", [("a.extxyz", text), ("noise.xyz", noise)])
    path.write_bytes(path.read_bytes()[:-20_000])
    data, said = skipped(path)
    assert len(data) == 3
    assert data.problems == (
        f"cannot read {path}: EOFError: Compressed file ended before the end-of-stream marker was reached. "
        "The file is damaged or was cut off; copy it again, or repeat the calculation.",
    )
    assert said == f"1 of 2 files cannot be used and are left out: {data.problems[0]}"


# ---- Damaged frames ----


def test_a_damaged_frame_costs_no_other(tmp_path):
    path = tmp_path / "a.extxyz"
    lines = xyz(path, 8)
    lines[4 * 1 + 3] = "Cl here 0 0\n"  # a word for a number
    lines[4 * 2] = "3\n"  # a wrong number of atoms
    lines[4 * 4 + 3] = ""  # an atom that is missing
    lines[4 * 6] = "two\n"
    lines[4 * 5] = "\n\n" + lines[4 * 5]  # which is allowed
    path.write_text("".join(lines))
    data, _ = skipped(path)
    known = [frames(8)[i] for i in (0, 3, 5, 7)]
    np.testing.assert_allclose(data.y.values, np.concatenate([rows(a) for a in known]), atol=1e-7)
    assert len(data.problems) == 4
    said = [problem.removeprefix(f"{path}, ").removesuffix(" Correct the file.") for problem in data.problems]
    assert said[0] == "frame 1: ValueError: could not convert string to float: 'here'."
    assert said[1].startswith("frame 2: ")  # the rest is numpy's
    assert said[2].startswith("frame 4: ")
    assert said[3] == "frame 6: ValueError: a frame begins with its number of atoms, not with 'two'."


def test_a_number_of_atoms_that_is_too_small(tmp_path):
    path = tmp_path / "a.extxyz"
    lines = xyz(path, 3)
    lines[4] = "1\n"
    path.write_text("".join(lines))
    data, _ = skipped(path)
    assert [source.frame for source in data.sources] == [0, 2]
    line = " ".join(lines[7].split())
    assert data.problems == (
        f"{path}, frame 1: ValueError: after 1 atoms there is {line!r}, which looks like another. Correct "
        "the file.",
    )


def test_the_last_frame_is_cut_off(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text("".join(xyz(path, 3)[:-1]))
    data, said = skipped(path)
    assert len(data) == 2
    reason = "ValueError: the file ends after 1 of 2 atoms"
    assert said == (
        f"1 of 3 frames cannot be used and are left out: {path}, frame 2: {reason}. Correct the file."
    )
    with pytest.raises(ValueError, match=re.escape(f"cannot read {path}: {reason}. Check that the file")):
        read_structures(path)


def test_a_number_of_atoms_beyond_the_end(tmp_path):
    path = tmp_path / "a.extxyz"
    lines = xyz(path, 4)
    lines[4] = "99\n"
    path.write_text("".join(lines))
    data, _ = skipped(path)
    assert [source.frame for source in data.sources] == [0, 2, 3]
    assert data.problems == (
        f"{path}, frame 1: ValueError: the file ends after 10 of 99 atoms. Correct the file.",
    )


@pytest.mark.parametrize("comment", [0, 1, 3])
def test_comments_that_are_numbers(tmp_path, comment):
    """They are no beginnings of frames, also where the last frame is cut off."""
    path = tmp_path / "a.xyz"
    frame = f"3\n{comment}\nO 0 0 0\nH 0 0 1\nH 0 1 0\n"
    path.write_text(2 * frame + frame[: -len("H 0 1 0\n")])
    with pytest.warns(UserWarning, match="left out"):
        data = read_dataset(path, None, on_problem="skip")
    assert [len(atoms) for atoms in data.structures] == [3, 3]
    assert data.problems == (
        f"{path}, frame 2: ValueError: the file ends after 2 of 3 atoms. Correct the file.",
    )


def test_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text("".join(xyz(path, 3)), encoding="utf-8-sig")
    assert len(read_dataset(path)) == 3


def test_an_empty_line_ends_no_file(tmp_path):
    path = tmp_path / "a.extxyz"
    lines = xyz(path, 3)
    path.write_text("".join([*lines[:4], "\n", *lines[4:]]))
    assert len(read_dataset(path)) == len(read_structures(path)) == 3


def test_a_compressed_file_that_is_cut_off(tmp_path):
    path = tmp_path / "a.extxyz.gz"
    content = gzip.compress("".join(xyz(tmp_path / "a.extxyz", 400)).encode())
    (tmp_path / "a.extxyz").unlink()
    path.write_bytes(content[: len(content) // 2])
    data, said = skipped(path)
    assert 150 < len(data) < 250
    assert "EOFError: Compressed file ended before the end-of-stream marker was reached" in said
    assert said.endswith(f"(After {len(data)} frames that can be read.)")


def test_problems_of_all_files_are_reported_together(tmp_path):
    bad = frames(9)
    for i in (2, 3, 4, 7):
        bad[i].calc = None
    rows(bad[8])[1, 2] = np.nan
    write(tmp_path / "a.extxyz", bad)
    write(tmp_path / "b.extxyz", frames(2))
    (tmp_path / "c.traj").write_bytes(b"- of Ulm")
    message = refused(tmp_path).splitlines()
    assert message[0] == (
        "5 of 11 frames and 1 of 3 files cannot be used; correct them, or pass on_problem='skip' to leave "
        "them out:"
    )
    assert message[1] == f"  {tmp_path / 'a.extxyz'}, frames 2, 3, 4, 7: there are no forces."
    assert message[2].startswith(f"  {tmp_path / 'a.extxyz'}, frame 8, atom 1: force is [")
    assert message[3].startswith(f"  cannot read {tmp_path / 'c.traj'}: ")
    data, _ = skipped(tmp_path)
    assert len(data) == 6
    assert_array_equal(data.groups, [0, 0, 0, 0, 1, 1])
    assert repr(data).endswith("lab frame>, 3 problems>")


def test_nothing_is_left(tmp_path):
    write(tmp_path / "a.extxyz", [Atoms("H")])
    message = f"1 of 1 frames cannot be used:\n  {tmp_path / 'a.extxyz'}, frame 0: there are no forces."
    assert refused(tmp_path, on_problem="skip") == message
    assert refused(tmp_path) == message


def test_geometries_that_nobody_can_use(tmp_path):
    write(
        tmp_path / "a.extxyz",
        [Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), Atoms("H", pbc=True, cell=np.eye(3) / 9)],
    )
    message = refused(tmp_path, None).splitlines()
    assert message[1:] == [
        f"  {tmp_path / 'a.extxyz'}, frame 0, atom 1: position is [ 0.  0. nan]; remove it.",
        f"  {tmp_path / 'a.extxyz'}, frame 1: periodic, but its cell has a volume of 0.00137 Angstrom^3 for "
        "1 atoms; set the cell, or pbc=False.",
    ]


# ---- Names of results ----


def renamed(path):
    known = frames()
    for atoms in known:
        results = atoms.calc.results
        atoms.arrays["REF_forces"] = results["forces"]
        atoms.info.update(REF_energy=results["energy"], REF_stress=atoms.get_stress(voigt=False))
        atoms.calc = None
    write(path, known)
    return frames()


def test_results_under_other_names(tmp_path):
    known = renamed(tmp_path / "a.extxyz")
    keys = {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"}
    data = read_dataset(tmp_path, "potential", keys=keys)
    for name in ("energy", "stress"):
        np.testing.assert_allclose(getattr(data.y, name), [a.calc.results[name] for a in known], atol=1e-7)
    np.testing.assert_allclose(data.y.forces.values, np.concatenate([rows(a) for a in known]), atol=1e-7)
    hint = "but an array 'REF_forces': pass keys={'forces': 'REF_forces'}."
    assert refused(tmp_path).splitlines()[1] == (
        f"  {tmp_path / 'a.extxyz'}, frames 0 to 2: there are no forces, {hint}"
    )
    assert refused(tmp_path, "potential").splitlines()[1] == (
        f"  {tmp_path / 'a.extxyz'}, frames 0 to 2: there are no energy, forces or stress, {hint}"
    )
    # energies alone are not taken for all there is
    assert refused(tmp_path, "potential", keys={"energy": "REF_energy"}).splitlines()[1] == (
        f"  {tmp_path / 'a.extxyz'}, frames 0 to 2: there are no forces, {hint}"
    )


def test_names_replace_those_of_ase(tmp_path):
    known = frames()
    for i, atoms in enumerate(known):
        atoms.info["other_energy"] = 7.0 + i
    write(tmp_path / "a.extxyz", known)
    data = read_dataset(tmp_path, "potential", keys={"energy": "other_energy"})
    assert_array_equal(data.y.energy, [7.0, 8.0, 9.0])
    for atoms in known:  # which would come first, and is none of that name
        atoms.calc.results["free_energy"] = -1.0
    write(tmp_path / "b.traj", known)
    data = read_dataset(tmp_path / "b.traj", "potential", keys={"energy": "other_energy"})
    assert_array_equal(data.y.energy, [7.0, 8.0, 9.0])


def test_names_that_no_frame_has(tmp_path):
    write(tmp_path / "a.extxyz", frames())
    assert refused(tmp_path, "potential", keys={"energy": "REF_enrgy"}) == (
        "keys must be names in the files; got 'REF_enrgy', which no frame has. Names that some frame has are "
        "in atoms.info and atoms.arrays of read_dataset(path, None)."
    )


# ---- What is never run ----


class Trap:
    """Runs code when it is loaded from a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "name", ["a.traj", "a.xyz", "a.pkl", "a.npy", "a.npz", "a.json", "a.csv", "a.parquet", "a.db", "POSCAR"]
)
def test_pickles_are_never_loaded(tmp_path, name):
    caught = tmp_path / "caught"
    (tmp_path / name).write_bytes(pickle.dumps(Trap(caught)))
    refused(tmp_path / name)
    assert not caught.exists()


def test_arrays_of_objects_are_never_loaded(tmp_path):
    caught = tmp_path / "caught"
    system = deepmd_system(tmp_path / "system")
    path = system / "set.001" / "coord.npy"
    np.save(path, np.array([Trap(caught)], dtype=object), allow_pickle=True)
    assert refused(system).splitlines()[-1].strip() == (
        f"cannot read {path}: it holds Python objects, which are never loaded. Save arrays of numbers. "
        "(After 2 frames that can be read.)"
    )
    assert not caught.exists()


# ---- Wrong usage ----


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"target": "force"}, ValueError,
         "target must be one of 'forces', 'potential', 'ldos', None; got 'force'."),
        ({"on_problem": "warn"}, ValueError, "on_problem must be 'raise' or 'skip'; got 'warn'."),
        ({"keys": "REF_forces"}, TypeError,
         "keys must be a mapping such as {'forces': 'REF_forces'}; got str."),
        ({"keys": {"REF_forces": "forces"}}, ValueError,
         "keys must be of 'energy', 'forces' and 'stress'; got 'REF_forces'. Write the name in the file as "
         "the value: {'forces': 'REF_forces'}."),
        ({"width": 0.2}, ValueError,
         "energies, width, zero and spin are for target='ldos'; got them with target='forces'."),
    ],
)  # fmt: skip
def test_parameters(tmp_path, kwargs, error, message):
    assert refused(tmp_path, error=error, **kwargs) == message


def test_paths(tmp_path):
    message = f"cannot read {tmp_path / 'no'}; {tmp_path}/*.xyz: there is no such file or folder."
    assert refused([tmp_path / "no", f"{tmp_path}/*.xyz"], error=FileNotFoundError) == message
    assert refused([], error=FileNotFoundError) == "path must name a file or folder; got an empty list."
    assert refused(3, error=TypeError) == (
        "path must be that of a file or folder, a pattern, or a list of them; got int."
    )
    assert refused([3], error=TypeError) == "path must be a list of strings or paths; got one of int."
    assert refused(tmp_path) == (
        f"cannot read {tmp_path}: there are no structures in a format that is known. Name the files "
        "themselves."
    )


# ---- Real files ----


@pytest.mark.skipif(not (SHARED / "batio3_aimd").is_dir(), reason="needs shared data")
def test_trajectories_of_batio3_are_read_as_stored():
    data = read_dataset(SHARED / "batio3_aimd", "potential")
    runs = sorted((SHARED / "batio3_aimd").iterdir())
    stored = {
        name: np.concatenate([np.load(run / "set.000" / f"{name}.npy") for run in runs])
        for name in ("coord", "box", "energy", "force")
    }
    assert np.bincount(data.groups).tolist() == [290, 281, 227]
    assert_array_equal(data.y.energy, stored["energy"].ravel())
    assert_array_equal(data.y.forces.values, stored["force"].reshape(-1, 3))
    assert_array_equal(np.concatenate([a.positions for a in data.structures]), stored["coord"].reshape(-1, 3))
    assert_array_equal([atoms.cell.array.ravel() for atoms in data.structures], stored["box"])
    virial = -np.load(runs[0] / "set.000" / "virial.npy")[0].reshape(3, 3) / data.structures[0].get_volume()
    assert_array_equal(data.y.stress[0], virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])


@pytest.mark.skipif(not (SHARED / "tio2_aenet").is_dir(), reason="needs shared data")
def test_structures_of_aenet_keep_their_unit():
    archive = SHARED / "tio2_aenet" / "dir_xsf.tar.gz"
    data = read_dataset(archive, "potential")
    assert (len(data), data.y.stress) == (1000, None)
    with tarfile.open(archive) as packed:
        lines = packed.extractfile("dir_xsf/structure0001.xsf").read().decode().splitlines()
    assert data.y.energy[0] == float(lines[0].split()[4])
    start = next(i for i, line in enumerate(lines) if line.startswith("PRIMCOORD")) + 2
    assert_array_equal(data.y.forces[0][0], np.array(lines[start].split()[4:7], dtype=float))


@pytest.mark.skipif(not (SHARED / "mlearn").is_dir(), reason="needs shared data")
def test_structures_of_mlearn():
    path = SHARED / "mlearn" / "Si" / "test.json"
    data, entries = read_dataset(path), json.loads(path.read_text())
    assert isinstance(data.y, PerAtomArray)
    assert_array_equal(data.y.values, np.concatenate([np.array(e["outputs"]["forces"]) for e in entries]))


def test_aenet_in_small(tmp_path):
    atoms = salt()
    lattice = "\n".join(" ".join(map(repr, map(float, row))) for row in atoms.cell.array)
    sites = "\n".join(
        " ".join([symbol, *(repr(float(x)) for x in (*position, *force))])
        for symbol, position, force in zip(atoms.symbols, atoms.positions, FORCES, strict=True)
    )
    (tmp_path / "a.xsf").write_text(
        f"# total energy = -20.25 eV\n\nCRYSTAL\nPRIMVEC\n{lattice}\nPRIMCOORD\n2 1\n{sites}\n"
    )
    data = read_dataset(tmp_path, "potential")
    assert_array_equal(data.y.forces.values, FORCES)
    assert_array_equal(data.y.energy, [-20.25])
