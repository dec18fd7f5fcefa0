"""backprop_lib.init: bounds, variances, widths, and what is refused."""

# Every lambda below is called before its loop goes on.
# ruff: noqa: B023

import math

import numpy as np
import pytest
from arrays import refuses

from backprop_lib import init, mlp, nn


LINEAR, CONV = (300, 200), (30, 12, 5, 3)
WIDTHS = [np.float64, np.float32]

# name: the variance for fan_in, fan_out; the distribution
SCHEMES = {
    "fan_in_uniform": (lambda fan_in, fan_out: 1 / (3 * fan_in), "uniform"),
    "xavier_uniform": (lambda fan_in, fan_out: 2 / (fan_in + fan_out), "uniform"),
    "xavier_normal": (lambda fan_in, fan_out: 2 / (fan_in + fan_out), "normal"),
    "he_uniform": (lambda fan_in, fan_out: 2 / fan_in, "uniform"),
    "he_normal": (lambda fan_in, fan_out: 2 / fan_in, "normal"),
}
FANS = {LINEAR: (200, 300), CONV: (12 * 5 * 3, 30 * 5 * 3)}
every_scheme = pytest.mark.parametrize("name", SCHEMES)
everything = pytest.mark.parametrize("name", [*SCHEMES, "orthogonal"])


def generator(seed=0):
    return np.random.default_rng(seed)


def test_fans_of_linear_and_convolution():
    assert init.fans((7, 3)) == (3, 7)
    assert init.fans([7, 3, 5, 2]) == (30, 70)
    assert init.fans((np.int64(7), 1)) == (1, 7) and all(type(fan) is int for fan in init.fans((np.int64(7), 1)))


@every_scheme
@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_variance_and_distribution(name, shape):
    variance, distribution = SCHEMES[name]
    expected = variance(*FANS[shape])
    w = getattr(init, name)(generator(), shape)
    assert w.shape == shape
    assert abs(w.mean()) < 4 * math.sqrt(expected / w.size)
    assert abs(w.var() / expected - 1) < 0.06
    largest = np.abs(w).max() / math.sqrt(expected)
    if distribution == "uniform":
        assert 0.99 * math.sqrt(3) < largest <= math.sqrt(3) * (1 + 1e-12)
    else:
        assert 3 < largest < 6


@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal", "orthogonal"])
def test_gain_multiplies(name):
    plain, gained = getattr(init, name)(generator(), LINEAR), getattr(init, name)(generator(), LINEAR, gain=3)
    assert np.allclose(gained, 3 * plain, rtol=0, atol=1e-15)


@everything
def test_seed_and_width(name):
    scheme = getattr(init, name)
    wide, narrow = (scheme(generator(), CONV, dtype=dtype) for dtype in WIDTHS)
    assert wide.dtype == np.float64 and narrow.dtype == np.float32
    assert (narrow == wide.astype(np.float32)).all()
    assert (scheme(generator(), CONV) == wide).all() and not (scheme(generator(1), CONV) == wide).any()
    assert wide.flags.c_contiguous and wide.flags.writeable


def test_uniform_and_normal():
    w = init.uniform(generator(), (100, 100), 0.5)
    assert 0.499 < w.max() <= 0.5 and -0.5 <= w.min() < -0.499
    assert abs(w.var() - 0.25 / 3) < 0.002
    w = init.normal(generator(), (100, 100), 0.5)
    assert abs(w.std() - 0.5) < 0.02 and abs(w.mean()) < 0.02
    assert init.uniform(generator(), (), 1).shape == () and init.uniform(generator(), (0, 3), 1).shape == (0, 3)
    assert not init.uniform(generator(), (2, 3), 0).any() and not init.normal(generator(), (2, 3), 0).any()
    assert init.uniform(generator(), (5,), np.float64(1), dtype=np.float32).dtype == np.float32


