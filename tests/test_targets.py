"""backprop_lib.targets: what is sent back is an inverse, up to the relaxation; what is fitted is least squares."""

import numpy as np
import pytest
from arrays import frozen, normal, refuses, same_bits, spread

from backprop_lib import data, targets
from backprop_lib.gradcheck import relative_error


def layers_of(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((H, D)), rng.standard_normal(H)) for D, H in zip(sizes, sizes[1:])]


def test_activations_are_tanh_but_the_last():
    (W1, b1), (W2, b2) = layers = layers_of(3, 5, 2)
    x = normal(7, 3)
    hs = targets.activations(layers, x)
    assert [h.shape for h in hs] == [(7, 3), (7, 5), (7, 2)] and hs[0] is x
    for n in range(7):
        h = np.tanh(W1 @ x[n] + b1)
        assert np.allclose(hs[1][n], h, rtol=1e-14) and np.allclose(hs[2][n], W2 @ h + b2, rtol=1e-13)


def test_targets_undo_weights_biases_and_tanh():
    """A square layer can be undone: what it is asked for is h, up to a shift and a scale of the whole layer."""
    (W, b), h = layers_of(4, 4)[0], normal(50, 4)
    asked = np.tanh(targets.targets_before([(W, b)], h @ W.T + b)) / targets.EDGE
    assert np.allclose(asked, 2 * (h - h.min()) / (h.max() - h.min()) - 1, atol=1e-10)


def test_targets_go_back_layer_by_layer():
    layers, t = layers_of(6, 5, 4, 3), normal(20, 3)
    step_by_step = t
    for layer in layers[::-1]:
        step_by_step = targets.targets_before([layer], step_by_step)
    assert (targets.targets_before(layers, t) == step_by_step).all() and targets.targets_before([], t) is t


@pytest.mark.parametrize("K", [1, 3])
def test_targets_have_the_rank_of_the_outputs(K):
    asked = np.tanh(targets.targets_before(layers_of(20, K), normal(200, K)))
    assert np.linalg.matrix_rank(asked - asked.mean(axis=0), tol=1e-9) == K
    assert np.isclose(abs(asked).max(), targets.EDGE) and np.isclose(asked.max(), -asked.min())


def test_targets_that_never_change_are_no_division_by_zero():
    assert targets.targets_before(layers_of(1, 1), np.full((5, 1), 0.3)).tolist() == [[0.0]] * 5


def test_least_squares_leave_a_residual_at_right_angles():
    x, z = normal(30, 4), normal(30, 3)
    W, b = targets.least_squares(x, z)
    residual = z - x @ W.T - b
    assert W.shape == (3, 4) and b.shape == (3,)
    assert abs(residual.T @ x).max() < 1e-12 and abs(residual.sum(axis=0)).max() < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_least_squares_leave_out_what_is_rounding(dtype):
    """Two inputs that differ in last bits share the weight; two that differ by a thousandth do not."""
    x, noise = (a.astype(dtype) for a in (normal(30, 1), normal(30, 1, seed=3)))
    bits = 8 * np.finfo(dtype).eps * noise
    W, b = targets.least_squares(np.hstack([x, x + bits]), 3 * x + noise)
    assert np.isclose(W[0, 0], W[0, 1], rtol=1e-3) and abs(W).max() < 3 and abs(b).max() < 1
    W, _ = targets.least_squares(np.hstack([x, x + noise / 1000]), 3 * x + noise)
    assert np.allclose(W, [[-997, 1000]], rtol=1e-2)


def test_a_linear_network_is_found_exactly():
    x, layer = normal(50, 4), layers_of(4, 3)[0]
    found, = targets.train_by_targets(layers_of(4, 3, seed=1), x, x @ layer[0].T + layer[1])
    assert relative_error(found[0], layer[0]) < 1e-12 and relative_error(found[1], layer[1]) < 1e-12


def test_layers_are_fitted_from_the_first_to_the_last():
    """Each to what came back through the old layers above it, from the new activations below it."""
    x, t = data.products(100, np.random.default_rng(0))
    old = layers_of(4, 6, 5, 3)
    new = targets.train_by_targets(old, x, t)
    for k in range(3):
        reads = targets.activations(new, x)[k]
        W, b = targets.least_squares(reads, targets.targets_before(old[k + 1:], t))
        assert (W == new[k][0]).all() and (b == new[k][1]).all()


def test_sending_back_is_worth_something_and_not_everything():
    """Twenty units, three products as outputs: better than fitting the last layer alone, in three starts of three."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        (x, t), (x_new, t_new) = data.products(200, rng), data.products(500, rng, noise=0)
        start = layers_of(4, 20, 3, seed=seed)
        last = targets.least_squares(targets.activations(start, x)[1], t)
        sent, alone = (np.mean((targets.activations(net, x_new)[-1] - t_new)**2) / t_new.var()
                       for net in (targets.train_by_targets(start, x, t), [start[0], last]))
        assert sent < alone / 2


def test_float32_stays_and_nothing_is_changed():
    x, t, layers = normal(50, 4), normal(50, 3), layers_of(4, 6, 3)
    first = targets.train_by_targets(layers, x, t)
    again = targets.train_by_targets([tuple(map(frozen, layer)) for layer in layers], frozen(x), frozen(t))
    assert all(map(same_bits, first, again))
    strided = targets.train_by_targets([tuple(map(spread, layer)) for layer in layers], spread(x), spread(t))
    assert all(relative_error(a, b) < 1e-10 for pair in zip(first, strided) for a, b in zip(*pair))
    narrow = targets.train_by_targets([tuple(a.astype(np.float32) for a in layer) for layer in layers],
                                      x.astype(np.float32), t.astype(np.float32))
    assert all(a.dtype == np.float32 for layer in narrow for a in layer)


X, T, LAYERS = normal(5, 4), normal(5, 2), layers_of(4, 3, 2)


@pytest.mark.parametrize("error, message, call", [
    (ValueError, "activations: layer 0 must have W (H, 3) and b (H), got (3, 4) and (3,)",
     lambda: targets.activations(LAYERS, X[:, :3])),
    (ValueError, "activations: layer 1 must have W (H, 3) and b (H), got (2, 3) and (1,)",
     lambda: targets.activations([LAYERS[0], (LAYERS[1][0], LAYERS[1][1][:1])], X)),
    (ValueError, "activations: x must have shape (N, features), got (4,)", lambda: targets.activations(LAYERS, X[0])),
    (TypeError, "activations: x must be a NumPy array of float32 or float64, got list",
     lambda: targets.activations(LAYERS, [[1.0] * 4])),
    (TypeError, "activations: b of layer 0 must be a NumPy array of float32 or float64, got int64",
     lambda: targets.activations([(LAYERS[0][0], np.zeros(3, np.int64))], X)),
    (ValueError, "targets_before: the last layer must have as many outputs as t has columns, 1, got 2",
     lambda: targets.targets_before(LAYERS, T[:, :1])),
    (ValueError, "targets_before: t must have at least 1 rows, got shape (0, 2)",
     lambda: targets.targets_before(LAYERS, T[:0])),
    (ValueError, "least_squares: z must have 5 rows, got shape (4, 2)", lambda: targets.least_squares(X, T[:4])),
    (ValueError, "train_by_targets: t must have 5 rows, got shape (1, 2)",
     lambda: targets.train_by_targets(LAYERS, X, T[:1]))])
def test_arrays_that_do_not_fit_are_refused(error, message, call):
    refuses(error, message, call)
