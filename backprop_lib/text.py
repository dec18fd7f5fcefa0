"""Text for a model that predicts: numbers for characters and words, windows and contexts to train on, sampling.

    text = generated_text(500, np.random.default_rng(0))
    characters = Characters(text)
    x, t = windows(characters.encode(text), 40)
    # train a model of one_hot(x, len(characters)) -> scores (N, T, V) with targets t, then
    print(sample(model, characters.alphabet, "the ", 200, np.random.default_rng(1)))
"""

import re

import numpy as np

from .checks import require_axes, require_generator, require_integers, require_number, require_size, require_words
from .data import decode, encode, is_walk, one_hot, random_walk, require_codes, require_string
from .mlp import softmax_forward


# ------------------------------------------------------------------------------------------------ characters

class Characters:
    """The characters of a text, sorted, and their numbers: `alphabet` is a string and `len(characters)` its length.

    Raises TypeError if the text is not a str, ValueError if it is empty.
    """

    def __init__(self, text):
        require_string("Characters", "text", text)
        if not text:
            raise ValueError("Characters: text must not be empty, got ''")
        self.alphabet = "".join(sorted(set(text)))

    def __len__(self):
        return len(self.alphabet)

    def encode(self, string):
        """string of T characters -> codes (T) int64. Raises ValueError naming a character that is not known."""
        return encode(string, self.alphabet)

    def decode(self, codes):
        """codes (T) -> string of T characters. Raises IndexError for a number that is no character's."""
        return decode(codes, self.alphabet)


def windows(codes, T):
    """A text cut into windows of T characters, each with the characters that come next: x (N, T), t (N, T).

    Row n continues row n - 1; what does not fill a window is left out. Both are new arrays.
    Raises ValueError unless codes are one row of more than T numbers and T is at least 1, TypeError if codes are not an
    array of integers, IndexError for a negative number.
    """
    T = require_size("windows", "T", T)
    require_codes("windows", "codes", codes, np.inf)
    if codes.ndim != 1 or len(codes) <= T:
        raise ValueError(f"windows: codes must be one row of more than T = {T} numbers, got shape {codes.shape}")
    N = (len(codes) - 1) // T
    return codes[:N*T].reshape(N, T).copy(), codes[1:N*T + 1].reshape(N, T).copy()


# ------------------------------------------------------------------------------------------------ words

class Words:
    """The words of a text, sorted, and their numbers: `vocabulary` is a tuple and `len(words)` its length.

    Blanks separate words; a line break is a word of its own.
    Raises TypeError if the text is not a str, ValueError if it holds no word.
    """

    def __init__(self, text):
        self.vocabulary = tuple(sorted(set(split("Words", text))))
        if not self.vocabulary:
            raise ValueError(f"Words: text must hold a word, got {text!r}")

    def __len__(self):
        return len(self.vocabulary)

    def encode(self, text):
        """text of T words -> codes (T) int64. Raises ValueError naming a word that is not known."""
        numbers, words = {word: v for v, word in enumerate(self.vocabulary)}, split("encode", text)
        for i, word in enumerate(words):
            if word not in numbers:
                raise ValueError(f"encode: text must hold only words of the vocabulary, got {word!r} at index {i}")
        return np.array([numbers[word] for word in words], dtype=np.int64)

    def decode(self, codes):
        """codes (T) -> the list of T words. Raises IndexError for a number that is no word's, as -1."""
        require_words("decode", len(self), codes=codes)
        require_axes("decode", "codes", codes, "(T)")
        return [self.vocabulary[v] for v in codes]


def split(owner, text):
    require_string(owner, "text", text)
    return re.findall(r"\n|\S+", text)


def contexts(codes, radius):
    """Each word that has `radius` words on both sides, with these: context (N, 2 radius), centre (N), for word2vec.

    Raises ValueError unless codes are one row of more than 2 radius numbers and radius is a whole number of at least 1,
    TypeError if codes are not an array of integers.
    """
    radius = require_size("contexts", "radius", radius)
    require_integers("contexts", "codes", codes)
    if codes.ndim != 1 or len(codes) <= 2*radius:
        raise ValueError(f"contexts: codes must be one row of more than 2 radius = {2*radius} numbers, got shape "
                         f"{codes.shape}")
    around = np.lib.stride_tricks.sliding_window_view(codes, 2*radius + 1)
    return np.delete(around, radius, axis=1), around[:, radius].copy()


# ------------------------------------------------------------------------------------------------ sampling

