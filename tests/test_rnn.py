"""The rules that every pair of rnn, lstm and gru keeps, then what is special to backprop_lib.rnn.

Right to the last bits, pure, quiet on extreme input, loud on bad input. `-k lstm` selects what concerns the LSTM.
"""

import cmath
import copy
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrays import frozen, same_bits, spread

from backprop_lib import gru, lstm, rnn
from backprop_lib.gradcheck import check_adjoint, check_gradients, complex_step, on_grid, relative_error


LIMIT = 1e-12
SIZES = {"N": 2, "T": 5, "D": 3, "H": 7}
TANH, RELU = {"nonlinearity": "tanh"}, {"nonlinearity": "relu"}

# what: module, pair, options
STEPS = {
    "rnn_step, tanh": (rnn, "rnn_step", TANH),
    "rnn_step, relu": (rnn, "rnn_step", RELU),
    "lstm_step": (lstm, "lstm_step", {}),
    "peephole_lstm_step": (lstm, "peephole_lstm_step", {}),
    "gru_step": (gru, "gru_step", {}),
    "gru_before_step": (gru, "gru_before_step", {}),
}
SEQUENCES = {
    "rnn, tanh": (rnn, "rnn", TANH),
    "rnn, relu": (rnn, "rnn", RELU),
    "lstm": (lstm, "lstm", {}),
    "gru, reset after": (gru, "gru", {"reset_after": True}),
    "gru, reset before": (gru, "gru", {"reset_after": False}),
}
STEP_OF = {"rnn, tanh": "rnn_step, tanh", "rnn, relu": "rnn_step, relu", "lstm": "lstm_step",
           "gru, reset after": "gru_step", "gru, reset before": "gru_before_step"}
DEFAULTS = {"rnn_step": (rnn, "rnn_step", {}), "rnn": (rnn, "rnn", {}), "gru": (gru, "gru", {})}
PAIRS = STEPS | SEQUENCES | DEFAULTS

every_pair = pytest.mark.parametrize("what", STEPS | SEQUENCES)
every_step = pytest.mark.parametrize("what", STEPS)
every_sequence = pytest.mark.parametrize("what", SEQUENCES)


# ------------------------------------------------------------------------------------------------ helpers

def functions(what):
    module, pair, _ = PAIRS[what]
    return getattr(module, f"{pair}_forward"), getattr(module, f"{pair}_backward")


def is_step(what):
    return PAIRS[what][1].endswith("_step")


def shapes_of(what, N, T, D, H):
    """{argument: shape}, in order."""
    pair = PAIRS[what][1]
    G = 4 if "lstm" in pair else 3 if "gru" in pair else 1
    step = is_step(what)
    states = ["h_prev", "c_prev"] if step else ["h0", "c0"]
    shapes = {"x": (N, D) if step else (N, T, D)} | dict.fromkeys(states if "lstm" in pair else states[:1], (N, H))
    shapes |= {"W_ih": (G * H, D), "W_hh": (G * H, H)}
    shapes |= dict.fromkeys(["b_ih", "b_hh"] if "gru" in pair else ["b"], (G * H,))
    return shapes | ({"p": (3, H)} if "peephole" in pair else {})


def cotangents_named(what):
    """{cotangent: shape} that the backward takes."""
    names = ["dh", "dc_next"] if is_step(what) else ["dhs", "dcs"]
    shape = tuple(SIZES[letter] for letter in ("NH" if is_step(what) else "NTH"))
    return dict.fromkeys(names if "lstm" in what else names[:1], shape)


def inputs_of(what, seed=1, width=1.0, dtype=np.float64, **sizes):
    """{argument: random array}; the weights are such that the gates neither stay in the middle nor saturate."""
    rng, sizes = np.random.default_rng(seed), SIZES | sizes
    inputs = {name: rng.standard_normal(shape) for name, shape in shapes_of(what, **sizes).items()}
    scale = {"W_ih": max(sizes["D"], 1)**-0.5, "W_hh": width * sizes["H"]**-0.5}
    return {name: (a * scale.get(name, 1)).astype(dtype) for name, a in inputs.items()}


def cotangents_of(outputs, seed=2):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(y.shape).astype(y.real.dtype) for y in outputs]


def run_forward(what, inputs):
    *outputs, cache = functions(what)[0](**inputs, **PAIRS[what][2])
    return outputs, cache


def run_backward(what, cotangents, cache):
    """{gradient: array}, in the order of the arguments."""
    gradients = functions(what)[1](*cotangents, cache)
    assert type(gradients) is tuple
    return dict(zip([f"d{name}" for name in shapes_of(what, **SIZES)], gradients, strict=True))


def run(what, inputs, cotangents=None):
    """All outputs and all gradients, in one list."""
    outputs, cache = run_forward(what, inputs)
    return [*outputs, *run_backward(what, cotangents or cotangents_of(outputs), cache).values()]


