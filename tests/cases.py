"""The table of losses: a case for each, and for each way of calling it that takes another path. Laws run over all.

- **Predictions and targets** are the first two arguments of a loss, whatever it calls them. Targets are an "index"
  (integer labels), "probabilities" (a number for each class) or "elements" (an array of the shape of the predictions).
- **Rows**: the loss is one number for the last axis, the classes or the features of an example. Without, the loss is
  elementwise.
- A **domain** says what predictions or targets may be: how to draw an array, and numbers from all of it.
- The **formula** is the textbook's, in oracles.py. It runs with many digits (`exact`) and in jax.numpy (`plain`).
- **Options** are numbers and may be traced; **static** options are passed as they are.
- **Call** is how a loss of three arrays is called with two.

Tests have three marks: `smoke` also runs on the oldest and the newest JAX, `exact` compares with the formula at many
digits, `sweep` runs in `make sweep` only.
"""

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxloss

CLASSES = 48  # has divisors: tests split it over axes and devices
OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.05, "soft_cap": 3.0, "logit_scale": 1.5}
SIGMOID_OPTIONS = {"label_smoothing": 0.1, "pos_weight": 2.5, "soft_cap": 3.0, "logit_scale": 1.5}


@dataclass(frozen=True, eq=False)
class Domain:
    """What predictions or targets may be: how to draw an array, and numbers from all of it, for the elementwise."""

    draw: Callable[[np.random.Generator, tuple[int, ...], float], np.ndarray]
    numbers: tuple[float, ...]


def _log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


MAGNITUDES = (1e-18, 1e-8, 3e-5, 1e-4, 1e-3, 0.3, 0.5, 1.25, 3.0, 7.0, 25.0, 1e3, 1e12, 1e18)
UNIT = (1e-30, 1e-12, 1e-5, 0.1, 0.25, 0.5, 0.50001, 0.9, 0.999)
REAL = Domain(
    lambda rng, shape, scale: rng.normal(size=shape) * scale, (*MAGNITUDES, 0.0, *(-m for m in MAGNITUDES), 1.2500001)
)
NOT_ZERO = Domain(lambda rng, shape, scale: rng.uniform(0.5, 3, shape), tuple(v for v in REAL.numbers if v))
POSITIVE = Domain(lambda rng, shape, scale: rng.uniform(0.2, 3, shape), (*MAGNITUDES, 1.2500001, 1000.0001))
COUNT = Domain(lambda rng, shape, scale: rng.poisson(3, shape).astype(float), (0.0, 1.0, 2.0, 9.0, 1e3, 1e6, 2.5))
ABOVE_MINUS_ONE = Domain(lambda rng, shape, scale: rng.uniform(-0.8, 3, shape), (*MAGNITUDES, 3e-8, 0.0, -1e-9, -0.99))
SIGN = Domain(lambda rng, shape, scale: rng.choice([-1.0, 1.0], shape), (-1.0, 1.0))
UNIT_INTERVAL = Domain(lambda rng, shape, scale: rng.random(shape), (0.0, 0.25, 0.9, 1.0))
PROBABILITY = Domain(lambda rng, shape, scale: rng.uniform(0.05, 0.95, shape), UNIT)
FINITE = Domain(REAL.draw, REAL.numbers)
LOG_RATE = Domain(lambda rng, shape, scale: rng.normal(size=shape), (-60.0, -5.0, -1e-6, 0.0, 0.7, 2.2, 13.8, 60.0))
LOG_PROBABILITY = Domain(
    lambda rng, shape, scale: -rng.exponential(scale, shape) - 0.01,
    (-200.0, -110.0, -60.0, -5.0, -0.9, -0.7, -0.5, -0.01, -1e-4, -1e-8),
)
OTHER_LOG_PROBABILITY = Domain(  # never the same, where estimates of a divergence are 0
    LOG_PROBABILITY.draw, (-190.0, -100.0, -50.0, -4.0, -0.91, -0.71, -0.52, -0.02, -3e-4, -2e-8)
)
OLD_VALUE = Domain(  # none as far from a return as another value, but on the other side
    REAL.draw, (-33.0, -7.3, -1.1, -0.31, -0.04, 0.02, 0.26, 0.6, 2.2, 1100.0)
)
SAMPLED_LOG_PROBABILITY = Domain(LOG_PROBABILITY.draw, LOG_PROBABILITY.numbers)
OTHER_SAMPLED_LOG_PROBABILITY = Domain(LOG_PROBABILITY.draw, OTHER_LOG_PROBABILITY.numbers)
FEW_LOG_PROBABILITIES = Domain(LOG_PROBABILITY.draw, (-2.0, -1.2, -0.7, -0.5, -0.01, -1e-4))
# Rows. Targets need not sum to 1.
SHARES = Domain(lambda rng, shape, scale: 1.5 * (r := rng.random(shape)) / r.sum(-1, keepdims=True), ())
TEACHER_LOGITS = Domain(REAL.draw, ())
BITS = Domain(lambda rng, shape, scale: rng.integers(2, size=shape).astype(float), ())
LOG_SHARES = Domain(lambda rng, shape, scale: _log_softmax(rng.normal(size=shape) * scale), ())


