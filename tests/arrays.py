"""Arrays that a function must leave alone, or take as they are, random ones, and calls that must be refused."""

import re

import numpy as np
import pytest


def normal(*shape, seed=1):
    """Random numbers, others for each shape."""
    return np.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape))


def refuses(kind, words, function, *args, **options):
    with pytest.raises(kind, match=re.escape(words)) as caught:
        function(*args, **options)
    assert caught.type is kind


def same_bits(left, right):
    return [np.asarray(a).tobytes() for a in left] == [np.asarray(a).tobytes() for a in right]


def frozen(array):
    """A read-only copy."""
    array = np.array(array)
    array.flags.writeable = False
    return array


def spread(array):
    """The same numbers with gaps between them, the last axis backwards."""
    room = np.full([2 * size for size in array.shape], 77, array.dtype)
    view = room[tuple(slice(0, None, 2) for _ in array.shape)][..., ::-1]
    view[...] = array
    return view
