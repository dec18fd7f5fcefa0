"""python -m benchmarks: all peers that are installed, on all workloads, in about ten minutes; see --help."""

import argparse
import json
import os
import platform
import re
import sys
import time
from pathlib import Path


PEERS = "fast", "products", "nn", "readable", "PyTorch", "JAX", "autograd"
PARTS = "time", "memory", "growth", "numeric"
ONE_THREAD = {**dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
                               "VECLIB_MAXIMUM_THREADS"], "1"), "JAX_PLATFORMS": "cpu",
              "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}


def arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours side by side with others.")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads whose name matches")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one example, one round: shows that it runs, not how fast")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--redraw", action="store_true", help="measure nothing: write results.json anew as report.md")
    return parser.parse_args(argv)


def machine():
    """The processor, and no name of this machine."""
    cpu = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else []
    return {"processor": models[0] if models else platform.machine(), "cores": os.cpu_count(),
            "system": platform.system(), "Python": platform.python_version(),
            "load at the start": round(os.getloadavg()[0], 1)}


def main(argv=None):
    options = arguments(argv)
    if options.quick:
        os.environ["BENCHMARK_SECONDS"], options.rounds = "0", 1
    os.environ.update(ONE_THREAD)                               # before NumPy is loaded, here or in a peer's process
    from . import measure, plots, report

    path = options.out / "results.json"
    if options.redraw:
        results = json.loads(path.read_text(encoding="utf-8"))
    else:
        begin, results = time.time(), {"rounds": options.rounds, "quick": options.quick, "machine": machine()}
        measure.measure(options, results, lambda results: report.write(results, options.out))
        results["machine"]["minutes in all"] = round((time.time() - begin) / 60, 1)
    text = report.write(results, options.out, plots.draw(results, options.out))
    print(text)
    return 1 if report.refusals(results) else 0


if __name__ == "__main__":
    sys.exit(main())
