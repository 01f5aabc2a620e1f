"""Losses of preferences, from the log-probabilities of a chosen and a rejected answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.special import (
    at_most,
    divide_no_nan,
    expm1,
    kl_term,
    multiply_no_nan,
    relu,
    sigmoids,
    softplus,
)
from ._core.types import Reduction

# fmt: off
LossType = Literal[
    "sigmoid", "robust", "exo_pair", "hinge", "ipo", "discopop",
    "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
]
# fmt: on

# Of the margin z = beta (c - j): softplus(-z) = -log sigmoid(z).


def _margin(c: Array, j: Array, beta: Array) -> Array:
    """Halves of opposite signs do not overflow where the product does not."""
    return 2 * beta * (0.5 * c - 0.5 * j)


def _sigmoid(z: Array, flip: Array) -> Array:
    return multiply_no_nan(1 - flip, softplus(-z)) + multiply_no_nan(flip, softplus(z))


def _robust(z: Array, flip: Array) -> Array:
    """((1 - e) softplus(-z) - e softplus(z)) / (1 - 2 e), where softplus(z) = softplus(-z) + z."""
    return softplus(-z) - multiply_no_nan(flip / (1 - 2 * flip), z)


def _exo_pair(z: Array, flip: Array) -> Array:
    """KL(q || p) of q = sigmoid(z) from p = 1 - e, as sums of terms that are not negative."""
    q, complement = sigmoids(z)
    log_p, log_flip = jnp.log1p(-flip), jnp.log(flip)
    return kl_term(q, 1 - flip, log_p + softplus(-z)) + kl_term(complement, flip, log_flip + softplus(z))


def _discopop(z: Array, temperature: Array) -> Array:
    """softplus(-z) (1 - m) + exp(-z) m with m = sigmoid(z / tau), whose product does not overflow in this form."""
    z = -at_most(-z, jnp.finfo(z.dtype).max)  # 0 times infinity in the derivative of the first product
    share, complement = sigmoids(z / temperature)
    is_negative = z < 0
    exponent = jnp.where(is_negative, z * (1 / temperature - 1), -z)
    product = jnp.exp(exponent) * jnp.where(is_negative, complement, share)
    return softplus(-z) * complement + product


def _of_margin(loss: Callable[..., Array]) -> Callable[..., Array]:
    return lambda c, j, beta, *options: loss(_margin(c, j, beta), *options)


_FORMULAS: dict[LossType, Callable[..., Array]] = {
    "sigmoid": _of_margin(_sigmoid),
    "robust": _of_margin(_robust),
    "exo_pair": _of_margin(_exo_pair),
    "hinge": _of_margin(lambda z: relu(1 - z)),
    "ipo": lambda c, j, beta: jnp.square(c - j - 0.5 / beta),
    "discopop": _of_margin(_discopop),
    "nca_pair": lambda c, j, beta: softplus(-beta * c) + 0.5 * softplus(beta * c) + 0.5 * softplus(beta * j),
    "bco_pair": lambda c, j, beta: softplus(-beta * c) + softplus(beta * j),
    "sppo_hard": lambda c, j, beta: jnp.square(c - 0.5 / beta) + jnp.square(j + 0.5 / beta),
    "apo_zero": lambda c, j, beta: sigmoids(-beta * c)[0] + sigmoids(beta * j)[0],
    "apo_down": lambda c, j, beta: sigmoids(beta * c)[0] + sigmoids(_margin(j, c, beta))[0],
}
_LOSSES = {name: elementwise(formula) for name, formula in _FORMULAS.items()}


def _dpo_slopes(c: Array, j: Array, beta: Array) -> tuple[Array, Array, Array]:
    wrong, _ = sigmoids(_margin(j, c, beta))
    return -beta * wrong, beta * wrong, multiply_no_nan(wrong, j - c)


_dpo = elementwise(lambda c, j, beta: softplus(_margin(j, c, beta)), _dpo_slopes)
_WITH_FLIPS = ("sigmoid", "robust", "exo_pair")


@compiled(beta=arguments.POSITIVE, flip_probability=arguments.BELOW_HALF, temperature=arguments.POSITIVE)
def dpo_loss(
    chosen_log_ratios: ArrayLike,
    rejected_log_ratios: ArrayLike,
    *,
    loss_type: LossType = "sigmoid",
    beta: ArrayLike = 0.1,
    flip_probability: ArrayLike = 0.0,
    temperature: ArrayLike = 0.05,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Direct preference optimisation (DPO) and its variants, for each pair of a chosen and a rejected answer.

    .. math::
        \ell = -\log \sigma(z), \qquad z = \beta (c - j), \qquad
        c = \log \frac{p(y_c)}{q(y_c)}, \quad j = \log \frac{p(y_j)}{q(y_j)}, \qquad
        \frac{\partial \ell}{\partial c} = -\beta\, \sigma(-z)

    p is the policy, q the reference, and the logarithm of a sequence's probability the sum of those of its tokens.

    ================ ================================================================================================
    ``loss_type``    the loss
    ================ ================================================================================================
    ``"sigmoid"``    :math:`-(1 - e) \log \sigma(z) - e \log \sigma(-z)`: DPO, and cDPO with e, the flip probability
    ``"robust"``     :math:`(-(1 - e) \log \sigma(z) + e \log \sigma(-z)) / (1 - 2e)`; it may be negative
    ``"exo_pair"``   :math:`\mathrm{KL}((\sigma(z), \sigma(-z)) \,\|\, (1 - e, e))`, for :math:`e > 0`
    ``"hinge"``      :math:`\max(0, 1 - z)`: SLiC
    ``"ipo"``        :math:`(c - j - 1 / 2\beta)^2`
    ``"discopop"``   :math:`-(1 - m) \log \sigma(z) + m\, e^{-z}` with :math:`m = \sigma(z / \tau)`
    ``"nca_pair"``   :math:`-\log \sigma(\beta c) - \frac{1}{2} \log \sigma(-\beta c) - \frac{1}{2} \log
                     \sigma(-\beta j)`
    ``"bco_pair"``   :math:`-\log \sigma(\beta c) - \log \sigma(-\beta j)`
    ``"sppo_hard"``  :math:`(c - 1 / 2\beta)^2 + (j + 1 / 2\beta)^2`
    ``"apo_zero"``   :math:`\sigma(-\beta c) + \sigma(\beta j)`
    ``"apo_down"``   :math:`\sigma(\beta c) + \sigma(-z)`
    ================ ================================================================================================

    Other losses are this one of other arguments: of means over tokens (``sigmoid_norm``), of sorted ratios (AOT),
    without a reference (CPO, SimPO), of rewards less a margin with ``beta=1.0`` (Bradley-Terry). docs/trainers.md has
    them by name.

    Args:
      chosen_log_ratios: :math:`c`, floating, of any shape, one for each pair: with the ``.log_prob`` of
        :func:`linear_log_probs` and a mask, for policy and reference, ``(log_prob - reference_log_prob).sum(-1)``.
      rejected_log_ratios: :math:`j`, real, of the shape of ``chosen_log_ratios``.
      loss_type: one of the table.
      beta: :math:`\beta > 0`, how much a distance from the reference costs. Where the margins of unseen pairs grow, and
        the answers do not get better, it is too small.
      flip_probability: :math:`e` in [0, 1/2), the probability that a preference is wrong, for the first three. It is
        TRL's and Liger's ``label_smoothing``, and half of what :func:`softmax_cross_entropy` names so.
      temperature: :math:`\tau > 0`, for ``"discopop"``. All three may be traced, and broadcast to the loss.
      where: boolean mask, broadcast to the shape of the loss, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``chosen_log_ratios``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``chosen_log_ratios`` is not floating, ``rejected_log_ratios`` is not real, ``where`` is not boolean.
      ValueError: ``rejected_log_ratios`` has another shape, ``loss_type`` is unknown or takes no ``flip_probability``,
        an option, mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> chosen, rejected = jnp.array([0.5, -1.0]), jnp.array([-0.2, 2.0])
      >>> print(jaxloss.dpo_loss(chosen, rejected).round(4))
      [0.6588 0.8544]
      >>> print(jaxloss.dpo_loss(chosen, rejected, loss_type="ipo").round(4))
      [18.49 64.  ]

    References:
      Rafailov et al., Direct Preference Optimization, https://arxiv.org/abs/2305.18290. robust: Chowdhury et al.,
      https://arxiv.org/abs/2403.00409. exo: Ji et al., https://arxiv.org/abs/2402.00856. hinge: Zhao et al.,
      https://arxiv.org/abs/2305.10425. ipo: Azar et al., https://arxiv.org/abs/2310.12036. discopop: Lu et al.,
      https://arxiv.org/abs/2406.08414. nca: Chen et al., https://arxiv.org/abs/2402.05369. bco: Jung et al.,
      https://arxiv.org/abs/2404.04656. sppo: Wu et al., https://arxiv.org/abs/2405.00675. apo: D'Oosterlinck et al.,
      https://arxiv.org/abs/2408.06266.
    """
    name = "dpo_loss"
    if loss_type not in get_args(LossType):
        raise ValueError(f"{name}: expected `loss_type` to be one of {get_args(LossType)}, got {loss_type!r}.")
    options, flips = {"beta": beta}, not arguments.is_number(flip_probability, 0)
    if loss_type in _WITH_FLIPS:
        options |= {"flip_probability": flip_probability} if flips or loss_type != "sigmoid" else {}
    elif flips:
        raise ValueError(f"{name}: expected `flip_probability` with `loss_type` in {_WITH_FLIPS}, got {loss_type!r}.")
    if loss_type == "exo_pair" and not flips:
        raise ValueError(f'{name}: expected `flip_probability` above 0 with `loss_type` "exo_pair", got 0.')
    if loss_type == "discopop":
        options["temperature"] = temperature
    arrays = {"chosen_log_ratios": chosen_log_ratios, "rejected_log_ratios": rejected_log_ratios}
    prepared, mask = prepare_elementwise(name, arrays, options, where, weights, reduction)
    loss = _dpo if loss_type == "sigmoid" and not flips else _LOSSES[loss_type]
    return mask.reduce(loss(*prepared, unweighted=mask.unweighted), reduction)


