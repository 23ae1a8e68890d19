"""A folder for one process at a time.

The process keeps a lock of the operating system on a file in the folder, which ends with the process however
it ends: nothing has to be cleaned up after a kill, and no number of a process is mistaken for another's. The
text of the file says who it is. Where there are no such locks (Windows, some network file systems) the file
itself is the lock, and that of a dead process is recognised on its own host only.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

__all__ = ["LOCK", "FolderLock"]

#: Name of the file.
LOCK = ".lock"


class FolderLock:
    """The lock of a folder, not taken yet.

    Parameters
    ----------
    folder : Path
    name : str, default="folder"
        The argument that names it, for messages.
    error : type, default=ValueError
        What `take` raises.
    """

    def __init__(self, folder: Path, name: str = "folder", error: type[ValueError] = ValueError) -> None:
        self.path = folder / LOCK
        self._name = name
        self._error = error
        self._file: int | None = None
        self._by_system = False

    def take(self) -> None:
        """Lock the folder, which must exist; nothing if this object has locked it already.

        Raises
        ------
        ValueError
            Or `error`: if another run has locked it.
        OSError
            If the folder cannot be written to.
        """
        while self._file is None:
            file, created = self._open()
            try:
                locked = _locked(file)
                if locked is False or (locked is None and not created and _lives(_holder(file))):
                    raise self._error(
                        f"{self._name} must belong to one run at a time; '{self.path.parent}' is in use by "
                        f"{_holder(file)}. Wait for its end or name another folder; if there is no such "
                        f"process, remove '{self.path}'."
                    )
                if not self._is(file):  # its owner removed it after we had opened it
                    os.close(file)
                    continue
            except BaseException:
                os.close(file)
                raise
            os.lseek(file, 0, os.SEEK_SET)
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self._file, self._by_system = file, locked is True

    def release(self) -> None:
        """Let others in; nothing if it is not locked."""
        file, self._file = self._file, None
        if file is None:
            return
        if not self._by_system:
            os.close(file)  # Windows removes no open files
        self.path.unlink(missing_ok=True)
        if self._by_system:
            os.close(file)  # not before: another process could have locked the file by now

    def _open(self) -> tuple[int, bool]:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
        except FileExistsError:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), False

    def _is(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False


def _holder(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, 1000).decode("utf-8", "replace").strip() or "another process"


def _lives(holder: str) -> bool:
    """Whether a process is alive, as far as can be told from here."""
    found = re.fullmatch(r"process (\d+) on (.+)", holder)
    if os.name == "nt" or found is None or found[2] != socket.gethostname():
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _locked(file: int) -> bool | None:
    """Lock a file; False if another process has, None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
