"""backprop_lib.operations: every rule of the table, as a pair of functions of arrays, with no graph."""

import numpy as np
import pytest
from arrays import frozen, normal, same_bits, spread

from backprop_lib import operations
from backprop_lib.gradcheck import away_from_kinks, complex_step, relative_error
from backprop_lib.operations import RULES, Rule, joining, pair, summed


LIMIT = 1e-12


# ------------------------------------------------------------------------------------------------ helpers

def kinky(*shape, seed=1):
    return away_from_kinks(np.random.default_rng(seed), shape)


def positive(*shape, seed=1):
    return np.exp(normal(*shape, seed=seed))


def forward_of(rule, *args):
    y, _ = rule.forward(*args)
    return y


def backward_of(rule, d, *args):
    _, cache = rule.forward(*args)
    return rule.backward(d, cache)


# ------------------------------------------------------------------------------------------------ cases

TWO = [(normal(3, 5), normal(3, 5, seed=2)), (normal(3, 5), normal(5)), (normal(3, 1), normal(2, 1, 5)),
       (normal(), normal(3)), (normal(3, 5), normal())]
MATRICES = [(normal(3, 5), normal(5, 7)), (normal(2, 3, 5), normal(2, 5, 7)), (normal(7, 1, 3, 5), normal(2, 5, 11)),
            (normal(3, 5), normal(2, 5, 7)), (normal(2, 3, 5), normal(5, 1))]
ENTRIES = [(normal(3, 5),), (normal(),), (normal(7, seed=3),)]
ARGUMENTS = {
    "add": TWO, "subtract": TWO, "multiply": TWO, "matmul": MATRICES,
    "divide": [(a, kinky(*b.shape)) for a, b in TWO],
    "maximum": TWO,
    "negative": ENTRIES, "exp": ENTRIES, "tanh": ENTRIES, "sigmoid": ENTRIES,
    "relu": [(kinky(3, 5),), (kinky(11),)],
    "log": [(positive(3, 5),), (positive(),)], "sqrt": [(positive(3, 5),), (positive(),)],
    "power": [(normal(3, 5), 3), (normal(3, 5), 1), (normal(3, 5), 0), (kinky(7), -2), (positive(7), 0.5),
              (positive(5), -1.5)],
    "sum": [(normal(3, 5), None, False), (normal(3, 5), None, True), (normal(3, 5, 2), 1, False),
            (normal(3, 5, 2), -1, True), (normal(3, 5, 2), (0, 2), False), (normal(3, 5, 2), (-1, 0), True),
            (normal(), None, False), (normal(3, 5), (), False)],
    "reshape": [(normal(3, 5), (5, 3)), (normal(3, 5, 2), (-1,)), (normal(3, 5), ((15,),)), (normal(), (1, 1))],
    "transpose": [(normal(3, 5), (1, 0)), (normal(3, 5, 2), (2, 0, 1)), (normal(3, 5, 2), (1, 2, 0)),
                  (normal(3, 3, 3), (-1, 0, 1)), (normal(3, 3), (-1, -2)), (normal(), ())],
    "index": [(normal(3, 5), (slice(None, None, 2), slice(3, 0, -1))), (normal(3, 5), 1), (normal(3, 5), (..., -1)),
              (normal(3, 5), (None, 2, slice(1))), (normal(3, 5), np.array([2, 0, 2, 2])),
              (normal(3, 5), (np.array([[0, 1], [1, 1]]), slice(1, 3))), (normal(3, 5), [0, 0]),
              (normal(3, 5), np.arange(15).reshape(3, 5) % 2 == 0), (normal(3, 5), (np.int64(2), 1)), (normal(), ...)],
}
JOINS = [([normal(3, 5), normal(3, 2), normal(3, 7)], 1), ([normal(3, 5), normal(2, 5)], 0), ([normal(3)], 0),
         ([normal(2, 3, 5), normal(2, 1, 5)], -2)]
each_rule = pytest.mark.parametrize("name", [*ARGUMENTS, "concatenate"])


def cases(name):
    """Pairs (rule, args)."""
    if name == "concatenate":
        return [(joining(len(arrays), axis), arrays) for arrays, axis in JOINS]
    return [(RULES[name], args) for args in ARGUMENTS[name]]


def test_every_rule_is_tried():
    assert set(ARGUMENTS) == set(RULES)
    assert all(isinstance(rule, Rule) and rule.name == name for name, rule in RULES.items())


# ------------------------------------------------------------------------------------------------ gradients

@each_rule
def test_a_gradient_agrees_with_the_complex_step(name):
    for rule, args in cases(name):
        w = normal(*forward_of(rule, *args).shape, seed=9)
        found = backward_of(rule, w, *args)
        assert len(found) == len(rule.wanted)
        for i, d in zip(rule.wanted, found):
            assert d.shape == args[i].shape and d.dtype == np.float64
            assert relative_error(d, complex_step(rule.forward, args, i, [w])) <= LIMIT


