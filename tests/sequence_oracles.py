"""Textbook definitions over sequences: all paths one by one at many digits, and recursions over states in float64."""

import itertools

import mpmath as mp
import numpy as np


def collapsed(path, blank):
    """Repeats merged, then blanks removed."""
    return tuple(c for c, _ in itertools.groupby(path) if c != blank)


def ctc_by_enumeration(x, labels, blank):
    """-log of the sum over all paths that collapse to the labels, and its gradient by x [frames, classes]."""
    with mp.workdps(50):
        frames, classes = x.shape
        p = [[mp.exp(mp.mpf(float(v))) for v in row] for row in x]
        p = [[v / mp.fsum(row) for v in row] for row in p]
        paths = [q for q in itertools.product(range(classes), repeat=frames) if collapsed(q, blank) == tuple(labels)]
        weights = [mp.fprod(p[t][c] for t, c in enumerate(path)) for path in paths]
        total = mp.fsum(weights)
        if total == 0:
            return np.inf, np.zeros(x.shape)
        gradient = [
            [
                p[t][c] - mp.fsum(w for w, q in zip(weights, paths, strict=True) if q[t] == c) / total
                for c in range(classes)
            ]
            for t in range(frames)
        ]
        return float(-mp.log(total)), np.array(gradient, float).reshape(x.shape)


def ctc(x, labels, blank=0):
    """The same by the states of Graves' paper, blank, label, blank, ..., forward and backward in float64 logarithms."""
    x = np.asarray(x, np.float64)
    log_p = x - np.logaddexp.reduce(x, -1, keepdims=True)
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    skips = np.zeros(len(states), bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    emitted = log_p[:, states]

    def recursion(emitted, skips):
        alpha = np.full((len(emitted), len(states)), -np.inf)
        alpha[0, :2] = emitted[0, :2]
        for t in range(1, len(emitted)):
            one, two = (np.concatenate([np.full(k, -np.inf), alpha[t - 1]])[: len(states)] for k in (1, 2))
            stay = np.logaddexp(alpha[t - 1], one)
            alpha[t] = emitted[t] + np.logaddexp(stay, np.where(skips, two, -np.inf))
        return alpha

    alpha = recursion(emitted, skips)
    back = np.zeros_like(skips)
    back[: len(skips) - 2] = skips[2:]
    beta = recursion(emitted[::-1, ::-1], back[::-1])[::-1, ::-1]
    total = np.logaddexp.reduce(alpha[-1, -2:])
    posterior = np.exp(alpha + beta - emitted - total)
    gradient = np.exp(log_p)
    for s, c in enumerate(states):
        gradient[:, c] -= posterior[:, s]
    return -total, gradient
