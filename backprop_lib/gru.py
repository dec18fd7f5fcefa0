r"""GRU: equations (GRU-1) to (GRU-37), derived in notebooks/04b_gru.ipynb.

Gates are stacked in PyTorch's order: reset r, update z, candidate n. PyTorch, cuDNN and Keras (reset_after=True) apply
the reset gate after the hidden product; the paper of Cho et al. and Keras with reset_after=False apply it before.
Every function is pure: nothing passed in is changed, and a cache can be used twice. Arrays are floats: integers and
lists raise a TypeError.
"""

from typing import NamedTuple

import numpy as np

from .checks import float_arrays, require_cotangent, require_recurrent
from .mlp import sigmoid
from .rnn import shape_of_states


# ------------------------------------------------------------------------------------------------ reset after

class GRUStepCache(NamedTuple):
    x: np.ndarray
    h_prev: np.ndarray
    W_ih: np.ndarray
    W_hh: np.ndarray
    u_n: np.ndarray
    r: np.ndarray
    z: np.ndarray
    n: np.ndarray


@float_arrays
def gru_step_forward(x, h_prev, W_ih, W_hh, b_ih, b_hh):
    """One time step, reset after the hidden product: the candidate sees r * (W_hn h_prev + b_hn).

    Shapes: x (N, D), h_prev (N, H), W_ih (3H, D), W_hh (3H, H), b_ih (3H), b_hh (3H) -> h (N, H)
    Raises ValueError for shapes that do not fit each other.
    """
    require_recurrent("gru_step_forward", x, {"h_prev": h_prev}, W_ih, W_hh, {"b_ih": b_ih, "b_hh": b_hh}, 3, "(N, D)")
    a = x @ W_ih.T + b_ih                                       # (GRU-1)
    u = h_prev @ W_hh.T + b_hh                                  # (GRU-2)
    a_r, a_z, a_n = np.split(a, 3, axis=1)
    u_r, u_z, u_n = np.split(u, 3, axis=1)
    r = sigmoid(a_r + u_r)                                      # (GRU-3)
    z = sigmoid(a_z + u_z)                                      # (GRU-4)
    n = np.tanh(a_n + r * u_n)                                  # (GRU-5)
    h = (1 - z) * n + z * h_prev                                # (GRU-6)
    return h, GRUStepCache(x, h_prev, W_ih, W_hh, u_n, r, z, n)


def gru_step_backward(dh, cache):
    """dh is everything that reaches h: from above, and from the next step.

    Shapes: dh (N, H) -> dx (N, D), dh_prev (N, H), dW_ih (3H, D), dW_hh (3H, H), db_ih (3H), db_hh (3H)
    Raises ValueError if dh has not the shape of h.
    """
    x, h_prev, W_ih, W_hh, u_n, r, z, n = cache
    require_cotangent("gru_step_backward", "dh", dh, h_prev.shape)
    dz = dh * (h_prev - n)                                      # (GRU-7)
    dn = dh * (1 - z)                                           # (GRU-8)
    da_n = dn * (1 - n**2)                                      # (GRU-9)
    dr = da_n * u_n                                             # (GRU-10)
    du_n = da_n * r                                             # (GRU-11)
    da_r = dr * r * (1 - r)                                     # (GRU-12)
    da_z = dz * z * (1 - z)                                     # (GRU-13)
    da = np.concatenate([da_r, da_z, da_n], axis=1)
    du = np.concatenate([da_r, da_z, du_n], axis=1)
    dx = da @ W_ih                                              # (GRU-14)
    dh_prev = dh * z + du @ W_hh                                # (GRU-15)
    dW_ih = da.T @ x                                            # (GRU-16)
    dW_hh = du.T @ h_prev                                       # (GRU-17)
    db_ih = da.sum(axis=0)                                      # (GRU-18)
    db_hh = du.sum(axis=0)                                      # (GRU-19)
    return dx, dh_prev, dW_ih, dW_hh, db_ih, db_hh


# ------------------------------------------------------------------------------------------------ through time

class GRUCache(NamedTuple):
    steps: tuple


@float_arrays
def gru_forward(x, h0, W_ih, W_hh, b_ih, b_hh, reset_after=True):
    """The whole sequence: the state after each step, the last of them hs[:, -1].

    Shapes: x (N, T, D), h0 (N, H), W_ih (3H, D), W_hh (3H, H), b_ih (3H), b_hh (3H) -> hs (N, T, H)
    Raises ValueError for shapes that do not fit each other, or T = 0.
    """
    require_recurrent("gru_forward", x, {"h0": h0}, W_ih, W_hh, {"b_ih": b_ih, "b_hh": b_hh}, 3)
    step_forward = gru_step_forward if reset_after else gru_before_step_forward
    h, hs, steps = h0, [], []
    for t in range(x.shape[1]):
        h_prev = h                                              # (GRU-20)
        h, step = step_forward(x[:, t], h_prev, W_ih, W_hh, b_ih, b_hh)
        hs.append(h)
        steps.append(step)
    return np.stack(hs, axis=1), GRUCache(tuple(steps))


