"""One peer in a process of its own: it checks its gradients and runs a round of steps when it is told to."""

import ctypes
import functools
import gc
import importlib.metadata
import importlib.util
import math
import multiprocessing
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from .peers import PEERS
from .workloads import make_data, small


LIMITS = {"float32": 1e-4, "float64": 1e-10, "numeric": 1e-6, "products": None}
SECONDS = float(os.environ.get("BENCHMARK_SECONDS", 0.1))       # CPU time that a round takes at least, or nearly
SIDE = 1024 if SECONDS else 64                                  # of the matrices whose product is the peak


class Runner:
    """What a peer does when it is told to."""

    def __init__(self, name):
        self.name, self.step, self.repeats = name, None, 1
        importlib.import_module(PEERS[name][0])

    def prepare(self, workload, dtype):
        self.step = None                                        # so that one workload at a time is in memory
        self.step = PEERS[self.name][1](workload, make_data(workload, dtype))
        gc.unfreeze()
        gc.collect()
        gc.freeze()                                             # so that collections during a round have little to do

    def save(self, path):
        """Store the gradients, the reference for all others."""
        gradients = self.step()
        if not all(np.isfinite(g).all() for g in gradients):
            raise ValueError("the reference is not finite")
        np.savez(path, *gradients)

    def check(self, path, limit):
        """Compare the second step's gradients with the stored ones, and find how often a round runs the step.

        With a limit of None there are no gradients.
        """
        self.step()
        start = time.process_time()
        gradients = [np.asarray(g) for g in self.step()]
        self.repeats = math.ceil(SECONDS / max(time.process_time() - start, 1e-6)) or 1
        if limit is None:
            return
        with np.load(path) as stored:
            references = list(stored.values())
        if [g.shape for g in gradients] != [r.shape for r in references]:
            raise ValueError(f"gradients of shapes {[g.shape for g in gradients]}")
        for i, (g, r) in enumerate(zip(gradients, references)):
            error = np.linalg.norm(g - r) / (np.linalg.norm(r) or 1)
            if not error <= limit:                              # NaN is not, either
                raise ValueError(f"gradient {i} of shape {g.shape} is off by {error:.1e}, more than {limit:.0e}")

    def round(self):
        """CPU seconds of one step, over all threads of this process."""
        start = time.process_time()
        for _ in range(self.repeats):
            self.step()
        return (time.process_time() - start) / self.repeats

    def peak(self, dtype):
        """Floating point operations per second of np.matmul."""
        a = np.ones((SIDE, SIDE), dtype)
        a @ a
        start, n = time.process_time(), 0
        while not n or time.process_time() - start < SECONDS / 2:
            np.matmul(a, a)
            n += 1
        return n * 2 * SIDE**3 / (time.process_time() - start)

    def memory(self, workload, dtype):
        """MB that two steps need at most, beyond what is there after one example has passed and inputs are built."""
        self.prepare(small(workload), dtype)
        self.step()
        self.prepare(workload, dtype)
        before = reset_high_water()
        for _ in range(2):
            self.step()
        return round((high_water() - before) / 1e6, 1)

    def info(self):
        """Version and thread pools, with nothing that tells where they lie."""
        module = PEERS[self.name][0]
        answer = {"version": f"{module} {importlib.metadata.version(module)}", "pools": None}
        if importlib.util.find_spec("threadpoolctl"):
            from threadpoolctl import threadpool_info
            keys = "user_api", "internal_api", "version", "architecture", "num_threads"
            answer["pools"] = [{key: pool.get(key) for key in keys} for pool in threadpool_info()]
        return answer


def reset_high_water():
    """Bytes in use, from which high_water counts on. Linux alone can do that."""
    ctypes.CDLL(None).malloc_trim(0)                            # give back what was freed
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def high_water():
    """Bytes of memory that this process has had at most; ru_maxrss would include those of the process before it."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@functools.cache
def runner(name):
    return Runner(name)


def obey(name, command, *args):
    """What a process is sent: it keeps its runner from one command to the next."""
    return getattr(runner(name), command)(*args)


class Peer:
    """The other end: a process that does what it is asked. Raises RuntimeError with what went wrong."""

    def __init__(self, name):
        if not importlib.util.find_spec(PEERS[name][0]):
            raise RuntimeError(f"{name} is not installed")
        self.name, self.pool = name, ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def ask(self, command, *args):
        try:
            return self.pool.submit(obey, self.name, command, *args).result()
        except Exception as error:
            text = re.sub(r"\S*/", "", str(error))              # no paths of this machine
            raise RuntimeError(f"{self.name}: {type(error).__name__}: {text}") from None

    def close(self):
        self.pool.shutdown()
