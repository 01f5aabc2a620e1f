"""The one mechanism for hand-written derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from .compiler import match_varying_axes, recompute_barrier


def drop_symbolic_zeros(tangents: Any) -> Any:
    """The tangents that a rule with symbolic zeros gets, None for what has none."""

    def is_zero(t: Any) -> bool:
        return isinstance(t, SymbolicZero)

    return jax.tree.map(lambda t: None if is_zero(t) else t, tangents, is_leaf=is_zero)


def custom_derivative(
    forward: Callable[..., tuple[Array, Any]],
    backward: Callable[[Any, Array], tuple[Array | None, ...]],
    *,
    loop: bool = False,
    infinite: tuple[int, ...] = (),
) -> Callable[..., Array]:
    """The function with the derivative ``backward``, in reverse and in forward mode.

    The pair is that of `jax.custom_vjp`: ``forward(*args)`` returns the losses and what is saved; ``backward(saved,
    cotangent)`` a cotangent for each argument, or None for what has no derivative. By itself `jax.custom_vjp` refuses
    forward mode, also where it only stands in the body of the function below (a Hessian of a scan meets it there). But
    a loss is one number a row, and its tangent is <gradient of the row, tangent of the row>, so the same pair serves
    both: the rule is linear in the tangents, its transpose is ``backward``, and `jax.checkpoint` makes it keep
    ``saved`` rather than the gradient.

    Each argument is None, or has the shape of the losses and more axes where it is a row. ``backward`` may return more
    precision than the argument has. ``loop`` says that ``forward`` is a loop, which no compiler merges with its like:
    it is run once, and has to be right to differentiate as it stands, twice. ``infinite`` are the positions of the
    arguments by which a gradient may be infinite where the loss is finite: there a tangent of 0 contributes 0.

    The function takes ``unweighted`` as well, a mask of the losses: where it is True nothing has a derivative that is
    not finite, of any order, for these losses are multiplied by a weight of 0.
    """

    @jax.custom_jvp
    def function(unweighted: Array | None, *args: Array | None) -> Array:
        return forward(*args)[0]

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        unweighted, *args = primals
        # The function itself, not `forward`: a derivative of this derivative must meet the rule again.
        losses, saved = forward(*args) if loop else (function(*primals), None)
        lost = constant = None
        if unweighted is not None:
            lost = unweighted & ~jnp.isfinite(losses)
            constant = lost | (unweighted & ~_all_finite(args, losses))
        if not loop:  # XLA merges both
            saved = forward(*args if constant is None else _constant_where(constant, args))[1]
        those = {i: t for i, t in enumerate(drop_symbolic_zeros(tangents[1:])) if t is not None}
        rows = any(jnp.ndim(p) > losses.ndim for p in args if p is not None)

        def linear(saved: Any, those: dict[int, Array]) -> Array:
            saved = recompute_barrier(saved, rows=rows)
            if constant is not None:
                saved = _constant_where(constant, saved)
            gradients = backward(saved, jnp.ones_like(losses))
            tangent = jnp.zeros_like(losses)
            for i, t in those.items():
                gradient = gradients[i]
                if gradient is not None:
                    if lost is not None and unweighted is not None:
                        none = _over_row(lost, gradient) | (_over_row(unweighted, gradient) & ~jnp.isfinite(gradient))
                        gradient = jnp.where(none, 0, gradient)
                    t = t.astype(gradient.dtype)
                    product = multiply_by_tangent(gradient, t) if i in infinite else gradient * t
                    tangent += product.sum(tuple(range(losses.ndim, product.ndim)))
            return tangent

        return losses, jax.checkpoint(linear, prevent_cse=False)(saved, those)

    function.defjvp(rule, symbolic_zeros=True)

    def call(*args: Array | None, unweighted: Array | None = None) -> Array:
        losses: Array = function(unweighted, *args)
        return losses

    return call


def recompute_in_backward(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function, with the derivative that JAX has for it, of which nothing is kept but the arguments."""

    def backward(args: tuple[Array | None, ...], g: Array) -> tuple[Array | None, ...]:
        return tuple(jax.vjp(function, *(a if a is None else _widened(a, g, args) for a in args))[1](g))

    return custom_derivative(lambda *args: (function(*args), args), backward)


def _widened(x: Array, losses: Array, args: tuple[Array | None, ...]) -> Array:
    """x in the precision of the losses, a number for each of them and on each device: so is the derivative by it."""
    if not jnp.issubdtype(x.dtype, np.floating):
        return x
    x = match_varying_axes(args, x.astype(losses.dtype))
    return x if x.ndim else jnp.broadcast_to(x, losses.shape)


def _over_row(mask: Array, x: Array) -> Array:
    """A mask of the losses, for an array that has more axes behind theirs."""
    return jnp.expand_dims(mask, range(mask.ndim, x.ndim))


def _all_finite(args: list[Array | None], losses: Array) -> Array:
    """Of each loss, whether its arguments are."""
    finite = jnp.ones(losses.shape, bool)
    for x in args:
        if x is not None and jnp.issubdtype(x.dtype, np.floating):
            finite &= jnp.isfinite(x).all(tuple(range(losses.ndim, x.ndim)))
    return finite


def _constant_where(mask: Array, arrays: Any) -> Any:
    """The arrays, without a derivative there. What has no number for each loss, nor one for all, stays as it is."""

    def constant(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, np.floating) or (x.ndim and x.shape[: mask.ndim] != mask.shape):
            return x
        x = x if x.ndim else jnp.broadcast_to(x, mask.shape)
        return _masking_tangents(_over_row(mask, x), match_varying_axes((mask[None],), x))  # varying as the mask does

    return jax.tree.map(constant, arrays)


@jax.custom_jvp
def _masking_tangents(mask: Array, x: Array) -> Array:
    return x


@_masking_tangents.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    return primals[1], jnp.where(primals[0], 0, tangents[1])


def multiply_by_tangent(gradient: Array, tangent: Array) -> Array:
    """gradient * tangent, 0 for a tangent of 0: an infinite gradient is the product of two finite numbers."""
    largest = lax.optimization_barrier(jnp.finfo(gradient.dtype).max)  # of constants, XLA would make one again
    return _bounded(gradient) * tangent * jnp.where(jnp.isinf(gradient), largest, 1)


@jax.custom_jvp
def _bounded(x: Array) -> Array:
    """x, of which the largest number stands for infinity; its derivative is that of x."""
    largest = jnp.finfo(x.dtype).max
    return jnp.clip(x, -largest, largest)


@_bounded.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _bounded(*primals), tangents[0]
