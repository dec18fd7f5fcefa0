"""The equations of backprop_lib/cnn.py.

Index 0 is for rows, 1 for columns: stride u, padding m, dilation e, output padding o. G is the number of groups, d a
channel within its group. A name reads 0 outside its axes: that is the padding, and it keeps each filter to its group.
"""

from sympy import Eq, Max, floor

from .. import cnn
from .language import arrays, as_written, indices, one_if, pair, product, size, total


n, c, d, f, g, h, i, j, p, q, r, s = indices("n c d f g h i j p q r s")
r2, s2 = indices("r' s'")
C, D, F, G, H, I, J, P, Q, R, S = map(size, (c, d, f, g, h, i, j, p, q, r, s))
u0, u1, m0, m1, e0, e1, o0, o1 = indices("u_0 u_1 m_0 m_1 e_0 e_1 o_0 o_1")
counted, = indices("a,")                                        # 1 if padding counts, else 0
x, w, W, b, y, windows, inside, win, count = arrays("x w W b y windows inside win count")
dx, dw, dW, db, dy, dwindows = arrays("dx dw dW db dy dwindows")

TEX = {"windows": r"\tilde{x}", "inside": r"\mathrm{in}", "win": r"\mathrm{win}", "count": r"\mathrm{count}"}
# Three, so that no letter can stand for another, nor a number for a letter, in all of them.
SIZES = ({"N": 3, "C": 3, "D": 1, "F": 3, "G": 3, "I": 4, "J": 6, "P": 5, "Q": 2, "R": 2, "S": 5, "groups": 3,
          "u_0": 1, "u_1": 2, "m_0": 1, "m_1": 2, "e_0": 3, "e_1": 1, "o_0": 0, "o_1": 0, "a": 0},
         {"N": 2, "C": 4, "D": 2, "F": 6, "G": 2, "I": 7, "J": 8, "P": 2, "Q": 4, "R": 4, "S": 4, "groups": 2,
          "u_0": 3, "u_1": 3, "m_0": 2, "m_1": 1, "e_0": 1, "e_1": 2, "o_0": 2, "o_1": 1, "a": 0},
         {"N": 3, "C": 4, "D": 2, "F": 6, "G": 2, "I": 8, "J": 3, "P": 2, "Q": 3, "R": 4, "S": 2, "groups": 2,
          "u_0": 2, "u_1": 1, "m_0": 0, "m_1": 1, "e_0": 1, "e_1": 1, "o_0": 0, "o_1": 0, "a": 1})

SLIDE = {"stride": (u0, u1), "padding": (m0, m1), "dilation": (e0, e1)}
POOL = {"kernel_size": (R, S), "stride": (u0, u1), "padding": (m0, m1)}
PLAIN = [(P, I - R + 1), (Q, J - S + 1)]

