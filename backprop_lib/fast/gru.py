"""Tuned twins of `backprop_lib.gru`: `gru_forward` and `gru_backward`, with the reset gate after the product.

With reset_after=False they hand over to the readable functions. What was done, in this order, and how many times
faster it made both together, against the step before (float32 and float64, one thread, N, T, D, H = 32, 50, 64, 128):

1. The layout of `lstm`. The blocks of a step stand in the order u_n, r, z, n: the first three are what the state goes
   into, the last three what the input goes into. r and z are one product of [x; 1; h_prev]. All four local
   derivatives are multiplied by the same dh, in one operation. 1.6, 1.5.
2. Backward in runs of steps, whose dz fills 2 MB: less memory. 1.04, 1.03.
3. The products of a step in blocks. 1.04, 1.08.
4. Arrays that begin with a line of the cache. 1.06, 1.1.

One product for everything would need blocks of zeros in W, and an x of inf would make NaN of them.
"""

from typing import NamedTuple

import numpy as np

from .. import gru as readable
from . import alike
from .steps import in_blocks, ordinary, room, run_length, runs


class GRUCache(NamedTuple):
    """inputs holds x, 1 and h_prev of each step (T + 1, D+1+H, N), gates u_n, r, z, n (T, 4, H, N)."""
    inputs: np.ndarray
    gates: np.ndarray
    W_ih: np.ndarray
    W_hh: np.ndarray

    @property
    def steps(self):
        """The step caches of the readable functions, views, made when asked for."""
        D, T = self.W_ih.shape[1], len(self.gates)
        inputs, gates = self.inputs[:T].swapaxes(1, 2), np.moveaxis(self.gates.swapaxes(2, 3), 1, 0)
        return tuple(readable.GRUStepCache(x, h_prev, self.W_ih, self.W_hh, *step)
                     for x, h_prev, *step in zip(inputs[..., :D], inputs[..., D + 1:], *gates))

    @property
    def readable(self):
        return readable.GRUCache(self.steps)


def gru_forward(x, h0, W_ih, W_hh, b_ih, b_hh, reset_after=True):
    if not (reset_after and ordinary(x, (h0,), W_ih, W_hh, (b_ih, b_hh), 3)):
        return readable.gru_forward(x, h0, W_ih, W_hh, b_ih, b_hh, reset_after)
    (N, T, D), H = x.shape, h0.shape[1]
    inputs, gates = room((T + 1, D + 1 + H, N), x.dtype), room((T, 4, H, N), x.dtype)
    hs = np.empty((N, T, H), x.dtype)
    inputs[:T, :D], inputs[:, D], inputs[0, D + 1:] = x.transpose(1, 2, 0), 1, h0.T
    W_rz = np.hstack([W_ih[:2*H], (b_ih + b_hh)[:2*H, None], W_hh[:2*H]])
    np.negative(W_rz, W_rz)                                     # sigmoid(z) = 1 / (1 + exp(-z))
    W_u, W_a = np.hstack([b_hh[2*H:, None], W_hh[2*H:]]), np.hstack([W_ih[2*H:], b_ih[2*H:, None]])
    if N == 1:
        gates[:, 3] = (inputs[:T, :D + 1, 0] @ W_a.T)[:, :, None]
    else:
        np.matmul(W_a, inputs[:T, :D + 1], gates[:, 3])
    with np.errstate(over="ignore"):
        through_time(in_blocks(W_rz, N), in_blocks(W_u, N), inputs, gates, hs)
    return hs, GRUCache(inputs, gates, W_ih, W_hh)


