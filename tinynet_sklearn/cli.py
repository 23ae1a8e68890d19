"""The ``tinynet`` command.

Thin calls: what is computed lives in `quickstart`, `inspection` and `dynamics`, how it looks in `reports`.
Heavy imports wait until a command runs, so that ``tinynet --help`` answers at once.

Exit codes: 0 fine, 1 a problem in the data or in the course of a run, 2 wrong usage, with nothing written; of
``tinynet md``, 130 after Ctrl-C and 143 after SIGTERM.
"""

import inspect as inspect_module
import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from tinynet_sklearn._version import __version__

if TYPE_CHECKING:
    from rich.console import Console

PROBLEM, USAGE, INTERRUPTED = 1, 2, 128

# How Python's arguments, as messages name them, are given on the command line.
OPTIONS = (
    (r"^(temperature|timestep|time_constant|pressure|pressure_time_constant) must", r"--\1 must"),
    (r"^(ensemble|thermostat|interval|equilibration|seed) must", r"--\1 must"),
    (r"^cell must be one of", "--cell must be one of"),
    (r"^n_steps must", "--steps must"),
    (r"^folder must", "--output must"),
    (r"^restart ", "--restart "),
    (r"the run with restart", "the run with --restart"),
    (r"\b(ensemble|thermostat)='(\w+)'", r"--\1 \2"),
    (r"Set --ensemble", "Use --ensemble"),
    (r"or set --ensemble", "or use --ensemble"),
    (r"velocities='keep'", "--keep-velocities"),
    (r"Draw them: velocities='new'\.", "Without it they are drawn."),
    (r"(, or )?set on_extrapolation='(warn|ignore)'", r"\1leave out --stop-on-extrapolation"),
    (r"on_extrapolation='raise'", "--stop-on-extrapolation"),
    (r"on_extrapolation='(warn|ignore)'", "leaving out --stop-on-extrapolation"),
    (r"; atoms in another order need a calculator of their own", ""),
    (
        r"a longer pressure_time_constant or a shorter timestep",
        "a longer --pressure-time-constant or a shorter --timestep",
    ),
    (r"(Remove) (it )?with atoms\.set_constraint\(\)", r"\1 it from the file of the structure"),
    (r"(^--stop-on-.*), or use 'warn' or 'ignore'", r"\1, or leave out --stop-on-extrapolation"),
)

Command = TypeVar("Command", bound=Callable[..., Any])

app = typer.Typer(
    name="tinynet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Chemical-bonding-aware machine learning for materials.",
)


class Material(StrEnum):
    """Bundled data sets."""

    batio3 = "batio3"
    moo3 = "moo3"
    both = "both"


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


def _flowing(command: Command) -> Command:
    """Let the terminal break the lines of a docstring: typer keeps those after the first paragraph."""
    paragraphs = inspect_module.cleandoc(command.__doc__ or "").split("\n\n")
    command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return command


def main() -> None:
    """Run the command line."""
    app()


def parse_bonds(text: str) -> Any:
    """Turn the ``--bonds`` option into what `CycleMomentFeaturizer` takes.

    Parameters
    ----------
    text : str
        A cutoff ("3.1"), "natural", or cutoffs by pair ("Ba-O=3.6,Ti-O=2.7").

    Raises
    ------
    ValueError
        If it is none of these.
    """
    from ase import Atoms

    from tinynet_sklearn.graph import build_bond_graph

    contract = "bonds must be a cutoff (3.1), 'natural', or cutoffs by pair (Ba-O=3.6,Ti-O=2.7)"
    if text == "natural":
        return text
    try:
        if "=" not in text:
            bonds: Any = float(text)
        else:
            pairs = (part.split("=") for part in text.split(","))
            bonds = {pair.strip(): float(cutoff) for pair, cutoff in pairs}
    except ValueError:
        raise ValueError(f"{contract}, got {text!r}.") from None
    build_bond_graph(Atoms("H"), bonds)  # rules check their numbers when they are used
    return bonds


def parse_supercell(text: str) -> tuple[int, int, int]:
    """Turn the ``--supercell`` option into repetitions along the three lattice vectors.

    Parameters
    ----------
    text : str
        One number ("2") or three ("4x4x2").

    Raises
    ------
    ValueError
        If it is neither.
    """
    numbers = [int(part) for part in text.split("x")] if re.fullmatch(r"\d+(x\d+x\d+)?", text) else [0]
    if min(numbers) < 1:
        raise ValueError(f"supercell must be one number (2) or three (4x4x2), each at least 1, got {text!r}.")
    a, b, c = numbers * 3 if len(numbers) == 1 else numbers
    return a, b, c


def in_options(message: str) -> str:
    """Write a message of the Python functions for those who call them by the command line."""
    for pattern, option in OPTIONS:
        message = re.sub(pattern, option, message)
    return re.sub(r"(?<!\S)--\w+", lambda found: found[0].replace("_", "-"), message)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tinynet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example:  tinynet quickstart --output my-first-model --material moo3")
