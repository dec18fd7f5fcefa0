"""Every drawing draws without a warning, covers nothing, and shows the right numbers, arrows and formulas."""

import itertools
import math
import re

import matplotlib
import numpy as np
import pytest
from test_plotting import check_show, check_texts, course_style, framed, rectangles  # noqa: F401 (a fixture)


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, FancyArrowPatch

from backprop_lib import autodiff, cnn, diagrams, rnn, sweeps
from backprop_lib.plotting import FORWARD, GRADIENT, REFERENCE


MAZUR = {"W1": [[0.15, 0.20], [0.25, 0.30]], "b1": [0.35, 0.35], "W2": [[0.40, 0.45], [0.50, 0.55]],
         "b2": [0.60, 0.60], "x": [0.05, 0.10], "t": [0.01, 0.99]}
# every number another one, so that a number in the picture says which quantity it belongs to
MIXED = {"W1": [[-1.13, 0.27], [0.86, 2.41]], "b1": [0.39, -0.57], "W2": [[1.46, -0.73], [-0.22, 0.68]],
         "b2": [-0.61, 0.94], "x": [0.53, -1.17], "t": [0.25, 0.79]}
LARGEST = {"W1": [[-2.985, -2.985]] * 2, "b1": [-2.985, -2.985], "W2": [[-2.985, -2.985]] * 2,
           "b2": [-2.985, -2.985], "x": [-0.1234, -0.5678], "t": [0.01, 0.99]}
SATURATED = {**LARGEST, "b1": [-12.345, -2.985], "x": [0.1234, 0.5678]}


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def loss_from_hidden(h, W2, b2, t):
    """The loss written out for two units, number by number, with nothing from the library."""
    y0 = sigmoid(W2[0][0] * h[0] + W2[0][1] * h[1] + b2[0])
    y1 = sigmoid(W2[1][0] * h[0] + W2[1][1] * h[1] + b2[1])
    return ((y0 - t[0])**2 + (y1 - t[1])**2) / 2


def hidden(x, W1, b1):
    return [sigmoid(W1[k][0] * x[0] + W1[k][1] * x[1] + b1[k]) for k in range(2)]


def loss_of(W1, b1, W2, b2, x, t):
    return loss_from_hidden(hidden(x, W1, b1), W2, b2, t)


def central_differences(function, array, eps=1e-5):
    array = np.array(array, dtype=float)
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        up, down = array.copy(), array.copy()
        up[index] += eps
        down[index] -= eps
        gradient[index] = (function(up) - function(down)) / (2 * eps)
    return gradient


def expected_pairs(net):
    """(forward value, gradient) of everything the picture shows."""
    pairs = [(loss_of(**net), 1.0)]
    for name in ("W1", "b1", "W2", "b2", "x"):
        gradient = central_differences(lambda array, name=name: loss_of(**{**net, name: array}), net[name])
        pairs += zip(np.ravel(net[name]), gradient.ravel())
    h = hidden(net["x"], net["W1"], net["b1"])
    pairs += zip(h, central_differences(lambda h: loss_from_hidden(h, net["W2"], net["b2"], net["t"]), h))
    y = [sigmoid(net["W2"][k][0] * h[0] + net["W2"][k][1] * h[1] + net["b2"][k]) for k in range(2)]
    return pairs + [(y[k], y[k] - net["t"][k]) for k in range(2)]


def written(ax, role):
    """The numbers in a role's colour with their places."""
    texts = [text for text in ax.texts if text.get_color() == role["color"]]
    numbers = {text.get_position(): text.get_text().removeprefix("b ").replace("\N{MINUS SIGN}", "-") for text in texts}
    return [(float(number), np.array(place)) for place, number in numbers.items() if number[-1].isdigit()]


# ------------------------------------------------------------------------------------------------ the network

@pytest.mark.parametrize("net", [MIXED, {**MIXED, "x": [1.71, 0.07]}], ids=["mixed", "other x"])
def test_every_number_on_the_network_stands_beside_its_gradient(net):
    ax = diagrams.draw_network(**net)
    values, gradients = written(ax, FORWARD), written(ax, GRADIENT)
    pairs = expected_pairs(net)
    assert len(values) == len(gradients) == len(pairs) == 19
    for value, gradient in pairs:
        matches = [place for number, place in values if abs(number - value) <= 5e-4 * abs(value)]
        assert len(matches) == 1, value
        nearest = min(gradients, key=lambda item: np.linalg.norm(item[1] - matches[0]))[0]
        assert abs(nearest - gradient) <= 5.1e-3 * abs(gradient), (value, gradient, nearest)


