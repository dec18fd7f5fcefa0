"""backprop_lib.train: the loop does what its recipe says, stops, clips, reports, and learns."""

# Every lambda below is called before its loop goes on.
# ruff: noqa: B023

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from arrays import refuses

from backprop_lib import data, mlp, nn, optim, train


N, D, K = 23, 4, 3


def generator(seed=0):
    return np.random.default_rng(seed)


def problem(seed=1, dtype=np.float64):
    rng = generator(seed)
    return rng.standard_normal((N, D)).astype(dtype), rng.integers(0, K, N)


def make_model(dtype=np.float64):
    return nn.MLP([D, 6, K], "tanh", rng=generator(), dtype=dtype)


def fit(model=None, loss=None, x=None, t=None, lr=0.5, **more):
    model = make_model() if model is None else model
    default_x, default_t = problem()
    settings = {"epochs": 3, "batch_size": 5, "rng": generator(7), **more}
    optimizer = settings.pop("optimizer", None) or optim.SGD(model, lr)
    return train.fit(model, loss or nn.CrossEntropyLoss(), optimizer, default_x if x is None else x,
                     default_t if t is None else t, **settings)


def bits(params):
    return {name: p.tobytes() for name, p in params.items()}


# ------------------------------------------------------------------------------------------------ the loop

def by_hand(x, t, epochs, batch_size, lr, max_norm=None):
    """The same training written with the pairs alone."""
    rng, start = generator(7), make_model()
    W1, b1, W2, b2 = (p.copy() for p in start.params.values())
    losses, accuracies, sizes = [], [], []
    for _ in range(epochs):
        order, total, right = rng.permutation(len(x)), 0.0, 0
        for first in range(0, len(x), batch_size):
            rows = order[first:first + batch_size]
            z, cache1 = mlp.linear_forward(x[rows], W1, b1)
            h, cache2 = mlp.tanh_forward(z)
            y, cache3 = mlp.linear_forward(h, W2, b2)
            loss, cache4 = mlp.softmax_cross_entropy_forward(y, t[rows])
            dh, dW2, db2 = mlp.linear_backward(mlp.softmax_cross_entropy_backward(1.0, cache4), cache3)
            _, dW1, db1 = mlp.linear_backward(mlp.tanh_backward(dh, cache2), cache1)
            grads = [dW1, db1, dW2, db2]
            norm = np.sqrt(sum((g**2).sum() for g in grads))
            scale = 1 if max_norm is None or norm <= max_norm else max_norm / norm
            W1, b1, W2, b2 = (p - lr * scale * g for p, g in zip((W1, b1, W2, b2), grads))
            total, right = total + loss * len(rows), right + (y.argmax(axis=1) == t[rows]).sum()
            sizes.append(len(rows))
        losses.append(total / len(x))
        accuracies.append(right / len(x))
    return losses, accuracies, [W1, b1, W2, b2], sizes


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 100])
@pytest.mark.parametrize("max_norm", [None, 0.3])
def test_training_equals_the_loop_written_by_hand(batch_size, max_norm):
    x, t = problem()
    model = make_model()
    history = fit(model, batch_size=batch_size, max_norm=max_norm)
    losses, accuracies, params, sizes = by_hand(x, t, 3, batch_size, 0.5, max_norm)
    assert sum(sizes) == 3 * N and max(sizes) == min(batch_size, N)
    assert np.allclose(history.loss, losses, rtol=1e-12) and np.allclose(history.accuracy, accuracies, rtol=1e-12)
    assert all(np.allclose(p, q, rtol=1e-10, atol=1e-13) for p, q in zip(model.params.values(), params))
    assert history.validation_loss == [] and history.validation_accuracy == []
    assert all(type(value) is float for value in history.loss + history.accuracy)


def test_clipping_makes_a_difference_and_leaves_clipped_gradients():
    model, free = make_model(), make_model()
    fit(model, max_norm=0.01)
    fit(free)
    assert bits(model.params) != bits(free.params)
    assert abs(optim.clip_by_norm(model.grads, 1)[1] - 0.01) < 1e-12


def test_training_is_repeatable_and_depends_on_the_generator():
    models = [make_model() for _ in range(3)]
    histories = [fit(model, rng=generator(seed)) for model, seed in zip(models, (7, 7, 8))]
    assert histories[0] == histories[1] != histories[2]
    assert bits(models[0].params) == bits(models[1].params) != bits(models[2].params)


