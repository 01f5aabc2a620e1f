"""What is measured: one row a loss.

A row has inputs of (rows, classes), the loss as people write it in `jax.numpy` and what peers call it:

    Case("my_loss", _pair(normal, normal), lambda x, t: (x - t) ** 4, (torch("their_loss"),), options={"beta": 2.0})

`options` go to jaxloss; a peer has its own, and where it scales its loss a lambda takes that back. `plain` returns
losses and casts nothing: in float64 it is the truth that errors are measured against. `python -m benchmarks --quick
--only my_loss` sees that all of them compute the same; then measure, and if it is behind, find out why and write
`cpu_note`.

A loss of hidden states has (x, weight, t): what stands between the first and the last has no rows, and is
differentiated too. Its `plain` widens nothing by itself, and its floor are its `products`.

A loss of sequences has its `call`, where the labels are not its second argument.

headline.py has the short list for a GPU that is lent for minutes: rows of this table at other shapes or called in
another way.

To add a peer that is called on (x, t) and returns losses or their mean, add a function beside `optax`, `keras`, `torch`
and `liger`, and its import to candidates.py.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from . import batches, linear, policies, sequences

Shape = tuple[int, ...]  # the rows first, the classes last
ROWS, VOCABULARY, NARROW, TINY, HUGE = (8192, 1000), (4096, 32_000), (65_536, 128), (256, 10), (16_384, 128_256)
BOTH = ("float32", "bfloat16")
IMAGES, MASKS, BATCH, LABELS = (32, 16_384, 8), (64, 65_536), (1024, 128), (2048, 100)
PAIRS = (4096, 256)
# On accelerators, unless a row says what: arrays of 33 MB stay in the cache of a GPU, where a call takes no longer than
# its dispatch.
BEYOND_CACHES = {
    ROWS: VOCABULARY,
    NARROW: VOCABULARY,
    IMAGES: (64, 262_144, 8),
    MASKS: (512, 262_144),
    BATCH: (8192, 512),
    LABELS: (16_384, 100),
}


class Peer(NamedTuple):
    name: str  # in `candidates.MODULES`
    call: Callable[[Any], Callable]  # from its module the function of (x, t)
    transposed: bool = False  # its matrices are [classes, features]


class Case(NamedTuple):
    loss: str  # of jaxloss; its value and its gradient by all but t are measured, of the mean
    draw: Callable[[Array, Shape, str], tuple[Array, ...]]  # key, shape, dtype -> x, t
    plain: Callable[..., Array]
    peers: tuple[Peer, ...] = ()
    shapes: tuple[Shape, ...] = (ROWS,)
    on_accelerators: tuple[Shape, ...] = ()  # instead of `shapes`: a CPU would take minutes, a GPU keep it in its cache
    dtypes: tuple[str, ...] = ("float32",)
    dtypes_on_accelerators: tuple[str, ...] = ()
    quick: Shape = (64, 32)
    products: Callable[..., Any] | None = None  # the matrix products of a loss that has some, alone
    call: Callable[..., Array] | None = None  # with x, t and options, if it is not that of jaxloss itself
    options: Mapping[str, float] = MappingProxyType({})
    ways: Mapping[str, Callable[..., Array]] = MappingProxyType({})  # other calls of jaxloss for the same losses
    precision: str | None = None  # of float32 products; the default is TF32 on GPUs, bfloat16 on TPUs
    variant: str = ""  # its name in the results, if the same loss has several rows
    cpu_note: str = ""  # why it is behind a peer, or far from the floor

    def runs(self, *, accelerator: bool) -> list[tuple[Shape, str]]:
        shapes = (accelerator and self.on_accelerators) or self.shapes
        dtypes = (accelerator and self.dtypes_on_accelerators) or self.dtypes
        return [(shape, dtype) for shape in shapes for dtype in dtypes]

    def highest(self) -> "Case":
        """With float32 products in float32."""
        return self._replace(precision="highest", variant="highest precision")


# The peers.


def optax(name: str) -> Peer:
    return Peer("optax", lambda library: getattr(library.losses, name))


def keras(name: str) -> Peer:
    return Peer("keras", lambda library: lambda x, t: getattr(library.losses, name)(t, x))


def torch(name: str, **options: Any) -> Peer:
    return Peer("torch", lambda functional: functools.partial(getattr(functional, name), **options))


def liger(name: str, **options: Any) -> Peer:
    return Peer("liger", lambda functional: functools.partial(getattr(functional, name), **options))


# The inputs.


def _pair(first: Callable, second: Callable) -> Callable[[Array, Shape, str], tuple[Array, Array]]:
    def draw(key: Array, shape: Shape, dtype: str) -> tuple[Array, Array]:
        one, two = jax.random.split(key)
        return first(one, shape, dtype), second(two, shape, dtype)

    return draw


def normal(key: Array, shape: Shape, dtype: str) -> Array:
    return jax.random.normal(key, shape, dtype)


def logits(key: Array, shape: Shape, dtype: str) -> Array:
    return 3 * normal(key, shape, dtype)


def uniform(key: Array, shape: Shape, dtype: str, low: float = 0.05, high: float = 0.95) -> Array:
    return jax.random.uniform(key, shape, dtype, low, high)


def positive(key: Array, shape: Shape, dtype: str) -> Array:
    return uniform(key, shape, dtype, 0.1, 1.1)


def signs(key: Array, shape: Shape, dtype: str) -> Array:
    return jax.random.rademacher(key, shape, dtype)


def bits(key: Array, shape: Shape, dtype: str) -> Array:
    return jax.random.bernoulli(key, shape=shape).astype(dtype)


def index(key: Array, shape: Shape, dtype: str) -> Array:
    return jax.random.randint(key, shape[:1], 0, shape[1], "int32")


def one_hot(key: Array, shape: Shape, dtype: str) -> Array:
    return jax.nn.one_hot(index(key, shape, dtype), shape[1], dtype=dtype)


def shares(key: Array, shape: Shape, dtype: str) -> Array:
    return jax.nn.softmax(normal(key, shape, dtype))


def log_shares(key: Array, shape: Shape, dtype: str) -> Array:
    return jax.nn.log_softmax(normal(key, shape, dtype))


# The losses as people write them. `measure` widens half precision first, as careful people do.


def _of_label(x: Array, y: Array) -> Array:
    return jnp.take_along_axis(x, y[:, None], -1)[:, 0]


def _margins(x: Array, y: Array) -> Array:
    """1 + x_c - x_y, 0 at y."""
    return jnp.where(jnp.arange(x.shape[1]) == y[:, None], 0, 1 + x - _of_label(x, y)[:, None])


def _huber(x: Array, t: Array) -> Array:
    error = jnp.abs(x - t)
    return jnp.where(error < 1, 0.5 * error**2, error - 0.5)


def _cosine(x: Array, t: Array) -> Array:
    return (x * t).sum(-1) / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(t, axis=-1))


def _pinball(x: Array, t: Array) -> Array:
    return jnp.maximum(0.9 * (t - x), 0.1 * (x - t))


def _focal(log_p: Array) -> Array:
    return (1 - jnp.exp(log_p)) ** 2 * -log_p


def _sigmoid_focal(x: Array, t: Array) -> Array:
    p = jax.nn.sigmoid(x)
    return (t * (1 - p) + (1 - t) * p) ** 2 * (jnp.logaddexp(0, x) - x * t)


def _poly(x: Array, t: Array) -> Array:
    log_p = jax.nn.log_softmax(x)
    return (t * (-log_p + 2 * (1 - jnp.exp(log_p)))).sum(-1)


def _sparsemax(x: Array, t: Array) -> Array:
    return jax.nn.sparse_plus((1 - 2 * t) * x)


def _multiclass_sparsemax(s: Array, y: Array) -> Array:
    best = jnp.sort(s, descending=True)
    tau = ((jnp.cumsum(best, -1) - 1) / jnp.arange(1, s.shape[1] + 1, dtype=s.dtype)).max(-1, keepdims=True)
    p = jnp.maximum(s - tau, 0)
    return (p * (s + (1 - p) / 2)).sum(-1) - _of_label(s, y)


def _multilabel(s: Array, t: Array) -> Array:
    above = jnp.maximum(0, 1 + s[:, :, None] - s[:, None, :])
    return (above * (1 - t)[:, :, None] * t[:, None, :]).sum((-2, -1))


def _tversky(p: Array, t: Array) -> Array:
    overlap, wrong = (p * t).sum(-1), 0.5 * (p * (1 - t) + t * (1 - p)).sum(-1)
    return 1 - overlap / (overlap + wrong)


def _jensen_shannon(lq: Array, lt: Array) -> Array:
    log_mean = jnp.logaddexp(lq, lt) - jnp.log(2.0)
    return 0.5 * (jnp.exp(lq) * (lq - log_mean) + jnp.exp(lt) * (lt - log_mean)).sum(-1)


def _softmax_kl(x: Array, y: Array) -> Array:
    log_q, log_t = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    return (jnp.exp(log_t) * (log_t - log_q)).sum(-1)


def _torch_distillation(functional: Any) -> Callable[..., Any]:
    def loss(x: Any, y: Any) -> Any:
        log_q, log_t = functional.log_softmax(x, -1), functional.log_softmax(y, -1)
        return functional.kl_div(log_q, log_t, reduction="batchmean", log_target=True)

    return loss


CPU_NOTE = """\
What is behind a peer beyond noise, or takes more than 1.5 of the two-pass time, and why, as the compiled text shows it.
On two cores of an AMD EPYC (AVX-512, JAX 0.12.0.1) an array takes 0.17 ns an element in float32 and 0.07 in bfloat16 to
read and write, 0.19 and 0.31 with an exponential, 0.35 and 0.48 with a log1p; a sum over rows takes 0.08 and 0.04, of
exponentials 0.2 and 0.18. So what has them in both passes takes 2 to 4 times as long in float32. It takes longer in
bfloat16, whose bytes are half and whose arithmetic is in float32. For single losses:"""

_on_cpu = (VOCABULARY, ROWS, NARROW, TINY)
_rows = {"shapes": _on_cpu, "on_accelerators": (HUGE, *_on_cpu), "dtypes": BOTH}
_elements = {"on_accelerators": (VOCABULARY,), "dtypes": BOTH}
_features = {"shapes": (NARROW,), "on_accelerators": (VOCABULARY,), "dtypes": BOTH}

CASES = (
    Case(
        "softmax_cross_entropy_with_integer_labels",
        _pair(logits, index),
        lambda x, y: -_of_label(jax.nn.log_softmax(x), y),
        (
            optax("softmax_cross_entropy_with_integer_labels"),
            Peer("keras", lambda k: lambda x, y: k.losses.sparse_categorical_crossentropy(y, x, from_logits=True)),
            torch("cross_entropy"),
            liger("liger_cross_entropy"),
        ),
        cpu_note=(
            "in bfloat16 the exponentials are kept in float32 for the sum and the gradient, half the temporaries of "
            "optax."
        ),
        **_rows,
    ),
    Case(
        "softmax_cross_entropy",
        _pair(logits, shares),
        lambda x, t: -(t * jax.nn.log_softmax(x)).sum(-1),
        (
            optax("softmax_cross_entropy"),
            Peer("keras", lambda k: lambda x, t: k.losses.categorical_crossentropy(t, x, from_logits=True)),
            torch("cross_entropy"),
        ),
        cpu_note=(
            "the exact tail, and the labels beside a sure class for its gradient, are a sum each over the row, beside "
            "the three of the textbook. A batch with a row whose terms are not finite, such as a label of 0 at a "
            "logit of -inf, takes 1.2 times as long. For ten classes the time is that of starting them."
        ),
        **_rows,
    ),
    Case(
        "linear_cross_entropy",
        linear.draw,
        linear.plain,
        (
            Peer("optax", lambda o: lambda h, w, y: o.losses.softmax_cross_entropy_with_integer_labels(h @ w, y)),
            Peer("scan", lambda jax: linear.scan),
            Peer("tokamax", linear.tokamax),
            Peer("jax-cce", lambda library: library.linear_cross_entropy, transposed=True),
            Peer("torch", lambda f: lambda h, w, y: f.cross_entropy(h @ w.T, y), transposed=True),
            Peer(
                "torch.chunked",
                lambda nn: functools.partial(
                    nn.functional.linear_cross_entropy, options=nn.LinearCrossEntropyOptions()
                ),
                transposed=True,
            ),
            Peer("liger", lambda f: f.liger_fused_linear_cross_entropy, transposed=True),
            Peer("cut_cross_entropy", lambda library: library.linear_cross_entropy, transposed=True),
        ),
        shapes=((2048, 512, 16_000), (4096, 1024, 8000)),
        on_accelerators=((8192, 2048, 32_768), (8192, 4096, 128_256), (16_384, 4096, 262_144)),
        dtypes=BOTH,
        dtypes_on_accelerators=("bfloat16",),
        quick=(1024, 256, 2048),  # several chunks; tokamax counts what fills up its last block of classes
        products=linear.products,
        cpu_note=(
            "in bfloat16 PyTorch's loss takes as long as ours: its products are faster than the three of XLA, of which "
            "ours takes 0.8 to 0.9, as fewer logits stay in the cache."
        ),
    ),
    Case(
        "ctc_loss",
        sequences.draw,
        sequences.plain,
        (Peer("optax", sequences.optax), Peer("keras", sequences.keras), Peer("torch", sequences.torch)),
        shapes=((16, 800, 100, 32), (16, 400, 60, 1000), (16, 200, 20, 32)),
        on_accelerators=((64, 2000, 200, 5000), (64, 1000, 100, 1000), (64, 1000, 100, 32)),
        quick=(2, 20, 3, 8),
        call=sequences.ours,
        cpu_note=(
            "a frame waits for the one before it: two exponentials and two logarithms a label, of arrays so small that "
            "one core computes them."
        ),
    ),
    Case(
        "rnnt_loss",
        sequences.draw_lattice,
        sequences.plain_lattice,
        shapes=((8, 100, 21, 256),),
        on_accelerators=((16, 400, 101, 1024),),
        quick=(2, 10, 4, 8),
        call=sequences.ours_lattice,
        cpu_note="no peer here has it; two passes over all logits take most of the time.",
    ),
    Case(
        "sigmoid_binary_cross_entropy",
        _pair(logits, uniform),
        lambda x, t: jnp.logaddexp(0, x) - x * t,
        (
            optax("sigmoid_binary_cross_entropy"),
            Peer("keras", lambda k: lambda x, t: k.losses.binary_crossentropy(t, x, from_logits=True)),
            torch("binary_cross_entropy_with_logits"),
        ),
        cpu_note=(
            "an exponential, a division and a series an element for the value, an exponential and a division for the "
            "gradient."
        ),
        **_elements,
    ),
    Case(
        "huber_loss",
        _pair(normal, normal),
        _huber,
        (optax("huber_loss"), keras("huber"), torch("huber_loss")),
        cpu_note=("the loss and its gradient are a pass each, computed in float32 for bfloat16, too."),
        **_elements,
    ),
    Case(
        "charbonnier_loss",
        _pair(normal, normal),
        lambda x, t: jnp.sqrt((x - t) ** 2 + 1e-6) - 1e-3,
        (),
        cpu_note="a scale keeps both squares in range, and errors far below epsilon do not round to 0: two divisions.",
        **_elements,
    ),
    Case(
        "log_cosh",
        _pair(normal, normal),
        lambda x, t: jnp.logaddexp(x - t, t - x) - jnp.log(2.0),
        (optax("log_cosh"), keras("log_cosh")),
        cpu_note=(
            "no peer is exact near 0: that is two series, an exponential and a division an element for the value, and "
            "a tanh for the gradient."
        ),
        **_elements,
    ),
    Case(
        "kl_divergence",
        _pair(log_shares, shares),
        lambda lq, t: (t * (jnp.log(t) - lq)).sum(-1),
        (optax("kl_divergence"), torch("kl_div", reduction="batchmean"), liger("liger_kl_div", reduction="batchmean")),
        cpu_note=("0 times an infinite logarithm is kept out by a select, which XLA writes to memory before it sums."),
        **_features,
    ),
    Case(
        "cosine_similarity",
        _pair(normal, normal),
        _cosine,
        (
            optax("cosine_similarity"),
            Peer("keras", lambda k: lambda x, t: -k.losses.cosine_similarity(t, x)),
            torch("cosine_similarity", dim=-1),
        ),
        cpu_note=(
            "as fast as the textbook, if no pair is near. With a near pair, whose cosine rounds to 1 elsewhere, the "
            "batch takes up to 4 times as long, with a vector whose squares overflow up to 3 times."
        ),
        **_features,
    ),
    Case(
        "squared_error",
        _pair(normal, normal),
        lambda x, t: (x - t) ** 2,
        (optax("squared_error"), keras("mean_squared_error"), torch("mse_loss")),
        cpu_note="both passes compute the differences, where the plain form writes them to memory once.",
    ),
    Case("l2_loss", _pair(normal, normal), lambda x, t: 0.5 * (x - t) ** 2, (optax("l2_loss"),)),
    Case(
        "absolute_error",
        _pair(normal, normal),
        lambda x, t: jnp.abs(x - t),
        (keras("mean_absolute_error"), torch("l1_loss")),
    ),
    Case(
        "absolute_percentage_error",
        _pair(positive, positive),
        lambda x, t: 100 * jnp.abs((x - t) / t),
        (keras("mean_absolute_percentage_error"),),
        cpu_note="a second quotient, finite where the difference is not.",
    ),
    Case(
        "squared_logarithmic_error",
        _pair(positive, positive),
        lambda x, t: (jnp.log1p(x) - jnp.log1p(t)) ** 2,
        (keras("mean_squared_logarithmic_error"),),
        cpu_note=(
            "the logarithm of the ratio is exact: two divisions, a series for near arguments and a logarithm for other "
            "ones an element, for the value and again for the gradient. Keras takes two logarithms for both, and "
            "rounds near arguments to the same."
        ),
    ),
    Case(
        "smooth_l1_loss",
        _pair(normal, normal),
        _huber,
        (torch("smooth_l1_loss"),),
        cpu_note=("a division by beta in both passes, and beta may be 0."),
    ),
    Case(
        "poisson_nll_loss",
        _pair(positive, positive),
        lambda x, t: x - t * jnp.log(x),
        (keras("poisson"),),
        cpu_note="0 times an infinite logarithm is kept out by a select, which XLA writes to memory before it sums.",
    ),
    Case(
        "poisson_nll_loss_with_log_rates",
        _pair(positive, positive),
        lambda x, t: jnp.exp(x) - t * x,
        (torch("poisson_nll_loss"),),
        cpu_note=(
            "the exponential is computed for the value and again for the gradient, and 0 times infinity is kept "
            "out by a select, which XLA writes to memory before it sums."
        ),
    ),
    Case(
        "gaussian_nll_loss",
        _pair(normal, normal),
        lambda x, t: 0.5 * (jnp.log(0.7) + (x - t) ** 2 / 0.7),
        (torch("gaussian_nll_loss", var=0.7),),
        options={"variance": 0.7},
        cpu_note="the loss and its gradient are a pass each.",
    ),
    Case(
        "hinge_loss",
        _pair(normal, signs),
        lambda x, t: jnp.maximum(0, 1 - x * t),
        (optax("hinge_loss"), keras("hinge")),
    ),
    Case(
        "squared_hinge_loss",
        _pair(normal, signs),
        lambda x, t: jnp.maximum(0, 1 - x * t) ** 2,
        (keras("squared_hinge"),),
    ),
    Case("perceptron_loss", _pair(normal, signs), lambda x, t: jnp.maximum(0, -x * t), (optax("perceptron_loss"),)),
    Case(
        "binary_cross_entropy",
        _pair(uniform, uniform),
        lambda p, t: -t * jnp.log(p) - (1 - t) * jnp.log(1 - p),
        (keras("binary_crossentropy"), torch("binary_cross_entropy")),
        cpu_note="two logarithms and a series for small p an element.",
    ),
    Case(
        "multiclass_hinge_loss",
        _pair(normal, index),
        lambda x, y: _margins(x, y).max(-1),
        (optax("multiclass_hinge_loss"),),
    ),
    Case(
        "multiclass_perceptron_loss",
        _pair(normal, index),
        lambda x, y: x.max(-1) - _of_label(x, y),
        (optax("multiclass_perceptron_loss"),),
    ),
    Case(
        "weston_watkins_hinge_loss",
        _pair(normal, index),
        lambda x, y: jnp.maximum(0, _margins(x, y)).sum(-1),
        (Peer("torch", lambda f: lambda x, y: f.multi_margin_loss(x, y) * x.shape[1]),),  # divides by the classes
        cpu_note=(
            "the label's own margin is removed by a select, which XLA writes to memory before it sums; a label "
            "out of range is NaN."
        ),
    ),
    Case(
        "categorical_hinge_loss_with_zero_class",
        _pair(normal, one_hot),
        lambda x, t: jnp.maximum(0, 1 + ((1 - t) * x).max(-1) - (t * x).sum(-1)),
        (keras("categorical_hinge"),),
        cpu_note=(
            "products that are 0 for a label of 0, whatever the score, are selects, which XLA writes to memory "
            "before it sums."
        ),
    ),
    Case(
        "categorical_cross_entropy",
        _pair(shares, shares),
        lambda p, t: -(t * jnp.log(p)).sum(-1),
        (keras("categorical_crossentropy"),),
        cpu_note="as `kl_divergence`.",
    ),
    Case(
        "categorical_cross_entropy_with_integer_labels",
        _pair(shares, index),
        lambda p, y: -jnp.log(_of_label(p, y)),
        (keras("sparse_categorical_crossentropy"),),
    ),
    Case(
        "kl_divergence_with_log_targets",
        _pair(log_shares, log_shares),
        lambda lq, lt: (jnp.exp(lt) * (lt - lq)).sum(-1),
        (optax("kl_divergence_with_log_targets"), torch("kl_div", reduction="batchmean", log_target=True)),
        shapes=(NARROW,),
        cpu_note=(
            "the exponential is computed for the value and again for the gradient, and 0 times infinity is kept "
            "out by a select, which XLA writes to memory before it sums."
        ),
    ),
    Case(
        "generalized_kl_divergence",
        _pair(log_shares, shares),
        lambda lq, t: (t * (jnp.log(t) - lq) + jnp.exp(lq) - t).sum(-1),
        (optax("generalized_kl_divergence"),),
        shapes=(NARROW,),
        cpu_note=("near arguments have a series of ten terms, so that the loss is exact and never negative."),
    ),
    Case(
        "cosine_distance",
        _pair(normal, normal),
        lambda x, t: 1 - _cosine(x, t),
        (optax("cosine_distance"),),
        shapes=(NARROW,),
        cpu_note="as `cosine_similarity`.",
    ),
    Case(
        "sigmoid_focal_loss",
        _pair(logits, bits),
        _sigmoid_focal,
        (
            optax("sigmoid_focal_loss"),
            Peer("keras", lambda k: lambda x, t: k.losses.binary_focal_crossentropy(t, x, from_logits=True)),
        ),
    ),
    Case(
        "softmax_focal_loss",
        _pair(normal, shares),  # Keras clips
        lambda x, t: (t * _focal(jax.nn.log_softmax(x))).sum(-1),
        (
            Peer(
                "keras",
                lambda k: lambda x, t: k.losses.categorical_focal_crossentropy(t, x, alpha=1.0, from_logits=True),
            ),
        ),
    ),
    Case(
        "poly_loss_cross_entropy",
        _pair(logits, shares),
        _poly,
        (optax("poly_loss_cross_entropy"),),
        cpu_note="two more sums over both arrays, for the exact gradient of a sure row.",
    ),
    Case("sparsemax_loss", _pair(normal, bits), _sparsemax, (optax("sparsemax_loss"),)),
    Case(
        "multiclass_sparsemax_loss",
        _pair(normal, index),
        _multiclass_sparsemax,
        (optax("multiclass_sparsemax_loss"),),
    ),
    Case("nll_loss", _pair(log_shares, index), lambda lq, y: -_of_label(lq, y), (torch("nll_loss"),)),
    Case(
        "soft_margin_loss",
        _pair(normal, signs),
        lambda x, t: jnp.logaddexp(0, -t * x),
        (torch("soft_margin_loss"),),
    ),
    Case(
        "tversky_loss",
        _pair(uniform, uniform),
        _tversky,
        (Peer("keras", lambda k: lambda p, t: k.losses.tversky(t, p, axis=-1)),),
        options={"axis": -1},
    ),
    Case(
        "dice_loss",
        batches.draw_images,
        batches.plain_dice,
        (optax("dice_loss"),),
        shapes=(IMAGES,),
        quick=(2, 16, 4),
    ),
    Case(
        "multiclass_generalized_dice_loss",
        batches.draw_images,
        batches.plain_generalized_dice,
        (optax("multiclass_generalized_dice_loss"),),
        shapes=(IMAGES,),
        quick=(2, 16, 4),
        call=batches.generalized_dice,
    ),
    Case(
        "binary_dice_loss",
        batches.draw_masks,
        batches.plain_binary_dice,
        (optax("binary_dice_loss"),),
        shapes=(MASKS,),
        call=batches.binary_dice,
        cpu_note="p and 1 - p, each exact, are an exponential and a division each.",
    ),
    Case(
        "ranking_softmax_loss",
        _pair(normal, uniform),
        lambda x, t: -(t * jax.nn.log_softmax(x)).sum(-1),
        (optax("ranking_softmax_loss"),),
        shapes=(NARROW,),
        call=batches.ranking,
        cpu_note="as `softmax_cross_entropy`.",
    ),
    Case(
        "ntxent",
        batches.draw_batch,
        batches.plain_ntxent,
        (optax("ntxent"),),
        shapes=(BATCH,),
        cpu_note="vectors are scaled by their largest entry first.",
    ),
    Case(
        "circle_loss",
        batches.draw_batch,
        batches.plain_circle,
        (Peer("keras", lambda k: lambda x, y: k.losses.circle(y, batches.normalized(x))),),
        shapes=(BATCH,),
    ),
    Case(
        "clip_loss",
        batches.draw_pairs,
        batches.plain_clip,
        (Peer("optax", batches.optax_clip),),
        shapes=(PAIRS,),
        on_accelerators=((32_768, 1152),),
        quick=(64, 32),
        call=batches.clip,
        cpu_note="a gradient needs the sums over columns first: four products, not three, which alone take as long.",
    ),
    Case(
        "siglip_loss",
        batches.draw_pairs,
        batches.plain_siglip,
        (Peer("optax", batches.optax_siglip),),
        shapes=(PAIRS,),
        on_accelerators=((32_768, 1152),),
        quick=(64, 32),
        call=batches.siglip,
    ),
    Case(
        "triplet_margin_loss",
        _pair(normal, normal),
        batches.plain_triplets,
        (
            Peer("optax", lambda o: lambda x, t: o.losses.triplet_margin_loss(x, t, -t)),
            Peer("torch", lambda f: lambda x, t: f.triplet_margin_loss(x, t, -t)),
        ),
        shapes=(NARROW,),
        call=batches.triplets,
        cpu_note="the differences are computed again for the gradient, where the plain form keeps both.",
    ),
    Case(
        "cosine_embedding_loss",
        _pair(normal, normal),
        lambda x, t: 1 - _cosine(x, t),
        (Peer("torch", lambda f: lambda x, t: f.cosine_embedding_loss(x, t, x.new_ones(len(x)))),),
        shapes=(NARROW,),
        call=batches.pairs,
        cpu_note="as `cosine_similarity`.",
    ),
    Case(
        "margin_ranking_loss",
        _pair(normal, normal),
        lambda x, t: jnp.maximum(0, t - x),
        (Peer("torch", lambda f: lambda x, t: f.margin_ranking_loss(x, t, x.new_ones(x.shape))),),
        call=batches.scores,
    ),
    Case(
        "hinge_embedding_loss",
        _pair(uniform, signs),
        lambda x, t: jnp.where(t == 1, x, jnp.maximum(0, 1 - x)),
        (torch("hinge_embedding_loss"),),
    ),
    # No peer has these; they stand beside their plain form.
    Case(
        "softmax_focal_loss_with_integer_labels",
        _pair(logits, index),
        lambda x, y: _focal(_of_label(jax.nn.log_softmax(x), y)),
    ),
    Case(
        "multilabel_hinge_loss",
        _pair(normal, bits),
        _multilabel,
        shapes=(LABELS,),
        cpu_note="a loop over the classes, so that no array has a number for two classes of each row.",
    ),
    Case(
        "sum_of_squares_error",
        _pair(normal, normal),
        lambda x, t: 0.5 * ((x - t) ** 2).sum(-1),
        cpu_note="both arrays are read again for the gradient, where the plain form keeps their difference.",
    ),
    Case(
        "quantile_loss",
        _pair(normal, normal),
        _pinball,
        options={"quantile": 0.9},
        cpu_note="0 times infinity is kept out by a select, which XLA writes to memory before it sums.",
    ),
    Case(
        "gaussian_nll_loss_with_log_variance",
        _pair(normal, normal),
        lambda x, t: 0.5 * (0.3 + (x - t) ** 2 * jnp.exp(-0.3)),
        options={"log_variance": 0.3},
        cpu_note="the losses are written to memory before they are summed.",
    ),
    Case(
        "generalized_cross_entropy",
        _pair(shares, index),
        lambda p, y: (1 - _of_label(p, y) ** 0.7) / 0.7,
        options={"q": 0.7},
    ),
    Case(
        "jensen_shannon_divergence",
        _pair(log_shares, log_shares),
        _jensen_shannon,
        shapes=(NARROW,),
        cpu_note=(
            "exact for near and for far arguments, by both forms: a logarithm, two divisions and five series an "
            "element in each pass; no peer has it."
        ),
    ),
    Case(
        "softmax_kl_divergence",
        _pair(logits, logits),
        _softmax_kl,
        (Peer("torch", _torch_distillation),),
        shapes=(ROWS,),
        dtypes=BOTH,
        cpu_note=(
            "near rows have a series of ten terms, and the ratio of the sums of both rows a sum of its own, so that "
            "the loss is exact and never negative."
        ),
    ),
    Case(
        "softmax_jensen_shannon_divergence",
        _pair(logits, logits),
        lambda x, y: _jensen_shannon(jax.nn.log_softmax(x), jax.nn.log_softmax(y)),
        shapes=(NARROW,),
        cpu_note="as `jensen_shannon_divergence`.",
    ),
    Case(
        "total_variation_distance",
        _pair(shares, shares),
        lambda p, t: 0.5 * jnp.abs(p - t).sum(-1),
        shapes=(NARROW,),
    ),
    Case(
        "softmax_total_variation_distance",
        _pair(logits, logits),
        lambda x, y: 0.5 * jnp.abs(jax.nn.softmax(x) - jax.nn.softmax(y)).sum(-1),
        shapes=(NARROW,),
        cpu_note="as `softmax_kl_divergence`.",
    ),
    # A number a token: of a policy that has moved a little.
    Case(
        "ppo_clip_loss",
        _pair(normal, normal),
        policies.plain_clip,
        call=policies.clip,
    ),
    Case("kl_estimate", _pair(normal, normal), lambda x, t: jnp.expm1(t - x) - (t - x)),
    Case("dpo_loss", _pair(normal, normal), lambda c, j: jax.nn.softplus(-0.1 * (c - j))),
    Case(
        "linear_log_probs",
        linear.draw,
        policies.plain_of_hidden,
        (Peer("scan", lambda jax: policies.scan),),
        shapes=((2048, 512, 16_000),),
        on_accelerators=((8192, 2048, 32_768), (8192, 4096, 128_256)),
        dtypes=BOTH,
        dtypes_on_accelerators=("bfloat16",),
        quick=(1024, 256, 2048),
        products=linear.products,
        call=policies.clip_of_hidden,
        cpu_note="cotangents of log-probabilities are not known in the forward pass: the logits are computed twice.",
    ),
)