def test_mazurs_numbers():
    values, gradients = diagrams.network_pass(**MAZUR)
    np.testing.assert_allclose(values["loss"], 0.298371109, atol=5e-10)
    np.testing.assert_allclose(values["y"], [[0.75136507, 0.772928465]], atol=5e-9)
    np.testing.assert_allclose(gradients["W2"][0, 0], 0.082167041, atol=5e-10)
    np.testing.assert_allclose(gradients["W1"][0, 0], 0.000438568, atol=5e-10)


@pytest.mark.parametrize("net", [MAZUR, MIXED, LARGEST, SATURATED], ids=["Mazur", "mixed", "largest", "saturated"])
def test_no_text_on_the_network_covers_another_or_leaves_the_figure(net):
    check_texts(diagrams.draw_network(**net))


def test_edges_are_as_wide_as_their_weight_and_gradient_and_differ_without_colour():
    def widths(net, role):
        arrows = [a for a in diagrams.draw_network(**net).get_children() if isinstance(a, FancyArrowPatch)]
        return [a.get_linewidth() for a in arrows if a.get_linestyle() == role["linestyle"]
                and to_hex(a.get_edgecolor()) == role["color"].lower()]
    forward, backward = widths(MAZUR, FORWARD), widths(MAZUR, GRADIENT)
    assert len(forward) == 14 and len(backward) == 10 and len(widths(MAZUR, REFERENCE)) == 2
    heavy = {**MAZUR, "W2": [[0.40, 0.45], [0.50, 0.95]]}
    assert sum(a != b for a, b in zip(forward, widths(heavy, FORWARD))) == 1
    assert sum(a != b for a, b in zip(backward, widths(heavy, GRADIENT))) == 7   # into y1, and below


def test_network_title_states_the_loss_or_what_the_caller_says():
    assert diagrams.draw_network(**MAZUR).get_title(loc="left").startswith("Loss 0.2984")
    figure, ax = plt.subplots()
    assert diagrams.draw_network(**MAZUR, ax=ax, title="A message") is ax
    assert ax.get_title(loc="left") == "A message"


def test_network_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"draw_network: .*\(2, 3\)"):
        diagrams.draw_network(**{**MAZUR, "W1": [[1.0, 2.0, 3.0]] * 2, "x": [1.0, 2.0, 3.0]})
    assert plt.get_fignums() == []


def test_tiny_gradients_keep_their_digits():
    assert diagrams.strokes._gradient_number(-0.000012345) == "\N{MINUS SIGN}1.23e\N{MINUS SIGN}5"
    assert diagrams.strokes._gradient_number(0.0) == "0" and diagrams.strokes._gradient_number(0.00012345) == "0.000123"
    assert diagrams.strokes._gradient_number(1.5e-12) == "1.5e\N{MINUS SIGN}12"


# ------------------------------------------------------------------------------------------------ graphs

NODES = {"a": (0, 1, 2.0, 12.0), "b": (0, 0, 3.0, 8.0), "c": (1, 0.5, 6.0, 4.0)}
EDGES = {("a", "c"): "times b", ("b", "c"): "times a"}


def test_graph_shows_every_value_above_its_gradient():
    ax = diagrams.draw_graph(NODES, EDGES, "A product swaps its factors")
    assert "A product swaps its factors" in (ax.get_title(loc="left"), ax.figure.get_suptitle())
    values, gradients = written(ax, FORWARD), written(ax, GRADIENT)
    assert len(values) == len(gradients) == 3
    for _, _, value, gradient in NODES.values():
        (x, y), = (place for number, place in values if number == value)
        below = [number for number, place in gradients if place[0] == x and 0 < y - place[1] < 1]
        assert below == [gradient]
    assert {"times b", "times a"} <= {text.get_text() for text in ax.texts}
    ax.figure.canvas.draw()


# ------------------------------------------------------------------------------------------------ records

def soft_record():
    """(x + σ(y)) / (σ(x) + (x + y)²) at (3, -4), and what must be written: labels, values, derivatives, rates."""
    x, y = autodiff.Node(3.0), autodiff.Node(-4.0)
    s, t = autodiff.sigmoid(x), x + y
    f = (x + autodiff.sigmoid(y)) / (s + t**2)
    a, b = sigmoid(3.0), sigmoid(-4.0)
    top, bottom = 3 + b, a + 1
    up, down = 1 / bottom, -top / bottom**2
    wanted = {"f": (top / bottom, 1), "x": (3, up + down * (a * (1 - a) - 2)), "y": (-4, up * b * (1 - b) - 2 * down),
              "s": (a, down), "σ": (b, up), "u": (-1, -2 * down), "^ 2": (1, down)}
    return f, {"x": x, "y": y, "s": s, "u": t, "f": f}, wanted, [1] * 6 + [a * (1 - a), b * (1 - b), -2, up, down]


