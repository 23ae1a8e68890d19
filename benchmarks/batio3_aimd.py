"""The BaTiO3 AIMD protocol: 798 frames of 40 atoms at 300, 450 and 900 K, split in blocks of time.

Data: sliutheorygroup/UniPero, Task-I (Phys. Rev. B 108, L180104), in deepmd's npy layout; not part of this
repository. The last 20 % of each run are the test set and are never seen in fitting or selection.
"""

from pathlib import Path

import numpy as np

from tinynet_sklearn.dataset_files import read_dataset

#: Where the data are looked for unless ``--data`` says otherwise.
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "batio3_aimd"

#: Bonds of the frozen topology: twelve O around Ba, six around Ti.
BONDS = {"Ba-O": 3.6, "Ti-O": 2.7}

RUNS = ("BT-300K", "BT-450K", "BT-900K")

#: Frames up to here (fraction of each run) are for training.
TRAIN_FRACTION = 0.8


def load(root=DEFAULT_DATA):
    """Return training and test sets, each a dict with ``structures``, ``forces`` (eV/A) and ``run``."""
    sets = load_potential(root)
    for part in sets:
        part["forces"] = list(part.pop("y").forces)
    return sets


def load_potential(root=DEFAULT_DATA):
    """Return training and test sets with ``structures``, ``run`` and ``y``: energies, forces and stresses."""
    folders = [Path(root) / run for run in RUNS]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise SystemExit(
            f"{missing[0]} is not there; pass --data with the folder that holds {', '.join(RUNS)}."
        )
    data = read_dataset(folders, "potential")
    chosen = np.concatenate([np.arange(n) < int(TRAIN_FRACTION * n) for n in np.bincount(data.groups)])
    return tuple(
        {"structures": part.structures, "run": [RUNS[group] for group in part.groups], "y": part.y}
        for part in (data[chosen], data[~chosen])
    )
