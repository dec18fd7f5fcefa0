"""The sliders without a browser: what they hold, what the buttons do, and that the picture follows."""

import matplotlib
import numpy as np
import pytest


matplotlib.use("Agg")
import matplotlib.pyplot as plt

from backprop_lib import cnn, plotting, widgets
from backprop_lib.widgets import KERNEL, MAZUR, OPTIONS, START, convolution_widget, network_widget


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
        (args, kwargs)) or plotting.draw_convolution(*args, **kwargs))
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
