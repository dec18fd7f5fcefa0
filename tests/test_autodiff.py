"""backprop_lib.autodiff: the record, reverse mode, what it refuses; every layer of the library by hand and by tape."""

import copy
import gc
import pickle
import sys
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from arrays import frozen, normal, refuses, same_bits, spread
from layers_by_tape import LAYERS, LOSSES, by_tape, recurrent, tuple_of
from test_conventions import MODULES

from backprop_lib import autodiff, lstm, mlp, nn
from backprop_lib.autodiff import (
    Node,
    Step,
    apply,
    concatenate,
    exp,
    gradients,
    log,
    matmul,
    maximum,
    relu,
    sigmoid,
    sqrt,
    stack,
    steps_to,
    tanh,
)
from backprop_lib.gradcheck import complex_step, relative_error
from backprop_lib.operations import RULES
from backprop_lib.shapes import build_inputs, parse_shapes
from backprop_lib.sweeps import directional, rates


LIMIT = 1e-12


# ------------------------------------------------------------------------------------------------ helpers

def cotangents_of(outputs, seed=9):
    return tuple(np.asarray(normal(*np.shape(y), seed=seed + i)) for i, y in enumerate(outputs))


def network(x=None):
    """x, W, h and a loss, all nodes; h goes to the loss twice."""
    x, W = Node(normal(3, 5) if x is None else x), Node(normal(5, 7))
    h = tanh(x @ W)
    return x, W, h, (h * h).mean()


# ------------------------------------------------------------------------------------------------ expressions

def narrow(*shape):
    return normal(*shape).astype(np.float32)


# The same words for arrays: what NumPy has under another name, or not for complex numbers.
WORDS = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt, "tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
         "relu": lambda z: np.where(z.real > 0, z, 0), "maximum": lambda a, b: np.where(np.real(a) >= np.real(b), a, b),
         "matmul": np.matmul, "concatenate": np.concatenate, "stack": np.stack}
NUMPY = SimpleNamespace(constant=normal, **WORDS)
TAPE, TAPE32 = (SimpleNamespace(constant=constant, **{name: getattr(autodiff, name) for name in WORDS})
                for constant in (normal, narrow))

EXPRESSIONS = {
    "add": (lambda on, a, b: a + b, (3, 5), (3, 5)),
    "add a row": (lambda on, a, b: a + b, (3, 5), (5,)),
    "add a column": (lambda on, a, b: b + a, (3, 5), (3, 1)),
    "add a number of no axes": (lambda on, a, b: a + b, (3, 5), ()),
    "add both ways": (lambda on, a, b: a + b, (3, 1, 5), (7, 1)),
    "subtract": (lambda on, a, b: a - b, (5,), (3, 5)),
    "multiply": (lambda on, a, b: a * b, (3, 5), (2, 1, 5)),
    "divide": (lambda on, a, b: a / (b * b + 1), (3, 5), (3, 1)),
    "numbers beside": (lambda on, a: 3 - 2 * (a - 1) / 4 + 1 / (a * a + 1) - (2 + a), (5,)),
    "NumPy numbers beside": (lambda on, a: np.float32(0.5) * a + a / np.int64(3) + np.float64(2), (5,)),
    "arrays beside": (lambda on, a: on.constant(3, 5) * a - a / (on.constant(5)**2 + 1) + on.constant(3, 3) @ a,
                      (3, 5)),
    "an array over": (lambda on, a: on.constant(3, 5) / (a * a + 1), (5,)),
    "vectors beside": (lambda on, a: on.constant(3) @ a @ on.constant(5) - on.constant(2, 5, 3) @ a, (3, 5)),
    "fan-out": (lambda on, a: a * a + a, (3,)),
    "augmented": (lambda on, a: grown(a), (3,)),
    "negative": (lambda on, a: -a, (3,)),
    "power 3": (lambda on, a: a**3, (3, 2)),
    "power 1": (lambda on, a: a**1, (3, 2)),
    "power 0": (lambda on, a: a**0 * on.constant(3, 2) + a, (3, 2)),
    "power -2": (lambda on, a: a**-2, (3,)),
    "power 0.5": (lambda on, a: (a * a)**0.5, (3,)),
    "power of a NumPy number": (lambda on, a: a**np.int64(2), (3,)),
    "matmul": (lambda on, a, b: a @ b, (3, 5), (5, 2)),
    "matmul, batch": (lambda on, a, b: a @ b, (7, 1, 3, 5), (2, 5, 11)),
    "matmul, one matrix for all": (lambda on, a, b: on.matmul(a, b), (2, 3, 5), (5, 7)),
    "matmul, matrix and vector": (lambda on, a, b: a @ b, (3, 5), (5,)),
    "matmul, vector and matrix": (lambda on, a, b: a @ b, (3,), (3, 5)),
    "matmul, vectors": (lambda on, a, b: a @ b, (5,), (5,)),
    "matmul, vector and batch": (lambda on, a, b: a @ b, (5,), (2, 5, 3)),
    "matmul, batch and vector": (lambda on, a, b: a @ b, (2, 3, 5), (5,)),
    "sum": (lambda on, a: a.sum(), (3, 5)),
    "sum over a negative axis": (lambda on, a: a.sum(axis=-2), (3, 5, 2)),
    "sum over axes, kept": (lambda on, a: a.sum(axis=(0, 2), keepdims=True), (3, 5, 2)),
    "sum over axes": (lambda on, a: a.sum(axis=(0, -1)), (3, 5, 2)),
    "sum over all, kept": (lambda on, a: a.sum(keepdims=True), (3, 5)),
    "mean": (lambda on, a: a.mean(), (3, 5)),
    "mean over an axis": (lambda on, a: a.mean(axis=1), (3, 5)),
    "mean, kept": (lambda on, a: a.mean(axis=0, keepdims=True), (3, 5)),
    "mean over axes": (lambda on, a: a.mean((0, 2)), (3, 5, 2)),
    "reshape": (lambda on, a: a.reshape(5, -1), (3, 5)),
    "reshape to a tuple": (lambda on, a: a.reshape((5, 3)), (3, 5)),
    "transpose": (lambda on, a: a.transpose(2, 0, 1), (3, 5, 2)),
    "transpose by a tuple": (lambda on, a: a.transpose((1, 2, 0)), (3, 5, 2)),
    "transpose, counted from the end": (lambda on, a: a.transpose(-1, 0), (3, 3)),
    "transpose, one counted from the end": (lambda on, a: a.transpose(1, -1, 0), (3, 3, 3)),
    "transpose backwards": (lambda on, a: a.transpose(), (3, 5, 2)),
    "T": (lambda on, a: a.T, (3, 5)),
    "T of no axes": (lambda on, a: a.T, ()),
    "slice": (lambda on, a: a[1:, ::-2], (3, 5)),
    "entry": (lambda on, a: a[1, -2], (3, 5)),
    "entry by a NumPy number": (lambda on, a: a[np.int64(1)], (3, 5)),
    "new axis": (lambda on, a: a[:, None, ..., 1], (3, 5, 2)),
    "places, one twice": (lambda on, a: a[np.array([0, 2, 2])], (3, 5)),
    "places in a list": (lambda on, a: a[[2, 0, 2], 1:], (3, 5)),
    "pairs of places": (lambda on, a: a[np.array([0, 2, 0]), np.array([1, 1, 1])], (3, 5)),
    "mask": (lambda on, a: a[np.array([True, False, True])], (3, 2)),
    "rows one by one": (lambda on, a: sum(row * row for row in a), (3, 5)),
    "concatenate": (lambda on, a, b: on.concatenate([a, b, a], -1), (3, 5), (3, 2)),
    "concatenate rows": (lambda on, a, b: on.concatenate([a, on.constant(1, 5), b]), (3, 5), (2, 5)),
    "stack": (lambda on, a, b: on.stack([a, b]), (3, 5), (3, 5)),
    "stack in the middle": (lambda on, a, b: on.stack([a, b, a], 1), (3, 5), (3, 5)),
    "stack at the end": (lambda on, a, b: on.stack([a, b], -1), (3, 5), (3, 5)),
    "stack next to the end": (lambda on, a, b: on.stack([a, b], axis=-2), (3, 5), (3, 5)),
    "stack numbers": (lambda on, a, b: on.stack([a, b, 2.0]), (), ()),
    "exp": (lambda on, a: on.exp(a), (5,)),
    "log": (lambda on, a: on.log(a * a), (5,)),
    "sqrt": (lambda on, a: on.sqrt(a * a), (5,)),
    "tanh": (lambda on, a: on.tanh(a), (5,)),
    "sigmoid": (lambda on, a: on.sigmoid(a), (5,)),
    "relu": (lambda on, a: on.relu(a), (11,)),
    "maximum": (lambda on, a, b: on.maximum(a, b), (3, 5), (5,)),
    "maximum of a number": (lambda on, a: on.maximum(0.5, a) + on.maximum(a, -0.5), (11,)),
    "deep": (lambda on, a, b: on.tanh(a @ b + a.sum()) * on.exp(-(b[0] / 3)), (2, 3), (3, 5)),
}


