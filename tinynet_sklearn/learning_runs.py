"""What `tinynet fit` computes: settings that were left open, training, errors.

Everything that was decided on the way is told in `Learned.remarks`, in the words of the command line.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.dataset_files import Dataset
from tinynet_sklearn.learning_data import Split, time_order_blocks
from tinynet_sklearn.learning_errors import ErrorLine
from tinynet_sklearn.learning_predictions import evaluated, named, predictions
from tinynet_sklearn.learning_settings import (
    NOT_SMOOTH,
    FitSettings,
    SettingsError,
    make_model,
    option,
    parse_bonds,
)

__all__ = ["Learned", "learn", "settled", "training_seconds"]

#: How the warning of an interrupted training begins.
TRAINING_INTERRUPTED = "training was interrupted"

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
        Of the fit, features included; with a checkpoint at least what all iterations took.
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
    from tinynet_sklearn.bond_suggestion import bonds_text, suggest_bonds

    remarks = []
    topology, bonds = settings.topology, settings.bonds
    cutoff = 5.0 if settings.cutoff is None else settings.cutoff
    if topology == "auto" and settings.cutoff is not None and bonds is None:
        topology = "smooth"
    absent = _absent_species(bonds, data)
    if absent:
        remarks.append(f"--bonds has {', '.join(absent)}, of which there are no atoms")
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


def _absent_species(bonds: str | None, data: Dataset) -> list[str]:
    """Pairs of ``--bonds`` with a species that the data do not have, as by a misprint."""
    rule = None if bonds is None else parse_bonds(bonds)
    if not isinstance(rule, dict):
        return []
    known = {symbol for atoms in data.structures for symbol in atoms.symbols.species()}
    return [pair for pair in rule if not known.issuperset(pair.split("-"))]


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


def learn(
    settings: FitSettings, data: Dataset, split: Split, verbose: int = 0, checkpoint: str | None = None
) -> Learned:
    """Fit on the training structures, and test on the others.

    Parameters
    ----------
    settings : FitSettings
        As given; what is open is decided here.
    data : Dataset
    split : Split
    verbose : int, default=0
        Of the regressor, which prints.
    checkpoint : str or None, default=None
        Folder in which the training is kept, from which it goes on if it was cut off.

    Raises
    ------
    KeyboardInterrupt
        If it was interrupted before anything was learned, or with a checkpoint to go on from.
    ValueError
        If the data or the settings do not allow it.
    """
    chosen, remarks = settled(settings, data, split.train)
    if split.method != "none":
        chosen = replace(chosen, split=split.method)
    data, split = _predictable(chosen, data, split)
    structures = [data.structures[i] for i in split.train]
    n_species = len({z for atoms in structures for z in atoms.numbers.tolist()})
    model = make_model(chosen, n_species, verbose, checkpoint)
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
    if checkpoint is not None:
        seconds = max(seconds, training_seconds(model["net"]))
        model.set_params(net__checkpoint=None, net__resume=False)  # a matter of this run, not of the model
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


def training_seconds(net: Any) -> float:
    """What the iterations of all networks took, those before a training was taken up again, too."""
    curves = [net.history_] if "time" in net.history_ else list(net.history_.values())
    return float(sum(curve["time"][-1] for curve in curves if len(curve["time"])))


def _worthless(held_out: Sequence[ErrorLine]) -> list[str]:
    """Remarks on quantities that are predicted no better than by a constant."""
    return [
        f"held-out {line.quantity} are predicted no better than by the trivial guess: RMSE {line.rmse:.3g}, "
        f"spread {line.spread:.3g} {line.unit}"
        for line in held_out
        if line.part == "all" and 0.0 < line.spread <= line.rmse
    ]
