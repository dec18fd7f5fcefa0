"""backprop_lib.norm: right to the last bits, pure, loud on bad input; references in lists and in 100 decimal digits."""

import cmath
import copy
import re
from decimal import Decimal, localcontext

import numpy as np
import pytest
from arrays import frozen, same_bits, spread

from backprop_lib import norm
from backprop_lib.gradcheck import check_adjoint, check_gradients, on_grid, relative_error


LIMIT = 1e-12
BATCH, FIXED, LAYER = PAIRS = ["batch_norm", "batch_norm_eval", "layer_norm"]
RUNNING = ["running_mean", "running_var"]

# Two examples a and b in a channel, d = (a - b)/2, s = sqrt(d^2 + eps): xhat is d/s and -d/s, and with delta half the
# difference of the cotangents,
#     dx = +-gamma/s (delta - (d/s)^2 delta) = +-gamma/s delta eps/(d^2 + eps):
# at eps = 1e-5 and d = 1 the last subtraction leaves 1/100000 of its terms. Their size is gamma/s max|dy|. Each carries
# a few roundings, and those of x - mean, of the size of max|x|, enter by way of xhat once more. So dx may be off by
#     TWO_SAMPLES gamma/s max|dy| (1 + max|x|/s),
# and relative to dx itself the same times (max|dy|/|delta|) (d^2 + eps)/eps. Tried against 80 digits on 14400 channels,
# eps from 1e-8 to 1, means up to 1e6 times their spread: at most 1.8 roundings of 2^-52, in PyTorch and in two ways to
# write it in NumPy.
TWO_SAMPLES = 4 * np.finfo(float).eps

every_pair = pytest.mark.parametrize("what", PAIRS)
with_statistics_of_x = pytest.mark.parametrize("what", [BATCH, LAYER])


# ------------------------------------------------------------------------------------------------ helpers

def two_samples_error(x, gamma, eps, dy):
    """How far the entries of each column of dx may be off: see TWO_SAMPLES."""
    std = np.sqrt(x.var(axis=0) + eps)
    return TWO_SAMPLES * np.abs(gamma)/std * np.abs(dy).max(axis=0) * (1 + np.abs(x).max(axis=0)/std)


def functions(what):
    return getattr(norm, f"{what}_forward"), getattr(norm, f"{what}_backward")


def inputs_of(what, seed=0, N=5, D=7, dtype=np.float64):
    """Columns of different means and spreads; nothing is 0 or 1."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, D)) * rng.uniform(0.5, 3, D) + 2 * rng.standard_normal(D)
    inputs = {"x": x, "gamma": rng.uniform(1.2, 3, D) * rng.choice([-1, 1], D), "beta": rng.standard_normal(D)}
    if what == FIXED:
        inputs |= {"running_mean": rng.standard_normal(D), "running_var": rng.uniform(0.2, 3, D)}
    return {name: a.astype(dtype) for name, a in inputs.items()}


def cotangent_of(y, seed=2):
    return np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)


def run(what, inputs, dy=None, **options):
    """y, dx, dgamma, dbeta."""
    forward, backward = functions(what)
    y, cache = forward(**inputs, **options)
    gradients = backward(cotangent_of(y) if dy is None else dy, cache)
    assert type(gradients) is tuple and len(gradients) == 3
    return y, *gradients


def arrays_of(cache):
    return [a for a in cache if isinstance(a, np.ndarray)]


def transposed(rows):
    return [list(column) for column in zip(*rows, strict=True)]


# ------------------------------------------------------------------------------------------------ lists, no NumPy

def xhat_of_list(values, eps, wrong=None):
    """The numbers of one list, normalised, in Python's complex numbers; or as a common mistake has it."""
    mean = 0 if wrong == "no mean" else sum(values) / len(values)
    count = len(values) - 1 if wrong == "unbiased" else len(values)
    var = sum((v - mean) ** 2 for v in values) / count
    std = {"eps outside": cmath.sqrt(var) + eps, "no eps": cmath.sqrt(var), "no root": var + eps,
           "no spread": 1}.get(wrong, cmath.sqrt(var + eps))
    return [(v - mean) / std for v in values]


def of_lists(what, x, gamma, beta, running_mean=(), running_var=(), eps=1e-5, wrong=None):
    """y of one of the pairs as a list of rows."""
    if what == FIXED:
        if wrong == "statistics of the batch":
            return of_lists(BATCH, x, gamma, beta, eps=eps)
        xhat = [[(v - m) / (cmath.sqrt(var) + eps if wrong == "eps outside" else cmath.sqrt(var + eps))
                 for v, m, var in zip(row, running_mean, running_var)] for row in x]
    elif wrong == "everything":
        flat = xhat_of_list([v for row in x for v in row], eps)
        xhat = [flat[start:start + len(gamma)] for start in range(0, len(flat), len(gamma))]
    elif (what == LAYER) != (wrong == "other axis"):
        xhat = [xhat_of_list(row, eps, wrong) for row in x]
    else:
        xhat = transposed([xhat_of_list(column, eps, wrong) for column in transposed(x)])
    return [[g * v + b for g, v, b in zip(gamma, row, beta, strict=True)] for row in xhat]


