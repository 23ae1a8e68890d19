"""`SmoothEngine`: potentials on smooth moments, from positions to energies and forces.

The steps of a pipeline without what does not change from call to call: bonds come from a list that lasts for
many steps (`SkinList`), the scaling of the inputs is folded into the first matrix of each network, and hops
and walks are kept from the features to the forces. Bonds may form and break.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.evaluation import Evaluation, checked_frame, fitted_steps
from tinynet_sklearn.frames import IntArray
from tinynet_sklearn.geometry import Floats
from tinynet_sklearn.networks import DenseStack
from tinynet_sklearn.potential import BPNNPotential
from tinynet_sklearn.skin import SKIN, SkinList
from tinynet_sklearn.smooth import SmoothMomentFeaturizer
from tinynet_sklearn.structures import AtomicStructure, as_structures
from tinynet_sklearn.training import AtomNetwork

__all__ = ["SmoothEngine", "is_smooth"]


def is_smooth(steps: Sequence[Any]) -> bool:
    """Whether fitted steps are a potential on smooth moments, with nothing in between.

    Parameters
    ----------
    steps : sequence of estimators
        As `fitted_steps` gives them.
    """
    return (
        len(steps) == 2
        and isinstance(steps[0], SmoothMomentFeaturizer)
        and isinstance(steps[1], BPNNPotential)
        and all(net.stack is not None for net in steps[1].atom_networks_.values())
    )


class SmoothEngine:
    """A potential on smooth moments for one set of atoms, wherever they go.

    Parameters
    ----------
    model : Pipeline, BPNNPotential, or a fitted search around one
        A fitted `SmoothMomentFeaturizer`, directly followed by a `BPNNPotential`.
    structure : ase.Atoms or pymatgen Structure
        Its atoms and their order, and which directions are periodic. Positions and cell may change at will.
    skin : float, default=SKIN
        Angstrom; see `SkinList`. Results do not depend on it.

    Attributes
    ----------
    mode : {"energy"}
        Forces are the gradient of an energy.
    reach : float
        Angstrom: how far the farthest atom stands that the energy of an atom depends on.
    n_builds : int
        How often bonds were listed.

    Raises
    ------
    TypeError, NotFittedError
        If the model is of another kind, or not fitted.
    ValueError
        If the model is no potential on smooth moments, or the structure holds species that it does not know.

    Notes
    -----
    One call at a time: threads need copies (`copy.deepcopy`).

    Examples
    --------
    >>> from ase.build import molecule
    >>> from tinynet_sklearn import BPNNPotential, SmoothMomentFeaturizer
    >>> from tinynet_sklearn.smooth_engine import SmoothEngine
    >>> water = molecule("H2O")
    >>> potential = BPNNPotential((4,), featurizer=SmoothMomentFeaturizer(n=3), max_iter=1, random_state=0)
    >>> potential = potential.fit([water], {"forces": [[[0.0, 0.0, 0.0]] * 3]})
    >>> found = SmoothEngine(potential, water).compute(water.positions, water.cell.array)
    >>> found.forces.shape, found.energies.shape
    ((3, 3), (3,))
    """

    mode = "energy"

    def __init__(self, model: Any, structure: Any, *, skin: float = SKIN) -> None:
        steps = fitted_steps(model)
        if not is_smooth(steps):
            raise ValueError(
                "model must be a SmoothMomentFeaturizer followed by a BPNNPotential; got "
                f"{', '.join(type(step).__name__ for step in steps)}. TinyNetCalculator takes any pipeline."
            )
        featurizer, regressor = steps
        (target,) = as_structures([structure], name="structure")
        unseen = np.setdiff1d(target.numbers, regressor.species_)
        if len(unseen):
            raise ValueError(
                "structure must hold species that were seen in fit "
                f"({', '.join(map(species_name, regressor.species_))}); got "
                f"{', '.join(map(species_name, unseen))}. Fit on structures that contain them."
            )
        self.reach = float(featurizer.moments_.cutoff)
        self._numbers, self._pbc = target.numbers, target.pbc
        self._list = SkinList(featurizer.moments_, skin)
        shared = regressor._fitted_with["networks"] == "shared"
        keys = np.zeros_like(target.numbers) if shared else target.numbers
        n_columns = featurizer.n_features_out_
        self._parts = [
            _Part.of(regressor.atom_networks_[int(key)], np.flatnonzero(keys == key), n_columns)
            for key in np.unique(keys)
        ]
        self._given: Floats | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return f"<SmoothEngine: {self.mode}, {len(self)} atoms, {self.n_builds} lists>"

    @property
    def n_builds(self) -> int:
        """How often bonds were listed."""
        return self._list.n_builds

    def fits(self, structure: AtomicStructure) -> bool:
        """Whether a structure has these atoms, in this order, and is periodic in the same directions."""
        return self.misfit(structure) is None

    def misfit(self, structure: AtomicStructure) -> str | None:
        """Why a structure needs another engine; None if it does not."""
        same = np.array_equal(structure.numbers, self._numbers) and np.array_equal(structure.pbc, self._pbc)
        return None if same else "it has other atoms, or another periodicity"

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
            If shapes are wrong, numbers are not finite, or atoms coincide.
        """
        geometry = self._list.geometry(self._structure(positions, cell))
        values = geometry.values()
        energies, slopes = np.zeros(len(self)), np.zeros_like(values)
        outside = np.zeros(len(self), dtype=bool)
        for part in self._parts:
            energies[part.rows], slopes[part.rows], outside[part.rows] = part.evaluate(values[part.rows])
        gradient, virials = geometry.pull(slopes)
        known = all(part.network.inputs.limits() is not None for part in self._parts)
        return Evaluation(
            -gradient,
            energy=float(energies.sum()),
            energies=energies,
            virial=virials[0],
            extrapolating=outside if known else None,
        )

    def _structure(self, positions: ArrayLike, cell: ArrayLike) -> AtomicStructure:
        placed, lattice = checked_frame(positions, cell, len(self))
        if self._given is None or not np.array_equal(lattice, self._given):
            # directions without periodicity may have no lattice vector yet
            atoms = Atoms(self._numbers, placed, cell=lattice, pbc=self._pbc)
            (structure,) = as_structures([atoms], name="atoms")
            self._given, self._cell = lattice.copy(), structure.cell
        return AtomicStructure(self._numbers, placed, self._cell, self._pbc)


