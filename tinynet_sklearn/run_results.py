"""What a molecular dynamics run left behind: table, frames, a summary, a plot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.integrators import degrees_of_freedom
from tinynet_sklearn.ldos import LDOS
from tinynet_sklearn.plotting import COLORS, new_axes
from tinynet_sklearn.run_files import RunFiles
from tinynet_sklearn.run_settings import RunSettings

__all__ = ["DynamicsError", "DynamicsResult", "has_energy"]


class DynamicsError(ValueError):
    """A simulation that cannot go on: it blew up, broke a bond, or left what its model knows.

    Attributes
    ----------
    result : DynamicsResult
        What was reached.
    """

    def __init__(self, message: str, result: DynamicsResult) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True, eq=False, repr=False)
class DynamicsResult:
    """What a run left behind.

    Attributes
    ----------
    table : dict of str to ndarray of shape (n_records,)
        "step", "time_ps", "kinetic_eV", "potential_eV", "total_eV", "conserved_eV", "temperature_K",
        "pressure_GPa" (with the momenta of the atoms, positive under compression), "volume_A3",
        "extrapolating_atoms"; NaN where a number does not exist. Steps of the equilibration are negative.
        Those of a run that was continued are there from its beginning.
    atoms : ase.Atoms
        The last configuration, with its calculator.
    step : int
        Steps done, counted from the end of the equilibration.
    finished : bool
        Whether that is all of them.
    stopped_by : {"", "SIGINT", "SIGTERM"}
        The signal that ended the run early.
    seconds_per_step : float
        Mean of the steps that this call did, writing included; NaN if it did none.
    settings : RunSettings
        Ensemble, temperature and so on, as they were used.
    folder : Path or None
        Where the files are.
    files : RunFiles
        Table and trajectory, closed.

    Examples
    --------
    >>> from tinynet_sklearn import TinyNetCalculator, load_moo3, load_pretrained, run_dynamics
    >>> atoms = load_moo3().structures[0] * (2, 1, 2)
    >>> atoms.calc = TinyNetCalculator(load_pretrained("moo3"), on_extrapolation="ignore")  # they are counted
    >>> run_dynamics(atoms, temperature=300, n_steps=10, interval=5)
    <DynamicsResult: nvt, 64 atoms, 10 of 10 steps, in memory>
    """

    table: dict[str, FloatArray]
    atoms: Atoms
    step: int
    finished: bool
    stopped_by: str
    seconds_per_step: float
    settings: RunSettings
    folder: Path | None
    files: RunFiles

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else f"in '{self.folder}'"
        return (
            f"<DynamicsResult: {self.settings.ensemble}, {len(self.atoms)} atoms, {self.step:,} of "
            f"{self.settings.n_steps:,} steps, {where}>"
        )

    def frames(self) -> list[Atoms]:
        """Frames of the trajectory, with energies and forces; step and time (ps) are in their ``info``."""
        return self.files.frames()

    def dos(self) -> LDOS:
        """Total density of states of every frame, where the model predicts densities of states.

        Returns
        -------
        LDOS
            With one row per frame, the sum over its atoms, states/eV; `LDOSMapDisplay` draws it against time.

        Raises
        ------
        ValueError
            If frames have none, or on different energies, as after a restart with another model.
        """
        notes = [frame.info for frame in self.frames()]
        missing = sum("dos" not in note for note in notes)
        if missing or not notes:
            raise ValueError(
                "dos needs a density of states in every frame, as of a model that was fitted on an LDOS; it "
                f"is missing in {missing} of {len(notes)} frames. Run the dynamics with a "
                "MultiTargetRegressor of forces and LDOS from its beginning."
            )
        parts = [LDOS.from_arrays([note["dos"][None]], _grid_of(note)) for note in notes]
        return np.concatenate(parts)  # type: ignore[return-value]

    def production(self) -> dict[str, FloatArray]:
        """Return the table without the equilibration."""
        after = self.table["step"] >= 0
        return {name: column[after] for name, column in self.table.items()}

    def drift(self) -> float:
        """Slope of the conserved energy, fitted to the production: meV per atom and ps.

        NaN for less than three records, or without potential energy.
        """
        rows = self.production()
        energies = rows["conserved_eV"]
        if len(energies) < 3 or np.isnan(energies).any():
            return float("nan")
        slope = np.polynomial.polynomial.polyfit(rows["time_ps"], energies - energies[0], 1)[1]
        return float(1e3 * slope / len(self.atoms))

    def summary(self) -> dict[str, Any]:
        """Numbers of the production that tell how the run went; None where a number does not exist.

        Returns
        -------
        dict
            "mode" ("energy" or "direct"), "formula", "n_atoms", "degrees_of_freedom", "settings", "finished",
            "stopped_by", "steps" and "time_ps" (reached), "temperature_mean_K", "temperature_std_K",
            "temperature_std_expected_K" (of a canonical ensemble), "drift_meV_per_atom_ps",
            "pressure_mean_GPa", "volume_mean_A3", "frames_with_extrapolating_atoms" (a share),
            "extrapolating_atoms_mean", "extrapolating_atoms_most", "seconds_per_step",
            "microseconds_per_atom_step".
        """
        rows, n_atoms = self.production(), len(self.atoms)
        freedom = degrees_of_freedom(self.atoms)
        flagged = rows["extrapolating_atoms"]
        flagged = flagged[~np.isnan(flagged)]
        numbers = {
            "temperature_mean_K": _mean(rows["temperature_K"]),
            "temperature_std_K": float(rows["temperature_K"].std()) if len(rows["step"]) > 1 else np.nan,
            "temperature_std_expected_K": self.settings.temperature * np.sqrt(2.0 / freedom),
            "drift_meV_per_atom_ps": self.drift(),
            "pressure_mean_GPa": _mean(rows["pressure_GPa"]),
            "volume_mean_A3": _mean(rows["volume_A3"]),
            "frames_with_extrapolating_atoms": _mean(flagged > 0),
            "extrapolating_atoms_mean": _mean(flagged),
            "extrapolating_atoms_most": float(flagged.max()) if len(flagged) else np.nan,
            "seconds_per_step": self.seconds_per_step,
            "microseconds_per_atom_step": 1e6 * self.seconds_per_step / n_atoms,
        }
        return {
            "mode": "energy" if has_energy(self.atoms) else "direct",
            "formula": self.atoms.get_chemical_formula(mode="metal"),
            "n_atoms": n_atoms,
            "degrees_of_freedom": freedom,
            "settings": asdict(self.settings),
            "finished": self.finished,
            "stopped_by": self.stopped_by or None,
            "steps": self.step,
            "time_ps": self.step * self.settings.timestep * 1e-3,
            **{name: None if np.isnan(number) else float(number) for name, number in numbers.items()},
        }

    def plot(self) -> Any:
        """Temperature and drift of the conserved energy against time; at constant pressure, the volume, too.

        Returns
        -------
        matplotlib Figure
            ``figure.savefig("dynamics.png")``. The equilibration is shaded.
        """
        panels = [self._plot_temperature]
        panels += [self._plot_energy] if has_energy(self.atoms) else []
        panels += [self._plot_volume] if self.settings.ensemble == "npt" else []
        figure = new_axes(6.5, 0.6 + 2.1 * len(panels)).figure
        figure.clear()
        all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(all_axes, panels, strict=True):
            panel(axes)
            axes.margins(x=0.01)
            if len(self.table["step"]) and self.table["step"][0] < 0:
                axes.axvspan(self.table["time_ps"][0], 0.0, color="0.9", linewidth=0.0, zorder=0.0)
            if axes.get_legend_handles_labels()[0]:  # above the panel, where no curve is
                axes.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
        all_axes[-1].set_xlabel("time (ps)")
        formula = self.atoms.get_chemical_formula(mode="metal")
        all_axes[0].set_title(f"{formula}, {self.settings.ensemble.upper()}", fontsize=10, loc="left")
        return figure

    def _plot_temperature(self, axes: Any) -> None:
        wanted, mean = self.settings.temperature, _mean(self.production()["temperature_K"])
        axes.plot(self.table["time_ps"], self.table["temperature_K"], color=COLORS[0], linewidth=0.8)
        axes.axhline(wanted, color="0.2", linewidth=1.0, linestyle="--", label=f"set: {wanted:g} K")
        if not np.isnan(mean):
            axes.axhline(mean, color=COLORS[1], linewidth=1.2, label=f"mean: {mean:.4g} K")
        axes.set_ylabel("temperature (K)")

    def _plot_energy(self, axes: Any) -> None:
        rows, slope = self.production(), self.drift()
        name = "total" if self.settings.ensemble == "nve" else "conserved"
        axes.set_ylabel(f"{name} energy\n(meV/atom)")
        if not len(rows["step"]):
            return
        times, energies = rows["time_ps"], rows["conserved_eV"]
        energies = 1e3 * (energies - energies[0]) / len(self.atoms)
        axes.plot(times, energies, color=COLORS[2], linewidth=0.8)
        if not np.isnan(slope):
            line = energies.mean() + slope * (times - times.mean())
            axes.plot(times, line, color=COLORS[1], linewidth=1.2, label=f"drift: {slope:.2g} meV/atom/ps")

    def _plot_volume(self, axes: Any) -> None:
        volumes = self.table["volume_A3"] / len(self.atoms)
        axes.plot(self.table["time_ps"], volumes, color=COLORS[3], linewidth=0.8)
        axes.set_ylabel("volume\n(Å³/atom)")


def has_energy(atoms: Atoms) -> bool:
    """Whether the calculator of the atoms has an energy, or forces alone."""
    return "energy" in atoms.calc.implemented_properties


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _grid_of(note: dict[str, Any]) -> EnergyGrid:
    """Energies of the density of states of a frame."""
    low, high = note["dos_energies"]
    width = float(note["dos_width"])
    energies = np.linspace(low, high, len(note["dos"]))
    return EnergyGrid(energies, None if np.isnan(width) else width, str(note["dos_zero"]))
