"""
Why the order of the columns matters
====================================

The same bond lengths can be listed in many orders. Sorted by value, a column is "the shortest bond",
whichever that is at the moment; in fixed slots, it is "the bond to the right". A small network learns from
the second.
"""

# %%
# One atom that moves
# -------------------
# Ti in cubic BaTiO\ :sub:`3` moves along x. Its closed walks of two hops have entries exp(-2d), with d the
# length of each of the six bonds to O.

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms

from tinynet_sklearn import CycleMomentFeaturizer

places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
ideal = Atoms("BaTiO3", scaled_positions=places, cell=[4.0] * 3, pbc=True)
shifts = np.linspace(-0.3, 0.3, 61)
moved = [ideal.copy() for _ in shifts]
for atoms, shift in zip(moved, shifts, strict=True):
    atoms.positions[1, 0] += shift

only_walks = {"n": 2, "N": 0, "bonds": {"Ti-O": 2.7, "Ba-O": 3.6}, "reference": ideal}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
for ax, order, title in zip(axes, ("value", "direction"), ("sorted by value", "fixed slots"), strict=True):
    featurizer = CycleMomentFeaturizer(**only_walks, order=order, frame="lab").fit(moved)
    ti = np.array([rows[1] for rows in featurizer.transform(moved)])
    for k, column in enumerate(ti[:, ti.any(axis=0)].T):
        label = f"column {k + 1}" if k in (0, 5) else "columns 2 to 5, equal" if k == 1 else None
        ax.plot(shifts, 1e2 * column, label=label, linestyle=("-", "--", ":")[min(k, 1) + (k == 5)])
    ax.set(title=title, xlabel="shift of Ti along x (Å)")
axes[0].set_ylabel("entry (10$^{-2}$)")
axes[1].legend(fontsize=8)
plt.show()

# %%
# Left: columns have kinks where two bonds change places, and a shift to the right gives the same list as a
# shift to the left, while the forces are opposite. No network, however large, can learn the force from it.
# Right: smooth, and right and left differ.

# %%
# What it is worth
# ----------------
# DFT forces of MoO\ :sub:`3`, with neighbours (N = 2), so that no list is blind. The last 17 of the
# structures, which are independent draws, are kept aside. "Site" turns neighbours into a frame of the site
# besides, so that equivalent atoms learn together.

from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNRegressor, load_moo3
from tinynet_sklearn.metrics import force_rmse

data = load_moo3()
cut = 64
choices = {
    "sorted by value": {"order": "value", "frame": "lab"},
    "fixed slots": {"order": "direction", "frame": "lab"},
    "fixed slots, frames of the sites": {"order": "direction", "frame": "site"},
}
errors = {}
for name, choice in choices.items():
    model = make_pipeline(
        CycleMomentFeaturizer(n=4, N=2, bonds=data.bonds, **choice),
        BPNNRegressor((16, 32), max_iter=200, early_stopping=True, random_state=0),
    )
    model.fit(data.structures[:cut], data.target[:cut])
    errors[name] = force_rmse(data.target[cut:], model.predict(data.structures[cut:]))

figure, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
bars = ax.barh(list(errors), list(errors.values()), color="0.75")
ax.bar_label(bars, fmt="%.2f", padding=3)
zero = np.sqrt(np.mean(data.target[cut:].values ** 2))
ax.axvline(zero, color="0.3", linestyle="--", linewidth=1, label="zero force")
ax.legend(loc="lower right")
ax.invert_yaxis()
ax.margins(x=0.12)
ax.set_xlabel("force RMSE on structures kept aside (eV/Å)")
plt.show()

# %%
# :doc:`/embedding` has the same with cross-validation and for BaTiO\ :sub:`3`, and says how slots and
# frames are found.
