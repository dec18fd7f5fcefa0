"""The equations of backprop_lib/gru.py. Q = 3H counts the rows of the three gates, stacked: r, z, n."""

from sympy import Eq, tanh

from .. import gru
from .language import arrays, as_written, indices, instead, one_if, pair, size, total
from .lstm import sigmoid
from .rnn import SIZES, STATES, WEIGHTS  # noqa: F401  (the ledger reads SIZES here)


e, t, d, h, h2, q = indices("n t d h h' q")                     # e is the example n: the candidate has its name
H, Q = size(h), size(q)
x, h_prev, W_ih, W_hh, b_ih, b_hh, a, u, r, z, n, h0 = arrays("x h_prev W_ih W_hh b_ih b_hh a u r z n h0")
a_r, a_z, a_n, u_r, u_z, u_n, s, W_r, W_z, W_n, b_r, b_z, b_n = arrays(
    "a_r a_z a_n u_r u_z u_n s W_r W_z W_n b_r b_z b_n")
dx, dh_prev, dW_ih, dW_hh, db_ih, db_hh, da, du, dr, dz = arrays("dx dh_prev dW_ih dW_hh db_ih db_hh da du dr dz")
dn, da_r, da_z, da_n, du_r, du_z, du_n, ds = arrays("dn da_r da_z da_n du_r du_z du_n ds")
dW_r, dW_z, dW_n = arrays("dW_r dW_z dW_n")
dh, dhs, dh0, dW_ih_t, dW_hh_t, db_ih_t, db_hh_t = arrays("dh dhs dh0 dW_ih_t dW_hh_t db_ih_t db_hh_t")
state = arrays("h")[0]                                          # the index letter has its name

TEX = {**STATES, **WEIGHTS, "n": r"\tilde{h}", "b_ih": "b^{ih}", "b_hh": "b^{hh}", "b_ih_t": r"\tilde{b}^{ih}",
       "b_hh_t": r"\tilde{b}^{hh}", **{f"{name}_{gate}": f"{name}^{{{gate}}}" for name in "auWb" for gate in "rzn"}}

