"""Losses of pairs and triplets of embeddings, and of distances between them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, cpu_fusion_barrier, cpu_shortcut, cpu_sum_barrier, shard_like, zeros_of_type
from ._core.derivatives import custom_derivative
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.masks import Mask, prepare_mask
from ._core.rows import as_rows, defer_upcast, is_finite_row, per_example_option, prepare_logits
from ._core.special import power_of_two, relu, softplus
from ._core.types import Axis, Reduction
from ._core.vectors import compare_vectors, distance_gradients, is_ordinary, prepare_vectors

_SHRUNK = 2.0**-6  # exact, and long enough for the largest numbers in 1024 features


def _difference(a: Array, b: Array, dtype: np.dtype) -> Array:
    return _SHRUNK * a.astype(dtype) - _SHRUNK * b.astype(dtype)


# Distances are u (sum |(a - b) / u|^q + eps / u^q)^(1/q) for any u, a constant to derivatives. As the root of the
# largest term it keeps all powers in range. For squares u is a power of two, which is exact.


def _distance(a: Array, b: Array, eps: Array, q: Array, known: float | None) -> Array:
    """(sum |a - b|^q + eps)^(1/q), shrunk; ``known`` is a degree that needs no powers."""
    return _euclidean(a, b, eps) if known == 2 else _minkowski(a, b, eps, q, known)


def _largest_term(difference: Array, root_of_eps: Array) -> Array:
    constant = lax.stop_gradient(difference)  # whose size XLA would write to memory
    largest = jnp.maximum(constant.max(-1, keepdims=True), -constant.min(-1, keepdims=True))
    return jnp.maximum(largest, _SHRUNK * lax.stop_gradient(root_of_eps))


def _scaled_squares(a: Array, b: Array, eps: Array, total: Array) -> tuple[Array, Array]:
    """The sum of the squares of (a - b) / u and of eps / u^2, and u."""
    unit = power_of_two(_largest_term(_difference(a, b, eps.dtype), jnp.sqrt(lax.stop_gradient(eps))))
    unit *= jnp.where(unit > 1, 2.0**-20, 1)  # tangents are divided by it, and cotangents multiplied
    a, b, unit = map(lax.optimization_barrier, (a, b, unit))  # else the difference is kept
    (total,) = cpu_fusion_barrier(jnp.square(_difference(a, b, eps.dtype) / unit).sum(-1, keepdims=True))
    return total + eps * _squared_unit_of_eps(unit), unit


def _squared_unit_of_eps(unit: Array) -> Array:
    highest = float(jnp.finfo(unit.dtype).max) ** 0.5 / 1024  # whose square, times a logarithm, is a number
    return jnp.square(jnp.minimum(_SHRUNK / unit, highest))


def _unscaled_squares(a: Array, b: Array, eps: Array, total: Array) -> tuple[Array, Array]:
    return total, 1 + zeros_of_type(total)


@jax.custom_jvp
def _squared_distance(a: Array, b: Array) -> Array:
    return cpu_sum_barrier(jnp.square(a - b).sum(-1, keepdims=True))


@_squared_distance.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    a, b = primals
    largest = jnp.finfo(a.dtype).max / 4  # so that a cotangent of 0 gives 0 where the square overflows
    slope = 2 * jnp.clip(a - b, -largest, largest)
    return _squared_distance(a, b), (slope * (tangents[0] - tangents[1])).sum(-1, keepdims=True)


def _euclidean_forward(a: Array, b: Array, eps: Array) -> tuple[Array, tuple[Array, ...]]:
    eps = eps[..., None]
    total = _SHRUNK**2 * (_squared_distance(a.astype(eps.dtype), b.astype(eps.dtype)) + eps)
    total, unit = cpu_shortcut(~is_ordinary(total), _scaled_squares, _unscaled_squares, a, b, eps, total)
    unit = lax.stop_gradient(unit)  # else the condition gives it a tangent of zeros, which 1 / unit^2 makes NaN
    zero = total == 0
    root = jnp.sqrt(jnp.where(zero, 1, total))
    return jnp.where(zero, 0, unit * root)[..., 0], (a, b, unit, jnp.where(zero, 0, 1 / root))


def _euclidean_backward(saved: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array]:
    a, b, unit, inverse = map(lax.optimization_barrier, saved)  # else the differences are kept
    g = g[..., None] * inverse
    gradient = g * (_difference(a, b, g.dtype) / (unit / _SHRUNK))
    return gradient, -gradient, (g * unit * _squared_unit_of_eps(unit) / 2)[..., 0]


_euclidean = custom_derivative(_euclidean_forward, _euclidean_backward)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=4)
def _minkowski(a: Array, b: Array, eps: Array, q: Array, known: float | None) -> Array:
    difference = _difference(a, b, eps.dtype)
    if known in (1, np.inf):
        size = difference * jnp.sign(difference)
        return size.max(-1) if known == np.inf else size.sum(-1) + _SHRUNK * eps
    is_largest = q == jnp.inf  # has no powers
    distance = _distance_from_powers(difference, eps, jnp.where(is_largest, 2, q))
    return jnp.where(is_largest, (difference * jnp.sign(difference)).max(-1), distance)


def _distance_from_powers(difference: Array, eps: Array, q: Array) -> Array:
    q, eps = q[..., None], eps[..., None]
    finfo = jnp.finfo(eps.dtype)
    largest = _largest_term(difference, lax.stop_gradient(eps) ** (1 / lax.stop_gradient(q)))
    unit = lax.stop_gradient(jnp.clip(largest, 8 * finfo.tiny, finfo.max / 4))
    highest = float(finfo.max) ** (1 / lax.stop_gradient(jnp.maximum(q, 1))) / 1024  # as for squares
    (unit,) = cpu_fusion_barrier(unit)
    (total,) = cpu_fusion_barrier(_size_to_the(difference / unit, q, False).sum(-1, keepdims=True))
    total += eps * _size_to_the(jnp.minimum(_SHRUNK / unit, highest), q, False)
    zero = total == 0
    return jnp.where(zero, 0, unit * jnp.where(zero, 1, total) ** (1 / q))[..., 0]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _size_to_the(x: Array, q: Array, signed: bool) -> Array:
    """|x|^q, or that times sign(x). An infinite derivative at 0 is 0."""
    zero = x == 0
    value = jnp.where(zero, (q == 0).astype(x.dtype) + jnp.zeros_like(x), jnp.where(zero, 1, jnp.abs(x)) ** q)
    return jnp.sign(x) * value if signed else value


@_size_to_the.defjvp
def _(signed: bool, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    x, q = primals
    value, slope = _size_to_the(x, q, signed), q * _size_to_the(x, q - 1, not signed)
    log = jnp.log(jnp.where(x == 0, 1, jnp.abs(x)))
    return value, slope * tangents[0] + value * log * tangents[1]


@compiled(norm_degree=arguments.AT_LEAST_ONE, eps=arguments.NOT_NEGATIVE)
def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: Axis = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
    *,
    swap: bool = False,
    soft_margin: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Triplet loss: the positive is to be nearer to the anchor than the negative, by a margin.

    .. math::
        \ell = \max(0,\; d(a, p) - d(a, n) + m), \qquad d(a, b) = \Bigl(\sum_c |a_c - b_c|^q + \epsilon\Bigr)^{1/q}

    Distances of 1e-30 and 1e30 neither underflow nor overflow. Where the margin is met exactly the gradient is 0.

    Args:
      anchors: :math:`a`, floating, the features along ``axis``.
      positives: :math:`p`, floating, of the shape of ``anchors``.
      negatives: :math:`n`, floating, of the shape of ``anchors``.
      axis: the feature axis or axes (flattened together); None for all.
      norm_degree: :math:`q \ge 1`. It may be traced. ``math.inf`` is the largest difference, without ``eps``.
      margin: :math:`m`, in the unit of the distance.
      eps: :math:`\epsilon`, as in optax. With the default a vector is 1e-3 from itself (at q = 2). It may be 0, which
        is safe: a distance of 0 has gradient 0. Like ``norm_degree`` and ``margin`` it broadcasts to the loss.
      swap: whether the negative's distance is the lesser one of those to the anchor and to the positive.
      soft_margin: whether softplus takes the place of :math:`\max(0, \cdot)`; pass ``margin=0.0`` for the soft margin
        of papers.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``anchors`` it masks features; with a lower
        rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``anchors`` without ``axis``, or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: an embedding is not floating, ``where`` is not boolean.
      ValueError: embeddings have two shapes, ``axis`` is empty, an option, mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> anchors, positives = jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[3.0, 4.0], [1.0, 1.0]])
      >>> negatives = jnp.array([[0.0, 5.5], [0.5, 1.0]])
      >>> print(jaxloss.triplet_margin_loss(anchors, positives, negatives, eps=0))
      [0.5 0.5]

    optax forgets the absolute value: at q = 1 anchors of 0, positives of 9 and negatives of -9 cost 0 instead of the
    margin, at q = 3 NaN. PyTorch: ``triplet_margin_loss``, whose eps is added to each difference.
    :func:`margin_ranking_loss` is this loss of your own distances.

    References:
      Balntas et al., Learning local feature descriptors with triplets and shallow convolutional neural networks, 2016.
      Schroff, Kalenichenko and Philbin, FaceNet, https://arxiv.org/abs/1503.03832.
    """
    name = "triplet_margin_loss"
    arguments.choice(name, "reduction", reduction)
    arguments.flag(name, "soft_margin", soft_margin)
    a, features, where, axes = prepare_logits(name, "anchors", anchors, axis, where)
    others = {"positives": positives, "negatives": negatives}
    checked = [arguments.floating(name, argument, value) for argument, value in others.items()]
    for argument, value in zip(others, checked, strict=True):
        arguments.same_shape(name, argument, value, jnp.shape(anchors))
    rows = shard_like(a, [as_rows(value, axes) for value in checked])
    a, p, n = (Mask(classes=features).fill(x) for x in (a, *rows))
    dtype, shape = arguments.compute_dtype(a, p, n), a.shape[:-1]
    mask = prepare_mask(name, where, weights, shape, dtype)._replace(classes=features).without_empty_rows()
    mask = shard_like(a, mask.exclude(is_finite_row(a) & is_finite_row(p) & is_finite_row(n)))
    a, p, n = (defer_upcast(mask.fill_examples(x), dtype) for x in (a, p, n))

    options = {"norm_degree": norm_degree, "margin": margin, "eps": eps}
    q, m, epsilon = (
        per_example_option(name, argument, value, mask, shape, dtype) for argument, value in options.items()
    )
    known = next((degree for degree in (1, 2, np.inf) if arguments.is_number(norm_degree, degree)), None)
    to_positive, to_negative = (_distance(a, b, epsilon, q, known) for b in (p, n))
    if swap:
        to_negative = jnp.minimum(to_negative, _distance(p, n, epsilon, q, known))
    violation = to_positive - to_negative + _SHRUNK * m
    losses = softplus(violation / _SHRUNK) if soft_margin else relu(violation) / _SHRUNK
    return mask.reduce(losses, reduction)


