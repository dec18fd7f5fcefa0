"""The benchmark runs, refuses wrong gradients and says who is missing. Nothing here asserts a time."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import measure, peers, plots, process, products, report, workloads


ROOT = Path(__file__).parents[1]
NETWORK, POOL = workloads.small(workloads.WORKLOADS[0]), workloads.small(workloads.WORKLOADS[7])


class Here(process.Runner):
    """A peer without a process of its own."""

    def ask(self, command, *args):
        try:
            return getattr(self, command)(*args)
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from None


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch):
    monkeypatch.setattr(process, "SECONDS", 0)
    monkeypatch.setattr(process, "SIDE", 8)
    monkeypatch.setattr(process, "gc", Mock())                  # the tests have too much to collect


def race(monkeypatch, workload, dtype="float64", **steps):
    """A race of peers in this process; `steps` are further peers, made as in peers.PEERS."""
    monkeypatch.setattr(peers, "PEERS", peers.PEERS)
    for name, make in steps.items():
        monkeypatch.setitem(peers.PEERS, name, ("numpy", make))
    names = ["fast", "nn", "readable", *steps]
    return measure.race(workload, dtype, [Here(name) for name in names], 2, Here("readable"))


def changed(change):
    """A peer whose gradients are changed from the second step on."""
    def make(workload, data):
        step, calls = peers.readable(workload, data), []

        def wrong():
            gradients = step()
            calls.append(0)
            return change(gradients) if len(calls) > 1 else gradients
        return wrong
    return make


# ------------------------------------------------------------------------------------------------ the race

def test_wrong_gradients_are_refused_and_not_timed(monkeypatch):
    def broken(workload, data):
        raise ArithmeticError("broken")

    def scaled(factor):
        return changed(lambda gradients: [*gradients[:-1], factor * gradients[-1]])

    found = race(monkeypatch, NETWORK, good=scaled(1 + 1e-13), off=scaled(1 + 1e-9), nan=scaled(np.nan),
                 inf=scaled(np.inf), shape=changed(lambda gradients: [*gradients[:-1], gradients[-1][None]]),
                 fewer=changed(lambda gradients: gradients[:-1]), broken=broken)
    assert set(found["seconds"]) == {"fast", "nn", "readable", "good"}
    assert set(found["refused"]) == {"off", "nan", "inf", "shape", "fewer", "broken"}
    assert "is off by 1.0e-09" in found["refused"]["off"] and "ArithmeticError: broken" in found["refused"]["broken"]
    assert all(len(seconds) == 2 for seconds in (*found["seconds"].values(), found["peak"]))
    narrow = race(monkeypatch, POOL, "float32", good=scaled(1 + 1e-6), off=scaled(1 + 1e-3))
    assert set(narrow["refused"]) == {"off"}


def test_the_products_are_those_that_are_counted(monkeypatch):
    for workload in (*workloads.WORKLOADS, NETWORK):
        found, shape = 0, workload.shape
        for layer, (_, output) in zip(workload.layers, workloads.shapes(workload)):
            found += 2 * sum(math.prod(size) for size in products.sizes(layer, shape, output))
            shape = output
        assert found == workloads.flops(workload), workload.name
    seconds = race(monkeypatch, NETWORK, products=products.products)["seconds"]
    assert len(seconds["products"]) == 2


def test_a_reference_that_is_not_finite_ends_the_race(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "readable", ("numpy", lambda workload, data: lambda: [np.array([np.nan])]))
    with pytest.raises(RuntimeError, match="the reference is not finite"):
        measure.race(NETWORK, "float64", [], 1, Here("readable"))


def test_an_error_comes_back_without_a_path():
    peer = process.Peer("readable")
    peer.ask("prepare", NETWORK, "float32")
    with pytest.raises(RuntimeError, match="readable: FileNotFoundError: .*here.npz") as error:
        peer.ask("save", "/no/such/folder/here.npz")
    assert "/" not in str(error.value)
    peer.close()


def test_the_reference_is_wide():
    reference = Here("readable")
    measure.race(NETWORK, "float32", [], 1, reference)
    assert all(gradient.dtype == "float64" for gradient in reference.step())


def test_slow_peers_stop_early_and_keep_their_pairs(monkeypatch):
    monkeypatch.setattr(measure, "BUDGET", -1)
    monkeypatch.setattr(measure, "LEAST", 1)
    found = race(monkeypatch, NETWORK)["seconds"]
    assert [len(found[name]) for name in ("fast", "nn", "readable")] == [2, 2, 1]
    row = {"seconds": {"a": [1, 2], "b": [2, 8, 5]}}
    assert report.ratios(row, "a", "b") == [0.5, 0.25] and report.ratios(row, "a", "c") is None


def test_fast_runs_the_twins_and_readable_none():
    data, ran = workloads.make_data(NETWORK, "float32"), []
    for make in (peers.fast, peers.readable):
        step = make(NETWORK, data)
        sys.setprofile(lambda frame, event, _: ran.append(frame.f_globals["__name__"]))
        step()
        sys.setprofile(None)
        assert ("backprop_lib.fast.mlp" in ran) == (make is peers.fast)
        ran.clear()


@pytest.mark.parametrize("i", [3, 8, 9, 11])
def test_layers_of_every_kind_agree(monkeypatch, i):
    workload = workloads.WORKLOADS[i]
    for dtype in ("float32", "float64"):
        assert not race(monkeypatch, workloads.small(workload), dtype)["refused"]


def test_central_differences_give_the_same_gradients():
    workload = workloads.NUMERIC[0]
    data = workloads.make_data(workload, "float64")
    for a, b in zip(peers.numeric(workload, data)(), peers.readable(workload, data)(), strict=True):
        assert peers.gradcheck.relative_error(a, b) < 1e-7


# ------------------------------------------------------------------------------------------------ the workloads

def test_the_table_of_goals_is_complete():
    assert [w.goals for w in workloads.WORKLOADS] == [
        (0.5, 0.55), (0.8, 0.9), (0.8, 0.95), (0.5, 1.0), (1.0, 0.95), (1.5, 0.45), (1.5, 0.6), (0.25, 0.6),
        (0.55, 0.9), (0.6, 0.6), (0.8, 0.8), (1.0, 0.3), (1.5, 0.75), (1.0, 0.9)]
    assert {w.name.split()[0] + str(w.shape[0]): w.share for w in workloads.WORKLOADS if w.share} == {
        "MLP256": 0.8, "conv8": 0.65, "RNN32": 0.6, "LSTM64": 0.6}
    assert [(what.split()[0], letter, limit) for what, letter, limit, *_ in workloads.GROWTH] == [
        ("LSTM", "T", 1.1), ("RNN", "T", None), ("conv", "N", 1.1), ("MLP", "H", None)]
    names = [w.name for w in (*workloads.WORKLOADS, *workloads.NUMERIC)]
    names += [make(size).name for *_, sizes, make in workloads.GROWTH for size in sizes]
    assert len(set(names)) == len(names)


def test_each_row_measures_its_workload_and_has_its_goal(monkeypatch):
    monkeypatch.setattr(measure, "race", lambda workload, dtype, *_: {"what": (workload, dtype)})
    monkeypatch.setattr(measure, "high_waters", lambda workload, dtype, names: {"what": (workload, dtype)})
    rows = [(part, table, workload, run()) for part, table, workload, run in
            measure.rows(SimpleNamespace(quick=False, peers=[], rounds=7), {}, None)]
    assert [part for part, *_ in rows] == ["time"] * 28 + ["memory"] * 14 + ["growth"] * 19 + ["numeric"] * 5
    for part, table, workload, row in rows:
        assert row["what"] == (workload, {"numeric": "float64", "growth": "float32"}.get(part, table))
    assert [row["goal"] for *_, row in rows[:28]] == [w.goals[i] for i in (0, 1) for w in workloads.WORKLOADS]
    assert [row["share"] for *_, row in rows[:28]] == [w.share for w in workloads.WORKLOADS] + [None] * 14
    assert all(f"{row['letter']}{row['size']}" in workload.name for part, _, workload, row in rows if part == "growth")


def test_numbers_are_the_same_in_both_widths_and_their_sums_exact():
    for workload in (workloads.WORKLOADS[i] for i in (0, 5, 8, 12)):
        narrow, wide = (workloads.make_data(workloads.small(workload), dtype) for dtype in ("float32", "float64"))
        for a, b in zip(*([data.x, data.target, *sum(data.params, [])] for data in (narrow, wide)), strict=True):
            assert np.array_equal(a, b)
        assert narrow.x.dtype == "float32" and wide.x.dtype == "float64"
    rng = np.random.default_rng(1)
    x, W = workloads.on_grid(rng, (5, 4096), 1), workloads.on_grid(rng, (4096, 7), 4096)
    assert x.any() and np.array_equal(x @ W, x.astype(float) @ W.astype(float))


def test_counts():
    conv = workloads.Workload("", (("conv", 2, 3, 5, 1),), (7, 2, 11, 13))
    assert workloads.shapes(conv)[-1][1] == (7, 3, 9, 11)
    assert workloads.flops(conv) == 6 * 7 * 3 * 9 * 11 * 2 * 5 * 5
    lstm = workloads.Workload("", (("lstm", 3, 5),), (2, 7, 3))
    assert workloads.flops(lstm) == 6 * 2 * 7 * 20 * (3 + 5)
    assert workloads.entries(lstm) == 2*7*3 + 20*3 + 20*5 + 2*20
    assert workloads.flops(POOL) == 0


# ------------------------------------------------------------------------------------------------ the report

def test_an_exponent_is_that_of_medians():
    rows = [{"size": n, "seconds": {"fast": [5 * n, 1, 9 * n]}} for n in (2, 4, 8)]
    assert report.exponent(report.curve(rows, "fast")) == pytest.approx(1)


def results_of(fast, goal, share=None):
    """Results of one row: seconds of fast where PyTorch takes 1."""
    row = {"name": "work", "seconds": {"fast": [fast] * 3, "PyTorch": [1.0] * 3}, "refused": {}, "peak": [100.0] * 3,
           "flops": 50.0, "goal": goal, "share": share}
    info = {name: {"version": "1", "pools": None} for name in ("fast", "PyTorch")}
    return {"rounds": 3, "quick": False, "machine": {}, "info": info, "left_out": [], "time": {"float32": [row]}}


def test_a_goal_is_met_up_to_the_digits_that_are_printed():
    assert "| work | 0.50 [0.50, 0.50] | ≤ 0.5 met |" in report.render(results_of(0.5049, 0.5))
    assert "| work | 0.51 [0.51, 0.51] | ≤ 0.5 **not met** |" in report.render(results_of(0.506, 0.5))
    text = report.render(results_of(0.9, 0.5, share=0.6))               # 50 / 0.9 / 100 = 56 %
    assert "| 56% | ≥ 60% **not met** |" in text and "Goals met: 0 of 1 ratios, 0 of 1 shares of the peak." in text
    assert "| 62% | ≥ 60% met |" in report.render(results_of(0.8, 0.8, share=0.6))


def test_a_refused_peer_has_no_number_and_its_reason_stands_below():
    results = results_of(0.5, 0.5)
    results["info"]["JAX"] = results["info"]["fast"]
    results["time"]["float32"][0]["refused"] = {"JAX": "JAX: wrong"}
    text = report.render(results)
    assert "| ≤ 0.5 met | refused |" in text and "## Refused\n\n- work: JAX: wrong\n" in text


@pytest.mark.parametrize("refused", [{}, {"JAX": "JAX: wrong"}])
def test_the_command_fails_if_a_peer_is_refused(monkeypatch, tmp_path, capsys, refused):
    monkeypatch.setattr(command.os, "environ", {})
    monkeypatch.setattr(plots, "draw", lambda results, out: [])
    results = results_of(0.5, 0.5)
    results["time"]["float32"][0]["refused"] = refused
    report.write(results, tmp_path)
    assert command.main(["--redraw", "--out", str(tmp_path)]) == len(refused)
    assert capsys.readouterr().out == report.render(results) + "\n"


def test_memory_at_or_below_pytorch():
    for ours, answer in ((2.0, "yes"), (2.1, "**no**"), ("fast: broken", "—")):
        rows = [{"name": "work", "MB": {"fast": ours, "PyTorch": 2.0}}]
        assert f"| work | {ours} | 2.0 | {answer} |" in report.render({**results_of(1, 1), "memory": {"float32": rows}})


def test_a_missing_peer_is_left_out_with_a_line(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "absent", ("no_such_module", None))
    running, info, left_out = measure.start(["absent"])
    assert not running and not info and left_out == ["absent is not installed"]
    assert "- left out: absent is not installed" in report.render({**results_of(1, 1), "left_out": left_out})


def test_the_command_writes_a_report_that_json_can_repeat(tmp_path):
    words = [sys.executable, "-W", "error", "-m", "benchmarks", "--quick", "--peers", "fast", "readable",
             "--only", "784-30-10|conv, N(8|16)|MLP (4|8)-", "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, env=os.environ)
    assert done.returncode == 0, done.stderr
    text, stored = ((tmp_path / name).read_text("utf-8") for name in ("report.md", "results.json"))
    results = json.loads(stored)
    assert done.stdout == text + "\n"
    for part in ("## Time, float32", "## Time, float64", "## Memory", "## Growth", "## Numeric", "## Environment"):
        assert text.count(part) == 1
    assert text.count("| MLP 784-30-10, N10 |") == 3 and "quick look" in text
    pictures = re.findall(r"!\[(.*)\]\((.*)\)", text)
    assert report.render(results, [(name, shown) for shown, name in pictures]) == text
    assert str(ROOT) not in text + stored and not re.search(r"(?<![\w.*])/(home|opt|root|tmp|usr)/", text + stored)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can reset the high-water mark")
def test_high_water_sees_what_was_freed():
    before = process.reset_high_water()
    np.ones(10**7)
    most = process.high_water()
    assert most - before > 7e7 and process.reset_high_water() < most - 7e7


# ------------------------------------------------------------------------------------------------ the stored report

def stored():
    return json.loads((ROOT / "benchmarks/results/results.json").read_text(encoding="utf-8"))


def test_the_stored_report_is_that_of_the_stored_numbers():
    results, text = stored(), (ROOT / "benchmarks/results/report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[(.*)\]\((.*)\)", text)
    assert report.render(results, [(name, what) for what, name in pictures]) == text
    assert not results["quick"] and not report.refusals(results) and results["left_out"] == []
    assert {part for part in command.PARTS if results.get(part)} == set(command.PARTS)


def test_the_numbers_of_the_readme_are_those_of_the_report():
    results, readme = stored(), (ROOT / "README.md").read_text(encoding="utf-8")
    by_name = {part + dtype: {row["name"]: row for row in rows} for part in ("time", "memory")
               for dtype, rows in results[part].items()}
    lines = re.findall(r"^\| ([^|]*N\d[^|]*) \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", readme, re.MULTILINE)
    assert len(lines) == 8
    for name, *numbers in lines:
        narrow, wide, MB = (by_name[table][name] for table in ("timefloat32", "timefloat64", "memoryfloat32"))
        ratios = [np.median(report.ratios(row, peer, "PyTorch")) for row, peer in
                  ((narrow, "fast"), (wide, "fast"), (narrow, "readable"))]
        ratios.append(MB["MB"]["fast"] / MB["MB"]["PyTorch"])
        expected = [f"{ratio:.{digits}f}" for ratio, digits in zip(ratios, (2, 2, 1, 1))]
        assert [number.strip() for number in numbers] == expected, name
    for what, rows in results["growth"].items():
        if what.startswith(("LSTM", "conv")):
            k = report.exponent(report.curve(rows, "fast"))
            assert f"{rows[0]['letter']}^{k:.2f}" in readme and k <= 1.1