@dataclass(frozen=True, eq=False)
class _Part:
    """Atoms that share a network; the scaling of its inputs is folded into its first matrix."""

    rows: IntArray
    stack: DenseStack
    center: Floats
    network: AtomNetwork

    @classmethod
    def of(cls, network: AtomNetwork, rows: IntArray, n_columns: int) -> _Part:
        inputs, stack = network.inputs, cast(DenseStack, network.stack).astype(np.float64)
        first, center = np.zeros((n_columns, stack.weights[0].shape[1])), np.zeros(n_columns)
        first[inputs.columns] = stack.weights[0] / inputs.scale[:, None]
        center[inputs.columns] = inputs.offset
        folded = DenseStack((first, *stack.weights[1:]), stack.biases, stack.activations)
        return cls(rows, folded, center, network)

    def evaluate(self, values: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Energies (m,), their slopes by the columns (m, n_columns) and flags (m,) of atoms."""
        outputs = self.stack.layer_outputs(values - self.center)
        factors = self.stack.slope_factors(outputs)
        scale = self.network.energy_scaling.scale
        slopes = np.broadcast_to(scale, outputs[-1].shape)
        for weight, factor in zip(self.stack.weights[::-1], factors[::-1], strict=True):
            slopes = (slopes if factor is None else slopes * factor) @ weight.T
        energies = self.network.column_targets.invert(outputs[-1])[:, 0]
        return energies, slopes, self.network.inputs.outside(values)
