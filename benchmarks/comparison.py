"""What of the records is compared, beside whom, and when two candidates are equal."""

import math
from collections.abc import Callable
from typing import NamedTuple

from .cases import CASES
from .tables import OF_PRODUCTS, OF_SEQUENCES, SMALL, Record

EQUAL = 0.05
DISPATCH = 0.15  # ms: below it, the time is that of the host
ORDER = [case.loss for case in CASES]


class Group(NamedTuple):
    title: str
    part: str  # of the names of its charts
    belongs: Callable[[Record], bool]
    floor: str = "two passes"


LINEAR = Group("Without the logits", "linear", lambda r: r["loss"] in OF_PRODUCTS, floor="the products")
GROUPS = (
    Group("Cross entropies of a softmax", "softmax", lambda r: r["loss"].startswith("softmax")),
    LINEAR,
    Group("Sequences", "sequences", lambda r: r["loss"] in OF_SEQUENCES),
    Group(
        "Elements and features",
        "elements",
        lambda r: r["loss"] not in SMALL | OF_PRODUCTS | OF_SEQUENCES and not r["loss"].startswith("softmax"),
    ),
    Group("More losses", "more", lambda r: r["loss"] in SMALL and not r["loss"].startswith("softmax")),
)


def in_order(result: Record) -> Record:
    """That of the table of cases, without those that are no longer there."""
    return result | {"records": sorted((r for r in result["records"] if r["loss"] in ORDER), key=_place)}


def _place(record: Record) -> tuple:
    rank = ORDER.index(record["loss"]), record["dtype"] == "bfloat16", -math.prod(record["shape"])
    return *rank, record.get("variant", "")


def is_comparable(record: Record) -> bool:
    """A loss as the table of cases has it, beside its peers."""
    return not record.get("kind") and not record.get("variant") and "jaxloss" in record["candidates"]


def is_dispatch(record: Record) -> bool:
    return record["candidates"]["jaxloss"]["ms"] < DISPATCH


def is_equal(spread: list[float], again: list[float]) -> bool:
    """Whether ours and theirs differ by no more than noise."""
    low, middle, high = spread
    return low <= 1 <= high or abs(math.log(middle)) <= max(math.log(1 + EQUAL), abs(math.log(again[1])))


def fastest_other(record: Record) -> str | None:
    others = [name for name in record["candidates"] if name != "jaxloss"]
    return max(others, key=lambda name: over(record, name), default=None)


def over(record: Record, peer: str) -> float:
    """The time of ours over that of the peer."""
    return record["candidates"][peer]["ours_over_it"][1]


def over_fastest(record: Record) -> float:
    """Of a record without others, no time was left for them: less than any ratio."""
    peer = fastest_other(record)
    return 0.0 if peer is None else over(record, peer)


def is_slower(record: Record, peer: str) -> bool:
    return over(record, peer) > 1 and not is_equal(record["candidates"][peer]["ours_over_it"], record["again"])


def ratio(record: Record, peer: str) -> str:
    if peer not in record["candidates"]:
        return ""
    text = f"{over(record, peer):.2f}"
    if is_equal(record["candidates"][peer]["ours_over_it"], record["again"]):
        return f"{text} ≈"
    return text if is_slower(record, peer) else f"**{text}**"
