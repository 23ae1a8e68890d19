"""Data of `tinynet fit` and `grid`: reading them, and what of them is held out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.copies import first_of_same, structure_row
from tinynet_sklearn.dataset_files import Dataset, read_dataset
from tinynet_sklearn.learning_settings import FitSettings, SettingsError, parse_energies
from tinynet_sklearn.potential_targets import PotentialTargets

__all__ = ["Split", "hold_out", "read_for", "read_quietly", "time_order_blocks", "usual_split"]

#: Files of at least so many structures are taken for runs, of which the end is held out.
RUN_LENGTH = 5

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Split:
    """Which structures are learned from and which are held out.

    Parameters
    ----------
    method : {"blocks", "groups", "random", "file", "none"}
    train, test : ndarray of int
        Numbers of structures.
    """

    method: str
    train: Ints
    test: Ints

    def described(self, fraction: float, n_groups: int) -> str:
        """In a sentence without its full stop."""
        files = "the file" if n_groups == 1 else f"each of {n_groups} files and runs"
        return {
            "blocks": f"the last {fraction:.0%} of {files}, in the order of the frames",
            "groups": f"whole files and runs, drawn from {n_groups}",
            "random": "structures drawn at random",
            "file": "the structures of --test",
            "none": "nothing is held out: errors on new structures are not known",
        }[self.method]


def read_for(settings: FitSettings) -> tuple[Dataset, int]:
    """Read the data of a fit: those of `test` come last.

    Copies of structures in `data`, which could come to stand on both sides of a split, and those that `test`
    has, too, are left out of `data`, and stand in `problems`.

    Returns
    -------
    Dataset
    int
        How many structures are those of `data`.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As `read_dataset`.
    SettingsError
        If nothing is in `data` that is not in `test`.
    """
    options: dict[str, Any] = {
        "on_problem": "skip" if settings.skip_problems else "raise",
        "keys": settings.keys or None,
    }
    if settings.target == "ldos":
        options |= {"width": settings.width, "zero": settings.zero, "spin": settings.spin or "refuse"}
        if settings.energies is not None:
            options["energies"] = parse_energies(settings.energies)
    data = _without_copies(read_quietly(settings.data, settings.target, **options))
    if not settings.test:
        return data, len(data)
    held_out = read_quietly(settings.test, settings.target, **options)
    data = _without(data, held_out)
    return _joined(data, held_out), len(data)


def read_quietly(paths: Sequence[str], target: str | None, **options: Any) -> Dataset:
    """Call `read_dataset`; what is left out stands in `problems` alone, and is shown from there.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As `read_dataset`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* left out", category=UserWarning)
        data = read_dataset(list(paths), target, **options)
    for atoms in data.structures:
        atoms.calc = None
    return data


def _without_copies(data: Dataset) -> Dataset:
    """Data with one of those structures that are the same: the one of which most is known, or the first."""
    # in the order of what is known of them, so that no energy is lost to a copy without one
    order = np.arange(len(data))
    if isinstance(data.y, PotentialTargets):
        order = np.argsort(-_n_known(data.y), kind="stable")
    originals = np.empty(len(data), dtype=np.intp)
    originals[order] = order[_originals([data.structures[i] for i in order])]
    copies = originals != np.arange(len(data))
    if not copies.any():
        return data
    one = int(copies.argmax())
    problem = (
        f"{copies.sum()} of {len(data)} structures, which are copies of others ({data.sources[one]} of "
        f"{data.sources[originals[one]]} for one)"
    )
    return replace(data[~copies], problems=(*data.problems, problem))


def _n_known(y: PotentialTargets) -> Ints:
    """How many of energy, forces and stress are known, for each structure."""
    known = np.zeros(len(y), dtype=np.intp)
    if y.energy is not None:
        known += np.isfinite(y.energy)
    if y.stress is not None:
        known += np.isfinite(y.stress).all(axis=1)
    if y.forces is not None:
        known += [bool(np.isfinite(part).all()) for part in y.forces]
    return known


def _without(data: Dataset, held_out: Dataset) -> Dataset:
    """Data without those structures that are held out: the same frames of files, or copies of them."""
    shared = _originals(held_out.structures + data.structures)[len(held_out) :] < len(held_out)
    if not shared.any():
        return data
    first = data.sources[int(shared.argmax())]
    if shared.all():
        raise SettingsError(
            f"--test must leave structures to learn from; all {len(data)} of DATA are in it, too ({first} "
            "for one). Name other files, or use --split to hold out a part."
        )
    problem = (
        f"{shared.sum()} of {len(data)} structures to learn from, which --test holds out ({first} for one)"
    )
    return replace(data[~shared], problems=(*data.problems, problem))


