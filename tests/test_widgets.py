"""The sliders without a browser: what they hold, what the buttons do, and that the picture follows."""

from concurrent.futures import ThreadPoolExecutor

import matplotlib
import numpy as np
import pytest


matplotlib.use("Agg")
import matplotlib.pyplot as plt

from backprop_lib import cnn, diagrams, plotting, widgets
from backprop_lib.widgets import (
    KERNEL,
    MAZUR,
    OPTIONS,
    START,
    UNIT_START,
    convolution_widget,
    network_widget,
    recurrent_traces,
    recurrent_widget,
    unit_through_time,
)


# Mazur's weights after one step with learning rate 0.5, as published to nine digits; W1 and W2 row by row
AFTER_ONE_STEP = {"W1": [0.149780716, 0.199561432, 0.249751144, 0.299502287],
                  "W2": [0.358916480, 0.408666186, 0.511301270, 0.561370121]}


@pytest.fixture
def box():
    return network_widget()


@pytest.fixture
def redraws(monkeypatch):
    """The networks that are drawn, without drawing them."""
    drawn = []
    monkeypatch.setattr(widgets, "_network_png", lambda values: drawn.append(values) or str(len(drawn)).encode())
    return drawn


# ------------------------------------------------------------------------------------------------ the small network

def numbers(box, layer):
    return [value for name, value in box.values.items() if name.startswith(layer)]


def test_sliders_start_at_mazurs_numbers(box):
    assert len(box.sliders) == 12 and list(box.sliders) == list(box.values)
    assert {name: slider.value for name, slider in box.sliders.items()} == box.values
    assert numbers(box, "W1") == [0.15, 0.20, 0.25, 0.30] and numbers(box, "b1") == [0.35, 0.35]
    assert numbers(box, "W2") == [0.40, 0.45, 0.50, 0.55] and numbers(box, "b2") == [0.60, 0.60]
    assert bytes(box.picture.value[:4]) == b"\x89PNG" and "bp-widget" in box._dom_classes


def test_a_slider_says_which_number_it_is_and_which_edge(box):
    descriptions = [slider.description.split(maxsplit=1) for slider in box.sliders.values()]
    assert [name for name, _ in descriptions] == list(box.sliders)
    assert dict(descriptions)["W1[0,1]"] == "x₁ → h₀" and dict(descriptions)["W2[1,0]"] == "h₀ → y₁"
    assert dict(descriptions)["b2[1]"] == "y₁"


@pytest.mark.parametrize("layer, index", [(layer, index) for layer in ("W1", "b1", "W2", "b2")
                                          for index in np.ndindex(MAZUR[layer].shape)])
def test_a_slider_changes_its_own_number_in_the_picture(redraws, layer, index):
    box = network_widget()
    before = box.picture.value
    box.sliders[f"{layer}[{','.join(map(str, index))}]"].value = -1.23
    assert box.picture.value != before and len(redraws) == 2
    expected = {name: array.copy() for name, array in MAZUR.items()}
    expected[layer][index] = -1.23
    assert redraws[-1].keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(redraws[-1][name], array)


def test_the_picture_is_the_network_of_the_values_and_nothing_else(box):
    start = box.picture.value
    box.sliders["W2[0,1]"].value = 2.0
    moved = box.picture.value
    with plt.style.context("dark_background"):
        box.sliders["W2[0,1]"].value = 0.45
        assert box.picture.value == start
        box.sliders["W2[0,1]"].value = 2.0
        assert box.picture.value == moved != start
    assert plt.get_fignums() == []


def test_the_step_button_does_one_gradient_step_on_the_weights(redraws):
    box = network_widget()
    box.step.click()
    assert len(redraws) == 2, "one step, one redraw"
    for layer, expected in AFTER_ONE_STEP.items():
        np.testing.assert_allclose(numbers(box, layer), expected, atol=6e-10)
        np.testing.assert_array_equal(redraws[-1][layer].ravel(), numbers(box, layer))
    assert numbers(box, "b1") == [0.35, 0.35] and numbers(box, "b2") == [0.60, 0.60]
    loss = [widgets.network_pass(**values)[0]["loss"] for values in redraws]
    np.testing.assert_allclose(loss, [0.298371109, 0.291027774], atol=6e-10)


