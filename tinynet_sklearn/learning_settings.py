"""Settings of `tinynet fit` and `tinynet grid` as plain values, and the pipeline that they stand for.

What a user leaves open (None, "auto") is decided once the data are known, by `learning_runs.settled`; a model
is made of settings that leave nothing open.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = [
    "NOT_SMOOTH",
    "FitSettings",
    "SettingsError",
    "make_model",
    "option",
    "parse_bonds",
    "parse_energies",
    "parse_hidden",
]

#: Vectors over three atoms of `SmoothMomentFeaturizer` for direct forces; fewer from three species on.
N_VECTOR, N_VECTOR_OF_MANY = 3, 2

#: Share of the variance of densities of states that their principal components must explain.
EXPLAINED = 0.999

#: What only one kind of target, or of topology, has.
_ONLY_LDOS = ("energies", "width", "zero", "spin")
NOT_SMOOTH = ("bonds", "N", "paths")


class SettingsError(ValueError):
    """Settings that do not go together, as the options of the command line."""


@dataclass(frozen=True)
class FitSettings:
    """What is learned from what, and how: the options of `tinynet fit` by their names.

    Parameters
    ----------
    data, test : tuple of str
        Paths for `read_dataset`; those of `test` are held out, all of them.
    target : {"forces", "potential", "ldos"}
    bonds : str or None
        As `parse_bonds` takes it; None takes those of `suggest_bonds`.
    n, N : int or None
        None takes what suits target and topology.
    paths : {"all", "simple"} or None
    hidden : str
        Units of the hidden layers, "16x32".
    topology : {"auto", "frozen", "each", "smooth"}
    cutoff : float or None
        Of "smooth", Angstrom.
    alpha : float or None
        Weight decay; None takes that of the regressor.
    max_iter : int
    early_stopping : bool
    split : {"blocks", "groups", "random", "file"} or None
        What is held out; None takes blocks of time where files are long enough, else whole files.
    test_fraction : float
    seed, jobs : int
    energy_key, forces_key, stress_key : str or None
        Names in the files, where they are not those of ASE.
    skip_problems : bool
        Whether to leave out frames that cannot be used.
    energies, width, zero, spin
        Of densities of states, see `read_ldos`; energies as "-8:6:281".
    """

    data: tuple[str, ...]
    test: tuple[str, ...] = ()
    target: str = "forces"
    bonds: str | None = None
    n: int | None = None
    N: int | None = None
    paths: str | None = None
    hidden: str = "16x32"
    topology: str = "auto"
    cutoff: float | None = None
    alpha: float | None = None
    max_iter: int = 400
    early_stopping: bool = False
    split: str | None = None
    test_fraction: float = 0.2
    seed: int = 0
    jobs: int = 1
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    skip_problems: bool = False
    energies: str | None = None
    width: float | None = None
    zero: str | None = None
    spin: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> FitSettings:
        """Take what belongs here from the options of a command, and check what can be checked now.

        Raises
        ------
        SettingsError
            If options do not go together.
        """
        known = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        for name in ("data", "test"):
            known[name] = tuple(str(path) for path in known.get(name) or ())
        settings = cls(**known)
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse what does not go together.

        Raises
        ------
        SettingsError
            With the names of the options.
        """
        if self.test and self.split not in (None, "file"):
            raise SettingsError(
                f"--test names the held-out structures, which --split {self.split} would choose; leave out "
                "one of them."
            )
        if self.split == "file" and not self.test:
            raise SettingsError(
                "--split file needs the file of the held-out structures; name it with --test."
            )
        if not 0.0 <= self.test_fraction < 1.0:
            raise SettingsError(
                f"--test-fraction must be at least 0 and below 1; got {self.test_fraction:g}. 0.2 holds out "
                "one structure in five."
            )
        if self.target != "ldos":
            self._refuse(_ONLY_LDOS, "is for --target ldos", f"got it with --target {self.target}")
        if self.topology == "smooth" or (self.topology == "auto" and self.cutoff is not None):
            given = "--topology smooth" if self.topology == "smooth" else "--cutoff"
            received = f"got it with {given}, and smooth sums bond all within the cutoff"
            self._refuse(NOT_SMOOTH, "is of bond graphs", received)
            if self.n is not None and not 2 <= self.n <= 4:
                raise SettingsError(f"-n must be 2, 3 or 4 with {given}; got {self.n}.")
        elif self.topology != "auto":
            self._refuse(
                ("cutoff",), "is of --topology smooth", f"got it with --topology {self.topology}; see --bonds"
            )
        for name, parse in (("bonds", parse_bonds), ("hidden", parse_hidden), ("energies", parse_energies)):
            if getattr(self, name) is not None:
                try:
                    parse(getattr(self, name))
                except ValueError as error:
                    text = str(error)
                    raise SettingsError(f"--{text if text.startswith(name) else f'{name}: {text}'}") from None

    def _refuse(self, names: tuple[str, ...], contract: str, received: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise SettingsError(f"{option(given[0])} {contract}; {received}. Leave it out.")

    @property
    def keys(self) -> dict[str, str]:
        """Names in the files, for `read_dataset`."""
        names = {"energy": self.energy_key, "forces": self.forces_key, "stress": self.stress_key}
        return {quantity: name for quantity, name in names.items() if name is not None}

    def as_dict(self) -> dict[str, Any]:
        """Options that are not left open, by their names on the command line."""
        values = {option(name).lstrip("-"): value for name, value in asdict(self).items()}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value not in (None, ())
        }

    def as_command(self, output: str) -> str:
        """The command that fits with these settings."""
        words = ["tinynet", "fit", *self.data]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "data" or value in (None, ()) or value == field.default:
                continue
            values = value if isinstance(value, tuple) else (value,)
            for one in values:
                words += [option(field.name)] if one is True else [option(field.name), str(one)]
        return shlex.join([*words, "--output", output])


