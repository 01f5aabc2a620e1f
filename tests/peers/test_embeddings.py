"""The tables of docs/embeddings.md: each cell against the formula of the program that it is named after."""

import pathlib
import re
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import log_sigmoid, logsumexp, relu, softplus

PAGE = (pathlib.Path(__file__).parent.parent.parent / "docs" / "embeddings.md").read_text()


@pytest.fixture(autouse=True)
def as_a_user_runs_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def page():
    """The names that the page has made."""
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
            exec(block, names)
    return names


def rows(section):
    """The second cells of the table of a section, by the first ones."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: cell for name, cell in lines if name != "name"}


def evaluated(page, section, start, **arrays):
    """What the cell gives whose row has this name, or begins so."""
    cells = rows(section)
    (cell,) = [cells[start]] if start in cells else (cell for name, cell in cells.items() if name.startswith(start))
    return eval(re.fullmatch(r"`(.*)`", cell)[1], {**page, **arrays})


# Their formulas, in NumPy with 64 bits.


def wide(page, *names):
    return [np.asarray(page[name], np.float64) for name in names]


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def barlow_twins(x, y, divisors):
    """Standardised by the deviations, of which `divisors` makes what they are divided by."""
    a, b = ((v - v.mean(0)) / divisors(v) for v in (x, y))
    c = a.T @ b / len(x)
    off = c - np.diag(np.diag(c))
    return ((np.diag(c) - 1) ** 2).sum() + 5e-3 * (off**2).sum()


def vicreg(x, y, of_variance=25):
    loss = 25 * ((x - y) ** 2).mean()
    for a in (x, y):
        covariance = np.cov(a.T)
        loss += of_variance / 2 * np.maximum(0, 1 - np.sqrt(a.var(0, ddof=1) + 1e-4)).mean()
        loss += (covariance**2).sum() / a.shape[1] - (np.diag(covariance) ** 2).sum() / a.shape[1]
    return loss


def cosines(x, y):
    return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def of_pairs(student, targets):
    """Each view of the student with each other one of the teacher."""
    losses = -np.einsum("tbd,sbd->ts", targets, log_softmax(student / 0.1)) / student.shape[1]
    return losses[~np.eye(*losses.shape, dtype=bool)].mean()


def patches_of_images(student, teacher, centre, mask):
    losses = -(np.exp(log_softmax((teacher - centre) / 0.04)) * log_softmax(student / 0.1)).sum(-1)[mask]
    weights = np.broadcast_to(1 / np.maximum(mask.sum(-1, keepdims=True), 1), mask.shape)[mask]
    return (losses * weights).sum() / len(mask)


def sinkhorn(scores):
    q = np.exp(scores / 0.05).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdims=True)
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return q.T * q.shape[1]


def koleo(x):
    u = x / np.linalg.norm(x, axis=-1, keepdims=True)
    apart = np.linalg.norm(u[:, None] - u, axis=-1) + np.where(np.eye(len(u)), np.inf, 0)
    return -np.log(apart.min(-1) + 1e-8).mean()


def simclr(x):
    """Of both views of each image, one after the other."""
    z = unit(x) @ unit(x).T / 0.5
    exponentials = np.exp(z) * (1 - np.eye(len(z)))
    own = np.roll(np.arange(len(z)), len(z) // 2)
    return np.mean(np.log(exponentials.sum(1)) - z[np.arange(len(z)), own])


def self_supervised(page):
    x, y, p1, p2, z1, z2 = wide(page, "first", "second", "p1", "p2", "z1", "z2")
    student, teacher, centre, scores = wide(page, "student", "teacher", "centre", "scores")
    both = cosines(p1, z2).mean() + cosines(p2, z1).mean()
    return {
        "`NTXentLoss`": simclr(np.concatenate([x, y])),
        "`BarlowTwinsLoss`": barlow_twins(x, y, lambda v: np.sqrt(v.var(0) + 1e-5)),
        "`VICRegLoss`": vicreg(x, y),
        "`KoLeoLoss`": koleo(x),
        "`NegativeCosineSimilarity`": -cosines(p1, z2).mean(),
        "SimSiam": -both / 2,
        "BYOL": 4 - 2 * both,
        "`DINOLoss`": of_pairs(student, np.exp(log_softmax((teacher - centre) / 0.04))),
        "`IBOTPatchLoss`": patches_of_images(
            *wide(page, "patches", "teacher_patches", "patch_centre"), np.asarray(page["mask"])
        ),
        "`SwaVLoss`": of_pairs(scores, np.stack([sinkhorn(scores[t]) for t in range(2)])),
    }


def test_self_supervised_losses_are_their_formulas(page):
    expected = self_supervised(page)
    assert len(expected) == len(rows("Self-supervision"))
    for start, truth in expected.items():
        np.testing.assert_allclose(evaluated(page, "Self-supervision", start), truth, rtol=2e-5, err_msg=start)


def test_targets_have_no_gradient(page):
    for start, target in {"SimSiam": "z2", "BYOL": "z1"}.items():
        found = jax.grad(
            lambda z, start=start, target=target: evaluated(page, "Self-supervision", start, **{target: z})
        )(page[target])
        np.testing.assert_array_equal(found, 0)


def test_barlow_twins_of_monai_is_another_function(page):
    """It divides by the deviation over N - 1, and the products by N: equal views are not at a loss of 0."""
    of_monai = lambda v: v.std(0, ddof=1) + 1e-6  # noqa: E731
    x, y = wide(page, "first", "second")
    ours = evaluated(page, "Self-supervision", "`BarlowTwinsLoss`")
    assert barlow_twins(x, y, of_monai) > 1.05 * float(ours)
    n, features = x.shape
    uncorrelated = np.linalg.qr(np.column_stack([np.ones(n), x]))[0][:, 1:]
    np.testing.assert_allclose(barlow_twins(uncorrelated, uncorrelated, of_monai), features / n**2, rtol=1e-4)
    alone = jnp.asarray(uncorrelated, np.float32)
    assert evaluated(page, "Self-supervision", "`BarlowTwinsLoss`", first=alone, second=alone) < 1e-6


def test_the_variance_terms_of_the_paper_are_added(page):
    x, y = wide(page, "first", "second")
    ours = page["vicreg_loss"](page["first"], page["second"], variance_weight=50)
    np.testing.assert_allclose(ours, vicreg(x, y, of_variance=50), rtol=1e-5)


# The other sections: value and gradients of each cell, and of a formula in JAX with 64 bits.


def values_and_gradients(functions, arrays):
    """Of each function, by the arrays that it names: one program, which is compiled once."""

    def all_of_them(arrays):
        return {
            name: jax.value_and_grad(lambda inputs, function=function: function(**inputs))(
                {key: arrays[key] for key in inputs.split()}
            )
            for name, (function, inputs) in functions.items()
        }

    return jax.jit(all_of_them, compiler_options={"xla_backend_optimization_level": 0})(arrays)


def ours(page, section, inputs):
    """Of cells, by the name of the row."""
    cells = {name: (partial(evaluated, page, section, name), inputs) for name, inputs in inputs.items()}
    return values_and_gradients(cells, {key: page[key] for key in " ".join(inputs.values()).split()})


def assert_same(found, expected, name, rtol=1e-4):
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol, err_msg=name)
    for array, gradient in expected[1].items():
        size = np.abs(gradient).max()
        assert size > 1e-6, (name, array)
        np.testing.assert_allclose(found[1][array], gradient, rtol=0, atol=rtol * size, err_msg=f"{name}: {array}")


def check(page, section, formulas):
    """`formulas`: for the name of a row its formula, and the arrays by which it is differentiated."""
    found = ours(page, section, {name: inputs for name, (_, inputs) in formulas.items()})
    with jax.enable_x64(True):
        arrays = {key: np.asarray(page[key], np.float64) for _, inputs in formulas.values() for key in inputs.split()}
        expected = values_and_gradients(formulas, jax.tree.map(jnp.asarray, arrays))
    for name in formulas:
        assert_same(found[name], expected[name], name)


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def paired_cosines(x, y):
    return (unit(x) * unit(y)).sum(-1)


def pairwise(x):
    """Distances of all examples. One of 0 has no gradient."""
    squares = ((x[:, None] - x) ** 2).sum(-1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def cross_entropy(logits, labels=None):
    labels = jnp.arange(len(logits)) if labels is None else labels
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1).mean()


def both_directions(logits):
    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def sigmoid_of_pairs(logits):
    signs = 2 * jnp.eye(len(logits)) - 1
    return -log_sigmoid(signs * logits).sum() / len(logits)


def masked_pairs(page, images, texts, log_scale):
    valid = np.asarray(page["valid"])
    return both_directions(jnp.exp(log_scale) * images[valid] @ texts[valid].T)


def towers(page):
    clip = lambda images, texts, log_scale: both_directions(jnp.exp(log_scale) * images @ texts.T)  # noqa: E731
    siglip = lambda images, texts, log_scale, bias: sigmoid_of_pairs(  # noqa: E731
        jnp.exp(log_scale) * texts @ images.T + bias
    )
    return {
        "`ClipLoss`": (clip, "images texts log_scale"),
        "`SigLipLoss`": (siglip, "images texts log_scale bias"),
        "`bidirectional_contrastive_loss`": (partial(masked_pairs, page), "images texts log_scale"),
        "`trainers/proj/image_text/siglip.py`": (siglip, "images texts log_scale bias"),
        "`clip_loss`": (clip, "images texts log_scale"),
        "`SiglipModel`": (siglip, "images texts log_scale bias"),
    }


def test_pairs_of_two_towers_are_their_formulas(page):
    expected = towers(page)
    assert len(expected) == len(rows("Pairs of two towers"))
    check(page, "Pairs of two towers", expected)


def test_eight_devices_have_the_gradient_of_one(page):
    assert jax.device_count() == 8
    whole = jax.value_and_grad(page["contrast"], argnums=(0, 1, 2))(page["images"], page["texts"], page["log_scale"])
    for name in ("gradients", "mapped_gradients"):
        for found, expected in zip(page[name], whole[1], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for name in ("value", "mapped_value"):
        np.testing.assert_allclose(page[name], whole[0], rtol=1e-6)


@pytest.mark.parametrize(("local_loss", "ratio", "error"), [(False, 0.25, 0.75), (True, 0.53, 0.5)])
def test_gathering_without_gradient_loses_a_part_of_it(local_loss, ratio, error):
    """What four processes of open_clip average with `gather_with_grad=False`."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, y, weight = (jnp.asarray(rng.normal(size=shape)) / 4 for shape in ((32, 16), (32, 16), (16, 16)))

        def of_process(weight, rank):
            images, texts = (unit(jnp.tanh(inputs @ weight)) for inputs in (x, y))
            mine = slice(8 * rank, 8 * rank + 8)
            all_images, all_texts = jax.lax.stop_gradient(images), jax.lax.stop_gradient(texts)
            if local_loss:
                labels = jnp.arange(8) + 8 * rank
                rows = cross_entropy(14 * images[mine] @ all_texts.T, labels)
                return (rows + cross_entropy(14 * texts[mine] @ all_images.T, labels)) / 2
            return both_directions(14 * all_images.at[mine].set(images[mine]) @ all_texts.at[mine].set(texts[mine]).T)

        def of_batch(weight):
            return both_directions(14 * unit(jnp.tanh(x @ weight)) @ unit(jnp.tanh(y @ weight)).T)

        @jax.jit
        def gradients(weight):
            return sum(jax.grad(of_process)(weight, rank) for rank in range(4)) / 4, jax.grad(of_batch)(weight)

        found, truth = gradients(weight)
        size = jnp.linalg.norm(truth)
        np.testing.assert_allclose(jnp.linalg.norm(found) / size, ratio, atol=0.005)
        np.testing.assert_allclose(jnp.linalg.norm(found - truth) / size, error, atol=0.005)


