"""backprop_lib.gradflow: gradients through depth and time, against derivatives by the complex step.

A model is written as a tree of layers. `build` makes the object of it; `evaluate` runs it in complex numbers, leaf by
leaf and step by step, and adds to any output or state what the test wants to perturb it by.
"""

import math

import numpy as np
import pytest
from test_nn import bits, draw, generator, refuses

from backprop_lib import gru, lstm, nn, rnn
from backprop_lib.gradcheck import COMPLEX_STEP, relative_error
from backprop_lib.gradflow import (
    dead_units,
    fold_points,
    gradient_flow,
    jacobian_products,
    layer_norms,
    loss_gradient,
    lstm_crossings,
    lstm_paths,
    singular_values,
    spectral_radius,
    step_jacobians,
    step_norms,
    wall,
)


LIMIT = 1e-12
N, T, D, H = 2, 5, 7, 3
GATES = "ifgo"
CELLS = {"RNN, tanh": (nn.RNN, {}), "RNN, relu": (nn.RNN, {"nonlinearity": "relu"}), "LSTM": (nn.LSTM, {}),
         "GRU, reset after": (nn.GRU, {}), "GRU, reset before": (nn.GRU, {"reset_after": False})}
STACKS = {"one cell": {}, "two layers without bias": {"num_layers": 2, "bias": False},
          "two layers both ways, time first": {"num_layers": 2, "bidirectional": True, "batch_first": False}}
every_cell = pytest.mark.parametrize("kind", CELLS)
every_scale = pytest.mark.parametrize("scale", [1, 1e-200, 1e200])


# ------------------------------------------------------------------------------------------------ models as trees

class Skip(tuple):
    """The layers inside a Residual; a list stands for a Sequential."""


def linear(*sizes, dtype=np.float64):
    return nn.Linear(*sizes, rng=generator(), dtype=dtype)


def dropout():
    return nn.Dropout(0.4, rng=generator(5))


def dense(dtype=np.float64):
    inner = Skip([linear(7, 7, dtype=dtype), nn.ReLU()])
    return [linear(5, 7, dtype=dtype), nn.Tanh(), Skip([linear(7, 7, dtype=dtype), nn.Sigmoid(), inner]),
            nn.LayerNorm(7, dtype=dtype), [nn.Identity(), dropout(), linear(7, 2, dtype=dtype)]]


def images(dtype=np.float64):
    return [nn.Conv2d(3, 5, (3, 2), bias=False, rng=generator(), dtype=dtype), nn.BatchNorm2d(5, dtype=dtype),
            nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), linear(10, 11, dtype=dtype)]


def sequences(dtype=np.float64):
    return [nn.RNN(7, 3, bidirectional=True, rng=generator(), dtype=dtype),
            Skip([nn.GRU(6, 6, rng=generator(), dtype=dtype)]), [nn.LSTM(6, 11, rng=generator(), dtype=dtype)],
            nn.LastStep(), linear(11, 2, dtype=dtype)]


def normed():
    return [linear(5, 7), nn.BatchNorm1d(7), nn.LeakyReLU(0.2), Skip([nn.BatchNorm1d(7), nn.Tanh()]), linear(7, 2)]


MODELS = {                                                      # a tree, the shape of its input, its leaf layers
    "dense": (dense, (3, 5), "0.Linear 1.Tanh 2.0.Linear 2.1.Sigmoid 2.2.0.Linear 2.2.1.ReLU 3.LayerNorm 4.0.Identity "
                             "4.1.Dropout 4.2.Linear"),
    "images": (images, (2, 3, 7, 5), "0.Conv2d 1.BatchNorm2d 2.ReLU 3.MaxPool2d 4.Flatten 5.Linear"),
    "sequences": (sequences, (N, T, D), "0.RNN 1.0.GRU 2.0.LSTM 3.LastStep 4.Linear"),
    "batch norm": (normed, (3, 5), "0.Linear 1.BatchNorm1d 2.LeakyReLU 3.0.BatchNorm1d 3.1.Tanh 4.Linear"),
    "residual alone": (lambda: Skip([linear(5, 5), nn.Softplus(), [nn.Identity(), linear(5, 5)]]), (3, 5),
                       "0.Linear 1.Softplus 2.0.Identity 2.1.Linear"),
    "one layer": (lambda: linear(5, 7), (2, 3, 5), "Linear"),
}
some_models = pytest.mark.parametrize("name", ["dense", "images", "sequences"])


def nested(tree):
    """The object that a tree of layers stands for."""
    if isinstance(tree, (list, Skip)):
        return (nn.Residual if isinstance(tree, Skip) else nn.Sequential)(*map(nested, tree))
    return tree


