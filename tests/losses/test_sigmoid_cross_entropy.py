"""The sigmoid cross entropy against the textbook at 360 digits."""

import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from cases import SIGMOID_OPTIONS
from logits import DTYPES, EXTREMES, check_derivatives, finite_in, wide, with_dtype
from oracles import (
    exact,
    sigmoid_binary_cross_entropy,
)
from tolerances import close

import jaxloss

pytestmark = pytest.mark.exact


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_sigmoid_over_the_whole_domain(dtype):
    with with_dtype(dtype):
        values = finite_in(dtype, EXTREMES)
        labels = finite_in(dtype, [0.0, 0.25, 0.9, 1.0])
        pairs = np.array(list(itertools.product(values, labels)))
        x, t = jnp.asarray(pairs[:, 0], dtype), jnp.asarray(pairs[:, 1], dtype)
        ours, pull = jax.vjp(jaxloss.sigmoid_binary_cross_entropy, x, t)
        by_logits, by_labels = pull(jnp.ones_like(ours))
        for i, (logit, label) in enumerate(pairs):
            truth, terms = exact(sigmoid_binary_cross_entropy, logit, label)
            close(ours[i], truth, terms, span=abs(logit), dtype=wide(dtype))
            yes, no = 1 / (1 + mp.exp(-mp.mpf(logit))), 1 / (1 + mp.exp(mp.mpf(logit)))
            p = mp.mpf(label)
            close(by_logits[i], yes * (1 - p) - no * p, yes * (1 - p) + no * p, span=abs(logit), dtype=dtype)
            close(
                by_labels[i],
                -logit,
                2 * exact(sigmoid_binary_cross_entropy, logit, 0.5)[0],
                span=abs(logit),
                dtype=dtype,
            )


@pytest.mark.parametrize("order", [1, 2])
def test_every_derivative_of_sigmoid_binary_cross_entropy(order):
    def ours(v):
        return jaxloss.sigmoid_binary_cross_entropy(v[0], v[1], **dict(zip(SIGMOID_OPTIONS, v[2:], strict=True)))

    def truth(v):
        return exact(sigmoid_binary_cross_entropy, v[0], v[1], **dict(zip(SIGMOID_OPTIONS, v[2:], strict=True)))[0]

    check_derivatives(ours, truth, np.array([0.7, 0.3, *SIGMOID_OPTIONS.values()], np.float32), order)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e19, 1e30])
def test_labels_may_have_any_size(size):
    truth, terms = np.log1p(np.exp(2.0)) - 2 * size, np.log1p(np.exp(2.0)) + 2 * size
    close(jaxloss.sigmoid_binary_cross_entropy(jnp.float32(2), jnp.float32(size)), truth, terms, span=2)
