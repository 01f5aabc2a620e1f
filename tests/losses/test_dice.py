"""Dice losses: values and gradients by the textbook, masks, layouts, transformations, peers."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from oracles import EXACT, class_overlap_loss, numbers
from tolerances import close, same

import jaxloss
from jaxloss._core import softmax

DICE, BINARY, TVERSKY = jaxloss.dice_loss, jaxloss.binary_dice_loss, jaxloss.tversky_loss
GENERALIZED = jaxloss.multiclass_generalized_dice_loss
ALPHA, BETA = 0.25, 0.75
STEP = mp.mpf(10) ** -40
inf, nan = np.inf, np.nan


def probabilities(x):
    """The textbook's, of one image of shape (pixels, classes); of one class, beside a logit of 0."""
    x = np.concatenate([x, 0 * x], -1) if (binary := x.shape[-1] == 1) else x
    e = EXACT.exp(x - EXACT.max(x))
    return (e / EXACT.sum(e))[:, : 1 if binary else None]


def exact_loss(x, t, smooth):
    return class_overlap_loss(probabilities(x), t, smooth, ALPHA, BETA)[0].sum()


def exact_gradients(x, t, smooth):
    """By x and by t, and the sums of the absolute values of their terms: a class each, and what it adds and takes."""
    p = probabilities(x)
    _, n, r = class_overlap_loss(p, t, smooth, ALPHA, BETA)
    by_p = ((ALPHA * (1 - t) + BETA * t) * r + n * t) / (n + r) ** 2
    by_t = ((ALPHA * p + BETA * (1 - p)) * r + n * p) / (n + r) ** 2
    softmax = np.abs((np.eye(p.shape[1], dtype=int) - p[:, None]) * p[..., None])  # of class c by logit j

    def slope(by, i):
        step = STEP * (np.arange(x.size) == i).reshape(x.shape)
        above, below = ((x + h, t) if by == 0 else (x, t + h) for h in (step, -step))
        return (exact_loss(*above, smooth) - exact_loss(*below, smooth)) / (2 * STEP)

    truths = [np.reshape([slope(by, i) for i in range(x.size)], x.shape) for by in (0, 1)]
    return [np.asarray(a, float) for a in (*truths, (by_p[..., None] * softmax).sum(1), by_t)]


def images(rng, classes, pixels=4):
    """Moderate, tiny, huge, nearly right and nearly wrong ones; beside each, one-hot and soft targets."""
    shape = (pixels, classes)
    hard = rng.random(shape) < 0.5 if classes == 1 else np.eye(classes)[rng.integers(classes, size=pixels)]
    soft, sign = rng.random(shape), 2.0 * hard - 1
    draw = [rng.normal(size=shape) * scale for scale in (2, 1e-3, 5e3)]
    draw += [15 * sign + rng.normal(size=shape), -15 * sign + rng.normal(size=shape), np.zeros(shape)]
    return np.stack(draw * 2), np.stack([hard] * len(draw) + [soft] * len(draw))


@pytest.mark.exact
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16, np.float16], ids=lambda d: np.dtype(d).name)
def test_value_and_gradient(dtype, classes, rng):
    with jax.enable_x64(dtype == np.float64), mp.workdps(360):
        x, t = (jnp.asarray(a, dtype) for a in images(rng, classes))
        x, t = jnp.concatenate([x, x]), jnp.concatenate([t, t])
        smooth = jnp.where(jnp.arange(len(x)) < len(x) // 2, 0, 0.5)
        wide = np.float64 if dtype == np.float64 else np.float32
        options = {"smooth": smooth[:, None], "alpha": ALPHA, "beta": BETA, "reduction": "sum"}
        losses, pull = jax.jit(lambda x, t: jax.vjp(lambda x, t: DICE(x, t, **options), x, t))(x, t)
        gradients = pull(jnp.ones_like(losses))
        assert (losses.dtype, gradients[0].dtype, gradients[1].dtype) == (wide, dtype, dtype)
        for i in range(len(x)):
            given = *(numbers(np.asarray(a[i], np.float64)) for a in (x, t)), float(smooth[i])
            span = np.ptp(np.asarray(x[i], np.float64)) * (classes > 1)  # of one class, nothing is subtracted
            truth = float(exact_loss(*given))
            close(losses[i], truth, truth, span=span, dtype=wide, of=f"loss {i}")
            *truths, of_x, of_t = exact_gradients(*given)
            close(gradients[0][i], truths[0], of_x, span=span, dtype=dtype, of=f"by predictions {i}")
            close(gradients[1][i], truths[1], of_t, span=span, dtype=dtype, of=f"by targets {i}")


@pytest.mark.exact
@pytest.mark.parametrize("classes", [1, 3])
def test_a_nearly_perfect_mask_keeps_its_digits(classes):
    """Logits of -30 and 30, whose differences are exact: nothing is allowed for the exponential's argument."""
    hard = np.arange(6)[:, None] % 2 if classes == 1 else np.eye(classes)[np.arange(6) % classes]
    x, t = jnp.asarray(60.0 * hard - 30, np.float32)[None], jnp.asarray(hard, np.float32)[None]
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: DICE(x, t, alpha=ALPHA, beta=BETA, reduction="sum").sum()))(x)
    with mp.workdps(120):
        given = numbers(x[0]), numbers(t[0]), 1
        truth = float(exact_loss(*given))
        assert 0 < truth < 1e-12
        close(loss, truth, truth)
        by_x, _, size, _ = exact_gradients(*given)
        assert (np.abs(by_x) > 0.3 * size).all()
        close(gradient[0], by_x, size)


