"""Settings of a command in a TOML file: read for ``--config``, written for ``--write-config``."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

__all__ = ["read_config", "toml_text", "without_overruled"]

#: Options that are no settings.
_NOT_IN_FILES = ("config", "write-config", "help", "json", "force")


def read_config(context: typer.Context, path: str | None) -> str | None:
    """Take the settings in a file where the command line has none; callback of an eager option.

    Raises
    ------
    typer.BadParameter
        If the file cannot be read, or has settings that the command does not have.
    """
    if path is None:
        return None
    file = Path(path)
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise typer.BadParameter(f"cannot read {file}: {reason}.") from None
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{file} is no TOML: {error}.") from None
    known = _options(context)
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise typer.BadParameter(
            f"{file} has settings that tinynet {context.info_name} does not have: {', '.join(unknown)}. It "
            f"has {', '.join(known)}."
        )
    values = {}
    for name, value in settings.items():
        option = known[name]
        several = option.nargs == -1 or getattr(option, "multiple", False)
        parts = value if isinstance(value, list) else [value]
        if (isinstance(value, list) and not several) or not all(
            isinstance(part, str | int | float) for part in parts
        ):
            wanted = "a value or a list of values" if several else "a value"
            raise typer.BadParameter(f"{file}: {name} must be {wanted}; got {value!r}.")
        values[option.name] = parts if several else value
    context.default_map = dict(context.default_map or {}) | values
    return path


def without_overruled(context: typer.Context) -> dict[str, Any]:
    """Options of a command that learns, without those of the file that one of the command line rules out."""
    options = dict(context.params)
    smooth, ldos = options["topology"] == "smooth", options["target"] == "ldos"
    ruled_out = {
        "topology": ("bonds", "N", "paths") if smooth else ("cutoff",),
        "target": () if ldos else ("energies", "width", "zero", "spin"),
        "test": ("split",),
        "split": ("test",),
    }
    sources = {name: getattr(context.get_parameter_source(name), "name", "") for name in options}
    for name, others in ruled_out.items():
        if sources[name] == "COMMANDLINE":
            options |= {other: None for other in others if sources[other] == "DEFAULT_MAP"}
    return options


def _options(context: typer.Context) -> dict[str, Any]:
    """Settings of a command by the names that they have in files."""
    names = {}
    for option in context.command.params:
        longest = max(option.opts, key=len).lstrip("-") if option.opts else option.name or ""
        if longest not in _NOT_IN_FILES:
            names[longest] = option
    return names


def toml_text(settings: Mapping[str, Any], comments: list[str]) -> str:
    """Write settings as TOML: text, numbers, booleans and lists of these.

    Parameters
    ----------
    settings : mapping of str to object
    comments : list of str
        Lines to stand above.
    """
    lines = [f"# {line}" for line in comments]
    lines += [f"{name} = {_value(value)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, int):
        return str(value)
    # strings of JSON are strings of TOML, but for this one character
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
