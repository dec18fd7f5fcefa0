"""The words statements are made of: index letters, arrays, sums, and the pair that holds them.

A statement is a SymPy equation in index notation. The lower-case letter is the index of the axis whose size is the
capital: `total(W[h, d] * x[n, d], d)` is the sum over d from 0 to D - 1. Statements stand inside `as_written()`, which
keeps SymPy from reordering them, so that what is printed is what was typed.
"""

from typing import NamedTuple

import sympy


as_written = lambda: sympy.evaluate(False)                      # noqa: E731


def indices(names):
    """Index letters. k' is a second index over the axis of k."""
    return sympy.symbols(names, integer=True, seq=True)


def arrays(names):
    """Array names, to be followed by [indices]. They hold real numbers."""
    return [sympy.IndexedBase(name, real=True) for name in names.split()]


def numbers(names):
    """Scalar names such as a loss or a strength."""
    return sympy.symbols(names, real=True, seq=True)


def size(index):
    """The size of the axis an index letter runs over: K for k and for k'."""
    return sympy.Symbol(index.name.rstrip("'_0123456789").upper(), integer=True, positive=True)


def total(expression, *over):
    """Sum over each index, from 0 to its size - 1, outermost first."""
    for index in reversed(over):
        expression = sympy.Sum(expression, (index, 0, size(index) - 1))
    return expression


def product(expression, *over):
    """Product over each index, from 0 to its size - 1, outermost first."""
    for index in reversed(over):
        expression = sympy.Product(expression, (index, 0, size(index) - 1))
    return expression


def one_if(condition):
    """Iverson's bracket: 1 where the condition holds, else 0. At a kink the strict inequality decides."""
    if isinstance(condition, sympy.Eq):
        return sympy.KroneckerDelta(*condition.args, evaluate=False)
    return sympy.Heaviside(condition.gts - condition.lts if condition.lts != 0 else condition.gts, 0)


def name_of(expression):
    """The name of an array or a number: 'z' for z[n, h]."""
    return str(expression.base if isinstance(expression, sympy.Indexed) else expression)


class Statement(NamedTuple):
    """One numbered equation, lhs = rhs."""
    label: str
    lhs: sympy.Expr
    rhs: sympy.Expr


class Pair(NamedTuple):
    """The statements of one forward function and of its backward function.

    external  the cotangent of an output where it is not d + the output's name, {output: cotangent}
    options   what an argument such as stride is called in the statements, {argument: symbol or tuple of them}
    sizes     sizes that follow from others, [(size, expression), ...]
    inner     a Pair that the forward function starts with and the backward function ends with; its statements hold too
    """
    forward_function: object
    backward_function: object
    forward: tuple
    backward: tuple
    external: dict
    options: dict
    sizes: tuple
    inner: "Pair"

    @property
    def statements(self):
        return self.forward + self.backward

    @property
    def all_forward(self):
        return (self.inner.forward if self.inner else ()) + self.forward

    @property
    def all_backward(self):
        return self.backward + (self.inner.backward if self.inner else ())

    @property
    def all_sizes(self):
        """A statement about a size, P = ..., counts among them."""
        stated = tuple((s.lhs, s.rhs) for s in self.all_forward if s.lhs.is_Symbol and s.lhs.is_integer)
        return self.sizes + stated


def pair(forward_function, backward_function, forward, backward, external=None, options=None, sizes=(), inner=None):
    """A Pair from lists of (label, lhs, rhs)."""
    return Pair(forward_function, backward_function, tuple(Statement(*s) for s in forward),
                tuple(Statement(*s) for s in backward), external or {}, options or {}, tuple(sizes), inner)
