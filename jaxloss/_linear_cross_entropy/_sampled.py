"""Losses of hidden states and a sample of the classes, for training with more of them than can all be compared."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .._core import arguments
from .._core.classes import in_range, nan_unless
from .._core.compiler import compiled
from .._core.cross_entropy import Options, dense_cross_entropy
from .._core.masks import Mask, prepare_mask
from .._core.named_classes import PADDING, are_valid
from .._core.rows import is_finite_row
from .._core.types import Reduction
from .._sigmoid_cross_entropy import sigmoid_elements
from ._call import dtype_of, head
from ._head import Head, at_least_float32, dot


class _Sample(NamedTuple):
    """Rows of the labels and of the sampled classes, in this order."""

    logits: Array  # less the logarithms of the expected counts; NaN in rows of an invalid label
    targets: Array  # 1 / n for each of n labels, 0 for the others
    mask: Mask  # of classes, too: of padding and of accidental hits


def _sample(
    name: str,
    head_arguments: tuple[ArrayLike, ArrayLike, ArrayLike | None, int],
    labels: ArrayLike,
    sampled: ArrayLike,
    log_expected_counts: ArrayLike | None,
    remove_accidental_hits: bool,
    where: ArrayLike | None,
    weights: ArrayLike | None,
) -> _Sample:
    if not isinstance(remove_accidental_hits, bool):
        got = repr(remove_accidental_hits)
        raise TypeError(f"{name}: expected `remove_accidental_hits` to be True or False, got {got}.")
    linear_head, axis = head(name, "", *head_arguments)
    dtype, shape = dtype_of(linear_head), linear_head.hidden.shape[:-1]
    classes = linear_head.weight.shape[axis]
    y, s = arguments.signed_integer(name, "labels", labels), arguments.integer(name, "sampled", sampled)
    k = y.shape[-1] if y.ndim > len(shape) else 1
    arguments.same_shape(name, "labels", y, (*shape, k), "; the classes of each example, padded with -1")
    arguments.same_shape(name, "sampled", s, (s.size,), "; the same classes for all examples")
    shift = jnp.zeros(classes, dtype) if linear_head.bias is None else linear_head.bias.astype(dtype)
    if log_expected_counts is not None:
        counts = arguments.floating(name, "log_expected_counts", log_expected_counts)
        arguments.same_shape(name, "log_expected_counts", counts, (classes,))
        shift -= counts.astype(dtype)
    mask = prepare_mask(name, where, weights, shape, dtype)
    mask = mask.exclude(is_finite_row(linear_head.hidden) & are_valid(y, classes))
    linear_head = linear_head._replace(hidden=mask.fill_examples(linear_head.hidden))
    y = mask.fill_examples(y, PADDING)
    logits = jnp.concatenate([_of_each(linear_head, axis, y), _of_all(linear_head, axis, s)], -1)
    of_rows = jnp.broadcast_to(s, (*shape, s.size))
    ids = jnp.concatenate([y, of_rows], -1)
    logits += jnp.take(shift, jnp.clip(ids, 0, classes - 1))
    valid = are_valid(y, classes) & in_range(s, classes).all()
    is_label = y != PADDING
    hits = (y[..., :, None] == of_rows[..., None, :]).any(-2) & remove_accidental_hits
    targets = is_label.astype(dtype)
    targets /= jnp.maximum(targets.sum(-1, keepdims=True), 1)
    return _Sample(
        logits * nan_unless(valid, dtype)[..., None],
        jnp.concatenate([targets, jnp.zeros((*shape, s.size), dtype)], -1),
        mask._replace(classes=jnp.concatenate([is_label, ~hits], -1)),
    )


def _of_each(head: Head, axis: int, labels: Array) -> Array:
    """The products of each example with its own labels' columns of the weight."""
    labels = jnp.clip(labels, 0, head.weight.shape[axis] - 1)
    columns = jnp.moveaxis(jnp.take(head.weight, labels, axis=axis), 0 if axis else -1, -1)
    return (at_least_float32(head.hidden)[..., None, :] * at_least_float32(columns)).sum(-1)


def _of_all(head: Head, axis: int, sampled: Array) -> Array:
    columns = jnp.take(head.weight, jnp.clip(sampled, 0, head.weight.shape[axis] - 1), axis=axis)
    return dot(head.hidden, columns, ((head.hidden.ndim - 1,), (1 - axis,)))


