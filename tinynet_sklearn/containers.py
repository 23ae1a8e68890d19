"""One row per atom, counted by structure: the arrays that travel between the steps of a pipeline.

scikit-learn counts samples, and our sample is a *structure*; a network learns from *atoms*. `PerAtomArray`
speaks both languages: ``len(a)``, ``a.shape[0]`` and ``a[key]`` are about structures, so cross-validation
splits between structures and never through one, while ``np.asarray(a)`` and ``a.values`` are the rows, one
per atom.

===============  ==================  =======  ===========================================================
name             shape               dtype    meaning
===============  ==================  =======  ===========================================================
values           (n_rows, k)         float    one row per atom: features, forces (eV/Å), ...
offsets          (n_structures + 1)  intp     structure ``i`` owns the rows ``offsets[i]:offsets[i + 1]``
species          (n_rows,)           int64    atomic number of each row; 0 where the species is not known
frames           SiteFrames or None           the coordinate frame of each row, see `tinynet_sklearn.frames`
geometry         Geometry or None             how the columns follow the atoms, see `tinynet_sklearn.geometry`
vectors          (n_rows, v, 3)      float    directions that turn with a structure, to build targets on
invariant        bool                         whether columns stay the same when a structure is turned
===============  ==================  =======  ===========================================================

Everything here is plain NumPy and immutable by convention: no method writes into an array it was given,
because joblib hands worker processes read-only memory maps.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tinynet_sklearn._validation import equally_wide, first_few, real_numbers
from tinynet_sklearn.frames import (
    FRAME_TOLERANCE,
    ColumnSymmetry,
    FloatArray,
    IntArray,
    SiteFrames,
    as_integers,
)
from tinynet_sklearn.geometry import Geometry

__all__ = ["PerAtomArray"]


@dataclass(frozen=True, eq=False, repr=False)
class PerAtomArray:
    """A table with one row per atom that scikit-learn counts and splits by structure.

    ``len(a)`` and ``a.shape[0]`` count structures. ``a[3]`` is the (n_atoms, k) view of structure 3; a slice,
    an integer array or a boolean mask selects structures and gives a `PerAtomArray` again. ``np.asarray(a)``
    stacks the rows, so that the metrics of scikit-learn average over atoms.

    ``np.concatenate`` joins along axis 0, structure after structure, and along axis 1, column after column
    (as ``FeatureUnion`` does). No other NumPy function is defined, because it would have to guess whether
    structures or atoms are meant; say which by ``a.values`` (atoms) or by a loop over ``a`` (structures).
    For the same reason ``==`` compares identities, not numbers.

    Parameters
    ----------
    values : array-like of shape (n_rows, k)
        One row per atom. Integers become float64; the precision of floats is kept.
    offsets : array-like of shape (n_structures + 1,), int
        Structure ``i`` owns the rows ``offsets[i]:offsets[i + 1]``.
    species : array-like of shape (n_rows,), int
        Atomic number of each row; 0 where it is not known.
    frames : SiteFrames or None, default=None
        Frames in which the vectors among the columns are written; None for the laboratory frame.
    geometry : Geometry or None, default=None
        Derivatives of the columns, where an embedding has them. It stays with structures that are selected,
        and is lost to whatever changes or joins columns.
    vectors : array-like of shape (n_rows, n_vectors, 3) or None, default=None
        Directions beside the columns, in the laboratory frame: sums over neighbours that turn with a
        structure. A `BPNNRegressor` learns vector targets as combinations of them. They stay with the atoms
        whatever happens to the columns, and are put behind each other where columns are joined.
    invariant : bool, default=False
        Whether no column changes when a structure is turned or mirrored. Joined with columns in site frames,
        such columns leave the site groups of these in force.

    Raises
    ------
    ValueError
        If the shapes do not fit together or the offsets do not run from 0 to n_rows without stepping back.
    TypeError
        If the values are not real numbers, or offsets or species not integers.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import PerAtomArray
    >>> forces = PerAtomArray.from_list([np.zeros((2, 3)), np.ones((3, 3))], species=[[8, 1], [8, 1, 1]])
    >>> forces
    <PerAtomArray: 2 structures, 5 atoms, 3 columns, species 1 8, float64, lab frame>
    >>> len(forces), forces.shape, np.asarray(forces).shape
    (2, (2, 3), (5, 3))
    >>> forces[[1]].species
    array([8, 1, 1])
    """

    values: FloatArray
    offsets: IntArray
    species: IntArray
    frames: SiteFrames | None = None
    geometry: Geometry | None = None
    vectors: FloatArray | None = None
    invariant: bool = False

    # Operators of arrays on the left stand back, so that ``np.float64(2) * a`` reaches __rmul__ and no ufunc
    # ever runs on the bare rows.
    __array_ufunc__ = None

    def __post_init__(self) -> None:
        values = real_numbers(self.values)
        offsets = as_integers(self.offsets, "offsets", ndim=1)
        species = as_integers(self.species, "species", ndim=1, dtype=np.int64)
        n_rows = len(values)
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != n_rows or (np.diff(offsets) < 0).any():
            raise ValueError(
                f"offsets must rise from 0 to the number of rows, {n_rows}, without stepping back; "
                f"got {_shortened(offsets)}. PerAtomArray.from_list works them out for you."
            )
        if len(species) != n_rows:
            raise ValueError(
                f"species must hold one atomic number per row; got {len(species)} for {n_rows} rows."
            )
        if self.frames is not None:
            if len(self.frames) != n_rows:
                raise ValueError(
                    f"frames must hold one frame per row; got {len(self.frames)} for {n_rows} rows."
                )
            symmetry = self.frames.symmetry
            if symmetry is not None and symmetry.n_features != values.shape[1]:
                raise ValueError(
                    f"frames.symmetry acts on {symmetry.n_features} columns; values has {values.shape[1]}. "
                    "Pass frames.without_symmetry() if the columns were mixed or selected."
                )
        if self.geometry is not None and len(self.geometry) != len(offsets) - 1:
            raise ValueError(
                f"geometry must hold the {len(offsets) - 1} structures of offsets; got {len(self.geometry)}."
            )
        if self.vectors is not None:
            vectors = np.asarray(self.vectors)
            if vectors.ndim != 3 or vectors.shape[::2] != (n_rows, 3) or vectors.dtype.kind != "f":
                raise ValueError(
                    f"vectors must be floats of shape ({n_rows}, n_vectors, 3), one list of vectors per "
                    f"row; got {vectors.dtype} of shape {vectors.shape}."
                )
            object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "species", species)

    @classmethod
    def from_list(
        cls,
        arrays: Sequence[ArrayLike],
        species: Sequence[ArrayLike] | None = None,
        frames: SiteFrames | None = None,
    ) -> PerAtomArray:
        """Stack one (n_atoms, k) array per structure.

        Parameters
        ----------
        arrays : sequence of array-like of shape (n_atoms, k)
            At least one; k is the same for all.
        species : sequence of array-like of shape (n_atoms,), int, or None, default=None
            Atomic numbers per structure; None marks all as unknown (0).
        frames : SiteFrames or None, default=None
            Frames of all rows, stacked in the same order.

        Returns
        -------
        PerAtomArray

        Raises
        ------
        ValueError
            If the list is empty, an array is not two-dimensional, widths differ, or `species` does not match.
        """
        parts = equally_wide(arrays, "arrays")
        counts = np.array([len(p) for p in parts], dtype=np.intp)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        if species is None:
            numbers_of_rows = np.zeros(offsets[-1], dtype=np.int64)
        else:
            lists = [as_integers(s, "species", ndim=1, dtype=np.int64) for s in species]
            if len(lists) != len(parts):
                raise ValueError(
                    f"species must hold one list of atomic numbers per structure; got {len(lists)} lists for "
                    f"{len(parts)} structures."
                )
            wrong = [
                f"{len(s)} species and {n} rows for structure {i}"
                for i, (s, n) in enumerate(zip(lists, counts, strict=True))
                if len(s) != n
            ]
            if wrong:
                raise ValueError(f"species must hold one atomic number per row; got {first_few(wrong)}.")
            numbers_of_rows = np.concatenate(lists)
        return cls(np.concatenate(parts), offsets, numbers_of_rows, frames)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_structures, k): what scikit-learn counts as samples, and the columns."""
        return len(self), int(self.values.shape[1])

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, in bytes."""
        total = self.values.nbytes + self.offsets.nbytes + self.species.nbytes
        if self.frames is not None:
            total += self.frames.rotations.nbytes + self.frames.sites.nbytes
        return total + (0 if self.vectors is None else self.vectors.nbytes)

    @property
    def counts(self) -> IntArray:
        """Number of atoms per structure, shape (n_structures,)."""
        return np.diff(self.offsets)

    @property
    def structure_of_row(self) -> IntArray:
        """Index of the structure that each row belongs to, shape (n_rows,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[FloatArray]:
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.values[start:stop]

    def __repr__(self) -> str:
        species = " ".join(str(z) for z in np.unique(self.species)) or "none"
        where = "lab frame" if self.frames is None else "site frames"
        if self.vectors is not None:
            where = f"{self.vectors.shape[1]} vectors"
        return (
            f"<PerAtomArray: {len(self)} structures, {len(self.values)} atoms, {self.shape[1]} columns, "
            f"species {species}, {self.dtype}, {where}>"
        )

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):  # sklearn.utils._safe_indexing asks for a[key, ...]
            if len(key) != 2 or key[1] is not Ellipsis:
                raise TypeError(
                    f"a PerAtomArray is indexed by structure alone, got {key!r}. "
                    "Select columns with a.with_values(a.values[:, columns])."
                )
            key = key[0]
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            structure = self._structure_indices([key])[0]
            return self.values[self.offsets[structure] : self.offsets[structure + 1]]
        if isinstance(key, slice) and key.step in (None, 1):
            first, last, _ = key.indices(len(self))
            return self._contiguous(first, max(first, last))
        return self._gathered(self._structure_indices(key))

    def _structure_indices(self, key: Any) -> IntArray:
        if isinstance(key, slice):
            return np.arange(len(self))[key]
        indices = np.asarray(key)
        if indices.size == 0 and indices.dtype != bool:
            indices = indices.astype(np.intp)
        if indices.dtype == bool and indices.shape == (len(self),):
            return np.flatnonzero(indices)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise IndexError(
                "a PerAtomArray is indexed by an int, a slice, a 1-D array of ints or a mask with one bool "
                f"for each of its {len(self)} structures; got {type(key).__name__} of shape "
                f"{indices.shape} and type {indices.dtype}."
            )
        outside = indices[(indices < -len(self)) | (indices >= len(self))]
        if outside.size:
            raise IndexError(
                f"structure {outside[0]} is out of range: the PerAtomArray holds {len(self)} structures."
            )
        return np.where(indices < 0, indices + len(self), indices)

    def _contiguous(self, first: int, last: int) -> PerAtomArray:
        rows = slice(int(self.offsets[first]), int(self.offsets[last]))
        frames = None if self.frames is None else self.frames.take(rows)
        offsets = self.offsets[first : last + 1] - self.offsets[first]
        geometry = None if self.geometry is None else self.geometry[first:last]
        vectors = None if self.vectors is None else self.vectors[rows]
        return PerAtomArray(
            self.values[rows], offsets, self.species[rows], frames, geometry, vectors, self.invariant
        )

    def _gathered(self, structures: IntArray) -> PerAtomArray:
        counts = self.counts[structures]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)
        # Row r of the result sits r - offsets[i] rows into its structure i, both here and in the source.
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[structures] - offsets[:-1], counts)
        frames = None if self.frames is None else self.frames.take(rows)
        geometry = None if self.geometry is None else self.geometry[structures]
        vectors = None if self.vectors is None else self.vectors[rows]
        return PerAtomArray(
            self.values[rows], offsets, self.species[rows], frames, geometry, vectors, self.invariant
        )

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> FloatArray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __array_namespace__(self, api_version: str | None = None) -> None:
        raise TypeError(
            "a PerAtomArray has no array-API namespace, which would take its rows for samples. Switch the "
            "dispatch off with sklearn.set_config(array_api_dispatch=False)."
        )

    def __array_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> PerAtomArray:
        if func is np.concatenate:
            return _concatenate(*args, **kwargs)
        if func in (np.vstack, np.hstack):
            return _concatenate(args[0], 0 if func is np.vstack else 1, **kwargs)
        name = f"{func.__module__}.{func.__name__}"
        raise TypeError(
            f"{name} is not defined for a PerAtomArray, whose first axis counts structures while its numbers "
            f"belong to atoms. Call {name} on the rows, a.values, or put the transformer that calls it into "
            "PerAtom(...), as in PerAtom(StandardScaler())."
        )

    def with_values(self, values: ArrayLike, keep_symmetry: bool = False) -> PerAtomArray:
        """Other numbers for the same atoms.

        Parameters
        ----------
        values : array-like of shape (n_rows, k_new)
            One row per atom, in the order of ``self.values``.
        keep_symmetry : bool, default=False
            Whether the columns still mean what they meant, so that the site groups act on them as before.

        Returns
        -------
        PerAtomArray
            With the offsets, species, frames and vectors of this array.

        Raises
        ------
        ValueError
            If the number of rows differs.
        """
        values = real_numbers(values)
        if len(values) != len(self.values):
            raise ValueError(
                f"values must hold one row for each of the {len(self.values)} atoms; got {len(values)} rows. "
                "Rows cannot be added or removed here; select structures by indexing."
            )
        frames = self.frames if keep_symmetry or self.frames is None else self.frames.without_symmetry()
        return PerAtomArray(
            values, self.offsets, self.species, frames, vectors=self.vectors, invariant=self.invariant
        )

    def __mul__(self, factor: Any) -> PerAtomArray:
        if not isinstance(factor, numbers.Real):
            return NotImplemented
        # A Python float leaves float32 values in float32; the site groups act linearly, so they survive.
        return self.with_values(self.values * float(factor), keep_symmetry=True)

    __rmul__ = __mul__


