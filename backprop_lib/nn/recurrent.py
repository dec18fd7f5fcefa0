"""RNN, LSTM and GRU over sequences (N, T, D): layers, directions, lengths."""

import numpy as np

from .. import gru, init, lstm, rnn
from ..checks import (
    require_axes,
    require_dtype,
    require_flag,
    require_generator,
    require_lengths,
    require_number,
    require_one_of,
    require_size,
    require_state_pair,
    require_states,
    require_steps,
)
from ..fast import tuned
from .layer import Layer, Memory


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
            x = np.concatenate(outputs, axis=2) if len(outputs) > 1 else outputs[0]
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
            dy = sum(dxs[1:], dxs[0])
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
    states = list(map(np.array, states))
    if (lengths == T).all():                                    # one segment, for which no rows are picked
        *outputs, cache = tuned(forward)(np.ascontiguousarray(x), *states, *weights, **options)
        return outputs[0], [output[:, -1] for output in outputs], [(None, None, cache)]
    hs = np.zeros((N, T, states[0].shape[1]), x.dtype)
    segments, start = [], 0
    for stop in np.unique(lengths):
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
    if segments[0][0] is None:
        (_, _, cache), = segments
        dx, *gradients = tuned(backward, cache)(*with_finals(np.ascontiguousarray(dhs), dstates), cache)
        return dx, gradients[:len(dstates)], gradients[len(dstates):]
    dx, dstates, dweights = np.zeros((*dhs.shape[:2], D), dhs.dtype), list(map(np.array, dstates)), []
    for rows, steps, cache in reversed(segments):
        cotangents = with_finals(dhs[rows, steps], [dstate[rows] for dstate in dstates])
        dx[rows, steps], *gradients = tuned(backward, cache)(*cotangents, cache)
        for dstate, gradient in zip(dstates, gradients):
            dstate[rows] = gradient
        dweights.append(gradients[len(dstates):])
    return dx, dstates, list(map(sum, zip(*dweights)))


def with_finals(dhs, dstates):
    """Cotangents of all states: dhs, zeros for a cell, and at the last step what comes back to the final states."""
    cotangents = [dhs, *(np.zeros_like(dhs) for _ in dstates[1:])]
    for k, dstate in enumerate(dstates):
        if dstate.any():
            cotangents[k] = cotangents[k].copy()                # dhs is the caller's
            cotangents[k][:, -1] += dstate
    return cotangents


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
