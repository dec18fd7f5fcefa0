"""backprop_lib.nn: the objects equal the pairs, remember the right things, and refuse what does not fit."""

# Every lambda below is called before its loop goes on.
# ruff: noqa: B023

import os
import pickle
import re
import zipfile

import numpy as np
import pytest

from backprop_lib import mlp, nn
from backprop_lib.gradcheck import away_from_kinks, complex_step, relative_error


WIDTHS = [np.float64, np.float32]
N, D, H, K = 3, 7, 11, 5

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
    """One layer of each public class; all take x (N, D)."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name][0]()
    return {"Linear": lambda: nn.Linear(D, H, rng=generator(), dtype=dtype),
            "Dropout": lambda: nn.Dropout(0.4, rng=generator()),
            "Sequential": lambda: nn.Sequential(nn.Linear(D, H, rng=generator(), dtype=dtype), nn.Tanh(),
                                                nn.Sequential(nn.Linear(H, K, rng=generator(1), dtype=dtype))),
            "MLP": lambda: nn.MLP([D, H, K], rng=generator(), dtype=dtype)}[name]()


LAYERS = [*ACTIVATIONS, "Linear", "Dropout", "Sequential", "MLP"]
WITH_PARAMETERS = ["Linear", "Sequential", "MLP"]
LOSSES = ["CrossEntropyLoss", "BCEWithLogitsLoss", "MSELoss"]
every_layer = pytest.mark.parametrize("name", LAYERS)
every_loss = pytest.mark.parametrize("name", LOSSES)
with_parameters = pytest.mark.parametrize("name", WITH_PARAMETERS)
both_widths = pytest.mark.parametrize("dtype", WIDTHS)


def draw(shape, dtype=np.float64, seed=1):
    return away_from_kinks(generator(seed), shape).astype(dtype)


def target(name, y, seed=2):
    if name == "CrossEntropyLoss":
        return generator(seed).integers(0, y.shape[1], len(y))
    return generator(seed).random(y.shape).astype(y.dtype)


def bits(thing):
    """Everything an object holds, as bytes: parameters, gradients, caches, modes, generators."""
    return pickle.dumps(thing)


def array_bits(arrays):
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


def refuses(error, message, call, *things):
    """The call raises this error with this message (a plain string), and every thing is as before."""
    before = [bits(thing) for thing in things]
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert caught.type is error
    assert [bits(thing) for thing in things] == before


def used(name, dtype=np.float64):
    """A layer that has been forward and backward once."""
    layer = make(name, dtype)
    y = layer.forward(draw((N, D), dtype))
    layer.backward(draw(y.shape, dtype, seed=3))
    return layer


def test_the_lists_above_name_every_public_class():
    classes = {name for name, thing in vars(nn).items()
               if isinstance(thing, type) and issubclass(thing, (nn.Layer, nn.Loss))}
    assert classes == {*LAYERS, *LOSSES, "Layer", "Loss", "Activation"}


# ------------------------------------------------------------------------------------------------ the pairs

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
    first, last = draw((2, D), seed=8), draw((N, D), seed=9)
    layer.forward(first)
    y = layer.forward(last)
    dy = draw(y.shape, seed=3)
    if name == "Dropout":
        twin.rng.random(first.shape)
    twin.forward(last)
    expected = twin.backward(dy).tobytes(), array_bits(twin.grads)
    for _ in range(2):
        assert (layer.backward(dy).tobytes(), array_bits(layer.grads)) == expected


@every_layer
def test_gradients_are_replaced_not_added_and_scale_with_the_cotangent(name):
    layer = make(name)
    y = layer.forward(draw((N, D)))
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
    wide = draw((2 * N, D), dtype)
    x = wide[::2]
    x.flags.writeable = False
    y = layer.forward(x)
    dy = np.asfortranarray(draw(y.shape, dtype, seed=3))
    dy.flags.writeable = False
    dx = layer.backward(dy)
    assert y.dtype == dx.dtype == dtype and dx.shape == x.shape and type(y) is type(dx) is np.ndarray
    assert {a.dtype for a in [*layer.params.values(), *layer.grads.values()]} <= {np.dtype(dtype)}
    assert {key: g.shape for key, g in layer.grads.items()} == {key: p.shape for key, p in layer.params.items()}
    assert (wide == draw((2 * N, D), dtype)).all() and (dy == draw(y.shape, dtype, seed=3)).all()


@every_layer
def test_no_example_and_one_example(name):
    layer = make(name)
    y = layer.forward(np.zeros((0, D)))
    dx = layer.backward(np.zeros(y.shape))
    assert y.shape[0] == 0 and y.ndim == 2 and dx.shape == (0, D)
    assert {key: g.shape for key, g in layer.grads.items()} == {key: p.shape for key, p in layer.params.items()}
    assert not any(g.any() for g in layer.grads.values())
    three = make(name).eval()
    x = draw((N, D))
    y = three.forward(x)
    dx = three.backward(draw(y.shape, seed=3))
    one = make(name).eval()
    assert np.allclose(one.forward(x[1:2]), y[1:2], rtol=1e-14, atol=0)
    assert np.allclose(one.backward(draw(y.shape, seed=3)[1:2]), dx[1:2], rtol=1e-13, atol=1e-15)


def test_a_parameter_that_is_nan_arrives_at_the_output():
    model = make("MLP")
    model.params["2.bias"][1] = np.nan
    y = model.forward(draw((N, D)))
    assert np.isnan(y[:, 1]).all() and np.isnan(y).sum() == N


@every_layer
def test_nan_and_inf_arrive_at_the_output(name):
    x = draw((N, D))
    x[1, 2] = np.nan
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


@every_layer
def test_wrong_kinds_of_input_are_refused(name):
    layer = used(name)
    fixed = make(name).dtype is not None or name in ("Sequential", "MLP")
    owner = "Linear" if fixed else name
    width = "float64" if fixed else "float32 or float64"
    x = draw((N, D))
    start = f"{owner}: x must be a NumPy array of {width}, got "
    cases = [(np.ones((N, D), dtype=int), "int64; write x.astype(np.float64)"),
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


def test_a_float32_layer_asks_for_float32():
    layer = used("Linear", np.float32)
    refuses(TypeError, "Linear: x must be a NumPy array of float32, got float64; write x.astype(np.float32)",
            lambda: layer.forward(draw((N, D))), layer)


@every_layer
def test_cotangents_that_do_not_fit_are_refused(name):
    layer = used(name)
    y = layer.forward(draw((N, D)))
    refuses(TypeError, f"{name}: dy must be a NumPy array of float64, got float32; write dy.astype(np.float64)",
            lambda: layer.backward(np.ones(y.shape, np.float32)), layer)
    refuses(TypeError, f"{name}: dy must be a NumPy array of float64, got int64; write dy.astype(np.float64)",
            lambda: layer.backward(np.ones(y.shape, np.int64)), layer)
    refuses(TypeError, f"{name}: dy must be a NumPy array of float64, got list; "
            "write np.asarray(dy, dtype=np.float64)", lambda: layer.backward(y.tolist()), layer)
    for shape in [y.shape[::-1], (1, y.shape[1]), (N, 1), (y.shape[1],), (N, *y.shape)]:
        refuses(ValueError, f"{name}: dy must have the shape {y.shape} of the output, got {shape}",
                lambda: layer.backward(np.ones(shape)), layer)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_before_forward_is_refused(name):
    layer = make(name)
    refuses(RuntimeError, f"{name}: backward needs a forward first", lambda: layer.backward(np.ones((N, D))), layer)


@with_parameters
def test_inputs_of_the_wrong_shape_are_refused(name):
    layer = used(name)
    for shape in [(D,), (N, D + 1), (D, N), (2, N, D), (N, 1)]:
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
    layer = make(name)
    key = next(iter(layer.params))
    x = draw((N, D))
    before = layer.forward(x)
    layer.params[key] = 2 * layer.params[key]
    replaced = layer.forward(x)
    assert not np.allclose(replaced, before)
    layer.params[key] /= 2
    assert (layer.forward(x) == before).all()
    layer.params[key][...] *= 2
    assert (layer.forward(x) == replaced).all()


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


def test_sequential_lets_each_layer_remember():
    """After a model's backward every layer has its own gradients and cache, as if called alone."""
    model = make("MLP")
    x, dy = draw((N, D)), draw((N, K), seed=3)
    model.forward(x)
    model.backward(dy)
    grads = array_bits(model.grads)
    h = x
    for layer in make("MLP"):
        h = layer.forward(h)
    for layer in reversed(list(model)):
        dy = layer.backward(dy)
    assert array_bits(model.grads) == grads
    refuses(ValueError, "MLP: dy must have the shape (3, 5) of the output", lambda: model.backward(dy), model)


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


