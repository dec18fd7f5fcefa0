"""backprop_lib.nn: the objects equal the pairs, remember the right things, and refuse what does not fit."""

# Every lambda below is called before its loop goes on.
# ruff: noqa: B023

import inspect
import itertools
import math
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
from test_parity import STORED, assert_close

from backprop_lib import cnn, fast, mlp, nn, optim, train
from backprop_lib.gradcheck import away_from_kinks, complex_step, relative_error


WIDTHS = [np.float64, np.float32]
N, T, D, H, K = 3, 4, 7, 11, 5
C, F, I, J = 4, 6, 8, 9

ACTIVATIONS = {
    "Sigmoid": (nn.Sigmoid, mlp.sigmoid_forward, mlp.sigmoid_backward),
    "Tanh": (nn.Tanh, mlp.tanh_forward, mlp.tanh_backward),
    "ReLU": (nn.ReLU, mlp.relu_forward, mlp.relu_backward),
    "LeakyReLU": (nn.LeakyReLU, mlp.leaky_relu_forward, mlp.leaky_relu_backward),
    "Softplus": (nn.Softplus, mlp.softplus_forward, mlp.softplus_backward),
    "Identity": (nn.Identity, mlp.identity_forward, mlp.identity_backward),
    "Softmax": (nn.Softmax, mlp.softmax_forward, mlp.softmax_backward),
}
BY_NAME = {"identity": "Identity", "leaky_relu": "LeakyReLU", "relu": "ReLU", "sigmoid": "Sigmoid",
           "softplus": "Softplus", "tanh": "Tanh"}


# ------------------------------------------------------------------------------------------------ helpers

def generator(seed=0):
    return np.random.default_rng(seed)


def make(name, dtype=np.float64):
    """One layer of each public class: IMAGE_LAYERS take x (N, C, I, J), SEQUENCE_LAYERS (N, T, D), others (N, D)."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name][0]()
    return {"Conv2d": lambda: nn.Conv2d(C, F, (3, 2), (2, 1), (1, 0), (1, 2), 2, rng=generator(), dtype=dtype),
            "ConvTranspose2d": lambda: nn.ConvTranspose2d(C, F, (2, 3), (2, 3), (1, 0), (1, 2), 2, dilation=(1, 2),
                                                          rng=generator(), dtype=dtype),
            "MaxPool2d": lambda: nn.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2)),
            "AvgPool2d": lambda: nn.AvgPool2d((3, 2), (2, 1), (1, 0), False),
            "GlobalAvgPool2d": nn.GlobalAvgPool2d,
            "Flatten": nn.Flatten,
            "LeNet": lambda: nn.LeNet((C, I, J), K, (3, 2), 7, 0.4, rng=generator(), dtype=dtype),
            "RNN": lambda: nn.RNN(D, H, 2, rng=generator(), dtype=dtype),
            "LSTM": lambda: nn.LSTM(D, H, bidirectional=True, rng=generator(), dtype=dtype),
            "GRU": lambda: nn.GRU(D, H, rng=generator(), dtype=dtype),
            "LastStep": nn.LastStep,
            "BatchNorm1d": lambda: nn.BatchNorm1d(D, dtype=dtype),
            "BatchNorm2d": lambda: nn.BatchNorm2d(C, dtype=dtype),
            "LayerNorm": lambda: nn.LayerNorm(D, dtype=dtype),
            "Residual": lambda: nn.Residual(nn.Linear(D, D, rng=generator(), dtype=dtype), nn.Tanh()),
            "Linear": lambda: nn.Linear(D, H, rng=generator(), dtype=dtype),
            "Dropout": lambda: nn.Dropout(0.4, rng=generator()),
            "Sequential": lambda: nn.Sequential(nn.Linear(D, H, rng=generator(), dtype=dtype), nn.Tanh(),
                                                nn.Sequential(nn.Linear(H, K, rng=generator(1), dtype=dtype))),
            "DataParallel": lambda: nn.DataParallel(nn.MLP([D, H, K], "tanh", rng=generator(), dtype=dtype)),
            "MLP": lambda: nn.MLP([D, H, K], rng=generator(), dtype=dtype)}[name]()


CONVOLUTIONS = ["Conv2d", "ConvTranspose2d"]
NORMS = ["BatchNorm1d", "BatchNorm2d", "LayerNorm"]             # see test_nn_norm
IMAGE_LAYERS = [*CONVOLUTIONS, "BatchNorm2d", "MaxPool2d", "AvgPool2d", "GlobalAvgPool2d", "Flatten", "LeNet"]
RECURRENT = ["RNN", "LSTM", "GRU"]                              # forward and backward give a pair: see test_recurrent
SEQUENCE_LAYERS = [*RECURRENT, "LastStep"]
LAYERS = [*ACTIVATIONS, "Linear", "Dropout", "Sequential", "Residual", "MLP", "DataParallel", "LastStep", "BatchNorm1d",
          "LayerNorm", *IMAGE_LAYERS]
WITH_PARAMETERS = ["Linear", "Sequential", "Residual", "MLP", "DataParallel", *CONVOLUTIONS, "LeNet", *NORMS,
                   *RECURRENT]
# The layer that looks at x.
FIRST = {"Sequential": "Linear", "Residual": "Linear", "MLP": "Linear", "DataParallel": "Linear", "LeNet": "Conv2d"}
LOSSES = ["CrossEntropyLoss", "BCEWithLogitsLoss", "MSELoss"]
every_layer = pytest.mark.parametrize("name", LAYERS)
every_loss = pytest.mark.parametrize("name", LOSSES)
every_image_layer = pytest.mark.parametrize("name", IMAGE_LAYERS)
with_parameters = pytest.mark.parametrize("name", WITH_PARAMETERS)
both_widths = pytest.mark.parametrize("dtype", WIDTHS)
twins_off = pytest.mark.usefixtures("readable_functions")


@pytest.fixture
def readable_functions():
    """nn runs the functions of `mlp`, `cnn`..., bit for bit; that their twins are equal is test_fast's."""
    with fast.off():
        yield


def draw(shape, dtype=np.float64, seed=1):
    return away_from_kinks(generator(seed), shape).astype(dtype)


def examples(name, dtype=np.float64, n=N, seed=1):
    """An input for `make(name)`."""
    shape = (n, C, I, J) if name in IMAGE_LAYERS else (n, T, D) if name in SEQUENCE_LAYERS else (n, D)
    return draw(shape, dtype, seed)


def output(layer, x):
    """What a layer hands on, of a recurrent one without the final states."""
    return layer.run(x)[0]


def target(name, y, seed=2):
    if name == "CrossEntropyLoss":
        return generator(seed).integers(0, y.shape[1], len(y))
    return generator(seed).random(y.shape).astype(y.dtype)


def bits(thing):
    """Everything an object holds, as bytes: parameters, gradients, caches, modes, generators."""
    return pickle.dumps(thing)


def array_bits(arrays):
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


def kept_bits(layer):
    return array_bits({**layer.params, **layer.buffers})


def refuses(error, message, call, *things):
    """The call raises this error with this message (a plain string), and every thing is as before."""
    before = [bits(thing) for thing in things]
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert caught.type is error
    assert [bits(thing) for thing in things] == before


def used(name, dtype=np.float64):
    """A layer that has been forward and backward once."""
    layer, x = make(name, dtype), examples(name, dtype)
    layer.forward(x)
    layer.backward(draw(output(layer, x).shape, dtype, seed=3))
    return layer


def test_the_lists_above_name_every_public_class():
    classes = {name for name, thing in vars(nn).items()
               if isinstance(thing, type) and issubclass(thing, (nn.Layer, nn.Loss))}
    assert classes == {*LAYERS, *RECURRENT, *LOSSES, "SequenceCrossEntropyLoss", "Embedding",           # test_embedding
                       "Layer", "Loss", "Activation", "Convolution", "Recurrent", "Normalisation", "BatchNorm"}


# ------------------------------------------------------------------------------------------------ the pairs

@twins_off
@both_widths
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_equals_its_pair_bit_for_bit(name, dtype):
    make_layer, forward, backward = ACTIVATIONS[name]
    x, dy = draw((N, D), dtype), draw((N, D), dtype, seed=3)
    h, cache = forward(x)
    layer = make_layer()
    assert layer.forward(x).tobytes() == h.tobytes()
    assert layer.backward(dy).tobytes() == backward(dy, cache).tobytes()
    assert layer.params == {} and layer.grads == {}


def test_leaky_relu_uses_its_slope():
    layer = nn.LeakyReLU(0.25)
    assert layer.forward(np.array([[-2.0, 4.0]])).tolist() == [[-0.5, 4.0]]
    assert layer.backward(np.array([[8.0, 8.0]])).tolist() == [[2.0, 8.0]]
    assert nn.LeakyReLU().forward(np.array([[-1.0]])).tolist() == [[-0.01]]


@twins_off
@both_widths
def test_linear_equals_its_pair_bit_for_bit(dtype):
    layer = make("Linear", dtype)
    W, b = layer.params["weight"], layer.params["bias"]
    assert list(layer.params) == ["weight", "bias"] and W.shape == (H, D) and b.shape == (H,)
    x, dy = draw((N, D), dtype), draw((N, H), dtype, seed=3)
    z, cache = mlp.linear_forward(x, W, b)
    dx, dW, db = mlp.linear_backward(dy, cache)
    assert layer.forward(x).tobytes() == z.tobytes()
    assert layer.backward(dy).tobytes() == dx.tobytes()
    assert array_bits(layer.grads) == array_bits({"weight": dW, "bias": db})


@both_widths
def test_linear_without_bias_is_a_matrix_product(dtype):
    layer = nn.Linear(D, H, bias=False, rng=generator(), dtype=dtype)
    x, dy = draw((N, D), dtype), draw((N, H), dtype, seed=3)
    assert list(layer.params) == ["weight"]
    assert (layer.forward(x) == x @ layer.params["weight"].T).all() and layer.forward(x).dtype == dtype
    layer.backward(dy)
    assert list(layer.grads) == ["weight"] and (layer.grads["weight"] == dy.T @ x).all()


def test_linear_starts_uniform_within_its_bound():
    layer = nn.Linear(400, 300, rng=generator())
    for p in layer.params.values():
        assert np.abs(p).max() <= 1 / 20 and np.abs(p).max() > 0.98 / 20
        assert abs(p.var() * 3 * 400 - 1) < 0.15 and abs(p.mean()) < 0.005
    again, other = nn.Linear(400, 300, rng=generator()), nn.Linear(400, 300, rng=generator(1))
    assert bits(again.params) == bits(layer.params) != bits(other.params)
    narrow = nn.Linear(400, 300, rng=generator(), dtype=np.float32)
    assert all((narrow.params[key] == p.astype(np.float32)).all() for key, p in layer.params.items())


def test_layers_from_one_generator_start_differently():
    rng = generator()
    first, second = nn.Linear(D, H, rng=rng), nn.Linear(D, H, rng=rng)
    assert not (first.params["weight"] == second.params["weight"]).any()


# ------------------------------------------------------------------------------------------------ gradients

def pure_loss(activation, name, t, n_layers):
    """The model and its loss as one composition of pure forwards, of (x, W, b, W, b, ...): complex numbers pass."""
    def forward(x, *params):
        h = x
        for i in range(n_layers):
            h, _ = mlp.linear_forward(h, *params[2 * i:2 * i + 2])
            if i < n_layers - 1:
                h, _ = ACTIVATIONS[BY_NAME[activation]][1](h)
        loss = {"CrossEntropyLoss": mlp.softmax_cross_entropy_forward, "BCEWithLogitsLoss": mlp.sigmoid_bce_forward,
                "MSELoss": mlp.mse_forward}[name]
        return loss(h, t)
    return forward


