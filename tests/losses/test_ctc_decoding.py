"""Decoding and alignment by CTC, against all paths of short sequences in plain NumPy."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerances import close, same

from jaxloss import ctc_align, ctc_beam_decode, ctc_greedy_decode, ctc_loss

inf, nan = np.inf, np.nan
FRAMES, CLASSES, BLANK = 5, 3, 1
PREFIXES = 63  # of 2 labels, at most 5 of them


def log_softmax(x):
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore"):
        p = np.exp(x - x.max(-1, keepdims=True))
        return np.log(p / p.sum(-1, keepdims=True))


def collapsed(path, blank):
    """The labels of a path, and of each frame which of them it emits."""
    labels, emits, before = [], [], None
    for c in path:
        if c != blank and c != before:
            labels.append(c)
        emits.append(-1 if c == blank else len(labels) - 1)
        before = c
    return tuple(labels), tuple(emits)


@cache
def paths(frames, classes, blank):
    return [(path, *collapsed(path, blank)) for path in itertools.product(range(classes), repeat=frames)]


def every_alignment(x, blank=BLANK):
    """For all possible labels, what emits them: log-probability and the index of each frame's label."""
    log_p, found = log_softmax(x), {}
    for path, labels, emits in paths(*x.shape, blank):
        found.setdefault(labels, []).append((log_p[np.arange(len(path)), list(path)].sum(), emits))
    return found


def every_sum(x, blank=BLANK):
    return {
        labels: np.logaddexp.reduce([p for p, _ in alignments])
        for labels, alignments in every_alignment(x, blank).items()
    }


def rows(decoded):
    """The labels of each beam that is used, with their log-probability; and that the rest is as it should be."""
    labels, lengths, log_prob = (np.asarray(a) for a in decoded)
    assert labels.dtype == lengths.dtype == np.int32
    used = log_prob > -inf
    assert (np.diff(np.where(used, log_prob, -1e9)) <= 0).all()
    there = np.arange(labels.shape[-1]) < lengths[:, None]
    assert (labels[~there] == -1).all()
    assert (labels[there] >= 0).all()
    assert (lengths[~used] == 0).all()
    found = {tuple(y[:n].tolist()): p for y, n, p, u in zip(labels, lengths, log_prob, used, strict=True) if u}
    assert len(found) == used.sum(), "a prefix twice"
    return found


# Functions of one shape, compiled once.
greedy = jax.jit(partial(ctc_greedy_decode, blank_id=BLANK))
beam = jax.jit(partial(ctc_beam_decode, blank_id=BLANK), static_argnames="beam_size")
align = jax.jit(partial(ctc_align, blank_id=BLANK))
loss = jax.jit(partial(ctc_loss, blank_id=BLANK))


@pytest.fixture
def logits(rng):
    return rng.normal(0, 2, (6, FRAMES, CLASSES)).astype(np.float32)


@pytest.mark.smoke
def test_greedy_is_the_loop(logits):
    labels, lengths, log_prob = greedy(logits)
    assert labels.dtype == lengths.dtype == np.int32
    assert len(set(lengths.tolist())) > 1
    for x, y, n, p in zip(logits, labels, lengths, log_prob, strict=True):
        expected, _ = collapsed(x.argmax(-1).tolist(), BLANK)
        assert y.tolist() == [*expected, *[-1] * (FRAMES - len(expected))]
        assert n == len(expected)
        close(p, log_softmax(x).max(-1).sum(), FRAMES + np.abs(p), of="greedy")


@pytest.mark.smoke
def test_a_beam_of_all_prefixes_is_the_sum_over_all_paths(logits):
    decoded = beam(logits, beam_size=PREFIXES + 3)
    for i, x in enumerate(logits):
        found, expected = rows([a[i] for a in decoded]), every_sum(x)
        assert found.keys() == expected.keys()
        for labels, p in expected.items():
            close(found[labels], p, FRAMES + np.abs(p), of=labels)


@pytest.mark.smoke
def test_that_sum_is_the_loss(logits):
    labels, lengths, log_prob = beam(logits, beam_size=PREFIXES + 3)
    used = np.asarray(log_prob) > -inf
    each = np.broadcast_to(logits[:, None], (*labels.shape, CLASSES))
    by_loss = -loss(each, labels=labels, label_lengths=lengths)
    same(np.where(used, log_prob, 0), np.where(used, by_loss, 0))


