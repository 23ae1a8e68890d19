"""From what users pass to the rows that networks learn from: checks, site frames, symmetry copies.

Free functions between `PerAtomArray` and plain arrays. A vector target (a force) is learned in the frame of
its site; there the operations of the site group turn one training row into several equally true ones, or
one prediction into an average that obeys the symmetry exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import r2_score

from tinynet_sklearn._validation import described, first_few, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import ColumnSymmetry, FloatArray, IntArray
from tinynet_sklearn.targets import as_target

__all__ = [
    "anonymous",
    "augmented",
    "check_finite",
    "check_groups",
    "check_structure_weights",
    "draw_held_out",
    "is_per_atom",
    "lost_site_groups",
    "merged",
    "network_keys",
    "per_atom_targets",
    "r2_of_rows",
    "refuse_structures",
    "require_symmetry",
    "resolved_average",
    "resolved_copies",
]

#: Operations used by ``symmetry_copies="auto"`` without averaging: most of what copies can give, for a sixth
#: of the time of all 48 of a cubic site.
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


def draw_held_out(groups: IntArray, fraction: float, rng: np.random.RandomState) -> IntArray:
    """Choose the structures that validate: whole groups, until they hold the fraction that is wanted.

    Parameters
    ----------
    groups : ndarray of shape (n_structures,), int
        Number of the group of each structure.
    fraction : float
        Of the structures, between 0 and 1.
    rng : numpy.random.RandomState
        Draws the groups.

    Returns
    -------
    ndarray of int
        The chosen structures.

    Raises
    ------
    ValueError
        If none would be left to train on.
    """
    n_structures = len(groups)
    labels, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(labels))
    n_wanted = int(np.ceil(fraction * n_structures))
    n_drawn = int(np.searchsorted(np.cumsum(sizes[order]), n_wanted)) + 1
    if n_drawn >= len(labels):
        in_groups = "" if len(labels) == n_structures else f" in {len(labels)} groups"
        raise ValueError(
            f"early_stopping=True must leave structures to train on; validation_fraction={fraction:.3g} "
            f"holds out {sizes[order[:n_drawn]].sum()} of {n_structures}{in_groups}. Pass more "
            f"{'groups' if in_groups else 'structures'} or early_stopping=False."
        )
    return np.flatnonzero(np.isin(group, order[:n_drawn]))


def check_groups(groups: ArrayLike | None, n_structures: int) -> IntArray:
    """Number the groups of structures that validate together; every structure is its own without any.

    Parameters
    ----------
    groups : array-like of shape (n_structures,) or None
        Labels of any kind that can be sorted.
    n_structures : int
        How many there must be.

    Returns
    -------
    ndarray of shape (n_structures,), int

    Raises
    ------
    ValueError
        If the shape is wrong.
    """
    if groups is None:
        return np.arange(n_structures)
    labels = np.asarray(groups)
    if labels.shape != (n_structures,):
        raise ValueError(
            f"groups must hold one label for each of the {n_structures} structures; got shape {labels.shape}."
        )
    return np.unique(labels, return_inverse=True)[1]


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


def r2_of_rows(y: Any, predicted: Any, sample_weight: ArrayLike | None) -> float:
    """Coefficient of determination R² over all rows, averaged over the target columns.

    Parameters
    ----------
    y : PerAtomArray, list of array-like, or array-like
        Targets as `fit` takes them.
    predicted : PerAtomArray or ndarray
        What a regressor says of the same atoms or rows, vectors in the laboratory frame.
    sample_weight : array-like or None
        Weight of each structure, or of each row of a plain table.

    Returns
    -------
    float
    """
    if not isinstance(predicted, PerAtomArray):
        return float(r2_score(y, predicted, sample_weight=sample_weight))
    weight = check_structure_weights(sample_weight, len(predicted))
    per_row = None if weight is None else weight[predicted.structure_of_row]
    return float(r2_score(per_atom_targets(y, predicted), predicted.values, sample_weight=per_row))


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


def resolved_average(atoms: PerAtomArray, symmetry_average: bool | int | str) -> int:
    """Over how many operations of site groups to average at most; "auto" takes all where they are known.

    Returns
    -------
    int
        1 without averaging.

    Raises
    ------
    ValueError
        If averaging is asked for and `atoms` carries no symmetry.
    """
    asked_by = f"symmetry_average={symmetry_average!r}"
    if symmetry_average == "auto":
        symmetry_average = atoms.frames is not None and atoms.frames.symmetry is not None
    if not symmetry_average:
        return 1
    symmetry = require_symmetry(atoms, asked_by)
    if isinstance(symmetry_average, bool | np.bool_):
        return max(len(rotations) for rotations in symmetry.rotations)
    return int(symmetry_average)


def resolved_copies(atoms: PerAtomArray, symmetry_copies: int | str, averages: bool) -> int | str:
    """How often rows are to be repeated.

    "auto" asks for `AUTO_COPIES` where the site groups are known and the network is not averaged over them,
    which makes copies of a row equal.

    Raises
    ------
    ValueError
        If copies are asked for and `atoms` carries no symmetry.
    """
    known = atoms.frames is not None and atoms.frames.symmetry is not None
    if symmetry_copies == "auto":
        return AUTO_COPIES if known and not averages else 1
    if symmetry_copies != 1:
        require_symmetry(atoms, f"symmetry_copies={symmetry_copies!r}")
    return symmetry_copies


def lost_site_groups(
    atoms: PerAtomArray, symmetry_average: bool | int | str, symmetry_copies: int | str
) -> str | None:
    """What to warn of where "auto" finds that a step has cost features their site groups.

    Returns
    -------
    str or None
        None where nothing was lost, or nothing is missed.
    """
    if atoms.frames is None or atoms.frames.symmetry is not None:
        return None
    if symmetry_average == "auto":
        consequence = "symmetry_average='auto' therefore trains networks that do not obey the site symmetry"
        silence = "symmetry_average=False and symmetry_copies=1"
    elif symmetry_copies == "auto":
        consequence = (
            "symmetry_copies='auto' therefore trains on every row once instead of on "
            f"{AUTO_COPIES} symmetry copies of it"
        )
        silence = "symmetry_copies=1"
    else:
        return None
    return (
        "X carries site frames but no site groups: a step before the regressor scaled, mixed, selected or "
        f"joined columns. {consequence}, which often costs accuracy. Drop that step if it is a scaler "
        f"(the regressor scales its inputs itself), or set {silence} to silence this warning."
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
    values: FloatArray, targets: FloatArray, weight: FloatArray, sites: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
    """Sort rows by their bits and join equal ones of the same site class, whose weights add up.

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
    sites : ndarray of shape (n_rows,), int
        Site classes.

    Returns
    -------
    values, targets, weight, sites : ndarray
        Of the distinct rows.
    """
    # of the widest of the types: nothing is rounded
    table = np.concatenate([values, targets, sites[:, None].astype(np.float64)], axis=1)
    keys = table.view(np.dtype((np.void, table.itemsize * table.shape[1]))).ravel()
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.append(True, keys[1:] != keys[:-1])
    total: FloatArray = np.bincount(np.cumsum(first) - 1, weights=weight[order]).astype(np.float64)
    kept = order[first]
    return values[kept], targets[kept], total, sites[kept]