def ordered_record():
    """Werbos: z2 = 4 z1, z3 = 3 z1 + 5 z2; and (2 - z3)², as a product of a node with itself."""
    z1 = autodiff.Node(1.0)
    z2 = 4 * z1
    z3 = 3 * z1 + 5 * z2
    e = 2 - z3
    wanted = {"z": (1, -42 * -23), "× 4": (4, 210), "× 3": (3, 42), "× 5": (20, 42), "+": (23, 42),
              "2 \N{MINUS SIGN}": (-21, -42), "×": (441, 1)}
    return e * e, {"z": z1}, wanted, [4, 3, 5, 1, 1, -1, -42]


def check_record(record):
    """The texts of `draw_record` are those that are wanted, each in its place; returns the axes."""
    output, names, wanted, slopes = record()
    ax = diagrams.draw_record(output, names, "A record")
    values, gradients = written(ax, FORWARD), written(ax, GRADIENT)
    labels = {text.get_text(): np.array(text.get_position()) for text in ax.texts if text.get_style() == "italic"}
    for label, (value, gradient) in wanted.items():
        number, place = min(values, key=lambda item: np.linalg.norm(item[1] - labels[label]))
        below, = (g for g, at in gradients if at[0] == place[0] and 0 < place[1] - at[1] < 0.6)
        assert abs(number - value) <= 5e-4 * abs(value) and abs(below - gradient) <= 5e-3 * abs(gradient), label
    grey = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in ax.texts if text.get_color() == "0.3"]
    found = sorted(float(text) for text in grey if text[-1:].isdigit())
    np.testing.assert_allclose(found, sorted(slopes), rtol=5e-3)
    assert len(values) == len(gradients) == len([p for p in ax.patches if isinstance(p, Circle)])
    return ax


@pytest.mark.parametrize("record", [soft_record, ordered_record])
def test_record_shows_every_value_above_its_derivative_and_every_rate(record):
    ax = check_record(record)
    check_texts(ax)
    check_circles(ax)
    forward, backward = arrows(ax, FORWARD), arrows(ax, GRADIENT)
    assert len(forward) == len(backward) and all(start[0] < end[0] for start, end in forward)
    assert all(start[0] > end[0] for start, end in backward)


def test_no_arrow_of_a_record_goes_through_a_circle():
    ax = diagrams.draw_record(*soft_record()[:2], "A record")
    lines = [pair for line in ax.lines for pair in zip(line.get_xydata(), line.get_xydata()[1:])]
    for start, end in lines + arrows(ax, FORWARD) + arrows(ax, GRADIENT):
        for circle in (patch for patch in ax.patches if isinstance(patch, Circle)):
            along = np.linspace(start, end, 100)
            assert np.linalg.norm(along - circle.center, axis=1).min() > circle.radius


def test_record_has_the_operation_above_a_name():
    texts = [text.get_text() for text in diagrams.draw_record(*soft_record()[:2], "A record").texts]
    assert {"f", "/", "u", "+"} <= set(texts)


def doubled_rates(node):
    return [(before, 2 * rate) for before, rate in sweeps.rates(node)]


def test_record_that_is_wrong_is_found(monkeypatch):
    monkeypatch.setattr(diagrams.records, "rates", doubled_rates)
    with pytest.raises(AssertionError):
        check_record(soft_record)


def test_record_of_arrays_is_refused():
    with pytest.raises(ValueError, match="single number"):
        diagrams.draw_record(autodiff.Node(np.ones(3)).sum(), {}, "A record")


# ------------------------------------------------------------------------------------------------ two-sided nodes

def check_two_sided(record):
    """Every value, slope and derivative once: slopes where an arrow enters, the derivative below; returns the axes."""
    output, names, wanted, slopes = record()
    ax = diagrams.draw_two_sided(output, names, "Two sides")
    values, gradients = written(ax, FORWARD), written(ax, GRADIENT)
    entries = [end for _, end in arrows(ax, FORWARD)]
    at_arrows = [any(np.linalg.norm(at - end) < 0.5 for end in entries) for _, at in gradients]
    left, below = ([item for item, is_slope in zip(gradients, at_arrows) if is_slope == side] for side in (True, False))
    np.testing.assert_allclose(sorted(number for number, _ in left), sorted(slopes), rtol=5e-3)
    for end in entries:
        slope, = (at for _, at in left if np.linalg.norm(at - end) < 0.5 and abs(at[1] - end[1]) < 0.01)
        assert slope[0] > end[0]
    assert len(values) == len(below) == len(diagrams.records._record_graph(output)[0])
    for value, gradient in wanted.values():
        places = [at for number, at in values if abs(number - value) <= 5e-3 * abs(value)]
        assert any(abs(number - gradient) <= 5e-3 * abs(gradient) and 0 < place[1] - at[1] < 0.7
                   and abs(place[0] - at[0]) < 0.4 for place in places for number, at in below), (value, gradient)
    return ax


