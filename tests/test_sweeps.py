"""backprop_lib.sweeps: forward mode, paths one by one, and the multiplications that each way costs."""

import numpy as np
import pytest
from arrays import normal, refuses

from backprop_lib import lstm, norm
from backprop_lib.autodiff import (
    Node,
    apply,
    concatenate,
    exp,
    gradients,
    log,
    matmul,
    maximum,
    relu,
    sigmoid,
    sqrt,
    stack,
    tanh,
)
from backprop_lib.gradcheck import relative_error
from backprop_lib.sweeps import count_multiplications, directional, path_sum, rates


LIMIT = 1e-12


# ------------------------------------------------------------------------------------------------ helpers

def network(x, *weights):
    for W in weights[:-1]:
        x = tanh(x @ W)
    return x @ weights[-1]


def weights_of(sizes):
    return [normal(1, sizes[0])] + [normal(a, b) / np.sqrt(a) for a, b in zip(sizes, sizes[1:])]


# ------------------------------------------------------------------------------------------------ forward mode

# Each operation of the table, with nodes that rest, that move twice, and that are broadcast.
EXPRESSIONS = {
    "add": lambda a, b: a + b[0] + b, "subtract": lambda a, b: a - b - 2.0, "negative": lambda a, b: -a,
    "multiply": lambda a, b: a * b * a * 3.0, "divide": lambda a, b: a / (b * b + 1) + 1 / (2 + a * a),
    "matmul": lambda a, b: a @ b.T + normal(3, 5) @ a.T, "matmul of itself": lambda a, b: a.T @ a,
    "vectors": lambda a, b: matmul(a[0], b[1]) + a[1] @ b[0], "maximum": lambda a, b: maximum(a, b) + maximum(0.5, a),
    "power": lambda a, b: a**3 + b**0 + b**1, "exp": lambda a, b: exp(a), "log": lambda a, b: log(a * a),
    "sqrt": lambda a, b: sqrt(b * b + 1), "tanh": lambda a, b: tanh(a) * b, "sigmoid": lambda a, b: sigmoid(b),
    "relu": lambda a, b: relu(a - b), "sum": lambda a, b: a.sum(axis=1) + b.sum(), "mean": lambda a, b: a.mean((0, 1)),
    "reshape": lambda a, b: a.reshape(5, 3), "transpose": lambda a, b: a.T @ b, "index": lambda a, b: a[[0, 2, 2], 1:],
    "concatenate": lambda a, b: concatenate([a, normal(3, 5), a * b]), "stack": lambda a, b: stack([b, a, b], -1),
    "nothing that moves": lambda a, b: Node(normal(3)) * 2,
    "layer norm": lambda a, b: apply(norm.layer_norm_forward, norm.layer_norm_backward, a, b[0], b[1]),
}
every_expression = pytest.mark.parametrize("name", EXPRESSIONS)


@every_expression
def test_both_modes_agree(name):
    """w . (J v) = (J^T w) . v"""
    a, b = Node(normal(3, 5)), Node(normal(3, 5, seed=2))
    y = EXPRESSIONS[name](a, b)
    w, v, u = normal(*y.shape, seed=3), normal(3, 5, seed=4), normal(3, 5, seed=5)
    dy = directional(y, (a, v), (b, u))
    da, db = gradients(y, a, b, cotangent=w)
    assert dy.shape == y.shape and dy.dtype == np.float64 and type(dy) is np.ndarray
    assert abs(np.sum(w * dy) - np.sum(da * v) - np.sum(db * u)) <= LIMIT * np.sum(np.abs(da * v) + np.abs(db * u))
    alone = directional(y, (a, v))
    assert abs(np.sum(w * alone) - np.sum(da * v)) <= LIMIT * np.sum(np.abs(da * v))
    assert relative_error(alone + directional(y, (b, u)), dy) <= LIMIT


@every_expression
def test_float32_stays_float32(name):
    def narrow(value):
        return value.astype(np.float32)
    a, b = Node(narrow(normal(3, 5))), Node(narrow(normal(3, 5, seed=2)))
    if name in ("matmul", "concatenate"):                       # these hold arrays of float64
        return
    y = EXPRESSIONS[name](a, b)
    dy = directional(y, (a, narrow(normal(3, 5, seed=4))))
    assert dy.dtype == y.value.dtype
    wide = [Node(node.value.astype(float)) for node in (a, b)]
    expected = directional(EXPRESSIONS[name](*wide), (wide[0], normal(3, 5, seed=4)))
    assert relative_error(dy, expected) <= 1e-5


