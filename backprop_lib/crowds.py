"""Many small networks of the same sizes, each from its own start, trained at once: one more axis in front.

    x, t = encoder(8)
    crowd = Crowd(30, [8, 3, 8], rng=np.random.default_rng(0))
    first = first_right(sweeps(crowd, x, t, 2000), t)           # (30), inf for a network that is not done

Descent is that of Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors": sigmoids
in every layer, half the sum of the squared errors, all examples before a step, momentum.
"""

import numpy as np

from . import mlp
from .checks import require_generator, require_number, require_size
from .init import uniform
from .nn import Layer
from .optim import SGD


class Crowd(Layer):
    """S networks of sigmoid layers that read the same examples; none has an influence on another.

    Shapes: x (N, D) -> y (S, N, K)

    sizes  [D, H, ..., K], at least two. Layer i has "i.weight" (S, H, D) and "i.bias" (S, H).
    bound  All weights and biases start uniform on +-bound.
    mask   (H, D) for the first layer: 1 where a weight exists, 0 where none does. By default all exist.
    """

    def __init__(self, S, sizes, *, rng, bound=0.3, mask=None):
        S = require_size("Crowd", "S", S)
        if not isinstance(sizes, (list, tuple)) or len(sizes) < 2:
            raise ValueError(f"Crowd: sizes must be a list of at least two whole numbers, got {sizes!r}")
        sizes = [require_size("Crowd", f"sizes[{i}]", size) for i, size in enumerate(sizes)]
        require_generator("Crowd", rng)
        bound = require_number("Crowd", "bound", bound, ">= 0", lambda value: value >= 0)
        mask = np.ones((sizes[1], sizes[0])) if mask is None else mask
        self.mask = 1.0 * require_zeros_and_ones("Crowd", "mask", mask, (sizes[1], sizes[0]))
        self.depth, params = len(sizes) - 1, {}
        for i, (D, H) in enumerate(zip(sizes, sizes[1:])):
            params[f"{i}.weight"] = uniform(rng, (S, H, D), bound)
            params[f"{i}.bias"] = uniform(rng, (S, H), bound)
        params["0.weight"] *= self.mask
        super().__init__(params, np.dtype(np.float64))

    def check(self, x):
        super().check(x)
        D = self.mask.shape[1]
        if x.ndim != 2 or x.shape[1] != D:
            raise ValueError(f"{self.name}: x must have shape (N, {D}), got {x.shape}")

    def compute(self, x):
        h, caches = x, []
        for i in range(self.depth):
            W, b = self.params[f"{i}.weight"], self.params[f"{i}.bias"]
            y, bend = mlp.sigmoid_forward(h @ W.swapaxes(1, 2) + b[:, None])
            caches.append((h, W, bend))
            h = y
        return h, caches

    def compute_gradients(self, dy, caches):
        grads = {}
        for i in reversed(range(self.depth)):
            h, W, bend = caches[i]
            dz = mlp.sigmoid_backward(dy, bend)
            grads[f"{i}.weight"] = dz.swapaxes(1, 2) @ h
            grads[f"{i}.bias"] = dz.sum(axis=1)
            dy = dz @ W
        grads["0.weight"] *= self.mask
        return dy.sum(axis=0), {name: grads[name] for name in self.shapes}


def sweeps(crowd, x, t, count, lr=0.1, momentum=0.9, shrink=0.0, targets=(0.0, 1.0)):
    """Train in place; gives the outputs y (S, N, K) before each of `count` steps, to be looked at: a generator.

    x (N, D), t (N, K) of zeros and ones. E is half the sum of the squared errors over all examples and outputs.
    shrink   the share that every weight, but no bias, loses after each step
    targets  what stands for the targets 0 and 1; an output beyond its target has no error
    Raises ValueError or TypeError for bad arguments.
    """
    count, optimizer = require_size("sweeps", "count", count), SGD(crowd, lr, momentum)
    shrink = require_number("sweeps", "shrink", shrink, "in [0, 1)", lambda value: 0 <= value < 1)
    t = require_zeros_and_ones("sweeps", "t", t, crowd.run(x)[0].shape[1:])
    return steps(crowd, x, t, count, optimizer, shrink, *require_targets(targets))


def steps(crowd, x, t, count, optimizer, shrink, low, high):
    """The generator, once all arguments have been looked at."""
    for _ in range(count):
        y = crowd.forward(x)
        yield y
        crowd.backward(y - np.where(t == 1, np.maximum(y, high), np.minimum(y, low)))
        optimizer.step()
        for name, p in crowd.params.items():
            if shrink and name.endswith("weight"):
                p *= 1 - shrink


def train(crowd, x, t, count, **options):
    """All `sweeps`, without a look."""
    for _ in sweeps(crowd, x, t, count, **options):
        pass


def first_right(history, t, tolerance=0.5):
    """How many steps each network needed until all its outputs were right for the first time: (S), inf if never.

    history    what `sweeps` gives; as soon as all networks are done, no more steps are asked for
    t          (N, K); an output is right if it is off by less than the tolerance
    Raises ValueError for a history of nothing.
    """
    first = None
    for step, y in enumerate(history):
        first = np.full(len(y), np.inf) if first is None else first
        right = (np.abs(y - t) < tolerance).all(axis=(1, 2))
        first[right & np.isinf(first)] = step
        if np.isfinite(first).all():
            break
    if first is None:
        raise ValueError("first_right: the history must hold the outputs of at least one step, got none")
    return first


def require_targets(targets):
    """Two numbers, the first below the second, that a sigmoid can reach or come near to."""
    if not isinstance(targets, (tuple, list)) or len(targets) != 2:
        raise ValueError(f"sweeps: targets must be a pair of numbers, got {targets!r}")
    low = require_number("sweeps", "targets[0]", targets[0], "in [0, 1]", lambda value: 0 <= value <= 1)
    return low, require_number("sweeps", "targets[1]", targets[1], f"in ({low}, 1]", lambda value: low < value <= 1)


def require_zeros_and_ones(owner, name, a, shape):
    """Returns the array."""
    a = np.asarray(a)
    if a.shape != tuple(shape):
        raise ValueError(f"{owner}: {name} must have shape {tuple(shape)}, got {a.shape}")
    if not np.isin(a, (0, 1)).all():
        raise ValueError(f"{owner}: {name} must hold zeros and ones, got {a[~np.isin(a, (0, 1))][0]}")
    return a
