"""Smooth vectors: sums over walks of the direction of their first hop."""

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from numpy.polynomial.chebyshev import chebvander
from numpy.testing import assert_allclose
from scipy.stats import ortho_group

from tinynet_sklearn import SmoothMomentFeaturizer
from tinynet_sklearn.vector_moments import vector_names

SETTINGS = {"cutoff": 4.0, "n_pair": 4, "n_triangle": 2, "n_square": 1, "n_vector": 2, "inner": 0.5}


def cluster(seed=0) -> Atoms:
    return Atoms("TiO2BaTiO", positions=1.6 * np.random.default_rng(seed).normal(size=(6, 3)))


def crystal() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=4.2)
    atoms.rattle(0.1, seed=1)
    return atoms


def vectors_by_definition(atoms: Atoms, featurizer: SmoothMomentFeaturizer) -> np.ndarray:
    """All vectors of a cluster, from the formulas, with full tensors."""
    moments = featurizer.moments_
    weights = np.eye(len(moments.species)) if moments.weights is None else np.array(moments.weights)
    w = weights[np.searchsorted(moments.species, atoms.numbers)]
    d = atoms.get_all_distances()
    far, near = np.exp(-moments.decay * moments.cutoff), np.exp(-moments.decay * moments.inner)
    x = 2 * (np.exp(-moments.decay * d) - far) / (near - far) - 1
    bonded = (d > 0) & (d < moments.cutoff)
    h = (
        chebvander(x, moments.n_pair - 1)
        * np.where(bonded, (1 - (d / moments.cutoff) ** 2) ** 3, 0)[..., None]
    )
    u = (atoms.positions[None] - atoms.positions[:, None]) / (d + np.eye(len(atoms)))[..., None]
    g = h[:, :, : featurizer.n_vector]
    two = np.einsum("ija,ijx,jc->icax", h, u, w)
    parts = [two]
    if moments.n >= 3:
        parts.append(np.einsum("ija,jkb,kie,ijx,jc,kd->icdabex", g, g, g, u, w, w, optimize=True))
    if moments.n >= 4:
        sums = np.einsum("jkb,kd->jdb", g, w)
        own = two[:, :, : featurizer.n_vector]
        square = u[..., None] * u[..., None, :] - np.eye(3) / 3
        tensors = np.einsum("jkb,jkxy,kd->jdbxy", g, square, w)
        parts.append(np.einsum("ija,jdb,ijx,jc->icadbx", g, sums, u, w))
        for pointed in (
            np.broadcast_to(own, (len(atoms), *own.shape)),
            np.einsum("jdbxy,ijy->ijdbx", tensors, u),
        ):
            parts.append(np.einsum("ija,ijdbx,jc->icadbx", g, pointed, w))
            parts.append(np.einsum("ija,ijdby,ijy,ijx,jc->icadbx", g, pointed, u, u, w))
    return np.concatenate([part.reshape(len(atoms), -1, 3) for part in parts], axis=1)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("channels", [None, 3, 2])
def test_vectors_are_the_sums_of_their_definition(n, channels):
    structures = [cluster(0), cluster(1)]
    featurizer = SmoothMomentFeaturizer(n=n, species_channels=channels, **SETTINGS).fit(structures)
    features = featurizer.transform(structures)
    expected = np.concatenate([vectors_by_definition(atoms, featurizer) for atoms in structures])
    assert_allclose(features.vectors, expected, rtol=0, atol=1e-13)
    assert np.abs(expected).max() > 0.1
    names = vector_names(featurizer.moments_, 2)
    assert len(names) == len(set(names)) == expected.shape[1]


def test_names_follow_the_walks():
    featurizer = SmoothMomentFeaturizer(n_pair=1, n_vector=1).fit([crystal()])
    assert vector_names(featurizer.moments_, 1) == [
        "v2[Na]0", "v2[Cl]0",
        "v3[Na-Na]0,0,0", "v3[Na-Cl]0,0,0", "v3[Cl-Na]0,0,0", "v3[Cl-Cl]0,0,0",
        *(
            f"v4[{walk}]0,0.{kind}"
            for kind in ("s", "v", "v|", "t", "t|")
            for walk in ("Na-Na-Na", "Na-Cl-Na", "Cl-Na-Cl", "Cl-Cl-Cl")
        ),
    ]  # fmt: skip


def test_periodic_images_are_neighbours_like_others():
    small, big = crystal(), make_supercell(crystal(), [[2, 1, 0], [0, 2, 0], [0, 0, 1]])
    featurizer = SmoothMomentFeaturizer(n_vector=2).fit([small])
    one, many = featurizer.transform([small]), featurizer.transform([big])
    for vectors, number in zip(many.vectors, many.species, strict=True):
        assert_allclose(vectors, one.vectors[one.species == number][0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("make", [cluster, crystal])
def test_vectors_turn_with_the_structure_and_ignore_its_numbering(make, channels):
    atoms = make()
    featurizer = SmoothMomentFeaturizer(n_vector=2, species_channels=channels).fit([atoms])
    vectors = featurizer.transform([atoms]).vectors
    for seed in range(3):  # rotations and reflections
        turn = ortho_group.rvs(3, random_state=seed)
        order = np.random.default_rng(seed).permutation(len(atoms))
        other = atoms[order]
        other.set_cell(other.cell.array @ turn.T)
        other.set_positions(other.positions @ turn.T + [0.3, -7.0, 1.0])
        found = featurizer.transform([other]).vectors
        assert_allclose(found, vectors[order] @ turn.T, rtol=0, atol=1e-12 * np.abs(vectors).max())


def test_vectors_have_no_kinks_where_bonds_form():
    featurizer = SmoothMomentFeaturizer(cutoff=3.0, n_vector=2, inner=0.8)
    frames = [
        Atoms("CCO", positions=[[0, 0, 0], [1.2, 0.3, 0], [d, 0, 0.4]]) for d in np.linspace(2.9, 3.1, 201)
    ]
    vectors = featurizer.fit(frames[:1]).transform(frames).vectors.reshape(201, -1)
    assert np.ptp(vectors, axis=0).max() > 1e-4  # the bond ends on the way
    curvature = np.diff(vectors, n=2, axis=0) / 1e-3**2
    assert np.abs(curvature).max() < 20
    assert np.abs(np.diff(curvature, axis=0)).max() < 0.2  # and has no jump


def test_vectors_share_the_hopping_functions_of_pairs():
    message = "n_vector must be at most n_pair=2, whose hopping functions vectors share; got 3. Raise n_pair."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SmoothMomentFeaturizer(n_pair=2, n_vector=3).fit([crystal()])
    assert SmoothMomentFeaturizer().fit_transform([crystal()]).vectors is None


def test_columns_stay_what_they_are_without_vectors():
    plain, directed = (SmoothMomentFeaturizer(n_vector=k).fit_transform([crystal()]) for k in (0, 3))
    assert_allclose(plain.values, directed.values, rtol=0, atol=0)
    assert directed.geometry is not None


def test_a_cutoff_that_reaches_nobody_is_refused():
    message = "a cutoff of 1 Angstrom must reach a neighbour of some atom in X; it reaches none. Raise it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SmoothMomentFeaturizer(cutoff=1.0).fit([crystal()])