def gradients_of_lists(what, inputs, dy, eps):
    """dx, dgamma, dbeta by the complex step through the lists."""
    gradients = []
    for name in ["x", "gamma", "beta"]:
        gradient = np.zeros(inputs[name].shape)
        for index in np.ndindex(gradient.shape):
            moved = inputs[name].astype(complex)
            moved[index] += 1e-30j
            y = of_lists(what, *(inputs | {name: moved}).values(), eps=eps)
            gradient[index] = sum(w * v.imag for w, v in zip(dy.ravel(), sum(y, []), strict=True)) / 1e-30
        gradients.append(gradient)
    return gradients


def test_the_module_has_the_pairs_it_should():
    for ending in ("_forward", "_backward"):
        assert {name for name in dir(norm) if name.endswith(ending)} == {what + ending for what in PAIRS}


@every_pair
@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("N, D", [(5, 7), (7, 5), (3, 11)])
def test_a_norm_of_lists_has_the_same_numbers_and_gradients(what, eps, N, D):
    inputs = inputs_of(what, seed=5, N=N, D=D)
    y, *gradients = run(what, inputs, eps=eps)
    np.testing.assert_allclose(y, np.real(of_lists(what, *inputs.values(), eps=eps)), rtol=1e-13, atol=1e-13)
    for ours, reference in zip(gradients, gradients_of_lists(what, inputs, cotangent_of(y), eps), strict=True):
        assert relative_error(ours, reference) <= LIMIT


WRONG = [(what, wrong) for what in (BATCH, LAYER) for wrong in
         ["no mean", "unbiased", "eps outside", "no eps", "no root", "no spread", "other axis", "everything"]]


@pytest.mark.parametrize("what, wrong", [*WRONG, (FIXED, "eps outside"), (FIXED, "statistics of the batch")])
def test_no_common_mistake_gives_the_same_numbers(what, wrong):
    inputs = inputs_of(what)
    y, *_ = functions(what)[0](**inputs, eps=0.3)
    assert relative_error(y, np.real(of_lists(what, *inputs.values(), eps=0.3, wrong=wrong))) > 1e-2


@every_pair
def test_eps_is_1e_5_if_it_is_not_given(what):
    inputs = inputs_of(what)
    assert same_bits(run(what, inputs), run(what, inputs, eps=1e-5))
    assert not same_bits(run(what, inputs), run(what, inputs, eps=2e-5))


@every_pair
def test_every_argument_has_an_effect(what):
    inputs = inputs_of(what)
    y, dx, *_ = run(what, inputs)
    for name, array in inputs.items():
        moved = array.copy()
        moved.flat[1] += 0.5
        other, other_dx, *_ = run(what, inputs | {name: moved})
        assert relative_error(y, other) > 1e-3, name
        assert name in ("beta", "running_mean") or relative_error(dx, other_dx) > 1e-3 or (what, name) == (FIXED, "x")


# ------------------------------------------------------------------------------------------------ worked by hand

def test_three_examples_worked_by_hand():
    """x = 0, 3, 6: mean 3, variance 6; with eps = 3 the root is 3 and xhat = -1, 0, 1."""
    x, gamma, beta, dy = (np.array(a, float) for a in ([[0], [3], [6]], [2], [-1], [[1], [2], [6]]))
    y, cache = norm.batch_norm_forward(x, gamma, beta, 3)
    np.testing.assert_array_equal(y, [[-3], [-1], [1]])
    assert cache.mu.tolist() == [3] and cache.var.tolist() == [6]
    dx, dgamma, dbeta = norm.batch_norm_backward(dy, cache)
    np.testing.assert_allclose(dx, [[-2/9], [-2/3], [8/9]], rtol=1e-14)     # 2/3 (dy - 3 - xhat 5/3)
    assert (dgamma.tolist(), dbeta.tolist()) == ([5], [9])
    y, cache = norm.layer_norm_forward(x.T, np.array([2.0, 3, 4]), np.array([-1.0, 5, 7]), 3)
    np.testing.assert_array_equal(y, [[-3, 5, 11]])
    dx, dgamma, dbeta = norm.layer_norm_backward(dy.T, cache)               # dxhat = 2, 6, 24
    np.testing.assert_allclose(3 * dx, [[2 - 32/3 + 22/3, 6 - 32/3, 24 - 32/3 - 22/3]], rtol=1e-14)
    assert (dgamma.tolist(), dbeta.tolist()) == ([-1, 0, 6], [1, 2, 6])


