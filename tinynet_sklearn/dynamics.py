"""Molecular dynamics that can be killed and continued, with a table of energies and a trajectory.

`run_dynamics` runs ASE's integrators (`integrators`) with the calculator of a structure, ends a run that
blows up, and writes everything to a folder from which a run goes on (`run_files`).
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator

from tinynet_sklearn._validation import described
from tinynet_sklearn.atomic_files import write_atomically
from tinynet_sklearn.checkpoint import fingerprint
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.integrators import Bath, Integrator, draw_velocities, free_the_centre, temperature_of
from tinynet_sklearn.run_files import PLOT, SUMMARY, Checkpoint, RunFiles
from tinynet_sklearn.run_results import DynamicsError, DynamicsResult, has_energy
from tinynet_sklearn.run_settings import RunSettings, RunSettingsError

__all__ = ["run_dynamics"]

# Thermal fluctuations of a few atoms reach a few times the temperature; a run that blows up passes any limit.
HOTTEST_FACTOR, HOTTEST_LEAST = 10.0, 5000.0  # of the temperature; K

# Forces (eV/Angstrom) of one model on one configuration differ by less on any machine.
SAME_FORCES = 1e-5

# A cell that is so much longer or shorter in any direction is to blame for what a calculator refuses.
FARTHEST_CELL = 1.15
CALMER = (
    "Set a pressure closer to that of the first configuration, a longer pressure_time_constant or a shorter "
    "timestep, or take a model that learned stresses."
)

# Arrays of a structure that mean the same after any number of steps; momenta change along.
_LASTING = {"numbers", "positions", "momenta", "masses", "tags", "initial_magmoms", "initial_charges"}

Progress = Callable[[int, float], None]


def run_dynamics(
    atoms: Atoms,
    *,
    temperature: float = 300.0,
    n_steps: int = 10_000,
    ensemble: str = "nvt",
    timestep: float = 1.0,
    folder: str | os.PathLike[str] | None = None,
    interval: int = 10,
    equilibration: int = 0,
    thermostat: str = "langevin",
    time_constant: float = 100.0,
    pressure: float = 0.0,
    pressure_time_constant: float = 1000.0,
    cell: str = "full",
    velocities: str = "new",
    seed: int = 0,
    trajectory_format: str = "traj",
    restart: bool = False,
    max_temperature: float | None = None,
    checkpoint_seconds: float = 10.0,
    progress: Callable[[int, float], None] | None = None,
) -> DynamicsResult:
    """Run molecular dynamics with the calculator of a structure.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator, such as `TinyNetCalculator`; not changed. Of constraints, `FixAtoms` will do.
    temperature : float, default=300
        K; of the start, and of the thermostat.
    n_steps : int, default=10000
        Steps of the production.
    ensemble : {"nvt", "nve", "npt"}, default="nvt"
        What is constant besides the number of atoms: volume and temperature, volume and energy, or pressure
        and temperature (needs the stress).
    timestep : float, default=1
        fs.
    folder : str, path-like or None, default=None
        For the files (`run_files`); made if it is not there. None keeps table and frames in memory.
    interval : int, default=10
        Every so many steps there is a frame and a line in the table; also at the last step.
    equilibration : int, default=0
        Steps before the production, numbered from -equilibration. They go into the table, not into the
        trajectory. "nve" is equilibrated by Langevin dynamics at the temperature.
    thermostat : {"langevin", "bussi"}, default="langevin"
        For "nvt": BAOAB Langevin dynamics, or stochastic velocity rescaling, which disturbs the motion less
        (for diffusion and spectra) and thermalises single vibrations more slowly.
    time_constant : float, default=100
        Of the thermostat, fs; for Langevin dynamics the inverse of the friction.
    pressure : float, default=0
        For "npt", GPa.
    pressure_time_constant : float, default=1000
        Of the barostat, fs.
    cell : {"full", "isotropic"}, default="full"
        Whether all lengths and angles respond to the pressure (crystals), or the volume alone (liquids).
    velocities : {"new", "keep"}, default="new"
        Draw velocities from the Maxwell-Boltzmann distribution, scaled to exactly `temperature`; or take
        those of `atoms`. In both cases the centre of mass is brought to rest.
    seed : int, default=0
        For velocities and thermostat: the same seed, the same trajectory.
    trajectory_format : {"traj", "extxyz"}, default="traj"
    restart : bool, default=False
        Go on from the last checkpoint in `folder`; where there is nothing of a run, begin. All settings must
        be those of the run except `n_steps`, which may be larger. The result is that of a run without
        interruption, to the last bit if the calculator is a function of the first and the present
        configuration.
    max_temperature : float or None, default=None
        K; beyond it the run has blown up. None is ten times `temperature`, at least 5000.
    checkpoint_seconds : float, default=10
        Seconds between checkpoints. A kill at any moment costs as much of the work.
    progress : callable or None, default=None
        Called with the step and the temperature (K) at every record.

    Returns
    -------
    DynamicsResult
        Also if the run was ended early by SIGINT (Ctrl-C) or SIGTERM, after a checkpoint; see its `finished`.

    Raises
    ------
    RunSettingsError
        If arguments make no sense, or do not go together or with what is in `folder`; if another process is
        at work there, or the calculator refuses the first configuration.
    DynamicsError
        If the run blows up or leaves what the calculator can do. Files hold everything up to there.
    ValueError
        If files in `folder` are damaged, or of another model.

    Notes
    -----
    Velocities drawn at T on a relaxed crystal give T/2 after a while: half of the kinetic energy becomes
    potential energy. A thermostat makes up for it; for "nve", set `equilibration`.

    Examples
    --------
    >>> from tinynet_sklearn import TinyNetCalculator, load_moo3, load_pretrained, run_dynamics
    >>> atoms = load_moo3().structures[0] * (2, 1, 2)
    >>> atoms.calc = TinyNetCalculator(load_pretrained("moo3"), on_extrapolation="ignore")  # they are counted
    >>> result = run_dynamics(atoms, temperature=300, n_steps=20, interval=5)
    >>> result.table["step"].tolist(), len(result.frames())
    ([0.0, 5.0, 10.0, 15.0, 20.0], 5)
    """
    settings = RunSettings(
        temperature=temperature,
        n_steps=n_steps,
        ensemble=ensemble,
        timestep=timestep,
        interval=interval,
        equilibration=equilibration,
        thermostat=thermostat,
        time_constant=time_constant,
        pressure=pressure,
        pressure_time_constant=pressure_time_constant,
        cell=cell,
        velocities=velocities,
        seed=seed,
        trajectory_format=trajectory_format,
    )
    settings.check(atoms)
    _check_rest(max_temperature, checkpoint_seconds, progress)
    hottest = max(HOTTEST_FACTOR * temperature, HOTTEST_LEAST) if max_temperature is None else max_temperature
    run = _Run(
        atoms, settings, None if folder is None else Path(folder), hottest, checkpoint_seconds, progress
    )
    try:
        run.open(restart)
        with _signals() as caught:
            run.go(caught)
        run.files.close()
        return run.finish(caught[0] if caught else "")
    finally:
        run.files.close()
        run.files.release()


def _check_rest(max_temperature: Any, checkpoint_seconds: Any, progress: Any) -> None:
    """Refuse what makes no sense among the parameters that do not decide the result."""
    hot = isinstance(max_temperature, Real) and float(max_temperature) > 0
    if max_temperature is not None and not hot:
        raise RunSettingsError(f"max_temperature must be a positive number or None; got {max_temperature!r}.")
    if not isinstance(checkpoint_seconds, Real) or not float(checkpoint_seconds) >= 0:
        raise RunSettingsError(
            f"checkpoint_seconds must be a number of at least 0; got {checkpoint_seconds!r}."
        )
    if progress is not None and not callable(progress):
        raise RunSettingsError(
            "progress must be a function of the step and the temperature, or None; got "
            f"{described(progress)}."
        )


class _Run:
    """A run between its first and its last step.

    Stages are names of integrators with the step that is their last, one after the other; steps are counted
    from the end of the equilibration.
    """

    def __init__(
        self,
        atoms: Atoms,
        settings: RunSettings,
        folder: Path | None,
        hottest: float,
        checkpoint_seconds: float,
        progress: Progress | None,
    ) -> None:
        self.settings, self.constraints = settings, list(atoms.constraints)
        self.hottest, self.checkpoint_seconds, self.progress = hottest, checkpoint_seconds, progress
        self.atoms = _bare(atoms)
        self.atoms.calc = atoms.calc
        self.files = RunFiles(folder, settings.trajectory_format, _prints(atoms, settings))
        self.rng = np.random.default_rng(settings.seed)
        self.stages = _stages(settings)
        self.step, self.stage = -settings.equilibration, 0
        self.first: dict[str, Any] = {}
        self.resumed: dict[str, Any] | None = None
        self.began, self.began_with = time.perf_counter(), self.step

    # ---- Start -----------------------------------------------------------------------------------------

    def open(self, restart: bool) -> None:
        """Set momenta and open new files; or everything as it was at the checkpoint."""
        self.files.lock()
        found = self.files.read() if restart else None
        if found is None:
            self.files.refuse_earlier_run(restart)
        if self.settings.velocities == "new":
            draw_velocities(self.atoms, self.settings.temperature, self.rng)
        free_the_centre(self.atoms, self.settings.ensemble)
        if found is not None:
            self._continue_from(found)
            return
        self.first = {
            "first_positions": self.atoms.positions.copy(),
            "first_cell": self.atoms.cell.array.copy(),
            "first_forces": self._forces(),
        }
        self.files.begin(restart)

    def _continue_from(self, found: Checkpoint) -> None:
        if found.step > self.settings.n_steps:
            raise RunSettingsError(
                f"n_steps must be at least {found.step}, what the run in '{self.files.folder}' has done; got "
                f"{self.settings.n_steps}. A run can be extended, not cut."
            )
        self.first = {name: array for name, array in found.arrays.items() if name.startswith("first_")}
        # A calculator that lays out its topology at the first call sees what it saw then.
        self.atoms.set_cell(found.arrays["first_cell"])
        self.atoms.positions[:] = found.arrays["first_positions"]
        change = float(np.abs(self._forces() - found.arrays["first_forces"]).max())
        if not change < SAME_FORCES:
            raise RunSettingsError(
                "restart needs the model that the run was started with; on the first configuration this one "
                f"gives forces that differ by up to {change:.2g} eV/Angstrom. Restore it, or name another "
                "folder."
            )
        self.atoms.set_cell(found.arrays["cell"])
        self.atoms.positions[:] = found.arrays["positions"]
        self.atoms.set_momenta(found.arrays["momenta"], apply_constraint=False)
        self.step, self.stage, self.resumed = found.step, found.stage, found.integrator
        self.files.resume()

    def _forces(self) -> FloatArray:
        """Forces on the first configuration, which a calculator may refuse."""
        try:
            return np.array(self.atoms.get_forces(apply_constraint=False), dtype=np.float64)
        except ValueError as error:
            raise RunSettingsError(str(error)) from error

    # ---- Steps -----------------------------------------------------------------------------------------

    def go(self, caught: list[str]) -> None:
        """Do all steps, or as many as there are before a signal."""
        self.began, self.began_with = time.perf_counter(), self.step
        for stage in range(self.stage, len(self.stages)):
            self.stage = stage
            integrator = self._integrator()
            self._loop(integrator, caught)
            if self.step < self.stages[stage][1]:
                return

    def _integrator(self) -> Integrator:
        """Integrator of the stage, as at the checkpoint; or a new one, with the record of its start."""
        settings = self.settings
        bath = Bath(
            settings.temperature, settings.time_constant, settings.pressure, settings.pressure_time_constant
        )
        name, _ = self.stages[self.stage]
        integrator = Integrator(name, self.atoms, settings.timestep, bath, self.rng)
        if self.resumed is not None:
            integrator.restore(self.resumed)
            self.resumed = None
            return integrator
        if self.step % settings.interval == 0:
            self._record(integrator, temperature_of(self.atoms))
        self._save(integrator)
        return integrator

    def _loop(self, integrator: Integrator, caught: list[str]) -> None:
        last, final = self.stages[self.stage][1], self.stage == len(self.stages) - 1
        saved = time.perf_counter()
        while self.step < last and not caught:
            self._advance(integrator)
            if self.step == last and not final:
                return  # the next stage records and saves its start
            if self.step % self.settings.interval == 0:
                self._record(integrator, temperature_of(self.atoms))
            if time.perf_counter() - saved > self.checkpoint_seconds:
                self._save(integrator)
                saved = time.perf_counter()
        self._save(integrator)
        if final and self.step == last and last % self.settings.interval:
            # After the checkpoint: a run that is extended cuts it off, and is as if never ended here.
            self._forces()
            self._record(integrator, temperature_of(self.atoms))

    def _advance(self, integrator: Integrator) -> None:
        """Do one step, or say why it cannot be done."""
        self.step += 1
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # the temperature tells
                integrator.step()
        except (ValueError, ArithmeticError) as error:
            self._fail(self._cell_left() or str(error), error)
        temperature = temperature_of(self.atoms)
        if not temperature < self.hottest:  # NaN is not
            self._fail(
                f"the temperature is {temperature:.4g} K, the limit {self.hottest:.4g} K. Shorten the time "
                "step, begin closer to equilibrium, or train the model on configurations like the last ones."
            )

    def _cell_left(self) -> str:
        """Say that the cell is far from where it began, which calculators take for a wrong structure."""
        if self.settings.ensemble != "npt":
            return ""
        change = np.linalg.solve(self.first["first_cell"], self.atoms.cell.array)
        if not np.isfinite(change).all():
            return "the cell is no longer finite. " + CALMER
        stretches = np.linalg.svd(change, compute_uv=False)
        if stretches[-1] > 1 / FARTHEST_CELL and stretches[0] < FARTHEST_CELL:
            return ""
        return (
            f"the cell has left the one of the start: its lengths are {stretches[-1]:.2f} to "
            f"{stretches[0]:.2f} times as long, its volume is {np.prod(stretches):.2f} times as large. "
            + CALMER
        )

    def _fail(self, reason: str, error: Exception | None = None) -> None:
        self.files.close()
        moment = f"step {self.step} ({self.step * self.settings.timestep * 1e-3:g} ps)"
        kept = "" if self.files.folder is None else f"\nEverything before it is in '{self.files.folder}'."
        raise DynamicsError(
            f"the run ended at {moment}: {reason}{kept}", self.finish("", failed=True)
        ) from error

    # ---- What is kept ----------------------------------------------------------------------------------

    def _record(self, integrator: Integrator, temperature: float) -> None:
        """Add a line to the table and, in the production, a frame to the trajectory."""
        atoms = self.atoms
        kinetic = float(atoms.get_kinetic_energy())
        potential = float(atoms.get_potential_energy()) if has_energy(atoms) else np.nan
        pressure = np.nan
        if atoms.pbc.all() and "stress" in atoms.calc.implemented_properties:
            stress = atoms.get_stress(include_ideal_gas=True, apply_constraint=False)
            pressure = -float(np.mean(stress[:3])) / units.GPa
        flags = atoms.calc.results.get("extrapolating")
        time_ps = self.step * self.settings.timestep * 1e-3
        row = (
            self.step,
            time_ps,
            kinetic,
            potential,
            kinetic + potential,
            integrator.conserved(),
            temperature,
            pressure,
            float(atoms.get_volume()) if atoms.cell.rank == 3 else np.nan,
            np.nan if flags is None else float(np.count_nonzero(flags)),
        )
        self.files.add(row, self._frame(time_ps) if self.step >= 0 else None)
        if self.progress is not None:
            self.progress(self.step, temperature)

    def _frame(self, time_ps: float) -> Atoms:
        """Copy of the atoms with results, and with the constraints that the user gave."""
        frame = self.atoms.copy()
        frame.set_constraint(self.constraints)
        frame.info = {"step": self.step, "time_ps": time_ps}
        calculator = self.atoms.calc
        grid = getattr(calculator, "ldos_grid", None)
        if grid is not None:  # the curves of all atoms would take as much room as all the rest
            frame.info["dos"] = np.sum(calculator.results["ldos"], axis=0)
            frame.info["dos_energies"] = np.array([grid.low, grid.high])
            frame.info["dos_zero"] = grid.zero
            frame.info["dos_width"] = np.nan if grid.width is None else grid.width
        results = {name: value for name, value in calculator.results.items() if name in all_properties}
        frame.calc = SinglePointCalculator(frame, **results)
        frame.calc.name = getattr(calculator, "name", None)
        return frame

    def _save(self, integrator: Integrator) -> None:
        arrays = {
            "positions": self.atoms.get_positions(),
            "momenta": self.atoms.get_momenta(),
            "cell": self.atoms.cell.array.copy(),
            **self.first,
        }
        self.files.save(Checkpoint(self.step, self.stage, arrays, integrator.state()))

    def finish(self, stopped_by: str, failed: bool = False) -> DynamicsResult:
        """Write summary and plot; return the result."""
        n_done = self.step - self.began_with
        self.atoms.set_constraint(self.constraints)  # without FixCom, which the user did not set
        result = DynamicsResult(
            table=self.files.table(),
            atoms=self.atoms,
            step=self.step - failed,
            finished=self.step >= self.settings.n_steps and not failed,
            stopped_by=stopped_by,
            seconds_per_step=(time.perf_counter() - self.began) / n_done if n_done else float("nan"),
            settings=self.settings,
            folder=self.files.folder,
            files=self.files,
        )
        if result.folder is not None:
            text = json.dumps(result.summary(), indent=2) + "\n"
            write_atomically(result.folder / SUMMARY, text.encode())
            result.plot().savefig(picture := io.BytesIO(), format="png")
            write_atomically(result.folder / PLOT, picture.getvalue())
        return result


def _bare(atoms: Atoms) -> Atoms:
    """Copy without notes and numbers that belong to the first configuration only."""
    copy = atoms.copy()
    copy.info = {}
    for name in set(copy.arrays) - _LASTING:
        copy.set_array(name, None)
    return copy


def _prints(atoms: Atoms, settings: RunSettings) -> dict[str, str]:
    """What decides the result, as text."""
    structure = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses()]
    structure += [atoms.get_momenta()] if settings.velocities == "keep" else []
    structure += [found.index for found in atoms.constraints]
    parts = {name: value for name, value in asdict(settings).items() if name != "n_steps"}
    return fingerprint({**parts, "the structure": structure})


def _stages(settings: RunSettings) -> list[tuple[str, int]]:
    last = settings.n_steps
    if settings.ensemble == "npt":
        return [(f"mtk-{settings.cell}", last)]
    production = settings.thermostat if settings.ensemble == "nvt" else "verlet"
    if production == "langevin" or not settings.equilibration:
        return [(production, last)]
    return [("langevin", 0), (production, last)]


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Collect SIGINT and SIGTERM, so that a step is finished before a run ends; obey the second SIGINT."""
    caught: list[str] = []

    def note(number: int, _: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():  # Python lets only that one have handlers
        yield caught
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
