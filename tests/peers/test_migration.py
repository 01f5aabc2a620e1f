"""Every row of the migration tables, both sides, and every input at which a peer is wrong; and the page they print."""

import contextlib
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logit, logsumexp
from migration import PAGE, page, peers
from tolerances import close, like_keras

import jaxloss

PEERS = {peer.name: peer for peer in peers()}
PROJECT = pathlib.Path(__file__).parent.parent.parent / "pyproject.toml"
PINNED = dict(re.findall(r'"(\w+)(?:-cpu)?==([\d.]+)"', PROJECT.read_text()))
EDGES = ("random", "zeros", "equal", "far", "farther", "hit")
SHAPE = (16, 5)
SHAPES = {"images": (4, 5, 3), "pixels": (4, 6, 5), "frames": (3, 9, 5), "head": (7, 5)}
INTEGERS = {
    "index",
    "token",
    "ignored",
    "groups",
    "sequences",
    "other sequences",
    "image labels",
    "column labels",
    "lists",
}
NAMES = {"jnp": jnp, "jax": jax, "logit": logit, "logsumexp": logsumexp}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def as_a_user_runs_it():
    """Peers neither promote strictly nor keep silent."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def library(name):
    """The names of the pinned peer: its losses, and what else its calls take."""
    found = {"optax": "optax", "Keras": "keras", "PyTorch": "torch", "TensorFlow": "tensorflow"}[name]
    module = pytest.importorskip(found)
    if module.__version__.partition("+")[0] != PINNED[found]:
        pytest.skip(f"the tables are of {found} {PINNED[found]}")
    if found == "torch":
        return vars(module.nn.functional) | {"torch": module}
    if found == "tensorflow":
        return {"tf": module}
    return vars(module.losses) | {"ops": getattr(module, "ops", None)}


def numbers(rng, edge, shape, predictions):
    """Real numbers at an edge: all arrays are 0 or hit each other there, and predictions are equal or far."""
    if edge == "zeros":
        return np.zeros(shape)
    if edge == "hit":
        return np.random.default_rng(1).normal(size=shape)
    if edge == "random" or not predictions:
        return rng.normal(size=shape)
    return np.full(shape, 2.5) if edge == "equal" else {"far": 30, "farther": 100}[edge] * rng.choice([-1, 1], shape)


# What is drawn, of real numbers: at every edge.
CONTINUOUS = {
    "real": lambda r: r,
    "positive": lambda r: np.exp(np.clip(r, -3, 3)),
    "probability": lambda r: 1 / (1 + np.exp(-np.clip(r, -5, 5))),
    "log shares": lambda r: jax.nn.log_softmax(r),
    # Logits: the test takes the softmax, and the gradient through it, so that it does not matter whether a loss
    # divides by the sum.
    "distribution": lambda r: np.clip(r, -4, 4),
    "log rate": lambda r: np.clip(r, -5, 5),
}


def discrete(rng, kind, bits, one_hot):
    """What has no edges but is one."""
    images, pixels = SHAPES["images"], SHAPES["pixels"]
    return {
        "sign": lambda: 2 * bits - 1,
        "bit": lambda: bits,
        "row sign": lambda: 2 * bits[:, 0] - 1,
        "count": lambda: rng.poisson(2, SHAPE),
        "one-hot": lambda: one_hot,
        "index": lambda: one_hot.argmax(-1),
        "ignored": lambda: np.where(bits[:, 0] == 0, -100, one_hot.argmax(-1)),
        "token": lambda: rng.integers(SHAPES["head"][0], size=SHAPE[0]),
        "groups": lambda: np.arange(SHAPE[0]) % 4,
        "lists": lambda: np.where(
            np.arange(5) < bits.sum(-1, keepdims=True), rng.permuted(np.arange(5) + 0 * bits, axis=1), -1
        ),
        "sequences": lambda: np.array([[1, 2, 2, 4], [3, 0, 0, 0], [4, 1, 0, 0]]),
        "other sequences": lambda: np.array([[1, 2, 2, 3], [3, 0, 0, 0], [2, 1, 0, 0]]),
        "frame paddings": lambda: np.arange(9) >= np.array([9, 7, 4])[:, None],
        "image labels": lambda: rng.integers(images[1], size=(images[0], images[2])),
        "column labels": lambda: rng.integers(images[0] * images[2], size=images[1]),
        "pixel classes": lambda: np.eye(5)[rng.permuted(np.arange(24) % 5).reshape(pixels[:2])],
        "pixel bits": lambda: rng.integers(2, size=pixels),
    }[kind]()


def draw(row):
    """The names in a row's calls, at each edge."""
    rng = np.random.default_rng(0)
    bits, one_hot = rng.integers(2, size=SHAPE), np.eye(SHAPE[1])[rng.integers(SHAPE[1], size=SHAPE[0])]
    drawn = {
        "w": rng.uniform(0.5, 2, SHAPE[1]),
        "u": rng.uniform(0.5, 2, SHAPE[0]),
        "v": rng.uniform(0.5, 2, SHAPE),
        "keep": rng.random(SHAPE[0]) < 0.7,
        "classes": (rng.random(SHAPE) < 0.6) | (one_hot == 1),
        "e": np.random.default_rng(1).uniform(0.1, 1, SHAPES["head"][0]),
    }
    for edge in EDGES:
        for name in "zyx":
            kind = getattr(row, name)
            continuous = next((k for k in CONTINUOUS if kind.endswith(k)), None)
            if continuous:
                shape = next((shape for word, shape in SHAPES.items() if word in kind), SHAPE)
                drawn[name] = CONTINUOUS[continuous](numbers(rng, edge, shape, name == "x"))
            elif kind == "soft":  # hard at the other edges
                drawn[name] = rng.random(SHAPE) if edge == "random" else bits
            elif kind == "shares":
                drawn[name] = rng.dirichlet(np.ones(SHAPE[1]), SHAPE[0]) if edge == "random" else one_hot
            elif edge == "random":
                drawn[name] = discrete(rng, kind, bits, one_hot)
        if edge == "hit" and row.y == "sign":
            drawn["x"] = drawn["y"]
        yield edge, {k: array(v, getattr(row, k, "")) for k, v in drawn.items()}


