"""backprop_lib.fast: every twin is its readable function, faster; nn runs the twins, and can be told not to.

A new family adds itself to FAMILIES of `backprop_lib.fast`; options and sizes its twins branch on go into OPTIONS.
The tests of the readable functions then run once more on the twins: `test_the_twins_pass_the_tests_of_their_family`.
"""

import concurrent.futures
import contextlib
import copy
import importlib
import inspect
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from arrays import frozen, same_bits, spread

from backprop_lib import fast, gradflow, mlp, nn
from backprop_lib.gradcheck import relative_error
from backprop_lib.museum import EXHIBITS, on_show
from backprop_lib.shapes import PRIMES, build_inputs, parse_shapes


LIMIT = {"d": 1e-12, "f": 1e-5}
WINDOWS = [{}, {"stride": (2, 1), "padding": (1, 0)}, {"stride": 3}, {"padding": 2, "dilation": (1, 2)}]
OPTIONS = {                                                     # beside the defaults; sizes by their letters
    "conv2d": [*WINDOWS, {"C": 4, "F": 6, "groups": 2}, {"R": 3, "S": 3, "padding": 1}, {"R": 1, "S": 1}],
    "conv_transpose2d": [*WINDOWS, {"C": 6, "F": 4, "groups": 2}, {"stride": 2, "output_padding": 1}],
    "max_pool2d": [*WINDOWS[:3], {"R": 4, "S": 5, "padding": 2, "dilation": (1, 2)}, {"R": 2, "S": 2}],
    "avg_pool2d": [*WINDOWS[:3], {"R": 4, "S": 5, "padding": 2, "count_include_pad": False}],
    "rnn": [{"nonlinearity": "relu"}, {"T": 1}, {"H": 1}], "lstm": [{"T": 1}, {"H": 1}],
    "gru": [{"reset_after": False}, {"T": 1}, {"H": 1}],
    "linear": [{"N": 1}, {"D": 1, "H": 1}], "softmax_cross_entropy": [{"N": 1}, {"K": 1}, {"N": 70, "K": 300}],
    "relu": [{"N": 70, "H": 300}], "sigmoid": [{"N": 70, "H": 300}],
}
RECURRENT = ("rnn_forward", "lstm_forward", "gru_forward")


# ------------------------------------------------------------------------------------------------ helpers

def twins():
    """The pairs with a twin, on the way there or back."""
    for family in fast.FAMILIES:
        module = importlib.import_module(f"backprop_lib.{family}")
        for name, function in vars(module).items():
            if name.endswith("_forward") and function.__module__ == module.__name__:
                forward, backward = function, getattr(module, name.removesuffix("_forward") + "_backward")
                if fast.tuned(forward) is not forward or fast.tuned(backward) is not backward:
                    yield forward, backward


def name_of(value):
    return getattr(value, "__name__", str(value))


PAIRS = list(twins())
CASES = [(*pair, option) for pair in PAIRS
         for option in [{}, *OPTIONS.get(pair[0].__name__.removesuffix("_forward"), [])]]
every_pair = pytest.mark.parametrize("forward, backward", PAIRS, ids=name_of)
every_case = pytest.mark.parametrize("forward, backward, option", CASES, ids=name_of)
both_widths = pytest.mark.parametrize("dtype", ["d", "f"])


def tuned(forward, backward):
    return fast.tuned(forward), fast.tuned(backward)


def inputs_of(forward, option=None, dtype="d", seed=1):
    """What the Shapes line asks for, in this width, entries away from 0 and from each other."""
    option = dict(option or {})
    if {"R", "S"} & set(option) and "2d" in forward.__name__:
        option["kernel_size"] = option.get("R"), option.get("S")
    args = build_inputs(forward, np.random.default_rng(seed), PRIMES | {"I": 13, "J": 17, "R": 3, "S": 2} | option)
    return [narrow(a, dtype) for a in args]


def narrow(a, dtype):
    return a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a


def tuple_of(value):
    return value if isinstance(value, tuple) else (value,)


