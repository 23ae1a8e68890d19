"""From what users pass to the rows that networks learn from: checks, site frames, symmetry copies.

Free functions between `PerAtomArray` and plain arrays. A vector target (a force) is learned in the frame of
its site; there the operations of the site group turn one training row into several equally true ones, or
one prediction into an average that obeys the symmetry exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn._validation import described, first_few, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import ColumnSymmetry, FloatArray, IntArray
from tinynet_sklearn.targets import as_target

__all__ = [
    "anonymous",
    "augmented",
    "averaged",
    "check_finite",
    "check_structure_weights",
    "draw_held_out",
    "is_per_atom",
    "lost_site_groups",
    "merged",
    "network_keys",
    "per_atom_targets",
    "refuse_structures",
    "require_symmetry",
    "resolved_copies",
]

#: Operations used by ``symmetry_copies="auto"``: most of the gain of the 48 of a cubic site, for a sixth of
#: the time.
AUTO_COPIES = 8


def anonymous(table: FloatArray) -> PerAtomArray:
    """Read a plain table as structures of one atom of the unnamed species 0."""
    n_rows = len(table)
    return PerAtomArray(table, np.arange(n_rows + 1), np.zeros(n_rows, dtype=np.int64))


def refuse_structures(X: Any) -> None:
    """Refuse structures where features are wanted; scikit-learn's checks would read them as odd tables.

    Raises
    ------
    TypeError
        If X is an ASE or pymatgen structure, or a list of them.
    """
    first = X[0] if isinstance(X, list | tuple) and X else X
    if hasattr(first, "get_positions") or hasattr(first, "lattice"):
        raise TypeError(
            f"X must be features, a PerAtomArray or a 2-D array; got structures ({described(X)}). Put a "
            "CycleMomentFeaturizer before the regressor in a Pipeline."
        )


def draw_held_out(n_structures: int, fraction: float, rng: np.random.RandomState) -> IntArray:
    """Choose the structures that validate, rounding their number up.

    Raises
    ------
    ValueError
        If none would be left to train on.
    """
    n_held_out = int(np.ceil(fraction * n_structures))
    if n_held_out >= n_structures:
        raise ValueError(
            f"early_stopping=True must leave structures to train on; validation_fraction={fraction:.3g} "
            f"holds out {n_held_out} of {n_structures}. Pass more structures or early_stopping=False."
        )
    return rng.permutation(n_structures)[:n_held_out]


def is_per_atom(y: Any) -> bool:
    """Whether targets come structure by structure rather than as one table."""
    if isinstance(y, PerAtomArray):
        return True
    return isinstance(y, list | tuple) and len(y) > 0 and np.ndim(y[0]) >= 2


def per_atom_targets(y: Any, X: PerAtomArray) -> FloatArray:
    """Targets of the atoms of `X` as rows in the laboratory frame.

    Parameters
    ----------
    y : PerAtomArray or sequence of array-like of shape (n_atoms, k) or (n_atoms,)
        As for `as_target`.
    X : PerAtomArray
        The atoms.

    Returns
    -------
    ndarray of shape (n_rows, k), float64

    Raises
    ------
    TypeError
        If the structures cannot be told.
    ValueError
        If y does not fit the atoms of X or holds NaN or infinity.
    """
    target = as_target(y, X)
    check_finite(target, "y")
    values = target.values.astype(np.float64)
    if target.frames is not None and values.shape[1] == 3:
        return target.frames.to_lab(values)
    return values


def check_finite(atoms: PerAtomArray, name: str) -> None:
    """Refuse NaN and infinity, naming structure and atom.

    Parameters
    ----------
    atoms : PerAtomArray
        What to check.
    name : str
        The argument it came as.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    if np.isfinite(atoms.values.sum()):  # cheap and sufficient; only a sum that overflowed needs the long way
        return
    bad = np.argwhere(~np.isfinite(atoms.values))
    if not len(bad):
        return
    first_of_row = bad[np.unique(bad[:, 0], return_index=True)[1]]
    rows = first_of_row[:, 0]
    structures = atoms.structure_of_row[rows]
    cases = [
        f"{atoms.values[row, column]} in column {column} of atom {row - atoms.offsets[i]} "
        f"({species_name(atoms.species[row])}) of structure {i}"
        for (row, column), i in zip(first_of_row[:3], structures[:3], strict=True)
    ]
    more = f"; and {len(rows) - len(cases)} more" if len(rows) > len(cases) else ""
    raise ValueError(
        f"{name} must be finite; got {'; '.join(cases)}{more}. Leave these structures out or repair them."
    )


