"""The equations of backprop_lib/mlp.py."""

from sympy import Abs, Eq, Max, Piecewise, exp, log, sign, tanh

from .. import mlp
from .language import arrays, as_written, indices, numbers, one_if, pair, size, total


n, d, h, k, k2 = indices("n d h k k'")
N, K = size(n), size(k)
x, W, b, z, t, y, p, logp, mask = arrays("x W b z t y p logp mask")
dx, dW, db, dz, dy, dp, dh = arrays("dx dW db dz dy dp dh")
a = arrays("h")[0]                                              # the activation h: the index letter has its name
loss, dloss, alpha, lam, rate = numbers("loss dloss alpha lam p")

# How names of more than one letter are set; dX is always the derivative of L with respect to X.
TEX = {"loss": r"\ell", "logp": r"\log p", "alpha": r"\alpha", "lam": r"\lambda", "mask": "m"}

with as_written():
    PAIRS = [
        pair(mlp.linear_forward, mlp.linear_backward,
             [("MLP-1", z[n, h], total(W[h, d] * x[n, d], d) + b[h])],
             [("MLP-2", dx[n, d], total(dz[n, h] * W[h, d], h)),
              ("MLP-3", dW[h, d], total(dz[n, h] * x[n, d], n)),
              ("MLP-4", db[h], total(dz[n, h], n))]),
        pair(mlp.mse_forward, mlp.mse_backward,
             [("MLP-5", loss, 1 / (N * K) * total((y[n, k] - t[n, k])**2, n, k))],
             [("MLP-6", dy[n, k], dloss * (2 / (N * K)) * (y[n, k] - t[n, k]))]),
        pair(mlp.sigmoid_forward, mlp.sigmoid_backward,
             [("MLP-7", a[n, h], 1 / (1 + exp(-z[n, h])))],
             [("MLP-8", dz[n, h], dh[n, h] * (a[n, h] * (1 - a[n, h])))]),
        pair(mlp.tanh_forward, mlp.tanh_backward,
             [("MLP-9", a[n, h], tanh(z[n, h]))],
             [("MLP-10", dz[n, h], dh[n, h] * (1 - a[n, h]**2))]),
        pair(mlp.relu_forward, mlp.relu_backward,
             [("MLP-11", a[n, h], Max(0, z[n, h]))],
             [("MLP-12", dz[n, h], dh[n, h] * one_if(z[n, h] > 0))]),
        pair(mlp.softmax_forward, mlp.softmax_backward,
             [("MLP-13", p[n, k], exp(z[n, k]) / total(exp(z[n, k2]), k2))],
             [("MLP-14", dz[n, k], p[n, k] * (dp[n, k] - total(dp[n, k2] * p[n, k2], k2)))]),
        pair(mlp.softmax_cross_entropy_forward, mlp.softmax_cross_entropy_backward,
             [("MLP-15", logp[n, k], z[n, k] - log(total(exp(z[n, k2]), k2))),
              ("MLP-16", p[n, k], exp(logp[n, k])),
              ("MLP-17", loss, -(1 / N) * total(logp[n, t[n]], n))],
             [("MLP-18", dz[n, k], dloss * (1 / N) * (p[n, k] - one_if(Eq(k, t[n]))))]),
        pair(mlp.leaky_relu_forward, mlp.leaky_relu_backward,
             [("MLP-19", a[n, h], Piecewise((z[n, h], z[n, h] > 0), (alpha * z[n, h], True)))],
             [("MLP-20", dz[n, h], dh[n, h] * Piecewise((1, z[n, h] > 0), (alpha, True)))]),
        pair(mlp.softplus_forward, mlp.softplus_backward,
             [("MLP-21", a[n, h], log(1 + exp(z[n, h])))],
             [("MLP-22", dz[n, h], dh[n, h] * (1 / (1 + exp(-z[n, h]))))]),
        pair(mlp.identity_forward, mlp.identity_backward,
             [("MLP-23", a[n, h], z[n, h])],
             [("MLP-24", dz[n, h], dh[n, h])]),
        pair(mlp.sigmoid_bce_forward, mlp.sigmoid_bce_backward,
             [("MLP-25", y[n, k], 1 / (1 + exp(-z[n, k]))),
              ("MLP-26", loss, 1 / (N * K) * total(t[n, k] * log(1 + exp(-z[n, k]))
                                                   + (1 - t[n, k]) * log(1 + exp(z[n, k])), n, k))],
             [("MLP-27", dz[n, k], dloss * (1 / (N * K)) * (y[n, k] - t[n, k]))]),
        pair(mlp.l2_penalty_forward, mlp.l2_penalty_backward,
             [("MLP-28", loss, lam / 2 * total(W[h, d]**2, h, d))],
             [("MLP-29", dW[h, d], dloss * lam * W[h, d])]),
        pair(mlp.l1_penalty_forward, mlp.l1_penalty_backward,
             [("MLP-30", loss, lam * total(Abs(W[h, d]), h, d))],
             [("MLP-31", dW[h, d], dloss * lam * sign(W[h, d]))]),
        pair(mlp.dropout_forward, mlp.dropout_backward,
             [("MLP-32", y[n, h], mask[n, h] * a[n, h] / (1 - rate))],
             [("MLP-33", dh[n, h], dy[n, h] * (mask[n, h] / (1 - rate)))]),
    ]
