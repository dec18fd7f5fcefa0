"""Graphs: by hand, and of what the tape recorded, with slopes on the arrows or in two-sided nodes."""

import numpy as np

from ..autodiff import Node, gradients
from ..plotting import FORWARD, GRADIENT, lab_module
from ..sweeps import rates
from .strokes import (
    RADIUS,
    _arrow,
    _diagram,
    _draw_circle_unit,
    _draw_lanes,
    _gradient_number,
    _gradient_text,
    _number,
    _remark,
    _value_text,
)


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