def test_chunks_of_open_clip_cancel(page):
    """Softplus of all logits, minus the logits of the pairs: what is left is their rounding."""
    torch = pytest.importorskip("torch")

    def batch(seed, pairs, noise):
        rng = np.random.default_rng(seed)
        draw = lambda: np.eye(pairs, 512) + noise * rng.normal(size=(pairs, 512))  # noqa: E731
        return [np.float32(x / np.linalg.norm(x, axis=-1, keepdims=True)) for x in (draw(), draw())]

    def in_chunks(x, y, bias):
        z = torch.tensor(100 * x @ y.T + np.float32(bias))
        return float(torch.nn.functional.softplus(z).sum() - z.diagonal().sum()) / len(x)

    def truth(x, y, bias):
        z = 100 * np.float64(x) @ np.float64(y).T + bias
        return np.logaddexp(0, z * (1 - 2 * np.eye(len(z)))).sum() / len(z)

    siglip = partial(page["siglip_loss"], logit_scale=100.0, reduction="mean")
    for pairs, noise, bias in [(512, 0.02, -50.0), (4, 0.01, -10.0)]:
        batches = [batch(seed, pairs, noise) for seed in range(12)]
        errors = [abs(in_chunks(x, y, bias) / truth(x, y, bias) - 1) for x, y in batches]
        assert max(errors) > (1e6 if pairs == 512 else 0.03)
        for x, y in batches[:2]:
            np.testing.assert_allclose(siglip(x, y, bias=bias), truth(x, y, bias), rtol=1e-4)
    assert min(in_chunks(*batch(seed, 32, 0.02), -50.0) for seed in range(40)) < 0

    logit = torch.tensor(18.0, requires_grad=True)
    (torch.nn.functional.softplus(logit) - logit).backward()
    assert logit.grad == 0
    gradient = jax.grad(lambda b: siglip(jnp.ones((1, 1)), jnp.ones((1, 1)), bias=b))(jnp.float32(-82))
    np.testing.assert_allclose(gradient, -np.exp(-18), rtol=1e-5)