def test_arguments_are_not_touched():
    x, t = problem()
    for a in (x, t):
        a.flags.writeable = False
    fit(x=x, t=t, validation=(x, t), patience=1)
    assert (x == problem()[0]).all() and (t == problem()[1]).all()


def test_float32_stays_float32():
    x, t = problem(dtype=np.float32)
    model = make_model(np.float32)
    optimizer = optim.Adam(model)
    fit(model, optimizer=optimizer, x=x, t=t, max_norm=1.0, validation=(x, t), patience=2)
    slots = [a for state in optimizer.state.values() for a in state.values()]
    assert {a.dtype for a in [*model.params.values(), *model.grads.values(), *slots]} == {np.dtype(np.float32)}


class Recorder(nn.Identity):
    """Notes the mode and the number of examples of every forward."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def compute(self, x):
        self.seen.append((self.training, len(x)))
        return super().compute(x)


@pytest.mark.parametrize("mode", [True, False])
def test_modes_while_training_and_after(mode):
    recorder, frozen = Recorder(), nn.Dropout(0.5, rng=generator())
    model = nn.Sequential(nn.Linear(D, K, rng=generator()), recorder, frozen).train(mode)
    frozen.training = not mode
    x, t = problem()
    fit(model, epochs=2, batch_size=10, validation=(x[:6], t[:6]))
    assert recorder.seen == [(True, 10), (True, 10), (True, 3), (False, 6)] * 2
    assert [m.training for m in model.modules()] == [mode, mode, mode, not mode]


# ------------------------------------------------------------------------------------------------ measuring

def test_evaluate_a_classifier():
    x, t = problem()
    model, loss = make_model(), nn.CrossEntropyLoss()
    value, accuracy = train.evaluate(model, loss, x, t)
    y = model.forward(x)
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    assert abs(value + np.log([p[n, t[n]] for n in range(N)]).mean()) < 1e-12
    assert accuracy == sum(int(np.argmax(y[n])) == t[n] for n in range(N)) / N and 0 < accuracy < 1
    assert type(value) is type(accuracy) is float


def test_evaluate_a_binary_classifier_and_a_regression():
    identity = nn.Identity()
    y, t = np.array([[2.0, -1.0], [0.1, -3.0], [0.0, 0.4]]), np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    value, accuracy = train.evaluate(identity, nn.BCEWithLogitsLoss(), y, t)
    p = 1 / (1 + np.exp(-y))
    assert abs(value + (t * np.log(p) + (1 - t) * np.log(1 - p)).mean()) < 1e-12
    assert accuracy == 5 / 6
    assert train.evaluate(identity, nn.MSELoss(), y, t) == (((y - t)**2).mean(), None)


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_uses_evaluation_mode_and_restores_each_layer(mode):
    dropout = nn.Dropout(0.9, rng=generator())
    model = nn.Sequential(nn.Linear(D, K, rng=generator()), dropout).train(mode)
    dropout.training = not mode
    x, t = problem()
    state = dropout.rng.bit_generator.state
    value, _ = train.evaluate(model, nn.CrossEntropyLoss(), x, t)
    assert value == train.evaluate(model[0], nn.CrossEntropyLoss(), x, t)[0]
    assert dropout.rng.bit_generator.state == state
    with pytest.raises(ValueError, match="Linear: x must have shape"):
        train.evaluate(model, nn.CrossEntropyLoss(), x[:, 1:], t)
    assert [m.training for m in model.modules()] == [mode, mode, not mode]


def test_a_regression_has_no_accuracy():
    rng = generator()
    x = rng.standard_normal((40, 3))
    t = x @ np.array([[1.0], [-2.0], [0.5]]) + 3
    model = nn.Linear(3, 1, rng=rng)
    history = fit(model, nn.MSELoss(), x, t, lr=0.1, epochs=60, batch_size=8, validation=(x[:9], t[:9]))
    assert history.accuracy == history.validation_accuracy == [None] * 60
    assert history.validation_loss[-1] < 1e-10
    assert np.allclose(model.params["weight"], [[1, -2, 0.5]], atol=1e-4)
    assert np.allclose(model.params["bias"], [3], atol=1e-4)


# ------------------------------------------------------------------------------------------------ early stopping

class ScriptedLoss(nn.MSELoss):
    """Validation batches have 2 rows: their losses are read off a list."""

    def __init__(self, values):
        super().__init__()
        self.values = iter(values)

    def forward(self, y, t):
        value = super().forward(y, t)
        return np.float64(next(self.values)) if len(y) == 2 else value


def stopped(values, **more):
    """The history, the parameters at the end, and those after every epoch of the same training."""
    x, t = generator(1).standard_normal((6, 2)), generator(2).standard_normal((6, 1))
    path, model = [], nn.Linear(2, 1, rng=generator())
    for epochs in range(1, len(values) + 1):
        other = nn.Linear(2, 1, rng=generator())
        fit(other, nn.MSELoss(), x, t, lr=0.01, epochs=epochs, batch_size=3)
        path.append(bits(other.params))
    assert len({tuple(p.items()) for p in path}) == len(path)
    history = fit(model, ScriptedLoss(values), x, t, lr=0.01, epochs=len(values), batch_size=3,
                  validation=(x[:2], t[:2]), **more)
    return history, path.index(bits(model.params)) + 1


def test_early_stopping_restores_the_best_epoch():
    history, epoch = stopped([5, 4, 6, 3, 3, 3.5, 4, 1], patience=3)
    assert history.validation_loss == [5, 4, 6, 3, 3, 3.5, 4] and epoch == 4
    assert len(history.loss) == len(history.accuracy) == len(history.validation_accuracy) == 7
    history, epoch = stopped([5, 6, 4, 1], patience=1)
    assert history.validation_loss == [5, 6] and epoch == 1
    history, epoch = stopped([5, 6, 4, 6, 5, 9], patience=2)
    assert history.validation_loss == [5, 6, 4, 6, 5] and epoch == 3


def test_the_best_epoch_is_restored_after_the_last_one_too_but_only_with_patience():
    history, epoch = stopped([5, 4, 6, 7], patience=10)
    assert history.validation_loss == [5, 4, 6, 7] and epoch == 2
    history, epoch = stopped([5, 4, 6, 7])
    assert history.validation_loss == [5, 4, 6, 7] and epoch == 4


def test_the_best_parameters_are_a_copy():
    """Restored parameters give the validation loss that the history calls the best."""
    digits = data.load_digits()
    x, t, xv, tv = digits.x_train[:60], digits.t_train[:60], digits.x_test, digits.t_test
    model, loss = nn.MLP([64, 20, 10], rng=generator()), nn.CrossEntropyLoss()
    history = train.fit(model, loss, optim.SGD(model, 1.0, momentum=0.9), x, t, epochs=200, batch_size=10,
                        rng=generator(), validation=(xv, tv), patience=8)
    assert len(history.loss) < 200
    best = min(history.validation_loss)
    assert history.validation_loss.index(best) == len(history.loss) - 9
    assert train.evaluate(model, loss, xv, tv)[0] == best


# ------------------------------------------------------------------------------------------------ bad input

def test_a_loss_that_is_not_finite_stops_training():
    x, t = problem()
    order = generator(7)
    order.permutation(N)
    second = order.permutation(N)
    model = make_model()
    calls = []

    class Poison(nn.CrossEntropyLoss):
        def forward(self, y, t):
            calls.append(bits(model.params))
            value = super().forward(y, t)
            return value * np.inf if len(calls) == 5 + 3 else value

    refuses(FloatingPointError, "fit: the training loss is inf in epoch 2, batch 3", lambda: fit(model, Poison()))
    assert bits(model.params) == calls[-1] and len(calls) == 8 and model.training
    x[second[10]] = np.nan
    model = make_model().eval()
    refuses(FloatingPointError, "fit: the training loss is nan in epoch 1, batch ", lambda: fit(model, x=x))
    assert np.isfinite(model.params["0.weight"]).all() and not model.training
    refuses(FloatingPointError, "fit: the validation loss is nan after epoch 1", lambda: fit(validation=(x, t)))


def test_bad_arguments_are_refused_before_anything_changes():
    x, t = problem()
    model = make_model()
    before = bits(model.params)
    rng = generator(7)
    state = rng.bit_generator.state
    cases = [
        (ValueError, "fit: epochs must be a whole number of at least 1, got 0", {"epochs": 0}),
        (ValueError, "fit: epochs must be a whole number of at least 1, got 2.0", {"epochs": 2.0}),
        (ValueError, "fit: batch_size must be a whole number of at least 1, got -1", {"batch_size": -1}),
        (ValueError, "fit: batch_size must be a whole number of at least 1, got None", {"batch_size": None}),
        (ValueError, "fit: patience must be a whole number of at least 1, got 0",
         {"patience": 0, "validation": (x, t)}),
        (ValueError, "fit: patience needs validation data, got patience 3 and none", {"patience": 3}),
        (ValueError, "fit: max_norm must be a finite number > 0, got 0", {"max_norm": 0}),
        (TypeError, "fit: max_norm must be a finite number > 0, got str", {"max_norm": "1"}),
        (TypeError, "fit: rng must be a numpy.random.Generator, such as np.random.default_rng(0), got int",
         {"rng": 0}),
        (ValueError, "fit: x and t must have the same length, got 23 and 22", {"t": t[1:]}),
        (ValueError, "fit: x must hold at least one example, got shape (0, 4)", {"x": x[:0], "t": t[:0]}),
        (TypeError, "fit: x must be a NumPy array with examples on axis 0, got [[", {"x": x.tolist()}),
        (TypeError, "fit: t must be a NumPy array with examples on axis 0, got array(3)", {"t": np.array(3)}),
        (ValueError, "fit: validation must be a pair (x, t), got ndarray", {"validation": x}),
        (ValueError, "fit: validation must be a pair (x, t), got tuple", {"validation": (x, t, t)}),
        (ValueError, "fit: validation x and validation t must have the same length, got 23 and 3",
         {"validation": (x, t[:3])}),
        (ValueError, "fit: validation x must hold at least one example", {"validation": (x[:0], t[:0])}),
        (ValueError, "fit: the optimizer must be made for this model, got one for another",
         {"optimizer": optim.SGD(make_model(), 0.1)}),
    ]
    for error, message, change in cases:
        refuses(error, message, lambda: fit(model, **{"rng": rng, **change}))
        assert bits(model.params) == before and dict(model.grads) == {} and rng.bit_generator.state == state


def test_bad_arguments_of_evaluate_are_refused():
    x, t = problem()
    model, loss = make_model(), nn.CrossEntropyLoss()
    refuses(ValueError, "evaluate: x and t must have the same length, got 23 and 3",
            lambda: train.evaluate(model, loss, x, t[:3]))
    refuses(ValueError, "evaluate: x must hold at least one example", lambda: train.evaluate(model, loss, x[:0], t[:0]))
    refuses(TypeError, "evaluate: x must be a NumPy array with examples on axis 0, got None",
            lambda: train.evaluate(model, loss, None, t))
    assert model.memory is None and loss.memory is None


# ------------------------------------------------------------------------------------------------ progress

class Bar:
    """Stands in for tqdm and notes what it is told."""
    made = []

    def __init__(self, **settings):
        self.settings, self.updates, self.notes, self.open = settings, 0, [], None
        Bar.made.append(self)

    def __enter__(self):
        self.open = True
        return self

    def __exit__(self, *error):
        self.open = False

    def update(self):
        self.updates += 1

    def set_postfix(self, **notes):
        self.notes.append(notes)


@pytest.fixture(autouse=True)
def not_silenced(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


@pytest.fixture
def bars(monkeypatch):
    fake = types.ModuleType("tqdm.auto")
    fake.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", fake)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


def watch(monkeypatch, terminal=False, kernel=None):
    stderr = types.SimpleNamespace(isatty=lambda: terminal, write=lambda text: None, flush=lambda: None)
    monkeypatch.setattr(sys, "stderr", stderr)
    shell = types.SimpleNamespace(kernel=kernel) if kernel else kernel
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


@pytest.mark.parametrize("progress, terminal, kernel, shown", [
    (True, False, None, True), (True, True, None, True), (False, True, "kernel", False),
    (None, False, None, False), (None, True, None, True), (None, False, "kernel", True)])
def test_a_bar_is_shown_when_somebody_watches(progress, terminal, kernel, shown, bars, monkeypatch):
    watch(monkeypatch, terminal, kernel)
    fit(progress=progress)
    assert len(bars) == shown
    if shown:
        assert bars[0].settings["total"] == bars[0].updates == len(bars[0].notes) == 15 and bars[0].open is False
        assert bars[0].notes[-1]["epoch"] == 3


def test_a_plain_ipython_shell_is_no_kernel_and_a_lost_stderr_no_terminal(bars, monkeypatch):
    watch(monkeypatch)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=object))
    fit()
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.delitem(sys.modules, "IPython")
    fit()
    assert bars == []


@pytest.mark.parametrize("value, silent", [("1", True), ("0", False), ("", False)])
def test_the_environment_silences_the_bar_in_a_kernel_too(value, silent, bars, monkeypatch):
    """tqdm's own notebook bar draws itself before it looks at the variable."""
    watch(monkeypatch, kernel=True)
    monkeypatch.setenv("TQDM_DISABLE", value)
    fit()
    fit(progress=True)
    assert len(bars) == (0 if silent else 2)


