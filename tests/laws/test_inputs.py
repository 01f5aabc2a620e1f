"""Bad input gets one sentence: function, argument, what was expected, what came."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, every_case
from tolerances import same

import jaxloss
from jaxloss._core import classes

X = jnp.zeros((6, 3))
Y = jnp.zeros(6, np.int32)
T = jnp.zeros((6, 3))
W = jnp.zeros((3, 7))
INTEGER = jaxloss.softmax_cross_entropy_with_integer_labels
INDEXED = jaxloss.softmax_cross_entropy_with_indexed_labels
TOP_K = jaxloss.softmax_kl_divergence_with_top_k_targets
LINEAR = jaxloss.linear_cross_entropy
CTC, FRAMES, LABELS = jaxloss.ctc_loss, jnp.zeros((2, 6, 3)), jnp.ones((2, 4), np.int32)

BAD = [
    (INTEGER, ([[1.0, 2.0]], Y), {}, TypeError, "expected `logits` to be an array, got list."),
    (INTEGER, ("logits", Y), {}, TypeError, "expected `logits` to be an array, got str."),
    (INTEGER, (None, Y), {}, TypeError, "expected `logits` to be an array, got NoneType."),
    (INTEGER, (X.astype(np.int32), Y), {}, TypeError, "expected `logits` of a floating dtype, got int32."),
    (INTEGER, (X.astype(np.complex64), Y), {}, TypeError, "expected `logits` of a real dtype, got complex64."),
    (INTEGER, (X, Y.astype(np.float32)), {}, TypeError, "expected `labels` of an integer dtype, got float32."),
    (INTEGER, (X, Y != 0), {}, TypeError, "expected `labels` of an integer dtype, got bool."),
    (INTEGER, (X, Y[:, None]), {}, ValueError, "expected `labels` of shape (6,), got (6, 1)."),
    (INTEGER, (X, Y[:1]), {}, ValueError, "expected `labels` of shape (6,), got (1,)."),
    (INTEGER, (X[:, :0], Y), {}, ValueError, "expected at least one class along `axis` -1, got an array of shape (6, 0)."),
    (INTEGER, (jnp.float32(1), jnp.int32(0)), {}, ValueError, "expected `axis` to name distinct axes of an array of rank 0, got -1."),
    (INTEGER, (X, Y), {"axis": 2}, ValueError, "expected `axis` to name distinct axes of an array of rank 2, got 2."),
    (INTEGER, (X, Y), {"axis": (1, -1)}, ValueError, "expected `axis` to name distinct axes of an array of rank 2, got (1, -1)."),
    (INTEGER, (X, Y), {"axis": 1.0}, TypeError, "expected `axis` to be an int, a tuple of ints or None, got 1.0."),
    (INTEGER, (X, Y), {"where": jnp.ones(6)}, TypeError, "expected `where` of dtype bool, got float32; pass `where != 0`, or numbers as `weights`."),
    (INTEGER, (X, Y), {"where": jnp.ones(3, bool)}, ValueError, "expected `where` of a shape that broadcasts to (6,), got (3,)."),
    (INTEGER, (X, Y), {"where": jnp.ones((6, 2), bool)}, ValueError, "expected `where` of a shape that broadcasts to (6, 3), got (6, 2)."),
    (INTEGER, (X, Y), {"where": jnp.ones((1, 6, 3), bool)}, ValueError, "expected `where` of a shape that broadcasts to (6, 3), got (1, 6, 3)."),
    (INTEGER, (X, Y), {"weights": jnp.ones((6, 1))}, ValueError, "expected `weights` of a shape that broadcasts to (6,), got (6, 1)."),
    (INTEGER, (X, Y), {"weights": [1.0] * 6}, TypeError, "expected `weights` to be an array, got list."),
    (INTEGER, (X, Y), {"class_weights": jnp.ones(2)}, ValueError, "expected `class_weights` of shape (3,), got (2,)."),
    (INTEGER, (X, Y), {"label_smoothing": jnp.ones(3)}, ValueError, "expected `label_smoothing` of a shape that broadcasts to (6,), got (3,)."),
    (INTEGER, (X, Y), {"z_loss": 1j}, TypeError, "expected `z_loss` to be an array, got complex."),
    (INTEGER, (X, Y), {"reduction": "avg"}, ValueError, "expected `reduction` to be one of ('none', 'sum', 'mean'), got 'avg'."),
    (INTEGER, (X, Y), {"reduction": None}, ValueError, "expected `reduction` to be one of ('none', 'sum', 'mean'), got None."),
    (jaxloss.softmax_cross_entropy, (X, T[:, :1]), {}, ValueError, "expected `labels` of shape (6, 3), got (6, 1)."),
    (jaxloss.softmax_cross_entropy, (X, Y), {}, ValueError, "expected `labels` of shape (6, 3), got (6,); for class indices, use `softmax_cross_entropy_with_integer_labels`."),
    (jaxloss.softmax_cross_entropy, (X[0], Y[0]), {}, ValueError, "expected `labels` of shape (3,), got (); for class indices, use `softmax_cross_entropy_with_integer_labels`."),
    (jaxloss.dice_loss, (X[None], Y[None]), {}, ValueError, "expected `targets` of shape (1, 6, 3), got (1, 6); for class indices, apply `jax.nn.one_hot`."),
    (LINEAR, (X[None], W, Y), {}, ValueError, "expected `labels` of shape (1, 6), got (6,)."),
    (jaxloss.rnnt_loss, (FRAMES[:, :, None],), {"labels": LABELS, "blank_id": 0}, ValueError, "expected `labels` of shape (2, 0), got (2, 4); n + 1 is 1 in logits of shape (2, 6, 1, 3)."),
    (jaxloss.softmax_cross_entropy, (X, T.astype(np.complex64)), {}, TypeError, "expected `labels` of a real dtype, got complex64."),
    (jaxloss.softmax_cross_entropy, (X, T), {"class_weights": jnp.ones((6, 3))}, ValueError, "expected `class_weights` of shape (3,), got (6, 3)."),
    (jaxloss.sigmoid_binary_cross_entropy, (jnp.zeros(3), jnp.zeros((3, 1))), {}, ValueError, "expected `labels` of shape (3,), got (3, 1)."),
    (jaxloss.sigmoid_binary_cross_entropy, (Y, Y), {}, TypeError, "expected `logits` of a floating dtype, got int32."),
    (jaxloss.sigmoid_binary_cross_entropy, (X, T), {"pos_weight": jnp.ones(2)}, ValueError, "expected `pos_weight` of a shape that broadcasts to (6, 3), got (2,)."),
    (jaxloss.sigmoid_binary_cross_entropy, (X, T), {"reduction": "avg"}, ValueError, "expected `reduction` to be one of ('none', 'sum', 'mean'), got 'avg'."),
    (jaxloss.squared_error, (jnp.zeros(3), jnp.zeros((3, 1))), {}, ValueError, "expected `targets` of shape (3,), got (3, 1)."),
    (jaxloss.squared_error, (Y,), {}, TypeError, "expected `predictions` of a floating dtype, got int32."),
    (jaxloss.huber_loss, (X, T), {"delta": jnp.ones(2)}, ValueError, "expected `delta` of a shape that broadcasts to (6, 3), got (2,)."),
    (jaxloss.quantile_loss, (X, T), {"quantile": "median"}, TypeError, "expected `quantile` to be an array, got str."),
    (jaxloss.hinge_loss, (X, T != 0), {}, TypeError, "expected `targets` of a signed dtype, for -1 and 1, got bool."),
    (jaxloss.perceptron_loss, (X, T.astype(np.uint8)), {}, TypeError, "expected `targets` of a signed dtype, for -1 and 1, got uint8."),
    (jaxloss.weston_watkins_hinge_loss, (X, Y), {"power": 3}, ValueError, "expected `power` to be 1 or 2, got 3."),
    (jaxloss.kl_divergence, (X, T), {"axis": 2}, ValueError, "expected `axis` to name distinct axes of an array of rank 2, got 2."),
    (jaxloss.kl_divergence, (X[:, :0], T[:, :0]), {}, ValueError, "expected at least one class along `axis` -1, got an array of shape (6, 0)."),
    (jaxloss.cosine_distance, (X, T), {"where": jnp.ones((6, 2), bool)}, ValueError, "expected `where` of a shape that broadcasts to (6, 3), got (6, 2)."),
    (jaxloss.smooth_labels, (Y, 0.1), {}, TypeError, "expected `labels` of a floating dtype, got int32."),
    (jaxloss.smooth_labels, (T, jnp.ones(3)), {}, ValueError, "expected `alpha` of a shape that broadcasts to (6,), got (3,)."),
    (jaxloss.smooth_labels, (T, 0.1), {"where": T}, TypeError, "expected `where` of dtype bool, got float32; pass `where != 0`, or numbers as `weights`."),
    (jaxloss.reduce, (X,), {"reduction": "max"}, ValueError, "expected `reduction` to be one of ('none', 'sum', 'mean'), got 'max'."),
    (jaxloss.reduce, (X,), {"reduction": "none", "axis": 0}, ValueError, 'expected `axis` with `reduction` "sum" or "mean", got "none".'),
    (jaxloss.reduce, (X,), {"reduction": "none", "segment_ids": Y[:, None]}, ValueError, 'expected `segment_ids` with `reduction` "sum" or "mean", got "none".'),
    (jaxloss.reduce, (2.5,), {"segment_ids": 0}, ValueError, "expected `losses` with an axis for `segment_ids`, got a number."),
    (jaxloss.reduce, (X,), {"num_segments": 3}, ValueError, "expected `num_segments` with `segment_ids`, got it alone."),
    (jaxloss.reduce, (X,), {"segment_ids": X}, TypeError, "expected `segment_ids` of an integer dtype, got float32."),
    (jaxloss.sum_and_weight, (X,), {"axis": 2}, ValueError, "expected `axis` to name distinct axes of an array of rank 2, got 2."),
    (jaxloss.reduce, (X,), {"reduction": "none", "axis_name": "i"}, ValueError, 'expected `axis_name` with `reduction` "sum" or "mean", got "none".'),
    (jaxloss.reduce, (X,), {"where": jnp.ones(6, bool)}, ValueError, "expected `where` of a shape that broadcasts to (6, 3), got (6,); to align it with the first axes, pass `where[..., None]`."),
    (LINEAR, (X, jnp.zeros((4, 7)), Y), {}, ValueError, "expected `weight` of shape (3, classes), or (classes, 3) with `class_axis=0`, as `hidden` has 3 features, got (4, 7) with `class_axis=-1`."),
    (LINEAR, (X, jnp.zeros((7, 4)), Y), {"class_axis": 0}, ValueError, "expected `weight` of shape (3, classes), or (classes, 3) with `class_axis=0`, as `hidden` has 3 features, got (7, 4) with `class_axis=0`."),
    (LINEAR, (jnp.float32(1), W, Y), {}, ValueError, "expected `hidden` of shape (..., features), got ()."),
    (LINEAR, (X, W, Y), {"class_axis_name": "model"}, ValueError, "expected `class_axis_name` to be the name of an axis of a shard_map or vmap around the call, got 'model'."),
    (LINEAR, (X, W, Y), {"axis_name": "data", "reduction": "sum"}, ValueError, "expected `axis_name` to be the name of an axis of a shard_map or vmap around the call, got 'data'."),
    (LINEAR, (X, W[None], Y), {}, ValueError, "expected `weight` of shape (features, classes), got (1, 3, 7)."),
    (LINEAR, (X, W[:, :0], Y), {}, ValueError, "expected `weight` of shape (features, classes), got (3, 0)."),
    (LINEAR, (X, W, Y), {"class_axis": 2}, ValueError, "expected `class_axis` to be -1 or 0, got 2."),
    (LINEAR, (X.astype(np.int32), W, Y), {}, TypeError, "expected `hidden` of a floating dtype, got int32."),
    (LINEAR, (X, W, Y[:5]), {}, ValueError, "expected `labels` of shape (6,), got (5,)."),
    (LINEAR, (X, W, Y.astype(np.float32)), {}, TypeError, "expected `labels` of an integer dtype, got float32."),
    (LINEAR, (X, W, Y), {"bias": jnp.zeros(6)}, ValueError, "expected `bias` of shape (7,), got (6,)."),
    (LINEAR, (X, W, Y), {"class_weights": jnp.zeros(6)}, ValueError, "expected `class_weights` of shape (7,), got (6,)."),
    (LINEAR, (X, W, Y), {"where": Y}, TypeError, "expected `where` of dtype bool, got int32; pass `where != 0`, or numbers as `weights`."),
    (LINEAR, (X, W, Y), {"weights": jnp.ones((6, 1))}, ValueError, "expected `weights` of a shape that broadcasts to (6,), got (6, 1)."),
    (LINEAR, (X, W, Y), {"chunk_size": 0}, ValueError, "expected `chunk_size` to be a positive integer, got 0."),
    (LINEAR, (X, W, Y), {"accumulation_dtype": "int32"}, TypeError, "expected `accumulation_dtype` to be a floating dtype, got 'int32'."),
    (LINEAR, (X, W, Y), {"accumulation_dtype": "half-ish"}, TypeError, "expected `accumulation_dtype` to be a floating dtype, got 'half-ish'."),
    (LINEAR, (X, W, Y), {"chunk_size": 2.0}, ValueError, "expected `chunk_size` to be a positive integer, got 2.0."),
    (LINEAR, (X, W, Y), {"reduction": "avg"}, ValueError, "expected `reduction` to be one of ('none', 'sum', 'mean'), got 'avg'."),
    (LINEAR, (X, W, Y), {"axis_name": "data"}, ValueError, 'expected `axis_name` with `reduction` "sum" or "mean", got "none".'),
    (jaxloss.linear_sigmoid_cross_entropy, (X, W, Y), {}, ValueError, "expected `labels` of shape (6, 1), got (6,); the positive classes of each example, padded with -1."),
    (jaxloss.linear_sigmoid_cross_entropy, (X, W, X), {}, TypeError, "expected `labels` of an integer dtype, got float32."),
    (jaxloss.log_probs, (X, X), {}, TypeError, "expected `labels` of an integer dtype, got float32; for probabilities, apply `jnp.argmax`."),
    (jaxloss.log_probs, (X, Y[:3]), {}, ValueError, "expected `labels` of shape (6,), got (3,); if axis 0 of `logits` is the class axis, pass `axis=0`."),
    (jaxloss.ppo_clip_loss, (X, X, Y), {}, ValueError, "expected `advantages` of rank 2, as `log_probs`, got shape (6,); to align it with the first axes, pass `advantages[:, None]`."),
    (jaxloss.ppo_clip_loss, (X, X, jnp.zeros((5, 1))), {}, ValueError, "expected `advantages` of a shape that broadcasts to (6, 3), got (5, 1)."),
    (jaxloss.ppo_clip_loss, (X, X[:5], 1.0), {}, ValueError, "expected `old_log_probs` of shape (6, 3), got (5, 3)."),
    (jaxloss.ppo_clip_loss, (X, X, None), {}, TypeError, "expected `advantages` to be an array, got NoneType."),
    (jaxloss.ppo_clip_loss, (X, X, 1.0), {"clip_low": 1.5}, ValueError, "expected `clip_low` to be in [0, 1], got 1.5."),
    (jaxloss.policy_gradient_loss, (X, [1.0]), {}, TypeError, "expected `advantages` to be an array, got list."),
    (jaxloss.kl_estimate, (X, X), {"estimator": "k4"}, ValueError, "expected `estimator` to be one of ('k1', 'k2', 'k3', 'k1+', 'k3+'), got 'k4'."),
    (jaxloss.kl_estimate, (X, X, X[0]), {}, ValueError, "expected `old_log_probs` of shape (6, 3), got (3,)."),
    (jaxloss.dpo_loss, (X, X), {"loss_type": "hinge", "flip_probability": 0.1}, ValueError, "expected `flip_probability` with `loss_type` in ('sigmoid', 'robust', 'exo_pair'), got 'hinge'."),
    (jaxloss.dpo_loss, (X, X), {"loss_type": ["sigmoid"]}, ValueError, "expected `loss_type` to be one of ('sigmoid', 'robust', 'exo_pair', 'hinge', 'ipo', 'discopop', 'nca_pair', 'bco_pair', 'sppo_hard', 'apo_zero', 'apo_down'), got ['sigmoid']."),
    (jaxloss.dpo_loss, (X, X), {"flip_probability": 0.5}, ValueError, "expected `flip_probability` to be in [0, 1/2), got 0.5."),
    (jaxloss.dpo_loss, (X, X), {"loss_type": "exo_pair"}, ValueError, 'expected `flip_probability` above 0 with `loss_type` "exo_pair", got 0.'),
    (jaxloss.clip_loss, (X, X), {"logit_scale": 1.0, "normalize": "no"}, TypeError, "expected `normalize` to be True or False, got 'no'."),
    (jaxloss.load_balancing_loss, (X[0], Y[:1]), {}, ValueError, "expected `logits` of shape (..., tokens, experts), got (3,)."),
    (jaxloss.ntxent, (X, Y), {"chunk_size": 0}, ValueError, "expected `chunk_size` to be a positive integer, got 0."),
    (jaxloss.dpo_loss, (X, X), {"beta": 0.0}, ValueError, "expected `beta` to be positive, got 0.0."),
    (jaxloss.kto_loss, (X, Y), {}, ValueError, "expected `labels` of shape (6, 3), got (6,)."),
    (jaxloss.load_balancing_loss, (X, Y), {}, ValueError, "expected `experts` of shape (6, k), got (6,)."),
    (jaxloss.load_balancing_loss, (X, X), {}, TypeError, "expected `experts` of an integer dtype, got float32."),
    (jaxloss.load_balancing_loss, (X, Y[:, None]), {"token_axis": 1}, ValueError, "expected `token_axis` to name distinct axes of an array of rank 1, got 1."),
    (jaxloss.load_balancing_loss, (X, Y[:, None]), {"axis_name": "i"}, ValueError, "expected `axis_name` to be the name of an axis of a shard_map or vmap around the call, got 'i'."),
    (jaxloss.load_balancing_loss, (X, Y[:, None]), {"where": T != 0}, ValueError, "expected `where` of a shape that broadcasts to (6,), got (6, 3)."),
    (jaxloss.barlow_twins_loss, (X[0], X[0]), {}, ValueError, "expected `first` of shape (batch, features), got (3,)."),
    (jaxloss.barlow_twins_loss, (X[:, :0], X[:, :0]), {}, ValueError, "expected `first` of shape (batch, features), got (6, 0)."),
    (jaxloss.barlow_twins_loss, (X, X[:5]), {}, ValueError, "expected `second` of shape (6, 3), got (5, 3)."),
    (jaxloss.barlow_twins_loss, (X, X.astype(np.int32)), {}, TypeError, "expected `second` of a floating dtype, got int32."),
    (jaxloss.barlow_twins_loss, (X, X), {"epsilon": -1e-5}, ValueError, "expected `epsilon` to be at least 0, got -1e-05."),
    (jaxloss.barlow_twins_loss, (X, X), {"off_diagonal_weight": X}, ValueError, "expected `off_diagonal_weight` of a shape that broadcasts to (), got (6, 3)."),
    (jaxloss.vicreg_loss, (X, X), {"variance_weight": -1}, ValueError, "expected `variance_weight` to be at least 0, got -1."),
    (jaxloss.vicreg_loss, (X, X), {"where": X != 0}, ValueError, "expected `where` of a shape that broadcasts to (6,), got (6, 3)."),
    (jaxloss.vicreg_loss, (X, X), {"where": X[:, 0]}, TypeError, "expected `where` of dtype bool, got float32; pass `where != 0`, or numbers as `weights`."),
    (jaxloss.vicreg_loss, (X, X), {"axis_name": "i"}, ValueError, "expected `axis_name` to be the name of an axis of a shard_map or vmap around the call, got 'i'."),
    (jaxloss.plackett_luce_loss, (X, Y), {}, ValueError, "expected `labels` of shape (6, 3), got (6,); for class indices, apply `jax.nn.one_hot`."),
    (jaxloss.linear_log_probs, (X, W, Y), {"bias": jnp.zeros(6)}, ValueError, "expected `bias` of shape (7,), got (6,)."),
    (jaxloss.linear_kl_divergence, (X, W, X[:5], W), {}, ValueError, "expected `teacher_hidden` of shape (6, 3), got (5, 3)."),
    (jaxloss.linear_kl_divergence, (X, W, X, W[:, :6]), {}, ValueError, "expected `teacher_weight` of shape (3, 7), got (3, 6); student and teacher share a vocabulary: classes of another tokenizer are other tokens."),
    (INDEXED, (X, Y), {}, ValueError, "expected `indices` of shape (6, 1), got (6,); the classes that are named, padded with -1."),
    (INDEXED, (X, X), {}, TypeError, "expected `indices` of an integer dtype, got float32."),
    (INDEXED, (X, Y[:, None], T), {}, ValueError, "expected `labels` of shape (6, 1), got (6, 3); a number for each of `indices`."),
    (INDEXED, (X, Y[:, None]), {"axis": (0, 1)}, ValueError, "expected `axis` to name one axis, got (0, 1)."),
    (TOP_K, (X, Y[:, None], X[:, :1]), {"rest": "tail"}, ValueError, "expected `rest` to be one of ('bucket', 'renormalize', 'drop'), got 'tail'."),
    (TOP_K, (X, Y[:, None], Y[:, None]), {}, TypeError, "expected `log_probs` of a floating dtype, got int32."),
    (jaxloss.linear_cross_entropy_with_soft_labels, (X, W, Y), {}, ValueError, "expected `labels` of shape (6, 7), got (6,); for class indices, use `linear_cross_entropy`."),
    (jaxloss.sampled_softmax_loss, (X, W, Y, Y), {}, ValueError, "expected `labels` of shape (6, 1), got (6,); the classes of each example, padded with -1."),
    (jaxloss.nce_loss, (X, W, Y[:, None], Y[:, None]), {}, ValueError, "expected `sampled` of shape (6,), got (6, 1); the same classes for all examples."),
    (jaxloss.nce_loss, (X, W, Y[:, None], Y), {"remove_accidental_hits": 2}, TypeError, "expected `remove_accidental_hits` to be True or False, got 2."),
    (jaxloss.linear_kl_divergence, (X, W, X, W), {"hard_weight": 0.5}, ValueError, "expected `labels` beside `hard_weight`; without them use `weights`."),
    (jaxloss.linear_kl_divergence, (X, W, X, W), {"teacher_class_axis": 0}, ValueError, "expected `teacher_weight` of shape (3, classes), or (classes, 3) with `teacher_class_axis=0`, as `teacher_hidden` has 3 features, got (3, 7) with `teacher_class_axis=0`."),
    (CTC, (FRAMES,), {}, TypeError, "expected `labels` to be an array, got None; pass `labels=`."),
    (CTC, (FRAMES, None, LABELS.astype(np.float32)), {}, TypeError, "expected `labels` of an integer dtype, got float32."),
    (CTC, (FRAMES, None, LABELS[0]), {}, ValueError, "expected `labels` of shape (2, n), got (4,)."),
    (CTC, (jnp.zeros(3), None, LABELS[0]), {}, ValueError, "expected `logits` of shape (..., frames, classes), got (3,)."),
    (CTC, (FRAMES.astype(np.int32), None, LABELS), {}, TypeError, "expected `logits` of a floating dtype, got int32."),
    (CTC, (FRAMES, jnp.zeros((2, 5)), LABELS), {}, ValueError, "expected `logit_paddings` of shape (2, 6), got (2, 5)."),
    (CTC, (FRAMES, None, LABELS, jnp.zeros(4)), {}, ValueError, "expected `label_paddings` of shape (2, 4), got (4,)."),
    (CTC, (FRAMES, jnp.zeros((2, 6)), LABELS), {"logit_lengths": jnp.array([6, 6])}, ValueError, "expected `logit_paddings` or `logit_lengths`, got both."),
    (CTC, (FRAMES, None, LABELS), {"label_lengths": jnp.ones(2)}, TypeError, "expected `label_lengths` of an integer dtype, got float32."),
    (CTC, (FRAMES, None, LABELS), {"label_lengths": jnp.ones((2, 1), np.int32)}, ValueError, "expected `label_lengths` of shape (2,), got (2, 1)."),
    (CTC, (FRAMES, None, LABELS), {"blank_id": 3}, ValueError, "expected `blank_id` to be an integer in [-3, 3), got 3."),
    (CTC, (FRAMES, None, LABELS), {"where": jnp.ones((2, 6), bool)}, ValueError, "expected `where` of a shape that broadcasts to (2,), got (2, 6)."),
    (CTC, (FRAMES, None, LABELS), {"reduction": "avg"}, ValueError, "expected `reduction` to be one of ('none', 'sum', 'mean'), got 'avg'."),
]  # fmt: skip


@pytest.mark.parametrize(("function", "args", "kwargs", "error", "sentence"), BAD)
def test_bad_input_gets_one_sentence(function, args, kwargs, error, sentence):
    with pytest.raises(error, match=re.escape(f"{function.__name__}: {sentence}") + r"(\n|$)"):
        jax.eval_shape(lambda: function(*args, **kwargs))


@every_case
def test_every_loss_says_what_it_expected(case, rng):
    x, t = case.draw(rng, 6)
    shape = jax.eval_shape(case, x, t).shape
    first, second = list(inspect.signature(case.loss).parameters)[:2]
    for args, kwargs, error, sentence in [
        ((x, t[:5]), {}, ValueError, f"expected `{second}` of shape {t.shape}, got {t[:5].shape}."),
        ((x.tolist(), t), {}, TypeError, f"expected `{first}` to be an array, got list."),
        (
            (x, t),
            {"where": jnp.ones(shape)},
            TypeError,
            "expected `where` of dtype bool, got float32; pass `where != 0`, or numbers as `weights`.",
        ),
        ((x, t), {"weights": jnp.ones((2, *shape))}, ValueError, "expected `weights` of a shape that broadcasts to"),
        ((x, t), {"reduction": "avg"}, ValueError, "expected `reduction` to be one of"),
        *(
            ((x, t), {name: jnp.ones((7, *shape))}, ValueError, f"expected `{name}` of a shape that broadcasts to")
            for name in case.options
        ),
    ]:
        with pytest.raises(error, match="^" + re.escape(f"{case.name.removeprefix('safe_')}: {sentence}")):
            jax.eval_shape(lambda args=args, kwargs=kwargs: case(*args, **kwargs))


def test_python_and_numpy_scalars_are_numbers():
    assert jaxloss.sigmoid_binary_cross_entropy(0.5, 1.0).shape == ()
    assert jaxloss.sigmoid_binary_cross_entropy(np.float32(0.5), 1).dtype == np.float32
    losses = INTEGER(X, Y, label_smoothing=np.float64(0.1), z_loss=np.float32(0.1), logit_scale=2, soft_cap=np.int64(3))
    assert losses.dtype == np.float32


@pytest.mark.parametrize(
    ("loss", "arrays", "number", "shape"),
    [
        (LINEAR, (X, W), 1, (6,)),
        (jaxloss.cosine_embedding_loss, (X, X + 1), -1, (6,)),
        (jaxloss.ranking_softmax_loss, (X,), 0.7, (6, 3)),
        (jaxloss.dice_loss, (X[None],), 0.7, (1, 6, 3)),
        (jaxloss.binary_dice_loss, (X,), 1, (6, 3)),
        (jaxloss.squared_error, (X.astype(jnp.bfloat16),), 0.7, (6, 3)),
    ],
)
def test_a_number_as_target_stands_for_all(loss, arrays, number, shape):
    np.testing.assert_array_equal(loss(*arrays, number), loss(*arrays, jnp.full(shape, jnp.asarray(number).item())))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int32])
def test_labels_of_any_integer_dtype(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 200)), np.float32)
    y = np.array([0, 127, 5, 100])
    np.testing.assert_array_equal(INTEGER(x, jnp.asarray(y, dtype)), INTEGER(x, jnp.asarray(y, np.int32)))
    np.testing.assert_array_equal(INTEGER(np.asarray(x), y.astype(dtype)), INTEGER(x, jnp.asarray(y, np.int32)))


WIDE = np.array([2**32 + 1, 1, -(2**32), np.iinfo(np.int64).min, 2**40], np.int64)  # whose low 32 bits are classes


@pytest.mark.parametrize("case", [c for c in CASES if c.targets == "index"], ids=lambda c: c.id)
def test_labels_beyond_32_bits_are_no_classes(case, rng):
    x, _ = case.draw(rng, 5)
    for labels in (WIDE, WIDE.astype(np.uint64)):
        losses, pull = jax.vjp(lambda x, labels=labels: case(x, labels), x)
        np.testing.assert_array_equal(np.isnan(losses), WIDE != 1)
        np.testing.assert_array_equal(np.isnan(pull(jnp.ones(5))[0]).all(-1), WIDE != 1)
        np.testing.assert_array_equal(np.isnan(jax.jit(lambda x, labels=labels: case(x, labels))(x)), WIDE != 1)
    assert np.isnan(case(x[0], 2**40))


def test_ids_and_lengths_beyond_32_bits(rng):
    x = jnp.asarray(rng.normal(size=(4, 3)), np.float32)
    ids = np.array([5, 5 + 2**32, 5 + 2**33, 5])
    for loss in (jaxloss.ntxent, jaxloss.circle_loss):
        same(loss(x, ids), loss(x, np.array([0, 1, 2, 0])))
    ours = jaxloss.circle_loss(x, ids, reference_embeddings=x[::-1], reference_labels=ids + 2**32)
    small = np.array([0, 1, 2, 0])
    expected = jaxloss.circle_loss(x, small, reference_embeddings=x[::-1], reference_labels=np.array([1, 2, 3, 1]))
    same(ours, expected)
    for lengths in (np.array([6, 6 + 2**32]), np.array([6, -(2**32)])):
        np.testing.assert_array_equal(np.isnan(CTC(FRAMES, labels=LABELS, logit_lengths=lengths)), [False, True])
    np.testing.assert_array_equal(jaxloss.squared_error(jnp.zeros(2), np.array([2**40, 1])), [2.0**80, 1])


@pytest.mark.parametrize("dtype", [np.bool_, np.int32])
def test_one_hot_labels_of_any_dtype(dtype):
    hot = np.eye(3)[[0, 2, 1, 1, 0, 2]]
    expected = jax.value_and_grad(lambda x: jaxloss.softmax_cross_entropy(x, jnp.asarray(hot, np.float32)).sum())(X)
    ours = jax.value_and_grad(lambda x: jaxloss.softmax_cross_entropy(x, jnp.asarray(hot, dtype)).sum())(X)
    np.testing.assert_array_equal(ours[1], expected[1])
    binary = jaxloss.sigmoid_binary_cross_entropy(X, jnp.asarray(hot, dtype))
    np.testing.assert_array_equal(binary, jaxloss.sigmoid_binary_cross_entropy(X, jnp.asarray(hot, np.float32)))


def test_infinite_logits():
    inf = jnp.inf
    for x, y, loss, gradient in [
        ([1.0, 2.0, -inf], 1, 0.31326166, [0.26894143, -0.26894143, 0.0]),
        ([1.0, 2.0, -inf], 2, inf, [0.26894143, 0.7310586, 0.0]),
        ([inf, 0.0, 1.0], 0, 0.0, [0.0, 0.0, 0.0]),
        ([inf, 0.0, 1.0], 1, inf, [1.0, -1.0, 0.0]),
        ([-inf, -inf, -inf], 1, inf, [0.0, 0.0, 0.0]),
    ]:
        x = jnp.array(x)
        for f, labels in ((INTEGER, jnp.int32(y)), (jaxloss.softmax_cross_entropy, jax.nn.one_hot(y, 3))):
            value, slope = jax.value_and_grad(f)(x, labels)
            np.testing.assert_allclose(value, loss, rtol=1e-6)
            np.testing.assert_allclose(slope, gradient, rtol=1e-6)
            assert not np.isnan(jax.jvp(lambda x, f=f, labels=labels: f(x, labels), (x,), (jnp.ones(3),))[1])
    for x, t, loss, slope in [(inf, 1.0, 0, 0), (inf, 0.0, inf, 1), (-inf, 0.0, 0, 0), (-inf, 1.0, inf, -1)]:
        assert jax.value_and_grad(jaxloss.sigmoid_binary_cross_entropy)(x, t) == (loss, slope)


def test_no_option_brings_back_what_is_excluded():
    x, inf, nan = jnp.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]]), jnp.inf, jnp.nan
    y, hot, first = jnp.array([0, 2]), jnp.eye(3)[jnp.array([0, 2])], jnp.array([True, False])
    for f, t in ((INTEGER, y), (jaxloss.softmax_cross_entropy, hot)):
        empty = x.at[1].set(-inf)
        np.testing.assert_array_equal(jax.grad(lambda x, f=f, t=t: f(x, t, z_loss=0.1).sum())(empty)[1], 0)
        for option in ("z_loss", "label_smoothing", "soft_cap", "logit_scale"):

            def total(x, value, f=f, t=t, option=option, **masks):
                return f(x, t, **masks, **{option: value}, reduction="sum")

            for masks in ({"where": first}, {"where": first[:, None]}, {"weights": first.astype(np.float32)}):
                ours = jax.grad(total, (0, 1))(x, 0.3, **masks)
                alone = jax.grad(lambda x, v, f=f, t=t, o=option: f(x, t[0], **{o: v}), (0, 1))(x[0], 0.3)
                np.testing.assert_allclose(ours[0], [alone[0], [0, 0, 0]], rtol=1e-6)
                np.testing.assert_allclose(ours[1], alone[1], rtol=1e-5)
            gradient = jax.grad(total)(x, jnp.array([0.3, nan]), where=first)
            np.testing.assert_array_equal(gradient[1], 0)
    removed = jnp.array([[True, True, True], [True, True, False]])
    by_smoothing = jax.grad(
        lambda a: INTEGER(x, y, where=removed, weights=jnp.array([1.0, 0.0]), label_smoothing=a, reduction="sum")
    )(0.1)
    np.testing.assert_allclose(by_smoothing, 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(INTEGER)(jnp.array([inf, 1.0]), jnp.int32(0), z_loss=jnp.float32(0)), 0)
    np.testing.assert_allclose(
        INTEGER(
            jnp.array([1.0, 2.0, 0.0]).astype(jnp.float8_e4m3fn), jnp.int32(0), where=jnp.array([True, True, False])
        ),
        1.3132617,
        rtol=1e-6,
    )


def test_smoothing_gives_mass_to_impossible_classes():
    x = jnp.array([1.0, 2.0, -jnp.inf])
    assert INTEGER(x, jnp.int32(1), label_smoothing=0.1) == jnp.inf
    kept = INTEGER(x, jnp.int32(1), label_smoothing=0.1, where=jnp.isfinite(x))
    np.testing.assert_allclose(kept, INTEGER(x[:2], jnp.int32(1), label_smoothing=0.1))


def test_smooth_labels():
    t = jnp.asarray(np.eye(4)[[0, 2]], np.float32)
    np.testing.assert_allclose(jaxloss.smooth_labels(t, 0.2), 0.8 * t + 0.05, rtol=1e-6)
    np.testing.assert_allclose(jaxloss.smooth_labels(t.T, 0.2, axis=0).T, 0.8 * t + 0.05, rtol=1e-6)
    np.testing.assert_allclose(jaxloss.smooth_labels(t, jnp.array([0.0, 0.2]))[1], 0.8 * t[1] + 0.05, rtol=1e-6)
    mask = jnp.array([[True, True, True, False]])
    expected = np.where(mask, 0.8 * t + 0.2 / 3, 0)
    np.testing.assert_allclose(jaxloss.smooth_labels(t, 0.2, where=mask), expected, rtol=1e-6)
    assert jaxloss.smooth_labels(jnp.ones((2, 3, 4)), 0.1, axis=(0, 2)).shape == (2, 3, 4)
    assert jaxloss.smooth_labels(jnp.ones((2, 3)), 0.3, axis=None)[0, 0] == pytest.approx(0.7 + 0.05)


@pytest.mark.parametrize("name", sorted({case.name for case in CASES if case.targets == "index"}))
def test_labels_out_of_range_on_every_platform(name, monkeypatch):
    """Elsewhere than on a CPU the label's entry is selected, not gathered."""
    monkeypatch.setattr(classes, "_pick_by_gather", classes._pick_by_select)
    (case, *_) = [case for case in CASES if case.name == name]
    x, _ = case.draw(np.random.default_rng(0), 2)
    losses, pull = jax.vjp(lambda x: case(x, jnp.array([-1, 1])), x)
    (gradient,) = pull(jnp.ones_like(losses))
    np.testing.assert_array_equal(np.isnan(losses), [True, False])
    np.testing.assert_array_equal(np.isnan(gradient), np.repeat([[True], [False]], x.shape[1], 1))


def test_targets_may_be_left_away_only_where_the_signature_says_so():
    for name in {case.name for case in CASES}:
        second = list(inspect.signature(getattr(jaxloss, name)).parameters.values())[1]
        if second.default is None:
            assert getattr(jaxloss, name)(jnp.ones(3)).shape == (3,)
        else:
            with pytest.raises(TypeError, match=f"expected `{second.name}` to be an array, got NoneType"):
                getattr(jaxloss, name)(jnp.ones(3), None, **required(name))


def required(name):
    """What else has no default: options, and a third array."""
    parameters = list(inspect.signature(getattr(jaxloss, name)).parameters.values())[2:]
    return {p.name: 0.5 if p.kind is p.KEYWORD_ONLY else jnp.ones(3) for p in parameters if p.default is p.empty}
