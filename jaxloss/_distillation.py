"""Divergences of a student's softmax from a teacher's, both from logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.cross_entropy import Options
from ._core.derivatives import custom_derivative
from ._core.named_classes import KL_DIVERGENCES, Rest, kl_divergence, prepare_named_rows
from ._core.rows import defer_upcast, prepare_rows
from ._core.softmax_divergence import softmax_js, softmax_kl, softmax_tv
from ._core.types import Axis, Reduction


def _loss(
    name: str,
    losses: Callable[..., Array],
    numbers: dict[str, ArrayLike],
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    temperature: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
) -> Array:
    names = "logits", "teacher_logits"
    teacher = arguments.floating(name, "teacher_logits", teacher_logits)
    x, y, mask = prepare_rows(name, names, logits, teacher, axis, where, weights)
    dtype, shape = arguments.compute_dtype(x, y), x.shape[:-1]
    arguments.choice(name, "reduction", reduction)
    options = [arguments.option(name, "temperature", temperature, 1, shape, dtype)]
    options += [arguments.option(name, argument, number, np.nan, shape, dtype) for argument, number in numbers.items()]
    y = defer_upcast(y, dtype)
    return mask.reduce(losses(x, y, mask.without_weight(), *options, unweighted=mask.unweighted), reduction)


@compiled(temperature=arguments.POSITIVE)
def softmax_kl_divergence(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Kullback-Leibler divergence of a student's softmax from a teacher's, both from logits: distillation.

    .. math::
        \ell = \mathrm{KL}(t \,\|\, q) = \sum_c t_c (\log t_c - \log q_c), \quad
        q = \mathrm{softmax}(x / T), \quad t = \mathrm{softmax}(y / T), \qquad
        \frac{\partial \ell}{\partial x_c} = \frac{q_c - t_c}{T}

    It is never negative. Nearly equal and confident distributions keep their relative accuracy, and logits in half
    precision give the float32 loss of the same numbers, which rounded log-probabilities do not. The loss is not
    multiplied by the square of T. Its gradient falls with that square: multiply the loss by :math:`T^2` to keep the
    size of the gradient for any T, as Hinton et al. do. The teacher's gradient is computed only if its logits depend on
    what is differentiated: with shared parameters use ``jax.lax.stop_gradient``. For the reverse divergence exchange
    the two arrays.

    Args:
      logits: the student's logits :math:`x`, floating, the classes along ``axis``: scores before any softmax. ``-inf``
        is a class of probability 0. It costs infinity if the teacher gives it a probability.
      teacher_logits: the teacher's logits :math:`y`, floating, of the shape of ``logits``. A class of ``-inf`` has no
        cost of its own.
      temperature: :math:`T > 0`, which divides the logits of both. It may be traced, and may differ from row to row: it
        broadcasts to the loss.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks the classes of both; with a
        lower rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is, else float32.
      A row of ``-inf`` alone costs infinity, with gradient 0.

    Raises:
      TypeError: ``logits`` or ``teacher_logits`` is not floating, ``where`` is not boolean.
      ValueError: ``teacher_logits`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> student, teacher = jnp.array([[1.0, 2.0, 0.5]]), jnp.array([[0.5, 3.0, -1.0]])
      >>> print(jaxloss.softmax_kl_divergence(student, teacher))
      [0.2152]
      >>> # At T = 3, the loss times T squared has a gradient of the same size:
      >>> def distillation_loss(logits, T):
      ...     return T**2 * jaxloss.softmax_kl_divergence(logits, teacher, temperature=T, reduction="mean")
      >>> for T in (1.0, 3.0):
      ...     print(jax.grad(distillation_loss)(student, T))
      [[ 0.1566 -0.2802  0.1236]]
      [[ 0.1576 -0.4752  0.3176]]

    PyTorch and Keras: ``kl_div(log_softmax(x / T), softmax(y / T))`` and ``kl_divergence(softmax(y / T), softmax(x /
    T))``, which round log-probabilities or raise probabilities to 1e-7.

    References:
      Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531.
    """
    name = "softmax_kl_divergence"
    return _loss(name, softmax_kl, {}, logits, teacher_logits, temperature, axis, where, weights, reduction)


