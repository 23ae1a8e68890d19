"""`TargetSet`: several kinds of targets of the same structures, such as forces and densities of states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinynet_sklearn._validation import described

__all__ = ["TargetSet"]


class TargetSet(Mapping[str, Any]):
    """Targets by name, which scikit-learn may split by structure.

    ``len`` counts structures. A name gives one kind of targets; a slice, an array of integers or a mask
    selects structures of all of them.

    Parameters
    ----------
    **targets
        Each with one entry per structure: PerAtomArray, LDOS, PotentialTargets, or an array.

    Raises
    ------
    TypeError
        If a kind of targets cannot be selected by structure: wrap lists in ``PerAtomArray.from_list``.
    ValueError
        If there is none, or they are of different numbers of structures.

    Examples
    --------
    >>> from tinynet_sklearn import TargetSet, load_moo3
    >>> targets = TargetSet(forces=load_moo3().target, ldos=load_moo3("ldos").target)
    >>> targets
    <TargetSet: 81 structures, forces, ldos>
    >>> targets[:10]["forces"]
    <PerAtomArray: 10 structures, 160 atoms, 3 columns, species 8 42, float64, lab frame>
    """

    def __init__(self, **targets: Any) -> None:
        for name, part in targets.items():
            if not hasattr(part, "shape") or not len(part.shape):
                raise TypeError(
                    f"{name} must be a PerAtomArray, LDOS, PotentialTargets or array; got {described(part)}. "
                    "PerAtomArray.from_list stacks one (n_atoms, k) array per structure."
                )
        sizes = {name: len(part) for name, part in targets.items()}
        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{n} for {name}" for name, n in sizes.items())
            raise ValueError(f"targets must be of the same structures; got {found or 'none'}.")
        self._targets = targets

    @property
    def shape(self) -> tuple[int]:
        """(n_structures,): what scikit-learn counts as samples."""
        return (len(self),)

    def __len__(self) -> int:
        return len(next(iter(self._targets.values())))

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._targets[key]
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]  # sklearn.utils._safe_indexing asks for y[key, ...]
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            raise TypeError(
                f"a TargetSet is indexed by a name, a slice, an array of integers or a mask; got {key!r}. "
                f"Write targets[[{key!r}]]."
            )
        return TargetSet(**{name: part[key] for name, part in self._targets.items()})

    def __repr__(self) -> str:
        return f"<TargetSet: {len(self)} structures, {', '.join(self._targets)}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError(
            "a TargetSet is no array: its kinds of targets have no common unit. Take one by name."
        )

    def items(self) -> Any:
        """Names and targets."""
        return self._targets.items()

    def keys(self) -> Any:
        """Names."""
        return self._targets.keys()

    def values(self) -> Any:
        """Targets."""
        return self._targets.values()
