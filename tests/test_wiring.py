"""backprop_lib.wiring: its counts are those of networks written out connection by connection, and of the papers.

Here a network is a list of connections (unit, source, weight): `unit` reads `source` through `weight`. A unit and a
source are (layer, map, row, column), a bias is the source "one". Weights that are not trained are None.
"""

import itertools

import numpy as np
import pytest

from backprop_lib import nn, wiring


# Parameters and connections of each layer, from the papers.
PAPER_1989 = {"H1": (1_068, 19_968), "H2": (2_592, 38_592), "H3": (5_790, 5_790), "output": (310, 310)}
PAPER_5 = {"C1": (156, 122_304), "S2": (12, 5_880), "C3": (1_516, 151_600), "S4": (32, 2_000), "C5": (48_120, 48_120),
           "F6": (10_164, 10_164), "output": (0, 840)}
PAPERS = {"LENET_1989": (PAPER_1989, 9_760, 64_660), "LENET_5": (PAPER_5, 60_000, 340_908)}

# Table I of 1998: which of the 6 maps of S2 (a row each) are read by each of the 16 maps of C3 (a column each).
TABLE_I = ["X...XXX..XXXX.XX",
           "XX...XXX..XXXX.X",
           "XXX...XXX..X.XXX",
           ".XXX..XXXX..X.XX",
           "..XXX..XXXX.XX.X",
           "...XXX..XXXX.XXX"]

# Weights of the networks of 1997, in the order of wiring's, and of 2000.
PAPER_1997 = [264, 276, 36, 144, 10_404, 10_506, 10_504, 364, 664, 1_264, 3_064, 6_064, 102, 93, 156, 308]
PAPER_2000 = 424

every_net = pytest.mark.parametrize("name", PAPERS)


# ------------------------------------------------------------------------------------------------ written out

def grid(rows, columns):
    return list(itertools.product(range(rows), range(columns)))


def slide(layer, below, table, kernel, image, step=1, corner=0, shared_bias=True):
    """Each map of `layer` slides a kernel, of its own for each map that it reads, over the layer below."""
    for m, reads in enumerate(table):
        for p, q in grid(*image):
            unit = (layer, m, p, q)
            for c in reads:
                for r, s in grid(*kernel):
                    yield unit, (below, c, step * p + r - corner, step * q + s - corner), (layer, "w", m, c, r, s)
            yield unit, "one", (layer, "b", m) if shared_bias else (layer, "b", m, p, q)


def average(layer, below, maps, kernel, image):
    """Each map of `layer` averages windows of its map below, side by side, times one weight, plus one bias."""
    for m in range(maps):
        for p, q in grid(*image):
            unit = (layer, m, p, q)
            for r, s in grid(*kernel):
                yield unit, (below, m, kernel[0] * p + r, kernel[1] * q + s), (layer, "w", m)
            yield unit, "one", (layer, "b", m)


def read_all(layer, units, sources):
    """Every unit reads every source and has a bias."""
    for u in range(units):
        for source in sources:
            yield (layer, u, 0, 0), source, (layer, "w", u, source)
        yield (layer, u, 0, 0), "one", (layer, "b", u)


def compare_to_patterns(layer, units, sources):
    """Every unit measures the distance to a picture of its own, which is drawn by hand."""
    for u in range(units):
        for source in sources:
            yield (layer, u, 0, 0), source, None


def units_of(connections):
    """The units in order, each once."""
    return list(dict.fromkeys(unit for unit, _, _ in connections))


def lenet_1989(h1_shares_biases=False, h2_reads=8):
    """Which 8 maps of H1 a map of H2 reads is not in the paper; any 8 give the same numbers."""
    rng = np.random.default_rng(0)
    h2_table = [rng.choice(12, h2_reads, replace=False).tolist() for _ in range(12)]
    h1 = list(slide("H1", "image", [[0]] * 12, (5, 5), (8, 8), 2, 2, shared_bias=h1_shares_biases))
    h2 = list(slide("H2", "H1", h2_table, (5, 5), (4, 4), 2, 2, shared_bias=False))
    h3 = list(read_all("H3", 30, units_of(h2)))
    return {"H1": h1, "H2": h2, "H3": h3, "output": list(read_all("output", 10, units_of(h3)))}


