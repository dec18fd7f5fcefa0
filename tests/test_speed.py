"""backprop_lib.speed: turns, medians, prices; charts say what was measured. No test depends on a real time."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from arrays import normal, refuses, same_bits

from backprop_lib import lstm, mlp, speed
from backprop_lib.gradcheck import relative_error


class Clock:
    """Functions advance it; each reading is what they made of it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def passing(self, *seconds):
        seconds = itertools.cycle(seconds)

        def function(*args):
            self.now += next(seconds)
        return function


def test_a_race_takes_the_median_of_each_function():
    clock = Clock()
    functions = {"even": clock.passing(2.0), "one outlier": clock.passing(1.0, 90.0, 3.0)}
    assert speed.race(functions, rounds=3, clock=clock) == {"even": 2.0, "one outlier": 3.0}
    assert speed.race(functions, rounds=1, clock=clock) == {"even": 2.0, "one outlier": 1.0}


def test_functions_take_turns_with_the_same_arguments():
    seen = []
    speed.race({"a": lambda x: seen.append(("a", x)), "b": lambda x: seen.append(("b", x))}, 7, rounds=2)
    assert seen == [("a", 7), ("b", 7), ("a", 7), ("b", 7)]
    for rounds in (0, 1.5):
        refuses(ValueError, "race: rounds must be a whole number of at least 1", speed.race, {}, rounds=rounds)


def test_prices_of_matmul_are_of_one_multiplication(monkeypatch):
    seen = []

    def race(functions):
        seen.append({name: (f.args[0].shape, f.args[0].dtype.name) for name, f in functions.items()})
        return {"float32": 3.0, "float64": 6.0}
    monkeypatch.setattr(speed, "race", race)
    prices = speed.matmul_prices([10, 1000], ["float32", "float64"])
    assert prices["float32"] == pytest.approx({10: 3.0 / 10**3 / 10**3 * 1e9, 1000: 3.0 / 10**9 * 1e9})
    assert prices["float64"] == pytest.approx({n: 2 * price for n, price in prices["float32"].items()})
    assert seen == [{dtype: ((n, n), dtype) for dtype in prices} for n in (10, 1000)]       # both in one race
    monkeypatch.undo()
    assert all(price > 0 for price in speed.matmul_prices([4, 8], ["float32"])["float32"].values())


def test_both_ways_is_outputs_and_gradients_for_cotangents_of_its_own():
    x, W, b = normal(2, 3), normal(4, 3), normal(4)
    z, dx, dW, db = speed.both_ways((mlp.linear_forward, mlp.linear_backward), (x, W, b))
    dz = np.random.default_rng(0).standard_normal((2, 4))
    assert same_bits((z, dx, dW, db), (x @ W.T + b, dz @ W, dz.T @ x, dz.sum(axis=0)))
    h, dz = speed.both_ways((mlp.relu_forward, lambda dh, cache: dh), (x,))
    assert relative_error(dz, speed.both_ways((mlp.relu_forward, mlp.relu_backward), (x,))[1]) > 0.1
    args = [np.ones(shape) for shape in ((2, 3, 1), (2, 1), (2, 1), (4, 1), (4, 1), (4,))]
    assert len(speed.both_ways((lstm.lstm_forward, lstm.lstm_backward), args)) == 2 + 6
    pair = mlp.relu_forward, mlp.relu_backward
    assert same_bits(speed.both_ways(pair, (x,), [2 * x])[1:], [np.where(x > 0, 2 * x, 0)])
    assert list(speed.race_pairs({"one": pair, "other": pair}, (x,))) == ["one", "other"]
    last = np.ones((4, 2, 2, 3)).transpose(3, 0, 1, 2)
    seen = speed.both_ways((lambda x: (x, ()), lambda dy, cache: dy), (last,))
    assert seen[1].strides == last.strides


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_its_exponent(k):
    assert speed.exponent({n: 3.0 * n**k for n in (10, 20, 80)}) == pytest.approx(k)


# ------------------------------------------------------------------------------------------------ charts

def test_the_chart_of_products_says_what_small_ones_cost():
    ax = speed.plot_matmul_prices({"float64": {4: 8.0, 64: 0.5}, "float32": {4: 6.0, 64: 0.25}})
    assert ax.get_title() == "float32: a multiplication of 4 × 4 matrices costs 24 times the best"
    assert [line.get_label() for line in ax.get_lines()] == ["float64: at best 0.500 ns", "float32: at best 0.250 ns"]
    assert ax.get_lines()[1].get_ydata().tolist() == [6.0, 0.25]


@pytest.mark.parametrize("log, left", [(True, 0.1), (False, 0)])
def test_bars_of_steps_show_the_limit(log, left):
    figure, given = plt.subplots()
    ax = speed.plot_steps({"slow": 50.0, "fast": 0.5, "below": 0.05}, 0.1, "what was gained", given, log)
    assert ax is given and ax.get_title() == "what was gained" and ax.yaxis_inverted()
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches] == [
        (left, 50.0), (left, 0.5), (left, pytest.approx(0.05))]
    assert [text.get_text() for text in ax.texts] == ["500", "5.0", "0.5"]
    assert ax.get_lines()[0].get_xdata()[0] == 0.1 and ax.get_xlim()[0] < 0.05 and ax.get_xlim()[1] > 50
    assert ax.get_xscale() == ("log" if log else "linear")


def test_panels_name_the_fastest_step():
    axes = speed.plot_panels({"small": {"a": 6.0, "b": 2.0}, "large": {"a": 8.0, "b": 9.0}}, 0.1)
    assert [ax.get_title() for ax in axes] == ["small: 3.0 times as fast with b", "large: 1.0 times as fast with a"]
    assert all(ax.yaxis_inverted() for ax in axes)              # once, though the axis is shared
    assert [bar.get_width() for bar in axes[1].patches] == [8.0, 9.0]


def test_gains_are_sorted_and_named():
    ax = speed.plot_gains({"a": {"old": 6.0, "new": 2.0}, "b": {"old": 4.0, "new": 0.5}, "c": {"old": 1.0, "new": 2.0}})
    assert ax.get_title() == "From 0.5 times as fast (c) to 8.0 times (b)"
    assert [bar.get_width() for bar in ax.patches] == [0.5, 3.0, 8.0]
    assert [text.get_text() for text in ax.texts] == [" 0.5", " 3.0", " 8.0"]


def test_growth_names_the_steepest_slope():
    ax = speed.plot_growth({"line": {1: 0.001, 2: 0.002, 4: 0.004}, "square": {1: 0.001, 2: 0.004, 4: 0.016}}, "T")
    assert ax.get_title() == "Slope 2.00 at most: twice the size takes 4.0 times as long"
    assert [line.get_label() for line in ax.get_lines()] == ["line: slope 1.00", "square: slope 2.00"]
    assert ax.get_lines()[0].get_ydata().tolist() == [1.0, 2.0, 4.0] and ax.get_xlabel() == "T"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "4"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")