def test_the_mask_of_big_vision_lets_nan_through(page):
    """0 times NaN, in the product that gives the gradient by the texts."""
    valid, images = page["valid"], page["images"].at[15].set(jnp.nan)

    def masked(texts):
        logits = jnp.where(valid[:, None] & valid, 10 * images @ texts.T, -jnp.inf)
        losses = -jnp.diag(jax.nn.log_softmax(logits, axis=1) + jax.nn.log_softmax(logits, axis=0)) / 2
        return jnp.sum(jnp.where(valid, losses, 0)) / jnp.sum(valid)

    value, gradient = jax.value_and_grad(masked)(page["texts"])
    ours = partial(page["clip_loss"], images, logit_scale=10.0, where=valid, reduction="mean")
    np.testing.assert_allclose(ours(page["texts"]), value, rtol=1e-5)
    assert jnp.isnan(gradient).all()
    assert jnp.isfinite(jax.grad(ours)(page["texts"])).all()


def guided(page, anchors, positives, negatives):
    logits = 100 * unit(anchors) @ unit(jnp.concatenate([positives, negatives])).T
    return cross_entropy(jnp.where(np.asarray(page["allowed"]), logits, -jnp.inf))


def ordered_pairs(page, scores):
    similarities = np.asarray(page["similarities"])
    wrong = jnp.where(similarities[:, None] < similarities, 20 * (scores[:, None] - scores), -jnp.inf)
    return logsumexp(jnp.append(0, wrong))