def flattened(value):
    """All arrays and numbers inside nested tuples and lists."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in flattened(item)]
    return [value]


# ------------------------------------------------------------------------------------------------ right

# N, T, D, H and a factor on W_hh
MANY_SIZES = [(2, 5, 3, 7, 1.0), (1, 1, 1, 1, 1.0), (1, 4, 2, 3, 1.0), (3, 1, 2, 2, 1.0), (3, 6, 1, 1, 1.0),
              (4, 3, 5, 2, 3.0), (1, 60, 1, 2, 1.0)]


@every_pair
@pytest.mark.parametrize("N, T, D, H, width", MANY_SIZES)
def test_gradients_agree_with_the_complex_step(what, N, T, D, H, width):
    inputs = inputs_of(what, seed=3, width=width, N=N, T=T, D=D, H=H)
    report = check_gradients(*functions(what), *inputs.values(), *PAIRS[what][2].values(), wrt=list(inputs),
                             rng=np.random.default_rng(4))
    assert list(report.errors) == [f"d{name}" for name in inputs]
    assert max(report.errors.values()) <= LIMIT


@every_pair
def test_every_entry_of_every_argument_has_a_gradient(what):
    outputs, cache = run_forward(what, inputs_of(what))
    for name, gradient in run_backward(what, cotangents_of(outputs), cache).items():
        assert gradient.any() if "relu" in what else gradient.all(), name


@every_pair
def test_outputs_and_gradients_have_the_documented_shapes(what):
    inputs = inputs_of(what)
    outputs, cache = run_forward(what, inputs)
    assert [y.shape for y in outputs] == list(cotangents_named(what).values())
    gradients = run_backward(what, cotangents_of(outputs), cache)
    assert [g.shape for g in gradients.values()] == [a.shape for a in inputs.values()]


@every_sequence
def test_a_sequence_is_a_chain_of_steps(what):
    inputs = inputs_of(what)
    x, *rest = inputs.values()
    count = 2 if what == "lstm" else 1
    states, weights = rest[:count], rest[count:]
    outputs, _ = run_forward(what, inputs)
    for t in range(x.shape[1]):
        *states, _ = functions(STEP_OF[what])[0](x[:, t], *states, *weights, **STEPS[STEP_OF[what]][2])
        for y, state in zip(outputs, states, strict=True):
            np.testing.assert_allclose(y[:, t], state, rtol=1e-13, atol=1e-14)


@every_sequence
def test_a_sequence_of_one_step_has_the_gradients_of_the_step(what):
    inputs = inputs_of(what, T=1)
    step = {name.replace("0", "_prev"): a[:, 0] if name == "x" else a for name, a in inputs.items()}
    cotangents = cotangents_of(run_forward(what, inputs)[0])
    whole, single = run(what, inputs, cotangents), run(STEP_OF[what], step, [dy[:, 0] for dy in cotangents])
    for a, b in zip(whole, single, strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-13, atol=1e-14)


@every_sequence
@pytest.mark.parametrize("t", range(5))
def test_nothing_depends_on_a_later_step(what, t):
    inputs = inputs_of(what)
    outputs, cache = run_forward(what, inputs)
    moved, _ = run_forward(what, inputs | {"x": np.where(np.arange(5)[:, None] == t, inputs["x"] + 1, inputs["x"])})
    for before, after in zip(outputs, moved):
        np.testing.assert_array_equal(before[:, :t], after[:, :t])
        assert (before[:, t:] != after[:, t:]).any(axis=(0, 2)).all()
    cotangents = [np.where(np.arange(5)[:, None] == t, dy, 0) for dy in cotangents_of(outputs)]
    dx = run_backward(what, cotangents, cache)["dx"]
    assert dx[:, :t + 1].all() or (what == "rnn, relu" and dx[:, :t + 1].any(axis=(0, 2)).all())
    assert not dx[:, t + 1:].any()


@every_pair
def test_examples_do_not_see_each_other(what):
    inputs = inputs_of(what, N=3)
    per_example = [name for name in inputs if name == "x" or "0" in name or "prev" in name]
    outputs, cache = run_forward(what, inputs)
    cotangents = cotangents_of(outputs)
    gradients = run_backward(what, cotangents, cache)
    for n in range(3):
        alone = {name: a[n:n + 1] if name in per_example else a for name, a in inputs.items()}
        ys, cache = run_forward(what, alone)
        for y, expected in zip(ys, outputs):
            np.testing.assert_allclose(y[0], expected[n], rtol=1e-13, atol=1e-14)
        for name, gradient in run_backward(what, [dy[n:n + 1] for dy in cotangents], cache).items():
            if name[1:] in per_example:
                np.testing.assert_allclose(gradient[0], gradients[name][n], rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------------------------ lists, no NumPy

def dot(row, v):
    return sum(w * a for w, a in zip(row, v, strict=True))


def sigma(z):
    return 1 / (1 + cmath.exp(-z))


def rnn_of_lists(x, h, W_ih, W_hh, b, nonlinearity="tanh"):
    z = [dot(a, x) + dot(w, h) + beta for a, w, beta in zip(W_ih, W_hh, b, strict=True)]
    return [cmath.tanh(s) if nonlinearity == "tanh" else s if s.real > 0 else 0 for s in z],


def run_lists(cell, what, lists):
    """All numbers that come out, one after the other: examples, then steps, then outputs."""
    x, *rest = lists.values()
    count, out = len(cotangents_named(what)), []
    for n, example in enumerate(x):
        states = [state[n] for state in rest[:count]]
        for x_t in [example] if is_step(what) else example:
            states = cell(x_t, *states, *rest[count:])
            out += [number for state in states for number in state]
    return out


def in_that_order(what, arrays):
    """The same order for our arrays: each (N, H) or (N, T, H)."""
    return np.stack(arrays, axis=-2).ravel()


def nudged(lists, name, index):
    lists = copy.deepcopy(lists)
    *path, last = index
    target = lists[name]
    for i in path:
        target = target[i]
    target[last] += 1e-30j
    return lists


def assert_agrees_with_lists(cell, what, **sizes):
    """Outputs, and every gradient by the complex step through a cell that knows nothing but Python's numbers."""
    inputs = inputs_of(what, seed=5, N=2, T=3, D=2, H=2) if not sizes else inputs_of(what, seed=5, **sizes)
    lists = {name: a.tolist() for name, a in inputs.items()}
    outputs, cache = run_forward(what, inputs)
    cotangents = cotangents_of(outputs)
    np.testing.assert_allclose(in_that_order(what, outputs), run_lists(cell, what, lists), rtol=1e-13, atol=1e-15)
    weights = in_that_order(what, cotangents).tolist()
    for name, gradient in run_backward(what, cotangents, cache).items():
        reference = [dot(weights, run_lists(cell, what, nudged(lists, name[1:], index))).imag / 1e-30
                     for index in np.ndindex(gradient.shape)]
        assert relative_error(gradient.ravel(), reference) <= LIMIT, name


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("pair", ["rnn_step", "rnn"])
def test_an_rnn_of_lists_has_the_same_numbers_and_gradients(pair, nonlinearity):
    def cell(*args):
        return rnn_of_lists(*args, nonlinearity)
    assert_agrees_with_lists(cell, f"{pair}, {nonlinearity}")


# ------------------------------------------------------------------------------------------------ pure

@every_pair
def test_backward_twice_gives_the_same_bits(what):
    outputs, cache = run_forward(what, inputs_of(what))
    cotangents = cotangents_of(outputs)
    first = copy.deepcopy(list(run_backward(what, cotangents, cache).values()))
    assert same_bits(first, run_backward(what, cotangents, cache).values())


