"""Affine maps, tables of vectors, and layers that go entry by entry or reshape."""

import numpy as np

from .. import cnn, embedding, init, mlp
from ..checks import require_dtype, require_generator, require_number, require_size, require_words
from ..fast import tuned
from .layer import Layer


# ------------------------------------------------------------------------------------------------ linear

class Linear(Layer):
    """z = x W^T + b, with parameters "weight" (out_features, in_features) and "bias" (out_features).

    Shapes: x (N, D) -> z (N, H); there may be axes between: (N, T, D) -> (N, T, H)

    Both start uniform on +-1/sqrt(in_features), as in PyTorch.
    """

    def __init__(self, in_features, out_features, bias=True, *, rng, dtype=np.float64):
        D = self.in_features = require_size("Linear", "in_features", in_features)
        H = self.out_features = require_size("Linear", "out_features", out_features)
        require_generator("Linear", rng)
        dtype = require_dtype("Linear", dtype)
        params = {"weight": init.fan_in_uniform(rng, (H, D), dtype=dtype)}
        if bias:
            params["bias"] = init.fan_in_uniform(rng, (H,), fan_in=D, dtype=dtype)
        super().__init__(params, dtype)

    def check(self, x):
        super().check(x)
        if x.ndim < 2 or x.shape[-1] != self.in_features:
            raise ValueError(f"{self.name}: x must have shape (N, {self.in_features}), got {x.shape}; there may be "
                             "axes between the two")

    def compute(self, x):
        b = self.params["bias"] if "bias" in self.params else np.zeros(self.out_features, self.dtype)
        z, cache = tuned(mlp.linear_forward)(x.reshape(-1, self.in_features), self.params["weight"], b)
        return z.reshape(*x.shape[:-1], self.out_features), cache

    def compute_gradients(self, dy, cache):
        dx, dW, db = tuned(mlp.linear_backward, cache)(dy.reshape(-1, self.out_features), cache)
        grads = {"weight": dW, "bias": db}
        return dx.reshape(*dy.shape[:-1], self.in_features), {name: grads[name] for name in self.shapes}


# ------------------------------------------------------------------------------------------------ embedding

class Embedding(Layer):
    """A row of "weight" (num_embeddings, embedding_dim) for each word, a whole number in 0..num_embeddings-1.

    Shapes: x (N, T) words -> y (N, T, D); x may have any other number of axes, at least one

    The weight starts standard normal, as in PyTorch. Words have no gradient: backward returns None. Raises TypeError
    unless x is an array of integers, IndexError for a word outside the range: -1 is none.
    """

    def __init__(self, num_embeddings, embedding_dim, *, rng, dtype=np.float64):
        V = self.num_embeddings = require_size("Embedding", "num_embeddings", num_embeddings)
        D = self.embedding_dim = require_size("Embedding", "embedding_dim", embedding_dim)
        require_generator("Embedding", rng)
        dtype = require_dtype("Embedding", dtype)
        super().__init__({"weight": init.normal(rng, (V, D), 1.0, dtype=dtype)}, dtype)

    def check(self, x):
        require_words(self.name, self.num_embeddings, x=x)
        if x.ndim == 0:
            raise ValueError(f"{self.name}: x must have at least one axis, the examples, got shape ()")
        self.check_fit()

    def compute(self, x):
        return embedding.embedding_forward(x, self.params["weight"])

    def compute_gradients(self, dy, cache):
        return None, {"weight": embedding.embedding_backward(dy, cache)}


# ------------------------------------------------------------------------------------------------ activations

class Activation(Layer):
    """A function without parameters, of an array of any shape; a subclass names its pair."""

    pair = None
    arguments = ()

    def compute(self, x):
        forward, _ = self.pair
        return tuned(forward)(x, *self.arguments)

    def compute_gradients(self, dy, cache):
        _, backward = self.pair
        return tuned(backward, cache)(dy, cache), {}


class Sigmoid(Activation):
    """1 / (1 + exp(-z))."""
    pair = mlp.sigmoid_forward, mlp.sigmoid_backward


class Tanh(Activation):
    """Hyperbolic tangent."""
    pair = mlp.tanh_forward, mlp.tanh_backward


class ReLU(Activation):
    """max(0, z), with derivative 0 at 0."""
    pair = mlp.relu_forward, mlp.relu_backward


class LeakyReLU(Activation):
    """z where z > 0, negative_slope z elsewhere."""
    pair = mlp.leaky_relu_forward, mlp.leaky_relu_backward

    def __init__(self, negative_slope=0.01):
        super().__init__()
        self.arguments = (require_number("LeakyReLU", "negative_slope", negative_slope),)


class Softplus(Activation):
    """log(1 + exp(z))."""
    pair = mlp.softplus_forward, mlp.softplus_backward


class Identity(Activation):
    """The input itself, not a copy."""
    pair = mlp.identity_forward, mlp.identity_backward


class Softmax(Activation):
    """Probabilities over the last axis."""
    pair = mlp.softmax_forward, mlp.softmax_backward

    def check(self, x):
        super().check(x)
        if x.shape[-1] == 0:
            raise ValueError(f"Softmax: x must have at least one class on its last axis, got shape {x.shape}")


class Flatten(Activation):
    """One row an example: (N, C, I, J) -> (N, C I J); any number of axes behind the examples."""
    pair = cnn.flatten_forward, cnn.flatten_backward

    def check(self, x):
        super().check(x)
        if x.ndim < 2:
            raise ValueError(f"Flatten: x must have at least two axes, the examples first, got shape {x.shape}")


class Dropout(Layer):
    """In training, zero each entry with probability p and divide the rest by 1 - p; in evaluation, the identity.

    Raises ValueError unless 0 <= p < 1 (PyTorch allows p = 1, which keeps nothing).
    Source: Srivastava et al. 2014, "Dropout", in the inverted form of section 10.
    """

    def __init__(self, p=0.5, *, rng):
        require_generator("Dropout", rng)
        self.p = require_number("Dropout", "p", p, "in [0, 1)", lambda value: 0 <= value < 1)
        self.rng = rng
        super().__init__()

    def compute(self, x):
        if not self.training:
            return mlp.identity_forward(x)
        mask = (self.rng.random(x.shape) >= self.p).astype(x.dtype)
        return tuned(mlp.dropout_forward)(x, mask, self.p)

    def compute_gradients(self, dy, cache):
        masked = isinstance(cache, mlp.DropoutCache)
        return tuned(mlp.dropout_backward if masked else mlp.identity_backward, cache)(dy, cache), {}
