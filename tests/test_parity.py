"""Our numbers against PyTorch's, stored in tests/fixtures/<family>.npz by tests/fixtures/make_<family>.py.

No framework is needed to run this. With PyTorch installed the stored numbers are computed once more and compared.
A new family adds its make_<family>.py and one line to FAMILIES.
"""

import importlib
import inspect
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from test_norm import two_samples_error

from backprop_lib import cnn, embedding, gru, lstm, mlp, nn, norm, rnn


FIXTURES = Path(__file__).parent / "fixtures"
FAMILIES = {"mlp": mlp, "cnn": cnn, "rnn": rnn, "lstm": lstm, "gru": gru, "norm": norm, "embedding": embedding}
TUPLES = {"kernel_size", "stride", "padding", "output_padding", "dilation", "normalized_shape"}
NONLINEARITIES = ("tanh", "relu")
LIMIT = 1e-12


def load(family):
    """{case: {role: {name: array}}} of a stored fixture."""
    with np.load(FIXTURES / f"{family}.npz", allow_pickle=False) as archive:
        values, index = archive["values"], json.loads(archive["index"].tobytes())
    cases, start = {}, 0
    for key, dtype, shape in index:
        case, role, name = key.split("/")
        end = start + int(np.prod(shape))
        array = values[start:end].reshape(shape).astype(dtype)
        cases.setdefault(case, {}).setdefault(role, {})[name] = as_argument(name, array)
        start = end
    assert start == values.size
    return cases


def as_argument(name, array):
    """Numbers are stored without an axis, options for rows and columns with one, None as NaN."""
    if name == "nonlinearity":
        return NONLINEARITIES[int(array)]
    if name == "num_batches_tracked":                           # the one array without an axis
        return array
    if array.ndim == 0:
        return None if name == "momentum" and np.isnan(array) else array.item()
    return tuple(array.tolist()) if name in TUPLES else array


STORED = {family: load(family) for family in FAMILIES}
CASES = [(family, case) for family in FAMILIES for case in STORED[family]]
PAIRS = [(family, case) for family, case in CASES if not case.startswith(("network.", "layer."))]
LAYERS = [(family, case) for family, case in CASES if case.startswith("layer.") and family != "norm"]
NORMS = [case for case in STORED["norm"] if case.startswith("layer.")]
EXACT = [(family, case) for family, case in CASES if "exact" in case]
WINNERS = [(family, case) for family, case in CASES if "winner" in STORED[family][case]]
NETWORKS = [case for case in STORED["mlp"] if case.startswith("network.")]


def relative_error(ours, reference):
    """Norm-wise, of arrays of one shape. Scaled first, so that neither 1e-300 nor 1e300 is lost in the squares."""
    assert np.shape(ours) == np.shape(reference)
    assert np.isfinite(ours).all() and np.isfinite(reference).all()
    scale = max(np.max(np.abs(ours), initial=0), np.max(np.abs(reference), initial=0))
    if scale == 0:
        return 0.0
    ours, reference = np.ravel(ours) / scale, np.ravel(reference) / scale
    return np.linalg.norm(ours - reference) / max(np.linalg.norm(ours), np.linalg.norm(reference))


def assert_close(ours, reference, name, limit=LIMIT):
    """To the limit; NaN and inf stand at the same places, everything else is finite."""
    assert np.shape(ours) == np.shape(reference), name
    finite = np.isfinite(reference)
    np.testing.assert_array_equal(np.asarray(ours)[~finite], np.asarray(reference)[~finite], err_msg=name)
    assert relative_error(np.asarray(ours)[finite], np.asarray(reference)[finite]) <= limit, name


def limit_of(family, case, name):
    """LIMIT, but for dx of a batch norm of two examples: there, ours and PyTorch's may both be off by more."""
    stored = STORED[family][case]
    if not case.startswith("batch_norm.") or len(stored["in"]["x"]) > 2 or name != "dx":
        return LIMIT
    x, gamma, _, eps = stored["in"].values()
    allowed = 2 * two_samples_error(x, gamma, eps, stored["cot"]["dy"])
    return np.linalg.norm([allowed, allowed]) / np.linalg.norm(stored["grad"]["dx"])


