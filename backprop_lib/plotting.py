"""Figures the notebooks draw more than once, in one style: `style()` in the import cell sets it for the session.

Colours have fixed roles and never stand alone: a forward value is blue and solid, a gradient vermillion and dashed, a
second forward quantity sky blue and dash-dotted, a reference black and dotted.
"""

import importlib
import io
from pathlib import Path

import numpy as np

from . import cnn, mlp


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
    picture = lab_module("PIL.Image").fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    picture.quantize(256, method=2 if fast else 1, dither=0).save(png, "png")
    return png.getvalue()


# ------------------------------------------------------------------------------------------------ the small network

def network_pass(W1, b1, W2, b2, x, t):
    """Forward and backward pass of linear, sigmoid, linear, sigmoid, mean squared error: (values, gradients).

    Both are dictionaries with the keys W1, b1, W2, b2, x, h, y, loss; `values` also has t. One example x (D,) is taken
    as the batch (1, D), and so is its target t.
    """
    W1, b1, W2, b2 = map(np.asarray, (W1, b1, W2, b2))
    x, t = np.atleast_2d(x), np.atleast_2d(t)
    z1, cache_1 = mlp.linear_forward(x, W1, b1)
    h, cache_h = mlp.sigmoid_forward(z1)
    z2, cache_2 = mlp.linear_forward(h, W2, b2)
    y, cache_y = mlp.sigmoid_forward(z2)
    loss, cache_loss = mlp.mse_forward(y, t)

    dy = mlp.mse_backward(1.0, cache_loss)
    dh, dW2, db2 = mlp.linear_backward(mlp.sigmoid_backward(dy, cache_y), cache_2)
    dx, dW1, db1 = mlp.linear_backward(mlp.sigmoid_backward(dh, cache_h), cache_1)
    values = {"x": x, "W1": W1, "b1": b1, "h": h, "W2": W2, "b2": b2, "y": y, "loss": loss, "t": t}
    gradients = {"x": dx, "W1": dW1, "b1": db1, "h": dh, "W2": dW2, "b2": db2, "y": dy, "loss": 1.0}
    return values, gradients


COLUMNS = {"x": 0.7, "h": 3.5, "y": 6.3, "loss": 8.35}          # places in inches: of the layers ...
ROWS = (3.72, 1.32)                                             # ... and of their two units
RADIUS = 0.41
BELOW = (0, -RADIUS - 0.2)
SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"


def draw_network(W1, b1, W2, b2, x, t, ax=None, title=None):
    """Draw a 2-2-2 sigmoid network as a graph: every forward value in blue, and its derivative of the loss below it.

    Solid blue edges run forward, the wider the larger |weight|; dashed vermillion ones backward, by |gradient|.
    The numbers are those of `network_pass`. `title` defaults to the loss. Returns the axes.
    """
    values, gradients = network_pass(W1, b1, W2, b2, x, t)
    shapes = {name: values[name].shape for name in ("W1", "W2", "x")}
    if shapes != {"W1": (2, 2), "W2": (2, 2), "x": (1, 2)}:
        raise ValueError(f"draw_network: W1 and W2 must have shape (2, 2) and x one row of 2, got {shapes}")
    if ax is None:
        ax = network_axes(lab_module("matplotlib.pyplot").figure)
    ax.set(xlim=(0.1, 9.2), ylim=(-0.05, 5.05), aspect="equal")
    ax.axis("off")
    for k in range(2):
        for j in range(2):
            _draw_weight(ax, ("x", j), ("h", k), values["W1"][k, j], gradients["W1"][k, j])
            _draw_weight(ax, ("h", j), ("y", k), values["W2"][k, j], gradients["W2"][k, j])
        _draw_loss_edge(ax, k, gradients["y"][0, k])
        for name, bias in (("x", None), ("h", "b1"), ("y", "b2")):
            _draw_unit(ax, name, k, f"{name}{SUBSCRIPTS[k]}", values[name][0, k], gradients[name][0, k])
            if bias:
                _draw_bias(ax, name, k, values[bias][k], gradients[bias][k])
        _draw_target(ax, k, values["t"][0, k])
    _draw_unit(ax, "loss", 0, "L", values["loss"], gradients["loss"])
    _draw_captions(ax)
    title = title or f"Loss {values['loss']:.4f}: one pass forward, one pass back, and every gradient is known"
    ax.set_title(title, x=0.015, y=1, fontsize=13)
    return ax