@every_loss
@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_gradients_of_a_whole_model_agree_with_the_complex_step(activation, name):
    model, loss = nn.MLP([D, H, 2, K], activation, rng=generator()), getattr(nn, name)()
    x = draw((N, D))
    y = model.forward(x)
    t = target(name, y)
    value = loss.forward(y, t)
    dx = model.backward(loss.backward(0.75))
    forward = pure_loss(activation, name, t, n_layers=3)
    args = [x, *model.params.values()]
    assert value == forward(*args)[0]
    assert list(model.grads) == list(model.params) == [f"{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias")]
    for which, gradient in enumerate([dx, *model.grads.values()]):
        assert relative_error(gradient, complex_step(forward, args, which, [0.75])) < 1e-12


def central(f, array, step=1e-5):
    """dL/d(array) by changing the entries of this very array and calling f."""
    gradient = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        middle = array[index]
        array[index] = middle + step
        above = f()
        array[index] = middle - step
        gradient[index] = (above - f()) / (2 * step)
        array[index] = middle
    return gradient


def test_gradients_with_every_layer_agree_with_central_differences():
    """The objects alone, arrays nudged in place: also a check that forward reads the arrays in params."""
    rng = generator(5)
    model = nn.Sequential(nn.Linear(D, H, rng=rng), nn.Tanh(), nn.Dropout(0.3, rng=rng),
                          nn.Sequential(nn.Linear(H, 4, bias=False, rng=rng), nn.Softplus()), nn.Sigmoid(),
                          nn.LeakyReLU(0.2), nn.Linear(4, K, rng=rng), nn.Identity(), nn.ReLU(), nn.Softmax())
    x, w = draw((N, D)), draw((N, K), seed=4)
    state = rng.bit_generator.state

    def f():
        rng.bit_generator.state = state
        return float((w * model.forward(x)).sum())

    f()
    assert not model[2].memory.cache.mask.all()
    dx = model.backward(w)
    gradients = {name: g.copy() for name, g in model.grads.items()}
    assert list(gradients) == ["0.weight", "0.bias", "3.0.weight", "6.weight", "6.bias"]
    assert relative_error(dx, central(f, x)) < 1e-7
    for name, p in model.params.items():
        assert relative_error(gradients[name], central(f, p)) < 1e-7, name


@twins_off
@both_widths
@every_loss
def test_a_loss_equals_its_pair_bit_for_bit(name, dtype):
    loss, y = getattr(nn, name)(), draw((N, K), dtype)
    forward, backward = {"CrossEntropyLoss": (mlp.softmax_cross_entropy_forward, mlp.softmax_cross_entropy_backward),
                         "BCEWithLogitsLoss": (mlp.sigmoid_bce_forward, mlp.sigmoid_bce_backward),
                         "MSELoss": (mlp.mse_forward, mlp.mse_backward)}[name]
    t = target(name, y)
    value, cache = forward(y, t)
    assert loss.forward(y, t) == value and value.dtype == dtype
    assert loss.backward().tobytes() == backward(1.0, cache).tobytes()
    assert loss.backward(np.float64(0.3)).tobytes() == backward(0.3, cache).tobytes()
    assert loss.backward(2).dtype == dtype


# ------------------------------------------------------------------------------------------------ memory

@every_layer
def test_backward_belongs_to_the_last_forward_and_repeats(name):
    layer, twin = make(name), make(name)
    first, last = examples(name, n=2, seed=8), examples(name, seed=9)
    layer.forward(first)
    for ours, others in zip(layer.modules(), twin.modules()):
        if isinstance(ours, nn.Dropout):
            others.rng.bit_generator.state = ours.rng.bit_generator.state
    y = layer.forward(last)
    dy = draw(y.shape, seed=3)
    twin.forward(last)
    expected = twin.backward(dy).tobytes(), array_bits(twin.grads)
    for _ in range(2):
        assert (layer.backward(dy).tobytes(), array_bits(layer.grads)) == expected


@every_layer
def test_gradients_are_replaced_not_added_and_scale_with_the_cotangent(name):
    layer = make(name)
    y = layer.forward(examples(name))
    dy = draw(y.shape, seed=3)
    dx, grads = layer.backward(dy), dict(layer.grads)
    assert (layer.backward(2 * dy) == 2 * dx).all()
    assert all((layer.grads[key] == 2 * g).all() for key, g in grads.items())
    assert not layer.backward(0 * dy).any() and not any(g.any() for g in layer.grads.values())
    assert set(layer.grads) == set(layer.params)


@every_layer
@both_widths
def test_width_is_kept_and_arguments_are_not_touched(name, dtype):
    layer = make(name, dtype)
    wide = examples(name, dtype, n=2 * N)
    x = wide[::2]
    x.flags.writeable = False
    y = layer.forward(x)
    dy = np.asfortranarray(draw(y.shape, dtype, seed=3))
    dy.flags.writeable = False
    dx = layer.backward(dy)
    assert y.dtype == dx.dtype == dtype and dx.shape == x.shape and type(y) is type(dx) is np.ndarray
    assert {a.dtype for a in [*layer.params.values(), *layer.grads.values()]} <= {np.dtype(dtype)}
    assert {key: g.shape for key, g in layer.grads.items()} == {key: p.shape for key, p in layer.params.items()}
    assert (wide == examples(name, dtype, n=2 * N)).all() and (dy == draw(y.shape, dtype, seed=3)).all()


@every_layer
def test_outputs_and_gradients_can_be_written_to(name):
    layer, x = make(name), examples(name)
    y = layer.forward(x)
    dx = layer.backward(draw(y.shape, seed=3))
    assert all(a.flags.writeable for a in [y, dx, *layer.grads.values()])


@every_layer
def test_no_example_and_one_example(name):
    layer = make(name).train(name not in ("BatchNorm1d", "BatchNorm2d"))    # which refuse a mean over nothing
    y = layer.forward(examples(name, n=0))
    dx = layer.backward(np.zeros(y.shape))
    assert y.shape == (0, *make(name).forward(examples(name)).shape[1:])
    assert dx.shape == examples(name, n=0).shape
    assert {key: g.shape for key, g in layer.grads.items()} == {key: p.shape for key, p in layer.params.items()}
    assert not any(g.any() for g in layer.grads.values())
    three = make(name).eval()
    x = examples(name)
    y = three.forward(x)
    dx = three.backward(draw(y.shape, seed=3))
    one = make(name).eval()
    assert np.allclose(one.forward(x[1:2]), y[1:2], rtol=1e-14, atol=1e-15)
    assert np.allclose(one.backward(draw(y.shape, seed=3)[1:2]), dx[1:2], rtol=1e-13, atol=1e-15)


def test_a_parameter_that_is_nan_arrives_at_the_output():
    model = make("MLP")
    model.params["2.bias"][1] = np.nan
    y = model.forward(draw((N, D)))
    assert np.isnan(y[:, 1]).all() and np.isnan(y).sum() == N


@every_layer
def test_nan_and_inf_arrive_at_the_output(name):
    x = examples(name)
    x[1, -1] = np.nan
    y = make(name).eval().forward(x)
    assert np.isnan(y[1]).any() and np.isfinite(y[[0, 2]]).all()


