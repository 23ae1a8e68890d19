"""Features in folders: written in batches, cut off, continued, mapped, and learned from block by block."""

import copy
import json
import os
import re
import socket
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

import tinynet_sklearn.array_folders as array_folders
import tinynet_sklearn.training as training
from tinynet_sklearn import (
    BPNNRegressor,
    CycleMomentFeaturizer,
    PerAtom,
    PerAtomArray,
    SmoothMomentFeaturizer,
    load_batio3,
    load_moo3,
)
from tinynet_sklearn.array_folders import open_per_atom, transform_to_folder
from tinynet_sklearn.function_features import FunctionFeaturizer
from tinynet_sklearn.mapped_rows import MappedRows, is_mapped
from tinynet_sklearn.run_lock import FolderLock


@pytest.fixture(scope="module")
def data():
    return load_moo3()


@pytest.fixture(scope="module")
def embed(data):
    return CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit(data.structures)


def assert_same(a, b):
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.species, b.species)
    assert a.values.dtype == b.values.dtype
    assert (a.frames is None) == (b.frames is None)
    if a.frames is not None:
        np.testing.assert_array_equal(a.frames.rotations, b.frames.rotations)
        np.testing.assert_array_equal(a.frames.sites, b.frames.sites)
        assert a.frames.symmetry.equals(b.frames.symmetry)
    if a.vectors is not None or b.vectors is not None:
        np.testing.assert_array_equal(a.vectors, b.vectors)


def test_errors_count_structures_through_all_batches(data, embed, tmp_path):
    structures = [*data.structures[:10], data.structures[0][:3], *data.structures[11:]]
    with pytest.raises(ValueError, match="  structure 10: it has 3 atoms"):
        transform_to_folder(tmp_path, embed, iter(structures), 4)
    structures[10] = "salt"
    with pytest.raises(TypeError, match="str at index 10"):
        transform_to_folder(tmp_path, embed, iter(structures), 4)


@pytest.mark.parametrize("batch_size", [1, 32, 81, 1000])
def test_batches_are_the_whole(batch_size, data, embed, tmp_path):
    mapped = transform_to_folder(tmp_path, embed, iter(data.structures), batch_size)
    assert is_mapped(mapped.values)
    assert_same(mapped, embed.transform(data.structures))
    assert_same(open_per_atom(tmp_path), mapped)
    plain = np.load(tmp_path / "per_atom.values.npy")  # a file of NumPy, for everybody
    np.testing.assert_array_equal(plain, mapped.values)


def test_vectors_and_single_precision(data, tmp_path):
    smooth = SmoothMomentFeaturizer(cutoff=3.0, n=2, n_vector=1).fit(data.structures)
    mapped = transform_to_folder(tmp_path / "smooth", smooth, data.structures[:5], 2)
    assert_same(mapped, smooth.transform(data.structures[:5]))
    single = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, dtype="float32").fit(data.structures)
    mapped = transform_to_folder(tmp_path / "single", single, data.structures, 40)
    assert_same(mapped, single.transform(data.structures))


def dies_after(embed, calls):
    """A featurizer of a process that is killed, with a list of the calls before."""
    mortal, done = copy.copy(embed), []

    def transform(X):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(len(X))
        return embed.transform(X)

    mortal.transform = transform
    return mortal, done