def lenet_5():
    c3_table = [[c for c in range(6) if TABLE_I[c][m] == "X"] for m in range(16)]
    c1 = list(slide("C1", "image", [[0]] * 6, (5, 5), (28, 28)))
    s2 = list(average("S2", "C1", 6, (2, 2), (14, 14)))
    c3 = list(slide("C3", "S2", c3_table, (5, 5), (10, 10)))
    s4 = list(average("S4", "C3", 16, (2, 2), (5, 5)))
    c5 = list(slide("C5", "S4", [range(16)] * 120, (5, 5), (1, 1)))
    f6 = list(read_all("F6", 84, units_of(c5)))
    return {"C1": c1, "S2": s2, "C3": c3, "S4": s4, "C5": c5, "F6": f6,
            "output": list(compare_to_patterns("output", 10, units_of(f6)))}


def count(connections):
    """(parameters, connections): different trained weights, and different pairs of a unit and what it reads."""
    pairs = {(unit, source) for unit, source, _ in connections}
    assert len(pairs) == len(connections)
    return len({weight for _, _, weight in connections if weight is not None}), len(pairs)


def counted(layer):
    """The same of a layer as wiring has it."""
    return wiring.parameters({"": layer}), wiring.connections({"": layer})


WRITTEN_OUT = {"LENET_1989": lenet_1989(), "LENET_5": lenet_5()}


# ------------------------------------------------------------------------------------------------ the two networks

@every_net
def test_the_papers_count_as_we_do_by_hand(name):
    """The figures of the papers, against the networks written out above; wiring is not asked."""
    layers, parameters, connections = PAPERS[name]
    by_hand = {layer: count(several) for layer, several in WRITTEN_OUT[name].items()}
    assert by_hand == layers
    assert tuple(map(sum, zip(*by_hand.values()))) == (parameters, connections)


@every_net
def test_wiring_counts_as_the_papers_do(name):
    layers, parameters, connections = PAPERS[name]
    net = getattr(wiring, name)
    assert {layer: counted(maps) for layer, maps in net.items()} == layers
    assert list(net) == list(layers)
    assert wiring.parameters(net) == parameters and wiring.connections(net) == connections


@every_net
def test_every_map_has_its_units_and_what_one_of_them_reads(name):
    for layer, connections in WRITTEN_OUT[name].items():
        maps = {}
        for unit, source, weight in connections:
            maps.setdefault(unit[1], []).append((unit, source, weight))
        ours = getattr(wiring, name)[layer]
        assert len(ours) == len(maps)
        for m, entry in zip(ours, maps.values()):
            inputs = {(unit, source) for unit, source, _ in entry if source != "one"}
            assert m.units == len(units_of(entry)) and m.units * m.reads == len(inputs)
            assert m.weights == len({weight for _, source, weight in entry if source != "one"} - {None})
            assert m.biases == len({weight for _, source, weight in entry if source == "one"})
            assert (m.parameters, m.connections) == count(entry)


@every_net
def test_no_unit_reads_beyond_the_layer_below(name):
    """The networks above are ones: each layer reads units that are there, and each unit but the last is read."""
    net = WRITTEN_OUT[name]
    for (_, below), (layer, connections) in itertools.pairwise(net.items()):
        units, sources = set(units_of(below)), {source for _, source, _ in connections} - {"one"}
        if (name, layer) == ("LENET_1989", "H2"):               # its kernels hang over the edge
            sources = {(of, m, p, q) for of, m, p, q in sources if 0 <= p < 8 and 0 <= q < 8}
        assert sources == units, layer


def test_the_connections_of_c3_are_those_of_table_i():
    assert [tuple(c for c in range(6) if TABLE_I[c][m] == "X") for m in range(16)] == [
        tuple(sorted(reads)) for reads in wiring.C3_READS]
    assert [len(reads) for reads in wiring.C3_READS] == [3] * 6 + [4] * 9 + [6]


# ------------------------------------------------------------------------------------------------ the helpers

SIZES = [((1, 1), (1, 1)), ((5, 5), (8, 8)), ((3, 2), (4, 7)), ((1, 4), (2, 1))]


