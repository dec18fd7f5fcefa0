"""The equations of backprop_lib/rnn.py.

The sequence runs the step at every t, with h_prev what step t - 1 left: outside 0..T-1 every array reads 0. For the
proof each step has a copy of the weights of its own, W_ih_t; their sum over t is the gradient of the weights.
"""

from sympy import Eq, Max, exp, log, tanh

from .. import rnn
from .language import arrays, as_written, indices, instead, numbers, one_if, pair, total


n, t, d, h, h2, k, k2 = indices("n t d h h' k k'")
x, h_prev, W_ih, W_hh, b, z, h0, hs, logp, p = arrays("x h_prev W_ih W_hh b z h0 hs logp p")
dx, dh_prev, dW_ih, dW_hh, db, dz, dh, dhs, dh0 = arrays("dx dh_prev dW_ih dW_hh db dz dh dhs dh0")
dW_ih_t, dW_hh_t, db_t, lengths, targets, mask = arrays("dW_ih_t dW_hh_t db_t lengths targets mask")
a = arrays("h")[0]                                              # the state h: the index letter has its name
loss, dloss, kept = numbers("loss dloss kept")

SIZES = ({"N": 3, "T": 5, "D": 2, "H": 7, "K": 11}, {"N": 5, "T": 4, "D": 7, "H": 3, "K": 2})
STATES = {"h_prev": r"h^{\mathrm{prev}}", "h0": r"h^{\mathrm{start}}", "hs": r"h^{\mathrm{out}}"}
WEIGHTS = {"W_ih": "W^{ih}", "W_hh": "W^{hh}", "W_ih_t": r"\tilde{W}^{ih}", "W_hh_t": r"\tilde{W}^{hh}"}
TEX = {**STATES, **WEIGHTS, "b_t": r"\tilde{b}", "loss": r"\ell", "logp": r"\log p", "lengths": r"\mathrm{len}",
       "targets": r"\mathrm{target}", "mask": "m", "kept": r"\mathrm{kept}"}

with as_written():
    STEP = pair(
        rnn.rnn_step_forward, rnn.rnn_step_backward,
        [("RNN-1", z[n, h], total(W_ih[h, d] * x[n, d], d) + total(W_hh[h, h2] * h_prev[n, h2], h2) + b[h]),
         ("RNN-2", a[n, h], tanh(z[n, h]))],
        [("RNN-4", dz[n, h], dh[n, h] * (1 - a[n, h]**2)),
         ("RNN-6", dx[n, d], total(dz[n, h] * W_ih[h, d], h)),
         ("RNN-7", dh_prev[n, h], total(dz[n, h2] * W_hh[h2, h], h2)),
         ("RNN-8", dW_ih[h, d], total(dz[n, h] * x[n, d], n)),
         ("RNN-9", dW_hh[h, h2], total(dz[n, h] * h_prev[n, h2], n)),
         ("RNN-10", db[h], total(dz[n, h], n))],
        options={"nonlinearity": "tanh"})

    PAIRS = [
        STEP,
        instead(STEP, STEP.forward_function, STEP.backward_function,
                [("RNN-3", a[n, h], Max(0, z[n, h]))],
                [("RNN-5", dz[n, h], dh[n, h] * one_if(z[n, h] > 0))],
                options={"nonlinearity": "relu"}),
        pair(rnn.rnn_forward, rnn.rnn_backward,
             [("RNN-11", h_prev[n, t, h], a[n, t - 1, h] + one_if(Eq(t, 0)) * h0[n, h])],
             [("RNN-12", dh[n, t, h], dhs[n, t, h] + dh_prev[n, t + 1, h]),
              ("RNN-13", dW_ih[h, d], total(dW_ih_t[t, h, d], t)),
              ("RNN-14", dW_hh[h, h2], total(dW_hh_t[t, h, h2], t)),
              ("RNN-15", db[h], total(db_t[t, h], t)),
              ("RNN-16", dh0[n, h], dh_prev[n, 0, h])],
             step=STEP, external={"h": "dhs"}, options={"nonlinearity": "tanh"}),
        pair(rnn.last_step_forward, rnn.last_step_backward,
             [("RNN-17", a[n, h], hs[n, lengths[n] - 1, h])],
             [("RNN-18", dhs[n, t, h], dh[n, h] * one_if(Eq(t, lengths[n] - 1)))]),
        pair(rnn.sequence_cross_entropy_forward, rnn.sequence_cross_entropy_backward,
             [("RNN-19", logp[n, t, k], z[n, t, k] - log(total(exp(z[n, t, k2]), k2))),
              ("RNN-20", p[n, t, k], exp(logp[n, t, k])),
              ("RNN-21", kept, total(mask[n, t], n, t)),
              ("RNN-22", loss, -(1 / kept) * total(mask[n, t] * logp[n, t, targets[n, t]], n, t))],
             [("RNN-23", dz[n, t, k], dloss * (1 / kept) * (mask[n, t] * (p[n, t, k]
                                                                          - one_if(Eq(k, targets[n, t])))))]),
    ]
