"""JAX's debuggers report nothing on ordinary input."""

import jax
import numpy as np
from calls import BATCH, CALLS, over_calls
from jax.experimental import checkify

import jaxloss

CHECKS = checkify.float_checks | checkify.index_checks


# They scatter in a backward pass. JAX's index checks raise at any scatter under `jax.checkpoint` (0.10 to 0.12).
BY_INDEX = ("indexed_labels", "top_k_targets", "plackett_luce_loss", "semi_hard_triplet_loss")


@over_calls(CALLS, left_out=())
def test_checkify_is_silent(call, rng):
    total, x = call.of_first(call.draw(rng, BATCH))
    checks = checkify.float_checks if call.name.endswith(BY_INDEX) else CHECKS
    error, _ = jax.jit(checkify.checkify(jax.value_and_grad(total) if call.differentiable else total, checks))(x)
    error.throw()


# The logarithms of what is impossible are a result of the first; JAX takes constants out of the scan of the second.
WITH_INFINITIES = {"ctc_loss_with_forward_probs", "rnnt_loss_with_joint"}


@over_calls(CALLS)
def test_flags_are_silent(call, rng):
    total, x = call.of_first(call.draw(rng, BATCH))
    with jax.debug_nans(True), jax.debug_infs(call.name not in WITH_INFINITIES):
        jax.grad(total)(x) if call.differentiable else total(x)


def test_what_is_excluded_by_its_weight_is_silent(rng):
    x, y = np.float32(rng.normal(size=(3, 4))), np.array([1, -100, 2])
    with jax.debug_nans(True):
        jax.grad(lambda x: jaxloss.softmax_cross_entropy_with_integer_labels(x, y, weights=y >= 0, reduction="mean"))(x)
