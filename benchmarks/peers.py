"""Who is measured: ours here, the others in `frameworks`. Each peer makes of a workload and its data a `step()`.

A step goes forward and backward once. It returns the gradients of the input and of all parameters, [dx, *dparams], in
the peer's own kind of array.
"""

import numpy as np

from backprop_lib import cnn, gradcheck, lstm, mlp, nn, rnn
from backprop_lib.fast import off, tuned
from backprop_lib.fast.convolution import batch_first, batch_last

from . import frameworks
from .products import products


PAIRS = {"linear": (mlp, "linear"), "relu": (mlp, "relu"), "sigmoid": (mlp, "sigmoid"), "conv": (cnn, "conv2d"),
         "pool": (cnn, "max_pool2d"), "flatten": (cnn, "flatten"), "rnn": (rnn, "rnn"), "lstm": (lstm, "lstm"),
         "loss": (mlp, "softmax_cross_entropy")}


def link(layer, workload, data):
    """The two functions of a layer, and what they take besides: the twins, where there are some and they are on.

    Returns (forward, backward, what follows x, what follows the parameters, what follows dy).
    """
    (module, name), kind = PAIRS[layer[0]], layer[0]
    forward, backward = (tuned(getattr(module, f"{name}_{way}")) for way in ("forward", "backward"))
    if kind in ("rnn", "lstm"):
        state = np.zeros((len(data.x), layer[2]), data.x.dtype)
        two = kind == "lstm"
        return forward, backward, [state] * (2 if two else 1), [], [np.zeros_like(data.target)] if two else []
    after = {"conv": [1, layer[-1]], "pool": [layer[-1]], "loss": [data.target]}
    return forward, backward, [], after.get(kind, []), []


def chain(workload, data):
    """The pure functions, one after the other: forward(x, params) and backward(caches)."""
    layers = workload.layers + ((("loss",),) if workload.classes else ())
    links = [link(layer, workload, data) for layer in layers]

    def forward(x, params):
        caches = []
        for (function, _, before, after, _), own in zip(links, [*params, []]):
            if len(own) == 4:                                   # a recurrent layer: our functions have one bias
                own = [*own[:2], own[2] + own[3]]
            x, *_, cache = function(x, *before, *own, *after)
            caches.append(cache)
        return x, caches

    def backward(caches):
        dy, gradients = 1.0 if workload.classes else data.target, []
        for (_, function, before, _, more), cache in zip(links[::-1], caches[::-1]):
            returned = function(dy, *more, cache)
            dy, *dparams = returned if isinstance(returned, tuple) else (returned,)
            if before:
                dparams = [*dparams[-3:], dparams[-1]]          # both biases; the initial states are constants
            gradients = dparams + gradients
        return [dy, *gradients]
    return forward, backward


def handed_on(workload, data):
    """Images as a tuned layer hands them on, examples last in memory, if one layer is measured and not a network."""
    if data.x.ndim != 4 or workload.classes:
        return data
    return data._replace(x=batch_first(batch_last(data.x)), target=batch_first(batch_last(data.target)))


def functions(workload, data):
    forward, backward = chain(workload, data)
    return lambda: backward(forward(data.x, data.params)[1])


def fast(workload, data):
    """The functions of `backprop_lib.fast`, and readable ones where there is no twin."""
    return functions(workload, handed_on(workload, data))


def readable(workload, data):
    """The functions as they stand in the notebooks."""
    with off():
        return functions(workload, data)


def objects(workload, data):
    """The layers of `nn`, as a reader would write it."""
    data = handed_on(workload, data)
    rng, dtype = np.random.default_rng(0), data.x.dtype
    make = {
        "linear": lambda D, H: nn.Linear(D, H, rng=rng, dtype=dtype),
        "conv": lambda C, F, R, m: nn.Conv2d(C, F, R, padding=m, rng=rng, dtype=dtype),
        "rnn": lambda D, H: nn.RNN(D, H, rng=rng, dtype=dtype),
        "lstm": lambda D, H: nn.LSTM(D, H, rng=rng, dtype=dtype),
        "pool": nn.MaxPool2d, "flatten": nn.Flatten, "relu": nn.ReLU, "sigmoid": nn.Sigmoid,
    }
    model = nn.Sequential(*(make[kind](*sizes) for kind, *sizes in workload.layers))
    for layer, values in zip(model, data.params):
        layer.params.update(zip(layer.params, values))
    loss = nn.CrossEntropyLoss()

    def step():
        y = model.forward(data.x)
        if workload.classes:
            loss.forward(y, data.target)
        dx = model.backward(loss.backward() if workload.classes else data.target)
        return [dx, *model.grads.values()]
    return step


def numeric(workload, data):
    """Central differences: two forward passes for each entry of the input and of the parameters."""
    forward, flat = chain(workload, data)[0], [data.x, *(p for params in data.params for p in params)]

    def run(x, *args):
        rest = iter(args)
        return forward(x, [[next(rest) for _ in params] for params in data.params])
    return lambda: [gradcheck.central_difference(run, flat, i, (data.target,)) for i in range(len(flat))]


# name: (the module it needs, how a step is made)
PEERS = {"fast": ("numpy", fast), "products": ("numpy", products), "nn": ("numpy", objects),
         "readable": ("numpy", readable), "PyTorch": ("torch", frameworks.pytorch), "JAX": ("jax", frameworks.jax_jit),
         "autograd": ("autograd", frameworks.hips), "numeric": ("numpy", numeric)}
