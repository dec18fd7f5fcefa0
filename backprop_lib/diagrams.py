"""What the course draws by hand: networks, graphs, convolutions, networks unrolled through time, and their cells.

Circles hold values, arrows run forward in blue and, beside them, backward in dashed vermillion, with the gradient in
a dashed box or a formula. The numbers in a picture are computed by the functions it shows.
"""

import re

import numpy as np

from . import cnn, mlp
from .autodiff import Node, gradients
from .plotting import FORWARD, GRADIENT, REFERENCE, bare_figure, counted, decimals, draw_cells, lab_module, rectangle
from .sweeps import rates


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


def _draw_lanes(ax, start, end, width, gradient, radii=(RADIUS, RADIUS)):
    """Between two circles: the forward lane on the left, the backward lane on the right of the way forward."""
    along = (end - start) / np.linalg.norm(end - start)
    aside = 0.055 * np.array([-along[1], along[0]])
    a, b = start + (radii[0] + 0.03) * along, end - (radii[1] + 0.05) * along
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


# ------------------------------------------------------------------------------------------------ graphs

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


# ------------------------------------------------------------------------------------------------ records

SYMBOLS = {"add": "+", "subtract": "\N{MINUS SIGN}", "negative": "\N{MINUS SIGN}", "multiply": "×", "divide": "/",
           "power": "^", "sigmoid": "σ", "sqrt": "√"}
PITCH = np.array([1.9, 1.35])                                   # inches from one column or row of a record to the next


def draw_record(output, names, title):
    """Draw what `autodiff` recorded on the way to a number: every value, and below it the derivative of the output.

    names is {name: node}, for the inputs and any others. A circle holds the operation, or a name with the operation
    above it; each arrow has its rate. Raises ValueError if a node is no single number. Returns the axes.
    """
    nodes, arrows = _record_graph(output)
    places, roads = _record_places(nodes, arrows)
    low, high = np.min(list(places.values()), axis=0) - (0.6, 0.85), np.max(list(places.values()), axis=0) + (0.6, 0.65)
    ax = _diagram(None, high - low, title)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    for arrow, rate in arrows.items():
        _draw_road(ax, np.array([places[point] for point in roads[arrow]]), rate)
    names = {node.key: name for name, node in names.items()}
    for (key, node), gradient in zip(nodes.items(), gradients(output, *nodes.values())):
        operation = _operation(node)
        _draw_circle_unit(ax, *places[key], names.get(key, operation), node.value.item(), gradient.item())
        if key in names:
            _remark(ax, *(places[key] + (0, RADIUS + 0.13)), operation)
    return ax


def _record_graph(output):
    """{key: node} of all nodes on the way to an output, in the order they were made; {(before, after): rate}."""
    nodes, arrows, waiting = {}, {}, [output]
    while waiting:
        node = waiting.pop()
        if node.key not in nodes:
            nodes[node.key] = node
            for before, rate in rates(node):
                arrows[before.key, node.key] = arrows.get((before.key, node.key), 0) + rate.item()
                waiting.append(before)
    return dict(sorted(nodes.items())), arrows


def _record_places(nodes, arrows):
    """{point: place}, in columns by depth, in rows such that few arrows cross; {arrow: the points it goes through}."""
    column = {}
    for key in nodes:
        column[key] = 1 + max((column[before] for before, after in arrows if after == key), default=-1)
    for key in nodes.keys() - {after for _, after in arrows}:                           # inputs: close to their use
        column[key] = min((column[after] for before, after in arrows if before == key), default=1) - 1
    roads = {(a, b): [a, *((a, b, k) for k in range(column[a] + 1, column[b])), b] for a, b in arrows}
    column.update({point: point[2] for road in roads.values() for point in road[1:-1]})
    near = {point: [] for point in column}
    for a, b in (link for road in roads.values() for link in zip(road, road[1:])):
        near[a].append(b)
        near[b].append(a)
    row = dict.fromkeys(column, 0.0)
    for k in 20 * sorted(set(column.values())):                 # to the middle of its neighbours, column after column
        points = sorted((p for p in column if column[p] == k), key=lambda p: np.mean([row[q] for q in near[p]] or 0))
        row.update({point: place - (len(points) - 1) / 2 for place, point in enumerate(points)})
    return {point: PITCH * (column[point], -row[point]) for point in column}, roads


