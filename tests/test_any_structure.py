"""Slabs with vacancies, hot crystals, molecules that break, melts: nothing shares its bonds."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from numpy.testing import assert_allclose
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CutoffBonds,
    CycleMomentFeaturizer,
    PerAtomArray,
    PotentialTargets,
    SmoothMomentFeaturizer,
    TinyNetCalculator,
    build_bond_graph,
    time_blocks,
)
from tinynet_sklearn.metrics import force_rmse
from tinynet_sklearn.potential_metrics import energy_mae

SHARED = Path(__file__).parents[2] / "shared" / "data"

#: Depth (eV) and length (Angstrom) of the bonds of the model below; all others repel.
WELLS = {("Ba", "O"): (0.4, 2.83), ("O", "Ba"): (0.4, 2.83), ("Ti", "O"): (2.0, 2.0), ("O", "Ti"): (2.0, 2.0)}
REPULSION = (0.1, 2.83)
STIFFNESS = 1.5  # per Angstrom
REACH = 4.0


class Morse(Calculator):
    """Ions of BaTiO3 with Morse potentials between them, of twice continuous slope at `REACH`: the labels."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, j, d, vectors = neighbor_list("ijdD", atoms, REACH)
        symbols = np.array(atoms.get_chemical_symbols())
        depth, length = (
            np.array([WELLS.get(pair, REPULSION) for pair in zip(symbols[i], symbols[j], strict=True)])
            .reshape(-1, 2)
            .T
        )
        attraction = np.where(length == REPULSION[1], 0.0, 2.0)
        decay = np.exp(-STIFFNESS * (d - length))
        value = depth * (decay**2 - attraction * decay)
        slope = depth * STIFFNESS * (attraction * decay - 2 * decay**2)
        fade = (1 - (d / REACH) ** 2) ** 3
        fade_slope = -6 * d / REACH**2 * (1 - (d / REACH) ** 2) ** 2
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, ((slope * fade + value * fade_slope) / d)[:, None] * vectors)
        self.results = {"energy": 0.5 * float(value @ fade), "forces": forces}


def labelled(atoms, calculator):
    """The structure with its energy and forces."""
    atoms.calc = calculator
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def slab(n_layers, first, n_vacancies, seed, amplitude=0.08):
    """BaTiO3(001) of 2 x 2 cells: so many planes, the lowest BaO (0) or TiO2 (1), O atoms missing."""
    rng = np.random.default_rng(seed)
    symbols, positions = [], []
    for layer in range(n_layers):
        corners = {0: [("Ba", 0, 0), ("O", 2, 2)], 1: [("Ti", 2, 2), ("O", 0, 2), ("O", 2, 0)]}
        for symbol, x, y in corners[(layer + first) % 2]:
            for a in (0, 4):
                for b in (0, 4):
                    symbols.append(symbol)
                    positions.append((x + a, y + b, 2 * layer))
    atoms = Atoms(symbols, positions=positions, cell=[8, 8, 0], pbc=(True, True, False))
    oxygen = np.flatnonzero(atoms.numbers == 8)
    del atoms[rng.choice(oxygen, n_vacancies, replace=False)]
    atoms.positions += amplitude * rng.normal(size=(len(atoms), 3))
    return atoms


def forces_of(frames):
    return PerAtomArray.from_list([a.get_forces() for a in frames], [a.numbers for a in frames])


def energies_of(frames):
    return np.array([a.get_potential_energy() for a in frames])


def targets_of(frames):
    return PotentialTargets(energy=energies_of(frames), forces=forces_of(frames))


def size_of(forces):
    """Error of predicting no force at all."""
    return np.sqrt(np.mean(np.square(np.asarray(forces))))


@pytest.fixture(scope="module")
def slabs():
    """Slabs to learn from, and others: a thickness and a number of vacancies that the first have not."""
    learned = [
        labelled(slab(n, first, vacancies, seed), Morse())
        for seed, (n, first, vacancies) in enumerate(
            (n, first, vacancies)
            for n in (3, 5)
            for first in (0, 1)
            for vacancies in (0, 1, 3)
            for _ in range(4)
        )
    ]
    others = [labelled(slab(4, first, 2, 100 + seed), Morse()) for seed in range(4) for first in (0, 1)]
    return learned, others


# ---- Slabs with vacancies ----------------------------------------------------------------------------------

BONDS = {"Ba-O": 3.6, "Ti-O": 2.7}


def each(**options):
    return CycleMomentFeaturizer(
        **{
            "n": 4,
            "N": 1,
            "paths": "simple",
            "bonds": BONDS,
            "topology": "each",
            "overflow": "clip",
            **options,
        }
    )


