"""The ``tinynet`` command: the application, and the commands that look at things.

Thin calls: what is computed lives in `quickstart`, `inspection`, `learning_runs` and `dynamics`, how it
looks in `reports` and `learning_reports`; `cli_learning`, `cli_models` and `cli_simulation` have the other
commands. Heavy imports wait until a command runs, so that ``tinynet --help`` answers at once.

Exit codes: 0 fine, 1 a problem in the data or in the course of a run, 2 wrong usage, with nothing written;
130 after Ctrl-C, and of ``tinynet md`` 143 after SIGTERM.
"""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinynet_sklearn import cli_learning, cli_models, cli_simulation
from tinynet_sklearn._version import __version__
from tinynet_sklearn.cli_arguments import Force
from tinynet_sklearn.cli_models import show_card
from tinynet_sklearn.cli_options import PROBLEM, flowing, new_file, user_errors
from tinynet_sklearn.learning_settings import parse_bonds

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="tinynet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Chemical-bonding-aware machine learning for materials.",
)


#: Where the quickstart writes if nothing else is said; what is there is of an earlier one.
OWN_FOLDER = Path("tinynet-quickstart")


class Material(StrEnum):
    """Bundled data sets."""

    batio3 = "batio3"
    moo3 = "moo3"
    both = "both"


def main() -> None:
    """Run the command line."""
    app()


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
@flowing
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the models and plots.")] = OWN_FOLDER,
    material: Annotated[Material, typer.Option(help="Which bundled data to learn.")] = Material.both,
    seed: Annotated[int, typer.Option(min=0, help="For the split and the initial weights.")] = 0,
    max_iter: Annotated[int, typer.Option(min=1, help="L-BFGS iterations per network.")] = 400,
    force: Force = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print errors and files as JSON, what happens on the error stream.")
    ] = False,
) -> None:
    """Train and test force models on the bundled DFT data, in about half a minute.

    For BaTiO3 and MoO3: finds the bonds, embeds every atom, trains one tiny network per species, shows the
    errors on held-out structures next to those of predicting zero, writes the model and a parity plot, and
    reads the model back to predict again.
    """
    with user_errors() as console:
        from tinynet_sklearn.quickstart import ENDINGS, MATERIALS, make_folder

        if output.exists() and not output.is_dir():
            raise typer.BadParameter(f"{output} is a file; name a folder.", param_hint="--output")
        try:
            make_folder(output)
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--output") from None
        names = list(MATERIALS) if material is Material.both else [material.value]
        for file in (output / f"{name}{ending}" for name in names for ending in ENDINGS):
            new_file(file, "--output", force or output == OWN_FOLDER)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            learned = [_learn(console, name, output, seed, max_iter) for name in names]
            example = learned[0]["model"]
            console.print(
                f"\nTo use a model in Python: tinynet_sklearn.load_model({example!r})", markup=False
            )
        if as_json:
            typer.echo(json.dumps(learned, indent=2))
        if not all(found["identical"] for found in learned):
            raise ValueError("a model read back from its file does not predict the same; please report this.")


def _learn(console: "Console", name: str, output: Path, seed: int, max_iter: int) -> dict[str, Any]:
    """Run the steps of the quickstart on one material; what is in the file, and errors by part."""
    from tinynet_sklearn import quickstart, reports
    from tinynet_sklearn.learning_reports import print_errors

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
    errors = quickstart.evaluate(data.target[test], predicted, data.temperatures[test])
    print_errors(
        console,
        f"Errors on held-out structures (label noise: about {data.label_noise:.2g} eV/Angstrom)",
        errors,
    )
    metadata = {
        "data": name,
        "target": "forces, eV/Angstrom",
        "seed": seed,
        "test_rmse": errors[0].rmse,
        "test_mae": errors[0].mae,
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
    return metadata | {
        "errors": [line.as_dict() for line in errors],
        "model": str(saved.model),
        "plot": str(saved.plot),
        "identical": saved.identical,
    }


@app.command(epilog="Example:  tinynet inspect frames.extxyz --bonds Ba-O=3.6,Ti-O=2.7")
@flowing
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            help="A file or folder with structures, of any kind that fit reads; or a saved model."
        ),
    ],
    bonds: Annotated[
        str | None,
        typer.Option(
            help="Cutoff between different species in Angstrom (3.1), [bold]natural[/bold], or cutoffs by "
            "pair (Ba-O=3.6,Ti-O=2.7), also of like atoms (Cu-Cu=3.1). Without, they are proposed from the "
            "distances, as fit does.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what is in a file of structures, and what looks wrong with it.

    Frames and species, bonds and distances by pair, whether all frames share one bond graph, how long the
    vectors would be for walks of n and neighbours of N hops, forces, and anything a fit would stumble over.
    Structures of any kind may be mixed; a note says which featurizers take them. Of a saved model, the
    card is shown.

    Exits with 1 if something looks wrong.
    """
    with user_errors() as console:
        if _is_model(file):
            show_card(console, str(file), as_json)
            return
        try:
            rule = None if bonds is None else parse_bonds(bonds)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--bonds") from None
        found = _inspected(file, rule)
        if as_json:
            typer.echo(json.dumps(found.as_dict(), indent=2))
        else:
            from tinynet_sklearn.reports import print_inspection

            print_inspection(console, str(file), found)
    if found.problems:
        raise typer.Exit(PROBLEM)


def _is_model(file: Path) -> bool:
    """Whether a file is an archive of `save_model`, by its name or its first bytes."""
    if not file.is_file():
        return False
    from zipfile import ZipFile, is_zipfile

    if not is_zipfile(file):
        return False
    with ZipFile(file) as archive:
        return "tinynet.json" in archive.namelist()


def _structures(file: Path) -> list[Any]:
    """Structures with their results: of a file that ASE reads, or of anything else that `fit` takes."""
    from tinynet_sklearn.dataset_files import read_dataset
    from tinynet_sklearn.io import read_structures

    if file.is_dir():
        return read_dataset(file, None).structures
    try:
        return read_structures(file)
    except ValueError:
        try:
            return read_dataset(file, None).structures
        except (ImportError, ValueError):
            pass
        raise


def _inspected(file: Path, bonds: Any) -> Any:
    """Read and inspect, with a progress bar on the error stream."""
    from tinynet_sklearn.inspection import inspect_structures
    from tinynet_sklearn.reports import progress_bar

    structures = _structures(file)
    with progress_bar() as progress:
        task = progress.add_task("frames", total=len(structures))
        return inspect_structures(structures, bonds, progress=lambda n: progress.advance(task, n))


for commands in (cli_learning, cli_models, cli_simulation):
    for command, example in commands.COMMANDS.items():
        app.command(epilog=f"Example:  {example}")(flowing(command))
