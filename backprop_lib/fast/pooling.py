"""Pooling, tuned; `cnn` of this package has the pairs. What was done, in this order:

1. Tap by tap, no windows: passes of `np.maximum` or `+` over views of the images. Nothing is gathered.
2. The memory order of the images is kept, whatever it is: batch-last images give batch-last results without a copy.
3. Of each window one small integer is kept, the number of its winning tap, not R*S truth values.
4. The rule for NaN is applied only where a result is NaN.
5. Windows that do not overlap write their gradients; only those that do add them. If they leave no gap, nothing is
   filled with zeros first.
6. The maximum's gradient: the bits of dy, as integers, times 0 or 1. NaN and inf need no case of their own, and it is
   1.2 times faster than floats with such a case.
7. Means are separable: along columns, then along rows, R + S passes and not R*S.

With 1 to 6 a maximum of 2 x 2 with its gradient is several times faster than the readable one. Its passes over memory
are what is left: at 32 x 32 x 32, batch 32, float32, the bare comparisons, maxima and products, into arrays that are
there already, take 0.28 of PyTorch's time (float64: 0.63). Tried without gain: maxima by columns, then by rows; parts
that stay in the cache; rows first; two subtractions in place of two products.
"""

import math
from typing import NamedTuple

import numpy as np

from .. import cnn as readable
from ..checks import require_cotangent, require_flag, require_pool, require_taps
from . import alike
from .convolution import inside


def in_order_of(x, shape, dtype=None, make=np.empty):
    """A new array of this shape whose axes lie in memory in the order of those of x."""
    order = sorted(range(x.ndim), key=lambda a: -abs(x.strides[a]))
    a = make([shape[k] for k in order], x.dtype if dtype is None else dtype)
    return a.transpose([order.index(k) for k in range(x.ndim)])


BITS = {"f": np.int32, "d": np.int64}


class Window(NamedTuple):
    """Images (N, C, I, J), results (N, C, P, Q), and pairs of numbers for rows and columns."""
    image: tuple
    outputs: tuple
    kernel: tuple
    stride: tuple
    padding: tuple
    dilation: tuple

    def along(self, axis, tap):
        """Slices along an axis (0 rows, 1 columns): of the outputs whose tap is a pixel, and of those pixels."""
        u = self.stride[axis]
        offset = self.dilation[axis]*tap - self.padding[axis]
        p0, p1 = inside(self.image[axis], self.outputs[axis], u, offset)
        i0 = u*p0 + offset
        return slice(p0, p1), slice(i0, i0 + u*(p1 - p0 - 1) + 1, u) if p1 > p0 else slice(0, 0)

    def taps(self):
        """For each tap, row by row: where it reads in the outputs and in the images."""
        for r, s in np.ndindex(self.kernel):
            (p, i), (q, j) = self.along(0, r), self.along(1, s)
            yield (..., p, q), (..., i, j)

    def unfold(self, examples):
        """The cache of the readable functions; `examples` is (N, C)."""
        options = self.kernel, self.stride, self.padding, self.dilation
        return readable.UnfoldCache(readable.places((*examples, *self.image), self.outputs, *options))

    def apart(self):
        """No two windows share a pixel."""
        return all(r == 1 or e == 1 and u >= r for r, u, e in zip(self.kernel, self.stride, self.dilation))

    def tiles(self):
        """Every pixel is in exactly one window."""
        return self.apart() and all(m == 0 and u == r and p*u == i for i, p, r, u, m in zip(
            self.image, self.outputs, self.kernel, self.stride, self.padding))


def window(x, options):
    kernel, stride, padding, dilation = options
    outputs = tuple((i + 2*m - e*(r - 1) - 1)//u + 1
                    for i, r, u, m, e in zip(x.shape[2:], kernel, stride, padding, dilation))
    return Window(x.shape[2:], outputs, kernel, stride, padding, dilation)


def counts(at):
    """How many taps of each window are pixels: (P), (Q)."""
    both = []
    for axis, (P, R) in enumerate(zip(at.outputs, at.kernel)):
        n = np.zeros(P, int)
        for r in range(R):
            n[at.along(axis, r)[0]] += 1
        both.append(n)
    return both


def require_seen(owner, at):
    """Every window sees a pixel."""
    if not any(at.padding):
        return
    rows, columns = counts(at)
    if not (rows.all() and columns.all()):
        require_taps(owner, np.logical_and.outer(rows > 0, columns > 0)[:, :, None, None])


# ------------------------------------------------------------------------------------------------ maximum

class MaxPool2dCache(NamedTuple):
    winner: np.ndarray                                          # (N, C, P, Q): the number of a tap
    at: Window


def max_pool2d_forward(x, kernel_size, stride=None, padding=0, dilation=1):
    """The cache keeps the winners' numbers, and nothing of x."""
    if not alike(x):
        return readable.max_pool2d_forward(x, kernel_size, stride, padding, dilation)
    options = require_pool("max_pool2d_forward", x, kernel_size, stride, padding, dilation)
    at = window(x, options)
    require_seen("max_pool2d_forward", at)
    shape, kind = (*x.shape[:2], *at.outputs), np.min_scalar_type(math.prod(at.kernel) - 1)
    y, winner = in_order_of(x, shape), in_order_of(x, shape, kind, np.zeros)
    largest(x, y, winner, list(at.taps()), any(at.padding))
    return y, MaxPool2dCache(winner, at)


