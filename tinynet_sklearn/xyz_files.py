"""Frames of XYZ files, extended or not, each on its own, so that a damaged one costs no other.

ASE parses what is in a frame. To find the frames, though, it follows their numbers of atoms through the whole
file before it parses the first, and it stops at an empty line: one wrong number costs all frames, an empty
line those behind it. Here a frame must end where the next begins; behind a damaged one the search goes on.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections import deque
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import IO, Any

from ase.io.extxyz import read_xyz

__all__ = ["is_xyz", "iterate_xyz", "open_text"]

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

ENDINGS = tuple(f".{kind}xyz{end}" for kind in ("", "ext") for end in ("", ".gz", ".bz2", ".xz"))


def is_xyz(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.name.lower().endswith(ENDINGS)


def open_text(path: Path) -> IO[str]:
    """Open a file to read text, compressed or not by its ending, in capitals or not."""
    opened: IO[str] = _OPENERS.get(path.suffix.lower(), open)(path, "rt")
    return opened


def iterate_xyz(path: Path) -> Iterator[Any]:
    """Frames of a file, one after the other.

    Parameters
    ----------
    path : Path

    Yields
    ------
    ase.Atoms or Exception
        With its results; or why it cannot be read.

    Raises
    ------
    EOFError, OSError, UnicodeDecodeError
        If the rest of the file cannot be read, as of a compressed file that was cut off.
    """
    with open_text(path) as file:
        lines = _Lines(file)
        while lines.next_beginning() is not None:
            found, frame = _frame(lines)
            if isinstance(found, Exception) and not _begins(lines.next_beginning() or ""):
                # Where this frame ends is not known: the next may begin in it, but not with a comment that
                # is a number, as that of a step.
                is_stray = len(frame) > 2 and not _is_atom(frame[2])
                lines.put_back(frame[1 if is_stray else 2 :])
                lines.skip_to_a_frame()
            yield found


class _Lines:
    """Lines of a file, some of which may be put back."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        # some editors begin files with a byte order mark
        self.waiting = deque([file.readline().removeprefix("\ufeff")])

    def take(self) -> str:
        """Next line, empty at the end of the file."""
        return self.waiting.popleft() if self.waiting else self.file.readline()

    def put_back(self, lines: list[str]) -> None:
        self.waiting.extendleft(reversed(lines))

    def next_beginning(self) -> str | None:
        """Next line that is not blank, which stays where it is; None at the end of the file."""
        while line := self.take():
            if line.strip():
                self.put_back([line])
                return line
        return None

    def skip_to_a_frame(self) -> None:
        """Go to the next line that is a single number, or to the end."""
        while (line := self.next_beginning()) is not None and not _begins(line):
            self.take()


def _begins(line: str) -> bool:
    """Whether a frame may begin with this line."""
    return line.strip().isdecimal()


def _is_atom(line: str) -> bool:
    """Whether a line has a symbol and three numbers."""
    try:
        return len([float(word) for word in line.split()[1:4]]) == 3
    except ValueError:
        return False


def _frame(lines: _Lines) -> tuple[Any, list[str]]:
    """A structure, or why there is none, and the lines that it was looked for in."""
    frame = [lines.take()]
    if not _begins(frame[0]):
        return ValueError(f"a frame begins with its number of atoms, not with {frame[0].strip()!r}"), frame
    n_atoms = int(frame[0])
    while len(frame) < n_atoms + 2 and (line := lines.take()):
        frame.append(line)
    if n_atoms and len(frame) < n_atoms + 2:
        return ValueError(f"the file ends after {max(len(frame) - 2, 0)} of {n_atoms} atoms"), frame
    while (line := lines.next_beginning() or "").lstrip().startswith("VEC"):
        frame.append(lines.take())
    if line and not _begins(line) and len(line.split()) == len(frame[-1].split()):
        return ValueError(f"after {n_atoms} atoms there is {line.strip()!r}, which looks like another"), frame
    try:
        return next(read_xyz(StringIO("".join(frame)), slice(None))), frame
    except Exception as error:  # ASE's parser raises whatever it runs into
        return error, frame
