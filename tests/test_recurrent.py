"""backprop_lib.nn: RNN, LSTM and GRU, their lengths and states, and what goes with them for sequences.

The reference is `by_hand`: one example, one cell and one direction at a time, from the pure functions.
"""

# Every lambda below is called before its loop goes on.
# ruff: noqa: B023

import inspect
import math
import pickle
from functools import partial

import numpy as np
import pytest
from test_nn import array_bits, bits, both_widths, central, draw, generator, refuses

from backprop_lib import gru, lstm, mlp, nn, optim, rnn, train
from backprop_lib.gradcheck import relative_error


LIMIT = 1e-12
N, T, D, H, K = 5, 7, 2, 3, 4
LENGTHS = np.array([4, 7, 2, 4, 1])                             # a tie, all, one, and in no order

# kind: class, options, pair, gates, initial states
KINDS = {
    "RNN, tanh": (nn.RNN, {}, rnn.rnn_forward, rnn.rnn_backward, 1, ["h0"]),
    "RNN, relu": (nn.RNN, {"nonlinearity": "relu"}, partial(rnn.rnn_forward, nonlinearity="relu"), rnn.rnn_backward, 1,
                  ["h0"]),
    "LSTM": (nn.LSTM, {}, lstm.lstm_forward, lstm.lstm_backward, 4, ["h0", "c0"]),
    "GRU, reset after": (nn.GRU, {}, gru.gru_forward, gru.gru_backward, 3, ["h0"]),
    "GRU, reset before": (nn.GRU, {"reset_after": False}, partial(gru.gru_forward, reset_after=False), gru.gru_backward,
                          3, ["h0"]),
}
CLASSES = {"RNN": "RNN, tanh", "LSTM": "LSTM", "GRU": "GRU, reset after"}
STACKS = {
    "one cell": {},
    "both ways": {"bidirectional": True},
    "two layers": {"num_layers": 2},
    "three layers both ways": {"num_layers": 3, "bidirectional": True},
    "two layers both ways without bias": {"num_layers": 2, "bidirectional": True, "bias": False},
}
DEEP = {"num_layers": 2, "bidirectional": True}

every_kind = pytest.mark.parametrize("kind", KINDS)
every_class = pytest.mark.parametrize("kind", CLASSES.values(), ids=list(CLASSES))
every_stack = pytest.mark.parametrize("stack", STACKS)
with_and_without_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])


# ------------------------------------------------------------------------------------------------ helpers

def build(kind, *, inputs=D, hidden=H, seed=0, dtype=np.float64, **options):
    layer, own, *_ = KINDS[kind]
    return layer(inputs, hidden, **own, **options, rng=generator(seed), dtype=dtype)


def name_of(kind):
    return KINDS[kind][0].__name__


def cells(layer):
    return layer.num_layers * (2 if layer.bidirectional else 1)


def draw_states(kind, layer, n=N, dtype=np.float64, seed=10):
    """As many arrays as this kind has states."""
    names = KINDS[kind][-1]
    return tuple(draw((cells(layer), n, layer.hidden_size), dtype, seed + i) for i, _ in enumerate(names))


def forward(layer, x, states=None, lengths=None):
    """(y, a tuple of final states), whatever the class."""
    if isinstance(layer, nn.LSTM):
        return layer.forward(x, states, lengths)
    y, hn = layer.forward(x, None if states is None else states[0], lengths)
    return y, (hn,)


def backward(layer, dy, dfinals=None):
    """(dx, a tuple of gradients of the initial states), whatever the class."""
    if isinstance(layer, nn.LSTM):
        return layer.backward(dy, dfinals)
    dx, dh0 = layer.backward(dy, None if dfinals is None else dfinals[0])
    return dx, (dh0,)


def used(kind, dtype=np.float64, **options):
    """A layer after forward and backward, with its input, output and the cotangent."""
    layer = build(kind, dtype=dtype, **options)
    x = draw((N, T, D), dtype)
    y, _ = forward(layer, x)
    dy = draw(y.shape, dtype, seed=3)
    backward(layer, dy)
    return layer, x, y, dy


def weights_of(kind, params, suffix):
    """The parameters of one cell as the pure function takes them."""
    W_ih, W_hh = params[f"weight_ih{suffix}"], params[f"weight_hh{suffix}"]
    b_ih, b_hh = (params.get(f"bias_{name}{suffix}", np.zeros(len(W_ih))) for name in ("ih", "hh"))
    return (W_ih, W_hh, b_ih, b_hh) if kind.startswith("GRU") else (W_ih, W_hh, b_ih + b_hh)


def forward_by_hand(kind, params, x, states, num_layers, ways):
    """One example x (1, L, D): output, final states (cells, H), and what backward needs."""
    tape, finals = [], [[] for _ in states]
    for layer in range(num_layers):
        outputs = []
        for way in ways:
            suffix, turn = f"_l{layer}{way}", slice(None, None, -1 if way else 1)
            start = [state[len(tape)][None] for state in states]
            *several, cache = KINDS[kind][2](x[:, turn], *start, *weights_of(kind, params, suffix))
            for final, values in zip(finals, several):
                final.append(values[0, -1])
            outputs.append(several[0][:, turn])
            tape.append((suffix, turn, cache))
        x = np.concatenate(outputs, axis=2)
    return x, finals, tape


def backward_by_hand(kind, params, dy, dfinals, tape, ways):
    """The way back of one example: dx, gradients of the initial states (cells, H) and of the parameters."""
    grads, dinitials = {}, [[None] * len(tape) for _ in dfinals]
    for top in range(len(tape), 0, -len(ways)):
        dx = 0
        for k in range(top - len(ways), top):
            suffix, turn, cache = tape[k]
            hidden = dfinals[0].shape[1]
            column = (k % len(ways)) * hidden
            cotangents = [dy[:, turn, column:column + hidden].copy()] + [np.zeros((*dy.shape[:2], hidden))
                                                                        for _ in dfinals[1:]]
            for cotangent, dfinal in zip(cotangents, dfinals):
                cotangent[:, -1] += dfinal[k]
            of_x, *rest = KINDS[kind][3](*cotangents, cache)
            dx = dx + of_x[:, turn]
            for dinitial in dinitials:
                dinitial[k] = rest.pop(0)[0]
            names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
            grads.update({f"{name}{suffix}": g for name, g in zip(names, rest if len(rest) == 4 else [*rest, rest[2]])})
        dy = dx
    return dy, dinitials, {name: grads[name] for name in params}


def by_hand(kind, params, x, states, lengths, dy, dfinals, num_layers=1, bidirectional=False):
    """y, final states, dx, gradients of the initial states, gradients of the parameters; time is axis 1."""
    ways = ["", "_reverse"] if bidirectional else [""]
    y, finals = np.zeros(dy.shape), [np.zeros(state.shape) for state in states]
    dx, dinitials = np.zeros(x.shape), [np.zeros(state.shape) for state in states]
    grads = {name: np.zeros(p.shape) for name, p in params.items()}
    for n, length in enumerate([x.shape[1]] * len(x) if lengths is None else lengths):
        one = slice(n, n + 1), slice(0, length)
        y[one], ends, tape = forward_by_hand(kind, params, x[one], [s[:, n] for s in states], num_layers, ways)
        dx[one], starts, of_one = backward_by_hand(kind, params, dy[one], [d[:, n] for d in dfinals], tape, ways)
        for arrays, values in ((finals, ends), (dinitials, starts)):
            for array, value in zip(arrays, values):
                array[:, n] = value
        for name, gradient in of_one.items():
            grads[name] += gradient
    return y, finals, dx, dinitials, grads


def assert_all_close(ours, reference, limit=LIMIT):
    """Two dicts of arrays, each array apart."""
    assert list(ours) == list(reference)
    for name, value in reference.items():
        assert ours[name].shape == value.shape and relative_error(ours[name], value) <= limit, name


def outcome(y, finals, dx, dinitials, grads):
    """All arrays of a forward and its backward, by name."""
    return {"y": y, **{f"final {i}": a for i, a in enumerate(finals)}, "dx": dx,
            **{f"dinitial {i}": a for i, a in enumerate(dinitials)}, **grads}


# ------------------------------------------------------------------------------------------------ the reference