CLASS_WEIGHTS = np.array([1.0, 0.5, 3.0], np.float32)
OPTAX = [
    *[(DICE, s, s, {}) for s in [(3,), (5, 3), (2, 5, 3), (2, 3, 4, 3), (4, 1)]],
    *[(DICE, (2, 5), (2, 5, 1), {}), (DICE, (2, 5, 1), (2, 5), {"ignore_background": True})],
    *[(DICE, (2, 5, 4, 3), (2, 5, 4, 3), {"axis": axis}) for axis in (1, (0, 1, 2), (-3, -2))],
    (DICE, (2, 5, 3), (2, 5, 3), {"alpha": 0.3, "beta": 0.9, "smooth": 0.1, "reduction": "sum"}),
    (DICE, (2, 5, 3), (2, 5, 3), {"class_weights": CLASS_WEIGHTS, "ignore_background": True, "reduction": "none"}),
    *[(BINARY, s, s, {"smooth": 0.5}) for s in [(4,), (2, 5), (2, 5, 4), (2, 5, 1)]],
    *[(GENERALIZED, s, s, {"smooth": 0.5}) for s in [(5, 3), (2, 5, 1)]],
    (GENERALIZED, (2, 5, 3), (2, 5, 3), {"ignore_background": True}),
]


def test_optax_takes_the_same_call(rng):
    theirs = pytest.importorskip("optax").losses
    inputs = [[jnp.asarray(rng.random(s) * 2, np.float32) for s in shapes] for _, *shapes, _ in OPTAX]

    def every(inputs, ours):
        for (x, t), (loss, *_, options) in zip(inputs, OPTAX, strict=True):
            f = loss if ours else getattr(theirs, loss.__name__)
            losses, pull = jax.vjp(functools.partial(f, **options), x, t)
            yield losses, *pull(jnp.cos(jnp.arange(losses.size, dtype=np.float32)).reshape(losses.shape))

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        pairs = [jax.jit(lambda i, ours=ours: list(every(i, ours)))(inputs) for ours in (True, False)]
    for of, a, b in zip(OPTAX, *pairs, strict=True):
        for ours, expected in zip(a, b, strict=True):
            same(ours, expected, span=4, of=str(of))


def test_what_peers_get_wrong(rng):
    targets = jax.nn.one_hot(jnp.array([[0, 0, 0, 1]]), 3)
    wrong = 40 * jax.nn.one_hot(jnp.array([[1, 1, 1, 0]]), 3)
    close(GENERALIZED(wrong, targets), 2 / 3, 1)  # optax: 7.4e-8
    close(GENERALIZED(wrong, targets, smooth=0), 1, 1)
    x, t = jnp.zeros((1, 70000, 1), np.float16), jnp.ones((1, 70000, 1), np.float16)
    loss, gradient = jax.value_and_grad(lambda x: DICE(x, t, smooth=0)[0])(x)  # optax: NaN, 0
    np.testing.assert_allclose(loss, 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(gradient, np.float16(-2 / 9 / 70000))
    p = jnp.asarray(rng.random((2, 5, 1)), np.float32)
    ours = jax.jit(lambda p: BINARY(p, p, apply_sigmoid=False))(p)  # optax: raises
    same(ours, TVERSKY(p, p, smooth=1, axis=(1, 2)))
    p = jnp.concatenate([p, 1 - p], -1)
    ours = jax.jit(lambda p: DICE(p, p[::-1], apply_softmax=False, reduction="none"))(p)  # optax: raises under jit
    same(ours, TVERSKY(p, p[::-1], smooth=1, axis=1))
    t = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])  # a class neither predicted nor there; optax: NaN
    law = jax.value_and_grad(lambda p, t: DICE(p, t, apply_softmax=False, smooth=0, reduction="sum")[0], (0, 1))
    loss, gradients = law(t, t)
    assert loss == 0
    np.testing.assert_allclose(gradients, 0 * np.stack([t, t]) - [0.25, 0], rtol=1e-6)


