"""Losses: numbers with a gradient."""

import numpy as np

from .. import mlp, rnn
from ..checks import (
    require_axes,
    require_classes,
    require_float,
    require_fraction,
    require_integer,
    require_labels,
    require_number,
    require_same_shape,
    require_whole,
)
from ..fast import tuned


class Loss:
    """A scalar function of the output y and a target t; a subclass names its pair and checks the target."""

    pair = None

    def __init__(self):
        self.memory = None

    @property
    def name(self):
        return type(self).__name__

    def forward(self, y, t):
        """The loss, a mean. Raises TypeError, ValueError or IndexError if y and t do not fit each other."""
        require_float(self.name, "y", y)
        self.check(y, t)
        loss, cache = self.compute(y, t)
        self.memory = cache
        return loss

    def backward(self, dloss=1.0):
        """The gradient of y, times dloss. Raises RuntimeError before the first forward."""
        if self.memory is None:
            raise RuntimeError(f"{self.name}: backward needs a forward first")
        _, backward = self.pair
        return tuned(backward, self.memory)(require_number(self.name, "dloss", dloss), self.memory)

    def check(self, y, t):
        """Refuse a target that does not fit, before anything is computed."""
        require_float(self.name, "t", t, y.dtype)
        require_same_shape(self.name, y, t)

    def compute(self, y, t):
        """The loss and the cache."""
        forward, _ = self.pair
        return tuned(forward)(y, t)


class CrossEntropyLoss(Loss):
    """Mean of -log softmax(y) at the target class: y are scores (N, K), t the classes (N), integers in 0..K-1."""
    pair = mlp.softmax_cross_entropy_forward, mlp.softmax_cross_entropy_backward

    def check(self, y, t):
        require_labels(self.name, t, y.shape)


class SequenceCrossEntropyLoss(Loss):
    """Mean of -log softmax(y) at the target class over the steps that count: where t is not `ignore_index`.

    y are scores (N, T, K), t the classes (N, T), integers in 0..K-1 or ignore_index.
    """

    pair = rnn.sequence_cross_entropy_forward, rnn.sequence_cross_entropy_backward

    def __init__(self, ignore_index=-1):
        super().__init__()
        self.ignore_index = require_integer("SequenceCrossEntropyLoss", "ignore_index", ignore_index)

    def check(self, y, t):
        require_axes(self.name, "y", y, "(N, T, K)")
        require_whole(self.name, "t", t, y.shape[:2])
        kept = t != self.ignore_index
        if not kept.any():
            raise ValueError(f"{self.name}: a mean over nothing has no value: t {t.shape} must have a step that is not "
                             f"ignored, got none but {self.ignore_index}")
        require_classes(self.name, "t", np.where(kept, t, 0), y.shape[2])

    def compute(self, y, t):
        forward, _ = self.pair
        kept = t != self.ignore_index
        return tuned(forward)(y, np.where(kept, t, 0), kept)


class BCEWithLogitsLoss(Loss):
    """Mean binary cross-entropy of sigmoid(y) against t, floats in [0, 1], over all entries."""
    pair = mlp.sigmoid_bce_forward, mlp.sigmoid_bce_backward

    def check(self, y, t):
        super().check(y, t)
        require_fraction(self.name, t)


class MSELoss(Loss):
    """Mean of (y - t)**2 over all entries."""
    pair = mlp.mse_forward, mlp.mse_backward
