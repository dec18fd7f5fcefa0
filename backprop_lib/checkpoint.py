"""Parameters and buffers by name, to and from dicts and `.npz` files, verified before anything is assigned."""

import os
from collections.abc import Mapping

import numpy as np

from .checks import require_float


class CheckpointError(ValueError):
    """A file does not hold the state of this object: it cannot be read, or names, shapes or values differ."""


def require_state(owner, what, state, expected, finite=True):
    """Names, shapes, dtypes, finiteness and smallest values, against {name: (shape, dtype, smallest or None)}."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner}: {what} must be a mapping from names to arrays, got {type(state).__name__}")
    if set(state) != set(expected):
        missing = sorted(set(expected) - set(state))
        unexpected = sorted(map(str, set(state) - set(expected)))
        raise ValueError(f"{owner}: {what} must have the names {list(expected)}, got {list(state)}: "
                         f"missing {missing}, unexpected {unexpected}")
    for name, (shape, dtype, smallest) in expected.items():
        value, label = state[name], f"{what}[{name!r}]"
        require_float(owner, label, value, dtype)               # exactly this dtype; that of a count is int64
        if value.shape != shape:
            raise ValueError(f"{owner}: {label} must have shape {shape}, got {value.shape}")
        if finite and not np.isfinite(value).all():
            bad = value[~np.isfinite(value)]
            raise ValueError(f"{owner}: {label} must be finite, got {bad[0]} in {bad.size} of {value.size} entries")
        if smallest is not None and (value < smallest).any():
            raise ValueError(f"{owner}: {label} must be >= {smallest}, got {value[value < smallest][0]}")


def read_checkpoint(path):
    """The arrays of an .npz file, by name; whatever goes wrong is a CheckpointError, a missing file excepted."""
    import zipfile  # here, for it is a good part of the time to import nn

    name = None
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise CheckpointError("expected an .npz file, got another format or a file cut short")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                state = {}
                for name in archive.files:
                    state[name] = archive[name]
                return state
    except FileNotFoundError:
        raise
    except Exception as error:
        where = f"{path}: " if name is None else f"{path}: expected a readable array {name!r}, got an error: "
        raise CheckpointError(f"{where}{error or type(error).__name__}") from error


def write_checkpoint(path, state):
    """Write beside the file and rename, so an interrupted save leaves an older file whole."""
    path = os.path.realpath(path)
    unfinished = f"{path}.{os.urandom(16).hex()}.tmp"
    try:
        with open(unfinished, "xb") as file:
            np.savez(file, **state)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


class Stateful:
    """Parameters and buffers by name, to and from dicts and files.

    A subclass has `params`, `buffers` and `expected(kind=None)`: what they must be, in PyTorch's order.
    """

    @property
    def name(self):
        return type(self).__name__

    def state_dict(self):
        """Copies of all parameters and buffers, by name."""
        arrays = {**self.params, **self.buffers}
        return {name: arrays[name].copy() for name in self.expected()}

    def load_state_dict(self, state):
        """Take copies of the arrays in `state`; from PyTorch, {name: p.numpy() for name, p in m.state_dict().items()}.

        Raises TypeError or ValueError, with nothing assigned, if names, shapes or dtypes differ or a value is not
        finite, or negative in a variance or a count.
        """
        require_state(self.name, "state", state, self.expected())
        copies = {name: np.array(state[name], order="C") for name in self.expected()}
        self.params.update({name: copies[name] for name in self.expected("params")})
        self.buffers.update({name: copies[name] for name in self.expected("buffers")})

    def check_state(self, finite=True):
        """Refuse parameters and buffers that are not what they must be."""
        require_state(self.name, "params", self.params, self.expected("params"), finite)
        require_state(self.name, "buffers", self.buffers, self.expected("buffers"), finite)

    def save(self, path):
        """Write parameters and buffers to an .npz file at exactly this path; an older file stays whole until the end.

        Raises TypeError or ValueError, with nothing written, for what `load` would refuse.
        """
        self.check_state()
        write_checkpoint(path, self.state_dict())

    def load(self, path):
        """Read parameters and buffers back from a file written by `save`.

        Raises FileNotFoundError if there is no file, and CheckpointError, with nothing assigned, for everything else.
        """
        state = read_checkpoint(path)
        try:
            self.load_state_dict(state)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error