def test_generalized_weighs_by_the_batch_and_leaves_out_what_is_not_there(rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 4)), np.float32)
    t = jax.nn.one_hot(jnp.asarray(rng.integers(3, size=(2, 5))), 4)
    n = np.asarray(t, np.float64).sum((0, 1))
    w = np.where(n == 0, 0, 1 / (np.maximum(n, 1) ** 2 + 1e-7))
    losses = np.asarray(DICE(x, t, reduction="none"), np.float64)
    law = jax.jit(jax.value_and_grad(GENERALIZED, (0, 1)))
    value, gradients = law(x, t)
    close(value, (losses @ w / w.sum()).mean(), 1)
    assert all(np.isfinite(g).all() for g in gradients)
    close(GENERALIZED(x, t, ignore_background=True), (losses * w)[:, 1:].mean() * 4 / w.sum(), 1)
    value, gradients = law(x, jnp.zeros_like(t))
    assert value == 0
    np.testing.assert_array_equal(gradients[0], 0)


MASKED = {
    "dice": (functools.partial(DICE, smooth=0, alpha=ALPHA, reduction="none"), (2, 6, 3)),
    "dice of all": (functools.partial(DICE, axis=(0, 1), ignore_background=True), (2, 6, 3)),
    "of probabilities": (functools.partial(DICE, apply_softmax=False), (2, 6, 3)),
    "generalized": (GENERALIZED, (2, 6, 3)),
    "binary": (BINARY, (2, 6)),
    "tversky": (functools.partial(TVERSKY, axis=1), (2, 6)),
}


@pytest.mark.parametrize("name", MASKED)
def test_where_is_slicing_whatever_it_hides(name, rng):
    """Pixels of one image, and the whole of another."""
    f, shape = MASKED[name]
    x, t = (jnp.asarray(a, np.float32) for a in (rng.normal(size=shape), rng.random(shape)))
    law = jax.jit(jax.value_and_grad(lambda x, t, **masks: f(x, t, **masks).sum(), (0, 1)))
    kept = np.array([[1, 0, 1, 1, 0, 1], [0] * 6], bool)
    expected, gradients = law(x[:1, kept[0]], t[:1, kept[0]])
    bad = np.resize([nan, inf, -inf], shape).astype(np.float32)
    hidden = [jnp.where(kept if len(shape) == 2 else kept[..., None], a, bad) for a in (x, t)]
    ours, masked = law(*hidden, where=kept)
    same(ours, expected)
    if name != "dice of all":
        by_weights = jax.grad(lambda w: f(*hidden, where=kept, weights=w).sum())
        same(by_weights(jnp.zeros(2)).sum(), by_weights(jnp.ones(2)).sum())
    for a, b in zip(masked, gradients, strict=True):
        same(a[kept], b[0])
        np.testing.assert_array_equal(a[~kept], 0)
    ours, masked = law(*hidden, where=kept & False)
    assert ours == 0
    np.testing.assert_array_equal(masked, 0)