def _draw_road(ax, points, rate):
    """Both lanes from circle to circle through the points in between, and the rate near the start."""
    along = np.diff(points, axis=0) / np.linalg.norm(np.diff(points, axis=0), axis=1, keepdims=True)
    points = points + np.array([(RADIUS + 0.03) * along[0], *0 * points[1:-1], -(RADIUS + 0.05) * along[-1]])
    aside = 0.055 * np.stack([-along[:, 1], along[:, 0]], axis=1)[[0, *range(len(along))]]
    for role, way in ((FORWARD, points + aside), (GRADIENT, (points - aside)[::-1])):
        ax.plot(*way[:-1].T, **role, linewidth=1.5, zorder=2)
        _arrow(ax, *way[-2:], role, 1.5)
    clear = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    _remark(ax, *(points[0] + 0.4 * along[0]), _gradient_number(rate), bbox=clear)


def _operation(node):
    """What made a node, with the numbers that took part: +, or + 3."""
    name, args = (node.step.rule.name, node.step.args) if node.step else ("", ())
    words = [SYMBOLS.get(name, name)]
    for place, a in enumerate(args if name in SYMBOLS else ()):
        if not isinstance(a, Node):
            words.insert(place and len(words), _number(np.asarray(a).item()))
    return " ".join(words)


# ------------------------------------------------------------------------------------------------ two-sided nodes

SIDES = np.array([0.66, 0.34])                                  # half a node, in inches
FAN = 0.24                                                      # between two arrows on the same side of a node


def draw_two_sided(output, names, title):
    """Draw a record as Rojas does: each node has a right side, its value, and a left side, the slopes it keeps.

    names is {name: node}. A slope stands where its arrow enters. Below a node stands what comes back to it, the
    derivative of the output. Raises ValueError if a node is no single number. Returns the axes.
    Source: Rojas 1996, "Neural Networks: A Systematic Introduction", chapter 7.
    """
    nodes, arrows = _record_graph(output)
    places, roads = _record_places(nodes, arrows)
    places = {point: 1.12 * place for point, place in places.items()}
    low, high = np.min(list(places.values()), axis=0) - (0.8, 0.8), np.max(list(places.values()), axis=0) + (0.8, 0.65)
    ax = _diagram(None, high - low, title)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    names = {node.key: name for name, node in names.items()}
    for (key, node), gradient in zip(nodes.items(), gradients(output, *nodes.values())):
        _draw_sides(ax, *places[key], node.value.item(), node.step is not None)
        _remark(ax, *(places[key] + (0, SIDES[1] + 0.14)), ":  ".join(filter(None, (names.get(key), _operation(node)))))
        _gradient_text(ax, *(places[key] - (0, SIDES[1] + 0.2)), gradient.item())
    for arrow, way in _fanned(roads, places).items():
        ax.plot(*way[:-1].T, **FORWARD, linewidth=1.5, zorder=2)
        _arrow(ax, *way[-2:], FORWARD, 1.5)
        ax.text(way[-1, 0] + 0.36, way[-1, 1], _gradient_number(arrows[arrow]), color=GRADIENT["color"], style="italic",
                fontsize=9.5, ha="center", va="center", zorder=6)
    return ax


