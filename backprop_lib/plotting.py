"""Charts the notebooks draw more than once, in one style: `style()` in the import cell sets it for the session.

Colours have fixed roles and never stand alone: a forward value is blue and solid, a gradient vermillion and dashed, a
second forward quantity sky blue and dash-dotted, a reference black and dotted.
"""

import importlib
import io
import re
from pathlib import Path

import numpy as np

from .checks import require_number


STYLE = Path(__file__).with_name("backprop.mplstyle")
FORWARD = {"color": "#0072B2", "linestyle": "-"}
GRADIENT = {"color": "#D55E00", "linestyle": "--"}
SECOND = {"color": "#56B4E9", "linestyle": "-."}
REFERENCE = {"color": "#000000", "linestyle": ":"}


def lab_module(name):
    """Import a module that only the notebooks need, or say in one line how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name != package:
            raise
        raise ImportError(f'this needs {package}: pip install "backprop-notebooks[lab]"') from None


def style():
    """Use the course's style for every figure of this session."""
    lab_module("matplotlib.style").use(STYLE)


def show(text, figure=None):
    """Show the current figure in a notebook and close it: plt.show() with alternative text, and a small PNG.

    `text` says in a sentence what the picture shows, for those who cannot see it.
    """
    pyplot = lab_module("matplotlib.pyplot")
    figure = pyplot.gcf() if figure is None else figure
    png = palette_png(figure)
    pyplot.close(figure)
    lab_module("IPython.display").display({"image/png": png, "text/plain": text}, raw=True,
                                          metadata={"image/png": {"alt": text}})


def palette_png(figure, fast=False):
    """The bytes of a PNG of the figure with a palette of 256 colours, a third of the usual size.

    Colours stay within 4 of 255 for drawings; `fast` takes a tenth of the time and lets them move by 14.
    """
    canvas = figure.canvas
    if not hasattr(canvas, "buffer_rgba"):
        canvas = lab_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    canvas.draw()
    png = io.BytesIO()
    picture = lab_module("PIL.Image").fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(256, method=2 if fast else 1, dither=0).save(png, "png")
    return png.getvalue()


def bare_figure(figure_class, size):
    """A figure whose parts stay where they are put; a layout engine would double the time to draw it."""
    no_layout = lab_module("matplotlib.layout_engine").PlaceHolderLayoutEngine(True, True)
    return figure_class(figsize=size, layout=no_layout)


def _axes(ax):
    """The axes that are given, or those of a new figure."""
    return lab_module("matplotlib.pyplot").figure().subplots() if ax is None else ax