@compiled()
def sampled_softmax_loss(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    sampled: ArrayLike,
    *,
    log_expected_counts: ArrayLike | None = None,
    remove_accidental_hits: bool = True,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Cross entropy of a softmax over the labels and a sample of the other classes.

    .. math::
        \ell = -\frac{1}{n} \sum_{y \in Y} \log \frac{e^{z_y}}{\sum_{c \in Y} e^{z_c} + \sum_{c \in S} e^{z_c}}, \quad
        z_c = h \cdot w_c + b_c - \log E_c

    :math:`Y` are the n labels of an example, and :math:`S` the classes that were sampled for all examples, without
    those that are labels. With :math:`E_c`, how often class c is expected in the sample, it has its minimum where
    :math:`h \cdot w_c + b_c` are the logits of the cross entropy over all classes. Its value is another, that of a
    choice among fewer classes: measure with all of them. It takes samples / classes of the work. If there is time for
    all of it, :func:`linear_cross_entropy` has no error, and needs no more memory. It gathers classes of the weight,
    which an explicit mesh refuses: there call it inside of ``shard_map``.

    Args:
      hidden: floating array (..., features).
      weight: floating array (features, classes), or its transpose with ``class_axis=0``, of which a class is read at
        once.
      labels: integers (..., k), the classes Y of each example. Fewer than k are padded with -1. Any other integer
        outside of [0, classes) gives NaN. A class that is named twice counts twice.
      sampled: integers (samples,), drawn by you, as with ``jax.random.categorical``. A class that is drawn twice counts
        twice. A number outside of [0, classes) gives NaN.
      log_expected_counts: shape (classes,), :math:`\log E_c`: of m draws with replacement, of probability :math:`q_c`,
        :math:`\log (m q_c)`; without replacement, :math:`\log (1 - (1 - q_c)^m)` for m tries. A constant has no effect,
        so it is not needed if all classes are as likely.
      remove_accidental_hits: whether a sampled class that is a label of an example is left out of its row.
      bias: shape (classes,).
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      where: boolean, broadcast to the shape of ``hidden`` without its last axis: False masks an example, see
        :func:`jaxloss.reduce`.
      weights: real, broadcast to the same. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``hidden`` without its last axis, or a scalar; float64 if ``hidden`` or
      ``weight`` is, else float32. An example without labels costs 0.

    Raises:
      TypeError: ``hidden`` or ``weight`` is not floating, ``labels`` or ``sampled`` is not integer.
      ValueError: features or shapes do not agree.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden, items = jnp.ones((2, 4)), jnp.eye(1000, 4)
      >>> popularity = jax.nn.log_softmax(-0.01 * jnp.arange(1000.0))  # log q
      >>> sampled = jax.random.categorical(jax.random.key(0), popularity, shape=(50,))
      >>> loss = jaxloss.sampled_softmax_loss(
      ...     hidden, items, jnp.array([[3], [700]]), sampled, log_expected_counts=popularity, class_axis=0
      ... )

    TensorFlow: ``sampled_softmax_loss`` (weights of (classes, features)), which samples itself unless it gets
    ``sampled_values``.

    References:
      Jean et al., On Using Very Large Target Vocabulary for Neural Machine Translation,
      https://arxiv.org/abs/1412.2007. Bengio and Senecal, Adaptive Importance Sampling to Accelerate Training of a
      Neural Probabilistic Language Model, 2008.
    """
    name = "sampled_softmax_loss"
    head_arguments = hidden, weight, bias, class_axis
    x, t, mask = _sample(
        name, head_arguments, labels, sampled, log_expected_counts, remove_accidental_hits, where, weights
    )
    arguments.choice(name, "reduction", reduction)
    losses = dense_cross_entropy(x, t, mask.without_weight(), Options(), unweighted=mask.unweighted)
    return mask.reduce(losses, reduction)


@compiled()
def nce_loss(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    sampled: ArrayLike,
    *,
    log_expected_counts: ArrayLike | None = None,
    remove_accidental_hits: bool = False,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Noise-contrastive estimation: cross entropy of a sigmoid of each label and of each class that was sampled.

    .. math::
        \ell = -\sum_{y \in Y} \Bigl(\frac{1}{n} \log \sigma(z_y) + \Bigl(1 - \frac{1}{n}\Bigr) \log \sigma(-z_y)\Bigr)
        - \sum_{c \in S} \log \sigma(-z_c), \quad z_c = h \cdot w_c + b_c - \log E_c

    :math:`Y` are the n labels of an example, in most cases one, and :math:`S` the classes that were sampled for all
    examples, by their noise distribution. Without ``log_expected_counts`` it is negative sampling, as in word2vec. On
    an explicit mesh call it inside of ``shard_map``, as :func:`sampled_softmax_loss`.

    Args:
      hidden: floating array (..., features).
      weight: floating array (features, classes), or its transpose with ``class_axis=0``, of which a class is read at
        once.
      labels: integers (..., k), the classes Y of each example. Fewer than k are padded with -1. Any other integer
        outside of [0, classes) gives NaN.
      sampled: integers (samples,), drawn by you, see :func:`sampled_softmax_loss`.
      log_expected_counts: shape (classes,), :math:`\log E_c`, how often class c is expected in the sample, see
        :func:`sampled_softmax_loss`. Here a constant has an effect.
      remove_accidental_hits: whether a sampled class that is a label of an example is left out of its row. Estimation
        needs them in it.
      bias: shape (classes,).
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      where: boolean, broadcast to the shape of ``hidden`` without its last axis: False masks an example, see
        :func:`jaxloss.reduce`.
      weights: real, broadcast to the same. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``hidden`` without its last axis, or a scalar; float64 if ``hidden`` or
      ``weight`` is, else float32.

    Raises:
      TypeError: ``hidden`` or ``weight`` is not floating, ``labels`` or ``sampled`` is not integer.
      ValueError: features or shapes do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden = jnp.array([[1.0, 2.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> loss = jaxloss.nce_loss(hidden, weight, jnp.array([[0]]), jnp.array([1, 2]))
      >>> print(f"{loss[0]:.4f}")
      1.9744

    TensorFlow: ``nce_loss`` (weights of (classes, features)), which samples itself unless it gets ``sampled_values``.

    References:
      Gutmann and Hyvarinen, Noise-Contrastive Estimation, 2010. Mikolov et al., https://arxiv.org/abs/1310.4546.
    """
    name = "nce_loss"
    head_arguments = hidden, weight, bias, class_axis
    x, t, mask = _sample(
        name, head_arguments, labels, sampled, log_expected_counts, remove_accidental_hits, where, weights
    )
    arguments.choice(name, "reduction", reduction)
    losses = mask.fill_classes(sigmoid_elements(mask.fill_classes(x), t, None)).sum(-1)
    return mask.reduce(losses, reduction)
