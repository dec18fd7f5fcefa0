"""Gradients through depth, through time and at the wall: the numbers, what the titles say, and that pictures follow."""

import cmath
import itertools
import math
import re

import matplotlib
import numpy as np
import pytest


matplotlib.use("Agg")
import matplotlib.pyplot as plt

from backprop_lib import gradflow, init, norm, plotting, widgets
from backprop_lib import gradient_widgets as gw


WIDGETS = {"depth": (gw.depth_widget, gw.depth_traces, gw.DEPTH_START, gw.DEPTH_SETTINGS),
           "memory": (gw.memory_widget, gw.memory_traces, gw.MEMORY_START, gw.MEMORY_SETTINGS),
           "clipping": (gw.clipping_widget, gw.clipping_paths, gw.CLIPPING_START, gw.CLIPPING_SETTINGS)}
OTHER_VALUES = {"depth": {"depth": 21, "activation": "tanh", "weights": "He", "cure": "layer norm"},
                "memory": {"radius": 0.55, "forget bias": 2.9, "T": 51, "W_hh": "identity"},
                "clipping": {"w": 4.85, "b": -2.05, "learning rate": 0.55, "threshold": 0.2, "steps": 31}}
EXTREMES = {
    "depth": [{"depth": 2}, {"depth": 50, "activation": "sigmoid"}, {"depth": 50, "cure": "residual", "weights": "He"},
              {"depth": 50, "activation": "tanh", "weights": "Gaussian, std 0.01"},
              {"depth": 50, "activation": "leaky ReLU", "cure": "batch norm", "weights": "orthogonal"}],
    "memory": [{"T": 10}, {"T": 100, "radius": 2.0, "forget bias": 6.0}, {"T": 100, "radius": 0.1, "forget bias": -2.0},
               {"T": 100, "radius": 2.0, "W_hh": "identity"}, {"T": 100, "radius": 1.0, "W_hh": "orthogonal"}],
    "clipping": [{"threshold": math.inf}, {"threshold": 0.01, "learning rate": 2.0, "steps": 50}, {"steps": 1},
                 {"w": 5.5, "b": -1.0}, {"w": 3.6, "b": -2.6, "threshold": 2.0, "steps": 50},
                 {"w": 3.5, "b": -3.0, "learning rate": 2.0},
                 {"w": 4.5, "b": -2.4, "learning rate": 1.0, "steps": 50, "threshold": 10.0}]}
CASES = [(name, setting) for name, settings in EXTREMES.items() for setting in ({}, *settings)]


def draw(name, setting, title=None):
    """The two panels of a setting, drawn as the widget draws them."""
    figure = plt.figure(figsize=(9.1, 3.4))
    axes = getattr(gw, f"_draw_{name}")({**WIDGETS[name][2], **setting}, figure.subplots(1, 2), title)
    plt.close(figure)
    return axes


def curves(ax):
    return [line.get_xydata() for line in ax.lines]


def of_role(ax, role):
    """The curve that has the marker of the role."""
    line, = (line for line in ax.lines if line.get_marker() == role["marker"])
    return line.get_ydata()


def title(ax):
    """It stands on the left in the style of the course, else in the middle."""
    return ax.get_title(loc="left") or ax.get_title()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-"))


# ------------------------------------------------------------------------------------------------ through depth

FUNCTIONS = {"sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: h * (1 - h)), "tanh": (np.tanh, lambda h: 1 - h**2),
             "ReLU": (lambda z: np.maximum(z, 0), lambda h: h > 0),
             "leaky ReLU": (lambda z: np.maximum(z, 0.01 * z), lambda h: np.where(h > 0, 1, 0.01))}


@pytest.fixture
def models(monkeypatch):
    """(model, x, dy) of the gradients that are measured."""
    seen = []
    monkeypatch.setattr(gw, "gradient_flow", lambda *call: seen.append(call) or gradflow.gradient_flow(*call))
    return seen


