"""Rows of real crystals as networks learn from them: in site frames, scaled, with their site groups."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from ase.data import atomic_numbers
from crystals import BONDED, trajectory

from tinynet_sklearn import CycleMomentFeaturizer, PerAtomArray, load_batio3, load_moo3
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.frames import ColumnSymmetry
from tinynet_sklearn.recorder import TrainingSet
from tinynet_sklearn.scaling import ColumnScaling, fit_symmetric_scaling

#: Crystal, and the species whose atoms share one network (None: all), with the order of their site groups.
#: Among them are one class of 48 operations, several classes in one species, a group of the identity alone,
#: and a crystal whose columns never vary.
CASES = {
    "perovskite O": ("perovskite", "O", [16]),
    "perovskite, all atoms": ("perovskite", None, [48, 48, 16]),
    "BaTiO3 Ti": ("BaTiO3", "Ti", [48]),
    "alpha-MoO3 O": ("alpha-MoO3", "O", [2, 4, 8]),
    "wurtzite Zn": ("wurtzite", "Zn", [6]),
    "rutile O": ("rutile", "O", [4]),
    "slab O": ("slab", "O", [8, 4, 8, 4]),
    "methanol H": ("methanol", "H", [2, 2, 1]),
    "fcc": ("fcc", None, [48]),
}


@dataclass(frozen=True, eq=False)
class SiteRows:
    """Rows of the atoms that share a network, physical and unscaled, with the scaling of their columns."""

    values: np.ndarray
    sites: np.ndarray
    symmetry: ColumnSymmetry
    inputs: ColumnScaling

    @property
    def classes(self) -> np.ndarray:
        """Site classes that occur."""
        return np.unique(self.sites)

    def of(self, site: int) -> np.ndarray:
        """The rows of one site class."""
        return self.values[self.sites == site]

    def action(self, site: int, vector: bool) -> GroupAction:
        """The group of a site class behind the scaling."""
        return GroupAction.of_site(self.symmetry, int(site), self.inputs, vector)

    def training_set(
        self, targets: np.ndarray, weight: np.ndarray, vector: bool, dtype: str = "float64"
    ) -> TrainingSet:
        """What a solver is given; every row is a structure of its own."""
        return TrainingSet(
            self.inputs.apply(self.values, dtype),
            targets.astype(dtype),
            weight / weight.sum(),
            np.arange(len(self.values)),
            tuple(self.action(site, vector) for site in self.classes),
            np.searchsorted(self.classes, self.sites),
        )


@cache
def features(name: str, n: int = 4, N: int = 2) -> PerAtomArray:
    """Site-frame features of a few thermal frames of a crystal in `BONDED`, or of bundled data."""
    bundled = {"BaTiO3": load_batio3, "alpha-MoO3": load_moo3}
    if name in bundled:
        data = bundled[name]()
        frames, bonds = data.structures[1:4], data.bonds
        reference = data.structures[0]
    else:
        make, bonds = BONDED[name]
        frames, reference = trajectory(make(), 4), make()
    embed = CycleMomentFeaturizer(n=n, N=N, bonds=bonds, paths="simple", reference=reference)
    return embed.fit(frames).transform(frames)


def site_rows(case: str, how: str | None = "standard", n: int = 4, N: int = 2) -> SiteRows:
    """Rows of one of the `CASES` with the given kind of scaling."""
    crystal, species, _ = CASES[case]
    X = features(crystal, n, N)
    ours = np.full(len(X.species), True) if species is None else X.species == atomic_numbers[species]
    values, sites, symmetry = X.values[ours], X.frames.sites[ours], X.frames.symmetry
    return SiteRows(values, sites, symmetry, fit_symmetric_scaling(values, None, sites, symmetry, how, 1e-6))