def fading(**options):
    """Walks of two hops over all pairs, which fade out: no jumps."""
    every_pair = CutoffBonds(REACH, heteroatomic=False)
    return each(n=2, paths="all", bonds=every_pair, fade=1.0, **options)


def smooth(**options):
    return SmoothMomentFeaturizer(n=3, cutoff=4.5, n_pair=6, n_triangle=2, **options)


def direct_model(featurizer, max_iter=60):
    return make_pipeline(featurizer, BPNNRegressor((16,), alpha=1e-4, max_iter=max_iter, random_state=0))


def energy_model(featurizer, max_iter=60):
    return make_pipeline(featurizer, BPNNPotential((16,), max_iter=max_iter, random_state=0))


#: Featurizer, and the largest error that is sensible, in units of the error of predicting no force.
DIRECT = {"each": (each(), 0.25), "fading": (fading(), 0.3), "smooth": (smooth(n_vector=2), 0.12)}
WITH_ENERGY = {
    "each": (each(coordinates="distances"), 0.5),
    "fading": (fading(coordinates="distances"), 0.5),
    "smooth": (smooth(), 0.12),
}
few_iterations = pytest.mark.filterwarnings("ignore:max_iter=:sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def direct(slabs):
    """Models of forces by name, each fitted on first use."""
    return fitted_on_demand({name: direct_model(f) for name, (f, _) in DIRECT.items()}, slabs[0])


@pytest.fixture(scope="module")
def potentials(slabs):
    """Models of energies by name, each fitted on first use."""
    return fitted_on_demand({name: energy_model(f) for name, (f, _) in WITH_ENERGY.items()}, slabs[0])


def fitted_on_demand(models, frames):
    done = set()

    def get(name):
        if name not in done:
            y = forces_of(frames) if isinstance(models[name][-1], BPNNRegressor) else None
            models[name].fit(frames, y)
            done.add(name)
        return models[name]

    return get


def test_labels_are_derivatives_and_slabs_differ(slabs):
    learned, others = slabs
    atoms, step = others[0].copy(), 1e-4
    energies = []
    for shift in (step, -step):
        moved = atoms.copy()
        moved.positions[3, 2] += shift
        energies.append(Morse().get_potential_energy(moved))
    assert_allclose((energies[1] - energies[0]) / (2 * step), others[0].get_forces()[3, 2], atol=1e-6)
    assert not {len(a) for a in others} & {len(a) for a in learned}


@few_iterations
@pytest.mark.parametrize("name", DIRECT)
def test_forces_of_slabs_with_vacancies(slabs, direct, name):
    _, others = slabs
    true = forces_of(others)
    assert force_rmse(true, direct(name).predict(others)) < DIRECT[name][1] * size_of(true)


@few_iterations
@pytest.mark.parametrize("name", WITH_ENERGY)
def test_energies_of_slabs_with_vacancies(slabs, potentials, name):
    learned, others = slabs
    true, predicted = targets_of(others), potentials(name).predict(others, output="all")
    assert force_rmse(true.forces, predicted.forces) < WITH_ENERGY[name][1] * size_of(true.forces)
    per_atom = energies_of(learned) / [len(a) for a in learned]
    assert energy_mae(true, predicted) < 0.2 * per_atom.std()
    for forces in predicted.forces:
        assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9)


# ---- Where atoms go that training has not seen -------------------------------------------------------------


def adatom_leaves():
    """An O atom above a Ti atom of a surface of TiO2, at 1.5 to 7 Angstrom."""
    frames = []
    for height in np.linspace(1.5, 7.0, 12):
        atoms = slab(4, 1, 0, seed=5)
        top = atoms.positions[atoms.numbers == 56][:, 2].max()
        atoms.append("O")
        atoms.positions[-1] = (2.0, 2.0, top + height)
        frames.append(atoms)
    return frames


def melt():
    """Boxes of atoms at random, no two closer than 1.5 Angstrom, as dense as the crystal; periodic."""
    frames = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        atoms = Atoms(cell=[8, 8, 8], pbc=True)
        for symbol in ["Ba"] * 8 + ["Ti"] * 8 + ["O"] * 24:
            while True:
                trial = atoms + Atoms(symbol, positions=rng.uniform(0, 8, (1, 3)))
                if len(trial) == 1 or trial.get_distances(-1, range(len(atoms)), mic=True).min() > 1.5:
                    break
            atoms = trial
        frames.append(atoms)
    return frames


OUTSIDE = {"adatom": adatom_leaves, "melt": melt}


