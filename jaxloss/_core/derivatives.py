"""The mechanism for hand-written derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from .compiler import match_varying_axes, recompute_barrier, zeros_of_type


def drop_symbolic_zeros(tangents: Any) -> Any:
    """The tangents with None for symbolic zeros."""

    def is_zero(t: Any) -> bool:
        return isinstance(t, SymbolicZero)

    return jax.tree.map(lambda t: None if is_zero(t) else t, tangents, is_leaf=is_zero)


def custom_derivative(
    forward: Callable[..., tuple[Array, Any]],
    backward: Callable[[Any, Array], tuple[Any, ...]],
    *,
    loop: bool = False,
    infinite: tuple[int, ...] = (),
) -> Callable[..., Array]:
    """The function with the derivative ``backward``, in reverse and in forward mode.

    The pair is that of `jax.custom_vjp`: ``forward(*args)`` returns the losses and the residuals;
    ``backward(residuals, cotangent)`` returns a cotangent for each argument, or None for an argument without a
    derivative. Arguments are pytrees of arrays and None. An array is a scalar or has the shape of the losses, with more
    axes if it holds rows. A cotangent may be more precise than its argument.

    By itself `jax.custom_vjp` refuses forward mode. But a loss is one number per example, so its tangent is the inner
    product <gradient, tangent>, and the same pair serves both modes. The rule of an outer `jax.custom_jvp` takes the
    `jax.vjp` of the `jax.custom_vjp` with respect to *slots*: arrays that nothing reads and that have the type of the
    gradients. The rule is linear in the tangents, its transpose calls the pullback, and `jax.checkpoint` makes it keep
    the residuals instead of the gradients.

    If ``loop``, ``forward`` contains a scan, which XLA cannot deduplicate, so it runs once; its own autodiff must then
    be right for second derivatives. ``infinite`` are the positions of the arguments by which a gradient may be infinite
    where the loss is finite: there a tangent of 0 contributes 0.

    The function also takes ``unweighted``, a mask of the losses that will be multiplied by a weight of 0. All their
    derivatives, of every order, are finite. docs/derivatives.md explains the steps of the rule.
    """

    @jax.custom_jvp
    def function(unweighted: Array | None, *args: Any) -> Array:
        return forward(*args)[0]

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        unweighted, *args = primals
        # The function itself, not `forward`: a derivative of this derivative must meet the rule again.
        losses = function(*primals)
        lost = constant = None
        if unweighted is not None:
            lost = unweighted & ~jnp.isfinite(losses)  # no finite loss
            constant = lost | (unweighted & ~_all_finite(args, losses))  # or no finite argument
        arrays, structure = _flatten(args if loop or constant is None else _constant_where(constant, args))
        moved = {i: t for i, t in enumerate(_flatten(drop_symbolic_zeros(tangents[1:]))[0]) if t is not None}
        owners = [k for k, arg in enumerate(args) for _ in _flatten(arg)[0]]  # the argument of each leaf
        rows = any(x is not None and jnp.ndim(x) > losses.ndim for x in arrays)

        @jax.custom_vjp
        def pair(slots: dict[int, Array], arrays: list[Array | None]) -> Array:
            return forward(*jax.tree.unflatten(structure, arrays))[0]

        def residuals(slots: dict[int, Array], arrays: list[Array | None]) -> tuple[Array, Any]:
            return forward(*jax.tree.unflatten(structure, arrays))

        def gradients(saved: Any, g: Array) -> tuple[dict[int, Array | None], None]:
            found: list[Array | None] = []
            for arg, gradient in zip(args, backward(saved, g), strict=True):
                found += [None] * len(_flatten(arg)[0]) if gradient is None else _flatten(gradient)[0]
            return {i: found[i] for i in moved}, None

        pair.defvjp(residuals, gradients)
        slots = {i: _slot(arrays[i], losses) for i in moved}
        computed, pullback = jax.vjp(lambda slots: pair(slots, arrays), slots)

        def linear(pullback: Callable[[Array], tuple[dict[int, Array]]], moved: dict[int, Array]) -> Array:
            pullback = recompute_barrier(pullback, rows=rows)
            if constant is not None:
                pullback = _constant_where(constant, pullback)
            (gradients,) = pullback(jnp.ones_like(losses))
            tangent = jnp.zeros_like(losses)
            for i, t in moved.items():
                gradient, t = gradients[i], t.astype(losses.dtype)
                if lost is not None and unweighted is not None:
                    excluded = _over_row(lost, gradient) | (_over_row(unweighted, gradient) & ~jnp.isfinite(gradient))
                    gradient = jnp.where(excluded, 0, gradient)
                product = multiply_by_tangent(gradient, t) if owners[i] in infinite else gradient * t
                tangent += product.sum(tuple(range(losses.ndim, product.ndim)))
            return tangent

        return computed if loop else losses, jax.checkpoint(linear, prevent_cse=False)(pullback, moved)

    function.defjvp(rule, symbolic_zeros=True)

    def call(*args: Any, unweighted: Array | None = None) -> Array:
        losses: Array = function(unweighted, *args)
        return losses

    return call


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of a pytree, None included."""
    return jax.tree.flatten(tree, is_leaf=lambda x: x is None)


