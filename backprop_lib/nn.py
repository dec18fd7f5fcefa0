"""Layers and losses as objects: they remember, the functions of `mlp`, `cnn`, `rnn`... do the arithmetic,
or their twins in `fast`.

    model = MLP([64, 32, 10], rng=np.random.default_rng(0))
    loss = CrossEntropyLoss()
    value = loss.forward(model.forward(x), t)
    dx = model.backward(loss.backward())        # model.grads now holds dL/d(each of model.params), by the same name

RNN and GRU: `y, hn = layer.forward(x, h0=None, lengths=None)` and `dx, dh0 = layer.backward(dy, dhn=None)`;
LSTM: `y, (hn, cn) = layer.forward(x, states=None, lengths=None)`, `dx, (dh0, dc0) = layer.backward(dy, dstates=None)`.

Widths. A layer with parameters has a dtype, and its inputs and cotangents are NumPy arrays of exactly that dtype. A
layer without parameters takes float32 or float64 and keeps the width; the cotangent has the dtype of the output.
Integers, other widths, lists, matrices and masked arrays are refused with a TypeError that says what to write.

What is kept. `forward` keeps references, not copies: to its input, its output and the parameter arrays. Change none of
them in place between a forward and its backward (an optimiser steps after backward). Arrays that are only read, such
as read-only and strided ones, are fine. `backward` replaces `grads`; PyTorch adds to them. A call that raises leaves
parameters, buffers, gradients and what the last forward kept as they were; numbers already drawn from a generator are
spent.

`buffers` hold what a layer keeps from one batch to the next and no optimiser touches, the running statistics of batch
normalisation: a `forward` in training replaces them, one in evaluation reads them. They are saved with the parameters.

Replacing `layer.params["weight"]` takes effect in the next forward. Optimisers change the arrays themselves.
"""

import math
from collections.abc import MutableMapping
from typing import NamedTuple

import numpy as np

from . import cnn, embedding, gru, init, lstm, mlp, norm, rnn
from .checkpoint import CheckpointError, Stateful  # noqa: F401  (the error is part of this module)
from .checks import (
    require_axes,
    require_classes,
    require_convolution,
    require_dtype,
    require_flag,
    require_float,
    require_fraction,
    require_generator,
    require_groups,
    require_half,
    require_integer,
    require_labels,
    require_lengths,
    require_number,
    require_one_of,
    require_output_padding,
    require_pair,
    require_pixels,
    require_same_shape,
    require_shape,
    require_size,
    require_sizes,
    require_slide,
    require_state_pair,
    require_states,
    require_steps,
    require_taps,
    require_transposed,
    require_whole,
    require_windows,
    require_words,
)
from .fast import tuned


# ------------------------------------------------------------------------------------------------ the base class

class Memory(NamedTuple):
    """What one forward leaves for its backward."""
    cache: tuple
    shape: tuple
    dtype: np.dtype


