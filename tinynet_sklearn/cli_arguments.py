"""Arguments and options that the commands of learning share, with their help."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tinynet_sklearn.cli_config import read_config

#: Formats of figures.
FIGURES = (".png", ".pdf", ".svg")


class Target(StrEnum):
    """What is learned."""

    forces = "forces"
    potential = "potential"
    ldos = "ldos"


class Topology(StrEnum):
    """Which structures share a bond graph."""

    auto = "auto"
    frozen = "frozen"
    each = "each"
    smooth = "smooth"


class PathKind(StrEnum):
    """Kinds of walks."""

    all = "all"
    simple = "simple"


class SplitBy(StrEnum):
    """What is held out."""

    blocks = "blocks"
    groups = "groups"
    random = "random"
    file = "file"


class Zero(StrEnum):
    """Where energies of densities of states are counted from."""

    absolute = "absolute"
    fermi = "fermi"
    vbm = "vbm"
    onset = "onset"
    centroid = "centroid"


class Spin(StrEnum):
    """What is done with two spin channels."""

    refuse = "refuse"
    sum = "sum"


_DATA, _MODEL, _TRAINING = "Data", "Model", "Training"

Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Files and folders with structures and results: extxyz, VASP, SIESTA, DeePMD, tables ...",
        show_default=False,
    ),
]
TargetOption = Annotated[
    Target,
    typer.Option(help="Forces directly; an energy with its forces and stress; local densities of states."),
]
Bonds = Annotated[
    str | None,
    typer.Option(
        help="A cutoff between different species in Angstrom (3.1), [bold]natural[/bold], or cutoffs by pair "
        "(Ba-O=3.6,Ti-O=2.7). Without, they are proposed from the training structures.",
        rich_help_panel=_MODEL,
    ),
]
Hops = Annotated[
    int | None,
    typer.Option(
        "-n",
        min=0,
        help="Longest closed walk, in hops. 4; 6 for ldos.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Shells = Annotated[
    int | None,
    typer.Option(
        "-N",
        min=0,
        help="Farthest neighbours, in hops. 2; 1 with --topology each; 0 for ldos.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
PathsOption = Annotated[
    PathKind | None,
    typer.Option(help="All closed walks, or simple cycles; simple for potentials.", rich_help_panel=_MODEL),
]
Hidden = Annotated[str, typer.Option(help="Units of the hidden layers.", rich_help_panel=_MODEL)]
TopologyOption = Annotated[
    Topology,
    typer.Option(
        help="One bond graph for all structures, one for each, or sums that fade out at a cutoff; auto: "
        "frozen if all structures share one graph, else smooth.",
        rich_help_panel=_MODEL,
    ),
]
Cutoff = Annotated[
    float | None,
    typer.Option(min=0.5, help="Of smooth, Angstrom; 5.", show_default=False, rich_help_panel=_MODEL),
]
Alpha = Annotated[
    float | None,
    typer.Option(min=0.0, help="Weight decay: more against overfitting.", rich_help_panel=_TRAINING),
]
Iterations = Annotated[
    int, typer.Option(min=1, help="Iterations of the training.", rich_help_panel=_TRAINING)
]
EarlyStopping = Annotated[
    bool,
    typer.Option(
        "--early-stopping/--no-early-stopping",
        show_default=False,
        help="Keep the weights that are best on a tenth of the training structures.",
        rich_help_panel=_TRAINING,
    ),
]
SplitOption = Annotated[
    SplitBy | None,
    typer.Option(
        help="Hold out the end of each file (blocks), whole files (groups), single structures (random, for "
        "independent ones) or those of --test (file). Without: blocks, or groups of short files.",
        rich_help_panel=_DATA,
    ),
]
Fraction = Annotated[float, typer.Option(help="Share of the structures to hold out.", rich_help_panel=_DATA)]
TestData = Annotated[
    list[str] | None, typer.Option("--test", help="File with held-out structures.", rich_help_panel=_DATA)
]
Seed = Annotated[
    int, typer.Option(min=0, help="For the split and the initial weights.", rich_help_panel=_TRAINING)
]
Jobs = Annotated[
    int, typer.Option(min=1, help="Networks, or candidates, side by side.", rich_help_panel=_TRAINING)
]
EnergyKey = Annotated[
    str | None,
    typer.Option(help="Name of energies in the files, where it is their own.", rich_help_panel=_DATA),
]
ForcesKey = Annotated[str | None, typer.Option(help="The same of forces.", rich_help_panel=_DATA)]
StressKey = Annotated[str | None, typer.Option(help="The same of stresses.", rich_help_panel=_DATA)]
SkipProblems = Annotated[
    bool,
    typer.Option(
        "--skip-problems/--no-skip-problems",
        show_default=False,
        help="Leave out frames that cannot be used, and say which.",
        rich_help_panel=_DATA,
    ),
]
Energies = Annotated[
    str | None, typer.Option(help="Of ldos: lowest:highest:number, eV (-8:6:281).", rich_help_panel=_DATA)
]
Width = Annotated[
    float | None, typer.Option(min=0.0, help="Of ldos: Gaussian broadening, eV.", rich_help_panel=_DATA)
]
ZeroOption = Annotated[Zero | None, typer.Option(help="Of ldos: zero of energy.", rich_help_panel=_DATA)]
SpinOption = Annotated[
    Spin | None, typer.Option(help="Of ldos: what to do with spins.", rich_help_panel=_DATA)
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Folder in which trainings are kept while they run, of any number of runs: the same command "
        "goes on from there.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", callback=read_config, is_eager=True, help="TOML file of options; those given here win."
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A file of tinynet fit or save_model, or a potential that comes along: batio3, moo3.",
    ),
]
