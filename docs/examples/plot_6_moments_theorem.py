"""
The moments theorem
===================

Why should a list of closed walks know anything of electrons? Because the moments of the local density of
states *are* sums over closed walks (F. Cyrot-Lackmann, 1967). Here is the theorem with a crystal whose
electrons are known exactly.
"""

# %%
# Closed walks
# ------------
# A walk hops from atom to bonded atom and ends where it began. Of two hops there is one for each bond:
# there and back. Of four hops there are more, and some go around rings.

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

walks = {
    "2 hops: a bond": [(0, 0), (1, 0), (0, 0)],
    "4 hops: a neighbour of a neighbour": [(0, 0), (1, 0), (2, 0), (1, 0), (0, 0)],
    "4 hops: a ring": [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)],
    "6 hops: a larger ring": [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1), (0, 0)],
}
x, y = np.meshgrid(np.arange(-1, 4), np.arange(-1, 3))
figure, axes = plt.subplots(1, 4, figsize=(10, 2.3), layout="constrained")
for ax, (title, walk) in zip(axes, walks.items(), strict=True):
    for line in (*zip(x, y, strict=True), *zip(x.T, y.T, strict=True)):
        ax.plot(*line, color="0.85", zorder=0)
    ax.scatter(x, y, c=(x + y) % 2, cmap="cividis", s=60, edgecolors="0.3")
    for begin, end in pairwise(np.array(walk)):
        aside = 0.09 * (end - begin)[::-1] * (1, -1)  # there and back side by side
        ax.annotate(
            "",
            xytext=begin + aside,
            xy=end + aside,
            arrowprops={"arrowstyle": "->", "color": "tab:red", "linewidth": 1.8, "shrinkA": 4, "shrinkB": 4},
        )
    ax.set(title=title, xlim=(-0.6, 2.6), ylim=(-0.6, 1.6), aspect="equal")
    ax.title.set_fontsize(9)
    ax.axis("off")
plt.show()

# %%
# A crystal with known electrons
# ------------------------------
# Rock salt, 64 atoms displaced at random, one s orbital for each atom, and a hopping element exp(-d) along
# each bond of length d. We diagonalise its Hamiltonian on a grid of k-points: that gives the local density
# of states of every atom.

from itertools import product

from ase.build import bulk

from tinynet_sklearn import LDOS, CycleMomentFeaturizer, EnergyGrid, build_bond_graph

ideal = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (2, 2, 2)
crystal = ideal.copy()
crystal.rattle(0.15, seed=1)  # Å
graph = build_bond_graph(ideal, 3.0)  # who is bonded to whom
start = np.repeat(np.arange(len(crystal)), np.diff(graph.offsets))
vectors = crystal.positions[graph.targets] + graph.shifts @ crystal.cell - crystal.positions[start]
hopping = np.exp(-np.linalg.norm(vectors, axis=1))

k_points = np.array(list(product((np.arange(5) + 0.3) / 5, repeat=3)))
hamiltonian = np.zeros((len(k_points), len(crystal), len(crystal)), dtype=complex)
for i, j, shift, element in zip(start, graph.targets, graph.shifts, hopping, strict=True):
    hamiltonian[:, i, j] += element * np.exp(2j * np.pi * (k_points @ shift))
energies, states = np.linalg.eigh(hamiltonian)
weights = np.abs(states.transpose(0, 2, 1)) ** 2  # of each atom in each state
print(f"{energies.size} states of {len(crystal)} atoms")

# %%
# The theorem
# -----------
# The m-th moment of the local density of states of an atom, its mean of E\ :sup:`m`, equals the sum over
# all closed walks of m hops from that atom, each with the product of its hopping elements. Left side from
# the states, right side from the embedding, which knows of no electrons:

n = 8
featurizer = CycleMomentFeaturizer(n=n, N=0, bonds=3.0, reference=ideal, aggregate="sum", frame="lab")
rows = featurizer.fit_transform([crystal])[0]
hops = np.array([int(name[2]) for name in featurizer.get_feature_names_out()])  # mu4[Na-Cl-Na] ...
from_walks = {m: rows[:, hops == m].sum(axis=1) for m in range(2, n + 1)}
from_states = {m: np.einsum("ks,ksa->a", energies**m, weights) / len(k_points) for m in range(2, n + 1)}

figure, ax = plt.subplots(figsize=(5, 4.2), layout="constrained")
for m in range(2, n + 1, 2):
    ax.loglog(from_walks[m], from_states[m], "o", markersize=5, label=f"m = {m}")
ends = np.array(ax.get_xlim())
ax.loglog(ends, ends, color="0.5", linewidth=0.8, zorder=0)
ax.set(
    xlabel="sum over closed walks", ylabel="moment of the density of states", title="Every atom, every moment"
)
ax.legend()
plt.show()

worst = max(np.abs(from_walks[m] / from_states[m] - 1).max() for m in range(2, n + 1, 2))
print(f"largest relative difference: {worst:.0e}; odd moments at most {np.abs(from_states[3]).max():.0e}")

# %%
# From walks to a curve
# ---------------------
# Moments 2 ... n fix the coefficients b\ :sub:`1` ... b\ :sub:`n/2` of the recursion (Haydock's chain),
# which is the curve itself, written as a continued fraction; we continue it with its last coefficient for
# ever. Longer walks see farther, and more of the curve. That is what n of the embedding means.

atom, width = 0, 0.012
grid = np.linspace(-0.55, 0.55, 551)


def chain(moments):
    """Coefficients b_1, b_2, ... from the moments 0, 1, ..., by Cholesky's decomposition of their matrix."""
    size = len(moments) // 2 + 1
    matrix = [[moments[i + j] for j in range(size)] for i in range(size)]
    diagonal = np.diag(np.linalg.cholesky(matrix))
    return diagonal[1:] / diagonal[:-1]


def curve(b):
    """Density of states of a chain that goes on with its last coefficient."""
    energy = grid + 1j * width
    root = np.sqrt(energy - 2 * b[-1]) * np.sqrt(energy + 2 * b[-1])
    green = (energy - root) / (2 * b[-1] ** 2)
    for coefficient in b[::-1]:
        green = 1 / (energy - coefficient**2 * green)
    return -green.imag / np.pi


exact = LDOS.from_states([energies], [weights], EnergyGrid(grid, width=width), [crystal.numbers])
figure, axes = plt.subplots(1, 4, figsize=(10, 2.6), sharey=True, layout="constrained")
for ax, longest in zip(axes, (2, 4, 6, 8), strict=True):
    moments = [
        1.0,
        *(0.0 if m % 2 else from_walks.get(m, [0.0] * len(crystal))[atom] for m in range(1, longest + 1)),
    ]
    ax.fill_between(grid, exact[0][atom] / 2, color="0.85", label="diagonalisation")
    ax.plot(grid, curve(chain(moments)), color="tab:red", label="from walks")
    ax.set(title=f"walks up to {longest} hops", xlabel="energy (no unit)", ylim=(0, 3.9))
axes[0].set_ylabel("states per energy")
axes[0].legend(fontsize=7, loc="upper left")
plt.show()

# %%
# In a real material there are several orbitals for each atom and nobody knows the hopping elements. So the
# embedding hands the terms of the moments to a network, which learns the curve from DFT:
# :doc:`plot_3_ldos`.
