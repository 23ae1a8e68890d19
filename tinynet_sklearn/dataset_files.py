"""Reading data sets: structures with forces, energies or densities of states from files of any kind, mixed.

Who reads what: ASE its formats and databases; `geometries_of` runs of SIESTA and VASP and systems of
DeePMD-kit; `document_files` JSON of pymatgen and tables; `read_ldos` densities of states. Here they come
together: one list of structures, one target, and one report on all that cannot be used.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn._validation import described, first_few, plural, users_level
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.dataset_frames import frame_fault, frames_of, source_of
from tinynet_sklearn.dataset_locations import Item, existing_paths, extracted, find_items
from tinynet_sklearn.dataset_result import Dataset, Source
from tinynet_sklearn.deepmd_files import is_deepmd
from tinynet_sklearn.document_files import NoStructures
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.frame_numbers import frames_in_words
from tinynet_sklearn.ldos_io import read_ldos
from tinynet_sklearn.potential_targets import PotentialTargets
from tinynet_sklearn.structures import raise_problems

__all__ = ["Dataset", "Source", "read_among", "read_dataset"]

TARGETS = ("forces", "potential", "ldos", None)

QUANTITIES = ("energy", "forces", "stress")

#: Seconds between two lines of progress.
PAUSE = 2.0


def read_dataset(
    path: Any,
    target: str | None = "forces",
    *,
    on_problem: str = "raise",
    keys: Mapping[str, str] | None = None,
    energies: EnergyGrid | ArrayLike | None = None,
    width: float | None = None,
    zero: str | None = None,
    spin: str = "refuse",
    verbose: bool = False,
) -> Dataset:
    """Read structures and what is to be learned of them, from files of any kind.

    ====================  ====================================================================================
    what                  how it is known
    ====================  ====================================================================================
    whatever ASE reads    the name and content of the file: .extxyz, .traj, POSCAR, OUTCAR, .cif, .xsf (of
                          aenet, with the energy in a comment, too), ...; also as .gz, .bz2, .xz
    databases of ASE      .db, or .json
    DeePMD-kit            a folder with ``type.raw`` and ``set.*/coord.npy``; "mixed" systems, too
    SIESTA, VASP          .XV with .FA; ``vasprun.xml`` (all ionic steps). See `read_runs`
    pymatgen              .json with structures, or entries with "structure", "energy", "forces" (mlearn)
    tables                .csv, .parquet: a row per atom, columns structure or frame, species, x, y, z and, if
                          known, fx, fy, fz, energy, ax ... cz (lattice vectors); need pandas
    archives              .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz of these
    ====================  ====================================================================================

    Reading runs no code that is in files: pickles, and arrays of Python objects, are refused.

    Parameters
    ----------
    path : str, path-like or sequence of them
        A file, a folder (with its sub-folders), a pattern such as ``"runs/*.extxyz"``, or a list of these. In
        folders and by patterns, only files with known endings are found; of a run, one file is taken.
    target : {"forces", "potential", "ldos"} or None, default="forces"
        What `y` is: forces; energies, forces and stresses, as far as they are there (`PotentialTargets`);
        densities of states (`read_ldos`, for the formats that it reads); nothing.
    on_problem : {"raise", "skip"}, default="raise"
        What to do about frames and files that cannot be used. "skip" leaves them out, and warns once. A
        damaged frame of an XYZ file, set of DeePMD-kit or file of an archive costs no other; files of other
        kinds that are damaged in the middle give what is before, if ASE reads them frame after frame. For
        "ldos", runs are left out.
    keys : mapping or None, default=None
        Names of their own under which files keep results: ``{"energy": "REF_energy", "forces": "REF_forces",
        "stress": "REF_stress"}``, or some of them, in ``atoms.info`` and ``atoms.arrays``. They are taken in
        place of what ASE takes for these quantities. Units are those of ASE. Runs have no such names.
    energies, width, zero, spin
        Of `read_ldos`; for "ldos" only.
    verbose : bool, default=False
        Whether to print every other second how far it is.

    Returns
    -------
    Dataset
        With `structures`, `y`, `sources`, `groups` (which file or run), in the order of the paths, and within
        folders in the natural order of names.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path.
    ImportError
        If a package is missing that is needed to read a file.
    TypeError
        If a parameter is of a wrong kind.
    ValueError
        If a parameter is none of the above, there are no structures, or there are problems: forces that are
        missing (for "forces"), nothing known at all (for "potential"), NaN, numbers of atoms that do not fit
        together, files that cannot be read, or `keys` that no frame has. Problems of all files are reported
        together.

    Warns
    -----
    UserWarning
        With ``on_problem="skip"``, of what was left out.

    See Also
    --------
    load_batio3, load_moo3 : the bundled data.
    tinynet_sklearn.time_blocks : groups of frames of trajectories.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.lj import LennardJones
    >>> from tempfile import TemporaryDirectory
    >>> atoms = bulk("Ar", cubic=True)
    >>> atoms.calc = LennardJones()
    >>> forces = atoms.get_forces()
    >>> with TemporaryDirectory() as folder:
    ...     _ = atoms.write(f"{folder}/one.extxyz"), atoms.write(f"{folder}/two.traj")
    ...     data = read_dataset(folder)
    >>> data  # doctest: +ELLIPSIS
    <Dataset: 2 structures, 4 atoms each, Ar, 2 groups, y=<PerAtomArray: 2 structures, 8 atoms, ...>>
    >>> data.sources[1].frame, data.groups
    (0, array([0, 1]))
    """
    _check_choices(target, on_problem, keys)
    if target == "ldos":
        return _ldos([one for one, _ in existing_paths(path)], on_problem, energies, width, zero, spin)
    if energies is not None or width is not None or zero is not None or spin != "refuse":
        raise ValueError(
            f"energies, width, zero and spin are for target='ldos'; got them with target={target!r}."
        )
    places = existing_paths(path)
    items = find_items(places)
    found = _Collection(target, dict(keys or {}), len(items), verbose)
    for item in items:
        found.read(item)
    return found.result([one for one, _ in places], on_problem)


def read_among(path: Any, files: set[Path]) -> set[Path]:
    """Those of some files that `read_dataset` reads, even if it takes no structure of them.

    Parameters
    ----------
    path : str, path-like or sequence of them
        As of `read_dataset`.
    files : set of Path
        Absolute, without links.

    Raises
    ------
    FileNotFoundError, TypeError
        As `read_dataset`.
    """
    found = set()
    for item in find_items(existing_paths(path)):
        own = {item.path.resolve()}
        if item.run is not None:  # and what belongs to a run
            place = item.run.path
            beside = [place.parent.glob(f"{escape(place.name)}.*")]
            if place.is_dir():
                beside = [place.rglob("*.raw"), place.rglob("*.npy")]
            own |= {file.resolve() for several in beside for file in several}
        if item.kind in ("table", "document") and not item.named and own & files:
            try:
                next(frames_of(item, {}), None)
            except NoStructures:  # a table of something else, as of an earlier search
                continue
            except (ImportError, OSError, ValueError):
                pass
        found |= own & files
    return found


def _check_choices(target: str | None, on_problem: str, keys: Mapping[str, str] | None) -> None:
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(map(repr, TARGETS))}; got {target!r}.")
    if on_problem not in ("raise", "skip"):
        raise ValueError(f"on_problem must be 'raise' or 'skip'; got {on_problem!r}.")
    if keys is None:
        return
    if not isinstance(keys, Mapping):
        raise TypeError(f"keys must be a mapping such as {{'forces': 'REF_forces'}}; got {described(keys)}.")
    unknown = [repr(name) for name in keys if name not in QUANTITIES]
    if unknown:
        raise ValueError(
            f"keys must be of 'energy', 'forces' and 'stress'; got {first_few(unknown)}. Write the name in "
            "the file as the value: {'forces': 'REF_forces'}."
        )


# ---- Reading ----


@dataclass
class _Collection:
    """What was read so far, and what could not be."""

    target: str | None
    keys: dict[str, str]
    n_items: int
    verbose: bool
    structures: list[Any] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    #: Frames with the same problem, by file and problem.
    frames: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    #: Sentences on files that cannot be read.
    files: list[str] = field(default_factory=list)
    n_frames: int = 0
    n_files: int = 0
    n_read: int = 0
    #: Whether a structure had the names that `keys` says.
    seen: set[str] = field(default_factory=set)
    said: float = field(default_factory=monotonic)

    def read(self, item: Item) -> None:
        """Add what is in a file or run; archives have many."""
        self.n_read += 1
        if item.kind != "archive":
            self._add(item, ("", ""))
            return
        with TemporaryDirectory() as folder:
            inside, problems = extracted(item.path, Path(folder))
            for part in inside:
                self._add(part, (folder, str(item.path)))
        self.files += problems
        self.n_files += len(problems)

    def _add(self, item: Item, names: tuple[str, str]) -> None:
        """Add frames of a file; names: a folder, and what it is called in place of its path."""
        n_before, group = self.n_frames, self.n_files
        try:
            for source, found in frames_of(item, self.keys):
                self.n_frames += 1
                shown = Source(source.file.replace(*names) if names[0] else source.file, source.frame)
                if isinstance(found, str):
                    fault: str | None = found
                else:
                    fault = frame_fault(found, self.target)
                    self.seen |= {
                        key for key in self.keys.values() if key in found.arrays or key in found.info
                    }
                if fault is not None:
                    self.frames.setdefault((shown.file, fault), []).append(shown.frame)
                    continue
                self.structures.append(found)
                self.sources.append(shown)
                self.groups.append(group)
                self._say()
        except NoStructures as error:
            if not item.named:
                return
            self.files.append(str(error))
        except (FileNotFoundError, ValueError) as error:
            text = str(error).replace(*names) if names[0] else str(error)
            if n_good := self.n_frames - n_before:
                text += f" (After {plural(n_good, 'frame')} that can be read.)"
            self.files.append(text)
        self.n_files += 1
        self._say()

    def _say(self, last: bool = False) -> None:
        if self.verbose and (last or monotonic() - self.said > PAUSE):
            self.said = monotonic()
            done = f"{self.n_read} of {self.n_items} files and runs"
            print(f"read_dataset: {len(self.structures)} structures from {done}", flush=True)

    def result(self, paths: list[Path], on_problem: str) -> Dataset:
        """Put everything together, or say what is wrong."""
        self._say(last=True)
        unseen = [repr(key) for key in self.keys.values() if key not in self.seen]
        if self.n_frames and unseen:
            raise ValueError(
                f"keys must be names in the files; got {first_few(unseen)}, which no frame has. Names that "
                "some frame has are in atoms.info and atoms.arrays of read_dataset(path, None)."
            )
        bad = sum(len(frames) for frames in self.frames.values())
        problems = [
            f"{file}, {frames_in_words(frames)}{text}" for (file, text), frames in self.frames.items()
        ]
        problems += self.files
        counts = []
        if bad:
            counts.append(f"{bad} of {self.n_frames} frames")
        if self.files:
            counts.append(f"{len(self.files)} of {self.n_files} files")
        headline = f"{' and '.join(counts)} cannot be used"
        if on_problem == "raise" or (problems and not self.structures):
            if problems == self.files and len(problems) == self.n_files == 1:
                raise ValueError(problems[0])
            remedy = "correct them, or pass on_problem='skip' to leave them out"
            raise_problems(f"{headline}; {remedy}" if self.structures else headline, problems)
        if not self.structures:
            raise ValueError(
                f"cannot read {first_few([str(path) for path in paths])}: there are no structures in a "
                "format that is known. Name the files themselves."
            )
        if problems:
            warnings.warn(f"{headline} and are left out: {first_few(problems)}", stacklevel=users_level())
        return self._dataset(tuple(problems))

    def _dataset(self, problems: tuple[str, ...]) -> Dataset:
        known = None if self.target is None else PotentialTargets.from_structures(self.structures)
        y: PerAtomArray | PotentialTargets | None = known
        if self.target == "forces" and known is not None:
            y = known.forces
        if self.target is not None:
            for atoms in self.structures:
                atoms.calc = None  # stored results look like a calculator, and fail once an atom moves
        groups = np.unique(self.groups, return_inverse=True)[1].astype(np.int64)
        return Dataset(self.structures, y, self.sources, groups, self.target, problems)


# ---- Densities of states ----


def _ldos(
    paths: list[Path],
    on_problem: str,
    energies: EnergyGrid | ArrayLike | None,
    width: float | None,
    zero: str | None,
    spin: str,
) -> Dataset:
    parts, problems = [], []
    for path in paths:
        try:
            part = read_ldos(
                path, energies=energies, width=width, zero=zero, spin=spin, on_problem=on_problem
            )
        except (FileNotFoundError, ValueError) as error:
            if len(paths) == 1:
                raise
            problems.append(str(error))
            continue
        parts.append(part)
        problems += part.problems
    headline = f"{len(problems)} of {len(paths)} paths cannot be used"
    if on_problem == "raise" or not parts:
        raise_problems(headline, problems)
    elif problems:
        warnings.warn(
            f"runs that cannot be used are left out: {first_few(problems)}", stacklevel=users_level()
        )
    curves: Any = np.concatenate([part.target for part in parts])
    structures = [atoms for part in parts for atoms in part.structures]
    sources, kept = _each_once([[source_of(text) for text in part.sources] for part in parts])
    runs = [_run_of(sources[i]) for i in kept]
    numbers = {run: i for i, run in enumerate(dict.fromkeys(runs))}
    return Dataset(
        [structures[i] for i in kept],
        curves[kept],
        [sources[i] for i in kept],
        np.array([numbers[run] for run in runs], dtype=np.int64),
        "ldos",
        tuple(problems),
    )


def _each_once(parts: list[list[Source]]) -> tuple[list[Source], list[int]]:
    """All sources of several paths, and the numbers of those that no path before has led to."""
    sources: list[Source] = []
    kept: list[int] = []
    seen: set[tuple[Path, int]] = set()
    for part in parts:
        places = [place_of(source) for source in part]
        kept += [len(sources) + k for k, place in enumerate(places) if place not in seen]
        sources += part
        seen.update(places)
    return sources, kept


def place_of(source: Source) -> tuple[Path, int]:
    """File and frame, the same for all paths that lead to the file."""
    return Path(source.file).resolve(), source.frame


def _run_of(source: Source) -> str:
    """File or run that a structure belongs to; of a system of DeePMD-kit, all sets together."""
    folder = Path(source.file).parent
    return str(folder) if is_deepmd(folder) else source.file
