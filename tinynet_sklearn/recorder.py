"""What a training loop is given and what it leaves behind: rows, options, and the log.

The recorder keeps the histories and the best weights and decides when patience is out; so it is also what
survives when the user interrupts, when numbers overflow, and in a file when the process is killed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.checkpoint import CheckpointFile
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.target_maps import OutputLink

Arrays: TypeAlias = dict[str, NDArray[Any]]

__all__ = ["Arrays", "Options", "Recorder", "TrainingSet"]

# Seconds between two lines of progress with verbose=1, and between two checkpoint files of one network: the
# most that a kill can cost.
REPORT_INTERVAL = 2.0
SAVE_INTERVAL = 10.0


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Scaled rows of one network.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_inputs)
        Inputs.
    targets : ndarray of shape (n_rows, n_outputs)
        What the network should give.
    weight : ndarray of shape (n_rows,)
        Positive weights that sum to one.
    structure : ndarray of shape (n_rows,), int
        Ascending: which structure a row belongs to. Mini-batches are made of whole structures; solvers that
        take all rows at once do not look.
    actions : tuple of GroupAction
        The groups over which the network is averaged, each acting on the rows of one site class.
    site : ndarray of shape (n_rows,), int
        Which of the actions is a row's own.
    link : OutputLink or None, default=None
        What the outputs go through before they are compared with the targets.
    basis : ndarray of shape (n_rows, n_outputs, 3) or None, default=None
        Vectors of which the outputs are the coefficients; their sum is compared with the targets, shape
        (n_rows, 3).
    """

    rows: FloatArray
    targets: FloatArray
    weight: FloatArray
    structure: IntArray
    actions: tuple[GroupAction, ...]
    site: IntArray
    link: OutputLink | None = None
    basis: FloatArray | None = None

    @property
    def averages(self) -> bool:
        """Whether there is anything to average."""
        return any(action.n_operations > 1 for action in self.actions)


@dataclass(frozen=True)
class Options:
    """What the solvers can be told; names as in `BPNNRegressor`."""

    max_iter: int
    tol: float
    alpha: float
    batch_size: int
    learning_rate: float
    seed: int
    schedule: str = "constant"
    scatter: float = 0.0


