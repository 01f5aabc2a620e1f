"""Logits over the whole domain of a dtype, and derivatives of first and second order in every mode."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from oracles import (
    derivatives,
)
from tolerances import close

DTYPES = [np.float32, np.float64, jnp.bfloat16, np.float16]


EXTREMES = [-1e30, -3e4, -200.0, -90.0, -17.0, -1.0, -1e-6, 0.0, 1e-6, 0.5, 13.6, 88.0, 104.0, 1e6, 1e30]


def finite_in(dtype, values):
    """The values as the dtype has them, without those that it has not."""
    with np.errstate(over="ignore"):
        return [float(v) for v in np.asarray(values, dtype).astype(np.float64) if np.isfinite(v)]


def with_dtype(dtype):
    return jax.enable_x64(dtype == np.float64)


def wide(dtype):
    return np.float64 if dtype == np.float64 else np.float32


def hard_rows(dtype, classes):
    """Rows of that many extremes: all of two, a choice of more, with ties, tails, confident and confidently wrong."""
    values = finite_in(dtype, EXTREMES)
    if classes == 2:
        return np.array(list(itertools.product(values, repeat=2)))
    rng = np.random.default_rng(classes)
    few = rng.choice(values, size=(60, classes))
    far = (
        rng.normal(size=(20, classes))
        + rng.choice([0, 40, 90], size=(20, 1)) * np.eye(classes)[rng.integers(classes, size=20)]
    )
    return np.concatenate([few, far]).astype(dtype).astype(np.float64)


def check_derivatives(ours, truth, point, order):
    expected = np.array([float(d) for d in derivatives(truth, point, order)])
    # A derivative of a composition is a sum of products of the derivatives below it; their size bounds its terms.
    terms = max(1.0, np.abs(expected).max())
    x = jnp.asarray(point)
    modes = [jax.jacfwd(ours), jax.jacrev(ours)]
    if order == 2:
        modes = [jax.jacfwd(modes[1]), jax.jacrev(modes[0]), jax.jacrev(modes[1]), jax.jacfwd(modes[0])]
    for mode in modes:
        close(jax.jit(mode)(x).ravel(), expected, terms, span=np.abs(point).max(), dtype=np.float32)
