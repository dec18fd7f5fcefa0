"""The judge is judged: gradcheck passes what is right, fails what is wrong, and says where and why."""

import inspect
import re
import warnings
from functools import partial
from math import factorial

import numpy as np
import pytest

from backprop_lib import gradcheck, mlp, norm
from backprop_lib.gradcheck import (
    GradientError,
    Report,
    away_from_kinks,
    central_difference,
    check_adjoint,
    check_gradients,
    complex_step,
    five_point_difference,
    forward_difference,
    on_grid,
    relative_error,
    richardson_difference,
)


N, D, H, K = 3, 7, 5, 4


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def linear_inputs(n=N, d=D, h=H):
    return normal(n, d, seed=1), normal(h, d, seed=2), normal(h, seed=3)


def cross_entropy_inputs(n=N):
    return normal(n, K), np.arange(n) % K


def message_of(forward, backward, *args, **options):
    with pytest.raises(GradientError) as caught:
        check_gradients(forward, backward, *args, **options)
    return str(caught.value)


def altered(backward, **changes):
    """The pair's backward with some gradients, by position g0, g1, ..., passed through a function."""
    def wrong(*args):
        gradients = backward(*args)
        if not isinstance(gradients, tuple):
            return changes["g0"](gradients)
        return tuple(changes.get(f"g{i}", lambda g: g)(g) for i, g in enumerate(gradients))
    return wrong


def one_entry(index, change):
    def alter(gradient):
        gradient = gradient.copy()
        gradient[index] = change(gradient[index])
        return gradient
    return alter


# ------------------------------------------------------------------------------------------------ right pairs pass

RIGHT = {
    "linear": [mlp.linear_forward, mlp.linear_backward, *linear_inputs()],
    "one by one": [mlp.linear_forward, mlp.linear_backward, *linear_inputs(1, 1, 1)],
    "loss": [mlp.softmax_cross_entropy_forward, mlp.softmax_cross_entropy_backward, *cross_entropy_inputs()],
    "numbers beside arrays": [mlp.l2_penalty_forward, mlp.l2_penalty_backward, normal(H, D), 0.3],
    "kinks": [mlp.leaky_relu_forward, mlp.leaky_relu_backward, away_from_kinks(np.random.default_rng(1), (N, H)), 0.1],
    "vector": [mlp.tanh_forward, mlp.tanh_backward, normal(7)],
}


@pytest.mark.parametrize("method, limit", [("complex", 1e-12), ("central", 1e-7)])
@pytest.mark.parametrize("pair", RIGHT)
def test_a_right_pair_passes(pair, method, limit):
    report = check_gradients(*RIGHT[pair], method=method)
    assert isinstance(report, Report)
    assert report.limit == limit
    assert report.errors and max(report.errors.values()) <= limit


def two_outputs_forward(x, y):
    return x * y, x + np.sin(y), (x, y)


def two_outputs_backward(dp, ds, cache):
    x, y = cache
    return dp * y + ds, dp * x + ds * np.cos(y)


def test_a_pair_with_several_outputs_passes_and_each_output_counts():
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    assert list(check_gradients(two_outputs_forward, two_outputs_backward, x, y).errors) == ["dx", "dy"]
    for wrong in [lambda dp, ds, c: (dp * c[1], dp * c[0]), lambda dp, ds, c: (ds, ds * np.cos(c[1]))]:
        message_of(two_outputs_forward, wrong, x, y)


def test_a_pair_of_yours_needs_no_docstring():
    report = check_gradients(lambda a, n: (a**n, a), lambda dy, a: 3 * dy * a**2, normal(4), 3)
    assert list(report.errors) == ["da"]


def test_integers_are_not_differentiated():
    report = check_gradients(lambda a, i: (a[i], (a, i)), lambda dy, c: np.bincount(c[1], dy, len(c[0])), normal(4),
                             np.array([2, 0, 2]))
    assert list(report.errors) == ["da"]


def test_wrt_names_the_arguments_that_are_differentiated():
    report = check_gradients(lambda a, b: (a * b, (a, b)), lambda dy, c: dy * c[0], normal(4), normal(4), wrt=["b"])
    assert list(report.errors) == ["db"]


def test_the_documented_gradients_decide_which_arguments_are_differentiated():
    assert list(check_gradients(mlp.mse_forward, mlp.mse_backward, normal(N, K), normal(N, K, seed=2)).errors) == ["dy"]


def test_any_generator_may_be_passed_and_another_one_gives_another_cotangent():
    seen = []

    def backward(dh, cache):
        seen.append(np.array(dh))
        return mlp.tanh_backward(dh, cache)

    for rng in [None, None, np.random.default_rng(7)]:
        check_gradients(mlp.tanh_forward, backward, normal(5), rng=rng)
    assert seen[0].tolist() == seen[1].tolist() != seen[2].tolist()
    assert len(np.unique(seen[0])) == 5


def test_the_inputs_are_left_alone():
    inputs = linear_inputs()
    kept = [a.copy() for a in inputs]
    for method in ["complex", "central"]:
        check_gradients(mlp.linear_forward, mlp.linear_backward, *inputs, method=method)
    assert all(np.array_equal(a, b) for a, b in zip(inputs, kept))


def test_read_only_inputs_work():
    inputs = linear_inputs()
    for a in inputs:
        a.flags.writeable = False
    for method in ["complex", "central"]:
        check_gradients(mlp.linear_forward, mlp.linear_backward, *inputs, method=method)


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e-6, 1e6, 1e12])
def test_the_size_of_a_loss_does_not_matter(scale):
    check_gradients(lambda z: (scale * np.tanh(z).sum(), z), lambda dy, z: dy * scale / np.cosh(z)**2, normal(5))


