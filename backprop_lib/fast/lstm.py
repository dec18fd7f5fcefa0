"""Tuned twins of `backprop_lib.lstm`: `lstm_forward` and `lstm_backward`.

What was done, in this order, and how many times faster it made both together, against the step before (float32 and
float64, one thread, N, T, D, H = 32, 50, 64, 128 unless it says otherwise):

1. Examples are the last axis inside. A step is one product W (4H, D+H+1) times [x; h_prev; 1] (D+H+1, N), the gates
   come out as contiguous blocks g, f, i, o (H, N), and what two or three of them share is one operation over one long
   row. The local derivatives of many steps, and the gradient of the weights, are taken together. All is written into
   arrays that are there already. 1.6, 1.5.
2. One example has its own recurrence, `alone`: the weights stay as they are, in PyTorch's order and apart, and so do
   their gradients, one product each; the inputs of all steps are one product beforehand. Its arrays begin anywhere.
   1.3, 1.4 (N, T, D, H = 1, 25, 65, 100; against the path of several examples, steps 3 to 6 included).
3. The states are copied out at each step, not at the end. No gain here; 1.2 at N, T, D, H = 64, 200, 128, 256.
4. Backward goes through runs of steps, of which dz fills 2 MB, and uses the same arrays for each. 1.1, 1.05.
5. The product of a step is cut into blocks of rows, small enough for OpenBLAS to multiply without copying the
   operands into another order first. 1.06, 1.2.
6. Arrays begin where a line of the processor's cache does. 1.07, 1.0.

sigmoid is 1 / (1 + exp(-z)): tanh(z/2)/2 + 1/2, one tanh for all gates, is no faster, and loses the left tail.
Tried without gain: to leave out a dcs of zeros; gaps between the rows of W; 1 or 4 MB for a run.
"""

from typing import NamedTuple

import numpy as np

from .. import lstm as readable
from . import alike
from .steps import in_blocks, ordinary, room, run_length, runs


ORDER = [2, 1, 0, 3]                                            # g, f, i, o: where i, f, g, o stand in the blocks


class LSTMCache(NamedTuple):
    """inputs holds x, h_prev and 1 of each step (T + 1, D+H+1, N), gates c_prev, g, f, i, o (T + 1, 5, H, N)."""
    inputs: np.ndarray
    gates: np.ndarray
    m: np.ndarray
    W_ih: np.ndarray
    W_hh: np.ndarray

    @property
    def steps(self):
        """The step caches of the readable functions: copies, made when asked for."""
        T, D = len(self.m), self.W_ih.shape[1]
        x, h_prev, _ = np.split(self.inputs[:T].swapaxes(1, 2), [D, self.inputs.shape[1] - 1], axis=2)
        c_prev, g, f, i, o = np.moveaxis(self.gates[:T].swapaxes(2, 3), 1, 0)
        return tuple(readable.LSTMStepCache(*step[:3], self.W_ih, self.W_hh, *step[3:])
                     for step in zip(x, h_prev, c_prev, i, f, g, o, self.m.swapaxes(1, 2)))

    @property
    def readable(self):
        return readable.LSTMCache(self.steps)


def lstm_forward(x, h0, c0, W_ih, W_hh, b):
    if not ordinary(x, (h0, c0), W_ih, W_hh, (b,), 4):
        return readable.lstm_forward(x, h0, c0, W_ih, W_hh, b)
    (N, T, D), H = x.shape, h0.shape[1]
    new = np.empty if N == 1 else room
    inputs, gates, m = (new(shape, x.dtype) for shape in ((T + 1, D + H + 1, N), (T + 1, 5, H, N), (T, H, N)))
    inputs[:T, :D], inputs[0, D:-1], inputs[:, -1], gates[0, 0] = x.transpose(1, 2, 0), h0.T, 1, c0.T
    hs, cs = np.empty((2, N, T, H), x.dtype)
    with np.errstate(over="ignore"):
        if N == 1:
            alone(-b - x[0] @ W_ih.T, W_hh, inputs[:, D:-1], gates, m)
            hs[0], cs[0] = inputs[1:, D:-1, 0], gates[1:, 0, :, 0]
        else:
            through_time(rows_of(np.hstack([W_ih, W_hh, b[:, None]])), inputs, gates, m, hs, cs)
    return hs, cs, LSTMCache(inputs, gates, m, W_ih, W_hh)