with as_written():
    row, column = u0 * p + e0 * r - m0, u1 * q + e1 * s - m1    # what tap r, s of window p, q reads
    hit = one_if(Eq(i, row)) * one_if(Eq(j, column))
    first = D * floor(f * G / F)                                # first channel of the group of filter f
    beats = (one_if(windows[n, c, p, q, r2, s2] > windows[n, c, p, q, r, s])
             + one_if(Eq(windows[n, c, p, q, r2, s2], windows[n, c, p, q, r, s])) * one_if(S * r + s > S * r2 + s2))

    UNFOLD = pair(
        cnn.unfold_forward, cnn.unfold_backward,
        [("CNN-8", P, floor((I + 2 * m0 - e0 * (R - 1) - 1) / u0) + 1),
         ("CNN-9", Q, floor((J + 2 * m1 - e1 * (S - 1) - 1) / u1) + 1),
         ("CNN-10", windows[n, c, p, q, r, s], x[n, c, row, column])],
        [("CNN-11", dx[n, c, i, j], total(dwindows[n, c, p, q, r, s] * hit, p, q, r, s))],
        options={"kernel_size": (R, S), **SLIDE})

    PAIRS = [
        pair(cnn.correlate1d_forward, cnn.correlate1d_backward,
             [("CNN-1", y[q], total(w[s] * x[q + s], s))],
             [("CNN-2", dx[j], total(w[s] * dy[j - s], s)),
              ("CNN-3", dw[s], total(dy[q] * x[q + s], q))],
             sizes=PLAIN[1:]),
        pair(cnn.correlate2d_forward, cnn.correlate2d_backward,
             [("CNN-4", y[n, f, p, q], total(W[f, c, r, s] * x[n, c, p + r, q + s], c, r, s) + b[f])],
             [("CNN-5", dx[n, c, i, j], total(W[f, c, r, s] * dy[n, f, i - r, j - s], f, r, s)),
              ("CNN-6", dW[f, c, r, s], total(dy[n, f, p, q] * x[n, c, p + r, q + s], n, p, q)),
              ("CNN-7", db[f], total(dy[n, f, p, q], n, p, q))],
             sizes=PLAIN),
        UNFOLD,
        pair(cnn.conv2d_forward, cnn.conv2d_backward,
             [("CNN-12", y[n, f, p, q],
               total(W[f, d, r, s] * windows[n, first + d, p, q, r, s], d, r, s) + b[f])],
             [("CNN-13", dwindows[n, c, p, q, r, s], total(W[f, c - first, r, s] * dy[n, f, p, q], f)),
              ("CNN-14", dW[f, d, r, s], total(dy[n, f, p, q] * windows[n, first + d, p, q, r, s], n, p, q)),
              ("CNN-15", db[f], total(dy[n, f, p, q], n, p, q))],
             options={"groups": G, **SLIDE}, inner=UNFOLD),
        pair(cnn.conv_transpose2d_forward, cnn.conv_transpose2d_backward,
             [("CNN-16", I, (P - 1) * u0 + e0 * (R - 1) + 1 - 2 * m0 + o0),
              ("CNN-17", J, (Q - 1) * u1 + e1 * (S - 1) + 1 - 2 * m1 + o1),
              ("CNN-18", windows[n, c, p, q, r, s], total(W[f, c - first, r, s] * x[n, f, p, q], f)),
              ("CNN-19", y[n, c, i, j], total(windows[n, c, p, q, r, s] * hit, p, q, r, s) + b[c])],
             [("CNN-20", dwindows[n, c, p, q, r, s], dy[n, c, row, column]),
              ("CNN-21", dx[n, f, p, q], total(W[f, c - first, r, s] * dwindows[n, c, p, q, r, s], c, r, s)),
              ("CNN-22", dW[f, d, r, s], total(x[n, f, p, q] * dwindows[n, first + d, p, q, r, s], n, p, q)),
              ("CNN-23", db[c], total(dy[n, c, i, j], n, i, j))],
             options={"groups": G, "output_padding": (o0, o1), **SLIDE}),
        pair(cnn.max_pool2d_forward, cnn.max_pool2d_backward,
             [("CNN-24", inside[p, q, r, s], total(hit, i, j)),
              ("CNN-25", win[n, c, p, q, r, s],
               inside[p, q, r, s] * product(1 - inside[p, q, r2, s2] * beats, r2, s2)),
              ("CNN-26", y[n, c, p, q], total(win[n, c, p, q, r, s] * windows[n, c, p, q, r, s], r, s))],
             [("CNN-27", dwindows[n, c, p, q, r, s], win[n, c, p, q, r, s] * dy[n, c, p, q])],
             options={"kernel_size": (R, S), **SLIDE}, inner=UNFOLD),
        pair(cnn.avg_pool2d_forward, cnn.avg_pool2d_backward,
             [("CNN-28", count[p, q], total(Max(counted, total(hit, i, j)), r, s)),
              ("CNN-29", y[n, c, p, q], 1 / count[p, q] * total(windows[n, c, p, q, r, s], r, s))],
             [("CNN-30", dwindows[n, c, p, q, r, s], 1 / count[p, q] * dy[n, c, p, q])],
             options={"count_include_pad": counted > 0, **POOL}, sizes=[(e0, 1), (e1, 1)], inner=UNFOLD),
        pair(cnn.global_avg_pool2d_forward, cnn.global_avg_pool2d_backward,
             [("CNN-31", y[n, c], 1 / (I * J) * total(x[n, c, i, j], i, j))],
             [("CNN-32", dx[n, c, i, j], 1 / (I * J) * dy[n, c])]),
        pair(cnn.flatten_forward, cnn.flatten_backward,
             [("CNN-33", y[n, h], total(x[n, c, i, j] * one_if(Eq(h, J * (I * c + i) + j)), c, i, j))],
             [("CNN-34", dx[n, c, i, j], dy[n, J * (I * c + i) + j])],
             sizes=[(H, C * I * J)]),
    ]
