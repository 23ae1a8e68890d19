"""
Conservative or direct forces
=============================

``BPNNPotential`` learns an energy and differentiates it; ``BPNNRegressor`` learns the forces themselves.
Here the energy has the smaller error, too, but another difference matters more in dynamics.
"""

# %%
# One crystal, two models, the same networks and the same training structures.

import numpy as np
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNPotential, BPNNRegressor, CycleMomentFeaturizer, load_batio3
from tinynet_sklearn.metrics import force_rmse

data = load_batio3()
cut = 60
settings = {"n": 4, "N": 2, "paths": "simple", "bonds": data.bonds}
energy = make_pipeline(
    CycleMomentFeaturizer(**settings, coordinates="distances"),
    BPNNPotential((16, 32), max_iter=150, alpha=1e-4, random_state=0),
)
energy.fit(data.structures[:cut], {"energy": data.energies[:cut], "forces": data.target[:cut]})
direct = make_pipeline(
    CycleMomentFeaturizer(**settings),
    BPNNRegressor((16, 32), max_iter=150, alpha=1e-4, symmetry_penalty=0.3, random_state=0),
)
direct.fit(data.structures[:cut], data.target[:cut])

models = {"energy": energy, "direct": direct}
for name, model in models.items():
    predicted = model.predict(data.structures[cut:])
    error = force_rmse(data.target[cut:], predicted)
    total = max(np.abs(forces.sum(axis=0)).max() for forces in predicted)
    print(f"{name}: RMSE {error:.3f} eV/Å, largest sum of the forces on a cell {total:.0e} eV/Å")

# %%
# Around a closed path
# --------------------
# Every atom of a held-out structure in turn is led around a circle, back to where it was. The work of the
# forces of an energy is zero then, but for rounding. That of direct forces is not: each round gains, or
# takes, energy.

import matplotlib.pyplot as plt

held_out = data.structures[cut]
angles = np.linspace(0, 2 * np.pi, 61)
circle = 0.15 * np.column_stack([np.cos(angles), np.sin(angles), 0 * angles])  # Å


def work_around(model, atom):
    """Work of the forces on an atom along the circle, meV."""
    around = [held_out.copy() for _ in circle]
    for atoms, shift in zip(around, circle, strict=True):
        atoms.positions[atom] += shift
    forces = np.array([rows[atom] for rows in model.predict(around)])
    return 1e3 * np.sum((forces[1:] + forces[:-1]) / 2 * np.diff(circle, axis=0))


figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
places = np.arange(len(held_out))
for (name, model), marker in zip(models.items(), "os", strict=True):
    ax.semilogy(places, [abs(work_around(model, atom)) for atom in places], marker, label=name)
ax.set_xticks(places, held_out.symbols, fontsize=8)
ax.set(ylabel="work in one round (meV)", title="Each atom led around a circle of 0.15 Å")
ax.legend(loc="center right")
plt.show()

# %%
# In dynamics
# -----------
# Without a thermostat, from the same positions and velocities. A model without an energy cannot be asked
# how its energy drifts, but the temperature tells: it should fluctuate about half of that of the start.

from ase import units
from ase.md.verlet import VelocityVerlet

from tinynet_sklearn import TinyNetCalculator

start = data.structures[0] * (2, 1, 2)
spread = np.sqrt(units.kB * 300 * start.get_masses())  # of the momenta at 300 K
momenta = spread[:, None] * np.random.default_rng(0).normal(size=(len(start), 3))
start.set_momenta(momenta - momenta.mean(axis=0))

figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for (name, model), style in zip(models.items(), ("-", "--"), strict=True):
    atoms = start.copy()
    atoms.calc = TinyNetCalculator(model, warn=False, on_extrapolation="ignore")
    temperatures = []
    dynamics = VelocityVerlet(atoms, timestep=1 * units.fs)
    for _ in range(200):
        dynamics.run(10)
        temperatures.append(atoms.get_temperature())
    ax.plot(0.01 * np.arange(1, len(temperatures) + 1), temperatures, style, label=name)
ax.set(xlabel="time (ps)", ylabel="temperature (K)", title="No thermostat, 80 atoms of BaTiO$_3$")
ax.legend()
plt.show()

# %%
# Forces from an energy for dynamics, relaxation and phonons; direct forces where nothing is followed for
# long, and for all that is no derivative of an energy. The table of :doc:`/potential` has every difference.
