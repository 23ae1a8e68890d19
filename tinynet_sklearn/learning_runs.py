"""What `tinynet fit`, `evaluate` and `predict` compute: settings that were left open, training, errors.

Everything that was decided on the way is told in `Learned.remarks`, in the words of the command line.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.dataset_files import Dataset, Source
from tinynet_sklearn.evaluation import fitted_steps
from tinynet_sklearn.learning_data import Split, read_quietly, time_order_blocks
from tinynet_sklearn.learning_errors import ErrorLine, error_lines
from tinynet_sklearn.learning_settings import (
    NOT_SMOOTH,
    FitSettings,
    SettingsError,
    bonds_text,
    make_model,
    option,
    parse_bonds,
)
from tinynet_sklearn.pipelines import outside_training

__all__ = ["Learned", "evaluated", "learn", "outside_of", "predictions", "read_like", "settled"]

#: How the warning of an interrupted training begins.
TRAINING_INTERRUPTED = "training was interrupted"

# What a fitted model of one bond graph can do for other structures.
_FOR_OTHERS = (
    "; the model takes the atoms that it was fitted on, in their order and with their bonds. For others fit "
    "with --topology each or --topology smooth; TinyNetCalculator takes supercells."
)

#: Blocks of each run, of which early stopping watches some.
N_BLOCKS = 10

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Learned:
    """A fitted model and how it came about.

    Parameters
    ----------
    model : Pipeline
    settings : FitSettings
        With nothing left open.
    data : Dataset
        All structures that were read, training and held-out ones.
    split : Split
    predicted : PerAtomArray, PotentialTargets, LDOS or None
        Of the held-out structures; None if there are none.
    held_out, training : list of ErrorLine
        Errors on both parts.
    n_features : int
        Length of the vectors.
    seconds : float
        Of the fit, features included.
    interrupted : bool
        Whether the training was ended early, by Ctrl-C.
    remarks : tuple of str
        What was decided, and warnings.
    """

    model: Any
    settings: FitSettings
    data: Dataset
    split: Split
    predicted: Any
    held_out: list[ErrorLine]
    training: list[ErrorLine]
    n_features: int
    seconds: float
    interrupted: bool
    remarks: tuple[str, ...]


def settled(settings: FitSettings, data: Dataset, train: Ints) -> tuple[FitSettings, list[str]]:
    """Decide what was left open, and say what was decided.

    Bonds are proposed from the training structures; whether these share one graph is seen from their
    positions. What is held out is not looked at.

    Raises
    ------
    SettingsError
        If the training structures share no graph, and settings were given that need one.
    ValueError
        If there are no bonds to propose.
    """
    from tinynet_sklearn.bond_suggestion import suggest_bonds

    remarks = []
    topology, bonds = settings.topology, settings.bonds
    cutoff = 5.0 if settings.cutoff is None else settings.cutoff
    if topology == "auto" and settings.cutoff is not None and bonds is None:
        topology = "smooth"
    if topology != "smooth" and bonds is None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bonds = bonds_text(suggest_bonds([data.structures[i] for i in train]))
        remarks += [str(warning.message) for warning in caught]
        proposed = f"--bonds {bonds}, from the distances in the training structures"
    else:
        proposed = ""
    if topology == "auto":
        part = data[train]
        strangers = _strangers(part, part, bonds or "")
        topology = "smooth" if strangers else "frozen"
        if strangers:
            why = (
                f"{len(strangers)} of {len(part)} structures to learn from do not share one bond graph "
                f"({part.sources[strangers[0]]} for one)"
            )
            _refuse_of_graphs(settings, why)
            remarks.append(f"--topology smooth: {why}")
            proposed = ""
        else:
            remarks.append("--topology frozen: all structures to learn from share one bond graph")
    if proposed:
        remarks.insert(0, proposed)
    if topology == "smooth":
        chosen = replace(settings, topology=topology, cutoff=cutoff, bonds=None, N=None, paths=None)
        return replace(chosen, n=4 if settings.n is None else settings.n), remarks
    n, N, paths = _usual(settings.target, topology)
    return replace(
        settings,
        topology=topology,
        bonds=bonds,
        cutoff=None,
        n=n if settings.n is None else settings.n,
        N=N if settings.N is None else settings.N,
        paths=paths if settings.paths is None else settings.paths,
    ), remarks


def _usual(target: str, topology: str) -> tuple[int, int, str]:
    """n, N and kind of paths that suit most."""
    if target == "ldos":
        return 6, 0, "all"
    if target == "potential":
        return (4, 2, "simple") if topology == "frozen" else (4, 1, "simple")
    return (4, 2, "all") if topology == "frozen" else (4, 1, "all")


def _refuse_of_graphs(settings: FitSettings, why: str) -> None:
    """Refuse what was given and smooth sums do not have: a choice made here drops no setting in silence."""
    given = [option(name) for name in NOT_SMOOTH if getattr(settings, name) is not None]
    if given:
        raise SettingsError(
            f"{given[0]} is of bond graphs, but {why}. Leave it out, which takes --topology smooth, or take "
            "--topology each."
        )
    if settings.n is not None and not 2 <= settings.n <= 4:
        raise SettingsError(
            f"-n must be 2, 3 or 4 where {why}, which takes --topology smooth; got {settings.n}. Take one of "
            "these, or --topology each."
        )


def _strangers(known: Dataset, asked: Dataset, bonds: str) -> list[int]:
    """Structures of `asked` that do not share the bond graph of the mean of `known`."""
    from tinynet_sklearn.graph import build_bond_graph
    from tinynet_sklearn.reference import lies_on, mean_structure, mismatch
    from tinynet_sklearn.structures import as_structures

    structures = as_structures(known.structures, "DATA")
    reference = mean_structure([s for s in structures if not mismatch(s, structures[0])])
    graph = build_bond_graph(reference, parse_bonds(bonds))
    others = structures if asked is known else as_structures(asked.structures, "DATA")
    return [i for i, structure in enumerate(others) if not lies_on(structure, reference, graph)]


def _predictable(settings: FitSettings, data: Dataset, split: Split) -> tuple[Dataset, Split]:
    """Leave out held-out structures that do not share the bond graph of the others, or refuse them.

    Raises
    ------
    ValueError
        If there are some, and they are not to be skipped.
    """
    part, test = data[split.train], data[split.test]
    if settings.topology != "frozen" or not len(test):
        return data, split
    strangers = _strangers(part, test, settings.bonds or "")
    if not strangers or _strangers(part, part, settings.bonds or ""):  # the latter the featurizer refuses
        return data, split
    n, first = len(test), test.sources[strangers[0]]
    if len(strangers) == n or not settings.skip_problems:
        raise ValueError(
            f"{len(strangers)} of {n} held-out structures do not share the bond graph of those to learn from "
            f"({first} for one), which --topology frozen needs. Take --topology smooth or --topology each, "
            "or leave them out with --skip-problems."
        )
    problem = (
        f"{len(strangers)} of {n} held-out structures, which do not share the bond graph of those to learn "
        f"from ({first} for one): the model refuses their like"
    )
    return replace(data, problems=(*data.problems, problem)), replace(
        split, test=np.delete(split.test, strangers)
    )


def learn(settings: FitSettings, data: Dataset, split: Split, verbose: int = 0) -> Learned:
    """Fit on the training structures, and test on the others.

    Parameters
    ----------
    settings : FitSettings
        As given; what is open is decided here.
    data : Dataset
    split : Split
    verbose : int, default=0
        Of the regressor, which prints.

    Raises
    ------
    KeyboardInterrupt
        If it was interrupted before anything was learned.
    ValueError
        If the data or the settings do not allow it.
    """
    chosen, remarks = settled(settings, data, split.train)
    if split.method != "none":
        chosen = replace(chosen, split=split.method)
    data, split = _predictable(chosen, data, split)
    structures = [data.structures[i] for i in split.train]
    n_species = len({z for atoms in structures for z in atoms.numbers.tolist()})
    model = make_model(chosen, n_species, verbose)
    groups = {}
    if settings.early_stopping:
        inside = data.groups[split.train]
        groups = {"net__groups": inside * N_BLOCKS + time_order_blocks(inside, N_BLOCKS)}
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with named([data.sources[i] for i in split.train]):
            model.fit(structures, data.y[split.train], **groups)  # type: ignore[index]
    seconds = time.perf_counter() - start
    messages = [str(warning.message) for warning in caught]
    remarks += list(dict.fromkeys(messages))
    test, part = data[split.test], data[split.train]
    predicted = predictions(model, settings.target, test)
    held_out = [] if predicted is None else evaluated(model, test, predicted)
    remarks += _worthless(held_out)
    again = predictions(model, settings.target, part)
    return Learned(
        model=model,
        settings=chosen,
        data=data,
        split=split,
        predicted=predicted,
        held_out=held_out,
        training=[line for line in evaluated(model, part, again) if line.part == "all"],
        n_features=int(model["embed"].n_features_out_),
        seconds=seconds,
        interrupted=any(message.startswith(TRAINING_INTERRUPTED) for message in messages),
        remarks=tuple(remarks),
    )


def _worthless(held_out: Sequence[ErrorLine]) -> list[str]:
    """Remarks on quantities that are predicted no better than by a constant."""
    return [
        f"held-out {line.quantity} are predicted no better than by the trivial guess: RMSE {line.rmse:.3g}, "
        f"spread {line.spread:.3g} {line.unit}"
        for line in held_out
        if line.part == "all" and 0.0 < line.spread <= line.rmse
    ]


@contextmanager
def named(sources: Sequence[Source], fitted: bool = False) -> Iterator[None]:
    """Let messages that count structures name file and frame; of a fitted model, not advise how to fit."""
    try:
        yield
    except ValueError as error:

        def source(found: re.Match[str]) -> str:
            number = int(found[1])
            return str(sources[number]) if number < len(sources) else found[0]

        text = re.sub(r"(?<=  )structure (\d+)\b", source, str(error))
        if fitted:
            text = re.sub(r"; fit on structures .*", _FOR_OTHERS, text)
        raise ValueError(text) from error


def predictions(model: Any, target: str, data: Dataset) -> Any:
    """What a model says of structures; None if there are none.

    Raises
    ------
    ValueError
        If they do not fit the model.
    """
    if not len(data):
        return None
    options = {"output": "all"} if target == "potential" else {}
    with named(data.sources, fitted=True):
        return model.predict(data.structures, **options)


def evaluated(model: Any, data: Dataset, predicted: Any) -> list[ErrorLine]:
    """Errors of predictions on a data set with targets.

    Raises
    ------
    ValueError
        If densities of states are on other energies than those of the model.
    """
    if data.target == "ldos":
        difference = predicted.grid.difference(data.y.grid)  # type: ignore[union-attr]
        if difference is not None:
            raise ValueError(
                f"DATA must be on the energies of the model, {predicted.grid}; {difference}. Leave out "
                "--zero and --spin, or name data that reach over them."
            )
    learned = getattr(fitted_steps(model)[-1], "quantities_", ())
    return error_lines(str(data.target), data.y, predicted, [source.file for source in data.sources], learned)


def read_like(settings: FitSettings, model: Any) -> Dataset:
    """Read data to compare with a model: densities of states on its energies.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As `read_dataset`.
    """
    options: dict[str, Any] = {}
    if settings.target == "ldos":
        grid = fitted_steps(model)[-1].target_grid_
        zero = grid.zero if settings.zero is None else settings.zero
        options = {"energies": grid, "width": grid.width, "zero": zero, "spin": settings.spin or "refuse"}
    return read_quietly(
        settings.data,
        settings.target,
        on_problem="skip" if settings.skip_problems else "raise",
        keys=settings.keys or None,
        **options,
    )


def outside_of(model: Any, data: Dataset) -> NDArray[np.bool_] | None:
    """Atoms that lie beyond the training data; None where the model does not know."""
    *transformers, regressor = fitted_steps(model)
    features: Any = data.structures
    for step in transformers:
        features = step.transform(features)
    return outside_training(regressor, features)
