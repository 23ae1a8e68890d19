"""Readers of two public data sets with published errors of small networks, not part of this repository.

- TiO2: aenet-PyTorch example (MIT), 1000 structures of 6 to 95 atoms with the published test split.
- Si: mlearn (Zuo et al., J. Phys. Chem. A 124, 731 (2020); BSD-3), given training and test files.
"""

from pathlib import Path

import numpy as np

from tinynet_sklearn.dataset_files import read_dataset

#: Where the data are looked for unless an argument says otherwise.
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def load_tio2(root=SHARED / "tio2_aenet"):
    """Return training and test sets, each a dict with ``structures`` and ``y`` (energies and forces)."""
    root = Path(root)
    lines = (root / "energies.test").read_text().splitlines()
    tested = {Path(line.split()[-1]).name for line in lines if line.strip().endswith(".xsf")}
    data = read_dataset(root / "dir_xsf.tar.gz", "potential")
    chosen = np.array([Path(source.file).name in tested for source in data.sources])
    return _as_set(data[~chosen]), _as_set(data[chosen])


def load_mlearn(element="Si", root=SHARED / "mlearn"):
    """Return training and test sets, each a dict with ``structures`` and ``y`` (energies and forces)."""
    folder = Path(root) / element
    return tuple(_as_set(read_dataset(folder / f"{n}.json", "potential")) for n in ("training", "test"))


def _as_set(data):
    return {"structures": data.structures, "y": data.y}
