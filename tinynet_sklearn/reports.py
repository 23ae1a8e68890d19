"""How the command line shows its results: tables and text for `rich`, and nothing that computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import Progress, ProgressColumn
from rich.table import Table
from rich.text import Text

from tinynet_sklearn._validation import plural
from tinynet_sklearn.bond_suggestion import bonds_text
from tinynet_sklearn.distances import HISTOGRAM_BIN, HISTOGRAM_RANGE, PairDistances
from tinynet_sklearn.frame_numbers import frames_in_words, some_frames

if TYPE_CHECKING:
    from tinynet_sklearn.inspection_result import Finding, ForceStatistics, Inspection, Topology
    from tinynet_sklearn.lengths import VectorLength
    from tinynet_sklearn.quickstart import SpeciesFeatures
    from tinynet_sklearn.run_results import DynamicsResult
    from tinynet_sklearn.run_settings import RunSettings

#: Heights of the bars, an eighth of a line each.
BARS = " ▁▂▃▄▅▆▇█"

#: Columns that a table may need.
WIDEST = 500

#: At most this many sets of different atoms.
MAX_LISTED_SETS = 5


def section(console: Console, title: str, *content: RenderableType) -> None:
    """Print a heading and, indented, what belongs to it."""
    console.print(Text(f"\n{title}", style="bold"))
    for part in content:
        shown = Text(part) if isinstance(part, str) else part  # no markup in file names
        indented = Padding(shown, (0, 0, 0, 2), expand=False)
        if isinstance(part, Table):
            _print_whole(console, indented)
        else:
            console.print(indented)


def _print_whole(console: Console, shown: RenderableType) -> None:
    """Print with lines too long for a narrow terminal rather than with numbers cut short."""
    width = console.width
    needed = Measurement.get(console, console.options.update(width=WIDEST), shown).minimum
    try:
        console.width = max(width, needed)
        console.print(shown, crop=False)
    finally:
        console.width = width


@contextmanager
def progress_bar(*columns: ProgressColumn) -> Iterator[Progress]:
    """Progress on the error stream where that is a terminal; elsewhere nothing."""
    stderr = Console(stderr=True)
    bar = Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)
    if bar.disable:  # rich before 15 leaves an empty line behind a bar that was never shown
        yield bar
    else:
        with bar:
            yield bar


def features_table(species: Iterable[SpeciesFeatures], n_columns: int) -> Table:
    """Bonds and contents of the vectors, a line per species."""
    shown = table("species", "atoms", "bonded to", "walks", "neighbours", "entries")
    for s in species:
        counts = set(s.environments.values())
        if len(counts) == 1:
            each = "" if len(s.environments) == 1 else f" ({counts.pop()} each)"
            bonds = ", ".join(s.environments) + each
        else:
            bonds = ", ".join(f"{environment} ({n})" for environment, n in s.environments.items())
        used = f"{s.walks + 3 * s.neighbors} of {n_columns}"
        shown.add_row(s.species, str(s.n_atoms), bonds, str(s.walks), str(s.neighbors), used)
    return shown


def print_inspection(console: Console, path: str, found: Inspection) -> None:
    """Print all that `inspect_structures` found."""
    sets = [_topology_line(topology) for topology in found.topologies[:MAX_LISTED_SETS]]
    if len(found.topologies) > MAX_LISTED_SETS:
        sets.append(f"... and {len(found.topologies) - MAX_LISTED_SETS} more sets of atoms")
    section(console, f"{path}: {plural(found.n_frames, 'frame')}", *sets)
    if found.topologies:
        first = found.topologies[0]
        whose = f"the mean {first.formula}"
        if not first.shared:
            whose = f"{first.formula}, all {plural(len(first.frames), 'frame')} together,"
        section(console, f"Bonds of {whose} with bonds={found.bonds!r}", _coordination(first))
    if found.distances:
        section(console, "Distances in all frames (Angstrom)", _distances(found.distances))
    if found.suggested_bonds:
        section(console, "Suggested bonds", f"--bonds {bonds_text(found.suggested_bonds)}")
    if found.topologies:
        section(console, "Same bonds in all frames?", *_same_bonds(found.topologies))
    if found.lengths:
        whose = f" of {found.topologies[0].formula} alone" if len(found.topologies) > 1 else ""
        what = f"Vector lengths{whose}, entries per atom (default settings; ≤ counted, not merged)"
        section(console, what, _lengths(found.lengths))
    elif found.topologies:
        section(console, "Vector lengths", _no_lengths(found.topologies[0]))
    section(console, "Forces", _forces(found.forces, found.n_frames))
    section(console, "What looks wrong", *_findings(found.problems, "Nothing."))
    notes = [finding for finding in found.findings if not finding.problem]
    if notes:
        section(console, "Notes", *_findings(notes, ""))


def print_dynamics(console: Console, result: DynamicsResult, learned_stress: bool) -> None:
    """Print how a run of molecular dynamics went."""
    found, settings = result.summary(), result.settings
    what = {"nvt": f"NVT ({settings.thermostat})", "nve": "NVE", "npt": f"NPT ({settings.cell} cell)"}
    reached = f"{result.step:,} of {settings.n_steps:,} steps, {found['time_ps']:.4g} ps"
    if result.step < 0:
        reached = f"{-result.step:,} steps before the end of the equilibration"
    section(
        console,
        f"{what[settings.ensemble]} of {found['formula']}, {plural(found['n_atoms'], 'atom')}",
        "forces: " + _FORCES_OF[found["mode"]],
        reached + ("" if result.finished else " (not finished)"),
    )
    section(console, "Production", *_dynamics_lines(found, settings, learned_stress))
    if result.folder is not None:
        names = sorted(path.name for path in result.folder.iterdir() if not path.name.startswith("."))
        section(console, "Files", f"{result.folder}: {', '.join(names)}")


_FORCES_OF = {
    "energy": "gradient of an energy",
    "direct": "predicted directly, gradient of no energy; the table has none",
}


def _dynamics_lines(found: dict[str, Any], settings: RunSettings, learned_stress: bool) -> list[str]:
    if found["temperature_mean_K"] is None:
        return ["Not reached."]
    expected = (
        f" (canonical: {found['temperature_std_expected_K']:.3g})" if settings.ensemble != "nve" else ""
    )
    lines = [
        f"temperature: {found['temperature_mean_K']:.4g} K, standard deviation "
        f"{found['temperature_std_K'] or 0:.3g} K{expected}"
    ]
    if found["drift_meV_per_atom_ps"] is not None:
        energy = "total energy" if settings.ensemble == "nve" else "conserved energy"
        lines.append(f"drift of the {energy}: {found['drift_meV_per_atom_ps']:.2g} meV/atom/ps")
    if found["pressure_mean_GPa"] is not None:
        trust = "" if learned_stress else " (extrapolated: the model learned no stress)"
        lines.append(f"pressure: {found['pressure_mean_GPa']:.3g} GPa{trust}")
    if settings.ensemble == "npt":
        lines.append(f"volume: {found['volume_mean_A3'] / found['n_atoms']:.4g} cubic Angstrom/atom")
    if found["extrapolating_atoms_mean"] is not None:
        most, share = found["extrapolating_atoms_most"], found["frames_with_extrapolating_atoms"]
        lines.append(
            f"atoms outside of the training data: {found['extrapolating_atoms_mean']:.3g} on average, "
            f"at most {most:.0f}, in {share:.0%} of the frames"
        )
    else:
        lines.append("atoms outside of the training data: unknown to this model")
    if found["seconds_per_step"] is not None:
        lines.append(
            f"time: {1e3 * found['seconds_per_step']:.3g} ms per step, "
            f"{found['microseconds_per_atom_step']:.3g} microseconds per atom"
        )
    return lines


def bar(counts: Sequence[int], marked: Sequence[int]) -> Text:
    """Histogram in one line; bins with ``marked`` counts are coloured."""
    highest = max(max(counts), 1)
    text = Text()
    for count, inside in zip(counts, marked, strict=True):
        level = 0 if not count else max(1, round((len(BARS) - 1) * count / highest))
        text.append(BARS[level], style="green" if inside else "dim")
    return text


def table(*columns: str) -> Table:
    """Table without frame; the first column holds names, the others numbers."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for k, column in enumerate(columns):
        words = k == 0 or column == "bonded to"
        shown.add_column(column, justify="left" if words else "right", no_wrap=column != "bonded to")
    return shown


