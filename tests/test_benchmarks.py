"""The benchmarks run, every candidate computes the loss that it stands beside, and results outlive other runs."""

import itertools
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss

pytest.importorskip("tabulate")
pytest.importorskip("cpuinfo")
pytest.importorskip("matplotlib")
from benchmarks import comparison, eager, headline, measure, records, report, run, tables
from benchmarks.candidates import MODULES, Candidate, ours
from benchmarks.cases import CASES
from benchmarks.compiled_text import collectives, in_loops, largest

ROOT = pathlib.Path(__file__).parent.parent
NOT_MEASURED = {
    *("reduce", "sum_and_weight", "SumAndWeight", "smooth_labels", "token_metrics", "TokenMetrics"),  # no loss
    *("log_probs", "LogProbs", "CTCAlignment", "CTCDecoded"),
    *("ctc_align", "ctc_beam_decode", "ctc_greedy_decode"),
    "safe_softmax_cross_entropy",  # another name
    "make_fenchel_young_loss",  # of any maximum
    # from the same core as linear_cross_entropy
    *("linear_cross_entropy_with_metrics", "linear_sigmoid_cross_entropy"),
    *("linear_cross_entropy_with_indexed_labels", "linear_cross_entropy_with_soft_labels"),
    "linear_kl_divergence_with_top_k_targets",
    *("softmax_cross_entropy_with_indexed_labels", "softmax_kl_divergence_with_top_k_targets"),
    *("nce_loss", "sampled_softmax_loss"),
    *("linear_kl_divergence", "linear_jensen_shannon_divergence"),
    "ctc_loss_with_forward_probs",  # and as ctc_loss
    "rnnt_loss_with_joint",  # and as rnnt_loss
    *("policy_gradient_loss", "cispo_loss", "sapo_loss", "clipped_value_loss"),  # as ppo_clip_loss
    *("kto_loss", "odds_ratio_loss"),  # as dpo_loss
    *("info_nce_loss", "supervised_contrastive_loss"),  # as siglip_loss, and ntxent
    *("load_balancing_loss", "router_z_loss", "plackett_luce_loss"),  # of few experts and items
    *("barlow_twins_loss", "vicreg_loss"),  # one product of matrices
    *("contrastive_loss", "lifted_structure_loss", "nca_loss", "semi_hard_triplet_loss"),  # as circle_loss
    *("batch_hard_triplet_loss", "koleo_loss", "multi_similarity_loss", "tuplet_margin_loss", "angular_loss"),
    *("angular_margin_loss", "proxy_anchor_loss"),  # as linear_cross_entropy, and circle_loss
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
    return output, benchmarks("--quick", "--output", output)


def benchmarks(*arguments):
    """What the command prints."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_candidate_computes_the_same_loss(quick):
    output, printed = quick
    (file,) = (f for f in (output / "benchmarks" / "results").glob("*.json") if f.name != "another-gpu.json")
    found = [r for r in json.loads(file.read_text())["records"] if not r.get("kind")]
    assert {r["loss"] for r in found} == {case.loss for case in CASES}
    assert all("jaxloss" in r["candidates"] for r in found), [r["skipped"] for r in found]
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
    details = (output / "benchmarks" / "results" / "another-gpu.md").read_text()
    assert "**0.50** (0e+00)" in details
    assert "`huber_loss`" in details


def test_the_pages_are_what_the_records_say():
    pages = report.pages(ROOT)
    for name, text in pages.items():
        committed = (ROOT / name).read_text()
        assert committed == text, f"{name} is not what the records say. Run: python -m benchmarks --report"
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / report.RESULTS).glob("*.md")}
    assert written == set(pages) - {report.SUMMARY}


def test_the_summary_is_short():
    text = (ROOT / report.SUMMARY).read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 15_000


def test_lines_outside_of_tables_are_short_and_links_lead_somewhere():
    shown = set()
    for name, text in report.pages(ROOT).items():
        folder = (ROOT / name).parent
        assert all(len(line) <= 200 for line in text.splitlines() if not line.startswith("|")), name
        for link in re.findall(r'\]\(([^)#:]+)\)|(?:src|srcset)="([^"]+)"', text):
            file = (folder / "".join(link)).resolve()
            assert file.exists(), link
            shown.add(file)
    assert set((ROOT / report.RESULTS).glob("*.svg")) <= shown


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
    assert comparison.is_equal(spread, [again, again, again]) is equal


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


# The short list, the time budget, and what goes wrong on the way.


@pytest.fixture
def as_a_user_runs_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


HUBER, LINEAR = (next(c for c in CASES if c.loss == loss) for loss in ("huber_loss", "linear_cross_entropy"))
CEILINGS = {"copy_gbps": 1.0, "matmul_float32_tflops": 1.0, "matmul_bfloat16_tflops": 1.0}
QUICK = measure.limits_of("cpu", quick=True)


def candidate(run):
    return Candidate(run, jax.block_until_ready, np.asarray, None, 0)


def out_of_memory(*_):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\nMore lines.")


def test_results_alone_are_written_and_make_a_page_elsewhere(tmp_path):
    page = (ROOT / "BENCHMARKS.md").read_bytes()
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    printed = benchmarks("--quick", "--cases", "headline", "--only", "ntxent", "huber", "--out", out, "--commit", "abc")
    (file,) = out.iterdir()
    result = json.loads(file.read_text())
    assert {session["commit"] for session in result["sessions"]} == {"abc"}
    found = {(r["loss"], r.get("kind"), r.get("variant")): r for r in result["records"]}
    assert set(found) == {
        ("ntxent", None, None),
        ("ntxent", None, "highest precision"),
        ("huber_loss", None, None),
        ("huber_loss", "eager", None),
    }
    assert all("jaxloss" in record["candidates"] for record in found.values()), printed
    benchmarks("--report", file, "--output", elsewhere)
    name = result["device"]["name"]
    assert f"## {name}" in (elsewhere / "BENCHMARKS.md").read_text()
    details = (elsewhere / "benchmarks" / "results" / f"{records.slug(name)}.md").read_text()
    for part in ("`ntxent`, highest precision", "## Eager calls", "| abc |", f"# Benchmarks: {name}"):
        assert part in details
    assert (ROOT / "BENCHMARKS.md").read_bytes() == page


def test_no_record_is_started_after_the_time_is_up(tmp_path, monkeypatch, capsys):
    clock = itertools.count()
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(measure, "ceilings", lambda quick: CEILINGS)
    names = [{"loss": "huber_loss", "shape": [n, 2], "dtype": "float32"} for n in range(9)]
    tasks = [run.Task(name, lambda: {"candidates": {}, "skipped": {}}) for name in names]
    monkeypatch.setattr(run, "tasks", lambda *_: tasks)
    session = {"versions": {"jax": "0"}, "commit": "abc"}
    run.measure_all("headline", [""], True, tmp_path, session, deadline=5)
    (file,) = tmp_path.iterdir()
    found = len(json.loads(file.read_text())["records"])
    assert 0 < found < 9
    assert f"no time left: {9 - found} of 9 records were not started" in capsys.readouterr().out


def test_results_are_saved_after_each_record(tmp_path, monkeypatch):
    def cut_off():
        raise KeyboardInterrupt

    name = {"loss": "huber_loss", "shape": [2, 2], "dtype": "float32"}
    tasks = [run.Task(name, lambda: {"candidates": {}, "skipped": {}}), run.Task(name, cut_off)]
    monkeypatch.setattr(run, "tasks", lambda *_: tasks)
    monkeypatch.setattr(measure, "ceilings", lambda quick: CEILINGS)
    with pytest.raises(KeyboardInterrupt):
        run.measure_all("all", [""], True, tmp_path, {"versions": {"jax": "0"}, "commit": "abc"}, deadline=math.inf)
    (file,) = tmp_path.iterdir()
    assert len(json.loads(file.read_text())["records"]) == 1


def test_candidates_that_fail_are_lines_of_the_record(monkeypatch, as_a_user_runs_it):
    real = measure.candidates
    calls = itertools.count()

    def fails_in_the_rounds():
        return out_of_memory() if next(calls) > 1 else (1.0, (jnp.zeros((4, 8)),))

    def with_others(*arguments):
        yield from (pair for pair in real(*arguments) if pair[0] in ("jaxloss", "plain"))
        yield "early", out_of_memory
        yield "late", lambda: candidate(fails_in_the_rounds)
        yield "wrong", lambda: candidate(lambda: 1 / 0)

    monkeypatch.setattr(measure, "candidates", with_others)
    found = measure.record(HUBER, (4, 8), "float32", "cpu", CEILINGS, True, QUICK)
    assert set(found["candidates"]) == {"jaxloss", "plain"}
    assert found["skipped"]["early"] == found["skipped"]["late"] == measure.OUT_OF_MEMORY
    assert found["skipped"]["wrong"] == "division by zero"


def test_the_page_has_records_without_ours_and_with_ours_alone(monkeypatch, tmp_path, as_a_user_runs_it):
    real = measure.candidates

    def without_ours(*arguments):
        yield "jaxloss", out_of_memory
        yield from (pair for pair in real(*arguments) if pair[0] == "plain")

    monkeypatch.setattr(measure, "candidates", without_ours)
    names = {"loss": "huber_loss", "shape": [4, 8], "dtype": "float32"}
    found = names | measure.record(HUBER, (4, 8), "float32", "cpu", CEILINGS, True, QUICK)
    assert found["skipped"]["jaxloss"] == measure.OUT_OF_MEMORY
    assert found["candidates"]["plain"]["ms"] > 0
    failed = names | {"shape": [5, 8], "candidates": {}, "skipped": {"jaxloss": "no device"}}
    session = {"command": "c", "commit": "abc", "date": "d", "versions": {"jax": "0"}, "ceilings": CEILINGS}
    result = {"device": {"name": "A GPU", "platform": "gpu"}, "sessions": [], "records": []}
    monkeypatch.setattr(measure, "candidates", real)
    late = QUICK._replace(deadline=-math.inf)
    alone = names | {"shape": [6, 8]} | measure.record(HUBER, (6, 8), "float32", "cpu", CEILINGS, True, late)
    file = tmp_path / "benchmarks" / "results" / "a-gpu.json"
    records.save(file, records.merge(result, session, [found, failed, alone]))
    assert "ms, alone" in report.write(tmp_path).read_text()
    details = file.with_suffix(".md").read_text()
    assert "| jaxloss | out of memory | `huber_loss` 4×8 f32 |" in details
    assert "| jaxloss | no device | `huber_loss` 5×8 f32 |" in details


def test_times_are_kept_where_the_truth_is_not_known(monkeypatch, as_a_user_runs_it):
    monkeypatch.setattr(measure, "truth", out_of_memory)
    found = measure.record(HUBER._replace(peers=()), (4, 8), "float32", "cpu", CEILINGS, True, QUICK)
    assert found["skipped"]["float64"] == measure.OUT_OF_MEMORY
    assert found["candidates"]["jaxloss"]["ms"] > 0


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA error")])
def test_memory_of_torch_is_given_back_after_each_record(monkeypatch, error):
    emptied = []

    def empty_cache():
        emptied.append(True)
        if error:
            raise error

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(empty_cache=empty_cache)))
    found = run.measured(run.Task({}, out_of_memory), "gpu")
    assert found == {"candidates": {}, "skipped": {"jaxloss": measure.OUT_OF_MEMORY}}
    assert emptied == [True]


def test_a_peer_that_is_not_installed_is_a_line_of_the_record(monkeypatch, as_a_user_runs_it):
    absent = dict.fromkeys(MODULES, "not installed")
    for module in ("benchmarks.measure.missing", "benchmarks.candidates.missing"):
        monkeypatch.setattr(module, lambda device: absent)
    found = measure.record(HUBER, (4, 8), "float32", "cpu", CEILINGS, True, QUICK)
    assert found["skipped"] == {peer.name: "not installed" for peer in HUBER.peers}
    assert set(found["candidates"]) == {"jaxloss", "plain"}
    assert "not installed" not in run.summary({"loss": "l", "shape": [1], "dtype": "float32"} | found, absent)


def test_candidates_of_a_record_end_with_the_time_but_for_ours(as_a_user_runs_it):
    late = QUICK._replace(deadline=-math.inf)
    found = measure.record(HUBER, (4, 8), "float32", "cpu", CEILINGS, True, late)
    assert set(found["candidates"]) == {"jaxloss"}
    assert found["skipped"]["plain"] == measure.LATE


def test_what_would_take_too_long_is_left_out_of_the_rounds_but_for_ours(monkeypatch):
    monkeypatch.setattr(measure, "_seconds", lambda candidate, repeats: candidate)
    times, failed = measure.rounds({"jaxloss": 9.0, "slow": 0.6, "fast": 0.1}, measure.Limits(1e-3, 2))
    assert set(times) == {"jaxloss", "fast"}
    assert set(failed) == {"slow"}


def test_the_commit_of_a_copy_is_a_hash_of_its_sources(tmp_path):
    assert records.session("c", "abc")["commit"] == "abc"
    copy = tmp_path / "copy"
    for folder in ("jaxloss", "benchmarks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    first = records._commit(copy)
    assert first.startswith("unknown, sources ")
    if shutil.which("git"):  # the copy lies in the checkout of something else
        subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
        assert records._commit(copy) == first
    with (copy / "jaxloss" / "_regression.py").open("a") as file:
        file.write("\n")
    assert records._commit(copy) != first


@pytest.mark.parametrize("where", ["shape", "on_cpu"])
def test_the_short_list_is_of_cases_and_can_be_called(where, as_a_user_runs_it):
    rows = [(row.case, getattr(row, where), row.dtype) for row in (*headline.FIRST, *headline.LAST)]
    assert rows[0][0].loss == "linear_cross_entropy"
    assert {case.loss for case, *_ in rows} <= {case.loss for case in CASES}
    keys = [(case.loss, case.variant, *rest) for case, *rest in rows]
    assert len(set(keys)) == len(keys)  # a record replaces another with the same key
    for case, shape, dtype in rows:
        arrays = jax.eval_shape(lambda case=case, rest=(shape, dtype): case.draw(jax.random.key(0), *rest))
        for form in (case.plain, ours(case), *case.ways.values()):
            assert jax.eval_shape(form, *arrays).dtype in (jnp.float32, jnp.bfloat16)


def test_small_arrays_leave_the_cache_of_a_gpu_and_products_of_float32_are_measured_twice():
    runs = run.everything([""], accelerator=True, quick=False)
    for case, shape, _ in runs:
        if case.loss in tables.SMALL - {"ntxent", "circle_loss", "multilabel_hinge_loss"}:
            assert 4 * math.prod(shape) > 1e8, case.loss
    for loss in "ntxent", "circle_loss":
        assert [case.precision for case, *_ in runs if case.loss == loss] == [None, "highest"]
    assert all(case.precision is None for case, *_ in run.everything([""], accelerator=False, quick=False))
    ceilings = CEILINGS | {"matmul_tf32_tflops": 8.0}
    rates = [measure._tflops(ceilings, "float32", precision, "gpu") for precision in (None, "highest")]
    assert rates == [8.0, 1.0]


def test_the_truth_of_a_gpu_is_that_of_a_cpu_in_other_chunks(monkeypatch, as_a_user_runs_it):
    monkeypatch.setattr(measure, "COMPARED", 5 * 32)
    monkeypatch.setattr(measure, "CHUNK", 5 * 32)
    monkeypatch.setattr(measure, "CHUNK_ON_GPU", 7 * 32)
    arrays = measure.draw(HUBER, (24, 32), "bfloat16")
    (*sums, slopes), (*others, theirs) = (measure.truth(HUBER, arrays, 32, device) for device in ("cpu", "gpu"))
    np.testing.assert_allclose(sums, others, rtol=1e-12)
    np.testing.assert_allclose(slopes, theirs, rtol=1e-12)
    assert slopes[0].dtype == "float64"


def test_tokens_are_halved_until_they_fit(monkeypatch, as_a_user_runs_it):
    real = measure.draw
    monkeypatch.setattr(
        measure, "draw", lambda case, shape, dtype: out_of_memory() if shape[0] > 8 else real(case, shape, dtype)
    )
    head = LINEAR._replace(peers=())
    monkeypatch.setattr(measure, "missing", lambda device: {"optax": "not installed"})
    found = measure.most_tokens(head, (64, 4, 16), "bfloat16", "cpu", QUICK)
    assert found["candidates"] == {"jaxloss": {"tokens": 8}}
    assert found["skipped"] == {"optax": "not installed"}


def test_compilations_of_eager_calls_are_counted():
    again = jax.jit(lambda x: x + 1)
    x = jnp.ones(3)
    assert eager.compilations(lambda: again(x)) == 0
    assert eager.compilations(lambda: jax.jit(lambda x: x + 1)(x)) == 1