def test_gradients_of_beams_are_those_of_the_loss(logits):
    x = logits[0]
    labels, lengths, log_prob = beam(logits, beam_size=PREFIXES + 3)
    used = np.asarray(log_prob[0]) > -inf
    by_beam = jax.jit(jax.jacrev(lambda x: ctc_beam_decode(x, blank_id=BLANK, beam_size=PREFIXES + 3).log_prob))(x)
    each = np.broadcast_to(x, (len(used), *x.shape))
    by_loss = jax.jit(jax.grad(lambda *a: -loss(a[0], labels=a[1], label_lengths=a[2]).sum()))(
        each, labels[0], lengths[0]
    )
    same(by_beam[used], by_loss[used], span=FRAMES)
    assert not np.asarray(by_beam[~used]).any()


def search(x, blank, size):
    """Prefix beam search with dictionaries."""
    kept = {(): (0.0, -inf)}
    for e in log_softmax(x):
        new = {}

        def add(labels, blank=-inf, label=-inf, new=new):
            old = new.get(labels, (-inf, -inf))
            new[labels] = np.logaddexp(old[0], blank), np.logaddexp(old[1], label)

        for labels, (by_blank, by_label) in kept.items():
            total = np.logaddexp(by_blank, by_label)
            add(labels, blank=total + e[blank])
            for c in set(range(len(e))) - {blank}:
                if labels and labels[-1] == c:
                    add(labels, label=by_label + e[c])
                    add((*labels, c), label=by_blank + e[c])
                else:
                    add((*labels, c), label=total + e[c])
        best = sorted(new.items(), key=lambda item: -np.logaddexp(*item[1]))
        kept = dict(best[:size])
    return {labels: np.logaddexp(*p) for labels, p in kept.items()}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_small_beam_is_the_search_with_dictionaries(size, rng):
    """Long enough for prefixes to fall out of the beam before what they begin, and to come back."""
    x = rng.normal(0, 1, (20, 14, 4)).astype(np.float32)
    decoded = jax.jit(partial(ctc_beam_decode, blank_id=3, beam_size=size))(x)
    for i in range(len(x)):
        found, expected = rows([a[i] for a in decoded]), search(x[i], 3, size)
        assert found.keys() == expected.keys()
        for labels, p in expected.items():
            close(found[labels], p, 14 + np.abs(p), of=labels)


def test_more_classes_than_a_beam_looks_at(rng):
    x = np.round(rng.normal(0, 1, (8, 6, 40)), 3).astype(np.float32)
    x[:, :, 7] += 2
    decoded = jax.jit(partial(ctc_beam_decode, blank_id=7, beam_size=3))(x)
    for i in range(len(x)):
        assert list(rows([a[i] for a in decoded])) == list(search(x[i], 7, 3))


@pytest.fixture
def labels():
    return np.array([[0, 2], [2, 2], [0, 0], [2, 0], [0, 2], [2, 2]])


def checked(alignment, x, y, at=None):
    """That an alignment is one of the labels, and the best one; x are the frames at some of all places."""
    emits, starts, ends, log_prob = (np.asarray(a) for a in alignment)
    assert emits.dtype == starts.dtype == ends.dtype == np.int32
    found = every_alignment(x)[tuple(y)]
    best, expected = max(found)
    close(log_prob, best, len(x) + np.abs(best), of="alignment")
    at = np.arange(len(x)) if at is None else at
    assert emits[at].tolist() == list(expected)
    assert (np.delete(emits, at) == -1).all()
    for n, (start, end) in enumerate(zip(starts, ends, strict=True)):
        frames = np.flatnonzero(emits == n)
        assert (start, end) == ((frames[0], frames[-1] + 1) if n < len(y) else (-1, -1))


@pytest.mark.smoke
def test_an_alignment_is_the_best_path(logits, labels):
    alignments = align(logits, labels=labels)
    for i, (x, y) in enumerate(zip(logits, labels, strict=True)):
        checked([a[i] for a in alignments], x, y.tolist())
    assert (alignments.log_prob < -loss(logits, labels=labels)).all()


