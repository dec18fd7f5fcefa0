"""nn.DataParallel: the layer inside, on several threads."""

import threading

import numpy as np
import pytest
from arrays import normal, refuses, same_bits

from backprop_lib import fast, mlp, nn, optim, train
from backprop_lib.gradcheck import relative_error


def rng(seed=0):
    return np.random.default_rng(seed)


MODELS = {
    "rows": (lambda: nn.MLP([7, 5, 3], "tanh", rng=rng()), (11, 7)),
    "images": (lambda: nn.LeNet((2, 4, 8), 5, (2, 3), 7, dropout=0, rng=rng()), (11, 2, 4, 8)),
    "sequences": (lambda: nn.Sequential(nn.LSTM(3, 5, 2, bidirectional=True, rng=rng()), nn.LastStep(),
                                        nn.Linear(10, 2, rng=rng())), (11, 6, 3)),
    "one layer": (lambda: nn.GRU(3, 5, rng=rng()), (11, 6, 3)),
    "nested": (lambda: nn.Sequential(nn.Linear(7, 5, rng=rng()), nn.Sequential(
        nn.Residual(nn.Linear(5, 5, rng=rng()), nn.LayerNorm(5)))), (11, 7)),
}
every_model = pytest.mark.parametrize("make, shape", MODELS.values(), ids=MODELS)


def numbers(model, x):
    """Output, gradient of the input and of the parameters, by way of run and run_back."""
    y, memory = model.run(x)
    dx, grads = model.run_back(normal(*y.shape, seed=9), memory)
    model.keep(grads)
    return [y, dx, *model.grads.values()]


@every_model
@pytest.mark.parametrize("workers", [1, 2, 3, 11, 40])
def test_the_numbers_are_those_of_the_layer_inside(make, shape, workers):
    x, alone, shared = normal(*shape), make(), nn.DataParallel(make(), workers)
    ours, expected = numbers(shared, x), numbers(alone, x)
    assert list(shared.grads) == list(alone.grads) == list(shared.params)
    assert max(map(relative_error, ours, expected)) < 1e-12
    assert (workers > 1) or same_bits(ours, expected)
    assert all(same_bits(numbers(shared, x), ours) for _ in range(5))


def test_the_parts_are_added_in_their_order():
    layer, x, dy = nn.Linear(7, 5, rng=rng()), normal(11, 7), normal(11, 5, seed=9)
    shared = nn.DataParallel(layer, 3)
    shared.forward(x)
    shared.backward(dy)
    W = [dy[part].T @ x[part] for part in (slice(0, 4), slice(4, 8), slice(8, 11))]
    assert same_bits([shared.grads["weight"]], [W[0] + W[1] + W[2]])


@pytest.mark.parametrize("n", [0, 1])
def test_few_examples(n):
    x, alone = normal(11, 7)[:n], nn.Linear(7, 5, rng=rng())
    assert same_bits(numbers(nn.DataParallel(alone, 4), x), numbers(alone, x))


class Meeting(nn.Layer):
    """Goes on when two threads are here; notes whether the twins are on."""

    def __init__(self):
        super().__init__()
        self.barrier, self.readable = threading.Barrier(2, timeout=20), []

    def compute(self, x):
        self.barrier.wait()
        self.readable.append(fast.tuned(mlp.linear_forward) is mlp.linear_forward)
        return x, ()

    def compute_gradients(self, dy, cache):
        self.barrier.wait()
        return dy, {}


def test_two_threads_run_at_the_same_time_with_the_settings_of_the_caller():
    layer = Meeting()
    numbers(nn.DataParallel(layer), normal(4, 3))
    with fast.off():
        numbers(nn.DataParallel(layer), normal(4, 3))
    assert layer.readable == [False, False, True, True]


def test_parameters_and_files_are_those_of_the_layer_inside(tmp_path):
    layer = nn.MLP([7, 5, 3], rng=rng())
    shared, other = nn.DataParallel(layer), nn.MLP([7, 5, 3], rng=rng(1))
    shared.save(tmp_path / "shared.npz")
    other.load(tmp_path / "shared.npz")
    assert same_bits(other.params.values(), layer.params.values())
    shared.params["0.bias"] = np.ones(5)
    assert layer.params["0.bias"].sum() == 5 and list(shared.state_dict()) == list(layer.state_dict())


def test_it_trains_like_the_layer_inside():
    x, t = normal(60, 7), rng().integers(0, 3, 60)
    histories = []
    for wrap in (lambda layer: layer, nn.DataParallel):
        model = wrap(nn.MLP([7, 5, 3], "tanh", rng=rng()))
        histories.append(train.fit(model, nn.CrossEntropyLoss(), optim.SGD(model, 0.5), x, t, epochs=5, batch_size=16,
                                   rng=rng(), progress=False).loss)
    assert relative_error(*map(np.array, histories)) < 1e-12 and histories[0][-1] < histories[0][0]


class Fails(nn.Layer):
    def compute(self, x):
        if x[0, 0] > 0:
            raise RuntimeError("no positive numbers")
        return x, ()


def test_what_fails_in_a_thread_fails_here_and_changes_nothing():
    shared = nn.DataParallel(nn.Sequential(nn.Linear(1, 1, rng=rng()), Fails()))
    with pytest.raises(RuntimeError, match="no positive numbers"):
        shared.forward(np.array([[-1.0], [1.0]]) * np.sign(shared.params["0.weight"]) * 99)
    assert shared.memory is None


@pytest.mark.parametrize("x", [[[1.0] * 7] * 4, np.ones((4, 7), np.float32), np.ma.ones((4, 7)), np.float64(1),
                               np.array(1.0)],
                         ids=["list", "float32", "masked", "number",
                              "no axis"])
def test_what_the_layer_inside_refuses_is_refused(x):
    layer = nn.Linear(7, 5, rng=rng())
    with pytest.raises((TypeError, ValueError)) as alone:
        layer.forward(x)
    refuses(alone.type, str(alone.value), lambda: nn.DataParallel(layer).forward(x))


@pytest.mark.parametrize("error, words, make", [
    (TypeError, "DataParallel: layer must be a Layer, got list", lambda: nn.DataParallel([nn.Tanh()])),
    (ValueError, "got BatchNorm1d", lambda: nn.DataParallel(nn.Sequential(nn.BatchNorm1d(3)))),
    (ValueError, "got BatchNorm2d", lambda: nn.DataParallel(nn.BatchNorm2d(3))),
    (ValueError, "got Dropout", lambda: nn.DataParallel(nn.LeNet((1, 8, 8), 2, rng=rng()))),
    (ValueError, "got RNN(batch_first=False)", lambda: nn.DataParallel(nn.RNN(2, 2, batch_first=False, rng=rng()))),
    (ValueError, "DataParallel: workers must be", lambda: nn.DataParallel(nn.Tanh(), 0)),
    (ValueError, "DataParallel: workers must be", lambda: nn.DataParallel(nn.Tanh(), 1.5))])
def test_what_cannot_be_shared_out_is_refused(error, words, make):
    refuses(error, words, make)
