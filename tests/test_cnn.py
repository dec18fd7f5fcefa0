"""Every pair of backprop_lib.cnn: equal to its definition in plain loops, pure, quiet, loud on bad input.

On grids of multiples of 1/8 every sum of products is exact, whatever its order; there we compare with ==.
"""

import copy
import itertools
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrays import frozen, same_bits
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from backprop_lib import cnn, mlp
from backprop_lib.gradcheck import check_adjoint, check_gradients, on_grid


FORWARDS = sorted(name.removesuffix("_forward") for name in dir(cnn) if name.endswith("_forward"))
BACKWARDS = sorted(name.removesuffix("_backward") for name in dir(cnn) if name.endswith("_backward"))
LIMIT = 1e-12

# what: pair, shapes of the arrays, options. Sizes differ, images and kernels are not square, strides do not tile.
CASES = {
    "correlate1d": ("correlate1d", [(11,), (3,)], {}),
    "correlate2d": ("correlate2d", [(2, 3, 5, 7), (4, 3, 2, 3), (4,)], {}),
    "unfold": ("unfold", [(2, 3, 5, 7)], {"kernel_size": (2, 3)}),
    "unfold, all options": ("unfold", [(2, 3, 5, 4)], {"kernel_size": (2, 3), "stride": (3, 2), "padding": (2, 1),
                                                       "dilation": (3, 1)}),
    "conv2d": ("conv2d", [(2, 3, 5, 7), (4, 3, 2, 3), (4,)], {}),
    "conv2d, all options": ("conv2d", [(3, 4, 6, 7), (6, 2, 3, 2), (6,)],
                            {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 3), "groups": 2}),
    "conv2d, rows and columns": ("conv2d", [(2, 2, 8, 5), (3, 2, 2, 3), (3,)],
                                 {"stride": (3, 1), "padding": (0, 1), "dilation": (1, 2)}),
    "conv2d, depthwise": ("conv2d", [(2, 3, 4, 5), (6, 1, 2, 3), (6,)], {"stride": (1, 2), "padding": 1, "groups": 3}),
    "conv_transpose2d": ("conv_transpose2d", [(2, 4, 3, 5), (4, 3, 2, 3), (3,)], {}),
    "conv_transpose2d, all options": ("conv_transpose2d", [(3, 4, 3, 2), (4, 3, 2, 3), (6,)],
                                      {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "groups": 2,
                                       "dilation": (3, 2)}),
    "max_pool2d": ("max_pool2d", [(2, 3, 5, 7)], {"kernel_size": (2, 3)}),
    "max_pool2d, all options": ("max_pool2d", [(2, 3, 7, 8)], {"kernel_size": (3, 2), "stride": (2, 1),
                                                               "padding": (1, 0), "dilation": (2, 3)}),
    "max_pool2d, gaps": ("max_pool2d", [(2, 3, 8, 7)], {"kernel_size": 2, "stride": (3, 4), "padding": 1}),
    "avg_pool2d": ("avg_pool2d", [(2, 3, 5, 7)], {"kernel_size": (2, 3)}),
    "avg_pool2d, all options": ("avg_pool2d", [(2, 3, 5, 7)], {"kernel_size": (3, 4), "stride": (1, 2),
                                                               "padding": (1, 2), "count_include_pad": False}),
    "avg_pool2d, padding counts": ("avg_pool2d", [(2, 3, 6, 5)], {"kernel_size": (4, 2), "stride": (3, 1),
                                                                  "padding": (2, 1), "count_include_pad": True}),
    "global_avg_pool2d": ("global_avg_pool2d", [(2, 3, 5, 7)], {}),
    "flatten": ("flatten", [(2, 3, 5, 7)], {}),
    "flatten, three axes": ("flatten", [(3, 5, 2)], {}),
    "flatten, two axes": ("flatten", [(3, 5)], {}),
}
ARRAYS = {"correlate1d": ["x", "w"], "correlate2d": ["x", "W", "b"], "conv2d": ["x", "W", "b"],
          "conv_transpose2d": ["x", "W", "b"]}
BATCHED = [what for what, (pair, _, _) in CASES.items() if pair != "correlate1d"]

every_case = pytest.mark.parametrize("what", CASES)


# ------------------------------------------------------------------------------------------------ helpers

def functions(pair):
    return getattr(cnn, f"{pair}_forward"), getattr(cnn, f"{pair}_backward")


def arrays_of(pair):
    return ARRAYS.get(pair, ["x"])


def inputs_of(what, seed=1, dtype=np.float64):
    """Random arrays for one case: no two entries are equal, so no maximum is a tie."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in CASES[what][1]]


def grids_of(what, seed=1):
    rng = np.random.default_rng(seed)
    return [on_grid(rng, shape) for shape in CASES[what][1]]


def cotangent_of(y, seed=2):
    return np.random.default_rng(seed).standard_normal(y.shape).astype(y.real.dtype)


def tuple_of(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


def run_forward(what, arrays):
    """The output and the cache; there is exactly one output."""
    pair, _, options = CASES[what]
    y, cache = functions(pair)[0](*arrays, **options)
    return y, cache


def run_backward(what, dy, cache):
    return tuple_of(functions(CASES[what][0])[1](dy, cache))


def run(what, arrays, dy=None):
    """The output and all gradients, in one list."""
    y, cache = run_forward(what, arrays)
    return [y, *run_backward(what, cotangent_of(y) if dy is None else dy, cache)]


def relative_error(ours, reference):
    assert np.shape(ours) == np.shape(reference)
    scale = max(np.linalg.norm(ours), np.linalg.norm(reference))
    return np.linalg.norm(np.asarray(ours) - reference) / scale if scale else 0.0


def assert_same(ours, reference):
    """Equal as numbers, NaN at the same places, and nothing broadcast."""
    assert [np.shape(a) for a in ours] == [np.shape(a) for a in reference]
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------------------ the definition

def as_pair(option):
    return tuple(option) if isinstance(option, (tuple, list)) else (option, option)


def size_after(size, kernel, stride, padding, dilation):
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def sizes_after(image, kernel, stride, padding, dilation):
    options = [as_pair(option) for option in (kernel, stride, padding, dilation)]
    return tuple(size_after(size, *[option[axis] for option in options]) for axis, size in enumerate(image))


def taps(p, q, image, kernel, stride, padding, dilation):
    """(r, s, i, j) of every kernel entry whose pixel lies on the image, in row-major order."""
    (I, J), (R, S) = image, as_pair(kernel)
    stride, padding, dilation = as_pair(stride), as_pair(padding), as_pair(dilation)
    for r in range(R):
        for s in range(S):
            i = stride[0] * p + dilation[0] * r - padding[0]
            j = stride[1] * q + dilation[1] * s - padding[1]
            if 0 <= i < I and 0 <= j < J:
                yield r, s, i, j


def loops_unfold(x, dwindows_of, kernel_size, stride=1, padding=0, dilation=1):
    geometry = (x.shape[2:], kernel_size, stride, padding, dilation)
    windows = np.zeros((*x.shape[:2], *sizes_after(*geometry), *as_pair(kernel_size)))
    dwindows, dx = dwindows_of(windows), np.zeros(x.shape)
    for n, c, p, q in np.ndindex(windows.shape[:4]):
        for r, s, i, j in taps(p, q, *geometry):
            windows[n, c, p, q, r, s] = x[n, c, i, j]
            dx[n, c, i, j] += dwindows[n, c, p, q, r, s]
    return windows, dx


def loops_conv2d(x, W, b, dy_of, stride=1, padding=0, dilation=1, groups=1):
    """Output and gradients, each product added where the definition says."""
    F, channels, R, S = W.shape
    geometry = (x.shape[2:], (R, S), stride, padding, dilation)
    y = np.zeros((len(x), F, *sizes_after(*geometry)))
    dy, dx, dW, db = dy_of(y), np.zeros(x.shape), np.zeros(W.shape), np.zeros(b.shape)
    for n, f, p, q in np.ndindex(y.shape):
        y[n, f, p, q] += b[f]
        db[f] += dy[n, f, p, q]
        first = f // (F // groups) * channels
        for r, s, i, j in taps(p, q, *geometry):
            for c in range(channels):
                y[n, f, p, q] += W[f, c, r, s] * x[n, first + c, i, j]
                dx[n, first + c, i, j] += W[f, c, r, s] * dy[n, f, p, q]
                dW[f, c, r, s] += x[n, first + c, i, j] * dy[n, f, p, q]
    return y, dx, dW, db


def loops_conv_transpose2d(x, W, b, dy_of, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Every pixel of x stamps the kernel, times its value, onto y; what falls off the edge is lost."""
    (N, F, P, Q), (_, channels, R, S) = x.shape, W.shape
    image = tuple((size - 1) * s - 2 * pad + d * (k - 1) + out + 1 for size, k, s, pad, out, d in zip(
        (P, Q), (R, S), *map(as_pair, (stride, padding, output_padding, dilation))))
    y = np.zeros((N, channels * groups, *image))
    dy, dx, dW, db = dy_of(y), np.zeros(x.shape), np.zeros(W.shape), np.zeros(b.shape)
    for n, c, i, j in np.ndindex(y.shape):
        y[n, c, i, j] += b[c]
        db[c] += dy[n, c, i, j]
    for n, f, p, q in np.ndindex(x.shape):
        first = f // (F // groups) * channels
        for r, s, i, j in taps(p, q, image, (R, S), stride, padding, dilation):
            for c in range(channels):
                y[n, first + c, i, j] += W[f, c, r, s] * x[n, f, p, q]
                dx[n, f, p, q] += W[f, c, r, s] * dy[n, first + c, i, j]
                dW[f, c, r, s] += x[n, f, p, q] * dy[n, first + c, i, j]
    return y, dx, dW, db


def winner(values):
    """Position of the last NaN, else of the first maximum."""
    best = 0
    for k, value in enumerate(values):
        if np.isnan(value) or value > values[best]:
            best = k
    return best


def loops_max_pool2d(x, dy_of, kernel_size, stride=None, padding=0, dilation=1):
    geometry = (x.shape[2:], kernel_size, kernel_size if stride is None else stride, padding, dilation)
    y = np.zeros((*x.shape[:2], *sizes_after(*geometry)))
    dy, dx = dy_of(y), np.zeros(x.shape)
    for n, c, p, q in np.ndindex(y.shape):
        places = [(n, c, i, j) for _, _, i, j in taps(p, q, *geometry)]
        place = places[winner([x[place] for place in places])]
        y[n, c, p, q] = x[place]
        dx[place] += dy[n, c, p, q]
    return y, dx


