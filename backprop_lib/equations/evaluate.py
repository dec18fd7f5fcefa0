"""Run a statement literally: every index letter an axis, every name[...] a gather, every Sum a sum over an axis.

Nothing is shared with the library, so agreement means something. A sum of products is left to np.einsum; nothing else
is optimised. An index outside an array reads 0, which is what padding, strides and the ends of a recurrence need.
"""

import functools
import math

import numpy as np
import sympy
from sympy import Function

from .language import name_of, size


FUNCTIONS = {sympy.exp: np.exp, sympy.log: np.log, sympy.tanh: np.tanh, sympy.Abs: np.abs, sympy.sign: np.sign}
RELATIONS = {sympy.Gt: np.greater, sympy.Ge: np.greater_equal, sympy.Lt: np.less, sympy.Le: np.less_equal,
             sympy.Eq: np.equal, sympy.Ne: np.not_equal}


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
            # Reading 0 outside is for shifted indices; a bare letter of another length belongs to another axis. But
            # where four gates are stacked, an axis holds 4H entries, and h alone reads the first H of them.
            if index in self.ranges:
                end = self.ranges[index][2]
                if end != length and not (0 < end < length and length % end == 0):
                    raise ValueError(f"{e}: {index} runs to {end}, but the axis has {length} entries")
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
        axes, outer = {}, dict(self.ranges)
        for index, low, high in e.limits:
            self.ranges[index] = (self.n_axes, int(self(low)), int(self(high)) + 1)
            axes[self.n_axes] = self.ranges[index][2] - self.ranges[index][1]
            self.n_axes += 1
        contracts = isinstance(e, sympy.Sum) and isinstance(e.function, sympy.Mul)
        value = self.contracted(e.function, axes) if contracts else self.reduced(e, axes)
        self.n_axes -= len(axes)                                # the axes are free again
        self.ranges = outer                                     # and the letters mean what they meant before
        return value

    def reduced(self, e, axes):
        value = self(e.function)
        for axis, length in axes.items():
            # counted from the right, axis j sits at -1 - j; a body that lacks the index counts length times
            present = value.ndim > axis and value.shape[-1 - axis] == length
            if isinstance(e, sympy.Product):
                value = value.prod(axis=-1 - axis, keepdims=True) if present else value**length
            else:
                value = value.sum(axis=-1 - axis, keepdims=True) if present else value * length
        return value

    def contracted(self, product, axes):
        """The sum of a product of factors over axes, with np.einsum: it need not build the whole product first."""
        operands, lengths = [], {}
        for factor in (np.asarray(self(a)) for a in product.args):
            present = [axis for axis in reversed(range(factor.ndim)) if factor.shape[-1 - axis] != 1]
            lengths.update({axis: factor.shape[-1 - axis] for axis in present})
            operands += [factor.reshape([lengths[axis] for axis in present]), present]
        kept = sorted(lengths.keys() - axes.keys(), reverse=True)
        value = np.einsum(*operands, kept, optimize="greedy")
        value = value.reshape([lengths[axis] if axis in kept else 1 for axis in reversed(range(self.n_axes))])
        return value * math.prod(length for axis, length in axes.items() if axis not in lengths)

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

    A result is remembered with everything it depends on: the expression, the sizes, and the content of each array.
    """
    expression, free = sympy.sympify(expression), tuple(free)
    used = {name: np.asarray(values[name]) for name in _names(expression) if name in values}
    key = (expression, free, tuple(sorted(sizes.items())),
           tuple((name, a.dtype.str, a.shape, a.tobytes()) for name, a in used.items()))
    if key not in REMEMBERED:
        if len(REMEMBERED) >= 500:
            REMEMBERED.clear()
        REMEMBERED[key] = _evaluate(expression, values, sizes, free)
    return REMEMBERED[key].copy()


REMEMBERED = {}


@functools.lru_cache(maxsize=500)
def _names(expression):
    return sorted({str(getattr(a, "base", a)) for a in expression.atoms(sympy.Indexed, sympy.Symbol)})


def _evaluate(expression, values, sizes, free):
    value = np.asarray(Evaluator(values, sizes, free[::-1])(expression), dtype=float)
    shape = tuple(sizes[size(index).name] for index in free)
    return np.broadcast_to(value.reshape(value.shape[value.ndim - len(shape):] if value.ndim > len(shape)
                                         else value.shape), shape)


def settle(statements, values, sizes):
    """Add what the statements say to `values`: a statement as soon as all it needs is there; those of a recurrence
    together, from zero, again and again until nothing changes."""
    waiting = list(statements)
    while waiting:
        names = {s.name for s in waiting}
        ready = [s for s in waiting if not names_in(s.rhs) & names]
        for s in ready:
            values[s.name] = value_of(s, values, sizes)
        if not ready:
            settle_recurrence(waiting, values, sizes)
            return
        waiting = [s for s in waiting if s not in ready]


def settle_recurrence(statements, values, sizes):
    """Each sweep makes one more time step right."""
    for s in statements:
        values[s.name] = np.zeros([sizes[size(i).name] for i in letters_of(s)])
    for _ in range(len(statements) * max(sizes.values())):
        before = [values[s.name] for s in statements]
        for s in statements:
            values[s.name] = value_of(s, values, sizes)
        if all(np.array_equal(old, values[s.name], equal_nan=True) for old, s in zip(before, statements)):
            return
    raise ValueError(f"{', '.join(s.name for s in statements)} define each other without end")


@functools.lru_cache(maxsize=1000)
def names_in(e):
    """Names of the arrays and numbers of an expression; an index letter is none."""
    return {name_of(a) for a in e.atoms(sympy.Indexed, sympy.Symbol) if not (a.is_Symbol and a.is_integer)}


def letters_of(statement):
    return getattr(statement.lhs, "indices", ())


def value_of(statement, values, sizes):
    return evaluate(statement.rhs, values, sizes, letters_of(statement))
