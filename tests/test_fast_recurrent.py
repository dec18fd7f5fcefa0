"""The tuned RNN, LSTM and GRU where they branch: one example, many runs of steps, weights in blocks; their caches."""

import pickle

import numpy as np
import pytest
from arrays import refuses, same_bits

from backprop_lib import fast, gradflow, gru, lstm, nn, rnn
from backprop_lib.fast import steps
from backprop_lib.gradcheck import relative_error


KINDS = {"RNN, tanh": (rnn, 1, 1, ("tanh",)), "RNN, relu": (rnn, 1, 1, ("relu",)), "LSTM": (lstm, 4, 2, ()),
         "GRU": (gru, 3, 1, ())}
LIMIT = {"d": 1e-12, "f": 1e-5}
every_kind = pytest.mark.parametrize("kind", KINDS)
both_widths = pytest.mark.parametrize("dtype", LIMIT)


def pair(kind):
    module = KINDS[kind][0]
    name = module.__name__.rpartition(".")[2]
    return getattr(module, name + "_forward"), getattr(module, name + "_backward")


def twins(kind):
    return tuple(map(fast.tuned, pair(kind)))


def inputs(kind, N, T, D, H, dtype="d", seed=0):
    """The arguments of the forward function, and the cotangents."""
    module, gates, states, options = KINDS[kind]
    rng = np.random.default_rng([seed, N, T, D, H])
    weights = [(gates*H, D), (gates*H, H), *[(gates*H,)] * (2 if module is gru else 1)]
    args = [rng.standard_normal(shape) for shape in [(N, T, D), *[(N, H)] * states]]
    args += [rng.standard_normal(shape) / max(1, H)**0.5 for shape in weights]
    return ([a.astype(dtype) for a in args] + list(options),
            [rng.standard_normal((N, T, H)).astype(dtype) for _ in range(states)])


def results(functions, args, cotangents):
    *outputs, cache = functions[0](*args)
    return [*outputs, *functions[1](*cotangents, cache)]


def assert_same(ours, expected, limit=1e-12):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) and a.flags.writeable and a.flags.c_contiguous
        assert relative_error(a, b) <= limit


# ------------------------------------------------------------------------------------------------ the same function

@every_kind
@both_widths
@pytest.mark.parametrize("sizes", [(1, 13, 3, 4), (5, 7, 3, 12), (2, 1, 3, 5), (1, 1, 1, 1), (33, 3, 2, 8),
                                   (2, 3, 0, 4), (0, 4, 2, 6), (3, 4, 2, 97)], ids=str)
@pytest.mark.parametrize("run, small", [(1 << 21, 10**6), (3000, 300), (1, 1)], ids=["one run", "many runs", "alone"])
def test_the_cuts_do_not_matter(kind, dtype, sizes, run, small, monkeypatch):
    monkeypatch.setattr(steps, "RUN", run)
    monkeypatch.setattr(steps, "SMALL", small)
    args, cotangents = inputs(kind, *sizes, dtype)
    assert_same(results(twins(kind), args, cotangents), results(pair(kind), args, cotangents), LIMIT[dtype])


def test_weights_are_cut_into_the_fewest_blocks_that_are_small(monkeypatch):
    monkeypatch.setattr(steps, "SMALL", 100)
    W = np.arange(120.0).reshape(12, 10)
    assert [len(steps.in_blocks(W, N)) for N in (0, 1, 2, 3, 5, 10)] == [1, 2, 3, 4, 6, 12]
    assert len(steps.in_blocks(W, 11)) == 1                     # not even a row is small enough
    assert steps.in_blocks(W, 3).tobytes() == W.tobytes()


@pytest.mark.parametrize("dtype", LIMIT)
def test_room_begins_with_a_line_of_the_cache(dtype):
    for shape in ((3, 5), (1000, 7), (1,)):
        room = steps.room(shape, np.dtype(dtype))
        assert (room.shape, room.dtype) == (shape, dtype) and room.ctypes.data % 64 == 0 and room.flags.c_contiguous