def test_the_derivative_along_a_direction_is_the_slope_there():
    x, W = Node(normal(3, 5)), normal(5, 7)
    v, h = normal(3, 5, seed=2), 1e-6
    ahead, behind = (np.tanh((x.value + s * h * v) @ W) for s in (1, -1))
    assert relative_error(directional(tanh(x @ W), (x, v)), (ahead - behind) / (2 * h)) <= 1e-8


def test_moves_of_a_node_in_between_and_of_one_node_twice_add():
    x, W = Node(normal(3, 5)), Node(normal(5, 7))
    h = tanh(x @ W)
    L = (h * h).sum()
    v, u = normal(3, 5, seed=2), normal(3, 7, seed=3)
    dx, dh = gradients(L, x, h)
    assert directional(L, (x, v), (h, u)) == pytest.approx(np.sum(dx * v) + np.sum(dh * u), rel=LIMIT)
    assert directional(L, (h, u), (x, v)) == pytest.approx(np.sum(dx * v) + np.sum(dh * u), rel=LIMIT)
    assert directional(L, (x, v), (x, 2 * v)) == pytest.approx(3 * np.sum(dx * v), rel=LIMIT)
    assert directional(h, (h, u)).tolist() == u.tolist()
    zero = Node(np.zeros((3, 5)))
    assert (directional(zero * 3, (zero, v)) == 3 * v).all()


