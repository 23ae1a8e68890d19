"""`CompiledModel`: one compiled path from positions to energies and forces.

A fitted pipeline predicts in steps, each with arrays of its own. For one crystal all but the positions is
known beforehand: which pairs of atoms make which entry, how entries are scaled, the networks with the
operations of the site groups folded into their first matrices. `CompiledModel` lays all of this out once, for
one structure and with the layout that `_force_kernels` works on, and then needs three calls of compiled code
per step.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinynet_sklearn import _force_kernels as kernels
from tinynet_sklearn.evaluation import Evaluation, checked_frame, fitted_steps, symmetric_matrix
from tinynet_sklearn.features import CycleMomentFeaturizer
from tinynet_sklearn.kinds import joined, kinds_of, model_arrays
from tinynet_sklearn.multi_target import MultiTargetRegressor
from tinynet_sklearn.paths import Ints
from tinynet_sklearn.potential import BPNNPotential
from tinynet_sklearn.reference import MAX_STRETCH, images_onto, lies_on, mismatch, rotation_from
from tinynet_sklearn.regressor import BPNNRegressor
from tinynet_sklearn.repetition import repeated_reference
from tinynet_sklearn.structures import AtomicStructure, as_structures, completed
from tinynet_sklearn.supercells import Supercell, find_supercell
from tinynet_sklearn.target_maps import LinkedTargets
from tinynet_sklearn.tiling import AtomEntries, Tiling, UnitPairs, unit_entries

__all__ = ["CompiledModel", "why_not_compiled"]

Floats = NDArray[np.float64]

#: An atom that moved farther than this (Angstrom) between two calls may have been put into another periodic
#: image: atoms are then laid onto the reference anew.
JUMP = 0.5


def why_not_compiled(steps: Sequence[Any]) -> str | None:
    """Why fitted steps have no compiled path; None if they have.

    Parameters
    ----------
    steps : sequence of estimators
        As `fitted_steps` gives them.
    """
    featurizer, regressor = steps[0], steps[-1]
    if len(steps) != 2 or not isinstance(featurizer, CycleMomentFeaturizer):
        names = ", ".join(type(step).__name__ for step in steps)
        return f"the steps are {names}, not CycleMomentFeaturizer and a regressor"
    if featurizer.topology == "each":
        return "every structure has a bond graph of its own (topology='each')"
    if isinstance(regressor, MultiTargetRegressor):
        return "it predicts several"
    if not isinstance(regressor, BPNNRegressor | BPNNPotential):
        return f"the regressor is a {type(regressor).__name__}, not a BPNNRegressor or BPNNPotential"
    if len(featurizer.table_.walk_segments) or len(featurizer.table_.neighbor_segments):
        return "entries are sorted by value (order='value', or walks with order='depth-first')"
    if any(net.stack is None for net in regressor.atom_networks_.values()):
        return "a network is no plain stack of dense layers"
    return None


class CompiledModel:
    """A fitted model laid out for one structure: energies and forces in microseconds per atom.

    Parameters
    ----------
    model : Pipeline, BPNNPotential, or a fitted search around one
        A fitted `CycleMomentFeaturizer`, with entries that are not sorted by value (``order="direction"``),
        directly followed by a `BPNNPotential` or a `BPNNRegressor` with dense networks.
    structure : ase.Atoms or pymatgen Structure
        The crystal that the model was fitted on, or a supercell of it (see
        `CycleMomentFeaturizer.adapted_to`). Positions that are passed later must have its atoms in its order.
    precision : {"double", "single"}, default="double"
        Of the networks. Positions, lengths, features, energies and forces are in double precision in any
        case; single precision changes forces by some 1e-6 eV/Angstrom.
    topology : {"checked", "frozen"}, default="checked"
        "checked" raises an error when a bond is 1.5 times as long as in the reference; "frozen" trusts.
    n_threads : int, default=1
        Worth it from some ten thousand atoms on.

    Attributes
    ----------
    mode : {"energy", "direct"}
        Whether forces are the gradient of an energy, or predicted as such.
    reach : float
        Angstrom: how far the farthest atom that an atom's energy (or direct force) depends on stands from it
        in the reference.
    nbytes : int
        Memory of the tables.

    Raises
    ------
    TypeError, NotFittedError
        If the model is of another kind, or not fitted.
    ValueError
        If the model has no compiled path, the structure is no supercell of its crystal, or an option is none
        of the above.

    Notes
    -----
    Calls from several threads wait for each other; copies (`copy.deepcopy`, pickle) run side by side.

    The energy of atom i is that of `BPNNPotential`, and forces follow from one backward pass through the
    networks and along the walks: with h_b = exp(-d_b) per pair of atoms, d(entry) / d(d_b) = -(passes over
    b) * entry. See `_force_kernels` for the layout.

    Examples
    --------
    >>> from tinynet_sklearn import CompiledModel, load_batio3, load_pretrained
    >>> atoms = load_batio3().structures[0] * (2, 2, 2)
    >>> engine = CompiledModel(load_pretrained("batio3"), atoms)
    >>> found = engine.compute(atoms.positions, atoms.cell.array)
    >>> found.forces.shape, found.virial.shape, found.energies.shape
    ((160, 3), (3, 3), (160,))
    """

    def __init__(
        self,
        model: Any,
        structure: Any,
        *,
        precision: str = "double",
        topology: str = "checked",
        n_threads: int = 1,
    ) -> None:
        _check_choice("precision", precision, ("double", "single"))
        _check_choice("topology", topology, ("checked", "frozen"))
        if not isinstance(n_threads, int | np.integer) or n_threads < 1:
            raise ValueError(f"n_threads must be a positive whole number; got {n_threads!r}.")
        steps = fitted_steps(model)
        reason = why_not_compiled(steps)
        if isinstance(steps[-1], MultiTargetRegressor):
            raise ValueError(
                f"model must predict one kind of targets; {reason}. Take one of split_model(model), or use "
                "TinyNetCalculator, which gives all of them."
            )
        if reason is not None:
            raise ValueError(
                f"model must have a compiled path; {reason}. Fit with topology='reference', "
                "order='direction' and dense networks, or use TinyNetCalculator, which takes any pipeline."
            )
        featurizer, regressor = steps
        (target,) = as_structures([structure], name="structure")
        self.mode = "energy" if isinstance(regressor, BPNNPotential) else "direct"
        self.precision, self.topology, self.n_threads = precision, topology, int(n_threads)
        self._dtype = np.dtype(np.float32 if precision == "single" else np.float64)
        self._numbers, self._pbc = target.numbers, target.pbc
        supercell = _supercell(target, featurizer)
        self._reference = repeated_reference(featurizer.reference_, target, supercell)
        self._featurizer = featurizer
        pairs, entries = unit_entries(featurizer.table_, featurizer.sites_, featurizer._spec())
        self._entries = entries
        self._tiling = Tiling(pairs, supercell)
        self._limits = _limits_of_pairs(featurizer, len(pairs.first))
        self.reach = _reach(featurizer.reference_, pairs, entries)
        self._directed = featurizer.table_.layout.neighbor_span == 3
        self._kinds = list(kinds_of(featurizer, regressor, entries))
        self._turned = self._kinds[0].turned
        self._model = model_arrays(self._kinds, self._dtype)
        self._room: _Room | None = None
        self._lay_out(np.arange(len(target)))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_room": None}  # copies work in rooms of their own

    def __repr__(self) -> str:
        return f"<CompiledModel: {self.mode}, {len(self)} atoms, {self.precision}, {self.topology}>"

    @property
    def nbytes(self) -> int:
        """Memory of the tables and the space to work in, bytes."""
        room = self._room or _Room(self)
        parts = (self._model, self._pairs, room.lanes, room.geometry, *room.scratch)
        arrays = [array for part in parts for array in part]
        return sum(array.nbytes for array in [*arrays, *room.slopes])

    @property
    def needed_atoms(self) -> Ints:
        """Atoms whose positions matter: all, or those that a part depends on."""
        atoms: Ints = np.arange(len(self))[self._touched]
        return atoms

    def restricted_to(self, centres: ArrayLike) -> CompiledModel:
        """Return a model of the same structure that evaluates some of the atoms only.

        Parameters
        ----------
        centres : array-like of int
            Atoms whose energies (or direct forces) are wanted. Those of all others count as zero; forces are
            the derivatives of the energies that are left. Only the positions of atoms within `reach` of a
            centre matter; but the frames of direct models follow all atoms of a molecule or wire.

        Returns
        -------
        CompiledModel

        Raises
        ------
        ValueError
            If a number is not that of an atom.
        """
        given = np.asarray(centres)
        if given.size and given.dtype.kind not in "iu":
            raise ValueError(
                f"centres must be numbers of atoms, 0 to {len(self) - 1}; got an array of {given.dtype}. Of "
                "a mask, take np.flatnonzero."
            )
        chosen = np.unique(given.astype(np.int64))
        if len(chosen) and (chosen[0] < 0 or chosen[-1] >= len(self)):
            raise ValueError(
                f"centres must be numbers of atoms, 0 to {len(self) - 1}; got {chosen[0]} to {chosen[-1]}."
            )
        part = copy.copy(self)  # without our room
        part._lay_out(chosen)
        return part

    def fits(self, structure: AtomicStructure) -> bool:
        """Whether a structure has these atoms in about this cell, so that no other layout is needed."""
        return self.misfit(structure) is None

    def misfit(self, structure: AtomicStructure) -> str | None:
        """Why a structure needs another layout; None if it does not."""
        return mismatch(structure, self._reference)

    def compute(self, positions: ArrayLike, cell: ArrayLike) -> Evaluation:
        """Evaluate the model.

        Parameters
        ----------
        positions : array-like of shape (n_atoms, 3)
            Angstrom; atoms may be in any periodic image.
        cell : array-like of shape (3, 3)
            Lattice vectors as rows, Angstrom.

        Returns
        -------
        Evaluation

        Raises
        ------
        ValueError
            If shapes are wrong, the cell is not that of the crystal, or, with ``topology="checked"``, a bond
            has become too long; the message names its atoms.
        """
        if self._room is None or self._room.process != os.getpid():
            self._room = _Room(self)
        room = self._room
        with room.lock:
            placed, lattice = self._placed(room, positions, cell)
            translations = self._tiling.cells @ (lattice * self._pbc[:, None])

            def measure(part: int) -> int:
                share = (placed, translations, self._pairs, self._pair_rows, *self._columns[part])
                return int(kernels.measure_pairs(*share, room.geometry))

            if sum(room.each(measure)) and self.topology == "checked":
                self._refuse_overlong(placed, translations)
            if self.mode == "direct":
                return self._outputs(room)
            return self._energies(room, placed, translations)

    def _outputs(self, room: _Room) -> Evaluation:
        """Second pass of a model without energy, over blocks of atoms."""
        outputs = np.zeros((len(self), self._kinds[0].n_outputs))
        outside = np.zeros(len(self), dtype=np.bool_)

        def evaluate(part: int) -> None:
            kernels.output_blocks(
                self._model,
                room.lanes,
                self._blocks[part],
                room.geometry,
                room.scratch[part],
                self._directed,
                self._turned,
                outputs,
                outside,
            )

        room.each(evaluate)
        for kind, record in zip(self._kinds, self._model.kinds, strict=True):
            if isinstance(kind.network.targets, LinkedTargets):
                start = int(record["atom_start"])
                mine = self._lanes.atoms[start : start + int(record["n_atoms"])]
                outputs[mine] = kind.network.targets.invert(outputs[mine])
        forces = outputs if outputs.shape[1] == 3 else None
        return Evaluation(forces, outputs=outputs, extrapolating=self._flags(outside))

    def _energies(self, room: _Room, placed: Floats, translations: Floats) -> Evaluation:
        """Second pass of a model with energy, over blocks of atoms, and third one, back over the pairs."""
        energies = np.zeros(len(self))
        outside = np.zeros(len(self), dtype=np.bool_)

        def descend(part: int) -> float:
            room.slopes[part][:] = 0.0
            found = kernels.energy_blocks(
                self._model,
                room.lanes,
                self._blocks[part],
                room.geometry,
                room.scratch[part],
                energies,
                room.slopes[part],
                outside,
            )
            return float(found)

        energy = sum(room.each(descend))
        slopes = room.slopes[0]
        for others in room.slopes[1:]:
            slopes += others

        def push(part: int) -> tuple[Floats, Floats]:
            forces, virial = np.zeros((len(self), 3)), np.zeros(6)
            share = (placed, translations, self._pairs, self._pair_rows, *self._columns[part])
            kernels.add_pair_forces(*share, slopes, forces, virial)
            return forces, virial

        parts = room.each(push)
        forces, virial = parts[0]
        for more, further in parts[1:]:
            forces += more
            virial += further
        return Evaluation(
            forces,
            energy=energy,
            energies=energies,
            virial=symmetric_matrix(virial),
            extrapolating=self._flags(outside),
        )

    # ---- Layout ----

    def _lay_out(self, centres: Ints) -> None:
        """Fill the tables of the given atoms."""
        tiling, supercell = self._tiling, self._tiling.supercell
        # Some cells at a time: their pairs stay in the cache while all their atoms are worked through.
        cells = supercell.classes(supercell.translations[centres])
        order = np.lexsort((cells, supercell.parents[centres], cells // kernels.WIDTH))
        kind_of_parent = np.empty(len(self._entries), dtype=np.int64)
        row_of_parent = np.empty_like(kind_of_parent)
        for number, kind in enumerate(self._kinds):
            kind_of_parent[kind.parents] = number
            row_of_parent[kind.parents] = np.arange(len(kind.parents))
        ordered = centres[order]
        kinds_of_lanes, cells_of_lanes = kind_of_parent[supercell.parents[ordered]], cells[order]
        atoms: list[NDArray] = []
        hops: list[NDArray] = []
        ends: list[NDArray] = []
        blocks: list[tuple[int, int, int]] = []
        regions: list[int] = []
        records = self._model.kinds.copy()
        for number, kind in enumerate(self._kinds):
            mine = ordered[kinds_of_lanes == number]
            rows = row_of_parent[supercell.parents[mine]]
            records[number]["n_atoms"] = len(mine)
            records[number]["atom_start"] = sum(len(part) for part in atoms)
            records[number]["hop_start"] = sum(len(part) for part in hops)
            records[number]["end_start"] = sum(len(part) for part in ends)
            atoms.append(mine)
            for table, found in zip((kind.hops, kind.ends), (hops, ends), strict=True):
                out = np.empty(len(mine) * table.pairs.shape[1], dtype=np.int32)
                if out.size:
                    tiling.fill(mine, rows, table.pairs, table.cells, table.flips, out, kind.width)
                found.append(out)
            starts = range(0, len(mine), kind.width)
            blocks += [(number, start, min(kind.width, len(mine) - start)) for start in starts]
            regions += (cells_of_lanes[kinds_of_lanes == number][:: kind.width] // kernels.WIDTH).tolist()
        self._model = self._model._replace(kinds=records)
        hop_table, end_table = joined(hops, np.int32), joined(ends, np.int32)
        limits = np.repeat(self._limits.astype(np.float32), tiling.n_cells)
        first, last, images = tiling.first, tiling.last, tiling.images
        self._pair_rows = max(len(self._limits), 1) if tiling.n_cells >= kernels.CHUNK else 1
        if len(centres) < len(self):
            used = np.unique(np.concatenate([hop_table, end_table >> 1]))
            renumbered = np.zeros(len(first), dtype=np.int32)
            renumbered[used] = np.arange(len(used))
            hop_table = renumbered[hop_table]
            end_table = 2 * renumbered[end_table >> 1] + (end_table & 1)
            first, last, images, limits = first[used], last[used], images[used], limits[used]
            self._pair_rows = 1
        self._pairs = kernels.Pairs(first, last, images, limits)
        self._lanes = kernels.Lanes(joined(atoms, np.int64), np.empty((0, 3, 3)), hop_table, end_table)
        # Atoms that matter: those without a pair (none here, but in a part) may be anywhere.
        self._touched: Any = slice(None)
        if len(centres) < len(self):
            self._touched = np.unique(np.concatenate([first, last, centres]))
        self._share_out(np.array(blocks, dtype=kernels.BLOCK)[np.argsort(regions, kind="stable")])

    def _share_out(self, blocks: NDArray) -> None:
        """Divide blocks and pairs among threads, by the work that they are."""
        costs = np.array([kind.cost for kind in self._kinds])[blocks["kind"]] * blocks["n"]
        share = np.cumsum(costs) / max(costs.sum(), 1)
        cuts = np.searchsorted(share, np.arange(1, self.n_threads) / self.n_threads)
        self._blocks = np.split(blocks, cuts)
        n_columns = len(self._pairs.first) // self._pair_rows
        edges = np.linspace(0, n_columns, self.n_threads + 1).astype(int)
        self._columns = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))

    # ---- Before each call ----

    def _placed(self, room: _Room, positions: ArrayLike, cell: ArrayLike) -> tuple[Floats, Floats]:
        """Positions in the periodic images of the reference, and the cell."""
        given, lattice = checked_frame(positions, cell, len(self))
        if not np.isfinite(lattice).all():
            raise ValueError(f"cell must be finite; got {lattice.tolist()}.")
        new_cell = room.cell is None or not np.array_equal(lattice, room.cell)
        if new_cell:
            problem = mismatch(self._structure(given, lattice), self._reference)
            if problem is not None:
                raise ValueError(f"cell must be that of the crystal: {problem}.")
        moved = room.last is None
        if room.last is not None:
            moved = not np.abs(given - room.last)[self._touched].max(initial=0.0) < JUMP
        if moved and np.isfinite(given[self._touched]).all() and len(given[self._touched]):
            scaled = np.linalg.solve(completed(lattice, self._pbc).T, given[self._touched].T).T
            home = self._reference.scaled_positions()[self._touched]
            images = np.zeros((len(self), 3))
            images[self._touched] = images_onto(scaled, home, self._pbc)
            room.images = images if images.any() else None
        placed = given if room.images is None else given - room.images @ lattice
        if len(room.lanes.frames) and (new_cell or moved or not self._pbc.all()):
            self._turn_frames(room.lanes.frames, placed, lattice)
        room.last, room.cell = given.copy(), lattice.copy()
        return placed, lattice

    def _structure(self, positions: Floats, cell: Floats) -> AtomicStructure:
        return AtomicStructure(self._numbers, positions, cell, self._pbc)

    def _turn_frames(self, frames: Floats, placed: Floats, lattice: Floats) -> None:
        """Fill in the frames of the sites, which turn with the crystal."""
        sites, parents = self._featurizer.sites_, self._tiling.supercell.parents[self._lanes.atoms]
        if self._featurizer._frame() != "site":
            frames[:] = np.eye(3)
            return
        if self._pbc.sum() > 1:  # two lattice vectors tell the rotation, wherever the atoms are
            placed = self._reference.positions
        elif not np.isfinite(placed).all():
            frames[:] = np.nan
            return
        rotation = rotation_from(self._reference, self._structure(placed, lattice), placed)
        frames[:] = (sites.rotations @ rotation.T)[parents]

    def _flags(self, outside: NDArray) -> NDArray | None:
        return outside if np.isfinite(self._model.high).any() else None

    def _refuse_overlong(self, placed: Floats, translations: Floats) -> None:
        """Name the bond that is farthest beyond its limit."""
        pairs = kernels.Pairs(*(part[np.isfinite(self._pairs.limits)] for part in self._pairs))
        lengths = np.linalg.norm(
            placed[pairs.last] + translations[pairs.images] - placed[pairs.first], axis=1
        )
        if not np.isfinite(lengths).all():
            atom = int(pairs.first[np.flatnonzero(~np.isfinite(lengths))[0]])
            raise ValueError(
                f"positions must be finite; those of atom {atom} or an atom bonded to it are not. The step "
                "before this one was too long, or the model was asked for what it does not know."
            )
        worst = int(np.argmax(lengths / pairs.limits))
        raise ValueError(
            f"the bond between atoms {pairs.first[worst]} and {pairs.last[worst]} is {lengths[worst]:.2f} "
            f"Angstrom, in the reference {pairs.limits[worst] / MAX_STRETCH:.2f}; the model knows the "
            "crystal with all its bonds only."
        )


class _Room:
    """Where a model works: everything that changes from call to call.

    A room belongs to one process, and is used by one call at a time.

    Attributes
    ----------
    process : int
        A fork inherits memory, but no threads, and locks as they were.
    lock : Lock
        Compiled loops release Python's own.
    lanes : Lanes
        Those of the model, with frames of the sites.
    geometry, scratch, slopes
        See `_force_kernels`; one scratch and one array of slopes by pairs for each thread.
    last, images, cell : ndarray or None
        Positions of the last call, the images they are away from the reference, and its cell.
    """

    def __init__(self, model: CompiledModel) -> None:
        n_pairs, n_threads = len(model._pairs.first), model.n_threads
        n_frames = len(model._lanes.atoms) if model._directed or model._turned else 0
        wide, real = (max(sizes) for sizes in zip(*[kind.scratch for kind in model._kinds], strict=True))
        n_vectors, n_slopes = (n_pairs * used for used in (model._directed, model.mode == "energy"))
        self.process = os.getpid()
        self.lock = Lock()
        self.lanes = model._lanes._replace(frames=np.empty((n_frames, 3, 3)))
        self.geometry = kernels.Geometry(np.empty((3, n_vectors)), np.empty(n_pairs))
        self.scratch = [
            kernels.Scratch(
                np.empty(wide * kernels.WIDTH), np.empty(real * kernels.WIDTH, dtype=model._dtype)
            )
            for _ in range(n_threads)
        ]
        self.slopes = [np.empty(n_slopes) for _ in range(n_threads)]
        self.last: Floats | None = None
        self.images: Floats | None = None
        self.cell: Floats | None = None
        self._pool = ThreadPoolExecutor(n_threads) if n_threads > 1 else None

    def each(self, work: Callable[[int], Any]) -> list[Any]:
        """Do something for the share of each thread."""
        if self._pool is None:
            return [work(0)]
        return list(self._pool.map(work, range(len(self.scratch))))


def _supercell(structure: AtomicStructure, featurizer: CycleMomentFeaturizer) -> Supercell:
    """The structure on the repeated reference; the reference itself where it fits as it is."""
    reference = featurizer.reference_
    if not lies_on(structure, reference, featurizer.table_.graph):
        return find_supercell(structure, reference)
    unit, atoms = np.eye(3, dtype=np.int64), np.arange(len(reference))
    return Supercell(unit, np.eye(3), atoms, np.zeros((len(atoms), 3), dtype=np.int64))


def _limits_of_pairs(featurizer: CycleMomentFeaturizer, n_pairs: int) -> Floats:
    """Lengths that bonds must not exceed; infinite for other pairs."""
    reference = featurizer.reference_
    relaxed = featurizer.table_.graph.bond_lengths(reference.positions, reference.cell)
    limits = np.full(n_pairs, np.inf)
    limits[: len(relaxed)] = MAX_STRETCH * relaxed
    return limits


def _reach(reference: AtomicStructure, pairs: UnitPairs, entries: list[AtomEntries]) -> float:
    """Farthest atom that enters the row of another, Angstrom."""
    reach = 0.0
    for atom, entry in enumerate(entries):
        numbers = np.concatenate([entry.hop_pairs, entry.end_pairs])
        cells = np.concatenate([entry.hop_cells, entry.end_cells])
        for ends, more in ((pairs.first, 0), (pairs.last, pairs.shifts[numbers])):
            vectors = reference.positions[ends[numbers]] + (cells + more) @ reference.cell
            vectors -= reference.positions[atom]
            reach = max(reach, float(np.linalg.norm(vectors, axis=1).max(initial=0.0)))
    return reach


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
