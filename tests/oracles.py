"""Textbook definitions, and their values and derivatives at many digits.

Each definition takes the functions it is written in, predictions and targets, and returns the terms whose sum is the
loss: of an element, or along the last axis of a row. Labels are one-hot. The sum of the absolute values of the terms is
what the rounding of a loss is measured against.
"""

from types import SimpleNamespace

import mpmath as mp
import numpy as np

mp.mp.dps = 360  # enough for 20 digits of a loss of 1e-308 (float64) beside a logit of 1e30


def _each(function, arguments=1):
    return np.frompyfunc(function, arguments, 1)


EXACT = SimpleNamespace(
    abs=np.abs,
    cosh=_each(mp.cosh),
    cumsum=lambda x: np.cumsum(x, axis=-1),
    exp=_each(mp.exp),
    log=_each(mp.log),
    loggamma=_each(mp.loggamma),
    max=lambda x: np.max(x, axis=-1, keepdims=True),
    maximum=np.maximum,
    pi=mp.mp.pi,
    sort=lambda x: np.sort(x, axis=-1),
    sqrt=_each(mp.sqrt),
    sum=lambda x: np.sum(x, axis=-1, keepdims=True),
    tanh=_each(mp.tanh),
    where=lambda condition, a, b: np.where(np.asarray(condition, bool), a, b),
    xlogy=_each(lambda x, y: mp.mpf(0) if x == 0 else x * mp.log(y), 2),
)


def _to_logits(m, x, soft_cap, logit_scale):
    z = logit_scale * x
    return z if soft_cap is None else soft_cap * m.tanh(z / soft_cap)


def softmax_cross_entropy(m, x, t, label_smoothing=0, z_loss=0, soft_cap=None, logit_scale=1):
    z = _to_logits(m, x, soft_cap, logit_scale)
    t = (1 - label_smoothing) * t + label_smoothing / x.shape[-1]
    top = m.max(z)
    log_total = top + m.log(m.sum(m.exp(z - top)))
    return [t * (log_total - z), z_loss * log_total**2]


def squared_logsumexp(m, x, t):
    top = m.max(x)
    return [(top + m.log(m.sum(m.exp(x - top)))) ** 2]


def plackett_luce_loss(m, x, t):
    """Of scores in their order."""
    return [m.log(m.cumsum(m.exp(x)[..., ::-1])[..., ::-1]) - x]


def sigmoid_binary_cross_entropy(m, x, t, label_smoothing=0, pos_weight=1, soft_cap=None, logit_scale=1):
    z = _to_logits(m, x, soft_cap, logit_scale)
    t = (1 - label_smoothing) * t + label_smoothing / 2
    return [pos_weight * t * m.log(1 + m.exp(-z)), (1 - t) * m.log(1 + m.exp(z))]


def _log_softmax(m, x):
    top = m.max(x)
    return x - top - m.log(m.sum(m.exp(x - top)))


def sigmoid_focal_loss(m, x, t, alpha=None, gamma=2):
    entropies = t * m.log(1 + m.exp(-x)), (1 - t) * m.log(1 + m.exp(x))
    share = 1 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    wrong = t / (1 + m.exp(x)) + (1 - t) / (1 + m.exp(-x))
    wrong = m.where(wrong < 0, 1 - wrong, wrong)  # a label nudged beyond 0 and 1 has no power: make that a kink
    return [share * wrong**gamma * entropy for entropy in entropies]


def softmax_focal_loss(m, x, t, alpha=1, gamma=2):
    log_p = _log_softmax(m, x)
    return [-alpha * t * (1 - m.exp(log_p)) ** gamma * log_p]


def poly_loss_cross_entropy(m, x, t, epsilon=2):
    log_p = _log_softmax(m, x)
    return [-t * log_p, epsilon * t * (1 - m.exp(log_p))]


def sparsemax_loss(m, x, t):
    best = m.where(x > 1, x, m.where(x < -1, 0 * x, (x + 1) ** 2 / 4))
    return [best - t * x + t**2 - t]


