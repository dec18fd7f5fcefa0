"""What the chain rule has to know of each elementary operation: its value, and what goes back to its arguments.

A line of the table says y = forward(*args) and, with d for dL/dy, the gradients backward(d, y, *args). `pair` makes of
it two functions as they are everywhere in this library. The operations take arrays and know nothing of a graph.
"""

from typing import NamedTuple

import numpy as np

from . import mlp


class Rule(NamedTuple):
    """A pair forward(*args) -> (outputs..., cache), backward(*douts, cache) -> gradients of the args at `wanted`."""
    name: str
    forward: object
    backward: object
    kind: str                                                   # for forward mode, see `sweeps.push`
    wanted: tuple


def pair(name, kind, forward, backward, arrays=1):
    """The Rule of y = forward(*args), gradients = backward(d, y, *args); the first `arrays` of args are differentiated.

    kind is "linear", "product" (linear in each argument), "entrywise" or "complex" (anything that complex numbers go
    through). What broadcasting copied is summed.
    """
    def pair_forward(*args):
        width = np.result_type(*(a.dtype for a in args[:arrays]))
        y = np.asanyarray(forward(*args), width)                # before NumPy 2, arrays without axes grow wider
        return y, (y, args)

    def pair_backward(dy, cache):
        y, args = cache
        returned = backward(dy, y, *args)
        return tuple(summed(d, a.shape) for d, a in zip(returned if isinstance(returned, tuple) else (returned,), args))

    return Rule(name, pair_forward, pair_backward, kind, tuple(range(arrays)))


def summed(d, shape):
    """Broadcasting, backwards: what was copied along an axis gets the sum along it."""
    if d.shape == shape:
        return d
    d = d.sum(axis=tuple(range(d.ndim - len(shape))))
    return d.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def spread(d, y, x, axis, keepdims):
    return np.broadcast_to(d if keepdims or axis is None else np.expand_dims(d, axis), x.shape)


def scatter(d, y, x, index):
    dx = np.zeros_like(x)
    parts = index if isinstance(index, tuple) else (index,)
    if all(isinstance(part, (int, slice, type(None), type(...))) for part in parts):
        dx[index] = d
    else:
        np.add.at(dx, index, d)                                 # an entry that was read twice gets both
    return dx


def first_wins(a, b):
    return (a.real >= b.real) | np.isnan(a)


def joining(count, axis):
    """The rule that sets `count` arrays side by side along an axis."""
    def join(*arrays):
        return np.concatenate(arrays, axis)

    def split(d, y, *arrays):
        return tuple(np.split(d, np.cumsum([a.shape[axis] for a in arrays])[:-1], axis))

    return pair("concatenate", "linear", join, split, count)


RULES = {rule.name: rule for rule in (
    pair("add", "linear", lambda a, b: a + b, lambda d, y, a, b: (d, d), 2),
    pair("subtract", "linear", lambda a, b: a - b, lambda d, y, a, b: (d, -d), 2),
    pair("negative", "linear", lambda a: -a, lambda d, y, a: -d),
    pair("multiply", "product", lambda a, b: a * b, lambda d, y, a, b: (d * b, d * a), 2),
    pair("divide", "complex", lambda a, b: a / b, lambda d, y, a, b: (d / b, -d * y / b), 2),
    pair("matmul", "product", lambda a, b: a @ b,
         lambda d, y, a, b: (d @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ d), 2),
    pair("maximum", "complex", lambda a, b: np.where(first_wins(a, b), a, b),     # of equals the first wins
         lambda d, y, a, b: (np.where(first_wins(a, b), d, 0), np.where(first_wins(a, b), 0, d)), 2),
    pair("power", "entrywise", lambda x, p: x**p,
         lambda d, y, x, p: d * (p * x**(p - 1)) if p else 0 * d),
    pair("exp", "entrywise", lambda x: np.exp(x), lambda d, y, x: d * y),
    pair("log", "entrywise", lambda x: np.log(x), lambda d, y, x: d / x),
    pair("sqrt", "entrywise", lambda x: np.sqrt(x), lambda d, y, x: d / (2 * y)),
    pair("tanh", "entrywise", lambda x: np.tanh(x), lambda d, y, x: d * (1 - y * y)),
    pair("sigmoid", "entrywise", mlp.sigmoid, lambda d, y, x: d * (y * (1 - y))),
    pair("relu", "entrywise", lambda x: np.where(x.real <= 0, 0, x), lambda d, y, x: np.where(x <= 0, 0, d)),
    pair("sum", "linear", lambda x, axis, keepdims: x.sum(axis=axis, keepdims=keepdims), spread),
    pair("reshape", "linear", lambda x, shape: x.reshape(*shape), lambda d, y, x, shape: d.reshape(x.shape)),
    pair("transpose", "linear", lambda x, axes: x.transpose(axes),
         lambda d, y, x, axes: d.transpose(np.argsort([axis % x.ndim for axis in axes]))),
    pair("index", "linear", lambda x, index: x[index], scatter),
)}
