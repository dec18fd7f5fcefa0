"""The perceptron and the ADALINE: one neuron with a step, and two rules that train it without a slope of the step.

x has one example a row, t is 0 or 1, w one weight for each input; a bias is the weight of an input that is always 1.
Sources: Rosenblatt 1958, "The perceptron"; Widrow and Hoff 1960, "Adaptive switching circuits".
"""

import numpy as np

from .checks import require_float, require_number, require_size


def heaviside(z):
    """1 where z > 0, else 0, of an array of any shape. The slope is 0 wherever there is one.

    Shapes: z (N) -> h (N)
    """
    return np.heaviside(z, 0)


def perceptron_rule(w, x, t, rate=1.0):
    """The weights after one example: error of the *answer* times input; a right answer moves nothing.

    Shapes: w (D), x (D), t () in 0..1 -> new (D)
    """
    t, rate = require_example("perceptron_rule", w, x, t, rate, "that is 0 or 1", lambda t: t in (0, 1))
    return w + rate * (t - heaviside(x @ w)) * x


def delta_rule(w, x, t, rate=0.1):
    """The weights after one example: error of the *sum*, before the step, times input.

    Shapes: w (D), x (D), t () -> new (D)
    """
    t, rate = require_example("delta_rule", w, x, t, rate)
    return w + rate * (t - x @ w) * x


def learn(rule, w, x, t, epochs):
    """The weights before the first example and after each one, going `epochs` times through the rows of x in order.

    x is (N, D), w (D), t (N), the result (epochs N + 1, D). Raises ValueError or TypeError for anything else.
    """
    epochs = require_size("learn", "epochs", epochs)
    require_float("learn", "x", x)
    if x.ndim != 2 or np.shape(t) != x.shape[:1] or np.shape(w) != x.shape[1:]:
        raise ValueError(f"learn: w, x and t must have shapes (D), (N, D) and (N), got {np.shape(w)}, {x.shape} and "
                         f"{np.shape(t)}")
    path = [w]
    for example, target in epochs * list(zip(x, t)):
        path.append(rule(path[-1], example, target))
    return np.array(path)


def require_example(owner, w, x, t, rate, condition="", holds=lambda t: True):
    """Weights and one example that fit each other; returns t and rate as Python floats, which never widen an array."""
    require_float(owner, "w", w)
    require_float(owner, "x", x)
    if w.ndim != 1 or x.shape != w.shape:
        raise ValueError(f"{owner}: w and x must have the same shape (D), got {w.shape} and {x.shape}")
    return require_number(owner, "t", t, condition, holds), require_number(owner, "rate", rate)