@every_pair
def test_a_second_forward_leaves_the_first_cache_alone(what):
    inputs = inputs_of(what)
    expected = copy.deepcopy(run(what, inputs))
    outputs, cache = run_forward(what, inputs)
    others, other_cache = run_forward(what, inputs_of(what, seed=7))
    run_backward(what, cotangents_of(others), other_cache)
    assert same_bits(expected, [*outputs, *run_backward(what, cotangents_of(outputs), cache).values()])


@every_pair
def test_nothing_passed_in_is_changed(what):
    inputs = inputs_of(what)
    before = copy.deepcopy(inputs)
    outputs, cache = run_forward(what, inputs)
    cotangents = cotangents_of(outputs)
    kept = copy.deepcopy([outputs, cotangents, flattened(cache)])
    run_backward(what, cotangents, cache)
    assert same_bits(before.values(), inputs.values())
    assert same_bits(flattened(kept), flattened([outputs, cotangents, flattened(cache)]))


@every_pair
def test_what_is_returned_shares_no_memory_with_the_cotangents_or_with_each_other(what):
    outputs, cache = run_forward(what, inputs_of(what))
    cotangents = cotangents_of(outputs)
    gradients = list(run_backward(what, cotangents, cache).values())
    inside = [a for a in flattened(cache) if isinstance(a, np.ndarray)]
    for i, gradient in enumerate(gradients):
        for other in cotangents + inside + outputs + gradients[:i]:
            assert not np.shares_memory(gradient, other)


@every_pair
def test_read_only_arrays_are_fine(what):
    inputs = inputs_of(what)
    expected = run(what, inputs)
    cotangents = [frozen(dy) for dy in cotangents_of(run_forward(what, inputs)[0])]
    assert same_bits(expected, run(what, {name: frozen(a) for name, a in inputs.items()}, cotangents))


@every_pair
@pytest.mark.parametrize("view", [spread, np.asfortranarray])
def test_strided_arrays_are_fine(what, view):
    inputs = inputs_of(what)
    expected = run(what, inputs)
    cotangents = [view(dy) for dy in cotangents_of(run_forward(what, inputs)[0])]
    for a, b in zip(run(what, {name: view(a) for name, a in inputs.items()}, cotangents), expected, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) <= 1e-14


@every_pair
@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_a_scaled_cotangent_gives_scaled_gradients_bit_for_bit(what, factor):
    outputs, cache = run_forward(what, inputs_of(what))
    cotangents = cotangents_of(outputs)
    once = run_backward(what, cotangents, cache).values()
    scaled = run_backward(what, [factor * dy for dy in cotangents], cache).values()
    assert same_bits([factor * g for g in once], scaled)


@every_pair
def test_no_cotangent_gives_no_gradient(what):
    outputs, cache = run_forward(what, inputs_of(what))
    gradients = run_backward(what, [np.zeros(y.shape) for y in outputs], cache)
    assert not any(g.any() for g in gradients.values())


@every_pair
def test_eight_threads_get_the_same_bits(what):
    inputs = inputs_of(what)
    expected = run(what, inputs)
    outputs, cache = run_forward(what, inputs)

    def work(_):
        return same_bits(expected, run(what, inputs)) and same_bits(
            expected[len(outputs):], run_backward(what, cotangents_of(outputs), cache).values())
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


# ------------------------------------------------------------------------------------------------ widths and edges

@every_pair
def test_float32_stays_float32(what):
    inputs = inputs_of(what, dtype=np.float32)
    narrow = run(what, inputs)
    assert {a.dtype for a in narrow} == {np.dtype(np.float32)}
    wide = run(what, {name: a.astype(float) for name, a in inputs.items()},
               [dy.astype(float) for dy in cotangents_of(run_forward(what, inputs)[0])])
    assert {a.dtype for a in wide} == {np.dtype(np.float64)}
    for a, b in zip(narrow, wide):
        assert relative_error(a, b) < 1e-5


@every_pair
def test_no_examples_give_empty_outputs_and_no_gradient(what):
    inputs = inputs_of(what, N=0)
    outputs, cache = run_forward(what, inputs)
    assert [y.shape for y in outputs] == [(0, *shape[1:]) for shape in cotangents_named(what).values()]
    gradients = run_backward(what, outputs, cache)
    assert [g.shape for g in gradients.values()] == [a.shape for a in inputs.values()]
    assert not any(g.any() for g in gradients.values())


@every_pair
def test_no_input_features_leave_the_recurrence(what):
    inputs = inputs_of(what, D=0)
    outputs, cache = run_forward(what, inputs)
    gradients = run_backward(what, cotangents_of(outputs), cache)
    assert [g.shape for g in gradients.values()] == [a.shape for a in inputs.values()]
    assert gradients["dW_hh"].any()


@every_pair
@pytest.mark.parametrize("size", [20.0, 1000.0])
def test_large_numbers_overflow_nowhere(what, size):
    for seed in range(3):
        inputs = inputs_of(what, seed, H=2)
        inputs = {name: size * np.sign(a) if name != "W_hh" else np.sign(a) for name, a in inputs.items()}
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            everything = run(what, inputs)
        assert all(np.isfinite(a).all() for a in everything)


@every_sequence
def test_a_nan_reaches_all_later_steps_of_its_example_and_nothing_else(what):
    inputs = inputs_of(what)
    inputs["x"][1, 2, 0] = np.nan
    outputs, cache = run_forward(what, inputs)
    for y in outputs:
        assert np.isnan(y[1, 2:]).all()
        assert np.isfinite(y[0]).all() and np.isfinite(y[1, :2]).all()
    gradients = run_backward(what, cotangents_of(outputs), cache)
    assert np.isnan(gradients["dx"][1]).all() or "relu" in what      # whose slope is 0 or 1, of NaN too
    assert np.isfinite(gradients["dx"][0]).all()
    assert np.isnan(gradients["dW_hh"]).all()