def _originals(structures: Sequence[Any]) -> NDArray[np.intp]:
    """Number of the first structure that is the same, for each."""
    kinds = [(atoms.numbers.tobytes(), atoms.pbc.tobytes()) for atoms in structures]
    return first_of_same(kinds, [structure_row(atoms.positions, atoms.cell.array) for atoms in structures])


def _joined(data: Dataset, more: Dataset) -> Dataset:
    y: Any
    if isinstance(data.y, PotentialTargets):
        # those that know the same again: quantities that only one part has are unknown in the other
        y = _joined_targets(data.y, more.y, data.structures + more.structures)
    else:
        y = np.concatenate([data.y, more.y])
    return Dataset(
        data.structures + more.structures,
        y,
        data.sources + more.sources,
        np.concatenate([data.groups, more.groups + data.groups.max() + 1]),
        data.target,
        tuple(dict.fromkeys(data.problems + more.problems)),
    )


def _joined_targets(first: Any, second: Any, structures: Sequence[Any]) -> Any:
    parts: dict[str, Any] = {}
    atoms = [sum(len(s) for s in structures[: len(first)]), sum(len(s) for s in structures[len(first) :])]
    for name in ("energy", "forces", "stress"):
        a, b = getattr(first, name), getattr(second, name)
        if a is None and b is None:
            continue
        if name != "forces":
            width = (6,) if name == "stress" else ()
            known = [np.full((n, *width), np.nan) if part is None else part for n, part in
                     ((len(first), a), (len(second), b))]  # fmt: skip
            parts[name] = np.concatenate(known)
        else:
            values = [np.full((n, 3), np.nan) if part is None else part.values for n, part in
                      zip(atoms, (a, b), strict=True)]  # fmt: skip
            offsets = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
            species = np.concatenate([s.numbers for s in structures])
            parts[name] = PerAtomArray(np.concatenate(values), offsets, species)
    return PotentialTargets(**parts)


def time_order_blocks(groups: NDArray[np.int64], n_blocks: int) -> Ints:
    """Number of the block (0 to ``n_blocks - 1``) of each structure inside its file or run."""
    blocks = np.empty(len(groups), dtype=np.intp)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        blocks[rows] = np.arange(len(rows)) * n_blocks // len(rows)
    return blocks


def usual_split(groups: NDArray[np.int64]) -> str:
    """How to divide files and runs: "blocks" of time where they are long enough, else whole "groups"."""
    runs, lengths = np.unique(groups, return_counts=True)
    return "blocks" if len(runs) == 1 or lengths.min() >= RUN_LENGTH else "groups"


def _drawn(groups: NDArray[np.int64], order: NDArray[np.int64], fraction: float) -> list[int]:
    """Groups to hold out: one after the other, those that bring nearer to the fraction; never all."""
    sizes = {int(run): int(np.count_nonzero(groups == run)) for run in order}
    missing, drawn = fraction * len(groups), list[int]()
    for run, size in sizes.items():
        if abs(missing - size) < missing and len(drawn) < len(sizes) - 1:
            drawn.append(run)
            missing -= size
    return drawn or [min(sizes, key=lambda run: sizes[run])]


def hold_out(settings: FitSettings, groups: NDArray[np.int64], n_data: int) -> Split:
    """Decide what is held out.

    Parameters
    ----------
    settings : FitSettings
    groups : ndarray of int of shape (n_structures,)
        File or run of each structure.
    n_data : int
        How many structures are of `data`; the others are of `test`.

    Raises
    ------
    SettingsError
        If too little would be left on one side.
    """
    everything = np.arange(len(groups))
    if settings.test:
        return Split("file", everything[:n_data], everything[n_data:])
    fraction = settings.test_fraction
    if fraction == 0.0:
        return Split("none", everything, everything[:0])
    runs = np.unique(groups)
    method = settings.split or usual_split(groups)
    rng = np.random.default_rng(settings.seed)
    if method == "random":
        test = np.sort(rng.permutation(len(groups))[: round(fraction * len(groups))])
    elif method == "groups":
        if len(runs) < 2:
            raise SettingsError(
                "--split groups holds out whole files and runs, and there is one. Use --split blocks for the "
                "end of a trajectory, or --split random for independent structures."
            )
        test = np.flatnonzero(np.isin(groups, _drawn(groups, rng.permutation(runs), fraction)))
    else:
        ends = [rows[len(rows) - round(fraction * len(rows)) :] for run in runs
                if len(rows := np.flatnonzero(groups == run))]  # fmt: skip
        test = np.concatenate(ends)
    train = np.setdiff1d(everything, test)
    if not len(test) or not len(train):
        raise SettingsError(
            f"--test-fraction {fraction:g} of {len(groups)} structures with --split {method} leaves "
            f"{len(train)} to learn from and {len(test)} held out; both must be at least 1. Add "
            "structures, or choose another fraction or split."
        )
    return Split(method, train, test)
