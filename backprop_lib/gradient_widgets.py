"""Three pictures with sliders of gradients that vanish and explode: through depth, through time, and at a wall."""

import functools
import math

import numpy as np

from . import init, nn
from .data import load_digits
from .gradflow import (
    gradient_flow,
    jacobian_products,
    layer_norms,
    singular_values,
    spectral_radius,
    step_jacobians,
    step_norms,
    wall,
)
from .optim import clip_by_norm
from .plotting import (
    FORWARD,
    GRADIENT,
    SECOND,
    SMALLEST,
    change_of,
    counted,
    lab_module,
    power_of_ten,
    short_number,
)
from .widgets import LOOK, control_panel, dropdown, number_sliders, rows_of_panels, two_panels_png


FIRST = {**FORWARD, "marker": "o"}                              # of two networks, or of two ways to descend
OTHER = {**GRADIENT, "marker": "s", "markerfacecolor": "white"}
SMALL = {**SECOND, "marker": "^"}
HUGE = 1e30                                                     # beyond it, and below SMALLEST, numbers are only said
PLACES = (0.085, 0.34), (0.6, 0.325)                           # of the panels: left, width


# ------------------------------------------------------------------------------------------------ through depth

WIDTH, EXAMPLES = 32, 128
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "ReLU": nn.ReLU, "leaky ReLU": nn.LeakyReLU}
WEIGHTS = {"fan-in uniform, as PyTorch": None, "Xavier": init.xavier_normal, "He": init.he_normal,
           "orthogonal": init.orthogonal, "Gaussian, std 0.01": functools.partial(init.normal, std=0.01)}
CURES = ("none", "residual", "batch norm", "layer norm")
DEPTH_START = {"depth": 20, "activation": "ReLU", "weights": "fan-in uniform, as PyTorch", "cure": "none"}
DEPTH_SETTINGS = {"ReLU, PyTorch's start: only the gradient fades": {},
                  "ReLU, He's start: neither fades": {"weights": "He"},
                  "Sigmoid, He's start: the gradient is lost": {"activation": "sigmoid", "weights": "He"},
                  "The same, residual: it arrives": {"activation": "sigmoid", "weights": "He", "cure": "residual"}}


def through_depth(depth, activation, weights, cure):
    """A network of `depth` layers of 32 units reads 128 digits: (rms, norms), two numbers for each layer.

    rms is the root mean square of what the layer hands on, norms are those of dL/dz, z = W h + b. L is a random
    combination of the last outputs, scaled so that dL/d(them) has norm 1. `weights` are all drawn from one seed; the
    biases are 0, but for PyTorch's start.
    """
    rng = np.random.default_rng(0)
    stages = [_stage(64 if l == 0 else WIDTH, ACTIVATIONS[activation], cure, l, rng) for l in range(depth)]
    model = nn.Sequential(*stages)
    if WEIGHTS[weights] is not None:
        init.restart(model, WEIGHTS[weights], np.random.default_rng(0))
    flow = gradient_flow(model, _digits(), _unit(np.random.default_rng(1), (EXAMPLES, WIDTH)))
    outputs = [y for name, y in zip(flow.names, flow.outputs) if name.endswith(ACTIVATIONS[activation].__name__)]
    if cure == "residual":
        outputs = np.cumsum(outputs, axis=0)
    return np.sqrt(np.mean(np.square(outputs), axis=(1, 2))), layer_norms(flow).dz


def _stage(D, activation, cure, l, rng):
    """A layer with its cure; the first one changes the size, so that nothing can go around it."""
    norms = {"batch norm": nn.BatchNorm1d, "layer norm": nn.LayerNorm}
    inside = [norms[cure](WIDTH)] if cure in norms else []
    kind = nn.Residual if cure == "residual" and l > 0 else nn.Sequential
    return kind(nn.Linear(D, WIDTH, rng=rng), *inside, activation())


@functools.lru_cache
def _digits():
    return load_digits().x_train[:EXAMPLES]


def _unit(rng, shape):
    """A random array of norm 1."""
    d = rng.standard_normal(shape)
    return d / np.linalg.norm(d)