def test_two_examples_worked_by_hand():
    """x = 1, 5: d = 2; with eps = 12 the root is 4 and dx = gamma delta eps / s^3 = 3 (-3/2) 12/64."""
    x, gamma, beta, dy = (np.array(a, float) for a in ([[1], [5]], [3], [0.5], [[1], [4]]))
    y, dx, dgamma, dbeta = run(BATCH, {"x": x, "gamma": gamma, "beta": beta}, dy, eps=12)
    assert y.tolist() == [[-1], [2]] and dx.tolist() == [[-27/32], [27/32]]
    assert (dgamma.tolist(), dbeta.tolist()) == ([1.5], [5])


def test_fixed_statistics_worked_by_hand():
    """mean 1, variance 3 3/4; with eps = 1/4 the root is 2."""
    inputs = {name: np.array(a, float) for name, a in {"x": [[5], [-3]], "gamma": [3], "beta": [0.5],
                                                       "running_mean": [1], "running_var": [3.75]}.items()}
    y, dx, dgamma, dbeta = run(FIXED, inputs, np.array([[1.0], [4.0]]), eps=0.25)
    assert y.tolist() == [[6.5], [-5.5]] and dx.tolist() == [[1.5], [6]]
    assert (dgamma.tolist(), dbeta.tolist()) == ([2 - 8], [5])


# ------------------------------------------------------------------------------------------------ gradients

@every_pair
@pytest.mark.parametrize("eps", [1e-5, 0.0, 1e-8, 0.3])
@pytest.mark.parametrize("N, D", [(5, 7), (7, 3), (3, 5), (11, 3)])
def test_gradients_agree_with_the_complex_step(what, N, D, eps):
    for seed in range(2):
        inputs = inputs_of(what, seed, N, D)
        report = check_gradients(*functions(what), *inputs.values(), eps, rng=np.random.default_rng(4))
        assert list(report.errors) == ["dx", "dgamma", "dbeta"]
        assert max(report.errors.values()) <= LIMIT


@pytest.mark.parametrize("what, N, D", [(FIXED, 1, 3), (FIXED, 2, 3), (FIXED, 3, 1), (LAYER, 1, 3), (LAYER, 2, 3),
                                        (BATCH, 3, 1)])
def test_gradients_at_small_sizes_agree_with_the_complex_step(what, N, D):
    check_gradients(*functions(what), *inputs_of(what, N=N, D=D).values(), rng=np.random.default_rng(4))


def wrong_dx(inputs, dy, cache_std, xhat):
    """dL/dx of batch norm with one of its three paths, or gamma, left out."""
    dxhat = dy * inputs["gamma"]

    def assembled(dxhat, by_mean=1, by_var=1):
        return (dxhat - by_mean * dxhat.mean(axis=0) - by_var * xhat * (dxhat * xhat).mean(axis=0)) / cache_std
    return assembled(dxhat), {
        "no mean": assembled(dxhat, by_mean=0), "no variance": assembled(dxhat, by_var=0),
        "neither": assembled(dxhat, 0, 0), "no gamma": assembled(dy),
        "unbiased": assembled(dxhat, by_var=len(dy) / (len(dy) - 1)), "twice": assembled(dxhat, by_var=2)}


@with_statistics_of_x
def test_no_path_of_the_gradient_is_missing(what):
    inputs = inputs_of(what)
    y, dx, *_ = run(what, inputs)
    x, dy = inputs["x"], cotangent_of(y)
    if what == LAYER:                                           # the same along the other axis
        x, dy, dx, inputs = x.T, dy.T, dx.T, inputs | {"gamma": inputs["gamma"][:, None]}
    std = np.sqrt(x.var(axis=0) + 1e-5)
    right, wrong = wrong_dx(inputs, dy, std, (x - x.mean(axis=0)) / std)
    assert relative_error(dx, right) <= LIMIT
    for name, other in wrong.items():
        assert relative_error(dx, other) > 1e-2, name


@with_statistics_of_x
def test_what_changes_nothing_has_no_gradient(what):
    """A constant added to all values, or with eps = 0 a common factor, leaves xhat as it is."""
    inputs, axis = inputs_of(what), 0 if what == BATCH else 1
    y, dx, *_ = run(what, inputs, eps=0)
    x = inputs["x"]
    assert np.abs(dx.sum(axis=axis)).max() < 1e-14
    assert np.abs((dx * x).sum(axis=axis)).max() < 1e-13
    shift, factor = np.random.default_rng(3).uniform(1, 2, (2, *y.mean(axis=axis, keepdims=True).shape))
    np.testing.assert_allclose(run(what, inputs | {"x": factor * x + shift}, eps=0)[0], y, rtol=0, atol=1e-13)
    with_eps = run(what, inputs, eps=0.3)[1]
    assert np.abs(with_eps.sum(axis=axis)).max() < 1e-14 and np.abs((with_eps * x).sum(axis=axis)).min() > 1e-3


