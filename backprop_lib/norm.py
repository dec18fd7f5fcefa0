r"""Batch and layer normalisation: equations (NORM-1) to (NORM-29), derived in notebooks/05c_normalisation.ipynb.

Every function is pure: nothing passed in is changed, and a cache can be used twice. Arrays are floats: integers and
lists raise a TypeError. Images and sequences become rows first, one channel a column: see `nn.BatchNorm2d`.
"""

from typing import NamedTuple

import numpy as np

from .checks import float_arrays, require_batch, require_cotangent, require_norm


# ------------------------------------------------------------------------------------------------ batch norm

class BatchNormCache(NamedTuple):
    mu: np.ndarray
    a: np.ndarray
    var: np.ndarray
    std: np.ndarray
    xhat: np.ndarray
    gamma: np.ndarray


@float_arrays
def batch_norm_forward(x, gamma, beta, eps=1e-5):
    """In training: each column to mean 0 and variance 1 over the batch, then scaled by gamma and shifted by beta.

    Shapes: x (N, D), gamma (D), beta (D), eps () in [0, 1) -> y (N, D)
    The variance is that of the batch, divided by N; eps keeps the root from 0. Raises ValueError for N < 2, a negative
    eps, or shapes that do not fit.
    Source: Ioffe and Szegedy 2015, "Batch normalization", algorithm 1.
    """
    require_norm("batch_norm_forward", x, eps, gamma=gamma, beta=beta)
    require_batch("batch_norm_forward", x)
    mu = x.mean(axis=0)                                         # (NORM-1)
    a = x - mu                                                  # (NORM-2)
    var = (a**2).mean(axis=0)                                   # (NORM-3)
    std = np.sqrt(var + eps)                                    # (NORM-4)
    xhat = a / std                                              # (NORM-5)
    y = gamma * xhat + beta                                     # (NORM-6)
    return y, BatchNormCache(mu, a, var, std, xhat, gamma)


def batch_norm_backward(dy, cache):
    """Every example has a part in the mean and in the variance, so every dy reaches every row of dx.

    Shapes: dy (N, D) -> dx (N, D), dgamma (D), dbeta (D)
    Raises ValueError if dy has not the shape of y.
    """
    _, a, _, std, xhat, gamma = cache
    require_cotangent("batch_norm_backward", "dy", dy, a.shape)
    N = len(a)
    dgamma = (dy * xhat).sum(axis=0)                            # (NORM-7)
    dbeta = dy.sum(axis=0)                                      # (NORM-8)
    dxhat = dy * gamma                                          # (NORM-9)
    dstd = -(dxhat * xhat).sum(axis=0) / std                    # (NORM-10)
    dvar = dstd / (2 * std)                                     # (NORM-11)
    da = dxhat / std + 2 * a * dvar / N                         # (NORM-12)
    dmu = -da.sum(axis=0)                                       # (NORM-13)
    dx = da + dmu / N                                           # (NORM-14)
    return dx, dgamma, dbeta


# ------------------------------------------------------------------------------------------------ in evaluation

@float_arrays
def running_statistics(running_mean, running_var, mu, var, count, momentum):
    """The running mean and variance after one more batch; nothing is backpropagated through them.

    Shapes: running_mean (D), running_var (D), mu (D), var (D), count () in 2..9, momentum () in [0, 1)
            -> new_mean (D), new_var (D)
    mu and var are those of a batch of `count` values per channel. Here, unlike in the batch itself, the variance is
    divided by count - 1. momentum is the weight of the new batch, as in PyTorch.
    """
    new_mean = (1 - momentum) * running_mean + momentum * mu    # (NORM-15)
    unbiased = count / (count - 1) * var
    new_var = (1 - momentum) * running_var + momentum * unbiased                            # (NORM-16)
    return new_mean, new_var


class BatchNormEvalCache(NamedTuple):
    std: np.ndarray
    xhat: np.ndarray
    gamma: np.ndarray


@float_arrays
def batch_norm_eval_forward(x, gamma, beta, running_mean, running_var, eps=1e-5):
    """In evaluation: with a mean and a variance that are given, so that no example sees another.

    Shapes: x (N, D), gamma (D), beta (D), running_mean (D), running_var (D) in [0.1, 2), eps () in [0, 1) -> y (N, D)
    Raises ValueError for a negative eps, or shapes that do not fit.
    """
    require_norm("batch_norm_eval_forward", x, eps, gamma=gamma, beta=beta, running_mean=running_mean,
                 running_var=running_var)
    std = np.sqrt(running_var + eps)                            # (NORM-17)
    xhat = (x - running_mean) / std                             # (NORM-18)
    y = gamma * xhat + beta
    return y, BatchNormEvalCache(std, xhat, gamma)


def batch_norm_eval_backward(dy, cache):
    """Shapes: dy (N, D) -> dx (N, D), dgamma (D), dbeta (D)"""
    std, xhat, gamma = cache
    require_cotangent("batch_norm_eval_backward", "dy", dy, xhat.shape)
    dx = dy * gamma / std                                       # (NORM-19)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


# ------------------------------------------------------------------------------------------------ layer norm

class LayerNormCache(NamedTuple):
    a: np.ndarray
    std: np.ndarray
    xhat: np.ndarray
    gamma: np.ndarray


@float_arrays
def layer_norm_forward(x, gamma, beta, eps=1e-5):
    """Each example to mean 0 and variance 1 over its own features, then scaled by gamma and shifted by beta.

    Shapes: x (N, D), gamma (D), beta (D), eps () in [0, 1) -> y (N, D)
    The same in training and in evaluation. Raises ValueError for a negative eps, or shapes that do not fit.
    Source: Ba, Kiros and Hinton 2016, "Layer normalization".
    """
    require_norm("layer_norm_forward", x, eps, gamma=gamma, beta=beta)
    mu = x.mean(axis=1)                                         # (NORM-20)
    a = x - mu[:, None]                                         # (NORM-21)
    var = (a**2).mean(axis=1)                                   # (NORM-22)
    std = np.sqrt(var + eps)                                    # (NORM-23)
    xhat = a / std[:, None]                                     # (NORM-24)
    y = gamma * xhat + beta
    return y, LayerNormCache(a, std, xhat, gamma)


def layer_norm_backward(dy, cache):
    """Shapes: dy (N, D) -> dx (N, D), dgamma (D), dbeta (D)"""
    a, std, xhat, gamma = cache
    require_cotangent("layer_norm_backward", "dy", dy, a.shape)
    D = a.shape[1]
    dxhat = dy * gamma
    dstd = -(dxhat * xhat).sum(axis=1) / std                    # (NORM-25)
    dvar = dstd / (2 * std)                                     # (NORM-26)
    da = dxhat / std[:, None] + 2 * a * dvar[:, None] / D       # (NORM-27)
    dmu = -da.sum(axis=1)                                       # (NORM-28)
    dx = da + dmu[:, None] / D                                  # (NORM-29)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)