def gru_backward(dhs, cache):
    """Backpropagation through time: dhs[:, t] is what reaches h_t from above, not by way of later steps.

    Shapes: dhs (N, T, H) -> dx (N, T, D), dh0 (N, H), dW_ih (3H, D), dW_hh (3H, H), db_ih (3H), db_hh (3H)
    Raises ValueError if dhs has not the shape of hs.
    """
    steps, = cache
    require_cotangent("gru_backward", "dhs", dhs, shape_of_states(steps))
    step_backward = gru_step_backward if isinstance(steps[0], GRUStepCache) else gru_before_step_backward
    dxs, dh_prev, dW_ih, dW_hh, db_ih, db_hh = [], 0, 0, 0, 0, 0    # nothing comes from beyond the end
    for t in reversed(range(len(steps))):
        dh = dhs[:, t] + dh_prev                                # (GRU-21)
        dx_t, dh_prev, dW_ih_t, dW_hh_t, db_ih_t, db_hh_t = step_backward(dh, steps[t])
        dxs.append(dx_t)
        dW_ih += dW_ih_t                                        # (GRU-22)
        dW_hh += dW_hh_t                                        # (GRU-23)
        db_ih += db_ih_t                                        # (GRU-24)
        db_hh += db_hh_t                                        # (GRU-25)
    dh0 = dh_prev                                               # (GRU-26)
    return np.stack(dxs[::-1], axis=1), dh0, dW_ih, dW_hh, db_ih, db_hh


# ------------------------------------------------------------------------------------------------ reset before

class GRUBeforeStepCache(NamedTuple):
    x: np.ndarray
    h_prev: np.ndarray
    W_ih: np.ndarray
    W_hh: np.ndarray
    s: np.ndarray
    r: np.ndarray
    z: np.ndarray
    n: np.ndarray


@float_arrays
def gru_before_step_forward(x, h_prev, W_ih, W_hh, b_ih, b_hh):
    """One time step, reset before the hidden product: the candidate sees W_hn (r * h_prev) + b_hn.

    Shapes: x (N, D), h_prev (N, H), W_ih (3H, D), W_hh (3H, H), b_ih (3H), b_hh (3H) -> h (N, H)
    Raises ValueError for shapes that do not fit each other.
    Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", whose z is our z.
    """
    require_recurrent("gru_before_step_forward", x, {"h_prev": h_prev}, W_ih, W_hh, {"b_ih": b_ih, "b_hh": b_hh}, 3,
                      "(N, D)")
    a_r, a_z, a_n = np.split(x @ W_ih.T + b_ih, 3, axis=1)
    W_r, W_z, W_n = np.split(W_hh, 3)
    b_r, b_z, b_n = np.split(b_hh, 3)
    u_r = h_prev @ W_r.T + b_r                                  # (GRU-27)
    u_z = h_prev @ W_z.T + b_z                                  # (GRU-28)
    r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
    s = r * h_prev                                              # (GRU-29)
    u_n = s @ W_n.T + b_n                                       # (GRU-30)
    n = np.tanh(a_n + u_n)                                      # (GRU-31)
    h = (1 - z) * n + z * h_prev
    return h, GRUBeforeStepCache(x, h_prev, W_ih, W_hh, s, r, z, n)


def gru_before_step_backward(dh, cache):
    """dh is everything that reaches h: from above, and from the next step.

    Shapes: dh (N, H) -> dx (N, D), dh_prev (N, H), dW_ih (3H, D), dW_hh (3H, H), db_ih (3H), db_hh (3H)
    Raises ValueError if dh has not the shape of h.
    """
    x, h_prev, W_ih, W_hh, s, r, z, n = cache
    require_cotangent("gru_before_step_backward", "dh", dh, h_prev.shape)
    W_r, W_z, W_n = np.split(W_hh, 3)
    da_n = dh * (1 - z) * (1 - n**2)
    ds = da_n @ W_n                                             # (GRU-32)
    dr = ds * h_prev                                            # (GRU-33)
    da_r, da_z = dr * r * (1 - r), dh * (h_prev - n) * z * (1 - z)
    dh_prev = dh * z + ds * r + da_r @ W_r + da_z @ W_z         # (GRU-34)
    dW_r = da_r.T @ h_prev                                      # (GRU-35)
    dW_z = da_z.T @ h_prev                                      # (GRU-36)
    dW_n = da_n.T @ s                                           # (GRU-37)
    da = np.concatenate([da_r, da_z, da_n], axis=1)
    return da @ W_ih, dh_prev, da.T @ x, np.concatenate([dW_r, dW_z, dW_n]), da.sum(axis=0), da.sum(axis=0)