def test_a_bias_takes_the_fan_in_of_its_weight():
    b = init.fan_in_uniform(generator(), (5000,), fan_in=16)
    assert 0.249 < np.abs(b).max() <= 0.25
    assert (init.fan_in_uniform(generator(), (50, 7), fan_in=7) == init.fan_in_uniform(generator(), (50, 7))).all()


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (4, 3, 5, 2), (40, 3, 2, 2), (1, 4)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    w = init.orthogonal(generator(), shape, gain=2)
    matrix = w.reshape(shape[0], -1) / 2
    few = min(matrix.shape)
    gram = matrix @ matrix.T if few == len(matrix) else matrix.T @ matrix
    assert w.shape == shape and gram.shape == (few, few) and np.allclose(gram, np.eye(few), rtol=0, atol=1e-14)
    assert abs((matrix**2).mean() * max(matrix.shape) - 1) < 1e-12


def test_orthogonal_prefers_no_direction():
    """Without the signs of R, a QR factorisation would give every first entry the same sign."""
    firsts = np.array([init.orthogonal(generator(seed), (3, 3))[[0, 1, 2], [0, 1, 2]] for seed in range(2000)])
    assert (np.abs(firsts.mean(axis=0)) < 0.06).all()
    assert np.allclose((firsts**2).mean(axis=0), 1 / 3, atol=0.03)
    turned = np.array([np.linalg.det(init.orthogonal(generator(seed), (3, 3))) for seed in range(200)])
    assert 60 < (turned > 0).sum() < 140


@pytest.mark.parametrize("scheme, forward, low, high", [
    ("he_normal", mlp.relu_forward, 0.6, 1.6), ("he_uniform", mlp.relu_forward, 0.6, 1.6),
    ("xavier_normal", mlp.identity_forward, 0.6, 1.6), ("xavier_normal", mlp.relu_forward, 0, 0.01),
    ("orthogonal", mlp.identity_forward, 0.999, 1.001)])
def test_what_each_start_keeps_through_ten_layers(scheme, forward, low, high):
    """The mean square after ten square layers over that before, the promise for which these variances were chosen."""
    rng = generator(3)
    h = rng.standard_normal((200, 256))
    start = (h**2).mean()
    for _ in range(10):
        z = h @ getattr(init, scheme)(rng, (256, 256)).T
        h, _ = forward(z)
    assert low < (z**2).mean() / start * (0.5 if forward is mlp.relu_forward else 1) < high


# ------------------------------------------------------------------------------------------------ bad arguments

CALLS = {**{name: lambda rng, shape, name=name, **more: getattr(init, name)(rng, shape, **more)
            for name in [*SCHEMES, "orthogonal"]},
         "uniform": lambda rng, shape, **more: init.uniform(rng, shape, 1.0, **more),
         "normal": lambda rng, shape, **more: init.normal(rng, shape, 1.0, **more)}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_generator_is_refused(name):
    for wrong in (None, 0, np.random, np.random.RandomState(0)):
        refuses(TypeError, "rng must be a numpy.random.Generator, such as np.random.default_rng(0), "
                f"got {type(wrong).__name__}", lambda: CALLS[name](wrong, (3, 2)))


@pytest.mark.parametrize("name", CALLS)
def test_other_widths_are_refused(name):
    for wrong, got in ((int, "int64"), (np.float16, "float16"), (complex, "complex128"), (None, "None"),
                       ("float33", "float33")):
        refuses(TypeError, f"dtype must be np.float32 or np.float64, got {got}",
                lambda: CALLS[name](generator(), (3, 2), dtype=wrong))


@everything
def test_shapes_without_fans_are_refused(name):
    for shape in [(3,), (), (3, 0), (0, 3), (2, 3, 0, 1)]:
        refuses(ValueError, "fans: shape must be (out, in) or (F, C, R, S) with every size at least 1, "
                f"got {shape}", lambda: CALLS[name](generator(), shape))


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_shape_is_refused(name):
    for wrong in (3, "32", (3, 2.0), (True, 2), None):
        refuses(TypeError, f"shape must be a tuple of whole numbers, got {wrong!r}",
                lambda: CALLS[name](generator(), wrong))
    refuses(ValueError, "shape must have no negative size, got (3, -2)", lambda: CALLS[name](generator(), (3, -2)))