def _kto_element(log_ratio: Array, label: Array, beta: Array, kl: Array, desirable: Array, undesirable: Array) -> Array:
    p, complement = sigmoids(beta * (log_ratio - lax.stop_gradient(kl)))
    return desirable * label * complement + undesirable * (1 - label) * p


_kto = elementwise(_kto_element)


@compiled(
    beta=arguments.POSITIVE,
    kl=arguments.NOT_NEGATIVE,
    desirable_weight=arguments.NOT_NEGATIVE,
    undesirable_weight=arguments.NOT_NEGATIVE,
)
def kto_loss(
    log_ratios: ArrayLike,
    labels: ArrayLike,
    *,
    beta: ArrayLike = 0.1,
    kl: ArrayLike = 0.0,
    desirable_weight: ArrayLike = 1.0,
    undesirable_weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Kahneman-Tversky optimisation (KTO), for each answer, which is desirable or not, without a pair.

    .. math::
        \ell = \lambda_d\, t\, \sigma(-z) + \lambda_u\, (1 - t)\, \sigma(z), \qquad z = \beta (r - k), \qquad
        \frac{\partial \ell}{\partial r} = -\beta\, \sigma(z)\, \sigma(-z)\, (\lambda_d t - \lambda_u (1 - t))

    The point of reference :math:`k` is an estimate of KL(p || q), of answers that belong to other prompts, for the
    whole batch on all devices, and has no gradient::

        kl = jnp.maximum(jaxloss.reduce(log_ratios_of_mismatched, axis_name="batch"), 0)

    With ``kl=0`` it is the unpaired APO-zero.

    Args:
      log_ratios: :math:`r = \log p(y) / q(y)`, floating, of any shape: of the policy and the reference, summed over the
        tokens of an answer.
      labels: :math:`t`, real, of the shape of ``log_ratios``: 1 for a desirable answer, 0 for an undesirable one.
      beta: :math:`\beta > 0`.
      kl: :math:`k \ge 0`.
      desirable_weight: :math:`\lambda_d \ge 0`, which multiplies the loss and, other than ``weights``, is not in the
        denominator of a mean.
      undesirable_weight: :math:`\lambda_u \ge 0`. All four may be traced, and broadcast to the loss.
      where: boolean mask, broadcast to the shape of ``log_ratios``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``log_ratios``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``log_ratios``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``log_ratios`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, an option, mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.kto_loss(jnp.array([3.0, 3.0]), jnp.array([True, False]), kl=1.0).round(4))
      [0.4502 0.5498]

    References:
      Ethayarajh et al., KTO: Model Alignment as Prospect Theoretic Optimization, https://arxiv.org/abs/2402.01306.
    """
    arrays, mask = prepare_elementwise(
        "kto_loss",
        {"log_ratios": log_ratios, "labels": labels},
        {"beta": beta, "kl": kl, "desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight},
        where,
        weights,
        reduction,
    )
    return mask.reduce(_kto(*arrays, unweighted=mask.unweighted), reduction)


# With probabilities a, b the loss is log(1 + (1 - a) b / ((1 - b) a)), in which 1 - a is -expm1(log a). Its derivatives
# by log a and log b are -b / D and (1 - a) b / ((1 - b) D) with D = (1 - a) b + (1 - b) a. The only differences are
# 1 - a and 1 - b. Of a and b, a common power of e is left out, so that they do not underflow together.


def _odds_ratio(chosen: Array, rejected: Array) -> Array:
    share, log_ratio = jnp.abs(divide_no_nan(expm1(chosen), expm1(rejected))), rejected - chosen
    share = jnp.where(jnp.maximum(chosen, rejected) > 0, jnp.nan, share)
    log = jnp.log(share) + log_ratio
    is_large = log > 60  # log(1 + x) is log(x), and x may overflow
    return jnp.where(is_large, log, jnp.log1p(jnp.where(is_large, 0, share * jnp.exp(log_ratio))))


def _odds_ratio_slopes(chosen: Array, rejected: Array) -> tuple[Array, Array]:
    top = lax.stop_gradient(jnp.maximum(chosen, rejected))
    a, b = jnp.exp(chosen - top), jnp.exp(rejected - top)
    not_chosen, not_rejected = -expm1(chosen), -expm1(rejected)
    denominator = not_chosen * b + not_rejected * a
    return -b / denominator, not_chosen / denominator * (b / not_rejected)


_odds_ratio_loss = elementwise(_odds_ratio, _odds_ratio_slopes, infinite=(1,))


@compiled()
def odds_ratio_loss(
    chosen_log_probs: ArrayLike,
    rejected_log_probs: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Odds ratio loss of ORPO, for each pair of a chosen and a rejected answer, without a reference.

    .. math::
        \ell = -\log \sigma\Bigl(\log \frac{p_c}{1 - p_c} - \log \frac{p_j}{1 - p_j}\Bigr), \qquad
        \frac{\partial \ell}{\partial \log p_c} = -\frac{p_j}{(1 - p_c) p_j + (1 - p_j) p_c}

    ORPO is the cross entropy of the chosen answer plus 0.1 times this. Probabilities near 1 lose no digit, and have a
    gradient: that of a chosen answer of probability 1 is minus the odds of the other one.

    Args:
      chosen_log_probs: :math:`\log p_c \le 0`, floating, of any shape, one for each pair: the means over an answer's
        tokens, ``reduce(log_probs, axis=-1, where=mask)``. Above 0 gives NaN.
      rejected_log_probs: :math:`\log p_j < 0`, real, of the shape of ``chosen_log_probs``.
      where: boolean mask, broadcast to the shape of the loss, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``chosen_log_probs``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``chosen_log_probs`` is not floating, ``rejected_log_probs`` is not real, ``where`` is not boolean.
      ValueError: ``rejected_log_probs`` has another shape, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> chosen, rejected = jnp.array([-0.7, -1e-8]), jnp.array([-1.2, -1.0])
      >>> print([f"{loss:.4g}" for loss in jaxloss.odds_ratio_loss(chosen, rejected)])
      ['0.3625', '5.82e-09']

    References:
      Hong et al., ORPO: Monolithic Preference Optimization without Reference Model, https://arxiv.org/abs/2403.07691.
    """
    arrays, mask = prepare_elementwise(
        "odds_ratio_loss",
        {"chosen_log_probs": chosen_log_probs, "rejected_log_probs": rejected_log_probs},
        {},
        where,
        weights,
        reduction,
    )
    return mask.reduce(_odds_ratio_loss(*arrays, unweighted=mask.unweighted), reduction)
