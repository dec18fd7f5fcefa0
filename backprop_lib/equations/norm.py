"""The equations of backprop_lib/norm.py. What batch norm averages over the examples n, layer norm over the features d.

The running statistics are functions without a gradient: M, the number of values per channel, stands for `count`.
"""

from sympy import sqrt

from .. import norm
from .language import arrays, as_written, indices, instead, numbers, pair, size, total


n, d, d2 = indices("n d d'")
N, D = size(n), size(d)
x, gamma, beta, mu, a, var, std, xhat, y = arrays("x gamma beta mu a var std xhat y")
dx, dgamma, dbeta, dmu, da, dvar, dstd, dxhat, dy = arrays("dx dgamma dbeta dmu da dvar dstd dxhat dy")
running_mean, running_var, new_mean, new_var = arrays("running_mean running_var new_mean new_var")
eps, count, momentum = numbers("eps count momentum")

TEX = {"gamma": r"\gamma", "beta": r"\beta", "mu": r"\mu", "var": r"\sigma^2", "std": "s", "xhat": r"\hat{x}",
       "eps": r"\varepsilon", "count": "M", "momentum": r"\alpha", "running_mean": r"\bar{\mu}",
       "running_var": r"\bar{\sigma}^2", "new_mean": r"\bar{\mu}^{\mathrm{new}}",
       "new_var": r"\bar{\sigma}^{2\,\mathrm{new}}"}

with as_written():
    BATCH = pair(
        norm.batch_norm_forward, norm.batch_norm_backward,
        [("NORM-1", mu[d], 1 / N * total(x[n, d], n)),
         ("NORM-2", a[n, d], x[n, d] - mu[d]),
         ("NORM-3", var[d], 1 / N * total(a[n, d]**2, n)),
         ("NORM-4", std[d], sqrt(var[d] + eps)),
         ("NORM-5", xhat[n, d], a[n, d] / std[d]),
         ("NORM-6", y[n, d], gamma[d] * xhat[n, d] + beta[d])],
        [("NORM-7", dgamma[d], total(dy[n, d] * xhat[n, d], n)),
         ("NORM-8", dbeta[d], total(dy[n, d], n)),
         ("NORM-9", dxhat[n, d], dy[n, d] * gamma[d]),
         ("NORM-10", dstd[d], -(1 / std[d]) * total(dxhat[n, d] * xhat[n, d], n)),
         ("NORM-11", dvar[d], dstd[d] * (1 / (2 * std[d]))),
         ("NORM-12", da[n, d], dxhat[n, d] * (1 / std[d]) + dvar[d] * (2 / N * a[n, d])),
         ("NORM-13", dmu[d], -total(da[n, d], n)),
         ("NORM-14", dx[n, d], da[n, d] + 1 / N * dmu[d])])

    PAIRS = [
        BATCH,
        pair(norm.running_statistics, None,
             [("NORM-15", new_mean[d], (1 - momentum) * running_mean[d] + momentum * mu[d]),
              ("NORM-16", new_var[d], (1 - momentum) * running_var[d] + momentum * (count / (count - 1)) * var[d])],
             []),
        instead(BATCH, norm.batch_norm_eval_forward, norm.batch_norm_eval_backward,
                [("NORM-17", std[d], sqrt(running_var[d] + eps)),
                 ("NORM-18", xhat[n, d], (x[n, d] - running_mean[d]) / std[d])],
                [("NORM-19", dx[n, d], dy[n, d] * (gamma[d] / std[d]))],
                without=("mu", "a", "var", "dxhat", "dstd", "dvar", "da", "dmu")),
        instead(BATCH, norm.layer_norm_forward, norm.layer_norm_backward,
                [("NORM-20", mu[n], 1 / D * total(x[n, d], d)),
                 ("NORM-21", a[n, d], x[n, d] - mu[n]),
                 ("NORM-22", var[n], 1 / D * total(a[n, d]**2, d)),
                 ("NORM-23", std[n], sqrt(var[n] + eps)),
                 ("NORM-24", xhat[n, d], a[n, d] / std[n])],
                [("NORM-25", dstd[n], -(1 / std[n]) * total(dxhat[n, d] * xhat[n, d], d)),
                 ("NORM-26", dvar[n], dstd[n] * (1 / (2 * std[n]))),
                 ("NORM-27", da[n, d], dxhat[n, d] * (1 / std[n]) + dvar[n] * (2 / D * a[n, d])),
                 ("NORM-28", dmu[n], -total(da[n, d], d)),
                 ("NORM-29", dx[n, d], da[n, d] + 1 / D * dmu[n])]),
    ]
