"""Derive every gradient again, by the chain rule that SymPy applies to the forward statements.

For a variable v,   dL/dv = (what arrives from outside, if v is an output)
                          + sum over forward statements e that use v,
                            sum over the indices of e.lhs, of  dL/d(e.lhs) * diff(e.rhs, v).

`diff` of an indexed sum gives Kronecker deltas. `chain_rule` leaves them and the sums alone, so that both sides can be
executed; `canonical` collapses them, so that both sides can be compared as formulas.
"""

import functools
import random

import sympy
from sympy import Dummy, Heaviside, KroneckerDelta, Mul, Piecewise, Product, Sum

from .evaluate import letters_of, names_in
from .language import name_of, size


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


@functools.lru_cache(maxsize=1000)
def rebuilt(e):
    """The same expression with SymPy's automatic evaluation, which `as_written` had suspended."""
    return e.func(*map(rebuilt, e.args)) if e.args else e


@functools.lru_cache(maxsize=500)
def chain_rule(pair, lhs):
    """The right-hand side that the forward statements imply for a backward statement's left-hand side."""
    name = name_of(lhs)
    if not name.startswith("d"):
        raise ValueError(f"{lhs}: a backward statement starts with d and a name")
    indices = lhs.indices if isinstance(lhs, sympy.Indexed) else ()
    return _total_derivative(pair, name[1:], indices, skip_entry=True)


def _total_derivative(pair, name, indices, skip_entry=False):
    """dL/d name[indices]: its own backward statement if there is one, else the chain rule one step further."""
    outputs = _outputs(pair)
    entries = {name_of(s.lhs) for s in pair.all_backward}
    if not skip_entry and f"d{name}" in entries:
        return _symbol(f"d{name}", indices)
    leaves = name in outputs or name in pair.external
    derivative = _symbol(pair.external.get(name, f"d{name}"), indices) if leaves else sympy.S.Zero
    for statement in pair.all_forward:
        if _uses(statement.rhs, name):
            derivative += _contribution(pair, statement, _symbol(name, indices))
    return derivative


def _contribution(pair, statement, variable):
    """Sum over the entries of statement.lhs of its derivative times diff(rhs, variable)."""
    fresh = {i: Dummy(i.name, integer=True) for i in getattr(statement.lhs, "indices", ())}
    rhs = with_fresh_sums(rebuilt(statement.rhs)).xreplace(fresh)
    upstream = _total_derivative(pair, name_of(statement.lhs), tuple(fresh.values()))
    term = upstream * _slope(rhs, variable)
    for index, dummy in reversed(fresh.items()):
        term = Sum(term, (dummy, 0, size(index) - 1))
    return term


def _slope(e, variable):
    """The derivative. A bracket is flat wherever it has a slope, and so is a product of brackets."""
    brackets, products = {}, {}
    e = e.replace(lambda a: isinstance(a, (Heaviside, KroneckerDelta)),
                  lambda a: brackets.setdefault(a, Dummy(real=True)))
    e = e.replace(lambda a: isinstance(a, Product) and not _uses(a, name_of(variable)),
                  lambda a: products.setdefault(a, Dummy(real=True)))
    if e.atoms(Product) and _uses(e, name_of(variable)):
        raise TypeError(f"{variable} in a product over an index: there is no rule for its derivative")
    slope = sympy.diff(e, variable).xreplace({dummy: a for a, dummy in products.items()})
    return slope.xreplace({dummy: a for a, dummy in brackets.items()})


def _symbol(name, indices):
    return sympy.IndexedBase(name, real=True)[tuple(indices)] if indices else sympy.Symbol(name, real=True)


def _uses(e, name):
    """An index letter h is an integer symbol and no use of the array h."""
    return any(name_of(a) == name and not a.is_integer for a in e.atoms(sympy.Indexed, sympy.Symbol))


def _outputs(pair):
    """Names of the forward function's outputs, from its docstring."""
    from ..shapes import parse_shapes
    return {argument.name for argument in parse_shapes(pair.forward_function)[1]}


# --------------------------------------------------------------------------------------------- comparing formulas

