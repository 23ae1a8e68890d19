"""`microseconds_per_atom`: what is called how often, and on what."""

import re
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator

from tinynet_sklearn.timing import microseconds_per_atom


class Slow:
    """A model that takes 2 ms."""

    def __init__(self):
        self.calls = []

    def predict(self, structures, output="forces"):
        self.calls.append((len(structures), output))
        time.sleep(2e-3)


class Forces(Calculator):
    """Zero forces; notes the positions that it was asked for."""

    implemented_properties = ("forces",)

    def __init__(self):
        super().__init__()
        self.seen = []

    def calculate(self, atoms=None, properties=("forces",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.seen.append(atoms.positions.copy())
        self.results = {"forces": np.zeros((len(atoms), 3))}


@pytest.fixture
def structures():
    return [bulk("NaCl", "rocksalt", a=5.6), bulk("Cu", "fcc", a=3.6)]


def test_time_of_all_structures_in_one_call_over_their_atoms(structures):
    model = Slow()
    assert 2e3 / 3 <= microseconds_per_atom(model, structures, repeats=3) < 1e5
    assert model.calls == [(2, "forces")] * 4, "one to warm up, three that count"


def test_the_first_call_does_not_count(structures):
    class Compiling(Slow):
        def predict(self, structures):
            time.sleep(0.0 if self.calls else 0.5)
            self.calls.append(0)

    assert microseconds_per_atom(Compiling(), structures, repeats=3) < 0.1e6


def test_options_and_method_are_passed_on(structures):
    model = Slow()
    model.transform = model.predict
    microseconds_per_atom(model, structures, repeats=1, method="transform", output="all")
    assert model.calls == [(2, "all")] * 2


def test_calculators_give_forces_of_atoms_that_moved(structures):
    calculator = Forces()
    before = structures[0].positions.copy()
    assert microseconds_per_atom(calculator, structures[:1], repeats=4) > 0
    assert len(calculator.seen) == 5, "nothing came from what was kept"
    moves = np.array(calculator.seen) - before
    assert np.abs(moves).max() < 0.01
    assert np.ptp(moves, axis=0).min() > 0
    assert (structures[0].positions == before).all(), "the user's atoms stay where they are"
    assert structures[0].calc is None


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (
            TypeError,
            "model must have a method 'predict'; got dict. Fit a pipeline that predicts.",
            {"model": {}},
        ),
        (ValueError, "repeats must be at least 1; got 0.", {"repeats": 0}),
        (
            ValueError,
            "structures must have atoms; got 0 structures without.",
            {"structures": []},
        ),
    ],
)
def test_bad_input(structures, error, message, options):
    arguments = {"model": Slow(), "structures": structures} | options
    with pytest.raises(error, match=re.escape(message)):
        microseconds_per_atom(**arguments)