class Layer(Stateful):
    """A pair of functions with its parameters, their gradients and the cache of the last forward.

    `params`, `grads` and `buffers` are dicts keyed by PyTorch's names; `training` is switched by `train()` and
    `eval()`. A subclass writes `compute` and `compute_gradients`, which store nothing; that is why a failed call
    changes nothing.
    """

    layers = ()
    gates = 1                           # how many matrices are stacked in a weight; 0 if it scales and is no matrix
    nonnegative = ()                    # names of the buffers that are never below 0

    def __init__(self, params=None, dtype=None, buffers=None):
        self.params, self.buffers = dict(params or {}), dict(buffers or {})
        self.shapes = {name: p.shape for name, p in self.params.items()}
        self.buffer_types = {name: (a.shape, a.dtype, 0 if name in self.nonnegative else None)
                             for name, a in self.buffers.items()}
        self.grads = {}
        self.dtype = dtype
        self.training = True
        self.memory = None

    def forward(self, x):
        """The output for x. Raises TypeError for a wrong dtype, ValueError for a wrong shape."""
        y, memory = self.run(x)
        self.remember(memory)
        return y

    def backward(self, dy):
        """The gradient of the input, given that of the last output; replaces `grads`.

        Raises RuntimeError before the first forward, TypeError or ValueError if dy does not fit the output.
        """
        dx, grads = self.run_back(dy, self.recall())
        self.keep(grads)
        return dx

    def run(self, x):
        """What `forward` computes, with nothing stored: the output and its Memory."""
        self.check(x)
        y, cache = self.compute(x)
        return y, Memory(cache, y.shape, y.dtype)

    def run_back(self, dy, memory):
        """What `backward` computes, with nothing stored: the gradients of the input and of the parameters."""
        self.check_cotangent(dy, memory)
        return self.compute_gradients(dy, memory.cache)

    def check(self, x):
        """Refuse what does not fit, before anything is computed."""
        require_float(self.name, "x", x, self.dtype)
        if x.ndim == 0:
            raise ValueError(f"{self.name}: x must have at least one axis, the examples, got shape ()")
        self.check_fit()

    def check_fit(self):
        """`check_state` for what may be infinite, after a quick look that finds nothing wrong in most cases."""
        params = self.params
        if self.buffers or params.keys() != self.shapes.keys() or any([
                type(p) is not np.ndarray or p.dtype != self.dtype or p.shape != self.shapes[name]
                for name, p in params.items()]):
            self.check_state(finite=False)

    def check_cotangent(self, dy, memory):
        """Refuse what is not like the output."""
        require_float(self.name, "dy", dy, memory.dtype)
        if dy.shape != memory.shape:
            raise ValueError(f"{self.name}: dy must have the shape {memory.shape} of the output, got {dy.shape}")

    def compute(self, x):
        """The output and the cache, from the pair that the subclass stands for."""
        raise NotImplementedError(f"{self.name}: compute(x) must return (y, cache)")

    def compute_gradients(self, dy, cache):
        """The gradient of the input, and a dict of those of the parameters."""
        raise NotImplementedError(f"{self.name}: compute_gradients(dy, cache) must return (dx, grads)")

    def remember(self, memory):
        """Store what a forward leaves, now that it has succeeded."""
        self.memory = memory

    def recall(self):
        """What the last forward left. Raises RuntimeError before the first."""
        if self.memory is None:
            raise RuntimeError(f"{self.name}: backward needs a forward first")
        return self.memory

    def keep(self, grads):
        """Store the gradients of a backward, now that it has succeeded."""
        self.grads = grads

    def expected(self, kind=None):
        """Shape, dtype and smallest value (or None) of "params", of "buffers" or of both, by name."""
        params = {name: (shape, self.dtype, None) for name, shape in self.shapes.items()}
        return {"params": params, "buffers": self.buffer_types, None: {**params, **self.buffer_types}}[kind]

    def modules(self):
        """This layer and all inside it."""
        yield self
        for layer in self.layers:
            yield from layer.modules()

    def train(self, mode=True):
        """Switch this layer and all inside it to training; returns the layer."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Switch to evaluation: Dropout lets everything through, batch normalisation takes the running statistics.

        Returns the layer.
        """
        return self.train(False)


# ------------------------------------------------------------------------------------------------ linear

class Linear(Layer):
    """z = x W^T + b, with parameters "weight" (out_features, in_features) and "bias" (out_features).

    Shapes: x (N, D) -> z (N, H); there may be axes between: (N, T, D) -> (N, T, H)

    Both start uniform on +-1/sqrt(in_features), as in PyTorch.
    """

    def __init__(self, in_features, out_features, bias=True, *, rng, dtype=np.float64):
        D = self.in_features = require_size("Linear", "in_features", in_features)
        H = self.out_features = require_size("Linear", "out_features", out_features)
        require_generator("Linear", rng)
        dtype = require_dtype("Linear", dtype)
        params = {"weight": init.fan_in_uniform(rng, (H, D), dtype=dtype)}
        if bias:
            params["bias"] = init.fan_in_uniform(rng, (H,), fan_in=D, dtype=dtype)
        super().__init__(params, dtype)

    def check(self, x):
        super().check(x)
        if x.ndim < 2 or x.shape[-1] != self.in_features:
            raise ValueError(f"{self.name}: x must have shape (N, {self.in_features}), got {x.shape}; there may be "
                             "axes between the two")

    def compute(self, x):
        b = self.params["bias"] if "bias" in self.params else np.zeros(self.out_features, self.dtype)
        z, cache = tuned(mlp.linear_forward)(x.reshape(-1, self.in_features), self.params["weight"], b)
        return z.reshape(*x.shape[:-1], self.out_features), cache

    def compute_gradients(self, dy, cache):
        dx, dW, db = tuned(mlp.linear_backward, cache)(dy.reshape(-1, self.out_features), cache)
        grads = {"weight": dW, "bias": db}
        return dx.reshape(*dy.shape[:-1], self.in_features), {name: grads[name] for name in self.shapes}


# ------------------------------------------------------------------------------------------------ embedding