@every_pair
def test_a_nan_in_a_state_or_a_parameter_does_not_vanish(what):
    for name in list(inputs_of(what))[1:]:
        inputs = inputs_of(what)
        inputs[name].flat[0] = np.nan
        outputs, cache = run_forward(what, inputs)
        assert any(np.isnan(y).any() for y in outputs), name
        gradients = run_backward(what, cotangents_of(outputs), cache)
        assert np.isnan(gradients["dW_hh"]).any() or "relu" in what, name


@every_sequence
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_or_inf_in_a_cotangent_reaches_all_earlier_steps_of_its_example(what, value):
    outputs, cache = run_forward(what, inputs_of(what))
    for which in range(len(outputs)):
        cotangents = cotangents_of(outputs)
        cotangents[which][1, 2] = value
        with np.errstate(invalid="ignore"):
            gradients = run_backward(what, cotangents, cache)
        assert not np.isfinite(gradients["dx"][1, :3]).any()
        assert np.isfinite(gradients["dx"][0]).all() and np.isfinite(gradients["dx"][1, 3:]).all()
        assert not np.isfinite(gradients["dW_ih"]).any(axis=None) or "relu" in what


@every_step
def test_a_nan_in_a_cotangent_of_a_step_stays_in_its_example(what):
    outputs, cache = run_forward(what, inputs_of(what))
    for which in range(len(outputs)):
        cotangents = cotangents_of(outputs)
        cotangents[which][1] = np.nan
        gradients = run_backward(what, cotangents, cache)
        assert np.isnan(gradients["dx"][1]).all() and np.isfinite(gradients["dx"][0]).all()
        assert np.isnan(gradients["dh_prev"][1]).all() and np.isfinite(gradients["dh_prev"][0]).all()


# ------------------------------------------------------------------------------------------------ bad input

def assert_names(error, function, names, *shapes):
    """The message starts with the function's name and has one of the arguments' names and all shapes."""
    message = str(error.value)
    assert message.startswith(f"{function}: "), message
    assert any(re.search(rf"\b{name}\b", message) for name in names), message
    for shape in shapes:
        assert str(tuple(shape)) in message, message


def wrong_shapes(what):
    """(argument, wrong shape, names the message may use)."""
    N, D, H = SIZES["N"], SIZES["D"], SIZES["H"]
    for name, shape in shapes_of(what, **SIZES).items():
        if name == "x":
            yield from [(name, (D,), [name]), (name, (1, *shape, 1), [name]), (name, shape[:-1], [name])]
        elif "prev" in name or "0" in name:
            yield from [(name, wrong, [name]) for wrong in [
                (N, H + 1), (N + 1, H), (1, H), (N, 1), (H,), (1, N, H), (H, N)]]
        elif name in ("W_ih", "W_hh"):
            rows, columns = shape
            yield from [(name, (rows + 1, columns), [name]), (name, (rows + H, columns), [name]),
                        (name, (rows,), [name]), (name, (rows, columns, 1), [name]), (name, (1, columns), [name])]
            yield name, (rows, columns + 1), [name, "x"] if name == "W_ih" else [name]
        else:
            yield from [(name, wrong, [name]) for wrong in [
                (*shape[:-1], shape[-1] + 1), (*shape[:-1], 1), (), (*shape, 1), (1, *shape)]]


WRONG = [(what, *wrong) for what in STEPS | SEQUENCES for wrong in wrong_shapes(what)]


@pytest.mark.parametrize("what, name, shape, names", WRONG)
def test_a_wrong_shape_is_refused_by_name(what, name, shape, names):
    inputs = inputs_of(what) | {name: np.zeros(shape)}
    with pytest.raises(ValueError) as error:
        run_forward(what, inputs)
    function = f"{PAIRS[what][1]}_forward"
    both = [shape, shapes_of(what, **SIZES)[name]] if name not in ("x", "W_hh") and "x" not in names else []
    assert_names(error, function, names, *both)
    assert "must" in str(error.value) and "got" in str(error.value)


@every_sequence
def test_no_time_steps_are_refused(what):
    with pytest.raises(ValueError, match=f"^{PAIRS[what][1]}_forward: x must have at least one time step"):
        run_forward(what, inputs_of(what, T=0))


@every_pair
def test_a_cotangent_of_another_shape_is_refused_by_name(what):
    outputs, cache = run_forward(what, inputs_of(what))
    for which, (name, shape) in enumerate(cotangents_named(what).items()):
        for wrong in [(*shape[:-1], 1), (1, *shape[1:]), shape[1:], (), shape[:-1], (*shape, 1), (*shape[::-1],),
                      (shape[0], shape[1] + 1, *shape[2:]), (shape[0], 1, *shape[2:])]:
            cotangents = cotangents_of(outputs)
            cotangents[which] = np.zeros(wrong)
            with pytest.raises(ValueError) as error:
                functions(what)[1](*cotangents, cache)
            assert_names(error, f"{PAIRS[what][1]}_backward", [name], shape, wrong)


@every_pair
def test_integers_and_lists_are_refused(what):
    inputs = inputs_of(what)
    for name, a in inputs.items():
        for wrong in (np.ones(a.shape, int), a.tolist(), np.ones(a.shape, bool)):
            with pytest.raises(TypeError, match=rf"^{PAIRS[what][1]}_forward: {name} must be an array of floats"):
                run_forward(what, inputs | {name: wrong})


@pytest.mark.parametrize("pair", ["rnn_step", "rnn"])
@pytest.mark.parametrize("wrong", ["sigmoid", "TANH", "", None, 1, np.tanh])
def test_another_nonlinearity_is_refused(pair, wrong):
    forward = getattr(rnn, f"{pair}_forward")
    with pytest.raises(ValueError, match=rf"^{pair}_forward: nonlinearity must .*tanh.*relu.*got"):
        forward(*inputs_of(pair).values(), wrong)


# ------------------------------------------------------------------------------------------------ the plain RNN

@pytest.mark.parametrize("default, what", [("rnn_step", "rnn_step, tanh"), ("rnn", "rnn, tanh"),
                                           ("gru", "gru, reset after")])
def test_tanh_and_the_reset_after_are_the_defaults(default, what):
    assert same_bits(run(default, inputs_of(default)), run(what, inputs_of(what)))