def _draw_depth(setting, axes, title=None):
    h, dz = through_depth(**setting)
    layers, way = np.arange(1, len(h) + 1), counted(len(h) - 1, "layer")
    _plot_sizes(axes[0], layers, {"h": (h, FIRST)}, (1e-3, 10.0))
    _plot_sizes(axes[1], layers, {"dL/dz": (dz, OTHER)}, (1e-8, 10.0))
    _name(axes[0], "layer", "root mean square of h", title or f"{way} on, h is {_change(h[0], h[-1])}")
    _name(axes[1], "layer", "norm of dL/dz", f"{way} back: {_change(dz[-1], dz[0])}")
    return list(axes)


def depth_traces(settings=DEPTH_SETTINGS):
    """The picture of `depth_widget` for several settings, one below the other.

    settings {title: what differs from DEPTH_START}; returns the list of pairs of axes.
    """
    return rows_of_panels(_draw_depth, DEPTH_START, settings)


def depth_widget():
    """What a network of many layers hands on, and the gradient that comes back, for every start and cure.

    Returns an ipywidgets container with the attributes `controls` (a dictionary of a slider and dropdowns, keys as in
    DEPTH_START), `reset` (a button) and `picture` (an Image whose value is the PNG).
    """
    controls = number_sliders({"depth": ("depth, layers", 2, 50, 1)}, DEPTH_START)
    for name, options in (("activation", ACTIVATIONS), ("weights", WEIGHTS), ("cure", CURES)):
        controls[name] = dropdown(name, options, DEPTH_START[name])
    return control_panel(controls, (("depth", "activation"), ("weights", "cure")), _depth_png, "bp-depth")


def _depth_png(setting):
    return two_panels_png("depth", lambda axes: _draw_depth(setting, axes), PLACES, -0.18)


# ------------------------------------------------------------------------------------------------ through time

FEATURES, UNITS, LONGEST = 4, 16, 100
SQUARES = {"Gaussian": functools.partial(init.normal, std=1.0), "orthogonal": init.orthogonal,
           "identity": lambda rng, shape: init.identity(shape)}
MEMORY_START = {"radius": 0.5, "forget bias": 3.0, "T": 50, "W_hh": "Gaussian"}
MEMORY_SETTINGS = {"Radius 0.5: the RNN forgets, the LSTM holds": {},
                   "Orthogonal, bias \N{MINUS SIGN}1: the LSTM forgets": {
                       "W_hh": "orthogonal", "radius": 1.0, "forget bias": -1.0}}
MEMORY_SLIDERS = {"radius": ("spectral radius", 0.1, 2.0, 0.05),
                  "forget bias": ("forget-gate bias", -2.0, 6.0, 0.1), "T": ("T, time steps", 10, LONGEST, 1)}
LOST = 1e-13                                                    # of the largest: what rounding leaves of a product


def through_time(radius, forget_bias, T, W_hh):
    """A tanh RNN and an LSTM of 16 units read T random inputs: (s, norms), what comes back after 0, 1, ... steps.

    s (T, 16) are the singular values of d(last h)/d(the h so many steps before) of the RNN, the largest first, and
    norms {"RNN": (T), "LSTM": (T)} those of dL/dh and of dL/dc, where L is a random combination of the last h. All
    five matrices of W_hh, four of them the LSTM's, start in the same way and have the same spectral radius.
    """
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((1, LONGEST, FEATURES))[:, -T:], np.zeros((1, T, UNITS))
    dy[:, -1] = _unit(rng, (1, UNITS))
    draw = functools.partial(_recurrent_weight, SQUARES[W_hh], radius)
    rnn = init.restart(nn.RNN(FEATURES, UNITS, rng=rng), draw, rng)
    lstm = init.restart(nn.LSTM(FEATURES, UNITS, rng=rng), draw, rng)
    lstm.params["bias_ih_l0"][UNITS:2*UNITS] = forget_bias
    P = jacobian_products(step_jacobians(rnn, x)[:, 1:])[0]
    s = np.concatenate([np.ones((1, UNITS)), singular_values(P)[::-1]])
    back = {"RNN": step_norms(gradient_flow(rnn, x, dy))["h_l0"],
            "LSTM": step_norms(gradient_flow(lstm, x, dy))["c_l0"]}
    return s, {name: norms[::-1] for name, norms in back.items()}