class Embedding(Layer):
    """A row of "weight" (num_embeddings, embedding_dim) for each word, a whole number in 0..num_embeddings-1.

    Shapes: x (N, T) words -> y (N, T, D); x may have any other number of axes, at least one

    The weight starts standard normal, as in PyTorch. Words have no gradient: backward returns None. Raises TypeError
    unless x is an array of integers, IndexError for a word outside the range: -1 is none.
    """

    def __init__(self, num_embeddings, embedding_dim, *, rng, dtype=np.float64):
        V = self.num_embeddings = require_size("Embedding", "num_embeddings", num_embeddings)
        D = self.embedding_dim = require_size("Embedding", "embedding_dim", embedding_dim)
        require_generator("Embedding", rng)
        dtype = require_dtype("Embedding", dtype)
        super().__init__({"weight": init.normal(rng, (V, D), 1.0, dtype=dtype)}, dtype)

    def check(self, x):
        require_words(self.name, self.num_embeddings, x=x)
        if x.ndim == 0:
            raise ValueError(f"{self.name}: x must have at least one axis, the examples, got shape ()")
        self.check_fit()

    def compute(self, x):
        return embedding.embedding_forward(x, self.params["weight"])

    def compute_gradients(self, dy, cache):
        return None, {"weight": embedding.embedding_backward(dy, cache)}


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


# ------------------------------------------------------------------------------------------------ recurrent