def run(pair, args, change=lambda a: a, dy=None):
    """(outputs, cotangents, gradients, cache), every array handed over as `change` makes it."""
    forward, backward = pair
    *outputs, cache = forward(*[change(a) if isinstance(a, np.ndarray) else a for a in args])
    rng = np.random.default_rng(2)
    dys = dy or [narrow(np.asarray(rng.standard_normal(np.shape(y))), np.asarray(y).dtype.char) for y in outputs]
    dys = [change(d) if d.ndim else d.item() for d in dys]
    return outputs, dys, list(tuple_of(backward(*dys, cache))), cache


def outcome(pair, args, **how):
    """Outputs and gradients, or the error: its kind and its words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                     # of NaN and inf
            outputs, _, gradients, _ = run(pair, args, **how)
    except Exception as error:
        return type(error), str(error)
    return [*outputs, *gradients]


def assert_same(ours, readable, limit):
    """Errors alike; or shapes, dtypes, NaN and inf alike, and the rest within the limit."""
    if isinstance(readable, tuple):
        assert ours == readable
        return
    assert len(ours) == len(readable)
    for a, b in zip(map(np.asarray, ours), map(np.asarray, readable)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        finite = np.isfinite(b)
        assert np.array_equal(a[~finite], b[~finite], equal_nan=True) and np.isfinite(a[finite]).all()
        assert not b[finite].size or relative_error(a[finite], b[finite]) <= limit


# ------------------------------------------------------------------------------------------------ the same function

def test_there_are_twins():
    both = {"linear", "mse", "relu", "softmax_cross_entropy", "conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d",
            "rnn", "lstm", "gru"}
    found = {f.__name__ for pair in PAIRS for f in pair if fast.tuned(f) is not f}
    assert found == {f"{name}_{way}" for name in both for way in ("forward", "backward")} | {"sigmoid_forward"}


@every_pair
def test_a_twin_has_the_signature_of_its_function(forward, backward):
    for readable, twin in zip((forward, backward), tuned(forward, backward)):
        assert inspect.signature(twin) == inspect.signature(readable) and twin.__name__ == readable.__name__
        assert len(inspect.getsource(twin).splitlines()) <= 50


@every_pair
@both_widths
def test_a_twin_does_the_ordinary_case_itself(forward, backward, dtype, monkeypatch):
    def slow(*args):
        raise AssertionError("the readable function was called")
    pair, args = tuned(forward, backward), inputs_of(forward, dtype=dtype)
    for readable, twin in zip((forward, backward), pair):
        if twin is not readable:
            monkeypatch.setattr(f"{readable.__module__}.{readable.__name__}", slow)
    run(pair, args)


@every_case
@both_widths
def test_a_twin_gives_the_numbers_of_its_function(forward, backward, option, dtype):
    args = inputs_of(forward, option, dtype)
    assert_same(outcome(tuned(forward, backward), args), outcome((forward, backward), args), LIMIT[dtype])


def rounding_of(forward, backward, args, found):
    """The largest relative error of what the readable pair has found, against itself in long double."""
    _, dys, _, _ = run((forward, backward), args)
    wide = [a.astype(np.longdouble) if isinstance(a, np.ndarray) else a for a in args]
    exact = outcome((forward, backward), wide, dy=[d.astype(np.longdouble) for d in dys])
    return max(map(relative_error, found, exact))


@every_pair
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e3])
@both_widths
def test_small_and_large_numbers(forward, backward, scale, dtype):
    """Also entry by entry: a tail must not be lost beside a large neighbour.

    A gate's tail, exp(z) at a z of this scale, multiplies the rounding of z by it, in the readable function as well.
    How far that is off tells how far two recurrent networks that add in another order may be apart.
    """
    args = [a * np.asarray(scale, a.dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
            for a in inputs_of(forward, dtype=dtype)]
    ours, readable = outcome(tuned(forward, backward), args), outcome((forward, backward), args)
    rounding = rounding_of(forward, backward, args, readable) if forward.__name__ in RECURRENT else 0
    assert_same(ours, readable, max(LIMIT[dtype], min(scale * LIMIT[dtype], 4 * rounding)))
    if forward.__name__ in ("sigmoid_forward", "tanh_forward", "relu_forward"):
        for a, b in zip(ours, readable):
            ordinary = np.abs(b) > np.finfo(b.dtype).tiny
            assert np.allclose(a[ordinary], b[ordinary], rtol=LIMIT[dtype], atol=0)


@every_pair
@both_widths
def test_no_overflow_where_the_readable_function_has_none(forward, backward, dtype):
    args = [a * np.asarray(1e3, a.dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
            for a in inputs_of(forward, dtype=dtype)]
    with np.errstate(all="raise", under="ignore"):
        readable = outcome((forward, backward), args)
        if isinstance(readable, list):
            assert_same(outcome(tuned(forward, backward), args), readable, LIMIT[dtype])


@every_pair
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.0])
@pytest.mark.parametrize("which", range(6))
def test_nan_and_inf_go_the_same_way(forward, backward, bad, which):
    """In each argument in turn; then in the cotangent."""
    args = inputs_of(forward)
    arrays = [a for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    if which < len(arrays):
        arrays[which].flat[:3] = bad
        assert_same(outcome(tuned(forward, backward), args), outcome((forward, backward), args), 1e-12)
    elif which == 5:
        outputs, dys, _, _ = run((forward, backward), args)
        dys = [np.where(np.arange(d.size).reshape(d.shape) % 3, d, bad) for d in map(np.asarray, dys)]
        assert_same(outcome(tuned(forward, backward), args, dy=dys), outcome((forward, backward), args, dy=dys), 1e-12)


@every_pair
@pytest.mark.parametrize("letter", ["N", "T", "K", "H", "D", "I"])
def test_nothing_in_an_axis_is_taken_or_refused_alike(forward, backward, letter):
    if letter in "".join("".join(a.dims) for a in parse_shapes(forward)[0]):
        try:
            args = inputs_of(forward, {letter: 0})
        except ValueError:                                      # there are no classes to draw a label from
            return
        assert_same(outcome(tuned(forward, backward), args), outcome((forward, backward), args), 1e-12)


CHANGES = {
    "list": lambda a: a.tolist(), "integers": lambda a: a.astype(int), "float16": lambda a: a.astype(np.float16),
    "other width": np.float32, "bytes swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "complex": lambda a: a + 1e-20j, "None": lambda a: None, "number": lambda a: 1.5,
    "one axis more": lambda a: a[None], "one axis less": lambda a: a[0], "one row": lambda a: a[:1],
    "one row more": lambda a: np.concatenate([a, a[:1]]), "one column": lambda a: a[..., :1],
    "masked": np.ma.asarray, "minus": lambda a: -a,
}


@every_pair
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_out_of_the_ordinary_is_taken_or_refused_alike(forward, backward, change):
    """Each argument in turn. The words are the same, too: it is the readable function that refuses."""
    for k, a in enumerate(inputs_of(forward)):
        if isinstance(a, np.ndarray) and not (change == "minus" and a.dtype.kind == "f"):
            args = inputs_of(forward)
            args[k] = CHANGES[change](a)
            assert_same(outcome(tuned(forward, backward), args), outcome((forward, backward), args),
                        1e-2 if change == "float16" else 1e-5 if change == "other width" else 1e-12)


# ------------------------------------------------------------------------------------------------ purity

@every_case
@both_widths
def test_nothing_is_changed_and_a_cache_can_be_used_twice(forward, backward, option, dtype):
    pair, args = tuned(forward, backward), inputs_of(forward, option, dtype)
    kept = copy.deepcopy(args)
    outputs, dys, gradients, cache = run(pair, args)
    before = copy.deepcopy((outputs, dys, gradients))
    run(pair, inputs_of(forward, option, dtype, seed=3))        # no workspace that both calls share
    again = list(tuple_of(pair[1](*dys, cache)))
    assert same_bits(again, gradients)
    assert all(same_bits([a], [b]) for a, b in zip(args, kept) if isinstance(a, np.ndarray))
    assert all(same_bits(a, b) for a, b in zip((outputs, dys, gradients), before))
    arrays = [a for a in [*outputs, *gradients] if np.ndim(a)]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in [*arrays[:i], *dys] if np.ndim(b))


@every_case
@pytest.mark.parametrize("change", [frozen, spread, np.asfortranarray], ids=["read-only", "spread", "Fortran"])
def test_any_array_will_do(forward, backward, option, change):
    args = inputs_of(forward, option)
    assert_same(outcome(tuned(forward, backward), args, change=change), outcome((forward, backward), args), 1e-12)


@every_pair
def test_threads_do_not_meet(forward, backward):
    pair, many = tuned(forward, backward), [inputs_of(forward, seed=seed) for seed in range(8)]
    alone = [outcome(pair, args) for args in many]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for ours, expected in zip(pool.map(lambda args: outcome(pair, args), many * 5), alone * 5):
            assert same_bits(ours, expected)


@every_pair
def test_a_cache_of_the_readable_function_is_taken(forward, backward):
    """A forward with the twins off, a backward with them on."""
    args = inputs_of(forward)
    _, dys, gradients, cache = run((forward, backward), args)
    assert_same(list(tuple_of(fast.tuned(backward)(*dys, cache))), gradients, 1e-12)


# ------------------------------------------------------------------------------------------------ the readable tests

@pytest.mark.parametrize("family", fast.FAMILIES)
def test_the_twins_pass_the_tests_of_their_family(family):
    """`test_<family>.py` once more, with the twins in place of the readable functions."""
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, __file__, family, str(here / f"test_{family}.py")],
                          capture_output=True, text=True, cwd=here.parent, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


class InPlaceOf:
    """A pytest plugin: the test modules find the twins of one family where they look for its functions."""

    def __init__(self, family):
        self.real = importlib.import_module(f"backprop_lib.{family}")
        self.both = types.ModuleType(self.real.__name__)
        for f in filter(inspect.isfunction, vars(self.real).values()):
            fast.tuned(f).__doc__ = f.__doc__                   # its tests read the Shapes line
        vars(self.both).update({name: fast.tuned(f) if inspect.isfunction(f) else f
                                for name, f in vars(self.real).items()})

    def pytest_collection_finish(self, session):
        for module in {item.module for item in session.items}:
            for name, value in list(vars(module).items()):
                if value is self.real:
                    setattr(module, name, self.both)


# ------------------------------------------------------------------------------------------------ nn and the switch

def layer_and_input():
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Linear(4, 3, rng=rng), nn.Sigmoid()), rng.standard_normal((5, 4))


def runs_readable(layer, x):
    """Does this thread run the function that is on show?"""
    return layer.forward(x).tobytes() == mlp.sigmoid_forward(layer[0].forward(x))[0].tobytes()


def test_off_is_for_the_block_and_this_thread():
    layer, x = layer_and_input()
    x = x * 3
    assert not runs_readable(layer, x)
    with fast.off():
        assert runs_readable(layer, x)
        with fast.off():
            pass
        assert runs_readable(layer, x)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert fast.tuned(mlp.linear_forward) is not pool.submit(fast.tuned, mlp.linear_forward).result()
    assert not runs_readable(layer, x)
    with contextlib.suppress(KeyError), fast.off():
        raise KeyError
    assert fast.tuned(mlp.linear_forward) is not mlp.linear_forward


def test_an_exhibit_is_seen_by_all_threads():
    with on_show(EXHIBITS["affine: 1/N once more"]), concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(fast.tuned, mlp.linear_forward).result() is mlp.linear_forward
    assert fast.tuned(mlp.linear_forward) is not mlp.linear_forward


def test_a_function_without_a_twin_is_itself():
    def linear_forward(x, W, b):
        return x
    linear_forward.__module__ = "backprop_lib.mlp"
    for function in (linear_forward, np.exp, gradflow.gradient_flow, mlp.dropout_forward, mlp.require_labels):
        assert fast.tuned(function) is function


def test_switching_between_forward_and_backward_does_no_harm():
    layer, x = layer_and_input()
    dy = np.ones((5, 3))
    layer.forward(x)
    expected = layer.backward(dy)
    with fast.off():
        assert relative_error(layer.backward(dy), expected) < 1e-12
        layer.forward(x)
    assert relative_error(layer.backward(dy), expected) < 1e-12


def test_importing_nn_imports_no_twin():
    code = "import sys, backprop_lib.nn; print([m for m in sys.modules if m.startswith('backprop_lib.fast.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


if __name__ == "__main__":
    sys.exit(pytest.main([*sys.argv[2:], "-q", "-x", "-p", "no:cacheprovider"], plugins=[InPlaceOf(sys.argv[1])]))