with as_written():
    STEP = pair(
        gru.gru_step_forward, gru.gru_step_backward,
        [("GRU-1", a[e, q], total(W_ih[q, d] * x[e, d], d) + b_ih[q]),
         ("GRU-2", u[e, q], total(W_hh[q, h] * h_prev[e, h], h) + b_hh[q]),
         (None, a_r[e, h], a[e, h]),
         (None, a_z[e, h], a[e, H + h]),
         (None, a_n[e, h], a[e, 2 * H + h]),
         (None, u_r[e, h], u[e, h]),
         (None, u_z[e, h], u[e, H + h]),
         (None, u_n[e, h], u[e, 2 * H + h]),
         ("GRU-3", r[e, h], sigmoid(a_r[e, h] + u_r[e, h])),
         ("GRU-4", z[e, h], sigmoid(a_z[e, h] + u_z[e, h])),
         ("GRU-5", n[e, h], tanh(a_n[e, h] + r[e, h] * u_n[e, h])),
         ("GRU-6", state[e, h], (1 - z[e, h]) * n[e, h] + z[e, h] * h_prev[e, h])],
        [("GRU-7", dz[e, h], dh[e, h] * (h_prev[e, h] - n[e, h])),
         ("GRU-8", dn[e, h], dh[e, h] * (1 - z[e, h])),
         ("GRU-9", da_n[e, h], dn[e, h] * (1 - n[e, h]**2)),
         ("GRU-10", dr[e, h], da_n[e, h] * u_n[e, h]),
         ("GRU-11", du_n[e, h], da_n[e, h] * r[e, h]),
         ("GRU-12", da_r[e, h], dr[e, h] * (r[e, h] * (1 - r[e, h]))),
         ("GRU-13", da_z[e, h], dz[e, h] * (z[e, h] * (1 - z[e, h]))),
         (None, da[e, q], da_r[e, q - 0 * H] + da_z[e, q - H] + da_n[e, q - 2 * H]),
         (None, du[e, q], da_r[e, q - 0 * H] + da_z[e, q - H] + du_n[e, q - 2 * H]),
         ("GRU-14", dx[e, d], total(da[e, q] * W_ih[q, d], q)),
         ("GRU-15", dh_prev[e, h], dh[e, h] * z[e, h] + total(du[e, q] * W_hh[q, h], q)),
         ("GRU-16", dW_ih[q, d], total(da[e, q] * x[e, d], e)),
         ("GRU-17", dW_hh[q, h], total(du[e, q] * h_prev[e, h], e)),
         ("GRU-18", db_ih[q], total(da[e, q], e)),
         ("GRU-19", db_hh[q], total(du[e, q], e))],
        sizes=[(Q, 3 * H)])

    PAIRS = [
        STEP,
        pair(gru.gru_forward, gru.gru_backward,
             [("GRU-20", h_prev[e, t, h], state[e, t - 1, h] + one_if(Eq(t, 0)) * h0[e, h])],
             [("GRU-21", dh[e, t, h], dhs[e, t, h] + dh_prev[e, t + 1, h]),
              ("GRU-22", dW_ih[q, d], total(dW_ih_t[t, q, d], t)),
              ("GRU-23", dW_hh[q, h], total(dW_hh_t[t, q, h], t)),
              ("GRU-24", db_ih[q], total(db_ih_t[t, q], t)),
              ("GRU-25", db_hh[q], total(db_hh_t[t, q], t)),
              ("GRU-26", dh0[e, h], dh_prev[e, 0, h])],
             step=STEP, external={"h": "dhs"}, options={"reset_after": True}, sizes=[(Q, 3 * H)]),
        instead(STEP, gru.gru_before_step_forward, gru.gru_before_step_backward,
                [(None, W_r[h, h2], W_hh[h, h2]),
                 (None, W_z[h, h2], W_hh[H + h, h2]),
                 (None, W_n[h, h2], W_hh[2 * H + h, h2]),
                 (None, b_r[h], b_hh[h]),
                 (None, b_z[h], b_hh[H + h]),
                 (None, b_n[h], b_hh[2 * H + h]),
                 ("GRU-27", u_r[e, h], total(W_r[h, h2] * h_prev[e, h2], h2) + b_r[h]),
                 ("GRU-28", u_z[e, h], total(W_z[h, h2] * h_prev[e, h2], h2) + b_z[h]),
                 ("GRU-29", s[e, h], r[e, h] * h_prev[e, h]),
                 ("GRU-30", u_n[e, h], total(W_n[h, h2] * s[e, h2], h2) + b_n[h]),
                 ("GRU-31", n[e, h], tanh(a_n[e, h] + u_n[e, h]))],
                [(None, du_r[e, h], da_r[e, h]),
                 (None, du_z[e, h], da_z[e, h]),
                 (None, du_n[e, h], da_n[e, h]),
                 ("GRU-32", ds[e, h], total(da_n[e, h2] * W_n[h2, h], h2)),
                 ("GRU-33", dr[e, h], ds[e, h] * h_prev[e, h]),
                 ("GRU-34", dh_prev[e, h], dh[e, h] * z[e, h] + ds[e, h] * r[e, h]
                  + total(da_r[e, h2] * W_r[h2, h], h2) + total(da_z[e, h2] * W_z[h2, h], h2)),
                 ("GRU-35", dW_r[h, h2], total(da_r[e, h] * h_prev[e, h2], e)),
                 ("GRU-36", dW_z[h, h2], total(da_z[e, h] * h_prev[e, h2], e)),
                 ("GRU-37", dW_n[h, h2], total(da_n[e, h] * s[e, h2], e)),
                 (None, dW_hh[q, h], dW_r[q - 0 * H, h] + dW_z[q - H, h] + dW_n[q - 2 * H, h]),
                 (None, db_hh[q], total(da[e, q], e))],
                without=("u", "du")),
    ]
