"""Pictures with sliders for the notebooks; each stands beside a static figure that needs no kernel."""

import functools
import threading

import numpy as np

from . import cnn
from .data import load_digits
from .diagrams import SUBSCRIPTS, convolution_axes, draw_convolution, draw_network, network_axes, network_pass
from .gradflow import backward_in_steps
from .lstm import lstm_backward, lstm_forward
from .plotting import STYLE, bare_figure, draw_traces, lab_module, palette_png, short_number
from .rnn import rnn_backward, rnn_forward


LOCK = threading.RLock()


def one_at_a_time(function):
    """A function that two threads do not enter together: JupyterLab runs cells in one and sliders in another.

    They would draw in the same figure, and matplotlib's style is the same for all threads.
    """
    @functools.wraps(function)
    def locked(*args):
        with LOCK:
            return function(*args)
    return locked


# ------------------------------------------------------------------------------------------------ the small network

# A step by step backpropagation example, Matt Mazur, 2015: the numbers the sliders start at.
MAZUR = {"W1": np.array([[0.15, 0.20], [0.25, 0.30]]), "b1": np.array([0.35, 0.35]),
         "W2": np.array([[0.40, 0.45], [0.50, 0.55]]), "b2": np.array([0.60, 0.60]),
         "x": np.array([0.05, 0.10]), "t": np.array([0.01, 0.99])}
PARAMETERS = ("W1", "b1", "W2", "b2")
LEARNING_RATE = 0.5
LIMIT, STEP = 3.0, 0.01                                         # of the sliders


def network_widget():
    """The 2-2-2 network of `draw_network` with a slider for every weight and bias, one gradient step, and reset.

    Returns an ipywidgets container with the attributes `sliders` (a dictionary, keys "W1[0,0]" to "b2[1]"), `values`
    (the exact numbers behind them), `step` and `reset` (buttons) and `picture` (an Image whose value is the PNG).
    """
    ipywidgets = lab_module("ipywidgets")
    sliders = {name: _slider(ipywidgets, name, value) for name, value in _flatten(MAZUR).items()}
    picture = _picture(ipywidgets)
    step = ipywidgets.Button(description=f"One gradient step, weights only, learning rate {LEARNING_RATE}",
                             layout={"width": "400px"})
    reset = ipywidgets.Button(description="Reset")
    columns = [_column(ipywidgets, title, [slider for name, slider in sliders.items() if name[1] == layer])
               for layer, title in (("1", "Hidden layer"), ("2", "Output layer"))]
    box = ipywidgets.VBox([picture, ipywidgets.HBox(columns), ipywidgets.HBox([step, reset])])
    box.add_class("bp-widget")
    box.picture, box.sliders, box.values, box.step, box.reset = picture, sliders, _flatten(MAZUR), step, reset
    _connect(box)
    return box


def _picture(ipywidgets):
    return ipywidgets.Image(format="png", layout={"width": "910px", "max_width": "100%", "object_fit": "contain"})


def _connect(box):
    """Redraw when a slider moves; a button moves many sliders and redraws once."""
    def redraw():
        box.picture.value = _network_png(_unflatten(box.values))

    @one_at_a_time
    def moved(name, value):
        if abs(value - _on_slider(box.values[name])) > 1e-9:    # otherwise the slider only repeats what it was told
            box.values[name] = value
            redraw()

    @one_at_a_time
    def move_all(values):
        box.values.update(_flatten(values))
        for name, slider in box.sliders.items():
            slider.value = _on_slider(box.values[name])
        redraw()

    for name, slider in box.sliders.items():
        slider.observe(lambda change, name=name: moved(name, change["new"]), "value")
    box.step.on_click(lambda button: move_all(_stepped(_unflatten(box.values))))
    box.reset.on_click(lambda button: move_all(MAZUR))
    redraw()


def _on_slider(value):
    """Where a slider stands for a value: sliders know multiples of STEP only, and would round a gradient step away."""
    return min(max(round(round(value / STEP) * STEP, 10), -LIMIT), LIMIT)


def _stepped(values):
    """The weights after one step of gradient descent; the biases stay, as in Mazur's example."""
    _, gradients = network_pass(**values)
    return {**values, **{name: values[name] - LEARNING_RATE * gradients[name] for name in ("W1", "W2")}}


