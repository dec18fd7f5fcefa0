"""backprop_lib.crowds: each network of a crowd is what it would be alone, and descends as the recipe of 1986 says."""


import numpy as np
import pytest
from arrays import refuses

from backprop_lib import crowds, mlp
from backprop_lib.data import encoder


S, SIZES = 3, [4, 3, 5, 2]
MASK = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]])


def random_crowd(seed=0, bound=1.0, mask=MASK):
    return crowds.Crowd(S, SIZES, rng=np.random.default_rng(seed), bound=bound, mask=mask)


def examples(rng, N=7):
    return rng.standard_normal((N, 4)), rng.integers(2, size=(N, 2))


def alone(crowd, s, x, dy):
    """Output, gradient of the input and gradients of the parameters of network s, by the functions of `mlp`."""
    h, caches, grads = x, [], {}
    for i in range(crowd.depth):
        z, linear = mlp.linear_forward(h, crowd.params[f"{i}.weight"][s], crowd.params[f"{i}.bias"][s])
        h, bend = mlp.sigmoid_forward(z)
        caches.append((linear, bend))
    for i in reversed(range(crowd.depth)):
        dy, grads[f"{i}.weight"], grads[f"{i}.bias"] = mlp.linear_backward(mlp.sigmoid_backward(dy, caches[i][1]),
                                                                           caches[i][0])
    grads["0.weight"] = grads["0.weight"] * MASK
    return h, dy, grads


def test_each_network_of_a_crowd_is_what_it_is_alone():
    rng = np.random.default_rng(0)
    crowd, (x, _), dy = random_crowd(), examples(rng), rng.standard_normal((S, 7, 2))
    y, dx = crowd.forward(x), crowd.backward(dy)
    assert y.shape == (S, 7, 2) and list(crowd.grads) == list(crowd.params)
    networks = [alone(crowd, s, x, dy[s]) for s in range(S)]
    assert np.allclose(dx, sum(own for _, own, _ in networks), atol=1e-14)
    for s, (h, _, grads) in enumerate(networks):
        assert np.allclose(y[s], h, atol=1e-15)
        assert all(np.allclose(crowd.grads[name][s], grads[name], atol=1e-14) for name in grads)


def test_networks_start_apart_inside_the_bound_with_no_weight_where_the_mask_is_zero():
    crowd = random_crowd(bound=0.25)
    assert {name: p.shape for name, p in crowd.params.items()} == {
        "0.weight": (3, 3, 4), "0.bias": (3, 3), "1.weight": (3, 5, 3), "1.bias": (3, 5), "2.weight": (3, 2, 5),
        "2.bias": (3, 2)}
    everything = np.concatenate([p.ravel() for p in random_crowd(bound=0.25, mask=None).params.values()])
    assert np.abs(everything).max() <= 0.25 and np.ptp(everything) > 0.4 and len(set(everything)) == everything.size
    assert ((crowd.params["0.weight"] != 0) == MASK).all()
    again = random_crowd(bound=0.25)
    assert all((p == again.params[name]).all() for name, p in crowd.params.items())


@pytest.mark.parametrize("shrink, targets", [(0.0, (0.0, 1.0)), (0.01, (0.2, 0.8))])
def test_a_step_goes_along_the_derivative_of_half_the_sum_of_squares(shrink, targets):
    """By complex step, network by network; then the weights shrink, and missing ones stay at 0."""
    crowd, (x, t), (low, high) = random_crowd(bound=3.0), examples(np.random.default_rng(1), 6), targets
    before, y = {name: p.copy() for name, p in crowd.params.items()}, crowd.forward(x)
    assert (y[:, t == 1] > 0.8).any() and (y[:, t == 0] < 0.2).any(), "some outputs are beyond the targets 0.2 and 0.8"

    def error(params):
        h = x
        for i in range(crowd.depth):
            h = mlp.sigmoid(h @ params[f"{i}.weight"].swapaxes(1, 2) + params[f"{i}.bias"][:, None])
        off = np.where(t == 1, np.where(h.real < high, h - high, 0), np.where(h.real > low, h - low, 0))
        return (off**2).sum() / 2

    crowds.train(crowd, x, t, 1, lr=0.3, momentum=0.9, shrink=shrink, targets=targets)
    for name, old in before.items():
        slope = np.zeros_like(old)
        for place in np.ndindex(old.shape):
            moved = {**before, name: old.astype(complex)}
            moved[name][place] += 1e-20j
            slope[place] = error(moved).imag / 1e-20
        exists = MASK if name == "0.weight" else 1
        share = 1 - shrink if name.endswith("weight") else 1
        assert np.allclose(crowd.params[name], share * (old - 0.3 * slope * exists), atol=1e-13)


def test_momentum_adds_a_share_of_the_last_step():
    x, t = np.array([[1.0]]), np.array([[1]])
    crowd = crowds.Crowd(2, [1, 1], rng=np.random.default_rng(0))
    biases, slopes = [], []
    for y in crowds.sweeps(crowd, x, t, 4, lr=0.5, momentum=0.9):
        biases.append(crowd.params["0.bias"].copy())
        slopes.append(((y - 1) * y * (1 - y))[:, 0])
    moved = np.diff(biases, axis=0)
    assert np.allclose(moved[0], -0.5 * slopes[0])
    assert np.allclose(moved[1:], 0.9 * moved[:-1] - 0.5 * np.array(slopes[1:-1]))


