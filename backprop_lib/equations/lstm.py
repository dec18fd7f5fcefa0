"""The equations of backprop_lib/lstm.py. Q = 4H counts the rows of the four gates, stacked: i, f, g, o."""

from sympy import Eq, exp, tanh

from .. import lstm
from .language import arrays, as_written, indices, instead, one_if, pair, size, total
from .rnn import SIZES, STATES, WEIGHTS  # noqa: F401  (the ledger reads SIZES here)


n, t, d, h, j, q = indices("n t d h j q")
H, J, Q = size(h), size(j), size(q)
x, h_prev, c_prev, W_ih, W_hh, b, z, i, f, g, o, c, m = arrays("x h_prev c_prev W_ih W_hh b z i f g o c m")
z_i, z_f, z_g, z_o, h0, c0, p, p_i, p_f, p_o = arrays("z_i z_f z_g z_o h0 c0 p p_i p_f p_o")
dx, dh_prev, dc_prev, dW_ih, dW_hh, db, dz = arrays("dx dh_prev dc_prev dW_ih dW_hh db dz")
di, df, dg, do, dc, dh, dc_next, dhs, dcs, dh0, dc0 = arrays("di df dg do dc dh dc_next dhs dcs dh0 dc0")
dz_i, dz_f, dz_g, dz_o, dp, dp_i, dp_f, dp_o = arrays("dz_i dz_f dz_g dz_o dp dp_i dp_f dp_o")
dW_ih_t, dW_hh_t, db_t = arrays("dW_ih_t dW_hh_t db_t")
a = arrays("h")[0]                                              # the state h: the index letter has its name

TEX = {**STATES, **WEIGHTS, "b_t": r"\tilde{b}", "c_prev": r"c^{\mathrm{prev}}", "c0": r"c^{\mathrm{start}}",
       "cs": r"c^{\mathrm{out}}", "c_next": r"c^{\mathrm{next}}",
       **{f"{name}_{gate}": f"{name}^{{{gate}}}" for name in "zp" for gate in "ifgo"}}


def sigmoid(e):
    return 1 / (1 + exp(-e))


with as_written():
    STEP = pair(
        lstm.lstm_step_forward, lstm.lstm_step_backward,
        [("LSTM-1", z[n, q], total(W_ih[q, d] * x[n, d], d) + total(W_hh[q, h] * h_prev[n, h], h) + b[q]),
         (None, z_i[n, h], z[n, h]),
         (None, z_f[n, h], z[n, H + h]),
         (None, z_g[n, h], z[n, 2 * H + h]),
         (None, z_o[n, h], z[n, 3 * H + h]),
         ("LSTM-2", i[n, h], sigmoid(z_i[n, h])),
         ("LSTM-3", f[n, h], sigmoid(z_f[n, h])),
         ("LSTM-4", g[n, h], tanh(z_g[n, h])),
         ("LSTM-5", o[n, h], sigmoid(z_o[n, h])),
         ("LSTM-6", c[n, h], f[n, h] * c_prev[n, h] + i[n, h] * g[n, h]),
         ("LSTM-7", m[n, h], tanh(c[n, h])),
         ("LSTM-8", a[n, h], o[n, h] * m[n, h])],
        [("LSTM-9", do[n, h], dh[n, h] * m[n, h]),
         ("LSTM-10", dc[n, h], dc_next[n, h] + dh[n, h] * o[n, h] * (1 - m[n, h]**2)),
         ("LSTM-11", di[n, h], dc[n, h] * g[n, h]),
         ("LSTM-12", df[n, h], dc[n, h] * c_prev[n, h]),
         ("LSTM-13", dg[n, h], dc[n, h] * i[n, h]),
         ("LSTM-14", dc_prev[n, h], dc[n, h] * f[n, h]),
         ("LSTM-15", dz_i[n, h], di[n, h] * (i[n, h] * (1 - i[n, h]))),
         ("LSTM-16", dz_f[n, h], df[n, h] * (f[n, h] * (1 - f[n, h]))),
         ("LSTM-17", dz_g[n, h], dg[n, h] * (1 - g[n, h]**2)),
         ("LSTM-18", dz_o[n, h], do[n, h] * (o[n, h] * (1 - o[n, h]))),
         (None, dz[n, q], dz_i[n, q - 0 * H] + dz_f[n, q - H] + dz_g[n, q - 2 * H] + dz_o[n, q - 3 * H]),
         ("LSTM-19", dx[n, d], total(dz[n, q] * W_ih[q, d], q)),
         ("LSTM-20", dh_prev[n, h], total(dz[n, q] * W_hh[q, h], q)),
         ("LSTM-21", dW_ih[q, d], total(dz[n, q] * x[n, d], n)),
         ("LSTM-22", dW_hh[q, h], total(dz[n, q] * h_prev[n, h], n)),
         ("LSTM-23", db[q], total(dz[n, q], n))],
        external={"c": "dc_next"}, sizes=[(Q, 4 * H)])

    PAIRS = [
        STEP,
        pair(lstm.lstm_forward, lstm.lstm_backward,
             [("LSTM-24", h_prev[n, t, h], a[n, t - 1, h] + one_if(Eq(t, 0)) * h0[n, h]),
              ("LSTM-25", c_prev[n, t, h], c[n, t - 1, h] + one_if(Eq(t, 0)) * c0[n, h])],
             [("LSTM-26", dh[n, t, h], dhs[n, t, h] + dh_prev[n, t + 1, h]),
              ("LSTM-27", dc_next[n, t, h], dcs[n, t, h] + dc_prev[n, t + 1, h]),
              ("LSTM-28", dW_ih[q, d], total(dW_ih_t[t, q, d], t)),
              ("LSTM-29", dW_hh[q, h], total(dW_hh_t[t, q, h], t)),
              ("LSTM-30", db[q], total(db_t[t, q], t)),
              ("LSTM-31", dh0[n, h], dh_prev[n, 0, h]),
              ("LSTM-32", dc0[n, h], dc_prev[n, 0, h])],
             step=STEP, external={"h": "dhs", "c": "dcs"}, sizes=[(Q, 4 * H)]),
        instead(STEP, lstm.peephole_lstm_step_forward, lstm.peephole_lstm_step_backward,
                [(None, p_i[h], p[0, h]),
                 (None, p_f[h], p[1, h]),
                 (None, p_o[h], p[2, h]),
                 ("LSTM-33", z_i[n, h], z[n, h] + p_i[h] * c_prev[n, h]),
                 ("LSTM-34", z_f[n, h], z[n, H + h] + p_f[h] * c_prev[n, h]),
                 ("LSTM-35", z_o[n, h], z[n, 3 * H + h] + p_o[h] * c[n, h])],
                [("LSTM-36", dc[n, h], dc_next[n, h] + dh[n, h] * o[n, h] * (1 - m[n, h]**2) + dz_o[n, h] * p_o[h]),
                 ("LSTM-37", dc_prev[n, h], dc[n, h] * f[n, h] + dz_i[n, h] * p_i[h] + dz_f[n, h] * p_f[h]),
                 ("LSTM-38", dp_i[h], total(dz_i[n, h] * c_prev[n, h], n)),
                 ("LSTM-39", dp_f[h], total(dz_f[n, h] * c_prev[n, h], n)),
                 ("LSTM-40", dp_o[h], total(dz_o[n, h] * c[n, h], n)),
                 (None, dp[j, h], one_if(Eq(j, 0)) * dp_i[h] + one_if(Eq(j, 1)) * dp_f[h]
                  + one_if(Eq(j, 2)) * dp_o[h])],
                sizes=[(J, 3)]),
    ]