class Recurrent(Layer):
    """What RNN, LSTM and GRU share: layers on top of each other, each with one cell or, bidirectional, with two.

    A subclass names its pair, how many gates are stacked in its weights, the names of its initial states and of the
    cotangents of the final ones, and whether the pair takes the two biases as one. `options` are the pair's arguments
    after those. Inside a Sequential a layer maps x to y: it starts from zeros, and the final states are dropped.
    """

    pair = None
    gates = 1
    states, cotangents = ("h0",), ("dhn",)
    adds_biases = True

    def __init__(self, input_size, hidden_size, num_layers, bias, batch_first, bidirectional, options, rng, dtype):
        self.input_size = require_size(self.name, "input_size", input_size)
        H = self.hidden_size = require_size(self.name, "hidden_size", hidden_size)
        self.num_layers = require_size(self.name, "num_layers", num_layers)
        for name, flag in {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}.items():
            require_flag(self.name, name, flag)
        require_generator(self.name, rng)
        dtype = require_dtype(self.name, dtype)
        self.bias, self.batch_first, self.bidirectional, self.options = bias, batch_first, bidirectional, options
        self.directions = 2 if bidirectional else 1
        params = {}
        for k in range(self.num_layers * self.directions):
            D = self.input_size if k < self.directions else self.directions * H
            rows = self.gates * H
            for name, shape in zip(self.names(k), [(rows, D), (rows, H), (rows,), (rows,)]):
                params[name] = init.fan_in_uniform(rng, shape, H, dtype)
        super().__init__(params, dtype)

    def names(self, k):
        """What the parameters of cell k are called."""
        layer, reverse = divmod(k, self.directions)
        kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"] if self.bias else ["weight_ih", "weight_hh"]
        return [f"{kind}_l{layer}{'_reverse' if reverse else ''}" for kind in kinds]

    def weights(self, k):
        """The parameters of cell k, as the pair takes them."""
        W_ih, W_hh, *biases = [self.params[name] for name in self.names(k)]
        biases = biases or [np.zeros(len(W_ih), self.dtype)] * 2
        return W_ih, W_hh, *([biases[0] + biases[1]] if self.adds_biases else biases)

    def named(self, k, gradients):
        """The gradients of cell k by name, from those that the pair gives; two biases that are added share one."""
        dW_ih, dW_hh, *dbs = gradients
        return dict(zip(self.names(k), [dW_ih, dW_hh, dbs[0], dbs[0].copy() if self.adds_biases else dbs[1]]))

    def forward(self, x, h0=None, lengths=None):
        """The states of the last layer after each step, and the last state of every cell: (y, hn).

        Shapes: x (N, T, D), h0 (layers directions, N, H), lengths (N) in 1..T
                -> y (N, T, directions H), hn (layers directions, N, H)

        h0 None is zeros. With lengths, sequence n ends after lengths[n] steps: what stands in x behind has no effect,
        y is zero there, hn is the state at the end, and the other direction starts at the end.
        Raises TypeError or ValueError for what does not fit.
        """
        y, (hn,), memory = self.run_from(x, (h0,), lengths)
        self.remember(memory)
        return y, hn

    def backward(self, dy, dhn=None):
        """The gradients (dx, dh0), given those of y and hn; dhn None is zeros. Replaces `grads`.

        Behind the end of a sequence, dy has no effect and dx is zero. Raises as the other layers.
        """
        dx, (dh0,), grads = self.run_back_from(dy, (dhn,), self.recall())
        self.keep(grads)
        return dx, dh0

    def run(self, x):
        y, _, memory = self.run_from(x, (None,) * len(self.states), None)
        return y, memory

    def run_back(self, dy, memory):
        dx, _, grads = self.run_back_from(dy, (None,) * len(self.states), memory)
        return dx, grads

    def check(self, x):
        super().check(x)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            axes = "N, T" if self.batch_first else "T, N"
            raise ValueError(f"{self.name}: x must have shape ({axes}, {self.input_size}), got {x.shape}")
        require_steps(self.name, x, axis=1 if self.batch_first else 0)

    def check_states(self, names, states, N):
        """The states as arrays, zeros where there was None."""
        shape = self.num_layers * self.directions, N, self.hidden_size
        return require_states(self.name, names, states, shape, self.dtype)

    def examples_first(self, x):
        """From the caller's order of axes to (N, T, D), or back."""
        return x if self.batch_first else x.swapaxes(0, 1)

    def run_from(self, x, states, lengths):
        """What `forward` computes, with nothing stored: the output, the final states and the Memory."""
        self.check(x)
        x = self.examples_first(x)
        N, T, _ = x.shape
        lengths = np.full(N, T) if lengths is None else lengths
        require_lengths(self.name, lengths, N, T)
        states = self.check_states(self.states, states, N)
        orders = (None, backwards(lengths, T))
        finals, runs = [], []
        for _ in range(self.num_layers):
            outputs = []
            for order in orders[:self.directions]:
                k = len(runs)
                hs, final, segments = run_cell(self.pair[0], reordered(x, order), [state[k] for state in states],
                                               self.weights(k), self.options, lengths)
                outputs.append(reordered(hs, order))
                finals.append(final)
                runs.append(segments)
            x = np.concatenate(outputs, axis=2)
        y = self.examples_first(x)
        return y, tuple(map(np.stack, zip(*finals))), Memory((orders, runs), y.shape, y.dtype)

    def run_back_from(self, dy, dfinals, memory):
        """What `backward` computes, with nothing stored: gradients of the input, initial states and parameters."""
        self.check_cotangent(dy, memory)
        dy = self.examples_first(dy)
        dfinals = self.check_states(self.cotangents, dfinals, len(dy))
        orders, runs = memory.cache
        dstates, grads = [None] * len(runs), {}
        for layer in reversed(range(self.num_layers)):
            dxs = []
            for direction, dhs in enumerate(np.split(dy, self.directions, axis=2)):
                k, order = layer * self.directions + direction, orders[direction]
                D = self.shapes[self.names(k)[0]][1]
                dx, dstates[k], gradients = run_cell_back(self.pair[1], reordered(dhs, order), [d[k] for d in dfinals],
                                                          runs[k], D)
                dxs.append(reordered(dx, order))
                grads.update(self.named(k, gradients))
            dy = sum(dxs)
        dx = self.examples_first(dy)
        return dx, tuple(map(np.stack, zip(*dstates))), {name: grads[name] for name in self.shapes}