def angle(u, v):
    """As AnglE computes it: complex numbers, whose quotients are added up."""
    (a, b), (c, d) = jnp.split(u, 2, axis=1), jnp.split(v, 2, axis=1)
    size = (c**2 + d**2).sum(1)
    lengths = jnp.sqrt((a**2 + b**2).sum(1)) / jnp.sqrt(size)
    return jnp.abs((a * c + b * d).sum(1) / size / lengths + (b * c - a * d).sum(1) / size / lengths)


def hard_pairs(page, u, v):
    positive, d = np.asarray(page["pair_labels"]) == 1, 1 - paired_cosines(u, v)
    near = d < jnp.where(positive, d, 0).max()
    far = d > jnp.where(positive, 9, d).min()
    return jnp.where(positive, far * d**2, near * relu(0.5 - d) ** 2).sum()


def masks(labels):
    labels = np.asarray(labels)
    same = labels[:, None] == labels
    return same & ~np.eye(len(labels), dtype=bool), ~same


def hard(page, margin, soft=False, power=1):
    def formula(embeddings):
        same, other = masks(page["labels"])
        d = pairwise(embeddings) ** power
        x = jnp.where(same, d, 0).max(-1) - jnp.where(other, d, jnp.inf).min(-1)
        return (softplus(x) if soft else relu(x + margin)).mean()

    return formula


def semi_hard(page, margin):
    def formula(embeddings):
        same, other = masks(page["labels"])
        d = pairwise(embeddings)
        farther = other[:, None, :] & (d[:, None, :] > d[:, :, None])  # examples, positives, negatives
        nearest = jnp.where(farther, d[:, None, :], jnp.inf).min(-1)
        farthest = jnp.where(other, d, -jnp.inf).max(-1, keepdims=True)
        negatives = jnp.where(farther.any(-1), nearest, farthest)
        return jnp.where(same, relu(d - negatives + margin), 0).sum() / same.sum()

    return formula


def ranking(anchors, positives):
    return cross_entropy(20 * unit(anchors) @ unit(positives).T)


def hard_ranking(anchors, positives):
    """The similarity of negatives is added to their logits, without derivative."""
    cosines = unit(anchors) @ unit(positives).T
    hardness = 5 * jax.lax.stop_gradient(cosines) * (1 - jnp.eye(len(cosines)))
    return cross_entropy(20 * cosines + hardness)


def sentences(page):
    positive = np.asarray(page["pair_labels"])
    similarities, margins, teacher = wide(page, "similarities", "margins", "teacher_embeddings")

    def contrastive(u, v):
        d = 1 - paired_cosines(u, v)
        return (positive * d**2 + (1 - positive) * relu(0.5 - d) ** 2).mean() / 2

    def triplets(distance):
        return lambda anchors, positives, negatives: relu(
            distance(anchors, positives) - distance(anchors, negatives) + 5
        ).mean()

    def matryoshka(anchors, positives):
        return sum(ranking(anchors[:, :n], positives[:, :n]) for n in (2, 4, 6))

    def margin_mse(anchors, positives, negatives):
        return (((anchors * positives).sum(-1) - (anchors * negatives).sum(-1) - margins) ** 2).mean()

    return {
        "`MultipleNegativesRankingLoss`": (ranking, "anchors positives"),
        "`MultipleNegativesRankingLoss(hardness_strength=5.0)`": (hard_ranking, "anchors positives"),
        "`MultipleNegativesRankingLoss` with": (
            lambda anchors, candidates: ranking(anchors, candidates),
            "anchors candidates",
        ),
        "`MultipleNegativesSymmetricRankingLoss`": (
            lambda anchors, positives: both_directions(20 * unit(anchors) @ unit(positives).T),
            "anchors positives",
        ),
        "`MultipleNegativesSymmetricRankingLoss` with": (
            lambda anchors, positives, candidates: (ranking(anchors, candidates) + ranking(positives, anchors)) / 2,
            "anchors positives candidates",
        ),
        "`GISTEmbedLoss`": (
            lambda anchors, candidates: guided(page, anchors, candidates[:8], candidates[8:]),
            "anchors candidates",
        ),
        "`MatryoshkaLoss`": (matryoshka, "anchors positives"),
        "`CoSENTLoss`": (lambda u, v: ordered_pairs(page, paired_cosines(u, v)), "u v"),
        "`AnglELoss`": (lambda u, v: ordered_pairs(page, angle(u, v)), "u v"),
        "`CosineSimilarityLoss`": (lambda u, v: ((paired_cosines(u, v) - similarities) ** 2).mean(), "u v"),
        "`ContrastiveLoss`": (contrastive, "u v"),
        "`OnlineContrastiveLoss`": (partial(hard_pairs, page), "u v"),
        "`TripletLoss`": (triplets(lambda x, y: jnp.linalg.norm(x - y, axis=-1)), "anchors positives negatives"),
        "`TripletLoss` with": (triplets(lambda x, y: 1 - paired_cosines(x, y)), "anchors positives negatives"),
        "`BatchHardTripletLoss`": (hard(page, 5), "embeddings"),
        "`BatchHardSoftMarginTripletLoss`": (hard(page, 0, soft=True), "embeddings"),
        "`BatchSemiHardTripletLoss`": (semi_hard(page, 5), "embeddings"),
        "`MSELoss`": (lambda u: ((u - teacher) ** 2).mean(), "u"),
        "`MarginMSELoss`": (margin_mse, "anchors positives negatives"),
    }


