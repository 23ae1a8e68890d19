"""`TinyNetCalculator`: a fitted pipeline as a calculator of ASE, for dynamics, relaxations and phonons.

Two kinds of models exist. One with an energy (`BPNNPotential`) gives the energy and, by the chain rule, its
gradient: forces and stress that belong together. A *direct* one predicts forces as such; they may be
accurate, but are the gradient of nothing.

What is computed, and how fast, is decided by the *engine* behind it: `CompiledModel` for crystals that keep
their bonds, `SmoothEngine` for smooth moments, `PipelineEngine` for everything else; one for each head of the
model (`heads`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from tinynet_sklearn._validation import users_level
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.evaluation import Evaluation, check_ranges, featurizers
from tinynet_sklearn.frames import IntArray
from tinynet_sklearn.heads import Head, JointEngine, heads_of
from tinynet_sklearn.structures import as_structures

__all__ = ["TinyNetCalculator"]

#: What to do where a model without energy was asked for one.
NO_ENERGY = (
    "the model predicts forces alone, which are not the gradient of an energy; fit one with an energy "
    "(BPNNPotential), or use ASE's dynamics with logfile=None and a thermostat, which need forces alone"
)

#: What models with an energy predict.
WITH_ENERGY = ("energy", "free_energy", "energies", "forces", "stress")

#: Values of parameters that are words.
CHOICES = {
    "topology": ("checked", "frozen"),
    "precision": ("double", "single"),
    "on_extrapolation": ("warn", "raise", "ignore"),
}


class TinyNetCalculator(Calculator):  # type: ignore[misc, unused-ignore]
    """Energies, forces and stresses from a fitted pipeline, for ASE.

    Structures may be supercells of the crystal that the model was fitted on: integer multiples of its cell in
    any shape, with the atoms in any order and periodic images (see `CycleMomentFeaturizer.adapted_to`). The
    topology is laid out on the first call, and again when atoms, periodicity or the shape of the cell change.

    Parameters
    ----------
    model : Pipeline or BPNNPotential
        Fitted: a `CycleMomentFeaturizer` (or a FeatureUnion of such) or a `SmoothMomentFeaturizer`, further
        transformers, and a final regressor of energies (``output="all"``), forces, or other targets; or a
        `BPNNPotential` that was fitted on structures. A fitted search (``GridSearchCV``) around one of these
        will do. A final `MultiTargetRegressor` gives forces (with or without energy) and densities of states
        together.
    topology : {"checked", "frozen"}, default="checked"
        For crystals: "checked" raises an error when a bond has become 1.5 times as long as in the reference,
        at next to no cost; "frozen" trusts. Smooth moments have no topology that could be left.
    precision : {"double", "single"}, default="double"
        Of the networks in compiled models.
    on_extrapolation : {"warn", "raise", "ignore"}, default="warn"
        What to do when features of an atom lie beyond those of the training: warn once, raise an error, or
        leave it at ``results["extrapolating"]``.
    n_threads : int, default=1
        For compiled models of more than some ten thousand atoms.
    remove_net_force : bool, default=True
        For models without energy: subtract the mean force, which would set the centre of mass in motion.
        Forces that are gradients have none.
    warn : bool, default=True
        Whether to warn of forces without energy.

    Attributes
    ----------
    mode : {"energy", "direct"}
        Whether forces are the gradient of an energy, or predicted as such.
    compiled : bool
        Whether one compiled path leads from positions to forces (`CompiledModel`): microseconds per atom.
        Other pipelines run step by step.
    implemented_properties : list of str
        With an energy: "energy" and "free_energy" (the same, eV), "energies" of the atoms, "forces"
        (eV/Angstrom), and for crystals "stress" (eV/Angstrom^3, ASE's Voigt order, positive under tension).
        Without: "forces". "ldos", shape (n_atoms, n_energies), from a model of densities of states, or of any
        number of targets but three. ``results`` also holds "extrapolating", one bool per atom, where the
        model knows what it was trained on.
    ldos_grid : EnergyGrid or None
        Energies of ``results["ldos"]``, where the model was fitted on an `LDOS`.

    Raises
    ------
    TypeError
        If the model is of another kind.
    ValueError
        If the pipeline has no featurizer, or a parameter is none of the above.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.

    Warns
    -----
    UserWarning
        Once, if forces have no energy: energy is then not conserved in NVE dynamics, and a relaxation
        minimises nothing. (ASE's optimizers print the energy, and so refuse such a model; dynamics need
        ``logfile=None``.) Once, when atoms leave what the training has seen.

    Notes
    -----
    The parameters can be changed with ``set``; ``todict`` describes the calculator in trajectories. Results
    are kept until positions, cell, periodicity or species change; charges and magnetic moments have no
    influence.

    A new structure is recognised within strains of 15 %; one that has been recognised may then be stretched
    by up to 40 %. One call at a time: threads need calculators of their own.

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
    implemented_properties: ClassVar[list[str]] = list(WITH_ENERGY)
    default_parameters: ClassVar[dict[str, Any]] = {
        "topology": "checked",
        "precision": "double",
        "on_extrapolation": "warn",
        "n_threads": 1,
        "remove_net_force": True,
        "warn": True,
    }
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}
    discard_results_on_any_change = True

    def __init__(
        self,
        model: Any,
        *,
        topology: str = "checked",
        precision: str = "double",
        on_extrapolation: str = "warn",
        n_threads: int = 1,
        remove_net_force: bool = True,
        warn: bool = True,
    ) -> None:
        self.model = model
        self._heads = heads_of(model)
        self._engine: Any = None
        self._has_warned = False
        kinds = [head.gives for head in self._heads]
        _check_heads(self._heads)
        self.mode = "energy" if "energy" in kinds else "direct"
        self.compiled = all(head.compiled for head in self._heads)
        self.ldos_grid: EnergyGrid | None = next((head.grid for head in self._heads if head.grid), None)
        properties = ["forces"] if "forces" in kinds else []
        if self.mode == "energy":
            tells_energies = any(head.with_energies for head in self._heads)
            properties = [name for name in WITH_ENERGY if tells_energies or name != "energies"]
        self.implemented_properties = properties + ["ldos"] * ("ldos" in kinds)  # type: ignore[misc]
        super().__init__(
            topology=topology,
            precision=precision,
            on_extrapolation=on_extrapolation,
            n_threads=n_threads,
            remove_net_force=remove_net_force,
            warn=warn,
        )
        if warn and "forces" in kinds:
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
            If there is no such parameter, or it cannot have that value.
        """
        unknown = sorted(set(parameters) - set(self.default_parameters))
        if unknown:
            raise ValueError(
                f"parameters must be among {', '.join(self.default_parameters)}; got {', '.join(unknown)}. A "
                "calculator keeps its model: make another one for another model."
            )
        for name in {"remove_net_force", "warn"} & set(parameters):
            if not isinstance(parameters[name], bool | np.bool_):
                raise ValueError(f"{name} must be True or False; got {parameters[name]!r}.")
        threads = parameters.get("n_threads", 1)
        if not isinstance(threads, int | np.integer) or isinstance(threads, bool) or threads < 1:
            raise ValueError(f"n_threads must be a positive whole number; got {threads!r}.")
        for head in self._heads:
            check_ranges(parameters.get("on_extrapolation", "ignore"), head.regressor)
        for name, value in parameters.items():
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, CHOICES[name]))}; got {value!r}."
                )
        changed: dict[str, Any] = super().set(**parameters)
        if {"topology", "precision", "n_threads"} & set(changed):
            self._engine = None
        return changed

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Mode, model and parameters as plain text and numbers, for the headers of trajectories."""
        names = [type(step).__name__ for step in self._heads[0].steps[:-1]]
        names.append(" + ".join(type(head.regressor).__name__ for head in self._heads))
        parameters: dict[str, Any] = super().todict(skip_default)
        return {"mode": self.mode, "model": " -> ".join(names), **parameters}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a result, calculated if need be; see ``ase.calculators.calculator.Calculator``.

        Raises
        ------
        PropertyNotImplementedError
            If the model does not predict it.
        """
        if name in WITH_ENERGY and name not in self.implemented_properties:
            if self.mode == "direct" and "forces" in self.implemented_properties:
                raise PropertyNotImplementedError(f"{name} is not available: {NO_ENERGY}.")
            if self.implemented_properties == ["ldos"]:
                n_outputs = self._heads[0].n_outputs
                raise PropertyNotImplementedError(
                    f"{name} is not available: the model predicts {n_outputs} numbers for each atom, "
                    "such as a density of states; they are the property 'ldos'."
                )
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
            If the atoms are no supercell of the crystal that the model was fitted on, or have left its bonds;
            with ``on_extrapolation="raise"``, if atoms are beyond the training data.
        """
        super().calculate(atoms, properties, system_changes)
        if self._engine is None or not {"numbers", "pbc", "cell"}.isdisjoint(system_changes):
            engine, self._engine = self._engine, None
            self._engine = self._engine_for(self.atoms, engine)
        try:
            found = self._engine.compute(self.atoms.positions, self.atoms.cell.array)
        except ValueError as error:
            if not any(map(featurizers, self._heads[0].steps)):
                raise  # no topology that could be left: the message says what is wrong
            raise ValueError(
                f"atoms must keep the bonds and the order that they had in the first call: {error}\n"
                "A simulation that gets there needs a smaller time step, a lower temperature or a better "
                "model; atoms in another order need a calculator of their own."
            ) from error
        if found.extrapolating is not None and found.extrapolating.any():
            self._report_extrapolation(np.flatnonzero(found.extrapolating))
        self.results = self._results(found)

    def _engine_for(self, atoms: Atoms, current: Any) -> Any:
        """What computes for these atoms: the current engine if it fits."""
        (structure,) = as_structures([atoms], name="atoms")
        if current is not None and current.fits(structure):
            return current
        try:
            return self._new_engine(atoms)
        except ValueError as error:
            left = None if current is None else current.misfit(structure)
            if left is None or not left.startswith("its cell"):
                raise
            raise ValueError(
                f"the crystal has left what the model knows: {left} ({error}).\nA simulation that gets there "
                "needs a lower pressure or temperature, a slower barostat, or a better model."
            ) from error

    def _new_engine(self, atoms: Atoms) -> Any:
        options = {name: self.parameters[name] for name in ("precision", "topology", "n_threads")}
        if len(self._heads) == 1:
            return self._heads[0].engine(atoms, **options)
        return JointEngine(self._heads, atoms, **options)

    def _report_extrapolation(self, flagged: IntArray) -> None:
        how = self.parameters["on_extrapolation"]
        message = (
            f"{len(flagged)} of {len(self.atoms)} atoms are in surroundings that the model was not trained "
            f"on, the first one being atom {flagged[0]} ({self.atoms.symbols[flagged[0]]})"
        )
        if how == "raise":
            raise ValueError(
                f"{message}. Train on structures like this one, or set on_extrapolation='warn' to go on."
            )
        if how == "warn" and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{message}. Its predictions there are guesses; results['extrapolating'] tells the atoms, "
                "and on_extrapolation='ignore' is silent.",
                UserWarning,
                stacklevel=users_level(),
            )

    def _results(self, found: Evaluation) -> dict[str, Any]:
        results: dict[str, Any] = {}
        if found.extrapolating is not None:
            results["extrapolating"] = found.extrapolating
        if "ldos" in self.implemented_properties:
            results["ldos"] = found.outputs
        if self.mode == "direct":
            if found.forces is None or "forces" not in self.implemented_properties:
                return results
            if self.parameters["remove_net_force"]:
                found.forces[:] -= found.forces.mean(axis=0)
            return {**results, "forces": found.forces}
        results.update(energy=found.energy, free_energy=found.energy, forces=found.forces)
        if found.energies is not None:
            results["energies"] = found.energies
        if found.virial is not None and self.atoms.pbc.all():
            results["stress"] = found.virial.flat[[0, 4, 8, 5, 2, 1]] / self.atoms.get_volume()
        return results


def _check_heads(heads: Sequence[Head]) -> None:
    """Refuse models whose heads would give the same result twice, or what ASE has no name for."""
    forces = [head.name for head in heads if head.gives != "ldos"]
    curves = [head.name for head in heads if head.gives == "ldos" and head.grid is not None]
    others = [head for head in heads if head.gives == "ldos" and head.grid is None]
    if len(heads) > 1 and others:
        raise ValueError(
            f"model must predict energies, forces and LDOS; {others[0].name!r} predicts "
            f"{others[0].n_outputs} numbers for each atom without energies. Fit it on an LDOS, or take the "
            "other parts: split_model(model)[name]."
        )
    for what, those in (("forces", forces), ("densities of states", curves)):
        if len(those) > 1:
            raise ValueError(
                f"model must predict {what} once; {', '.join(map(repr, those))} all do. Take one of them: "
                "split_model(model)[name]."
            )
