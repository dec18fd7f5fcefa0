"""Training without derivatives: targets are sent back through inverses, weights are found by least squares.

After ZORB (Ranganathan and Lewandowski 2020, "ZORB: A derivative-free backpropagation algorithm for neural networks"),
for tanh networks with a linear output. A network is a list of layers (W, b), with W (H, D) and b (H) as everywhere
here; x is (N, D), t (N, K). Arrays that do not fit each other raise a ValueError, integers and lists a TypeError.
"""

import numpy as np

from .checks import require_2d, require_float


EDGE = 0.99                                                     # tanh never reaches 1, so its targets must stay below


def activations(layers, x):
    """What every layer reads, and the output last: a list of (N, D), (N, H), ..., (N, K)."""
    require_rows("activations", "x", x)
    require_layers("activations", layers, x.shape[1])
    hs = [x]
    for k, (W, b) in enumerate(layers, 1):
        z = hs[-1] @ W.T + b
        hs.append(z if k == len(layers) else np.tanh(z))
    return hs


def targets_before(layers, t):
    """The sums that these layers would turn into t (N, K): each tanh and each weight matrix is undone.

    A matrix by its pseudoinverse, which may ask for activations that tanh cannot give. So all that a
    layer is asked for is moved and scaled into the range of tanh: that is the relaxation. The least
    squares of the layer above undo such a change.
    """
    require_rows("targets_before", "t", t)
    require_layers("targets_before", layers, outputs=t.shape[1])
    for W, b in reversed(layers):
        h = (t - b) @ np.linalg.pinv(W).T
        middle, half = (h.max() + h.min()) / 2, (h.max() - h.min()) / 2
        t = np.arctanh(EDGE * (h - middle) / (half or 1))
    return t


def least_squares(x, z):
    """W and b such that x @ W.T + b is as near to z as it can be, for x (N, D) and z (N, H).

    Directions in which x hardly varies (singular values below eps^(2/3) of the largest) are left out: what
    would be found there is made of rounding errors.
    """
    require_rows("least_squares", "x", x)
    require_rows("least_squares", "z", z, len(x))
    ones = np.ones((len(x), 1), x.dtype)
    solution = np.linalg.lstsq(np.hstack([x, ones]), z, rcond=np.finfo(x.dtype).eps**(2/3))[0]
    return solution[:-1].T, solution[-1]


def train_by_targets(layers, x, t):
    """New layers: from the first to the last, each is fitted once, to the target that came back to it."""
    require_rows("train_by_targets", "x", x)
    require_rows("train_by_targets", "t", t, len(x))
    require_layers("train_by_targets", layers, x.shape[1], t.shape[1])
    layers = list(layers)
    for k in range(len(layers)):
        layers[k] = least_squares(activations(layers, x)[k], targets_before(layers[k + 1:], t))
    return layers


# ------------------------------------------------------------------------------------------------ what is refused

def require_rows(owner, name, array, N=None):
    """At least one row of floats, or exactly N."""
    require_float(owner, name, array)
    require_2d(owner, name, array.shape, "(N, features)")
    if len(array) != (N or max(len(array), 1)):
        raise ValueError(f"{owner}: {name} must have {N or 'at least 1'} rows, got shape {array.shape}")


def require_layers(owner, layers, inputs=None, outputs=None):
    """Each layer reads as many numbers as the one before gives; the first `inputs`, and the last gives `outputs`."""
    for k, (W, b) in enumerate(layers):
        require_float(owner, f"W of layer {k}", W)
        require_float(owner, f"b of layer {k}", b)
        if W.ndim != 2 or W.shape[:1] != b.shape or inputs not in (None, W.shape[1]):
            raise ValueError(f"{owner}: layer {k} must have W (H, {inputs or 'D'}) and b (H), got {W.shape} and "
                             f"{b.shape}")
        inputs = len(b)
    if layers and outputs not in (None, inputs):
        raise ValueError(f"{owner}: the last layer must have as many outputs as t has columns, {outputs}, got {inputs}")
