"""backprop_lib.optim: the trajectories of PyTorch (stored, and live), the rules by hand, and what is refused."""

# Every lambda below is called before its loop goes on.
# ruff: noqa: B023

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from arrays import refuses

from backprop_lib import nn, optim


FIXTURES = Path(__file__).parent / "fixtures"
MAKER = runpy.run_path(str(FIXTURES / "make_optim.py"))
RUNS = MAKER["RUNS"]
with np.load(FIXTURES / "optim.npz", allow_pickle=False) as archive:
    STORED = {name: archive[name] for name in archive.files}

EVERY = {"SGD": lambda model, **more: optim.SGD(model, **{"lr": 0.1, "momentum": 0.9, **more}),
         "AdaGrad": optim.AdaGrad, "RMSProp": optim.RMSProp, "Adam": optim.Adam}
every_optimizer = pytest.mark.parametrize("name", EVERY)


class Model:
    """The two dicts that an optimiser sees."""

    def __init__(self, params, grads=None):
        self.params, self.grads = params, {} if grads is None else grads


def generator(seed=0):
    return np.random.default_rng(seed)


def model_of(dtype=np.float64):
    rng = generator()
    return Model({name: rng.standard_normal(shape).astype(dtype) for name, shape in (("W", (3, 5)), ("b", (3,)))},
                 {name: rng.standard_normal(shape).astype(dtype) for name, shape in (("W", (3, 5)), ("b", (3,)))})


def follow(run):
    """Our parameters after every step of a stored run."""
    ours, _, settings = RUNS[run]
    model = Model({name: STORED[f"start.{name}"].copy() for name in ("weight", "bias")})
    optimizer = getattr(optim, ours)(model, **settings)
    for k in range(MAKER["STEPS"]):
        model.grads = {name: STORED[f"gradients.{name}"][k] for name in model.params}
        optimizer.step()
        yield {name: p.copy() for name, p in model.params.items()}


# ------------------------------------------------------------------------------------------------ PyTorch's numbers

@pytest.mark.parametrize("run", RUNS)
def test_trajectories_agree_with_the_stored_ones(run):
    steps = 0
    for k, params in enumerate(follow(run)):
        for name, p in params.items():
            error = np.linalg.norm(p - STORED[f"{run}.{name}"][k]) / np.linalg.norm(p)
            assert error < 1e-12, (name, k)
        steps += 1
    assert steps == MAKER["STEPS"] == 20


def test_the_stored_runs_tell_every_setting_apart():
    """Two runs that agree would leave a setting untested; the gradients differ by step and entry."""
    ends = [STORED[f"{run}.weight"][-1] for run in RUNS]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(ends) for b in ends[:i])
    assert len(np.unique(STORED["gradients.weight"])) == 20 * 15
    assert {ours for ours, _, _ in RUNS.values()} == {"SGD", "AdaGrad", "RMSProp", "Adam"}


@pytest.mark.parametrize("run", RUNS)
def test_torch_live_trajectories_agree(run):
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    _, theirs, settings = RUNS[run]
    start, gradients = STORED["start.weight"], STORED["gradients.weight"]
    path = MAKER["trajectory"](torch, theirs, settings, start, gradients)
    for k, params in enumerate(follow(run)):
        assert np.linalg.norm(params["weight"] - path[k]) / np.linalg.norm(path[k]) < 1e-12


def test_torch_has_the_same_defaults():
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    model = model_of()
    for ours, theirs in [(optim.AdaGrad, torch.optim.Adagrad), (optim.RMSProp, torch.optim.RMSprop),
                         (optim.Adam, torch.optim.Adam)]:
        settings = theirs([torch.zeros(3, requires_grad=True)]).defaults
        optimizer = ours(model)
        for name in ("lr", "eps", "weight_decay", "alpha", "betas"):
            if hasattr(optimizer, name):
                assert getattr(optimizer, name) == settings[name], (ours.__name__, name)


