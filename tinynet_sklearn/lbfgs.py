"""Limited-memory BFGS whose whole state can be put down and taken up again.

scipy's L-BFGS-B keeps its memory to itself, so a run that was killed could only begin anew. Here the state is
a handful of arrays: a run that continues from a saved one takes the same steps, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.frames import FloatArray

__all__ = ["LBFGSState", "run_lbfgs"]

# Networks of this size gain from a longer memory than the usual 10, and its cost stays far below that of one
# evaluation.
MEMORY = 30

# A line search that needs more trials than this has met the floor of the precision.
MOST_TRIALS = 20

# A point is low enough when the value fell by this fraction of what the first slope promised.
DECREASE = 1e-4

# The slope must fall to this fraction along the line: loose, since the next direction is better than a better
# step along this one.
CURVATURE = 0.9

# A trial keeps this fraction of the interval away from both of its ends.
MARGIN = 0.1

Evaluate = Callable[[FloatArray], tuple[float, FloatArray]]


@dataclass
class LBFGSState:
    """Where a minimisation stands.

    Parameters
    ----------
    x : ndarray of shape (n_parameters,)
        Present point.
    value : float
        Loss there.
    slope : ndarray of shape (n_parameters,)
        Its slope.
    steps, changes : list of ndarray of shape (n_parameters,)
        The last steps and the changes of slope along them, oldest first.
    """

    x: FloatArray
    value: float
    slope: FloatArray
    steps: list[FloatArray] = field(default_factory=list)
    changes: list[FloatArray] = field(default_factory=list)

    @classmethod
    def start(cls, x: FloatArray, evaluate: Evaluate) -> LBFGSState:
        """Evaluate the first point."""
        value, slope = evaluate(x)
        return cls(x, value, slope)

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> LBFGSState:
        """The state that `arrays` wrote down."""
        steps, changes = ([row.copy() for row in arrays[name]] for name in ("steps", "changes"))
        return cls(arrays["x"], float(arrays["value"]), arrays["slope"], steps, changes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All there is to know, as arrays."""
        shape = (len(self.steps), len(self.x))
        return {
            "x": self.x,
            "value": np.array(self.value),
            "slope": self.slope,
            "steps": np.reshape(self.steps, shape),
            "changes": np.reshape(self.changes, shape),
        }

    def direction(self) -> FloatArray:
        """Product of the inverse Hessian's approximation with the descending slope (two-loop recursion)."""
        if not self.steps:
            length = float(np.linalg.norm(self.slope))
            return -self.slope * min(1.0, 1.0 / length) if length else -self.slope
        q = -self.slope
        shares = []
        for step, change in zip(reversed(self.steps), reversed(self.changes), strict=True):
            share = (step @ q) / (step @ change)
            q = q - share * change
            shares.append(share)
        step, change = self.steps[-1], self.changes[-1]
        q = q * ((step @ change) / (change @ change))
        for step, change, share in zip(self.steps, self.changes, reversed(shares), strict=True):
            q = q + (share - (change @ q) / (step @ change)) * step
        return q

    def advance(self, x: FloatArray, value: float, slope: FloatArray) -> None:
        """Move to a new point and learn the curvature on the way."""
        step, change = x - self.x, slope - self.slope
        if step @ change > np.finfo(np.float64).eps * (change @ change):
            self.steps = [*self.steps, step][-MEMORY:]
            self.changes = [*self.changes, change][-MEMORY:]
        self.x, self.value, self.slope = x, value, slope


def run_lbfgs(
    evaluate: Evaluate, state: LBFGSState, after_iteration: Callable[[LBFGSState], bool], tol: float
) -> bool:
    """Minimise until told to stop.

    Parameters
    ----------
    evaluate : callable
        Point to loss and slope.
    state : LBFGSState
        Where to begin; it is moved along.
    after_iteration : callable
        Called with the state after each iteration; true stops the run.
    tol : float
        The run has converged when no component of the slope exceeds this.

    Returns
    -------
    bool
        Whether the run ended at a minimum, as far as the precision goes, rather than because it was told to.

    References
    ----------
    D. C. Liu and J. Nocedal, On the limited memory BFGS method for large scale optimization, Mathematical
    Programming 45, 503 (1989).
    """
    while np.abs(state.slope).max(initial=0.0) > tol:
        found = _search(evaluate, state)
        if found is None and state.steps:  # what is remembered may mislead: once more, straight down
            state.steps, state.changes = [], []
            found = _search(evaluate, state)
        if found is None:
            return True
        state.advance(*found)
        if after_iteration(state):
            return False
    return True


@dataclass(frozen=True, eq=False)
class _Trial:
    """A point on the line, with the derivative of the value along it."""

    length: float
    x: FloatArray
    value: float
    slope: FloatArray
    along: float


def _search(evaluate: Evaluate, state: LBFGSState) -> tuple[FloatArray, float, FloatArray] | None:
    """Find a point along the present direction that meets the strong Wolfe conditions.

    Not scipy's: it warns where it finds nothing, and warnings cannot be silenced for one thread alone.

    References
    ----------
    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, algorithms 3.5 and 3.6.
    """
    direction = state.direction()
    start = _Trial(0.0, state.x, state.value, state.slope, float(state.slope @ direction))

    def at(length: float) -> _Trial:
        x = state.x + length * direction
        with np.errstate(over="ignore", invalid="ignore"):  # too far is too high, infinity included
            value, slope = evaluate(x)
            return _Trial(length, x, float(value), slope, float(slope @ direction))

    # The step grows until a better one is known to lie between `near`, the lowest trial so far, and `far`.
    near, far = start, None
    for _ in range(MOST_TRIALS):
        trial = at(_between(near, far) if far else 2 * near.length or 1.0)
        low = trial.value <= start.value + DECREASE * trial.length * start.along  # never true of NaN
        if not low or trial.value >= near.value:
            far = trial
        elif abs(trial.along) <= -CURVATURE * start.along:
            return trial.x, trial.value, trial.slope
        else:
            if trial.along * (far.length - near.length if far else math.inf) >= 0:
                far = near
            near = trial
    return None if near is start else (near.x, near.value, near.slope)


def _between(near: _Trial, far: _Trial) -> float:
    """Where the cubic through two trials is lowest, away from both; halfway where it has no such place."""
    width = far.length - near.length
    if width == 0:  # two trials that rounding has made one
        return near.length
    share = math.nan
    bend = near.along + far.along - 3 * (far.value - near.value) / width
    square = bend * bend - near.along * far.along
    if square >= 0:
        root = math.copysign(math.sqrt(square), width)
        divisor = far.along - near.along + 2 * root
        share = 1 - (far.along + root - bend) / divisor if divisor else math.nan
    return near.length + width * (min(max(share, MARGIN), 1 - MARGIN) if math.isfinite(share) else 0.5)
