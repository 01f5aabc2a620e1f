"""The tables of docs/embeddings.md: each cell against the formula of the program that it is named after."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    """What the cell gives whose row begins so."""
    (cell,) = (cell for name, cell in rows(section).items() if name.startswith(start))
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


def self_supervised(page):
    x, y, p1, p2, z1, z2 = wide(page, "first", "second", "p1", "p2", "z1", "z2")
    student, teacher, centre, scores = wide(page, "student", "teacher", "centre", "scores")
    both = cosines(p1, z2).mean() + cosines(p2, z1).mean()
    return {
        "`BarlowTwinsLoss`": barlow_twins(x, y, lambda v: np.sqrt(v.var(0) + 1e-5)),
        "`VICRegLoss`": vicreg(x, y),
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
