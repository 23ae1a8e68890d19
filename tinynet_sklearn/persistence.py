"""Fitted models in files that are safe to open: no pickle, no code.

A file is a zip archive in the format of skops (arrays as ``.npy``, the tree of objects as JSON) with one more
member, ``tinynet.json``:

==========  =====================================================================
key         meaning
==========  =====================================================================
format      version of this layout, an integer
package     "tinynet_sklearn"
version     version of the package that wrote the file
class       qualified name of the estimator's class
metadata    what the user wanted to keep beside the model
==========  =====================================================================

Loading creates objects of the types in `TRUSTED_TYPES` and of those that skops trusts itself (scikit-learn,
NumPy, SciPy, containers of Python), and refuses a file that names any other.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn._version import __version__
from tinynet_sklearn.atomic_files import write_atomically

__all__ = ["TRUSTED_TYPES", "load_model", "read_metadata", "save_model"]

FORMAT = 1
HEADER = "tinynet.json"
_PACKAGE = "tinynet_sklearn"

# Types without behaviour of their own at load time: estimators and frozen values made of arrays.
TRUSTED_TYPES = (
    "ase.atoms.Atoms",  # a given reference structure
    "ase.cell.Cell",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",  # a rate and its moments
    *(
        f"{_PACKAGE}.{name}"
        for name in (
            "committee.CommitteeRegressor",
            "containers.PerAtomArray",
            "dscribe_features.DScribeFeaturizer",
            "energy_grid.EnergyGrid",
            "features.CycleMomentFeaturizer",
            "frames.ColumnSymmetry",
            "frames.SiteFrames",
            "graph.BondGraph",
            "graph.CutoffBonds",
            "graph.NaturalBonds",
            "graph.PairBonds",
            "scaling.ColumnScaling",
            "networks.DenseStack",
            "networks.KerasNetwork",
            "moments.SmoothMoments",
            "multi_target.MultiTargetRegressor",
            "paths.PathSpec",
            "per_atom_regressor.PerAtomRegressor",
            "potential.BPNNPotential",
            "preprocessing.PerAtom",
            "regressor.BPNNRegressor",
            "sites.SiteGroup",
            "sites.Sites",
            "smooth.SmoothMomentFeaturizer",
            "structures.AtomicStructure",
            "tables.ColumnLayout",
            "tables.PathTable",
            "target_maps.LinearTargets",
            "target_maps.LinkedTargets",
            "target_maps.OutputLink",
            "training.AtomNetwork",
            "vector_targets.VectorTargets",
        )
    ),
)


def save_model(
    estimator: BaseEstimator, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a fitted estimator or pipeline.

    The file appears under its name only when it is complete; an older file of that name survives any failure.

    Parameters
    ----------
    estimator : BaseEstimator
        A fitted `BPNNRegressor`, `BPNNPotential` or `CommitteeRegressor`, or a pipeline or search of
        scikit-learn around it.
    path : str or path-like
        Where to write.
    metadata : mapping or None, default=None
        Anything that JSON can hold unchanged, with strings as keys.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is none, or holds what `load_model` would refuse; parameters are named.
    ValueError
        If JSON cannot hold the metadata.
    """
    import skops.io

    if not isinstance(estimator, BaseEstimator):
        raise TypeError(f"estimator must be an estimator of scikit-learn; got {described(estimator)}.")
    check_is_fitted(estimator)
    header = {
        "format": FORMAT,
        "package": _PACKAGE,
        "version": __version__,
        "class": f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        "metadata": _checked_metadata(metadata),
    }
    _check_parameters(estimator)
    content = skops.io.dumps(estimator, compression=ZIP_DEFLATED)
    unknown = _untrusted(content)
    if unknown:
        remedy = "Remove the steps or attributes that hold them."
        if hasattr(estimator, "best_estimator_"):  # a search: its scorers are functions
            remedy = "Save its best_estimator_."
        raise TypeError(
            f"estimator must consist of types that load_model trusts; {type(estimator).__name__} holds "
            f"{first_few(unknown)}. {remedy}"
        )
    with ZipFile(buffer := io.BytesIO(content), "a", compression=ZIP_DEFLATED) as archive:
        archive.writestr(HEADER, json.dumps(header, indent=2))
    write_atomically(Path(path), buffer.getvalue())