def by_hand(model, x, dy, activation, cure):
    """The root mean square of h and the norm of dL/dz of each layer, with the weights of the model."""
    function, slope = FUNCTIONS[activation]
    pairs = {"batch norm": (norm.batch_norm_forward, norm.batch_norm_backward),
             "layer norm": (norm.layer_norm_forward, norm.layer_norm_backward)}
    h, layers = x, []
    for l, stage in enumerate(model.layers):
        W, b = stage.params["0.weight"], stage.params["0.bias"]
        z, cache = h @ W.T + b, None
        if cure in pairs:
            z, cache = pairs[cure][0](z, np.ones(32), np.zeros(32))
        y = function(z)
        around = cure == "residual" and l > 0
        h = h + y if around else y
        layers.append((W, cache, slope(y), around, math.sqrt((h**2).mean())))
    sizes, dh = [], dy
    for W, cache, slopes, around, _ in reversed(layers):
        dz = pairs[cure][1](dh * slopes, cache)[0] if cache else dh * slopes
        sizes.append(math.sqrt((dz**2).sum()))
        dh = dz @ W + (dh if around else 0)
    return [layer[-1] for layer in layers], sizes[::-1]


@pytest.mark.parametrize("cure", gw.CURES)
@pytest.mark.parametrize("activation", gw.ACTIVATIONS)
def test_through_depth_is_what_one_computes_by_hand(models, activation, cure):
    for weights, depth in (("He", 7), ("fan-in uniform, as PyTorch", 2)):
        h, dz = gw.through_depth(depth, activation, weights, cure)
        model, x, dy = models[-1]
        assert x.shape == (128, 64) and len(h) == len(dz) == depth and abs(np.linalg.norm(dy) - 1) < 1e-12
        expected = by_hand(model, x, dy, activation, cure)
        np.testing.assert_allclose(h, expected[0], rtol=1e-12)
        np.testing.assert_allclose(dz, expected[1], rtol=1e-10)


@pytest.mark.parametrize("weights, variance", {"fan-in uniform, as PyTorch": 1 / 96, "Xavier": 1 / 32, "He": 2 / 32,
                                               "orthogonal": 1 / 32, "Gaussian, std 0.01": 1e-4}.items())
def test_weights_start_as_their_name_says(models, weights, variance):
    gw.through_depth(30, "tanh", weights, "none")
    W = np.stack([stage.params["0.weight"] for stage in models[0][0].layers[1:]])
    assert abs(W.var() / variance - 1) < 0.03
    assert np.allclose(W[0] @ W[0].T, np.eye(32)) == (weights == "orthogonal")
    biases = np.stack([stage.params["0.bias"] for stage in models[0][0].layers[1:]])
    assert biases.any() == ("PyTorch" in weights)


def test_every_network_has_finite_numbers():
    for setting in itertools.product(gw.ACTIVATIONS, list(gw.WEIGHTS)[::2], gw.CURES):
        h, dz = gw.through_depth(50, *setting)
        assert np.isfinite([h, dz]).all() and (h >= 0).all() and len(h) == len(dz) == 50


@pytest.mark.parametrize("setting", [{}, *EXTREMES["depth"]], ids=str)
def test_titles_of_the_depth_say_what_is_drawn(setting):
    setting = {**gw.DEPTH_START, **setting}
    h, dz = gw.through_depth(**setting)
    way = "1 layer" if len(h) == 2 else f"{len(h) - 1} layers"
    left, right = draw("depth", setting)
    for ax, start, (before, after) in ((left, f"{way} on, h is ", h[[0, -1]]), (right, f"{way} back: ", dz[[-1, 0]])):
        assert title(ax).startswith(start)
        what = title(ax).removeprefix(start)
        if after <= 1e-30:
            assert what == "below 10⁻³⁰"
        elif what == "about as large":
            assert 1 / 1.05 < after / before < 1.05
        else:
            ratio, _, word = what.split()
            assert word == ("smaller" if after < before else "larger")
            assert abs(number(ratio) * min(before, after) / max(before, after) - 1) < 0.05
    for ax, sizes, role in ((left, h, gw.FIRST), (right, dz, gw.OTHER)):
        np.testing.assert_array_equal(of_role(ax, role), sizes[sizes > 1e-30])
        small = np.count_nonzero(sizes <= 1e-30)
        assert texts(ax) == ([f"{'h' if ax is left else 'dL/dz'}: {small} of {len(h)} below 10⁻³⁰"] if small else [])