# Losses that contain an exponential of their arguments, by the beginning of their names: their tolerance is wider.
EXPONENTIAL = (
    *("softmax", "safe", "sigmoid", "poly", "soft_margin", "log_cosh", "kl", "generalized_kl", "jensen"),
    *("poisson_nll_loss_with", "gaussian_nll_loss_with", "ppo", "sapo", "dpo", "kto", "odds"),
)


class _Index:
    """Labels that are the index of a class."""


INDEX = _Index()


@dataclass(frozen=True, eq=False)
class Case:
    """A loss of (predictions, targets): how to call it, what to call it with, and what the textbook says."""

    name: str
    formula: Callable[..., list]
    predictions: Domain
    target_domain: Domain | _Index
    rows: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    static: dict[str, Any] = field(default_factory=dict)
    call: Callable[..., jax.Array] | None = None  # of a loss of three arrays, with the third

    @property
    def loss(self) -> Callable[..., jax.Array]:
        return getattr(jaxloss, self.name)

    def __call__(self, predictions, targets, **kwargs) -> jax.Array:
        return (self.call or self.loss)(predictions, targets, **{**self.options, **self.static, **kwargs})

    @property
    def exponential(self) -> bool:
        """Whether the loss contains an exponential of its arguments."""
        return self.name.startswith(EXPONENTIAL)

    @property
    def targets(self) -> str:
        return "index" if self.target_domain is INDEX else "probabilities" if self.rows else "elements"

    @property
    def id(self) -> str:
        return self.name + "".join(f"-{option}" for option in {**self.options, **self.static})

    def takes(self, argument: str) -> bool:
        return argument in inspect.signature(self.loss).parameters

    def draw(self, rng: np.random.Generator, *batch: int, classes: int = CLASSES, scale: float = 2.0, dtype=np.float32):
        """Predictions and targets for a batch of that shape."""
        shape = (*batch, classes)
        predictions = jnp.asarray(self.predictions.draw(rng, shape, scale), dtype)
        if self.target_domain is INDEX:
            return predictions, jnp.asarray(rng.integers(classes, size=batch), np.int32)
        return predictions, jnp.asarray(self.target_domain.draw(rng, shape, scale), dtype)

    def plain(self, x, t) -> jax.Array:
        """The textbook formula in jax.numpy, without a rule of ours."""
        t = jax.nn.one_hot(t, x.shape[-1], dtype=x.dtype) if self.target_domain is INDEX else t
        terms = self.formula(JAX, x, t, **self.options, **self.static)
        return sum(u.sum(-1) if self.rows else u for u in terms)


