"""The matrix products of a step and nothing else: whoever multiplies with NumPy, and as often, takes at least this."""

import numpy as np

from backprop_lib.fast.steps import in_blocks

from .workloads import shapes


def sizes(layer, shape, output):
    """(m, k, n, times) of every product (m, k) times (k, n), forward and backward, as the twins take them."""
    match layer:
        case "linear", D, H:
            N = shape[0]
            return [(N, D, H, 1), (N, H, D, 1), (H, N, D, 1)]
        case "conv", C, F, R, _:
            (N, _, P, Q), K = output, C*R*R                     # row by row: filters times columns
            return [(F, K, Q*N, P), (R*C, R*F, Q*N, P), (K, Q*N, F, P)]
        case "rnn", D, H:
            (N, T, _) = shape
            return [(T*N, D, H, 1), (T*N, H, D, 1), (H, T*N, D, 1), (N, H, H, 2*T), (H, T*N, H, 1)]
        case "lstm", D, H:
            (N, T, _), K = shape, D + H
            return [(4*H, K, N, T), (K, 4*H, N, T), (4*H, T*N, K, 1)]
    return []


def products(workload, data):
    """np.matmul of all these sizes, operands and results in arrays that are there already; no gradients come of it."""
    found, shape = [], workload.shape
    for layer, (_, output) in zip(workload.layers, shapes(workload)):
        found += sizes(layer, shape, output)
        shape = output
    calls = []
    for m, k, n, times in found:
        A, B = np.ones((m, k), data.x.dtype), np.ones((k, n), data.x.dtype)
        A = in_blocks(A, n) if times > 1 and layer[0] in ("rnn", "lstm") else A[None]
        calls.append((A, B, np.empty((*A.shape[:2], n), A.dtype), times))

    def step():
        for A, B, out, times in calls:
            for _ in range(times):
                np.matmul(A, B, out=out)
        return []
    return step
