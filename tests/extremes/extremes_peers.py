"""How other libraries are called for the same formula, and how the results of a library are computed.

Each call is the one that is fair: raw losses, logits where the library takes them, no epsilon that can be left out.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import extremes_others as others
import jax
import jax.numpy as jnp
import numpy as np
from extremes_truth import MODES, Inputs

Results = dict[str, list[np.ndarray] | str]
"""By mode, the results for each array of inputs, or why there are none."""


# optax: of (predictions, targets), and the masks that it has.


def _optax(name: str, **options: Any) -> Callable:
    def call(x: Any, t: Any, *rest: Any, **mask: Any) -> Any:
        return getattr(importlib.import_module("optax").losses, name)(x, t, *rest, **options, **mask)

    return call


def _optax_sequences(x: Any, t: Any) -> Any:
    of = others.labels_of(x, others.SEQUENCE)
    logits = others.sequences(x)
    return _optax("ctc_loss")(logits, jnp.zeros(logits.shape[:2]), of, jnp.zeros(of.shape))


def _optax_batches(x: Any, t: Any) -> Any:
    loss = _optax("ntxent", temperature=others.TEMPERATURE)
    return others.per_row(lambda x, t: loss(x.reshape(4, -1), jnp.asarray(others.LABELS)))(x, t)


def _optax_images(x: Any, t: Any) -> Any:
    loss = _optax("multiclass_generalized_dice_loss")
    return others.per_row(lambda x, t: loss(others.image(x), others.image(t)))(x, t)


OPTAX = {
    "softmax_cross_entropy": _optax("softmax_cross_entropy"),
    "softmax_cross_entropy_with_integer_labels": _optax("softmax_cross_entropy_with_integer_labels"),
    "safe_softmax_cross_entropy": _optax("safe_softmax_cross_entropy"),
    "sigmoid_binary_cross_entropy": _optax("sigmoid_binary_cross_entropy"),
    "sigmoid_focal_loss-gamma": _optax("sigmoid_focal_loss", gamma=0.7),
    "sigmoid_focal_loss-gamma-alpha": _optax("sigmoid_focal_loss", gamma=2.0, alpha=0.25),
    "poly_loss_cross_entropy-epsilon": _optax("poly_loss_cross_entropy", epsilon=2.0),
    "multiclass_sparsemax_loss": _optax("multiclass_sparsemax_loss"),
    "squared_error": _optax("squared_error"),
    "l2_loss": _optax("l2_loss"),
    "huber_loss-delta": _optax("huber_loss", delta=0.7),
    "log_cosh": _optax("log_cosh"),
    "hinge_loss": _optax("hinge_loss"),
    "perceptron_loss": _optax("perceptron_loss"),
    "multiclass_hinge_loss": _optax("multiclass_hinge_loss"),
    "multiclass_perceptron_loss": _optax("multiclass_perceptron_loss"),
    "cosine_similarity": _optax("cosine_similarity"),
    "cosine_distance": _optax("cosine_distance"),
    "cosine_distance-epsilon": _optax("cosine_distance", epsilon=0.7),
    "kl_divergence": _optax("kl_divergence"),
    "kl_divergence_with_log_targets": _optax("kl_divergence_with_log_targets"),
    "generalized_kl_divergence": _optax("generalized_kl_divergence"),
    "triplet_margin_loss-margin-eps": lambda x, t: importlib.import_module("optax").losses.triplet_margin_loss(
        x, t, -t, margin=0.7, eps=0.01
    ),
    "ranking_softmax_loss": _optax("ranking_softmax_loss", reduce_fn=None),
    "fenchel_young_loss": lambda x, t: importlib.import_module("optax").losses.make_fenchel_young_loss(
        jax.scipy.special.logsumexp
    )(x, t),
    "dice_loss": lambda x, t: _optax("dice_loss")(others.image(x), others.image(t)),
    "binary_dice_loss": _optax("binary_dice_loss"),
    "multiclass_generalized_dice_loss": _optax_images,
    "ntxent": _optax_batches,
    "ctc_loss": _optax_sequences,
}


# Keras: of (targets, predictions), the mean over the last axis, which has one entry here where it is of elements.


def _keras(name: str, factor: float = 1, **options: Any) -> Callable:
    return lambda x, t: factor * getattr(importlib.import_module("keras").losses, name)(t, x, **options)


def _keras_elements(name: str, **options: Any) -> Callable:
    return lambda x, t: _keras(name, **options)(x[:, None], t[:, None])


def _keras_sequences(x: Any, t: Any) -> Any:
    return _keras("ctc")(others.sequences(x), others.labels_of(x, others.SEQUENCE))


KERAS = {
    "tversky_loss": others.per_row(_keras("dice")),
    "ctc_loss": _keras_sequences,
    "softmax_cross_entropy": _keras("categorical_crossentropy", from_logits=True),
    "softmax_cross_entropy_with_integer_labels": _keras("sparse_categorical_crossentropy", from_logits=True),
    "sigmoid_binary_cross_entropy": _keras_elements("binary_crossentropy", from_logits=True),
    "sigmoid_focal_loss-gamma": _keras_elements("binary_focal_crossentropy", gamma=0.7, from_logits=True),
    "softmax_focal_loss-gamma": _keras("categorical_focal_crossentropy", alpha=1.0, gamma=2.0, from_logits=True),
    "softmax_focal_loss-gamma-alpha": _keras("categorical_focal_crossentropy", alpha=0.3, gamma=0.7, from_logits=True),
    "squared_error": _keras_elements("mean_squared_error"),
    "absolute_error": _keras_elements("mean_absolute_error"),
    "absolute_percentage_error": _keras_elements("mean_absolute_percentage_error"),
    "squared_logarithmic_error": _keras_elements("mean_squared_logarithmic_error"),
    "huber_loss-delta": _keras_elements("huber", delta=0.7),
    "log_cosh": _keras_elements("log_cosh"),
    "poisson_nll_loss": _keras_elements("poisson"),
    "hinge_loss": _keras_elements("hinge"),
    "squared_hinge_loss": _keras_elements("squared_hinge"),
    "categorical_hinge_loss_with_zero_class": _keras("categorical_hinge"),
    "cosine_similarity": _keras("cosine_similarity", factor=-1),
    "categorical_cross_entropy": _keras("categorical_crossentropy"),
    "categorical_cross_entropy_with_integer_labels": _keras("sparse_categorical_crossentropy"),
    "generalized_cross_entropy-q": _keras("categorical_generalized_cross_entropy", q=0.7),
    "binary_cross_entropy": _keras_elements("binary_crossentropy"),
    "binary_cross_entropy-label_smoothing": _keras_elements("binary_crossentropy", label_smoothing=0.1),
}
# Keras divides by the sum of the probabilities: the same number for those that sum to 1, but another function.
ONLY_VALUES = {("keras", "categorical_cross_entropy"), ("keras", "categorical_cross_entropy_with_integer_labels")}


# PyTorch: of (predictions, targets), classes along axis 1.


def _torch(name: str, factor: Callable[[Any], Any] = lambda x: 1, **options: Any) -> Callable:
    def call(x, t):
        return factor(x) * getattr(importlib.import_module("torch.nn.functional"), name)(x, t, **options)

    return call


def _raw(name: str, **rest: Any) -> Callable:
    return _torch(name, reduction="none", **rest)


def _torch_sum(**options: Any) -> Callable:
    return lambda x, t: _raw("kl_div", **options)(x, t).sum(-1)


def _classes(x: Any) -> int:
    return x.shape[1]


def _embedding(label: int) -> Callable:
    def call(x, t):
        torch = importlib.import_module("torch")
        of = torch.full(x.shape[:1], label)
        return torch.nn.functional.cosine_embedding_loss(x, t, of, margin=0.1, reduction="none")

    return call


def _torch_ranking(x: Any, t: Any) -> Any:
    functional = importlib.import_module("torch.nn.functional")
    return functional.margin_ranking_loss(x, t, -t.new_ones(()), margin=0.7, reduction="none")


def _torch_sequences(x: Any, t: Any) -> Any:
    torch = importlib.import_module("torch")
    n, frames, length = len(x), others.FRAMES, len(others.SEQUENCE)
    log_p = others.sequences(x).log_softmax(-1).transpose(0, 1)
    of = torch.tensor(others.SEQUENCE).expand(n, length)
    lengths = torch.full((n,), frames), torch.full((n,), length)
    return torch.nn.functional.ctc_loss(log_p, of, *lengths, reduction="none")


TORCH = {
    "softmax_cross_entropy": _raw("cross_entropy"),
    "softmax_cross_entropy_with_integer_labels": _raw("cross_entropy"),
    "sigmoid_binary_cross_entropy": _raw("binary_cross_entropy_with_logits"),
    "squared_error": _raw("mse_loss"),
    "absolute_error": _raw("l1_loss"),
    "huber_loss-delta": _raw("huber_loss", delta=0.7),
    "smooth_l1_loss-beta": _raw("smooth_l1_loss", beta=0.7),
    "poisson_nll_loss": _raw("poisson_nll_loss", log_input=False, eps=0),
    "poisson_nll_loss_with_log_rates": _raw("poisson_nll_loss"),
    "gaussian_nll_loss-variance": _raw("gaussian_nll_loss", var=0.7),
    "soft_margin_loss": _raw("soft_margin_loss"),
    "weston_watkins_hinge_loss-margin": _raw("multi_margin_loss", factor=_classes, margin=0.7),
    "weston_watkins_hinge_loss-margin-power": _raw("multi_margin_loss", factor=_classes, margin=0.7, p=2),
    "margin_ranking_loss-margin": _torch_ranking,
    "cosine_embedding_loss": _embedding(1),
    "cosine_embedding_loss_of_others": _embedding(-1),
    "ctc_loss": _torch_sequences,
    "hinge_embedding_loss-margin": _raw("hinge_embedding_loss", margin=0.7),
    "cosine_similarity": _torch("cosine_similarity", dim=-1, eps=0),
    "kl_divergence": _torch_sum(),
    "kl_divergence_with_log_targets": _torch_sum(log_target=True),
    "nll_loss": _raw("nll_loss"),
    "binary_cross_entropy": _raw("binary_cross_entropy"),
}
PEERS = {"optax": OPTAX, "keras": KERAS, "torch": TORCH}
MASKED = {  # by `where` of the shape of the predictions
    "optax": (
        *("softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels", "poly_loss_cross_entropy-epsilon"),
        *("kl_divergence", "kl_divergence_with_log_targets", "generalized_kl_divergence"),
        *("cosine_similarity", "cosine_distance", "cosine_distance-epsilon"),
    )
}
IGNORED = {"torch": ("softmax_cross_entropy_with_integer_labels", "nll_loss")}  # a label of -100


_PEERS_OF_JAX = (*OPTAX.values(), *KERAS.values())

# What a library computes.


def of_jax(loss: Callable, batches: Sequence[Inputs], dtype, modes=MODES, masks=()) -> Results:
    """One compiled call for each mode; masks are one for each batch, or none."""

    def summed(t, mask):
        return lambda x: loss(x, t, **mask).sum()

    def second(x, t, v, mask):
        return jax.grad(lambda x: (jax.grad(summed(t, mask))(x) * v).sum())(x)

    functions = {
        "value": lambda x, t, v, mask: loss(x, t, **mask),
        "gradient": lambda x, t, v, mask: jax.grad(summed(t, mask))(x),
        "forward mode": lambda x, t, v, mask: jax.jvp(lambda x: loss(x, t, **mask), (x,), (v,))[1],
        "second order": second,
    }

    def run(mode):
        return [np.asarray(a) for a in jax.jit(lambda all: [functions[mode](*each) for each in all])(given)]

    given = []
    for batch, mask in zip(batches, masks or [{}] * len(batches), strict=True):
        x = jnp.asarray(batch.x, dtype)
        t = jnp.asarray(batch.t, batch.t.dtype if batch.t.dtype == np.int32 else dtype)
        v = jnp.broadcast_to(jnp.asarray(batch.direction, dtype), x.shape)
        given.append((x, t, v, {name: jnp.asarray(a) for name, a in mask.items()}))
    strict = ("strict", "raise") if loss not in _PEERS_OF_JAX else ("standard", "allow")
    with jax.numpy_dtype_promotion(strict[0]), jax.numpy_rank_promotion(strict[1]):
        return {mode: _or_refusal(run, mode) for mode in modes}


def _or_refusal(run: Callable, mode: str) -> Any:
    try:
        return run(mode)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"


def of_torch(loss: Callable, batches: Sequence[Inputs], dtype, modes=MODES, masks=()) -> Results:
    torch = importlib.import_module("torch")
    kind = getattr(torch, np.dtype(dtype).name)

    def tensor(a):
        return torch.tensor(a).long() if a.dtype == np.int32 else torch.tensor(a).to(kind)

    def gradient(x, t, create_graph=False):
        return torch.autograd.grad(loss(x, t).sum(), x, create_graph=create_graph)[0]

    def one(mode, batch):
        x, t = tensor(batch.x).requires_grad_(), tensor(batch.t)
        v = tensor(np.broadcast_to(batch.direction, batch.x.shape).copy())
        if mode == "value":
            return loss(x, t)
        if mode == "gradient":
            return gradient(x, t)
        if mode == "forward mode":
            return torch.func.jvp(lambda x: loss(x, t), (x.detach(),), (v,))[1]
        slopes = gradient(x, t, create_graph=True)
        if not slopes.requires_grad:  # they are constant
            return torch.zeros_like(x)
        return torch.autograd.grad((slopes * v).sum(), x, allow_unused=True, materialize_grads=True)[0]

    def run(mode):
        found = [one(mode, batch).detach() for batch in batches]
        return [a.float().numpy(force=True).astype(getattr(jnp, str(a.dtype).removeprefix("torch."))) for a in found]

    return {mode: _or_refusal(run, mode) for mode in modes}