def _concatenate(arrays: Sequence[Any], axis: int | None = 0, **options: Any) -> PerAtomArray:
    """Implement ``np.concatenate`` for sequences of `PerAtomArray`."""
    if options:
        raise TypeError(
            f"PerAtomArrays are joined without further options; got {', '.join(sorted(options))}. Convert "
            "the result instead, as in a.with_values(a.values.astype(np.float32))."
        )
    parts = list(arrays)
    strangers = [
        f"{type(p).__name__} at position {i}" for i, p in enumerate(parts) if not isinstance(p, PerAtomArray)
    ]
    if strangers:
        raise TypeError(
            f"PerAtomArrays can be joined with PerAtomArrays only; got {first_few(strangers)}. Put the "
            "transformer that made it into PerAtom(...), or build one with PerAtomArray.from_list."
        )
    if axis in (0, -2):
        return _join_structures(parts)
    if axis in (1, -1):
        return _join_columns(parts)
    raise ValueError(f"axis must be 0 (structures) or 1 (columns) to join PerAtomArrays; got {axis!r}.")


def _join_structures(parts: list[PerAtomArray]) -> PerAtomArray:
    widths = [p.shape[1] for p in parts]
    if len(set(widths)) > 1:
        raise ValueError(
            f"PerAtomArrays joined along axis 0 must have equally many columns; got {_shortened(widths)}."
        )
    frames = [p.frames for p in parts if p.frames is not None]
    if frames and len(frames) != len(parts):
        raise ValueError(
            "PerAtomArrays joined along axis 0 must all carry site frames or none of them; "
            f"got {len(frames)} of {len(parts)} with frames. Featurize all structures with the same frame=."
        )
    vectors = [p.vectors for p in parts if p.vectors is not None]
    n_vectors = [0 if p.vectors is None else p.vectors.shape[1] for p in parts]
    if vectors and (len(vectors) != len(parts) or len(set(n_vectors)) > 1):
        raise ValueError(
            f"PerAtomArrays joined along axis 0 must have equally many vectors; got {_shortened(n_vectors)}."
        )
    sizes = np.concatenate([p.counts for p in parts])
    return PerAtomArray(
        np.concatenate([p.values for p in parts]),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp),
        np.concatenate([p.species for p in parts]),
        _join_frames(frames) if frames else None,
        vectors=np.concatenate(vectors) if vectors else None,
        invariant=all(p.invariant for p in parts),
    )


