"""Features of more structures than fit in memory: a folder of arrays, written in batches and mapped.

=======================  ===============  =========================================================
file                     shape            meaning, as in `PerAtomArray`
=======================  ===============  =========================================================
per_atom.values.npy      (n_rows, k)      features
per_atom.species.npy     (n_rows,)        atomic numbers
per_atom.counts.npy      (n_structures,)  atoms of each structure
per_atom.rotations.npy   (n_rows, 3, 3)   site frames, where there are any
per_atom.sites.npy       (n_rows,)        site classes, likewise
per_atom.symmetry.npz                     what the site groups do to the columns, likewise
per_atom.vectors.npy     (n_rows, v, 3)   vectors, where there are any
per_atom.json                             sizes, and how far the writing has come
=======================  ===============  =========================================================

No pickle. The JSON file is replaced after each batch, when the rows are on the disk; what stands behind the
rows that it counts belongs to a batch that was cut off, and is cut away by whoever goes on. It also has one
hash of all structures in their order, and the parameters of the featurizer, the version of this package too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from pickle import PicklingError
from typing import Any

import joblib
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn._version import __version__
from tinynet_sklearn.atomic_files import write_atomically
from tinynet_sklearn.checkpoint import fingerprint
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import ColumnSymmetry, SiteFrames
from tinynet_sklearn.run_lock import FolderLock
from tinynet_sklearn.structures import as_structures, is_structure

__all__ = ["FOLDER_OF_VALUES", "open_per_atom", "transform_to_folder"]

HEADER = "per_atom.json"
SYMMETRY = "per_atom.symmetry.npz"

#: How the path of mapped values ends; a name that other maps do not have.
FOLDER_OF_VALUES = "per_atom.values.npy"
FORMAT = 1
_PACKAGE = "tinynet_sklearn"

#: Parameters of featurizers that do not change features.
_WITHOUT_EFFECT = ("n_jobs", "verbose", "memory")


def transform_to_folder(
    path: str | os.PathLike[str], featurizer: Any, structures: Iterable[Any], batch_size: int = 256
) -> PerAtomArray:
    """Featurize structures in batches into a folder, from which they are mapped instead of read.

    A run that was killed goes on where it ended: call it again with the same arguments. All structures that
    are there, the parameters of the featurizer and the version of this package are compared with those of
    before; the first and the last batch are computed once more and compared, too. One process at a time
    writes into a folder.

    Parameters
    ----------
    path : str or path-like
        Folder; created, or continued.
    featurizer : transformer
        Fitted; makes a `PerAtomArray`, always of the same columns. Its `n_jobs` counts.
    structures : iterable
        What `featurizer` transforms, in any number, such as ``ase.io.iread(file)``. Only `batch_size` of them
        are held in memory.
    batch_size : int, default=256
        Structures at a time.

    Returns
    -------
    PerAtomArray
        As from `open_per_atom`.

    Raises
    ------
    ValueError
        If there are no structures, a batch has other columns or frames than the first, the folder holds
        features of other structures, by another featurizer or another version of this package, its files are
        damaged, or another process writes into it.
    TypeError
        If `featurizer` makes anything but a `PerAtomArray`.
    NotADirectoryError
        If `path` is a file.

    Examples
    --------
    >>> import tempfile
    >>> from tinynet_sklearn import CycleMomentFeaturizer, load_moo3
    >>> from tinynet_sklearn.array_folders import transform_to_folder
    >>> data = load_moo3()
    >>> embed = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit(data.structures[:10])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     X = transform_to_folder(folder, embed, iter(data.structures), batch_size=32)
    ...     len(X), type(X.values.base).__name__
    (81, 'memmap')
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size!r}.")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"path must be a folder; '{folder}' is a file. Name another place.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder, name="path")
    lock.take()
    try:
        _write_all(folder, featurizer, structures, batch_size)
    finally:
        lock.release()
    return open_per_atom(folder)


