"""Losses of embeddings beside learned vectors, one or more of each class."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import in_range, local_labels, nan_unless
from ._core.compiler import compiled, replicate_from_axis, take_rows
from ._core.labelled_pairs import Identity, pair_masks
from ._core.masks import Mask, divide_or_zero, prepare_mask
from ._core.pair_devices import reduced
from ._core.pair_softmaxes import logsumexp_where
from ._core.pairs import Pairs, plan
from ._core.rows import is_finite_row, per_example_option
from ._core.special import root, softplus
from ._core.types import AxisName, Reduction
from ._core.vectors import unit_vectors
from ._cosine import cosine_distance
from ._linear_cross_entropy import linear_cross_entropy


def _pull(cosines: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Array]:
    margin, alpha = numbers
    positives, _ = pair_masks(rows, columns)
    return softplus(logsumexp_where(alpha * (margin - cosines), positives)), positives.any(-1).astype(cosines.dtype)


def _push(cosines: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Any]:
    margin, alpha = numbers
    _, negatives = pair_masks(rows, columns)
    return softplus(logsumexp_where(alpha * (cosines + margin), negatives)), ()


@compiled(alpha=arguments.POSITIVE)
def proxy_anchor_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    proxies: ArrayLike,
    *,
    margin: ArrayLike = 0.1,
    alpha: ArrayLike = 32.0,
    where: ArrayLike | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Proxy-anchor loss: the proxy of a class pulls the examples of its class, and pushes all others.

    .. math::
        \ell = \frac{1}{|P_+|} \sum_{p \in P_+} \log\Bigl(1 + \sum_{i:\, y_i = p} e^{\alpha (m - \cos(x_i, p))}\Bigr)
        + \frac{1}{|P|} \sum_{p \in P} \log\Bigl(1 + \sum_{i:\, y_i \ne p} e^{\alpha (m + \cos(x_i, p))}\Bigr)

    :math:`P_+` are the proxies of classes that are in the batch. In a sum over examples the hard ones weigh most.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features). Only directions count, also of proxies.
      labels: :math:`y`, integers in [0, classes), of shape (batch,). Any other gives NaN.
      proxies: :math:`p`, floating, of shape (classes, features).
      margin: :math:`m`, a number. Like ``alpha`` it may be traced.
      alpha: :math:`\alpha > 0`, a number.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything.
      chunk_size: for how many proxies a device has the cosines at a time, by default a million cosines.

    Returns:
      A scalar; float64 if an embedding or a proxy is, else float32. Inside of ``shard_map`` it is that of a device's
      examples: gather embeddings and labels before.

    Raises:
      TypeError: ``embeddings`` or ``proxies`` are not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``embeddings`` or ``proxies`` are not of two axes with as many features, ``labels`` has another
        length, an option is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> embeddings, labels = jnp.array([[1.0, 0.2], [0.9, 0.1], [0.6, 0.7]]), jnp.array([0, 0, 1])
      >>> proxies = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
      >>> print(f"{jaxloss.proxy_anchor_loss(embeddings, labels, proxies):.4f}")
      11.1879

    References:
      Kim et al., Proxy Anchor Loss for Deep Metric Learning, https://arxiv.org/abs/2003.13911.
    """
    name = "proxy_anchor_loss"
    x = arguments.floating(name, "embeddings", embeddings)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name}: expected `embeddings` of shape (batch, features), got {x.shape}.")
    p = arguments.floating(name, "proxies", proxies)
    if p.ndim != 2:
        raise ValueError(f"{name}: expected `proxies` of shape (classes, {x.shape[1]}), got {p.shape}.")
    arguments.same_shape(name, "proxies", p, (p.shape[0], x.shape[1]))
    y = arguments.integer(name, "labels", labels)
    arguments.same_shape(name, "labels", y, x.shape[:1])
    dtype = arguments.compute_dtype(x, p)
    numbers = tuple(arguments.scalar(name, *option, dtype) for option in (("margin", margin), ("alpha", alpha)))
    mask = prepare_mask(name, where, None, y.shape, dtype)
    classes = jnp.arange(p.shape[0], dtype=y.dtype)
    vectors = unit_vectors(p, dtype), unit_vectors(mask.fill(x), dtype)
    pairs = Pairs(*vectors, Identity(classes, None, None), Identity(y, None, mask.examples), numbers)
    pull, present = reduced(plan(name, _pull, *vectors, chunk_size), pairs, Mask(), "sum")
    push, _ = reduced(plan(name, _push, *vectors, chunk_size), pairs, Mask(), "mean")
    valid = in_range(y, p.shape[0])
    valid = (valid if mask.examples is None else valid | ~mask.examples).all()
    return nan_unless(valid, dtype) * (divide_or_zero(pull, present.sum()) + push)


def _raised(loss: Array, shift: Array) -> Array:
    """The cross entropy of a class whose logit is lowered by ``shift``.

    A cross entropy is softplus(d), d = log(exp(loss) - 1) the logsumexp of the others less the logit: d + shift then.
    """
    some = (loss > 0) | jnp.isnan(loss)
    loss = jnp.where(some, loss, 1)
    return jnp.where(some, softplus(loss + jnp.log(-jnp.expm1(-loss)) + shift), 0)


def _lowered(x: Array, t: Array, multiplier: Array, margin: Array, cosine_margin: Array) -> Array:
    """By how much the margins lower the cosine of two vectors.

    1 - cos = 2 sin(angle / 2)^2 and 1 + cos = 2 cos(angle / 2)^2 are both exact, so that the angle is.
    """
    below, above = cosine_distance(x, t), cosine_distance(x, -t)
    angle = multiplier * 2 * jnp.arctan2(root(below), root(above)) + margin
    turns = lax.stop_gradient(jnp.floor(angle / np.pi))
    return 1 - below - ((1 - 2 * (turns % 2)) * jnp.cos(angle) - 2 * turns) + cosine_margin