@pytest.mark.parametrize("kernel, image", SIZES)
@pytest.mark.parametrize("own_biases", [False, True])
def test_convolution_is_a_map_for_each_entry_of_its_table(kernel, image, own_biases):
    table = [(0,), (0, 2), [1, 2, 3], {0, 1, 2, 3}, range(2), (3, 0)]
    layer = wiring.convolution(table, kernel, image, own_biases)
    by_hand = list(slide("", "", table, kernel, image, shared_bias=not own_biases))
    assert isinstance(layer, tuple) and len(layer) == 6 and counted(layer) == count(by_hand)
    for m, reads in zip(layer, table):
        taps, units = kernel[0] * kernel[1], image[0] * image[1]
        assert m == (units, taps * len(reads), taps * len(reads), units if own_biases else 1)
    assert layer == wiring.convolution([len(reads) for reads in table], kernel, image, own_biases)
    assert wiring.convolution(table, kernel, image) == wiring.convolution(table, kernel, image, own_biases=False)


def test_a_map_that_is_listed_twice_is_read_once():
    assert wiring.convolution([(0, 1, 0), [2, 2]], (2, 3), (4, 5)) == wiring.convolution([2, 1], (2, 3), (4, 5))


@pytest.mark.parametrize("kernel, image", SIZES)
@pytest.mark.parametrize("maps", [1, 3])
def test_subsampling_has_two_parameters_a_map(kernel, image, maps):
    layer = wiring.subsampling(maps, kernel, image)
    assert layer == ((image[0] * image[1], kernel[0] * kernel[1], 1, 1),) * maps
    assert counted(layer) == count(list(average("", "", maps, kernel, image))) and counted(layer)[0] == 2 * maps


@pytest.mark.parametrize("units, inputs", [(1, 1), (3, 7), (10, 2)])
def test_fully_connected_units_share_nothing(units, inputs):
    layer = wiring.fully_connected(units, inputs)
    assert layer == ((1, inputs, inputs, 1),) * units
    assert counted(layer) == count(list(read_all("", units, range(inputs)))) == ((inputs + 1) * units,) * 2
    assert wiring.fully_connected(units, inputs, bias=False) == ((1, inputs, inputs, 0),) * units
    one_by_one = wiring.convolution([inputs] * units, (1, 1), (1, 1))
    assert layer == one_by_one                                  # a kernel as large as its image, as C5 has


@pytest.mark.parametrize("units, inputs", [(1, 1), (3, 7), (10, 84)])
def test_fixed_units_have_connections_and_no_parameters(units, inputs):
    layer = wiring.fixed(units, inputs)
    assert layer == ((1, inputs, 0, 0),) * units
    assert counted(layer) == count(list(compare_to_patterns("", units, range(inputs)))) == (0, units * inputs)


@pytest.mark.parametrize("units, reads, weights, biases, parameters, connections", [
    (64, 25, 25, 64, 89, 64 * 26), (64, 25, 25, 1, 26, 64 * 26), (64, 25, 25, 0, 25, 64 * 25), (6, 4, 1, 1, 2, 30),
    (1, 84, 0, 0, 0, 84), (1, 1, 1, 1, 2, 2)])
def test_a_map_counts_itself(units, reads, weights, biases, parameters, connections):
    m = wiring.Map(units, reads, weights, biases)
    assert m.parameters == parameters and m.connections == connections
    assert m == wiring.Map(units=units, reads=reads, weights=weights, biases=biases)
    assert type(m.parameters) is type(m.connections) is int


def test_totals_are_sums_over_layers_and_maps():
    net = {"a": wiring.convolution([1, 2], (2, 3), (4, 5)), "b": wiring.subsampling(2, (2, 2), (2, 2)),
           "c": wiring.fully_connected(3, 8), "d": wiring.fixed(2, 3)}
    assert wiring.parameters(net) == (6 + 1) + (12 + 1) + 2 * 2 + 3 * 9 + 0
    assert wiring.connections(net) == 20 * 7 + 20 * 13 + 2 * 4 * 5 + 3 * 9 + 2 * 3
    assert wiring.parameters(net) == sum(wiring.parameters({name: layer}) for name, layer in net.items())
    assert wiring.parameters({}) == wiring.connections({}) == 0


# ------------------------------------------------------------------------------------------------ wrong wirings

