"""Batches of sequences: which steps are there, and the classes of a few labels in each step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import _inputs


def steps(
    name: str, what: str, paddings: ArrayLike | None, lengths: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[Array | None, Array]:
    """Which steps of arrays of that shape are there, None for all; and which sequences have a possible length."""
    if paddings is not None and lengths is not None:
        raise ValueError(f"{name}: expected `{what}_paddings` or `{what}_lengths`, got both.")
    right = jnp.ones(shape[:-1], bool)
    if paddings is not None:
        padded = _inputs.real(name, f"{what}_paddings", paddings)
        _inputs.same_shape(name, f"{what}_paddings", padded, shape)
        return padded == 0, right
    if lengths is not None:
        length = _inputs.integer(name, f"{what}_lengths", lengths)
        _inputs.same_shape(name, f"{what}_lengths", length, shape[:-1])
        there = lax.broadcasted_iota(np.int32, shape, len(shape) - 1) < length[..., None].astype(np.int32)
        return there, (length >= 0) & (length <= shape[-1])
    return None, right


def _one_hot(labels: Array, classes: int, dtype: np.dtype) -> Array:
    return (lax.broadcasted_iota(labels.dtype, (*labels.shape, classes), labels.ndim) == labels[..., None]).astype(
        dtype
    )


@jax.custom_jvp
def pick_several(x: Array, labels: Array) -> Array:
    """x [..., steps, classes] at labels [..., n], in each step: [..., steps, n]."""
    return jnp.take_along_axis(x, labels[..., None, :], -1)


@pick_several.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, object]) -> tuple[Array, Array]:
    # The transpose of a gather would be a scatter, which explicit meshes refuse.
    (x, labels), (t, _) = primals, tangents
    table = _one_hot(labels, x.shape[-1], t.dtype)
    return pick_several(x, labels), jnp.einsum("...tk,...nk->...tn", t, table, precision=lax.Precision.HIGHEST)


def spread(x: Array, labels: Array, classes: int) -> Array:
    """The transpose: x [..., steps, n] summed into the classes of its labels, [..., steps, classes]."""
    return jnp.einsum("...tn,...nk->...tk", x, _one_hot(labels, classes, x.dtype), precision=lax.Precision.HIGHEST)
