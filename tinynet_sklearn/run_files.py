"""Files of a molecular dynamics run, from which a killed one goes on as if nothing had happened.

==========================  ==============================================================================
file                        content
==========================  ==============================================================================
trajectory.traj, .extxyz    frames: positions, momenta, energy, forces; step and time (ps) in ``info``
energies.csv                one line per recorded step, see `COLUMNS`; empty where a number does not exist
state.npz                   the last checkpoint
summary.json, dynamics.png  written at the end, or when the run is interrupted
.lock                       there while a process is at work (`run_lock`)
==========================  ==============================================================================

Trajectory and table grow at their ends. A checkpoint holds everything that the next step depends on, and how
long the growing files were: whoever continues cuts off what was written later, torn frames included, and
writes it again, the same to the last bit. It replaces the one before it only when it is complete and on the
disk, as are the bytes that it counts.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
from ase import Atoms
from ase.io import Trajectory, read, write
from numpy.typing import NDArray

from tinynet_sklearn.atomic_files import remove_torsos, write_atomically
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.run_lock import FolderLock
from tinynet_sklearn.run_settings import RunSettingsError

__all__ = ["COLUMNS", "FORMATS", "Checkpoint", "RunFiles"]

#: Columns of the table, with their units.
COLUMNS = (
    "step",
    "time_ps",
    "kinetic_eV",
    "potential_eV",
    "total_eV",
    "conserved_eV",
    "temperature_K",
    "pressure_GPa",
    "volume_A3",
    "extrapolating_atoms",
)

#: Formats of trajectories and their files.
FORMATS = {"traj": "trajectory.traj", "extxyz": "trajectory.extxyz"}

STATE, TABLE, SUMMARY, PLOT = "state.npz", "energies.csv", "summary.json", "dynamics.png"

FORMAT = 1
_PACKAGE = "tinynet_sklearn.dynamics"
_INTEGRATOR = "integrator."

# The head of ASE's .traj files counts the frames and says where their list stands; it changes as they grow.
_TRAJ_HEAD, _TRAJ_MAGIC = 48, b"- of Ulm"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A moment of a run.

    Parameters
    ----------
    step, stage : int
        Steps done, counted from the end of the equilibration, and which integrator is at work.
    arrays : dict of str to ndarray
        "positions", "momenta", "cell"; "first_positions", "first_cell", "first_forces" of the first
        configuration.
    integrator : dict of str to ndarray
        From `Integrator.state`.
    """

    step: int
    stage: int
    arrays: dict[str, NDArray[Any]]
    integrator: dict[str, NDArray[Any]]


