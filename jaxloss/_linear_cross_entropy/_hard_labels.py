"""A teacher's loss and the cross entropy of labels, of the same logits in one pass."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .._core import arguments
from .._core.classes import in_range, num_classes
from .._core.cross_entropy import Options, indexed_cross_entropy_backward, indexed_cross_entropy_forward
from .._core.masks import Mask, finite_where_unweighted, weigh
from .._core.types import AxisName
from ._head import Rows, Tokens


def with_hard_labels(soft: Rows) -> Rows:
    """Rows of soft_weight * loss + hard_weight * cross entropy of labels, of the first head's logits.

    The arrays of tokens begin with those of `hard_tokens`.
    """

    def forward(
        logits: tuple[Array, ...], tokens: Any, examples: Array | None, class_axis_name: AxisName | None
    ) -> tuple[tuple[Array], tuple[()], Any]:
        labels, soft_weight, hard_weight, soft_cap, logit_scale, *soft_tokens = tokens
        ignored = (hard_weight == 0) & ~in_range(labels, num_classes(logits[0], class_axis_name))
        (soft_losses,), _, soft_saved = soft.forward(logits, tuple(soft_tokens), examples, class_axis_name)
        options = Options(soft_cap=soft_cap, logit_scale=logit_scale)
        hard_losses, hard_saved = indexed_cross_entropy_forward(
            logits[0], jnp.where(ignored, 0, labels), Mask(examples), options, class_axis_name
        )
        weights, losses = (soft_weight, hard_weight), (soft_losses, jnp.where(ignored, 0, hard_losses))
        return (sum(map(weigh, weights, losses)),), (), (weights, losses, soft_saved, hard_saved)  # type: ignore[return-value]

    def backward(
        saved: Any, cotangents: tuple[Array], class_axis_name: AxisName | None
    ) -> tuple[tuple[Array | None, ...], Tokens]:
        (weights, losses, soft_saved, hard_saved), (g,) = saved, cotangents
        soft_weight, hard_weight = weights
        ct_soft: Any
        ct_soft, ct_soft_tokens = soft.backward(soft_saved, (g * soft_weight,), class_axis_name)
        ct_logits, _, _, ct_options = indexed_cross_entropy_backward(hard_saved, g * hard_weight, class_axis_name)
        ct_weights = (g * finite_where_unweighted(*pair) for pair in zip(weights, losses, strict=True))
        ct_hard_tokens = None, *ct_weights, ct_options.soft_cap, ct_options.logit_scale
        return (ct_soft[0] + ct_logits, *ct_soft[1:]), (*ct_hard_tokens, *ct_soft_tokens)

    return Rows(forward, backward)


def hard_tokens(
    name: str,
    labels: ArrayLike,
    soft_weight: ArrayLike,
    hard_weight: ArrayLike,
    scaling: tuple[Array | None, Array | None],
    hidden: Array,
    dtype: np.dtype,
    classes: int,
) -> tuple[Tokens, Array]:
    """The arrays of tokens, and whether a label or its weight is in order. Where the weight is 0 no label is needed."""
    y = arguments.fill_row_targets(name, "labels", arguments.integer(name, "labels", labels), hidden)
    weights = (
        arguments.broadcast(name, argument, arguments.real(name, argument, weight).astype(dtype), y.shape)
        for argument, weight in (("soft_weight", soft_weight), ("hard_weight", hard_weight))
    )
    soft, hard = weights
    return (y, soft, hard, *scaling), in_range(y, classes) | (hard == 0)


def check_weights(name: str, labels: ArrayLike | None, **weights: ArrayLike) -> None:
    for argument, weight in weights.items():
        if labels is None and not arguments.is_number(weight, 1):
            raise ValueError(f"{name}: expected `labels` beside `{argument}`; without them use `weights`.")