def test_alignments_of_fewer_labels(logits, labels):
    counts = np.array([0, 1, 2, 1, 0, 2])
    labels = np.where(np.arange(2) < counts[:, None], labels, -7)
    alignments = align(logits, labels=labels, label_lengths=counts)
    for i, (x, y, n) in enumerate(zip(logits, labels, counts, strict=True)):
        checked([a[i] for a in alignments], x, y[:n].tolist())
    paddings = (np.arange(2) >= counts[:, None]).astype(np.float32)
    for a, b in zip(align(logits, labels=labels, label_paddings=paddings), alignments, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_only_alignment_and_none(rng):
    x = rng.normal(size=(3, 3, 4)).astype(np.float32)
    y, counts = np.array([[1, 1, 2], [3, 1, 3], [1, 1, 0]]), np.array([3, 3, 2])
    emits, starts, ends, log_prob = jax.jit(ctc_align)(x, labels=y, label_lengths=counts)
    assert emits.tolist() == [[-1, -1, -1], [0, 1, 2], [0, -1, 1]]
    assert starts.tolist() == [[-1, -1, -1], [0, 1, 2], [0, 2, -1]]
    assert ends.tolist() == [[-1, -1, -1], [1, 2, 3], [1, 3, -1]]
    assert log_prob[0] == -inf
    close(log_prob[1], log_softmax(x[1])[[0, 1, 2], [3, 1, 3]].sum(), 3 + np.abs(log_prob[1]))


def test_a_gradient_is_that_of_the_path(logits, labels):
    y = np.array([2, 0])
    p = np.exp(log_softmax(logits[0]))
    gradient = jax.jit(jax.grad(lambda x: ctc_align(x, labels=y, blank_id=BLANK).log_prob))(logits[0])
    path = np.array([*y, BLANK])[np.asarray(align(logits, labels=np.broadcast_to(y, labels.shape)).frame_labels[0])]
    close(gradient, np.eye(CLASSES)[path] - p, 1 + p, span=4)
    gradient = jax.jit(jax.grad(lambda x: ctc_greedy_decode(x, blank_id=BLANK).log_prob))(logits[0])
    close(gradient, np.eye(CLASSES)[logits[0].argmax(-1)] - p, 1 + p, span=4)


def all_three(logits, labels, **frames):
    return (
        greedy(logits, **frames),
        beam(logits, beam_size=PREFIXES + 3, **frames),
        align(logits, labels=labels, **frames),
    )


@pytest.mark.parametrize("junk", [nan, inf, -inf])
def test_frames_that_are_not_there(junk, logits, labels):
    """Anywhere, with anything in them: what is on both sides of them meets, and a repeat across them is one label."""
    there = np.ones((6, FRAMES), bool)
    there[0, 1] = there[1, 0] = there[2, 4] = there[3, :4] = there[4] = False
    logits[0, :3] = [[0, 1, 6], [0, 9, 0], [0, 1, 5]]
    x = np.where(there[..., None], logits, junk).astype(np.float32)
    results = all_three(x, labels, logit_paddings=(~there).astype(np.float32))
    for i in range(6):
        frames = np.flatnonzero(there[i])
        short = logits[i][frames]
        decoded, search, alignment = ([a[i] for a in result] for result in results)
        best = collapsed(short.argmax(-1).tolist(), BLANK)[0]
        assert decoded[0].tolist() == [*best, *[-1] * (FRAMES - len(best))]
        assert decoded[1] == len(best)
        close(decoded[2], log_softmax(short).max(-1).sum(), FRAMES + np.abs(decoded[2]))
        found, expected = rows(search), every_sum(short)
        assert found.keys() == expected.keys()
        for y, p in expected.items():
            close(found[y], p, FRAMES + np.abs(p), of=y)
        if tuple(labels[i]) in expected:
            checked(alignment, short, labels[i].tolist(), frames)
        else:
            assert alignment[-1] == -inf


def test_lengths_are_paddings(logits, labels):
    lengths = np.array([0, 1, 3, 4, 5, 5])
    paddings = (np.arange(FRAMES) >= lengths[:, None]).astype(np.float32)
    by_lengths = all_three(logits, labels, logit_lengths=lengths)
    by_paddings = all_three(logits, labels, logit_paddings=paddings)
    for a, b in zip(*map(jax.tree.leaves, (by_lengths, by_paddings)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert by_lengths[0].log_prob[0] == by_lengths[1].log_prob[0, 0] == 0
    assert by_lengths[2].log_prob[0] == -inf
    wrong = all_three(logits, labels, logit_lengths=np.array([-1, 6, 3, 4, 5, 5]))
    for ours, theirs in zip(wrong, by_lengths, strict=True):
        assert np.isnan(ours.log_prob[:2]).all()
        assert (ours[0][:2] == -1).all()
        np.testing.assert_array_equal(ours.log_prob[2:], theirs.log_prob[2:])


def test_wrong_labels(logits, labels):
    for wrong in (-1, CLASSES, BLANK):
        labels[1, 0] = wrong
        emits, starts, ends, log_prob = align(logits, labels=labels)
        assert np.isnan(log_prob).tolist() == [False, True, *[False] * 4]
        assert (emits[1] == -1).all()
        assert (starts[1] == -1).all()
        assert (ends[1] == -1).all()


def test_infinite_logits(logits, labels):
    logits[:, 1, 0] = logits[:, 3, 2] = logits[0, :, 0] = -inf
    decoded, alignments = beam(logits, beam_size=PREFIXES + 3), align(logits, labels=labels)
    for i, x in enumerate(logits):
        expected = {labels: p for labels, p in every_sum(x).items() if p > -inf}
        found = rows([a[i] for a in decoded])
        assert found.keys() == expected.keys()
        for y, p in expected.items():
            close(found[y], p, FRAMES + np.abs(p), of=y)
        if tuple(labels[i]) in expected:
            checked([a[i] for a in alignments], x, labels[i].tolist())
        else:
            assert alignments.log_prob[i] == -inf
    logits[0, 2], logits[1, 2] = [1, inf, 2], -inf
    (ours, lengths, log_prob), search, alignments = all_three(logits, labels)
    assert (np.delete(log_prob, 1) > -inf).all()
    assert log_prob[1] == alignments.log_prob[1] == -inf
    assert (search.log_prob[1] == -inf).all()
    assert (ours[1] == -1).all()
    assert lengths[1] == 0
    assert (search.lengths[1] == 0).all()


def test_nan(logits, labels):
    logits[2, 3, 1] = nan
    for result in all_three(logits, labels):
        assert np.isnan(result.log_prob).reshape(6, -1).all(-1).tolist() == [False, False, True, False, False, False]
        assert not np.isnan(np.delete(result.log_prob, 2, 0)).any()
        assert (result[0][2] == -1).all()


def test_ties():
    x = np.zeros((6, FRAMES, CLASSES), np.float32)
    assert greedy(x).labels[0].tolist() == [0, -1, -1, -1, -1]
    assert rows([a[0] for a in beam(x[:, :1], beam_size=3)]).keys() == {(), (0,), (2,)}
    assert beam(x[:, :1], beam_size=2).labels[0].tolist() == [[-1], [0]]
    emits = align(x, labels=np.full((6, 2), 2)).frame_labels[0]
    assert emits.tolist() == [0, -1, 1, -1, -1]
    x[:, 4, BLANK] = -inf
    assert align(x, labels=np.full((6, 1), 2)).frame_labels[0].tolist() == [0] * 5


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 3), (2, 4, 1), (2, 0, 1)])
def test_nothing(shape):
    x = np.zeros(shape, np.float32)
    *batch, frames, classes = shape
    y = np.ones((*batch, 1), np.int32)

    @jax.jit
    def every(x, y):
        alignments = ctc_align(x, labels=y), ctc_align(x, labels=y[..., :0])
        return ctc_greedy_decode(x), ctc_beam_decode(x, beam_size=2), alignments

    (labels, lengths, log_prob), search, (one, none) = every(x, y)
    assert labels.shape == (*batch, frames)
    np.testing.assert_array_equal(labels, -1)
    np.testing.assert_array_equal(lengths, np.zeros(batch))
    np.testing.assert_array_equal(log_prob, np.zeros(batch))
    assert search.labels.shape == (*batch, 2, frames)
    np.testing.assert_array_equal(search.lengths, np.zeros((*batch, 2)))
    np.testing.assert_array_equal(search.log_prob, np.broadcast_to([0, -inf], (*batch, 2)))
    for n, (emits, starts, ends, log_prob) in enumerate((none, one)):
        assert (emits.shape, starts.shape, ends.shape) == ((*batch, frames), (*batch, n), (*batch, n))
        np.testing.assert_array_equal(starts, -1)
        np.testing.assert_array_equal(ends, -1)
        np.testing.assert_array_equal(log_prob, np.full(batch, 0 if n == 0 else nan if classes == 1 else -inf))


