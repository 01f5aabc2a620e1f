"""What a loss keeps for its gradient, and what compilers for accelerators say that it needs."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, every_case, over
from jax.sharding import SingleDeviceSharding

import jaxloss

N, C = 64, 96
ROW_NUMBERS = 16  # at most that many numbers a row
of_logits = over([case for case in CASES if case.name.startswith(("softmax", "safe"))])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@every_case
def test_saved_are_predictions_targets_and_a_few_numbers_a_row(case, dtype, rng):
    x, t = case.draw(rng, N, classes=C, dtype=dtype)
    where = jnp.asarray(rng.random(N) < 0.5)
    # Elsewhere a mask is a select before and after the loss, and outside of jit JAX keeps zeros for each.
    for kwargs in ({}, {"where": where}) if "softmax" in case.name else ({},):
        _, pull = jax.vjp(lambda x, t=t, kw=kwargs: case(x, t, **kw, reduction="mean"), x)
        saved = jax.tree.leaves(pull)
        assert sum(a.size >= N * C for a in saved) <= 1 + (t.size == x.size)
        assert sum(a.nbytes for a in saved) <= x.nbytes + t.nbytes + where.nbytes + 4 * N * ROW_NUMBERS
        assert not any(a.size >= N * C and a.dtype == np.float32 for a in saved) or dtype == np.float32


def topology(platform):
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_LOG_DIR": "disabled", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
    pytest.importorskip("libtpu" if platform == "tpu" else "jax_plugins.xla_cuda13")
    from jax.experimental import topologies

    if platform == "tpu":
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    config = (pathlib.Path(__file__).parent / "devices" / "h200.txtpb").read_text()
    return topologies.get_topology_desc(platform="cuda", target_config=config, topology="1x1x1")


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@of_logits
def test_no_second_array_of_logits_on_an_accelerator(case, platform, dtype):
    """Compiled for a v5e and an H200, without one: the temporaries are a small part of the logits."""
    device = SingleDeviceSharding(topology(platform).devices[0])
    n, classes = 2048, 32_000
    x = jax.ShapeDtypeStruct((n, classes), dtype, sharding=device)
    t = jax.ShapeDtypeStruct((n,), np.int32, sharding=device) if case.targets == "index" else x
    where = jax.ShapeDtypeStruct((n,), np.bool_, sharding=device)

    # For a GPU, XLA keeps the capped logits between the two sums of the forward pass: a cap costs a temporary there.
    options = {"soft_cap": None} if platform == "cuda" and "soft_cap" in case.options else {}

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