def build(tree, std=0.7):
    """The same with every parameter random: gamma and beta, too."""
    model, rng = nested(tree), generator(4)
    for name, p in dict(model.params).items():
        model.params[name] = (std * rng.standard_normal(p.shape)).astype(p.dtype)
    return model


def cell_of(kind, dtype=np.float64, std=0.7, **options):
    layer, own = CELLS[kind]
    return build(layer(D, H, **own, **options, rng=generator(), dtype=dtype), std)


def evaluate(tree, x, nudges, place="", seen=None):
    """The output, with nudges[name] added to the output or the states of that name; `seen` collects them all."""
    seen = {} if seen is None else seen
    if isinstance(tree, (list, Skip)):
        y = x
        for i, inner in enumerate(tree):
            y = evaluate(inner, y, nudges, f"{place}{i}.", seen)
        return x + y if isinstance(tree, Skip) else y
    if isinstance(tree, nn.Dropout) and tree.training:
        y = x * (generator(5).random(x.shape) >= tree.p) / (1 - tree.p)
    else:
        y = through_time(tree, x, nudges, place, seen) if isinstance(tree, nn.Recurrent) else tree.compute(x)[0]
    name = place + type(tree).__name__
    seen[name] = y + nudges.get(name, 0)
    return seen[name]


def through_time(layer, x, nudges, place, seen):
    """A recurrent layer cell by cell and step by step."""
    x = x if layer.batch_first else x.swapaxes(0, 1)
    for k in range(layer.num_layers):
        outputs = []
        for way in ["", "_reverse"][:2 if layer.bidirectional else 1]:
            suffix = f"_l{k}{way}"
            states = states_of(layer, x, suffix, *(nudges.get(f"{place}{s}{suffix}", np.zeros(x.shape)[:, :, :1])
                                                   for s in "hc"))
            seen.update({f"{place}{s}{suffix}": a for s, a in zip("hc" if isinstance(layer, nn.LSTM) else "h", states)})
            outputs.append(states[0])
        x = np.concatenate(outputs, axis=2)
    return x if layer.batch_first else x.swapaxes(0, 1)


def states_of(layer, x, suffix, h_nudge, c_nudge):
    """The states (N, T, H) of one cell, each nudged just after it was computed; a nudge of c enters its own h."""
    W_ih, W_hh = layer.params["weight_ih" + suffix], layer.params["weight_hh" + suffix]
    b_ih, b_hh = (layer.params.get(f"bias_{s}{suffix}", np.zeros(len(W_ih))) for s in ("ih", "hh"))
    h = c = np.zeros((len(x), layer.hidden_size))
    hs, cs = [None] * x.shape[1], [None] * x.shape[1]
    for t in range(x.shape[1])[::-1 if suffix.endswith("reverse") else 1]:
        if isinstance(layer, nn.LSTM):
            _, c, step = lstm.lstm_step_forward(x[:, t], h, c, W_ih, W_hh, b_ih + b_hh)
            c = c + c_nudge[:, t]
            h = step.o * np.tanh(c)
        elif isinstance(layer, nn.GRU):
            step = gru.gru_step_forward if layer.options["reset_after"] else gru.gru_before_step_forward
            h, _ = step(x[:, t], h, W_ih, W_hh, b_ih, b_hh)
        else:
            h, _ = rnn.rnn_step_forward(x[:, t], h, W_ih, W_hh, b_ih + b_hh, layer.options["nonlinearity"])
        h = h + h_nudge[:, t]
        hs[t], cs[t] = h, c
    return np.stack(hs, axis=1), np.stack(cs, axis=1)


def assert_close(ours, reference, limit=LIMIT):
    assert ours.shape == reference.shape and relative_error(ours, reference) <= limit


def flow_of(make, shape, dtype=np.float64, scale=1, training=True):
    """A tree, its input, a random dy, and its flow."""
    tree, x = make(), draw(shape, dtype)
    model = build(tree).train(training)
    dy = scale * draw(evaluate(tree, x, {}).shape, dtype, seed=2)
    return tree, x, dy, gradient_flow(model, x, dy)


def arrays_of(flow):
    return [*flow.outputs, *flow.states.values(), *flow.gradients, flow.dx, *flow.grads.values(),
            *flow.dstates.values()]


# ------------------------------------------------------------------------------------------------ depth and time

