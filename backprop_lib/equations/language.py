"""The words statements are made of: index letters, arrays, sums, and the pair that holds them.

A statement is a SymPy equation in index notation. The lower-case letter is the index of the axis whose size is the
capital: `total(W[h, d] * x[n, d], d)` is the sum over d from 0 to D - 1. Statements stand inside `as_written()`, which
keeps SymPy from reordering them, so that what is printed is what was typed.
"""

from typing import NamedTuple

import sympy

from ..shapes import parse_shapes


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
    """One equation, lhs = rhs. What only names the parts of an array has no number: its label is None."""
    label: str
    lhs: sympy.Expr
    rhs: sympy.Expr

    @property
    def name(self):
        return name_of(self.lhs)


class Pair(NamedTuple):
    """The statements of one forward function and of its backward function.

    backward_function  None for a function through which nothing is backpropagated; it returns arrays and no cache
    external  the cotangent of an output where it is not d + the output's name, {output: cotangent}
    options   what an argument such as stride is called in the statements, {argument: symbol or tuple of them}; a text
              or a truth value is passed as it is
    sizes     sizes that follow from others, [(size, expression), ...]
    inner     a Pair whose statements hold too, under the numbers they have there
    step      a Pair that the functions run at every time step: `inner` is that pair with a time index
    """
    forward_function: object
    backward_function: object
    forward: tuple
    backward: tuple
    external: dict
    options: dict
    sizes: tuple
    inner: "Pair" = None
    step: "Pair" = None

    def __hash__(self):
        """Options are a dict, so a part must do; `==` compares all of it."""
        return hash((self.forward_function, self.backward_function, self.forward, self.backward))

    @property
    def statements(self):
        """Those with a number."""
        return tuple(s for s in self.forward + self.backward if s.label)

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


def pair(forward_function, backward_function, forward, backward, external=None, options=None, sizes=(), inner=None,
         step=None):
    """A Pair from lists of (label, lhs, rhs)."""
    of = Pair(forward_function, backward_function, tuple(Statement(*s) for s in forward),
              tuple(Statement(*s) for s in backward), external or {}, options or {}, tuple(sizes), inner, step)
    return of._replace(inner=at_every_step(step, of)) if step else of


def instead(of, forward_function, backward_function, forward, backward, without=(), options=None, sizes=()):
    """A variant of a Pair: its statements hold, but for the names that are defined anew here or left out."""
    new = {name_of(s[1]) for s in (*forward, *backward)} | set(without)
    kept = of._replace(forward=tuple(s for s in of.forward if s.name not in new),
                       backward=tuple(s for s in of.backward if s.name not in new))
    return pair(forward_function, backward_function, forward, backward, of.external, of.options | (options or {}),
                of.sizes + tuple(sizes), kept)


def at_every_step(step, sequence):
    """The statements of a step with the time index t: behind the example, or first.

    Each step has a copy of the weights, W_t: what both functions take with the same shape.
    """
    (inputs, _), (outer, _) = parse_shapes(step.forward_function), parse_shapes(sequence.forward_function)
    weights = {a.name for a in inputs if a in outer}
    t, = indices("t,")

    def timed(a):
        name, letters = name_of(a), list(a.indices)
        if name.removeprefix("d") in weights:
            return sympy.IndexedBase(f"{name}_t", real=True)[(t, *letters)]
        return a.base[(letters[0], t, *letters[1:])]

    def lifted(statement):
        with as_written():
            sides = [side.xreplace({a: timed(a) for a in side.atoms(sympy.Indexed)}) for side in statement[1:]]
        return Statement(statement.label, *sides)

    used = {name_of(a): a for s in step.forward for a in s.rhs.atoms(sympy.Indexed)}
    copies = tuple(Statement(None, timed(used[name]), used[name]) for name in sorted(weights))
    return step._replace(forward=copies + tuple(map(lifted, step.forward)), backward=tuple(map(lifted, step.backward)))
