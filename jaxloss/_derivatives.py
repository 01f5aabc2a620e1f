"""The one mechanism for hand-written derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero


def again(arrays: Any, *, rows: bool) -> Any:
    """The same arrays, for another pass over them, where XLA would merge the two passes to no good.

    Of rows it would keep what both compute alike, an array of the size of the logits: on a CPU, where the exponentials
    cost more than the memory, it may. Of elements accelerators merge both into a single pass; a CPU has none for that.
    """

    def same(a: Any) -> Any:
        return a

    cpu, default = (same, lax.optimization_barrier) if rows else (lax.optimization_barrier, same)
    return jax.tree.map(lambda a: lax.platform_dependent(a, cpu=cpu, default=default), arrays)


def moving(tangents: Any) -> Any:
    """The tangents that a rule with symbolic zeros gets, None for what has none."""

    def is_zero(t: Any) -> bool:
        return isinstance(t, SymbolicZero)

    return jax.tree.map(lambda t: None if is_zero(t) else t, tangents, is_leaf=is_zero)


def every_mode(
    forward: Callable[..., tuple[Array, Any]],
    backward: Callable[[Any, Array], tuple[Array | None, ...]],
    *,
    loop: bool = False,
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
    it is run once, and has to be right to differentiate as it stands, twice.
    """

    @jax.custom_jvp
    def function(*args: Array | None) -> Array:
        return forward(*args)[0]

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        losses, saved = forward(*primals)
        those = {i: t for i, t in enumerate(moving(tangents)) if t is not None}
        rows = any(jnp.ndim(p) > losses.ndim for p in primals if p is not None)

        def linear(saved: Any, those: dict[int, Array]) -> Array:
            gradients = backward(again(saved, rows=rows), jnp.ones_like(losses))
            tangent = jnp.zeros_like(losses)
            for i, t in those.items():
                gradient = gradients[i]
                if gradient is not None:
                    product = gradient * t.astype(gradient.dtype)
                    tangent += product.sum(tuple(range(losses.ndim, product.ndim)))
            return tangent

        # The primal is `function` itself, not `losses`: a derivative of this derivative must meet the rule again.
        return losses if loop else function(*primals), jax.checkpoint(linear, prevent_cse=False)(saved, those)

    function.defjvp(rule, symbolic_zeros=True)
    return function