def _network_png(values):
    """The picture of these numbers."""
    return one_panel_png(network_axes, lambda ax: draw_network(**values, ax=ax))


def _flatten(values):
    """Arrays to one number per slider: {"W1[0,0]": 0.15, ...}."""
    return {f"{name}[{','.join(map(str, index))}]": float(values[name][index])
            for name in PARAMETERS for index in np.ndindex(values[name].shape)}


def _unflatten(numbers):
    """The arrays again, with Mazur's x and t."""
    return {**MAZUR, **{name: np.reshape([number for key, number in numbers.items() if key.startswith(name)],
                                         MAZUR[name].shape) for name in PARAMETERS}}


def _slider(ipywidgets, name, value):
    return ipywidgets.FloatSlider(value, min=-LIMIT, max=LIMIT, step=STEP, readout_format=".2f",
                                  description=_description(name), style={"description_width": "112px"},
                                  layout={"width": "440px"})


def _description(name):
    """The name in the code and the edge in the picture: W1[0,1] leads from x1 to h0."""
    out, *into = (SUBSCRIPTS[int(digit)] for digit in name[3:-1].split(","))
    source, target = ("x", "h") if name[1] == "1" else ("h", "y")
    arrow = f"{source}{into[0]} \N{RIGHTWARDS ARROW} " if into else ""
    return f"{name}  {arrow}{target}{out}"


def _column(ipywidgets, title, sliders):
    return ipywidgets.VBox([ipywidgets.HTML(f"<b>{title}</b>"), *sliders])


# ------------------------------------------------------------------------------------------------ convolution

DIGIT = 3                                                       # of the training digits
KERNEL = np.array([[3.0, 1.0, -2.0], [4.0, 2.0, -4.0], [5.0, -1.0, -3.0]])                      # no two weights alike
OPTIONS = {"stride": (1, 3), "padding": (0, 2), "dilation": (1, 3)}
START = {"stride": 1, "padding": 0, "dilation": 1, "output row": 1, "output column": 2, "pixel row": 3,
         "pixel column": 3}


def convolution_widget():
    """`draw_convolution` of a handwritten digit, with sliders for the output, the pixel, stride, padding and dilation.

    Returns an ipywidgets container with the attributes `sliders` (a dictionary, keys as in START), `reset` (a button)
    and `picture` (an Image whose value is the PNG). The sliders of the output go as far as the options let it.
    """
    ipywidgets = lab_module("ipywidgets")
    sliders = {name: ipywidgets.IntSlider(value, *OPTIONS.get(name, (0, 7)), description=name,
                                          style={"description_width": "100px"}, layout={"width": "300px"})
               for name, value in START.items()}
    picture, reset = _picture(ipywidgets), ipywidgets.Button(description="Reset")
    columns = [_column(ipywidgets, title, [sliders[name] for name in names])
               for title, names in (("Forward: what an output reads", ("output row", "output column")),
                                    ("Backward: what a pixel collects", ("pixel row", "pixel column")),
                                    ("Options", OPTIONS))]
    box = ipywidgets.VBox([picture, ipywidgets.HBox(columns), reset])
    box.add_class("bp-widget")
    box.picture, box.sliders, box.reset = picture, sliders, reset
    _connect_convolution(box)
    return box


def _connect_convolution(box):
    """Redraw when a slider moves, once, even if others must follow it."""
    image, moving = 16 * load_digits(flatten=False).x_train[DIGIT, 0], False

    @one_at_a_time
    def move(values=None):
        nonlocal moving
        if moving:
            return
        moving, values = True, values or values_of(box.sliders)
        for name in OPTIONS:
            box.sliders[name].value = values[name]
        size = cnn.unfold_forward(image[None, None], KERNEL.shape, **{name: values[name] for name in OPTIONS})[0].shape
        box.sliders["output row"].max, box.sliders["output column"].max = size[2] - 1, size[3] - 1
        for name, slider in box.sliders.items():
            slider.value = min(values[name], slider.max)
        moving = False
        box.picture.value = _convolution_png(image, values_of(box.sliders))

    for slider in box.sliders.values():
        slider.observe(lambda change: move(), "value")
    box.reset.on_click(lambda button: move(START))
    move(START)


