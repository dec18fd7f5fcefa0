r"""LSTM: equations (LSTM-1) to (LSTM-40), derived in notebooks/04_lstm.ipynb.

Gates are stacked in PyTorch's order: input i, forget f, candidate g, output o. Every function is pure: nothing passed
in is changed, and a cache can be used twice. Arrays are floats: integers and lists raise a TypeError.
"""

from typing import NamedTuple

import numpy as np

from .checks import float_arrays, require_cotangent, require_peepholes, require_recurrent
from .mlp import sigmoid
from .rnn import shape_of_states


# ------------------------------------------------------------------------------------------------ one step

class LSTMStepCache(NamedTuple):
    x: np.ndarray
    h_prev: np.ndarray
    c_prev: np.ndarray
    W_ih: np.ndarray
    W_hh: np.ndarray
    i: np.ndarray
    f: np.ndarray
    g: np.ndarray
    o: np.ndarray
    m: np.ndarray


@float_arrays
def lstm_step_forward(x, h_prev, c_prev, W_ih, W_hh, b):
    """One time step of the state h and the cell c. PyTorch's two biases are one here: pass their sum.

    Shapes: x (N, D), h_prev (N, H), c_prev (N, H), W_ih (4H, D), W_hh (4H, H), b (4H) -> h (N, H), c (N, H)
    Raises ValueError for shapes that do not fit each other.
    Source: Hochreiter and Schmidhuber 1997, "Long short-term memory"; the forget gate is of Gers, Schmidhuber and
    Cummins 2000, "Learning to forget".
    """
    require_recurrent("lstm_step_forward", x, {"h_prev": h_prev, "c_prev": c_prev}, W_ih, W_hh, {"b": b}, 4, "(N, D)")
    z = x @ W_ih.T + h_prev @ W_hh.T + b                        # (LSTM-1)
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
    i = sigmoid(z_i)                                            # (LSTM-2)
    f = sigmoid(z_f)                                            # (LSTM-3)
    g = np.tanh(z_g)                                            # (LSTM-4)
    o = sigmoid(z_o)                                            # (LSTM-5)
    c = f * c_prev + i * g                                      # (LSTM-6)
    m = np.tanh(c)                                              # (LSTM-7)
    h = o * m                                                   # (LSTM-8)
    return h, c, LSTMStepCache(x, h_prev, c_prev, W_ih, W_hh, i, f, g, o, m)


def lstm_step_backward(dh, dc_next, cache):
    """dh is everything that reaches h; dc_next is what reaches c from outside this step, not by way of h.

    Shapes: dh (N, H), dc_next (N, H)
            -> dx (N, D), dh_prev (N, H), dc_prev (N, H), dW_ih (4H, D), dW_hh (4H, H), db (4H)
    Raises ValueError if dh or dc_next has not the shape (N, H).
    """
    x, h_prev, c_prev, W_ih, W_hh, i, f, g, o, m = cache
    require_cotangent("lstm_step_backward", "dh", dh, m.shape)
    require_cotangent("lstm_step_backward", "dc_next", dc_next, m.shape)
    do = dh * m                                                 # (LSTM-9)
    dc = dc_next + dh * o * (1 - m**2)                          # (LSTM-10)
    di = dc * g                                                 # (LSTM-11)
    df = dc * c_prev                                            # (LSTM-12)
    dg = dc * i                                                 # (LSTM-13)
    dc_prev = dc * f                                            # (LSTM-14)
    dz_i = di * i * (1 - i)                                     # (LSTM-15)
    dz_f = df * f * (1 - f)                                     # (LSTM-16)
    dz_g = dg * (1 - g**2)                                      # (LSTM-17)
    dz_o = do * o * (1 - o)                                     # (LSTM-18)
    dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
    dx = dz @ W_ih                                              # (LSTM-19)
    dh_prev = dz @ W_hh                                         # (LSTM-20)
    dW_ih = dz.T @ x                                            # (LSTM-21)
    dW_hh = dz.T @ h_prev                                       # (LSTM-22)
    db = dz.sum(axis=0)                                         # (LSTM-23)
    return dx, dh_prev, dc_prev, dW_ih, dW_hh, db


# ------------------------------------------------------------------------------------------------ through time

class LSTMCache(NamedTuple):
    steps: tuple


@float_arrays
def lstm_forward(x, h0, c0, W_ih, W_hh, b):
    """The whole sequence: state and cell after each step.

    Shapes: x (N, T, D), h0 (N, H), c0 (N, H), W_ih (4H, D), W_hh (4H, H), b (4H) -> hs (N, T, H), cs (N, T, H)
    Raises ValueError for shapes that do not fit each other, or T = 0.
    """
    require_recurrent("lstm_forward", x, {"h0": h0, "c0": c0}, W_ih, W_hh, {"b": b}, 4)
    h, c, hs, cs, steps = h0, c0, [], [], []
    for t in range(x.shape[1]):
        h_prev = h                                              # (LSTM-24)
        c_prev = c                                              # (LSTM-25)
        h, c, step = lstm_step_forward(x[:, t], h_prev, c_prev, W_ih, W_hh, b)
        hs.append(h)
        cs.append(c)
        steps.append(step)
    return np.stack(hs, axis=1), np.stack(cs, axis=1), LSTMCache(tuple(steps))


