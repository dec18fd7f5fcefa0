"""Counting the parameters and connections of a network from its wiring, as the papers of the time did.

A unit computes one number; a connection is one number that a unit reads, its bias included; a parameter is trained and
may serve many connections. That is the point of a convolution: few parameters, many connections.
"""

from typing import NamedTuple


class Map(NamedTuple):
    """Units of one kind, which share their weights: what one of them reads."""
    units: int
    reads: int                                                  # inputs of one unit
    weights: int                                                # trained numbers behind them, shared by all units
    biases: int                                                 # trained biases of the map: 0, 1 or one a unit

    @property
    def parameters(self):
        return self.weights + self.biases

    @property
    def connections(self):
        return self.units*(self.reads + (self.biases > 0))


def convolution(table, kernel, image, own_biases=False):
    """A Map for each entry of `table`, which lists the incoming maps (or says how many) that it reads.

    kernel and image are (rows, columns), image that of the output; own_biases gives every unit its own.
    """
    taps, units = kernel[0]*kernel[1], image[0]*image[1]
    seen = [maps if isinstance(maps, int) else len(set(maps)) for maps in table]
    return tuple(Map(units, taps*n, taps*n, units if own_biases else 1) for n in seen)


def subsampling(maps, kernel, image):
    """The average of a window times one trained number, plus one bias: two parameters a map."""
    return (Map(image[0]*image[1], kernel[0]*kernel[1], 1, 1),)*maps


def fully_connected(units, inputs, bias=True):
    """Every unit reads everything with weights of its own."""
    return (Map(1, inputs, inputs, int(bias)),)*units


def fixed(units, inputs):
    """Units whose weights are written by hand and not trained."""
    return (Map(1, inputs, 0, 0),)*units


def lstm(inputs, outputs, blocks, size, biased=(), gates=2, gates_are_read=True, shortcut=False):
    """The layers "cells", "gates" and "outputs" of a network of memory blocks (Hochreiter and Schmidhuber 1997).

    A block has `size` cells, which share its gates: 2, or 3 with a forget gate. Cells and gates read the inputs, all
    cells and, if gates_are_read, all gates; outputs read the cells and, with a shortcut, the inputs. `biased` names the
    layers that have biases. Not counted are a cell's fixed connection to itself and what a gate multiplies.
    """
    cells, gated = blocks*size, blocks*gates
    hidden, last = inputs + cells + gates_are_read*gated, cells + shortcut*inputs
    return {"cells": fully_connected(cells, hidden, "cells" in biased),
            "gates": fully_connected(gated, hidden, "gates" in biased),
            "outputs": fully_connected(outputs, last, "outputs" in biased)}


def one_hidden_unit(inputs, outputs):
    """The layers "hidden" and "outputs": a unit that reads the inputs and itself, outputs that read both; no biases."""
    return {"hidden": fully_connected(1, inputs + 1, False), "outputs": fully_connected(outputs, inputs + 1, False)}


# LeCun et al. 1989, "Backpropagation applied to handwritten zip code recognition", section 3.
LENET_1989 = {
    "H1": convolution([1]*12, (5, 5), (8, 8), own_biases=True),
    "H2": convolution([8]*12, (5, 5), (4, 4), own_biases=True),
    "H3": fully_connected(30, 12*4*4),
    "output": fully_connected(10, 30),
}

# LeCun et al. 1998, "Gradient-based learning applied to document recognition", section II.B and table I.
C3_READS = [(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5),
            (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)]
LENET_5 = {
    "C1": convolution([1]*6, (5, 5), (28, 28)),
    "S2": subsampling(6, (2, 2), (14, 14)),
    "C3": convolution(C3_READS, (5, 5), (10, 10)),
    "S4": subsampling(16, (2, 2), (5, 5)),
    "C5": convolution([16]*120, (5, 5), (1, 1)),
    "F6": fully_connected(84, 120),
    "output": fixed(10, 84),
}

# Hochreiter and Schmidhuber 1997, "Long short-term memory", by number of the experiment; biases are those of table 10.
# CH, the chunker, is one of its two networks. The cell and the input gate of 2a read the inputs alone, its outputs the
# inputs and the cell.
BIASED = ("cells", "gates", "outputs")
NETS_1997 = {
    "1, 4 blocks of 1": lstm(7, 7, 4, 1, ["gates"]),
    "1, 3 blocks of 2": lstm(7, 7, 3, 2, ["gates"]),
    **{f"2a, RTRL, p = {p}": one_hidden_unit(p + 1, p + 1) for p in (4, 10, 100)},
    "2a, CH, p = 100": one_hidden_unit(101, 102),
    "2a, LSTM, p = 100": {"cells": fully_connected(1, 101, False), "gates": fully_connected(1, 101, False),
                          "outputs": fully_connected(101, 102, False)},
    **{f"2c, {q} distractors": lstm(q + 4, 2, 2, 1) for q in (50, 100, 200, 500, 1000)},
    "3": lstm(1, 1, 3, 1, ["cells", "gates"]),
    "4 and 5": lstm(2, 1, 2, 2, BIASED),
    "6a": lstm(8, 4, 2, 2, BIASED),
    "6b": lstm(8, 8, 3, 2, BIASED),
}

# Gers, Schmidhuber and Cummins 2000, "Learning to forget". The wiring is from memory, not looked up in the paper: it
# fits the number of weights, 424.
NET_2000 = lstm(7, 7, 4, 2, ["gates", "outputs"], gates=3, gates_are_read=False, shortcut=True)


def parameters(net):
    """Trained numbers of a network, a dict of layers."""
    return sum(m.parameters for layer in net.values() for m in layer)


def connections(net):
    """Numbers read by all units of a network, biases included."""
    return sum(m.connections for layer in net.values() for m in layer)
