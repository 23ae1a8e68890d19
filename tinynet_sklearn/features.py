"""`CycleMomentFeaturizer`: structures in, the embedding L_n^(N) of every atom out."""

import copy
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from ase.data import chemical_symbols
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import physical_memory
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.embedding_settings import check_embedding_settings, check_fade_width
from tinynet_sklearn.frames import ColumnSymmetry, SiteFrames
from tinynet_sklearn.graph import as_bond_rule, bond_graph, check_bonded, check_bonds, coinciding_atoms
from tinynet_sklearn.individual import IndividualEmbedding, learned_layout
from tinynet_sklearn.individual_frames import Frame, IndividualGeometry, held_in_range, widen_ranges
from tinynet_sklearn.path_geometry import PathGeometry
from tinynet_sklearn.paths import PathSpec, atom_paths, check_size, count_paths, hop_ball
from tinynet_sklearn.potential_targets import PotentialTargets
from tinynet_sklearn.reference import lay_onto, mean_structure, mismatch
from tinynet_sklearn.repetition import repeat_topology
from tinynet_sklearn.sites import Sites, candidate_rotations, find_sites
from tinynet_sklearn.structures import AtomicStructure, as_structures, is_structure, raise_problems
from tinynet_sklearn.tables import ColumnLayout, PathTable, column_layout, column_symmetry, path_table

Floats = NDArray[np.floating]

#: Structures per joblib task: large enough to make the hand-over cheap, small enough to share out evenly.
CHUNK = 32


#: Headline over atoms that do not fit into the columns.
OVERFLOWING = (
    "X has atoms with more walks or neighbours than any in fit; fit on structures with such surroundings, "
    "or set overflow='truncate' or 'clip'"
)