def test_messages_of_the_static_depth_hold():
    (fades, gone), (stays, arrives), (_, lost), (_, residual) = (
        (of_role(left, gw.FIRST), of_role(right, gw.OTHER)) for left, right in gw.depth_traces())
    plt.close("all")
    assert 0.2 < fades[-1] / fades[0] and gone[0] / gone[-1] < 1e-7
    assert 0.5 < stays[-1] / stays[0] < 2 and 0.5 < arrives[0] / arrives[-1] < 2
    assert lost[0] / lost[-1] < 1e-9 and residual[0] / residual[-1] > 1


# ------------------------------------------------------------------------------------------------ through time

def soft(z):
    return 1 / (1 + np.exp(-z))


def rnn_by_hand(params, x, dy):
    """Singular values of d(last h)/d(h_t) and norms of dL/dh_t, from the end to the start."""
    h, slopes, W = np.zeros(16), [], params["weight_hh_l0"]
    for x_t in x[0]:
        h = np.tanh(params["weight_ih_l0"] @ x_t + W @ h)
        slopes.append(1 - h**2)
    product, dh, values, norms = np.eye(16), dy[0, -1], [], []
    for slope in reversed(slopes):
        values.append(np.linalg.svd(product, compute_uv=False))
        norms.append(np.linalg.norm(dh))
        product, dh = product @ (slope[:, None] * W), (dh * slope) @ W
    return np.array(values), np.array(norms)


def lstm_by_hand(params, x, dy, t):
    """dL/dc_t by the complex step, a cell at a time; L is dy times the last h."""
    W, b = np.hstack([params["weight_ih_l0"], params["weight_hh_l0"]]), params["bias_ih_l0"] + params["bias_hh_l0"]

    def last(nudge):
        h, c = np.zeros(16), np.zeros(16)
        for step, x_t in enumerate(x[0]):
            i, f, g, o = np.split(W @ np.concatenate([x_t, h]) + b, 4)
            c = soft(f) * c + soft(i) * np.tanh(g) + (nudge if step == t else 0)
            h = soft(o) * np.tanh(c)
        return (dy[0, -1] @ h).imag
    return np.array([last(1j * 1e-30 * unit) / 1e-30 for unit in np.eye(16)])


@pytest.mark.parametrize("setting", [(0.8, 1.3, 10, "Gaussian"), (1.5, -0.7, 17, "orthogonal"),
                                     (0.3, 4.0, 12, "identity")], ids=str)