def loops_avg_pool2d(x, dy_of, kernel_size, stride=None, padding=0, count_include_pad=True):
    geometry = (x.shape[2:], kernel_size, kernel_size if stride is None else stride, padding, 1)
    y = np.zeros((*x.shape[:2], *sizes_after(*geometry)))
    dy, dx = dy_of(y), np.zeros(x.shape)
    for n, c, p, q in np.ndindex(y.shape):
        places = [(n, c, i, j) for _, _, i, j in taps(p, q, *geometry)]
        count = np.prod(as_pair(kernel_size)) if count_include_pad else len(places)
        y[n, c, p, q] = sum(x[place] for place in places) / count
        for place in places:
            dx[place] += dy[n, c, p, q] / count
    return y, dx


def loops_global_avg_pool2d(x, dy_of):
    y = np.array([[sum(image.flat) / image.size for image in images] for images in x]).reshape(x.shape[:2])
    dy, dx = dy_of(y), np.zeros(x.shape)
    for n, c, i, j in np.ndindex(x.shape):
        dx[n, c, i, j] = dy[n, c] / (x.shape[2] * x.shape[3])
    return y, dx


def loops_flatten(x, dy_of):
    y = np.array([[value for value in example.flat] for example in x])
    return y, np.reshape(dy_of(y).ravel().tolist(), x.shape)


def loops_correlate1d(x, w, dy_of):
    y = np.array([sum(w[s] * x[q + s] for s in range(len(w))) for q in range(len(x) - len(w) + 1)])
    dy, dx, dw = dy_of(y), np.zeros(x.shape), np.zeros(w.shape)
    for q, s in np.ndindex(len(y), len(w)):
        dx[q + s] += w[s] * dy[q]
        dw[s] += x[q + s] * dy[q]
    return y, dx, dw


LOOPS = {"correlate1d": loops_correlate1d, "correlate2d": loops_conv2d, "unfold": loops_unfold,
         "conv2d": loops_conv2d, "conv_transpose2d": loops_conv_transpose2d, "max_pool2d": loops_max_pool2d,
         "avg_pool2d": loops_avg_pool2d, "global_avg_pool2d": loops_global_avg_pool2d, "flatten": loops_flatten}


def compare(pair, arrays, options, seed=3, limit=0.0):
    """Output and every gradient against the loops: to the last bit, or to a relative error."""
    rng = np.random.default_rng(seed)
    forward, backward = functions(pair)
    y, cache = forward(*arrays, **options)
    dy = on_grid(rng, y.shape)

    def dy_of(expected):
        assert y.shape == expected.shape
        return dy

    expected = LOOPS[pair](*arrays, dy_of, **options)
    ours = [y, *tuple_of(backward(dy, cache))]
    if limit == 0:
        assert_same(ours, expected)
    for mine, reference in zip(ours, expected, strict=True):
        assert limit == 0 or relative_error(mine, reference) <= limit


# ------------------------------------------------------------------------------------------------ right

def test_every_forward_has_a_backward_and_every_pair_its_cases():
    assert FORWARDS == BACKWARDS
    assert {pair for pair, _, _ in CASES.values()} == set(FORWARDS)


@every_case
@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_its_definition(what, seed):
    pair, _, options = CASES[what]
    compare(pair, inputs_of(what, seed), options, seed, limit=1e-14)


EXACT = [what for what, (pair, _, _) in CASES.items() if "avg" not in pair]


@pytest.mark.parametrize("what", EXACT)
@pytest.mark.parametrize("seed", [1, 2])
def test_on_a_grid_it_is_its_definition_to_the_last_bit(what, seed):
    pair, _, options = CASES[what]
    compare(pair, grids_of(what, seed), options, seed)