class RNN(Recurrent):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or relu of it; see `rnn.rnn_forward`.

    Parameters with PyTorch's names and shapes: "weight_ih_l0" (H, D), "weight_hh_l0" (H, H), "bias_ih_l0" (H),
    "bias_hh_l0" (H), the same with "_reverse", then those of "_l1", ...; all start uniform on +-1/sqrt(hidden_size).
    batch_first=False has time on axis 0 of x and y: (T, N, D), PyTorch's default.
    """

    pair = rnn.rnn_forward, rnn.rnn_backward

    def __init__(self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", bias=True, batch_first=True,
                 bidirectional=False, *, rng, dtype=np.float64):
        require_one_of("RNN", "nonlinearity", nonlinearity, ("tanh", "relu"))
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, bidirectional,
                         {"nonlinearity": nonlinearity}, rng, dtype)


class LSTM(Recurrent):
    """Long short-term memory, with gates i, f, g, o stacked in weights (4H, D) and (4H, H); see `lstm.lstm_forward`.

    Parameters as for RNN. forget_bias is where the sum of the forget gate's two biases starts; None leaves it random.
    """

    pair = lstm.lstm_forward, lstm.lstm_backward
    gates = 4
    states, cotangents = ("h0", "c0"), ("dhn", "dcn")

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=True, bidirectional=False,
                 forget_bias=None, *, rng, dtype=np.float64):
        if forget_bias is not None:
            forget_bias = require_number("LSTM", "forget_bias", forget_bias)
            if not bias:
                raise ValueError(f"LSTM: forget_bias must be None without a bias, got {forget_bias}")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, bidirectional, {}, rng, dtype)
        if forget_bias is not None:
            for name, p in self.params.items():
                if name.startswith("bias"):
                    p[self.hidden_size:2*self.hidden_size] = forget_bias if name.startswith("bias_ih") else 0

    def forward(self, x, states=None, lengths=None):
        """As `RNN.forward`, with a pair of states: (y, (hn, cn)) from states = (h0, c0)."""
        states = require_state_pair(self.name, "states", states, "(h0, c0)")
        y, finals, memory = self.run_from(x, states, lengths)
        self.remember(memory)
        return y, finals

    def backward(self, dy, dstates=None):
        """As `RNN.backward`, with a pair of states: (dx, (dh0, dc0)) from dstates = (dhn, dcn)."""
        memory = self.recall()
        dstates = require_state_pair(self.name, "dstates", dstates, "(dhn, dcn)")
        dx, dinitials, grads = self.run_back_from(dy, dstates, memory)
        self.keep(grads)
        return dx, dinitials


class GRU(Recurrent):
    """Gated recurrent unit, with gates r, z, n stacked in weights (3H, D) and (3H, H); see `gru.gru_forward`.

    Parameters as for RNN. reset_after=False applies the reset gate before the hidden product, unlike PyTorch.
    """

    pair = gru.gru_forward, gru.gru_backward
    gates = 3
    adds_biases = False

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=True, bidirectional=False,
                 reset_after=True, *, rng, dtype=np.float64):
        require_flag("GRU", "reset_after", reset_after)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, bidirectional,
                         {"reset_after": reset_after}, rng, dtype)


def run_cell(forward, x, states, weights, options, lengths):
    """One cell over sequences of different lengths, none further than its end: hs, final states, segments.

    The steps are cut where a sequence ends. A segment (rows, steps, cache) has the sequences that go on through it.
    """
    N, T, _ = x.shape
    hs, states = np.zeros((N, T, states[0].shape[1]), x.dtype), list(map(np.array, states))
    segments, start = [], 0
    for stop in np.unique(lengths) if N else [T]:
        rows, steps = np.flatnonzero(lengths >= stop), slice(start, stop)
        *outputs, cache = tuned(forward)(x[rows, steps], *(state[rows] for state in states), *weights, **options)
        hs[rows, steps] = outputs[0]
        for state, output in zip(states, outputs):
            state[rows] = output[:, -1]
        segments.append((rows, steps, cache))
        start = stop
    return hs, states, segments


def run_cell_back(backward, dhs, dstates, segments, D):
    """The gradients of the input (N, T, D), of the initial states and of the weights, the last two in lists."""
    dx, dstates, dweights = np.zeros((*dhs.shape[:2], D), dhs.dtype), list(map(np.array, dstates)), []
    for rows, steps, cache in reversed(segments):
        dh = dhs[rows, steps]
        cotangents = [dh, *(np.zeros_like(dh) for _ in dstates[1:])]
        for cotangent, dstate in zip(cotangents, dstates):
            cotangent[:, -1] += dstate[rows]                    # the state that leaves the segment is its last
        dx[rows, steps], *gradients = tuned(backward, cache)(*cotangents, cache)
        for dstate, gradient in zip(dstates, gradients):
            dstate[rows] = gradient
        dweights.append(gradients[len(dstates):])
    return dx, dstates, list(map(sum, zip(*dweights)))


def backwards(lengths, T):
    """The order of steps (N, T, 1) that turns each sequence round and leaves the rest in place; it undoes itself."""
    t, end = np.arange(T), lengths.astype(int)[:, None] - 1
    return np.where(t <= end, end - t, t)[:, :, None]


def reordered(x, order):
    return x if order is None else np.take_along_axis(x, order, axis=1)


class LastStep(Layer):
    """The last time step: (N, T, H) -> (N, H); see `rnn.last_step_forward`."""

    def check(self, x):
        super().check(x)
        require_axes(self.name, "x", x, "(N, T, H)")
        require_steps(self.name, x)

    def compute(self, x):
        return tuned(rnn.last_step_forward)(x, np.full(len(x), x.shape[1]))

    def compute_gradients(self, dy, cache):
        return tuned(rnn.last_step_backward, cache)(dy, cache), {}


# ------------------------------------------------------------------------------------------------ activations

class Activation(Layer):
    """A function without parameters, of an array of any shape; a subclass names its pair."""

    pair = None
    arguments = ()

    def compute(self, x):
        forward, _ = self.pair
        return tuned(forward)(x, *self.arguments)

    def compute_gradients(self, dy, cache):
        _, backward = self.pair
        return tuned(backward, cache)(dy, cache), {}


class Sigmoid(Activation):
    """1 / (1 + exp(-z))."""
    pair = mlp.sigmoid_forward, mlp.sigmoid_backward


class Tanh(Activation):
    """Hyperbolic tangent."""
    pair = mlp.tanh_forward, mlp.tanh_backward


class ReLU(Activation):
    """max(0, z), with derivative 0 at 0."""
    pair = mlp.relu_forward, mlp.relu_backward


class LeakyReLU(Activation):
    """z where z > 0, negative_slope z elsewhere."""
    pair = mlp.leaky_relu_forward, mlp.leaky_relu_backward

    def __init__(self, negative_slope=0.01):
        super().__init__()
        self.arguments = (require_number("LeakyReLU", "negative_slope", negative_slope),)


class Softplus(Activation):
    """log(1 + exp(z))."""
    pair = mlp.softplus_forward, mlp.softplus_backward


class Identity(Activation):
    """The input itself, not a copy."""
    pair = mlp.identity_forward, mlp.identity_backward


class Softmax(Activation):
    """Probabilities over the last axis."""
    pair = mlp.softmax_forward, mlp.softmax_backward

    def check(self, x):
        super().check(x)
        if x.shape[-1] == 0:
            raise ValueError(f"Softmax: x must have at least one class on its last axis, got shape {x.shape}")


class GlobalAvgPool2d(Activation):
    """The mean of each channel's image: (N, C, I, J) -> (N, C)."""
    pair = cnn.global_avg_pool2d_forward, cnn.global_avg_pool2d_backward

    def check(self, x):
        super().check(x)
        require_axes(self.name, "x", x, "(N, C, I, J)")
        require_pixels(self.name, x)


