"""Special functions over their whole domains."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from logits import DTYPES, with_dtype
from tolerances import close

from jaxloss._core.special import soft_cap

pytestmark = pytest.mark.exact


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=lambda d: np.dtype(d).name)
def test_the_cap_has_its_derivatives_over_the_whole_domain(dtype):
    with with_dtype(dtype):
        for u in (1e-6, 1e-3, 0.1, 0.49, 0.51, 2.0, 8.0, 20.0, 43.0):
            x, cap = jnp.asarray(7 * u, dtype), jnp.asarray(7, dtype)
            exact = mp.mpf(float(x)) / 7
            truth = [mp.sech(exact) ** 2, mp.tanh(exact) - exact * mp.sech(exact) ** 2]
            for sign in (1, -1):
                by_x, by_cap = jax.grad(soft_cap, (0, 1))(sign * x, cap)
                close(by_x, truth[0], truth[0], span=2 * u, dtype=dtype)
                close(by_cap, sign * truth[1], truth[1], span=2 * u, dtype=dtype)
        assert jax.grad(soft_cap, (0, 1))(jnp.asarray(np.inf, dtype), cap) == (0, 1)
