"""What is refused at the door: each error names the function, the argument, what was expected and what came."""

import functools
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
    positions = [(name, forward.__code__.co_varnames.index(name)) for name in names]

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
    require_integers(function, "the classes t", t)
    if t.shape != (N,):
        raise ValueError(f"{function}: the classes t must have shape ({N},), one per example, got {t.shape}")
    if N == 0:
        raise ValueError(f"{function}: a mean over nothing has no value, got N = 0")
    require_classes(function, "the classes t", t, K)


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


def require_shape(owner, shape, name="shape"):
    """A tuple of whole numbers >= 0."""
    if not isinstance(shape, (tuple, list)) or not all(
            isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in shape):
        raise TypeError(f"{owner}: {name} must be a tuple of whole numbers, got {shape!r}")
    if any(size < 0 for size in shape):
        raise ValueError(f"{owner}: {name} must have no negative size, got {tuple(shape)}")
    return tuple(int(size) for size in shape)


# ------------------------------------------------------------------------------------------------ images and windows

def require_axes(owner, name, x, shape):
    """As many axes as `shape`, such as "(N, C, I, J)", has letters."""
    if x.ndim != shape.count(",") + 1:
        raise ValueError(f"{owner}: {name} must have shape {shape}, got {x.shape}")


def require_cotangent(owner, name, dy, shape):
    """Exactly the shape of the output: einsum would broadcast a 1."""
    if np.shape(dy) != tuple(shape):
        raise ValueError(f"{owner}: {name} must have the shape {tuple(shape)} of the output, got {np.shape(dy)}")


def require_pixels(owner, x):
    if 0 in x.shape[2:]:
        raise ValueError(f"{owner}: x must have at least one pixel, got shape {x.shape}")


def require_flag(owner, name, value):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: {name} must be True or False, got {value!r}")


