"""Every chart draws without a warning, says what it shows, and shows the right numbers."""

import io
import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from PIL import Image


matplotlib.use("Agg")
import IPython.display
import matplotlib.pyplot as plt
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from backprop_lib import plotting
from backprop_lib.train import History
from backprop_lib.widgets import recurrent_traces


HISTORY = History([2.3, 0.9, 0.4, 0.31], [0.1, 0.6, 0.8, 0.9], [2.2, 1.0, 0.5, 0.45], [0.2, 0.5, 0.7, 0.85])
RNG = np.random.default_rng(11)
ACTIVATION = np.linspace(-4, 4, 81)


@pytest.fixture(autouse=True)
def course_style():
    """The style for one test; no figure is left open."""
    with plt.rc_context():
        plotting.style()
        yield
    plt.close("all")


def check_texts(ax):
    """All texts in a picture are large enough, none covers another, none leaves the figure."""
    ax.figure.canvas.draw()
    check_places(ax.figure, [*ax.texts, ax.title, ax._left_title])


def check_figure(ax):
    """The same for a whole figure, with the labels and the numbers at its axes."""
    figure = ax.figure
    figure.canvas.draw()
    texts = [text for text in (figure._suptitle, figure._supxlabel) if text]
    for ax in [ax for ax in figure.axes if ax.axison]:
        texts += [*ax.texts, ax._left_title, ax.xaxis.label, ax.yaxis.label]
        texts += [tick.label1 for axis in (ax.xaxis, ax.yaxis) for tick in axis._update_ticks()]
    check_places(figure, texts)


