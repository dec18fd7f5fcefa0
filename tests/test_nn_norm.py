"""BatchNorm1d, BatchNorm2d, LayerNorm and Residual: what they compute, what they keep, and what they refuse."""

# Every lambda below is called before its loop goes on.
# ruff: noqa: B023

import copy
import inspect
import math

import numpy as np
import pytest
from test_nn import Broken, array_bits, bits, draw, generator, refuses
from test_parity import NORMS, STORED, norm_layer

from backprop_lib import nn, norm, optim, train
from backprop_lib.gradcheck import complex_step, relative_error


LIMIT = 1e-12
BUFFERS = ["running_mean", "running_var", "num_batches_tracked"]

# name: how to make it, the shape of an input, the axes over which statistics go, the shape of its parameters
LAYERS = {
    "BatchNorm1d": (lambda **more: nn.BatchNorm1d(3, **more), (5, 3), (0,), (3,)),
    "BatchNorm1d, sequence": (lambda **more: nn.BatchNorm1d(3, **more), (2, 3, 5), (0, 2), (3,)),
    "BatchNorm2d": (lambda **more: nn.BatchNorm2d(3, **more), (2, 3, 5, 7), (0, 2, 3), (3,)),
    "LayerNorm": (lambda **more: nn.LayerNorm(5, **more), (3, 5), (1,), (5,)),
    "LayerNorm, sequence": (lambda **more: nn.LayerNorm(5, **more), (2, 3, 5), (2,), (5,)),
    "LayerNorm, two axes": (lambda **more: nn.LayerNorm((5, 3), **more), (2, 7, 5, 3), (2, 3), (5, 3)),
}
BATCH_NORMS = [name for name in LAYERS if name.startswith("Batch")]
LAYER_NORMS = [name for name in LAYERS if name.startswith("Layer")]
every_layer = pytest.mark.parametrize("name", LAYERS)
every_batch_norm = pytest.mark.parametrize("name", BATCH_NORMS)
both_widths = pytest.mark.parametrize("dtype", [np.float64, np.float32])


# ------------------------------------------------------------------------------------------------ helpers

def owner(name):
    return name.partition(",")[0]


def make(name, seed=0, dtype=np.float64, **more):
    """A layer whose parameters and running statistics are random, none of them 0 or 1."""
    layer, rng = LAYERS[name][0](dtype=dtype, **more), generator(seed)
    for key, p in layer.params.items():
        layer.params[key] = (rng.uniform(1.2, 3, p.shape) * rng.choice([-1, 1], p.shape)).astype(dtype)
    if name in BATCH_NORMS:
        C = len(layer.buffers["running_mean"])
        layer.buffers["running_mean"] = rng.standard_normal(C).astype(dtype)
        layer.buffers["running_var"] = rng.uniform(0.2, 3, C).astype(dtype)
    return layer


def examples(name, seed=1, dtype=np.float64):
    """Every place that has parameters of its own has its own mean and spread."""
    _, shape, axes, _ = LAYERS[name]
    rng = generator(seed)
    each = [1 if axis in axes else size for axis, size in enumerate(shape)]
    x = rng.standard_normal(shape) * rng.uniform(0.5, 3, each) + 2 * rng.standard_normal(each)
    return x.astype(dtype)


def in_place(name, parameter):
    """A parameter with the axes of x."""
    shape = LAYERS[name][1]
    return parameter.reshape(1, -1, *[1] * (len(shape) - 2)) if name in BATCH_NORMS else parameter


def reference(name, eps=1e-5, statistics=None):
    """y as a function of (x, weight, bias) in NumPy alone, open to complex numbers."""
    axes = LAYERS[name][2]

    def forward(x, weight, bias):
        mean, var = statistics or (x.mean(axis=axes, keepdims=True),) * 2
        var = var if statistics else ((x - mean) ** 2).mean(axis=axes, keepdims=True)
        return in_place(name, weight) * (x - mean) / np.sqrt(var + eps) + in_place(name, bias), None
    return forward


def statistics_of(layer, name):
    return tuple(in_place(name, layer.buffers[key]) for key in BUFFERS[:2])


def trained(name, batches=3, **more):
    """A layer that has met some batches, forward and backward."""
    layer = make(name, **more)
    for seed in range(batches):
        y = layer.forward(examples(name, seed))
        layer.backward(draw(y.shape, seed=seed))
    return layer


# ------------------------------------------------------------------------------------------------ construction

@every_layer
@both_widths
def test_weights_start_as_ones_biases_as_zeros_and_statistics_as_those_of_a_normal_variable(name, dtype):
    layer, shape = LAYERS[name][0](dtype=dtype), LAYERS[name][3]
    assert list(layer.params) == ["weight", "bias"]
    assert (layer.params["weight"] == np.ones(shape)).all() and (layer.params["bias"] == np.zeros(shape)).all()
    assert {p.dtype for p in layer.params.values()} == {np.dtype(dtype)}
    assert {p.shape for p in layer.params.values()} == {shape}
    if name in LAYER_NORMS:
        assert not layer.buffers and list(layer.state_dict()) == ["weight", "bias"]
        return
    assert list(layer.buffers) == BUFFERS and list(layer.state_dict()) == ["weight", "bias", *BUFFERS]
    mean, var, count = layer.buffers.values()
    assert (mean == np.zeros(shape)).all() and (var == np.ones(shape)).all() and mean.dtype == var.dtype == dtype
    assert type(count) is np.ndarray and (count.shape, count.dtype, int(count)) == ((), np.int64, 0)


