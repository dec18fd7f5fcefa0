"""backprop_lib.trials: every check finds ours right, the table of who sees what, and the ledger names the line."""

import functools

import numpy as np
import pytest

from backprop_lib import lstm, mlp, trials
from backprop_lib.gradcheck import cosine
from backprop_lib.museum import EXHIBITS, Exhibit, by_number, on_show


NAMES = list(EXHIBITS)
LAYERS = sorted({shown.layer for shown in EXHIBITS.values()}, key=lambda f: f.__name__)
SEEN = """
softmax: diagonal alone                 x x o o o o . x o
affine: biases never move               x o o o o o o x o
affine: 1/N once more                   x o x o o o o x o
squared error: sign                     x x o o o o . x o
convolution: kernel not turned          x x o o o o o x o
convolution: batch and places mixed     x o x x o o o x o
windows: padding left out of the size   x x x x x x x x o
max pool: every tie paid                x x x x x x . x o
windows: = for +=                       x x x o o o . x o
batch norm: gamma forgotten             x x x x o o . x o
embedding: repeats lost                 x o x o o o o x o
RNN: dx without the future              x x o o o o . x o
RNN: one product through h_1            x o o o o o . x o
sequence loss: works in its cache       x x x x x x . o x
LSTM: sigmoid(f) for f (1 - f)          x o o o o o . x o
LSTM: h_t for h_{t-1}                   x o o o o o . x o
LSTM: dh never handed on                x o o o o o . x o
LSTM: c[-1] at t = 0                    x o o o o o . x o
GRU: direct path dropped                x o o o o o . x o
GRU: update gate reads reset's numbers  x o o o o o . x o
""".strip().splitlines()                                        # o seen, x missed, . not for it; last: the ledger
FIRST_NAMED = {"max pool: every tie paid": "CNN-27", "windows: = for +=": "CNN-11", "embedding: repeats lost": "EMB-2",
               "RNN: dx without the future": "?", "LSTM: c[-1] at t = 0": "LSTM-28",
               "windows: padding left out of the size": "?"}    # the line has no label, or backward refuses its shape


# ------------------------------------------------------------------------------------------------ the checks

@pytest.mark.parametrize("layer", LAYERS, ids=lambda f: f.__name__)
def test_every_check_finds_ours_right(layer):
    assert not any(check(layer) for check in trials.CHECKS.values())


@pytest.mark.parametrize("row", SEEN, ids=lambda row: row.split("  ")[0])
def test_the_table(row):
    shown, marks = by_number(SEEN.index(row) + 1), {True: "o", False: "x", None: "."}
    with on_show(shown):
        seen = [check(shown.layer) for check in trials.CHECKS.values()]
    named = trials.wrong_labels(shown)
    assert f"{shown.name:40}{' '.join(marks[found] for found in [*seen, bool(named)])}" == row
    if named:
        assert named[0] == FIRST_NAMED.get(shown.name, shown.line)


def test_the_table_has_a_row_for_each_exhibit_and_each_is_seen():
    assert [row[:40].strip() for row in SEEN] == NAMES and 15 <= len(NAMES) <= 20
    assert all("o" in row[40:] for row in SEEN)


def test_nice_inputs_are_nice():
    words, W = trials.nice_inputs(EXHIBITS["embedding: repeats lost"].layer)
    assert words.tolist() == [[0, 1, 2]] and W.shape == (3, 3) and W.any()
    x, h0, c0, W_ih, W_hh, b = trials.nice_inputs(lstm.lstm_forward)
    assert x.shape == (1, 3, 3) and not (h0.any() or c0.any() or b.any())


def test_a_gradient_of_another_shape_is_seen_by_the_shapes():
    """None of the exhibits is: so that the column of misses is not one of a check that cannot fail."""
    wide = Exhibit("wide", "", mlp.linear_backward, "MLP-4", "db = dz.sum(axis=0, keepdims=True)", "",
                   mlp.linear_forward)
    with on_show(wide):
        assert trials.shapes(wide.layer)


def test_float32_is_float32():
    given = set()

    @functools.wraps(mlp.linear_forward)
    def spy(*args):
        z, cache = mlp.linear_forward(*args)
        given.update(a.dtype.name for a in (*args, z))
        return z, cache
    assert not trials.rough(spy) and given == {"float32"}


# ------------------------------------------------------------------------------------------------ how wrong

@pytest.mark.parametrize("name", NAMES)
def test_an_exhibit_is_wrong_where_the_table_says_so(name):
    """Worse than 1 % in some gradient of its layer; two are right there, and one has outputs of another shape."""
    wrong = trials.how_wrong(EXHIBITS[name])
    if name == "windows: padding left out of the size":
        assert wrong == {}
    else:
        hidden = name in ("max pool: every tie paid", "sequence loss: works in its cache")
        assert (max(w.error for w in wrong.values()) < 0.01) == hidden


def test_report_says_which_rows_are_wrong(capsys):
    trials.report(EXHIBITS["LSTM: sigmoid(f) for f (1 - f)"], lstm.lstm_step_forward)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["dc_prev  right", "dW_ih    wrong in rows 3, 4, 5 of 12"]
    assert lines[0] == "dx       wrong in all rows" and len(lines) == 6


# ------------------------------------------------------------------------------------------------ training

def test_the_loss_falls_if_the_gradients_are_within_a_right_angle():
    """One layer of each kind: ours falls; so do these exhibits but the one that goes uphill."""
    for name, falls in (("squared error: sign", False), ("affine: 1/N once more", True),
                        ("embedding: repeats lost", True), ("GRU: direct path dropped", True)):
        ours = trials.train(EXHIBITS[name].layer)
        with on_show(EXHIBITS[name]):
            shown = trials.train(EXHIBITS[name].layer)
        assert ours.losses[-1] < ours.losses[0] == shown.losses[0]
        assert (shown.losses[-1] < shown.losses[0]) == (cosine(shown.grads, ours.grads) > 0) == falls


def test_training_is_the_same_each_time():
    first, second = (trials.train(lstm.lstm_forward, steps=2) for _ in range(2))
    assert first.losses == second.losses and np.array_equal(first.grads, second.grads) and len(first.losses) == 3
