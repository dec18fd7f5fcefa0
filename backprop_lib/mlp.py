r"""Multi-layer perceptron: equations (MLP-1) to (MLP-33).

(MLP-1) to (MLP-18) are derived in notebooks/01_mlp.ipynb, the others in notebooks/01b_activations_and_losses.ipynb.

Every function is pure: nothing passed in is changed, and a cache can be used twice. Rows are examples, weights are
(out, in). Arrays are floats: integers and lists raise a TypeError, and widths mix by NumPy's promotion rules (the
objects of `backprop_lib.nn` refuse to mix).
The 1/N of a mean stands in the losses and nowhere else. `dloss` is the derivative of the final loss with respect to
the value the forward function returned: 1 when nothing follows, a weight when several terms are added.
"""

from typing import NamedTuple

import numpy as np

from .checks import float_arrays, require_fraction, require_labels, require_mask, require_same_shape


# ------------------------------------------------------------------------------------------------ linear

class LinearCache(NamedTuple):
    x: np.ndarray
    W: np.ndarray


@float_arrays
def linear_forward(x, W, b):
    """Affine map, one example per row.

    Shapes: x (N, D), W (H, D), b (H) -> z (N, H)
    """
    z = x @ W.T + b                                             # (MLP-1)
    return z, LinearCache(x, W)


def linear_backward(dz, cache):
    """Shapes: dz (N, H) -> dx (N, D), dW (H, D), db (H)"""
    x, W = cache
    dx = dz @ W                                                 # (MLP-2)
    dW = dz.T @ x                                               # (MLP-3)
    db = dz.sum(axis=0)                                         # (MLP-4)
    return dx, dW, db


# ------------------------------------------------------------------------------------------------ squared error

class MSECache(NamedTuple):
    y: np.ndarray
    t: np.ndarray


@float_arrays
def mse_forward(y, t):
    """Mean squared error over all entries, as in PyTorch; the target t is data and gets no gradient.

    Shapes: y (N, K), t (N, K) -> loss ()
    Raises ValueError if the shapes differ (nothing is broadcast) or if there is nothing to average.
    """
    require_same_shape("mse_forward", y, t)
    loss = ((y - t)**2).mean()                                  # (MLP-5)
    return loss, MSECache(y, t)


def mse_backward(dloss, cache):
    """Shapes: dloss () -> dy (N, K)"""
    y, t = cache
    dy = dloss * 2 * (y - t) / y.size                           # (MLP-6)
    return dy


# ------------------------------------------------------------------------------------------------ activations

def sigmoid(z):
    """1 / (1 + exp(-z)) by the branch that never overflows and keeps both tails exact."""
    e = np.exp(np.where(z.real >= 0, -z, z))
    return np.where(z.real >= 0, 1, e) / (1 + e)


class SigmoidCache(NamedTuple):
    h: np.ndarray


@float_arrays
def sigmoid_forward(z):
    """Logistic function of each entry, of an array of any shape.

    Shapes: z (N, H) -> h (N, H)
    """
    h = sigmoid(z)                                              # (MLP-7)
    return h, SigmoidCache(h)


def sigmoid_backward(dh, cache):
    """Shapes: dh (N, H) -> dz (N, H)"""
    h, = cache
    dz = dh * h * (1 - h)                                       # (MLP-8)
    return dz


class TanhCache(NamedTuple):
    h: np.ndarray


@float_arrays
def tanh_forward(z):
    """Hyperbolic tangent of each entry, of an array of any shape.

    Shapes: z (N, H) -> h (N, H)
    """
    h = np.tanh(z)                                              # (MLP-9)
    return h, TanhCache(h)


def tanh_backward(dh, cache):
    """Shapes: dh (N, H) -> dz (N, H)"""
    h, = cache
    dz = dh * (1 - h**2)                                        # (MLP-10)
    return dz


class ReLUCache(NamedTuple):
    z: np.ndarray