@few_iterations
@pytest.mark.parametrize("frames", OUTSIDE)
@pytest.mark.parametrize("name", DIRECT)
def test_forces_outside_of_training_are_numbers(direct, name, frames):
    frames = OUTSIDE[frames]()
    forces = direct(name).predict(frames)
    assert [len(f) for f in forces] == [len(a) for a in frames]
    assert np.isfinite(forces.values).all()


@few_iterations
@pytest.mark.parametrize("frames", OUTSIDE)
@pytest.mark.parametrize("name", WITH_ENERGY)
def test_energies_outside_of_training_are_numbers(potentials, name, frames):
    frames = OUTSIDE[frames]()
    predicted = potentials(name).predict(frames, output="all")
    assert np.isfinite(predicted.energy).all()
    assert np.isfinite(predicted.forces.values).all()


@few_iterations
def test_an_adatom_far_away_feels_nothing(direct, potentials):
    far = adatom_leaves()[-1]
    for name in DIRECT:
        assert_allclose(direct(name).predict([far])[0][-1], 0.0, atol=1e-12)
        assert_allclose(potentials(name).predict([far])[0][-1], 0.0, atol=1e-12)


@few_iterations
@pytest.mark.parametrize("name", ["fading", "smooth"])
def test_forces_do_not_jump_while_an_adatom_leaves(slabs, potentials, name):
    """The work done along the way is the difference of the energies."""
    heights = np.linspace(1.5, 7.0, 276)
    frames = []
    for height in heights:
        atoms = adatom_leaves()[0]
        atoms.positions[-1, 2] += height - heights[0]
        frames.append(atoms)
    predicted = potentials(name).predict(frames, output="all")
    along = np.array([forces[-1, 2] for forces in predicted.forces])
    work = -np.concatenate([[0], np.cumsum((along[1:] + along[:-1]) / 2 * np.diff(heights))])
    assert_allclose(work, predicted.energy - predicted.energy[0], atol=3e-3)


#: Corners of a cube of which no two are close, in units of the distance to its centre.
CORNERS = np.array(list(product((-1, 1), repeat=3))) / np.sqrt(3)


def coordination(frames):
    """Number of bonds of each atom, by atomic number."""
    counts = np.concatenate([build_bond_graph(atoms, BONDS).coordination for atoms in frames])
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    return {z: counts[numbers == z] for z in np.unique(numbers)}


def test_more_than_in_training_is_an_error_unless_asked_for(slabs):
    learned = slabs[0][:8]
    strict = each(overflow="error").fit(learned)
    crowded = learned[0] + Atoms("O8", positions=learned[0].positions[0] + 2.5 * CORNERS)
    number, most = coordination([crowded])[56][0], coordination(learned)[56].max()
    assert number > most
    message = (
        f"structure 1: atom 0 (Ba) has {number} closed walks of 2 hops along Ba-O, at most {most} in fit."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        strict.transform([learned[0], crowded])
    for overflow in ("truncate", "clip"):
        features = each(overflow=overflow).fit(learned).transform([crowded])
        assert features.values.shape == (len(crowded), strict.n_features_out_)
        assert np.isfinite(features.values).all()


def molecules():
    """Small molecules near equilibrium, with Morse potentials between all atoms in place of a chemistry."""
    rng = np.random.default_rng(0)
    frames = []
    for name in ("CH3OH", "CH3CH2OH", "CH3OCH3"):
        for _ in range(12):
            atoms = molecule(name)
            atoms.rattle(0.05, rng=rng)
            frames.append(labelled(atoms, Morse()))
    return frames


@few_iterations
@pytest.mark.parametrize("fade", [0.0, 0.4])
@pytest.mark.parametrize("with_energy", [False, True])
def test_a_molecule_dissociates(fade, with_energy):
    featurizer = each(N=2, bonds="natural", fade=fade)
    if with_energy:
        featurizer.set_params(coordinates="distances", N=1)
    model = (energy_model if with_energy else direct_model)(featurizer, max_iter=30)
    frames = molecules()
    model.fit(frames, None if with_energy else forces_of(frames))
    apart = []
    for stretch in np.linspace(0.0, 4.0, 21):
        atoms = molecule("CH3OH")
        atoms.positions[3] += stretch * (atoms.positions[3] - atoms.positions[1])
        apart.append(atoms)
    assert apart[0].symbols[[1, 3]].get_chemical_formula() == "HO"
    forces = model.predict(apart)
    assert np.isfinite(forces.values).all()
    assert_allclose(forces[-1][3], 0.0, atol=1e-12)  # an atom on its own


# ---- A hot crystal -----------------------------------------------------------------------------------------


def hot_crystal():
    """BaTiO3 at 900 K: every second of 227 frames of 40 atoms, with forces."""
    folder = SHARED / "batio3_aimd" / "BT-900K"
    symbols = np.array((folder / "type_map.raw").read_text().split())[
        np.loadtxt(folder / "type.raw", dtype=int)
    ]
    frames = []
    for part in sorted(folder.glob("set.*")):
        arrays = (np.load(part / f"{name}.npy") for name in ("coord", "box", "energy", "force"))
        for positions, cell, energy, forces in zip(*arrays, strict=True):
            atoms = Atoms(symbols, positions=positions.reshape(-1, 3), cell=cell.reshape(3, 3), pbc=True)
            atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=forces.reshape(-1, 3))
            frames.append(atoms)
    return frames[5::2]


