"""Losses of hidden states against the dense form in float64, and how they are computed."""

import functools
import inspect
import itertools
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_cases import (
    LINEAR_CASES,
    OPTIONS,
    RICH,
    cotangents,
    cross_entropies,
    directions,
    every_linear_case,
    every_reducing_case,
    every_rich_case,
    over_linear,
)
from tolerances import close, no_worse, same
from transformations import TRANSFORMATIONS

import jaxloss

CE = jaxloss.linear_cross_entropy
DENSE = jaxloss.softmax_cross_entropy_with_integer_labels


def in_float64(f, *args):
    """f and its gradient by the first argument, in float64 and without rules of ours."""
    with jax.enable_x64(True):
        wide = [jax.tree.map(lambda a: a.astype(np.float64) if a.dtype.kind not in "ib" else a, a) for a in args]
        return compiled(f)(*jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, wide)))


@functools.cache
def compiled(f):
    return jax.jit(jax.value_and_grad(f))


def compare(ours, truth, span, dtype=np.float32):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
        same(a, b, span=span, dtype=dtype)


def both_forms(case, arrays, labels, chunk_size, c):
    """The two ways to the weighted sum: by weights of the loss, and by cotangents of each loss."""
    return compiled_forms(case, chunk_size)(arrays, labels, c)


@functools.cache
def compiled_forms(case, chunk_size):
    def forms(arrays, labels, c):
        def of_each(arrays):
            return (c * case(arrays, labels, chunk_size=chunk_size)).sum()

        def of_sum(arrays):
            return case(arrays, labels, weights=c, reduction="sum", chunk_size=chunk_size)

        return [jax.value_and_grad(form)(arrays) for form in ((of_each, of_sum) if case.reduces else (of_each,))]

    return jax.jit(forms)


@functools.cache
def weighted_sum(case):
    return lambda arrays, labels, c: (c * case.plain(arrays, labels)).sum()


# A divergence is exposed to the rounding of log-probabilities, which at other scales is not that of its terms.
@pytest.mark.exact
@every_linear_case
def test_values_and_gradients(case, rng):
    for scale in [1.0] if case.teacher else [1e-3, 1.0, 25.0]:
        arrays, labels = case.draw(rng, 3, 21, scale=scale)
        c = cotangents(labels.shape)
        truth = in_float64(weighted_sum(case), arrays, labels, c)
        for found in both_forms(case, arrays, labels, 9, c):
            compare(found, truth, span=20 + 2 * scale)


SIZES = itertools.product([0, 1, 3, 1000], [1, 2, 127, 1000, 2049, 50257])
SIZES_OF_EACH_RUN = {(0, 127), (1, 2049), (3, 1), (3, 50257), (1000, 127), (1000, 2049)}


@pytest.mark.parametrize(
    ("tokens", "classes"),
    [pytest.param(*s, marks=() if s in SIZES_OF_EACH_RUN else pytest.mark.sweep) for s in SIZES],
)
@cross_entropies
def test_no_size_need_be_a_multiple_of_anything(case, tokens, classes, rng):
    tokens = tokens if classes < 50257 else min(tokens, 130)
    arrays, labels = case.draw(rng, tokens, features=4, classes=classes, scale=1e-2)  # small: padding would show
    c = cotangents(labels.shape)
    truth = in_float64(weighted_sum(case), arrays, labels, c)
    for found in both_forms(case, arrays, labels, 64, c):
        compare(found, truth, span=20)


@pytest.mark.smoke
@pytest.mark.parametrize("chunk_size", [pytest.param(1, marks=pytest.mark.sweep), 3, 100])
@pytest.mark.parametrize("shape", [(), (5,), (1, 1), (2, 3, 4), (16, 2), (7, 1), (2, 0, 3), (1, 13, 5)])
def test_any_leading_axes(shape, chunk_size, rng):
    case = LINEAR_CASES[0]
    arrays, labels = case.draw(rng, *shape)
    c = cotangents(labels.shape)
    truth = in_float64(weighted_sum(case), arrays, labels, c)
    for found in both_forms(case, arrays, labels, chunk_size, c):
        compare(found, truth, span=20)


