r"""Species as few numbers: how much an atom of each counts in the channels that stand in for species.

Sums per species sequence grow as S, S^2 and S^3 with the number S of species. Sums per *channel* do with the
number C of channels, which may be smaller: an atom j counts in all channels c, with the weights
:math:`w_c(Z_j)` of its species. Every sum over walks is linear in the indicator of the species at each of its
stops, so the columns of channels are a fixed linear map of those of species,

.. math:: \mu[c, c'] = \sum_{s, t} w_c(s) w_{c'}(t) \mu[s, t],

as in M. J. Willatt, F. Musil and M. Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018). Weights by atomic
number in symmetry functions are those of M. Gastegger et al., J. Chem. Phys. 148, 241709 (2018).

The first channel counts all atoms alike, :math:`w_0 = 1`. The others follow from properties of the elements,
the first ones first (`PROPERTIES`), then from the species one by one, each less what the channels before it
say already (Gram and Schmidt), and scaled:

.. math:: \frac{1}{S} \sum_s w_c(s) w_{c'}(s) = \delta_{cc'}.

So weights are of size one, all but the first have the mean zero, and with C = S they make a matrix of full
rank: channels then say what species do, in other words. What adds nothing is passed over, such as the group
of an element where all species stand in the same one.
"""

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

Floats = NDArray[np.floating]

#: Properties of the elements in the order in which channels use them.
PROPERTIES = ("covalent radius", "Pauling electronegativity", "group", "period")

# Of a property in units of its spread: if less is new, channels before it say it already.
LEAST_NEW = 1e-3


def channel_weights(species: Sequence[int], n_channels: int) -> Floats:
    """Weights of species in channels; see the module's formula.

    Parameters
    ----------
    species : sequence of int
        Atomic numbers, each once.
    n_channels : int
        From 1 to the number of species.

    Returns
    -------
    (n_species, n_channels) ndarray
        The weights of more channels begin with those of fewer.

    Raises
    ------
    ValueError
        If there are more channels than species, or none.
    """
    numbers = np.asarray(species, dtype=np.int64)
    n_species = len(numbers)
    if not 1 <= n_channels <= n_species:
        symbols = ", ".join(chemical_symbols[number] for number in numbers)
        raise ValueError(
            f"species_channels must be from 1 to the number of species in X, {n_species} ({symbols}); got "
            f"{n_channels}. More channels than species say nothing new; None keeps species apart."
        )
    weights: list[Floats] = []
    for candidate in [np.ones(n_species), *_properties(numbers).T, *np.eye(n_species)]:
        if len(weights) == n_channels:
            break
        new = candidate / max(float(np.sqrt(np.mean(candidate**2))), 1e-300)
        for _ in range(2):  # twice: rounding errors of the first pass are taken off by the second
            for known in weights:
                new = new - np.mean(new * known) * known
        size = float(np.sqrt(np.mean(new**2)))
        if size > LEAST_NEW:
            weights.append(new / size)
    return np.stack(weights, axis=1)


def _properties(numbers: NDArray[np.int64]) -> Floats:
    """`PROPERTIES` of elements, less their mean, shape (n_species, n_properties)."""
    from pymatgen.core import Element

    elements = [Element.from_Z(int(number)) for number in numbers]
    # Helium, neon and argon have no electronegativity; reading the data as such avoids a warning.
    polarities = np.array([element.data.get("X") or np.nan for element in elements], dtype=np.float64)
    if np.isnan(polarities).any():
        known = polarities[~np.isnan(polarities)]
        polarities[np.isnan(polarities)] = known.mean() if len(known) else 0.0
    groups = [element.group for element in elements]
    periods = [element.row for element in elements]
    table = np.column_stack([covalent_radii[numbers], polarities, groups, periods]).astype(np.float64)
    return np.asarray(table - table.mean(axis=0))