@pytest.mark.parametrize("record", [soft_record, ordered_record])
def test_two_sided_nodes_show_values_slopes_and_derivatives(record):
    ax = check_two_sided(record)
    check_texts(ax)
    drawn = arrows(ax, FORWARD)
    assert all(start[0] < end[0] for start, end in drawn)
    assert len({tuple(end) for _, end in drawn}) == len(drawn)  # no two arrows enter at one point
    for (start, end), (other, beside) in itertools.combinations(drawn, 2):                  # nor do they cross there
        assert end[0] != beside[0] or abs(end[1] - beside[1]) > 0.5 or (start - other)[1] * (end - beside)[1] > 0


def test_a_two_sided_node_that_is_computed_has_its_operation():
    texts = [text.get_text() for text in diagrams.draw_two_sided(*soft_record()[:2], "Two sides").texts]
    assert {"x", "y", "f:  /", "u:  +", "s:  σ", "^ 2"} <= set(texts)


def test_only_a_two_sided_node_that_is_computed_has_a_left_side():
    output, names, *_ = soft_record()
    walls = [line.get_xdata() for line in diagrams.draw_two_sided(output, names, "Two sides").lines]
    computed = [node for node in diagrams.records._record_graph(output)[0].values() if node.step]
    assert len([x for x in walls if len(x) == 2 and x[0] == x[1]]) == len(computed)


def test_two_sided_nodes_that_are_wrong_are_found(monkeypatch):
    monkeypatch.setattr(diagrams.records, "rates", doubled_rates)
    with pytest.raises(AssertionError):
        check_two_sided(soft_record)


def test_two_sided_nodes_of_arrays_are_refused():
    with pytest.raises(ValueError, match="single number"):
        diagrams.draw_two_sided(autodiff.Node(np.ones(3)).sum(), {}, "Two sides")


# ------------------------------------------------------------------------------------------------ convolution

RNG = np.random.default_rng(11)
OPTIONS = [{}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"stride": 2, "padding": 1, "dilation": 2},
           {"stride": 3, "padding": 2}]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
SUBSCRIPT = str.maketrans(diagrams.SUBSCRIPTS, "0123456789")


def convolve(x, W, **options):
    return cnn.conv2d_forward(x[None, None], W[None, None], np.zeros(1), **options)[0][0, 0]


def slopes(x, W, **options):
    """dy_pq / dx_ij (P, Q, I, J), found by changing one pixel after the other, with padding as part of the image."""
    base = convolve(x, W, **options)
    slope = np.zeros((*base.shape, *x.shape))
    for place in np.ndindex(x.shape):
        changed = x.copy()
        changed[place] += 1
        slope[(..., *place)] = convolve(changed, W, **options) - base
    return slope


def row_of(options):
    """The options of one row of pixels."""
    return {name: (0, value) if name == "padding" else (1, value) for name, value in options.items()}


def value_of(text, names):
    """A sum as it is written, such as w0x1 + w1·0 or 0: no output reads it."""
    terms = [re.findall(r"(dy|[wx])(\d+)", term) for term in text.split(" + ") if not re.search(r"·0|^0", term)]
    return sum(math.prod(names[name][int(index)] for name, index in factors) for factors in terms)


def arrows(ax, role):
    return [np.array(arrow._posA_posB) for arrow in ax.patches if isinstance(arrow, FancyArrowPatch)
            and to_hex(arrow.get_edgecolor()) == role["color"].lower() and arrow.get_linestyle() == role["linestyle"]]


def check_taps(n_inputs, kernel, output, pixel, **options):
    """The edges, the crosses and the sums of `draw_taps` are those of the convolution; returns the axes."""
    x, w = RNG.standard_normal((1, n_inputs)), RNG.standard_normal((1, kernel))
    y, cache = cnn.conv2d_forward(x[None, None], w[None, None], np.zeros(1), **row_of(options))
    dy = RNG.standard_normal(y.shape)
    dx, slope = cnn.conv2d_backward(dy, cache)[0].ravel(), slopes(x, w, **row_of(options))[0, :, 0]
    slope[np.abs(slope) < 1e-12] = 0
    ax = plt.figure(figsize=(4.5, 2.7)).subplots()              # a quarter of a notebook's figure
    diagrams.draw_taps(ax, n_inputs, kernel, output=output, pixel=pixel, **options)
    words = [text.get_text().translate(SUBSCRIPT) for text in ax.texts]
    sums = dict(word.split(" = ") for word in words if " = " in word)
    names = {"x": x[0], "w": w[0], "dy": dy.ravel()}
    assert abs(value_of(sums[f"y{output}"], names) - y.ravel()[output]) < 1e-12
    assert abs(value_of(sums[f"dx{pixel}"], names) - dx[pixel]) < 1e-12
    starts = [round(start[0]) for start, _ in arrows(ax, FORWARD)]
    assert [j for j in starts if 0 <= j < n_inputs] == np.flatnonzero(slope[output]).tolist() and len(starts) == kernel
    places = {text.get_text().translate(SUBSCRIPT): text.get_position()[0] for text in ax.texts}
    units = [min((abs(places[f"y{q}"] - start[0]), q) for q in range(y.size))[1]
             for start, _ in arrows(ax, GRADIENT)]
    assert units == np.flatnonzero(slope[:, pixel]).tolist()
    crossed = {round(np.mean(line.get_xdata())) for line in ax.lines if line.get_zorder() == 4}
    assert crossed == set(np.flatnonzero(~slope.any(axis=0)))
    return ax