def test_an_array_in_a_file_is_an_array(tmp_path):
    np.save(tmp_path / "x.npy", draw((N, D)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert type(x) is np.memmap and (used("MLP").forward(x) == used("MLP").forward(draw((N, D)))).all()
    refuses(TypeError, "Linear: x must be a NumPy array of float32, got float64; write x.astype(np.float32)",
            lambda: make("Linear", np.float32).forward(x))


def test_activations_take_any_shape_and_softmax_the_last_axis():
    x = draw((2, 3, 4))
    for name in ACTIVATIONS:
        layer = make(name)
        assert layer.forward(x).shape == layer.backward(x).shape == x.shape
    assert np.allclose(nn.Softmax().forward(x).sum(axis=-1), 1, rtol=1e-15)


# ------------------------------------------------------------------------------------------------ bad input

class Masked(np.ndarray):
    """Some subclass whose operators could mean anything."""


@pytest.mark.parametrize("name", [*LAYERS, *RECURRENT])
def test_wrong_kinds_of_input_are_refused(name):
    layer = used(name)
    fixed = make(name).dtype is not None or name in FIRST
    owner = FIRST.get(name, name)
    width = "float64" if fixed else "float32 or float64"
    x = examples(name)
    start = f"{owner}: x must be a NumPy array of {width}, got "
    cases = [(np.ones(x.shape, dtype=int), "int64; write x.astype(np.float64)"),
             (x > 0, "bool; write x.astype(np.float64)"),
             (x.astype(np.float16), "float16; write x.astype(np.float64)"),
             (x.astype(complex), "complex128; write x.astype(np.float64)"),
             (x.astype(object), "object; write x.astype(np.float64)"),
             (x.astype(">f8"), ">f8; write x.astype(np.float64)"),
             (x.tolist(), "list; write np.asarray(x, dtype=np.float64)"),
             (2.0, "float; write np.asarray(x, dtype=np.float64)"),
             (None, "NoneType; write np.asarray(x, dtype=np.float64)"),
             (x.view(Masked), "Masked; write np.asarray(x, dtype=np.float64)"),
             (np.ma.masked_array(x), "MaskedArray; write np.asarray(x, dtype=np.float64)")]
    if fixed:
        cases.append((x.astype(np.float32), "float32; write x.astype(np.float64)"))
    for wrong, message in cases:
        refuses(TypeError, start + message, lambda: layer.forward(wrong), layer)
    refuses(ValueError, f"{owner}: x must have at least one axis, the examples, got shape ()",
            lambda: layer.forward(np.array(1.0)), layer)


@with_parameters
def test_a_float32_layer_asks_for_float32(name):
    layer = used(name, np.float32)
    refuses(TypeError, f"{FIRST.get(name, name)}: x must be a NumPy array of float32, got float64; "
            "write x.astype(np.float32)", lambda: layer.forward(examples(name)), layer)


@every_layer
def test_cotangents_that_do_not_fit_are_refused(name):
    layer = used(name)
    y = layer.forward(examples(name))
    refuses(TypeError, f"{name}: dy must be a NumPy array of float64, got float32; write dy.astype(np.float64)",
            lambda: layer.backward(np.ones(y.shape, np.float32)), layer)
    refuses(TypeError, f"{name}: dy must be a NumPy array of float64, got int64; write dy.astype(np.float64)",
            lambda: layer.backward(np.ones(y.shape, np.int64)), layer)
    refuses(TypeError, f"{name}: dy must be a NumPy array of float64, got list; "
            "write np.asarray(dy, dtype=np.float64)", lambda: layer.backward(y.tolist()), layer)
    for shape in [y.shape[::-1], (1, *y.shape[1:]), (*y.shape[:-1], 1), (N, 1, *y.shape[2:]), y.shape[1:],
                  (N, *y.shape)]:
        refuses(ValueError, f"{name}: dy must have the shape {y.shape} of the output, got {shape}",
                lambda: layer.backward(np.ones(shape)), layer)


@pytest.mark.parametrize("name", [*LAYERS, *RECURRENT])
def test_backward_before_forward_is_refused(name):
    layer = make(name)
    refuses(RuntimeError, f"{name}: backward needs a forward first", lambda: layer.backward(np.ones((N, D))), layer)
    refuses(ValueError, ": x must ", lambda: layer.forward(np.array(1.0)), layer)
    refuses(RuntimeError, f"{name}: backward needs a forward first", lambda: layer.backward(np.ones((N, D))), layer)


@pytest.mark.parametrize("name", ["Linear", "Sequential", "MLP"])
def test_inputs_of_the_wrong_shape_are_refused(name):
    layer = used(name)
    for shape in [(D,), (N, D + 1), (D, N), (2, N, D + 1), (N, 1)]:
        refuses(ValueError, f"Linear: x must have shape (N, {D}), got {shape}",
                lambda: layer.forward(np.ones(shape)), layer)


def test_softmax_over_no_class_is_refused():
    layer = used("Softmax")
    refuses(ValueError, "Softmax: x must have at least one class on its last axis, got shape (3, 0)",
            lambda: layer.forward(np.ones((3, 0))), layer)


def test_bad_settings_are_refused():
    rng = generator()
    refuses(ValueError, "Linear: in_features must be a whole number of at least 1, got 0",
            lambda: nn.Linear(0, 2, rng=rng), rng)
    refuses(ValueError, "Linear: out_features must be a whole number of at least 1, got 2.0",
            lambda: nn.Linear(3, 2.0, rng=rng), rng)
    refuses(ValueError, "Linear: in_features must be a whole number of at least 1, got True",
            lambda: nn.Linear(True, 2, rng=rng), rng)
    refuses(TypeError, "Linear: dtype must be np.float32 or np.float64, got int64",
            lambda: nn.Linear(3, 2, rng=rng, dtype=np.int64), rng)
    for wrong in (None, 0, np.random, np.random.RandomState(0)):
        message = ("rng must be a numpy.random.Generator, such as np.random.default_rng(0), "
                   f"got {type(wrong).__name__}")
        refuses(TypeError, f"Linear: {message}", lambda: nn.Linear(3, 2, rng=wrong))
        refuses(TypeError, f"Linear: {message}", lambda: nn.MLP([3, 2], rng=wrong))
        refuses(TypeError, f"Dropout: {message}", lambda: nn.Dropout(0.5, rng=wrong))
    with pytest.raises(TypeError, match="rng"):
        nn.Linear(3, 2)
    for p in (-0.1, 1, 1.5, float("nan")):
        refuses(ValueError, f"Dropout: p must be a finite number in [0, 1), got {p}", lambda: nn.Dropout(p, rng=rng))
    refuses(TypeError, "Dropout: p must be a finite number in [0, 1), got str", lambda: nn.Dropout("0.5", rng=rng))
    refuses(ValueError, "LeakyReLU: negative_slope must be a finite number, got inf",
            lambda: nn.LeakyReLU(float("inf")))
    refuses(TypeError, "LeakyReLU: negative_slope must be a finite number, got ndarray",
            lambda: nn.LeakyReLU(np.ones(3)))


def test_bad_models_are_refused():
    rng = generator()
    layer = nn.Linear(3, 3, rng=rng)
    refuses(ValueError, "Sequential: expected one or more different layers, got []", nn.Sequential)
    refuses(ValueError, "Sequential: expected one or more different layers, got ['Linear', 'ReLU', 'Linear'] with one "
            "of them twice", lambda: nn.Sequential(layer, nn.ReLU(), layer), layer)
    refuses(ValueError, "with one of them twice", lambda: nn.Sequential(layer, nn.Sequential(layer)), layer)
    refuses(TypeError, "Sequential: layer 1 must be a Layer, got type", lambda: nn.Sequential(layer, nn.ReLU), layer)
    refuses(TypeError, "Sequential: layer 0 must be a Layer, got list", lambda: nn.Sequential([layer]), layer)
    refuses(ValueError, "MLP: activation must be one of ['identity', 'leaky_relu', 'relu', 'sigmoid', 'softplus', "
            "'tanh'], got 'swish'", lambda: nn.MLP([3, 2], "swish", rng=rng), rng)
    for sizes in ([3], [], 3, "32"):
        refuses(ValueError, f"MLP: sizes must be a list of at least two whole numbers, got {sizes!r}",
                lambda: nn.MLP(sizes, rng=rng), rng)
    refuses(ValueError, "MLP: sizes[1] must be a whole number of at least 1, got 0",
            lambda: nn.MLP([3, 0, 2], rng=rng), rng)


def test_a_layer_that_names_no_arithmetic_says_so():
    layer = nn.Layer()
    refuses(NotImplementedError, "Layer: compute(x) must return (y, cache)", lambda: layer.forward(draw((N, D))), layer)
    with pytest.raises(NotImplementedError, match=re.escape("Layer: compute_gradients(dy, cache) must return")):
        layer.compute_gradients(None, None)


# ------------------------------------------------------------------------------------------------ parameters

@with_parameters
def test_replacing_a_parameter_takes_effect_in_the_next_forward(name):
    layer = make(name).eval()
    key = next(iter(layer.params))
    x = examples(name)
    before = output(layer, x)
    layer.params[key] = 2 * layer.params[key]
    replaced = output(layer, x)
    assert not np.allclose(replaced, before)
    layer.params[key] /= 2
    assert (output(layer, x) == before).all()
    layer.params[key][...] *= 2
    assert (output(layer, x) == replaced).all()


def test_parameters_that_do_not_fit_are_refused():
    layer = used("Linear")
    x, good = draw((N, D)), dict(layer.params)
    cases = [("weight", good["weight"].T, ValueError, f"params['weight'] must have shape ({H}, {D}), got ({D}, {H})"),
             ("weight", good["weight"].astype(np.float32), TypeError,
              "params['weight'] must be a NumPy array of float64, got float32; "
              "write params['weight'].astype(np.float64)"),
             ("bias", [0.0] * H, TypeError, "params['bias'] must be a NumPy array of float64, got list"),
             ("scale", good["bias"], ValueError, "params must have the names ['weight', 'bias'], got "
              "['weight', 'bias', 'scale']: missing [], unexpected ['scale']")]
    for key, value, error, message in cases:
        layer.params[key] = value
        refuses(error, f"Linear: {message}", lambda: layer.forward(x), layer)
        layer.params.pop(key)
        layer.params = {**good}
    del layer.params["bias"]
    refuses(ValueError, "missing ['bias'], unexpected []", lambda: layer.forward(x), layer)


def test_sequential_is_a_view_of_its_layers():
    model = make("Sequential")
    names = ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    assert list(model.params) == names and len(model.params) == 4 and len(model.grads) == 0
    assert model.params["0.weight"] is model[0].params["weight"]
    assert model.params["2.0.bias"] is model[2][0].params["bias"]
    assert len(model) == 3 and list(model) == [model[0], model[1], model[2]] and model[-1] is model[2]
    model.params["2.0.bias"] = np.ones(K)
    assert model[2][0].params["bias"].tolist() == [1.0] * K
    model.params.update({"0.bias": np.full(H, 3.0)})
    assert model[0].params["bias"].tolist() == [3.0] * H
    for wrong in ("0.scale", "3.weight", "weight", "2.weight", 0):
        assert wrong not in model.params
        with pytest.raises(KeyError) as caught:
            model.params[wrong]
        assert wrong not in ("3.weight", "weight") or caught.value.args == (wrong,)
    with pytest.raises(KeyError):
        model.params["7.weight"] = np.ones(3)
    model.backward(np.ones_like(model.forward(draw((N, D)))))
    assert list(model.grads) == names and model.grads["2.0.weight"] is model[2][0].grads["weight"]
    del model.grads["0.bias"]
    assert "bias" not in model[0].grads and len(model.grads) == 3
    assert repr(nn.Sequential(nn.Linear(1, 1, rng=generator())).grads) == "{}"


@pytest.mark.parametrize("name", ["MLP", "LeNet"])
def test_sequential_lets_each_layer_remember(name):
    """After a model's backward every layer has its own gradients and cache, as if called alone."""
    model = make(name).eval()
    x, dy = examples(name), draw((N, K), seed=3)
    model.forward(x)
    model.backward(dy)
    grads = array_bits(model.grads)
    h = x
    for layer in make(name).eval():
        h = layer.forward(h)
    for layer in reversed(list(model)):
        dy = layer.backward(dy)
    assert array_bits(model.grads) == grads
    refuses(ValueError, f"{name}: dy must have the shape (3, 5) of the output", lambda: model.backward(dy), model)


class Broken(nn.Identity):
    """Fails on demand, in the middle of a model."""
    fails = False

    def compute(self, x):
        if self.fails:
            raise ArithmeticError("forward fails")
        return super().compute(x)

    def compute_gradients(self, dy, cache):
        if self.fails:
            raise ArithmeticError("backward fails")
        return super().compute_gradients(dy, cache)


def test_a_failed_call_leaves_every_layer_as_it_was():
    model = nn.Sequential(nn.Linear(D, H, rng=generator()), Broken(), nn.Tanh(), nn.Linear(H, K, rng=generator()))
    x, dy = draw((N, D)), draw((N, K), seed=3)
    model.forward(x)
    dx = model.backward(dy)
    model[1].fails = True
    refuses(ArithmeticError, "forward fails", lambda: model.forward(2 * x), model)
    refuses(ArithmeticError, "backward fails", lambda: model.backward(2 * dy), model)
    model[1].fails = False
    assert (model.backward(dy) == dx).all()
    ill = nn.Sequential(nn.Linear(D, H, rng=generator()), nn.Linear(H + 1, K, rng=generator()))
    ill[0].forward(x)
    refuses(ValueError, f"Linear: x must have shape (N, {H + 1}), got ({N}, {H})", lambda: ill.forward(2 * x), ill)


def test_mlp_puts_an_activation_between_each_two_linear_layers():
    for name, layer in nn.ACTIVATIONS.items():
        model = nn.MLP((D, H, 2, K), name, rng=generator())
        assert [type(part) for part in model] == [nn.Linear, layer, nn.Linear, layer, nn.Linear]
        assert [p.shape for p in model.params.values()] == [(H, D), (H,), (2, H), (2,), (K, 2), (K,)]
    assert [type(part) for part in nn.MLP([D, K], rng=generator())] == [nn.Linear]
    assert isinstance(nn.MLP([D, H, K], rng=generator())[1], nn.ReLU)


# ------------------------------------------------------------------------------------------------ dropout and modes

@both_widths
def test_dropout_zeroes_and_rescales_in_training(dtype):
    layer = nn.Dropout(0.3, rng=generator())
    x = draw((200, 300), dtype)
    y = layer.forward(x)
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 0.01
    assert np.allclose(y[kept], x[kept] / 0.7, rtol=1e-6) and y.dtype == dtype
    dy = draw(x.shape, dtype, seed=3)
    dx = layer.backward(dy)
    assert (dx[~kept] == 0).all() and np.allclose(dx[kept], dy[kept] / 0.7, rtol=1e-6)
    assert layer.memory.cache.mask.dtype == dtype
    assert not ((layer.forward(x) != 0) == kept).all()


def test_dropout_gives_one_mask_per_seed_in_both_widths():
    wide, narrow = (nn.Dropout(0.5, rng=generator()).forward(np.ones((N, D), dtype)) for dtype in WIDTHS)
    assert (wide == narrow).all() and 0 < (wide == 0).mean() < 1


def test_dropout_is_the_identity_in_evaluation_and_draws_nothing():
    layer = nn.Dropout(rng=generator())
    x, dy = draw((N, D)), draw((N, D), seed=3)
    y = layer.forward(x)
    assert layer.p == 0.5 and layer.training and (y != x).any()
    layer.eval()
    assert (layer.backward(dy) == np.where(y == 0, 0, 2 * dy)).all()
    before = bits(layer.rng)
    assert (layer.forward(x) == x).all() and (layer.backward(dy) == dy).all() and bits(layer.rng) == before
    layer.train()
    assert (layer.backward(dy) == dy).all()
    assert (nn.Dropout(0, rng=generator()).forward(x) == x).all()


def test_train_and_eval_reach_every_layer():
    model = nn.Sequential(nn.Sequential(nn.Dropout(rng=generator())), nn.ReLU())
    assert model.eval() is model
    assert [m.training for m in model.modules()] == [False] * 4
    assert model.train() is model
    assert [m.training for m in model.modules()] == [True] * 4
    assert model.train(False).training is False and model[0][0].training is False


# ------------------------------------------------------------------------------------------------ losses

@every_loss
def test_bad_calls_of_a_loss_are_refused(name):
    loss, y = getattr(nn, name)(), draw((N, K))
    t = target(name, y)
    refuses(RuntimeError, f"{name}: backward needs a forward first", loss.backward, loss)
    loss.forward(y, t)
    refuses(TypeError, f"{name}: y must be a NumPy array of float32 or float64, got list; "
            "write np.asarray(y, dtype=np.float64)", lambda: loss.forward(y.tolist(), t), loss)
    refuses(TypeError, f"{name}: y must be a NumPy array of float32 or float64, got int64; "
            "write y.astype(np.float64)", lambda: loss.forward(y.astype(np.int64), t), loss)
    for wrong in ("1", None, True, 1j, np.ones(1)):
        refuses(TypeError, f"{name}: dloss must be a finite number, got {type(wrong).__name__}",
                lambda: loss.backward(wrong), loss)
    refuses(ValueError, f"{name}: dloss must be a finite number, got nan", lambda: loss.backward(np.nan), loss)


def test_bad_classes_are_refused():
    loss, y = nn.CrossEntropyLoss(), draw((N, K))
    loss.forward(y, np.array([0, 1, 4]))
    for error, message, t in [
            (IndexError, "the classes t must lie in 0..4, got -1 at index 1", np.array([0, -1, 2])),
            (IndexError, "the classes t must lie in 0..4, got 5 at index 2", np.array([0, 1, 5])),
            (TypeError, "the classes t must be an array of integers, got float64", np.array([0.0, 1.0, 2.0])),
            (TypeError, "the classes t must be an array of integers, got list", [0, 1, 2]),
            (ValueError, "the classes t must have shape (3,), one per example, got (3, 1)", np.zeros((3, 1), int)),
            (ValueError, "the classes t must have shape (3,), one per example, got (2,)", np.zeros(2, int))]:
        refuses(error, f"CrossEntropyLoss: {message}", lambda: loss.forward(y, t), loss)
    refuses(ValueError, "CrossEntropyLoss: the scores z must have shape (N, K), got (3,)",
            lambda: loss.forward(y[:, 0], np.zeros(3, int)), loss)
    refuses(ValueError, "CrossEntropyLoss: a mean over nothing has no value, got N = 0",
            lambda: loss.forward(y[:0], np.zeros(0, int)), loss)


@pytest.mark.parametrize("name", ["BCEWithLogitsLoss", "MSELoss"])
def test_bad_targets_are_refused(name):
    loss, y = getattr(nn, name)(), draw((N, 1))
    t = target(name, y)
    loss.forward(y, t)
    for error, message, wrong in [
            (ValueError, "the target t must have the shape (3, 1) of the output, got (3,)", t[:, 0]),
            (TypeError, "t must be a NumPy array of float64, got float32; write t.astype(np.float64)",
             t.astype(np.float32)),
            (TypeError, "t must be a NumPy array of float64, got int64; write t.astype(np.float64)",
             np.ones((3, 1), np.int64)),
            (TypeError, "t must be a NumPy array of float64, got list; write np.asarray(t, dtype=np.float64)",
             t.tolist())]:
        refuses(error, f"{name}: {message}", lambda: loss.forward(y, wrong), loss)
    refuses(ValueError, f"{name}: a mean over nothing has no value, got shape (0, 1)",
            lambda: loss.forward(y[:0], t[:0]), loss)
    if name == "BCEWithLogitsLoss":
        for wrong in (1.5, -0.5, np.nan):
            t[2, 0] = wrong
            refuses(ValueError, f"BCEWithLogitsLoss: the target t must lie in [0, 1], got {wrong} at (2, 0)",
                    lambda: loss.forward(y, t))


@every_loss
def test_a_loss_belongs_to_its_last_forward_and_repeats(name):
    loss, y = getattr(nn, name)(), draw((N, K))
    t = target(name, y)
    loss.forward(2 * y, t)
    loss.forward(y, t)
    fresh = getattr(nn, name)()
    fresh.forward(y, t)
    assert loss.backward().tobytes() == loss.backward().tobytes() == fresh.backward().tobytes()
    assert (loss.backward(2.0) == 2 * loss.backward()).all() and not loss.backward(0).any()


# ------------------------------------------------------------------------------------------------ images: the pairs

POOLS = ["MaxPool2d", "AvgPool2d"]
# Arguments of the objects, after the numbers of channels, as in PyTorch; rng and dtype come by name only.
SIGNATURES = {
    "Conv2d": ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"],
    "ConvTranspose2d": ["in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups",
                        "bias", "dilation"],
    "MaxPool2d": ["kernel_size", "stride", "padding", "dilation"],
    "AvgPool2d": ["kernel_size", "stride", "padding", "count_include_pad"],
}
IMAGE_PAIRS = {
    "Conv2d": (cnn.conv2d_forward, cnn.conv2d_backward),
    "ConvTranspose2d": (cnn.conv_transpose2d_forward, cnn.conv_transpose2d_backward),
    "MaxPool2d": (cnn.max_pool2d_forward, cnn.max_pool2d_backward),
    "AvgPool2d": (cnn.avg_pool2d_forward, cnn.avg_pool2d_backward),
    "GlobalAvgPool2d": (cnn.global_avg_pool2d_forward, cnn.global_avg_pool2d_backward),
    "Flatten": (cnn.flatten_forward, cnn.flatten_backward),
}
# Values of each option beside its default: whole numbers, pairs and lists, Python's and NumPy's.
KERNELS = [1, 3, (3, 2), [2, 3], (np.int64(2), 4)]
VALUES = {
    "Conv2d": {"kernel_size": KERNELS, "stride": [2, (2, 3), np.int32(2)], "padding": [1, (2, 1)],
               "dilation": [2, (1, 2)], "groups": [2, np.int64(2)], "bias": [False, np.True_]},
    "ConvTranspose2d": {"kernel_size": KERNELS, "stride": [2, (3, 2), np.int32(2)], "padding": [(0, 1), [1, 0]],
                        "output_padding": [1, (1, 0)], "groups": [2, np.int64(2)], "bias": [False, np.True_],
                        "dilation": [2, (1, 2)]},
    "MaxPool2d": {"kernel_size": [2, *KERNELS], "stride": [None, 1, (2, 3), [3, 1]], "padding": [1, (0, 1), [1, 0]],
                  "dilation": [2, (1, 2)]},
    "AvgPool2d": {"kernel_size": [2, *KERNELS], "stride": [None, 1, (2, 3), [3, 1]], "padding": [1, (0, 1), [1, 0]],
                  "count_include_pad": [False, np.True_]},
    "GlobalAvgPool2d": {},
    "Flatten": {},
}
every_image_pair = pytest.mark.parametrize("name", IMAGE_PAIRS)
every_convolution = pytest.mark.parametrize("name", CONVOLUTIONS)


def pair_of(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def allowed(options):
    """Whether these options go together, on an image of (I, J)."""
    kernel, padding = pair_of(options["kernel_size"]), pair_of(options.get("padding", 0))
    stride, dilation = pair_of(options.get("stride", 1)), pair_of(options.get("dilation", 1))
    if "output_padding" in options:
        return all(o < max(u, e) for o, u, e in zip(pair_of(options["output_padding"]), stride, dilation))
    return "bias" in options or all(2 * m <= k for m, k in zip(padding, kernel))


def settings_of(name):
    """Dicts of options: none given, each value of each option alone, and all combinations of the last values."""
    values = VALUES[name]
    base = {"kernel_size": (3, 2)} if values else {}
    yield base
    for option, several in values.items():
        for value in several:
            yield {**base, option: value, **({"stride": 3} if option == "output_padding" else {})}
    for combination in itertools.product(*[several[-2:] for several in values.values()]):
        options = dict(zip(values, combination))
        if values and allowed(options):
            yield options


def build(name, options, dtype=np.float64):
    layer = getattr(nn, name)
    return layer(C, F, **options, rng=generator(), dtype=dtype) if name in CONVOLUTIONS else layer(**options)


def parameters_of(name, options):
    """The shapes of the parameters, as PyTorch has them."""
    first, second = (F, C) if name == "Conv2d" else (C, F)
    shapes = {"weight": (first, second // options.get("groups", 1), *pair_of(options["kernel_size"])), "bias": (F,)}
    return shapes if options.get("bias", True) else {"weight": shapes["weight"]}


def run_pair(name, params, options, x, dy_of):
    """Output, input gradient and parameter gradients from the pure functions; without a bias, from zeros."""
    forward, backward = IMAGE_PAIRS[name]
    arguments = {key: value for key, value in options.items() if key not in ("bias", "kernel_size")}
    if name in CONVOLUTIONS:
        y, cache = forward(x, params["weight"], params.get("bias", np.zeros(F, x.dtype)), **arguments)
        dx, *grads = backward(dy_of(y), cache)
        return y, dx, {key: g for key, g in zip(("weight", "bias"), grads) if key in params}
    y, cache = forward(x, **({"kernel_size": options["kernel_size"]} if options else {}), **arguments)
    return y, backward(dy_of(y), cache), {}


@twins_off
@every_image_pair
@both_widths
def test_an_image_layer_equals_its_pair_bit_for_bit_with_every_option(name, dtype):
    x = examples(name, dtype)
    for options in list(settings_of(name))[::1 if dtype == np.float64 else 5]:
        layer = build(name, options, dtype)
        if name in CONVOLUTIONS:
            shapes = {key: p.shape for key, p in layer.params.items()}
            assert list(shapes.items()) == list(parameters_of(name, options).items()), options
        else:
            assert layer.params == {} and layer.dtype is None
        y, dx, grads = run_pair(name, layer.params, options, x, lambda y: draw(y.shape, dtype, seed=3))
        ours = layer.forward(x)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (np.dtype(dtype), y.shape, y.tobytes()), options
        ours = layer.backward(draw(y.shape, dtype, seed=3))
        assert (ours.dtype, ours.shape, ours.tobytes()) == (np.dtype(dtype), x.shape, dx.tobytes()), options
        assert list(layer.grads) == list(grads) and array_bits(layer.grads) == array_bits(grads), options


@pytest.mark.parametrize("name", [*CONVOLUTIONS, *POOLS])
def test_the_arguments_of_an_image_layer_come_in_the_order_of_pytorch(name):
    parameters = inspect.signature(getattr(nn, name)).parameters.values()
    by_name = ["rng", "dtype"] if name in CONVOLUTIONS else []
    assert [p.name for p in parameters] == SIGNATURES[name] + by_name
    assert [p.name for p in parameters if p.kind is p.KEYWORD_ONLY] == by_name
    defaults = {"stride": None if name in POOLS else 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1,
                "bias": True, "count_include_pad": True, "dtype": np.float64}
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == {
        key: value for key, value in defaults.items() if key in SIGNATURES[name] + by_name}


@every_convolution
def test_a_convolution_has_an_option_in_each_position(name):
    options = {"kernel_size": (2, 3), "stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "dilation": (1, 2),
               "groups": 2, "bias": False}
    options = {key: options[key] for key in SIGNATURES[name][2:]}
    by_name = build(name, options)
    by_position = getattr(nn, name)(C, F, *options.values(), rng=generator())
    x = examples(name)
    assert by_position.forward(x).tobytes() == by_name.forward(x).tobytes()
    assert list(by_position.params) == ["weight"]


@pytest.mark.parametrize("name", [*CONVOLUTIONS, *POOLS])
def test_a_whole_number_means_the_same_for_rows_and_columns(name):
    for option in [key for key in VALUES[name] if key not in ("groups", "bias", "count_include_pad")]:
        value = 1 if "padding" in option else 2
        start = {"kernel_size": 3, **({"stride": 2} if option == "output_padding" else {})}
        ways = value, (value, value), [value, value], np.int8(value)
        outputs = {build(name, {**start, option: way}).forward(examples(name)).tobytes() for way in ways}
        assert len(outputs) == 1, option


@pytest.mark.parametrize("name", [*CONVOLUTIONS, *POOLS])
def test_a_list_of_options_is_copied(name):
    options = {key: [1, 1] if key == "padding" else [3, 2] for key in VALUES[name]
               if key in ("kernel_size", "stride", "padding", "dilation")}
    layer, x = build(name, options), examples(name)
    y = layer.forward(x).tobytes()
    for several in options.values():
        several[:] = [7, 7]
    assert layer.forward(x).tobytes() == y


def test_flatten_takes_two_axes_and_more():
    for shape in [(3, 5), (3, 5, 2), (3, 1, 2, 2, 4), (0, 3, 2), (3, 2, 0)]:
        layer, x = nn.Flatten(), draw(shape)
        assert layer.forward(x).shape == (shape[0], math.prod(shape[1:]))
        assert layer.forward(x).tobytes() == x.tobytes()
        assert layer.backward(layer.forward(2 * x)).tolist() == (2 * x).tolist()


def test_numbers_computed_by_hand():
    """State dicts as PyTorch writes them; no other function of ours is asked."""
    x = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])
    kernel = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    layer = nn.Conv2d(1, 1, 2, rng=generator())
    layer.load_state_dict({"weight": kernel, "bias": np.array([10.0])})
    assert layer.forward(x).tolist() == [[[[47, 57], [77, 87]]]]
    dy = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    assert layer.backward(dy).tolist() == [[[[1, 2, 0], [3, 3, -2], [0, -3, -4]]]]
    assert layer.grads["weight"].tolist() == [[[[-4, -4], [-4, -4]]]] and layer.grads["bias"].tolist() == [0]
    layer = nn.ConvTranspose2d(1, 1, 2, rng=generator())
    layer.load_state_dict({"weight": kernel, "bias": np.array([0.5])})
    assert layer.forward(x[:, :, :2, :2]).tolist() == [[[[1.5, 4.5, 4.5], [7.5, 23.5, 18.5], [12.5, 31.5, 20.5]]]]
    assert layer.backward(x).tolist() == [[[[37, 47], [67, 77]]]]
    assert layer.grads["weight"].tolist() == [[[[46, 58], [82, 94]]]] and layer.grads["bias"].tolist() == [45]
    assert nn.MaxPool2d(2, 1).forward(-x).tolist() == [[[[-1, -2], [-4, -5]]]]
    assert nn.AvgPool2d(2, 1).forward(x).tolist() == [[[[3, 4], [6, 7]]]]
    assert nn.AvgPool2d(2, 3, 1).forward(x).tolist() == [[[[0.25, 0.75], [1.75, 2.25]]]]
    assert nn.AvgPool2d(2, 3, 1, False).forward(x).tolist() == [[[[1, 3], [7, 9]]]]
    assert nn.GlobalAvgPool2d().forward(x).tolist() == [[5]] and nn.Flatten().forward(x).tolist() == [[*range(1, 10)]]

@pytest.mark.parametrize("case", [case for case in STORED["cnn"] if case.split(".")[0] not in ("correlate1d",
                                                                                            "correlate2d", "unfold")])
def test_stored_numbers_of_pytorch(case):
    """A state dict and an input from PyTorch give its outputs and gradients, which are stored beside the tests."""
    stored = STORED["cnn"][case]
    pair = case.split(".")[0]
    name = {"conv2d": "Conv2d", "conv_transpose2d": "ConvTranspose2d", "max_pool2d": "MaxPool2d", "flatten": "Flatten",
            "avg_pool2d": "AvgPool2d", "global_avg_pool2d": "GlobalAvgPool2d"}[pair]
    options = {key: value for key, value in stored["in"].items() if key not in ("x", "W", "b")}
    if name in CONVOLUTIONS:
        W, b = stored["in"]["W"], stored["in"]["b"]
        layer = getattr(nn, name)(stored["in"]["x"].shape[1], len(b), W.shape[2:], **options, rng=generator())
        layer.load_state_dict({"weight": W, "bias": b})
    else:
        layer = getattr(nn, name)(**options)
    assert_close(layer.forward(stored["in"]["x"]), stored["out"]["y"], "y")
    assert_close(layer.backward(stored["cot"]["dy"]), stored["grad"]["dx"], "dx")
    for key, of_pytorch in zip(("weight", "bias"), ("dW", "db")):
        if name in CONVOLUTIONS:
            assert_close(layer.grads[key], stored["grad"][of_pytorch], of_pytorch)


# ------------------------------------------------------------------------------------------------ images: the start

@pytest.mark.parametrize("make_layer, fan_in", [
    (lambda **k: nn.Conv2d(20, 60, (3, 5), groups=2, **k), 10 * 15),
    (lambda **k: nn.ConvTranspose2d(20, 60, (3, 5), groups=2, **k), 30 * 15)])
def test_a_convolution_starts_uniform_within_its_bound(make_layer, fan_in):
    """PyTorch reads fan_in off the second axis of the weight, of a transposed convolution too."""
    layer, bound = make_layer(rng=generator()), 1 / math.sqrt(fan_in)
    W, b = layer.params["weight"], layer.params["bias"]
    assert 0.99 * bound < np.abs(W).max() <= bound and 0.9 * bound < np.abs(b).max() <= bound
    assert abs(W.var() * 3 * fan_in - 1) < 0.1 and abs(W.mean()) < 0.03 * bound and (W < 0).any() and (b < 0).any()
    assert abs(b.mean()) < 0.3 * bound and len(np.unique(W)) == W.size and not np.isin(b, W).any()
    again, other = make_layer(rng=generator()), make_layer(rng=generator(1))
    assert bits(again.params) == bits(layer.params) != bits(other.params)
    narrow = make_layer(rng=generator(), dtype=np.float32)
    assert all(narrow.params[key].dtype == np.float32 for key in ("weight", "bias"))
    assert all((narrow.params[key] == p.astype(np.float32)).all() for key, p in layer.params.items())
    assert bits(make_layer(rng=generator(), bias=False).params["weight"]) == bits(W)


@every_convolution
def test_convolutions_from_one_generator_start_differently(name):
    rng = generator()
    first, second = (getattr(nn, name)(2, 3, 2, rng=rng) for _ in range(2))
    assert not (first.params["weight"] == second.params["weight"]).any()


# ------------------------------------------------------------------------------------------------ images: bad input

def refuses_argument(error, owner, argument, came, call, *things):
    """Refused with "<owner>: <argument> must ..., got ...<what came>", and every thing is as before."""
    before = [bits(thing) for thing in things]
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert caught.type is error, caught.value
    message = rf"{owner}: ({argument})\b.* must .+, got .*{re.escape(came)}"
    assert re.match(message, str(caught.value)), str(caught.value)
    assert [bits(thing) for thing in things] == before


NOT_WHOLE = [(1.0, "1.0"), (np.float64(2), "2.0"), (True, "True"), (np.True_, "True"), ("1", "'1'"), (None, "None"),
             ((1, 1.5), "(1, 1.5)"), ([1, None], "[1, None]"), ((1, True), "(1, True)"), (np.array([1, 1]), "array"),
             (slice(2), "slice"), ({1, 2}, "{1, 2}")]
BAD_OPTIONS = [(name, option) for name in VALUES for option in VALUES[name]
               if option not in ("groups", "bias", "count_include_pad")]


def construct(name, rng, **changes):
    """A good layer but for the changes."""
    settings = {"rng": rng, **changes} if name in CONVOLUTIONS else changes
    channels = {"in_channels": C, "out_channels": F} if name in CONVOLUTIONS else {}
    kernel = {"kernel_size": 2} if VALUES[name] else {}
    return getattr(nn, name)(**{**channels, **kernel, **settings})


@pytest.mark.parametrize("name, option", BAD_OPTIONS)
def test_options_that_are_not_whole_numbers_are_refused(name, option):
    rng = generator()
    for value, came in NOT_WHOLE:
        if value is not None or option != "stride" or name in CONVOLUTIONS:
            refuses_argument(TypeError, name, option, came, lambda: construct(name, rng, **{option: value}), rng)


@pytest.mark.parametrize("name, option", BAD_OPTIONS)
def test_options_out_of_range_are_refused(name, option):
    rng, least = generator(), 0 if "padding" in option else 1
    for value in [least - 1, (1, least - 1), [least - 1, 1], np.int64(-3), (), (1,), [1, 1, 1]]:
        came = str(value) if isinstance(value, (tuple, list)) else str(int(value))
        refuses_argument(ValueError, name, option, came, lambda: construct(name, rng, **{option: value}), rng)


@every_convolution
def test_bad_settings_of_a_convolution_are_refused(name):
    rng = generator()

    def refused(error, argument, came, **changes):
        refuses_argument(error, name, argument, came, lambda: construct(name, rng, **changes), rng)

    for argument in ("in_channels", "out_channels"):
        for value in (0, -1, 2.0, True, None, "3", (2, 2)):
            refused(ValueError, argument, repr(value), **{argument: value})
    for value in (0, -2):
        refused(ValueError, "groups", str(value), groups=value)
    for value in (1.0, True, np.True_, "1", None, (1, 1), np.array([1])):
        refused(TypeError, "groups", "", groups=value)
    refused(ValueError, "groups", "3", groups=3)                # divides F = 6, not C = 4
    refused(ValueError, "groups", "4", groups=4)                # divides C = 4, not F = 6
    for value in (1, 0, None, "True", np.zeros(F)):
        refused(TypeError, "bias", repr(value), bias=value)
    for value in (np.int64, np.float16, complex, None, "wide"):
        refused(TypeError, "dtype", "", dtype=value)
    for wrong in (None, 0, np.random, np.random.RandomState(0)):
        refuses_argument(TypeError, name, "rng", type(wrong).__name__, lambda: construct(name, wrong))
    with pytest.raises(TypeError, match="rng"):
        getattr(nn, name)(C, F, 2)


def test_bad_settings_of_other_image_layers_are_refused():
    rng = generator()
    for value in (1, 0, None, "no"):
        refuses_argument(TypeError, "AvgPool2d", "count_include_pad", repr(value),
                         lambda: nn.AvgPool2d(2, count_include_pad=value))
    for name in POOLS:
        for kernel, padding in [(1, 1), (3, 2), ((4, 3), 2), ((3, 4), (2, 0)), ((3, 4), (1, 3)), (np.int64(2), 2)]:
            refuses_argument(ValueError, name, "padding", str(pair_of(padding)),
                             lambda: construct(name, None, kernel_size=kernel, padding=padding))
        construct(name, None, kernel_size=(3, 4), padding=(1, 2))
    for stride, dilation, wrong in [(1, 1, 1), (2, 2, 2), ((2, 1), 1, (0, 1)), (1, (1, 2), (1, 0)),
                                    ((3, 2), 2, (0, 2))]:
        refuses_argument(ValueError, "ConvTranspose2d", "output_padding", str(pair_of(wrong)), lambda: construct(
            "ConvTranspose2d", rng, stride=stride, dilation=dilation, output_padding=wrong), rng)
    construct("ConvTranspose2d", rng, stride=(3, 1), dilation=(1, 2), output_padding=(2, 1))


# layer, shape of x, argument, what came. The last number says which sizes are wrong.
BAD_INPUTS = [
    *[(name, shape, "x", str(shape)) for name in IMAGE_LAYERS if name != "Flatten"
      for shape in [(C,), (N, C), (C, I, J), (N, C, I, J, 1), (1, N, C, I, J)]],
    ("Flatten", (3,), "x", "(3,)"),
    *[(name, (N, channels, I, J), "x", str(channels)) for name in [*CONVOLUTIONS, "LeNet"]
      for channels in (0, 1, C - 1, C + 1, 2 * C)],
    ("Conv2d", (N, C, 0, J), "x|the kernel", "0"), ("Conv2d", (N, C, I, 2), "x|the kernel", "2"),
    ("MaxPool2d", (N, C, I, 2), "x|the kernel", "2"), ("MaxPool2d", (N, C, I, 0), "x|the kernel", "0"),
    ("AvgPool2d", (N, C, I, 1), "x|the kernel", "1"), ("AvgPool2d", (N, C, 0, J), "x|the kernel", "0"),
    ("ConvTranspose2d", (N, C, 0, J), "x", "0"), ("ConvTranspose2d", (N, C, I, 0), "x", "0"),
    ("GlobalAvgPool2d", (N, C, 0, J), "x", "0"), ("GlobalAvgPool2d", (0, C, I, 0), "x", "0"),
]


@pytest.mark.parametrize("name, shape, argument, came", BAD_INPUTS)
def test_images_that_do_not_fit_are_refused(name, shape, argument, came):
    layer, fresh = used(name), make(name)
    owner, x = FIRST.get(name, name), np.ones(shape)
    refuses_argument(ValueError, owner, argument, came, lambda: layer.forward(x), layer)
    refuses_argument(ValueError, owner, argument, came, lambda: fresh.forward(x), fresh)


@pytest.mark.parametrize("name, options, shape", [
    ("Conv2d", {"kernel_size": 1, "padding": 1}, (1, C, 0, 3)),
    ("Conv2d", {"kernel_size": 2, "padding": (0, 1)}, (2, C, 3, 0)),
    ("ConvTranspose2d", {"kernel_size": 3}, (1, C, 0, 3)),
    ("ConvTranspose2d", {"kernel_size": (1, 3), "stride": 2}, (1, C, 3, 0)),
    ("MaxPool2d", {"kernel_size": 2, "padding": 1}, (1, 1, 0, 3)),
    ("AvgPool2d", {"kernel_size": 2, "padding": 1}, (1, 1, 0, 3)),
    ("AvgPool2d", {"kernel_size": 2, "stride": 1, "padding": 1, "count_include_pad": False}, (1, 1, 3, 0)),
    ("GlobalAvgPool2d", {}, (1, 1, 3, 0))])
def test_an_image_without_pixels_is_refused_whatever_the_padding(name, options, shape):
    layer = build(name, options)
    refuses_argument(ValueError, name, "x|the kernel|padding", "", lambda: layer.forward(np.ones(shape)), layer)


def test_options_that_do_not_fit_the_image_are_refused():
    """Nothing is wrong with the layer, so it is at the image that it fails."""
    blind = nn.MaxPool2d(2, padding=(1, 0), dilation=(3, 1))
    blind.forward(np.ones((1, 1, 3, 3)))
    refuses_argument(ValueError, "MaxPool2d", "padding", "", lambda: blind.forward(np.ones((1, 1, 2, 3))), blind)
    nothing = nn.ConvTranspose2d(1, 1, 3, padding=(0, 2), rng=generator())
    assert nothing.forward(np.ones((1, 1, 1, 3))).shape == (1, 1, 3, 1)
    refuses_argument(ValueError, "ConvTranspose2d", "padding", "0", lambda: nothing.forward(np.ones((1, 1, 1, 2))),
                     nothing)
    big = nn.Conv2d(1, 1, (2, 3), padding=(0, 1), dilation=(2, 1), rng=generator())
    assert big.forward(np.ones((1, 1, 3, 1))).shape == (1, 1, 1, 1)
    refuses_argument(ValueError, "Conv2d", "the kernel", "3 x 3", lambda: big.forward(np.ones((1, 1, 2, 9))), big)


def test_wrong_channels_are_the_fault_of_x_and_not_of_groups():
    for name, channels in itertools.product(CONVOLUTIONS, (C - 1, C + 1, C + 2)):
        layer, x = used(name), np.ones((N, channels, I, J))
        refuses_argument(ValueError, name, "x", str(channels), lambda: layer.forward(x), layer)


@every_image_layer
def test_an_image_layer_works_on_after_a_failure(name):
    """A call that fails leaves the last forward, its backward and the next forward as they were."""
    layer, twin = make(name).eval(), make(name).eval()
    x = examples(name)
    for _ in range(2):
        with pytest.raises(ValueError):
            layer.forward(np.ones(3))
        with pytest.raises(RuntimeError):
            layer.backward(np.ones(3))
    y = layer.forward(x)
    assert y.tobytes() == twin.forward(x).tobytes()
    dy = draw(y.shape, seed=3)
    dx = twin.backward(dy).tobytes()
    for call in [lambda: layer.forward(np.ones(3)), lambda: layer.backward(np.ones((2, 2))),
                 lambda: layer.forward(x.tolist())]:
        with pytest.raises((ValueError, TypeError)):
            call()
        assert layer.backward(dy).tobytes() == dx and array_bits(layer.grads) == array_bits(twin.grads)


@every_convolution
def test_weights_that_do_not_fit_are_refused(name):
    layer = used(name)
    x, good = examples(name), dict(layer.params)
    W, b = good["weight"], good["bias"]
    for key, value, error, message in [
            ("weight", W.swapaxes(0, 1), ValueError, f"params['weight'] must have shape {W.shape}, got "
             f"{W.swapaxes(0, 1).shape}"),
            ("weight", W.swapaxes(2, 3), ValueError, f"params['weight'] must have shape {W.shape}"),
            ("weight", W.reshape(len(W), -1), ValueError, f"params['weight'] must have shape {W.shape}"),
            ("weight", W.astype("f4"), TypeError, "params['weight'] must be a NumPy array of float64, got float32"),
            ("bias", b[:, None], ValueError, f"params['bias'] must have shape ({F},), got ({F}, 1)"),
            ("bias", b[:C], ValueError, f"params['bias'] must have shape ({F},), got ({C},)"),
            ("bias", None, TypeError, "params['bias'] must be a NumPy array of float64, got NoneType")]:
        layer.params = {**good, key: value}
        refuses(error, f"{name}: {message}", lambda: layer.forward(x), layer)
        layer.params = good
        refuses(error, f"{name}: {message.replace('params', 'state')}",
                lambda: layer.load_state_dict({**good, key: value}), layer)
    bare = construct(name, generator(), bias=False)
    refuses(ValueError, f"{name}: state must have the names ['weight'], got ['weight', 'bias']: missing [], unexpected "
            "['bias']", lambda: bare.load_state_dict(good), bare)


# ------------------------------------------------------------------------------------------------ images: models

def require_slopes(f, gradients, arrays):
    """f rises along random directions in each array as its gradient says; the array itself is moved and put back."""
    for key, array in arrays.items():
        middle, step = array.copy(), 1e-5
        for seed in range(5):
            v = generator(seed).standard_normal(array.shape)
            array[...] = middle + step * v
            above = f()
            array[...] = middle - step * v
            slope = (above - f()) / (2 * step)
            array[...] = middle
            assert abs(slope - (gradients[key] * v).sum()) < 1e-7 * np.linalg.norm(gradients[key]), key


def test_gradients_of_all_image_layers_agree_with_central_differences():
    """The objects alone, arrays nudged in place."""
    rng = generator(5)
    model = nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), 1, (1, 0), groups=2, rng=rng), nn.Tanh(), nn.MaxPool2d((2, 3), (2, 1), (1, 0)),
        nn.Sequential(nn.ConvTranspose2d(4, 3, 2, (2, 1), bias=False, rng=rng), nn.LeakyReLU(0.2)),
        nn.AvgPool2d((2, 3), (2, 1), (1, 0), False), nn.Conv2d(3, 2, 2, dilation=(2, 1), rng=rng), nn.GlobalAvgPool2d(),
        nn.Linear(2, 3, rng=rng), nn.Flatten())
    x, w = draw((2, 2, 4, 6)), draw((2, 3), seed=4)

    def f():
        return float((w * model.forward(x)).sum())

    f()
    gradients = {"x": model.backward(w), **model.grads}
    assert list(gradients) == ["x", "0.weight", "0.bias", "3.0.weight", "5.weight", "5.bias", "7.weight", "7.bias"]
    require_slopes(f, gradients, {"x": x, **model.params})