def grown(a):
    """x += y makes a new node, and leaves the array alone."""
    x = a + 0
    x += a
    x *= 3.0
    x -= x * a
    x /= 2
    return x


def arrays_of(name):
    """What it computes, arrays to compute it of, and a random cotangent."""
    function, *shapes = EXPRESSIONS[name]
    arrays = [np.asarray(normal(*shape, seed=i + 1)) for i, shape in enumerate(shapes)]
    return function, arrays, np.asarray(normal(*np.shape(function(NUMPY, *arrays)), seed=7))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_value_is_numpys_and_a_gradient_agrees_with_the_complex_step(name):
    function, arrays, w = arrays_of(name)
    nodes = list(map(Node, arrays))
    y, expected = function(TAPE, *nodes), function(NUMPY, *arrays)
    assert isinstance(y, Node) and type(y.value) is np.ndarray
    assert y.shape == y.value.shape == np.shape(expected)
    assert relative_error(y.value, expected) <= 1e-15
    for i, d in enumerate(tuple_of(gradients(y, *nodes, cotangent=w))):
        reference = complex_step(lambda *args: (function(NUMPY, *args), None), arrays, i, [w])
        assert type(d) is np.ndarray and d.shape == arrays[i].shape and d.dtype == np.float64
        assert relative_error(d, reference) <= LIMIT


@pytest.mark.parametrize("made", [frozen, spread, np.asfortranarray])
def test_read_only_and_strided_arrays_work_and_stay_as_they_are(made):
    for name in EXPRESSIONS:
        function, arrays, w = arrays_of(name)
        given = [made(a) if a.ndim else frozen(a) for a in [*arrays, w]]
        results = []
        for *inputs, cotangent in ([*arrays, w], given):
            nodes = list(map(Node, inputs))
            y = function(TAPE, *nodes)
            results.append([y.value, *tuple_of(gradients(y, *nodes, cotangent=cotangent))])
        assert same_bits(given, [*arrays, w]), name
        limit = 0 if made is frozen else 1e-15                  # BLAS may round strided products otherwise
        assert max(map(relative_error, *results)) <= limit, name


def test_float32_stays_float32():
    for name in EXPRESSIONS:
        function, arrays, w = arrays_of(name)
        nodes, wide = [Node(a.astype(np.float32)) for a in arrays], list(map(Node, arrays))
        y = function(TAPE32, *nodes)
        found = tuple_of(gradients(y, *nodes, cotangent=w.astype(np.float32)))
        assert {y.value.dtype, *(d.dtype for d in found)} == {np.dtype(np.float32)}, name
        expected = tuple_of(gradients(function(TAPE, *wide), *wide, cotangent=w))
        assert max(map(relative_error, found, expected)) <= 1e-5, name


def test_every_operation_of_the_table_is_tried():
    tried = set()
    for function, *shapes in EXPRESSIONS.values():
        y = function(TAPE, *(Node(np.asarray(normal(*shape))) for shape in shapes))
        tried |= {step.rule.name for step in steps_to(y)}
    assert tried == set(RULES) | {"concatenate"}


# ------------------------------------------------------------------------------------------------ every layer

PAIRS = {name.removesuffix("_forward"): (f, getattr(module, name.replace("_forward", "_backward")))
         for module in MODULES for name, f in vars(module).items()
         if name.endswith("_forward") and f.__module__ == module.__name__}
SIZES = {"N": 3, "K": 5, "D": 7, "H": 11, "C": 2, "F": 6, "I": 7, "J": 11, "R": 3, "S": 2, "P": 3, "Q": 5, "T": 5,
         "V": 13}
