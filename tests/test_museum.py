"""backprop_lib.museum: one line is exchanged and comes back, and our tests catch every exhibit."""

import contextlib
import difflib
import hashlib
import inspect
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mutations import Session

from backprop_lib import cnn, embedding, fast, gradflow, gru, lstm, mlp, nn, norm, rnn, trials
from backprop_lib.museum import EXHIBITS, Exhibit, MuseumError, by_number, changed_source, code_in, on_show, plate


MODULES = (cnn, embedding, gradflow, gru, lstm, mlp, nn.convolution, nn.recurrent, norm, rnn)
NAMES = list(EXHIBITS)


def state():
    """Files, functions and their code, and the bits of a training run through most of the library."""
    files = {m.__name__: hashlib.sha256(pathlib.Path(m.__file__).read_bytes()).hexdigest() for m in MODULES}
    functions = {(m.__name__, name): (f, inspect.unwrap(f).__code__) for m in MODULES for name, f in vars(m).items()
                 if inspect.isfunction(f)}
    runs = [trials.train(getattr(m, name), steps=2) for m, name in ((lstm, "lstm_forward"), (cnn, "max_pool2d_forward"),
                                                                    (norm, "batch_norm_forward"))]
    return files, functions, [(np.array(r.losses).tobytes(), r.grads.tobytes()) for r in runs]


def exhibit(line="LSTM-20", replacement="dh_prev = dz @ W_hh * 2", function=lstm.lstm_step_backward):
    return Exhibit("a test", "nowhere", function, line, replacement, "", lstm.lstm_forward)


# ------------------------------------------------------------------------------------------------ the patch

def test_running_the_museum_leaves_the_library_unchanged():
    before = state()
    for shown in EXHIBITS.values():
        with pytest.raises(ZeroDivisionError), on_show(shown):
            assert inspect.unwrap(shown.function).__code__ != before[1][shown.function.__module__,
                                                                         shown.function.__name__][1]
            1 / 0                                               # noqa: B018
    after = state()
    assert before == after
    assert all(f is after[1][key][0] and code is after[1][key][1] for key, (f, code) in before[1].items())


@pytest.mark.parametrize("name", NAMES)
def test_an_exhibit_exchanges_one_line(name):
    shown = EXHIBITS[name]
    ours = inspect.getsource(inspect.getmodule(inspect.unwrap(shown.function))).splitlines()
    changes = [line for line in difflib.ndiff(ours, changed_source(shown).splitlines()) if line[0] in "+-"]
    assert [line[0] for line in changes] == ["-", "+"] and shown.replacement in changes[1]
    assert changes[0].partition("#")[2] == changes[1].partition("#")[2]         # the label stays
    assert shown.name == name and shown.where and shown.mistake.endswith(".")
    assert by_number(NAMES.index(name) + 1) is shown
    assert all(text in plate(shown) for text in (name, shown.where, shown.replacement, shown.mistake))


def test_everybody_who_holds_the_function_runs_the_variant():
    layer, held = nn.LSTM(2, 3, rng=np.random.default_rng(0)), lstm.lstm_step_backward
    x, dy = np.ones((2, 4, 2)), np.ones((2, 4, 3))
    with fast.off():                                            # a tuned forward would go back to its own backward
        layer.forward(x)
    ours, _ = layer.backward(dy)
    with on_show(exhibit()):
        assert lstm.lstm_step_backward is held and nn.LSTM.pair == (lstm.lstm_forward, lstm.lstm_backward)
        assert not np.allclose(layer.backward(dy)[0], ours)
    assert layer.backward(dy)[0].tobytes() == ours.tobytes()


@pytest.mark.parametrize("wrong, words", [
    (exhibit("LSTM-99"), "found 0 times"),
    (exhibit("LSTM-1"), "found 0 times"),                       # of another function
    (exhibit("", "pass", rnn.rnn_backward), r"found \d\d times"),
    (exhibit(replacement="dh_prev = dz@W_hh"), "the same code"),
    (exhibit(replacement="dh_prev = dz @ W_hh  # twice"), "the same code"),
    (exhibit(replacement="dh_prev = dz\ndh_prev = dz @ W_hh"), "must be one line"),
    (exhibit(replacement="dh_prev = (dz @ W_hh"), "does not fit")])