def _fanned(roads, places):
    """{arrow: its points}, from right sides to left sides; arrows that share a side leave or enter at other heights."""
    straight = {arrow: np.array([places[point] for point in road]) for arrow, road in roads.items()}
    ways = {arrow: way.copy() for arrow, way in straight.items()}
    for side, beside, edge in ((0, 1, SIDES[0]), (-1, -2, -SIDES[0] - 0.03)):
        for key in {arrow[side] for arrow in roads}:
            mine = sorted((a for a in roads if a[side] == key), key=lambda a: straight[a][beside, 1])
            for place, arrow in enumerate(mine):
                ways[arrow][side] += edge, FAN * (place - (len(mine) - 1) / 2)
    return ways


def _draw_sides(ax, x, y, value, is_computed):
    """A box with a line down the middle; a given number has no left side."""
    corner, (width, height) = np.array([x, y]) - SIDES, 2 * SIDES
    ax.add_artist(lab_module("matplotlib.patches").FancyBboxPatch(
        corner, width, height, boxstyle="round,pad=0,rounding_size=0.15", facecolor="#EDF5FA",
        edgecolor=FORWARD["color"], linewidth=1.6, zorder=4))
    if is_computed:
        ax.plot([x, x], [y - SIDES[1], y + SIDES[1]], **FORWARD, linewidth=1.2, zorder=5)
    _value_text(ax, x + (0.33 if is_computed else 0), y, _gradient_number(value), weight="bold")


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
    ax.set_title(title or f"{counted(n_inputs, 'input')}, {counted(len(taps), 'output')}")
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
    rectangle(ax, x - HALF, y - HALF, 2 * HALF, 2 * HALF, **{"facecolor": "white", "zorder": 3, **frame, **look})
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
    zeros = f" and {counted(outside, 'zero')}" if outside else ""
    return (f"Output {output} reads {counted(inside, 'pixel')}{zeros}; pixel {pixel} collects gradients from "
            f"{counted(len(feeds), 'output')}")