@each_rule
def test_the_kind_of_a_rule_is_what_it_does(name):
    """Linear: f(a + b) = f(a) + f(b). Product: linear in each alone. Entrywise: one entry moves one entry."""
    for rule, args in cases(name):
        arrays, rest = args[:len(rule.wanted)], args[len(rule.wanted):]
        others = [normal(*a.shape, seed=4) for a in arrays]
        y = forward_of(rule, *args)
        if rule.kind == "linear":
            moved = forward_of(rule, *map(np.add, arrays, others), *rest)
            assert relative_error(moved, y + forward_of(rule, *others, *rest)) <= 1e-15
        elif rule.kind == "product":
            (a, b), (c, d) = arrays, others
            assert relative_error(forward_of(rule, a + c, b), y + forward_of(rule, c, b)) <= 1e-14
            assert relative_error(forward_of(rule, a, b + d), y + forward_of(rule, a, d)) <= 1e-14
        elif rule.kind == "entrywise":
            x, = arrays
            assert y.shape == x.shape
            for one in np.eye(x.size):
                moved, = backward_of(rule, one.reshape(x.shape), *args)
                assert not moved.ravel()[one == 0].any()
        else:
            assert rule.kind == "complex" and name in ("divide", "maximum")


@each_rule
def test_float32_stays_float32_and_complex_numbers_stay_complex(name):
    for rule, args in cases(name):
        narrow = [a.astype(np.float32) if getattr(a, "dtype", None) == np.float64 else a for a in args]
        y = forward_of(rule, *narrow)
        assert y.dtype == np.float32 and isinstance(y, np.ndarray)
        expected = backward_of(rule, np.ones(y.shape), *args)
        found = backward_of(rule, np.ones_like(y), *narrow)
        assert max(map(relative_error, found, expected)) <= 1e-4
        assert all(d.dtype == np.float32 for d in found if d.ndim)          # NumPy 1 widens numbers without axes
        first = args[0].astype(complex)
        assert forward_of(rule, first, *args[1:]).dtype == complex


@each_rule
def test_nothing_given_is_changed_and_twice_gives_the_same_bits(name):
    for rule, args in cases(name):
        w = normal(*forward_of(rule, *args).shape, seed=9)
        before = [np.array(a) for a in [*args, w] if isinstance(a, np.ndarray)]
        given = [frozen(a) if isinstance(a, np.ndarray) else a for a in args]
        first, second = (backward_of(rule, frozen(w), *given) for _ in range(2))
        assert same_bits(first, second)
        assert same_bits(first, backward_of(rule, w, *args))
        assert same_bits(before, [a for a in [*args, w] if isinstance(a, np.ndarray)])


@each_rule
def test_strided_arrays_give_the_same(name):
    for rule, args in cases(name):
        w = normal(*forward_of(rule, *args).shape, seed=9)
        if w.ndim and all(args[i].ndim for i in rule.wanted):
            expected = backward_of(rule, w, *args)
            found = backward_of(rule, spread(w), *(spread(a) if i in rule.wanted else a for i, a in enumerate(args)))
            assert max(map(relative_error, found, expected)) <= 1e-15


# ------------------------------------------------------------------------------------------------ edges

@pytest.mark.parametrize("d, shape, expected", [
    (np.ones((2, 3)), (2, 3), [[1, 1, 1], [1, 1, 1]]), (np.ones((2, 3)), (3,), [2, 2, 2]),
    (np.ones((2, 3)), (2, 1), [[3], [3]]), (np.ones((2, 3)), (1, 3), [[2, 2, 2]]), (np.ones((2, 3)), (1, 1), [[6]]),
    (np.ones((2, 3)), (), 6), (np.ones((2, 3)), (1,), [6]), (np.ones((5, 2, 3)), (2, 1), [[15], [15]]),
    (np.ones((0, 3)), (1, 3), [[0, 0, 0]]), (np.ones((0, 3)), (3,), [0, 0, 0]), (np.ones((2, 0)), (2, 1), [[0], [0]]),
    (np.ones((2, 0)), (0,), []), (np.ones((2, 3, 0)), (1, 0), [[]])])
def test_what_broadcasting_copied_is_summed(d, shape, expected):
    found = summed(d, shape)
    assert found.shape == shape and found.tolist() == expected


def test_what_fits_is_handed_on_as_it_is():
    d = normal(2, 3)
    assert summed(d, (2, 3)) is d


@pytest.mark.parametrize("name, args", [
    ("add", (np.zeros((0, 5)), np.ones(5))), ("multiply", (np.zeros((0, 5)), np.ones((1, 5)))),
    ("matmul", (np.zeros((0, 5)), np.ones((5, 3)))), ("matmul", (np.ones((3, 0)), np.ones((0, 5)))),
    ("maximum", (np.zeros((0, 5)), np.ones(5))), ("exp", (np.zeros((0, 5)),)), ("relu", (np.zeros((0, 5)),)),
    ("sigmoid", (np.zeros((0, 5)),)), ("sum", (np.zeros((0, 5)), 0, False)), ("sum", (np.zeros((0, 5)), 1, False)),
    ("reshape", (np.zeros((0, 5)), (5, 0))), ("transpose", (np.zeros((0, 5)), (1, 0))),
    ("index", (np.zeros((0, 5)), (slice(None), 1))), ("index", (np.ones((3, 5)), np.zeros(0, int))),
    ("divide", (np.zeros((0, 5)), np.ones(5)))])
