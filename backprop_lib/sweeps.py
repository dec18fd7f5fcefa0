"""Other ways through the record of `autodiff`: forward, path by path, and what each way costs.

`directional` carries a direction along from the inputs on, one sweep for one direction; `path_sum` multiplies the rates
along every single path; `count_multiplications` counts what NumPy carries out in any of them.
"""

import numpy as np

from .autodiff import Node, add_to, go_back, like, require_nodes, require_unchanged, steps_to, value_of


STEP = 1e-100                                                   # in the complex step; tiny beside any float32


# ------------------------------------------------------------------------------------------------ forward mode

def directional(output, *moves):
    """The derivative of the output when nodes move: one sweep forward for one direction.

    output  a node
    moves   pairs (node, direction), the direction an array like the node; if a node is there twice, the moves add

    Returns an array like the output. Raises ValueError or TypeError for a direction that does not fit its node, or
    for an apply'd pair that complex numbers cannot go through, or whose forward and backward do not agree on the way
    of the direction, RuntimeError if a recorded array was changed in place.
    Source: Wengert 1964, "A simple automatic derivative evaluation program".
    """
    require_nodes("directional", output, *(node for node, _ in moves))
    moving, seen = {}, set()
    for node, v in moves:
        add_to(moving, node.key, like(node, "directional", "direction", v))
    for step in steps_to(output):
        directions = [moving.get(a.key) if isinstance(a, Node) else None for a in step.args]
        if any(v is not None for v in directions):
            require_unchanged(step, seen)
            for place, (v, y) in enumerate(zip(push(step, directions), step.outputs)):
                add_to(moving, (step.number, place), np.asanyarray(v, y.dtype))
    return np.array(moving.get(output.key, np.zeros_like(output.value)), subok=True)


def push(step, directions):
    """How the outputs of a step move; None stands for an argument that rests. No operation has a rule of its own.

    A linear operation does to directions what it does to values. A product has the product rule. An entrywise one has
    a diagonal Jacobian, its own transpose, so backward serves. All others get complex numbers.
    """
    values, (_, forward, backward, kind, wanted) = list(map(value_of, step.args)), step.rule
    moves = [(i, v) for i, v in enumerate(directions) if v is not None]
    if kind == "linear":
        rest = [np.zeros_like(a) if i in wanted else a for i, a in enumerate(values)]
        return forward(*(a if v is None else v for a, v in zip(rest, directions)))[:-1]
    if kind == "product":
        first, *others = (forward(*values[:i], v, *values[i+1:])[0] for i, v in moves)
        return [sum(others, first)]
    if kind == "entrywise":
        return backward(directions[0], step.cache)
    return push_complex(step, values, moves)


def push_complex(step, values, moves):
    """How the outputs of any step move, by the complex step; moves are pairs (place of the argument, direction)."""
    largest = max(np.max(np.abs(v), initial=0, where=np.isfinite(v)) for v in (np.asarray(v) for _, v in moves))
    size = 2.0 ** (np.frexp(np.float64(largest))[1] - 1)        # of the direction, which may be huge or tiny
    values = [a.astype(np.float64) if getattr(a, "dtype", None) == np.float32 else a for a in values]
    for i, v in moves:
        values[i] = values[i] + 1j * (STEP * (v.astype(np.float64) / size))
    outputs = step.rule.forward(*values)[:-1]
    if not all(map(np.iscomplexobj, outputs)):
        raise TypeError(f"directional: the forward of {step.rule.name} drops imaginary parts (np.abs, np.linalg.norm "
                        "and float arrays made inside do), so no direction can be carried through it")
    found = [y.imag / STEP * size for y in outputs]
    if step.rule.kind == "pair":
        require_agreement(step, {step.args[i].key: v for i, v in moves}, found)
    return found


def require_agreement(step, moving, found):
    """w . (J v) = (J^T w) . v for random w, with J v from forward and J^T w from backward, or TypeError is raised."""
    rng = np.random.default_rng(0)
    cotangents = [rng.standard_normal(y.shape).astype(y.dtype) for y in step.outputs]
    sides = [(w, d) for w, d in zip(cotangents, found)]
    others = [(d, moving[node.key]) for node, d in go_back(step, cotangents) if node.key in moving]
    left, right = (sum(np.vdot(*map(wide, pair)) for pair in pairs) for pairs in (sides, others))
    scale = sum(np.prod([np.linalg.norm(wide(a)) for a in pair]) for pair in sides + others)
    if abs(left - right) > np.sqrt(np.finfo(cotangents[0].dtype).eps) * scale:
        raise TypeError(f"directional: forward and backward of {step.rule.name} do not agree, so no direction can be "
                        "carried through it; forward must keep imaginary parts, draw nothing, and take each kink as "
                        "backward does")


