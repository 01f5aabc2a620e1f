"""Losses of reinforcement learning, from the log-probabilities of the actions that a policy has taken."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.masks import Mask
from ._core.special import expm1, multiply_no_nan, sigmoids
from ._core.types import Reduction

_policy_gradient = elementwise(
    lambda log_prob, advantage: -multiply_no_nan(advantage, log_prob),
    lambda log_prob, advantage: (-advantage, -log_prob),
)


def _with_advantages(
    name: str,
    log_probs: ArrayLike,
    others: dict[str, ArrayLike],
    advantages: ArrayLike,
    options: dict[str, ArrayLike],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
) -> tuple[list[Array], Mask]:
    arguments.same_rank(name, "advantages", advantages, "log_probs", log_probs)
    kinds = (arguments.floating,) + (arguments.real,) * len(others)
    arrays, options = {"log_probs": log_probs, **others}, {"advantages": advantages, **options}
    return prepare_elementwise(name, arrays, options, where, weights, reduction, kinds)


@compiled()
def policy_gradient_loss(
    log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Negative log-probability times advantage, for each action: its gradient is the policy gradient (REINFORCE).

    .. math::
        \ell = -A \log p, \qquad \frac{\partial \ell}{\partial \log p} = -A

    Whatever an algorithm multiplies the gradient by belongs into ``advantages``, behind ``jax.lax.stop_gradient``, not
    into ``weights``, by whose sum a mean divides.

    Args:
      log_probs: :math:`\log p`, floating, of any shape: of the actions or tokens that were taken, such as the
        ``log_prob`` of :func:`linear_log_probs` or :func:`log_probs`.
      advantages: :math:`A`, real, of the rank of ``log_probs``, broadcast to its shape, or a number. One for each
        sequence of tokens is ``advantages[:, None]``.
      where: boolean mask, broadcast to the shape of ``log_probs``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``log_probs``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``log_probs``, or a scalar; float64 if ``log_probs`` is, else float32.

    Raises:
      TypeError: ``log_probs`` is not floating, ``advantages`` is not real, ``where`` is not boolean.
      ValueError: ``advantages`` has another rank, or an array does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> log_probs, advantages = jnp.array([[-0.5, -2.0], [-0.1, -1.0]]), jnp.array([1.0, -1.0])
      >>> print(jaxloss.policy_gradient_loss(log_probs, advantages[:, None]))
      [[ 0.5  2. ]
       [-0.1 -1. ]]

    rlax: ``policy_gradient_loss``, of logits. verl: ``gpg``.

    References:
      Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, 1992.
    """
    arrays, mask = _with_advantages("policy_gradient_loss", log_probs, {}, advantages, {}, where, weights, reduction)
    return mask.reduce(_policy_gradient(*arrays, unweighted=mask.unweighted), reduction)


# min(r A, clip(r, 1 - low, 1 + high) A) is A times r between bounds: for A < 0 above 1 - low, else below 1 + high. The
# dual clip bounds it on the other side for A < 0.


def _bounds(advantage: Array, low: Array, high: Array, dual: Array | None) -> tuple[Array, Array]:
    negative = advantage < 0
    return jnp.where(negative, 1 - low, 0), jnp.where(negative, jnp.inf if dual is None else dual, 1 + high)


def _clipped_surrogate(
    log_prob: Array, old: Array, advantage: Array, low: Array, high: Array, dual: Array | None = None
) -> Array:
    return -multiply_no_nan(advantage, jnp.clip(jnp.exp(log_prob - old), *_bounds(advantage, low, high, dual)))


def _clipped_surrogate_slopes(
    log_prob: Array, old: Array, advantage: Array, low: Array, high: Array, dual: Array | None = None
) -> tuple[Array, ...]:
    log_ratio, (lower, upper) = log_prob - old, _bounds(advantage, low, high, dual)
    ratio = jnp.exp(log_ratio)
    at_lower, at_upper = ratio <= lower, (ratio >= upper) & (upper < jnp.inf)
    clipped = at_lower | at_upper  # there the ratio may be infinite, and nothing is computed from it
    slope = jnp.where(clipped, 0, -advantage * jnp.exp(jnp.where(clipped, 0, log_ratio)))
    by_lower, by_upper = (-advantage * bound.astype(slope.dtype) for bound in (at_lower, at_upper))
    negative = (advantage < 0).astype(slope.dtype)
    by_options = -by_lower * negative, by_upper * (1 - negative), by_upper * negative
    return slope, -slope, -jnp.clip(ratio, lower, upper), *by_options[: 2 if dual is None else 3]