def test_sliders_stand_on_their_scale_and_do_not_round_a_step_away(redraws):
    """The browser moves a slider to a multiple of its step and sends that back: the exact number stays."""
    box = network_widget()
    box.step.click()
    exact = dict(box.values)
    assert {name: slider.value for name, slider in box.sliders.items()} == {n: round(v, 2) for n, v in exact.items()}
    for slider in box.sliders.values():
        slider.notify_change({"name": "value", "old": None, "new": slider.value + 1e-16, "owner": slider,
                              "type": "change"})
    assert box.values == exact and len(redraws) == 2
    box.sliders["W1[0,0]"].value = 0.16
    assert box.values == {**exact, "W1[0,0]": 0.16}


def test_steps_go_on_past_the_end_of_a_slider(redraws):
    box = network_widget()
    box.sliders["W2[0,0]"].value = box.sliders["W2[0,1]"].value = -widgets.LIMIT
    box.step.click()
    first = box.values["W2[0,0]"]
    box.step.click()
    assert box.values["W2[0,0]"] < first < -widgets.LIMIT == box.sliders["W2[0,0]"].value


def test_reset_brings_everything_back(box):
    start, values = box.picture.value, dict(box.values)
    box.sliders["b1[1]"].value = -3.0
    box.step.click()
    assert box.picture.value != start
    box.reset.click()
    assert box.picture.value == start and box.values == values
    assert {name: slider.value for name, slider in box.sliders.items()} == values


def test_two_widgets_do_not_share_their_numbers(box):
    other = network_widget()
    box.sliders["W1[0,0]"].value = 1.0
    assert other.values["W1[0,0]"] == MAZUR["W1"][0, 0] == 0.15


# ------------------------------------------------------------------------------------------------ convolution

@pytest.fixture
def convolutions(monkeypatch):
    """(image, values) of the convolutions that are drawn, without drawing them."""
    drawn = []
    monkeypatch.setattr(widgets, "_convolution_png", lambda *call: drawn.append(call) or str(len(drawn)).encode())
    return drawn


def positions(box):
    return {name: slider.value for name, slider in box.sliders.items()}


def sizes(box):
    """How many rows and columns of outputs the sliders offer."""
    return box.sliders["output row"].max + 1, box.sliders["output column"].max + 1


def outputs(**options):
    return cnn.conv2d_forward(np.zeros((1, 1, 8, 8)), KERNEL[None, None], np.zeros(1), **options)[0].shape[2:]


def test_convolution_starts_with_a_picture_and_a_digit(convolutions):
    box = convolution_widget()
    assert positions(box) == START and "bp-widget" in box._dom_classes and box.picture.value == b"1"
    (image, values), = convolutions
    assert values == START and image.shape == (8, 8) and set(np.unique(image)) <= set(range(17)) and image.max() > 8
    assert len(np.unique(KERNEL)) == 9, "the weights can be told apart"
    assert {name: slider.min for name, slider in box.sliders.items()} == {
        **dict.fromkeys(START, 0), "stride": 1, "dilation": 1}


def test_the_picture_of_the_convolution_is_the_drawing(monkeypatch):
    box = convolution_widget()
    assert bytes(box.picture.value[:4]) == b"\x89PNG" and len(box.picture.value) < 60_000
    calls = []
    monkeypatch.setattr(widgets, "draw_convolution", lambda *args, **kwargs: calls.append(
        (args, kwargs)) or diagrams.draw_convolution(*args, **kwargs))
    start = box.picture.value
    box.sliders["stride"].value = 2
    box.sliders["pixel row"].value = 6
    (_, kernel, output, pixel), options = calls[-1]
    assert kernel is KERNEL and (output, pixel) == ((1, 2), (6, 3))
    assert {name: options[name] for name in OPTIONS} == {"stride": 2, "padding": 0, "dilation": 1}
    moved = box.picture.value
    with plt.style.context("dark_background"):
        box.reset.click()
        assert box.picture.value == start != moved
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", START)
def test_a_slider_of_the_convolution_changes_its_own_number(convolutions, name):
    box = convolution_widget()
    box.sliders[name].value += 1
    assert len(convolutions) == 2 and box.picture.value == b"2", "one move, one redraw"
    assert convolutions[-1][1] == positions(box) == {**START, name: START[name] + 1}


