"""Read the `Shapes:` line of a docstring, and build random arrays that fit it.

    Shapes: z (N, K), t (N) in 0..K-1 -> loss ()

Capitals are sizes, `4H` is four times H, `CIJ` a product, `K-1` one less than K, `C/groups` C divided by the argument
groups, `()` is a number. `in a..b` asks for integers, `in [a, b)` for floats of that range; everything else is standard
normal. The line may go on over several lines. Arguments that it does not name are options, such as a stride.
"""

import inspect
import math
import re
from typing import NamedTuple

import numpy as np


# Different primes wherever they meet: two sizes that are equal, or divide each other, would let a wrong axis pass.
PRIMES = {"N": 3, "K": 5, "D": 7, "H": 11, "C": 2, "F": 7, "I": 17, "J": 29, "R": 5, "S": 11, "P": 13, "Q": 19, "T": 13,
          "V": 17}

DIM = r"\d*[A-Z]+(?:/[a-z_]+)?|\d+"
DIMS = rf"(?:{DIM})(?:[+-](?:{DIM}))*"
ITEM = re.compile(rf"(\w+) \(((?:{DIMS})(?:, {DIMS})*)?\)(?: in (-?{DIMS}\.\.-?{DIMS}|\[[^,\]]+, [^,\]]+\)))?")


class Argument(NamedTuple):
    name: str
    dims: tuple
    range: str


def parse_shapes(function):
    """The two sides of the arrow in the function's docstring, as two lists of Argument.

    Raises ValueError if there is no such line or if it does not read as above.
    """
    lines = (function.__doc__ or "").partition("Shapes:")[2].splitlines()
    # the statement goes on as long as the next line starts with a further item or with the arrow
    end = next((i for i, line in enumerate(lines) if i and not re.match(r"\s*(->|\w+ \()", line)), len(lines))
    text = " ".join(line.strip() for line in lines[:end])
    if not text.strip():
        raise ValueError(f"{function.__name__}: the docstring has no line 'Shapes: x (N, D) -> z (N, H)'")
    sides = text.split("->")
    if len(sides) != 2:
        raise ValueError(f"{function.__name__}: 'Shapes:' needs one arrow between inputs and outputs")
    return tuple(_parse_side(side.strip(" ,"), function.__name__) for side in sides)


def _parse_side(side, name):
    arguments, rest = [], side
    while rest:
        m = ITEM.match(rest)
        if not m or not re.match(r", |,?$", rest[m.end():]):
            raise ValueError(f"{name}: cannot read {rest!r} in the line 'Shapes: ...'")
        arguments.append(Argument(m[1], tuple(m[2].split(", ")) if m[2] else (), m[3]))
        rest = rest[m.end():].lstrip(", ")
    return arguments


def size_of(dim, sizes):
    """The number that a dimension such as `H`, `4H` or `K-1` stands for. Raises KeyError for an unknown letter."""
    if not re.fullmatch(rf"-?{DIMS}", dim):
        raise ValueError(f"cannot read the dimension {dim!r}")
    total = 0
    for sign, factor, letters, divisor, number in re.findall(r"([+-]?)(?:(\d*)([A-Z]+)(?:/([a-z_]+))?|(\d+))", dim):
        value = int(factor or 1) * math.prod(sizes[letter] for letter in letters) if letters else int(number)
        value //= sizes.get(divisor, 1)
        total += -value if sign == "-" else value
    return total


def shape_of(argument, sizes=PRIMES):
    """The shape of one argument, as a tuple of numbers."""
    return tuple(size_of(dim, sizes) for dim in argument.dims)


def build(argument, rng, sizes=PRIMES):
    """A random array for one argument; where the shape is (), a Python float, or int if its range is of integers."""
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
    return value if shape else np.asarray(value).item()


def build_inputs(function, rng, sizes=PRIMES):
    """Arguments for a forward function, in order: random arrays, then its options as `sizes` has them by name."""
    arrays = parse_shapes(function)[0]
    named = {argument.name for argument in arrays}
    options = [p for p in inspect.signature(function).parameters.values() if p.name not in named]
    sizes = {"kernel_size": (sizes.get("R"), sizes.get("S")), **sizes}
    return [build(argument, rng, sizes) for argument in arrays] + [sizes.get(p.name, p.default) for p in options]


def sizes_found(forward, outputs, sizes=PRIMES):
    """`sizes`, but letters that only the outputs have, such as P, are what the returned arrays show."""
    inputs, returned = parse_shapes(forward)
    given = {letter for argument in inputs for letter in re.findall("[A-Z]", "".join(argument.dims))}
    return {**sizes, **{dim: n for argument, y in zip(returned, outputs) for dim, n in zip(argument.dims, np.shape(y))
                        if re.fullmatch("[A-Z]", dim) and dim not in given}}
