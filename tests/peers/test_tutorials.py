"""The numbers that tutorials of TensorFlow, Keras, PyTorch and NumPy print, and the gradients they derive by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import as_printed, same

import jaxloss

MSE_ROWS = (jax.nn.one_hot(np.array([1, 3, 0, 3, 4]), 5), jax.nn.one_hot(np.array([2, 4, 4, 0, 2]), 5))
THIRD, SECOND = jnp.array([0.1, 0.05, 0.05, 0.8]), jnp.array([0.1, 0.8, 0.05, 0.05])
TARGET = jnp.array([0.0, 1.0, 0.0, 0.0])

PRINTED = [
    (lambda: jaxloss.squared_error(*MSE_ROWS).mean(-1), [0.4, 0.4, 0.4, 0.4, 0.4]),
    (lambda: jaxloss.squared_error(*MSE_ROWS, reduction="mean"), 0.4),
    (lambda: cross_entropy([0.1, 0.7, 0.05, 0.05, 0.1], [0, 1, 0, 0, 0]), 0.35667497),
    (lambda: cross_entropy([0.1, 0.7, 0.05, 0.05, 0.1], 1), 0.35667497),
    (lambda: cross_entropy([0, 0.6, 0.2, 0.1, 0.1], [0, 1, 0, 0, 0]), 0.5108256),
    (lambda: cross_entropy([0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0]), 1.3862944),
    (lambda: cross_entropy([0.1, 0.1, 0.7, 0.1], [0, 1, 0, 0]), 2.3025851),
    (lambda: cross_entropy([0.1, 0.7, 0.1, 0.1], [0, 1, 0, 0]), 0.35667494),
    (lambda: jaxloss.binary_cross_entropy(jnp.array([0.9, 0.1]), jnp.array([1, 0]), reduction="mean"), 0.1053605),
    (lambda: jaxloss.binary_cross_entropy(jnp.array([0.1, 0.9]), jnp.array([1, 0]), reduction="mean"), 2.3025851),
    (lambda: jaxloss.sum_of_squares_error(THIRD, TARGET), 0.7775),
    (lambda: jaxloss.sum_of_squares_error(SECOND, TARGET), 0.0275),
    (lambda: jaxloss.categorical_cross_entropy(THIRD, TARGET), 2.9957323),
    (lambda: jaxloss.categorical_cross_entropy(SECOND, TARGET), 0.2231436),
    # printed as 1.1920922e-06, a multiple of eps: the rest was rounded away
    (lambda: logits([5.236802, 18.843138], [0, 1]), 1.2326598e-06),
    (lambda: logits([5.236802, 18.843138], 1), 1.2326598e-06),
]


def cross_entropy(probabilities, labels):
    probabilities = jnp.array(probabilities, np.float32)
    if isinstance(labels, int):
        return jaxloss.categorical_cross_entropy_with_integer_labels(probabilities, jnp.int32(labels))
    return jaxloss.categorical_cross_entropy(probabilities, jnp.array(labels, np.float32))


def logits(logits, labels):
    logits = jnp.array(logits, np.float32)
    if isinstance(labels, int):
        return jaxloss.softmax_cross_entropy_with_integer_labels(logits, jnp.int32(labels))
    return jaxloss.softmax_cross_entropy(logits, jnp.array(labels, np.float32))


@pytest.mark.parametrize(("ours", "printed"), PRINTED)
def test_printed_numbers(ours, printed):
    as_printed(ours(), printed)


@pytest.fixture
def layer(rng):
    """Weight [classes, features] and bias of a linear layer, as PyTorch has them; inputs; labels."""
    weight, bias = (jnp.asarray(rng.normal(size=s), np.float32) for s in ((4, 3), (4,)))
    x, y = jnp.asarray(rng.normal(size=(6, 3)), np.float32), jnp.asarray(rng.integers(4, size=6), np.int32)
    return (weight, bias), x, y


def forward(parameters, x):
    weight, bias = parameters
    return x @ weight.T + bias[None]


def test_gradients_through_softmax_cross_entropy_are_p_minus_t(layer):
    parameters, x, y = layer
    integer, dense = jaxloss.softmax_cross_entropy_with_integer_labels, jaxloss.softmax_cross_entropy
    t = jax.nn.one_hot(y, 4)
    error = (jax.nn.softmax(forward(parameters, x)) - t) / len(x)
    for loss, labels in ((integer, y), (dense, t)):
        ours = jax.grad(lambda p, f=loss, t=labels: f(forward(p, x), t, reduction="mean"))(parameters)
        same(ours[0], error.T @ x, span=10)
        same(ours[1], error.sum(0), span=10)


def mse_of_softmax(parameters, x, t):
    return jaxloss.squared_error(jax.nn.softmax(forward(parameters, x)), t, reduction="mean")


def test_gradients_through_the_mse_of_a_softmax(layer):
    parameters, x, y = layer
    t = jax.nn.one_hot(y, 4)
    p = jax.nn.softmax(forward(parameters, x))
    by_p = 2 * (p - t) / p.size
    error = p * (by_p - (by_p * p).sum(-1, keepdims=True))
    ours = jax.grad(mse_of_softmax)(parameters, x, t)
    same(ours[0], error.T @ x, span=10)
    same(ours[1], error.sum(0), span=10)


def test_the_same_gradients_in_torch(layer):
    torch = pytest.importorskip("torch")
    (weight, bias), x, y = layer
    t = jax.nn.one_hot(y, 4)
    tx, ty, tt = torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y)).long(), torch.tensor(np.asarray(t))
    functional = torch.nn.functional
    pairs = [
        (
            lambda p: jaxloss.softmax_cross_entropy_with_integer_labels(forward(p, x), y, reduction="mean"),
            lambda z: functional.cross_entropy(z, ty),
        ),
        (lambda p: mse_of_softmax(p, x, t), lambda z: functional.mse_loss(z.softmax(-1), tt)),
    ]
    for ours, theirs in pairs:
        parameters = [torch.tensor(np.asarray(a), requires_grad=True) for a in (weight, bias)]
        theirs(functional.linear(tx, *parameters)).backward()
        for a, b in zip(jax.grad(ours)((weight, bias)), parameters, strict=True):
            same(a, b.grad, span=10)