def test_sweeps_give_the_outputs_before_each_step_as_new_arrays():
    crowd, (x, t) = random_crowd(), examples(np.random.default_rng(2))
    first = crowd.forward(x).copy()
    history = list(crowds.sweeps(crowd, x, t, 5))
    assert len(history) == 5 and (history[0] == first).all() and not (history[1] == first).any()
    other = random_crowd()
    crowds.train(other, x, t, 5)
    assert all((p == other.params[name]).all() for name, p in crowd.params.items())


def test_the_defaults_are_the_recipe_of_1986():
    (x, t), by_default = examples(np.random.default_rng(1)), crowds.Crowd(S, SIZES, rng=np.random.default_rng(0))
    written = random_crowd(bound=0.3, mask=None)
    crowds.train(by_default, x, t, 3)
    crowds.train(written, x, t, 3, lr=0.1, momentum=0.9, shrink=0.0, targets=(0.0, 1.0))
    assert all((p == written.params[name]).all() for name, p in by_default.params.items())


def test_first_right_counts_steps_and_stops_when_all_are_done():
    t = np.array([[1]])
    history = np.array([[[[0.4]], [[0.6]]], [[[0.7]], [[0.2]]], [[[0.3]], [[0.1]]], [[[0.85]], [[0.1]]]])
    assert crowds.first_right(history, t).tolist() == [1, 0]
    assert np.isinf(crowds.first_right(history, t, 0.1)).all()
    assert crowds.first_right(history, t, 0.35).tolist() == [1, np.inf]
    assert np.isinf(crowds.first_right([np.full((1, 1, 1), 0.5)], t)).all(), "at the tolerance is not below it"
    x, t = encoder(4)
    crowd = crowds.Crowd(5, [4, 3, 4], rng=np.random.default_rng(0), bound=1.0)
    steps = crowds.first_right(crowds.sweeps(crowd, x, t, 5000, lr=0.5), t)
    assert np.isfinite(steps).all() and (np.abs(crowd.forward(x) - t) < 0.5).all()
    again = crowds.Crowd(5, [4, 3, 4], rng=np.random.default_rng(0), bound=1.0)
    assert len(list(zip(crowds.sweeps(again, x, t, 5000, lr=0.5), range(int(steps.max()))))) == steps.max()
    assert not (np.abs(crowd.params["1.bias"] - again.params["1.bias"]) > 0).any(), "no step too many"


@pytest.mark.parametrize("error, message, options", [
    (ValueError, "Crowd: S must be a whole number of at least 1, got 0", {"S": 0}),
    (ValueError, "Crowd: sizes must be a list of at least two whole numbers, got [4]", {"sizes": [4]}),
    (ValueError, "Crowd: sizes[1] must be a whole number of at least 1, got 0", {"sizes": [4, 0, 1]}),
    (TypeError, "Crowd: rng must be a numpy.random.Generator", {"rng": 0}),
    (ValueError, "Crowd: bound must be a finite number >= 0, got -1", {"bound": -1}),
    (ValueError, "Crowd: mask must have shape (3, 4), got (4, 3)", {"mask": MASK.T}),
    (ValueError, "Crowd: mask must hold zeros and ones, got 2", {"mask": 2 * MASK})])
def test_bad_crowds_are_refuses(error, message, options):
    arguments = {"S": S, "sizes": SIZES, "rng": np.random.default_rng(0), **options}
    refuses(error, message, lambda: crowds.Crowd(**arguments))


@pytest.mark.parametrize("error, message, options", [
    (ValueError, "sweeps: count must be a whole number of at least 1, got 0", {"count": 0}),
    (ValueError, "SGD: lr must be a finite number > 0, got 0", {"lr": 0}),
    (ValueError, "SGD: momentum must be a finite number in [0, 1), got 1", {"momentum": 1}),
    (ValueError, "sweeps: shrink must be a finite number in [0, 1), got 1", {"shrink": 1}),
    (ValueError, "sweeps: targets must be a pair of numbers, got 0.2", {"targets": 0.2}),
    (ValueError, "sweeps: targets[0] must be a finite number in [0, 1], got -1", {"targets": (-1, 1)}),
    (ValueError, "sweeps: targets[1] must be a finite number in (0.8, 1], got 0.2", {"targets": (0.8, 0.2)}),
    (ValueError, "sweeps: targets[1] must be a finite number in (0.5, 1], got 0.5", {"targets": (0.5, 0.5)}),
    (ValueError, "sweeps: targets[1] must be a finite number in (0.2, 1], got 1.2", {"targets": (0.2, 1.2)}),
    (ValueError, "sweeps: t must have shape (7, 2), got (7,)", {"t": np.ones(7)}),
    (ValueError, "sweeps: t must hold zeros and ones, got 0.5", {"t": np.full((7, 2), 0.5)}),
    (ValueError, "Crowd: x must have shape (N, 4), got (7, 3)", {"x": np.ones((7, 3))}),
    (TypeError, "Crowd: x must be a NumPy array of float64, got int64", {"x": np.ones((7, 4), np.int64)})])
def test_bad_sweeps_are_refused_before_the_first(error, message, options):
    crowd, (x, t) = random_crowd(), examples(np.random.default_rng(3))
    refuses(error, message, lambda: crowds.sweeps(crowd, **{"x": x, "t": t, "count": 5, **options}))


def test_a_history_of_nothing_is_refuses():
    refuses(ValueError, "first_right: the history must hold the outputs of at least one step, got none",
            lambda: crowds.first_right([], np.ones((1, 1))))
