"""What the commands share: options as messages name them, models by name, errors and exit codes."""

import inspect as inspect_module
import math
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tinynet_sklearn.dataset_result import Source

#: Exit codes; INTERRUPTED is to be added to the number of a signal.
PROBLEM, USAGE, INTERRUPTED = 1, 2, 128

# How Python's arguments, as messages name them, are given on the command line.
OPTIONS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
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
    # of learning
    (r"\bbonds='natural'", "--bonds natural"),
    (
        r"\bbonds=\{([^}]*)\}",
        lambda found: "--bonds " + re.sub(r"'([^']+)': ([\d.]+)", r"\1=\2", found[1]).replace(", ", ","),
    ),
    (r"\bbonds=([\d.]+)", r"--bonds \1"),
    (
        r"bond like atoms with CutoffBonds\(cutoff, heteroatomic=False\)",
        "bond like atoms by pair (Cu-Cu=3.1)",
    ),
    (r"\bpairs='auto' gives no cutoffs", "no cutoffs of bonds can be proposed; give them with --bonds"),
    (r"; raise r_max, pass more structures, or write a cutoff of your own", "; write a cutoff with --bonds"),
    (r"\bn=(\d+), N=(\d+) would", r"-n \1 -N \2 would"),
    (r"\bpaths='simple'", "--paths simple"),
    (r"\btopology='each'", "--topology each"),
    (r"\b(a )?SmoothMomentFeaturizer(\(\))?", "--topology smooth"),
    (r"pass on_problem='skip'", "use --skip-problems"),
    (r"Reach farther neighbours, or use target='scalar'\.", "Reach farther neighbours (-N 1)."),
    (r"Rename it, or pass format=\.", "Rename it."),
    (r"^max_iter=(\d+) was reached", r"--max-iter \1 was reached"),
    (
        r"Increase max_iter, or let early_stopping=True decide when to stop\.",
        "Increase --max-iter, or let --early-stopping decide when to stop.",
    ),
    (r"\bkeys=\{'forces': '([^']*)'\}", r"--forces-key \1"),
    (r"\bkeys=\{'energy': '([^']*)'\}", r"--energy-key \1"),
    (r"\bspin='sum'", "--spin sum"),
    (r"\benergies= and --?width=?", "--energies and --width"),
    (r"\b(zero|width|energies)=(?=[\s,;])", r"--\1"),
    (r"\b(zero|width|energies)=", r"--\1 "),
    (r"^X (must|has)\b", r"DATA \1"),
    (r"^path must lead to", "MODEL must lead to"),
)

Command = TypeVar("Command", bound=Callable[..., Any])


def flowing(command: Command) -> Command:
    """Let the terminal break the lines of a docstring: typer keeps those after the first paragraph."""
    paragraphs = inspect_module.cleandoc(command.__doc__ or "").split("\n\n")
    command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return command


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


def model_of(name: str) -> Any:
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


@contextmanager
def user_errors() -> Iterator["Console"]:
    """Give a console; turn errors that users can mend into a message and an exit code."""
    from rich.console import Console

    from tinynet_sklearn.learning_settings import SettingsError

    try:
        yield Console(highlight=False, soft_wrap=False)
    except (FileNotFoundError, SettingsError) as error:
        fail(in_options(str(error)), USAGE)
    except (ImportError, MemoryError, OSError, ValueError) as error:
        fail(in_options(str(error)), PROBLEM)


def new_file(path: Path, option: str, force: bool, endings: tuple[str, ...] = ()) -> None:
    """Refuse, before any work is done, a file that could not be written or should not be replaced."""
    if endings and path.suffix.lower() not in endings:
        raise typer.BadParameter(f"{path} must end in {' or '.join(endings)}.", param_hint=option)
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file in it.", param_hint=option)
    if path.exists() and not force:
        raise typer.BadParameter(
            f"{path} exists; name another file, or replace it with --force.", param_hint=option
        )
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}; make it first.", param_hint=option)
    if not os.access(path.absolute().parent, os.W_OK):
        raise typer.BadParameter(f"cannot write to {path.parent}; name another folder.", param_hint=option)


def new_folder(path: Path | None, option: str) -> None:
    """Refuse a file where a folder is to be, or one that could not be made."""
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{path} is a file; name a folder.", param_hint=option)
    above = path if path.exists() else path.absolute().parent
    if not above.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}; make it first.", param_hint=option)
    if not os.access(above, os.W_OK):
        raise typer.BadParameter(f"cannot write to {above}; name another folder.", param_hint=option)


def own_files(outputs: Mapping[str, Path | None], inputs: Iterable[str | None]) -> None:
    """Refuse outputs that would replace what is read, --force or not, or each other.

    Parameters
    ----------
    outputs : mapping of str to Path or None
        By option.
    inputs : iterable of str or None
        Files, folders and patterns as they were given; `not_read` looks at what was found there.
    """
    taken = {Path(name).resolve(): f"{name} is read" for name in inputs if name}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.resolve() in taken:
            raise typer.BadParameter(f"{taken[path.resolve()]}; name another file.", param_hint=option)
        taken[path.resolve()] = f"{path} is the file of {option}"


def not_read(outputs: Mapping[str, Path | None], sources: Iterable["Source"], inputs: Sequence[str]) -> None:
    """Refuse outputs that would replace a file that was read: in a folder, by a pattern, in an archive.

    Parameters
    ----------
    outputs : mapping of str to Path or None
        By option.
    sources : iterable of Source
        Of the structures.
    inputs : sequence of str
        As they were given: they have files, too, of which no structure was taken.
    """
    from tinynet_sklearn.dataset_files import read_among

    read = {Path(source.file).resolve() for source in sources}
    paths = {option: path for option, path in outputs.items() if path is not None}
    there = {path.resolve() for path in paths.values() if path.exists()}
    found = read_among(inputs, there) if there else set()
    for option, path in paths.items():
        place = path.resolve()
        if place in found or any(
            place == file or place in file.parents or file in place.parents for file in read
        ):
            raise typer.BadParameter(
                f"{path} would change what was read; name another file.", param_hint=option
            )


def plain(value: Any) -> Any:
    """Values as JSON knows them: NaN, which it does not, as null."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def interruptible(left: str = "; nothing was written") -> Iterator["Console"]:
    """Give a console, with errors as of all commands; Ctrl-C where nothing was learned ends at once."""
    try:
        with user_errors() as console:
            yield console
    except KeyboardInterrupt:
        fail(f"interrupted{left}.", INTERRUPTED + signal.SIGINT)


def fail(message: str, code: int) -> NoReturn:
    """Show a message on the error stream and end."""
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(code)