@pytest.mark.parametrize("rest", [b"", b"half of a batch"])
def test_what_was_cut_off_goes_on(rest, data, embed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        transform_to_folder(tmp_path, dies_after(embed, 3)[0], data.structures, 20)
    message = (
        f"path must lead to complete features; '{tmp_path}' holds those of 60 structures so far. Call "
        "transform_to_folder again, with the same arguments, to go on."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_per_atom(tmp_path)
    with (tmp_path / "per_atom.values.npy").open("ab") as file:
        file.write(rest)
    counting, done = dies_after(embed, 9)
    assert_same(
        transform_to_folder(tmp_path, counting, data.structures, 20), embed.transform(data.structures)
    )
    assert done == [20, 20, 20, 1]  # the first and the last batch, and the two that are missing
    assert_same(transform_to_folder(tmp_path, embed, data.structures, 20), embed.transform(data.structures))


def others(folder, which):
    message = (
        "path must lead to an empty folder, or to features of these structures by this featurizer; "
        f"'{folder}' holds others, {which}. Name another folder, or remove this one."
    )
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def test_a_folder_of_others_is_refused(data, embed, tmp_path):
    transform_to_folder(tmp_path, embed, data.structures[:40], 20)
    other = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit(data.structures[:3])
    less = CycleMomentFeaturizer(n=2, N=0, bonds=data.bonds).fit(data.structures)
    makes_others = "of which the featurizer makes others now"
    for featurizer, structures, which in [
        (embed, data.structures[1:41], makes_others),
        (embed, data.structures[:30], "of 40 structures"),
        (embed, data.structures[:20], "of 40 structures"),
        (other, data.structures[:40], makes_others),
        (less, data.structures[:40], "with another N"),
    ]:
        with others(tmp_path, which):
            transform_to_folder(tmp_path, featurizer, structures, 20)
    assert len(transform_to_folder(tmp_path, embed, data.structures[:60], 20)) == 60  # more of the same


@pytest.mark.parametrize("field", ["numbers", "positions", "cell", "pbc"])
def test_a_run_goes_on_with_the_same_structures_only(field, data, embed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        transform_to_folder(tmp_path, dies_after(embed, 3)[0], data.structures, 10)
    changed = [atoms.copy() for atoms in data.structures]
    atoms = changed[14]  # in a batch that is not computed again
    if field == "cell":
        atoms.cell[0, 0] += 1e-9
    else:
        array = getattr(atoms, field)
        array[0] = not array[0] if field == "pbc" else array[0] + 1
        setattr(atoms, field, array)
    with others(tmp_path, "of other structures"):
        transform_to_folder(tmp_path, embed, changed, 10)
    transform_to_folder(tmp_path, embed, [atoms.copy() for atoms in data.structures], 10)


def test_a_run_goes_on_with_the_same_featurizer_only(data, embed, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        transform_to_folder(tmp_path, dies_after(embed, 1)[0], data.structures, 20)
    for name, value in {"n": 4, "bonds": {("Mo", "O"): 2.0}, "N": 0}.items():
        changed = copy.copy(embed)
        setattr(changed, name, value)
        with others(tmp_path, f"with another {name}"):
            transform_to_folder(tmp_path, changed, data.structures, 20)
    with monkeypatch.context() as patch, others(tmp_path, "with another version of tinynet_sklearn"):
        patch.setattr(array_folders, "__version__", "0.0.1")
        transform_to_folder(tmp_path, embed, data.structures, 20)
    parallel = copy.copy(embed)
    parallel.n_jobs = 1
    transform_to_folder(tmp_path, parallel, data.structures, 20)


def test_functions_are_parameters_too(data, tmp_path):
    embed = FunctionFeaturizer(lambda atoms: atoms.positions).fit(data.structures)
    transform_to_folder(tmp_path, embed, data.structures[:4], 2)
    transform_to_folder(tmp_path, embed, data.structures[:4], 2)
    embed.function = heights
    with others(tmp_path, "with another function"):
        transform_to_folder(tmp_path, embed, data.structures[:4], 2)


def test_invariance_is_kept(data, tmp_path):
    embed = FunctionFeaturizer(heights, invariant=True).fit(data.structures)
    assert transform_to_folder(tmp_path, embed, data.structures[:4], 2).invariant
    header = tmp_path / "per_atom.json"
    content = json.loads(header.read_text())
    del content["invariant"]
    header.write_text(json.dumps(content))
    assert not open_per_atom(tmp_path).invariant

    class Changes:
        calls = 0

        def transform(self, X):
            self.calls += 1
            one = np.ones(len(X), dtype=int)
            offsets = np.arange(len(X) + 1)
            return PerAtomArray(np.zeros((len(X), 1)), offsets, one, invariant=self.calls == 1)

    with pytest.raises(ValueError, match=r"^featurizer must give equal columns, .*; from structure 2 on "):
        transform_to_folder(tmp_path / "changes", Changes(), range(4), 2)


def heights(atoms):
    return atoms.positions[:, 2]


def test_symmetry_of_a_run_before_is_not_read(data, embed, tmp_path):
    transform_to_folder(tmp_path, embed, data.structures[:4], 2)
    header = tmp_path / "per_atom.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"symmetry": False}))
    assert open_per_atom(tmp_path).frames.symmetry is None


# ---- One process at a time ---------------------------------------------------------------------------------


def test_a_folder_is_for_one_run_at_a_time(data, embed, tmp_path):
    messages = []

    class Second:
        def transform(self, X):
            with pytest.raises(ValueError, match="at a time") as error:
                transform_to_folder(tmp_path, embed, data.structures, 20)
            messages.append(str(error.value))
            return embed.transform(X)

    transform_to_folder(tmp_path, Second(), data.structures[:40], 20)
    assert messages == 2 * [
        f"path must belong to one run at a time; '{tmp_path}' is in use by process {os.getpid()} on "
        f"{socket.gethostname()}. Wait for its end or name another folder; if there is no such process, "
        f"remove '{tmp_path / '.lock'}'."
    ]
    assert not (tmp_path / ".lock").exists()


def test_where_there_are_no_locks_the_slower_run_ends(data, embed, tmp_path, monkeypatch):
    monkeypatch.setattr(FolderLock, "take", lambda self: None)

    slower, calls = copy.copy(embed), []

    def transform(X):
        calls.append(1)
        if len(calls) == 2:
            transform_to_folder(tmp_path, embed, data.structures, 20)
        return embed.transform(X)

    slower.transform = transform
    message = (
        f"path must belong to one run at a time; another has written to '{tmp_path}'. Call "
        "transform_to_folder again when it has ended."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        transform_to_folder(tmp_path, slower, data.structures[:60], 20)


@pytest.mark.parametrize("name", ["values", "counts", "rotations"])
@pytest.mark.parametrize("how", ["cut", "gone", "other"])
def test_files_with_less_than_was_written_are_refused(how, name, data, embed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        transform_to_folder(tmp_path, dies_after(embed, 2)[0], data.structures, 20)
    path = tmp_path / f"per_atom.{name}.npy"
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:-8])
    else:
        np.save(path, np.zeros((10_000, 2)))
    message = (
        f"path must lead to features whose files are whole; '{path}' is missing, cut off, or another's. "
        "Remove the folder and write it again."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        transform_to_folder(tmp_path, embed, data.structures, 20)


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_no_zeros_are_put_where_rows_are_missing(how, tmp_path):
    path = tmp_path / "rows.npy"
    array_folders._append_rows(path, 0, np.ones((4, 2)))
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="whole"):
        array_folders._append_rows(path, 4, np.ones((1, 2)))


def test_batches_must_be_alike(data, embed, tmp_path):
    class Changes:
        calls = 0

        def transform(self, X):
            self.calls += 1
            found = embed.transform(X)
            return found if self.calls == 1 else found.with_values(found.values[:, :2])

    message = (
        "featurizer must give equal columns, frames and vectors for all structures; from structure 20 on "
        f"they differ from those in '{tmp_path}'. Name another folder for them."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        transform_to_folder(tmp_path, Changes(), data.structures, 20)


def test_refusals(data, embed, tmp_path):
    def refused(error, message, call):
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            call()

    (tmp_path / "file").write_text("")
    folder = tmp_path / "folder"
    refused(
        ValueError,
        "batch_size must be at least 1; got 0.",
        lambda: transform_to_folder(folder, embed, data.structures, 0),
    )
    refused(
        NotADirectoryError,
        f"path must be a folder; '{tmp_path / 'file'}' is a file. Name another place.",
        lambda: transform_to_folder(tmp_path / "file", embed, data.structures),
    )
    refused(
        ValueError,
        "structures must hold at least one structure; got list, empty.",
        lambda: transform_to_folder(folder, embed, []),
    )
    refused(
        FileNotFoundError,
        f"path must lead to a folder of features; '{folder}' has no per_atom.json. Write one with "
        "transform_to_folder.",
        lambda: open_per_atom(folder),
    )
    refused(
        TypeError,
        "featurizer must make PerAtomArrays; StandardScaler made ndarray of shape (2, 1). Put transformers "
        "of tables into PerAtom(...).",
        lambda: transform_to_folder(folder, StandardScaler().fit([[1.0], [2.0]]), [[1.0], [2.0]]),
    )
    transform_to_folder(folder, embed, data.structures[:4], 2)
    refused(
        ValueError,
        f"batch_size must be that of the files in '{folder}', 2; got 3. Keep it, or name another folder.",
        lambda: transform_to_folder(folder, embed, data.structures[:4], 3),
    )
    header = folder / "per_atom.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"format": 2}))
    refused(
        ValueError,
        f"path must lead to features of format 1 of tinynet_sklearn; '{header}' says tinynet_sklearn, format "
        "2. Update the package, or name another folder.",
        lambda: open_per_atom(folder),
    )


def fitted(X, y, **settings):
    options = {"max_iter": 12, "random_state": 0, "n_iter_no_change": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return BPNNRegressor((6,), **(options | settings)).fit(X, y)


@pytest.fixture
def never_whole(monkeypatch):
    """Refuse to read all mapped rows at once."""

    def refuse(self, dtype=None, copy=None):
        raise MemoryError("all rows at once")

    monkeypatch.setattr(MappedRows, "__array__", refuse)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver": "lbfgs", "networks": "shared"},
        {"scaler": "minmax", "early_stopping": True},
        {"symmetry_average": False, "symmetry_copies": 1, "dtype": "float32"},
        {
            "solver": "lm",
            "networks": "per-site",
            "max_iter": 4,
            "symmetry_average": False,
            "symmetry_copies": 1,
        },
    ],
)
@pytest.mark.parametrize("load", [load_moo3, load_batio3])
def test_training_from_the_file_is_training_from_memory(load, settings, tmp_path, never_whole):
    data = load()
    embed = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit(data.structures)
    near = embed.transform(data.structures)
    X = transform_to_folder(tmp_path, embed, data.structures)
    a, b = fitted(X, data.target, **settings), fitted(near, data.target, **settings)
    # the order of the sums differs: bits do, and training enlarges the difference
    tolerance = 2e-2 if "dtype" in settings else 1e-6
    for z, history in a.history_.items():
        np.testing.assert_allclose(history["loss"], b.history_[z]["loss"], rtol=tolerance)
    scale = tolerance * np.abs(b.predict(near).values).max()
    np.testing.assert_allclose(a.predict(X).values, b.predict(near).values, atol=10 * scale)
    np.testing.assert_allclose(a.predict(X).values, a.predict(near).values, atol=1e-6)


def test_nothing_is_copied_that_need_not_be(data, embed, tmp_path, monkeypatch):
    X = transform_to_folder(tmp_path, embed, data.structures)
    assert is_mapped(X[:40].values)
    assert not is_mapped(X[[3, 1]].values)
    assert not is_mapped(embed.transform(data.structures).values)
    assert not is_mapped(np.memmap(tmp_path / "other", dtype=float, mode="w+", shape=(2, 2)))
    with_memory = []
    monkeypatch.setattr(training, "merged", lambda *a: with_memory.append(1) or a)
    fitted(X[:40], data.target[:40], max_iter=2)
    assert not with_memory
    fitted(X[np.arange(40)], data.target[:40], max_iter=2)
    assert with_memory


def test_other_trainings_read_all_rows(data, embed, tmp_path):
    X = transform_to_folder(tmp_path, embed, data.structures)
    settings = {"symmetry_average": False, "symmetry_copies": 2, "max_iter": 3}
    near = embed.transform(data.structures)
    for z, arrays in fitted(X, data.target, **settings).weights_.items():
        for mine, other in zip(arrays, fitted(near, data.target, **settings).weights_[z], strict=True):
            np.testing.assert_array_equal(mine, other)
    assert len(PerAtom(StandardScaler()).fit_transform(X)) == len(X)


def test_a_training_from_the_file_is_kept_and_read(data, embed, tmp_path):
    X = transform_to_folder(tmp_path / "features", embed, data.structures)
    settings = {"checkpoint": tmp_path / "fits", "resume": "matching"}
    first = fitted(X, data.target, **settings)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "fits").iterdir()}
    again = fitted(X, data.target, **settings)
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "fits").iterdir()}
    np.testing.assert_array_equal(first.predict(X).values, again.predict(X).values)


