"""Gradient checks on trial: strong ones and weak ones, each asked about an exhibit of the museum.

A check takes a layer's forward function and answers True if something is wrong. It looks at the layer as it is now:
inside `museum.on_show` at the variant, outside at ours, where every check must answer False.
"""

import inspect
import sys
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from . import data, nn, norm, optim
from .fast import off
from .gradcheck import (
    GradientError,
    central_difference,
    check_adjoint,
    check_gradients,
    cosine,
    on_grid,
    relative_error,
)
from .museum import changed_source, on_show
from .shapes import build_inputs, parse_shapes, shape_of, sizes_found


SIZES = {"N": 4, "T": 5, "D": 2, "H": 3, "K": 7, "C": 3, "F": 5, "I": 6, "J": 4, "R": 3, "S": 2, "V": 6}
WINDOWS = {"N": 2, "kernel_size": (3, 2), "stride": (2, 1), "padding": 1}       # they overlap, and do not tile
EIGHT = {"avg_pool2d_forward": {"kernel_size": (4, 2)}}         # an eighth is exact
NICE = {"h0": 0, "c0": 0, "h_prev": 0, "c_prev": 0, "b": 0, "b_ih": 0, "b_hh": 0, "gamma": 1, "beta": 0,
        "words": (0, 1, 2)}
PARAMETERS = {"W", "b", "W_ih", "W_hh", "b_ih", "b_hh", "gamma", "beta"}
AFFINE = {"linear_forward": ("x", "W", "b"), "conv2d_forward": ("x", "W", "b"),
          "avg_pool2d_forward": ("x",), "embedding_forward": ("W",)}            # in each of these alone
WRONG = (GradientError, ArithmeticError, LookupError, ValueError)       # what a check, or a variant, may raise


# ------------------------------------------------------------------------------------------------ a layer, and inputs

def pair_of(forward):
    """A forward function and its backward function."""
    return forward, getattr(sys.modules[forward.__module__], forward.__name__.replace("_forward", "_backward"))


def sizes_of(forward):
    """Sizes and options for a forward function: off their defaults, and different wherever they meet."""
    return SIZES | (WINDOWS if "2d" in forward.__name__ else {}) | EIGHT.get(forward.__name__, {})


def random_inputs(forward):
    return build_inputs(forward, np.random.default_rng(0), sizes_of(forward))


def nice_inputs(forward):
    """A batch of one, square arrays, default options; states and biases 0, gamma 1, no word twice."""
    N = 3 if forward is norm.batch_norm_forward else 1          # it refuses a batch of one
    args = build_inputs(forward, np.random.default_rng(0), dict.fromkeys("TDHKIJV", 3) | dict.fromkeys("CFRS", 2)
                        | {"N": N})
    return [np.full_like(a, NICE[name]) if name in NICE else a
            for name, a in zip(inspect.signature(forward).parameters, args)]


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def run(forward, args):
    """(random cotangents, cache) of one forward pass."""
    *outputs, cache = forward(*args)
    rng = np.random.default_rng(1)
    return [rng.standard_normal(np.shape(y)) for y in outputs], cache


def gradients(forward, cotangents, cache):
    """{name: gradient}, as backward returns them."""
    _, backward = pair_of(forward)
    return dict(zip([a.name for a in parse_shapes(backward)[1]], as_tuple(backward(*cotangents, cache))))


# ------------------------------------------------------------------------------------------------ the checks

def fails(forward, backward, args, **options):
    """True if `check_gradients` finds a wrong gradient, or the functions do not run."""
    try:
        check_gradients(forward, backward, *args, **options)
    except WRONG:
        return True
    return False


def shapes(layer):
    """Every gradient has the shape of its variable."""
    *outputs, _ = layer(*random_inputs(layer))
    sizes, got = sizes_found(layer, outputs, sizes_of(layer)), gradients(layer, *run(layer, random_inputs(layer)))
    return any(np.shape(got[a.name]) != shape_of(a, sizes) for a in parse_shapes(pair_of(layer)[1])[1])


def ones(layer):
    """Central differences of the sum of all outputs: every cotangent is 1."""
    return fails(*pair_of(layer), random_inputs(layer), method="central", rng=SimpleNamespace(standard_normal=np.ones))


def nice(layer):
    """Central differences, random cotangents, nice inputs."""
    return fails(*pair_of(layer), nice_inputs(layer), method="central")


