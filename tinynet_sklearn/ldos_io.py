"""Reading local densities of states, geometries and forces from the files of calculations.

One call reads one file, the folder of one run, or a folder with a folder for every run; which program wrote
them is seen from the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.calculations import Calculation, refusal
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.deepmd_files import read_deepmd
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.ldos import LDOS
from tinynet_sklearn.run_locations import Run, find_runs
from tinynet_sklearn.siesta_files import read_siesta
from tinynet_sklearn.state_files import read_states
from tinynet_sklearn.structures import raise_problems
from tinynet_sklearn.vasp_files import read_vasp

__all__ = ["geometries_of", "read_ldos", "read_runs"]

#: Zeros of energy that each run can be counted from on its own.
ZEROS = ("absolute", "fermi", "vbm", "onset", "centroid")

#: Of these, those that depend on where the energies of a file begin.
FROM_THE_LOW_END = ("onset", "centroid")

#: Files begin at the same energy if it differs by no more than this, eV.
SAME_BEGINNING = 0.1


@dataclass(frozen=True)
class _Wishes:
    """What the caller asks for; see `read_ldos`."""

    energies: EnergyGrid | None
    width: float | None
    zero: str
    spin: str
    structures: Sequence[Any] | None


def read_ldos(
    path: str | PathLike[str],
    *,
    format: str | None = None,
    energies: EnergyGrid | ArrayLike | None = None,
    width: float | None = None,
    zero: str | None = None,
    spin: str = "refuse",
    structures: Sequence[Any] | None = None,
    on_problem: str = "raise",
) -> Bunch:
    """Read local densities of states of atoms, with the structures and forces they belong to.

    Angular momenta and spins are summed: there is one curve for each atom.

    ==========  ==============================================================================================
    format      files
    ==========  ==============================================================================================
    "siesta"    ``.PDOS.xml`` or ``.PDOS``, with ``.XV`` (or ``.STRUCT_OUT``, ``.fdf``), ``.FA``, ``.EIG``,
                ``.DOS`` and ``.fdf`` beside it; needs sisl
    "vasp"      ``vasprun.xml``, ``vasprun.xml.gz`` with LORBIT = 10, 11 or 12; of a relaxation or molecular
                dynamics, the last step, which alone has densities of states (`read_runs` reads all)
    "states"    ``.npz`` of eigenvalues and weights of states, with structures in an ``.extxyz`` beside it;
                needs `energies` and `width`
    "deepmd"    a folder with ``type.raw`` and ``set.*/atom_dos.npy``; needs `energies`
    ==========  ==============================================================================================

    Parameters
    ----------
    path : str or path-like
        One file, the folder of one run (or several), or a folder whose sub-folders are runs, taken in the
        natural order of their names (``run2`` before ``run10``). Sub-folders without files of a run are
        skipped. So are files beside them that no results belong to, such as an ``INCAR`` for all.
    format : {"siesta", "vasp", "states", "deepmd"} or None, default=None
        None finds it out.
    energies : EnergyGrid, array-like of shape (n_energies,) or None, default=None
        Energies that all curves are interpolated onto, eV from `zero`. For "states" and "deepmd" those on
        which curves are made or stored. An `EnergyGrid` says `width` and `zero`, too. With None, all runs
        must be on one grid; or, if `zero` is another than that of the calculation, they are interpolated onto
        all energies that they share, in the widest of their steps.
    width : float or None, default=None
        Standard deviation of the Gaussian broadening, eV. Curves are broadened further to it, states are
        broadened with it; for "deepmd" it says what the files do not. None keeps that of the files, which
        must be one.
    zero : {"absolute", "fermi", "vbm", "onset", "centroid"} or None, default=None
        Where energies are counted from in each structure; None is "absolute", the zero of the calculation.
        See `LDOS.aligned`, which also has "auto" and "learned". "vbm" is that of the eigenvalues if all runs
        have them, else it is read off the curves of all. "onset" and "centroid" depend on the lowest energy
        of the files (after broadening to `width`), whatever `energies` begins with: it must be the same in
        all, to 0.1 eV, on the scale of the calculations or from their Fermi levels, and should lie in a gap.
    spin : {"refuse", "sum"}, default="refuse"
        What to do with spin-polarised calculations: refuse them or add the two channels. Non-collinear ones
        are refused.
    structures : sequence of ase.Atoms or None, default=None
        For "states" without structures beside the file.
    on_problem : {"raise", "skip"}, default="raise"
        What to do about runs that cannot be used. "skip" leaves them out, and says so in `problems`.

    Returns
    -------
    sklearn.utils.Bunch
        structures : list of ase.Atoms
            Without calculators.
        target : LDOS
            States/eV/atom, both spins added; with the levels and, where files have it, the total density of
            states of the calculation (`LDOS.sum_rule_residual`).
        forces : PerAtomArray of shape (n_structures, 3), or None
            eV/Angstrom; NaN for structures without forces, None if none has any.
        energies : ndarray of shape (n_structures,)
            Energy of each structure, eV; NaN where the files do not say.
        sources : list of str
            File or folder of each structure.
        problems : list of str
            What was left out, and why.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`, or a file of the run is missing.
    ImportError
        If a program is missing that is needed to read the files.
    TypeError, ValueError
        If a parameter is none of the above, no run is found, files are damaged or do not fit together, or
        runs are on different energies or of different widths. Problems of several runs are reported together.

    See Also
    --------
    read_runs : geometries and forces alone.
    LDOS.from_arrays, LDOS.from_states : from arrays instead of files.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import read_ldos
    >>> data = read_ldos("runs", energies=np.linspace(-8, 6, 281), zero="vbm")  # doctest: +SKIP
    >>> data.structures, data.target  # doctest: +SKIP
    """
    wishes = _wishes(energies, width, zero, spin, structures)
    if on_problem not in ("raise", "skip"):
        raise ValueError(f"on_problem must be 'raise' or 'skip'; got {on_problem!r}.")
    problems: list[str] | None = [] if on_problem == "skip" else None
    place = _place(path)
    found = _read_all(
        place,
        format,
        True,
        lambda run: (_wished(item, run, wishes) for item in _curves(run, wishes)),
        problems,
    )
    found = _aligned(place, found, wishes, problems)
    curves = [item.ldos for item in found if item.ldos is not None]
    _check_one_grid(place, curves)
    return Bunch(target=np.concatenate(curves), problems=problems or [], **_common(found))


def read_runs(path: str | PathLike[str], *, format: str | None = None) -> Bunch:
    """Read geometries, forces and energies of runs, whether or not they have densities of states.

    Parameters
    ----------
    path : str or path-like
        As in `read_ldos`. For SIESTA, ``.XV`` and ``.FA`` are enough. A ``vasprun.xml`` of a relaxation or
        molecular dynamics gives all its ionic steps.
    format : {"siesta", "vasp", "states", "deepmd"} or None, default=None
        None finds it out.

    Returns
    -------
    sklearn.utils.Bunch
        structures : list of ase.Atoms
            Without calculators.
        forces : PerAtomArray of shape (n_structures, 3), or None
            eV/Angstrom; NaN for structures without forces, None if none has any.
        energies : ndarray of shape (n_structures,)
            Energy of each structure, eV; NaN where the files do not say.
        sources : list of str
            File or folder of each structure.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`, or a file of the run is missing.
    TypeError, ValueError
        If `path` is none, no run is found, or files are damaged or do not fit together. Problems of several
        runs are reported together.

    Examples
    --------
    >>> from tinynet_sklearn import read_runs
    >>> runs = read_runs("runs")  # doctest: +SKIP
    >>> runs.structures, runs.forces  # doctest: +SKIP
    """
    return Bunch(**_common(_read_all(_place(path), format, False, geometries_of)))


def _place(path: str | PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError as error:
        raise TypeError(f"path must be that of a file or folder; got {described(path)}.") from error


def _wishes(
    energies: EnergyGrid | ArrayLike | None,
    width: float | None,
    zero: str | None,
    spin: str,
    structures: Sequence[Any] | None,
) -> _Wishes:
    if spin not in ("refuse", "sum"):
        raise ValueError(f"spin must be 'refuse' or 'sum'; got {spin!r}.")
    if isinstance(energies, EnergyGrid):
        width = energies.width if width is None else width
        zero = energies.zero if zero is None else zero
    zero = "absolute" if zero is None else zero
    if zero not in ZEROS:
        raise ValueError(
            f"zero must be one of {', '.join(map(repr, ZEROS))}; got {zero!r}. Use LDOS.aligned after "
            "reading for others."
        )
    grid = None
    if energies is not None:
        grid = EnergyGrid(energies.energies if isinstance(energies, EnergyGrid) else energies)  # type: ignore[arg-type]
        grid = replace(grid, width=width, zero=zero)
    elif width is not None:
        EnergyGrid(np.arange(2.0), width)  # is it a width?
    return _Wishes(grid, width, zero, spin, structures)


# ---- Reading ----


def _read_all(
    path: Path,
    format: str | None,
    projected: bool,
    read: Callable[[Run], Iterable[Calculation]],
    skipped: list[str] | None = None,
) -> list[Calculation]:
    """Structures of all runs at a path. What cannot be read is one error, or goes to `skipped`."""
    runs = find_runs(path, format, projected)
    found: list[Calculation] = []
    problems = []
    for run in runs:
        try:
            for item in read(run):
                found.append(item)  # one by one: those before an error stay
        except (FileNotFoundError, ValueError) as error:
            if len(runs) == 1 and (skipped is None or not found):
                raise
            problems.append(str(error))
    if skipped is None or not found:
        raise_problems(f"{len(problems)} of {len(runs)} runs in {path} cannot be read", problems)
    else:
        skipped += problems
    return found


def geometries_of(run: Run, *, finite: bool = True) -> Iterable[Calculation]:
    """Geometries, forces, energies and stresses of one run, without densities of states.

    Parameters
    ----------
    run : Run
        From `find_runs`.
    finite : bool, default=True
        Whether to refuse systems of DeePMD-kit with NaN or infinity, for the caller does not look for it.

    Returns
    -------
    iterable of Calculation

    Raises
    ------
    FileNotFoundError, ValueError
        If files are missing or damaged, or do not fit together; of DeePMD-kit, after what can be read.
    """
    if run.format == "siesta":
        return read_siesta(run.path, projected=False)
    if run.format == "vasp":
        return read_vasp(run.path, projected=False)
    if run.format == "states":
        return read_states(run.path, None)
    return read_deepmd(run.path, None, projected=False, finite=finite)


def _curves(run: Run, wishes: _Wishes) -> Iterable[Calculation]:
    if wishes.structures is not None and run.format != "states":
        raise refusal(
            run.path,
            f"structures= is for files of states; got a run of {run.format!r}. Leave structures out.",
        )
    if run.format == "siesta":
        return read_siesta(run.path, spin=wishes.spin)
    if run.format == "vasp":
        return read_vasp(run.path, spin=wishes.spin)
    if run.format == "deepmd":
        return read_deepmd(run.path, wishes.energies)
    if wishes.energies is None or wishes.width is None:
        raise refusal(
            run.path,
            "states are broadened when they are read. Pass energies= and width=, the standard deviation of "
            "the Gaussians in eV.",
        )
    return read_states(run.path, wishes.energies, wishes.structures)


def _wished(item: Calculation, run: Run, wishes: _Wishes) -> Calculation:
    """A structure with its curves as the caller wants them, as far as that concerns it alone."""
    ldos = item.ldos
    if ldos is None or run.format in ("states", "deepmd"):
        return item
    try:
        if wishes.width is not None:
            ldos = ldos.broadened(wishes.width)
        if wishes.energies is not None and wishes.zero == "absolute":
            ldos = ldos.resampled(wishes.energies.energies)
    except ValueError as error:
        raise refusal(item.source, str(error)) from error
    return replace(item, ldos=ldos)


# ---- Bringing together ----


def _aligned(
    path: Path, found: list[Calculation], wishes: _Wishes, skipped: list[str] | None
) -> list[Calculation]:
    """Structures with curves counted from the zero that the caller wants, found alike in all of them."""
    zero = wishes.zero
    found = [item for item in found if item.ldos is not None]
    curves = [item.ldos for item in found if item.ldos is not None]
    # those of states and of DeePMD-kit already are
    moved = [i for i, part in enumerate(curves) if part.grid.zero != zero]
    if not moved:
        return found
    if zero in FROM_THE_LOW_END:
        _check_one_beginning(path, [curves[i] for i in moved], zero)
    edges = np.concatenate([np.asarray(curves[i].levels.vbm) for i in moved])
    known = zero != "vbm" or bool(np.isfinite(edges).all())
    if not known and len(moved) < len(curves):
        there = next(part for part in curves if part.grid.zero == zero)
        missing = curves[moved[int(np.isnan(edges).argmax())]]
        raise ValueError(
            f"zero='vbm' must be known in all runs in {path}, or be read off the curves of all; got one from "
            f"{there.sources[0]}, which is known, and none from {missing.sources[0]}. Read them separately, "
            "or use zero='fermi'."
        )
    if wishes.energies is not None:
        energies = wishes.energies.energies
    else:
        energies = _shared_energies([_from_zero(curves[i], zero, known).grid for i in moved], zero)
    result: list[Calculation | None] = list(found)
    problems = []
    for i in moved:
        try:
            result[i] = replace(found[i], ldos=_from_zero(curves[i], zero, known, energies))
        except ValueError as error:
            result[i] = None
            problems.append(str(refusal(curves[i].sources[0], str(error))))
    left = [item for item in result if item is not None]
    if problems and len(curves) == 1:
        raise ValueError(problems[0])
    if skipped is None or not left:
        raise_problems(f"{len(problems)} of {len(curves)} structures in {path} cannot be read", problems)
    else:
        skipped += problems
    return left


def _from_zero(part: LDOS, zero: str, known: bool, energies: FloatArray | None = None) -> LDOS:
    """Curves of a structure counted from a zero: a band edge that is known of all, or one of the curves."""
    if not known:
        part = replace(part, levels=replace(part.levels, vbm=np.full(len(part), np.nan)))
    return part.aligned(zero, energies=energies)


def _check_one_beginning(path: Path, curves: list[LDOS], zero: str) -> None:
    """Refuse files that begin at different energies, for a zero that depends on it."""
    lows = np.array([part.grid.low for part in curves])
    from_fermi = lows - np.concatenate([part.known_fermi() for part in curves])
    if any(np.ptp(values) <= SAME_BEGINNING for values in (lows, from_fermi)):  # NaN is not
        return
    ends = [f"{lows[i]:g} eV in {curves[i].sources[0]}" for i in (lows.argmin(), lows.argmax())]
    raise ValueError(
        f"zero={zero!r} depends on the lowest energy, which must be the same in all runs in {path}; got "
        f"{' and '.join(ends)}. Read them with zero='fermi' or 'vbm' and energies= that begin in a gap, then "
        f"use LDOS.aligned({zero!r})."
    )


def _shared_energies(grids: list[EnergyGrid], zero: str) -> FloatArray:
    """All energies from a zero that are in all grids, in the widest of their steps."""
    step = max(grid.step for grid in grids)
    first = np.ceil(max(grid.low for grid in grids) / step - 1e-6)
    last = np.floor(min(grid.high for grid in grids) / step + 1e-6)
    if last <= first:
        raise ValueError(
            f"runs must share energies; got none from zero={zero!r} that is in all of them. Leave runs out, "
            "or calculate wider windows."
        )
    return np.asarray(step * np.arange(first, last + 1))


def _check_one_grid(path: Path, curves: list[LDOS]) -> None:
    """Refuse runs on different energies or of different widths, naming files and the way out."""
    first = curves[0]
    different = [(part, why) for part in curves[1:] if (why := first.grid.difference(part.grid)) is not None]
    if not different:
        return
    cases = [f"{why} in {first.sources[0]} and {part.sources[0]}" for part, why in different]
    if all(
        replace(part.grid, width=first.grid.width).difference(first.grid) is None for part, _ in different
    ):
        remedy = "Pass width=, at least the greatest, to broaden all to it."
        if any(part.grid.width is None for part in curves):
            remedy = "Leave out the runs whose width is not known."
    else:
        remedy = "Pass energies= to interpolate all onto one grid, and zero='vbm' or 'fermi' to align them."
    raise ValueError(f"runs in {path} must be on one grid; got {first_few(cases)}. {remedy}")


def _common(found: list[Calculation]) -> dict[str, Any]:
    """What both readers return."""
    known = [item.forces is not None for item in found]
    forces = [np.full((len(i.atoms), 3), np.nan) if i.forces is None else i.forces for i in found]
    numbers = [item.atoms.numbers for item in found]
    return {
        "structures": [item.atoms for item in found],
        "forces": PerAtomArray.from_list(forces, numbers) if any(known) else None,
        "energies": np.array([item.energy for item in found]),
        "sources": [item.source for item in found],
    }
