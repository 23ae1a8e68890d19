"""`TinyNetCalculator`: a fitted pipeline as a calculator of ASE, for dynamics, relaxations and phonons.

Two kinds of models exist. One with an energy (``predict(features, output="all")``) gives the energy and, by
the chain rule, its gradient: forces and stress that belong together. A *direct* one predicts forces as such;
they may be accurate, but are the gradient of nothing.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import described
from tinynet_sklearn.features import CycleMomentFeaturizer
from tinynet_sklearn.reference import lay_onto, mismatch
from tinynet_sklearn.smooth import SmoothMomentFeaturizer
from tinynet_sklearn.structures import AtomicStructure, as_structures

__all__ = ["TinyNetCalculator"]

#: What to do where a model without energy was asked for one.
NO_ENERGY = (
    "the model predicts forces alone, which are not the gradient of an energy; fit one with an energy "
    "(BPNNPotential), or use ASE's dynamics with logfile=None and a thermostat, which need forces alone"
)


class TinyNetCalculator(Calculator):  # type: ignore[misc, unused-ignore]
    """Energies, forces and stresses from a fitted pipeline, for ASE.

    Structures may be supercells of the crystal that the model was fitted on: integer multiples of its cell in
    any shape, with the atoms in any order and periodic images (see `CycleMomentFeaturizer.adapted_to`). The
    topology is laid out on the first call, and again when atoms, periodicity or the shape of the cell change.

    Parameters
    ----------
    model : Pipeline or BPNNPotential
        Fitted: a `CycleMomentFeaturizer` (or a FeatureUnion of such) or a `SmoothMomentFeaturizer`, further
        transformers, and a final
        regressor of energies (``output="all"``) or forces; or a `BPNNPotential` that was fitted on
        structures. A fitted search (``GridSearchCV``) around one of these will do.
    remove_net_force : bool, default=True
        For models without energy: subtract the mean force, which would set the centre of mass in motion.
        Forces that are gradients have none.
    warn : bool, default=True
        Whether to warn of a model without energy.

    Attributes
    ----------
    mode : {"energy", "direct"}
        Whether forces are the gradient of an energy, or predicted as such.
    implemented_properties : list of str
        With an energy: "energy" and "free_energy" (the same, eV), "forces" (eV/Angstrom), and for crystals
        "stress" (eV/Angstrom^3, ASE's Voigt order, positive under tension). Without: "forces".

    Raises
    ------
    TypeError
        If the model is of another kind.
    ValueError
        If the pipeline has no featurizer, or predicts something else than forces.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.

    Warns
    -----
    UserWarning
        Once, if the model has no energy: energy is then not conserved in NVE dynamics, and a relaxation
        minimises nothing. (ASE's optimizers print the energy, and so refuse such a model; dynamics need
        ``logfile=None``.)

    Notes
    -----
    The parameters can be changed with ``set``; ``todict`` describes the calculator in trajectories. Results
    are kept until positions, cell, periodicity or species change; charges and magnetic moments have no
    influence.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from tinynet_sklearn import BPNNPotential, CycleMomentFeaturizer, TinyNetCalculator, load_moo3
    >>> data = load_moo3()
    >>> model = make_pipeline(
    ...     CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances"),
    ...     BPNNPotential((4,), max_iter=2, random_state=0),
    ... )
    >>> model = model.fit(data.structures, {"energy": data.energies, "forces": data.target})
    >>> supercell = data.structures[0] * (2, 1, 2)
    >>> supercell.calc = TinyNetCalculator(model)
    >>> supercell.get_forces().shape, supercell.get_stress().shape
    ((64, 3), (6,))
    """

    name = "tinynet"
    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]
    default_parameters: ClassVar[dict[str, Any]] = {"remove_net_force": True, "warn": True}
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}
    discard_results_on_any_change = True

    def __init__(self, model: Any, *, remove_net_force: bool = True, warn: bool = True) -> None:
        steps = _steps(model)
        self.model = model
        self._transformers, self._regressor = steps[:-1], steps[-1]
        self._adapted: list[Any] | None = None
        self.mode = (
            "energy" if "output" in inspect.signature(self._regressor.predict).parameters else "direct"
        )
        if self.mode == "direct":
            self.implemented_properties = ["forces"]  # type: ignore[misc]
            _check_width(getattr(self._regressor, "n_outputs_", 3))
        super().__init__(remove_net_force=remove_net_force, warn=warn)
        if warn and self.mode == "direct":
            message = (
                "the model predicts forces that are not the gradient of an energy: NVE dynamics will not "
                "conserve energy, and a relaxation minimises nothing. Use a thermostat, or a model with an "
                "energy (BPNNPotential); TinyNetCalculator(model, warn=False) is silent."
            )
            warnings.warn(message, UserWarning, stacklevel=2)

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Change parameters by name; results are forgotten if any differs.

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        unknown = sorted(set(parameters) - set(self.default_parameters))
        if unknown:
            raise ValueError(
                f"parameters must be among {', '.join(self.default_parameters)}; got {', '.join(unknown)}. A "
                "calculator keeps its model: make another one for another model."
            )
        changed: dict[str, Any] = super().set(**parameters)
        return changed

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Mode, model and parameters as plain text and numbers, for the headers of trajectories."""
        names = [type(step).__name__ for step in (*self._transformers, self._regressor)]
        parameters: dict[str, Any] = super().todict(skip_default)
        return {"mode": self.mode, "model": " -> ".join(names), **parameters}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a result, calculated if need be; see ``ase.calculators.calculator.Calculator``.

        Raises
        ------
        PropertyNotImplementedError
            If the model does not predict it.
        """
        if self.mode == "direct" and name in TinyNetCalculator.implemented_properties and name != "forces":
            raise PropertyNotImplementedError(f"{name} is not available: {NO_ENERGY}.")
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("forces",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Calculate everything that the model predicts; called by ASE.

        Parameters
        ----------
        atoms : ase.Atoms
        properties : sequence of str
            Ignored: a model gives all that it has at once.
        system_changes : sequence of str
            What differs from the last call.

        Raises
        ------
        ValueError
            If the atoms are no supercell of the crystal that the model was fitted on, or have left its bonds.
        """
        super().calculate(atoms, properties, system_changes)
        if self._adapted is None or not {"numbers", "pbc", "cell"}.isdisjoint(system_changes):
            current, self._adapted = self._adapted, None
            self._adapted = self._transformers_for(self.atoms, current)
        features: Any = [self.atoms]
        try:
            for step in self._adapted:
                features = step.transform(features)
        except ValueError as error:
            if not any(map(_featurizers, self._adapted)):
                raise  # no topology that could be left: the message says what is wrong
            raise ValueError(
                f"atoms must keep the bonds and the order that they had in the first call: {error}\n"
                "A simulation that gets there needs a smaller time step, a lower temperature or a better "
                "model; atoms in another order need a calculator of their own."
            ) from error
        self.results = self._results(features)

    def _transformers_for(self, atoms: Atoms, current: list[Any] | None) -> list[Any]:
        """Transformers whose topology is that of ``atoms``: the current ones if they fit."""
        (structure,) = as_structures([atoms], name="atoms")
        if current is not None and all(_shares_cell(step, structure) for step in current):
            return current
        return [_adapted(step, structure) for step in self._transformers]

    def _results(self, features: Any) -> dict[str, Any]:
        if self.mode == "direct":
            forces = np.array(self._regressor.predict(features), dtype=np.float64)
            _check_width(forces.shape[-1])
            if self.parameters["remove_net_force"]:
                forces -= forces.mean(axis=0)
            return {"forces": forces}
        predicted = self._regressor.predict(features, output="all")
        energy = float(predicted.energy[0])
        results = {
            "energy": energy,
            "free_energy": energy,
            "forces": np.array(predicted.forces[0], dtype=np.float64),
        }
        if predicted.stress is not None and self.atoms.pbc.all():
            results["stress"] = np.array(predicted.stress[0], dtype=np.float64)
        return results


def _steps(model: Any) -> list[Any]:
    """Fitted steps of a pipeline, the regressor last."""
    pipeline = getattr(model, "best_estimator_", model)
    inside = getattr(pipeline, "featurizer_", None)
    if inside is not None:
        before = [step for _, step in inside.steps] if isinstance(inside, Pipeline) else [inside]
        return [*before, pipeline]
    if not isinstance(pipeline, Pipeline):
        raise TypeError(
            f"model must be fitted on structures; got {described(model)} without featurizer. Use "
            "make_pipeline(CycleMomentFeaturizer(...), BPNNPotential(...)) and fit it."
        )
    steps = [(name, step) for name, step in pipeline.steps if step is not None and step != "passthrough"]
    if not any(_featurizers(step) or isinstance(step, SmoothMomentFeaturizer) for _, step in steps):
        names = ", ".join(type(step).__name__ for _, step in steps)
        raise ValueError(
            f"model must begin with a CycleMomentFeaturizer; got a pipeline of {names}. Put the featurizer "
            "into the pipeline and fit it on structures."
        )
    for name, step in [*steps[:1], steps[-1]]:
        try:
            check_is_fitted(step)
        except NotFittedError:
            raise NotFittedError(
                f"model must be fitted; its step {name!r} ({type(step).__name__}) is not. Call "
                "model.fit(structures, targets) first, or read a fitted model with load_model."
            ) from None
    return [step for _, step in steps]


def _featurizers(step: Any) -> list[CycleMomentFeaturizer]:
    """Featurizers with a topology in a step."""
    if isinstance(step, FeatureUnion):
        return [found for _, part in step.transformer_list for found in _featurizers(part)]
    return [step] if isinstance(step, CycleMomentFeaturizer) else []


def _check_width(width: int) -> None:
    if width != 3:
        raise ValueError(
            f"model must predict forces, 3 numbers for each atom; got one that predicts {width}, such as a "
            "density of states. Fit one on forces; model.predict([atoms]) gives other targets."
        )


def _shares_cell(step: Any, structure: AtomicStructure) -> bool:
    """Whether the atoms and the cell are those of the topology."""
    return all(mismatch(structure, part.reference_) is None for part in _featurizers(step))


def _adapted(step: Any, structure: AtomicStructure) -> Any:
    """The step with the topology of ``structure``: itself where it has no topology, or fits as it is."""
    if isinstance(step, FeatureUnion):
        union = copy.copy(step)
        union.transformer_list = [(name, _adapted(part, structure)) for name, part in step.transformer_list]
        return union
    if not isinstance(step, CycleMomentFeaturizer):
        return step
    if mismatch(structure, step.reference_) is None:
        graph = step.table_.graph
        relaxed = graph.bond_lengths(step.reference_.positions, step.reference_.cell)
        if lay_onto(structure, step.reference_, graph, relaxed)[2] is None:
            return step
    return step.adapted_to(structure)
