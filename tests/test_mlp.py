"""Every pair of backprop_lib.mlp: right to the last bits, pure, quiet on extreme input, loud on bad input."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrays import frozen, same_bits

from backprop_lib import mlp
from backprop_lib.gradcheck import away_from_kinks, check_adjoint, check_gradients, on_grid
from backprop_lib.shapes import build_inputs, parse_shapes


FORWARDS = sorted(name.removesuffix("_forward") for name in dir(mlp) if name.endswith("_forward"))
BACKWARDS = sorted(name.removesuffix("_backward") for name in dir(mlp) if name.endswith("_backward"))
LOSSES = [pair for pair in FORWARDS if parse_shapes(getattr(mlp, f"{pair}_forward"))[1][0].dims == ()]
MEANS = ["mse", "sigmoid_bce", "softmax_cross_entropy"]
ELEMENTWISE = ["identity", "leaky_relu", "relu", "sigmoid", "softplus", "tanh"]
LIMIT = 1e-12

every_pair = pytest.mark.parametrize("pair", FORWARDS)


# ------------------------------------------------------------------------------------------------ helpers

def functions(pair):
    return getattr(mlp, f"{pair}_forward"), getattr(mlp, f"{pair}_backward")


def inputs_of(pair, seed=1):
    """Random prime-sized inputs of the documented shapes and ranges, no real entry near a kink."""
    rng = np.random.default_rng(seed)
    inputs = build_inputs(functions(pair)[0], rng)
    return [away_from_kinks(rng, a.shape) if np.ndim(a) and a.min() < 0 else a for a in inputs]


def cotangents_of(pair, outputs, seed=2):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(y.shape) if np.ndim(y) else float(rng.standard_normal()) for y in outputs]


def run_forward(pair, inputs):
    *outputs, cache = functions(pair)[0](*inputs)
    return outputs, cache


def run_backward(pair, cotangents, cache):
    gradients = functions(pair)[1](*cotangents, cache)
    return gradients if isinstance(gradients, tuple) else (gradients,)


def run(pair, inputs, cotangents=None):
    """All outputs and all gradients of one pair."""
    outputs, cache = run_forward(pair, inputs)
    return outputs, run_backward(pair, cotangents or cotangents_of(pair, outputs), cache)


def relative_error(ours, reference):
    scale = max(np.linalg.norm(ours), np.linalg.norm(reference))
    return np.linalg.norm(np.asarray(ours) - reference) / scale if scale else 0.0


def gradient_positions(pair):
    """Where the arguments stand in the forward's signature that get a gradient."""
    forward, backward = functions(pair)
    names = [argument.name for argument in parse_shapes(forward)[0]]
    return [names.index(gradient.name[1:]) for gradient in parse_shapes(backward)[1]]


def complex_step(pair, inputs, position, cotangents):
    """Independent of gradcheck: the imaginary part of <cotangents, outputs>, one entry at a time."""
    gradient = np.empty(inputs[position].shape)
    for index in np.ndindex(gradient.shape):
        nudge = np.zeros(gradient.shape, dtype=complex)
        nudge[index] = 1e-40j
        nudged = [a + nudge if i == position else a for i, a in enumerate(inputs)]
        outputs, _ = run_forward(pair, nudged)
        gradient[index] = sum((w * y.imag).sum() for w, y in zip(cotangents, outputs)) / 1e-40
    return gradient


# ------------------------------------------------------------------------------------------------ right

def test_every_forward_has_a_backward_and_every_backward_a_forward():
    assert FORWARDS == BACKWARDS
    assert len(FORWARDS) >= 14


@every_pair
def test_gradients_agree_with_the_complex_step_of_gradcheck(pair):
    forward, backward = functions(pair)
    report = check_gradients(forward, backward, *inputs_of(pair), rng=np.random.default_rng(3))
    assert len(report.errors) == len(gradient_positions(pair)) > 0
    assert max(report.errors.values()) <= LIMIT


@every_pair
@pytest.mark.parametrize("seed", [1, 2])
def test_gradients_agree_with_a_complex_step_of_our_own(pair, seed):
    inputs = inputs_of(pair, seed)
    cotangents = cotangents_of(pair, run_forward(pair, inputs)[0], seed)
    gradients = run(pair, inputs, cotangents)[1]
    for position, gradient in zip(gradient_positions(pair), gradients, strict=True):
        reference = complex_step(pair, inputs, position, cotangents)
        assert np.linalg.norm(reference) > 0
        assert relative_error(gradient, reference) <= LIMIT


@pytest.mark.parametrize("argument", ["x", "W", "b"])
@pytest.mark.parametrize("seed", range(3))
def test_linear_is_the_exact_adjoint_in_each_argument(argument, seed):
    rng = np.random.default_rng(seed)
    inputs = [on_grid(rng, shape) for shape in [(3, 7), (5, 7), (5,)]]
    assert check_adjoint(mlp.linear_forward, mlp.linear_backward, *inputs, wrt=argument, rng=rng) != 0