def check_structure_weights(sample_weight: ArrayLike | None, n_structures: int) -> FloatArray | None:
    """One weight, zero or more, per structure.

    Parameters
    ----------
    sample_weight : array-like of shape (n_structures,) or None
        What the user passed.
    n_structures : int
        How many there must be.

    Returns
    -------
    ndarray of shape (n_structures,), float64, or None

    Raises
    ------
    ValueError
        If the shape is wrong, a weight is negative or not finite, or all are zero.
    """
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n_structures,):
        raise ValueError(
            f"sample_weight must hold one weight for each of the {n_structures} structures; got shape "
            f"{weight.shape}."
        )
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        raise ValueError(
            "sample_weight must be finite and not negative; got "
            f"{first_few([f'{weight[i]} for structure {i}' for i in bad])}."
        )
    if not weight.any():
        raise ValueError("sample_weight must be positive for at least one structure; got zeros only.")
    return weight


def require_symmetry(atoms: PerAtomArray, asked_by: str) -> ColumnSymmetry:
    """Return the site groups of features, or say why there are none.

    Raises
    ------
    ValueError
        If `atoms` carries no symmetry.
    """
    if atoms.frames is not None and atoms.frames.symmetry is not None:
        return atoms.frames.symmetry
    missing = "no site frames" if atoms.frames is None else "site frames but no site groups"
    raise ValueError(
        f"{asked_by} needs features on which the site groups act; X carries {missing}. Use "
        "CycleMomentFeaturizer(frame='site') with no step behind it that mixes or selects columns."
    )


def resolved_copies(atoms: PerAtomArray, symmetry_copies: int | str) -> int | str:
    """How often rows are to be repeated; "auto" asks for `AUTO_COPIES` where the site groups are known.

    Raises
    ------
    ValueError
        If copies are asked for and `atoms` carries no symmetry.
    """
    known = atoms.frames is not None and atoms.frames.symmetry is not None
    if symmetry_copies == "auto":
        return AUTO_COPIES if known else 1
    if symmetry_copies != 1:
        require_symmetry(atoms, f"symmetry_copies={symmetry_copies!r}")
    return symmetry_copies


def lost_site_groups(atoms: PerAtomArray, symmetry_copies: int | str) -> str | None:
    """What to warn of where ``symmetry_copies="auto"`` finds that a step has cost features their site groups.

    Returns
    -------
    str or None
        None where nothing was lost.
    """
    if symmetry_copies != "auto" or atoms.frames is None or atoms.frames.symmetry is not None:
        return None
    return (
        "X carries site frames but no site groups: a step before the regressor scaled, mixed, selected or "
        "joined columns. symmetry_copies='auto' therefore trains on every row once instead of on "
        f"{AUTO_COPIES} symmetry copies of it, which often costs accuracy. Drop that step if it is a scaler "
        "(the regressor scales its inputs itself), or set symmetry_copies=1 to silence this warning."
    )


def network_keys(atoms: PerAtomArray, networks: str) -> IntArray:
    """Which network each row belongs to: its atomic number, or its site class with ``"per-site"``.

    Returns
    -------
    ndarray of shape (n_rows,), int

    Raises
    ------
    ValueError
        If sites are asked for and `atoms` carries no site frames.
    """
    if networks != "per-site":
        return atoms.species
    if atoms.frames is None:
        raise ValueError(
            "networks='per-site' needs features that know their sites; X carries no site frames. Use "
            "CycleMomentFeaturizer(frame='site'), or networks='per-species'."
        )
    return atoms.frames.sites