def multiclass_sparsemax_loss(m, x, t):
    """By all supports: the threshold is the largest of (sum of the k best - 1) / k."""
    best = -m.sort(-x)
    tau = m.max((m.cumsum(best) - 1) / (m.cumsum(0 * best + 1)))
    p = m.maximum(x - tau, 0 * x)
    return [p * x + p * (1 - p) / 2 - t * x]


def squared_error(m, x, t):
    return [(x - t) ** 2]


def l2_loss(m, x, t):
    return [(x - t) ** 2 / 2]


def absolute_error(m, x, t):
    return [m.abs(x - t)]


def absolute_percentage_error(m, x, t):
    return [100 * m.abs((x - t) / t)]


def squared_logarithmic_error(m, x, t):
    return [(m.log(1 + x) - m.log(1 + t)) ** 2]


def huber_loss(m, x, t, delta=1):
    error = m.abs(x - t)
    return [m.where(error <= delta, error**2 / 2, delta * (error - delta / 2))]


def smooth_l1_loss(m, x, t, beta=1):
    error = m.abs(x - t)
    return [m.where(error < beta, error**2 / 2 / beta, error - beta / 2)]


def charbonnier_loss(m, x, t, epsilon=1e-3):
    error = x - t
    return [error**2 / (m.sqrt(error**2 + epsilon**2) + epsilon)]


def log_cosh(m, x, t):
    return [m.log(m.cosh(x - t))]


def quantile_loss(m, x, t, quantile):
    return [m.where(x < t, quantile * (t - x), (1 - quantile) * (x - t))]


def poisson_nll_loss(m, x, t, full=False):
    return [x, -m.xlogy(t, x)] + [m.loggamma(t + 1)] * full


def poisson_nll_loss_with_log_rates(m, x, t, full=False):
    return [m.exp(x), -t * x] + [m.loggamma(t + 1)] * full


def gaussian_nll_loss(m, x, t, variance, full=False):
    return [m.log(0 * x + variance) / 2, (x - t) ** 2 / variance / 2] + [m.log(0 * x + 2 * m.pi) / 2] * full


def gaussian_nll_loss_with_log_variance(m, x, t, log_variance, full=False):
    return gaussian_nll_loss(m, x, t, m.exp(0 * x + log_variance), full)


def ppo_clip_loss(m, x, t, advantages, clip_low=0.2, clip_high=0.2, dual_clip=None):
    ratio = m.exp(x - t)
    clipped = m.where(
        ratio < 1 - clip_low, 0 * x + 1 - clip_low, m.where(ratio > 1 + clip_high, 0 * x + 1 + clip_high, ratio)
    )
    loss = m.maximum(-ratio * advantages, -clipped * advantages)
    if dual_clip is None:
        return [loss]
    bound = -dual_clip * advantages
    return [m.where((0 * x + bound > 0) & (loss > bound), 0 * x + bound, loss)]


def sapo_loss(m, x, t, advantages, temperature_positive=1, temperature_negative=1.05):
    tau = temperature_positive if advantages > 0 else temperature_negative
    return [-4 / tau / (1 + m.exp(-tau * (m.exp(x - t) - 1))) * advantages]


def clipped_value_loss(m, x, t, clip):
    """Of a return of 1/4."""
    clipped = m.maximum(t - clip, -m.maximum(-x, -t - clip))
    larger = m.where(m.abs(x - 0.25) >= m.abs(clipped - 0.25), x, clipped)
    return [larger**2 / 2, -larger / 4, 0 * x + 1 / 32]


def kl_estimate(m, x, t, estimator):
    d = t - x
    return {"k1": [x, -t], "k2": [d**2 / 2], "k3": [m.exp(d) - 1 - d]}[estimator]


def weighted_kl_estimate(m, x, t, estimator):
    """Of an action of log-probability -3/4 under the policy that sampled."""
    return [m.exp(x + 0.75) * term for term in kl_estimate(m, x, t, estimator)]