@every_kind
@every_stack
@with_and_without_lengths
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "time first"])
def test_a_layer_equals_its_cells_run_by_hand(kind, stack, lengths, batch_first):
    options = STACKS[stack]
    layer = build(kind, batch_first=batch_first, **options)
    several = {key: value for key, value in options.items() if key != "bias"}
    x, states, dfinals = draw((N, T, D)), draw_states(kind, layer), draw_states(kind, layer, seed=20)
    dy = draw((N, T, H * (2 if layer.bidirectional else 1)), seed=3)
    zeros = tuple(np.zeros_like(s) for s in states)

    def turned(a):
        return a if batch_first else a.swapaxes(0, 1)

    for given, arriving in [(states, dfinals), (None, dfinals), (states, None), (None, None)]:
        y, finals = forward(layer, turned(x), given, lengths)
        dx, dinitials = backward(layer, turned(dy), arriving)
        assert len(finals) == len(dinitials) == len(states)
        assert list(layer.grads) == list(layer.params)
        expected = by_hand(kind, layer.params, x, given or zeros, lengths, dy, arriving or zeros, **several)
        assert_all_close(outcome(turned(y), finals, turned(dx), dinitials, layer.grads), outcome(*expected))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "RNN, relu"])
@with_and_without_lengths
def test_every_gradient_agrees_with_central_differences(kind, lengths):
    """The objects alone, every array nudged in place along two random directions."""
    layer = build(kind, **DEEP)
    x, states, dfinals = draw((N, T, D)), draw_states(kind, layer), draw_states(kind, layer, seed=20)
    dy = draw((N, T, 2 * H), seed=3)

    def f():
        y, finals = forward(layer, x, states, lengths)
        return float((y * dy).sum() + sum((a * b).sum() for a, b in zip(finals, dfinals)))

    f()
    dx, dinitials = backward(layer, dy, dfinals)
    pairs = [(x, dx), *zip(states, dinitials), *[(layer.params[name], g) for name, g in layer.grads.items()]]
    assert len(pairs) == 1 + len(states) + 16
    for i, (array, gradient) in enumerate(pairs):
        for seed in (100 + i, 200 + i):
            assert_slope(f, array, gradient, draw(array.shape, seed=seed))


def assert_slope(f, array, gradient, direction, step=1e-5):
    """The slope of f when this very array moves along the direction."""
    middle, values = array.copy(), []
    for sign in (1, -1):
        array[...] = middle + sign * step * direction
        values.append(f())
    array[...] = middle
    slope = (values[0] - values[1]) / (2 * step)
    scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
    assert abs(slope - (gradient * direction).sum()) <= 1e-7 * scale


def test_a_network_worked_out_by_hand():
    """h_t = relu(2 x_t + 3 h_(t-1) + 1) forwards, relu(x_t + 10 h_(t+1)) backwards; the second example ends early."""
    layer = nn.RNN(1, 1, nonlinearity="relu", bidirectional=True, rng=generator())
    layer.load_state_dict({key: np.array(value, dtype=float) for key, value in {
        "weight_ih_l0": [[2]], "weight_hh_l0": [[3]], "bias_ih_l0": [4], "bias_hh_l0": [-3],
        "weight_ih_l0_reverse": [[1]], "weight_hh_l0_reverse": [[10]], "bias_ih_l0_reverse": [0],
        "bias_hh_l0_reverse": [0]}.items()})
    x = np.array([[[1.0], [2.0], [-20.0]], [[5.0], [1.0], [99.0]]])
    h0 = np.array([[[1.0], [0.0]], [[2.0], [3.0]]])
    y, hn = layer.forward(x, h0, lengths=np.array([3, 2]))
    assert y.tolist() == [[[6, 21], [23, 2], [30, 0]], [[11, 315], [36, 31], [0, 0]]]
    assert hn.tolist() == [[[30], [36]], [[21], [315]]]
    dy = np.zeros((2, 3, 2))
    dy[0, 1, 0], dy[1, 0, 1], dy[1, 2] = 1, 1, 7                # the last is behind the end
    dx, dh0 = layer.backward(dy, np.array([[[1.0], [0.0]], [[0.0], [2.0]]]))
    assert dx.tolist() == [[[24], [8], [2]], [[3], [30], [0]]]
    assert dh0.tolist() == [[[36], [0]], [[0], [300]]]
    assert {name: g.tolist() for name, g in layer.grads.items()} == {
        "weight_ih_l0": [[1*12 + 2*4 - 20]], "weight_hh_l0": [[1*12 + 6*4 + 23]], "bias_ih_l0": [17],
        "bias_hh_l0": [17], "weight_ih_l0_reverse": [[5*3 + 1*30]], "weight_hh_l0_reverse": [[31*3 + 3*30]],
        "bias_ih_l0_reverse": [33], "bias_hh_l0_reverse": [33]}


@every_kind
def test_a_run_can_be_continued_from_its_final_states(kind):
    """Two halves that hand on state and cotangent are the whole."""
    whole, first, second = (build(kind, num_layers=2) for _ in range(3))
    x, dy, states = draw((N, T, D)), draw((N, T, H), seed=3), draw_states(kind, whole)
    dfinals = draw_states(kind, whole, seed=20)
    y, finals = forward(whole, x, states)
    dx, dinitials = backward(whole, dy, dfinals)
    y_1, middle = forward(first, x[:, :3], states)
    y_2, ends = forward(second, x[:, 3:], middle)
    dx_2, dmiddle = backward(second, dy[:, 3:], dfinals)
    dx_1, starts = backward(first, dy[:, :3], dmiddle)
    ours = outcome(np.concatenate([y_1, y_2], axis=1), ends, np.concatenate([dx_1, dx_2], axis=1), starts,
                   {name: g + second.grads[name] for name, g in first.grads.items()})
    assert_all_close(ours, outcome(y, finals, dx, dinitials, whole.grads))


# ------------------------------------------------------------------------------------------------ lengths

@every_kind
def test_lengths_that_are_all_t_are_no_lengths(kind):
    layer, x = build(kind, **DEEP), draw((N, T, D))
    dy = draw((N, T, 2 * H), seed=3)
    results = []
    for lengths in (None, np.full(N, T), np.full(N, T, np.uint8), np.full(N, T, np.int32)):
        y, finals = forward(layer, x, None, lengths)
        dx, dinitials = backward(layer, dy)
        results.append(array_bits(outcome(y, finals, dx, dinitials, layer.grads)))
    assert all(result == results[0] for result in results)


@every_kind
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_lengths_of_every_integer_type_mean_the_same(kind, dtype):
    layer, twin = build(kind, **DEEP), build(kind, **DEEP)
    x, dy = draw((N, T, D)), draw((N, T, 2 * H), seed=3)
    lengths = np.repeat(LENGTHS.astype(dtype), 2)[::2]
    lengths.flags.writeable = False
    y, finals = forward(layer, x, None, lengths)
    expected, others = forward(twin, x, None, LENGTHS)
    assert bits([y, *finals]) == bits([expected, *others]) and lengths.tolist() == LENGTHS.tolist()
    assert bits(backward(layer, dy)) == bits(backward(twin, dy)) and bits(layer.grads) == bits(twin.grads)


@every_kind
@pytest.mark.parametrize("lengths", [LENGTHS, np.full(N, 1), np.full(N, 5), np.array([1, 7, 7, 7, 1])], ids=str)
@both_widths
def test_padding_holds_anything_and_is_zero_outside(kind, lengths, dtype):
    """NaN and inf in the padding of x and dy change no bit; y and dx are exactly 0 there."""
    layer = build(kind, dtype=dtype, **DEEP)
    x, dy = draw((N, T, D), dtype), draw((N, T, 2 * H), dtype, seed=3)
    states, dfinals = draw_states(kind, layer, dtype=dtype), draw_states(kind, layer, dtype=dtype, seed=20)
    padding = np.arange(T) >= lengths[:, None]
    results = []
    for value in (0, np.nan, np.inf, -3):
        x[padding], dy[padding] = value, value
        y, finals = forward(layer, x, states, lengths)
        dx, dinitials = backward(layer, dy, dfinals)
        results.append(array_bits(outcome(y, finals, dx, dinitials, layer.grads)))
        assert not y[padding].any() and not dx[padding].any()
        assert y[~padding].all() or kind == "RNN, relu"
        assert np.isnan(x[padding]).all() == (np.isnan(value) or not padding.any())
    assert all(result == results[0] for result in results)


