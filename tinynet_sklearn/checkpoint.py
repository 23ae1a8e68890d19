"""Files from which a training that was killed goes on.

One ``.npz`` file per network: arrays and JSON, no pickle. It appears under its name only when it is complete,
so a kill at any moment leaves either the file before or the file after.

==============  ==========================================================================================
member          meaning
==============  ==========================================================================================
header          JSON: "package", "format" and "fingerprint", what the file was made with
recorder.*      histories, best weights, patience (`recorder.Recorder`)
solver.*        what the solver needs to take the next step; its own business
==============  ==========================================================================================

A fingerprint is one line of text for each thing that decides the result. Large things are hashed, so a file
can tell what differs but not how it looked.

A folder that many fits share, of all candidates and folds of a search, has files that are named after what
decides the result: network, hash of the fingerprint and of the version of this package, iterations wanted.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn._version import __version__
from tinynet_sklearn.atomic_files import write_atomically

__all__ = ["CheckpointFile", "file_name", "fingerprint", "shared_file"]

FORMAT = 1
_PACKAGE = "tinynet_sklearn"
_HASHED = "sha256:"

# Most file systems allow 255; a network shared by all elements would have a longer name.
LONGEST_NAME = 100


@dataclass(frozen=True, eq=False)
class CheckpointFile:
    """The file of one network.

    Parameters
    ----------
    path : Path
        Where it is.
    fingerprint : dict of str to str
        What decides the result of the training, see `fingerprint`.
    shared : bool, default=False
        Whether it lies in a folder that many fits share.
    """

    path: Path
    fingerprint: dict[str, str]
    shared: bool = False

    def write(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the file."""
        header = {"package": _PACKAGE, "format": FORMAT, "fingerprint": self.fingerprint}
        np.savez(buffer := io.BytesIO(), header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
        write_atomically(self.path, buffer.getvalue())

    def read(self) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of the file, or None where there is no file.

        Raises
        ------
        ValueError
            If it is damaged, no checkpoint, or was written with other data or settings.
        """
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(str(arrays.pop("header")))
            known = header["package"] == _PACKAGE and header["format"] <= FORMAT
            written = dict(header["fingerprint"])
        except (BadZipFile, AttributeError, EOFError, KeyError, OSError, TypeError, ValueError) as error:
            raise ValueError(
                f"resume=True needs undamaged checkpoint files; '{self.path}' cannot be read: {error}. "
                "Delete it to train this network anew."
            ) from error
        if not known:
            raise ValueError(
                f"resume=True reads checkpoint files of format {FORMAT}; '{self.path}' has format "
                f"{header['format']} of {header['package']}. Update the package, or delete the file to train "
                "this network anew."
            )
        different = self._different(written)
        if different:
            raise ValueError(
                f"resume=True needs the data and settings that '{self.path}' was written with; these "
                f"differ: {'; '.join(different)}. Restore them, name another folder as checkpoint, or set "
                "resume=False to train all networks anew."
            )
        return arrays

    def _different(self, written: dict[str, str]) -> list[str]:
        """Settings that differ, or else the hashed data, which a setting may have changed."""
        settings, data = [], []
        for name in {**self.fingerprint, **written}:
            before, now = (print_.get(name, "not set") for print_ in (written, self.fingerprint))
            if before == now:
                continue
            if before.startswith(_HASHED) or now.startswith(_HASHED):
                data.append(name)
            else:
                settings.append(f"{name} ({before} in the file, {now} now)")
        return settings or data


def fingerprint(parts: Mapping[str, Any]) -> dict[str, str]:
    """Write each part as text, arrays and sequences of arrays as a hash.

    Parameters
    ----------
    parts : mapping of str to object
        Under the name by which a user knows it: a number, text, None, an array or a sequence of arrays.
    """
    return {name: _as_text(part) for name, part in parts.items()}


def file_name(label: str) -> str:
    """A file name, safe on all systems, for the network of this label."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")
    if len(stem) > LONGEST_NAME:
        stem = f"{stem[:LONGEST_NAME]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"{stem}.npz"


def shared_file(
    folder: Path, label: str, prints: dict[str, str], max_iter: int
) -> tuple[CheckpointFile, dict[str, NDArray[Any]] | None]:
    """The file of one network in a folder that many fits share, and the state to go on from.

    Parameters
    ----------
    folder : Path
        Where the files are.
    label : str
        Of the network.
    prints : dict of str to str
        What decides the result, see `fingerprint`.
    max_iter : int
        Iterations that are wanted. Fits that differ in nothing else have files of their own, and the longer
        goes on from where the shorter ended.

    Returns
    -------
    file : CheckpointFile
        To write to.
    arrays : dict of str to ndarray or None
        Of the file with the most iterations up to `max_iter`; None where there is none that can be read.
    """
    content = json.dumps([__version__, FORMAT, sorted(prints.items())])
    digest = hashlib.sha256(content.encode()).hexdigest()[:24]
    stem = f"{file_name(label).removesuffix('.npz')}-{digest}"
    lengths = (path.stem.rpartition("-")[2] for path in folder.glob(f"{stem}-*.npz"))
    for length in sorted((int(n) for n in lengths if n.isdigit() and int(n) <= max_iter), reverse=True):
        try:
            arrays = CheckpointFile(folder / f"{stem}-{length}.npz", prints).read()
        except ValueError:  # damaged: as if it were not there
            continue
        if arrays is not None:
            return CheckpointFile(folder / f"{stem}-{max_iter}.npz", prints, True), arrays
    return CheckpointFile(folder / f"{stem}-{max_iter}.npz", prints, True), None


def _as_text(part: Any) -> str:
    if isinstance(part, np.ndarray):
        return _hash([part])
    if isinstance(part, Sequence) and not isinstance(part, str):
        return _hash(part)
    if isinstance(part, bool) or not isinstance(part, Real):
        return repr(part)
    return repr(float(part)).removesuffix(".0")  # 0, 0.0 and numpy.float64(0) are one number


def _hash(arrays: Sequence[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return _HASHED + digest.hexdigest()
