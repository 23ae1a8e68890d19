"""What reading a data set gives: structures, what is to be learned of them, and where they are from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn._validation import plural, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.potential_targets import PotentialTargets

__all__ = ["Dataset", "Source"]


class Source(NamedTuple):
    """Where a structure is from."""

    file: str
    frame: int

    def __str__(self) -> str:
        return f"{self.file}, frame {self.frame}"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Structures, what is to be learned of them, and where they are from.

    ``len`` counts structures; a slice, an array of integers or a mask selects some of them.

    Parameters
    ----------
    structures : list of ase.Atoms
        Angstrom. Their calculators hold what files say where `target` is None; else there are none.
    y : PerAtomArray, PotentialTargets, LDOS or None
        Forces in eV/Angstrom; energies (eV), forces and stresses (eV/Angstrom^3); densities of states.
    sources : list of Source
        File and frame of each structure.
    groups : ndarray of int of shape (n_structures,)
        Number of its file or run, for ``GroupKFold`` and its kin.
    target : {"forces", "potential", "ldos"} or None
        What `y` is.
    problems : tuple of str, default=()
        What was left out, and why.

    Examples
    --------
    >>> from importlib.resources import as_file, files
    >>> from tinynet_sklearn import read_dataset
    >>> with as_file(files("tinynet_sklearn") / "data" / "moo3_gpaw.extxyz") as path:
    ...     data = read_dataset(path)
    >>> data  # doctest: +ELLIPSIS
    <Dataset: 81 structures, 16 atoms each, O Mo, 1 group, y=<PerAtomArray: 81 structures, 1296 atoms, ...>>
    >>> first, rest = data[:60], data[60:]
    >>> len(rest), str(rest.sources[0]).endswith("moo3_gpaw.extxyz, frame 60")
    (21, True)
    """

    structures: list[Any]
    y: PerAtomArray | PotentialTargets | None
    sources: list[Source]
    groups: NDArray[np.int64]
    target: str | None
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, key: Any) -> Dataset:
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            raise TypeError(
                "a Dataset is indexed by a slice, an array of integers or a mask; got "
                f"{key!r}. Write data.structures[{key!r}], or data[[{key!r}]]."
            )
        chosen = np.arange(len(self))[key]
        return Dataset(
            [self.structures[i] for i in chosen],
            None if self.y is None else self.y[chosen],
            [self.sources[i] for i in chosen],
            self.groups[chosen],
            self.target,
            self.problems,
        )

    def __repr__(self) -> str:
        counts = [len(atoms) for atoms in self.structures]
        numbers = sorted({int(z) for atoms in self.structures for z in set(atoms.numbers.tolist())})
        sizes = "no atoms" if not counts else f"{min(counts)} to {max(counts)} atoms"
        if counts and min(counts) == max(counts):
            sizes = f"{counts[0]} atoms each"
        n_groups = len(np.unique(self.groups))
        parts = [
            plural(len(self), "structure"),
            sizes,
            " ".join(species_name(number) for number in numbers),
            plural(n_groups, "group"),
            f"y={self.y!r}",
        ]
        if self.problems:
            parts.append(plural(len(self.problems), "problem"))
        return f"<Dataset: {', '.join(part for part in parts if part)}>"
