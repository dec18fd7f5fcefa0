"""Read the `Shapes:` line of a docstring, and build random arrays that fit it.

    Shapes: z (N, K), t (N) in 0..K-1 -> loss ()

Capitals are sizes, `4H` is four times H, `()` is a number. `in a..b` asks for integers, `in [a, b)` for floats of
that range; everything else is standard normal.
"""

import math
import re
from typing import NamedTuple

import numpy as np

# Different primes: two sizes that are equal, or divide each other, would let a wrong axis pass.
PRIMES = {"N": 3, "K": 5, "D": 7, "H": 11}

ITEM = re.compile(r"(?P<name>\w+) \((?P<dims>[^)]*)\)(?: in (?P<range>\S+\.\.\S+|\[[^)]*\)))?")


class Argument(NamedTuple):
    name: str
    dims: tuple
    range: str


def parse_shapes(function):
    """The two sides of the arrow in the function's docstring, as two lists of Argument."""
    found = re.search(r"Shapes:(.*?)(?:\n\s*\n|\Z|\n\s*[A-Z]\w+ )", function.__doc__ or "", re.DOTALL)
    if not found:
        raise ValueError(f"{function.__name__}: the docstring has no line 'Shapes: x (N, D) -> z (N, H)'")
    sides = found[1].split("->")
    if len(sides) != 2:
        raise ValueError(f"{function.__name__}: 'Shapes:' needs one arrow between inputs and outputs")
    return tuple([Argument(m["name"], tuple(m["dims"].replace(" ", "").split(",")) if m["dims"] else (), m["range"])
                  for m in ITEM.finditer(side)] for side in sides)


def size_of(dim, sizes):
    """The number that a dimension such as `H`, `4H` or `K-1` stands for."""
    total = 0
    for sign, factor, letter, number in re.findall(r"([+-]?)(?:(\d*)([A-Z])|(\d+))", dim):
        value = int(factor or 1) * sizes[letter] if letter else int(number)
        total += -value if sign == "-" else value
    return total


def shape_of(argument, sizes=PRIMES):
    """The shape of one argument, as a tuple of numbers."""
    return tuple(size_of(dim, sizes) for dim in argument.dims)


def build(argument, rng, sizes=PRIMES):
    """A random array for one argument: a float where the shape is ()."""
    shape = shape_of(argument, sizes)
    if argument.range is None:
        value = rng.standard_normal(shape)
    elif ".." in argument.range:
        low, high = (size_of(end, sizes) for end in argument.range.split(".."))
        value = rng.integers(low, high + 1, shape)
        if math.prod(shape) > 1:
            value.flat[0], value.flat[-1] = low, high           # both ends always occur
    else:
        low, high = (float(end) for end in argument.range[1:-1].split(","))
        value = rng.uniform(low, high, shape)
    return value if shape else float(value)


def build_inputs(function, rng, sizes=PRIMES):
    """Random arguments for a forward function, in order."""
    return [build(argument, rng, sizes) for argument in parse_shapes(function)[0]]