def test_the_arguments_come_in_the_order_of_pytorch():
    of_batch = {"num_features": inspect.Parameter.empty, "eps": 1e-5, "momentum": 0.1, "affine": True}
    expected = {nn.BatchNorm1d: of_batch, nn.BatchNorm2d: of_batch, nn.LayerNorm: {
        "normalized_shape": inspect.Parameter.empty, "eps": 1e-5, "elementwise_affine": True, "bias": True}}
    for kind, defaults in expected.items():
        parameters = inspect.signature(kind).parameters
        assert {name: p.default for name, p in parameters.items()} == defaults | {"dtype": np.float64}
        assert list(parameters) == [*defaults, "dtype"]
        assert [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == ["dtype"]


@pytest.mark.parametrize("name, options, kept", [
    *[(name, {"affine": False}, []) for name in BATCH_NORMS],
    *[(name, {"elementwise_affine": False}, []) for name in LAYER_NORMS],
    *[(name, {"elementwise_affine": False, "bias": False}, []) for name in LAYER_NORMS],
    *[(name, {"bias": False}, ["weight"]) for name in LAYER_NORMS]])
def test_parameters_can_be_left_out(name, options, kept):
    layer, x = make(name, **options), examples(name)
    _, _, _, shape = LAYERS[name]
    assert list(layer.params) == kept
    assert list(layer.state_dict()) == kept + BUFFERS * (name in BATCH_NORMS)
    y = layer.forward(x)
    dx = layer.backward(draw(y.shape))
    assert list(layer.grads) == kept
    args = [x, layer.params.get("weight", np.ones(shape)), np.zeros(shape)]
    assert relative_error(y, reference(name)(*args)[0]) <= LIMIT
    for which, gradient in enumerate([dx, *layer.grads.values()]):
        assert relative_error(gradient, complex_step(reference(name), args, which, [draw(y.shape)])) <= LIMIT


# ------------------------------------------------------------------------------------------------ right

@every_layer
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_outputs_and_gradients_agree_with_the_complex_step(name, eps):
    layer, x = make(name, eps=eps), examples(name)
    layer.params["bias"] = draw(LAYERS[name][3], seed=6)
    y, dy = layer.forward(x), draw(x.shape, seed=3)
    dx = layer.backward(dy)
    args = [x, *layer.params.values()]
    assert y.shape == dx.shape == x.shape and list(layer.grads) == ["weight", "bias"]
    assert relative_error(y, reference(name, eps)(*args)[0]) <= LIMIT
    for which, gradient in enumerate([dx, *layer.grads.values()]):
        assert gradient.shape == args[which].shape
        assert relative_error(gradient, complex_step(reference(name, eps), args, which, [dy])) <= LIMIT


@every_batch_norm
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_evaluation_uses_the_running_statistics_and_has_their_gradient(name, eps):
    layer, x, dy = make(name, eps=eps).eval(), examples(name), draw(LAYERS[name][1], seed=3)
    before = array_bits(layer.buffers)
    y, dx = layer.forward(x), layer.backward(dy)
    forward, args = reference(name, eps, statistics_of(layer, name)), [x, *layer.params.values()]
    assert relative_error(y, forward(*args)[0]) <= LIMIT
    for which, gradient in enumerate([dx, *layer.grads.values()]):
        assert relative_error(gradient, complex_step(forward, args, which, [dy])) <= LIMIT
    assert relative_error(y, reference(name, eps)(*args)[0]) > 0.1
    assert array_bits(layer.buffers) == before


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_a_layer_norm_does_the_same_in_evaluation(name):
    layer, x = make(name), examples(name)
    y, dx = layer.forward(x), layer.backward(draw(x.shape))
    layer.eval()
    assert layer.forward(x).tobytes() == y.tobytes() and layer.backward(draw(x.shape)).tobytes() == dx.tobytes()


@every_layer
@pytest.mark.parametrize("other", [(0,), (0, 1), (1,), (-1,), (-2, -1)])
def test_statistics_over_other_axes_would_be_seen(name, other):
    _, shape, axes, _ = LAYERS[name]
    other = tuple(sorted({axis % len(shape) for axis in other}))
    if other == axes:
        return
    layer, x = make(name), examples(name)
    mean = x.mean(axis=other, keepdims=True)
    xhat = (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=other, keepdims=True) + 1e-5)
    assert relative_error(layer.forward(x), in_place(name, layer.params["weight"]) * xhat) > 0.05


@both_widths
@pytest.mark.parametrize("name", ["BatchNorm1d", "LayerNorm"])
def test_rows_equal_the_pairs_bit_for_bit(name, dtype):
    pair = "batch_norm" if name == "BatchNorm1d" else "layer_norm"
    layer, x, dy = make(name, dtype=dtype), examples(name, dtype=dtype), draw(LAYERS[name][1], dtype, seed=3)
    y, cache = getattr(norm, f"{pair}_forward")(x, *layer.params.values())
    dx, dgamma, dbeta = getattr(norm, f"{pair}_backward")(dy, cache)
    assert layer.forward(x).tobytes() == y.tobytes() and layer.backward(dy).tobytes() == dx.tobytes()
    assert array_bits(layer.grads) == array_bits({"weight": dgamma, "bias": dbeta})


def test_images_are_rows_with_one_column_a_channel():
    x = examples("BatchNorm2d")
    layer, rows = make("BatchNorm2d"), make("BatchNorm1d")
    y, of_rows = layer.forward(x), rows.forward(np.moveaxis(x, 1, 3).reshape(-1, 3))
    np.testing.assert_allclose(np.moveaxis(y, 1, 3).reshape(-1, 3), of_rows, rtol=1e-13, atol=1e-14)
    for key in BUFFERS:
        np.testing.assert_allclose(layer.buffers[key], rows.buffers[key], rtol=1e-13)


