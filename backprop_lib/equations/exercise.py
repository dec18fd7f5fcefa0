"""Tell a reader, at once, which of their gradients are right and which equation is broken."""

import functools

import numpy as np

from ..gradcheck import LIMITS, GradientError, check_gradients, explain
from ..shapes import build_inputs, parse_shapes
from .ledger import FAMILIES, all_sizes, arguments, family


def exercise(forward, backward, *args):
    """Print a line for every gradient of the reader's backward function.

    forward may be a function of the library; then args can be left out, random arrays are drawn as its `Shapes:` line
    says, and a wrong gradient is named with its equation. Unlike `check_gradients` this does not raise for a wrong
    gradient: an exercise that is not done yet must not stop the notebook.
    """
    of, pair = located(forward)
    labels, wrt = {}, None
    if pair:
        labels = {s.name: s.label for s in pair.all_backward if s.label}
        wrt = [gradient.name[1:] for gradient in parse_shapes(pair.backward_function)[1]]
        args = args or arguments(pair, forward, np.random.default_rng(0), all_sizes(pair, of.sizes[0]))
    args = args or build_inputs(forward, np.random.default_rng(0))
    try:
        report = check_gradients(forward, _explained(backward, args), *args, wrt=wrt, limit=np.inf)
    except (GradientError, TypeError, ValueError) as error:
        print(f"Not yet: {error}")
        return
    for gradient in report.gradients:
        label = f" ({labels[gradient.name]})" if gradient.name in labels else ""
        limit = LIMITS[report.method]
        print(f"{gradient.name}{label}: right" if gradient.error <= limit
              else f"Not yet{label}: {explain(gradient, args, limit)}")


def _explained(backward, args):
    """The same function, whose shape errors also say what it was given."""
    @functools.wraps(backward)
    def explained(*given):
        try:
            return backward(*given)
        except ValueError as error:
            shapes = [str(np.shape(a)) for a in given[:-1]], [str(np.shape(a)) for a in args]
            raise ValueError(f"inside your function: {error}. It was given cotangents of shape {', '.join(shapes[0])}; "
                             f"the arguments of forward have shapes {', '.join(shapes[1])}") from error
    return explained


def located(forward):
    """Family and pair of a function of the ledger, or None twice."""
    for of in map(family, FAMILIES):
        for pair in of.pairs:
            if pair.forward_function is forward:
                return of, pair
    return None, None
