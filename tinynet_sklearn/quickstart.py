"""The main job on the bundled data, step by step: bonds, split, training, errors, files.

Each step is a function that returns what it found; `tinynet_sklearn.cli` calls them in turn and shows the
results. They are also the shortest complete example of how the parts of the package fit together.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.datasets import load_batio3, load_moo3
from tinynet_sklearn.features import CycleMomentFeaturizer
from tinynet_sklearn.learning_errors import ErrorLine, error_lines
from tinynet_sklearn.persistence import load_model, save_model
from tinynet_sklearn.plotting import ParityDisplay
from tinynet_sklearn.regressor import BPNNRegressor

#: Data sets by the name on the command line.
MATERIALS: dict[str, Callable[[], Bunch]] = {"batio3": load_batio3, "moo3": load_moo3}

#: What is written of each: model and figure.
ENDINGS = (".tinynet", "-parity.png")

#: One structure in so many is held out.
N_FOLDS = 5

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class SpeciesFeatures:
    """What the vector of one species consists of.

    Attributes
    ----------
    species : str
    n_atoms : int
        Per cell.
    environments : dict of str to int
        Bonded neighbours and how many atoms have them, for example ``{"6 O": 4}``.
    walks, neighbors : int
        Most walk entries and neighbour vectors of an atom of this species.
    """

    species: str
    n_atoms: int
    environments: dict[str, int]
    walks: int
    neighbors: int


@dataclass(frozen=True)
class SavedModel:
    """Files written, and whether the model read back from its file predicts the same numbers."""

    model: Path
    plot: Path
    size: int
    identical: bool


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, and try to write there: better before the training than after.

    Raises
    ------
    OSError
        If files cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}; name another folder.") from error


def make_pipeline(bonds: Any, *, max_iter: int = 400, random_state: int = 0, verbose: int = 0) -> Pipeline:
    """Return the pipeline that is trained: L_4^(3), one 16x32 network per species.

    Forces turn with the crystal, and so do the predictions: networks are averaged over the operations of each
    site. The penalty on the scatter over them is larger than by default, because structures are few.

    Parameters
    ----------
    bonds
        As in `CycleMomentFeaturizer`.
    max_iter : int
        L-BFGS iterations per network.
    random_state, verbose : int
        As in `BPNNRegressor`.
    """
    return Pipeline(
        [
            ("embed", CycleMomentFeaturizer(n=4, N=3, bonds=bonds)),
            (
                "net",
                BPNNRegressor(
                    hidden_layer_sizes=(16, 32),
                    alpha=1e-4,
                    symmetry_penalty=0.3,
                    max_iter=max_iter,
                    n_jobs=-1,
                    random_state=random_state,
                    verbose=verbose,
                ),
            ),
        ]
    )


def split(data: Bunch, seed: int) -> tuple[Ints, Ints]:
    """Numbers of the training and of the held-out structures.

    One thermal structure in five is held out, whole groups at a time (here, a group is one random seed,
    hence one structure), with the same share of each temperature. The reference structure, around which all
    others were drawn, is for training.

    Parameters
    ----------
    data : Bunch
        From `load_batio3` or `load_moo3`.
    seed : int
    """
    thermal = np.flatnonzero(data.temperatures > 0)
    folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    _, held_out = next(folds.split(thermal, data.temperatures[thermal], data.groups[thermal]))
    test = thermal[held_out]
    return np.setdiff1d(np.arange(len(data.structures)), test), test


def describe_features(featurizer: CycleMomentFeaturizer) -> list[SpeciesFeatures]:
    """Bonds and vector contents per species, of a fitted featurizer, in the order of the periodic table."""
    table = featurizer.table_
    numbers = table.graph.numbers
    environments = table.graph.coordination_by_species()
    # Walks that share a column are summed, and count once.
    used = np.unique(np.column_stack([table.walk_rows, table.walk_columns]), axis=0)[:, 0]
    walks = np.bincount(used, minlength=len(numbers))
    neighbors = np.bincount(table.neighbor_rows, minlength=len(numbers))
    return [
        SpeciesFeatures(
            species=species_name(z),
            n_atoms=int(np.count_nonzero(numbers == z)),
            environments=dict(sorted(environments[species_name(z)].items())),
            walks=int(walks[numbers == z].max()),
            neighbors=int(neighbors[numbers == z].max()),
        )
        for z in np.unique(numbers)
    ]


def train(pipeline: Pipeline, data: Bunch, structures: Ints) -> float:
    """Fit on the given structures; returns the seconds it took."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        # To stop at max_iter is the plan here, and no news.
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit([data.structures[i] for i in structures], data.target[structures])
    return time.perf_counter() - start


def evaluate(
    true: PerAtomArray, predicted: PerAtomArray, temperatures: NDArray[np.float64]
) -> list[ErrorLine]:
    """Errors of all, per species and per temperature.

    Parameters
    ----------
    true, predicted : PerAtomArray of shape (n_structures, 3)
        Forces, eV/Angstrom.
    temperatures : ndarray of shape (n_structures,)
        K.
    """
    order = np.argsort(temperatures, kind="stable")
    labels = [f"{temperature:.0f} K" for temperature in temperatures[order]]
    lines = error_lines("forces", true[order], predicted[order], labels)
    return [replace(line, part="temperature") if line.part == "file" else line for line in lines]


def save(
    pipeline: Pipeline,
    folder: Path,
    name: str,
    title: str,
    structures: list[Any],
    true: PerAtomArray,
    predicted: PerAtomArray,
    metadata: dict[str, Any],
) -> SavedModel:
    """Write the model and a parity plot, then read the model back and predict again.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted.
    folder : Path
        Made if it is not there.
    name, title : str
        First part of the file names, and what stands over the plot.
    structures, true, predicted
        Held-out structures with their forces and the predictions of `pipeline`.
    metadata : dict
        Kept in the model file.
    """
    make_folder(folder)
    model, plot = (folder / f"{name}{ending}" for ending in ENDINGS)
    save_model(pipeline, model, metadata)
    display = ParityDisplay.from_predictions(true, predicted)
    display.ax_.set_title(title)
    display.figure_.savefig(plot)
    again = load_model(model).predict(structures)
    return SavedModel(model, plot, model.stat().st_size, bool(np.array_equal(again.values, predicted.values)))