def augmented(
    values: FloatArray,
    targets: FloatArray,
    sites: IntArray,
    symmetry: ColumnSymmetry,
    copies: int | str,
    vector: bool,
    rng: np.random.RandomState,
) -> tuple[FloatArray, FloatArray, IntArray, FloatArray]:
    """Repeat rows under operations of their site groups.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_features)
        Features in site frames.
    targets : ndarray of shape (n_rows, k)
        Targets, in site frames if they are vectors.
    sites : ndarray of shape (n_rows,), int
        Site class of each row.
    symmetry : ColumnSymmetry
        The site groups.
    copies : int or "all"
        How many distinct operations to use per site class, the identity always among them; a smaller
        group gives all it has.
    vector : bool
        Whether the targets turn with the frame, ``y' = R_op y``.
    rng : numpy.random.RandomState
        Draws the operations of each site class.

    Returns
    -------
    values, targets : ndarray
        The repeated rows; copies of one row keep the order of the rows.
    row : ndarray of shape (n_copies,), int
        The row that each copy was made from, ascending.
    share : ndarray of shape (n_copies,)
        1 / copies of that row, so that small groups weigh as much as large ones.
    """
    parts: list[tuple[FloatArray, FloatArray, IntArray, FloatArray]] = []
    for site in np.unique(sites):
        rows = np.flatnonzero(sites == site)
        n_ops = len(symmetry.gather[site])
        n_chosen = n_ops if copies == "all" else min(int(copies), n_ops)
        others = 1 + np.sort(rng.permutation(n_ops - 1)[: n_chosen - 1])
        for op in (0, *others):
            image = symmetry.apply(values[rows], int(site), int(op))
            turned = targets[rows] @ symmetry.rotations[site][op].T if vector else targets[rows]
            parts.append((image, turned, rows, np.full(len(rows), 1.0 / n_chosen)))
    columns = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    order = np.argsort(columns[2], kind="stable")
    return columns[0][order], columns[1][order], columns[2][order], columns[3][order]


def merged(
    values: FloatArray, targets: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sort rows by their bits and join equal ones, whose weights add up.

    Sums over the result are made in one order, whichever way the structures came, and a weight of two is bit
    for bit the same as a row given twice. A chaotic process such as training forgives no rounding error.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_features)
        Features.
    targets : ndarray of shape (n_rows, k)
        Targets.
    weight : ndarray of shape (n_rows,)
        Weights.

    Returns
    -------
    values, targets, weight : ndarray
        Of the distinct rows.
    """
    table = np.concatenate([values, targets], axis=1)  # of the wider of the two types: nothing is rounded
    keys = table.view(np.dtype((np.void, table.itemsize * table.shape[1]))).ravel()
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.append(True, keys[1:] != keys[:-1])
    total: FloatArray = np.bincount(np.cumsum(first) - 1, weights=weight[order]).astype(np.float64)
    kept = order[first]
    return values[kept], targets[kept], total


def averaged(
    predict: Callable[[FloatArray], FloatArray],
    values: FloatArray,
    sites: IntArray,
    symmetry: ColumnSymmetry,
    vector: bool,
    n_outputs: int,
) -> FloatArray:
    """Average predictions over the whole site group of each row.

    ``y = mean over op of R_op^T f(x_op)`` obeys ``y(x_op) = R_op y(x)`` exactly, whatever f is.

    Parameters
    ----------
    predict : callable
        f: features (m, n_features) to targets (m, n_outputs).
    values, sites, symmetry, vector
        As in `augmented`.
    n_outputs : int
        Width of the predictions.

    Returns
    -------
    ndarray of shape (n_rows, n_outputs)
    """
    result = np.zeros((len(values), n_outputs))
    for site in np.unique(sites):
        rows = sites == site
        rotations = symmetry.rotations[site]
        for op, rotation in enumerate(rotations):
            image = predict(symmetry.apply(values[rows], int(site), op))
            result[rows] += (image @ rotation if vector else image) / len(rotations)
    return result