# How featurizers call a structure of a list.
_NUMBERED = re.compile(r"\b(structure |at index )(\d+)\b")


def _write_all(folder: Path, featurizer: Any, structures: Iterable[Any], batch_size: int) -> None:
    header = _read_header(folder)
    n_done = 0 if header is None else int(header["n_structures"])
    if header is not None and header["batch_size"] != batch_size:
        raise ValueError(
            f"batch_size must be that of the files in '{folder}', {header['batch_size']}; got {batch_size}. "
            "Keep it, or name another folder."
        )
    maker = _maker(featurizer)
    before = maker if header is None else header.get("made_by", {})
    different = [name for name in {**maker, **before} if maker.get(name) != before.get(name)]
    if different:
        raise _others(folder, f"with another {first_few(different)}")
    seen, digest = 0, ""
    for batch in _batches(structures, batch_size):
        first, seen = seen, seen + len(batch)
        digest = _digest(digest, batch)
        if seen <= n_done:
            if header is not None and seen == n_done and digest != header["structures"]:
                raise _others(folder, "of other structures")
            if first == 0 or seen == n_done:  # what a featurizer has learned is no parameter of it
                _compare(folder, _features(featurizer, batch, first), first)
            continue
        if first < n_done:  # the last batch was a short one, and there is more now
            raise _others(folder, f"of {n_done} structures")
        features = _features(featurizer, batch, first)
        if header is None:
            header = {"package": _PACKAGE, "format": FORMAT, "batch_size": batch_size, "made_by": maker}
        header = _append(folder, header | {"structures": digest}, features)
    if header is None:
        raise ValueError(f"structures must hold at least one structure; got {described(structures)}, empty.")
    if seen < n_done:
        raise _others(folder, f"of {n_done} structures")
    if not header["complete"]:
        _write_header(folder, header | {"complete": True})


def open_per_atom(path: str | os.PathLike[str]) -> PerAtomArray:
    """Map the features in a folder that `transform_to_folder` has written.

    Parameters
    ----------
    path : str or path-like
        The folder.

    Returns
    -------
    PerAtomArray
        Its values, vectors and rotations lie in files and are read where they are used; a contiguous slice of
        it does, too. It is read-only, and has no `geometry`. Structures selected in any other way are copied
        into memory.

    Raises
    ------
    FileNotFoundError
        If there are no such features.
    ValueError
        If they are incomplete, or of a newer format.
    """
    folder = Path(path)
    header = _read_header(folder)
    if header is None:
        raise FileNotFoundError(
            f"path must lead to a folder of features; '{folder}' has no {HEADER}. Write one with "
            "transform_to_folder."
        )
    if not header["complete"]:
        raise ValueError(
            f"path must lead to complete features; '{folder}' holds those of {header['n_structures']} "
            "structures so far. Call transform_to_folder again, with the same arguments, to go on."
        )
    return _opened(folder, header)


def _opened(folder: Path, header: dict[str, Any]) -> PerAtomArray:
    arrays: dict[str, NDArray[Any]] = {}
    for name, (kind, width) in header["arrays"].items():
        path, n_rows = folder / f"per_atom.{name}.npy", _n_rows(header, name)
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise _damaged(path) from error
        if array.dtype.str != kind or list(array.shape[1:]) != width or len(array) < n_rows:
            raise _damaged(path)
        arrays[name] = array[:n_rows]
    frames = None
    if "rotations" in arrays:
        symmetry = _read_symmetry(folder) if header["symmetry"] else None
        frames = SiteFrames(arrays["rotations"], np.array(arrays["sites"]), symmetry)
    return PerAtomArray(
        arrays["values"],
        np.concatenate([[0], np.cumsum(arrays["counts"])]).astype(np.intp),
        np.array(arrays["species"]),
        frames,
        vectors=arrays.get("vectors"),
        invariant=header.get("invariant", False),
    )


