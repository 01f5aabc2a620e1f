"""Beside optax, PyTorch and Keras, where they are right. Each needs its package; `pip install jaxloss[peers]`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import same

import jaxloss

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


@pytest.mark.filterwarnings("ignore")
def test_keras(data):
    keras = pytest.importorskip("keras")
    x, y, t, bits = data
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        pairs = [
            (INTEGER(x, y), keras.losses.sparse_categorical_crossentropy(y, x, from_logits=True)),
            (
                DENSE(x, t, label_smoothing=0.1),
                keras.losses.categorical_crossentropy(t, x, from_logits=True, label_smoothing=0.1),
            ),
            (
                SIGMOID(x, bits, label_smoothing=0.1).mean(-1),
                keras.losses.binary_crossentropy(bits, x, from_logits=True, label_smoothing=0.1),
            ),
        ]
    for ours, theirs in pairs:
        same(ours, theirs, span=20)
