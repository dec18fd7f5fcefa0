"""Sequences: symbols and their numbers, the tasks of the papers, Reber's grammars, Elman's letters."""

from typing import NamedTuple

import numpy as np

from ..checks import require_dtype, require_generator, require_integers, require_size


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