def same_formula(pair, left, right, proven=()):
    """True if SymPy shows left = right once the names that only one side has are written out: by the forward
    statements, or by backward statements that are `proven` already."""
    left, right = rebuilt(left), rebuilt(right)
    for statement in (*reversed([*in_order(pair.all_forward), *proven]), None):
        differ = names_in(left) ^ names_in(right)
        if not differ or statement is None:
            return _same(left, right)
        if statement.name in differ:
            left, right = (_with_definition(side, statement) for side in (left, right))


def _same(left, right):
    both, sums = [canonical(side) for side in (left, right)], {}
    difference = sympy.expand(both[0] - both[1])
    difference = difference.xreplace({s: sums.setdefault(s, Dummy(real=True)) for s in _outer_sums(difference)})
    return difference == 0 or not _refuted(difference) and _vanishes(difference.rewrite(sympy.exp))


def _vanishes(e):
    """True if e is 0. Over a common denominator an expansion shows most of it; simplify also tries what is slow."""
    return sympy.expand(sympy.numer(sympy.together(e))) == 0 or sympy.simplify(e) == 0


def _refuted(difference):
    """True if the difference is far from 0 at some numbers: then SymPy need not try, at length, to make it 0."""
    rng = random.Random(0)
    for kinds in ((Sum, Product), (sympy.Indexed,), (sympy.Symbol,)):
        atoms = sorted(difference.atoms(*kinds), key=str)
        difference = difference.xreplace({a: sympy.Integer(rng.randint(2, 9)) if a.is_integer else
                                          sympy.Rational(rng.randint(40, 200), 97) for a in atoms})
    value = sympy.N(difference)
    return value.is_number and bool(abs(value) > 1e-6)


def _outer_sums(e):
    if isinstance(e, Sum):
        return {e}
    return set().union(*map(_outer_sums, e.args)) if e.args else set()


def before(pair, statement):
    """The backward statements that a proof may use: those that stand before it in order."""
    ordered = in_order(pair.all_backward)
    return ordered[:ordered.index(statement)]


def in_order(statements):
    """Each statement behind what it needs. A recurrence has no such order; its first one in the ledger goes ahead."""
    waiting, ordered = list(statements), []
    while waiting:
        names = {s.name for s in waiting}
        ordered.append(next((s for s in waiting if not names_in(s.rhs) & names), waiting[0]))
        waiting.remove(ordered[-1])
    return ordered


def _with_definition(e, statement):
    """Replace the name that a statement defines by its right-hand side."""
    lhs, rhs, letters = statement.lhs, rebuilt(statement.rhs), letters_of(statement)
    return e.replace(lambda a: type(a) is type(lhs) and name_of(a) == statement.name,
                     lambda a: with_fresh_sums(rhs).xreplace(dict(zip(letters, getattr(a, "indices", ())))))


@functools.lru_cache(maxsize=1000)
def canonical(e):
    """Cases become brackets, deltas under a sum are collapsed, factors without the index leave the sum, and a bound
    index is named by the number of sums nested inside its own: equal formulas become equal expressions."""
    if isinstance(e, sympy.Indexed):
        return e.base[tuple(map(sympy.expand, e.indices))]
    if not e.args:
        return e
    if isinstance(e, Heaviside):
        return Heaviside(e.args[0], 0)
    if isinstance(e, Piecewise):
        return canonical(_as_brackets(e))
    if isinstance(e, Sum):
        body, limits = e.function, list(e.limits)
        if len(limits) > 1:
            body, limits = Sum(body, *limits[:-1]), limits[-1:]
        return _canonical_sum(canonical(body), limits[0])
    return e.func(*map(canonical, e.args))


def _as_brackets(e):
    result = sympy.S.Zero
    for branch, condition in reversed(e.args):
        if condition == sympy.true:
            result = branch
        elif isinstance(condition, (sympy.Gt, sympy.Lt)):
            bracket = Heaviside(condition.gts - condition.lts, 0)
            result = bracket * branch + (1 - bracket) * result
        else:
            raise TypeError(f"only strict inequalities may decide a case, got {condition}")
    return result


def _canonical_sum(body, limit):
    index, low, high = limit
    result = sympy.S.Zero
    for term in sympy.Add.make_args(sympy.expand(body)):
        collapsed = _collapse(term, index)
        if collapsed is None:
            collapsed = _collapse_inside(term, index)
        if collapsed is not None:
            result += canonical(collapsed)
            continue
        outside, inside = term.as_independent(index, as_Add=False)
        result += outside * _named(Sum(inside, (index, low, high)))
    return result


