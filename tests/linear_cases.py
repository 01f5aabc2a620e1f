"""The table of the losses of hidden states: how to call each, and the same from logits, in plain jax.numpy."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss

OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.05, "soft_cap": 3.0, "logit_scale": 1.5}
TEACHER_FEATURES = 5


def _transformed(z, options, cap="soft_cap"):
    z = options.get("logit_scale", 1) * z
    return z if cap not in options else options[cap] * jnp.tanh(z / options[cap])


def _logits(hidden, weight, bias, options, cap="soft_cap"):
    z = jnp.matmul(hidden, weight, preferred_element_type=np.promote_types(hidden.dtype, np.float32))
    z += jnp.broadcast_to(bias.astype(z.dtype), z.shape)
    return _transformed(z, options, cap)


def cross_entropy(z, labels, label_smoothing=0.0, z_loss=0.0, **_):
    lse = jax.nn.logsumexp(z, -1)
    of_label = jnp.where(jax.nn.one_hot(labels, z.shape[-1], dtype=bool), z, 0).sum(-1)
    return lse - (1 - label_smoothing) * of_label - label_smoothing * z.mean(-1) + z_loss * lse**2


def log_prob_and_entropy(z, labels, **_):
    log_p = jax.nn.log_softmax(z)
    return -cross_entropy(z, labels) + 0.3 * -(jnp.exp(log_p) * log_p).sum(-1)


def kl(z, teacher, **_):
    log_q, log_t = jax.nn.log_softmax(z), jax.nn.log_softmax(teacher)
    return (jnp.exp(log_t) * (log_t - log_q)).sum(-1)


def jensen_shannon(z, teacher, beta=0.5, **_):
    q, t = jax.nn.softmax(z), jax.nn.softmax(teacher)
    m = beta * t + (1 - beta) * q
    return (beta * t * jnp.log(t / m) + (1 - beta) * q * jnp.log(q / m)).sum(-1)


def positives(labels, classes):
    """Two or three classes of which one may be named twice, and a padding."""
    classes_of_row = labels, (3 * labels + 1) % classes, jnp.where(labels % 2 == 0, labels, 0), -jnp.ones_like(labels)
    valid = (labels >= 0) & (labels < classes)
    return jnp.stack([jnp.where(valid, one, labels) for one in classes_of_row], -1)


def multilabel(z, labels, **_):
    """A label out of range makes the row NaN."""
    index = positives(labels, z.shape[-1])
    hot = jax.nn.one_hot(index, z.shape[-1], dtype=bool).any(-2)
    losses = jnp.logaddexp(0, jnp.where(hot, -z, z)).sum(-1)
    return jnp.where((labels >= 0) & (labels < z.shape[-1]), losses, jnp.nan)


def indexed(labels, classes):
    """A probability for some classes, of which one may be named twice, and for a padding, which does not count."""
    index = positives(labels, classes)
    return index, jnp.broadcast_to(jnp.asarray([0.5, 0.1, 0.3, 0.7]), index.shape)


def dense_labels(labels, classes):
    """The same as a probability for each class."""
    index, probabilities = indexed(labels, classes)
    return (jax.nn.one_hot(index, classes) * probabilities[..., None]).sum(-2)


def soft_cross_entropy(z, labels, label_smoothing=0.0, z_loss=0.0, **_):
    """A label out of range makes the row NaN."""
    classes = z.shape[-1]
    t = (1 - label_smoothing) * dense_labels(labels, classes) + label_smoothing / classes
    lse = jax.nn.logsumexp(z, -1)
    losses = (t * (lse[..., None] - z)).sum(-1) + z_loss * lse**2
    return jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)


def top_k(labels, classes):
    """A teacher's log-probabilities of three classes, and a padding."""
    valid = (labels >= 0) & (labels < classes)
    distinct = (jnp.where(valid, (labels + offset) % classes, labels) for offset in (0, 1, 3))
    index = jnp.stack([*distinct, -jnp.ones_like(labels)], -1)
    return index, jnp.log(jnp.broadcast_to(jnp.asarray([0.5, 0.1, 0.3, 1.0]), index.shape))


def top_k_kl(z, labels, rest="bucket", temperature=1.0, hard_weight=None, soft_weight=1.0, **_):
    index, log_t = top_k(labels, z.shape[-1])
    index, log_t = index[..., :3], log_t[..., :3]
    hot = jax.nn.one_hot(index, z.shape[-1])
    q = jax.nn.softmax(z / temperature)
    q_named, q_rest = (hot * q[..., None, :]).sum(-1), jnp.where(hot.any(-2), 0, q).sum(-1)
    t, t_rest = jnp.exp(log_t), 1 - jnp.exp(log_t).sum(-1)
    if rest != "bucket":
        t, t_rest = t / t.sum(-1, keepdims=True), 0
    if rest == "drop":
        q_named = q_named / q_named.sum(-1, keepdims=True)
    losses = (t * jnp.log(t / q_named)).sum(-1)
    losses += jnp.where(t_rest == 0, 0, t_rest * jnp.log(jnp.where(t_rest == 0, 1, t_rest) / q_rest))
    if hard_weight is not None:
        losses = soft_weight * losses + hard_weight * cross_entropy(z, labels)
    return jnp.where((labels >= 0) & (labels < z.shape[-1]), losses, jnp.nan)


