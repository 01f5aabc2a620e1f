"""Every case of the benchmarks, compiled for a TPU and a GPU that are not here: memory, and what devices exchange."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALIKE
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

pytest.importorskip("tqdm")
from benchmarks import compile_only, layouts
from benchmarks.cases import CASES
from benchmarks.compiled_text import arrays, collectives, in_loops, largest, transfers
from benchmarks.targets import devices_of, needs

SHAPE = 2048, 4096
NUMBERS = 16  # at most that many of a row are exchanged at once
# Of these, XLA keeps some of the forward pass, in bytes an entry: three comparisons, which are less to read again than
# the scores, and arrays, where one kernel would have too many steps.
KEPT = {
    "h100": {
        "multiclass_hinge_loss": 3,
        "multiclass_perceptron_loss": 3,
        "weston_watkins_hinge_loss": 3,
    },
    "v6e": {
        "softmax_jensen_shannon_divergence": 4.1,
        "triplet_margin_loss": 4.1,  # the negatives, which the benchmark computes
    },
}
# How often a GPU moves the inputs and the gradient: once if they are elements, twice if they are rows, which it reads
# for their sums too, and a softmax for its maximum. These look for more: the largest entry, near vectors, ties.
MOVES = {
    "cosine_similarity": 3.1,
    "cosine_distance": 3.1,
    "cosine_embedding_loss": 3.1,
    "triplet_margin_loss": 3.5,
    "categorical_hinge_loss_with_zero_class": 3.1,
    "multiclass_hinge_loss": 2.4,
    "multiclass_perceptron_loss": 2.4,
    "weston_watkins_hinge_loss": 3.4,
    "softmax_focal_loss": 4.1,
    "poly_loss_cross_entropy": 3.1,
    "softmax_kl_divergence": 3.1,
    "softmax_jensen_shannon_divergence": 4.1,
    "sigmoid_focal_loss": 1.7,
    "jensen_shannon_divergence": 1.7,
    "binary_dice_loss": 1.7,
    "softmax_total_variation_distance": 3.1,
    "dpo_loss": 2.4,
}
# Their examples are images or whole batches, or they go class by class: they have tests of their own.
SEQUENCES = {"ctc_loss", "rnnt_loss"}
OF_MORE_THAN_ROWS = SEQUENCES | {
    "dice_loss",
    "multiclass_generalized_dice_loss",
    "ntxent",
    "circle_loss",
    "clip_loss",
    "siglip_loss",
    "multilabel_hinge_loss",
    "multiclass_sparsemax_loss",
}
RUNS = [
    pytest.param(
        *(case, dtype, target),
        id=f"{case.loss}-{dtype}-{target}",
        marks=[pytest.mark.sweep] if case.loss in ALIKE and target == "v6e" else (),
    )
    for case in CASES
    if not (case.products or case.loss in OF_MORE_THAN_ROWS)
    for dtype in case.dtypes
    for target in ("v6e", "h100")
]
OF_PRODUCTS = [pytest.param(case, id=case.loss) for case in CASES if case.products]


@pytest.fixture(autouse=True)
def as_a_user_runs_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(("case", "dtype", "target"), RUNS)
def test_a_loss_needs_no_second_array_and_devices_exchange_numbers_of_rows(case, dtype, target):
    pytest.importorskip(needs(target))
    found = compile_only.record(case, SHAPE, dtype, target)
    entries = SHAPE[0] * SHAPE[1]
    most = entries * (1 / 4 + KEPT[target].get(case.loss, 0))
    assert found["candidates"]["jaxloss"]["temp_bytes"] < most
    if target == "h100":
        assert found["candidates"]["jaxloss"]["moved_bytes"] < MOVES.get(case.loss, 2.1) * found["least_bytes"]
    assert found["split"]["temp_bytes"] < most / 4
    assert all(line.startswith("all-reduce") for line in found["split"]["collectives"])
    assert largest(found["split"]["collectives"]) <= 4 * NUMBERS * SHAPE[0] / 2


@pytest.mark.parametrize("target", ["v6e", "h100"])
@pytest.mark.parametrize("case", [case for case in CASES if case.loss in SEQUENCES], ids=lambda case: case.loss)
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
    assert split["temp_bytes"] < 4.1 * weight / 2
    assert all(line.startswith("all-reduce") for line in split["collectives"])
    rows = 1024 if case.loss == "linear_log_probs" else features  # its chunks are of tokens whose cotangents are known
    assert largest(split["in_loops"]) <= 4 * rows * features
    assert largest(split["collectives"]) <= weight / 2


@pytest.mark.parametrize("target", ["v6e", "h100"])
def test_a_weight_split_over_the_tokens_is_exchanged_once_if_it_is_gathered_before(target):
    """The line of docs/large_vocabularies.md for a fully sharded weight on an automatic mesh."""
    pytest.importorskip(needs(target))
    mesh, over = compile_only.mesh_of(target, split=True), ("data", "model")
    shapes = ((8192, 1024), jnp.bfloat16), ((1024, 16_384), jnp.bfloat16), ((8192,), np.int32)
    args = [jax.ShapeDtypeStruct(*shape, sharding=NamedSharding(mesh, P(over))) for shape in shapes]

    def mean(hidden, weight, labels):
        weight = jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, P()))
        return jaxloss.linear_cross_entropy(hidden, weight, labels, reduction="mean")

    text = jax.jit(jax.value_and_grad(mean, (0, 1))).lower(*args).compile().as_text()
    assert largest(collectives(in_loops(text))) == 0
    of_arrays = [line.split()[0] for line in collectives(text) if largest([line]) > 4]
    assert of_arrays == ["all-gather", "all-reduce"]


# GiB, on an automatic and on an explicit mesh of 16 TPUs v5e: what a device sends in a step, and its temporaries.
AT_MOST = {
    "data parallel": ((1.9, 3), (1.9, 4)),
    "fully sharded (FSDP)": ((3, 4), (3, 4.5)),
    "fully sharded by classes": ((3.3, 1.3), (1.5, 1.3)),
    "data × tensor parallel": ((0.6, 1.6), (0.6, 1.2)),
    "fully sharded × tensor parallel": ((0.8, 1.9), (0.6, 1.3)),
    "tensor parallel, sequence split": ((0.75, 1.7), (0.6, 1.3)),
    "the same, fully sharded": ((0.9, 1.9), (0.6, 1.3)),
}


FULLY_SHARDED = ("fully sharded (FSDP)", "fully sharded × tensor parallel", "the same, fully sharded")
ON_TARGETS = [("v5e", layout) for layout in layouts.LAYOUTS]
ON_TARGETS += [("h200", layout) for layout in layouts.LAYOUTS if layout.name in FULLY_SHARDED]


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize(("target", "layout"), ON_TARGETS, ids=lambda x: x if isinstance(x, str) else x.name)
def test_no_layout_exchanges_a_weight_in_each_chunk_on_an_accelerator(layout, kind, target):
    pytest.importorskip(needs(target))
    classes = layouts.CLASSES[0]
    program = layouts.compiled(layout, "jaxloss", kind, target, classes)
    text = program.as_text()
    repeated = arrays(collectives(in_loops(text)))
    assert not any(shape[-1:] in ((classes,), (classes // 4,), (classes // 16,)) for _, shape in repeated)
    if target == "v5e":
        sent, temporaries = AT_MOST[layout.name][kind == "Explicit"]
        assert sum(transfer.sent for transfer in transfers(text)) <= sent * 2**30
        assert program.memory_analysis().temp_size_in_bytes <= temporaries * 2**30


@pytest.mark.parametrize("kind", ["Manual", "Auto", "Explicit"])
@pytest.mark.parametrize("name", ["clip_loss", "siglip_loss"])
def test_pairs_of_eight_devices_on_an_accelerator(name, kind):
    """Of 32,768 pairs the references travel from device to device, and with them their gradient.

    For CLIP they do so twice. On an automatic mesh the queries of each chunk are gathered instead. All products would
    be 512 MiB a device.
    """
    pytest.importorskip(needs("h200"))
    axis_type = AxisType.Explicit if kind == "Explicit" else AxisType.Auto
    mesh = Mesh(np.array(devices_of("h200", "1x1x8")), ("data",), axis_types=(axis_type,))
    embeddings = jax.ShapeDtypeStruct((32_768, 1152), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
    number = jax.ShapeDtypeStruct((), np.float32, sharding=NamedSharding(mesh, P()))

    def mean(queries, references, scale, bias, axis_name=None):
        numbers = {"logit_scale": scale} | ({"bias": bias} if name == "siglip_loss" else {})
        return getattr(jaxloss, name)(queries, references, **numbers, reduction="mean", axis_name=axis_name)

    if kind == "Manual":
        specs = P("data"), P("data"), P(), P()
        mean = jax.shard_map(functools.partial(mean, axis_name="data"), mesh=mesh, in_specs=specs, out_specs=P())
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.value_and_grad(mean, (0, 1, 2, 3)))
        program = gradient.lower(embeddings, embeddings, number, number).compile()
    sent = sum(transfer.sent for transfer in transfers(program.as_text()))
    limits = {"clip_loss": (320, 220), "siglip_loss": (195, 150)}[name]
    assert sent <= limits[kind != "Auto"] * 2**20
    assert program.memory_analysis().temp_size_in_bytes <= 90 * 2**20


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_batch_of_eight_devices_on_an_accelerator(kind):
    """Of 65,536 examples the cosines would be 2 GiB a device."""
    pytest.importorskip(needs("h200"))
    mesh = Mesh(np.array(devices_of("h200", "1x1x8")), ("data",), axis_types=(AxisType[kind],))
    sharding = NamedSharding(mesh, P("data"))
    embeddings = jax.ShapeDtypeStruct((65_536, 1152), jnp.bfloat16, sharding=sharding)
    labels = jax.ShapeDtypeStruct((65_536,), np.int32, sharding=sharding)
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(jaxloss.ntxent)).lower(embeddings, labels).compile()
    assert sum(transfer.sent for transfer in transfers(program.as_text())) <= 390 * 2**20
    assert program.memory_analysis().temp_size_in_bytes <= 165 * 2**20


def test_indices_of_split_classes_exchange_no_logits_on_an_accelerator(monkeypatch):
    """On an automatic mesh the compiler splits the scatter of a teacher's classes."""
    pytest.importorskip(needs("v5e"))
    k = 32

    def mean(hidden, weight, labels):
        indices = (labels[..., None] + 997 * jnp.arange(k, dtype=np.int32)) % weight.shape[1]
        log_probs = jnp.full(indices.shape, -4.0)
        return jaxloss.linear_kl_divergence_with_top_k_targets(hidden, weight, indices, log_probs, reduction="mean")

    monkeypatch.setitem(layouts.FORMS, "top k", mean)
    layout = next(one for one in layouts.LAYOUTS if one.name == "fully sharded × tensor parallel")
    program = layouts.compiled(layout, "top k", "Auto", "v5e", layouts.CLASSES[0])
    assert sum(transfer.sent for transfer in transfers(program.as_text())) <= 0.8 * 2**30
    assert program.memory_analysis().temp_size_in_bytes <= 2.3 * 2**30