def network_axes(figure_class):
    """Axes in the network's proportions that fill a figure."""
    return bare_figure(figure_class, (9.1, 5.45)).add_axes((0, 0, 1, 5.1 / 5.45))


def bare_figure(figure_class, size):
    """A figure whose parts stay where they are put; a layout engine would double the time to draw it."""
    no_layout = lab_module("matplotlib.layout_engine").PlaceHolderLayoutEngine(True, True)
    return figure_class(figsize=size, layout=no_layout)


def _row(name, index):
    return sum(ROWS) / 2 if name == "loss" else ROWS[index]


def _place(name, index):
    return np.array([COLUMNS[name], _row(name, index)])


def _number(value):
    """Four significant digits with a real minus sign."""
    return f"{value:.4g}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")


def _gradient_number(value):
    """Three digits, which say enough of a gradient."""
    return _number(float(f"{value:.3g}"))


def _name_text(ax, x, y, text):
    ax.text(x, y, text, fontsize=12, style="italic", ha="center", va="center", zorder=6)


def _value_text(ax, x, y, text, **kwargs):
    """A forward value: upright, blue."""
    ax.text(x, y, text, color=FORWARD["color"], fontsize=11, ha="center", va="center", zorder=6, **kwargs)


def _gradient_text(ax, x, y, value):
    """A gradient: italic, vermillion, in a dashed box."""
    box = {"boxstyle": "round,pad=0.18", "facecolor": "white", "edgecolor": GRADIENT["color"], "linewidth": 0.9,
           "linestyle": (0, (3, 2))}
    ax.text(x, y, _gradient_number(value), color=GRADIENT["color"], fontsize=10, style="italic", ha="center",
            va="center", bbox=box, zorder=6)


def _circle(ax, x, y, radius, role, facecolor):
    circle = lab_module("matplotlib.patches").Circle((x, y), radius, facecolor=facecolor, edgecolor=role["color"],
                                                     linestyle=role["linestyle"], linewidth=1.8, zorder=4)
    ax.add_artist(circle)


def _draw_unit(ax, name, index, label, value, gradient):
    """A unit of the network; the gradient of the loss stands to its right, there is no room below."""
    x, y = COLUMNS[name], _row(name, index)
    _draw_circle_unit(ax, x, y, label, value, gradient, (RADIUS + 0.2, 0) if name == "loss" else BELOW)


def _draw_circle_unit(ax, x, y, label, value, gradient, offset=BELOW):
    """A circle with a name and a value in it, and the gradient of that value at an offset, below it by default."""
    _circle(ax, x, y, RADIUS, FORWARD, "#EDF5FA")
    _name_text(ax, x, y + 0.17, label)
    _value_text(ax, x, y - 0.11, _number(value), weight="bold")
    _gradient_text(ax, x + offset[0], y + offset[1], gradient)


def _forward_width(weight):
    return min(0.8 + 3.5 * abs(weight), 5)


def _backward_width(gradient):
    return min(0.8 + 5 * abs(gradient)**0.5, 5)


def _arrow(ax, start, end, role, width):
    head = f"-|>,head_width={0.12 + width / 18},head_length={0.3 + width / 12}"
    arrow = lab_module("matplotlib.patches").FancyArrowPatch(
        start, end, arrowstyle=head, shrinkA=0, shrinkB=0, linewidth=width, mutation_scale=10, zorder=2, **role)
    ax.add_artist(arrow)


