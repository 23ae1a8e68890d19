"""Training several networks side by side, safely: interrupts, checkpoint files, numbers that overflow."""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tinynet_sklearn._validation import first_few, species_name
from tinynet_sklearn.atomic_files import TORSO_AGE, remove_torsos
from tinynet_sklearn.checkpoint import CheckpointFile, file_name, fingerprint, shared_file
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.keras_loops import moments_of
from tinynet_sklearn.mapped_rows import MappedRows
from tinynet_sklearn.networks import DenseStack, with_arrays
from tinynet_sklearn.recorder import Recorder, TrainingSet
from tinynet_sklearn.rows import network_keys
from tinynet_sklearn.scaling import ColumnScaling
from tinynet_sklearn.solvers import SOLVERS, choose_solver, why
from tinynet_sklearn.target_maps import OutputLink
from tinynet_sklearn.training import AtomNetwork, Samples, Task

__all__ = [
    "check_checkpoint",
    "kept_for_search",
    "open_file",
    "open_files",
    "report_divergence",
    "train_tasks",
]

# Options that other solvers do not look at, and what users call them.
_ADAM_NAMES = {
    "batch_size": "batch_size",
    "learning_rate": "learning_rate_init",
    "schedule": "learning_rate",
}

#: Options whose parameter has another name.
_PUBLIC_NAMES = {"scatter": "symmetry_penalty"}


def train_tasks(tasks: list[Task], solver: str, n_jobs: int | None) -> list[tuple[AtomNetwork, Recorder]]:
    """Train networks side by side.

    Parameters
    ----------
    tasks : list of Task
        What to train; those whose recorder is finished are left as they are.
    solver : str
        Key of `SOLVERS`, or "auto".
    n_jobs : int or None
        For joblib. Threads are preferred: the arithmetic releases the interpreter's lock, no data are copied,
        and an interrupt finds the logs where they are.

    Returns
    -------
    list of (AtomNetwork, Recorder)
        In the order of the tasks.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts before any network has made a step that could be kept, or while files are kept
        with ``resume="matching"``: a search would take networks that are half trained for whole ones.
    """
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            trained: list[tuple[AtomNetwork, Recorder]] = Parallel(n_jobs=n_jobs, prefer="threads")(
                delayed(_train)(task, solver) for task in tasks
            )
    except KeyboardInterrupt:
        return _interrupted(tasks)
    return trained


def open_files(tasks: list[Task], solver: str, folder: Path, resume: bool | str) -> None:
    """Give every recorder its checkpoint file and, to resume, what is in it.

    Parameters
    ----------
    tasks : list of Task
        What is to be trained.
    solver : str
        Key of `SOLVERS`, or "auto".
    folder : Path
        Where the files are, one for each task; it is created.
    resume : bool or "matching"
        As for `open_file`.

    Raises
    ------
    NotADirectoryError
        If `folder` is a file.
    ValueError
        If a file is damaged, belongs to other data or settings, or holds more iterations than are wanted.
    """
    for task in tasks:
        open_file(task.recorder, folder, _fingerprint(task, solver), task.options.max_iter, resume)