def _named(e):
    """A sum of one product, its indices ordered by where they occur and each factor pulled out as far as it can."""
    body, limits = e, []
    while any(isinstance(a, Sum) for a in Mul.make_args(body)):
        factors, body = Mul.make_args(body), sympy.S.One
        for a in factors:
            if isinstance(a, Sum):
                fresh = {index: Dummy(index.name, integer=True) for index, _, _ in a.limits}
                limits += [tuple(part.xreplace(fresh) for part in limit) for limit in a.limits]
                a = a.function.xreplace(fresh)
            body *= a

    for position, (index, _, _) in enumerate(limits):
        body, limits[position] = _shifted(body, index, limits[position])

    def occurrences(limit):
        return sorted((name_of(a), position) for a in body.atoms(sympy.Indexed)
                      for position, i in enumerate(a.indices) if i.has(limit[0]))
    result = body
    for index, low, high in sorted(limits, key=occurrences, reverse=True):
        outside, inside = result.as_independent(index, as_Add=False)
        name = sympy.Symbol(f"_{_height(inside)}", integer=True)
        result = outside * Sum(inside.xreplace({index: name}), (name, low, high))
    return result


def _shifted(body, index, limit):
    """Where the index runs along an array, nothing outside the array counts: sum over all whole numbers, and start so
    that the index stands alone in the first array. So sum_q g[q] w[j - q] and sum_s w[s] g[j - s] become equal."""
    if not _confined(body, index):
        return body, limit
    arrays = sorted((a for a in body.atoms(sympy.Indexed) if a.has(index)), key=lambda a: (name_of(a), str(a)))
    for subscript in (i for a in arrays for i in a.indices if i.has(index)):
        slope, rest = subscript.coeff(index), sympy.expand(subscript - subscript.coeff(index) * index)
        if slope in (1, -1) and not rest.has(index):
            body = body.xreplace({index: sympy.expand(slope * (index - rest))})
            body = body.replace(lambda a: isinstance(a, sympy.Indexed),
                                lambda a: a.base[tuple(map(sympy.expand, a.indices))])
            break
    return body, (index, *EVERYWHERE)


EVERYWHERE = sympy.symbols("lowest highest", integer=True)


def _height(e):
    """How many indices are bound inside one another: so an outer name differs from every inner one.

    SymPy folds a sum of a sum into one with two limits, so limits are counted, not sums.
    """
    return (len(e.limits) if isinstance(e, Sum) else 0) + max(map(_height, e.args), default=0)


def _collapse(term, index):
    """The term at the only index its delta lets through, or None if it has no delta in that index.

    Indices that fall outside an array read 0 (see evaluate.py), so the range of the sum needs no condition.
    """
    for factor in Mul.make_args(term):
        if isinstance(factor, KroneckerDelta) and factor.has(index):
            difference = sympy.expand(factor.args[0] - factor.args[1])
            slope = difference.coeff(index)
            if slope in (1, -1) and not (difference - slope * index).has(index):
                only = sympy.expand(index - difference / slope)
                if _within(only, index) or _confined(term, index):
                    return (term / factor).xreplace({index: only}) if not factor == term else sympy.S.One
    return None


def _collapse_inside(term, index):
    """The same where the delta stands in a sum: the order of two sums may be exchanged."""
    for factor in Mul.make_args(term):
        if isinstance(factor, Sum) and factor.has(index) and factor.has(KroneckerDelta):
            inner = with_fresh_sums(factor)
            collapsed = _collapse(term / factor * inner.function, index)
            if collapsed is not None:
                return Sum(collapsed, *inner.limits)
    return None


def _confined(term, index):
    """True if a factor of the term is an array along whose axis the index runs: outside the axis the term is 0."""
    for factor in Mul.make_args(term):
        base = factor.base if factor.is_Pow and factor.exp.is_Integer and factor.exp > 0 else factor
        if isinstance(base, Sum) and _confined(base.function, index):
            return True
        if isinstance(base, sympy.Indexed) and index in base.indices:
            return True
    return False


def _within(only, index):
    """True if the value surely lies in the index's range: another letter of the same axis, or a class such as t[n]."""
    return isinstance(only, sympy.Indexed) or only.is_Symbol and size(only).name == size(index).name != ""
