"""Measuring gradients on their way back through depth and time.

    flow = gradient_flow(model, x, loss_gradient(CrossEntropyLoss(), t))
    layer_norms(flow).dW                        # Frobenius norm of dL/dW, layer by layer
    step_norms(flow)["0.h_l0"]                  # norm of dL/dh_t, step by step

Nothing here trains: the objects of `nn` compute, their own backward functions give the derivatives, and parameters,
`grads`, running statistics and what the last forward kept stay as they are. Arrays keep the width of the model and are
references or views, not copies; norms are float64.
"""

import contextlib
import copy
from collections import namedtuple
from typing import NamedTuple

import numpy as np

from . import fast, lstm, nn, rnn
from .checks import require_axes, require_integer, require_size, require_state_pair
from .mlp import sigmoid


LayerNorms = namedtuple("LayerNorms", "names dz dW dh")
Wall = namedtuple("Wall", "error dw db")


class Flow(NamedTuple):
    """What one pass forward and back saw; a leaf layer is one without layers inside.

    names      the leaf layers in the order forward ran them: "0.Linear"; "2.0.Linear" inside the container at 2
    outputs    the output of each
    gradients  dL/d(that output), all ways together
    dx         dL/dx
    grads      {name: dL/d(parameter)} under the model's names
    states     {name: (N, T, H)}, the states of each recurrent cell after each step, "h_l0", "c_l0", "h_l0_reverse",
               "h_l1"..., with the layer's place in front: "0.h_l0"; t is the time of the input in both directions
    dstates    the same for the total derivatives dL/dh_t and dL/dc_t: from above and by all later steps, and for c_t
               also by way of its own h_t
    """
    names: tuple
    outputs: tuple
    gradients: tuple
    dx: np.ndarray
    grads: dict
    states: dict
    dstates: dict


def gradient_flow(model, x, dy):
    """The output of every layer, the gradient that comes back to it, and the same for recurrent states: a `Flow`.

    model is any Layer, x its input, dy an array like its output or a function from the output to one. The model runs
    in the mode it is in; dropout spends numbers of its generator. Recurrent layers start from zeros. While it runs the
    model is watched, so no other thread may use it.
    Raises TypeError unless model is a Layer; the layers refuse what does not fit, as in forward and backward.
    """
    if not isinstance(model, nn.Layer):
        raise TypeError(f"gradient_flow: model must be a Layer, got {type(model).__name__}")
    seen = Flow((), {}, {}, None, {}, {}, {})
    watched = [(layer, watch(place, layer, seen)) for place, layer in leaves(model)]
    with replaced(watched):
        y, memory = model.run(x)
    dy = dy(y) if callable(dy) else dy
    with replaced(watched):
        dx, _ = model.run_back(dy, memory)
    return Flow(tuple(seen.outputs), tuple(seen.outputs.values()), tuple(seen.gradients[name] for name in seen.outputs),
                dx, {name: seen.grads[name] for name in model.params if name in seen.grads},
                seen.states, {name: seen.dstates[name] for name in seen.states})


def leaves(layer, place=""):
    """The layers without layers inside, each with the prefix of its parameters' names: ("2.0.", Linear)."""
    if not layer.layers:
        yield place, layer
    for i, inner in enumerate(layer.layers):
        yield from leaves(inner, f"{place}{i}.")


@contextlib.contextmanager
def replaced(watched):
    """For each (layer, attributes), the attributes stand in for the layer's own, and leave when the block ends."""
    own = [{name: value for name, value in vars(layer).items() if name in attributes} for layer, attributes in watched]
    try:
        for layer, attributes in watched:
            vars(layer).update(attributes)
        yield
    finally:
        for (layer, attributes), before in zip(watched, own):
            for name in attributes:
                vars(layer).pop(name, None)
            vars(layer).update(before)


def watch(place, layer, seen):
    """Attributes for a leaf layer that do what its own do, and write into `seen` what goes through."""
    name, own_run, own_run_back = place + type(layer).__name__, layer.run, layer.run_back

    def run(x):
        seen.outputs[name], memory = own_run(x)
        return seen.outputs[name], memory

    def run_back(dy, memory):
        dx, grads = own_run_back(dy, memory)
        seen.gradients[name] = dy
        seen.grads.update({place + key: gradient for key, gradient in grads.items()})
        return dx, grads

    cells = {"pair": watch_cells(place, layer, seen)} if isinstance(layer, nn.Recurrent) else {}
    return {"run": run, "run_back": run_back, **cells}