def test_mapped_rows():
    table = np.random.RandomState(0).randn(10000, 3)
    index = np.arange(1, 10000, 2)
    rows = MappedRows(table, index)
    assert rows.shape == (5000, 3)
    assert len(rows) == 5000
    np.testing.assert_array_equal(rows[10:20], table[index[10:20]])
    np.testing.assert_array_equal(rows[:, 1:], table[index][:, 1:])
    np.testing.assert_array_equal(rows[:, 1], table[index, 1])
    np.testing.assert_array_equal(np.asarray(rows[index < 100]), table[index[index < 100]])
    np.testing.assert_array_equal(rows.min(axis=0), table[index].min(axis=0))
    np.testing.assert_array_equal(rows.max(axis=0), table[index].max(axis=0))
    weight = np.random.RandomState(1).rand(5000)
    np.testing.assert_allclose(rows.average(weight), np.average(table[index], axis=0, weights=weight))
    np.testing.assert_allclose(rows.average(None), table[index].mean(axis=0), rtol=1e-10)
    half = rows.scaled(lambda block: block[:, :2] / 2, 2, "float64")
    assert half.shape == (5000, 2)
    np.testing.assert_array_equal(np.asarray(half), table[index][:, :2] / 2)
    assert (rows.digest() == MappedRows(table, index).digest()).all()
    assert not (rows.digest() == half.digest()).all()
    assert isinstance(rows[:], MappedRows)


def test_a_folder_without_frames(tmp_path):
    class Identity:
        def transform(self, X):
            return PerAtomArray.from_list([np.full((2, 1), float(x)) for x in X])

    X = transform_to_folder(tmp_path, Identity(), range(7), 3)
    assert X.frames is None
    np.testing.assert_array_equal(X.values.ravel(), np.repeat(np.arange(7.0), 2))
