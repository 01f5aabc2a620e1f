"""The mechanism: the pair of a `jax.custom_vjp`, and forward mode besides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import same

from jaxloss._core import cross_entropy
from jaxloss._core.derivatives import custom_derivative
from jaxloss._core.masks import Mask

PAIRS = {
    "indexed": (
        cross_entropy.indexed_cross_entropy_forward,
        cross_entropy.indexed_cross_entropy_backward,
        cross_entropy.indexed_cross_entropy,
    ),
    "dense": (
        cross_entropy.dense_cross_entropy_forward,
        cross_entropy.dense_cross_entropy_backward,
        cross_entropy.dense_cross_entropy,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_reverse_mode_is_that_of_the_custom_vjp(name, rng):
    forward, backward, lifted = PAIRS[name]
    x = jnp.asarray(rng.normal(size=(4, 48)), np.float32)
    t = jnp.arange(4) if name == "indexed" else jax.nn.softmax(x[::-1])
    bare = jax.custom_vjp(lambda *args: forward(*args)[0])
    bare.defvjp(forward, backward)
    cotangent = jnp.array([1.0, 0.0, -2.0, 0.5])
    args = (t, Mask(), cross_entropy.Options())
    ours, theirs = (jax.vjp(lambda x, f=f: f(x, *args), x)[1](cotangent)[0] for f in (lifted, bare))
    same(ours, theirs)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: bare(x, *args), (x,), (x,))
    jax.jvp(lambda x: lifted(x, *args), (x,), (x,))


def test_the_derivative_is_the_hand_written_one():
    """A rule that is deliberately wrong by a factor shows in every mode."""
    wrong = custom_derivative(lambda x: (jnp.square(x), x), lambda x, g: (g * 20 * x,))
    assert jax.grad(wrong)(3.0) == 60
    assert jax.jvp(wrong, (3.0,), (1.0,))[1] == 60
    assert jax.grad(jax.grad(wrong))(3.0) == 20
    assert jax.hessian(wrong)(3.0) == 20


def test_reverse_mode_is_a_custom_vjp(monkeypatch):
    """Literally: the pair is given to `jax.custom_vjp`, and its backward is what a gradient calls."""
    pairs, called = [], []

    class Recorded(jax.custom_vjp):
        def defvjp(self, fwd, bwd, **kwargs):
            pairs.append(self)
            super().defvjp(fwd, lambda *args: called.append(self) or bwd(*args), **kwargs)

    monkeypatch.setattr(jax, "custom_vjp", Recorded)
    square = custom_derivative(lambda x: (jnp.square(x), x), lambda x, g: (g * 2 * x,))
    assert jax.grad(square)(3.0) == 6
    assert called
    assert set(called) <= set(pairs)


def test_arguments_are_pytrees():
    function = custom_derivative(
        lambda x, options: (options["scale"] * jnp.square(x), (x, options["scale"])),
        lambda saved, g: (2 * saved[1] * g * saved[0], {"scale": g * jnp.square(saved[0]), "unused": None}),
    )
    options = {"scale": jnp.float32(2), "unused": None}
    gradients = jax.grad(function, (0, 1))(jnp.float32(3), options)
    assert (gradients[0], gradients[1]["scale"]) == (12, 9)
    assert jax.jvp(function, (jnp.float32(3), options), (jnp.float32(1), options))[1] == 12 + 18
    assert jax.hessian(function)(jnp.float32(3), options) == 4


def test_what_does_not_move_costs_nothing():
    """The gradient by the labels is not computed where only the logits move."""
    x = jnp.zeros((4, 48))
    t = jnp.ones((4, 48))
    by_logits = jax.jit(
        jax.grad(lambda x, t: cross_entropy.dense_cross_entropy(x, t, Mask(), cross_entropy.Options()).sum())
    )
    both = jax.jit(
        jax.grad(lambda x, t: cross_entropy.dense_cross_entropy(x, t, Mask(), cross_entropy.Options()).sum(), (0, 1))
    )
    flops = [f.lower(x, t).compile().cost_analysis()["flops"] for f in (by_logits, both)]
    assert flops[0] < flops[1]
