"""Layers on images (N, C, I, J): convolution, its transpose, pooling."""

import numpy as np

from .. import cnn, init
from ..checks import (
    require_axes,
    require_convolution,
    require_dtype,
    require_flag,
    require_generator,
    require_groups,
    require_half,
    require_output_padding,
    require_pair,
    require_pixels,
    require_size,
    require_slide,
    require_taps,
    require_transposed,
    require_windows,
)
from ..fast import tuned
from .layer import Layer
from .linear import Activation


# ------------------------------------------------------------------------------------------------ convolution

class Convolution(Layer):
    """What Conv2d and ConvTranspose2d share; `options` are the arguments of the pair after x, W and b."""

    pair = None

    def __init__(self, shape, out_channels, bias, options, rng, dtype):
        require_generator(self.name, rng)
        require_flag(self.name, "bias", bias)
        dtype = require_dtype(self.name, dtype)
        params = {"weight": init.fan_in_uniform(rng, shape, dtype=dtype)}
        if bias:
            params["bias"] = init.fan_in_uniform(rng, (out_channels,), fan_in=init.fans(shape)[0], dtype=dtype)
        self.out_channels, self.options = out_channels, options
        super().__init__(params, dtype)

    def weights(self):
        """The weight, and the bias or zeros."""
        return self.params["weight"], self.params.get("bias", np.zeros(self.out_channels, self.dtype))

    def compute(self, x):
        forward, _ = self.pair
        return tuned(forward)(x, *self.weights(), **self.options)

    def compute_gradients(self, dy, cache):
        _, backward = self.pair
        dx, dW, db = tuned(backward, cache)(dy, cache)
        grads = {"weight": dW, "bias": db}
        return dx, {name: grads[name] for name in self.shapes}


class Conv2d(Convolution):
    """Convolution with "weight" (out_channels, in_channels/groups, R, S) and "bias" (out_channels).

    Shapes: x (N, C, I, J) -> y (N, F, P, Q)

    kernel_size, stride, padding and dilation are whole numbers or pairs (rows, columns). Both parameters start uniform
    on +-1/sqrt(in_channels/groups R S), as in PyTorch. Raises TypeError or ValueError as `cnn.conv2d_forward`.
    """

    pair = cnn.conv2d_forward, cnn.conv2d_backward

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, *,
                 rng, dtype=np.float64):
        C, F = require_channels("Conv2d", in_channels, out_channels)
        groups = require_groups("Conv2d", groups, in_channels=C, out_channels=F)
        kernel_size = require_pair("Conv2d", "kernel_size", kernel_size, 1)
        stride, padding, dilation = require_slide("Conv2d", stride, padding, dilation)
        super().__init__((F, C//groups, *kernel_size), F, bias,
                         {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}, rng, dtype)

    def check(self, x):
        super().check(x)
        W, b = self.weights()
        stride, padding, dilation, groups = self.options.values()
        require_convolution(self.name, x, W, b, groups)
        require_windows(self.name, x, W.shape[2:], stride, padding, dilation)


class ConvTranspose2d(Convolution):
    """Transposed convolution with "weight" (in_channels, out_channels/groups, R, S) and "bias" (out_channels).

    Shapes: x (N, F, P, Q) -> y (N, C, I, J)

    Arguments in PyTorch's order, starting values as in PyTorch. Raises as `cnn.conv_transpose2d_forward`.
    """

    pair = cnn.conv_transpose2d_forward, cnn.conv_transpose2d_backward

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1,
                 bias=True, dilation=1, *, rng, dtype=np.float64):
        F, C = require_channels("ConvTranspose2d", in_channels, out_channels)
        groups = require_groups("ConvTranspose2d", groups, in_channels=F, out_channels=C)
        kernel_size = require_pair("ConvTranspose2d", "kernel_size", kernel_size, 1)
        stride, padding, dilation = require_slide("ConvTranspose2d", stride, padding, dilation)
        output_padding = require_output_padding("ConvTranspose2d", output_padding, stride, dilation)
        super().__init__((F, C//groups, *kernel_size), C, bias,
                         {"stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups,
                          "dilation": dilation}, rng, dtype)

    def check(self, x):
        super().check(x)
        W, b = self.weights()
        stride, padding, output_padding, groups, dilation = self.options.values()
        require_convolution(self.name, x, W, b, groups, transposed=True)
        require_transposed(self.name, x, W.shape[2:], stride, padding, dilation, output_padding)


def require_channels(owner, in_channels, out_channels):
    return require_size(owner, "in_channels", in_channels), require_size(owner, "out_channels", out_channels)


# ------------------------------------------------------------------------------------------------ pooling

class MaxPool2d(Layer):
    """The largest value of each window, stride=None meaning kernel_size; see `cnn.max_pool2d_forward`.

    Shapes: x (N, C, I, J) -> y (N, C, P, Q)
    """

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1):
        self.options = require_pooling("MaxPool2d", kernel_size, stride, padding, dilation)
        super().__init__()

    def check(self, x):
        super().check(x)
        require_windows(self.name, x, *self.options)
        require_taps(self.name, cnn.taps_inside(x, self.options) > 0)

    def compute(self, x):
        return tuned(cnn.max_pool2d_forward)(x, *self.options)

    def compute_gradients(self, dy, cache):
        return tuned(cnn.max_pool2d_backward, cache)(dy, cache), {}


class AvgPool2d(Layer):
    """The mean of each window, stride=None meaning kernel_size; see `cnn.avg_pool2d_forward`.

    Shapes: x (N, C, I, J) -> y (N, C, P, Q)
    """

    def __init__(self, kernel_size, stride=None, padding=0, count_include_pad=True):
        *self.options, _ = require_pooling("AvgPool2d", kernel_size, stride, padding, 1)
        require_flag("AvgPool2d", "count_include_pad", count_include_pad)
        self.count_include_pad = count_include_pad
        super().__init__()

    def check(self, x):
        super().check(x)
        require_windows(self.name, x, *self.options, 1)

    def compute(self, x):
        return tuned(cnn.avg_pool2d_forward)(x, *self.options, self.count_include_pad)

    def compute_gradients(self, dy, cache):
        return tuned(cnn.avg_pool2d_backward, cache)(dy, cache), {}


def require_pooling(owner, kernel_size, stride, padding, dilation):
    """The options of a pooling layer as pairs, before there is an image."""
    kernel_size = require_pair(owner, "kernel_size", kernel_size, 1)
    slide = require_slide(owner, kernel_size if stride is None else stride, padding, dilation)
    require_half(owner, kernel_size, slide[1])
    return kernel_size, *slide


# ------------------------------------------------------------------------------------------------ activations

class GlobalAvgPool2d(Activation):
    """The mean of each channel's image: (N, C, I, J) -> (N, C)."""
    pair = cnn.global_avg_pool2d_forward, cnn.global_avg_pool2d_backward

    def check(self, x):
        super().check(x)
        require_axes(self.name, "x", x, "(N, C, I, J)")
        require_pixels(self.name, x)
