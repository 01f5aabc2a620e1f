"""From the arguments that all losses of hidden states share to chunks, and back to what a call returns."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from .._core import arguments
from .._core.masks import Mask
from .._core.types import AxisName, Reduction
from ._each import loss_of_each
from ._head import Head, Plan, Rows, Tokens
from ._mesh import automatic_mesh
from ._sum import sum_of_all


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


def all_classes(head: Head, class_axis: int, class_axis_name: AxisName | None) -> int:
    """Their number, over all devices if they are split over a mapped axis."""
    devices: int = 1 if class_axis_name is None else lax.axis_size(class_axis_name)
    return devices * head.weight.shape[class_axis]


def widened(head: Head, targets: Array) -> Head:
    """The head in float64 if the targets are."""
    dtype = arguments.compute_dtype(head.hidden, targets)
    if dtype == dtype_of(head):
        return head
    return head._replace(hidden=head.hidden.astype(dtype), weight=head.weight.astype(dtype))


def at_temperature(
    soft_cap: Array | None, logit_scale: Array | None, temperature: Array | None
) -> tuple[Array | None, Array | None]:
    """The cap and the scale of logits that are divided by the temperature after both."""
    if temperature is None:
        return soft_cap, logit_scale
    cap = None if soft_cap is None else soft_cap / temperature
    return cap, (1 if logit_scale is None else logit_scale) / temperature


def plan(
    name: str,
    rows: Rows,
    heads: tuple[Head, ...],
    class_axes: tuple[int, ...],
    class_axis_name: AxisName | None,
    chunk_size: int | None,
    accumulation_dtype: DTypeLike | None = None,
) -> Plan:
    arguments.mapped(name, "class_axis_name", class_axis_name)
    dtype = arguments.floating_dtype(name, "accumulation_dtype", accumulation_dtype)
    given = None if chunk_size is None else arguments.positive_integer(name, "chunk_size", chunk_size)
    devices = automatic_mesh(heads)[1]
    return Plan(
        rows,
        chunk=_tokens_in_a_chunk(heads, given, devices),
        strided=devices > 1,
        class_axes=class_axes,
        class_axis_name=class_axis_name,
        accumulation_dtype=dtype,
    )


def _tokens_in_a_chunk(heads: tuple[Head, ...], chunk_size: int | None, devices: int) -> int:
    """By default a device has as many tokens as there are features, from 256 to 1024, or half of them above 2048.

    Then their logits are no larger than the gradient of the weight, which has to be there in float32 anyway. Each chunk
    reads and writes that, and adds a product to it: chunk / 4 operations a byte. Accelerators balance at 200 to 600.

    A chunk on an automatic mesh has the tokens of all its devices. Where some of them split the classes instead, each
    has more tokens and fewer classes, so no more logits. By default there are four chunks, if those would be smaller.
    """
    if chunk_size is not None:
        return devices * chunk_size
    features = max(head.hidden.shape[-1] for head in heads)
    chunk = int(np.clip(2 ** round(math.log2(features)), 256, max(1024, features // 2)))
    tokens = math.prod(size for size in heads[0].hidden.shape[:-1] if isinstance(size, int))
    return min(devices * chunk, max(chunk, -(-tokens // 4)))


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