@pytest.mark.parametrize("T", [1, 5, 8])
def test_runs_go_from_the_end_to_the_beginning_and_leave_nothing_out(T):
    for length in (1, 3, 8):
        runs = [list(range(T))[run] for run in steps.runs(T, length)]
        assert [t for run in reversed(runs) for t in run] == list(range(T)) and max(map(len, runs)) <= length


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@both_widths
def test_the_tail_of_a_gate_is_not_lost(kind, dtype):
    """The gradient through a gate that is nearly closed is small, and right, entry by entry."""
    args, cotangents = inputs(kind, 2, 1, 1, 2, dtype)
    args[0][...], args[-1][...], closed = 0, 0, -60
    (args[-1] if kind == "LSTM" else args[-2])[2 if kind == "LSTM" else 0:4] = closed
    for ours, expected in zip(results(twins(kind), args, cotangents), results(pair(kind), args, cotangents)):
        assert np.allclose(ours, expected, rtol=100 * LIMIT[dtype], atol=0) and np.isfinite(ours).all()


@every_kind
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_reach_the_same_places(kind, N, bad):
    """Also with one example; in each argument, and in the cotangents at the last step."""
    for k in range(len(inputs(kind, N, 4, 2, 3)[0]) - len(KINDS[kind][3])):
        args, cotangents = inputs(kind, N, 4, 2, 3)
        args[k][(0,) * args[k].ndim] = bad
        with np.errstate(all="ignore"):
            ours, expected = (results(functions, args, cotangents) for functions in (twins(kind), pair(kind)))
        assert all(np.allclose(a, b, rtol=1e-11, atol=1e-13, equal_nan=True) for a, b in zip(ours, expected))
    for k in range(KINDS[kind][2]):
        args, cotangents = inputs(kind, N, 4, 2, 3)
        cotangents[k][0, -1, 0] = bad
        with np.errstate(all="ignore"):
            ours, expected = (results(functions, args, cotangents) for functions in (twins(kind), pair(kind)))
        assert all(np.allclose(a, b, rtol=1e-11, atol=1e-13, equal_nan=True) for a, b in zip(ours, expected))


@every_kind
def test_twice_the_cotangent_is_twice_the_gradient_bit_for_bit(kind):
    for N in (1, 4):
        args, cotangents = inputs(kind, N, 5, 3, 6)
        *_, cache = twins(kind)[0](*args)
        gradients = twins(kind)[1](*cotangents, cache)
        assert same_bits([2 * d for d in gradients], twins(kind)[1](*(2 * d for d in cotangents), cache))
        assert not any(d.any() for d in twins(kind)[1](*(0 * d for d in cotangents), cache))


# ------------------------------------------------------------------------------------------------ what is handed over

@every_kind
def test_cotangents_are_taken_or_refused_as_by_the_readable_function(kind):
    args, cotangents = inputs(kind, 3, 4, 2, 5)
    for k in range(len(cotangents)):
        for change in (np.float32, lambda d: d + 1j):
            given = [change(d) if j == k else d for j, d in enumerate(cotangents)]
            assert all(np.allclose(a, b, rtol=1e-12, atol=1e-13) and a.dtype == b.dtype for a, b in
                       zip(results(twins(kind), args, given), results(pair(kind), args, given)))
        for change in (lambda d: d[1:], lambda d: d[:, :1], lambda d: d[..., None], lambda d: d[:1]):
            given = [change(d) if j == k else d for j, d in enumerate(cotangents)]
            with pytest.raises(ValueError) as expected:
                results(pair(kind), args, given)
            refuses(ValueError, str(expected.value), results, twins(kind), args, given)


@every_kind
def test_only_the_readable_function_is_slow(kind):
    """Arrays of one width stay with the twin, also unpickled ones, whose dtype is another object."""
    given = inputs(kind, 3, 4, 2, 5)
    args, cotangents = pickle.loads(pickle.dumps(given))
    *_, cache = twins(kind)[0](*args)
    assert type(cache).__module__ == twins(kind)[0].__module__ != pair(kind)[0].__module__
    assert same_bits(results(twins(kind), args, cotangents), results(twins(kind), *given))


