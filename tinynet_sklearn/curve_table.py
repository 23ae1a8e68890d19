"""Curves of atoms over energies: the container that `LDOS` adds the physics to.

===============  =============================  ==============  ==============================================
name             shape                          unit            meaning
===============  =============================  ==============  ==============================================
values           (n_rows, n_energies)           states/eV/atom  one curve per atom, both spins
grid             EnergyGrid                     eV              energies, their zero, the broadening
levels           Levels, n_structures           eV              Fermi level, band edges, electrons
reference_total  (n_structures, n_energies)     states/eV       total density of states that the calculation
                                                                gave itself; NaN where it is not known
sources          n_structures strings                           where each structure is from, for messages
===============  =============================  ==============  ==============================================

The curves are a `PerAtomArray`, so they can be the target of any regressor of this package, and scikit-learn
splits them by structure. What else is known of the structures goes along.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energy_grid import EnergyGrid, Levels
from tinynet_sklearn.frames import FloatArray

__all__ = ["CurveTable", "per_structure"]


def per_structure(given: ArrayLike, n_structures: int, name: str) -> FloatArray:
    """One number per structure, of an argument that may be one for all."""
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be one number, or one for each of the {n_structures} structures; got "
            f"{reprlib.repr(given)}."
        ) from error
    if numbers.shape not in ((), (n_structures,)):
        raise ValueError(
            f"{name} must be one number, or one for each of the {n_structures} structures; got shape "
            f"{numbers.shape}."
        )
    return np.broadcast_to(numbers, n_structures)


@dataclass(frozen=True, eq=False, repr=False)
class CurveTable(PerAtomArray):
    """One curve per atom on one grid of energies, with what is known of the structures; see `LDOS`."""

    grid: EnergyGrid = field(kw_only=True)
    levels: Levels = field(kw_only=True, default=None)  # type: ignore[assignment]
    reference_total: FloatArray | None = field(kw_only=True, default=None)
    sources: tuple[str, ...] = field(kw_only=True, default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        grid: Any = self.grid
        if not isinstance(grid, EnergyGrid):
            object.__setattr__(self, "grid", EnergyGrid(grid))
        n_structures, n_energies = self.shape
        if n_energies != len(self.grid):
            raise ValueError(
                f"values must have one column for each of the {len(self.grid)} energies; got {n_energies}."
            )
        levels: Any = self.levels
        if levels is None:
            object.__setattr__(self, "levels", Levels.unknown(n_structures))
        elif not isinstance(levels, Levels):
            raise TypeError(f"levels must be Levels or None; got {described(levels)}.")
        if len(self.levels) != n_structures:
            raise ValueError(
                f"levels must be of the {n_structures} structures of values; got {len(self.levels)}."
            )
        if self.reference_total is not None:
            total = np.asarray(self.reference_total, dtype=np.float64)
            if total.shape != self.shape:
                raise ValueError(
                    "reference_total must have one row per structure and one column per energy, "
                    f"{self.shape}; got shape {total.shape}."
                )
            object.__setattr__(self, "reference_total", total)
        named: Any = self.sources
        if isinstance(named, str):
            raise TypeError(f"sources must hold one name per structure; got the text {named!r}.")
        sources = () if named is None else tuple(str(source) for source in named)
        sources = sources or ("",) * n_structures
        if len(sources) != n_structures:
            raise ValueError(f"sources must name the {n_structures} structures; got {len(sources)} names.")
        object.__setattr__(self, "sources", sources)

    @classmethod
    def from_arrays(
        cls, arrays: Sequence[ArrayLike], grid: EnergyGrid | ArrayLike, species: Any = None, **known: Any
    ) -> Self:
        """Stack one array of curves per structure.

        Parameters
        ----------
        arrays : sequence of array-like of shape (n_atoms, n_energies)
            States/eV/atom.
        grid : EnergyGrid or array-like of shape (n_energies,)
            Energies of the columns, eV.
        species : sequence of array-like of shape (n_atoms,), int, or None, default=None
            Atomic numbers per structure.
        **known
            `levels`, `reference_total` and `sources` as in the class.

        Returns
        -------
        of the same class

        Raises
        ------
        ValueError
            If the shapes do not fit together.
        """
        stacked = PerAtomArray.from_list(arrays, species)
        return cls(stacked.values, stacked.offsets, stacked.species, grid=grid, **known)  # type: ignore[arg-type]

    # ---- What an array is to NumPy and scikit-learn ----

    def __repr__(self) -> str:
        species = " ".join(str(z) for z in np.unique(self.species)) or "none"
        return (
            f"<LDOS: {len(self)} structures, {len(self.values)} atoms, species {species}, "
            f"{repr(self.grid)[len('<EnergyGrid: ') :]}"
        )

    def _contiguous(self, first: int, last: int) -> Self:
        return self._of(super()._contiguous(first, last), slice(first, last))

    def _gathered(self, structures: Any) -> Self:
        return self._of(super()._gathered(structures), structures)

    def _of(self, rows: PerAtomArray, structures: Any) -> Self:
        """Chosen structures, with what is known of them."""
        total = None if self.reference_total is None else self.reference_total[structures]
        sources = tuple(np.array(self.sources, dtype=object)[structures])
        return type(self)(
            rows.values,
            rows.offsets,
            rows.species,
            rows.frames,
            rows.geometry,
            grid=self.grid,
            levels=self.levels[structures],
            reference_total=total,
            sources=sources,
        )

    def __array_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> PerAtomArray:
        if func not in (np.concatenate, np.vstack, np.hstack):
            return super().__array_function__(func, types, args, kwargs)  # an error that names the way out
        parts = list(args[0])
        axis = 1 if func is np.hstack else kwargs.get("axis", args[1] if len(args) > 1 else 0)
        if axis in (1, -1):
            raise ValueError("LDOS are joined along axis 0, structure after structure; got axis 1.")
        strangers = [type(part).__name__ for part in parts if not isinstance(part, CurveTable)]
        if strangers:
            raise TypeError(
                f"LDOS are joined with LDOS only; got {first_few(strangers)}, of unknown energies. Give it a "
                "grid first: LDOS(a.values, a.offsets, a.species, grid=grid)."
            )
        for number, part in enumerate(parts[1:], start=1):
            difference = parts[0].grid.difference(part.grid)
            if difference is not None:
                names = [f" ({p.sources[0]})" if len(p) and p.sources[0] else "" for p in (parts[0], part)]
                raise ValueError(
                    f"LDOS must be on one grid to be joined; numbers 0{names[0]} and {number}{names[1]} have "
                    f"{difference}. Bring them together with aligned, resampled or broadened."
                )
        joined = super().__array_function__(func, types, args, kwargs)
        totals = [
            np.full(part.shape, np.nan) if part.reference_total is None else part.reference_total
            for part in parts
        ]
        return type(self)(
            joined.values,
            joined.offsets,
            joined.species,
            joined.frames,
            grid=self.grid,
            levels=Levels.joined([part.levels for part in parts]),
            reference_total=None if all(p.reference_total is None for p in parts) else np.concatenate(totals),
            sources=tuple(source for part in parts for source in part.sources),
        )

    def with_levels(self, levels: Levels | None = None, **known: ArrayLike | None) -> Self:
        """The same curves with other levels, such as predicted ones with the electrons of their structures.

        Parameters
        ----------
        levels : Levels or None, default=None
            Of all structures; None keeps those that are there.
        **known : float, array-like of shape (n_structures,) or None
            `fermi`, `vbm`, `cbm`, `n_electrons` or `shift` instead of those in `levels`; one number is that
            of every structure, None is not known.

        Returns
        -------
        of the same class

        Raises
        ------
        TypeError
            If a name is none of these, or something is no number.
        ValueError
            If there is not one number per structure.

        Examples
        --------
        A model predicts curves and no levels. The electrons say where the Fermi level is, and so the gap:

        >>> import numpy as np
        >>> from tinynet_sklearn import LDOS, EnergyGrid
        >>> states = [np.array([[-1.0, 2.0]])]
        >>> predicted = LDOS.from_states(
        ...     states, [np.ones((1, 2, 1))], EnergyGrid(np.linspace(-5, 5, 201), width=0.2)
        ... )
        >>> predicted.with_levels(n_electrons=2).fermi_level().round(2)
        array([0.5])
        >>> predicted.with_levels(n_electrons=2).aligned("vbm").grid.zero
        'vbm'
        """
        names = [entry.name for entry in fields(Levels)]
        strangers = [name for name in known if name not in names]
        if strangers:
            raise TypeError(
                f"with_levels takes levels and {', '.join(names)}; got {', '.join(strangers)}. Use one of "
                "these names."
            )
        changed = {
            name: per_structure(np.nan if given is None else given, len(self), name)
            for name, given in known.items()
        }
        found = self if levels is None else replace(self, levels=levels)
        return replace(found, levels=replace(found.levels, **changed))

    @property
    def energies(self) -> FloatArray:
        """Energies of the columns, eV, shape (n_energies,)."""
        return self.grid.energies

    def total(self) -> FloatArray:
        """Sum over the atoms of each structure, states/eV, shape (n_structures, n_energies)."""
        totals = np.empty(self.shape)
        for i, part in enumerate(self):
            totals[i] = part.sum(axis=0, dtype=np.float64)
        return totals

    def _rows(self) -> Iterator[slice]:
        return (slice(int(a), int(b)) for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True))

    def _name(self, structure: int | np.integer[Any]) -> str:
        source = self.sources[structure]
        return f"structure {structure}{f' ({source})' if source else ''}"