def test_sentence_embeddings_are_their_formulas(page):
    expected = sentences(page)
    assert len(expected) == len(rows("Sentence embeddings"))
    check(page, "Sentence embeddings", expected)


def test_sentence_transformers_rounds_and_overflows(page):
    """log1p(exp(x)) of distances that differ by 89, and a softmax of 0 and -17."""
    x, y = jnp.asarray([[0.0], [100.0], [11.0]]), jnp.asarray([0, 0, 1])
    with np.errstate(over="ignore"):
        assert np.isinf(np.log1p(np.exp(np.float32(100 - 11))))
    hardest = page["batch_hard_triplet_loss"](x, y, margin=0.0, soft_margin=True)
    np.testing.assert_allclose(hardest, [89, 11 + np.exp(-11), 0], rtol=1e-6)
    assert logsumexp(jnp.asarray([0, -17.0])) == 0
    logits = jnp.asarray([0, -17.0])
    np.testing.assert_allclose(page["softmax_cross_entropy_with_integer_labels"](logits, 0), 4.139938e-8, rtol=1e-6)


# pytorch-metric-learning, in 64 bits.


@pytest.fixture(scope="module")
def pml():
    pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pytorch_metric_learning", exc_type=ImportError)


def by_pml(loss, x, labels, parameters=None, dtype=None, **references):
    """Value, gradient by the embeddings, and those by the parameters."""
    import torch

    dtype = dtype or torch.float64
    x = torch.tensor(np.array(x), dtype=dtype, requires_grad=True)
    for name, array in (parameters or {}).items():
        getattr(loss, name).data = torch.tensor(np.array(array), dtype=dtype)
    value = loss(x, torch.tensor(np.array(labels)).long(), **references)
    value.backward()
    return value.item(), x.grad.numpy(), {name: getattr(loss, name).grad.numpy() for name in parameters or {}}


def batches(pml, page):
    """The losses of a batch with labels."""
    from pytorch_metric_learning import losses, miners, reducers

    mean = {"reducer": reducers.MeanReducer()}
    return {
        "`ContrastiveLoss`": losses.ContrastiveLoss(**mean),
        "`TripletMarginLoss`": losses.TripletMarginLoss(**mean),
        "`TripletMarginLoss(swap": losses.TripletMarginLoss(swap=True, smooth_loss=True, **mean),
        "`BatchHardMiner`": (losses.TripletMarginLoss(**mean), miners.BatchHardMiner()),
        "`MultiSimilarityLoss`": losses.MultiSimilarityLoss(),
        "`LiftedStructureLoss`": losses.LiftedStructureLoss(),
        "`GeneralizedLiftedStructureLoss`": losses.GeneralizedLiftedStructureLoss(),
        "`NCALoss`": losses.NCALoss(),
        "`NTXentLoss`": losses.NTXentLoss(),
        "`SupConLoss`": losses.SupConLoss(**mean),
        "`TupletMarginLoss`": losses.TupletMarginLoss(),
        "`IntraPairVarianceLoss`": losses.IntraPairVarianceLoss(),
    }


def classes():
    """The losses with a vector of each class: the loss, and what the page calls the vectors."""
    from pytorch_metric_learning import losses

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's, of torch's numbers
        sphere_face = losses.SphereFaceLoss(5, 6)
    return {
        "`ArcFaceLoss`": (losses.ArcFaceLoss(5, 6), "W", "weight"),
        "`CosFaceLoss`": (losses.CosFaceLoss(5, 6), "W", "weight"),
        "`SphereFaceLoss`": (sphere_face, "W", "weight"),
        "`NormalizedSoftmaxLoss`": (losses.NormalizedSoftmaxLoss(5, 6), "W", "weight"),
        "`ProxyNCALoss`": (losses.ProxyNCALoss(5, 6), "proxies", "proxies"),
        "`ProxyAnchorLoss`": (losses.ProxyAnchorLoss(5, 6), "proxies", "proxies"),
        "`SoftTripleLoss`": (losses.SoftTripleLoss(5, 6, centers_per_class=3), "fc", "centres"),
    }