def test_bad_numbers_are_refused():
    for function, name in ((init.uniform, "bound"), (init.normal, "std")):
        for wrong in (-1, float("nan"), float("inf")):
            refuses(ValueError, f"{name} must be a finite number >= 0, got {wrong}",
                    lambda: function(generator(), (3, 2), wrong))
        for wrong in ("1", True, None, 1j, np.ones(2)):
            refuses(TypeError, f"{name} must be a finite number >= 0, got {type(wrong).__name__}",
                    lambda: function(generator(), (3, 2), wrong))
    for name in ("xavier_uniform", "xavier_normal", "orthogonal"):
        for wrong in (0, -1.0, float("inf")):
            refuses(ValueError, f"{name}: gain must be a finite number > 0, got {wrong}",
                    lambda: getattr(init, name)(generator(), (3, 2), gain=wrong))
    for wrong in (0, 1.5, "3", True):
        refuses(ValueError, f"fan_in_uniform: fan_in must be a whole number of at least 1, got {wrong!r}",
                lambda: init.fan_in_uniform(generator(), (3,), fan_in=wrong))


# ------------------------------------------------------------------------------------------------ PyTorch, live

def test_torch_draws_from_the_same_distributions():
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    torch.manual_seed(0)
    theirs = {"xavier_uniform": torch.nn.init.xavier_uniform_, "xavier_normal": torch.nn.init.xavier_normal_,
              "he_uniform": lambda w: torch.nn.init.kaiming_uniform_(w, nonlinearity="relu"),
              "he_normal": lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
              "orthogonal": torch.nn.init.orthogonal_,
              "fan_in_uniform": lambda w: torch.nn.init.kaiming_uniform_(w, a=math.sqrt(5))}
    for shape in (LINEAR, CONV):
        for name, fill in theirs.items():
            expected = fill(torch.empty(shape, dtype=torch.float64)).numpy()
            ours = getattr(init, name)(generator(), shape)
            assert abs(ours.var() / expected.var() - 1) < 0.06, name
            if "uniform" in name:
                assert abs(np.abs(ours).max() / np.abs(expected).max() - 1) < 0.01, name


# ------------------------------------------------------------------------------------------------ identity

@pytest.mark.parametrize("dtype", WIDTHS)
def test_identity_has_its_gain_on_the_diagonal_and_nothing_else(dtype):
    for shape in [(4, 4), (5, 3), (3, 5), [2, 7], (1, 1)]:
        w = init.identity(shape, 0.5, dtype)
        rows, columns = shape
        assert w.tolist() == [[0.5 * (i == j) for j in range(columns)] for i in range(rows)]
        assert w.dtype == dtype and w.flags.writeable and w.flags.c_contiguous
    assert (init.identity((3, 3)) == np.eye(3)).all() and init.identity((3, 3)).dtype == np.float64
    assert init.identity((2, 2), np.float64(0.1), np.float32).dtype == np.float32


def test_identity_refuses_what_is_no_matrix():
    for wrong in [(3,), (), (3, 3, 2, 2), (0, 3), (3, 0)]:
        refuses(ValueError, f"got {wrong}", lambda: init.identity(wrong))
        refuses(ValueError, "identity: shape must be ", lambda: init.identity(wrong))
    refuses(TypeError, "identity: shape must be a tuple of whole numbers, got 3", lambda: init.identity(3))
    refuses(ValueError, "identity: shape must have no negative size, got (3, -2)", lambda: init.identity((3, -2)))
    refuses(TypeError, "identity: dtype must be np.float32 or np.float64, got int64",
            lambda: init.identity((3, 3), dtype=int))
    for error, wrong, got in [(ValueError, math.inf, "inf"), (TypeError, "1", "str"), (TypeError, None, "NoneType")]:
        refuses(error, f"got {got}", lambda: init.identity((3, 3), wrong))
        refuses(error, "identity: gain must be a finite number", lambda: init.identity((3, 3), wrong))