@each_option
@pytest.mark.parametrize("output, pixel", [(0, 0), (1, 3), (-1, -1)])
def test_taps_show_what_the_convolution_reads_and_where_its_gradient_comes_from(options, output, pixel):
    outputs = convolve(np.zeros((1, 10)), np.zeros((1, 3)), **row_of(options)).size
    check_texts(check_taps(10, 3, output % outputs, pixel % 10, **options))
    plt.close("all")


def test_taps_without_a_choice_are_grey():
    ax = diagrams.draw_taps(plt.figure().subplots(), 7, 2, stride=3)
    assert ax.get_title(loc="left") == "7 inputs, 2 outputs"
    assert arrows(ax, FORWARD) == arrows(ax, GRADIENT) == []
    assert [line.get_color() for line in ax.lines].count("0.8") == 4
    check_texts(ax)


def test_taps_say_zero_where_no_output_reads():
    ax = diagrams.draw_taps(plt.figure().subplots(), 8, 2, stride=3, pixel=2, title="Stride 3 skips")
    assert ax.get_title(loc="left") == "Stride 3 skips"
    texts = [(text.get_text(), text.get_position()[0]) for text in ax.texts if text.get_color() == "#D55E00"]
    assert sorted(texts) == [("0", 5), ("dx₂ = 0: no output reads it", pytest.approx(texts[-1][1]))]


@pytest.mark.parametrize("change", ["windows", "order"])
def test_taps_that_are_wrong_are_found(change, monkeypatch):
    spoil_taps(monkeypatch, change)
    with pytest.raises((AssertionError, KeyError)):
        check_taps(8, 3, 1, 3)


def spoil_taps(monkeypatch, change):
    """Windows that begin one further, or weights taken from the end."""
    right = diagrams.convolution._taps
    wrong = {"windows": lambda *args: right(*args) + 1, "order": lambda *args: right(*args)[..., ::-1]}[change]
    monkeypatch.setattr(diagrams.convolution, "_taps", wrong)


KERNEL = np.array([[3.0, 1.0, -2.0], [4.0, 2.0, -4.0]])         # not square, no two weights alike


def check_convolution(x, W, output, pixel, padding=0, **options):
    """What `draw_convolution` frames and writes is what conv2d does, found by changing pixels; returns the axes."""
    margin = tuple(int(m) for m in np.broadcast_to(padding, 2))
    slope = slopes(np.pad(x, [(m, m) for m in margin]), W, **options)           # the margin, too, is read
    y, cache = cnn.conv2d_forward(x[None, None], W[None, None], np.zeros(1), padding=padding, **options)
    dy = RNG.integers(-9, 10, y.shape[2:]).astype(float)
    dx = cnn.conv2d_backward(dy[None, None], cache)[0][0, 0]
    ax = diagrams.draw_convolution(x, W, output, pixel, padding=padding, dy=dy, **options)
    images, values = ax.images, [image.get_array() for image in ax.images]
    for shown, expected in zip([*values[:4], values[-1]], (x, W, y[0, 0], dx, dy)):
        np.testing.assert_array_equal(shown, expected)
    reads = {(int(i) - margin[0], int(j) - margin[1]) for i, j in np.argwhere(slope[output])}
    feeds = slope[(..., *np.add(pixel, margin))]
    fed = {tuple(map(int, place)) for place in np.argwhere(feeds)}
    assert framed(ax, FORWARD, images[0], margin) == reads
    assert framed(ax, FORWARD, images[2]) == {output}
    assert framed(ax, GRADIENT, images[3]) == {pixel}
    assert framed(ax, GRADIENT, images[-1]) == fed
    if fed:                                                     # the weights in the order of the outputs they belong to
        np.testing.assert_array_equal(values[4].ravel(), feeds[feeds != 0])
    pixels = sum(0 <= i < len(x) and 0 <= j < len(x[0]) for i, j in reads)
    title = ax.get_title(loc="left")
    assert title.startswith(f"Output {output} reads {pixels or 'no'} pixel")
    assert f"pixel {pixel} collects gradients from {len(fed) or 'no'} output" in title
    assert (f" and {len(reads) - pixels} zero" in title) == (pixels < len(reads))
    words = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in ax.texts]
    assert f"y: {y[0, 0][output]:.4g} at {output}" in words and f"dx: {dx[pixel]:.4g} at {pixel}" in words
    return ax