def test_output_sliders_go_as_far_as_the_options_let_them(convolutions):
    box = convolution_widget()
    for stride in (1, 2, 3):
        for padding in (0, 1, 2):
            for dilation in (1, 2, 3):
                options = {"stride": stride, "padding": padding, "dilation": dilation}
                for name, value in options.items():
                    box.sliders[name].value = value
                assert sizes(box) == outputs(**options)


def test_a_place_that_the_options_take_away_moves_to_the_last_one(convolutions):
    box = convolution_widget()
    box.sliders["output row"].value = box.sliders["output column"].value = 5
    before = len(convolutions)
    box.sliders["stride"].value = 3
    assert positions(box) == {**START, "stride": 3, "output row": 1, "output column": 1}
    assert len(convolutions) == before + 1 and convolutions[-1][1] == positions(box), "one redraw, of what exists"
    box.sliders["dilation"].value = 3
    assert sizes(box) == (1, 1) and positions(box)["output row"] == 0
    box.sliders["dilation"].value = 1
    assert sizes(box) == (2, 2) and positions(box)["output row"] == 0


def test_reset_of_the_convolution_brings_everything_back_at_once(convolutions):
    box = convolution_widget()
    for name, value in {"stride": 2, "dilation": 3, "pixel row": 7, "pixel column": 0}.items():
        box.sliders[name].value = value
    assert sizes(box) == (1, 1)
    before = len(convolutions)
    box.reset.click()
    assert positions(box) == START and sizes(box) == (6, 6) and len(convolutions) == before + 1


@pytest.mark.parametrize("stride, padding", [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_every_corner_of_the_convolution_can_be_drawn(stride, padding):
    box = convolution_widget()
    for name, value in {"stride": stride, "padding": padding, "dilation": 3, "pixel row": 7}.items():
        box.sliders[name].value = value
    box.sliders["output row"].value = box.sliders["output row"].max
    assert bytes(box.picture.value[:4]) == b"\x89PNG"


def test_two_convolutions_do_not_share_their_sliders(convolutions):
    first, second = convolution_widget(), convolution_widget()
    first.sliders["padding"].value = 2
    assert positions(second) == START and sizes(second) == (6, 6)


# ------------------------------------------------------------------------------------------------ a unit through time

EPS = 1e-30


def soft(z):
    return 1 / (1 + np.exp(-z))


def run(unit, w, u, b, forget_bias, T, nudge=(None, 0, 0)):
    """States and cells of one unit, number by number; nudge (t, dh, dc) adds to h and to c at step t."""
    h = c = 0j
    states = []
    for t in range(T):
        z = u * (t == 0) + w * h
        if unit == "LSTM":
            c = soft(z + forget_bias) * c + soft(z + b) * np.tanh(z + b) + (nudge[2] if t == nudge[0] else 0)
            h = soft(z + b) * np.tanh(c)
        else:
            h = np.tanh(z + b) if unit == "tanh RNN" else (z + b) * ((z + b).real > 0)
        h = h + (nudge[1] if t == nudge[0] else 0)
        states.append((h, c))
    return np.array(states)


@pytest.mark.parametrize("unit", widgets.UNITS)
@pytest.mark.parametrize("setting", [(0.5, 1.0, 0.0, 1.0, 12), (-1.4, 0.7, 0.3, -0.8, 9), (0.9, -1.1, 0.45, 3.0, 2),
                                     (1, 2, 0, 0, 30)], ids=str)
def test_a_unit_through_time_is_what_one_computes_by_hand(unit, setting):
    values, gradients = unit_through_time(unit, *setting)
    T = setting[-1]
    expected = {"h": run(unit, *setting)[:, 0].real}, {"dL/dh": [
        run(unit, *setting, (t, 1j * EPS, 0))[-1, 0].imag / EPS for t in range(T)]}
    if unit == "LSTM":
        expected[0]["c"] = run(unit, *setting)[:, 1].real
        expected[1]["dL/dc"] = [run(unit, *setting, (t, 0, 1j * EPS))[-1, 0].imag / EPS for t in range(T)]
    for ours, theirs in zip((values, gradients), expected):
        assert list(ours) == list(theirs)
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12, err_msg=name)


def test_the_three_settings_vanish_and_preserve():
    ends = [(sizes[0], sizes[-1]) for _, right in recurrent_traces() for sizes in [right.lines[-1].get_ydata()]]
    plt.close("all")
    (first, last), (kept, one), (cell, final) = ends
    assert first / last < 1e-5 and kept == one == 1.0 and 0.9 < cell / final < 1.1


def test_static_twin_shows_the_settings_it_is_told():
    (left, right), = recurrent_traces({"A message": {"unit": "ReLU RNN", "w": 2.0, "T": 5}})
    assert left.get_title() == "A message"
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [1, 2, 4, 8, 16])
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [16, 8, 4, 2, 1])
    plt.close("all")


