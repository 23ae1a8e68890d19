"""Readers of two public data sets with published errors of small networks, not part of this repository.

- TiO2: aenet-PyTorch example (MIT), 1000 structures of 6 to 95 atoms with the published test split.
- Si: mlearn (Zuo et al., J. Phys. Chem. A 124, 731 (2020); BSD-3), given training and test files.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
from ase import Atoms

from tinynet_sklearn import PerAtomArray, PotentialTargets

#: Where the data are looked for unless an argument says otherwise.
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def load_tio2(root=SHARED / "tio2_aenet"):
    """Return training and test sets, each a dict with ``structures`` and ``y`` (energies and forces)."""
    root = Path(root)
    tested = {
        Path(line.split()[-1]).name
        for line in (root / "energies.test").read_text().splitlines()
        if line.strip().endswith(".xsf")
    }
    parts = {"train": [], "test": []}
    with tarfile.open(root / "dir_xsf.tar.gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            name = Path(member.name).name
            if member.isfile() and name.endswith(".xsf") and not name.startswith("."):
                text = archive.extractfile(member).read().decode()
                parts["test" if name in tested else "train"].append(_read_xsf(text))
    return tuple(_as_set(parts[name]) for name in ("train", "test"))


def load_mlearn(element="Si", root=SHARED / "mlearn"):
    """Return training and test sets, each a dict with ``structures`` and ``y`` (energies and forces)."""
    sets = []
    for name in ("training", "test"):
        entries = json.loads((Path(root) / element / f"{name}.json").read_text())
        frames = []
        for entry in entries:
            lattice = entry["structure"]["lattice"]["matrix"]
            sites = entry["structure"]["sites"]
            atoms = Atoms(
                [site["species"][0]["element"] for site in sites],
                positions=[site["xyz"] for site in sites],
                cell=lattice,
                pbc=True,
            )
            frames.append((atoms, entry["outputs"]["energy"], np.array(entry["outputs"]["forces"])))
        sets.append(_as_set(frames))
    return tuple(sets)


def _read_xsf(text):
    lines = [line.split() for line in text.splitlines() if line.strip()]
    energy = next(float(line[4]) for line in lines if line[:3] == ["#", "total", "energy"])
    start = next(k for k, line in enumerate(lines) if line[0] == "PRIMVEC")
    cell = np.array(lines[start + 1 : start + 4], dtype=float)
    start = next(k for k, line in enumerate(lines) if line[0] == "PRIMCOORD")
    n_atoms = int(lines[start + 1][0])
    rows = lines[start + 2 : start + 2 + n_atoms]
    numbers = np.array([row[1:7] for row in rows], dtype=float)
    atoms = Atoms([row[0] for row in rows], positions=numbers[:, :3], cell=cell, pbc=True)
    return atoms, energy, numbers[:, 3:]


def _as_set(frames):
    structures = [atoms for atoms, _, _ in frames]
    forces = PerAtomArray.from_list([f for _, _, f in frames], species=[a.numbers for a in structures])
    return {
        "structures": structures,
        "y": PotentialTargets(energy=[energy for _, energy, _ in frames], forces=forces),
    }
