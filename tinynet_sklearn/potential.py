"""`BPNNPotential`: an energy per atom from one small network per species; forces and stress by its slopes.

The class checks, distributes and collects. What it computes lives elsewhere: energies and their slopes in
`energies`, the loss in `energy_objective`, scalings and training loops in `energy_training`, the derivatives
of the features in their `geometry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar

import joblib
import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context, clone
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from tinynet_sklearn._validation import described, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energies import AtomicEnergies, structure_blocks
from tinynet_sklearn.energy_objective import VOIGT
from tinynet_sklearn.energy_training import ENERGY_SOLVERS, composition, flat_weights
from tinynet_sklearn.features import CycleMomentFeaturizer
from tinynet_sklearn.frames import IntArray
from tinynet_sklearn.networks import SMOOTH_ACTIVATIONS
from tinynet_sklearn.potential_targets import PotentialTargets, as_potential_targets
from tinynet_sklearn.potential_training import Material, potential_keys, report_end, train_potential
from tinynet_sklearn.rows import (
    check_finite,
    check_groups,
    check_structure_weights,
    draw_held_out,
    resolved_average,
)
from tinynet_sklearn.structures import is_structure
from tinynet_sklearn.training import AtomNetwork, hidden_sizes
from tinynet_sklearn.workers import check_checkpoint

__all__ = ["BPNNPotential"]

_OUTPUTS = ("forces", "energy", "stress", "energies", "all")


class BPNNPotential(RegressorMixin, BaseEstimator):
    """Behler-Parrinello potential: features of atoms to the energy, with its forces and stress.

    The energy is a sum over atoms, each from a small network of its species on invariant features; forces and
    stress are its exact derivatives. So energy is conserved in dynamics, relaxations have a minimum to find,
    and phonons and elastic constants mean something.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(16, 32)
        Units of the hidden layers; empty for a linear model.
    activation : {"tanh", "sigmoid", "softplus", "linear"}, default="tanh"
        Of the hidden layers ("logistic" and "identity" are accepted, too).
    featurizer : transformer or None, default=None
        Used where structures are passed instead of features: a clone is fitted with the potential. None takes
        ``CycleMomentFeaturizer(coordinates="distances")``. In a Pipeline the step before does its work.
    networks : {"per-species", "per-site", "shared"}, default="per-species"
        One network for each chemical species, each class of equivalent sites, or all atoms.
    energy_weight, force_weight, stress_weight : float, default=1e-3, 1.0, 1e-4
        Weights in the loss, in which every quantity is measured by its own spread in the training data.
        Those without references do not count; 0 leaves a quantity out. A cell has one energy and many forces,
        and each energy pulls at all atoms at once: more weight makes forces *and* energies worse
        (docs/potential.md), except for sets of very different structures.
    solver : {"auto", "adam", "lbfgs"}, default="auto"
        "adam": mini-batches of structures; "lbfgs": all structures at once, until nothing changes. "auto":
        "lbfgs" up to 300 training structures, else "adam".
    alpha : float, default=1e-5
        Weight decay: adds ``alpha * sum(W**2)`` to the loss.
    batch_size : int or "auto", default="auto"
        Structures per step of "adam". "auto" makes about 40 batches of at least 1 and at most 16 structures.
    learning_rate : {"cosine", "constant"}, default="cosine"
        Rate of "adam": falling to zero at `max_iter` along half a cosine, or the same throughout.
    learning_rate_init : float, default=5e-3
        First rate of "adam".
    max_iter : int, default=400
        Epochs of "adam"; iterations of "lbfgs".
    tol : float, default=1e-7
        "lbfgs" has converged when no component of the slope exceeds `tol`. For patience, a loss has improved
        if it fell by more than this fraction.
    early_stopping : bool, default=False
        Hold out structures (whole groups, with the `groups` of `fit`), watch the loss on them and keep the
        weights that were best there.
    validation_fraction : float, default=0.1
        Fraction of the structures to hold out.
    n_iter_no_change : int or None, default=None
        With `early_stopping`: stop after so many iterations without improvement. None trains for `max_iter`.
    scaler : {"standard", "minmax"} or None, default="standard"
        Of the input columns, fitted on the training atoms of each network.
    symmetry_average : bool, int or "auto", default="auto"
        Average each network over the operations of the site group of its atom, in training and prediction;
        a number takes the largest subgroup with at most so many. "auto": all, where the features know their
        site groups. The cost of a prediction grows with the operations.
    warm_start : bool, default=False
        Continue from the weights, the scalings and, where structures are passed, the `featurizer_` of the
        last fit. In a Pipeline the featurizer is fitted anew: its columns must mean what they did.
    n_jobs : int or None, default=None
        Threads. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Initial weights, batches, held-out structures. Equal seeds give equal fits, bit for bit.
    verbose : int, default=0
        1 prints a line about every 2 seconds, 2 every 10th iteration, 3 every one.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the networks in training. Predictions are double precision in any case.
    checkpoint : str or path-like, default=None
        Folder with a file of the whole state of the training, written about every 10 seconds.
    resume : bool or "matching", default=False
        Continue from that file, to the bits that an uninterrupted fit would have given. "matching": many fits
        share the folder, each with a file named after its data and settings, as in `BPNNRegressor`.

    Attributes
    ----------
    species_ : ndarray of shape (n_species,), int
        Atomic numbers seen in `fit`.
    atom_networks_ : dict of int to AtomNetwork
        The networks with their scalings, by atomic number (by site class with ``networks="per-site"``).
    reference_energies_ : dict of str to float
        Energy of an atom of each species, eV, taken off before training: composition explains so much.
    featurizer_ : transformer or None
        What was fitted with the potential, where structures were passed.
    quantities_ : tuple of str
        What was learned: "energy", "forces", "stress".
    history_ : dict of str to ndarray of shape (n_iter,)
        After every iteration "loss", "time" in seconds and, with `early_stopping`, "validation". The loss is
        the fraction of the variance that is not explained, plus the weight decay; with "adam" the mean over
        the batches of an epoch.
    loss_ : float
        Training loss in the iteration whose weights were kept; with "adam" the mean over its batches.
    n_iter_ : int
        Iterations done.
    n_operations_ : int
        Most operations of a site group over which a network is averaged.
    n_features_in_ : int
        Number of columns of X.

    Notes
    -----
    Energies are determined up to a constant per species where only forces were learned: then the mean energy
    of the training atoms of each network is zero. Between structures of different composition such energies
    mean nothing.

    References
    ----------
    J. Behler and M. Parrinello, Generalized neural-network representation of high-dimensional
    potential-energy surfaces, Phys. Rev. Lett. 98, 146401 (2007).

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from tinynet_sklearn import BPNNPotential, CycleMomentFeaturizer, load_batio3
    >>> data = load_batio3()
    >>> embedding = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances")
    >>> model = make_pipeline(embedding, BPNNPotential((4,), max_iter=5, random_state=0))
    >>> model.fit(data.structures[:60], {"energy": data.energies[:60], "forces": data.target[:60]})
    ... # doctest: +ELLIPSIS
    Pipeline(...)
    >>> model.predict(data.structures[60:], output="all")
    <PotentialTargets: 19 structures, energy, forces, stress>
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(SMOOTH_ACTIVATIONS))],
        "featurizer": [None, HasMethods(["fit", "transform"])],
        "networks": [StrOptions({"per-species", "per-site", "shared"})],
        "energy_weight": [Interval(Real, 0, None, closed="left")],
        "force_weight": [Interval(Real, 0, None, closed="left")],
        "stress_weight": [Interval(Real, 0, None, closed="left")],
        "solver": [StrOptions({"auto", *ENERGY_SOLVERS})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "cosine"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, 1, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [None, Interval(Integral, 1, None, closed="left")],
        "scaler": [None, StrOptions({"standard", "minmax"})],
        "symmetry_average": ["boolean", StrOptions({"auto"}), Interval(Integral, 2, None, closed="left")],
        "warm_start": ["boolean"],
        "n_jobs": [
            None,
            Interval(Integral, None, -1, closed="right"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "dtype": [StrOptions({"float64", "float32"})],
        "checkpoint": [None, str, PathLike],
        "resume": ["boolean", StrOptions({"matching"})],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (16, 32),
        activation: str = "tanh",
        *,
        featurizer: Any = None,
        networks: str = "per-species",
        energy_weight: float = 1e-3,
        force_weight: float = 1.0,
        stress_weight: float = 1e-4,
        solver: str = "auto",
        alpha: float = 1e-5,
        batch_size: int | str = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 5e-3,
        max_iter: int = 400,
        tol: float = 1e-7,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = None,
        scaler: str | None = "standard",
        symmetry_average: bool | int | str = "auto",
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        dtype: str = "float32",
        checkpoint: str | PathLike[str] | None = None,
        resume: bool | str = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.featurizer = featurizer
        self.networks = networks
        self.energy_weight = energy_weight
        self.force_weight = force_weight
        self.stress_weight = stress_weight
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.scaler = scaler
        self.symmetry_average = symmetry_average
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.dtype = dtype
        self.checkpoint = checkpoint
        self.resume = resume

    # prefer_skip_nested_validation=False: the featurizer, where there is one, checks its own parameters.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> BPNNPotential:
        """Train the networks.

        Parameters
        ----------
        X : PerAtomArray or list of ase.Atoms or pymatgen Structure
            Features with derivatives, or structures for the `featurizer`.
        y : PotentialTargets, dict, PerAtomArray, list, ndarray of shape (n_structures,) or None, default=None
            A dict has the keys "energy" (n_structures,), "forces" (PerAtomArray or list) and "stress"
            (n_structures, 6), or some of them, in eV, eV/Å and eV/Å^3. Per-atom data alone are forces, one
            number per structure is an energy. None takes what came with the structures: ASE structures that
            were read with their results.
        sample_weight : array-like of shape (n_structures,) or None, default=None
            Weight of each structure.
        groups : array-like of shape (n_structures,) or None, default=None
            Which structures `early_stopping` must hold out together.

        Returns
        -------
        BPNNPotential
            The estimator itself.

        Raises
        ------
        TypeError
            If X or y is of a kind from which structures and atoms cannot be told, or X has no derivatives.
        ValueError
            If y does not fit X, nothing with a positive weight is known, or a file in `checkpoint` does not
            fit; if numbers overflow before anything was learned.
        """
        check_checkpoint(self)
        rng = check_random_state(self.random_state)
        featurizer = None
        if not isinstance(X, PerAtomArray):
            featurizer = self._featurizer_for(X)
            X = featurizer.transform(X)
        atoms = self._checked_atoms(X, reset=True)
        targets = self._checked_targets(y, atoms)
        weight = check_structure_weights(sample_weight, len(atoms))
        weight = np.ones(len(atoms)) if weight is None else weight
        taught = targets.known_of(name for name, share in self._shares().items() if share)
        used = np.flatnonzero((weight > 0) & taught)
        if not len(used):
            raise ValueError(
                "y must hold something to learn of structures with a positive sample_weight; got NaN for all "
                f"{np.count_nonzero(weight)} of them. Pass references of more structures."
            )
        held_out: IntArray = np.zeros(0, dtype=np.intp)
        together = check_groups(groups, len(atoms))
        if self.early_stopping:
            held_out = used[draw_held_out(together[used], self.validation_fraction, rng)]
        train = np.setdiff1d(used, held_out)
        species = np.unique(atoms.species[np.isin(atoms.structure_of_row, used)])
        absent = np.setdiff1d(species, atoms[train].species)
        if len(absent):
            raise ValueError(
                "early_stopping=True must leave structures of every species to train on; all atoms of "
                f"{', '.join(map(species_name, absent))} were drawn for validation. Pass more of them, or "
                "another random_state."
            )
        self._check_shared(targets, atoms)
        previous = self._previous_networks(atoms.shape[1])
        with (
            ThreadPoolExecutor(joblib.effective_n_jobs(self.n_jobs)) as pool,
            threadpool_limits(limits=1, user_api="blas"),
            np.errstate(over="ignore", invalid="ignore"),
        ):
            trained = train_potential(
                Material(atoms, targets, weight, train, held_out), self, previous, rng, pool
            )
        recorder = trained.recorder
        report_end(recorder, "potential")
        # From here on nothing is refused: a fit that fails leaves the last one as it was.
        references = {species_name(z): float(e) for z, e in zip(species, trained.references, strict=True)}
        if previous is not None:  # networks of species that are not in these data stay as they were
            species = np.union1d(getattr(self, "species_", species), species)
            references = getattr(self, "reference_energies_", {}) | references
        self.n_features_in_ = atoms.shape[1]
        self.featurizer_ = featurizer
        self.species_ = species
        self.atom_networks_ = trained.networks
        self.reference_energies_ = references
        self.quantities_ = tuple(
            name for name, share in self._shares().items() if share and getattr(targets, name) is not None
        )
        self.history_ = recorder.history()
        self.loss_ = recorder.kept_loss
        self.n_iter_ = recorder.n_iter
        self._fitted_with = {**self._form(atoms.shape[1]), "symmetry_average": self.symmetry_average}
        self.n_operations_ = self._energies(atoms[used[:1]]).n_operations
        return self

    def predict(self, X: Any, output: str = "forces") -> Any:
        """Predict energies, forces and stresses.

        Parameters
        ----------
        X : PerAtomArray or list of ase.Atoms or pymatgen Structure
            Of the kind that `fit` was given.
        output : {"forces", "energy", "stress", "energies", "all"}, default="forces"
            What to return. A Pipeline passes it on: ``pipeline.predict(structures, output="all")``.

        Returns
        -------
        PerAtomArray or ndarray or PotentialTargets
            "forces": PerAtomArray, eV/Å; "energy": ndarray of shape (n_structures,), eV; "stress": ndarray of
            shape (n_structures, 6), eV/Å^3, NaN without full periodicity; "energies": PerAtomArray with the
            energy of each atom, eV; "all": `PotentialTargets` with energy, forces and stress.

        Raises
        ------
        ValueError
            If X holds a species that `fit` has not seen, or `output` is none of the above.
        TypeError
            If X is not of the kind that `fit` was given, or its features have no derivatives.
        """
        check_is_fitted(self)
        if output not in _OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(map(repr, _OUTPUTS))}; got {output!r}.")
        if not isinstance(X, PerAtomArray):
            if self.featurizer_ is None:
                raise TypeError(
                    "X must be features, as in fit: a PerAtomArray with derivatives; got "
                    f"{described(X)}. Call predict of the Pipeline that was fitted."
                )
            X = self.featurizer_.transform(X)
        atoms = self._checked_atoms(X, reset=False)
        energies = self._energies(atoms)
        stacks = energies.stacks(flat_weights(energies.networks))
        totals, per_atom, gradients, stresses = [], [], [], []
        for block in structure_blocks(np.arange(len(atoms)), atoms.counts):
            found = energies.evaluate(stacks, block)
            totals.append(found.totals)
            per_atom.append(found.energies)
            if output in ("forces", "stress", "all") and atoms.geometry is not None:
                geometry = atoms.geometry[block]
                gradient, virials = geometry.pull(found.slopes)
                gradients.append(-gradient)
                stresses.append(virials[:, *VOIGT] / geometry.volumes[:, None])
        if output == "energy":
            return np.concatenate(totals)
        if output == "energies":
            return PerAtomArray(np.concatenate(per_atom)[:, None], atoms.offsets, atoms.species)
        stress = np.concatenate(stresses)
        if output == "stress":
            return stress
        forces = PerAtomArray(np.concatenate(gradients), atoms.offsets, atoms.species)
        if output == "forces":
            return forces
        return PotentialTargets(np.concatenate(totals), forces, None if np.isnan(stress).all() else stress)

    def score(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination R² of the forces.

        Of the energies per atom where no forces are known, of the stresses where no energies are, either.

        Parameters
        ----------
        X : PerAtomArray or list of structures
            As in `fit`.
        y : object
            As in `fit`.
        sample_weight : array-like of shape (n_structures,) or None, default=None
            Weight of each structure.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If y does not fit X, or holds no known number.
        TypeError
            If X is not of the kind that `fit` was given.
        """
        check_is_fitted(self)
        if not isinstance(X, PerAtomArray) and self.featurizer_ is not None:
            X = self.featurizer_.transform(X)
        atoms = self._checked_atoms(X, reset=False)
        known_targets = as_potential_targets(y, atoms).known
        weight = check_structure_weights(sample_weight, len(atoms))
        weight = np.ones(len(atoms)) if weight is None else weight
        if "forces" in known_targets:
            true, predicted = known_targets["forces"].values, self.predict(atoms).values
            weight = weight[atoms.structure_of_row]
        elif "energy" in known_targets:
            true = (known_targets["energy"] / atoms.counts)[:, None]
            predicted = (self.predict(atoms, output="energy") / atoms.counts)[:, None]
        elif "stress" in known_targets:
            true, predicted = known_targets["stress"], self.predict(atoms, output="stress")
        else:
            raise ValueError(
                f"y must hold at least one known number to score with; got NaN for all {len(atoms)} "
                "structures. Score on structures that have references."
            )
        known = np.isfinite(true).all(axis=1)
        return float(r2_score(true[known], predicted[known], sample_weight=weight[known]))

    def _shares(self) -> dict[str, float]:
        return {"energy": self.energy_weight, "forces": self.force_weight, "stress": self.stress_weight}

    def _featurizer_for(self, X: Any) -> Any:
        """A fitted featurizer of structures: a new one, or that of the fit that is continued."""
        if is_structure(X):
            raise TypeError(f"X must be a list of structures; got one {type(X).__name__}. Pass [structure].")
        if not isinstance(X, Sequence) or not len(X) or not is_structure(X[0]):
            raise TypeError(
                "X must be features with derivatives (a PerAtomArray) or a list of structures; got "
                f"{described(X)}."
            )
        form = CycleMomentFeaturizer(coordinates="distances") if self.featurizer is None else self.featurizer
        before = getattr(self, "featurizer_", None)
        # hashes: a repr leaves out most of a long list, and the positions of a reference structure
        if self.warm_start and before is not None and joblib.hash(clone(before)) == joblib.hash(clone(form)):
            return before  # fitted anew, its columns might mean something else
        return clone(form).fit(X)

    def _checked_atoms(self, X: Any, reset: bool) -> PerAtomArray:
        if not isinstance(X, PerAtomArray) or X.geometry is None:
            raise TypeError(
                "X must be features that know their derivatives; got "
                f"{repr(X) if isinstance(X, PerAtomArray) else described(X)}. Put "
                "CycleMomentFeaturizer(coordinates='distances'), with its default order (and N of 0 or 1 "
                "where bonds fade), directly before the potential: steps in between, such as scalers, lose "
                "them."
            )
        if len(X.values) == 0:
            raise ValueError(f"X must hold at least one atom; got {len(X)} structures with 0 atoms.")
        check_finite(X, "X")
        if not reset:
            validate_data(self, X, reset=False, skip_check_array=True)
            unseen = [species_name(z) for z in np.setdiff1d(X.species, self.species_)]
            if unseen:
                raise ValueError(
                    "X must hold species that were seen in fit "
                    f"({', '.join(map(species_name, self.species_))}); got {', '.join(unseen)}. Fit on "
                    "structures that contain them."
                )
        return X

    def _checked_targets(self, y: Any, atoms: PerAtomArray) -> PotentialTargets:
        targets = as_potential_targets(y, atoms)
        known = targets.known
        if not known:
            raise ValueError(
                f"y must hold at least one known number; got NaN for all {len(atoms)} structures. Pass "
                "energies, forces or stresses of some of them."
            )
        if not any(self._shares()[name] for name in known):
            raise ValueError(
                "y must hold something to learn; energy_weight, force_weight and stress_weight are zero for "
                "all that it holds. Raise one, or pass more."
            )
        if "stress" in known and self.stress_weight and atoms.geometry is not None:
            stressed = np.isfinite(known["stress"]).any(axis=1)
            wrong = np.flatnonzero(stressed & np.isnan(atoms.geometry.volumes))
            if len(wrong):
                raise ValueError(
                    "stress needs structures that are periodic in all directions; structure "
                    f"{wrong[0]} is not. Write NaN for its stress, or set stress_weight=0."
                )
        return PotentialTargets(**known)  # those of weight 0, too: energies set the zero of the energy

    def _check_shared(self, targets: PotentialTargets, atoms: PerAtomArray) -> None:
        """One network for all species has one reference energy: refuse what would need several."""
        if self.networks != "shared" or targets.energy is None or not self.energy_weight:
            return
        shares = composition(atoms, np.unique(atoms.species)) / atoms.counts[:, None]
        if np.ptp(shares, axis=0).max() > 0:
            raise ValueError(
                "networks='shared' has one reference energy for all species and cannot learn energies of "
                "structures of different composition. Use networks='per-species', or energy_weight=0."
            )

    def _previous_networks(self, n_features: int) -> dict[int, AtomNetwork] | None:
        """Networks to continue from."""
        if not self.warm_start or not hasattr(self, "atom_networks_"):
            return None
        before = self._fitted_with
        changed = [name for name, value in self._form(n_features).items() if before.get(name, value) != value]
        if changed:
            raise ValueError(
                f"warm_start=True continues networks of the same form; {', '.join(changed)} changed since "
                "the last fit. Set warm_start=False to begin anew."
            )
        return self.atom_networks_

    def _form(self, n_features: int) -> dict[str, Any]:
        """What a warm start cannot change."""
        return {
            "networks": self.networks,
            "activation": self.activation,
            "hidden_layer_sizes": hidden_sizes(self.hidden_layer_sizes),
            "number of features": n_features,
        }

    def _energies(self, atoms: PerAtomArray) -> AtomicEnergies:
        """Fitted networks on atoms, in double precision."""
        keys = potential_keys(atoms, self._fitted_with["networks"])
        known = np.array(sorted(self.atom_networks_))
        strangers = np.setdiff1d(keys, known)
        if len(strangers):
            raise ValueError(
                f"X must hold sites that were seen in fit ({len(known)} classes); got site {strangers[0]}. "
                "Make the features with the featurizer that made those for fit."
            )
        most = resolved_average(atoms, self._fitted_with["symmetry_average"])
        networks = [self.atom_networks_[int(key)] for key in known]
        return AtomicEnergies(atoms, networks, np.searchsorted(known, keys), most, np.dtype(np.float64))