def _cosine_embedding_forward(x: Array, t: Array, y: Array, m: Array) -> tuple[Array, tuple[Any, Array]]:
    cosine, distance, saved = compare_vectors(x, t)
    y = y.astype(distance.dtype) + jnp.zeros_like(distance)  # an explicit mesh wants them split alike
    slope = _by_label(y, 1, -(cosine > m).astype(m.dtype))
    return _by_label(y, distance, jnp.maximum(cosine - m, 0)), (saved, slope)


def _cosine_embedding_backward(saved: tuple[Any, Array], g: Array) -> tuple[Array | None, ...]:
    vectors, slope = saved  # by the distance
    return *distance_gradients(vectors, g * slope), None, g * jnp.minimum(slope, 0)


_cosine_embedding = custom_derivative(_cosine_embedding_forward, _cosine_embedding_backward)


def _by_label(y: Array, alike: ArrayLike, unlike: Array) -> Array:
    """The one for the label 1, the other for -1, NaN for any other label."""
    return jnp.where(y == 1, alike, jnp.where(y == -1, unlike, jnp.nan))


@compiled(margin=arguments.COSINE)
def cosine_embedding_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Cosine loss of pairs that are to agree, with label 1, or not to, with label -1.

    .. math::
        \ell = \begin{cases} 1 - \cos(x, t) & y = 1 \\ \max(0,\; \cos(x, t) - m) & y = -1 \end{cases}

    The first is :func:`cosine_distance`, exact for near vectors, too. With a vector of zeros the cosine is 0, with
    gradient 0; where the margin is met exactly the gradient is 0.

    Args:
      predictions: :math:`x`, floating, the features along ``axis``.
      targets: :math:`t`, real, of the shape of ``predictions``.
      labels: :math:`y`, -1 or 1, of the shape of the loss. Any other gives NaN for its example. Booleans and unsigned
        integers, which cannot hold -1, raise.
      margin: :math:`m` in [-1, 1]. It may be traced, and may differ from example to example: it broadcasts to the loss.
      axis: the feature axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``predictions`` it masks features; with a lower
        rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in [0, 2], of the shape of ``predictions`` without ``axis``, or a scalar;
      float64 if ``predictions`` or ``targets`` are, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``labels`` is not signed, ``where`` is not
        boolean.
      ValueError: ``targets`` has another shape than ``predictions``, ``labels`` than the loss, ``axis`` is empty, an
        option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> predictions, targets = jnp.array([[1.0, 0.0], [3.0, 4.0]]), jnp.array([[0.0, 2.0], [0.0, 1.0]])
      >>> print(jaxloss.cosine_embedding_loss(predictions, targets, jnp.array([1, -1]), margin=0.3))
      [1.  0.5]

    PyTorch: ``cosine_embedding_loss``, whose squared norms have 1e-12 added; vectors as long as 1e20 are NaN.

    References:
      Hadsell, Chopra and LeCun, Dimensionality Reduction by Learning an Invariant Mapping, 2006, with cosines.
    """
    name = "cosine_embedding_loss"
    x, t, _, mask = prepare_vectors(name, predictions, targets, 0.0, axis, where, weights, reduction)
    y = arguments.fill_row_targets(name, "labels", arguments.signed(name, "labels", labels), x)
    y = mask.fill_options(y)
    m = per_example_option(name, "margin", margin, mask, y.shape, arguments.compute_dtype(x, t))
    return mask.reduce(_cosine_embedding(x, t, y, m, unweighted=mask.unweighted), reduction)


def _hinge_embedding_slopes(x: Array, t: Array, m: Array) -> tuple[Array | None, ...]:
    violated = (x < m).astype(x.dtype)
    return _by_label(t, 1, -violated), None, _by_label(t, 0, violated)


_hinge_embedding = elementwise(lambda x, t, m: _by_label(t, x, jnp.maximum(m - x, 0)), _hinge_embedding_slopes)


@compiled()
def hinge_embedding_loss(
    distances: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Hinge loss of distances that are to be small, with target 1, or at least a margin, with target -1.

    .. math::
        \ell = \begin{cases} x & t = 1 \\ \max(0,\; m - x) & t = -1 \end{cases}

    Args:
      distances: :math:`x`, floating, of any shape: of distances and not of embeddings, each element is one pair.
      targets: :math:`t`, -1 or 1, of the shape of ``distances``. Any other gives NaN. Booleans and unsigned integers,
        which cannot hold -1, raise.
      margin: :math:`m`, in the unit of the distances. It may be traced, and broadcasts to the loss.
      where: boolean mask, broadcast to the shape of ``distances``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``distances``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``distances``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``distances`` is not floating, ``targets`` is not signed, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``distances``, the margin, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.hinge_embedding_loss(jnp.array([0.25, 0.25, 3.0]), jnp.array([1, -1, -1])))
      [0.25 0.75 0.  ]

    PyTorch: ``hinge_embedding_loss``, in which a target that is neither costs both: 0.25 costs 1 with a target of 0.

    References:
      Hadsell, Chopra and LeCun, Dimensionality Reduction by Learning an Invariant Mapping, 2006, without squares.
    """
    arrays, mask = prepare_elementwise(
        "hinge_embedding_loss",
        {"distances": distances, "targets": targets},
        {"margin": margin},
        where,
        weights,
        reduction,
        kinds=(arguments.floating, arguments.signed),
    )
    return mask.reduce(_hinge_embedding(*arrays, unweighted=mask.unweighted), reduction)