# ------------------------------------------------------------------------------------------------ running statistics

def batch_statistics(name, x):
    axes = LAYERS[name][2]
    return np.stack([x.mean(axis=axes), x.var(axis=axes, ddof=1)])


@every_batch_norm
@pytest.mark.parametrize("momentum", [0.1, 0.3, 0, 1, np.float32(0.5)])
def test_each_forward_in_training_moves_the_running_statistics(name, momentum):
    layer = make(name, momentum=momentum)
    expected = np.stack([layer.buffers[key] for key in BUFFERS[:2]])
    for seed in range(4):
        x = examples(name, seed)
        layer.forward(x)
        expected = (1 - float(momentum)) * expected + float(momentum) * batch_statistics(name, x)
        np.testing.assert_allclose([layer.buffers[key] for key in BUFFERS[:2]], expected, rtol=1e-13)
        assert layer.buffers["num_batches_tracked"].dtype == np.int64 and layer.buffers["num_batches_tracked"].ndim == 0
        assert layer.buffers["num_batches_tracked"] == seed + 1


@every_batch_norm
def test_without_momentum_they_are_the_mean_over_all_batches(name):
    layer = make(name, momentum=None)
    batches = [examples(name, seed) for seed in range(5)]
    for number, x in enumerate(batches, start=1):
        layer.forward(x)
        mean = np.mean([batch_statistics(name, x) for x in batches[:number]], axis=0)
        np.testing.assert_allclose([layer.buffers[key] for key in BUFFERS[:2]], mean, rtol=1e-13)
    layer.buffers["num_batches_tracked"] = np.array(99)         # as after loading: the next has a weight of 1/100
    before = np.stack([layer.buffers[key] for key in BUFFERS[:2]])
    layer.forward(batches[0])
    expected = 0.99 * before + 0.01 * batch_statistics(name, batches[0])
    np.testing.assert_allclose([layer.buffers[key] for key in BUFFERS[:2]], expected, rtol=1e-13)


@every_batch_norm
def test_running_statistics_come_close_to_those_of_the_data(name):
    layer, rng = LAYERS[name][0](momentum=None), generator()
    each = in_place(name, np.array([1.0, 2.0, 3.0]))
    for _ in range(200):
        layer.forward(each * rng.standard_normal(LAYERS[name][1]) + 5 * each)
    np.testing.assert_allclose(layer.buffers["running_mean"], [5, 10, 15], rtol=0.05)
    np.testing.assert_allclose(layer.buffers["running_var"], [1, 4, 9], rtol=0.15)


@every_batch_norm
def test_run_stores_nothing_and_neither_does_backward(name):
    model = nn.Sequential(make(name), nn.Tanh(), nn.Residual(make(name, seed=5)))
    y = model.forward(examples(name))
    before = bits(model)
    model.run(examples(name, seed=8))
    model[0].run(examples(name, seed=8))
    assert bits(model) == before
    buffers = array_bits(model.buffers)
    model.backward(draw(y.shape))
    assert array_bits(model.buffers) == buffers


@every_batch_norm
def test_a_model_updates_the_layers_inside_once(name):
    model = nn.Sequential(make(name), nn.Tanh(), nn.Residual(nn.Sequential(make(name, seed=5)), nn.Tanh()))
    twin = make(name)
    x = examples(name)
    model.forward(x)
    twin.forward(x)
    assert array_bits(model[0].buffers) == array_bits(twin.buffers)
    inner = model[2][0][0]
    assert inner.buffers["num_batches_tracked"] == 1
    expected = 0.9 * make(name, seed=5).buffers["running_mean"] + 0.1 * np.tanh(twin.run(x)[0]).mean(
        axis=LAYERS[name][2])
    np.testing.assert_allclose(inner.buffers["running_mean"], expected, rtol=1e-13)


@every_batch_norm
def test_backward_follows_the_mode_of_its_forward(name):
    layer, x, dy = make(name), examples(name), draw(LAYERS[name][1], seed=3)
    layer.forward(x)
    in_training = layer.backward(dy)
    layer.eval()
    assert layer.backward(dy).tobytes() == in_training.tobytes()
    layer.forward(x)
    in_evaluation = layer.backward(dy)
    layer.train()
    assert layer.backward(dy).tobytes() == in_evaluation.tobytes() != in_training.tobytes()


@every_batch_norm
def test_statistics_that_were_handed_out_do_not_move_on(name):
    layer = make(name)
    given = {key: layer.buffers[key] for key in BUFFERS}
    state, before = layer.state_dict(), array_bits(given)
    y = layer.eval().forward(examples(name))
    layer.backward(draw(y.shape))
    layer.train().forward(examples(name))
    assert array_bits({key: state[key] for key in BUFFERS}) == before
    assert not any(np.shares_memory(state[key], layer.buffers[key]) for key in BUFFERS)


@every_batch_norm
def test_one_value_per_channel_is_refused_in_training_and_fine_in_evaluation(name):
    layer = trained(name)
    x = examples(name)[(slice(1), slice(None), *[slice(1)] * (len(LAYERS[name][1]) - 2))]
    assert x.size == 3
    refuses(ValueError, f"{owner(name)}: x must have more than one value per channel, got shape {x.shape}",
            lambda: layer.forward(x), layer)
    refuses(ValueError, f"{owner(name)}: x must have more than one value per channel, got shape {x[:0].shape}",
            lambda: layer.forward(x[:0]), layer)
    model = nn.Sequential(make(name), layer)
    refuses(ValueError, f"{owner(name)}: x must have more than one value per channel", lambda: model.forward(x), model)
    y = layer.eval().forward(x)
    assert relative_error(y, reference(name, statistics=statistics_of(layer, name))(
        x, *layer.params.values())[0]) <= LIMIT
    assert layer.backward(draw(y.shape)).shape == x.shape
    assert layer.forward(x[:0]).shape == x[:0].shape and layer.backward(x[:0]).shape == x[:0].shape
    assert not any(g.any() for g in layer.grads.values())