def check_places(figure, texts):
    texts = [text for text in texts if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 9
    boxes = [(text.get_text(), text.get_bbox_patch().get_window_extent() if text.get_bbox_patch() else
              Text.get_window_extent(text)) for text in texts]                              # without arrows
    for (a, box_a), (b, box_b) in combinations(boxes, 2):
        assert not box_a.overlaps(box_b), (a, b)
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text


@pytest.mark.parametrize("x, y, size", [(0.1, 0.102, 11), (0.9, 0.9, 11), (0.3, 0.9, 8)],
                         ids=["covers", "leaves", "small"])
def test_a_text_that_covers_leaves_or_is_too_small_is_found(x, y, size):
    ax = plotting.bare_figure(plt.figure, (9.1, 5.45)).add_axes((0, 0, 1, 1))
    ax.text(0.1, 0.1, "a text that stands well")
    check_texts(ax)
    ax.text(x, y, "a text of some length", fontsize=size)
    with pytest.raises(AssertionError):
        check_texts(ax)


# ------------------------------------------------------------------------------------------------ curves and images

def test_curves_are_named_at_their_ends_in_the_colour_of_their_role():
    ax = plotting.plot_curves(ACTIVATION, np.tanh(ACTIVATION), 1 - np.tanh(ACTIVATION)**2, "tanh saturates",
                              labels=("tanh(z)", "its slope"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z", "tanh(z) and its slope")
    assert ax.get_title(loc="left") == "tanh saturates"
    assert {t.get_text(): t.get_color() for t in ax.texts} == {"tanh(z)": "#0072B2", "its slope": "#D55E00"}
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize("ends", [(1.0, 1.0), (1.0, 0.99), (1.0, 0.9), (0.9, 1.0), (1.0, 0.0)])
def test_names_at_the_ends_do_not_cover_each_other(scale, ends):
    first, second = (scale * np.array([0.0, end]) for end in ends)
    ax = plotting.plot_curves([0, 1], first, second, "two lines")
    ax.figure.canvas.draw()
    a, b = (text.get_window_extent() for text in sorted(ax.texts, key=lambda text: text.get_text(), reverse=True))
    assert a.y0 >= b.y1 - 0.01 if ends[0] > ends[1] else (b.y0 >= a.y1 - 0.01 or a.y0 >= b.y1 - 0.01)
    assert max(a.x1, b.x1) <= ax.figure.bbox.x1


def test_history_has_a_panel_for_loss_and_one_for_accuracy():
    loss, accuracy = plotting.plot_history(HISTORY)
    assert (loss.get_xlabel(), loss.get_ylabel(), loss.get_yscale()) == ("epoch", "loss", "log")
    assert (accuracy.get_xlabel(), accuracy.get_ylabel(), accuracy.get_yscale()) == ("epoch", "accuracy", "linear")
    assert loss.get_title(loc="left") == "Validation loss ends at 0.45"
    assert accuracy.get_title(loc="left") == "Validation accuracy ends at 0.85"
    for ax, lists in ((loss, (HISTORY.loss, HISTORY.validation_loss)),
                      (accuracy, (HISTORY.accuracy, HISTORY.validation_accuracy))):
        assert [text.get_text() for text in ax.texts] and {t.get_text() for t in ax.texts} == {"training", "validation"}
        for line, values in zip(ax.lines, lists):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
            np.testing.assert_array_equal(line.get_ydata(), values)
        assert [line.get_linestyle() for line in ax.lines] == ["-", "-."]
    loss.figure.canvas.draw()


@pytest.mark.parametrize("history, names, title", [
    (History([2.0, 1.0, 0.5], [0.1, 0.2, 0.3], [], []), ["loss", "accuracy"], "Training loss ends at 0.5"),
    (History([2.0, 1.0], [None, None], [], []), ["loss"], "Training loss ends at 1"),
    (History([2.0], [None], [3.0], [None]), ["loss"], "Validation loss ends at 3"),
])
def test_history_leaves_out_what_was_not_measured(history, names, title):
    axes = plotting.plot_history(history)
    assert [ax.get_ylabel() for ax in axes] == names and axes[0].get_title(loc="left") == title
    axes[0].figure.canvas.draw()
    figure, given = plt.subplots(1, 2)
    assert plotting.plot_history(history, given)[0] is given[0]


def test_empty_history_is_refused():
    with pytest.raises(ValueError, match="no loss and no accuracy"):
        plotting.plot_history(History([], [], [], []))


def test_images_share_a_grey_scale_and_carry_their_captions():
    images = np.zeros((5, 8, 7))
    images[1], images[4, 2, 3] = 4, 16
    axes = plotting.show_images(images, [f"7 read as {n}" for n in range(5)], columns=3, message="Five errors")
    assert len(axes) == 6 and [ax.get_title() for ax in axes] == [f"7 read as {n}" for n in range(5)] + [""]
    assert {ax.images[0].get_clim() for ax in axes[:5]} == {(0, 16)} and len(axes[5].images) == 0
    assert axes[0].figure.get_suptitle() == "Five errors"
    np.testing.assert_array_equal(axes[4].images[0].get_array(), images[4])
    axes[0].figure.canvas.draw()
    assert len(plotting.show_images(images[:2])) == 2


@pytest.mark.parametrize("images", [np.zeros((0, 8, 8)), np.zeros((8, 8))])
def test_what_is_not_a_stack_of_images_is_refused(images):
    with pytest.raises(ValueError, match="show_images: the images must have shape"):
        plotting.show_images(images)


# ------------------------------------------------------------------------------------------------ matrices

def test_matrices_show_their_numbers_and_name_their_axes():
    matrices = {"W": np.array([[1.0, -2.0, 0.0], [3.0, 4.0, -5.0]]), "dW": np.array([[6.0, 7.0]])}
    axes = plotting.draw_matrices(matrices, "unit", "input", "Two matrices")
    assert [ax.get_title(loc="left") for ax in axes] == ["W", "dW"]
    assert {(ax.get_xlabel(), ax.get_ylabel()) for ax in axes} == {("input", "unit")}
    assert axes[0].figure.get_suptitle() == "Two matrices"
    for ax, matrix in zip(axes, matrices.values()):
        shown = {text.get_position()[::-1]: float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in ax.texts}
        assert shown == dict(np.ndenumerate(matrix))
    axes[0].figure.canvas.draw()


# ------------------------------------------------------------------------------------------------ grids

def rectangles(ax, role):
    """(left, top, right, bottom) of all frames that have the colour and the line style of a role."""
    return [patch.get_bbox().extents for patch in ax.patches if isinstance(patch, Rectangle)
            and to_hex(patch.get_edgecolor()) == role["color"].lower() and patch.get_linestyle() == role["linestyle"]]


def framed(ax, role, image=None, margin=(0, 0)):
    """The cells (row, column) of a grid, the only one or that of an image, that stand in frames of a role."""
    image = image or ax.images[0]
    left, right, bottom, top = image.get_extent()
    (I, J), side = image.get_array().shape, (right - left) / image.get_array().shape[1]
    cells = set()
    for i, j in np.ndindex(I + 2 * margin[0], J + 2 * margin[1]):
        place = i - margin[0], j - margin[1]
        u, v = left + (place[1] + 0.5) * side, top + (place[0] + 0.5) * side
        if any(x0 < u < x1 and min(y0, y1) < v < max(y0, y1) for x0, y0, x1, y1 in rectangles(ax, role)):
            cells.add(place)
    return cells


def box(rows, columns):
    return {(i, j) for i in rows for j in columns}


def test_grid_frames_the_cells_it_is_told_one_frame_around_a_rectangle():
    values = np.arange(20.0).reshape(4, 5) - 7
    window, taps = box((-1, 0, 1), (3, 4, 5)), box((1, 3), (0, 2))
    ax = plotting.draw_grid(plt.figure().subplots(), values, "A grid", margin=(1, 2), digits=1,
                            outline=[(list(window), plotting.FORWARD), (np.array(list(taps)), plotting.GRADIENT)])
    assert framed(ax, plotting.FORWARD, margin=(1, 2)) == window and len(rectangles(ax, plotting.FORWARD)) == 1
    assert framed(ax, plotting.GRADIENT, margin=(1, 2)) == taps and len(rectangles(ax, plotting.GRADIENT)) == 4
    assert ax.get_title(loc="left") == "A grid"
    assert (ax.get_xlim(), ax.get_ylim()) == ((-2.5, 6.5), (4.5, -1.5)), "the margin is seen"
    shown = {text.get_position()[::-1]: float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in ax.texts}
    assert shown == dict(np.ndenumerate(values))
    ax.figure.canvas.draw()


def test_grid_hatches_the_margin_and_leaves_out_what_is_not_asked():
    ax = plotting.draw_grid(plt.figure().subplots(), np.zeros((2, 3)), margin=1, texts={(-1, -1): "0", (0, 2): "w"})
    assert {text.get_position()[::-1]: text.get_text() for text in ax.texts} == {(-1, -1): "0", (0, 2): "w"}
    hatched, = (patch for patch in ax.patches if patch.get_hatch())
    assert hatched.get_bbox().extents.tolist() == [-1.5, -1.5, 3.5, 2.5]
    assert hatched.get_zorder() < ax.images[0].get_zorder()
    ax.figure.canvas.draw()


@pytest.mark.parametrize("ink", [False, True])
def test_numbers_in_a_grid_stand_out_from_their_cell(ink):
    values = np.linspace(0 if ink else -1, 1, 12).reshape(3, 4)
    ax = plotting.draw_grid(plt.figure().subplots(), values, digits=1, ink=ink)
    for text in ax.texts:
        red, green, blue, _ = ax.images[0].to_rgba(values)[text.get_position()[::-1]]
        contrast = (luminance(red, green, blue) + 0.05) / (luminance(*to_rgb(text.get_color())) + 0.05)
        assert max(contrast, 1 / contrast) > 4.5, text.get_text()


def luminance(*channels):
    """Relative luminance as the accessibility guidelines define it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055)**2.4 for c in channels]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("values, options, message", [
    (np.zeros(3), {}, r"must be a matrix, got shape \(3,\)"),
    (np.zeros((0, 3)), {}, r"must be a matrix, got shape \(0, 3\)"),
    (np.zeros((2, 3)), {"outline": [([(2, 0)], plotting.FORWARD)]}, r"no cell \(2, 0\) in \(2, 3\) with margin 0"),
    (np.zeros((2, 3)), {"texts": {(0, -2): "0"}, "margin": (2, 1)}, r"no cell \(0, -2\) .* margin \(2, 1\)"),
])
def test_grid_of_something_else_is_refused(values, options, message):
    with pytest.raises(ValueError, match="draw_grid: .*" + message):
        plotting.draw_grid(plt.figure().subplots(), values, **options)


def test_hinton_squares_have_areas_in_proportion_and_show_the_sign_without_colour():
    weights = np.array([[4.0, -1.0, 0.0], [-2.0, 0.25, 1.0]])
    ax = plotting.draw_hinton(plt.figure().subplots(), weights, "Weights")
    assert ax.get_title(loc="left") == "Weights" and ax.yaxis_inverted() and len(ax.patches) == 6
    found = {}
    for patch in ax.patches:
        (x, y), side = patch.get_center(), patch.get_width()
        assert patch.get_height() == side < 1
        sign = 1 if to_hex(patch.get_facecolor()) == to_hex(patch.get_edgecolor()) else -1
        role = plotting.FORWARD if sign == 1 or not side else plotting.GRADIENT
        assert not side or to_hex(patch.get_edgecolor()) == role["color"].lower()
        assert sign == 1 or to_hex(patch.get_facecolor()) == "#ffffff"
        found[round(y), round(x)] = sign * side**2
    largest = found[0, 0]
    assert all(np.isclose(area, weights[place] / 4 * largest) for place, area in found.items())
    ax.figure.canvas.draw()


def test_hinton_limit_cuts_what_is_larger():
    ax = plotting.draw_hinton(plt.figure().subplots(), [[4.0, 2.0, 0.5]], limit=2.0)
    sides = [patch.get_width() for patch in ax.patches]
    assert np.allclose(sides, [sides[0], sides[0], sides[0] / 2])


@pytest.mark.parametrize("weights, areas", [([[-4.0, 1.0]], [1, 1/4]), ([[0.0, 0.0]], [0, 0])])
def test_hinton_limit_is_the_largest_size_and_zeros_need_none(weights, areas):
    ax = plotting.draw_hinton(plt.figure().subplots(), weights)
    assert np.allclose([patch.get_width()**2 for patch in ax.patches], 0.9**2 * np.array(areas))


@pytest.mark.parametrize("weights, options, message", [
    (np.zeros(3), {}, r"the weights must be a matrix, got shape \(3,\)"),
    (np.zeros((0, 3)), {}, r"the weights must be a matrix, got shape \(0, 3\)"),
    ([[1.0, np.nan]], {}, "the weights must be finite, got nan"),
    ([[1.0]], {"limit": -1.0}, "limit must be a finite number > 0, got -1.0")])
def test_hinton_of_something_else_is_refused(weights, options, message):
    with pytest.raises(ValueError, match="draw_hinton: " + message):
        plotting.draw_hinton(plt.figure().subplots(), weights, **options)


def test_large_grid_counts_in_fives():
    ax = plotting.draw_grid(plt.figure().subplots(), np.zeros((28, 20)))
    assert ax.get_xticks().tolist() == [0, 5, 10, 15] and ax.get_yticks().tolist() == [0, 5, 10, 15, 20, 25]


# ------------------------------------------------------------------------------------------------ curves over time

TRACES = {"h": [0.5, -0.25, 0.125, 2.0]}, {"dL/dh": [1e-6, -1e-4, 1e-2, 1.0]}


def test_traces_show_values_and_the_sizes_of_gradients():
    left, right = plotting.draw_traces(*TRACES, "A message")
    assert left.get_title(loc="left") == "A message"
    assert right.get_title(loc="left") == "3 steps back, dL/dh is 1e6 times smaller"
    assert (left.get_xlabel(), left.get_ylabel()) == ("time step t", "value")
    assert (right.get_xlabel(), right.get_ylabel()) == ("time step t", "size of the gradient")
    assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
    for ax, role, values in ((left, plotting.FORWARD, TRACES[0]["h"]),
                             (right, plotting.GRADIENT, np.abs(TRACES[1]["dL/dh"]))):
        line, = ax.lines
        np.testing.assert_array_equal(line.get_xdata(), range(4))
        np.testing.assert_array_equal(line.get_ydata(), values)
        assert (line.get_color(), line.get_linestyle()) == (role["color"], role["linestyle"])
        low, high = ax.get_ylim()
        assert low < min(line.get_ydata()) and max(line.get_ydata()) < high
    left.figure.canvas.draw()
    for ax, some in ((left, {"0", "0.5", "1"}), (right, {"10⁻⁴", "10⁻²", "10⁰"})):
        assert some < {label.get_text() for label in ax.get_yticklabels()}


def test_traces_of_an_lstm_are_told_apart_without_colour():
    left, right = plotting.draw_traces({"h": [0, 1], "c": [1, 2]}, {"dL/dh": [1, 1], "dL/dc": [3, 1.5]}, "two")
    assert right.get_title(loc="left") == "1 step back, dL/dc is 2 times larger"
    assert [line.get_linestyle() for line in left.lines] == ["-", "-."]
    assert [line.get_marker() for line in right.lines] == ["None", "o"]
    assert {text.get_text() for text in right.texts} == {"dL/dh", "dL/dc"}


@pytest.mark.parametrize("sizes, shown, title, remark", [
    ([0, 0, 0.5, 1], [2, 3], "3 steps back, dL/dh is below 10⁻³⁰", "dL/dh is below 10⁻³⁰ up to t = 1"),
    ([1e-310, 1e-40, 1e-20, 1], [2, 3], "3 steps back, dL/dh is below 10⁻³⁰", "dL/dh is below 10⁻³⁰ up to t = 1"),
    ([0, 0, 0, 1], [3], "3 steps back, dL/dh is below 10⁻³⁰", "dL/dh is below 10⁻³⁰ up to t = 2"),
    ([0, 0, 0, 0], [], "3 steps back, dL/dh is below 10⁻³⁰", "dL/dh is below 10⁻³⁰ up to t = 3"),
    ([1, 3, 0.5, 1.01], [0, 1, 2, 3], "3 steps back, dL/dh is about as large", None),
    ([4.8e6, 1e4, 1e2, 1], [0, 1, 2, 3], "3 steps back, dL/dh is 4.8e6 times larger", None),
])
def test_traces_say_what_a_logarithmic_axis_cannot_show(sizes, shown, title, remark):
    ax = plotting.draw_traces({"h": np.zeros(4)}, {"dL/dh": sizes}, "gradients")[1]
    assert [list(line.get_xdata()) for line in ax.lines] == ([shown] if shown else [])
    assert all(line.get_marker() == "o" for line in ax.lines) == (len(shown) < 2)
    assert ax.get_title(loc="left") == title
    remarks = [text.get_text() for text in ax.texts if text.get_text() != "dL/dh"]
    assert remarks == ([remark] if remark else [])
    ax.figure.canvas.draw()


@pytest.mark.parametrize("number, text", [(4.8123e6, "4.81e6"), (-0.25, "−0.25"), (0, "0"), (1e-7, "1e−7"),
                                          (123, "123"), (-1.5e10, "−1.5e10")])
def test_short_numbers_carry_no_zeros(number, text):
    assert plotting.short_number(number) == text


# ------------------------------------------------------------------------------------------------ measured gradients

SEEDS = 0.3**np.arange(12)[::-1] * np.exp(RNG.standard_normal((5, 12)))
NETWORKS = {"sigmoid": SEEDS, "tanh": 3 * SEEDS**0.5, "ReLU": SEEDS**0.1, "residual": SEEDS**0.05, "LSTM": SEEDS**0.02}
MEETING = {name: np.linspace(rank, 0, 40) for rank, name in enumerate(NETWORKS)}             # powers of ten


def test_layer_norms_show_the_median_in_a_band_from_smallest_to_largest():
    ax = plotting.plot_layer_norms(NETWORKS, "A message", xlabel="depth", ylabel="size")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("depth", "size", "A message")
    assert ax.get_yscale() == "log" and len(ax.lines) == len(ax.collections) == 5
    for line, band, numbers in zip(ax.lines, ax.collections, NETWORKS.values()):
        np.testing.assert_array_equal(line.get_xydata(), np.c_[np.arange(1, 13), np.median(numbers, axis=0)])
        edges = band.get_paths()[0].vertices
        for n in range(12):
            heights = edges[edges[:, 0] == n + 1, 1]
            assert (heights.min(), heights.max()) == (numbers[:, n].min(), numbers[:, n].max())
            assert heights.min() < line.get_ydata()[n] < heights.max()
    check_figure(ax)


def test_five_networks_are_told_apart_without_colour():
    ax = plotting.plot_step_norms(NETWORKS, "five")
    assert ax.get_xlabel() == "time step t" and ax.lines[0].get_xdata()[0] == 0
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 5
    assert [to_hex(line.get_color()).upper() for line in ax.lines[:4]] == [
        color["color"].upper() for color in plt.rcParams["axes.prop_cycle"]]
    assert len({text.get_text()[0] for text in ax.texts}) == 5, "each name starts with the marker of its line"
    for text, line in zip(ax.texts, ax.lines):
        lead = text.arrow_patch
        assert (lead.get_linestyle(), lead.get_edgecolor()) == (line.get_linestyle(), to_rgba(line.get_color()))
        assert text.xy == tuple(line.get_xydata()[-1]) and luminance(*to_rgb(text.get_color())) < 0.05


@pytest.mark.parametrize("size", [(7.5, 2.4), (4, 3)])
@pytest.mark.parametrize("shift", [0, 1e-3, 0.3])
@pytest.mark.parametrize("sign", [-1, 1])
def test_names_of_five_lines_that_end_close_together_are_moved_apart(size, shift, sign):
    series = {name: 10**(sign * power + shift * rank) for rank, (name, power) in enumerate(MEETING.items())}
    ax = plotting.plot_step_norms(series, "they meet", plt.figure(figsize=size).subplots())
    check_figure(ax)
    names = [text.get_text()[2:] for text in sorted(ax.texts, key=lambda text: text.get_window_extent().y0)]
    assert names == list(series)[::1 if sign > 0 or shift == 0.3 else -1]


def test_heights_are_moved_no_further_than_needed():
    moved = plotting._moved_apart(np.array([0.9, 0.2, 0.5, 0.52]), 0.1)
    np.testing.assert_allclose(moved, [0.9, 0.2, 0.46, 0.56], atol=1e-15)
    np.testing.assert_allclose(plotting._moved_apart(np.ones(3), 0.1), [0.75, 0.85, 0.95], atol=1e-15)


def test_axis_goes_from_one_power_of_ten_to_another():
    for numbers, lowest in (([0.3, 0.5], "10⁻¹"), ([1, 1], "10⁻¹"), ([1 - 4e-16, 1 + 4e-16], "10⁰"),
                            (10.0**np.arange(-25, 1), "10⁻²⁴")):
        ax = plotting.plot_layer_norms({"a": numbers}, "decades")
        np.testing.assert_allclose(np.log10(ax.get_ylim()) % 1, 0, atol=1e-9)
        ax.figure.canvas.draw()
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert labels[0] == lowest and "10⁰" in labels and 2 <= len(labels) <= 8


@pytest.mark.parametrize("numbers, drawn, remark", [
    ([0, 0, 1e-40, 1, 2], [4, 5], "\na is below 10⁻³⁰ at 3 of 5 points"),
    ([3, 0, 1, 0], [1, 3], "\na is below 10⁻³⁰ at 2 of 4 points"),
    ([0, 0], [], "\na is below 10⁻³⁰ everywhere"), ([np.inf, np.nan, 1], [3], "\na is not finite at 2 of 3 points"),
    ([1, 2], [1, 2], ""), ([[0, 1, 1], [0, 1, 2], [1, 1, 0]], [2, 3], "\na is below 10⁻³⁰ at 1 of 3 points")])
def test_what_a_logarithmic_axis_cannot_show_is_left_out_and_said(numbers, drawn, remark):
    ax = plotting.plot_layer_norms({"a": numbers, "b": np.full(np.shape(numbers), 2.0)}, "zeros")
    lines = {text.get_text()[2:]: line for text, line in zip(ax.texts, ax.lines)}
    shown = lines["a"].get_xydata() if drawn else np.empty((0, 2))
    assert shown[~np.isnan(shown[:, 1]), 0].tolist() == drawn and list(lines) == ["a", "b"][not drawn:]
    assert ax.get_xlabel().startswith("layer" + remark) and "b is" not in ax.get_xlabel()
    check_figure(ax)


def test_few_points_of_a_long_line_have_a_marker_and_a_lonely_one_does():
    ax = plotting.plot_step_norms({"a": np.ones(40), "b": np.ones(40), "c": np.arange(40) == 5}, "markers")
    first, second, lonely = (set(line.get_markevery()) for line in ax.lines)
    assert len(first) == len(second) == 10 and not first & second and 5 in lonely
    assert not any(line.get_clip_on() for line in ax.lines), "markers at the edge are whole"


def test_a_figure_without_anything_to_show_says_so():
    ax = plotting.plot_step_norms({"dead": np.zeros(3)}, "nothing")
    assert ax.get_xlabel() == "time step t\ndead is below 10⁻³⁰ everywhere" and not ax.lines
    check_figure(ax)


def test_more_lines_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="plotting: there must be at most 6 series, got 7: .*'6'"):
        plotting.plot_layer_norms({str(n): [1, 2] for n in range(7)}, "seven")
    assert plt.get_fignums() == []


def test_panels_that_share_an_axis_show_both():
    first, second = plt.figure(figsize=(9.1, 3.6)).subplots(1, 2, sharey=True)
    plotting.plot_layer_norms({"a": [1e-3, 1]}, "left", first)
    plotting.plot_layer_norms({"b": [1e-9, 1]}, "right", second)
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] <= 1e-9
    check_figure(first)


def test_singular_values_name_the_largest_and_the_smallest():
    s = np.sort(RNG.uniform(0.1, 1, (12, 6))**np.arange(1, 13)[:, None])[:, ::-1]
    ax = plotting.plot_singular_values(s, "products")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps multiplied", "singular value") and not ax.collections
    *thin, one, largest, smallest = ax.lines
    assert [text.get_text()[2:] for text in ax.texts] == ["largest", "smallest"] and set(one.get_ydata()) == {1}
    for line, values in zip([*thin[::-1], largest, smallest], [*s.T[1:-1], s[:, 0], s[:, -1]]):
        np.testing.assert_array_equal(line.get_xydata(), np.c_[np.arange(1, 13), values])
    check_figure(ax)


def test_singular_values_that_are_rounding_errors_lie_in_the_grey():
    s = np.c_[np.full(30, 2.0), 0.1**np.arange(30)]
    ax = plotting.plot_singular_values(s, "products")
    vertices = ax.collections[0].get_paths()[0].vertices
    assert vertices[:, 0].min() == 17 and vertices[:, 1].max() == 2 * 2.0**-52
    assert ax.get_xlabel().endswith("grey: not more than the rounding error of the largest")
    check_figure(ax)


def test_paths_show_the_norm_of_each_part():
    paths = {name: RNG.standard_normal((3, 9, 4)) for name in ("outside", "cell", "i", "f", "g", "o")}
    paths["outside"][:, :-1] = 0
    ax = plotting.plot_paths(paths, "paths")
    for line, path in zip(ax.lines, paths.values()):
        expected = [np.sqrt((path[:, t]**2).sum()) or np.nan for t in range(9)]
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-14)
    assert ax.get_xlabel() == "time step t\noutside is below 10⁻³⁰ at 8 of 9 points"
    assert 8 in ax.lines[0].get_markevery()
    check_figure(ax)


@pytest.mark.parametrize("layers", [1, 5, 8])
def test_histograms_share_their_axis_and_tell_the_share_of_zeros(layers):
    arrays = [np.maximum(RNG.standard_normal((20, 10)) * 0.5**n, 0) for n in range(layers)]
    arrays[-1] = np.zeros(7) if layers > 1 else arrays[-1]
    axes = plotting.plot_histograms(arrays, [f"layer {n}" for n in range(layers)], "Narrower", role=plotting.GRADIENT)
    assert len(axes) == layers and axes[0].figure.get_suptitle() == "Narrower"
    edges = {tuple(ax.patches[0].get_data().edges) for ax in axes}
    assert len(edges) == 1 and len({ax.get_xlim() for ax in axes}) == 1
    for n, (ax, array) in enumerate(zip(axes, arrays)):
        assert ax.get_title(loc="left") == f"layer {n}" and to_hex(ax.patches[0].get_facecolor()) == "#d55e00"
        values = ax.patches[0].get_data().values
        assert values.sum() == np.count_nonzero(array) and ax.get_ylim()[1] > 1.3 * values.max()
        assert [text.get_text() for text in ax.texts] == [f"{(array == 0).mean():.0%} zeros"]
    check_figure(axes[0])


def test_histograms_without_zeros_do_not_speak_of_them():
    few = np.append(np.ones(999), 0)
    axes = plotting.plot_histograms([np.ones(4), few], ["a", "b"], "ones", plt.figure().subplots(1, 2))
    assert [[text.get_text() for text in ax.texts] for ax in axes] == [[], ["1% zeros"]]


def test_wall_may_be_flat():
    check_figure(plotting.plot_wall(range(3), range(2), np.full((2, 3), 0.1), "flat"))


@pytest.mark.parametrize("grid", [False, True])
def test_wall_is_dark_where_the_error_is_large(grid):
    w, b = np.linspace(2, 9, 30), np.linspace(-4, 0, 20)
    error = 10**(-(w + b[:, None]) / 3)
    error[3, 4] = 0
    ax = plotting.plot_wall(*(np.meshgrid(w, b) if grid else (w, b)), error, "wall")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("w", "b", "wall")
    greys = [luminance(*color[:3]) for color in ax.collections[0].get_facecolors()]
    assert len(greys) > 4 and greys == sorted(greys, reverse=True) and greys[-1] > 0.2, "lines stand out"
    assert len(ax.figure.axes) == 2 and ax.figure.axes[1].get_ylabel() == "error"
    check_figure(ax)
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())[..., 0]
    for x, y, bright in ((2.1, -3.9, False), (8.9, -0.1, True)):
        column, row = ax.transData.transform((x, y)).astype(int)
        assert (pixels[-row, column] > 240) == bright


# ------------------------------------------------------------------------------------------------ style, size, import

def test_colours_are_okabe_and_itos_and_no_role_stands_on_colour_alone():
    roles = [plotting.FORWARD, plotting.GRADIENT, plotting.SECOND, plotting.REFERENCE]
    assert [role["color"] for role in roles] == ["#0072B2", "#D55E00", "#56B4E9", "#000000"]
    assert [role["linestyle"] for role in roles] == ["-", "--", "-.", ":"]
    cycle = [(to_hex(style["color"]).upper(), style["linestyle"]) for style in plt.rcParams["axes.prop_cycle"]]
    assert cycle == [(role["color"], role["linestyle"]) for role in roles]


def test_style_is_white_open_and_laid_out():
    rc = plt.rcParams
    assert {to_hex(rc[f"{part}.facecolor"]) for part in ("figure", "axes", "savefig")} == {"#ffffff"}
    assert not rc["axes.spines.top"] and not rc["axes.spines.right"] and rc["figure.constrained_layout.use"]
    assert min(rc["font.size"], rc["axes.labelsize"], rc["xtick.labelsize"], rc["ytick.labelsize"]) >= 10


DRAWINGS = {"history": lambda: plotting.plot_history(HISTORY), "traces": recurrent_traces,
            "curves": lambda: plotting.plot_curves(ACTIVATION, np.sin(ACTIVATION), np.cos(ACTIVATION), "waves"),
            "matrices": lambda: plotting.draw_matrices({"W": np.eye(5, 7)}, "unit", "input", "The identity"),
            "grid": lambda: plotting.draw_grid(plt.figure().subplots(), RNG.random((8, 8)), digits=1, margin=1),
            "norms": lambda: plotting.plot_layer_norms(NETWORKS, "Five networks"),
            "singular": lambda: plotting.plot_singular_values(RNG.random((50, 64)), "Fifty steps"),
            "histograms": lambda: plotting.plot_histograms(RNG.standard_normal((10, 999)), range(10), "Ten layers"),
            "wall": lambda: plotting.plot_wall(np.arange(200), np.arange(150), RNG.random((150, 200)), "Noise"),
            "images": lambda: plotting.show_images(RNG.random((16, 8, 8)), range(16))}


@pytest.mark.parametrize("name", DRAWINGS)
def test_show_gives_a_small_picture_with_alternative_text_and_closes_the_figure(name, monkeypatch):
    check_show(DRAWINGS[name], monkeypatch)


def check_show(draw, monkeypatch):
    """`show` displays what `draw` drew, as a small picture with its text, and closes the figure."""
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **kwargs: shown.append((data, kwargs)))
    draw()
    canvas = plt.gcf().canvas
    plotting.show("one sentence about the picture")
    (data, kwargs), = shown
    assert data["text/plain"] == kwargs["metadata"]["image/png"]["alt"] == "one sentence about the picture"
    assert kwargs["raw"] is True and len(data["image/png"]) <= 60_000
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    assert abs(pixels(data["image/png"]) - drawn).max() <= 8
    assert plt.get_fignums() == []


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


WITHOUT_LAB = """import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("matplotlib", "ipywidgets", "PIL"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from backprop_lib import diagrams, plotting, widgets
"""


@pytest.mark.parametrize("call", ["plotting.style()", "plotting.plot_curves([0], [0], [0], '')",
                                  "plotting.show('text')", "diagrams.draw_unrolled()", "widgets.network_widget()",
                                  "widgets.convolution_widget()", "widgets.recurrent_widget()"])
def test_without_the_lab_extra_one_line_says_what_to_install(call):
    run = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_LAB + call], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count("Traceback") == 1
    package = "ipywidgets" if "widget" in call else "matplotlib"
    assert run.stderr.splitlines()[-1] == f'ImportError: this needs {package}: pip install "backprop-notebooks[lab]"'


def test_a_broken_module_is_not_taken_for_a_missing_one(monkeypatch):
    monkeypatch.setattr(plotting.importlib, "import_module", lambda name: __import__("surely_not_installed"))
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        plotting.lab_module("matplotlib.pyplot")
