"""CTC beside optax and PyTorch, where they are right, and where not. Other losses: test_migration.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import same

import jaxloss

pytest.importorskip("torch")  # with PyTorch, all of it; the other tests do without


def with_gradient(f, x):
    losses, pull = jax.vjp(f, x)
    return losses, pull(jnp.ones_like(losses))[0]


@pytest.mark.parametrize(("frames", "classes", "labels"), [(30, 7, 6), (300, 40, 30)])
def test_ctc_of_torch_in_float64(frames, classes, labels, rng):
    """In float32 PyTorch's gradient has errors of 1e-3 at 800 frames."""
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(5, frames, classes)).astype(np.float32)
    y = rng.integers(1, classes, size=(5, labels))
    lengths, counts = rng.integers(2 * labels + 1, frames + 1, size=5), rng.integers(0, labels + 1, size=5)
    logits = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    log_p = logits.log_softmax(-1).transpose(0, 1)
    given = torch.tensor(y), torch.tensor(lengths), torch.tensor(counts)
    theirs = torch.nn.functional.ctc_loss(log_p, *given, reduction="none")
    theirs.sum().backward()

    def ours(x):
        return jaxloss.ctc_loss(
            x, labels=jnp.asarray(y), logit_lengths=jnp.asarray(lengths), label_lengths=jnp.asarray(counts)
        )

    losses, gradient = with_gradient(jax.jit(ours), jnp.asarray(x))
    same(losses, theirs.detach().numpy())
    same(gradient, logits.grad.numpy(), span=frames)
    mean = torch.nn.functional.ctc_loss(log_p, *given, reduction="mean")
    weights = 1 / (len(counts) * np.maximum(counts, 1)).astype(np.float32)  # as the docstring of ctc_loss has it
    same(jaxloss.reduce(losses, weights=weights, reduction="sum"), mean.item())


def test_where_optax_and_torch_are_wrong_ctc_is_right():
    """Impossible alignments, legal ones of a blank at -3e5, a logit of -inf of a class that no one needs."""
    optax = pytest.importorskip("optax")
    x, y = jnp.array([[[1.0, 2.0, 3.0]]]), jnp.array([[1, 2]])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = jax.grad(lambda x: optax.ctc_loss(x, jnp.zeros((1, 1)), y, jnp.zeros((1, 2))).sum())(x)
        assert theirs.any()
        unused = jnp.array([[[1.0, 2.0, -jnp.inf]] * 2])
        assert np.isnan(optax.ctc_loss(unused, jnp.zeros((1, 2)), y[:, :1], jnp.zeros((1, 1)))).all()
    loss, gradient = jax.value_and_grad(lambda x: jaxloss.ctc_loss(x, labels=y).sum())(x)
    assert loss == jnp.inf
    assert not gradient.any()
    same(jaxloss.ctc_loss(unused, labels=y[:, :1]), jaxloss.ctc_loss(unused[..., :2], labels=y[:, :1]))