@pytest.mark.parametrize("tail", [softmax._tail, softmax._tail_by_select])
def test_infinite_logits_are_probabilities_of_0_and_1(tail, monkeypatch):
    """On a CPU, and elsewhere."""
    monkeypatch.setattr(softmax, "_tail", tail)
    jax.clear_caches()  # of traces with the other
    t = jnp.array([[[1.0, 0.0, 0.0]]])
    law = jax.jit(jax.value_and_grad(lambda x: DICE(x, t, reduction="none").sum()))
    for row, expected, slope in [
        ([0.5, 0.5, -inf], 1 / 7 + 1 / 5, [-198 / 1225, 198 / 1225, 0]),
        ([inf, 0.0, -inf], 0, [0, 0, 0]),
        ([1.0, inf, 2.0], 2 / 3, [0, 0, 0]),
        ([-inf, -inf, -inf], 1 / 3, [0, 0, 0]),  # nothing predicted
        ([-inf, 3e38, -3e38], 2 / 3, [0, 0, 0]),
        *(([nan, *others], nan, [nan] * 3) for others in ([0.0, 0.0], [nan, nan], [-inf, inf])),
    ]:
        value, gradient = law(jnp.array([[row]]))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, [[slope]], rtol=1e-6)
    ours = BINARY(jnp.array([[inf], [-inf], [nan]])[..., None], jnp.ones((3, 1, 1), int))
    np.testing.assert_allclose(ours, [0, 1 / 3, nan], rtol=1e-6)


def test_every_transformation(rng):
    x, t = (jnp.asarray(a, np.float32) for a in (rng.normal(size=(2, 3, 3)), rng.random((2, 3, 3))))

    def plain(x, t, smooth=1.0, alpha=0.5, beta=0.5):
        return class_overlap_loss(jax.nn.softmax(x), t, smooth, alpha, beta)[0].mean()

    def ours(x, t, smooth=1.0, alpha=0.5, beta=0.5):
        return DICE(x[None], t[None], smooth=smooth, alpha=alpha, beta=beta)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def every(f):
        return jax.hessian(f)(x[0], t[0]), jax.jacfwd(f, (1, 2, 3, 4))(x[0], t[0], 0.3, ALPHA, BETA)

    for a, b in zip(*(jax.tree.leaves(every(f)) for f in (ours, plain)), strict=True):
        same(a, b, span=10)
    batch = jax.value_and_grad(lambda x: DICE(x, t).sum())(x)
    step = jax.checkpoint(lambda s, xt: (s + ours(*xt), None))
    for f in (lambda x: jax.vmap(ours)(x, t).sum(), lambda x: jax.lax.scan(step, 0.0, (x, t))[0]):
        for a, b in zip(jax.jit(jax.value_and_grad(f))(x), batch, strict=True):
            same(a, b)


def test_nothing_and_whole_numbers():
    for x in (jnp.zeros((0, 4, 3)), jnp.zeros((2, 0, 3))):
        np.testing.assert_array_equal(DICE(x, x), np.zeros(len(x)))
        assert GENERALIZED(x, x) == 0
        assert BINARY(x, x).shape == (len(x),)
    for kind in (np.uint8, bool):
        hard = jnp.asarray([[[1, 0], [0, 1]]], kind)
        assert DICE(hard, hard, apply_softmax=False) == 0
        same(DICE(jnp.zeros((1, 2, 2), np.float16), hard, where=jnp.ones((1, 2), bool)), [1 / 4])


X = jnp.zeros((2, 4, 3))
SENTENCES = [
    (DICE, (X.astype(int), X), {}, TypeError, "`predictions` of a floating dtype, got int32."),
    (
        DICE,
        (X, X),
        {"axis": -1},
        ValueError,
        "`axis` without the class axis, which is axis 2, got -1; for classes elsewhere, pass `class_axis`.",
    ),
    (DICE, (X, X), {"class_weights": X[0, 0, :2]}, ValueError, "`class_weights` of shape (3,), got (2,)."),
    (BINARY, (X, X), {"smooth": X}, ValueError, "`smooth` of a shape that broadcasts to (2, 1), got (2, 4, 3)."),
    (GENERALIZED, (X, X[..., 0]), {}, ValueError, "`targets` of shape (2, 4, 3), got (2, 4)."),
    (TVERSKY, (X, X[0]), {}, ValueError, "`targets` of shape (2, 4, 3), got (4, 3)."),
]


@pytest.mark.parametrize(("loss", "args", "options", "kind", "sentence"), SENTENCES)
def test_bad_input_gets_one_sentence(loss, args, options, kind, sentence):
    with pytest.raises(kind) as error:
        loss(*args, **options)
    assert str(error.value) == f"{loss.__name__}: expected {sentence}"


