"""Layers and losses as objects: they remember, the functions of `mlp`, `cnn`, `rnn`... do the arithmetic.

These run as their tuned twins of `backprop_lib.fast`; `with fast.off():` runs the readable functions themselves.

    model = MLP([64, 32, 10], rng=np.random.default_rng(0))
    loss = CrossEntropyLoss()
    value = loss.forward(model.forward(x), t)
    dx = model.backward(loss.backward())        # model.grads now holds dL/d(each of model.params), by the same name

RNN and GRU: `y, hn = layer.forward(x, h0=None, lengths=None)` and `dx, dh0 = layer.backward(dy, dhn=None)`;
LSTM: `y, (hn, cn) = layer.forward(x, states=None, lengths=None)`, `dx, (dh0, dc0) = layer.backward(dy, dstates=None)`.

Widths. A layer with parameters has a dtype, and its inputs and cotangents are NumPy arrays of exactly that dtype. A
layer without parameters takes float32 or float64 and keeps the width; the cotangent has the dtype of the output.
Integers, other widths, lists, matrices and masked arrays are refused with a TypeError that says what to write.

What is kept. `forward` keeps references, not copies: to its input, its output and the parameter arrays. Change none of
them in place between a forward and its backward (an optimiser steps after backward). Arrays that are only read, such
as read-only and strided ones, are fine. `backward` replaces `grads`; PyTorch adds to them. A call that raises leaves
parameters, buffers, gradients and what the last forward kept as they were; numbers already drawn from a generator are
spent.

`buffers` hold what a layer keeps from one batch to the next and no optimiser touches, the running statistics of batch
normalisation: a `forward` in training replaces them, one in evaluation reads them. They are saved with the parameters.

Replacing `layer.params["weight"]` takes effect in the next forward. Optimisers change the arrays themselves.
"""

from ..checkpoint import CheckpointError
from .containers import ACTIVATIONS, MLP, LeNet, Residual, Sequential
from .convolution import AvgPool2d, Conv2d, Convolution, ConvTranspose2d, GlobalAvgPool2d, MaxPool2d
from .layer import Layer
from .linear import (
    Activation,
    Dropout,
    Embedding,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    ReLU,
    Sigmoid,
    Softmax,
    Softplus,
    Tanh,
)
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, Loss, MSELoss, SequenceCrossEntropyLoss
from .normalisation import BatchNorm, BatchNorm1d, BatchNorm2d, LayerNorm, Normalisation
from .parallel import DataParallel
from .recurrent import GRU, LSTM, RNN, LastStep, Recurrent


__all__ = [
    "ACTIVATIONS", "GRU", "LSTM", "MLP", "RNN", "Activation", "AvgPool2d", "BCEWithLogitsLoss", "BatchNorm",
    "BatchNorm1d", "BatchNorm2d", "CheckpointError", "Conv2d", "ConvTranspose2d", "Convolution", "CrossEntropyLoss",
    "DataParallel", "Dropout", "Embedding", "Flatten", "GlobalAvgPool2d", "Identity", "LastStep", "Layer",
    "LayerNorm", "LeNet", "LeakyReLU", "Linear", "Loss", "MSELoss", "MaxPool2d", "Normalisation", "ReLU",
    "Recurrent", "Residual", "SequenceCrossEntropyLoss", "Sequential", "Sigmoid", "Softmax", "Softplus", "Tanh",
]
