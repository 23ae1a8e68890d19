"""DScribe's descriptors of `DScribeFeaturizer`, made from its parameters, and the names of their columns.

Settings are the parameters of `DScribeFeaturizer` by name; species are atomic numbers, ascending. DScribe is
imported inside functions: it is optional.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import cache
from itertools import product
from math import log
from typing import Any

import numpy as np
from ase import Atoms

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.frames import FloatArray, IntArray

__all__ = ["column_names", "descriptor_of"]

#: ``g2_params=None``: eta (1/Angstrom^2) and R_s (Angstrom), from broad to narrow over the first shells.
G2 = tuple(product((0.5, 2.0, 8.0), (0.0, 1.5, 2.0, 2.5, 3.0, 4.0)))

#: ``g4_params=None``: eta (1/Angstrom^2), zeta and lambda.
G4 = tuple(product((0.02,), (1.0, 4.0), (-1.0, 1.0)))

#: How many numbers make one function, by kind.
WIDTHS = {"g2_params": 2, "g3_params": 0, "g4_params": 3, "g5_params": 3}

#: ``grid=None``: first and last point, number of points and standard deviation, by geometry; about as wide as
#: points are apart. 1/Angstrom, Angstrom (up to r_cut, which stands in for None), degrees, none.
GRIDS: dict[str, tuple[float, float | None, int, float]] = {
    "inverse_distance": (0.0, 1.5, 51, 0.03),
    "distance": (0.0, None, 51, 0.1),
    "angle": (0.0, 180.0, 37, 5.0),
    "cosine": (-1.0, 1.0, 41, 0.05),
}

#: LMBTR reaches this much farther than r_cut, in units of it: in a crystal whole shells are at r_cut, and
#: rounding must not decide which of their atoms count.
MARGIN = 1e-10


def descriptor_of(settings: Mapping[str, Any], species: IntArray) -> Any:
    """Object of DScribe or like it, with ``create_single(atoms)`` and ``get_number_of_features()``.

    Raises
    ------
    ImportError
        If DScribe is not installed.
    ValueError
        If settings cannot be used.
    """
    try:
        from dscribe.descriptors import ACSF, SOAP
    except ImportError as error:
        raise ImportError(
            "DScribeFeaturizer cannot compute descriptors without DScribe. Install it: pip install dscribe"
        ) from error
    if settings["descriptor"] == "lmbtr":
        return LocalManyBody(settings, species)
    common = {"r_cut": float(settings["r_cut"]), "species": species.tolist(), "periodic": True}
    if settings["descriptor"] == "acsf":
        functions = symmetry_functions(settings)
        # None, for DScribe, is no function
        return ACSF(**common, **{k: f.tolist() if len(f) else None for k, f in functions.items()})
    try:
        return SOAP(
            **common,
            n_max=int(settings["n_max"]),
            l_max=int(settings["l_max"]),
            sigma=float(settings["sigma"]),
            rbf=settings["rbf"],
            weighting=copy.deepcopy(settings["weighting"]),  # DScribe writes into it
            compression={"mode": settings["compression"], "species_weighting": None},
        )
    except (TypeError, ValueError, KeyError) as error:
        given = {name: settings[name] for name in ("r_cut", "n_max", "sigma", "rbf", "weighting")}
        *first, last = (f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"{', '.join(first)} and {last} must be settings that DScribe's SOAP accepts; it says: {error}"
        ) from error


def column_names(settings: Mapping[str, Any], species: IntArray) -> list[str]:
    """Names of the columns of `descriptor_of`, in order."""
    symbols = [species_name(z) for z in species]
    names = {"soap": _soap_names, "acsf": _acsf_names, "lmbtr": _lmbtr_names}
    return names[settings["descriptor"]](settings, symbols)


# ---- SOAP and ACSF ------------------------------------------------------------


def _soap_names(settings: Mapping[str, Any], symbols: list[str]) -> list[str]:
    pairs = {
        "off": [(a, b) for i, a in enumerate(symbols) for b in symbols[i:]],
        "crossover": [(a, a) for a in symbols],
        "mu1nu1": [(a, "*") for a in symbols],
        "mu2": [("*", "*")],
    }[settings["compression"]]
    return [
        f"soap[{a}-{b}]n{n},{m},l{degree}"
        for a, b in pairs
        for degree in range(settings["l_max"] + 1)
        for n in range(settings["n_max"])
        for m in range(n if a == b else 0, settings["n_max"])
    ]


def _acsf_names(settings: Mapping[str, Any], symbols: list[str]) -> list[str]:
    shown = {
        kind: [f"({','.join(f'{number:g}' for number in np.atleast_1d(row))})" for row in rows]
        for kind, rows in symmetry_functions(settings).items()
    }
    pairs = [f"{a}-{b}" for j, b in enumerate(symbols) for a in symbols[: j + 1]]
    radial, angular = ("g2_params", "g3_params"), ("g4_params", "g5_params")
    names = []
    for a in symbols:
        names.append(f"G1[{a}]")
        names += [f"{kind[:2].upper()}[{a}]{row}" for kind in radial for row in shown[kind]]
    for pair in pairs:
        names += [f"{kind[:2].upper()}[{pair}]{row}" for kind in angular for row in shown[kind]]
    return names


def symmetry_functions(settings: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Parameters of the symmetry functions by kind, one row (or number) each.

    Raises
    ------
    ValueError
        If they are not numbers of the right shape.
    """
    functions: dict[str, FloatArray] = {}
    for kind, width in WIDTHS.items():
        given = settings[kind]
        if given is None:
            given = {"g2_params": G2, "g4_params": G4}.get(kind, ())
        wanted = f"(n, {width})" if width else "(n,)"
        rows = _numbers(given)
        if rows.size == 0:
            rows = rows.reshape((0, width) if width else (0,))
        fits = rows.shape[1:] == ((width,) if width else ()) and rows.ndim > 0
        if not fits or not np.isfinite(rows).all():
            raise ValueError(
                f"{kind} must hold finite numbers of shape {wanted}; got {given!r}. Leave it empty for "
                "no such functions."
            )
        functions[kind] = rows
    return functions


