"""Losses of images, of triplets and of whole batches, as people write them and as peers are called.

An image has the shape (batch, pixels, classes), embeddings (batch, features); every two embeddings share a label.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxloss


def draw_images(key: Array, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    one, two = jax.random.split(key)
    labels = jax.random.randint(two, shape[:-1], 0, shape[-1], "int32")
    return 3 * jax.random.normal(one, shape, dtype), jax.nn.one_hot(labels, shape[-1], dtype=dtype)


def draw_masks(key: Array, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    one, two = jax.random.split(key)
    return 3 * jax.random.normal(one, shape, dtype), jax.random.bernoulli(two, shape=shape).astype(dtype)


def draw_batch(key: Array, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    return jax.random.normal(key, shape, dtype), jnp.arange(shape[0], dtype="int32") // 2


def binary_dice(x: Array, t: Array, reduction: str) -> Array:
    return jaxloss.binary_dice_loss(x, t)


def generalized_dice(x: Array, t: Array, reduction: str) -> Array:
    return jaxloss.multiclass_generalized_dice_loss(x, t)


def ranking(x: Array, t: Array, reduction: str) -> Array:
    return jaxloss.ranking_softmax_loss(x, t)


def _dice(p: Array, t: Array) -> Array:
    """Over axis 1."""
    return 1 - ((p * t).sum(1) + 1) / ((p.sum(1) + t.sum(1)) / 2 + 1)


def plain_dice(x: Array, t: Array) -> Array:
    return _dice(jax.nn.softmax(x), t).mean(-1)


def plain_binary_dice(x: Array, t: Array) -> Array:
    return _dice(jax.nn.sigmoid(x), t)


def plain_generalized_dice(x: Array, t: Array) -> Array:
    weights = 1 / t.sum((0, 1)) ** 2
    return _dice(jax.nn.softmax(x), t) @ (weights / weights.sum())


def triplets(x: Array, t: Array, **options: Any) -> Array:
    return jaxloss.triplet_margin_loss(x, t, -t, **options)


def plain_triplets(x: Array, t: Array) -> Array:
    return jnp.maximum(0, jnp.linalg.norm(x - t, axis=-1) - jnp.linalg.norm(x + t, axis=-1) + 1)


def pairs(x: Array, t: Array, **options: Any) -> Array:
    """All of which are to agree."""
    return jaxloss.cosine_embedding_loss(x, t, jnp.ones(x.shape[:1], "int32"), **options)


def scores(x: Array, t: Array, **options: Any) -> Array:
    """Of which the first is to be above the second."""
    return jaxloss.margin_ranking_loss(x, t, jnp.ones_like(x), **options)


def normalized(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _pairs_of(y: Array) -> tuple[Array, Array]:
    same = y[:, None] == y[None, :]
    return same & ~jnp.eye(len(y), dtype=bool), ~same


def plain_ntxent(x: Array, y: Array) -> Array:
    s = normalized(x) @ normalized(x).T / 0.07
    positives, negatives = _pairs_of(y)
    of_negatives = jax.nn.logsumexp(s, -1, where=negatives, keepdims=True)
    return jnp.where(positives, jnp.logaddexp(s, of_negatives) - s, 0).sum(-1)  # of one pair each


def plain_circle(x: Array, y: Array) -> Array:
    s = normalized(x) @ normalized(x).T
    positives, negatives = _pairs_of(y)
    low = jax.nn.logsumexp(-80 * jnp.maximum(0, 1.4 - s) * (s - 0.6), -1, where=positives)
    high = jax.nn.logsumexp(80 * jnp.maximum(0, s + 0.4) * (s - 0.4), -1, where=negatives)
    return jnp.logaddexp(0, low + high)


SCALE, BIAS = 10.0, -10.0  # where SigLIP starts


def draw_pairs(key: Array, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    """Queries and, beside each, its reference, which is near: the gradient is by both."""
    one, two = jax.random.split(key)
    x = jax.random.normal(one, shape, "float32")
    t = x + jax.random.normal(two, shape, "float32")
    return jnp.concatenate([normalized(x), normalized(t)], 1).astype(dtype), jnp.zeros(shape[:1], "int32")


def clip(x: Array, _: Array, **options: Any) -> Array:
    return jaxloss.clip_loss(*jnp.split(x, 2, 1), logit_scale=SCALE, **options)


def siglip(x: Array, _: Array, **options: Any) -> Array:
    return jaxloss.siglip_loss(*jnp.split(x, 2, 1), logit_scale=SCALE, bias=BIAS, **options)


def _logits(x: Array) -> Array:
    queries, references = jnp.split(x, 2, 1)
    return SCALE * queries @ references.T


def plain_clip(x: Array, _: Array) -> Array:
    z = _logits(x)
    own = jnp.diagonal(z)
    return (jax.nn.logsumexp(z, 1) + jax.nn.logsumexp(z, 0)) / 2 - own


def optax_clip(library: Any) -> Any:
    def loss(x: Array, _: Array) -> Array:
        z, y = _logits(x), jnp.arange(len(x))
        entropy = library.losses.softmax_cross_entropy_with_integer_labels
        return (entropy(z, y) + entropy(z.T, y)) / 2

    return loss


def plain_siglip(x: Array, _: Array) -> Array:
    z = _logits(x) + BIAS
    return -jax.nn.log_sigmoid(jnp.where(jnp.eye(len(x), dtype=bool), z, -z)).sum(1)


def optax_siglip(library: Any) -> Any:
    def loss(x: Array, _: Array) -> Array:
        z = _logits(x) + BIAS
        return library.losses.sigmoid_binary_cross_entropy(z, jnp.eye(len(x), dtype=x.dtype)).sum(1)

    return loss
