"""`BPNNRegressor`: one ultrasmall network per chemical species, as a scikit-learn regressor.

The class checks, distributes and collects. What it computes lives elsewhere: networks and scalings in
`networks`, training loops in `solvers`, site frames and symmetry copies in `rows`, the way of one network
from its rows to its start in `training`, that of all of them to the end in `workers`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from tinynet_sklearn._validation import described, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.ldos import LDOS
from tinynet_sklearn.ldos_metrics import r2_of_targets
from tinynet_sklearn.mapped_rows import is_mapped
from tinynet_sklearn.networks import ACTIVATIONS, DenseStack, keras_model
from tinynet_sklearn.recorder import Recorder
from tinynet_sklearn.rows import (
    anonymous,
    check_finite,
    check_groups,
    check_structure_weights,
    draw_held_out,
    is_per_atom,
    lost_site_groups,
    network_keys,
    per_atom_targets,
    refuse_structures,
    require_symmetry,
    resolved_average,
    resolved_copies,
)
from tinynet_sklearn.scaling import row_blocks
from tinynet_sklearn.solvers import FAST_DECREASE, SOLVERS, late_decrease
from tinynet_sklearn.target_maps import LinearTargets
from tinynet_sklearn.target_settings import (
    check_combination,
    check_curve_settings,
    check_vectors,
    combines,
    n_vectors_of,
)
from tinynet_sklearn.training import (
    AtomNetwork,
    Samples,
    Task,
    hidden_sizes,
    label_of,
    prepare_task,
)
from tinynet_sklearn.vector_targets import check_vectors_point
from tinynet_sklearn.workers import check_checkpoint, open_files, report_divergence, train_tasks

__all__ = ["BPNNRegressor"]

#: What a warm start cannot change, besides the sizes of the layers.
CONTINUED = ("networks", "activation", "dtype", "n_components", "cumulative_weight", "output")


#: Rows of features in a file that `predict` reads at a time.
MAPPED_ROWS = 4096

#: What to warn of where columns are known to be the same however a structure is turned.
BLIND = (
    "y has 3 columns, as forces have, but X holds columns that do not change when a structure is turned, "
    "and neither site frames nor vectors: no direction can be learned from them. Use "
    "SmoothMomentFeaturizer(n_vector=3), or CycleMomentFeaturizer with coordinates='vectors'; if the three "
    "columns are no vector, target='scalar' silences this."
)


class BPNNRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Behler-Parrinello regressor: features of atoms to targets of atoms, one small network per species.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(16, 32)
        Units of the hidden layers; empty for a linear model.
    activation : str, default="tanh"
        Of the hidden layers: "tanh", "sigmoid" ("logistic"), "relu", "softplus" or "linear" ("identity").
    networks : {"per-species", "per-site", "shared"}, default="per-species"
        One network for each chemical species; one for each class of equivalent sites, which is better
        where atoms of one species stand in different surroundings (needs features with site frames); or
        one for all atoms.
    solver : {"auto", "varpro", "lbfgs", "lm", "adam"}, default="auto"
        "varpro": L-BFGS over the hidden layers, with the linear output layer solved exactly at every point
        (variable projection). "lbfgs": L-BFGS over all weights. "lm": Levenberg-Marquardt, for small
        networks. "adam": mini-batches. "auto": for each network "lm" if it has at most 300 weights and 1,000
        rows and is not averaged over a site group, "lbfgs" with `build_fn` or without hidden layers, else
        "varpro"; `verbose` says which and why.
    alpha : float, default=3e-4
        Weight decay: adds ``alpha * sum(W**2)`` to the mean squared error of the scaled targets.
    batch_size : int or "auto", default="auto"
        Structures (rows of a plain table) per step of "adam"; "auto" takes 16 structures or 200 rows.
    learning_rate : {"constant", "cosine"}, default="constant"
        Rate of "adam": the same throughout, or falling to zero at `max_iter` along half a cosine.
    learning_rate_init : float, default=1e-3
        First rate of "adam".
    max_iter : int, default=400
        Iterations; epochs of "adam".
    tol : float, default=1e-5
        All solvers but "adam" have converged when no component of the gradient exceeds `tol`. For patience, a
        loss has improved if it fell by more than this fraction.
    early_stopping : bool, default=False
        Hold out structures (whole groups, with the `groups` of `fit`), watch the loss on them and keep the
        weights that were best there.
    validation_fraction : float, default=0.1
        Fraction of the structures to hold out.
    n_iter_no_change : int or None, default=50
        Stop after so many iterations without improvement of the validation loss ("adam" without
        `early_stopping`: of the training loss). None trains for `max_iter` and only keeps the best weights.
    scaler : {"standard", "minmax"} or None, default="standard"
        Of the input columns, fitted on the training rows of each network. Columns that are constant there are
        dropped in any case.
    target_scaler : {"auto", "standard", "common"} or None, default="auto"
        Of the targets. "standard": zero mean and unit variance per column, for vectors with one common scale.
        "common": zero mean and one scale for all columns, so that errors count in the unit of the targets and
        columns without variance stay so. "auto": "common" for an `LDOS` and with `cumulative_weight`, else
        "standard".
    n_components : int, float or None, default=None
        Learn so many principal components of the targets of each network, or as many as explain this fraction
        of their variance, instead of all columns: a curve of hundreds of energies is described by a few
        dozen numbers, and networks train the faster for it. Predictions have all columns.
    cumulative_weight : float, default=0.0
        For curves: adds so many times the squared error of the integral up to every energy to that of the
        curve (1/eV^2 for an `LDOS`; otherwise columns are one apart). A peak that is predicted beside its
        place then costs less than one that is missing.
    output : {"linear", "positive", "normalized"}, default="linear"
        "positive": predictions cannot be negative. "normalized": nor can they, and their integral over the
        energies is the mean one of the training atoms of the network, exactly: species with different counts
        need networks of their own. Such networks are trained by "lbfgs", whose targets are not centred.
    target : {"auto", "vector", "scalar"}, default="auto"
        Whether targets are vectors. They are learned in the site frames of the features, or, where X carries
        vectors instead, as combinations of these with coefficients from the network, trained by "lbfgs";
        either way predictions turn with the structure. "auto": if they are 3 wide and X carries site frames
        or vectors.
    symmetry_copies : int, "auto" or "all", default="auto"
        Train on every row under so many operations of its site group, or under all. "auto" is 1 where
        networks are averaged, since copies of a row are then equal; else 8 where the features know their
        site groups, and 1 elsewhere.
    symmetry_average : bool, int or "auto", default="auto"
        Average each network over the operations of the site group, in training and prediction: its
        predictions then obey the symmetry of the site exactly, and it need not learn it. Time and the cost
        of a prediction grow with the operations, 48 for a cubic site; a number takes the largest subgroup
        with at most so many. "auto": all, where the features know their site groups; a warning says so if
        a step before the regressor, such as a scaler, has cost them these.
    symmetry_penalty : float, default=0.03
        Where networks are averaged: weight of the mean squared distance between what a network says of the
        images of an atom and their average. 0 trains the average alone, which learns fastest and overfits
        most; 1 trains every image by itself, as copies of the rows would. "lm" trains with 0.
    build_fn : callable or None, default=None
        ``build_fn(n_features, n_outputs, species)`` returning a Keras model to train instead of
        `hidden_layer_sizes`; `species` is an atomic number, 0 for a shared network or a plain table, and
        `n_features` counts the columns that vary. It sees scaled rows and targets.
    warm_start : bool, default=False
        Continue from the weights and scalings of the last fit, "adam" with the moments of its last step.
    n_jobs : int or None, default=None
        Networks trained side by side, in threads unless a joblib backend is set. The result does not depend
        on it.
    random_state : int, RandomState instance or None, default=None
        Initial weights, batches, held-out structures, symmetry operations. Equal seeds give equal fits, bit
        for bit.
    verbose : int, default=0
        1 prints for each network a line about every 2 seconds, with the time left to `max_iter`, and a last
        one; 2 prints every 10th iteration and 3 every one.
    dtype : {"float64", "float32"}, default="float64"
        Precision of the network; float32 halves time and memory.
    checkpoint : str or path-like, default=None
        Folder, created if need be, in which each network keeps a file with the whole state of its training,
        written at the end and about every 10 seconds until then. Needs a `random_state`. One fit at a time
        and folder: the members of a committee or the candidates of a search would replace each other's files,
        unless ``resume="matching"``.
    resume : bool or "matching", default=False
        Continue from the files in `checkpoint` where there are any, to the bits that an uninterrupted fit
        would have given; networks that were done are not trained again. `max_iter` may be raised meanwhile
        (not with ``learning_rate="cosine"``); anything else that differs is refused. False replaces the
        files. "matching" names the files after all that decides the result, so that any number of fits share
        the folder, at the same time, too: a fit that was done before is read, one that was cut off goes on,
        any other is trained and kept. Searches and committees can be killed at any moment and run again.

    Attributes
    ----------
    species_ : ndarray of shape (n_species,), int
        Atomic numbers seen in `fit`; 0 alone for a plain table.
    atom_networks_ : dict of int to AtomNetwork
        The networks with their scalings, as plain arrays, by atomic number (by site class with
        ``networks="per-site"``, as everywhere below).
    history_ : dict of int to dict of str to ndarray of shape (n_iter,)
        By atomic number: after every iteration "loss", "time" in seconds since the training of that network
        began (a resumed one goes on counting; epochs of "adam" that end in one compiled call share theirs)
        and, with `early_stopping`, "validation".
    loss_ : float
        Training loss of the weights that were kept, averaged over the networks.
    n_iter_ : int
        Most iterations that any network took.
    n_outputs_ : int
        Width of the targets.
    explained_variance_ratio_ : dict of int to ndarray of shape (n_components,)
        With `n_components`: share of the variance of the training targets that each component explains.
    target_grid_ : EnergyGrid or None
        Energies of the targets, if they were an `LDOS`; predictions then are, too.
    target_is_vector_ : bool
        Whether the targets were learned as vectors.
    n_operations_ : int
        Most operations of a site group over which a network is averaged; 1 without averaging.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, if X is a data frame.

    Notes
    -----
    `predict` is NumPy on exported weights and imports TensorFlow only for a `build_fn` model that is more
    than dense layers. BLAS runs on one thread while fitting, so that sums have one order; use `n_jobs`.

    Ctrl-C ends the training: the best weights so far stay and a warning says how far each network had come.
    So does a loss that is no longer finite; the warning then names the largest number that went in.
    A fixed budget of iterations is the intended use: reaching `max_iter` gives a `ConvergenceWarning` only if
    the training loss still fell by more than 5 % over the last tenth of the iterations, and never with
    `early_stopping`, where the validation structures decide which weights are kept.

    References
    ----------
    J. Behler and M. Parrinello, Generalized neural-network representation of high-dimensional
    potential-energy surfaces, Phys. Rev. Lett. 98, 146401 (2007).

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import BPNNRegressor, PerAtomArray
    >>> bond = [np.array([[d], [-d]]) for d in np.linspace(-1, 1, 30)]
    >>> X = PerAtomArray.from_list(bond, species=[[8, 1]] * 30)
    >>> y = [np.sin(d) for d in bond]
    >>> net = BPNNRegressor(hidden_layer_sizes=(4,), early_stopping=True, random_state=0).fit(X, y)
    >>> bool(net.score(X, y) > 0.99)
    True
    >>> net.predict(X[:1])
    <PerAtomArray: 1 structures, 2 atoms, 1 columns, species 1 8, float64, lab frame>
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "networks": [StrOptions({"per-species", "per-site", "shared"})],
        "solver": [StrOptions({"auto", *SOLVERS})],
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
        "target_scaler": [None, StrOptions({"auto", "standard", "common"})],
        "n_components": [
            None,
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
        ],
        "cumulative_weight": [Interval(Real, 0, None, closed="left")],
        "output": [StrOptions({"linear", "positive", "normalized"})],
        "target": [StrOptions({"auto", "vector", "scalar"})],
        "symmetry_copies": [StrOptions({"auto", "all"}), Interval(Integral, 1, None, closed="left")],
        "symmetry_average": [
            "boolean",
            StrOptions({"auto"}),
            Interval(Integral, 2, None, closed="left"),
        ],
        "symmetry_penalty": [Interval(Real, 0, 1, closed="both")],
        "build_fn": [None, callable],
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

    _keras_models: dict[int, Any] | None

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (16, 32),
        activation: str = "tanh",
        *,
        networks: str = "per-species",
        solver: str = "auto",
        alpha: float = 3e-4,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-3,
        max_iter: int = 400,
        tol: float = 1e-5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = 50,
        scaler: str | None = "standard",
        target_scaler: str | None = "auto",
        n_components: int | float | None = None,
        cumulative_weight: float = 0.0,
        output: str = "linear",
        target: str = "auto",
        symmetry_copies: int | str = "auto",
        symmetry_average: bool | int | str = "auto",
        symmetry_penalty: float = 0.03,
        build_fn: Any = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        dtype: str = "float64",
        checkpoint: str | PathLike[str] | None = None,
        resume: bool | str = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.networks = networks
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
        self.target_scaler = target_scaler
        self.n_components = n_components
        self.cumulative_weight = cumulative_weight
        self.output = output
        self.target = target
        self.symmetry_copies = symmetry_copies
        self.symmetry_average = symmetry_average
        self.symmetry_penalty = symmetry_penalty
        self.build_fn = build_fn
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.dtype = dtype
        self.checkpoint = checkpoint
        self.resume = resume

    @classmethod
    def published(cls, **overrides: Any) -> BPNNRegressor:
        """Regressor with the training recipe of the paper.

        One 16x32 tanh network for all atoms, inputs scaled to [0, 1], targets as they are, Adam at 1e-4 on
        batches of 16 structures without weight decay, and the weights kept that were best on the validation
        structures. One seventh of the structures validates: with an eighth kept aside for testing that
        is the paper's 75 / 12.5 / 12.5.

        Parameters
        ----------
        **overrides
            Any parameter of the class, above all `max_iter` (100,000 epochs here, up to 4,000,000 in the
            paper).

        Returns
        -------
        BPNNRegressor

        References
        ----------
        O. Shafir and I. Grinberg, Bonding-aware Materials Representation for Deep Learning Atomistic Models,
        arXiv:2306.08285.
        """
        recipe: dict[str, Any] = {
            "networks": "shared",
            "solver": "adam",
            "alpha": 0.0,
            "batch_size": 16,
            "learning_rate_init": 1e-4,
            "max_iter": 100_000,
            "tol": 0.0,
            "early_stopping": True,
            "validation_fraction": 1 / 7,
            "n_iter_no_change": None,
            "scaler": "minmax",
            "target_scaler": None,
            "symmetry_copies": 1,
            "symmetry_average": False,
            "dtype": "float32",
        }
        return cls(**(recipe | overrides))

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> BPNNRegressor:
        """Train the networks.

        Parameters
        ----------
        X : PerAtomArray or array-like of shape (n_samples, n_features)
            Features: rows of atoms counted by structure, or a plain table.
        y : PerAtomArray, LDOS, list of array-like of shape (n_atoms, k) or (n_atoms,), or array-like
            Targets of the same atoms, vectors in the laboratory frame (or in that of ``y.frames``); for a
            plain table of shape (n_samples,) or (n_samples, k).
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each structure, or of each row of a plain table.
        groups : array-like of shape (n_samples,) or None, default=None
            Which structures `early_stopping` must hold out together: the runs of a molecular dynamics, or
            blocks of them (`time_blocks`), of which single frames would tell too much about each other.

        Returns
        -------
        BPNNRegressor
            The estimator itself.

        Raises
        ------
        TypeError
            If X or y is of a kind from which structures and atoms cannot be told.
        ValueError
            If y does not fit X, a number is not finite, or an option asks for what X does not carry; if a
            file in `checkpoint` does not fit; if numbers overflow before anything was learned.
        """
        check_checkpoint(self)
        rng = check_random_state(self.random_state)
        before = getattr(self, "n_features_in_", None)
        atoms, targets, one_dimensional = self._checked_fit_input(X, y)
        grid = y.grid if isinstance(y, LDOS) else None
        previous = self._previous_networks(targets.shape[1], grid, before)
        samples = self._samples(atoms, targets, grid, sample_weight, groups, rng)
        n_vectors = n_vectors_of(samples.atoms) if samples.combined else 0
        if previous and n_vectors != getattr(self, "_n_vectors", n_vectors):
            raise ValueError(
                f"warm_start=True continues networks of {self._n_vectors} vectors per atom; got "
                f"{n_vectors}. Set warm_start=False to begin anew."
            )
        check_curve_settings(self, samples.vector, targets.shape[1], len(np.unique(atoms.species)))
        keys = [int(key) for key in np.unique(network_keys(samples.atoms, self.networks))]
        members = [tuple(keys)] if self.networks == "shared" else [(key,) for key in keys]
        tasks = [prepare_task(group, samples, previous.get(group[0]), self, rng) for group in members]
        if self.checkpoint is not None:
            open_files(tasks, self.solver, Path(self.checkpoint), self.resume)
        trained = train_tasks(tasks, self.solver, self.n_jobs)
        report_divergence(tasks, trained, samples, self.networks, self.solver)
        # From here on nothing is refused: a fit that fails leaves the last one as it was.
        self._one_dimensional = one_dimensional
        self._framed = samples.framed
        self._combined = samples.combined
        self._n_vectors: int = n_vectors
        self._most_operations = samples.most_operations
        self._fitted_with = {name: getattr(self, name) for name in CONTINUED}
        self.target_is_vector_ = samples.vector
        self.n_outputs_ = targets.shape[1]
        self.target_grid_ = samples.grid
        self.species_ = np.unique(samples.atoms.species)
        self._collect(tasks, trained)
        return self

    def predict(self, X: Any) -> Any:
        """Predict the targets of atoms.

        Parameters
        ----------
        X : PerAtomArray or array-like of shape (n_samples, n_features)
            Features as in `fit`.

        Returns
        -------
        PerAtomArray, LDOS or ndarray of shape (n_samples,) or (n_samples, k)
            Of the same kind as X, an `LDOS` after a fit to one; vectors in the laboratory frame.

        Raises
        ------
        ValueError
            If X holds a species that `fit` has not seen, or carries no site frames where `fit` had them.
        """
        check_is_fitted(self)
        atoms = self._checked_atoms(X, reset=False)
        unseen = [species_name(z) for z in np.setdiff1d(atoms.species, self.species_)]
        if unseen:
            raise ValueError(
                f"X must hold species that were seen in fit ({', '.join(map(species_name, self.species_))}); "
                f"got {', '.join(unseen)}. Fit on structures that contain them."
            )
        if self._framed and atoms.frames is None:
            raise ValueError(
                "X must carry site frames, as it did in fit, to turn predicted vectors back to the "
                "laboratory; got features without frames. Make them with the featurizer that made those for "
                "fit."
            )
        if getattr(self, "_combined", False):
            check_vectors(atoms, self._n_vectors)
        values: FloatArray = np.empty((len(atoms.values), self.n_outputs_))
        keys = network_keys(atoms, self._fitted_with["networks"])
        strangers = np.setdiff1d(keys, list(self.atom_networks_))
        if len(strangers):
            raise ValueError(
                f"X must hold sites that were seen in fit ({len(self.atom_networks_)} classes); got site "
                f"{strangers[0]}. Make the features with the featurizer that made those for fit."
            )
        for key in np.unique(keys):
            rows = np.flatnonzero(keys == key)
            for block in row_blocks(len(rows), MAPPED_ROWS if is_mapped(atoms.values) else len(rows)):
                values[rows[block]] = self._predict_rows(int(key), atoms, rows[block])
        if self._framed and atoms.frames is not None:
            values = atoms.frames.to_lab(values)
        if isinstance(X, PerAtomArray):
            grid = getattr(self, "target_grid_", None)  # models saved by early versions have none
            if grid is not None:
                return LDOS(values, atoms.offsets, atoms.species, grid=grid)
            return PerAtomArray(values, atoms.offsets, atoms.species)
        return values.ravel() if self._one_dimensional else values

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination R² over all rows, averaged over the target columns.

        Of an `LDOS`, about the mean curve of each species, all energies together (`ldos_r2`).

        Parameters
        ----------
        X : PerAtomArray or array-like of shape (n_samples, n_features)
            Features.
        y : PerAtomArray, list of array-like, or array-like
            Targets as in `fit`.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights as in `fit`.

        Returns
        -------
        float
        """
        return r2_of_targets(y, self.predict(X), sample_weight)

    @property
    def weights_(self) -> dict[int, list[FloatArray]]:
        """Matrices and biases of each network, in the order of Keras."""
        check_is_fitted(self)
        return {z: net.network.arrays for z, net in self.atom_networks_.items()}

    @property
    def layers_(self) -> dict[int, Any]:
        """Units and activations of each network; for a `build_fn` model its Keras JSON."""
        check_is_fitted(self)
        return {z: net.network.layers for z, net in self.atom_networks_.items()}

    @property
    def networks_(self) -> dict[int, Any]:
        """Keras models by atomic number, built on first use.

        A model takes the scaled columns, ``atom_networks_[z].inputs.apply(rows, dtype)``, and gives scaled
        targets, which ``atom_networks_[z].targets.invert`` turns into physical ones.
        """
        check_is_fitted(self)
        if self._keras_models is None:
            models: dict[int, Any] = {}
            for z, net in self.atom_networks_.items():
                shared = next((m for other, m in models.items() if self.atom_networks_[other] is net), None)
                models[z] = shared or (
                    keras_model(net.network, f"network_{z}")
                    if isinstance(net.network, DenseStack)
                    else net.network.build()
                )
            self._keras_models = models
        return self._keras_models

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "_keras_models" in state:  # rebuilt on demand from the arrays
            state = state | {"_keras_models": None}
        return state

    def _checked_atoms(self, X: Any, reset: bool) -> PerAtomArray:
        """Bring both kinds of X into one: a plain table becomes structures of one anonymous atom."""
        refuse_structures(X)
        if not isinstance(X, PerAtomArray):
            return anonymous(validate_data(self, X, reset=reset, dtype=[np.float64, np.float32]))
        if len(X.values) == 0:
            raise ValueError(f"X must hold at least one atom; got {len(X)} structures with 0 atoms.")
        validate_data(self, X, reset=reset, skip_check_array=True)
        check_finite(X, "X")
        return X

    def _checked_fit_input(self, X: Any, y: Any) -> tuple[PerAtomArray, FloatArray, bool]:
        """Atoms, targets as rows, and whether the targets came as one plain column."""
        if isinstance(X, PerAtomArray):
            atoms = self._checked_atoms(X, reset=True)
            return atoms, per_atom_targets(y, atoms), False
        refuse_structures(X)
        if is_per_atom(y):
            raise TypeError(
                f"X must be a PerAtomArray where y is given per atom; got {described(X)} for X. A step "
                "before the regressor turned the features into a plain table: wrap it, as in "
                "PerAtom(StandardScaler())."
            )
        table, targets = validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32]
        )
        return anonymous(table), targets.reshape(len(table), -1).astype(np.float64), targets.ndim == 1

    def _samples(
        self,
        atoms: PerAtomArray,
        targets: FloatArray,
        grid: EnergyGrid | None,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
        rng: Any,
    ) -> Samples:
        """Apply weights, hold structures out and turn vector targets into site frames."""
        width = targets.shape[1]
        if self.target == "vector" and width != 3:
            raise ValueError(
                f"target='vector' needs targets with 3 columns, x, y and z; got {width}. Use target='scalar'."
            )
        if self.target == "vector" and grid is not None:
            raise ValueError("target='vector' is for vectors; got an LDOS. Use target='scalar' or 'auto'.")
        most = resolved_average(atoms, self.symmetry_average)
        resolved_copies(atoms, self.symmetry_copies, most > 1)  # refuse early what cannot be done
        lost = lost_site_groups(atoms, self.symmetry_average, self.symmetry_copies)
        if lost:
            warnings.warn(lost, UserWarning, stacklevel=4)  # fit, its validation wrapper, the user
        vector = self.target == "vector" or (
            self.target == "auto"
            and width == 3
            and grid is None
            and (atoms.frames is not None or atoms.vectors is not None)
        )
        if (
            self.target == "auto"
            and width == 3
            and grid is None
            and not vector
            and (atoms.invariant or atoms.geometry is not None)
        ):
            warnings.warn(BLIND, UserWarning, stacklevel=4)  # fit, its validation wrapper, the user
        if combines(atoms, vector):
            check_combination(self)
            check_vectors_point(np.zeros((0, 0, 3)) if atoms.vectors is None else atoms.vectors)
        if vector and atoms.frames is not None:
            targets = atoms.frames.to_frame(targets)
        weight = check_structure_weights(sample_weight, len(atoms))
        if weight is None:
            weight = np.ones(len(atoms))
        # A structure of weight zero is one that is not there, for scalings and seeds as well.
        used = np.flatnonzero(weight)
        rows = (weight > 0)[atoms.structure_of_row]
        held_out = np.zeros(len(atoms), dtype=bool)
        together = check_groups(groups, len(atoms))
        if self.early_stopping:
            held_out[used[draw_held_out(together[used], self.validation_fraction, rng)]] = True
        structure = atoms.structure_of_row[rows]
        held_out = held_out[structure]
        present = atoms if len(used) == len(atoms) else atoms[used]  # no copy of what lies in a file
        return Samples(present, targets[rows], weight[structure], held_out, used, vector, most, grid)

    def _collect(self, tasks: list[Task], trained: list[tuple[AtomNetwork, Recorder]]) -> None:
        """Turn the outcome of the training into fitted attributes."""
        self.atom_networks_: dict[int, AtomNetwork] = {}
        self.history_: dict[int, dict[str, FloatArray]] = {}
        for task, (net, recorder) in zip(tasks, trained, strict=True):
            for z in task.members:
                self.atom_networks_[z] = net
                self.history_[z] = recorder.history()
        recorders = [recorder for _, recorder in trained]
        self.explained_variance_ratio_ = {
            key: net.targets.explained
            for key, net in self.atom_networks_.items()
            if self.n_components is not None and isinstance(net.targets, LinearTargets)
        }
        self._keras_models = None
        self.n_operations_ = max(action.n_operations for task in tasks for action in task.train.actions)
        self.n_iter_ = max(recorder.n_iter for recorder in recorders)
        self.loss_ = float(np.mean([recorder.kept_loss for recorder in recorders]))
        open_ended = [r for r in recorders if not (r.converged or r.cancelled or r.diverged)]
        falling = [r.label for r in open_ended if late_decrease(r.loss) > FAST_DECREASE]
        if falling and not self.early_stopping:
            warnings.warn(
                f"max_iter={self.max_iter} was reached while the training loss of {', '.join(falling)} was "
                f"still falling fast, more than {FAST_DECREASE:.0%} over the last tenth of the iterations. "
                "Increase max_iter, or let early_stopping=True decide when to stop.",
                ConvergenceWarning,
                stacklevel=4,  # fit, its validation wrapper, the user
            )

    def _previous_networks(
        self, n_outputs: int, grid: EnergyGrid | None, n_features_before: int | None
    ) -> dict[int, AtomNetwork]:
        """Networks to continue from, by atomic number."""
        if not self.warm_start or not hasattr(self, "atom_networks_"):
            return {}
        for name, before in self._fitted_with.items():
            if getattr(self, name) != before:
                raise ValueError(
                    f"warm_start=True continues networks that were fitted with {name}={before!r}; got "
                    f"{getattr(self, name)!r}. Keep it, or set warm_start=False to begin anew."
                )
        wanted = hidden_sizes(self.hidden_layer_sizes)
        for z, net in self.atom_networks_.items():
            found = None
            if isinstance(net.network, DenseStack) and self.build_fn is None:
                found = tuple(len(b) for b in net.network.biases[:-1])
            if found is not None and found != wanted:
                raise ValueError(
                    f"warm_start=True continues the network of {label_of((z,), self.networks)} with "
                    f"hidden_layer_sizes={found}; got {wanted}. Keep the sizes, or set warm_start=False to "
                    "begin anew."
                )
        if (n_features_before, self.n_outputs_) != (self.n_features_in_, n_outputs):
            raise ValueError(
                f"warm_start=True continues from {n_features_before} features and {self.n_outputs_} target "
                f"columns; got {self.n_features_in_} and {n_outputs}. Set warm_start=False to begin anew."
            )
        learned = getattr(self, "target_grid_", None)
        if learned is not None and grid is not None and learned.difference(grid) is not None:
            raise ValueError(
                "warm_start=True continues with curves on the same energies; got "
                f"{learned.difference(grid)}. Bring them together with aligned, resampled or broadened, or "
                "set warm_start=False to begin anew."
            )
        return dict(self.atom_networks_)

    def _vectors_of(self, atoms: PerAtomArray, rows: IntArray) -> FloatArray | None:
        return (
            atoms.vectors[rows] if getattr(self, "_combined", False) and atoms.vectors is not None else None
        )

    def _predict_rows(self, key: int, atoms: PerAtomArray, rows: IntArray) -> FloatArray:
        net = self.atom_networks_[key]
        model = None if net.stack is not None else self.networks_[key]
        if self._most_operations == 1:
            return net.predict(atoms.values[rows], model, vectors=self._vectors_of(atoms, rows))
        symmetry = require_symmetry(atoms, "a network that was averaged over site groups")
        sites = network_keys(atoms, "per-site")[rows]
        values = np.empty((len(rows), self.n_outputs_))
        for site in np.unique(sites):
            action = GroupAction.of_site(symmetry, int(site), net.inputs, self._framed, self._most_operations)
            ours = sites == site
            values[ours] = net.predict(atoms.values[rows[ours]], model, action)
        return values