# ------------------------------------------------------------------------------------------------ restart

def everything_random(model, seed=9):
    """The model with every parameter drawn, none of them 0 or 1."""
    rng = generator(seed)
    for name, p in model.params.items():
        model.params[name] = rng.uniform(1.2, 3, p.shape).astype(p.dtype)
    return model


def large(dtype=np.float64):
    """One of everything that has parameters, large enough to measure variances."""
    rng = generator()
    return everything_random(nn.Sequential(
        nn.Linear(90, 80, rng=rng, dtype=dtype), nn.BatchNorm1d(80, dtype=dtype), nn.LayerNorm((8, 10), dtype=dtype),
        nn.Residual(nn.Linear(80, 80, bias=False, rng=rng, dtype=dtype), nn.LayerNorm(80, bias=False, dtype=dtype)),
        nn.Conv2d(16, 32, 5, groups=2, rng=rng, dtype=dtype), nn.ConvTranspose2d(32, 16, 5, rng=rng, dtype=dtype),
        nn.RNN(30, 80, rng=rng, dtype=dtype), nn.GRU(30, 50, 2, rng=rng, dtype=dtype),
        nn.LSTM(30, 60, bidirectional=True, forget_bias=1.0, rng=rng, dtype=dtype)))


GATES = {"6": 1, "7": 3, "8": 4}                                # place in the model: blocks in its weights


def blocks_of(model):
    """{parameter: the arrays that were drawn for it}: the weights of two or more axes that are not those of a norm."""
    norms = {name for name in model.params if name.split(".")[0] in ("1", "2") or name.startswith("3.1.")}
    return {name: np.split(p, GATES.get(name.split(".")[0], 1)) for name, p in model.params.items()
            if p.ndim >= 2 and name not in norms}


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("name", SCHEMES)
def test_restart_draws_every_gate_with_the_variance_of_its_own_shape(name, dtype):
    model, (variance, _) = large(dtype), SCHEMES[name]
    assert init.restart(model, getattr(init, name), generator(3)) is model
    blocks = blocks_of(model)
    assert len(blocks) == 4 + 2 + 4 + 4                         # Linear and convolutions, RNN, GRU, LSTM
    for key, gates in blocks.items():
        for w in gates:
            expected = variance(*init.fans(w.shape))
            assert w.dtype == dtype and abs(w.var() / expected - 1) < 0.15, key
            assert abs(w.mean()) < 5 * math.sqrt(expected / w.size), key
    drawn = np.concatenate([w.ravel() for gates in blocks.values() for w in gates])
    assert len(np.unique(drawn)) > 0.99 * drawn.size            # nothing drawn is used twice


def test_restart_makes_every_block_of_recurrent_weights_orthogonal():
    blocks = blocks_of(init.restart(large(), init.orthogonal, generator(3)))
    for key, gates in blocks.items():
        for w in gates:
            matrix = w.reshape(len(w), -1)
            few = min(matrix.shape)
            gram = matrix @ matrix.T if few == len(matrix) else matrix.T @ matrix
            assert np.allclose(gram, np.eye(few), rtol=0, atol=1e-13), key
    i, f, g, o = blocks["8.weight_hh_l0"]
    assert i.shape == (60, 60) and not np.allclose(i, f) and not np.allclose(g, o)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_restart_zeroes_biases_and_leaves_the_rest_alone(dtype):
    model = large(dtype)
    weights = {name: p.copy() for name, p in model.params.items() if name.split(".")[-1].startswith("weight")}
    shapes = {name: (p.shape, p.dtype) for name, p in model.params.items()}
    buffers = {name: a.copy() for name, a in model.buffers.items()}
    init.restart(model, init.he_normal, generator(3))
    assert {name: (p.shape, p.dtype) for name, p in model.params.items()} == shapes
    drawn = blocks_of(model)
    for name, p in model.params.items():
        if name not in weights:
            assert not p.any(), name
        else:
            assert (p == weights[name]).all() == (name not in drawn), name
    assert {"1.weight", "2.weight", "3.1.weight"} == set(weights) - set(drawn)
    assert all((model.buffers[name] == a).all() for name, a in buffers.items())
    model[0].forward(np.ones((2, 90), dtype))                   # everything still fits
    model[8].forward(np.ones((2, 3, 30), dtype))


