"""`PipelineEngine`: any fitted pipeline of structures, step by step.

The general path of `TinyNetCalculator`, for models without a compiled one: several featurizers, scalers
between the steps, sorted entries, committees, regressors of any kind.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import FeatureUnion

from tinynet_sklearn.evaluation import (
    Evaluation,
    assignment,
    featurizers,
    fitted_steps,
    individual_featurizers,
    knows_ranges,
    symmetric_matrix,
)
from tinynet_sklearn.features import CycleMomentFeaturizer
from tinynet_sklearn.multi_target import predicts_energy
from tinynet_sklearn.potential import BPNNPotential
from tinynet_sklearn.reference import lies_on, mismatch
from tinynet_sklearn.regressor import BPNNRegressor
from tinynet_sklearn.structures import AtomicStructure, as_structures

__all__ = ["PipelineEngine", "outside_training"]


class PipelineEngine:
    """A fitted pipeline for one structure.

    Parameters
    ----------
    model : Pipeline, BPNNPotential, or a fitted search around one
    structure : ase.Atoms or pymatgen Structure
        The crystal that its featurizers were fitted on, or a supercell of it.

    Attributes
    ----------
    mode : {"energy", "direct"}
        Whether forces are the gradient of an energy, or predicted as such.

    Raises
    ------
    ValueError
        If the structure is no supercell of the crystal.
    """

    def __init__(self, model: Any, structure: Any) -> None:
        *transformers, self._regressor = fitted_steps(model)
        self.mode = "energy" if predicts_energy(self._regressor) else "direct"
        (target,) = as_structures([structure], name="structure")
        self._numbers, self._pbc = target.numbers, target.pbc
        self._transformers = [_adapted(step, target) for step in transformers]

    def fits(self, structure: AtomicStructure) -> bool:
        """Whether the atoms and the cell are those of the topology."""
        return self.misfit(structure) is None

    def misfit(self, structure: AtomicStructure) -> str | None:
        """Why a structure needs another topology; None if it does not."""
        parts = [part for step in self._transformers for part in featurizers(step)]
        reason = next(filter(None, (mismatch(structure, part.reference_) for part in parts)), None)
        if reason is not None:
            return reason
        # graphs for each structure and smooth moments know no reference
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
            If the structure has left the topology of a featurizer.
        """
        atoms = Atoms(self._numbers, np.asarray(positions), cell=np.asarray(cell), pbc=self._pbc)
        features: Any = [atoms]
        for step in self._transformers:
            features = step.transform(features)
        outside = outside_training(self._regressor, features)
        for step in individual_featurizers(self._transformers):
            # what found no column is not in the features: the regressor cannot tell
            overflowing = step.overflowing([atoms])[0]
            outside = overflowing if outside is None else outside | overflowing
        if self.mode == "direct":
            outputs = np.array(self._regressor.predict(features), dtype=np.float64)
            forces = outputs if outputs.shape[1] == 3 else None
            return Evaluation(forces, outputs=outputs, extrapolating=outside)
        found = self._regressor.predict(features, output="all")
        virial = None
        if found.stress is not None and self._pbc.all():
            virial = symmetric_matrix(found.stress[0]) * atoms.get_volume()
        return Evaluation(
            np.array(found.forces[0], dtype=np.float64),
            energy=float(found.energy[0]),
            virial=virial,
            extrapolating=outside,
        )


def outside_training(regressor: Any, features: Any) -> NDArray[np.bool_] | None:
    """Atoms whose features lie beyond those of the training; None where the model does not know them.

    Parameters
    ----------
    regressor : BPNNRegressor, BPNNPotential or another one
        Fitted.
    features : PerAtomArray
        What it predicts from.
    """
    if not isinstance(regressor, BPNNRegressor | BPNNPotential) or not knows_ranges(regressor):
        return None
    networks = regressor.atom_networks_
    keys = assignment(regressor, features).keys
    outside = np.zeros(len(keys), dtype=np.bool_)
    for key in np.unique(keys):
        rows = keys == key
        outside[rows] = networks[int(key)].inputs.outside(features.values[rows])
    return outside


def _adapted(step: Any, structure: AtomicStructure) -> Any:
    """The step with the topology of ``structure``: itself where it has no topology, or fits as it is."""
    if isinstance(step, FeatureUnion):
        union = copy.copy(step)
        union.transformer_list = [(name, _adapted(part, structure)) for name, part in step.transformer_list]
        return union
    if not isinstance(step, CycleMomentFeaturizer) or step.topology == "each":
        return step
    if lies_on(structure, step.reference_, step.table_.graph):
        return step
    return step.adapted_to(structure)
