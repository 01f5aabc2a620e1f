"""The losses that have no row in cases.py: each row of numbers is an image, a batch, a sequence or a matrix product."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from cases import REAL, SHARES, Case
from extremes_truth import Inputs, logits, of_rows, shares, targets
from oracles import softmax_cross_entropy
from sequence_oracles import collapsed

import jaxloss

PIXELS, CLASSES, FRAMES, TEMPERATURE = 2, 2, 3, 0.07
LABELS = np.array([0, 0, 1, 1])  # of a batch of four vectors
SEQUENCE, SYMBOLS = np.array([1, 2]), 3


# The formulas, of rows [..., numbers] as in oracles.py.


def _softmax(m, x):
    e = m.exp(x - m.max(x))
    return e / m.sum(e)


def _log_sum(m, x):
    """Above the largest, so that a shift of all changes no term."""
    return m.log(m.sum(m.exp(x - m.max(x))))[..., 0]


def fenchel_young_loss(m, x, t):
    return [_log_sum(m, x)[..., None], m.max(x), -t * x]


def _dice(p, t, smooth):
    """Of each class, over the pixels."""
    errors = (p * (1 - t) + (1 - p) * t).sum(-2) / 2
    return errors / ((p * t).sum(-2) + errors + smooth)


def dice_loss(m, x, t):
    x, t = (a.reshape(*a.shape[:-1], PIXELS, CLASSES) for a in (x, t))
    return [_dice(_softmax(m, x), t, 1) / CLASSES]


def binary_dice_loss(m, x, t):
    return [_dice(1 / (1 + m.exp(-x[..., None])), t[..., None], 1)]


def tversky_loss(m, x, t):
    return [_dice(x[..., None], t[..., None], 0)]


def multiclass_generalized_dice_loss(m, x, t):
    x, t = (a.reshape(*a.shape[:-1], PIXELS, CLASSES) for a in (x, t))
    weights = 1 / (t.sum(-2) ** 2 + 1e-7)
    return [_dice(_softmax(m, x), t, 1) * weights / m.sum(weights)]


def _cosines(m, x):
    x = x.reshape(*x.shape[:-1], len(LABELS), -1)
    x = x / m.sqrt(m.sum(x * x))
    return (x[..., :, None, :] * x[..., None, :, :]).sum(-1)


_SAME = (LABELS[:, None] == LABELS).astype(int)
_POSITIVES = [(i, j) for i, j in itertools.product(range(len(LABELS)), repeat=2) if i != j and _SAME[i, j]]


def ntxent(m, x, t):
    s = _cosines(m, x) / np.float32(TEMPERATURE).astype(object)
    pairs = [m.log(1 + (m.exp(s[..., i, :] - s[..., i, j, None]) * (1 - _SAME[i])).sum(-1)) for i, j in _POSITIVES]
    return [np.stack(pairs, -1) / len(pairs)]


def circle_loss(m, x, t):
    gamma, margin = 80, float(np.float32(0.4))
    s = _cosines(m, x)
    low = m.exp(-gamma * m.maximum(1 + margin - s, 0 * s) * (s - (1 - margin)))
    high = m.exp(gamma * m.maximum(s + margin, 0 * s) * (s - margin))
    others = _SAME - np.eye(len(LABELS), dtype=int)
    return [m.log(1 + (low * others).sum(-1) * (high * (1 - _SAME)).sum(-1))]


def ctc_loss(m, x, t):
    x = x.reshape(*x.shape[:-1], FRAMES, SYMBOLS)
    paths = [q for q in itertools.product(range(SYMBOLS), repeat=FRAMES) if collapsed(q, 0) == tuple(SEQUENCE)]
    scores = np.stack([sum(x[..., frame, c] for frame, c in enumerate(q)) for q in paths], -1)
    return [(m.max(x) + _log_sum(m, x)[..., None])[..., 0], -m.max(scores) - _log_sum(m, scores)[..., None]]


def rnnt_loss(m, x, t):
    """Of two frames and a label, 1: it comes in the first frame or in the second."""
    x = x.reshape(*x.shape[:-1], 2, 2, SYMBOLS)
    total = (m.max(x) + _log_sum(m, x)[..., None])[..., 0]
    first = x[..., 0, 0, 1] + x[..., 0, 1, 0] - total[..., 0, 1]
    second = x[..., 0, 0, 0] + x[..., 1, 0, 1] - total[..., 1, 0]
    scores = np.stack([first, second], -1)
    ends = np.stack([total[..., 0, 0], total[..., 1, 1], -x[..., 1, 1, 0]], -1)
    return [ends, -m.max(scores) - _log_sum(m, scores)[..., None]]


def linear_cross_entropy(m, x, t):
    """Two features, three classes; the label is 0."""
    z = x[..., 0, None] * x[..., 2:5] + x[..., 1, None] * x[..., 5:8]
    return [_log_sum(m, z)[..., None], m.max(z), -z[..., :1]]


# The calls, of arrays [inputs, numbers].


def per_row(loss):
    return lambda x, t: jax.vmap(loss)(x, t)


def image(x):
    return x.reshape(-1, PIXELS, CLASSES)


def sequences(x):
    return x.reshape(-1, FRAMES, SYMBOLS)


def labels_of(x, labels):
    return jnp.broadcast_to(jnp.asarray(labels, np.int32), (len(x), len(labels)))


def _linear(x, t):
    loss = jaxloss.linear_cross_entropy(x[None, :2], x[2:].reshape(2, 3), jnp.zeros(1, np.int32), reduction="none")
    return loss[0]


def _batch_of(loss, *args, **options):
    return per_row(lambda x, t: loss(x.reshape(len(LABELS), -1), jnp.asarray(LABELS), *args, **options))


def _case(formula, call, targets=SHARES, predictions=REAL):
    return Case(formula.__name__, formula, predictions, targets, rows=True, call=call)


def _fenchel_young(x, t):
    return jaxloss.make_fenchel_young_loss(jax.scipy.special.logsumexp)(x, t)


RANKING = Case(
    "ranking_softmax_loss",
    softmax_cross_entropy,
    REAL,
    SHARES,
    rows=True,
    call=lambda x, t: jaxloss.ranking_softmax_loss(x, t, reduce_fn=None),
)
FENCHEL_YOUNG = _case(fenchel_young_loss, _fenchel_young)
DICE = _case(dice_loss, lambda x, t: jaxloss.dice_loss(image(x), image(t)))
BINARY_DICE = _case(binary_dice_loss, jaxloss.binary_dice_loss)
TVERSKY = _case(tversky_loss, lambda x, t: jaxloss.tversky_loss(x, t, axis=-1), predictions=SHARES)
GENERALIZED_DICE = _case(
    multiclass_generalized_dice_loss,
    per_row(lambda x, t: jaxloss.multiclass_generalized_dice_loss(image(x), image(t))),
)
NTXENT = _case(ntxent, _batch_of(jaxloss.ntxent, TEMPERATURE))
CIRCLE = _case(circle_loss, _batch_of(jaxloss.circle_loss, reduction="sum"))
CTC = _case(ctc_loss, lambda x, t: jaxloss.ctc_loss(sequences(x), labels=labels_of(x, SEQUENCE)))
RNNT = _case(
    rnnt_loss, lambda x, t: jaxloss.rnnt_loss(x.reshape(-1, 2, 2, SYMBOLS), labels=labels_of(x, [1]), blank_id=0)
)
LINEAR = _case(linear_cross_entropy, per_row(_linear))


# What is planted.


def _beside(patterns, count):
    """Rows of `count` patterns: all the same, or one beside ordinary ones."""
    ordinary = [np.roll([0.3, -1.2, 2.0][: len(patterns[0])], k) for k in range(count)]
    for p in patterns:
        yield np.concatenate([p] * count)
        for k in range(count):
            yield np.concatenate([p if i == k else ordinary[i] for i in range(count)])


def _vectors():
    """Apart and close, of ordinary, short and long vectors."""
    apart = np.array([[1, 0.2], [0.9, 0.1], [-1, 0.3], [-0.8, 0.1]])
    mixed = np.array([[1, 0.5], [-0.5, 1], [0.9, 0.7], [-1, -0.6]])
    for x in (apart, mixed, apart[::-1] + 0.1, mixed @ [[0.6, 0.8], [-0.8, 0.6]]):
        for lengths in ([1], [1e-4], [1e4], [1e-30], [1e30], [1, 1e30], [1e-30, 1, 1e4]):
            yield (x * np.resize(lengths, 4)[:, None]).ravel()


def _frames():
    """Of no sum in which a path is lost beside the length of another."""
    return [x for x in logits(SYMBOLS) if (np.isinf(x) | (np.abs(x) <= 100)).all()]


def _products():
    some = np.array([0.5, -1.0, 0.25, 1.0, 0.75, -0.5])
    for h in ((1, 0.5), (0, 0), (1e-40, 0), (17, 0), (100, -100), (1e4, 1e4), (1e15, -1e15), (1e30, 1)):
        for weights in (some, 1e-8 * some, 100 * some, 0 * some):
            yield np.concatenate([h, weights])


_HARD = [np.eye(CLASSES)[list(i)].ravel() for i in itertools.product(range(CLASSES), repeat=PIXELS)]
_BITS = [np.array(b, float) for b in itertools.product((0, 1), repeat=PIXELS)]
_NONE = [np.zeros(1)]
_POINTS = [np.array(p, float) for p in itertools.product((0, 1e-40, 1e-30, 1e-8, 0.25, 1 - 2.0**-11, 1), repeat=2)]
PLANTED = {
    RANKING: lambda: (logits(3), targets(3)),
    FENCHEL_YOUNG: lambda: ([x for x in logits(3) if (x < np.inf).all() and (x > -np.inf).any()], shares(3)[:4]),
    DICE: lambda: (list(_beside(logits(CLASSES), PIXELS)), _HARD),
    BINARY_DICE: lambda: (logits(PIXELS), _BITS),
    TVERSKY: lambda: (_POINTS, _BITS),
    GENERALIZED_DICE: lambda: (list(_beside(logits(CLASSES), PIXELS)), _HARD[1:3]),
    NTXENT: lambda: (list(_vectors()), _NONE),
    CIRCLE: lambda: (list(_vectors()), _NONE),
    CTC: lambda: (list(_beside(_frames(), FRAMES)), _NONE),
    RNNT: lambda: (list(_beside(_frames(), 4)), _NONE),
    LINEAR: lambda: (list(_products()), _NONE),
}
EXPONENTS = {NTXENT: 2 / TEMPERATURE, CIRCLE: 200.0, CTC: 20.0, RNNT: 20.0}  # how far they span


def inputs(case: Case, dtype) -> list[Inputs]:
    first, second = PLANTED[case]()
    direction = np.resize([0.75, -1.25, 0.5, 1.5, -1.0], len(first[0]))
    return [of_rows((first, second), dtype, direction)]
