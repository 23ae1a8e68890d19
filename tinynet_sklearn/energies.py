"""Energies of atoms, their slopes by the features, and the slopes of both by the weights.

The energy of an atom is a network of its features, averaged over the operations g of its site group where
that is known (for scalars without turning anything back):

    E_i = e_s + c_s * mean_g f_s(g x_i)

Its slopes dE_i/dx_i come from one backward pass. A loss on forces depends on these slopes: with
u_i = J (dL/dr) (`geometry.push`), the gradient of the loss is that of sum_i u_i . dE_i/dx_i by the weights
with u held fixed. That sum is the rate of the energy along u: one forward pass of the tangent, one backward
pass of both, and no graph is ever differentiated twice.

==========  ====================  ===================================================================
name        shape                 meaning, for one network and one layer l
==========  ====================  ===================================================================
outputs     (m * n_ops, h_l)      a_l = phi(z_l) of every image of every atom
factors     (m * n_ops, h_l)      phi'(z_l)
deltas      (m * n_ops, h_l)      d(mean energy) / d(z_l)
tangents    (m * n_ops, h_l)      rate of z_l along u
==========  ====================  ===================================================================

References
----------
B. A. Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6, 147 (1994).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.networks import DenseStack
from tinynet_sklearn.training import AtomNetwork

__all__ = ["BLOCK_ATOMS", "AtomicEnergies", "EnergyPass", "structure_blocks"]

# Structures are worked through in blocks of about so many atoms, whose activations stay in the cache of one
# core. Fixed, so that sums are made in one order whatever the machine does.
BLOCK_ATOMS = 200


@dataclass(frozen=True, eq=False)
class _Part:
    """The atoms of one network and one site class: scaled features, and where they stand."""

    network: int
    action: GroupAction
    scaled: FloatArray
    rows: IntArray
    starts: IntArray


class AtomicEnergies:
    """Atoms between features and energies, ready for networks with any weights.

    Parameters
    ----------
    atoms : PerAtomArray
        Features, with `geometry`.
    networks : sequence of AtomNetwork
        Forms and scalings; all with one output.
    network_of_row : ndarray of shape (n_rows,), int
        Which of them each atom belongs to.
    most_operations : int
        Over how many operations of site groups to average at most; 1 is no averaging.
    dtype : dtype
        Precision of the networks. Features, forces and sums are double precision in any case.
    """

    def __init__(
        self,
        atoms: PerAtomArray,
        networks: Sequence[AtomNetwork],
        network_of_row: IntArray,
        most_operations: int,
        dtype: np.dtype,
    ) -> None:
        self.atoms = atoms
        self.networks = list(networks)
        self.network_of_row = network_of_row
        self.dtype = np.dtype(dtype)
        frames = atoms.frames
        symmetry = frames.symmetry if frames is not None and most_operations > 1 else None
        sites: IntArray = np.zeros(len(atoms.values), dtype=np.intp)
        if frames is not None and symmetry is not None:
            sites = frames.sites
        self._parts: list[_Part] = []
        for number, net in enumerate(self.networks):
            for site in np.unique(sites[network_of_row == number]):
                rows = np.flatnonzero((network_of_row == number) & (sites == site))
                action = GroupAction.trivial(len(net.inputs.columns))
                if symmetry is not None:
                    action = GroupAction.of_site(symmetry, int(site), net.inputs, False, most_operations)
                scaled = net.inputs.apply(atoms.values[rows], self.dtype)
                starts = np.searchsorted(rows, atoms.offsets)
                self._parts.append(_Part(number, action, scaled, rows, starts))

    @property
    def n_operations(self) -> int:
        """Most operations that any network is averaged over."""
        return max((part.action.n_operations for part in self._parts), default=1)

    def stacks(self, flat: FloatArray) -> list[DenseStack]:
        """The networks with the given weights, those of all networks one after the other."""
        stacks, start = [], 0
        flat = np.asarray(flat, dtype=self.dtype)
        for net in self.networks:
            form = cast(DenseStack, net.stack)  # potentials are made of dense networks only
            stacks.append(form.with_flat(flat[start : start + form.n_parameters]))
            start += form.n_parameters
        return stacks

    def evaluate(self, stacks: Sequence[DenseStack], structures: IntArray) -> EnergyPass:
        """Energies and slopes of the atoms of some structures."""
        return EnergyPass(self, stacks, structures)


class EnergyPass:
    """Some structures on their way through the networks.

    Attributes
    ----------
    offsets : ndarray of shape (n_structures + 1,), int
        First row of each structure.
    energies : ndarray of shape (n_rows,)
        Of the atoms, eV.
    slopes : ndarray of shape (n_rows, n_columns)
        dE/dx in physical features.
    """

    def __init__(self, energies: AtomicEnergies, stacks: Sequence[DenseStack], structures: IntArray) -> None:
        atoms = energies.atoms
        self.structures = structures
        self.offsets = np.concatenate([[0], np.cumsum(atoms.counts[structures])]).astype(np.intp)
        n_rows, n_columns = int(self.offsets[-1]), atoms.shape[1]
        self.energies = np.zeros(n_rows)
        self.slopes = np.zeros((n_rows, n_columns))
        self._networks = energies.networks
        self._flows: list[tuple[int, IntArray, _Flow]] = []
        shift = self.offsets[:-1] - atoms.offsets[structures]
        for part in energies._parts:
            counts = part.starts[structures + 1] - part.starts[structures]
            if not counts.any():
                continue
            ends = np.cumsum(counts)
            taken = np.repeat(part.starts[structures] - ends + counts, counts) + np.arange(ends[-1])
            rows = part.rows[taken] + np.repeat(shift, counts)
            net = self._networks[part.network]
            flow = _Flow(stacks[part.network], part.action, part.scaled[taken])
            self.energies[rows] = net.energy_scaling.invert(flow.energies[:, None])[:, 0]
            slopes = flow.slopes() * (net.energy_scaling.scale / net.inputs.scale)
            self.slopes[rows[:, None], net.inputs.columns] = slopes
            self._flows.append((part.network, rows, flow))

    @property
    def totals(self) -> FloatArray:
        """Energies of the structures, eV, shape (n_structures,)."""
        structure = np.repeat(np.arange(len(self.structures)), np.diff(self.offsets))
        totals = np.bincount(structure, weights=self.energies, minlength=len(self.structures))
        return totals.astype(np.float64)

    def weight_slopes(self, rates: FloatArray, shares: FloatArray) -> FloatArray:
        """Derivative of ``sum(rates * slopes) + sum(shares * energies)`` by all weights.

        Parameters
        ----------
        rates : ndarray of shape (n_rows, n_columns)
            u: how the features move (`geometry.push`).
        shares : ndarray of shape (n_rows,)
            Of each atom's energy.

        Returns
        -------
        ndarray of shape (n_parameters,), float64
        """
        found = [np.zeros(net.stack.n_parameters if net.stack else 0) for net in self._networks]
        for number, rows, flow in self._flows:
            net = self._networks[number]
            scale = float(net.energy_scaling.scale[0])
            along = rates[rows[:, None], net.inputs.columns] * (scale / net.inputs.scale)
            found[number] += flow.weight_slopes(along, shares[rows] * scale)
        return np.concatenate(found)


class _Flow:
    """Atoms of one network and site class on their way forth, back, and forth and back again."""

    def __init__(self, stack: DenseStack, action: GroupAction, rows: FloatArray) -> None:
        self._stack, self._action, self._rows = stack, action, rows
        weight, bias = action.fold(stack.weights[0], stack.biases[0])
        self._folded = weight
        first = DenseStack((weight,), (bias,), stack.activations[:1]).layer_outputs(rows)[-1]
        width = len(stack.biases[0])
        self._outputs = stack[1:].layer_outputs(first.reshape(-1, width))
        self._factors = stack.slope_factors([rows, *self._outputs])
        per_row = self._outputs[-1][:, 0].reshape(len(rows), action.n_operations)
        self.energies: FloatArray = per_row.mean(axis=1)
        # deltas[l] = d(energy) / d(z_l); pulls[l] = d(energy) / d(a_l)
        delta = np.full((per_row.size, 1), 1 / action.n_operations, dtype=rows.dtype)
        self._deltas, self._pulls = [delta], [delta]
        for layer in range(len(stack.weights) - 1, 0, -1):
            pull = delta @ stack.weights[layer].T
            factor = self._factors[layer - 1]
            delta = pull if factor is None else pull * factor
            self._pulls.insert(0, pull)
            self._deltas.insert(0, delta)

    def slopes(self) -> FloatArray:
        """Slopes of the energies by the scaled features, shape (m, n_inputs)."""
        result: FloatArray = self._deltas[0].reshape(len(self._rows), -1) @ self._folded.T
        return result

    def weight_slopes(self, rates: FloatArray, shares: FloatArray) -> FloatArray:
        """Derivative of ``sum(rates * slopes()) + sum(shares * energies)`` by the flat weights."""
        stack, action, dtype = self._stack, self._action, self._rows.dtype
        rates = rates.astype(dtype, copy=False)
        tangent = (rates @ self._folded).reshape(self._outputs[0].shape)
        tangents = [tangent]
        for layer in range(1, len(stack.weights)):
            tangents.append(self._moved(layer - 1, tangents[-1]) @ stack.weights[layer])
        # y: derivative by z_l of the whole; that by its tangent is the delta of the first backward pass
        y = np.repeat(shares / action.n_operations, action.n_operations).astype(dtype)[:, None]
        parts: list[FloatArray] = []
        for layer in range(len(stack.weights) - 1, 0, -1):
            moved = self._moved(layer - 1, tangents[layer - 1])
            parts += [
                y.sum(axis=0),
                (moved.T @ self._deltas[layer] + self._outputs[layer - 1].T @ y).ravel(),
            ]
            y = self._through(layer - 1, y @ stack.weights[layer].T, tangents[layer - 1])
        wide = y.reshape(len(self._rows), -1)
        folded = rates.T @ self._deltas[0].reshape(len(wide), -1) + self._rows.T @ wide
        weight, bias = action.unfold(folded, wide.sum(axis=0))
        return np.concatenate([weight.ravel(), bias, *parts[::-1]]).astype(np.float64)

    def _moved(self, layer: int, tangent: FloatArray) -> FloatArray:
        """Rate of a layer's output, given that of its sums."""
        factor = self._factors[layer]
        return tangent if factor is None else factor * tangent

    def _through(self, layer: int, y: FloatArray, tangent: FloatArray) -> FloatArray:
        """Derivative by a layer's sums, given that by its output."""
        factor = self._factors[layer]
        if factor is None:
            return y
        y = y * factor
        bend = self._stack.curvature(layer, self._outputs[layer], factor)
        if bend is not None:
            y += self._pulls[layer] * tangent * bend
        return y


def structure_blocks(structures: IntArray, counts: IntArray) -> Iterator[IntArray]:
    """Cut a list of structures into blocks of about `BLOCK_ATOMS` atoms, at least one structure each.

    Parameters
    ----------
    structures : ndarray of int
        Which structures.
    counts : ndarray of int
        Atoms of all structures.
    """
    if not len(structures):
        return
    block = (np.cumsum(counts[structures]) - 1) // BLOCK_ATOMS
    yield from np.split(structures, np.flatnonzero(np.diff(block)) + 1)