def _draw_image(ax, column, row, side, values, title, marked, role, margin=0, ink=False):
    """A grid around one of the centers, with numbers in the marked cells if they fit."""
    (I, J), (above, aside) = values.shape, np.broadcast_to(margin, 2)
    x, y = CENTERS[0][column] - side * (J - 1) / 2, CENTERS[1][row] - side * (I - 1) / 2
    digits = 0 if np.all(values == np.round(values)) else 1
    texts = {(i, j): decimals(values[i, j], digits) if 0 <= i < I and 0 <= j < J else "0" for i, j in marked}
    fit = 0.085 * max(map(len, texts.values()), default=0) <= side
    draw_cells(ax, values, (x, y, side), margin, [(marked, role)], texts if fit else None,
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
    draw_cells(ax, values, (x - (width - side) / 2, y - (height - side) / 2, side), outline=[(list(names), role)],
                texts={place: name + decimals(values[place], digits) for place, name in names.items()},
                limit=1.5 * np.abs(W).max())
    ax.text(x - width / 2, y - height / 2 - 0.07, title, fontsize=11, va="bottom")
    word = "forward" if role is FORWARD else "backward"
    ax.text(x, y + height / 2 + 0.2, f"{word}: {counted(values.size, 'product')}, sum {_number(total)}",
            color=role["color"], fontsize=10, ha="center", va="center")


# ------------------------------------------------------------------------------------------------ recurrent networks

UNIT, PRODUCT = 0.31, 0.14                                      # radii in inches: of a value, of a product or a sum


def _math(text):
    """Names as in the code, set as mathematics: dc_next * (1 - m^2)."""
    def name(match):
        word, below = match.groups()
        return rf"\mathit{{{word}}}" + (rf"_{{\{'mathrm' if below[1:] else 'mathit'}{{{below}}}}}" if below else "")
    return "$" + re.sub(r"([A-Za-z]+)(?:_(\w+))?", name, text).replace("*", r"\cdot ") + "$"


def _formula(ax, x, y, text, role=GRADIENT, **look):
    """A formula beside an arrow, in white to keep lines off."""
    clear = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    ax.text(x, y, _math(text), **{"color": role["color"], "fontsize": 10.5, "ha": "center", "va": "center",
                                  "zorder": 3, "bbox": clear, **look})


def _remark(ax, x, y, text, **look):
    ax.text(x, y, text, **{"fontsize": 9.5, "color": "0.3", "ha": "center", "va": "center", "zorder": 6, **look})


def _draw_value(ax, x, y, name, rule=""):
    """A circle with a name, and below it the function it comes from."""
    _circle(ax, x, y, UNIT, FORWARD, "#EDF5FA")
    ax.text(x, y + (0.09 if rule else 0), _math(name), fontsize=12, ha="center", va="center", zorder=6)
    _remark(ax, x, y - 0.14, rule, fontsize=9)


def _draw_sign(ax, x, y, sign, role=FORWARD):
    """A small circle: a product of what arrives, or a sum."""
    _circle(ax, x, y, PRODUCT, role, "white")
    ax.text(x, y - 0.005, sign, fontsize=12, color=role["color"], ha="center", va="center_baseline", zorder=6)


def _diagram(ax, size, title):
    """Bare axes measured in inches, with a message above: the given ones, or new ones that fill a figure."""
    if ax is None:
        figure = bare_figure(lab_module("matplotlib.pyplot").figure, (size[0], size[1] + 0.4))
        ax = figure.add_axes((0, 0, 1, size[1] / (size[1] + 0.4)))
    ax.set(xlim=(0, size[0]), ylim=(0, size[1]), aspect="equal")
    ax.axis("off")
    ax.set_title(title, x=0.012, y=1, fontsize=12)
    return ax


def _draw_key(ax, x, y, text=""):
    """The key to the two directions, and a remark."""
    for left, role, word in ((x, FORWARD, "forward"), (x + 1.3, GRADIENT, "gradient")):
        ax.plot([left, left + 0.4], [y, y], **role, linewidth=2)
        ax.text(left + 0.48, y, word, fontsize=10, color=role["color"], va="center")
    ax.text(x + 2.75, y, text, fontsize=10, color="0.3", va="center")


STEP = 1.5                                                      # inches from one time step to the next
STATE, INPUT, ABOVE = 2.05, 0.8, 3.1                            # heights of the rows
MEETING = np.array([0.37, 0.25])                                # from a state to where its two gradients meet


def draw_unrolled(steps=4, window=None, ax=None, title=None):
    """Draw a recurrent network unrolled through time, and the two gradients that meet in each state.

    One comes from above, dhs_t, from whatever uses the states; the other from the next step, which calls it dh_prev.
    A `window` cuts the gradient between chunks of so many steps, as `rnn.truncated_backward` does, and not the forward
    pass. Raises ValueError for less than 4 steps or a window below 1. Returns the axes.
    """
    if steps < 4 or (window is not None and window < 1):
        raise ValueError(f"draw_unrolled: steps must be at least 4 and window at least 1, got {steps} and {window}")
    message = ("Two gradients meet in each state: one from above, one from the next step" if window is None else
               f"Truncated to a window of {window}: the state goes on, but its gradient does not come back")
    ax = _diagram(ax, (STEP * (steps + 1), 3.6), title or message)
    _draw_value(ax, 0.45, STATE, "h_start")
    _remark(ax, 0.45, STATE - 0.47, "h0, given")
    _formula(ax, 0.1, ABOVE + 0.18, "dh = dhs_t + dh_prev", ha="left")
    rectangle(ax, 0.3 + STEP, ABOVE, STEP * steps - 0.75, 0.36, facecolor="0.95", edgecolor="0.5")
    _remark(ax, STEP * (steps + 1) / 2 + 0.68, ABOVE + 0.18, "what uses the states: a loss, or the next layer")
    for t in range(steps):
        _draw_step(ax, 0.45 + STEP * t, t, window is not None and t > 0 and t % window == 0)
    end = (0.45 + STEP * steps, STATE) + MEETING
    _arrow(ax, end + (0.45, 0), end + (PRODUCT + 0.03, 0), GRADIENT, 1.8)
    _formula(ax, *(end + (0.56, 0)), "0")
    _draw_key(ax, 0.2, 0.15, "the same weights at every step: their gradients add up")
    return ax


def _draw_step(ax, before, t, is_cut):
    """From the state at x = `before` to that of step t, and back unless the gradient is cut."""
    x, meeting = before + STEP, (before + STEP, STATE) + MEETING
    _draw_value(ax, x, STATE, f"h_{t}")
    _draw_value(ax, x, INPUT, f"x_{t}")
    _draw_sign(ax, *meeting, "+", GRADIENT)
    _draw_lanes(ax, np.array([x, INPUT]), np.array([x, STATE]), 1.5, 0.04, (UNIT, UNIT))
    _formula(ax, x - 0.3, (INPUT + STATE) / 2, "W_ih", FORWARD)
    _formula(ax, x + 0.28, (INPUT + STATE) / 2, f"dx_{t}")
    _arrow(ax, (x, STATE + UNIT + 0.03), (x, ABOVE - 0.03), FORWARD, 1.5)
    _arrow(ax, (meeting[0], ABOVE - 0.03), meeting + (0, PRODUCT + 0.03), GRADIENT, 1.8)
    _formula(ax, meeting[0] + 0.06, 2.8, f"dhs_{t}", ha="left")
    _arrow(ax, (before + UNIT + 0.03, STATE - 0.1), (x - UNIT - 0.03, STATE - 0.1), FORWARD, 1.5)
    _formula(ax, before + 0.65, STATE - 0.27, "W_hh", FORWARD)
    if is_cut:
        end = before + 0.97
        ax.plot([end - 0.04, end - 0.04], [0.45, ABOVE - 0.05], **REFERENCE, linewidth=1.5, zorder=1)
        ax.plot(end - 0.04, meeting[1], "x", color="black", markersize=9, markeredgewidth=2.2, zorder=5)
    else:
        end = before + (MEETING[0] + PRODUCT + 0.04 if t else UNIT)
        _formula(ax, before + 0.95, meeting[1] + 0.17, "dh_prev" if t else "dh0")
    _arrow(ax, (x - 0.22, meeting[1]), (end, meeting[1]), GRADIENT, 1.8)


def _wire(ax, places, start, end, note="", at=(0, 0), **look):
    """Both lanes between two named places, and the gradient that comes back, written `at` an offset from the middle."""
    (a, radius_a), (b, radius_b) = ((np.array(places[name][:2]), PRODUCT if len(places[name]) == 3 else UNIT)
                                    for name in (start, end))
    _draw_lanes(ax, a, b, 1.5, 0.04, (radius_a, radius_b))
    if note:
        _formula(ax, *((a + b) / 2 + at), note, **look)


def _draw_places(ax, places):
    """Values, each with a name and a rule, and products and sums, each with a sign."""
    for x, y, *texts in places.values():
        (_draw_value if len(texts) == 2 else _draw_sign)(ax, x, y, *texts)


LSTM_STEP = {"x": (0.4, 0.67, "x", ""), "h_prev": (0.4, 1.37, "h_prev", ""), "c_prev": (0.4, 4.0, "c_prev", ""),
             "f c": (1.75, 4.0, "×"), "i g": (3.3, 3.15, "×"), "c": (3.3, 4.0, "c", "sum"), "f": (1.75, 2.25, "f", "σ"),
             "i": (2.7, 2.25, "i", "σ"), "g": (3.9, 2.25, "g", "tanh"), "o": (6.0, 2.25, "o", "σ"),
             "m": (4.7, 3.15, "m", "tanh"), "h": (6.0, 3.15, "h", "o · m")}
LSTM_WIRES = (("c_prev", "f c", "dc_prev = dc * f", (0.12, 0.3), {}), ("f c", "c", "dc", (0, 0.28), {}),
              ("i g", "c", "", (0, 0), {}), ("f", "f c", "df = dc * c_prev", (0.12, 0), {"ha": "left"}),
              ("i", "i g", "di = dc * g", (-0.13, 0.06), {"ha": "right"}),
              ("g", "i g", "dg = dc * i", (0.13, 0.06), {"ha": "left"}),
              ("c", "m", "dh * o * (1 - m^2)", (0.12, 0.17), {"ha": "left"}), ("m", "h", "dh * o", (0, -0.22), {}),
              ("o", "h", "do = dh * m", (0.14, 0), {"ha": "left"}))


def draw_lstm_cell(ax=None, title=None):
    """Draw one step of an LSTM: each value, what it is made of, and the gradient that comes back. Returns the axes."""
    ax = _diagram(ax, (7.5, 4.5), title or "One LSTM step: a gradient comes back along every arrow")
    _draw_places(ax, LSTM_STEP)
    for start, end, note, at, look in LSTM_WIRES:
        _wire(ax, LSTM_STEP, start, end, note, at, **look)
    rectangle(ax, 1.4, 0.4, 5.0, 1.25, facecolor="#EDF5FA", edgecolor=FORWARD["color"], linewidth=1.8, zorder=2)
    _remark(ax, 3.9, 0.68, "cut into four: z_i, z_f, z_g, z_o")
    _formula(ax, 3.9, 1.1, "z = x W_ih^T + h_prev W_hh^T + b", FORWARD, fontsize=12, bbox=None)
    for name in "ifgo":
        x, y = LSTM_STEP[name][:2]
        _draw_lanes(ax, np.array([x, 1.65]), np.array([x, y]), 1.5, 0.04, (0, UNIT))
        _formula(ax, x + 0.11, 1.79, f"dz_{name}", ha="left")
    for name, note in (("x", "dx"), ("h_prev", "dh_prev")):
        x, y = LSTM_STEP[name][:2]
        _draw_lanes(ax, np.array([x, y]), np.array([1.4, y]), 1.5, 0.04, (UNIT, 0))
        _formula(ax, 1.05, y - 0.2, note)
    for name, note in (("c", "dc_next"), ("h", "dh")):
        x, y = LSTM_STEP[name][:2]
        _draw_lanes(ax, np.array([x, y]), np.array([7.35, y]), 1.5, 0.04, (UNIT, 0))
        _formula(ax, 6.85, y + 0.22, note)
    _draw_key(ax, 0.2, 0.13, "+ and ×: element by element")
    return ax


LSTM_END = {"c": (0.75, 2.9, "c", ""), "m": (0.75, 0.95, "m", "tanh"), "h": (4.5, 0.95, "h", "o · m"),
            "o": (4.5, 2.15, "o", "σ")}


def draw_lstm_roads(ax=None, title=None):
    """Draw the two roads on which the cell c leaves an LSTM step, and its gradient comes back. Returns the axes."""
    message = "The cell leaves the step on two roads, so two gradients come back and add up"
    ax = _diagram(ax, (7.5, 3.9), title or message)
    _draw_places(ax, LSTM_END)
    _formula(ax, 0.3, 3.6, "dc = dc_next + dh * o * (1 - m^2)", ha="left", fontsize=13)
    _remark(ax, 3.1, 3.6, "what road ① brings + what road ② brings", ha="left")
    for name, end in (("c", "next step"), ("h", "next step,\nabove")):
        x, y = LSTM_END[name][:2]
        _draw_lanes(ax, np.array([x, y]), np.array([6.6, y]), 1.5, 0.04, (UNIT, 0))
        _remark(ax, 7.02, y, end)
    _wire(ax, LSTM_END, "c", "m", "dh * o * (1 - m^2)", (0.16, 0.13), ha="left")
    _wire(ax, LSTM_END, "m", "h", "dh * o", (0, -0.22))
    _wire(ax, LSTM_END, "o", "h", "do = dh * m", (0.16, 0.13), ha="left")
    _formula(ax, 3.7, 2.68, "dc_next")
    _formula(ax, 5.7, 0.73, "dh")
    _remark(ax, 3.7, 3.1, "① c goes on as it is")
    _remark(ax, 2.6, 1.15, "② c goes on as tanh(c), weighed by o")
    _remark(ax, 0.91, 1.8, "takes the slope of tanh", ha="left")
    _remark(ax, 4.66, 1.42, "takes the value of tanh", ha="left")
    _draw_key(ax, 0.2, 0.13, "m = tanh(c) is stored once and used twice")
    return ax


GRU = {"h_prev": (0.4, 3.2, "h_prev", ""), "h": (4.05, 3.2, "h", ""), "n": (3.3, 2.0, "n", "tanh"),
       "z": (1.6, 4.15, "z", "σ")}
GRU_WIRES = (("h_prev", "h", "dh * z", (0.1, -0.22), {}), ("z", "h", "dz = dh * (h_prev - n)", (0.05, 0.63), {}),
             ("n", "h", "dn = dh * (1 - z)", (-0.12, 0.1), {"ha": "right"}))
GRU_AFTER = (("h_prev", "u_n", "du_n W_n", (0.12, 0.08), {"ha": "left"}),
             ("u_n", "×", "du_n = da_n * r", (0.12, 0.26), {}), ("×", "n", "da_n", (-0.05, -0.22), {}),
             ("r", "×", "dr = da_n * u_n", (-0.12, 0), {"ha": "right"}))
GRU_BEFORE = (("h_prev", "×", "ds * r", (0.12, 0.08), {"ha": "left"}), ("×", "s", "ds", (-0.08, 0.22), {}),
              ("s", "n", "ds = da_n W_n", (-0.02, 0.39), {}), ("r", "×", "dr = ds * h_prev", (0.14, 0), {"ha": "left"}))


def draw_gru_cell(after=True, ax=None, title=None):
    """Draw one step of a GRU with the reset gate r after the hidden product, or before it. Returns the axes."""
    if after:
        message, wires = "Reset after: r scales the product " + _math("u_n"), GRU_WIRES + GRU_AFTER
        own = {"u_n": (0.95, 2.0, "u_n", ""), "×": (2.25, 2.0, "×"), "r": (2.25, 1.05, "r", "σ")}
    else:
        message, wires = "Reset before: r scales " + _math("h_prev") + ", then the product", GRU_WIRES + GRU_BEFORE
        own = {"s": (1.95, 2.0, "s", ""), "×": (0.9, 2.0, "×"), "r": (0.9, 1.05, "r", "σ")}
    ax, places = _diagram(ax, (4.5, 4.7), title or message), {**GRU, **own}
    _draw_places(ax, places)
    for start, end, note, at, look in wires:
        _wire(ax, places, start, end, note, at, **look)
    _formula(ax, *((0.45, 2.5) if after else (2.6, 1.78)), "W_n", FORWARD)
    for name, source, away in (("z", "x, h_prev", (-0.62, 0)), ("r", "x, h_prev", (0, -0.55)), ("n", "x", (0, -0.6))):
        place = np.array(places[name][:2])
        _draw_lanes(ax, place + away, place, 1.5, 0.04, (0, UNIT))
        _formula(ax, *(place + away + ((-0.38, 0) if away[0] else (0, -0.13))), source, REFERENCE)
    _draw_lanes(ax, np.array([4.05, 3.2]), np.array([4.05, 4.3]), 1.5, 0.04, (UNIT, 0))
    _formula(ax, 4.3, 3.95, "dh")
    _draw_key(ax, 0.2, 0.13)
    return ax
