"""What the tuned recurrent networks share: what they take, blocks of weights, and runs of steps."""

import math

import numpy as np

from . import alike


LINE = 64                                                       # bytes that a processor fetches at once
RUN = 1 << 21                                                   # bytes of dz that are worked on at a time
SMALL = 10**6                                                   # multiplications in one product of a step


def ordinary(x, states, W_ih, W_hh, biases, gates):
    """Whether these are arrays of one width that fit each other, with a step at least."""
    if not (alike(x, *states, W_ih, W_hh, *biases) and x.ndim == 3 and W_hh.ndim == 2 and x.shape[1]):
        return False
    (N, _, D), (rows, H) = x.shape, W_hh.shape
    return (rows == gates * H and W_ih.shape == (rows, D) and all(b.shape == (rows,) for b in biases)
            and all(state.shape == (N, H) for state in states))


def room(shape, dtype):
    """np.empty, beginning where a line of the processor's cache does: no vector lies across two of them."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE
    return raw[start:start + size].view(dtype).reshape(shape)


def in_blocks(W, N):
    """W (rows, K) as (blocks, rows / blocks, K), each block times (K, N) a SMALL product if rows can be divided so.

    OpenBLAS copies the operands of a large product into another order first, which pays if N is large; for a small
    one it does not.
    """
    rows, K = W.shape
    blocks = next((n for n in range(1, 129) if rows % n == 0 and rows // n * K * N <= SMALL), 1)
    return W.reshape(blocks, rows // blocks, K)


def run_length(T, step_size, dtype):
    """How many steps, with so many numbers each, fit into RUN bytes."""
    return min(T, max(1, RUN // max(1, step_size * dtype.itemsize)))


def runs(T, length):
    """Slices of so many steps, the last ones first."""
    return [slice(max(0, stop - length), stop) for stop in range(T, 0, -length)]
