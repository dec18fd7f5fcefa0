"""What is refused at the door: each error names the function, the argument, what was expected and what came."""

import numpy as np


def require_same_shape(function, y, t):
    """The output y and its target t must match exactly; broadcasting (3,) against (3, 1) would compare 9 pairs."""
    if y.shape != np.shape(t):
        raise ValueError(f"{function}: the target t must have the shape {y.shape} of the output, got {np.shape(t)}")
    if y.size == 0:
        raise ValueError(f"{function}: a mean over nothing has no value, got shape {y.shape}")


def require_fraction(function, t):
    """Targets of a binary cross-entropy are probabilities."""
    outside = ~((t >= 0) & (t <= 1))
    if outside.any():
        index = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(f"{function}: the target t must lie in [0, 1], got {t[index]} at {index}")


def require_labels(function, t, shape):
    """Class targets: integers, one per row, inside 0..K-1."""
    N, K = require_2d(function, "the scores z", shape, "(N, K)")
    if not (isinstance(t, np.ndarray) and np.issubdtype(t.dtype, np.integer)):
        kind = t.dtype if isinstance(t, np.ndarray) else type(t).__name__
        raise TypeError(f"{function}: the classes t must be an array of integers, got {kind}")
    if t.shape != (N,):
        raise ValueError(f"{function}: the classes t must have shape ({N},), one per example, got {t.shape}")
    if N == 0:
        raise ValueError(f"{function}: a mean over nothing has no value, got N = 0")
    outside = (t < 0) | (t >= K)
    if outside.any():
        i = int(np.argmax(outside))
        raise IndexError(f"{function}: the classes t must lie in 0..{K - 1}, got {t[i]} at index {i}")


def require_2d(function, argument, shape, expected):
    """A matrix with examples on axis 0; returns its two sizes."""
    if len(shape) != 2:
        raise ValueError(f"{function}: {argument} must have shape {expected}, got {tuple(shape)}")
    return shape
