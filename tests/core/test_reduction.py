"""`reduce`: over entries, over devices, over microbatches."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerances import close, same

import jaxloss


def _parameters(name):
    function = getattr(jaxloss, name)
    return inspect.signature(function).parameters if inspect.isfunction(function) else ()


CE = jaxloss.softmax_cross_entropy_with_integer_labels


def test_three_reductions():
    losses, weights = jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 0.0, 3.0])
    np.testing.assert_array_equal(jaxloss.reduce(losses, weights=weights, reduction="none"), [1, 0, 12])
    assert jaxloss.reduce(losses, weights=weights, reduction="sum") == 13
    assert jaxloss.reduce(losses, weights=weights) == 13 / 4
    assert jaxloss.reduce(losses, where=losses > 1) == 3
    assert jaxloss.reduce(losses, where=losses > 1, weights=weights) == 4
    assert jaxloss.reduce(jnp.array([True, False, True]), where=jnp.array([True, True, False])) == 0.5
    assert jaxloss.reduce(jnp.ones((2, 3)), weights=jnp.ones(3), reduction="sum") == 6
    assert jaxloss.reduce(jnp.ones(3, jnp.bfloat16)).dtype == np.float32


def test_what_is_excluded_may_hold_anything():
    losses = jnp.array([1.0, jnp.nan, jnp.inf])
    kept = jnp.array([True, False, False])
    for excluded in ({"where": kept}, {"weights": kept.astype(np.float32)}, {"where": kept, "weights": losses}):
        value, gradient = jax.value_and_grad(lambda x, e=excluded: jaxloss.reduce(x, **e))(losses)
        assert value == 1
        np.testing.assert_array_equal(gradient, [1, 0, 0])


def _by_segment(losses, weights, segments, count):
    """Sums and weights, by loops."""
    sums, totals = np.zeros((len(losses), count)), np.zeros((len(losses), count))
    for i, j in np.ndindex(losses.shape):
        if weights[i, j] != 0:
            sums[i, segments[i, j]] += weights[i, j] * losses[i, j]
            totals[i, segments[i, j]] += weights[i, j]
    return sums, totals


@pytest.fixture
def packed(rng):
    losses, weights = rng.normal(size=(8, 12)).astype(np.float32), rng.integers(3, size=(8, 12)).astype(np.float32)
    return losses, weights, np.sort(rng.integers(4, size=(8, 12)), axis=1)


def test_sums_and_means_of_segments(packed):
    losses, weights, segments = packed
    sums, totals = _by_segment(losses, weights, segments, 5)
    masked = np.where(weights == 0, np.nan, losses), np.where(weights == 0, -100, segments)
    of_segments = {"axis": -1, "weights": weights, "segment_ids": masked[1], "num_segments": 5}
    close(jaxloss.reduce(masked[0], reduction="sum", **of_segments), sums, np.abs(losses).sum())
    means = np.where(totals == 0, 0, sums / np.where(totals == 0, 1, totals))
    close(jaxloss.reduce(masked[0], **of_segments), means, np.abs(losses).max())
    pair = jaxloss.sum_and_weight(masked[0], **of_segments)
    np.testing.assert_array_equal(pair.weight, totals)
    close(pair.mean, means, np.abs(losses).max())
    over_sequences = jaxloss.reduce(pair.mean, where=pair.weight > 0)
    close(over_sequences, means[totals > 0].mean(), np.abs(losses).max())
    default = jaxloss.reduce(masked[0], reduction="sum", **of_segments | {"num_segments": None})
    assert default.shape == (8, 12)  # as many as entries
    across = jaxloss.reduce(losses, segment_ids=segments, num_segments=5, reduction="sum")  # of all rows
    close(across, _by_segment(losses, np.ones_like(losses), segments, 5)[0].sum(0), np.abs(losses).sum())


def test_derivatives_of_means_of_segments(packed):
    losses, weights, segments = packed
    gradient = jax.grad(lambda x: jaxloss.reduce(x, axis=-1, weights=weights, segment_ids=segments).sum())(losses)
    _, totals = _by_segment(losses, weights, segments, 12)
    close(gradient, weights / np.maximum(np.take_along_axis(totals, segments, 1), 1), 1.0)


def test_an_index_that_names_no_segment_makes_its_row_nan(packed):
    losses, _, segments = packed
    for outside in (-1, 4, 2**40):
        segments = segments.copy()
        segments[2, 3] = outside
        pair = jaxloss.sum_and_weight(losses, axis=-1, segment_ids=segments, num_segments=4)
        for found in pair:
            np.testing.assert_array_equal(np.isnan(found), np.tile(np.arange(8)[:, None] == 2, 4))
        gradient = jax.grad(
            lambda x, s=segments: jaxloss.reduce(x, axis=-1, segment_ids=s, num_segments=4, reduction="sum").sum()
        )(losses)
        np.testing.assert_array_equal(np.isnan(gradient), np.tile(np.arange(8)[:, None] == 2, 12))
        means = jaxloss.reduce(losses, axis=-1, segment_ids=segments, num_segments=4)
        np.testing.assert_array_equal(means, pair.mean)


def test_axes_of_a_mean(rng):
    losses, mask = rng.normal(size=(3, 4, 5)).astype(np.float32), rng.random((3, 4, 5)) < 0.5
    mask[0, :, 1] = False
    for axis in (0, -1, (0, 2), (2, 0), None):
        names = (0, 1, 2) if axis is None else axis
        count = mask.sum(names)
        expected = np.where(mask, losses, 0).sum(names) / np.maximum(count, 1)
        close(jaxloss.reduce(losses, axis=axis, where=mask), expected, np.abs(losses).max())
        np.testing.assert_array_equal(jaxloss.sum_and_weight(losses, axis=axis, where=mask).weight, count)
    assert jaxloss.reduce(np.zeros((3, 0), np.float32), axis=1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_segments_over_devices(packed, kind):
    losses, weights, segments = packed
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType[kind],) * 2)
    expected = jaxloss.reduce(losses, axis=-1, weights=weights, segment_ids=segments)
    with jax.set_mesh(mesh):
        split = [jax.device_put(a, P("rows")) for a in (losses, weights, segments.astype(np.int32))]
        mean = jax.jit(lambda x, w, s: jaxloss.reduce(x, axis=-1, weights=w, segment_ids=s))
        close(mean(*split), expected, np.abs(losses).max())
        jax.jit(jax.grad(lambda *arrays: mean(*arrays).sum()))(*split)
        for spec in (P("rows", "columns"), P("columns"), P(None, "rows")):
            split = [jax.device_put(a, NamedSharding(mesh, spec)) for a in (losses, segments.astype(np.int32))]
            for ids in (split[1], segments):
                found = jaxloss.sum_and_weight(split[0], segment_ids=ids, num_segments=4)  # over both axes
                close(found.sum, jaxloss.sum_and_weight(losses, segment_ids=segments, num_segments=4).sum, 96.0)


def test_segments_of_nothing():
    for shape, expected in (((3, 0), (3, 2)), ((0, 3), (0, 2))):
        arrays = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
        assert (
            jaxloss.reduce(arrays[0], axis=-1, segment_ids=arrays[1], num_segments=2).tolist()
            == np.zeros(expected).tolist()
        )


@pytest.mark.parametrize("check_vma", [False, True])
def test_a_segment_that_devices_share(packed, check_vma):
    losses, weights, segments = packed
    mesh = jax.make_mesh((4,), ("tokens",), axis_types=(AxisType.Auto,))

    def local(x, w, s):
        return jaxloss.reduce(x, axis=-1, weights=w, segment_ids=s, num_segments=4, axis_name="tokens")

    specs = (P(None, "tokens"),) * 3
    found = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma))
    expected = jaxloss.reduce(losses, axis=-1, weights=weights, segment_ids=segments, num_segments=4)
    close(found(losses, weights, segments.astype(np.int32)), expected, np.abs(losses).max())


def test_a_large_mask_is_counted_exactly():
    n = 2**24 + 3
    mean = jax.jit(lambda m: jaxloss.reduce(jnp.where(m, 1.0, jnp.nan), where=m))(jnp.ones(n, bool).at[0].set(False))
    assert mean == 1


# A linear model, with a valid count that differs from microbatch to microbatch and from device to device.

FEATURES, CLASSES, N = 5, 7, 32


@pytest.fixture
def problem(rng):
    x = jnp.asarray(rng.normal(size=(N, FEATURES)), np.float32)
    y = rng.integers(CLASSES, size=N)
    y[: N // 2 : 2] = -100
    y[-3:] = -100
    w = jnp.asarray(rng.normal(size=(FEATURES, CLASSES)), np.float32)
    return w, x, jnp.asarray(y, np.int32)


def mean_loss(w, x, y, axis_name=None):
    losses = CE(x @ w, y, where=y != -100)
    return jaxloss.reduce(losses, where=y != -100, axis_name=axis_name)


def test_microbatches_give_the_gradient_of_the_batch(problem):
    w, x, y = problem
    expected = jax.grad(mean_loss)(w, x, y)
    valid = (y != -100).sum().astype(np.float32)

    def add(gradient, batch):
        x, y = batch

        def part(w):
            return CE(x @ w, y, where=y != -100, reduction="sum") / valid

        return gradient + jax.grad(part)(w), None

    batches = x.reshape(4, 8, FEATURES), y.reshape(4, 8)
    ours, _ = jax.jit(lambda w: jax.lax.scan(add, jnp.zeros_like(w), batches))(w)
    same(ours, expected, span=10)
    mean_of_means = sum(jax.grad(mean_loss)(w, x, y) for x, y in zip(*batches, strict=True)) / 4
    assert np.abs(mean_of_means - expected).max() > 0.01  # the mistake that this recipe is for


@pytest.fixture
def promotion_as_optax_expects():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_multi_steps_gives_the_step_of_the_batch(problem, promotion_as_optax_expects):
    w, x, y = problem
    k, valid = 4, (y != -100).sum().astype(np.float32)
    step = optax.apply_updates(w, optax.adam(0.1).update(jax.grad(mean_loss)(w, x, y), optax.adam(0.1).init(w))[0])
    optimizer = optax.MultiSteps(optax.adam(0.1), k)
    state, ours = optimizer.init(w), w
    for x_, y_ in zip(x.reshape(k, -1, FEATURES), y.reshape(k, -1), strict=True):

        def loss(w, x=x_, y=y_):
            return k * CE(x @ w, y, where=y != -100, reduction="sum") / valid

        updates, state = optimizer.update(jax.grad(loss)(ours), state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours, step, rtol=1e-4)  # Adam divides by a root of squares: compare the step, loosely


@pytest.mark.smoke
def test_the_table_of_gradients_over_devices(problem):
    """The rows of the table in the docstring of `reduce`."""
    w, x, y = problem
    value, expected = jax.value_and_grad(mean_loss)(w, x, y)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(w, x, y):
        return mean_loss(w, x, y, axis_name="data")

    def over(f, out_specs, check_vma):
        return jax.jit(
            jax.shard_map(f, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=out_specs, check_vma=check_vma)
        )

    for check_vma in (True, False):
        outside = over(local, P(), check_vma)
        close(outside(w, x, y), value, value, span=10)
        same(jax.grad(outside)(w, x, y), expected, span=10)
    inside = over(jax.grad(local), P(), check_vma=True)
    same(inside(w, x, y), expected, span=10)
    inside = over(lambda *a: jax.lax.pmean(jax.grad(local)(*a), "data"), P(), check_vma=False)
    same(inside(w, x, y), expected, span=10)

    split = x.reshape(8, -1, FEATURES), y.reshape(8, -1)
    for mapped in (jax.vmap, jax.pmap):

        def gradient(w, x, y):
            return jax.lax.pmean(jax.grad(local)(w, x, y), "data")

        ours = mapped(gradient, axis_name="data", in_axes=(None, 0, 0))(w, *split)
        same(ours[3], expected, span=10)

    def outside(w):
        return jax.vmap(lambda x, y: local(w, x, y), axis_name="data")(*split)[0]

    same(jax.grad(outside)(w), expected, span=10)


def test_an_empty_device_does_not_matter(problem):
    w, x, y = problem
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    y = y.at[:4].set(-100)

    def local(x, y):
        return jax.grad(lambda w: mean_loss(w, x, y, axis_name="data"))(w)

    ours = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P()))(x, y)
    same(ours, jax.grad(mean_loss)(w, x, y), span=10)


def test_pairs_add_up_to_the_mean_of_all(problem):
    w, x, y = problem
    losses = CE(x @ w, y, where=y != -100)
    weights = jnp.linspace(0.5, 2, N)
    for how in ({}, {"where": y != -100}, {"weights": weights}, {"where": y != -100, "weights": weights}):
        parts = [{k: v[i : i + 8] for k, v in how.items()} for i in range(0, N, 8)]
        pairs = [jaxloss.sum_and_weight(losses[8 * i : 8 * i + 8], **part) for i, part in enumerate(parts)]
        total, weight = (sum(values) for values in zip(*pairs, strict=True))
        same(total / weight, jaxloss.reduce(losses, **how))
    empty = jaxloss.sum_and_weight(losses, where=jnp.zeros(N, bool))
    assert empty == (0, 0)
    over_devices = jax.vmap(lambda a: jaxloss.sum_and_weight(a, axis_name="i"), axis_name="i")(losses.reshape(4, 8))
    same(over_devices.sum[2], losses.sum())
    assert over_devices.weight[2] == N


OF_CLASS_WEIGHTS = {name for name in jaxloss.__all__ if "class_weights" in _parameters(name)} - {"dice_loss"}


@pytest.mark.parametrize("name", sorted(OF_CLASS_WEIGHTS))
def test_a_mean_by_class_weights_runs_over_devices(name, problem):
    """Its weights are made inside of the loss, so it has to know of the devices."""
    w, x, y = problem
    loss, table = getattr(jaxloss, name), jnp.linspace(0.5, 3, CLASSES)
    of_logits = "hidden" not in _parameters(name)
    how = {"where": y != -100, "weights": jnp.linspace(0.5, 2, N)}

    def mean(w, x, y, how, axis_name=None):
        labels = jax.nn.one_hot(y, CLASSES) if name == "softmax_cross_entropy" else y
        arrays = (x @ w, labels) if of_logits else (x, w, labels)
        found = loss(*arrays, class_weights=table, reduction="mean", axis_name=axis_name, **how)
        return found[0] if isinstance(found, tuple) else found

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    over = jax.shard_map(
        lambda *a: mean(*a, axis_name="data"), mesh=mesh, in_specs=(P(), *[P("data")] * 3), out_specs=P()
    )
    expected, ours = (jax.jit(jax.value_and_grad(f))(w, x, y, how) for f in (mean, over))
    same(ours[0], expected[0], span=10)
    same(ours[1], expected[1], span=10)