@each_option
@pytest.mark.parametrize("output, pixel", [((0, 0), (-1, -1)), ((1, 1), (3, 4)), ((-1, -1), (4, 2))])
def test_convolution_frames_what_an_output_reads_and_what_a_pixel_feeds(options, output, pixel):
    x = RNG.integers(1, 17, (7, 8)).astype(float)
    size = convolve(x, KERNEL, **options).shape
    ax = check_convolution(x, KERNEL, tuple(np.mod(output, size).tolist()), tuple(np.mod(pixel, x.shape).tolist()),
                           **options)
    check_texts(ax)
    plt.close("all")


def test_convolution_takes_pairs_for_its_options():
    x = RNG.integers(1, 17, (6, 7)).astype(float)
    check_convolution(x, KERNEL, (1, 2), (3, 3), stride=(1, 2), padding=(2, 0), dilation=(2, 1))


@pytest.mark.parametrize("change", ["windows", "order"])
def test_convolution_that_is_wrong_is_found(change, monkeypatch):
    spoil_taps(monkeypatch, change)
    with pytest.raises(AssertionError):
        check_convolution(RNG.integers(1, 17, (7, 8)).astype(float), KERNEL, (2, 2), (3, 3))


def test_convolution_names_each_weight_that_a_pixel_meets():
    """The kernel is met turned around, and its numbers stand in the cells."""
    ax = diagrams.draw_convolution(np.ones((5, 5)), KERNEL, (0, 0), (2, 2))
    names = [text.get_text().translate(SUBSCRIPT).replace("\N{MINUS SIGN}", "-").split("\n") for text in ax.texts
             if "\n" in text.get_text()]
    forward = [[f"w{r}{s}", f"{weight:.0f}"] for (r, s), weight in np.ndenumerate(KERNEL)]
    assert names == forward + forward[::-1]


def test_convolution_has_a_cotangent_of_its_own():
    first, second = (diagrams.draw_convolution(np.ones((5, 5)), KERNEL, (0, 0), pixel) for pixel in ((2, 2), (0, 4)))
    given = first.images[-1].get_array()
    assert set(np.unique(given)) == {-2, -1, 1, 2}
    np.testing.assert_array_equal(given, second.images[-1].get_array())


def test_convolution_says_so_where_no_output_reads():
    ax = diagrams.draw_convolution(np.ones((8, 8)), np.ones((3, 3)), (1, 2), (7, 7), stride=2)
    assert "no output reads it" in [text.get_text() for text in ax.texts] and len(ax.images) == 5
    check_texts(ax)


def test_convolution_of_large_and_of_fractional_images_is_readable():
    for x, W in ((RNG.random((28, 28)), RNG.random((5, 5))), (RNG.random((8, 8)), RNG.standard_normal((3, 3)))):
        check_texts(diagrams.draw_convolution(x, W, (3, 3), (4, 4), padding=1))


@pytest.mark.parametrize("call, message", [
    (lambda ax: diagrams.draw_taps(ax, 8, 3, output=6), "draw_taps: output must lie between 0 and 5, got 6"),
    (lambda ax: diagrams.draw_taps(ax, 8, 3, pixel=-1), "draw_taps: pixel must lie between 0 and 7, got -1"),
    (lambda ax: diagrams.draw_taps(ax, 8, 3, pixel=1.0), "draw_taps: pixel must lie between 0 and 7, got 1.0"),
    (lambda ax: diagrams.draw_taps(ax, 2, 3), "unfold_forward: .*"),
    (lambda ax: diagrams.draw_convolution(np.ones((5, 6)), KERNEL, (4, 0), (0, 0), ax=ax),
     r"draw_convolution: output must lie between 0 and \[3, 3\], got \[4, 0\]"),
    (lambda ax: diagrams.draw_convolution(np.ones((5, 6)), KERNEL, (0, 0), (0, 6), ax=ax),
     r"draw_convolution: pixel must lie between 0 and \[4, 5\], got \[0, 6\]"),
    (lambda ax: diagrams.draw_convolution(np.ones((5, 6)), KERNEL, 1, (0, 0), ax=ax), "draw_convolution: output must"),
    (lambda ax: diagrams.draw_convolution(np.ones((5, 6)), KERNEL, (0, 0), (0, 0), dy=np.ones((4, 3)), ax=ax),
     "conv2d_backward: .*"),
])
def test_a_place_that_does_not_exist_is_refused(call, message):
    ax = plt.figure().subplots()
    with pytest.raises(ValueError, match=message):
        call(ax)
    assert not ax.texts and not ax.patches


