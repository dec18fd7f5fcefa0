"""A layer on several threads: each takes a part of the examples."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import numpy as np

from ..checks import require_size
from .layer import Layer
from .linear import Dropout
from .normalisation import BatchNorm


class DataParallel(Layer):
    """The layer (or model) inside, with the examples of each batch shared out to `workers` threads.

    NumPy lets other threads run while it computes, and the gradient of a sum over examples is the sum of gradients:
    the parts' gradients are added in the order of the parts, so the same number of workers gives the same bits.
    `params`, `grads`, names and files are those of the layer inside, and so is what stands in its place in a
    Sequential. Set OPENBLAS_NUM_THREADS=1, or the matrix products have threads of their own.

    Raises TypeError for what is not a Layer, ValueError where an example's output depends on which others are in its
    part: batch normalisation, dropout (threads would draw from one generator in any order), batch_first=False.
    """

    params = property(lambda self: self.layers[0].params)
    buffers = property(lambda self: self.layers[0].buffers)
    grads = property(lambda self: self.layers[0].grads)

    def __init__(self, layer, workers=2):
        if not isinstance(layer, Layer):
            raise TypeError(f"{self.name}: layer must be a Layer, got {type(layer).__name__}")
        for module in layer.modules():
            drops = isinstance(module, Dropout) and module.p > 0
            if drops or isinstance(module, BatchNorm) or not getattr(module, "batch_first", True):
                raise ValueError(f"{self.name}: the examples must not depend on each other, got {module.name}"
                                 f"{'' if getattr(module, 'batch_first', True) else '(batch_first=False)'}")
        self.workers = require_size(self.name, "workers", workers)
        self.layers = (layer,)
        self.dtype = None
        self.training = True
        self.memory = None

    def check(self, x):
        """The layer inside checks its parts."""

    def compute(self, x):
        layer, = self.layers
        several = isinstance(x, np.ndarray) and x.ndim and len(x)
        parts = np.array_split(x, min(self.workers, len(x))) if several else [x]
        outputs, memories = zip(*self.on_threads(layer.run, parts))
        return joined(outputs), memories

    def compute_gradients(self, dy, cache):
        layer, = self.layers
        ends = np.cumsum([memory.shape[0] for memory in cache])[:-1]
        dxs, grads = zip(*self.on_threads(layer.run_back, np.split(dy, ends), cache))
        total = grads[0]
        for more in grads[1:]:
            total = added(total, more)
        return joined(dxs), total

    def keep(self, grads):
        self.layers[0].keep(grads)

    def expected(self, kind=None):
        return self.layers[0].expected(kind)

    def on_threads(self, function, *arguments):
        """The function of each part, at the same time; settings such as `fast.off()` are the caller's."""
        tasks = list(zip(*arguments))
        if len(tasks) == 1:
            return [function(*tasks[0])]
        with ThreadPoolExecutor(len(tasks)) as pool:
            return [future.result() for future in
                    [pool.submit(copy_context().run, function, *task) for task in tasks]]


def joined(parts):
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def added(grads, more):
    """The sum of two layers' gradients: dicts of arrays, or tuples of them for layers inside layers."""
    if isinstance(grads, tuple):
        return tuple(map(added, grads, more))
    return {name: g + more[name] for name, g in grads.items()}
