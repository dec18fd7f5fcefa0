"""What is refused at the door: each error names the function, the argument, what was expected and what came."""

import functools
import inspect

import numpy as np

from .shapes import parse_shapes


def float_arrays(forward):
    """Refuse integers and lists where the function's `Shapes:` line has an array of floats: a TypeError says what to do.

    Integers would overflow, and small ones make float16 of a sigmoid. Numbers of shape () and arrays that the line
    declares as integers (`in a..b`) are not looked at.
    """
    names = [a.name for a in parse_shapes(forward)[0] if a.dims and ".." not in (a.range or "")]
    positions = [(name, list(inspect.signature(forward).parameters).index(name)) for name in names]

    @functools.wraps(forward)
    def checked(*args, **kwargs):
        for name, position in positions:
            x = args[position] if position < len(args) else kwargs.get(name)
            dtype = getattr(x, "dtype", None)
            if x is not None and (dtype is None or dtype.kind not in "fc"):
                raise TypeError(f"{forward.__name__}: {name} must be an array of floats, got {dtype or type(x).__name__}; "
                                f"write np.asarray({name}, dtype=float)")
        return forward(*args, **kwargs)
    return checked


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


def require_mask(function, h, mask, p):
    """A mask for every unit, and a chance of being dropped that leaves something."""
    if h.shape != np.shape(mask):
        raise ValueError(f"{function}: the mask must have the shape {h.shape} of h, got {np.shape(mask)}")
    if not 0 <= p < 1:
        raise ValueError(f"{function}: p, the chance of being dropped, must lie in [0, 1), got {p}")


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
