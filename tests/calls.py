"""Every public function, ready to be called: for laws that hold for what is no loss of (predictions, targets), too.

The rows of cases.py, those of linear_cases.py, and one for each function that neither has. All arguments of a call are
arrays; `batched` says which have the batch as their first axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALIKE, CASES
from linear_cases import LINEAR_CASES

import jaxloss

BATCH, CLASSES = 4, 6


@dataclass(frozen=True, eq=False)
class Call:
    """A function of arrays, and how to draw them for a batch."""

    id: str
    name: str
    function: Callable[..., Any]
    draw: Callable[[np.random.Generator, int], tuple[jax.Array, ...]]
    batched: tuple[bool, ...]
    differentiable: bool = True

    def total(self, *arrays: jax.Array) -> jax.Array:
        """The sum of all floating results."""
        leaves = jax.tree.leaves(self.function(*arrays))
        return sum(a.sum() for a in leaves if jnp.issubdtype(a.dtype, np.floating))

    def of_first(self, arrays: tuple[jax.Array, ...]) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
        """The total as a function of the first floating array, and that array."""
        first = next(i for i, a in enumerate(arrays) if jnp.issubdtype(a.dtype, np.floating))
        return lambda x: self.total(*arrays[:first], x, *arrays[first + 1 :]), arrays[first]


def _reals(*shape: int):
    return lambda rng, n: jnp.asarray(rng.normal(size=(n, *shape)), np.float32)


def _integers(high: int, *shape: int, low: int = 0):
    return lambda rng, n: jnp.asarray(rng.integers(low, high, size=(n, *shape)), np.int32)


def _bits(*shape: int):
    return lambda rng, n: jnp.asarray(rng.integers(2, size=(n, *shape)), np.float32)


def _matrix(*shape: int):
    return lambda rng, n: jnp.asarray(rng.normal(size=shape), np.float32)


def _call(
    name: str, function: Callable[..., Any], *draws: Callable[..., jax.Array], differentiable: bool = True
) -> Call:
    batched = tuple("_matrix" not in draw.__qualname__ for draw in draws)
    return Call(name, name, function, lambda rng, n: tuple(d(rng, n) for d in draws), batched, differentiable)


def _of_case(case) -> Call:
    return Call(case.id, case.name, case, lambda rng, n: case.draw(rng, n, classes=CLASSES), (True, True))


def _of_linear(case) -> Call:
    def function(labels, *arrays):
        return case(arrays, labels, chunk_size=2)

    def draw(rng, n):
        arrays, labels = case.draw(rng, n, classes=CLASSES)
        return labels, *arrays

    return Call(case.id, case.name, function, draw, (True, *(True, False, False) * (2 if case.teacher else 1)))


def _top_3(logits):
    log_probs, indices = jax.lax.top_k(jax.nn.log_softmax(logits), 3)
    return indices, log_probs


def _joint(encoded, predicted):
    return encoded[..., :, None, :] + predicted[..., None, :, :]


def _fenchel_young(scores, targets):
    return jaxloss.make_fenchel_young_loss(jax.scipy.special.logsumexp)(scores, targets)


FRAMES, LABELS = _reals(7, CLASSES), _integers(CLASSES, 3, low=1)
OTHERS = [
    _call("reduce", jaxloss.reduce, _reals()),
    _call("sum_and_weight", jaxloss.sum_and_weight, _reals()),
    _call("token_metrics", jaxloss.token_metrics, _reals(CLASSES), _integers(CLASSES), differentiable=False),
    _call("log_probs", jaxloss.log_probs, _reals(CLASSES), _integers(CLASSES)),
    _call("cispo_loss", jaxloss.cispo_loss, _reals(), _reals(), _reals()),
    _call("policy_gradient_loss", jaxloss.policy_gradient_loss, _reals(), _reals()),
    _call(
        "load_balancing_loss",
        lambda x, e: jaxloss.load_balancing_loss(x, e, token_axis=1),
        *(_reals(3, CLASSES), _integers(CLASSES, 3, 2)),
    ),
    _call("router_z_loss", jaxloss.router_z_loss, _reals(CLASSES)),
    _call("plackett_luce_loss", jaxloss.plackett_luce_loss, _reals(CLASSES), _reals(CLASSES)),
    _call(
        "softmax_cross_entropy_with_indexed_labels",
        jaxloss.softmax_cross_entropy_with_indexed_labels,
        *(_reals(CLASSES), _integers(CLASSES, 3), _reals(3)),
    ),
    _call(
        "softmax_kl_divergence_with_top_k_targets",
        lambda x, y: jaxloss.softmax_kl_divergence_with_top_k_targets(x, *_top_3(y)),
        *(_reals(CLASSES), _reals(CLASSES)),
    ),
    _call("smooth_labels", lambda t: jaxloss.smooth_labels(t, 0.1), _bits(CLASSES)),
    _call("make_fenchel_young_loss", _fenchel_young, _reals(CLASSES), _bits(CLASSES)),
    _call("ranking_softmax_loss", jaxloss.ranking_softmax_loss, _reals(CLASSES), _bits(CLASSES)),
    _call("clip_loss", lambda q, r: jaxloss.clip_loss(q, r, logit_scale=2.0), _reals(5), _reals(5)),
    _call("siglip_loss", lambda q, r: jaxloss.siglip_loss(q, r, logit_scale=2.0, bias=-1.0), _reals(5), _reals(5)),
    _call(
        "info_nce_loss",
        lambda q, r, y: jaxloss.info_nce_loss(q, r, y, logit_scale=2.0),
        *(_reals(5), _reals(5), lambda rng, n: jnp.asarray(rng.integers(n, size=n), np.int32)),
    ),
    _call("supervised_contrastive_loss", jaxloss.supervised_contrastive_loss, _reals(5), _integers(2)),
    _call("ntxent", jaxloss.ntxent, _reals(5), _integers(2)),
    *(
        _call(loss.__name__, loss, _reals(5), _integers(2))
        for loss in (
            *(jaxloss.circle_loss, jaxloss.multi_similarity_loss, jaxloss.tuplet_margin_loss, jaxloss.nca_loss),
            *(jaxloss.contrastive_loss, jaxloss.lifted_structure_loss),
            *(jaxloss.batch_hard_triplet_loss, jaxloss.semi_hard_triplet_loss),
        )
    ),
    _call("angular_loss", jaxloss.angular_loss, _reals(5), _reals(5)),
    _call("koleo_loss", jaxloss.koleo_loss, _reals(5)),
    _call(
        "proxy_anchor_loss", lambda x, p, y: jaxloss.proxy_anchor_loss(x, y, p), _reals(5), _matrix(3, 5), _integers(3)
    ),
    _call("angular_margin_loss", jaxloss.angular_margin_loss, _reals(8), _matrix(8, CLASSES), _integers(CLASSES)),
    _call("barlow_twins_loss", jaxloss.barlow_twins_loss, _reals(5), _reals(5)),
    _call("vicreg_loss", jaxloss.vicreg_loss, _reals(5), _reals(5)),
    _call("dice_loss", jaxloss.dice_loss, _reals(5, 3), _bits(5, 3)),
    _call("binary_dice_loss", jaxloss.binary_dice_loss, _reals(5), _bits(5)),
    _call("multiclass_generalized_dice_loss", jaxloss.multiclass_generalized_dice_loss, _reals(5, 3), _bits(5, 3)),
    _call(
        "linear_cross_entropy_with_metrics",
        jaxloss.linear_cross_entropy_with_metrics,
        _reals(8),
        _matrix(8, CLASSES),
        _integers(CLASSES),
    ),
    *(
        _call(
            loss.__name__,
            lambda h, w, y, s, loss=loss: loss(h, w, y, s[:, 0]),
            *(_reals(8), _matrix(8, CLASSES), _integers(CLASSES, 2), _integers(CLASSES, 3)),
        )
        for loss in (jaxloss.sampled_softmax_loss, jaxloss.nce_loss)
    ),
    _call("ctc_loss", lambda x, y: jaxloss.ctc_loss(x, labels=y), FRAMES, LABELS),
    _call(
        "ctc_loss_with_forward_probs",
        lambda x, y: jaxloss.ctc_loss_with_forward_probs(x, labels=y)[0],
        FRAMES,
        LABELS,
    ),
    _call("ctc_align", lambda x, y: jaxloss.ctc_align(x, labels=y), FRAMES, LABELS, differentiable=False),
    _call("ctc_greedy_decode", jaxloss.ctc_greedy_decode, FRAMES, differentiable=False),
    _call("ctc_beam_decode", lambda x: jaxloss.ctc_beam_decode(x, beam_size=3), FRAMES, differentiable=False),
    _call("rnnt_loss", lambda x, y: jaxloss.rnnt_loss(x, labels=y, blank_id=0), _reals(7, 4, CLASSES), LABELS),
    _call(
        "rnnt_loss_with_joint",
        lambda h, g, y: jaxloss.rnnt_loss_with_joint(_joint, h, g, y, blank_id=0, chunk_size=3),
        _reals(7, CLASSES),
        _reals(4, CLASSES),
        LABELS,
    ),
]

CALLS = [*map(_of_case, CASES), *map(_of_linear, LINEAR_CASES), *OTHERS]
NOT_CALLED = {"LogProbs", "SumAndWeight", "TokenMetrics", "CTCAlignment", "CTCDecoded"}  # results


def over_calls(calls, *smoke: str, left_out=ALIKE):
    """A test over these calls, some in the smoke subset. Further ways of calling a function run in the sweep, and so do
    functions that are left out: by default those that are made as another one is.
    """
    first = {c.name: c.id for c in reversed(calls) if c.name not in left_out}
    marks = {c.id: () if c.id == first.get(c.name) else pytest.mark.sweep for c in calls}
    marks |= dict.fromkeys(smoke, pytest.mark.smoke)
    return pytest.mark.parametrize("call", [pytest.param(c, id=c.id, marks=marks[c.id]) for c in calls])