def option(name: str) -> str:
    """How the command line calls a setting."""
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def parse_bonds(text: str) -> Any:
    """Turn the ``--bonds`` option into what `CycleMomentFeaturizer` takes.

    Parameters
    ----------
    text : str
        A cutoff ("3.1"), "natural", or cutoffs by pair ("Ba-O=3.6,Ti-O=2.7").

    Raises
    ------
    ValueError
        If it is none of these.
    """
    from ase import Atoms

    from tinynet_sklearn.graph import build_bond_graph

    contract = "bonds must be a cutoff (3.1), 'natural', or cutoffs by pair (Ba-O=3.6,Ti-O=2.7)"
    if text == "natural":
        return text
    try:
        if "=" not in text:
            bonds: Any = float(text)
        else:
            pairs = (part.split("=") for part in text.split(","))
            bonds = {pair.strip(): float(cutoff) for pair, cutoff in pairs}
    except ValueError:
        raise ValueError(f"{contract}, got {text!r}.") from None
    build_bond_graph(Atoms("H"), bonds)  # rules check their numbers when they are used
    return bonds


def parse_hidden(text: str) -> tuple[int, ...]:
    """Units of hidden layers, from "16x32"; "0" is a linear model.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if text == "0":
        return ()
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise ValueError(
            f"hidden must be the units of the hidden layers (16x32), or 0 for a linear model; got {text!r}."
        )
    return tuple(int(part) for part in text.split("x"))


def parse_energies(text: str) -> Any:
    """Energies in eV, from "low:high:number".

    Raises
    ------
    ValueError
        If it is something else.
    """
    import numpy as np

    try:
        low, high, number = text.split(":")
        if not float(low) < float(high) or int(number) < 2:
            raise ValueError
        return np.linspace(float(low), float(high), int(number))
    except ValueError:
        raise ValueError(
            f"energies must be lowest, highest and number of energies in eV (-8:6:281); got {text!r}."
        ) from None


def make_model(settings: FitSettings, n_species: int, verbose: int = 0, checkpoint: str | None = None) -> Any:
    """Pipeline of steps "embed" and "net" for settings that leave nothing open.

    Parameters
    ----------
    settings : FitSettings
    n_species : int
        In the training data.
    verbose : int, default=0
        Of the regressor.
    checkpoint : str or None, default=None
        Folder from which trainings that are the same go on; many fits may share it.
    """
    from sklearn.pipeline import Pipeline

    from tinynet_sklearn.features import CycleMomentFeaturizer
    from tinynet_sklearn.potential import BPNNPotential
    from tinynet_sklearn.regressor import BPNNRegressor
    from tinynet_sklearn.smooth import SmoothMomentFeaturizer

    potential = settings.target == "potential"
    embed: Any
    if settings.topology == "smooth":
        chosen: dict[str, Any] = {"n": settings.n, "cutoff": settings.cutoff}
        if settings.target == "forces":
            chosen["n_vector"] = N_VECTOR if n_species < 3 else N_VECTOR_OF_MANY
        embed = SmoothMomentFeaturizer(**chosen)
    else:
        chosen = {"n": settings.n, "N": settings.N, "paths": settings.paths}
        if settings.topology == "each":
            chosen |= {"topology": "each", "overflow": "clip"}
        embed = CycleMomentFeaturizer(
            bonds=parse_bonds(settings.bonds or ""),
            coordinates="distances" if potential else "vectors",
            **chosen,
        )
    common: dict[str, Any] = {
        "hidden_layer_sizes": parse_hidden(settings.hidden),
        "max_iter": settings.max_iter,
        "early_stopping": settings.early_stopping,
        "n_jobs": settings.jobs,
        "random_state": settings.seed,
        "verbose": verbose,
    }
    if checkpoint is not None:
        common |= {"checkpoint": checkpoint, "resume": "matching"}
    if settings.alpha is not None:
        common["alpha"] = settings.alpha
    if settings.target == "ldos":
        common["n_components"] = EXPLAINED
    net = BPNNPotential(**common) if potential else BPNNRegressor(**common)
    return Pipeline([("embed", embed), ("net", net)])