# Examples are the same in every run; none is stored.
SETTINGS = {"derandomize": True, "database": None, "deadline": None,
            "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much]}


def either_way(draw, pair):
    """A pair of equal numbers is sometimes given as one number, sometimes as a list."""
    if pair[0] == pair[1] and draw(st.booleans()):
        return pair[0]
    return list(pair) if draw(st.integers(0, 3)) == 0 else pair


@st.composite
def sliding(draw, dilated=True, pool=False):
    """An image, and a window that fits into it at least once: kernel, stride, padding, dilation, by rows and columns.

    The sizes come from the output's, plus some rows that no further window fits into.
    """
    image, options = [], {"kernel_size": [], "stride": [], "padding": [], "dilation": []}
    for _ in range(2):
        kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        padding = draw(st.integers(0, kernel // 2 if pool else 3))
        dilation = draw(st.integers(1, 3)) if dilated else 1
        windows, rest = draw(st.integers(1, 3)), draw(st.integers(0, stride - 1))
        image.append(max(1, (windows - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding + rest))
        for name, value in zip(options, (kernel, stride, padding, dilation)):
            options[name].append(value)
    assume(min(sizes_after(image, *options.values())) >= 1)
    return tuple(image), {name: either_way(draw, tuple(pair)) for name, pair in options.items()}


@st.composite
def grouped(draw):
    """groups, C / groups, F / groups."""
    return draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))


N_EXAMPLES = st.integers(0, 3)
SEEDS = st.integers(0, 2**16)


@settings(max_examples=120, **SETTINGS)
@given(sliding(), grouped(), N_EXAMPLES, SEEDS)
def test_conv2d_is_its_definition_with_any_options(window, channels, N, seed):
    (image, options), (groups, per_group, filters), rng = window, channels, np.random.default_rng(seed)
    kernel = as_pair(options.pop("kernel_size"))
    arrays = [on_grid(rng, shape) for shape in [(N, groups * per_group, *image), (groups * filters, per_group, *kernel),
                                                (groups * filters,)]]
    compare("conv2d", arrays, options | {"groups": groups}, seed)


@st.composite
def stamping(draw):
    """An image of x and options of a transposed convolution whose output has a pixel."""
    names = ["kernel", "stride", "padding", "output_padding", "dilation"]
    image, columns = [], []
    for _ in range(2):
        size, kernel, stride, dilation = (draw(st.integers(1, high)) for high in (3, 3, 4, 3))
        out = draw(st.integers(0, max(stride, dilation) - 1))
        largest = (size - 1) * stride + dilation * (kernel - 1) + out
        image.append(size)
        columns.append((kernel, stride, draw(st.integers(0, min(3, largest // 2))), out, dilation))
    options = {name: either_way(draw, pair) for name, pair in zip(names, zip(*columns))}
    return tuple(image), as_pair(options.pop("kernel")), options


@settings(max_examples=120, **SETTINGS)
@given(stamping(), grouped(), N_EXAMPLES, SEEDS)
def test_conv_transpose2d_is_its_definition_with_any_options(stamp, channels, N, seed):
    (image, kernel, options), (groups, per_group, filters) = stamp, channels
    rng = np.random.default_rng(seed)
    arrays = [on_grid(rng, shape) for shape in [(N, groups * filters, *image), (groups * filters, per_group, *kernel),
                                                (groups * per_group,)]]
    compare("conv_transpose2d", arrays, options | {"groups": groups}, seed)


@settings(max_examples=80, **SETTINGS)
@given(sliding(), st.integers(1, 3), N_EXAMPLES, SEEDS)
def test_unfold_is_its_definition_with_any_options(window, C, N, seed):
    image, options = window
    compare("unfold", [on_grid(np.random.default_rng(seed), (N, C, *image))], options, seed)


# Sets so small that ties abound, and what cannot win, or always does.
PALETTES = [[-1.0, 0.0, 1.0], [-2.0, -1.0], [-1.0], [0.0, -0.0], [-np.inf, -1.0], [-np.inf], [np.inf, 0.0, -np.inf],
            [np.nan, 1.0, 0.0, -1.0], [np.nan, np.inf, -np.inf], [np.nan]]


def every_window_sees_the_image(image, options):
    """Row by row and column by column; with gaps in a window, all of its taps may miss a small image."""
    geometry = [as_pair(option) for option in options.values()]
    return all(next(taps(p, q, image, *geometry), None) for p, q in np.ndindex(sizes_after(image, *geometry)))


@settings(max_examples=150, **SETTINGS)
@given(sliding(pool=True), st.integers(1, 3), N_EXAMPLES, st.sampled_from(PALETTES), SEEDS)
def test_max_pool2d_is_its_definition_with_any_options_and_many_ties(window, C, N, palette, seed):
    image, options = window
    assume(every_window_sees_the_image(image, options))
    x = np.random.default_rng(seed).choice(palette, (N, C, *image))
    compare("max_pool2d", [x], options, seed)


@settings(max_examples=40, **SETTINGS)
@given(sliding(pool=True, dilated=False), N_EXAMPLES, SEEDS)
def test_max_pool2d_steps_by_its_kernel_size_unless_told(window, N, seed):
    image, options = window
    x = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], (N, 2, *image))
    del options["stride"], options["dilation"]
    compare("max_pool2d", [x], options, seed)
    compare("max_pool2d", [x], options | {"stride": None}, seed)


@settings(max_examples=100, **SETTINGS)
@given(sliding(pool=True, dilated=False), st.integers(1, 3), N_EXAMPLES, st.booleans(), st.booleans(), SEEDS)
def test_avg_pool2d_is_its_definition_with_any_options(window, C, N, count_include_pad, step_by_kernel, seed):
    image, options = window
    del options["dilation"]
    if step_by_kernel:
        del options["stride"]
    kernel, padding = as_pair(options["kernel_size"]), as_pair(options["padding"])
    exact = set(kernel) <= {1, 2} and (count_include_pad or padding == (0, 0))
    x = on_grid(np.random.default_rng(seed), (N, C, *image))
    compare("avg_pool2d", [x], options | {"count_include_pad": count_include_pad}, seed, 0.0 if exact else LIMIT)


@pytest.mark.parametrize("N, C, F, image, kernel", [(0, 2, 3, (3, 4), (2, 3)), (1, 1, 1, (1, 1), (1, 1)),
                                                    (1, 2, 3, (3, 4), (3, 4)), (3, 2, 1, (2, 5), (1, 4)),
                                                    (2, 3, 2, (5, 2), (3, 2))])
def test_correlate2d_is_its_definition_at_other_sizes(N, C, F, image, kernel):
    rng = np.random.default_rng(1)
    compare("correlate2d", [on_grid(rng, shape) for shape in [(N, C, *image), (F, C, *kernel), (F,)]], {})


@pytest.mark.parametrize("J, S", [(1, 1), (2, 1), (2, 2), (5, 2), (5, 5), (9, 4)])
def test_correlate1d_is_its_definition_at_other_sizes(J, S):
    rng = np.random.default_rng(1)
    compare("correlate1d", [on_grid(rng, J), on_grid(rng, S)], {})


@pytest.mark.parametrize("shape", [(0, 2, 3, 5), (1, 1, 1, 1), (3, 2, 2, 4), (2, 5, 1, 8)])
def test_global_avg_pool2d_is_exact_for_windows_of_a_power_of_two(shape):
    x = on_grid(np.random.default_rng(1), shape)
    compare("global_avg_pool2d", [x], {}, limit=LIMIT if 3 in shape else 0.0)


# ------------------------------------------------------------------------------------------------ other proofs

def positional(what, arrays):
    """Arguments in order, as gradcheck wants them."""
    pair, _, options = CASES[what]
    return [*functions(pair), *arrays, *ordered(pair, options)]


OPTIONS = {"unfold": {"kernel_size": None, "stride": 1, "padding": 0, "dilation": 1},
           "conv2d": {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
           "conv_transpose2d": {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1},
           "max_pool2d": {"kernel_size": None, "stride": None, "padding": 0, "dilation": 1},
           "avg_pool2d": {"kernel_size": None, "stride": None, "padding": 0, "count_include_pad": True}}


def ordered(pair, options):
    return list((OPTIONS.get(pair, {}) | options).values())


@every_case
def test_options_may_be_given_by_position_in_the_order_of_pytorch(what):
    arrays = inputs_of(what)
    forward, backward, *args = positional(what, arrays)
    y, cache = forward(*args)
    assert same_bits([y, *tuple_of(backward(cotangent_of(y), cache))], run(what, arrays))


@every_case
def test_gradients_agree_with_the_complex_step_of_gradcheck(what):
    names = arrays_of(CASES[what][0])
    report = check_gradients(*positional(what, inputs_of(what)), wrt=names, rng=np.random.default_rng(3))
    assert list(report.errors) == [f"d{name}" for name in names]
    assert max(report.errors.values()) <= LIMIT


def complex_step(what, arrays, position, dy):
    """Independent of gradcheck: the imaginary part of <dy, y>, one entry at a time."""
    gradient = np.empty(arrays[position].shape)
    for index in np.ndindex(gradient.shape):
        nudge = np.zeros(gradient.shape, dtype=complex)
        nudge[index] = 1e-40j
        y, _ = run_forward(what, [a + nudge if i == position else a for i, a in enumerate(arrays)])
        gradient[index] = (dy * y.imag).sum() / 1e-40
    return gradient


@every_case
def test_gradients_agree_with_a_complex_step_of_our_own(what):
    arrays = inputs_of(what, seed=4)
    y, cache = run_forward(what, arrays)
    dy = cotangent_of(y, seed=5)
    for position, gradient in enumerate(run_backward(what, dy, cache)):
        reference = complex_step(what, arrays, position, dy)
        assert np.linalg.norm(reference) > 0
        assert relative_error(gradient, reference) <= LIMIT


@pytest.mark.parametrize("what, argument", [(what, name) for what in EXACT if "max" not in what
                                            for name in arrays_of(CASES[what][0])])
def test_the_linear_ones_are_exact_adjoints_in_each_argument(what, argument):
    rng = np.random.default_rng(6)
    assert check_adjoint(*positional(what, grids_of(what)), wrt=argument, rng=rng) != 0


@pytest.mark.parametrize("options", [
    {"kernel_size": (2, 4)}, {"kernel_size": (4, 2), "stride": (1, 3), "padding": (2, 1)},
    {"kernel_size": 2, "stride": 1, "padding": 1}])
def test_avg_pool2d_is_the_exact_adjoint_for_windows_of_a_power_of_two(options):
    rng = np.random.default_rng(6)
    args = [on_grid(rng, (2, 3, 5, 6)), *ordered("avg_pool2d", options)]
    assert check_adjoint(*functions("avg_pool2d"), *args, wrt="x", rng=rng) != 0


def test_global_avg_pool2d_is_the_exact_adjoint_for_windows_of_a_power_of_two():
    rng = np.random.default_rng(6)
    assert check_adjoint(*functions("global_avg_pool2d"), on_grid(rng, (2, 3, 2, 4)), wrt="x", rng=rng) != 0


def test_max_pool2d_is_linear_while_the_same_places_win():
    """<dy, f(x + v) - f(x)> == <dx, v> for a v too small to change a winner."""
    rng = np.random.default_rng(7)
    x = rng.permutation(np.arange(2.0 * 3 * 7 * 8)).reshape(2, 3, 7, 8)
    v = on_grid(rng, x.shape) / 4
    options = CASES["max_pool2d, all options"][2]
    y, cache = cnn.max_pool2d_forward(x, **options)
    dy = on_grid(rng, y.shape)
    moved, _ = cnn.max_pool2d_forward(x + v, **options)
    assert (dy * (moved - y)).sum() == (cnn.max_pool2d_backward(dy, cache) * v).sum() != 0


# ------------------------------------------------------------------------------------------------ pure

def leaves(value):
    """All arrays and numbers inside nested tuples, lists and dicts."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@every_case
def test_backward_twice_gives_the_same_bits(what):
    y, cache = run_forward(what, inputs_of(what))
    first = copy.deepcopy(run_backward(what, cotangent_of(y), cache))
    assert same_bits(first, run_backward(what, cotangent_of(y), cache))


@every_case
def test_a_second_forward_leaves_the_first_cache_alone(what):
    expected = copy.deepcopy(run(what, inputs_of(what)))
    y, cache = run_forward(what, inputs_of(what))
    run(what, inputs_of(what, seed=9))
    assert same_bits([y, *run_backward(what, cotangent_of(y), cache)], expected)


@every_case
def test_nothing_passed_in_is_modified(what):
    arrays = inputs_of(what)
    kept_arrays = copy.deepcopy(arrays)
    y, cache = run_forward(what, arrays)
    assert same_bits(arrays, kept_arrays)
    dy = cotangent_of(y)
    kept = copy.deepcopy((arrays, dy, cache, y))
    run_backward(what, dy, cache)
    assert same_bits(leaves((arrays, dy, cache, y)), leaves(kept))


@every_case
def test_backward_does_not_write_into_earlier_gradients_or_outputs(what):
    y, cache = run_forward(what, inputs_of(what))
    gradients = run_backward(what, cotangent_of(y), cache)
    kept = copy.deepcopy((y, gradients))
    run_backward(what, cotangent_of(y, seed=8), cache)
    run(what, inputs_of(what, seed=9))
    assert same_bits(leaves((y, gradients)), leaves(kept))


@every_case
def test_outputs_and_gradients_can_be_written_to(what):
    """Nobody expects `dx *= 2` to fail."""
    for array in run(what, inputs_of(what)):
        array *= 2


@every_case
def test_gradients_share_no_memory_with_each_other_or_with_the_cache(what):
    """An optimiser that writes into one must not change another; views of the cotangent are allowed."""
    y, cache = run_forward(what, inputs_of(what))
    gradients = run_backward(what, cotangent_of(y), cache)
    arrays = [leaf for leaf in leaves(cache) if isinstance(leaf, np.ndarray)]
    for left, right in [*itertools.combinations(gradients, 2), *itertools.product(gradients, arrays)]:
        assert not np.shares_memory(left, right)


def test_a_list_of_options_may_be_changed_after_the_forward_pass():
    options = {"stride": [2, 3], "padding": [1, 2], "dilation": [2, 1]}
    x, W, b = inputs_of("conv2d")
    y, cache = cnn.conv2d_forward(x, W, b, **options)
    expected = copy.deepcopy(cnn.conv2d_backward(cotangent_of(y), cache))
    for option in options.values():
        option[:] = [1, 1]
    assert same_bits(cnn.conv2d_backward(cotangent_of(y), cache), expected)


@every_case
def test_read_only_arrays_work_and_give_the_same_bits(what):
    arrays = inputs_of(what)
    expected = run(what, arrays)
    again = run(what, [frozen(a) for a in arrays], frozen(cotangent_of(expected[0])))
    assert same_bits(again, expected)


def every_second(a):
    wide = np.full(tuple(2 * size for size in a.shape), 7, dtype=a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


LAYOUTS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "channels last": lambda a: np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1) if a.ndim > 1 else a,
    "fortran": np.asfortranarray,
    "sliced": every_second,
    "negative stride": lambda a: np.flip(np.flip(a).copy()),
    "one broadcast row": lambda a: np.broadcast_to(a[:1], a.shape),
}


@every_case
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_gives_the_same_numbers(what, layout):
    odd = [LAYOUTS[layout](a) for a in grids_of(what)]
    plain = [np.array(a, order="C") for a in odd]
    y, cache = run_forward(what, plain)
    dy = LAYOUTS[layout](on_grid(np.random.default_rng(2), y.shape))
    expected = [y, *run_backward(what, np.array(dy, order="C"), cache)]
    for ours, reference in zip(run(what, odd, dy), expected, strict=True):
        assert relative_error(ours, reference) <= (0.0 if what in EXACT else 1e-15)


@every_case
def test_twice_the_cotangent_gives_twice_the_gradient_bit_for_bit(what):
    y, cache = run_forward(what, inputs_of(what))
    once = run_backward(what, cotangent_of(y), cache)
    assert same_bits([2 * gradient for gradient in once], run_backward(what, 2 * cotangent_of(y), cache))


@every_case
def test_a_zero_cotangent_gives_exactly_zero(what):
    y, cache = run_forward(what, inputs_of(what))
    for gradient in run_backward(what, np.zeros(y.shape), cache):
        assert gradient.size and not gradient.any()


@every_case
def test_eight_threads_give_the_same_bits(what):
    problems = [inputs_of(what, seed) for seed in range(4)]
    expected = [copy.deepcopy(run(what, arrays)) for arrays in problems]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: run(what, problems[i % 4]), range(32)))
    for i, answer in enumerate(answers):
        assert same_bits(answer, expected[i % 4])


CHANGED = {"unfold, all options": {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 2), "dilation": (1, 2)},
           "conv2d, all options": {"stride": (3, 2), "padding": (2, 1), "dilation": (1, 2), "groups": 1},
           "conv_transpose2d, all options": {"stride": (3, 4), "padding": (0, 1), "output_padding": (2, 1),
                                             "groups": 1, "dilation": (2, 3)},
           "max_pool2d, all options": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 1), "dilation": (3, 2)},
           "avg_pool2d, all options": {"kernel_size": (2, 5), "stride": (2, 1), "padding": (0, 1),
                                       "count_include_pad": True}}


@pytest.mark.parametrize("what, option", [(what, option) for what in CHANGED for option in CHANGED[what]])
def test_every_option_changes_the_output_and_the_gradients(what, option):
    pair, _, options = CASES[what]
    arrays, other = inputs_of(what), options | {option: CHANGED[what][option]}
    assert other != options
    if option == "groups":                                      # one group needs a kernel over all channels
        (x, W, b), pool = arrays, np.random.default_rng(1)
        per_group = b.size if pair == "conv_transpose2d" else x.shape[1]
        others = [x, pool.standard_normal((len(W), per_group, *W.shape[2:])), b]
    else:
        others = arrays
    results = []
    for given_arrays, given_options in [(arrays, options), (others, other)]:
        y, cache = functions(pair)[0](*given_arrays, **given_options)
        results.append([y, *tuple_of(functions(pair)[1](cotangent_of(y), cache))])
    for before, after in zip(*results, strict=True):
        assert not same_bits([before], [after]) or before.ndim == 1         # db is the sum of dy, whatever the options


@pytest.mark.parametrize("what", CHANGED)
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_have_options_of_their_own(what, axis):
    """Changing an option of one axis changes the size along this axis, and along no other."""
    pair, shapes, options = CASES[what]
    arrays = [np.zeros(shape) for shape in shapes]
    P_Q = functions(pair)[0](*arrays, **options)[0].shape[2:4]
    for option in set(options) - {"groups", "count_include_pad", "output_padding"}:
        value = list(options[option])
        value[axis] = value[axis] + 1 if pair == "conv_transpose2d" else max(value[axis] - 1, int(option != "padding"))
        if value == list(options[option]) or (pair.endswith("pool2d") and option == "kernel_size"):
            continue
        changed = functions(pair)[0](*arrays, **(options | {option: tuple(value)}))[0].shape[2:4]
        assert changed[1 - axis] == P_Q[1 - axis], option


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8])
def test_options_may_be_numpy_integers_and_lists(number):
    for what in CHANGED:
        pair, _, options = CASES[what]
        other = {name: value if isinstance(value, bool) else
                 number(value) if isinstance(value, int) else [number(v) for v in value]
                 for name, value in options.items()}
        arrays = inputs_of(what)
        y, cache = functions(pair)[0](*arrays, **other)
        assert same_bits([y, *tuple_of(functions(pair)[1](cotangent_of(y), cache))], run(what, arrays))


# ------------------------------------------------------------------------------------------------ number types

@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_width_that_goes_in_comes_out(what, dtype):
    for array in run(what, inputs_of(what, dtype=dtype)):
        assert array.dtype == dtype


@every_case
def test_float32_is_as_accurate_as_float32_can_be(what):
    arrays = inputs_of(what, dtype=np.float32)
    y, _ = run_forward(what, arrays)
    expected = run(what, [a.astype(np.float64) for a in arrays], cotangent_of(y).astype(np.float64))
    for ours, reference in zip(run(what, arrays), expected, strict=True):
        assert relative_error(ours, reference) <= 1e-6


@every_case
def test_complex_numbers_come_out_complex(what):
    arrays = inputs_of(what)
    imaginary = [a + 0.5j * b for a, b in zip(arrays, inputs_of(what, seed=9))]
    for position in range(len(arrays)):
        y, _ = run_forward(what, [imaginary[i] if i == position else a for i, a in enumerate(arrays)])
        assert y.dtype == complex
        np.testing.assert_allclose(y.real, run_forward(what, arrays)[0], rtol=0, atol=1e-13)
        assert y.imag.any()


@pytest.mark.parametrize("nudge", [1e-40j, -1e-40j, 1j, -1j])
def test_a_tie_of_real_parts_is_a_tie_whatever_the_imaginary_part(nudge):
    x = np.array([[[[1.0, 1.0 + nudge], [1.0 - nudge, 0.0]]]])
    y, cache = cnn.max_pool2d_forward(x, 2)
    assert y == 1 and y.imag == 0
    assert cnn.max_pool2d_backward(np.ones((1, 1, 1, 1)), cache).tolist() == [[[[1, 0], [0, 0]]]]


@pytest.mark.parametrize("what, position", [(what, i) for what in CASES for i in range(len(CASES[what][1]))])
@pytest.mark.parametrize("kind", [np.int64, np.int8, np.bool_, list])
def test_integers_and_lists_are_refused(what, position, kind):
    pair, _, options = CASES[what]
    arrays = inputs_of(what)
    arrays[position] = arrays[position].tolist() if kind is list else np.ones(arrays[position].shape, kind)
    name = arrays_of(pair)[position]
    came = "list" if kind is list else np.dtype(kind)
    with pytest.raises(TypeError, match=f"^{pair}_forward: {name} must .*, got {came}"):
        functions(pair)[0](*arrays, **options)


# ------------------------------------------------------------------------------------------------ what reaches what

SPARSE = {"conv2d": {"stride": (3, 4), "dilation": (1, 2)},
          "unfold": {"kernel_size": 2, "stride": (3, 4), "dilation": (1, 2)},
          "max_pool2d": {"kernel_size": 2, "stride": (3, 4), "dilation": (1, 2)},
          "avg_pool2d": {"kernel_size": 2, "stride": (3, 4)}}


@pytest.mark.parametrize("pair", SPARSE)
def test_pixels_that_no_window_reaches_get_exactly_0(pair):
    """Between the windows and behind the last one; a pixel that a window does reach gets more than 0."""
    rng, options = np.random.default_rng(1), SPARSE[pair]
    x = 1 + rng.random((2, 3, 10, 9))
    arrays = [x, 1 + rng.random((2, 3, 2, 2)), np.ones(2)] if pair == "conv2d" else [x]
    y, cache = functions(pair)[0](*arrays, **options)
    dx = tuple_of(functions(pair)[1](1 + rng.random(y.shape), cache))[0]
    dilation = options.get("dilation", (1, 1))
    reached = np.zeros((10, 9), dtype=bool)
    for p, q in np.ndindex(y.shape[2:4]):
        for _, _, i, j in taps(p, q, (10, 9), 2, options["stride"], 0, dilation):
            reached[i, j] = True
    assert not dx[:, :, ~reached].any()
    assert not reached.all() and not reached[2].any() and not reached[9].any()
    if pair != "max_pool2d":
        assert (dx[:, :, reached] > 0).all()


def readers(what, index):
    """Which entries of y read the pixel x[index]: the loops, on an x that is 0 but for this pixel."""
    pair, _, options = CASES[what]
    arrays = [np.abs(a) + 0.5 for a in inputs_of(what)]
    arrays[0] = np.zeros(arrays[0].shape)
    arrays[0][index] = 1
    if len(arrays) == 3:
        arrays[2] = np.zeros(arrays[2].shape)
    return LOOPS[pair](*arrays, np.zeros_like, **options)[0] != 0


@every_case
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_spoilt_pixel_spoils_the_outputs_that_read_it_and_no_other(what, bad):
    if bad == -np.inf and what.startswith("max"):
        return                                                  # it loses, and so does not show
    for seed in range(3):
        rng = np.random.default_rng(seed)
        arrays = [np.abs(a) + 0.5 for a in inputs_of(what)]
        index = tuple(int(rng.integers(size)) for size in arrays[0].shape)
        spoilt = [arrays[0].copy(), *arrays[1:]]
        spoilt[0][index] = bad
        touched = readers(what, index)
        with np.errstate(invalid="ignore" if np.isinf(bad) else "warn"):
            y, _ = run_forward(what, spoilt)
        np.testing.assert_array_equal(~np.isfinite(y), touched)
        if np.isnan(bad):
            assert np.isnan(y[touched]).all()
        clean, _ = run_forward(what, arrays)
        np.testing.assert_allclose(y[~touched], clean[~touched], rtol=1e-14)


@every_case
def test_a_nan_cotangent_spoils_the_gradients_it_reaches_and_no_other(what):
    arrays = [np.abs(a) + 0.5 for a in inputs_of(what)]
    y, cache = run_forward(what, arrays)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        index = tuple(int(rng.integers(size)) for size in y.shape)
        one_hot = np.zeros(y.shape)
        one_hot[index] = 1
        dy = 1 + np.abs(cotangent_of(y))
        clean, reached = run_backward(what, dy, cache), run_backward(what, one_hot, cache)
        dy[index] = np.nan
        for spoilt, expected, touched in zip(run_backward(what, dy, cache), clean, reached, strict=True):
            np.testing.assert_array_equal(np.isnan(spoilt)[touched != 0], True)
            if CASES[what][0] not in ("conv2d", "correlate2d", "conv_transpose2d") or touched.ndim == 1:
                np.testing.assert_array_equal(np.isnan(spoilt), touched != 0)
            finite = ~np.isnan(spoilt)
            np.testing.assert_allclose(spoilt[finite], expected[finite], rtol=1e-13)


def test_a_nan_cotangent_of_one_filter_leaves_the_other_filters_alone():
    x, W, b = inputs_of("conv2d, all options")
    y, cache = run_forward("conv2d, all options", [x, W, b])
    dy = cotangent_of(y)
    clean = cnn.conv2d_backward(dy, cache)
    dy[1, 4, 0, 1] = np.nan                                     # filter 4 is in the second group: channels 2 and 3
    dx, dW, db = cnn.conv2d_backward(dy, cache)
    assert np.isnan(dx[1, 2:]).any() and np.isfinite(dx[[0, 2]]).all() and np.isfinite(dx[1, :2]).all()
    assert np.isnan(dW[4]).any() and np.isfinite(np.delete(dW, 4, axis=0)).all()
    assert np.isnan(db).tolist() == [False] * 4 + [True, False]
    for ours, expected in zip((dx, dW, db), clean):
        np.testing.assert_allclose(ours[np.isfinite(ours)], expected[np.isfinite(ours)], rtol=1e-13)


def test_a_nan_pixel_spoils_the_weights_that_meet_it_and_no_bias():
    x, W, b = inputs_of("conv2d, all options")
    x[2, 1, 3, 4] = np.nan
    y, cache = run_forward("conv2d, all options", [x, W, b])
    dx, dW, db = cnn.conv2d_backward(cotangent_of(y), cache)
    assert np.isfinite(dx).all() and np.isfinite(db).all()
    assert np.isnan(dW[:3, 1]).any() and np.isfinite(dW[3:]).all() and np.isfinite(dW[:, 0]).all()


@pytest.mark.parametrize("what", ["conv2d", "correlate2d"])
def test_an_infinite_pixel_under_a_zero_weight_is_nan(what):
    """0 * inf, as in PyTorch; only where a window reads it."""
    x, W, b = np.ones((1, 1, 3, 4)), np.zeros((1, 1, 2, 2)), np.ones(1)
    x[0, 0, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        y, _ = run_forward(what, [x, W, b])
    assert np.isnan(y).tolist() == [[[[True, False, False], [False] * 3]]]


@pytest.mark.parametrize("pair", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_spoilt_weight_spoils_the_gradient_of_the_pixels_it_is_multiplied_with(pair, bad):
    """Other pixels, the other groups, and the gradients of weights and biases do not see it."""
    rng = np.random.default_rng(1)
    x, W, b = [1 + rng.random(shape) for shape in [(2, 4, 5, 6), (4, 2, 2, 3), (4,)]]
    W[2, 1, 0, 2] = bad
    options = {"stride": (2, 1), "dilation": (1, 2), "groups": 2}
    with np.errstate(invalid="ignore" if np.isinf(bad) else "warn"):          # BLAS works in blocks, partly empty
        y, cache = functions(pair)[0](x, W, b, **options)
        dy = 1 + rng.random(y.shape)
        gradients = functions(pair)[1](dy, cache)
    expected = LOOPS[pair](x, W, b, lambda y: dy, **options)
    assert 0 < np.isfinite(expected[0]).sum() < y.size and 0 < np.isfinite(expected[1]).sum() < x.size
    for ours, reference in zip([y, *gradients], expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-13)


def test_a_spoilt_weight_or_bias_spoils_its_filter_alone():
    for position, index in [(1, (2, 1, 0, 1)), (2, (2,))]:
        arrays = inputs_of("conv2d")
        arrays[position][index] = np.nan
        y, _ = run_forward("conv2d", arrays)
        assert np.isnan(y[:, 2]).all() and np.isfinite(np.delete(y, 2, axis=1)).all()


@every_case
@pytest.mark.parametrize("dtype, huge", [(np.float64, 1e150), (np.float32, 1e15)])
def test_no_overflow_and_no_invalid_operation_on_large_input(what, dtype, huge):
    arrays = [(huge * np.sign(a)).astype(dtype) for a in inputs_of(what)]
    with np.errstate(all="raise", under="ignore"):
        y, cache = run_forward(what, arrays)
        gradients = run_backward(what, np.full(y.shape, huge, dtype), cache)
    for array in [y, *gradients]:
        assert np.isfinite(array).all()


@pytest.mark.parametrize("size", [1.7e308, -1.7e308])
@pytest.mark.parametrize("what", [what for what in CASES if what.startswith(("max", "unfold", "flatten"))])
def test_what_only_moves_numbers_never_overflows(what, size):
    x = np.full(CASES[what][1][0], size)
    with np.errstate(all="raise"):
        y, cache = run_forward(what, [x])
    assert set(np.unique(y)) <= {size, 0.0}
    assert (y == size).any() and (not what.startswith("max") or (y == size).all())


# ------------------------------------------------------------------------------------------------ max-pool

def pooled(x, *args, **options):
    """Output and gradient for one image, with cotangents 1, 2, 3..."""
    y, cache = cnn.max_pool2d_forward(np.array([[x]]), *args, **options)
    dx = cnn.max_pool2d_backward(1.0 + np.arange(y.size).reshape(y.shape), cache)
    return y[0, 0].tolist(), dx[0, 0].tolist()


def test_the_first_of_equal_maxima_gets_the_whole_gradient():
    assert pooled([[2.0, 2.0], [2.0, 2.0]], 2) == ([[2]], [[1, 0], [0, 0]])
    assert pooled([[1.0, 2.0], [2.0, 2.0]], 2) == ([[2]], [[0, 1], [0, 0]])
    assert pooled([[1.0, 1.5], [2.0, 2.0]], 2) == ([[2]], [[0, 0], [1, 0]])


def test_row_major_means_a_column_further_right_beats_a_row_further_down():
    assert pooled([[0.0, 0.0, 3.0], [3.0, 0.0, 0.0]], (2, 3)) == ([[3]], [[0, 0, 1], [0, 0, 0]])


def test_overlapping_windows_add_their_gradients():
    assert pooled([[0.0, 5.0, 0.0, 1.0]], (1, 2), 1) == ([[5, 5, 1]], [[0, 3, 0, 3]])
    assert pooled([[0.0, 0.0, 0.0], [0.0, 7.0, 0.0], [0.0, 0.0, 0.0]], 2, 1) == (
        [[7, 7], [7, 7]], [[0, 0, 0], [0, 10, 0], [0, 0, 0]])


def test_zeros_of_both_signs_are_equal():
    y, dx = pooled([[-0.0, 0.0], [0.0, -0.0]], 2)
    assert dx == [[1, 0], [0, 0]] and y == [[0]]


def test_padding_never_wins_against_negative_numbers():
    y, dx = pooled([[-3.0, -1.0], [-2.0, -4.0]], 2, 2, 1)
    assert y == [[-3, -1], [-2, -4]] and dx == [[1, 2], [3, 4]]


def test_padding_never_wins_against_minus_infinity():
    y, dx = pooled([[-np.inf, -np.inf], [-np.inf, -np.inf]], 2, 2, 1)
    assert y == [[-np.inf] * 2] * 2 and dx == [[1, 2], [3, 4]]
    y, dx = pooled([[-np.inf] * 3] * 2, (2, 3), 1, 1)
    assert dx[0][0] > 0 and sum(map(sum, dx)) == sum(range(1, len(y) * len(y[0]) + 1))


def test_a_window_with_nan_gives_nan_and_its_last_nan_the_gradient():
    nan = np.nan
    for x, place in [([[nan, 5.0], [1.0, 2.0]], (0, 0)), ([[5.0, 1.0], [2.0, nan]], (1, 1)),
                     ([[nan, nan], [nan, 5.0]], (1, 0)), ([[nan, nan], [np.inf, 5.0]], (0, 1)),
                     ([[nan, nan], [nan, nan]], (1, 1)), ([[-np.inf, nan], [np.inf, np.inf]], (0, 1))]:
        y, dx = pooled(x, 2)
        assert np.isnan(y).all()
        assert np.argwhere(dx).tolist() == [list(place)] and np.sum(dx) == 1


def test_nan_beside_padding():
    y, dx = pooled([[np.nan, 1.0], [2.0, 3.0]], 2, 1, 1)
    np.testing.assert_array_equal(y, [[np.nan, np.nan, 1], [np.nan, np.nan, 3], [2, 3, 3]])
    assert dx == [[1 + 2 + 4 + 5, 3], [7, 6 + 8 + 9]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_images_have_the_same_winners(dtype):
    x = np.random.default_rng(1).choice([-1.0, 0.0, np.nan, -np.inf], (2, 3, 6, 7)).astype(dtype)
    compare("max_pool2d", [x], {"kernel_size": (3, 2), "stride": 1, "padding": 1})


# ------------------------------------------------------------------------------------------------ average pooling

def averaged(x, *args, **options):
    y, cache = cnn.avg_pool2d_forward(np.array([[x]]), *args, **options)
    return y[0, 0].tolist(), cnn.avg_pool2d_backward(12 * np.ones(y.shape), cache)[0, 0].tolist()


def test_padding_counts_unless_told():
    x = [[4.0, 8.0], [12.0, 16.0]]
    assert averaged(x, 2, 2, 1) == ([[1, 2], [3, 4]], [[3, 3], [3, 3]])
    assert averaged(x, 2, 2, 1, True) == averaged(x, 2, 2, 1)
    assert averaged(x, 2, 2, 1, False) == (x, [[12, 12], [12, 12]])


def test_each_window_counts_its_own_pixels():
    x = [[6.0, 12.0, 18.0]]
    assert averaged(x, (1, 3), 1, (0, 1), False) == ([[9, 12, 15]], [[6 + 4, 6 + 4 + 6, 4 + 6]])
    assert averaged(x, (1, 3), 1, (0, 1)) == ([[6, 12, 10]], [[8, 12, 8]])


# ------------------------------------------------------------------------------------------------ identities

def grid_problem(seed=1, C=2, F=3, image=(6, 7), kernel=(2, 3), N=2):
    rng = np.random.default_rng(seed)
    return [on_grid(rng, shape) for shape in [(N, C, *image), (F, C, *kernel), (F,)]]


def test_correlate2d_is_conv2d_without_options():
    problem = grid_problem()
    (y, cache), (plain, plain_cache) = cnn.conv2d_forward(*problem), cnn.correlate2d_forward(*problem)
    dy = on_grid(np.random.default_rng(2), y.shape)
    assert_same([y, *cnn.conv2d_backward(dy, cache)], [plain, *cnn.correlate2d_backward(dy, plain_cache)])


def test_correlate1d_is_correlate2d_of_one_row():
    rng = np.random.default_rng(1)
    x, w = on_grid(rng, 9), on_grid(rng, 4)
    y, cache = cnn.correlate1d_forward(x, w)
    wide, wide_cache = cnn.correlate2d_forward(x[None, None, None], w[None, None, None], np.zeros(1))
    dy = on_grid(rng, y.shape)
    dx, dw = cnn.correlate1d_backward(dy, cache)
    wide_dx, wide_dW, _ = cnn.correlate2d_backward(dy[None, None, None], wide_cache)
    assert_same([y, dx, dw], [wide.ravel(), wide_dx.ravel(), wide_dW.ravel()])


def test_the_kernel_is_not_flipped():
    x, W = np.zeros((1, 1, 3, 4)), np.arange(1.0, 7).reshape(1, 1, 2, 3)
    x[0, 0, 1, 2] = 1
    y, _ = cnn.conv2d_forward(x, W, np.zeros(1))
    assert y.tolist() == [[[[6, 5], [3, 2]]]]
    assert cnn.correlate1d_forward(np.array([0.0, 0, 1, 0, 0]), np.array([1.0, 2, 3]))[0].tolist() == [3, 2, 1]
    y, _ = cnn.conv_transpose2d_forward(np.ones((1, 1, 1, 1)), W, np.zeros(1))
    assert y.tolist() == W.tolist()


def test_conv2d_is_unfold_times_the_kernel():
    x, W, b = grid_problem()
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    windows, _ = cnn.unfold_forward(x, W.shape[2:], **options)
    expected = np.einsum("ncpqrs,fcrs->nfpq", windows, W) + b[:, None, None]
    assert_same([cnn.conv2d_forward(x, W, b, **options)[0]], [expected])


@pytest.mark.parametrize("stride", [1, (2, 3)])
def test_a_kernel_of_one_pixel_is_a_linear_layer_on_every_pixel(stride):
    x, W, b = grid_problem(kernel=(1, 1))
    y, cache = cnn.conv2d_forward(x, W, b, stride)
    rows, columns = as_pair(stride)
    pixels = np.moveaxis(x[:, :, ::rows, ::columns], 1, -1)
    z, linear_cache = mlp.linear_forward(pixels.reshape(-1, 2), W[:, :, 0, 0], b)
    assert_same([np.moveaxis(y, 1, -1).reshape(-1, 3)], [z])
    dy = on_grid(np.random.default_rng(2), y.shape)
    dpixels, dW, db = mlp.linear_backward(np.moveaxis(dy, 1, -1).reshape(-1, 3), linear_cache)
    expected_dx = np.zeros(x.shape)
    expected_dx[:, :, ::rows, ::columns] = np.moveaxis(dpixels.reshape(pixels.shape), -1, 1)
    assert_same(cnn.conv2d_backward(dy, cache), [expected_dx, dW[:, :, None, None], db])


def test_a_kernel_as_large_as_the_image_is_a_linear_layer():
    x, W, b = grid_problem(image=(3, 4), kernel=(3, 4))
    y, cache = cnn.conv2d_forward(x, W, b)
    z, linear_cache = mlp.linear_forward(x.reshape(2, -1), W.reshape(3, -1), b)
    dy = on_grid(np.random.default_rng(2), z.shape)
    dx, dW, db = mlp.linear_backward(dy, linear_cache)
    assert_same([y, *cnn.conv2d_backward(dy[:, :, None, None], cache)],
                [z[:, :, None, None], dx.reshape(x.shape), dW.reshape(W.shape), db])


def stuffed(W, dilation):
    """The kernel with dilation - 1 zeros between its entries."""
    R, S = W.shape[2:]
    wide = np.zeros((*W.shape[:2], dilation[0] * (R - 1) + 1, dilation[1] * (S - 1) + 1))
    wide[:, :, ::dilation[0], ::dilation[1]] = W
    return wide


def test_dilation_is_a_kernel_stuffed_with_zeros():
    (x, W, b), dilation = grid_problem(), (3, 2)
    y, cache = cnn.conv2d_forward(x, W, b, (2, 1), (1, 0), dilation)
    wide, wide_cache = cnn.conv2d_forward(x, stuffed(W, dilation), b, (2, 1), (1, 0))
    dy = on_grid(np.random.default_rng(2), y.shape)
    dx, dW, db = cnn.conv2d_backward(dy, wide_cache)
    assert_same([y, *cnn.conv2d_backward(dy, cache)], [wide, dx, dW[:, :, ::3, ::2], db])


def test_a_stride_keeps_every_so_many_outputs():
    x, W, b = grid_problem()
    y, cache = cnn.conv2d_forward(x, W, b, (3, 2), (1, 2))
    dense, dense_cache = cnn.conv2d_forward(x, W, b, 1, (1, 2))
    dy, wide_dy = on_grid(np.random.default_rng(2), y.shape), np.zeros(dense.shape)
    wide_dy[:, :, ::3, ::2] = dy
    assert_same([y, *cnn.conv2d_backward(dy, cache)],
                [dense[:, :, ::3, ::2], *cnn.conv2d_backward(wide_dy, dense_cache)])


def test_padding_is_an_image_with_a_frame_of_zeros():
    x, W, b = grid_problem()
    y, cache = cnn.conv2d_forward(x, W, b, (2, 3), (3, 2))
    framed, framed_cache = cnn.conv2d_forward(np.pad(x, [(0, 0), (0, 0), (3, 3), (2, 2)]), W, b, (2, 3))
    dy = on_grid(np.random.default_rng(2), y.shape)
    dx, dW, db = cnn.conv2d_backward(dy, framed_cache)
    assert_same([y, *cnn.conv2d_backward(dy, cache)], [framed, dx[:, :, 3:-3, 2:-2], dW, db])


def split_problem(seed=1):
    """Two groups of two channels and three filters."""
    rng = np.random.default_rng(seed)
    return [on_grid(rng, shape) for shape in [(2, 4, 5, 6), (6, 2, 2, 3), (6,)]]


def test_groups_are_separate_convolutions():
    x, W, b = split_problem()
    y, cache = cnn.conv2d_forward(x, W, b, (1, 2), 1, groups=2)
    parts = [cnn.conv2d_forward(x[:, 2 * g:2 * g + 2], W[3 * g:3 * g + 3], b[3 * g:3 * g + 3], (1, 2), 1)
             for g in range(2)]
    dy = on_grid(np.random.default_rng(2), y.shape)
    gradients = [cnn.conv2d_backward(dy[:, 3 * g:3 * g + 3], parts[g][1]) for g in range(2)]
    dx, dW, db = zip(*gradients)
    assert_same([y, *cnn.conv2d_backward(dy, cache)],
                [np.concatenate([part[0] for part in parts], axis=1), np.concatenate(dx, axis=1),
                 np.concatenate(dW), np.concatenate(db)])


def test_groups_of_a_transposed_convolution_are_separate_too():
    rng = np.random.default_rng(1)
    x, W, b = [on_grid(rng, shape) for shape in [(2, 6, 3, 4), (6, 2, 2, 3), (4,)]]
    y, cache = cnn.conv_transpose2d_forward(x, W, b, (1, 2), groups=2)
    parts = [cnn.conv_transpose2d_forward(x[:, 3 * g:3 * g + 3], W[3 * g:3 * g + 3], b[2 * g:2 * g + 2], (1, 2))
             for g in range(2)]
    dy = on_grid(rng, y.shape)
    gradients = [cnn.conv_transpose2d_backward(dy[:, 2 * g:2 * g + 2], parts[g][1]) for g in range(2)]
    dx, dW, db = zip(*gradients)
    assert_same([y, *cnn.conv_transpose2d_backward(dy, cache)],
                [np.concatenate([part[0] for part in parts], axis=1), np.concatenate(dx, axis=1),
                 np.concatenate(dW), np.concatenate(db)])


@pytest.mark.parametrize("pair", ["conv2d", "conv_transpose2d"])
def test_a_group_is_a_kernel_with_zeros_elsewhere(pair):
    """The block-diagonal kernel over all channels has the same output, and the same dW inside its blocks."""
    x, W, b = split_problem()
    if pair == "conv_transpose2d":
        x, b = on_grid(np.random.default_rng(3), (2, 6, 3, 4)), b[:4]
    full = np.zeros((6, 4, 2, 3))
    full[:3, :2], full[3:, 2:] = W[:3], W[3:]
    y, cache = functions(pair)[0](x, W, b, groups=2)
    wide, wide_cache = functions(pair)[0](x, full, b)
    dy = on_grid(np.random.default_rng(2), y.shape)
    dx, dW, db = functions(pair)[1](dy, wide_cache)
    assert_same([y, *functions(pair)[1](dy, cache)], [wide, dx, np.concatenate([dW[:3, :2], dW[3:, 2:]]), db])


@settings(max_examples=60, **SETTINGS)
@given(sliding(), grouped(), st.integers(1, 2), SEEDS)
def test_conv_transpose2d_is_the_adjoint_of_conv2d(window, channels, N, seed):
    """Forward is conv2d's dx, dx is conv2d's forward, and both have the same dW, bit for bit."""
    (image, options), (groups, per_group, filters), rng = window, channels, np.random.default_rng(seed)
    kernel = as_pair(options.pop("kernel_size"))
    x, W = on_grid(rng, (N, groups * per_group, *image)), on_grid(rng, (groups * filters, per_group, *kernel))
    y, cache = cnn.conv2d_forward(x, W, np.zeros(groups * filters), groups=groups, **options)
    dy = on_grid(rng, y.shape)
    dx, dW, _ = cnn.conv2d_backward(dy, cache)
    stride, padding, dilation = (as_pair(options[name]) for name in ("stride", "padding", "dilation"))
    rest = tuple(image[a] - ((y.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + dilation[a] * (kernel[a] - 1) + 1)
                 for a in range(2))
    stamped, stamped_cache = cnn.conv_transpose2d_forward(
        dy, W, np.zeros(groups * per_group), output_padding=rest, groups=groups, **options)
    assert_same([stamped], [dx])
    assert (x * stamped).sum() == (y * dy).sum()
    ddy, dW_again, db = cnn.conv_transpose2d_backward(x, stamped_cache)
    assert_same([ddy, dW_again, db], [y, dW, x.sum(axis=(0, 2, 3))])


def test_a_transposed_convolution_reaches_its_output_padding_with_the_bias_alone():
    x, W, b = np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)), np.full(1, 0.25)
    y, cache = cnn.conv_transpose2d_forward(x, W, b, stride=3, output_padding=(2, 1))
    assert y.shape == (1, 1, 6, 5)
    assert (y[0, 0, 4:] == 0.25).all() and (y[0, 0, :, 4:] == 0.25).all()
    assert cnn.conv_transpose2d_backward(np.ones(y.shape), cache)[2].tolist() == [30]


def test_pooling_the_whole_image_is_global_average_pooling():
    x = inputs_of("global_avg_pool2d")[0]
    y, cache = cnn.global_avg_pool2d_forward(x)
    whole, whole_cache = cnn.avg_pool2d_forward(x, x.shape[2:])
    dy = cotangent_of(y)
    assert relative_error(y, whole[:, :, 0, 0]) <= 1e-15
    assert relative_error(cnn.global_avg_pool2d_backward(dy, cache),
                          cnn.avg_pool2d_backward(dy[:, :, None, None], whole_cache)) <= 1e-15


def test_pools_are_the_maximum_and_the_mean_of_unfolded_windows():
    x = inputs_of("unfold")[0]
    windows, _ = cnn.unfold_forward(x, (2, 3), (1, 2))
    assert_same([cnn.max_pool2d_forward(x, (2, 3), (1, 2))[0]], [windows.max(axis=(4, 5))])
    assert relative_error(cnn.avg_pool2d_forward(x, (2, 3), (1, 2))[0], windows.mean(axis=(4, 5))) <= 1e-15


def test_folding_ones_counts_how_many_windows_see_each_pixel():
    windows, cache = cnn.unfold_forward(np.ones((1, 1, 4, 5)), (2, 3))
    seen = cnn.unfold_backward(np.ones(windows.shape), cache)[0, 0]
    np.testing.assert_array_equal(seen, np.outer([1, 2, 2, 1], [1, 2, 3, 2, 1]))


# ------------------------------------------------------------------------------------------------ nothing, and one

@pytest.mark.parametrize("what", BATCHED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_examples_give_empty_outputs_and_zero_parameter_gradients(what, dtype):
    x, *parameters = inputs_of(what, dtype=dtype)
    some, _ = run_forward(what, [x, *parameters])
    y, dx, *gradients = run(what, [x[:0], *parameters])
    assert y.shape == (0, *some.shape[1:]) and dx.shape == x[:0].shape
    assert [g.shape for g in gradients] == [p.shape for p in parameters]
    assert {a.dtype for a in (y, dx, *gradients)} == {np.dtype(dtype)}
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("what", BATCHED)
def test_examples_do_not_mix(what):
    """Outputs and input gradients of N examples are those of each example; parameter gradients add."""
    x, *parameters = grids_of(what)
    y, cache = run_forward(what, [x, *parameters])
    dy = on_grid(np.random.default_rng(2), y.shape)
    dx, *gradients = run_backward(what, dy, cache)
    ones = [run(what, [x[n:n + 1], *parameters], dy[n:n + 1]) for n in range(len(x))]
    ys, dxs, *parts = zip(*ones)
    limit = 0.0 if what in EXACT else 1e-15
    assert relative_error(np.concatenate(ys), y) <= limit and relative_error(np.concatenate(dxs), dx) <= limit
    assert_same([sum(part) for part in parts], gradients)


# ------------------------------------------------------------------------------------------------ loud on bad input

X, W, B = np.zeros((2, 4, 5, 6)), np.zeros((6, 4, 2, 3)), np.zeros(6)
W2 = np.zeros((6, 2, 2, 3))                                     # for two groups
POOLS = ["max_pool2d", "avg_pool2d"]
CONVS = {"conv2d": (X, W, B), "conv_transpose2d": (np.zeros((2, 6, 5, 6)), W, np.zeros(4))}


def raises(pair, arguments, options, error, argument, came):
    """The message says function, argument (or one of several that could be meant), what was expected, what came."""
    with pytest.raises(error) as caught:
        functions(pair)[0](*arguments, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert re.match(rf"{pair}_forward: .*\b({argument})\b.* must .+[,;] got .*{re.escape(came)}", message), message


ANY_ARGUMENTS = {"unfold": (X, 2), "max_pool2d": (X, 2), "avg_pool2d": (X, 2), **CONVS}
AT_LEAST_1 = [("unfold", "kernel_size"), ("unfold", "stride"), ("unfold", "dilation"), ("conv2d", "stride"),
              ("conv2d", "dilation"), ("conv_transpose2d", "stride"), ("conv_transpose2d", "dilation"),
              ("max_pool2d", "kernel_size"), ("max_pool2d", "stride"), ("max_pool2d", "dilation"),
              ("avg_pool2d", "kernel_size"), ("avg_pool2d", "stride")]
AT_LEAST_0 = [(pair, "padding") for pair in ANY_ARGUMENTS] + [("conv_transpose2d", "output_padding")]


def with_option(pair, option, value):
    arguments = ANY_ARGUMENTS[pair]
    return (arguments[:1] if option == "kernel_size" else arguments), {option: value}


@pytest.mark.parametrize("pair, option", AT_LEAST_1)
@pytest.mark.parametrize("value, came", [(0, "0"), (-1, "-1"), ((1, 0), "0"), ((0, 1), "0"), ([2, -3], "-3"),
                                         (np.int64(0), "0")])
def test_sizes_and_steps_below_1_are_refused(pair, option, value, came):
    arguments, options = with_option(pair, option, value)
    raises(pair, arguments, options, ValueError, option, came)


@pytest.mark.parametrize("pair, option", AT_LEAST_0)
@pytest.mark.parametrize("value, came", [(-1, "-1"), ((0, -1), "-1"), ((-2, 0), "-2"), (np.int64(-1), "-1")])
def test_paddings_below_0_are_refused(pair, option, value, came):
    arguments, options = with_option(pair, option, value)
    raises(pair, arguments, options, ValueError, option, came)


WRONG_TYPES = [(1.0, "1.0"), (True, "True"), ("1", "1"), (None, "None"), (np.float64(2), "2.0"), (np.True_, "True"),
               ((1, 2.0), "2.0"), ((None, 1), "None"), ((True, 1), "True"), (["2", 1], "2"), (1j, "1j"),
               ({1, 2}, "{1, 2}"), (((1, 2), 1), "(1, 2)"), (float("nan"), "nan")]


@pytest.mark.parametrize("pair, option", AT_LEAST_1 + AT_LEAST_0)
@pytest.mark.parametrize("value, came", WRONG_TYPES)
def test_options_that_are_not_whole_numbers_are_refused(pair, option, value, came):
    if value is None and pair in POOLS and option == "stride":
        return                                                  # it means the kernel size
    arguments, options = with_option(pair, option, value)
    raises(pair, arguments, options, TypeError, option, came)


@pytest.mark.parametrize("pair, option", AT_LEAST_1 + AT_LEAST_0)
@pytest.mark.parametrize("value", [(), (1,), (1, 1, 1), [1, 1, 1, 1], []])
def test_options_that_are_not_one_or_two_numbers_are_refused(pair, option, value):
    arguments, options = with_option(pair, option, value)
    with pytest.raises(ValueError) as caught:
        functions(pair)[0](*arguments, **options)
    assert re.match(rf"{pair}_forward: .*\b{option}\b.* must .+, got .*", str(caught.value))
    assert str(value) in str(caught.value) or str(len(value)) in str(caught.value).split("got")[1]


@pytest.mark.parametrize("pair", CONVS)
@pytest.mark.parametrize("value, error, came", [(0, ValueError, "0"), (-2, ValueError, "-2"), (1.0, TypeError, ""),
                                                (True, TypeError, ""), ("1", TypeError, ""), (None, TypeError, ""),
                                                (np.float64(2), TypeError, ""), ((1, 1), TypeError, "")])
def test_groups_must_be_a_whole_number(pair, value, error, came):
    raises(pair, CONVS[pair], {"groups": value}, error, "groups", came)


def zeros(*shapes):
    return tuple(np.zeros(shape) for shape in shapes)


@pytest.mark.parametrize("pair, arguments, options, argument, came", [
    # ranks
    ("correlate1d", zeros((2, 3), (2,)), {}, "x", "(2, 3)"),
    ("correlate1d", zeros((3,), (2, 1)), {}, "w", "(2, 1)"),
    ("correlate1d", zeros((), (2,)), {}, "x", "()"),
    ("correlate2d", zeros((4, 5, 6), (6, 4, 2, 3), (6,)), {}, "x", "(4, 5, 6)"),
    ("correlate2d", zeros((2, 4, 5, 6), (6, 4, 2), (6,)), {}, "W", "(6, 4, 2)"),
    ("correlate2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (6, 1)), {}, "b", "(6, 1)"),
    ("unfold", zeros((4, 5, 6)), {"kernel_size": 2}, "x", "(4, 5, 6)"),
    ("conv2d", zeros((4, 5, 6), (6, 4, 2, 3), (6,)), {}, "x", "(4, 5, 6)"),
    ("conv2d", zeros((2, 4, 5, 6, 1), (6, 4, 2, 3), (6,)), {}, "x", "(2, 4, 5, 6, 1)"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2), (6,)), {}, "W", "(6, 4, 2)"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (6, 1)), {}, "b", "(6, 1)"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), ()), {}, "b", "()"),
    ("conv_transpose2d", zeros((6, 5, 6), (6, 4, 2, 3), (4,)), {}, "x", "(6, 5, 6)"),
    ("conv_transpose2d", zeros((2, 6, 5, 6), (6, 4, 2), (4,)), {}, "W", "(6, 4, 2)"),
    ("conv_transpose2d", zeros((2, 6, 5, 6), (6, 4, 2, 3), (4, 1)), {}, "b", "(4, 1)"),
    ("max_pool2d", zeros((4, 5, 6)), {"kernel_size": 2}, "x", "(4, 5, 6)"),
    ("avg_pool2d", zeros((4, 5, 6)), {"kernel_size": 2}, "x", "(4, 5, 6)"),
    ("global_avg_pool2d", zeros((4, 5, 6)), {}, "x", "(4, 5, 6)"),
    ("global_avg_pool2d", zeros((4, 5)), {}, "x", "(4, 5)"),
    ("flatten", zeros((4,)), {}, "x", "(4,)"),
    ("flatten", zeros(()), {}, "x", "()"),
    # lengths of b
    ("correlate2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (4,)), {}, "b", "(4,)"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (1,)), {}, "b", "(1,)"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (4,)), {}, "b", "(4,)"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 2, 2, 3), (3,)), {"groups": 2}, "b", "(3,)"),
    ("conv_transpose2d", zeros((2, 6, 5, 6), (6, 4, 2, 3), (6,)), {}, "b", "(6,)"),
    ("conv_transpose2d", zeros((2, 6, 5, 6), (6, 4, 2, 3), (1,)), {}, "b", "(1,)"),
    ("conv_transpose2d", zeros((2, 6, 5, 6), (6, 2, 2, 3), (2,)), {"groups": 2}, "b", "(2,)"),
    # channels
    ("correlate2d", zeros((2, 3, 5, 6), (6, 4, 2, 3), (6,)), {}, "x|W", "3"),
    ("correlate2d", zeros((2, 4, 5, 6), (6, 1, 2, 3), (6,)), {}, "x|W", ""),
    ("conv2d", zeros((2, 3, 5, 6), (6, 4, 2, 3), (6,)), {}, "x|W", ""),
    ("conv2d", zeros((2, 1, 5, 6), (6, 4, 2, 3), (6,)), {}, "x|W", ""),
    ("conv2d", zeros((2, 4, 5, 6), (6, 1, 2, 3), (6,)), {}, "x|W", ""),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (6,)), {"groups": 2}, "x|W|groups", ""),
    ("conv2d", zeros((2, 2, 5, 6), (6, 2, 2, 3), (6,)), {"groups": 2}, "x|W|groups", ""),
    ("conv_transpose2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (4,)), {}, "x|W", ""),
    ("conv_transpose2d", zeros((2, 1, 5, 6), (6, 4, 2, 3), (4,)), {}, "x|W", ""),
    # groups
    ("conv2d", zeros((2, 8, 5, 6), (6, 2, 2, 3), (6,)), {"groups": 4}, "F|W|groups", ""),
    ("conv2d", zeros((2, 4, 5, 6), (5, 2, 2, 3), (5,)), {"groups": 2}, "F|W|groups", ""),
    ("conv2d", zeros((2, 5, 5, 6), (6, 2, 2, 3), (6,)), {"groups": 2}, "x|W|groups", ""),
    ("conv_transpose2d", zeros((2, 5, 5, 6), (5, 2, 2, 3), (4,)), {"groups": 2}, "F|W|x|groups", ""),
    # kernels that do not fit
    ("correlate1d", zeros((2,), (3,)), {}, "x|w|kernel", "3"),
    ("correlate2d", zeros((2, 4, 5, 6), (6, 4, 6, 3), (6,)), {}, "x|W|kernel", "6"),
    ("correlate2d", zeros((2, 4, 5, 6), (6, 4, 2, 7), (6,)), {}, "x|W|kernel", "7"),
    ("unfold", zeros((2, 4, 5, 6)), {"kernel_size": (6, 1)}, "x|kernel_size|kernel", "6"),
    ("unfold", zeros((2, 4, 5, 6)), {"kernel_size": (1, 4), "dilation": (1, 2)}, "x|kernel_size|kernel", ""),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 6, 3), (6,)), {}, "x|W|kernel", "6"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 7), (6,)), {}, "x|W|kernel", "7"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 9), (6,)), {"padding": (3, 1)}, "x|W|kernel", "9"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (6,)), {"dilation": (5, 1)}, "x|W|kernel", ""),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 3), (6,)), {"dilation": (1, 3)}, "x|W|kernel", ""),
    ("max_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (6, 1)}, "x|kernel_size|kernel", "6"),
    ("max_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (2, 3), "dilation": (1, 3)}, "x|kernel_size|kernel", ""),
    ("avg_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (1, 7)}, "x|kernel_size|kernel", "7"),
    ("avg_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (8, 2), "padding": (1, 0)}, "x|kernel_size|kernel", "8"),
    # nothing there
    ("correlate1d", zeros((3,), (0,)), {}, "w|kernel", ""),
    ("correlate1d", zeros((0,), (1,)), {}, "x|w|kernel", ""),
    ("correlate2d", zeros((2, 4, 5, 6), (6, 4, 0, 3), (6,)), {}, "W|kernel", "0"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 0, 3), (6,)), {}, "W|kernel", "0"),
    ("conv2d", zeros((2, 4, 5, 6), (6, 4, 2, 0), (6,)), {}, "W|kernel", "0"),
    ("conv2d", zeros((2, 4, 0, 6), (6, 4, 1, 1), (6,)), {}, "x|W|kernel", ""),
    ("conv2d", zeros((2, 4, 5, 0), (6, 4, 1, 1), (6,)), {}, "x|W|kernel", ""),
    ("conv2d", zeros((0, 4, 5, 0), (6, 4, 1, 1), (6,)), {}, "x|W|kernel", ""),
    ("conv_transpose2d", zeros((2, 6, 5, 6), (6, 4, 0, 3), (4,)), {}, "W|kernel", "0"),
    ("conv_transpose2d", zeros((2, 6, 0, 6), (6, 4, 2, 3), (4,)), {}, "x", "0"),
    ("conv_transpose2d", zeros((2, 6, 5, 0), (6, 4, 2, 3), (4,)), {"stride": 2}, "x", "0"),
    ("unfold", zeros((2, 4, 0, 6)), {"kernel_size": 1}, "x|kernel_size|kernel", ""),
    ("max_pool2d", zeros((2, 4, 0, 6)), {"kernel_size": 1}, "x|kernel_size|kernel", ""),
    ("avg_pool2d", zeros((2, 4, 5, 0)), {"kernel_size": 1}, "x|kernel_size|kernel", ""),
    ("global_avg_pool2d", zeros((2, 4, 0, 6)), {}, "x", "0"),
    ("global_avg_pool2d", zeros((0, 4, 5, 0)), {}, "x", "0"),
    # pools
    ("max_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": 3, "padding": 2}, "padding", "2"),
    ("max_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (4, 3), "padding": 2}, "padding", "2"),
    ("max_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (1, 3), "padding": (1, 1)}, "padding", "1"),
    ("max_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": 3, "padding": 2, "dilation": 2}, "padding", "2"),
    ("avg_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": 1, "padding": 1}, "padding", "1"),
    ("avg_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (2, 5), "padding": (2, 2)}, "padding", "2"),
    ("avg_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (5, 2), "padding": (0, 2)}, "padding", "2"),
    ("max_pool2d", zeros((2, 4, 2, 6)), {"kernel_size": 2, "padding": 1, "dilation": (3, 1)},
     "x|padding|window|kernel_size|dilation", ""),
    ("max_pool2d", zeros((2, 4, 6, 2)), {"kernel_size": 2, "padding": 1, "dilation": (1, 3)},
     "x|padding|window|kernel_size|dilation", ""),
    # transposed
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"output_padding": 1}, "output_padding", "1"),
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"output_padding": 2, "stride": 2, "dilation": 2},
     "output_padding", "2"),
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"output_padding": (0, 1), "stride": (2, 1)},
     "output_padding", "1"),
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"output_padding": (1, 0), "dilation": (1, 2)},
     "output_padding", "1"),
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"padding": (3, 0)}, r"padding|x|W|output", ""),
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"padding": (0, 4)}, r"padding|x|W|output", ""),
])
def test_arguments_that_do_not_fit_are_refused(pair, arguments, options, argument, came):
    raises(pair, arguments, options, ValueError, argument, came)


@pytest.mark.parametrize("pair, arguments, options, shape", [
    ("conv2d", CONVS["conv2d"], {"padding": (2, 3), "dilation": (8, 1)}, (2, 6, 1, 10)),
    ("conv2d", zeros((2, 4, 5, 6), (6, 2, 2, 3), (6,)), {"groups": 2}, (2, 6, 4, 4)),
    ("conv2d", CONVS["conv2d"], {"stride": 1000}, (2, 6, 1, 1)),
    ("conv2d", zeros((2, 1, 1, 1), (1, 1, 1, 1), (1,)), {"padding": 9}, (2, 1, 19, 19)),
    ("max_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (2, 3), "padding": 1}, (2, 4, 3, 2)),
    ("max_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (2, 3), "padding": 1, "stride": None}, (2, 4, 3, 2)),
    ("avg_pool2d", zeros((2, 4, 5, 6)), {"kernel_size": (4, 5), "padding": 2, "stride": 1}, (2, 4, 6, 6)),
    ("max_pool2d", zeros((2, 4, 3, 6)), {"kernel_size": (2, 1), "padding": (1, 0), "dilation": (3, 1), "stride": 1},
     (2, 4, 2, 6)),
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"output_padding": 1, "dilation": 2}, (2, 4, 8, 11)),
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"output_padding": (0, 1), "stride": (1, 2)}, (2, 4, 6, 14)),
    ("conv_transpose2d", CONVS["conv_transpose2d"], {"padding": (2, 3)}, (2, 4, 2, 2)),
])
def test_what_only_just_fits_is_allowed(pair, arguments, options, shape):
    y, cache = functions(pair)[0](*arguments, **options)
    assert y.shape == shape
    for gradient, argument in zip(tuple_of(functions(pair)[1](np.ones(y.shape), cache)), arguments, strict=True):
        assert gradient.shape == argument.shape


@pytest.mark.parametrize("what", [what for what in CASES if what.startswith(("conv", "correlate2d"))])
def test_a_cotangent_of_another_shape_is_not_broadcast(what):
    y, cache = run_forward(what, inputs_of(what))
    pair = CASES[what][0]
    N, F, P, Q = y.shape
    for shape in [(), (1,), (Q,), (1, F, P, Q), (N, 1, P, Q), (N, F, 1, 1), (N, F, P, 1), (N, F, 1, Q), (F, N, P, Q),
                  (N, F, P + 1, Q), (N, F, P, Q - 1), (F, P, Q), (N, F, P * Q), (1, N, F, P, Q)]:
        with pytest.raises(ValueError) as caught:
            run_backward(what, np.ones(shape), cache)
        assert re.match(rf"{pair}_backward: .*\bdy\b.* must .*{re.escape(str(y.shape))}.*, got "
                        + re.escape(str(shape)), str(caught.value)), str(caught.value)


@pytest.mark.parametrize("what", [what for what in CASES if not what.startswith(("conv", "correlate2d"))])
def test_no_other_backward_broadcasts_its_cotangent_either(what):
    y, cache = run_forward(what, inputs_of(what))
    for axis, size in enumerate(y.shape):
        shape = tuple(1 if i == axis else n for i, n in enumerate(y.shape))
        if size > 1:
            with pytest.raises(ValueError):
                run_backward(what, np.ones(shape), cache)


@pytest.mark.parametrize("pair, options", [("conv2d", {"stride": 0}), ("conv2d", {"groups": 5}),
                                           ("conv2d", {"dilation": (9, 1)}), ("max_pool2d", {"kernel_size": 9}),
                                           ("conv_transpose2d", {"output_padding": 7})])
def test_an_error_leaves_its_inputs_untouched(pair, options):
    arrays = [np.random.default_rng(1).standard_normal(a.shape) for a in (CONVS.get(pair) or (X,))]
    kept = copy.deepcopy(arrays)
    with pytest.raises(ValueError):
        functions(pair)[0](*arrays, **options)
    assert same_bits(arrays, kept)
