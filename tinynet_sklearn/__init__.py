"""Chemical-bonding-aware machine learning for materials, as a scikit-learn toolkit.

The public names are loaded on first use, so that ``import tinynet_sklearn`` costs next to nothing and
never imports TensorFlow, matplotlib or pymatgen.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinynet_sklearn._version import __version__

if TYPE_CHECKING:
    from tinynet_sklearn.array_folders import open_per_atom, transform_to_folder
    from tinynet_sklearn.bond_suggestion import suggest_bonds
    from tinynet_sklearn.calculator import TinyNetCalculator
    from tinynet_sklearn.committee import CommitteeRegressor
    from tinynet_sklearn.compiled import CompiledModel
    from tinynet_sklearn.containers import PerAtomArray
    from tinynet_sklearn.cost_plots import AccuracyCostDisplay
    from tinynet_sklearn.curve_report import ldos_report
    from tinynet_sklearn.dask_searches import on_dask
    from tinynet_sklearn.dataset_files import read_dataset
    from tinynet_sklearn.dataset_result import Dataset
    from tinynet_sklearn.datasets import load_batio3, load_moo3
    from tinynet_sklearn.dscribe_features import DScribeFeaturizer
    from tinynet_sklearn.dynamics import run_dynamics
    from tinynet_sklearn.energy_grid import EnergyGrid, Levels
    from tinynet_sklearn.error_plots import ErrorDistributionDisplay
    from tinynet_sklearn.features import CycleMomentFeaturizer
    from tinynet_sklearn.frames import SiteFrames
    from tinynet_sklearn.function_features import FunctionFeaturizer
    from tinynet_sklearn.graph import (
        BondGraph,
        CutoffBonds,
        NaturalBonds,
        NearNeighborBonds,
        PairBonds,
        build_bond_graph,
    )
    from tinynet_sklearn.grid_plots import GridHeatmapDisplay
    from tinynet_sklearn.heads import split_model
    from tinynet_sklearn.ldos import LDOS
    from tinynet_sklearn.ldos_io import read_ldos, read_runs
    from tinynet_sklearn.ldos_map import LDOSMapDisplay
    from tinynet_sklearn.ldos_plots import LDOSDisplay
    from tinynet_sklearn.learning_curves import LossCurveDisplay
    from tinynet_sklearn.model_cards import read_card
    from tinynet_sklearn.moment_plots import MomentErrorDisplay
    from tinynet_sklearn.multi_target import MultiTargetRegressor, target_scorer
    from tinynet_sklearn.pair_distribution_plots import PairDistributionDisplay
    from tinynet_sklearn.per_atom_regressor import PerAtomRegressor
    from tinynet_sklearn.persistence import load_model, save_model
    from tinynet_sklearn.plotting import ParityDisplay
    from tinynet_sklearn.potential import BPNNPotential
    from tinynet_sklearn.potential_targets import PotentialTargets
    from tinynet_sklearn.preprocessing import PerAtom
    from tinynet_sklearn.pretrained import load_pretrained
    from tinynet_sklearn.regressor import BPNNRegressor
    from tinynet_sklearn.run_results import DynamicsError, DynamicsResult
    from tinynet_sklearn.run_settings import RunSettingsError
    from tinynet_sklearn.smooth import SmoothMomentFeaturizer
    from tinynet_sklearn.speed_plots import SpeedDisplay
    from tinynet_sklearn.splits import time_blocks
    from tinynet_sklearn.target_sets import TargetSet
    from tinynet_sklearn.timing import microseconds_per_atom

_ROOM_OF = {
    "AccuracyCostDisplay": "cost_plots",
    "BPNNPotential": "potential",
    "BPNNRegressor": "regressor",
    "BondGraph": "graph",
    "CommitteeRegressor": "committee",
    "CompiledModel": "compiled",
    "CutoffBonds": "graph",
    "CycleMomentFeaturizer": "features",
    "DScribeFeaturizer": "dscribe_features",
    "Dataset": "dataset_result",
    "DynamicsError": "run_results",
    "DynamicsResult": "run_results",
    "EnergyGrid": "energy_grid",
    "ErrorDistributionDisplay": "error_plots",
    "FunctionFeaturizer": "function_features",
    "GridHeatmapDisplay": "grid_plots",
    "LDOS": "ldos",
    "LDOSDisplay": "ldos_plots",
    "LDOSMapDisplay": "ldos_map",
    "Levels": "energy_grid",
    "LossCurveDisplay": "learning_curves",
    "MomentErrorDisplay": "moment_plots",
    "MultiTargetRegressor": "multi_target",
    "NaturalBonds": "graph",
    "NearNeighborBonds": "graph",
    "PairBonds": "graph",
    "PairDistributionDisplay": "pair_distribution_plots",
    "ParityDisplay": "plotting",
    "PerAtom": "preprocessing",
    "PerAtomArray": "containers",
    "PerAtomRegressor": "per_atom_regressor",
    "PotentialTargets": "potential_targets",
    "RunSettingsError": "run_settings",
    "SiteFrames": "frames",
    "SmoothMomentFeaturizer": "smooth",
    "SpeedDisplay": "speed_plots",
    "TargetSet": "target_sets",
    "TinyNetCalculator": "calculator",
    "build_bond_graph": "graph",
    "ldos_report": "curve_report",
    "load_batio3": "datasets",
    "load_model": "persistence",
    "load_moo3": "datasets",
    "load_pretrained": "pretrained",
    "microseconds_per_atom": "timing",
    "on_dask": "dask_searches",
    "open_per_atom": "array_folders",
    "read_card": "model_cards",
    "read_dataset": "dataset_files",
    "read_ldos": "ldos_io",
    "read_runs": "ldos_io",
    "run_dynamics": "dynamics",
    "save_model": "persistence",
    "split_model": "heads",
    "suggest_bonds": "bond_suggestion",
    "target_scorer": "multi_target",
    "time_blocks": "splits",
    "transform_to_folder": "array_folders",
}

__all__ = [
    "LDOS",
    "AccuracyCostDisplay",
    "BPNNPotential",
    "BPNNRegressor",
    "BondGraph",
    "CommitteeRegressor",
    "CompiledModel",
    "CutoffBonds",
    "CycleMomentFeaturizer",
    "DScribeFeaturizer",
    "Dataset",
    "DynamicsError",
    "DynamicsResult",
    "EnergyGrid",
    "ErrorDistributionDisplay",
    "FunctionFeaturizer",
    "GridHeatmapDisplay",
    "LDOSDisplay",
    "LDOSMapDisplay",
    "Levels",
    "LossCurveDisplay",
    "MomentErrorDisplay",
    "MultiTargetRegressor",
    "NaturalBonds",
    "NearNeighborBonds",
    "PairBonds",
    "PairDistributionDisplay",
    "ParityDisplay",
    "PerAtom",
    "PerAtomArray",
    "PerAtomRegressor",
    "PotentialTargets",
    "RunSettingsError",
    "SiteFrames",
    "SmoothMomentFeaturizer",
    "SpeedDisplay",
    "TargetSet",
    "TinyNetCalculator",
    "__version__",
    "build_bond_graph",
    "ldos_report",
    "load_batio3",
    "load_model",
    "load_moo3",
    "load_pretrained",
    "microseconds_per_atom",
    "on_dask",
    "open_per_atom",
    "read_card",
    "read_dataset",
    "read_ldos",
    "read_runs",
    "run_dynamics",
    "save_model",
    "split_model",
    "suggest_bonds",
    "target_scorer",
    "time_blocks",
    "transform_to_folder",
]


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        value = getattr(import_module(f"tinynet_sklearn.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tinynet_sklearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