@pytest.fixture
def units(monkeypatch):
    """The settings of the units that are drawn, without drawing them."""
    drawn = []
    monkeypatch.setattr(widgets, "_recurrent_png", lambda setting: drawn.append(setting) or str(len(drawn)).encode())
    return drawn


def controls(box):
    return {name: control.value for name, control in box.controls.items()}


def test_unit_starts_with_a_picture(units):
    box = recurrent_widget()
    assert units == [UNIT_START] and controls(box) == UNIT_START and box.picture.value == b"1"
    assert "bp-widget" in box._dom_classes and box.controls["unit"].options == widgets.UNITS
    shown = [control for column in box.children[1].children for control in column.children]
    assert sorted(map(id, shown)) == sorted(map(id, box.controls.values())), "all controls are in the box"


@pytest.mark.parametrize("name, value", {"unit": "ReLU RNN", "w": -1.5, "u": 2.0, "b": 0.35, "forget bias": 5.1,
                                         "T": 30}.items())
def test_a_control_of_the_unit_changes_its_own_number(units, name, value):
    box = recurrent_widget()
    box.controls[name].value = value
    assert units[1:] == [{**UNIT_START, name: value}] and box.picture.value == b"2", "one move, one redraw"


def test_the_forget_gate_is_asked_for_with_the_lstm_only(units):
    box = recurrent_widget()
    seen = []
    for unit in ("LSTM", "ReLU RNN", "LSTM"):
        box.controls["unit"].value = unit
        seen.append(box.controls["forget bias"].layout.visibility)
    box.reset.click()
    assert [*seen, box.controls["forget bias"].layout.visibility] == ["visible", "hidden", "visible", "hidden"]


def test_reset_of_the_unit_brings_everything_back_at_once(units):
    box = recurrent_widget()
    for name, value in {"unit": "LSTM", "w": 2.0, "b": -2.0, "forget bias": 0.0, "T": 2}.items():
        box.controls[name].value = value
    before = len(units)
    box.reset.click()
    assert controls(box) == UNIT_START and len(units) == before + 1 and units[-1] == UNIT_START