# auto_wrap_output_keys: a DataFrame has one row per sample, and a sample is a structure here.
class CycleMomentFeaturizer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Embedding L_n^(N) of every atom: closed walks on the bond graph and positions of neighbours.

    For each atom, one entry ``exp(-sum of the bond lengths)`` per closed walk of up to ``n`` hops on the
    bond graph - the terms of the moments of the local density of states - and the relative positions of
    its neighbours up to ``N`` hops away (Shafir and Grinberg, arXiv:2306.08285). For small networks, the
    *order* of the entries decides the accuracy: by default every entry stands in a slot that means the same
    for all equivalent atoms, and coordinates are expressed in a frame attached to the site.

    Parameters
    ----------
    n : int, default=4
        Longest closed walk, in hops; 0 leaves the walks out.
    N : int, default=2
        Farthest neighbours, in hops; 0 leaves the coordinates out.
    paths : {"all", "simple"}, default="all"
        All closed walks, back-tracking included, or simple cycles only (no vertex twice; the 2-hop walk
        there and back is kept), as needed where atoms have many bonds.
    bonds : float, mapping, "natural", bond rule or pymatgen NearNeighbors, default=3.1
        What is bonded. A float is a cutoff (Angstrom) between different species; a mapping such as
        ``{"Ti-O": 2.7, "Ba-O": 3.6}`` has one per pair; "natural" uses ASE's covalent radii times 1.15. See
        `CutoffBonds`, `PairBonds`, `NaturalBonds`, `NearNeighborBonds`.
    topology : {"reference", "each"}, default="reference"
        "reference": one bond graph, that of ``reference``, serves all structures, which must have the same
        atoms in the same order; only distances change. For crystals that keep their bonds. "each": every
        structure has a bond graph of its own, so that atoms, compositions and bonds may differ; the numbers
        of columns are learned in `fit`. For surfaces, defects, liquids, molecules, alloys.
    fade : float, default=0.0
        Angstrom; with ``topology="each"``, bonds fade out over this width below their cutoff, so that columns
        do not jump as bonds form and break. Needs bonds that are made of cutoffs, and ``neighbors="unique"``.
    overflow : {"error", "truncate", "clip"}, default="error"
        With ``topology="each"``, what `transform` does with an atom that has more neighbours or walks than
        any in `fit`: refuse it; leave out the farthest neighbours and the longest walks; or leave these out
        and hold every column within its range in `fit`, too, so that no network is asked beyond what it
        learned.
    reference : "mean", "first" or structure, default="mean"
        Whose bond graph and symmetry are used: the mean of the structures passed to `fit` (least
        disturbed by thermal motion), the first of them, or a given one.
    neighbors : {"unique", "walks"}, default="unique"
        Each neighbour once, at its shortest hop distance, or once per walk that leads to it.
    duplicates : {"merge", "keep"}, default="merge"
        Walks over the same bonds, such as a cycle and its reverse, always have equal entries: keep
        one or all.
    order : {"auto", "direction", "value", "depth-first"}, default="auto"
        Order of entries; "auto" is "direction" with a reference, "value" for each. "direction", slots that
        mean the same for equivalent atoms, ordered by species and direction in the reference; "value", walks
        by value inside each species sequence, neighbours by distance inside each species, per frame
        (invariant under any renumbering); "depth-first", as published: walks by value inside each length,
        neighbours as a depth-first search by atom number meets them.
    blocks : {"species", "hops"}, default="species"
        With ``order="value"``, entries are sorted inside each species sequence, or inside each number of
        hops; then the number of columns does not grow with the number of species. Add
        ``species_columns=True`` there.
    frame : {"auto", "site", "neighbors", "lab"}, default="auto"
        How coordinates are written. "site": in a frame attached to the site, which turns with the crystal and
        is the same for all atoms that a rotation of the lattice makes equivalent; needs
        ``order="direction"``. "neighbors": columns hold exp(-distance), and the directions of the neighbours
        go along beside them (``features.vectors``), on which `BPNNRegressor` builds vectors that turn with
        the structure; needs ``topology="each"``. "lab": in the frame of the laboratory. "auto" is "site" with
        slots in directions, "neighbors" with ``topology="each"``, else "lab".
    coordinates : {"vectors", "distances"}, default="vectors"
        What is said of a neighbour: its relative position, or ``exp(-distance)`` alone. With distances the
        whole vector is invariant under rotations and knows its derivatives: what `BPNNPotential` needs.
    aggregate : {"sum"} or None, default=None
        "sum" replaces the list of walks by their sums per length and species sequence, both directions
        counted: summed over sequences, the diagonal of H^m with H_ij = exp(-d_ij) on bonds.
    odd_walks : bool, default=True
        Count walks of odd length, too. They exist only where a ring of bonds has odd length.
    species_columns : bool, default=False
        Put the atomic number before each neighbour's coordinates and append that of the atom itself.
    site_tolerance : float, default=0.6
        Largest distance (Angstrom) between corresponding neighbours of equivalent atoms in the reference.
    n_jobs : int or None, default=None
        Threads of `transform`, as in joblib. The result does not depend on it.
    dtype : {"float64", "float32"}, default="float64"
        Type of the features.

    Attributes
    ----------
    reference_ : AtomicStructure
        Structure behind the bond graph.
    table_ : PathTable
        Index tables; ``table_.graph`` is the bond graph.
    layout_ : ColumnLayout
        What stands where.
    sites_ : Sites
        Classes of equivalent atoms.
    symmetry_ : ColumnSymmetry or None
        How the site groups act on the columns; None unless frames are those of sites. This and the attributes
        above, but ``layout_``, exist with ``topology="reference"`` only.
    ranges_ : dict of int to (ndarray, ndarray)
        Smallest and largest value of each column in `fit`, by atomic number; with ``overflow="clip"`` only.
    n_features_out_ : int
        Length of the vectors.

    Notes
    -----
    ``N=0`` leaves only bond lengths. Sorted or summed they are scalars, which cannot predict a vector: for
    densities of states, not for forces. With ``order="direction"`` each stands in the slot of a known
    direction, which carries some of what coordinates would. Entries have no unit, coordinates are in
    Angstrom; shorter lists are padded with zeros. ``n=0`` with ``N=0`` gives empty vectors, with which a
    regressor can only predict the mean: the reference point of a search over both. With ``frame="neighbors"``
    forces need neighbours or summed walks to point along: ``N=0`` is refused then.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from tinynet_sklearn import CycleMomentFeaturizer
    >>> crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    >>> features = CycleMomentFeaturizer(n=4, N=1).fit_transform([crystal])
    >>> features.shape, features[0].shape
    ((1, 87), (8, 87))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n": [Interval(Integral, 0, None, closed="left")],
        "N": [Interval(Integral, 0, None, closed="left")],
        "paths": [StrOptions({"all", "simple"})],
        "bonds": "no_validation",  # checked by as_bond_rule
        "topology": [StrOptions({"reference", "each"})],
        "fade": [Interval(Real, 0, None, closed="left")],
        "overflow": [StrOptions({"error", "truncate", "clip"})],
        "reference": "no_validation",  # checked by as_structures
        "neighbors": [StrOptions({"unique", "walks"})],
        "duplicates": [StrOptions({"merge", "keep"})],
        "order": [StrOptions({"auto", "direction", "value", "depth-first"})],
        "blocks": [StrOptions({"species", "hops"})],
        "frame": [StrOptions({"auto", "site", "neighbors", "lab"})],
        "coordinates": [StrOptions({"vectors", "distances"})],
        "aggregate": [StrOptions({"sum"}), None],
        "odd_walks": ["boolean"],
        "species_columns": ["boolean"],
        "site_tolerance": [Interval(Real, 0, None, closed="neither")],
        "n_jobs": [Integral, None],
        "dtype": [StrOptions({"float64", "float32"})],
    }

    #: For models that were saved by versions without these parameters.
    fade: float = 0.0
    overflow: str = "error"
    blocks: str = "species"

    def __init__(
        self,
        n: int = 4,
        N: int = 2,
        paths: str = "all",
        bonds: Any = 3.1,
        *,
        topology: str = "reference",
        fade: float = 0.0,
        overflow: str = "error",
        reference: Any = "mean",
        neighbors: str = "unique",
        duplicates: str = "merge",
        order: str = "auto",
        blocks: str = "species",
        frame: str = "auto",
        coordinates: str = "vectors",
        aggregate: str | None = None,
        odd_walks: bool = True,
        species_columns: bool = False,
        site_tolerance: float = 0.6,
        n_jobs: int | None = None,
        dtype: str = "float64",
    ) -> None:
        self.n = n
        self.N = N
        self.paths = paths
        self.bonds = bonds
        self.topology = topology
        self.fade = fade
        self.overflow = overflow
        self.reference = reference
        self.neighbors = neighbors
        self.duplicates = duplicates
        self.order = order
        self.blocks = blocks
        self.frame = frame
        self.coordinates = coordinates
        self.aggregate = aggregate
        self.odd_walks = odd_walks
        self.species_columns = species_columns
        self.site_tolerance = site_tolerance
        self.n_jobs = n_jobs
        self.dtype = dtype

    @classmethod
    def published(cls, n: int = 4, N: int = 2, paths: str = "all", **others: Any) -> "CycleMomentFeaturizer":
        """Return a featurizer with the published conventions (arXiv:2306.08285 and its script).

        Bonds below 3.1 Angstrom between different species; graph of the first structure; walks of even
        length, both directions, sorted by value; neighbours once per walk in depth-first order, each with its
        atomic number, in the lab frame; own atomic number appended.

        Parameters
        ----------
        n, N, paths
            As in the class.
        **others
            Any other parameter, to depart from the conventions one by one.
        """
        conventions: dict[str, Any] = {
            "bonds": 3.1,
            "topology": "reference",
            "reference": "first",
            "neighbors": "walks",
            "duplicates": "keep",
            "order": "depth-first",
            "frame": "lab",
            "odd_walks": False,
            "species_columns": True,
        }
        return cls(n=n, N=N, paths=paths, **{**conventions, **others})

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Sequence[Any], y: Any = None) -> "CycleMomentFeaturizer":
        """Build the bond graph and the index tables.

        Parameters
        ----------
        X : list of ase.Atoms or pymatgen Structure
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If structures cannot be used or differ from the reference, if an atom has no bonds, or if the
            vectors would not fit in memory.
        TypeError
            If X is not a list of structures.
        """
        check_embedding_settings(self, self._order(), self._frame())
        structures = as_structures(X)
        self._individual: IndividualEmbedding | None = None
        if self.topology == "each":
            self._fit_each(structures)
            return self
        self.reference_ = self._reference(structures)
        graph = bond_graph(self.reference_, as_bond_rule(self.bonds))
        check_bonds(graph, self.reference_, self.bonds)
        relaxed = graph.bond_lengths(self.reference_.positions, self.reference_.cell)
        problems = [
            f"structure {k}: {problem}."
            for k, structure in enumerate(structures)
            if (problem := lay_onto(structure, self.reference_, graph, relaxed)[2]) is not None
        ]
        raise_problems("X has structures that do not share the reference's bonds", problems)
        spec = self._spec()
        counts = count_paths(graph, spec)
        check_size(counts, spec)
        self._warn_if_idle(self.n in counts.walks and bool(counts.walks[self.n].any()))
        balls = [hop_ball(graph, atom, max(spec.radius, 1)) for atom in range(graph.n_atoms)]
        rotations = np.eye(3)[None]
        if self._frame() == "site":
            rotations = candidate_rotations(self.reference_)
        self.sites_: Sites = find_sites(self.reference_, balls, rotations, self.site_tolerance)
        ranks = (
            [np.arange(len(ball)) for ball in balls] if self._order() == "depth-first" else self.sites_.ranks
        )
        paths = [atom_paths(ball, spec, rank) for ball, rank in zip(balls, ranks, strict=True)]
        layout = column_layout(paths, spec)
        self.table_: PathTable = path_table(graph, paths, spec, layout)
        self.symmetry_: ColumnSymmetry | None = None
        if self._frame() == "site":
            self.symmetry_ = column_symmetry(self.sites_, paths, spec, layout)
        self.n_features_out_ = layout.n_columns
        return self

    def transform(self, X: Sequence[Any]) -> PerAtomArray:
        """Compute the vectors of all atoms.

        Parameters
        ----------
        X : list of ase.Atoms or pymatgen Structure

        Returns
        -------
        PerAtomArray
            One row per atom, ``n_features_out_`` columns; carries the site frames with ``frame="site"``, and
            derivatives where all columns are invariant and none is sorted.

        Raises
        ------
        ValueError
            If structures do not fit the reference's topology; all of them are named.
        """
        check_is_fitted(self)
        structures = as_structures(X)
        if self.topology == "each":
            if self.overflow == "clip" and not self.ranges_:
                raise ValueError(
                    "overflow='clip' needs the ranges of the columns in fit; this featurizer was fitted "
                    "with another overflow. Fit it again, or use 'truncate'."
                )
            return self._transform_each(X, structures)
        _check_atoms(structures, self.reference_)
        problems: list[str] = []
        n_atoms = len(self.reference_)
        values = self._allocate(len(structures) * n_atoms)
        turns = np.empty((len(structures), 3, 3))
        positions = np.empty((len(structures), n_atoms, 3))
        chunks = [slice(start, start + CHUNK) for start in range(0, len(structures), CHUNK)]
        parallel = _parallel(min(effective_n_jobs(self.n_jobs), len(chunks)))
        done = parallel(delayed(self._chunk)(structures[chunk], chunk.start) for chunk in chunks)
        for chunk, (rows, laid, rotations, found) in zip(chunks, done, strict=True):
            values[chunk.start * n_atoms : chunk.start * n_atoms + len(rows)] = rows
            positions[chunk] = laid
            turns[chunk] = rotations
            problems += found
        raise_problems("X has structures that do not share the reference's bonds", problems)
        return PerAtomArray(
            values,
            np.arange(len(structures) + 1) * n_atoms,
            np.tile(self.reference_.numbers, len(structures)),
            self._frames(turns),
            self._geometry(X, structures, positions),
        )

    def overflowing(self, X: Sequence[Any]) -> list[NDArray[np.bool_]]:
        """Which atoms have more than there is room for, with ``overflow="truncate"`` or ``"clip"``.

        Parameters
        ----------
        X : list of ase.Atoms or pymatgen Structure

        Returns
        -------
        list of ndarray of bool of shape (n_atoms,)
            True for atoms with walks or neighbours that have no column and, with "clip", for those with a
            column held in its range. Nobody should trust predictions for them. All False with
            ``topology="reference"``, which refuses what does not fit.
        """
        check_is_fitted(self)
        structures = as_structures(X)
        if self.topology == "reference":
            return [np.zeros(len(structure), dtype=np.bool_) for structure in structures]
        frames, problems = self._frames_of(structures, 0)
        raise_problems(OVERFLOWING, problems)
        return [frame.outside for frame in frames]

    def adapted_to(self, structure: Any) -> "CycleMomentFeaturizer":
        """Return a fitted copy for a supercell of the reference, without another fit.

        Parameters
        ----------
        structure : ase.Atoms or pymatgen Structure
            A supercell of any shape, with its atoms in any order and periodic images; displaced by thermal
            motion, strained by a few percent, shifted or rotated as a whole; or the cell of the reference
            itself with its atoms in another order.

        Returns
        -------
        CycleMomentFeaturizer
            ``reference_``, ``table_`` and ``sites_`` have the structure's atoms; columns mean what they did.
            With ``topology="each"`` there is nothing to adapt.

        Raises
        ------
        ValueError
            If the structure is no supercell of the reference; the message names an atom without partner.
        """
        check_is_fitted(self)
        (target,) = as_structures([structure], name="structure")
        adapted = copy.copy(self)
        if self.topology == "each":
            return adapted
        adapted.reference_, adapted.table_, adapted.sites_ = repeat_topology(
            self.reference_, self.table_, self.sites_, self._spec(), target
        )
        return adapted

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Readable names of the columns, such as ``L4[Ti-O-Ba-O#3]`` or ``N2[Ti:Ba#0].x``.

        A column that serves centres of several species is named for each of them, separated by ``|``.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str objects, shape (n_columns,)
        """
        check_is_fitted(self)
        return np.asarray(self.layout_.names(), dtype=object)

    @property
    def layout_(self) -> ColumnLayout:
        """What stands in which column."""
        check_is_fitted(self)
        return self.table_.layout if self.topology == "reference" else self._learned_layout

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_individual"}  # made on demand

    def _fit_each(self, structures: list[AtomicStructure]) -> None:
        embedding = self._embedding()
        _check_places(structures)
        self.species_ = np.unique(np.concatenate([s.numbers for s in structures]))
        check_fade_width(embedding.rule, self.species_, float(self.fade))
        self._learned_layout = learned_layout(embedding, structures)
        bonded = {centre for (centre, *_), _, _ in self._learned_layout.blocks}
        if self.n >= 2 or self.N >= 1:
            check_bonded(self.species_, bonded, self.bonds)
        self._warn_if_idle(
            any(hops == self.n for (_, kind, hops, _), _, _ in self.layout_.blocks if kind != "N")
        )
        self.n_features_out_ = self.layout_.n_columns
        self.ranges_: dict[int, tuple[Floats, Floats]] = {}
        if self.overflow == "clip":
            for structure in structures:
                frame, _ = embedding.compute(structure, self.layout_, keep_fitting=False)
                if frame is not None:
                    widen_ranges(self.ranges_, structure.numbers, frame.values)

    def _transform_each(self, X: Sequence[Any], structures: list[AtomicStructure]) -> PerAtomArray:
        unseen = [
            f"structure {k}: atom {(s.numbers == z).argmax()} is {chemical_symbols[z]}"
            for k, s in enumerate(structures)
            for z in np.setdiff1d(s.numbers, self.species_)
        ]
        known = ", ".join(chemical_symbols[z] for z in self.species_)
        raise_problems(f"X has atoms of species that fit has not seen (it saw {known})", unseen)
        _check_places(structures)
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
        values = self._allocate(int(offsets[-1]))
        chunks = [slice(start, start + CHUNK) for start in range(0, len(structures), CHUNK)]
        parallel = _parallel(min(effective_n_jobs(self.n_jobs), len(chunks)))
        frames: list[Frame] = []
        problems: list[str] = []
        for found, complaints in parallel(delayed(self._frames_of)(structures[c], c.start) for c in chunks):
            frames += found
            problems += complaints
        raise_problems(OVERFLOWING, problems)
        for k, frame in enumerate(frames):
            values[offsets[k] : offsets[k + 1]] = frame.values
        vectors = [frame.vectors for frame in frames if frame.vectors is not None]
        geometry = None
        # "neighbors" has invariant columns, too, but is asked for by those who predict vectors
        if (self.coordinates == "distances" or self.N == 0) and not (self.fade and self.N > 1):
            geometry = IndividualGeometry(frames, PotentialTargets.from_structures(X))
        return PerAtomArray(
            values,
            offsets,
            np.concatenate([s.numbers for s in structures]),
            geometry=geometry,
            vectors=np.concatenate(vectors) if vectors else None,
        )

    def _frames_of(self, structures: list[AtomicStructure], start: int) -> tuple[list[Frame], list[str]]:
        embedding = self._embedding()
        frames, problems = [], []
        for k, structure in enumerate(structures, start=start):
            try:
                frame, found = embedding.compute(
                    structure, self.layout_, keep_fitting=self.overflow != "error"
                )
            except ValueError as error:  # too many walks for one structure
                raise ValueError(f"structure {k} ({len(structure)} atoms): {error}") from None
            problems += [f"structure {k}: {problem}." for problem in found]
            if frame is not None:
                frames.append(held_in_range(frame, self.ranges_) if self.overflow == "clip" else frame)
        return frames, problems

    def _embedding(self) -> IndividualEmbedding:
        """Computes with a topology for each structure; remembers some."""
        embedding: IndividualEmbedding | None = getattr(self, "_individual", None)
        if embedding is None:
            directed = self._frame() == "neighbors"
            embedding = IndividualEmbedding(
                as_bond_rule(self.bonds), self._spec(), float(self.fade), directed
            )
            self._individual = embedding
        return embedding

    def _warn_if_idle(self, used: bool) -> None:
        """Tell that the longest walks are of odd length and there are none."""
        if self.n % 2 == 0 or used:
            return
        cause = "odd_walks=False leaves out walks of odd length."
        if self.odd_walks:
            cause = (
                f"no atom has a closed walk of {self.n} hops on this bond graph. "
                "Odd walks need rings of bonds of odd length."
            )
        message = f"n={self.n} adds nothing to n={self.n - 1}: {cause}"
        warnings.warn(message, UserWarning, stacklevel=4)  # past scikit-learn's wrapper of fit

    def _spec(self) -> PathSpec:
        order = self._order()
        return PathSpec(
            n=int(self.n),
            N=int(self.N),
            simple=self.paths == "simple",
            merge=self.duplicates == "merge",
            unique_neighbors=self.neighbors == "unique",
            odd_walks=bool(self.odd_walks),
            sum_walks=self.aggregate == "sum",
            by_class=order != "depth-first" and self.blocks == "species",
            sort_by_value=order != "direction" and self.aggregate is None,
            sort_neighbors=order == "value",
            neighbor_species=bool(self.species_columns),
            own_species=bool(self.species_columns),
            distances=self.coordinates == "distances" or self._frame() == "neighbors",
        )

    def _order(self) -> str:
        """Order of entries, "auto" resolved."""
        return (
            {"reference": "direction", "each": "value"}[self.topology] if self.order == "auto" else self.order
        )

    def _frame(self) -> str:
        """Frame of coordinates, "auto" resolved."""
        if self.frame != "auto":
            return self.frame
        if self.topology == "each":
            return "neighbors" if self.coordinates == "vectors" else "lab"
        return "site" if self._order() == "direction" else "lab"

    def _reference(self, structures: list[AtomicStructure]) -> AtomicStructure:
        if is_structure(self.reference):
            (reference,) = as_structures([self.reference], name="reference")
        elif isinstance(self.reference, str) and self.reference in ("mean", "first"):
            reference = structures[0]
        else:
            raise ValueError(
                f"reference must be 'mean', 'first' or a structure, got {self.reference!r}; "
                "read a file with ase.io.read first."
            )
        _check_atoms(structures, reference)
        wants_mean = isinstance(self.reference, str) and self.reference == "mean"
        return mean_structure(structures) if wants_mean else reference

    def _allocate(self, n_rows: int) -> Floats:
        itemsize = np.dtype(self.dtype).itemsize
        needed = n_rows * self.n_features_out_ * itemsize
        available = physical_memory()
        if needed > available:
            raise MemoryError(
                f"{n_rows} atoms times {self.n_features_out_} features need {needed / 2**30:.1f} GiB, this "
                f"machine has {available / 2**30:.1f}; use fewer structures at a time, dtype='float32', or a "
                "smaller n or N."
            )
        return np.empty((n_rows, self.n_features_out_), dtype=self.dtype)

    def _chunk(
        self, structures: list[AtomicStructure], start: int
    ) -> tuple[Floats, NDArray[np.float64], NDArray[np.float64], list[str]]:
        """Rows, positions and rotations as laid onto the reference, and problems of some structures."""
        n_atoms = len(self.reference_)
        graph = self.table_.graph
        rows = np.zeros((len(structures) * n_atoms, self.n_features_out_), dtype=self.dtype)
        turns = np.empty((len(structures), 3, 3))
        laid = np.empty((len(structures), n_atoms, 3))
        problems = []
        relaxed = graph.bond_lengths(self.reference_.positions, self.reference_.cell)
        for k, structure in enumerate(structures):
            laid[k], turns[k], problem = lay_onto(structure, self.reference_, graph, relaxed)
            if problem is not None:
                problems.append(f"structure {start + k}: {problem}.")
                continue
            frames = np.broadcast_to(np.eye(3), (n_atoms, 3, 3))
            if self._frame() == "site":
                frames = self.sites_.rotations @ turns[k].T
            self.table_.entries(laid[k], structure.cell, frames, rows[k * n_atoms : (k + 1) * n_atoms])
        return rows, laid, turns, problems

    def _geometry(
        self, X: Sequence[Any], structures: list[AtomicStructure], positions: NDArray[np.float64]
    ) -> PathGeometry | None:
        if not self._spec().differentiable:
            return None
        return PathGeometry(
            self.table_,
            positions,
            np.array([structure.cell for structure in structures]),
            bool(self.reference_.pbc.all()),
            PotentialTargets.from_structures(X),
        )

    def _frames(self, turns: NDArray[np.float64]) -> SiteFrames | None:
        if self._frame() != "site":
            return None
        rotations = self.sites_.rotations[None] @ turns.transpose(0, 2, 1)[:, None]
        return SiteFrames(
            rotations.reshape(-1, 3, 3), np.tile(self.sites_.classes, len(turns)), self.symmetry_
        )


def _parallel(n_jobs: int) -> Parallel:
    """Threads, or the backend that is set, that hand over one result after the other if they can."""
    streams = getattr(get_active_backend()[0], "supports_return_generator", False)  # Ray's does not
    return Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator" if streams else "list")


def _check_places(structures: list[AtomicStructure]) -> None:
    """Refuse structures in which atoms coincide, bonded or not."""
    problems = [f"structure {k}: {p}" for k, s in enumerate(structures) for p in coinciding_atoms(s)]
    raise_problems("X has structures with atoms in the same place", problems)


def _check_atoms(structures: list[AtomicStructure], reference: AtomicStructure) -> None:
    problems = [
        f"structure {k}: {problem}; fit on structures of one crystal, one featurizer per crystal, or take "
        "topology='each' or a SmoothMomentFeaturizer."
        for k, structure in enumerate(structures)
        if (problem := mismatch(structure, reference)) is not None
    ]
    raise_problems("X has structures that do not share the reference's atoms", problems)