def test_torch_clips_almost_alike():
    torch = pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    grads = model_of().grads
    tensors = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in grads.values()]
    for tensor, g in zip(tensors, grads.values()):
        tensor.grad = torch.tensor(g)
    norm_torch = torch.nn.utils.clip_grad_norm_(tensors, 0.5)
    clipped, norm = optim.clip_by_norm(grads, 0.5)
    assert abs(norm - norm_torch.item()) < 1e-12
    for tensor, g in zip(tensors, clipped.values()):
        assert np.allclose(tensor.grad.numpy() * (norm + 1e-6) / norm, g, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------------ the rules by hand

def path_of(make, gradients, start=1.0):
    model = Model({"p": np.array([start])})
    optimizer = make(model)
    values = []
    for g in gradients:
        model.grads = {"p": np.array([float(g)])}
        optimizer.step()
        values.append(float(model.params["p"][0]))
    return values


def test_rules_worked_out_by_hand():
    assert np.allclose(path_of(lambda m: optim.SGD(m, 0.5), [2, -4]), [0, 2])
    assert np.allclose(path_of(lambda m: optim.SGD(m, 0.5, momentum=0.5), [2, 2, 0]), [0, -1.5, -2.25])
    assert np.allclose(path_of(lambda m: optim.SGD(m, 0.5, momentum=0.5, nesterov=True), [2, 2]), [-0.5, -2.25])
    assert np.allclose(path_of(lambda m: optim.SGD(m, 0.5, weight_decay=0.2), [0, 0]), [0.9, 0.81])
    assert np.allclose(path_of(lambda m: optim.AdaGrad(m, 0.1), [3, 4]), [0.9, 0.9 - 0.1 * 4 / 5])
    assert np.allclose(path_of(lambda m: optim.RMSProp(m, 0.1, alpha=0.75), [2, 0]), [1 - 0.1 * 2, 0.8])
    # Adam's first step is lr sign(g), whatever the size of g
    assert np.allclose(path_of(lambda m: optim.Adam(m, 0.1), [1e-3]), [0.9], rtol=1e-5)
    assert np.allclose(path_of(lambda m: optim.Adam(m, 0.1), [-50.0, -50.0]), [1.1, 1.2], rtol=1e-8)


def test_the_first_sources_and_our_form_of_momentum_agree():
    """Sutskever et al.: v = mu v - lr grad(p + mu v), p = p + v. Ours follows the look-ahead point p + mu v."""
    def grad(p):
        return 3 * p - 1
    lr, mu, p, v = 0.1, 0.8, 2.0, 0.0
    model = Model({"p": np.array([2.0])})
    optimizer = optim.SGD(model, lr, momentum=mu, nesterov=True)
    for _ in range(20):
        v = mu * v - lr * grad(p + mu * v)
        p = p + v
        model.grads = {"p": grad(model.params["p"])}
        optimizer.step()
        assert math.isclose(model.params["p"][0], p + mu * v, rel_tol=1e-12)


@every_optimizer
def test_every_optimizer_reaches_the_minimum_of_a_bowl(name):
    model = Model({"p": np.array([3.0, -2.0])})
    optimizer = EVERY[name](model, lr=0.1)
    for _ in range(2000):
        model.grads = {"p": np.array([1.0, 5.0]) * (model.params["p"] - np.array([1.0, 2.0]))}
        optimizer.step()
    assert np.abs(model.params["p"] - [1, 2]).max() < 0.06


# ------------------------------------------------------------------------------------------------ arrays

@every_optimizer
def test_parameters_change_in_place_and_gradients_do_not(name):
    model = model_of()
    arrays, before = dict(model.params), {key: p.copy() for key, p in model.params.items()}
    grads = {key: g.copy() for key, g in model.grads.items()}
    for g in model.grads.values():
        g.flags.writeable = False
    optimizer = EVERY[name](model, weight_decay=0.1)
    for _ in range(3):
        optimizer.step()
    for key, p in model.params.items():
        assert p is arrays[key] and (p != before[key]).all() and (model.grads[key] == grads[key]).all()


@every_optimizer
def test_float32_stays_float32(name):
    model = model_of(np.float32)
    setting = {"lr": np.float64(0.01), "weight_decay": np.float64(0.1)}
    optimizer = EVERY[name](model, **setting)
    wide = model_of()
    twin = EVERY[name](wide, lr=0.01, weight_decay=0.1)
    for _ in range(5):
        optimizer.step()
        twin.step()
    arrays = [*model.params.values(), *(a for slots in optimizer.state.values() for a in slots.values())]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)} and len(arrays) > 2
    assert all(np.allclose(p, wide.params[key], rtol=1e-4, atol=1e-5) for key, p in model.params.items())


@every_optimizer
def test_a_replaced_parameter_is_the_one_that_moves(name):
    model = model_of()
    optimizer = EVERY[name](model)
    optimizer.step()
    old = model.params["W"]
    kept, new = old.copy(), np.zeros((3, 5))
    model.params["W"] = new
    optimizer.step()
    assert (old == kept).all() and new.all()