def rows_of(W):
    """The blocks i, f, g, o of rows as g, f, i, o, or the other way round."""
    return W.reshape(4, len(W) // 4, W.shape[1])[ORDER].reshape(W.shape)


def through_time(W, inputs, gates, m, hs, cs):
    """The recurrence forward; all arrays are written into."""
    T, H, N = m.shape
    u, one = room((2, H, N), m.dtype), np.array(1, m.dtype)
    u_f, u_i = u
    np.negative(W[H:], W[H:])                                   # sigmoid(z) = 1 / (1 + exp(-z))
    W = in_blocks(W, N)
    steps = (inputs, gates[:, 1:].reshape(T + 1, *W.shape[:2], N), gates[:, 1], gates[:, 2:], gates[:, :2],
             gates[:, 2:4], gates[:, 4], m, gates[1:, 0], inputs[1:, -1-H:-1], hs.transpose(1, 2, 0),
             cs.transpose(1, 2, 0))
    for seen, z, g, sigmoids, c_prev_and_g, f_and_i, o, m_t, c, h, h_out, c_out in zip(*steps):
        np.matmul(W, seen, z)
        np.tanh(g, g)
        np.exp(sigmoids, sigmoids)
        np.add(sigmoids, one, sigmoids)
        np.divide(one, sigmoids, sigmoids)
        np.multiply(c_prev_and_g, f_and_i, u)
        np.add(u_f, u_i, c)
        np.tanh(c, m_t)
        np.multiply(o, m_t, h)
        h_out[...] = h
        c_out[...] = c


def alone(z, W_hh, h_all, gates, m):
    """The recurrence of one example: z (T, 4H) is minus what the inputs give, in the order i, f, g, o."""
    T, H, _ = m.shape
    z, r, one = z.reshape(T, 4*H, 1), np.empty((4*H, 1), m.dtype), np.array(1, m.dtype)
    u_f, u_i = u = np.empty((2, H, 1), m.dtype)
    four = z.reshape(T, 4, H, 1)
    steps = z, four[:, 2], four[:, 1::-1], four[:, 3], gates[:, :2], gates[:, 1], gates[1:, 0], m, h_all, h_all[1:]
    for z_t, z_g, f_and_i, o, c_prev_and_g, g, c, m_t, h_prev, h in zip(*steps):
        np.matmul(W_hh, h_prev, r)
        np.subtract(z_t, r, z_t)
        np.tanh(z_g, g)                                         # minus g
        np.exp(z_t, z_t)                                        # z_g too, for nothing: one call is faster than two
        np.add(z_t, one, z_t)
        np.divide(one, z_t, z_t)
        np.multiply(c_prev_and_g, f_and_i, u)
        np.subtract(u_f, u_i, c)
        np.tanh(c, m_t)
        np.multiply(o, m_t, h)
    np.negative(gates[:T, 1], gates[:T, 1])
    gates[:T, 2:4], gates[:T, 4] = four[:, 1::-1], four[:, 3]


def lstm_backward(dhs, dcs, cache):
    if not isinstance(cache, LSTMCache):
        return readable.lstm_backward(dhs, dcs, cache)
    inputs, gates, m, W_ih, W_hh = cache
    T, H, N = m.shape
    if not (alike(m, dhs, dcs) and dhs.shape == dcs.shape == (N, T, H)):
        return readable.lstm_backward(dhs, dcs, cache.readable)
    return (backward_alone if N == 1 else backward_in_runs)(dhs, dcs, cache)


def backward_in_runs(dhs, dcs, cache):
    """Several examples: runs of steps, the last ones first."""
    inputs, gates, m, W_ih, W_hh = cache
    (T, H, N), D, dtype = m.shape, W_ih.shape[1], m.dtype
    WT, length = in_blocks(rows_of(np.hstack([W_ih, W_hh])).T.copy(), N), run_length(T, 4*H * N, dtype)
    dx, dW, dc = np.empty((N, T, D), dtype), 0, room((H, N), dtype)
    dinputs = room((*WT.shape[:2], N), dtype)
    dinputs[...] = dc[...] = 0
    dz, slope = room((length, 4, H, N), dtype), room((length, H, N), dtype)     # of one run, used again for the next
    a, b = room((4*H, length, N), dtype), room((D + H + 1, length, N), dtype)
    for run in runs(T, length):
        k = run.stop - run.start
        local_derivatives(gates[run], m[run], dz[:k], slope[:k])
        through_run(dz[:k], slope[:k], gates[run, 2], dhs[:, run], dcs[:, run], dinputs, dc, WT, dx[:, run])
        dW += weight_gradient(dz[:k], inputs[run], a[:, :k], b[:, :k])
    dW, dh0 = rows_of(dW), dinputs.reshape(D + H, N)[D:]
    return dx, dh0.T.copy(), dc.T.copy(), dW[:, :D].copy(), dW[:, D:-1].copy(), dW[:, -1].copy()


def backward_alone(dhs, dcs, cache):
    """One example: all steps in one run, the weights and their gradients as they are."""
    inputs, gates, m, W_ih, W_hh = cache
    (T, H, _), D, dtype = m.shape, W_ih.shape[1], m.dtype
    dz, slope = np.empty((T, 4, H, 1), dtype), np.empty((T, H, 1), dtype)
    local_derivatives(gates[:T], m, dz, slope)
    dz, dh0, dc = dz.take(ORDER, 1), np.zeros((1, H, 1), dtype), np.zeros((H, 1), dtype)        # dz as i, f, g, o
    through_run(dz, slope, gates[:T, 2], dhs, dcs, dh0, dc, W_hh.T[None])
    dz, x, h_prev = dz.reshape(T, 4*H), inputs[:T, :D, 0], inputs[:T, D:-1, 0]
    return (dz @ W_ih)[None], dh0[0].T.copy(), dc.T.copy(), dz.T @ x, dz.T @ h_prev, dz.sum(0)


def local_derivatives(gates, m, dz, slope):
    """Into dz (steps, 4, H, N) what dc or dh is multiplied by to give it; into slope (steps, H, N) dh's share of dc."""
    g, i, o = gates[:, 1], gates[:, 3], gates[:, 4]
    of_g, of_s = dz[:, 0], dz[:, 1:]
    np.subtract(1, gates[:, 2:], of_s)
    np.multiply(of_s, gates[:, 2:], of_s)
    np.multiply(dz[:, 1:3], gates[:, :2], dz[:, 1:3])
    np.multiply(dz[:, 3], m, dz[:, 3])
    np.multiply(g, g, of_g)
    np.subtract(1, of_g, of_g)
    np.multiply(of_g, i, of_g)
    np.multiply(m, m, slope)
    np.subtract(1, slope, slope)
    np.multiply(slope, o, slope)


def through_run(dz, slope, f, dhs, dcs, dinputs, dc, WT, dx=None):
    """The recurrence itself: writes dz and dx of these steps; dinputs and dc come from later steps, and go on."""
    k, _, H, N = dz.shape
    u, dh, d_all = room(dc.shape, dc.dtype), room(dc.shape, dc.dtype), dinputs.reshape(len(WT) * len(WT[0]), N)
    by_c, by_h, flat = dz[:, :3], dz[:, 3], dz.reshape(k, 4*H, N)
    dx_t, dh_next = d_all[:len(d_all) - H], d_all[len(d_all) - H:]
    dhs, dcs, dx = (None if d is None else d.transpose(1, 2, 0) for d in (dhs, dcs, dx))
    for t in range(k - 1, -1, -1):
        by_c_t, by_h_t = by_c[t], by_h[t]
        np.add(dhs[t], dh_next, dh)
        np.multiply(dh, slope[t], u)
        np.add(dc, u, dc)
        np.add(dc, dcs[t], dc)
        np.multiply(by_c_t, dc, by_c_t)
        np.multiply(by_h_t, dh, by_h_t)
        np.multiply(dc, f[t], dc)
        np.matmul(WT, flat[t], dinputs)
        if dx is not None:
            dx[t] = dx_t


def weight_gradient(dz, inputs, a, b):
    """One product for the weights of a run, (4H, steps N) times (steps N, D+H+1), by way of the arrays a and b."""
    k, _, H, N = dz.shape
    np.copyto(a, dz.reshape(k, 4*H, N).swapaxes(0, 1))
    np.copyto(b, inputs.swapaxes(0, 1))
    return a.reshape(4*H, k * N) @ b.reshape(len(b), k * N).T