class RunFiles:
    """Table and frames of a run, in a folder or in memory.

    Parameters
    ----------
    folder : Path or None
        None keeps everything in memory.
    file_format : {"traj", "extxyz"}
    settings : dict of str to str
        What decides the result, by the names that users know (`checkpoint.fingerprint`).

    Attributes
    ----------
    rows : list of list of str
        The table as text.
    """

    def __init__(self, folder: Path | None, file_format: str, settings: dict[str, str]) -> None:
        self.folder, self.settings = folder, settings
        self.rows: list[list[str]] = []
        self._format = file_format
        self._kept: list[Atoms] = []
        self._table: IO[str] | None = None
        self._trajectory: Any = None
        self._sizes: dict[str, int] = {}
        self._head = b""
        self._lock = None if folder is None else FolderLock(folder, error=RunSettingsError)

    def path(self, name: str) -> Path:
        """Where a file of this run is."""
        return (self.folder or Path()) / name

    @property
    def trajectory_path(self) -> Path | None:
        """Where the trajectory is; None in memory."""
        return None if self.folder is None else self.path(FORMATS[self._format])

    def lock(self) -> None:
        """Keep other processes out of the folder until `release`; nothing if there is no folder yet.

        Raises
        ------
        RunSettingsError
            If another process works there, or it cannot be written to.
        """
        if self._lock is None or self.folder is None or not self.folder.is_dir():
            return
        try:
            self._lock.take()
        except OSError as error:
            raise self._no_place(error) from error

    def release(self) -> None:
        """Let other processes into the folder."""
        if self._lock is not None:
            self._lock.release()

    def refuse_earlier_run(self, restart: bool = False) -> None:
        """Refuse to write over files.

        Parameters
        ----------
        restart : bool, default=False
            Whether the run was to be continued, and has no checkpoint. What a run leaves that was killed
            before its first one may then be written over.

        Raises
        ------
        RunSettingsError
            If there are some.
        """
        there = [name for name in (*FORMATS.values(), TABLE, STATE) if self.path(name).exists()]
        if self.folder is None or not there:
            return
        if restart and STATE not in there:
            if self._hardly_begun():
                return
            raise RunSettingsError(
                f"restart needs a folder with {STATE}, or one without a run; '{self.folder}' holds "
                f"{', '.join(there)}. Put {STATE} back, or name another folder to begin anew."
            )
        raise RunSettingsError(
            f"folder must be free of an earlier run; '{self.folder}' holds {', '.join(there)}. Name "
            "another folder, delete them, or continue the run with restart."
        )

    def _hardly_begun(self) -> bool:
        """Whether the files are those of a process that was killed before its first checkpoint."""
        own = {TABLE, FORMATS[self._format]}
        if not self.path(TABLE).exists() or any(
            self.path(name).exists() for name in {*FORMATS.values(), SUMMARY, PLOT} - own
        ):
            return False
        table = self.path(TABLE).read_bytes()
        head = (",".join(COLUMNS) + "\n").encode()
        n_rows = table.count(b"\n") - 1
        own_table = head.startswith(table) or table.startswith(head)
        return own_table and n_rows <= 1 and _count_frames(self.path(FORMATS[self._format])) <= 1

    def read(self) -> Checkpoint | None:
        """Return the last checkpoint, None where there is none.

        Raises
        ------
        RunSettingsError
            If there is no folder, or the checkpoint is of a run with other settings.
        ValueError
            If it is damaged, or written by a newer version.
        """
        if self.folder is None:
            raise RunSettingsError("restart needs the folder of the run; got folder=None. Name it.")
        path = self.path(STATE)
        if not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(str(arrays.pop("header")))
            known = header["package"] == _PACKAGE and header["format"] <= FORMAT
            settings, self._sizes = dict(header["settings"]), dict(header["sizes"])
            self._head = bytes.fromhex(header["trajectory_head"])
            step, stage = int(header["step"]), int(header["stage"])
        except (BadZipFile, AttributeError, EOFError, KeyError, OSError, TypeError, ValueError) as error:
            raise ValueError(
                f"restart needs an undamaged state file; '{path}' cannot be read: {error}. Begin anew in "
                "another folder; the trajectory in this one is not touched."
            ) from error
        if not known:
            raise ValueError(
                f"restart reads state files of format {FORMAT}; '{path}' has format {header['format']} of "
                f"{header['package']}. Update the package."
            )
        self._check(settings)
        own = {
            name.removeprefix(_INTEGRATOR): a for name, a in arrays.items() if name.startswith(_INTEGRATOR)
        }
        moment = {name: a for name, a in arrays.items() if not name.startswith(_INTEGRATOR)}
        return Checkpoint(step, stage, moment, own)

    def begin(self, restart: bool = False) -> None:
        """Open new files; `restart` as in `refuse_earlier_run`.

        Raises
        ------
        RunSettingsError
            If the folder is a file or cannot be written to, or another process was faster.
        """
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._no_place(error) from error
        self.lock()
        self.refuse_earlier_run(restart)
        try:
            self.path(TABLE).open("a").close()  # better before the simulation than after
        except OSError as error:
            raise self._no_place(error) from error
        self._remove_torsos()
        self._table = self.path(TABLE).open("w", encoding="utf-8", newline="\n")
        self._table.write(",".join(COLUMNS) + "\n")
        self._table.flush()  # tells whose table this is
        self._open_trajectory("w")

    def resume(self) -> None:
        """Open the files that `read` found, cut to the length that they had at the checkpoint.

        Raises
        ------
        ValueError
            If they are shorter than they were.
        """
        for name, size in self._sizes.items():
            path = self.path(name)
            found = path.stat().st_size if path.exists() else 0
            if found < size:
                raise ValueError(
                    f"restart needs the files of the run; '{path}' has {found} bytes, at the checkpoint it "
                    f"had {size}. Put it back, or begin anew in another folder."
                )
        for name, size in self._sizes.items():
            os.truncate(self.path(name), size)
        if self._format == "traj":
            with self.path(FORMATS["traj"]).open("r+b") as file:
                file.write(self._head)
        self._remove_torsos()
        lines = self.path(TABLE).read_text(encoding="utf-8").splitlines()
        self.rows = [line.split(",") for line in lines[1:]]
        self._table = self.path(TABLE).open("a", encoding="utf-8", newline="\n")
        self._open_trajectory("a")

    def add(self, row: Sequence[float], frame: Atoms | None) -> None:
        """Append a line to the table (numbers in the order of `COLUMNS`) and a frame to the trajectory."""
        text = [_as_text(number) for number in row]
        self.rows.append(text)
        if self._table is None:
            if frame is not None:
                self._kept.append(frame)
            return
        self._table.write(",".join(text) + "\n")
        if frame is None:
            return
        if self._format == "traj":
            self._trajectory.write(frame)
        else:
            write(self._trajectory, frame, format="extxyz")

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, after everything that was added is on the disk."""
        if self.folder is None:
            return
        self._sizes = {path.name: _on_disk(path) for path in self._growing()}
        if self._format == "traj":
            with self.path(FORMATS["traj"]).open("rb") as file:
                self._head = file.read(_TRAJ_HEAD)
        header = {
            "package": _PACKAGE,
            "format": FORMAT,
            "settings": self.settings,
            "step": checkpoint.step,
            "stage": checkpoint.stage,
            "sizes": self._sizes,
            "trajectory_head": self._head.hex(),
        }
        own = {_INTEGRATOR + name: array for name, array in checkpoint.integrator.items()}
        arrays: dict[str, Any] = {"header": np.array(json.dumps(header)), **checkpoint.arrays, **own}
        np.savez(buffer := io.BytesIO(), **arrays)
        write_atomically(self.path(STATE), buffer.getvalue())

    def close(self) -> None:
        """Close the files; what was added is in them."""
        for file in (self._table, self._trajectory):
            if file is not None:
                file.close()

    def table(self) -> dict[str, FloatArray]:
        """Columns of the table; NaN where it is empty."""
        numbers = np.array([[float(text or "nan") for text in row] for row in self.rows])
        return dict(zip(COLUMNS, numbers.reshape(-1, len(COLUMNS)).T.copy(), strict=True))

    def frames(self) -> list[Atoms]:
        """All frames."""
        path = self.trajectory_path
        return list(self._kept) if path is None else (list(read(path, ":")) if _frames_in(path) else [])

    def _check(self, settings: Mapping[str, str]) -> None:
        different = [
            f"{name} ({settings.get(name, 'not set')} there, {self.settings.get(name, 'not set')} now)"
            if not settings.get(name, "").startswith("sha256:")
            else name
            for name in {**self.settings, **settings}
            if settings.get(name) != self.settings.get(name)
        ]
        if different:
            raise RunSettingsError(
                f"restart continues a run of the same settings; the one in '{self.folder}' differs in "
                f"{'; '.join(different)}. Restore them, or name another folder."
            )

    def _no_place(self, error: OSError) -> RunSettingsError:
        return RunSettingsError(
            f"folder must be a place to write to; got '{self.folder}': {error.strerror}. Name another folder."
        )

    def _remove_torsos(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        for name in (STATE, SUMMARY, PLOT):
            remove_torsos(self.path(name))

    def _growing(self) -> list[Path]:
        for file in (self._table, self._trajectory):
            if file is not None and hasattr(file, "flush"):
                file.flush()
        return [self.path(TABLE), self.path(FORMATS[self._format])]

    def _open_trajectory(self, mode: str) -> None:
        path = self.path(FORMATS[self._format])
        self._trajectory = (
            Trajectory(path, mode)
            if self._format == "traj"
            else path.open(mode, encoding="utf-8", newline="\n")
        )


def _on_disk(path: Path) -> int:
    """Size of a file, once its content is on the disk."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _count_frames(path: Path) -> int:
    """Frames of a trajectory that may end in a torn one."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        if path.suffix == ".traj":
            head = file.read(_TRAJ_HEAD)
            whole = len(head) == _TRAJ_HEAD and head.startswith(_TRAJ_MAGIC)
            return int(np.frombuffer(head, "<i8", count=1, offset=32)[0]) if whole else 0
        return sum(b"Properties=" in line for line in file)


def _frames_in(path: Path) -> bool:
    return path.exists() and path.stat().st_size > _TRAJ_HEAD + 8


def _as_text(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.12g}"