def test_the_picture_of_the_unit_is_the_drawing(monkeypatch):
    box = recurrent_widget()
    calls = []
    monkeypatch.setattr(widgets, "draw_traces", lambda *args: calls.append(args) or plotting.draw_traces(*args))
    start = box.picture.value
    box.controls["w"].value = 0.75
    (values, gradients, title, axes), = calls
    expected = unit_through_time("tanh RNN", 0.75, 1.0, 0.0, 1.0, 20)
    np.testing.assert_array_equal(values["h"], expected[0]["h"])
    np.testing.assert_array_equal(gradients["dL/dh"], expected[1]["dL/dh"])
    assert title == f"tanh RNN: a pulse at t = 0 leaves h = {values['h'][-1]:.2g}"
    moved = box.picture.value
    with plt.style.context("dark_background"):
        box.reset.click()
        assert box.picture.value == start != moved
    assert bytes(start[:4]) == b"\x89PNG" and len(start) < 60_000 and plt.get_fignums() == []


@pytest.mark.parametrize("unit", widgets.UNITS)
@pytest.mark.parametrize("w, T", [(2.0, 30), (-2.0, 30), (0.0, 2), (1e-17, 30)])
def test_every_corner_of_the_unit_can_be_drawn(unit, w, T):
    picture = widgets._recurrent_png({**UNIT_START, "unit": unit, "w": w, "T": T, "forget bias": -3.0})
    assert picture[:4] == b"\x89PNG"


def test_the_axes_of_the_unit_leave_room_for_their_names(monkeypatch):
    figures = []
    monkeypatch.setattr(widgets, "palette_png", lambda figure, fast: figures.append(figure) or b"")
    for setting in ({}, {"unit": "ReLU RNN", "w": 2.0, "T": 30}, {"unit": "ReLU RNN", "w": -2.0, "b": 2.0, "u": -2.0},
                    {"unit": "LSTM", "w": -2.0, "T": 30, "forget bias": 6.0}):
        widgets._recurrent_png({**UNIT_START, **setting})
        figure = figures[-1]
        with plt.style.context(plotting.STYLE):
            figure.canvas.draw()
        for ax in figure.axes:
            ticks = [tick.get_window_extent() for tick in ax.get_yticklabels() if tick.get_text()]
            name = ax.yaxis.label.get_window_extent()
            assert name.x0 >= 0 and not any(name.overlaps(tick) for tick in ticks), setting
            assert ax.xaxis.label.get_window_extent().y0 >= 0
            assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in [*ax.texts, ax._left_title])
        left, right = (ax._left_title.get_window_extent() for ax in figure.axes)
        assert not left.overlaps(right), setting


def test_two_units_do_not_share_their_controls(units):
    first, second = recurrent_widget(), recurrent_widget()
    first.controls["u"].value = -1.0
    assert controls(second) == UNIT_START


# ------------------------------------------------------------------------------------------------ what all share

def test_a_figure_serves_again_and_again():
    """What was drawn before leaves no trace: the picture is the one that a new figure gives."""
    def convolution(values):
        return widgets._convolution_png(np.arange(64.0).reshape(8, 8), values)

    for draw, start, other, kept in (
            (widgets._network_png, MAZUR, {**MAZUR, "W1": -MAZUR["W1"]}, widgets._one_panel),
            (convolution, START, {**START, "padding": 2}, widgets._one_panel),
            (widgets._recurrent_png, UNIT_START, {**UNIT_START, "unit": "LSTM", "w": -2.0}, widgets._two_panels)):
        kept.cache_clear()
        new = draw(start)
        assert draw(other) != new and draw(start) == new


def test_threads_do_not_draw_at_the_same_time():
    """JupyterLab runs cells in one thread and moves sliders in another; style and figure are the same for both."""
    settings = [{**UNIT_START, "unit": unit, "T": T} for T in (5, 9) for unit in widgets.UNITS]
    alone = [widgets._recurrent_png(setting) for setting in settings]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(widgets._recurrent_png, settings)) == alone


def test_sliders_moved_in_threads_leave_the_picture_of_where_they_stand():
    box = recurrent_widget()
    moves = [("w", 0.9), ("u", -1.5), ("b", 0.4), ("T", 13)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda move: setattr(box.controls[move[0]], "value", move[1]), moves))
    assert controls(box) == {**UNIT_START, **dict(moves)}
    assert box.picture.value == widgets._recurrent_png(controls(box))
