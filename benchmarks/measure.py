"""The measurements: peers take turns, round by round; what is slow stops early."""

import re
import sys
import tempfile
import time
from pathlib import Path

from .process import LIMITS, Peer
from .workloads import GROWTH, NUMERIC, WORKLOADS, entries, flops, small


CAPPED = {"readable", "JAX", "autograd", "numeric"}             # these stop after BUDGET, but not before LEAST rounds
BUDGET, LEAST = 1.5, 3                                          # seconds a row, rounds
MEMORY = "fast", "nn", "PyTorch"
GROWING = "fast", "readable", "PyTorch"


def start(names):
    """A process for each peer and what it runs on, and a line for each that cannot take part."""
    peers, info, left_out = {}, {}, []
    for name in names:
        try:
            peer = Peer(name)
            info[name] = peer.ask("info")
            peers[name] = peer
        except RuntimeError as error:
            left_out.append(str(error))
    return peers, info, left_out


def prepare(workload, dtype, peers, reference):
    """Check the gradients of all peers: those that take part, and reasons why the others are refused."""
    running, refused = [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "reference.npz"))
        reference.ask("prepare", workload, "float64")
        reference.ask("save", path)
        for peer in peers:
            try:
                peer.ask("prepare", workload, dtype)
                peer.ask("check", path, LIMITS.get(peer.name, LIMITS[dtype]))
                running.append(peer)
            except RuntimeError as error:
                refused[peer.name] = str(error)
    return running, refused


def race(workload, dtype, peers, rounds, reference):
    """CPU seconds of a step in every round of every peer; who starts rotates.

    The reference is a peer, too: its gradients in float64 are right.
    """
    running, refused = prepare(workload, dtype, peers, reference)
    seconds, peak, spent = {peer.name: [] for peer in running}, [], {peer.name: 0.0 for peer in running}
    for k in range(rounds):
        turn = k % max(len(running), 1)
        for peer in running[turn:] + running[:turn]:
            if peer.name in CAPPED and k >= LEAST and spent[peer.name] > BUDGET:
                continue
            begin = time.perf_counter()
            seconds[peer.name].append(peer.ask("round"))
            spent[peer.name] += time.perf_counter() - begin
        peak.append(reference.ask("peak", dtype))
    return {"name": workload.name, "seconds": seconds, "refused": refused, "peak": peak, "flops": flops(workload)}


def high_waters(workload, dtype, names):
    """MB of each peer, each in a fresh process; a reason where there is none."""
    found = {}
    for name in names:
        try:
            peer = Peer(name)
            found[name] = peer.ask("memory", workload, dtype)
            peer.close()
        except RuntimeError as error:
            found[name] = str(error)
    return {"name": workload.name, "MB": found}


def rows(options, peers, reference):
    """What there is to measure, row by row: (part, key of its table, a function that returns the row)."""
    size = small if options.quick else lambda workload: workload

    def run(workload, dtype, names, **more):
        chosen = [peers[name] for name in names if name in peers and (name != "products" or flops(workload))]
        return lambda: {**race(workload, dtype, chosen, options.rounds, reference), **more}

    for i, dtype in enumerate(("float32", "float64")):
        for w in map(size, WORKLOADS):
            share = w.share if dtype == "float32" else None
            yield "time", dtype, w, run(w, dtype, options.peers, goal=w.goals[i], share=share)
    for w in map(size, WORKLOADS):
        yield "memory", "float32", w, lambda w=w: high_waters(w, "float32", [n for n in MEMORY if n in peers])
    for what, letter, limit, sizes, make in GROWTH:
        for n in sizes:
            w = size(make(n))
            yield "growth", what, w, run(w, "float32", GROWING, size=n, letter=letter, limit=limit)
    for w in map(size, NUMERIC):
        yield "numeric", "float64", w, run(w, "float64", ("fast", "numeric"), size=entries(w))


def measure(options, results, save):
    """Fill `results`, {part: {table: rows}}, and save after every row."""
    peers, results["info"], results["left_out"] = start(options.peers)
    reference, peers["numeric"] = Peer("readable"), Peer("numeric")
    for part, table, workload, run in rows(options, peers, reference):
        if part in options.parts and re.search(options.only, workload.name):
            begin = time.perf_counter()
            results.setdefault(part, {}).setdefault(table, []).append(run())
            print(f"{part}, {table}: {workload.name}, {time.perf_counter() - begin:.1f} s", file=sys.stderr)
            save(results)