def assert_is_the_derivative(tree, x, dy, flow):
    """Names, outputs and states are those of `evaluate`; each gradient is the derivative with respect to its array."""
    seen = {}
    evaluate(tree, x, {}, seen=seen)
    assert sorted([*flow.names, *flow.states]) == sorted(seen) and sorted(flow.states) == sorted(flow.dstates)
    leaves = dict(zip(flow.names, zip(flow.outputs, flow.gradients, strict=True), strict=True))
    for name, (value, gradient) in leaves.items():
        assert_close(value, seen[name])
        assert_matches(gradient, lambda v, at=name: (dy * evaluate(tree, x, {at: v})).sum())
    for name, gradient in flow.dstates.items():
        assert_close(flow.states[name], seen[name])
        assert_matches(gradient, lambda v, at=name: (dy * evaluate(tree, x, {at: v})).sum(), by_step=True)
    assert_matches(flow.dx, lambda v: (dy * evaluate(tree, x + v, {})).sum())


def assert_matches(gradient, loss, by_step=False):
    """The derivative of loss(v) at 0 in random directions; of states (N, T, H) in one that touches a single step."""
    for t, v in enumerate(generator(7).standard_normal((gradient.shape[1] if by_step else 3, *gradient.shape))):
        v = v * (np.arange(gradient.shape[1]) == t)[:, None] if by_step else v
        along = loss(1j * COMPLEX_STEP * v).imag / COMPLEX_STEP
        assert abs((gradient * v).sum() - along) <= LIMIT * np.linalg.norm(gradient * (v != 0)) * np.linalg.norm(v)


def assert_has_the_gradients_of_backward(model, x, dy, flow):
    model.forward(x)
    model.backward(dy)
    assert list(flow.grads) == list(model.params)
    for name, gradient in model.grads.items():
        assert_close(flow.grads[name], gradient)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_gradient_at_every_layer_is_the_derivative(name, training):
    make, shape, names = MODELS[name]
    tree, x, dy, flow = flow_of(make, shape, training=training)
    assert list(flow.names) == names.split()
    assert_is_the_derivative(tree, x, dy, flow)
    assert_has_the_gradients_of_backward(build(make()).train(training), x, dy, flow)


@every_cell
@pytest.mark.parametrize("stack", STACKS)
def test_the_gradient_at_every_state_is_the_total_derivative(kind, stack):
    time_first = "time first" in stack
    layer, x, dy, flow = flow_of(lambda: cell_of(kind, **STACKS[stack]), (T, N, D) if time_first else (N, T, D))
    ways = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"] if time_first else ["_l0", "_l1"][:layer.num_layers]
    assert set(flow.states) == {s + way for way in ways for s in ("hc" if kind == "LSTM" else "h")}
    assert {a.shape for a in flow.states.values()} == {(N, T, H)}
    assert_is_the_derivative(layer, x, dy, flow)
    assert_has_the_gradients_of_backward(layer, x, dy, flow)


@pytest.mark.parametrize("shape", [(N, 1, D), (1, T, D), (0, T, D)], ids=["one step", "one example", "no example"])
def test_one_step_one_example_and_no_example(shape):
    assert_is_the_derivative(*flow_of(sequences, shape))


@some_models
def test_the_same_twice_doubled_with_dy_and_zero_with_zero(name):
    make, shape, _ = MODELS[name]
    once, again, doubled, zero = (flow_of(make, shape, scale=scale)[-1] for scale in (1, 1, 2, 0))
    assert [a.tobytes() for a in arrays_of(once)] == [a.tobytes() for a in arrays_of(again)]
    values = len(once.outputs) + len(once.states)               # do not depend on dy
    for i, (a, b, z) in enumerate(zip(*map(arrays_of, (once, doubled, zero)), strict=True)):
        assert np.array_equal(b, a if i < values else 2 * a) and np.array_equal(z, a if i < values else 0 * a)


@some_models
def test_float32_stays_and_strided_read_only_arrays_are_only_read(name):
    make, shape, _ = MODELS[name]
    tree, x, dy, narrow = flow_of(lambda: make(dtype=np.float32), shape, np.float32, training=False)
    assert {a.dtype for a in arrays_of(narrow)} == {np.dtype(np.float32)}
    strided = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (x, dy)]
    for a in strided:
        a.flags.writeable = False
    wide = flow_of(make, shape, training=False)[-1]
    for a, b, c in zip(*map(arrays_of, (narrow, wide, gradient_flow(nested(tree), *strided))), strict=True):
        assert_close(a, b, 1e-4)
        assert_close(a, c, 1e-5)
    assert np.array_equal(strided[0], x) and np.array_equal(strided[1], dy)


def test_dy_may_be_a_function_of_the_output_which_is_called_once():
    """In training, dropout draws one mask: outputs and gradients must belong to the same run."""
    model, x, seen = build([linear(5, 7), dropout(), linear(7, 2)]), draw((3, 5)), []
    flow = gradient_flow(model, x, lambda y: seen.append(y) or np.sin(y))
    assert len(seen) == 1 and np.array_equal(seen[0], flow.outputs[-1])
    assert np.array_equal(flow.gradients[-1], np.sin(flow.outputs[-1]))
    assert np.array_equal(flow.gradients[0] == 0, flow.outputs[1] == 0) and (flow.outputs[1] == 0).any()


