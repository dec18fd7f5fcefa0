"""Is this gradient right? Three independent answers, for our functions and for yours.

- `check_gradients(forward, backward, *args)`: every gradient of a pair against the complex step, f(x + ih) = f(x)
  + ih f'(x) + O(h**2), whose imaginary part holds the derivative with no subtraction and so no rounding (Squire and
  Trapp 1998, doi:10.1137/S003614459631241X).
- `method="central"`: central differences, (f(x + h) - f(x - h)) / 2h, for functions that complex numbers cannot
  enter. Good to about 1e-9, and only away from kinks: draw inputs with `away_from_kinks`. Other references have the
  same signature: `forward_difference`, `five_point_difference`, `richardson_difference`.
- `check_adjoint(...)`: for layers linear in one argument, <w, f(x + v) - f(x)> = <J^T w, v> holds exactly, to the
  last bit, on inputs that are small multiples of 1/8.

A pair follows one convention: `forward(*args)` returns `(outputs..., cache)`, `backward(d_outputs..., cache)` returns
the gradients in the order of forward's arguments. The cotangents are random: with ones, a softmax backward that
returns zeros would pass.
"""

import inspect
import warnings
from typing import NamedTuple

import numpy as np

from .shapes import parse_shapes


COMPLEX_WARNING = getattr(np, "exceptions", np).ComplexWarning    # NumPy 1.25 moved it
COMPLEX_STEP = 1e-30
FORWARD_STEP = 1e-8                                             # near eps**(1/2), eps**(1/3), eps**(1/5): where the
CENTRAL_STEP = 1e-5                                             # error of the formula meets that of rounding
FIVE_POINT_STEP = 1e-3
RICHARDSON_STEP = 0.1
LIMITS = {"complex": 1e-12, "central": 1e-7}
NUDGES = (7.3, 17.9, 31.1, 53.7)                                # times a bit; not whole, lest roundings repeat
OWN_SEED = (0, 1)                                               # not a reader's 0: cotangents must not equal the inputs


class GradientError(AssertionError):
    """A gradient does not agree with its reference."""


class Gradient(NamedTuple):
    name: str
    yours: np.ndarray
    reference: np.ndarray
    error: float


class Report(NamedTuple):
    """What agreed. `errors` holds the relative error of each gradient by name."""
    gradients: tuple
    method: str
    limit: float

    @property
    def errors(self):
        return {g.name: g.error for g in self.gradients}

    def __str__(self):
        reference = {"complex": "the complex step", "central": "central differences"}[self.method]
        return f"{', '.join(self.errors)}: agree with {reference} to {self.limit:.0e}"

    __repr__ = __str__


def relative_error(yours, reference):
    """|yours - reference| / max(|yours|, |reference|) in the Euclidean norm.

    0 when both are zero; 1 as soon as either holds NaN or inf. Scaled first, so that 1e-200 does not underflow.
    """
    yours, reference = np.asarray(yours), np.asarray(reference)
    if not (np.isfinite(yours).all() and np.isfinite(reference).all()):
        return 1.0
    largest = max(_largest(yours), _largest(reference))
    if largest == 0:
        return 0.0
    yours, reference = yours / largest, reference / largest
    return float(np.linalg.norm(yours - reference) / max(np.linalg.norm(yours), np.linalg.norm(reference)))


def cosine(a, b):
    """How far two arrays point the same way: 1 the same, 0 at right angles, -1 opposite; 0 if one of them is zero."""
    a, b = (np.asarray(array) / (_largest(array) or 1) for array in (a, b))
    return float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b) or 1))


def _largest(a):
    return float(np.max(np.abs(a), initial=0))


def away_from_kinks(rng, shape, kinks=(0.0,), margin=0.1):
    """Standard normal numbers, pushed at least `margin` away from every kink, so no difference quotient crosses one.

    What one kink pushes towards another is drawn again. Raises ValueError if the kinks leave no room.
    """
    x = rng.standard_normal(shape)
    for kink in kinks:
        x = np.where(np.abs(x - kink) < margin, kink + np.where(x < kink, -margin, margin) + (x - kink), x)
    for _ in range(1000):
        near = np.min([np.abs(x - kink) for kink in kinks], axis=0) < margin
        if not near.any():
            return x
        x = np.where(near, rng.standard_normal(shape), x)
    raise ValueError(f"away_from_kinks: a margin of {margin} leaves no room between the kinks {tuple(kinks)}")


def _outputs(forward, args):
    returned = forward(*args)
    if not isinstance(returned, tuple) or len(returned) < 2:
        raise TypeError(f"check_gradients: forward must return (outputs..., cache), got {type(returned).__name__}")
    return returned[:-1], returned[-1]


