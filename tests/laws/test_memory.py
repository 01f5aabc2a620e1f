"""What a loss keeps for its gradient, and what compilers for accelerators say that it needs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, every_case, over
from jax.sharding import SingleDeviceSharding

import jaxloss
from benchmarks.targets import devices_of, needs

N, C = 64, 96
ROW_NUMBERS = 16  # at most that many numbers a row
of_logits = over([case for case in CASES if case.name.startswith(("softmax_cross", "safe"))])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@every_case
def test_saved_are_predictions_targets_and_a_few_numbers_a_row(case, dtype, rng):
    x, t = case.draw(rng, N, classes=C, dtype=dtype)
    where = jnp.asarray(rng.random(N) < 0.5)
    # Elsewhere a mask is a select before and after the loss, and outside of jit JAX keeps zeros for each.
    for kwargs in ({}, {"where": where}) if "softmax" in case.name else ({},):
        _, pull = jax.vjp(lambda x, t=t, kw=kwargs: case(x, t, **kw, reduction="mean"), x)
        saved = jax.tree.leaves(pull)
        third = case.call is not None and case.name != "cosine_embedding_loss"  # an array of the size of x
        assert sum(a.size >= N * C for a in saved) <= 1 + (t.size == x.size) + third
        assert sum(a.nbytes for a in saved) <= (1 + third) * x.nbytes + t.nbytes + where.nbytes + 4 * N * ROW_NUMBERS
        assert not any(a.size >= N * C and a.dtype == np.float32 for a in saved) or dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("target", ["v5e", "h200"])
@of_logits
def test_no_second_array_of_logits_on_an_accelerator(case, target, dtype):
    """Compiled for a v5e and an H200, without one: the temporaries are a small part of the logits."""
    pytest.importorskip(needs(target))
    device = SingleDeviceSharding(devices_of(target)[0])
    n, classes = 2048, 32_000
    x = jax.ShapeDtypeStruct((n, classes), dtype, sharding=device)
    t = jax.ShapeDtypeStruct((n,), np.int32, sharding=device) if case.targets == "index" else x
    where = jax.ShapeDtypeStruct((n,), np.bool_, sharding=device)

    # For a GPU, XLA keeps the capped logits between the two sums of the forward pass: a cap costs a temporary there.
    options = {"soft_cap": None} if target == "h200" and "soft_cap" in case.options else {}

    def mean(x, t, where):
        return case(x, t, where=where, reduction="mean", **options)

    memory = jax.jit(jax.value_and_grad(mean)).lower(x, t, where).compile().memory_analysis()
    assert memory.temp_size_in_bytes < n * classes * x.dtype.itemsize / 20


def test_the_exact_form_needs_little_more_than_the_inexact_one_on_a_cpu():
    x, y = jax.ShapeDtypeStruct((512, 4096), np.float32), jax.ShapeDtypeStruct((512,), np.int32)

    def mean(x, y):
        return jaxloss.softmax_cross_entropy_with_integer_labels(x, y, reduction="mean")

    memory = jax.jit(jax.value_and_grad(mean)).lower(x, y).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 512 * 4096 * 4 / 4


@over([case for case in CASES if not case.rows and case.name != "hinge_embedding_loss"])  # XLA parts its selects
def test_elements_are_read_once_on_an_accelerator(case):
    """Compiled for a v5e: value and gradient are one pass, so that three arrays are moved, not five."""
    pytest.importorskip(needs("v5e"))
    device = SingleDeviceSharding(devices_of("v5e")[0])
    x = jax.ShapeDtypeStruct((2048, 4096), np.float32, sharding=device)

    def mean(x, t):
        return case(x, t, reduction="mean")

    cost = jax.jit(jax.value_and_grad(mean)).lower(x, x).compile().cost_analysis()
    assert cost["bytes accessed"] < 3.5 * x.size * x.dtype.itemsize


def linear(reduction):
    def mean(hidden, weight, labels):
        return jaxloss.linear_cross_entropy(hidden, weight, labels, reduction=reduction).mean()

    return jax.jit(jax.value_and_grad(mean, (0, 1)))


def linear_shapes(tokens, features, classes, device):
    return (
        jax.ShapeDtypeStruct((tokens, features), jnp.bfloat16, sharding=device),
        jax.ShapeDtypeStruct((features, classes), jnp.bfloat16, sharding=device),
        jax.ShapeDtypeStruct((tokens,), np.int32, sharding=device),
    )


def naive(hidden, weight, labels):
    logits = jnp.matmul(hidden, weight, preferred_element_type=np.float32)
    return jaxloss.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")


def no_logits_in(text, tokens, classes):
    return not any({tokens, classes} <= set(map(int, shape.split(","))) for shape in re.findall(r"\[([0-9,]+)\]", text))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_no_logits_on_a_cpu(reduction):
    shapes = linear_shapes(4096, 512, 8000, None)
    compiled = linear(reduction).lower(*shapes).compile()
    assert no_logits_in(compiled.as_text(), 4096, 8000)
    with_logits = jax.jit(jax.value_and_grad(naive, (0, 1))).lower(*shapes).compile()
    assert not no_logits_in(with_logits.as_text(), 4096, 8000)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("target", ["v5e", "v6e", "h100", "h200"])
def test_no_logits_on_an_accelerator(target, reduction):
    """Beside the gradient of the weight in float32: an eighth of what the naive form needs."""
    pytest.importorskip(needs(target))
    device = SingleDeviceSharding(devices_of(target)[0])
    tokens, features, classes = 8192, 2048, 32_768

    def temporaries(tokens):
        compiled = linear(reduction).lower(*linear_shapes(tokens, features, classes, device)).compile()
        assert no_logits_in(compiled.as_text(), tokens, classes)
        return compiled.memory_analysis().temp_size_in_bytes

    shapes = linear_shapes(tokens, features, classes, device)
    with_logits = jax.jit(jax.value_and_grad(naive, (0, 1))).lower(*shapes).compile()
    accumulator, hidden, chunk = 4 * features * classes, 2 * tokens * features, 1024 * classes
    few = temporaries(tokens)
    eighth = with_logits.memory_analysis().temp_size_in_bytes / 8
    if target == "v6e":  # keeps the gradient of a chunk's logits twice
        eighth += 2 * chunk
    if reduction == "none" and target in ("v5e", "v6e"):
        eighth = 6 * chunk + 2 * hidden  # the logits of a chunk in float32, and copies of hidden
    assert few <= 1.01 * (accumulator + eighth)
    assert temporaries(2 * tokens) - few <= 2.2 * hidden