@pytest.mark.parametrize("make, shape, t", [
    (nn.CrossEntropyLoss, (3, 7), np.array([6, 0, 2])), (nn.MSELoss, (3, 7), draw((3, 7), seed=5)),
    (nn.SequenceCrossEntropyLoss, (3, 2, 5), np.array([[1, -1], [0, 3], [2, 2]]))])
def test_a_loss_gives_dy_and_remembers_its_own_last_call(make, shape, t):
    y, loss, fresh, unused = draw(shape), make(), make(), make()
    fresh.forward(y, t)
    loss.forward(2 * y, t)
    before, gradient = loss.backward(), loss_gradient(loss, t)
    assert np.array_equal(gradient(y), fresh.backward())
    with pytest.raises(ValueError):
        gradient(y[:2])
    assert np.array_equal(loss.backward(), before)
    flow = gradient_flow(nn.Identity(), y, loss_gradient(unused, t))
    assert np.array_equal(flow.dx, fresh.backward()) and unused.memory is None


# ------------------------------------------------------------------------------------------------ nothing is stored

def everything(model):
    """All that a model holds, and its classes."""
    return bits(model), [dict(vars(c)) for c in vars(nn).values() if isinstance(c, type)]


@pytest.mark.parametrize("name", ["dense", "images", "sequences", "batch norm"])
def test_a_measurement_leaves_the_model_as_it_was(name):
    make, shape, _ = MODELS[name]
    model = build(make()).train(name != "dense")                # in training, dropout would draw
    dy = draw(model.forward(draw(shape, seed=11)).shape, seed=12)
    dx, grads = model.backward(dy), {key: g.copy() for key, g in model.grads.items()}
    before = everything(model)
    gradient_flow(model, draw(shape, seed=13), draw(dy.shape, seed=14))
    assert everything(model) == before
    assert np.array_equal(model.backward(dy), dx)
    assert all(np.array_equal(model.grads[key], g) for key, g in grads.items())


@pytest.mark.parametrize("measure", [gradient_flow, lambda lstm, x, dy: step_jacobians(lstm, x), lstm_paths,
                                     lambda *args: lstm_crossings(*args, 3)])
def test_every_measurement_leaves_the_lstm_as_it_was(measure):
    layer, x, dy = cell_of("LSTM"), draw((N, T, D)), draw((N, T, H), seed=2)
    layer.forward(draw((N, T, D), seed=3))
    layer.backward(draw((N, T, H), seed=4))
    before, result = everything(layer), measure(layer, x, dy)
    for array in (x, dy):
        array.flags.writeable = False
    assert bits(measure(layer, x, dy)) == bits(result) and everything(layer) == before


def test_what_is_refused_midway_leaves_the_model_as_it_was():
    model, x, dy = build(normed()), draw((3, 5)), draw((3, 2), seed=2)
    model.forward(draw((3, 5), seed=3))
    model.backward(draw((3, 2), seed=4))
    before = everything(model)
    for error, message, *arguments in [
            (ValueError, "dy must have the shape (3, 2)", x, dy.T),
            (ValueError, "dy must have the shape (3, 2)", x, lambda y: dy[:2]),
            (TypeError, "dy must be a NumPy array of float64", x, dy.tolist()),
            (TypeError, "dy must be a NumPy array of float64", x, dy.astype(np.float32)),
            (ZeroDivisionError, "division by zero", x, lambda y: 1 / 0),
            (ValueError, "Linear: x must have shape (N, 5)", x.T, dy),
            (TypeError, "Linear: x must be", x.astype(np.float32), dy)]:
        refuses(error, message, lambda arguments=arguments: gradient_flow(model, *arguments), model)
    assert everything(model) == before
    for message, tree in [("Linear: x must have shape (N, 3)", [*normed(), linear(3, 2)]),
                          ("Residual: ", [linear(5, 7), Skip([linear(7, 7), linear(7, 3)])])]:
        model = build(tree)
        refuses(ValueError, message, lambda model=model: gradient_flow(model, x, dy), model)


