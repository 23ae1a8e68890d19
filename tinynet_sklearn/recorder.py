"""What a training loop is given and what it leaves behind: rows, options, and the log.

The recorder keeps the histories and the best weights and decides when patience is out; so it is also what
survives when the user interrupts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tinynet_sklearn.frames import FloatArray, IntArray

__all__ = ["Options", "Recorder", "TrainingSet"]


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
    """

    rows: FloatArray
    targets: FloatArray
    weight: FloatArray
    structure: IntArray


@dataclass(frozen=True)
class Options:
    """What the solvers can be told; names as in `BPNNRegressor`."""

    max_iter: int
    tol: float
    alpha: float
    batch_size: int
    learning_rate: float
    seed: int


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
        1, 2 and 3 print every 100th, every 10th and every iteration; 0 none.
    """

    label: str
    weights: list[FloatArray]
    patience: int | None
    tol: float
    keep_best: bool
    verbose: int = 0
    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: float = np.inf
    kept_loss: float = np.nan
    iterations_since_best: int = 0
    converged: bool = False
    cancelled: bool = False

    @property
    def n_iter(self) -> int:
        """Iterations done."""
        return len(self.loss)

    def history(self) -> dict[str, FloatArray]:
        """Loss and, where there was any, validation loss after each iteration, shape (n_iter,)."""
        curves = {"loss": np.array(self.loss)}
        return curves | {"validation": np.array(self.validation)} if self.validation else curves

    def step(self, loss: float, validation: float | None, weights: Callable[[], list[FloatArray]]) -> bool:
        """Take note of one iteration.

        Parameters
        ----------
        loss : float
            Training loss.
        validation : float or None
            Loss on the held-out structures, if there are any.
        weights : callable
            Gives a copy of the present weights; called only if they are kept.

        Returns
        -------
        bool
            Whether to stop.
        """
        self.loss.append(float(loss))
        if validation is not None:
            self.validation.append(float(validation))
        watched = self.loss[-1] if validation is None else self.validation[-1]
        if not self.keep_best or watched < self.best:
            self.weights = weights()
            self.kept_loss = self.loss[-1]
        if watched < self.best * (1 - self.tol):
            self.iterations_since_best = 0
        else:
            self.iterations_since_best += 1
        self.best = min(self.best, watched)
        if self.verbose and self.n_iter % max(1, 100 // 10 ** (self.verbose - 1)) == 0:
            held_out = "" if validation is None else f", validation {validation:.6g}"
            print(f"[{self.label}] iteration {self.n_iter}: loss {loss:.6g}{held_out}")
        if self.patience is not None and self.iterations_since_best >= self.patience:
            self.converged = True
        return self.converged or self.cancelled
