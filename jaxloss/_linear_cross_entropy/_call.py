"""From the arguments that all losses of hidden states share to chunks, and back to what a call returns."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from .._core import arguments
from .._core.masks import Mask
from .._core.types import AxisName, Reduction
from ._chunks import Head, Plan, Rows, Tokens
from ._mesh import loss_of_each, sum_of_all


def head(
    name: str, prefix: str, hidden: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, class_axis: int
) -> tuple[Head, int]:
    """The head and its class axis, 0 or 1. It is multiplied in bfloat16 if both are, else as wide as the losses are."""
    x = arguments.floating(name, prefix + "hidden", hidden)
    w = arguments.floating(name, prefix + "weight", weight)
    axis, classes = arguments.product(
        name, (prefix + "hidden", x), (prefix + "weight", w), (prefix + "class_axis", class_axis)
    )
    if not x.dtype == w.dtype == jnp.bfloat16:
        dtype = arguments.compute_dtype(x, w)
        x, w = x.astype(dtype), w.astype(dtype)
    if bias is None:
        return Head(x, w, None), axis
    b = arguments.floating(name, prefix + "bias", bias)
    arguments.same_shape(name, prefix + "bias", b, (classes,))
    return Head(x, w, b), axis


def plan(
    name: str,
    rows: Rows,
    heads: tuple[Head, ...],
    class_axes: tuple[int, ...],
    class_axis_name: AxisName | None,
    chunk_size: int | None,
) -> Plan:
    """By default a chunk has as many tokens as there are features, from 256 to 1024, or half of them above 2048.

    Then its logits are no larger than the gradient of the weight, which has to be there in float32 anyway. Each chunk
    reads and writes that, and adds a product to it: chunk / 4 operations a byte. Accelerators balance at 200 to 600.
    """
    arguments.mapped(name, "class_axis_name", class_axis_name)
    if chunk_size is None:
        features = max(head.hidden.shape[-1] for head in heads)
        chunk = int(np.clip(2 ** round(math.log2(features)), 256, max(1024, features // 2)))
    else:
        chunk = arguments.positive_integer(name, "chunk_size", chunk_size)
    return Plan(rows, chunk, class_axes, class_axis_name)


def dtype_of(head: Head) -> np.dtype:
    """Of the losses."""
    return arguments.compute_dtype(head.hidden)


def reduced(
    plan: Plan,
    heads: tuple[Head, ...],
    tokens: Tokens,
    mask: Mask,
    reduction: Reduction,
    axis_name: AxisName | None,
) -> tuple[Array, Any]:
    """The losses, or what they reduce to, and the auxiliary arrays."""
    if reduction == "none":
        (losses,), aux = loss_of_each(plan, heads, tokens, mask.examples)
        return mask.reduce(losses, reduction), aux
    first = heads[0]
    weight = mask.example_weights(first.hidden.shape[:-1], dtype_of(first), reduction, axis_name)
    total, aux = sum_of_all(plan, heads, tokens, mask.examples, weight)
    return total if axis_name is None else lax.psum(total, axis_name), aux
