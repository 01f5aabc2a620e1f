"""The sweep over planted extremes, against what its page says. `pytest -m sweep` tries every loss with every input."""

import re

import extremes
import extremes_others
import numpy as np
import pytest
from cases import CASES
from extremes_truth import Inputs

FEW = ("sigmoid_binary_cross_entropy", "log_cosh", "nll_loss", "huber_loss-delta")
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in extremes.PAGE.read_text().splitlines()]


def lost(tally):
    return sum(n for (*_, verdict), n in tally.counts.items() if verdict in ("wrong", "NaN"))


def lost_on_the_page(loss):
    (row,) = [row for row in ROWS if row[:2] == [f"`{loss}`", "jaxloss"] and len(row) == 9]
    return sum(int(n) for cell in row[3:] for n in re.findall(r"\d+", cell))


@pytest.mark.parametrize("case", [case for case in CASES if case.id in FEW], ids=lambda case: case.id)
def test_a_few_losses_lose_nothing(case):
    tally = extremes.sweep([case], dtypes=[np.float32])
    assert tally.counts
    assert not tally.refusals
    assert not tally.examples, tally.examples[0]
    assert lost_on_the_page(case.id) == 0


@pytest.mark.sweep
@pytest.mark.parametrize("case", [*CASES, *extremes_others.PLANTED], ids=extremes.name)
def test_no_loss_loses_more_than_the_page_says(case):
    tally = extremes.sweep([case])
    assert not tally.refusals
    assert lost(tally) <= lost_on_the_page(extremes.name(case)), tally.examples[:3]


def test_the_page_has_every_loss_and_each_peer_loses_more():
    assert {extremes.name(case) for case in extremes.ALL} == {
        row[0].strip("`") for row in ROWS if "jaxloss" in row[1:2]
    }
    shares = {}
    for row in ROWS:
        if len(row) == 7 and row[1].isdigit():
            tried, wrong, missing = map(int, row[2:5])
            shares[row[0]] = (wrong + missing) / tried
    assert shares.keys() == {"jaxloss", "optax", "Keras", "PyTorch"}
    ours = shares.pop("jaxloss")
    assert ours < min(shares.values()) / 10


def test_what_is_lost_is_wrong(monkeypatch):
    """Of the textbook in float32, without care."""
    (case,) = [case for case in CASES if case.id == "sigmoid_binary_cross_entropy"]
    monkeypatch.setattr(type(case), "__call__", lambda self, x, t, **masks: self.plain(x, t))
    point = Inputs(np.array([0.5, -17.0, 100.0, np.inf]), np.array([1.0, 0.0, 0.0, 1.0]), np.ones(1))
    monkeypatch.setattr(extremes, "planted", lambda case, dtype: [point])
    monkeypatch.setattr(extremes, "empty", lambda tally, case: None)
    counts = extremes.sweep([case], dtypes=[np.float32]).counts
    assert [counts["jaxloss", case.id, "value", v] for v in ("right", "wrong", "NaN")] == [1, 2, 1]