def lenet_by_hand(t, pools):
    """LeNet without dropout and its loss, as one composition of pure forwards."""
    def forward(x, W1, b1, W2, b2, W3, b3, W4, b4):
        h = x
        for W, b, pool in [(W1, b1, pools[0]), (W2, b2, pools[1])]:
            h = cnn.max_pool2d_forward(mlp.relu_forward(cnn.conv2d_forward(h, W, b, padding=1)[0])[0], pool)[0]
        h = mlp.relu_forward(mlp.linear_forward(cnn.flatten_forward(h)[0], W3, b3)[0])[0]
        return mlp.softmax_cross_entropy_forward(mlp.linear_forward(h, W4, b4)[0], t)
    return forward


@pytest.mark.parametrize("pools, image, evaluating", [((2, 2), (2, 4, 5), True), ((1, 3), (1, 3, 4), False)])
def test_gradients_of_a_whole_lenet(pools, image, evaluating):
    """Against the complex step through the pairs; in evaluation, or in training with a dropout of 0."""
    model = nn.LeNet(image, 3, (3, 2), 5, 0.5 if evaluating else 0, pools, rng=generator()).train(not evaluating)
    loss, x, t = nn.CrossEntropyLoss(), draw((2, *image)), np.array([2, 0])
    value = loss.forward(model.forward(x), t)
    dx = model.backward(loss.backward(0.75))
    args = [x, *model.params.values()]
    forward = lenet_by_hand(t, pools)
    assert value == forward(*args)[0]
    assert list(model.grads) == [f"{i}.{p}" for i in (0, 3, 7, 10) for p in ("weight", "bias")]
    for which, gradient in enumerate([dx, *model.grads.values()]):
        assert np.abs(gradient).max() > 1e-5
        assert relative_error(gradient, complex_step(forward, args, which, [0.75])) < 1e-12