def _topology_line(topology: Topology) -> str:
    axes = [axis for axis, periodic in zip("abc", topology.pbc, strict=True) if periodic]
    periodic = f"periodic along {', '.join(axes)}" if axes else "not periodic"
    frames = plural(len(topology.frames), "frame")
    return f"{frames} of {plural(topology.n_atoms, 'atom')}, {topology.formula}, {periodic}"


def _coordination(topology: Topology) -> Table:
    shown = table("species", "atoms", "bonded to")
    for symbol, environments in topology.coordination.items():
        for environment, count in environments.items():
            shown.add_row(symbol, str(count), environment)
            symbol = ""
    return shown


def _distances(pairs: Sequence[PairDistances]) -> Table:
    occupied = [k for pair in pairs for k, count in enumerate(pair.histogram) if count]
    first = min(occupied, default=0) // 5 * 5
    # Two bins to a column where forty columns do not suffice.
    merged = 1 if len(pairs[0].histogram) - first <= 40 else 2
    scale = f"{first * HISTOGRAM_BIN:.1f} to {HISTOGRAM_RANGE:.1f}, {merged * HISTOGRAM_BIN:.1f} a column"
    shown = table("pair", "bonds", "from", "to", "next")
    width = max(len(scale), -(-(len(pairs[0].histogram) - first) // merged))
    shown.add_column(scale, no_wrap=True, min_width=width)
    for pair in pairs:
        counts, bonded = (
            [sum(bins[k : k + merged]) for k in range(first, len(bins), merged)]
            for bins in (pair.histogram, pair.bonded)
        )
        shown.add_row(
            pair.pair,
            f"{pair.bonds_per_frame:.4g}" if pair.bonds_per_frame else "-",
            *("-" if d is None else f"{d:.2f}" for d in (pair.shortest, pair.longest, pair.next)),
            bar(counts, bonded),
        )
    return shown


def _same_bonds(topologies: Sequence[Topology]) -> list[str]:
    """Lines on whether frames share bonds: for each set of several frames, and across sets."""
    if len(topologies) == 1:
        return [_sharing(topologies[0])]
    several = [topology for topology in topologies if len(topology.frames) > 1]
    lines = [f"No: {len(topologies)} sets of different atoms.", *map(_sharing, several[:MAX_LISTED_SETS])]
    if len(several) > MAX_LISTED_SETS:
        lines.append(f"... and {len(several) - MAX_LISTED_SETS} more sets of several frames")
    return lines


def _no_lengths(topology: Topology) -> str:
    if topology.is_bare:
        return f"None: the mean {topology.formula} has no bonds."
    return (
        f"None: the frames of {topology.formula} share no bond graph. With topology='each', fit learns the "
        "length from all of them."
    )


def _sharing(topology: Topology) -> str:
    if topology.is_bare:
        return f"{topology.formula}: there are no bonds."
    if not topology.shared:
        n_frames = plural(len(topology.frames), "frame")
        return f"{topology.formula}: no, the {n_frames} share no bond graph."
    if not topology.different:
        return f"{topology.formula}: yes, all of {plural(len(topology.frames), 'frame')}."
    return (
        f"{topology.formula}: no, {len(topology.different)} of {len(topology.frames)} frames differ from "
        f"the mean structure: {some_frames(list(topology.different))}."
    )


def _lengths(lengths: Sequence[VectorLength]) -> Table:
    n_values = list(dict.fromkeys(length.n for length in lengths))
    N_values = sorted({length.N for length in lengths})
    found = {(length.paths, length.n, length.N): length for length in lengths}
    shown = table("paths", "n", *(f"N={N}" for N in N_values))
    for kind in dict.fromkeys(length.paths for length in lengths):
        for k, n in enumerate(sorted(n_values)):
            cells = [_length(found.get((kind, n, N))) for N in N_values]
            shown.add_row("" if k else kind, str(n), *cells, end_section=n == max(n_values))
    return shown


def _length(length: VectorLength | None) -> str:
    if length is None:
        return "-"
    if length.entries is None:
        return "too many"
    return f"{'' if length.exact else '≤ '}{length.entries:,}"


def _forces(forces: ForceStatistics, n_frames: int) -> str:
    if forces.rms is None or forces.rms_by_species is None:
        return f"in {forces.frames} of {plural(n_frames, 'frame')}"
    species = ", ".join(f"{symbol} {rms:.3g}" for symbol, rms in forces.rms_by_species.items())
    return (
        f"in {forces.frames} of {plural(n_frames, 'frame')}\n"
        f"components: RMS {forces.rms:.3g} ({species}), largest {forces.largest:.3g} eV/Angstrom\n"
        f"net force: RMS {forces.net_rms:.2g}, largest {forces.net_largest:.2g} eV/Angstrom"
    )


def _findings(findings: Sequence[Finding], nothing: str) -> list[RenderableType]:
    if not findings:
        return [nothing]
    grid = Table.grid(padding=(0, 1))
    for finding in findings:
        where = f" [{frames_in_words(finding.frames)}]" if finding.frames else ""
        style = "red" if finding.problem else ""
        grid.add_row(Text("-", style=style), Text(finding.message + where))
    return [grid]