@pytest.mark.parametrize("loss", [DICE, GENERALIZED, lambda x, t, **k: BINARY(x[..., :1], t[..., :1], **k)])
def test_the_class_axis_is_a_matter_of_layout(loss, rng):
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 3)), np.float32)
    t = jax.nn.one_hot(jnp.asarray(rng.integers(3, size=(2, 4, 5))), 3)
    expected = jax.value_and_grad(lambda x: loss(x, t).sum())(x)
    for axis in (1, -3, 2):

        def moved(x, axis=axis):
            a, b = (jnp.moveaxis(v, -1, axis) for v in (x, t))
            if loss not in (DICE, GENERALIZED):
                return BINARY(*(jnp.take(v, jnp.array([0]), axis) for v in (a, b)), class_axis=axis).sum()
            return loss(a, b, class_axis=axis).sum()

        for ours, theirs in zip(jax.value_and_grad(moved)(x), expected, strict=True):
            same(ours, theirs, span=10)


def test_pixels_are_named_by_their_axes_in_any_layout(rng):
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 3)), np.float32)
    t = jax.nn.one_hot(jnp.asarray(rng.integers(3, size=(2, 4, 5))), 3)
    ours = DICE(*(jnp.moveaxis(v, -1, 1) for v in (x, t)), axis=(0, 3), class_axis=1, reduction="none")
    same(ours, DICE(x, t, axis=(0, 2), reduction="none"), span=10)


def test_images_have_weights(rng):
    x = jnp.asarray(rng.normal(size=(3, 6, 2)), np.float32)
    t = jax.nn.one_hot(jnp.asarray(rng.integers(2, size=(3, 6))), 2)
    weights, dirty = jnp.array([2.0, 0.0, 1.0]), x.at[1].set(nan)
    for loss in (DICE, lambda x, t, **k: BINARY(x[..., 0], t[..., 0], **k)):
        same(loss(dirty, t, weights=weights), loss(x, t) * weights)
        gradient = jax.grad(lambda x, loss=loss: loss(x, t, weights=weights).sum())(dirty)
        same(gradient[1], 0 * x[1])
        same(jax.grad(lambda w, loss=loss: loss(x, t, weights=w).sum())(0 * weights), loss(x, t))
    losses = GENERALIZED(x, t, reduction="none")
    same(GENERALIZED(x, t, weights=weights), (losses * weights).sum() / 3)
    same(BINARY(x[..., 0], t[..., 0], reduction="mean"), BINARY(x[..., 0], t[..., 0]).mean())


def test_a_masked_image_does_not_count_in_a_weighted_mean(rng):
    x, t = jnp.asarray(rng.normal(size=(2, 6, 1)), np.float32), jnp.asarray(rng.random((2, 6, 1)), np.float32)
    where, weights = jnp.asarray([[True] * 6, [False] * 6]), jnp.array([1.0, 3.0])
    same(BINARY(x, t, where=where, weights=weights, reduction="mean"), BINARY(x[:1], t[:1])[0])
    three = [jnp.concatenate([a, a / 2, a / 3], -1) for a in (x, t)]
    ours, alone = GENERALIZED(*three, where=where, weights=weights), GENERALIZED(*(a[:1] for a in three))
    same(ours, alone)


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1), ()])
def test_weights_have_the_shape_of_the_loss_without_classes(axis, rng):
    x, t = (jnp.asarray(rng.random((2, 3, 4)), np.float32) for _ in range(2))
    where = jnp.asarray(rng.random((2, 3)) < 0.7)
    same(DICE(x, t, axis=axis, where=where, weights=2.0), 2 * DICE(x, t, axis=axis, where=where))


def test_options_of_a_masked_image_may_hold_anything(rng):
    x, t = (jnp.asarray(rng.random((2, 6, 3)), np.float32) for _ in range(2))
    smooth, alone = jnp.array([[1.0], [nan]]), [a[:1] for a in (x, t)]
    weights, where = jnp.array([1.0, 0.0]), jnp.array([[True], [False]])
    for loss in (DICE, functools.partial(GENERALIZED, reduction="none")):
        expected, expected_gradient = jax.value_and_grad(lambda x, f=loss: f(x, alone[1]).sum())(alone[0])
        for masks in ({"weights": weights}, {"where": where}):
            if loss is not DICE:
                masks["where"] = where  # the sizes of the classes count images of weight 0
            value, gradient = jax.value_and_grad(lambda x, f=loss, m=masks: f(x, t, smooth=smooth, **m).sum())(x)
            same(value, expected)
            same(gradient, jnp.concatenate([expected_gradient, 0 * x[:1]]))