def _recurrent_weight(square, radius, rng, shape, dtype):
    """W_hh with a given spectral radius; small weights for the inputs, so that tanh is hardly bent by them."""
    if shape != (UNITS, UNITS):
        return init.normal(rng, shape, 0.1, dtype)
    W = square(rng, shape)
    return (radius / spectral_radius(W) * W).astype(dtype)


def _draw_memory(setting, axes, title=None):
    s, norms = through_time(**{name.replace(" ", "_"): value for name, value in setting.items()})
    steps, way = np.arange(len(s)), counted(len(s) - 1, "step")
    _draw_singular_values(axes[0], steps, s)
    _plot_sizes(axes[1], steps, {"RNN, h": (norms["RNN"], FIRST), "LSTM, c": (norms["LSTM"], OTHER)}, (1e-8, 10.0))
    rnn, lstm = (_brief(sizes[-1] / sizes[0], "\N{MULTIPLICATION SIGN}") for sizes in norms.values())
    _name(axes[0], "steps back", "singular values", title or f"{way} back, the largest is {_size(s[-1, 0])}")
    _name(axes[1], "steps back", "norm of dL/dh, dL/dc", f"{way}: RNN {rnn}, LSTM {lstm}")
    return list(axes)


def _draw_singular_values(ax, steps, s):
    """The largest and the smallest with a name, the others in grey; what is lost in rounding is left out."""
    s = np.where(s > LOST * s[:, :1], s, np.nan)
    ax.plot(steps, np.where((s > SMALLEST) & (s < HUGE), s, np.nan)[:, 1:-1], color="0.7", linestyle="-", linewidth=0.7)
    lost = np.flatnonzero(np.isnan(s[:, -1]))
    words = [f"smallest: lost in rounding at step {lost[0]}"] if len(lost) else []
    _plot_sizes(ax, steps, {"largest": (s[:, 0], FIRST), "smallest": (s[:, -1], SMALL)}, (1e-8, 10.0), words)


def memory_traces(settings=MEMORY_SETTINGS):
    """The picture of `memory_widget` for several settings, one below the other.

    settings {title: what differs from MEMORY_START}; returns the list of pairs of axes.
    """
    return rows_of_panels(_draw_memory, MEMORY_START, settings)


def memory_widget():
    """What comes back through time, in an RNN and in an LSTM with the same start.

    Returns an ipywidgets container with the attributes `controls` (a dictionary of sliders and a dropdown, keys as in
    MEMORY_START), `reset` (a button) and `picture` (an Image whose value is the PNG).
    """
    controls = number_sliders(MEMORY_SLIDERS, MEMORY_START)
    controls["W_hh"] = dropdown("start of W_hh", SQUARES, MEMORY_START["W_hh"])
    return control_panel(controls, (("radius", "W_hh"), ("forget bias", "T")), _memory_png, "bp-memory")


def _memory_png(setting):
    return two_panels_png("memory", lambda axes: _draw_memory(setting, axes), PLACES, -0.18)


# ------------------------------------------------------------------------------------------------ at the wall

W_SEEN, B_SEEN = (3.5, 5.5), (-3.0, -1.0)                       # the part of the surface that is drawn
LEVELS = (0.001, 0.003, 0.01, 0.03, 0.06, 0.09, 0.2, 0.3, 0.4)  # of the error; 0.09 is the foot of the wall
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, math.inf)
CLIPPING_START = {"w": 4.8, "b": -2.0, "learning rate": 0.5, "threshold": 0.5, "steps": 30}
CLIPPING_SLIDERS = {"w": ("w at the start", *W_SEEN, 0.05), "b": ("b at the start", *B_SEEN, 0.05),
                    "learning rate": ("learning rate", 0.05, 2.0, 0.05), "steps": ("steps", 1, 50, 1)}
CLIPPING_SETTINGS = {"At the wall, one plain step leaves the picture": {},
                     "From below: only the clipped way stays": {"w": 4.5, "b": -2.4, "learning rate": 1.0,
                                                                "threshold": 0.2}}


