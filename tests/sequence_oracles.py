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


def softmax_at_50_digits(row):
    p = [mp.exp(mp.mpf(float(v))) for v in row]
    total = mp.fsum(p)
    return [v / total for v in p]


def of_confident_frames(gradient, terms, p):
    """As floats; the most probable class of a frame has the terms of all others, whose entries it sums."""
    gradient, terms = np.array(gradient, float), np.array(terms, float)
    for index in np.ndindex(gradient.shape[:-1]):
        k = int(np.argmax([float(v) for v in p[index]]))
        if p[index][k] > 0.5:
            terms[index][k] = terms[index].sum() - terms[index][k]
    return gradient, terms


def ctc_at_50_digits(x, labels, blank=0):
    """-log P, its gradient, and the absolute terms of that: p_c and the posterior, or for P > 1/2 what they lack.

    That is p_c A_c / P and p_c sum_k p_k A_k / P, with p_c A_c the probability that the frames before are possible, the
    frame emits c, and the labels are missed all the same.
    """
    with mp.workdps(50):
        frames, classes = x.shape
        p = [softmax_at_50_digits(row) for row in np.asarray(x, np.float64)]
        emits = [blank, *(c for label in labels for c in (int(label), blank))]
        count = len(emits)

        def before(s):
            skips = s >= 3 and s % 2 == 1 and emits[s] != emits[s - 2]
            return [r for r in (s, s - 1, s - 2 if skips else -1) if r >= 0]

        alpha = [[mp.mpf(s == 0) for s in range(count)]]
        for t in range(frames):
            alpha.append([p[t][emits[s]] * mp.fsum(alpha[t][r] for r in before(s)) for s in range(count)])
        beta = [mp.mpf(s >= count - 2) for s in range(count)]
        total = mp.fsum(a * b for a, b in zip(alpha[-1], beta, strict=True))
        gradient, terms = np.zeros((frames, classes), object), np.zeros((frames, classes), object)
        for t in reversed(range(frames)):
            alive, posterior = mp.fsum(alpha[t]), [mp.mpf(0)] * classes
            for s in range(count):
                posterior[emits[s]] += alpha[t + 1][s] * beta[s] / total
            for c in range(classes):
                gradient[t, c] = p[t][c] - posterior[c]
                lacking = (p[t][c] * alive / total - posterior[c]) + p[t][c] * (alive / total - 1)
                terms[t, c] = lacking if total > 0.5 else p[t][c] + posterior[c]
            old, beta = beta, [mp.mpf(0)] * count
            for s in range(count):
                for r in before(s):
                    beta[r] += p[t][emits[s]] * old[s]
        return float(-mp.log(total)), *of_confident_frames(gradient, terms, p=_by_frame(p))


def _by_frame(p):
    table = np.empty(len(p), object)
    table[:] = p
    return table


def transducer_at_50_digits(x, labels, blank, fastemit=0.0):
    """-log P, its gradient, and its absolute terms: alpha p_c / P times what is missed after c, and after the node."""
    with mp.workdps(50):
        frames, nodes, classes = x.shape
        p = np.empty((frames, nodes), object)
        for t, u in np.ndindex(frames, nodes):
            p[t, u] = softmax_at_50_digits(np.asarray(x[t, u], np.float64))

        def arcs(t, u):
            if u < nodes - 1:
                yield int(labels[u]), t, u + 1
            yield blank, t + 1, u

        alpha, beta = np.full((frames + 1, nodes), mp.mpf(0)), np.full((frames + 1, nodes), mp.mpf(0))
        alpha[0, 0] = beta[frames, nodes - 1] = mp.mpf(1)
        for t, u in np.ndindex(frames, nodes):
            for c, *after in arcs(t, u):
                alpha[tuple(after)] += alpha[t, u] * p[t, u][c]
        for t, u in reversed(list(np.ndindex(frames, nodes))):
            beta[t, u] = mp.fsum(p[t, u][c] * beta[tuple(after)] for c, *after in arcs(t, u))
        total = beta[0, 0]
        gradient, terms = np.zeros(x.shape, object), np.zeros(x.shape, object)
        for t, u in np.ndindex(frames, nodes):
            after = dict.fromkeys(range(classes), mp.mpf(0)) | {c: beta[tuple(to)] for c, *to in arcs(t, u)}
            for c in range(classes):
                mass = alpha[t, u] * p[t, u][c] / total
                gradient[t, u, c] = mass * (beta[t, u] - after[c])
                terms[t, u, c] = mass * ((1 - after[c]) + (1 - beta[t, u]))
                if u < nodes - 1:
                    emitted = fastemit * alpha[t, u] * p[t, u][int(labels[u])] * after[int(labels[u])] / total
                    part = emitted * (p[t, u][c] - (c == int(labels[u])))
                    gradient[t, u, c] += part
                    terms[t, u, c] += abs(part)
        return float(-mp.log(total)), np.array(gradient, float), np.array(terms, float)