def test_what_does_not_fit_is_refused():
    x, dy, h0, one = draw((N, T, D)), draw((N, T, H), seed=2), draw((1, N, H)), cell_of("LSTM")
    others = [cell_of("LSTM", num_layers=2), cell_of("LSTM", bidirectional=True), nn.Tanh(), nested([cell_of("LSTM")])]
    for layer in others:
        refuses(ValueError, "step_jacobians: layer must", lambda layer=layer: step_jacobians(layer, x), layer)
    for layer in [*others, cell_of("GRU, reset after"), cell_of("RNN, tanh"), cell_of("LSTM", batch_first=False)]:
        refuses(ValueError, "lstm_paths: layer must", lambda layer=layer: lstm_paths(layer, x, dy), layer)
        refuses(ValueError, "lstm_crossings: layer must", lambda layer=layer: lstm_crossings(layer, x, dy, 2), layer)
    for model in (np.tanh, None, nn.MSELoss(), [linear(5, 7)]):
        refuses(TypeError, "gradient_flow: model must be a Layer", lambda model=model: gradient_flow(model, x, dy))
    for error, message, call in [
            (TypeError, "loss_gradient: loss must be a Loss", lambda: loss_gradient(one, dy)),
            (ValueError, "lstm_crossings: most must", lambda: lstm_crossings(one, x, dy, -1)),
            (TypeError, "lstm_crossings: most must", lambda: lstm_crossings(one, x, dy, 1.5)),
            (ValueError, "dy must have the shape", lambda: lstm_crossings(one, x, dy[:, 1:], 2)),
            (ValueError, "dy must have the shape", lambda: lstm_paths(one, x, dy[:, 1:])),
            (ValueError, "dy must have the shape", lambda: lstm_paths(one, x, lambda y: y[:1])),
            (ValueError, "x must have shape", lambda: lstm_paths(one, x[:, :, 1:], dy)),
            (ValueError, "x must have shape", lambda: step_jacobians(one, x[0])),
            (ValueError, "h0 must have shape", lambda: step_jacobians(one, x, (h0[:, 1:], h0))),
            (TypeError, "states must be a pair", lambda: step_jacobians(one, x, h0)),
            (ValueError, "jacobian_products: J must", lambda: jacobian_products(h0)),
            (ValueError, "jacobian_products: ", lambda: jacobian_products(np.zeros((N, 0, H, H)))),
            *((ValueError, f"{f.__name__}: ", lambda f=f, shape=shape: f(draw(shape)))
              for f in (singular_values, spectral_radius) for shape in [(3, 2), (5, 2, 3), (3,)])]:
        refuses(error, message, call, one)


# ------------------------------------------------------------------------------------------------ Jacobians

