"""Laws that every loss obeys. None of them names a loss."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, CLASSES, NOT_LOSSES, every_case, every_row_case
from tolerances import close, same

import jaxloss

BAD = [np.nan, np.inf, -np.inf]


def total(case, **kwargs):
    return lambda x, t: case(x, t, **kwargs).sum()


def plant(case, x, t, removed):
    """NaN, infinities and impossible labels wherever `removed` (of the shape of the loss) says so."""
    entries = removed[..., None] if case.rows else removed
    bad = np.resize(BAD, x.shape).astype(np.float32)
    x = jnp.where(entries, bad, x)
    if case.targets == "index":
        return x, jnp.where(removed, np.resize([-100, 10**6, -1], t.shape).astype(np.int32), t)
    return x, jnp.where(entries, bad, t)


def test_every_public_loss_has_a_row():
    assert {case.name for case in CASES} == set(jaxloss.__all__) - NOT_LOSSES


def test_every_loss_has_the_same_interface():
    for name in sorted({case.name for case in CASES}):
        parameters = inspect.signature(getattr(jaxloss, name)).parameters
        assert list(parameters)[-2:] == ["weights", "reduction"], name
        assert parameters["where"].default is None, name
        assert parameters["weights"].default is None, name
        assert parameters["reduction"].default == "none", name


@pytest.mark.parametrize("name", jaxloss.__all__)
def test_every_public_name_is_documented(name):
    doc = inspect.getdoc(getattr(jaxloss, name))
    for section in ["Example:", ">>> "] + ["Args:", "Returns:", "Raises:"] * (name != "safe_softmax_cross_entropy"):
        assert section in doc, section


@every_case
def test_jit_and_vmap_and_a_loop_agree(case, rng):
    x, t = case.draw(rng, 5)
    f = jax.value_and_grad(total(case))
    eager = case(x, t), f(x, t)[1]
    jitted = jax.jit(lambda x, t: (case(x, t), f(x, t)[1]))(x, t)
    mapped = jax.jit(jax.vmap(lambda x, t: (case(x, t), f(x, t)[1])))(x, t)
    looped = [(case(x[i], t[i]), f(x[i], t[i])[1]) for i in range(2)]
    for i in range(2):
        same(jitted[i], eager[i], span=10)
        same(mapped[i], eager[i], span=10)
        same(np.stack([one[i] for one in looped]), eager[i][:2], span=10)


@every_row_case
def test_axis_is_a_matter_of_layout(case, rng):
    x, t = case.draw(rng, 4, 3)
    expected = jax.value_and_grad(total(case))(x, t)[1]
    for axis in (0, 1, -3, (0,)):
        place = axis if isinstance(axis, int) else axis[0]
        moved = jnp.moveaxis(x, -1, place)
        targets = t if case.targets == "index" else jnp.moveaxis(t, -1, place)
        if "axis" not in inspect.signature(case.loss).parameters:
            continue
        same(case(moved, targets, axis=axis), case(x, t), span=10)
        gradient = jax.grad(total(case, axis=axis))(moved, targets)
        same(jnp.moveaxis(gradient, place, -1), expected, span=10)


@every_row_case
def test_several_axes_are_one(case, rng):
    if "axis" not in inspect.signature(case.loss).parameters:
        return
    x, t = case.draw(rng, 4)
    split = x.reshape(4, 6, 8)
    for axis, logits in [((1, 2), split), ((-1, 0), split.transpose(2, 0, 1))]:
        if case.targets == "index":
            targets = t
        else:
            targets = t.reshape(4, 6, 8) if axis == (1, 2) else t.reshape(4, 6, 8).transpose(2, 0, 1)
        ours = case(logits, targets, axis=axis)
        same(ours, case(x, t), span=10)


@every_case
def test_where_is_slicing_whatever_it_hides(case, rng):
    x, t = case.draw(rng, 6)
    loss_shape = case(x, t).shape
    kept = jnp.asarray(rng.random(loss_shape) < 0.6)
    dirty = plant(case, x, t, ~kept)
    gradient = jax.grad(total(case))(x, t)
    entries = kept[:, None] if case.rows else kept
    same(case(*dirty, where=kept), jnp.where(kept, case(x, t), 0), span=10)
    same(jax.grad(total(case, where=kept))(*dirty), jnp.where(entries, gradient, 0), span=10)
    expected = np.asarray(case(x, t))[np.asarray(kept)]
    close(case(*dirty, where=kept, reduction="sum"), expected.sum(), np.abs(expected).sum())
    close(case(*dirty, where=kept, reduction="mean"), expected.mean(), np.abs(expected).mean())
    if case.targets != "index":
        by_targets = jax.grad(total(case), argnums=1)(x, t)
        same(jax.grad(total(case, where=kept), argnums=1)(*dirty), jnp.where(entries, by_targets, 0), span=10)
    second = jax.jvp(jax.grad(total(case, where=kept)), dirty, (x, zero_tangent(t)))[1]
    same(second, jnp.where(entries, jax.jvp(jax.grad(total(case)), (x, t), (x, zero_tangent(t)))[1], 0), span=10)


def zero_tangent(t):
    return np.zeros(t.shape, jax.dtypes.float0) if jnp.issubdtype(t.dtype, np.integer) else jnp.zeros_like(t)


@every_row_case
def test_a_class_mask_removes_classes(case, rng):
    x, t = case.draw(rng, 6)
    mask = np.resize([True, False, True], CLASSES)
    kept = np.flatnonzero(mask)
    if case.targets == "index":
        t = t % len(kept)
        sliced, full = t, jnp.asarray(kept, np.int32)[t]
    else:
        sliced, full = t[:, kept], jnp.where(mask[None], t, np.nan)
    dirty = jnp.where(mask[None], x, np.resize(BAD, x.shape).astype(np.float32))
    same(case(dirty, full, where=mask[None]), case(x[:, kept], sliced), span=10)
    ours = jax.grad(total(case, where=mask[None]))(dirty, full)
    same(ours[:, kept], jax.grad(total(case))(x[:, kept], sliced), span=10)
    np.testing.assert_array_equal(ours[:, ~mask], 0)
    none_left = jnp.asarray(np.arange(6) != 2)[:, None] & jnp.asarray(mask)[None]
    losses = case(dirty, full, where=none_left)
    assert losses[2] == 0
    same(case(dirty, full, where=none_left, reduction="mean"), losses.sum() / 5, span=10)
    assert np.isfinite(jax.grad(total(case, where=none_left))(dirty, full)).all()
    if case.targets == "index":
        assert case(x[0], jnp.int32(1), where=mask) == np.inf


@every_case
def test_weights_are_repetition(case, rng):
    x, t = case.draw(rng, 6)
    shape = case(x, t).shape
    weights = jnp.asarray(np.resize([2, 0, 1, 3], shape), np.float32)
    dirty = plant(case, x, t, weights == 0)
    losses = np.asarray(case(x, t))
    same(case(*dirty, weights=weights), losses * np.asarray(weights), span=10)
    repeated = np.repeat(losses.ravel(), np.asarray(weights, int).ravel())
    close(case(*dirty, weights=weights, reduction="mean"), repeated.mean(), np.abs(repeated).mean())
    entries = weights[:, None] if case.rows else weights
    gradient = jax.grad(total(case))(x, t) * entries / weights.sum()
    same(jax.grad(lambda x, t: case(x, t, weights=weights, reduction="mean"))(*dirty), gradient, span=10)
    by_weights = jax.grad(lambda w: case(x, t, weights=w, reduction="mean"))(weights + 1)
    mean = case(x, t, weights=weights + 1, reduction="mean")
    same(by_weights, (losses - mean) / (weights + 1).sum(), span=10)


@every_case
def test_nothing_left_is_zero_with_zero_gradient(case, rng):
    x, t = case.draw(rng, 3)
    shape = case(x, t).shape
    dirty = plant(case, x, t, jnp.ones(shape, bool))
    for excluded in ({"where": jnp.zeros(shape, bool)}, {"weights": jnp.zeros(shape)}):
        for reduction in ("mean", "sum"):
            value, gradient = jax.value_and_grad(case)(*dirty, **excluded, reduction=reduction)
            assert value == 0
            np.testing.assert_array_equal(gradient, 0)
    x, t = case.draw(rng, 0)
    assert case(x, t).shape == (0, *shape[1:])
    assert case(x, t, reduction="mean") == 0


@every_case
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_the_float32_loss_of_the_same_numbers(case, dtype, rng):
    x, t = case.draw(rng, 4, dtype=dtype)
    wide = [a.astype(np.float32) if jnp.issubdtype(a.dtype, np.floating) else a for a in (x, t)]
    loss, pull = jax.vjp(case, x, t)
    assert loss.dtype == np.float32
    same(loss, case(*wide), span=10)
    ours, theirs = pull(jnp.full_like(loss, 0.3)), jax.vjp(case, *wide)[1](jnp.full_like(loss, 0.3))
    assert ours[0].dtype == dtype
    same(ours[0], theirs[0], dtype=dtype)
    tangent = jax.jvp(lambda x: case(x, t), (x,), (jnp.ones_like(x) * 3,))[1]
    same(tangent, jax.jvp(lambda x: case(x, wide[1]), (wide[0],), (jnp.ones_like(wide[0]) * 3,))[1], span=10)


@every_case
def test_float64_stays_and_options_do_not_widen(case, rng, with_x64):
    x, t = case.draw(rng, 3, dtype=np.float64)
    assert case(x, t).dtype == np.float64
    assert jax.grad(total(case))(x, t).dtype == np.float64
    x, t = case.draw(rng, 3)
    options = {name: np.float64(value) for name, value in case.options.items()}
    assert case(x, t, **options, weights=np.ones(case(x, t).shape)).dtype == np.float32
    if case.targets != "index":
        assert case(x, t.astype(np.float64)).dtype == np.float64


@every_case
def test_tangents_are_the_gradient_times_the_direction(case, rng):
    x, t = case.draw(rng, 4)
    dx, dt = case.draw(rng, 4)
    if case.targets == "index":
        tangent = jax.jvp(lambda x: case(x, t), (x,), (dx,))[1]
        (gx,) = jax.vjp(lambda x: case(x, t), x)[1](jnp.ones_like(tangent))
        product = gx * dx
    else:
        tangent = jax.jvp(case, (x, t), (dx, dt))[1]
        gx, gt = jax.vjp(case, x, t)[1](jnp.ones_like(tangent))
        product = gx * dx + gt * dt
    same(tangent, product.sum(-1) if case.rows else product, span=10)


@every_case
def test_a_row_knows_nothing_of_the_others(case, rng):
    x, t = case.draw(rng, 3)
    alone = case(x, t)
    poisoned = case(x.at[0].set(jnp.nan), t)
    assert np.isnan(poisoned[0]).all()
    np.testing.assert_array_equal(poisoned[1:], alone[1:])
    gradient = jax.grad(lambda x: case(x, t)[1:].sum())(x.at[0].set(jnp.nan))
    np.testing.assert_array_equal(gradient[1:], jax.grad(total(case))(x, t)[1:])


@every_case
def test_one_trace_serves_all_values(case, rng):
    traces = []

    @jax.jit
    def f(x, t, options):
        traces.append(1)
        return case(x, t, **options)

    for scale in (1, 2, 3):
        x, t = case.draw(rng, 4, scale=scale)
        f(x, t, {name: jnp.float32(value + 0.01 * scale) for name, value in case.options.items()})
    assert len(traces) == 1


@every_case
def test_options_may_differ_between_rows(case, rng):
    x, t = case.draw(rng, 3)
    shape = case(x, t).shape
    options = {k: jnp.asarray(rng.uniform(0.5, 0.9, shape), np.float32) for k in case.options}
    ours = case(x, t, **options)
    for i in range(3):
        same(ours[i], case(x[i], t[i], **{k: v[i] for k, v in options.items()}), span=10)


@every_row_case
def test_out_of_range_labels_are_nan_for_their_row_alone(case, rng):
    if case.targets != "index":
        return
    x, t = case.draw(rng, 6)
    for dtype in (np.int32, np.int8, np.uint8):
        bad = t.astype(dtype).at[1].set(np.array(-1).astype(dtype)).at[3].set(CLASSES)
        losses, pull = jax.vjp(lambda x, bad=bad: case(x, bad), x)
        gradient = pull(jnp.ones_like(losses))[0]
        np.testing.assert_array_equal(np.isnan(losses), np.arange(6) % 2 * (np.arange(6) < 4) == 1)
        np.testing.assert_array_equal(np.isnan(gradient).all(-1), np.isnan(losses))
        np.testing.assert_array_equal(np.isnan(gradient).any(-1), np.isnan(losses))
