"""What a fitted model predicts, one head after the other, and the engines that compute it.

A model has one regressor at its end, or several on the same features (`MultiTargetRegressor`). Each of them,
with the steps before it, is a model of its own: a head. Engines compute one head; `JointEngine` computes all
heads of a model and puts the results together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline

from tinynet_sklearn.compiled import CompiledModel, why_not_compiled
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.evaluation import Evaluation, fitted_steps
from tinynet_sklearn.multi_target import MultiTargetRegressor, predicts_energy
from tinynet_sklearn.pipelines import PipelineEngine
from tinynet_sklearn.smooth_engine import SmoothEngine, is_smooth
from tinynet_sklearn.structures import AtomicStructure

__all__ = ["Head", "JointEngine", "heads_of", "split_model"]


@dataclass(frozen=True, eq=False)
class Head:
    """One regressor of a model with the steps before it.

    Attributes
    ----------
    name : str
        As in `MultiTargetRegressor`; empty if the model has one regressor only.
    model : Pipeline or estimator
        A model by itself.
    steps : list of estimators
        Its fitted steps, the regressor last.
    """

    name: str
    model: Any
    steps: list[Any]

    @property
    def regressor(self) -> Any:
        """What predicts."""
        return self.steps[-1]

    @property
    def gives(self) -> str:
        """What it predicts: "energy" (with forces), "forces" as such, "ldos" (other numbers of targets)."""
        if predicts_energy(self.regressor):
            return "energy"
        return "ldos" if self.grid is not None or self.n_outputs != 3 else "forces"

    @property
    def n_outputs(self) -> int:
        """Numbers that it predicts for each atom; 3 if it does not say."""
        return int(getattr(self._best, "n_outputs_", 3))

    @property
    def grid(self) -> EnergyGrid | None:
        """Energies of the curves that it predicts, where they are known."""
        return getattr(self._best, "target_grid_", None)

    @property
    def _best(self) -> Any:
        """The regressor; of a fitted search, what it has found."""
        return getattr(self.regressor, "best_estimator_", self.regressor)

    @property
    def compiled(self) -> bool:
        """Whether there is one compiled path for it."""
        return why_not_compiled(self.steps) is None

    @property
    def with_energies(self) -> bool:
        """Whether its engine tells the energies of atoms."""
        return self.gives == "energy" and (self.compiled or is_smooth(self.steps))

    def engine(self, structure: Any, **options: Any) -> Any:
        """What computes it for the atoms of a structure; options are those of `CompiledModel`."""
        if self.compiled:
            return CompiledModel(self.model, structure, **options)
        return (SmoothEngine if is_smooth(self.steps) else PipelineEngine)(self.model, structure)


def heads_of(model: Any) -> list[Head]:
    """All heads of a model of structures.

    Parameters
    ----------
    model : Pipeline, BPNNPotential fitted on structures, or a fitted search around one of these

    Raises
    ------
    TypeError, ValueError, NotFittedError
        As `fitted_steps`.
    """
    *before, last = fitted_steps(model)
    if not isinstance(last, MultiTargetRegressor):
        return [Head("", model, [*before, last])]
    names = [name for name, _ in last.regressors]
    pipeline = getattr(model, "best_estimator_", model)
    transformers = [pair for pair in pipeline.steps[:-1] if pair[1] not in (None, "passthrough")]
    return [
        Head(name, Pipeline([*transformers, (name, part)]), [*before, part])
        for name, part in zip(names, last.regressors_, strict=True)
    ]


def split_model(model: Any) -> dict[str, Any]:
    """Models of the single kinds of targets of a fitted pipeline that ends in a `MultiTargetRegressor`.

    They share the fitted steps with it, nothing is copied: what takes a model of forces alone, such as
    LAMMPS, takes ``split_model(model)["forces"]``.

    Parameters
    ----------
    model : Pipeline, or a fitted search around one

    Returns
    -------
    dict of str to Pipeline

    Raises
    ------
    TypeError
        If the model does not end in a `MultiTargetRegressor`.
    """
    heads = heads_of(model)
    if not heads[0].name:
        raise TypeError(
            "model must end in a MultiTargetRegressor; got one that ends in a "
            f"{type(heads[0].regressor).__name__}, which predicts one kind of targets only."
        )
    return {head.name: head.model for head in heads}


class JointEngine:
    """All heads of a model, for one structure.

    Parameters
    ----------
    heads : sequence of Head
        One of them with energy or forces at most, and one with curves.
    structure : ase.Atoms or pymatgen Structure
        The crystal that the model was fitted on, or a supercell of it.
    **options
        Those of `CompiledModel`.
    """

    def __init__(self, heads: Sequence[Head], structure: Any, **options: Any) -> None:
        self._parts = [(head.gives, head.engine(structure, **options)) for head in heads]

    def fits(self, structure: AtomicStructure) -> bool:
        """Whether a structure has these atoms in about this cell, so that no other layout is needed."""
        return self.misfit(structure) is None

    def misfit(self, structure: AtomicStructure) -> str | None:
        """Why a structure needs another layout; None if it does not."""
        return next(filter(None, (engine.misfit(structure) for _, engine in self._parts)), None)

    def compute(self, positions: ArrayLike, cell: ArrayLike) -> Evaluation:
        """Evaluate all heads.

        Parameters
        ----------
        positions : array-like of shape (n_atoms, 3)
            Angstrom; atoms may be in any periodic image.
        cell : array-like of shape (3, 3)
            Lattice vectors as rows, Angstrom.

        Returns
        -------
        Evaluation
            `outputs` are the curves, if there is a head of such; atoms extrapolate where one head does.

        Raises
        ------
        ValueError
            If the structure has left the topology.
        """
        found = {gives: engine.compute(positions, cell) for gives, engine in self._parts}
        flags = [part.extrapolating for part in found.values() if part.extrapolating is not None]
        main = found.get("energy", found.get("forces"))
        outputs = found["ldos"].outputs if "ldos" in found else None
        joint = Evaluation(None, outputs=outputs) if main is None else replace(main, outputs=outputs)
        return replace(joint, extrapolating=np.logical_or.reduce(flags) if flags else None)
