"""What test_fast does not see of the tuned convolutions and pools: memory, blocks, large filters, ties to the bit."""

import numpy as np
import pytest
from arrays import normal, same_bits

from backprop_lib import cnn
from backprop_lib.fast import cnn as tuned
from backprop_lib.fast import convolution
from backprop_lib.gradcheck import relative_error


LIMIT = {"d": 1e-12, "f": 1e-5}
WINDOWS = [{}, {"padding": 1}, {"stride": (2, 1), "padding": (1, 2)}, {"stride": (1, 2), "dilation": (2, 1)},
           {"stride": 2, "padding": (0, 1), "dilation": (1, 2)}, {"padding": (1, 6), "dilation": (1, 20)}]
PAIRS = ["conv2d", "conv_transpose2d"]
both_widths = pytest.mark.parametrize("dtype", ["d", "f"])


def batch_last(x):
    """The same images with the batch innermost in memory."""
    return np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)


def step(module, pair, arrays, options, dy=None):
    """The output and the gradients."""
    y, cache = getattr(module, f"{pair}_forward")(*arrays, **options)
    dy = normal(*y.shape, seed=2).astype(y.dtype) if dy is None else dy
    gradients = getattr(module, f"{pair}_backward")(dy, cache)
    return [y, *(gradients if isinstance(gradients, tuple) else (gradients,))]


def same(pair, arrays, options, limit, dy=None):
    for ours, readable in zip(step(tuned, pair, arrays, options, dy), step(cnn, pair, arrays, options, dy)):
        assert (ours.shape, ours.dtype) == (readable.shape, readable.dtype)
        finite = np.isfinite(readable)
        assert np.array_equal(ours[~finite], readable[~finite], equal_nan=True) and np.isfinite(ours[finite]).all()
        assert not finite.any() or relative_error(ours[finite], readable[finite]) <= limit