metric_learning = partial(ours, section="Metric learning")


def test_losses_of_a_batch_are_those_of_pml(pml, page):
    import torch

    losses = batches(pml, page)
    found = metric_learning(page, inputs=dict.fromkeys(losses, "embeddings"))
    for name, loss in losses.items():
        if isinstance(loss, tuple):
            loss, miner = loss
            hardest = miner(torch.tensor(np.array(page["embeddings"])), torch.tensor(np.array(page["labels"])))
            value, gradient, _ = by_pml(loss, page["embeddings"], page["labels"], indices_tuple=hardest)
        else:
            value, gradient, _ = by_pml(loss, page["embeddings"], page["labels"])
        assert_same(found[name], (value, {"embeddings": gradient}), name, rtol=2e-4)


def test_losses_with_vectors_of_classes_are_those_of_pml(pml, page):
    losses = classes()
    found = metric_learning(page, inputs={name: f"embeddings {called}" for name, (_, _, called) in losses.items()})
    for name, (loss, parameter, called) in losses.items():
        vectors = page[called] if called != "centres" else page[called].reshape(-1, 6).T
        value, gradient, parameters = by_pml(loss, page["embeddings"], page["labels"], {parameter: vectors})
        by_vectors = parameters[parameter]
        if called == "centres":
            by_vectors = by_vectors.T.reshape(page[called].shape)
        expected = value, {"embeddings": gradient, called: by_vectors}
        assert_same(found[name], expected, name, rtol=2e-4)


def test_losses_of_pairs_are_those_of_pml(pml, page):
    """N-pairs; and the angular loss after normalising, as its negatives are taken as they are."""
    import torch
    from pytorch_metric_learning import losses

    x, y = np.concatenate([page["anchors"], page["positives"]]), np.tile(np.arange(8), 2)
    unit_vectors = torch.nn.functional.normalize
    of_pairs = {"`NPairsLoss`": losses.NPairsLoss(), "`AngularLoss`": losses.AngularLoss()}
    found = metric_learning(page, inputs=dict.fromkeys(of_pairs, "anchors positives"))
    for name, loss in of_pairs.items():
        angular = (lambda x, y, loss=loss: loss(unit_vectors(x), y)) if name == "`AngularLoss`" else loss
        value, gradient, _ = by_pml(angular, x, y)
        expected = value, {"anchors": gradient[:8], "positives": gradient[8:]}
        assert_same(found[name], expected, name, rtol=2e-4)


def test_the_circle_loss_of_pml_has_constant_weights(pml, page):
    from pytorch_metric_learning import losses, reducers

    value, gradient, _ = by_pml(losses.CircleLoss(reducer=reducers.MeanReducer()), page["embeddings"], page["labels"])
    found, gradients = metric_learning(page, inputs={"`CircleLoss`": "embeddings"})["`CircleLoss`"]
    np.testing.assert_allclose(found, value, rtol=1e-5)
    same, other = masks(page["labels"])

    def formula(x, stop=lambda weights: weights):
        s = unit(x) @ unit(x).T
        pull = logsumexp(-80 * stop(relu(1.4 - s)) * (s - 0.6), where=same, axis=1)
        return softplus(pull + logsumexp(80 * stop(relu(s + 0.4)) * (s - 0.4), where=other, axis=1)).mean()

    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(page["embeddings"], np.float64))
        np.testing.assert_allclose(
            jax.jit(jax.grad(partial(formula, stop=jax.lax.stop_gradient)))(x), gradient, atol=1e-9
        )
        of_formula = np.asarray(jax.jit(jax.grad(formula))(x))
    size = np.abs(of_formula).max()
    np.testing.assert_allclose(gradients["embeddings"], of_formula, atol=2e-4 * size)
    assert np.abs(gradient - of_formula).max() > 0.1 * size


def test_the_memory_of_pml_is_references(pml, page):
    import torch
    from pytorch_metric_learning import losses, reducers

    loss = losses.CrossBatchMemory(losses.SupConLoss(reducer=reducers.MeanReducer()), 6, memory_size=10)
    x = np.concatenate([page["embeddings"], page["memory"]])
    y = np.concatenate([page["labels"], page["memory_labels"]])
    value, gradient, _ = by_pml(loss, x, y, enqueue_mask=torch.arange(22) >= 12)
    expected = value, {"embeddings": gradient[:12]}
    found = metric_learning(page, inputs={"`CrossBatchMemory`": "embeddings"})
    assert_same(found["`CrossBatchMemory`"], expected, "memory", rtol=2e-4)


