"""The short list for a device that is lent for minutes: the most important rows first, since time may run out."""

import functools
from typing import NamedTuple

from jax import Array

import jaxloss

from . import linear
from .cases import CASES, HUGE, VOCABULARY, Case, Shape

SLOW = ("keras", "tokamax")  # to import and to compile, and no competitor here
CHUNKS = (512, 1024, 2048, 4096, 8192)
CAP = 30.0
HEAD = (8192, 2048, 32_768), (1024, 256, 4096)  # on accelerators; on a CPU, a rehearsal
LOGITS, ARRAY = (HUGE, (1024, 4000)), (VOCABULARY, (512, 2000))
ELEMENTS = (
    "sigmoid_binary_cross_entropy",
    "huber_loss",
    "sigmoid_focal_loss",
    "kl_divergence",
    "cosine_similarity",
    "log_cosh",
)
TF32 = ("ntxent", "circle_loss")  # measured at the highest precision too
TOKENS = {"gpu": (2**18, 4096, 128_256), "tpu": (2**18, 4096, 128_256), "cpu": (2**12, 64, 1024)}  # at most


class Row(NamedTuple):
    case: Case
    shape: Shape
    on_cpu: Shape
    dtype: str


def case(loss: str) -> Case:
    (found,) = (case for case in CASES if case.loss == loss)
    return found._replace(peers=tuple(peer for peer in found.peers if peer.name not in SLOW))


def _of_chunks(size: int, hidden: Array, weight: Array, labels: Array) -> Array:
    return jaxloss.linear_cross_entropy(hidden, weight, labels, reduction="mean", chunk_size=size)


def _first() -> list[Row]:
    """Before the most tokens that fit."""
    head, large = case("linear_cross_entropy"), ((8192, 4096, 128_256), (2048, 256, 4096))
    ways = {f"chunk_size={n}": functools.partial(_of_chunks, n) for n in CHUNKS}
    ways |= {"none": jaxloss.linear_cross_entropy, "with metrics": linear.with_metrics}
    plain_capped = functools.partial(linear.plain, soft_cap=CAP)
    capped = head._replace(variant="soft_cap", peers=(), options={"soft_cap": CAP}, plain=plain_capped)
    tied = head._replace(
        variant="class_axis=0",
        peers=(),
        draw=linear.draw_tied,
        call=linear.ours_tied,
        plain=linear.tied(linear.plain),
        products=linear.tied(linear.products),
    )
    rows = [Row(head, *HEAD, "bfloat16"), Row(head, *large, "bfloat16")]
    rows.append(Row(head._replace(variant="ways to call", peers=(), ways=ways), *large, "bfloat16"))
    rows += [Row(capped, *large, "bfloat16"), Row(tied, *large, "bfloat16")]

    integers = case("softmax_cross_entropy_with_integer_labels")
    rows += [Row(integers, *shapes, dtype) for shapes in (LOGITS, ARRAY) for dtype in ("bfloat16", "float32")]
    rows.append(Row(case("softmax_cross_entropy"), *LOGITS, "bfloat16"))
    rows += [Row(case(loss), *ARRAY, "float32") for loss in ELEMENTS]
    rows.append(Row(case("ctc_loss"), (64, 1000, 100, 1000), (4, 100, 10, 100), "float32"))
    rows.append(Row(case("ctc_loss"), (64, 1000, 100, 32), (8, 100, 10, 32), "float32"))
    rows.append(Row(case("rnnt_loss"), (16, 400, 101, 1024), (2, 20, 6, 64), "float32"))
    for loss in TF32:
        rows += [Row(form, (8192, 512), (512, 64), "float32") for form in (case(loss), case(loss).highest())]
    return rows


def _last() -> list[Row]:
    head = case("linear_cross_entropy")
    rows = [Row(form, *HEAD, "float32") for form in (head, head.highest())]
    return rows + [Row(case(loss), *ARRAY, "bfloat16") for loss in ELEMENTS]


FIRST, LAST = _first(), _last()
