"""A recurrent network whose input holds still, at rest: h = tanh(W_ih x + W_hh h + b).

Forward runs the network until nothing moves; backward is one linear system, with the transposed Jacobian of a step.
Sources: Almeida 1987, "A learning rule for asynchronous perceptrons with feedback in a combinatorial environment";
Pineda 1987, "Generalization of back-propagation to recurrent neural networks".
"""

from typing import NamedTuple

import numpy as np

from .checks import float_arrays, require_cotangent, require_recurrent, require_size


class FixedPointCache(NamedTuple):
    x: np.ndarray
    h: np.ndarray
    W_ih: np.ndarray
    W_hh: np.ndarray


@float_arrays
def fixed_point_forward(x, W_ih, W_hh, b, steps=1000):
    """The state in which the network comes to rest, from 0 on.

    Shapes: x (N, D), W_ih (H, D), W_hh (H, H), b (H) -> h (N, H)
    Raises ValueError if it still moves after so many steps (it may swing, wander or creep), or for shapes that do not
    fit each other.
    """
    steps = require_size("fixed_point_forward", "steps", steps)
    require_recurrent("fixed_point_forward", x, {}, W_ih, W_hh, {"b": b}, axes="(N, D)")
    h = np.zeros((len(x), len(b)), np.result_type(x, W_ih, W_hh, b))
    given = x @ W_ih.T + b
    for _ in range(steps):
        before, h = h, np.tanh(given + h @ W_hh.T)
        if rests(h, h - before):
            return h, FixedPointCache(x, h, W_ih, W_hh)
    raise ValueError(f"fixed_point_forward: the state must come to rest, but it still moves after {steps} steps, by "
                     f"{abs(h - before).max():.1e}")


def rests(h, moved):
    """Nothing moves but the last bits, neither of the real part nor of an imaginary one."""
    small = 64 * np.finfo(h.dtype).eps
    return all(np.all(abs(part) <= small * np.max(abs(whole), initial=0))
               for part, whole in ((moved.real, h.real), (moved.imag, h.imag)))


def fixed_point_backward(dh, cache):
    """dz = slope * (dh + dz W_hh), solved for dz: all rounds through the loop at once.

    Shapes: dh (N, H) -> dx (N, D), dW_ih (H, D), dW_hh (H, H), db (H)
    Raises ValueError if dh has not the shape of h.
    """
    x, h, W_ih, W_hh = cache
    require_cotangent("fixed_point_backward", "dh", dh, h.shape)
    J = (1 - h**2)[:, :, None] * W_hh                           # of one step, for each example
    system = np.eye(h.shape[1], dtype=h.dtype) - np.swapaxes(J, 1, 2)
    dz = np.linalg.solve(system, dh[:, :, None])[:, :, 0] * (1 - h**2)
    return dz @ W_ih, dz.T @ x, dz.T @ h, dz.sum(axis=0)
