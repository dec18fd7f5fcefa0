"""What is measured: networks as lists of layers, with numbers on which every peer can agree."""

import math
from typing import NamedTuple

import numpy as np


class Workload(NamedTuple):
    """With `classes` the network ends in a mean cross-entropy; without, a cotangent dy arrives at its output.

    goals  the largest ratios of our functions' time to PyTorch's that we accept, in float32 and in float64
    share  the least fraction of np.matmul's speed that we accept in float32
    """
    name: str
    layers: tuple
    shape: tuple
    classes: int = 0
    goals: tuple = (None, None)
    share: float | None = None


class Data(NamedTuple):
    x: np.ndarray
    params: list                                                # one list of arrays for each layer
    target: np.ndarray                                          # classes (N), or dy


def mlp(sizes, activation="relu"):
    """Linear layers of the given sizes with an activation between each two."""
    layers = [layer for D, H in zip(sizes, sizes[1:]) for layer in (("linear", D, H), (activation,))]
    return tuple(layers[:-1])


LENET = (("conv", 1, 6, 5, 0), ("relu",), ("pool", 2), ("conv", 6, 16, 5, 0), ("relu",), ("pool", 2), ("flatten",),
         *mlp([256, 120, 84, 10]))

# conv: C, F, kernel, padding; rnn and lstm: D, H; pool: window
WORKLOADS = (
    Workload("MLP 784-30-10, N10", mlp([784, 30, 10], "sigmoid"), (10, 784), 10, (0.50, 0.55)),
    Workload("MLP 784-256-128-10, N64", mlp([784, 256, 128, 10]), (64, 784), 10, (0.80, 0.90)),
    Workload("MLP 1024-4096-4096-1024, N256", mlp([1024, 4096, 4096, 1024]), (256, 1024), 1024, (0.80, 0.95), 0.80),
    Workload("conv 1→6 5×5, 28×28, N64", (("conv", 1, 6, 5, 0),), (64, 1, 28, 28), 0, (0.50, 1.0)),
    Workload("conv 6→16 5×5, 12×12, N64", (("conv", 6, 16, 5, 0),), (64, 6, 12, 12), 0, (1.0, 0.95)),
    Workload("conv 16→32 3×3 pad 1, 32×32, N32", (("conv", 16, 32, 3, 1),), (32, 16, 32, 32), 0, (1.5, 0.45)),
    Workload("conv 64→64 3×3 pad 1, 56×56, N8", (("conv", 64, 64, 3, 1),), (8, 64, 56, 56), 0, (1.5, 0.60), 0.65),
    Workload("max-pool 2×2, 32×32×32, N32", (("pool", 2),), (32, 32, 32, 32), 0, (0.25, 0.6)),
    Workload("LeNet, N64", LENET, (64, 1, 28, 28), 10, (0.55, 0.9)),
    Workload("RNN N32 T50 D64 H128", (("rnn", 64, 128),), (32, 50, 64), 0, (0.6, 0.6), 0.60),
    Workload("RNN N64 T200 D128 H256", (("rnn", 128, 256),), (64, 200, 128), 0, (0.8, 0.8)),
    Workload("LSTM N1 T25 D65 H100", (("lstm", 65, 100),), (1, 25, 65), 0, (1.0, 0.3)),
    Workload("LSTM N32 T50 D64 H128", (("lstm", 64, 128),), (32, 50, 64), 0, (1.5, 0.75)),
    Workload("LSTM N64 T200 D128 H256", (("lstm", 128, 256),), (64, 200, 128), 0, (1.0, 0.9), 0.60),
)


# One letter grows, everything else stays: what, which letter, the largest exponent that we accept, sizes.
STEPS = 25, 50, 100, 200, 400
GROWTH = (
    ("LSTM N32 D64 H128", "T", 1.1, STEPS, lambda T: Workload(f"LSTM, T{T}", (("lstm", 64, 128),), (32, T, 64))),
    ("RNN N32 D64 H128", "T", None, STEPS, lambda T: Workload(f"RNN, T{T}", (("rnn", 64, 128),), (32, T, 64))),
    ("conv 16→32 3×3 pad 1, 32×32", "N", 1.1, (8, 16, 32, 64),
     lambda N: Workload(f"conv, N{N}", (("conv", 16, 32, 3, 1),), (N, 16, 32, 32))),
    ("MLP H-H-H-10, N64", "H", None, (128, 256, 512, 1024, 2048),
     lambda H: Workload(f"MLP, H{H}", mlp([H, H, H, 10]), (64, H), 10)),
)
NUMERIC = tuple(Workload(f"MLP {H}-{H}-{H}, N4", mlp([H, H, H], "sigmoid"), (4, H)) for H in (4, 8, 16, 32, 64))


def small(workload):
    """The same with one example: for a look at the benchmark itself, and for what a peer loads when it first runs."""
    return workload._replace(shape=(1, *workload.shape[1:]), goals=(None, None), share=None)


def apply(layer, shape):
    """The shapes of a layer's parameters, in the order of its arguments, and the shape it makes of an input's."""
    match layer:
        case "linear", D, H:
            return [(H, D), (H,)], (*shape[:-1], H)
        case "conv", C, F, R, m:
            return [(F, C, R, R), (F,)], (shape[0], F, *(I + 2*m - R + 1 for I in shape[2:]))
        case ("rnn" | "lstm") as kind, D, H:
            rows = 4*H if kind == "lstm" else H
            return [(rows, D), (rows, H), (rows,), (rows,)], (*shape[:-1], H)
        case "pool", R:
            return [], (*shape[:2], *(I // R for I in shape[2:]))
        case "flatten",:
            return [], (shape[0], math.prod(shape[1:]))
    return [], shape


def shapes(workload):
    """Of each layer: the shapes of its parameters and of its output."""
    found, shape = [], workload.shape
    for layer in workload.layers:
        params, shape = apply(layer, shape)
        found.append((params, shape))
    return found


def flops(workload):
    """Multiplications and additions of all matrix products: forward, and twice as many backward."""
    return sum(3 * 2 * sum(math.prod(s) for s in params if len(s) > 1) * (math.prod(output) // layer[2])
               for layer, (params, output) in zip(workload.layers, shapes(workload)) if params)


def entries(workload):
    """How many numbers have a gradient: those of the input and of the parameters."""
    return math.prod(workload.shape) + sum(math.prod(s) for params, _ in shapes(workload) for s in params)


def on_grid(rng, shape, fan_in=1):
    """Small multiples of a power of two.

    Sums of products of such numbers are exact even in float32, in whatever order they are taken. So a ReLU sees the
    same sign and a pool the same winner in every peer, and gradients can be compared.
    """
    steps = rng.integers(-4, 5, shape, np.int8).astype(np.float32)
    return steps * np.float32(2.0**-math.ceil(2 + math.log2(fan_in)/2))


def make_data(workload, dtype, seed=0):
    """Input, parameters and target; the same numbers in float32 and float64."""
    rng = np.random.default_rng(seed)
    params = []
    for (kind, *sizes), (wanted, _) in zip(workload.layers, shapes(workload)):
        fan_in = sizes[1] if kind in ("rnn", "lstm") else math.prod(wanted[0][1:]) if wanted else 1
        params.append([on_grid(rng, s, fan_in).astype(dtype) for s in wanted])
    x = (np.round(rng.standard_normal(workload.shape) * 32) / 32).astype(dtype)
    if workload.classes:
        return Data(x, params, rng.integers(workload.classes, size=workload.shape[0]))
    return Data(x, params, rng.standard_normal(shapes(workload)[-1][1]).astype(np.float32).astype(dtype))
