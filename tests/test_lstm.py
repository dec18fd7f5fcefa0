"""What is special to backprop_lib.lstm; the rules that it shares with the other recurrent pairs are in test_rnn.py."""

import math

import numpy as np
import pytest
from test_rnn import assert_agrees_with_lists, dot, inputs_of, run, run_backward, run_forward, sigma

from backprop_lib import lstm
from backprop_lib.gradcheck import on_grid, relative_error


FORWARDS = sorted(name.removesuffix("_forward") for name in dir(lstm) if name.endswith("_forward"))
FAR = 1000.0                                                    # sigma(FAR) is 1 and sigma(-FAR) is 0, exactly


# ------------------------------------------------------------------------------------------------ lists, no NumPy

def lstm_of_lists(x, h, c, W_ih, W_hh, b, p=None):
    """One unit after the other. The rows of unit k are k, H + k, 2H + k, 3H + k: i, f, g, o."""
    H, new_h, new_c = len(h), [], []
    for k in range(H):
        i, f, g, o = [dot(W_ih[row], x) + dot(W_hh[row], h) + b[row] for row in (k, H + k, 2 * H + k, 3 * H + k)]
        if p is not None:
            i, f = i + p[0][k] * c[k], f + p[1][k] * c[k]
        new_c.append(sigma(f) * c[k] + sigma(i) * tanh(g))
        o = o if p is None else o + p[2][k] * new_c[-1]
        new_h.append(sigma(o) * tanh(new_c[-1]))
    return new_h, new_c


def tanh(z):
    return 2 * sigma(2 * z) - 1


def test_the_module_has_the_pairs_of_the_contract():
    assert FORWARDS == sorted(name.removesuffix("_backward") for name in dir(lstm) if name.endswith("_backward"))
    assert {"lstm_step", "lstm", "peephole_lstm_step"} <= set(FORWARDS)


@pytest.mark.parametrize("what", ["lstm_step", "lstm", "peephole_lstm_step"])
def test_an_lstm_of_lists_has_the_same_numbers_and_gradients(what):
    assert_agrees_with_lists(lstm_of_lists, what)


# ------------------------------------------------------------------------------------------------ worked by hand

X = [1.0, -1.0]
W_HH = [1.0, -2.0, 3.0, -1.0]                                   # of i, f, g, o
H0 = 0.5
GATE_F2 = (math.log(2) - 0.2) / math.log(2)                     # so that c_2 is log 2 once more


def logit(p):
    return math.log(p / (1 - p))


def by_hand():
    """Weights for which the gates are i, f, g, o = 1/2, 1/2, 3/5, 3/4 at the first step, 1/4, GATE_F2, 4/5, 1/2 then.

    With c_0 = 2 (log 2 - 3/10): c_1 = c_0/2 + 3/10 = log 2, tanh c_1 = 3/5, h_1 = 9/20;
    c_2 = log 2 - 1/5 + 1/5 = log 2, h_2 = 3/10.
    """
    first = [logit(1 / 2), logit(1 / 2), math.log(2), logit(3 / 4)]         # tanh(log 2) = 3/5, tanh(log 3) = 4/5
    second = [logit(1 / 4), logit(GATE_F2), math.log(3), logit(1 / 2)]
    # z_1 = w + u h_0 + b and z_2 = -w + u h_1 + b, for the weight w of the input and u of the state
    b = [(z1 + z2 - u * (H0 + 9 / 20)) / 2 for z1, z2, u in zip(first, second, W_HH)]
    w = [(z1 - z2 - u * (H0 - 9 / 20)) / 2 for z1, z2, u in zip(first, second, W_HH)]
    c0 = 2 * (math.log(2) - 3 / 10)
    return [np.array(a) for a in ([[[X[0]], [X[1]]]], [[H0]], [[c0]], [[a] for a in w], [[a] for a in W_HH], b)]


def test_two_steps_worked_by_hand_forward():
    hs, cs, _ = lstm.lstm_forward(*by_hand())
    np.testing.assert_allclose(hs.ravel(), [9 / 20, 3 / 10], rtol=1e-14)
    np.testing.assert_allclose(cs.ravel(), [math.log(2)] * 2, rtol=1e-14)