def open_file(
    recorder: Recorder, folder: Path, prints: dict[str, str], max_iter: int, resume: bool | str
) -> None:
    """Give one recorder its checkpoint file and, to resume, what is in it.

    Parameters
    ----------
    recorder : Recorder
        Of the training.
    folder : Path
        Where the file is; it is created.
    prints : dict of str to str
        What decides the result (`checkpoint.fingerprint`).
    max_iter : int
        Iterations that are wanted.
    resume : bool or "matching"
        Whether to go on from the file if it is there, rather than to replace it. "matching": from the file
        that was made of the same data and settings, if there is one (`checkpoint.shared_file`).

    Raises
    ------
    NotADirectoryError
        If `folder` is a file.
    ValueError
        If the file is damaged, belongs to other data or settings, or holds more iterations than are wanted.
        Never with "matching".
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"checkpoint must be a folder; '{folder}' is a file. Name another place.")
    folder.mkdir(parents=True, exist_ok=True)
    if resume == "matching":
        recorder.file, arrays = shared_file(folder, recorder.label, prints, max_iter)
        remove_torsos(recorder.file.path, TORSO_AGE)
    else:
        recorder.file = CheckpointFile(folder / file_name(recorder.label), prints)
        remove_torsos(recorder.file.path)
        arrays = recorder.file.read() if resume else None
    if arrays is None:
        return
    recorder.restore(arrays)
    if recorder.n_iter > max_iter:
        raise ValueError(
            f"resume=True cannot take iterations back; '{recorder.file.path}' holds {recorder.n_iter} of "
            f"them, max_iter is {max_iter}. Raise max_iter, or set resume=False to train all networks anew."
        )


def kept_for_search(recorder: Recorder) -> bool:
    """Whether a training that ends early goes on from a file in its next call, ``resume="matching"``."""
    return recorder.file is not None and recorder.file.shared


def check_checkpoint(settings: Any) -> None:
    """Refuse parameters `checkpoint`, `resume` and `random_state` that do not go together.

    Raises
    ------
    ValueError
        If there is nothing to resume from, or no seed that a resumed training could begin with.
    """
    if settings.resume and settings.checkpoint is None:
        raise ValueError(
            f"resume={settings.resume!r} continues from the files in the folder checkpoint; got "
            "checkpoint=None. Name the folder, or set resume=False."
        )
    if settings.checkpoint is not None and not isinstance(settings.random_state, Integral):
        raise ValueError(
            "checkpoint needs an integer as random_state, for a resumed training begins with the same "
            f"numbers; got {settings.random_state}. Pass random_state=0, or any other."
        )


def report_divergence(
    tasks: list[Task],
    trained: list[tuple[AtomNetwork, Recorder]],
    samples: Samples,
    networks: str,
    solver: str,
) -> None:
    """Say which networks met numbers that are not finite, and what may have been at fault.

    Parameters
    ----------
    tasks : list of Task
        What was to be trained.
    trained : list of (AtomNetwork, Recorder)
        What became of it.
    samples : Samples
        All rows.
    networks, solver : str
        Parameters of `BPNNRegressor`.

    Raises
    ------
    ValueError
        If nothing that a network has learned before could be kept.
    """
    lost: list[str] = []
    ended: list[str] = []
    for task, (net, recorder) in zip(tasks, trained, strict=True):
        if recorder.diverged:
            case = (
                f"{recorder.label} after {recorder.n_iter} iterations ({_largest(task, samples, networks)})"
            )
            (ended if _learned(net, recorder) else lost).append(case)
    remedy = (
        f"{'Lower learning_rate_init, leave' if solver == 'adam' else 'Leave'} the structure out or repair "
        "it if that number is wrong, or let the regressor scale inputs and targets (scaler, target_scaler)."
    )
    if lost:
        raise ValueError(
            f"training must keep losses, slopes and weights finite; they were not for {first_few(lost)}. "
            f"{remedy}"
        )
    if ended:
        warnings.warn(
            "training met losses, slopes or weights that are not finite and ended early, with the best "
            f"weights from before: {first_few(ended)}. {remedy}",
            UserWarning,
            stacklevel=4,  # report_divergence, fit, its validation wrapper, the user
        )


def _train(task: Task, solver: str) -> tuple[AtomNetwork, Recorder]:
    recorder, network = task.recorder, task.start.network
    chosen = choose_solver(solver, network, task.train)
    recorder.begin()
    try:
        if not (recorder.finished or recorder.cancelled):
            if recorder.verbose and solver == "auto":
                n_weights = sum(a.size for a in network.arrays)
                size = f"{n_weights:,} weights, {len(task.train.rows):,} rows"
                print(f"[{recorder.label}] {size}: {chosen}, since {why(chosen)}", flush=True)
            # Once more, for workers that are processes; among threads it repeats what is set already.
            with threadpool_limits(limits=1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
                SOLVERS[chosen](network, task.train, task.validation, task.options, recorder)
            recorder.summary()
    finally:
        recorder.running = False
    moments = recorder.left_behind or moments_of(recorder.taken_up) if chosen == "adam" else None
    return _network(task, moments), recorder


def _network(task: Task, moments: dict[str, Any] | None) -> AtomNetwork:
    return replace(
        task.start,
        network=with_arrays(task.start.network, task.recorder.weights),
        moments=None if task.recorder.diverged else moments,
    )


def _interrupted(tasks: list[Task]) -> list[tuple[AtomNetwork, Recorder]]:
    """Tell threads that still run to stop, and collect what the recorders hold."""
    for task in tasks:
        task.recorder.cancelled = True
    while any(task.recorder.running for task in tasks):  # until their present iteration, or call, is done
        time.sleep(0.01)
    if not any(task.recorder.n_iter for task in tasks) or any(kept_for_search(t.recorder) for t in tasks):
        raise KeyboardInterrupt
    state = "; ".join(f"{task.recorder.label} after {task.recorder.n_iter} iterations" for task in tasks)
    warnings.warn(
        f"training was interrupted; the best weights so far are kept ({state}). A network without iterations "
        "has its random initial weights.",
        UserWarning,
        stacklevel=5,  # _interrupted, train_tasks, fit, its validation wrapper, the user
    )
    return [(_network(task, None), task.recorder) for task in tasks]


def _fingerprint(task: Task, solver: str) -> dict[str, str]:
    """What decides the result, under the names by which users know it."""
    network, train, options = task.start.network, task.train, task.options
    if isinstance(network, DenseStack):
        layers = repr(network.layers)
    else:  # Keras numbers the names of layers through the session
        layers = re.sub(r'_\d+(?=")', "", network.layers)
    parts: dict[str, Any] = {
        "solver": choose_solver(solver, network, task.train),
        "hidden_layer_sizes, activation or build_fn": np.frombuffer(layers.encode(), dtype=np.uint8),
        "dtype": network.dtype.name,
        "early_stopping": task.recorder.keep_best,
        "n_iter_no_change": task.recorder.patience,
    }
    is_adam = parts["solver"] == "adam"
    for option in fields(options):
        if option.name not in {"max_iter", "seed"} and (is_adam or option.name not in _ADAM_NAMES):
            public = (_ADAM_NAMES | _PUBLIC_NAMES).get(option.name, option.name)
            parts[public] = getattr(options, option.name)
    if is_adam and options.schedule != "constant":  # its course depends on where it ends
        parts["max_iter"] = options.max_iter
    parts |= {
        "random_state": np.array(options.seed),
        **_arrays(train),
        "initial weights": [*task.start.network.arrays, *task.recorder.taken_up.values()],
    }
    if task.validation is not None:
        held_out = _arrays(task.validation)
        parts["validation structures"] = [array for arrays in held_out.values() for array in arrays]
    return fingerprint(parts)


def _arrays(data: TrainingSet) -> dict[str, list[NDArray[Any]]]:
    """All that is in a training set, under the names by which users know it."""
    rows: Any = data.rows
    return {
        "X or scaler": [
            rows.digest() if isinstance(rows, MappedRows) else rows,
            data.structure,
            data.site,
        ],
        "y or target_scaler": [data.targets, *_fields(data.link)],
        "vectors of X": [_array(data.basis)],
        "sample_weight": [data.weight],
        "symmetry_average": [array for action in data.actions for array in _fields(action)],
    }


def _fields(part: OutputLink | GroupAction | None) -> list[NDArray[Any]]:
    return [] if part is None else [_array(getattr(part, field.name)) for field in fields(part)]


def _array(value: Any) -> NDArray[Any]:
    return np.empty(0) if value is None else np.asarray(value)


def _learned(net: AtomNetwork, recorder: Recorder) -> bool:
    finite = all(np.isfinite(a).all() for a in net.network.arrays)
    return finite and recorder.n_iter > 0 and recorder.kept_loss <= recorder.loss[0]


def _largest(task: Task, samples: Samples, networks: str) -> str:
    """Where the largest of the scaled numbers stands that a network was given."""
    atoms = samples.atoms
    rows = np.flatnonzero(np.isin(network_keys(atoms, networks), task.members))
    physical = {"X": atoms.values[rows], "y": samples.targets[rows]}
    maps = task.start
    # of curves that are learned as scores, the numbers themselves: a score has no column of y
    plain = isinstance(maps.targets, ColumnScaling)
    scaled = {
        "X": maps.inputs.apply(physical["X"], np.float64),
        "y": maps.targets.apply(physical["y"], np.float64) if plain else physical["y"],
    }
    sizes = {name: np.nan_to_num(abs(table), nan=np.inf) for name, table in scaled.items()}
    name = max(sizes, key=lambda name: sizes[name].max(initial=0.0))
    row, kept = np.unravel_index(np.argmax(sizes[name]), sizes[name].shape)
    column = task.start.inputs.columns[kept] if name == "X" else kept
    atom = rows[row]
    structure = atoms.structure_of_row[atom]
    place = f"row {samples.structures[structure]}"
    if atoms.species.any():
        place = (
            f"atom {atom - atoms.offsets[structure]} ({species_name(atoms.species[atom])}) of structure "
            f"{samples.structures[structure]}"
        )
    return (
        f"largest number {physical[name][row, column]:.3g}, scaled {scaled[name][row, kept]:.3g}, in column "
        f"{column} of {name} for {place}"
    )
