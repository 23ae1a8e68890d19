"""The commands `tinynet md` and `tinynet export`: fitted models at work."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tinynet_sklearn.cli_options import (
    INTERRUPTED,
    PROBLEM,
    USAGE,
    fail,
    in_options,
    model_of,
    parse_supercell,
    user_errors,
)


class Ensemble(StrEnum):
    """What is constant besides the number of atoms."""

    nvt = "nvt"
    nve = "nve"
    npt = "npt"


class Thermostat(StrEnum):
    """How atoms are kept at the temperature."""

    langevin = "langevin"
    bussi = "bussi"


class CellChange(StrEnum):
    """What responds to the pressure."""

    full = "full"
    isotropic = "isotropic"


class Precision(StrEnum):
    """Of networks."""

    double = "double"
    single = "single"


class Format(StrEnum):
    """Formats of trajectories."""

    traj = "traj"
    extxyz = "extxyz"


def md(
    model: Annotated[
        str,
        typer.Argument(
            help="A file of save_model, or the name of a potential that comes along: batio3, moo3."
        ),
    ],
    structure: Annotated[
        Path | None,
        typer.Argument(
            help="Where to begin: a file in any format that ASE reads, its last frame. Without, the mean "
            "structure of the data that the model was fitted on."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="K.")] = 300.0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the production.")] = 10_000,
    ensemble: Annotated[Ensemble, typer.Option(help="What is constant besides the atoms.")] = Ensemble.nvt,
    timestep: Annotated[float, typer.Option(help="fs.")] = 1.0,
    output: Annotated[Path, typer.Option(help="Folder for trajectory, table, plot and state.")] = Path(
        "tinynet-md"
    ),
    interval: Annotated[int, typer.Option(min=1, help="Steps between frames, and lines of the table.")] = 10,
    supercell: Annotated[
        str, typer.Option(help="Repetitions of the structure: one number (2) or three (4x4x2).")
    ] = "1",
    equilibration: Annotated[
        int, typer.Option(min=0, help="Steps before the production, not in the trajectory.")
    ] = 0,
    thermostat: Annotated[Thermostat, typer.Option(help="Of nvt.")] = Thermostat.langevin,
    time_constant: Annotated[
        float, typer.Option(help="Of the thermostat, fs; the inverse of the friction of langevin.")
    ] = 100.0,
    pressure: Annotated[float, typer.Option(help="Of npt, GPa.")] = 0.0,
    pressure_time_constant: Annotated[float, typer.Option(help="Of the barostat, fs.")] = 1000.0,
    cell: Annotated[
        CellChange,
        typer.Option(help="Of npt: lengths and angles respond to the pressure, or the volume alone."),
    ] = CellChange.full,
    keep_velocities: Annotated[
        bool, typer.Option("--keep-velocities", help="Begin with the velocities of the structure.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="For velocities and thermostat.")] = 0,
    trajectory_format: Annotated[Format, typer.Option("--format", help="Of the trajectory.")] = Format.traj,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Continue the run in the folder, with the same settings and as many or more steps; begin "
            "where there is none.",
        ),
    ] = False,
    stop_on_extrapolation: Annotated[
        bool,
        typer.Option(
            "--stop-on-extrapolation", help="End when atoms leave the training data; without, count them."
        ),
    ] = False,
    precision: Annotated[Precision, typer.Option(help="Of the networks.")] = Precision.double,
    threads: Annotated[int, typer.Option(min=1, help="For more than some ten thousand atoms.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run molecular dynamics with a fitted model.

    Writes trajectory, energies.csv, dynamics.png, summary.json and state.npz into a folder. A run that was
    interrupted or killed at any moment is continued by the same command with --restart, and gives what it
    would have given without interruption.

    Exits with 1 if the simulation blows up or leaves what the model knows, with 130 after Ctrl-C and 143
    after SIGTERM; what was reached is on the disk.
    """
    with user_errors() as console:
        try:
            repeat = parse_supercell(supercell)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--supercell") from None
        from tinynet_sklearn.calculator import TinyNetCalculator
        from tinynet_sklearn.dynamics import run_dynamics
        from tinynet_sklearn.run_results import DynamicsError
        from tinynet_sklearn.run_settings import RunSettingsError

        try:
            fitted = model_of(model)
            calculator = TinyNetCalculator(
                fitted,
                precision=precision.value,
                n_threads=threads,
                on_extrapolation="raise" if stop_on_extrapolation else "ignore",
                warn=False,
            )
        except (OSError, TypeError, ValueError) as error:
            raise typer.BadParameter(in_options(str(error)), param_hint="MODEL") from None
        atoms = _start(structure, fitted, repeat)
        atoms.calc = calculator
        try:
            with _progress(equilibration, steps) as progress:
                result = run_dynamics(
                    atoms,
                    temperature=temperature,
                    n_steps=steps,
                    ensemble=ensemble.value,
                    timestep=timestep,
                    folder=output,
                    interval=interval,
                    equilibration=equilibration,
                    thermostat=thermostat.value,
                    time_constant=time_constant,
                    pressure=pressure,
                    pressure_time_constant=pressure_time_constant,
                    cell=cell.value,
                    velocities="keep" if keep_velocities else "new",
                    seed=seed,
                    trajectory_format=trajectory_format.value,
                    restart=restart,
                    progress=progress,
                )
        except RunSettingsError as error:
            fail(in_options(str(error)), USAGE)
        except DynamicsError as error:
            fail(in_options(str(error)), PROBLEM)
        if as_json:
            typer.echo(json.dumps(result.summary(), indent=2))
        else:
            from tinynet_sklearn.reports import print_dynamics

            print_dynamics(console, result, learned_stress=_learned_stress(fitted))
    if result.stopped_by:
        fail(
            f"interrupted by {result.stopped_by}; continue with --restart.",
            INTERRUPTED + signal.Signals[result.stopped_by],
        )


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="A file of save_model, or the name of a potential that comes along: batio3, moo3."
        ),
    ],
    structure: Annotated[
        Path | None,
        typer.Argument(help="A file in any format that ASE reads, its last frame; see tinynet md."),
    ] = None,
    lammps: Annotated[bool, typer.Option("--lammps", help="For molecular dynamics in LAMMPS.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("tinynet-lammps"),
    supercell: Annotated[
        str, typer.Option(help="Repetitions of the structure: one number (2) or three (4x4x2).")
    ] = "1",
    temperature: Annotated[float, typer.Option(help="K.")] = 300.0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each part of the run.")] = 1000,
    timestep: Annotated[float, typer.Option(help="fs.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the names of the files as JSON.")] = False,
) -> None:
    """Write what another program needs to run a fitted model.

    With --lammps: a folder with the atoms, the model, LAMMPS commands and a script that runs them on any
    number of MPI ranks. Files that are there are not overwritten. For models on a frozen bond graph, of a
    crystal that keeps its bonds.
    """
    if not lammps:
        raise typer.BadParameter(
            "is needed: it is the one program that models are written for.", param_hint="--lammps"
        )
    with user_errors() as console:
        try:
            repeat = parse_supercell(supercell)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--supercell") from None
        from tempfile import TemporaryDirectory

        from tinynet_sklearn.lammps_files import check_graph, export_lammps
        from tinynet_sklearn.persistence import save_model

        try:
            fitted = model_of(model)
            check_graph(fitted)
        except (OSError, TypeError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint="MODEL") from None
        atoms = _start(structure, fitted, repeat)
        with TemporaryDirectory() as folder:
            path = Path(model)
            if not path.is_file():  # one that comes along
                path = Path(folder) / "model.tinynet"
                save_model(fitted, path)
            try:
                files = export_lammps(
                    path, atoms, output, temperature=temperature, steps=steps, timestep=timestep
                )
            except (FileExistsError, NotADirectoryError, ValueError) as error:
                fail(in_options(str(error)), USAGE)
        if as_json:
            typer.echo(json.dumps({"written": [str(file) for file in files]}, indent=2))
            return
        for file in files:
            console.print(str(file), markup=False)
        console.print(f"\nRun it with: python {output / 'run.py'}", markup=False)


def _start(path: Path | None, model: Any, repeat: tuple[int, int, int]) -> Any:
    """Last frame of a file, or the reference structure of a model; repeated."""
    from tinynet_sklearn.io import read_structures

    try:
        atoms = _reference(model) if path is None else read_structures(path)[-1]
    except (OSError, ValueError) as error:
        fail(str(error), USAGE)
    if repeat == (1, 1, 1):  # whatever constraints there are
        return atoms
    try:
        return atoms.repeat(repeat)
    except NotImplementedError:
        names = ", ".join(sorted({type(found).__name__ for found in atoms.constraints}))
        fail(
            f"structure must have no constraints but FixAtoms to be repeated; got {names}. Remove them from "
            f"{path}.",
            USAGE,
        )


def _reference(model: Any) -> Any:
    from ase import Atoms

    steps = getattr(getattr(model, "best_estimator_", model), "steps", [])
    first = steps[0][1] if steps else None
    parts = [part for _, part in getattr(first, "transformer_list", [("", first)])]  # of a FeatureUnion
    reference = next((part.reference_ for part in parts if hasattr(part, "reference_")), None)
    if reference is None:
        raise typer.BadParameter(
            "the model was fitted on no single crystal; name a structure.", param_hint="STRUCTURE"
        )
    return Atoms(reference.numbers, reference.positions, cell=reference.cell, pbc=reference.pbc)


def _learned_stress(model: Any) -> bool:
    """Whether stresses were among the training data of a model."""
    steps = getattr(getattr(model, "best_estimator_", model), "steps", None)
    return "stress" in getattr(steps[-1][1] if steps else model, "quantities_", ())


@contextmanager
def _progress(equilibration: int, steps: int) -> Iterator[Callable[[int, float], None]]:
    """Give a function that shows step and temperature on the error stream, where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from tinynet_sklearn.reports import progress_bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with progress_bar(*columns) as progress:
        task = progress.add_task("", total=equilibration + steps)

        def show(step: int, temperature: float) -> None:
            what = "equilibration" if step < 0 else "production"
            progress.update(task, completed=step + equilibration, description=f"{what}, {temperature:.0f} K")

        yield show


#: The commands with an example of each.
COMMANDS = {
    md: "tinynet md batio3 --supercell 2 --temperature 300 --steps 5000 --output run",
    export: "tinynet export batio3 --lammps --supercell 2x2x4 --output lammps-run",
}