def test_reset_before_the_product_is_left_to_the_readable_function():
    args, cotangents = inputs("GRU", 3, 4, 2, 5)
    *_, cache = twins("GRU")[0](*args, reset_after=False)
    assert type(cache) is gru.GRUCache
    args.append(False)
    assert same_bits(results(twins("GRU"), args, cotangents), results(pair("GRU"), args, cotangents))


@pytest.mark.parametrize("N", [1, 3])
def test_an_unknown_nonlinearity_is_refused(N):
    args, _ = inputs("RNN, tanh", N, 4, 2, 5)
    refuses(ValueError, "rnn_forward: nonlinearity must be one of 'tanh', 'relu', got 'sin'", twins("RNN, tanh")[0],
            *args[:-1], "sin")


# ------------------------------------------------------------------------------------------------ who reads the caches

@every_kind
@pytest.mark.parametrize("N", [1, 3])
def test_the_steps_of_a_cache_are_those_of_the_readable_function(kind, N):
    args, cotangents = inputs(kind, N, 4, 2, 5)
    ours, expected = (functions[0](*args)[-1] for functions in (twins(kind), pair(kind)))
    assert type(ours.readable) is type(expected)
    for a, b in zip(ours.steps, expected.steps, strict=True):
        assert type(a) is type(b)
        for p, q in zip(a, b):
            assert p == q if isinstance(p, str) else p.shape == q.shape and np.allclose(p, q, rtol=1e-12, atol=1e-14)
    assert_same(pair(kind)[1](*cotangents, ours.readable), twins(kind)[1](*cotangents, ours))


@every_kind
@pytest.mark.parametrize("sizes", [(1, 9, 3, 4), (3, 9, 3, 4), (1, 1, 1, 1), (2, 1, 1, 1)], ids=str)
def test_what_is_returned_is_nobody_elses(kind, sizes):
    """Neither the cache's nor another result's: who writes into one changes nothing else, also where N, T or H is 1."""
    args, cotangents = inputs(kind, *sizes)
    *outputs, cache = twins(kind)[0](*args)
    gradients = twins(kind)[1](*cotangents, cache)
    others = [a for a in (*args, *cotangents, *cache) if isinstance(a, np.ndarray)]
    results = [*outputs, *gradients]
    for k, a in enumerate(results):
        assert not any(np.shares_memory(a, b) for b in [*results[:k], *others])
    assert len(others) > len(cotangents) + 5
    expected = [d.copy() for d in gradients]
    for a in results:
        a[...] = np.nan
    assert same_bits(twins(kind)[1](*cotangents, cache), expected)


@every_kind
def test_the_gradient_can_be_truncated(kind):
    args, cotangents = inputs(kind, 3, 7, 2, 5)
    ours, expected = (rnn.truncated_backward(functions[1], cotangents, functions[0](*args)[-1], 3)
                      for functions in (twins(kind), pair(kind)))
    assert_same(ours, expected)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_measuring_gradients_needs_no_switch(kind):
    """gradflow reads steps; nn runs the twins before and afterwards."""
    layer, x = kind(2, 3, rng=np.random.default_rng(0)), np.random.default_rng(1).standard_normal((2, 5, 2))
    dy = np.ones((2, 5, 3))

    def measured():
        flow = gradflow.gradient_flow(layer, x, dy)
        paths = gradflow.lstm_paths(layer, x, dy) if kind is nn.LSTM else {}
        return [gradflow.step_jacobians(layer, x), flow.dx, *flow.dstates.values(), *paths.values()]

    with fast.off():
        expected = measured()
    assert same_bits(measured(), expected)
    y, _ = layer.forward(x)
    assert relative_error(layer.backward(dy)[0], gradflow.gradient_flow(layer, x, dy).dx) < 1e-12
    assert type(layer.memory.cache[1][0][0][2]).__module__.startswith("backprop_lib.fast.")