def array(value, kind, dtype="float32"):
    value = np.asarray(value)
    if kind in INTEGERS:
        return jnp.asarray(value, np.int32)
    return jnp.asarray(value) if value.dtype == bool and kind == "" else jnp.asarray(value, dtype)


def in_jax(known, call, by, logits="", forward=False):
    """A function of the names in a call: its value, and the gradients of its sum by the arguments `by`.

    Those among `logits` are given to the call through a softmax.
    """

    def value(names, *arguments):
        names = names | dict(zip(by, arguments, strict=True))
        names |= {k: jax.nn.softmax(names[k]) for k in logits}
        return eval(call, known | NAMES | names)

    def function(names):
        arguments, function = [names[k] for k in by], functools.partial(value, names)
        if forward:
            return function(*arguments), *jax.jacfwd(lambda *a: function(*a).sum(), tuple(range(len(by))))(*arguments)
        result, pull = jax.vjp(function, *arguments)
        return result, *pull(jnp.ones_like(result))

    compiled = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})  # run once

    def run(names):
        try:
            return compiled(names)
        except jax.errors.ConcretizationTypeError:  # optax.losses.dice_loss looks at the numbers
            return function(names)

    return run


def in_torch(known, call, by, logits="", forward=False):
    import torch

    def tensor(a):
        t = torch.tensor(np.asarray(a, np.float32 if a.dtype == jnp.bfloat16 else None))
        return t.to({jnp.bfloat16: torch.bfloat16, np.int32: torch.int64}.get(a.dtype.type, t.dtype))

    def run(names):
        tensors = {k: tensor(v) for k, v in names.items()}
        leaves = [tensors[k].requires_grad_() for k in by]
        tensors |= {k: tensors[k].softmax(-1) for k in logits}
        value = eval(call, known | tensors)
        if by:
            value.sum().backward()
        return [t.detach().float().numpy() for t in (value, *(leaf.grad for leaf in leaves))]

    return run


def in_tensorflow(known, call, by, logits="", forward=False):
    def run(names):
        tf = known["tf"]
        tensors = {k: tf.convert_to_tensor(np.asarray(v)) for k, v in names.items()}
        with tf.GradientTape() as tape:
            tape.watch([tensors[k] for k in by])
            given = tensors | {k: tf.nn.softmax(tensors[k]) for k in logits}
            value = eval(call, known | given)
        gradients = tape.gradient(value, [tensors[k] for k in by], unconnected_gradients="zero")
        return [np.asarray(tf.convert_to_tensor(a), np.float32) for a in (value, *gradients)]

    return run


