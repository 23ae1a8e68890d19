"""What `tinynet evaluate` and `predict` compute: what fitted models say of data, and how far off they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.dataset_files import Dataset, Source
from tinynet_sklearn.evaluation import fitted_steps
from tinynet_sklearn.frame_numbers import frames_in_words
from tinynet_sklearn.learning_data import read_quietly
from tinynet_sklearn.learning_errors import ErrorLine, error_lines
from tinynet_sklearn.learning_settings import FitSettings
from tinynet_sklearn.pipelines import outside_training

__all__ = ["evaluated", "named", "outside_of", "predictions", "read_like", "taken"]

# What a fitted model of one bond graph can do for other structures, and how its featurizer says so.
_FOR_OTHERS = (
    "The model takes the atoms that it was fitted on, in their order and with their bonds. For others fit "
    "with --topology each or --topology smooth; TinyNetCalculator takes supercells."
)
_FIT_OTHERS = re.compile(r"; fit on structures .*")


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
        if fitted and _FIT_OTHERS.search(text):
            text = _FIT_OTHERS.sub(".", text) + f"\n{_FOR_OTHERS}"
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


def taken(model: Any, target: str, data: Dataset, skip: bool) -> tuple[Dataset, Any]:
    """Predictions, and the structures that they are of: all, or those that the model takes.

    Parameters
    ----------
    model : Pipeline
    target : {"forces", "potential", "ldos"}
    data : Dataset
    skip : bool
        Whether to leave out structures that do not fit the model, with a problem each.

    Raises
    ------
    ValueError
        If some do not fit the model, or with `skip` none does.
    """
    try:
        return data, predictions(model, target, data)
    except ValueError:
        if not skip:
            raise
        kept = []
        refused: dict[tuple[str, str], list[int]] = {}
        for i, source in enumerate(data.sources):
            try:
                predictions(model, target, data[[i]])
                kept.append(i)
            except ValueError as error:
                last = str(error).removesuffix(f"\n{_FOR_OTHERS}").splitlines()[-1]
                reason = last.strip().removeprefix(str(source)).lstrip(":, ")
                refused.setdefault((source.file, reason), []).append(source.frame)
        if not kept:
            raise
        problems = [f"{file}, {frames_in_words(frames)}: {why}" for (file, why), frames in refused.items()]
        part = replace(data[kept], problems=(*data.problems, *problems))
        return part, predictions(model, target, part)


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