class Flatten(Activation):
    """One row an example: (N, C, I, J) -> (N, C I J); any number of axes behind the examples."""
    pair = cnn.flatten_forward, cnn.flatten_backward

    def check(self, x):
        super().check(x)
        if x.ndim < 2:
            raise ValueError(f"Flatten: x must have at least two axes, the examples first, got shape {x.shape}")


class Dropout(Layer):
    """In training, zero each entry with probability p and divide the rest by 1 - p; in evaluation, the identity.

    Raises ValueError unless 0 <= p < 1 (PyTorch allows p = 1, which keeps nothing).
    Source: Srivastava et al. 2014, "Dropout", in the inverted form of section 10.
    """

    def __init__(self, p=0.5, *, rng):
        require_generator("Dropout", rng)
        self.p = require_number("Dropout", "p", p, "in [0, 1)", lambda value: 0 <= value < 1)
        self.rng = rng
        super().__init__()

    def compute(self, x):
        if not self.training:
            return mlp.identity_forward(x)
        mask = (self.rng.random(x.shape) >= self.p).astype(x.dtype)
        return tuned(mlp.dropout_forward)(x, mask, self.p)

    def compute_gradients(self, dy, cache):
        masked = isinstance(cache, mlp.DropoutCache)
        return tuned(mlp.dropout_backward if masked else mlp.identity_backward, cache)(dy, cache), {}


# ------------------------------------------------------------------------------------------------ normalisation

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


# ------------------------------------------------------------------------------------------------ several layers

class FlatView(MutableMapping):
    """The dicts of several layers as one: "0.weight" is "weight" of layer 0. What is assigned here arrives there."""

    def __init__(self, layers, which):
        self.dicts = {str(i): getattr(layer, which) for i, layer in enumerate(layers)}

    def find(self, name):
        index, _, key = str(name).partition(".")
        if index not in self.dicts:
            raise KeyError(name)
        return self.dicts[index], key

    def __getitem__(self, name):
        values, key = self.find(name)
        return values[key]

    def __setitem__(self, name, value):
        values, key = self.find(name)
        values[key] = value

    def __delitem__(self, name):
        values, key = self.find(name)
        del values[key]

    def __iter__(self):
        return (f"{index}.{key}" for index, values in self.dicts.items() for key in values)

    def __len__(self):
        return sum(map(len, self.dicts.values()))

    def items(self):
        return {f"{index}.{key}": value
                for index, values in self.dicts.items() for key, value in values.items()}.items()

    def __repr__(self):
        return repr(dict(self))