def require_pair(owner, name, value, least):
    """A whole number of at least `least`, for rows and columns, or a pair of them; returns a pair of ints."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    expected = f"a whole number of at least {least}, or a pair of them (rows, columns)"
    if not all(isinstance(v, numbers.Integral) and not isinstance(v, (bool, np.bool_)) for v in pair):
        raise TypeError(f"{owner}: {name} must be {expected}, got {value!r}")
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{owner}: {name} must be {expected}, got {value!r}")
    return tuple(map(int, pair))


def require_fit(owner, image, kernel, padding=(0, 0), dilation=(1, 1)):
    """Room for at least one window."""
    padded = tuple(i + 2*m for i, m in zip(image, padding))
    spans = tuple(e*(r - 1) + 1 for r, e in zip(kernel, dilation))
    if 0 in kernel:
        raise ValueError(f"{owner}: the kernel must have at least one tap, got size {_times(kernel)}")
    if any(span > i for span, i in zip(spans, padded)):
        raise ValueError(f"{owner}: the kernel must not be larger than the padded image: it must fit into "
                         f"{_times(padded)}, got {_times(spans)} (kernel_size {_times(kernel)}, padding "
                         f"{_times(padding[:len(image)])}, dilation {_times(dilation[:len(image)])})")


def _times(sizes):
    return " x ".join(map(str, sizes))


def require_windows(owner, x, kernel_size, stride, padding, dilation):
    """Options that fit each other and the image; returns them as pairs: kernel_size, stride, padding, dilation."""
    require_axes(owner, "x", x, "(N, C, I, J)")
    require_pixels(owner, x)
    kernel_size = require_pair(owner, "kernel_size", kernel_size, 1)
    stride, padding, dilation = require_slide(owner, stride, padding, dilation)
    require_fit(owner, x.shape[2:], kernel_size, padding, dilation)
    return kernel_size, stride, padding, dilation


def require_slide(owner, stride, padding, dilation):
    """Returns the three as pairs."""
    return (require_pair(owner, "stride", stride, 1), require_pair(owner, "padding", padding, 0),
            require_pair(owner, "dilation", dilation, 1))


def require_pool(owner, x, kernel_size, stride, padding, dilation):
    """The same for a pooling layer, where stride=None means kernel_size."""
    options = require_windows(owner, x, kernel_size, kernel_size if stride is None else stride, padding, dilation)
    require_half(owner, options[0], options[2])
    return options


def require_half(owner, kernel_size, padding):
    """Padding of at most half the window: otherwise some windows would see nothing else."""
    if any(2*m > r for m, r in zip(padding, kernel_size)):
        raise ValueError(f"{owner}: padding must be at most half of kernel_size {kernel_size}, got {padding}")


def require_taps(owner, inside):
    """Every window (P, Q) has a tap (R, S) on the image."""
    blind = np.argwhere(~inside.any(axis=(2, 3)))
    if len(blind):
        raise ValueError(f"{owner}: padding and dilation must leave every window a pixel of the image, got a window "
                         f"{tuple(map(int, blind[0]))} that sees padding only")


def require_groups(owner, groups, **channels):
    """A whole number that divides each of the numbers of channels, given by name."""
    if isinstance(groups, (bool, np.bool_)) or not isinstance(groups, numbers.Integral):
        raise TypeError(f"{owner}: groups must be a whole number of at least 1, got {groups!r}")
    if groups < 1:
        raise ValueError(f"{owner}: groups must be a whole number of at least 1, got {groups}")
    for name, number in channels.items():
        if number % groups:
            raise ValueError(f"{owner}: groups must divide {name}, expected a divisor of {number}, got {groups}")
    return int(groups)


def require_convolution(owner, x, W, b, groups=1, transposed=False):
    """Images, filters and biases that fit each other; returns groups."""
    require_axes(owner, "x", x, "(N, F, P, Q)" if transposed else "(N, C, I, J)")
    require_axes(owner, "W", W, "(F, C/groups, R, S)")
    require_axes(owner, "b", b, "(C)" if transposed else "(F)")
    if 0 in W.shape[2:]:
        raise ValueError(f"{owner}: W must have at least one tap, got shape {W.shape}")
    G = require_groups(owner, groups, **{"the filters of W": len(W)})
    incoming, outgoing = (len(W), W.shape[1]*G) if transposed else (W.shape[1]*G, len(W))
    if x.shape[1] != incoming:
        raise ValueError(f"{owner}: x must have the {incoming} channels that W {W.shape} with groups={G} expects, got "
                         f"{x.shape[1]}: x {x.shape}")
    if len(b) != outgoing:
        raise ValueError(f"{owner}: b must have shape ({outgoing},), one bias for each channel that comes out, got "
                         f"{b.shape}")
    return G


def require_output_padding(owner, output_padding, stride, dilation):
    """Rows added at the end, fewer than would fit another window; returns a pair."""
    output_padding = require_pair(owner, "output_padding", output_padding, 0)
    if any(o >= max(u, e) for o, u, e in zip(output_padding, stride, dilation)):
        raise ValueError(f"{owner}: output_padding must be smaller than stride {stride} or dilation {dilation}, got "
                         f"{output_padding}")
    return output_padding


def require_transposed(owner, x, kernel_size, stride, padding, dilation, output_padding):
    """The options of a transposed convolution as pairs: (kernel_size, stride, padding, dilation), output_padding."""
    require_pixels(owner, x)
    kernel_size = require_pair(owner, "kernel_size", kernel_size, 1)
    stride, padding, dilation = require_slide(owner, stride, padding, dilation)
    output_padding = require_output_padding(owner, output_padding, stride, dilation)
    sizes = [(p - 1)*u + e*(r - 1) + 1 - 2*m + o for p, r, u, m, e, o in zip(
        x.shape[2:], kernel_size, stride, padding, dilation, output_padding)]
    if min(sizes) < 1:
        raise ValueError(f"{owner}: padding {padding} must leave an image of at least 1 x 1, got {_times(sizes)}")
    return (kernel_size, stride, padding, dilation), output_padding


# ------------------------------------------------------------------------------------------------ sequences

def require_recurrent(owner, x, states, W_ih, W_hh, biases, gates=1, axes="(N, T, D)"):
    """Input, states, weights and biases, the last three by name, that fit each other; at least one time step."""
    require_axes(owner, "x", x, axes)
    if x.ndim == 3:
        require_steps(owner, x)
    require_axes(owner, "W_hh", W_hh, "(gates H, H)" if gates > 1 else "(H, H)")
    H = W_hh.shape[1]
    expected = {"W_hh": (W_hh, (gates*H, H)), "W_ih": (W_ih, (gates*H, x.shape[-1])),
                **{name: (b, (gates*H,)) for name, b in biases.items()},
                **{name: (state, (len(x), H)) for name, state in states.items()}}
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{owner}: {name} must have shape {shape}, got {array.shape}; x has shape {x.shape} and "
                             f"W_hh {W_hh.shape}")


def require_peepholes(owner, p, c_prev):
    if p.shape != (3, c_prev.shape[1]):
        raise ValueError(f"{owner}: p must have shape {(3, c_prev.shape[1])}, a row for i, f and o each, got {p.shape}")


def require_one_of(owner, name, value, known):
    if value not in known:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def require_whole(owner, name, array, shape):
    """An array of integers of this shape."""
    require_integers(owner, name, array)
    if array.shape != shape:
        raise ValueError(f"{owner}: {name} must have shape {shape}, got {array.shape}")


def require_integers(owner, name, array):
    if not (isinstance(array, np.ndarray) and array.dtype.kind in "iu"):
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{owner}: {name} must be an array of integers, got {kind}")


def require_lengths(owner, lengths, N, T):
    """How many steps of each sequence count: N whole numbers in 1..T."""
    require_whole(owner, "lengths", lengths, (N,))
    outside = (lengths < 1) | (lengths > T)
    if outside.any():
        i = int(np.argmax(outside))
        raise ValueError(f"{owner}: lengths must lie in 1..{T}, the number of time steps, got {lengths[i]} at index "
                         f"{i}")


def require_kept(owner, z, targets, mask):
    """Scores (N, T, K), a class for each step, and a mask of 0 and 1 that keeps a step."""
    require_axes(owner, "z", z, "(N, T, K)")
    require_whole(owner, "targets", targets, z.shape[:2])
    require_classes(owner, "targets", targets, z.shape[2])
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{owner}: mask must be an array of 0 and 1, got {type(mask).__name__}")
    if mask.shape != z.shape[:2]:
        raise ValueError(f"{owner}: mask must have shape {z.shape[:2]}, got {mask.shape}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{owner}: mask must hold 0 and 1 alone, got {np.unique(mask)[:5]}")
    if not mask.any():
        raise ValueError(f"{owner}: a mean over nothing has no value: mask keeps no step of {z.shape[:2]}")


def require_classes(owner, name, classes, K):
    """Whole numbers in 0..K-1: a negative one does not count from the end."""
    if classes.size and not 0 <= classes.min() <= classes.max() < K:
        outside = (classes < 0) | (classes >= K)
        index = tuple(map(int, np.argwhere(outside)[0]))
        place = index[0] if len(index) == 1 else index
        raise IndexError(f"{owner}: {name} must lie in 0..{K - 1}, got {classes[index]} at index {place}")


def require_steps(owner, x, axis=1):
    if x.shape[axis] == 0:
        raise ValueError(f"{owner}: x must have at least one time step, got shape {x.shape}")


def require_states(owner, names, states, shape, dtype):
    """Arrays of this shape and dtype, given in the order of their names; returns them, zeros where there is None."""
    states = [np.zeros(shape, dtype) if state is None else state for state in states]
    for name, state in zip(names, states):
        require_float(owner, name, state, dtype)
        if state.shape != shape:
            raise ValueError(f"{owner}: {name} must have shape {shape}, got {state.shape}")
    return states


def require_state_pair(owner, name, pair, expected):
    """A state and a cell; None stands for two times None."""
    if pair is None:
        return None, None
    if not isinstance(pair, (tuple, list)):
        raise TypeError(f"{owner}: {name} must be a pair {expected}, got {type(pair).__name__}")
    if len(pair) != 2:
        raise ValueError(f"{owner}: {name} must be a pair {expected}, got {len(pair)} of them")
    return pair


def require_integer(owner, name, value):
    """A whole number of any sign, as a Python int."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: {name} must be a whole number, got {value!r}")
    return int(value)