def _project(forward, args, cotangents):
    """The scalar <cotangents, forward(args)> that a gradient check differentiates."""
    return sum(np.sum(w * y) for w, y in zip(cotangents, _outputs(forward, args)[0]))


def _replaced(args, which, value):
    return [*args[:which], value, *args[which + 1:]]


def _moved(forward, args, which, cotangents, *steps):
    """<cotangents, outputs> with each entry of args[which] moved alone: for each step, an array of that shape."""
    nudged = np.array(args[which], np.result_type(float, *steps))
    values = np.zeros((len(steps), *nudged.shape), nudged.dtype)
    for index in np.ndindex(nudged.shape):
        middle = nudged[index]
        for k, step in enumerate(steps):
            nudged[index] = middle + step
            values[(k, *index)] = _project(forward, _replaced(args, which, nudged), cotangents)
        nudged[index] = middle
    return values


def complex_step(forward, args, which, cotangents, step=COMPLEX_STEP):
    """Gradient of <cotangents, outputs> with respect to args[which]: the imaginary part of f(x + ih), over h.

    Error h**2, and no subtraction: any step so small that its square is below rounding gives all digits. One forward
    pass per entry.
    """
    ahead, = _moved(forward, args, which, cotangents, 1j * step)
    return ahead.imag / step


def slope(f, w):
    """The derivative of a number f(w) with respect to each entry of w, by the complex step."""
    return complex_step(lambda w: (f(w), None), [np.asarray(w, float)], 0, [1.0])


def forward_difference(forward, args, which, cotangents, step=FORWARD_STEP):
    """The same gradient by (f(x + h) - f(x)) / h. Error h; one forward pass per entry, and one more."""
    ahead, = _moved(forward, args, which, cotangents, step)
    return (ahead - _project(forward, args, cotangents)) / step


def central_difference(forward, args, which, cotangents, step=CENTRAL_STEP):
    """The same gradient by (f(x + h) - f(x - h)) / 2h. Error h**2, two forward passes per entry."""
    ahead, behind = _moved(forward, args, which, cotangents, step, -step)
    return (ahead - behind) / (2 * step)


def five_point_difference(forward, args, which, cotangents, step=FIVE_POINT_STEP):
    """The same gradient from f(x + h), f(x - h), f(x + 2h), f(x - 2h). Error h**4, four forward passes per entry.

    Source: Fornberg 1988, "Generation of finite difference formulas on arbitrarily spaced grids".
    """
    ahead, behind, far_ahead, far_behind = _moved(forward, args, which, cotangents, step, -step, 2 * step, -2 * step)
    return (8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * step)


def richardson_difference(forward, args, which, cotangents, step=RICHARDSON_STEP, levels=4):
    """The same gradient by central differences of h, h/2, h/4, ... (`levels` of them), extrapolated to a step of 0.

    Each pass over the list removes the next even power of h. Error h**(2 levels), 2 levels forward passes per entry.
    Source: Richardson 1911, "The approximate arithmetical solution by finite differences".
    """
    row = [central_difference(forward, args, which, cotangents, step / 2**k) for k in range(levels)]
    for power in range(1, levels):
        row = [fine + (fine - coarse) / (4**power - 1) for coarse, fine in zip(row, row[1:])]
    return row[0]


def _checked_arguments(forward, backward, args, wrt):
    """Names and positions of the arguments whose gradients backward returns."""
    names = list(inspect.signature(forward).parameters)[:len(args)]
    if wrt is None:
        try:
            wrt = [argument.name[1:] for argument in parse_shapes(backward)[1]]
        except ValueError:
            wrt = [name for name, a in zip(names, args) if isinstance(a, np.ndarray) and a.dtype.kind in "fc"]
    unknown = set(wrt) - set(names)
    if unknown:
        raise ValueError(f"check_gradients: forward has no argument {sorted(unknown)}; it has {names}")
    return [(name, names.index(name)) for name in wrt]


