"""The log-probability of labels and the entropy, of logits that exist."""

from __future__ import annotations

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.cross_entropy import LogProbs as LogProbs
from ._core.cross_entropy import (
    Options,
    Saved,
    entropy,
    entropy_backward,
    indexed_cross_entropy,
    summarized,
)
from ._core.derivatives import custom_derivative
from ._core.masks import Mask
from ._core.rows import prepare_indexed


def _entropy_forward(x: Array, y: Array, mask: Mask, options: Options) -> tuple[Array, tuple[Saved, Array]]:
    saved = summarized(x, y, mask, options)
    value = entropy(saved, None)
    return value, (saved, value)


def _entropy_backward(saved: tuple[Saved, Array], g: Array) -> tuple[Array, None, None, Options]:
    ct_logits, ct_cap, ct_scale = entropy_backward(*saved, g, None)
    return ct_logits, None, None, Options(soft_cap=ct_cap, logit_scale=ct_scale)


_entropy = custom_derivative(_entropy_forward, _entropy_backward)


@compiled(soft_cap=arguments.POSITIVE)
def log_probs(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int | tuple[int, ...] = -1,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> LogProbs:
    r"""Log-probability of each label, and the entropy, under ``softmax(logits)``.

    .. math::
        \log p_y, \quad H = -\sum_c p_c \log p_c, \quad p = \mathrm{softmax}(x), \qquad
        \frac{\partial H}{\partial x_c} = -p_c (\log p_c + H)

    For policy gradients and preferences, where log-probabilities are compared, and for evaluation. A log-probability
    of -1e-9 is not rounded to 0. Nothing is reduced: see :func:`jaxloss.reduce`. Without the logits:
    :func:`linear_log_probs`. The logsumexp is in :func:`token_metrics`.

    Args:
      logits: floating array, the classes along ``axis``: scores before any softmax. ``-inf`` is a class of probability
        0, such as an action that is not allowed; with ``soft_cap``, which makes it -s, mask it by ``where``.
      labels: integers in [0, classes), of the shape of ``logits`` without ``axis``. Any other integer, -1 too, gives
        NaN: exclude what is to be ignored with ``where=labels != -100``.
      axis: the class axis, or several, flattened together in that order.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: multiplies the logits, before ``soft_cap``: for a policy that samples at temperature T pass 1 / T.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the labels. Masked logits may be anything. A label in a masked class
        has log-probability ``-inf``.

    Returns:
      :class:`LogProbs`, two arrays of the shape of ``labels``, in nats, 0 for masked examples; float64 if ``logits``
      is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
      >>> log_prob, entropy = jaxloss.log_probs(logits, jnp.array([0, 1]))
      >>> print(log_prob, entropy)
      [-0.2761 -2.9518] [0.7171 0.8573]

    References:
      Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, 1992.
    """
    name = "log_probs"
    x, y, mask = prepare_indexed(name, "logits", logits, labels, axis, where, None)
    dtype = arguments.compute_dtype(x)
    options = Options(
        soft_cap=arguments.option(name, "soft_cap", soft_cap, np.inf, y.shape, dtype),
        logit_scale=arguments.option(name, "logit_scale", logit_scale, 1, y.shape, dtype),
    )
    args = x, y, mask, options
    return mask.fill_options(LogProbs(-indexed_cross_entropy(*args), _entropy(*args)), 0)
