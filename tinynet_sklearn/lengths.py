"""How long the vectors of a bond graph would be, for a table of n and N."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet_sklearn.graph import BondGraph
from tinynet_sklearn.paths import PathSpec, atom_paths, check_size, count_paths, hop_ball
from tinynet_sklearn.tables import column_layout

#: Vector lengths are exact up to this many walks in all atoms together, and upper bounds beyond.
MAX_EXACT_WALKS = 300_000


@dataclass(frozen=True)
class VectorLength:
    """Length of L_n^(N) for one (n, N).

    Attributes
    ----------
    entries : int or None
        None where there are too many for `CycleMomentFeaturizer`.
    exact : bool
        False for an upper bound, from counting without merging.
    """

    paths: str
    n: int
    N: int
    entries: int | None
    exact: bool


def vector_lengths(
    graph: BondGraph, n_values: Sequence[int] = (0, 2, 4, 6, 8), N_values: Sequence[int] = (0, 1, 2, 3, 4)
) -> list[VectorLength]:
    """Lengths of L_n^(N) with the featurizer's defaults, for all walks and for simple cycles.

    Walks are counted before any is enumerated, so requests that explode cost nothing.
    """
    balls: dict[int, Any] = {}

    def width(spec: PathSpec) -> int:
        if spec.radius not in balls:
            radius = max(spec.radius, 1)
            balls[spec.radius] = [hop_ball(graph, atom, radius) for atom in range(graph.n_atoms)]
        return column_layout(
            [atom_paths(ball, spec, np.arange(len(ball))) for ball in balls[spec.radius]], spec
        ).n_columns

    shells = {N: width(PathSpec(0, N)) for N in N_values}
    lengths = []
    for kind in ("all", "simple"):
        for n in n_values:
            spec = PathSpec(n, 0, simple=kind == "simple")
            counts = count_paths(graph, spec)
            exact = sum(float(walks.sum()) for walks in counts.walks.values()) <= MAX_EXACT_WALKS
            try:
                check_size(counts, spec)
                walks: int | None = width(spec) if exact else int(counts.vector_length(spec))
            except ValueError:  # the featurizer would refuse it in the same way
                walks = None
            for N in N_values:
                if n or N:
                    entries = None if walks is None else walks + shells[N]
                    lengths.append(VectorLength(kind, int(n), int(N), entries, exact))
    return lengths