def arrays_of(pair, C, F, R, S, groups=1, N=3, I=11, J=9, dtype="d"):
    W, out = (F, C//groups, R, S), F
    if pair == "conv_transpose2d":
        W, out = (C, F//groups, R, S), F
    return [a.astype(dtype) for a in (normal(N, C, I, J), normal(*W), normal(out))]


# ------------------------------------------------------------------------------------------------ convolution

@both_widths
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("options", WINDOWS)
@pytest.mark.parametrize("C, groups", [(4, 2), (44, 1), (88, 2)])
def test_few_and_many_channels_in_blocks_of_one_row(monkeypatch, pair, options, C, groups, dtype):
    arrays = arrays_of(pair, C, 2*groups, 3, 2, groups, dtype=dtype)
    same(pair, arrays, options | {"groups": groups}, LIMIT[dtype])
    whole = step(tuned, pair, arrays, options | {"groups": groups})
    monkeypatch.setattr(convolution, "BLOCK", 1)
    for a, b in zip(whole, step(tuned, pair, arrays, options | {"groups": groups})):
        assert relative_error(a, b) <= LIMIT[dtype]


@pytest.mark.parametrize("N", [1, 16, 33])
def test_rows_of_less_than_a_piece_of_whole_pieces_and_with_a_rest(N):
    for groups in (1, 2):
        same("conv2d", arrays_of("conv2d", 4, 6, 3, 2, groups, N, dtype="f"), {"groups": groups}, 1e-5)


@pytest.mark.parametrize("C", [4, 44])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_padding_times_an_infinite_weight_is_nan(pair, C, bad):
    arrays = arrays_of(pair, C, 4, 3, 3)
    arrays[1].flat[[0, -1]] = bad
    with np.errstate(invalid="ignore"):
        same(pair, arrays, {"padding": 2}, 1e-12)


def test_changing_the_input_afterwards_changes_no_gradient():
    for order in (np.ascontiguousarray, batch_last):
        x, W, b = arrays_of("conv2d", 4, 6, 3, 2)
        x = order(x)
        y, cache = tuned.conv2d_forward(x, W, b)
        before = tuned.conv2d_backward(y, cache)
        x[...] = 0
        assert same_bits(before, tuned.conv2d_backward(y, cache))


# ------------------------------------------------------------------------------------------------ pooling

POOLS = [{"kernel_size": 2}, {"kernel_size": 1}, {"kernel_size": 1, "stride": 2}, {"kernel_size": (3, 2)},
         {"kernel_size": (3, 2), "stride": (1, 2)}, {"kernel_size": (2, 3), "stride": 4},
         {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": (4, 2), "padding": (2, 1), "dilation": (1, 2)},
         {"kernel_size": 2, "dilation": (2, 1), "stride": 2}, {"kernel_size": (17, 16), "padding": 8, "stride": 4}]


@both_widths
@pytest.mark.parametrize("options", POOLS)
@pytest.mark.parametrize("palette", [[0.0, -0.0, 1.0], [-np.inf, -np.inf, -1.0], [np.nan, np.inf, 0.0, 2.0, -np.inf]])
def test_ties_zeros_infinities_and_nan_go_as_in_the_readable_maximum_to_the_bit(options, palette, dtype):
    rng = np.random.default_rng(0)
    x = rng.choice(palette, (3, 2, 10, 12)).astype(dtype)
    for order in (np.ascontiguousarray, batch_last, np.asfortranarray):
        y = cnn.max_pool2d_forward(x, **options)[0]
        dy = rng.choice([1.0, -2.0, -0.0, np.nan, np.inf], y.shape).astype(dtype)
        with np.errstate(invalid="ignore"):                     # inf - inf, where two windows meet
            ours, readable = (step(m, "max_pool2d", [order(x)], options, dy) for m in (tuned, cnn))
        for a, b in zip(ours, readable):
            a, b = (np.where(np.isnan(c), np.nan, c) for c in (a, b))           # NaN has many bits
            assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
            assert options["kernel_size"] == 1 or np.array_equal(np.signbit(a), np.signbit(b))


@both_widths
@pytest.mark.parametrize("options", [o for o in POOLS if "dilation" not in o])
@pytest.mark.parametrize("counts", [True, False])
def test_means_of_any_window_in_any_memory(options, counts, dtype):
    for order in (np.ascontiguousarray, batch_last):
        x = order(normal(3, 2, 10, 12).astype(dtype))
        same("avg_pool2d", [x], options | {"count_include_pad": counts}, LIMIT[dtype])


# ------------------------------------------------------------------------------------------------ both

@both_widths
def test_a_chain_keeps_its_memory(dtype):
    x, W, b = arrays_of("conv2d", 1, 6, 3, 3, I=12, J=12, dtype=dtype)
    y, cache = tuned.conv2d_forward(x, W, b)
    p, pooled = tuned.max_pool2d_forward(np.maximum(y, 0), 2)
    a, averaged = tuned.avg_pool2d_forward(p, 2, 1)
    back = tuned.max_pool2d_backward(tuned.avg_pool2d_backward(a, averaged), pooled)
    for image in (y, p, a, back, tuned.conv2d_backward(back, cache)[0]):
        assert image.transpose(1, 2, 3, 0).flags.c_contiguous and image.dtype == dtype
        assert np.shares_memory(convolution.batch_last(image), image)


@pytest.mark.parametrize("kind", ["f", "e", "D", "i"])
@pytest.mark.parametrize("pair, options", [("conv2d", {"padding": 1, "stride": 2}), ("max_pool2d", {"kernel_size": 2}),
                                           ("conv_transpose2d", {"padding": 1}), ("avg_pool2d", {"kernel_size": 3})])
def test_a_cotangent_of_another_kind_goes_the_readable_way(pair, options, kind):
    arrays = arrays_of(pair, 4, 6, 3, 2)[:None if "conv" in pair else 1]
    y = getattr(cnn, f"{pair}_forward")(*arrays, **options)[0]
    same(pair, arrays, options, 1e-12, dy=(4*normal(*y.shape)).astype(kind))
