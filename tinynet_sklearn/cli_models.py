"""The commands `tinynet evaluate`, `predict` and `card`: what saved models are worth, and what they say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinynet_sklearn.cli_arguments import (
    FIGURES,
    AsJson,
    Data,
    EnergyKey,
    Force,
    ForcesKey,
    ModelArgument,
    SkipProblems,
    SpinOption,
    StressKey,
    ZeroOption,
)
from tinynet_sklearn.cli_options import (
    in_options,
    interruptible,
    model_of,
    new_file,
    not_read,
    own_files,
    plain,
    user_errors,
)
from tinynet_sklearn.learning_settings import FitSettings

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    model: ModelArgument,
    data: Data,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    skip_problems: SkipProblems = False,
    zero: ZeroOption = None,
    spin: SpinOption = None,
    plot: Annotated[Path | None, typer.Option(help="Figure of predictions against references.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare a saved model with reference data: errors by species and by file.

    Says so if the model was fitted with one of the files, whose errors are then too small.

    Exits with 1 if the data cannot be used or do not fit the model, and 2 for wrong usage.
    """
    with interruptible() as console:
        own_files({"--plot": plot}, [model, *data])
        if plot is not None:
            new_file(plot, "--plot", force, FIGURES)
        from tinynet_sklearn._validation import plural
        from tinynet_sklearn.learning_files import save_figure
        from tinynet_sklearn.learning_predictions import evaluated, outside_of, read_like, taken
        from tinynet_sklearn.reports import section

        fitted, card, target = _fitted(model)
        settings = FitSettings(
            data=tuple(data),
            target=target,
            energy_key=energy_key,
            forces_key=forces_key,
            stress_key=stress_key,
            skip_problems=skip_problems,
            zero=zero,
            spin=spin,
        )
        settings.check()
        found = read_like(settings, fitted)
        not_read({"--plot": plot}, found.sources, data)
        found, predicted = taken(fitted, target, found, skip_problems)
        lines = evaluated(fitted, found, predicted)
        notes = _notes(card, [source.file for source in found.sources], outside_of(fitted, found))
        if plot is not None:
            save_figure(target, found.y, predicted, plot, plural(len(found), "structure"))
        if as_json:
            summary = {"model": model, "target": target, "structures": len(found), "notes": notes}
            summary |= {"left_out": list(found.problems), "errors": [line.as_dict() for line in lines]}
            typer.echo(json.dumps(plain(summary), indent=2))
            return
        from tinynet_sklearn.learning_reports import print_errors, print_remarks

        problems = [f"left out: {problem}" for problem in found.problems]
        section(console, f"{model} on {plural(len(found), 'structure')}", *problems)
        print_errors(console, "Errors", lines)
        print_remarks(console, "Notes", notes)
        if plot is not None:
            section(console, "Files", str(plot))


def predict(
    model: ModelArgument,
    data: Data,
    output: Annotated[
        Path,
        typer.Option(
            help="File for the predictions: .extxyz; of densities of states .npz.", show_default=False
        ),
    ],
    skip_problems: SkipProblems = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Predict forces, energies and stresses, or densities of states, of all structures in files.

    Forces and energies are written with the structures, as ASE reads them; densities of states as arrays:
    energies, ldos (a row per atom), offsets (first row of each structure) and species.

    Exits with 1 if the structures do not fit the model, and 2 for wrong usage.
    """
    with interruptible() as console:
        from tinynet_sklearn._validation import plural
        from tinynet_sklearn.learning_data import read_quietly
        from tinynet_sklearn.learning_files import write_predictions
        from tinynet_sklearn.learning_predictions import outside_of, taken
        from tinynet_sklearn.reports import section

        own_files({"--output": output}, [model, *data])
        fitted, _, target = _fitted(model)
        new_file(output, "--output", force, (".npz",) if target == "ldos" else (".extxyz", ".xyz"))
        found = read_quietly(data, None, on_problem="skip" if skip_problems else "raise")
        not_read({"--output": output}, found.sources, data)
        found, predicted = taken(fitted, target, found, skip_problems)
        notes = _notes({}, [], outside_of(fitted, found))
        write_predictions(output, target, found.structures, predicted)
        if as_json:
            summary = {"model": model, "target": target, "structures": len(found), "notes": notes}
            summary |= {"left_out": list(found.problems), "written": str(output)}
            typer.echo(json.dumps(summary, indent=2))
            return
        from tinynet_sklearn.learning_reports import print_remarks

        section(console, f"{plural(len(found), 'structure')} predicted", str(output))
        print_remarks(console, "Notes", [*notes, *(f"left out: {problem}" for problem in found.problems)])


def card(
    model: ModelArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Show what a saved model is made of and how good it is.

    Data, split, errors on held-out structures, settings, units and versions. The model itself is not loaded.

    Exits with 1 if the file is no model, or has no card.
    """
    with user_errors() as console:
        show_card(console, model, as_json)


def show_card(console: "Console", model: str, as_json: bool) -> None:
    """Print a model card; a model without one is an error."""
    from tinynet_sklearn.learning_reports import print_card
    from tinynet_sklearn.model_cards import read_card

    found = read_card(model)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif found:
        print_card(console, model, found)
    if not found:
        raise ValueError(f"{model} has no card; tinynet fit writes one, and save_model(..., metadata=...).")


def _fitted(name: str) -> tuple[Any, dict[str, Any], str]:
    """Model, its card and what it predicts."""
    from tinynet_sklearn.learning_errors import target_of
    from tinynet_sklearn.model_cards import read_card

    try:
        fitted = model_of(name)
        return fitted, read_card(name), target_of(fitted)
    except (OSError, TypeError, ValueError) as error:
        raise typer.BadParameter(in_options(str(error)), param_hint="MODEL") from None


def _notes(card: dict[str, Any], files: list[str], outside: Any) -> list[str]:
    from tinynet_sklearn.model_cards import known_files

    notes = []
    known = known_files(card, files)
    if known:
        notes.append(
            f"the model was fitted with structures of {', '.join(known)}: errors on new structures are "
            "larger; see tinynet card for those that were held out"
        )
    if outside is not None and outside.any():
        notes.append(f"{outside.sum():,} of {len(outside):,} atoms lie outside of the training data")
    return notes


#: The commands with an example of each.
COMMANDS: dict[Callable[..., None], str] = {
    evaluate: "tinynet evaluate moo3.tinynet new.extxyz --plot parity.png",
    predict: "tinynet predict moo3.tinynet new.extxyz --output predicted.extxyz",
    card: "tinynet card batio3",
}
