"""The examples run, on few steps where they take long."""

import importlib.util
import pathlib
import warnings

import jax
import pytest
from cases import CASES

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
DOCS = EXAMPLES.parent / "docs"


@pytest.fixture(autouse=True)
def as_a_user_runs_it():
    """Flax and optax neither promote strictly nor keep silent."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def load(name, folder=EXAMPLES):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain():
    pytest.importorskip("sklearn")
    assert load("plain").main(steps=200) > 0.95


def test_digits(tmp_path):
    pytest.importorskip("flax")
    picture = tmp_path / "digits.png"
    assert load("digits").main(epochs=8, picture=picture) >= 0.97
    assert picture.stat().st_size > 10_000


def test_regression(tmp_path):
    pytest.importorskip("sklearn")
    picture = tmp_path / "regression.png"
    found = load("regression").main(steps=300, picture=picture)
    assert found["squared"] > 3 * found["huber"]
    assert 0.75 < found["inside"] < 0.97
    assert picture.stat().st_size > 10_000


def test_the_gallery_shows_every_elementwise_loss(tmp_path):
    gallery = load("pointwise_losses", DOCS)
    assert {name for name, *_ in gallery.CURVES} == {case.name for case in CASES if not case.rows}
    picture = tmp_path / "pointwise_losses.png"
    gallery.main(picture)
    assert picture.stat().st_size > 10_000


def test_stability(tmp_path):
    picture = tmp_path / "stability.png"
    worst = load("stability").main(picture=picture)
    assert worst["softmax, then log"] == worst["logsumexp minus logit"] == 1
    assert worst["jaxloss"] < 1e-6
    assert picture.stat().st_size > 10_000


def test_the_plain_example_stays_short():
    lines = (EXAMPLES / "plain.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 45