def wide(a):
    return np.asarray(a, np.float64).ravel()


# ------------------------------------------------------------------------------------------------ path by path

def rates(node):
    """Pairs (input, d node / d input), one for each arrow that ends at a node: what a path multiplies.

    The node and its inputs are single numbers, or ValueError is raised. RuntimeError as `gradients`.
    """
    require_nodes("rates", node)
    step = node.step
    for a in (node, *(step.args if step else ())):
        if isinstance(a, Node) and a.value.size != 1:
            raise ValueError(f"rates: each node must be a single number, got shape {a.shape}")
    if step is None:
        return []
    require_unchanged(step, set())
    return go_back(step, [np.full_like(y, place == node.key[1]) for place, y in enumerate(step.outputs)])


def path_sum(output, node):
    """d output / d node as the sum over all paths of the product of their rates, without adding at nodes in between.

    Returns (derivative, paths, multiplications): one for each arrow, also of rate 1; what paths share next to the
    output is multiplied once. The number of paths grows exponentially with depth, while `gradients` goes over each
    arrow once. Raises as `rates`.
    """
    require_nodes("path_sum", output, node)
    arrows, waiting = {}, [(output, 1.0)]
    derivative, paths, multiplications = 0.0, 0, 0
    while waiting:
        end, product = waiting.pop()
        if end is node:
            derivative, paths = derivative + product, paths + 1
            continue
        if end.key not in arrows:
            arrows[end.key] = [(before, rate.item()) for before, rate in rates(end)]
        multiplications += len(arrows[end.key])
        waiting += [(before, product * rate) for before, rate in arrows[end.key]]
    return derivative, paths, multiplications


# ------------------------------------------------------------------------------------------------ counting

# These multiply where no ufunc is seen.
BLIND = (np.dot, np.einsum, np.inner, np.outer, np.tensordot, np.vdot, np.kron, np.cross, np.convolve, np.correlate,
         np.cov, np.interp, np.broadcast_arrays)


class Counting(np.ndarray):
    """An array whose multiplications and divisions are tallied where NumPy carries them out."""

    def __array_finalize__(self, parent):
        self.tally = getattr(parent, "tally", None)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if any(isinstance(a, Node) for a in inputs):
            return NotImplemented                               # the node knows what to do
        counted = ufunc in (np.multiply, np.divide, np.floor_divide, np.reciprocal, np.square, np.matmul)
        if counted and method != "__call__" or ufunc.signature and not counted:
            raise TypeError(f"count_multiplications: cannot see into np.{ufunc.__name__}, {method}; write * or @")
        if "out" in options:
            options["out"] = tuple(map(plain, options["out"]))
        result = getattr(ufunc, method)(*map(plain, inputs), **options)
        if counted:
            depth = np.shape(inputs[0])[-1] if ufunc is np.matmul else 1
            self.tally.append(depth * np.size(result))
        return None if result is None else counting(np.asarray(result), self.tally)

    def __array_function__(self, function, types, args, options):
        if function in BLIND or function.__module__ in ("numpy.linalg", "numpy.fft"):
            raise TypeError(f"count_multiplications: cannot see into np.{function.__name__}; write * or @")
        result = super().__array_function__(function, types, args, options)
        return counting(result, self.tally) if type(result) is np.ndarray else result

    def __getitem__(self, index):
        return counting(np.asarray(plain(self)[index]), self.tally)         # one entry counts, too

    def dot(self, other):
        return np.dot(self, other)


def plain(a):
    return a.view(np.ndarray) if isinstance(a, Counting) else a


def counting(array, tally):
    array = array.view(Counting)
    array.tally = tally
    return array


def count_multiplications(function, *arrays):
    """How many multiplications and divisions of numbers function(*arrays) carries out; what it returns is dropped.

    arrays are of any shapes; what is none, such as a number or an option, is handed on as it is and does not count.
    Squares and 1/x count; exp, tanh and other powers do not, nor what is done to numbers and arrays that come out of
    float, item, np.array or np.asarray. Raises TypeError for NumPy's functions that multiply out of sight, such as
    np.einsum.
    """
    tally = []
    function(*(counting(a, tally) if isinstance(a, np.ndarray) else a for a in arrays))
    return sum(tally)
