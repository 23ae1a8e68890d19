"""
From a trajectory to molecular dynamics in ten minutes
======================================================

You have frames with energies and forces, and want molecular dynamics that are a thousand times as fast as
the method that made them. The way: look at the frames, keep some aside, fit, test, run, and ask the method
again about what the run has found.
"""

# %%
# A trajectory
# ------------
# Yours is a file from DFT. Here a run of ordered Cu\ :sub:`3`\ Au at 600 K stands in for it, 6 ps with the
# EMT potential of ASE, which is quick and knows the answer to any question we may ask later.

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read, write

from tinynet_sklearn import run_dynamics

corner_and_faces = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
crystal = Atoms("AuCu3", scaled_positions=corner_and_faces, cell=[3.71] * 3, pbc=True) * (2, 2, 2)
crystal.calc = EMT()
reference_run = run_dynamics(
    crystal, temperature=600, n_steps=3000, timestep=2, interval=10, equilibration=500
)
write("frames.extxyz", reference_run.frames())

# %%
# Look at the frames
# ------------------
# With your file, begin here. In a terminal, ``tinynet inspect frames.extxyz`` tells more of it.

from tinynet_sklearn import PairDistributionDisplay, suggest_bonds

frames = read("frames.extxyz", ":")
bonds = suggest_bonds(frames)
print(f"{len(frames)} frames of {len(frames[0])} atoms; bonds up to, in Å: {bonds}")
PairDistributionDisplay.from_structures(frames, bonds).figure_

# %%
# Keep some aside
# ---------------
# Neighbouring frames are nearly the same structure: a random split would ask the model for what it was
# told. We cut the run into ten blocks of time and keep the last two.

from tinynet_sklearn import time_blocks

blocks = time_blocks(np.zeros(len(frames)), n_blocks=10)
train = [atoms for atoms, block in zip(frames, blocks, strict=True) if block < 8]
test = [atoms for atoms, block in zip(frames, blocks, strict=True) if block >= 8]

# %%
# Fit
# ---
# Closed walks up to three hops and distances to the bonded neighbours, then one network of 16 and 16
# neurons for each species. Energies, forces and stresses come with the frames, so there is no ``y``.

from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNPotential, CycleMomentFeaturizer

model = make_pipeline(
    CycleMomentFeaturizer(n=3, N=1, paths="simple", bonds=bonds, coordinates="distances"),
    BPNNPotential((16, 16), max_iter=100, random_state=0),
)
model.fit(train)
print("learned from", ", ".join(model[-1].quantities_))

# %%
# Test
# ----
# Forces on the frames that were kept aside, and their root mean square error for each species.

from tinynet_sklearn import ParityDisplay, PerAtomArray
from tinynet_sklearn.metrics import force_rmse, force_rmse_per_species


def forces_of(structures):
    """Forces that came with the structures, eV/Å."""
    return PerAtomArray.from_list(
        [atoms.get_forces(apply_constraint=False) for atoms in structures],
        [atoms.numbers for atoms in structures],
    )


expected, predicted = forces_of(test), model.predict(test)
errors = force_rmse_per_species(expected, predicted)
print("RMSE, eV/Å:", {species: round(error, 3) for species, error in errors.items()})
print(f"forces themselves: {np.sqrt(np.mean(expected.values**2)):.2f} eV/Å")
ParityDisplay.from_predictions(expected, predicted).figure_

# %%
# Run
# ---
# The model was fitted on 32 atoms; the run has 256. ``save_model`` writes a file that ``tinynet md`` and
# LAMMPS take.

from tinynet_sklearn import TinyNetCalculator, save_model

save_model(model, "cu3au.tinynet", metadata={"reference": "EMT", "trained at": "600 K"})
large = frames[0] * (2, 2, 2)
large.calc = TinyNetCalculator(model, on_extrapolation="ignore")  # counted instead, below
run = run_dynamics(
    large, temperature=500, n_steps=2000, timestep=2, interval=20, ensemble="nve", equilibration=500
)
print(f"{run.seconds_per_step / len(large) * 1e6:.1f} microseconds per atom and step")
print(f"drift of the total energy: {run.drift():.4f} meV/atom/ps")
beyond = run.production()["extrapolating_atoms"].mean()
print(f"atoms with surroundings beyond those of the training frames: {beyond:.1f} of {len(large)} on average")
run.plot()

# %%
# Ask again
# ---------
# A model is tested on what it is used for: we hand frames of *its* run to the reference method. With DFT
# one would do so for a handful, and add them to the training set where the error has grown.

visited = run.frames()[20::20]
mine = PerAtomArray.from_list([atoms.get_forces() for atoms in visited])
for atoms in visited:
    atoms.calc = EMT()
print(f"RMSE on frames of the new run: {force_rmse(forces_of(visited), mine):.3f} eV/Å")

# %%
# Where to go from here: :doc:`/potential` for stress, relaxation and phonons, :doc:`/simulations` for
# ``tinynet md``, LAMMPS and ensembles, :doc:`/any-structure` if your atoms change their neighbours.