def test_relu_has_slope_0_at_0_and_below_and_1_above():
    """h = relu(x), at x = -1, 0, -0, 1."""
    x = np.array([[-1.0], [0.0], [-0.0], [1.0]])
    h, cache = rnn.rnn_step_forward(x, np.zeros((4, 1)), np.ones((1, 1)), np.zeros((1, 1)), np.zeros(1), "relu")
    np.testing.assert_array_equal(h, [[0], [0], [0], [1]])
    dx, *_, db = rnn.rnn_step_backward(np.full((4, 1), 3.0), cache)
    np.testing.assert_array_equal(dx, [[0], [0], [0], [3]])
    assert db == 3


def test_a_linear_stretch_of_relu_steps_is_exact():
    """All states positive: h_t = x_t + h_{t-1}/2, so that dL/dx_s = sum over t >= s of dh_t 2^(s-t)."""
    x, one = np.array([[[1.0], [2.0], [4.0], [0.5]]]), np.ones((1, 1))
    hs, cache = rnn.rnn_forward(x, 2 * one, one, one / 2, np.zeros(1), "relu")
    np.testing.assert_array_equal(hs.ravel(), [2, 3, 5.5, 3.25])
    dx, dh0, dW_ih, dW_hh, db = rnn.rnn_backward(np.array([[[1.0], [0.0], [2.0], [-4.0]]]), cache)
    np.testing.assert_array_equal(dx.ravel(), [1, 0, 0, -4])    # -4; 2 - 2; 0; 1
    assert (dh0, dW_ih, dW_hh, db) == (0.5, 1 - 2, 2 - 4 * 5.5, 1 - 4)


