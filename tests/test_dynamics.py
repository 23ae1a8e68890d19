"""Molecular dynamics: ensembles, what is written, and that a kill at any moment changes nothing."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from tinynet_sklearn import (
    DynamicsError,
    DynamicsResult,
    RunSettingsError,
    TinyNetCalculator,
    load_moo3,
    load_pretrained,
    run_dynamics,
)

STIFFNESS = 2.0  # eV/Angstrom^2


class Springs(Calculator):
    """Every atom tied to its place in a frame that moves along: 3N - 3 oscillators of one stiffness."""

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012

    def __init__(self, places, farthest=np.inf, flag_beyond=None):
        super().__init__()
        self.places, self.farthest, self.flag_beyond = places, farthest, flag_beyond

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.positions - self.places
        away -= away.mean(axis=0)
        if np.abs(away).max() > self.farthest:
            raise ValueError("a bond broke.")
        energy = 0.5 * STIFFNESS * (away**2).sum()
        self.results = {"energy": energy, "free_energy": energy, "forces": -STIFFNESS * away}
        if self.flag_beyond is not None:
            self.results["extrapolating"] = np.abs(away).max(axis=1) > self.flag_beyond


class ForcesAlone(Springs):
    """The same without an energy, as direct models are."""

    implemented_properties = ["forces"]  # noqa: RUF012


def oscillators(kind=Springs, masses=(20.0, 30.0, 40.0, 50.0), **options):
    places = np.random.default_rng(1).normal(size=(len(masses), 3))
    atoms = Atoms("Ar" * len(masses), places, masses=masses)
    atoms.calc = kind(places, **options)
    return atoms


def copper(repeat=1):
    atoms = bulk("Cu", cubic=True) * repeat
    atoms.calc = EMT()
    return atoms


# ---- Ensembles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thermostat", ["langevin", "bussi"])
def test_canonical_averages(thermostat):
    atoms = oscillators()
    result = run_dynamics(
        atoms, temperature=300, n_steps=8000, timestep=5, interval=4, time_constant=40, equilibration=400,
        thermostat=thermostat,
    )  # fmt: skip
    rows, freedom = result.production(), 3 * len(atoms) - 3
    thermal = 0.5 * freedom * units.kB * 300
    # 3N degrees of freedom would be off by a third.
    assert_allclose(rows["kinetic_eV"].mean(), thermal, rtol=0.08)
    assert_allclose(rows["potential_eV"].mean(), thermal, rtol=0.08)
    assert_allclose(rows["temperature_K"].std(), 300 * np.sqrt(2 / freedom), rtol=0.12)
    assert_allclose(rows["temperature_K"], 2 * rows["kinetic_eV"] / (freedom * units.kB), rtol=1e-9)
    assert np.ptp(rows["conserved_eV"]) < 0.1 * np.ptp(rows["total_eV"])
    frame = result.frames()[-1]
    assert_allclose(frame.get_momenta().sum(axis=0), 0, atol=1e-10)
    assert_allclose(frame.get_center_of_mass(), atoms.get_center_of_mass(), atol=1e-9)


def test_every_mass_has_the_temperature():
    result = run_dynamics(
        oscillators(masses=(5.0, 200.0, 200.0, 200.0)), n_steps=6000, timestep=2, interval=5,
        time_constant=20, equilibration=500,
    )  # fmt: skip
    squares = np.mean([frame.get_momenta()[0] ** 2 for frame in result.frames()])
    # A light atom beside heavy ones hardly feels that the total momentum is zero.
    assert_allclose(squares, 5.0 * units.kB * 300 * (1 - 5 / 605), rtol=0.1)


def test_constant_energy():
    result = run_dynamics(copper(2), ensemble="nve", n_steps=200, timestep=2, interval=5, equilibration=100)
    rows = result.production()
    assert_array_equal(rows["conserved_eV"], rows["total_eV"])
    assert np.ptp(rows["total_eV"]) / 32 < 5e-5
    assert abs(result.drift()) < 0.1
    assert rows["step"][0] == 0
    assert result.table["step"][0] == -100
    before = result.table["step"] < 0
    assert np.ptp(result.table["total_eV"][before]) > 20 * np.ptp(rows["total_eV"])  # thermostatted


@pytest.mark.parametrize("cell", ["full", "isotropic"])
def test_constant_pressure(cell):
    result = run_dynamics(
        copper(), ensemble="npt", cell=cell, pressure=5.0, n_steps=500, timestep=5, equilibration=120,
        pressure_time_constant=200, time_constant=40, interval=5,
    )  # fmt: skip
    rows = result.production()
    assert_allclose(rows["pressure_GPa"].mean(), 5.0, atol=0.5)
    assert_allclose(rows["temperature_K"].mean(), 300, rtol=0.12)  # of 3N - 3; 3N are 33 % more
    assert np.ptp(rows["conserved_eV"]) < 0.1 * np.ptp(rows["total_eV"])
    assert rows["volume_A3"].mean() < 0.985 * copper().get_volume()
    final = result.atoms.cell.array
    cubic = np.allclose(final, np.eye(3) * np.cbrt(np.linalg.det(final)), rtol=1e-9, atol=1e-9)
    assert cubic == (cell == "isotropic")


def test_start_has_exactly_the_temperature_and_no_momentum():
    result = run_dynamics(copper(), temperature=250, n_steps=1)
    assert_allclose(result.table["temperature_K"][0], 250, rtol=1e-9)
    assert_allclose(result.frames()[0].get_momenta().sum(axis=0), 0, atol=1e-12)


def test_velocities_can_be_kept():
    atoms = copper(2)
    first = run_dynamics(atoms, n_steps=10, ensemble="nve", interval=10)
    going = first.frames()[-1]
    momenta = going.get_momenta()
    going.calc = EMT()
    result = run_dynamics(going, n_steps=5, ensemble="nve", interval=5, velocities="keep")
    assert_allclose(result.frames()[0].get_momenta(), momenta, atol=1e-12)
    assert_allclose(result.table["total_eV"][0], first.table["total_eV"][-1], rtol=1e-9)


def test_atoms_are_not_changed_and_seeds_count():
    atoms = copper()
    before = atoms.copy()
    runs = [run_dynamics(atoms, n_steps=4, seed=seed).atoms.positions for seed in (0, 0, 1)]
    assert atoms == before
    assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-4


def test_fixed_atoms():
    atoms = copper(2)
    atoms.set_constraint(FixAtoms([0, 3]))
    for settings in ({}, {"thermostat": "bussi"}, {"ensemble": "nve"}):
        result = run_dynamics(atoms, n_steps=10, **settings)
        assert_array_equal(result.atoms.positions[[0, 3]], atoms.positions[[0, 3]])
        assert result.summary()["degrees_of_freedom"] == 3 * 30
        assert_allclose(result.table["temperature_K"][0], 300)
        assert isinstance(result.frames()[-1].constraints[0], FixAtoms)


def test_molecules_have_no_pressure():
    atoms = molecule("CH3OH")
    atoms.calc = EMT()
    result = run_dynamics(atoms, n_steps=20, timestep=0.5)
    assert np.isnan(result.table["pressure_GPa"]).all()
    assert np.isnan(result.table["volume_A3"]).all()
    assert result.summary()["pressure_mean_GPa"] is None
    assert result.summary()["degrees_of_freedom"] == 15


def test_forces_without_energy():
    atoms = oscillators(ForcesAlone)
    result = run_dynamics(atoms, n_steps=20)
    for name in ("potential_eV", "total_eV", "conserved_eV", "pressure_GPa"):
        assert np.isnan(result.table[name]).all()
    assert np.isfinite(result.table["temperature_K"]).all()
    assert np.isnan(result.drift())
    assert result.summary()["mode"] == "direct"
    assert result.summary()["drift_meV_per_atom_ps"] is None
    assert len(result.plot().axes) == 1
    assert_array_equal(result.frames()[-1].get_forces(), atoms.calc.get_forces(result.frames()[-1]))


# ---- Files -------------------------------------------------------------------------------------------------


def test_files(tmp_path):
    folder = tmp_path / "new" / "run"
    result = run_dynamics(copper(), n_steps=20, equilibration=10, interval=5, folder=folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "dynamics.png", "energies.csv", "state.npz", "summary.json", "trajectory.traj",
    ]  # fmt: skip
    lines = (folder / "energies.csv").read_text().splitlines()
    assert lines[0] == (
        "step,time_ps,kinetic_eV,potential_eV,total_eV,conserved_eV,temperature_K,pressure_GPa,volume_A3,"
        "extrapolating_atoms"
    )
    assert [int(line.split(",")[0]) for line in lines[1:]] == [-10, -5, 0, 5, 10, 15, 20]
    assert all(line.endswith(",") for line in lines[1:])  # EMT knows no training data
    frames = read(folder / "trajectory.traj", ":")
    assert [frame.info["step"] for frame in frames] == [0, 5, 10, 15, 20]
    assert frames[-1].info["time_ps"] == pytest.approx(0.02)
    assert frames[-1].constraints == []
    assert_array_equal(frames[-1].positions, result.atoms.positions)
    assert_array_equal(frames[-1].get_forces(), result.atoms.get_forces(apply_constraint=False))
    assert frames[-1].get_potential_energy() == result.atoms.get_potential_energy()
    assert_allclose(frames[-1].get_stress(), result.atoms.get_stress())
    assert frames[-1].calc.name == "emt"
    assert json.loads((folder / "summary.json").read_text()) == result.summary()
    assert (folder / "dynamics.png").read_bytes().startswith(b"\x89PNG")
    assert result.finished
    assert result.stopped_by == ""


def test_notes_on_the_start_do_not_go_along():
    atoms = copper()
    atoms.info["temperature"] = 500
    atoms.set_array("site", np.arange(4))
    atoms.set_tags([1, 2, 3, 4])
    frame = run_dynamics(atoms, n_steps=1).frames()[0]
    assert frame.info == {"step": 0, "time_ps": 0.0}
    assert set(frame.arrays) == {"numbers", "positions", "momenta", "tags"}
    assert set(atoms.arrays) == {"numbers", "positions", "site", "tags"}


def test_extxyz(tmp_path):
    run_dynamics(copper(), n_steps=4, interval=2, folder=tmp_path / "run", trajectory_format="extxyz")
    frames = read(tmp_path / "run" / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 2, 4]
    assert frames[-1].get_momenta().any()
    assert frames[-1].get_forces().any()


def test_memory_and_files_hold_the_same(tmp_path):
    inside = run_dynamics(copper(), n_steps=10, interval=2)
    outside = run_dynamics(copper(), n_steps=10, interval=2, folder=tmp_path / "run")
    for name, column in inside.table.items():
        assert_array_equal(column, outside.table[name])
    for a, b in zip(inside.frames(), outside.frames(), strict=True):
        assert_array_equal(a.positions, b.positions)
    assert inside.folder is None


def test_atoms_outside_of_the_training_data_are_counted():
    result = run_dynamics(oscillators(flag_beyond=0.05), n_steps=100, timestep=5)
    flagged = result.table["extrapolating_atoms"]
    assert flagged[0] == 0
    assert flagged.max() > 0
    summary = result.summary()
    assert summary["frames_with_extrapolating_atoms"] == np.mean(flagged > 0)
    assert summary["extrapolating_atoms_mean"] == flagged.mean()
    assert summary["extrapolating_atoms_most"] == flagged.max()


# ---- Interrupted and continued -----------------------------------------------------------------------------

SETTINGS = {
    "langevin": {"equilibration": 10},
    "bussi": {"thermostat": "bussi", "equilibration": 10, "trajectory_format": "extxyz"},
    "nve": {"ensemble": "nve", "equilibration": 10},
    "npt": {"ensemble": "npt", "trajectory_format": "extxyz"},
    "isotropic": {"ensemble": "npt", "cell": "isotropic", "equilibration": 10},
}


def assert_same_run(folder, other):
    for path in sorted(other.glob("trajectory.*")):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert (folder / "energies.csv").read_bytes() == (other / "energies.csv").read_bytes()
    with np.load(folder / "state.npz") as found, np.load(other / "state.npz") as wanted:
        assert set(found.files) == set(wanted.files)
        for name in sorted(set(wanted.files) - {"header"}):
            assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("every", [0.0, np.inf], ids=["many checkpoints", "one checkpoint"])
def test_continued_from_any_moment(name, every, tmp_path, monkeypatch):
    """A copy of the folder is what a kill leaves; torn ends are added. All must come out the same."""
    monkeypatch.setattr(DynamicsResult, "plot", lambda _: Figure())  # half of the time of this test
    settings = {"n_steps": 24, "interval": 2, "timestep": 5.0, **SETTINGS[name]}
    copies = []

    def copy(step, temperature):
        if step in (-10, -2, 0, 14):
            copies.append(tmp_path / f"killed at {step}")
            shutil.copytree(tmp_path / "whole", copies[-1])

    whole = run_dynamics(
        copper(), folder=tmp_path / "whole", progress=copy, checkpoint_seconds=every, **settings
    )
    assert whole.finished
    for folder in copies:
        for path in (folder / "energies.csv", *folder.glob("trajectory.*")):
            with path.open("ab") as file:
                file.write(b"torn" * 100)
        (folder / ".state.npz.12345678.tmp").write_bytes(b"torn")
        result = run_dynamics(copper(), folder=folder, restart=True, **settings)
        assert result.finished
        assert_same_run(folder, tmp_path / "whole")
        assert not list(folder.glob("*.tmp"))
        assert_array_equal(result.atoms.positions, whole.atoms.positions)
        assert len(result.frames()) == 13


def test_continued_with_a_model(tmp_path):
    """The topology is laid out on the first configuration, so forces are the same to the last bit."""

    def atoms():
        found = load_moo3().structures[3] * (1, 1, 2)
        found.calc = TinyNetCalculator(load_pretrained("moo3"), on_extrapolation="ignore")
        return found

    run_dynamics(atoms(), n_steps=30, interval=5, folder=tmp_path / "whole")
    run_dynamics(atoms(), n_steps=17, interval=5, folder=tmp_path / "run")
    result = run_dynamics(atoms(), n_steps=30, interval=5, folder=tmp_path / "run", restart=True)
    assert result.table["step"].tolist() == [0, 5, 10, 15, 20, 25, 30]
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [-4, 0, 6])
def test_signals_end_a_run_cleanly(number, moment, tmp_path):
    settings = {"n_steps": 12, "interval": 2, "equilibration": 6, "ensemble": "nve", "timestep": 5.0}
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(step, temperature):
        if step == moment:
            signal.raise_signal(number)

    run_dynamics(copper(), folder=tmp_path / "whole", **settings)
    result = run_dynamics(copper(), folder=tmp_path / "run", progress=interrupt, **settings)
    assert not result.finished
    assert result.stopped_by == number.name
    assert result.table["step"][-1] == moment
    assert result.summary()["stopped_by"] == number.name
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert run_dynamics(copper(), folder=tmp_path / "run", restart=True, **settings).finished
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_the_second_interrupt_is_obeyed_at_once(tmp_path):
    def interrupt(step, temperature):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # a background shell ignores it
    with pytest.raises(KeyboardInterrupt):
        run_dynamics(copper(), n_steps=5, folder=tmp_path / "run", progress=interrupt)
    assert signal.getsignal(signal.SIGINT) == before


def test_runs_in_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(run_dynamics(copper(), n_steps=2)))
    thread.start()
    thread.join()
    assert found[0].finished


@pytest.mark.slow
def test_killed_processes(tmp_path):
    code = (
        "import sys\n"
        "from ase.build import bulk\n"
        "from ase.calculators.emt import EMT\n"
        "from tinynet_sklearn import run_dynamics\n"
        "atoms = bulk('Cu', cubic=True)\n"
        "atoms.calc = EMT()\n"
        "run_dynamics(atoms, n_steps=100_000, interval=3, folder=sys.argv[1], restart=True, "
        "checkpoint_seconds=0)\n"
    )
    folder = tmp_path / "run"
    table = folder / "energies.csv"
    reached = [0]
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
        until = time.monotonic() + 60
        while time.monotonic() < until:
            time.sleep(0.05)
            lines = table.read_text().count("\n") if table.exists() else 0
            if lines > reached[-1] + 40:
                break
        process.kill()
        process.wait()
        reached.append(lines)
    settings = {"n_steps": 3 * reached[-1] + 60, "interval": 3}
    run_dynamics(copper(), folder=folder, restart=True, **settings)
    run_dynamics(copper(), folder=tmp_path / "whole", **settings)
    assert_same_run(folder, tmp_path / "whole")


def test_runs_can_be_extended_not_cut(tmp_path):
    folder = tmp_path / "run"
    run_dynamics(copper(), n_steps=6, interval=2, folder=folder)
    again = run_dynamics(copper(), n_steps=6, interval=2, folder=folder, restart=True)
    assert again.finished
    assert np.isnan(again.seconds_per_step)
    assert run_dynamics(copper(), n_steps=8, interval=2, folder=folder, restart=True).table["step"][-1] == 8
    message = (
        f"n_steps must be at least 8, what the run in '{folder}' has done; got 4. A run can be extended, not "
        "cut."
    )  # fmt: skip
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(copper(), n_steps=4, interval=2, folder=folder, restart=True)


@pytest.mark.parametrize("file_format", ["traj", "extxyz"])
def test_restart_begins_where_there_is_nothing_of_a_run(file_format, tmp_path):
    settings = {"n_steps": 4, "interval": 1, "folder": tmp_path / "run", "trajectory_format": file_format}
    result = run_dynamics(copper(), **settings, restart=True)
    assert result.finished
    table = (tmp_path / "run" / "energies.csv").read_bytes()
    # What a process leaves that was killed before the first checkpoint, at worst with one record.
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    copper().write(tmp_path / "run" / f"trajectory.{file_format}")
    for left in (b"", table[:20], table[: table.index(b"\n", 150) + 1]):
        (tmp_path / "run" / "energies.csv").write_bytes(left)
        result = run_dynamics(copper(), **settings, restart=True)
        assert (tmp_path / "run" / "energies.csv").read_bytes() == table
        assert len(result.frames()) == 5
        for name in ("state.npz", "summary.json", "dynamics.png"):
            (tmp_path / "run" / name).unlink()
        copper().write(tmp_path / "run" / f"trajectory.{file_format}")


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("file_format", ["traj", "extxyz"])
def test_restart_without_the_checkpoint_writes_nothing_over(file_format, tmp_path):
    folder = tmp_path / "run"
    settings = {"n_steps": 4, "interval": 2, "folder": folder, "trajectory_format": file_format}
    run_dynamics(copper(), **settings)
    for name in ("state.npz", "summary.json", "dynamics.png"):
        (folder / name).unlink()
    before = snapshot(folder)
    message = (
        f"restart needs a folder with state.npz, or one without a run; '{folder}' holds "
        f"trajectory.{file_format}, energies.csv. Put state.npz back, or name another folder to begin anew."
    )
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(copper(), **settings, restart=True)
    assert snapshot(folder) == before


def test_restart_leaves_files_of_the_user_alone(tmp_path):
    (tmp_path / "energies.csv").write_text("volume,energy\n1,2\n")
    message = (
        f"restart needs a folder with state.npz, or one without a run; '{tmp_path}' holds energies.csv. Put "
        "state.npz back, or name another folder to begin anew."
    )
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(copper(), n_steps=2, folder=tmp_path, restart=True)
    (tmp_path / "energies.csv").rename(tmp_path / "mine.csv")
    copper().write(tmp_path / "trajectory.extxyz")
    with pytest.raises(RunSettingsError, match=r"holds trajectory\.extxyz\. Put state\.npz back"):
        run_dynamics(copper(), n_steps=2, folder=tmp_path, restart=True)
    assert snapshot(tmp_path).keys() == {"mine.csv", "trajectory.extxyz"}


# ---- One process at a time ---------------------------------------------------------------------------------


def in_use(folder, holder):
    return (
        f"folder must belong to one run at a time; '{folder}' is in use by {holder}. Wait for its end or "
        f"name another folder; if there is no such process, remove '{folder / '.lock'}'."
    )


@pytest.mark.parametrize("restart", [True, False])
def test_a_folder_is_for_one_run_at_a_time(restart, tmp_path):
    folder, messages = tmp_path / "run", []

    def second(step, temperature):
        if step < 4:
            return
        with pytest.raises(RunSettingsError) as error:
            run_dynamics(copper(), n_steps=8, interval=2, folder=folder, restart=restart)
        messages.append(str(error.value))

    run_dynamics(copper(), n_steps=8, interval=2, folder=folder, checkpoint_seconds=0, progress=second)
    assert messages == 3 * [in_use(folder, f"process {os.getpid()} on {socket.gethostname()}")]
    run_dynamics(copper(), n_steps=8, interval=2, folder=tmp_path / "whole", checkpoint_seconds=0)
    assert_same_run(folder, tmp_path / "whole")
    assert not (folder / ".lock").exists()


def test_another_process_is_refused_until_it_is_killed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        "import sys, time; from pathlib import Path; from tinynet_sklearn.run_lock import FolderLock; "
        "FolderLock(Path(sys.argv[1])).take(); print('taken', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"taken\n"
    message = in_use(folder, f"process {process.pid} on {socket.gethostname()}")
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(copper(), n_steps=2, folder=folder, restart=True)
    assert list(folder.iterdir()) == [folder / ".lock"]
    process.kill()
    process.communicate()
    assert (folder / ".lock").exists()
    assert run_dynamics(copper(), n_steps=2, folder=folder, restart=True).finished
    assert not (folder / ".lock").exists()


def test_file_systems_without_locks(tmp_path, monkeypatch):
    """There the text of the file tells whether its process is alive."""
    monkeypatch.setattr("tinynet_sklearn.run_lock._locked", lambda _: None)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    for holder in (f"process {os.getpid()} on {here}", f"process {dead.pid} on not-{here}", ""):
        (tmp_path / ".lock").write_text(holder)
        message = in_use(tmp_path, holder or "another process")
        with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
            run_dynamics(copper(), n_steps=2, folder=tmp_path)
        assert list(tmp_path.iterdir()) == [tmp_path / ".lock"]
    (tmp_path / ".lock").write_text(f"process {dead.pid} on {here}")
    assert run_dynamics(copper(), n_steps=2, folder=tmp_path).finished
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("there", [True, False])
def test_locks_end_with_errors(there, tmp_path):
    folder = tmp_path / "run"
    if there:
        folder.mkdir()

    def fail(step, temperature):
        raise KeyError(step)

    with pytest.raises(KeyError):
        run_dynamics(copper(), n_steps=2, folder=folder, progress=fail)
    assert not (folder / ".lock").exists()
    with pytest.raises(RunSettingsError, match="earlier run"):
        run_dynamics(copper(), n_steps=2, folder=folder)
    assert not (folder / ".lock").exists()


# ---- The last configuration --------------------------------------------------------------------------------


def test_results_can_be_the_next_start():
    first = run_dynamics(copper(), n_steps=5)
    assert first.atoms.constraints == []
    again = run_dynamics(first.atoms, n_steps=5, ensemble="nve", velocities="keep")
    assert_allclose(again.frames()[0].get_momenta(), first.atoms.get_momenta(), atol=1e-12)
    atoms = copper()
    atoms.set_constraint(FixAtoms([1]))
    (kept,) = run_dynamics(atoms, n_steps=2).atoms.constraints
    assert isinstance(kept, FixAtoms)
    with pytest.raises(DynamicsError) as error:
        run_dynamics(copper(), n_steps=500, timestep=80, max_temperature=4000)
    assert error.value.result.atoms.constraints == []


@pytest.mark.parametrize("file_format", ["traj", "extxyz"])
def test_the_last_step_is_a_frame(file_format, tmp_path):
    settings = {"interval": 5, "trajectory_format": file_format}
    part = run_dynamics(copper(), n_steps=7, folder=tmp_path / "run", **settings)
    assert part.table["step"].tolist() == [0, 5, 7]
    assert [frame.info["step"] for frame in part.frames()] == [0, 5, 7]
    assert_allclose(part.frames()[-1].positions, part.atoms.positions, atol=1e-8)
    before = {
        name: (tmp_path / "run" / name).read_bytes()
        for name in ("energies.csv", part.files.trajectory_path.name)
    }
    again = run_dynamics(copper(), n_steps=7, folder=tmp_path / "run", restart=True, **settings)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    assert again.table["step"].tolist() == [0, 5, 7]
    # A run that is extended is as if it had not ended there.
    run_dynamics(copper(), n_steps=12, folder=tmp_path / "run", restart=True, **settings)
    run_dynamics(copper(), n_steps=12, folder=tmp_path / "whole", **settings)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_results_in_one_line(tmp_path):
    result = run_dynamics(copper(), n_steps=1200, timestep=0.1, interval=600, folder=tmp_path / "run")
    assert repr(result) == f"<DynamicsResult: nvt, 4 atoms, 1,200 of 1,200 steps, in '{tmp_path / 'run'}'>"
    result = run_dynamics(copper(), n_steps=1)
    assert repr(result) == "<DynamicsResult: nvt, 4 atoms, 1 of 1 steps, in memory>"


# ---- Ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_run_that_blows_up(in_folder, tmp_path):
    folder = tmp_path / "run" if in_folder else None
    kept = f"\nEverything before it is in '{folder}'." if in_folder else ""
    with pytest.raises(DynamicsError) as error:
        run_dynamics(copper(), n_steps=500, timestep=80, interval=1, folder=folder, max_temperature=4000)
    result = error.value.result
    step = int(result.table["step"][-1]) + 1
    assert re.fullmatch(
        rf"the run ended at step {step} \({step * 0.08:g} ps\): the temperature is \S+ K, the limit 4000 K\. "
        r"Shorten the time step, begin closer to equilibrium, or train the model on configurations like the "
        r"last ones\." + re.escape(kept),
        str(error.value),
    )
    assert len(result.frames()) == step
    assert not result.finished
    if in_folder:
        assert len(read(folder / "trajectory.traj", ":")) == step
        assert json.loads((folder / "summary.json").read_text())["finished"] is False


class Soft(EMT):
    """Refuses cells that are far from the first one."""

    implemented_properties = EMT.implemented_properties
    first = None

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        self.first = self.first or atoms.get_volume()
        if atoms.get_volume() > 2 * self.first:
            raise ValueError("structure must be a supercell.")
        super().calculate(atoms, properties, system_changes)


def test_a_cell_that_blows_up():
    atoms = copper()
    atoms.calc = Soft()
    with pytest.raises(DynamicsError) as error:
        run_dynamics(
            atoms, n_steps=2000, ensemble="npt", pressure=-60, pressure_time_constant=200, max_temperature=1e9
        )
    assert re.fullmatch(
        r"the run ended at step \d+ \(\S+ ps\): the cell has left the one of the start: its lengths are "
        r"[\d.]+ to 1\.\d\d times as long, its volume is 2\.\d\d times as large\. Set a pressure closer to "
        r"that of the first configuration, a longer pressure_time_constant or a shorter timestep, or take a "
        r"model that learned stresses\.",
        str(error.value),
    )


def test_a_bond_that_breaks(tmp_path):
    atoms = oscillators(farthest=0.2)
    with pytest.raises(DynamicsError) as error:
        run_dynamics(atoms, n_steps=10_000, timestep=2, interval=1, folder=tmp_path / "run", temperature=600)
    step = int(error.value.result.table["step"][-1]) + 1
    assert str(error.value) == (
        f"the run ended at step {step} ({step * 0.002:g} ps): a bond broke.\n"
        f"Everything before it is in '{tmp_path / 'run'}'."
    )
    assert len(read(tmp_path / "run" / "trajectory.traj", ":")) == step


def test_what_a_calculator_refuses_at_once_leaves_no_folder(tmp_path):
    atoms = oscillators(farthest=0.2)
    atoms.positions[0] += 3.0
    with pytest.raises(ValueError, match=r"^a bond broke\.$"):
        run_dynamics(atoms, n_steps=5, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- Wrong settings ----------------------------------------------------------------------------------------


def single():
    atoms = Atoms("Ar")
    atoms.calc = EMT()
    return atoms


def bonded():
    atoms = copper()
    atoms.set_constraint([FixBondLength(0, 1)])
    return atoms


def frozen():
    atoms = copper()
    atoms.set_constraint([FixAtoms([0, 1]), FixAtoms([-1, -2])])
    return atoms


def held():
    atoms = copper()
    atoms.set_constraint(FixAtoms([0]))
    return atoms


class Densities(Springs):
    implemented_properties = ["ldos"]  # noqa: RUF012


@pytest.mark.parametrize(
    ("atoms", "settings", "message"),
    [
        (copper, {"temperature": 0}, "temperature must be a positive number; got 0."),
        (copper, {"timestep": -1.0}, "timestep must be a positive number; got -1.0."),
        (copper, {"time_constant": "fast"}, "time_constant must be a positive number; got 'fast'."),
        (copper, {"pressure": np.nan}, "pressure must be a finite number; got nan."),
        (copper, {"n_steps": 0}, "n_steps must be an integer of at least 1; got 0."),
        (copper, {"interval": 2.5}, "interval must be an integer of at least 1; got 2.5."),
        (copper, {"seed": None}, "seed must be an integer of at least 0; got None."),
        (copper, {"ensemble": "nph"}, "ensemble must be one of 'nvt', 'nve', 'npt'; got 'nph'."),
        (copper, {"thermostat": "nose"}, "thermostat must be one of 'langevin', 'bussi'; got 'nose'."),
        (
            copper,
            {"pressure": 1.0},
            "pressure must be 0 at constant volume; got 1 GPa with ensemble='nvt'. Set ensemble='npt'.",
        ),
        (lambda: "Cu", {}, "atoms must be an ase.Atoms; got str."),
        (
            lambda: bulk("Cu", cubic=True),
            {},
            "atoms must have a calculator; got none. Set atoms.calc = TinyNetCalculator(model).",
        ),
        (
            single,
            {},
            "atoms must be at least two, as their centre of mass is held at rest; got 1. Use a supercell.",
        ),
        (
            bonded,
            {},
            "atoms may have the constraint FixAtoms; got FixBondLengths. Remove with atoms.set_constraint().",
        ),
        (
            held,
            {"ensemble": "npt"},
            "atoms must be free at constant pressure; got FixAtoms. Remove it with atoms.set_constraint(), "
            "or "
            "set ensemble='nvt'.",
        ),
        (
            oscillators,
            {"ensemble": "npt"},
            "atoms must be periodic in all directions at constant pressure; got pbc=[False, False, False]. "
            "Set "
            "ensemble='nvt'.",
        ),
        (
            copper,
            {"velocities": "keep"},
            "velocities='keep' needs atoms with velocities; got atoms at rest. Draw them: velocities='new'.",
        ),
        (
            lambda: oscillators(Densities),
            {},
            "atoms must have a calculator with forces; got one with ldos. Use a model of energies "
            "(BPNNPotential) or forces.",
        ),
        (
            lambda: oscillators(ForcesAlone),
            {"ensemble": "nve"},
            "a model that predicts forces alone needs ensemble='nvt' with thermostat='langevin', since its "
            "forces are the gradient of no energy and heat the atoms; got ensemble='nve'. Use that, or a "
            "model "
            "with an energy (BPNNPotential).",
        ),
        (
            lambda: oscillators(ForcesAlone),
            {"thermostat": "bussi"},
            "a model that predicts forces alone needs ensemble='nvt' with thermostat='langevin', since its "
            "forces are the gradient of no energy and heat the atoms; got ensemble='nvt', "
            "thermostat='bussi'. Use "
            "that, or a model with an energy (BPNNPotential).",
        ),
        (
            frozen,
            {},
            "atoms must have some that can move; got FixAtoms on all 4. Remove it with "
            "atoms.set_constraint().",
        ),
        (
            copper,
            {"max_temperature": -5},
            "max_temperature must be a positive number or None; got -5.",
        ),
        (copper, {"max_temperature": "5"}, "max_temperature must be a positive number or None; got '5'."),
        (
            copper,
            {"checkpoint_seconds": None},
            "checkpoint_seconds must be a number of at least 0; got None.",
        ),
        (
            copper,
            {"progress": 3},
            "progress must be a function of the step and the temperature, or None; got int.",
        ),
        (copper, {"restart": True}, "restart needs the folder of the run; got folder=None. Name it."),
    ],
)
def test_settings_that_make_no_sense(atoms, settings, message):
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(atoms(), **{"n_steps": 1, **settings})


def test_npt_needs_the_stress():
    atoms = oscillators()
    atoms.cell, atoms.pbc = [20, 20, 20], True
    message = (
        "ensemble='npt' needs a calculator with the stress; got one with energy, free_energy, forces. Set "
        "ensemble='nvt'."
    )
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(atoms, n_steps=1, ensemble="npt")


def test_nothing_is_written_over(tmp_path):
    folder = tmp_path / "run"
    run_dynamics(copper(), n_steps=1, folder=folder)
    message = (
        f"folder must be free of an earlier run; '{folder}' holds trajectory.traj, energies.csv, state.npz. "
        "Name another folder, delete them, or continue the run with restart."
    )
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(copper(), n_steps=1, folder=folder)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    message = (
        f"folder must be a place to write to; got '{tmp_path / 'run'}': File exists. Name another folder."
    )
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(copper(), n_steps=1, folder=tmp_path / "run")


def test_restart_with_other_settings(tmp_path):
    folder = tmp_path / "run"
    run_dynamics(copper(), n_steps=2, folder=folder)
    atoms = copper(2)
    message = (
        f"restart continues a run of the same settings; the one in '{folder}' differs in temperature (300 "
        "there, 400 now); seed (0 there, 1 now); the structure. Restore them, or name another folder."
    )
    with pytest.raises(RunSettingsError, match=f"^{re.escape(message)}$"):
        run_dynamics(atoms, n_steps=2, folder=folder, restart=True, temperature=400, seed=1)


def test_restart_with_another_model(tmp_path):
    folder = tmp_path / "run"
    atoms = copper()
    atoms.rattle(0.1, seed=0)
    run_dynamics(atoms, n_steps=2, folder=folder)
    atoms.calc = Springs(copper().positions)
    message = (
        r"restart needs the model that the run was started with; on the first configuration this one gives "
        r"forces that differ by up to \S+ eV/Angstrom\. Restore it, or name another folder\."
    )
    with pytest.raises(RunSettingsError, match=f"^{message}$"):
        run_dynamics(atoms, n_steps=4, folder=folder, restart=True)


def test_restart_from_damaged_files(tmp_path):
    folder = tmp_path / "run"
    run_dynamics(copper(), n_steps=2, interval=1, folder=folder)
    state = (folder / "state.npz").read_bytes()
    size = (folder / "energies.csv").stat().st_size
    (folder / "energies.csv").write_text("")
    message = (
        f"restart needs the files of the run; '{folder / 'energies.csv'}' has 0 bytes, at the checkpoint it "
        f"had {size}. Put it back, or begin anew in another folder."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_dynamics(copper(), n_steps=2, interval=1, folder=folder, restart=True)
    (folder / "state.npz").write_bytes(state[:200])
    message = (
        rf"restart needs an undamaged state file; '{re.escape(str(folder / 'state.npz'))}' cannot be read: "
        r".+\. Begin anew in another folder; the trajectory in this one is not touched\."
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        run_dynamics(copper(), n_steps=2, folder=folder, restart=True)


def test_restart_from_a_newer_version(tmp_path):
    folder = tmp_path / "run"
    run_dynamics(copper(), n_steps=2, folder=folder)
    with np.load(folder / "state.npz") as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(str(arrays["header"]))
    arrays["header"] = np.array(json.dumps({**header, "format": 2}))
    np.savez(folder / "state.npz", **arrays)
    message = (
        f"restart reads state files of format 1; '{folder / 'state.npz'}' has format 2 of "
        "tinynet_sklearn.dynamics. Update the package."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_dynamics(copper(), n_steps=2, folder=folder, restart=True)


# ---- Results -----------------------------------------------------------------------------------------------


def test_summary_and_plot_of_runs_that_did_not_get_far():
    def stop(step, temperature):
        signal.raise_signal(signal.SIGINT)

    result = run_dynamics(copper(), n_steps=20, equilibration=20, progress=stop)
    summary = result.summary()
    assert summary["temperature_mean_K"] is None
    assert summary["drift_meV_per_atom_ps"] is None
    assert summary["seconds_per_step"] is None
    assert json.loads(json.dumps(summary)) == summary
    assert len(result.plot().axes) == 2


def test_drift_is_the_slope():
    result = run_dynamics(copper(), n_steps=30, interval=10)
    result.table["conserved_eV"][:] = 5.0 + 4 * 0.002 * result.table["time_ps"]
    assert_allclose(result.drift(), 2.0)


def test_plots_at_constant_pressure_show_the_volume():
    result = run_dynamics(copper(), ensemble="npt", n_steps=10, equilibration=10)
    labels = [axes.get_ylabel() for axes in result.plot().axes]
    assert labels == ["temperature (K)", "conserved energy\n(meV/atom)", "volume\n(Å³/atom)"]