def test_two_values_are_enough_wherever_they_stand():
    for layer, shape in [(nn.BatchNorm1d(3), (2, 3)), (nn.BatchNorm1d(3), (1, 3, 2)), (nn.BatchNorm1d(3), (2, 3, 1)),
                         (nn.BatchNorm2d(3), (1, 3, 1, 2)), (nn.BatchNorm2d(3), (1, 3, 2, 1)),
                         (nn.BatchNorm2d(3), (2, 3, 1, 1))]:
        y = layer.forward(draw(shape))
        np.testing.assert_allclose(np.abs(y), 1, rtol=0.1)
        assert layer.buffers["num_batches_tracked"] == 1


# ------------------------------------------------------------------------------------------------ memory and widths

@every_layer
def test_backward_belongs_to_the_last_forward_and_repeats(name):
    layer, twin, dy = make(name), make(name), draw(LAYERS[name][1], seed=3)
    layer.forward(examples(name, seed=8))
    layer.forward(examples(name))
    twin.forward(examples(name))
    expected = twin.backward(dy).tobytes(), array_bits(twin.grads)
    for _ in range(2):
        assert (layer.backward(dy).tobytes(), array_bits(layer.grads)) == expected


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_a_scaled_cotangent_gives_scaled_gradients_bit_for_bit(name, training):
    layer, dy = make(name).train(training), draw(LAYERS[name][1], seed=3)
    layer.forward(examples(name))
    dx, grads = layer.backward(dy), dict(layer.grads)
    assert (layer.backward(2 * dy) == 2 * dx).all()
    assert all((layer.grads[key] == 2 * g).all() for key, g in grads.items())
    assert not layer.backward(0 * dy).any() and not any(g.any() for g in layer.grads.values())


@every_layer
@both_widths
@pytest.mark.parametrize("training", [True, False])
def test_width_is_kept_and_arguments_are_not_touched(name, dtype, training):
    layer = make(name, dtype=dtype, eps=np.float64(1e-5)).train(training)
    wide = np.repeat(examples(name, dtype=dtype), 2, axis=0)
    x, dy = wide[::2], np.asfortranarray(draw(LAYERS[name][1], dtype, seed=3))
    x.flags.writeable = dy.flags.writeable = False
    before = copy.deepcopy((wide, dy))
    y, dx = layer.forward(x), layer.backward(dy)
    assert type(y) is type(dx) is np.ndarray and y.flags.writeable and dx.flags.writeable
    assert {a.dtype for a in [y, dx, *layer.params.values(), *layer.grads.values()]} == {np.dtype(dtype)}
    assert {key: g.shape for key, g in layer.grads.items()} == {key: p.shape for key, p in layer.params.items()}
    assert all(a.flags.writeable for a in layer.grads.values())
    assert (wide == before[0]).all() and (dy == before[1]).all()
    for key in layer.buffers:
        assert layer.buffers[key].dtype == (np.int64 if key == BUFFERS[2] else dtype)
    for a in (y, dx):
        assert not any(np.shares_memory(a, b) for b in (x, dy, *layer.params.values()))


@every_batch_norm
def test_a_momentum_of_numpy_does_not_widen_the_statistics(name):
    layer = make(name, dtype=np.float32, momentum=np.float64(0.3))
    layer.forward(examples(name, dtype=np.float32))
    assert layer.buffers["running_mean"].dtype == layer.buffers["running_var"].dtype == np.float32


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_a_layer_norm_of_no_example_is_empty(name):
    layer, shape = make(name), (0, *LAYERS[name][1][1:])
    assert layer.forward(np.zeros(shape)).shape == layer.backward(np.zeros(shape)).shape == shape
    assert {key: g.shape for key, g in layer.grads.items()} == {key: p.shape for key, p in layer.params.items()}
    assert not any(g.any() for g in layer.grads.values())


@every_layer
def test_a_nan_is_not_hidden(name):
    x = examples(name)
    x[(1,) + (0,) * (x.ndim - 1)] = np.nan
    layer = make(name)
    y = layer.forward(x)
    assert np.isnan(y).any() and np.isfinite(y).any()
    assert np.isnan(layer.backward(draw(y.shape))).any()
    if name in BATCH_NORMS:
        for key in BUFFERS[:2]:
            assert np.isnan(layer.buffers[key]).tolist() == [True, False, False]


# ------------------------------------------------------------------------------------------------ bad input