class Sequential(Layer):
    """Layers one after the other; `params`, `grads` and `buffers` are views of theirs, named "0.weight", "0.bias", ...

    `model[i]`, `len(model)` and `for layer in model` reach the layers.
    Raises TypeError for what is not a Layer, ValueError for no layer, or one that appears twice (its gradients would
    have to be added).
    """

    params = property(lambda self: FlatView(self.layers, "params"))
    buffers = property(lambda self: FlatView(self.layers, "buffers"))
    grads = property(lambda self: FlatView(self.layers, "grads"))

    def __init__(self, *layers):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"{self.name}: layer {i} must be a Layer, got {type(layer).__name__}")
        inside = [id(module) for layer in layers for module in layer.modules()]
        if not layers or len(set(inside)) < len(inside):
            raise ValueError(f"{self.name}: expected one or more different layers, got "
                             f"{[layer.name for layer in layers]}{' with one of them twice' if layers else ''}")
        self.layers = layers
        self.dtype = None
        self.training = True
        self.memory = None

    def __len__(self):
        return len(self.layers)

    def __getitem__(self, index):
        return self.layers[index]

    def __iter__(self):
        return iter(self.layers)

    def check(self, x):
        """Each layer checks its own input."""

    def compute(self, x):
        memories = []
        for layer in self.layers:
            x, memory = layer.run(x)
            memories.append(memory)
        return x, tuple(memories)

    def compute_gradients(self, dy, cache):
        grads = []
        for layer, memory in zip(reversed(self.layers), reversed(cache)):
            dy, of_layer = layer.run_back(dy, memory)
            grads.append(of_layer)
        return dy, tuple(reversed(grads))

    def remember(self, memory):
        super().remember(memory)
        for layer, of_layer in zip(self.layers, memory.cache):
            layer.remember(of_layer)

    def keep(self, grads):
        for layer, of_layer in zip(self.layers, grads):
            layer.keep(of_layer)

    def expected(self, kind=None):
        return {f"{i}.{name}": entry for i, layer in enumerate(self.layers)
                for name, entry in layer.expected(kind).items()}


class Residual(Sequential):
    """y = x + layers(x), the layers one after the other; y must be like x.

    What arrives goes back by both ways: dx is dy plus what comes back through the layers.
    Raises ValueError or TypeError if the layers change shape or dtype, else as Sequential.
    Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", equation 1.
    """

    def compute(self, x):
        y, memories = super().compute(x)
        if y.shape != x.shape:
            raise ValueError(f"{self.name}: the layers must keep the shape {x.shape} of x, got {y.shape}")
        if y.dtype != x.dtype:
            raise TypeError(f"{self.name}: the layers must keep the dtype {x.dtype} of x, got {y.dtype}")
        return x + y, memories

    def compute_gradients(self, dy, cache):
        dx, grads = super().compute_gradients(dy, cache)
        return dy + dx, grads


ACTIVATIONS = {"identity": Identity, "leaky_relu": LeakyReLU, "relu": ReLU, "sigmoid": Sigmoid,
               "softplus": Softplus, "tanh": Tanh}