def short_number(value, digits=3):
    """A few significant digits, large and small numbers as 4.8e6."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.{digits}g}").replace("-", "\N{MINUS SIGN}")


def counted(number, thing):
    """A number of things in words: no outputs, 1 output, 2 outputs."""
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"


# ------------------------------------------------------------------------------------------------ curves and images

def _label_ends(ax, lines, labels):
    """Write the names of one or two curves at their right ends; if these are close, one goes up and the other down."""
    order = sorted(range(len(lines)), key=lambda i: lines[i].get_ydata()[-1])
    ends = [(lines[i].get_xdata()[-1], lines[i].get_ydata()[-1]) for i in order]
    ax.autoscale_view()                                         # the limits are computed late otherwise
    heights = (ax.transData + ax.transAxes.inverted()).transform(ends)[:, 1]
    close = len(lines) > 1 and heights[-1] - heights[0] < 0.1
    for rank, i in enumerate(order):
        alignment = ("bottom" if rank else "top") if close else "center"
        ax.annotate(labels[i], ends[rank], (6, 0), textcoords="offset points", color=lines[i].get_color(),
                    va=alignment, annotation_clip=False)


def plot_curves(x, forward, derivative, title, labels=("h(z)", "dh/dz"), xlabel="z", ax=None):
    """A function and its derivative over the same x, each named at its right end. Returns the axes."""
    ax = _axes(ax)
    lines = ax.plot(x, forward, **FORWARD) + ax.plot(x, derivative, **GRADIENT)
    ax.set(xlabel=xlabel, ylabel=" and ".join(labels), title=title)
    ax.margins(x=0)
    _label_ends(ax, lines, labels)
    return ax


def plot_history(history, axes=None):
    """Loss (logarithmic) and accuracy after every epoch, training and validation: one panel for each that exists.

    `history` is what `backprop_lib.train.fit` returns. Returns the list of axes.
    """
    panels = [("loss", history.loss, history.validation_loss),
              ("accuracy", history.accuracy, history.validation_accuracy)]
    panels = [panel for panel in panels if any(value is not None for values in panel[1:] for value in values)]
    if not panels:
        raise ValueError("plot_history: the history holds no loss and no accuracy")
    if axes is None:
        figure = lab_module("matplotlib.pyplot").figure(figsize=(4.2 * len(panels), 3.4))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, training, validation) in zip(axes, panels):
        ax.set_yscale("log" if name == "loss" else "linear")
        ax.set(xlabel="epoch", ylabel=name, title=_history_message(name, training, validation))
        _plot_epochs(ax, training, validation)
    return list(axes)


def _plot_epochs(ax, training, validation):
    curves = [(training, FORWARD, "training"), (validation, SECOND, "validation")]
    curves = [curve for curve in curves if len(curve[0])]
    marker = "o" if max(len(values) for values, _, _ in curves) < 3 else ""
    lines = [ax.plot(range(1, len(values) + 1), values, marker=marker, **role)[0] for values, role, _ in curves]
    _label_ends(ax, lines, [label for _, _, label in curves])
    ax.set_xlim(left=0.5)
    ax.xaxis.set_major_locator(lab_module("matplotlib.ticker").MaxNLocator(integer=True, min_n_ticks=1))


def _history_message(name, training, validation):
    """The title: where the curve went."""
    values, kind = (validation, "Validation") if len(validation) else (training, "Training")
    return f"{kind} {name} ends at {values[-1]:.3g}"


def show_images(images, titles=None, columns=8, message=None):
    """A grid of small grey images (N, I, J), dark ink on white, with a caption each and a message above.

    The grey scale is the same for all of them: 0 is white, the largest value of all is black. Returns the list of axes.
    """
    images = np.asarray(images)
    if images.ndim != 3 or len(images) == 0:
        raise ValueError(f"show_images: the images must have shape (N, I, J) with N > 0, got {images.shape}")
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    height = 1.05 if titles is None else 1.2
    figure = lab_module("matplotlib.pyplot").figure(figsize=(columns, height * rows + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for n, (ax, image) in enumerate(zip(axes, images)):
        ax.imshow(image, cmap="gray_r", vmin=min(0, images.min()), vmax=images.max())
        if titles is not None:
            ax.set_title(titles[n], fontsize=10, loc="center", pad=3)
    if message:
        figure.suptitle(message, x=0.01, ha="left")
    return list(axes)


# ------------------------------------------------------------------------------------------------ curves over time

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
ALSO_GRADIENT = {**GRADIENT, "marker": "o", "markerfacecolor": "white"}
VALUES_SEEN, SIZES_SEEN = (-0.1, 1.05), (1e-8, 10.0)            # at least, on the two axes of `draw_traces`
SMALLEST = 1e-30                                                # what is smaller is only said


def draw_traces(values, gradients, title, axes=None):
    """Two panels over time: what goes forward, and the absolute value of what comes back, on a logarithmic axis.

    values, gradients  one or two numbers at each time step: {name: (T)}. A gradient of 0, or almost, has no place on
    the axis and is said in words. The second title says what became of the last of the gradients. Returns the axes.
    """
    if axes is None:
        axes = lab_module("matplotlib.pyplot").figure(figsize=(9.1, 3.2)).subplots(1, 2)
    values = {name: np.asarray(value) for name, value in values.items()}
    sizes = {name: np.abs(gradient) for name, gradient in gradients.items()}
    axes[1].set_yscale("log")
    _plot_traces(axes[0], values, (FORWARD, SECOND), _span(values, VALUES_SEEN, (1.05, 1.05)))
    _plot_traces(axes[1], sizes, (GRADIENT, ALSO_GRADIENT), _span(sizes, SIZES_SEEN, (0.5, 2), SMALLEST), SMALLEST)
    for ax, label, message in ((axes[0], "value", title),
                               (axes[1], "size of the gradient", _traces_message(*list(sizes.items())[-1]))):
        ax.set_ylabel(label)
        ax.set_title(message, y=1)                              # a place of its own costs half the time to draw it
    return list(axes)


def _span(series, seen, room, smallest=0):
    """Limits of an axis: those that are always seen, or as far as the numbers go, and some room."""
    numbers = np.concatenate([numbers[abs(numbers) > smallest] for numbers in series.values()])
    return min([seen[0], *(room[0] * numbers)]), max([seen[1], *(room[1] * numbers)])


def _plot_traces(ax, series, roles, limits, smallest=None):
    """One or two curves over time, named at their right ends, without what is too small for a logarithmic axis."""
    ticker, lines, names, small = lab_module("matplotlib.ticker"), [], [], []
    ax.set(xlabel="time step t", xlim=(-0.5, max(map(len, series.values())) - 0.5), ylim=limits)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.yaxis.set_major_formatter(
        lambda value, place: power_of_ten(value) if smallest else short_number(round(value, 9)))
    for (name, numbers), role in zip(series.items(), roles):
        t = np.flatnonzero(numbers > smallest) if smallest else np.arange(len(numbers))
        if len(t):
            lines += ax.plot(t, numbers[t], **{**role, **({"marker": "o"} if len(t) == 1 else {})})
            names.append(name)
        small += [(name, last) for last in np.flatnonzero(numbers <= smallest)[-1:]] if smallest else []
    if lines:
        _label_ends(ax, lines, names)
    for row, (name, last) in enumerate(small):
        ax.text(0.03, 0.05 + 0.1 * row, f"{name} is below {power_of_ten(smallest)} up to t = {last}",
                transform=ax.transAxes)


def _traces_message(name, sizes):
    """What became of a gradient on its way back through time."""
    back, (first, last) = counted(len(sizes) - 1, "step") + " back", sizes[[0, -1]]
    if min(first, last) <= SMALLEST:
        return f"{back}, {name} is below {power_of_ten(SMALLEST)}"
    return f"{back}, {name} is {change_of(last, first)}"


def change_of(before, after):
    """What became of a size, in words."""
    ratio = max(before / after, after / before)
    if ratio < 1.05:
        return "about as large"
    return f"{short_number(ratio, 2)} times {'smaller' if after < before else 'larger'}"


def power_of_ten(value):
    """The name of the power of ten next to a number, such as 10⁻⁶, without the time that mathematics takes."""
    return "10" + str(round(np.log10(value))).translate(SUPERSCRIPTS)


# ------------------------------------------------------------------------------------------------ measured gradients

GREY = "#808080"
COMPARED = ((FORWARD, "o", "○"), (GRADIENT, "s", "□"), (SECOND, "^", "△"), (REFERENCE, "D", "◇"),
            ({"color": GREY, "linestyle": "-"}, "v", "▽"), ({"color": GREY, "linestyle": "--"}, "x", "×"))
NAME_SIZE = 10                                                  # points, of the names at the ends of the lines


def plot_layer_norms(series, title, ax=None, xlabel="layer", ylabel="norm of the gradient"):
    """Sizes layer by layer, counted from 1, on a logarithmic axis; each line is named at its end. Returns the axes.

    series  {name: (L) or (seeds, L)}, up to six; of several seeds the median, in a band from smallest to largest
    What is 0 or below 1e-30 or not finite has no place on the axis: it is left out, and the label below says so.
    """
    return _plot_sizes(series, title, ax, xlabel, ylabel, 1)


def plot_step_norms(series, title, ax=None):
    """Sizes at each time step, otherwise as `plot_layer_norms`: {name: (T) or (seeds, T)}. Returns the axes."""
    return _plot_sizes(series, title, ax, "time step t", "norm of the gradient", 0)


def plot_paths(paths, title, ax=None):
    """The parts of a gradient by the ways they come, {name: (N, T, H)}: their norms at each step. Returns the axes."""
    norms = {name: np.sqrt(np.square(path).sum(axis=(0, 2))) for name, path in paths.items()}
    return _plot_sizes(norms, title, ax, "time step t", "norm of the part", 0)


def plot_singular_values(s, title, ax=None):
    """All singular values of a product of Jacobians, a thin line each, the largest and the smallest named.

    s  (T, S): row k belongs to the product of k + 1 steps. A dotted line marks 1; a value in the grey area is no more
    than the rounding error of the largest, and means nothing. Returns the axes.
    """
    s, steps, ax = np.sort(s), range(1, len(s) + 1), _axes(ax)
    ax.set_yscale("log")
    ax.plot(steps, np.where(_has_place(s), s, np.nan)[:, 1:-1], "-", color="0.7", linewidth=0.7)
    ax.axhline(1, **REFERENCE, linewidth=1)
    rounding, xlabel = np.finfo(s.dtype).eps * s[:, -1], "steps multiplied"
    if np.any(s[:, 0] < rounding):
        ax.fill_between(steps, 0, rounding, where=s[:, 0] < rounding, color="0.92", zorder=0.5)
        xlabel += "\ngrey: not more than the rounding error of the largest"
    return _plot_sizes({"largest": s[:, -1], "smallest": s[:, 0]}, title, ax, xlabel, "singular value", 1)


def _plot_sizes(series, title, ax, xlabel, ylabel, first):
    """Lines on a logarithmic axis over first, first + 1, ...; the label below says what is left out."""
    series = {name: np.atleast_2d(numbers) for name, numbers in series.items()}
    if len(series) > len(COMPARED):
        raise ValueError(f"plotting: there must be at most {len(COMPARED)} series, got {len(series)}: {list(series)}")
    ax = _axes(ax)
    ax.set_yscale("log")
    ax.minorticks_off()
    remarks, lines = [], {}
    for rank, (name, numbers) in enumerate(series.items()):
        middle = np.median(numbers, axis=0)
        remarks += _left_out(name, middle)
        if np.any(_has_place(middle)):
            lines[f"{COMPARED[rank][2]} {name}"] = _plot_size(ax, first, numbers, middle, rank)
    ax.set(xlabel="\n".join([xlabel, *remarks]), ylabel=ylabel, title=title)
    ax.margins(x=0.02, y=0)
    ax.xaxis.set_major_locator(lab_module("matplotlib.ticker").MaxNLocator(integer=True, min_n_ticks=1))
    if lines:
        _set_decades(ax)
        _name_lines(ax, lines)
    else:
        ax.set(xticks=[], yticks=[])
    return ax


def _has_place(numbers):
    return np.isfinite(numbers) & (numbers > SMALLEST)


def _left_out(name, numbers):
    """What a logarithmic axis cannot show, in words."""
    for found, word in ((numbers <= SMALLEST, f"below {power_of_ten(SMALLEST)}"),
                        (~np.isfinite(numbers), "not finite")):
        if found.any():
            yield f"{name} is {word} {'everywhere' if found.all() else f'at {found.sum()} of {found.size} points'}"


def _plot_size(ax, first, numbers, middle, rank):
    """One line with about ten markers, also where a point stands alone, and its band; returns the line."""
    x, (look, marker, _) = np.arange(first, first + len(middle)), COMPARED[rank]
    step, place = -(-len(x) // 12), _has_place(middle)
    alone = place & ~np.append(place[1:], False) & ~np.append(False, place[:-1])
    marked = np.flatnonzero(alone | (x % step == rank % step))
    low, high = numbers.min(axis=0), numbers.max(axis=0)
    if len(numbers) > 1:
        ax.fill_between(x, np.where(low > SMALLEST, low, 0), high, where=place, color=look["color"], alpha=0.2,
                        linewidth=0)
    line, = ax.plot(x, np.where(place, middle, np.nan), **look, marker=marker, markerfacecolor="white",
                    markevery=marked.tolist(), clip_on=False, zorder=3)
    return line


def _set_decades(ax):
    """A logarithmic axis from one power of ten to another, with few numbers on it."""
    low, high = np.round(np.log10(ax.get_ylim()), 6)
    low, high = np.floor(low), max(np.ceil(high), np.floor(low) + 1)
    step = -(-(high - low) // 7)
    ax.set_ylim(10**low, 10**high, auto=None)
    ax.yaxis.set_major_locator(lab_module("matplotlib.ticker").FixedLocator(
        10.0**np.arange(step * np.ceil(low / step), high + 0.5, step)))
    ax.yaxis.set_major_formatter(lambda value, place: power_of_ten(value))


def _name_lines(ax, lines):
    """Names to the right of the ends of lines, moved apart where they would cover each other; a line leads to each."""
    to_axes = ax.transData + ax.transAxes.inverted()
    points = [line.get_xydata()[~np.isnan(line.get_ydata())] for line in lines.values()]
    heights = [to_axes.transform(xy)[:, 1] for xy in points]
    wanted = np.array([0.95 * height[-1] + 0.05 * height.mean() for height in heights])     # many end at one place
    inches = ax.figure.get_figheight() * ax.get_position().height
    for (name, line), xy, place in zip(lines.items(), points, _moved_apart(wanted, 1.6 * NAME_SIZE / 72 / inches)):
        lead = {"arrowstyle": "-", "color": line.get_color(), "linestyle": line.get_linestyle(), "linewidth": 1.2,
                "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
        ax.annotate(name, xy[-1], (24, place), textcoords=("offset points", "axes fraction"), va="center",
                    fontsize=NAME_SIZE, arrowprops=lead, annotation_clip=False)


def _moved_apart(heights, gap):
    """The heights closest to the given ones, in the same order, that leave a gap from each to the next, within 0, 1."""
    order, steps = np.argsort(heights, kind="stable"), gap * np.arange(len(heights))
    wanted = heights[order] - steps
    means = [[wanted[j:k + 1].mean() for k in range(j, len(wanted))] for j in range(len(wanted))]
    rising = [max(min(means[j][i - j:]) for j in range(i + 1)) for i in range(len(wanted))]
    places = np.empty(len(heights))
    places[order] = np.clip(rising, gap / 2, 1 - gap / 2 - steps[-1]) + steps
    return places


def plot_histograms(arrays, names, title, axes=None, role=FORWARD):
    """A histogram of each array, all over the same x axis; zeros are not in the bars, their share is written.

    Each has a height of its own, so compare widths. `role` is GRADIENT for gradients. Returns the list of axes.
    """
    arrays = [np.ravel(array) for array in arrays]
    if axes is None:
        rows, columns = -(-len(arrays) // 5), min(len(arrays), 5)
        figure = lab_module("matplotlib.pyplot").figure(figsize=(7.5, 1.5 * rows + 0.95))
        axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        figure.supxlabel("gradient" if role is GRADIENT else "value", fontsize=11)
        for ax in axes[len(arrays):]:
            ax.axis("off")
        for ax in axes[len(arrays) - columns:]:
            ax.tick_params(labelbottom=True)
    edges = np.histogram_bin_edges(np.concatenate(arrays), 41)
    for ax, array, name in zip(axes, arrays, names):
        counts, zeros = np.histogram(array[array != 0], edges)[0], np.mean(array == 0)
        ax.stairs(counts, edges, fill=True, color=role["color"])
        ax.set(yticks=[], ylim=(0, 1.35 * max(counts.max(), 1)))
        ax.set_title(name, fontsize=NAME_SIZE)
        ax.spines["left"].set_visible(False)
        if zeros:
            ax.text(0.98, 0.97, f"{max(zeros, 0.01):.0%} zeros", fontsize=9, ha="right", va="top",
                    transform=ax.transAxes)
    axes[0].figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return list(axes[:len(arrays)])


def plot_wall(w, b, error, title, ax=None):
    """An error over two parameters w (columns) and b (rows) in shades of grey, dark where it is large; two a decade.

    w (W), b (B) and error (B, W), or all three (B, W). Returns the axes.
    """
    ax = _axes(ax)
    height = np.log10(np.maximum(error, SMALLEST))
    low, high = np.floor(np.percentile(height, 1)), np.floor(height.max()) + 1
    shades = lab_module("matplotlib.colors").LinearSegmentedColormap.from_list("wall", ["white", "0.55"])
    filled = ax.contourf(w, b, height, np.arange(low, high + 0.25, 0.5), cmap=shades, extend="min")
    bar = ax.figure.colorbar(filled, ax=ax, ticks=np.arange(low, high + 0.5), label="error")
    bar.ax.set_yticklabels(map(power_of_ten, 10.0**bar.get_ticks()))
    ax.set(xlabel="w", ylabel="b", title=title)
    ax.grid(False)
    return ax


# ------------------------------------------------------------------------------------------------ matrices

def draw_matrices(matrices, rows, columns, title, digits=0):
    """Draw named matrices side by side with their numbers; shades of blue for positive, of vermillion for negative."""
    widths = [max(np.shape(m)[1], 2) for m in matrices.values()]
    figure, axes = lab_module("matplotlib.pyplot").subplots(
        1, len(matrices), width_ratios=widths, squeeze=False,
        figsize=(max(0.75 * sum(widths) + 0.9 * len(matrices), 6),
                 0.55 * max(len(m) for m in matrices.values()) + 1.3))
    limit = max(np.abs(m).max() for m in matrices.values())
    for ax, (name, matrix) in zip(axes[0], matrices.items()):
        draw_grid(ax, matrix, name, digits=digits, limit=limit, fontsize=11)
        ax.set(xlabel=columns, ylabel=rows, aspect="auto")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return list(axes[0])


def draw_grid(ax, values, title=None, margin=0, outline=(), digits=None, texts=None, limit=None, ink=False,
              fontsize=10):
    """Draw a matrix or a small image as a grid of cells, blue for positive, vermillion for negative; returns the axes.

    margin   rows and columns of padding on every side, a number or a pair: hatched cells outside the matrix
    outline  [(cells, role)]: frames in the role's colour and line style around (row, column) cells, one around all of
             them if they fill a rectangle; rows and columns below 0 or past the end are those of the margin
    digits   decimals of the number in each cell; None for no numbers
    texts    {(row, column): text} for some cells
    limit    the absolute value with the darkest shade, by default the largest; `ink=True` makes it a grey image
    Raises ValueError if the values are not a matrix or a cell lies outside the margin.
    """
    values, (above, aside) = np.asarray(values, dtype=float), np.broadcast_to(margin, 2)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"draw_grid: the values must be a matrix, got shape {values.shape}")
    rows, columns = values.shape
    for i, j in [*(texts or ()), *(cell for cells, _ in outline for cell in cells)]:
        if not (-above <= i < rows + above and -aside <= j < columns + aside):
            raise ValueError(f"draw_grid: there is no cell {i, j} in {rows, columns} with margin {margin}")
    numbers = {} if digits is None else {place: decimals(value, digits) for place, value in np.ndenumerate(values)}
    draw_cells(ax, values, (0, 0, 1), margin, outline, {**numbers, **(texts or {})}, limit, ink, fontsize)
    step = 1 if max(rows, columns) <= 12 else 5
    ax.set(xlim=(-aside - 0.5, columns + aside - 0.5), ylim=(rows + above - 0.5, -above - 0.5), aspect="equal",
           xticks=range(0, columns, step), yticks=range(0, rows, step))
    ax.set_title(title or "", fontsize=11)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return ax


def draw_hinton(ax, weights, title=None, limit=None):
    """A matrix as squares whose area is the size of the number: filled blue if positive, open vermillion if negative.

    weights  (rows, columns)
    limit    the absolute value whose square fills its cell, by default the largest
    Returns the axes. Raises ValueError if the weights are not a matrix of finite numbers.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 2 or weights.size == 0:
        raise ValueError(f"draw_hinton: the weights must be a matrix, got shape {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError(f"draw_hinton: the weights must be finite, got {weights[~np.isfinite(weights)][0]}")
    limit = np.abs(weights).max() or 1.0 if limit is None else limit
    limit = require_number("draw_hinton", "limit", limit, "> 0", lambda value: value > 0)
    for (i, j), weight in np.ndenumerate(weights):
        side, look = 0.9 * np.sqrt(min(abs(weight) / limit, 1)), (FORWARD if weight > 0 else GRADIENT)
        rectangle(ax, j - side / 2, i - side / 2, side, side, facecolor=look["color"] if weight > 0 else "white",
                  edgecolor=look["color"], linewidth=1.2)
    rows, columns = weights.shape
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", facecolor="0.95",
           xticks=range(columns), yticks=range(rows))
    ax.set_title(title or "", fontsize=11)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return ax