# ------------------------------------------------------------------------------------------------ states and files

@with_parameters
@both_widths
def test_state_dict_roundtrip(name, dtype):
    layer, other = make(name, dtype), make(name, dtype)
    x = draw((N, D), dtype)
    for p in other.params.values():
        p += 1
    state = layer.state_dict()
    assert type(state) is dict and list(state) == list(layer.params)
    other.load_state_dict(state)
    assert array_bits(other.params) == array_bits(layer.params)
    assert (other.forward(x) == layer.forward(x)).all()
    for a in state.values():
        a += 1
    assert array_bits(other.params) == array_bits(layer.params) == array_bits(make(name, dtype).params)
    other.load_state_dict({key: np.asfortranarray(a) for key, a in state.items()})
    assert all((other.params[key] == a).all() and other.params[key].flags.c_contiguous for key, a in state.items())


def bad_states(layer):
    """(change of a good state, error, message)."""
    names = list(layer.params)
    last = names[-1]
    shape = layer.params[last].shape
    return [
        (lambda s: {k: a for k, a in s.items() if k != last}, ValueError,
         f"must have the names {names}, got {names[:-1]}: missing [{last!r}], unexpected []"),
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
    assert array_bits(other.params) == array_bits(layer.params)
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive.files) == sorted(layer.params)


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
