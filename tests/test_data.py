"""backprop_lib.data: the digits are the ones we think, the toys have their shape, the reader reads and refuses."""

import gzip
import hashlib
import re
import struct
from importlib.resources import files

import numpy as np
import pytest

from backprop_lib import data


IMAGES_SHA256 = "1b6a09f730bfe751d1f30985598ff7efda82a45af4d78e296c3c508586c103ad"
SPLIT_SHA256 = "8f5cf9b341cfbb8d6b43bf36e63e85969ddfd6b238b6a7733fe99ee62c60a6e7"


def refuses(error, message, call):
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert caught.type is error


# ------------------------------------------------------------------------------------------------ digits

def test_digits_shapes_and_ranges():
    digits = data.load_digits()
    x_train, t_train, x_test, t_test = digits
    assert digits._fields == ("x_train", "t_train", "x_test", "t_test")
    assert x_train.shape == (1437, 64) and x_test.shape == (360, 64)
    assert t_train.shape == (1437,) and t_test.shape == (360,)
    assert x_train.dtype == x_test.dtype == np.float64 and t_train.dtype == t_test.dtype == np.int64
    x = np.concatenate([x_train, x_test])
    assert x.min() == 0 and x.max() == 1 and (x * 16 == np.round(x * 16)).all() and len(np.unique(x)) == 17
    assert all(a.flags.writeable for a in digits)


def test_digits_are_split_by_class_without_overlap():
    x_train, t_train, x_test, t_test = data.load_digits()
    assert np.bincount(t_test).tolist() == [36] * 10
    assert (np.bincount(t_train) + 36).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    rows = {row.tobytes() for row in x_train}, {row.tobytes() for row in x_test}
    assert len(rows[0]) == 1437 and len(rows[1]) == 360 and not rows[0] & rows[1]


def test_digits_are_the_published_ones():
    """One checksum of all images with their labels, in an order that does not depend on the split; one with it."""
    x_train, t_train, x_test, t_test = data.load_digits()
    rows = [bytes([label, *row]) for x, t in ((x_train, t_train), (x_test, t_test))
            for row, label in zip((x * 16).astype(np.uint8).tolist(), t.tolist())]
    assert hashlib.sha256(b"".join(sorted(rows))).hexdigest() == IMAGES_SHA256
    assert hashlib.sha256(b"".join(rows)).hexdigest() == SPLIT_SHA256


def test_digits_as_float32_and_as_images():
    wide, narrow, images = data.load_digits(), data.load_digits(np.float32), data.load_digits(flatten=False)
    for name in ("x_train", "x_test"):
        assert getattr(narrow, name).dtype == np.float32
        assert (getattr(narrow, name) == getattr(wide, name)).all()
        image, flat = getattr(images, name), getattr(wide, name)
        assert image.shape == (len(flat), 1, 8, 8) and (image.reshape(flat.shape) == flat).all()
    assert (images.t_train == wide.t_train).all() and (images.t_test == wide.t_test).all()
    # a handwritten zero has a hole in the middle, a one has not: rows and columns are not swapped into noise
    zero, one = (images.x_train[images.t_train == label, 0].mean(axis=0) for label in (0, 1))
    assert zero[3:5, 3:5].max() < 0.2 and one[3:5, 3:5].min() > 0.5
    # a seven's bar is a row at the top
    seven = images.x_train[images.t_train == 7, 0].mean(axis=0)
    assert seven[0, 3:6].min() > 0.5 and seven[2:6, 0].max() < 0.3
    refuses(TypeError, "load_digits: dtype must be np.float32 or np.float64, got uint8",
            lambda: data.load_digits(np.uint8))


def test_digits_are_new_arrays_each_time():
    first = data.load_digits()
    first.x_train[:] = 7
    assert data.load_digits().x_train.max() == 1


def test_the_licence_is_beside_the_data():
    text = (files("backprop_lib") / "datasets" / "DIGITS_LICENSE.txt").read_text(encoding="utf-8")
    for word in ("Alpaydin", "Kaynak", "10.24432/C50P49", "creativecommons.org/licenses/by/4.0", "Changes"):
        assert word in text


# ------------------------------------------------------------------------------------------------ toys

def test_xor():
    x, t = data.xor()
    assert x.shape == (4, 2) and x.dtype == np.float64 and t.dtype == np.int64
    rows = {(*point, label) for point, label in zip(x.tolist(), t.tolist())}
    assert rows == {(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)}
    x[:] = 5
    assert data.xor()[0].max() == 1


def test_spirals_without_noise_follow_the_recipe():
    x, t = data.spirals(101, 3, np.random.default_rng(0), noise=0)
    assert x.shape == (303, 2) and x.dtype == np.float64 and t.dtype == np.int64
    assert t.tolist() == [0] * 101 + [1] * 101 + [2] * 101
    for j in range(3):
        arm = x[t == j]
        assert np.allclose(np.hypot(*arm.T), np.linspace(0, 1, 101), rtol=1e-12)
        for i in (25, 50, 100):
            angle = 4 * j + 4 * i / 100
            assert np.allclose(arm[i], [i / 100 * np.sin(angle), i / 100 * np.cos(angle)], rtol=1e-12)