def test_all_rows_of_metric_learning_are_tested(pml, page):
    others = {"`NPairsLoss`", "`AngularLoss`", "`CircleLoss`", "`CrossBatchMemory`"}
    names = [*batches(pml, page), *classes(), *others, *addons(page)]
    assert len(names) == len(set(names)) == len(rows("Metric learning"))


def addons(page):
    positive = np.asarray(page["pair_labels"])

    def contrastive(u, v):
        d = jnp.linalg.norm(u - v, axis=-1)
        return (positive * d**2 + (1 - positive) * relu(1 - d) ** 2).mean()

    return {
        "`tfa` `TripletHardLoss()`": (hard(page, 1), "embeddings"),
        "`tfa` `TripletHardLoss(soft=True)`": (hard(page, 0, soft=True), "embeddings"),
        '`tfa` `TripletHardLoss(distance_metric="squared-L2")`': (hard(page, 1, power=2), "embeddings"),
        "`tfa` `TripletSemiHardLoss()`": (semi_hard(page, 1), "embeddings"),
        "`tfa` `NpairsLoss`": (lambda anchors, positives: cross_entropy(anchors @ positives.T), "anchors positives"),
        "`tfa` `ContrastiveLoss`": (contrastive, "u v"),
    }


def test_losses_of_tensorflow_addons_are_their_formulas(page):
    check(page, "Metric learning", addons(page))


def test_the_means_of_pml(pml, page):
    """Over what costs something: by default in four losses. Over all pairs: two calls with weights."""
    from pytorch_metric_learning import losses, miners, reducers

    x, y, reduce = page["embeddings"], page["labels"], page["reduce"]
    import torch

    hardest = miners.BatchHardMiner()(torch.tensor(np.array(x)), torch.tensor(np.array(y)))
    ours = page["batch_hard_triplet_loss"](x, y, margin=-0.3, normalize=True)
    assert 0 < (ours > 0).sum() < len(ours)
    value, _, _ = by_pml(losses.TripletMarginLoss(margin=-0.3), x, y, indices_tuple=hardest)
    np.testing.assert_allclose(reduce(ours, where=ours > 0), value, rtol=1e-5)

    alone = y.at[0].set(9)
    ours = page["supervised_contrastive_loss"](x, alone)
    for loss in (losses.SupConLoss(), losses.CircleLoss()):
        value, _, _ = by_pml(loss, x, alone)
        ours = page["supervised_contrastive_loss" if "Sup" in str(loss) else "circle_loss"](x, alone)
        np.testing.assert_allclose(reduce(ours, where=ours > 0), value, rtol=1e-5)

    uneven = jnp.asarray([0] * 6 + [1] * 4 + [2] * 2)
    same, other = (mask.sum(-1).astype(np.float32) for mask in masks(uneven))
    pairs = partial(page["contrastive_loss"], x, uneven, squared=False, normalize=True, reduction="mean")
    value, _, _ = by_pml(losses.ContrastiveLoss(reducer=reducers.MeanReducer()), x, uneven)
    both = pairs(negative_margin=0.0, weights=same) + pairs(positive_margin=2.0, weights=other)
    np.testing.assert_allclose(both, value, rtol=1e-5)
    assert abs(pairs() / value - 1) > 1e-3


def test_arcface_beyond_pi_minus_the_margin(pml, page):
    """pml and InsightFace jump, by 0.117 of the scale."""
    import torch
    from pytorch_metric_learning import losses

    margin = np.radians(28.6)
    for angle in (np.pi - margin - 1e-3, np.pi - margin + 1e-3, 3.0):
        x = np.float32([[np.cos(angle), np.sin(angle)]])
        beyond = angle > np.pi - margin
        jumping = np.cos(angle) - margin * np.sin(margin) if beyond else np.cos(angle + margin)
        falling = -np.cos(angle + margin) - 2 if beyond else np.cos(angle + margin)
        weights = np.float32([[1, 0], [0, 1]])
        other = np.sin(angle)
        loss = losses.ArcFaceLoss(2, 2, scale=1)
        value, _, _ = by_pml(loss, x, [0], {"W": weights}, torch.float64)
        np.testing.assert_allclose(value, np.log1p(np.exp(other - jumping)), rtol=1e-5)
        found = page["angular_margin_loss"](x, weights, jnp.zeros(1, int), scale=1.0, margin=margin)
        np.testing.assert_allclose(found[0], np.log1p(np.exp(other - falling)), rtol=1e-5)
    np.testing.assert_allclose(np.cos(np.pi - margin) - margin * np.sin(margin), -1.117, atol=1e-3)


# Where pytorch-metric-learning is wrong in 32 bits.