def test_wrong_wirings_of_1989_give_other_totals():
    """One kind of mistake each; written out and counted by wiring they agree, and are not the paper's numbers."""
    right = wiring.LENET_1989
    wrong = {
        "H1 shares its biases": ({"H1": wiring.convolution([1] * 12, (5, 5), (8, 8))},
                                 lenet_1989(h1_shares_biases=True), (9_760 - 12 * 63, 64_660)),
        "H2 reads all of H1": ({"H2": wiring.convolution([12] * 12, (5, 5), (4, 4), own_biases=True)},
                               lenet_1989(h2_reads=12), (9_760 + 12 * 4 * 25, 64_660 + 12 * 16 * 4 * 25)),
        "H2 reads one map": ({"H2": wiring.convolution([1] * 12, (5, 5), (4, 4), own_biases=True)},
                             lenet_1989(h2_reads=1), (9_760 - 12 * 7 * 25, 64_660 - 12 * 16 * 7 * 25)),
    }
    for what, (changes, by_hand, totals) in wrong.items():
        net = {**right, **changes}
        assert (wiring.parameters(net), wiring.connections(net)) == totals, what
        assert tuple(map(sum, zip(*(count(layer) for layer in by_hand.values())))) == totals, what
        assert totals != (9_760, 64_660), what


def test_wrong_wirings_of_lenet_5_give_other_totals():
    everything = [tuple(range(6))] * 16
    cases = [
        ("C3 reads all of S2", {"C3": wiring.convolution(everything, (5, 5), (10, 10))}, 900, 90_000),
        ("C3 reads one map", {"C3": wiring.convolution([1] * 16, (5, 5), (10, 10))}, -1_100, -110_000),
        ("the last map of C3 reads 5", {"C3": wiring.convolution([*wiring.C3_READS[:15], range(5)], (5, 5), (10, 10))},
         -25, -2_500),
        ("C1 has its biases for itself", {"C1": wiring.convolution([1] * 6, (5, 5), (28, 28), True)}, 6 * 783, 0),
        ("C1 has 24 x 24 units", {"C1": wiring.convolution([1] * 6, (5, 5), (24, 24))}, 0, -6 * 208 * 26),
        ("S2 trains its 4 weights", {"S2": wiring.convolution([1] * 6, (2, 2), (14, 14))}, 18, 0),
        ("S2 overlaps", {"S2": wiring.subsampling(6, (2, 2), (27, 27))}, 0, 6 * 5 * (27 * 27 - 14 * 14)),
        ("F6 is trained by hand", {"F6": wiring.fixed(84, 120)}, -10_164, -84),
        ("the output is trained", {"output": wiring.fully_connected(10, 84)}, 850, 10),
        ("there is no output", {"output": ()}, 0, -840),
    ]
    for what, changes, parameters, connections in cases:
        net = {**wiring.LENET_5, **changes}
        assert (parameters, connections) != (0, 0)
        assert wiring.parameters(net) == 60_000 + parameters, what
        assert wiring.connections(net) == 340_908 + connections, what


# ------------------------------------------------------------------------------------------------ memory blocks

def reads(layer, units, sources, bias):
    """Every unit reads every source, with a weight of its own."""
    for unit in range(units):
        for source in [*sources, *["one"] * bias]:
            yield (layer, unit), source, (layer, unit, source)


def named(layer, units):
    return [(layer, unit) for unit in range(units)]


def memory_blocks(inputs, outputs, blocks, size, biased, gates=2, gates_are_read=True, shortcut=False):
    """The connections of such a network, block by block and gate by gate."""
    x, state, gate = named("x", inputs), [], []
    for block in range(blocks):
        state += [("cells", block, cell) for cell in range(size)]
        gate += [("gates", block, kind) for kind in range(gates)]
    seen = x + state + (gate if gates_are_read else [])
    return {"cells": list(reads("cells", len(state), seen, "cells" in biased)),
            "gates": list(reads("gates", len(gate), seen, "gates" in biased)),
            "outputs": list(reads("outputs", outputs, state + (x if shortcut else []), "outputs" in biased))}


def one_hidden_unit(p, extra=0):
    """Fully recurrent hidden unit, and outputs that read it and the inputs; `extra` ones predict another's unit."""
    below = named("x", p + 1) + named("hidden", 1)
    return {"hidden": list(reads("hidden", 1, below, False)),
            "outputs": list(reads("outputs", p + 1 + extra, below, False))}


def one_cell(p):
    """A cell and its input gate, which read the inputs alone."""
    x = named("x", p + 1)
    return {"cells": list(reads("cells", 1, x, False)), "gates": list(reads("gates", 1, x, False)),
            "outputs": list(reads("outputs", p + 1, x + named("cells", 1), False))}


