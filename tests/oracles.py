"""Textbook definitions at 360 digits: enough for 20 of a loss of 1e-308 (float64) beside a logit of 1e30.

Each returns the loss and the sum of the absolute values of its terms, which is what its rounding is measured against.
"""

import mpmath as mp

mp.mp.dps = 360


def _number(x):
    return x if isinstance(x, mp.mpf) else mp.mpf(float(x))


def _logits(logits, soft_cap, logit_scale):
    z = [_number(logit_scale) * _number(x) for x in logits]
    return z if soft_cap is None else [_number(soft_cap) * mp.tanh(x / _number(soft_cap)) for x in z]


def softmax_cross_entropy(logits, labels, *, label_smoothing=0, z_loss=0, soft_cap=None, logit_scale=1):
    z = _logits(logits, soft_cap, logit_scale)
    alpha = _number(label_smoothing)
    t = [(1 - alpha) * _number(c) + alpha / len(z) for c in labels]
    total = mp.log(mp.fsum(mp.exp(x) for x in z))
    penalty = _number(z_loss) * total**2
    parts = [c * (total - x) if c else mp.mpf(0) for c, x in zip(t, z, strict=True)]
    return mp.fsum(parts) + penalty, mp.fsum(abs(p) for p in parts) + abs(penalty)


def softmax_cross_entropy_gradient(logits, labels, *, hard=False):
    """p_c sum(t) - t_c for each class, and its terms; of hard labels each entry is held to its own size."""
    z, t = [_number(x) for x in logits], [_number(c) for c in labels]
    total = mp.fsum(mp.exp(x - max(z)) for x in z)
    p = [mp.exp(x - max(z)) / total for x in z]
    gradient = [q * mp.fsum(t) - c for q, c in zip(p, t, strict=True)]
    if hard:
        return gradient, [abs(g) for g in gradient]
    return gradient, [q * mp.fsum(abs(c) for c in t) + abs(c) for q, c in zip(p, t, strict=True)]


def sigmoid_binary_cross_entropy(logit, label, *, label_smoothing=0, pos_weight=1, soft_cap=None, logit_scale=1):
    (x,) = _logits([logit], soft_cap, logit_scale)
    alpha = _number(label_smoothing)
    t = (1 - alpha) * _number(label) + alpha / 2
    yes = _number(pos_weight) * t * mp.log(1 + mp.exp(-x)) if t else mp.mpf(0)
    no = (1 - t) * mp.log(1 + mp.exp(x)) if t != 1 else mp.mpf(0)
    return yes + no, abs(yes) + abs(no)


def derivatives(loss, point, order):
    """All derivatives of that order, by differences at 360 digits, flat; `loss` takes a list."""

    def along(*axes):
        orders = tuple(axes.count(i) for i in range(len(point)))
        return mp.diff(lambda *x: loss(list(x)), tuple(mp.mpf(float(v)) for v in point), orders)

    if order == 1:
        return [along(i) for i in range(len(point))]
    return [along(i, j) for i in range(len(point)) for j in range(len(point))]
