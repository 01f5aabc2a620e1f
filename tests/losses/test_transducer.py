"""The transducer loss: all paths one by one, a plain recursion, every mode, padding, edges, and the joint in chunks."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sequence_oracles import transducer_at_50_digits
from tolerances import close, same

from jaxloss import rnnt_loss, rnnt_loss_with_joint

LAMBDA = 0.25


def log_softmax(x):
    x = np.asarray(x, np.float64)
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))


def by_paths(x, y, blank, fastemit=0.0):
    """Loss and gradient of [frames, n + 1, classes], as sums over all paths, each a list of (t, u, class)."""
    log_p, (frames, nodes, classes) = log_softmax(x), x.shape
    steps = frames + nodes - 1
    probabilities, gradients = [], []
    for labels_at in combinations(range(steps - 1), nodes - 1):
        t = u = 0
        log_path, gradient = 0.0, np.zeros(x.shape)
        for step in range(steps):
            c = y[u] if step in labels_at else blank
            log_path += log_p[t, u, c]
            factor = 1 + fastemit if step in labels_at else 1
            gradient[t, u] += factor * (np.exp(log_p[t, u]) - np.eye(classes)[c])
            t, u = (t, u + 1) if step in labels_at else (t + 1, u)
        probabilities.append(np.exp(log_path))
        gradients.append(gradient)
    total = np.sum(probabilities)
    return -np.log(total), np.tensordot(np.array(probabilities) / total, np.array(gradients), 1)


def by_recursion(x, y, blank):
    """The same in log space, forwards and backwards."""
    log_p, (frames, nodes, _) = log_softmax(x), x.shape
    alpha, beta = np.full((frames + 1, nodes), -np.inf), np.full((frames + 1, nodes), -np.inf)
    alpha[0, 0], beta[frames, nodes - 1] = 0, 0
    for t in range(frames + 1):
        for u in range(nodes):
            if t > 0:
                alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t - 1, u] + log_p[t - 1, u, blank])
            if u > 0 and t < frames:
                alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t, u - 1] + log_p[t, u - 1, y[u - 1]])
    for t in reversed(range(frames)):
        for u in reversed(range(nodes)):
            beta[t, u] = beta[t + 1, u] + log_p[t, u, blank]
            if u < nodes - 1:
                beta[t, u] = np.logaddexp(beta[t, u], beta[t, u + 1] + log_p[t, u, y[u]])
    log_total, gradient = alpha[frames, nodes - 1], np.zeros(x.shape)
    for t in range(frames):
        for u in range(nodes):
            blanks = np.exp(alpha[t, u] + log_p[t, u, blank] + beta[t + 1, u] - log_total)
            labels = 0.0
            if u < nodes - 1:
                labels = np.exp(alpha[t, u] + log_p[t, u, y[u]] + beta[t, u + 1] - log_total)
                gradient[t, u, y[u]] -= labels
            gradient[t, u, blank] -= blanks
            gradient[t, u] += np.exp(log_p[t, u]) * (blanks + labels)
    return -log_total, gradient


def plain(x, y, blank):
    """The loss in jnp, node by node, for autodiff."""
    log_p, (frames, nodes, _) = jax.nn.log_softmax(x), x.shape
    alpha = {(0, 0): jnp.zeros((), x.dtype)}
    for t in range(frames + 1):
        for u in range(nodes):
            terms = [alpha[t - 1, u] + log_p[t - 1, u, blank]] if t > 0 else []
            terms += [alpha[t, u - 1] + log_p[t, u - 1, int(y[u - 1])]] if u > 0 and t < frames else []
            if terms:
                alpha[t, u] = jax.nn.logsumexp(jnp.stack(terms))
    return -alpha[frames, nodes - 1]


def draw(rng, shape, dtype=np.float32, scale=2.0):
    *batch, _, nodes, classes = shape
    x = jnp.asarray(scale * rng.standard_normal(shape), dtype)
    return x, jnp.asarray(rng.integers(1, classes, (*batch, nodes - 1)), np.int32)


def batch(rng, size=8):
    """Every third sequence is confident."""
    x, y = draw(rng, (size, 6, 4, 5))
    for i in range(0, size, 3):
        x = x.at[i].set(confident(rng, np.asarray(y[i]), 6, 9, nodes=4, classes=5))
    return x, y, jnp.asarray(rng.integers(1, 7, size), np.int32), jnp.asarray(rng.integers(0, 4, size), np.int32)


@partial(jax.jit, static_argnames="reduction")
def of_batch(x, y, frames, counts, **options):
    return rnnt_loss(x, labels=y, blank_id=0, logit_lengths=frames, label_lengths=counts, **options)


@pytest.mark.exact
@pytest.mark.parametrize(
    ("shape", "blank", "dtype"),
    [
        ((1, 1, 2), 0, np.float32),
        ((3, 1, 2), -1, np.float32),
        ((1, 4, 3), -1, np.float64),
        ((4, 4, 5), 0, np.float32),
        ((5, 3, 4), 0, np.float64),
    ],
)
def test_all_paths_one_by_one(shape, blank, dtype, rng):
    with jax.enable_x64(dtype == np.float64):
        x, y = draw(rng, shape, dtype)
        y = y if blank == 0 else y - 1
        loss, gradient = jax.jit(jax.value_and_grad(lambda x: rnnt_loss(x, labels=y, blank_id=blank)))(x)
        assert loss.dtype == gradient.dtype == dtype
        value, slope = by_paths(np.asarray(x), np.asarray(y), blank % shape[-1])
        steps = shape[0] + shape[1] - 1
        close(loss, value, value + steps, dtype=dtype)
        close(gradient, slope, 1, span=steps, dtype=dtype)


def test_the_paths_have_the_gradient_of_their_value(rng):
    x, y = draw(rng, (3, 3, 3))
    x, y = np.asarray(x, np.float64), np.asarray(y)
    value, gradient = by_paths(x, y, 0)
    direction, h = rng.standard_normal(x.shape), 1e-6
    difference = (by_paths(x + h * direction, y, 0)[0] - by_paths(x - h * direction, y, 0)[0]) / (2 * h)
    np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-7)
    again, same_gradient = by_recursion(x, y, 0)
    np.testing.assert_allclose(again, value, rtol=1e-13)
    np.testing.assert_allclose(same_gradient, gradient, atol=1e-13)


@pytest.mark.exact
@pytest.mark.parametrize(("scale", "dtype"), [(0.0, np.float32), (10.0, np.float32), (1.0, np.float64)])
def test_a_larger_lattice(scale, dtype, rng):
    with jax.enable_x64(dtype == np.float64):
        x, y = draw(rng, (40, 16, 6), dtype, scale)
        loss, gradient = jax.jit(jax.value_and_grad(lambda x: rnnt_loss(x, labels=y, blank_id=0)))(x)
        value, slope = by_recursion(np.asarray(x), np.asarray(y), 0)
        close(loss, value, value + 55, dtype=dtype)
        close(gradient, slope, 1, span=10 * (1 + scale), dtype=dtype)


def test_lengths_paddings_and_each_alone(rng):
    x, y, frames, counts = batch(rng)
    rubbish = np.array(x)
    padded = np.ones(x.shape[:2], np.float32), np.ones(y.shape, np.int32)
    for i, (t, u) in enumerate(zip(frames, counts, strict=True)):
        rubbish[i, t:], rubbish[i, :, u + 1 :] = np.nan, np.inf
        padded[0][i, :t], padded[1][i, :u] = 0, 0
    labels = jnp.where(padded[1] == 0, y, -100)
    f = jax.jit(jax.value_and_grad(lambda x, *a, **k: rnnt_loss(x, *a, blank_id=0, **k).sum()))
    rubbish = jnp.asarray(rubbish)
    losses = of_batch(rubbish, y, frames, counts)
    total, gradient = f(rubbish, padded[0], labels, padded[1])
    by_lengths = f(rubbish, labels=labels, logit_lengths=frames, label_lengths=counts)
    same(total, by_lengths[0])
    same(total, losses.sum())
    same(gradient, by_lengths[1])
    for i, (t, u) in enumerate(zip(frames.tolist(), counts.tolist(), strict=True)):
        value, slope = by_recursion(np.asarray(x[i, :t, : u + 1]), np.asarray(y[i, :u]), 0)
        close(losses[i], value, value + t + u)
        close(gradient[i, :t, : u + 1], slope, 1, span=t + u)
        assert not gradient[i, t:].any()
        assert not gradient[i, :, u + 1 :].any()
    second = jax.grad(lambda x: (jax.grad(lambda x: of_batch(x, y, frames, counts).sum())(x) ** 2).sum())
    np.testing.assert_array_equal(jax.jit(second)(rubbish) != 0, gradient != 0)


def test_a_frame_within_is_skipped(rng):
    x, y = draw(rng, (6, 3, 4))
    there = np.array([True, False, True, True, False, True])
    rubbish = jnp.where(there[:, None, None], x, jnp.nan)
    f = jax.jit(jax.value_and_grad(lambda x, *paddings: rnnt_loss(x, *paddings, labels=y, blank_id=0)))
    loss, gradient = f(rubbish, 1.0 - there)
    value, slope = f(x[there])
    same(loss, value)
    same(gradient[there], slope)
    assert not gradient[~there].any()


# Every mode.


@pytest.mark.smoke
def test_forward_reverse_and_second_order(rng, with_x64):
    x, y = draw(rng, (3, 2, 3), np.float64)
    direction = jnp.asarray(rng.standard_normal(x.shape))

    def f(x):
        return rnnt_loss(x, labels=y, blank_id=0)

    labels = np.asarray(y)

    def g(x):
        return plain(x, labels, 0)

    tangent = jax.jit(lambda x: jax.jvp(f, (x,), (direction,))[1])(x)
    same(tangent, (jax.jit(jax.grad(f))(x) * direction).sum(), dtype=np.float64, span=10)
    hvp = jax.jit(jax.jvp, static_argnums=0)(jax.grad(g), (x,), (direction,))[1]
    for mine in (
        lambda x: jax.jvp(jax.grad(f), (x,), (direction,))[1],
        lambda x: jax.grad(lambda x: jax.jvp(f, (x,), (direction,))[1])(x),
    ):
        same(jax.jit(mine)(x), hvp, dtype=np.float64, span=20)
    # The tangent of the value, beside that of the gradient.
    value, _ = jax.jit(lambda x: jax.jvp(jax.value_and_grad(f), (x,), (direction,))[1])(x)
    same(value, tangent, dtype=np.float64, span=10)


def test_third_derivative_where_both_terms_of_a_sum_are_equal(rng, with_x64):
    _, y = draw(rng, (3, 2, 2), np.float64)
    direction, label = jnp.asarray(rng.standard_normal((3, 2, 2))), np.asarray(y)

    def third(f):
        def slope(s):
            return jax.jvp(f, (s * direction,), (direction,))[1]

        return jax.jit(jax.grad(jax.grad(slope)))(0.0)

    found = third(lambda x: rnnt_loss(x, labels=y, blank_id=0))
    close(found, third(lambda x: plain(x, label, 0)), np.abs(direction).sum() ** 3, dtype=np.float64)


def test_vmap_scan_checkpoint_and_jit_are_the_batch(rng):
    x, y, frames, counts = batch(rng)
    f = jax.value_and_grad(lambda *a: of_batch.__wrapped__(*a).sum())
    loss, gradient = jax.jit(f)(x, y, frames, counts)
    for each in (jax.vmap(f), lambda *given: jax.lax.scan(lambda c, a: (c, f(*a)), None, given)[1]):
        losses, gradients = jax.jit(each)(x, y, frames, counts)
        same(losses.sum(), loss)
        same(gradients, gradient)
    checkpointed = jax.grad(jax.checkpoint(lambda *a: of_batch.__wrapped__(*a).sum()))
    same(jax.jit(checkpointed)(x, y, frames, counts), gradient)
    same(of_batch.__wrapped__(x, y, frames, counts).sum(), loss)
    two = jax.tree.map(lambda a: a.reshape(2, 4, *a.shape[1:]), (x, y, frames, counts))
    same(of_batch(*two).sum(), loss)


@pytest.mark.smoke
@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_of_a_shard_map(check_vma, rng):
    given = batch(rng)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(of_batch, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=check_vma)
    found, expected = (jax.jit(jax.value_and_grad(lambda *a, f=f: f(*a).sum()))(*given) for f in (mapped, of_batch))
    for a, b in zip(found, expected, strict=True):
        same(a, b)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("fused", [False, True])
def test_sharded_batch(kind, fused, rng):
    x, y, frames, counts = batch(rng)
    h, g = x[:, :, 0], x[:, 0]

    def f(x, h, g, y, frames, counts):
        if fused:
            lengths = {"logit_lengths": frames, "label_lengths": counts}
            return rnnt_loss_with_joint(added, h, g, y, blank_id=0, chunk_size=2, **lengths).sum()
        return of_batch(x, y, frames, counts).sum()

    given = x, h, g, y, frames, counts
    of_all = jax.jit(jax.value_and_grad(f, (0, 1, 2)))
    expected = of_all(*given)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType[kind],))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, NamedSharding(mesh, P("data", *[None] * (a.ndim - 1)))) for a in given]
        compiled = of_all.lower(*placed).compile()
        found = jax.device_get(compiled(*placed))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        same(a, b, span=4)
    assert "all-gather" not in compiled.as_text()


# Options.


def test_fastemit(rng):
    x, y = draw(rng, (4, 3, 4))
    f = jax.jit(jax.value_and_grad(lambda x, by: rnnt_loss(x, labels=y, blank_id=0, fastemit_lambda=by), (0, 1)))
    loss, (gradient, by_lambda) = f(x, LAMBDA)
    value, slope = by_paths(np.asarray(x), np.asarray(y), 0, LAMBDA)
    close(loss, value, value + 6)
    close(gradient, slope, 1 + LAMBDA, span=6)
    assert by_lambda == 0
    xs, ys = jnp.stack([x, x]), jnp.stack([y, y])
    each = jnp.asarray([0.0, LAMBDA])
    both = jax.jit(jax.grad(lambda x: rnnt_loss(x, labels=ys, blank_id=0, fastemit_lambda=each).sum()))(xs)
    close(both, [by_paths(np.asarray(x), np.asarray(y), 0)[1], slope], 2, span=6)


def test_derivative_of_the_gradient_with_fastemit(rng, with_x64):
    x, y = draw(rng, (3, 3, 3), np.float64)
    direction = jnp.asarray(rng.standard_normal(x.shape))

    def f(x):
        return rnnt_loss(x, labels=y, blank_id=0, fastemit_lambda=LAMBDA)

    h = 1e-5
    ahead, behind = (by_paths(np.asarray(x + s * h * direction), np.asarray(y), 0, LAMBDA)[1] for s in (1, -1))
    found = jax.jit(lambda x: jax.jvp(jax.grad(f), (x,), (direction,))[1])(x)
    np.testing.assert_allclose(found, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)


def test_where_is_slicing(rng):
    x, y, frames, counts = batch(rng)
    kept = jnp.asarray(rng.random(8) < 0.5).at[:2].set(jnp.asarray([True, False]))
    there = np.asarray(kept)
    weights = jnp.asarray(rng.random(8), np.float32)
    rubbish = jnp.where(kept[:, None, None, None], x, jnp.nan)
    labels, lengths = jnp.where(kept[:, None], y, -7), jnp.where(kept, frames, 99)

    def f(x, y, frames, counts, weights, where=None):
        return of_batch(x, y, frames, counts, weights=weights, where=where, reduction="mean")

    of = jax.jit(jax.value_and_grad(f))
    value, slope = of(x[there], y[there], frames[there], counts[there], weights[there])
    for masked in ({"where": kept}, {}):
        w = weights if masked else jnp.where(kept, weights, 0)
        loss, gradient = of(rubbish, labels, lengths, counts, w, **masked)
        same(loss, value)
        same(gradient[there], slope)
        assert not gradient[~there].any()
    none = of(rubbish, labels, lengths, counts, weights, where=jnp.zeros(8, bool))
    assert none[0] == 0
    assert not none[1].any()
    losses = of_batch(x, y, frames, counts)
    same(of_batch(x, y, frames, counts, reduction="sum"), losses.sum())
    same(of_batch(x, y, frames, counts, weights=weights), weights * losses)


# Edges.

loss_of = jax.jit(rnnt_loss, static_argnames=("blank_id", "zero_infinity", "reduction"))


def test_no_labels_and_no_frames(rng):
    x, _ = draw(rng, (2, 3, 1, 4))
    none = jnp.zeros((2, 0), np.int32)
    close(loss_of(x, labels=none, blank_id=2), -log_softmax(x)[..., 0, 2].sum(-1), 10)
    x = jnp.zeros((2, 0, 1, 4))
    np.testing.assert_array_equal(loss_of(x, labels=none, blank_id=0), 0)
    x, y = jnp.zeros((2, 0, 3, 4)), jnp.ones((2, 2), np.int32)
    np.testing.assert_array_equal(loss_of(x, labels=y, blank_id=0), np.inf)
    counts = jnp.asarray([0, 1])
    np.testing.assert_array_equal(loss_of(x, labels=y, blank_id=0, label_lengths=counts), [0, np.inf])
    # The same by paddings: all of them.
    x, y = draw(rng, (2, 3, 3, 4))
    padded = jnp.ones((2, 3)), jnp.ones((2, 2))
    f = jax.jit(jax.value_and_grad(lambda x, *label: rnnt_loss(x, padded[0], y, *label, blank_id=0, reduction="sum")))
    loss, gradient = f(x * jnp.nan, padded[1])
    assert loss == 0
    assert not gradient.any()
    loss, gradient = f(x)
    assert loss == np.inf
    assert not gradient.any()


def test_labels_and_lengths_that_cannot_be_give_nan(rng):
    x, y = draw(rng, (8, 3, 3, 4))
    y = y.at[0, 0].set(0).at[1, 1].set(4).at[2, 0].set(-1)
    paddings = jnp.zeros((8, 2)).at[3, 0].set(1)
    frames = jnp.full(8, 3).at[4].set(4).at[5].set(-1)
    bad = np.arange(8) < 6

    def f(x):
        losses = rnnt_loss(x, labels=y, label_paddings=paddings, logit_lengths=frames, blank_id=0)
        return losses.sum(), losses

    gradient, losses = jax.jit(jax.grad(f, has_aux=True))(x)
    np.testing.assert_array_equal(np.isnan(losses), bad)
    assert np.isnan(gradient[:3]).any((1, 2, 3)).all()
    assert np.isfinite(gradient[6:]).all()
    assert np.isnan(loss_of(x[6:], labels=y[6:], blank_id=0, label_lengths=jnp.array([3, -1]))).all()
    np.testing.assert_array_equal(np.isnan(loss_of(x[6:], labels=jnp.full((2, 2), 3), blank_id=-1)), True)


def test_logits_of_minus_infinity(rng):
    x, y = draw(rng, (2, 3, 3, 5))
    y = jnp.asarray([[1, 2], [2, 1]])
    f = jax.jit(jax.value_and_grad(lambda x, y: rnnt_loss(x, labels=y, blank_id=0).sum()))
    unused = x.at[..., 4].set(-jnp.inf)
    loss, gradient = f(unused, y)
    value, slope = f(x[..., :4], y)
    same(loss, value)
    same(gradient[..., :4], slope)
    assert not gradient[..., 4].any()
    # A blank of the last frame that cannot be: no path is left.
    impossible = x.at[0, 2, 2, 0].set(-jnp.inf)
    losses = loss_of(impossible, labels=y, blank_id=0)
    assert losses[0] == np.inf
    gradient = f(impossible, y)[1]
    assert not gradient[0].any()
    same(gradient[1], f(x, y)[1][1])
    finite = loss_of(impossible, labels=y, blank_id=0, zero_infinity=True)
    np.testing.assert_array_equal(finite, [0, losses[1]])
    # A node without any class, which other paths go around.
    hole = x.at[0, 1, 1].set(-jnp.inf)
    loss, gradient = f(hole, y)
    far = x.at[0, 1, 1].set(0).at[0, 0, 1, 0].set(-jnp.inf).at[0, 1, 0, 1].set(-jnp.inf)
    value, _ = f(x.at[0, 1, 1, :3].set(-jnp.inf), y)
    same(loss, value)
    assert np.isfinite(gradient).all()
    assert np.isfinite(f(far, y)[0])
    assert not gradient[0, 1, 1].any()
    second = jax.jit(jax.grad(lambda x: (f(x, y)[1] ** 2).sum()))
    assert np.isfinite(second(hole)).all()
    # The first node, which there is no way around.
    nothing = x.at[0, 0, 0].set(-jnp.inf)
    assert f(nothing, y)[0] == np.inf
    assert not f(nothing, y)[1][0].any()
    # A class that is certain.
    certain = x.at[0, 0, 0, 0].set(jnp.inf)
    assert np.isfinite(f(certain, y)[0])
    assert np.isfinite(f(certain, y)[1]).all()


@pytest.mark.exact
def test_confident_sequences_keep_their_digits(rng):
    """One path, whose loss is the sum of what the other classes have; and what there is of its neighbours."""
    x = jnp.zeros((2, 2, 3)).at[0, 0, 1].set(40.0).at[0, 1, 0].set(42.0).at[1, 1, 0].set(38.0)
    y = jnp.asarray([1])
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: rnnt_loss(x, labels=y, blank_id=0)))(x)
    truth, slope = by_paths(np.asarray(x, np.longdouble), np.asarray(y), 0)
    by_hand = 2 * (np.exp(-40.0) + np.exp(-42.0) + np.exp(-38.0)) - np.exp(-40.0) / 3  # but for the path around
    np.testing.assert_allclose(loss, by_hand, rtol=3e-6)
    np.testing.assert_allclose(gradient[0, 0, 2], np.exp(-40.0), rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 1, 0], -2 * np.exp(-42.0), rtol=1e-5)
    np.testing.assert_allclose(gradient[1, 0], np.array([1, -2, 1]) / 3 * np.exp(-40.0) / 3, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-7)
    assert abs(truth) < 1e-15


def confident(rng, labels, frames, margin, *, nodes, classes):
    """Logits of nodes with a margin for one arc each; at the second one, both arcs lead to the same end."""
    x = rng.normal(size=(frames, nodes, classes)) / 2
    step = max(1, frames // (len(labels) + 1))
    for t, u in np.ndindex(frames, nodes):
        due = u < len(labels) and t >= step * u  # labels from there on, and blanks before
        x[t, u, labels[u] if due else 0] += margin
    if len(labels) > 1:
        t = max(0, step - 1)
        x[t, 1, [0, labels[1]]] = margin
    return np.asarray(x, np.float32)


SURE = [([1, 2, 3], 5, 8), ([2, 2, 1], 12, 6), ([3, 3], 20, 8), ([], 12, 7), ([4], 40, 8), ([1, 4, 2], 60, 3)]


@pytest.mark.exact
def test_confident_sequences_are_exact(rng):
    """Label, margin and frames of each; one of the batch is not confident."""
    every = [*SURE, ([1, 2, 1], 2, 8)]
    x, y = rng.normal(size=(len(every), 8, 4, 5)).astype(np.float32), np.zeros((len(every), 3), np.int32)
    for i, (labels, margin, frames) in enumerate(every):
        y[i, : len(labels)] = labels
        if i < len(SURE):
            x[i, :frames] = confident(rng, labels, frames, margin, nodes=4, classes=5)
    frames, counts = (jnp.asarray(a) for a in ([f for *_, f in every], [len(labels) for labels, *_ in every]))
    fastemit = jnp.asarray([0, 0, LAMBDA, LAMBDA, LAMBDA, 0, LAMBDA], np.float32)

    def total(x):
        losses = of_batch(x, jnp.asarray(y), frames, counts, fastemit_lambda=fastemit)
        return losses.sum(), losses

    gradient, losses = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(x))
    for i, (labels, margin, t) in enumerate(every):
        one = x[i, :t, : len(labels) + 1]
        value, slope, terms = transducer_at_50_digits(one, labels, 0, float(fastemit[i]))
        sure = i < len(SURE)
        assert (value < np.log(2)) == sure
        close(losses[i], value, value + (0 if sure else t), span=margin, of=str(every[i]))
        close(gradient[i, :t, : len(labels) + 1], slope, terms if sure else 2, span=margin, of=str(every[i]))


@pytest.mark.exact
@pytest.mark.parametrize(("frames", "classes", "dtype"), [(30, 20, np.float32), (20, 6, np.float64)])
def test_long_confident_sequences(frames, classes, dtype, rng):
    labels, margins = np.array([3, 3, 5, 2, 3, 1]), (9, 12, 20, 40)
    with jax.enable_x64(dtype == np.float64):
        x = np.stack([confident(rng, labels, frames, margin, nodes=7, classes=classes) for margin in margins])
        y = jnp.asarray([labels] * 4, np.int32)
        f = jax.jit(
            jax.value_and_grad(lambda x: (lambda v: (v.sum(), v))(rnnt_loss(x, labels=y, blank_id=0)), has_aux=True)
        )
        (_, losses), gradient = f(jnp.asarray(x, dtype))
        for i, margin in enumerate(margins):
            value, slope, terms = transducer_at_50_digits(x[i], labels, 0)
            close(losses[i], value, value, span=margin, dtype=dtype)
            close(gradient[i], slope, terms, span=margin, dtype=dtype)


def test_the_oracles_agree(rng):
    x = rng.normal(size=(4, 3, 4)) * 2
    for ours, theirs in zip(
        transducer_at_50_digits(x, [2, 1], 0, LAMBDA)[:2], by_paths(x, [2, 1], 0, LAMBDA), strict=True
    ):
        close(ours, theirs, 1, span=6, dtype=np.float64)


@pytest.mark.exact
def test_derivatives_of_confident_sequences(rng, with_x64):
    """Those of the ordinary formula, in reverse, forward and twice."""
    y = jnp.asarray([2, 1], np.int32)
    x = jnp.asarray(confident(rng, [2, 1], 4, 6, nodes=3, classes=4), np.float64)
    direction = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    assert rnnt_loss(x, labels=y, blank_id=0) < 0.1

    @partial(jax.jit, static_argnums=0)
    def found(f, x):
        both = jax.jvp(jax.value_and_grad(f), (x,), (direction,))
        return both, jax.grad(lambda x: jax.jvp(f, (x,), (direction,))[1])(x)

    labels = np.asarray(y)
    ours, theirs = found(lambda x: rnnt_loss(x, labels=y, blank_id=0), x), found(lambda x: plain(x, labels, 0), x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        close(a, b, 1, span=6, dtype=np.float64)


def test_debuggers_report_nothing():
    x = jnp.zeros((3, 4, 3, 3)).at[..., 0].set(jnp.array([0.0, 1.0, 30.0])[:, None, None])
    y, frames, counts = jnp.array([[1, 2], [2, 2], [1, 1]]), jnp.array([4, 2, 0]), jnp.array([2, 0, 1])

    def total(x):
        return of_batch.__wrapped__(x, y, frames, counts).sum()

    error, _ = jax.jit(checkify.checkify(jax.value_and_grad(total), errors=checkify.float_checks))(x)
    error.throw()


@pytest.mark.exact
def test_never_negative():
    x = jnp.zeros((50, 3, 2)).at[..., 0].set(jnp.linspace(10, 30, 50)[:, None])
    x = x.at[3, 0].set(jnp.array([0.0, 25.0])).at[9, 1].set(jnp.array([0.0, 25.0]))
    losses = jax.jit(jax.vmap(lambda s: rnnt_loss(s * x, labels=jnp.array([1, 1]), blank_id=0)))(
        jnp.linspace(0.5, 9, 64)
    )
    assert (losses >= 0).all()
    assert not np.signbit(losses).any()


@pytest.mark.exact
@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision(dtype, rng):
    x, y = draw(rng, (2, 6, 4, 5), dtype)
    f = jax.jit(jax.value_and_grad(lambda x: rnnt_loss(x, labels=y, blank_id=0).sum()))
    loss, gradient = f(x)
    assert loss.dtype == np.float32
    assert gradient.dtype == dtype
    value, slope = f(x.astype(np.float32))
    same(loss, value)
    close(gradient, slope, 1, dtype=dtype)


# The joint.


def added(h, g):
    return jnp.tanh(h[..., :, None, :] + g[..., None, :, :])


def network(matrices):
    inner, outer = matrices

    def joint(h, g):
        return jnp.einsum("...k,kc->...c", added(h @ inner, g), outer, precision="highest")

    return joint


def parts(rng, size=(3,), frames=7, n=3, classes=5, dtype=np.float32):
    h, g = rng.standard_normal((*size, frames, 4)), rng.standard_normal((*size, n + 1, 6))
    weights = rng.standard_normal((4, 6)), rng.standard_normal((6, classes))
    y = jnp.asarray(rng.integers(1, classes, (*size, n)), np.int32)
    return *jax.tree.map(lambda a: jnp.asarray(a, dtype), (h, g, weights)), y


def dense(h, g, matrices, y, **options):
    return rnnt_loss(network(matrices)(h, g), labels=y, blank_id=0, **options)


def fused(h, g, matrices, y, **options):
    return rnnt_loss_with_joint(network(matrices), h, g, y, blank_id=0, **options)


@pytest.mark.parametrize("chunk_size", [3, None])
def test_joint_is_the_loss_of_its_logits(chunk_size, rng, with_x64):
    h, g, weights, y = parts(rng, dtype=np.float64)
    options = {
        "logit_lengths": jnp.asarray([7, 4, 5]),
        "label_lengths": jnp.asarray([3, 2, 0]),
        "weights": jnp.asarray([1.0, 2.0, 0.5]),
        "fastemit_lambda": LAMBDA,
        "reduction": "mean",
    }
    for kwargs in (options,) if chunk_size else ({}, options):
        found, expected = (
            jax.jit(jax.value_and_grad(lambda *a, f=f, kw=kwargs: f(*a, y, **kw).sum(), (0, 1, 2)))(h, g, weights)
            for f in (partial(fused, chunk_size=chunk_size), dense)
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            same(a, b, dtype=np.float64, span=10)


def test_joint_in_every_mode(rng, with_x64):
    h, g, weights, y = parts(rng, size=(2,), frames=5, n=2, dtype=np.float64)
    point = h, g, weights
    direction = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), point)

    def of(f, **options):
        return lambda point: f(*point, y, **options).sum()

    a, b = of(fused, chunk_size=2), of(dense)
    for mode in (
        lambda f: jax.jvp(jax.value_and_grad(f), (point,), (direction,)),
        lambda f: jax.grad(lambda p: jax.jvp(f, (p,), (direction,))[1])(point),
    ):
        found, expected = jax.jit(mode, static_argnums=0)(a), jax.jit(mode, static_argnums=0)(b)
        for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            same(mine, theirs, dtype=np.float64, span=30)
    each = jax.jit(jax.vmap(lambda h, g, y: fused(h, g, weights, y, chunk_size=2)))(h, g, y)
    same(each, jax.jit(dense)(*point, y), dtype=np.float64, span=10)


def test_joint_never_meets_what_is_padded(rng):
    h, g, weights, y = parts(rng)
    frames, counts = jnp.asarray([7, 4, 5]), jnp.asarray([3, 2, 0])
    kept = jnp.asarray([True, True, False])
    options = {"logit_lengths": frames, "label_lengths": counts, "where": kept}
    there = tuple((jnp.arange(m)[None] < n[:, None]) & kept[:, None] for m, n in ((7, frames), (4, counts + 1)))
    rubbish = [jnp.where(mask[..., None], a, jnp.nan) for mask, a in zip(there, (h, g), strict=True)]
    f = jax.jit(jax.value_and_grad(lambda *a: fused(*a, y, chunk_size=3, **options).sum(), (0, 1, 2)))
    found, expected = f(*rubbish, weights), f(h, g, weights)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not found[1][0][~there[0]].any()
    assert found[1][0][there[0]].all()


def test_joint_without_frames_or_labels(rng):
    h, g, weights, y = parts(rng, frames=0)
    losses, gradient = jax.jit(jax.value_and_grad(lambda g: fused(h, g, weights, y).sum()))(g)
    np.testing.assert_array_equal(losses, np.inf)
    assert not gradient.any()
    h, g, weights, y = parts(rng, n=0)
    same(jax.jit(partial(fused, chunk_size=2))(h, g, weights, y), jax.jit(dense)(h, g, weights, y), span=10)


def test_joint_in_half_precision(rng):
    h, g, weights, y = parts(rng, dtype=jnp.bfloat16)

    def joint(h, g):
        return added(h @ weights[0], g) @ weights[1]

    def of_joint(h):
        return rnnt_loss_with_joint(joint, h, g, y, blank_id=0, chunk_size=2).sum()

    def of_logits(h):
        return rnnt_loss(joint(h, g), labels=y, blank_id=0).sum()

    (loss, gradient), (value, slope) = (jax.jit(jax.value_and_grad(f))(h) for f in (of_joint, of_logits))
    assert loss.dtype == np.float32
    assert gradient.dtype == jnp.bfloat16
    same(loss, value, span=10)
    same(gradient, slope, dtype=jnp.bfloat16)


# Memory.


def temporaries(f, *arguments):
    return jax.jit(f).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_joint_needs_a_small_part_of_the_logits(rng):
    h, g, weights, y = parts(rng, (4,), frames=64, n=15, classes=256)
    logits = 4 * 4 * 64 * 16 * 256
    many, few = (
        temporaries(jax.value_and_grad(lambda *a, f=f, kw=kw: f(*a, y, **kw).sum(), (0, 1, 2)), h, g, weights)
        for f, kw in ((dense, {}), (fused, {"chunk_size": 1}))
    )
    assert few < logits / 4
    assert many > logits


def test_saved_are_logits_and_some_numbers_a_node(rng):
    x, y = draw(rng, (4, 20, 8, 256), jnp.bfloat16)
    nodes = 4 * 4 * 20 * 8
    for lengths in ({}, {"logit_lengths": jnp.full(4, 18)}):
        _, pull = jax.vjp(lambda x, kw=lengths: rnnt_loss(x, labels=y, blank_id=0, **kw), x)
        saved = [a for a in jax.tree.leaves(pull) if hasattr(a, "nbytes")]
        assert sum(a.size >= x.size for a in saved) == 1
        assert sum(a.nbytes for a in saved) < x.nbytes + 16 * nodes
    f = jax.value_and_grad(lambda x: rnnt_loss(x, labels=y, blank_id=0).sum())
    x = x.astype(np.float32)
    assert temporaries(f, x) < x.nbytes / 4


# What is said of calls that are wrong.


@pytest.mark.parametrize(
    ("kwargs", "error", "sentence"),
    [
        (
            {"labels": None},
            TypeError,
            "expected `labels` to be an array, got None; pass `labels=`.",
        ),
        ({"labels": jnp.ones((2, 2))}, TypeError, "expected `labels` of an integer dtype, got float32."),
        (
            {"labels": jnp.ones((2, 3), np.int32)},
            ValueError,
            "expected `labels` of shape (2, 2), got (2, 3); n + 1 is 3 in logits of shape (2, 4, 3, 5).",
        ),
        ({"blank_id": 5}, ValueError, "expected `blank_id` to be an integer in [-5, 5), got 5."),
        ({"blank_id": True}, ValueError, "expected `blank_id` to be an integer in [-5, 5), got True."),
        ({"logit_lengths": jnp.ones(3, np.int32)}, ValueError, "expected `logit_lengths` of shape (2,), got (3,)."),
        ({"label_paddings": jnp.ones((2, 4))}, ValueError, "expected `label_paddings` of shape (2, 2), got (2, 4)."),
        (
            {"logit_paddings": jnp.ones((2, 4)), "logit_lengths": jnp.ones(2, np.int32)},
            ValueError,
            "expected `logit_paddings` or `logit_lengths`, got both.",
        ),
        (
            {"fastemit_lambda": jnp.ones(3)},
            ValueError,
            "expected `fastemit_lambda` of a shape that broadcasts to (2,), got (3,).",
        ),
        (
            {"where": jnp.ones(2)},
            TypeError,
            "expected `where` of dtype bool, got float32; pass `where != 0`, or numbers as `weights`.",
        ),
        (
            {"reduction": "avg"},
            ValueError,
            "expected `reduction` to be one of ('none', 'sum', 'mean'), got 'avg'.",
        ),
    ],
)
def test_errors(kwargs, error, sentence):
    given = {"labels": jnp.ones((2, 2), np.int32), "blank_id": 0} | kwargs
    calls = {
        "rnnt_loss": lambda: rnnt_loss(jnp.zeros((2, 4, 3, 5)), **given),
        "rnnt_loss_with_joint": lambda: rnnt_loss_with_joint(
            added, jnp.zeros((2, 4, 5)), jnp.zeros((2, 3, 5)), **given
        ),
    }
    for name, call in calls.items():
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value) == f"{name}: {sentence}"


def test_logits_of_frames_first_are_named():
    with pytest.raises(ValueError, match=r"got \(2, 2\)\. Logits are batch first: use `jnp.swapaxes\(logits, 0, 1\)`"):
        rnnt_loss(jnp.zeros((4, 2, 3, 5)), labels=jnp.ones((2, 2), np.int32), blank_id=0)


def test_errors_of_one_form(rng):
    y, h, g = jnp.ones((2, 2), np.int32), jnp.zeros((2, 4, 5)), jnp.zeros((2, 3, 5))
    with pytest.raises(ValueError, match=r"`logits` of shape \(..., frames, n \+ 1, classes\), got \(4, 5\)."):
        rnnt_loss(h[0], labels=y, blank_id=0)
    with pytest.raises(TypeError, match=r"expected `logits` of a floating dtype, got int32."):
        rnnt_loss(jnp.zeros((2, 4, 3, 5), np.int32), labels=y, blank_id=0)
    for arguments, error, sentence in (
        ((added, h[0, 0], g, y), ValueError, r"`encoded` of shape \(..., frames, features\), got \(5,\)."),
        ((added, h, g[0], y), ValueError, r"`predicted` of shape \(2, n \+ 1, features\), got \(3, 5\)."),
        ((added, y, g, y), TypeError, r"expected `encoded` of a floating dtype, got int32."),
        ((lambda h, g: h, h, g, y), ValueError, r"return logits of shape \(2, 4, 3, classes\), got \(2, 4, 5\)."),
        ((lambda h, g: added(h, g) > 0, h, g, y), TypeError, r"return logits of a floating dtype, got"),
    ):
        with pytest.raises(error, match=sentence):
            rnnt_loss_with_joint(*arguments, blank_id=0)
    with pytest.raises(ValueError, match=r"`chunk_size` to be a positive integer, got 0."):
        rnnt_loss_with_joint(added, h, g, y, blank_id=0, chunk_size=0)