@float_arrays
def relu_forward(z):
    """max(0, z) of each entry, of an array of any shape. NaN stays NaN.

    Shapes: z (N, H) -> h (N, H)
    """
    h = np.where(z.real <= 0, 0, z)                             # (MLP-11)
    return h, ReLUCache(z)


def relu_backward(dh, cache):
    """The derivative at 0 is taken to be 0, as in PyTorch; NaN lets the gradient through.

    Shapes: dh (N, H) -> dz (N, H)
    """
    z, = cache
    dz = np.where(z.real <= 0, 0, dh)                           # (MLP-12)
    return dz


# ------------------------------------------------------------------------------------------------ softmax

class SoftmaxCache(NamedTuple):
    p: np.ndarray


@float_arrays
def softmax_forward(z):
    """Probabilities over the last axis; the row maximum is subtracted first, so nothing overflows.

    Shapes: z (N, K) -> p (N, K)
    """
    e = np.exp(z - z.real.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)                       # (MLP-13)
    return p, SoftmaxCache(p)


def softmax_backward(dp, cache):
    """The full Jacobian of every row times dp, without building it.

    Shapes: dp (N, K) -> dz (N, K)
    """
    p, = cache
    dz = p * (dp - (dp * p).sum(axis=-1, keepdims=True))        # (MLP-14)
    return dz


class CrossEntropyCache(NamedTuple):
    p: np.ndarray
    t: np.ndarray


@float_arrays
def softmax_cross_entropy_forward(z, t):
    """Mean of -log softmax(z) at the target class, by log-sum-exp: finite for any finite z.

    Shapes: z (N, K), t (N) in 0..K-1 -> loss ()
    Raises TypeError if t is not of integers, ValueError if its shape is not (N,) or N = 0, IndexError for a class
    outside 0..K-1: a negative class does not count from the end.
    """
    require_labels("softmax_cross_entropy_forward", t, z.shape)
    shifted = z - z.real.max(axis=1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))     # (MLP-15)
    p = np.exp(logp)                                            # (MLP-16)
    loss = -logp[np.arange(len(t)), t].mean()                   # (MLP-17)
    return loss, CrossEntropyCache(p, t)


def softmax_cross_entropy_backward(dloss, cache):
    """Shapes: dloss () -> dz (N, K)"""
    p, t = cache
    N, K = p.shape
    dz = dloss / N * (p - (np.arange(K) == t[:, None]))         # (MLP-18)
    return dz


# ------------------------------------------------------------------------------------------------ more activations

class LeakyReLUCache(NamedTuple):
    z: np.ndarray
    alpha: float


@float_arrays
def leaky_relu_forward(z, alpha=0.01):
    """z where z > 0, alpha z elsewhere, of an array of any shape.

    Shapes: z (N, H), alpha () in [0, 1) -> h (N, H)
    """
    h = np.where(z.real > 0, z, alpha * z)                      # (MLP-19)
    return h, LeakyReLUCache(z, alpha)


def leaky_relu_backward(dh, cache):
    """The derivative at 0 is taken to be alpha, as in PyTorch.

    Shapes: dh (N, H) -> dz (N, H)
    """
    z, alpha = cache
    dz = np.where(z.real > 0, dh, alpha * dh)                   # (MLP-20)
    return dz


def softplus(z):
    """log(1 + exp(z)) without overflow."""
    positive = z.real > 0
    return np.where(positive, z, 0) + np.log1p(np.exp(np.where(positive, -z, z)))


class SoftplusCache(NamedTuple):
    z: np.ndarray


@float_arrays
def softplus_forward(z):
    """log(1 + exp(z)) of each entry, of an array of any shape. PyTorch replaces it by z above 20; we do not.

    Shapes: z (N, H) -> h (N, H)
    """
    h = softplus(z)                                             # (MLP-21)
    return h, SoftplusCache(z)