@compiled(scale=arguments.POSITIVE, multiplier=arguments.AT_LEAST_ONE)
def angular_margin_loss(
    embeddings: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    class_axis: int = -1,
    scale: ArrayLike = 64.0,
    margin: ArrayLike = 0.5,
    cosine_margin: ArrayLike = 0.0,
    multiplier: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    class_axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""ArcFace, CosFace and SphereFace: the cross entropy of scaled cosines, with a margin on the label's angle.

    .. math::
        \ell = -\log \frac{e^{s \psi(\theta_y)}}{e^{s \psi(\theta_y)} + \sum_{c \ne y} e^{s \cos \theta_c}}, \qquad
        \psi(\theta) = \cos(m_1 \theta + m_2) - m_3

    ArcFace is ``margin=0.5``, the default; CosFace ``margin=0, cosine_margin=0.35``; SphereFace
    ``margin=0, multiplier=4``, with the norms of the embeddings as ``scale``. The cosines are never in memory, see
    :func:`linear_cross_entropy`: a million classes need no matrix.

    Gradients are right near the angles 0 and :math:`\pi` too; exactly there the angle's is 0. Beyond
    :math:`m_1 \theta + m_2 = \pi` the cosine keeps falling, as SphereFace has it:
    :math:`\psi = (-1)^k \cos(\cdot) - 2 k - m_3` after k times :math:`\pi`. A logit that is above all others by 87
    before the margin costs 0 in float32, also with it.

    Args:
      embeddings: floating, of shape (..., features). Only directions count.
      weight: floating, of shape (features, classes), or its transpose with ``class_axis=0``: a vector of each class,
        of which only directions count.
      labels: :math:`y`, integers in [0, classes), of shape (...). Any other gives NaN.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      scale: :math:`s > 0`. Like the margins it may be traced, and broadcasts to the loss.
      margin: :math:`m_2`, in radians, at least 0.
      cosine_margin: :math:`m_3`.
      multiplier: :math:`m_1 \ge 1`.
      where: boolean, broadcast to the loss: False masks an example, which may contain anything.
      weights: real, broadcast to the loss. An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split, for ``"sum"`` and ``"mean"``.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of ``weight`` are split.
      chunk_size: how many examples a device has the cosines of at a time, as in :func:`linear_cross_entropy`.

    Returns:
      The loss in nats, of the shape of ``labels``, or a scalar; float64 if an embedding or a weight is, else float32.

    Raises:
      TypeError: ``embeddings`` or ``weight`` are not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: shapes do not fit, an option does not broadcast, a mapped axis does not exist.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> embeddings, labels = jnp.array([[1.0, 0.2], [0.6, 0.7]]), jnp.array([0, 1])
      >>> weight = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
      >>> print(jaxloss.angular_margin_loss(embeddings, weight, labels, scale=10.0).round(4))
      [0.0033 3.0152]

    InsightFace and PyTorch Metric Learning (``ArcFaceLoss``, degrees) take :math:`\cos \theta - m_2 \sin m_2` beyond
    :math:`\theta + m_2 = \pi`, where it jumps.

    References:
      ArcFace: Deng et al., https://arxiv.org/abs/1801.07698. CosFace: Wang et al., https://arxiv.org/abs/1801.09414.
      SphereFace: Liu et al., https://arxiv.org/abs/1704.08063.
    """
    name = "angular_margin_loss"
    arguments.choice(name, "reduction", reduction, axis_name)
    if chunk_size is not None:
        chunk_size = arguments.positive_integer(name, "chunk_size", chunk_size)
    x, w = arguments.floating(name, "embeddings", embeddings), arguments.floating(name, "weight", weight)
    axis = arguments.class_axis(name, class_axis, w.shape)
    dtype = arguments.compute_dtype(x, w)
    y = arguments.integer(name, "labels", labels)
    arguments.same_shape(name, "labels", y, x.shape[:-1])
    mask = prepare_mask(name, where, weights, y.shape, dtype).exclude(is_finite_row(x))
    options = {"scale": scale, "margin": margin, "cosine_margin": cosine_margin, "multiplier": multiplier}
    s, m2, m3, m1 = (per_example_option(name, *option, mask, y.shape, dtype) for option in options.items())
    u, v = unit_vectors(mask.fill(x), dtype), unit_vectors(w if axis == 0 else w.T, dtype)
    y = mask.fill_options(y, 0)
    y = y if any(jax.typeof(x).sharding.spec) else replicate_from_axis(y)
    losses = linear_cross_entropy(
        u, v, y, class_axis=0, logit_scale=s, class_axis_name=class_axis_name, chunk_size=chunk_size
    )
    own = _own(v, y, class_axis_name)
    shift = s * _lowered(u, own, m1, m2, m3)
    return mask.reduce(_raised(losses, shift), reduction, axis_name)


def _own(vectors: Array, labels: Array, class_axis_name: AxisName | None) -> Array:
    """The vector of each label; of a label out of range any, whose loss is NaN."""
    local = local_labels(labels, vectors[:, 0], class_axis_name)
    valid = in_range(local, vectors.shape[0])
    found = take_rows(vectors, jnp.where(valid, local, 0))
    return found if class_axis_name is None else lax.psum(jnp.where(valid[..., None], found, 0), class_axis_name)
