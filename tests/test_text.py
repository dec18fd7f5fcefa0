"""backprop_lib.text: numbers for characters, windows that follow on, draws from the softmax, sentences that agree."""

import re

import numpy as np
import pytest
from arrays import refuses

from backprop_lib import text


# ------------------------------------------------------------------------------------------------ characters

def test_characters():
    characters = text.Characters("hello, wörld\n")
    assert characters.alphabet == "\n ,dehlorwö" and len(characters) == 11
    codes = characters.encode("low")
    assert codes.tolist() == [6, 7, 9] and codes.dtype == np.int64
    assert characters.decode(codes) == "low" and characters.decode(characters.encode("hello\n")) == "hello\n"
    refuses(ValueError, "encode: string must hold only characters of '\\n ,dehlorwö', got 'x' at index 1",
            lambda: characters.encode("ox"))
    refuses(IndexError, "decode: codes must lie in 0..10, got -1", lambda: characters.decode(np.array([-1])))
    refuses(TypeError, "Characters: text must be a str, got bytes", lambda: text.Characters(b"abc"))
    refuses(ValueError, "Characters: text must not be empty, got ''", lambda: text.Characters(""))


@pytest.mark.parametrize("length, T, N", [(10, 3, 3), (9, 3, 2), (11, 3, 3), (4, 3, 1), (5, 1, 4), (2, 1, 1)])
def test_windows_follow_on(length, T, N):
    codes = np.arange(length) + 5
    x, t = text.windows(codes, T)
    assert x.tolist() == [[5 + n*T + i for i in range(T)] for n in range(N)]
    assert t.tolist() == [[6 + n*T + i for i in range(T)] for n in range(N)]
    assert x.dtype == t.dtype == codes.dtype
    x[:], t[:] = 0, 1
    assert (x == 0).all() and (codes == np.arange(length) + 5).all()


def test_bad_windows_are_refused():
    codes = np.arange(6)
    refuses(ValueError, "windows: T must be a whole number of at least 1, got 0", lambda: text.windows(codes, 0))
    refuses(ValueError, "windows: codes must be one row of more than T = 6 numbers, got shape (6,)",
            lambda: text.windows(codes, 6))
    refuses(ValueError, "windows: codes must be one row of more than T = 2 numbers, got shape (3, 2)",
            lambda: text.windows(codes.reshape(3, 2), 2))
    refuses(TypeError, "windows: codes must be an array of integers, got str", lambda: text.windows("abcdef", 2))
    refuses(TypeError, "windows: codes must be an array of integers, got float64", lambda: text.windows(codes / 1, 2))
    refuses(IndexError, "windows: codes must lie in 0..inf, got -1", lambda: text.windows(codes - 1, 2))


# ------------------------------------------------------------------------------------------------ sampling

class Bigrams:
    """A model that looks at the last character alone and writes down what it is shown."""

    def __init__(self, scores, dtype=np.float64):
        self.params = {"weight": np.array(scores, dtype)}
        self.seen = []

    def forward(self, x):
        assert x.dtype == self.params["weight"].dtype and x.shape[0] == 1
        assert np.isin(x, [0, 1]).all() and (x.sum(axis=2) == 1).all()
        self.seen.append("".join("abc"[k] for k in x[0].argmax(axis=1)))
        return x @ self.params["weight"]


CYCLE = 1000 * np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])             # b after a, c after b, a after c


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sampling_feeds_back_what_it_drew(dtype):
    model = Bigrams(CYCLE, dtype)
    assert text.sample(model, "abc", "cab", 4, np.random.default_rng(0)) == "cabcabc"
    assert model.seen == ["cab", "cabc", "cabca", "cabcab"]


def test_sampling_with_a_context():
    for context, seen in ((1, ["b", "c", "a", "b"]), (2, ["ab", "bc", "ca", "ab"]),
                          (4, ["cab", "cabc", "abca", "bcab"])):
        model = Bigrams(CYCLE)
        assert text.sample(model, "abc", "cab", 4, np.random.default_rng(0), context=context) == "cabcabc"
        assert model.seen == seen


@pytest.mark.parametrize("temperature", [0.5, 1, 3.0])
def test_characters_are_drawn_from_the_softmax_at_a_temperature(temperature):
    p, length = np.array([0.5, 0.3, 0.2]), 5000
    model = Bigrams(np.tile(np.log(p) + 7, (3, 1)))
    drawn = text.sample(model, "abc", "a", length, np.random.default_rng(0), temperature=temperature, context=1)[1:]
    expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    counts = np.array([drawn.count(c) for c in "abc"])
    assert (abs(counts - length*expected) < 4.5 * np.sqrt(length * expected * (1 - expected))).all()


