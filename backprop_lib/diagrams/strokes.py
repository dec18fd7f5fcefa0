"""What all the drawings are made of: circles, arrows in both directions, numbers in boxes, bare axes in inches."""

import numpy as np

from ..plotting import FORWARD, GRADIENT, bare_figure, lab_module


RADIUS = 0.41
BELOW = (0, -RADIUS - 0.2)
SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"


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


def _draw_circle_unit(ax, x, y, label, value, gradient, offset=BELOW):
    """A circle with a name and a value in it, and the gradient of that value at an offset, below it by default."""
    _circle(ax, x, y, RADIUS, FORWARD, "#EDF5FA")
    _name_text(ax, x, y + 0.17, label)
    _value_text(ax, x, y - 0.11, _number(value), weight="bold")
    _gradient_text(ax, x + offset[0], y + offset[1], gradient)


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


def _remark(ax, x, y, text, **look):
    ax.text(x, y, text, **{"fontsize": 9.5, "color": "0.3", "ha": "center", "va": "center", "zorder": 6, **look})


def _diagram(ax, size, title):
    """Bare axes measured in inches, with a message above: the given ones, or new ones that fill a figure."""
    if ax is None:
        figure = bare_figure(lab_module("matplotlib.pyplot").figure, (size[0], size[1] + 0.4))
        ax = figure.add_axes((0, 0, 1, size[1] / (size[1] + 0.4)))
    ax.set(xlim=(0, size[0]), ylim=(0, size[1]), aspect="equal")
    ax.axis("off")
    ax.set_title(title, x=0.012, y=1, fontsize=12)
    return ax