@_flowing
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the models and plots.")] = Path(
        "tinynet-quickstart"
    ),
    material: Annotated[Material, typer.Option(help="Which bundled data to learn.")] = Material.both,
    seed: Annotated[int, typer.Option(min=0, help="For the split and the initial weights.")] = 0,
    max_iter: Annotated[int, typer.Option(min=1, help="L-BFGS iterations per network.")] = 400,
) -> None:
    """Train and test force models on the bundled DFT data, in about half a minute.

    For BaTiO3 and MoO3: finds the bonds, embeds every atom, trains one tiny network per species, shows the
    errors on held-out structures next to those of predicting zero, writes the model and a parity plot, and
    reads the model back to predict again.
    """
    with _user_errors() as console:
        from tinynet_sklearn.quickstart import MATERIALS, make_folder

        if output.exists() and not output.is_dir():
            raise typer.BadParameter(f"{output} is a file; name a folder.", param_hint="--output")
        try:
            make_folder(output)
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--output") from None
        names = list(MATERIALS) if material is Material.both else [material.value]
        same = [_learn(console, name, output, seed, max_iter) for name in names]
        example = output / f"{names[0]}.tinynet"
        console.print(
            f"\nTo use a model in Python: tinynet_sklearn.load_model({str(example)!r})", markup=False
        )
        if not all(same):
            raise ValueError("a model read back from its file does not predict the same; please report this.")


def _learn(console: "Console", name: str, output: Path, seed: int, max_iter: int) -> bool:
    """Run the steps of the quickstart on one material; whether the saved model predicts the same."""
    from tinynet_sklearn import quickstart, reports

    data = quickstart.MATERIALS[name]()
    console.print()
    console.rule(f"[bold]{data.DESCR.splitlines()[0]}")
    train, test = quickstart.split(data, seed)
    structures = [data.structures[i] for i in test]
    reports.section(
        console,
        "Data",
        f"{len(data.structures)} structures of {len(structures[0])} atoms, forces from DFT",
        f"{len(train)} to learn from; {len(test)} held out for the test, one in {quickstart.N_FOLDS} of each "
        "temperature (independent structures, each a group of its own)",
    )
    pipeline = quickstart.make_pipeline(data.bonds, max_iter=max_iter, random_state=seed, verbose=1)
    featurizer = pipeline["embed"].fit([data.structures[i] for i in train])
    bonds = ", ".join(f"{pair} below {cutoff} Angstrom" for pair, cutoff in data.bonds.items())
    reports.section(
        console,
        "Bonds and features",
        f"{bonds}; closed walks of up to {featurizer.n} hops, neighbours up to {featurizer.N} hops",
        reports.features_table(quickstart.describe_features(featurizer), featurizer.n_features_out_),
    )
    layers = "x".join(str(n) for n in pipeline["net"].hidden_layer_sizes)
    reports.section(console, f"Training one {layers} network per species on forces")
    with console.status("training ..."):
        seconds = quickstart.train(pipeline, data, train)
    console.print(f"done in {seconds:.0f} s")
    predicted = pipeline.predict(structures)
    rows = quickstart.evaluate(data.target[test], predicted, data.temperatures[test])
    reports.section(
        console,
        f"Errors on held-out structures, eV/Angstrom (label noise: about {data.label_noise:.2g})",
        reports.errors_table(rows),
    )
    metadata = {
        "data": name,
        "target": "forces, eV/Angstrom",
        "seed": seed,
        "test_rmse": rows[-1].rmse,
        "test_mae": rows[-1].mae,
        "test_frames": [int(frame) for frame in data.frames[test]],
    }
    plot_title = f"{structures[0].info['material']}, {len(test)} held-out structures"
    saved = quickstart.save(
        pipeline, output, name, plot_title, structures, data.target[test], predicted, metadata
    )
    reports.section(
        console,
        "Files",
        f"{saved.model} ({saved.size / 1024:.0f} kB); read back: "
        + ("exactly the same forces" if saved.identical else "OTHER FORCES"),
        f"{saved.plot}",
    )
    return saved.identical


