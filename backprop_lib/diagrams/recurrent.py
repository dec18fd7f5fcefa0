"""A network unrolled through time, and the cells of LSTM and GRU."""

import re

import numpy as np

from ..plotting import FORWARD, GRADIENT, REFERENCE, rectangle
from .strokes import _arrow, _circle, _diagram, _draw_lanes, _remark


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


def _draw_value(ax, x, y, name, rule=""):
    """A circle with a name, and below it the function it comes from."""
    _circle(ax, x, y, UNIT, FORWARD, "#EDF5FA")
    ax.text(x, y + (0.09 if rule else 0), _math(name), fontsize=12, ha="center", va="center", zorder=6)
    _remark(ax, x, y - 0.14, rule, fontsize=9)


def _draw_sign(ax, x, y, sign, role=FORWARD):
    """A small circle: a product of what arrives, or a sum."""
    _circle(ax, x, y, PRODUCT, role, "white")
    ax.text(x, y - 0.005, sign, fontsize=12, color=role["color"], ha="center", va="center_baseline", zorder=6)


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