# ------------------------------------------------------------------------------------------------ recurrent networks

def written_formulas(ax, role=GRADIENT):
    """The formulas in a role's colour, as they are in the code."""
    texts = [text.get_text() for text in ax.texts if text.get_color() == role["color"] and text.get_text()[0] == "$"]
    for pattern in (r"_\{\\math..\{(\w+)\}\}", r"\\math..\{(\w+)\}"):
        texts = [re.sub(pattern, lambda match: ("_" if match[0][0] == "_" else "") + match[1], text) for text in texts]
    return [text.strip("$").replace(r"\cdot ", "*") for text in texts]


def check_circles(ax):
    """A text stands in the middle of a circle, or beside all of them."""
    circles = [patch for patch in ax.patches if isinstance(patch, Circle)]
    for text in filter(lambda text: text.get_text(), ax.texts):
        box = text.get_window_extent().transformed(ax.transData.inverted())
        for circle in circles:
            (x, y), radius = circle.center, circle.radius
            nearest = np.clip(x, box.x0, box.x1), np.clip(y, box.y0, box.y1)
            inside = abs((box.x0 + box.x1) / 2 - x) < 0.05 and abs((box.y0 + box.y1) / 2 - y) < 0.2
            assert inside or np.hypot(nearest[0] - x, nearest[1] - y) > radius, (text.get_text(), circle.center)


def check_both_ways(ax):
    """Beside every forward arrow a gradient runs the other way."""
    forward, backward = arrows(ax, FORWARD), arrows(ax, GRADIENT)
    assert len(forward) == len(backward) > 0
    for start, end in forward:
        assert any(np.abs([a - end, b - start]).max() < 0.2 for a, b in backward), (start, end)


@pytest.mark.parametrize("steps, window", [(4, None), (4, 2), (5, 3), (5, 1), (4, 4), (6, 4)])
def test_unrolled_gradients_come_back_as_far_as_the_truncated_pass_takes_them(steps, window):
    ax = diagrams.draw_unrolled(steps, window)
    check_texts(ax)
    check_circles(ax)
    states = {text.get_text(): text.get_position()[0] for text in ax.texts}
    x = [states[diagrams.recurrent._math(f"h_{t}")] for t in range(steps)]
    level = [(start, end) for start, end in arrows(ax, GRADIENT) if start[1] == end[1]]
    assert len(level) == steps + 1 and len(arrows(ax, FORWARD)) == 3 * steps
    _, cache = rnn.rnn_forward(RNG.random((1, steps, 1)), np.ones((1, 1)), *np.ones((2, 1, 1)), np.ones(1))
    for t in range(1, steps):
        dhs = np.zeros((1, steps, 1))
        dhs[0, t] = 1
        dx = rnn.truncated_backward(rnn.rnn_backward, (dhs,), cache, window or steps)[0]
        arrives = [end[0] - x[t - 1] < 0.6 for start, end in level if x[t - 1] < end[0] < start[0] < x[t]]
        assert arrives == [dx[0, t - 1, 0] != 0]


def test_unrolled_names_what_meets_in_a_state():
    ax = diagrams.draw_unrolled(title="A message")
    assert ax.get_title(loc="left") == "A message"
    formulas = written_formulas(ax)
    assert formulas.count("dh_prev") == 3 and {f"dhs_{t}" for t in range(4)} < set(formulas)
    assert {"dh0", "0", "dh = dhs_t + dh_prev"} < set(formulas)


@pytest.mark.parametrize("steps, window", [(3, None), (4, 0)])
def test_unrolled_needs_steps(steps, window):
    with pytest.raises(ValueError, match=f"draw_unrolled: .*got {steps} and {window}"):
        diagrams.draw_unrolled(steps, window)
    assert plt.get_fignums() == []


EPS = 1e-30


def scalars(rule, upstream):
    """Values and gradients (d before the name) of a scalar step by complex step: `rule(nudged)` runs it.

    `upstream` {output: its cotangent} are the gradients that come from outside.
    """
    def run(target=None):
        values = {}

        def nudged(name, value):
            values[name] = value + (1j * EPS if name == target else 0)
            return values[name]
        rule(nudged)
        return values
    names = {name: value.real for name, value in run().items()}
    for name in list(names):
        values = run(name)
        names["d" + name] = sum(cotangent * values[output] for output, cotangent in upstream.items()).imag / EPS
    return names


