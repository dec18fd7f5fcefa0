"""Convolution, tuned; `cnn` of this package has the pairs. What was done, in this order, and how many times faster it
made forward, against the step before (float32, one thread; 6 channels of 12 x 12 to 16 filters of 5 x 5, batch 64, and
16 channels of 34 x 34 to 32 filters of 3 x 3, batch 32):

1. Batch-last memory. An image (N, C, I, J) lies in memory as (C, I, J, N), so a row of an image is one long run of J*N
   numbers, and so is a tap's share of it. Shapes do not change: what a function returns is a view with the axes in
   PyTorch's order, and NumPy's elementwise functions keep it so. Against einsum over windows: 2 to 3.5, 1.0 to 1.3 (the
   larger number where x comes batch-last).
2. Blocks of rows of about `BLOCK` bytes of columns, in a buffer that is used again, and one product of matrices for
   each row of the output: filters (F, RSC) times columns (RSC, QN). 1.0, 1.2.
3. Shared rows. The columns of output row p are S shifted copies of the image rows p, p + 1, .. p + R - 1, and those of
   row p + 1 are the same but one. Kept as (rows, SC, QN) they overlap in memory: S copies of the image, not R*S. 1.0,
   1.0 to 1.05; from 64 to 64 filters 1.1.
4. The image's gradient shares rows too: one product gives row i for all s, summed over r already. Only S sums are left.
   1.1 to 4 times as fast as a convolution with the turned kernel, which needs S copies of dy.

Tried without gain: y in the way of 4; products small enough for OpenBLAS not to rearrange their operands; threads for
blocks; a ring of rows; a product for each r or each tap; a square product for dW; the bias in the cache. Winograd's
F(2x2, 3x3) (`benchmarks/winograd.py`) is as exact, 2e-7 to 6e-7, but y, dx and dW take 1.4 to 2.0 times the time from
16 to 32 filters, and 1.0 to 1.4 times from 64 to 64: the sums before and after the products cost what the fewer
products save.

conv2d's cache keeps a copy of x, so x may change before the backward pass, as with the readable function.
"""

from typing import NamedTuple

import numpy as np

from .. import cnn as readable
from ..checks import require_convolution, require_cotangent, require_transposed, require_windows
from . import alike


BLOCK = 1 << 21                                                 # bytes of columns at a time


# ------------------------------------------------------------------------------------------------ memory

def batch_last(x, copy=False):
    """The images as (C, I, J, N) with rows of J*N neighbours: a view if they lie so already, else a copy."""
    t = x.transpose(1, 2, 3, 0)
    runs = t.shape[3]*t.itemsize, t.itemsize
    follows = all(size == 1 or have == want for size, have, want in zip(t.shape[2:], t.strides[2:], runs))
    return t if not copy and follows and t.flags.aligned else np.array(t, order="C")


def batch_first(t):
    """The view (N, C, I, J) of what lies in memory as (C, I, J, N)."""
    return t.transpose(3, 0, 1, 2)


class Taps(NamedTuple):
    """Which pixel a tap reads: row u0 p + e0 r - m0, column u1 q + e1 s - m1; a padding may be negative."""
    outputs: tuple                                              # P, Q
    kernel: tuple
    stride: tuple
    padding: tuple
    dilation: tuple