@pytest.mark.parametrize("offset", [1e3, 1e9])
def test_a_large_constant_in_the_output_does_not_matter(offset):
    check_gradients(lambda z: (offset + np.tanh(z), z), lambda dy, z: dy / np.cosh(z)**2, normal(5))


@pytest.mark.parametrize("method", ["complex", "central"])
def test_a_gradient_that_is_zero_but_for_rounding_passes(method):
    """A number added to every score of a softmax changes nothing, as a bias before batch normalisation does."""
    def forward(z, b):
        p, cache = mlp.softmax_forward(z + b[:, None])
        return p, cache

    def backward(dp, cache):
        dz = mlp.softmax_backward(dp, cache)
        return dz, dz.sum(axis=1)

    check_gradients(forward, backward, normal(N, K), normal(N, seed=2), method=method)


@pytest.mark.parametrize("value", [0.0, 0.7, 12.0])
@pytest.mark.parametrize("seed", range(5))
def test_differences_of_a_function_that_does_not_change_pass_at_any_value(value, seed):
    z = normal(N, K, seed=seed)
    check_gradients(lambda c: mlp.softmax_forward(z + c[:, None]),
                    lambda dp, cache: mlp.softmax_backward(dp, cache).sum(axis=1),
                    np.full(N, value), method="central", rng=np.random.default_rng(seed))


@pytest.mark.parametrize("method", ["complex", "central"])
def test_a_gradient_that_is_exactly_zero_passes(method):
    check_gradients(lambda x, b: (np.tanh(x), x), lambda dy, x: (dy / np.cosh(x)**2, np.zeros(2)), normal(4), normal(2),
                    method=method)


# ------------------------------------------------------------------------------------------------ wrong pairs fail

def softmax_diagonal(dp, cache):
    p, = cache
    return dp * p * (1 - p)


def softmax_without_a_term(dp, cache):
    p, = cache
    return p * dp