def test_through_time_is_what_one_computes_by_hand(models, setting):
    radius, forget_bias, T, W_hh = setting
    s, norms = gw.through_time(*setting)
    (rnn, x, dy), (lstm, *same) = models
    assert x.shape == (1, T, 4) and same[0] is x and same[1] is dy and not dy[:, :-1].any()
    assert abs(np.linalg.norm(dy) - 1) < 1e-12
    values, sizes = rnn_by_hand(rnn.params, x, dy)
    np.testing.assert_allclose(s / s[:, :1], values / values[:, :1], atol=1e-12)
    np.testing.assert_allclose(s[:, 0], values[:, 0], rtol=1e-9)
    np.testing.assert_allclose(norms["RNN"], sizes, rtol=1e-9)
    for t in (0, T // 2, T - 1):
        expected = np.linalg.norm(lstm_by_hand(lstm.params, x, dy, t))
        assert abs(norms["LSTM"][T - 1 - t] / expected - 1) < 1e-9


@pytest.mark.parametrize("W_hh", gw.SQUARES)
def test_recurrent_weights_start_as_the_controls_say(models, W_hh):
    gw.through_time(0.7, 2.5, 10, W_hh)
    (rnn, *_), (lstm, *_) = models
    for W in (rnn.params["weight_hh_l0"], *np.split(lstm.params["weight_hh_l0"], 4)):
        assert abs(np.abs(np.linalg.eigvals(W)).max() / 0.7 - 1) < 1e-12
        assert np.allclose(W @ W.T, 0.49 * np.eye(16)) == (W_hh != "Gaussian")
        assert np.allclose(W, 0.7 * np.eye(16)) == (W_hh == "identity")
    biases = lstm.params["bias_ih_l0"] + lstm.params["bias_hh_l0"]
    np.testing.assert_array_equal(biases, np.repeat([0, 2.5, 0, 0], 16))


@pytest.mark.parametrize("setting", [{}, *EXTREMES["memory"]], ids=str)
def test_titles_of_the_memory_say_what_is_drawn(setting):
    setting = {**gw.MEMORY_START, **setting}
    T, (s, norms) = setting["T"], gw.through_time(**{name.replace(" ", "_"): v for name, v in setting.items()})
    left, right = draw("memory", setting)
    start, what = title(left).split(" back, the largest is ")
    assert start == f"{T - 1} steps"
    largest = s[-1, 0]
    assert what == "below 10⁻³⁰" if largest <= 1e-30 else abs(number(what) / largest - 1) < 0.05
    start, of_rnn, of_lstm = re.fullmatch(r"(.+): RNN (\S+), LSTM (\S+)", title(right)).groups()
    assert start == f"{T - 1} steps"
    for what, sizes in ((of_rnn, norms["RNN"]), (of_lstm, norms["LSTM"])):
        ratio = sizes[-1] / sizes[0]
        assert what == "<10⁻³⁰" if ratio <= 1e-30 else abs(number(what.lstrip("×")) / ratio - 1) < 0.05
    for name, sizes, role in (("RNN, h", norms["RNN"], gw.FIRST), ("LSTM, c", norms["LSTM"], gw.OTHER)):
        np.testing.assert_array_equal(of_role(right, role), sizes[sizes > 1e-30])
        small = np.count_nonzero(sizes <= 1e-30)
        assert (name in texts(right)) != (f"{name}: {small} of {T} below 10⁻³⁰" in texts(right))


def test_singular_values_that_rounding_has_eaten_are_not_drawn():
    """Products in steps of ten digits: the exact singular values 1 and 10**-k; below 1e-13 of the largest is noise."""
    figure = plt.figure()
    ax = figure.subplots()
    steps = np.arange(30)
    gw._draw_singular_values(ax, steps, np.column_stack([np.ones(30), 10.0**-np.minimum(steps, 16)]))
    assert of_role(ax, gw.FIRST).size == 30 and of_role(ax, gw.SMALL).size == 13
    assert "largest" in texts(ax) and texts(ax)[-1] == "smallest: lost in rounding at step 13"
    plt.close(figure)


def test_messages_of_the_static_memory_hold():
    (rnn, lstm), (other_rnn, other_lstm) = (
        [of_role(right, role) for role in (gw.FIRST, gw.OTHER)] for _, right in gw.memory_traces())
    plt.close("all")
    assert rnn[-1] / rnn[0] < 1e-15 and lstm[-1] / lstm[0] > 0.5
    assert other_rnn[-1] / other_rnn[0] > 1e-3 and other_lstm[-1] / other_lstm[0] < 1e-14


# ------------------------------------------------------------------------------------------------ at the wall

def error_by_hand(w, b):
    x = 0.5
    for _ in range(50):
        x = w / (1 + cmath.exp(-x)) + b
    return (1 / (1 + cmath.exp(-x)) - 0.7)**2


def descend_by_hand(w, b, learning_rate, threshold, steps):
    points, errors = [], []
    for _ in range(steps + 1):
        points.append((w, b))
        errors.append(error_by_hand(w, b).real)
        dw, db = error_by_hand(w + 1e-30j, b).imag / 1e-30, error_by_hand(w, b + 1e-30j).imag / 1e-30
        scale = min(1, threshold / math.hypot(dw, db))
        w, b = w - learning_rate * scale * dw, b - learning_rate * scale * db
    return points, errors


@pytest.mark.parametrize("setting", [(4.8, -2.0, 0.5, 0.05, 8), (4.0, -2.4, 0.3, 0.02, 10), (5.2, -1.2, 1.5, 10.0, 3)],
                         ids=str)
def test_descent_is_what_one_computes_by_hand(setting):
    points, errors = gw.descend(*setting)
    for way, threshold in enumerate((math.inf, setting[3])):
        expected = descend_by_hand(*setting[:3], threshold, setting[4])
        np.testing.assert_allclose(points[way], expected[0], rtol=1e-8)
        np.testing.assert_allclose(errors[way], expected[1], rtol=1e-6)


@pytest.mark.parametrize("w, b", list(itertools.product(gw.W_SEEN, gw.B_SEEN)))
@pytest.mark.parametrize("threshold", [0.01, 10.0, math.inf])
def test_clipped_steps_are_never_longer_than_the_threshold_times_the_rate(w, b, threshold):
    points, errors = gw.descend(w, b, 2.0, threshold, 50)
    assert np.isfinite(points).all() and np.isfinite(errors).all() and points.shape == (2, 51, 2)
    assert np.linalg.norm(np.diff(points[1], axis=0), axis=1).max() <= 2.0 * threshold * (1 + 1e-12)
    assert np.array_equal(*points) or math.isfinite(threshold)


@pytest.mark.parametrize("setting", [{}, *EXTREMES["clipping"]], ids=str)
def test_titles_of_the_clipping_say_what_is_drawn(setting):
    setting = {**gw.CLIPPING_START, **setting}
    points, errors = gw.descend(**{name.replace(" ", "_"): value for name, value in setting.items()})
    left, right = draw("clipping", setting)
    longest = [np.linalg.norm(np.diff(path, axis=0), axis=1).max() for path in points]
    if np.array_equal(*points):
        step, why = re.fullmatch(r"Longest step (\S+), (.+)", title(left)).groups()
        said = [(step, longest[0]), (title(right).split("error ")[1], errors[0, -1])]
        assert why == ("no clipping" if setting["threshold"] == math.inf else "never clipped")
        ways = [("plain", 0, gw.OTHER)]
    else:
        steps = re.fullmatch(r"Longest step: plain (\S+), clipped (\S+)", title(left)).groups()
        ends = re.fullmatch(rf"Step {setting['steps']}: plain (\S+), clipped (\S+)", title(right)).groups()
        said = [*zip(steps, longest), *zip(ends, errors[:, -1])]
        ways = [("plain", 0, gw.OTHER), ("clipped", 1, gw.FIRST)]
    for text, value in said:
        assert text == "<10⁻³⁰" if value <= 1e-30 else abs(number(text) / value - 1) < 0.05
    for name, way, role in ways:
        np.testing.assert_array_equal(of_role(right, role), errors[way][errors[way] > 1e-30])
        assert any(np.array_equal(curve, points[way]) for curve in curves(left))
        (w, b), ends = points[way, -1], [text for text in texts(right) if text.startswith(f"{name} ends at")]
        if 3.5 <= w <= 5.5 and -3 <= b <= -1:
            assert not ends
        else:
            shown = re.fullmatch(r"\S+ ends at w = (\S+), b = (\S+)", *ends).groups()
            np.testing.assert_allclose([number(text) for text in shown], [w, b], rtol=0.05)
    assert len(right.lines) == len(ways) and texts(left) == ["start"]


def test_surface_is_dark_where_the_error_is_small():
    left, _ = draw("clipping", {})
    image, = left.images
    rows, columns = image.get_array().shape
    w, b = np.meshgrid(np.linspace(3.5, 5.5, columns), np.linspace(-3, -1, rows))
    error = gradflow.wall(w, b).error
    order = np.argsort(error, axis=None)
    assert (np.diff(image.get_array().ravel()[order]) >= 0).all() and image.origin == "lower"
    assert image.get_extent() == [3.5, 5.5, -3, -1] or tuple(image.get_extent()) == (3.5, 5.5, -3, -1)


def test_messages_of_the_static_clipping_hold():
    for left, _ in gw.clipping_paths():
        clipped, plain = (of_role(left, role) for role in (gw.FIRST, gw.OTHER))
        assert not -3 <= plain[-1] <= -1 and (-3 <= clipped).all() and (clipped <= -1).all()
    plt.close("all")


# ------------------------------------------------------------------------------------------------ all three

def controls(box):
    return {name: control.value for name, control in box.controls.items()}


@pytest.fixture
def pictures(monkeypatch):
    """The settings that are drawn, without drawing them."""
    drawn = []
    for name in WIDGETS:
        monkeypatch.setattr(gw, f"_{name}_png", lambda setting: drawn.append(setting) or str(len(drawn)).encode())
    return drawn


@pytest.mark.parametrize("name", WIDGETS)
def test_a_control_changes_its_own_number_and_redraws_once(pictures, name):
    make, _, start, _ = WIDGETS[name]
    box, other = make(), make()
    assert pictures == [start, start] and controls(box) == start
    assert {"bp-widget", f"bp-{name}"} <= set(box._dom_classes)
    shown = [control for column in box.children[1].children for control in column.children]
    assert sorted(map(id, shown)) == sorted(map(id, box.controls.values())), "all controls are in the box"
    setting = dict(start)
    for control, value in OTHER_VALUES[name].items():
        setting[control] = value
        before = len(pictures)
        box.controls[control].value = value
        assert pictures[before:] == [setting] and box.picture.value == str(before + 1).encode()
    before = len(pictures)
    box.reset.click()
    assert pictures[before:] == [start] and controls(box) == start == controls(other)


@pytest.mark.parametrize("name", WIDGETS)
def test_every_control_changes_the_picture_and_reset_brings_it_back(name):
    box = WIDGETS[name][0]()
    first = box.picture.value
    for control, value in OTHER_VALUES[name].items():
        before = box.picture.value
        box.controls[control].value = value
        assert box.picture.value != before, control
    with plt.style.context("dark_background"):
        box.reset.click()
    assert box.picture.value == first and first[:4] == b"\x89PNG" and len(first) < 60_000
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", WIDGETS)
def test_static_twin_draws_the_same(name, monkeypatch):
    _, twin, start, settings = WIDGETS[name]
    drawn = []
    monkeypatch.setattr(widgets, "palette_png", lambda figure, fast: drawn.append(
        [(curves(ax), texts(ax), ax.get_ylim(), title(ax)) for ax in figure.axes]) or b"")
    rows = twin()
    for (message, setting), row in zip(settings.items(), rows, strict=True):
        getattr(gw, f"_{name}_png")({**start, **setting})
        for ax, (lines, words, limits, _) in zip(row, drawn[-1], strict=True):
            assert len(lines) == len(ax.lines) and words == texts(ax) and limits == ax.get_ylim()
            for line, twins in zip(lines, curves(ax)):
                np.testing.assert_array_equal(line, twins)
        assert title(row[0]) == message and title(row[1]) == drawn[-1][1][3]
    (left, _), = twin({"A message": {}})
    assert title(left) == "A message"
    plt.close("all")


@pytest.mark.parametrize("name, setting", CASES, ids=str)
def test_names_have_room(monkeypatch, name, setting):
    figures = []
    monkeypatch.setattr(widgets, "palette_png", lambda figure, fast: figures.append(figure) or b"")
    getattr(gw, f"_{name}_png")({**WIDGETS[name][2], **setting})
    figure, = figures
    with plt.style.context(plotting.STYLE):
        figure.canvas.draw()
    boxes = [text.get_window_extent() for ax in figure.axes for text in (
        *ax.texts, ax._left_title, ax.yaxis.label, ax.xaxis.label,
        *(tick for tick in (*ax.get_xticklabels(), *ax.get_yticklabels()) if tick.get_text()
          and figure.bbox.x0 < tick.get_window_extent().x0 and inside(ax, tick)))]
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def inside(ax, tick):
    """Whether a tick is one that is drawn."""
    (low, high), place = (ax.get_xlim(), tick.get_position()[0]) if tick in ax.get_xticklabels() else (
        ax.get_ylim(), tick.get_position()[1])
    return low <= place <= high


@pytest.mark.parametrize("sizes, words", [
    ([1.0, 1e-31, 0.0], ["a: 2 of 3 below 10⁻³⁰"]), ([np.inf, 1e31, 1.0], ["a: 2 of 3 above 10³⁰"]),
    ([0.0, 1.0, np.inf], ["a: 1 of 3 below 10⁻³⁰", "a: 1 of 3 above 10³⁰"]),
    ([0.0, 0.0, 0.0], ["a: 3 of 3 below 10⁻³⁰"]), ([np.nan, 1e-3, 1e3], [])], ids=str)
def test_what_has_no_place_on_the_axis_is_said_in_words(sizes, words):
    figure = plt.figure()
    ax = figure.subplots()
    sizes = np.array(sizes)
    gw._plot_sizes(ax, np.arange(3), {"a": (sizes, gw.FIRST)}, (1e-3, 1.0))
    figure.canvas.draw()
    assert sorted(texts(ax)) == sorted(words)
    drawn = of_role(ax, gw.FIRST) if ax.lines else np.array([])
    np.testing.assert_array_equal(drawn, sizes[(sizes > 1e-30) & (sizes < 1e30)])
    low, high = ax.get_ylim()
    assert 0 < low < 1e-3 and 1 < high < np.inf
    plt.close(figure)


@pytest.mark.parametrize("before, after, words", [
    (1.0, 2.5, "2.5 times larger"), (3e4, 1.0, "3e4 times smaller"), (1.0, 1.04, "about as large"),
    (1.0, 0.0, "below 10⁻³⁰"), (1.0, np.inf, "above 10³⁰"), (1e-40, 1e-3, "0.001")])
def test_a_change_in_words(before, after, words):
    assert gw._change(before, after) == words


@pytest.mark.parametrize("number, words", [(0.25, "×0.25"), (0.0, "<10⁻³⁰"), (np.inf, ">10³⁰"), (3e7, "×3e7")])
def test_a_factor_in_signs(number, words):
    assert gw._brief(number, "×") == words


def test_a_redraw_leaves_nothing_behind():
    """One figure serves all settings: the picture does not depend on what was drawn before."""
    for name, settings in EXTREMES.items():
        draw_png, start = getattr(gw, f"_{name}_png"), WIDGETS[name][2]
        for setting in settings[1:3]:
            draw_png({**start, **setting})
        used = draw_png(start)
        widgets._two_panels.cache_clear()
        assert draw_png(start) == used


def test_starts_and_settings_name_what_there_is():
    assert set(gw.WEIGHTS.values()) >= {None, init.he_normal, init.xavier_normal, init.orthogonal}
    for _, _, start, settings in WIDGETS.values():
        assert all(set(setting) <= set(start) for setting in settings.values())
