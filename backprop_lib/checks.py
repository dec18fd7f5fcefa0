"""What is refused at the door: each error names the function, the argument, what was expected and what came."""

import functools
import inspect
import math
import numbers

import numpy as np

from .shapes import parse_shapes


FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def float_arrays(forward):
    """Refuse integers and lists where the function's `Shapes:` line has an array of floats, with a TypeError.

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
                raise TypeError(f"{forward.__name__}: {name} must be an array of floats, got "
                                f"{dtype or type(x).__name__}; write np.asarray({name}, dtype=float)")
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


def require_float(owner, name, x, dtype=None):
    """The rule of widths: a plain NumPy array of this dtype, or of either float width if none is given."""
    plain = type(x) in (np.ndarray, np.memmap)
    if plain and x.dtype in (FLOATS if dtype is None else (dtype,)):
        return
    expected, wanted = ("float32 or float64", "np.float64") if dtype is None else (dtype, f"np.{dtype}")
    got, write = ((x.dtype, f"{name}.astype({wanted})") if plain else
                  (type(x).__name__, f"np.asarray({name}, dtype={wanted})"))
    raise TypeError(f"{owner}: {name} must be a NumPy array of {expected}, got {got}; write {write}")


def require_generator(owner, rng):
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"{owner}: rng must be a numpy.random.Generator, such as np.random.default_rng(0), "
                        f"got {type(rng).__name__}")


def require_dtype(owner, dtype):
    """The two widths of this library; returns the NumPy dtype."""
    try:
        known = dtype if dtype is None else np.dtype(dtype)
    except TypeError:
        known = dtype
    if known is None or known not in FLOATS:
        raise TypeError(f"{owner}: dtype must be np.float32 or np.float64, got {known}")
    return known


def require_number(owner, name, value, condition="", holds=lambda value: True):
    """A finite real number that meets the condition; returns it as a Python float, which never widens an array."""
    expected = f"a finite number {condition}".rstrip()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {name} must be {expected}, got {type(value).__name__}")
    if not (math.isfinite(value) and holds(value)):
        raise ValueError(f"{owner}: {name} must be {expected}, got {value}")
    return float(value)


def require_size(owner, name, value):
    """A whole number of at least 1, as a Python int."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{owner}: {name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def require_shape(owner, shape):
    """A tuple of whole numbers >= 0."""
    if not isinstance(shape, (tuple, list)) or not all(
            isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in shape):
        raise TypeError(f"{owner}: shape must be a tuple of whole numbers, got {shape!r}")
    if any(size < 0 for size in shape):
        raise ValueError(f"{owner}: shape must have no negative size, got {tuple(shape)}")
    return tuple(int(size) for size in shape)
