"""The sweep over planted extremes. `pytest -m sweep` tries every loss with every input."""

import extremes
import extremes_others
import extremes_page
import numpy as np
import pytest
from cases import CASES
from extremes_truth import Inputs

pytestmark = pytest.mark.exact

FEW = (
    "softmax_cross_entropy_with_integer_labels",
    "sigmoid_binary_cross_entropy",
    "log_cosh",
    "nll_loss",
    "triplet_margin_loss-margin-eps",
)
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in extremes.PAGE.read_text().splitlines()]


@pytest.mark.parametrize("case", [case for case in CASES if case.id in FEW], ids=lambda case: case.id)
def test_a_few_losses_lose_nothing(case):
    tally = extremes.sweep([case], dtypes=[np.float32])
    assert tally.counts
    assert not tally.refusals
    assert not tally.examples, tally.examples[0]


@pytest.mark.sweep
@pytest.mark.parametrize("case", [*CASES, *extremes_others.PLANTED], ids=extremes.name)
def test_no_loss_loses_anything(case):
    tally = extremes.sweep([case])
    assert not tally.refusals
    assert not tally.examples, tally.examples[0]


def test_the_page_has_every_loss_without_a_loss_and_peers_that_lose():
    ours = {row[0].strip("`"): set(row[3:]) for row in ROWS if row[1:2] == ["jaxloss"] and len(row) == 9}
    assert ours.keys() == {extremes.name(case) for case in extremes.ALL}
    assert set.union(*ours.values()) <= {"0", ""}
    lost = {row[0]: int(row[3]) + int(row[4]) for row in ROWS if len(row) == 5 and row[1].isdigit()}
    assert lost.pop("jaxloss") == 0
    assert lost.keys() == {"optax", "Keras", "PyTorch"}
    assert all(lost.values())


def test_a_loss_alone_rewrites_its_rows():
    text, order = extremes.PAGE.read_text(), list(map(extremes.name, extremes.ALL))
    ours = ["`huber_loss-delta`", "jaxloss", "11196", *["0"] * 6]
    assert extremes_page.rewritten(text, [ours], [], order, extremes.COLUMNS) == text
    example = ["`huber_loss-delta`", "jaxloss", "value, float32", *"1234"]
    changed = extremes_page.rewritten(text, [[*ours[:4], "1 / 2", *ours[5:]]], [example], order, extremes.COLUMNS)
    new = {line.split("|")[1].strip() for line in set(changed.splitlines()) - set(text.splitlines())}
    assert new == {"jaxloss", "`huber_loss-delta`"}


def test_what_is_lost_is_wrong(monkeypatch):
    """Of the textbook in float32, without care."""
    (case,) = [case for case in CASES if case.id == "sigmoid_binary_cross_entropy"]
    monkeypatch.setattr(type(case), "__call__", lambda self, x, t, **masks: self.plain(x, t))
    point = Inputs(np.array([0.5, -17.0, 100.0, np.inf]), np.array([1.0, 0.0, 0.0, 1.0]), np.ones(1))
    monkeypatch.setattr(extremes, "planted", lambda case, dtype: [point])
    monkeypatch.setattr(extremes, "empty", lambda tally, case: None)
    counts = extremes.sweep([case], dtypes=[np.float32]).counts
    assert [counts["jaxloss", case.id, "value", v] for v in ("right", "wrong", "NaN")] == [1, 2, 1]
