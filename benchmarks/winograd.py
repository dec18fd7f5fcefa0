"""Winograd's convolution F(2x2, 3x3) tried: error and time beside the tuned convolution, float32, 3 x 3, padding 1.

    python -m benchmarks.winograd

Each 2 x 2 of the output, 36 multiplications, is computed with 16 from a 4 x 4 of the image (Lavin and Gray 2016):
Y = A'[(G W G') * (B' X B)]A. The image's gradient is a convolution with the turned kernel, the filters' gradient
G'[(B' X B) * (A dY A')]G. Rows are transformed first, then columns, the even and the odd ones apart.
"""

import time

import numpy as np

from backprop_lib.fast import convolution as tuned


G = np.array([[1, 0, 0], [.5, .5, .5], [.5, -.5, .5], [0, 0, 1]])
SIZES = {"16 to 32, 32 x 32, batch 32": (16, 32, 32, 32), "64 to 64, 56 x 56, batch 8": (64, 64, 56, 8)}
HOW = np.subtract, np.add, np.subtract, np.subtract             # the four sums of B'
BLOCK = 1 << 20                                                 # bytes of transformed images at a time
ROUNDS = 15


def framed_columns(t):
    """Images (C, I, J, N) with a frame of zeros, as (I, parity of the column, C, J/2 + 1, N)."""
    C, I, J, N = t.shape
    framed = np.zeros((I + 2, 2, C, J//2 + 1, N), t.dtype)
    rows = t.transpose(1, 0, 2, 3)
    framed[1:-1, 1, :, :-1], framed[1:-1, 0, :, 1:] = rows[:, :, ::2], rows[:, :, 1::2]
    return framed


def pieces(t):
    """(first pair of rows, number of pairs, transformed images (16, C, pairs J/2 N)), block by block."""
    C, I, J, N = t.shape
    framed, height = framed_columns(t), max(1, BLOCK//(C*J//2*N*16*t.itemsize))
    for k in range(0, I//2, height):
        n = min(height, I//2 - k)
        rows = framed[2*k:2*k + 2*n + 2]
        d0, d1, d2, d3 = rows[:-2:2], rows[1:-2:2], rows[2::2], rows[3::2]
        a = np.empty((4, *d0.shape), t.dtype)
        for out, left, right, how in zip(a, (d0, d1, d2, d3), (d2, d2, d1, d1), HOW):
            how(left, right, out=out)
        e0, e2, o1, o3 = a[:, :, 0, :, :-1], a[:, :, 0, :, 1:], a[:, :, 1, :, :-1], a[:, :, 1, :, 1:]
        V = np.empty((4, 4, C, n, J//2, N), t.dtype)
        v = V.transpose(1, 0, 3, 2, 4, 5)
        for out, left, right, how in zip(v, (e0, o1, e2, o3), (e2, e2, o1, o1), HOW):
            how(left, right, out=out)
        yield k, n, V.reshape(16, C, -1)


def convolve(t, W):
    C, I, J, N = t.shape
    F = len(W)
    U = np.einsum("kr,ls,fcrs->klfc", G, G, W).astype(t.dtype).reshape(16, F, C)
    y = np.empty((F, I, J, N), t.dtype)
    for k, n, V in pieces(t):
        M = (U @ V).reshape(4, 4, F, n, J//2, N)
        M[0] += M[1] + M[2]
        M[1] += M[3] - M[2]
        for q, r in enumerate(M[:2]):
            rows = y[:, 2*k + q:2*k + q + 2*n:2]
            np.add(r[0] + r[1], r[2], out=rows[:, :, ::2])
            np.add(r[1] - r[2], r[3], out=rows[:, :, 1::2])
    return y


def weigh(t, d):
    (C, _, J, N), F = t.shape, len(d)
    total = np.zeros((16, C, F), t.dtype)
    for k, n, V in pieces(t):
        q = np.ascontiguousarray(d[:, 2*k:2*k + 2*n].reshape(F, n, 2, J//2, 2, N).transpose(2, 4, 0, 1, 3, 5))
        A = np.empty((4, 4, F, n, J//2, N), t.dtype)
        for row, (e, o) in zip(A, (q[0], q[0] + q[1], q[0] - q[1], q[1])):
            row[:] = e, e + o, e - o, o
        total += V @ A.reshape(16, F, -1).transpose(0, 2, 1)
    return np.einsum("kr,ls,klcf->fcrs", G, G, total.reshape(4, 4, C, F)).astype(t.dtype)


def trial(C, F, I, N):
    """For y, dx and dW: the name, both errors against float64, the median ratio of times."""
    rng = np.random.default_rng(0)
    t, d = (rng.standard_normal(s).astype("f") for s in ((C, I, I, N), (F, I, I, N)))
    W, b = (rng.standard_normal((F, C, 3, 3))*.1).astype("f"), np.zeros(F, "f")
    turned, taps = W.swapaxes(0, 1)[..., ::-1, ::-1], tuned.Taps((I, I), (3, 3), (1, 1), (1, 1), (1, 1))
    for name, ours, theirs, exact in (
            ("y", lambda: tuned.correlate(t, W, b, taps, 1), lambda: convolve(t, W),
             lambda: tuned.correlate(t.astype(float), W.astype(float), b.astype(float), taps, 1)),
            ("dx", lambda: tuned.spread(d, W, taps, 1, (I, I)), lambda: convolve(d, turned),
             lambda: tuned.spread(d.astype(float), W.astype(float), taps, 1, (I, I))),
            ("dW", lambda: tuned.weigh(t, d, taps, 1), lambda: weigh(t, d),
             lambda: tuned.weigh(t.astype(float), d.astype(float), taps, 1))):
        reference = exact()
        errors = [np.abs(f() - reference).max()/np.abs(reference).max() for f in (ours, theirs)]
        ratios = [clock(theirs)/clock(ours) for _ in range(ROUNDS)]
        yield name, *errors, np.median(ratios)


def clock(f):
    start = time.process_time()
    return (f(), time.process_time() - start)[1]


if __name__ == "__main__":
    print("| convolution | result | error, tuned | error, Winograd | time, Winograd / tuned |\n|---|---|---|---|---|")
    for size, numbers in SIZES.items():
        for name, ours, theirs, ratio in trial(*numbers):
            print(f"| {size} | {name} | {ours:.0e} | {theirs:.0e} | {ratio:.2f} |")