# ------------------------------------------------------------------------------------------------ normalisation

def require_norm(owner, x, eps, **vectors):
    """Rows x (N, D), vectors (D) by name, and a small number that may be 0."""
    require_axes(owner, "x", x, "(N, D)")
    for name, vector in vectors.items():
        if vector.shape != x.shape[1:]:
            raise ValueError(f"{owner}: {name} must have shape {x.shape[1:]}, one number for each column of x "
                             f"{x.shape}, got {vector.shape}")
    require_number(owner, "eps", eps, ">= 0", lambda value: value >= 0)


def require_batch(owner, x):
    """A mean and a variance over examples need two of them: with one, the result would not depend on it."""
    if len(x) < 2:
        raise ValueError(f"{owner}: x must have more than one value per channel, got shape {x.shape}")


def require_sizes(owner, name, value):
    """A size or a tuple of at least one; returns a tuple."""
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not sizes:
        raise ValueError(f"{owner}: {name} must have at least one axis, got {value!r}")
    return tuple(require_size(owner, name, size) for size in sizes)


# ------------------------------------------------------------------------------------------------ words

def require_words(owner, V, **words):
    """Arrays of whole numbers in 0..V-1, by name."""
    for name, array in words.items():
        require_integers(owner, name, array)
        require_classes(owner, name, array, V)


def require_context(owner, context, centre, W_in, W_out, name="context"):
    """Some words around, or instead of, each word in the centre, and a row for each word in both tables."""
    require_axes(owner, "W_in", W_in, "(V, D)")
    if W_out.shape != W_in.shape:
        raise ValueError(f"{owner}: W_out must have the shape {W_in.shape} of W_in, got {W_out.shape}")
    require_words(owner, len(W_in), **{name: context, "centre": centre})
    require_axes(owner, "centre", centre, "(N)")
    if context.ndim != 2 or len(context) != len(centre):
        raise ValueError(f"{owner}: {name} must have a row of words for each of the {len(centre)} words of centre, got "
                         f"shape {context.shape}")
    if context.size == 0:
        raise ValueError(f"{owner}: a mean over nothing has no value: {name} must have at least one row and a word in "
                         f"it, got shape {context.shape}")