@compiled(temperature=arguments.POSITIVE, beta=arguments.UNIT)
def softmax_jensen_shannon_divergence(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    beta: ArrayLike = 0.5,
    temperature: ArrayLike = 1.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Jensen-Shannon divergence between a student's softmax and a teacher's, both from logits: distillation.

    .. math::
        \ell = \beta\, \mathrm{KL}(t \,\|\, m) + (1 - \beta)\, \mathrm{KL}(q \,\|\, m), \quad
        m = \beta t + (1 - \beta) q, \quad
        q = \mathrm{softmax}(x / T), \quad t = \mathrm{softmax}(y / T), \qquad
        \frac{\partial \ell}{\partial x_c} =
        \frac{1 - \beta}{T}\, q_c \Bigl(\log \frac{q_c}{m_c} - \mathrm{KL}(q \,\|\, m)\Bigr)

    It is never negative, at most :math:`\log 2` for :math:`\beta = 1/2`, and then symmetric. Nearly equal and confident
    distributions keep their relative accuracy, in half precision as well. It is not multiplied by the square of T: see
    :func:`softmax_kl_divergence`.

    Args:
      logits: the student's logits :math:`x`, floating, the classes along ``axis``: scores before any softmax. ``-inf``
        is a class of probability 0.
      teacher_logits: the teacher's logits :math:`y`, floating, of the shape of ``logits``.
      beta: :math:`\beta` in [0, 1], the weight of the teacher. At 0 and 1 the divergence is 0, as the formula says:
        where a trainer means :math:`\mathrm{KL}(t \,\|\, q)` there, the limit of :math:`\ell / \beta`, use
        :func:`softmax_kl_divergence`. It may be traced, and may differ from row to row: it broadcasts to the loss.
      temperature: :math:`T > 0`, which divides the logits of both. It may be traced and may differ from row to row.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks the classes of both; with a
        lower rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is, else float32.
      A row of ``-inf`` alone costs infinity, with gradient 0.

    Raises:
      TypeError: ``logits`` or ``teacher_logits`` is not floating, ``where`` is not boolean.
      ValueError: ``teacher_logits`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> student, teacher = jnp.array([[1.0, 2.0, 0.5]]), jnp.array([[0.5, 3.0, -1.0]])
      >>> print(jaxloss.softmax_jensen_shannon_divergence(student, teacher, beta=0.3).round(4))
      [0.0486]
      >>> print(jaxloss.softmax_jensen_shannon_divergence(student, teacher, temperature=3.0).round(4))
      [0.0142]

    References:
      Lin, Divergence Measures Based on the Shannon Entropy, 1991. In distillation: Agarwal et al.,
      https://arxiv.org/abs/2306.13649.
    """
    name = "softmax_jensen_shannon_divergence"
    return _loss(name, softmax_js, {"beta": beta}, logits, teacher_logits, temperature, axis, where, weights, reduction)


@compiled(temperature=arguments.POSITIVE)
def softmax_total_variation_distance(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Total variation distance between a student's softmax and a teacher's, both from logits: distillation.

    .. math::
        \ell = \tfrac{1}{2} \sum_c |q_c - t_c|, \quad
        q = \mathrm{softmax}(x / T), \quad t = \mathrm{softmax}(y / T), \qquad
        \frac{\partial \ell}{\partial x_c} = \frac{q_c}{T} \Bigl(s_c - \sum_k q_k s_k\Bigr), \quad
        s = \tfrac{1}{2} \mathrm{sign}(q - t)

    The largest difference of the probabilities of any event. Nearly equal distributions keep their relative accuracy.

    Args:
      logits: the student's logits :math:`x`, floating, the classes along ``axis``: scores before any softmax. ``-inf``
        is a class of probability 0.
      teacher_logits: the teacher's logits :math:`y`, floating, of the shape of ``logits``.
      temperature: :math:`T > 0`, which divides the logits of both. It may be traced and may differ from row to row.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks the classes of both; with a
        lower rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss, in [0, 1], of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is, else
      float32. A row of ``-inf`` alone costs infinity, with gradient 0.

    Raises:
      TypeError: ``logits`` or ``teacher_logits`` is not floating, ``where`` is not boolean.
      ValueError: ``teacher_logits`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> student, teacher = jnp.array([[1.0, 2.0, 0.5]]), jnp.array([[0.5, 3.0, -1.0]])
      >>> print(jaxloss.softmax_total_variation_distance(student, teacher).round(4))
      [0.2802]

    Liger: ``LigerTVDLoss``.

    References:
      Wen et al., f-Divergence Minimization for Sequence-Level Knowledge Distillation, 2023.
    """
    name = "softmax_total_variation_distance"
    return _loss(name, softmax_tv, {}, logits, teacher_logits, temperature, axis, where, weights, reduction)


_KL_OF_NAMED = {pair: custom_derivative(*pair) for pair in KL_DIVERGENCES.values()}


@compiled(temperature=arguments.POSITIVE)
def softmax_kl_divergence_with_top_k_targets(
    logits: ArrayLike,
    indices: ArrayLike,
    log_probs: ArrayLike,
    *,
    rest: Rest = "bucket",
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Kullback-Leibler divergence of a student's softmax from the k most probable classes of a teacher.

    .. math::
        \ell = \sum_{j=1}^{k} t_j (\log t_j - \log q_{i_j}) + r_t (\log r_t - \log r_q), \quad
        q = \mathrm{softmax}(x / T), \quad
        r_t = 1 - \sum_j t_j, \quad r_q = \sum_{c \notin \{i_j\}} q_c

    It is never negative. With ``"drop"`` it keeps its relative accuracy where student and teacher nearly agree. What
    becomes of the classes that the teacher does not name, ``rest`` says:

    =================== ============================================================================================
    ``rest``            the divergence
    =================== ============================================================================================
    ``"bucket"``        all of them are one class more, as in the formula: the least that the divergence over all
                        classes can be
    ``"renormalize"``   :math:`t` is divided by its sum, and :math:`r_t = 0`: the student is to have none of them
    ``"drop"``          :math:`t` and :math:`q` are divided by their sums over the k classes: the student may do as it
                        likes with the others, as in NeMo-RL by default
    =================== ============================================================================================

    For probabilities as they are, with neither, use :func:`softmax_cross_entropy_with_indexed_labels`: it has the
    gradient of :math:`\sum_j t_j (\log t_j - \log q_{i_j})`. The loss is not multiplied by the square of T, see
    :func:`softmax_kl_divergence`. Without the logits: :func:`linear_kl_divergence_with_top_k_targets`.

    Args:
      logits: the student's logits :math:`x`, floating, the classes along ``axis``.
      indices: integers, of the shape of ``logits`` with k in place of the classes, as ``jax.lax.top_k`` returns them,
        padded with -1. A class that is named twice, and any other integer outside of [0, classes), give NaN. Teacher
        and student share a vocabulary: the indices of another tokenizer name other tokens.
      log_probs: floating, of the shape of ``indices``: the teacher's :math:`\log t_j`, at the temperature. With
        ``"renormalize"`` and ``"drop"`` its logits over T serve as well. If the probabilities add up to more than 1,
        they are divided by their sum. If the student gives all other classes the probability 0, those are left out.
      rest: ``"bucket"``, ``"renormalize"`` or ``"drop"``.
      temperature: :math:`T > 0`, which divides the student's logits. It may be traced, and may differ from row to row.
      axis: the class axis.
      where: boolean, broadcast to the shape of the loss: False masks an example, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``logits`` or ``log_probs`` is not floating, ``indices`` is not integer, ``where`` is not boolean.
      ValueError: a shape does not fit, an option does not broadcast, ``rest`` is unknown.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> student, teacher = jnp.array([[1.0, 2.0, 0.5]]), jnp.array([[0.5, 3.0, -1.0]])
      >>> log_probs, indices = jax.lax.top_k(jax.nn.log_softmax(teacher), 2)
      >>> for rest in ("bucket", "renormalize", "drop"):
      ...     loss = jaxloss.softmax_kl_divergence_with_top_k_targets(student, indices, log_probs, rest=rest)
      ...     print(f"{rest} {loss[0]:.4f}")
      bucket 0.2152
      renormalize 0.2717
      drop 0.1206

    References:
      Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531.
    """
    name = "softmax_kl_divergence_with_top_k_targets"
    losses_of = _KL_OF_NAMED[kl_divergence(name, rest)]
    targets = arguments.floating(name, "log_probs", log_probs)
    x, i, t, mask = prepare_named_rows(name, logits, indices, "log_probs", targets, axis, where, weights)
    T = arguments.option(name, "temperature", temperature, 1, x.shape[:-1], arguments.compute_dtype(x, t))
    T = mask.fill_options(T)
    arguments.choice(name, "reduction", reduction)
    options = Options(logit_scale=None if T is None else 1 / T)
    losses = losses_of(x, i, t, mask.without_weight(), options, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction)