@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d"])
def test_bad_settings_of_a_batch_norm_are_refused(kind):
    layer = getattr(nn, kind)
    for wrong in (0, -1, 2.0, True, None, "3", (3,)):
        refuses(ValueError, f"{kind}: num_features must be a whole number of at least 1, got {wrong!r}",
                lambda: layer(wrong))
    for error, wrong, got in [(ValueError, -1e-5, "-1e-05"), (ValueError, float("nan"), "nan"),
                              (TypeError, "1e-5", "str"), (TypeError, None, "NoneType"), (TypeError, True, "bool")]:
        refuses(error, f"{kind}: eps must be a finite number >= 0, got {got}", lambda: layer(3, wrong))
    for error, wrong, got in [(ValueError, -0.1, "-0.1"), (ValueError, 1.1, "1.1"), (ValueError, float("nan"), "nan"),
                              (TypeError, "0.1", "str"), (TypeError, False, "bool")]:
        refuses(error, f"{kind}: momentum must be a finite number in [0, 1]", lambda: layer(3, momentum=wrong))
        refuses(error, f"got {got}", lambda: layer(3, momentum=wrong))
    for wrong in (None, 1, "yes"):
        refuses(TypeError, f"{kind}: affine must be True or False, got {wrong!r}", lambda: layer(3, affine=wrong))
    refuses(TypeError, f"{kind}: dtype must be np.float32 or np.float64, got int64", lambda: layer(3, dtype=np.int64))


def test_bad_settings_of_a_layer_norm_are_refused():
    for wrong in (0, -1, 2.0, True, None, "3", (3, 0), (), (3, -2), (3, 2.0), [3, True], ("3",)):
        with pytest.raises((TypeError, ValueError)) as caught:
            nn.LayerNorm(wrong)
        assert str(caught.value).startswith("LayerNorm: normalized_shape must ") and "got" in str(caught.value)
    refuses(ValueError, "LayerNorm: eps must be a finite number >= 0, got -1e-05", lambda: nn.LayerNorm(3, -1e-5))
    for name in ("elementwise_affine", "bias"):
        for wrong in (None, 1, "yes"):
            refuses(TypeError, f"LayerNorm: {name} must be True or False, got {wrong!r}",
                    lambda: nn.LayerNorm(3, **{name: wrong}))
    refuses(TypeError, "LayerNorm: dtype must be np.float32 or np.float64, got int64",
            lambda: nn.LayerNorm(3, dtype=np.int64))


def test_a_size_of_a_layer_norm_is_a_tuple_of_one():
    for way in (5, (5,), [5], np.int64(5)):
        layer = nn.LayerNorm(way)
        assert layer.params["weight"].shape == (5,) and layer.forward(draw((3, 5))).shape == (3, 5)


@every_layer
def test_wrong_kinds_of_input_are_refused(name):
    layer, x = trained(name), examples(name)
    for wrong, message in [(np.ones(x.shape, int), "float64, got int64; write x.astype(np.float64)"),
                           (x.astype(np.float32), "float64, got float32; write x.astype(np.float64)"),
                           (x.astype(complex), "float64, got complex128; write x.astype(np.float64)"),
                           (x.tolist(), "float64, got list; write np.asarray(x, dtype=np.float64)"),
                           (np.ma.masked_array(x), "float64, got MaskedArray")]:
        refuses(TypeError, f"{owner(name)}: x must be a NumPy array of {message}", lambda: layer.forward(wrong), layer)
    y = layer.forward(x)
    for wrong in (y.shape[1:], (1, *y.shape[1:]), (*y.shape[:-1], 1), y.shape[::-1], (*y.shape, 1)):
        refuses(ValueError, f"{owner(name)}: dy must have the shape {y.shape} of the output, got {wrong}",
                lambda: layer.backward(np.ones(wrong)), layer)
    refuses(TypeError, f"{owner(name)}: dy must be a NumPy array of float64, got float32",
            lambda: layer.backward(np.ones(y.shape, np.float32)), layer)
    refuses(RuntimeError, f"{owner(name)}: backward needs a forward first", lambda: make(name).backward(y))


BAD_SHAPES = {"BatchNorm1d": [(3,), (5, 4), (3, 5), (5, 1), (2, 5, 3), (2, 3, 5, 7), ()],
              "BatchNorm2d": [(3,), (5, 3), (2, 3, 5), (2, 5, 7, 3), (2, 1, 5, 7), (2, 3, 5, 7, 1)],
              "LayerNorm": [(5,), (3, 4), (5, 3), (3, 1), (2, 5, 3), (3, 5, 1)],
              "LayerNorm, two axes": [(5, 3), (2, 3, 5), (2, 5, 1), (2, 15), (2, 5, 3, 1), (2, 7, 1, 3)]}


