"""Model cards: what a saved model was made of and how good it is, inside its file, readable without it.

A card is a dict of plain values, kept as the metadata of `save_model`:

================  ============================================================================================
key               meaning
================  ============================================================================================
card              version of this layout, an integer
created           date and time, UTC
target            "forces", "potential" or "ldos"
method            the model in a sentence
command           the command that makes it again
settings          its options, none left open
data              "files" with their SHA-256 and numbers of structures, of which "train" were learned from and
                  "test" held out; species, structures, atoms; what was left out
split             how structures were held out: "method", "description", numbers "train" and "test", and
                  "test_frames", file by file
held_out_errors   list of errors (`learning_errors.ErrorLine`) on structures that were not trained on; empty
                  where there were none
training_errors   the same of the training structures
training          seconds, iterations, whether it was interrupted, remarks
limits            what the model cannot do
units             of what goes in and comes out
versions          of Python and packages
================  ============================================================================================

Models that were saved in another way have other cards or none; `read_card` returns what there is.
"""

from __future__ import annotations

import glob
import hashlib
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from tinynet_sklearn._validation import species_name
from tinynet_sklearn._version import __version__
from tinynet_sklearn.dataset_files import Dataset
from tinynet_sklearn.evaluation import fitted_steps
from tinynet_sklearn.frame_numbers import frame_ranges
from tinynet_sklearn.learning_data import Split
from tinynet_sklearn.learning_runs import Learned
from tinynet_sklearn.persistence import read_metadata

__all__ = ["CARD", "known_files", "make_card", "read_card"]

CARD = 1

_PACKAGES = ("numpy", "scipy", "scikit-learn", "tensorflow", "keras", "numba", "ase")

_UNITS = {
    "lengths": "Angstrom",
    "forces": "eV/Angstrom",
    "energy": "eV per structure",
    "stress": "eV/Angstrom^3, positive is tension",
    "ldos": "states/eV/atom, both spins",
}
_QUANTITIES = {"forces": ("forces",), "potential": ("energy", "forces", "stress"), "ldos": ("ldos",)}

_LIMITS = {
    "frozen": "Structures must have the atoms of the training structures in their order (or be supercells, "
    "through TinyNetCalculator), and keep their bonds.",
    "each": "Atoms with more bonds or neighbours than any in the training are cut to what is known; columns "
    "jump where bonds form and break.",
    "smooth": "Only the species of the training; surroundings unlike those of the training are extrapolated.",
}
_DIRECT = " Forces are predicted directly: they are the gradient of no energy and need not sum to zero."


def make_card(learned: Learned, output: str) -> dict[str, Any]:
    """Describe a model that was just fitted.

    Parameters
    ----------
    learned : Learned
    output : str
        Where the model is saved, for the command.

    Returns
    -------
    dict
        See the module.
    """
    settings, data = learned.settings, learned.data
    numbers = np.unique(np.concatenate([atoms.numbers for atoms in data.structures]))
    return {
        "card": CARD,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": settings.target,
        "method": _method(learned),
        "command": settings.as_command(output),
        "settings": settings.as_dict(),
        "data": {
            "files": _files(data, learned.split),
            "species": [species_name(z) for z in numbers],
            "structures": len(data),
            "atoms": int(sum(len(atoms) for atoms in data.structures)),
            "left_out": list(data.problems),
        },
        "split": {
            "method": learned.split.method,
            "description": learned.split.described(settings.test_fraction, len(np.unique(data.groups))),
            "train": len(learned.split.train),
            "test": len(learned.split.test),
            "test_frames": _frames(data, learned.split),
        },
        "held_out_errors": [line.as_dict() for line in learned.held_out],
        "training_errors": [line.as_dict() for line in learned.training],
        "training": {
            "seconds": round(learned.seconds, 2),
            "iterations": int(learned.model["net"].n_iter_),
            "interrupted": learned.interrupted,
            "remarks": list(learned.remarks),
        },
        "limits": _LIMITS[settings.topology] + (_DIRECT if settings.target == "forces" else ""),
        "units": {name: _UNITS[name] for name in ("lengths", *_QUANTITIES[settings.target])},
        "versions": _versions(),
    }


def read_card(path: str | Path) -> dict[str, Any]:
    """Card of a saved model, or of one that comes with the package, without loading it.

    Parameters
    ----------
    path : str or path-like
        A file, or the name of a model that comes along ("batio3").

    Returns
    -------
    dict
        Empty if the model has none.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        If there is no model.

    Examples
    --------
    >>> from tinynet_sklearn import read_card
    >>> read_card("batio3")["units"]["energy"]
    'eV'
    """
    from importlib.resources import as_file, files

    from tinynet_sklearn.pretrained import PRETRAINED

    card: dict[str, Any]
    if str(path) in PRETRAINED and not Path(path).exists():
        with as_file(files("tinynet_sklearn") / "models" / f"{path}.tinynet") as inside:
            card = read_metadata(inside)["metadata"]
        return card
    card = read_metadata(path)["metadata"]
    return card


def known_files(card: dict[str, Any], files: Sequence[str]) -> list[str]:
    """Files of which a model has learned, by their content: errors on these say little."""
    data = card.get("data")
    entries = data.get("files", []) if isinstance(data, dict) else []
    known = {entry["sha256"] for entry in entries if entry.get("train", 1) > 0}  # old cards do not say
    return [file for file in dict.fromkeys(files) if (found := _sha256(file)) and found in known]


def _method(learned: Learned) -> str:
    settings = learned.settings
    graph = {"frozen": "one bond graph for all structures", "each": "a bond graph for each structure"}
    embedding = (
        f"sums over walks of up to {settings.n} hops within {settings.cutoff:g} Angstrom"
        if settings.topology == "smooth"
        else f"L{settings.n}({settings.N}) on {graph[settings.topology]}, bonds {settings.bonds}"
    )
    what = {
        "forces": "direct forces",
        "potential": "an energy, learned from "
        + ", ".join(getattr(fitted_steps(learned.model)[-1], "quantities_", ())),
        "ldos": "densities of states",
    }
    return f"{embedding}; a network of {settings.hidden} for each species; {what[settings.target]}"


def _files(data: Dataset, split: Split) -> list[dict[str, Any]]:
    files = [source.file for source in data.sources]
    train, test = (Counter(files[i] for i in part) for part in (split.train, split.test))
    return [
        {"file": file, "sha256": _sha256(file), "structures": n, "train": train[file], "test": test[file]}
        for file, n in Counter(files).items()
    ]


def _sha256(file: str) -> str:
    """Of a file, of the archive that it is in, or of all files of a run; "" if there are none."""
    path = Path(file)
    parts = [part for part in (path, *path.parents) if part.is_file()]
    if not parts:  # a folder, or the label of a run
        found = path.rglob("*") if path.is_dir() else path.parent.glob(f"{glob.escape(path.name)}.*")
        parts = sorted(part for part in found if part.is_file())
    digest = hashlib.sha256()
    try:
        for part in parts:
            with part.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest() if parts else ""


def _frames(data: Dataset, split: Split) -> dict[str, str]:
    frames: dict[str, list[int]] = {}
    for i in split.test:
        frames.setdefault(data.sources[i].file, []).append(data.sources[i].frame)
    return {file: frame_ranges(numbers) for file, numbers in frames.items()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "tinynet_sklearn": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a build under another name
            continue
    return found