def _join_frames(frames: list[SiteFrames]) -> SiteFrames:
    symmetry = frames[0].symmetry
    for other in frames[1:]:
        if symmetry is None or other.symmetry is None or not symmetry.equals(other.symmetry):
            symmetry = None
            break
    rotations = np.concatenate([f.rotations for f in frames])
    return SiteFrames(rotations, np.concatenate([f.sites for f in frames]), symmetry)


def _join_columns(parts: list[PerAtomArray]) -> PerAtomArray:
    first = parts[0]
    if len(parts) == 1:
        return first
    for position, part in enumerate(parts[1:], start=1):
        if not (np.array_equal(part.offsets, first.offsets) and np.array_equal(part.species, first.species)):
            raise ValueError(
                "PerAtomArrays joined along axis 1 must describe the same atoms, with equal offsets and "
                f"species; array {position} does not match array 0: {part!r} and {first!r}. Make them from "
                "the same structures."
            )
    # A part without frames holds columns that no rotation touches, so the others decide.
    framed = [(i, p.frames) for i, p in enumerate(parts) if p.frames is not None]
    for position, frames in framed[1:]:
        if not np.allclose(frames.rotations, framed[0][1].rotations, rtol=0.0, atol=FRAME_TOLERANCE):
            raise ValueError(
                "PerAtomArrays joined along axis 1 must share their site frames; the rotations of arrays "
                f"{framed[0][0]} and {position} differ. Use the same reference structure for both, or "
                "frame='lab'."
            )
    values = np.concatenate([p.values for p in parts], axis=1)
    frames_kept = _join_frames_of_columns(parts)
    vectors = [p.vectors for p in parts if p.vectors is not None]
    joined = np.concatenate(vectors, axis=1) if vectors else None
    invariant = all(p.invariant for p in parts)
    return PerAtomArray(
        values, first.offsets, first.species, frames_kept, vectors=joined, invariant=invariant
    )


def _join_frames_of_columns(parts: list[PerAtomArray]) -> SiteFrames | None:
    """Frames of joined columns, with site groups where it is known how the same ones act on every part."""
    framed = [p.frames for p in parts if p.frames is not None]
    if not framed:
        return None
    first = framed[0]
    alike = all(np.array_equal(f.sites, first.sites) for f in framed[1:])
    symmetry: ColumnSymmetry | None = None
    for position, part in enumerate(parts):
        action = None if part.frames is None else part.frames.symmetry
        if part.frames is None and part.invariant and first.symmetry is not None:
            action = first.symmetry.on_invariants(part.shape[1])
        symmetry = action if position == 0 or symmetry is None or action is None else symmetry.beside(action)
        if symmetry is None or action is None or not alike:
            return first.without_symmetry()
    return SiteFrames(first.rotations, first.sites, symmetry)


def _shortened(items: Sequence[int] | IntArray) -> str:
    shown = [str(i) for i in items[:6]] + ["..."] * (len(items) > 6)
    return f"[{', '.join(shown)}]"