@pytest.mark.parametrize("name", BAD_SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_inputs_of_the_wrong_shape_are_refused(name, training):
    layer = trained(name).train(training)
    for wrong in BAD_SHAPES[name]:
        refuses(ValueError, f"{owner(name)}: x must ", lambda: layer.forward(np.ones(wrong)), layer)
        refuses(ValueError, f"got {'shape ' * (wrong == ())}{wrong}", lambda: layer.forward(np.ones(wrong)), layer)


@every_layer
def test_a_call_that_fails_behind_a_layer_leaves_it_as_it_was(name):
    model = nn.Sequential(nn.Residual(make(name), nn.Tanh()), make(name), Broken(), nn.Tanh())
    x = examples(name)
    model.forward(x)
    dx = model.backward(draw(x.shape))
    model[2].fails = True
    refuses(ArithmeticError, "forward fails", lambda: model.forward(2 * x), model)
    refuses(ArithmeticError, "backward fails", lambda: model.backward(draw(x.shape)), model)
    model[2].fails = False
    assert (model.backward(draw(x.shape)) == dx).all()


@every_layer
def test_parameters_and_statistics_that_do_not_fit_are_refused(name):
    layer, x = trained(name), examples(name)
    layer.params["weight"] = layer.params["weight"].astype(np.float32)
    refuses(TypeError, f"{owner(name)}: params['weight'] must be a NumPy array of float64, got float32",
            lambda: layer.forward(x), layer)
    if name in BATCH_NORMS:
        for training in (True, False):
            layer = trained(name).train(training)
            layer.buffers["running_var"] = np.ones(2)
            refuses(ValueError, f"{owner(name)}: buffers['running_var'] must have shape (3,), got (2,)",
                    lambda: layer.forward(x), layer)


# ------------------------------------------------------------------------------------------------ state

def deep(name):
    """Layers that normalise at several depths."""
    return nn.Sequential(make(name, 1), nn.Tanh(), nn.Residual(make(name, 2), nn.Sequential(make(name, 3))))


def names_of(name):
    inside = ["weight", "bias", *(BUFFERS if name in BATCH_NORMS else [])]
    return [f"{place}.{key}" for place in ("0", "2.0", "2.1.0") for key in inside]


@every_layer
def test_a_state_goes_round(name, tmp_path):
    model, other = deep(name), deep(name)
    for seed in range(3):
        model.forward(examples(name, seed))
    state = model.state_dict()
    assert list(state) == names_of(name)
    assert list(model.params) == [key for key in names_of(name) if key.endswith(("weight", "bias"))]
    other.load_state_dict(state)
    assert array_bits(other.state_dict()) == array_bits(state)
    for m in (model, other):
        assert not any(np.shares_memory(a, state[key]) for key, a in (dict(m.params) | dict(m.buffers)).items())
    model.save(tmp_path / "model.npz")
    third = deep(name)
    third.load(tmp_path / "model.npz")
    assert array_bits(third.state_dict()) == array_bits(state)
    x = examples(name, seed=9)
    outputs = {m.eval().forward(x).tobytes() for m in (model, other, third)}
    assert len(outputs) == 1
    for m in (model, other, third):                             # the count and the statistics go on as they were
        m.train().forward(x)
    assert len({bits(array_bits(m.state_dict())) for m in (model, other, third)}) == 1


BAD_STATES = [
    ("running_var", lambda a: -a, "must be >= 0"), ("running_var", lambda a: a * [1, -1e-9, 1], "must be >= 0"),
    ("running_var", lambda a: a * np.inf, "must be finite"), ("running_mean", lambda a: a * np.nan, "must be finite"),
    ("running_mean", lambda a: a[:2], "must have shape (3,), got (2,)"),
    ("running_mean", lambda a: a.astype(np.float32), "must be a NumPy array of float64, got float32"),
    ("num_batches_tracked", lambda a: np.array(-7), "must be >= 0"),
    ("num_batches_tracked", lambda a: a.astype(float), "got float64"),
    ("num_batches_tracked", lambda a: a.astype(np.int32), "got int32"),
    ("num_batches_tracked", lambda a: a.reshape(1), "must have shape (), got (1,)"),
    ("num_batches_tracked", lambda a: np.array(True), "got bool"),
    ("weight", lambda a: a * np.nan, "must be finite"),
]


@pytest.mark.parametrize("key, spoil, message", BAD_STATES)
def test_a_bad_state_is_refused_and_nothing_is_assigned(key, spoil, message, tmp_path):
    layer = trained("BatchNorm1d")
    state = make("BatchNorm1d", seed=4).state_dict()
    state[key] = spoil(state[key])
    label = f"BatchNorm1d: state[{key!r}] "
    for part in (label, message):
        error = TypeError if message.endswith(("32", "64", "bool")) else ValueError
        refuses(error, part, lambda: layer.load_state_dict(state), layer)
    model = nn.Sequential(nn.Linear(4, 3, rng=generator()), layer)
    whole = {"0.weight": np.ones((3, 4)), "0.bias": np.ones(3)} | {f"1.{name}": a for name, a in state.items()}
    refuses(error, f"state['1.{key}'] ", lambda: model.load_state_dict(whole), model)
    np.savez(tmp_path / "bad.npz", **whole)
    with pytest.raises(nn.CheckpointError, match=key):
        model.load(tmp_path / "bad.npz")
    assert not (model[0].params["weight"] == 1).any()


def test_names_that_are_missing_or_too_many_are_refused():
    layer = trained("BatchNorm1d")
    state = layer.state_dict()
    for key in state:
        less = {name: a for name, a in state.items() if name != key}
        refuses(ValueError, f"missing ['{key}'], unexpected []", lambda: layer.load_state_dict(less), layer)
    refuses(ValueError, "missing [], unexpected ['running_std']",
            lambda: layer.load_state_dict(state | {"running_std": np.ones(3)}), layer)
    bare = make("LayerNorm")
    refuses(ValueError, "unexpected ['running_mean']",
            lambda: bare.load_state_dict(bare.state_dict() | {"running_mean": np.ones(5)}), bare)


def test_what_load_would_refuse_is_not_saved(tmp_path):
    layer = trained("BatchNorm1d")
    layer.buffers["running_var"] = -np.ones(3)
    refuses(ValueError, "BatchNorm1d: ", lambda: layer.save(tmp_path / "bad.npz"), layer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", NORMS)
def test_a_state_of_pytorch_is_taken_as_it_is(case):
    layer, state = norm_layer(case), STORED["norm"][case].get("state", {})
    assert list(layer.state_dict()) == list(state)
    assert array_bits(layer.state_dict()) == array_bits(state)


def test_a_model_of_pytorch_goes_over_and_back():
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    theirs = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(),
                                 torch.nn.Flatten(), torch.nn.LayerNorm(18), torch.nn.Linear(18, 5),
                                 torch.nn.BatchNorm1d(5)).double()
    ours = nn.Sequential(nn.Conv2d(2, 3, 3, rng=generator()), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                         nn.LayerNorm(18), nn.Linear(18, 5, rng=generator()), nn.BatchNorm1d(5))
    for seed in range(2):
        theirs(torch.from_numpy(draw((7, 2, 5, 4), seed=seed)))
    ours.load_state_dict({name: p.numpy() for name, p in theirs.state_dict().items()})
    for training in (True, False):
        x = draw((7, 2, 5, 4), seed=5)
        of_torch = theirs.train(training)(torch.from_numpy(x))
        assert relative_error(ours.train(training).forward(x), of_torch.detach().numpy()) <= LIMIT
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, p in theirs.state_dict().items():
        assert relative_error(ours.state_dict()[name], p.numpy()) <= LIMIT, name
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in ours.state_dict().items()})


