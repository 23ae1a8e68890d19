"""The commands `tinynet fit` and `tinynet grid`: models from data."""

import json
import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinynet_sklearn.cli_arguments import (
    FIGURES,
    Alpha,
    AsJson,
    Bonds,
    Checkpoint,
    Config,
    Cutoff,
    Data,
    EarlyStopping,
    Energies,
    EnergyKey,
    Force,
    ForcesKey,
    Fraction,
    Hidden,
    Hops,
    Iterations,
    Jobs,
    PathsOption,
    Seed,
    Shells,
    SkipProblems,
    SpinOption,
    SplitOption,
    StressKey,
    Target,
    TargetOption,
    TestData,
    Topology,
    TopologyOption,
    Width,
    ZeroOption,
)
from tinynet_sklearn.cli_config import toml_text, without_overruled
from tinynet_sklearn.cli_options import (
    INTERRUPTED,
    PROBLEM,
    fail,
    in_options,
    interruptible,
    new_file,
    new_folder,
    not_read,
    own_files,
    plain,
)
from tinynet_sklearn.learning_settings import FitSettings, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from tinynet_sklearn.learning_grids import GridRow
    from tinynet_sklearn.learning_runs import Learned


def fit(
    context: typer.Context,
    data: Data,
    target: TargetOption = Target.forces,
    bonds: Bonds = None,
    n: Hops = None,
    N: Shells = None,
    hidden: Hidden = "16x32",
    topology: TopologyOption = Topology.auto,
    paths: PathsOption = None,
    cutoff: Cutoff = None,
    split: SplitOption = None,
    test_fraction: Fraction = 0.2,
    test: TestData = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    skip_problems: SkipProblems = False,
    energies: Energies = None,
    width: Width = None,
    zero: ZeroOption = None,
    spin: SpinOption = None,
    alpha: Alpha = None,
    max_iter: Iterations = 400,
    early_stopping: EarlyStopping = False,
    seed: Seed = 0,
    jobs: Jobs = 1,
    checkpoint: Checkpoint = None,
    output: Annotated[Path, typer.Option(help="File for the model and its card.")] = Path("model.tinynet"),
    plot: Annotated[
        Path | None, typer.Option(help="Figure of predictions against references of the held-out structures.")
    ] = None,
    loss_plot: Annotated[Path | None, typer.Option(help="Figure of the losses in the training.")] = None,
    write_config: Annotated[
        Path | None, typer.Option(help="Write the settings of this run, for --config.")
    ] = None,
    config: Config = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Learn forces, a potential or densities of states from files, and test on structures held out.

    By default the last fifth of each file is held out: right for trajectories, where neighbouring frames are
    nearly the same structure. Take --split random for structures that are independent.

    Writes the model with a card (tinynet card MODEL). Ctrl-C ends the training early; the best weights so
    far are tested and written. With --checkpoint nothing is written then, and the same command goes on.

    Exits with 1 if data cannot be used, 2 for wrong usage, with nothing written, and 130 after Ctrl-C.
    """
    with interruptible(_left(checkpoint)) as console:
        settings = FitSettings.of(without_overruled(context))
        inputs = [*settings.data, *settings.test, config]
        outputs = {
            "--output": output,
            "--plot": plot,
            "--loss-plot": loss_plot,
            "--write-config": write_config,
        }
        new_folder(checkpoint, "--checkpoint")
        own_files({**outputs, "--checkpoint": checkpoint}, inputs)
        new_file(output, "--output", force)
        for figure, option in ((plot, "--plot"), (loss_plot, "--loss-plot")):
            if figure is not None:
                new_file(figure, option, force, FIGURES)
        if write_config is not None:
            new_file(write_config, "--write-config", force, (".toml",))
        if plot is not None and settings.test_fraction == 0.0 and not settings.test:
            raise SettingsError("--plot shows held-out structures; with --test-fraction 0 there are none.")
        from tinynet_sklearn.learning_data import hold_out, read_for
        from tinynet_sklearn.learning_runs import learn
        from tinynet_sklearn.model_cards import make_card
        from tinynet_sklearn.persistence import save_model

        found, n_data = read_for(settings)
        not_read(outputs, found.sources, [*settings.data, *settings.test])
        chosen = hold_out(settings, found.groups, n_data)
        interactive = sys.stderr.isatty()
        with redirect_stdout(sys.stderr):
            learned = learn(settings, found, chosen, int(interactive), _text(checkpoint))
        card = make_card(learned, str(output))
        card["training"]["remarks"] = [in_options(remark) for remark in learned.remarks]
        save_model(learned.model, output, plain(card))
        files = [str(output), *_figures(learned, plot, loss_plot)]
        if write_config is not None:
            _write_settings(write_config, learned, output)
            files.append(str(write_config))
        if as_json:
            typer.echo(json.dumps(plain(card | {"written": files}), indent=2))
        else:
            _show_fit(console, learned, card, files)
    if learned.interrupted:
        fail(
            f"interrupted; {output} has the best weights until then.",
            INTERRUPTED + signal.SIGINT,
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _left(checkpoint: Path | None) -> str:
    """What Ctrl-C leaves of a training that is not written."""
    again = "" if checkpoint is None else f"; the same command goes on from {checkpoint}"
    return f"; nothing was written{again}"


def _show_fit(console: "Console", learned: "Learned", card: dict[str, Any], files: list[str]) -> None:
    from tinynet_sklearn._validation import plural
    from tinynet_sklearn.learning_reports import print_errors, print_remarks
    from tinynet_sklearn.reports import section

    data, split = card["data"], card["split"]
    n_files = len(data["files"])
    section(
        console,
        "Data",
        f"{plural(data['structures'], 'structure')} of {', '.join(data['species'])} in "
        f"{plural(n_files, 'file')}",
        f"held out: {split['description']}" if split["test"] else split["description"],
        f"{split['train']} to learn from, {split['test']} held out",
        *(f"left out: {problem}" for problem in data["left_out"]),
    )
    section(console, "Model", card["method"], f"{learned.n_features} features per atom")
    print_remarks(console, "Decided, and warnings", card["training"]["remarks"])
    if learned.held_out:
        print_errors(console, "Errors on held-out structures", learned.held_out)
    totals = ", ".join(f"{line.quantity} {line.rmse:.4g} {line.unit}" for line in learned.training)
    section(
        console,
        "Training",
        f"{learned.seconds:.3g} s, {card['training']['iterations']} iterations; RMSE of the structures "
        f"learned from: {totals}",
    )
    section(console, "Files", *files)
    ending = "npz" if card["target"] == "ldos" else "extxyz"
    section(
        console,
        "Next",
        f"tinynet card {files[0]}",
        f"tinynet predict {files[0]} DATA --output predicted.{ending}",
    )


def _figures(learned: "Learned", plot: Path | None, loss_plot: Path | None) -> list[str]:
    """Draw what was asked for; names of the files."""
    from tinynet_sklearn.learning_files import save_figure, write_figure

    if plot is not None:
        test: Any = learned.data[learned.split.test].y
        title = f"{len(test)} held-out structures"
        save_figure(learned.settings.target, test, learned.predicted, plot, title)
    if loss_plot is not None:
        from tinynet_sklearn.learning_curves import LossCurveDisplay

        write_figure(LossCurveDisplay.from_estimator(learned.model).figure_, loss_plot)
    return [str(path) for path in (plot, loss_plot) if path is not None]


def _write_settings(path: Path, learned: "Learned", output: Path) -> None:
    from tinynet_sklearn._version import __version__
    from tinynet_sklearn.atomic_files import write_atomically

    settings = learned.settings.as_dict() | {"output": str(output)}
    comments = [
        f"Settings of a run of tinynet fit {__version__}; nothing is left open.",
        f"Again: tinynet fit --config {path} --force",
    ]
    write_atomically(path, toml_text(settings, comments).encode())


def grid(
    context: typer.Context,
    data: Data,
    grid: Annotated[
        list[str],
        typer.Option(
            "--grid",
            help="Option and values: n=2,4; of n, N, hidden, alpha, bonds, paths, topology, cutoff, "
            "max-iter. Several pairs in bonds are joined by a plus: bonds=3.1,Ba-O=3.6+Ti-O=2.7.",
            show_default=False,
        ),
    ],
    target: TargetOption = Target.forces,
    bonds: Bonds = None,
    n: Hops = None,
    N: Shells = None,
    hidden: Hidden = "16x32",
    topology: TopologyOption = Topology.auto,
    paths: PathsOption = None,
    cutoff: Cutoff = None,
    split: SplitOption = None,
    test_fraction: Fraction = 0.2,
    test: TestData = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    skip_problems: SkipProblems = False,
    energies: Energies = None,
    width: Width = None,
    zero: ZeroOption = None,
    spin: SpinOption = None,
    alpha: Alpha = None,
    max_iter: Iterations = 400,
    early_stopping: EarlyStopping = False,
    seed: Seed = 0,
    jobs: Jobs = 1,
    checkpoint: Checkpoint = None,
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation.")] = 5,
    output: Annotated[Path, typer.Option(help="Table of all candidates, as CSV.")] = Path("grid.csv"),
    plot: Annotated[Path | None, typer.Option(help="Figure: a map of the errors over two options.")] = None,
    memory: Annotated[
        Path | None,
        typer.Option(
            help="Folder of your own in which features are kept for later runs, as pickles: whoever writes "
            "to it can run code here."
        ),
    ] = None,
    config: Config = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare settings by cross-validation, and name the command that fits with the best.

    What tinynet fit would hold out is not looked at, so that its errors remain those on unseen structures.
    Folds are blocks of time, whole files or random structures, as --split says; bonds that are not given are
    proposed once for all folds. The table grows as candidates are done; with --checkpoint a grid that was cut
    off goes on.

    Exits with 1 if data cannot be used or all candidates fail, 2 for wrong usage, and 130 after Ctrl-C.
    """
    with interruptible() as console:
        if early_stopping:
            raise SettingsError(
                "--early-stopping is for tinynet fit; a grid compares trainings of --max-iter."
            )
        settings = FitSettings.of(without_overruled(context))
        from tinynet_sklearn.learning_grids import folds_of, parse_grid, search, write_rows

        options = parse_grid(grid)
        outputs = {"--output": output, "--plot": plot}
        new_folder(checkpoint, "--checkpoint")
        own_files({**outputs, "--checkpoint": checkpoint}, [*settings.data, *settings.test, config])
        new_folder(memory, "--memory")
        new_file(output, "--output", force)
        if plot is not None:
            new_file(plot, "--plot", force, FIGURES)
        from tinynet_sklearn._validation import plural
        from tinynet_sklearn.learning_data import hold_out, read_for
        from tinynet_sklearn.learning_reports import print_grid
        from tinynet_sklearn.reports import section

        found, n_data = read_for(settings)
        not_read(outputs, found.sources, [*settings.data, *settings.test])
        chosen = hold_out(settings, found.groups, n_data)
        parts = folds_of(settings, found.groups[chosen.train], folds, chosen.method)
        n_done = 0
        with _candidates(math.prod(map(len, options.values()))) as progress:

            def done(rows: list["GridRow"]) -> None:
                nonlocal n_done
                write_rows(rows, output)
                n_done = len(rows)
                progress(n_done)

            try:
                rows = search(
                    settings, options, found, chosen.train, parts,
                    jobs=jobs, memory=_text(memory), checkpoint=_text(checkpoint), done=done,
                )  # fmt: skip
            except KeyboardInterrupt:
                left = f"; {output} has {plural(n_done, 'candidate')}" if n_done else "; nothing was written"
                if checkpoint is not None:
                    again = "the same command, with --force," if n_done else "the same command"
                    left += f"; {again} goes on from {checkpoint}"
                fail(f"interrupted{left}.", INTERRUPTED + signal.SIGINT)
        best = rows[0]
        command = None if best.problem else best.settings.as_command("model.tinynet")
        if plot is not None and not best.problem:
            _grid_figure(rows, plot)
        if as_json:
            shown = [row.as_dict() | {"problem": in_options(row.problem)} for row in rows]
            summary = {"candidates": shown, "folds": len(parts), "best": command}
            typer.echo(json.dumps(plain(summary | {"left_out": list(found.problems)}), indent=2))
        else:
            described = chosen.described(settings.test_fraction, len(set(found.groups.tolist())))
            section(
                console,
                "Data",
                f"{plural(len(found), 'structure')}, {len(chosen.train)} to learn from",
                f"not looked at, for the test of the final model: {described}",
                *(f"left out: {problem}" for problem in found.problems),
            )
            print_grid(console, [_reworded(row) for row in rows], len(parts))
            section(console, "Files", str(output), *([str(plot)] if plot is not None and command else []))
            if command:
                section(console, "Fit the best")
                typer.echo(f"  {command}")
    if best.problem:
        fail(f"all candidates failed; the first: {in_options(best.problem)}", PROBLEM)


def _reworded(row: "GridRow") -> "GridRow":
    from dataclasses import replace

    return replace(row, problem=in_options(row.problem))


def _grid_figure(rows: Sequence["GridRow"], path: Path) -> None:
    """Map of the errors over two options: N and n, if they were varied, else the first two."""
    from tinynet_sklearn.grid_plots import GridHeatmapDisplay
    from tinynet_sklearn.learning_errors import UNITS
    from tinynet_sklearn.learning_files import write_figure

    varied = [name for name in rows[0].values if len({str(row.values[name]) for row in rows}) > 1]
    varied = varied or list(rows[0].values)
    axes = ["N", "n"] if {"N", "n"} <= set(varied) else varied[:2]
    quantity = next(iter(rows[0].errors))
    cells = [row.values | {"rmse": row.rmse} for row in rows]
    display = GridHeatmapDisplay.from_table(
        cells,
        axes[0],
        axes[1] if len(axes) > 1 else None,
        score="rmse",
        quantity=f"RMSE of {quantity}",
        unit=UNITS[quantity],
    )
    write_figure(display.figure_, path)


@contextmanager
def _candidates(total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that shows how many candidates are done, on the error stream of a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from tinynet_sklearn.reports import progress_bar

    columns = (TextColumn("candidates"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar(*columns) as progress:
        task = progress.add_task("", total=total)
        yield lambda n: progress.update(task, completed=n)


#: The commands with an example of each.
COMMANDS: dict[Callable[..., None], str] = {
    fit: "tinynet fit frames.extxyz --bonds Mo-O=2.8 -n 4 -N 2 --output moo3.tinynet",
    grid: "tinynet grid frames.extxyz --grid n=2,4 --grid N=1,2 --output grid.csv",
}