def both_libraries(page, loss, name, x, labels, parameters=None, **options):
    """Value and gradient by the embeddings of pml and of the function, in 32 bits."""
    import torch

    x, labels = jnp.asarray(x, jnp.float32), jnp.asarray(labels)
    value, gradient, _ = by_pml(loss, x, labels, parameters, torch.float32)
    function = page[name]
    arguments = [jnp.asarray(array, jnp.float32) for array in (parameters or {}).values()]
    found = jax.value_and_grad(lambda x: function(x, *arguments, labels, **{"reduction": "mean", **options}))(x)
    return (value, gradient), found


def test_arcface_of_pml_at_its_class(pml, page):
    from pytorch_metric_learning import losses

    weight = np.float32([[1, 0], [0, 1], [0, 0]])
    for x in ([1, 0, 0], [-1, 0, 0], [1, 0, 1e-4]):
        loss = losses.ArcFaceLoss(2, 3)
        theirs, (value, gradient) = both_libraries(page, loss, "angular_margin_loss", [x], [0], {"W": weight})
        assert np.isnan(theirs[1]).all()
        assert np.isnan(loss.W.grad.numpy()[:, 0]).all()
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


def test_tuplet_margin_of_pml_with_equal_embeddings(pml, page):
    from pytorch_metric_learning import losses

    twins = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0.1]]
    for x, labels in [(twins, [0, 0, 1, 1]), (np.ones((8, 4)), np.arange(8) // 2)]:
        theirs, (_, gradient) = both_libraries(page, losses.TupletMarginLoss(), "tuplet_margin_loss", x, labels)
        assert np.isnan(theirs[1]).any()
        assert jnp.isfinite(gradient).all()


def test_nca_of_pml_leaves_examples_out(pml, page):
    from pytorch_metric_learning import losses

    x, labels = [[1, 0], [-1, 0], [1, 0.1], [-1, 0.2]], [0, 0, 1, 1]
    theirs, (value, gradient) = both_libraries(
        page, losses.NCALoss(softmax_scale=30), "nca_loss", x, labels, scale=30.0, normalize=True
    )
    assert np.isnan(theirs[0])
    assert (theirs[1] == 0).all()
    np.testing.assert_allclose(value, by_pml(losses.NCALoss(softmax_scale=30), x, labels)[0], rtol=1e-5)
    np.testing.assert_allclose(value, 118, rtol=1e-3)
    assert (jnp.abs(gradient).max(-1) > 0.1).all()


def test_ntxent_of_pml_at_both_ends(pml, page):
    from pytorch_metric_learning import losses

    wrong, sure = [[1, 0], [-1, 0], [1, 0.1], [-1, 0.1]], [[1, 0], [1, 0.01], [-1, 0], [-1, 0.01]]
    for x, temperature, found, truth in [(wrong, 0.01, 87.33655, 198.5136), (sure, 0.07, 0, 7.823742e-13)]:
        loss = losses.NTXentLoss(temperature)
        theirs, (value, gradient) = both_libraries(page, loss, "ntxent", x, [0, 0, 1, 1], temperature=temperature)
        np.testing.assert_allclose(theirs[0], found, rtol=1e-6)
        assert (theirs[1] == 0).all() or x is sure
        np.testing.assert_allclose(value, truth, rtol=1e-4)
        np.testing.assert_allclose(by_pml(loss, x, [0, 0, 1, 1])[0], truth, rtol=1e-3)
        assert (jnp.abs(gradient).max(-1) > 0).all()


def test_the_angular_loss_of_pml_does_not_normalise_negatives(pml, page):
    from pytorch_metric_learning import losses

    x, labels = np.random.default_rng(0).normal(size=(6, 4)), [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(by_pml(losses.AngularLoss(), x, labels)[0], 2.2, atol=0.05)
    np.testing.assert_allclose(by_pml(losses.AngularLoss(), 10 * x, labels)[0], 28.9, atol=0.05)
    ours = [
        page["angular_loss"](scale * jnp.float32(x[::2]), scale * jnp.float32(x[1::2]), normalize=True).mean()
        for scale in (1, 10)
    ]
    np.testing.assert_allclose(*ours, rtol=1e-5)


def test_a_single_pair_costs_nothing_in_pml(pml, page):
    import torch
    from pytorch_metric_learning import losses

    query, references = np.float32([[1, 0, 0]]), np.float32([[0.6, 0.8, 0], [1, 0, 0.1]])
    options = {"ref_emb": torch.tensor(references), "ref_labels": torch.tensor([0, 1])}
    for loss in (losses.SupConLoss(), losses.NTXentLoss(), losses.ContrastiveLoss(), losses.CircleLoss()):
        assert by_pml(loss, query, [0], dtype=torch.float32, **options)[0] == 0
    found = page["supervised_contrastive_loss"](
        query, jnp.asarray([0]), reference_embeddings=references, reference_labels=jnp.asarray([0, 1])
    )
    cosines = references @ query[0] / np.linalg.norm(references, axis=-1)
    np.testing.assert_allclose(found[0], np.log1p(np.exp(10 * (cosines[1] - cosines[0]))), rtol=1e-5)
    np.testing.assert_allclose(found[0], 3.97, atol=0.01)
