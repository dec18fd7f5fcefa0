"""The equations of backprop_lib/embedding.py.

v is a word, t a place in the text or in the context, k a candidate. Both tables of word2vec have a row for each word.
"""

from sympy import Eq, exp, log

from .. import embedding
from .language import arrays, as_written, indices, instead, numbers, one_if, pair, size, total


n, t, v, v2, d, k = indices("n t v v' d k")
N, T = size(n), size(t)
x, W, W_in, W_out, h, z, y, logp, p = arrays("x W W_in W_out h z y logp p")
dx, dW, dW_in, dW_out, dh, dz = arrays("dx dW dW_in dW_out dh dz")
words, context, centre, candidates = arrays("words context centre candidates")
loss, dloss = numbers("loss dloss")

SIZES = ({"N": 3, "T": 5, "D": 2, "V": 7, "K": 11}, {"N": 5, "T": 2, "D": 3, "V": 11, "K": 7})
TEX = {"W_in": r"W^{\mathrm{in}}", "W_out": r"W^{\mathrm{out}}", "loss": r"\ell", "logp": r"\log p",
       "words": r"\mathrm{word}", "context": r"\mathrm{context}", "centre": r"\mathrm{centre}",
       "candidates": r"\mathrm{cand}"}

with as_written():
    CBOW = pair(
        embedding.cbow_forward, embedding.cbow_backward,
        [("EMB-3", h[n, d], 1 / T * total(W_in[context[n, t], d], t)),
         ("EMB-4", z[n, v], total(W_out[v, d] * h[n, d], d)),
         ("EMB-5", logp[n, v], z[n, v] - log(total(exp(z[n, v2]), v2))),
         ("EMB-6", p[n, v], exp(logp[n, v])),
         ("EMB-7", loss, -(1 / N) * total(logp[n, centre[n]], n))],
        [("EMB-8", dz[n, v], dloss * (1 / N) * (p[n, v] - one_if(Eq(v, centre[n])))),
         ("EMB-9", dW_out[v, d], total(dz[n, v] * h[n, d], n)),
         ("EMB-10", dh[n, d], total(dz[n, v] * W_out[v, d], v)),
         ("EMB-11", dW_in[v, d], 1 / T * total(one_if(Eq(v, context[n, t])) * dh[n, d], n, t))])

    SKIPGRAM = instead(
        CBOW, embedding.skipgram_forward, embedding.skipgram_backward,
        [("EMB-12", h[n, d], W_in[centre[n], d]),
         ("EMB-13", loss, -(1 / N) * total(logp[n, context[n, t]], n, t))],
        [("EMB-14", dz[n, v], dloss * (1 / N) * total(p[n, v] - one_if(Eq(v, context[n, t])), t)),
         ("EMB-15", dW_in[v, d], total(one_if(Eq(v, centre[n])) * dh[n, d], n))])

    PAIRS = [
        pair(embedding.embedding_forward, embedding.embedding_backward,
             [("EMB-1", x[n, t, d], W[words[n, t], d])],
             [("EMB-2", dW[v, d], total(one_if(Eq(v, words[n, t])) * dx[n, t, d], n, t))]),
        CBOW,
        SKIPGRAM,
        instead(SKIPGRAM, embedding.negative_sampling_forward, embedding.negative_sampling_backward,
                [("EMB-16", z[n, k], total(W_out[candidates[n, k], d] * h[n, d], d)),
                 ("EMB-17", y[n, k], 1 / (1 + exp(-z[n, k]))),
                 ("EMB-18", loss, 1 / N * (total(log(1 + exp(z[n, k])), n, k) - total(z[n, 0], n)))],
                [("EMB-19", dz[n, k], dloss * (1 / N) * (y[n, k] - one_if(Eq(k, 0)))),
                 ("EMB-20", dW_out[v, d], total(one_if(Eq(v, candidates[n, k])) * dz[n, k] * h[n, d], n, k)),
                 ("EMB-21", dh[n, d], total(dz[n, k] * W_out[candidates[n, k], d], k))],
                without=("logp", "p")),
    ]