def _softplus(m, z):
    return m.log(1 + m.exp(z))


def dpo_loss(m, x, t, loss_type="sigmoid", beta=0.1, flip_probability=0, temperature=0.05):
    e, z, c, j, half = flip_probability, beta * (x - t), beta * x, beta * t, 1 / (2 * beta)
    p, q, share = 1 / (1 + m.exp(-z)), 1 / (1 + m.exp(z)), 1 / (1 + m.exp(-z / temperature))
    return {
        "sigmoid": lambda: [(1 - e) * _softplus(m, -z), e * _softplus(m, z)],
        "robust": lambda: [(1 - e) / (1 - 2 * e) * _softplus(m, -z), -e / (1 - 2 * e) * _softplus(m, z)],
        "exo_pair": lambda: [p * (m.log(p) - m.log(0 * x + 1 - e)) + q * (m.log(q) - m.log(0 * x + e))],
        "hinge": lambda: [m.where(z < 1, term, 0 * z) for term in (0 * z + 1, -c, j)],
        "ipo": lambda: [(x - t) ** 2, -2 * half * (x - t), 0 * x + half**2],
        "discopop": lambda: [_softplus(m, -z) * (1 - share), m.exp(-z) * share],
        "nca_pair": lambda: [_softplus(m, -c), _softplus(m, c) / 2, _softplus(m, j) / 2],
        "bco_pair": lambda: [_softplus(m, -c), _softplus(m, j)],
        "sppo_hard": lambda: [x**2, -2 * half * x, t**2, 2 * half * t, 0 * x + 2 * half**2],
        "apo_zero": lambda: [1 / (1 + m.exp(c)), 1 / (1 + m.exp(-j))],
        "apo_down": lambda: [1 / (1 + m.exp(-c)), q],
    }[loss_type]()


def kto_loss(m, x, t, beta=0.1, kl=0, desirable_weight=1, undesirable_weight=1):
    z = beta * (x - kl)
    return [desirable_weight * t / (1 + m.exp(z)), undesirable_weight * (1 - t) / (1 + m.exp(-z))]


def odds_ratio_loss(m, x, t):
    p, q = m.exp(x), m.exp(t)
    return [m.log(1 + (1 - p) * q / (p * (1 - q)))]


def hinge_loss(m, x, t):
    return [m.maximum(1 - t * x, 0 * x)]


def squared_hinge_loss(m, x, t):
    return [m.maximum(1 - t * x, 0 * x) ** 2]


def soft_margin_loss(m, x, t):
    return [m.log(1 + m.exp(-t * x))]


def perceptron_loss(m, x, t):
    return [m.maximum(-t * x, 0 * x)]


def _above(m, x, t):
    return m.where(t == 1, 0 * x, x - m.sum(t * x))


def multiclass_hinge_loss(m, x, t):
    return [m.max(_above(m, x, t) + 1 - t)]


def multiclass_perceptron_loss(m, x, t):
    return [m.max(_above(m, x, t))]


def weston_watkins_hinge_loss(m, x, t, margin=1, power=1):
    return [m.where(t == 1, 0 * x, m.maximum(margin + _above(m, x, t), 0 * x)) ** power]


def multilabel_hinge_loss(m, x, t, margin=1):
    """One term for each class that is no label."""
    above = margin + x[..., :, None] - x[..., None, :]
    return [((1 - t[..., :, None]) * t[..., None, :] * m.maximum(above, 0 * above)).sum(-1)]


def categorical_hinge_loss_with_zero_class(m, x, t):
    best = m.max((1 - t) * x)
    violated = 1 + best - m.sum(t * x) > 0
    return [m.where(violated, term, 0 * term) for term in (0 * best + 1, best, -t * x)]


def cosine_similarity(m, x, t, epsilon=0):
    def length(v):
        return m.sqrt(m.maximum(m.sum(v * v), 0 * m.sum(v) + epsilon))

    return [x * t / length(x) / length(t)]


