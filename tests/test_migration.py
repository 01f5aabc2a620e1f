"""Every row of the migration table, both sides, over random inputs; and the page that it prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from migration import KERAS, NOT_HERE_YET, PAGE, page
from tolerances import like_keras

import jaxloss

SHAPE = (16, 5)


def draw(rng, kind):
    one_hot = np.eye(SHAPE[1])[rng.integers(SHAPE[1], size=SHAPE[0])]
    shares = rng.random(SHAPE) + 0.05
    drawn = {
        "real": rng.normal(size=SHAPE),
        "positive": rng.uniform(0.2, 3, SHAPE),
        "count": rng.poisson(2, SHAPE),
        "sign": rng.choice([-1, 1], SHAPE),
        "bit": rng.integers(2, size=SHAPE),
        "probability": rng.uniform(0.05, 0.95, SHAPE),
        "distribution": shares / shares.sum(-1, keepdims=True),
        "one-hot": one_hot,
        "index": one_hot.argmax(-1),
        "frames": rng.normal(size=(3, 9, 5)),
        "sequences": np.array([[1, 2, 2, 4], [3, 0, 0, 0], [4, 1, 0, 0]]),
    }[kind]
    return jnp.asarray(drawn, np.int32 if kind in ("index", "sequences") else np.float32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", KERAS, ids=lambda row: row.theirs)
def test_keras(row, rng):
    keras = pytest.importorskip("keras")
    names = {"x": draw(rng, row.predictions), "y": draw(rng, row.targets), "jnp": jnp}

    def theirs(x):
        return eval(row.theirs, vars(keras.losses) | names | {"x": x})

    def ours(x):
        return eval(row.ours, vars(jaxloss) | names | {"x": x})

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        like_keras(ours(names["x"]), theirs(names["x"]))
        if "distribution" in row.predictions:  # Keras divides by the sum, and so has another gradient
            return
        like_keras(*(jax.grad(lambda x, f=f: f(x).sum())(names["x"]) for f in (ours, theirs)))


def test_the_list_of_keras_is_complete():
    keras = pytest.importorskip("keras")
    functions = {name for name in dir(keras.losses) if name.islower() and name[0] != "_"}
    functions -= {"deserialize", "get", "serialize"}
    assert functions == {row.theirs.partition("(")[0] for row in KERAS} | set(NOT_HERE_YET)


def test_the_page_is_printed_from_the_table():
    assert PAGE.read_text() == page(), "run `python tests/migration.py`"