def _numbers(given: Any) -> FloatArray:
    """As an array; NaN where it cannot be one."""
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        return np.full((), np.nan)


# ---- LMBTR ------------------------------------------------------------


class LocalManyBody:
    """DScribe's LMBTR without its columns that are always zero: those of several central atoms, "X".

    Processes of joblib get it pickled, so that it mends DScribe wherever it is about to compute.
    """

    def __init__(self, settings: Mapping[str, Any], species: IntArray) -> None:
        from dscribe.descriptors import LMBTR

        mend_lmbtr()
        first, last, n_points, sigma = grid_of(settings)
        # The longest perimeter of three atoms that are r_cut apart at most is twice as long. DScribe's class
        # MBTR takes r_cut in the same sense; LMBTR documents it, too, but ends in KeyError: 'scale'.
        longest = (1 if _is_pair(settings) else 2) * float(settings["r_cut"]) * (1 + MARGIN)
        threshold = float(settings["threshold"])
        self.lmbtr = LMBTR(
            species=species.tolist(),
            geometry={"function": settings["geometry"]},
            grid={"min": first, "max": last, "n": n_points, "sigma": sigma},
            weighting={"function": "exp", "scale": -log(threshold) / longest, "threshold": threshold},
            periodic=True,
        )
        groups = _groups(settings, [species_name(z) for z in species])
        self.columns = np.r_[tuple(self.lmbtr.get_location(group) for group in groups)]
        rank = {"X": 0} | {species_name(z): place for place, z in enumerate(species, start=1)}
        self.places = {",".join(str(rank[a]) for a in group): k for k, group in enumerate(groups)}
        self.n_points = n_points
        self.normalized = settings["normalization"] == "l2"

    def get_number_of_features(self) -> int:
        """Number of columns."""
        return len(self.columns)

    def create_single(self, atoms: Atoms) -> FloatArray:
        """Rows (n_atoms, n_columns) of one structure.

        DScribe 2.1 fills its spectra into a sparse array one by one, which takes ten times as long as to
        compute them. They are caught in the method before, which then has none to hand on. What a version
        without this method returns is taken as it is.
        """
        mend_lmbtr()
        caught: list[Mapping[str, Any]] = []

        def catch(spectra: list[Mapping[str, Any]]) -> list[Any]:
            caught.extend(spectra)  # of every atom, by "0,1": places of species, of which 0 is X
            return []

        lmbtr = copy.copy(self.lmbtr)  # threads may share this one
        lmbtr._make_new_klist_local = catch
        rows: FloatArray = lmbtr.create_single(atoms)[:, self.columns]
        if caught:
            filled = np.zeros((len(atoms), len(self.places), self.n_points))
            for row, spectra in zip(filled, caught, strict=True):
                for species, spectrum in spectra.items():
                    row[self.places[species]] = spectrum
            rows = filled.reshape(rows.shape)
        if self.normalized:
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            np.divide(rows, length, out=rows, where=length > 0)  # an atom may be alone
        return rows


