"""Pictures with sliders for the notebooks; each stands beside a static figure that needs no kernel."""

import numpy as np

from . import cnn
from .data import load_digits
from .plotting import (
    STYLE,
    SUBSCRIPTS,
    convolution_axes,
    draw_convolution,
    draw_network,
    lab_module,
    network_axes,
    network_pass,
    palette_png,
)


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

    def moved(name, value):
        if abs(value - _on_slider(box.values[name])) > 1e-9:    # otherwise the slider only repeats what it was told
            box.values[name] = value
            redraw()

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
    """The picture; a figure that pyplot does not know needs no closing."""
    with lab_module("matplotlib.style").context(STYLE, after_reset=True):
        ax = draw_network(**values, ax=network_axes(lab_module("matplotlib.figure").Figure))
        return palette_png(ax.figure, fast=True)


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

    def move(values):
        nonlocal moving
        if moving:
            return
        moving = True
        for name in OPTIONS:
            box.sliders[name].value = values[name]
        size = cnn.unfold_forward(image[None, None], KERNEL.shape, **{name: values[name] for name in OPTIONS})[0].shape
        box.sliders["output row"].max, box.sliders["output column"].max = size[2] - 1, size[3] - 1
        for name, slider in box.sliders.items():
            slider.value = min(values[name], slider.max)
        moving = False
        box.picture.value = _convolution_png(image, {name: slider.value for name, slider in box.sliders.items()})

    for slider in box.sliders.values():
        slider.observe(lambda change: move({name: slider.value for name, slider in box.sliders.items()}), "value")
    box.reset.on_click(lambda button: move(START))
    move(START)


def _convolution_png(image, values):
    """The picture of one position of the sliders."""
    output, pixel = ((values[f"{name} row"], values[f"{name} column"]) for name in ("output", "pixel"))
    with lab_module("matplotlib.style").context(STYLE, after_reset=True):
        ax = convolution_axes(lab_module("matplotlib.figure").Figure)
        draw_convolution(image, KERNEL, output, pixel, **{name: values[name] for name in OPTIONS}, ax=ax)
        return palette_png(ax.figure, fast=True)
