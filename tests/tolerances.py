"""The tolerances of comparisons with the textbook and with other forms of a computation.

An error is allowed of a few eps times what the formula itself is exposed to: the sum of the absolute values of its
terms, times one for each e-fold that an exponential of it spans (the argument of an exponential is rounded, and a
relative error of eps there is one of eps times the argument in the result), plus the smallest normal number, below
which XLA flushes to zero.
"""

import jax.numpy as jnp
import numpy as np

FEW = 4


def close(ours, truth, terms, *, span=0.0, dtype=np.float32, of="") -> None:
    """That ours is the truth within the bound; `terms` is the sum of the absolute terms of the formula."""
    ours, truth, terms = (np.asarray(a, np.float64) for a in (ours, truth, terms))
    infinite = ~np.isfinite(truth)
    np.testing.assert_array_equal(ours[infinite], truth[infinite])
    finfo = jnp.finfo(dtype)
    span = np.minimum(span, -np.log(float(finfo.smallest_subnormal)))  # beyond, the exponential is zero
    bound = np.broadcast_to(FEW * float(finfo.eps) * (1 + span) * terms + FEW * float(finfo.tiny), truth.shape)
    error = np.abs(np.where(infinite, 0, ours) - np.where(infinite, 0, truth))
    if not error.size:
        return
    worst = np.unravel_index(np.argmax(error / bound), truth.shape)
    assert (error <= bound).all(), f"{of} at {worst}: {ours[worst]}, expected {truth[worst]} within {bound[worst]}"


def same(ours, theirs, *, span=0.0, dtype=np.float32, of="") -> None:
    """Two orders of the same computation."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
    close(np.nan_to_num(ours), np.nan_to_num(theirs), size, span=span, dtype=dtype, of=of)


def no_worse(ours, theirs, truth, *, dtype) -> None:
    """The largest error is that of another form in the same dtype, or one rounding of the result."""
    ours, theirs, truth = (np.asarray(a, np.float64) for a in (ours, theirs, truth))
    size = np.abs(truth).max(initial=0.0)
    assert np.abs(ours - truth).max() <= np.abs(theirs - truth).max() + float(jnp.finfo(dtype).eps) * size


def as_exact_in_each_row(ours, theirs, truth, *, dtype=np.float32) -> None:
    """The largest error, relative to what is largest in its row, is twice that of another form, or a few roundings."""
    ours, theirs, truth = (np.asarray(a, np.float64) for a in (ours, theirs, truth))
    size = np.abs(truth).max(-1, keepdims=True) + float(jnp.finfo(dtype).tiny)
    worst, of_theirs = (np.abs((a - truth) / size).max() for a in (ours, theirs))
    assert worst <= 2 * of_theirs + FEW * float(jnp.finfo(dtype).eps)


def posteriors_of_many_frames(ours, truth) -> None:
    """Of several hundred frames, each of which multiplies posteriors by rounded shares: peers are at 1e-3."""
    assert np.abs(np.asarray(ours, np.float64) - truth).max() < 3e-5


def like_keras(ours, theirs) -> None:
    """Keras adds 1e-7 to logarithms and clips by it: no more than that is asked of it, for inputs of order 1."""
    np.testing.assert_allclose(ours, theirs, rtol=5e-6, atol=5e-6)


def as_printed(ours, printed) -> None:
    """Tutorials print seven or eight digits."""
    np.testing.assert_allclose(ours, printed, rtol=5e-7)
