"""The bug museum: published errors, each as one line of our own functions, put in for the time of a `with` block.

    with on_show(EXHIBITS["LSTM: h_t for h_{t-1}"]):
        ...                                                     # nn, gradflow, tests: everybody runs the variant

A variant is compiled from the real source with one line exchanged, and takes the place of the function's `__code__`.
The function remains the same object, so whoever holds it, in a class or by import, runs the variant, too. No file is
written. All threads of the process see it.
"""

import ast
import contextlib
import inspect
import types
from typing import NamedTuple

from . import cnn, embedding, gru, lstm, mlp, norm, rnn
from .fast import withdrawn


class MuseumError(ValueError):
    """A line that cannot be exchanged: not found, found twice, not code, or the same as before."""


class Exhibit(NamedTuple):
    """One published error as a line of ours."""
    name: str
    where: str                                                  # it was published, or whose kind it is
    function: object                                            # of ours
    line: str                                                   # its label, or its code without the comment
    replacement: str
    mistake: str                                                # in a sentence
    layer: object                                               # the forward function whose gradients show it


# ------------------------------------------------------------------------------------------------ one line exchanged

def changed_source(exhibit):
    """The source of the function's module with that one line exchanged; indentation and label stay."""
    place, _, shown = _exchanged(exhibit)
    lines = inspect.getsource(inspect.getmodule(exhibit.function)).splitlines(keepends=True)
    return "".join([*lines[:place], shown, *lines[place + 1:]])


def _exchanged(exhibit):
    """(index of the line in its file, our line, the line on show)"""
    function, line, new = inspect.unwrap(exhibit.function), exhibit.line, exhibit.replacement
    inside, first = inspect.getsourcelines(function)
    places = [k for k, candidate in enumerate(inside) if line in _parts(candidate)]
    if len(places) != 1:
        raise MuseumError(f"{function.__name__}: the line {line!r} must stand in it once, found {len(places)} times")
    if "\n" in new:
        raise MuseumError(f"{function.__name__}: the replacement of {line!r} must be one line, got {new!r}")
    k, = places
    shown = inside[k].replace(_parts(inside[k])[0], new, 1)
    try:
        same = _tree([*inside[:k], shown, *inside[k + 1:]]) == _tree(inside)
    except SyntaxError:
        raise MuseumError(f"{function.__name__}: the replacement of {line!r} does not fit, {new!r}") from None
    if same:
        raise MuseumError(f"{function.__name__}: the replacement of {line!r} is the same code, {new!r}")
    return first - 1 + k, inside[k], shown


def _tree(lines):
    return ast.dump(ast.parse("".join(lines)))


def _parts(line):
    """Code and label of a line of source."""
    code, _, comment = line.partition("#")
    return code.strip(), comment.strip().strip("()")


def plate(exhibit):
    """What hangs beside the exhibit: name, place, our line, the line on show, and what is wrong."""
    _, line, _ = _exchanged(exhibit)
    return (f"{exhibit.name}   [{exhibit.where}]\n  ours     {' '.join(line.split())}\n"
            f"  on show  {exhibit.replacement}\n  {exhibit.mistake}")


def code_in(source, function):
    """The code object of a function in the source of its module."""
    module = compile(source, function.__code__.co_filename, "exec", dont_inherit=True)
    return next(code for code in module.co_consts
                if isinstance(code, types.CodeType) and code.co_name == function.__name__)


@contextlib.contextmanager
def on_show(exhibit):
    """Everything in the block runs the exhibit's variant; afterwards, also after an error, the function is ours again.

    Raises MuseumError for a line that cannot be exchanged, and RuntimeError if the function is not the one in its
    source file: it is on show already, or the file was edited after the import.
    """
    function, source = inspect.unwrap(exhibit.function), changed_source(exhibit)
    ours = function.__code__
    if ours != code_in(inspect.getsource(inspect.getmodule(function)), function):
        raise RuntimeError(f"{function.__name__}: is on show already, or its file was edited after the import")
    function.__code__ = code_in(source, function)
    try:
        with withdrawn():
            yield
    finally:
        function.__code__ = ours


# ------------------------------------------------------------------------------------------------ the exhibits

