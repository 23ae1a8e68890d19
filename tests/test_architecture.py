"""The house: who may import whom, and what a bare import costs. Read from the source, not from memory."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tinynet_sklearn

PACKAGE = Path(tinynet_sklearn.__file__).parent

#: The floors of the house, ground floor first. A module may import from the floors below and, on its own,
#: from the modules to its left.
FLOORS = [
    [
        "_version",
        "_validation",
        "copies",
        "frame_numbers",
        "atomic_files",
        "run_lock",
        "_kernels",
        "_moment_kernels",
        "_force_kernels",
        "_topology_kernels",
        "_vector_kernels",
        "frames",
        "geometry",
        "switching",
        "channels",
        "domains",
        "lammps_box",
        "containers",
        "targets",
        "potential_targets",
        "target_sets",
        "broadening",
        "recursion",
        "alignment",
        "energy_grid",
        "curve_table",
        "curve_numbers",
        "ldos",
    ],
    [
        "structures",
        "xyz_files",
        "io",
        "graph",
        "distances",
        "pair_distributions",
        "bond_chemistry",
        "bond_suggestion",
        "calculations",
        "siesta_files",
        "vasp_files",
        "state_files",
        "deepmd_files",
        "run_locations",
        "ldos_io",
        "document_files",
        "dataset_locations",
        "dataset_result",
        "dataset_frames",
        "dataset_files",
    ],
    [
        "paths",
        "sites",
        "tables",
        "lengths",
        "reference",
        "supercells",
        "repetition",
        "tiling",
        "path_geometry",
        "topologies",
        "embedding_settings",
        "individual_frames",
        "individual",
        "jacobians",
        "moments",
        "vector_moments",
        "skin",
    ],
    [
        "features",
        "smooth",
        "preprocessing",
        "dscribe_descriptors",
        "dscribe_features",
        "function_features",
        "checkpoint",
        "array_folders",
        "mapped_rows",
        "scaling",
        "equivariance",
        "signs",
        "networks",
        "target_maps",
        "vector_targets",
        "target_settings",
        "recorder",
        "objective",
        "lbfgs",
        "gauss_newton",
        "thread_limits",
        "keras_loops",
        "solvers",
        "rows",
        "training",
        "workers",
        "energies",
        "energy_objective",
        "energy_training",
        "potential_training",
    ],
    ["pairing", "metrics", "potential_metrics", "curve_pairs", "ldos_metrics", "curve_report", "splits"],
    ["regressor", "potential", "multi_target", "per_atom_regressor"],
    [
        "evaluation",
        "kinds",
        "compiled",
        "pipelines",
        "smooth_engine",
        "heads",
        "committee",
        "dask_searches",
        "plotting",
        "plot_axes",
        "name_tags",
        "search_results",
        "grid_tables",
        "grid_plots",
        "timing",
        "cost_plots",
        "error_plots",
        "learning_curves",
        "pair_distribution_plots",
        "ldos_panels",
        "ldos_plots",
        "ldos_map",
        "moment_plots",
        "datasets",
        "persistence",
        "pretrained",
        "inspection_result",
        "frame_sets",
        "bond_findings",
        "target_findings",
        "inspection",
        "calculator",
        "speed_plots",
        "lammps_files",
        "lammps",
    ],
    [
        "run_settings",
        "integrators",
        "run_files",
        "run_results",
        "dynamics",
        "learning_settings",
        "learning_data",
        "learning_errors",
        "quickstart",
        "learning_files",
        "learning_predictions",
        "learning_runs",
        "learning_grids",
        "model_cards",
        "reports",
        "learning_reports",
        "cli_config",
        "cli_arguments",
        "cli_options",
        "cli_learning",
        "cli_models",
        "cli_simulation",
        "cli",
    ],
]
HEIGHT = {name: k for k, name in enumerate(name for floor in FLOORS for name in floor)}

#: Packages that belong to some modules only; where a name starts with "_", to all that end like it.
AT_HOME = {
    "keras": {"networks", "keras_loops"},
    "tensorflow": {"networks", "keras_loops", "thread_limits"},
    "numba": {"_kernels"},
    "matplotlib": {
        "plotting",
        "learning_curves",
        "pair_distribution_plots",
        "plot_axes",
        "name_tags",
        "grid_plots",
        "cost_plots",
        "error_plots",
        "speed_plots",
        "ldos_panels",
        "ldos_plots",
        "moment_plots",
    },
    "pymatgen": {"graph", "vasp_files", "bond_chemistry", "channels", "document_files", "function_features"},
    "sisl": {"siesta_files"},
    "dscribe": {"dscribe_descriptors"},
    "spglib": {"sites"},
    "vesin": {"graph"},
}

#: Of these, the ones that take long to load: only inside the functions that need them.
LAZY = {"keras", "tensorflow", "matplotlib", "pymatgen", "sisl", "dscribe"}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports_of(module):
    """Imported modules of a file with the line, and whether the import runs when the file is loaded."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    deferred = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{module}.py, line {node.lineno}: write imports from the top of the package"
            )
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield name, node.lineno, node not in deferred