def test_the_cache_of_a_sequence_is_one_step_cache_for_each_step():
    inputs = inputs_of("rnn")
    hs, cache = rnn.rnn_forward(*inputs.values())
    assert type(cache).__name__ == "RNNCache" and len(cache.steps) == 5
    x, h0, *weights = inputs.values()
    for t, step in enumerate(cache.steps):
        dh = np.random.default_rng(t).standard_normal(h0.shape)
        _, alone = rnn.rnn_step_forward(x[:, t], hs[:, t - 1] if t else h0, *weights)
        for a, b in zip(rnn.rnn_step_backward(dh, step), rnn.rnn_step_backward(dh, alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)


# ------------------------------------------------------------------------------------------------ Jacobians

@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("N, T, H", [(2, 5, 3), (1, 1, 1), (3, 2, 1), (1, 60, 2)])
def test_the_jacobians_are_derivatives_of_the_state_by_the_state_before(nonlinearity, N, T, H):
    x, h0, W_ih, W_hh, b = inputs_of("rnn", N=N, T=T, H=H).values()
    hs, cache = rnn.rnn_forward(x, h0, W_ih, W_hh, b, nonlinearity)
    J = rnn.rnn_jacobians(cache)
    assert J.shape == (N, T, H, H)
    for t in range(T):
        before = hs[:, t - 1] if t else h0
        for j in range(H):
            moved, _ = rnn.rnn_step_forward(x[:, t], before + 1e-30j * np.eye(H)[j], W_ih, W_hh, b, nonlinearity)
            np.testing.assert_allclose(J[:, t, :, j], moved.imag / 1e-30, rtol=1e-12, atol=1e-14)


def test_the_jacobians_agree_with_finite_differences():
    x, h0, W_ih, W_hh, b = inputs_of("rnn").values()
    J = rnn.rnn_jacobians(rnn.rnn_forward(x, h0, W_ih, W_hh, b)[1])
    ahead, behind = (np.stack([rnn.rnn_forward(x, h0 + step * unit, W_ih, W_hh, b)[0] for unit in np.eye(7)], axis=-1)
                     for step in (1e-6, -1e-6))
    for t, slopes in enumerate(np.moveaxis((ahead - behind) / 2e-6, 1, 0)):
        product = J[:, 0]
        for s in range(1, t + 1):
            product = J[:, s] @ product
        np.testing.assert_allclose(product, slopes, atol=1e-8)


def test_the_sum_over_all_paths_of_jacobians_is_the_gradient_of_the_recurrent_weights():
    """dL/dW_hh = sum over k of (product of the Jacobians after k)^T dh_T times the immediate derivative at k."""
    x, h0, W_ih, W_hh, b = inputs_of("rnn").values()
    hs, cache = rnn.rnn_forward(x, h0, W_ih, W_hh, b)
    J, dhs = rnn.rnn_jacobians(cache), np.zeros(hs.shape)
    dhs[:, -1] = np.random.default_rng(3).standard_normal(hs[:, -1].shape)
    paths = np.zeros((5, 7, 7))
    for n, k in np.ndindex(2, 5):
        arriving = dhs[n, -1]
        for t in range(4, k, -1):
            arriving = arriving @ J[n, t]
        before = hs[n, k - 1] if k else h0[n]
        paths[k] += np.outer(arriving * (1 - hs[n, k]**2), before)
    dW_hh = rnn.rnn_backward(dhs, cache)[3]
    np.testing.assert_allclose(paths.sum(axis=0), dW_hh, rtol=1e-12, atol=1e-14)
    assert all(relative_error(path, dW_hh) > 0.1 for path in paths)


def test_the_jacobians_are_pure_and_keep_the_width():
    inputs = inputs_of("rnn", dtype=np.float32)
    _, cache = rnn.rnn_forward(*inputs.values())
    kept = copy.deepcopy(flattened(cache))
    J = rnn.rnn_jacobians(cache)
    assert J.dtype == np.float32 and same_bits([J], [rnn.rnn_jacobians(cache)])
    assert same_bits([a for a in kept if isinstance(a, np.ndarray)],
                     [a for a in flattened(cache) if isinstance(a, np.ndarray)])
    assert rnn.rnn_jacobians(rnn.rnn_forward(*inputs_of("rnn", N=0).values())[1]).shape == (0, 5, 7, 7)


# ------------------------------------------------------------------------------------------------ truncated in time

def chunks(T, window):
    return [slice(start, min(start + window, T)) for start in range(0, T, window)]


def split(what, inputs):
    """x, the initial states, the rest."""
    x, *rest = inputs.values()
    count = 2 if what == "lstm" else 1
    return x, rest[:count], rest[count:]


def truncated(what, inputs, cotangents, window):
    outputs, cache = run_forward(what, inputs)
    return rnn.truncated_backward(functions(what)[1], tuple(cotangents), cache, window)


def entering(what, outputs, states, chunk):
    """The states as the whole sequence has them when the chunk begins."""
    return [y[:, chunk.start - 1] for y in outputs] if chunk.start else states


def stopped_gradients(what, inputs, cotangents, window):
    """The complex step through a forward that runs chunk by chunk from states that are frozen numbers."""
    outputs, _ = run_forward(what, inputs)
    names = list(inputs)
    _, states, _ = split(what, inputs)

    def forward(*args):
        x, given, weights = split(what, dict(zip(names, args)))
        pieces = []
        for chunk in chunks(x.shape[1], window):
            start = entering(what, outputs, given, chunk)
            *ys, _ = functions(what)[0](x[:, chunk], *start, *weights, **PAIRS[what][2])
            pieces.append(ys)
        return *[np.concatenate(ys, axis=1) for ys in zip(*pieces)], None
    return [complex_step(forward, list(inputs.values()), which, cotangents) for which in range(len(inputs))]


def long_inputs(what, T=7):
    inputs = inputs_of(what, seed=6, N=2, T=T, D=2, H=3)
    return inputs, cotangents_of(run_forward(what, inputs)[0])


@every_sequence
@pytest.mark.parametrize("window", [1, 2, 3, 4, 6])
def test_truncation_stops_the_gradient_where_a_chunk_begins(what, window):
    inputs, cotangents = long_inputs(what)
    gradients = truncated(what, inputs, cotangents, window)
    for name, yours, reference in zip(inputs, gradients, stopped_gradients(what, inputs, cotangents, window),
                                      strict=True):
        assert relative_error(yours, reference) <= LIMIT, name


@every_sequence
@pytest.mark.parametrize("window", [7, np.int64(8), 1000])
def test_a_window_of_the_whole_sequence_is_the_full_gradient(what, window):
    inputs, cotangents = long_inputs(what)
    full = functions(what)[1](*cotangents, run_forward(what, inputs)[1])
    for yours, reference in zip(truncated(what, inputs, cotangents, window), full, strict=True):
        assert relative_error(yours, reference) <= 1e-15


@every_sequence
def test_a_window_of_one_is_a_sum_of_single_steps(what):
    inputs, cotangents = long_inputs(what)
    x, states, weights = split(what, inputs)
    outputs, _ = run_forward(what, inputs)
    total = [0] * len(weights)
    for t in range(x.shape[1]):
        start = entering(what, outputs, states, slice(t, t + 1))
        *_, cache = functions(what)[0](x[:, t:t + 1], *start, *weights, **PAIRS[what][2])
        gradients = functions(what)[1](*[dy[:, t:t + 1] for dy in cotangents], cache)
        total = [a + b for a, b in zip(total, gradients[-len(weights):])]
    for yours, reference in zip(truncated(what, inputs, cotangents, 1)[-len(weights):], total):
        assert relative_error(yours, reference) <= LIMIT


def sliding(what, inputs, cotangents, window):
    """Another meaning: what arrives at each step flows back through `window` steps, wherever they begin."""
    x, states, weights = split(what, inputs)
    outputs, _ = run_forward(what, inputs)
    total = [0] * len(weights)
    for t in range(x.shape[1]):
        chunk = slice(max(0, t - window + 1), t + 1)
        *ys, cache = functions(what)[0](x[:, chunk], *entering(what, outputs, states, chunk), *weights,
                                        **PAIRS[what][2])
        last = [np.where(np.arange(y.shape[1])[:, None] == y.shape[1] - 1, dy[:, chunk], 0)
                for y, dy in zip(ys, cotangents)]
        total = [a + b for a, b in zip(total, functions(what)[1](*last, cache)[-len(weights):])]
    return total


def tail(what, inputs, cotangents, window):
    """Another meaning: only the last `window` steps of the sequence count."""
    x, states, weights = split(what, inputs)
    outputs, _ = run_forward(what, inputs)
    chunk = slice(x.shape[1] - window, x.shape[1])
    *_, cache = functions(what)[0](x[:, chunk], *entering(what, outputs, states, chunk), *weights, **PAIRS[what][2])
    return functions(what)[1](*[dy[:, chunk] for dy in cotangents], cache)[-len(weights):]


def from_the_end(what, inputs, cotangents, window):
    """Another meaning: chunks are counted from the last step, the first may be short."""
    x, states, weights = split(what, inputs)
    outputs, _ = run_forward(what, inputs)
    total, stop = [0] * len(weights), x.shape[1]
    while stop > 0:
        chunk = slice(max(0, stop - window), stop)
        *_, cache = functions(what)[0](x[:, chunk], *entering(what, outputs, states, chunk), *weights,
                                       **PAIRS[what][2])
        gradients = functions(what)[1](*[dy[:, chunk] for dy in cotangents], cache)
        total, stop = [a + b for a, b in zip(total, gradients[-len(weights):])], chunk.start
    return total


@every_sequence
@pytest.mark.parametrize("meaning", [sliding, tail, from_the_end])
def test_a_window_has_none_of_its_other_meanings(what, meaning):
    inputs, cotangents = long_inputs(what)
    others = meaning(what, inputs, cotangents, 3)
    for yours, other in zip(truncated(what, inputs, cotangents, 3)[-len(others):], others):
        assert relative_error(yours, other) > 1e-2
    full = functions(what)[1](*cotangents, run_forward(what, inputs)[1])
    for reference, other in zip(full[-len(others):], meaning(what, inputs, cotangents, 7)):
        assert relative_error(reference, other) <= LIMIT      # and all of them agree when nothing is cut


@every_sequence
def test_truncation_is_pure_and_returns_what_backward_returns(what):
    inputs, cotangents = long_inputs(what)
    outputs, cache = run_forward(what, inputs)
    kept = copy.deepcopy(flattened([cache, cotangents]))
    cotangents = [frozen(dy) for dy in cotangents]
    first = rnn.truncated_backward(functions(what)[1], tuple(cotangents), cache, 2)
    assert type(first) is tuple
    assert [g.shape for g in first] == [a.shape for a in inputs.values()]
    assert same_bits(first, rnn.truncated_backward(functions(what)[1], tuple(cotangents), cache, 2))
    arrays = [a for a in kept if isinstance(a, np.ndarray)]
    assert same_bits(arrays, [a for a in flattened([cache, cotangents]) if isinstance(a, np.ndarray)])


@every_sequence
def test_truncation_keeps_float32_and_no_examples(what):
    inputs = inputs_of(what, dtype=np.float32)
    assert {g.dtype for g in truncated(what, inputs, cotangents_of(run_forward(what, inputs)[0]), 2)} == {
        np.dtype(np.float32)}
    inputs = inputs_of(what, N=0)
    gradients = truncated(what, inputs, run_forward(what, inputs)[0], 2)
    assert [g.shape for g in gradients] == [a.shape for a in inputs.values()]
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("window", [0, -1, 1.5, 2.0, True, "2", None, np.nan])
def test_a_window_that_is_no_whole_number_of_at_least_one_is_refused(window):
    inputs, cotangents = long_inputs("rnn")
    with pytest.raises(ValueError, match="^truncated_backward: window must .*at least 1.*got"):
        truncated("rnn", inputs, cotangents, window)


@every_sequence
def test_cotangents_that_do_not_fit_are_refused_by_truncation_too(what):
    inputs, cotangents = long_inputs(what)
    for wrong in [cotangents[0][:, :-1], cotangents[0][..., :-1], cotangents[0][:, [0, *range(7)]]]:
        for window in (2, 7, 9):
            with pytest.raises(ValueError, match=r"\bdhs\b must"):
                truncated(what, inputs, [wrong, *cotangents[1:]], window)


# ------------------------------------------------------------------------------------------------ the last step

def test_the_last_step_is_the_one_that_the_length_names():
    hs = np.arange(24.0).reshape(2, 4, 3)
    h, cache = rnn.last_step_forward(hs, np.array([4, 2]))
    np.testing.assert_array_equal(h, [hs[0, 3], hs[1, 1]])
    dhs = rnn.last_step_backward(np.array([[1.0, 2, 3], [4, 5, 6]]), cache)
    expected = np.zeros((2, 4, 3))
    expected[0, 3], expected[1, 1] = [1, 2, 3], [4, 5, 6]
    np.testing.assert_array_equal(dhs, expected)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_the_last_step_is_the_exact_adjoint(kind):
    rng = np.random.default_rng(1)
    hs, lengths = on_grid(rng, (3, 5, 2)), np.array([5, 1, 3], kind)
    assert check_adjoint(rnn.last_step_forward, rnn.last_step_backward, hs, lengths, wrt="hs", rng=rng) != 0
    report = check_gradients(rnn.last_step_forward, rnn.last_step_backward, hs, lengths, wrt=["hs"])
    assert report.errors["dhs"] <= LIMIT


def test_the_last_step_is_a_copy_and_pure():
    hs, lengths = frozen(np.arange(12.0).reshape(2, 2, 3)), frozen([2, 1])
    h, cache = rnn.last_step_forward(hs, lengths)
    assert not np.shares_memory(h, hs)
    dh = frozen(np.ones((2, 3)))
    first = rnn.last_step_backward(dh, cache)
    assert not np.shares_memory(first, dh)
    assert same_bits([first], [rnn.last_step_backward(dh, cache)])
    assert rnn.last_step_backward(dh.astype(np.float32), rnn.last_step_forward(
        hs.astype(np.float32), lengths)[1]).dtype == np.float32
    assert rnn.last_step_forward(spread(hs), spread(lengths))[0].tolist() == h.tolist()


def test_the_last_step_of_no_examples_is_empty():
    h, cache = rnn.last_step_forward(np.zeros((0, 4, 3)), np.zeros(0, int))
    assert h.shape == (0, 3)
    assert rnn.last_step_backward(h, cache).shape == (0, 4, 3)


@pytest.mark.parametrize("lengths, kind", [
    ([1.0, 2.0], TypeError), (np.array([1.0, 2.0]), TypeError), (np.array([0, 2]), (ValueError, IndexError)),
    (np.array([1, 5]), (ValueError, IndexError)), (np.array([-1, 2]), (ValueError, IndexError)),
    (np.array([1, 2, 3]), ValueError), (np.array([1]), ValueError), (np.array([[1, 2]]), ValueError),
    (np.array([[1], [2]]), ValueError)])
def test_bad_lengths_are_refused(lengths, kind):
    with pytest.raises(kind, match=r"^last_step_forward: lengths must"):
        rnn.last_step_forward(np.zeros((2, 4, 3)), lengths)


def test_other_bad_input_of_the_last_step_is_refused():
    with pytest.raises(ValueError, match=r"^last_step_forward: hs must .*\(4, 3\)"):
        rnn.last_step_forward(np.zeros((4, 3)), np.array([1, 2, 3, 4]))
    with pytest.raises(TypeError, match="^last_step_forward: hs must be an array of floats"):
        rnn.last_step_forward(np.zeros((2, 4, 3), int), np.array([1, 2]))
    _, cache = rnn.last_step_forward(np.zeros((2, 4, 3)), np.array([1, 2]))
    for wrong in [(2, 1), (1, 3), (3,), (2, 4, 3)]:
        with pytest.raises(ValueError, match=r"^last_step_backward: dh must .*\(2, 3\)") as error:
            rnn.last_step_backward(np.zeros(wrong), cache)
        assert str(wrong) in str(error.value)


# ------------------------------------------------------------------------------------------------ the loss

def scores(seed=1, N=3, T=5, K=4):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (N, T))
    mask.flat[-1] = 1
    return rng.standard_normal((N, T, K)), rng.integers(0, K, (N, T)), mask