def softplus_backward(dh, cache):
    """Shapes: dh (N, H) -> dz (N, H)"""
    z, = cache
    dz = dh * sigmoid(z)                                        # (MLP-22)
    return dz


class IdentityCache(NamedTuple):
    """Nothing is needed on the way back."""


@float_arrays
def identity_forward(z):
    """The linear activation of an array of any shape.

    Shapes: z (N, H) -> h (N, H)
    """
    h = z                                                       # (MLP-23)
    return h, IdentityCache()


def identity_backward(dh, cache):
    """Shapes: dh (N, H) -> dz (N, H)"""
    dz = dh                                                     # (MLP-24)
    return dz


# ------------------------------------------------------------------------------------------------ binary cross-entropy

class BCECache(NamedTuple):
    y: np.ndarray
    t: np.ndarray


@float_arrays
def sigmoid_bce_forward(z, t):
    """Mean over all entries of the binary cross-entropy of sigmoid(z) against t, from the logits z.

    Shapes: z (N, K), t (N, K) in [0, 1) -> loss ()
    Raises ValueError if the shapes differ, if a target lies outside [0, 1] or if there is nothing to average.
    """
    require_same_shape("sigmoid_bce_forward", z, t)
    require_fraction("sigmoid_bce_forward", t)
    y = sigmoid(z)                                              # (MLP-25)
    loss = (t * softplus(-z) + (1 - t) * softplus(z)).mean()    # (MLP-26)
    return loss, BCECache(y, t)


def sigmoid_bce_backward(dloss, cache):
    """Shapes: dloss () -> dz (N, K)"""
    y, t = cache
    dz = dloss * (y - t) / y.size                               # (MLP-27)
    return dz


# ------------------------------------------------------------------------------------------------ penalties and dropout

class PenaltyCache(NamedTuple):
    W: np.ndarray
    lam: float


@float_arrays
def l2_penalty_forward(W, lam):
    """lam / 2 times the sum of squares, of an array of any shape: one gradient step multiplies W by 1 - lr lam.

    Shapes: W (H, D), lam () in [0, 1) -> loss ()
    """
    loss = (lam / 2 * W**2).sum()                               # (MLP-28)
    return loss, PenaltyCache(W, lam)


def l2_penalty_backward(dloss, cache):
    """Shapes: dloss () -> dW (H, D)"""
    W, lam = cache
    dW = dloss * lam * W                                        # (MLP-29)
    return dW


@float_arrays
def l1_penalty_forward(W, lam):
    """lam times the sum of absolute values, of an array of any shape.

    Shapes: W (H, D), lam () in [0, 1) -> loss ()
    """
    loss = (lam * W * np.sign(W.real)).sum()                    # (MLP-30)
    return loss, PenaltyCache(W, lam)


def l1_penalty_backward(dloss, cache):
    """The derivative of |W| at 0 is taken to be 0.

    Shapes: dloss () -> dW (H, D)
    """
    W, lam = cache
    dW = dloss * lam * np.sign(W)                               # (MLP-31)
    return dW


class DropoutCache(NamedTuple):
    mask: np.ndarray
    p: float


@float_arrays
def dropout_forward(h, mask, p):
    """Inverted dropout: keep h where mask is 1, and divide by the chance 1 - p of being kept, so the mean stays.

    Shapes: h (N, H), mask (N, H) in 0..1, p () in [0, 1) -> y (N, H)
    Raises ValueError if the mask has another shape or p lies outside [0, 1).
    """
    require_mask("dropout_forward", h, mask, p)
    mask = np.asarray(mask, h.real.dtype)                       # integers would widen float32
    y = h * mask / (1 - p)                                      # (MLP-32)
    return y, DropoutCache(mask, p)


def dropout_backward(dy, cache):
    """Shapes: dy (N, H) -> dh (N, H)"""
    mask, p = cache
    dh = dy * mask / (1 - p)                                    # (MLP-33)
    return dh
