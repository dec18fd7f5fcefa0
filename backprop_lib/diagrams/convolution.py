"""Convolution in one dimension, tap by tap, and in two, with images and kernel."""

import numpy as np

from .. import cnn
from ..plotting import FORWARD, GRADIENT, bare_figure, counted, decimals, draw_cells, lab_module, rectangle
from .strokes import SUBSCRIPTS, _arrow, _gradient_text, _number


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
