r"""Recurrent network: equations (RNN-1) to (RNN-23), derived in notebooks/03_rnn.ipynb.

A step takes the state h_prev to h; a sequence is T steps with the same weights, and its cache is one step cache after
the other. Every function is pure: nothing passed in is changed, and a cache can be used twice. Arrays are floats:
integers and lists raise a TypeError.
"""

from typing import NamedTuple

import numpy as np

from .checks import (
    float_arrays,
    require_axes,
    require_cotangent,
    require_kept,
    require_lengths,
    require_one_of,
    require_recurrent,
    require_size,
)


# ------------------------------------------------------------------------------------------------ one step

class RNNStepCache(NamedTuple):
    x: np.ndarray
    h_prev: np.ndarray
    W_ih: np.ndarray
    W_hh: np.ndarray
    h: np.ndarray
    nonlinearity: str


@float_arrays
def rnn_step_forward(x, h_prev, W_ih, W_hh, b, nonlinearity="tanh"):
    """One time step, with nonlinearity "tanh" or "relu". PyTorch's two biases are one here: pass their sum.

    Shapes: x (N, D), h_prev (N, H), W_ih (H, D), W_hh (H, H), b (H) -> h (N, H)
    Raises ValueError for shapes that do not fit each other, or another nonlinearity.
    Source: Elman 1990, "Finding structure in time".
    """
    require_recurrent("rnn_step_forward", x, {"h_prev": h_prev}, W_ih, W_hh, {"b": b}, axes="(N, D)")
    require_one_of("rnn_step_forward", "nonlinearity", nonlinearity, ("tanh", "relu"))
    z = x @ W_ih.T + h_prev @ W_hh.T + b                        # (RNN-1)
    if nonlinearity == "tanh":
        h = np.tanh(z)                                          # (RNN-2)
    else:
        h = np.where(z.real <= 0, 0, z)                         # (RNN-3)
    return h, RNNStepCache(x, h_prev, W_ih, W_hh, h, nonlinearity)


def rnn_step_backward(dh, cache):
    """dh is everything that reaches h: from above, and from the next step. relu'(0) = 0.

    Shapes: dh (N, H) -> dx (N, D), dh_prev (N, H), dW_ih (H, D), dW_hh (H, H), db (H)
    Raises ValueError if dh has not the shape of h.
    """
    x, h_prev, W_ih, W_hh, h, nonlinearity = cache
    require_cotangent("rnn_step_backward", "dh", dh, h.shape)
    if nonlinearity == "tanh":
        dz = dh * (1 - h**2)                                    # (RNN-4)
    else:
        dz = np.where(h <= 0, 0, dh)                            # (RNN-5)
    dx = dz @ W_ih                                              # (RNN-6)
    dh_prev = dz @ W_hh                                         # (RNN-7)
    dW_ih = dz.T @ x                                            # (RNN-8)
    dW_hh = dz.T @ h_prev                                       # (RNN-9)
    db = dz.sum(axis=0)                                         # (RNN-10)
    return dx, dh_prev, dW_ih, dW_hh, db


# ------------------------------------------------------------------------------------------------ through time

class RNNCache(NamedTuple):
    steps: tuple


@float_arrays
def rnn_forward(x, h0, W_ih, W_hh, b, nonlinearity="tanh"):
    """The whole sequence: the state after each step, the last of them hs[:, -1].

    Shapes: x (N, T, D), h0 (N, H), W_ih (H, D), W_hh (H, H), b (H) -> hs (N, T, H)
    Raises ValueError for shapes that do not fit each other, T = 0, or a nonlinearity but "tanh" and "relu".
    """
    require_recurrent("rnn_forward", x, {"h0": h0}, W_ih, W_hh, {"b": b})
    require_one_of("rnn_forward", "nonlinearity", nonlinearity, ("tanh", "relu"))
    h, hs, steps = h0, [], []
    for t in range(x.shape[1]):
        h_prev = h                                              # (RNN-11)
        h, step = rnn_step_forward(x[:, t], h_prev, W_ih, W_hh, b, nonlinearity)
        hs.append(h)
        steps.append(step)
    return np.stack(hs, axis=1), RNNCache(tuple(steps))


def rnn_backward(dhs, cache):
    """Backpropagation through time: dhs[:, t] is what reaches h_t from above, not by way of later steps.

    Shapes: dhs (N, T, H) -> dx (N, T, D), dh0 (N, H), dW_ih (H, D), dW_hh (H, H), db (H)
    Raises ValueError if dhs has not the shape of hs.
    Source: Werbos 1990, "Backpropagation through time: what it does and how to do it".
    """
    steps, = cache
    require_cotangent("rnn_backward", "dhs", dhs, shape_of_states(steps))
    dxs, dh_prev, dW_ih, dW_hh, db = [], 0, 0, 0, 0             # nothing comes from beyond the end
    for t in reversed(range(len(steps))):
        dh = dhs[:, t] + dh_prev                                # (RNN-12)
        dx_t, dh_prev, dW_ih_t, dW_hh_t, db_t = rnn_step_backward(dh, steps[t])
        dxs.append(dx_t)
        dW_ih += dW_ih_t                                        # (RNN-13)
        dW_hh += dW_hh_t                                        # (RNN-14)
        db += db_t                                              # (RNN-15)
    dh0 = dh_prev                                               # (RNN-16)
    return np.stack(dxs[::-1], axis=1), dh0, dW_ih, dW_hh, db


