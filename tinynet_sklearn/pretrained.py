"""Potentials that come with the package, each with a model card; made by ``benchmarks/pretrained.py``.

The card is kept inside the model file, so a model and what is known of it cannot be parted.
"""

from __future__ import annotations

import warnings
from importlib.resources import as_file, files
from typing import Any

from sklearn.exceptions import InconsistentVersionWarning

from tinynet_sklearn.persistence import load_model

__all__ = ["PRETRAINED", "load_pretrained"]

#: Names of the models.
PRETRAINED = ("batio3", "moo3")


def load_pretrained(name: str, return_card: bool = False) -> Any:
    """Load a potential for one of the bundled materials.

    Parameters
    ----------
    name : {"batio3", "moo3"}
        BaTiO3 near its cubic structure; alpha-MoO3. What each can do and cannot says its card.
    return_card : bool, default=False
        Whether to return the model card, too.

    Returns
    -------
    model : sklearn.pipeline.Pipeline
        Fitted; ``model.predict(structures, output="all")``, or `TinyNetCalculator(model)` for ASE. The
        structures must be of the material, in the cell of the data it was trained on or, through the
        calculator, in any supercell of it.
    card : dict
        Only if `return_card`: "material", "data", "method", "held_out_errors" with their split, "limits",
        "units", "command".

    Raises
    ------
    ValueError
        If there is no model of that name.

    Examples
    --------
    >>> from tinynet_sklearn import load_batio3, load_pretrained
    >>> model, card = load_pretrained("batio3", return_card=True)
    >>> model.predict(load_batio3().structures[:2], output="all")
    <PotentialTargets: 2 structures, energy, forces, stress>
    >>> card["units"]["energy"]
    'eV'
    """
    if name not in PRETRAINED:
        raise ValueError(f"name must be one of {', '.join(map(repr, PRETRAINED))}; got {name!r}.")
    path = files("tinynet_sklearn") / "models" / f"{name}.tinynet"
    with as_file(path) as file, warnings.catch_warnings():
        # Of scikit-learn they hold the list of steps alone, which is the same in all versions.
        warnings.filterwarnings(
            "ignore", message=".*estimator Pipeline from version", category=InconsistentVersionWarning
        )
        return load_model(file, return_metadata=return_card)