def parameters(layer):
    """The gradients of weights and biases alone, layer by layer; not those of inputs and states."""
    forward, backward = pair_of(layer)
    names = [a.name[1:] for a in parse_shapes(backward)[1]]
    kept = [k for k, name in enumerate(names) if name in PARAMETERS]
    return bool(kept) and fails(forward, lambda *given: tuple(as_tuple(backward(*given))[k] for k in kept),
                                random_inputs(layer), wrt=[names[k] for k in kept])


def single(a):
    """An array of floats in float32; anything else as it is."""
    return np.float32(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a


def rough(layer):
    """Central differences of a float32 forward pass, step and limit 1e-2; the rest as it should be."""
    args, names = list(map(single, random_inputs(layer))), list(inspect.signature(layer).parameters)
    cotangents, cache = run(layer, args)
    return any(relative_error(g, central_difference(lambda *given: layer(*map(single, given)), args,
                                                    names.index(name[1:]), cotangents, 1e-2)) > 1e-2
               for name, g in gradients(layer, cotangents, cache).items())


def complex_step(layer):
    """`check_gradients` as it stands: complex step, random cotangents, random inputs, all sizes different."""
    return fails(*pair_of(layer), random_inputs(layer))


def adjoint(layer):
    """<w, f(x + v) - f(x)> == <gradient, v>, exactly, in each argument; None unless affine in them."""
    if layer.__name__ not in AFFINE:
        return None
    rng = np.random.default_rng(0)
    args = [on_grid(rng, a.shape) if np.asarray(a).dtype.kind == "f" else a for a in random_inputs(layer)]
    try:
        for wrt in AFFINE[layer.__name__]:
            check_adjoint(*pair_of(layer), *args, wrt=wrt)
    except WRONG:
        return True
    return False


def twice(layer):
    """Backward, called again with the same cache, gives the same bits."""
    cotangents, cache = run(layer, random_inputs(layer))
    first, second = ([g.tobytes() for g in gradients(layer, cotangents, cache).values()] for _ in range(2))
    return first != second


CHECKS = {"shapes": shapes, "parameters only": parameters, "nice numbers": nice, "cotangent 1": ones,
          "float32, 1e-2": rough, "check_gradients": complex_step, "exact adjoint": adjoint, "backward twice": twice}


def wrong_labels(exhibit):
    """What the ledger says: the labels, in reading order, whose line does not compute its statement.

    The first is the broken one, if it has a label; but round a loop over time one error reaches lines above it, too.
    "?" at the end: what the function returns is wrong, or it does not run as the statements do.
    """
    from .equations import ledger
    of = next(of for of in map(ledger.family, ledger.FAMILIES) if of.module.__name__ == exhibit.function.__module__)
    own = [pair for pair in of.pairs if exhibit.function in (pair.forward_function, pair.backward_function)]
    of = of._replace(source=changed_source(exhibit))
    for kinks in (False, True):                                 # ties, if random numbers do not show it
        wrong = set().union(*(_wrong_statements(ledger, of, pair, kinks) for pair in own or of.pairs))
        if wrong:
            break
    return [label for _, label in sorted(wrong)]


def _wrong_statements(ledger, of, pair, kinks):
    try:
        this = ledger.run(of, pair, np.random.default_rng(0), of.sizes[0], kinks)
        return ({(int(s.label.split("-")[1]), s.label) for s in pair.statements
                 if _differs(ledger.coded_value(pair, s, this), this.values[s.name])}
                | {(np.inf, "?") for name, value in this.returned.items() if _differs(value, this.values[name])})
    except ledger.LedgerError:
        return {(np.inf, "?")}


def _differs(value, expected):
    return np.shape(value) != np.shape(expected) or relative_error(value, expected) > 1e-12


# ------------------------------------------------------------------------------------------------ how wrong it is

class Wrong(NamedTuple):
    """A gradient beside the true one."""
    cosine: float
    error: float


def beside(exhibit, layer=None):
    """{name: (wrong, right)} of the gradients of a layer, of the exhibit's unless another is given.

    Inputs and cotangents are the same, and random. Empty if an output changes its shape.
    """
    layer = layer or exhibit.layer
    cotangents, cache = run(layer, random_inputs(layer))
    right = gradients(layer, cotangents, cache)
    with on_show(exhibit):
        given, cache = run(layer, random_inputs(layer))
        if [w.shape for w in given] != [w.shape for w in cotangents]:
            return {}
        wrong = gradients(layer, cotangents, cache)
    return {name: (wrong[name], right[name]) for name in right}


def how_wrong(exhibit):
    """{name: Wrong} for each gradient of the exhibit's layer."""
    return {name: Wrong(cosine(*pair), relative_error(*pair)) for name, pair in beside(exhibit).items()}


def report(exhibit, layer=None):
    """A line for each gradient: right, or which of its rows are wrong."""
    for name, (wrong, right) in beside(exhibit, layer).items():
        rows = np.flatnonzero([relative_error(*pair) > 1e-12 for pair in zip(wrong, right)])
        some = f"wrong in rows {', '.join(map(str, rows))} of {len(right)}"
        print(f"{name:8}", "right" if not rows.size else "wrong in all rows" if len(rows) == len(right) else some)


# ------------------------------------------------------------------------------------------------ a small training

def two_layers(rng):
    return nn.MLP([64, 32, 10], "tanh", rng=rng)


def with_batch_norm(rng):
    return nn.Sequential(nn.Linear(64, 32, rng=rng), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10, rng=rng))


