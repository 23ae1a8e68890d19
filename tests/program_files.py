"""Small runs as SIESTA, VASP and others leave them: two atoms, three states, two points k.

The numbers of all of them are the same, and made here from scratch: Gaussians at known energies.
"""

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import Bohr, Rydberg

#: Energies of the states at two points k, eV; two are filled.
STATES = np.array([[-6.0, -2.0, 2.0], [-5.5, -1.0, 2.5]])
K_WEIGHTS = np.array([0.25, 0.75])
FERMI, VBM, CBM, N_ELECTRONS = 0.5, -1.0, 2.0, 4.0

#: Share of the orbitals in each state; the first is of Na, the others of Cl.
SHARES = np.array([[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.7, 0.0, 0.3]])
ATOM_OF_ORBITAL = np.array([0, 1, 1])

ENERGIES = np.linspace(-10.0, 5.0, 301)

#: Width as the programs count it, and the standard deviation that it means, eV.
WIDTH = 0.2
DEVIATION = WIDTH / np.sqrt(2)

FORCES = np.array([[0.1, -0.2, 0.3], [-0.1, 0.2, -0.3]])
ENERGY = -20.0


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.wrap()
    return atoms


def orbital_curves(energies=ENERGIES, deviation=DEVIATION, shift=0.0):
    """States of one spin per eV, (n_orbitals, n_energies)."""
    distance = (energies - shift - STATES[..., None]) / deviation
    peaks = np.exp(-0.5 * distance**2) / (deviation * np.sqrt(2 * np.pi))
    return np.einsum("k,kne,no->oe", K_WEIGHTS, peaks, SHARES)


def atom_curves(energies=ENERGIES, deviation=DEVIATION, shift=0.0):
    """States of both spins per eV, (n_atoms, n_energies)."""
    curves = np.zeros((2, len(energies)))
    np.add.at(curves, ATOM_OF_ORBITAL, 2 * orbital_curves(energies, deviation, shift))
    return curves


# ---- SIESTA ----


def siesta_pdos(energies=ENERGIES, n_spins=1, fermi=FERMI, atoms=None, shift=0.0, width=WIDTH) -> str:
    """Text of a .PDOS; with two spins, the second channel is half of the first."""
    atoms = salt() if atoms is None else atoms
    curves = orbital_curves(energies, width / np.sqrt(2), shift)
    lines = ["<pdos>", f"<nspin>{n_spins}</nspin>", f"<norbitals>{len(curves)}</norbitals>"]
    if fermi is not None:
        lines.append(f'<fermi_energy units="eV"> {fermi + shift:.9E}</fermi_energy>')
    lines += ['<energy_values units="eV">', *(f" {energy:.9E}" for energy in energies), "</energy_values>"]
    for index, (curve, atom) in enumerate(zip(curves, ATOM_OF_ORBITAL, strict=True)):
        x, y, z = atoms.positions[atom] / Bohr
        lines.append(
            f'<orbital\n index="{index + 1:25d}"\n atom_index="{atom + 1:25d}"\n'
            f' species="{atoms.symbols[atom]}"\n Z="{atoms.numbers[atom]:25d}"\n'
            f' position="{x:11.6f}{y:11.6f}{z:11.6f}"\n n="3"\n l="{min(index, 1)}"\n m="0"\n z="1"\n'
            ' P="false"\n>\n<data>'
        )
        factors = [1.0, 0.5, 0.0, 0.0][:n_spins]
        lines += [" ".join(f"{factor * value:.9E}" for factor in factors) for value in curve]
        lines.append("</data>\n</orbital>")
    return "\n".join([*lines, "</pdos>", ""])


def siesta_xv(atoms) -> str:
    rows = [*(row / Bohr for row in atoms.cell.array), None, *(row / Bohr for row in atoms.positions)]
    still = " 0.0 0.0 0.0"
    lines = ["".join(f"{x:18.9f}" for x in row) + still for row in rows[:3]] + [f"{len(atoms):12d}"]
    for number, row in zip(atoms.numbers, rows[4:], strict=True):
        lines.append(f"  1{number:6d}" + "".join(f"{x:18.9f}" for x in row) + still)
    return "\n".join([*lines, ""])


def siesta_struct_out(atoms) -> str:
    lines = ["".join(f"{x:18.9f}" for x in row) for row in atoms.cell.array] + [f"{len(atoms):12d}"]
    for number, row in zip(atoms.numbers, atoms.get_scaled_positions(), strict=True):
        lines.append(f"  1{number:6d}" + "".join(f"{x:18.9f}" for x in row))
    return "\n".join([*lines, ""])