@pytest.mark.parametrize(("target", "gibibytes"), [("h200", 0.8), ("v6e", 1.0)])
def test_a_gradient_added_up_in_bfloat16_on_an_accelerator_needs_no_second_array_of_its_size(target, gibibytes):
    pytest.importorskip(needs(target))
    tokens, features, classes = 16_384, 4096, 128_256
    case = next(case for case in CASES if case.loss == "linear_cross_entropy")

    def mean(*arrays):
        return jaxloss.linear_cross_entropy(*arrays, reduction="mean", accumulation_dtype="bfloat16")

    mesh = compile_only.mesh_of(target, split=False)
    program = compile_only.compiled(mean, case, (tokens, features, classes), "bfloat16", mesh)
    assert program.memory_analysis().temp_size_in_bytes < gibibytes * 2**30


@pytest.mark.parametrize(("dtype", "gibibytes"), [(None, 5.1), ("bfloat16", 3.2)])
def test_a_million_classes_on_an_accelerator_need_no_logits(dtype, gibibytes):
    """The numbers of docs/large_vocabularies.md; the logits alone would be 30 GiB."""
    pytest.importorskip(needs("h200"))
    sharding = NamedSharding(compile_only.mesh_of("h200", split=False), P())
    shapes = ((8192, 1024), jnp.bfloat16), ((1024, 1_000_000), jnp.bfloat16), ((8192, 16), np.int32)
    args = [jax.ShapeDtypeStruct(*shape, sharding=sharding) for shape in shapes]

    def mean(*arrays):
        return jaxloss.linear_sigmoid_cross_entropy(*arrays, reduction="mean", accumulation_dtype=dtype)

    program = jax.jit(jax.value_and_grad(mean, (0, 1))).lower(*args).compile()
    assert program.memory_analysis().temp_size_in_bytes < gibibytes * 2**30
