"""One table: each transformation of JAX times each loss. A loss joins it by its row in cases.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from cases import every_loss, every_loss_with, every_path
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerances import same
from transformations import TRANSFORMATIONS, direction


@every_loss
def test_transformations(case, rng):
    x, t = case.draw(rng, 2, classes=32)

    @functools.partial(jax.jit, static_argnums=0)  # all of them compiled at once: that is twice as fast
    def transformed(f, x):
        return {name: transform(lambda x: f(x, t), x) for name, transform in TRANSFORMATIONS.items()}

    ours, theirs = transformed(case, x), transformed(case.plain, x)
    for name in TRANSFORMATIONS:
        for a, b in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(theirs[name]), strict=True):
            same(a, b, span=30, of=name)


# Over eight devices. What one device gives is computed once a case.

SPECS = {"batch": P("data"), "classes": P(None, "model"), "both": P("data", "model")}


def everything(case, x, t, weights, kept):
    """Value and gradient of a weighted, masked mean, its tangent, the losses, a second derivative."""
    table = np.linspace(0.5, 1.5, x.shape[-1], dtype=np.float32)
    options = {"class_weights": table} if case.takes("class_weights") else {}

    def mean(x):
        return case(x, t, weights=weights, where=kept, reduction="mean", **options)

    curvature = jax.jvp(jax.grad(mean), (x,), (direction(x),))[1]
    return jax.value_and_grad(mean)(x), jax.jvp(mean, (x,), (direction(x),))[1], case(x, t), curvature


@functools.cache
def on_one_device(case):
    rng = np.random.default_rng(0)
    x, t = case.draw(rng, 8, classes=8 * 25)
    shape = case(x, t).shape
    arguments = x, t, jnp.asarray(rng.random(shape), np.float32), jnp.asarray(rng.random(shape) < 0.8)
    return arguments, jax.jit(everything, static_argnums=0)(case, *arguments)


@every_path
def test_an_explicit_mesh_needs_no_context(case, rng):
    """The types of the arrays say it all; masks and weights that lie on no mesh come along."""
    x, t = case.draw(rng, 8)
    shape = jax.eval_shape(case, x, t).shape
    weights, kept = rng.random(shape).astype(np.float32), rng.random(shape) < 0.8

    @jax.jit
    def mean(x, t):
        return jax.value_and_grad(lambda x: case(x, t, weights=weights, where=kept, reduction="mean"))(x)

    place = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)), P("data"))
    for ours, expected in zip(mean(*(jax.device_put(a, place) for a in (x, t))), mean(x, t), strict=True):
        same(jax.device_get(ours), expected, span=10)


@every_loss_with(("Explicit", "both"), kind=("Auto", "Explicit"), spec=SPECS)
def test_sharded_is_not_sharded_and_gathers_nothing(case, kind, spec):
    arguments, expected = on_one_device(case)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType[kind],) * 2)
    full = SPECS[spec]
    per_loss = P(full[0]) if case.rows else full
    places = full, per_loss if case.targets == "index" else full, per_loss, per_loss
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(a, NamedSharding(mesh, place)) for a, place in zip(arguments, places, strict=True)]
        compiled = jax.jit(everything, static_argnums=0).lower(case, *sharded).compile()
        ours = jax.device_get(compiled(*sharded))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        same(a, b, span=20)
    text = compiled.as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text


@every_path
def test_replicated_arguments_on_an_explicit_mesh(case):
    """The derivatives by targets, weights and options that all devices hold, of predictions that are split."""
    x, t = case.draw(np.random.default_rng(0), 8, classes=6)
    weights = jnp.linspace(0.5, 1.5, 8 if case.rows else 8 * 6).reshape(jax.eval_shape(case, x, t).shape)
    options = {name: jnp.float32(value) for name, value in case.options.items()}
    replicated = weights, options, *([] if case.targets == "index" else [t])

    def mean(replicated, x, t):
        weights, options, *targets = replicated
        return case(x, *(targets or [t]), weights=weights, reduction="mean", **options)

    gradient = jax.jit(jax.grad(mean))
    expected = gradient(replicated, x, t)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))):
        split = jax.device_put(x, P("data", None))
        ours = jax.device_get(gradient(replicated, split, jax.device_put(t, P("data")) if t.ndim == 1 else t))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        same(a, b, span=20)


def scaled_mean(case, x, t, scale):
    """The weighed mean, with an option or, without any, the predictions stretched; a single row serves all targets."""
    x = jnp.broadcast_to(x, (t.shape[0], x.shape[-1]))
    if case.options:
        return case(x, t, **{next(reversed(case.options)): scale}, weights=0.7).mean()
    return case(x * (1 + (scale - 1) * jnp.linspace(0, 1, x.shape[-1])[None]), t, weights=0.7).mean()


def derivatives(f, *args):
    tangents = (direction(args[0]), jnp.float32(0.7))
    return jax.value_and_grad(f, (0, 1))(*args), jax.jvp(f, args, tangents), jax.grad(jax.grad(f, 1), 1)(*args)


@functools.cache
def one_row_or_all(case, replicated):
    x, t = case.draw(np.random.default_rng(0), 8)
    x = x[:1] if replicated else x
    f = jax.jit(lambda x, scale: derivatives(lambda x, scale: scaled_mean(case, x, t, scale), x, scale))
    return x, t, f(x, jnp.float32(0.7))


@every_loss_with((True, True), check_vma=(True, False), replicated=(True, False))
def test_shard_map(case, check_vma, replicated):
    """The gradient outside, and forward mode; the option replicated, the logits sharded or replicated."""
    x, t, expected = one_row_or_all(case, replicated)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    mean = jax.shard_map(
        lambda x, t, scale: jax.lax.pmean(scaled_mean(case, x, t, scale), "data"),
        mesh=mesh,
        in_specs=(P() if replicated else P("data"), P("data"), P()),
        out_specs=P(),
        check_vma=check_vma,
    )
    ours = jax.jit(lambda x, scale: derivatives(lambda x, scale: mean(x, t, scale), x, scale))(x, jnp.float32(0.7))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        same(a, b, span=50)


@every_path
def test_examples_mapped_by_vmap_on_devices(case, rng):
    """In a shard_map that checks what varies, and with classes that an explicit mesh splits."""
    x, t = case.draw(rng, 8)

    def mapped(x, t):
        return jax.vmap(jax.value_and_grad(lambda x, t: case(x, t).sum()))(x, t)

    expected = jax.jit(mapped)(x, t)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    local = jax.shard_map(mapped, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=True)
    found = [jax.jit(local)(x, t)]
    if case.rows:
        with jax.set_mesh(jax.make_mesh((8,), ("classes",), axis_types=(AxisType.Explicit,))):
            split = [jax.device_put(a, P(None, "classes") if a.ndim == 2 else P()) for a in (x, t)]
            found.append(jax.jit(mapped)(*split))
    for ours in found:
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            same(a, b, span=50)


@every_path
def test_export_for_three_platforms(case, rng):
    x, t = case.draw(rng, 4)
    f = jax.jit(jax.value_and_grad(lambda x, t: case(x, t, reduction="mean")))
    exported = jax.export.export(f, platforms=["cpu", "cuda", "tpu"])(x, t)
    loaded = jax.export.deserialize(exported.serialize())
    for a, b in zip(loaded.call(x, t), f(x, t), strict=True):
        same(a, b, span=10)
