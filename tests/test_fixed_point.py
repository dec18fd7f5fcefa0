"""backprop_lib.fixed_point: at rest, right to the last bits, the limit of unrolling, and loud when nothing rests.

It has no numbered equations, so the rules of the other pairs (test_conventions.py) are tested here.
"""

import inspect

import numpy as np
import pytest
from arrays import frozen, normal, refuses, same_bits, spread

from backprop_lib import fixed_point, init, rnn
from backprop_lib.autodiff import Node, gradients, tanh
from backprop_lib.fixed_point import fixed_point_backward, fixed_point_forward
from backprop_lib.gradcheck import check_gradients, relative_error
from backprop_lib.shapes import PRIMES, parse_shapes, shape_of


N, D, H = PRIMES["N"], PRIMES["D"], PRIMES["H"]
INHIBITION = -1.5 * (1 - np.eye(2))                             # two units, each of which turns the other down

each_size = pytest.mark.parametrize("size", [0.0, 0.5, 0.9])


def inputs_of(size=0.7, dtype=np.float64, N=N):
    """x, W_ih, W_hh, b; W_hh is an orthogonal matrix times its size, so that below 1 the network comes to rest."""
    W_hh = size * init.orthogonal(np.random.default_rng(0), (H, H))
    return [a.astype(dtype) for a in (normal(N, D), normal(H, D) / 2, W_hh, normal(H))]


def run(inputs, dh=None):
    h, cache = fixed_point_forward(*inputs)
    return h, *fixed_point_backward(normal(*h.shape, seed=2).astype(h.dtype) if dh is None else dh, cache)


# ------------------------------------------------------------------------------------------------ right

@each_size
def test_the_state_is_at_rest(size):
    x, W_ih, W_hh, b = inputs = inputs_of(size)
    h, _ = fixed_point_forward(*inputs)
    for n in range(N):
        assert relative_error(h[n], np.tanh(W_ih @ x[n] + W_hh @ h[n] + b)) < 1e-14


@each_size
def test_gradients_by_the_complex_step(size):
    check_gradients(fixed_point_forward, fixed_point_backward, *inputs_of(size))


def test_gradients_where_the_state_is_0():
    """The real part is at rest at once, the imaginary part of the complex step is not."""
    x, W_ih, W_hh, b = inputs_of(0.9)
    check_gradients(fixed_point_forward, fixed_point_backward, 0 * x, W_ih, W_hh, 0 * b)


@each_size
def test_gradients_are_those_of_a_long_unrolled_network(size):
    """Of `rnn`, 400 steps with the same input, the loss at the last: its input gradients add up over the steps."""
    x, *weights = inputs_of(size)
    h, *found = run([x, *weights])
    hs, cache = rnn.rnn_forward(np.repeat(x[:, None], 400, axis=1), np.zeros(h.shape), *weights)
    dhs = np.zeros(hs.shape)
    dhs[:, -1] = normal(*h.shape, seed=2)
    dx, _, *expected = rnn.rnn_backward(dhs, cache)
    assert max(map(relative_error, found, [dx.sum(axis=1), *expected])) < 1e-11


def test_gradients_are_those_of_the_tape():
    """Sixty steps recorded from elementary operations; 0.5 to the 60th is nothing."""
    x, W_ih, W_hh, b = nodes = [Node(a) for a in inputs_of(0.5)]
    h = tanh(x @ W_ih.T + b)
    for _ in range(60):
        h = tanh(x @ W_ih.T + h @ W_hh.T + b)
    _, *found = run(inputs_of(0.5))
    loss = (h * normal(N, H, seed=2)).sum()
    assert max(map(relative_error, found, gradients(loss, *nodes))) < 1e-12


def test_an_unstable_rest_has_a_gradient_too():
    """Both units equal: no run gets there, but the linear system has its derivative, 1/(1/slope + 1.5) each way."""
    h = 0.5
    slope = 1 - h * h
    cache = fixed_point.FixedPointCache(np.zeros((1, 2)), np.full((1, 2), h), np.eye(2), INHIBITION)
    dx = fixed_point_backward(np.ones((1, 2)), cache)[0]
    np.testing.assert_allclose(dx, 1 / (1 / slope + 1.5), rtol=1e-14)


# ------------------------------------------------------------------------------------------------ the rules of a pair

