"""Parameters by name, to and from dicts and `.npz` files, verified before anything is assigned."""

import os
import uuid
import zipfile
from collections.abc import Mapping

import numpy as np

from .checks import require_float


class CheckpointError(ValueError):
    """A file does not hold the parameters of this object: it cannot be read, or names, shapes or values differ."""


def require_state(owner, what, state, expected, finite=True):
    """Names, shapes, dtype and finiteness of all parameters, against {name: (shape, dtype)}."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner}: {what} must be a mapping from names to arrays, got {type(state).__name__}")
    if set(state) != set(expected):
        missing = sorted(set(expected) - set(state))
        unexpected = sorted(map(str, set(state) - set(expected)))
        raise ValueError(f"{owner}: {what} must have the names {list(expected)}, got {list(state)}: "
                         f"missing {missing}, unexpected {unexpected}")
    for name, (shape, dtype) in expected.items():
        value, label = state[name], f"{what}[{name!r}]"
        require_float(owner, label, value, dtype)
        if value.shape != shape:
            raise ValueError(f"{owner}: {label} must have shape {shape}, got {value.shape}")
        if finite and not np.isfinite(value).all():
            bad = value[~np.isfinite(value)]
            raise ValueError(f"{owner}: {label} must be finite, got {bad[0]} in {bad.size} of {value.size} entries")


def read_checkpoint(path):
    """The arrays of an .npz file, by name; whatever goes wrong is a CheckpointError, a missing file excepted."""
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
    unfinished = f"{path}.{uuid.uuid4().hex}.tmp"
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
    """Parameters by name, to and from dicts and files. A subclass has `params` and `expected()`."""

    @property
    def name(self):
        return type(self).__name__

    def state_dict(self):
        """Copies of all parameters, by name."""
        return {name: p.copy() for name, p in self.params.items()}

    def load_state_dict(self, state):
        """Take copies of the arrays in `state`; from PyTorch, {name: p.numpy() for name, p in m.state_dict().items()}.

        Raises TypeError or ValueError, with nothing assigned, if names, shapes or dtypes differ or a value is not
        finite.
        """
        require_state(self.name, "state", state, self.expected())
        self.params.update({name: np.array(state[name], order="C") for name in self.expected()})

    def save(self, path):
        """Write the parameters to an .npz file at exactly this path; an older file stays whole until the end.

        Raises TypeError or ValueError, with nothing written, for parameters that `load` would refuse.
        """
        require_state(self.name, "params", self.params, self.expected())
        write_checkpoint(path, dict(self.params))

    def load(self, path):
        """Read the parameters back from a file written by `save`.

        Raises FileNotFoundError if there is no file, and CheckpointError, with nothing assigned, for everything else.
        """
        state = read_checkpoint(path)
        try:
            self.load_state_dict(state)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error
