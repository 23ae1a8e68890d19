"""Operations on structures that must not matter, and what "not matter" means for per-atom features.

The operations return copies. The assertions compare `PerAtomArray` rows with a tolerance by dtype, and treat
the columns by their names: scalars (``L4[...]``, ``mu4[...]``), vectors (``N2[...].x``, ``.y``, ``.z``) and
species (``...Z``).
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import spglib
from ase import Atoms
from numpy.testing import assert_allclose, assert_array_equal

from tinynet_sklearn import CycleMomentFeaturizer, PerAtomArray

#: Absolute tolerance per dtype; features are of the order of one, coordinates of a few Angstrom.
TOLERANCE = {np.dtype("float64"): 1e-10, np.dtype("float32"): 5e-6}

MIRROR = np.diag([1.0, 1.0, -1.0])


# ---- Operations --------------------------------------------------------------------------------------------


def random_rotation(seed: int, proper: bool = True) -> np.ndarray:
    """Orthogonal matrix, with a mirror plane unless ``proper``."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return rotation if (np.linalg.det(rotation) > 0) == proper else rotation @ MIRROR


def rotated(atoms: Atoms, rotation: np.ndarray) -> Atoms:
    """Turn atoms and cell: v -> rotation @ v."""
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation.T, scale_atoms=False)
    turned.positions = atoms.positions @ rotation.T
    return turned


def translated(atoms: Atoms, shift: Sequence[float]) -> Atoms:
    """Move all atoms, not the cell."""
    moved = atoms.copy()
    moved.positions += shift
    return moved


def wrapped(atoms: Atoms) -> Atoms:
    """Bring every atom into the cell, along periodic directions."""
    inside = atoms.copy()
    inside.wrap()
    return inside


def strayed(atoms: Atoms, seed: int) -> Atoms:
    """Move every atom by a lattice vector of its own, along periodic directions."""
    far = atoms.copy()
    images = np.random.default_rng(seed).integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
    far.positions += images @ atoms.cell.array
    return far


@dataclass(frozen=True, eq=False)
class SpaceGroupOperation:
    """x -> rotation @ x + translation, which carries atom i of an ideal crystal onto atom ``images[i]``."""

    rotation: np.ndarray
    translation: np.ndarray
    images: np.ndarray

    def image(self, atoms: Atoms) -> Atoms:
        """Apply to a distorted frame of the crystal; atoms take the numbers of the sites they reach."""
        carried = atoms.copy()
        carried.positions[self.images] = atoms.positions @ self.rotation.T + self.translation
        return carried


def space_group(ideal: Atoms) -> Iterator[SpaceGroupOperation]:
    """All operations of the space group of an ideal crystal, up to lattice translations."""
    scaled = ideal.get_scaled_positions(wrap=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)  # spglib 2.7 and 2.8
        data = spglib.get_symmetry_dataset((ideal.cell.array, scaled, ideal.numbers), symprec=1e-5)
    columns = ideal.cell.array.T
    for turn, shift in zip(data.rotations, data.translations, strict=True):
        distance = (scaled @ turn.T + shift)[:, None] - scaled
        there = np.abs(distance - np.round(distance)).max(axis=2) < 1e-4
        assert_array_equal(there.sum(axis=0), 1)
        yield SpaceGroupOperation(
            rotation=columns @ turn @ np.linalg.inv(columns),
            translation=columns @ shift,
            images=there.argmax(axis=1),
        )


# ---- Columns by their names --------------------------------------------------------------------------------


def scalar_columns(featurizer: CycleMomentFeaturizer) -> np.ndarray:
    """Columns of walks and moments."""
    names = featurizer.get_feature_names_out()
    return np.array([k for k, name in enumerate(names) if name.startswith(("L", "mu"))], dtype=int)


def vector_columns(featurizer: CycleMomentFeaturizer) -> np.ndarray:
    """Columns (n_vectors, 3) of the coordinates x, y, z."""
    names = featurizer.get_feature_names_out()
    x = np.array([k for k, name in enumerate(names) if name.endswith(".x")], dtype=int)
    assert all(names[k + 1].endswith(".y") and names[k + 2].endswith(".z") for k in x)
    return x[:, None] + np.arange(3)


def with_turned_vectors(
    featurizer: CycleMomentFeaturizer, rows: np.ndarray, rotation: np.ndarray
) -> np.ndarray:
    """Rows with rotation @ v for each of their vectors v."""
    turned = rows.copy()
    columns = vector_columns(featurizer)
    turned[:, columns] = rows[:, columns] @ rotation.T
    return turned


# ---- Assertions --------------------------------------------------------------------------------------------


def assert_same_rows(found: np.ndarray, expected: np.ndarray, scale: float = 1.0) -> None:
    """Equal number for number, to the tolerance of the dtype."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert_allclose(found, expected, rtol=0, atol=scale * TOLERANCE[found.dtype])


def assert_same_features(found: PerAtomArray, expected: PerAtomArray) -> None:
    """Equal rows, structures and species; where there are frames, equal frames."""
    assert_array_equal(found.offsets, expected.offsets)
    assert_array_equal(found.species, expected.species)
    assert_same_rows(found.values, expected.values)
    assert (found.frames is None) == (expected.frames is None)
    if found.frames is not None:
        assert_array_equal(found.frames.sites, expected.frames.sites)
        assert_allclose(found.frames.rotations, expected.frames.rotations, rtol=0, atol=1e-9)


def operation_between(symmetry, site: int, rotation: np.ndarray) -> int:
    """Number of the site group's operation with a rotation; fails if it is not one of them."""
    distance = np.abs(symmetry.rotations[site] - rotation).max(axis=(1, 2))
    assert distance.min() < 1e-6, f"the site group of class {site} lacks\n{rotation}"
    return int(distance.argmin())


def assert_same_up_to_frames(
    found: PerAtomArray, expected: PerAtomArray, turn: np.ndarray, images=None
) -> None:
    """``found`` is the crystal of ``expected`` turned by ``turn``, atom i arriving at ``images[i]``.

    The two may be written in different frames. The frames alone say which operation of the site group leads
    from one row to the other; exactly that one must turn row i into row images[i].
    """
    images = np.arange(len(expected.values)) if images is None else images
    symmetry = expected.frames.symmetry
    assert_array_equal(found.frames.sites[images], expected.frames.sites)
    for row, image in enumerate(images):
        site = int(expected.frames.sites[row])
        into = found.frames.rotations[image] @ turn @ expected.frames.rotations[row].T
        operation = operation_between(symmetry, site, into)
        assert_same_rows(
            found.values[image][None], symmetry.apply(expected.values[row][None], site, operation)
        )