def test_the_docstrings_tell_names_and_shapes():
    (arguments, outputs), (cotangents, found) = map(parse_shapes, (fixed_point_forward, fixed_point_backward))
    assert [a.name for a in arguments] == list(inspect.signature(fixed_point_forward).parameters)[:4]
    assert [a.name for a in outputs] == ["h"] and [a.name for a in cotangents] == ["dh"]
    assert [a.name for a in found] == [f"d{a.name}" for a in arguments]
    h, *shapes = map(np.shape, run(inputs_of()))
    assert h == shape_of(outputs[0]) and shapes == [shape_of(a) for a in found] == [shape_of(a) for a in arguments]


def test_cotangents_twice_as_large_and_zero():
    h, cache = fixed_point_forward(*inputs_of())
    dh = normal(*h.shape)
    once, again, double, nothing = (fixed_point_backward(g, cache) for g in (dh, dh, 2 * dh, 0 * dh))
    assert same_bits(once, again) and same_bits([2 * g for g in once], double) and not any(g.any() for g in nothing)


def test_nothing_is_changed_and_any_layout_will_do():
    inputs, dh = inputs_of(), normal(N, H, seed=2)
    expected = run(inputs, dh)
    assert same_bits(run([frozen(a) for a in inputs], frozen(dh)), expected)
    assert max(map(relative_error, run([spread(a) for a in inputs], spread(dh)), expected)) < 1e-13
    h, cache = fixed_point_forward(*inputs)
    before = [np.array(a) for a in cache]
    fixed_point_backward(dh, cache)
    assert same_bits(before, cache)


def test_float32_stays_float32():
    narrow, wide = run(inputs_of(dtype=np.float32)), run(inputs_of())
    assert all(a.dtype == np.float32 for a in narrow) and max(map(relative_error, narrow, wide)) < 1e-4


def test_no_example_and_one_example():
    h, *found = run(inputs_of(N=0))
    assert h.shape == (0, H) and not any(g.any() for g in found)
    inputs, dh = inputs_of(), normal(N, H, seed=2)
    rows = [run([inputs[0][n:n + 1], *inputs[1:]], dh[n:n + 1]) for n in range(N)]
    together = run(inputs, dh)
    for a, *each in zip(together, *rows):
        assert relative_error(np.concatenate(each) if len(a) == N else sum(each), a) < 1e-12


# ------------------------------------------------------------------------------------------------ what is refused

def test_a_network_that_does_not_rest_is_refused():
    swinging = np.full((1, 2), 0.1), np.eye(2), INHIBITION, np.zeros(2)
    refuses(ValueError, "fixed_point_forward: the state must come to rest, but it still moves after 50 steps, by ",
            fixed_point_forward, *swinging, steps=50)
    refuses(ValueError, "still moves after 3 steps", fixed_point_forward, *inputs_of(0.9), steps=3)
    refuses(ValueError, "still moves after 5 steps, by nan", fixed_point_forward, *[np.nan * a for a in inputs_of()],
            steps=5)


def test_bad_arguments_are_refused():
    x, W_ih, W_hh, b = inputs_of()
    refuses(TypeError, "fixed_point_forward: x must be an array of floats, got int64", fixed_point_forward,
            np.ones((N, D), np.int64), W_ih, W_hh, b)
    refuses(TypeError, "fixed_point_forward: b must be an array of floats, got list", fixed_point_forward,
            x, W_ih, W_hh, b.tolist())
    refuses(ValueError, f"fixed_point_forward: W_ih must have shape ({H}, {D - 1})", fixed_point_forward,
            x[:, 1:], W_ih, W_hh, b)
    refuses(ValueError, f"fixed_point_forward: b must have shape ({H},), got (1,)", fixed_point_forward,
            x, W_ih, W_hh, b[:1])
    refuses(ValueError, "fixed_point_forward: x must have shape (N, D)", fixed_point_forward, x[0], W_ih, W_hh, b)
    refuses(ValueError, "fixed_point_forward: steps must be a whole number of at least 1, got 0", fixed_point_forward,
            x, W_ih, W_hh, b, steps=0)
    _, cache = fixed_point_forward(x, W_ih, W_hh, b)
    refuses(ValueError, f"fixed_point_backward: dh must have the shape ({N}, {H}) of the output, got ({H},)",
            fixed_point_backward, normal(H), cache)
