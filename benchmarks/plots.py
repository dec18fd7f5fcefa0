"""What was measured, as pictures: ratios as dots, growth as curves. Titles say what the numbers say."""

import importlib.util

import numpy as np

from backprop_lib.speed import exponent

from .report import all_through, base, curve, fits, ratios, verdicts


LOOKS = {"fast": ("#0072B2", "o", 7), "nn": ("#0072B2", "o", 9), "readable": ("#56B4E9", "s", 6),
         "products": ("#009E73", "d", 6), "PyTorch": ("#D55E00", "D", 6), "JAX": ("#E69F00", "^", 7),
         "autograd": ("#777777", "x", 6), "numeric": ("#000000", "v", 6)}
LINE = {"color": "#D55E00", "linestyle": "--", "linewidth": 1.5}


def draw(results, out):
    """Write the pictures; returns pairs (file name, what it shows). None without Matplotlib."""
    if not importlib.util.find_spec("matplotlib"):
        results["left_out"] = sorted({*results["left_out"], "the pictures: Matplotlib is not installed"})
        return []
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot

    from backprop_lib.plotting import STYLE, palette_png
    pictures = []
    with pyplot.style.context(STYLE):
        for name, build in (("ratios", draw_ratios), ("growth", draw_growth)):
            figure, text = build(results, pyplot)
            if figure:
                (out / f"{name}.png").write_bytes(palette_png(figure))
                pictures.append((f"{name}.png", text))
                pyplot.close(figure)
    return pictures


def draw_ratios(results, pyplot):
    """A panel for each width and one for memory: a line a workload, a dot a peer, a bar at the goal."""
    by, panels = base(results), []
    for dtype, rows in results.get("time", {}).items():
        met = [goal for goal, _ in (verdicts(row, by) for row in rows) if goal is not None]
        dots = {name: [np.median(ratios(row, name, by) or np.nan) for row in rows] for name in results["info"]}
        title = f"time, {dtype}" + (f": {sum(met)} of {len(met)} goals met" if met else "")
        panels.append((title, rows, dots, [row["goal"] or np.nan for row in rows] if met else []))
    for rows in results.get("memory", {}).values():
        if None not in (below := [fits(row) for row in rows]):
            dots = {name: [row["MB"][name] / max(row["MB"][by], 0.1) for row in rows] for name in ("nn", "fast")
                    if name in rows[0]["MB"]}
            panels.append((f"memory: {sum(below)} of {len(rows)} at or below", rows, dots, []))
    if not panels:
        return None, ""
    height = 1.6 + 0.33 * max(len(rows) for _, rows, _, _ in panels)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 + 3.1 * len(panels), height), squeeze=False)
    for i, (ax, panel) in enumerate(zip(axes[0], panels)):
        dot_plot(ax, by, *panel, named=i == 0 or len(panel[1]) != len(panels[0][1]))
    entries = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels())))
    figure.legend(entries.values(), entries.keys(), loc="outside lower right", ncols=len(entries))
    return figure, f"Dots, {by} = 1; " + "; ".join(title for title, *_ in panels)


def dot_plot(ax, by, title, rows, dots, goals, named):
    places = np.arange(len(rows))
    for name, values in reversed(dots.items()):                 # fast on top
        if name == by:
            continue
        colour, marker, size = LOOKS[name]
        face = "white" if name == "nn" else colour
        ax.plot(values, places, marker, color=colour, markersize=size, label=name, markeredgewidth=1.5, mfc=face)
    ax.axvline(1, **LINE, label=by)
    if goals:
        ax.plot(goals, places, "|", color="black", markersize=17, markeredgewidth=2, label="goal for fast")
    ax.set(xscale="log", title=title, xlabel=f"{by}'s = 1", ylim=(len(rows) - 0.4, -0.6), yticks=places)
    ax.margins(x=0.08)
    ax.set_yticklabels([row["name"] for row in rows] if named else [])
    number_ticks(ax.xaxis)


def number_ticks(axis, ticks=None):
    """Plain numbers on a logarithmic axis: those given, or 1, 2 and 5 if they fit, else powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    close = (1, 2, 5) if high < 30 * low else (1, 3) if high < 300 * low else (1,)
    axis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=close))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def draw_growth(results, pyplot):
    """A panel for each letter that grows, and one for numeric against analytic gradients."""
    series = [(name, rows[0]["letter"], rows) for name, rows in results.get("growth", {}).items() if all_through(rows)]
    series += [("gradients by differences", "entries", rows) for rows in results.get("numeric", {}).values()
               if all_through(rows)]
    if not series:
        return None, ""
    lines, columns = -(-len(series) // 3), min(len(series), 3)
    figure, axes = pyplot.subplots(lines, columns, figsize=(1 + 3.2 * columns, 0.6 + 2.9 * lines), squeeze=False)
    told, handles = [], {}
    for ax, (name, letter, rows) in zip(axes.flat, series):
        for peer in all_through(rows):
            seconds = curve(rows, peer)
            colour, marker, size = LOOKS[peer]
            handles[peer], = ax.loglog(seconds.keys(), [1e3 * s for s in seconds.values()], marker + "-", color=colour,
                                          markersize=size - 2)
        shown = "numeric" if letter == "entries" else all_through(rows)[0]
        told.append(f"{name}: {shown} ~ {letter}^{exponent(curve(rows, shown)):.2f}")
        ax.set_title(told[-1].replace(": ", "\n"), fontsize=10)
        ax.set(xlabel=letter, ylabel="ms")
        number_ticks(ax.xaxis, [row["size"] for row in rows])
        number_ticks(ax.yaxis)
    for ax in axes.flat[len(series):]:
        ax.set_axis_off()
    figure.legend(handles.values(), handles.keys(), loc="outside lower right", ncols=len(handles))
    return figure, "Curves: milliseconds of a step against size; " + "; ".join(told)