def test_two_steps_worked_by_hand_backward():
    """dh_2 = 2, dc_2 = 1/2, dh_1 = 1, dc_1 = -1 from outside."""
    x, h0, c0, W_ih, W_hh, b = by_hand()
    *_, cache = lstm.lstm_forward(x, h0, c0, W_ih, W_hh, b)
    # second step: what reaches c_2 is 1/2 + 2 * 1/2 * (1 - 9/25) = 57/50
    z2 = [57 / 50 * 4 / 5 * 3 / 16, 57 / 50 * math.log(2) * GATE_F2 * (1 - GATE_F2), 57 / 50 / 4 * 9 / 25,
          2 * 3 / 5 / 4]
    dh1 = 1 + z2[0] - 2 * z2[1] + 3 * z2[2] - z2[3]
    # first step: dtanh = 16/25, o = 3/4, and the second step's forget gate lets dc_2 through
    dc1 = -1 + 57 / 50 * GATE_F2 + dh1 * 3 / 4 * 16 / 25
    z1 = [dc1 * 3 / 5 / 4, dc1 * 2 * (math.log(2) - 3 / 10) / 4, dc1 / 2 * 16 / 25, dh1 * 3 / 5 * 3 / 16]
    expected = [[dot(W_ih.ravel(), z1), dot(W_ih.ravel(), z2)], dot(W_HH, z1), dc1 / 2,
                [a - b for a, b in zip(z1, z2)], [a * H0 + b * 9 / 20 for a, b in zip(z1, z2)],
                [a + b for a, b in zip(z1, z2)]]
    gradients = lstm.lstm_backward(np.array([[[1.0], [2.0]]]), np.array([[[-1.0], [0.5]]]), cache)
    for ours, reference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours.ravel(), reference, rtol=1e-13)


# ------------------------------------------------------------------------------------------------ gates

def gates(H, **z):
    """Biases that hold gates open (FAR) or shut (-FAR), whatever comes in."""
    return np.concatenate([np.full(H, float(z.get(gate, 0))) for gate in "ifgo"])


def carried(T=60, N=2, H=3, **z):
    """A sequence on a grid, with no weights: the gates are what their biases say."""
    rng = np.random.default_rng(1)
    return [on_grid(rng, (N, T, 1)), on_grid(rng, (N, H)), on_grid(rng, (N, H)), np.zeros((4 * H, 1)),
            np.zeros((4 * H, H)), gates(H, **z)]


def test_an_open_forget_gate_and_a_shut_input_gate_carry_the_cell_for_ever_and_its_gradient_back():
    """With the output gate shut, dc_0 is the sum of all dc_t: exactly, on a grid."""
    inputs = carried(i=-FAR, f=FAR, o=-FAR)
    hs, cs, cache = lstm.lstm_forward(*inputs)
    np.testing.assert_array_equal(cs, np.broadcast_to(inputs[2][:, None], cs.shape))
    assert not hs.any()
    dcs = on_grid(np.random.default_rng(2), cs.shape)
    dx, dh0, dc0, *_ = lstm.lstm_backward(np.zeros(hs.shape), dcs, cache)
    np.testing.assert_array_equal(dc0, dcs.sum(axis=1))
    assert not dh0.any() and not dx.any()


def test_a_shut_forget_gate_forgets():
    inputs = carried(i=FAR, f=-FAR, g=FAR, o=FAR)
    hs, cs, cache = lstm.lstm_forward(*inputs)
    np.testing.assert_array_equal(cs, 1)
    np.testing.assert_array_equal(hs, np.tanh(1.0))
    dc0 = lstm.lstm_backward(np.ones(hs.shape), np.ones(cs.shape), cache)[2]
    np.testing.assert_array_equal(dc0, 0)


def test_a_half_open_forget_gate_halves_the_gradient_at_every_step():
    inputs = carried(T=9, i=-FAR, o=-FAR)
    hs, cs, cache = lstm.lstm_forward(*inputs)
    np.testing.assert_array_equal(cs[:, -1], inputs[2] / 2**9)
    dcs = np.zeros(cs.shape)
    dcs[:, -1] = 1
    np.testing.assert_array_equal(lstm.lstm_backward(np.zeros(hs.shape), dcs, cache)[2], 0.5**9)


def test_a_shut_output_gate_hides_the_cell():
    hs, cs, _ = lstm.lstm_forward(*carried(i=FAR, f=FAR, g=FAR, o=-FAR))
    assert not hs.any()
    np.testing.assert_array_equal(cs, carried()[2][:, None] + np.arange(1, 61)[:, None])


