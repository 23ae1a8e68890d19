"""What a prediction costs: time per atom of fitted models and of calculators."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["microseconds_per_atom"]

# Atoms are moved by so much (Å) between calls of a calculator, which would otherwise return what it has.
_MOVE = 1e-3


def microseconds_per_atom(
    model: Any, structures: Sequence[Any], *, repeats: int = 5, method: str = "predict", **options: Any
) -> float:
    """Time of a prediction, or of a step of dynamics, per atom and in one thread.

    A first call, in which code is compiled and tables are made, is not counted. BLAS and OpenMP are held to
    one thread; kernels of numba take those that ``NUMBA_NUM_THREADS`` allows.

    Parameters
    ----------
    model : fitted estimator or pipeline, or ASE calculator
        Anything with the method. Of a calculator, forces are timed, structure by structure, each with atoms
        that have moved since the last call.
    structures : list of structures
        What the method takes; all are predicted in one call. A hundred atoms or more tell what the model
        costs, fewer what a call costs. Of a calculator, ase.Atoms.
    repeats : int, default=5
        Number of calls that are timed.
    method : str, default="predict"
        Not of calculators.
    **options
        Passed on to the method, as ``output="all"`` of a `BPNNPotential`.

    Returns
    -------
    float
        Median of the repeats, µs.

    Raises
    ------
    TypeError
        If the model has no such method.
    ValueError
        If there are no atoms, or `repeats` is below 1.

    Examples
    --------
    >>> from tinynet_sklearn import load_moo3, load_pretrained
    >>> model = load_pretrained("moo3")
    >>> 0.1 < microseconds_per_atom(model, load_moo3().structures) < 10_000
    True
    """
    from threadpoolctl import threadpool_limits

    call = _forces_of(model) if _is_calculator(model) else getattr(model, method, None)
    if not callable(call):
        raise TypeError(
            f"model must have a method {method!r}; got {type(model).__name__}. Fit a pipeline that predicts."
        )
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1; got {repeats!r}.")
    n_atoms = sum(len(structure) for structure in structures)
    if not n_atoms:
        raise ValueError(f"structures must have atoms; got {len(structures)} structures without.")
    times = []
    with threadpool_limits(limits=1):
        call(structures, **options)
        for _ in range(repeats):
            start = time.perf_counter()
            call(structures, **options)
            times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times)) / n_atoms


def _is_calculator(model: Any) -> bool:
    return callable(getattr(model, "calculate", None)) and hasattr(model, "implemented_properties")


def _forces_of(calculator: Any) -> Callable[[Sequence[Any]], None]:
    """A call that asks for the forces on structures, each time with other positions."""
    random = np.random.default_rng(0)

    def forces(structures: Sequence[Any]) -> None:
        for structure in structures:
            atoms = structure.copy()
            atoms.positions += _MOVE * random.standard_normal((len(atoms), 3))
            calculator.get_property("forces", atoms)

    return forces
