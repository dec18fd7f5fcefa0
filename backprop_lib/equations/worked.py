"""An example on paper: every number that the labelled lines of a sequence compute, step by step."""

import re

import numpy as np
import sympy

from ..gradcheck import check_gradients, relative_error
from ..shapes import parse_shapes
from .evaluate import letters_of
from .exercise import located
from .latex import Printer
from .ledger import LIMIT, LedgerError, all_sizes, coded_value, run_on
from .table import display


def work_through(forward, *args, cotangents):
    """Show what each labelled line of a sequence pair computes on these arguments, with a column for every time step.

    Each number is compared with what its equation says, and the gradients with the complex step; raises LedgerError or
    GradientError if they differ. Of arrays with more than one entry a step, all are shown, in their order.
    """
    of, pair = located(forward)
    sizes = {dim: n for a, value in zip(parse_shapes(forward)[0], args) for dim, n in zip(a.dims, np.shape(value))
             if re.fullmatch("[A-Z]", dim)}
    this = run_on(of, pair, args, cotangents, all_sizes(pair, sizes))
    check_gradients(pair.forward_function, pair.backward_function, *args)
    both = [sorted(statements, key=lambda s: not in_time(s)) for statements in (
        pair.forward + pair.inner.forward, pair.backward + pair.inner.backward)]
    forward_rows, backward_rows = ([row(of, pair, s, this) for s in statements if s.label] for statements in both)
    rows = [*forward_rows, ["", "backward", "*backward, from right to left*", *[""] * (sizes["T"] + 1)], *backward_rows]
    times = [f"t = {t}" for t in range(sizes["T"])]
    head = ["equation", "quantity", *times, "all steps"]
    plain = "\n".join("  ".join(f"{cell:>10}" for cell in (r[0], r[1], *r[3:])) for r in rows)
    markdown = "\n".join("| " + " | ".join((r[0], r[2], *r[3:])) + " |" for r in rows)
    display(plain, f"| {' | '.join(head)} |\n|{':--|' * 2}{'--:|' * (len(times) + 1)}\n{markdown}")


def row(of, pair, statement, this):
    """Label, name, the name in LaTeX, and the numbers as texts: one for each step, or one for them all."""
    value, expected = np.asarray(coded_value(pair, statement, this)), this.values[statement.name]
    if not relative_error(value, expected) <= LIMIT:
        raise LedgerError(f"({statement.label}): statement and code differ: {expected.tolist()}, {value.tolist()}")
    symbol = Printer(of.tex)(sympy.Symbol(statement.name, real=True))
    symbol = re.sub(r"^\\frac{(.*?)}{(.*)}$", r"\1/\2", symbol)    # in a line of text
    letters = [letter.name for letter in letters_of(statement)]
    steps = np.moveaxis(value, letters.index("t"), 0) if in_time(statement) else value[None]
    texts = [", ".join(f"{number + 0.0:.4f}" for number in step.ravel()) for step in steps]
    cells = texts + [""] if in_time(statement) else [""] * this.sizes["T"] + texts
    return [f"({statement.label})", statement.name, f"${symbol}$", *cells]


def in_time(statement):
    return any(letter.name == "t" for letter in letters_of(statement))
