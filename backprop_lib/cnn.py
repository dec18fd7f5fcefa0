r"""Convolution and pooling: equations (CNN-1) to (CNN-34).

(CNN-1) to (CNN-7) are derived in notebooks/02_cnn.ipynb, the others in notebooks/02b_strides_and_pooling.ipynb.

What the field calls a convolution is a cross-correlation, here as in PyTorch: the kernel is not turned. Images are
(N, C, I, J), kernels (F, C, R, S), outputs (N, F, P, Q). An option such as `stride` is a whole number or a pair (rows,
columns); in the equations it has the index 0 for rows and 1 for columns: stride u, padding m, dilation e.

`unfold` holds all the index arithmetic: which pixel each tap of each window reads. The layers that follow say what
they do with the windows, and their gradients return to the image through its one backward function.
Every function is pure: nothing passed in is changed, and a cache can be used twice.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .checks import (
    float_arrays,
    require_axes,
    require_convolution,
    require_cotangent,
    require_fit,
    require_flag,
    require_pixels,
    require_pool,
    require_taps,
    require_transposed,
    require_windows,
)


# ------------------------------------------------------------------------------------------------ plain correlation

class Correlate1dCache(NamedTuple):
    x: np.ndarray
    w: np.ndarray


@float_arrays
def correlate1d_forward(x, w):
    """Slide a kernel over one signal; Q = J - S + 1.

    Shapes: x (J), w (S) -> y (Q)
    Raises ValueError if the kernel is empty or longer than the signal.
    """
    require_axes("correlate1d_forward", "x", x, "(J)")
    require_axes("correlate1d_forward", "w", w, "(S)")
    require_fit("correlate1d_forward", x.shape, w.shape)
    y = sliding_window_view(x, len(w)) @ w                      # (CNN-1)
    return y, Correlate1dCache(x, w)


def correlate1d_backward(dy, cache):
    """Shapes: dy (Q) -> dx (J), dw (S)"""
    x, w = cache
    require_cotangent("correlate1d_backward", "dy", dy, (len(x) - len(w) + 1,))
    full = np.pad(dy, len(w) - 1)
    dx = sliding_window_view(full, len(w)) @ w[::-1]            # (CNN-2)
    dw = sliding_window_view(x, len(dy)) @ dy                   # (CNN-3)
    return dx, dw


class Correlate2dCache(NamedTuple):
    x: np.ndarray
    W: np.ndarray


@float_arrays
def correlate2d_forward(x, W, b):
    """Convolution without options: P = I - R + 1, Q = J - S + 1. `conv2d_forward` has them all.

    Shapes: x (N, C, I, J), W (F, C, R, S), b (F) -> y (N, F, P, Q)
    Raises ValueError if shapes do not fit each other.
    """
    require_convolution("correlate2d_forward", x, W, b)
    require_fit("correlate2d_forward", x.shape[2:], W.shape[2:])
    windows = sliding_window_view(x, W.shape[2:], axis=(2, 3))
    y = np.einsum("ncpqrs,fcrs->nfpq", windows, W, optimize=True) + b[:, None, None]    # (CNN-4)
    return y, Correlate2dCache(x, W)


def correlate2d_backward(dy, cache):
    """Shapes: dy (N, F, P, Q) -> dx (N, C, I, J), dW (F, C, R, S), db (F)"""
    x, W = cache
    (N, _, I, J), (F, _, R, S) = x.shape, W.shape
    require_cotangent("correlate2d_backward", "dy", dy, (N, F, I - R + 1, J - S + 1))
    full = np.pad(dy, ((0, 0), (0, 0), (R - 1, R - 1), (S - 1, S - 1)))
    dy_windows, turned = sliding_window_view(full, (R, S), axis=(2, 3)), W[:, :, ::-1, ::-1]
    dx = np.einsum("nfijrs,fcrs->ncij", dy_windows, turned, optimize=True)      # (CNN-5)
    x_windows = sliding_window_view(x, dy.shape[2:], axis=(2, 3))
    dW = np.einsum("ncrspq,nfpq->fcrs", x_windows, dy, optimize=True)           # (CNN-6)
    db = dy.sum(axis=(0, 2, 3))                                 # (CNN-7)
    return dx, dW, db


# ------------------------------------------------------------------------------------------------ windows

class Places(NamedTuple):
    """Where every tap of every window reads: row rows[p, r] and column columns[q, s] of the padded image."""
    shape: tuple                                                # (N, C, I, J) of the image
    rows: np.ndarray
    columns: np.ndarray
    padding: tuple


def places(shape, outputs, kernel, stride, padding, dilation):
    """The Places of windows on images of this shape; all but `shape` are pairs (rows, columns)."""
    rows, columns = (u*np.arange(P)[:, None] + e*np.arange(R) for P, R, u, e in zip(outputs, kernel, stride, dilation))
    return Places(shape, rows, columns, padding)


def gather(x, at):
    """Read: the windows (N, C, P, Q, R, S) of images (N, C, I, J)."""
    m0, m1 = at.padding
    padded = np.pad(x, ((0, 0), (0, 0), (m0, m0), (m1, m1)))
    return padded[:, :, at.rows[:, None, :, None], at.columns[:, None, :]]


def scatter(windows, at):
    """Add: images (N, C, I, J), to which every tap adds its number where it would read. Transposes gather."""
    (N, C, I, J), (m0, m1) = at.shape, at.padding
    padded = np.zeros((N, C, I + 2*m0, J + 2*m1), windows.dtype)
    for r, s in np.ndindex(windows.shape[4:]):                  # two taps may share a place
        padded[:, :, at.rows[:, r, None], at.columns[:, s]] += windows[..., r, s]
    return padded[:, :, m0:m0 + I, m1:m1 + J]


class UnfoldCache(NamedTuple):
    at: Places


@float_arrays
def unfold_forward(x, kernel_size, stride=1, padding=0, dilation=1):
    """All windows of the images, 0 where a tap lies on the padding ("im2col").

    Shapes: x (N, C, I, J) -> windows (N, C, P, Q, R, S)
    Raises TypeError for an option that is not a whole number or a pair of them, ValueError for one out of range or
    for a kernel larger than the padded image.
    """
    options = require_windows("unfold_forward", x, kernel_size, stride, padding, dilation)
    (R, S), (u0, u1), (m0, m1), (e0, e1) = options
    I, J = x.shape[2:]
    P = (I + 2*m0 - e0*(R - 1) - 1)//u0 + 1                     # (CNN-8)
    Q = (J + 2*m1 - e1*(S - 1) - 1)//u1 + 1                     # (CNN-9)
    at = places(x.shape, (P, Q), *options)
    windows = gather(x, at)                                     # (CNN-10)
    return windows, UnfoldCache(at)


def unfold_backward(dwindows, cache):
    """Shapes: dwindows (N, C, P, Q, R, S) -> dx (N, C, I, J)"""
    at, = cache
    (P, R), (Q, S) = at.rows.shape, at.columns.shape
    require_cotangent("unfold_backward", "dwindows", dwindows, (*at.shape[:2], P, Q, R, S))
    dx = scatter(dwindows, at)                                  # (CNN-11)
    return dx


# ------------------------------------------------------------------------------------------------ convolution

def by_group(letters, a, b, groups, axes, into):
    """One einsum for each group: a and b are split along their two `axes`, the results stand side by side on `into`."""
    parts = zip(np.split(a, groups, axes[0]), np.split(b, groups, axes[1]))
    return np.concatenate([np.einsum(letters, *part, optimize=True) for part in parts], axis=into)


class Conv2dCache(NamedTuple):
    windows: np.ndarray
    W: np.ndarray
    groups: int
    unfold: UnfoldCache


@float_arrays
def conv2d_forward(x, W, b, stride=1, padding=0, dilation=1, groups=1):
    """Convolution with all options; a filter sees the C/groups channels of its group.

    Shapes: x (N, C, I, J), W (F, C/groups, R, S), b (F) -> y (N, F, P, Q)
    P and Q are those of `unfold_forward`, and so are the errors of the options. Raises ValueError if the shapes do
    not fit each other or the groups do not divide C and F.
    """
    G = require_convolution("conv2d_forward", x, W, b, groups)
    options = require_windows("conv2d_forward", x, W.shape[2:], stride, padding, dilation)
    windows, unfold = unfold_forward(x, *options)
    y = by_group("ndpqrs,fdrs->nfpq", windows, W, G, axes=(1, 0), into=1) + b[:, None, None]    # (CNN-12)
    return y, Conv2dCache(windows, W, G, unfold)


def conv2d_backward(dy, cache):
    """Shapes: dy (N, F, P, Q) -> dx (N, C, I, J), dW (F, C/groups, R, S), db (F)"""
    windows, W, G, unfold = cache
    N, _, P, Q = windows.shape[:4]
    require_cotangent("conv2d_backward", "dy", dy, (N, len(W), P, Q))
    dwindows = by_group("nfpq,fdrs->ndpqrs", dy, W, G, axes=(1, 0), into=1)     # (CNN-13)
    dx = unfold_backward(dwindows, unfold)
    dW = by_group("nfpq,ndpqrs->fdrs", dy, windows, G, axes=(1, 1), into=0)     # (CNN-14)
    db = dy.sum(axis=(0, 2, 3))                                 # (CNN-15)
    return dx, dW, db


# ---------------------------------------------------------------------------------------------- transposed convolution

class ConvTranspose2dCache(NamedTuple):
    x: np.ndarray
    W: np.ndarray
    groups: int
    at: Places


@float_arrays
def conv_transpose2d_forward(x, W, b, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """conv2d's input gradient as a layer of its own: image and output of a convolution have changed roles.

    Shapes: x (N, F, P, Q), W (F, C/groups, R, S), b (C) -> y (N, C, I, J)
    The letters are those of the convolution whose transpose this is: F channels come in, C go out. output_padding adds
    rows and columns at the end, where several image sizes would give the same P and Q. Raises ValueError if the shapes
    do not fit, groups do not divide, nothing is left of the image, or output_padding is not smaller than stride or
    dilation; for the other options as `unfold_forward`.
    """
    G = require_convolution("conv_transpose2d_forward", x, W, b, groups, transposed=True)
    options, (o0, o1) = require_transposed("conv_transpose2d_forward", x, W.shape[2:], stride, padding, dilation,
                                           output_padding)
    (R, S), (u0, u1), (m0, m1), (e0, e1) = options
    P, Q = x.shape[2:]
    I = (P - 1)*u0 + e0*(R - 1) + 1 - 2*m0 + o0                 # (CNN-16)
    J = (Q - 1)*u1 + e1*(S - 1) + 1 - 2*m1 + o1                 # (CNN-17)
    at = places((len(x), G*W.shape[1], I, J), (P, Q), *options)
    windows = by_group("nfpq,fdrs->ndpqrs", x, W, G, axes=(1, 0), into=1)       # (CNN-18)
    y = scatter(windows, at) + b[:, None, None]                 # (CNN-19)
    return y, ConvTranspose2dCache(x, W, G, at)


def conv_transpose2d_backward(dy, cache):
    """Shapes: dy (N, C, I, J) -> dx (N, F, P, Q), dW (F, C/groups, R, S), db (C)"""
    x, W, G, at = cache
    require_cotangent("conv_transpose2d_backward", "dy", dy, at.shape)
    dwindows = gather(dy, at)                                   # (CNN-20)
    dx = by_group("ndpqrs,fdrs->nfpq", dwindows, W, G, axes=(1, 0), into=1)     # (CNN-21)
    dW = by_group("nfpq,ndpqrs->fdrs", x, dwindows, G, axes=(1, 1), into=0)     # (CNN-22)
    db = dy.sum(axis=(0, 2, 3))                                 # (CNN-23)
    return dx, dW, db


# ------------------------------------------------------------------------------------------------ pooling

def taps_inside(x, options):
    """1 where a tap (P, Q, R, S) lies on the image, 0 where it lies on the padding."""
    return unfold_forward(np.ones((1, 1, *x.shape[2:]), x.real.dtype), *options)[0][0, 0]


def first_maximum(taps, inside):
    """True at the one winner of each window: the first largest tap in row-major order, the last NaN if there is one."""
    R, S = taps.shape[4:]
    k = np.arange(R*S).reshape(R, S)
    largest = np.where(inside, taps, -np.inf).real.max(axis=(4, 5), keepdims=True)
    rank = np.where(np.isnan(taps), R*S + 1 + k, np.where(inside & (taps.real == largest), R*S - k, 0))
    return rank == rank.max(axis=(4, 5), keepdims=True)


class MaxPool2dCache(NamedTuple):
    win: np.ndarray
    unfold: UnfoldCache


@float_arrays
def max_pool2d_forward(x, kernel_size, stride=None, padding=0, dilation=1):
    """The largest value of each window; stride=None means kernel_size.

    Shapes: x (N, C, I, J) -> y (N, C, P, Q)
    The first of equal maxima (row by row) takes the whole gradient. Padding never wins. A window with NaN
    gives NaN, and the last NaN takes the gradient. All as in PyTorch. Raises as `unfold_forward`, and
    ValueError if padding is more than half the kernel or if a window would see padding only.
    """
    options = require_pool("max_pool2d_forward", x, kernel_size, stride, padding, dilation)
    windows, unfold = unfold_forward(x, *options)
    inside = taps_inside(x, options) > 0                        # (CNN-24)
    require_taps("max_pool2d_forward", inside)
    win = first_maximum(windows, inside)                        # (CNN-25)
    y = np.where(win, windows, 0).sum(axis=(4, 5))              # (CNN-26)
    return y, MaxPool2dCache(win, unfold)


def max_pool2d_backward(dy, cache):
    """Shapes: dy (N, C, P, Q) -> dx (N, C, I, J)"""
    win, unfold = cache
    require_cotangent("max_pool2d_backward", "dy", dy, win.shape[:4])
    dwindows = np.where(win, dy[..., None, None], 0)            # (CNN-27)
    dx = unfold_backward(dwindows, unfold)
    return dx


class AvgPool2dCache(NamedTuple):
    count: np.ndarray
    unfold: UnfoldCache


@float_arrays
def avg_pool2d_forward(x, kernel_size, stride=None, padding=0, count_include_pad=True):
    """The mean of each window; stride=None means kernel_size, padding counts as zeros unless count_include_pad=False.

    Shapes: x (N, C, I, J) -> y (N, C, P, Q)
    Raises as `max_pool2d_forward`; TypeError if count_include_pad is not True or False.
    """
    options = require_pool("avg_pool2d_forward", x, kernel_size, stride, padding, 1)
    require_flag("avg_pool2d_forward", "count_include_pad", count_include_pad)
    windows, unfold = unfold_forward(x, *options)
    count = np.maximum(taps_inside(x, options), count_include_pad).sum(axis=(2, 3))     # (CNN-28)
    y = windows.sum(axis=(4, 5)) / count                        # (CNN-29)
    return y, AvgPool2dCache(count, unfold)


def avg_pool2d_backward(dy, cache):
    """Shapes: dy (N, C, P, Q) -> dx (N, C, I, J)"""
    count, unfold = cache
    at = unfold.at
    shape = (*at.shape[:2], *count.shape)
    require_cotangent("avg_pool2d_backward", "dy", dy, shape)
    taps = len(at.rows[0]), len(at.columns[0])
    dwindows = np.broadcast_to((dy / count)[..., None, None], (*shape, *taps))  # (CNN-30)
    dx = unfold_backward(dwindows, unfold)
    return dx


class GlobalAvgPool2dCache(NamedTuple):
    shape: tuple


@float_arrays
def global_avg_pool2d_forward(x):
    """One number a channel: the mean of the whole image.

    Shapes: x (N, C, I, J) -> y (N, C)
    Raises ValueError for images without pixels.
    """
    require_axes("global_avg_pool2d_forward", "x", x, "(N, C, I, J)")
    require_pixels("global_avg_pool2d_forward", x)
    y = x.mean(axis=(2, 3))                                     # (CNN-31)
    return y, GlobalAvgPool2dCache(x.shape)


def global_avg_pool2d_backward(dy, cache):
    """Shapes: dy (N, C) -> dx (N, C, I, J)"""
    N, C, I, J = cache.shape
    require_cotangent("global_avg_pool2d_backward", "dy", dy, (N, C))
    dx = dy[..., None, None] / (I*J) * np.ones((I, J), dy.dtype)        # (CNN-32)
    return dx


class FlattenCache(NamedTuple):
    shape: tuple


@float_arrays
def flatten_forward(x):
    """One row an example: channel by channel, row by row. Takes any number of axes behind the examples.

    Shapes: x (N, C, I, J) -> y (N, CIJ)
    Raises ValueError if there are fewer than two axes.
    """
    if x.ndim < 2:
        raise ValueError(f"flatten_forward: x must have at least two axes, the examples first, got shape {x.shape}")
    y = x.reshape(len(x), math.prod(x.shape[1:]))               # (CNN-33)
    return y, FlattenCache(x.shape)


def flatten_backward(dy, cache):
    """Shapes: dy (N, CIJ) -> dx (N, C, I, J)"""
    shape, = cache
    require_cotangent("flatten_backward", "dy", dy, (shape[0], math.prod(shape[1:])))
    dx = dy.reshape(shape)                                      # (CNN-34)
    return dx