@pytest.mark.exact
def test_logits_of_600(rng):
    """Only what a sum of products is exposed to: eps times the logits."""
    case = LINEAR_CASES[0]
    arrays, labels = case.draw(rng, 40, features=32, classes=300, scale=200.0)
    assert jnp.abs(arrays[0] @ arrays[1]).max() > 600
    c = cotangents(labels.shape)
    truth = in_float64(weighted_sum(case), arrays, labels, c)
    for found in both_forms(case, arrays, labels, 16, c):
        compare(found, truth, span=600)


@pytest.mark.exact
def test_the_tail_is_that_of_the_dense_loss():
    margins = jnp.array([17.0, 40.0, 80.0, -30.0, 0.0])
    hidden, labels = jnp.stack([margins, jnp.zeros(5)], -1), jnp.zeros(5, np.int32)
    theirs = jax.grad(lambda x: DENSE(x, labels).sum())(hidden)
    for reduction in ("none", "sum"):
        ours = jax.grad(lambda h, r=reduction: CE(h, jnp.eye(2), labels, reduction=r, chunk_size=2).sum())(hidden)
        assert ours[0, 0] != 0
        close(ours, theirs, np.abs(theirs))
    losses = CE(hidden, jnp.eye(2), labels)
    close(losses, np.log1p(np.exp(-np.asarray(margins, np.float64))), losses, span=1)


@pytest.mark.parametrize("scale", [1.0, pytest.param(10.0, marks=pytest.mark.smoke), 200.0])
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize(("tokens", "chunk_size"), [(256, 64), (601, 512)])
def test_bfloat16_is_no_worse_than_the_naive_form_of_it(tokens, chunk_size, reduction, scale, rng):
    case = LINEAR_CASES[0]
    (h, w, _), labels = case.draw(rng, tokens, features=64, classes=1000, scale=scale, dtype=jnp.bfloat16)
    c = cotangents(labels.shape)

    def naive(arrays, labels, c):
        return (c * DENSE(arrays[0] @ arrays[1], labels)).sum()

    def ours(arrays, labels, c):
        if reduction == "sum":
            return CE(*arrays, labels, weights=c, reduction="sum", chunk_size=chunk_size)
        return (c * CE(*arrays, labels, chunk_size=chunk_size)).sum()

    truth = in_float64(naive, (h, w), labels, c)
    found, beside = (jax.jit(jax.value_and_grad(f))((h, w), labels, c) for f in (ours, naive))
    assert found[0].dtype == np.float32
    assert [g.dtype for g in found[1]] == [jnp.bfloat16, jnp.bfloat16]
    for a, b, true in zip(*map(jax.tree.leaves, (found, beside, truth)), strict=True):
        no_worse(a, b, true, dtype=jnp.bfloat16)


@pytest.mark.parametrize(
    ("of_hidden", "of_weight"), [(np.float16, np.float16), (jnp.bfloat16, np.float32), (np.float32, jnp.bfloat16)]
)
def test_other_dtypes_are_multiplied_in_float32(of_hidden, of_weight, rng):
    (h, w, b), labels = LINEAR_CASES[0].draw(rng, 50)
    h, w, b = h.astype(of_hidden), w.astype(of_weight), b.astype(of_weight)
    # 1e-6 of a gradient in float16 is nothing: it has to be multiplied by the scale of the loss first.
    scaled = jax.value_and_grad(lambda *a: 2**13 * (1e-6 * CE(*a[:2], labels, bias=a[2], reduction="mean")), (0, 1, 2))
    value, gradients = scaled(h, w, b)
    wide = [a.astype(np.float32) for a in (h, w, b)]
    expected = scaled(*wide)
    same(value, expected[0], span=20)
    for g, a, e in zip(gradients, (h, w, b), expected[1], strict=True):
        assert g.dtype == a.dtype
        same(g, e, span=1, dtype=a.dtype)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradients_are_added_up_in_the_dtype_that_is_asked_for(reduction, rng, with_x64):
    """Over 16 chunks; the last rounding to bfloat16 alone has an error of 0.0017."""
    arrays, labels = LINEAR_CASES[0].draw(rng, 2048, features=16, classes=256, dtype=jnp.bfloat16)

    def error(dtype):
        def f(arrays):
            return LINEAR_CASES[0](arrays, labels, reduction=reduction, chunk_size=128, accumulation_dtype=dtype).mean()

        return jax.jit(jax.grad(f))(arrays)

    truth = jax.grad(lambda a: LINEAR_CASES[0].plain(a, labels).mean())(tuple(a.astype(np.float64) for a in arrays))
    for dtype, most in ((None, 0.002), ("bfloat16", 0.008), (np.float64, 0.002)):
        for gradient, true in zip(error(dtype), truth, strict=True):
            assert gradient.dtype == jnp.bfloat16
            assert np.linalg.norm(np.asarray(gradient, np.float64) - true) < most * np.linalg.norm(true)
    assert any((a != b).any() for a, b in zip(error(None), error(jnp.bfloat16), strict=True))