HOT = {
    "each, directions": (direct_model, each(N=2), 0.6),
    "each, distances": (energy_model, each(N=2, coordinates="distances"), 0.5),
    "smooth, vectors": (direct_model, smooth(n_vector=2), 0.4),
    "smooth, energy": (energy_model, smooth(), 0.3),
}


@few_iterations
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the public data sets")
@pytest.mark.parametrize("name", HOT)
def test_barium_titanate_at_900_kelvin(name):
    """The last fifth of the run, from the first four."""
    make, featurizer, limit = HOT[name]
    frames = hot_crystal()
    block = time_blocks(["900 K"] * len(frames), n_blocks=5)
    learned = [a for a, b in zip(frames, block, strict=True) if b < 4]
    others = [a for a, b in zip(frames, block, strict=True) if b == 4]
    model = make(featurizer).fit(learned, forces_of(learned))
    true = forces_of(others)
    assert force_rmse(true, model.predict(others)) < limit * size_of(true)


# ---- Dynamics ----------------------------------------------------------------------------------------------


@few_iterations
@pytest.mark.parametrize("name", WITH_ENERGY)
def test_dynamics_of_a_slab_with_a_vacancy(potentials, name):
    atoms = slab(5, 0, 1, seed=50, amplitude=0.03)
    atoms.calc = TinyNetCalculator(potentials(name), on_extrapolation="ignore")
    rng = np.random.default_rng(0)
    momenta = np.sqrt(atoms.get_masses() * units.kB * 300)[:, None] * rng.normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    total = []
    dynamics = VelocityVerlet(atoms, timestep=1 * units.fs)
    dynamics.attach(lambda: total.append(atoms.get_total_energy() / len(atoms)))
    dynamics.run(20)
    assert np.ptp(total) < (5e-4 if name == "smooth" else 5e-3)  # eV/atom
    assert_allclose(atoms.get_momenta().sum(axis=0), 0.0, atol=1e-6)


@few_iterations
@pytest.mark.parametrize("name", DIRECT)
def test_dynamics_by_direct_forces(direct, name):
    atoms = slab(5, 0, 1, seed=50, amplitude=0.03)
    atoms.calc = TinyNetCalculator(direct(name), on_extrapolation="ignore", warn=False)
    rng = np.random.default_rng(0)
    before = atoms.positions.copy()
    Langevin(
        atoms, 1 * units.fs, temperature_K=300, friction=0.02 / units.fs, rng=rng, fixcm=False, logfile=None
    ).run(10)
    moved = np.linalg.norm(atoms.positions - before, axis=1)
    assert 0 < moved.max() < 1


@pytest.mark.parametrize("overflow", ["truncate", "clip"])
def test_the_calculator_flags_atoms_that_found_no_column(overflow):
    """A second atom of gold beside the first: its walks have no column, so that no column is out of range."""
    frames = []
    for seed in range(6):
        atoms = bulk("Cu", "fcc", a=3.61, cubic=True) * (2, 1, 1)
        atoms.symbols[0] = "Au"
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    embed = CycleMomentFeaturizer(
        n=2,
        N=0,
        bonds={"Cu-Cu": 3.2, "Cu-Au": 3.2, "Au-Au": 3.2},
        topology="each",
        aggregate="sum",
        overflow=overflow,
    )
    energies = [float(np.sum(atoms.positions**2)) * 1e-3 for atoms in frames]
    model = make_pipeline(embed, BPNNPotential((2,), max_iter=3, random_state=0)).fit(
        frames, {"energy": energies}
    )
    strange = frames[0].copy()
    strange.symbols[1] = "Au"
    for atoms, flagged in ((frames[0], False), (strange, True)):
        atoms.calc = TinyNetCalculator(model, on_extrapolation="ignore")
        atoms.get_potential_energy()
        assert atoms.calc.results["extrapolating"][0] == flagged