def own_imports(module):
    """Modules of the package that a module imports, with the line."""
    for name, line, _ in imports_of(module):
        parts = name.split(".")
        if parts[0] == "tinynet_sklearn":
            # "from tinynet_sklearn import X" may fetch a public name or a module.
            room = parts[1] if parts[1] in MODULES else tinynet_sklearn._ROOM_OF.get(parts[1], "_version")
            yield room, line


def test_every_module_has_a_place_in_the_house():
    assert set(HEIGHT) >= set(MODULES), "give new modules a place in FLOORS"
    assert [name for name in HEIGHT if name not in MODULES] == [], "FLOORS names modules that are gone"


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_downwards(module):
    upward = [
        f"{module}.py, line {line}: imports {other}"
        for other, line in own_imports(module)
        if HEIGHT[other] >= HEIGHT[module]
    ]
    assert upward == []


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_stay_at_home(module):
    astray = [
        f"{module}.py, line {line}: imports {name}"
        for name, line, _ in imports_of(module)
        if not any(
            module == home or (home.startswith("_") and module.endswith(home))
            for home in AT_HOME.get(name.split(".")[0], {module})
        )
    ]
    assert astray == []


@pytest.mark.parametrize("module", MODULES)
def test_slow_packages_are_imported_where_they_are_needed(module):
    eager = [
        f"{module}.py, line {line}: imports {name} when loaded"
        for name, line, at_once in imports_of(module)
        if at_once and name.split(".")[0] in LAZY
    ]
    assert eager == []


def test_library_code_has_no_assertions():
    """They vanish under python -O. (Ruff's S101 says so, too; this is for files it was told to skip.)"""
    found = [
        f"{module}.py, line {node.lineno}"
        for module in MODULES
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


# ---- The front door ----------------------------------------------------------------------------------------


def loaded_by(statement):
    """Top-level packages in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_a_bare_import_loads_nothing_heavy():
    heavy = {"tensorflow", "keras", "matplotlib", "pymatgen", "sklearn", "numba", "scipy", "ase", "numpy"}
    assert loaded_by("import tinynet_sklearn") & heavy == set()


def test_features_need_neither_tensorflow_nor_matplotlib_nor_pymatgen():
    statement = (
        "from ase.build import bulk\n"
        "from tinynet_sklearn import CycleMomentFeaturizer\n"
        "CycleMomentFeaturizer(n=2, N=1).fit_transform([bulk('NaCl', 'rocksalt', a=5.64)])"
    )
    assert loaded_by(statement) & {"tensorflow", "keras", "matplotlib", "pymatgen"} == set()


@pytest.mark.parametrize("name", tinynet_sklearn.__all__)
def test_every_public_name_can_be_imported(name):
    value = getattr(tinynet_sklearn, name)
    if name in tinynet_sklearn._ROOM_OF:
        module = importlib.import_module(f"tinynet_sklearn.{tinynet_sklearn._ROOM_OF[name]}")
        assert value is getattr(module, name)
        assert value.__module__ == module.__name__
        assert value.__doc__


def test_the_lists_of_public_names_agree():
    """Lazy loading has three: __all__, where each name lives, and the imports that type checkers see."""
    assert sorted(tinynet_sklearn.__all__) == sorted([*tinynet_sklearn._ROOM_OF, "__version__"])
    assert dir(tinynet_sklearn) == sorted(tinynet_sklearn.__all__)
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (for_type_checkers,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module.removeprefix("tinynet_sklearn.")
        for node in for_type_checkers.body
        for alias in node.names
    }
    assert seen == tinynet_sklearn._ROOM_OF


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError) as error:
        tinynet_sklearn.CycleMomentFeaturiser  # noqa: B018
    assert str(error.value) == "module 'tinynet_sklearn' has no attribute 'CycleMomentFeaturiser'"
