"""Margin losses over classes: their edges, masked classes and margins."""

import functools

import jax
import jax.numpy as jnp
import pytest
from edges import at_edges, check_edge, inf

import jaxloss

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("multiclass_hinge_loss", [1e8, 1e8], jnp.int32(0), {}, 1, [-1, 1]),
        ("multiclass_hinge_loss", [0.0, 1.0, 1.0], jnp.int32(0), {}, 2, [-1, 0.5, 0.5]),
        ("multiclass_hinge_loss", [1.0, 0.0], jnp.int32(0), {}, 0, [0, 0]),
        ("multiclass_hinge_loss", [1.0, -inf], jnp.int32(0), {}, 0, [0, 0]),
        ("multiclass_hinge_loss", [-inf, 1.0], jnp.int32(0), {}, inf, [-1, 1]),
        ("multiclass_perceptron_loss", [1.0, 1.0], jnp.int32(0), {}, 0, [0, 0]),
        ("multiclass_perceptron_loss", [1.0, -inf], jnp.int32(0), {}, 0, [0, 0]),
        ("multiclass_perceptron_loss", [1.0], jnp.int32(0), {}, 0, [0]),
        ("weston_watkins_hinge_loss", [0.0, 1.0, -inf], jnp.int32(0), {}, 2, [-1, 1, 0]),
        ("categorical_hinge_loss_with_zero_class", [-5.0, -10.0], [1.0, 0.0], {}, 6, [-1, 0]),
        ("categorical_hinge_loss_with_zero_class", [3.0, -inf], [1.0, 0.0], {}, 0, [0, 0]),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


def test_removed_and_unchoosable_classes_and_margins():
    ww, cs = jaxloss.weston_watkins_hinge_loss, jaxloss.multiclass_hinge_loss
    only = jnp.array([True, False, False])
    for loss in (ww, cs):
        assert loss(jnp.array([-inf, 0.0, 0.0]), jnp.int32(0), where=only) == 0
        assert loss(jnp.array([-inf]), jnp.int32(0)) == 0
        assert loss(jnp.array([0.0, -inf]), jnp.int32(0), where=~only[:2]) == inf


@pytest.mark.parametrize("power", [1, 2])
def test_the_margin_of_a_masked_row_has_no_gradient(power):
    scores, labels, where = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0, 0]), jnp.array([True, False])
    loss = functools.partial(jaxloss.weston_watkins_hinge_loss, power=power, where=where, reduction="sum")
    assert jax.grad(lambda margin: loss(scores, labels, margin=margin))(jnp.array([1.0, inf]))[1] == 0