JAX = SimpleNamespace(
    abs=jnp.abs,
    cosh=jnp.cosh,
    cumsum=lambda x: jnp.cumsum(x, -1),
    exp=jnp.exp,
    log=jnp.log,
    loggamma=jax.scipy.special.gammaln,
    max=lambda x: x.max(-1, keepdims=True),
    maximum=jnp.maximum,
    pi=jnp.pi,
    sort=lambda x: jnp.sort(x, -1),
    sqrt=jnp.sqrt,
    sum=lambda x: x.sum(-1, keepdims=True),
    tanh=jnp.tanh,
    where=jnp.where,
    xlogy=jax.scipy.special.xlogy,
)


def case(formula, predictions, targets, *, name=None, rows=False, static=None, call=None, **options):
    """A case; its name is that of the formula."""
    return Case(name or formula.__name__, formula, predictions, targets, rows, options, static or {}, call)


def row_case(formula, predictions, targets, **rest):
    return case(formula, predictions, targets, rows=True, **rest)


def _embedded(label):
    """The cosine embedding loss of pairs with that label."""

    def call(x, t, **kwargs):
        labels = jnp.full_like(jnp.asarray(x).sum(kwargs.get("axis", -1)), label)
        return jaxloss.cosine_embedding_loss(x, t, labels, **kwargs)

    return {"name": "cosine_embedding_loss", "call": call}


