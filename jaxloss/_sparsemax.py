"""Losses of the sparsemax, and Fenchel-Young losses of any maximum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import class_max, in_range, infinite_if_masked, nan_unless, one_hot_mask, take_label
from ._core.compiler import compiled, cpu_sum_barrier
from ._core.derivatives import custom_derivative
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.masks import Mask
from ._core.softmax import gap_to_max
from ._core.special import bounded_product, multiply_no_nan, relu
from ._core.types import Reduction
from ._multiclass_margin import prepare_scores


def _binary_parts(x: Array, t: Array) -> tuple[Array, Array, Array]:
    """|x|, and how far the label and p are from the end, 0 or 1, that p is nearer to."""
    size = jnp.where(x > 0, x, -x)  # with a slope at 0, too
    return size, jnp.where(x > 0, 1 - t, t), (1 - jnp.minimum(size, 1)) / 2


def _binary_element(x: Array, t: Array) -> Array:
    size, label, near = _binary_parts(x, t)
    return cpu_sum_barrier(jnp.square(label - near) + bounded_product(label, jnp.maximum(size - 1, 0)))


def _binary_slopes(x: Array, t: Array) -> tuple[Array, Array]:
    _, label, near = _binary_parts(x, t)
    distance = jnp.where(x > 0, label - near, near - label)
    return distance, jnp.clip(x, -1, 1) - x - 2 * distance


_binary = elementwise(_binary_element, _binary_slopes)


@compiled()
def sparsemax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Sparsemax loss of yes or no, for each element: 0 from a margin of 1 on, as a hinge, and smooth.

    .. math::
        \ell = \left(\frac{1 + c}{2} - t\right)^2 + (1 - t) \max(0, x - 1) + t \max(0, -1 - x), \quad
        c = \min(\max(x, -1), 1), \qquad
        \frac{\partial \ell}{\partial x} = \frac{1 + c}{2} - t

    Args:
      logits: :math:`x`, floating, of any shape.
      labels: target probabilities :math:`t` in [0, 1], real, of the shape of ``logits``: 0 and 1, not -1 and 1.
      where: boolean mask, broadcast to the shape of ``logits``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``logits``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss, of the shape of ``logits``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``logits``, a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.sparsemax_loss(jnp.array([2.0, 0.0, -3.0]), jnp.array([1, 1, 1])))
      [0.   0.25 3.  ]

    optax takes every label that is not 0 for yes, also 0.1 and -1.

    References:
      Blondel, Martins and Niculae, https://arxiv.org/abs/1901.02324, section 4.4.
    """
    arrays, mask = prepare_elementwise(
        "sparsemax_loss", {"logits": logits, "labels": labels}, {}, where, weights, reduction
    )
    return mask.reduce(_binary(*arrays, unweighted=mask.unweighted), reduction)


@jax.custom_jvp
def _threshold(z: Array) -> Array:
    """The tau at which the sum of max(z_c - tau, 0) is 1, for rows whose maximum is 0.

    By Newton's method from -1, below the root of a convex function of straight pieces: each step is the mean of what is
    above the last one, less its share of 1. A few of them do what a sort would. A step that rises leaves out a class,
    so that there are no more steps than classes; where a class ties the threshold, rounding may go back by a digit.
    """

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, tau, _ = state
        above = z > tau[..., None]
        root = (jnp.where(above, z, 0).sum(-1) - 1) / jnp.maximum(above.sum(-1), 1).astype(z.dtype)
        return i + 1, jnp.maximum(tau, root), (root > tau).any()

    def rises(state: tuple[Array, Array, Array]) -> Array:
        i, _, risen = state
        return risen & (i < z.shape[-1])

    start = z.max(-1) - 1
    tau: Array = lax.while_loop(rises, step, step((jnp.int32(0), start, jnp.bool_(True))))[1]
    return tau


@_threshold.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    tau = _threshold(*primals)
    above = primals[0] > tau[..., None]
    return tau, jnp.where(above, tangents[0], 0).sum(-1) / above.sum(-1).astype(tau.dtype)


class _Saved(NamedTuple):
    s: Array
    y: Array
    classes: Array | None
    top: Array
    tau: Array  # of the scores less that


def _relative(s: Array, classes: Array | None, top: Array) -> Array:
    """The scores less the best one."""
    s = s.astype(top.dtype)
    return -gap_to_max(s if classes is None else jnp.where(classes, s, -jnp.inf), top[..., None])


def _other_probabilities(z: Array, y: Array, tau: Array) -> Array:
    """The probabilities of all classes but the label."""
    return jnp.where(one_hot_mask(y, z), 0, relu(z - tau[..., None]))