def watch_cells(place, layer, seen):
    """A pair for a recurrent layer that does what its own does, and writes into `seen` the states of each cell."""
    own_forward, own_backward = layer.pair
    names = {}

    def write(into, cache, arrays):
        for name, array in zip(names[id(cache)], arrays):
            into[name] = array[:, ::-1] if name.endswith("_reverse") else array

    def forward(*arguments, **options):
        *states, cache = own_forward(*arguments, **options)
        cell = layer.names(len(names))[0].removeprefix("weight_ih")
        names[id(cache)] = [place + state[0] + cell for state in layer.states]
        write(seen.states, cache, states)
        return *states, cache

    def backward(*arguments):
        *cotangents, cache = arguments
        gradients, totals = backward_in_steps(own_backward, cotangents, cache)
        write(seen.dstates, cache, totals)
        return gradients

    return forward, backward


def backward_in_steps(backward, cotangents, cache):
    """What `backward` gives for a whole sequence, step by step, and the total derivatives of its states (N, T, H)."""
    later, dweights, dxs, totals = [0] * len(cotangents), [], [], []
    for t in reversed(range(len(cache.steps))):
        step = cache.steps[t]
        dh, *dc = arriving = [d[:, t] + d_later for d, d_later in zip(cotangents, later)]
        dx, *gradients = backward(*(d[:, None] for d in arriving), type(cache)((step,)))
        later, of_step = gradients[:len(arriving)], gradients[len(arriving):]
        dweights = list(map(np.add, dweights, of_step)) if dweights else of_step
        dxs.append(dx)
        totals.append([dh, *(d + into_cell(dh, step) for d in dc)])
    totals = [np.stack(d[::-1], axis=1) for d in zip(*totals)]
    return (np.concatenate(dxs[::-1], axis=1), *later, *dweights), totals


def into_cell(dh, step):
    """What reaches the cell of an LSTM by way of its own h: the second term of (LSTM-10)."""
    return dh * step.o * (1 - step.m**2)


def loss_gradient(loss, t):
    """A function from an output y to dL/dy, for `gradient_flow`; the loss object keeps what it remembers.

    Raises TypeError unless loss is a Loss; the function raises what loss.forward raises.
    """
    if not isinstance(loss, nn.Loss):
        raise TypeError(f"loss_gradient: loss must be a Loss, got {type(loss).__name__}")

    def gradient(y):
        own = copy.copy(loss)
        own.forward(y, t)
        return own.backward()
    return gradient


def layer_norms(flow):
    """Frobenius norms, layer by layer: `LayerNorms(names, dz, dW, dh)`, the last three float arrays in forward order.

    names are the leaf layers with a "weight" of two or more axes, dz the norms of dL/d(their output), dW of
    dL/d(weight). dh are the norms of dL/d(output) of the leaf layers that are an Activation.
    """
    gradients, activations = dict(zip(flow.names, flow.gradients)), kinds_of(nn.Activation)
    weights = {name: flow.grads.get(name[:name.rfind(".") + 1] + "weight") for name in flow.names}
    weights = {name: dW for name, dW in weights.items() if np.ndim(dW) >= 2}
    return LayerNorms(tuple(weights), np.array([norm(gradients[name]) for name in weights]),
                      np.array(list(map(norm, weights.values()))),
                      np.array([norm(dh) for name, dh in gradients.items() if name.split(".")[-1] in activations]))


def step_norms(flow):
    """The norm over examples and units of each dL/dh_t and dL/dc_t: {name: (T)}."""
    return {name: norm(d, (0, 2)) for name, d in flow.dstates.items()}


def dead_units(flow):
    """The share of units that give 0 for every example, for each ReLU among the leaf layers: {name: share}."""
    return {name: float((y == 0).all(axis=0).mean()) for name, y in zip(flow.names, flow.outputs)
            if name.split(".")[-1] in kinds_of(nn.ReLU)}


def kinds_of(base):
    """The names of a class and of all that derive from it."""
    return {base.__name__}.union(*map(kinds_of, base.__subclasses__()))


def norm(d, axis=None):
    """The square root of the sum of squares, in float64, scaled so that no square is too large or too small."""
    d = np.abs(d.astype(np.float64))
    largest = d.max(axis=axis, keepdims=True, initial=0)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1)
    return np.squeeze(scale, axis) * np.sqrt(((d / scale)**2).sum(axis=axis))