_clipped_surrogate_loss = elementwise(_clipped_surrogate, _clipped_surrogate_slopes)


@compiled(clip_low=arguments.UNIT, clip_high=arguments.NOT_NEGATIVE, dual_clip=arguments.AT_LEAST_ONE)
def ppo_clip_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    clip_low: ArrayLike = 0.2,
    clip_high: ArrayLike = 0.2,
    dual_clip: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Clipped surrogate of PPO, for each action: the policy loss of GRPO, DAPO and Dr. GRPO.

    .. math::
        \ell = -\min\bigl(r A,\; \mathrm{clip}(r, 1 - \epsilon_l, 1 + \epsilon_h)\, A\bigr), \qquad
        r = \exp(\log p - \log p_{\mathrm{old}}), \qquad
        \frac{\partial \ell}{\partial \log p} = -r A \text{ where } r \text{ is not clipped, else } 0

    For :math:`A < 0` nothing bounds the loss of a ratio that grows; ``dual_clip`` does, then
    :math:`\ell = -A \min(\max(r, 1 - \epsilon_l), c)`. The algorithms differ in how losses of tokens become a number:
    docs/trainers.md has each of them by :func:`jaxloss.reduce`. A ratio that is clipped has no gradient, however far it
    is.

    Args:
      log_probs: :math:`\log p`, floating, of any shape: of the tokens that were sampled, such as the ``log_prob`` of
        :func:`linear_log_probs` or :func:`log_probs`.
      old_log_probs: :math:`\log p_{\mathrm{old}}`, real, of the shape of ``log_probs``: under the policy that sampled.
        For one ratio a sequence (GSPO) pass means, see the example.
      advantages: :math:`A`, real, of the rank of ``log_probs``, broadcast to its shape, or a number. One for each
        sequence of tokens is ``advantages[:, None]``.
      clip_low: :math:`\epsilon_l` in [0, 1].
      clip_high: :math:`\epsilon_h \ge 0`, of DAPO 0.28.
      dual_clip: :math:`c \ge 1 + \epsilon_h`, the largest ratio of a negative advantage, often 3; None for no bound. It
        is also TRL's ``delta``. All three may be traced, and broadcast to the loss.
      where: boolean mask, broadcast to the shape of ``log_probs``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``log_probs``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``log_probs``, or a scalar; float64 if an array of log-probabilities is, else float32.

    Raises:
      TypeError: ``log_probs`` is not floating, ``old_log_probs`` is not real, ``where`` is not boolean.
      ValueError: ``old_log_probs`` has another shape, ``advantages`` another rank, or an array does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> log_probs, old = jnp.array([[-0.5, -2.0], [-0.1, -1.0]]), jnp.array([[-1.0, -2.0], [-1.5, -0.5]])
      >>> advantages = jnp.array([1.0, -1.0])
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> print(jaxloss.ppo_clip_loss(log_probs, old, advantages[:, None]))
      [[-1.2    -1.    ]
       [ 4.0552  0.8   ]]
      >>> # GSPO: the geometric mean of the ratios of a sequence.
      >>> mean, old_mean = (jaxloss.reduce(x, axis=-1) for x in (log_probs, old))
      >>> print(jaxloss.ppo_clip_loss(mean, old_mean, advantages, clip_low=3e-4, clip_high=4e-4))
      [-1.0004  1.5683]

    rlax: ``clipped_surrogate_pg_loss``, of ratios. verl: ``vanilla``, whose ``clip_ratio_c`` is 3 by default.

    References:
      Schulman et al., https://arxiv.org/abs/1707.06347. Dual clip: Ye et al., https://arxiv.org/abs/1912.09729. Two
      bounds: Yu et al., DAPO, https://arxiv.org/abs/2503.14476. Of sequences: Zheng et al., GSPO,
      https://arxiv.org/abs/2507.18071.
    """
    arrays, mask = _with_advantages(
        "ppo_clip_loss",
        log_probs,
        {"old_log_probs": old_log_probs},
        advantages,
        {"clip_low": clip_low, "clip_high": clip_high} | ({} if dual_clip is None else {"dual_clip": dual_clip}),
        where,
        weights,
        reduction,
    )
    return mask.reduce(_clipped_surrogate_loss(*arrays, unweighted=mask.unweighted), reduction)


_cispo = elementwise(
    lambda log_prob, old, advantage, low, high: (
        -multiply_no_nan(advantage * lax.stop_gradient(jnp.clip(jnp.exp(log_prob - old), low, high)), log_prob)
    )
)


@compiled(min_ratio=arguments.NOT_NEGATIVE, max_ratio=arguments.NOT_NEGATIVE)
def cispo_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    min_ratio: ArrayLike = 0.0,
    max_ratio: ArrayLike = 5.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Policy gradient with bounded importance weights (CISPO), for each action: no token loses its gradient.

    .. math::
        \ell = -\mathrm{sg}(\mathrm{clip}(r, r_{\min}, r_{\max}))\, A \log p, \qquad
        r = \exp(\log p - \log p_{\mathrm{old}}), \qquad
        \frac{\partial \ell}{\partial \log p} = -\mathrm{clip}(r, r_{\min}, r_{\max})\, A

    sg is ``jax.lax.stop_gradient``. The bounds are those of the ratio itself: TRL's ``epsilon_high`` is
    ``max_ratio``, while NeMo-RL's bounds are ``min_ratio=1 - low, max_ratio=1 + high``.

    Args:
      log_probs: :math:`\log p`, floating, of any shape: of the tokens that were sampled.
      old_log_probs: :math:`\log p_{\mathrm{old}}`, real, of the shape of ``log_probs``: under the policy that sampled.
        It gets no gradient.
      advantages: :math:`A`, real, of the rank of ``log_probs``, broadcast to its shape, or a number. One for each
        sequence of tokens is ``advantages[:, None]``.
      min_ratio: :math:`r_{\min}`, at least 0.
      max_ratio: :math:`r_{\max}`. Both may be traced, and broadcast to the loss.
      where: boolean mask, broadcast to the shape of ``log_probs``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``log_probs``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``log_probs``, or a scalar; float64 if an array of log-probabilities is, else float32.

    Raises:
      TypeError: ``log_probs`` is not floating, ``old_log_probs`` is not real, ``where`` is not boolean.
      ValueError: ``old_log_probs`` has another shape, ``advantages`` another rank, or an array does not broadcast.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> log_probs, old = jnp.array([-0.5, -2.0]), jnp.array([-1.0, -6.0])
      >>> print(jax.grad(lambda x: jaxloss.cispo_loss(x, old, 1.0, reduction="sum"))(log_probs).round(4))
      [-1.6487 -5.    ]

    References:
      MiniMax, MiniMax-M1, https://arxiv.org/abs/2506.13585.
    """
    arrays, mask = _with_advantages(
        "cispo_loss",
        log_probs,
        {"old_log_probs": old_log_probs},
        advantages,
        {"min_ratio": min_ratio, "max_ratio": max_ratio},
        where,
        weights,
        reduction,
    )
    return mask.reduce(_cispo(*arrays, unweighted=mask.unweighted), reduction)