CASES = [
    row_case(oracles.softmax_cross_entropy, REAL, SHARES),
    row_case(oracles.softmax_cross_entropy, REAL, SHARES, **OPTIONS),
    row_case(oracles.softmax_cross_entropy, REAL, INDEX, name="softmax_cross_entropy_with_integer_labels"),
    row_case(oracles.softmax_cross_entropy, REAL, INDEX, name="softmax_cross_entropy_with_integer_labels", **OPTIONS),
    row_case(oracles.softmax_cross_entropy, REAL, SHARES, name="safe_softmax_cross_entropy"),
    case(oracles.sigmoid_binary_cross_entropy, REAL, UNIT_INTERVAL),
    case(oracles.sigmoid_binary_cross_entropy, REAL, UNIT_INTERVAL, **SIGMOID_OPTIONS),
    case(oracles.sigmoid_focal_loss, REAL, UNIT_INTERVAL, gamma=0.7),
    case(oracles.sigmoid_focal_loss, REAL, UNIT_INTERVAL, gamma=2.0, alpha=0.25),
    row_case(oracles.softmax_focal_loss, REAL, SHARES, gamma=2.0),
    row_case(oracles.softmax_focal_loss, REAL, SHARES, gamma=0.7, static={"alpha": 0.3}),
    row_case(oracles.softmax_focal_loss, REAL, INDEX, name="softmax_focal_loss_with_integer_labels", gamma=2.0),
    row_case(oracles.poly_loss_cross_entropy, REAL, SHARES, epsilon=2.0),
    case(oracles.sparsemax_loss, REAL, UNIT_INTERVAL),
    row_case(oracles.multiclass_sparsemax_loss, REAL, INDEX),
    # regression
    case(oracles.squared_error, REAL, REAL),
    case(oracles.l2_loss, REAL, REAL),
    row_case(oracles.l2_loss, REAL, REAL, name="sum_of_squares_error"),
    case(oracles.absolute_error, REAL, REAL),
    case(oracles.absolute_percentage_error, REAL, NOT_ZERO),
    case(oracles.squared_logarithmic_error, ABOVE_MINUS_ONE, ABOVE_MINUS_ONE),
    case(oracles.huber_loss, REAL, REAL, delta=0.7),
    case(oracles.smooth_l1_loss, REAL, REAL, beta=0.7),
    case(oracles.charbonnier_loss, REAL, REAL, epsilon=0.7),
    case(oracles.log_cosh, REAL, REAL),
    case(oracles.quantile_loss, REAL, REAL, quantile=0.8),
    # likelihoods
    case(oracles.poisson_nll_loss, POSITIVE, COUNT),
    case(oracles.poisson_nll_loss, POSITIVE, COUNT, static={"full": True}),
    case(oracles.poisson_nll_loss_with_log_rates, LOG_RATE, COUNT),
    case(oracles.poisson_nll_loss_with_log_rates, LOG_RATE, COUNT, static={"full": True}),
    case(oracles.gaussian_nll_loss, REAL, REAL, variance=0.7),
    case(oracles.gaussian_nll_loss_with_log_variance, REAL, REAL, log_variance=0.7, static={"full": True}),
    # policies and preferences
    case(oracles.ppo_clip_loss, LOG_PROBABILITY, LOG_PROBABILITY, advantages=1.3, clip_low=0.3, clip_high=0.4),
    case(oracles.ppo_clip_loss, LOG_PROBABILITY, LOG_PROBABILITY, advantages=-1.3, dual_clip=3.0),
    case(oracles.ppo_clip_loss, LOG_PROBABILITY, LOG_PROBABILITY, advantages=-1.3),
    case(oracles.sapo_loss, FEW_LOG_PROBABILITIES, FEW_LOG_PROBABILITIES, advantages=1.3),
    case(oracles.sapo_loss, FEW_LOG_PROBABILITIES, FEW_LOG_PROBABILITIES, advantages=-1.3, temperature_negative=0.3),
    case(
        oracles.clipped_value_loss,
        REAL,
        OLD_VALUE,
        call=lambda x, t, **kwargs: jaxloss.clipped_value_loss(x, t, jnp.full_like(t, 0.25), **kwargs),
        clip=0.2,
    ),
    *(
        case(oracles.kl_estimate, LOG_PROBABILITY, OTHER_LOG_PROBABILITY, static={"estimator": k})
        for k in ("k3", "k1", "k2")
    ),
    *(
        case(
            oracles.weighted_kl_estimate,
            SAMPLED_LOG_PROBABILITY,
            OTHER_SAMPLED_LOG_PROBABILITY,
            name="kl_estimate",
            call=lambda x, t, **kwargs: jaxloss.kl_estimate(x, t, jnp.full_like(t, -0.75), **kwargs),
            static={"estimator": k},
        )
        for k in ("k3", "k1", "k2")
    ),
    case(oracles.dpo_loss, REAL, REAL, beta=0.3),
    case(oracles.dpo_loss, REAL, REAL, beta=0.3, flip_probability=0.2),
    *(
        case(oracles.dpo_loss, REAL, REAL, static={"loss_type": loss_type}, beta=0.3, flip_probability=0.2)
        for loss_type in ("robust", "exo_pair")
    ),
    *(
        case(oracles.dpo_loss, REAL, REAL, static={"loss_type": loss_type}, beta=0.3)
        for loss_type in ("hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero")
    ),
    case(oracles.dpo_loss, FINITE, FINITE, static={"loss_type": "apo_down"}, beta=0.3),
    case(oracles.dpo_loss, REAL, REAL, static={"loss_type": "discopop"}, beta=0.3, temperature=0.5),
    case(oracles.kto_loss, REAL, UNIT_INTERVAL, beta=0.3, kl=0.4, desirable_weight=1.2, undesirable_weight=0.8),
    case(oracles.odds_ratio_loss, LOG_PROBABILITY, LOG_PROBABILITY),
    # margins
    case(oracles.hinge_loss, REAL, SIGN),
    case(oracles.squared_hinge_loss, REAL, SIGN),
    case(oracles.soft_margin_loss, REAL, SIGN),
    case(oracles.perceptron_loss, REAL, SIGN),
    row_case(oracles.multiclass_hinge_loss, REAL, INDEX),
    row_case(oracles.multiclass_perceptron_loss, REAL, INDEX),
    row_case(oracles.weston_watkins_hinge_loss, REAL, INDEX, margin=0.7),
    row_case(oracles.weston_watkins_hinge_loss, REAL, INDEX, margin=0.7, static={"power": 2}),
    row_case(oracles.multilabel_hinge_loss, REAL, BITS, margin=0.7),
    row_case(oracles.categorical_hinge_loss_with_zero_class, REAL, SHARES),
    case(
        oracles.margin_ranking_loss,
        REAL,
        REAL,
        call=lambda x, t, **kwargs: jaxloss.margin_ranking_loss(x, t, -jnp.ones_like(t), **kwargs),
        margin=0.7,
    ),
    # embeddings
    case(oracles.hinge_embedding_loss, REAL, SIGN, margin=0.7),
    row_case(oracles.cosine_embedding_loss_of_others, REAL, REAL, **_embedded(-1), margin=0.1),
    row_case(oracles.cosine_embedding_loss, REAL, REAL, **_embedded(1), margin=0.1),
    row_case(
        oracles.triplet_margin_loss,
        REAL,
        REAL,
        call=lambda x, t, **kwargs: jaxloss.triplet_margin_loss(x, t, -t, **kwargs),
        margin=0.7,
        eps=0.01,
    ),
    # overlap
    row_case(oracles.tversky_loss, PROBABILITY, UNIT_INTERVAL, alpha=0.3, beta=0.6, smooth=0.1, static={"axis": -1}),
    # directions and distributions
    row_case(oracles.cosine_similarity, REAL, REAL),
    row_case(oracles.cosine_distance, REAL, REAL),
    row_case(oracles.cosine_distance, REAL, REAL, epsilon=0.7),
    row_case(oracles.kl_divergence, LOG_SHARES, SHARES),
    row_case(oracles.kl_divergence_with_log_targets, LOG_SHARES, LOG_SHARES),
    row_case(oracles.generalized_kl_divergence, LOG_SHARES, SHARES),
    row_case(oracles.jensen_shannon_divergence, LOG_SHARES, LOG_SHARES, beta=0.7),
    row_case(oracles.softmax_kl_divergence, REAL, TEACHER_LOGITS),
    row_case(oracles.softmax_kl_divergence, REAL, TEACHER_LOGITS, temperature=2.5),
    row_case(oracles.softmax_jensen_shannon_divergence, REAL, TEACHER_LOGITS, beta=0.8),
    row_case(oracles.softmax_jensen_shannon_divergence, REAL, TEACHER_LOGITS, beta=0.3, temperature=2.5),
    row_case(oracles.softmax_total_variation_distance, REAL, TEACHER_LOGITS),
    row_case(oracles.softmax_total_variation_distance, REAL, TEACHER_LOGITS, temperature=2.5),
    row_case(oracles.total_variation_distance, SHARES, SHARES),
    # from probabilities
    row_case(oracles.categorical_cross_entropy, SHARES, SHARES),
    row_case(oracles.categorical_cross_entropy, SHARES, INDEX, name="categorical_cross_entropy_with_integer_labels"),
    row_case(oracles.nll_loss, LOG_SHARES, INDEX),
    row_case(oracles.generalized_cross_entropy, SHARES, INDEX, q=0.7),
    case(oracles.binary_cross_entropy, PROBABILITY, UNIT_INTERVAL),
    case(oracles.binary_cross_entropy, PROBABILITY, UNIT_INTERVAL, label_smoothing=0.1),
]

