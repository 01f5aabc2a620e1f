"""Divergences between distributions, each a sum over the classes."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, cpu_sum_barrier, gpu_recompute_barrier
from ._core.elementwise import elementwise, of_error, prepare_summed
from ._core.special import js_ratios, kl_term, multiply_no_nan, subtract_no_nan
from ._core.types import Axis, Reduction


def _log(t: Array) -> Array:
    """log(t), 0 at 0."""
    return jnp.log(jnp.where(t == 0, 1, t))


def _kl_slopes(lq: Array, t: Array) -> tuple[Array, Array]:
    return -t, jnp.where(lq == -jnp.inf, jnp.inf, jnp.log(t) - lq + 1)


_kl = elementwise(lambda lq, t: multiply_no_nan(t, _log(t) - lq), _kl_slopes, infinite=(1,))


@compiled()
def kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Kullback-Leibler divergence of predicted log-probabilities from target probabilities.

    .. math::
        \mathrm{KL}(t \,\|\, q) = \sum_c t_c (\log t_c - \log q_c), \qquad
        \frac{\partial \ell}{\partial \log q_c} = -t_c, \qquad
        \frac{\partial \ell}{\partial t_c} = 1 + \log t_c - \log q_c

    A target of 0 costs nothing, whatever its prediction, ``-inf`` included; a prediction of ``-inf`` for any other
    target costs infinity. The gradient by a target of 0 is infinite, as it is: ``-inf``, or ``inf`` for a prediction of
    ``-inf``.

    Args:
      log_predictions: :math:`\log q`, floating, the classes along ``axis``: what ``jax.nn.log_softmax`` gives, neither
        logits nor probabilities.
      targets: :math:`t \ge 0`, real, of the shape of ``log_predictions``.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``targets`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``targets`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``log_predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> targets, predictions = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.75, 0.0])
      >>> print(f"{jaxloss.kl_divergence(jnp.log(predictions), targets):.4f}")
      0.1438

    Keras: ``kl_divergence``, (targets, predictions), both probabilities, raised to at least 1e-7. PyTorch: ``kl_div``,
    whose default mean divides by the number of classes too.

    References:
      Kullback and Leibler, On Information and Sufficiency, 1951.
    """
    arrays, terms, mask = prepare_summed(
        "kl_divergence",
        {"log_predictions": log_predictions, "targets": targets},
        {},
        axis,
        where,
        weights,
        reduction,
    )
    return mask.reduce(terms.total(_kl(*arrays, unweighted=terms.unweighted)), reduction)


def _kl_log_slopes(lq: Array, lt: Array) -> tuple[Array, Array]:
    t = jnp.exp(lt)
    return -t, multiply_no_nan(t, subtract_no_nan(lt, lq) + 1)


_kl_log = elementwise(lambda lq, lt: multiply_no_nan(jnp.exp(lt), subtract_no_nan(lt, lq)), _kl_log_slopes)