def agree(peer, ours, theirs, size, span, of):
    if peer == "Keras" and "frames" not in of:
        like_keras(ours / max(size, 1), theirs / max(size, 1))
    else:
        close(ours, theirs, size, span=span, of=of)


def functions(peer, row, *rest):
    """Ours and theirs."""
    known = library(peer)
    theirs = {"PyTorch": in_torch, "TensorFlow": in_tensorflow}.get(peer, in_jax)
    return in_jax(vars(jaxloss), row.ours, *rest), theirs(known, row.theirs, *rest)


@pytest.mark.parametrize(
    ("peer", "row"), [pytest.param(p.name, row, id=f"{p.name}-{row.theirs}") for p in PEERS.values() for row in p.rows]
)
def test_rows(peer, row):
    """On all edges that the row does not name; there, that they differ."""
    both = functions(peer, row, row.by, [k for k in "xyz" if getattr(row, k).endswith("distribution")])
    sizes = np.zeros(1 + len(row.by))
    for edge, names in draw(row):
        with (
            pytest.raises((AssertionError, TypeError, ValueError))
            if edge in row.apart.split()
            else contextlib.nullcontext()
        ):
            ours, theirs = (f(names) for f in both)
            here = [np.nan_to_num(np.abs(np.asarray(t)), posinf=0).max(initial=0) for t in theirs]
            sizes = here if edge == "random" else sizes  # the least that counts
            span = here[0] if "frames" in row.x else 20  # posteriors are exponentials of numbers as large as the loss
            for a, b, size, name in zip(ours, theirs, np.maximum(sizes, here), ("value", *row.by), strict=True):
                assert a.shape == b.shape
                agree(peer, a, b, size, span, f"{name} of {row.x}, {edge}")


@pytest.mark.parametrize(
    ("peer", "row", "wrong"),
    [
        pytest.param(p.name, row, wrong, id=f"{p.name}-{row.theirs}-{wrong.inputs}-{wrong.of}-{wrong.dtype}")
        for p in PEERS.values()
        for row in p.rows
        for wrong in row.wrong
    ],
)
def test_where_they_are_wrong(peer, row, wrong):
    """Ours is the truth, and theirs is what the page says: when they mend it, this says so."""
    ours, theirs = functions(peer, row, {"value": "", "by y": "y"}.get(wrong.of, "x"), "", wrong.of == "forward")
    names = {k: array(v, getattr(row, k, ""), wrong.dtype) for k, v in eval(f"dict({wrong.inputs})", vars(np)).items()}

    def result(f):
        return np.asarray(f(names)[wrong.of != "value"], np.float64)

    truth = np.asarray(wrong.true())
    close(result(ours), truth, np.nan_to_num(np.abs(truth)), dtype="float32" if wrong.of == "value" else wrong.dtype)
    if wrong.theirs.endswith("Error"):
        with pytest.raises(Exception) as raised:  # noqa: PT011 - of the kind that the page names
            result(theirs)
        assert type(raised.value).__name__ == wrong.theirs
        return
    np.testing.assert_allclose(result(theirs), np.asarray(eval(wrong.theirs, vars(np)), np.float64), rtol=1e-2)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(result(theirs), truth, rtol=1e-3)


def public(name, known):
    """The losses of a peer, as it has them."""
    if name == "TensorFlow":  # modules that load what is asked for
        nn, losses = known["tf"].nn, known["tf"].compat.v1.losses
        found = {k for k in dir(nn) if re.search("loss|entropy", k)} | {k for k in dir(losses) if k[0] != "_"}
        return {k for k in found if k == k.lower() and not re.match("add|get|scale", k)}
    found = {k for k, v in known.items() if callable(v) and k[0] != "_" and k == k.lower()}
    if name == "optax":
        return found
    if name == "Keras":
        return found - {"deserialize", "get", "serialize"}
    return {k for k in found if re.search("loss|entropy|similarity|_div", k)}


@pytest.mark.parametrize("name", PEERS)
def test_every_loss_has_a_row(name):
    assert public(name, library(name)) <= set(re.findall(r"\w+", " ".join(row.theirs for row in PEERS[name].rows)))


def test_the_page_is_printed_from_the_tables():
    assert PAGE.read_text() == page(), "run `python tests/peers/migration.py`"
