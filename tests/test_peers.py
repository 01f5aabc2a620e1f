"""Beside optax and PyTorch, where they are right (Keras: test_migration.py). `pip install jaxloss[peers]`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import same

import jaxloss

pytest.importorskip("torch")  # with PyTorch, all of it; the other tests do without

N, C = 12, 9
INTEGER, DENSE = jaxloss.softmax_cross_entropy_with_integer_labels, jaxloss.softmax_cross_entropy
SIGMOID = jaxloss.sigmoid_binary_cross_entropy


@pytest.fixture
def data(rng):
    x = jnp.asarray(rng.normal(size=(N, C)) * 3, np.float32)
    y = jnp.asarray(rng.integers(C, size=N), np.int32)
    t = rng.random((N, C))
    return x, y, jnp.asarray(t / t.sum(-1, keepdims=True), np.float32), jnp.asarray(rng.random((N, C)), np.float32)


def with_gradient(f, x):
    losses, pull = jax.vjp(f, x)
    return losses, pull(jnp.ones_like(losses))[0]


def both_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        same(a, b, span=20)


@pytest.mark.parametrize("axis", [-1, 0, (0, 1), None])
def test_optax_takes_the_same_call(data, axis):
    optax = pytest.importorskip("optax")
    x, y, t, bits = data
    theirs = optax.losses
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if axis == -1:
            for where in (None, y != 3, x < 2):
                both_same(
                    with_gradient(lambda x, w=where: INTEGER(x, y, -1, w), x),
                    with_gradient(lambda x, w=where: theirs.softmax_cross_entropy_with_integer_labels(x, y, -1, w), x),
                ) if where is None or where.ndim == 1 else None
                both_same(
                    with_gradient(lambda x, w=where: DENSE(x, t, -1, w), x),
                    with_gradient(lambda x, w=where: theirs.softmax_cross_entropy(x, t, -1, w), x),
                )
            both_same(
                with_gradient(lambda x: jaxloss.safe_softmax_cross_entropy(x, t), x),
                with_gradient(lambda x: theirs.safe_softmax_cross_entropy(x, t), x),
            )
            both_same(
                with_gradient(lambda x: SIGMOID(x, bits), x),
                with_gradient(lambda x: theirs.sigmoid_binary_cross_entropy(x, bits), x),
            )
        both_same(
            with_gradient(lambda x: DENSE(x, t, axis), x),
            with_gradient(lambda x: theirs.softmax_cross_entropy(x, t, axis), x),
        )
        if axis is not None:
            labels = {-1: y, 0: y[:C], (0, 1): y[0]}[axis]
            both_same(
                with_gradient(lambda x: INTEGER(x, labels, axis), x),
                with_gradient(lambda x: theirs.softmax_cross_entropy_with_integer_labels(x, labels, axis), x),
            )
            same(jaxloss.smooth_labels(t, 0.1, axis=axis), theirs.smooth_labels(t, 0.1, axis=axis))


@pytest.fixture
def positive(rng):
    return jnp.asarray(rng.uniform(0.1, 3, (N, C)), np.float32)


def test_optax_takes_the_same_call_of_the_textbooks_losses(data, positive):
    optax = pytest.importorskip("optax")
    x, y, t, bits = data
    signs, lq = jnp.sign(bits - 0.5), jax.nn.log_softmax(x)
    keep = positive > 1
    calls = {
        "squared_error": [lambda f, x: f(x, bits), lambda f, x: f(x)],
        "l2_loss": [lambda f, x: f(x, bits), lambda f, x: f(x)],
        "huber_loss": [lambda f, x: f(x, bits, delta=0.7), lambda f, x: f(x)],
        "log_cosh": [lambda f, x: f(x, bits), lambda f, x: f(x)],
        "hinge_loss": [lambda f, x: f(x, signs), lambda f, x: f(predictor_outputs=x, targets=signs)],
        "perceptron_loss": [lambda f, x: f(x, signs), lambda f, x: f(predictor_outputs=x, targets=signs)],
        "multiclass_hinge_loss": [lambda f, x: f(x, y), lambda f, x: f(scores=x, labels=y)],
        "multiclass_perceptron_loss": [lambda f, x: f(x, y), lambda f, x: f(scores=x, labels=y)],
        "cosine_similarity": [
            lambda f, x: f(x, positive),
            lambda f, x: f(x, positive, axis=0),
            lambda f, x: f(x, positive, axis=None),
            lambda f, x: f(x, positive, epsilon=100.0),
            lambda f, x: f(x, positive, where=keep),
        ],
        "cosine_distance": [lambda f, x: f(x, positive), lambda f, x: f(x, positive, epsilon=100.0, axis=0)],
        "kl_divergence": [
            lambda f, x: f(x, t),
            lambda f, x: f(x, t, 0),
            lambda f, x: f(x, t, None),
            lambda f, x: f(x, t, -1, keep),
        ],
        "kl_divergence_with_log_targets": [lambda f, x: f(x, lq), lambda f, x: f(x, lq, (0, 1), keep)],
        "generalized_kl_divergence": [lambda f, x: f(x, t), lambda f, x: f(x, t, 0, keep)],
    }
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name, ways in calls.items():
            for call in ways:
                losses = getattr(jaxloss, name), getattr(optax.losses, name)
                both_same(*(with_gradient(lambda x, f=f, c=call: c(f, x), x) for f in losses))


def torch_gradient(torch, f, x):
    logits = torch.tensor(np.asarray(x), requires_grad=True)
    value = f(logits)
    value.sum().backward()
    return value.detach().numpy(), logits.grad.numpy()


def test_torch(data, rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, y, t, bits = data
    ty, tt, tb = (torch.tensor(np.asarray(a)) for a in (y.astype(np.int32), t, bits))
    ty = ty.long()
    ignored = y.at[::4].set(-100)
    table = jnp.asarray(rng.random(C) + 0.5, np.float32)
    ttable, tignored = torch.tensor(np.asarray(table)), torch.tensor(np.asarray(ignored)).long()
    pairs = [
        (lambda x: INTEGER(x, y), lambda x: functional.cross_entropy(x, ty, reduction="none")),
        (
            lambda x: INTEGER(x, y, label_smoothing=0.2),
            lambda x: functional.cross_entropy(x, ty, reduction="none", label_smoothing=0.2),
        ),
        (
            lambda x: INTEGER(x, ignored, where=ignored != -100, class_weights=table, reduction="mean"),
            lambda x: functional.cross_entropy(x, tignored, weight=ttable),
        ),
        (lambda x: DENSE(x, t), lambda x: functional.cross_entropy(x, tt, reduction="none")),
        (
            lambda x: SIGMOID(x, bits, pos_weight=table),
            lambda x: functional.binary_cross_entropy_with_logits(x, tb, pos_weight=ttable, reduction="none"),
        ),
        (
            lambda x: SIGMOID(x, bits, weights=table, reduction="sum"),
            lambda x: functional.binary_cross_entropy_with_logits(x, tb, weight=ttable, reduction="sum"),
        ),
    ]
    for ours, theirs in pairs:
        both_same(with_gradient(ours, x), torch_gradient(torch, theirs, x))


def test_torch_of_the_textbooks_losses(data, positive, rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, y, t, bits = data
    table = jnp.asarray(rng.random(C) + 0.5, np.float32)
    counts, lq, p = jnp.round(positive), jax.nn.log_softmax(x[::-1]), jax.nn.sigmoid(x)
    tt, tb, tpositive, tcounts, tlq, ttable = (
        torch.tensor(np.asarray(a)) for a in (t, bits, positive, counts, lq, table)
    )
    ty = torch.tensor(np.asarray(y)).long()
    each = {"reduction": "none"}
    pairs = [
        (lambda x: jaxloss.squared_error(x, bits), lambda x: functional.mse_loss(x, tb, **each), x),
        (lambda x: jaxloss.absolute_error(x, bits), lambda x: functional.l1_loss(x, tb, **each), x),
        (
            lambda x: jaxloss.huber_loss(x, bits, delta=0.7),
            lambda x: functional.huber_loss(x, tb, delta=0.7, **each),
            x,
        ),
        (
            lambda x: jaxloss.smooth_l1_loss(x, bits, beta=0.7),
            lambda x: functional.smooth_l1_loss(x, tb, beta=0.7, **each),
            x,
        ),
        (
            lambda x: jaxloss.poisson_nll_loss_with_log_rates(x, counts),
            lambda x: functional.poisson_nll_loss(x, tcounts, **each),
            x,
        ),
        (
            lambda x: jaxloss.poisson_nll_loss(x, counts),
            lambda x: functional.poisson_nll_loss(x, tcounts, log_input=False, eps=0, **each),
            positive + 0.1,
        ),
        (
            lambda x: jaxloss.gaussian_nll_loss(x, bits, variance=positive, full=True),
            lambda x: functional.gaussian_nll_loss(x, tb, tpositive, full=True, **each),
            x,
        ),
        (
            lambda x: C * jaxloss.reduce(jaxloss.squared_error(x, bits), weights=positive, reduction="none").mean(-1),
            lambda x: (functional.mse_loss(x, tb, **each) * tpositive).sum(-1),
            x,
        ),
        (
            lambda x: jaxloss.weston_watkins_hinge_loss(x, y, margin=0.7, power=2) / C,
            lambda x: functional.multi_margin_loss(x, ty, p=2, margin=0.7, **each),
            x,
        ),
        (
            lambda x: jaxloss.weston_watkins_hinge_loss(x, y, class_weights=table, reduction="sum") / C,
            lambda x: functional.multi_margin_loss(x, ty, weight=ttable, reduction="sum"),
            x,
        ),
        (lambda x: jaxloss.cosine_similarity(x, bits), lambda x: functional.cosine_similarity(x, tb, -1), x),
        (lambda x: jaxloss.kl_divergence(x, t), lambda x: functional.kl_div(x, tt, **each).sum(-1), x),
        (
            lambda x: jaxloss.kl_divergence_with_log_targets(x, lq),
            lambda x: functional.kl_div(x, tlq, log_target=True, **each).sum(-1),
            x,
        ),
        (lambda x: jaxloss.binary_cross_entropy(x, bits), lambda x: functional.binary_cross_entropy(x, tb, **each), p),
    ]
    for ours, theirs, x in pairs:
        both_same(with_gradient(ours, x), torch_gradient(torch, theirs, x))


@pytest.mark.parametrize(("frames", "classes", "labels"), [(30, 7, 6), (300, 40, 30)])
def test_ctc_of_torch_in_float64(frames, classes, labels, rng):
    """In float32 PyTorch's gradient has errors of 1e-3 at 800 frames."""
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(5, frames, classes)).astype(np.float32)
    y = rng.integers(1, classes, size=(5, labels))
    lengths, counts = rng.integers(2 * labels + 1, frames + 1, size=5), rng.integers(0, labels + 1, size=5)
    logits = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    log_p = logits.log_softmax(-1).transpose(0, 1)
    given = torch.tensor(y), torch.tensor(lengths), torch.tensor(counts)
    theirs = torch.nn.functional.ctc_loss(log_p, *given, reduction="none")
    theirs.sum().backward()

    def ours(x):
        return jaxloss.ctc_loss(
            x, labels=jnp.asarray(y), logit_lengths=jnp.asarray(lengths), label_lengths=jnp.asarray(counts)
        )

    losses, gradient = with_gradient(jax.jit(ours), jnp.asarray(x))
    same(losses, theirs.detach().numpy())
    same(gradient, logits.grad.numpy(), span=frames)
    mean = torch.nn.functional.ctc_loss(log_p, *given, reduction="mean")
    weights = 1 / (len(counts) * np.maximum(counts, 1)).astype(np.float32)  # as the docstring of ctc_loss has it
    same(jaxloss.reduce(losses, weights=weights, reduction="sum"), mean.item())


def test_where_optax_and_torch_are_wrong_ctc_is_right():
    """Impossible alignments, legal ones of a blank at -3e5, a logit of -inf of a class that no one needs."""
    optax = pytest.importorskip("optax")
    x, y = jnp.array([[[1.0, 2.0, 3.0]]]), jnp.array([[1, 2]])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = jax.grad(lambda x: optax.ctc_loss(x, jnp.zeros((1, 1)), y, jnp.zeros((1, 2))).sum())(x)
        assert theirs.any()
        unused = jnp.array([[[1.0, 2.0, -jnp.inf]] * 2])
        assert np.isnan(optax.ctc_loss(unused, jnp.zeros((1, 2)), y[:, :1], jnp.zeros((1, 1)))).all()
    loss, gradient = jax.value_and_grad(lambda x: jaxloss.ctc_loss(x, labels=y).sum())(x)
    assert loss == jnp.inf
    assert not gradient.any()
    same(jaxloss.ctc_loss(unused, labels=y[:, :1]), jaxloss.ctc_loss(unused[..., :2], labels=y[:, :1]))