def test_the_loss_is_the_mean_over_the_kept_steps_of_minus_log_softmax():
    z, targets, mask = scores()
    kept = [-np.log(np.exp(z[n, t, targets[n, t]]) / np.exp(z[n, t]).sum())
            for n, t in np.ndindex(mask.shape) if mask[n, t]]
    loss, cache = rnn.sequence_cross_entropy_forward(z, targets, mask)
    assert np.ndim(loss) == 0
    np.testing.assert_allclose(loss, sum(kept) / len(kept), rtol=1e-14)
    dz = rnn.sequence_cross_entropy_backward(0.7, cache)
    assert not dz[mask == 0].any() and dz[mask == 1].all()
    np.testing.assert_allclose(dz.sum(axis=2), 0, atol=1e-16)


@pytest.mark.parametrize("N, T, K", [(3, 5, 4), (1, 1, 2), (1, 60, 3), (5, 2, 1)])
def test_the_gradient_of_the_loss_agrees_with_the_complex_step(N, T, K):
    report = check_gradients(rnn.sequence_cross_entropy_forward, rnn.sequence_cross_entropy_backward,
                             *scores(2, N, T, K), wrt=["z"])
    assert report.errors["dz"] <= LIMIT


@pytest.mark.parametrize("kind", [bool, np.int8, np.int64, np.float32, np.float64])
def test_a_mask_may_hold_zeros_and_ones_of_any_kind(kind):
    z, targets, mask = scores()
    for width in (np.float32, np.float64):
        reference, cache = rnn.sequence_cross_entropy_forward(z.astype(width), targets, mask)
        loss, other = rnn.sequence_cross_entropy_forward(z.astype(width), targets, mask.astype(kind))
        assert loss == reference and loss.dtype == width
        dz = rnn.sequence_cross_entropy_backward(width(2), other)
        assert dz.dtype == width and rnn.sequence_cross_entropy_backward(2.0, other).dtype == width
        assert same_bits([dz], [rnn.sequence_cross_entropy_backward(width(2), cache)])


