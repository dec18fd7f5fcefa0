"""backprop_lib.plain, lists alone, judges the layers and the objects of the library; the loss itself judges plain."""

import ast
import copy
import math
from pathlib import Path

import numpy as np
import pytest
from arrays import refuses

from backprop_lib import mlp, nn, plain
from backprop_lib.gradcheck import relative_error


LIMIT = 1e-12

each_network = pytest.mark.parametrize("sizes", [[3, 2], [3, 5, 2], [2, 5, 3, 7, 1]], ids=str)


def network(sizes, N=7, seed=0):
    """Layers, inputs and targets as arrays, and the same as lists."""
    rng = np.random.default_rng(seed)
    layers = [(rng.standard_normal((H, D)), rng.standard_normal(H)) for D, H in zip(sizes, sizes[1:])]
    x, t = rng.standard_normal((N, sizes[0])), rng.standard_normal((N, sizes[-1]))
    return (layers, x, t), ([(W.tolist(), b.tolist()) for W, b in layers], x.tolist(), t.tolist())


def by_pairs(layers, x, t):
    """The same loss and gradients from the functions of mlp."""
    caches, h = [], x
    for W, b in layers:
        z, linear = mlp.linear_forward(h, W, b)
        h, tanh = mlp.tanh_forward(z)
        caches.append((linear, tanh))
    loss, cache = mlp.mse_forward(h, t)
    dh, found = mlp.mse_backward(1.0, cache), []
    for linear, tanh in reversed(caches):
        dh, *pair = mlp.linear_backward(mlp.tanh_backward(dh, tanh), linear)
        found.insert(0, pair)
    return loss, found, dh


def by_objects(layers, x, t):
    """And from nn, the parameters in the order in which they are registered."""
    rng = np.random.default_rng(1)
    model = nn.Sequential(*(layer for W, _ in layers for layer in (nn.Linear(*W.shape[::-1], rng=rng), nn.Tanh())))
    model.load_state_dict(dict(zip(model.params, (array for layer in layers for array in layer))))
    judge = nn.MSELoss()
    loss = judge.forward(model.forward(x), t)
    dx, grads = model.backward(judge.backward()), list(model.grads.values())
    return loss, list(zip(grads[::2], grads[1::2])), dx


@each_network
@pytest.mark.parametrize("library", [by_pairs, by_objects])
def test_plain_python_and_the_library_agree(sizes, library):
    arrays, lists = network(sizes)
    loss, found, dxs = plain.loss_and_gradients(*lists)
    expected_loss, expected, dx = library(*arrays)
    assert relative_error(loss, expected_loss) < LIMIT and relative_error(dxs, dx) < LIMIT
    for mine, theirs in zip(found, expected, strict=True):
        assert all(relative_error(a, b) < LIMIT for a, b in zip(mine, theirs, strict=True))


def test_one_unit_worked_by_hand():
    """tanh(2 x - 1) at x = 3/4, where the sum is 1/2, target 0, two examples."""
    layers, y = [([[2.0]], [-1.0])], math.tanh(0.5)
    loss, ((dW, db),), dxs = plain.loss_and_gradients(layers, [[0.75], [0.75]], [[0.0], [0.0]])
    dz = 2 * y * (1 - y * y)                                    # of both examples together
    np.testing.assert_allclose([loss, dW[0][0], db[0], dxs[0][0]], [y * y, 0.75 * dz, dz, dz], rtol=1e-14)
    assert plain.forward(layers, [0.75]) == [[0.75], [y]]


@each_network
def test_the_loss_falls_by_the_gradient(sizes):
    """Its own judge: a small step against each gradient lowers the loss by rate times its square."""
    _, (layers, xs, ts) = network(sizes)
    loss, found, _ = plain.loss_and_gradients(layers, xs, ts)
    for k, (dW, db) in enumerate(found):
        for moved, gradient in ((0, dW[0]), (1, db)):
            lower = copy.deepcopy(layers)
            row = lower[k][0][0] if moved == 0 else lower[k][1]
            row[:] = [w - 1e-6 * g for w, g in zip(row, gradient)]
            fall = loss - plain.loss_and_gradients(lower, xs, ts)[0]
            assert math.isclose(fall, 1e-6 * sum(g * g for g in gradient), rel_tol=1e-3)


def test_nothing_is_changed_and_a_second_run_gives_the_same():
    _, lists = network([3, 5, 2])
    before = copy.deepcopy(lists)
    first, second = (plain.loss_and_gradients(*lists) for _ in range(2))
    assert first == second and lists == before


def test_it_imports_math_alone():
    tree = ast.parse(Path(plain.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in imports] == ["import math"]


@pytest.mark.parametrize("change, message", [
    (lambda layers, xs, ts: xs.clear(), "loss_and_gradients: xs must hold at least one example, got none"),
    (lambda layers, xs, ts: ts.pop(), "loss_and_gradients: ts must have length 7, got 6"),
    (lambda layers, xs, ts: ts[3].append(1.0), "loss_and_gradients: each target must have length 2, got 3"),
    (lambda layers, xs, ts: xs[3].pop(), "forward: each row of W of layer 0 must have length 2, got 3"),
    (lambda layers, xs, ts: layers[1][0].pop(), "forward: W of layer 1 must have length 2, got 1"),
    (lambda layers, xs, ts: layers[1][0][1].pop(), "forward: each row of W of layer 1 must have length 5, got 4")])
def test_lists_that_do_not_fit_are_refused(change, message):
    _, lists = network([3, 5, 2])
    change(*lists)
    refuses(ValueError, message, plain.loss_and_gradients, *lists)