@every_optimizer
def test_objects_of_nn_are_trained_in_place(name):
    model, loss = nn.MLP([4, 6, 3], "tanh", rng=generator()), nn.CrossEntropyLoss()
    x, t = generator(1).standard_normal((9, 4)), generator(2).integers(0, 3, 9)
    optimizer, weight = EVERY[name](model, lr=0.01), model[0].params["weight"]
    losses = []
    for _ in range(30):
        losses.append(loss.forward(model.forward(x), t))
        model.backward(loss.backward())
        optimizer.step()
    assert losses[-1] < losses[0] and model.params["0.weight"] is weight


@every_optimizer
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_gradients_that_are_not_finite_are_not_hidden(name, value):
    model = model_of()
    model.grads["W"][1, 2] = value
    EVERY[name](model).step()
    assert not np.isfinite(model.params["W"][1, 2])
    assert np.isfinite(model.params["W"]).sum() == 14 and np.isfinite(model.params["b"]).all()


# ------------------------------------------------------------------------------------------------ clipping

def test_clip_by_norm():
    grads = {"W": np.array([[3.0, 0.0]]), "b": np.array([4.0])}
    clipped, norm = optim.clip_by_norm(grads, 2)
    assert norm == 5 and type(norm) is float and list(clipped) == ["W", "b"]
    assert np.allclose(clipped["W"], [[1.2, 0]], rtol=1e-15) and np.allclose(clipped["b"], [1.6], rtol=1e-15)
    assert grads["W"].tolist() == [[3.0, 0.0]] and grads["b"].tolist() == [4.0]
    for limit in (5, 5.1):
        same, norm = optim.clip_by_norm(grads, limit)
        assert norm == 5 and all((same[key] == g).all() and same[key] is not g for key, g in grads.items())
    assert optim.clip_by_norm({"W": np.zeros((2, 0)), "b": np.zeros(3)}, 1)[1] == 0
    assert optim.clip_by_norm({}, 1) == ({}, 0.0)


def test_clip_by_norm_keeps_the_direction_and_survives_huge_and_tiny_gradients():
    grads = model_of().grads
    joint = np.concatenate([g.ravel() for g in grads.values()])
    for scale in (1, 1e250, 1e-250):
        scaled = {key: g * scale for key, g in grads.items()}
        clipped, norm = optim.clip_by_norm(scaled, 0.5 * scale)
        assert math.isclose(norm, np.linalg.norm(joint) * scale, rel_tol=1e-12)
        together = np.concatenate([g.ravel() for g in clipped.values()])
        assert np.allclose(together, joint * (0.5 * scale / np.linalg.norm(joint)), rtol=1e-12, atol=0)


def test_clipping_keeps_the_width():
    grads = {"W": np.array([3e30, 4e30], np.float32)}
    clipped, norm = optim.clip_by_norm(grads, np.float64(1))
    assert clipped["W"].dtype == np.float32 and math.isclose(norm, math.hypot(*grads["W"].tolist()), rel_tol=1e-14)
    assert np.allclose(clipped["W"], [0.6, 0.8])
    assert optim.clip_by_norm(grads, 1e38)[0]["W"].dtype == np.float32
    assert optim.clip_by_value(grads, np.float64(1))["W"].dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clipping_does_not_hide_nan_and_inf(value):
    grads = {"W": np.array([3.0, value]), "b": np.array([-4.0])}
    clipped, norm = optim.clip_by_norm(grads, 1)
    assert norm == abs(value) or (math.isnan(norm) and math.isnan(value))
    assert all(np.array_equal(clipped[key], g, equal_nan=True) for key, g in grads.items())
    clipped = optim.clip_by_value(grads, 2)
    assert np.array_equal(clipped["W"], [2, value], equal_nan=True) and clipped["b"] == [-2]


def test_clip_by_value():
    grads = {"W": np.array([[-3.0, -0.5], [0.25, 7.0]])}
    assert optim.clip_by_value(grads, 0.5)["W"].tolist() == [[-0.5, -0.5], [0.25, 0.5]]
    assert grads["W"].tolist() == [[-3.0, -0.5], [0.25, 7.0]]