def cosine_distance(m, x, t, epsilon=0):
    return [0 * m.sum(x) + 1, -cosine_similarity(m, x, t, epsilon)[0]]


def cosine_embedding_loss(m, x, t, margin):
    return cosine_distance(m, x, t)


def cosine_embedding_loss_of_others(m, x, t, margin):
    """With the label -1."""
    cosine = cosine_similarity(m, x, t)[0]
    return [m.where(m.sum(cosine) > margin, term, 0 * term) for term in (cosine, 0 * m.sum(x) - margin)]


def margin_ranking_loss(m, x, t, margin):
    """With the target -1."""
    return [m.maximum(x - t + margin, 0 * x)]


def hinge_embedding_loss(m, x, t, margin):
    return [m.where(t == 1, x, m.maximum(margin - x, 0 * x))]


def triplet_margin_loss(m, x, t, margin, eps):
    """With the targets as positives, and their opposites as negatives."""
    near, far = (m.sqrt(m.sum((x - v) ** 2) + eps) for v in (t, -t))
    return [m.where(near - far + margin > 0, term, 0 * term) for term in (near, -far, 0 * near + margin)]


def tversky_loss(m, x, t, alpha, beta, smooth, axis=None):
    errors = alpha * x * (1 - t), beta * t * (1 - x)
    whole = m.sum(errors[0] + errors[1] + x * t) + smooth
    return [error / whole for error in errors]


def kl_divergence(m, x, t):
    return [m.xlogy(t, t), -t * x]


def kl_divergence_with_log_targets(m, x, t):
    return [m.exp(t) * t, -m.exp(t) * x]


def generalized_kl_divergence(m, x, t):
    return [m.xlogy(t, t), -t * x, m.exp(x), -t]


def jensen_shannon_divergence(m, x, t, beta=0.5):
    q, p = m.exp(x), m.exp(t)
    mixture = m.log(beta * p + (1 - beta) * q)
    return [beta * p * t, -beta * p * mixture, (1 - beta) * q * x, -(1 - beta) * q * mixture]


def softmax_kl_divergence(m, x, t, temperature=1):
    return kl_divergence_with_log_targets(m, _log_softmax(m, x / temperature), _log_softmax(m, t / temperature))


def softmax_jensen_shannon_divergence(m, x, t, beta=0.5, temperature=1):
    log_q, log_t = _log_softmax(m, x / temperature), _log_softmax(m, t / temperature)
    return jensen_shannon_divergence(m, log_q, log_t, beta)


def softmax_total_variation_distance(m, x, t, temperature=1):
    q, p = (m.exp(_log_softmax(m, z / temperature)) for z in (x, t))
    return [m.maximum(q, p) / 2, m.maximum(-q, -p) / 2]


def total_variation_distance(m, x, t):
    return [m.abs(x - t) / 2]


def categorical_cross_entropy(m, x, t):
    return [-m.xlogy(t, x)]


def nll_loss(m, x, t):
    return [m.where(t == 1, -x, 0 * x)]


def generalized_cross_entropy(m, x, t, q):
    return [(1 - m.sum(t * x) ** q) / q]


def binary_cross_entropy(m, x, t, label_smoothing=0):
    t = (1 - label_smoothing) * t + label_smoothing / 2
    return [-m.xlogy(t, x), -m.xlogy(1 - t, 1 - x)]


# Values and derivatives.


def numbers(x):
    """An array of mpmath's numbers."""
    return np.frompyfunc(lambda v: v if isinstance(v, mp.mpf) else mp.mpf(float(v)), 1, 1)(np.asarray(x, object))


def _terms(formula, x, t, options):
    options = {k: mp.mpf(v) if isinstance(v, float) else v for k, v in options.items()}
    return formula(EXACT, x, t, **options)


def _add(terms, rows):
    """The sum of the terms, and that of their absolute values."""
    return [sum(np.sum(u, axis=-1) if rows else u for u in each) for each in (terms, [np.abs(u) for u in terms])]