def test_the_second_output_of_a_pair_moves_by_its_own_derivative():
    shapes = (2, 5), (2, 3), (2, 3), (12, 5), (12, 3), (12,)
    args = [Node(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
    w, v = normal(2, 3, seed=6), normal(2, 5, seed=7)
    for y in apply(lstm.lstm_step_forward, lstm.lstm_step_backward, *args):
        assert np.sum(w * directional(y, (args[0], v))) == pytest.approx(
            np.sum(gradients(y, args[0], cotangent=w) * v), rel=LIMIT)


def test_a_derivative_is_an_array_of_the_readers_own():
    x, v = Node(normal(3)), normal(3, seed=2)
    dy = directional(x, (x, v))
    dy[:] = 0
    assert v.all()
    assert not directional(x * 2, (Node(1.0), 1.0)).any()
    y = x + 0
    assert (directional(y, (x, v)) == v).all() and (directional(y, (x, v)) == v).all()


def test_what_forward_mode_refuses():
    x, W = Node(normal(3, 5)), Node(normal(5, 7))
    h = tanh(x @ W)
    refuses(ValueError, "directional: direction must have the shape (3, 5) of its node, got (5,)", directional, h,
            (x, normal(5)))
    refuses(TypeError, "directional: direction must be a NumPy array of float64, got float32", directional, h,
            (x, normal(3, 5).astype(np.float32)))
    refuses(TypeError, "directional: expected a Node, got ndarray", directional, h, (x.value, normal(3, 5)))
    refuses(TypeError, "directional: expected a Node, got tuple", directional, (h, h), (x, normal(3, 5)))
    x.value[0] = 0
    refuses(RuntimeError, "matmul: argument 0, an array of shape (3, 5), was changed in place", directional, h,
            (W, normal(5, 7)))


def test_a_pair_that_drops_imaginary_parts_is_refused():
    def forward(x):
        return np.abs(x), np.sign(x)
    x = Node(normal(3))
    y = apply(forward, lambda d, sign: d * sign, x)
    assert (gradients(y.sum(), x) == np.sign(x.value)).all()
    refuses(TypeError, "directional: the forward of forward drops imaginary parts", directional, y, (x, normal(3)))
    y, z = apply(lambda x: (2 * x, *forward(x)), lambda d, e, sign: 2 * d + e * sign, x)
    refuses(TypeError, "drops imaginary parts", directional, y + z, (x, normal(3)))


def unit_forward(x):
    length = np.linalg.norm(x)                                  # a float, also of complex numbers
    return x / length, (x, length)


def unit_backward(d, cache):
    x, length = cache
    return d / length - x * (d @ x) / length**3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pair_that_drops_some_imaginary_parts_is_refused(dtype):
    """x / |x| stays complex, but half of its derivative is lost."""
    x, v = Node(normal(3).astype(dtype)), normal(3, seed=2).astype(dtype)
    words = "directional: forward and backward of unit do not agree, so no direction can be carried through it"
    refuses(TypeError, words, directional, apply(unit_forward, unit_backward, x), (x, v))
    y = apply(lambda x: ((x @ x)**0.5 * x, x), lambda d, x: d * np.sqrt(x @ x) + x * (d @ x) / np.sqrt(x @ x), x)
    assert relative_error(directional(y, (x, v)), np.array([gradients(y, x, cotangent=e) for e in np.eye(3, dtype=dtype)
                                                            ]) @ v) <= {4: 1e-6, 8: LIMIT}[x.value.itemsize]


def test_a_pair_that_draws_again_is_refused():
    def forward(x, rng):
        mask = rng.random(x.shape) < 0.5
        return x * mask, mask
    x = Node(normal(20))
    y = apply(forward, lambda d, mask: d * mask, x, np.random.default_rng(0))
    refuses(TypeError, "directional: forward and backward of forward do not agree", directional, y, (x, normal(20)))


def test_a_pair_that_gets_one_node_twice_or_a_node_that_rests_agrees():
    a, b, v = Node(normal(3)), Node(normal(3, seed=2)), normal(3, seed=3)

    def product(a, b):
        return apply(lambda a, b: (a * b, (a, b)), lambda d, cache: (d * cache[1], d * cache[0]), a, b)
    assert relative_error(directional(product(a, a), (a, v)), 2 * a.value * v) <= LIMIT
    assert relative_error(directional(product(a, b), (b, v)), a.value * v) <= LIMIT
    assert relative_error(directional(product(a, b), (b, v), (a, v)), (a.value + b.value) * v) <= LIMIT
    assert relative_error(directional(product(a, b), (b, 1e30 * v)), a.value * 1e30 * v) <= LIMIT
    assert directional(product(a, b), (a, 0 * v)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_the_size_of_a_direction_and_of_a_value_does_not_matter(size):
    x, v = Node(np.array([2.0, -4.0])), np.array([1.0, 3.0])
    assert relative_error(directional(1 / x, (x, size * v)) / size, -v / x.value**2) <= LIMIT
    for small in (1e-30, 1e-80):
        x = Node(np.array([2.0, -4.0]) * small)
        assert relative_error(directional(small / x, (x, small * v)), -v * small**2 / x.value**2) <= LIMIT
        assert relative_error(directional(small / x, (x, v)) * small, -v * small**2 / x.value**2) <= LIMIT


def test_nan_and_infinity_in_a_direction_stay_at_their_entries():
    x = Node(np.array([2.0, -4.0, 1.0]))
    with np.errstate(invalid="ignore"):
        dy = directional(1 / x, (x, np.array([np.nan, 1.0, np.inf])))
    assert np.isfinite(dy).tolist() == [False, True, False] and dy[1] == -0.0625


def test_a_tiny_direction_of_float32_is_not_lost():
    x, v = Node(np.array([2.0, 4.0], np.float32)), np.array([1e-12, 1e-20], np.float32)
    assert relative_error(directional(1 / x, (x, v))[0], -0.25e-12) <= 1e-6
    assert relative_error(directional(1 / x, (x, v))[1], -0.0625e-20) <= 1e-6


# ------------------------------------------------------------------------------------------------ path by path

def lattice(x, width, depth):
    """Units that are single numbers: each of `width` units reads all units of the layer before."""
    rng = np.random.default_rng(3)
    units = [x * rng.standard_normal() for _ in range(width)]
    for _ in range(depth - 1):
        units = [tanh(sum(rng.standard_normal() * h for h in units)) for _ in range(width)]
    return sum(units)


def test_rates_are_what_stands_on_the_arrows():
    x, y = Node(3.0), Node(-4.0)
    assert rates(x) == []
    assert [(before, float(rate)) for before, rate in rates(x * y)] == [(x, -4), (y, 3)]
    assert [(before, float(rate)) for before, rate in rates(x * x)] == [(x, 3), (x, 3)]
    assert [(before, float(rate)) for before, rate in rates(2 * x)] == [(x, 2)]
    one = Node(np.array([[3.0]]))
    assert [float(rate[0, 0]) for _, rate in rates(one**2)] == [6]


def test_each_output_of_a_pair_has_rates_of_its_own():
    def backward(dy, dz, x):
        return 2 * x * dy + 3 * dz
    x = Node(5.0)
    y, z = apply(lambda x: (x * x, 3 * x, x), backward, x)
    assert [float(rate) for _, rate in rates(y)] == [10] and [float(rate) for _, rate in rates(z)] == [3]
    assert path_sum(y * z, x)[:2] == (10 * 15 + 3 * 25, 2)


@pytest.mark.parametrize("depth, multiplications", [(1, 8), (2, 41), (4, 437), (6, 4001)])
def test_the_sum_over_all_paths_is_the_gradient_and_costs_more(depth, multiplications):
    x = Node(0.3)
    L = lattice(x, 3, depth)
    derivative, paths, products = path_sum(L, x)
    assert paths == 3**depth and products == multiplications
    assert derivative == pytest.approx(float(gradients(L, x)), rel=LIMIT)

    def sweep(x):
        x = Node(x)
        return gradients(lattice(x, 3, depth), x)
    both, values = (count_multiplications(f, np.array(0.3)) for f in (sweep, lambda x: lattice(Node(x), 3, depth)))
    assert both - values == {1: 6, 2: 30, 4: 78, 6: 126}[depth]


def test_sixteen_squarings_have_65536_paths():
    x = h = Node(1.0)
    for _ in range(12):
        h = h * h
    assert path_sum(h, x) == (2**12, 2**12, 2**13 - 2) and gradients(h, x) == 2**12


def test_paths_end_at_the_node_and_others_are_left_out():
    x, y = Node(2.0), Node(5.0)
    h = x * y
    assert path_sum(h * h + y, h)[:2] == (20.0, 2)
    assert path_sum(h, Node(1.0))[:2] == (0.0, 0)
    assert path_sum(h, h) == (1.0, 1, 0)
    one = Node(np.array([2.0]))
    assert path_sum(one * one, one)[:2] == (4.0, 2)


def test_what_paths_refuse():
    x = Node(normal(3))
    refuses(ValueError, "rates: each node must be a single number, got shape (3,)", rates, x)
    refuses(ValueError, "rates: each node must be a single number, got shape (3,)", rates, x.sum())
    refuses(ValueError, "rates: each node must be a single number, got shape (3,)", path_sum, x.sum(), x)
    refuses(TypeError, "rates: expected a Node, got float", rates, 1.0)
    refuses(TypeError, "path_sum: expected a Node, got float", path_sum, x.sum(), 1.0)
    y = Node(2.0)
    z = y * 3.0
    y.value[...] = 4
    refuses(RuntimeError, "multiply: argument 0, an array of shape (), was changed in place", rates, z)
    refuses(RuntimeError, "was changed in place", path_sum, z, y)


# ------------------------------------------------------------------------------------------------ counting

A, B = normal(3, 5), normal(5, 7)
COUNTS = {
    "entry by entry": (lambda a, b: a * a, 15), "broadcast": (lambda a, b: a[0] * a, 15),
    "by a number": (lambda a, b: 2.0 * a / 3.0, 30), "matrix product": (lambda a, b: a @ b, 3*5*7),
    "matrix and vector": (lambda a, b: a @ b[:, 0], 15), "vectors": (lambda a, b: a[0] @ b[:, 0], 5),
    "batch": (lambda a, b: np.stack([a, a]) @ b, 2*3*5*7), "batch beside": (lambda a, b: a @ np.stack([b, b]), 2*3*5*7),
    "square": (lambda a, b: a**2, 15),
    "in place": (lambda a, b: a.__imul__(2.0), 15), "beside plain arrays": (lambda a, b: np.ones((2, 1, 5)) * a, 30),
    "an array beside a node": (lambda a, b: a * Node(a) + Node(b.T[:3, :5]) * a, 30),
    "an outer product": (lambda a, b: np.multiply(a[0][:, None], b[0]), 35),
    "additions": (lambda a, b: a + a - a.sum() + a.max(), 0),
    "functions": (lambda a, b: np.tanh(np.exp(a)), 0), "after a transposition": (lambda a, b: b.T @ a.T, 3*5*7),
    "after a function": (lambda a, b: np.where(np.exp(a) > 1, a, 0) * 2, 15), "nothing": (lambda a, b: a, 0),
    "one over": (lambda a, b: np.reciprocal(a) + a**-1, 30), "whole parts": (lambda a, b: a // 2.0, 15),
    "a step down": (lambda a, b: a - 0.1 * gradients((n := Node(a)).sum(), n), 15),
    "a step ahead": (lambda a, b: 0.1 * directional((n := Node(a)) + 1.0, (n, a)), 15),
    "on nodes": (lambda a, b: Node(a) @ Node(b) * 2.0, 3*5*7 + 21),
    "of a number without axes": (lambda a, b: a[0, 0] * a[0, 1] * 3.0, 2),
    "by way of add.at": (lambda a, b: gradients((Node(a)[[0, 0]] * 3.0).sum()), 30),
    "after relu": (lambda a, b: relu(Node(a)) * 2.0, 15),
    "after one entry of a node": (lambda a, b: Node(a)[0, 0] * 2.0, 1),
    "after a maximum": (lambda a, b: maximum(Node(a), 0.0) / 2.0, 15),
}


@pytest.mark.parametrize("name", COUNTS)
def test_multiplications_are_counted_where_they_are_carried_out(name):
    function, expected = COUNTS[name]
    assert count_multiplications(function, A.copy(), B) == expected


def test_numbers_and_options_are_handed_on():
    given = []
    assert count_multiplications(lambda a, *options: given.extend(options) or a * a, A, 5, None, 0.5) == 15
    assert given == [5, None, 0.5] and [type(a) for a in given] == [int, type(None), float]


def test_counting_changes_no_number():
    results = []

    def function(x, W):
        x, W = Node(x), Node(W)
        h = tanh(x @ W) / 3
        results.append(list(map(np.asarray, (h.value, *gradients((h * h).mean(), x, W)))))
        results[-1].append(directional(h, (x, A)))
    function(A, B)
    count_multiplications(function, A, B)
    assert all((a == b).all() for a, b in zip(*results))
    assert type(A) is np.ndarray


@pytest.mark.parametrize("function", [
    lambda a, b: np.einsum("ij,jk", a, b), lambda a, b: np.dot(a, b), lambda a, b: a.dot(b),
    lambda a, b: np.inner(a, a), lambda a, b: np.outer(a, b), lambda a, b: np.kron(a, b),
    lambda a, b: np.cross(a[:, :3], a[:, 2:]), lambda a, b: np.correlate(a[0], a[1]),
    lambda a, b: np.tensordot(a, b, 1), lambda a, b: np.vdot(a, a), lambda a, b: np.convolve(a[0], b[0]),
    lambda a, b: np.linalg.norm(a), lambda a, b: np.linalg.solve(a[:, :3], a[:, 0]), lambda a, b: np.fft.fft(a),
    lambda a, b: np.cov(a), lambda a, b: np.corrcoef(a), lambda a, b: np.interp(a, b[0], b[0]),
    lambda a, b: np.broadcast_arrays(a, a[0]), lambda a, b: np.prod(a), lambda a, b: a.cumprod(),
    lambda a, b: np.multiply.reduce(a), lambda a, b: getattr(np, "vecdot", np.vdot)(a, a)])
def test_what_cannot_be_counted_is_refused(function):
    with pytest.raises(TypeError, match="count_multiplications: cannot see into np.*; write "):
        count_multiplications(function, A, B)


def test_forward_against_reverse_mode_counted():
    """One output: one sweep back. One input: one sweep forward. The same Jacobian."""
    counted = {}
    for sizes in ([64, 32, 32, 1], [1, 32, 32, 64]):
        arrays, D, K = weights_of(sizes), sizes[0], sizes[-1]

        def back(x, *weights, K=K):
            x = Node(x)
            y = network(x, *weights)
            return np.concatenate([gradients(y[0, k], x) for k in range(K)])

        def on(x, *weights, D=D):
            x = Node(x)
            y = network(x, *weights)
            return np.concatenate([directional(y, (x, e[None])) for e in np.eye(D)]).T
        values = count_multiplications(lambda *arrays: network(*map(Node, arrays)), *arrays)
        assert values == sum(a * b for a, b in zip(sizes, sizes[1:])) == 3104
        counted[D, K] = [count_multiplications(f, *arrays) - values for f in (back, on)]
        assert relative_error(back(*arrays), on(*arrays)) <= LIMIT
    assert counted == {(64, 1): [6336, 206848], (1, 64): [405504, 3232]}


def test_all_weights_cost_one_sweep_back_of_twice_the_values():
    arrays = weights_of([64, 32, 32, 1])

    def back(*arrays):
        nodes = list(map(Node, arrays))
        return gradients(network(*nodes), *nodes)
    assert count_multiplications(back, *arrays) - 3104 == 6336


def test_products_of_jacobians_from_both_ends():
    sizes = [1, 20, 100, 200, 400]                              # the loss first, the inputs last
    J = [normal(a, b) for a, b in zip(sizes, sizes[1:])]

    def from_the_loss(a, b, c, d):
        return ((a @ b) @ c) @ d

    def from_the_inputs(a, b, c, d):
        return a @ (b @ (c @ d))
    assert relative_error(from_the_loss(*J), from_the_inputs(*J)) <= LIMIT
    assert count_multiplications(from_the_loss, *J) == 102_000
    assert count_multiplications(from_the_inputs, *J) == 8_808_000


def test_what_a_reader_calls_has_a_docstring():
    assert all(function.__doc__ for function in (directional, rates, path_sum, count_multiplications))