def descend(w, b, learning_rate, threshold, steps):
    """Gradient descent on `gradflow.wall`, as it is and with clipping by the norm: (points, errors).

    points (2, steps + 1, 2) are w and b of the plain and of the clipped way, errors (2, steps + 1) what they give.
    """
    at, points, errors = np.array([[w, w], [b, b]], dtype=float), [], []
    for _ in range(steps + 1):
        error, *gradient = wall(*at)
        points.append(at.T)
        errors.append(error)
        plain, clipped = np.transpose(gradient)
        if math.isfinite(threshold):
            clipped = clip_by_norm({"w, b": clipped}, threshold)[0]["w, b"]
        at = at - learning_rate * np.transpose([plain, clipped])
    return np.stack(points, axis=1), np.stack(errors, axis=1)


@functools.lru_cache
def _surface():
    """The error over the part that is drawn, in a few shades of grey: dark is small."""
    w, b = np.meshgrid(np.linspace(*W_SEEN, 225), np.linspace(*B_SEEN, 175))
    return np.digitize(wall(w, b).error, LEVELS)


def _draw_clipping(setting, axes, title=None):
    points, errors = descend(**{name.replace(" ", "_"): value for name, value in setting.items()})
    ways = {"clipped": (points[1], errors[1], FIRST), "plain": (points[0], errors[0], OTHER)}
    longest = [short_number(np.linalg.norm(np.diff(path, axis=0), axis=1).max(), 2) for path in points]
    message = f"Longest step: plain {longest[0]}, clipped {longest[1]}"
    after = f"Step {setting['steps']}: plain {_brief(errors[0, -1])}, clipped {_brief(errors[1, -1])}"
    if np.array_equal(*points):
        del ways["clipped"]
        message = f"Longest step {longest[0]}, {'no clipping' if math.isinf(setting['threshold']) else 'never clipped'}"
        after = f"Step {setting['steps']}: error {_brief(errors[0, -1])}"
    _draw_surface(axes[0], [(path, role) for path, _, role in ways.values()])
    _plot_sizes(axes[1], np.arange(len(errors[0])), {name: (error, role) for name, (_, error, role) in ways.items()},
                (1e-4, 1.0), [_outside(name, *path[-1]) for name, (path, _, _) in ways.items()])
    _name(axes[0], "w", "b (light: large error)", title or message)
    _name(axes[1], "step", "error", after)
    return list(axes)


def _outside(name, w, b):
    """Where a way ends, if that is not to be seen."""
    if W_SEEN[0] <= w <= W_SEEN[1] and B_SEEN[0] <= b <= B_SEEN[1]:
        return ""
    return f"{name} ends at w = {short_number(w, 2)}, b = {short_number(b, 2)}"


def _draw_surface(ax, ways):
    """The surface, and the ways on it from the same start."""
    ax.imshow(_surface(), cmap="gray", vmin=-len(LEVELS), vmax=len(LEVELS), extent=(*W_SEEN, *B_SEEN), origin="lower",
              aspect="auto")
    ax.grid(False)
    for path, role in ways:
        ax.plot(*path.T, color="white", linestyle="-", linewidth=3.5)
        ax.plot(*path.T, **role, linewidth=1.3, markersize=3)
    ax.plot(*ways[0][0][0], color="black", marker="D", markersize=5, clip_on=False)
    ax.annotate("start", ways[0][0][0], (8, 0), textcoords="offset points", va="center", annotation_clip=False)
    ax.set(xlim=W_SEEN, ylim=B_SEEN)


def clipping_paths(settings=CLIPPING_SETTINGS):
    """The picture of `clipping_widget` for several settings, one below the other.

    settings {title: what differs from CLIPPING_START}; returns the list of pairs of axes.
    """
    return rows_of_panels(_draw_clipping, CLIPPING_START, settings)


def clipping_widget():
    """Two ways down the same surface with a wall: plain gradient descent, and with its gradients clipped.

    Returns an ipywidgets container with the attributes `controls` (a dictionary of sliders, keys as in
    CLIPPING_START), `reset` (a button) and `picture` (an Image whose value is the PNG). The last place of the
    threshold is infinity: no clipping.
    """
    ipywidgets = lab_module("ipywidgets")
    options = [("off" if math.isinf(threshold) else f"{threshold:g}", threshold) for threshold in THRESHOLDS]
    controls = number_sliders(CLIPPING_SLIDERS, CLIPPING_START)
    controls["threshold"] = ipywidgets.SelectionSlider(options=options, value=CLIPPING_START["threshold"],
                                                       description="threshold", **LOOK)
    return control_panel(controls, (("learning rate", "threshold", "steps"), ("w", "b")), _clipping_png, "bp-clipping")