def soft(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(nudged):
    h_prev, c_prev = nudged("h_prev", 0.7 + 0j), nudged("c_prev", -0.4 + 0j)
    x = nudged("x", 1.3 + 0j)
    z = {name: nudged(f"z_{name}", a * x + b * h_prev + c) for name, (a, b, c) in
         {"i": (0.5, -0.3, 0.1), "f": (-0.2, 0.8, 0.4), "g": (0.9, 0.6, -0.7), "o": (0.3, -1.1, 0.2)}.items()}
    i, f, o = (nudged(name, soft(z[name])) for name in "ifo")
    g = nudged("g", np.tanh(z["g"]))
    c = nudged("c", f * c_prev + i * g)
    m = nudged("m", np.tanh(c))
    nudged("c out", c)
    nudged("h", o * m)


def gru_step(nudged, after):
    h_prev, x, W_n, r_z = nudged("h_prev", 0.7 + 0j), 1.3, -0.8, (0.2, -0.4)
    r, z = nudged("r", soft(r_z[0] + 0j)), nudged("z", soft(r_z[1] + 0j))    # as if they did not see h_prev
    if after:
        u_n = nudged("u_n", W_n * h_prev + 0.1)
        a_n = nudged("a_n", 0.6 * x + r * u_n)
    else:
        s = nudged("s", r * h_prev)
        a_n = nudged("a_n", 0.6 * x + W_n * s + 0.1)
    n = nudged("n", np.tanh(a_n))
    nudged("h", (1 - z) * n + z * h_prev)
    nudged("W_n", W_n + 0j)


def check_formulas(formulas, names, terms):
    """Both sides of a formula are the same number; one without sides is a name, or one of the terms with its number."""
    for formula in formulas:
        sides = [eval(re.sub(r"(\w) (?=\w)", r"\1 * ", side).replace("^", "**"), {}, names)
                 for side in formula.split("=")]
        expected = terms[formula] if formula in terms else sides[0]
        assert "=" in formula or formula in terms or formula in names, formula
        np.testing.assert_allclose(sides, expected, rtol=1e-12, err_msg=formula)
    assert set(terms) <= set(formulas)


def lstm_names():
    names = scalars(lstm_step, {"h": 0.37, "c out": -0.21})
    assert names["dh"] == pytest.approx(0.37)
    return {**names, "dc_next": -0.21}


@pytest.mark.parametrize("draw", [diagrams.draw_lstm_cell, diagrams.draw_lstm_roads])
def test_formulas_of_the_lstm_hold(draw):
    ax, names = draw(), lstm_names()
    terms = {"dh * o": names["dm"], "dh * o * (1 - m^2)": names["dc"] - names["dc_next"]}
    check_formulas(written_formulas(ax), names, terms)
    check_texts(ax)
    check_circles(ax)
    check_both_ways(ax)


@pytest.mark.parametrize("after", [True, False])
def test_formulas_of_the_gru_hold(after):
    names = scalars(lambda nudged: gru_step(nudged, after), {"h": 0.37})
    for ax in (None, plt.figure(figsize=(9.1, 5.2)).subplots(1, 2)[int(after)]):
        ax = diagrams.draw_gru_cell(after, ax)
        direct = names["dh"] * names["z"]
        terms = {"dh * z": direct, "du_n W_n" if after else "ds * r": names["dh_prev"] - direct}
        check_formulas(written_formulas(ax), names, terms)
        assert written_formulas(ax, FORWARD) == ["W_n"]
        assert ("after" if after else "before") in ax.get_title(loc="left")
        check_texts(ax)
        check_circles(ax)
        check_both_ways(ax)


def test_a_formula_that_does_not_hold_is_found():
    with pytest.raises(AssertionError):
        check_formulas(["do = dh * o"], lstm_names(), {})


# ------------------------------------------------------------------------------------------------ as they are shown

DRAWINGS = {"network": lambda: diagrams.draw_network(**MIXED),
            "graph": lambda: diagrams.draw_graph(NODES, EDGES, "A product swaps its factors"),
            "record": lambda: diagrams.draw_record(*soft_record()[:2], "Three arrows leave x"),
            "two sides": lambda: diagrams.draw_two_sided(*soft_record()[:2], "Three arrows leave x"),
            "taps": lambda: [diagrams.draw_taps(ax, 10, 3, padding=1, output=1, pixel=4)
                             for ax in plt.figure(figsize=(9, 5.4)).subplots(2, 2).ravel()],
            "convolution": lambda: diagrams.draw_convolution(RNG.random((8, 8)), RNG.random((3, 3)), (1, 2), (3, 3)),
            "unrolled": lambda: diagrams.draw_unrolled(5, window=2), "lstm": diagrams.draw_lstm_cell,
            "roads": diagrams.draw_lstm_roads,
            "gru": lambda: [diagrams.draw_gru_cell(after, ax) for after, ax in
                            zip((True, False), plt.figure(figsize=(9.1, 5.2)).subplots(1, 2))]}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_makes_a_small_picture(name, monkeypatch):
    check_show(DRAWINGS[name], monkeypatch)