def test_buffers_of_a_model_are_a_view_of_those_inside():
    model = deep("BatchNorm1d")
    assert list(model.buffers) == [name for name in names_of("BatchNorm1d") if name.endswith(tuple(BUFFERS))]
    assert model.buffers["2.1.0.running_mean"] is model[2][1][0].buffers["running_mean"]
    model.buffers["0.running_mean"] = np.full(3, 7.0)
    assert model[0].buffers["running_mean"].tolist() == [7.0] * 3
    assert len(nn.MLP([3, 2], rng=generator()).buffers) == 0


# ------------------------------------------------------------------------------------------------ residual

def branch(dtype=np.float64, seed=0):
    rng = generator(seed)
    return [nn.Linear(5, 7, rng=rng, dtype=dtype), nn.Tanh(), nn.Linear(7, 5, rng=rng, dtype=dtype)]


@both_widths
def test_a_residual_adds_its_input_to_what_the_layers_make_of_it(dtype):
    layer, twin = nn.Residual(*branch(dtype)), nn.Sequential(*branch(dtype))
    x, dy = draw((3, 5), dtype), draw((3, 5), dtype, seed=3)
    x.flags.writeable = dy.flags.writeable = False
    y, dx = layer.forward(x), layer.backward(dy)
    assert y.tobytes() == (x + twin.forward(x)).tobytes() and dx.tobytes() == (dy + twin.backward(dy)).tobytes()
    assert y.dtype == dx.dtype == dtype
    assert list(layer.params) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert array_bits(layer.params) == array_bits(twin.params) and array_bits(layer.grads) == array_bits(twin.grads)
    assert layer.backward(dy).tobytes() == dx.tobytes()
    assert (layer.backward(2 * dy) == 2 * dx).all() and not layer.backward(0 * dy).any()
    assert isinstance(layer, nn.Layer) and len(layer) == 3 and layer[1].name == "Tanh"


def test_a_residual_of_the_identity_doubles_and_shares_nothing():
    layer, x, dy = nn.Residual(nn.Identity()), draw((3, 5)), draw((3, 5), seed=3)
    y, dx = layer.forward(x), layer.backward(dy)
    assert (y == 2 * x).all() and (dx == 2 * dy).all()
    assert not np.shares_memory(y, x) and not np.shares_memory(dx, dy)
    assert (x == draw((3, 5))).all() and (dy == draw((3, 5), seed=3)).all()


def test_gradients_through_nested_residuals_agree_with_central_differences():
    rng = generator(5)
    model = nn.Sequential(nn.Linear(4, 5, rng=rng), nn.Residual(nn.LayerNorm(5), nn.Residual(*branch(seed=6))),
                          nn.Residual(nn.BatchNorm1d(5), nn.Tanh()), nn.LayerNorm(5))
    for p in model.params.values():
        p += 0.3 * rng.standard_normal(p.shape)
    x, w = draw((3, 4)), draw((3, 5), seed=4)
    model.forward(x)
    dx = model.backward(w)
    nudged = [("x", x, dx), *((name, p, model.grads[name]) for name, p in model.params.items())]
    assert [name for name, *_ in nudged[1:]] == [
        "0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.1.0.weight", "1.1.0.bias", "1.1.2.weight", "1.1.2.bias",
        "2.0.weight", "2.0.bias", "3.weight", "3.bias"]
    for name, array, gradient in nudged:
        direction = rng.standard_normal(array.shape)
        ends = []
        for step in (1e-5, -1e-5):
            array += step * direction
            ends.append(float((w * model.run(x)[0]).sum()))
            array -= step * direction
        slope = (ends[0] - ends[1]) / 2e-5
        assert abs(slope - (gradient * direction).sum()) < 1e-7 * max(1, abs(slope)), name


def test_a_residual_trains_evaluates_and_keeps_state_like_a_sequential(tmp_path):
    inner = nn.Residual(nn.Linear(5, 5, rng=generator()))
    layer = nn.Residual(nn.BatchNorm1d(5), nn.Dropout(0.4, rng=generator()), inner)
    assert list(layer.state_dict()) == ["0.weight", "0.bias", *(f"0.{key}" for key in BUFFERS),
                                        "2.0.weight", "2.0.bias"]
    assert [m.training for m in layer.eval().modules()] == [False] * 5
    x = draw((3, 5))
    assert layer.forward(x).tobytes() == layer.forward(x).tobytes()
    layer.train().forward(x)
    layer.save(tmp_path / "layer.npz")
    state = layer.state_dict()
    layer.forward(2 * x)
    layer.load(tmp_path / "layer.npz")
    assert array_bits(layer.state_dict()) == array_bits(state)
    outer = nn.Sequential(nn.Tanh(), layer)
    assert list(outer.params) == ["1.0.weight", "1.0.bias", "1.2.0.weight", "1.2.0.bias"]


def test_a_residual_of_no_example_is_empty():
    layer = nn.Residual(*branch())
    assert layer.forward(np.zeros((0, 5))).shape == layer.backward(np.zeros((0, 5))).shape == (0, 5)