@every_kind
def test_an_example_does_not_see_the_others(kind):
    """Alone, cut to its length, it has the same numbers; and the order of the examples does not matter."""
    layer, x = build(kind, **DEEP), draw((N, T, D))
    states, dfinals = draw_states(kind, layer), draw_states(kind, layer, seed=20)
    dy = draw((N, T, 2 * H), seed=3)
    y, finals = forward(layer, x, states, LENGTHS)
    dx, dinitials = backward(layer, dy, dfinals)
    for n, length in enumerate(LENGTHS):
        one = slice(n, n + 1), slice(0, length)
        y_1, finals_1 = forward(layer, x[one], tuple(s[:, one[0]] for s in states))
        dx_1, dinitials_1 = backward(layer, dy[one], tuple(d[:, one[0]] for d in dfinals))
        assert_all_close(outcome(y_1, finals_1, dx_1, dinitials_1, {}), outcome(
            y[one], [f[:, one[0]] for f in finals], dx[one], [d[:, one[0]] for d in dinitials], {}))
    order = np.array([3, 0, 4, 1, 2])
    y_2, finals_2 = forward(layer, x[order], tuple(s[:, order] for s in states), LENGTHS[order])
    dx_2, dinitials_2 = backward(layer, dy[order], tuple(d[:, order] for d in dfinals))
    assert_all_close(outcome(y_2, finals_2, dx_2, dinitials_2, {}), outcome(
        y[order], [f[:, order] for f in finals], dx[order], [d[:, order] for d in dinitials], {}))


@every_kind
@with_and_without_lengths
def test_the_final_states_are_outputs_of_the_last_layer(kind, lengths):
    """Forwards at the last step that counts, backwards at the first step."""
    layer = build(kind, **DEEP)
    y, (hn, *_) = forward(layer, draw((N, T, D)), draw_states(kind, layer), lengths)
    last = np.full(N, T - 1) if lengths is None else lengths - 1
    assert (hn[2] == y[np.arange(N), last, :H]).all() and (hn[3] == y[:, 0, H:]).all()


@every_class
@pytest.mark.parametrize("lengths, error, came", [
    ([4, 7, 2, 4, 1], TypeError, "lengths must be an array of integers, got list"),
    (7, TypeError, "lengths must be an array of integers, got int"),
    (LENGTHS.astype(float), TypeError, "lengths must be an array of integers, got float64"),
    (LENGTHS > 1, TypeError, "lengths must be an array of integers, got bool"),
    (LENGTHS[:, None], ValueError, "lengths must have shape (5,), got (5, 1)"),
    (LENGTHS[:4], ValueError, "lengths must have shape (5,), got (4,)"),
    (np.array(7), ValueError, "lengths must have shape (5,), got ()"),
    (np.array([4, 7, 0, 4, 1]), ValueError, "lengths must lie in 1..7, the number of time steps, got 0 at index 2"),
    (np.array([4, 8, 2, 4, 1]), ValueError, "lengths must lie in 1..7, the number of time steps, got 8 at index 1"),
    (np.array([4, 7, 2, 4, -1]), ValueError, "lengths must lie in 1..7, the number of time steps, got -1 at index 4"),
], ids=str)
def test_bad_lengths_are_refused(kind, lengths, error, came):
    layer, x, *_ = used(kind)
    refuses(error, f"{name_of(kind)}: {came}", lambda: forward(layer, x, None, lengths), layer)
    time_first, x, *_ = used(kind, batch_first=False)
    if error is TypeError:
        refuses(error, f"{name_of(kind)}: {came}", lambda: forward(time_first, x, None, lengths), time_first)


@every_class
def test_lengths_count_examples_and_steps_whichever_axis_is_first(kind):
    layer = build(kind, batch_first=False)
    forward(layer, draw((T, N, D)), None, LENGTHS)
    refuses(ValueError, f"{name_of(kind)}: lengths must have shape (7,), got (5,)",
            lambda: forward(layer, draw((N, T, D)), None, LENGTHS), layer)
    refuses(ValueError, f"{name_of(kind)}: lengths must lie in 1..5, the number of time steps, got 6 at index 0",
            lambda: forward(layer, draw((N, T, D)), None, np.full(T, 6)), layer)


# ------------------------------------------------------------------------------------------------ memory

@every_kind
def test_backward_belongs_to_the_last_forward_and_repeats(kind):
    layer, twin = build(kind, **DEEP), build(kind, **DEEP)
    dy, states = draw((N, T, 2 * H), seed=3), draw_states(kind, layer)
    forward(layer, draw((2, 3, D), seed=8))
    backward(layer, draw((2, 3, 2 * H), seed=9))
    forward(layer, draw((N, T, D), seed=7))
    forward(layer, draw((N, T, D)), states, LENGTHS)
    layer.run(draw((N, T, D), seed=6))                          # stores nothing
    forward(twin, draw((N, T, D)), states, LENGTHS)
    expected = bits(backward(twin, dy))
    for _ in range(2):
        assert bits(backward(layer, dy)) == expected and bits(layer.grads) == bits(twin.grads)


@every_kind
def test_gradients_are_replaced_not_added_and_scale_with_the_cotangents(kind):
    layer = build(kind, **DEEP)
    dfinals = draw_states(kind, layer, seed=20)
    y, _ = forward(layer, draw((N, T, D)), draw_states(kind, layer), LENGTHS)
    dy = draw(y.shape, seed=3)
    dx, dinitials = backward(layer, dy, dfinals)
    grads = layer.grads
    before = array_bits(grads)
    dx_2, dinitials_2 = backward(layer, 2 * dy, tuple(2 * d for d in dfinals))
    assert layer.grads is not grads and array_bits(grads) == before
    assert all((2 * a == b).all() for a, b in zip([dx, *dinitials, *grads.values()],
                                                  [dx_2, *dinitials_2, *layer.grads.values()]))
    dx_0, dinitials_0 = backward(layer, 0 * dy, tuple(0 * d for d in dfinals))
    assert not any(a.any() for a in [dx_0, *dinitials_0, *layer.grads.values()])


@every_kind
@pytest.mark.parametrize("options", [{}, DEEP], ids=["one cell", "deep"])
def test_nothing_shares_memory_and_everything_can_be_written_to(kind, options):
    """The two biases that are added have equal gradients in separate arrays: clipping one leaves the other."""
    layer, twin = build(kind, **options), build(kind, **options)
    x, states = draw((N, T, D)), draw_states(kind, layer)
    y, finals = forward(layer, x, states)
    forward(twin, x, states)
    dy, dfinals = draw(y.shape, seed=3), draw_states(kind, layer, seed=20)
    expected = bits(backward(twin, dy, dfinals))
    for array in (y, *finals):
        array[...] = 7                                          # the caller's to change: backward does not read them
    dx, dinitials = backward(layer, dy, dfinals)
    assert bits((dx, dinitials)) == expected and bits(layer.grads) == bits(twin.grads)
    arrays = [x, *states, y, *finals, dy, *dfinals, dx, *dinitials, *layer.params.values(), *layer.grads.values()]
    assert all(a.flags.writeable for a in arrays)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    same = [(layer.grads[f"bias_ih{s}"] == layer.grads[f"bias_hh{s}"]).all() for s in ("_l0", "_l0_reverse")
            if f"bias_ih{s}" in layer.grads]
    assert set(same) == {kind != "GRU, reset after"}


@every_kind
@both_widths
@with_and_without_lengths
def test_width_is_kept_and_arguments_are_not_touched(kind, dtype, lengths):
    """Read-only and strided arrays, time first or not, give the bits of plain ones."""
    for batch_first in (True, False):
        plain, layer = (build(kind, dtype=dtype, batch_first=batch_first, **DEEP) for _ in range(2))
        shape = (N, T) if batch_first else (T, N)
        given = [draw((*shape, D), dtype), draw_states(kind, layer, dtype=dtype),
                 draw((*shape, 2 * H), dtype, seed=3), draw_states(kind, layer, dtype=dtype, seed=20)]
        x, states, dy, dfinals = [tuple(map(awkward, a)) if isinstance(a, tuple) else awkward(a) for a in given]
        before = bits([x, states, dy, dfinals, lengths])
        y, finals = forward(layer, x, states, lengths)
        dx, dinitials = backward(layer, dy, dfinals)
        assert bits([x, states, dy, dfinals, lengths]) == before
        y_plain, finals_plain = forward(plain, *given[:2], lengths)
        dx_plain, dinitials_plain = backward(plain, *given[2:])
        ours = outcome(y, finals, dx, dinitials, layer.grads)
        assert array_bits(ours) == array_bits(outcome(y_plain, finals_plain, dx_plain, dinitials_plain, plain.grads))
        assert {(type(a), a.dtype) for a in ours.values()} == {(np.ndarray, np.dtype(dtype))}
        assert {p.dtype for p in layer.params.values()} == {np.dtype(dtype)}
        assert dx.shape == x.shape and [d.shape for d in dinitials] == [s.shape for s in states]
        assert {key: g.shape for key, g in layer.grads.items()} == {key: p.shape for key, p in layer.params.items()}


