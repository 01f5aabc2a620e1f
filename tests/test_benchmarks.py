"""The benchmarks run, every candidate computes the loss that it stands beside, and results outlive other runs."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import jaxloss

pytest.importorskip("tabulate")
pytest.importorskip("cpuinfo")
pytest.importorskip("matplotlib")
from benchmarks import measure, records, report, tables
from benchmarks.candidates import MODULES
from benchmarks.cases import CASES
from benchmarks.compiled_text import collectives, in_loops, largest

ROOT = pathlib.Path(__file__).parent.parent
NOT_MEASURED = {
    *("reduce", "smooth_labels", "TokenMetrics", "LogProbs", "CTCAlignment", "CTCDecoded"),  # no loss
    *("ctc_align", "ctc_beam_decode", "ctc_greedy_decode"),
    "safe_softmax_cross_entropy",  # another name
    "make_fenchel_young_loss",  # of any maximum
    # from the same core as linear_cross_entropy
    *("linear_cross_entropy_with_metrics", "linear_log_probs"),
    *("linear_kl_divergence", "linear_jensen_shannon_divergence"),
    "ctc_loss_with_forward_probs",  # and as ctc_loss
    "rnnt_loss_with_joint",  # and as rnnt_loss
}


def test_every_loss_has_a_case():
    assert {case.loss for case in CASES} == set(jaxloss.__all__) - NOT_MEASURED


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run writes beside the results of another device."""
    output = tmp_path_factory.mktemp("benchmarks")
    spread = [0.5, 0.5, 0.5]
    candidate = {"ms": 1.0, "of_floor": spread, "ours_over_it": spread, "compile_s": None, "temp_bytes": None}
    candidate |= {"value_error": 0.0, "gradient_error": 0.0}
    other = {
        "device": {"name": "Another GPU", "platform": "gpu"},
        "sessions": [
            {
                "command": "python -m benchmarks",
                "commit": "unknown",
                "date": "2020-01-01",
                "versions": {"jax": "0.8.0"},
                "ceilings": {"copy_gbps": 1.0, "matmul_float32_tflops": 1.0, "matmul_bfloat16_tflops": 1.0},
            }
        ],
        "records": [
            {
                "loss": "huber_loss",
                "shape": [4, 4],
                "dtype": "float32",
                "bytes": 1,
                "again": [1.0, 1.0, 1.0],
                "candidates": {"jaxloss": candidate | {"temp_bytes": 0}, "liger": candidate},
                "session": 0,
            }
        ],
    }
    records.save(output / "benchmarks" / "results" / "another-gpu.json", other)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(output)]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def test_every_candidate_computes_the_same_loss(quick):
    output, printed = quick
    (file,) = (f for f in (output / "benchmarks" / "results").glob("*.json") if f.name != "another-gpu.json")
    found = json.loads(file.read_text())["records"]
    assert {r["loss"] for r in found} == {case.loss for case in CASES}
    seen = set()
    for record in found:
        for name, candidate in record["candidates"].items():
            seen.add(name)
            # Not a tolerance of exactness: half precision that is summed and divided in half precision passes too.
            assert candidate["value_error"] < 2e-2, (record["loss"], record["dtype"], name)
            assert candidate["gradient_error"] < 5e-2, (record["loss"], record["dtype"], name)
    for peer in MODULES:
        assert (peer in seen) != (f"skipped {peer}: " in printed), printed


def test_the_page_shows_all_and_keeps_what_others_measured(quick):
    output, _ = quick
    page = (output / "BENCHMARKS.md").read_text()
    for case in CASES:
        assert f"`{case.loss}`" in page
    assert "## Another GPU" in page
    assert "0.50" in page
    assert tables.MISSING in page  # on a TPU
    for picture in (output / "benchmarks" / "results").glob("*-light.svg"):
        assert picture.stat().st_size > 10_000
        assert picture.with_name(picture.name.replace("-light", "-dark")).exists()
        assert f'src="benchmarks/results/{picture.name}"' in page


def test_new_records_replace_old_ones_and_sessions_end_with_their_records():
    def record(loss, value):
        return {"loss": loss, "shape": [2, 3], "dtype": "float32", "value": value}

    first = records.merge({"sessions": [], "records": []}, {"date": 1}, [record("a", 1), record("b", 1)])
    second = records.merge(first, {"date": 2}, [record("b", 2)])
    assert [(r["loss"], r["value"], r["session"]) for r in second["records"]] == [("a", 1, 0), ("b", 2, 1)]
    third = records.merge(second, {"date": 3}, [record("a", 3)])
    assert third["sessions"] == [{"date": 2}, {"date": 3}]
    assert [(r["loss"], r["session"]) for r in third["records"]] == [("b", 0), ("a", 1)]


@pytest.mark.parametrize(
    ("spread", "again", "equal"),
    [
        ([0.8, 0.9, 1.1], 1.0, True),  # the middle of the rounds contains 1
        ([1.02, 1.04, 1.06], 1.0, True),  # within 5 %
        ([1.06, 1.08, 1.1], 0.9, True),  # our loss differs more from itself
        ([1.06, 1.08, 1.1], 1.01, False),
        ([0.5, 0.6, 0.7], 1.1, False),
    ],
)
def test_what_counts_as_equal(spread, again, equal):
    assert report.is_equal(spread, [again, again, again]) is equal


def test_collectives_are_read_from_compiled_texts():
    text = """
      %all-reduce.1 = bf16[4096]{0:T(1024)(128)(2,1)S(1)} all-reduce(%get-tuple-element), channel_id=2
      %all-gather = (f32[8,2]{1,0}, f32[]) all-gather(%a, %b), channel_id=1
      %all-reduce-start.3 = ((s32[8192]{0}), s32[8192]{0}) all-reduce-start(%wrapped), channel_id=4
      %all-reduce-done.3 = s32[8192]{0} all-reduce-done(%all-reduce-start.3)
      %fusion = f32[16384,16384]{1,0} fusion(%all-reduce.1), kind=kLoop
    """
    assert collectives(text) == ["all-gather f32[8,2] f32[]", "all-reduce bf16[4096]", "all-reduce s32[8192]"]
    assert largest(collectives(text)) == 4 * 8192


def test_what_a_loop_exchanges_is_told_from_what_is_exchanged_once():
    text = """
%body.clone (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-reduce.1 = f32[8]{0} all-reduce(%x), channel_id=1
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]{0}) while(%tuple), condition=%cond, body=%body.clone
  %all-reduce.2 = f32[4]{0} all-reduce(%y), channel_id=2
}
"""
    assert collectives(text) == ["all-reduce f32[4]", "all-reduce f32[8]"]
    assert collectives(in_loops(text)) == ["all-reduce f32[8]"]


def test_the_true_gradient_of_a_weight_is_that_of_all_chunks_of_rows(monkeypatch):
    (case,) = (case for case in CASES if case.loss == "linear_cross_entropy")
    shape = 24, 4, 32
    arrays = measure.draw(case, shape, "float32")
    value, size, (of_hidden, of_weight) = measure.truth(case, arrays, shape[-1])
    monkeypatch.setattr(measure, "OF_PRODUCTS", 10 * 32)
    *sums, (first_rows, all_rows) = measure.truth(case, arrays, shape[-1])
    np.testing.assert_allclose(sums, [value, size], rtol=1e-12)
    np.testing.assert_allclose(first_rows, of_hidden[:10], rtol=1e-12)
    np.testing.assert_allclose(all_rows, of_weight, rtol=1e-10)
