"""The Tversky loss of a mask of probabilities, of which dice and Jaccard losses are special cases."""

from __future__ import annotations

from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.elementwise import prepare_summed
from ._core.overlap import error_share, given_probabilities
from ._core.types import Axis, Reduction


@compiled(alpha=arguments.NOT_NEGATIVE, beta=arguments.NOT_NEGATIVE, smooth=arguments.NOT_NEGATIVE)
def tversky_loss(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    smooth: ArrayLike = 0.0,
    axis: Axis = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Tversky loss of a mask of probabilities: the share of the errors, false positives and negatives weighed apart.

    .. math::
        \ell = 1 - \frac{I + s}{I + \alpha F_p + \beta F_n + s}
             = \frac{\alpha F_p + \beta F_n}{I + \alpha F_p + \beta F_n + s}, \qquad
        I = \sum_i p_i t_i, \quad F_p = \sum_i p_i (1 - t_i), \quad F_n = \sum_i (1 - p_i)\, t_i

    With :math:`\alpha = \beta = 1/2` it is the dice loss, with :math:`\alpha = \beta = 1` the Jaccard loss, one minus
    the intersection over the union. It is computed as the share on the right, never as 1 minus a ratio, so that a
    nearly perfect mask keeps its digits. Nothing predicted where nothing is, without ``smooth`` 0 / 0, is perfect: 0,
    with zero gradient.

    Args:
      probabilities: :math:`p` in [0, 1], real: for each pixel, that it is in the mask.
      targets: :math:`t` in [0, 1], real, of the shape of ``probabilities``.
      alpha: :math:`\alpha \ge 0`, the weight of false positives.
      beta: :math:`\beta \ge 0`, the weight of false negatives.
      smooth: :math:`s \ge 0`, in pixels.
      axis: the axis of the pixels of one mask, or several, or None for all: one mask.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``targets`` it masks pixels; with a lower rank,
        masks, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    ``alpha``, ``beta`` and ``smooth`` may be traced, and may differ between masks: they broadcast to the loss.

    Returns:
      The loss in [0, 1], of the shape of ``targets`` without ``axis``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: an array is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``probabilities``, ``axis`` is empty, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> probabilities, targets = jnp.array([0.75, 1.0, 0.25, 0.0]), jnp.array([1, 1, 0, 0])
      >>> print(jaxloss.tversky_loss(probabilities, targets))
      0.125
      >>> # one minus the soft IoU of each class, over the whole batch
      >>> p, t = jnp.array([[[0.5, 0.5], [0.25, 0.75]]]), jnp.array([[[1, 0], [0, 1]]])
      >>> print(jaxloss.tversky_loss(p, t, alpha=1, beta=1, axis=(0, 1)))
      [0.6 0.5]

    Keras: ``dice`` and ``tversky``, (targets, probabilities), which add 1e-7 below, so that nothing predicted where
    nothing is costs 1. The ``alpha`` of its ``tversky`` weighs false negatives, whatever its documentation says: of
    probabilities [0.9, 0.8, 0.1, 0.7] and targets [1, 1, 0, 0], ``alpha=1, beta=0`` costs 0.15 there and 0.32 here.

    References:
      Salehi, Erdogmus and Gholipour, https://arxiv.org/abs/1706.05721.
    """
    (p, t, *options), (entries, axes, _), mask = prepare_summed(
        "tversky_loss",
        {"probabilities": probabilities, "targets": targets},
        {"alpha": alpha, "beta": beta, "smooth": smooth},
        axis,
        where,
        weights,
        reduction,
        kinds=(arguments.real, arguments.real),
        rule=False,
    )
    alpha, beta, smooth = (n if n.ndim == 0 else n.squeeze(axes) for n in options)
    return mask.reduce(error_share(given_probabilities, p, t, entries, axes, alpha, beta, smooth), reduction)