def through_time(W_rz, W_u, inputs, gates, hs):
    """The recurrence forward, from what the inputs give to n."""
    T, _, H, N = gates.shape
    D = inputs.shape[1] - 1 - H
    change, one = room((H, N), gates.dtype), np.array(1, gates.dtype)
    of_h, of_both = gates[:, 0].reshape(T, *W_u.shape[:2], N), gates[:, 1:3].reshape(T, *W_rz.shape[:2], N)
    steps = (inputs, inputs[:, D:], inputs[:, D + 1:], inputs[1:, D + 1:], of_h, of_both, gates[:, 1:3],
             *gates.swapaxes(0, 1), hs.transpose(1, 2, 0))
    for seen, one_and_h, h_prev, h, of_h, of_both, rz, u_n, r, z, n, h_out in zip(*steps):
        np.matmul(W_rz, seen, of_both)
        np.matmul(W_u, one_and_h, of_h)
        np.exp(rz, rz)
        np.add(rz, one, rz)
        np.divide(one, rz, rz)
        np.multiply(r, u_n, change)
        np.add(n, change, n)
        np.tanh(n, n)
        np.subtract(h_prev, n, change)
        np.multiply(change, z, change)
        np.add(n, change, h)                                    # (1 - z) n + z h_prev
        h_out[...] = h


def gru_backward(dhs, cache):
    if not isinstance(cache, GRUCache):
        return readable.gru_backward(dhs, cache)
    inputs, gates, W_ih, W_hh = cache
    (T, _, H, N), D, dtype = gates.shape, W_ih.shape[1], gates.dtype
    if not (alike(gates, dhs) and dhs.shape == (N, T, H)):
        return readable.gru_backward(dhs, cache.readable)
    W_hh_T, W_ih_T = np.concatenate([W_hh[2*H:], W_hh[:2*H]]).T, W_ih.T
    if N == 1:
        W_hh_T = W_hh_T[None]
    else:
        W_hh_T, W_ih_T = in_blocks(np.ascontiguousarray(W_hh_T), N), np.ascontiguousarray(W_ih_T)
    length = run_length(T, 4 * H * N, dtype)
    d_room, seen_room = room((length, 4, H, N), dtype), room((length, H, N), dtype)
    dx, dh, of_x, of_h = np.empty((N, T, D), dtype), room((H, N), dtype), 0, 0
    dh[...] = 0
    for run in runs(T, length):
        k = run.stop - run.start
        d = d_room[:k]
        local_derivatives(d, gates[run], inputs[run, D + 1:], seen_room[:k])
        through_run(d, gates[run, 2], dhs[:, run].transpose(1, 2, 0), dh, W_hh_T)
        dx[:, run] = (W_ih_T @ d[:, 1:].reshape(k, 3*H, N)).transpose(2, 0, 1)
        rows = np.moveaxis(d, 0, 2).reshape(4*H, k * N)
        columns = inputs[run].swapaxes(0, 1).reshape(D + 1 + H, k * N)
        of_x, of_h = of_x + rows[H:] @ columns[:D + 1].T, of_h + rows[:3*H] @ columns[D:].T
    of_h = np.concatenate([of_h[H:], of_h[:H]])                 # from n, r, z to r, z, n
    return dx, dh.T.copy(), of_x[:, :D].copy(), of_h[:, 1:].copy(), of_x[:, D].copy(), of_h[:, 0].copy()


def local_derivatives(d, gates, h_prev, u):
    """What dh is multiplied by to give du_n, da_r, da_z, da_n."""
    u_n, r, z, n = gates.swapaxes(0, 1)
    d_u, d_r, d_z, d_n = d.swapaxes(0, 1)
    np.subtract(1, z, d_n)
    np.multiply(d_n, z, d_z)
    np.subtract(h_prev, n, u)
    np.multiply(d_z, u, d_z)
    np.multiply(n, n, u)
    np.subtract(1, u, u)
    np.multiply(d_n, u, d_n)
    np.multiply(d_n, r, d_u)
    np.multiply(d_u, u_n, d_r)
    np.subtract(1, r, u)
    np.multiply(d_r, u, d_r)


def through_run(d, z, dhs, dh_next, W_hh_T):
    """Writes d of these steps; dh_next comes from later steps, and goes on."""
    k, _, H, N = d.shape
    dh, product = room((H, N), d.dtype), dh_next.reshape(*W_hh_T.shape[:2], N)
    for t in range(k - 1, -1, -1):
        d_t = d[t]
        np.add(dhs[t], dh_next, dh)
        np.multiply(d_t, dh, d_t)
        np.matmul(W_hh_T, d_t[:3].reshape(3*H, N), product)
        np.multiply(dh, z[t], dh)
        np.add(dh_next, dh, dh_next)