@pytest.mark.parametrize("clip, name", [(optim.clip_by_norm, "max_norm"), (optim.clip_by_value, "limit")])
def test_bad_limits_are_refused(clip, name):
    for wrong in (0, -1, math.nan, math.inf):
        refuses(ValueError, f"{clip.__name__}: {name} must be a finite number > 0, got {wrong}",
                lambda: clip({}, wrong))
    refuses(TypeError, f"{clip.__name__}: {name} must be a finite number > 0, got str", lambda: clip({}, "1"))


# ------------------------------------------------------------------------------------------------ bad input

@every_optimizer
def test_bad_settings_are_refused(name):
    model = model_of()
    for wrong in (0, -0.1, math.nan, math.inf):
        refuses(ValueError, f"{name}: lr must be a finite number > 0, got {wrong}",
                lambda: EVERY[name](model, lr=wrong))
    for wrong in ("0.1", None, True, [0.1]):
        refuses(TypeError, f"{name}: lr must be a finite number > 0, got {type(wrong).__name__}",
                lambda: EVERY[name](model, lr=wrong))
    refuses(ValueError, f"{name}: weight_decay must be a finite number >= 0, got -0.1",
            lambda: EVERY[name](model, weight_decay=-0.1))
    refuses(ValueError, f"{name}: the model has no parameters, got ReLU", lambda: EVERY[name](nn.ReLU()))


def test_bad_settings_of_one_optimizer_are_refused():
    model = model_of()
    for wrong in (-0.1, 1, 1.5, math.nan):
        range_ = f"must be a finite number in [0, 1), got {wrong}"
        refuses(ValueError, f"SGD: momentum {range_}", lambda: optim.SGD(model, 0.1, momentum=wrong))
        refuses(ValueError, f"RMSProp: alpha {range_}", lambda: optim.RMSProp(model, alpha=wrong))
        refuses(ValueError, f"Adam: betas[0] {range_}", lambda: optim.Adam(model, betas=(wrong, 0.9)))
        refuses(ValueError, f"Adam: betas[1] {range_}", lambda: optim.Adam(model, betas=(0.9, wrong)))
    refuses(ValueError, "SGD: nesterov needs a momentum > 0, got 0", lambda: optim.SGD(model, 0.1, nesterov=True))
    for wrong in (0.9, (0.9,), "ab", (0.9, 0.9, 0.9)):
        refuses(ValueError, f"Adam: betas must be two numbers in [0, 1), got {wrong!r}",
                lambda: optim.Adam(model, betas=wrong))
    for make in (optim.AdaGrad, optim.RMSProp, optim.Adam):
        refuses(ValueError, f"{make.__name__}: eps must be a finite number > 0, got 0", lambda: make(model, eps=0))
    with pytest.raises(TypeError, match="lr"):
        optim.SGD(model)


@every_optimizer
def test_gradients_that_do_not_fit_are_refused_and_nothing_changes(name):
    model, twin = model_of(), model_of()
    optimizer, reference = EVERY[name](model), EVERY[name](twin)
    good = dict(model.grads)
    for change, error, message in [
            ({"b": None}, TypeError, "the gradient of 'b' must be an array of float64, got NoneType"),
            ({"b": np.ones(3, np.float32)}, TypeError, "the gradient of 'b' must be an array of float64, got float32"),
            ({"b": np.ones((3, 1))}, ValueError, "the gradient of 'b' must have shape (3,), got (3, 1)"),
            ({"b": np.ones(1)}, ValueError, "the gradient of 'b' must have shape (3,), got (1,)")]:
        model.grads = {**good, **change}
        refuses(error, f"{name}: {message}", optimizer.step)
    model.grads = {"W": good["W"]}
    refuses(RuntimeError, f"{name}: no gradient for 'b'; call backward before step", optimizer.step)
    model.grads = good
    model.params["b"].flags.writeable = False
    refuses(ValueError, f"{name}: the parameter 'b' must be writable, got a read-only array", optimizer.step)
    model.params["b"].flags.writeable = True
    for _ in range(2):
        optimizer.step()
        reference.step()
    assert all(p.tobytes() == twin.params[key].tobytes() for key, p in model.params.items())


def test_an_untrained_model_of_nn_asks_for_backward():
    model = nn.MLP([3, 2], rng=generator())
    before = model.state_dict()
    refuses(RuntimeError, "Adam: no gradient for '0.weight'; call backward before step", optim.Adam(model).step)
    assert all((p == before[key]).all() for key, p in model.params.items())


def test_a_rule_that_is_not_written_says_so():
    refuses(NotImplementedError, "Optimizer: change(g, state) must return what is subtracted",
            optim.Optimizer(model_of(), 0.1, 0.0).step)