def exact_examples():
    """Rows of three values with mean 3, variance 6 and, with eps = 3, root 3."""
    return np.array([[0.0, 3, 6], [6, 0, 3], [3, 6, 0], [3, 0, 6], [6, 3, 0]])


@pytest.mark.parametrize("wrt", ["x", "gamma", "beta"])
def test_fixed_statistics_have_the_exact_adjoint(wrt):
    rng = np.random.default_rng(1)
    running_var = np.array([3.75, 0.0, 15.75])                  # with eps = 1/4 the roots are 2, 1/2, 4
    x, gamma, beta = on_grid(rng, (5, 3)), on_grid(rng, 3), on_grid(rng, 3)
    check_adjoint(*functions(FIXED), x, gamma, beta, on_grid(rng, 3), running_var, 0.25, wrt=wrt)


@with_statistics_of_x
@pytest.mark.parametrize("wrt", ["gamma", "beta"])
def test_scale_and_shift_have_the_exact_adjoint(what, wrt):
    rng = np.random.default_rng(1)
    x = exact_examples().T.copy() if what == BATCH else exact_examples()
    gamma, beta = on_grid(rng, x.shape[1]), on_grid(rng, x.shape[1])
    check_adjoint(*functions(what), x, gamma, beta, 3.0, wrt=wrt)


# ------------------------------------------------------------------------------------------------ what follows

@with_statistics_of_x
def test_mean_and_variance_of_the_output_are_those_that_were_asked_for(what):
    inputs, axis = inputs_of(what), 0 if what == BATCH else 1
    D = inputs["x"].shape[1]
    y, _ = functions(what)[0](inputs["x"], np.full(D, -1.7), np.full(D, 0.6), 0.3)
    var = inputs["x"].var(axis=axis)
    np.testing.assert_allclose(y.mean(axis=axis), 0.6, rtol=1e-13)
    np.testing.assert_allclose(y.var(axis=axis), 1.7**2 * var / (var + 0.3), rtol=1e-13)