def awkward(a):
    """The same numbers with gaps, backwards and read-only."""
    big = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan, a.dtype)
    view = big[::-1, ..., ::2]
    view[...] = a
    view.flags.writeable = False
    return view


@every_kind
@pytest.mark.parametrize("bias", [True, False])
def test_a_narrow_layer_computes_as_a_wide_one(kind, bias):
    wide, narrow = build(kind, bias=bias, **DEEP), build(kind, bias=bias, dtype=np.float32, **DEEP)
    x, dy = draw((N, T, D)), draw((N, T, 2 * H), seed=3)
    results = []
    for layer in (wide, narrow):
        y, finals = forward(layer, x.astype(layer.dtype), None, LENGTHS)
        dx, dinitials = backward(layer, dy.astype(layer.dtype))
        results.append(outcome(y, finals, dx, dinitials, layer.grads))
        assert {a.dtype for a in results[-1].values()} == {layer.dtype}
    assert_all_close(results[1], results[0], 1e-5)


@every_kind
def test_run_and_run_back_are_x_to_y_from_zeros(kind):
    layer, twin = build(kind, **DEEP), build(kind, **DEEP)
    x, dy = draw((N, T, D)), draw((N, T, 2 * H), seed=3)
    before = bits(layer)
    y, memory = layer.run(x)
    dx, grads = layer.run_back(dy, memory)
    assert bits(layer) == before and layer.grads == {}
    expected, _ = forward(twin, x)
    assert bits(y) == bits(expected) and bits(dx) == bits(backward(twin, dy)[0])
    assert array_bits(grads) == array_bits(twin.grads) and list(grads) == list(layer.params)


@every_kind
def test_a_pickled_layer_goes_on_where_it_was(kind):
    layer = build(kind, **DEEP)
    x, dy = draw((N, T, D)), draw((N, T, 2 * H), seed=3)
    forward(layer, x, draw_states(kind, layer), LENGTHS)
    copy = pickle.loads(bits(layer))
    assert bits(backward(copy, dy)) == bits(backward(layer, dy)) and array_bits(copy.grads) == array_bits(layer.grads)
    assert bits(forward(copy, 2 * x)) == bits(forward(layer, 2 * x))


# ------------------------------------------------------------------------------------------------ sizes and values

@every_kind
@pytest.mark.parametrize("n, steps, inputs, hidden", [(0, 4, 2, 3), (1, 1, 1, 1), (4, 1, 2, 3), (1, 5, 2, 3),
                                                      (4, 5, 1, 3), (4, 5, 2, 1)])
@with_and_without_lengths
def test_small_sizes_are_ordinary(kind, n, steps, inputs, hidden, lengths):
    layer = build(kind, inputs=inputs, hidden=hidden, **DEEP)
    lengths = None if lengths is None else generator().integers(1, steps + 1, n)
    x, dy = draw((n, steps, inputs)), draw((n, steps, 2 * hidden), seed=3)
    states, dfinals = draw_states(kind, layer, n), draw_states(kind, layer, n, seed=20)
    y, finals = forward(layer, x, states, lengths)
    dx, dinitials = backward(layer, dy, dfinals)
    expected = by_hand(kind, layer.params, x, states, lengths, dy, dfinals, **DEEP)
    assert_all_close(outcome(y, finals, dx, dinitials, layer.grads), outcome(*expected))
    assert n or not any(g.any() for g in layer.grads.values())


@every_class
@pytest.mark.parametrize("lengths", [None, np.zeros(0, int)], ids=["whole", "lengths"])
def test_no_example_takes_lengths_too(kind, lengths):
    layer = build(kind, dtype=np.float32, batch_first=False)
    y, finals = forward(layer, np.ones((T, 0, D), np.float32), None, lengths)
    dx, dinitials = backward(layer, np.ones((T, 0, H), np.float32))
    assert y.shape == (T, 0, H) and dx.shape == (T, 0, D)
    assert [a.shape for a in (*finals, *dinitials)] == [(1, 0, H)] * 2 * len(finals)
    grads = layer.grads.values()
    assert not any(g.any() for g in grads)
    assert {a.dtype for a in (y, dx, *finals, *dinitials, *grads)} == {np.dtype(np.float32)}


@every_kind
def test_nan_stays_in_its_example_and_comes_out(kind):
    """At a step that counts, it reaches this step and all later ones forwards, all earlier ones backwards."""
    layer = build(kind, bidirectional=True)
    x = draw((N, T, D))
    x[1, 3, 0] = np.nan
    y, (hn, *_) = forward(layer, x, None, LENGTHS)
    lost = np.isnan(y)
    assert lost[1, 3:, :H].all() and lost[1, :4, H:].all() and lost.sum() == (T - 3 + 4) * H
    assert np.isnan(hn[:, 1]).all() and np.isfinite(hn[:, [0, 2, 3, 4]]).all()
    forward(layer, draw((N, T, D)), None, LENGTHS)
    dy = draw((N, T, 2 * H), seed=3)
    dy[1, 2, :H] = np.nan
    dx, (dh0, *_) = backward(layer, dy)
    lost = np.isnan(dx)
    assert lost[1, :3].all() and lost.sum() == 3 * D and np.isnan(dh0[0, 1]).all() and np.isnan(dh0).sum() == H
    assert all(np.isnan(g).any() == ("reverse" not in name) for name, g in layer.grads.items())


@every_class
@pytest.mark.parametrize("size", [1e3, 1e8])
def test_large_inputs_raise_no_flag(kind, size):
    """Warnings are errors here."""
    layer = build(kind, **DEEP)
    y, finals = forward(layer, size * draw((N, T, D)), tuple(size * s for s in draw_states(kind, layer)), LENGTHS)
    dx, dinitials = backward(layer, draw(y.shape, seed=3))
    assert all(np.isfinite(a).all() for a in (y, *finals, dx, *dinitials, *layer.grads.values()))


# ------------------------------------------------------------------------------------------------ bad input

def before_and_after(kind, **options):
    """A fresh layer and a used one."""
    return build(kind, **options), used(kind, **options)[0]


@every_class
def test_inputs_of_the_wrong_shape_are_refused(kind):
    name = name_of(kind)
    for batch_first, axes in [(True, "N, T"), (False, "T, N")]:
        for layer in before_and_after(kind, batch_first=batch_first):
            for shape in [(D,), (N, D), (N, T, D + 1), (N, T, 1), (N, D, T), (1, N, T, D), (N, T, 0)]:
                refuses(ValueError, f"{name}: x must have shape ({axes}, {D}), got {shape}",
                        lambda: layer.forward(np.ones(shape)), layer)
            for examples in (0, N):
                shape = (examples, 0, D) if batch_first else (0, examples, D)
                refuses(ValueError, f"{name}: x must have at least one time step, got shape {shape}",
                        lambda: layer.forward(np.ones(shape)), layer)