def test_batches(logits, labels):
    """Any axes in front, a vmap or none are the same."""
    together = all_three(logits, labels)
    split = all_three(logits.reshape(2, 3, FRAMES, CLASSES), labels.reshape(2, 3, 2))
    mapped = jax.jit(jax.vmap(all_three))(logits, labels)
    alone = jax.tree.map(lambda *a: np.stack(a), *map(all_three, logits[:2], labels[:2]))
    for a, b, c, d in zip(*map(jax.tree.leaves, (together, split, mapped, alone)), strict=True):
        same(b.reshape(a.shape), a)
        same(c, a)
        same(d, a[:2])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
def test_dtypes(dtype, logits, labels):
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(logits, dtype)
        given = all_three(x, labels)
        wide = all_three(x.astype(np.promote_types(dtype, np.float32)), labels)
        for ours, theirs in zip(given, wide, strict=True):
            assert ours.log_prob.dtype == (np.float64 if dtype == np.float64 else np.float32)
            assert ours[0].dtype == np.int32
            for a, b in zip(ours, theirs, strict=True):
                same(a, b)
        found, expected = rows([a[0] for a in given[1]]), every_sum(np.asarray(x[0], np.float64))
        assert found.keys() == expected.keys()
        for y, p in expected.items():
            close(found[y], p, FRAMES + np.abs(p), dtype=given[1].log_prob.dtype, of=y)