def exact(formula, x, t, *, rows=False, **options):
    """The loss and the sum of the absolute values of its terms."""
    return _add(_terms(formula, numbers(x), numbers(t), options), rows)


def exact_row(formula, x, t, **options):
    return exact(formula, x, t, rows=True, **options)


_STEP = mp.mpf(10) ** -40


def _difference(a, b, *, than):
    """a - b, 0 where that is rounding of the numbers it is of."""
    return np.where(np.asarray(np.abs(a - b) < np.abs(than) * mp.mpf(10) ** (30 - mp.mp.dps), bool), mp.mpf(0), a - b)


def _nudged(formula, x, t, by, column, options):
    """Terms a step below, at and above, and the step, moving predictions (0) or targets (1), in rows one column."""
    moved = (x, t)[by]
    step = (np.abs(moved) + mp.mpf(10) ** -30) * _STEP
    if column is not None:
        step = step * (np.arange(x.shape[-1]) == column)
    below, above = ((x + sign * step, t) if by == 0 else (x, t + sign * step) for sign in (-1, 1))
    size = step if column is None else step[..., column, None]
    return _terms(formula, *below, options), _terms(formula, x, t, options), _terms(formula, *above, options), size


def exact_gradient(formula, x, t, *, by=0, rows=False, **options):
    """The gradient, the sum of the absolute values of its terms, and whether there is one: False at a kink."""
    x, t = numbers(x), numbers(t)
    columns = []
    for column in range(x.shape[-1]) if rows else [None]:
        below, here, above, step = _nudged(formula, x, t, by, column, options)
        slopes = [_difference(a, b, than=a) / (2 * step) for a, b in zip(above, below, strict=True)]
        right = _add([_difference(a, b, than=a) / step for a, b in zip(above, here, strict=True)], rows)[0]
        value, size = _add(slopes, rows)
        columns.append((value, size, np.abs(right - value) <= mp.mpf(10) ** -20 * (size + mp.mpf(10) ** -60)))
    return [np.stack(part, axis=-1) if rows else part[0] for part in zip(*columns, strict=True)]


def exact_second(formula, x, t, **options):
    """The second derivative of an element by its prediction, and the size of its terms.

    Of a term g(h(x)) that has terms g'' h'^2 and g' h'': the first is measured by f'^2 / f.
    """
    below, here, above, step = _nudged(formula, numbers(x), numbers(t), 0, None, options)
    second, size = 0, 0
    for a, b, c in zip(above, here, below, strict=True):
        bend, slope = _difference(a + c, 2 * b, than=b) / step**2, _difference(a, c, than=b) / (2 * step)
        second += bend
        size += np.abs(bend) + slope**2 / (np.abs(b) + mp.mpf(10) ** -300)
    return second, size


def softmax_cross_entropy_gradient(logits, labels, *, hard=False):
    """p_c sum(t) - t_c for each class, and its terms; of hard labels each entry is held to its own size."""
    z, t = numbers(logits), numbers(labels)
    p = EXACT.exp(z - max(z))
    p = p / sum(p)
    gradient = p * sum(t) - t
    return gradient, np.abs(gradient) if hard else p * sum(np.abs(t)) + np.abs(t)


def derivatives(loss, point, order):
    """All derivatives of that order, by differences at 360 digits, flat; `loss` takes a list."""

    def along(*axes):
        orders = tuple(axes.count(i) for i in range(len(point)))
        return mp.diff(lambda *x: loss(list(x)), tuple(mp.mpf(float(v)) for v in point), orders)

    if order == 1:
        return [along(i) for i in range(len(point))]
    return [along(i, j) for i in range(len(point)) for j in range(len(point))]


def class_overlap_loss(p, t, smooth, alpha, beta):
    """The Tversky loss of each class of maps [pixels, classes], its errors and its intersection."""
    intersection = (p * t).sum(0) + smooth
    errors = alpha * (p * (1 - t)).sum(0) + beta * ((1 - p) * t).sum(0)
    return 1 - intersection / (intersection + errors), errors, intersection