@every_class
@pytest.mark.parametrize("options", [{}, DEEP, {"batch_first": False}], ids=["one cell", "deep", "time first"])
def test_states_that_do_not_fit_are_refused(kind, options):
    name, layer, M = name_of(kind), build(kind, **options), 6
    x = draw((M, 4, D) if layer.batch_first else (4, M, D))
    y, _ = forward(layer, x)
    shape, states, dy = (cells(layer), M, H), draw_states(kind, layer, M), draw(y.shape, seed=3)
    backward(layer, dy, states)
    wrong = [shape[1:], (shape[0] + 1, M, H), (shape[0], M + 1, H), (shape[0], 1, H), (shape[0], M, H + 1),
             (M, shape[0], H), (*shape, 1), (0, M, H)]
    for which, state in enumerate(KINDS[kind][-1]):
        for call, label in [(lambda s: forward(layer, x, s), state),
                            (lambda s: backward(layer, dy, s), f"d{state[0]}n")]:
            for bad in [s for s in wrong if s != shape]:
                several = [*states[:which], np.ones(bad), *states[which + 1:]]
                refuses(ValueError, f"{name}: {label} must have shape {shape}, got {bad}", lambda: call(several), layer)
            for bad, came in [(states[0].astype(np.float32), "float32; write"), (states[0].tolist(), "list"),
                              (np.ones(shape, int), "int64"), (0, "int"), (states[0].astype(complex), "complex128")]:
                several = [*states[:which], bad, *states[which + 1:]]
                refuses(TypeError, f"{name}: {label} must be a NumPy array of float64, got {came}",
                        lambda: call(several), layer)


def test_the_states_of_an_lstm_are_a_pair():
    layer, x, _, dy = used("LSTM")
    h = np.ones((1, N, H))
    for call, name, names in [(lambda s: layer.forward(x, s), "states", "(h0, c0)"),
                              (lambda s: layer.backward(dy, s), "dstates", "(dhn, dcn)")]:
        refuses(TypeError, f"LSTM: {name} must be a pair {names}, got ndarray", lambda: call(np.stack([h, h])), layer)
        refuses(TypeError, f"LSTM: {name} must be a pair {names}, got dict", lambda: call({"h0": h, "c0": h}), layer)
        for several in [(), (h,), [h, h, h]]:
            refuses(ValueError, f"LSTM: {name} must be a pair {names}, got {len(several)} of them",
                    lambda: call(several), layer)
        assert bits(call((h, h))) == bits(call([h, h]))


@every_class
def test_cotangents_that_do_not_fit_are_refused(kind):
    name = name_of(kind)
    for options, width in [({}, H), ({"bidirectional": True}, 2 * H), ({"batch_first": False}, H)]:
        layer, _, y, dy = used(kind, **options)
        assert y.shape == (N, T, width)
        for shape in [(T, N, width), (N, T, width + 1), (N, T, 1), (N, width), (1, T, width), (N, 1, width), (N, T)]:
            refuses(ValueError, f"{name}: dy must have the shape {y.shape} of the output, got {shape}",
                    lambda: backward(layer, np.ones(shape)), layer)
        for wrong, came in [(dy.astype(np.float32), "float32"), (dy.tolist(), "list"), (None, "NoneType")]:
            refuses(TypeError, f"{name}: dy must be a NumPy array of float64, got {came}",
                    lambda: backward(layer, wrong), layer)


@every_class
def test_a_float32_layer_wants_float32_everywhere(kind):
    layer, x, _, dy = used(kind, np.float32)
    message = f"{name_of(kind)}: %s must be a NumPy array of float32, got float64"
    wide, narrow = draw_states(kind, layer), draw_states(kind, layer, dtype=np.float32)
    refuses(TypeError, message % "x", lambda: forward(layer, x.astype(float)), layer)
    refuses(TypeError, message % "h0", lambda: forward(layer, x, wide), layer)
    refuses(TypeError, message % "dy", lambda: backward(layer, dy.astype(float)), layer)
    refuses(TypeError, message % "dhn", lambda: backward(layer, dy, wide), layer)
    if kind == "LSTM":
        refuses(TypeError, message % "c0", lambda: forward(layer, x, (narrow[0], wide[1])), layer)
        refuses(TypeError, message % "dcn", lambda: backward(layer, dy, (narrow[0], wide[1])), layer)


@every_class
def test_backward_before_forward_is_refused(kind):
    layer, name = build(kind), name_of(kind)
    for wrong in (None, 7):
        refuses(RuntimeError, f"{name}: backward needs a forward first",
                lambda: layer.backward(np.ones((N, T, H)), wrong), layer)
    refuses(ValueError, f"{name}: ", lambda: forward(layer, np.ones((N, T))), layer)
    refuses(RuntimeError, f"{name}: backward needs a forward first", lambda: backward(layer, np.ones((N, T, H))), layer)


@every_class
def test_parameters_that_do_not_fit_are_refused(kind):
    layer, x, *_ = used(kind, **DEEP)
    good, name = dict(layer.params), name_of(kind)
    key = "weight_ih_l1_reverse"
    rows = KINDS[kind][4] * H
    assert good[key].shape == (rows, 2 * H)
    for value, error, message in [
            (good[key].T, ValueError, f"params['{key}'] must have shape ({rows}, 6), got (6, {rows})"),
            (good["weight_ih_l0"], ValueError, f"params['{key}'] must have shape ({rows}, 6), got ({rows}, 2)"),
            (good[key].astype(np.float32), TypeError, f"params['{key}'] must be a NumPy array of float64, got fl")]:
        layer.params[key] = value
        refuses(error, f"{name}: {message}", lambda: forward(layer, x), layer)
    del layer.params[key]
    refuses(ValueError, f"missing ['{key}'], unexpected []", lambda: forward(layer, x), layer)
    layer.params = {**good, "bias_ih_l2": np.ones(rows)}
    refuses(ValueError, "missing [], unexpected ['bias_ih_l2']", lambda: forward(layer, x), layer)


# ------------------------------------------------------------------------------------------------ parameters

def expected_names(num_layers, bidirectional, bias):
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][:4 if bias else 2]
    return [f"{kind}_l{layer}{way}" for layer in range(num_layers)
            for way in (["", "_reverse"] if bidirectional else [""]) for kind in kinds]


@every_kind
@every_stack
def test_parameters_have_the_names_shapes_and_order_of_pytorch(kind, stack):
    layer, rows = build(kind, **STACKS[stack]), KINDS[kind][4] * H
    names = expected_names(layer.num_layers, layer.bidirectional, layer.bias)
    assert list(layer.params) == list(layer.state_dict()) == names
    for name, p in layer.params.items():
        below = D if "_l0" in name else H * (2 if layer.bidirectional else 1)
        assert p.shape == ((rows,) if "bias" in name else (rows, H) if "_hh" in name else (rows, below)), name
    assert (layer.input_size, layer.hidden_size) == (D, H)


@every_class
def test_parameters_start_uniform_within_the_bound_of_the_hidden_size(kind):
    layer = build(kind, inputs=30, hidden=100, **DEEP)
    drawn = []
    for name, p in layer.params.items():
        assert 0.085 < np.abs(p).max() <= 0.1 and abs(p.mean()) < 0.02 and (p < 0).any(), name
        assert p.size < 1000 or (abs(p.var() * 300 - 1) < 0.1 and np.abs(p).max() > 0.099), name
        drawn.append(p.ravel())
    drawn = np.concatenate(drawn)
    assert len(np.unique(drawn)) == drawn.size                  # no two alike
    again, other = (build(kind, inputs=30, hidden=100, seed=seed, **DEEP) for seed in (0, 1))
    assert array_bits(again.params) == array_bits(layer.params) and array_bits(other.params) != array_bits(layer.params)
    narrow = build(kind, inputs=30, hidden=100, dtype=np.float32, **DEEP)
    assert all((narrow.params[key] == p.astype(np.float32)).all() for key, p in layer.params.items())


@pytest.mark.parametrize("value", [1, 2.5, np.float32(-0.5), 0])
@both_widths
def test_forget_bias_sets_the_sum_of_the_two_biases_of_the_forget_gate(value, dtype):
    plain, layer = build("LSTM", dtype=dtype, **DEEP), build("LSTM", dtype=dtype, forget_bias=value, **DEEP)
    for name, p in layer.params.items():
        others = np.arange(len(p)) // H != 1
        assert p.dtype == dtype and (p[others] == plain.params[name][others]).all(), name
        if "bias" in name:
            assert (p[~others] == (value if "_ih_" in name else 0)).all(), name
        else:
            assert (p == plain.params[name]).all(), name
    assert build("LSTM").params["bias_hh_l0"][H:2 * H].all()     # None leaves it random