EXHIBITS = {exhibit.name: exhibit for exhibit in (
    Exhibit("softmax: diagonal alone", "eriklindernoren/ML-From-Scratch",
            mlp.softmax_backward, "MLP-14", "dz = dp * p * (1 - p)",
            "Each probability depends on every score; only its own is kept.",
            mlp.softmax_forward),
    Exhibit("affine: biases never move", "mattm/simple-neural-network, glouw/tinn",
            mlp.linear_backward, "MLP-4", "db = 0 * dz.sum(axis=0)",
            "The biases are never updated.",
            mlp.linear_forward),
    Exhibit("affine: 1/N once more", "of the kind of yizt/numpy_neuron_network",
            mlp.linear_backward, "MLP-3", "dW = dz.T @ x / len(x)",
            "The layer divides by N, which the loss has done already.",
            mlp.linear_forward),
    Exhibit("squared error: sign", "QuantEcon, back-propagation lecture",
            mlp.mse_backward, "MLP-6", "dy = dloss * 2 * (t - y) / y.size",
            "The derivative of (x - y)^2 / 2 by x has a plus.",
            mlp.mse_forward),
    Exhibit("convolution: kernel not turned", "SethHWeidman/DLFS_code, lincoln/conv.py",
            cnn.conv2d_backward, "CNN-13",
            'dwindows = by_group("nfpq,fdrs->ndpqrs", dy, W[:, :, ::-1, ::-1], G, axes=(1, 0), into=1)',
            "The input's gradient meets the kernel the wrong way round.",
            cnn.conv2d_forward),
    Exhibit("convolution: batch and places mixed", "SethHWeidman/DLFS_code, lincoln/conv.py",
            cnn.conv2d_backward, "CNN-14",
            'dW = by_group("nfpq,ndpqrs->fdrs", dy.transpose(1, 2, 3, 0).reshape(-1, N, P, Q).swapaxes(0, 1), windows, '
            'G, axes=(1, 1), into=0)',
            "The weight gradient takes the axis of the examples for one of the places.",
            cnn.conv2d_forward),
    Exhibit("windows: padding left out of the size", "oreilly-japan/deep-learning-from-scratch, Pooling",
            cnn.unfold_forward, "CNN-8", "P = (I - e0*(R - 1) - 1)//u0 + 1",
            "The image is padded, and its last rows are never looked at.",
            cnn.avg_pool2d_forward),
    Exhibit("max pool: every tie paid", "Synthaze/EpyNN; CS231n, backpropagation notes",
            cnn.max_pool2d_forward, "return y, MaxPool2dCache(win, unfold)",
            "return y, MaxPool2dCache(inside & (windows.real == y.real[..., None, None]), unfold)",
            "Each of several equal maxima gets the whole gradient.",
            cnn.max_pool2d_forward),
    Exhibit("windows: = for +=", "of the kind of facundoq/edunn and 0809zheng/CS231n-assignment2019#19",
            cnn.scatter, "padded[:, :, at.rows[:, r, None], at.columns[:, s]] += windows[..., r, s]",
            "padded[:, :, at.rows[:, r, None], at.columns[:, s]] = windows[..., r, s]",
            "Where windows overlap, the last one overwrites the others.",
            cnn.max_pool2d_forward),
    Exhibit("batch norm: gamma forgotten", "of the kind of denizyuret/Knet.jl#289",
            norm.batch_norm_backward, "NORM-9", "dxhat = dy",
            "A scale of 1 hides it, and that is where scales start.",
            norm.batch_norm_forward),
    Exhibit("embedding: repeats lost", "a common slip",
            embedding.add_rows, "np.add.at(table, words, rows)", "table[words] += rows",
            "A word that stands in several places gets the gradient of one of them.",
            embedding.embedding_forward),
    Exhibit("RNN: dx without the future", "eriklindernoren/ML-From-Scratch",
            rnn.rnn_backward, "dxs.append(dx_t)", "dxs.append(rnn_step_backward(dhs[:, t], steps[t])[0])",
            "The input's gradient lacks the paths through later steps.",
            rnn.rnn_forward),
    Exhibit("RNN: one product through h_1", "CS231n, recurrent network notes",
            rnn.rnn_backward, "RNN-14", "dW_hh = dW_hh_t",
            "The weight acts at every step; only the path from the first one is kept.",
            rnn.rnn_forward),
    Exhibit("sequence loss: works in its cache", "oreilly-japan/deep-learning-from-scratch-2, TimeSoftmaxWithLoss",
            rnn.sequence_cross_entropy_backward, "error = p - (np.arange(p.shape[2]) == targets[:, :, None])",
            "error = np.subtract(p, np.arange(p.shape[2]) == targets[:, :, None], out=p)",
            "Backward is right once; the second call starts from what the first one left.",
            rnn.sequence_cross_entropy_forward),
    Exhibit("LSTM: sigmoid(f) for f (1 - f)", "nicklashansen/rnn_lstm_from_scratch and copies",
            lstm.lstm_step_backward, "LSTM-16", "dz_f = df * sigmoid(f)",
            "The function stands where its derivative should.",
            lstm.lstm_forward),
    Exhibit("LSTM: h_t for h_{t-1}", "wvabrinskas/Neuron#181; nicklashansen/rnn_lstm_from_scratch and copies",
            lstm.lstm_step_backward, "LSTM-22", "dW_hh = dz.T @ (o * m)",
            "The recurrent weights met the state before the step, not the one after it.",
            lstm.lstm_forward),
    Exhibit("LSTM: dh never handed on", "nicklashansen/rnn_lstm_from_scratch and copies",
            lstm.lstm_backward, "LSTM-26", "dh = dhs[:, t]",
            "What later steps say about h is computed, and thrown away.",
            lstm.lstm_forward),
    Exhibit("LSTM: c[-1] at t = 0", "nicklashansen/rnn_lstm_from_scratch and copies",
            lstm.lstm_backward, "dx_t, dh_prev, dc_prev, dW_ih_t, dW_hh_t, db_t = lstm_step_backward(dh, dc_next, "
            "steps[t])",
            "dx_t, dh_prev, dc_prev, dW_ih_t, dW_hh_t, db_t = lstm_step_backward(dh, dc_next, steps[t]._replace("
            "c_prev=steps[t - 1].f * steps[t - 1].c_prev + steps[t - 1].i * steps[t - 1].g))",
            "The cell before the first step is read as c[t - 1], which in Python is the last one.",
            lstm.lstm_forward),
    Exhibit("GRU: direct path dropped", "SethHWeidman/DLFS_code, RNN_DLFS.ipynb, GRUNode",
            gru.gru_step_backward, "GRU-15", "dh_prev = du @ W_hh",
            "The old state also enters the new one directly, z h_prev.",
            gru.gru_forward),
    Exhibit("GRU: update gate reads reset's numbers", "SethHWeidman/DLFS_code, RNN_DLFS.ipynb, GRUNode",
            gru.gru_step_forward, "GRU-4", "z = sigmoid(a_r + u_r)",
            "The update gate is computed with the projections of the reset gate.",
            gru.gru_forward),
)}


def by_number(number):
    """The exhibit with this number, from 1: a name would give it away."""
    return list(EXHIBITS.values())[number - 1]