@cache
def mend_lmbtr() -> None:
    """Let LMBTR work with ASE 3.27 or newer, in this process.

    DScribe 2.1 hands arguments by position to ``ase.Atoms``, which has got another one in between since
    (https://github.com/SINGROUP/dscribe/issues/165), and asks structures for their calculator in a way that
    ASE warns of. Where that fails, LMBTR gets another class in place of ``System``, which passes what LMBTR
    needs by name. Other descriptors keep their own.
    """
    from dscribe.core import System
    from dscribe.descriptors import lmbtr

    class NamedArguments(System):
        def __init__(self, **arguments: Any) -> None:
            Atoms.__init__(self, **arguments)
            self._reset_structure()

        @staticmethod
        def from_atoms(atoms: Atoms) -> NamedArguments:
            return NamedArguments(
                numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
            )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lmbtr.System.from_atoms(Atoms("H"))
    except Exception:  # whatever it is, DScribe's class is of no use
        lmbtr.System = NamedArguments


def grid_of(settings: Mapping[str, Any]) -> tuple[float, float, int, float]:
    """First and last point, number of points, standard deviation.

    Raises
    ------
    ValueError
        If there is no such grid.
    """
    given = settings["grid"]
    if given is None:
        first, last, n_points, sigma = GRIDS[settings["geometry"]]
        return first, float(settings["r_cut"]) if last is None else last, n_points, sigma
    numbers = _numbers(given)
    if numbers.shape == (4,) and np.isfinite(numbers).all():
        first, last, n_points, sigma = numbers.tolist()
        if first < last and n_points >= 2 and n_points == int(n_points) and sigma > 0:
            return first, last, int(n_points), sigma
    raise ValueError(
        "grid must be (first point, last point, number of points, standard deviation), ascending, with two "
        f"points or more and a standard deviation above 0; got {given!r}. None takes one that suits geometry."
    )


def _is_pair(settings: Mapping[str, Any]) -> bool:
    return settings["geometry"] in ("distance", "inverse_distance")


def _groups(settings: Mapping[str, Any], symbols: list[str]) -> list[tuple[str, ...]]:
    """Species that share a stretch of columns; "X" is the atom itself, angles are those at the middle one."""
    if _is_pair(settings):
        return [("X", a) for a in symbols]
    here = [(a, "X", b) for i, a in enumerate(symbols) for b in symbols[i:]]
    return [*here, *(("X", a, b) for a in symbols for b in symbols)]


def _lmbtr_names(settings: Mapping[str, Any], symbols: list[str]) -> list[str]:
    first, last, n_points, _ = grid_of(settings)
    points = np.linspace(first, last, n_points)
    return [
        f"lmbtr[{'-'.join(group)}]{point:.10g}" for group in _groups(settings, symbols) for point in points
    ]
