"""What is special to backprop_lib.gru; the rules that it shares with the other recurrent pairs are in test_rnn.py."""

import math

import numpy as np
import pytest
from test_rnn import assert_agrees_with_lists, dot, functions, inputs_of, run, sigma

from backprop_lib import gru
from backprop_lib.gradcheck import on_grid, relative_error


FORWARDS = sorted(name.removesuffix("_forward") for name in dir(gru) if name.endswith("_forward"))
FAR = 1000.0                                                    # sigma(FAR) is 1 and sigma(-FAR) is 0, exactly

both_steps = pytest.mark.parametrize("what", ["gru_step", "gru_before_step"])
both_places = pytest.mark.parametrize("what", ["gru, reset after", "gru, reset before"])


# ------------------------------------------------------------------------------------------------ lists, no NumPy

def tanh(z):
    return 2 * sigma(2 * z) - 1


def gru_of_lists(x, h, W_ih, W_hh, b_ih, b_hh, after):
    """The rows of unit k are k, H + k, 2H + k: r, z, n."""
    H = len(h)
    r, z = [[sigma(dot(W_ih[row], x) + b_ih[row] + dot(W_hh[row], h) + b_hh[row]) for row in range(first, first + H)]
            for first in (0, H)]
    let_through = [r[k] * h[k] for k in range(H)]
    new = []
    for k in range(H):
        row = 2 * H + k
        from_state = (r[k] * (dot(W_hh[row], h) + b_hh[row]) if after else dot(W_hh[row], let_through) + b_hh[row])
        new.append((1 - z[k]) * tanh(dot(W_ih[row], x) + b_ih[row] + from_state) + z[k] * h[k])
    return new,


def test_the_module_has_the_pairs_of_the_contract():
    assert FORWARDS == sorted(name.removesuffix("_backward") for name in dir(gru) if name.endswith("_backward"))
    assert {"gru_step", "gru_before_step", "gru"} <= set(FORWARDS)


@pytest.mark.parametrize("what, after", [("gru_step", True), ("gru_before_step", False), ("gru", True),
                                         ("gru, reset after", True), ("gru, reset before", False)])
def test_a_gru_of_lists_has_the_same_numbers_and_gradients(what, after):
    def cell(*args):
        return gru_of_lists(*args, after)
    assert_agrees_with_lists(cell, what)


# ------------------------------------------------------------------------------------------------ worked by hand

@pytest.mark.parametrize("what, state_part", [("gru_step", 1 / 4 * (2 * 3 + 4)), ("gru_before_step", 2 * 3 / 4 + 4)])
def test_one_step_worked_by_hand(what, state_part):
    """h_prev = 3, u_n = 2, b_hn = 4, r = 1/4, z = 3/4, and a bias that makes n = tanh(log 2) = 3/5."""
    after = what == "gru_step"
    W_ih, W_hh = np.array([[1.0], [-1.0], [5.0]]), np.array([[1.0], [-1.0], [2.0]])
    b_hh = np.array([0.5, -0.25, 4.0])
    b_ih = np.array([-math.log(3) - 1 - 3 - 0.5, math.log(3) + 1 + 3 + 0.25, math.log(2) - 5 - state_part])
    h, cache = functions(what)[0](np.ones((1, 1)), np.full((1, 1), 3.0), W_ih, W_hh, b_ih, b_hh)
    np.testing.assert_allclose(h, 1 / 4 * 3 / 5 + 3 / 4 * 3, rtol=1e-14)
    dx, dh_prev, dW_ih, dW_hh, db_ih, db_hh = functions(what)[1](np.full((1, 1), 2.0), cache)
    n = 2 / 4 * 16 / 25                                         # dh (1 - z) (1 - n^2)
    z = 2 * (3 - 3 / 5) * 3 / 16                                # dh (h_prev - n) z (1 - z)
    r = n * (10 if after else 2 * 3) * 3 / 16                   # dn (what r multiplies) r (1 - r)
    through = n / 4                                             # what comes back through r
    np.testing.assert_allclose(dx, r - z + 5 * n, rtol=1e-13)
    np.testing.assert_allclose(dh_prev, 2 * 3 / 4 + r - z + 2 * through, rtol=1e-13)
    np.testing.assert_allclose(dW_ih.ravel(), [r, z, n], rtol=1e-13)
    np.testing.assert_allclose(dW_hh.ravel(), [3 * r, 3 * z, 3 * through], rtol=1e-13)
    np.testing.assert_allclose(db_ih, [r, z, n], rtol=1e-13)
    np.testing.assert_allclose(db_hh, [r, z, through if after else n], rtol=1e-13)


