"""The training loop: shuffle, forward, backward, step, repeat; and what it showed on the way."""

import math
import os
import sys
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np

from .checks import require_generator, require_size
from .nn import BCEWithLogitsLoss, CrossEntropyLoss, SequenceCrossEntropyLoss
from .optim import clip_by_norm, positive


class History(NamedTuple):
    """One entry per epoch that ran.

    loss and accuracy are means over the epoch's mini-batches while the parameters move and Dropout drops; the
    validation values are measured after the epoch, in evaluation mode, and their lists are empty without validation
    data. Accuracies are None for a regression.
    """
    loss: list
    accuracy: list
    validation_loss: list
    validation_accuracy: list


# ------------------------------------------------------------------------------------------------ measuring

def accuracy_of(loss, y, t):
    """The share of right predictions among the entries of t that count; None if the loss is one of a regression."""
    if isinstance(loss, CrossEntropyLoss):
        return float(np.mean(y.argmax(axis=1) == t))
    if isinstance(loss, SequenceCrossEntropyLoss):
        return float(np.mean((y.argmax(axis=2) == t)[t != loss.ignore_index]))
    if isinstance(loss, BCEWithLogitsLoss):
        return float(np.mean((y > 0) == (t > 0.5)))
    return None


@contextmanager
def mode(model, training):
    """The model in training or evaluation mode; afterwards every layer is back in the mode it had."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def evaluate(model, loss, x, t):
    """(loss, accuracy) over x and t in evaluation mode, in one forward; accuracy is None for a regression.

    The share of right classes for CrossEntropyLoss, of right classes at the steps that count for
    SequenceCrossEntropyLoss, of entries on the right side of 1/2 for BCEWithLogitsLoss. The model and the loss remember
    this forward, so backward would follow it.
    """
    require_pairs("evaluate", "x", x, "t", t)
    with mode(model, False):
        y = model.forward(x)
    value = float(loss.forward(y, t))
    return value, accuracy_of(loss, y, t)


# ------------------------------------------------------------------------------------------------ training

def fit(model, loss, optimizer, x, t, *, epochs, batch_size, rng, validation=None, patience=None, max_norm=None,
        progress=None):
    """Train on mini-batches of a permutation drawn from rng, the last one short if need be; returns a History.

    validation  (x, t), measured after every epoch.
    patience    stop after this many epochs in a row without a lower validation loss. Then, and after the last epoch
                too, the parameters and buffers of the best epoch are restored.
    max_norm    clip the joint norm of the gradients (`optim.clip_by_norm`) before each step.
    progress    True or False to show a progress bar or not; None shows it if somebody watches (stderr is a terminal,
                or we are in a Jupyter kernel) and tqdm is installed. A bar that is done goes away.
                TQDM_DISABLE=1 in the environment silences it.

    Raises ValueError or TypeError for bad arguments, FloatingPointError naming epoch and batch (both count from 1) as
    soon as a loss is NaN or inf, and ImportError if progress is True without tqdm. Layers end in the mode they had.
    """
    epochs, batch_size = require_size("fit", "epochs", epochs), require_size("fit", "batch_size", batch_size)
    max_norm = None if max_norm is None else positive("fit", "max_norm", max_norm)
    patience = None if patience is None else require_size("fit", "patience", patience)
    require_data(model, optimizer, x, t, rng, validation, patience)
    history, best = History([], [], [], []), Best(patience)
    with mode(model, True), progress_bar(epochs * math.ceil(len(x) / batch_size), progress) as bar:
        for epoch in range(1, epochs + 1):
            order = rng.permutation(len(x))
            batches = [order[start:start + batch_size] for start in range(0, len(x), batch_size)]
            value, accuracy = train_epoch(model, loss, optimizer, x, t, batches, max_norm, epoch, bar)
            history.loss.append(value)
            history.accuracy.append(accuracy)
            if validation is not None and validate(model, loss, validation, history, best, epoch):
                break
    best.restore(model)
    return history


def train_epoch(model, loss, optimizer, x, t, batches, max_norm, epoch, bar):
    """One pass over the data; returns the mean loss and accuracy of its examples, as they were met."""
    total = right = 0.0
    for number, batch in enumerate(batches, start=1):
        y = model.forward(x[batch])
        value = float(loss.forward(y, t[batch]))
        if not math.isfinite(value):
            raise FloatingPointError(f"fit: the training loss is {value} in epoch {epoch}, batch {number}")
        model.backward(loss.backward())
        if max_norm is not None:
            model.grads.update(clip_by_norm(model.grads, max_norm)[0])
        optimizer.step()
        accuracy = accuracy_of(loss, y, t[batch])
        total += value * len(batch)
        right += (accuracy or 0.0) * len(batch)
        if bar is not None:
            bar.set_postfix(epoch=epoch, loss=f"{value:.4f}", refresh=False)
            bar.update()
    return total / len(x), None if accuracy is None else right / len(x)


def validate(model, loss, validation, history, best, epoch):
    """Measure on the validation data, remember the best state; True if it is time to stop."""
    value, accuracy = evaluate(model, loss, *validation)
    if not math.isfinite(value):
        raise FloatingPointError(f"fit: the validation loss is {value} after epoch {epoch}")
    history.validation_loss.append(value)
    history.validation_accuracy.append(accuracy)
    return best.is_time_to_stop(model, value)


class Best:
    """Parameters and buffers with the lowest validation loss so far; does nothing without patience."""

    def __init__(self, patience):
        self.patience, self.loss, self.state, self.epochs_since = patience, math.inf, None, 0

    def is_time_to_stop(self, model, value):
        if self.patience is None:
            return False
        if value < self.loss:
            self.loss, self.state, self.epochs_since = value, model.state_dict(), 0
        else:
            self.epochs_since += 1
        return self.epochs_since >= self.patience

    def restore(self, model):
        if self.state is not None:
            model.load_state_dict(self.state)


# ------------------------------------------------------------------------------------------------ what is refused

def require_pairs(owner, name_x, x, name_t, t):
    """Two arrays with one row per example."""
    for name, array in ((name_x, x), (name_t, t)):
        if not isinstance(array, np.ndarray) or array.ndim == 0:
            raise TypeError(f"{owner}: {name} must be a NumPy array with examples on axis 0, got {array!r:.60}")
    if len(x) != len(t):
        raise ValueError(f"{owner}: {name_x} and {name_t} must have the same length, got {len(x)} and {len(t)}")
    if len(x) == 0:
        raise ValueError(f"{owner}: {name_x} must hold at least one example, got shape {x.shape}")


def require_data(model, optimizer, x, t, rng, validation, patience):
    require_pairs("fit", "x", x, "t", t)
    require_generator("fit", rng)
    if optimizer.model is not model:
        raise ValueError("fit: the optimizer must be made for this model, got one for another")
    if validation is None and patience is not None:
        raise ValueError(f"fit: patience needs validation data, got patience {patience} and none")
    if validation is None:
        return
    if not isinstance(validation, (tuple, list)) or len(validation) != 2:
        raise ValueError(f"fit: validation must be a pair (x, t), got {type(validation).__name__}")
    require_pairs("fit", "validation x", validation[0], "validation t", validation[1])


# ------------------------------------------------------------------------------------------------ progress

def is_watched():
    """Somebody sees stderr: it is a terminal, or we run in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())


def progress_bar(total, progress):
    """A tqdm bar, or a context that gives None."""
    silenced = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")     # tqdm's notebook bar would not look
    if silenced or progress is False or (progress is None and not is_watched()):
        return nullcontext()
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        if progress is None:
            return nullcontext()
        raise ImportError('fit: progress=True needs tqdm: pip install "backprop-notebooks[lab]"') from error
    return tqdm(total=total, unit="batch", leave=False)