def lstm_backward(dhs, dcs, cache):
    """Backpropagation through time: dhs[:, t] and dcs[:, t] are what reaches h_t and c_t not by way of later steps.

    Shapes: dhs (N, T, H), dcs (N, T, H)
            -> dx (N, T, D), dh0 (N, H), dc0 (N, H), dW_ih (4H, D), dW_hh (4H, H), db (4H)
    Where the loss sees the states h alone, dcs is zero. Raises ValueError if dhs or dcs has not the shape of hs.
    """
    steps, = cache
    require_cotangent("lstm_backward", "dhs", dhs, shape_of_states(steps))
    require_cotangent("lstm_backward", "dcs", dcs, shape_of_states(steps))
    dxs, dh_prev, dc_prev, dW_ih, dW_hh, db = [], 0, 0, 0, 0, 0     # nothing comes from beyond the end
    for t in reversed(range(len(steps))):
        dh = dhs[:, t] + dh_prev                                # (LSTM-26)
        dc_next = dcs[:, t] + dc_prev                           # (LSTM-27)
        dx_t, dh_prev, dc_prev, dW_ih_t, dW_hh_t, db_t = lstm_step_backward(dh, dc_next, steps[t])
        dxs.append(dx_t)
        dW_ih += dW_ih_t                                        # (LSTM-28)
        dW_hh += dW_hh_t                                        # (LSTM-29)
        db += db_t                                              # (LSTM-30)
    dh0 = dh_prev                                               # (LSTM-31)
    dc0 = dc_prev                                               # (LSTM-32)
    return np.stack(dxs[::-1], axis=1), dh0, dc0, dW_ih, dW_hh, db


# ------------------------------------------------------------------------------------------------ peepholes

class PeepholeLSTMStepCache(NamedTuple):
    x: np.ndarray
    h_prev: np.ndarray
    c_prev: np.ndarray
    W_ih: np.ndarray
    W_hh: np.ndarray
    p: np.ndarray
    i: np.ndarray
    f: np.ndarray
    g: np.ndarray
    o: np.ndarray
    c: np.ndarray
    m: np.ndarray


@float_arrays
def peephole_lstm_step_forward(x, h_prev, c_prev, W_ih, W_hh, b, p):
    """One time step in which the gates see the cell: i and f the old one, o the new one, through the rows of p.

    Shapes: x (N, D), h_prev (N, H), c_prev (N, H), W_ih (4H, D), W_hh (4H, H), b (4H), p (3, H)
            -> h (N, H), c (N, H)
    Raises ValueError for shapes that do not fit each other.
    Source: Gers and Schmidhuber 2000, "Recurrent nets that time and count".
    """
    require_recurrent("peephole_lstm_step_forward", x, {"h_prev": h_prev, "c_prev": c_prev}, W_ih, W_hh, {"b": b}, 4,
                      "(N, D)")
    require_peepholes("peephole_lstm_step_forward", p, h_prev)
    p_i, p_f, p_o = p
    z_i, z_f, z_g, z_o = np.split(x @ W_ih.T + h_prev @ W_hh.T + b, 4, axis=1)
    z_i = z_i + p_i * c_prev                                    # (LSTM-33)
    z_f = z_f + p_f * c_prev                                    # (LSTM-34)
    i, f, g = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g)
    c = f * c_prev + i * g
    z_o = z_o + p_o * c                                         # (LSTM-35)
    o, m = sigmoid(z_o), np.tanh(c)
    h = o * m
    return h, c, PeepholeLSTMStepCache(x, h_prev, c_prev, W_ih, W_hh, p, i, f, g, o, c, m)


def peephole_lstm_step_backward(dh, dc_next, cache):
    """Shapes: dh (N, H), dc_next (N, H)
            -> dx (N, D), dh_prev (N, H), dc_prev (N, H), dW_ih (4H, D), dW_hh (4H, H), db (4H), dp (3, H)
    """
    x, h_prev, c_prev, W_ih, W_hh, (p_i, p_f, p_o), i, f, g, o, c, m = cache
    require_cotangent("peephole_lstm_step_backward", "dh", dh, m.shape)
    require_cotangent("peephole_lstm_step_backward", "dc_next", dc_next, m.shape)
    dz_o = dh * m * o * (1 - o)
    dc = dc_next + dh * o * (1 - m**2) + dz_o * p_o             # (LSTM-36)
    dz_i, dz_f, dz_g = dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dc * i * (1 - g**2)
    dc_prev = dc * f + dz_i * p_i + dz_f * p_f                  # (LSTM-37)
    dp_i = (dz_i * c_prev).sum(axis=0)                          # (LSTM-38)
    dp_f = (dz_f * c_prev).sum(axis=0)                          # (LSTM-39)
    dp_o = (dz_o * c).sum(axis=0)                               # (LSTM-40)
    dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
    return (dz @ W_ih, dz @ W_hh, dc_prev, dz.T @ x, dz.T @ h_prev, dz.sum(axis=0),
            np.stack([dp_i, dp_f, dp_o]))