def _batches(structures: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(structures)
    for first in rest:
        yield list(chain([first], islice(rest, size - 1)))


def _features(featurizer: Any, batch: list[Any], first: int) -> PerAtomArray:
    """Features of a batch that begins with structure `first`, by whose numbers errors call structures."""
    try:
        features = featurizer.transform(batch)
    except (TypeError, ValueError) as error:
        text = _NUMBERED.sub(lambda found: f"{found[1]}{int(found[2]) + first}", str(error))
        if text == str(error):
            raise
        raise (TypeError if isinstance(error, TypeError) else ValueError)(text) from error
    if not isinstance(features, PerAtomArray):
        raise TypeError(
            f"featurizer must make PerAtomArrays; {type(featurizer).__name__} made {described(features)}. "
            "Put transformers of tables into PerAtom(...)."
        )
    return features


def _parts(features: PerAtomArray) -> dict[str, NDArray[Any]]:
    """What is written of some features, by the names of the files."""
    parts = {"values": features.values, "species": features.species, "counts": features.counts}
    if features.frames is not None:
        parts |= {"rotations": features.frames.rotations, "sites": features.frames.sites}
    return parts if features.vectors is None else parts | {"vectors": features.vectors}


def _append(folder: Path, header: dict[str, Any], features: PerAtomArray) -> dict[str, Any]:
    parts = _parts(features)
    kinds = {name: [part.dtype.str, list(part.shape[1:])] for name, part in parts.items()}
    symmetry = None if features.frames is None else features.frames.symmetry
    before = _read_header(folder)
    if (0 if before is None else before["n_structures"]) != header.get("n_structures", 0):
        raise ValueError(  # where the file system knows no locks
            f"path must belong to one run at a time; another has written to '{folder}'. Call "
            "transform_to_folder again when it has ended."
        )
    if before is None:
        header |= {"arrays": kinds, "n_structures": 0, "n_rows": 0}
        header |= {"symmetry": symmetry is not None, "invariant": features.invariant}
        if symmetry is not None:
            _write_symmetry(folder, symmetry)
    alike = kinds == header["arrays"] and features.invariant == header.get("invariant", False)
    written = _read_symmetry(folder) if header["symmetry"] else None
    if not alike or not _same_symmetry(written, symmetry):
        raise ValueError(
            "featurizer must give equal columns, frames and vectors for all structures; from structure "
            f"{header['n_structures']} on they differ from those in '{folder}'. Name another folder for them."
        )
    for name, part in parts.items():
        _append_rows(folder / f"per_atom.{name}.npy", _n_rows(header, name), part)
    header |= {
        "n_rows": header["n_rows"] + len(features.values),
        "n_structures": header["n_structures"] + len(features),
        "complete": False,
    }
    _write_header(folder, header)
    return header


def _append_rows(path: Path, n_before: int, rows: NDArray[Any]) -> None:
    """Put rows behind the first `n_before` ones of an .npy file, and cut off what stands there."""
    rows = np.ascontiguousarray(rows)
    kind = npy.header_data_from_array_1_0(rows)

    def write_header(n_rows: int) -> None:
        file.seek(0)
        # of one length: NumPy leaves room for the number of rows to grow
        npy.write_array_header_1_0(file, kind | {"shape": (n_rows, *rows.shape[1:])})

    if n_before and not path.exists():
        raise _damaged(path)
    with path.open("r+b" if n_before else "w+b") as file:
        write_header(n_before)
        row_nbytes = rows.itemsize * int(np.prod(rows.shape[1:]))
        end = file.seek(n_before * row_nbytes, os.SEEK_CUR)
        if path.stat().st_size < end:  # truncate would fill the gap with zeros
            raise _damaged(path)
        file.truncate()
        rows.tofile(file)
        file.flush()
        write_header(n_before + len(rows))  # not before its rows are there
        file.flush()
        os.fsync(file.fileno())


def _compare(folder: Path, features: PerAtomArray, first: int) -> None:
    """Refuse a folder in which structures, from `first` on, are not these."""
    header = _read_header(folder)
    there = None if header is None else _opened(folder, header)[first : first + len(features)]
    mine, other = _parts(features), {} if there is None else _parts(there)
    same = mine.keys() == other.keys() and all(np.array_equal(mine[name], other[name]) for name in mine)
    if there is not None and same:
        symmetries = [None if one.frames is None else one.frames.symmetry for one in (there, features)]
        same = there.invariant == features.invariant and _same_symmetry(*symmetries)
    if not same:
        raise _others(folder, "of which the featurizer makes others now")


def _same_symmetry(a: ColumnSymmetry | None, b: ColumnSymmetry | None) -> bool:
    return a is b if a is None or b is None else a.equals(b)


def _maker(featurizer: Any) -> dict[str, str]:
    """What decides about features, one text for each thing."""
    maker = {"version of tinynet_sklearn": __version__, "class": type(featurizer).__name__}
    params = featurizer.get_params(deep=True) if hasattr(featurizer, "get_params") else {}
    for name, value in params.items():
        if name.rpartition("__")[2] not in _WITHOUT_EFFECT:
            # the parameters of an estimator are listed themselves
            maker[name] = type(value).__name__ if hasattr(value, "get_params") else _hash(value)
    return maker


def _hash(value: Any) -> str:
    if is_structure(value):  # whatever else it carries
        one = as_structures([value])[0]
        return fingerprint({"": [one.numbers, one.positions, one.cell, one.pbc]})[""]
    try:
        return str(joblib.hash(value))
    except (AttributeError, TypeError, PicklingError):  # a lambda
        return str(getattr(value, "__qualname__", type(value).__name__))


def _digest(before: str, batch: list[Any]) -> str:
    """One hash of the structures of a batch and of all batches before, of which `before` is the hash."""
    return sha256(" ".join([before, *map(_hash, batch)]).encode()).hexdigest()


def _others(folder: Path, which: str) -> ValueError:
    return ValueError(
        "path must lead to an empty folder, or to features of these structures by this featurizer; "
        f"'{folder}' holds others, {which}. Name another folder, or remove this one."
    )


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"path must lead to features whose files are whole; '{path}' is missing, cut off, or another's. "
        "Remove the folder and write it again."
    )