def test_gradients_of_a_whole_lenet_agree_with_central_differences():
    model = nn.LeNet((2, 7, 8), K, (4, 6), 9, rng=generator(2)).eval()
    loss, x, t = nn.CrossEntropyLoss(), draw((3, 2, 7, 8)), np.array([2, 0, 4])

    def f():
        return float(loss.forward(model.forward(x), t))

    f()
    gradients = {"x": model.backward(loss.backward()), **model.grads}
    require_slopes(f, gradients, {"x": x, **model.params})


def layout(model):
    return [type(part).__name__ for part in model]


def test_lenet_has_these_layers_and_sizes():
    model = nn.LeNet((1, 8, 8), 10, rng=generator())
    assert layout(model) == ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU",
                             "Dropout", "Linear"]
    assert {key: p.shape for key, p in model.params.items()} == {
        "0.weight": (16, 1, 3, 3), "0.bias": (16,), "3.weight": (32, 16, 3, 3), "3.bias": (32,),
        "7.weight": (64, 32 * 2 * 2), "7.bias": (64,), "10.weight": (10, 64), "10.bias": (10,)}
    assert isinstance(model, nn.Sequential) and model[9].p == 0.5 and model.training
    assert {p.dtype for p in model.params.values()} == {np.dtype(np.float64)}
    parameters = inspect.signature(nn.LeNet).parameters
    assert list(parameters) == ["image", "classes", "channels", "hidden", "dropout", "pools", "rng", "dtype"]
    assert parameters["rng"].kind is parameters["dtype"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("image, options, shapes", [
    ((3, 12, 9), {}, [(16, 3), (32, 16), (64, 32 * 3 * 2), (K, 64)]),
    ([1, 4, 4], {"channels": [5, 7]}, [(5, 1), (7, 5), (64, 7), (K, 64)]),
    ((2, 8, 9), {"pools": (1, 2), "hidden": 6}, [(16, 2), (32, 16), (6, 32 * 4 * 4), (K, 6)]),
    ((2, 8, 9), {"pools": (2, 1)}, [(16, 2), (32, 16), (64, 32 * 4 * 4), (K, 64)]),
    ((2, 8, 9), {"pools": [1, 1], "channels": (4, 3)}, [(4, 2), (3, 4), (64, 3 * 8 * 9), (K, 64)]),
    ((2, 7, 11), {"pools": (2, 3), "channels": (1, 1)}, [(1, 2), (1, 1), (64, 1), (K, 64)]),
    ((np.int64(1), 11, 7), {"pools": (3, 2), "hidden": np.int64(1)}, [(16, 1), (32, 16), (1, 32), (K, 1)]),
    ((1, 1, 1), {"pools": (1, 1)}, [(16, 1), (32, 16), (64, 32), (K, 64)])])
def test_every_option_of_lenet_arrives(image, options, shapes):
    model = nn.LeNet(image, K, **options, rng=generator(), dtype=np.float32)
    first, second, third, fourth = shapes
    assert [p.shape for key, p in model.params.items() if "weight" in key] == [(*first, 3, 3), (*second, 3, 3), third,
                                                                              fourth]
    x = draw((N, *image), np.float32)
    y = model.forward(x)
    assert y.shape == (N, K) and y.dtype == np.float32
    assert model.backward(np.ones_like(y)).shape == x.shape
    h, sizes = x, []
    for layer in model.eval():
        h = layer.forward(h)
        sizes.append(h.shape[2:])
    pools = options.get("pools", (2, 2))
    halves = [image[1] // pools[0], image[2] // pools[0]]
    quarters = [side // pools[1] for side in halves]
    expected = [image[1:], image[1:], halves, halves, halves, quarters]
    assert [list(size) for size in sizes[:6]] == [list(size) for size in expected]


def test_lenet_drops_hidden_units_with_its_chance():
    x = draw((40, 1, 8, 8))
    for p in (0, 0.25, 0.9):
        model = nn.LeNet((1, 8, 8), K, hidden=200, dropout=p, rng=generator())
        model.forward(x)
        hidden, kept = model[9].forward(np.ones((40, 200))), 1 / (1 - p)
        assert abs((hidden == 0).mean() - p) < 0.03 and np.allclose(hidden[hidden != 0], kept)
        assert model[9].p == p
        assert (model.eval().forward(x) == model.forward(x)).all()
    twins = [nn.LeNet((1, 8, 8), K, rng=generator(seed)) for seed in (4, 4, 5)]
    assert twins[0].forward(x).tobytes() == twins[1].forward(x).tobytes() != twins[2].forward(x).tobytes()


@pytest.mark.parametrize("changes, error, argument, came", [
    ({"image": 8}, TypeError, "image", "8"),
    ({"image": "188"}, TypeError, "image", "188"),
    ({"image": None}, TypeError, "image", "None"),
    ({"image": (1, 8.0, 8)}, TypeError, "image", "8.0"),
    ({"image": (1, True, 8)}, TypeError, "image", "True"),
    ({"image": np.array([1, 8, 8])}, TypeError, "image", "array"),
    ({"image": (8, 8)}, ValueError, "image", "(8, 8)"),
    ({"image": (1, 1, 8, 8)}, ValueError, "image", "(1, 1, 8, 8)"),
    ({"image": ()}, ValueError, "image", "()"),
    ({"image": (0, 8, 8)}, ValueError, "image", "0"),
    ({"image": (1, -8, 8)}, ValueError, "image", "-8"),
    ({"image": (1, 8, 0)}, ValueError, "image", "(1, 8, 0)"),
    ({"image": (1, 3, 8)}, ValueError, "image", "(1, 3, 8)"),
    ({"image": (1, 8, 3)}, ValueError, "image", "(1, 8, 3)"),
    ({"image": (1, 8, 0), "pools": (1, 1)}, ValueError, "image", "(1, 8, 0)"),
    ({"pools": (3, 3)}, ValueError, "image|pools", ""),
    ({"pools": (1, 9)}, ValueError, "image|pools", ""),
    ({"pools": 0}, ValueError, "pools", "0"),
    ({"pools": (2, 0)}, ValueError, "pools", "(2, 0)"),
    ({"pools": (2, 2, 2)}, ValueError, "pools", "(2, 2, 2)"),
    ({"pools": (2, 1.0)}, TypeError, "pools", "1.0"),
    ({"pools": None}, TypeError, "pools", "None"),
    ({"channels": (4, 0)}, ValueError, "channels", "(4, 0)"),
    ({"channels": (4,)}, ValueError, "channels", "(4,)"),
    ({"channels": (4, 4, 4)}, ValueError, "channels", "(4, 4, 4)"),
    ({"channels": (4, 4.5)}, TypeError, "channels", "4.5"),
    ({"channels": "16"}, TypeError, "channels", "16"),
    ({"classes": 0}, ValueError, "classes", "0"),
    ({"classes": 2.0}, ValueError, "classes", "2.0"),
    ({"hidden": 0}, ValueError, "hidden", "0"),
    ({"hidden": None}, ValueError, "hidden", "None")])
def test_bad_settings_of_lenet_are_refused(changes, error, argument, came):
    rng = generator()
    settings = {"image": (1, 8, 8), "classes": K, "rng": rng, **changes}
    refuses_argument(error, "LeNet", argument, came, lambda: nn.LeNet(**settings), rng)


def test_bad_settings_that_a_layer_of_lenet_refuses():
    for p, error in [(1, ValueError), (-0.1, ValueError), (np.nan, ValueError), ("0.5", TypeError), (None, TypeError)]:
        refuses_argument(error, "(LeNet|Dropout)", "dropout|p", "",
                         lambda: nn.LeNet((1, 8, 8), K, dropout=p, rng=generator()))
    refuses_argument(TypeError, "(LeNet|Conv2d)", "rng", "int", lambda: nn.LeNet((1, 8, 8), K, rng=0))
    refuses_argument(TypeError, "(LeNet|Conv2d)", "dtype", "int64",
                     lambda: nn.LeNet((1, 8, 8), K, rng=generator(), dtype=np.int64))
    with pytest.raises(TypeError, match="rng"):
        nn.LeNet((1, 8, 8), K)


@pytest.mark.parametrize("shape, message", [
    ((2, 1, I, J), "Conv2d: x must "), ((C, I, J), "Conv2d: x must "), ((2, C * I * J), "Conv2d: x must "),
    ((2, C, I, J + 4), "Linear: x must have shape (N, 8), got (2, 12)"),
    ((2, C, 2 * I, J), "Linear: x must have shape (N, 8), got (2, 16)"), ((2, C, 3, J), "MaxPool2d: the kernel must ")])
def test_images_that_lenet_was_not_made_for_are_refused(shape, message):
    """Some fit the convolutions and only fail inside; no layer before the failing one keeps anything."""
    model = used("LeNet")
    refuses(ValueError, message, lambda: model.forward(np.ones(shape)), model)


def test_an_image_must_be_flattened_for_a_linear_layer():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=generator()), nn.ReLU(), nn.Linear(18, K, rng=generator()))
    model[0].forward(draw((N, 1, 5, 5)))
    refuses(ValueError, "Linear: x must have shape (N, 18), got (3, 2, 3, 3)",
            lambda: model.forward(2 * draw((N, 1, 5, 5))), model)


def bars(n, rng):
    """Noisy images of 6 x 5 with a horizontal (class 0) or a vertical bar (class 1)."""
    x, t = 0.3 * rng.standard_normal((n, 1, 6, 5)), rng.integers(0, 2, n)
    for image, vertical in zip(x[:, 0], t):
        place = rng.integers(0, 5)
        image[(slice(None), place) if vertical else (place, slice(None))] += 1.0
    return x, t


@pytest.mark.parametrize("dtype, dropout, pools", [(np.float64, 0, (2, 2)), (np.float32, 0.2, (1, 2))])
def test_lenet_learns_to_tell_two_bars_apart(dtype, dropout, pools):
    (x, t), (x_new, t_new) = bars(60, generator(3)), bars(60, generator(4))
    x, x_new = x.astype(dtype), x_new.astype(dtype)
    model = nn.LeNet((1, 6, 5), 2, (4, 6), 8, dropout, pools, rng=generator(1), dtype=dtype)
    loss = nn.CrossEntropyLoss()
    before, _ = train.evaluate(model, loss, x, t)
    start = model.state_dict()
    history = train.fit(model, loss, optim.Adam(model, 0.02), x, t, epochs=12, batch_size=12, rng=generator(2))
    after, right = train.evaluate(model, loss, x_new, t_new)
    assert after < 0.3 * before and right > 0.9 and history.loss[-1] < 0.4 * history.loss[0]
    assert all(p.dtype == dtype and (p != start[key]).any() for key, p in model.params.items())


def test_a_transposed_convolution_learns_to_undo_an_average():
    x = draw((20, 1, 6, 6), seed=7)
    model = nn.Sequential(nn.AvgPool2d(2), nn.ConvTranspose2d(1, 1, 2, 2, rng=generator()))
    loss = nn.MSELoss()
    t = np.kron(nn.AvgPool2d(2).forward(x), np.ones((2, 2)))
    history = train.fit(model, loss, optim.Adam(model, 0.1), x, t, epochs=60, batch_size=20, rng=generator(2))
    assert history.loss[-1] < 1e-3 * history.loss[0]
    assert np.allclose(model.params["1.weight"], 1, atol=0.05) and np.allclose(model.params["1.bias"], 0, atol=0.02)


# ------------------------------------------------------------------------------------------------ states and files

@with_parameters
@both_widths
def test_state_dict_roundtrip(name, dtype):
    layer, other = make(name, dtype), make(name, dtype)
    x = examples(name, dtype)
    for p in other.params.values():
        p += 1
    state = layer.state_dict()
    assert type(state) is dict and list(state) == [*layer.params, *layer.buffers]
    other.load_state_dict(state)
    assert kept_bits(other) == kept_bits(layer)
    assert (output(other, x) == output(layer, x)).all()
    for a in state.values():
        a += 1
    assert kept_bits(other) == kept_bits(layer) == kept_bits(make(name, dtype))
    other.load_state_dict({key: np.array(a, order="F") for key, a in state.items()})
    kept = {**other.params, **other.buffers}
    assert all((kept[key] == a).all() and kept[key].flags.c_contiguous for key, a in state.items())


def bad_states(layer):
    """(change of a good state, error, message)."""
    names, last = list(layer.state_dict()), list(layer.params)[-1]
    others = [name for name in names if name != last]
    shape = layer.params[last].shape
    return [
        (lambda s: {k: a for k, a in s.items() if k != last}, ValueError,
         f"must have the names {names}, got {others}: missing [{last!r}], unexpected []"),
        (lambda s: {**s, "extra": s[last]}, ValueError, "missing [], unexpected ['extra']"),
        (lambda s: {**s, last: np.ones((*shape, 1))}, ValueError,
         f"[{last!r}] must have shape {shape}, got {(*shape, 1)}"),
        (lambda s: {**s, last: np.ones(1)}, ValueError, f"[{last!r}] must have shape {shape}, got (1,)"),
        (lambda s: {**s, last: s[last].astype(np.float32)}, TypeError,
         f"state[{last!r}] must be a NumPy array of float64, got float32; "
         f"write state[{last!r}].astype(np.float64)"),
        (lambda s: {**s, last: np.ones(shape, np.int64)}, TypeError, f"[{last!r}] must be a NumPy array of float64, "
         "got int64"),
        (lambda s: {**s, last: np.full(shape, np.nan)}, ValueError, f"[{last!r}] must be finite, got nan in"),
        (lambda s: {**s, last: np.where(np.arange(shape[-1]) == 1, -np.inf, s[last])}, ValueError,
         f"[{last!r}] must be finite, got -inf in 1 of"),
    ]


@with_parameters
@pytest.mark.parametrize("case", range(8))
def test_bad_states_are_refused(name, case, tmp_path):
    layer = used(name)
    change, error, message = bad_states(layer)[case]
    state = change({key: a + 1 for key, a in layer.state_dict().items()})
    refuses(error, message, lambda: layer.load_state_dict(state), layer)
    refuses(error, f"{name}: ", lambda: layer.load_state_dict(state), layer)
    path = tmp_path / "model.npz"
    np.savez(path, **state)
    refuses(nn.CheckpointError, message, lambda: layer.load(path), layer)
    refuses(nn.CheckpointError, f"{path}: {name}: ", lambda: layer.load(path), layer)


def test_states_that_are_no_mappings_of_arrays_are_refused():
    layer = used("Linear")
    refuses(TypeError, "Linear: state must be a mapping from names to arrays, got list",
            lambda: layer.load_state_dict([1]), layer)
    refuses(TypeError, "Linear: state['bias'] must be a NumPy array of float64, got list; "
            "write np.asarray(state['bias'], dtype=np.float64)",
            lambda: layer.load_state_dict({**layer.params, "bias": [0.0] * H}), layer)
    refuses(ValueError, "unexpected ['0']", lambda: layer.load_state_dict({**layer.params, 0: np.ones(1)}), layer)


@with_parameters
@both_widths
def test_save_and_load_roundtrip(name, dtype, tmp_path):
    layer, other = make(name, dtype), make(name, dtype)
    for p in other.params.values():
        p += 1
    path = tmp_path / "a model.weights"
    layer.save(path)
    layer.save(str(path))
    assert os.listdir(tmp_path) == ["a model.weights"]
    other.load(str(path))
    assert kept_bits(other) == kept_bits(layer)
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == list(layer.state_dict())


def test_a_model_without_parameters_can_be_saved(tmp_path):
    nn.ReLU().save(tmp_path / "relu.npz")
    nn.ReLU().load(tmp_path / "relu.npz")


def test_every_way_to_cut_or_corrupt_a_file_is_one_error(tmp_path):
    """Each prefix of the file, and the file with each byte changed: refused with one error, or (in bytes that carry
    no content, such as a time stamp) loaded unharmed."""
    layer, other = nn.Linear(2, 2, rng=generator()), nn.Linear(2, 2, rng=generator(1))
    path, start = tmp_path / "model.npz", bits(other)
    layer.save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(nn.CheckpointError, match=re.escape(str(path))):
            other.load(path)
        assert bits(other) == start
    refused = 0
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1:])
        fresh = nn.Linear(2, 2, rng=generator(1))
        try:
            fresh.load(path)
        except nn.CheckpointError as error:
            assert str(path) in str(error) and bits(fresh) == start
            refused += 1
        else:
            assert array_bits(fresh.params) == array_bits(layer.params)
    assert refused > len(content) / 2


