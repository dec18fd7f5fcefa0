"""Tuned twins of `backprop_lib.cnn`: `convolution` and `pooling` say what was done. What is not here has no twin."""

from .convolution import (  # noqa: F401
    conv2d_backward,
    conv2d_forward,
    conv_transpose2d_backward,
    conv_transpose2d_forward,
)
from .pooling import avg_pool2d_backward, avg_pool2d_forward, max_pool2d_backward, max_pool2d_forward  # noqa: F401
