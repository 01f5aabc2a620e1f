"""Divergences of a student's softmax from a teacher's, both from logits."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.cross_entropy import Options, transform_logits, transform_logits_backward
from ._core.derivatives import custom_derivative
from ._core.masks import Mask
from ._core.rows import defer_upcast, prepare_rows
from ._core.softmax_divergence import JS, KL, Formula, Summary, divergence, gradients, summarize
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


class _Saved(NamedTuple):
    x: Array
    y: Array
    mask: Mask
    temperature: Array | None
    numbers: tuple[Array, ...]
    summary: Summary


def _with_derivative(formula: Formula) -> Callable[..., Array]:
    """The divergence of each row of logits, with its derivatives."""

    def masked_logits(x: Array, y: Array, mask: Mask) -> tuple[Array, Array]:
        return transform_logits(x, mask, Options()), transform_logits(y, mask, Options())

    def forward(
        x: Array,
        y: Array,
        mask: Mask,
        temperature: Array | None,
        *numbers: Array,
    ) -> tuple[Array, _Saved]:
        temperature, numbers = mask.fill_options(temperature), mask.fill_options(numbers, 0.5)
        summary = summarize(formula, masked_logits(x, y, mask), temperature, numbers)
        return divergence(formula, summary, numbers), _Saved(x, y, mask, temperature, numbers, summary)

    def backward(saved: _Saved, g: Array) -> tuple[Array | None, ...]:
        x, y, mask, temperature, numbers, summary = saved
        g = mask.fill_options(g, 0)
        logits = masked_logits(x, y, mask)
        *d_logits, d_temperature, d_numbers = gradients(formula, logits, summary, temperature, numbers)
        ct_x, ct_y = (
            transform_logits_backward(g[..., None] * gradient, z, mask, Options())[0]
            for gradient, z in zip(d_logits, (x, y), strict=True)
        )
        d_temperature = None if d_temperature is None else g * d_temperature
        return ct_x, ct_y, None, d_temperature, *(g * derivative for derivative in d_numbers)

    return custom_derivative(forward, backward, infinite=(1,))


_kl, _js = _with_derivative(KL), _with_derivative(JS)


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
    return _loss(name, _kl, {}, logits, teacher_logits, temperature, axis, where, weights, reduction)


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
    return _loss(name, _js, {"beta": beta}, logits, teacher_logits, temperature, axis, where, weights, reduction)
