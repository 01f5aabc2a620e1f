"""Losses of hidden states over eight devices: the numbers of one, what moves, and what each device holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from linear_cases import LINEAR_CASES, OPTIONS, RICH, cotangents, cross_entropies, directions
from tolerances import same

import jaxloss
from benchmarks.compiled_text import arrays, collectives, in_loops

BATCH, LENGTH, FEATURES, CLASSES, CHUNK = 8, 24, 12, 64, 48
# of hidden [batch, length, features] and of weight [features, classes] on a mesh of (2, 4)
SPLITS = {
    "batch": (P("data", None, None), P(None, None)),
    "batch-over-all": (P(("data", "model"), None, None), P(None, None)),
    "classes": (P(None, None, None), P(None, "model")),
    "both": (P("data", None, None), P(None, "model")),
    "sequence-and-classes": (P(None, "data", None), P(None, "model")),
    "weight-gathered": (P("data", None, None), P("data", "model")),
    "classes-gathered": (P("data", None, None), P(None, ("model", "data"))),
    "features": (P("data", None, "model"), P("model", None)),
    "batch-and-classes-gathered": (P("data", None, None), P(None, "data")),
    "length-and-classes-gathered": (P("data", "model", None), P(None, "model")),
    "length-and-weight-gathered": (P("data", "model", None), P("data", "model")),
}
# of the cross entropy on automatic meshes, which XLA splits as it does the others
IN_EACH_RUN = ("both", "weight-gathered", "features", "length-and-weight-gathered")
FORMS = ("none", "mean")


def mesh_of(kind):
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType[kind],) * 2)


def everything(case, reduction, second, arrays, labels, rest):
    """Value, gradients, a tangent and, if asked, second derivatives; masked and weighed."""
    kept, weights, table = rest

    def f(arrays):
        if not case.reduces:
            return (weights * case(arrays, labels, where=kept, chunk_size=CHUNK)).sum()
        options = {"where": kept, "weights": weights, "reduction": reduction}
        if case.name == "linear_cross_entropy":
            options["class_weights"] = table
        losses = case(arrays, labels, chunk_size=CHUNK, **options)
        return (cotangents(labels.shape) * losses).sum() if reduction == "none" else losses

    moved = jax.jvp(jax.grad(f), (arrays,), (directions(arrays),))[1] if second else ()
    return jax.value_and_grad(f)(arrays), jax.jvp(f, (arrays,), (directions(arrays),))[1], moved


def draw(case):
    rng = np.random.default_rng(0)
    arrays, labels = case.draw(rng, BATCH, LENGTH, features=FEATURES, classes=CLASSES)
    kept, weights = rng.random(labels.shape) < 0.7, rng.random(labels.shape)
    return arrays, labels, (jnp.asarray(kept), jnp.asarray(weights, np.float32), jnp.linspace(0.5, 1.5, CLASSES))


@functools.cache
def on_one_device(case, reduction):
    return jax.device_get(jax.jit(everything, static_argnums=(0, 1, 2))(case, reduction, True, *draw(case)))


def compare(ours, theirs, span=20):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        same(a, b, span=span)


def placed(mesh, hidden, weight, case, arrays, labels, rest):
    """The arrays with their shardings."""
    token = P(*hidden[:2])
    head = (hidden, weight, P(weight[1]))
    specs = (head * (2 if case.teacher else 1), token, (token, token, P(None)))
    return jax.tree.map(
        lambda a, s: jax.device_put(a, NamedSharding(mesh, s)),
        (arrays, labels, rest),
        specs,
        is_leaf=lambda a: a is None,
    )


def every_split():
    """A teacher is sharded as a student is, and the rest goes the way of the cross entropy."""
    for case in RICH:
        every = case.name == "linear_cross_entropy"
        for split in SPLITS if every else ("both",):
            for kind in ("Auto", "Explicit"):
                marks = pytest.mark.smoke if every and split in ("both", "weight-gathered") else ()
                if kind == "Auto" and not (every and split in IN_EACH_RUN):
                    marks = pytest.mark.sweep
                yield pytest.param(case, kind, split, marks=marks, id=f"{case.id}-{kind}-{split}")


@pytest.mark.parametrize(("case", "kind", "split"), list(every_split()))
def test_sharded_is_not_sharded(case, kind, split):
    for reduction in FORMS if case.reduces else FORMS[:1]:
        mesh = mesh_of(kind)
        with jax.set_mesh(mesh):
            args = placed(mesh, *SPLITS[split], case, *draw(case))
            second = split == "both" and not case.teacher
            ours = jax.device_get(jax.jit(everything, static_argnums=(0, 1, 2))(case, reduction, second, *args))
        *first, moved = on_one_device(case, reduction)
        # A divergence is exposed to log-probabilities of both, and its tangent is a sum of many signs.
        compare(ours, (*first, moved if second else ()), span=40 if case.teacher else 20)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("reduction", FORMS)
def test_devices_exchange_numbers_of_tokens_and_gradients(kind, split, reduction):
    """Never logits, not even those of a chunk; a weight is gathered only if it was split for that."""
    case, (hidden, weight) = LINEAR_CASES[0], SPLITS[split]
    mesh = mesh_of(kind)

    def f(arrays, labels):
        return (cotangents(labels.shape) * case(arrays, labels, reduction=reduction, chunk_size=CHUNK)).sum()

    with jax.set_mesh(mesh):
        given, labels, _ = placed(mesh, hidden, weight, case, *draw(case))
        text = jax.jit(jax.value_and_grad(f)).lower(given, labels).compile().as_text()
    found = collectives(text)
    # What has classes last is a weight, a bias, or a part of one.
    of_classes = [s for _, s in arrays(found) if s and s[-1] in (CLASSES, CLASSES // 2, CLASSES // 4)]
    of_weights = [s[:-1] in ((), *((FEATURES // n,) for n in (1, 2, 4))) for s in of_classes]
    assert all(of_weights)
    gathers = [line for line in found if line.startswith("all-gather")]
    assert bool(gathers) == split.endswith("gathered") or split == "features"
    assert not any(line.startswith("all-to-all") for line in found)


@pytest.mark.parametrize("reduction", FORMS)
@pytest.mark.parametrize("token", [P("data", None), P(None, "model")])
def test_labels_may_be_split_where_hidden_and_weight_are_not(token, reduction):
    case, mesh = LINEAR_CASES[0], mesh_of("Explicit")

    def f(arrays, labels):
        return (cotangents(labels.shape) * case(arrays, labels, reduction=reduction, chunk_size=CHUNK)).sum()

    arrays, labels, _ = draw(case)
    expected = jax.jit(jax.value_and_grad(f))(arrays, labels)
    with jax.set_mesh(mesh):
        given = jax.device_put(arrays, NamedSharding(mesh, P())), jax.device_put(labels, NamedSharding(mesh, token))
        compare(jax.device_get(jax.jit(jax.value_and_grad(f))(*given)), expected)


def test_export_with_a_symbolic_batch_on_an_explicit_mesh():
    case, mesh = LINEAR_CASES[0], mesh_of("Explicit")
    (n,) = jax.export.symbolic_shape("n")
    with jax.set_mesh(mesh):
        hidden, weight, bias, labels = (
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
            for shape, dtype, spec in (
                ((2 * n, LENGTH, FEATURES), np.float32, P("data", None, None)),
                ((FEATURES, CLASSES), np.float32, P("data", "model")),
                ((CLASSES,), np.float32, P("model")),
                ((2 * n, LENGTH), np.int32, P("data", None)),
            )
        )
        step = jax.jit(jax.value_and_grad(lambda arrays, y: case(arrays, y, reduction="mean")))
        exported = jax.export.export(step)((hidden, weight, bias), labels)
    assert exported.nr_devices == 8


@pytest.mark.parametrize("split", ["batch-and-classes-gathered", "length-and-classes-gathered"])
@pytest.mark.parametrize("reduction", FORMS)
def test_the_smaller_of_hidden_and_weight_is_gathered(split, reduction):
    """Where an axis of an explicit mesh splits the tokens of one and the classes of the other."""
    case, mesh = LINEAR_CASES[0], mesh_of("Explicit")
    for classes, gathered in ((CLASSES, "weight"), (64 * CLASSES, "hidden")):
        given = case.draw(np.random.default_rng(0), BATCH, LENGTH, features=FEATURES, classes=classes)

        def f(arrays, labels):
            return (cotangents(labels.shape) * case(arrays, labels, reduction=reduction, chunk_size=CHUNK)).sum()

        step = jax.jit(jax.value_and_grad(f))
        with jax.set_mesh(mesh):
            args = placed(mesh, *SPLITS[split], case, *given, (None, None, None))[:2]
            compiled = step.lower(*args).compile()
            found = compiled(*args)
        gathers = [line for line in collectives(compiled.as_text()) if line.startswith("all-gather f32")]
        last = {shape[-1] for _, shape in arrays(gathers)}  # tokens, too, of the losses' cotangents
        assert last & {FEATURES, classes} == {FEATURES if gathered == "hidden" else classes}
        compare(jax.device_get(found), step(*given))


@pytest.mark.parametrize("split", ["weight-gathered", "features"])
@pytest.mark.parametrize("with_context", [True, False])
@pytest.mark.parametrize("reduction", FORMS)
def test_a_weight_split_along_its_features_is_gathered_before_the_loop(split, with_context, reduction):
    """On an automatic mesh, of the context or of the arguments, alone and under `vmap`."""
    case, mesh = LINEAR_CASES[0], mesh_of("Auto")
    args = placed(mesh, *SPLITS[split], case, *draw(case))[:2]

    def loss(arrays, labels):
        losses = case(arrays, labels, reduction=reduction, chunk_size=CHUNK // 8)
        return losses.mean() if reduction == "none" else losses

    def batched(arrays, labels):
        hidden, *head = arrays
        return jax.vmap(lambda h, y: loss((h, *head), y))(hidden, labels).mean()

    for f in (loss, batched):
        step = jax.jit(jax.value_and_grad(f))
        if with_context:
            with jax.set_mesh(mesh):
                compiled = step.lower(*args).compile()
        else:
            compiled = step.lower(*args).compile()
        gathered = [line for line in collectives(in_loops(compiled.as_text())) if line.startswith("all-gather")]
        assert not any(shape[-2:-1] == (FEATURES,) for _, shape in arrays(gathered))
        compare(compiled(*args), jax.value_and_grad(f)(*draw(case)[:2]))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("reduction", FORMS)
def test_the_memory_of_a_device_shrinks_with_the_mesh(kind, reduction):
    def f(hidden, weight, labels, chunk_size):
        return jaxloss.linear_cross_entropy(hidden, weight, labels, reduction=reduction, chunk_size=chunk_size).mean()

    shapes = ((8, 512, 64), np.float32), ((64, 4096), np.float32), ((8, 512), np.int32)

    def temporaries(devices):
        mesh = jax.make_mesh(devices, ("data", "model"), axis_types=(AxisType[kind],) * 2)
        specs = P("data", None, None), P(None, "model"), P("data", None)
        with jax.set_mesh(mesh):
            args = [
                jax.ShapeDtypeStruct(*s, sharding=NamedSharding(mesh, spec))
                for s, spec in zip(shapes, specs, strict=True)
            ]
            # 256 tokens of a device: an automatic mesh counts the devices that split classes, too.
            size = 256 // devices[1] if kind == "Auto" else 256
            compiled = jax.jit(jax.value_and_grad(f, (0, 1)), static_argnums=3).lower(*args, size).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one, two, eight = temporaries((1, 1)), temporaries((1, 2)), temporaries((2, 4))
    # On an automatic mesh a CPU has a chunk's logits twice, as the product gives them and by axes of tokens.
    assert two < (0.7 if kind == "Explicit" else 1.05) * one
    assert eight < (0.45 if kind == "Explicit" else 0.55) * one


# Inside of a shard_map.

MAPPED = {
    "batch": ("data", None),
    "classes": (None, "model"),
    "both": ("data", "model"),
    "all": (None, ("data", "model")),
}


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("split", MAPPED)
@cross_entropies
def test_inside_of_a_shard_map(case, split, check_vma):
    """The gradient outside; and inside, with check_vma."""
    tokens, classes = MAPPED[split]
    (arrays, labels, (kept, weights, table)), mesh = draw(case), mesh_of("Auto")
    token, of_classes = P(tokens), P(classes)
    heads = P(tokens), P(None, classes), of_classes
    places = {"mesh": mesh, "in_specs": (heads, token, token, token, of_classes), "check_vma": check_vma}
    names = {"axis_name": tokens, "class_axis_name": classes}

    def local(arrays, labels, kept, weights, table):
        kwargs = {"where": kept, "weights": weights, "class_weights": table, "reduction": "mean", **names}
        return case(arrays, labels, chunk_size=CHUNK // 2, **kwargs)

    def mean(arrays):
        return jax.shard_map(local, **places, out_specs=P())(arrays, labels, kept, weights, table)

    value_and_gradient, tangent, moved = on_one_device(case, "mean")
    found = jax.jit(lambda a: (jax.value_and_grad(mean)(a), jax.jvp(mean, (a,), (directions(a),))[1]))(arrays)
    compare(found, (value_and_gradient, tangent))
    if split == "both":
        compare(jax.jit(lambda a: jax.jvp(jax.grad(mean), (a,), (directions(a),))[1])(arrays), moved)
    if check_vma:
        inside = jax.jit(jax.shard_map(jax.grad(local), **places, out_specs=heads))
        compare(inside(arrays, labels, kept, weights, table), value_and_gradient[1])


@pytest.mark.parametrize("weight", [P(None, "model"), P("data", "model")])
@pytest.mark.parametrize("reduction", FORMS)
def test_inside_of_a_shard_map_over_the_classes_alone(reduction, weight):
    """The tokens are split by an axis that stays explicit."""
    case, mesh = LINEAR_CASES[0], mesh_of("Explicit")
    arrays, labels, _ = draw(case)

    def total(arrays, labels, name=None):
        losses = case(arrays, labels, reduction=reduction, chunk_size=CHUNK, class_axis_name=name)
        return (cotangents(labels.shape) * losses).sum() if reduction == "none" else losses

    with jax.set_mesh(mesh):
        args = placed(mesh, P("data", None, None), weight, case, arrays, labels, (None, None, None))[:2]
        mapped = jax.shard_map(
            functools.partial(total, name="model"),
            mesh=mesh,
            in_specs=((P(), P(None, "model"), P("model")), P()),
            out_specs=P(),
            axis_names={"model"},
        )
        found = jax.device_get(jax.jit(jax.value_and_grad(mapped))(*args))
    compare(found, jax.jit(jax.value_and_grad(total))(arrays, labels))


@pytest.mark.parametrize("case", [c for c in LINEAR_CASES if c.options], ids=lambda case: case.name)
def test_losses_and_metrics_of_split_classes(case):
    (arrays, labels, _), mesh = draw(case), mesh_of("Auto")
    heads = (P("data"), P(None, "model"), P("model")) * (2 if case.teacher else 1)

    def local(arrays, labels):
        return case(arrays, labels, class_axis_name="model", chunk_size=CHUNK // 2)

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(heads, P("data")), out_specs=P("data"))
    c = cotangents(labels.shape)
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda a, f=f: (c * f(a, labels)).sum()))(arrays) for f in (mapped, case)
    )
    compare(ours, theirs, span=40 if case.teacher else 20)

    def metrics(arrays, labels, **kwargs):
        hidden, weight, bias = arrays[:3]
        return jaxloss.linear_cross_entropy_with_metrics(hidden, weight, labels, bias=bias, **OPTIONS, **kwargs)

    here = jax.shard_map(
        functools.partial(metrics, class_axis_name="model"),
        mesh=mesh,
        in_specs=(heads[:3], P("data")),
        out_specs=P("data"),
    )
    compare(summed_with_metrics(here)(arrays[:3], labels), summed_with_metrics(metrics)(arrays[:3], labels))


def summed_with_metrics(f):
    def total(arrays, labels):
        losses, metrics = f(arrays, labels)
        return (cotangents(labels.shape) * losses).sum(), metrics

    return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_metrics_do_not_stand_in_the_way_of_gradients(kind):
    case, mesh = LINEAR_CASES[0], mesh_of(kind)
    arrays, labels, _ = draw(case)

    def losses(arrays, labels):
        hidden, weight, bias = arrays
        return jaxloss.linear_cross_entropy_with_metrics(hidden, weight, labels, bias=bias)

    with jax.set_mesh(mesh):
        given, there, _ = placed(mesh, *SPLITS["both"], case, *draw(case))
        found = jax.device_get(summed_with_metrics(losses)(given, there))
    compare(found, summed_with_metrics(losses)(arrays, labels))


@pytest.mark.parametrize("reduction", FORMS)
def test_an_explicit_mesh_needs_no_context(reduction, rng):
    hidden, weight = rng.normal(size=(16, 8)).astype(np.float32), rng.normal(size=(8, 24)).astype(np.float32)
    labels, where = rng.integers(24, size=16), rng.random(16) < 0.8

    @jax.jit
    def gradients(hidden, weight):
        def total(hidden, weight):
            return jaxloss.linear_cross_entropy(hidden, weight, labels, where=where, reduction=reduction).sum()

        return jax.value_and_grad(total, (0, 1))(hidden, weight)

    place = NamedSharding(mesh_of("Explicit"), P("data"))
    ours = gradients(*(jax.device_put(a, place) for a in (hidden, weight)))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(gradients(hidden, weight)), strict=True):
        same(jax.device_get(a), b, span=10)