def test_spirals_with_noise():
    plain, _ = data.spirals(500, 2, np.random.default_rng(0), noise=0)
    for noise, more in ((0.2, {}), (0.05, {"noise": 0.05})):
        x, t = data.spirals(500, 2, np.random.default_rng(0), **more)
        assert np.allclose(np.hypot(*x.T), np.hypot(*plain.T), rtol=1e-12)
        turned = np.angle((x[:, 1] + 1j * x[:, 0]) * (plain[:, 1] - 1j * plain[:, 0]))[np.hypot(*x.T) > 0]
        assert abs(turned.std() / noise - 1) < 0.08 and abs(turned.mean()) < 0.2 * noise
    again, other = (data.spirals(500, 2, np.random.default_rng(seed))[0] for seed in (0, 1))
    assert (data.spirals(500, 2, np.random.default_rng(0))[0] == again).all() and (again != other).any()


def test_bad_spirals_are_refused():
    rng = np.random.default_rng(0)
    refuses(ValueError, "spirals: N_per_class must be a whole number of at least 1, got 0",
            lambda: data.spirals(0, 3, rng))
    refuses(ValueError, "spirals: K must be a whole number of at least 1, got 2.5", lambda: data.spirals(5, 2.5, rng))
    refuses(TypeError, "spirals: rng must be a numpy.random.Generator, such as np.random.default_rng(0), got int",
            lambda: data.spirals(5, 3, 0))
    refuses(ValueError, "spirals: noise must be a finite number >= 0, got -1",
            lambda: data.spirals(5, 3, rng, noise=-1))


# ------------------------------------------------------------------------------------------------ IDX

# element type: its letter for struct, values that swapped bytes or a wrong sign would change
IDX = {0x08: ("B", np.uint8, [0, 1, 200, 255, 7, 9]), 0x09: ("b", np.int8, [0, -1, 127, -128, 7, 9]),
       0x0B: ("h", np.int16, [0, -2, 258, -32768, 7, 9]), 0x0C: ("i", np.int32, [0, -3, 16909060, -2**31, 7, 9]),
       0x0D: ("f", np.float32, [0, 0.5, -1.25, 3e38, 7, 9]), 0x0E: ("d", np.float64, [0, 0.1, -1e300, 1e-300, 7, 9])}


def idx_file(code=0x08, shape=(2, 3), values=(0, 1, 200, 255, 7, 9)):
    """The bytes of an IDX file, written with struct alone."""
    return (bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
            + struct.pack(f">{len(values)}{IDX[code][0]}", *values))


@pytest.mark.parametrize("code", IDX)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read(code, pack, tmp_path):
    _, dtype, values = IDX[code]
    path = tmp_path / "data-idx"
    for shape in [(2, 3), (6,), (1, 3, 2)]:
        path.write_bytes(pack(idx_file(code, shape, values)))
        a = data.read_idx(path)
        assert a.dtype == dtype and a.dtype.isnative and a.shape == shape and a.flags.writeable
        assert (a == np.array(values, dtype).reshape(shape)).all()
    path.write_bytes(pack(idx_file(code, (0, 28, 28), [])))
    assert data.read_idx(str(path)).shape == (0, 28, 28)


def test_bad_idx_files_are_refused(tmp_path):
    path = tmp_path / "data-idx"
    good = idx_file()

    def refused(content, message):
        path.write_bytes(content)
        refuses(ValueError, message, lambda: data.read_idx(path))

    magic = f"read_idx: {path} must begin with an IDX magic number such as 00 00 08 03, got "
    refused(b"", magic + "an empty file")
    refused(good[:3], magic + "00 00 08")
    refused(b"\x01" + good[1:], magic + "01 00 08 02")
    refused(b"\0\x01" + good[2:], magic + "00 01 08 02")
    refused(b"\0\0\x0a" + good[3:], magic + "00 00 0a 02")
    refused(b"\0\0\x08\0" + good[4:], magic + "00 00 08 00")
    refused(b"\0\0\x08\x21" + bytes(200), magic + "00 00 08 21")
    refused(good[:11], f"read_idx: {path} must have a header of 12 bytes, got 11 bytes")
    refused(good[:-1], f"read_idx: {path} must have 18 bytes for shape (2, 3) of uint8, got 17")
    refused(good + b"\0", f"read_idx: {path} must have 18 bytes for shape (2, 3) of uint8, got 19")
    refused(idx_file(0x0E, (2,), [1.0]), f"read_idx: {path} must have 24 bytes for shape (2,) of float64, got 16")
    refused(idx_file(shape=(2**32 - 1, 2**32 - 1, 2**32 - 1)), f"read_idx: {path} must have ")


def test_every_cut_of_an_idx_file_is_refused(tmp_path):
    path = tmp_path / "data-idx.gz"
    for content in (idx_file(), gzip.compress(idx_file())):
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=re.escape(str(path))):
                data.read_idx(path)
    packed = bytearray(gzip.compress(idx_file()))
    for i in range(10, len(packed)):
        path.write_bytes(packed[:i] + bytes([packed[i] ^ 0xFF]) + packed[i + 1:])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            data.read_idx(path)
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "missing")