def test_bad_residuals_are_refused():
    rng = generator()
    linear = nn.Linear(5, 5, rng=rng)
    refuses(ValueError, "Residual: expected one or more different layers, got []", nn.Residual)
    refuses(ValueError, "Residual: expected one or more different layers, got ['Linear', 'Linear'] with one of them "
            "twice", lambda: nn.Residual(linear, linear), linear)
    refuses(ValueError, "with one of them twice", lambda: nn.Sequential(linear, nn.Residual(linear)), linear)
    refuses(TypeError, "Residual: layer 1 must be a Layer, got type", lambda: nn.Residual(linear, nn.ReLU), linear)
    refuses(RuntimeError, "Residual: backward needs a forward first", lambda: nn.Residual(linear).backward(np.ones(5)))


@pytest.mark.parametrize("layers, shape, got", [
    (lambda: [nn.Linear(5, 4, rng=generator())], (3, 5), (3, 4)),
    (lambda: [nn.Linear(5, 1, rng=generator())], (3, 5), (3, 1)),       # NumPy would broadcast these three
    (lambda: [nn.GlobalAvgPool2d()], (3, 2, 1, 1), (3, 2)),
    (lambda: [nn.LastStep()], (3, 3, 5), (3, 5)),
    (lambda: [nn.BatchNorm2d(2), nn.Flatten()], (3, 2, 4, 5), (3, 40))])
def test_a_residual_whose_layers_change_the_shape_is_refused(layers, shape, got):
    layer = nn.Residual(*layers())
    message = f"Residual: the layers must keep the shape {shape} of x, got {got}"
    refuses(ValueError, message, lambda: layer.forward(draw(shape)), layer)
    refuses(ValueError, message, lambda: nn.Sequential(layer).forward(draw(shape)), layer)


# ------------------------------------------------------------------------------------------------ training

def problem(seed=0, N=60):
    """Two classes, a ring around the other, far from the origin and stretched."""
    rng = generator(seed)
    t = rng.integers(0, 2, N)
    angle, radius = rng.uniform(0, 2 * math.pi, N), 1 + 2 * t + 0.2 * rng.standard_normal(N)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return x * [1, 10] + [30, -50], t


def network(seed=0):
    rng = generator(seed)
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 16, rng=rng), nn.LayerNorm(16), nn.Tanh(),
                         nn.Residual(nn.Linear(16, 16, rng=rng), nn.BatchNorm1d(16), nn.ReLU()),
                         nn.Linear(16, 2, rng=rng))


def fit(model, epochs=15, rate=0.01, **more):
    return train.fit(model, nn.CrossEntropyLoss(), optim.Adam(model, rate), *problem(), epochs=epochs, batch_size=20,
                     rng=generator(1), **more)


def test_a_network_with_all_of_them_learns():
    model = network()
    history = fit(model)
    loss, accuracy = train.evaluate(model, nn.CrossEntropyLoss(), *problem(seed=3))
    assert accuracy > 0.95 and history.loss[-1] < 0.3 * history.loss[0]
    assert model[0].buffers["num_batches_tracked"] == model[4][1].buffers["num_batches_tracked"] == 45
    x, _ = problem()
    np.testing.assert_allclose(model[0].buffers["running_mean"], x.mean(axis=0), rtol=0.05)
    assert all(module.training for module in model.modules())


def test_evaluate_uses_the_running_statistics_and_changes_none():
    model, (x, t) = network(), problem(seed=3)
    fit(model, epochs=2)
    before = array_bits(model.state_dict())
    loss, _ = train.evaluate(model, nn.CrossEntropyLoss(), x, t)
    assert array_bits(model.state_dict()) == before
    one_by_one = [train.evaluate(model, nn.CrossEntropyLoss(), x[n:n + 1], t[n:n + 1])[0] for n in range(len(x))]
    np.testing.assert_allclose(loss, np.mean(one_by_one), rtol=1e-12)
    y, _ = model.run(x)
    assert abs(nn.CrossEntropyLoss().forward(y, t) - loss) > 1e-3


def test_patience_restores_the_statistics_of_the_best_epoch_with_its_parameters():
    model, best = network(), network()
    history = fit(model, epochs=30, rate=0.3, validation=problem(seed=3), patience=3)
    losses = history.validation_loss
    number = int(np.argmin(losses)) + 1
    assert number < len(losses)
    fit(best, epochs=number, rate=0.3)
    assert array_bits(model.state_dict()) == array_bits(best.state_dict())
    value, _ = train.evaluate(model, nn.CrossEntropyLoss(), *problem(seed=3))
    assert value == min(losses)


def test_an_optimizer_leaves_the_statistics_alone():
    model = network()
    optimizer = optim.SGD(model, 0.1)
    x, t = problem()
    loss = nn.CrossEntropyLoss()
    loss.forward(model.forward(x), t)
    model.backward(loss.backward())
    before = array_bits(model.buffers)
    optimizer.step()
    assert array_bits(model.buffers) == before and set(model.grads) == set(model.params)


def test_a_last_batch_of_one_example_is_refused_by_the_layer_it_meets():
    """21 examples in batches of 20 leave one alone: there is no variance, and fit says whose."""
    x, t = problem(N=21)
    model = network()
    with pytest.raises(ValueError, match="^BatchNorm1d: x must have more than one value per channel"):
        train.fit(model, nn.CrossEntropyLoss(), optim.SGD(model, 0.1), x, t, epochs=1, batch_size=20, rng=generator())
    assert model[0].buffers["num_batches_tracked"] == 1