def test_float64(rng, with_x64):
    arrays, labels = LINEAR_CASES[1].draw(rng, 30, dtype=np.float64)
    c = cotangents(labels.shape, np.float64)
    truth = in_float64(weighted_sum(LINEAR_CASES[1]), arrays, labels, c)
    for found in both_forms(LINEAR_CASES[1], arrays, labels, 8, c):
        assert found[1][1].dtype == np.float64
        compare(found, truth, span=20, dtype=np.float64)


@pytest.mark.parametrize("reduction", ["none", pytest.param("sum", marks=pytest.mark.sweep), "mean"])
@pytest.mark.parametrize("option", [*OPTIONS, "class_weights", "where", "weights", "all"])
def test_options_are_those_of_the_dense_form(option, reduction, rng):
    """Their derivatives too, where there is one."""
    (h, w, b), labels = LINEAR_CASES[0].draw(rng, 4, 9)
    numbers = {**OPTIONS, "class_weights": rng.random(33), "weights": rng.random((4, 9))}
    numbers = {k: jnp.asarray(v, np.float32) for k, v in numbers.items() if option in (k, "all")}
    where = jnp.asarray(rng.random((4, 9)) < 0.6) if option in ("where", "all") else None

    def ours(arrays, numbers):
        h, w, b = arrays
        return CE(h, w, labels, bias=b, where=where, reduction=reduction, chunk_size=8, **numbers).sum()

    def dense(arrays, numbers):
        h, w, b = arrays
        return DENSE(h @ w + b, labels, where=where, reduction=reduction, **numbers).sum()

    with jax.numpy_rank_promotion("allow"):
        found, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))((h, w, b), numbers) for f in (ours, dense))
    compare(found, expected, span=20)


def test_numbers_may_differ_from_token_to_token(rng):
    (h, w, _), labels = LINEAR_CASES[0].draw(rng, 12)
    cap, scale = jnp.linspace(1, 5, 12), jnp.linspace(0.1, 2, 12)
    ours = CE(h, w, labels, soft_cap=cap, logit_scale=scale, chunk_size=5)
    same(ours, DENSE(h @ w, labels, soft_cap=cap, logit_scale=scale), span=20)


@every_rich_case
def test_what_a_mask_excludes_may_hold_anything(case, rng):
    arrays, labels = case.draw(rng, 3, 8)
    kept = jnp.asarray(rng.random((3, 8)) < 0.6)
    bad = jnp.where(
        kept[..., None], arrays[0], np.resize([np.nan, np.inf, -np.inf], arrays[0].shape).astype(np.float32)
    )
    spoiled = bad, *arrays[1:]
    bad_labels = jnp.where(kept, labels, np.resize([-100, 10**6, -1], labels.shape).astype(np.int32))

    c = cotangents(labels.shape)

    @jax.jit
    def law(arrays, labels, where):
        """Values, gradients and tangents, of the losses and of a weighed mean."""

        def results(**kwargs):
            def f(arrays):
                return case(arrays, labels, chunk_size=7, where=where, **kwargs).sum()

            return jax.value_and_grad(f)(arrays), jax.jvp(f, (arrays,), (jax.tree.map(jnp.ones_like, arrays),))[1]

        return [results(), *([results(weights=c, reduction="mean")] if case.reduces else [])]

    compare(law(spoiled, bad_labels, kept), law(arrays, labels, kept), span=0)
    nothing = law(spoiled, bad_labels, jnp.zeros((3, 8), bool))
    assert not any(np.asarray(a).any() for a in jax.tree.leaves(nothing))