def test_the_two_cotangents_are_not_one():
    """What reaches h and what reaches c act apart, and add up."""
    inputs = inputs_of("lstm")
    (hs, cs), cache = run_forward("lstm", inputs)
    rng = np.random.default_rng(2)
    dhs, dcs = rng.standard_normal(hs.shape), rng.standard_normal(cs.shape)
    both, h_only, c_only = (run_backward("lstm", pair, cache) for pair in [(dhs, dcs), (dhs, 0 * dcs), (0 * dhs, dcs)])
    for name in both:
        assert relative_error(both[name], h_only[name] + c_only[name]) <= 1e-14
        assert relative_error(h_only[name], c_only[name]) > 0.1


# ------------------------------------------------------------------------------------------------ peepholes

def test_peepholes_of_zero_are_no_peepholes():
    inputs = inputs_of("peephole_lstm_step") | {"p": np.zeros((3, 7))}
    plain = inputs_of("lstm_step")
    inputs |= plain
    *with_p, dp = run("peephole_lstm_step", inputs)
    for ours, reference in zip(with_p, run("lstm_step", plain), strict=True):
        assert relative_error(ours, reference) <= 1e-14
    assert dp.all()


@pytest.mark.parametrize("row, sees_new", [(0, False), (1, False), (2, True)])
def test_each_peephole_sees_its_own_cell(row, sees_new):
    """c_prev = 0 silences the peepholes of i and f, a new c of 0 that of o."""
    inputs = inputs_of("peephole_lstm_step")
    inputs["p"][:] = 0
    silent = {name: a.copy() for name, a in inputs.items()}
    silent["p"][row] = 5.0
    for old_is_zero in (True, False):
        for case in (inputs, silent):
            case["c_prev"] = np.zeros((2, 7)) if old_is_zero else np.ones((2, 7))
            case["b"] = gates(7, i=-FAR, f=FAR if sees_new else 0)       # the new cell is the old one, or half of it
        (h, c), (moved_h, moved_c) = run_forward("peephole_lstm_step", inputs)[0], run_forward(
            "peephole_lstm_step", silent)[0]
        acts = not (np.array_equal(h, moved_h) and np.array_equal(c, moved_c))
        assert acts == (not old_is_zero and row != 0)            # the input gate stays shut


def test_the_peephole_of_the_output_gate_acts_on_the_new_cell():
    """The old cell is 0 and the new one is 1: sigma(5 * 1) against sigma(0)."""
    x, zero = np.zeros((1, 1)), np.zeros((1, 1))
    b, p = gates(1, i=FAR, f=FAR, g=FAR), np.array([[0.0], [0.0], [5.0]])
    h, c, cache = lstm.peephole_lstm_step_forward(x, zero, zero, np.zeros((4, 1)), np.zeros((4, 1)), b, p)
    o, m = 1 / (1 + math.exp(-5)), math.tanh(1)
    assert c == 1
    np.testing.assert_allclose(h, o * m, rtol=1e-15)
    *_, dc_prev, _, _, db, dp = lstm.peephole_lstm_step_backward(np.ones((1, 1)), zero, cache)
    np.testing.assert_allclose(dp.ravel(), [0, 0, m * o * (1 - o)], rtol=1e-13)
    np.testing.assert_allclose(dc_prev, o * (1 - m**2) + m * o * (1 - o) * 5, rtol=1e-13)


def test_the_peephole_of_the_input_gate_acts_on_the_old_cell():
    """sigma(log 3 * 1) = 3/4, and the candidate is 1; the forget gate is shut."""
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    b, p = gates(1, f=-FAR, g=FAR, o=-FAR), np.array([[math.log(3)], [0.0], [0.0]])
    _, c, cache = lstm.peephole_lstm_step_forward(zero, zero, one, np.zeros((4, 1)), np.zeros((4, 1)), b, p)
    np.testing.assert_allclose(c, 3 / 4, rtol=1e-15)
    _, _, dc_prev, _, _, _, dp = lstm.peephole_lstm_step_backward(zero, one, cache)
    np.testing.assert_allclose(dp.ravel(), [3 / 16, 0, 0], rtol=1e-13)
    np.testing.assert_allclose(dc_prev, 3 / 16 * math.log(3), rtol=1e-13)
