"""Tell a reader, at once, which of their gradients are right and which equation is broken."""

import functools

import numpy as np

from ..gradcheck import LIMITS, GradientError, check_gradients, explain
from ..shapes import build_inputs
from .language import name_of
from .ledger import FAMILIES, family


def exercise(forward, backward, *args):
    """Print a line for every gradient of the reader's backward function.

    forward may be a function of the library; then args can be left out, random arrays are drawn as its `Shapes:` line
    says, and a wrong gradient is named with its equation. Unlike `check_gradients` this does not raise for a wrong
    gradient: an exercise that is not done yet must not stop the notebook.
    """
    labels, wrt = _labels(forward)
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


def _labels(forward):
    """{gradient name: label} and the names to check, if forward is a function of the ledger."""
    for prefix in FAMILIES:
        for pair in family(prefix).pairs:
            if pair.forward_function is forward:
                labels = {name_of(s.lhs): s.label for s in pair.backward}
                return labels, [name[1:] for name in labels]
    return {}, None
