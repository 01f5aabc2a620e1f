"""Losses of logits that are a product, hidden @ weight + bias: the product, and what a loss makes of rows of it.

Two forms, both for some tokens at a time, so that all logits never exist. `_sum.sum_of_all` computes the gradients
while it has the logits: three products in all. `_each.loss_of_each` returns the loss of each token, whose cotangents
are not known yet. Its gradients compute the logits again, and weight each token's row before the sum over tokens. Both
have every derivative.

Neither uses `custom_derivative`. That takes the tangent of a loss from its own row, and a weight belongs to all tokens.
And its forward pass saves residuals before it is known which arguments move, where `sum_of_all` has to know: it
computes their gradients, and no product for the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._core.masks import Mask
from .._core.types import AxisName


class Head(NamedTuple):
    hidden: Any  # an array [..., features]
    weight: Array  # [features, classes] or, if the plan says so, the transpose
    bias: Array | None  # [classes]


Tokens = tuple[Array | None, ...]
"""Arrays [...] or [..., k] beside the logits that a loss depends on."""


class Rows(NamedTuple):
    """The mathematics of rows of logits, an array [..., classes] for each head, written by hand in both directions."""

    # (logits, tokens, examples, class_axis_name) -> losses, floating auxiliary arrays without derivative, saved. Losses
    # are several where a token has several.
    forward: Callable[..., tuple[tuple[Array, ...], Any, Any]]
    # (saved, cotangents of the losses or None, class_axis_name) -> cotangents of the logits and of the tokens
    backward: Callable[..., tuple[Tokens, Tokens]]
    class_tokens: tuple[int, ...] = ()  # which of the tokens' arrays are [..., classes], and split as the classes are


class Plan(NamedTuple):
    """The static arguments."""

    rows: Rows
    chunk: int  # tokens
    strided: bool  # whether a chunk is taken in strides instead of blocks
    class_axes: tuple[int, ...]  # of each head's weight, 0 or 1
    class_axis_name: AxisName | None  # the mapped axis over which the classes are split
    accumulation_dtype: np.dtype | None  # of the gradients of weight and bias, over chunks; None: float32 at least


def dot(a: Array, b: Array, axes: tuple[tuple[int, ...], tuple[int, ...]], dtype: np.dtype | None = None) -> Array:
    """The product over these axes, accumulated in float32 at least, and given in that dtype by default."""
    dtype = np.promote_types(a.dtype, np.float32) if dtype is None else dtype
    return lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=dtype)


def dot_of_tangents(a: Array, b: Array, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """The same with tangents in float32, multiplied in bfloat16 if one factor is.

    Its transpose multiplies in bfloat16 too, and yet gives, and so accumulates, float32.
    """
    precision = lax.DotAlgorithmPreset.BF16_BF16_F32 if jnp.bfloat16 in (a.dtype, b.dtype) else None
    a, b = at_least_float32(a), at_least_float32(b)
    return lax.dot_general(a, b, (axes, ((), ())), precision, preferred_element_type=a.dtype)


def filled_hidden(head: Head, examples: Array | None) -> Array:
    """The hidden states with zeros in masked tokens: 0 NaN would be NaN in sums over tokens."""
    return Mask(examples).fill(head.hidden)


def compute_logits(plan: Plan, heads: tuple[Head, ...], examples: Array | None) -> tuple[Array, ...]:
    def logits_of_head(head: Head, class_axis: int) -> Array:
        z = dot(filled_hidden(head, examples), head.weight, ((head.hidden.ndim - 1,), (1 - class_axis,)))
        return z if head.bias is None else z + jnp.broadcast_to(head.bias.astype(z.dtype), z.shape)

    return tuple(map(logits_of_head, heads, plan.class_axes))


def logit_tangents(
    plan: Plan, heads: tuple[Head, ...], heads_dot: tuple[Head, ...], examples: Array | None
) -> tuple[Array | None, ...]:
    """The tangents of the logits, in the dtype of the logits."""

    def tangent(head: Head, head_dot: Head, class_axis: int) -> Array | None:
        dtype = np.promote_types(head.hidden.dtype, np.float32)
        t = jax.tree.map(lambda x: x.astype(dtype), head_dot)
        axes = (head.hidden.ndim - 1,), (1 - class_axis,)
        terms = []
        if t.hidden is not None:
            terms.append(dot_of_tangents(filled_hidden(t, examples), head.weight, axes))
        if t.weight is not None:
            terms.append(dot_of_tangents(filled_hidden(head, examples), t.weight, axes))
        if t.bias is not None:
            terms.append(jnp.broadcast_to(t.bias, (*head.hidden.shape[:-1], *t.bias.shape)))
        return sum(terms[1:], terms[0]) if terms else None

    return tuple(map(tangent, heads, heads_dot, plan.class_axes))


def split_heads(heads: tuple[Head, ...]) -> tuple[tuple[Array, ...], tuple[Head, ...]]:
    """The hidden states, and the output matrices and biases."""
    return tuple(h.hidden for h in heads), tuple(h._replace(hidden=None) for h in heads)


def join_heads(hidden: tuple[Array | None, ...], outputs: tuple[Head, ...]) -> tuple[Head, ...]:
    return tuple(r._replace(hidden=h) for h, r in zip(hidden, outputs, strict=True))


def sum_dtype(plan: Plan, x: Array) -> np.dtype:
    """In which a gradient by x is added up over chunks."""
    return plan.accumulation_dtype or np.promote_types(x.dtype, np.float32)


def at_least_float32(x: Array) -> Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def zero_tangents(aux: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, aux)
