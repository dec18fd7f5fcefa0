"""How long functions take, side by side, and charts of it whose titles say what was measured."""

import time

import numpy as np

from .checks import require_size
from .plotting import FORWARD, REFERENCE, SECOND, lab_module


def race(functions, *args, rounds=7, clock=time.process_time):
    """{name: median seconds} of each function of these arguments.

    The functions take turns, so that whatever else the machine does hits all of them. The clock of the process counts
    the time in which its threads were running, all together; with time.perf_counter it is the time that passed.
    """
    times = {name: [] for name in functions}
    for _ in range(require_size("race", "rounds", rounds)):
        for name, function in functions.items():
            start = clock()
            function(*args)
            times[name].append(clock() - start)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def matmul_prices(sizes, dtype):
    """{n: nanoseconds per multiplication} of the product of two n x n matrices of this dtype."""
    def products(A):
        for _ in range(max(1, 10**6 // len(A)**3)):
            A @ A

    matrices = {int(n): np.full((n, n), 0.5, dtype) for n in sizes}
    return {n: race({n: products}, A)[n] / max(1, 10**6 // n**3) / n**3 * 1e9 for n, A in matrices.items()}


def both_ways(pair, args):
    """Outputs and gradients of a pair (forward, backward), the outputs standing in for cotangents: a list."""
    *outputs, cache = pair[0](*args)
    gradients = pair[1](*outputs, cache)
    return [*outputs, *(gradients if isinstance(gradients, tuple) else [gradients])]


def exponent(times):
    """The k for which seconds ~ size^k fits {size: seconds} best, on logarithmic axes."""
    sizes, seconds = zip(*times.items())
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


# ------------------------------------------------------------------------------------------------ charts

def plot_matmul_prices(prices):
    """{dtype: {n: price}} as curves; returns the axes."""
    ax = new_axes()
    for (dtype, of_dtype), look in zip(prices.items(), (SECOND, FORWARD)):
        ax.loglog(of_dtype.keys(), of_dtype.values(), **look, marker="o",
                  label=f"{dtype}: at best {min(of_dtype.values()):.3f} ns")
    first = min(of_dtype)
    ax.set(xlabel="size n of the matrices", ylabel="ns per multiplication",
           title=f"{dtype}: a multiplication of {first} × {first} matrices costs "
                 f"{of_dtype[first] / min(of_dtype.values()):,.0f} times the best")
    ax.legend()
    return ax


def plot_steps(prices, limit, title, ax=None):
    """{step: price} as bars that begin at the limit; at each its multiple of the limit. Returns the axes."""
    ax = ax or new_axes()
    names, values = list(prices), np.array(list(prices.values()))
    ax.barh(names, values - limit, left=limit, color=FORWARD["color"], alpha=0.7)
    ax.axvline(limit, **REFERENCE)
    for row, value in enumerate(values):
        digits = 0 if value > 100 * limit else 1
        ax.annotate(f"{value / limit:,.{digits}f}", (max(value, limit), row), (4, 0), textcoords="offset points",
                    va="center")
    ax.set(xscale="log", xlim=(min(limit, *values) / 1.5, values.max() * 6), title=title,
           xlabel="ns per multiplication; at the bars, multiples of the matrix product's")
    ax.invert_yaxis()
    return ax


def plot_gains(before, after):
    """Two dicts {name: seconds}: how many times faster, as bars, the largest on top. Returns the axes."""
    ax = new_axes()
    gains = {name: before[name] / after[name] for name in sorted(before, key=lambda name: before[name] / after[name])}
    ax.bar_label(ax.barh(list(gains), gains.values(), color=FORWARD["color"], alpha=0.7), fmt=" %.1f")
    ax.axvline(1, **REFERENCE)
    least, *_, most = gains
    ax.set(xlabel="times as fast", title=f"{most} gains most, {gains[most]:.1f} times, and {least} least, "
                                         f"{gains[least]:.1f} times", xlim=(0, 1.1 * gains[most]))
    return ax


def plot_growth(times, xlabel):
    """{name: {size: seconds}} on logarithmic axes, each with its exponent. Returns the axes."""
    ax = new_axes()
    for (name, of_name), look in zip(times.items(), (FORWARD, SECOND)):
        ax.loglog(of_name.keys(), [1000 * t for t in of_name.values()], **look, marker="o",
                  label=f"{name}: slope {exponent(of_name):.2f}")
    sizes = list(of_name)
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    steepest = max(map(exponent, times.values()))
    ax.set(xlabel=xlabel, ylabel="ms", title=f"Slope {steepest:.2f} at most: twice the size takes "
                                             f"{2**steepest:.1f} times as long")
    ax.legend()
    return ax


def new_axes():
    return lab_module("matplotlib.pyplot").subplots()[1]