def load_model(path: str | os.PathLike[str], return_metadata: bool = False) -> Any:
    """Read what `save_model` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.
    return_metadata : bool, default=False
        Whether to return the metadata, too.

    Returns
    -------
    estimator : BaseEstimator
        Fitted as it was saved.
    metadata : dict
        Only if `return_metadata`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    IsADirectoryError
        If it is a folder.
    ValueError
        If the file was not written by `save_model`, by a newer version of it, or is damaged.
    TypeError
        If it holds types that are not trusted.
    """
    import skops.io

    content = _read(Path(path))
    header = _read_header(content, path)
    try:
        unknown = _untrusted(content)
        if not unknown:
            estimator = skops.io.loads(content, trusted=list(TRUSTED_TYPES))
    except Warning:  # which the user's filters made an error
        raise
    except Exception as error:  # a tree of objects that does not fit together breaks anywhere in skops
        raise ValueError(
            f"path must lead to an undamaged model file; '{path}' cannot be read, written by {_PACKAGE} "
            f"{header['version']}: {type(error).__name__}: {error}. Save the model again."
        ) from error
    if unknown:
        raise TypeError(
            f"path must lead to a model of trusted types; '{path}' holds {first_few(unknown)} and was not "
            "loaded. It was not written by save_model as it is; get the file from its author again."
        )
    return (estimator, header["metadata"]) if return_metadata else estimator


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what stands beside the model in a file, without the model.

    No object is made and no array is read, so this is safe and fast with any file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    dict
        "version" of the package that wrote the file, "class" of the estimator, and "metadata", as
        `save_model` got it.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        As `load_model`, but for damage that does not concern these lines.
    """
    header = _read_header(_read(Path(path)), path, whole=False)
    return {name: header[name] for name in ("version", "class", "metadata")}


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise IsADirectoryError(f"path must lead to a model file; '{path}' is a folder. Name a file in it.")
    if not path.exists():
        raise FileNotFoundError(
            f"path must lead to a model file; '{path}' does not exist. Look for typing errors, and where "
            f"relative paths start: '{Path.cwd()}'."
        )
    return path.read_bytes()


def _read_header(content: bytes, path: str | os.PathLike[str], whole: bool = True) -> dict[str, Any]:
    """Check a file, all of its members or the header alone, and return the header."""
    if not content.startswith(b"PK"):
        raise ValueError(
            f"path must lead to a model file of {_PACKAGE}; '{path}' is no zip archive. Write model files "
            "with save_model."
        )
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            damaged = archive.testzip() if whole else None
            header = json.loads(archive.read(HEADER)) if HEADER in names and damaged is None else None
    except (
        BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise _damaged(path, str(error)) from error
    if damaged is not None:
        raise _damaged(path, f"bad checksum of {damaged}")
    if not isinstance(header, dict) or header.get("package") != _PACKAGE:
        raise ValueError(
            f"path must lead to a model file of {_PACKAGE}; '{path}' is another kind of zip archive. Write "
            "model files with save_model."
        )
    number = header.get("format")
    if not isinstance(number, int) or {"version", "class", "metadata"} - header.keys():
        raise _damaged(path, f"incomplete {HEADER}")
    if number > FORMAT:
        raise ValueError(
            f"path must lead to a model file of format {FORMAT} or older; '{path}' has format {number}, "
            f"written by {_PACKAGE} {header['version']}. Update the package: pip install --upgrade "
            f"tinynet-sklearn."
        )
    return header


def _damaged(path: str | os.PathLike[str], why: str) -> ValueError:
    return ValueError(
        f"path must lead to an undamaged model file; '{path}' is not one: {why}. Save the model again, or "
        "copy the file again."
    )


def _checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(metadata or {})
    lost = []
    for key, value in given.items():
        try:
            kept = isinstance(key, str) and json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):
            kept = False
        if not kept:
            lost.append(f"{key!r}: {described(value)}")
    if lost:
        raise ValueError(
            "metadata must come back from JSON as it was: text, numbers, booleans, None, lists and dicts of "
            f"these under keys of text; got {first_few(lost)}. Convert these entries first."
        )
    return given


def _untrusted(content: bytes) -> list[str]:
    """Types in a skops archive that nobody vouches for."""
    import skops.io

    return sorted(set(skops.io.get_untrusted_types(data=content)) - set(TRUSTED_TYPES))


def _check_parameters(estimator: BaseEstimator) -> None:
    """Refuse parameters that would not come back, by name, before anything is written."""
    import skops.io

    refused = []
    remedies: dict[str, None] = {}  # each once, in the order of the parameters
    for name, value in sorted(estimator.get_params(deep=True).items()):
        if value is None or isinstance(value, BaseEstimator | str | int | float):
            continue  # nested estimators are listed parameter by parameter
        if _holds_estimators(value):
            continue
        try:
            unknown = _untrusted(skops.io.dumps(value))
        except Exception as error:  # skops raises whatever the object's own reduction raises
            unknown = [f"{described(value)} ({error})"]
        if unknown:
            refused.append(f"{name}={described(value)} with {first_few(unknown)}")
            remedies[_REMEDIES.get(name.rpartition("__")[2], _OTHER_REMEDY)] = None
    if refused:
        raise TypeError(
            "estimator must have parameters that can be read back without running code; got "
            f"{first_few(refused)}. {' '.join(remedies)}"
        )


_REMEDIES = {
    "bonds": "Fit with PairBonds or CutoffBonds as bonds.",
    "build_fn": "Set build_fn=None after fitting: prediction does not need it.",
}
_OTHER_REMEDY = "Use None, numbers or text for these parameters."


def _holds_estimators(value: Any) -> bool:
    """Whether a parameter is the list of steps of a pipeline or union; its parts are checked one by one."""
    return isinstance(value, list) and all(
        isinstance(part, tuple) and any(isinstance(item, BaseEstimator) for item in part) for part in value
    )