def test_the_bar_is_closed_when_training_fails(bars):
    x, _ = problem()
    with pytest.raises(FloatingPointError):
        fit(x=x * np.nan, progress=True)
    assert bars[0].open is False


def test_without_tqdm_only_an_explicit_wish_is_an_error(monkeypatch):
    watch(monkeypatch, terminal=True)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    quiet, wished = make_model(), make_model()
    assert len(fit(quiet).loss) == 3
    start = bits(wished.params)
    refuses(ImportError, 'fit: progress=True needs tqdm: pip install "backprop-notebooks[lab]"',
            lambda: fit(wished, progress=True))
    assert bits(wished.params) == start


@pytest.mark.parametrize("disable, progress, shown", [({}, True, True), ({"TQDM_DISABLE": "1"}, True, False),
                                                      ({}, None, False)])
def test_the_real_bar_goes_to_stderr_and_can_be_silenced(disable, progress, shown):
    code = ("import numpy as np; from backprop_lib import data, nn, optim, train; rng = np.random.default_rng(0); "
            "model = nn.MLP([2, 4, 2], rng=rng); train.fit(model, nn.CrossEntropyLoss(), optim.SGD(model, 0.1), "
            f"*data.xor(), epochs=2, batch_size=3, rng=rng, progress={progress})")
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60,
                          env={**environment, **disable}, cwd=Path(train.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and (("0/4" in done.stderr) if shown else done.stderr == "")


# ------------------------------------------------------------------------------------------------ does it learn?

@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "leaky_relu", "softplus"])
def test_xor_is_learned_with_a_hidden_layer_and_not_without(activation):
    x, t = data.xor()
    loss = nn.CrossEntropyLoss()
    model, bare = nn.MLP([2, 8, 2], activation, rng=generator(4)), nn.MLP([2, 2], rng=generator())
    for trained in (model, bare):
        train.fit(trained, loss, optim.Adam(trained, 0.05), x, t, epochs=400, batch_size=4, rng=generator())
    value, accuracy = train.evaluate(model, loss, x, t)
    assert accuracy == 1 and value < 0.05
    value, accuracy = train.evaluate(bare, loss, x, t)
    assert accuracy < 1 and abs(value - np.log(2)) < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_spirals_are_learned_by_a_hidden_layer_and_not_by_a_linear_one(seed):
    x, t = data.spirals(100, 3, generator(seed))
    loss = nn.CrossEntropyLoss()
    model, bare = nn.MLP([2, 64, 3], rng=generator(seed)), nn.MLP([2, 3], rng=generator(seed))
    for trained in (model, bare):
        train.fit(trained, loss, optim.Adam(trained, 0.02), x, t, epochs=150, batch_size=50, rng=generator(seed))
    assert train.evaluate(model, loss, x, t)[1] > 0.95 and 0.35 < train.evaluate(bare, loss, x, t)[1] < 0.65


def test_digits_are_learned():
    digits = data.load_digits(np.float32)
    model = nn.Sequential(nn.Linear(64, 64, rng=generator(), dtype=np.float32), nn.ReLU(),
                          nn.Dropout(0.1, rng=generator()), nn.Linear(64, 10, rng=generator(1), dtype=np.float32))
    loss = nn.CrossEntropyLoss()
    history = train.fit(model, loss, optim.Adam(model, 0.005), digits.x_train, digits.t_train, epochs=20,
                        batch_size=32, rng=generator(), validation=(digits.x_test, digits.t_test), max_norm=5.0)
    assert abs(history.loss[0] - np.log(10)) < 1.5 and history.loss[-1] < 0.1
    assert history.validation_accuracy[-1] > 0.96
    assert history.validation_accuracy[-1] == train.evaluate(model, loss, digits.x_test, digits.t_test)[1]