def run_pair(module, pair, case):
    """Outputs and gradients of <pair>_forward and <pair>_backward, named as in the fixture."""
    forward, backward = getattr(module, f"{pair}_forward"), getattr(module, f"{pair}_backward")
    *outputs, cache = forward(**case["in"])
    gradients = backward(*case["cot"].values(), cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return dict(zip(case["out"], outputs, strict=True)), dict(zip(case["grad"], gradients, strict=True))


@pytest.mark.parametrize("family, case", PAIRS)
def test_outputs_and_gradients_agree_with_pytorch(family, case):
    stored = STORED[family][case]
    outputs, gradients = run_pair(FAMILIES[family], case.split(".")[0], stored)
    for name, reference in (stored["out"] | stored["grad"]).items():
        assert_close((outputs | gradients)[name], reference, name, limit_of(family, case, name))


@pytest.mark.parametrize("family, case", CASES)
def test_only_cases_that_say_so_hold_nan_or_inf(family, case):
    stored = STORED[family][case]
    finite = all(np.isfinite(array).all() for role in ("in", "out", "grad") for array in stored[role].values()
                 if not isinstance(array, str))
    assert finite == (not {"nan", "inf"} & set(case.split(".")[1].split("_")))


@pytest.mark.parametrize("family, case", EXACT)
def test_on_a_coarse_grid_the_agreement_is_exact(family, case):
    stored = STORED[family][case]
    outputs, gradients = run_pair(FAMILIES[family], case.split(".")[0], stored)
    for name, reference in (stored["out"] | stored["grad"]).items():
        np.testing.assert_array_equal((outputs | gradients)[name], reference, err_msg=name)


@pytest.mark.parametrize("family, case", WINNERS)
def test_the_gradient_of_a_window_goes_to_the_place_pytorch_names(family, case):
    """One window at a time, of every image at once: all of it arrives at PyTorch's index, nothing elsewhere."""
    stored, pair = STORED[family][case], case.split(".")[0]
    indices, dy = stored["winner"]["indices"], np.zeros(stored["out"]["y"].shape)
    _, cache = getattr(FAMILIES[family], f"{pair}_forward")(**stored["in"])
    for p, q in np.ndindex(dy.shape[2:]):
        dy[...] = 0
        dy[:, :, p, q] = 0.5
        dx = getattr(FAMILIES[family], f"{pair}_backward")(dy, cache)
        expected = np.arange(dx[0, 0].size if dx.size else 0) == indices[:, :, p, q, None]
        np.testing.assert_array_equal(dx.reshape(expected.shape), 0.5 * expected)


def run_network(case, activations):
    """Loss and every gradient of linear layers with activations between them and cross-entropy at the end."""
    h, backwards, gradients = case["in"]["x"], [], {}
    for layer, activation in enumerate([*activations, "identity"]):
        h, linear_cache = mlp.linear_forward(h, case["in"][f"W{layer}"], case["in"][f"b{layer}"])
        h, activation_cache = getattr(mlp, f"{activation}_forward")(h)
        backwards.append((layer, linear_cache, getattr(mlp, f"{activation}_backward"), activation_cache))
    loss, cache = mlp.softmax_cross_entropy_forward(h, case["in"]["t"])
    dh = mlp.softmax_cross_entropy_backward(case["cot"]["dloss"], cache)
    for layer, linear_cache, activation_backward, activation_cache in reversed(backwards):
        dh, gradients[f"dW{layer}"], gradients[f"db{layer}"] = mlp.linear_backward(
            activation_backward(dh, activation_cache), linear_cache)
    return {"loss": loss, "dx": dh} | gradients


@pytest.mark.parametrize("case", NETWORKS)
def test_every_gradient_of_a_whole_network_agrees_with_pytorch(case):
    stored = STORED["mlp"][case]
    ours = run_network(stored, case.split(".")[1].split("-"))
    assert set(ours) == {*stored["out"], *stored["grad"]}
    for name, reference in (stored["out"] | stored["grad"]).items():
        assert relative_error(ours[name], reference) <= LIMIT, name


# ------------------------------------------------------------------------------------------------ recurrent layers

def run_layer(family, case):
    """The parameters, outputs and gradients of a whole recurrent layer, named as in the fixture."""
    given, cotangents = dict(case["in"]), list(case["cot"].values())
    x, lengths, states = given.pop("x"), given.pop("lengths", None), tuple(given.values())
    H, D = case["param"]["weight_hh_l0"].shape[1], case["param"]["weight_ih_l0"].shape[1]
    layer = getattr(nn, family.upper())(D, H, **case["option"], rng=np.random.default_rng(0))
    layer.load_state_dict(case["param"])
    several = family == "lstm"
    y, final = layer.forward(x, (states if several else states[0]) if states else None, lengths=lengths)
    dy, *dfinal = cotangents
    dx, dstates = layer.backward(dy, (tuple(dfinal) if several else dfinal[0]) if dfinal else None)
    outputs = dict(zip(["y", "hn", "cn"], (y, *final) if several else (y, final)))
    gradients = {"dx": dx} | dict(zip(["dh0", "dc0"], dstates if several else (dstates,)))
    return layer.params, outputs, gradients | {f"d{name}": gradient for name, gradient in layer.grads.items()}


@pytest.mark.parametrize("family, case", LAYERS)
def test_a_recurrent_layer_agrees_with_pytorch(family, case):
    stored = STORED[family][case]
    params, outputs, gradients = run_layer(family, stored)
    assert list(params) == list(stored["param"])
    assert (outputs | gradients).keys() == (stored["out"] | stored["grad"]).keys()
    for name, reference in (stored["out"] | stored["grad"]).items():
        assert_close((outputs | gradients)[name], reference, name)


@pytest.mark.parametrize("family", ["rnn", "lstm", "gru"])
def test_the_layers_cover_every_option(family):
    cases = [STORED[family][case] for f, case in LAYERS if f == family]
    assert len(cases) >= 25
    options = [(c["option"]["num_layers"], c["option"]["bidirectional"], c["option"]["batch_first"], "h0" in c["in"],
                "lengths" in c["in"], "dhn" in c["cot"], c["option"]["bias"]) for c in cases]
    for column, values in enumerate([{1, 2, 3}, *[{False, True}] * 6]):
        assert {option[column] for option in options} == values
    assert {len(c["param"]["weight_hh_l0"]) // c["param"]["weight_hh_l0"].shape[1] for c in cases} == {
        {"rnn": 1, "lstm": 4, "gru": 3}[family]}
    times = {c["in"]["x"].shape[1 if c["option"]["batch_first"] else 0] for c in cases}
    assert {1, 60} <= times and 1 in {c["param"]["weight_hh_l0"].shape[1] for c in cases}
    if family == "rnn":
        assert {c["option"]["nonlinearity"] for c in cases} == {"tanh", "relu"}


# ------------------------------------------------------------------------------------------------ layers that normalise

def norm_layer(case):
    """The object of a case `layer.<class>_<what>`, as it stood before the first batch."""
    layer = getattr(nn, case.removeprefix("layer.").split("_")[0])(**STORED["norm"][case]["option"])
    layer.load_state_dict(STORED["norm"][case].get("state", {}))
    return layer


@pytest.mark.parametrize("case", NORMS)
def test_a_layer_that_normalises_agrees_with_pytorch_over_several_batches(case):
    """The last batch in evaluation, the others in training; then the running statistics."""
    stored, layer = STORED["norm"][case], norm_layer(case)
    batches = list(zip(stored["in"]["x"], stored["cot"]["dy"], stored["out"]["y"], strict=True))
    for number, (x, dy, y) in enumerate(batches):
        layer.train(number < len(batches) - 1)
        assert_close(layer.forward(x), y, "y")
        gradients = {"dx": layer.backward(dy)} | {f"d{name}": g for name, g in layer.grads.items()}
        assert gradients.keys() == stored["grad"].keys()
        for name, reference in stored["grad"].items():
            assert_close(gradients[name], reference[number], name)
    after = layer.state_dict()
    assert list(after) == list(stored.get("after", {}))         # PyTorch's names, in its order
    for name, reference in stored.get("after", {}).items():
        assert_close(after[name], reference, name)


def test_the_layers_that_normalise_cover_every_option():
    options = {}
    for case in NORMS:
        kind = case.removeprefix("layer.").split("_")[0]
        axes = STORED["norm"][case]["in"]["x"].ndim - 1
        for name, value in (STORED["norm"][case]["option"] | {"axes": axes}).items():
            options.setdefault((kind, name), set()).add(value)
    for kind, axes in [("BatchNorm1d", {2, 3}), ("BatchNorm2d", {4})]:
        assert options[kind, "axes"] == axes and {0.3, None} <= options[kind, "momentum"]
        assert options[kind, "eps"] == {0.1} and options[kind, "affine"] == {False}
    assert {len(shape) for shape in options["LayerNorm", "normalized_shape"]} == {1, 2, 3}
    assert options["LayerNorm", "elementwise_affine"] == options["LayerNorm", "bias"] == {False}
    assert options["LayerNorm", "axes"] == {2, 3, 4} and options["LayerNorm", "eps"] == {0.1}


# ------------------------------------------------------------------------------------------------ gates

def worst_error(family, case, inputs):
    """How far the outputs are from the stored ones if other inputs are given."""
    outputs, _ = run_pair(FAMILIES[family], case.split(".")[0], STORED[family][case] | {"in": inputs})
    return max(relative_error(outputs[name], y) for name, y in STORED[family][case]["out"].items())


def with_gates_permuted(inputs, order):
    """The blocks of rows of everything that is stacked by gates, in another order."""
    H = inputs["W_hh"].shape[1]
    rows = np.concatenate([np.arange(H) + gate * H for gate in order])
    return {name: a[rows] if name in ("W_ih", "W_hh", "b", "b_ih", "b_hh") else a for name, a in inputs.items()}


GATED = [(family, case) for family, case in PAIRS if family in ("lstm", "gru")]


@pytest.mark.parametrize("family, case", GATED)
def test_no_other_order_of_the_gates_agrees_with_the_stored_numbers(family, case):
    inputs = STORED[family][case]["in"]
    in_order, *others = itertools.permutations(range(4 if family == "lstm" else 3))
    assert worst_error(family, case, with_gates_permuted(inputs, in_order)) <= LIMIT
    assert all(worst_error(family, case, with_gates_permuted(inputs, order)) > 1e-3 for order in others)


@pytest.mark.parametrize("family, case", [(family, case) for family, case in GATED if family == "gru"])
def test_only_where_the_reset_comes_before_can_the_two_biases_of_a_gru_change_places(family, case):
    inputs = STORED[family][case]["in"]
    swapped = worst_error(family, case, inputs | {"b_ih": inputs["b_hh"], "b_hh": inputs["b_ih"]})
    before = case.startswith("gru_before_step") or inputs.get("reset_after") is False
    assert swapped <= LIMIT if before else swapped > 1e-6


# ------------------------------------------------------------------------------------------------ the fixtures

@pytest.mark.parametrize("family, module", FAMILIES.items())
def test_every_pair_has_cases_with_one_with_two_and_with_more_examples(family, module):
    for pair in [name.removesuffix("_forward") for name, f in vars(module).items()
                 if name.endswith("_forward") and f.__module__ == module.__name__]:
        inputs = [STORED[family][case]["in"] for f, case in PAIRS if f == family and case.split(".")[0] == pair]
        sizes = {len(next(iter(arrays.values()))) for arrays in inputs}
        few = {2} if pair == "batch_norm" else {1, 2}           # one example has no variance
        assert few <= sizes and max(sizes) > 2, pair


@pytest.mark.parametrize("family, case", PAIRS)
def test_a_case_holds_every_argument_and_no_gradient_is_left_out(family, case):
    pair, stored = case.split(".")[0], STORED[family][case]
    names = list(inspect.signature(getattr(FAMILIES[family], f"{pair}_forward")).parameters)
    assert list(stored["in"]) == names
    assert list(stored["cot"]) == [f"d{name}" for name in stored["out"]]
    assert [name for name in names if f"d{name}" in stored["grad"]] == [name[1:] for name in stored["grad"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fixture_is_small(family):
    assert (FIXTURES / f"{family}.npz").stat().st_size < 150_000


@pytest.mark.parametrize("family", FAMILIES)
def test_pytorch_computes_the_stored_numbers_again(family, monkeypatch):
    pytest.importorskip("torch", reason="compares live with PyTorch: pip install torch==2.13.0")
    monkeypatch.syspath_prepend(FIXTURES)
    live = importlib.import_module(f"make_{family}").compute()
    stored = {f"{case}/{role}/{name}": array for case, roles in STORED[family].items()
              for role, arrays in roles.items() for name, array in arrays.items()}
    assert live.keys() == stored.keys()
    live = {key: as_argument(key.split("/")[2], array) for key, array in live.items()}
    for key, array in stored.items():
        case, role, name = key.split("/")
        if role in ("option", "param", "state", "in", "cot"):
            np.testing.assert_array_equal(live[key], array, err_msg=key)
        else:
            assert_close(live[key], array, key, limit_of(family, case, name))