LINEAR = [mlp.linear_forward, mlp.linear_backward]
CE = [mlp.softmax_cross_entropy_forward, mlp.softmax_cross_entropy_backward]
WRONG = {
    "sign": [*LINEAR, dict(g0=np.negative), linear_inputs()],
    "sign of the last gradient": [*LINEAR, dict(g2=np.negative), linear_inputs()],
    "factor N": [*CE, dict(g0=lambda g: g * N), cross_entropy_inputs()],
    "1/N twice": [*CE, dict(g0=lambda g: g / N), cross_entropy_inputs()],
    "factor 2": [mlp.mse_forward, mlp.mse_backward, dict(g0=lambda g: g / 2), (normal(N, K), normal(N, K, seed=2))],
    "transposed square": [*LINEAR, dict(g1=np.transpose), linear_inputs(N, H, H)],
    "zeros": [*LINEAR, dict(g1=np.zeros_like), linear_inputs()],
    "NaN": [*LINEAR, dict(g1=lambda g: g * np.nan), linear_inputs()],
    "one NaN": [*LINEAR, dict(g1=one_entry((4, 6), lambda v: np.nan)), linear_inputs()],
    "one inf": [*LINEAR, dict(g1=one_entry((4, 6), lambda v: np.inf)), linear_inputs()],
    "one minus inf": [*LINEAR, dict(g1=one_entry((4, 6), lambda v: -np.inf)), linear_inputs()],
    "single entry of the last gradient": [*LINEAR, dict(g2=one_entry(4, lambda v: v * (1 + 1e-10))), linear_inputs()],
    "single entry": [*LINEAR, dict(g1=one_entry((4, 6), lambda v: v + 1e-10)), linear_inputs()],
    "first example only": [*LINEAR, dict(g0=lambda g: np.where(np.arange(N)[:, None] == 0, g, 0)), linear_inputs()],
    "mixed batch": [*LINEAR, dict(g0=lambda g: np.roll(g, 1, axis=0)), linear_inputs()],
    "mean bias": [*LINEAR, dict(g2=lambda g: g / N), linear_inputs()],
    "a little too large": [*LINEAR, dict(g1=lambda g: g * (1 + 1e-11)), linear_inputs()],
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_gradient_fails(what):
    forward, backward, changes, inputs = WRONG[what]
    which = next(iter(changes))[1:]
    names = {"g0": "d" + next(iter(inspect.signature(forward).parameters)), "g1": "dW", "g2": "db"}
    message = message_of(forward, altered(backward, **changes), *inputs, wrt=["x", "W", "b"] if backward is LINEAR[1]
                         else [names["g0"][1:]])
    assert message.startswith(names[f"g{which}"] + " is wrong: relative error ")


@pytest.mark.parametrize("what", ["sign", "factor N", "zeros", "NaN", "one NaN", "one inf", "first example only"])
def test_a_wrong_gradient_fails_against_central_differences_too(what):
    forward, backward, changes, inputs = WRONG[what]
    wrt = ["x", "W", "b"] if backward is LINEAR[1] else ["z"]
    assert "is wrong" in message_of(forward, altered(backward, **changes), *inputs, wrt=wrt, method="central")


def test_a_softmax_that_all_ones_cannot_see_fails():
    zeros = message_of(mlp.softmax_forward, lambda dp, cache: np.zeros_like(dp), normal(N, K))
    assert "zero everywhere" in zeros
    for wrong in [softmax_diagonal, softmax_without_a_term]:
        assert "a term is missing or wrong" in message_of(mlp.softmax_forward, wrong, normal(N, K))


def test_a_gradient_right_only_for_symmetric_weights_fails_and_passes_for_them():
    x, W, b = linear_inputs(N, H, H)

    def wrong(dz, cache):
        return dz @ cache.W.T, *mlp.linear_backward(dz, cache)[1:]

    check_gradients(mlp.linear_forward, wrong, x, W + W.T, b, wrt=["x", "W", "b"])
    assert message_of(mlp.linear_forward, wrong, x, W, b, wrt=["x", "W", "b"]).startswith("dx is wrong")


def test_a_gradient_right_only_for_one_example_fails_for_more_and_passes_for_one():
    def wrong(dz, cache):
        dx, _, db = mlp.linear_backward(dz, cache)
        return dx, np.outer(dz.sum(axis=0), cache.x.sum(axis=0)), db

    check_gradients(mlp.linear_forward, wrong, *linear_inputs(1), wrt=["x", "W", "b"])
    assert message_of(mlp.linear_forward, wrong, *linear_inputs(2), wrt=["x", "W", "b"]).startswith("dW is wrong")


@pytest.mark.parametrize("method", ["complex", "central"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_forward_that_gives_nan_or_inf_does_not_pass(bad, method):
    for backward in [lambda dy, c: np.zeros(3), lambda dy, c: dy, lambda dy, c: dy * bad]:
        with np.errstate(all="ignore"), pytest.raises((GradientError, TypeError, ValueError)):
            check_gradients(lambda x: (x * np.array([1.0, bad, 1.0]), None), backward, normal(3), method=method)


@pytest.mark.parametrize("change", [lambda g: g * 0, lambda g: g / 2, lambda g: -g, lambda g: np.roll(g, 1)])
def test_a_backward_that_edits_its_cotangent_does_not_fool_the_check(change):
    """The reference must belong to the cotangent that was given, not to what backward left of it."""
    def wrong(dh, cache):
        dh[...] = change(dh)
        return mlp.tanh_backward(dh, cache)

    with pytest.raises((GradientError, ValueError)):
        check_gradients(mlp.tanh_forward, wrong, normal(7))


@pytest.mark.parametrize("method", ["complex", "central"])
def test_a_right_backward_that_edits_its_cotangent_is_not_called_a_wrong_gradient(method):
    def impure(dh, cache):
        dh *= 1 - cache.h**2
        return dh

    try:
        check_gradients(mlp.tanh_forward, impure, normal(7), method=method)
    except GradientError as error:
        pytest.fail(str(error))
    except ValueError:
        pass                                                    # refused, because it writes into what it was given


@pytest.mark.parametrize("scale", [1e-250, 1e-160, 1e-12, 1e12])
def test_a_wrong_gradient_of_any_size_fails(scale):
    """Through three hundred layers of sigmoid, 1e-160 is an honest gradient."""
    message_of(lambda z: (scale * np.tanh(z), z), lambda dy, z: -dy * (scale / np.cosh(z)**2), normal(5))


# ------------------------------------------------------------------------------------------------ what the message says

NUMBER = r"-?[\d.]+(?:e[+-]\d+)?|nan|-?inf"
MESSAGE = re.compile(rf"^(?P<name>\w+) is wrong: relative error (?P<error>\d\.\de[+-]\d\d), limit (?P<limit>[\de+-]+); "
                     rf"(?P<wrong>\d+) of (?P<all>\d+) entries differ\. Worst at (?P<where>\w+(?:\[[\d, ]+\])?): "
                     rf"yours (?P<yours>{NUMBER}), reference (?P<reference>{NUMBER})\. (?P<hint>\S.*)$")


def linear_message(change, inputs=None, **options):
    inputs = inputs or linear_inputs()
    message = message_of(mlp.linear_forward, altered(mlp.linear_backward, g1=change), *inputs, wrt=["x", "W", "b"],
                         **options)
    return MESSAGE.match(message).groupdict()


def true_dW(inputs):
    cotangent = np.random.default_rng(gradcheck.OWN_SEED).standard_normal((len(inputs[0]), len(inputs[2])))
    return cotangent.T @ inputs[0]


def test_the_message_names_the_gradient_the_worst_entry_and_both_values():
    inputs, wrong = linear_inputs(), one_entry((4, 6), lambda v: v + 10)
    parts = linear_message(wrong, inputs)
    reference = true_dW(inputs)[4, 6]
    assert parts["name"] == "dW" and parts["where"] == "dW[4, 6]"
    assert float(parts["reference"]) == pytest.approx(reference, rel=1e-5)
    assert float(parts["yours"]) == pytest.approx(reference + 10, rel=1e-5)
    assert (parts["wrong"], parts["all"], parts["limit"]) == ("1", str(H * D), "1e-12")


def test_the_error_in_the_message_is_norm_wise():
    inputs = linear_inputs()
    reference = true_dW(inputs)
    wrong = reference.copy()
    wrong[4, 6] += 10
    expected = 10 / max(np.linalg.norm(wrong), np.linalg.norm(reference))
    parts = linear_message(one_entry((4, 6), lambda v: v + 10), inputs)
    assert float(parts["error"]) == pytest.approx(expected, rel=0.05)


def test_every_entry_is_counted_when_every_entry_is_wrong():
    parts = linear_message(np.negative)
    assert parts["wrong"] == parts["all"] == str(H * D)


def test_a_number_has_no_index():
    message = message_of(lambda s: (np.sin(s), s), lambda dy, s: -dy * np.cos(s), np.array(0.3), wrt=["s"])
    assert MESSAGE.match(message)["where"] == "ds"


@pytest.mark.parametrize("change, hint", [
    (np.negative, r"It is -1 times the true gradient everywhere: a sign is flipped\."),
    (lambda g: g * N, r"It is 3 times the true gradient everywhere: N = 3, and the 1/N of a mean belongs into the "
                      r"loss, once\."),
    (lambda g: g / N, r"It is 0\.3333 times the true gradient everywhere: N = 3, and the 1/N of a mean belongs into "
                      r"the loss, once\."),
    (lambda g: g * 2, r"It is 2 times .*: a path is counted twice or left out, or the 2 of a square is .*"),
    (lambda g: g / 2, r"It is 0\.5 times .*: a path is counted twice or left out, or the 2 of a square is .*"),
    (lambda g: g * 1.25, r"It is 1\.25 times the true gradient everywhere: a constant factor is missing or doubled\."),
    (np.zeros_like, r"It is zero everywhere: nothing flows back to this argument\."),
    (lambda g: g * np.nan, r"It holds NaN or inf: look for 0/0, log\(0\) or an overflow\."),
    (one_entry((1, 2), lambda v: np.inf), r"It holds NaN or inf: look for 0/0, log\(0\) or an overflow\."),
    (one_entry((1, 2), lambda v: v + 1), r"The cosine to the true gradient is \d\.\d+: a term is missing or wrong\. "
                                         r"Which sum, which path does the forward pass use that backward does not\?"),
])
def test_the_hint_fits_the_pattern_of_the_error(change, hint):
    assert re.fullmatch(hint, linear_message(change)["hint"])


def test_the_cosine_in_the_hint_is_the_cosine():
    inputs = linear_inputs()
    reference = true_dW(inputs)
    wrong = np.where(reference > 0, 2 * reference, reference)
    cosine = (wrong * reference).sum() / np.linalg.norm(wrong) / np.linalg.norm(reference)
    assert 0.5 < cosine < 0.98
    hint = linear_message(lambda g: np.where(g > 0, 2 * g, g), inputs)["hint"]
    assert float(re.search(r" gradient is ([\d.]+):", hint)[1]) == pytest.approx(cosine, abs=0.0051)


def test_one_nan_or_one_zero_entry_is_not_taken_for_all():
    assert "holds NaN" in linear_message(one_entry((1, 2), lambda v: np.nan))["hint"]
    assert "The cosine" in linear_message(one_entry((1, 2), lambda v: 0.0))["hint"]
    hint = message_of(mlp.relu_forward, lambda dh, cache: dh, np.array([1.0, -1.0, 2.0]), wrt=["z"])
    assert "The cosine" in hint


def test_entries_that_differ_by_rounding_only_are_not_counted():
    x, W, b = linear_inputs()
    parts = linear_message(lambda g: one_entry((4, 6), lambda v: v + 1e6)(g * (1 + 1e-15)), (1e6 * x, W, b))
    assert parts["wrong"] == "1"


def test_the_hint_looks_for_N_in_the_first_array():
    message = message_of(lambda s, x: (s * x, s), lambda dy, s: N * s * dy, 0.5, normal(N, D), wrt=["x"])
    assert f"N = {N}, and the 1/N" in message


def test_the_hint_for_a_transposed_square_gradient():
    assert (linear_message(np.transpose, linear_inputs(N, H, H))["hint"]
            == "It equals the transpose of the true gradient: two indices are swapped.")


def test_the_hint_for_a_gradient_of_something_unused():
    message = message_of(lambda x, b: (np.tanh(x), x), lambda dy, x: (dy / np.cosh(x)**2, np.ones(2)), normal(4),
                         normal(2), wrt=["x", "b"])
    assert message.endswith("The true gradient is zero: the output does not depend on this argument.")


def test_with_two_examples_the_hint_for_a_factor_2_leaves_both_causes_open():
    hint = linear_message(lambda g: g * 2, linear_inputs(2))["hint"]
    assert "1/N" in hint and "square" in hint


def test_a_right_pair_in_single_precision_passes_or_the_message_says_why_not():
    inputs = [a.astype(np.float32) for a in linear_inputs()]
    try:
        check_gradients(mlp.linear_forward, mlp.linear_backward, *inputs)
    except (GradientError, TypeError, ValueError) as error:
        assert "float32" in str(error)


@pytest.mark.parametrize("change, shapes, hint", [
    (np.transpose, f"({D}, {H})", " It looks transposed."),
    (lambda g: g.sum(axis=0), f"({D},)", " Was an axis summed that should not be?"),
    (lambda g: g[None], f"(1, {H}, {D})", " Sum over every axis along which the forward pass copied it."),
    (lambda g: g[:, 1:], f"({H}, {D - 1})", ""),
])
def test_a_gradient_of_the_wrong_shape_is_named(change, shapes, hint):
    message = message_of(mlp.linear_forward, altered(mlp.linear_backward, g1=change), *linear_inputs(),
                         wrt=["x", "W", "b"])
    assert message == (f"dW has shape {shapes}, but a gradient has the shape of its variable, ({H}, {D}).{hint}")


def test_a_gradient_error_is_an_assertion_error():
    assert issubclass(GradientError, AssertionError)


# ------------------------------------------------------------------------------------------------ the report

def test_the_report_prints_names_and_the_limit_and_no_digits_of_this_run():
    report = check_gradients(mlp.linear_forward, mlp.linear_backward, *linear_inputs())
    assert str(report) == repr(report) == "dx, dW, db: agree with the complex step to 1e-12"
    report = check_gradients(mlp.tanh_forward, mlp.tanh_backward, normal(5), method="central")
    assert str(report) == "dz: agree with central differences to 1e-07"


def test_the_report_holds_names_values_references_and_errors():
    inputs = linear_inputs()
    report = check_gradients(mlp.linear_forward, mlp.linear_backward, *inputs)
    assert [g.name for g in report.gradients] == list(report.errors) == ["dx", "dW", "db"]
    assert relative_error(report.gradients[1].yours, true_dW(inputs)) < 1e-15
    for gradient in report.gradients:
        assert gradient.error == report.errors[gradient.name] == relative_error(gradient.yours, gradient.reference)
    assert report.method == "complex"


def test_a_limit_of_your_own_is_used():
    slightly = altered(mlp.tanh_backward, g0=lambda g: g * (1 + 1e-9))
    check_gradients(mlp.tanh_forward, slightly, normal(5), limit=1e-8, wrt=["z"])
    check_gradients(lambda x: (np.ones(2), None), lambda dy, c: np.zeros(3), normal(3), limit=0.0)
    assert "limit 1e-10" in message_of(mlp.tanh_forward, slightly, normal(5), limit=1e-10, wrt=["z"])


# ------------------------------------------------------------------------------------------------ complex numbers lost

def mean_absolute_forward(x):
    return np.abs(x).mean(), x


def mean_absolute_backward(dy, x):
    return dy * np.sign(x) / x.size


def standardise_forward(x):
    s = x.std()
    return x / s, (x, s)


def standardise_backward(dy, cache):
    x, s = cache
    return dy / s - (dy * x).sum() * (x - x.mean()) / (x.size * s**3)


def float_buffer_forward(x):
    y = np.zeros(x.shape)
    y[...] = x**2
    return y, x


def norm_forward(x):
    return np.linalg.norm(x), x


LOST = {
    "np.abs": (mean_absolute_forward, mean_absolute_backward),
    "std": (standardise_forward, standardise_backward),
    "float buffer": (float_buffer_forward, lambda dy, x: 2 * dy * x),
    "np.linalg.norm": (norm_forward, lambda dy, x: dy * x / np.linalg.norm(x)),
    "float()": (lambda x: (float(x.sum()), x), lambda dy, x: np.full(x.shape, dy)),
    "real": (lambda x: (x.real**2, x), lambda dy, x: 2 * dy * x),
    "astype": (lambda x: (x.astype(float)**2, x), lambda dy, x: 2 * dy * x),
}


@pytest.mark.parametrize("what", LOST)
def test_a_forward_that_loses_the_imaginary_part_is_refused_with_advice(what):
    with pytest.raises(TypeError, match=r"^check_gradients: forward (drops the imaginary part of|cannot carry complex "
                                        r"numbers in) x\b.*use method='central'"):
        check_gradients(*LOST[what], away_from_kinks(np.random.default_rng(1), (5,)))


def test_a_float_buffer_is_noticed_even_where_warnings_are_silenced():
    with warnings.catch_warnings(), pytest.raises(TypeError, match="forward cannot carry complex numbers in x"):
        warnings.simplefilter("ignore")
        check_gradients(*LOST["float buffer"], normal(5))


@pytest.mark.parametrize("what", LOST)
def test_such_a_forward_passes_with_central_differences(what):
    report = check_gradients(*LOST[what], away_from_kinks(np.random.default_rng(1), (5,)), method="central")
    assert report.errors["dx"] <= 1e-7


@pytest.mark.parametrize("what", LOST)
@pytest.mark.parametrize("scale", [1e-5, 1e-9, 1e6])
def test_the_loss_is_noticed_however_small_the_gradient(what, scale):
    """Otherwise a right gradient fails, and a backward that returns zeros passes."""
    forward, backward = LOST[what]

    def scaled_forward(x):
        y, cache = forward(x)
        return scale * y, cache

    with pytest.raises(TypeError, match="method='central'"):
        check_gradients(scaled_forward, lambda dy, cache: backward(scale * dy, cache), normal(5))
    with pytest.raises((TypeError, GradientError)):
        check_gradients(scaled_forward, lambda dy, cache: np.zeros(5), normal(5))


def test_the_maximum_of_numpy_carries_complex_numbers():
    x = away_from_kinks(np.random.default_rng(1), (5,))
    check_gradients(lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0), x)


def test_a_warning_of_yours_is_not_mistaken_for_a_lost_imaginary_part():
    def forward(x):
        warnings.warn("slow", UserWarning, stacklevel=2)
        return x**2, x

    with pytest.warns(UserWarning, match="slow"):
        check_gradients(forward, lambda dy, x: 2 * dy * x, normal(3))


def test_a_kink_is_refused_with_advice():
    with pytest.raises(TypeError, match="has a kink there; use method='central' away from kinks"):
        check_gradients(mlp.relu_forward, mlp.relu_backward, np.zeros((2, 3)))


# ------------------------------------------------------------------------------------------------ the references

def test_the_complex_step_is_exact_to_the_last_bits():
    x, w = normal(5), normal(5, seed=2)
    gradient = complex_step(lambda x: (np.exp(x) * np.sin(x), None), [x], 0, [w])
    assert relative_error(gradient, w * np.exp(x) * (np.sin(x) + np.cos(x))) < 1e-15


def test_central_differences_are_good_to_nine_digits():
    x, w = normal(5), normal(5, seed=2)
    gradient = central_difference(lambda x: (np.exp(x) * np.sin(x), None), [x], 0, [w])
    assert 1e-15 < relative_error(gradient, w * np.exp(x) * (np.sin(x) + np.cos(x))) < 1e-9


def at_level(levels):
    return partial(richardson_difference, levels=levels)


def richardson_coefficient(levels):
    """Extrapolating h**(2 levels) / (2 levels + 1)! from steps h, h/2, h/4, ... to 0 leaves this share of it."""
    return (-1)**(levels - 1) / 2**(levels * (levels - 1)) / factorial(2 * levels + 1)


# name: difference, order p, C, step, where the difference is f' + C h**p f^(p+1) + ... and nothing smaller drowns yet
DIFFERENCES = {
    "forward": (forward_difference, 1, 1 / 2, 1e-4),
    "central": (central_difference, 2, 1 / 6, 1e-2),
    "five points": (five_point_difference, 4, -1 / 30, 0.05),
    **{f"Richardson {levels}": (at_level(levels), 2 * levels, richardson_coefficient(levels), step)
       for levels, step in [(1, 1e-2), (2, 0.1), (3, 0.3), (4, 1.0)]},
}


def errors_of_exp(difference, step):
    """Relative errors at two points, with h and h/2; every derivative of exp is exp."""
    x, w = np.array([0.3, 1.2]), np.array([0.5, -2.0])
    return [difference(lambda x: (np.exp(x), None), [x], 0, [w], h) / (w * np.exp(x)) - 1 for h in (step, step / 2)]


def has_order(difference, order, coefficient, step):
    coarse, fine = errors_of_exp(difference, step)
    return (np.allclose(coarse / fine, 2**order, rtol=0.02)
            and np.allclose(coarse, coefficient * step**order, rtol=0.02))


def is_exact(difference, degree):
    """On x**degree, where inputs and steps are so short in binary that nothing is rounded."""
    x = np.array([0.5, -0.25, 2.0])
    gradient = difference(lambda x: (x**degree, None), [x], 0, [np.array([1.0, 2.0, -1.0])], 0.25)
    return np.allclose(gradient, degree * x**(degree - 1) * [1, 2, -1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_half_the_step_divides_the_error_by_two_to_the_order(name):
    assert has_order(*DIFFERENCES[name])


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_exact_on_polynomials_up_to_its_order_and_not_beyond(name):
    difference, order, *_ = DIFFERENCES[name]
    assert [is_exact(difference, degree) for degree in range(1, order + 2)] == [True] * order + [False]


def test_central_differences_of_a_square_on_a_grid_are_exact_to_the_last_bit():
    x = np.array([0.5, -0.25, 2.0])
    gradient = central_difference(lambda x: (x**2, None), [x], 0, [np.array([1.0, 2.0, -1.0])], 0.125)
    assert gradient.tolist() == [1, -1, -4]


def from_points(weights):
    """The difference sum_k weights[k] f(x + k h) / h, written a second time, for arrays that f treats entrywise."""
    def difference(forward, args, which, cotangents, step):
        return sum(c * cotangents[0] * forward(args[which] + k * step)[0] for k, c in weights.items()) / step
    return difference


WEIGHTS = {"forward": {0: -1, 1: 1}, "central": {-1: -1/2, 1: 1/2},
           "five points": {-2: 1/12, -1: -8/12, 1: 8/12, 2: -1/12}}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_difference_is_the_sum_over_its_points(name):
    given = [lambda x: (np.exp(x), None), [normal(5)], 0, [normal(5, seed=2)], 0.25]
    np.testing.assert_allclose(DIFFERENCES[name][0](*given), from_points(WEIGHTS[name])(*given), rtol=1e-13)


@pytest.mark.parametrize("name, weights", [
    ("forward", {0: -1, -1: 1}), ("forward", {-1: -1, 0: 1}), ("forward", {-1: -1, 1: 1}),
    ("central", {-1: -1, 1: 1}), ("central", {0: -1/2, 1: 1/2}), ("central", {-2: -1/4, 2: 1/4}),
    ("five points", {-2: -1/12, -1: -8/12, 1: 8/12, 2: 1/12}), ("five points", {-1: -8/12, 1: 8/12}),
    ("five points", {-2: 1/6, -1: -8/6, 1: 8/6, 2: -1/6}), ("five points", {-2: 8/12, -1: -1/12, 1: 1/12, 2: -8/12}),
    ("five points", {-2: 1/12, -1: -9/12, 1: 9/12, 2: -1/12}),
])
def test_wrong_weights_have_another_order_or_another_error(name, weights):
    _, order, coefficient, step = DIFFERENCES[name]
    assert has_order(from_points(WEIGHTS[name]), order, coefficient, step)
    assert not has_order(from_points(weights), order, coefficient, step)


def by_wrong_table(forward, args, which, cotangents, step, ratio=2, base=4, backwards=False):
    """Richardson's three levels with another ratio of steps, another power, or coarse and fine exchanged."""
    row = [central_difference(forward, args, which, cotangents, step / ratio**k) for k in range(3)]
    for power in (1, 2):
        pairs = list(zip(row, row[1:]))
        row = [b + (b - a) / (base**power - 1) for a, b in ([p[::-1] for p in pairs] if backwards else pairs)]
    return row[0]


@pytest.mark.parametrize("options, right", [({}, True), (dict(base=2), False), (dict(ratio=4), False),
                                            (dict(ratio=0.5), False), (dict(backwards=True), False)])
def test_a_wrong_table_of_richardson_has_another_error(options, right):
    assert has_order(partial(by_wrong_table, **options), *DIFFERENCES["Richardson 3"][1:]) == right


def test_differences_are_made_of_each_other():
    given = [lambda x: (np.exp(x) * np.sin(x), None), [normal(5)], 0, [normal(5, seed=2)]]
    central = {step: central_difference(*given, step) for step in (0.25, 0.5)}
    np.testing.assert_allclose((forward_difference(*given, 0.25) + forward_difference(*given, -0.25)) / 2,
                               central[0.25], rtol=1e-13)
    np.testing.assert_allclose(five_point_difference(*given, 0.25), (4 * central[0.25] - central[0.5]) / 3, rtol=1e-13)
    np.testing.assert_allclose(five_point_difference(*given, 0.25), at_level(2)(*given, 0.5), rtol=1e-13)
    assert np.array_equal(at_level(1)(*given, 0.5), central[0.5])


def test_the_complex_step_has_order_two_until_all_digits_are_there():
    assert has_order(complex_step, 2, -1 / 6, 1e-2)
    for step in (1e-9, 1e-20, 1e-100, 1e-200):
        assert np.abs(errors_of_exp(complex_step, step)).max() < 1e-15


@pytest.mark.parametrize("difference, digits", [(forward_difference, 7), (central_difference, 9),
                                                (five_point_difference, 11), (richardson_difference, 12)])
def test_the_step_that_is_taken_by_default_is_near_the_best(difference, digits):
    given = [lambda x: (np.exp(x) * np.sin(x), None), [normal(5)], 0, [normal(5, seed=2)]]
    exact = complex_step(*given)
    best = min(relative_error(difference(*given, step), exact) for step in 10.0**np.arange(-12, 0))
    assert relative_error(difference(*given), exact) < min(10 * best, 10.0**-digits)


@pytest.mark.parametrize("reference, passes", [
    (complex_step, 6), (forward_difference, 7), (central_difference, 12), (five_point_difference, 24),
    (richardson_difference, 48), (at_level(1), 12)])
def test_a_gradient_of_six_entries_costs_the_stated_number_of_forward_passes(reference, passes):
    seen = []
    reference(lambda x: (np.exp(x), seen.append(1)), [normal(2, 3)], 0, [normal(2, 3, seed=2)])
    assert len(seen) == passes


REFERENCES = [complex_step, forward_difference, central_difference, five_point_difference, richardson_difference]


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_reference_differentiates_one_argument_and_leaves_all_alone(reference):
    x, y, w = normal(2, 3), normal(2, 3, seed=2), normal(2, 3, seed=3)
    kept = x.copy(), y.copy()
    gradient = reference(lambda x, y: (x * y, None), [x, y], 1, [w])
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, w * x, rtol=1e-6)
    assert np.array_equal(x, kept[0]) and np.array_equal(y, kept[1])


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_reference_adds_up_all_outputs_and_takes_a_number(reference):
    gradient = reference(lambda x: (2 * x, x * np.ones(3), None), [np.array(0.5)], 0, [3.0, np.array([1.0, -2.0, 4.0])])
    assert gradient.shape == () and gradient == pytest.approx(9, rel=1e-6)


def test_relative_error_is_norm_wise_and_symmetric():
    a, b = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    assert relative_error(a, b) == relative_error(b, a) == pytest.approx(0.5 / np.linalg.norm(b), rel=1e-14)
    assert relative_error(np.array([1e-20, 1.0]), np.array([2e-20, 1.0])) < 1e-19


def test_relative_error_of_nothing_is_0_and_of_everything_is_1():
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.zeros(0), np.zeros(0)) == 0
    assert relative_error(np.zeros(3), np.ones(3)) == relative_error(np.ones(3), np.zeros(3)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("other", [np.ones(2), np.zeros(2)])
def test_relative_error_of_nan_and_inf_is_1(bad, other):
    spoilt = np.array([bad, 1.0])
    assert relative_error(spoilt, other) == relative_error(other, spoilt) == relative_error(spoilt, spoilt) == 1


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_relative_error_survives_tiny_and_huge_gradients(scale):
    ours, reference = scale * np.array([3.0, 4.0]), scale * np.array([0.0, 8.0])
    assert relative_error(ours, reference) == pytest.approx(5 / 8, rel=1e-12)


@pytest.mark.parametrize("kinks, margin", [((0.0,), 0.1), ((-1.0, 1.0), 0.1), ((0.0, 0.15), 0.1), ((-0.15, 0.0), 0.1),
                                           ((3.0,), 2.0), ((0.0, 0.1, 0.2), 0.1)])
def test_away_from_kinks_keeps_the_margin_from_every_kink(kinks, margin):
    x = away_from_kinks(np.random.default_rng(1), (2000,), kinks, margin)
    assert min(np.abs(x - kink).min() for kink in kinks) >= margin * (1 - 1e-12)


def test_away_from_kinks_leaves_the_rest_normal_and_uses_both_sides():
    x, plain = away_from_kinks(np.random.default_rng(1), (50, 40)), normal(50, 40)
    far = np.abs(plain) >= 0.1
    assert np.array_equal(x[far], plain[far])
    assert np.array_equal(np.sign(x[~far]), np.sign(plain[~far]))
    assert len(np.unique(x)) == x.size


@pytest.mark.parametrize("kink", [-1.0, 0.0, 0.5])
def test_away_from_kinks_moves_by_the_margin_outwards(kink):
    x, plain = away_from_kinks(np.random.default_rng(1), (50, 40), (kink,), 0.25), normal(50, 40)
    near = np.abs(plain - kink) < 0.25
    assert np.array_equal(x[~near], plain[~near])
    np.testing.assert_allclose((x - plain)[near], 0.25 * np.sign(plain - kink)[near], rtol=1e-12)


def test_grid_numbers_are_eighths_between_minus_1_and_1():
    g = on_grid(np.random.default_rng(1), (40, 50))
    assert g.shape == (40, 50)
    assert np.array_equal(8 * g, np.round(8 * g))
    assert g.min() == -1 and g.max() == 1


# ------------------------------------------------------------------------------------------------ exact adjoint

def grid_inputs(seed=1, n=N, d=D, h=H):
    rng = np.random.default_rng(seed)
    return on_grid(rng, (n, d)), on_grid(rng, (h, d)), on_grid(rng, (h,))


@pytest.mark.parametrize("wrt", ["x", "W", "b"])
def test_the_adjoint_of_linear_is_exact_and_its_value_is_returned(wrt):
    values = [check_adjoint(mlp.linear_forward, mlp.linear_backward, *grid_inputs(seed), wrt=wrt,
                            rng=np.random.default_rng(seed)) for seed in range(5)]
    assert len(set(values)) == 5
    assert all(isinstance(value, float) and value * 512 == round(value * 512) for value in values)


def test_the_adjoint_works_on_several_outputs():
    x = on_grid(np.random.default_rng(1), (5,))
    assert check_adjoint(lambda x: (2 * x, x.sum(), None), lambda da, ds, c: 2 * da + ds, x, wrt="x") != 0
    with pytest.raises(GradientError):
        check_adjoint(lambda x: (2 * x, x.sum(), None), lambda da, ds, c: 2 * da, x, wrt="x")


def linear_documented(change):
    def backward(dz, cache):
        """Shapes: dz (N, H) -> dx (N, D), dW (H, D), db (H)"""
        return altered(mlp.linear_backward, **change)(dz, cache)
    return backward


ADJOINT_MESSAGE = r"^dW is not the adjoint of forward: <w, f\(x\+v\) - f\(x\)> = .*, <dW, v> = "


def refuse_dW(change, seed):
    with pytest.raises(GradientError, match=ADJOINT_MESSAGE):
        check_adjoint(mlp.linear_forward, linear_documented(dict(g1=change)), *grid_inputs(seed), wrt="W",
                      rng=np.random.default_rng(seed))


@pytest.mark.parametrize("change", [np.negative, lambda g: 2 * g, lambda g: np.roll(g, 1), lambda g: g.mean() + 0 * g,
                                    lambda g: g * np.nan])
def test_the_adjoint_fails_for_a_wrong_gradient(change):
    for seed in range(1, 4):
        refuse_dW(change, seed)


def test_a_gradient_of_zeros_never_passes_for_the_adjoint():
    """Not even when <w, f(x+v) - f(x)> happens to be 0."""
    for seed in range(10):
        refuse_dW(np.zeros_like, seed)


def test_the_adjoint_fails_for_one_ulp_in_a_gradient_of_one_entry():
    with pytest.raises(GradientError, match="is not the adjoint"):
        check_adjoint(lambda x: (0.75 * x, None), lambda dy, c: np.nextafter(0.75 * dy, np.inf), np.array([0.5]),
                      wrt="x")


ENTRIES = [(0, 0), (2, 3), (4, 6)]


@pytest.mark.parametrize("index", ENTRIES)
def test_no_single_wrong_entry_escapes_the_adjoint(index):
    for seed in range(20):
        refuse_dW(one_entry(index, lambda v: v + 0.125), seed)


@pytest.mark.parametrize("index", ENTRIES)
def test_no_single_ulp_escapes_the_adjoint(index):
    """A sum in floating point would round it away."""
    for seed in range(20):
        refuse_dW(one_entry(index, lambda v: np.nextafter(v, np.inf)), seed)


def test_the_adjoint_of_one_number_is_not_blind():
    for seed in range(100):
        with pytest.raises(GradientError, match="is not the adjoint"):
            check_adjoint(lambda x: (x * 1.0, None), lambda dy, c: 2 * dy, np.array([0.5]), wrt="x",
                          rng=np.random.default_rng(seed))


def test_the_adjoint_refuses_an_unknown_argument_by_name():
    with pytest.raises(ValueError, match="check_adjoint.*'q'"):
        check_adjoint(mlp.linear_forward, mlp.linear_backward, *grid_inputs(), wrt="q")


# ------------------------------------------------------------------------------------------------ conventions

@pytest.mark.parametrize("returned, message", [
    (lambda *g: g[:2], "backward returned 2 of 3 gradients; expected dx, dW, db, in this order, or others by name in "
                       "wrt=[...]"),
    (lambda *g: g + g[:1], "backward returned 4 of 3 gradients; expected dx, dW, db, in this order, or others by name "
                           "in wrt=[...]"),
    (lambda *g: None, "backward returned nothing; its last line should be: return dx, dW, db"),
    (lambda *g: list(g), "backward returned a list; its last line should be: return dx, dW, db"),
    (lambda *g: (g[0], None, g[2]), "backward returned None for dW"),
])
def test_a_backward_that_does_not_return_its_gradients_is_refused(returned, message):
    with pytest.raises(ValueError, match="^check_gradients: " + re.escape(message) + "$"):
        check_gradients(mlp.linear_forward, lambda dz, cache: returned(*mlp.linear_backward(dz, cache)),
                        *linear_inputs())


@pytest.mark.parametrize("forward, kind", [(np.tanh, "ndarray"), (lambda x: (np.tanh(x),), "tuple"),
                                           (lambda x: [np.tanh(x), None], "list"), (lambda x: None, "NoneType")])
def test_a_forward_without_a_cache_is_refused(forward, kind):
    with pytest.raises(TypeError, match=rf"^check_gradients: forward must return \(outputs\.\.\., cache\), got "
                                        rf"{kind}$"):
        check_gradients(lambda x: forward(x), lambda dy, cache: dy, normal(3))


def test_an_unknown_argument_in_wrt_is_refused():
    with pytest.raises(ValueError, match=r"^check_gradients: forward has no argument \['q'\]; it has "
                                         r"\['x', 'W', 'b'\]$"):
        check_gradients(mlp.linear_forward, mlp.linear_backward, *linear_inputs(), wrt=["x", "q"])


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"^check_gradients: method must be one of \['central', 'complex'\], got "
                                         r"'exact'$"):
        check_gradients(mlp.linear_forward, mlp.linear_backward, *linear_inputs(), method="exact")


def test_a_check_of_nothing_is_refused():
    """A report that agrees about no gradient at all would look like a proof."""
    with pytest.raises((ValueError, TypeError)):
        check_gradients(lambda n: (np.ones(n), None), lambda dy, cache: (), 3)


def test_the_limits_are_the_stated_ones():
    assert gradcheck.LIMITS == {"complex": 1e-12, "central": 1e-7}


def test_cotangents_are_not_the_numbers_a_reader_draws_with_seed_0():
    """A cotangent equal to the input is what layer norm takes away: its right gradient would drown in rounding."""
    x = np.random.default_rng(0).standard_normal((5, 3))
    check_gradients(norm.layer_norm_forward, norm.layer_norm_backward, x, np.ones(3), np.zeros(3))