@every_class
def test_a_state_of_pytorch_is_taken_whole_or_not_at_all(kind):
    layer = used(kind, **DEEP)[0]
    x, name = draw((N, T, D)), name_of(kind)
    state = {key: a + 1 for key, a in layer.state_dict().items()}
    key, last = "weight_hh_l1", "bias_hh_l1_reverse"
    rows = KINDS[kind][4] * H
    for change, error, message in [
            ({last: None}, ValueError, f"missing ['{last}'], unexpected []"),
            ({"weight_hr_l0": np.ones((H, H))}, ValueError, "missing [], unexpected ['weight_hr_l0']"),
            ({last: None, "bias_hh_l2": np.ones(rows)}, ValueError, f"missing ['{last}'], unexpected ['bias_hh_l2']"),
            ({key: np.ones((H, rows)) if rows > H else np.ones((H, H + 1))}, ValueError,
             f"state['{key}'] must have shape ({rows}, {H}), got"),
            ({last: np.ones((rows, 1))}, ValueError, f"state['{last}'] must have shape ({rows},), got ({rows}, 1)"),
            ({key: state[key].astype(np.float32)}, TypeError, f"state['{key}'] must be a NumPy array of float64"),
            ({last: np.full(rows, np.nan)}, ValueError, f"state['{last}'] must be finite, got nan")]:
        bad = {k: a for k, a in {**state, **change}.items() if a is not None}
        refuses(error, f"{name}: state", lambda: layer.load_state_dict(bad), layer)
        refuses(error, message, lambda: layer.load_state_dict(bad), layer)
    layer.load_state_dict(dict(reversed(state.items())))        # the order of the keys is ours
    assert list(layer.params) == list(state) and array_bits(layer.params) == array_bits(state)
    fresh = build(kind, seed=9, **DEEP)
    fresh.load_state_dict(state)
    assert bits(forward(fresh, x)) == bits(forward(layer, x))


@every_class
@both_widths
def test_a_saved_layer_comes_back(kind, dtype, tmp_path):
    layer, other = build(kind, dtype=dtype, **DEEP), build(kind, dtype=dtype, seed=1, **DEEP)
    layer.save(tmp_path / "layer.npz")
    other.load(tmp_path / "layer.npz")
    x = draw((N, T, D), dtype)
    assert array_bits(other.params) == array_bits(layer.params) and bits(forward(other, x)) == bits(forward(layer, x))
    deeper = build(kind, dtype=dtype, num_layers=3, bidirectional=True)
    refuses(nn.CheckpointError, "missing ['bias_hh_l2'", lambda: deeper.load(tmp_path / "layer.npz"), deeper)


@every_kind
def test_replacing_a_parameter_takes_effect_in_the_next_forward(kind):
    layer, x = build(kind, **DEEP), draw((N, T, D))
    dy = draw((N, T, 2 * H), seed=3)
    before = bits(forward(layer, x))
    dx = bits(backward(layer, dy))
    for key, p in list(layer.params.items()):
        layer.params[key] = 2 * p
        assert bits(backward(layer, dy)) == dx                  # that of the last forward
        assert bits(layer.run(x)[0]) != bits(pickle.loads(before)[0]), key
        layer.params[key] = p
    assert bits(forward(layer, x)) == before


# ------------------------------------------------------------------------------------------------ the constructors