def shape_of_states(steps):
    """The shape (N, T, H) of hs, from the step caches of any recurrent network."""
    N, H = steps[0].h_prev.shape
    return N, len(steps), H


def rnn_jacobians(cache):
    """J[n, t, i, j], the derivative of h[n, t, i] with respect to h[n, t-1, j]: one factor of the long product.

    Returns an array (N, T, H, H); its entry at t = 0 is with respect to h0.
    """
    slopes = [1 - s.h**2 if s.nonlinearity == "tanh" else (s.h > 0).astype(s.h.dtype) for s in cache.steps]
    return np.stack(slopes, axis=1)[..., None] * cache.steps[0].W_hh


def truncated_backward(backward, cotangents, cache, window):
    """Truncated backpropagation through time, for `rnn_backward`, `lstm_backward` or `gru_backward`.

    The steps are cut into chunks of `window`, counted from t = 0, the last one shorter if need be. The state that
    enters a chunk is taken for a constant, except in the first. So a window of T or more gives the full gradient.
    cotangents is the tuple of what `backward` takes before the cache: (dhs,), or (dhs, dcs) for the LSTM. Returns what
    `backward` returns. Raises ValueError unless window is a whole number of at least 1 and the cotangents fit.
    """
    window, chunks = require_size("truncated_backward", "window", window), []
    cache = getattr(cache, "readable", cache)                   # of a tuned twin, in steps
    for name, d in zip(("dhs", "dcs"), cotangents):
        require_cotangent("truncated_backward", name, d, shape_of_states(cache.steps))
    for start in range(0, len(cache.steps), window):
        chunk = slice(start, start + window)
        chunks.append(backward(*(d[:, chunk] for d in cotangents), type(cache)(cache.steps[chunk])))
    dxs, *rest = zip(*chunks)
    states, weights = rest[:len(cotangents)], rest[len(cotangents):]
    return np.concatenate(dxs, axis=1), *(d[0] for d in states), *(sum(d) for d in weights)


# ------------------------------------------------------------------------------------------------ the last step

class LastStepCache(NamedTuple):
    lengths: np.ndarray
    shape: tuple


@float_arrays
def last_step_forward(hs, lengths):
    """The state after the last step of each sequence.

    Shapes: hs (N, T, H), lengths (N) in 1..T -> h (N, H)
    Raises ValueError or TypeError unless lengths holds a whole number from 1 to T for each sequence.
    """
    require_axes("last_step_forward", "hs", hs, "(N, T, H)")
    require_lengths("last_step_forward", lengths, *hs.shape[:2])
    h = hs[np.arange(len(hs)), lengths - 1]                     # (RNN-17)
    return h, LastStepCache(lengths, hs.shape)


def last_step_backward(dh, cache):
    """Shapes: dh (N, H) -> dhs (N, T, H)"""
    lengths, (N, T, H) = cache
    require_cotangent("last_step_backward", "dh", dh, (N, H))
    last = np.arange(T) == lengths[:, None] - 1
    dhs = np.where(last[:, :, None], dh[:, None], 0)            # (RNN-18)
    return dhs


# ------------------------------------------------------------------------------------------------ a loss at every step

class SequenceCrossEntropyCache(NamedTuple):
    p: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    kept: int


@float_arrays
def sequence_cross_entropy_forward(z, targets, mask):
    """Mean over the steps that the mask keeps of -log softmax(z) at the target class.

    Shapes: z (N, T, K), targets (N, T) in 0..K-1, mask (N, T) in 0..1 -> loss ()
    The targets of masked steps are looked at, too: put any class there. Raises TypeError if targets are not integers,
    IndexError for a class outside 0..K-1, ValueError for shapes that do not fit, a mask that holds anything but 0 and
    1, or one that keeps nothing.
    """
    require_kept("sequence_cross_entropy_forward", z, targets, mask)
    shifted = z - z.real.max(axis=2, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))     # (RNN-19)
    p = np.exp(logp)                                            # (RNN-20)
    kept = int(np.count_nonzero(mask))                          # (RNN-21)
    of_target = np.take_along_axis(logp, targets[:, :, None], axis=2)[:, :, 0]
    loss = -(of_target[mask > 0] / kept).sum()                  # (RNN-22)
    return loss, SequenceCrossEntropyCache(p, targets, mask, kept)


def sequence_cross_entropy_backward(dloss, cache):
    """Shapes: dloss () -> dz (N, T, K)"""
    p, targets, mask, kept = cache
    error = p - (np.arange(p.shape[2]) == targets[:, :, None])
    dz = dloss / kept * np.where(mask[:, :, None] > 0, error, 0)            # (RNN-23)
    return dz