def inside(size, count, stride, offset):
    """The k in 0..count-1 for which stride*k + offset is in 0..size-1, as (first, end)."""
    first = min(max(0, -(offset//stride)), count)
    return first, max(first, min(count, (size - 1 - offset)//stride + 1))


def fill(buffer, t, taps, first):
    """Row i of the buffer (rows, S, C, Q, N): row first + i of the images t, once for each s, shifted, 0 outside."""
    rows, S, _, Q, _ = buffer.shape
    i0, i1 = inside(t.shape[1], rows, 1, first)
    buffer[:i0], buffer[i1:] = 0, 0
    u, e, m = taps.stride[1], taps.dilation[1], taps.padding[1]
    for s in range(S):
        q0, q1 = inside(t.shape[2], Q, u, e*s - m)
        buffer[i0:i1, s, :, :q0], buffer[i0:i1, s, :, q1:] = 0, 0
        if q1 > q0:
            j0 = u*q0 + e*s - m
            part = t[:, first + i0:first + i1, j0:j0 + u*(q1 - q0 - 1) + 1:u]
            buffer[i0:i1, s, :, q0:q1] = part.transpose(1, 0, 2, 3)


def blocks(t, taps):
    """The rows of the output in runs (p, end), of about BLOCK bytes of columns each."""
    P, Q = taps.outputs
    row = taps.kernel[1]*len(t)*Q*t.shape[3]*t.itemsize*taps.stride[0]
    height = min(P, max(1, -(-BLOCK//max(1, row))))
    return [(p, min(p + height, P)) for p in range(0, P, height)]


def columns(t, taps, groups):
    """(p, end, columns (G, p, RSC/G, QN)) for each block: views of a buffer which the next block overwrites."""
    (R, S), (C, N) = taps.kernel, t.shape[::3]
    u, e, m = taps.stride[0], taps.dilation[0], taps.padding[0]
    D, runs = C//groups, blocks(t, taps)
    P, Q = runs[0][1], taps.outputs[1]
    buffer = np.empty((groups, u*(P - 1) + e*(R - 1) + 1, S, D, Q*N), t.dtype)
    g, row, _, line, one = buffer.strides
    for p, end in runs:
        rows = u*(end - p - 1) + e*(R - 1) + 1
        for k, part in enumerate(buffer[:, :rows].reshape(groups, rows, S, D, Q, N)):
            fill(part, t[k*D:k*D + D], taps, u*p - m)
        overlapping = np.ndarray((groups, end - p, R, S*D, Q*N), t.dtype, buffer, 0, (g, u*row, e*row, line, one))
        yield p, end, overlapping.reshape(groups, end - p, R*S*D, Q*N)          # a view if e == 1


# ------------------------------------------------------------------------------------------------ three products

def by_rows(y, groups):
    """A view (G, P, F/G, QN) of (F, P, Q, N)."""
    F, P, Q, N = y.shape
    return y.reshape(groups, F//groups, P, Q*N).transpose(0, 2, 1, 3)


def correlate(t, W, b, taps, groups):
    """Images (C, I, J, N), filters (F, D, R, S), biases or None -> (F, P, Q, N)."""
    F = len(W)
    W = W.reshape(groups, 1, F//groups, *W.shape[1:]).transpose(0, 1, 2, 4, 5, 3).reshape(groups, 1, F//groups, -1)
    y = np.empty((F, *taps.outputs, t.shape[3]), np.result_type(t, W))
    rows = by_rows(y, groups)
    for p, end, cols in columns(t, taps, groups):
        np.matmul(W, cols, out=rows[:, p:end])
        if b is not None:
            y[:, p:end] += b[:, None, None, None]
    return y


def weigh(t, d, taps, groups):
    """Images (C, I, J, N), gradients d (F, P, Q, N) -> the filters' gradient (F, D, R, S)."""
    (R, S), F = taps.kernel, len(d)
    rows = by_rows(d, groups).transpose(0, 1, 3, 2)
    D = len(t)//groups
    dW = np.zeros((groups, R*S*D, F//groups), t.dtype)
    for p, end, cols in columns(t, taps, groups):
        dW += (cols @ rows[:, p:end]).sum(axis=1)
    return dW.reshape(groups, R, S, D, F//groups).transpose(0, 4, 3, 1, 2).reshape(F, D, R, S)


def spread(d, W, taps, groups, image):
    """The transpose of correlate: d (F, P, Q, N), filters (F, D, R, S) -> images (C, I, J, N)."""
    if taps.stride[0] != 1 or not np.isfinite(W).all():         # 0 of the padding times inf would be NaN
        return scatter(d, W, taps, groups, image)
    return deal(d, W, taps, groups, image)


def deal(d, W, taps, groups, image):
    """Row i of the image for all s at once, (SC, RF) times (RF, QN), then S sums along the row. Row stride 1."""
    (F, _, Q, N), (_, D, R, S), (I, J) = d.shape, W.shape, image
    u, e, m = taps.stride[1], taps.dilation, taps.padding
    W = W.reshape(groups, F//groups, D, R, S)[..., ::-1, :].transpose(0, 4, 2, 3, 1).reshape(groups, 1, S*D, -1)
    back = Taps((I, Q), (R, 1), (1, 1), (e[0]*(R - 1) - m[0], 0), (e[0], 1))
    dx = np.empty((groups, D, I, J, N), d.dtype)
    for i, end, rows in columns(d, back, groups):
        parts = (W @ rows).reshape(groups, end - i, S, D, Q, N)
        mine = dx[:, :, i:end]
        mine[...] = 0
        for s in range(S):
            q0, q1 = inside(J, Q, u, e[1]*s - m[1])
            if q1 > q0:
                j = u*q0 + e[1]*s - m[1]
                mine[..., j:j + u*(q1 - q0 - 1) + 1:u, :] += parts[:, :, s, :, q0:q1].swapaxes(1, 2)
        del parts                                               # before the next ones need room
    return dx.reshape(groups*D, I, J, N)


def scatter(d, W, taps, groups, image):
    """The same with any stride: the windows' gradients block by block, each added where its tap reads."""
    (F, P, Q, N), (_, D, R, S) = d.shape, W.shape
    (u0, u1), (m0, m1), (e0, e1) = taps[2:]
    padded = np.zeros((groups*D, *(i + 2*m for i, m in zip(image, taps.padding)), N), np.result_type(d, W))
    W = W.reshape(groups, F//groups, D, R, S).transpose(0, 3, 4, 2, 1).reshape(groups, R*S*D, F//groups)
    height = max(1, BLOCK//max(1, groups*R*S*D*Q*N*padded.itemsize))
    for p in range(0, P, height):
        n = min(height, P - p)
        part = d[:, p:p + n].reshape(groups, F//groups, n*Q*N)
        windows = (W @ part).reshape(groups, R, S, D, n, Q, N)
        for g, r, s in np.ndindex(groups, R, S):
            i, j = u0*p + e0*r, e1*s
            padded[g*D:g*D + D, i:i + u0*(n - 1) + 1:u0, j:j + u1*(Q - 1) + 1:u1] += windows[g, r, s]
    return padded[:, m0:m0 + image[0], m1:m1 + image[1]]


def channel_sums(d):
    """(F, P, Q, N) -> (F)"""
    return d.reshape(len(d), -1).sum(axis=1)


# ------------------------------------------------------------------------------------------------ convolution

class Conv2dCache(NamedTuple):
    t: np.ndarray                                               # (C, I, J, N)
    W: np.ndarray
    groups: int
    taps: Taps


def conv2d_forward(x, W, b, stride=1, padding=0, dilation=1, groups=1):
    """The cache keeps W, and a copy of x as (C, I, J, N)."""
    if not (alike(x, W, b) and x.size and W.size):
        return readable.conv2d_forward(x, W, b, stride, padding, dilation, groups)
    G = require_convolution("conv2d_forward", x, W, b, groups)
    options = require_windows("conv2d_forward", x, W.shape[2:], stride, padding, dilation)
    outputs = tuple((i + 2*m - e*(r - 1) - 1)//u + 1 for i, r, u, m, e in zip(x.shape[2:], *options))
    taps, t = Taps(outputs, *options), batch_last(x, copy=True)
    y = correlate(t, W, b, taps, G)
    return batch_first(y), Conv2dCache(t, W, G, taps)


def conv2d_backward(dy, cache):
    if not isinstance(cache, Conv2dCache):
        return readable.conv2d_backward(dy, cache)
    t, W, G, taps = cache
    require_cotangent("conv2d_backward", "dy", dy, (t.shape[3], len(W), *taps.outputs))
    if not alike(dy, W):
        options = taps.stride, taps.padding, taps.dilation
        return readable.conv2d_backward(dy, readable.conv2d_forward(batch_first(t), W, W[:, 0, 0, 0], *options, G)[1])
    d = batch_last(dy)
    dx = spread(d, W, taps, G, t.shape[1:3])
    return batch_first(dx), weigh(t, d, taps, G), channel_sums(d)


# ---------------------------------------------------------------------------------------------- transposed convolution

class ConvTranspose2dCache(NamedTuple):
    t: np.ndarray                                               # (F, P, Q, N)
    W: np.ndarray
    groups: int
    taps: Taps
    image: tuple


def conv_transpose2d_forward(x, W, b, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The cache keeps W and x, as the readable one does."""
    if not (alike(x, W, b) and x.size and W.size):
        return readable.conv_transpose2d_forward(x, W, b, stride, padding, output_padding, groups, dilation)
    G = require_convolution("conv_transpose2d_forward", x, W, b, groups, transposed=True)
    options, extra = require_transposed("conv_transpose2d_forward", x, W.shape[2:], stride, padding, dilation,
                                        output_padding)
    image = tuple((p - 1)*u + e*(r - 1) + 1 - 2*m + o
                  for p, r, u, m, e, o in zip(x.shape[2:], *options, extra))
    taps, t = Taps(x.shape[2:], *options), batch_last(x)
    y = spread(t, W, taps, G, image)
    y += b[:, None, None, None]
    return batch_first(y), ConvTranspose2dCache(t, W, G, taps, image)


def conv_transpose2d_backward(dy, cache):
    if not isinstance(cache, ConvTranspose2dCache):
        return readable.conv_transpose2d_backward(dy, cache)
    t, W, G, taps, image = cache
    require_cotangent("conv_transpose2d_backward", "dy", dy, (t.shape[3], G*W.shape[1], *image))
    if not alike(dy, W):
        x, options = batch_first(t), (taps.kernel, taps.stride, taps.padding, taps.dilation)
        at = readable.places(np.shape(dy), taps.outputs, *options)
        return readable.conv_transpose2d_backward(dy, readable.ConvTranspose2dCache(x, W, G, at))
    d = batch_last(dy)
    dx = correlate(d, W, None, taps, G)
    return batch_first(dx), weigh(d, t, taps, G), channel_sums(d)