@pytest.mark.parametrize("label", [-100, -1, 33, 2**31 - 1])
def test_a_label_out_of_range_makes_its_own_token_nan(label, rng):
    (h, w, _), labels = LINEAR_CASES[0].draw(rng, 6)
    gradient = jax.grad(lambda h: CE(h, w, labels.at[2].set(label), chunk_size=2).sum())(h)
    losses = CE(h, w, labels.at[2].set(label), chunk_size=2)
    for found in (losses, gradient[:, 0]):
        np.testing.assert_array_equal(jnp.isnan(found), np.arange(6) == 2)


def test_positive_classes_are_a_set(rng):
    """In any order, named once or twice, padded anywhere, or none; out of range makes its own example NaN."""
    (h, w, _), _ = LINEAR_CASES[0].draw(rng, 6)
    loss = functools.partial(jaxloss.linear_sigmoid_cross_entropy, chunk_size=4)
    labels = jnp.asarray([[3, 1, 32], [1, 3, 32], [-1, 0, -1], [5, 5, 5], [-1, -1, -1], [-1, -1, 7]], np.int32)
    hot = np.zeros((6, 33), np.float32)
    for i, row in enumerate(labels):
        hot[i, [j for j in np.asarray(row) if j >= 0]] = 1
    for scale in (1, 300):  # the probability of a class is 0 or 1
        dense = jaxloss.sigmoid_binary_cross_entropy(scale * h @ w, jnp.asarray(hot)).sum(-1)
        same(loss(scale * h, w, labels), dense, span=20)
    assert (loss(h, w, jnp.zeros((6, 0), np.int32)) == loss(h, w, jnp.full((6, 2), -1))).all()
    for wrong in (33, -2):
        given = labels.at[1, 2].set(wrong)
        value, gradient = jax.value_and_grad(lambda h, y: loss(h, w, y).sum())(h, given)
        assert jnp.isnan(value)
        np.testing.assert_array_equal(jnp.isnan(gradient).any(-1), jnp.arange(6) == 1)


def test_a_bias_of_minus_infinity_removes_classes(rng):
    (h, w, b), labels = LINEAR_CASES[0].draw(rng, 20)
    labels = jnp.minimum(labels, 27)
    padded = jnp.pad(w, ((0, 0), (0, 7)), constant_values=1.0), jnp.pad(b, (0, 7), constant_values=-jnp.inf)
    for reduction in ("none", "mean"):
        f = jax.value_and_grad(
            lambda h, w, b, r=reduction: CE(h, w, labels, bias=b, reduction=r, chunk_size=8).sum(), (0, 1, 2)
        )
        ours, expected = f(h, *padded), f(h, w, b)
        compare((ours[0], ours[1][0], ours[1][1][:, :33], ours[1][2][:33]), (expected[0], *expected[1]), span=1)
        assert not ours[1][1][:, 33:].any()


@over_linear([case for case in LINEAR_CASES if case.teacher and "soft_cap" not in case.options])
def test_where_a_distribution_is_undefined_so_is_a_divergence(case, rng):
    """A row of -inf alone, for which softmax is NaN: no number hides it."""
    arrays, labels = case.draw(rng, 3)
    of_student, of_teacher = arrays[:3], arrays[3:]
    nothing = jnp.full_like(arrays[2], -jnp.inf)
    assert np.isnan(case((*of_student[:2], nothing, *of_teacher), labels)).all()
    assert np.isnan(case((*of_student, *of_teacher[:2], nothing), labels)).all()


@every_rich_case
def test_a_transposed_weight(case, rng):
    """The layout of a tied embedding."""
    arrays, labels = case.draw(rng, 3, 8)
    turned = tuple(a.T if i in (1, 4) else a for i, a in enumerate(arrays))
    axes = {"class_axis": 0} | ({"teacher_class_axis": 0} if case.teacher else {})
    c = cotangents(labels.shape)

    def weighted(arrays):
        return (c * case(arrays, labels, chunk_size=7, **axes)).sum()

    def mean(arrays):
        return case(arrays, labels, chunk_size=7, reduction="mean", **axes)

    found = jax.jit(lambda a: [jax.value_and_grad(f)(a) for f in (weighted, mean)[: 1 + case.reduces]])(turned)
    for each, weights in zip(found, (c, jnp.full_like(c, 1 / c.size)), strict=False):
        value, gradients = each
        truth = in_float64(weighted_sum(case), arrays, labels, weights)
        compare((value, [g.T if i in (1, 4) else g for i, g in enumerate(gradients)]), truth, span=20)