@dataclass(frozen=True, eq=False)
class LinearCase:
    """``arrays`` are all that is differentiated: hidden, weight and bias of a head, and of a teacher if there is."""

    name: str
    of_logits: Callable[..., jax.Array]
    options: dict[str, Any] = field(default_factory=dict)
    teacher: bool = False
    targets: Callable[..., tuple[jax.Array, ...]] | None = None  # of labels and the number of classes

    @property
    def id(self) -> str:
        return self.name + "".join(f"-{option}" for option in self.options)

    @property
    def loss(self):
        return getattr(jaxloss, self.name)

    def draw(self, rng, *tokens, features=8, classes=33, scale=1.0, dtype=np.float32):
        def head(features):
            shapes = (*tokens, features), (features, classes), (classes,)
            scales = scale, features**-0.5, scale
            return tuple(jnp.asarray(rng.normal(size=s) * by, dtype) for s, by in zip(shapes, scales, strict=True))

        arrays = head(features) + (head(TEACHER_FEATURES) if self.teacher else ())
        return arrays, jnp.asarray(rng.integers(classes, size=tokens), np.int32)

    def __call__(self, arrays, labels, **kwargs):
        """The losses, or what ``reduction`` makes of them."""
        hidden, weight, bias, *teacher = arrays
        kwargs = self.options | kwargs
        if teacher:
            teacher_hidden, teacher_weight, teacher_bias = teacher
            return self.loss(
                hidden, weight, teacher_hidden, teacher_weight, bias=bias, teacher_bias=teacher_bias, **kwargs
            )
        targets = (labels,)
        if self.targets is not None:
            axis = kwargs.get("class_axis_name")
            targets = self.targets(labels, bias.shape[0] * (1 if axis is None else jax.lax.axis_size(axis)))
            if self.name == "linear_cross_entropy_with_soft_labels" and axis is not None:
                first = jax.lax.axis_index(axis) * bias.shape[0]
                targets = (jax.lax.dynamic_slice_in_dim(targets[0], first, bias.shape[0], -1),)
        if "hard_weight" in kwargs:
            kwargs["labels"] = labels
        found = self.loss(hidden, weight, *targets, bias=bias, **kwargs)
        return found.log_prob + 0.3 * found.entropy if self.name == "linear_log_probs" else found

    def plain(self, arrays, labels):
        z = _logits(*arrays[:3], self.options)
        other = _logits(*arrays[3:], self.options, "teacher_soft_cap") if self.teacher else labels
        return self.of_logits(z, other, **self.options)

    @property
    def reduces(self) -> bool:
        return self.name != "linear_log_probs"


def one(targets):
    return lambda labels, classes: (targets(labels, classes),)


CAPS = {"soft_cap": 3.0, "logit_scale": 1.5}
TEACHER_CAPS = {**CAPS, "teacher_soft_cap": 4.0}
INDEXED_OPTIONS = {**CAPS, "z_loss": 0.05}
TOP_K_OPTIONS = {**CAPS, "temperature": 2.0, "soft_weight": 0.4, "hard_weight": 0.7}
LINEAR_CASES = [
    LinearCase("linear_cross_entropy", cross_entropy),
    LinearCase("linear_cross_entropy", cross_entropy, OPTIONS),
    LinearCase("linear_log_probs", log_prob_and_entropy),
    LinearCase("linear_log_probs", log_prob_and_entropy, CAPS),
    LinearCase("linear_sigmoid_cross_entropy", multilabel, targets=one(positives)),
    LinearCase("linear_sigmoid_cross_entropy", multilabel, CAPS, targets=one(positives)),
    LinearCase("linear_cross_entropy_with_soft_labels", soft_cross_entropy, targets=one(dense_labels)),
    LinearCase("linear_cross_entropy_with_soft_labels", soft_cross_entropy, OPTIONS, targets=one(dense_labels)),
    LinearCase("linear_cross_entropy_with_indexed_labels", soft_cross_entropy, targets=indexed),
    LinearCase("linear_cross_entropy_with_indexed_labels", soft_cross_entropy, INDEXED_OPTIONS, targets=indexed),
    LinearCase("linear_kl_divergence_with_top_k_targets", top_k_kl, targets=top_k),
    LinearCase("linear_kl_divergence_with_top_k_targets", top_k_kl, {"rest": "renormalize"}, targets=top_k),
    LinearCase("linear_kl_divergence_with_top_k_targets", top_k_kl, {"rest": "drop"}, targets=top_k),
    LinearCase("linear_kl_divergence_with_top_k_targets", top_k_kl, TOP_K_OPTIONS, targets=top_k),
    LinearCase("linear_kl_divergence", kl, teacher=True),
    LinearCase("linear_kl_divergence", kl, TEACHER_CAPS, teacher=True),
    LinearCase("linear_jensen_shannon_divergence", jensen_shannon, {"beta": 0.3}, teacher=True),
    LinearCase("linear_jensen_shannon_divergence", jensen_shannon, {**TEACHER_CAPS, "beta": 0.7}, teacher=True),
]


def over_linear(cases):
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases])


every_linear_case = over_linear(LINEAR_CASES)
# Each loss with all of its options: its mathematics contains that without them.
RICH = list({case.name: case for case in LINEAR_CASES}.values())
every_rich_case = over_linear(RICH)
every_reducing_case = over_linear([case for case in LINEAR_CASES if case.reduces])
cross_entropies = over_linear(LINEAR_CASES[:2])


def directions(arrays):
    return tuple(jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in arrays)


def cotangents(shape, dtype=np.float32):
    """Neither uniform nor one, and some of them zero."""
    c = np.cos(np.arange(int(np.prod(shape)))).reshape(shape)
    return jnp.asarray(np.where(np.abs(c) < 0.2, 0, c), dtype)
