"""The examples run, on few steps where they take long."""

import importlib.util
import pathlib
import warnings

import jax
import numpy as np
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


def test_read_digits(tmp_path, capsys):
    pytest.importorskip("flax")
    example = load("read_digits")
    picture = tmp_path / "read_digits.png"
    found = example.main(steps=40, rows=20, picture=picture)
    assert found["losses"][-1] < found["losses"][0] / 2
    assert found["loss"] < found["losses"][0] / 2
    assert 0 <= found["greedy"] <= 1
    assert "nan" not in capsys.readouterr().out
    assert picture.stat().st_size > 10_000


def test_preference(tmp_path):
    pytest.importorskip("flax")
    example = load("preference")
    example.BATCH, example.PAIRS, example.GROUPS, example.HELD_OUT, example.PROBES = 16, 8, 8, 64, 64
    picture = tmp_path / "preference.png"
    found = example.main(sft_steps=100, dpo_steps=8, grpo_steps=2, picture=picture)
    margins = found["DPO"].metrics["margin"]
    assert margins[-4:].mean() > margins[0]
    for name in ("DPO", "GRPO"):
        assert all(np.isfinite(values).all() for values in found[name].metrics.values())
        assert all(np.isfinite(probe.kl) for probe in found[name].probes.values())
    assert found["found"]["SFT"].kl == 0 < found["found"]["DPO"].kl
    assert picture.stat().st_size > 10_000


def test_clip(tmp_path, capsys):
    pytest.importorskip("flax")
    example = load("clip")
    example.BATCH, example.HELD_OUT, example.EVERY = 64, 96, 40
    picture = tmp_path / "clip.png"
    found = example.main(steps=60, picture=picture)
    assert found["losses"][-1] < 0.75 * found["losses"][0]
    assert [*found["recalls"]] == [0, 40, 60]
    assert min(found["recalls"][60]) > 0.15 > 0.1 > max(found["recalls"][0])
    assert "nan" not in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    example.draw = lambda *given: None
    siglip = [example.main(steps=3, loss="siglip", devices=n)["losses"] for n in (1, 8)]
    np.testing.assert_allclose(*siglip, rtol=1e-5)


def test_rows_of_digits_stand_in_order_on_frames_that_are_there():
    pytest.importorskip("flax")
    example = load("read_digits")
    example.NOISE = 0
    images = np.ones((10, example.SIZE, example.SIZE)) * np.linspace(0.1, 1, 10)[:, None, None]
    rows = example.compose(np.random.default_rng(0), images, np.arange(10), 200)
    assert rows.strips.shape == (200, example.HEIGHT, example.WIDTH)
    assert {*rows.lengths} == {*range(example.FEWEST, example.MOST + 1)}
    for strip, frames, digits, length in zip(*rows, strict=True):
        assert (digits[length:] == -1).all()
        columns = strip[:, : example.STRIDE * frames].max(0)
        np.testing.assert_allclose(columns[columns > 0], (digits[:length].repeat(example.SIZE) + 1) / 10, rtol=1e-6)
        assert not strip[:, example.STRIDE * frames :].any()


def test_the_gallery_shows_every_elementwise_loss(tmp_path):
    gallery = load("pointwise_losses", DOCS)
    of_pairs = {"hinge_embedding_loss", "margin_ranking_loss", "clipped_value_loss"}
    assert {name for name, *_ in gallery.CURVES} == {case.name for case in CASES if not case.rows} - of_pairs
    gallery.main(tmp_path)
    for theme in ("light", "dark"):
        assert (tmp_path / f"pointwise_losses-{theme}.svg").stat().st_size > 10_000


def test_stability(tmp_path):
    picture = tmp_path / "stability.png"
    worst = load("stability").main(picture=picture)
    assert worst["softmax, then log"] == worst["logsumexp minus logit"] == 1
    assert worst["jaxloss"] < 1e-6
    assert picture.stat().st_size > 10_000


def test_the_plain_example_stays_short():
    lines = (EXAMPLES / "plain.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 45