def test_log_probabilities_are_logits(logits, labels):
    both = all_three(jax.nn.log_softmax(logits), labels), all_three(logits, labels)
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        same(a, b, span=FRAMES)


X = np.zeros((2, 4, 3), np.float32)
Y = np.ones((2, 2), np.int32)
ERRORS = [
    (
        ctc_greedy_decode,
        (X.astype(np.int32),),
        {},
        TypeError,
        "ctc_greedy_decode: expected `logits` of a floating dtype",
    ),
    (ctc_greedy_decode, (X[0, 0],), {}, ValueError, "expected `logits` of shape (..., frames, classes), got (3,)."),
    (ctc_greedy_decode, (X, Y), {}, ValueError, "expected `logit_paddings` of shape (2, 4), got (2, 2)."),
    (ctc_greedy_decode, (X,), {"blank_id": 3}, ValueError, "expected `blank_id` to be an integer in [-3, 3), got 3."),
    (
        ctc_beam_decode,
        (X,),
        {"logit_lengths": Y},
        ValueError,
        "ctc_beam_decode: expected `logit_lengths` of shape (2,)",
    ),
    (ctc_beam_decode, (X,), {"beam_size": 0}, ValueError, "expected `beam_size` to be a positive integer, got 0."),
    (ctc_beam_decode, (X, X[..., 0]), {"logit_lengths": Y[0]}, ValueError, "or `logit_lengths`, got both."),
    (
        ctc_align,
        (X,),
        {},
        TypeError,
        "ctc_align: expected `labels` to be an array, got None; pass `labels=`.",
    ),
    (ctc_align, (X, None, Y[:1]), {}, ValueError, "ctc_align: expected `labels` of shape (2, n), got (1, 2)."),
]


@pytest.mark.parametrize(("function", "args", "options", "kind", "sentence"), ERRORS)
def test_errors(function, args, options, kind, sentence):
    with pytest.raises(kind) as raised:
        function(*args, **options)
    assert sentence in str(raised.value)


@pytest.mark.parametrize("decode", [ctc_greedy_decode, partial(ctc_beam_decode, beam_size=3)])
def test_a_negative_blank_counts_from_the_end(decode, rng):
    x = jnp.asarray(rng.normal(size=(6, 4)), np.float32).at[::2, -1].add(5)
    for a, b in zip(decode(x, blank_id=-1), decode(x, blank_id=3), strict=True):
        np.testing.assert_array_equal(a, b)
    aligned = (ctc_align(x, labels=jnp.array([1, 2]), blank_id=blank) for blank in (-1, 3))
    for a, b in zip(*aligned, strict=True):
        np.testing.assert_array_equal(a, b)


def test_logits_alone_are_split_over_devices(rng):
    """Labels and lengths are not."""
    x = jnp.asarray(rng.normal(size=(8, 6, 4)), np.float32)
    given = {"logit_lengths": jnp.full(8, 5)}

    def everything(x):
        labels = {"labels": jnp.ones((8, 2), np.int32), **given}
        loss = jax.value_and_grad(lambda x: ctc_loss(x, **labels).sum())
        return loss(x), ctc_align(x, **labels), ctc_greedy_decode(x, **given), ctc_beam_decode(x, beam_size=2, **given)

    expected = jax.jit(everything)(x)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            found = jax.jit(everything)(jax.device_put(x, NamedSharding(mesh, P("data"))))
        for a, b in zip(jax.tree.leaves(jax.device_get(found)), jax.tree.leaves(expected), strict=True):
            same(a, b)


def test_only_the_logits_of_a_shard_map_vary(rng):
    x, labels = jnp.asarray(rng.normal(size=(8, 6, 4)), np.float32), jnp.ones((1, 2), np.int32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    f = partial(ctc_align, labels=labels)
    mapped = jax.shard_map(lambda x: f(x), mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    for a, b in zip(jax.jit(mapped)(x), ctc_align(x, labels=jnp.ones((8, 2), np.int32)), strict=True):
        same(a, b)
