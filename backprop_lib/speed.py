"""How long functions take, side by side, and charts of it whose titles say what was measured."""

import time
from functools import partial

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


def matmul_prices(sizes, dtypes):
    """{dtype: {n: nanoseconds per multiplication}} of the product of two n x n matrices."""
    def products(A):
        for _ in range(max(1, 10**6 // len(A)**3)):
            A @ A

    prices = {dtype: {} for dtype in dtypes}
    for n in map(int, sizes):
        calls = {dtype: partial(products, np.full((n, n), 0.5, dtype)) for dtype in dtypes}
        for dtype, seconds in race(calls).items():
            prices[dtype][n] = seconds / max(1, 10**6 // n**3) / n**3 * 1e9
    return prices


def cotangents(forward, args):
    """Random arrays like the outputs, in their order of memory."""
    rng, found = np.random.default_rng(0), []
    for y in forward(*args)[:-1]:
        found.append(np.empty_like(y))
        found[-1][...] = rng.standard_normal(y.shape)
    return found


def both_ways(pair, args, dys=None):
    """Outputs and gradients of a pair (forward, backward), for random cotangents if none are given: a list."""
    dys = cotangents(pair[0], args) if dys is None else dys
    *outputs, cache = pair[0](*args)
    gradients = pair[1](*dys, cache)
    return [*outputs, *(gradients if isinstance(gradients, tuple) else [gradients])]


def race_pairs(pairs, args):
    """{name: median seconds} forward and backward of {name: (forward, backward)}."""
    return race({name: partial(both_ways, pair, args, cotangents(pair[0], args)) for name, pair in pairs.items()})


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


def plot_steps(prices, limit, title, ax=None, log=False):
    """{step: price} as bars, which on a logarithmic axis begin at the limit; at each its multiple. Returns the axes."""
    ax = ax or new_axes()
    names, values, left = list(prices), np.array(list(prices.values())), limit if log else 0
    ax.barh(names, values - left, left=left, color=FORWARD["color"], alpha=0.7)
    ax.axvline(limit, **REFERENCE)
    for row, value in enumerate(values):
        ax.annotate(f"{value / limit:,.{0 if value > 100 * limit else 1}f}", (max(value, limit), row), (4, 0),
                    textcoords="offset points", va="center")
    if log:
        ax.set(xscale="log", xlim=(min(limit, *values) / 1.5, values.max() * 6))
    else:
        ax.set_xlim(0, 1.2 * values.max())
    ax.set(title=title, ylim=(len(values) - 0.4, -0.6),
           xlabel="ns per multiplication (at the bars: times the product's)")
    return ax


def plot_panels(panels, limit):
    """{name: prices} side by side; the titles compare the fastest step with the first. Returns the axes."""
    axes = lab_module("matplotlib.pyplot").subplots(1, len(panels), figsize=(5*len(panels), 3), sharey=True)[1]
    for ax, (name, prices) in zip(axes, panels.items()):
        best, first = min(prices, key=prices.get), next(iter(prices.values()))
        plot_steps(prices, limit, f"{name}: {first / prices[best]:.1f} times as fast with {best}", ax)
        ax.set_xlabel("ns per multiplication")
    return axes


def plot_gains(times):
    """{name: {before: seconds, after: seconds}}: how many times faster, as bars, the most on top. Returns the axes."""
    gains = {name: before / after for name, (before, after) in zip(times, map(dict.values, times.values()))}
    ax, gains = new_axes(), dict(sorted(gains.items(), key=lambda item: item[1]))
    ax.bar_label(ax.barh(list(gains), gains.values(), color=FORWARD["color"], alpha=0.7), fmt=" %.1f")
    ax.axvline(1, **REFERENCE, zorder=0)
    least, *_, most = gains
    ax.set(xlabel="times as fast", xlim=(0, 1.1 * gains[most]),
           title=f"From {gains[least]:.1f} times as fast ({least}) to {gains[most]:.1f} times ({most})")
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
