"""The small network of two layers, with every value and every gradient written in."""

import numpy as np

from .. import mlp
from ..plotting import FORWARD, GRADIENT, REFERENCE, bare_figure, lab_module
from .strokes import (
    BELOW,
    RADIUS,
    SUBSCRIPTS,
    _arrow,
    _circle,
    _draw_circle_unit,
    _draw_lanes,
    _gradient_text,
    _name_text,
    _number,
    _value_text,
)


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


def _draw_unit(ax, name, index, label, value, gradient):
    """A unit of the network; the gradient of the loss stands to its right, there is no room below."""
    x, y = COLUMNS[name], _row(name, index)
    _draw_circle_unit(ax, x, y, label, value, gradient, (RADIUS + 0.2, 0) if name == "loss" else BELOW)


def _forward_width(weight):
    return min(0.8 + 3.5 * abs(weight), 5)


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