def _forward(s: Array, y: Array, classes: Array | None) -> tuple[Array, _Saved]:
    top = class_max(Mask(classes=classes).fill_classes(s.astype(arguments.compute_dtype(s)), -np.inf), None)
    z = _relative(s, classes, top)
    tau = _threshold(z)
    p = _other_probabilities(z, y, tau)
    losses = (jnp.square(p).sum(-1) + jnp.square(p.sum(-1))) / 2 + relu(tau - take_label(z, y))
    losses *= nan_unless(in_range(y, s.shape[-1]), losses.dtype)
    return jnp.where(top == -jnp.inf, jnp.inf, losses), _Saved(s, y, classes, top, tau)


def _backward(saved: _Saved, g: Array) -> tuple[Array | None, ...]:
    s, y, classes, top, tau = saved
    z = _relative(s, classes, top)
    p = _other_probabilities(z, y, tau)
    g = jnp.where(top == -jnp.inf, 0, g) * nan_unless(in_range(y, s.shape[-1]), g.dtype)
    return g[..., None] * jnp.where(one_hot_mask(y, z), -p.sum(-1, keepdims=True), p), None, None


_sparsemax = custom_derivative(_forward, _backward, loop=True)


@compiled()
def multiclass_sparsemax_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Sparsemax loss with the index of the right class: as a cross entropy, of a softmax that reaches 0.

    .. math::
        \ell = \max_p \left(p \cdot s + \tfrac12 (1 - \|p\|^2)\right) - s_y
             = \tfrac12 \|p - e_y\|^2 + \max(0, \tau - s_y), \qquad
        \frac{\partial \ell}{\partial s} = p - e_y

    with :math:`p = \mathrm{sparsemax}(s) = \max(s - \tau, 0)`, whose entries sum to 1. It is 0 if the label is 1 above
    all others.

    Args:
      scores: :math:`s`, real, the classes along ``axis``. ``-inf`` is a class that cannot be chosen.
      labels: :math:`y`, integers in [0, classes), of the shape of ``scores`` without ``axis``; for several axes, an
        index into them flattened. Any other integer, -1 too, gives NaN for its example.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``scores`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``labels``, or a scalar; float64 if ``scores`` is, else float32.

    Raises:
      TypeError: ``scores`` is not real, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> scores = jnp.array([[2.0, 1.0, 0.0], [0.5, 0.0, -1.0]])
      >>> print(jaxloss.multiclass_sparsemax_loss(scores, jnp.array([0, 1])))
      [0.     0.5625]

    optax takes scores of shape (batch, classes) only, has no gradient in half precision, and loses its digits where
    scores are large: beside 1e6 a loss of 0.06 comes out as -202.

    References:
      Martins and Astudillo, https://arxiv.org/abs/1602.02068, equation 18.
    """
    row, mask = prepare_scores("multiclass_sparsemax_loss", scores, labels, axis, where, weights, reduction)
    return mask.reduce(infinite_if_masked(_sparsemax(*row, unweighted=mask.unweighted), *row[1:]), reduction)


def make_fenchel_young_loss(max_fun: Callable[..., ArrayLike]) -> Callable[..., Array]:
    r"""The Fenchel-Young loss of a maximum: how far the scores of the targets are below it.

    .. math::
        \ell = \max_{p} \left(p \cdot s - \Omega(p)\right) - t \cdot s

    It leaves out :math:`\Omega(t)`, which no score changes, and which is 0 for one-hot targets of a softmax or a
    sparsemax. The gradient by the scores is that of ``max_fun`` less the targets.

    Of ``logsumexp`` it is :func:`softmax_cross_entropy`, and of a sparsemax :func:`multiclass_sparsemax_loss`: take
    those, they do not subtract two large numbers.

    Args:
      max_fun: from scores of shape (classes,), and what else the loss is given, the maximum, of shape ().

    Returns:
      A function ``(scores, targets, *args, **kwargs)``, of scores (floating) and targets (real) of one shape (...,
      classes), whose further arguments are those of ``max_fun``. It returns the loss of each row. A target of 0 costs
      nothing, whatever the score.

    Raises:
      TypeError: when called, ``scores`` is not floating or ``targets`` is not real.
      ValueError: when called, ``targets`` has another shape than ``scores``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> from jax.scipy.special import logsumexp
      >>> loss = jaxloss.make_fenchel_young_loss(logsumexp)
      >>> print(f"{loss(jnp.array([2.0, 1.0]), jnp.array([1.0, 0.0])):.4f}")
      0.3133

    References:
      Blondel, Martins and Niculae, https://arxiv.org/abs/1901.02324, definition 1.
    """

    def fenchel_young_loss(scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any) -> Array:
        name = "fenchel_young_loss"
        s, t = arguments.floating(name, "scores", scores), arguments.real(name, "targets", targets)
        arguments.same_shape(name, "targets", t, s.shape)
        arguments.class_axes(name, -1, s.shape)
        s, t = (a.astype(arguments.compute_dtype(s, t)) for a in (s, t))
        maximum = jnp.vectorize(lambda row: max_fun(row, *args, **kwargs), signature="(n)->()")(s)
        return jnp.asarray(maximum) - multiply_no_nan(t, s).sum(-1)

    return fenchel_young_loss