def test_a_layer_norm_is_a_batch_norm_of_the_transpose():
    x = inputs_of(LAYER)["x"]
    N, D = x.shape
    y, dx, *_ = run(LAYER, {"x": x, "gamma": np.ones(D), "beta": np.zeros(D)})
    other, other_dx, *_ = run(BATCH, {"x": x.T, "gamma": np.ones(N), "beta": np.zeros(N)}, cotangent_of(y).T)
    np.testing.assert_allclose(y, other.T, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(dx, other_dx.T, rtol=1e-12, atol=1e-13)


def test_the_statistics_of_the_batch_itself_give_the_output_of_training_but_another_gradient():
    inputs = inputs_of(BATCH)
    y, cache = norm.batch_norm_forward(**inputs)
    assert cache.mu.shape == cache.var.shape == (7,)
    fixed = inputs | {"running_mean": cache.mu, "running_var": cache.var}
    other, dx, dgamma, dbeta = run(FIXED, fixed)
    np.testing.assert_allclose(y, other, rtol=1e-13, atol=1e-14)
    in_training = norm.batch_norm_backward(cotangent_of(y), cache)
    for ours, of_fixed in zip(in_training[1:], (dgamma, dbeta)):
        assert relative_error(ours, of_fixed) <= 1e-14
    assert relative_error(in_training[0], dx) > 0.1


@pytest.mark.parametrize("what", [LAYER, FIXED])
def test_examples_do_not_see_each_other(what):
    inputs = inputs_of(what)
    y, dx, *_ = run(what, inputs)
    for n in range(len(y)):
        alone, alone_dx, *_ = run(what, inputs | {"x": inputs["x"][n:n + 1]}, cotangent_of(y)[n:n + 1])
        np.testing.assert_allclose(alone[0], y[n], rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(alone_dx[0], dx[n], rtol=1e-12, atol=1e-13)


def test_in_a_batch_all_examples_see_each_other_and_no_column_another():
    inputs = inputs_of(BATCH)
    y, cache = norm.batch_norm_forward(**inputs)
    dy = np.zeros(y.shape)
    dy[1, 2] = 0.7
    dx, *_ = norm.batch_norm_backward(dy, cache)
    assert dx[:, 2].all() and not np.delete(dx, 2, axis=1).any()


@with_statistics_of_x
def test_equal_values_give_beta_and_a_gradient_without_the_variance(what):
    inputs = inputs_of(what) | {"x": np.full((5, 7), 0.625)}
    y, dx, dgamma, _ = run(what, inputs, eps=0.25)
    dxhat, axis = cotangent_of(y) * inputs["gamma"], 0 if what == BATCH else 1
    np.testing.assert_array_equal(y, np.broadcast_to(inputs["beta"], y.shape))
    np.testing.assert_allclose(dx, 2 * (dxhat - dxhat.mean(axis=axis, keepdims=True)), rtol=1e-13, atol=1e-14)
    assert not dgamma.any()


def test_one_feature_has_nothing_to_be_compared_with():
    inputs = inputs_of(LAYER, D=1)
    y, dx, dgamma, dbeta = run(LAYER, inputs)
    np.testing.assert_array_equal(y, np.broadcast_to(inputs["beta"], (5, 1)))
    assert not dx.any() and not dgamma.any()
    np.testing.assert_allclose(dbeta, cotangent_of(y).sum(axis=0), rtol=1e-14)


# ------------------------------------------------------------------------------------------------ 100 digits

def of_decimals(column, gamma, beta, eps):
    """One channel in decimal numbers: y and the variance."""
    mean = sum(column) / len(column)
    var = sum((v - mean) ** 2 for v in column) / len(column)
    std = (var + eps).sqrt()
    return [gamma * (v - mean) / std + beta for v in column], var


def dx_of_decimals(column, gamma, beta, eps, dy):
    """Differences with a step of 1e-40 leave 60 digits; no formula of a gradient is needed."""
    step, dx = Decimal("1e-40"), []
    for n in range(len(column)):
        ends = [of_decimals([*column[:n], column[n] + h, *column[n + 1:]], gamma, beta, eps)[0] for h in (step, -step)]
        dx.append(sum(w * (ahead - behind) for w, ahead, behind in zip(dy, *ends)) / (2 * step))
    return dx


def true_values(x, gamma, beta, eps, dy):
    """y, the variances and dx of batch norm with 100 digits, rounded at the very end."""
    with localcontext() as context:
        context.prec = 100
        ys, variances, dxs = [], [], []
        for column, g, b, w in zip(x.T, gamma, beta, dy.T):
            column, w = ([Decimal(v) for v in numbers.tolist()] for numbers in (column, w))
            channel = column, Decimal(g), Decimal(b), Decimal(eps)
            y, var = of_decimals(*channel)
            ys.append([float(v) for v in y])
            variances.append(float(var))
            dxs.append([float(v) for v in dx_of_decimals(*channel, w)])
    return np.array(ys).T, np.array(variances), np.array(dxs).T


def test_the_digits_agree_where_nothing_cancels():
    inputs = inputs_of(BATCH)
    y, dx, *_ = run(BATCH, inputs)
    true_y, _, true_dx = true_values(*inputs.values(), 1e-5, cotangent_of(y))
    assert relative_error(y, true_y) <= 1e-14 and relative_error(dx, true_dx) <= 1e-14


def two_examples(seed, D=3):
    """Columns of many sizes and offsets."""
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-3, 2, D)
    return {"x": scale * (rng.standard_normal((2, D)) + rng.choice([0, 1, 100])), "gamma": rng.standard_normal(D),
            "beta": rng.standard_normal(D)}


@pytest.mark.parametrize("eps", [1e-8, 1e-5, 1e-2, 1.0])
def test_two_examples_are_as_close_to_the_true_gradient_as_rounding_allows(eps):
    for seed in range(20):
        inputs = two_examples(seed)
        y, dx, *_ = run(BATCH, inputs, eps=eps)
        true_y, _, true_dx = true_values(*inputs.values(), eps, cotangent_of(y))
        limit = two_samples_error(inputs["x"], inputs["gamma"], eps, cotangent_of(y))
        assert (np.abs(dx - true_dx) <= limit).all()


def test_the_limit_of_two_examples_is_none_that_lets_a_wrong_gradient_pass():
    """One factor 1.001 on the last term is seen as long as what is left is larger than rounding."""
    inputs = {name: a[..., :3] for name, a in inputs_of(BATCH, N=2).items()}
    x, gamma, _ = inputs.values()
    y, dx, *_ = run(BATCH, inputs)
    limit = two_samples_error(x, gamma, 1e-5, cotangent_of(y))
    assert (limit < 1e-6 * np.abs(dx).max(axis=0)).all()
    std = np.sqrt(x.var(axis=0) + 1e-5)
    _, wrong = wrong_dx(inputs, cotangent_of(y), std, (x - x.mean(axis=0)) / std)
    for name, other in wrong.items():
        assert (np.abs(dx - other).max(axis=0) > limit).all(), name


def test_two_examples_without_eps_are_only_signs():
    """xhat = -1 and 1 whatever x is: the true gradient is zero, ours is rounding."""
    inputs = two_examples(1)
    y, dx, dgamma, _ = run(BATCH, inputs, eps=0)
    signs = np.sign(inputs["x"] - inputs["x"].mean(axis=0))
    np.testing.assert_allclose(y, inputs["gamma"] * signs + inputs["beta"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(dgamma, (cotangent_of(y) * signs).sum(axis=0), rtol=0, atol=1e-12)
    assert (np.abs(dx) <= two_samples_error(inputs["x"], inputs["gamma"], 0, cotangent_of(y))).all()


OFFSET = 1e6
ROUNDING_OF_OFFSET = 4 * np.spacing(OFFSET)                     # x - mean is off by a few units in the last place of x


def test_a_large_offset_does_not_drown_the_variance():
    """mean(x^2) - mean(x)^2 is off by 1e-4. The error of mean((x - mean)^2) is the square of that of the mean."""
    inputs = inputs_of(BATCH, N=11)
    inputs["x"] = OFFSET + np.random.default_rng(8).standard_normal((11, 7))
    y, cache = norm.batch_norm_forward(**inputs)
    dx, *_ = norm.batch_norm_backward(cotangent_of(y), cache)
    true_y, true_var, true_dx = true_values(*inputs.values(), 1e-5, cotangent_of(y))
    np.testing.assert_allclose(cache.var, true_var, rtol=1e-14)
    largest = np.abs(inputs["gamma"]).max() / np.sqrt(true_var.min())
    assert np.abs(y - true_y).max() <= ROUNDING_OF_OFFSET * largest
    assert np.abs(dx - true_dx).max() <= ROUNDING_OF_OFFSET * largest * np.abs(cotangent_of(y)).max()


def test_a_large_offset_does_not_drown_the_variance_of_an_example():
    x = OFFSET + np.random.default_rng(8).standard_normal((7, 11))
    y, dx, *_ = run(LAYER, {"x": x, "gamma": np.ones(11), "beta": np.zeros(11)})
    true_y, true_var, true_dx = true_values(x.T, np.ones(7), np.zeros(7), 1e-5, cotangent_of(y).T)
    largest = 1 / np.sqrt(true_var.min())
    assert np.abs(y - true_y.T).max() <= ROUNDING_OF_OFFSET * largest
    assert np.abs(dx - true_dx.T).max() <= ROUNDING_OF_OFFSET * largest * np.abs(cotangent_of(y)).max()


@with_statistics_of_x
def test_a_large_offset_in_float32_is_as_exact_as_its_numbers(what):
    x = (1000 + np.random.default_rng(8).standard_normal((11, 7))).astype(np.float32)
    ones = {"gamma": np.ones(7), "beta": np.zeros(7)}
    wide = functions(what)[0](x.astype(float), **ones)[0]
    narrow = functions(what)[0](x, **{name: a.astype(np.float32) for name, a in ones.items()})[0]
    assert narrow.dtype == np.float32
    assert np.abs(narrow - wide).max() < 8 * np.spacing(np.float32(1000))


# ------------------------------------------------------------------------------------------------ running statistics

def test_running_statistics_worked_by_hand():
    """Five examples: the batch's variance 2 becomes 2 5/4 = 2.5; a quarter of the new, three quarters of the old."""
    mean, var = norm.running_statistics(np.array([8.0]), np.array([4.0]), np.array([4.0]), np.array([2.0]), 5, 0.25)
    assert (mean.tolist(), var.tolist()) == ([7], [3.625])


@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_running_statistics_after_many_batches(momentum):
    rng = np.random.default_rng(1)
    mean, var = np.full(3, 0.3), np.full(3, 1.7)
    expected = [mean, var]
    for N in (2, 3, 5, 7):
        x = rng.standard_normal((N, 3)) + 2
        _, cache = norm.batch_norm_forward(x, np.full(3, 1.3), np.full(3, 0.2))
        mean, var = norm.running_statistics(mean, var, cache.mu, cache.var, N, momentum)
        expected = [old + momentum * (new - old) for old, new in zip(expected, (x.mean(axis=0), x.var(axis=0, ddof=1)))]
    np.testing.assert_allclose([mean, var], expected, rtol=1e-14)


def test_the_ends_of_momentum_and_the_cumulative_average():
    rng = np.random.default_rng(1)
    old, batches = rng.uniform(1, 2, (2, 3)), rng.uniform(1, 2, (5, 2, 3))
    np.testing.assert_array_equal(norm.running_statistics(*old, *batches[0], 4, 0), old)
    mean, var = norm.running_statistics(*old, *batches[0], 4, 1)
    np.testing.assert_array_equal([mean, var], [batches[0, 0], batches[0, 1] * (4 / 3)])
    for number, batch in enumerate(batches, start=1):
        mean, var = norm.running_statistics(mean, var, *batch, 4, 1 / number)
    np.testing.assert_allclose([mean, var], batches.mean(axis=0) * [[1], [4 / 3]], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("view", [frozen, spread])
def test_running_statistics_are_new_arrays_of_the_same_width(dtype, view):
    given = [view(a.astype(dtype)) for a in np.random.default_rng(1).uniform(1, 2, (4, 3))]
    before = copy.deepcopy(given)
    returned = norm.running_statistics(*given, 5, 0.3)
    assert [a.dtype for a in returned] == [dtype] * 2 and [a.shape for a in returned] == [(3,)] * 2
    assert same_bits(before, given)
    assert not any(np.shares_memory(new, old) for new in returned for old in given)


# ------------------------------------------------------------------------------------------------ pure

@every_pair
def test_backward_twice_gives_the_same_bits(what):
    forward, backward = functions(what)
    y, cache = forward(**inputs_of(what))
    first = copy.deepcopy(backward(cotangent_of(y), cache))
    run(what, inputs_of(what, seed=7))                          # another forward leaves this cache alone
    assert same_bits(first, backward(cotangent_of(y), cache))


@every_pair
def test_nothing_passed_in_is_changed_or_handed_out(what):
    forward, backward = functions(what)
    inputs = inputs_of(what)
    before = copy.deepcopy(inputs)
    y, cache = forward(**inputs)
    assert isinstance(cache, tuple) and type(cache).__name__.endswith("Cache")
    dy = cotangent_of(y)
    kept = copy.deepcopy([y, dy, *arrays_of(cache)])
    gradients = backward(dy, cache)
    assert same_bits(before.values(), inputs.values()) and same_bits(kept, [y, dy, *arrays_of(cache)])
    for i, a in enumerate([y, *gradients]):
        assert a.flags.writeable
        for other in [dy, *inputs.values(), *gradients[:max(i - 1, 0)], *(arrays_of(cache) if i else [])]:
            assert not np.shares_memory(a, other)


@every_pair
def test_read_only_arrays_give_the_same_bits_and_strided_ones_the_same_numbers(what):
    inputs = inputs_of(what)
    expected = run(what, inputs)
    dy = cotangent_of(expected[0])
    assert same_bits(expected, run(what, {name: frozen(a) for name, a in inputs.items()}, frozen(dy)))
    for view in (spread, np.asfortranarray):
        for a, b in zip(run(what, {name: view(a) for name, a in inputs.items()}, view(dy)), expected, strict=True):
            assert a.shape == b.shape and relative_error(a, b) <= 1e-14


@every_pair
@pytest.mark.parametrize("factor", [2.0, 0.25, 0.0])
def test_a_scaled_cotangent_gives_scaled_gradients_bit_for_bit(what, factor):
    y, *once = run(what, inputs_of(what))
    _, *scaled = run(what, inputs_of(what), factor * cotangent_of(y))
    for a, b in zip(once, scaled, strict=True):
        np.testing.assert_array_equal(factor * a, b)


# ------------------------------------------------------------------------------------------------ widths and edges

@every_pair
def test_float32_stays_float32(what):
    inputs = inputs_of(what, dtype=np.float32)
    narrow = run(what, inputs)
    assert {a.dtype for a in narrow} == {np.dtype(np.float32)}
    wide = run(what, {name: a.astype(float) for name, a in inputs.items()}, cotangent_of(narrow[0]).astype(float))
    assert {a.dtype for a in wide} == {np.dtype(np.float64)}
    for a, b in zip(narrow, wide):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("what", [LAYER, FIXED])
def test_no_examples_give_an_empty_output_and_no_gradient(what):
    y, dx, dgamma, dbeta = run(what, inputs_of(what) | {"x": np.zeros((0, 7))})
    assert y.shape == dx.shape == (0, 7) and dgamma.shape == dbeta.shape == (7,)
    assert not dgamma.any() and not dbeta.any()


@every_pair
@pytest.mark.parametrize("size", [1e-150, 1e-6, 1e4, 1e100])
def test_neither_large_nor_small_numbers_raise_a_flag(what, size):
    inputs = inputs_of(what)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        everything = run(what, inputs | {"x": size * inputs["x"]})
    assert all(np.isfinite(a).all() for a in everything)


# what: where a NaN in x[1, 2] or dy[1, 2] arrives, in rows and columns
REACH = {BATCH: (slice(None), 2), LAYER: (1, slice(None)), FIXED: (1, 2)}


@every_pair
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_or_inf_in_x_arrives_where_it_must_and_nowhere_else(what, value):
    inputs = inputs_of(what)
    inputs["x"][1, 2] = value
    expected = np.zeros((5, 7), bool)
    expected[REACH[what]] = True
    with np.errstate(invalid="ignore"):
        y, dx, dgamma, dbeta = run(what, inputs)
    if what == FIXED or np.isnan(value):
        np.testing.assert_array_equal(~np.isfinite(y), expected)
    assert np.isfinite(y[~expected]).all() and not np.isfinite(y[1, 2])
    assert np.isfinite(dx[~expected]).all()
    assert what == FIXED or np.isnan(dx[expected]).any()
    assert not np.isfinite(dgamma[2]) and np.isfinite(dbeta).all()


@every_pair
def test_a_nan_in_a_cotangent_arrives_where_it_must_and_nowhere_else(what):
    y, _ = functions(what)[0](**inputs_of(what))
    dy = cotangent_of(y)
    dy[1, 2] = np.nan
    expected = np.zeros((5, 7), bool)
    expected[REACH[what]] = True
    _, dx, dgamma, dbeta = run(what, inputs_of(what), dy)
    np.testing.assert_array_equal(np.isnan(dx), expected)
    np.testing.assert_array_equal(np.isnan(dgamma), np.arange(7) == 2)
    np.testing.assert_array_equal(np.isnan(dbeta), np.arange(7) == 2)


@every_pair
def test_a_nan_in_a_parameter_arrives_in_its_column(what):
    for name in list(inputs_of(what))[1:]:
        inputs = inputs_of(what)
        inputs[name][2] = np.nan
        y, dx, *_ = run(what, inputs)
        np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(np.arange(7) == 2, y.shape))
        assert np.isnan(dx).any() == (name in ("gamma", "running_var"))


# ------------------------------------------------------------------------------------------------ bad input

def refuses(error, start, call, *parts):
    with pytest.raises(error, match="^" + re.escape(start)) as caught:
        call()
    assert caught.type is error
    assert all(str(part) in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize("N", [0, 1])
def test_one_value_has_no_variance(N):
    refuses(ValueError, f"batch_norm_forward: x must have more than one value per channel, got shape ({N}, 3)",
            lambda: norm.batch_norm_forward(**inputs_of(BATCH, N=N, D=3)))


@every_pair
def test_wrong_shapes_are_refused_by_name(what):
    inputs = inputs_of(what)
    for wrong in [(7,), (5, 7, 1), (), (1, 5, 7)]:
        refuses(ValueError, f"{what}_forward: x must ", lambda wrong=wrong: functions(what)[0](
            **inputs | {"x": np.zeros(wrong)}), wrong)
    for name in list(inputs)[1:]:
        for wrong in [(8,), (1,), (), (1, 7), (7, 1), (5, 7), (0,)]:
            refuses(ValueError, f"{what}_forward: {name} must ", lambda name=name, wrong=wrong: functions(what)[0](
                **inputs | {name: np.ones(wrong)}), (7,), wrong)


@every_pair
def test_a_cotangent_of_another_shape_is_refused(what):
    forward, backward = functions(what)
    _, cache = forward(**inputs_of(what))
    for wrong in [(5, 1), (1, 7), (7,), (), (7, 5), (5, 8), (6, 7), (5, 7, 1)]:
        refuses(ValueError, f"{what}_backward: dy must ", lambda wrong=wrong: backward(np.zeros(wrong), cache),
                (5, 7), wrong)


@every_pair
def test_integers_and_lists_are_refused(what):
    inputs = inputs_of(what)
    for name, a in inputs.items():
        for wrong in (np.ones(a.shape, int), a.tolist(), np.ones(a.shape, bool)):
            refuses(TypeError, f"{what}_forward: {name} must be an array of floats, got", lambda name=name, wrong=wrong:
                    functions(what)[0](**inputs | {name: wrong}))


@every_pair
def test_an_eps_below_zero_is_refused(what):
    for error, wrong in [(ValueError, -1e-5), (ValueError, float("nan")), (ValueError, float("inf")),
                         (TypeError, "1e-5"), (TypeError, None), (TypeError, True), (TypeError, 1e-5j)]:
        refuses(error, f"{what}_forward: eps must be a finite number >= 0, got", lambda wrong=wrong: functions(what)[0](
            **inputs_of(what), eps=wrong))


# ------------------------------------------------------------------------------------------------ PyTorch, live

def test_two_examples_are_at_least_as_close_to_the_true_gradient_as_those_of_pytorch():
    """In the mean square. PyTorch's kernel needs the room that rounding takes as much as ours."""
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    errors = {"ours": [], "theirs": []}
    for seed in range(40):
        inputs = two_examples(seed)
        y, dx, *_ = run(BATCH, inputs)
        x, gamma, beta = (torch.tensor(a, requires_grad=name == "x") for name, a in inputs.items())
        of_torch = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-5)
        theirs, = torch.autograd.grad(of_torch, x, torch.from_numpy(cotangent_of(y)))
        _, _, true_dx = true_values(*inputs.values(), 1e-5, cotangent_of(y))
        limit = two_samples_error(inputs["x"], inputs["gamma"], 1e-5, cotangent_of(y))
        errors["ours"].append(np.abs(dx - true_dx) / limit)
        errors["theirs"].append(np.abs(theirs.numpy() - true_dx) / limit)
    assert np.max(errors["theirs"]) <= 1 and np.max(errors["ours"]) <= 1
    assert np.mean(np.square(errors["ours"])) <= np.mean(np.square(errors["theirs"]))