VARIANTS = {
    "leaky_relu": [{"alpha": 0.3}], "batch_norm": [{"eps": 0.1}], "batch_norm_eval": [{"eps": 0.1}],
    "layer_norm": [{"eps": 0.1}],
    "rnn_step": [{"nonlinearity": "relu"}], "rnn": [{"nonlinearity": "relu"}], "gru": [{"reset_after": False}],
    "conv2d": [{"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1)}, {"groups": 2, "padding": 1}],
    "conv_transpose2d": [{"stride": (3, 2), "padding": (1, 1), "output_padding": (2, 0), "dilation": (1, 2)},
                         {"groups": 2}],
    "unfold": [{"stride": 2, "padding": (1, 3), "dilation": 2}],
    "max_pool2d": [{"stride": (1, 2), "padding": 1}, {"dilation": 2, "stride": 1}],
    "avg_pool2d": [{"stride": (2, 1), "padding": 1}, {"padding": 1, "count_include_pad": False}],
}
TIES = ("max_pool2d", "relu", "leaky_relu", "l1_penalty")
CASES = [(name, options) for name in PAIRS for options in [{}, *VARIANTS.get(name, [])]]
every_case = pytest.mark.parametrize("name, options", CASES, ids=lambda value: str(value))


def case(name, options):
    """The pair, its arguments, the places of those that get a gradient, and what comes by hand."""
    forward, backward = PAIRS[name]
    args = build_inputs(forward, np.random.default_rng(1), {**SIZES, **options})
    if name in TIES:
        args[0] = np.round(2 * args[0]) / 2                     # equal entries, and zeros
    if name == "batch_norm_eval":
        args[4] = np.abs(args[4]) + 0.1
    names = [a.name for a in parse_shapes(forward)[0]]
    wanted = [names.index(a.name[1:]) for a in parse_shapes(backward)[1]]
    *outputs, cache = forward(*args)
    cotangents = cotangents_of(outputs)
    return args, wanted, outputs, cotangents, tuple_of(backward(*cotangents, cache))


def with_nodes(args, wanted):
    args = [Node(a) if i in wanted else a for i, a in enumerate(args)]
    return args, [args[i] for i in wanted]


def test_every_pair_of_the_library_is_there_by_tape():
    assert set(LAYERS) == set(PAIRS)
    assert set(VARIANTS) <= set(PAIRS)


@every_case
def test_the_tape_agrees_with_the_hand_written_gradient(name, options):
    args, wanted, outputs, cotangents, by_hand = case(name, options)
    args, inputs = with_nodes(args, wanted)
    ours = tuple_of(LAYERS[name](*args))
    by_tape = tuple_of(gradients(ours, *inputs, cotangent=cotangents))
    assert [y.shape for y in ours] == [np.shape(y) for y in outputs]
    assert [d.shape for d in by_tape] == [np.shape(d) for d in by_hand]
    assert max(relative_error(a.value, y) for a, y in zip(ours, outputs)) <= LIMIT
    assert max(map(relative_error, by_tape, by_hand)) <= LIMIT
    used = {step.rule.backward for y in ours for step in steps_to(y)}
    assert not used & {backward for _, backward in PAIRS.values()}


@every_case
def test_an_applied_pair_gives_its_own_gradient_to_the_last_bit(name, options):
    args, wanted, outputs, cotangents, by_hand = case(name, options)
    args, inputs = with_nodes(args, wanted)
    wrapped = tuple_of(apply(*PAIRS[name], *args))
    assert same_bits([y.value for y in wrapped], outputs)
    assert same_bits(tuple_of(gradients(wrapped, *inputs, cotangent=cotangents)), by_hand)


def test_an_applied_pair_keeps_float32():
    for name, options in CASES:
        args, wanted, _, cotangents, by_hand = case(name, options)
        args = [a.astype(np.float32) if getattr(a, "dtype", None) == np.float64 else a for a in args]
        args, inputs = with_nodes(args, wanted)
        wrapped = tuple_of(apply(*PAIRS[name], *args))
        found = tuple_of(gradients(wrapped, *inputs, cotangent=tuple(w.astype(np.float32) for w in cotangents)))
        assert {a.dtype for a in [*(y.value for y in wrapped), *found]} == {np.dtype(np.float32)}, name
        assert max(map(relative_error, found, by_hand)) <= 1e-4, name


@every_case
def test_forward_mode_agrees_with_the_hand_written_gradient(name, options):
    """w . (J v) = (J^T w) . v, through the pair and through elementary operations."""
    args, wanted, _, cotangents, by_hand = case(name, options)
    args, inputs = with_nodes(args, wanted)
    moves = [(node, np.asarray(normal(*node.shape, seed=5 + i))) for i, node in enumerate(inputs)]
    right = sum(np.sum(d * v) for d, (_, v) in zip(by_hand, moves))
    for outputs in (apply(*PAIRS[name], *args), LAYERS[name](*args)):
        left = sum(np.sum(w * directional(y, *moves)) for w, y in zip(cotangents, tuple_of(outputs)))
        scale = sum(np.linalg.norm(d) * np.linalg.norm(v) for d, (_, v) in zip(by_hand, moves))
        assert abs(left - right) <= LIMIT * scale


# ------------------------------------------------------------------------------------------------ objects of nn

def rng():
    return np.random.default_rng(3)


def classes(*shape, K=5):
    return np.random.default_rng(4).integers(0, K, shape)


def image_network():
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=1, groups=2, rng=rng()), nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
        nn.MaxPool2d((3, 2), stride=(2, 1), padding=1),
        nn.Residual(nn.Conv2d(4, 4, 3, padding=1, bias=False, rng=rng()), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
        nn.ConvTranspose2d(4, 3, (2, 3), stride=2, output_padding=1, rng=rng()), nn.Softplus(),
        nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Dropout(0.3, rng=rng()), nn.Flatten(),
        nn.Linear(135, 5, rng=rng()))


def rows_network():
    return nn.Sequential(
        nn.Linear(7, 11, rng=rng()), nn.BatchNorm1d(11, momentum=None), nn.Tanh(),
        nn.Residual(nn.LayerNorm(11), nn.Linear(11, 11, bias=False, rng=rng()), nn.Sigmoid()),
        nn.Residual(nn.LayerNorm(11, bias=False), nn.Identity()), nn.Linear(11, 5, rng=rng()), nn.Softmax())


def sequence_network(last):
    return nn.Sequential(
        nn.RNN(3, 5, nonlinearity="relu", bidirectional=True, rng=rng()), nn.LSTM(10, 7, num_layers=2, rng=rng()),
        nn.GRU(7, 2, reset_after=False, bias=False, rng=rng()), *([nn.LastStep()] if last else []),
        nn.Linear(2, 5, rng=rng()))


MODELS = {
    "images": (image_network, nn.CrossEntropyLoss, (3, 2, 7, 11), classes(3)),
    "rows": (rows_network, nn.MSELoss, (3, 7), normal(3, 5)),
    "LSTM, Linear": (lambda: nn.Sequential(nn.LSTM(3, 7, rng=rng()), nn.LastStep(), nn.Linear(7, 5, rng=rng())),
                     nn.CrossEntropyLoss, (2, 5, 3), classes(2)),
    "all recurrent": (lambda: sequence_network(True), nn.BCEWithLogitsLoss, (2, 5, 3), rng().random((2, 5))),
    "labels at each step": (lambda: sequence_network(False), nn.SequenceCrossEntropyLoss, (2, 5, 3),
                            classes(2, 5) - (classes(2, 5) == 3) * 4),
    "LeNet": (lambda: nn.LeNet((2, 4, 8), 5, (2, 3), 7, rng=rng()), nn.CrossEntropyLoss, (3, 2, 4, 8), classes(3)),
    "threads": (lambda: nn.DataParallel(nn.MLP([7, 3, 5], "tanh", rng=rng())), nn.CrossEntropyLoss, (3, 7), classes(3)),
    "MLP": (lambda: nn.MLP([7, 5, 3, 5], "softplus", rng=rng()), nn.CrossEntropyLoss, (3, 7), classes(3)),
    "long rows": (lambda: nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm((3, 5))), nn.MSELoss, (2, 3, 5),
                  normal(2, 3, 5, seed=8)),
    "means of images": (lambda: nn.Sequential(nn.GlobalAvgPool2d(), nn.Linear(2, 5, rng=rng())), nn.CrossEntropyLoss,
                        (3, 2, 7, 5), classes(3)),
    "words": (lambda: nn.Sequential(nn.Embedding(7, 3, rng=rng()), nn.GRU(3, 5, rng=rng())),
              nn.SequenceCrossEntropyLoss, classes(2, 6, K=7), classes(2, 6)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def built(name):
    """The model, its parameters all different and none 0 or 1, and a buffer of running statistics that is neither."""
    model, loss, shape, t = MODELS[name]
    model, x = model(), shape if isinstance(shape, np.ndarray) else normal(*shape)
    for i, p in enumerate(model.params.values()):
        p += 0.3 * normal(*p.shape, seed=20 + i)
    model.forward(x)
    return model, loss(), x, t


@every_model
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_whole_model_agrees_with_its_tape(name, training):
    model, loss, x, t = built(name)
    model.train(training)
    y = model.forward(x)
    value, dx = loss.forward(y, t), model.backward(loss.backward())
    params = {name: Node(p) for name, p in model.params.items()}
    inputs = {"x": Node(x), **params} if dx is not None else params        # words have no gradient
    z = by_tape(model, inputs.get("x", x), params)
    L = LOSSES[type(loss)](z, t)
    found = dict(zip(inputs, tuple_of(gradients(L, *inputs.values()))))
    assert relative_error(z.value, y) <= LIMIT and abs(L.value - value) <= LIMIT
    expected = model.grads if dx is None else {"x": dx, **model.grads}
    scale = max(np.abs(d).max() for d in expected.values())     # a bias before a normalisation has gradient 0, rounded
    assert list(found) == list(expected)
    for key, d in found.items():
        assert np.linalg.norm(d - expected[key]) <= LIMIT * max(np.linalg.norm(d), 0.01 * scale), key


@pytest.mark.parametrize("layer", [
    nn.RNN(3, 5, bidirectional=True, rng=rng()), nn.LSTM(3, 5, 2, bidirectional=True, forget_bias=1.0, rng=rng()),
    nn.GRU(3, 5, 2, batch_first=False, rng=rng())], ids=lambda layer: layer.name)
def test_a_recurrent_layer_with_states_and_lengths_agrees_with_its_tape(layer):
    N, T = 4, 5
    lengths = np.array([3, 5, 1, 3])
    x = normal(*((N, T, 3) if layer.batch_first else (T, N, 3)))
    states = [normal(layer.num_layers * layer.directions, N, 5, seed=i) for i in range(len(layer.states))]
    as_given = states[0] if len(states) == 1 else tuple(states)
    y, finals = layer.forward(x, as_given, lengths)
    dy, *dfinals = cotangents_of([y, *tuple_of(finals)])
    dx, dstates = layer.backward(dy, dfinals[0] if len(states) == 1 else tuple(dfinals))

    params, inputs = {name: Node(p) for name, p in layer.params.items()}, [Node(a) for a in (x, *states)]
    z, ends = recurrent(layer, inputs[0], params, tuple(inputs[1:]), lengths)
    found = gradients((z, *ends), *inputs, *params.values(), cotangent=(dy, *dfinals))
    assert max(relative_error(a.value, b) for a, b in zip((z, *ends), (y, *tuple_of(finals)))) <= LIMIT
    assert list(params) == list(layer.grads)
    assert max(map(relative_error, found, (dx, *tuple_of(dstates), *layer.grads.values()))) <= LIMIT


def test_every_class_of_nn_is_in_a_model_that_is_tried():
    bases = {nn.Layer, nn.Convolution, nn.Recurrent, nn.Activation, nn.Normalisation, nn.BatchNorm, nn.Loss}
    there = {c for c in vars(nn).values() if isinstance(c, type) and issubclass(c, (nn.Layer, nn.Loss))}
    tried = {type(module) for make, *_ in MODELS.values() for module in make().modules()}
    assert tried | {loss for _, loss, *_ in MODELS.values()} == there - bases


def test_a_layer_of_nn_can_be_applied_as_it_is():
    """A layer is a pair when its parameters are arguments."""
    layer = nn.LSTM(3, 7, rng=rng())

    def forward(x, *params):
        layer.params.update(zip(layer.params, params))
        y, memory = layer.run(x)
        return y, memory

    def backward(dy, memory):
        dx, grads = layer.run_back(dy, memory)
        return dx, *grads.values()
    x, w = normal(2, 5, 3), normal(2, 5, 7)
    nodes = list(map(Node, (x, *layer.params.values())))
    found = gradients(apply(forward, backward, *nodes), *nodes, cotangent=w)
    layer.forward(x)
    dx, _ = layer.backward(w)
    assert same_bits(found, (dx, *layer.grads.values()))


# ------------------------------------------------------------------------------------------------ adjoint states

def rnn_state(x, s, W_ih, W_hh, b):
    return LAYERS["rnn_step"](x, s, W_ih, W_hh, b)


def lstm_state(x, s, *weights):
    H = s.shape[1] // 2
    return concatenate(LAYERS["lstm_step"](x, s[:, :H], s[:, H:], *weights), 1)


def gru_state(x, s, *weights):
    return LAYERS["gru_step"](x, s, *weights)


def gru_before_state(x, s, *weights):
    return LAYERS["gru_before_step"](x, s, *weights)


# name: state equation, pair, gates, states, biases, options
RECURRENCES = {"RNN": (rnn_state, "rnn", 1, 1, 1, ()), "LSTM": (lstm_state, "lstm", 4, 2, 1, ()),
               "GRU": (gru_state, "gru", 3, 1, 2, ()),
               "GRU, reset before": (gru_before_state, "gru", 3, 1, 2, (False,))}


@pytest.fixture(params=RECURRENCES)
def recurrence(request):
    """Steps of one tape each, the loss's own derivative of each state, weights as nodes, gradients by BPTT."""
    N, T, D, H = 2, 19, 5, 3
    equation, name, gates, kinds, biases, options = RECURRENCES[request.param]
    x, initial = normal(N, T, D), [normal(N, H, seed=3 + i) for i in range(kinds)]
    weights = [normal(gates*H, D), 1.2 * normal(gates*H, H) / np.sqrt(H), *(normal(gates*H, seed=5 + i)
                                                                            for i in range(biases))]
    forward, backward = PAIRS[name]
    *outputs, cache = forward(x, *initial, *weights, *options)
    direct = cotangents_of(outputs)
    dx, *by_bptt = backward(*direct, cache)
    weights, s, steps = list(map(Node, weights)), np.concatenate(initial, 1), []
    for t in range(T):
        at, before = Node(x[:, t]), Node(s)
        after = equation(at, before, *weights)
        steps.append((at, before, after))
        s = after.value
    by_bptt = dx, np.concatenate(by_bptt[:kinds], 1), *by_bptt[kinds:]
    return steps, np.concatenate(direct, 2), weights, by_bptt


def test_adjoint_states_found_step_by_step_give_bptt(recurrence):
    """lambda_t = direct_t + J_(t+1)^T lambda_(t+1); each step gives its share of the weights."""
    steps, direct, weights, by_bptt = recurrence
    adjoint, dx, dweights = np.zeros_like(direct[:, 0]), [], [0.0] * len(weights)
    for t, (at, before, after) in reversed(list(enumerate(steps))):
        d, adjoint, *shares = gradients(after, at, before, *weights, cotangent=adjoint + direct[:, t])
        dx.insert(0, d)
        dweights = [total + share for total, share in zip(dweights, shares)]
    found = np.stack(dx, 1), adjoint, *dweights
    assert max(map(relative_error, found, by_bptt)) <= 1e-10


def test_adjoint_states_found_at_once_by_a_linear_system_give_bptt(recurrence):
    """(I - A)^T lambda = direct, where A holds each J_t below the diagonal."""
    steps, direct, weights, by_bptt = recurrence
    N, T, S = direct.shape
    A = np.tile(np.eye(T * S), (N, 1, 1))
    for t, (_, before, after) in enumerate(steps[1:], 1):
        for i, unit in enumerate(np.eye(S)):
            A[:, t*S + i, (t - 1)*S:t*S] = -gradients(after, before, cotangent=np.tile(unit, (N, 1)))
    adjoint = np.linalg.solve(A.transpose(0, 2, 1), direct.reshape(N, T * S, 1)).reshape(N, T, S)
    shares = [gradients(after, at, before, *weights, cotangent=adjoint[:, t])
              for t, (at, before, after) in enumerate(steps)]
    dx, dbefore, *dweights = zip(*shares)
    found = np.stack(dx, 1), dbefore[0], *map(sum, dweights)
    assert max(map(relative_error, found, by_bptt)) <= 1e-10


# ------------------------------------------------------------------------------------------------ published numbers

def test_the_example_of_micrograd():
    a, b = Node(-4.0), Node(2.0)
    c, d = a + b, a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + relu(b + a)
    d += 3 * d + relu(b - a)
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    da, db = gradients(g, a, b)
    assert f"{g.value:.4f} {da:.4f} {db:.4f}" == "24.7041 138.8338 645.5773"


def test_the_examples_of_cs231n():
    x, y, z = Node(-2.0), Node(5.0), Node(-4.0)
    assert [float(d) for d in gradients((x + y) * z, x, y, z)] == [-4, -4, 3]
    w, x = Node(np.array([2.0, -3.0, -3.0])), Node(np.array([-1.0, -2.0, 1.0]))
    dw, dx = gradients(sigmoid(w @ x), w, x)
    assert np.round(dx[:2], 4).tolist() == [0.3932, -0.5898] and np.round(dw, 4).tolist() == [-0.1966, -0.3932, 0.1966]
    f, x, y = staged()
    assert [f"{d:.10f}" for d in (f.value, *gradients(f, x, y))] == ["1.5456448841", "2.0595697956", "1.5922327515"]


def test_a_chain_of_squares_and_an_exponential():
    x = Node(0.5)
    assert gradients(exp(x**2)**2, x) == pytest.approx(3.297442541400256, rel=1e-15)


def staged():
    x, y = Node(3.0), Node(-4.0)
    return (x + sigmoid(y)) / (sigmoid(x) + (x + y)**2), x, y


# ------------------------------------------------------------------------------------------------ ordered derivatives

def test_the_example_of_werbos_has_direct_and_ordered_derivatives():
    z1 = Node(1.0)
    z2 = 4 * z1
    z3 = 3 * z1 + 5 * z2
    assert gradients(z3, z1) == 23 and gradients(z3, z2) == 5
    direct = 3 * Node(1.0) + 5 * z2.value
    assert gradients(direct, next(a for a in steps_to(direct)[0].args if isinstance(a, Node) and a.step is None)) == 3


def test_the_ordered_derivative_is_the_sum_over_later_nodes_of_ordered_times_direct():
    f, x, y = staged()
    nodes = {a.key: a for step in steps_to(f) for a in step.args if isinstance(a, Node)} | {f.key: f}
    assert len(nodes) >= 9
    ordered = dict(zip(nodes, gradients(f, *nodes.values())))
    for key in nodes:
        total = float(key == f.key) + sum(
            float(ordered[after.key] * rate) for after in nodes.values() for before, rate in rates(after)
            if before.key == key)
        assert abs(total - ordered[key]) <= 1e-15


# ------------------------------------------------------------------------------------------------ what is promised

def test_a_second_sweep_gives_the_same_bits_and_does_not_add():
    x, W, h, L = network()
    first = gradients(L, x, W, h)
    assert same_bits(first, gradients(L, x, W, h))
    assert all(d.any() for d in first)


def test_a_second_recording_gives_the_same_bits():
    (x, W, h, L), (x2, W2, h2, L2) = network(), network()
    assert same_bits([h.value, L.value, *gradients(L, x, W)], [h2.value, L2.value, *gradients(L2, x2, W2)])


def test_gradients_do_not_depend_on_what_else_is_asked():
    x, W, h, L = network()
    assert same_bits([gradients(L, x), gradients(L, W)], gradients(L, x, W))
    assert same_bits(gradients(L, W, x, W), [gradients(L, W), gradients(L, x), gradients(L, W)])
    assert gradients(L) == ()


def test_a_gradient_is_an_array_of_the_readers_own():
    a, b = Node(normal(3)), Node(normal(3, seed=2))
    w = normal(3, seed=3)
    kept, y = w.copy(), a + b
    da, db, dy = gradients(y, a, b, y, cotangent=w)
    for d in (da, db, dy):
        assert d.flags.writeable and d.flags.owndata
        d[:] = 0
    assert (w == kept).all()
    assert same_bits(gradients(y, a, b, cotangent=w), [kept, kept])


def test_gradients_are_linear_in_the_cotangent():
    x, W, h, L = network()
    w = normal(3, 7, seed=4)
    once, twice, none = (gradients(h, x, W, cotangent=factor * w) for factor in (1, 2, 0))
    assert same_bits(twice, [2 * d for d in once])
    assert not any(d.any() for d in none)
    assert same_bits(gradients(L, x, W, cotangent=2.0), [2 * d for d in gradients(L, x, W)])


def test_gradients_of_nodes_in_between_and_of_the_output_itself():
    x, W, h, L = network()
    assert relative_error(gradients(L, h), 2 * h.value / 21) <= 1e-15
    assert gradients(L, L) == 1
    assert gradients(x[0, 0], x).tolist() == np.eye(1, 15).reshape(3, 5).tolist()
    w = normal(3, 5, seed=2)
    assert same_bits([gradients(x, x, cotangent=w)], [w])


def test_the_gradient_of_what_the_output_does_not_depend_on_is_zero():
    x, W, h, L = network()
    other = Node(normal(2).astype(np.float32))
    d = gradients(L, other)
    assert d.shape == (2,) and d.dtype == np.float32 and not d.any()
    assert not gradients(h, L, cotangent=h.value).any()         # L comes later


def test_several_outputs_add_what_they_send_back():
    x, W, h, L = network()
    w = normal(3, 7, seed=4)
    dx, dW = gradients((h, L, h), x, W, cotangent=(w, 3.0, 2 * w))
    expected = [3 * a + 3 * b for a, b in zip(gradients(h, x, W, cotangent=w), gradients(L, x, W))]
    assert max(map(relative_error, (dx, dW), expected)) <= 1e-15


def test_an_output_of_one_entry_needs_no_cotangent():
    x = Node(normal(1, 1))
    assert gradients(x * 3, x).tolist() == [[3.0]]
    assert gradients((x * 3,), x).tolist() == [[3.0]]


def test_a_pair_with_several_outputs_of_which_one_is_used():
    shapes = (2, 5), (2, 3), (2, 3), (12, 5), (12, 3), (12,)
    args = [Node(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
    h, c = apply(lstm.lstm_step_forward, lstm.lstm_step_backward, *args)
    w = normal(2, 3, seed=6)
    _, _, cache = lstm.lstm_step_forward(*(a.value for a in args))
    zero = np.zeros((2, 3))
    assert same_bits(gradients(h, *args, cotangent=w), lstm.lstm_step_backward(w, zero, cache))
    assert same_bits(gradients(c, *args, cotangent=w), lstm.lstm_step_backward(zero, w, cache))
    both = gradients((h * c).sum(), *args)
    assert max(map(relative_error, both, lstm.lstm_step_backward(c.value, h.value, cache))) <= 1e-15


def test_an_output_that_is_not_used_sends_back_zeros_of_its_own_width():
    widths = []

    def backward(d, e, cache):
        widths.extend([d.dtype, e.dtype])
        return d + e
    x = Node(narrow(3))
    y, _ = apply(lambda x: (x + 0, x + 1, None), backward, x)
    assert (gradients(y.sum(), x) == 1).all() and widths == [np.float32, np.float32]


def test_an_argument_may_have_a_name_that_starts_with_d():
    def backward(dy, cache):
        """Shapes: dy (N) -> dd (N)"""
        return 2 * dy
    y = apply(lambda s, d: (s * d, None), backward, 2.0, Node(normal(3)))
    assert y.step.rule.wanted == (1,)


def test_constants_and_nodes_may_stand_side_by_side_in_a_pair():
    x, W, b = normal(3, 5), Node(normal(7, 5)), normal(7)
    y = apply(mlp.linear_forward, mlp.linear_backward, x, W, b)
    w = normal(3, 7, seed=2)
    assert same_bits([gradients(y, W, cotangent=w)], [w.T @ x])
    assert y.step.rule.name == "linear"


def test_a_readers_own_pair_needs_no_shapes_line():
    def scaled_forward(x, scale, options):
        assert options == {"plain": True}
        return x * scale, (x, scale)

    def scaled_backward(dy, cache):
        x, scale = cache
        return dy * scale, np.sum(dy * x)
    x, scale, w = Node(normal(3, 5)), Node(2.0), normal(3, 5, seed=2)
    y = apply(scaled_forward, scaled_backward, x, scale, {"plain": True})
    assert relative_error(gradients(y, x, cotangent=w), 2 * w) == 0
    assert relative_error(gradients(y, scale, cotangent=w), np.sum(w * x.value)) <= 1e-15
    constant = apply(scaled_forward, scaled_backward, x, normal(3, 5, seed=3)[0, 0:1], {"plain": True})
    refuses(ValueError, "must return gradients of shapes [(3, 5), (1,)], got [(3, 5), ()]", gradients, constant, x,
            cotangent=w)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_powers_at_zero(zero):
    x = Node(np.array([zero, 2.0]))
    assert gradients((x**0 + x**1 + x**2).sum(), x).tolist() == [1, 5]


def test_at_kinks_and_ties_the_stated_side_is_taken():
    x = Node(np.array([-1.0, 0.0, 2.0]))
    assert gradients(relu(x).sum(), x).tolist() == [0, 0, 1]
    a, b = Node(np.array([1.0, 2.0, 3.0])), Node(np.array([3.0, 2.0, 1.0]))
    assert [d.tolist() for d in gradients(maximum(a, b).sum(), a, b)] == [[0, 1, 1], [1, 0, 0]]


def test_nan_goes_through():
    x = Node(np.array([np.nan, 1.0]))
    assert np.isnan(maximum(x, np.array([1.0, np.nan])).value).all()
    for f in (exp, log, sqrt, tanh, sigmoid, relu):
        y = f(x)
        assert np.isnan(y.value).tolist() == [True, False]
        if f is not relu:
            assert np.isnan(gradients(y.sum(), x)).tolist() == [True, False]
    assert np.isnan((x * float("nan")).value).all() and np.isnan((np.nan + x).value).all()
    L = (x * x).sum()
    assert np.isnan(L.value) and np.isnan(gradients(L, x)).tolist() == [True, False]
    assert np.isnan(gradients(x * 2, x, cotangent=np.array([1.0, np.nan]))).tolist() == [False, True]
    assert same_bits([gradients(L, x)], [gradients(L, x)])      # an array with NaN is not taken for a changed one


def test_no_examples_give_empty_outputs_and_zero_gradients():
    x, W, b = Node(np.zeros((0, 5))), Node(normal(5, 3)), Node(normal(3))
    y = concatenate([tanh(x @ W + b), stack([b, b])[:0]])[:, ::2].T.reshape(2, -1) ** 2
    assert y.shape == (2, 0)
    dx, dW, db = gradients(maximum(y, 0.0).sum(), x, W, b)
    assert dx.shape == (0, 5) and dW.shape == (5, 3) and not dW.any() and not db.any()
    y = apply(mlp.linear_forward, mlp.linear_backward, x, Node(normal(3, 5)), b)
    assert gradients(y.sum(), b).tolist() == [0, 0, 0]
    assert x.mean(axis=1).shape == (0,) and (x @ np.zeros(5)).shape == (0,)
    with pytest.warns(RuntimeWarning):
        assert np.isnan(x.mean().value)


def test_the_given_arrays_and_the_values_stay_as_they_are():
    x = normal(3, 5)
    kept = x.copy()
    x, W, h, L = network(x)
    values = [a.value.copy() for a in (x, W, h, L)]
    gradients(L, x, W)
    assert x.value.base is None and same_bits([x.value], [kept])
    assert same_bits(values, [a.value for a in (x, W, h, L)])


def test_a_node_tells_what_it_holds_and_where_it_comes_from():
    x = Node(np.array([1.0, 2.0]))
    assert repr(x) == "Node([1., 2.], by hand)" and repr(x * 2) == "Node([2., 4.], by multiply)"
    assert x.step is None and (x * 2).step.rule.name == "multiply" and x.shape == (2,)
    assert repr(Node(0.5)) == "Node(0.5, by hand)"


def test_what_a_reader_calls_has_a_docstring():
    public = ["Node", "apply", "gradients", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "maximum", "matmul",
              "concatenate", "stack"]
    for name in public:
        function = getattr(autodiff, name)
        assert function.__doc__ and function.__name__ == name
        assert "shape" in function.__doc__.lower()
    assert all(getattr(Node, name).__doc__ for name in ("sum", "mean", "reshape", "transpose"))


# ------------------------------------------------------------------------------------------------ what is refused

def test_an_array_changed_in_place_is_refused():
    x, W, h, L = network()
    x.value[0, 0] += 1
    refuses(RuntimeError, "matmul: argument 0, an array of shape (3, 5), was changed in place after it was recorded, "
            "so the derivative is lost; write x = x + 1, not x += 1", gradients, L, W)
    x.value[0, 0] -= 1
    x, W, h, L = network()
    W.value[0] = 0
    refuses(RuntimeError, "matmul: argument 1, an array of shape (5, 7)", gradients, L, x)


def test_a_change_through_the_readers_own_name_and_through_a_view_is_seen():
    given = normal(3, 5)
    x, W, h, L = network(given)
    given[2, 4] = np.nextafter(given[2, 4], 9)
    refuses(RuntimeError, "matmul: argument 0", gradients, L, W)
    given = normal(6, 10)
    x, W, h, L = network(given[::2, ::2])
    given[1::2] = 0
    assert gradients(L, x).shape == (3, 5)                      # between the rows that were recorded
    given[4] = 0
    refuses(RuntimeError, "matmul: argument 0", gradients, L, W)


def test_a_change_before_a_second_use_is_seen():
    x = Node(normal(3))
    y = x * 2.0
    x.value[0] = 7
    z = x * 3.0
    refuses(RuntimeError, "multiply: argument 0", gradients, z.sum(), x)
    refuses(RuntimeError, "multiply: argument 0", gradients, (y + z).sum(), x)


def test_a_result_changed_in_place_is_refused():
    x, W, h, L = network()
    h.value *= 2
    refuses(RuntimeError, "multiply: argument 0, an array of shape (3, 7)", gradients, L, W)
    x, W, h, L = network()
    L.value[...] = 0
    refuses(RuntimeError, "divide: the result, an array of shape ()", gradients, L, W)


def test_a_constant_changed_in_place_is_refused_even_if_used_again_later():
    mask, x = normal(3, 5, seed=2), Node(normal(3, 5))
    y = x * mask
    mask[0] = 0
    refuses(RuntimeError, "multiply: argument 1, an array of shape (3, 5)", gradients, y.sum(), x)
    refuses(RuntimeError, "multiply: argument 1", gradients, (y + x * mask).sum(), x)
    t, z = np.array([0, 2, 1]), Node(normal(3, 5))
    L = apply(mlp.softmax_cross_entropy_forward, mlp.softmax_cross_entropy_backward, z, t)
    t[0] = 1
    refuses(RuntimeError, "softmax_cross_entropy: argument 1, an array of shape (3,)", gradients, L, z)


def test_a_forward_that_changes_its_argument_is_refused():
    def greedy(x):
        x *= 2
        return x + 0, None
    x = Node(normal(3))
    y = apply(greedy, lambda d, cache: 2 * d, x)
    refuses(RuntimeError, "greedy: argument 0, an array of shape (3,)", gradients, y.sum(), x)
    constant = normal(3)
    y = apply(lambda x, c: (x * greedy(c)[0], None), lambda d, cache: (d, d), Node(normal(3)), constant)
    refuses(RuntimeError, "<lambda>: argument 1, an array of shape (3,)", gradients, y.sum())


def test_a_changed_array_of_places_has_no_effect():
    x, places = Node(normal(3, 5)), np.array([0, 2])
    y = x[places, 1:]
    places[:] = 1
    assert gradients(y.sum(), x).sum(axis=1).tolist() == [4, 0, 4]


def test_a_backward_that_works_in_place_is_refused():
    def greedy(d, cache):
        d *= 2
        return d
    x, w = Node(normal(3, 5)), normal(3, 5, seed=2)
    refuses(ValueError, "read-only", gradients, apply(lambda x: (2 * x, None), greedy, x), x, cotangent=w)
    refuses(ValueError, "read-only", gradients, (apply(lambda x: (2 * x, None), greedy, x) * 2.0).sum(), x)
    assert w.flags.writeable


def masked(x, how):
    """A pair's forward whose cache holds arrays in some container."""
    mask = (x > 0) * 2.0
    return x * mask, how(mask, x)


@pytest.mark.parametrize("how, get", [
    (lambda m, x: m, lambda cache: cache), (lambda m, x: (1, (m, x)), lambda cache: cache[1][0]),
    (lambda m, x: [x, m], lambda cache: cache[1]), (lambda m, x: {"m": m}, lambda cache: cache["m"])])
def test_a_backward_that_writes_into_its_cache_is_refused_at_once(how, get):
    def greedy(d, cache):
        m = get(cache)
        m *= d
        return m
    x = Node(normal(7))
    y = apply(lambda x: masked(x, how), greedy, x)
    for _ in range(2):
        refuses(RuntimeError, "<lambda>: the cache, an array of shape (7,), was changed in place", gradients, y, x,
                cotangent=np.full(7, 3.0))
    y = apply(lambda x: masked(x, how), lambda d, cache: d * get(cache), x)
    assert same_bits([gradients(y, x, cotangent=normal(7))] * 2, [normal(7) * 2 * (x.value > 0)] * 2)


def test_a_changed_mask_or_place_in_a_cache_is_refused():
    for kind in (bool, int):
        def greedy(d, kept):
            kept[:] = 1
            return d * kept
        x = Node(normal(7))
        y = apply(lambda x, kind=kind: (x * (x > 0), (x > 0).astype(kind)), greedy, x)
        refuses(RuntimeError, "<lambda>: the cache, an array of shape (7,), was changed", gradients, y.sum(), x)


def test_a_backward_that_writes_into_its_argument_is_refused_before_others_read_it():
    def greedy(d, x):
        x *= 2
        return d * x
    x = Node(normal(3))
    y = (x * x + apply(lambda x: (x * x, x), greedy, x)).sum()
    refuses(RuntimeError, "<lambda>: argument 0, an array of shape (3,), was changed", gradients, y, x)


def test_one_room_for_all_caches_is_refused_and_one_for_all_gradients_is_copied():
    room = np.zeros(3)

    def forward(x):
        room[:] = 2 * x
        return x * x, room

    def backward(d, factor):
        room[:] = factor * d
        return room
    a, b = Node(normal(3)), Node(normal(3, seed=2))
    y = apply(forward, lambda d, twice: d * twice, a) + apply(forward, lambda d, twice: d * twice, b)
    refuses(RuntimeError, "forward: the cache, an array of shape (3,), was changed", gradients, y.sum(), a)
    y = 5 * apply(lambda x: (2 * x, 2), backward, a) + apply(lambda x: (3 * x, 3), backward, b)
    assert [d.tolist() for d in gradients(y.sum(), a, b)] == [[10] * 3, [3] * 3]


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_or_a_masked_array_from_backward_is_refused():
    """A matrix would turn the * of the next step into @."""
    x = Node(normal(3, 3))
    for kind in (np.matrix, np.ma.MaskedArray):
        y = apply(lambda x: (2 * x, None), lambda d, cache, kind=kind: kind(2 * d), x * x)
        refuses(TypeError, f"the backward of <lambda> must return plain arrays, got {kind.__name__}", gradients,
                y.sum(), x)


def test_a_changed_list_or_dictionary_of_options_is_refused():
    x, options, shape = Node(normal(3, 5)), {"by": [2.0]}, [5, 3]
    y = apply(lambda x, o: (x * o["by"][0], o), lambda d, o: d * o["by"][0], x, options)
    z = x.reshape(shape)
    assert (gradients(y.sum(), x) == 2).all() and directional(z, (x, normal(3, 5))).shape == (5, 3)
    options["by"][0] = 3.0
    shape.reverse()
    refuses(RuntimeError, "<lambda>: argument 1, a dict, was changed in place", gradients, y.sum(), x)
    refuses(RuntimeError, "reshape: argument 1, a tuple, was changed in place", directional, z, (x, normal(3, 5)))


def test_a_value_turned_round_is_seen():
    for turn in (np.transpose, lambda a: a[::-1]):
        x = Node(normal(3, 3))
        y = (x * normal(3, 3)).sum()
        x.value = turn(x.value)
        refuses(RuntimeError, "multiply: argument 0, an array of shape (3, 3)", gradients, y, x)


def test_a_missing_cotangent_is_refused():
    x, W, h, L = network()
    refuses(ValueError, "gradients: the output has shape (3, 7), not a single number: give a cotangent of that shape, "
            "or make one number of it by output.sum()", gradients, h, x)
    refuses(ValueError, "the output has shape () and (), not a single number", gradients, (L, L), x)
    refuses(ValueError, "gradients: 2 outputs need as many cotangents in a tuple, got 1", gradients, (L, L), x,
            cotangent=1.0)
    refuses(ValueError, "gradients: 1 outputs need as many cotangents in a tuple, got 2", gradients, L, x,
            cotangent=(1.0, 1.0))


@pytest.mark.parametrize("cotangent, kind, words", [
    (normal(7), ValueError, "gradients: cotangent must have the shape (3, 7) of its node, got (7,)"),
    (normal(7, 3), ValueError, "must have the shape (3, 7) of its node, got (7, 3)"),
    (1.0, ValueError, "must have the shape (3, 7) of its node, got ()"),
    (normal(3, 7).astype(np.float32), TypeError, "gradients: cotangent must be a NumPy array of float64, got float32"),
    (normal(3, 7).astype(int), TypeError, "must be a NumPy array of float64, got int64"),
    (normal(3, 7).tolist(), TypeError, "must be a NumPy array of float64, got list"),
    (Node(normal(3, 7)), TypeError, "must be a NumPy array of float64, got Node"),
], ids=str)
def test_a_cotangent_that_does_not_fit_is_refused(cotangent, kind, words):
    x, W, h, L = network()
    refuses(kind, words, gradients, h, x, cotangent=cotangent)


@pytest.mark.parametrize("value, got", [
    (np.arange(3), "got int64"), (3, "got int"), ([1.0], "got list"), (np.ones(2, np.float16), "got float16"),
    (np.ones(2, complex), "got complex128"), (np.ones(2, bool), "got bool"), (None, "got NoneType"),
    (np.ma.ones(2), "got MaskedArray"), (Node(1.0), "got Node")], ids=lambda value: str(value))
def test_a_node_of_anything_but_floats_is_refused(value, got):
    refuses(TypeError, "Node: value must be a NumPy array of float32 or float64, got", Node, value)
    refuses(TypeError, got, Node, value)


@pytest.mark.parametrize("operate", [
    lambda x, y: x + y, lambda x, y: y - x, lambda x, y: x * y, lambda x, y: x / y, lambda x, y: x @ y.T,
    lambda x, y: y @ x.T, maximum, lambda x, y: concatenate([x, y]), lambda x, y: stack([x, y]),
    lambda x, y: apply(lambda x, y: (x + y, None), lambda d, cache: (d, d), x, y)])
def test_float32_beside_float64_is_refused(operate):
    x, words = Node(normal(3, 5)), "arrays of float32 and float64 meet; convert one by astype"
    refuses(TypeError, words, operate, x, narrow(3, 5))
    refuses(TypeError, words, operate, x, Node(narrow(3, 5)))


@pytest.mark.parametrize("operand, got", [
    (np.arange(5), "got int64"), (np.ones(5, bool), "got bool"), ([1.0] * 5, "got list"), (None, "got NoneType"),
    (np.True_, "got bool"), (1j, "got complex"), ("1", "got str")], ids=str)
def test_an_operand_of_anything_but_floats_is_refused(operand, got):
    for operate in (lambda x, a: x * a, lambda x, a: x + a, lambda x, a: a - x, maximum, matmul,
                    lambda x, a: concatenate([x, a])):
        with pytest.raises(TypeError, match="an operand must be a NumPy array of float32 or float64, " + got):
            operate(Node(normal(3, 5)), operand)


@pytest.mark.parametrize("function", [
    np.exp, np.asarray, np.array, np.sum, np.mean, lambda x: np.hypot(x, x), lambda x: np.concatenate([x, x]),
    lambda x: np.dot(x, x), lambda x: np.where(True, x, x), lambda x: np.reshape(x, (5, 3)), lambda x: np.stack([x]),
    lambda x: np.maximum(np.ones((3, 5)), x)])
def test_a_function_of_numpy_is_refused(function):
    with pytest.raises(TypeError):
        function(Node(normal(3, 5)))


def test_the_errors_say_what_to_write():
    x = Node(normal(3, 5))
    refuses(TypeError, "NumPy's functions leave no record: use those of autodiff", np.asarray, x)
    refuses(TypeError, "NumPy's functions leave no record: use those of autodiff", np.exp, x)
    refuses(TypeError, "leave no record", np.multiply.outer, x, x)
    refuses(TypeError, "leave no record", np.add, np.ones(5), x, out=np.ones((3, 5)))
    refuses(TypeError, "a recorded array must not change; make a new one, by concatenate or stack", x.__setitem__, 0, 1)
    refuses(TypeError, "power: the exponent must be a number, got Node; write exp(p * log(x))", lambda: x**x)
    refuses(TypeError, "power: the exponent must be a number, got ndarray", lambda: x**np.ones(5))
    refuses(TypeError, "gradients: expected a Node, got ndarray", gradients, x.sum(), normal(3))
    refuses(TypeError, "gradients: expected a Node, got list", gradients, [x.sum()], x)
    refuses(TypeError, "got Node", mlp.tanh_forward, x)
    refuses(TypeError, "apply: the backward of mse has no gradient of argument 1; pass its .value", apply,
            mlp.mse_forward, mlp.mse_backward, x, Node(normal(3, 5)))
    with pytest.raises(TypeError):
        2**x
    with pytest.raises(TypeError):
        bool(x > 0)
    with pytest.raises(TypeError):
        float(x)


@pytest.mark.parametrize("ask", [
    bool, lambda x: x or 1.0, lambda x: not x, lambda x: x == Node(2.0), lambda x: x != 2.0, lambda x: 2.0 == x,
    lambda x: x in [Node(2.0)], lambda x: 2.0 in x.reshape(1), lambda x: x * (x == 2.0)])
def test_a_node_has_no_truth_and_equals_nothing(ask):
    """It would be the object that is compared, not its value: x * (x == 2) would be x * False."""
    refuses(TypeError, "a node is neither true nor false nor equal to anything: compare its .value", ask, Node(2.0))


def test_a_node_may_still_be_a_key_and_be_found_by_itself():
    x, y = Node(2.0), Node(2.0)
    assert {x: 1, y: 2}[y] == 2 and x in [x, y]


def test_a_number_has_no_rows():
    for go_through in (list, sum):                              # the sum of no rows would be 0
        refuses(TypeError, "a number has no rows to go through", go_through, Node(2.0))
    assert list(Node(np.zeros((0, 3)))) == [] and [row.shape for row in Node(np.zeros((2, 0)))] == [(0,), (0,)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps, lambda x: copy.deepcopy({"x": [x]})])
def test_a_copy_of_a_node_is_refused(copied):
    """It would have the same key, and its gradient would be added to that of the first."""
    for x in (Node(2.0), Node(2.0) * 3.0):
        refuses(TypeError, "a copy would count as the same node; make a new one of a copy of .value", copied, x)


@pytest.mark.parametrize("p", [np.float32(0.1), np.float16(0.1), np.int8(-128), np.uint8(1), np.int64(3)], ids=repr)
def test_an_exponent_of_numpy_is_a_number_like_any_other(p):
    x = Node(np.array([1.5]))
    assert same_bits([(x**p).value, gradients(x**p, x)], [(x**p.item()).value, gradients(x**p.item(), x)])


def test_a_matrix_product_with_a_number_is_refused_as_by_numpy():
    for a, b in ((Node(normal(3, 1)), 2.0), (2.0, Node(normal(1, 3))), (Node(2.0), Node(normal(3)))):
        with pytest.raises(ValueError):
            matmul(a, b)


def test_one_array_too_many_is_refused_and_stays_as_it_is():
    out = normal(3)
    with pytest.raises(TypeError):
        exp(Node(normal(3)), out)
    assert (out == normal(3)).all()


@pytest.mark.parametrize("returned, words", [
    (lambda x: x * 2, "forward must return (outputs..., cache), got ndarray"),
    (lambda x: (x * 2,), "forward must return (outputs..., cache), got tuple"),
    (lambda x: [x * 2, None], "forward must return (outputs..., cache), got list"),
    (lambda x: (x > 0, None), "outputs must have the width of the arguments, float64; got bool"),
    (lambda x: (x.astype(np.float32), None), "outputs must have the width of the arguments, float64; got float32"),
    (lambda x: (x, np.arange(2), None), "outputs must have the width of the arguments, float64; got float64, int64")])
def test_a_forward_that_returns_something_else_is_refused(returned, words):
    refuses(TypeError, "<lambda>: " + words, apply, returned, lambda *args: None, Node(normal(3, 5)))


@pytest.mark.parametrize("returned, got", [
    (lambda d, x: (d @ x).T, "[(5, 3)]"), (lambda d, x: None, "[None]"), (lambda d, x: (d @ x, d), "[(3, 5), (3, 3)]"),
    (lambda d, x: (), "[]"), (lambda d, x: 0.0, "[()]")])
def test_a_backward_that_returns_something_else_is_refused(returned, got):
    x = Node(normal(3, 5))
    y = apply(lambda x: (x @ x.T, x), returned, x)
    refuses(ValueError, f"the backward of <lambda> must return gradients of shapes [(3, 5)], got {got}", gradients,
            y.sum(), x)


def test_a_backward_without_return_is_refused_even_for_a_number():
    x = Node(2.0)
    y = apply(lambda x: (x * x, x), lambda d, x: None, x)
    refuses(ValueError, "must return gradients of shapes [()], got [None]", gradients, y, x)


# ------------------------------------------------------------------------------------------------ large, many, gone

@pytest.fixture
def without_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def depth_of_calls():
    frame, depth = sys._getframe(), 0
    while frame:
        frame, depth = frame.f_back, depth + 1
    return depth


def test_a_sweep_does_not_call_itself():
    """1,000 steps where a recursion would end after 100."""
    limit = sys.getrecursionlimit()
    h = x = Node(0.5)
    sys.setrecursionlimit(depth_of_calls() + 100)
    try:
        for _ in range(500):
            h = h * 1.0 + 0.0
        assert gradients(h, x) == 1 and directional(h, (x, 3.0)) == 3
    finally:
        sys.setrecursionlimit(limit)


def test_a_chain_of_100_000_steps_is_found_in_order_and_freed(without_collector):
    x = Node(0.5)
    _, rule, _, outputs, cache, checksums = (-x).step
    h, numbers = x, range(100_000)
    for number in numbers:
        h = Node(x.value, Step(number, rule, (h,), outputs, cache, checksums))
    assert [step.number for step in steps_to(h)] == list(numbers)
    first = weakref.ref(steps_to(h)[1].args[0])
    assert first() is not None
    del h
    assert first() is None


def test_a_sweep_looks_at_each_array_once_and_a_docstring_is_read_once(monkeypatch):
    looked, x = [], Node(normal(3))
    y = (x * x * x + x).sum()
    monkeypatch.setattr(autodiff, "checksum", lambda array, checksum=autodiff.checksum: looked.append(array)
                        or checksum(array))
    gradients(y, x)
    arrays = [id(array) for array in looked if isinstance(array, np.ndarray)]
    assert len(arrays) == len(set(arrays)) == 5                 # x, x x, x x x, x x x + x and the sum
    looked.clear()
    assert (x * x).shape == (3,) and len([a for a in looked if isinstance(a, np.ndarray)]) == 1     # x was looked at
    hits = autodiff.documented.cache_info().hits
    for _ in range(2):
        apply(mlp.tanh_forward, mlp.tanh_backward, x.reshape(1, 3))
    assert autodiff.documented.cache_info().hits >= hits + 1


def test_two_threads_that_record_and_sweep_at_once_give_the_same_bits():
    def work(seed, steps=60):
        x, W = Node(normal(3, 5, seed=seed)), Node(normal(5, 5, seed=seed))
        h = x
        for _ in range(steps):
            h = tanh(h @ W + x)
        return gradients((h * h).sum(), x, W)
    alone, found, ready = [work(seed) for seed in range(4)], {}, threading.Barrier(4)

    def thread(seed):
        ready.wait()
        found[seed] = [work(seed) for _ in range(3)]
    threads = [threading.Thread(target=thread, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(same_bits(again, alone[seed]) for seed in range(4) for again in found[seed])


def test_threads_may_sweep_one_record():
    x, W, h, L = network()
    expected, found = gradients(L, x, W), []
    threads = [threading.Thread(target=lambda: found.append(gradients(L, x, W))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8 and all(same_bits(d, expected) for d in found)


def test_memory_is_freed_with_the_output_without_the_collector(without_collector):
    class Watched:
        pass

    def forward(x):
        watched.append(Watched())
        return x * 2, watched[-1]
    watched, x = [], Node(normal(3))
    y = tanh(apply(forward, lambda d, cache: 2 * d, x)).sum()
    gradients(y, x)
    directional(y * 2.0, (y, 1.0))
    seen = weakref.ref(watched.pop()), weakref.ref(y.step.args[0])
    assert all(reference() is not None for reference in seen)
    del y
    assert all(reference() is None for reference in seen)


def test_functions_of_the_readers_own_are_not_kept():
    def make():
        def backward(d, cache):
            return 2 * d
        return weakref.ref(backward), apply(lambda x: (2 * x, None), backward, Node(normal(3)))
    reference, y = make()
    assert reference() is not None
    del y
    gc.collect()
    assert reference() is None
