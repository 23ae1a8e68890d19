#!/usr/bin/env bash
# The installed wheel, as a user has it: a fresh environment, away from the checkout.
# Usage: .ci/smoke.sh WHEEL FOLDER    (FOLDER is made anew)
set -euo pipefail
wheel=$(realpath "$1")
folder=$(realpath -m "$2")
python=${PYTHON:-python3}
rm -rf "$folder"
mkdir -p "$folder/run"
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "$wheel"
bin=$folder/venv/bin
unset PYTHONPATH
cd "$folder/run"

echo ":: console script"
"$bin/tinynet" --version
"$bin/tinynet" --help > /dev/null
for command in $("$bin/python" -c '
from typer.main import get_command
from tinynet_sklearn.cli import app
print(*get_command(app).commands)
'); do
    "$bin/tinynet" "$command" --help > /dev/null
    echo "tinynet $command --help"
done

echo ":: public names, data, models, files"
# -P: what is imported is what is installed, never a folder of this name.
"$bin/python" -P - <<'PYTHON'
import os
import sys

import numpy as np

import tinynet_sklearn
from tinynet_sklearn import load_batio3, load_model, load_moo3, load_pretrained, save_model

assert tinynet_sklearn.__file__.startswith(sys.prefix + os.sep), tinynet_sklearn.__file__
for name in tinynet_sklearn.__all__:
    getattr(tinynet_sklearn, name)
print(len(tinynet_sklearn.__all__), "public names")
for name, load in (("batio3", load_batio3), ("moo3", load_moo3)):
    data = load()
    print(name, len(data.structures), "structures,", len(data.DESCR), "characters;", load("ldos").target)
    model, card = load_pretrained(name, return_card=True)
    found = model.predict(data.structures[:2])
    assert found.n_structures == 2 if hasattr(found, "n_structures") else len(found) == 2, found
    save_model(model, f"{name}.tinynet")
    np.testing.assert_array_equal(load_model(f"{name}.tinynet").predict(data.structures[:2]).values, found.values)
    print(name, "predicts, and so does the copy read from its file;", card["material"])
assert "tensorflow" not in sys.modules, "prediction must not need TensorFlow"
PYTHON

echo ":: tinynet quickstart"
"$bin/tinynet" quickstart --material batio3 --output quickstart
test -s quickstart/*.png