def _slot(x: Array, losses: Array) -> Array:
    """Zeros of the type of the gradient by x, with its varying axes and its sharding."""
    x = jnp.asarray(x, losses.dtype)
    return zeros_of_type(x) + zeros_of_type(_over_row(losses, x))


def recompute_in_backward(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function with its own derivative, which saves the arguments alone and recomputes the rest."""

    def backward(args: tuple[Array | None, ...], g: Array) -> tuple[Array | None, ...]:
        return tuple(jax.vjp(function, *(a if a is None else _widened(a, g, args) for a in args))[1](g))

    return custom_derivative(lambda *args: (function(*args), args), backward)


def _widened(x: Array, losses: Array, args: tuple[Array | None, ...]) -> Array:
    """x with the dtype, the shape and the varying axes of the losses, which its derivative then has as well."""
    if not jnp.issubdtype(x.dtype, np.floating):
        return x
    x = match_varying_axes(args, x.astype(losses.dtype))
    x = x if x.ndim else jnp.broadcast_to(x, losses.shape)
    # On an explicit mesh the derivative is sharded as the losses are.
    return x + zeros_of_type(_over_row(losses, x)) if any(jax.typeof(losses).sharding.spec) else x


def _over_row(mask: Array, x: Array) -> Array:
    """A mask of the losses, broadcast over the further axes of an array."""
    return jnp.expand_dims(mask, range(mask.ndim, x.ndim))


def _all_finite(args: Any, losses: Array) -> Array:
    """Whether the arguments of each loss are finite."""
    finite = jnp.ones(losses.shape, bool)
    for x in jax.tree.leaves(args):
        if jnp.issubdtype(x.dtype, np.floating):
            finite &= jnp.isfinite(x).all(tuple(range(losses.ndim, x.ndim)))
    return finite


def _constant_where(mask: Array, arrays: Any) -> Any:
    """The arrays without a derivative where ``mask`` is True. Arrays of other shapes than the losses are unchanged."""

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
    """gradient * tangent, 0 for a tangent of 0: infinity is written as a product of two finite numbers."""
    largest = lax.optimization_barrier(jnp.finfo(gradient.dtype).max)  # or XLA folds both factors into infinity again
    return _bounded(gradient) * tangent * jnp.where(jnp.isinf(gradient), largest, 1)


@jax.custom_jvp
def _bounded(x: Array) -> Array:
    """x with the largest finite number for infinity, and the derivative of x."""
    largest = jnp.finfo(x.dtype).max
    return jnp.clip(x, -largest, largest)


@_bounded.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _bounded(*primals), tangents[0]
