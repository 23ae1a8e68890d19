"""Site groups inside networks: against explicit images of physical rows, and against the law itself."""

from functools import partial
from itertools import combinations_with_replacement

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import averaged, dense, images
from site_rows import CASES, site_rows

from tinynet_sklearn.equivariance import GroupAction, largest_subgroup
from tinynet_sklearn.frames import ColumnSymmetry
from tinynet_sklearn.networks import glorot_stack
from tinynet_sklearn.objective import averaged_forward
from tinynet_sklearn.scaling import BLOCK_ROWS, ColumnScaling

SCALINGS = ["standard", "minmax", None]

QUARTER = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
REFUSAL = (
    "symmetry_average needs inputs that were scaled alike wherever an operation exchanges them; the network "
    "was fitted without it. Fit anew with warm_start=False, or set symmetry_average=False."
)


@pytest.fixture
def rng():
    return np.random.RandomState(0)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def groups(case, how="standard", vector=True):
    """Physical rows and the group of every site class of a case."""
    rows = site_rows(case, how)
    for site in rows.classes:
        yield rows, site, rows.action(site, vector)


def network(n_inputs, n_outputs, seed=0, dtype="float64", hidden=(5, 4)):
    """A network with biases in every layer."""
    rng = np.random.RandomState(seed)
    stack = glorot_stack([n_inputs, *hidden, n_outputs], "tanh", rng, "float64")
    return stack.with_flat(stack.flat() + 0.3 * rng.randn(stack.n_parameters)).astype(dtype)


def on_physical(stack, inputs, rows):
    """A network as a function of physical rows."""
    return dense(stack.arrays, (rows[:, inputs.columns] - inputs.offset) / inputs.scale)


# ---- The groups themselves ---------------------------------------------------------------------------------


def test_the_cases_have_the_groups_they_were_chosen_for(case):
    orders = [action.n_operations for _, _, action in groups(case)]
    assert orders == CASES[case][2]


@pytest.mark.parametrize(("case", "how"), [("slab O", "standard"), ("alpha-MoO3 O", "minmax")])
def test_some_groups_move_the_origin_of_the_scaling(case, how):
    """Or else the terms with the shift would go untested below."""
    assert all(np.abs(action.shift).max() > 0.1 for _, _, action in groups(case, how))


# ---- Images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", SCALINGS)
def test_images_are_those_of_the_physical_rows_behind_the_scaling(case, how):
    for rows, site, action in groups(case, how):
        physical = rows.of(site)
        scaled = rows.inputs.apply(physical, "float64")
        found = action.images(scaled)
        assert found.shape == (len(physical), action.n_operations, scaled.shape[1])
        assert_array_equal(found[:, 0], scaled)
        for operation, (rotation, image) in enumerate(images(physical, rows.symmetry, site)):
            assert_array_equal(action.rotations[operation], rotation)
            assert_allclose(image, rows.symmetry.apply(physical, site, operation), atol=1e-14)
            assert_allclose(found[:, operation], rows.inputs.apply(image, "float64"), atol=1e-11)


def test_single_precision_stays_single(case):
    for rows, site, action in groups(case):
        scaled = rows.inputs.apply(rows.of(site), "float32")
        found = action.images(scaled)
        assert found.dtype == np.float32
        assert_allclose(found, action.images(scaled.astype("float64")), atol=2e-5)
        stack = network(scaled.shape[1], 3, dtype="float32")
        predicted = averaged_forward(stack, scaled, action)
        assert predicted.dtype == np.float32
        exact = averaged_forward(stack.astype("float64"), scaled.astype("float64"), action)
        assert_allclose(predicted, exact, atol=2e-5)