@pytest.mark.parametrize("classes", [2, 97, 1000])
def test_nan_among_the_hidden_states_is_in_all_that_comes_of_it(classes, rng):
    """XLA's maximum of NaN alone is -inf in a long row on a CPU, and no reason for an entropy of 0."""
    (h, w, _), labels = LINEAR_CASES[0].draw(rng, 64, classes=classes)
    h = h.at[0, 0].set(jnp.nan)
    _, metrics = jaxloss.linear_cross_entropy_with_metrics(h, w, labels)
    for found in (metrics.lse, metrics.entropy, *jaxloss.linear_log_probs(h, w, labels)):
        assert np.isnan(found[0])
        assert not np.isnan(found[1:]).any()


def test_metrics(rng):
    (h, w, _), labels = LINEAR_CASES[1].draw(rng, 4, 9)
    kept = jnp.asarray(rng.random((4, 9)) < 0.7)
    labels = labels.at[0].set((h @ w)[0].argmax(-1).astype(np.int32))

    def mean(h, **kwargs):
        return jaxloss.linear_cross_entropy_with_metrics(
            h, w, labels, where=kept, reduction="mean", chunk_size=5, **kwargs
        )

    (loss, metrics), gradient = jax.value_and_grad(mean, has_aux=True)(h)
    compare((loss, gradient), jax.value_and_grad(lambda h: DENSE(h @ w, labels, where=kept, reduction="mean"))(h), 20)
    z = h @ w
    p = jax.nn.softmax(z)
    for ours, truth in [
        (metrics.lse, jax.nn.logsumexp(z, -1)),
        (metrics.entropy, -(p * jnp.log(p)).sum(-1)),
        (metrics.correct, z.argmax(-1) == labels),
    ]:
        same(ours, jnp.where(kept, truth, jnp.zeros_like(truth)), span=20)
    larger = z > jnp.take_along_axis(z, labels[..., None], -1)
    np.testing.assert_array_equal(metrics.rank, jnp.where(kept, larger.sum(-1), z.shape[-1]))
    assert metrics.correct[0].sum() == kept[0].sum()
    tied = jaxloss.linear_cross_entropy_with_metrics(h, jnp.zeros_like(w), labels)[1]
    np.testing.assert_array_equal(tied.correct, labels == 0)  # as argmax breaks ties
    np.testing.assert_array_equal(tied.rank, labels)
    assert (jax.grad(lambda h: mean(h)[1].entropy.sum())(h) == 0).all()


# How they are differentiated.


OF_EACH = ("jit", "linearize", "jacrev", "hessian", "scan")  # of a loss that has the loop of the cross entropy


def transformed(f, x, names=tuple(TRANSFORMATIONS)):
    return jax.jit(lambda x: {name: TRANSFORMATIONS[name](f, x) for name in names})(x)


@every_rich_case
def test_every_transformation(case, rng):
    """By the hidden states, each of which has a loss of its own."""
    (hidden, *rest), labels = case.draw(rng, 2, features=3, classes=5)
    names = tuple(TRANSFORMATIONS) if case.name == "linear_cross_entropy" else OF_EACH
    ours = transformed(lambda h: case((h, *rest), labels, chunk_size=1), hidden, names)
    compare(ours, transformed(lambda h: case.plain((h, *rest), labels), hidden, names), span=40)


@pytest.mark.parametrize("reduction", [pytest.param("none", marks=pytest.mark.sweep), "sum"])
@cross_entropies
def test_every_transformation_by_the_weight(case, reduction, rng):
    (hidden, weight, bias), labels = case.draw(rng, 2, features=3, classes=5)
    sums = jnp.sum if reduction == "sum" else jnp.asarray

    def ours(w):
        return jnp.atleast_1d(case((hidden, w, bias), labels, chunk_size=1, reduction=reduction))

    def plain(w):
        return jnp.atleast_1d(sums(case.plain((hidden, w, bias), labels)))

    compare(transformed(ours, weight), transformed(plain, weight), span=40)