def _clipping_png(setting):
    return two_panels_png("clipping", lambda axes: _draw_clipping(setting, axes), PLACES, -0.18)


# ------------------------------------------------------------------------------------------------ what the three share

def _name(ax, xlabel, ylabel, title):
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title, y=1)                                    # a place of its own costs half the time to draw it


def _plot_sizes(ax, x, series, seen, words=()):
    """Curves {name: (sizes, role)} on a logarithmic axis that shows `seen` at least, named where they reach the right.

    What is too small or too large for the axis is counted in words, which get room below the curves; NaN is left out.
    """
    words, drawn = list(filter(None, words)), {}
    for name, (sizes, role) in series.items():
        fits = (sizes > SMALLEST) & (sizes < HUGE)
        if fits.any():
            ax.plot(x[fits], sizes[fits], **role, markevery=max(1, len(x) // 15))
            if fits[-1]:
                drawn[name] = x[-1], sizes[-1], role["color"]
        for outside, limit in ((sizes <= SMALLEST, f"below {power_of_ten(SMALLEST)}"),
                               (sizes >= HUGE, f"above {power_of_ten(HUGE)}")):
            if outside.any():
                words.append(f"{name}: {np.count_nonzero(outside)} of {len(x)} {limit}")
    low, high = _limits([line.get_ydata() for line in ax.lines], seen)
    _set_scales(ax, x, low, high, room=(high / low)**(0.12 * len(words)))
    if len(series) > 1:
        _name_ends(ax, drawn, low, high)
    for row, text in enumerate(reversed(words)):
        ax.text(0.02, 0.03 + 0.1 * row, text, transform=ax.transAxes)


def _limits(curves, seen):
    """Limits of an axis: those that are always seen, or as far as the numbers go, and some room."""
    numbers = np.concatenate([*curves, seen])
    return 0.5 * np.nanmin(numbers), 2 * np.nanmax(numbers)


def _set_scales(ax, x, low, high, room):
    """A logarithmic axis with half a dozen powers of ten from low to high, and room for words below."""
    ticker, margin = lab_module("matplotlib.ticker"), 0.015 * len(x)
    if ax.get_yscale() != "log":                                # which takes time
        ax.set_yscale("log")
    ax.set(xlim=(x[0] - margin, x[-1] + margin), ylim=(low / room, high))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(7, integer=True, min_n_ticks=1))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    exponents = np.arange(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    shown = exponents[exponents % math.ceil(len(exponents) / 6) == 0]
    ax.set_yticks(10.0**shown, [power_of_ten(10.0**exponent) for exponent in shown])


def _name_ends(ax, ends, low, high):
    """Write names {name: (x, y, colour)} at the ends of curves; if two are close, one goes up and the other down."""
    heights = {name: math.log(y / low) / math.log(high / low) for name, (_, y, _) in ends.items()}
    close = len(heights) > 1 and max(heights.values()) - min(heights.values()) < 0.1
    for name, (x, y, color) in ends.items():
        upper = heights[name] == max(heights.values())
        ax.annotate(name, (x, y), (6, 0), textcoords="offset points", color=color, annotation_clip=False,
                    va=("bottom" if upper else "top") if close else "center")


def _change(before, after):
    """What became of a size on its way."""
    if min(before, after) <= SMALLEST or max(before, after) >= HUGE:
        return _size(after)
    return change_of(before, after)


def _size(number):
    """A number in two digits, or that it is beyond what is drawn."""
    if number <= SMALLEST:
        return f"below {power_of_ten(SMALLEST)}"
    return short_number(number, 2) if number < HUGE else f"above {power_of_ten(HUGE)}"


def _brief(number, sign=""):
    """The same with signs instead of words."""
    if SMALLEST < number < HUGE:
        return sign + short_number(number, 2)
    return f"<{power_of_ten(SMALLEST)}" if number <= SMALLEST else f">{power_of_ten(HUGE)}"
