"""What every layer is: parameters with a width, a memory of the last forward, refusals."""

from typing import NamedTuple

import numpy as np

from ..checkpoint import Stateful
from ..checks import require_float


class Memory(NamedTuple):
    """What one forward leaves for its backward."""
    cache: tuple
    shape: tuple
    dtype: np.dtype


class Layer(Stateful):
    """A pair of functions with its parameters, their gradients and the cache of the last forward.

    `params`, `grads` and `buffers` are dicts keyed by PyTorch's names; `training` is switched by `train()` and
    `eval()`. A subclass writes `compute` and `compute_gradients`, which store nothing; that is why a failed call
    changes nothing.
    """

    layers = ()
    gates = 1                           # how many matrices are stacked in a weight; 0 if it scales and is no matrix
    nonnegative = ()                    # names of the buffers that are never below 0

    def __init__(self, params=None, dtype=None, buffers=None):
        self.params, self.buffers = dict(params or {}), dict(buffers or {})
        self.shapes = {name: p.shape for name, p in self.params.items()}
        self.buffer_types = {name: (a.shape, a.dtype, 0 if name in self.nonnegative else None)
                             for name, a in self.buffers.items()}
        self.grads = {}
        self.dtype = dtype
        self.training = True
        self.memory = None

    def forward(self, x):
        """The output for x. Raises TypeError for a wrong dtype, ValueError for a wrong shape."""
        y, memory = self.run(x)
        self.remember(memory)
        return y

    def backward(self, dy):
        """The gradient of the input, given that of the last output; replaces `grads`.

        Raises RuntimeError before the first forward, TypeError or ValueError if dy does not fit the output.
        """
        dx, grads = self.run_back(dy, self.recall())
        self.keep(grads)
        return dx

    def run(self, x):
        """What `forward` computes, with nothing stored: the output and its Memory."""
        self.check(x)
        y, cache = self.compute(x)
        return y, Memory(cache, y.shape, y.dtype)

    def run_back(self, dy, memory):
        """What `backward` computes, with nothing stored: the gradients of the input and of the parameters."""
        self.check_cotangent(dy, memory)
        return self.compute_gradients(dy, memory.cache)

    def check(self, x):
        """Refuse what does not fit, before anything is computed."""
        require_float(self.name, "x", x, self.dtype)
        if x.ndim == 0:
            raise ValueError(f"{self.name}: x must have at least one axis, the examples, got shape ()")
        self.check_fit()

    def check_fit(self):
        """`check_state` for what may be infinite, after a quick look that finds nothing wrong in most cases."""
        params = self.params
        if self.buffers or params.keys() != self.shapes.keys() or any([
                type(p) is not np.ndarray or p.dtype != self.dtype or p.shape != self.shapes[name]
                for name, p in params.items()]):
            self.check_state(finite=False)

    def check_cotangent(self, dy, memory):
        """Refuse what is not like the output."""
        require_float(self.name, "dy", dy, memory.dtype)
        if dy.shape != memory.shape:
            raise ValueError(f"{self.name}: dy must have the shape {memory.shape} of the output, got {dy.shape}")

    def compute(self, x):
        """The output and the cache, from the pair that the subclass stands for."""
        raise NotImplementedError(f"{self.name}: compute(x) must return (y, cache)")

    def compute_gradients(self, dy, cache):
        """The gradient of the input, and a dict of those of the parameters."""
        raise NotImplementedError(f"{self.name}: compute_gradients(dy, cache) must return (dx, grads)")

    def remember(self, memory):
        """Store what a forward leaves, now that it has succeeded."""
        self.memory = memory

    def recall(self):
        """What the last forward left. Raises RuntimeError before the first."""
        if self.memory is None:
            raise RuntimeError(f"{self.name}: backward needs a forward first")
        return self.memory

    def keep(self, grads):
        """Store the gradients of a backward, now that it has succeeded."""
        self.grads = grads

    def expected(self, kind=None):
        """Shape, dtype and smallest value (or None) of "params", of "buffers" or of both, by name."""
        params = {name: (shape, self.dtype, None) for name, shape in self.shapes.items()}
        return {"params": params, "buffers": self.buffer_types, None: {**params, **self.buffer_types}}[kind]

    def modules(self):
        """This layer and all inside it."""
        yield self
        for layer in self.layers:
            yield from layer.modules()

    def train(self, mode=True):
        """Switch this layer and all inside it to training; returns the layer."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Switch to evaluation: Dropout lets everything through, batch normalisation takes the running statistics.

        Returns the layer.
        """
        return self.train(False)
