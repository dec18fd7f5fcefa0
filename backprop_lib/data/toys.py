"""Toy problems: points, curves and patterns of bits, from a generator or all there are."""

import numpy as np

from ..checks import require_generator, require_number, require_one_of, require_size


def xor():
    """The four points of exclusive or and their classes, which no single linear layer separates: x (4, 2), t (4)."""
    return parity(2)


def spirals(N_per_class, K, rng, noise=0.2):
    """K interleaved spiral arms in the plane, one per class: x (K N_per_class, 2), t (K N_per_class).

    Arm j runs from radius 0 to 1 while its angle goes from 4j to 4j + 4, plus noise times a standard normal number; a
    point is (r sin(angle), r cos(angle)).
    Source: the case study of Stanford's course CS231n, "Putting it together: minimal neural network case study".
    """
    N = require_size("spirals", "N_per_class", N_per_class)
    K = require_size("spirals", "K", K)
    require_generator("spirals", rng)
    noise = require_number("spirals", "noise", noise, ">= 0", lambda value: value >= 0)
    r = np.linspace(0, 1, N)
    arms = []
    for j in range(K):
        angle = np.linspace(4 * j, 4 * (j + 1), N) + noise * rng.standard_normal(N)
        arms.append(np.stack([r * np.sin(angle), r * np.cos(angle)], axis=1))
    return np.concatenate(arms), np.repeat(np.arange(K, dtype=np.int64), N)


GATES = {"AND": (0, 0, 0, 1), "OR": (0, 1, 1, 1), "XOR": (0, 1, 1, 0)}                  # at the four points of `xor`


def gate(name, N, rng, noise=0.15):
    """N noisy points around the four of `xor`, and the answer of AND, OR or XOR there: x (N, 2), t (N)."""
    N, noise = require_points("gate", N, rng, noise)
    require_one_of("gate", "name", name, tuple(GATES))
    corner = rng.integers(4, size=N)
    return xor()[0][corner] + noise * rng.standard_normal((N, 2)), np.array(GATES[name], dtype=np.int64)[corner]


def ring(N, rng, noise=0.05):
    """N points: class 1 near a circle of radius 1, class 0 within 0.4 of its middle, plus noise: x (N, 2), t (N)."""
    N, noise = require_points("ring", N, rng, noise)
    t = rng.integers(2, size=N)
    angle, radius = rng.uniform(0, 2 * np.pi, N), np.where(t == 1, 1.0, 0.4 * np.sqrt(rng.uniform(size=N)))
    x = (radius * np.stack([np.cos(angle), np.sin(angle)])).T + noise * rng.standard_normal((N, 2))
    return x, t.astype(np.int64)


def sine(N, rng, noise=0.1):
    """N noisy points of 0.8 sin(2x) for x between -3 and 3: x (N, 1), t (N, 1)."""
    N, noise = require_points("sine", N, rng, noise)
    x = rng.uniform(-3, 3, (N, 1))
    return x, 0.8 * np.sin(2 * x) + noise * rng.standard_normal((N, 1))


def products(N, rng, noise=0.1):
    """N points with four numbers each, and the noisy products of neighbours: x (N, 4), t (N, 3)."""
    N, noise = require_points("products", N, rng, noise)
    x = rng.uniform(-1.5, 1.5, (N, 4))
    return x, x[:, :3] * x[:, 1:] + noise * rng.standard_normal((N, 3))


def require_points(owner, N, rng, noise):
    """A number of points, a generator, and how much noise; returns N and noise."""
    require_generator(owner, rng)
    return require_size(owner, "N", N), require_number(owner, "noise", noise, ">= 0", lambda value: value >= 0)


def all_bits(bits):
    """Every pattern of so many bits, counting up: x (2^bits, bits)."""
    places = np.arange(bits)[::-1]
    return (np.arange(2**bits)[:, None] >> places & 1).astype(np.float64)


def parity(bits):
    """All patterns of bits, and whether the number of ones is odd: x (2^bits, bits), t (2^bits).

    Raises ValueError unless bits is a whole number of at least 1.
    Source: D. E. Rumelhart, G. E. Hinton and R. J. Williams 1986, "Learning internal representations by error
    propagation".
    """
    x = all_bits(require_size("parity", "bits", bits))
    return x, x.sum(axis=1).astype(np.int64) % 2


def symmetry(bits):
    """All patterns of bits, and whether they read the same from both ends: x (2^bits, bits), t (2^bits).

    The source has 6 bits. Of 2^bits patterns 2^(bits/2), rounded up, are symmetric.
    Raises ValueError unless bits is a whole number of at least 1.
    Source: D. E. Rumelhart, G. E. Hinton and R. J. Williams 1986, "Learning representations by back-propagating
    errors".
    """
    x = all_bits(require_size("symmetry", "bits", bits))
    return x, (x == x[:, ::-1]).all(axis=1).astype(np.int64)


def encoder(N):
    """N patterns with a single 1, each to be repeated by the output: x (N, N), t (N, N).

    A network that does it through fewer hidden units than N must find a code for each pattern.
    Raises ValueError unless N is a whole number of at least 1.
    Source: D. H. Ackley, G. E. Hinton and T. J. Sejnowski 1985, "A learning algorithm for Boltzmann machines"; as
    `parity` for backpropagation.
    """
    x = np.eye(require_size("encoder", "N", N))
    return x, x.copy()
