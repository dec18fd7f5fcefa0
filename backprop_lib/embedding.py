r"""Embeddings and word2vec: equations (EMB-1) to (EMB-21), derived in notebooks/08_embeddings.ipynb.

A word is a whole number in 0..V-1. A table has one row of D numbers for each word, (V, D): that is the layout of
PyTorch's nn.Embedding, and the transpose of what (out, in) would give for a linear layer that reads one-hot words. The
output table of word2vec, W_out (V, D), is an ordinary weight (out, in).

Every function is pure: nothing passed in is changed, and a cache can be used twice. Tables are floats, words are
integers: no -1 counts from the end. The 1/N of a mean stands in the losses and nowhere else.
"""

from typing import NamedTuple

import numpy as np

from .checks import float_arrays, require_axes, require_context, require_words
from .mlp import sigmoid, softplus


def add_rows(words, rows, V):
    """A table of V rows, each the sum of the `rows` whose word it is: what was read twice gets both.

    `rows` has the axes of `words` and one more, or broadcasts to that.
    """
    table = np.zeros((V, rows.shape[-1]), rows.dtype)
    np.add.at(table, words, rows)                               # += would keep one of two
    return table


# ------------------------------------------------------------------------------------------------ embedding

class EmbeddingCache(NamedTuple):
    words: np.ndarray
    V: int


@float_arrays
def embedding_forward(words, W):
    """A row of W for each word, of an array of words of any shape.

    Shapes: words (N, T) in 0..V-1, W (V, D) -> x (N, T, D)
    Raises TypeError if the words are not integers, IndexError for a word outside 0..V-1, ValueError unless W is (V, D).
    """
    require_axes("embedding_forward", "W", W, "(V, D)")
    require_words("embedding_forward", len(W), words=words)
    x = W[words]                                                # (EMB-1)
    return x, EmbeddingCache(words, len(W))


def embedding_backward(dx, cache):
    """Every place where a word stands adds to its row; a word that stands nowhere gets a row of zeros.

    Shapes: dx (N, T, D) -> dW (V, D)
    """
    words, V = cache
    dW = add_rows(words, dx, V)                                 # (EMB-2)
    return dW


# ------------------------------------------------------------------------------------------------ word2vec

class Word2vecCache(NamedTuple):
    h: np.ndarray
    p: np.ndarray
    context: np.ndarray
    centre: np.ndarray
    W_out: np.ndarray


@float_arrays
def cbow_forward(context, centre, W_in, W_out):
    """Continuous bag of words: the mean of the T context words' rows predicts the word in the centre.

    Shapes: context (N, T) in 0..V-1, centre (N) in 0..V-1, W_in (V, D), W_out (V, D) -> loss ()
    Mean over the examples of -log softmax at the centre. Raises TypeError if words are not integers, IndexError for one
    outside 0..V-1, ValueError for N = 0, T = 0 or shapes that do not fit.
    Source: Mikolov, Chen, Corrado and Dean 2013, "Efficient estimation of word representations in vector space".
    """
    require_context("cbow_forward", context, centre, W_in, W_out)
    h = W_in[context].mean(axis=1)                              # (EMB-3)
    z = h @ W_out.T                                             # (EMB-4)
    shifted = z - z.real.max(axis=1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))     # (EMB-5)
    p = np.exp(logp)                                            # (EMB-6)
    loss = -logp[np.arange(len(p)), centre].mean()              # (EMB-7)
    return loss, Word2vecCache(h, p, context, centre, W_out)


def cbow_backward(dloss, cache):
    """Shapes: dloss () -> dW_in (V, D), dW_out (V, D)"""
    h, p, context, centre, W_out = cache
    (N, V), T = p.shape, context.shape[1]
    dz = dloss / N * (p - (np.arange(V) == centre[:, None]))    # (EMB-8)
    dW_out = dz.T @ h                                           # (EMB-9)
    dh = dz @ W_out                                             # (EMB-10)
    dW_in = add_rows(context, dh[:, None] / T, V)               # (EMB-11)
    return dW_in, dW_out


@float_arrays
def skipgram_forward(context, centre, W_in, W_out):
    """Skip-gram: the row of the word in the centre predicts each of the T context words; their losses add up.

    Shapes: context (N, T) in 0..V-1, centre (N) in 0..V-1, W_in (V, D), W_out (V, D) -> loss ()
    Mean over the examples, sum over the context. Raises as `cbow_forward`.
    Source: Mikolov, Chen, Corrado and Dean 2013, "Efficient estimation of word representations in vector space".
    """
    require_context("skipgram_forward", context, centre, W_in, W_out)
    h = W_in[centre]                                            # (EMB-12)
    z = h @ W_out.T
    shifted = z - z.real.max(axis=1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(logp)
    loss = -np.take_along_axis(logp, context, axis=1).sum(axis=1).mean()    # (EMB-13)
    return loss, Word2vecCache(h, p, context, centre, W_out)


def skipgram_backward(dloss, cache):
    """Shapes: dloss () -> dW_in (V, D), dW_out (V, D)"""
    h, p, context, centre, W_out = cache
    (N, V), T = p.shape, context.shape[1]
    is_seen = np.arange(V) == context[:, :, None]
    seen = is_seen.sum(axis=1, dtype=p.dtype)                   # (N, V): how often each word is a target
    dz = dloss / N * (T * p - seen)                             # (EMB-14)
    dh = dz @ W_out
    dW_in = add_rows(centre, dh, V)                             # (EMB-15)
    return dW_in, dz.T @ h


# ------------------------------------------------------------------------------------------------ negative sampling

class NegativeSamplingCache(NamedTuple):
    h: np.ndarray
    y: np.ndarray
    candidates: np.ndarray
    centre: np.ndarray
    W_out: np.ndarray


@float_arrays
def negative_sampling_forward(candidates, centre, W_in, W_out):
    """Skip-gram without the sum over all words: tell one context word from K - 1 others that were drawn at random.

    Shapes: candidates (N, K) in 0..V-1, centre (N) in 0..V-1, W_in (V, D), W_out (V, D) -> loss ()
    Column 0 of the candidates is the word of the context, the others were drawn. Each gets a binary cross-entropy: mean
    over the examples, sum over the candidates. Raises as `cbow_forward`.
    Source: Mikolov, Sutskever, Chen, Corrado and Dean 2013, "Distributed representations of words and phrases and their
    compositionality", equation 4.
    """
    require_context("negative_sampling_forward", candidates, centre, W_in, W_out, "candidates")
    h = W_in[centre]
    z = (W_out[candidates] * h[:, None]).sum(axis=2)            # (EMB-16)
    y = sigmoid(z)                                              # (EMB-17)
    loss = (softplus(z).sum(axis=1) - z[:, 0]).mean()           # (EMB-18)
    return loss, NegativeSamplingCache(h, y, candidates, centre, W_out)


def negative_sampling_backward(dloss, cache):
    """Shapes: dloss () -> dW_in (V, D), dW_out (V, D)"""
    h, y, candidates, centre, W_out = cache
    (N, K), V = y.shape, len(W_out)
    dz = dloss / N * (y - (np.arange(K) == 0))                  # (EMB-19)
    dW_out = add_rows(candidates, dz[:, :, None] * h[:, None], V)           # (EMB-20)
    dh = (dz[:, :, None] * W_out[candidates]).sum(axis=1)       # (EMB-21)
    return add_rows(centre, dh, V), dW_out
