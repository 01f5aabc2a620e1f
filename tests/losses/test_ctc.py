"""CTC against all alignments one by one, against the textbook's recursion, and its laws."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sequence_oracles import ctc, ctc_at_50_digits, ctc_by_enumeration
from tolerances import close, posteriors_of_many_frames, same
from transformations import TRANSFORMATIONS

import jaxloss

CTC = jaxloss.ctc_loss
FRAMES, CLASSES, LABELS = 12, 6, 4


def value_and_gradient(x, labels, **kwargs):
    """Of each sequence, one cotangent each."""

    def total(x):
        losses = CTC(x, labels=labels, **kwargs)
        return losses.sum(), losses

    (_, losses), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
    return losses, gradient


def batch(rng, *shape, frames=FRAMES, classes=CLASSES, labels=LABELS, scale=2.0, dtype=np.float32):
    """Logits and labels, blanks being class 0, and lengths of both."""
    x = jnp.asarray(rng.normal(size=(*shape, frames, classes)) * scale, dtype)
    y = jnp.asarray(rng.integers(1, classes, size=(*shape, labels)), np.int32)
    return (
        x,
        y,
        jnp.asarray(rng.integers(2 * labels, frames + 1, size=shape)),
        jnp.asarray(rng.integers(0, labels + 1, size=shape)),
    )


def paddings(lengths, size):
    return (jnp.arange(size)[None] >= lengths[:, None]).astype(np.float32)


@pytest.mark.exact
@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, pytest.param(5, marks=pytest.mark.smoke)])
def test_all_alignments_one_by_one(frames, blank, rng):
    """Every sequence of up to three labels of two: repeated, impossible, empty."""
    others = [c for c in range(3) if c != blank]
    every = [y for n in range(4) for y in itertools.product(others, repeat=n)]
    x = rng.normal(size=(len(every), frames, 3)) * 2
    counts = np.array([len(y) for y in every])
    labels = np.array([(*y, -1, -1, -1)[:3] for y in every])
    found = value_and_gradient(
        jnp.asarray(x, np.float32), jnp.asarray(labels), label_lengths=jnp.asarray(counts), blank_id=blank
    )
    truth = [ctc_by_enumeration(row.astype(np.float32), y, blank) for row, y in zip(x, every, strict=True)]
    for ours, of_sequence in zip(zip(*found, strict=True), truth, strict=True):
        for a, b in zip(ours, of_sequence, strict=True):
            close(a, b, 1 + np.abs(np.nan_to_num(b, posinf=0)), span=frames)


@pytest.mark.exact
@pytest.mark.parametrize(("frames", "classes", "labels"), [(200, 32, 20), (800, 32, 100), (300, 400, 60)])
def test_long_sequences(frames, classes, labels, rng):
    """The error of the gradient does not grow with the size of the logarithms: at 800 frames they are at -2000."""
    x, y, lengths, counts = batch(rng, 3, frames=frames, classes=classes, labels=labels, scale=1)
    lengths, counts = lengths.at[0].set(frames), counts.at[0].set(labels)
    losses, gradient = value_and_gradient(x, y, logit_lengths=lengths, label_lengths=counts)
    for i in range(3):
        loss, of_logits = ctc(x[i, : lengths[i]], y[i, : counts[i]])
        close(losses[i], loss, loss)
        assert not gradient[i, lengths[i] :].any()
        posteriors_of_many_frames(gradient[i, : lengths[i]], of_logits)


def test_lengths_paddings_and_slices_are_one(rng):
    """What is padded may hold anything, and other sequences do not feel it."""
    x, y, lengths, counts = batch(rng, 5)
    counts = counts.at[0].set(0)
    by_lengths = value_and_gradient(x, y, logit_lengths=lengths, label_lengths=counts)
    of_frames, of_labels = paddings(lengths, FRAMES), paddings(counts, LABELS)
    spoilt = jnp.where(of_frames[..., None] == 1, jnp.nan, x), jnp.where(of_labels == 1, -100, y)
    by_paddings = value_and_gradient(spoilt[0], spoilt[1], logit_paddings=of_frames, label_paddings=of_labels)
    by_booleans = CTC(*spoilt[:1], of_frames == 1, spoilt[1], of_labels == 1)
    np.testing.assert_array_equal(by_booleans, by_lengths[0])
    for a, b in zip(by_lengths, by_paddings, strict=True):
        np.testing.assert_array_equal(a, b)
    for i in range(5):
        loss, gradient = value_and_gradient(x[i, : lengths[i]], y[i, : counts[i]])
        same(by_lengths[0][i], loss)
        same(by_lengths[1][i, : lengths[i]], gradient)


def test_frames_may_be_skipped_anywhere(rng):
    x, y, _, _ = batch(rng, 1)
    skipped = jnp.zeros((1, FRAMES)).at[0, jnp.array([0, 3, 7])].set(1)
    losses, gradient = value_and_gradient(x.at[0, 3].set(jnp.inf), y, logit_paddings=skipped)
    there = np.flatnonzero(np.asarray(skipped[0]) == 0)
    loss, of_there = value_and_gradient(x[0, there], y[0])
    same(losses[0], loss)
    same(gradient[0, there], of_there)
    assert not gradient[0, jnp.array([0, 3, 7])].any()


def test_where_weights_and_reductions(rng):
    x, y, lengths, counts = batch(rng, 4)
    given = {"logit_lengths": lengths, "label_lengths": counts}
    where, weights = jnp.array([True, False, True, True]), jnp.array([2.0, 1.0, 0.0, 0.5])
    spoilt = {"labels": y.at[2].set(17), "where": where, "weights": weights, **given}

    @jax.jit
    def found(x):
        forms = {reduction: CTC(x, reduction=reduction, **spoilt) for reduction in ("none", "sum", "mean")}
        nothing = CTC(x, labels=y, where=jnp.zeros(4, bool), reduction="mean")
        return forms, jax.grad(lambda x: CTC(x, reduction="mean", **spoilt))(x), nothing

    losses, of_each = value_and_gradient(x, y, **given)
    forms, gradient, nothing = found(x.at[1].set(jnp.nan))
    for reduction, value in forms.items():
        same(value, jaxloss.reduce(losses, where=where, weights=weights, reduction=reduction))
    same(gradient, of_each * jnp.array([2.0, 0, 0, 0.5])[:, None, None] / 2.5)
    assert nothing == 0


IMPOSSIBLE = {
    "two labels in one frame": ([[1.0, 2.0, 3.0]], [1, 2]),
    "a repeated label without a frame between": ([[1.0, 2.0, 3.0]] * 2, [1, 1]),
    "no frame": (np.zeros((0, 3)), [1]),
    "a frame without a class": ([[1.0, 2.0, 3.0], [-np.inf] * 3, [1.0, 2.0, 3.0]], [1]),
    "a label of probability 0": ([[1.0, 2.0, -np.inf]] * 3, [2]),
    "no blank where one must be": ([[0.0, 1.0, 0.0], [-np.inf, 1.0, 0.0], [0.0, 1.0, 0.0]], [1, 1]),
}


def test_what_no_alignment_gives_is_infinite_without_gradient():
    frames, counts = (np.array([len(given[i]) for given in IMPOSSIBLE.values()]) for i in (0, 1))
    x = np.zeros((len(frames), 3, 3), np.float32)
    y = np.zeros((len(frames), 2), np.int32)
    for i, (logits, labels) in enumerate(IMPOSSIBLE.values()):
        x[i, : frames[i]], y[i, : counts[i]] = logits, labels
    given = {"label_lengths": jnp.asarray(counts), "logit_lengths": jnp.asarray(frames)}
    losses, gradient = value_and_gradient(jnp.asarray(x), jnp.asarray(y), **given)
    assert (losses == jnp.inf).all()
    assert not gradient.any()
    losses, gradient = value_and_gradient(jnp.asarray(x), jnp.asarray(y), zero_infinity=True, **given)
    assert not losses.any()
    assert not gradient.any()

    def total(x):
        return CTC(x, labels=jnp.asarray(y), **given).sum()

    assert not jax.jit(lambda x: jax.jvp(jax.grad(total), (x,), (jnp.ones_like(x),))[1])(jnp.asarray(x)).any()


@pytest.mark.exact
def test_what_is_unlikely_is_not_impossible():
    """Label, blank, label, and the blank has a logit of -3e5."""
    x = jnp.array([[0.0, 1.0, 0.0], [-3e5, 1.0, 0.0], [0.0, 1.0, 0.0]])
    loss, gradient = value_and_gradient(x, jnp.array([1, 1]))
    truth = ctc(x, [1, 1])
    close(loss, truth[0], truth[0])
    close(gradient, truth[1], 1)


@pytest.mark.parametrize("labels", [[], [1], [1, 2], [1, 1]])
def test_a_class_of_probability_0_changes_nothing(labels, rng):
    x = jnp.asarray(rng.normal(size=(4, 3)), np.float32)
    y = jnp.asarray(labels, np.int32)
    more = jnp.concatenate([x, jnp.full((4, 1), -jnp.inf)], -1)
    (loss, gradient), (found, of_more) = value_and_gradient(x, y), value_and_gradient(more, y)
    same(found, loss)
    same(of_more[:, :3], gradient)
    assert not of_more[:, 3].any()


def test_no_labels_and_no_frames(rng):
    x = jnp.asarray(rng.normal(size=(5, 3)), np.float32)
    nothing = jnp.zeros(0, np.int32)
    loss, gradient = value_and_gradient(x, nothing)
    close(loss, *[-np.asarray(jax.nn.log_softmax(x))[:, 0].sum()] * 2)
    close(gradient, np.asarray(jax.nn.softmax(x)) - np.eye(3)[[0] * 5], 1)
    assert CTC(x[:0], labels=nothing) == 0
    assert not np.signbit(CTC(x[:0], labels=nothing))
    assert CTC(x, labels=jnp.array([1]), logit_lengths=jnp.array(0)) == jnp.inf
    assert CTC(x, labels=jnp.array([7]), logit_lengths=jnp.array(0), label_lengths=jnp.array(0)) == 0
    assert CTC(jnp.zeros((0, 5, 3)), labels=jnp.zeros((0, 2), np.int32)).shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": [0, 1]},  # the blank
        {"labels": [-1, 1]},
        {"labels": [1, 3]},
        {"logit_lengths": 6},
        {"logit_lengths": -1},
        {"label_lengths": 3},
        {"label_paddings": [1.0, 0.0]},
    ],
    ids=str,
)
def test_what_cannot_be_makes_its_own_sequence_nan(wrong, rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 3)), np.float32)
    right = {"labels": [1, 2], "logit_lengths": 5, "label_lengths": 2, "label_paddings": [0.0, 0.0]}
    del right["label_lengths" if "label_paddings" in wrong else "label_paddings"]
    given = {k: jnp.stack([jnp.asarray(wrong.get(k, v)), jnp.asarray(v)]) for k, v in right.items()}
    loss, gradient = value_and_gradient(x, **given)
    assert np.isnan(loss[0])
    assert np.isnan(gradient[0]).all()
    assert np.isfinite(loss[1])
    assert np.isfinite(gradient[1]).all()


@pytest.mark.exact
def test_a_confident_sequence_is_never_negative_and_not_rounded_to_zero():
    """One frame is a cross entropy; many confident frames add up what each misses."""
    x = jnp.array([[17.0, 0.0, 0.0], [0.0, 0.0, 17.0]])[:, None]
    close(CTC(x[1], labels=jnp.array([2])), 8.2798752e-08, 8.2798752e-08)
    margins = jnp.linspace(-30, 60, 181)
    logits = jnp.stack([jnp.zeros_like(margins), margins, jnp.zeros_like(margins)], -1)
    for frames in (1, 2, 7, 40):
        loss = jax.jit(jax.vmap(lambda x, n=frames: CTC(jnp.tile(x, (n, 1)), labels=jnp.array([1]))))(logits)
        assert (loss >= 0).all()


def test_log_probabilities_are_logits(rng):
    x, y, _, _ = batch(rng, 2)
    log_p = jax.nn.log_softmax(x)
    (loss, gradient), (found, of_log_p) = value_and_gradient(x, y), value_and_gradient(log_p, y)
    same(found, loss)
    same(of_log_p, gradient, span=8)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_dtypes(dtype, rng):
    with jax.enable_x64(dtype == np.float64):
        x, y, lengths, counts = batch(rng, 3, dtype=dtype)
        losses, gradient = value_and_gradient(x, y, logit_lengths=lengths, label_lengths=counts)
        assert losses.dtype == (np.float64 if dtype == np.float64 else np.float32)
        assert gradient.dtype == dtype
        for i in range(3):
            loss, of_logits = ctc(np.asarray(x[i, : lengths[i]], np.float64), np.asarray(y[i, : counts[i]]))
            close(losses[i], loss, loss, dtype=losses.dtype)
            close(gradient[i, : lengths[i]], of_logits, 1, span=FRAMES, dtype=dtype)


def plain(x, y):
    """By the states of the paper, for JAX to differentiate."""
    log_p = jax.nn.log_softmax(x)
    states = jnp.zeros(2 * len(y) + 1, np.int32).at[1::2].set(y)
    skips = jnp.zeros(len(states), bool).at[3::2].set(y[1:] != y[:-1])
    low = -1e30

    def step(alpha, row):
        one, two = (jnp.concatenate([jnp.full(k, low), alpha])[: len(states)] for k in (1, 2))
        return row[states] + jax.nn.logsumexp(jnp.stack([alpha, one, jnp.where(skips, two, low)]), 0), None

    first = jnp.full(len(states), low).at[:2].set(log_p[0, states[:2]])
    return -jax.nn.logsumexp(jax.lax.scan(step, first, log_p[1:])[0][-2:])


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_every_transformation(transformation, rng):
    x, y, _, _ = batch(rng, frames=5, classes=4, labels=2)
    y = jnp.array([2, 2])

    def ours(x):
        return CTC(x, labels=y)

    def theirs(x):
        return plain(x, y)

    for a, b in zip(
        *(jax.tree.leaves(jax.jit(TRANSFORMATIONS[transformation], static_argnums=0)(f, x)) for f in (ours, theirs)),
        strict=True,
    ):
        same(a, b, span=10)


def confident(rng, labels, frames, margin, *, classes, repeats=1):
    """Logits of frames that are blanks and labels in turn; and the frame before the first label may be either."""
    x = rng.normal(size=(frames, classes)) / 2
    path = np.zeros(frames, int)
    for i, label in enumerate(labels):
        path[2 * repeats * i + 2 : 2 * repeats * i + 2 + repeats] = label
    x[np.arange(frames), path] += margin
    if len(labels):
        x[1, [0, labels[0]]] = margin
    return np.asarray(x, np.float32)


def batch_with_confident(rng, size):
    """Every third sequence is."""
    x, y, lengths, counts = batch(rng, size)
    for i in range(0, size, 3):
        labels, frames = np.asarray(y[i, : counts[i]]), int(lengths[i])
        x = x.at[i, :frames].set(confident(rng, labels, frames, 9, classes=CLASSES))
    return x, y, lengths, counts


SURE = [([1, 2, 3], 5, 12), ([2, 2, 1], 12, 9), ([3, 1, 3], 20, 12), ([], 12, 7), ([4], 40, 10), ([1, 4, 4], 60, 12)]


@pytest.mark.exact
def test_confident_sequences_are_exact(rng):
    """Label, margin and frames of each; one of the batch is not confident, and one is hardly."""
    x, labels = np.zeros((len(SURE) + 2, 12, 5), np.float32), np.zeros((len(SURE) + 2, 3), np.int32)
    x[-2:] = rng.normal(size=(2, 12, 5))
    x[-1, 4:] += 9 * np.eye(5)[0]
    x[-1, :4] += 1.2 * np.eye(5)[[1, 1, 0, 2]]
    every = [*SURE, ([1, 2, 1], 2, 12), ([1, 2], 9, 11)]
    for i, (y, margin, frames) in enumerate(every):
        labels[i, : len(y)] = y
        if i < len(SURE):
            x[i, :frames] = confident(rng, y, frames, margin, classes=5)
    lengths, counts = (np.array(a) for a in ([f for *_, f in every], [len(y) for y, *_ in every]))
    losses, gradient = value_and_gradient(
        jnp.asarray(x), jnp.asarray(labels), logit_lengths=jnp.asarray(lengths), label_lengths=jnp.asarray(counts)
    )
    for i, (y, margin, frames) in enumerate(every):
        value, slope, terms = ctc_at_50_digits(x[i, :frames], y)
        close(losses[i], value, value, span=margin, of=str(every[i]))
        close(gradient[i, :frames], slope, terms, span=margin, of=str(every[i]))
        assert not gradient[i, frames:].any()


@pytest.mark.exact
@pytest.mark.parametrize(("frames", "classes", "dtype"), [(60, 30, np.float32), (30, 8, np.float64)])
def test_long_confident_sequences(frames, classes, dtype, rng):
    labels = np.array([3, 3, 5, 2, 3, 1, 1])
    with jax.enable_x64(dtype == np.float64):
        x = np.stack([confident(rng, labels, frames, margin, classes=classes) for margin in (7, 12, 20, 40)])
        losses, gradient = value_and_gradient(jnp.asarray(x, dtype), jnp.asarray([labels] * 4, np.int32))
        for i, margin in enumerate((7, 12, 20, 40)):
            value, slope, terms = ctc_at_50_digits(x[i], labels)
            close(losses[i], value, value, span=margin, dtype=dtype)
            close(gradient[i], slope, terms, span=margin, dtype=dtype)


def test_the_two_oracles_agree(rng):
    x = rng.normal(size=(4, 3)) * 3
    for labels in ([], [1], [2, 2], [1, 2]):
        for a, b in zip(ctc_at_50_digits(x, labels)[:2], ctc_by_enumeration(x, labels, 0), strict=True):
            close(a, b, np.abs(b), dtype=np.float64)


def test_two_frames_by_hand():
    """The first may be either, and the second is a label: only two blanks are lost."""
    loss, gradient = value_and_gradient(jnp.array([[0.0, 0.0], [0.0, 20.0]]), jnp.array([1]))
    lost = 1 / (1 + np.exp(20.0)) / 2
    close(loss, lost, lost, span=20)
    close(gradient, lost * np.array([[0.5, -0.5], [1, -1]]), lost, span=20)
    loss, _ = value_and_gradient(jnp.array([[0.0, 20.0], [0.0, 20.0]]), jnp.array([1]))
    close(loss, np.exp(-40.0), np.exp(-40.0), span=40)


@pytest.mark.exact
def test_a_sure_frame_of_an_unsure_sequence_has_a_gradient_that_sums_to_zero(rng):
    """p and the posterior of its class are both near 1."""
    x, y = rng.normal(size=(10, 5)), [1, 2]
    x[[0, 4, 5, 9], 0] += [9, 12, 16, 20]
    x[7, 1] += 16  # which is no alignment of the labels, and a class of one
    loss, gradient = value_and_gradient(jnp.asarray(x, np.float32), jnp.array(y))
    value, slope, terms = ctc_at_50_digits(np.asarray(x, np.float32), y)
    assert value > 1
    close(loss, value, value)
    for t in (0, 4, 5, 9):
        assert abs(np.asarray(gradient[t], np.float64).sum()) <= 1e-6 * np.abs(gradient[t]).sum()
    close(gradient, slope, terms, span=20)


@pytest.mark.exact
def test_derivatives_of_confident_sequences(rng, with_x64):
    """Those of the ordinary formula, in reverse, forward, twice, and in a scan."""
    y = jnp.array([2, 2], np.int32)
    x = jnp.asarray(confident(rng, [2, 2], 6, 6, classes=4), np.float64)
    direction = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    assert CTC(x, labels=y) < 0.1

    @partial(jax.jit, static_argnums=0)
    def found(f, x):
        def in_a_scan(x):
            return jax.lax.scan(lambda total, x: (total + f(x), None), 0.0, x[None])[0]

        return (
            jax.jvp(jax.value_and_grad(f), (x,), (direction,)),
            jax.grad(lambda x: jax.jvp(f, (x,), (direction,))[1])(x),
            jax.jvp(jax.grad(in_a_scan), (x,), (direction,))[1],
        )

    ours, theirs = found(lambda x: CTC(x, labels=y), x), found(lambda x: plain(x, y), x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        close(a, b, 1, span=6, dtype=np.float64)


def test_debuggers_report_nothing():
    x = jnp.zeros((3, 4, 3)).at[:, :, 0].set(jnp.array([[0.0], [1.0], [30.0]]))
    y, counts = jnp.array([[1, 2], [2, 2], [1, 1]]), jnp.array([2, 2, 0])

    def total(x):
        return CTC(x, labels=y, label_lengths=counts, logit_lengths=jnp.array([4, 2, 4])).sum()

    error, _ = jax.jit(checkify.checkify(jax.value_and_grad(total), errors=checkify.float_checks))(x)
    error.throw()


def test_logits_of_frames_first_are_named():
    with pytest.raises(ValueError, match=r"got \(2, 4\)\. Logits are batch first: use `jnp.swapaxes\(logits, 0, 1\)`"):
        CTC(jnp.zeros((6, 2, 3)), labels=jnp.ones((2, 4), np.int32))


@pytest.mark.exact
@pytest.mark.parametrize("sure", [12.0, 15.0])
def test_a_sure_sequence_keeps_its_digits(sure):
    x = sure * jax.nn.one_hot(jnp.array([0, 1, 0, 0, 0]), 4)
    loss, _ = ctc(np.asarray(x, np.float64), np.array([1]))
    np.testing.assert_allclose(CTC(x, labels=jnp.array([1])), loss, rtol=1e-5)


def test_second_derivatives_where_all_is_equal():
    """As of a model that has not learnt anything: states are equal, where a maximum has another derivative."""
    x, y = jnp.zeros((5, 3)), jnp.array([1, 2])
    ours, theirs = (jax.jit(jax.hessian(f))(x) for f in (lambda x: CTC(x, labels=y), lambda x: plain(x, y)))
    same(ours, theirs, span=5)


@pytest.mark.smoke
def test_second_derivatives_of_a_padded_batch(rng):
    x, y, lengths, counts = batch(rng, 3)
    lengths, counts = np.array([FRAMES, 9, 8]), np.array([2, 4, 3])
    direction = jnp.cos(jnp.arange(x.size, dtype=np.float32)).reshape(x.shape)

    def total(x):
        return CTC(x, labels=y, logit_lengths=lengths, label_lengths=counts).sum()

    found = jax.jit(lambda x: jax.jvp(jax.grad(total), (x,), (direction,))[1])(x)
    tangent, gradient = jax.jit(lambda x: (jax.jvp(total, (x,), (direction,))[1], jax.grad(total)(x)))(x)
    same(tangent, jnp.vdot(gradient, direction), span=20)
    for i in range(3):
        one = x[i, : lengths[i]]
        of_plain = jax.jit(jax.grad(lambda x, i=i: plain(x, y[i, : counts[i]])))
        same(found[i, : lengths[i]], jax.jvp(of_plain, (one,), (direction[i, : lengths[i]],))[1], span=20)


def test_vmap_over_anything(rng):
    x, y, lengths, counts = batch_with_confident(rng, 3)

    def one(x, y, length, count, blank=0):
        return CTC(x, labels=y, logit_lengths=length, label_lengths=count, blank_id=blank)

    given = x, y, lengths, counts
    expected, mapped, over_labels, nested = jax.jit(
        lambda x, y, lengths, counts: (
            one(*given),
            jax.vmap(one)(*given),
            jax.vmap(one, in_axes=(None, 0, None, None))(x[0], y, lengths[0], counts[0]),
            one(*(a[None] for a in given)),
        )
    )(*given)
    same(mapped, expected)
    same(over_labels[0], expected[0])
    assert nested.shape == (1, 3)
    same(nested[0], expected)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_split_over_devices(kind, rng):
    """A batch over eight devices: value, gradient and its derivative, and no exchange but of numbers."""
    x, y, lengths, counts = batch_with_confident(rng, 16)
    direction = jnp.cos(x)

    def everything(x, y, lengths, counts, direction):
        def total(x):
            losses = CTC(x, labels=y, logit_lengths=lengths, label_lengths=counts)
            return (losses * jnp.cos(lengths.astype(np.float32))).sum()

        return jax.value_and_grad(total)(x), jax.jvp(jax.grad(total), (x,), (direction,))[1]

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType[kind],))
    given = x, y, lengths, counts, direction
    expected = jax.jit(everything)(*given)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, NamedSharding(mesh, P("data", *[None] * (a.ndim - 1)))) for a in given]
        compiled = jax.jit(everything).lower(*placed).compile()
        found = jax.device_get(compiled(*placed))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        same(a, b)
    assert "all-gather" not in compiled.as_text()


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_of_a_shard_map(check_vma, rng):
    x, y, lengths, counts = batch_with_confident(rng, 16)

    def losses(x, y, lengths, counts):
        return CTC(x, labels=y, logit_lengths=lengths, label_lengths=counts)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(losses, mesh=mesh, in_specs=(P("data"),) * 4, out_specs=P("data"), check_vma=check_vma)
    found, expected = (
        jax.jit(jax.value_and_grad(lambda x, f=f: f(x, y, lengths, counts).sum()))(x) for f in (mapped, losses)
    )
    for a, b in zip(found, expected, strict=True):
        same(a, b)


def test_memory_is_that_of_two_numbers_a_state(rng):
    """The shares of both sums. The branch of confident sequences has a dozen while it runs, and keeps none of them."""
    frames, classes, labels = 400, 100, 60
    x, y, lengths, counts = batch(rng, 8, frames=frames, classes=classes, labels=labels)

    def total(x):
        return CTC(x, labels=y, logit_lengths=lengths, label_lengths=counts).sum()

    states = 4 * 8 * frames * (labels + 1)
    _, pull = jax.vjp(total, x)
    saved = sum(a.nbytes for a in jax.tree.leaves(pull) if hasattr(a, "nbytes"))
    assert saved < 2 * states + 1.1 * x.nbytes
    temporaries = jax.jit(jax.value_and_grad(total)).lower(x).compile().memory_analysis().temp_size_in_bytes
    assert temporaries < 15 * states + 1.5 * x.nbytes


def test_optax_calls_it_so(rng):
    """The same call, the same results; and the forward probabilities where optax has not its logarithm of 0."""
    optax = pytest.importorskip("optax")
    x, y, lengths, counts = batch(rng, 4)
    given = x, paddings(lengths, FRAMES), y, paddings(counts, LABELS)
    theirs = optax.losses.ctc_loss_with_forward_probs(*given, blank_id=0, log_epsilon=-1e5)
    ours = jaxloss.ctc_loss_with_forward_probs(*given, blank_id=0, log_epsilon=-1e5)
    same(CTC(*given, blank_id=0, log_epsilon=-1e5), theirs[0])
    same(ours[0], theirs[0])
    for a, b, first in zip(ours[1:], theirs[1:], (0, 1), strict=True):
        states = np.arange(first, first + a.shape[-1]) <= np.asarray(counts)[:, None]
        a, b = (np.where(states, v, 0) for v in (a, b))
        assert a.shape == b.shape
        possible = b > -9e4
        close(np.where(possible, a, 0), np.where(possible, b, 0), np.abs(b) + 10)
        assert (a[~possible] == -np.inf).all()


def test_forward_probabilities_have_derivatives(rng):
    x, y, _, _ = batch(rng, frames=5, classes=4, labels=2)
    y = jnp.array([2, 3])

    def total(x):
        _, blank, label = jaxloss.ctc_loss_with_forward_probs(x, labels=y)
        return -jnp.logaddexp(blank[-2, 2] + jax.nn.log_softmax(x)[-1, 0], label[-2, 1])

    assert np.isfinite(jax.grad(total)(x)).all()

    def loss(x):
        return -jaxloss.ctc_loss_with_forward_probs(x, labels=y)[1][-1, -1]

    same(jax.grad(loss)(x), jax.grad(lambda x: plain(x, y))(x), span=10)