OF_HIDDEN_STATES = {name for name in jaxloss.__all__ if name.startswith("linear_")}  # linear_cases.py has them
OF_SEQUENCES = {
    name for name in jaxloss.__all__ if name.startswith(("ctc_", "rnnt_"))
}  # test_ctc.py, test_transducer.py
NOT_IN_TABLE = {
    *("reduce", "sum_and_weight", "SumAndWeight"),  # test_reduction.py
    "smooth_labels",
    "make_fenchel_young_loss",  # test_ranking.py
    "ranking_softmax_loss",  # test_ranking.py
    *("binary_dice_loss", "dice_loss", "multiclass_generalized_dice_loss"),  # test_dice.py
    *("circle_loss", "ntxent", "supervised_contrastive_loss"),  # test_contrastive.py
    *("clip_loss", "info_nce_loss", "siglip_loss"),  # test_pairs.py
    *("log_probs", "LogProbs"),  # test_log_probs.py
    *("cispo_loss", "policy_gradient_loss"),  # test_policy.py
    *("load_balancing_loss", "router_z_loss"),  # test_router.py
    *("barlow_twins_loss", "vicreg_loss"),  # test_self_supervised.py
    *("contrastive_loss", "lifted_structure_loss", "nca_loss", "semi_hard_triplet_loss"),  # test_metric_learning.py
    *("batch_hard_triplet_loss", "koleo_loss", "multi_similarity_loss", "tuplet_margin_loss", "angular_loss"),
    *("angular_margin_loss", "proxy_anchor_loss"),
    "plackett_luce_loss",  # test_ranking.py
    *("token_metrics", "TokenMetrics"),  # test_softmax_cross_entropy.py
    *("softmax_cross_entropy_with_indexed_labels", "softmax_kl_divergence_with_top_k_targets"),  # test_named_classes.py
    *("nce_loss", "sampled_softmax_loss"),  # test_sampled.py
    "CTCAlignment",
    "CTCDecoded",
    *OF_HIDDEN_STATES,
    *OF_SEQUENCES,
}

