"""Automatic differentiation: a program records what it computes, and the chain rule runs back over the record.

    x, W = Node(np.array([1.0, 2.0])), Node(np.array([[3.0, 4.0]]))
    dx, dW = gradients(tanh(W @ x).sum(), x, W)

Neither symbolic (no formula is built) nor numeric (nothing is differenced): each operation is a pair of functions, and
`gradients` calls the backward ones, last to first. `apply` makes an operation of any pair of this library, or of yours.
Nothing is ever changed: gradients are returned, and a second call gives the same bits. `sweeps` has forward mode.
"""

import copy
import inspect
import itertools
import zlib
from functools import lru_cache
from numbers import Real
from typing import NamedTuple

import numpy as np

from .checks import FLOATS, require_float
from .operations import RULES, Rule, joining
from .shapes import parse_shapes


NUMBERS = itertools.count()                                     # a step has a larger number than all that it reads


class Step(NamedTuple):
    """An operation that was carried out, and all that is needed to go back through it."""
    number: int
    rule: Rule
    args: tuple                                                 # nodes, and what was none
    outputs: tuple
    cache: object
    checksums: tuple                                            # of args, outputs, and arrays in a pair's cache


# ------------------------------------------------------------------------------------------------ recording

def record(rule, args):
    """Carry out a rule: the node of its output, or a tuple of nodes if there are several."""
    values = tuple(map(value_of, args))
    widths = {a.dtype for a in values if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
    if len(widths) > 1:
        raise TypeError(f"{rule.name}: arrays of {' and '.join(sorted(map(str, widths)))} meet; convert one by astype")
    before = tuple(a.checksum if isinstance(a, Node) else checksum(a) for a in args)    # forward might change them
    returned = rule.forward(*values)
    if not isinstance(returned, tuple) or len(returned) < 2:
        raise TypeError(f"{rule.name}: forward must return (outputs..., cache), got {type(returned).__name__}")
    outputs, cache = tuple(map(np.asanyarray, returned[:-1])), returned[-1]
    if any(y.dtype not in widths for y in outputs):
        raise TypeError(f"{rule.name}: outputs must have the width of the arguments, {', '.join(map(str, widths))}; "
                        f"got {', '.join(str(y.dtype) for y in outputs)}")
    made = outputs + arrays_in(cache, rule)
    step = Step(next(NUMBERS), rule, args, outputs, cache, before + tuple(map(checksum, made)))
    nodes = tuple(Node(y, step, place) for place, y in enumerate(outputs))
    return nodes if len(nodes) > 1 else nodes[0]


def apply(forward, backward, *args):
    """Record a pair of functions, forward(*args) -> (outputs..., cache) and backward(d_outputs..., cache) -> gradients.

    args are nodes, arrays and options, in forward's order. backward returns the gradients that its `Shapes:` line
    names; without one, those of all arguments that are nodes or arrays of floats. Any shapes that the pair takes.

    Returns the node of the output, or a tuple of nodes if there are several. Raises TypeError if float32 meets float64,
    if a node stands where backward gives no gradient, or if forward returns no cache.
    """
    if "Shapes:" in (backward.__doc__ or ""):
        wanted = documented(forward, backward)
    else:
        wanted = tuple(i for i, a in enumerate(args) if getattr(value_of(a), "dtype", np.bool_) in FLOATS)
    name = forward.__name__.removesuffix("_forward")
    for i, a in enumerate(args):
        if isinstance(a, Node) and i not in wanted:
            raise TypeError(f"apply: the backward of {name} has no gradient of argument {i}; pass its .value")
    return record(Rule(name, forward, backward, "pair", wanted), args)


@lru_cache
def documented(forward, backward):
    """The places of the arguments whose gradients the docstring of backward names."""
    names = list(inspect.signature(forward).parameters)
    return tuple(names.index(gradient.name[1:]) for gradient in parse_shapes(backward)[1])


def value_of(a):
    return a.value if isinstance(a, Node) else a


def arrays_in(cache, rule):
    """The arrays in the cache of an apply'd pair; the rules of the table keep nothing but arguments and output."""
    if isinstance(cache, np.ndarray):
        return (cache,) * (rule.kind == "pair" and cache.dtype.kind in "biufc")
    parts = tuple(cache.values()) if isinstance(cache, dict) else cache
    return sum((arrays_in(part, rule) for part in parts), ()) if isinstance(parts, (tuple, list)) else ()


def checksum(value):
    if isinstance(value, np.ndarray):
        return zlib.crc32(value.ravel("K"), hash(value.strides) % 2**32)    # a transpose holds the same bytes
    return repr(value) if isinstance(value, (tuple, list, dict)) else None


def require_unchanged(step, seen):
    """Raise RuntimeError if what the step read or made has changed since, but for what is `seen`."""
    read = len(step.args)
    for i, a in enumerate((*map(value_of, step.args), *step.outputs, *arrays_in(step.cache, step.rule))):
        if (id(a), step.checksums[i]) not in seen and checksum(a) != step.checksums[i]:
            which = f"argument {i}" if i < read else "the result" if i < read + len(step.outputs) else "the cache"
            what = f"an array of shape {a.shape}" if isinstance(a, np.ndarray) else f"a {type(a).__name__}"
            raise RuntimeError(f"{step.rule.name}: {which}, {what}, was changed in place "
                               "after it was recorded, so the derivative is lost; write x = x + 1, not x += 1")
        seen.add((id(a), step.checksums[i]))


# ------------------------------------------------------------------------------------------------ reverse mode

def gradients(output, *inputs, cotangent=None):
    """dL/d(input) for each input, where L = sum(cotangent * output): one sweep back for all of them.

    output     a node, or a tuple of nodes with a tuple of cotangents
    inputs     nodes, also ones in between; the gradient is zero where the output does not depend on one
    cotangent  dL/d(output), an array like the output; may be left out if that is a single number

    Returns arrays of the caller's own, each with the shape and width of its input: one, or a tuple if there are several
    inputs. Raises ValueError or TypeError for a cotangent that does not fit, RuntimeError if a recorded array was
    changed in place. The record stays as it is, and may be swept again.
    Source: Linnainmaa 1976, "Taylor expansion of the accumulated rounding error".
    """
    outputs = output if isinstance(output, tuple) else (output,)
    require_nodes("gradients", *outputs, *inputs)
    if cotangent is None:
        if len(outputs) > 1 or outputs[0].value.size != 1:
            raise ValueError(f"gradients: the output has shape {' and '.join(str(y.shape) for y in outputs)}, not a "
                             "single number: give a cotangent of that shape, or make one number of it by output.sum()")
        cotangent = np.ones_like(outputs[0].value)
    cotangents = cotangent if isinstance(cotangent, tuple) else (cotangent,)
    if len(cotangents) != len(outputs):
        raise ValueError(f"gradients: {len(outputs)} outputs need as many cotangents in a tuple, got {len(cotangents)}")
    arriving, seen = {}, set()
    for node, d in zip(outputs, cotangents):
        add_to(arriving, node.key, like(node, "gradients", "cotangent", d))
    for step in reversed(steps_to(*outputs)):
        require_unchanged(step, seen)
        keys = [(step.number, place) for place in range(len(step.outputs))]
        douts = [arriving[key] if key in arriving else np.zeros_like(y) for key, y in zip(keys, step.outputs)]
        for node, d in go_back(step, douts):
            add_to(arriving, node.key, d)
    found = tuple(np.array(arriving.get(node.key, np.zeros_like(node.value)), subok=True) for node in inputs)
    return found if len(found) != 1 else found[0]


def steps_to(*nodes):
    """All steps that the nodes came by, in the order in which they were carried out."""
    found, waiting = {}, list(nodes)
    while waiting:
        step = waiting.pop().step
        if step is not None and step.number not in found:
            found[step.number] = step
            waiting += [a for a in step.args if isinstance(a, Node)]
    return [found[number] for number in sorted(found)]


def go_back(step, douts):
    """Pairs (node, gradient) for the nodes among the arguments of a step."""
    name, _, backward, kind, wanted = step.rule
    douts = [np.broadcast_to(d, d.shape, subok=True) for d in douts]    # read-only: others may hold the same array
    returned = backward(*douts, step.cache)
    returned = returned if isinstance(returned, tuple) else (returned,)
    expected = [np.shape(value_of(step.args[i])) for i in wanted]
    got = [None if d is None else np.shape(d) for d in returned]
    if got != expected:
        raise ValueError(f"gradients: the backward of {name} must return gradients of shapes {expected}, got {got}")
    for d in returned:
        if isinstance(d, (np.matrix, np.ma.MaskedArray)):
            raise TypeError(f"gradients: the backward of {name} must return plain arrays, got {type(d).__name__}")
    if kind == "pair":
        require_unchanged(step, set())                          # backward might write into its cache
    nodes = [(step.args[i], d) for i, d in zip(wanted, returned) if isinstance(step.args[i], Node)]
    return [(node, np.array(d, node.value.dtype, subok=True)) for node, d in nodes]     # backward may use d again


def add_to(arriving, key, d):
    """Where a value goes to several places, its gradients add. A new array: the old one may stand elsewhere, too."""
    arriving[key] = arriving[key] + d if key in arriving else d


def like(node, owner, name, array):
    """The array, or for a node without axes the number, if it fits the node."""
    array = np.asarray(array, node.value.dtype) if isinstance(array, Real) else array
    require_plain(owner, name, array, node.value.dtype)
    if array.shape != node.shape:
        raise ValueError(f"{owner}: {name} must have the shape {node.shape} of its node, got {array.shape}")
    return array


def require_plain(owner, name, a, dtype=None):
    require_float(owner, name, np.asarray(a) if hasattr(a, "tally") else a, dtype)      # `Counting` passes for an array


def require_nodes(owner, *nodes):
    for node in nodes:
        if not isinstance(node, Node):
            raise TypeError(f"{owner}: expected a Node, got {type(node).__name__}")


# ------------------------------------------------------------------------------------------------ operations on nodes

def on_nodes(name, doc=None):
    """The operation of that name as a function of nodes, arrays and numbers. TypeError if float32 meets float64."""
    rule = RULES[name]

    def operate(*args):
        return record(rule, operands(name, args[:len(rule.wanted)]) + args[len(rule.wanted):])
    operate.__name__, operate.__doc__ = name, doc
    return operate


def operands(name, args):
    """Numbers become arrays of the width of the others."""
    dtype = next((value_of(a).dtype for a in args if isinstance(a, (Node, np.ndarray))), np.float64)
    args = tuple(np.asarray(a, dtype) if isinstance(a, Real) else a for a in args)
    for a in args:
        if not isinstance(a, Node):
            require_plain(name, "an operand", a)
    return args


def flipped(operate):
    return lambda right, left: operate(left, right)


add, subtract, multiply, divide = map(on_nodes, ("add", "subtract", "multiply", "divide"))
negative, power, matrix_product = map(on_nodes, ("negative", "power", "matmul"))
total, reshape, transpose, take = map(on_nodes, ("sum", "reshape", "transpose", "index"))

exp = on_nodes("exp", "exp(x): e**x, entry by entry, for x of any shape.")
log = on_nodes("log", "log(x): the natural logarithm, entry by entry, for x of any shape.")
sqrt = on_nodes("sqrt", "sqrt(x): the square root, entry by entry, for x of any shape.")
tanh = on_nodes("tanh", "tanh(x): the hyperbolic tangent, entry by entry, for x of any shape.")
sigmoid = on_nodes("sigmoid", "sigmoid(x): 1 / (1 + exp(-x)), entry by entry, for x of any shape.")
relu = on_nodes("relu", "relu(x): max(0, x), entry by entry, for x of any shape; the derivative at 0 is 0.")
maximum = on_nodes("maximum", "maximum(a, b): the larger, entry by entry, for shapes that broadcast; of equal ones a.")


def matmul(a, b):
    """a @ b; an array of one axis is a row on the left and a column on the right.

    Shapes: a (..., N, D), b (..., D, K) -> (..., N, K), the axes in front broadcast
    """
    a, b = operands("matmul", (a, b))
    row, column = len(a.shape) == 1, len(b.shape) == 1
    y = matrix_product(reshape(a, (1, -1)) if row else a, reshape(b, (-1, 1)) if column else b)
    return y[..., 0 if row else slice(None), 0 if column else slice(None)] if row or column else y


def concatenate(nodes, axis=0):
    """Side by side along an axis that is there; shapes and errors are those of np.concatenate."""
    return record(joining(len(nodes), axis), operands("concatenate", nodes))


def stack(nodes, axis=0):
    """Side by side along a new axis, counted in the result; shapes and errors are those of np.stack."""
    nodes = operands("stack", nodes)
    return concatenate([reshape(a, np.expand_dims(value_of(a), axis).shape) for a in nodes], axis)


OPERATORS = {np.add: add, np.subtract: subtract, np.multiply: multiply, np.divide: divide, np.matmul: matmul}


class Node:
    """An array of float32 or float64 and of any shape, `value`, and the `step` that made it: None if it was given.

    + - * / ** @, indices and the methods do what they do to arrays, and are recorded; numbers and arrays beside a node
    are constants. A Python float becomes a float64 array without axes. `key` names the node: the number of its step
    and its place among the outputs. Raises TypeError for anything else.
    """

    def __init__(self, value, step=None, place=0):
        value = np.asarray(value) if isinstance(value, (float, np.floating)) else value
        require_plain("Node", "value", value)
        self.value, self.step = value, step
        self.key = (next(NUMBERS) if step is None else step.number, place)
        self.checksum = checksum(value) if step is None else step.checksums[len(step.args) + place]

    __add__ = __radd__ = add
    __mul__ = __rmul__ = multiply
    __neg__ = negative
    __sub__, __rsub__ = subtract, flipped(subtract)
    __truediv__, __rtruediv__ = divide, flipped(divide)
    __matmul__, __rmatmul__ = matmul, flipped(matmul)
    shape = property(lambda self: self.value.shape)
    T = property(lambda self: self.transpose())

    def __pow__(self, p):
        if not isinstance(p, Real):
            raise TypeError(f"power: the exponent must be a number, got {type(p).__name__}; write exp(p * log(x))")
        return power(self, p.item() if isinstance(p, np.generic) else p)    # p - 1 would be rounded, or overflow

    def __getitem__(self, index):
        return take(self, copy.deepcopy(index))                 # an array of places might be changed later

    def __setitem__(self, index, value):
        raise TypeError("Node: a recorded array must not change; make a new one, by concatenate or stack")

    def __iter__(self):
        if not self.shape:
            raise TypeError("Node: a number has no rows to go through")
        return (self[i] for i in range(len(self.value)))

    def __bool__(self, *_):
        raise TypeError("Node: a node is neither true nor false nor equal to anything: compare its .value, or use `is`")

    __eq__, __hash__ = __bool__, object.__hash__

    def __reduce_ex__(self, _):
        raise TypeError("Node: a copy would count as the same node; make a new one of a copy of .value")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if ufunc in OPERATORS and method == "__call__" and not options:
            return OPERATORS[ufunc](*inputs)                    # array * node
        return self.__array__()

    def __array__(self, *_, **__):
        raise TypeError("Node: NumPy's functions leave no record: use those of autodiff, apply(forward, backward, ...) "
                        "for a pair, or .value for the array")

    def __repr__(self):
        return f"Node({np.array2string(self.value, separator=', ')}, by {self.step.rule.name if self.step else 'hand'})"

    def sum(self, axis=None, keepdims=False):
        """The sum over an axis, a tuple of axes, or all."""
        return total(self, axis, keepdims)

    def mean(self, axis=None, keepdims=False):
        """The mean over an axis, a tuple of axes, or all."""
        y = self.sum(axis, keepdims)
        return y / (self.value.size / max(y.value.size, 1))

    def reshape(self, *shape):
        """The entries in another shape, given as numbers or as a tuple."""
        return reshape(self, shape)

    def transpose(self, *axes):
        """The axes in another order, given as numbers or as a tuple; without one, backwards."""
        axes = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple) else axes
        return transpose(self, axes or range(self.value.ndim)[::-1])