def _n_rows(header: dict[str, Any], name: str) -> int:
    """Length of an array in the folder."""
    return int(header["n_structures" if name == "counts" else "n_rows"])


def _read_header(folder: Path) -> dict[str, Any] | None:
    path = folder / HEADER
    if not path.exists():
        return None
    header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if header.get("package") != _PACKAGE or header.get("format", 0) > FORMAT:
        raise ValueError(
            f"path must lead to features of format {FORMAT} of {_PACKAGE}; '{path}' says "
            f"{header.get('package')}, format {header.get('format')}. Update the package, or name another "
            "folder."
        )
    return header


def _write_header(folder: Path, header: dict[str, Any]) -> None:
    write_atomically(folder / HEADER, json.dumps(header, indent=1).encode())


def _write_symmetry(folder: Path, symmetry: ColumnSymmetry) -> None:
    arrays: dict[str, NDArray[Any]] = {f"gather.{k}": a for k, a in enumerate(symmetry.gather)}
    arrays |= {f"rotations.{k}": a for k, a in enumerate(symmetry.rotations)}
    np.savez(folder / SYMMETRY, vector_columns=symmetry.vector_columns, **arrays)  # type: ignore[arg-type]


def _read_symmetry(folder: Path) -> ColumnSymmetry | None:
    if not (folder / SYMMETRY).exists():
        return None
    with np.load(folder / SYMMETRY, allow_pickle=False) as file:
        n_sites = (len(file.files) - 1) // 2
        gather = tuple(file[f"gather.{k}"] for k in range(n_sites))
        rotations = tuple(file[f"rotations.{k}"] for k in range(n_sites))
        return ColumnSymmetry(gather, rotations, file["vector_columns"])