@dataclass
class Recorder:
    """The log of one training run: histories, best weights, patience.

    Parameters
    ----------
    label : str
        What is being trained, for messages.
    weights : list of ndarray
        Initial weights, the best so far.
    patience : int or None
        Iterations without improvement after which to stop; None never stops.
    tol : float
        Relative decrease that counts as an improvement.
    keep_best : bool
        Whether the best weights are those of the lowest validation loss, rather than the last.
    verbose : int
        1 prints a line every `REPORT_INTERVAL` seconds, 2 every 10th iteration, 3 every one; 0 none.
    max_iter : int or None
        Iterations after which the run ends, for the time left; None does not tell.
    file : CheckpointFile or None
        Where to keep the state of the run.
    taken_up : dict of str to ndarray
        What the solver left behind in an earlier run, to go on from: all of its state, or a part.
    left_behind : dict of str to ndarray
        What the solver would like to find when these weights are trained further.
    """

    label: str
    weights: list[FloatArray]
    patience: int | None
    tol: float
    keep_best: bool
    verbose: int = 0
    max_iter: int | None = None
    file: CheckpointFile | None = None
    taken_up: Arrays = field(default_factory=dict)
    left_behind: Arrays = field(default_factory=dict)
    # One entry per iteration, loss, validation loss and time, so that an interrupt cannot tear them apart.
    log: list[tuple[float, float | None, float]] = field(default_factory=list)
    best: float = np.inf
    kept_loss: float = np.nan
    iterations_since_best: int = 0
    converged: bool = False
    cancelled: bool = False
    diverged: bool = False
    running: bool = False
    seconds_before: float = 0.0
    iterations_before: int = 0
    started: float = field(default_factory=perf_counter)
    reported: float = 0.0
    saved: float = 0.0

    @property
    def n_iter(self) -> int:
        """Iterations done."""
        return len(self.log)

    @property
    def loss(self) -> list[float]:
        """Training loss after each iteration."""
        return [loss for loss, _, _ in self.log]

    @property
    def validation(self) -> list[float]:
        """Validation loss after each iteration; empty without validation rows."""
        return [value for _, value, _ in self.log if value is not None]

    @property
    def seconds(self) -> float:
        """Time since the start of the training, without the pauses in which it lay in a file."""
        return self.seconds_before + perf_counter() - self.started

    @property
    def finished(self) -> bool:
        """Whether more calls of the solver would change nothing."""
        return self.converged or (self.max_iter is not None and self.n_iter >= self.max_iter)

    def history(self) -> dict[str, FloatArray]:
        """Loss, time and, where there was any, validation loss after each iteration, shape (n_iter,)."""
        curves = {"loss": np.array(self.loss), "time": np.array([seconds for _, _, seconds in self.log])}
        return curves | {"validation": np.array(self.validation)} if self.validation else curves

    def begin(self) -> None:
        """Start the clock."""
        self.running = True
        self.started = perf_counter()
        self.reported = self.saved = self.seconds_before
        self.iterations_before = self.n_iter

    def step(self, loss: float, validation: float | None, weights: Callable[[], list[FloatArray]]) -> bool:
        """Take note of one iteration.

        Parameters
        ----------
        loss : float
            Training loss. If this or the next is not finite, the iteration is not counted, and the run ends
            as `diverged`.
        validation : float or None
            Loss on the held-out structures, if there are any.
        weights : callable
            Gives a copy of the present weights; called only if they are kept.

        Returns
        -------
        bool
            Whether to stop.
        """
        if self.cancelled:  # another thread has already read off the result
            return True
        watched = float(loss if validation is None else validation)
        if not (np.isfinite(loss) and np.isfinite(watched)):
            self.diverged = True
            return True
        if not self.keep_best or watched < self.best:
            self.weights = weights()
            self.kept_loss = float(loss)
        if watched < self.best * (1 - self.tol):
            self.iterations_since_best = 0
        else:
            self.iterations_since_best += 1
        self.best = min(self.best, watched)
        self.log.append((float(loss), None if validation is None else watched, self.seconds))
        if self.patience is not None and self.iterations_since_best >= self.patience:
            self.converged = True
        self._report()
        return self.converged

    def save(self, state: Callable[[], Arrays], now: bool = False) -> None:
        """Write the checkpoint file, if there is one and it is time.

        Parameters
        ----------
        state : callable
            Gives all that the solver needs to take the next step; called only if it is written.
        now : bool, default=False
            Whether it is time in any case: at the end of a run.
        """
        if self.file is None or self.cancelled or self.diverged:
            return
        if now or self.seconds - self.saved >= SAVE_INTERVAL:
            solver = {f"solver.{name}": array for name, array in state().items()}
            self.file.write(self._arrays() | solver)
            self.saved = self.seconds

    def restore(self, arrays: Arrays) -> None:
        """Go back to where a checkpoint file was written; the solver finds its part in `taken_up`."""
        own = {name.removeprefix("recorder."): array for name, array in arrays.items()}
        validation = own["validation"].tolist() or [None] * len(own["loss"])
        self.log = list(zip(own["loss"].tolist(), validation, own["time"].tolist(), strict=True))
        self.weights = [own[f"weights.{k}"] for k in range(len(self.weights))]
        self.best, self.kept_loss, self.seconds_before = (float(x) for x in own["numbers"])
        self.iterations_since_best, self.converged = int(own["since_best"]), bool(own["converged"])
        self.taken_up = {
            name.removeprefix("solver."): array
            for name, array in arrays.items()
            if name.startswith("solver.")
        }

    def summary(self) -> None:
        """Print the last line of progress."""
        if self.verbose and self.log:
            state = "converged" if self.converged else "stopped"
            held_out = f", validation {self.best:.6g}" if self.keep_best else ""
            print(
                f"[{self.label}] {state} after {self.n_iter} iterations and {_duration(self.seconds)}: loss "
                f"{self.kept_loss:.6g}{held_out}",
                flush=True,
            )

    def _arrays(self) -> Arrays:
        curves = {f"recorder.{name}": curve for name, curve in self.history().items()}
        return {
            "recorder.validation": np.empty(0),
            **curves,
            **{f"recorder.weights.{k}": array for k, array in enumerate(self.weights)},
            "recorder.numbers": np.array([self.best, self.kept_loss, self.seconds]),
            "recorder.since_best": np.array(self.iterations_since_best),
            "recorder.converged": np.array(self.converged),
        }

    def _report(self) -> None:
        due = self.verbose >= 3 or (self.verbose == 2 and self.n_iter % 10 == 0)
        if self.verbose == 1:
            due = self.seconds - self.reported >= REPORT_INTERVAL
        if not due:
            return
        self.reported = self.seconds
        loss, validation, _ = self.log[-1]
        held_out = "" if validation is None else f", validation {validation:.6g}"
        left = ""
        if self.max_iter is not None:
            pace = (self.seconds - self.seconds_before) / (self.n_iter - self.iterations_before)
            left = f", {_duration(pace * (self.max_iter - self.n_iter))} left"
        print(f"[{self.label}] iteration {self.n_iter}: loss {loss:.6g}{held_out}{left}", flush=True)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