def last_state(layer, x, state):
    """The last state (N, S), h and then c, from the pure function; `state` is the one before."""
    W_ih, W_hh, b_ih, b_hh = (layer.params[f"{s}_l0"] for s in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    if isinstance(layer, nn.LSTM):
        hs, cs, _ = lstm.lstm_forward(x, *np.split(state, 2, axis=1), W_ih, W_hh, b_ih + b_hh)
        return np.concatenate([hs[:, -1], cs[:, -1]], axis=1)
    if isinstance(layer, nn.GRU):
        return gru.gru_forward(x, state, W_ih, W_hh, b_ih, b_hh, **layer.options)[0][:, -1]
    return rnn.rnn_forward(x, state, W_ih, W_hh, b_ih + b_hh, **layer.options)[0][:, -1]


def jacobian_by_complex_step(layer, x, state):
    """d(last state)/d(state) (N, S, S); no example touches another, so one nudge serves all."""
    units = np.eye(state.shape[1])
    return np.stack([last_state(layer, x, state + 1j * COMPLEX_STEP * unit).imag / COMPLEX_STEP for unit in units], 2)


@every_cell
@pytest.mark.parametrize("given", [True, False], ids=["states", "zeros"])
def test_step_jacobians_and_their_products_are_derivatives(kind, given):
    states = [draw((1, N, H), seed=20 + i) if given else np.zeros((1, N, H)) for i in range(1 + (kind == "LSTM"))]
    state, x, layer = np.concatenate([s[0] for s in states], axis=1), draw((N, T, D)), cell_of(kind)
    passed = (tuple(states) if kind == "LSTM" else states[0]) if given else None
    J = step_jacobians(layer, x, passed)
    before = bits(J)
    P = jacobian_products(J)
    assert J.shape == P.shape == (N, T, *2 * state.shape[1:]) and bits(J) == before
    for t in range(T):
        assert_close(J[:, t], jacobian_by_complex_step(layer, x[:, t:t + 1], state))
        assert_close(P[:, t], jacobian_by_complex_step(layer, x[:, t:], state))
        state = last_state(layer, x[:, t:t + 1], state)
    assert np.array_equal(jacobian_products(J[:, :1]), J[:, :1])
    assert_close(step_jacobians(cell_of(kind, batch_first=False), x.swapaxes(0, 1), passed), J)
    assert step_jacobians(layer, x[:0]).shape == (0, *J.shape[1:])
    narrow = step_jacobians(cell_of(kind, np.float32), x.astype(np.float32))
    assert narrow.dtype == jacobian_products(narrow).dtype == singular_values(narrow).dtype == np.float32


def test_singular_values_descend_and_are_those_put_in():
    s = np.array([[0.3, 11.0, 2.0], [0.0, 1e-3, 5.0]])
    u, v = (np.linalg.qr(draw((2, 3, 3), seed=seed))[0] for seed in (1, 2))
    found = singular_values(u * s[:, None, :] @ v)
    assert np.abs(found - np.sort(s)[:, ::-1]).max() < 1e-13 and singular_values(u[0]).shape == (3,)


def test_the_spectral_radius_is_the_largest_absolute_eigenvalue():
    turn = 1.7 * np.array([[0.6, -0.8], [0.8, 0.6]])            # eigenvalues 1.7 exp(+-i phi), none real
    shear = np.array([[0.5, 1000.0], [0.0, -0.25]])             # norm 1000, eigenvalues 1/2 and -1/4
    negative = np.array([[-3.0, 0.0], [5.0, 2.0]])
    assert np.abs(spectral_radius(np.stack([turn, shear, negative])) - [1.7, 0.5, 3.0]).max() < 1e-12
    assert np.shape(spectral_radius(turn)) == () and spectral_radius(np.stack([[turn]])).shape == (1, 1)


# ------------------------------------------------------------------------------------------------ the ways of the LSTM

def lstm_loss(layer, x, dy, at, nudge, ways, share=1.0):
    """<dy, h> of each example when c_at is nudged, and the nudge goes on by these ways only, later on by all.

    The ways: the loss at this very step, the cell, and each gate of the next step. `share` of a change of h passes
    through the recurrent weights.
    """
    weights = [np.split(layer.params[f"{s}_l0"], 4) for s in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    c, value, seen = np.zeros((len(x), H)), 0, [np.zeros((len(x), H))] * 4
    for t in range(x.shape[1]):
        z_i, z_f, z_g, z_o = (x[:, t] @ W.T + h_prev @ U.T + b + v for h_prev, W, U, b, v in zip(seen, *weights))
        c, o = sigmoid(z_f) * c + sigmoid(z_i) * np.tanh(z_g), sigmoid(z_o)
        nudged = c + nudge if t == at else c
        h, h_nudged = o * np.tanh(c), o * np.tanh(nudged)
        value = value + (dy[:, t] * (h_nudged if "outside" in ways else h)).sum(axis=1)
        seen = [(h_nudged if gate in ways else h) for gate in GATES]
        seen = [h.real + 1j * share * h.imag for h in seen]     # the nudge is the imaginary part
        c = nudged if "cell" in ways else c
    return value


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def by_ways(layer, x, dy, ways, share=1.0):
    """The derivative with respect to every c_t, along some ways: (N, T, H)."""
    values = [[lstm_loss(layer, x, dy, t, 1j * COMPLEX_STEP * unit, ways, share) for unit in np.eye(H)]
              for t in range(x.shape[1])]
    return np.moveaxis(np.array(values).imag / COMPLEX_STEP, 2, 0)


@pytest.mark.parametrize("dy_is", ["array", "function"])
def test_each_path_of_the_lstm_is_the_derivative_along_it(dy_is):
    layer, x = cell_of("LSTM"), draw((N, T, D))
    y = gradient_flow(layer, x, np.cos).outputs[0]
    paths = lstm_paths(layer, x, np.cos if dy_is == "function" else np.cos(y))
    assert list(paths) == ["outside", "cell", *GATES]
    for way, part in paths.items():
        assert_close(part, by_ways(layer, x, np.cos(y), [way]))


@pytest.mark.parametrize("steps", [1, 2, 13])
@pytest.mark.parametrize("bias", [True, False])
def test_paths_and_crossings_sum_to_the_total(steps, bias):
    layer, x, dy = cell_of("LSTM", bias=bias), draw((N, steps, D)), draw((N, steps, H), seed=2)
    total = gradient_flow(layer, x, dy).dstates["c_l0"]
    assert_close(sum(lstm_paths(layer, x, dy).values()), total)
    for most in (0, 1, 2, steps, steps + 4):
        parts = lstm_crossings(layer, x, dy, most)
        assert parts.shape == (most + 1, N, steps, H)
        assert_close(parts.sum(axis=0), total)
        assert np.array_equal(lstm_crossings(layer, x, 2 * dy, most), 2 * parts)


def test_crossings_are_the_powers_of_the_recurrent_weights():
    """Let a share of each change pass W_hh: the derivative is a polynomial in the share, of degree T - 1 at most."""
    layer, x, dy = cell_of("LSTM", std=1.5), draw((N, T, D)), draw((N, T, H), seed=2)
    shares = np.cos((np.arange(T) + 0.5) * np.pi / T)
    values = np.stack([by_ways(layer, x, dy, ["outside", "cell", *GATES], share) for share in shares])
    powers = np.linalg.solve(np.vander(shares, increasing=True), values.reshape(T, -1)).reshape(T, N, T, H)
    parts = lstm_crossings(layer, x, dy, T + 1)
    assert_close(parts[0], by_ways(layer, x, dy, ["outside", "cell", *GATES], 0.0))
    for k in range(T):
        assert_close(parts[k], powers[k], 1e-10)
        assert (parts[k][:, T - k:] == 0).all() and (parts[k][:, :T - k] != 0).all()
    assert (parts[T:] == 0).all()
    for most in range(T):
        few = lstm_crossings(layer, x, lambda y: dy, most)
        assert_close(few[:most], parts[:most])
        assert_close(few[most], parts[most:].sum(axis=0))


def test_paths_and_crossings_in_float32_and_without_examples():
    layer, x, dy = cell_of("LSTM", np.float32), draw((N, T, D), np.float32), draw((N, T, H), np.float32, seed=2)
    assert {a.dtype for a in [*lstm_paths(layer, x, dy).values(), lstm_crossings(layer, x, dy, 2)]} == {x.dtype}
    assert {a.shape for a in lstm_paths(layer, x[:0], dy[:0]).values()} == {(0, T, H)}
    assert lstm_crossings(layer, x[:0], dy[:0], 2).shape == (3, 0, T, H)


# ------------------------------------------------------------------------------------------------ norms and dead units

def frobenius(arrays):
    """By hand, scaled so that no square overflows."""
    largest = [float(np.abs(a).max()) for a in arrays]
    return [m * math.sqrt(sum((float(v) / m)**2 for v in a.flat)) for m, a in zip(largest, arrays)]


@every_scale
def test_layer_norms_are_those_of_weights_and_activations(scale):
    *_, flow = flow_of(dense, (3, 5), scale=scale)
    norms, gradients = layer_norms(flow), dict(zip(flow.names, flow.gradients))
    assert list(norms.names) == ["0.Linear", "2.0.Linear", "2.2.0.Linear", "4.2.Linear"]    # LayerNorm has one axis
    for ours, arrays in [(norms.dz, [gradients[name] for name in norms.names]),
                         (norms.dW, [flow.grads[name.replace("Linear", "weight")] for name in norms.names]),
                         (norms.dh, [gradients[s] for s in ("1.Tanh", "2.1.Sigmoid", "2.2.1.ReLU", "4.0.Identity")])]:
        assert isinstance(ours, np.ndarray) and ours.shape == (len(arrays),)
        assert np.allclose(ours, frobenius(arrays), rtol=1e-13, atol=0)


def test_layer_norms_of_convolutions_recurrent_layers_and_a_bare_layer():
    assert list(layer_norms(flow_of(images, (2, 3, 7, 5))[-1]).names) == ["0.Conv2d", "5.Linear"]
    assert list(layer_norms(flow_of(sequences, (N, T, D))[-1]).names) == ["4.Linear"]
    *_, flow = flow_of(lambda: linear(5, 7), (3, 5))
    norms = layer_norms(flow)
    assert list(norms.names) == ["Linear"] and norms.dh.shape == (0,)
    assert np.allclose(norms.dW, frobenius([flow.grads["weight"]]), rtol=1e-13, atol=0)


@every_scale
def test_step_norms_are_over_examples_and_units(scale):
    *_, flow = flow_of(sequences, (N, T, D), scale=scale)
    norms = step_norms(flow)
    assert set(norms) == set(flow.dstates) == {"0.h_l0", "0.h_l0_reverse", "1.0.h_l0", "2.0.h_l0", "2.0.c_l0"}
    for name, found in norms.items():
        assert found.shape == (T,) and np.allclose(found, frobenius(flow.dstates[name].swapaxes(0, 1)), 1e-13, 0)


def test_norms_of_tiny_float32_gradients_do_not_underflow():
    def make():
        return [linear(5, 7, dtype=np.float32), nn.RNN(7, 3, rng=generator(), dtype=np.float32)]
    tiny, plain = (flow_of(make, (2, 3, 5), np.float32, scale=np.float32(scale))[-1] for scale in (1e-25, 1))
    assert np.allclose(layer_norms(tiny).dz / 1e-25, layer_norms(plain).dz, rtol=1e-5, atol=0)
    assert np.allclose(layer_norms(tiny).dz, frobenius(tiny.gradients[:1]), rtol=1e-13, atol=0)
    assert np.allclose(step_norms(tiny)["1.h_l0"] / 1e-25, step_norms(plain)["1.h_l0"], rtol=1e-5, atol=0)


def test_dead_units_are_zero_for_every_example_behind_a_relu():
    first, x = linear(2, 5), np.array([[1.0, 0], [2, 1], [3, -2]])
    first.params.update(weight=np.array([[1.0, 0], [-1, 0], [0, 0], [0, 0], [1, 1]]),
                        bias=np.array([0.0, 0, -1, 0, -2.5]))   # the last unit is alive for one example only
    flow = gradient_flow(nested([first, nn.ReLU(), nn.LeakyReLU(0.0), Skip([nn.Tanh()]), [nn.ReLU()]]), x, np.ones_like)
    assert dead_units(flow) == {"1.ReLU": 3 / 5, "4.0.ReLU": 3 / 5}
    assert dead_units(gradient_flow(nn.ReLU(), -x, np.ones_like)) == {"ReLU": 1 / 2}
    assert dead_units(gradient_flow(nn.Tanh(), x, np.ones_like)) == {}
    pixels = np.array([[[[1.0, 2, 0]], [[-1, -2, 0]]], [[[3, -1, 0]], [[-3, 1, 0]]]])       # (N, C, I, J)
    assert dead_units(gradient_flow(nn.ReLU(), pixels, np.ones_like)) == {"ReLU": 3 / 6}    # a channel at a place


# ------------------------------------------------------------------------------------------------ the wall

def wall_by_hand(w, b, T):
    x = 0.5
    for _ in range(T):
        x = w * sigmoid(x) + b
    return (sigmoid(x) - 0.7)**2


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_the_wall_and_its_derivatives(steps):
    w, b, step = generator().uniform(-2, 6, (7, 1)), generator(1).uniform(-4, 1, 5), 1j * COMPLEX_STEP
    before = bits((w, b))
    error, dw, db = wall(w, b, steps)
    assert error.shape == dw.shape == db.shape == (7, 5) and bits((w, b)) == before
    assert_close(error, wall_by_hand(w, b, steps))
    for by_w, by_b in [(wall_by_hand(w + step, b, steps), wall_by_hand(w, b + step, steps)),
                       (wall(w + step, b, steps).error, wall(w, b + step, T=steps).error)]:
        assert_close(dw, by_w.imag / COMPLEX_STEP, 1e-11)
        assert_close(db, by_b.imag / COMPLEX_STEP, 1e-11)


def test_the_wall_at_one_point():
    h, x = sigmoid(0.5), 3 * sigmoid(0.5) - 2
    error, dw, db = wall(3, -2, T=1)
    dx = 2 * (sigmoid(x) - 0.7) * sigmoid(x) * (1 - sigmoid(x))
    assert np.shape(error) == np.shape(dw) == np.shape(db) == ()
    assert np.allclose([error, dw, db], [(sigmoid(x) - 0.7)**2, dx * h, dx], rtol=1e-13, atol=0)
    assert np.array_equal(wall(3.0, -2.0), wall(3, -2, 50))     # T is 50 unless given
    assert np.isfinite(wall(np.array([-1e4, 1e4]), np.array([[-1e4], [1e4]]))).all()
    for steps in (0, 1.5):
        refuses(ValueError, "wall: T must", lambda steps=steps: wall(3, -2, steps))


@pytest.mark.parametrize("w", [4.001, 5, 9.5, 40.0])
def test_at_a_fold_two_fixed_points_meet(w):
    low, high = fold_points(w)
    assert low < high
    for b, sign in [(low, 1), (high, -1)]:
        s = (1 + sign * math.sqrt(1 - 4 / w)) / 2               # w s (1 - s) = 1
        x = math.log(s / (1 - s))
        assert abs(w * s * (1 - s) - 1) < LIMIT * w and abs(w * s + b - x) < LIMIT * w
    x = np.linspace(-60, 60, 100_000)
    for b, solutions in [((low + high) / 2, 3), (low - 0.1, 1), (high + 0.1, 1)]:
        assert np.count_nonzero(np.diff(np.sign(w * sigmoid(x) + b - x))) == solutions


def test_the_folds_of_five_and_where_there_is_none():
    root, x = math.sqrt(5), math.log((3 + math.sqrt(5)) / 2)
    assert np.allclose(fold_points(5), [x - (5 + root) / 2, -x - (5 - root) / 2], rtol=1e-13, atol=0)
    for w in (4, 4.0, 3.9, 0, -5.0, math.nan, math.inf):
        refuses(ValueError, "fold_points: w must be", lambda w=w: fold_points(w))
