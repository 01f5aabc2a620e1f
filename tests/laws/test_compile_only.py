"""Every case of the benchmarks, compiled for a TPU and a GPU that are not here: memory, and what devices exchange."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

pytest.importorskip("tqdm")
from benchmarks import compile_only
from benchmarks.cases import CASES
from benchmarks.compiled_text import collectives, in_loops, largest
from benchmarks.targets import needs

SHAPE = 2048, 4096
NUMBERS = 16  # at most that many of a row are exchanged at once
# Of these, XLA keeps some of the forward pass, in bytes an entry: three comparisons, which are less to read again than
# the scores, and arrays, where one kernel would have too many steps.
KEPT = {
    "h100": {
        "multiclass_hinge_loss": 3,
        "multiclass_perceptron_loss": 3,
        "weston_watkins_hinge_loss": 3,
        "sigmoid_focal_loss": 4,
        "softmax_kl_divergence": 4.1,
        "softmax_jensen_shannon_divergence": 16.1,  # 12.0 on one device
    },
    "v6e": {"softmax_jensen_shannon_divergence": 4.1},
}
# Their examples are images or whole batches, or they go class by class: they have tests of their own.
OF_MORE_THAN_ROWS = {"dice_loss", "ntxent", "circle_loss", "multilabel_hinge_loss", "multiclass_sparsemax_loss"}
RUNS = [
    pytest.param(case, dtype, id=f"{case.loss}-{dtype}")
    for case in CASES
    if not (case.products or case.call or case.loss in OF_MORE_THAN_ROWS)
    for dtype in case.dtypes
]
OF_PRODUCTS = [pytest.param(case, id=case.loss) for case in CASES if case.products]


@pytest.fixture(autouse=True)
def as_a_user_runs_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("target", ["v6e", "h100"])
@pytest.mark.parametrize(("case", "dtype"), RUNS)
def test_a_loss_needs_no_second_array_and_devices_exchange_numbers_of_rows(case, dtype, target):
    pytest.importorskip(needs(target))
    found = compile_only.record(case, SHAPE, dtype, target)
    entries = SHAPE[0] * SHAPE[1]
    most = entries * (1 / 4 + KEPT[target].get(case.loss, 0))
    assert found["candidates"]["jaxloss"]["temp_bytes"] < most
    assert found["split"]["temp_bytes"] < most / 4
    assert all(line.startswith("all-reduce") for line in found["split"]["collectives"])
    assert largest(found["split"]["collectives"]) <= 4 * NUMBERS * SHAPE[0] / 2


@pytest.mark.parametrize("target", ["v6e", "h100"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.loss in ("ctc_loss", "rnnt_loss")], ids=lambda case: case.loss
)
def test_sequences_on_an_accelerator_need_less_than_their_logits_and_exchange_one_number(case, target):
    pytest.importorskip(needs(target))
    shape = 16, 200, 20, 1000
    logits, _ = compile_only.inputs(case, shape, "float32")
    found = compile_only.record(case, shape, "float32", target)
    assert found["candidates"]["jaxloss"]["temp_bytes"] < 4 * logits.size
    assert found["split"]["temp_bytes"] < 4 * logits.size / 2
    assert largest(found["split"]["collectives"]) <= 4


@pytest.mark.parametrize("target", ["v6e", "h100"])
@pytest.mark.parametrize("case", OF_PRODUCTS)
def test_logits_never_exist_and_devices_exchange_the_gradient_of_the_weight_once(case, target):
    pytest.importorskip(needs(target))
    tokens, features, classes = 65_536, 512, 32_768
    found = compile_only.record(case, (tokens, features, classes), "bfloat16", target)
    weight = 4 * features * classes  # bytes in float32, of a chunk's logits too; of all logits it is a 128th
    assert found["candidates"]["jaxloss"]["temp_bytes"] < 4.1 * weight
    split = found["split"]
    assert split["temp_bytes"] < 4 * weight / 2
    assert all(line.startswith("all-reduce") for line in split["collectives"])
    assert largest(split["in_loops"]) <= 4 * features * features
    assert largest(split["collectives"]) <= weight / 2


@pytest.mark.parametrize("target", ["v6e", "h100"])
def test_a_weight_split_over_the_tokens_is_exchanged_once_if_it_is_gathered_before(target):
    """The line of docs/large_vocabularies.md for a fully sharded weight on an automatic mesh."""
    pytest.importorskip(needs(target))
    mesh, over = compile_only.mesh_of(target, split=True), ("data", "model")
    shapes = ((8192, 1024), jnp.bfloat16), ((1024, 16_384), jnp.bfloat16), ((8192,), np.int32)
    arrays = [jax.ShapeDtypeStruct(*shape, sharding=NamedSharding(mesh, P(over))) for shape in shapes]

    def mean(hidden, weight, labels):
        weight = jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, P()))
        return jaxloss.linear_cross_entropy(hidden, weight, labels, reduction="mean")

    text = jax.jit(jax.value_and_grad(mean, (0, 1))).lower(*arrays).compile().as_text()
    assert largest(collectives(in_loops(text))) == 0
    of_arrays = [line.split()[0] for line in collectives(text) if largest([line]) > 4]
    assert of_arrays == ["all-gather", "all-reduce"]