EVERY = ["cells", "gates", "outputs"]
WRITTEN_OUT_1997 = [
    memory_blocks(7, 7, 4, 1, ["gates"]), memory_blocks(7, 7, 3, 2, ["gates"]),
    *map(one_hidden_unit, (4, 10, 100)), one_hidden_unit(100, extra=1), one_cell(100),
    *(memory_blocks(4 + q, 2, 2, 1, []) for q in (50, 100, 200, 500, 1000)),
    memory_blocks(1, 1, 3, 1, ["cells", "gates"]), memory_blocks(2, 1, 2, 2, EVERY),
    memory_blocks(8, 4, 2, 2, EVERY), memory_blocks(8, 8, 3, 2, EVERY)]


def test_the_networks_of_1997_and_2000_have_as_many_weights_as_published():
    assert [wiring.parameters(net) for net in wiring.NETS_1997.values()] == PAPER_1997
    assert wiring.parameters(wiring.NET_2000) == PAPER_2000


def test_the_networks_of_1997_are_those_written_out():
    for (name, net), layers in zip(wiring.NETS_1997.items(), WRITTEN_OUT_1997, strict=True):
        assert {layer: counted(maps) for layer, maps in net.items()} == {
            layer: count(connections) for layer, connections in layers.items()}, name


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 3, 5, 7), (7, 2, 3, 1)])
@pytest.mark.parametrize("biased", [[], ["cells"], ["gates"], ["outputs"], EVERY])
@pytest.mark.parametrize("gates, gates_are_read, shortcut", [
    (2, True, False), (3, True, False), (3, False, True), (2, False, False), (2, True, True)])
def test_memory_blocks_are_counted_as_written_out(sizes, biased, gates, gates_are_read, shortcut):
    options = biased, gates, gates_are_read, shortcut
    net, by_hand = wiring.lstm(*sizes, *options), memory_blocks(*sizes, *options)
    assert {layer: counted(maps) for layer, maps in net.items()} == {
        layer: count(connections) for layer, connections in by_hand.items()}


def test_wrong_wirings_of_1997_and_2000_give_other_totals():
    right = {"gates": 3, "gates_are_read": False, "shortcut": True}
    for wrong in ({"gates": 2}, {"gates_are_read": True}, {"shortcut": False}):
        assert wiring.parameters(wiring.lstm(7, 7, 4, 2, ["gates", "outputs"], **{**right, **wrong})) != PAPER_2000
    for biased in ([], ["gates"], ["outputs"], EVERY):
        assert wiring.parameters(wiring.lstm(7, 7, 4, 2, biased, **right)) != PAPER_2000
    for biased in ([], ["cells"], ["outputs"], EVERY):
        assert wiring.parameters(wiring.lstm(7, 7, 4, 1, biased)) != PAPER_1997[0]
    assert wiring.parameters(wiring.lstm(7, 7, 4, 1, ["gates"], gates_are_read=False)) == PAPER_1997[0] - 12 * 8


# ------------------------------------------------------------------------------------------------ nn

def parameters_of(model):
    return sum(p.size for p in model.params.values())


def connections_of(model, shape):
    """Pairs of an output and a pixel that changes it, and the outputs that zeros do not leave at zero.

    Holds for linear layers whose kernels stay inside the image.
    """
    pixels = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    constant = model.forward(np.zeros((1, *shape)))
    return int((model.forward(pixels) != constant).sum() + (constant != 0).sum())


@pytest.mark.parametrize("C, F, kernel, image, stride, groups, bias", [
    (1, 6, (5, 5), (7, 9), 1, 1, True), (3, 4, (3, 2), (6, 5), (2, 1), 1, True), (4, 6, (2, 3), (5, 5), 1, 2, True),
    (3, 6, 2, (4, 5), 2, 3, True), (2, 3, (1, 1), (3, 2), 1, 1, True)])