def test_a_mask_of_half_floats_is_counted_without_rounding():
    z, targets, mask = scores(N=3, T=683)
    ones = np.ones(mask.shape, np.float16)                      # 2049 of them, which float16 cannot hold
    assert rnn.sequence_cross_entropy_forward(z, targets, ones)[0] == rnn.sequence_cross_entropy_forward(
        z, targets, ones > 0)[0]


def test_masked_steps_do_not_matter():
    z, targets, mask = scores()
    loss, cache = rnn.sequence_cross_entropy_forward(z, targets, mask)
    other, other_cache = rnn.sequence_cross_entropy_forward(
        np.where(mask[..., None] == 1, z, 1e4), np.where(mask == 1, targets, 3 - targets), mask)
    assert loss == other
    assert same_bits([rnn.sequence_cross_entropy_backward(1.0, cache)],
                     [rnn.sequence_cross_entropy_backward(1.0, other_cache)])


def test_the_loss_is_pure_and_scales():
    z, targets, mask = map(frozen, scores())
    loss, cache = rnn.sequence_cross_entropy_forward(z, targets, mask)
    rnn.sequence_cross_entropy_forward(*scores(9))
    first = rnn.sequence_cross_entropy_backward(1.0, cache)
    assert same_bits([first], [rnn.sequence_cross_entropy_backward(1.0, cache)])
    assert same_bits([2 * first], [rnn.sequence_cross_entropy_backward(2.0, cache)])
    assert not rnn.sequence_cross_entropy_backward(0.0, cache).any()
    other, cache = rnn.sequence_cross_entropy_forward(spread(z), spread(targets), spread(mask))
    np.testing.assert_allclose(other, loss, rtol=1e-15)
    np.testing.assert_allclose(rnn.sequence_cross_entropy_backward(1.0, cache), first, rtol=1e-14, atol=1e-17)


def test_scores_of_ten_thousand_overflow_nowhere():
    z, targets, mask = scores()
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        loss, cache = rnn.sequence_cross_entropy_forward(1e4 * np.sign(z), targets, mask)
        assert np.isfinite(loss) and np.isfinite(rnn.sequence_cross_entropy_backward(1.0, cache)).all()


def test_a_nan_score_at_a_kept_step_makes_the_loss_nan():
    z, targets, mask = scores()
    z[-1, -1, 0] = np.nan
    loss, cache = rnn.sequence_cross_entropy_forward(z, targets, mask)
    assert np.isnan(loss)
    assert np.isnan(rnn.sequence_cross_entropy_backward(1.0, cache)[-1, -1]).all()


def bad_steps():
    z, targets, mask = scores()
    below, above, masked = targets.copy(), targets.copy(), targets.copy()
    below[2, 4], above[2, 4] = -1, 4
    masked[tuple(np.argwhere(mask == 0)[0])] = -1
    two, half, nan = mask * 2, mask * 0.5, np.where(mask == 1, np.nan, 0)
    yield from [("targets", TypeError, (z, targets.astype(float), mask)), ("targets", TypeError, (z, mask > 0, mask)),
                ("targets", IndexError, (z, below, mask)), ("targets", IndexError, (z, above, mask)),
                ("targets", IndexError, (z, masked, mask)), ("targets", ValueError, (z, targets[:, :-1], mask)),
                ("targets", ValueError, (z, targets[:, :1], mask)), ("targets", ValueError, (z, targets.T, mask)),
                ("targets", ValueError, (z, targets[..., None], mask)), ("mask", ValueError, (z, targets, mask[:, :1])),
                ("mask", ValueError, (z, targets, mask[0])), ("mask", ValueError, (z, targets, mask.T)),
                ("mask", ValueError, (z, targets, mask[..., None])), ("mask", ValueError, (z, targets, two)),
                ("mask", ValueError, (z, targets, half)), ("mask", ValueError, (z, targets, nan)),
                ("mask", ValueError, (z, targets, -mask)), ("z", ValueError, (z[0], targets, mask)),
                ("z", TypeError, (z.astype(int), targets, mask)), ("z", TypeError, (z.tolist(), targets, mask))]


@pytest.mark.parametrize("name, kind, args", list(bad_steps()))
def test_bad_input_of_the_loss_is_refused_by_name(name, kind, args):
    with pytest.raises(kind) as error:
        rnn.sequence_cross_entropy_forward(*args)
    assert_names(error, "sequence_cross_entropy_forward", [name])


def test_a_mean_over_nothing_is_refused():
    z, targets, mask = scores()
    for args in [(z, targets, 0 * mask), (z[:0], targets[:0], mask[:0]), (z[:, :0], targets[:, :0], mask[:, :0])]:
        with pytest.raises(ValueError, match="^sequence_cross_entropy_forward: "):
            rnn.sequence_cross_entropy_forward(*args)
