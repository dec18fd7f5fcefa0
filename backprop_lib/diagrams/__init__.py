"""What the course draws by hand: networks, graphs, convolutions, networks unrolled through time, and their cells.

Circles hold values, arrows run forward in blue and, beside them, backward in dashed vermillion, with the gradient in
a dashed box or a formula. The numbers in a picture are computed by the functions it shows.
"""

from .convolution import convolution_axes, draw_convolution, draw_taps
from .network import draw_network, network_axes, network_pass
from .records import draw_graph, draw_record, draw_two_sided
from .recurrent import draw_gru_cell, draw_lstm_cell, draw_lstm_roads, draw_unrolled
from .strokes import SUBSCRIPTS


__all__ = [
    "SUBSCRIPTS", "convolution_axes", "draw_convolution", "draw_graph", "draw_gru_cell", "draw_lstm_cell",
    "draw_lstm_roads", "draw_network", "draw_record", "draw_taps", "draw_two_sided", "draw_unrolled",
    "network_axes", "network_pass",
]