# ------------------------------------------------------------------------------------------------ Jacobians

def step_jacobians(layer, x, states=None):
    """J[n, t], the derivative of the state after step t with respect to the one before; arguments as layer.forward's.

    Shapes: x (N, T, D) -> J (N, T, S, S)
    The state of an RNN or GRU is h, S = H; that of an LSTM is h and behind it c, S = 2H.
    Raises ValueError unless layer is an RNN, GRU or LSTM of one layer and one direction; batch_first may be False.
    Source: Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks", equation 5.
    """
    parts = len(getattr(layer, "states", ()))
    states = (states,) if parts < 2 else require_state_pair("step_jacobians", "states", states, "(h0, c0)")
    _, _, cache = run_cell("step_jacobians", layer, nn.Recurrent, "an RNN, GRU or LSTM", x, states)
    if isinstance(layer, nn.RNN):
        return rnn.rnn_jacobians(cache)
    N, S = len(cache.steps[0].h_prev), parts * layer.hidden_size
    units = np.split(np.tile(np.eye(S, dtype=layer.dtype), (N, 1))[:, None], parts, axis=2)
    back = [layer.pair[1](*units, type(cache)((repeated(step, S),)))[1:parts+1] for step in cache.steps]
    return np.stack([np.concatenate(d_prev, axis=1).reshape(N, S, S) for d_prev in back], axis=1)


def run_cell(owner, layer, kind, article, x, states, **options):
    """The output, the Memory and the cache of a recurrent layer of this kind that must have a single cell."""
    options = {"num_layers": 1, "bidirectional": False, **options}
    got = {name: getattr(layer, name) for name in options if isinstance(layer, nn.Recurrent)}
    if not isinstance(layer, kind) or got != options:
        wanted, got = (", ".join(f"{name}={value}" for name, value in each.items()) for each in (options, got))
        raise ValueError(f"{owner}: layer must be {article} with {wanted}, got {type(layer).__name__}({got})")
    with fast.off():                                            # a cache in steps
        y, _, memory = layer.run_from(x, states, None)
    _, [[(_, _, cache)]] = memory.cache
    return y, memory, cache


def repeated(step, count):
    """A step cache in which every example stands `count` times, one behind the other."""
    return step._replace(**{name: np.repeat(value, count, axis=0) for name, value in step._asdict().items()
                            if not name.startswith("W_")})


def jacobian_products(J):
    """P[:, t] = J[:, T-1] ... J[:, t], the derivative of the last state with respect to the one before step t.

    Shapes: J (N, T, S, S) -> P (N, T, S, S); raises ValueError for another shape or T = 0.
    """
    require_axes("jacobian_products", "J", J, "(N, T, S, S)")
    require_square("jacobian_products", "J", J)
    require_size("jacobian_products", "the number of steps in J", J.shape[1])
    P = J.copy()
    for t in reversed(range(J.shape[1] - 1)):
        P[:, t] = P[:, t+1] @ J[:, t]
    return P


def singular_values(J):
    """The singular values of each matrix, the largest first: (..., S) of (..., S, S), ValueError for another shape."""
    require_square("singular_values", "J", J)
    return np.linalg.svd(J, compute_uv=False)


def spectral_radius(W):
    """The largest absolute eigenvalue of each matrix: (...) of (..., S, S), ValueError for another shape."""
    require_square("spectral_radius", "W", W)
    return np.abs(np.linalg.eigvals(W)).max(axis=-1, initial=0)


def require_square(owner, name, matrices):
    shape = np.shape(matrices)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"{owner}: {name} must have shape (..., S, S), got {shape}")


# ------------------------------------------------------------------------------------------------ the roads of an LSTM

def lstm_paths(layer, x, dy):
    """The total dL/dc_t of an LSTM in six parts that sum to it, each by another way: {name: (N, T, H)}.

    "outside" comes from the loss by h_t at this very step, "cell" from c_(t+1) along the cell, by the forget gate, and
    "i", "f", "g" and "o" from step t+1 by h_t, through that gate. x is (N, T, D), dy (N, T, H) or a function of the
    output. Raises ValueError unless layer is an LSTM of one layer and one direction with batch_first.
    """
    steps, dy = lstm_steps("lstm_paths", layer, x, dy)
    gate_of_row = np.arange(4*layer.hidden_size)[:, None] // layer.hidden_size
    W_hh = [np.where(gate_of_row == gate, steps[0].W_hh, 0) for gate in range(4)]
    parts = np.zeros((6, *dy.shape), dy.dtype)
    dc_next, *dh_gates = np.zeros((5, *dy[:, 0].shape), dy.dtype)
    for t in reversed(range(dy.shape[1])):
        parts[:, :, t] = [into_cell(dy[:, t], steps[t]), dc_next, *(into_cell(dh, steps[t]) for dh in dh_gates)]
        dh = dy[:, t] + sum(dh_gates)
        through = [lstm.lstm_step_backward(dh, dc_next, steps[t]._replace(W_hh=W)) for W in W_hh]
        dc_next, dh_gates = through[0][2], [gradients[1] for gradients in through]
    return dict(zip(("outside", "cell", "i", "f", "g", "o"), parts))


