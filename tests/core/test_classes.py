"""Sums over few classes of many rows, which a CPU adds one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerances import as_exact_in_each_row, close

import jaxloss
from jaxloss._core.classes import _MANY_ENTRIES, class_sum


def draw_rows(rng, classes):
    return rng.normal(scale=10, size=(-(-_MANY_ENTRIES // classes), classes)).astype(np.float32)


@pytest.mark.parametrize("classes", [1, 2, 3, 8, 10, 11])
def test_the_sum_of_few_classes_and_its_derivatives(rng, classes):
    x, v = draw_rows(rng, classes), draw_rows(rng, classes)
    value, tangent = jax.jit(lambda x, v: jax.jvp(lambda x: class_sum(x, None), (x,), (v,)))(x, v)
    close(value, x.astype(float).sum(-1), np.abs(x).sum(-1))
    close(tangent, v.astype(float).sum(-1), np.abs(v).sum(-1))
    cotangent = v[:, 0]
    (gradient,) = jax.jit(lambda x, g: jax.vjp(lambda x: class_sum(x, None), x)[1](g))(x, cotangent)
    np.testing.assert_array_equal(gradient, np.broadcast_to(cotangent[:, None], x.shape))


@pytest.mark.parametrize("spec", [P("data"), P(None, "data")], ids=["rows", "classes"])
def test_the_sum_of_few_classes_on_an_explicit_mesh(rng, spec):
    x = draw_rows(rng, 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    sharded = jax.device_put(x, NamedSharding(mesh, spec))
    total = jax.device_get(jax.jit(lambda x: class_sum(x, None))(sharded))
    close(total, x.astype(float).sum(-1), np.abs(x).sum(-1))


OF_FEW_CLASSES = {
    "integer": lambda x, t: jaxloss.softmax_cross_entropy_with_integer_labels(x, t.argmax(-1)),
    "smoothed": lambda x, t: jaxloss.softmax_cross_entropy_with_integer_labels(x, t.argmax(-1), label_smoothing=0.1),
    "soft": jaxloss.softmax_cross_entropy,
    "focal": jaxloss.softmax_focal_loss,
    "poly": jaxloss.poly_loss_cross_entropy,
    "dice": lambda x, t: jaxloss.dice_loss(x, t, axis=()),
}


@pytest.mark.exact
@pytest.mark.parametrize("loss", OF_FEW_CLASSES.values(), ids=OF_FEW_CLASSES)
def test_many_rows_of_few_classes_are_as_exact_as_few_rows(rng, loss):
    """Confident rows as well, right and wrong."""
    x, v = draw_rows(rng, 8), draw_rows(rng, 8)
    t = rng.dirichlet(np.ones(8), len(x)).astype(np.float32)

    def derivatives(x, t, v):
        def gradient(x):
            return jax.vjp(lambda x: loss(x, t), x)[1](jnp.ones(len(x), x.dtype))[0]

        return loss(x, t)[:, None], *jax.jvp(gradient, (x,), (v,))

    parts = jax.jit(jax.vmap(derivatives))
    arrays = x, t, v
    with jax.enable_x64(True):
        truth = parts(*(jnp.asarray(a, np.float64).reshape(16, -1, 8) for a in arrays))
    of_parts = parts(*(a.reshape(16, -1, 8) for a in arrays))
    for ours, theirs, exact in zip(jax.jit(derivatives)(*arrays), of_parts, truth, strict=True):
        as_exact_in_each_row(ours, theirs.reshape(ours.shape), exact.reshape(ours.shape))