# ------------------------------------------------------------------------------------------------ gates

def gates(H, **z):
    """Biases that hold gates open (FAR) or shut (-FAR), whatever comes in."""
    return np.concatenate([np.full(H, float(z.get(gate, 0))) for gate in "rzn"])


@both_places
def test_an_update_gate_of_one_carries_the_state_for_ever_and_its_gradient_back(what):
    rng = np.random.default_rng(1)
    inputs = inputs_of(what, T=60) | {"b_ih": gates(7, z=FAR), "h0": on_grid(rng, (2, 7))}
    hs, cache = functions(what)[0](*inputs.values(), "after" in what)
    np.testing.assert_array_equal(hs, np.broadcast_to(inputs["h0"][:, None], hs.shape))
    dhs = on_grid(rng, hs.shape)
    dx, dh0, *_ = functions(what)[1](dhs, cache)
    np.testing.assert_array_equal(dh0, dhs.sum(axis=1))
    assert not dx.any()


@both_steps
def test_an_update_gate_of_zero_takes_the_candidate(what):
    inputs = inputs_of(what) | {"b_ih": gates(7, z=-FAR, n=FAR)}
    np.testing.assert_array_equal(functions(what)[0](*inputs.values())[0], 1)


@both_steps
def test_the_gates_of_the_other_letter_are_not_the_update_gate(what):
    """An open or shut reset gate carries nothing and takes nothing whole."""
    for value in (FAR, -FAR):
        inputs = inputs_of(what) | {"b_ih": gates(7, r=value)}
        h = functions(what)[0](*inputs.values())[0]
        assert relative_error(h, inputs["h_prev"]) > 0.1 and (np.abs(h) < 3).all()


def test_a_shut_reset_gate_silences_the_hidden_bias_only_where_it_comes_after_the_product():
    inputs = inputs_of("gru_step") | {"b_ih": gates(7, r=-FAR, z=-FAR)}
    x, _, W_ih, _, _, b_hh = inputs.values()
    after, before = (functions(what)[0](*inputs.values())[0] for what in ("gru_step", "gru_before_step"))
    np.testing.assert_allclose(after, np.tanh(x @ W_ih[14:].T), rtol=1e-13)
    np.testing.assert_allclose(before, np.tanh(x @ W_ih[14:].T + b_hh[14:]), rtol=1e-13)


def test_an_open_reset_gate_makes_both_places_one():
    inputs = inputs_of("gru_step") | {"b_ih": gates(7, r=FAR)}
    for a, b in zip(run("gru_step", inputs), run("gru_before_step", inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_the_two_places_differ():
    inputs = inputs_of("gru_step")
    for a, b in zip(run("gru_step", inputs), run("gru_before_step", inputs), strict=True):
        assert relative_error(a, b) > 1e-2


@both_places
def test_the_biases_of_the_reset_and_update_gates_have_one_gradient_and_those_of_the_candidate_two(what):
    *_, db_ih, db_hh = run(what, inputs_of(what))
    np.testing.assert_allclose(db_ih[:14], db_hh[:14], rtol=1e-13)
    same = relative_error(db_ih[14:], db_hh[14:])
    assert same > 0.1 if "after" in what else same <= 1e-14


@both_steps
def test_the_biases_cannot_change_places_unseen(what):
    inputs = inputs_of(what)
    swapped = inputs | {"b_ih": inputs["b_hh"], "b_hh": inputs["b_ih"]}
    h, other = run(what, inputs)[0], run(what, swapped)[0]
    assert relative_error(h, other) > 0.1 if what == "gru_step" else relative_error(h, other) <= 1e-14