def lstm_crossings(layer, x, dy, most):
    """The total dL/dc_t of an LSTM in parts that sum to it (most + 1, N, T, H), by how often they went through W_hh.

    Part k left the cell k times for a step back by the recurrent weights, the last one `most` times or more. x and dy
    as for `lstm_paths`. Raises ValueError as it does and for most < 0, TypeError unless most is a whole number.
    """
    if require_integer("lstm_crossings", "most", most) < 0:
        raise ValueError(f"lstm_crossings: most must be a whole number of at least 0, got {most}")
    steps, dy = lstm_steps("lstm_crossings", layer, x, dy)
    N, T, H = dy.shape
    parts = np.zeros((N, T, most + 1, H), dy.dtype)
    dh, dc_next = np.zeros((2, N, most + 1, H), dy.dtype)
    for t in reversed(range(T)):
        dh[:, 0] += dy[:, t]
        step, arriving = repeated(steps[t], most + 1), (dh.reshape(-1, H), dc_next.reshape(-1, H))
        parts[:, t] = (arriving[1] + into_cell(arriving[0], step)).reshape(dh.shape)
        _, *before, _, _, _ = lstm.lstm_step_backward(*arriving, step)
        dh_prev, dc_next = (d.reshape(dh.shape) for d in before)
        dh = np.concatenate([np.zeros_like(dh[:, :1]), dh_prev[:, :-1]], axis=1)    # one time more
        dh[:, -1] += dh_prev[:, -1]
    return np.moveaxis(parts, 2, 0)


def lstm_steps(owner, layer, x, dy):
    """The step caches of a single LSTM cell on x, and dy as an array."""
    y, memory, cache = run_cell(owner, layer, nn.LSTM, "an LSTM", x, (None, None), batch_first=True)
    dy = dy(y) if callable(dy) else dy
    layer.check_cotangent(dy, memory)
    return cache.steps, dy


# ------------------------------------------------------------------------------------------------ the wall

def wall(w, b, T=50):
    """One unit through T steps, x_0 = 0.5 and x_t = w sigmoid(x_(t-1)) + b: `Wall(error, dw, db)`.

    error = (sigmoid(x_T) - 0.7)**2, dw and db are its derivatives by backpropagation through time. w and b are numbers
    or arrays that broadcast. Raises ValueError unless T is a whole number of at least 1.
    Source: Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks", figure 6.
    """
    w, b = np.broadcast_arrays(w, b)
    h = [sigmoid(np.full(w.shape, 0.5, np.result_type(w.dtype, b.dtype, np.float32)))]
    for _ in range(require_size("wall", "T", T)):
        h.append(sigmoid(w * h[-1] + b))
    dh, dw, db = 2 * (h[-1] - 0.7), 0, 0
    for h_t, h_prev in zip(h[:0:-1], h[-2::-1]):
        dx = dh * h_t * (1 - h_t)
        dw, db, dh = dw + dx * h_prev, db + dx, dx * w
    return Wall((h[-1] - 0.7)**2, dw, db)


def fold_points(w):
    """The two b, (b_low, b_high), where x = w sigmoid(x) + b has a double solution; between them it has three.

    w is a number or an array, with a steepest slope w/4 above 1: raises ValueError unless w > 4.
    """
    w = np.asarray(w, dtype=np.float64)
    if not ((w > 4) & np.isfinite(w)).all():
        raise ValueError(f"fold_points: w must be finite and greater than 4, got {w}")
    high = (1 + np.sqrt(1 - 4 / w)) / 2                         # w high (1 - high) = 1: there the slope is 1
    low = 1 / (w * high)                                        # 1 - high
    x = np.log(high / low)                                      # sigmoid(x) = high, sigmoid(-x) = low
    return x - w * high, -x - w * low
