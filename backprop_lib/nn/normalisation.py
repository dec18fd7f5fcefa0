"""Batch normalisation and layer normalisation."""

import math

import numpy as np

from .. import norm
from ..checks import require_dtype, require_flag, require_number, require_size, require_sizes
from .layer import Layer


class Normalisation(Layer):
    """What batch and layer normalisation share: "weight" (ones) and "bias" (zeros), rows for the pure functions.

    A subclass writes `normalise`, and says by `rows` and `unrows` how x becomes a matrix with one column a feature.
    """

    gates = 0
    backwards = {norm.BatchNormCache: norm.batch_norm_backward,
                 norm.BatchNormEvalCache: norm.batch_norm_eval_backward,
                 norm.LayerNormCache: norm.layer_norm_backward}

    def __init__(self, shape, eps, names, dtype, buffers=None):
        self.eps = require_number(self.name, "eps", eps, ">= 0", lambda value: value >= 0)
        starts = {"weight": np.ones, "bias": np.zeros}
        super().__init__({name: starts[name](shape, dtype) for name in names}, dtype, buffers)

    def compute(self, x):
        rows = self.rows(x)
        gamma = self.params.get("weight", np.ones(rows.shape[1], self.dtype)).reshape(-1)
        beta = self.params.get("bias", np.zeros(rows.shape[1], self.dtype)).reshape(-1)
        y, cache = self.normalise(rows, gamma, beta)
        return self.unrows(y, x.shape), cache

    def compute_gradients(self, dy, cache):
        dx, dgamma, dbeta = self.backwards[type(cache)](self.rows(dy), cache)
        grads = {"weight": dgamma, "bias": dbeta}
        return self.unrows(dx, dy.shape), {name: grads[name].reshape(shape) for name, shape in self.shapes.items()}


class BatchNorm(Normalisation):
    """What BatchNorm1d and BatchNorm2d share: channels on axis 1, buffers with the running statistics.

    Each `forward` in training moves "running_mean" and "running_var" by the fraction `momentum` towards the mean and
    the unbiased variance of the batch, and counts it in "num_batches_tracked". momentum=None makes them the mean over
    all batches so far. Evaluation uses them instead of the batch's. affine=False has no parameters.
    Raises ValueError for one value per channel in training: its variance says nothing.
    """

    axes = ()
    nonnegative = ("running_var", "num_batches_tracked")

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, *, dtype=np.float64):
        C = self.num_features = require_size(self.name, "num_features", num_features)
        self.momentum = momentum if momentum is None else require_number(
            self.name, "momentum", momentum, "in [0, 1], or None", lambda value: 0 <= value <= 1)
        require_flag(self.name, "affine", affine)
        dtype = require_dtype(self.name, dtype)
        buffers = {"running_mean": np.zeros(C, dtype), "running_var": np.ones(C, dtype),
                   "num_batches_tracked": np.array(0, np.int64)}
        super().__init__(C, eps, ("weight", "bias") if affine else (), dtype, buffers)

    def check(self, x):
        super().check(x)
        if x.ndim not in map(len, self.axes) or x.shape[1] != self.num_features:
            expected = " or ".join(f"({', '.join(axes)})".replace("C", str(self.num_features)) for axes in self.axes)
            raise ValueError(f"{self.name}: x must have shape {expected}, got {x.shape}")
        if self.training and x.size < 2*self.num_features:
            raise ValueError(f"{self.name}: x must have more than one value per channel, got shape {x.shape}")

    def rows(self, x):
        return np.moveaxis(x, 1, -1).reshape(-1, self.num_features)

    def unrows(self, rows, shape):
        return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)

    def normalise(self, rows, gamma, beta):
        if self.training:
            return norm.batch_norm_forward(rows, gamma, beta, self.eps)
        mean, var = self.buffers["running_mean"], self.buffers["running_var"]
        return norm.batch_norm_eval_forward(rows, gamma, beta, mean, var, self.eps)

    def remember(self, memory):
        if isinstance(memory.cache, norm.BatchNormCache):
            self.buffers.update(self.next_buffers(memory))
        super().remember(memory)

    def next_buffers(self, memory):
        """The running statistics after the batch that left this memory."""
        mean, var, batches = (self.buffers[name] for name in self.buffer_types)
        momentum = 1 / (int(batches) + 1) if self.momentum is None else self.momentum
        count = math.prod(memory.shape) // self.num_features
        mean, var = norm.running_statistics(mean, var, memory.cache.mu, memory.cache.var, count, momentum)
        return {"running_mean": mean, "running_var": var, "num_batches_tracked": np.array(batches + 1)}


class BatchNorm1d(BatchNorm):
    """Each feature to mean 0 and variance 1 over the batch, times weight plus bias; see `norm.batch_norm_forward`.

    Shapes: x (N, C) -> y (N, C), or (N, C, L) -> (N, C, L) with the mean over N and L

    Parameters "weight" and "bias" (C); `BatchNorm` says what the buffers and the other arguments are.
    """

    axes = "NC", "NCL"


class BatchNorm2d(BatchNorm):
    """The same for images: each channel to mean 0 and variance 1 over the examples and all pixels.

    Shapes: x (N, C, I, J) -> y (N, C, I, J)
    """

    axes = "NCIJ",


class LayerNorm(Normalisation):
    """Each example to mean 0 and variance 1 over its last axes, times weight plus bias; see `norm.layer_norm_forward`.

    Shapes: x (N, ..., *normalized_shape) -> y like x

    normalized_shape is a size or a tuple of them, and the shape of "weight" and "bias"; without elementwise_affine
    there is neither, without bias the weight alone. In evaluation as in training.
    """

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, *, dtype=np.float64):
        self.normalized_shape = require_sizes("LayerNorm", "normalized_shape", normalized_shape)
        require_flag("LayerNorm", "elementwise_affine", elementwise_affine)
        require_flag("LayerNorm", "bias", bias)
        names = (("weight", "bias") if bias else ("weight",)) if elementwise_affine else ()
        super().__init__(self.normalized_shape, eps, names, require_dtype("LayerNorm", dtype))

    def check(self, x):
        super().check(x)
        shape = self.normalized_shape
        if x.ndim <= len(shape) or x.shape[-len(shape):] != shape:
            raise ValueError(f"{self.name}: x must have shape (N, {', '.join(map(str, shape))}), got {x.shape}; there "
                             "may be axes between N and the rest")

    def rows(self, x):
        return x.reshape(-1, math.prod(self.normalized_shape))

    def unrows(self, rows, shape):
        return rows.reshape(shape)

    def normalise(self, rows, gamma, beta):
        return norm.layer_norm_forward(rows, gamma, beta, self.eps)