@pytest.mark.smoke
@over_linear([case for case in RICH if case.reduces])
def test_second_derivatives_of_a_mean(case, rng):
    arrays, labels = case.draw(rng, 3, 8)

    def second(f):
        by_forward = jax.jvp(jax.grad(f), (arrays,), (directions(arrays),))[1]
        reverse = jax.grad(lambda a: sum(jnp.vdot(g, d) for g, d in zip(jax.grad(f)(a), directions(a), strict=True)))
        return by_forward, reverse(arrays), jax.jvp(f, (arrays,), (directions(arrays),))[1]

    ours = jax.jit(lambda: second(lambda a: case(a, labels, reduction="mean", chunk_size=5)))()
    expected = jax.jit(lambda: second(lambda a: case.plain(a, labels).mean()))()
    compare(ours, expected, span=20)


@every_reducing_case
def test_a_second_derivative_has_the_value_and_its_tangent(case, rng):
    """The forward pass of gradients gives a value, too, which a second derivative differentiates."""
    arrays, labels = case.draw(rng, 6)
    tangents = directions(arrays)

    def mean(*arrays):
        return case(arrays, labels, reduction="mean", chunk_size=4)

    @jax.jit
    def law(arrays):
        by = tuple(range(len(arrays)))
        (value, _), (of_value, _) = jax.jvp(jax.value_and_grad(mean, by), arrays, tangents)
        return (value, of_value), jax.jvp(lambda *arrays: case.plain(arrays, labels).mean(), arrays, tangents)

    compare(*law(arrays), span=20)


def test_a_second_derivative_by_soft_labels(rng):
    (hidden, weight, _), labels = LINEAR_CASES[0].draw(rng, 6)
    t = jax.nn.one_hot(labels, weight.shape[1])

    def square(t):
        return jaxloss.linear_cross_entropy_with_soft_labels(hidden, weight, t, reduction="mean") ** 2

    def dense(t):
        return jaxloss.softmax_cross_entropy(hidden @ weight, t, reduction="mean") ** 2

    v = jnp.cos(jnp.arange(t.size, dtype=t.dtype)).reshape(t.shape)
    same(*(jax.jvp(jax.grad(f), (t,), (v,))[1] for f in (square, dense)), span=20)


@pytest.mark.parametrize("axes", [(0, None, 0), (0, 0, 0), (None, 0, None)])
def test_vmap_over_tokens_and_over_weights(axes, rng):
    (h, w, _), labels = LINEAR_CASES[0].draw(rng, 4, 6)
    weights = jnp.stack([w, 2 * w, -w, w + 1])
    mapped = zip((h, weights, labels), (h[0], w, labels[0]), axes, strict=True)
    args = [several if axis == 0 else one for several, one, axis in mapped]
    f = jax.value_and_grad(lambda h, w, y: CE(h, w, y, reduction="mean", chunk_size=4), (0, 1))
    looped = [f(*(x if axis is None else x[i] for x, axis in zip(args, axes, strict=True))) for i in range(4)]
    compare(jax.vmap(f, axes)(*args), jax.tree.map(lambda *a: jnp.stack(a), *looped), span=20)


def products(f, *args):
    """How many matrix products the compiled program has, a loop's counted once."""
    return len(re.findall(r" dot\(", jax.jit(f).lower(*args).compile().as_text()))


def test_no_product_is_computed_for_nothing(rng):
    """A weighted sum takes three products, and two if the head or what is before it is frozen."""
    case = LINEAR_CASES[0]
    (h, w, _), labels = case.draw(rng, 64, features=32, classes=300)

    def mean(h, w):
        return CE(h, w, labels, reduction="mean", chunk_size=16)

    def each(h, w):
        return (cotangents((64,)) * CE(h, w, labels, chunk_size=16)).sum()

    assert [products(f, h, w) for f in (mean, each)] == [1, 1]
    assert [products(jax.value_and_grad(mean, by), h, w) for by in (0, 1, (0, 1))] == [2, 2, 3]
    assert [products(jax.value_and_grad(each, by), h, w) for by in (0, 1, (0, 1))] == [3, 3, 4]