def test_no_examples_give_zero_gradients(name, args):
    rule = RULES[name]
    y = forward_of(rule, *args)
    for i, d in zip(rule.wanted, backward_of(rule, np.ones(y.shape), *args)):
        assert d.shape == args[i].shape and not d.any()


def test_the_first_of_equal_ones_wins_and_nan_wins_over_all():
    a, b = np.array([1.0, 2.0, np.nan, 3.0, np.nan, -0.0]), np.array([2.0, 2.0, 5.0, np.nan, np.nan, 0.0])
    d = np.arange(1.0, 7)
    da, db = backward_of(RULES["maximum"], d, a, b)
    assert da.tolist() == [0, 2, 3, 0, 5, 6] and db.tolist() == [1, 0, 0, 4, 0, 0]
    assert [g.tolist() for g in backward_of(RULES["maximum"], np.full(2, np.inf), a[:2], b[:2])] == [[0, np.inf],
                                                                                                     [np.inf, 0]]
    assert np.isnan(forward_of(RULES["maximum"], a, b)).tolist() == [False, False, True, True, True, False]
    assert forward_of(RULES["maximum"], a, b)[:2].tolist() == [2, 2]


def test_relu_has_derivative_0_at_0_and_lets_nan_through():
    x = np.array([-1.0, -0.0, 0.0, 2.0, np.nan])
    d, = backward_of(RULES["relu"], np.arange(1.0, 6), x)
    assert d.tolist() == [0, 0, 0, 4, 5]
    assert np.isnan(forward_of(RULES["relu"], x)).tolist() == [False] * 4 + [True]
    assert forward_of(RULES["relu"], x)[:4].tolist() == [0, 0, 0, 2]


def test_powers_at_zero_have_their_derivatives():
    zero = np.zeros(1)
    assert [backward_of(RULES["power"], np.ones(1), zero, p)[0][0] for p in (0, 0.0, 1, 2, 3.0)] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("name, args, expected", [
    ("sqrt", (np.zeros(1),), np.inf), ("log", (np.zeros(1),), np.inf), ("power", (np.zeros(1), 0.5), np.inf),
    ("power", (np.zeros(1), -1), -np.inf), ("log", (-np.ones(1),), -1), ("sqrt", (-np.ones(1),), np.nan),
    ("power", (-np.ones(1), 0.5), np.nan), ("power", (np.ones(1), np.nan), np.nan)])
def test_no_finite_derivative_is_made_up_where_there_is_none(name, args, expected):
    with np.errstate(all="ignore"):
        d, = backward_of(RULES[name], np.ones(1), *args)
    np.testing.assert_array_equal(d, [expected])


def test_a_tiny_divisor_is_not_squared():
    _, db = backward_of(RULES["divide"], np.ones(1), np.array([1e-200]), np.array([1e-200]))
    assert db[0] == pytest.approx(-1e200)


def test_no_overflow_at_large_arguments():
    x = np.array([-1000.0, 1000.0])
    for name in ("sigmoid", "tanh"):
        d, = backward_of(RULES[name], np.ones(2), x)
        assert d.tolist() == [0, 0]
        assert forward_of(RULES[name], x)[1] == 1


def test_an_entry_read_twice_gets_both_and_one_not_read_gets_zero():
    d, = backward_of(RULES["index"], np.array([1.0, 10.0, 100.0]), np.zeros(4), np.array([1, 3, 1]))
    assert d.tolist() == [0, 101, 0, 10]


def test_places_that_are_plain_are_written_without_add_at(monkeypatch):
    """The fast way is taken where no entry can be read twice."""
    class NoAdd:
        zeros_like = staticmethod(np.zeros_like)
    monkeypatch.setattr(operations, "np", NoAdd)
    assert operations.scatter(np.ones(2), None, np.zeros((2, 3)), (..., 1)).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert operations.scatter(np.ones((1, 3)), None, np.zeros((2, 3)), slice(1)).tolist() == [[1, 1, 1], [0, 0, 0]]
    with pytest.raises(AttributeError):
        operations.scatter(np.ones(2), None, np.zeros(3), [0, 0])


def test_a_rule_of_ones_own_is_one_line():
    rule = pair("scaled", "product", lambda a, b, twice: a * b * (2 if twice else 1),
                lambda d, y, a, b, twice: (d * b * (2 if twice else 1), d * a * (2 if twice else 1)), 2)
    args = normal(3, 5), normal(3, 1), True
    w = normal(3, 5, seed=2)
    assert rule.name == "scaled" and rule.kind == "product" and rule.wanted == (0, 1)
    assert same_bits(backward_of(rule, w, *args), [2 * (w * args[1]), (w * args[0] * 2).sum(1, keepdims=True)])


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh", "sigmoid"])
def test_a_second_array_is_not_taken_as_a_place_to_write(name):
    out = normal(3)
    with pytest.raises(TypeError):
        RULES[name].forward(positive(3), out)
    assert same_bits([out], [normal(3)])