def draw_cells(ax, values, place, margin=0, outline=(), texts=None, limit=None, ink=False, fontsize=9):
    """The cells of `draw_grid`; place (x, y, side) is the middle of the first cell and the side, y grows downwards."""
    x, y, side = place
    margin, size = np.broadcast_to(margin, 2), np.array(values.shape)
    limit = limit or np.abs(values).max() or 1.0
    right, bottom = (x, y) + side * (size[::-1] - 0.5)
    image = ax.imshow(values, cmap=_shades(ink), vmin=0 if ink else -limit, vmax=limit, zorder=1,
                      extent=(x - side / 2, right, bottom, y - side / 2))
    dark = np.pad(image.to_rgba(values)[..., :3] @ (0.3, 0.59, 0.11) < 0.46, [(m, m) for m in margin])
    for (i, j), text in (texts or {}).items():
        ax.text(x + side * j, y + side * i, text, color="white" if dark[i + margin[0], j + margin[1]] else "black",
                fontsize=fontsize, ha="center", va="center", linespacing=1.0, zorder=4)
    _draw_rules(ax, place, -margin, size + margin)
    for cells, role in outline:
        _draw_frames(ax, place, np.unique(np.reshape(cells, (-1, 2)), axis=0), role)


def _shades(ink):
    colors = lab_module("matplotlib.colors").LinearSegmentedColormap
    if ink:
        return colors.from_list("ink", ["white", "0.2"])
    paler = [colors.from_list("half", [role["color"], "white"])(0.375) for role in (GRADIENT, FORWARD)]
    return colors.from_list("signed", [paler[0], "white", paler[1]])