def _draw_lanes(ax, start, end, width, gradient):
    """Between two circles: the forward lane on the left, the backward lane on the right of the way forward."""
    along = (end - start) / np.linalg.norm(end - start)
    aside = 0.055 * np.array([-along[1], along[0]])
    a, b = start + (RADIUS + 0.03) * along, end - (RADIUS + 0.05) * along
    _arrow(ax, a + aside, b + aside, FORWARD, width)
    _arrow(ax, b - aside, a - aside, GRADIENT, _backward_width(gradient))


def _draw_weight(ax, start, end, weight, gradient):
    """An edge with its weight and, below, the gradient of the weight: crossing edges carry them near their start."""
    a, b = _place(*start), _place(*end)
    _draw_lanes(ax, a, b, _forward_width(weight), gradient)
    straight = start[1] == end[1]
    x, y = a + (b - a) * (0.5 if straight else 0.34)
    clear = None if straight else {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none"}
    _value_text(ax, x, y + (0.22 if straight else 0.16), _number(weight), bbox=clear)
    _gradient_text(ax, x, y - (0.25 if straight else 0.14), gradient)


def _draw_loss_edge(ax, index, gradient):
    """The output enters the loss; its gradient is what the loss sends back."""
    _draw_lanes(ax, _place("y", index), _place("loss", 0), 1.5, gradient)


def _draw_bias(ax, name, index, bias, gradient):
    """A short arrow into the unit from above, with the bias and its gradient over it."""
    x, y = COLUMNS[name], ROWS[index] + RADIUS
    _arrow(ax, (x, y + 0.36), (x, y + 0.04), FORWARD, _forward_width(bias))
    _value_text(ax, x, y + 0.74, f"b {_number(bias)}")
    _gradient_text(ax, x, y + 0.48, gradient)


def _draw_target(ax, index, target):
    """The target in a dotted circle, and a dotted line to the loss."""
    sign = 1 - 2 * index
    x, y = COLUMNS["loss"], ROWS[index] + 0.3 * sign
    _circle(ax, x, y, 0.36, REFERENCE, "white")
    _name_text(ax, x, y + 0.15, f"t{SUBSCRIPTS[index]}")
    ax.text(x, y - 0.11, _number(target), fontsize=11, ha="center", va="center", zorder=6)
    _arrow(ax, (x, y - 0.38 * sign), (x, _row("loss", 0) + sign * (RADIUS + 0.05)), REFERENCE, 1.5)


def _draw_captions(ax):
    """What each column computes, and the key to the two directions."""
    for name, text in (("x", "input"), ("h", "hidden, sigmoid"), ("y", "output, sigmoid"), ("loss", "squared error")):
        ax.text(COLUMNS[name], 0.4, text, fontsize=10, color="0.3", ha="center", va="center")
    for x, role, text in ((0.95, FORWARD, "forward: value, weight"), (3.7, GRADIENT, "backward: dL/d(that value)"),
                          (6.85, REFERENCE, "target")):
        ax.plot([x, x + 0.5], [0.08, 0.08], **role, linewidth=2)
        ax.text(x + 0.6, 0.08, text, fontsize=10.5, color=role["color"], va="center")


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
    if ax is None:
        ax = lab_module("matplotlib.pyplot").figure().subplots()
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


# ------------------------------------------------------------------------------------------------ graphs and matrices

def draw_graph(nodes, edges, title):
    """Draw a small computational graph: values in blue circles, derivatives of the loss in vermillion boxes below.

    nodes  {name: (column, row, value, gradient)}, columns and rows counted from 0
    edges  {(from, to): what the edge computes}, written on it; the backward arrow runs beside the forward one.
    """
    place = {name: np.array([3.3 * column, 1.6 * row]) for name, (column, row, _, _) in nodes.items()}
    right, top = np.max(list(place.values()), axis=0) + 0.7
    figure = lab_module("matplotlib.pyplot").figure(figsize=(1.05 * (right + 0.7), 0.95 * (top + 0.9) + 0.4))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    ax = figure.subplots()
    ax.set(xlim=(-0.7, right), ylim=(-0.9, top), aspect="equal")
    ax.axis("off")
    for (start, end), text in edges.items():
        _draw_edge(ax, place[start], place[end], text)
    for name, (_, _, value, gradient) in nodes.items():
        _draw_circle_unit(ax, *place[name], name, value, gradient)
    return ax


def _draw_edge(ax, start, end, text):
    """Both lanes between two circles, with a text along the forward one."""
    _draw_lanes(ax, start, end, 1.5, 0.1)
    along = end - start
    aside = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    ax.text(*(start + 0.5 * along + 0.24 * aside), text, fontsize=10.5, ha="center", va="center", zorder=6,
            rotation=np.degrees(np.arctan2(along[1], along[0])), rotation_mode="anchor")


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
    numbers = {} if digits is None else {place: _decimals(value, digits) for place, value in np.ndenumerate(values)}
    _draw_cells(ax, values, (0, 0, 1), margin, outline, {**numbers, **(texts or {})}, limit, ink, fontsize)
    step = 1 if max(rows, columns) <= 12 else 5
    ax.set(xlim=(-aside - 0.5, columns + aside - 0.5), ylim=(rows + above - 0.5, -above - 0.5), aspect="equal",
           xticks=range(0, columns, step), yticks=range(0, rows, step))
    ax.set_title(title or "", fontsize=11)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return ax


def _draw_cells(ax, values, place, margin=0, outline=(), texts=None, limit=None, ink=False, fontsize=9):
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


def _decimals(value, digits):
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _rectangle(ax, x, y, width, height, **look):
    patch = lab_module("matplotlib.patches").Rectangle((x, y), width, height, **look)
    ax.add_artist(patch).set_clip_on(False)


def _draw_rules(ax, place, first, last):
    """Thin lines between the cells, over hatching that is seen where there is no image."""
    x, y, side = place
    (top, left), (bottom, right) = ((y, x) + side * (corner - 0.5) for corner in (first, last))
    _rectangle(ax, left, top, right - left, bottom - top, facecolor="0.97", edgecolor="0.85", hatch="////", linewidth=0,
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
            _rectangle(ax, x + side * (j - 0.5), y + side * (i - 0.5), width, height, fill=False, edgecolor=color,
                       linestyle=style, linewidth=line, zorder=3)


# ------------------------------------------------------------------------------------------------ convolution

def _taps(size, kernel_size, stride, padding, dilation):
    """Rows and columns (2, P, Q, R, S) of the pixels that the taps of each window read; some may lie on the padding."""
    cnn.unfold_forward(np.zeros((1, 1, *size)), kernel_size, stride, padding, dilation)         # checks the options
    lines = [np.arange(-m, n + m, dtype=float) for n, m in zip(size, np.broadcast_to(padding, 2))]
    places = np.stack(np.meshgrid(*lines, indexing="ij"))[None]
    windows, _ = cnn.unfold_forward(places, kernel_size, stride, 0, dilation)
    return windows[0].astype(int)


def _require_place(owner, name, place, size):
    """The place as Python integers, one for each of the sizes."""
    place, size = np.asarray(place), np.asarray(size)
    if place.shape != size.shape or place.dtype.kind not in "iu" or np.any((place < 0) | (place >= size)):
        raise ValueError(f"{owner}: {name} must lie between 0 and {(size - 1).tolist()}, got {place.tolist()}")
    return place.tolist()


def _indexed(name, *indices):
    """A name with its indices below: w₂₁."""
    return name + "".join(SUBSCRIPTS[int(digit)] for digit in "".join(map(str, indices)))


def _count(number, thing):
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"


TAPS_HEIGHT = 2.6                                               # of the outputs above the inputs, in cells
HALF = 0.42                                                     # of a cell's side


def draw_taps(ax, n_inputs, kernel, stride=1, padding=0, dilation=1, output=None, pixel=None, title=None):
    """Draw a convolution of one row: the inputs x, above them the outputs y, an edge for each weight of each window.

    Blue: what `output` reads. Vermillion, dashed: the outputs that read `pixel`, from which its gradient comes. Both
    sums are written out. An input that no output reads is crossed out, its gradient is 0. Dashed cells are padding.
    `kernel` is the number of weights. Raises ValueError for an output or a pixel that does not exist. Returns the axes.
    """
    taps = _taps((1, n_inputs), (1, kernel), (1, stride), (0, padding), (1, dilation))[1, 0, :, 0]
    for name, place, size in (("output", output, len(taps)), ("pixel", pixel, n_inputs)):
        if place is not None:
            _require_place("draw_taps", name, place, size)
    centers = taps.mean(axis=1)
    for (q, s), j in np.ndenumerate(taps):
        _draw_tap(ax, (j, HALF), (centers[q], TAPS_HEIGHT - HALF), _indexed("w", s), q == output, j == pixel)
    for j in range(-padding, n_inputs + padding):
        _draw_input(ax, j, 0 <= j < n_inputs, j in taps, j == pixel)
    for q, place in enumerate(centers):
        _draw_cell(ax, place, TAPS_HEIGHT, _indexed("y", q), FORWARD if q == output else None)
    ax.set(xlim=(-padding - 0.6, n_inputs + padding - 0.4), ylim=(-1.9, TAPS_HEIGHT + 1.1), aspect="equal")
    ax.axis("off")
    ax.set_title(title or f"{_count(n_inputs, 'input')}, {_count(len(taps), 'output')}")
    if output is not None:
        terms = [_indexed("w", s) + (_indexed("x", j) if 0 <= j < n_inputs else "·0")
                 for s, j in enumerate(taps[output])]
        _write_sum(ax, centers[output], TAPS_HEIGHT + 0.8, _indexed("y", output), terms, FORWARD)
    if pixel is not None:
        terms = [_indexed("w", s) + _indexed("dy", q) for q, s in np.argwhere(taps == pixel)]
        height = -1.05 if set(range(n_inputs)) <= set(taps.ravel()) else -1.55              # below crossed-out inputs
        _write_sum(ax, pixel, height, _indexed("dx", pixel), terms or ["0: no output reads it"], GRADIENT)
    return ax


def _draw_cell(ax, x, y, text, role=None, **look):
    """A square with a name; a role frames it."""
    frame = {"edgecolor": "0.5", "linewidth": 1}
    if role:
        frame = {"edgecolor": role["color"], "linestyle": role["linestyle"], "linewidth": 2.5}
    _rectangle(ax, x - HALF, y - HALF, 2 * HALF, 2 * HALF, **{"facecolor": "white", "zorder": 3, **frame, **look})
    ax.text(x, y, text, fontsize=10, ha="center", va="center", zorder=5)


def _draw_input(ax, j, inside, is_read, is_pixel):
    """An input, or a 0 of the padding; one that no output reads is crossed out, and its gradient 0 stands below."""
    look = {} if inside else {"linestyle": (0, (3, 2)), "facecolor": "0.95"}
    _draw_cell(ax, j, 0, _indexed("x", j) if inside else "0", GRADIENT if is_pixel else None, **look)
    if inside and not is_read:
        for end in (-HALF, HALF):
            ax.plot([j - HALF, j + HALF], [-end, end], "-", color="0.7", linewidth=1.2, zorder=4)
        if not is_pixel:
            _gradient_text(ax, j, -HALF - 0.36, 0.0)


def _draw_tap(ax, below, above, weight, is_read, feeds):
    """One edge, or two side by side: forward the weight stands near the input, backward near the output."""
    below, above = np.array(below), np.array(above)
    if not is_read and not feeds:
        ax.plot(*zip(below, above), "-", color="0.8", linewidth=1, zorder=1)
    right = np.array([above[1] - below[1], below[0] - above[0]]) / np.linalg.norm(above - below)
    aside = 0.09 * right if is_read and feeds else np.zeros(2)
    for used, start, end, role in ((is_read, below - aside, above - aside, FORWARD),
                                   (feeds, above + aside, below + aside, GRADIENT)):
        if used:
            _arrow(ax, start, end, role, 1.8)
            ax.text(*(0.8 * start + 0.2 * end), weight, fontsize=10, color=role["color"], ha="center", va="center",
                    zorder=7, bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"})


def _write_sum(ax, x, y, name, terms, role):
    """A sum near its cell; it starts or ends at the edge of the picture if the cell lies there."""
    left, right = ax.get_xlim()
    third = int(3 * (x - left) / (right - left))
    ax.text((left + 0.1, x, right - 0.1)[third], y, f"{name} = {' + '.join(terms)}", color=role["color"], fontsize=10,
            style="italic" if role is GRADIENT else "normal", ha=("left", "center", "right")[third], va="center")


WIDTH, HEIGHT = 9.1, 6.3                                        # places in inches: of the whole picture ...
CENTERS = (1.75, 4.7, 7.55), (1.6, 4.75)                        # ... and of its three columns and two rows
GRID_SIDE, KERNEL_SIDE = 2.6, 1.5                               # at most


def convolution_axes(figure_class):
    """Axes in the proportions of `draw_convolution` that fill a figure."""
    return bare_figure(figure_class, (WIDTH, HEIGHT + 0.4)).add_axes((0, 0, 1, HEIGHT / (HEIGHT + 0.4)))


def draw_convolution(x, W, output, pixel, stride=1, padding=0, dilation=1, dy=None, ax=None):
    """Draw a convolution of one channel: above, what one output reads; below, where one pixel's gradient comes from.

    The window that `output` (p, q) reads is framed in blue; its products with W add up to y at (p, q). The outputs
    that `pixel` (i, j) feeds are framed in vermillion, dashed; their gradients, times the weights with which they
    read it, add up to dx at (i, j). `dy` (P, Q), the gradient of the outputs, is made of small numbers by default.
    Raises ValueError for an output or a pixel that does not exist. Returns the axes.
    """
    x, W = np.asarray(x, dtype=float), np.asarray(W, dtype=float)
    y, cache = cnn.conv2d_forward(x[None, None], W[None, None], np.zeros(1), stride, padding, dilation)
    y = y[0, 0]
    p, q = _require_place("draw_convolution", "output", output, y.shape)
    i, j = _require_place("draw_convolution", "pixel", pixel, x.shape)
    dy = np.random.default_rng(4).choice([-2.0, -1.0, 1.0, 2.0], y.shape) if dy is None else np.asarray(dy, dtype=float)
    dx = cnn.conv2d_backward(dy[None, None], cache)[0][0, 0]
    rows, columns = _taps(x.shape, W.shape, stride, padding, dilation)
    reads = np.stack([rows[p, q], columns[p, q]], axis=-1)
    feeds = np.argwhere((rows == i) & (columns == j))           # p, q, r, s
    met = feeds[:, 2:].reshape(len(set(feeds[:, 0])) or 1, -1, 2)
    if ax is None:
        ax = convolution_axes(lab_module("matplotlib.pyplot").figure)
    ax.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="equal")
    ax.axis("off")
    ax.set_title(_convolution_message(x.shape, (p, q), (i, j), reads, feeds), x=0.012, y=1, fontsize=12)
    side = GRID_SIDE / max(*np.add(x.shape, 2 * np.array(padding)), *y.shape)
    name = f"x, padding {padding}" if np.any(padding) else "x"
    _draw_image(ax, 0, 0, side, x, name, reads.reshape(-1, 2), FORWARD, padding, ink=True)
    _draw_kernel(ax, 0, W, np.stack(np.indices(W.shape), axis=-1), "W", y[p, q], FORWARD)
    _draw_image(ax, 2, 0, side, y, f"y: {_number(y[p, q])} at {p, q}", [(p, q)], FORWARD)
    _draw_image(ax, 0, 1, side, dx, f"dx: {_number(dx[i, j])} at {i, j}", [(i, j)], GRADIENT)
    _draw_kernel(ax, 1, W, met, f"W as {i, j} meets it", dx[i, j], GRADIENT)
    _draw_image(ax, 2, 1, side, dy, "dy, given", feeds[:, :2], GRADIENT)
    return ax


def _convolution_message(size, output, pixel, reads, feeds):
    inside = np.count_nonzero(((reads >= 0) & (reads < size)).all(axis=-1))
    outside = reads[..., 0].size - inside
    zeros = f" and {_count(outside, 'zero')}" if outside else ""
    return (f"Output {output} reads {_count(inside, 'pixel')}{zeros}; pixel {pixel} collects gradients from "
            f"{_count(len(feeds), 'output')}")


def _draw_image(ax, column, row, side, values, title, marked, role, margin=0, ink=False):
    """A grid around one of the centers, with numbers in the marked cells if they fit."""
    (I, J), (above, aside) = values.shape, np.broadcast_to(margin, 2)
    x, y = CENTERS[0][column] - side * (J - 1) / 2, CENTERS[1][row] - side * (I - 1) / 2
    digits = 0 if np.all(values == np.round(values)) else 1
    texts = {(i, j): _decimals(values[i, j], digits) if 0 <= i < I and 0 <= j < J else "0" for i, j in marked}
    fit = 0.085 * max(map(len, texts.values()), default=0) <= side
    _draw_cells(ax, values, (x, y, side), margin, [(marked, role)], texts if fit else None,
                None if ink else 1.5 * np.abs(values).max(), ink)
    left, top, bottom = x - side * (aside + 0.5), y - side * (above + 0.5), y + side * (I + above - 0.5)
    some = slice(None if side > 0.2 else 1)                     # indices of marked cells, of small ones only the first
    for i in sorted({i for i, _ in texts if 0 <= i < I})[some]:
        ax.text(left - 0.06, y + side * i, i, fontsize=9, color=role["color"], ha="right", va="center")
    for j in sorted({j for _, j in texts if 0 <= j < J})[some]:
        ax.text(x + side * j, bottom + 0.05, j, fontsize=9, color=role["color"], ha="center", va="top")
    ax.text(left, top - 0.07, title, fontsize=11, va="bottom")


def _draw_kernel(ax, row, W, entries, title, total, role):
    """The weights of one sum between two arrows: entries (rows, columns, 2) are their places in W."""
    x, y = CENTERS[0][1], CENTERS[1][row]
    if entries.size == 0:
        ax.text(x, y, "no output reads it", color=role["color"], fontsize=10, ha="center", va="center")
        return
    for left in (x - 1.4, x + 0.9):
        ends = (left, y), (left + 0.5, y)
        _arrow(ax, *(ends if role is FORWARD else ends[::-1]), role, 2)
    values, side = W[entries[..., 0], entries[..., 1]], KERNEL_SIDE / max(3, *W.shape)
    height, width = side * np.array(values.shape)
    digits = 0 if np.all(W == np.round(W)) else 1
    names = {place: _indexed("w", *entries[place]) + "\n" if side > 0.4 else "" for place in np.ndindex(values.shape)}
    _draw_cells(ax, values, (x - (width - side) / 2, y - (height - side) / 2, side), outline=[(list(names), role)],
                texts={place: name + _decimals(values[place], digits) for place, name in names.items()},
                limit=1.5 * np.abs(W).max())
    ax.text(x - width / 2, y - height / 2 - 0.07, title, fontsize=11, va="bottom")
    word = "forward" if role is FORWARD else "backward"
    ax.text(x, y + height / 2 + 0.2, f"{word}: {_count(values.size, 'product')}, sum {_number(total)}",
            color=role["color"], fontsize=10, ha="center", va="center")