def siesta_fdf(block="-10.0 5.0 0.2 301 eV") -> str:
    return f"""SystemLabel salt
NumberOfAtoms 2
%block ChemicalSpeciesLabel
 1 11 Na
 2 17 Cl
%endblock ChemicalSpeciesLabel
LatticeConstant 5.64 Ang
%block LatticeVectors
 0.0 0.5 0.5
 0.5 0.0 0.5
 0.5 0.5 0.0
%endblock LatticeVectors
AtomicCoordinatesFormat Fractional
%block AtomicCoordinatesAndAtomicSpecies
 0.0 0.0 0.0 1
 0.5 0.5 0.5 2
%endblock AtomicCoordinatesAndAtomicSpecies
%block ProjectedDensityOfStates
 {block}
%endblock ProjectedDensityOfStates
"""


def siesta_eig(states=STATES, fermi=FERMI, n_spins=1) -> str:
    lines = [f" {fermi:.9E}", f"{states.shape[1]:11d}{n_spins:2d}{len(states):11d}"]
    for k, row in enumerate(states):
        lines.append(f"{k + 1:10d}" + "".join(f"  {energy:.9E}" for _ in range(n_spins) for energy in row))
    return "\n".join([*lines, ""])


def siesta_dos(energies=ENERGIES, n_spins=1, shift=0.0, width=WIDTH) -> str:
    total = orbital_curves(energies, width / np.sqrt(2), shift).sum(axis=0)
    factors = [1.0, 0.5][:n_spins]
    rows = zip(energies, total, strict=True)
    return "".join(f"{e:20.5f}" + "".join(f"{f * d:20.5f}" for f in factors) + "\n" for e, d in rows)


def siesta_fa(forces=FORCES) -> str:
    rows = "".join(f"{i + 1:6d}" + "".join(f"{x:18.9E}" for x in row) + "\n" for i, row in enumerate(forces))
    return f"{len(forces):6d}\n{rows}"