def test_a_teacher_is_differentiated_only_if_asked(rng):
    case = next(c for c in LINEAR_CASES if c.teacher)
    (h, w, _, th, tw, _), _ = case.draw(rng, 64, features=32, classes=300)

    def mean(student, teacher):
        return case.loss(*student, *teacher, reduction="mean", chunk_size=16)

    args = (h, w), (th, tw)
    assert [products(jax.value_and_grad(mean, by), *args) for by in (0, 1, (0, 1))] == [4, 4, 6]


@every_reducing_case
def test_outside_of_jit_nothing_of_logits_is_saved(case, rng):
    arrays, labels = case.draw(rng, 64, features=4, classes=100)
    for reduction in ("none", "mean"):
        _, pull = jax.vjp(lambda a, r=reduction: case(a, labels, reduction=r, chunk_size=16), arrays)
        given = *arrays, *(() if case.targets is None else case.targets(labels, 100))
        assert max(a.size for a in jax.tree.leaves(pull)) <= max(a.size for a in given)


@every_rich_case
def test_export_for_three_platforms(case, rng):
    arrays, labels = case.draw(rng, 12)
    f = jax.jit(jax.value_and_grad(lambda a, y: case(a, y, chunk_size=5).sum()))
    exported = jax.export.export(f, platforms=["cpu", "cuda", "tpu"])(arrays, labels)
    loaded = jax.export.deserialize(exported.serialize())
    compare(loaded.call(arrays, labels), f(arrays, labels), span=10)


# What it is for.


@pytest.mark.exact
def test_a_divergence_of_near_distributions_is_not_negative(rng):
    (h, w, b), _ = LINEAR_CASES[0].draw(rng, 500, classes=100)
    near = h * (1 + 1e-4 * jnp.asarray(rng.normal(size=h.shape), np.float32))
    z, teacher = (np.float64(x) @ np.float64(w) + np.float64(b)[None] for x in (near, h))
    log_q, log_t = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (z, teacher))
    truth = (np.exp(log_t) * (log_t - log_q)).sum(-1)
    ours = jaxloss.linear_kl_divergence(near, w, h, w, bias=b, teacher_bias=b)
    assert (ours >= 0).all()
    u = log_t - log_q  # a difference of log-probabilities, exposed to the rounding of each
    close(ours, truth, (np.exp(log_t) * np.abs(u) * (np.abs(log_t) + np.abs(log_q))).sum(-1))
    assert (jaxloss.linear_kl_divergence(h, w, h, w) == 0).all()


def test_the_signatures_agree():
    """Names, order and defaults of what is common."""
    first = inspect.signature(CE).parameters
    for name in ["linear_cross_entropy_with_metrics", *(case.name for case in LINEAR_CASES)]:
        parameters = inspect.signature(getattr(jaxloss, name)).parameters
        common = [p for p in parameters if p in first and parameters[p].kind == first[p].kind]
        assert common == [p for p in first if p in common], name
        positional = ("labels",)  # may be omitted where indices name the classes
        assert all(parameters[p].default == first[p].default for p in common if p not in positional), name
    dense = inspect.signature(DENSE).parameters
    options = {"label_smoothing", "class_weights", "z_loss", "soft_cap", "logit_scale", "where", "weights", "reduction"}
    assert options <= set(first) & set(dense)


def test_two_processes_are_one():
    """Over `jax.distributed`, each with two of the four devices."""
    script = pathlib.Path(__file__).with_name("two_processes.py")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    runs = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(port)],
            env=environment | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(script.parent.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(printed)


def test_a_weight_does_not_see_the_class_weight_of_an_excluded_label(rng):
    hidden, kernel = (jnp.asarray(rng.normal(size=shape), np.float32) for shape in ((4, 3), (3, 5)))
    labels, kept = jnp.array([1, -100, 4, -100]), jnp.array([True, False, True, False])
    table = jnp.linspace(0.5, 1.5, 5)

    def weighted(w):
        given = {"where": kept, "weights": w, "class_weights": table, "reduction": "sum"}
        return jaxloss.linear_cross_entropy(hidden, kernel, labels, **given)

    losses = jaxloss.linear_cross_entropy(hidden, kernel, jnp.where(kept, labels, 0), class_weights=table)
    same(jax.grad(weighted)(jnp.ones(4)), jnp.where(kept, losses, 0), span=10)
