"""backprop_lib.speed: turns, medians, prices; charts say what was measured. No test depends on a real time."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from arrays import refuses

from backprop_lib import lstm, mlp, speed


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_prices_of_matmul_are_of_one_multiplication(dtype, monkeypatch):
    seen = []
    monkeypatch.setattr(speed, "race", lambda functions, A: (seen.append((A.shape, A.dtype.name)), {len(A): 3.0})[1])
    prices = speed.matmul_prices([10, 1000], dtype)
    assert prices == pytest.approx({10: 3.0 / 10**3 / 10**3 * 1e9, 1000: 3.0 / 10**9 * 1e9})
    assert seen == [((10, 10), dtype), ((1000, 1000), dtype)]
    monkeypatch.undo()
    assert all(price > 0 for price in speed.matmul_prices([4, 8], dtype).values())


def test_both_ways_is_outputs_and_gradients():
    x, W, b = np.ones((2, 3)), np.ones((4, 3)), np.zeros(4)
    z, dx, dW, db = speed.both_ways((mlp.linear_forward, mlp.linear_backward), (x, W, b))
    assert (z == 3).all() and (dx == 12).all() and (dW == 6).all() and (db == 6).all()
    h, dz = speed.both_ways((mlp.relu_forward, mlp.relu_backward), (x,))
    assert (h == 1).all() and (dz == 1).all()
    args = [np.ones(shape) for shape in ((2, 3, 1), (2, 1), (2, 1), (4, 1), (4, 1), (4,))]
    assert len(speed.both_ways((lstm.lstm_forward, lstm.lstm_backward), args)) == 2 + 6


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_its_exponent(k):
    assert speed.exponent({n: 3.0 * n**k for n in (10, 20, 80)}) == pytest.approx(k)


# ------------------------------------------------------------------------------------------------ charts

def test_the_chart_of_products_says_what_small_ones_cost():
    ax = speed.plot_matmul_prices({"float64": {4: 8.0, 64: 0.5}, "float32": {4: 6.0, 64: 0.25}})
    assert ax.get_title() == "float32: a multiplication of 4 × 4 matrices costs 24 times the best"
    assert [line.get_label() for line in ax.get_lines()] == ["float64: at best 0.500 ns", "float32: at best 0.250 ns"]
    assert ax.get_lines()[1].get_ydata().tolist() == [6.0, 0.25]


def test_bars_of_steps_begin_at_the_limit():
    figure, given = plt.subplots()
    ax = speed.plot_steps({"slow": 50.0, "fast": 0.5, "below": 0.05}, 0.1, "what was gained", ax=given)
    assert ax is given and ax.get_title() == "what was gained" and ax.yaxis_inverted()
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches] == [
        (0.1, 50.0), (0.1, 0.5), (0.1, pytest.approx(0.05))]
    assert [text.get_text() for text in ax.texts] == ["500", "5.0", "0.5"]
    assert ax.get_lines()[0].get_xdata()[0] == 0.1 and ax.get_xlim()[0] < 0.05


def test_gains_are_sorted_and_named():
    ax = speed.plot_gains({"a": 6.0, "b": 4.0, "c": 1.0}, {"a": 2.0, "b": 0.5, "c": 2.0})
    assert ax.get_title() == "b gains most, 8.0 times, and c least, 0.5 times"
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