def test_sampling_at_extreme_temperatures_and_scores():
    model = Bigrams([[0, 0.1, -800]] * 3)
    narrow = Bigrams([[0, 0.1, -800]] * 3, np.float32)
    assert text.sample(narrow, "abc", "a", 5, np.random.default_rng(0), temperature=5e-324) == "abbbbb"
    for temperature in (1e-3, 1e-300, 5e-324):
        assert text.sample(model, "abc", "a", 5, np.random.default_rng(0), temperature=temperature) == "abbbbb"
    hot = text.sample(model, "abc", "a", 3000, np.random.default_rng(0), temperature=1e300, context=1)[1:]
    assert all(abs(hot.count(c) - 1000) < 4.5 * np.sqrt(3000 * 2 / 9) for c in "abc")


def test_sampling_depends_on_the_seed_alone():
    model = Bigrams(np.zeros((3, 3)))
    first, again, other = (text.sample(model, "abc", "a", 30, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other and len(first) == 31 and first[0] == "a"


def test_sampling_a_model_without_parameters():
    class Counter:
        """Scores 50 for character number T: only the last step and the whole length give the right answer."""
        def forward(self, x):
            return 50.0 * (np.arange(4) == np.arange(1, x.shape[1] + 1)[:, None])[None]

    assert text.sample(Counter(), "wxyz", "w", 3, np.random.default_rng(0)) == "wxyz"


def test_bad_samples_are_refused():
    rng, model = np.random.default_rng(0), Bigrams(CYCLE)
    refuses(ValueError, "sample: start must have at least one character, got ''",
            lambda: text.sample(model, "abc", "", 4, rng))
    refuses(ValueError, "encode: string must hold only characters of 'abc', got 'd' at index 1",
            lambda: text.sample(model, "abc", "ad", 4, rng))
    refuses(TypeError, "encode: string must be a str, got int", lambda: text.sample(model, "abc", 1, 4, rng))
    refuses(TypeError, "sample: alphabet must be a str, got Characters",
            lambda: text.sample(model, text.Characters("abc"), "a", 4, rng))
    refuses(ValueError, "sample: length must be a whole number of at least 1, got 0",
            lambda: text.sample(model, "abc", "a", 0, rng))
    refuses(ValueError, "sample: context must be a whole number of at least 1, got 0",
            lambda: text.sample(model, "abc", "a", 4, rng, context=0))
    refuses(TypeError, "sample: rng must be a numpy.random.Generator, such as np.random.default_rng(0), got int",
            lambda: text.sample(model, "abc", "a", 4, 0))
    for temperature in (0, -1.0, np.inf, np.nan):
        refuses(ValueError, f"sample: temperature must be a finite number > 0, got {temperature}",
                lambda temperature=temperature: text.sample(model, "abc", "a", 4, rng, temperature))
    refuses(TypeError, "sample: temperature must be a finite number > 0, got str",
            lambda: text.sample(model, "abc", "a", 4, rng, "1"))
    refuses(ValueError, "sample: the model must give scores of shape (1, 2, 3), got (1, 2, 2)",
            lambda: text.sample(Bigrams(CYCLE[:, :2]), "abc", "ab", 4, rng))
    assert model.seen == []


# ------------------------------------------------------------------------------------------------ texts

TEXT = text.generated_text(3000, np.random.default_rng(0))
ONE, MANY = "(cat|dog|bird|girl)", "(cats|dogs|birds|girls)"
NOUN = "(cat|dog|bird|girl)s?"
SENTENCE = re.compile(f"the ({ONE}( that (sees|hears) the {NOUN})? (sleeps|runs|(sees|hears) the {NOUN})"
                      f"|{MANY}( that (see|hear) the {NOUN})? (sleep|run|(see|hear) the {NOUN}))")


def test_generated_text():
    lines = TEXT.split("\n")
    assert len(lines) == 3001 and lines.pop() == ""
    assert all(map(SENTENCE.fullmatch, lines)) and all(map(text.is_sentence, lines))
    assert text.Characters(TEXT).alphabet == "\n abcdeghilnoprstu"
    words = TEXT.split()
    assert set(words) == set("the that cat dog bird girl cats dogs birds girls".split()
                             + "sleeps sleep runs run sees see hears hear".split())
    # each of 8 nouns begins a sentence, and one in five subjects has a clause, as the graph says
    for count, p in [*[(sum(line.split()[1] == noun for line in lines), 1/8) for noun in
                       "cat dog bird girl cats dogs birds girls".split()],
                     (sum("that" in line for line in lines), 1/5)]:
        assert abs(count - 3000*p) < 4.5 * np.sqrt(3000 * p * (1 - p))
    # in some sentences the noun just before the verb would ask for the other form
    assert sum(bool(re.match("the cat that sees the dogs (sleeps|runs)", line)) for line in lines) > 0


def test_generated_text_depends_on_the_seed_alone():
    assert text.generated_text(3000, np.random.default_rng(0)) == TEXT
    assert text.generated_text(3000, np.random.default_rng(1)) != TEXT
    assert text.generated_text(1, np.random.default_rng(0)).count("\n") == 1
    refuses(ValueError, "generated_text: N must be a whole number of at least 1, got 0",
            lambda: text.generated_text(0, np.random.default_rng(0)))
    refuses(TypeError, "generated_text: rng must be a numpy.random.Generator", lambda: text.generated_text(5, 0))


def test_is_sentence_agrees_with_a_regular_expression():
    """Every sentence with one word replaced, left out or doubled."""
    words = sorted(set(TEXT.split()))
    for line in TEXT.split("\n")[:60]:
        parts = line.split()
        for i in range(len(parts)):
            for middle in [[], [parts[i]] * 2, *[[word] for word in words]]:
                changed = " ".join(parts[:i] + middle + parts[i + 1:])
                assert text.is_sentence(changed) == bool(SENTENCE.fullmatch(changed)), changed
    for bad in ("", "the cat", "the  cat runs", "the cat runs ", " the cat runs", "the cat runs\n", "The cat runs",
                "the cat runs the dog", "the cat runs the cat runs"):
        assert not text.is_sentence(bad)
    refuses(TypeError, "is_sentence: line must be a str, got list", lambda: text.is_sentence(["the", "cat", "runs"]))


def test_read_text(tmp_path):
    path = tmp_path / "text.txt"
    for content, expected in ((b"a\nb", "a\nb"), ("Grüße, 世界\n".encode(), "Grüße, 世界\n"), (b"a\r\nb\rc", "a\nb\nc"),
                              (b"\xef\xbb\xbfa", "a"), (b"", "")):
        path.write_bytes(content)
        assert text.read_text(path) == text.read_text(str(path)) == expected
    for content, byte in (("Grüße".encode("latin-1"), "fc"), (b"a" * 100000 + b"\xff", "ff"), (b"ab\xe4", "e4")):
        path.write_bytes(content)
        refuses(ValueError, f"read_text: {path} must be UTF-8 text, got byte 0x{byte}", lambda: text.read_text(path))
    with pytest.raises(FileNotFoundError):
        text.read_text(tmp_path / "missing.txt")


# ------------------------------------------------------------------------------------------------ words

def test_words():
    words = text.Words("the cat sees\nthe  dog\n")
    assert words.vocabulary == ("\n", "cat", "dog", "sees", "the") and len(words) == 5
    codes = words.encode("the dog\n cat")
    assert codes.tolist() == [4, 2, 0, 1] and codes.dtype == np.int64
    assert words.decode(codes) == ["the", "dog", "\n", "cat"]
    refuses(ValueError, "encode: text must hold only words of the vocabulary, got 'cow' at index 1",
            lambda: words.encode("the cow"))
    refuses(IndexError, "decode: codes must lie in 0..4, got -1", lambda: words.decode(np.array([-1])))
    refuses(ValueError, "decode: codes must have shape (T), got (1, 2)", lambda: words.decode(codes[None, :2]))
    refuses(TypeError, "decode: codes must be an array of integers, got list", lambda: words.decode([1]))
    refuses(TypeError, "Words: text must be a str, got list", lambda: text.Words(["a"]))
    refuses(ValueError, "Words: text must hold a word, got '  '", lambda: text.Words("  "))


def test_contexts():
    context, centre = text.contexts(np.arange(6) * 10, 2)
    assert context.tolist() == [[0, 10, 30, 40], [10, 20, 40, 50]] and centre.tolist() == [20, 30]
    context, centre = text.contexts(np.arange(5), 1)
    assert context.tolist() == [[0, 2], [1, 3], [2, 4]] and centre.tolist() == [1, 2, 3]
    codes = np.arange(5)
    context, centre = text.contexts(codes, 1)
    context[:], centre[:] = 0, 0
    assert codes.tolist() == [0, 1, 2, 3, 4]
    refuses(ValueError, "contexts: radius must be a whole number of at least 1, got 0",
            lambda: text.contexts(np.arange(5), 0))
    refuses(ValueError, "contexts: codes must be one row of more than 2 radius = 4 numbers, got shape (4,)",
            lambda: text.contexts(np.arange(4), 2))
    refuses(ValueError, "contexts: codes must be one row of more than 2 radius = 2 numbers, got shape (6, 1)",
            lambda: text.contexts(np.arange(6)[:, None], 1))
    refuses(TypeError, "contexts: codes must be an array of integers, got float64",
            lambda: text.contexts(np.arange(5.0), 1))