SMOKE = {"softmax_cross_entropy_with_integer_labels", "sigmoid_binary_cross_entropy", "huber_loss", "cosine_distance"}


# Made as another loss of the table is, from another formula: meshes, `vmap` and `export` do the same to both.
ALIKE = {
    *("absolute_error", "absolute_percentage_error", "charbonnier_loss", "l2_loss", "log_cosh", "quantile_loss"),
    *("smooth_l1_loss", "squared_logarithmic_error", "sum_of_squares_error"),
    *("gaussian_nll_loss_with_log_variance", "poisson_nll_loss_with_log_rates"),
    *("margin_ranking_loss", "multiclass_perceptron_loss", "perceptron_loss", "soft_margin_loss", "squared_hinge_loss"),
    *("kto_loss", "odds_ratio_loss", "sapo_loss"),
    *("cosine_similarity", "generalized_kl_divergence", "kl_divergence_with_log_targets", "total_variation_distance"),
    *("categorical_cross_entropy_with_integer_labels", "safe_softmax_cross_entropy"),
}


def _parameter(case, *choice, always=True):
    """One case of a test: marked `smoke` if it belongs to that subset, and `sweep` if it does not always run."""
    marks = [pytest.mark.smoke] if case.name in SMOKE and case.options else []
    marks += [] if always else [pytest.mark.sweep]
    return pytest.param(case, *choice, id="-".join([case.id, *map(str, choice)]), marks=marks)


def over(cases):
    """A test over these cases."""
    return pytest.mark.parametrize("case", [_parameter(c) for c in cases])


def every_loss_with(choice, **columns):
    """`every_path` with one choice of the columns, of one loss all; all combinations run in the sweep."""
    first = {case.name: case for case in reversed(CASES)}
    parameters = []
    for case, *combination in itertools.product(CASES, *columns.values()):
        here = tuple(combination) == choice and case is first[case.name] and case.name not in ALIKE
        all_of = case.name == "softmax_cross_entropy_with_integer_labels" and case.options
        parameters.append(_parameter(case, *combination, always=bool(here or all_of)))
    return pytest.mark.parametrize(("case", *columns), parameters)


def every_loss(test):
    """A test over every loss, by its first case. Its other cases run in the sweep, those of the smoke subset always."""
    return _over_first(test, set())


def every_path(test):
    """The same without the losses of `ALIKE`, which run in the sweep."""
    return _over_first(test, ALIKE)


def _over_first(test, left_out):
    first = {case.name: case for case in reversed(CASES) if case.name not in left_out}
    cases = [_parameter(c, always=c is first.get(c.name) or (c.name in SMOKE and bool(c.options))) for c in CASES]
    return pytest.mark.parametrize("case", cases)(test)


every_case = over(CASES)
every_row_case = over([case for case in CASES if case.rows])