# ---- The first layer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", SCALINGS)
def test_the_folded_layer_gives_the_sums_of_all_images(rng, case, how):
    for rows, site, action in groups(case, how):
        scaled = rows.inputs.apply(rows.of(site), "float64")
        weight, bias = rng.randn(scaled.shape[1], 4), rng.randn(4)
        folded, biases = action.fold(weight, bias)
        assert folded.shape == (scaled.shape[1], 4 * action.n_operations)
        expected = action.images(scaled) @ weight + bias
        assert_allclose(scaled @ folded + biases, expected.reshape(len(scaled), -1), atol=1e-11)


def test_unfold_is_the_transpose_of_fold(rng, case):
    for rows, _, action in groups(case, "minmax"):
        weight, bias = rng.randn(len(rows.inputs.columns), 4), rng.randn(4)
        folded = action.fold(weight, bias)
        cotangents = rng.randn(*folded[0].shape), rng.randn(*folded[1].shape)
        back = action.unfold(*cotangents)
        assert [b.shape for b in back] == [weight.shape, bias.shape]
        there = sum(np.vdot(c, f) for c, f in zip(cotangents, folded, strict=True))
        assert there == pytest.approx(np.vdot(back[0], weight) + np.vdot(back[1], bias), rel=1e-12)


# ---- The last layer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", [True, False])
def test_the_average_turns_every_output_back(rng, case, vector):
    for _, _, action in groups(case, vector=vector):
        outputs = rng.randn(5, action.n_operations, 3)
        turned = [
            [np.transpose(r) @ o if vector else o for r, o in zip(action.rotations, row, strict=True)]
            for row in outputs
        ]
        found = action.average(outputs.reshape(-1, 3))
        assert_allclose(found, np.mean(turned, axis=1), atol=1e-14)


@pytest.mark.parametrize(("vector", "width"), [(True, 3), (False, 3), (False, 1), (False, 7)])
def test_spread_is_the_transpose_of_the_average(rng, case, vector, width):
    for _, _, action in groups(case, vector=vector):
        outputs, slope = rng.randn(5 * action.n_operations, width), rng.randn(5, width)
        spread = action.spread(slope)
        assert spread.shape == outputs.shape
        there = np.vdot(slope, action.average(outputs))
        assert there == pytest.approx(np.vdot(spread, outputs), rel=1e-12)


@pytest.mark.parametrize(("vector", "width"), [(True, 3), (False, 3), (False, 1), (False, 7)])
def test_averaged_outputs_are_linear_in_the_last_layer_by_the_design(rng, case, vector, width):
    for _, _, action in groups(case, vector=vector):
        hidden = rng.randn(5 * action.n_operations, 4)
        matrix, bias = rng.randn(4, width), rng.randn(width)
        design = action.design(hidden)
        layer = np.vstack([matrix, bias])
        expected = action.average(hidden @ matrix + bias)
        assert_allclose(design @ (layer.ravel() if vector else layer), expected, atol=1e-13)
        assert action.design(hidden.astype("float32")).dtype == np.float32


# ---- The law -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", SCALINGS)
@pytest.mark.parametrize(("vector", "width"), [(True, 3), (False, 2)])
def test_the_averaged_network_is_the_average_of_the_network(case, how, vector, width):
    for rows, site, action in groups(case, how, vector):
        physical = rows.of(site)
        stack = network(len(rows.inputs.columns), width)
        function = partial(on_physical, stack, rows.inputs)
        expected = averaged(function, physical, rows.symmetry, site, vector)
        found = averaged_forward(stack, rows.inputs.apply(physical, "float64"), action)
        assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("how", SCALINGS)
@pytest.mark.parametrize("hidden", [(), (6,), (5, 4)])
def test_predictions_obey_every_operation(case, how, hidden):
    for rows, site, action in groups(case, how):
        stack = network(len(rows.inputs.columns), 3, hidden=hidden)
        scalars = rows.action(site, vector=False)
        physical = rows.of(site)
        scaled = rows.inputs.apply(physical, "float64")
        vectors, numbers = (averaged_forward(stack, scaled, a) for a in (action, scalars))
        for operation, rotation in enumerate(action.rotations):
            image = rows.inputs.apply(rows.symmetry.apply(physical, site, operation), "float64")
            assert_allclose(averaged_forward(stack, image, action), vectors @ rotation.T, atol=1e-12)
            assert_allclose(averaged_forward(stack, image, scalars), numbers, atol=1e-12)