def sample(model, alphabet, start, length, rng, temperature=1.0, context=None):
    """`start` and `length` more characters, each drawn from the model's softmax and then fed back to it.

    The model's forward maps one-hot rows (1, T, V), for an alphabet of V characters, to scores (1, T, V) of the next
    character; the scores of the last step are divided by the temperature. Close to 0 the best character nearly always
    wins, 1 is the model's own distribution, above 1 all become more alike. The model sees the whole string so far, or
    its last `context` characters. A model with dropout is to be switched with eval() first.
    Raises ValueError for an empty start, a character that is not in the alphabet, a length or context below 1, a
    temperature that is not above 0 or scores of another shape; TypeError for another type.
    Source: A. Karpathy 2015, "The unreasonable effectiveness of recurrent neural networks".
    """
    require_string("sample", "alphabet", alphabet)
    codes = encode(start, alphabet)
    if not start:
        raise ValueError("sample: start must have at least one character, got ''")
    length = require_size("sample", "length", length)
    require_generator("sample", rng)
    temperature = require_number("sample", "temperature", temperature, "> 0", lambda value: value > 0)
    seen = len(start) + length if context is None else require_size("sample", "context", context)
    for _ in range(length):
        scores = last_scores(model, codes[-seen:], len(alphabet))
        with np.errstate(over="ignore"):                        # minus infinity is the right limit
            p, _ = softmax_forward((scores - scores.max()) / temperature)
        codes = np.append(codes, rng.choice(len(alphabet), p=p))
    return decode(codes, alphabet)


def last_scores(model, codes, V):
    """The model's scores (V) of the character that comes next, as float64; its input has the dtype of its weights."""
    weights = list(getattr(model, "params", {}).values())
    x = one_hot(codes[None], V, weights[0].dtype if weights else np.float64)
    scores = model.forward(x)
    if scores.shape != x.shape:
        raise ValueError(f"sample: the model must give scores of shape {x.shape}, got {scores.shape}")
    return scores[0, -1].astype(np.float64)


# ------------------------------------------------------------------------------------------------ texts

VERBS = {"one": (("sleeps", "runs"), ("sees", "hears")), "many": (("sleep", "run"), ("see", "hear"))}
NOUNS = {"one": ("cat", "dog", "bird", "girl"), "many": ("cats", "dogs", "birds", "girls")}


def sentence_graph():
    """Which word may come in each state, as in `data.REBER_GRAPH`: a verb agrees with its subject in number."""
    graph = {"start": {"the": "subject"}, "object": {"the": "object noun"},
             "subject": {noun: number for number in NOUNS for noun in NOUNS[number]},
             "object noun": {noun: "end" for number in NOUNS for noun in NOUNS[number]}}
    for number, (alone, with_object) in VERBS.items():
        verbs = dict.fromkeys(alone, "end") | dict.fromkeys(with_object, "object")
        graph[number] = {"that": f"{number} that"} | verbs
        graph[f"{number} that"] = dict.fromkeys(with_object, f"{number} that sees")
        graph[f"{number} that sees"] = {"the": f"{number} that sees the"}
        graph[f"{number} that sees the"] = dict.fromkeys(graph["object noun"], f"{number} again")
        graph[f"{number} again"] = verbs
    return graph


SENTENCES = sentence_graph()


def generated_text(N, rng):
    """N random sentences, one a line, such as "the cats that see the dog sleep": a small text with a rule to learn.

    A verb agrees with its subject, which may stand far before it, with another noun in between. See `is_sentence`.
    Raises ValueError unless N is a whole number of at least 1, TypeError for an rng that is no Generator.
    Source: ours, after J. L. Elman 1991, "Distributed representations, simple recurrent networks, and grammatical
    structure".
    """
    N = require_size("generated_text", "N", N)
    require_generator("generated_text", rng)
    return "".join(" ".join(random_walk(SENTENCES, rng)[0]) + "\n" for n in range(N))


def is_sentence(line):
    """True if `generated_text` can produce the line, given without its line break."""
    require_string("is_sentence", "line", line)
    return is_walk(SENTENCES, line.split(" "))


def read_text(path):
    """The text in a UTF-8 file; every line ends in one line feed, and a byte order mark at the start is dropped.

    Raises ValueError naming the file if it is not UTF-8, FileNotFoundError if there is none.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"read_text: {path} must be UTF-8 text, "
                         f"got byte 0x{error.object[error.start]:02x}") from error