def to_probabilities(rng):
    return nn.Sequential(*two_layers(rng), nn.Softmax())


def convolutional(rng):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                         nn.Conv2d(4, 8, 3, padding=1, rng=rng), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10, rng=rng))


def averaging(rng):
    return nn.Sequential(nn.Conv2d(1, 16, 3, rng=rng), nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.GlobalAvgPool2d(),
                         nn.Linear(16, 10, rng=rng))


def of_grey_levels(rng):
    return nn.Sequential(nn.Embedding(17, 4, rng=rng), nn.Flatten(), nn.Linear(256, 10, rng=rng))


def recurrent(kind, layers):
    return lambda rng: nn.Sequential(kind(8, 16, layers, rng=rng), nn.LastStep(), nn.Linear(16, 10, rng=rng))


def at_every_step(rng):
    return nn.Sequential(nn.RNN(8, 16, rng=rng), nn.Linear(16, 10, rng=rng))


MODELS = {                                                      # model, loss, learning rate
    "linear_forward": (two_layers, nn.CrossEntropyLoss, 0.1),
    "softmax_forward": (to_probabilities, nn.MSELoss, 2.0),
    "mse_forward": (two_layers, nn.MSELoss, 0.1),
    "conv2d_forward": (convolutional, nn.CrossEntropyLoss, 0.1),
    "avg_pool2d_forward": (averaging, nn.CrossEntropyLoss, 1.0),
    "max_pool2d_forward": (convolutional, nn.CrossEntropyLoss, 0.1),
    "batch_norm_forward": (with_batch_norm, nn.CrossEntropyLoss, 0.1),
    "embedding_forward": (of_grey_levels, nn.CrossEntropyLoss, 0.02),
    "rnn_forward": (recurrent(nn.RNN, 2), nn.CrossEntropyLoss, 0.1),
    "lstm_forward": (recurrent(nn.LSTM, 1), nn.CrossEntropyLoss, 0.5),
    "gru_forward": (recurrent(nn.GRU, 1), nn.CrossEntropyLoss, 0.3),
    "sequence_cross_entropy_forward": (at_every_step, nn.SequenceCrossEntropyLoss, 0.1),
}


class Training(NamedTuple):
    losses: list
    grads: np.ndarray                                           # all of the first step, one after the other


@off()                                                          # a variant and ours differ in one line alone
def train(layer, steps=20, seed=0):
    """A small network with this layer learns 60 digits, all at once; SGD with momentum 0.9."""
    model, loss, lr = MODELS[layer.__name__]
    model, loss, digits = model(np.random.default_rng(seed)), loss(), data.load_digits()
    x, t = digits.x_train[:60], digits.t_train[:60]
    kinds = [type(part) for part in model]
    x = x.reshape(-1, 1, 8, 8) if nn.Conv2d in kinds else x if kinds[0] is nn.Linear else x.reshape(-1, 8, 8)
    x = np.rint(16 * x).astype(int) if kinds[0] is nn.Embedding else x
    if isinstance(loss, nn.MSELoss):
        t = data.one_hot(t, 10)
    elif isinstance(loss, nn.SequenceCrossEntropyLoss):
        t = np.repeat(t[:, None], 8, axis=1)
    optimizer, losses, first = optim.SGD(model, lr, momentum=0.9), [], None
    for _ in range(steps):
        losses.append(loss.forward(model.forward(x), t))
        model.backward(loss.backward())
        first = np.concatenate([np.ravel(g) for g in model.grads.values()]) if first is None else first
        optimizer.step()
    losses.append(loss.forward(model.forward(x), t))
    return Training(losses, first)
