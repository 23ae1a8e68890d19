"""The BaTiO3 AIMD protocol: 798 frames of 40 atoms at 300, 450 and 900 K, split in blocks of time.

Data: sliutheorygroup/UniPero, Task-I (Phys. Rev. B 108, L180104), in deepmd's npy layout; not part of this
repository. The last 20 % of each run are the test set and are never seen in fitting or selection.
"""

from pathlib import Path

import numpy as np
from ase import Atoms

from tinynet_sklearn import PerAtomArray, PotentialTargets

#: Where the data are looked for unless ``--data`` says otherwise.
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "batio3_aimd"

#: Bonds of the frozen topology: twelve O around Ba, six around Ti.
BONDS = {"Ba-O": 3.6, "Ti-O": 2.7}

RUNS = ("BT-300K", "BT-450K", "BT-900K")

#: Frames up to here (fraction of each run) are for training.
TRAIN_FRACTION = 0.8


def load(root=DEFAULT_DATA):
    """Return training and test sets, each a dict with ``structures``, ``forces`` (eV/A) and ``run``."""
    parts = {
        "train": {"structures": [], "forces": [], "run": []},
        "test": {"structures": [], "forces": [], "run": []},
    }
    for run in RUNS:
        folder = Path(root) / run
        if not folder.is_dir():
            raise SystemExit(
                f"{folder} is not there; pass --data with the folder that holds {', '.join(RUNS)}."
            )
        kinds = (folder / "type_map.raw").read_text().split()
        symbols = [kinds[int(kind)] for kind in (folder / "type.raw").read_text().split()]
        arrays = [
            np.concatenate([np.load(part / f"{name}.npy") for part in sorted(folder.glob("set.*"))])
            for name in ("coord", "box", "force")
        ]
        n_train = int(TRAIN_FRACTION * len(arrays[0]))
        for k, (positions, cell, forces) in enumerate(zip(*arrays, strict=True)):
            part = parts["train" if k < n_train else "test"]
            part["structures"].append(
                Atoms(symbols, positions=positions.reshape(-1, 3), cell=cell.reshape(3, 3), pbc=True)
            )
            part["forces"].append(forces.reshape(-1, 3).astype(float))
            part["run"].append(run)
    return parts["train"], parts["test"]


def load_potential(root=DEFAULT_DATA):
    """Return training and test sets with ``structures``, ``run`` and ``y``: energies, forces and stresses."""
    sets = load(root)
    for name, part in zip(("train", "test"), sets, strict=True):
        energies, stresses = [], []
        for run in RUNS:
            folder = Path(root) / run
            energy, virial = (
                np.concatenate([np.load(piece / f"{what}.npy") for piece in sorted(folder.glob("set.*"))])
                for what in ("energy", "virial")
            )
            n_train = int(TRAIN_FRACTION * len(energy))
            chosen = slice(None, n_train) if name == "train" else slice(n_train, None)
            energies += [float(e) for e in energy[chosen].ravel()]
            stresses += list(virial[chosen].reshape(-1, 3, 3))
        volumes = np.array([atoms.get_volume() for atoms in part["structures"]])
        stress = (
            -np.array(stresses, dtype=float) / volumes[:, None, None]
        )  # deepmd's virial has the other sign
        part["y"] = PotentialTargets(
            energy=energies,
            forces=PerAtomArray.from_list(
                part["forces"], species=[atoms.numbers for atoms in part["structures"]]
            ),
            stress=stress[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        )
    return sets
