"""backprop_lib.perceptron: the rules against their definitions, Novikoff's bound, and what is refused."""

import numpy as np
import pytest
from arrays import frozen, normal, refuses, spread

from backprop_lib import data, perceptron
from backprop_lib.gradcheck import relative_error, slope


RULES = [perceptron.perceptron_rule, perceptron.delta_rule]

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


def test_heaviside_is_0_at_the_step():
    assert perceptron.heaviside(np.array([[-1.0, 0.0], [-0.0, 1e-300]])).tolist() == [[0, 0], [0, 1]]
    assert np.isnan(perceptron.heaviside(np.array([np.nan]))).all()


@pytest.mark.parametrize("t", [0, 1])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_perceptron_rule_case_by_case(side, t):
    """Right: nothing. 0 in place of 1: the input is added; 1 in place of 0: it is subtracted."""
    x = np.array([0.5, -2.0, 1.0])
    w = side * np.array([1.0, -1.0, 3.0])                       # the sum has the sign of `side`
    expected = {(-1, 1): w + 0.25 * x, (1, 0): w - 0.25 * x}.get((side, t), w)
    assert (perceptron.perceptron_rule(w, x, t, 0.25) == expected).all()
    assert (perceptron.perceptron_rule(0 * w, x, t) == t * x).all()                     # a sum of 0 is answered by 0


def test_the_delta_rule_steps_against_the_gradient():
    w, x = normal(2, 5)
    for t in (1.0, 0.3, -2):
        step = perceptron.delta_rule(w, x, t, 0.25) - w
        assert relative_error(step, -0.25 * slope(lambda w, t=t: (t - x @ w)**2 / 2, w)) < 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_the_perceptron_stops_within_novikoffs_bound(seed):
    rng = np.random.default_rng(seed)
    teacher, x = rng.standard_normal(3), rng.standard_normal((300, 3))
    x = x[abs(x @ teacher) > 0.3 * np.linalg.norm(teacher)]
    t = perceptron.heaviside(x @ teacher)
    path = perceptron.learn(perceptron.perceptron_rule, np.zeros(3), x, t, epochs=60)
    corrections = (np.diff(path, axis=0) != 0).any(axis=1).sum()
    margin = (abs(x @ teacher) / np.linalg.norm(teacher)).min()
    assert 0 < corrections <= (x**2).sum(axis=1).max() / margin**2
    assert (perceptron.heaviside(x @ path[-1]) == t).all()


def test_the_delta_rule_comes_to_least_squares():
    """Where an exact solution exists it goes there; on XOR, with a small rate, it comes near ½ everywhere."""
    x, w = normal(30, 4), normal(4)
    path = perceptron.learn(perceptron.delta_rule, np.zeros(4), x, x @ w, epochs=200)
    assert relative_error(path[-1], w) < 1e-12
    corners = np.hstack([data.xor()[0], np.ones((4, 1))])
    path = perceptron.learn(lambda *args: perceptron.delta_rule(*args, rate=0.01), np.zeros(3), corners, data.xor()[1],
                            epochs=3000)
    assert abs(corners @ path[-1] - 0.5).max() < 0.02


@each_rule
def test_learn_keeps_every_step_in_order(rule):
    x, w, t = normal(5, 3), normal(3), np.array([0, 1, 1, 0, 1])
    path = perceptron.learn(rule, w, x, t, epochs=2)
    assert path.shape == (11, 3) and (path[0] == w).all()
    for k in range(10):
        assert (path[k + 1] == rule(path[k], x[k % 5], t[k % 5])).all()


@each_rule
def test_float32_stays_and_nothing_is_changed(rule):
    x, w, t = normal(5, 3), normal(3), np.array([0, 1, 1, 0, 1])
    expected = perceptron.learn(rule, w, x, t, epochs=3)
    assert relative_error(perceptron.learn(rule, frozen(w), spread(x), frozen(t), epochs=3), expected) < 1e-13
    narrow = perceptron.learn(rule, w.astype(np.float32), x.astype(np.float32), t * 1.0, epochs=3)
    assert narrow.dtype == np.float32 and relative_error(narrow, expected) < 1e-5


@each_rule
def test_bad_examples_are_refused(rule):
    name, x, w = rule.__name__, normal(3), normal(3)
    refuses(ValueError, f"{name}: w and x must have the same shape (D), got (3,) and (3, 3)", rule, w, normal(3, 3), 1)
    refuses(ValueError, f"{name}: w and x must have the same shape (D), got (3,) and (2,)", rule, w, x[:2], 1)
    refuses(TypeError, f"{name}: x must be a NumPy array of float32 or float64, got list", rule, w, [1.0, 2, 3], 1)
    refuses(TypeError, f"{name}: w must be a NumPy array of float32 or float64, got int64", rule, np.arange(3), x, 1)
    refuses(ValueError, f"{name}: rate must be a finite number, got inf", rule, w, x, 1, np.inf)
    refuses(ValueError, f"{name}: t must be a finite number", rule, w, x, np.nan)


def test_the_classes_of_the_perceptron_are_0_and_1():
    refuses(ValueError, "perceptron_rule: t must be a finite number that is 0 or 1, got -1",
            perceptron.perceptron_rule, normal(3), normal(3), -1)


@pytest.mark.parametrize("w, x, t, epochs, message", [
    (normal(3), normal(5, 3), np.zeros(4), 1, "learn: w, x and t must have shapes (D), (N, D) and (N), got (3,), (5,"),
    (normal(2), normal(5, 3), np.zeros(5), 1, "learn: w, x and t must have shapes"),
    (normal(3), normal(3), np.zeros(3), 1, "learn: w, x and t must have shapes"),
    (normal(3), normal(5, 3), np.zeros(5), 0, "learn: epochs must be a whole number of at least 1, got 0")])
def test_bad_tasks_are_refused(w, x, t, epochs, message):
    refuses(ValueError, message, perceptron.learn, perceptron.delta_rule, w, x, t, epochs)