def decimals(value, digits):
    """A number with so many decimals, and no minus before 0."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def rectangle(ax, x, y, width, height, **look):
    """Draw a rectangle that may reach out of the axes."""
    patch = lab_module("matplotlib.patches").Rectangle((x, y), width, height, **look)
    ax.add_artist(patch).set_clip_on(False)


def _draw_rules(ax, place, first, last):
    """Thin lines between the cells, over hatching that is seen where there is no image."""
    x, y, side = place
    (top, left), (bottom, right) = ((y, x) + side * (corner - 0.5) for corner in (first, last))
    rectangle(ax, left, top, right - left, bottom - top, facecolor="0.97", edgecolor="0.85", hatch="////", linewidth=0,
               zorder=0)
    lines = [[(left, v), (right, v)] for v in np.linspace(top, bottom, last[0] - first[0] + 1)]
    lines += [[(u, top), (u, bottom)] for u in np.linspace(left, right, last[1] - first[1] + 1)]
    ax.add_artist(lab_module("matplotlib.collections").LineCollection(lines, colors="0.8", linewidths=0.6, zorder=2))


def _draw_frames(ax, place, cells, role):
    """A frame around all cells if they fill a rectangle, otherwise around each; white beneath, to stand out."""
    x, y, side = place
    filled = len(cells) and np.prod(np.ptp(cells, axis=0) + 1) == len(cells)
    blocks = [(cells.min(axis=0), cells.max(axis=0))] if filled else zip(cells, cells)
    for (i, j), last in blocks:
        height, width = side * (last - (i, j) + 1)
        for color, style, line in (("white", "-", 4), (role["color"], role["linestyle"], 2.2)):
            rectangle(ax, x + side * (j - 0.5), y + side * (i - 0.5), width, height, fill=False, edgecolor=color,
                       linestyle=style, linewidth=line, zorder=3)
