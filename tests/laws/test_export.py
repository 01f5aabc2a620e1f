"""Export with symbolic sizes: one program for batches of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CALLS, over_calls
from jax import export
from tolerances import same

import jaxloss

SIZES = 1, 5  # of which one is fewer than a chunk, the other several and a part


@over_calls(CALLS, "huber_loss-delta", "linear_cross_entropy", "ntxent", "ctc_loss")
def test_a_symbolic_batch(call):
    size = export.symbolic_shape("b")
    arrays = call.draw(np.random.default_rng(0), 3)
    specs = [
        jax.ShapeDtypeStruct((*(size if batched else a.shape[:1]), *a.shape[1:]), a.dtype)
        for a, batched in zip(arrays, call.batched, strict=True)
    ]
    program = export.export(jax.jit(call.function))(*specs)
    for n in SIZES:
        arrays = call.draw(np.random.default_rng(n), n)
        for ours, expected in zip(*(jax.tree.leaves(f(*arrays)) for f in (program.call, call.function)), strict=True):
            same(ours, expected, span=10)


def _check(function, program, arrays):
    for ours, expected in zip(*(jax.tree.leaves(f(*arrays)) for f in (program.call, function)), strict=True):
        same(ours, expected, span=20)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_symbolic_batch_and_tokens_with_a_gradient(reduction, rng):
    def value_and_gradients(hidden, weight, labels):
        def loss(hidden, weight):
            return jaxloss.linear_cross_entropy(hidden, weight, labels, reduction=reduction, chunk_size=8).sum()

        return jax.value_and_grad(loss, (0, 1))(hidden, weight)

    shapes = export.symbolic_args_specs(
        (np.zeros((1, 1, 4), np.float32), np.zeros((4, 7), np.float32), np.zeros((1, 1), np.int32)),
        ("b, t, 4", "4, 7", "b, t"),
    )
    program = export.export(jax.jit(value_and_gradients))(*shapes)
    weight = jnp.asarray(rng.normal(size=(4, 7)), np.float32)
    for b, t in [(1, 1), (2, 3), (5, 11)]:
        hidden = jnp.asarray(rng.normal(size=(b, t, 4)), np.float32)
        _check(value_and_gradients, program, (hidden, weight, jnp.asarray(rng.integers(7, size=(b, t)), np.int32)))


@pytest.mark.parametrize("loss", [jaxloss.ctc_loss, jaxloss.ctc_align])
def test_symbolic_frames(loss, rng):
    def function(x, y):
        return loss(x, labels=y)

    program = export.export(jax.jit(function))(
        *export.symbolic_args_specs((np.zeros((2, 9, 5), np.float32), np.zeros((2, 3), np.int32)), ("2, t, 5", "2, 3"))
    )
    for t in (6, 9, 20):
        x = jnp.asarray(rng.normal(size=(2, t, 5)), np.float32)
        _check(function, program, (x, jnp.asarray(rng.integers(1, 5, size=(2, 3)), np.int32)))