@app.command(epilog="Example:  tinynet inspect frames.extxyz --bonds Ba-O=3.6,Ti-O=2.7")
@_flowing
def inspect(
    file: Annotated[Path, typer.Argument(help="Structures in any format that ASE reads.")],
    bonds: Annotated[
        str,
        typer.Option(
            help="Cutoff between different species in Angstrom (3.1), [bold]natural[/bold], or cutoffs by "
            "pair (Ba-O=3.6,Ti-O=2.7), also of like atoms (Cu-Cu=3.1)."
        ),
    ] = "3.1",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what is in a file of structures, and what looks wrong with it.

    Frames and species, bonds and distances by pair, whether all frames share one bond graph, how long the
    vectors would be for walks of n and neighbours of N hops, forces, and anything a fit would stumble over.
    Structures of any kind may be mixed; a note says which featurizers take them.

    Exits with 1 if something looks wrong.
    """
    with _user_errors() as console:
        try:
            rule = parse_bonds(bonds)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--bonds") from None
        found = _inspected(file, rule)
        if as_json:
            typer.echo(json.dumps(found.as_dict(), indent=2))
        else:
            from tinynet_sklearn.reports import print_inspection

            print_inspection(console, str(file), rule, found)
    if found.problems:
        raise typer.Exit(PROBLEM)


def _inspected(file: Path, bonds: Any) -> Any:
    """Read and inspect, with a progress bar on the error stream."""
    from rich.console import Console
    from rich.progress import Progress

    from tinynet_sklearn.inspection import inspect_structures
    from tinynet_sklearn.io import read_structures

    structures = read_structures(file)
    stderr = Console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("frames", total=len(structures))
        return inspect_structures(structures, bonds, progress=lambda n: progress.advance(task, n))


@app.command(epilog="Example:  tinynet md batio3 --supercell 2 --temperature 300 --steps 5000 --output run")
@_flowing
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
    with _user_errors() as console:
        try:
            repeat = parse_supercell(supercell)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--supercell") from None
        from tinynet_sklearn.calculator import TinyNetCalculator
        from tinynet_sklearn.dynamics import run_dynamics
        from tinynet_sklearn.run_results import DynamicsError
        from tinynet_sklearn.run_settings import RunSettingsError

        try:
            fitted = _model(model)
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
            _fail(in_options(str(error)), USAGE)
        except DynamicsError as error:
            _fail(in_options(str(error)), PROBLEM)
        if as_json:
            typer.echo(json.dumps(result.summary(), indent=2))
        else:
            from tinynet_sklearn.reports import print_dynamics

            print_dynamics(console, result, learned_stress=_learned_stress(fitted))
    if result.stopped_by:
        _fail(
            f"interrupted by {result.stopped_by}; continue with --restart.",
            INTERRUPTED + signal.Signals[result.stopped_by],
        )


@app.command(epilog="Example:  tinynet export batio3 --lammps --supercell 2x2x4 --output lammps-run")
@_flowing
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
) -> None:
    """Write what another program needs to run a fitted model.

    With --lammps: a folder with the atoms, the model, LAMMPS commands and a script that runs them on any
    number of MPI ranks. Files that are there are not overwritten. For models on a frozen bond graph, of a
    crystal that keeps its bonds.
    """
    if not lammps:
        raise typer.BadParameter("name a program: --lammps.", param_hint="--lammps")
    with _user_errors() as console:
        try:
            repeat = parse_supercell(supercell)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--supercell") from None
        from tempfile import TemporaryDirectory

        from tinynet_sklearn.lammps_files import check_graph, export_lammps
        from tinynet_sklearn.persistence import save_model

        try:
            fitted = _model(model)
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
                _fail(in_options(str(error)), USAGE)
        for file in files:
            console.print(str(file), markup=False)
        console.print(f"\nRun it with: python {output / 'run.py'}", markup=False)


def _model(name: str) -> Any:
    """Model of a file, or one that comes with the package."""
    from tinynet_sklearn.persistence import load_model
    from tinynet_sklearn.pretrained import PRETRAINED, load_pretrained

    path = Path(name)
    if name in PRETRAINED and not path.is_file():
        return load_pretrained(name)
    if not path.exists():
        raise typer.BadParameter(
            f"{name} is neither a file nor one of {', '.join(PRETRAINED)}.", param_hint="MODEL"
        )
    return load_model(path)


def _start(path: Path | None, model: Any, repeat: tuple[int, int, int]) -> Any:
    """Last frame of a file, or the reference structure of a model; repeated."""
    from tinynet_sklearn.io import read_structures

    try:
        atoms = _reference(model) if path is None else read_structures(path)[-1]
    except (OSError, ValueError) as error:
        _fail(str(error), USAGE)
    if repeat == (1, 1, 1):  # whatever constraints there are
        return atoms
    try:
        return atoms.repeat(repeat)
    except NotImplementedError:
        names = ", ".join(sorted({type(found).__name__ for found in atoms.constraints}))
        _fail(
            f"structure must have no constraints but FixAtoms to be repeated; got {names}. Remove them from "
            f"{path}.",
            USAGE,
        )


def _reference(model: Any) -> Any:
    from ase import Atoms

    steps = getattr(getattr(model, "best_estimator_", model), "steps", [])
    reference = getattr(steps[0][1], "reference_", None) if steps else None
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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    stderr = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("", total=equilibration + steps)

        def show(step: int, temperature: float) -> None:
            what = "equilibration" if step < 0 else "production"
            progress.update(task, completed=step + equilibration, description=f"{what}, {temperature:.0f} K")

        yield show


@contextmanager
def _user_errors() -> Iterator["Console"]:
    """Give a console; turn errors that users can mend into a message and an exit code."""
    from rich.console import Console

    try:
        yield Console(highlight=False, soft_wrap=False)
    except FileNotFoundError as error:
        _fail(str(error), USAGE)
    except (ValueError, OSError, MemoryError) as error:
        _fail(str(error), PROBLEM)


def _fail(message: str, code: int) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(code)