def _complex_reference(forward, args, name, which, cotangents, rng):
    """The complex step, once a rough difference along one direction has shown that no imaginary part got lost."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", COMPLEX_WARNING)
            reference = complex_step(forward, args, which, cotangents)
    except (TypeError, Warning) as error:
        raise TypeError(f"check_gradients: forward cannot carry complex numbers in {name} ({error}); "
                        "use method='central'") from error
    direction = rng.standard_normal(np.shape(args[which]))
    ahead, behind = (_project(forward, _replaced(args, which, args[which] + s * 1e-6 * direction), cotangents)
                     for s in (1, -1))
    slope, expected = (ahead - behind) / 2e-6, np.sum(reference * direction)
    rounding = 1e3 * np.finfo(float).eps * max(abs(ahead), abs(behind)) / 2e-6
    if abs(slope - expected) > 1e-3 * abs(slope) + rounding:
        raise TypeError(f"check_gradients: forward drops the imaginary part of {name} (np.abs, np.var, np.linalg.norm "
                        "and float arrays made inside do), or has a kink there; use method='central' away from kinks")
    return reference


def check_gradients(forward, backward, *args, wrt=None, method="complex", limit=None, rng=None):
    """Compare every gradient that backward returns with a reference computed from forward alone.

    args    forward's arguments; those that are float arrays are differentiated, or those named in `wrt`.
    method  "complex" (limit 1e-12) or "central" (limit 1e-7).
    rng     numpy.random.Generator for the cotangents; if none is given, one with a seed of its own.

    Returns a Report. Raises GradientError naming the gradient, the worst entry, both values, and what the pattern of
    the error suggests; TypeError or ValueError if the pair does not follow the convention.
    """
    if method not in LIMITS:
        raise ValueError(f"check_gradients: method must be one of {sorted(LIMITS)}, got {method!r}")
    limit = LIMITS[method] if limit is None else limit
    rng = np.random.default_rng(OWN_SEED) if rng is None else rng
    args = [a.astype(float) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
    checked = _checked_arguments(forward, backward, args, wrt)
    outputs, cache = _outputs(forward, args)
    if not all(np.isfinite(y).all() for y in outputs):
        raise ValueError("check_gradients: forward returned NaN or inf, where there is no gradient to check")
    cotangents = [rng.standard_normal(np.shape(y)) for y in outputs]
    resolution = 64 * np.finfo(float).eps * sum(np.sum(np.abs(w * y)) for w, y in zip(cotangents, outputs))
    resolution = resolution / CENTRAL_STEP if method == "central" else resolution
    gradients = []
    for (name, which), yours in zip(checked, _returned(backward, cotangents, cache, checked)):
        if method == "complex":
            def derive(args, name=name, which=which):
                return _complex_reference(forward, args, name, which, cotangents, rng)
        else:
            def derive(args, name=name, which=which):
                return central_difference(forward, args, which, cotangents)
        reference = derive(args)
        error = relative_error(yours, reference) if np.shape(yours) == reference.shape else np.inf
        if error > limit and _is_rounding(yours, reference, derive, args, resolution):
            error = 0.0
        gradients.append(Gradient(f"d{name}", np.asarray(yours), reference, error))
        if not error <= limit:
            raise GradientError(explain(gradients[-1], args, limit))
    return Report(tuple(gradients), method, limit)


def _returned(backward, cotangents, cache, checked):
    """What backward returns: an array for each argument to check. It is given copies, in case it works in place."""
    if not checked:
        raise ValueError("check_gradients: no argument is a float array, so there is nothing to differentiate")
    returned = backward(*[w.copy() if w.ndim else float(w) for w in map(np.asarray, cotangents)], cache)
    names = ", ".join(f"d{name}" for name, _ in checked)
    if returned is None or isinstance(returned, list):
        raise ValueError(f"check_gradients: backward returned {'nothing' if returned is None else 'a list'}; its last "
                         f"line should be: return {names}")
    returned = returned if isinstance(returned, tuple) else (returned,)
    if len(returned) != len(checked):
        raise ValueError(f"check_gradients: backward returned {len(returned)} of {len(checked)} gradients; expected "
                         f"{names}, in this order, or others by name in wrt=[...]")
    missing = [f"d{name}" for (name, _), array in zip(checked, returned) if array is None]
    if missing:
        raise ValueError(f"check_gradients: backward returned None for {', '.join(missing)}")
    return returned


def _nudged(args, bits):
    """All float arrays a few bits off: entries relative to their own size, or to 1 if they are 0."""
    return [a + bits * np.finfo(float).eps * np.where(a == 0, 1, a)
            if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]


def _is_rounding(yours, reference, derive, args, resolution):
    """True if the true gradient is zero and both numbers are rounding.

    Below `resolution` a number may be rounding, or a gradient that is only tiny. A nudge of the inputs by a few bits
    changes rounding beyond recognition (not each time: it may repeat by chance, hence several nudges), while a gradient
    stays, and is held to the limit.
    """
    if not (np.isfinite(yours).all() and max(_largest(yours), _largest(reference)) <= resolution):
        return False
    return not reference.any() or any(relative_error(derive(_nudged(args, bits)), reference) > 0.1 for bits in NUDGES)


def _shape_message(name, got, expected):
    hint = ""
    if got == expected[::-1]:
        hint = " It looks transposed."
    elif len(got) < len(expected):
        hint = " Was an axis summed that should not be?"
    elif len(got) > len(expected):
        hint = " Sum over every axis along which the forward pass copied it."
    return f"{name} has shape {got}, but a gradient has the shape of its variable, {expected}.{hint}"


def explain(gradient, args, limit):
    """The message of a failed check: where, both values, and the pattern of the error."""
    name, yours, reference, error = gradient
    if yours.shape != reference.shape:
        return _shape_message(name, yours.shape, reference.shape)
    wrong = np.nan_to_num(np.abs(yours - reference), nan=np.inf)
    worst = np.unravel_index(np.argmax(wrong), wrong.shape)
    n_wrong = int(np.sum(wrong > limit * np.abs(reference).max()))
    where = f"[{', '.join(map(str, worst))}]" if worst else ""
    return (f"{name} is wrong: relative error {error:.1e}, limit {limit:.0e}; {n_wrong} of {yours.size} entries "
            f"differ. Worst at {name}{where}: yours {yours[worst] + 0.0:.6g}, reference {reference[worst] + 0.0:.6g}. "
            + _hint(name, yours, reference, args))


def _hint(name, yours, reference, args):
    if not np.isfinite(yours).all():
        return "It holds NaN or inf: look for 0/0, log(0) or an overflow."
    if not yours.any():
        return "It is zero everywhere: nothing flows back to this argument."
    if not reference.any():
        return "The true gradient is zero: the output does not depend on this argument."
    if yours.ndim == 2 and yours.shape[0] == yours.shape[1] and relative_error(yours.T, reference) < 1e-6:
        return "It equals the transpose of the true gradient: two indices are swapped."
    yours, reference = yours / _largest(reference), reference / _largest(reference)
    factor = float(np.sum(yours * reference) / np.sum(reference**2))
    if relative_error(yours, factor * reference) < 1e-6:
        return f"It is {factor:.4g} times the true gradient everywhere: {_factor_hint(factor, args)}."
    size = "above 0.999" if (close := cosine(yours, reference)) > 0.999 else f"{close:.3f}"
    return (f"The cosine to the true gradient is {size}: a term is missing or wrong. "
            "Which sum, which path does the forward pass use that backward does not?")


def _factor_hint(factor, args):
    N = next((a.shape[0] for a in args if isinstance(a, np.ndarray) and a.ndim), 0)
    if np.isclose(factor, -1):
        return "a sign is flipped"
    causes = []
    if N > 1 and (np.isclose(factor, N) or np.isclose(factor, 1 / N)):
        causes.append(f"N = {N}, and the 1/N of a mean belongs into the loss, once")
    if np.isclose(factor, 2) or np.isclose(factor, 0.5):
        causes.append("a path is counted twice or left out, or the 2 of a square is missing or doubled")
    return ", or ".join(causes) or "a constant factor is missing or doubled"


def on_grid(rng, shape):
    """Random multiples of 1/8 in [-1, 1]: sums of their products are exact in floating point."""
    return rng.integers(-8, 9, shape) / 8


def check_adjoint(forward, backward, *args, wrt, rng=None):
    """Demand <w, f(x + v) - f(x)> == <gradient, v>, exactly, for one argument in which forward is affine.

    args must lie on a grid such as `on_grid` draws. v steps through the entries one by one, and no entry of w is 0, so
    that nothing can hide behind a zero or a cancellation. Returns the common value for one more, random v.
    Raises GradientError if the two sides differ by as much as one bit, ValueError for an unknown argument.
    """
    rng = np.random.default_rng(OWN_SEED) if rng is None else rng
    names = _checked_arguments(forward, backward, list(args), None)
    if wrt not in dict(names):
        raise ValueError(f"check_adjoint: backward returns no gradient of {wrt!r}, only of {list(dict(names))}")
    outputs, cache = _outputs(forward, args)
    cotangents = [np.where(w == 0, 0.5, w) for w in (on_grid(rng, np.shape(y)) for y in outputs)]
    returned = _returned(backward, cotangents, cache, names)
    gradient, which = returned[list(dict(names)).index(wrt)], dict(names)[wrt]
    for index in np.ndindex(np.shape(args[which])):
        step = np.zeros(np.shape(args[which]))
        step[index] = 0.125
        _compare_adjoint(forward, args, which, wrt, outputs, cotangents, gradient, step)
    return _compare_adjoint(forward, args, which, wrt, outputs, cotangents, gradient, on_grid(rng, step.shape))


def _compare_adjoint(forward, args, which, wrt, outputs, cotangents, gradient, step):
    moved, _ = _outputs(forward, _replaced(list(args), which, args[which] + step))
    left = float(sum(np.sum(w * (new - old)) for w, new, old in zip(cotangents, moved, outputs)))
    right = float(np.sum(gradient * step))
    if left != right:
        raise GradientError(f"d{wrt} is not the adjoint of forward: <w, f(x+v) - f(x)> = {left!r}, "
                            f"<d{wrt}, v> = {right!r}")
    return left