@compiled()
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Kullback-Leibler divergence of predicted from target log-probabilities.

    .. math::
        \mathrm{KL}(t \,\|\, q) = \sum_c t_c (\log t_c - \log q_c), \qquad
        \frac{\partial \ell}{\partial \log q_c} = -t_c, \qquad
        \frac{\partial \ell}{\partial \log t_c} = t_c (1 + \log t_c - \log q_c)

    A target of ``-inf`` costs nothing and has gradient 0, whatever its prediction. From logits use
    :func:`softmax_kl_divergence`: ``jax.nn.log_softmax`` rounds its result, to three digits in bfloat16, and the
    divergence of nearly equal distributions is the difference of such results. ``softmax_kl_divergence`` is exact in
    both cases.

    Args:
      log_predictions: :math:`\log q`, floating, the classes along ``axis``: what ``jax.nn.log_softmax`` gives.
      log_targets: :math:`\log t`, real, of the shape of ``log_predictions``.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``log_targets`` it masks classes; with a lower
        rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``log_targets`` without ``axis``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``log_predictions`` is not floating, ``log_targets`` is not real, ``where`` is not boolean.
      ValueError: ``log_targets`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> # Distillation at a temperature T; in bfloat16 only softmax_kl_divergence(student, teacher) is exact:
      >>> student, teacher, T = jnp.array([[1.0, 2.0, 0.5]]), jnp.array([[0.5, 3.0, -1.0]]), 3.0
      >>> log_predictions, log_targets = jax.nn.log_softmax(student / T), jax.nn.log_softmax(teacher / T)
      >>> loss = T**2 * jaxloss.kl_divergence_with_log_targets(log_predictions, log_targets, reduction="mean")
      >>> print(f"{loss:.4f}")
      0.5041

    PyTorch: ``kl_div(log_target=True)``, where a target of ``-inf`` is NaN.

    References:
      Hinton, Vinyals and Dean, https://arxiv.org/abs/1503.02531.
    """
    arrays, terms, mask = prepare_summed(
        "kl_divergence_with_log_targets",
        {"log_predictions": log_predictions, "log_targets": log_targets},
        {},
        axis,
        where,
        weights,
        reduction,
    )
    return mask.reduce(terms.total(_kl_log(*arrays, unweighted=terms.unweighted)), reduction)


def _generalized_kl_element(lq: Array, t: Array) -> Array:
    # With u = log q - log t, a term is t (exp(u) - 1 - u).
    return kl_term(t, jnp.exp(lq), lq - _log(t))


def _generalized_kl_slopes(lq: Array, t: Array) -> tuple[Array, Array]:
    return jnp.exp(lq) - t, jnp.where(lq == -jnp.inf, jnp.inf, jnp.log(t) - lq)


_generalized_kl = elementwise(_generalized_kl_element, _generalized_kl_slopes, infinite=(1,))


@compiled()
def generalized_kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Kullback-Leibler divergence of measures that need not sum to 1.

    .. math::
        \ell = \sum_c t_c (\log t_c - \log q_c) + q_c - t_c, \qquad
        \frac{\partial \ell}{\partial \log q_c} = q_c - t_c, \qquad
        \frac{\partial \ell}{\partial t_c} = \log t_c - \log q_c

    Every term is computed so that it is never negative. Summed over counts it is half the Poisson deviance.

    Args:
      log_predictions: :math:`\log q`, floating, the classes along ``axis``.
      targets: :math:`t \ge 0`, real, of the shape of ``log_predictions``.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``targets`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``targets`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``log_predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> targets, predictions = jnp.array([0.5, 1.5]), jnp.array([1.0, 1.0])
      >>> print(f"{jaxloss.generalized_kl_divergence(jnp.log(predictions), targets):.4f}")
      0.2616

    References:
      Csiszár, Why Least Squares and Maximum Entropy?, 1991.
    """
    arrays, terms, mask = prepare_summed(
        "generalized_kl_divergence",
        {"log_predictions": log_predictions, "targets": targets},
        {},
        axis,
        where,
        weights,
        reduction,
    )
    return mask.reduce(terms.total(_generalized_kl(*arrays, unweighted=terms.unweighted)), reduction)


def _js_element(lq: Array, lt: Array, b: Array) -> Array:
    q, t = jnp.exp(lq), jnp.exp(lt)
    r, s = js_ratios(subtract_no_nan(lt, lq), b)
    m = b * t + (1 - b) * q
    return cpu_sum_barrier(multiply_no_nan(1 - b, kl_term(q, m, r)) + multiply_no_nan(b, kl_term(t, m, s)))


def _js_slopes(lq: Array, lt: Array, b: Array) -> tuple[Array, Array, Array]:
    lq, lt, b = gpu_recompute_barrier(lq, lt, b)  # else it keeps r and s
    q, t = jnp.exp(lq), jnp.exp(lt)
    r, s = js_ratios(subtract_no_nan(lt, lq), b)
    m = b * t + (1 - b) * q
    return -multiply_no_nan((1 - b) * q, r), -multiply_no_nan(b * t, s), kl_term(t, m, s) - kl_term(q, m, r)


_js = elementwise(_js_element, _js_slopes)


@compiled(beta=arguments.UNIT)
def jensen_shannon_divergence(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    *,
    beta: ArrayLike = 0.5,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Jensen-Shannon divergence between predicted and target log-probabilities.

    .. math::
        \ell = \beta\, \mathrm{KL}(t \,\|\, m) + (1 - \beta)\, \mathrm{KL}(q \,\|\, m), \quad
        m = \beta t + (1 - \beta) q, \qquad
        \frac{\partial \ell}{\partial \log q_c} = (1 - \beta)\, q_c \log \frac{q_c}{m_c}

    It is never negative, not even by rounding, at most :math:`\log 2` for :math:`\beta = 1/2`, and then symmetric.

    Args:
      log_predictions: :math:`\log q`, floating, the classes along ``axis``. ``-inf`` is a class of probability 0.
      log_targets: :math:`\log t`, real, of the shape of ``log_predictions``.
      beta: :math:`\beta` in [0, 1], the weight of the targets. At 0 and 1 the divergence is 0, as the formula says. It
        may be traced, and may differ from row to row: it broadcasts to the loss.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``log_targets`` it masks classes; with a lower
        rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``log_targets`` without ``axis``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``log_predictions`` is not floating, ``log_targets`` is not real, ``where`` is not boolean.
      ValueError: ``log_targets`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> targets, predictions = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.75, 0.0])
      >>> print(f"{jaxloss.jensen_shannon_divergence(jnp.log(predictions), jnp.log(targets)):.4f}")
      0.0338

    The losses of distillation libraries that go by this name switch to a Kullback-Leibler divergence at 0 and 1: take
    :func:`kl_divergence_with_log_targets`. SciPy's ``jensenshannon`` is the square root, of probabilities.

    References:
      Lin, Divergence Measures Based on the Shannon Entropy, 1991. With beta: Agarwal et al.,
      https://arxiv.org/abs/2306.13649.
    """
    arrays, terms, mask = prepare_summed(
        "jensen_shannon_divergence",
        {"log_predictions": log_predictions, "log_targets": log_targets},
        {"beta": beta},
        axis,
        where,
        weights,
        reduction,
    )
    return mask.reduce(terms.total(_js(*arrays, unweighted=terms.unweighted)), reduction)


_half_difference = of_error(lambda error: 0.5 * jnp.abs(error), lambda error: (0.5 * jnp.sign(error),))


@compiled()
def total_variation_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Total variation distance between predicted and target probabilities.

    .. math::
        \ell = \tfrac{1}{2} \sum_c |q_c - t_c|, \qquad
        \frac{\partial \ell}{\partial q_c} = \tfrac{1}{2} \mathrm{sign}(q_c - t_c)

    The largest difference of the probabilities of any event. Where two probabilities are equal the gradient is 0.

    Args:
      predictions: probabilities :math:`q`, floating, the classes along ``axis``.
      targets: probabilities :math:`t`, real, of the shape of ``predictions``.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``targets`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss, in [0, 1] for probabilities, of the shape of ``targets`` without ``axis``, or a scalar; float64 if an
      input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> targets, predictions = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.5, 0.25])
      >>> print(jaxloss.total_variation_distance(predictions, targets))
      0.25

    References:
      Levin, Peres and Wilmer, Markov Chains and Mixing Times, 2009, section 4.1.
    """
    arrays, terms, mask = prepare_summed(
        "total_variation_distance",
        {"predictions": predictions, "targets": targets},
        {},
        axis,
        where,
        weights,
        reduction,
    )
    return mask.reduce(terms.total(_half_difference(*arrays, unweighted=terms.unweighted)), reduction)