def largest(x, y, winner, taps, padded):
    """Write the maxima, and for each the number of the first tap that has it, or of the last NaN."""
    best, kind = y, winner.dtype
    if padded:
        y[...] = -np.inf
    for k, (out, pixels) in enumerate(taps):
        v = x[pixels]
        if k == 0 and not padded:                               # then tap 0 of every window is a pixel
            best = v if len(taps) > 1 else np.positive(v, out=y)
            continue
        more = (v > best[out]).view(np.uint8)
        if k == 1 and not padded:
            winner[...] = more
        else:
            np.maximum(winner[out], np.multiply(more, kind.type(k), dtype=kind), out=winner[out])
        np.maximum(best[out], v, out=y[out])
        best = y
    if padded:
        first_pixels(y, winner, taps)
    if np.isnan(y.max(initial=-np.inf)):
        for k, (out, pixels) in enumerate(taps):
            winner[out][np.isnan(x[pixels])] = k
    y += 0                                                      # -0.0 becomes 0.0, as in the readable sum


def first_pixels(y, winner, taps):
    """A window of -inf alone has no tap that is larger than the start: its first pixel wins."""
    low = y == -np.inf
    if low.any():
        for k, (out, _) in reversed(list(enumerate(taps))):
            winner[out][low[out]] = k


def max_pool2d_backward(dy, cache):
    """Bits times 0 or 1: a loser gets 0.0 also from NaN and inf."""
    if not isinstance(cache, MaxPool2dCache):
        return readable.max_pool2d_backward(dy, cache)
    winner, at = cache
    require_cotangent("max_pool2d_backward", "dy", dy, winner.shape)
    if not alike(dy):
        win = winner[..., None, None] == np.arange(math.prod(at.kernel)).reshape(at.kernel)
        return readable.max_pool2d_backward(dy, readable.MaxPool2dCache(win, at.unfold(winner.shape[:2])))
    dx = in_order_of(winner, (*winner.shape[:2], *at.image), dy.dtype, np.empty if at.tiles() else np.zeros)
    apart, bits = at.apart(), BITS[dy.dtype.char]
    dy = np.add(dy, 0, out=in_order_of(winner, winner.shape, dy.dtype))         # -0.0 becomes 0.0
    for k, (out, pixels) in enumerate(at.taps()):
        mine = winner[out] == k
        if apart:
            np.multiply(dy.view(bits)[out], mine, out=dx.view(bits)[pixels])
        else:
            dx[pixels] += (dy.view(bits)[out]*mine).view(dy.dtype)
    return dx


# ------------------------------------------------------------------------------------------------ mean

class AvgPool2dCache(NamedTuple):
    count: np.ndarray                                           # () or (P, Q): the number of taps that count
    at: Window
    channels: tuple                                             # N, C


def window_sums(x, at):
    """Sums along columns, then along rows."""
    N, C, I, _ = x.shape
    half = summed(x, in_order_of(x, (N, C, I, at.outputs[1])), at, 1)
    return summed(half, in_order_of(x, (N, C, *at.outputs)), at, 0)


def summed(x, y, at, axis):
    pick = (lambda a, k: a[:, :, k]) if axis == 0 else (lambda a, k: a[..., k])
    started = not at.padding[axis]
    if not started:
        y[...] = 0
    for r in range(at.kernel[axis]):
        out, pixels = at.along(axis, r)
        if r == 0 and started:
            y[...] = pick(x, pixels)
        else:
            part = pick(y, out)
            part += pick(x, pixels)
    return y


def avg_pool2d_forward(x, kernel_size, stride=None, padding=0, count_include_pad=True):
    if not alike(x):
        return readable.avg_pool2d_forward(x, kernel_size, stride, padding, count_include_pad)
    options = require_pool("avg_pool2d_forward", x, kernel_size, stride, padding, 1)
    require_flag("avg_pool2d_forward", "count_include_pad", count_include_pad)
    at = window(x, options)
    count = np.asarray(float(math.prod(at.kernel)) if count_include_pad else np.multiply.outer(*counts(at)), x.dtype)
    y = window_sums(x, at)
    y /= count
    return y, AvgPool2dCache(count, at, x.shape[:2])


def avg_pool2d_backward(dy, cache):
    if not isinstance(cache, AvgPool2dCache):
        return readable.avg_pool2d_backward(dy, cache)
    count, at, channels = cache
    require_cotangent("avg_pool2d_backward", "dy", dy, (*channels, *at.outputs))
    if not alike(dy, count):
        count = np.broadcast_to(count, at.outputs)
        return readable.avg_pool2d_backward(dy, readable.AvgPool2dCache(count, at.unfold(channels)))
    part = dy / count
    N, C, P, _ = part.shape
    half = dealt(part, (N, C, P, at.image[1]), at, 1)
    return dealt(half, (N, C, *at.image), at, 0)


def dealt(part, shape, at, axis):
    """The transpose of summed: every pixel receives the parts of the windows that see it."""
    pick = (lambda k: (..., k, slice(None))) if axis == 0 else (lambda k: (..., k))
    dx = in_order_of(part, shape, None, np.empty if at.tiles() else np.zeros)
    for r in range(at.kernel[axis]):
        out, pixels = map(pick, at.along(axis, r))
        if at.tiles():
            dx[pixels] = part[out]
        else:
            dx[pixels] += part[out]
    return dx