def test_convolution_counts_as_a_conv2d(C, F, kernel, image, stride, groups, bias):
    layer = nn.Conv2d(C, F, kernel, stride, groups=groups, bias=bias, rng=np.random.default_rng(0))
    out = layer.forward(np.zeros((1, C, *image))).shape[2:]
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    reads = [range(f // (F // groups) * (C // groups), (f // (F // groups) + 1) * (C // groups)) for f in range(F)]
    maps = wiring.convolution(reads, size, out)
    assert counted(maps) == (parameters_of(layer), connections_of(layer, (C, *image)))


def test_a_masked_conv2d_counts_as_a_table():
    """Table I as zeros in the weights of a full convolution."""
    layer = nn.Conv2d(6, 16, 5, rng=np.random.default_rng(0))
    for m, reads in enumerate(wiring.C3_READS):
        layer.params["weight"][m, [c for c in range(6) if c not in reads]] = 0
    maps = wiring.convolution(wiring.C3_READS, (5, 5), (2, 3))
    trained = np.count_nonzero(layer.params["weight"]) + layer.params["bias"].size
    assert counted(maps) == (trained, connections_of(layer, (6, 6, 7)))
    assert wiring.parameters({"C3": maps}) == PAPER_5["C3"][0]


@pytest.mark.parametrize("kernel, image", [((2, 2), (6, 4)), ((3, 2), (6, 8))])
def test_subsampling_counts_as_an_average_pool_with_a_weight_and_a_bias_each(kernel, image):
    maps = 3
    model = nn.Sequential(nn.AvgPool2d(kernel), nn.Conv2d(maps, maps, 1, groups=maps, rng=np.random.default_rng(0)))
    layer = wiring.subsampling(maps, kernel, (image[0] // kernel[0], image[1] // kernel[1]))
    assert counted(layer) == (parameters_of(model), connections_of(model, (maps, *image)))


@pytest.mark.parametrize("units, inputs", [(1, 1), (3, 7), (10, 30)])
def test_fully_connected_counts_as_a_linear_layer(units, inputs):
    layer = nn.Linear(inputs, units, rng=np.random.default_rng(0))
    assert counted(wiring.fully_connected(units, inputs)) == (parameters_of(layer), connections_of(layer, (inputs,)))


@pytest.mark.parametrize("D, H", [(1, 1), (3, 5), (7, 2)])
def test_blocks_of_one_cell_with_three_gates_count_as_an_lstm_of_today(D, H):
    """Whose gates read no gates, but which has two bias vectors, where one would do."""
    net = wiring.lstm(D, 0, H, 1, ["cells", "gates"], gates=3, gates_are_read=False)
    assert wiring.parameters(net) == parameters_of(nn.LSTM(D, H, rng=np.random.default_rng(0))) - 4 * H


def test_a_whole_lenet_counts_as_its_wiring():
    """Without padding there is nothing to guess; our own LeNet pads, so only its parameters are compared."""
    model = nn.LeNet((2, 12, 8), 5, (3, 4), 6, rng=np.random.default_rng(0))
    net = {"0": wiring.convolution([2] * 3, (3, 3), (12, 8)), "3": wiring.convolution([3] * 4, (3, 3), (6, 4)),
           "7": wiring.fully_connected(6, 4 * 3 * 2), "10": wiring.fully_connected(5, 6)}
    assert wiring.parameters(net) == parameters_of(model)
    for layer, maps in net.items():
        assert wiring.parameters({layer: maps}) == sum(p.size for key, p in model.params.items()
                                                       if key.split(".")[0] == layer)


def test_lenet_5_without_its_table_has_the_parameters_of_a_sequential():
    """C1, C5 and F6 as layers of today; S2 and S4 as averages with a weight and a bias; C3 reads everything."""
    rng = np.random.default_rng(0)

    def subsample(maps):
        return nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(maps, maps, 1, groups=maps, rng=rng))

    model = nn.Sequential(nn.Conv2d(1, 6, 5, rng=rng), subsample(6), nn.Conv2d(6, 16, 5, rng=rng), subsample(16),
                          nn.Conv2d(16, 120, 5, rng=rng), nn.Flatten(), nn.Linear(120, 84, rng=rng))
    assert model.forward(np.zeros((1, 1, 32, 32))).shape == (1, 84)
    full = {**wiring.LENET_5, "C3": wiring.convolution([6] * 16, (5, 5), (10, 10))}
    assert parameters_of(model) == wiring.parameters(full) == 60_900
    by_layer = [sum(p.size for p in model[i].params.values()) for i in (0, 1, 2, 3, 4, 6)]
    assert by_layer == [wiring.parameters({"": full[name]}) for name in ("C1", "S2", "C3", "S4", "C5", "F6")]