def _convolution_png(image, values):
    """The picture of one position of the sliders."""
    output, pixel = ((values[f"{name} row"], values[f"{name} column"]) for name in ("output", "pixel"))
    options = {name: values[name] for name in OPTIONS}
    return one_panel_png(convolution_axes, lambda ax: draw_convolution(image, KERNEL, output, pixel, **options, ax=ax))


# ------------------------------------------------------------------------------------------------ a unit through time

UNITS = ("tanh RNN", "ReLU RNN", "LSTM")
UNIT_START = {"unit": "tanh RNN", "w": 0.5, "u": 1.0, "b": 0.0, "forget bias": 1.0, "T": 20}
UNIT_SLIDERS = {"w": ("w, of the state", -2.0, 2.0, 0.05), "u": ("u, of the input", -2.0, 2.0, 0.05),
                "b": ("b, bias", -2.0, 2.0, 0.05), "forget bias": ("forget-gate bias", -3.0, 6.0, 0.1),
                "T": ("T, time steps", 2, 30, 1)}
SETTINGS = {"tanh RNN, w = 0.5: the state is forgotten": {},
            "ReLU RNN, w = 1: the state stays": {"unit": "ReLU RNN", "w": 1.0},
            "LSTM, w = 0.2, forget-gate bias 3: the cell stays": {"unit": "LSTM", "w": 0.2, "forget bias": 3.0}}


def unit_through_time(unit, w, u, b, forget_bias, T):
    """One scalar unit that reads a pulse, 1 at t = 0 and then nothing: (values, gradients), each {name: (T)}.

    The gradients are those of L, the last state h. All gates of the LSTM have the weights w and u, and the bias b but
    for the forget gate.
    """
    x, last, state = np.zeros((1, T, 1)), np.zeros((1, T, 1)), np.zeros((1, 1))
    x[0, 0] = last[0, -1] = 1.0
    if unit != "LSTM":
        weights = np.full((1, 1), u, float), np.full((1, 1), w, float), np.full(1, b, float)
        hs, cache = rnn_forward(x, state, *weights, unit.split()[0].lower())
        _, (dh,) = backward_in_steps(rnn_backward, (last,), cache)
        return {"h": hs.ravel()}, {"dL/dh": dh.ravel()}
    weights = np.full((4, 1), u, float), np.full((4, 1), w, float), np.array([b, forget_bias, b, b], float)
    hs, cs, cache = lstm_forward(x, state, state, *weights)
    _, (dh, dc) = backward_in_steps(lstm_backward, (last, np.zeros_like(last)), cache)
    return {"h": hs.ravel(), "c": cs.ravel()}, {"dL/dh": dh.ravel(), "dL/dc": dc.ravel()}


def _draw_unit(setting, axes, title=None):
    """The traces of one setting, and what L is; the title says by default what is left in the end."""
    values, gradients = unit_through_time(**{name.replace(" ", "_"): value for name, value in setting.items()})
    h = short_number(values["h"][-1], 2)
    draw_traces(values, gradients, title or f"{setting['unit']}: a pulse at t = 0 leaves h = {h}", axes)
    axes[1].set_ylabel("gradient, L = last h")
    return list(axes)


def recurrent_traces(settings=SETTINGS):
    """The picture of `recurrent_widget` for several settings, one below the other.

    settings {title: what differs from UNIT_START}; returns the list of pairs of axes.
    """
    return rows_of_panels(_draw_unit, UNIT_START, settings)


def recurrent_widget():
    """One unit through time: its state after a pulse, and the gradient of the last state, with sliders for its weights.

    Returns an ipywidgets container with the attributes `controls` (a dictionary of a dropdown and sliders, keys as in
    UNIT_START), `reset` (a button) and `picture` (an Image whose value is the PNG). The slider of the forget gate is
    seen with the LSTM only.
    """
    controls = {"unit": dropdown("unit", UNITS, UNIT_START["unit"]), **number_sliders(UNIT_SLIDERS, UNIT_START)}

    def draw(setting):
        controls["forget bias"].layout.visibility = "visible" if setting["unit"] == "LSTM" else "hidden"
        return _recurrent_png(setting)

    return control_panel(controls, (("unit", "w", "u", "b"), ("T", "forget bias")), draw)


def _recurrent_png(setting):
    """The picture of one position of the controls."""
    return two_panels_png("unit", lambda axes: _draw_unit(setting, axes))