def test_files_of_another_kind_are_one_error(tmp_path):
    layer = used("Linear")
    path = tmp_path / "model.npz"

    def refused(message):
        refuses(nn.CheckpointError, f"{path}: {message}", lambda: layer.load(path), layer)

    for content in (b"", b"not a model\n", pickle.dumps({"weight": 1}), b"PK\x03\x04"):
        path.write_bytes(content)
        refused("expected an .npz file, got another format or a file cut short")
    with open(path, "wb") as file:
        np.save(file, layer.params["weight"])
    refused("expected an .npz file, got another format or a file cut short")
    np.savez(path, weight=np.array([{}], dtype=object), bias=np.zeros(H))
    refused("expected a readable array 'weight', got an error: Object arrays cannot be loaded")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weight", b"no array")
        archive.writestr("bias", b"no array")
    refused("Linear: state['weight'] must be a NumPy array of float64, got bytes")
    with pytest.raises(nn.CheckpointError, match=re.escape(str(tmp_path))):
        layer.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        layer.load(tmp_path / "missing.npz")
    assert issubclass(nn.CheckpointError, ValueError)


def test_a_pickle_inside_a_file_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)
    np.savez(tmp_path / "model.npz", weight=np.array([Trap()], dtype=object), bias=np.zeros(H))
    with pytest.raises(nn.CheckpointError):
        make("Linear").load(tmp_path / "model.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("broken", ["savez", "replace"])
def test_an_interrupted_save_leaves_the_older_file(broken, tmp_path, monkeypatch):
    layer, path = used("Linear"), tmp_path / "model.npz"
    layer.save(path)
    content = path.read_bytes()
    layer.params["weight"] += 1

    def interrupted(first, *rest, **arrays):
        if broken == "savez":
            first.write(b"half a file")
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(*((np, "savez") if broken == "savez" else (os, "replace")), interrupted)
    refuses(KeyboardInterrupt, "stopped", lambda: layer.save(path), layer)
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["model.npz"]
    monkeypatch.undo()
    layer.save(path)
    fresh = make("Linear")
    fresh.load(path)
    assert array_bits(fresh.params) == array_bits(layer.params)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    layer, path = used("Linear"), tmp_path / "model.npz"
    layer.save(path)
    content = path.read_bytes()
    layer.params["bias"][1] = np.nan
    refuses(ValueError, f"Linear: params['bias'] must be finite, got nan in 1 of {H} entries",
            lambda: layer.save(path), layer)
    layer.params["bias"] = np.zeros(H, np.float32)
    refuses(TypeError, "Linear: params['bias'] must be a NumPy array of float64, got float32",
            lambda: layer.save(path), layer)
    assert path.read_bytes() == content


def test_save_follows_a_link_and_needs_a_folder(tmp_path):
    layer = make("Linear")
    (tmp_path / "link.npz").symlink_to(tmp_path / "real.npz")
    layer.save(tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink() and not (tmp_path / "real.npz").is_symlink()
    layer.load(tmp_path / "real.npz")
    with pytest.raises(FileNotFoundError):
        layer.save(tmp_path / "no folder" / "model.npz")


# ------------------------------------------------------------------------------------------------ PyTorch, live

def torch_model(torch, activation):
    layers = {"identity": torch.nn.Identity, "leaky_relu": torch.nn.LeakyReLU, "relu": torch.nn.ReLU,
              "sigmoid": torch.nn.Sigmoid, "softplus": torch.nn.Softplus, "tanh": torch.nn.Tanh}
    return torch.nn.Sequential(torch.nn.Linear(D, H), layers[activation](), torch.nn.Linear(H, K)).double()


@every_loss
@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_torch_models_and_losses_agree(activation, name):
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    theirs = torch_model(torch, activation)
    ours = nn.MLP([D, H, K], activation, rng=generator())
    ours.load_state_dict({key: p.numpy() for key, p in theirs.state_dict().items()})
    x, loss = draw((N, D)), getattr(nn, name)()
    y = ours.forward(x)
    t = target(name, y)
    value = loss.forward(y, t)
    dx = ours.backward(loss.backward())
    x_torch = torch.tensor(x, requires_grad=True)
    loss_torch = getattr(torch.nn, name)()(theirs(x_torch), torch.tensor(t))
    loss_torch.backward()
    assert relative_error(value, loss_torch.item()) < 1e-12
    assert relative_error(dx, x_torch.grad.numpy()) < 1e-12
    for key, p in theirs.named_parameters():
        assert relative_error(ours.grads[key], p.grad.numpy()) < 1e-12


def test_torch_state_dict_roundtrip():
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    theirs, ours = torch.nn.Linear(D, H), nn.Linear(D, H, rng=generator(), dtype=np.float32)
    ours.load_state_dict({key: p.numpy() for key, p in theirs.state_dict().items()})
    weight = ours.params["weight"].copy()
    with torch.no_grad():
        theirs.weight += 1
    assert (ours.params["weight"] == weight).all()
    theirs.load_state_dict({key: torch.from_numpy(p) for key, p in ours.state_dict().items()})
    assert (theirs.weight.detach().numpy() == weight).all()
    x = draw((N, D), np.float32)
    assert np.allclose(ours.forward(x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)
    refuses(TypeError, "Linear: state['weight'] must be a NumPy array of float32, got Parameter; "
            "write np.asarray(state['weight'], dtype=np.float32)",
            lambda: ours.load_state_dict(dict(theirs.named_parameters())), ours)


def test_torch_softmax_and_slope_agree():
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    x, dy = draw((N, D)), draw((N, D), seed=3)
    for ours, theirs in [(nn.Softmax(), torch.nn.Softmax(-1)), (nn.LeakyReLU(0.3), torch.nn.LeakyReLU(0.3))]:
        x_torch = torch.tensor(x, requires_grad=True)
        y_torch = theirs(x_torch)
        y_torch.backward(torch.tensor(dy))
        assert relative_error(ours.forward(x), y_torch.detach().numpy()) < 1e-12
        assert relative_error(ours.backward(dy), x_torch.grad.numpy()) < 1e-12


def their_convolution(torch, name, options):
    arguments = {key: tuple(map(int, value)) if isinstance(value, (tuple, list)) else
                 bool(value) if key == "bias" else int(value) for key, value in options.items()}
    return getattr(torch.nn, name)(C, F, **arguments).double()


@every_convolution
def test_torch_convolutions_agree_with_every_option(name):
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    x = examples(name)
    for options in list(settings_of(name))[::12]:
        ours, theirs = build(name, options), their_convolution(torch, name, options)
        ours.load_state_dict({key: p.numpy() for key, p in theirs.state_dict().items()})
        assert list(ours.params) == list(theirs.state_dict())
        x_torch = torch.tensor(x, requires_grad=True)
        y_torch = theirs(x_torch)
        dy = draw(tuple(y_torch.shape), seed=3)
        y_torch.backward(torch.tensor(dy))
        assert relative_error(ours.forward(x), y_torch.detach().numpy()) < 1e-12, options
        assert relative_error(ours.backward(dy), x_torch.grad.numpy()) < 1e-12, options
        for key, p in theirs.named_parameters():
            assert relative_error(ours.grads[key], p.grad.numpy()) < 1e-12, options


@every_convolution
def test_torch_convolutions_start_within_the_same_bound(name):
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    theirs = getattr(torch.nn, name)(20, 60, (3, 5), groups=2)
    ours = getattr(nn, name)(20, 60, (3, 5), groups=2, rng=generator())
    for key, p in theirs.state_dict().items():
        assert abs(np.abs(ours.params[key]).max() / float(p.abs().max()) - 1) < (0.02 if key == "weight" else 0.3)


def test_torch_lenet_agrees_and_takes_its_state_back():
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(C, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(3, 2, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(8, 7), torch.nn.ReLU(), torch.nn.Dropout(0.4),
        torch.nn.Linear(7, K)).double()
    ours = make("LeNet").eval()
    ours.load_state_dict({key: p.numpy() for key, p in theirs.state_dict().items()})
    x, t, loss = examples("LeNet"), np.array([1, 4, 0]), nn.CrossEntropyLoss()
    x_torch = torch.tensor(x, requires_grad=True)
    loss_torch = torch.nn.CrossEntropyLoss()(theirs.eval()(x_torch), torch.tensor(t))
    loss_torch.backward()
    assert relative_error(loss.forward(ours.forward(x), t), loss_torch.item()) < 1e-12
    assert relative_error(ours.backward(loss.backward()), x_torch.grad.numpy()) < 1e-12
    for key, p in theirs.named_parameters():
        assert relative_error(ours.grads[key], p.grad.numpy()) < 1e-12
    fresh = make("LeNet")
    theirs.load_state_dict({key: torch.from_numpy(p) for key, p in fresh.state_dict().items()})
    assert array_bits({key: p.numpy() for key, p in theirs.state_dict().items()}) == array_bits(fresh.params)


def test_torch_pools_agree():
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    x = examples("MaxPool2d")
    for ours, theirs in [
            (nn.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2)), torch.nn.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2))),
            (nn.MaxPool2d(3), torch.nn.MaxPool2d(3)),
            (nn.AvgPool2d((3, 2), 2, 1), torch.nn.AvgPool2d((3, 2), 2, 1)),
            (nn.AvgPool2d(2, None, (1, 0), False), torch.nn.AvgPool2d(2, None, (1, 0), False, False)),
            (nn.GlobalAvgPool2d(), torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())),
            (nn.Flatten(), torch.nn.Flatten())]:
        x_torch = torch.tensor(x, requires_grad=True)
        y_torch = theirs(x_torch)
        dy = draw(tuple(y_torch.shape), seed=3)
        y_torch.backward(torch.tensor(dy))
        assert relative_error(ours.forward(x), y_torch.detach().numpy()) < 1e-12
        assert relative_error(ours.backward(dy), x_torch.grad.numpy()) < 1e-12
