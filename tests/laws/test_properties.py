"""Laws that every loss obeys. None of them names a loss."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, CLASSES, NOT_IN_TABLE, NOT_ZERO, SIGN, every_case, every_loss, every_path, every_row_case
from tolerances import close, same

import jaxloss

BAD = [np.nan, np.inf, -np.inf]


def total(case, **kwargs):
    return lambda x, t: case(x, t, **kwargs).sum()


def shape_of(case, x, t):
    return jax.eval_shape(case, x, t).shape


def plant(case, x, t, removed):
    """NaN, infinities and impossible labels wherever `removed` (of the shape of the loss) says so."""
    entries = removed[..., None] if case.rows else removed
    bad = np.resize(BAD, x.shape).astype(np.float32)
    x = jnp.where(entries, bad, x)
    if case.targets == "index":
        return x, jnp.where(removed, np.resize([-100, 10**6, -1], t.shape).astype(np.int32), t)
    return x, jnp.where(entries, bad, t)


def test_every_public_loss_has_a_row():
    assert {case.name for case in CASES} == set(jaxloss.__all__) - NOT_IN_TABLE


def test_every_loss_has_the_same_interface():
    for name in sorted({case.name for case in CASES}):
        parameters = inspect.signature(getattr(jaxloss, name)).parameters
        # Whose weights are made of class weights, inside, reduces over devices itself.
        devices = ["axis_name"] if "class_weights" in parameters else []
        assert [p for p in parameters if p != "class_axis_name"][-2 - len(devices) :] == [
            "weights",
            "reduction",
            *devices,
        ]
        assert parameters["where"].default is None, name
        assert parameters["weights"].default is None, name
        assert parameters["reduction"].default == "none", name


@pytest.mark.parametrize("name", [name for name in jaxloss.__all__ if inspect.isfunction(getattr(jaxloss, name))])
def test_every_public_name_is_documented(name):
    doc = inspect.getdoc(getattr(jaxloss, name))
    for section in ["Example:", ">>> "] + ["Args:", "Returns:", "Raises:"] * (name != "safe_softmax_cross_entropy"):
        assert section in doc, section


@every_path
def test_jit_and_vmap_and_a_loop_agree(case, rng):
    x, t = case.draw(rng, 6)

    def f(x, t):
        return case(x, t), jax.grad(total(case))(x, t)

    @jax.jit
    def law(x, t):
        looped = [f(x[i], t[i]) for i in range(2)]
        return f(x, t), jax.vmap(f)(x, t), [jnp.stack(each) for each in zip(*looped, strict=True)]

    eager, (jitted, mapped, looped) = f(x, t), law(x, t)
    for i in range(2):
        same(jitted[i], eager[i], span=10)
        same(mapped[i], eager[i], span=10)
        same(looped[i], eager[i][:2], span=10)


@every_row_case
def test_axis_is_a_matter_of_layout(case, rng):
    x, t = case.draw(rng, 4, 3)
    if not case.takes("axis"):
        return

    def moved(x, t, axis):
        place = axis if isinstance(axis, int) else axis[0]
        targets = t if case.targets == "index" else jnp.moveaxis(t, -1, place)
        x = jnp.moveaxis(x, -1, place)
        gradient = jax.grad(total(case, axis=axis))(x, targets)
        return case(x, targets, axis=axis), jnp.moveaxis(gradient, place, -1)

    losses, *others = jax.jit(lambda x, t: [moved(x, t, axis) for axis in (-1, 0, 1, (0,))])(x, t)
    for ours in others:
        for a, b in zip(ours, losses, strict=True):
            same(a, b, span=10)


@every_row_case
def test_several_axes_are_one(case, rng):
    if not case.takes("axis"):
        return
    x, t = case.draw(rng, 6)

    def split(a):
        return a if a.ndim == 1 else a.reshape(6, 6, 8)

    def turned(a):
        return a if a.ndim == 1 else split(a).transpose(2, 0, 1)

    @jax.jit
    def law(x, t):
        return case(split(x), split(t), axis=(1, 2)), case(turned(x), turned(t), axis=(-1, 0))

    for ours in law(x, t):
        same(ours, case(x, t), span=10)


@every_loss
def test_where_is_slicing_whatever_it_hides(case, rng):
    x, t = case.draw(rng, 6)
    kept = jnp.asarray(rng.random(shape_of(case, x, t)) < 0.6)
    dirty = plant(case, x, t, ~kept)
    entries = kept[:, None] if case.rows else kept
    by = 0 if case.targets == "index" else (0, 1)

    @jax.jit
    def law(x, t, **masks):
        """Losses, gradients, a second derivative."""
        second = jax.jvp(jax.grad(total(case, **masks)), (x, t), (jnp.cos(numbers), zero_tangent(t)))[1]
        reduced = [case(x, t, **masks, reduction=reduction) for reduction in ("sum", "mean")]
        return case(x, t, **masks), reduced, jax.grad(total(case, **masks), by)(x, t), second

    numbers = jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)
    (losses, _, *expected), (ours, reduced, *derivatives) = law(x, t), law(*dirty, where=kept)
    same(ours, jnp.where(kept, losses, 0), span=10)
    for a, b in zip(jax.tree.leaves(derivatives), jax.tree.leaves(expected), strict=True):
        same(a, jnp.where(entries, b, 0), span=10)
    losses = np.asarray(losses)[np.asarray(kept)]
    close(reduced[0], losses.sum(), np.abs(losses).sum())
    close(reduced[1], losses.mean(), np.abs(losses).mean())


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
    none_left = (np.arange(6) != 2)[:, None] & mask

    options = {name: jnp.float32(value) for name, value in case.options.items()}

    @jax.jit
    def law(x, t, direction, **masks):
        """Losses, by weights of 0 as well, their mean, gradients, second derivatives by logits and by options."""

        def gradients(x, options):
            return jax.grad(lambda x, options: case(x, t, **options, **masks).sum(), (0, 1))(x, options)

        losses, mean = case(x, t, **masks), case(x, t, **masks, reduction="mean")
        by_weights = jax.grad(lambda w: case(x, t, **masks, weights=w).sum())(jnp.zeros(6))
        return (losses, mean, by_weights), *jax.jvp(gradients, (x, options), (direction, options))

    direction = jnp.cos(jnp.arange(x.size, dtype=np.float32)).reshape(x.shape)
    every = np.broadcast_to(mask, x.shape)
    ours, expected = law(dirty, full, direction, where=every), law(x[:, kept], sliced, direction[:, kept])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        if a.shape == x.shape:
            np.testing.assert_array_equal(a[:, ~mask], 0)
            a = a[:, kept]
        same(a, b, span=10)
    (losses, mean, _), (gradient, _), _ = law(dirty, full, direction, where=none_left)
    assert losses[2] == 0
    same(mean, losses.sum() / 5, span=10)
    assert np.isfinite(gradient).all()
    if case.targets == "index":
        assert case(x[0], jnp.int32(1), where=mask) == np.inf


@every_loss
def test_weights_are_repetition(case, rng):
    x, t = case.draw(rng, 6)
    shape = shape_of(case, x, t)
    weights = jnp.asarray(np.resize([2, 0, 1, 3], shape), np.float32)
    dirty = plant(case, x, t, weights == 0)
    losses, gradient = np.asarray(case(x, t)), jax.grad(total(case))(x, t)

    @jax.jit
    def law(x, t, w):
        def mean(x, w):
            return case(x, t, weights=w, reduction="mean")

        return case(x, t, weights=w), *jax.value_and_grad(mean, (0, 1))(x, w)

    ours, mean, (by_x, _) = law(*dirty, weights)
    same(ours, losses * np.asarray(weights), span=10)
    repeated = np.repeat(losses.ravel(), np.asarray(weights, int).ravel())
    close(mean, repeated.mean(), np.abs(repeated).mean())
    entries = weights[:, None] if case.rows else weights
    same(by_x, gradient * entries / weights.sum(), span=10)
    _, mean, (_, by_weights) = law(x, t, weights + 1)
    same(by_weights, (losses - mean) / (weights + 1).sum(), span=10)


@every_loss
def test_a_weight_of_zero_has_its_derivative(case, rng):
    """The loss, where that is finite; and the derivative by a weight of the gradient is the gradient of the loss."""
    x, t = case.draw(rng, 6)
    losses, gradient = case(x, t), jax.grad(total(case))(x, t)
    bad = jnp.asarray(np.resize([False, False, True], losses.shape))
    dirty, labels = plant(case, x, t, bad)
    zero, tangent = jnp.zeros(losses.shape), jnp.asarray(np.resize([1.0, 2.0], losses.shape), np.float32)
    entries = [a[..., None] if case.rows else a for a in (bad, tangent)]
    by = (0,) if case.targets == "index" else (0, 1)

    def weighted(x, w, reduction="sum"):
        return case(x, labels, weights=w, reduction=reduction)

    @jax.jit
    def law(x, w):
        by_weight = jax.grad(weighted, 1)(x, w), jax.jacfwd(weighted, 1)(x, w)
        forward = jax.jvp(lambda w: jax.grad(weighted)(x, w), (w,), (tangent,))[1]
        reverse = jax.grad(lambda x: jax.jvp(lambda w: weighted(x, w), (w,), (tangent,))[1])(x)
        second = jax.jvp(jax.grad(weighted), (x, w), (jnp.ones_like(x), jnp.zeros_like(w)))[1]
        return by_weight, (forward, reverse), (second, *jax.grad(sum_of_gradients, by)(x, labels, w))

    def sum_of_gradients(x, t, w):
        return sum(g.sum() for g in jax.grad(lambda x, t: case(x, t, weights=w).sum(), by)(x, t))

    by_weight, mixed, second = law(dirty, zero)
    for ours in by_weight:
        same(ours, jnp.where(bad, 0, losses), span=10)
    for ours in mixed:
        same(ours, jnp.where(entries[0], 0, entries[1] * gradient), span=10)
    for ours in second:
        np.testing.assert_array_equal(ours, 0)
    first = jnp.zeros(losses.size).at[0].set(3).reshape(losses.shape)
    of_mean = jax.grad(lambda w: case(x, t, weights=w, reduction="mean"))(first)
    same(of_mean, (losses - losses.ravel()[0]) / 3, span=10)


@every_row_case
def test_a_weight_does_not_see_the_class_weight_of_an_excluded_label(case, rng):
    if case.targets != "index" or not case.takes("class_weights"):
        return
    x, t = case.draw(rng, 6)
    kept = jnp.asarray(np.resize([True, False], 6))
    table = jnp.linspace(0.5, 1.5, CLASSES)

    def weighted(w):
        return case(x, jnp.where(kept, t, -100), where=kept, class_weights=table, weights=w).sum()

    same(jax.grad(weighted)(jnp.ones(6)), jnp.where(kept, case(x, t, class_weights=table), 0), span=10)


@every_row_case
def test_a_mean_counts_no_row_without_classes(case, rng):
    """Mask, weights and the reduction at once."""
    x, t = case.draw(rng, 6)
    left = jnp.asarray([True, False, True, True, True, True])
    weights = jnp.asarray([1.0, 5.0, 2.0, 3.0, 1.0, 4.0])
    dirty = plant(case, x, t, ~left)
    losses = case(x, t)
    ours = case(*dirty, where=jnp.broadcast_to(left[:, None], x.shape), weights=weights, reduction="mean")
    kept = jnp.where(left, weights, 0)
    close(ours, (kept * losses).sum() / kept.sum(), jnp.abs(losses).max(), span=10)


@every_case
def test_no_option_sees_what_is_excluded(case, rng):
    if not case.options:
        return
    x, t = case.draw(rng, 6)
    kept = jnp.asarray(np.resize([True, False], shape_of(case, x, t)))
    dirty = plant(case, x, t, ~kept)
    options = {name: jnp.float32(value) for name, value in case.options.items()}

    @jax.jit
    def by_options(x, t, where, weights):
        masks = {"where": where, "weights": weights.astype(np.float32)}
        return jax.grad(lambda options: jnp.where(kept, case(x, t, **options, **masks), 0).sum())(options)

    every = jnp.ones_like(kept)
    expected = by_options(x, t, every, every)
    for masks in ((kept, every), (every, kept)):
        for name, ours in by_options(*dirty, *masks).items():
            same(ours, expected[name], span=10, of=name)


@every_loss
def test_a_tangent_of_zero_is_none(case, rng):
    """Also as a number, beside an infinite derivative: at targets and probabilities of 0 and 1."""
    if case.targets == "index":
        return
    x, t = case.draw(rng, 3)
    t = t if case.target_domain in (SIGN, NOT_ZERO) else t.at[0].set(0)
    x = x.at[0, 0].set(-np.inf) if case.rows and "softmax" in case.name else x
    if "log_" not in case.name and case.predictions.draw(rng, (9, 4), 2.0).min() > 0:
        x = x.at[1].set(0)
    dx, dt = jnp.cos(x), jnp.sin(t + 1)
    by_x = jax.jit(lambda: jax.jvp(lambda x: case(x, t), (x,), (dx,))[1])()
    by_t = jax.jit(lambda: jax.jvp(lambda t: case(x, t), (t,), (dt,))[1])()
    same(jax.jit(jax.jvp, static_argnums=0)(case, (x, t), (dx, jnp.zeros_like(t)))[1], by_x, span=10)
    same(jax.jit(jax.jvp, static_argnums=0)(case, (x, t), (jnp.zeros_like(x), dt))[1], by_t, span=10)


@every_loss
def test_nothing_left_is_zero_with_zero_gradient(case, rng):
    x, t = case.draw(rng, 6)
    shape = shape_of(case, x, t)
    dirty = plant(case, x, t, jnp.ones(shape, bool))

    @jax.jit
    def law(x, t):
        masks = {"where": jnp.zeros(shape, bool)}, {"weights": jnp.zeros(shape)}
        none = x[:0], t[:0]
        means = [jax.value_and_grad(case)(x, t, **mask, reduction="mean") for mask in masks]
        return means, case(*none), case(*none, reduction="mean")

    means, losses, mean = law(*dirty)
    for value, gradient in means:
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)
    assert losses.shape == (0, *shape[1:])
    assert mean == 0


@every_loss
@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(np.float16, marks=pytest.mark.sweep)], ids=["bf16", "f16"]
)
def test_half_precision_is_the_float32_loss_of_the_same_numbers(case, dtype, rng):
    @jax.jit
    def law(x, t):
        loss, pull = jax.vjp(case, x, t)
        tangent = jax.jvp(lambda x: case(x, t), (x,), (jnp.ones_like(x) * 3,))[1]
        return loss, pull(jnp.full_like(loss, 0.3))[0], tangent

    x, t = case.draw(rng, 6, dtype=dtype)
    wide = [a.astype(np.float32) if jnp.issubdtype(a.dtype, np.floating) else a for a in (x, t)]
    (loss, gradient, tangent), expected = law(x, t), law(*wide)
    assert (loss.dtype, gradient.dtype) == (np.float32, dtype)
    same(loss, expected[0], span=10)
    same(gradient, expected[1], dtype=dtype)
    same(tangent, expected[2], span=10)


@every_case
def test_float64_stays_and_options_do_not_widen(case, rng, with_x64):
    def dtype(f, *args, **kwargs):
        return jax.eval_shape(f, *args, **kwargs).dtype

    x, t = case.draw(rng, 3, dtype=np.float64)
    assert dtype(case, x, t) == np.float64
    assert dtype(jax.grad(total(case)), x, t) == np.float64
    x, t = case.draw(rng, 3)
    options = {name: np.float64(value) for name, value in case.options.items()}
    weights = np.ones(jax.eval_shape(case, x, t).shape)
    assert dtype(case, x, t, **options, weights=weights) == np.float32
    if case.targets != "index":
        assert dtype(case, x, t.astype(np.float64)) == np.float64
    if case.targets != "index" and not case.call:
        for number in (1.0, 0.7):
            assert dtype(case, x, number) == dtype(functools.partial(case, targets=number), x) == np.float32


@every_loss
def test_tangents_are_the_gradient_times_the_direction(case, rng):
    x, t = case.draw(rng, 6)
    dx, dt = case.draw(rng, 6)

    @jax.jit
    def law(x, t, dx, dt):
        if case.targets == "index":
            return jax.jvp(lambda x: case(x, t), (x,), (dx,))[1], jax.grad(total(case))(x, t) * dx
        gx, gt = jax.grad(total(case), (0, 1))(x, t)
        return jax.jvp(case, (x, t), (dx, dt))[1], gx * dx + gt * dt

    tangent, product = law(x, t, dx, dt)
    same(tangent, product.sum(-1) if case.rows else product, span=10)


@every_loss
def test_a_row_knows_nothing_of_the_others(case, rng):
    x, t = case.draw(rng, 6)
    (alone, expected), (poisoned, gradient) = (
        jax.vjp(lambda x: case(x, t), given) for given in (x, x.at[0].set(jnp.nan))
    )
    assert np.isnan(poisoned[0]).all()
    np.testing.assert_array_equal(poisoned[1:], alone[1:])
    rest = jnp.ones_like(alone).at[0].set(0)
    np.testing.assert_array_equal(gradient(rest)[0][1:], expected(rest)[0][1:])


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
    x, t = case.draw(rng, 6)
    shape = shape_of(case, x, t)
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