def test_restart_draws_shapes_in_the_order_of_the_parameters():
    asked = []

    def draw(rng, shape, dtype):
        asked.append((shape, dtype))
        return np.full(shape, len(asked), dtype)
    rng = generator()
    model = nn.Sequential(nn.LSTM(3, 5, rng=rng), nn.LastStep(), nn.Linear(5, 2, rng=rng))
    init.restart(model, draw, rng)
    assert asked == [((5, 3), np.float64)] * 4 + [((5, 5), np.float64)] * 4 + [((2, 5), np.float64)]
    for key, first in [("0.weight_ih_l0", 1), ("0.weight_hh_l0", 5)]:
        assert model.params[key][:, 0].tolist() == [first + gate for gate in range(4) for _ in range(5)]
    assert (model.params["2.weight"] == 9).all()


def test_restart_gives_one_start_per_seed_and_takes_bare_layers():
    layers = [init.restart(nn.Linear(3, 5, rng=generator(seed)), init.he_normal, generator(7)) for seed in range(2)]
    for layer in layers:
        assert (layer.params["weight"] == init.he_normal(generator(7), (5, 3))).all()
    recurrent = init.restart(nn.RNN(3, 5, rng=generator()), lambda rng, shape, dtype: init.identity(shape, dtype=dtype),
                             generator())
    assert (recurrent.params["weight_hh_l0"] == np.eye(5)).all()
    assert (recurrent.params["weight_ih_l0"] == np.eye(5, 3)).all()
    assert init.restart(nn.Tanh(), init.he_normal, generator()).params == {}


def test_restart_shares_no_memory_with_what_was_drawn():
    kept = np.full((5, 5), 0.5)
    layer = init.restart(nn.Linear(5, 5, rng=generator()), lambda rng, shape, dtype: kept, generator())
    layer.params["weight"] += 1
    assert (kept == 0.5).all()


@pytest.mark.parametrize("spoil", [
    lambda w: w.T, lambda w: w[:-1], lambda w: w[0], lambda w: w.astype(np.float32), lambda w: w.astype(complex),
    lambda w: w.tolist(), lambda w: None, lambda w: 1 / 0, lambda w: w.astype(int), lambda w: np.ones(1)])
def test_a_draw_that_fails_changes_nothing(spoil):
    model = everything_random(nn.Sequential(nn.Linear(3, 5, rng=generator()), nn.LSTM(5, 7, rng=generator())))
    before = {name: p.tobytes() for name, p in model.params.items()}
    calls = []

    def draw(rng, shape, dtype):
        calls.append(shape)
        w = init.he_normal(rng, shape, dtype=dtype)
        return spoil(w) if len(calls) == 4 else w               # the third gate of the second weight
    with pytest.raises((TypeError, ValueError, ZeroDivisionError)):
        init.restart(model, draw, generator())
    assert len(calls) == 4 and {name: p.tobytes() for name, p in model.params.items()} == before


def test_restart_asks_for_a_generator():
    layer = nn.Linear(3, 5, rng=generator())
    before = layer.params["weight"].tobytes()
    for wrong in (None, 0, np.random):
        refuses(TypeError, "rng must be a numpy.random.Generator, such as np.random.default_rng(0), "
                f"got {type(wrong).__name__}", lambda: init.restart(layer, init.he_normal, wrong))
    assert layer.params["weight"].tobytes() == before


def test_restart_asks_for_a_layer():
    refuses(TypeError, "restart: model must be a Layer, got int", lambda: init.restart(3, init.he_normal, generator()))