def _sapo_element(log_prob: Array, old: Array, advantage: Array, positive: Array, negative: Array) -> Array:
    tau = jnp.where(advantage > 0, positive, negative)
    bound = 0.5 * jnp.log(jnp.finfo(log_prob.dtype).max)  # where the gate is 1 already, and r^2 does not overflow
    gate, _ = sigmoids(tau * expm1(jnp.minimum(log_prob - old, bound)))
    return -4 / tau * gate * advantage


_sapo = elementwise(_sapo_element)


@compiled(temperature_positive=arguments.POSITIVE, temperature_negative=arguments.POSITIVE)
def sapo_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    temperature_positive: ArrayLike = 1.0,
    temperature_negative: ArrayLike = 1.05,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Soft adaptive policy loss (SAPO), for each action: a smooth gate in place of a clipped ratio.

    .. math::
        \ell = -\frac{4}{\tau}\, \sigma(\tau (r - 1))\, A, \qquad
        r = \exp(\log p - \log p_{\mathrm{old}}), \qquad
        \frac{\partial \ell}{\partial \log p} = -4\, \sigma(\tau (r - 1))\, \sigma(-\tau (r - 1))\, r A

    At :math:`r = 1` the gradient is that of the policy gradient, :math:`-A`.

    Args:
      log_probs: :math:`\log p`, floating, of any shape: of the tokens that were sampled.
      old_log_probs: :math:`\log p_{\mathrm{old}}`, real, of the shape of ``log_probs``: under the policy that sampled.
      advantages: :math:`A`, real, of the rank of ``log_probs``, broadcast to its shape, or a number. One for each
        sequence of tokens is ``advantages[:, None]``.
      temperature_positive: :math:`\tau > 0` where :math:`A > 0`.
      temperature_negative: :math:`\tau > 0` elsewhere. Both may be traced, and broadcast to the loss.
      where: boolean mask, broadcast to the shape of ``log_probs``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``log_probs``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``log_probs``, or a scalar; float64 if an array of log-probabilities is, else float32.

    Raises:
      TypeError: ``log_probs`` is not floating, ``old_log_probs`` is not real, ``where`` is not boolean.
      ValueError: ``old_log_probs`` has another shape, ``advantages`` another rank, or an array does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> log_probs, old = jnp.array([-0.5, -2.0]), jnp.array([-1.0, -2.0])
      >>> print(jaxloss.sapo_loss(log_probs, old, 1.0).round(4))
      [-2.6269 -2.    ]

    References:
      Gao et al., Soft Adaptive Policy Optimization, https://arxiv.org/abs/2511.20347.
    """
    arrays, mask = _with_advantages(
        "sapo_loss",
        log_probs,
        {"old_log_probs": old_log_probs},
        advantages,
        {"temperature_positive": temperature_positive, "temperature_negative": temperature_negative},
        where,
        weights,
        reduction,
    )
    return mask.reduce(_sapo(*arrays, unweighted=mask.unweighted), reduction)


def _errors(value: Array, old: Array, target: Array, clip: Array) -> tuple[Array, Array, Array]:
    """The error of the value, that of the clipped value, and whether the first is the larger one."""
    change = value - old
    error = value - target
    bounded = jnp.where(jnp.abs(change) <= clip, error, old - target + jnp.sign(change) * clip)
    return error, bounded, jnp.abs(error) >= jnp.abs(bounded)


def _clipped_value(*args: Array) -> Array:
    error, bounded, own = _errors(*args)
    return 0.5 * jnp.square(jnp.where(own, error, bounded))


def _clipped_value_slopes(value: Array, old: Array, target: Array, clip: Array) -> tuple[Array, ...]:
    error, bounded, own = _errors(value, old, target, clip)
    by_value, by_old = jnp.where(own, error, 0), jnp.where(own, 0, bounded)
    return by_value, by_old, -by_value - by_old, by_old * jnp.sign(value - old)


_clipped_value_loss = elementwise(_clipped_value, _clipped_value_slopes)


@compiled(clip=arguments.NOT_NEGATIVE)
def clipped_value_loss(
    values: ArrayLike,
    old_values: ArrayLike,
    returns: ArrayLike,
    *,
    clip: ArrayLike = 0.2,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Value loss of PPO, for each state: half the squared error, without a gain from leaving the old value far behind.

    .. math::
        \ell = \tfrac{1}{2} \max\bigl((v - R)^2,\; (\mathrm{clip}(v, v_{\mathrm{old}} - \epsilon,
        v_{\mathrm{old}} + \epsilon) - R)^2\bigr)

    The gradient by the value is :math:`v - R`, and 0 where the second term is the larger one.

    Args:
      values: :math:`v`, floating, of any shape.
      old_values: :math:`v_{\mathrm{old}}`, real, of the shape of ``values``: when the data was collected.
      returns: :math:`R`, real, of the shape of ``values``, in the same unit.
      clip: :math:`\epsilon \ge 0`, in the unit of the values. It may be traced, and broadcasts to the loss.
      where: boolean mask, broadcast to the shape of ``values``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``values``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in the squared unit of the values, of the shape of ``values``, or a scalar; float64 if an array is, else
      float32.

    Raises:
      TypeError: ``values`` is not floating, ``old_values`` or ``returns`` is not real, ``where`` is not boolean.
      ValueError: arrays have two shapes, ``clip``, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> values, old_values, returns = jnp.array([1.0, 0.6]), jnp.array([0.0, 0.5]), jnp.array([1.0, 1.0])
      >>> print(jaxloss.clipped_value_loss(values, old_values, returns).round(4))
      [0.32 0.08]

    verl and tunix: the same with the half. Others leave it to the coefficient of the value loss.

    References:
      Engstrom et al., Implementation Matters in Deep Policy Gradients, https://arxiv.org/abs/2005.12729.
    """
    arrays, mask = prepare_elementwise(
        "clipped_value_loss",
        {"values": values, "old_values": old_values, "returns": returns},
        {"clip": clip},
        where,
        weights,
        reduction,
        kinds=(arguments.floating, arguments.real, arguments.real),
    )
    return mask.reduce(_clipped_value_loss(*arrays, unweighted=mask.unweighted), reduction)