SIGNATURES = {
    "RNN": {"num_layers": 1, "nonlinearity": "tanh", "bias": True, "batch_first": True, "bidirectional": False},
    "LSTM": {"num_layers": 1, "bias": True, "batch_first": True, "bidirectional": False, "forget_bias": None},
    "GRU": {"num_layers": 1, "bias": True, "batch_first": True, "bidirectional": False, "reset_after": True},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_arguments_and_their_defaults(name):
    parameters = inspect.signature(getattr(nn, name)).parameters
    assert list(parameters) == ["input_size", "hidden_size", *SIGNATURES[name], "rng", "dtype"]
    assert [key for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == ["rng", "dtype"]
    assert {key: p.default for key, p in parameters.items() if p.default is not p.empty} == {
        **SIGNATURES[name], "dtype": np.float64}
    calls = {"RNN": [("forward", ["x", "h0", "lengths"]), ("backward", ["dy", "dhn"])],
             "LSTM": [("forward", ["x", "states", "lengths"]), ("backward", ["dy", "dstates"])],
             "GRU": [("forward", ["x", "h0", "lengths"]), ("backward", ["dy", "dhn"])]}[name]
    for method, names in calls:
        parameters = inspect.signature(getattr(getattr(nn, name), method)).parameters
        assert list(parameters)[1:] == names and all(parameters[key].default is None for key in names[1:])


@pytest.mark.parametrize("name, values", [
    ("RNN", (2, "relu", False, False, True)), ("LSTM", (2, True, False, True, 2.0)),
    ("GRU", (2, False, False, True, False))])
def test_an_option_by_position_is_that_option(name, values):
    x = draw((N, T, D))
    layer = getattr(nn, name)
    ours = layer(D, H, *values, rng=generator())
    by_name = layer(D, H, **dict(zip(SIGNATURES[name], values)), rng=generator())
    assert bits(ours.forward(x)) == bits(by_name.forward(x)) and list(ours.params) == list(by_name.params)


def test_every_option_changes_something():
    """With the parameters of the plain layer where they fit."""
    x, states = draw((N, N, D)), {kind: draw_states(kind, build(kind)) for kind in KINDS}
    for kind in CLASSES.values():
        plain = build(kind)
        y, finals = forward(plain, x)
        for changed in [forward(plain, x, states[kind]), forward(plain, x, None, np.full(N, N - 1))]:
            assert all((a != b).any() for a, b in zip([y, *finals], [changed[0], *changed[1]]))
        y_t, _ = forward(build(kind, batch_first=False), x)
        assert not np.allclose(y_t, y) and np.allclose(y_t, forward(plain, x.swapaxes(0, 1))[0].swapaxes(0, 1))
        assert forward(build(kind, bidirectional=True), x)[0].shape == (N, N, 2 * H)
        assert forward(build(kind, num_layers=2), x)[1][0].shape == (2, N, H)
        without = build(kind, bias=False)
        without.load_state_dict({key: plain.params[key] for key in without.params})
        assert not np.allclose(forward(without, x)[0], y)
    y = {kind: forward(build(kind), x)[0] for kind in KINDS}
    assert not np.allclose(y["RNN, tanh"], y["RNN, relu"])
    assert not np.allclose(y["GRU, reset after"], y["GRU, reset before"])
    for which in (0, 1):                                        # each state of the LSTM, and each cotangent
        layer = build("LSTM")
        several = [None, None]
        several[which] = states["LSTM"][which]
        y_2, _ = layer.forward(x, several)
        assert not np.allclose(y_2, y["LSTM"])
        dx, _ = layer.backward(y_2)
        assert not np.allclose(layer.backward(y_2, several)[0], dx)


@pytest.mark.parametrize("name", SIGNATURES)
def test_bad_settings_are_refused(name):
    rng, layer = generator(), getattr(nn, name)
    good = {"input_size": D, "hidden_size": H}
    for argument in ("input_size", "hidden_size", "num_layers"):
        for value in (0, -1, 2.0, True, None, "3", (2,)):
            refuses(ValueError, f"{name}: {argument} must be a whole number of at least 1, got {value}" if value != "3"
                    else f"{name}: {argument} must be", lambda: layer(**{**good, argument: value}, rng=rng), rng)
    for argument in ["bias", "batch_first", "bidirectional", *(["reset_after"] if name == "GRU" else [])]:
        for value in (0, 1, None, "yes", np.ones(1)):
            refuses(TypeError, f"{name}: {argument} must be", lambda: layer(**good, **{argument: value}, rng=rng), rng)
        layer(**good, **{argument: np.True_}, rng=generator())
    for wrong in (None, 0, np.random, np.random.RandomState(0)):
        refuses(TypeError, f"{name}: rng must be a numpy.random.Generator", lambda: layer(**good, rng=wrong))
    for wrong in (np.int64, np.float16, complex, None, "wide"):
        refuses(TypeError, f"{name}: dtype must be np.float32 or np.float64",
                lambda: layer(**good, rng=rng, dtype=wrong), rng)
    with pytest.raises(TypeError, match="rng"):
        layer(D, H)


def test_bad_settings_of_one_class_are_refused():
    rng = generator()
    for wrong in ("sigmoid", "Tanh", None, 1, np.tanh):
        refuses(ValueError, f"RNN: nonlinearity must be one of 'tanh', 'relu', got {wrong!r}",
                lambda: nn.RNN(D, H, nonlinearity=wrong, rng=rng), rng)
    for wrong in ("1", True, 1j, np.ones(H), [1.0]):
        refuses(TypeError, "LSTM: forget_bias must be a finite number, got", lambda: nn.LSTM(
            D, H, forget_bias=wrong, rng=rng), rng)
    for wrong in (math.nan, math.inf):
        refuses(ValueError, f"LSTM: forget_bias must be a finite number, got {wrong}", lambda: nn.LSTM(
            D, H, forget_bias=wrong, rng=rng), rng)
    refuses(ValueError, "LSTM: forget_bias must be None without a bias, got 1.0", lambda: nn.LSTM(
        D, H, bias=False, forget_bias=1, rng=rng), rng)


# ------------------------------------------------------------------------------------------------ what goes with them

@both_widths
def test_last_step_is_the_last_step(dtype):
    layer, x, dy = nn.LastStep(), draw((N, T, H), dtype), draw((N, H), dtype, seed=3)
    assert layer.forward(x).tolist() == x[:, -1].tolist() and layer.forward(x).dtype == dtype
    dx = layer.backward(dy)
    assert dx.shape == x.shape and dx.dtype == dtype
    assert dx[:, -1].tolist() == dy.tolist() and not dx[:, :-1].any()
    assert layer.params == {} == layer.grads
    assert nn.LastStep().forward(x[:, :1]).tolist() == x[:, 0].tolist()


def test_bad_input_of_last_step_is_refused():
    layer = nn.LastStep()
    layer.forward(draw((N, T, H)))
    for shape in [(N, H), (N,), (N, T, H, 1)]:
        refuses(ValueError, "LastStep: x must have", lambda: layer.forward(np.ones(shape)), layer)
    for n in (N, 0):
        refuses(ValueError, f"LastStep: x must have at least one time step, got shape ({n}, 0, 3)",
                lambda: layer.forward(np.ones((n, 0, H))), layer)


@both_widths
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("axes", [(N, T), (N, 1, T), (0, T), (N, 0), (1, 1, 1, 1)], ids=str)
def test_linear_acts_on_the_last_axis(axes, bias, dtype):
    layer = nn.Linear(D, H, bias=bias, rng=generator(), dtype=dtype)
    flat = nn.Linear(D, H, bias=bias, rng=generator(), dtype=dtype)
    x, dy = draw((*axes, D), dtype), draw((*axes, H), dtype, seed=3)
    x = awkward(x) if x.size else x
    dy = np.asfortranarray(dy)
    before = bits([x, dy])
    y = layer.forward(x)
    dx = layer.backward(dy)
    rows = math.prod(axes)
    assert y.shape == dy.shape and dx.shape == x.shape and y.dtype == dx.dtype == dtype
    assert y.tobytes() == flat.forward(x.reshape(rows, D)).tobytes()
    assert dx.tobytes() == flat.backward(dy.reshape(rows, H)).tobytes()
    assert array_bits(layer.grads) == array_bits(flat.grads) and list(layer.grads) == list(layer.params)
    assert bits([x, dy]) == before and y.flags.writeable and dx.flags.writeable


def test_linear_at_every_step_agrees_with_central_differences():
    layer, x, dy = nn.Linear(D, H, rng=generator()), draw((N, 4, D)), draw((N, 4, H), seed=3)

    def f():
        return float((layer.forward(x) * dy).sum())

    f()
    dx = layer.backward(dy)
    grads = dict(layer.grads)
    assert relative_error(dx, central(f, x)) <= 1e-7
    for name, p in layer.params.items():
        assert relative_error(grads[name], central(f, p)) <= 1e-7
    for shape in [(N, 3, H), (N * 4, H), (N, 4, H, 1), (4, N, H)]:
        refuses(ValueError, f"Linear: dy must have the shape {dy.shape} of the output, got {shape}",
                lambda: layer.backward(np.ones(shape)), layer)
    for shape in [(D,), (N, 4, D + 1), (N, D, 4)]:
        refuses(ValueError, f"Linear: x must have shape (N, {D}), got {shape}", lambda: layer.forward(np.ones(shape)),
                layer)


# ------------------------------------------------------------------------------------------------ a loss at every step

def scores_and_classes(ignore_index=-1, dtype=np.float64):
    """Scores (N, T, K), classes (N, T) with about a third ignored, and where they count."""
    y, t = draw((N, T, K), dtype), generator(5).integers(0, K, (N, T))
    t = np.where(generator(6).random((N, T)) < 0.3, ignore_index, t)
    return y, t, t != ignore_index


@both_widths
@pytest.mark.parametrize("ignore_index", [-1, -100, 0, 2, K, 10**6])
def test_the_loss_at_every_step_is_that_of_the_kept_steps(ignore_index, dtype):
    """Kept steps as one batch of examples; a class can be the one that is ignored."""
    loss, flat = nn.SequenceCrossEntropyLoss(ignore_index), nn.CrossEntropyLoss()
    y, t, kept = scores_and_classes(ignore_index, dtype)
    before = bits([y, t])
    value, reference = loss.forward(y, t), flat.forward(y[kept], t[kept])
    dy = loss.backward(0.75)
    assert 0 < kept.sum() < kept.size and value.dtype == dy.dtype == dtype and dy.shape == y.shape
    limit = LIMIT if dtype == np.float64 else 1e-5
    assert relative_error(value, reference) <= limit
    assert relative_error(dy[kept], flat.backward(0.75)) <= limit and not dy[~kept].any()
    assert bits([y, t]) == before and np.shape(value) == ()
    assert (loss.backward(1.5) == 2 * dy).all() and not loss.backward(0).any() and loss.backward(2).dtype == dtype


def test_the_loss_at_every_step_agrees_with_central_differences():
    loss = nn.SequenceCrossEntropyLoss()
    y, t, _ = scores_and_classes()
    loss.forward(y, t)
    dy = loss.backward()
    assert relative_error(dy, central(lambda: float(loss.forward(y, t)), y)) <= 1e-7


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_classes_of_every_integer_type_mean_the_same(dtype):
    y, t, kept = scores_and_classes()
    loss, other = nn.SequenceCrossEntropyLoss(), nn.SequenceCrossEntropyLoss()
    if np.issubdtype(dtype, np.unsignedinteger):                # they have no -1: keep every step
        t = np.where(kept, t, 1)
    assert loss.forward(y, t.astype(dtype)) == other.forward(y, t)
    assert bits(loss.backward()) == bits(other.backward())


def test_ignored_steps_have_no_effect():
    y, t, kept = scores_and_classes()
    loss = nn.SequenceCrossEntropyLoss()
    value, dy = loss.forward(y, t), loss.backward()
    y[~kept] = np.nan
    assert loss.forward(y, t) == value and bits(loss.backward()) == bits(dy)
    y[0, 0] = np.nan
    assert kept[0, 0] and np.isnan(loss.forward(y, t))


def test_bad_calls_of_the_loss_at_every_step_are_refused():
    name, loss = "SequenceCrossEntropyLoss", nn.SequenceCrossEntropyLoss()
    y, t, _ = scores_and_classes()
    refuses(RuntimeError, f"{name}: backward needs a forward first", loss.backward, loss)
    loss.forward(y, t)
    for error, message, wrong in [
            (IndexError, f"t must lie in 0..{K - 1}, got {K} at index (0, 0)", np.full((N, T), K)),
            (IndexError, f"t must lie in 0..{K - 1}, got -2 at index (0, 0)", np.full((N, T), -2)),
            (IndexError, f"t must lie in 0..{K - 1}, got 99 at index (2, 3)",
             np.where(np.arange(N * T).reshape(N, T) == 2 * T + 3, 99, t)),
            (TypeError, "t must be an array of integers, got float64", t.astype(float)),
            (TypeError, "t must be an array of integers, got bool", t > 0),
            (TypeError, "t must be an array of integers, got list", t.tolist()),
            (ValueError, f"t must have shape ({N}, {T}), got ({T}, {N})", t.T),
            (ValueError, f"t must have shape ({N}, {T}), got ({N}, {T}, 1)", t[:, :, None]),
            (ValueError, f"t must have shape ({N}, {T}), got ({N},)", t[:, 0]),
            (ValueError, "a mean over nothing has no value", np.full((N, T), -1))]:
        refuses(error, f"{name}: {message}", lambda: loss.forward(y, wrong), loss)
    for shape in [(N, K), (N * T, K, 1, 1)]:
        refuses(ValueError, f"{name}: y must have", lambda: loss.forward(np.ones(shape), t), loss)
    for n, steps in [(0, T), (N, 0)]:
        refuses(ValueError, f"{name}: a mean over nothing has no value",
                lambda: loss.forward(np.ones((n, steps, K)), np.ones((n, steps), int)), loss)
    refuses(TypeError, f"{name}: y must be a NumPy array of float32 or float64, got int64",
            lambda: loss.forward(y.astype(int), t), loss)
    for wrong in (1.0, None, True, "-1"):
        refuses(TypeError, f"{name}: ignore_index must be a whole number, got {wrong!r}",
                lambda: nn.SequenceCrossEntropyLoss(wrong))
    assert nn.SequenceCrossEntropyLoss().ignore_index == -1
    assert nn.SequenceCrossEntropyLoss(np.int64(3)).ignore_index == 3


@pytest.mark.parametrize("ignore_index", [-1, 2])
def test_accuracy_counts_the_kept_steps(ignore_index):
    y, t, kept = scores_and_classes(ignore_index)
    right = sum(int(y[n, s].argmax() == t[n, s]) for n, s in zip(*np.nonzero(kept)))
    loss = nn.SequenceCrossEntropyLoss(ignore_index)
    assert 0 < right < kept.sum()
    assert train.accuracy_of(loss, y, t) == right / kept.sum()
    perfect = np.where(np.arange(K) == t[:, :, None], 9.0, 0.0)
    assert train.accuracy_of(loss, perfect, t) == 1.0


# ------------------------------------------------------------------------------------------------ models

@every_class
def test_the_gradient_of_a_model_is_that_of_its_parts(kind):
    """Sequential(recurrent, LastStep, Linear) against the pure functions, one after the other."""
    layer, last, top = build(kind, num_layers=2), nn.LastStep(), nn.Linear(H, K, rng=generator(1))
    model, loss = nn.Sequential(layer, last, top), nn.CrossEntropyLoss()
    x, t = draw((N, T, D)), np.array([0, 3, 1, 1, 2])
    value = loss.forward(model.forward(x), t)
    dx = model.backward(loss.backward())
    zeros = [np.zeros((2, N, H)) for _ in KINDS[kind][-1]]
    dy, params = np.zeros((N, T, H)), dict(layer.params)
    y, *_ = by_hand(kind, params, x, zeros, None, dy, zeros, num_layers=2)
    z, cache = mlp.linear_forward(y[:, -1], top.params["weight"], top.params["bias"])
    expected, loss_cache = mlp.softmax_cross_entropy_forward(z, t)
    dh, dW, db = mlp.linear_backward(mlp.softmax_cross_entropy_backward(1.0, loss_cache), cache)
    dy[:, -1] = dh
    *_, dx_by_hand, _, grads = by_hand(kind, params, x, zeros, None, dy, zeros, num_layers=2)
    assert abs(value - expected) <= 1e-14
    names = [f"0.{name}" for name in expected_names(2, False, True)] + ["2.weight", "2.bias"]
    assert list(model.params) == list(model.grads) == names
    assert_all_close({"dx": dx, **model.grads}, dict(zip(["dx", *names], [dx_by_hand, *grads.values(), dW, db])))
    assert model.grads["0.weight_hh_l1"] is layer.grads["weight_hh_l1"]


@every_class
def test_a_failed_call_of_a_model_leaves_every_layer_as_it_was(kind):
    model = nn.Sequential(build(kind, bidirectional=True), nn.LastStep(), nn.Linear(2 * H, K, rng=generator()))
    x = draw((N, T, D))
    y = model.forward(x)
    model.backward(y)
    refuses(ValueError, f"{name_of(kind)}: x must have", lambda: model.forward(x[0]), model)
    refuses(ValueError, "Sequential: dy must have", lambda: model.backward(y[:-1]), model)
    ill = nn.Sequential(build(kind), nn.LastStep(), nn.Linear(H + 1, K, rng=generator()))
    ill[0].forward(x)
    refuses(ValueError, f"Linear: x must have shape (N, {H + 1}), got ({N}, {H})", lambda: ill.forward(2 * x), ill)


def sign_task(n=60, dtype=np.float64):
    """Which sign has the first number of the sequence? The last step alone does not tell."""
    x = draw((n, T, D), dtype)
    return x, (x[:, 0, 0] > 0).astype(np.int64)


@every_class
@both_widths
def test_a_model_learns_to_remember_the_first_step(kind, dtype):
    x, t = sign_task(dtype=dtype)
    rng = generator()
    model = nn.Sequential(build(kind, hidden=8, dtype=dtype), nn.LastStep(), nn.Linear(8, 2, rng=rng, dtype=dtype))
    loss = nn.CrossEntropyLoss()
    history = train.fit(model, loss, optim.Adam(model, 0.05), x, t, epochs=20, batch_size=20, rng=rng, max_norm=1.0)
    assert history.loss[-1] < 0.2 < 0.6 < history.loss[0]
    assert train.evaluate(model, loss, x, t)[1] > 0.95


def test_a_model_learns_at_every_step_and_stops_at_the_end():
    """Tag each step with the sign of the one before; steps behind the end are ignored."""
    x = draw((40, T, D))
    t = np.concatenate([np.zeros((40, 1), int), (x[:, :-1, 0] > 0).astype(int)], axis=1)
    t[np.arange(T) >= generator(4).integers(3, T + 1, 40)[:, None]] = -1
    rng = generator()
    model, loss = nn.Sequential(nn.GRU(D, 8, rng=rng), nn.Linear(8, 2, rng=rng)), nn.SequenceCrossEntropyLoss()
    history = train.fit(model, loss, optim.Adam(model, 0.03), x, t, epochs=15, batch_size=10, rng=rng, patience=5,
                        validation=(x, t))
    value, accuracy = train.evaluate(model, loss, x, t)
    assert history.accuracy[0] < 0.9 < 0.98 < accuracy and value < 0.2


@every_kind
@pytest.mark.parametrize("make_optimizer", [lambda m: optim.SGD(m, 0.1), lambda m: optim.AdaGrad(m, 0.1),
                                            lambda m: optim.RMSProp(m, 0.1), lambda m: optim.Adam(m, 0.1)],
                         ids=["SGD", "AdaGrad", "RMSProp", "Adam"])
def test_an_optimizer_steps_every_parameter(kind, make_optimizer):
    layer = build(kind, **DEEP)
    before, optimizer = layer.state_dict(), make_optimizer(layer)
    y, _ = forward(layer, draw((N, T, D)), None, LENGTHS)
    backward(layer, draw(y.shape, seed=3))
    optimizer.step()
    for name, p in layer.params.items():
        moved = p - before[name]
        assert moved.any() and (moved * layer.grads[name] <= 0).all(), name


@every_class
def test_a_model_is_saved_with_its_recurrent_layers(kind, tmp_path):
    def make(seed):
        return nn.Sequential(build(kind, seed=seed, **DEEP), nn.LastStep(), nn.Linear(2 * H, K, rng=generator(seed)))
    model, other = make(0), make(1)
    model.save(tmp_path / "model.npz")
    other.load(tmp_path / "model.npz")
    x = draw((N, T, D))
    assert array_bits(other.params) == array_bits(model.params) and bits(other.forward(x)) == bits(model.forward(x))
    assert "0.weight_hh_l1_reverse" in model.state_dict()


@every_class
def test_recurrent_layers_stack_in_a_model(kind):
    """Two layers in a Sequential are one with num_layers=2."""
    deep, first, second = build(kind, num_layers=2), build(kind), build(kind, inputs=H)
    for layer, own in [("_l0", first), ("_l1", second)]:
        own.load_state_dict({key.replace(layer, "_l0"): p for key, p in deep.params.items() if layer in key})
    model, x, dy = nn.Sequential(first, second), draw((N, T, D)), draw((N, T, H), seed=3)
    assert bits(model.forward(x)) == bits(forward(deep, x)[0])
    assert bits(model.backward(dy)) == bits(backward(deep, dy)[0])
    assert [g.tobytes() for g in model.grads.values()] == [g.tobytes() for g in deep.grads.values()]