@pytest.mark.parametrize("p", [0.0, 0.5, 0.75, 0.875])
def test_dropout_is_the_exact_adjoint(p):
    rng = np.random.default_rng(1)
    h, mask = on_grid(rng, (5, 7)), rng.integers(0, 2, (5, 7))
    assert check_adjoint(mlp.dropout_forward, mlp.dropout_backward, h, mask, p, wrt="h", rng=rng) != 0


def test_identity_is_the_exact_adjoint():
    rng = np.random.default_rng(1)
    assert check_adjoint(mlp.identity_forward, mlp.identity_backward, on_grid(rng, (5, 7)), wrt="z", rng=rng) != 0


def entrywise_adjoint(forward, backward, inputs, position, rng):
    """The gradient entry by entry, from <w, f(x + e_i) - f(x)>: exact on a grid, and no entry can hide."""
    outputs, cache = forward(*inputs)
    w = on_grid(rng, outputs.shape)
    expected = np.empty(inputs[position].shape)
    for index in np.ndindex(expected.shape):
        unit = np.zeros(expected.shape)
        unit[index] = 1
        moved, _ = forward(*[a + unit if i == position else a for i, a in enumerate(inputs)])
        expected[index] = (w * (moved - outputs)).sum()
    return expected, backward(w, cache)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("N, D, H", [(1, 1, 1), (1, 3, 2), (5, 3, 2), (2, 4, 4)])
def test_each_entry_of_a_linear_gradient_is_exact_on_a_grid(position, N, D, H):
    rng = np.random.default_rng(N)
    inputs = [on_grid(rng, shape) for shape in [(N, D), (H, D), (H,)]]
    expected, gradients = entrywise_adjoint(mlp.linear_forward, mlp.linear_backward, inputs, position, rng)
    np.testing.assert_array_equal(gradients[position], expected)


@pytest.mark.parametrize("pair, others", [("identity", lambda: []),
                                          ("dropout", lambda: [np.array([[1, 0, 1], [0, 1, 1]]), 0.75])])
def test_each_entry_of_an_elementwise_linear_gradient_is_exact_on_a_grid(pair, others):
    rng = np.random.default_rng(1)
    inputs = [on_grid(rng, (2, 3)), *others()]
    expected, gradient = entrywise_adjoint(*functions(pair), inputs, 0, rng)
    np.testing.assert_array_equal(gradient, expected)


def test_linear_forward_is_the_textbook_sum():
    x, W, b = inputs_of("linear")
    z, _ = mlp.linear_forward(x, W, b)
    for n, h in np.ndindex(z.shape):
        assert math.isclose(z[n, h], math.fsum(W[h] * x[n]) + b[h], rel_tol=1e-14, abs_tol=1e-14)


# ------------------------------------------------------------------------------------------------ pure