def test_networks_do_not_obey_the_group_by_themselves():
    """Or else the tests above would say nothing."""
    for rows, site, action in groups("perovskite O"):
        scaled = rows.inputs.apply(rows.of(site), "float64")
        stack = network(scaled.shape[1], 3)
        images_of_first = action.images(scaled[:1])[0]
        turned_back = action.rotations.transpose(0, 2, 1) @ stack.forward(images_of_first)[..., None]
        assert np.ptp(turned_back[..., 0], axis=0).min() > 0.1


def test_a_force_on_an_inversion_centre_at_rest_vanishes():
    """Ti of ideal perovskite stands still by symmetry: whatever the weights, whatever was learned."""
    rows, site, action = next(groups("BaTiO3 Ti", None))
    rest = np.mean([image for _, image in images(rows.of(site)[:1], rows.symmetry, site)], axis=0)
    force = averaged_forward(network(len(rows.inputs.columns), 3), rows.inputs.apply(rest, "float64"), action)
    assert_allclose(force, 0, atol=1e-12)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    rows, site, action = next(groups("perovskite O"))
    scaled = np.tile(rows.inputs.apply(rows.of(site), "float64"), (BLOCK_ROWS // 40, 1))
    assert len(scaled) * action.n_operations > 4 * BLOCK_ROWS
    stack = network(scaled.shape[1], 3)
    assert_allclose(
        averaged_forward(stack, scaled, action)[-5:], averaged_forward(stack, scaled[-5:], action)
    )
    assert averaged_forward(stack, scaled[:0], action).shape == (0, 3)


def test_the_trivial_group_leaves_the_plain_network(rng):
    stack, rows = network(6, 3), rng.randn(20, 6)
    action = GroupAction.trivial(6)
    assert_array_equal(averaged_forward(stack, rows, action), stack.forward(rows))
    assert_array_equal(action.images(rows)[:, 0], rows)
    assert action.fold(stack.weights[0], stack.biases[0])[0] is stack.weights[0]
    assert action.unfold(stack.weights[0], stack.biases[0])[0] is stack.weights[0]
    assert_array_equal(action.design(rows), np.column_stack([rows, np.ones(20)]))


# ---- Scalings that an operation does not commute with ------------------------------------------------------


def square(vectors_turn):
    """Two scalars that a quarter turn about z exchanges, and one vector that it turns."""
    turns = [np.linalg.matrix_power(QUARTER, k) for k in range(4)]
    swaps = [[0, 1], [1, 0]] * 2 if not vectors_turn else [[0, 1]] * 4
    gather = np.array([[*swap, 2, 3, 4] for swap in swaps])
    return ColumnSymmetry((gather,), (np.array(turns),), np.array([[2, 3, 4]]))


@pytest.mark.parametrize(
    ("columns", "scale", "vectors_turn"),
    [
        pytest.param([0, 2, 3, 4], [1, 1, 1, 1], False, id="a column without its image"),
        pytest.param([0, 1, 2, 3, 4], [1, 2, 1, 1, 1], False, id="two scales for two images"),
        pytest.param([0, 1, 2, 4], [1, 1, 1, 1], True, id="a vector without y"),
        pytest.param([0, 1, 2, 3, 4], [1, 2, 3, 4, 3], True, id="two scales for x and y"),
    ],
)
def test_scalings_that_do_not_commute_with_the_group_are_refused(columns, scale, vectors_turn):
    inputs = ColumnScaling(np.array(columns), np.zeros(len(columns)), np.array(scale, dtype=float))
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        GroupAction.of_site(square(vectors_turn), 0, inputs, True)
    assert str(error.value) == REFUSAL


def test_scalings_that_commute_with_the_group_may_differ_elsewhere():
    inputs = ColumnScaling(np.arange(5), np.arange(5.0), np.array([1.0, 2, 3, 3, 3]))
    assert GroupAction.of_site(square(True), 0, inputs, True).n_operations == 4
    without_vector = ColumnScaling(np.array([0, 1]), np.zeros(2), np.ones(2))
    action = GroupAction.of_site(square(False), 0, without_vector, True)
    assert action.vectors.shape == (0, 3)


# ---- Groups within groups ----------------------------------------------------------------------------------


def table_of(rotations):
    """Number of the product of any two operations."""
    products = rotations[:, None] @ rotations
    distance = np.abs(products[:, :, None] - rotations).max(axis=(3, 4))
    assert distance.min(axis=2).max() < 1e-6
    return distance.argmin(axis=2)


def subgroups_of(rotations):
    """All subgroups of a group, from the sets that three operations generate; enough for point groups."""
    table = table_of(rotations)
    found = set()
    for generators in combinations_with_replacement(range(len(rotations)), 3):
        members = {0, *generators}
        while len(larger := {int(table[a, b]) for a in members for b in members}) > len(members):
            members = larger
        found.add(frozenset(members))
    return found


def n_unchanged(rotations):
    """Dimension of the vectors that all operations leave alone."""
    return 3 - np.linalg.matrix_rank(np.concatenate(rotations - np.eye(3)), tol=1e-6)


@pytest.mark.parametrize("case", ["perovskite O", "wurtzite Zn", "rutile O", "slab O", "methanol H"])
def test_the_largest_subgroups_are_chosen(case):
    rows = site_rows(case)
    rotations = rows.symmetry.rotations[rows.classes[0]]
    subgroups = subgroups_of(rotations)
    for most in range(1, len(rotations) + 2):
        chosen = largest_subgroup(rotations, most)
        assert frozenset(chosen.tolist()) in subgroups
        assert chosen[0] == 0
        assert (np.diff(chosen) > 0).all()
        largest = max(len(s) for s in subgroups if len(s) <= most)
        assert len(chosen) == largest
        rivals = [rotations[sorted(s)] for s in subgroups if len(s) == largest]
        least = min(map(n_unchanged, rivals))
        assert n_unchanged(rotations[chosen]) == least
        inverts = [np.trace(r, axis1=1, axis2=2).min() < -2.9 for r in rivals if n_unchanged(r) == least]
        assert (np.trace(rotations[chosen], axis1=1, axis2=2).min() < -2.9) == any(inverts)


@pytest.mark.parametrize(
    ("most", "order"), [(1, 1), (2, 2), (7, 6), (8, 8), (23, 16), (24, 24), (47, 24), (48, 48)]
)
def test_subgroups_of_the_cube(most, order):
    rows = site_rows("BaTiO3 Ti")
    rotations = rows.symmetry.rotations[rows.classes[0]]
    chosen = largest_subgroup(rotations, most)
    assert len(chosen) == order
    assert set(table_of(rotations)[np.ix_(chosen, chosen)].ravel()) == set(chosen)


@pytest.mark.parametrize("most", [1, 2, 4, 8, 12])
def test_predictions_obey_the_operations_of_a_subgroup(case, most):
    rows = site_rows(case, "minmax")
    for site in rows.classes:
        action = GroupAction.of_site(rows.symmetry, int(site), rows.inputs, True, most)
        assert action.n_operations <= most
        chosen = largest_subgroup(rows.symmetry.rotations[site], most)
        stack = network(len(rows.inputs.columns), 3)
        physical = rows.of(site)
        vectors = averaged_forward(stack, rows.inputs.apply(physical, "float64"), action)
        for operation, rotation in zip(chosen, action.rotations, strict=True):
            image = rows.inputs.apply(rows.symmetry.apply(physical, site, operation), "float64")
            assert_allclose(averaged_forward(stack, image, action), vectors @ rotation.T, atol=1e-12)