def test_a_line_that_cannot_be_exchanged_is_refused(wrong, words):
    ours = lstm.lstm_step_backward.__code__
    with pytest.raises(MuseumError, match=words), on_show(wrong):
        pass
    assert lstm.lstm_step_backward.__code__ is ours


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_function_is_the_one_in_its_file(module):
    """What `on_show` asks before it exchanges a line holds for all functions, not only for those that are exhibits."""
    source, found = inspect.getsource(module), 0
    for f in map(inspect.unwrap, filter(inspect.isfunction, vars(module).values())):
        if f.__module__ == module.__name__:
            assert f.__code__ == code_in(source, f)
            found += 1
    assert found


def test_a_file_that_was_edited_after_the_import_is_noticed(monkeypatch):
    edited = inspect.getsource(lstm).replace("dx = dz @ W_ih ", "dx = dz @ (W_ih)+ 0 ")
    monkeypatch.setattr(inspect, "getsource", lambda module: edited)
    with pytest.raises(RuntimeError, match="or its file was edited"), on_show(exhibit()):
        pass


def test_a_plate_shows_a_line_that_stands_in_another_function_too():
    line = "dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)"
    assert inspect.getsource(lstm).count(line) == 2
    assert f"  ours     {line}\n" in plate(exhibit(line, "dz = np.concatenate([dz_i, dz_f, dz_o, dz_g], axis=1)"))


def test_two_functions_of_a_module_are_on_show_together():
    ours = lstm.lstm_step_backward.__code__, lstm.lstm_backward.__code__
    step, whole = on_show(exhibit()), on_show(EXHIBITS["LSTM: dh never handed on"])
    with contextlib.ExitStack() as stack:
        stack.enter_context(whole)
        with step:
            assert not {lstm.lstm_step_backward.__code__, lstm.lstm_backward.__code__} & set(ours)
            stack.close()                                       # the first one leaves first
            assert lstm.lstm_backward.__code__ is ours[1] and lstm.lstm_step_backward.__code__ != ours[0]
    assert lstm.lstm_step_backward.__code__ is ours[0]


def test_a_function_is_on_show_once():
    with on_show(exhibit()):
        shown = lstm.lstm_step_backward.__code__
        with pytest.raises(RuntimeError, match="is on show already"), on_show(exhibit("LSTM-19", "dx = dz @ W_ih * 2")):
            pass
        assert lstm.lstm_step_backward.__code__ is shown
        with on_show(EXHIBITS["GRU: direct path dropped"]):     # another function may be, too
            pass


# ------------------------------------------------------------------------------------------------ mutation tests

def mutations(*arguments):
    """What `python tests/mutations.py` prints, as {name: test}; pytest's own settings are not handed on to it."""
    script = pathlib.Path(__file__).with_name("mutations.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, env=environment,
                          cwd=script.parents[1], check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return dict(line.split("\t") for line in done.stdout.splitlines())


def test_our_tests_catch_every_exhibit_and_not_a_harmless_change():
    caught = mutations()
    assert list(caught) == [*NAMES, "harmless"]
    assert caught.pop("harmless") == "NOT CAUGHT"
    assert [name for name, test in caught.items() if not test.startswith("tests/test_")] == []


@pytest.mark.parametrize("seen, again, answer", [("fails", "passes", "the test"), ("passes", "passes", None),
                                                 ("fails", "fails", None)])
def test_caught_is_what_fails_on_show_and_passes_afterwards(seen, again, answer):
    """A test that fails on the clean library, too, has caught nothing."""
    class Test:
        nodeid, originalname = "the test", "test"

    def protocol(item, nextitem):
        outcome = seen if lstm.lstm_step_backward.__code__ is not ours else again
        session.pytest_runtest_logreport(SimpleNamespace(failed=outcome == "fails"))
    ours, session = lstm.lstm_step_backward.__code__, Session()
    Test.ihook = SimpleNamespace(pytest_runtest_protocol=protocol)
    assert session.first_that_fails(exhibit(), [Test]) == answer