def flattened(value):
    """All arrays and numbers inside nested tuples, lists and dicts."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in flattened(item)]
    return [value]


@every_pair
def test_backward_twice_gives_the_same_bits(pair):
    outputs, cache = run_forward(pair, inputs_of(pair))
    cotangents = cotangents_of(pair, outputs)
    first = copy.deepcopy(run_backward(pair, cotangents, cache))
    assert same_bits(first, run_backward(pair, cotangents, cache))


@every_pair
def test_a_second_forward_leaves_the_first_cache_alone(pair):
    inputs, others = inputs_of(pair, 1), inputs_of(pair, 2)
    expected = copy.deepcopy(run(pair, inputs)[1])
    outputs, cache = run_forward(pair, inputs)
    run(pair, others)
    assert same_bits(run_backward(pair, cotangents_of(pair, outputs), cache), expected)


@every_pair
def test_nothing_passed_in_is_modified(pair):
    inputs = inputs_of(pair)
    kept_inputs = copy.deepcopy(inputs)
    outputs, cache = run_forward(pair, inputs)
    assert same_bits(inputs, kept_inputs)
    cotangents = cotangents_of(pair, outputs)
    kept = copy.deepcopy((inputs, cotangents, cache, outputs))
    run_backward(pair, cotangents, cache)
    assert same_bits(flattened((inputs, cotangents, cache, outputs)), flattened(kept))


@every_pair
def test_backward_does_not_write_into_earlier_gradients_or_outputs(pair):
    inputs = inputs_of(pair)
    outputs, cache = run_forward(pair, inputs)
    cotangents = cotangents_of(pair, outputs)
    gradients = run_backward(pair, cotangents, cache)
    kept = copy.deepcopy((outputs, gradients))
    run_backward(pair, [2 * w for w in cotangents], cache)
    run(pair, inputs_of(pair, 2))
    assert same_bits(flattened((outputs, gradients)), flattened(kept))


@every_pair
def test_read_only_arrays_work_and_give_the_same_bits(pair):
    inputs = inputs_of(pair)
    outputs, gradients = run(pair, inputs)
    cotangents = [frozen(w) if np.ndim(w) else w for w in cotangents_of(pair, outputs)]
    again = run(pair, [frozen(a) if np.ndim(a) else a for a in inputs], cotangents)
    assert same_bits([*outputs, *gradients], [*again[0], *again[1]])


def every_second(a):
    wide = np.full(tuple(2 * size for size in a.shape), 7, dtype=a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


LAYOUTS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "fortran": np.asfortranarray,
    "sliced": every_second,
    "negative stride": lambda a: np.flip(np.flip(a).copy()),
    "one broadcast row": lambda a: np.broadcast_to(a[:1], a.shape),
}


@every_pair
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_gives_the_same_numbers(pair, layout):
    def laid_out(arrays):
        return [LAYOUTS[layout](a) if np.ndim(a) else a for a in arrays]

    inputs = inputs_of(pair)
    odd_inputs = laid_out(inputs)
    plain_inputs = [np.array(a, order="C") if np.ndim(a) else a for a in odd_inputs]
    outputs, cache = run_forward(pair, plain_inputs)
    odd_cotangents = laid_out(cotangents_of(pair, outputs))
    plain_cotangents = [np.array(w, order="C") if np.ndim(w) else w for w in odd_cotangents]
    expected = [*outputs, *run_backward(pair, plain_cotangents, cache)]
    odd_outputs, odd_gradients = run(pair, odd_inputs, odd_cotangents)
    for ours, reference in zip([*odd_outputs, *odd_gradients], expected, strict=True):
        assert np.shape(ours) == np.shape(reference)
        assert relative_error(ours, reference) <= 1e-14


@every_pair
def test_twice_the_cotangent_gives_twice_the_gradient_bit_for_bit(pair):
    outputs, cache = run_forward(pair, inputs_of(pair))
    cotangents = cotangents_of(pair, outputs)
    once = run_backward(pair, cotangents, cache)
    twice = run_backward(pair, [2 * w for w in cotangents], cache)
    assert same_bits([2 * gradient for gradient in once], twice)


@every_pair
def test_a_zero_cotangent_gives_exactly_zero(pair):
    outputs, cache = run_forward(pair, inputs_of(pair))
    for gradient in run_backward(pair, [0 * w for w in cotangents_of(pair, outputs)], cache):
        assert not gradient.any()


@every_pair
def test_eight_threads_give_the_same_bits(pair):
    problems = [inputs_of(pair, seed) for seed in range(8)]
    expected = [copy.deepcopy(run(pair, inputs)) for inputs in problems]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: run(pair, problems[i % 8]), range(64)))
    for i, (outputs, gradients) in enumerate(answers):
        assert same_bits([*outputs, *gradients], flattened(expected[i % 8]))


def changed(value):
    if np.ndim(value) == 0:
        return value / 2 + 0.1
    if value.dtype.kind == "i":
        return 1 - value if value.max() == 1 else np.roll(value, 1)
    return 0.75 * np.roll(value, 1)


@pytest.mark.parametrize("pair, argument", [(pair, a.name) for pair in FORWARDS
                                            for a in parse_shapes(functions(pair)[0])[0]])
def test_every_documented_argument_changes_the_output(pair, argument):
    inputs = inputs_of(pair)
    which = [a.name for a in parse_shapes(functions(pair)[0])[0]].index(argument)
    other = [changed(a) if i == which else a for i, a in enumerate(inputs)]
    assert not same_bits(run_forward(pair, inputs)[0], run_forward(pair, other)[0])


# ------------------------------------------------------------------------------------------------ number types

def as_float32(value):
    if np.ndim(value) == 0:
        return value                                            # a Python number takes the width of the arrays
    return value.astype(np.float32) if value.dtype == np.float64 else value


@every_pair
def test_float32_in_gives_float32_out(pair):
    outputs, cache = run_forward(pair, [as_float32(a) for a in inputs_of(pair)])
    assert [y.dtype for y in outputs] == [np.float32] * len(outputs)
    cotangents = [as_float32(w) for w in cotangents_of(pair, outputs)]
    for gradient in run_backward(pair, cotangents, cache):
        assert gradient.dtype == np.float32


@every_pair
def test_float32_is_as_accurate_as_float32_can_be(pair):
    inputs = inputs_of(pair)
    outputs, gradients = run(pair, inputs)
    outputs_32, gradients_32 = run(pair, [as_float32(a) for a in inputs])
    for ours, reference in zip([*outputs_32, *gradients_32], [*outputs, *gradients], strict=True):
        assert relative_error(ours, reference) <= 1e-5


@pytest.mark.parametrize("pair", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loss_itself_can_be_the_cotangent_of_its_own_width(pair, dtype):
    inputs = [a.astype(dtype) if np.ndim(a) and a.dtype == np.float64 else a for a in inputs_of(pair)]
    (loss,), cache = run_forward(pair, inputs)
    assert np.ndim(loss) == 0 and loss.dtype == dtype
    for gradient in run_backward(pair, [loss], cache):
        assert gradient.dtype == dtype


@every_pair
def test_float64_in_gives_float64_out(pair):
    outputs, gradients = run(pair, inputs_of(pair))
    assert {np.asarray(a).dtype for a in [*outputs, *gradients]} == {np.dtype(np.float64)}


def with_dtype(pair, dtype):
    """Zeros and ones of one type, where the docstring asks for no range."""
    arguments = parse_shapes(functions(pair)[0])[0]
    return [(np.arange(a.size).reshape(a.shape) % 2).astype(dtype) if argument.dims and not argument.range else a
            for argument, a in zip(arguments, inputs_of(pair))]


@every_pair
def test_integers_are_converted_to_float64_or_refused(pair):
    """One rule, and never a quiet -1 that becomes 255 or a float16 that comes out of exp."""
    expected = run_forward(pair, with_dtype(pair, np.float64))[0][0]
    for kind in [np.int64, np.int8, np.uint8, np.bool_]:
        try:
            outputs, _ = run_forward(pair, with_dtype(pair, kind))
        except (TypeError, ValueError) as error:
            assert f"{pair}_forward" in str(error)
        else:
            assert [np.asarray(y).dtype for y in outputs] == [np.float64], kind
            assert relative_error(outputs[0], expected) <= 1e-15, kind


@pytest.mark.parametrize("pair", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(4,), (2, 3, 5), (1, 1)])
def test_elementwise_functions_take_any_shape(pair, shape):
    rng = np.random.default_rng(1)
    z, dh = rng.standard_normal(shape), rng.standard_normal(shape)
    (h,), (dz,) = run(pair, [z], [dh])
    (flat_h,), (flat_dz,) = run(pair, [z.reshape(-1, 1)], [dh.reshape(-1, 1)])
    assert same_bits([h, dz], [flat_h, flat_dz])
    assert h.shape == dz.shape == shape


@pytest.mark.parametrize("pair", ["l1_penalty", "l2_penalty"])
def test_penalties_take_any_shape(pair):
    W = away_from_kinks(np.random.default_rng(1), (2, 3, 5))
    (loss,), (dW,) = run(pair, [W, 0.3], [1.5])
    (flat_loss,), (flat_dW,) = run(pair, [W.reshape(6, 5), 0.3], [1.5])
    assert loss == pytest.approx(flat_loss, rel=1e-14)
    assert same_bits([dW], [flat_dW])
    assert dW.shape == W.shape


def test_softmax_works_on_the_last_axis_of_any_shape():
    rng = np.random.default_rng(1)
    z, dp = rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 3, 5))
    (p,), (dz,) = run("softmax", [z], [dp])
    (flat_p,), (flat_dz,) = run("softmax", [z.reshape(6, 5)], [dp.reshape(6, 5)])
    assert same_bits([p, dz], [flat_p, flat_dz])
    assert p.shape == dz.shape == z.shape


# ------------------------------------------------------------------------------------------------ extreme input

EXTREME = np.array([[1000.0, -1000.0, 0.0], [-1000.0, 999.0, 1000.0], [30.0, -30.0, 1e-300]])
HUGE = 10 * EXTREME
CLASSES = np.array([0, 0, 2])
FRACTIONS = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 1.0], [0.25, 0.75, 1.0]])
EXTREMES = {"sigmoid": [EXTREME], "tanh": [EXTREME], "softplus": [EXTREME], "relu": [EXTREME], "identity": [EXTREME],
            "leaky_relu": [EXTREME, 0.0], "softmax": [HUGE], "softmax_cross_entropy": [HUGE, CLASSES],
            "sigmoid_bce": [HUGE, FRACTIONS], "mse": [HUGE, -HUGE], "l1_penalty": [HUGE, 0.1],
            "l2_penalty": [HUGE, 0.1], "dropout": [HUGE, np.eye(3), 0.5], "linear": [HUGE, HUGE, HUGE[0]]}


@every_pair
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_overflow_and_no_invalid_operation_on_extreme_input(pair, dtype):
    inputs = [a.astype(dtype) if np.ndim(a) and a.dtype == np.float64 else a for a in EXTREMES[pair]]
    with np.errstate(all="raise", under="ignore"):
        outputs, cache = run_forward(pair, inputs)
        gradients = run_backward(pair, [np.ones(np.shape(y), dtype) for y in outputs], cache)
    for array in [*outputs, *gradients]:
        assert np.isfinite(array).all()


def test_extreme_activations_take_their_limits():
    z = np.array([1000.0, -1000.0])
    assert mlp.sigmoid_forward(z)[0].tolist() == [1, 0]
    assert mlp.tanh_forward(z)[0].tolist() == [1, -1]
    assert mlp.softplus_forward(z)[0].tolist() == [1000, 0]
    assert mlp.softplus_backward(np.ones(2), mlp.softplus_forward(z)[1]).tolist() == [1, 0]
    assert mlp.softmax_forward(z)[0].tolist() == [1, 0]


def test_the_loss_of_a_sure_and_wrong_answer_is_its_distance():
    z = np.array([[1e4, -1e4]])
    loss, cache = mlp.softmax_cross_entropy_forward(z, np.array([1]))
    assert loss == 2e4
    assert mlp.softmax_cross_entropy_backward(1.0, cache).tolist() == [[1, -1]]
    loss, cache = mlp.sigmoid_bce_forward(z, np.array([[0.0, 1.0]]))
    assert loss == 1e4
    assert mlp.sigmoid_bce_backward(1.0, cache).tolist() == [[0.5, -0.5]]


SIZES = [1.0, 5.0, 15.0, 20.5, 30.0, 36.5, 40.0, 100.0, 700.0]


@pytest.mark.parametrize("size", SIZES)
def test_sigmoid_is_accurate_in_both_tails(size):
    small = math.exp(-size)
    h, _ = mlp.sigmoid_forward(np.array([-size, size]))
    assert math.isclose(h[0], small / (1 + small), rel_tol=1e-15)
    assert math.isclose(h[1], 1 / (1 + small), rel_tol=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_softplus_is_accurate_in_both_tails(size):
    small = math.log1p(math.exp(-size))
    h, _ = mlp.softplus_forward(np.array([-size, size]))
    assert math.isclose(h[0], small, rel_tol=1e-15)
    assert math.isclose(h[1], size + small, rel_tol=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_softplus_is_accurate_in_both_tails(size):
    small = math.exp(-size)
    dz = mlp.softplus_backward(np.ones(2), mlp.softplus_forward(np.array([-size, size]))[1])
    assert math.isclose(dz[0], small / (1 + small), rel_tol=1e-15)
    assert math.isclose(dz[1], 1 / (1 + small), rel_tol=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_sigmoid_is_accurate_in_the_left_tail(size):
    small = math.exp(-size)
    dz = mlp.sigmoid_backward(np.ones(1), mlp.sigmoid_forward(np.array([-size]))[1])
    assert math.isclose(dz[0], small / (1 + small)**2, rel_tol=1e-15)


@pytest.mark.parametrize("t", [0.0, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_bce_of_a_sure_and_right_answer_is_small_but_accurate(size, t):
    loss, _ = mlp.sigmoid_bce_forward(np.array([[size if t else -size]]), np.array([[t]]))
    assert math.isclose(loss, math.log1p(math.exp(-size)), rel_tol=1e-14)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("z", [-3.0, -0.5, 0.0, 0.5, 3.0])
def test_bce_is_its_definition(z, t):
    y = 1 / (1 + math.exp(-z))
    loss, _ = mlp.sigmoid_bce_forward(np.array([[z]]), np.array([[t]]))
    assert math.isclose(loss, -t * math.log(y) - (1 - t) * math.log(1 - y), rel_tol=1e-14)


# ------------------------------------------------------------------------------------------------ kinks, NaN and inf

ZEROS = np.array([0.0, -0.0])


def test_relu_has_derivative_0_at_0_and_1_just_above():
    h, cache = mlp.relu_forward(np.array([0.0, -0.0, 5e-324, -5e-324]))
    assert h.tolist() == [0, 0, 5e-324, 0]
    assert mlp.relu_backward(np.full(4, 3.0), cache).tolist() == [0, 0, 3, 0]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.75])
def test_leaky_relu_has_derivative_alpha_at_0(alpha):
    h, cache = mlp.leaky_relu_forward(np.array([0.0, -0.0, 4.0, -4.0]), alpha)
    assert h.tolist() == [0, 0, 4, -4 * alpha]
    assert mlp.leaky_relu_backward(np.full(4, 3.0), cache).tolist() == [3 * alpha, 3 * alpha, 3, 3 * alpha]


def test_leaky_relu_has_slope_one_hundredth_unless_told():
    assert mlp.leaky_relu_forward(np.array([-1.0]))[0].tolist() == [-0.01]


def test_the_l1_penalty_has_derivative_0_at_0():
    loss, cache = mlp.l1_penalty_forward(np.array([0.0, -0.0, 3.0, -2.0]), 0.5)
    assert loss == 2.5
    assert mlp.l1_penalty_backward(4.0, cache).tolist() == [0, 0, 2, -2]


def test_the_l2_penalty_is_half_lambda_times_the_sum_of_squares():
    loss, cache = mlp.l2_penalty_forward(np.array([[1.0, -2.0], [3.0, 0.0]]), 0.5)
    assert loss == 3.5
    assert mlp.l2_penalty_backward(4.0, cache).tolist() == [[2, -4], [6, 0]]


@pytest.mark.parametrize("nudge", [1e-40j, -1e-40j])
def test_at_a_kink_the_complex_step_sees_the_stated_derivative(nudge):
    z = np.array([0, -0.0]) + nudge
    assert mlp.relu_forward(z)[0].tolist() == [0, 0]
    assert mlp.leaky_relu_forward(z, 0.25)[0].imag.tolist() == [0.25 * nudge.imag] * 2
    assert mlp.l1_penalty_forward(z, 0.5)[0] == 0


ONE_SPOILT = {
    "linear": lambda bad: [np.array([[1.0, bad], [1.0, 2.0]]), np.ones((3, 2)), np.ones(3)],
    "dropout": lambda bad: [np.array([[1.0, bad], [1.0, 2.0]]), np.ones((2, 2)), 0.5],
    "leaky_relu": lambda bad: [np.array([[1.0, bad], [1.0, 2.0]]), 0.5],
    "mse": lambda bad: [np.array([[1.0, bad], [1.0, 2.0]]), np.ones((2, 2))],
    "sigmoid_bce": lambda bad: [np.array([[1.0, bad], [1.0, 2.0]]), np.full((2, 2), 0.5)],
    "softmax_cross_entropy": lambda bad: [np.array([[1.0, bad], [1.0, 2.0]]), np.array([0, 0])],
    "l1_penalty": lambda bad: [np.array([[1.0, bad], [1.0, 2.0]]), 0.5],
    "l2_penalty": lambda bad: [np.array([[1.0, bad], [1.0, 2.0]]), 0.5],
}


@every_pair
def test_nan_is_not_hidden_and_does_not_spread_to_other_examples(pair):
    spoil = ONE_SPOILT.get(pair, lambda bad: [np.array([[1.0, bad], [1.0, 2.0]])])
    (y,), _ = run_forward(pair, spoil(np.nan))
    assert np.isnan(y if pair in LOSSES else y[0, 1])
    if pair not in LOSSES:
        np.testing.assert_array_equal(y[1], run_forward(pair, spoil(5.0))[0][0][1])


@every_pair
def test_a_nan_cotangent_is_not_hidden(pair):
    outputs, cache = run_forward(pair, ONE_SPOILT.get(pair, lambda v: [np.array([[1.0, v], [1.0, 2.0]])])(0.5))
    (w,) = cotangents_of(pair, outputs)
    if np.ndim(w):
        w[0, 1] = np.nan
    for gradient in run_backward(pair, [w if np.ndim(w) else np.nan], cache):
        assert np.isnan(gradient).any()


def test_dropout_does_not_hide_a_nan_by_dropping_it():
    y, cache = mlp.dropout_forward(np.array([np.nan, 1.0]), np.array([0, 1]), 0.5)
    assert np.isnan(y[0]) and y[1] == 2
    dh = mlp.dropout_backward(np.array([np.nan, 1.0]), cache)
    assert np.isnan(dh[0]) and dh[1] == 2


@pytest.mark.parametrize("pair, at_minus_inf, at_inf", [
    ("sigmoid", 0, 1), ("tanh", -1, 1), ("relu", 0, np.inf), ("softplus", 0, np.inf), ("identity", -np.inf, np.inf),
    ("leaky_relu", -np.inf, np.inf)])
def test_infinite_input_gives_the_limit(pair, at_minus_inf, at_inf):
    (h,), _ = run_forward(pair, [np.array([-np.inf, np.inf])])
    assert h.tolist() == [at_minus_inf, at_inf]


@pytest.mark.parametrize("pair", ["mse", "l1_penalty", "l2_penalty"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_input_gives_an_infinite_loss(pair, bad):
    assert run_forward(pair, ONE_SPOILT[pair](bad))[0] == [np.inf]


def test_a_nan_target_of_the_squared_error_gives_a_nan_loss():
    assert np.isnan(mlp.mse_forward(np.ones((2, 2)), np.array([[1.0, 2.0], [np.nan, 1.0]]))[0])


@pytest.mark.parametrize("pair", ["relu", "leaky_relu"])
def test_a_nan_score_does_not_silence_the_gradient(pair):
    _, cache = run_forward(pair, [np.array([[np.nan]]), 0.5][: 1 + (pair == "leaky_relu")])
    assert run_backward(pair, [np.array([[3.0]])], cache)[0] != 0


# ------------------------------------------------------------------------------------------------ identities

def test_softmax_rows_are_probabilities():
    z = np.random.default_rng(1).standard_normal((11, 7)) * 30
    p, _ = mlp.softmax_forward(z)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-15)
    assert (p > 0).all()
    np.testing.assert_allclose(np.log(p[:, :1] / p), z[:, :1] - z, rtol=1e-12, atol=1e-12)


def test_softmax_backward_is_the_explicit_jacobian():
    z, = inputs_of("softmax")
    (p,), cache = run_forward("softmax", [z])
    dp = np.random.default_rng(2).standard_normal(p.shape)
    jacobians = [np.diag(row) - np.outer(row, row) for row in p]
    expected = np.stack([J @ w for J, w in zip(jacobians, dp)])
    assert relative_error(mlp.softmax_backward(dp, cache), expected) <= 1e-15


def test_fused_cross_entropy_is_the_chain_softmax_log_mean():
    z, t = inputs_of("softmax_cross_entropy")
    N, rows = len(t), np.arange(len(t))
    p, softmax_cache = mlp.softmax_forward(z)
    dp = np.zeros_like(p)
    dp[rows, t] = -1.7 / (N * p[rows, t])
    loss, cache = mlp.softmax_cross_entropy_forward(z, t)
    assert math.isclose(loss, np.mean(-np.log(p[rows, t])), rel_tol=1e-14)
    chain = mlp.softmax_backward(dp, softmax_cache)
    assert relative_error(mlp.softmax_cross_entropy_backward(1.7, cache), chain) <= 1e-14


def test_fused_bce_is_the_chain_sigmoid_log_mean():
    z, t = inputs_of("sigmoid_bce")
    y, sigmoid_cache = mlp.sigmoid_forward(z)
    dy = 1.7 * ((1 - t) / (1 - y) - t / y) / y.size
    loss, cache = mlp.sigmoid_bce_forward(z, t)
    assert math.isclose(loss, np.mean(-t * np.log(y) - (1 - t) * np.log(1 - y)), rel_tol=1e-14)
    assert relative_error(mlp.sigmoid_bce_backward(1.7, cache), mlp.sigmoid_backward(dy, sigmoid_cache)) <= 1e-14


def test_cross_entropy_gradient_rows_sum_to_zero():
    _, (dz,) = run("softmax_cross_entropy", inputs_of("softmax_cross_entropy"))
    np.testing.assert_allclose(dz.sum(axis=1), 0, atol=1e-16)


def test_cross_entropy_averages_over_examples_not_classes():
    loss, cache = mlp.softmax_cross_entropy_forward(np.zeros((4, 8)), np.array([0, 3, 7, 7]))
    assert math.isclose(loss, math.log(8), rel_tol=1e-15)
    dz = mlp.softmax_cross_entropy_backward(8.0, cache)
    assert dz[0].tolist() == pytest.approx([0.25 - 2] + [0.25] * 7, rel=1e-15)


def test_squared_error_averages_over_every_entry():
    loss, cache = mlp.mse_forward(np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert loss == (0 + 4 + 9 + 16) / 4
    assert mlp.mse_backward(2.0, cache).tolist() == [[0, 2], [3, 4]]


def test_binary_cross_entropy_averages_over_every_entry():
    loss, cache = mlp.sigmoid_bce_forward(np.zeros((2, 4)), np.tile([0.0, 0.5], (2, 2)))
    assert math.isclose(loss, math.log(2), rel_tol=1e-15)
    assert mlp.sigmoid_bce_backward(8.0, cache).tolist() == [[0.5, 0, 0.5, 0]] * 2


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(p):
    mask = np.random.default_rng(1).random((1000, 1000)) >= p
    y, _ = mlp.dropout_forward(np.full((1000, 1000), 3.0), mask, p)
    standard_error = 3 * math.sqrt(p / (1 - p)) / 1000
    assert abs(y.mean() - 3) < 4 * standard_error


def test_dropout_zeroes_and_rescales():
    h, mask = np.array([[1.0, 2.0, 3.0]]), np.array([[1, 0, 1]])
    y, cache = mlp.dropout_forward(h, mask, 0.75)
    assert y.tolist() == [[4, 0, 12]]
    assert mlp.dropout_backward(np.ones((1, 3)), cache).tolist() == [[4, 0, 4]]


@pytest.mark.parametrize("kind", [bool, np.int8, np.int64, np.float64])
def test_a_dropout_mask_may_be_bools_integers_or_floats(kind):
    mask = np.array([[1, 0, 1]]).astype(kind)
    y, cache = mlp.dropout_forward(np.array([[1.0, 2.0, 3.0]]), mask, 0.5)
    assert y.tolist() == [[2, 0, 6]]
    assert mlp.dropout_backward(np.ones((1, 3)), cache).tolist() == [[2, 0, 2]]


# ------------------------------------------------------------------------------------------------ nothing, and one

def without_examples(pair):
    return [a[:0] if np.ndim(a) and i not in (1, 2) * (pair == "linear") else a
            for i, a in enumerate(inputs_of(pair))]


@pytest.mark.parametrize("pair", [pair for pair in FORWARDS if pair not in MEANS])
def test_no_examples_give_empty_outputs_and_zero_parameter_gradients(pair):
    inputs = without_examples(pair)
    outputs, gradients = run(pair, inputs)
    if pair in LOSSES:
        assert outputs == [0]
    else:
        assert [y.shape for y in outputs] == [(0, run_forward(pair, inputs_of(pair))[0][0].shape[1])]
    for position, gradient in zip(gradient_positions(pair), gradients, strict=True):
        assert gradient.shape == inputs[position].shape
        assert gradient.dtype == np.float64
        assert not gradient.any()


@pytest.mark.parametrize("pair", MEANS)
def test_a_mean_over_nothing_raises(pair):
    with pytest.raises(ValueError, match=f"^{pair}_forward: a mean over nothing has no value, got "):
        run_forward(pair, without_examples(pair))


@pytest.mark.parametrize("pair", ["mse", "sigmoid_bce"])
def test_a_mean_over_rows_without_entries_raises(pair):
    with pytest.raises(ValueError, match=r"a mean over nothing has no value, got shape \(3, 0\)"):
        run_forward(pair, [np.zeros((3, 0)), np.zeros((3, 0))])


@every_pair
def test_one_example_is_the_mean_or_sum_over_one(pair):
    """Losses of N examples are the mean of N losses (penalties: the sum); the others act on each row alone."""
    inputs = inputs_of(pair)
    varying = [np.ndim(a) > 0 and not (pair == "linear" and i > 0) for i, a in enumerate(inputs)]
    N = len(inputs[0])
    rows = [run_forward(pair, [a[n:n + 1] if v else a for a, v in zip(inputs, varying)])[0][0] for n in range(N)]
    (together,), _ = run_forward(pair, inputs)
    if pair in LOSSES:
        np.testing.assert_allclose(together, np.mean(rows) if pair in MEANS else np.sum(rows), rtol=1e-14)
    else:
        np.testing.assert_allclose(together, np.concatenate(rows), rtol=1e-14)


# ------------------------------------------------------------------------------------------------ loud on bad input

SCORES = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])


@pytest.mark.parametrize("t, error, message", [
    (np.array([0, -1]), IndexError, r"the classes t must lie in 0\.\.2, got -1 at index 1"),
    (np.array([3, 0]), IndexError, r"the classes t must lie in 0\.\.2, got 3 at index 0"),
    (np.array([0, 255], np.uint8), IndexError, r"the classes t must lie in 0\.\.2, got 255 at index 1"),
    (np.array([0.0, 1.0]), TypeError, r"the classes t must be an array of integers, got float64"),
    (np.array([0.0, 1.0], np.float32), TypeError, r"the classes t must be an array of integers, got float32"),
    (np.array([True, False]), TypeError, r"the classes t must be an array of integers, got bool"),
    (np.array(["0", "1"]), TypeError, r"the classes t must be an array of integers, got <U1"),
    ([0, 1], TypeError, r"the classes t must be an array of integers, got list"),
    (1, TypeError, r"the classes t must be an array of integers, got int"),
    (None, TypeError, r"the classes t must be an array of integers, got NoneType"),
    (np.array([0, 1, 2]), ValueError, r"the classes t must have shape \(2,\), one per example, got \(3,\)"),
    (np.array([0]), ValueError, r"the classes t must have shape \(2,\), one per example, got \(1,\)"),
    (np.array(1), ValueError, r"the classes t must have shape \(2,\), one per example, got \(\)"),
    (np.array([[0], [1]]), ValueError, r"the classes t must have shape \(2,\), one per example, got \(2, 1\)"),
    (np.eye(2, 3, dtype=int), ValueError, r"the classes t must have shape \(2,\), one per example, got \(2, 3\)"),
])
def test_bad_classes_are_refused(t, error, message):
    with pytest.raises(error, match=f"^softmax_cross_entropy_forward: {message}$"):
        mlp.softmax_cross_entropy_forward(SCORES, t)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.int64])
def test_classes_of_any_integer_type_give_the_same_bits(dtype):
    t = np.array([2, 0])
    expected = run("softmax_cross_entropy", [SCORES, t])
    answer = run("softmax_cross_entropy", [SCORES, t.astype(dtype)])
    assert same_bits(flattened(answer), flattened(expected))


@pytest.mark.parametrize("shape", [(3,), (), (2, 3, 1)])
def test_scores_that_are_not_a_matrix_are_refused(shape):
    with pytest.raises(ValueError) as caught:
        mlp.softmax_cross_entropy_forward(np.zeros(shape), np.zeros(shape[:1], int))
    assert str(caught.value) == f"softmax_cross_entropy_forward: the scores z must have shape (N, K), got {shape}"


@pytest.mark.parametrize("pair", ["mse", "sigmoid_bce"])
@pytest.mark.parametrize("shape, target", [((3,), (3, 1)), ((3, 1), (3,)), ((2, 3), (2, 1)), ((2, 3), ()),
                                           ((2, 3), (3, 2)), ((1, 3), (3,))])
def test_a_target_of_another_shape_is_not_broadcast(pair, shape, target):
    with pytest.raises(ValueError) as caught:
        run_forward(pair, [np.zeros(shape), np.zeros(target)])
    assert str(caught.value) == f"{pair}_forward: the target t must have the shape {shape} of the output, got {target}"


@pytest.mark.parametrize("bad", [-0.001, 1.001, 2.0, -np.inf, np.inf, np.nan, np.nextafter(1, 2), -5e-324])
def test_a_binary_target_outside_0_to_1_is_refused(bad):
    t = np.array([[0.0, 1.0, 0.5], [1.0, bad, 0.0]])
    with pytest.raises(ValueError) as caught:
        mlp.sigmoid_bce_forward(SCORES, t)
    assert str(caught.value) == (f"sigmoid_bce_forward: the target t must lie in [0, 1], got {np.float64(bad)} "
                                 "at (1, 1)")


def test_of_several_bad_targets_the_first_is_named():
    with pytest.raises(ValueError, match=r"got 2\.0 at \(0, 1\)$"):
        mlp.sigmoid_bce_forward(np.zeros((2, 2)), np.array([[0.5, 2.0], [3.0, -1.0]]))
    with pytest.raises(IndexError, match="got 7 at index 1$"):
        mlp.softmax_cross_entropy_forward(np.zeros((3, 2)), np.array([0, 7, -1]))


def test_the_binary_targets_0_and_1_are_allowed():
    assert math.isclose(mlp.sigmoid_bce_forward(np.zeros((1, 2)), np.array([[0.0, 1.0]]))[0], math.log(2),
                        rel_tol=1e-15)


@pytest.mark.parametrize("pair, bad", [("mse", np.zeros((3, 2))), ("sigmoid_bce", np.full((2, 3), 1.5)),
                                       ("softmax_cross_entropy", np.array([0, 3]))])
def test_an_error_leaves_its_inputs_untouched(pair, bad):
    z, t = SCORES.copy(), bad.copy()
    with pytest.raises((ValueError, IndexError)):
        run_forward(pair, [z, t])
    assert same_bits([z, t], [SCORES, bad])


@pytest.mark.parametrize("inputs", [(np.zeros((2, 3)), np.zeros((4, 5)), np.zeros(4)),
                                    (np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(5))])
def test_linear_refuses_shapes_that_do_not_fit(inputs):
    with pytest.raises(ValueError, match="mismatch|broadcast"):
        mlp.linear_forward(*inputs)
