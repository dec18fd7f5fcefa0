"""Run a statement literally: every index letter an axis, every name[...] a gather, every Sum a sum over an axis.

Nothing is optimised and nothing is shared with the library, so agreement means something. An index outside an array
reads 0, which is what padding, strides and the ends of a recurrence need.
"""

import numpy as np
import sympy
from sympy import Function

from .language import size


FUNCTIONS = {sympy.exp: np.exp, sympy.log: np.log, sympy.tanh: np.tanh, sympy.Abs: np.abs, sympy.sign: np.sign}
RELATIONS = {sympy.Gt: np.greater, sympy.Ge: np.greater_equal, sympy.Lt: np.less, sympy.Le: np.less_equal,
             sympy.Eq: np.equal, sympy.Ne: np.not_equal}


def with_fresh_sums(expression):
    """Give every Sum an index of its own, so that an inner k' is never taken for an outer one."""
    if not expression.args or isinstance(expression, sympy.Indexed):
        return expression
    args = [with_fresh_sums(a) for a in expression.args]
    if isinstance(expression, (sympy.Sum, sympy.Product)):
        for position, (index, low, high) in enumerate(args[1:], start=1):
            fresh = sympy.Dummy(index.name, integer=True)
            args[0] = args[0].xreplace({index: fresh})
            args[position] = sympy.Tuple(fresh, low, high)
    return expression.func(*args)


class Evaluator:
    """Evaluates one expression; `axes` maps each free index to its axis, sums add axes behind them."""

    def __init__(self, values, sizes, free):
        self.values, self.sizes = values, sizes
        self.ranges = {index: (axis, 0, sizes[size(index).name]) for axis, index in enumerate(free)}
        self.n_axes = len(free)

    def __call__(self, e):
        for kind, method in self.KINDS.items():
            if isinstance(e, kind):
                return method(self, e)
        raise TypeError(f"the evaluator has no rule for {type(e).__name__} in {e}")

    def symbol(self, e):
        if e in self.ranges:
            axis, low, high = self.ranges[e]
            # axes are counted from the right end of a shape long enough for every sum
            return np.arange(low, high).reshape([-1] + [1] * axis)
        value = np.asarray(self.sizes[e.name] if e.is_integer else self.values[e.name])
        if value.ndim:
            raise ValueError(f"{e} is an array of {value.ndim} axes and stands without indices")
        return value

    def gather(self, e):
        array = np.asarray(self.values[str(e.base)])
        if array.ndim != len(e.indices):
            raise ValueError(f"{e} has {len(e.indices)} indices, the array has {array.ndim} axes")
        for index, length in zip(e.indices, array.shape):
            # reading 0 outside is for shifted indices; a bare letter that runs on belongs to another axis
            if index in self.ranges and self.ranges[index][2] > length:
                raise ValueError(f"{e}: {index} runs to {self.ranges[index][2]}, but the axis has {length} entries")
        positions = [np.asarray(self(i)) for i in e.indices]
        if any((p != np.floor(p)).any() for p in positions):
            raise ValueError(f"{e}: an index is not a whole number")
        inside = np.asarray(True)
        for position, length in zip(positions, array.shape):
            inside = inside & (position >= 0) & (position < length)
        safe = tuple(np.clip(p, 0, max(length - 1, 0)).astype(int) for p, length in zip(positions, array.shape))
        return np.where(inside, array[safe], 0)

    def sum(self, e):
        """A sum or a product."""
        body, added = e.function, []
        for index, low, high in e.limits:
            self.ranges[index] = (self.n_axes, int(self(low)), int(self(high)) + 1)
            added.append(self.n_axes)
            self.n_axes += 1
        value = self(body)
        lengths = [self.ranges[index][2] - self.ranges[index][1] for index, _, _ in e.limits]
        for axis, length in zip(added, lengths):
            # counted from the right, axis j sits at -1 - j; a body that lacks the index counts length times
            present = value.ndim > axis and value.shape[-1 - axis] == length
            if isinstance(e, sympy.Product):
                value = value.prod(axis=-1 - axis, keepdims=True) if present else value**length
            else:
                value = value.sum(axis=-1 - axis, keepdims=True) if present else value * length
        self.n_axes -= len(added)                               # the axes are free again
        return value

    def piecewise(self, e):
        value = np.nan
        for branch, condition in reversed(e.args):
            value = np.where(self(condition), self(branch), value)
        return value

    def floor(self, e):
        """By whole numbers: 49 * (1 / 49) is less than 1 in floating point."""
        numerator, denominator = e.args[0].as_numer_denom()
        return np.floor_divide(self(numerator), self(denominator))

    def product(self, e):
        value = 1
        for a in e.args:
            value = value * self(a)
        return value

    def plus(self, e):
        value = 0
        for a in e.args:
            value = value + self(a)
        return value

    KINDS = {
        sympy.Indexed: gather,
        sympy.Sum: sum,
        sympy.Product: sum,
        sympy.floor: floor,
        sympy.Symbol: symbol,
        sympy.Number: lambda self, e: np.asarray(float(e) if not e.is_Integer else int(e)),
        sympy.Add: plus,
        sympy.Mul: product,
        sympy.Pow: lambda self, e: np.asarray(self(e.base), float)**self(e.exp),
        sympy.KroneckerDelta: lambda self, e: np.equal(self(e.args[0]), self(e.args[1])).astype(float),
        sympy.Heaviside: lambda self, e: (self(e.args[0]) > 0).astype(float),
        sympy.Max: lambda self, e: np.maximum.reduce(np.broadcast_arrays(*map(self, e.args))),
        sympy.Piecewise: piecewise,
        sympy.logic.boolalg.BooleanTrue: lambda self, e: np.asarray(True),
        sympy.core.relational.Relational: lambda self, e: RELATIONS[e.func](self(e.lhs), self(e.rhs)),
        Function: lambda self, e: FUNCTIONS[e.func](self(e.args[0])),
    }


def evaluate(expression, values, sizes, free=()):
    """The array of the expression's values, one axis for each index in `free`, in that order.

    values  {name: array or number}; sizes {"N": 3, ...}.
    """
    free = list(free)
    value = np.asarray(Evaluator(values, sizes, free[::-1])(with_fresh_sums(sympy.sympify(expression))), dtype=float)
    shape = tuple(sizes[size(index).name] for index in free)
    return np.broadcast_to(value.reshape(value.shape[value.ndim - len(shape):] if value.ndim > len(shape)
                                         else value.shape), shape).copy()