# ------------------------------------------------------------------------------------------------ what panels share

LOOK = {"style": {"description_width": "150px"}, "layout": {"width": "430px"}}


def rows_of_panels(draw, start, settings):
    """A pair of panels for each {title: what differs from start}, one below the other: draw(setting, axes, title)."""
    figure = lab_module("matplotlib.pyplot").figure(figsize=(9.1, 2.45 * len(settings)))
    rows = figure.subplots(len(settings), 2, squeeze=False)
    return [draw({**start, **setting}, axes, title) for (title, setting), axes in zip(settings.items(), rows)]


def number_sliders(descriptions, start):
    """A slider for each {name: (description, least, most, step)}, of whole numbers if it starts at one."""
    ipywidgets, sliders = lab_module("ipywidgets"), {}
    for name, (description, least, most, step) in descriptions.items():
        kind = ipywidgets.IntSlider if isinstance(start[name], int) else ipywidgets.FloatSlider
        sliders[name] = kind(start[name], min=least, max=most, step=step, description=description, **LOOK)
    return sliders


def dropdown(description, options, value):
    return lab_module("ipywidgets").Dropdown(options=tuple(options), value=value, description=description, **LOOK)


def control_panel(controls, columns, draw, css_class=None):
    """A picture with controls below it, in columns of names, and a button that brings back where they are now.

    draw makes a PNG of the values {name: value}; it is called once for each control that moves, once for the button.
    Returns an ipywidgets container with the attributes `controls`, `reset` and `picture`.
    """
    ipywidgets, start, moving = lab_module("ipywidgets"), values_of(controls), False
    picture, reset = _picture(ipywidgets), ipywidgets.Button(description="Reset")
    rows = ipywidgets.HBox([ipywidgets.VBox([controls[name] for name in names]) for names in columns])
    box = ipywidgets.VBox([picture, rows, reset])
    for name in filter(None, ("bp-widget", css_class)):
        box.add_class(name)
    box.picture, box.controls, box.reset = picture, controls, reset

    @one_at_a_time
    def redraw(_=None):
        if not moving:
            picture.value = draw(values_of(controls))

    @one_at_a_time
    def restart(_):
        nonlocal moving
        moving = True
        for name, control in controls.items():
            control.value = start[name]
        moving = False
        redraw()

    for control in controls.values():
        control.observe(redraw, "value")
    reset.on_click(restart)
    redraw()
    return box


def values_of(controls):
    return {name: control.value for name, control in controls.items()}


@one_at_a_time
def one_panel_png(make_axes, draw):
    """The PNG of what draw(ax) draws in the axes that make_axes, a function of `diagrams`, makes."""
    with lab_module("matplotlib.style").context(STYLE, after_reset=True):
        ax, = emptied([_one_panel(make_axes)])
        draw(ax)
        return palette_png(ax.figure, fast=True)


@functools.lru_cache
def _one_panel(make_axes):
    return make_axes(lab_module("matplotlib.figure").Figure)


@one_at_a_time
def two_panels_png(name, draw, places=((0.08, 0.37), (0.56, 0.37)), aside=-0.14):
    """The PNG of a figure with two panels, at these places (left, width), in which draw(axes) draws.

    One figure for each name serves again and again: draw sets its scales, limits and titles anew. `aside` is where
    the names of the vertical axes stand.
    """
    with lab_module("matplotlib.style").context(STYLE, after_reset=True):
        axes = emptied(_two_panels(name, places))
        draw(axes)
        for ax in axes:                                         # places for the names that need not be computed
            ax.xaxis.set_label_coords(0.5, -0.13)
            ax.yaxis.set_label_coords(aside, 0.5)
        return palette_png(axes[0].figure, fast=True)


@functools.lru_cache
def _two_panels(name, places):
    """The axes of a figure that pyplot does not know, and in which nothing waits for a layout."""
    figure = bare_figure(lab_module("matplotlib.figure").Figure, (9.1, 3.4))
    return [figure.add_axes((left, 0.16, width, 0.72)) for left, width in places]


def emptied(axes):
    """The same axes without what was drawn in them: to make new ones costs more than to fill them."""
    for ax in axes:
        for artist in [*ax.artists, *ax.collections, *ax.images, *ax.lines, *ax.patches, *ax.texts]:
            artist.remove()
    return axes
