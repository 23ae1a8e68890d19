"""Files that are written whole or not at all.

The content goes to a hidden file beside the final one, ``.NAME.random.tmp``, which is renamed once it is on
the disk. So a kill at any moment leaves either the file before or the file after, and maybe a torso, the
hidden one.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

__all__ = ["TORSO_AGE", "remove_torsos", "write_atomically"]

# Seconds after which a file that is still incomplete, in a folder that several processes may use, was left by
# one that was killed.
TORSO_AGE = 600.0


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when it is complete and on the disk.

    Parameters
    ----------
    path : Path
        In a folder that exists; a file of this name is replaced.
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written; a file that was there before is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_torsos(path: Path, age: float = 0.0) -> None:
    """Remove what processes left that were killed while they wrote a file.

    Parameters
    ----------
    path : Path
        The file.
    age : float, default=0.0
        Leave alone what is younger, in seconds: another process may be writing it.
    """
    for torso in path.parent.glob(f".{path.name}.*.tmp"):
        try:
            if time.time() - torso.stat().st_mtime >= age:
                torso.unlink()
        except FileNotFoundError:  # complete by now, or removed by another process
            continue