def siesta_run(folder, label="salt", shift=0.0, energies=ENERGIES, width=WIDTH, n_spins=1):
    """Write a run whose energies all lie higher by a shift; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        ".PDOS": siesta_pdos(energies, n_spins, shift=shift, width=width),
        ".DOS": siesta_dos(energies, n_spins, shift, width),
        ".EIG": siesta_eig(STATES + shift, FERMI + shift, n_spins),
        ".XV": siesta_xv(salt()),
        ".FA": siesta_fa(),
        ".fdf": siesta_fdf(f"{energies[0]} {energies[-1]} {width} {len(energies)} eV"),
    }
    for ending, text in texts.items():
        (folder / f"{label}{ending}").write_text(text)
    (folder / "FORCE_STRESS").write_text(f"{ENERGY / Rydberg:25.10f}\n")
    return folder


# ---- VASP ----


def _vectors(name, rows) -> str:
    lines = "".join("<v>" + "".join(f"{x:17.8f}" for x in row) + "</v>\n" for row in rows)
    return f'<varray name="{name}">\n{lines}</varray>\n'


def _structure(atoms, name="") -> str:
    crystal = _vectors("basis", atoms.cell.array) + _vectors("rec_basis", atoms.cell.reciprocal().array)
    return (
        f"<structure{name}>\n<crystal>\n{crystal}</crystal>\n"
        f"{_vectors('positions', atoms.get_scaled_positions())}</structure>\n"
    )


def _rows(table) -> str:
    return "".join("<r>" + "".join(f"{x:11.4f}" for x in row) + "</r>\n" for row in table)


def steps_of(n) -> str:
    return "<scstep><energy><i name='e_fr_energy'>-20.0</i></energy></scstep>\n" * n


def earlier_step(i):
    """Structure, forces and energy of an ionic step before the last."""
    atoms = salt()
    atoms.set_cell(atoms.cell.array * (1.1 + 0.1 * i), scale_atoms=True)
    atoms.positions[1, 0] += 0.1
    return atoms, (2 + i) * FORCES, ENERGY + 1 + i


def vasprun(
    energies=ENERGIES,
    n_spins=1,
    projected=True,
    ismear=0,
    noncollinear=False,
    n_projected=2,
    electronic_steps=1,
    energy_step=True,
    earlier=(),
) -> str:
    """Text of a vasprun.xml; with two spins, the second channel is half of the first.

    `earlier` are ionic steps before the last (see `earlier_step`): the number of electronic steps of each.
    """
    atoms, factors = salt(), [2.0] if n_spins == 1 else [1.0, 0.5]
    curves = orbital_curves(energies)
    flag = "T" if noncollinear else "F"
    spins = range(1, n_spins + 1)
    eigenvalues = "".join(
        f'<set comment="spin {spin}">'
        + "".join(
            f'<set comment="kpoint {k + 1}">{_rows([(e, float(e < FERMI)) for e in row])}</set>'
            for k, row in enumerate(STATES)
        )
        + "</set>"
        for spin in spins
    )
    total = "".join(
        f'<set comment="spin {spin}">'
        + _rows(np.stack([energies, factor * curves.sum(axis=0), 0 * energies], axis=1))
        + "</set>"
        for spin, factor in zip(spins, factors, strict=True)
    )
    shares = np.equal(ATOM_OF_ORBITAL, [[0], [1]])[..., None]  # orbitals of each atom
    partial = "".join(
        f'<set comment="ion {atom + 1}">'
        + "".join(
            f'<set comment="spin {spin}">'
            + _rows(np.stack([energies, *(factor * curves * shares[atom])], axis=1))
            + "</set>"
            for spin, factor in zip(spins, factors, strict=True)
        )
        + "</set>"
        for atom in range(n_projected)
    )
    fields = "<field>energy</field><field>s</field><field>p</field><field>d</field>"
    partial = f"<partial><array>{fields}<set>{partial}</set></array></partial>" if projected else ""
    calculation = (
        f"<calculation>\n{steps_of(electronic_steps)}{_structure(atoms)}{_vectors('forces', FORCES)}"
        "<energy><i name='e_fr_energy'>-20.0</i></energy>\n"
        f"<eigenvalues><array><set>{eigenvalues}</set></array></eigenvalues>\n"
        f"<dos><i name='efermi'>{FERMI}</i><total><array><set>{total}</set></array></total>{partial}</dos>\n"
        "</calculation>\n"
    )
    before = "".join(
        f"<calculation>\n{steps_of(n)}{_structure(atoms)}{_vectors('forces', forces)}"
        f"<energy><i name='e_fr_energy'>{energy}</i></energy>\n</calculation>\n"
        for n, (atoms, forces, energy) in zip(earlier, map(earlier_step, range(len(earlier))), strict=True)
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n'
        '<generator><i name="version" type="string">6.4.1</i></generator>\n'
        f'<incar><i type="int" name="ISMEAR">{ismear}</i></incar>\n'
        f"<kpoints>\n{_vectors('kpointlist', np.zeros((2, 3)))}"
        f"{_vectors('weights', K_WEIGHTS[:, None])}</kpoints>\n"
        f'<parameters><i type="int" name="ISMEAR">{ismear}</i><i name="SIGMA">{WIDTH}</i>'
        f'<i name="NELECT">4.0</i><i type="int" name="NELM">3</i><i type="int" name="NSW">0</i>'
        f'<i type="int" name="IBRION">-1</i><i type="logical" name="LNONCOLLINEAR">{flag}</i></parameters>\n'
        '<atominfo><array name="atoms"><set><rc><c>Na</c><c>1</c></rc><rc><c>Cl</c><c>2</c></rc></set>'
        "</array>"
        '<array name="atomtypes"><set><rc><c>1</c><c>Na</c><c>22.99</c><c>1.0</c><c>PAW_PBE Na</c></rc>'
        "<rc><c>1</c><c>Cl</c><c>35.45</c><c>7.0</c><c>PAW_PBE Cl</c></rc></set></array></atominfo>\n"
        + _structure(atoms, ' name="initialpos"')
        + before
        + (calculation if energy_step else "")
        + _structure(atoms, ' name="finalpos"')
        + "</modeling>\n"
    )


# ---- Arrays ----


def state_arrays(n_structures=2):
    """Arrays of a file of states; structure i lies i eV higher."""
    shifts = np.arange(float(n_structures))
    atom_shares = np.stack([SHARES[:, 0], SHARES[:, 1] + SHARES[:, 2]], axis=-1)
    return {
        "eigenvalues": STATES + shifts[:, None, None],
        "state_weights": np.broadcast_to(atom_shares, (n_structures, 2, 3, 2)).copy(),
        "k_weights": K_WEIGHTS,
        "numbers": np.array([11, 17]),
        "fermi": FERMI + shifts,
        "vbm": VBM + shifts,
        "cbm": CBM + shifts,
        "n_occupied": np.full(n_structures, 2),
        "frame": np.arange(n_structures),
    }


def deepmd_system(folder, n_frames=(2, 1), total=True):
    """Write a system with as many frames in each set; the folder."""
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("1\n0\n")
    (folder / "type_map.raw").write_text("Cl\nNa\n")
    atoms, frame = salt(), 0
    for number, n in enumerate(n_frames):
        part = folder / f"set.{number:03d}"
        part.mkdir()
        scale = 1 + np.arange(frame, frame + n)[:, None]
        np.save(part / "coord.npy", np.tile(atoms.positions.ravel(), (n, 1)))
        np.save(part / "box.npy", np.tile(atoms.cell.array.ravel(), (n, 1)))
        np.save(part / "atom_dos.npy", scale * atom_curves().ravel())
        np.save(part / "force.npy", np.tile(FORCES.ravel(), (n, 1)))
        np.save(part / "energy.npy", -np.arange(frame, frame + n, dtype=float))
        if total:
            np.save(part / "dos.npy", scale * atom_curves().sum(axis=0))
        frame += n
    return folder
