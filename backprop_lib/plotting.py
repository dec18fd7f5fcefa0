"""Figures the notebooks draw more than once, in one style: `style()` in the import cell sets it for the session.

Colours have fixed roles and never stand alone: a forward value is blue and solid, a gradient vermillion and dashed, a
second forward quantity sky blue and dash-dotted, a reference black and dotted.
"""

import importlib
import io
from pathlib import Path

import numpy as np

from . import mlp


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
SUBSCRIPTS = "\N{SUBSCRIPT ZERO}\N{SUBSCRIPT ONE}"


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
    """Axes in the network's proportions that fill a figure; a layout engine would double the time to draw it."""
    no_layout = lab_module("matplotlib.layout_engine").PlaceHolderLayoutEngine(True, True)
    return figure_class(figsize=(9.1, 5.45), layout=no_layout).add_axes((0, 0, 1, 5.1 / 5.45))


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
    pyplot, colors = lab_module("matplotlib.pyplot"), lab_module("matplotlib.colors")
    shades = colors.LinearSegmentedColormap.from_list("signed", [GRADIENT["color"], "white", FORWARD["color"]])
    widths = [max(np.shape(m)[1], 2) for m in matrices.values()]
    figure, axes = pyplot.subplots(1, len(matrices), width_ratios=widths, squeeze=False,
                                   figsize=(max(0.75 * sum(widths) + 0.9 * len(matrices), 6),
                                            0.55 * max(len(m) for m in matrices.values()) + 1.3))
    limit = 1.6 * max(np.abs(m).max() for m in matrices.values())
    for ax, (name, matrix) in zip(axes[0], matrices.items()):
        ax.imshow(matrix, cmap=shades, vmin=-limit, vmax=limit, aspect="auto")
        for index, value in np.ndenumerate(matrix):
            text = f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")
            ax.text(*index[::-1], text, ha="center", va="center")
        ax.set_title(name, fontsize=11)
        ax.set(xlabel=columns, ylabel=rows, xticks=range(np.shape(matrix)[1]), yticks=range(len(matrix)))
        ax.grid(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return list(axes[0])