class MLP(Sequential):
    """Linear layers of the given sizes with an activation between each two; the last Linear stands bare.

    Shapes: x (N, D) -> z (N, K)

    sizes       [D, H, ..., K], at least two; MLP([2, 3, 1], "tanh", rng=rng) is Linear, Tanh, Linear.
    activation  a name in ACTIVATIONS.
    """

    def __init__(self, sizes, activation="relu", *, rng, dtype=np.float64):
        if not isinstance(sizes, (list, tuple)) or len(sizes) < 2:
            raise ValueError(f"MLP: sizes must be a list of at least two whole numbers, got {sizes!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
        sizes = [require_size("MLP", f"sizes[{i}]", size) for i, size in enumerate(sizes)]
        layers = []
        for D, H in zip(sizes, sizes[1:]):
            layers += [Linear(D, H, rng=rng, dtype=dtype), ACTIVATIONS[activation]()]
        super().__init__(*layers[:-1])


class LeNet(Sequential):
    """Two times convolution 3 x 3, ReLU and max-pooling 2 x 2, then two linear layers: small images to class scores.

    Shapes: x (N, C, I, J) -> z (N, K)

    image     (C, I, J) of one example
    channels  the two numbers of filters
    hidden    width of the linear layer between, behind which dropout acts
    pools     windows of the two poolings; 1 leaves one out
    After LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", whose
    LeNet-5 has trainable average pooling, tanh and 5 x 5 kernels.
    """

    def __init__(self, image, classes, channels=(16, 32), hidden=64, dropout=0.5, pools=(2, 2), *, rng,
                 dtype=np.float64):
        shape = require_shape("LeNet", image, "image")
        classes, hidden = require_size("LeNet", "classes", classes), require_size("LeNet", "hidden", hidden)
        first, second = require_pair("LeNet", "channels", channels, 1)
        pools = require_pair("LeNet", "pools", pools, 1)
        if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < pools[0]*pools[1]:
            raise ValueError(f"LeNet: image must be (C, I, J) with room for poolings {pools}, got {shape}")
        C, I, J = shape
        features = second * (I//pools[0]//pools[1]) * (J//pools[0]//pools[1])
        super().__init__(
            Conv2d(C, first, 3, padding=1, rng=rng, dtype=dtype), ReLU(), MaxPool2d(pools[0]),
            Conv2d(first, second, 3, padding=1, rng=rng, dtype=dtype), ReLU(), MaxPool2d(pools[1]),
            Flatten(), Linear(features, hidden, rng=rng, dtype=dtype), ReLU(),
            Dropout(dropout, rng=rng), Linear(hidden, classes, rng=rng, dtype=dtype))


# ------------------------------------------------------------------------------------------------ losses

class Loss:
    """A scalar function of the output y and a target t; a subclass names its pair and checks the target."""

    pair = None

    def __init__(self):
        self.memory = None

    @property
    def name(self):
        return type(self).__name__

    def forward(self, y, t):
        """The loss, a mean. Raises TypeError, ValueError or IndexError if y and t do not fit each other."""
        require_float(self.name, "y", y)
        self.check(y, t)
        loss, cache = self.compute(y, t)
        self.memory = cache
        return loss

    def backward(self, dloss=1.0):
        """The gradient of y, times dloss. Raises RuntimeError before the first forward."""
        if self.memory is None:
            raise RuntimeError(f"{self.name}: backward needs a forward first")
        _, backward = self.pair
        return tuned(backward, self.memory)(require_number(self.name, "dloss", dloss), self.memory)

    def check(self, y, t):
        """Refuse a target that does not fit, before anything is computed."""
        require_float(self.name, "t", t, y.dtype)
        require_same_shape(self.name, y, t)

    def compute(self, y, t):
        """The loss and the cache."""
        forward, _ = self.pair
        return tuned(forward)(y, t)


class CrossEntropyLoss(Loss):
    """Mean of -log softmax(y) at the target class: y are scores (N, K), t the classes (N), integers in 0..K-1."""
    pair = mlp.softmax_cross_entropy_forward, mlp.softmax_cross_entropy_backward

    def check(self, y, t):
        require_labels(self.name, t, y.shape)


class SequenceCrossEntropyLoss(Loss):
    """Mean of -log softmax(y) at the target class over the steps that count: where t is not `ignore_index`.

    y are scores (N, T, K), t the classes (N, T), integers in 0..K-1 or ignore_index.
    """

    pair = rnn.sequence_cross_entropy_forward, rnn.sequence_cross_entropy_backward

    def __init__(self, ignore_index=-1):
        super().__init__()
        self.ignore_index = require_integer("SequenceCrossEntropyLoss", "ignore_index", ignore_index)

    def check(self, y, t):
        require_axes(self.name, "y", y, "(N, T, K)")
        require_whole(self.name, "t", t, y.shape[:2])
        kept = t != self.ignore_index
        if not kept.any():
            raise ValueError(f"{self.name}: a mean over nothing has no value: t {t.shape} must have a step that is not "
                             f"ignored, got none but {self.ignore_index}")
        require_classes(self.name, "t", np.where(kept, t, 0), y.shape[2])

    def compute(self, y, t):
        forward, _ = self.pair
        kept = t != self.ignore_index
        return tuned(forward)(y, np.where(kept, t, 0), kept)


class BCEWithLogitsLoss(Loss):
    """Mean binary cross-entropy of sigmoid(y) against t, floats in [0, 1], over all entries."""
    pair = mlp.sigmoid_bce_forward, mlp.sigmoid_bce_backward

    def check(self, y, t):
        super().check(y, t)
        require_fraction(self.name, t)


class MSELoss(Loss):
    """Mean of (y - t)**2 over all entries."""
    pair = mlp.mse_forward, mlp.mse_backward
