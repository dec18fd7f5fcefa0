"""The reader of `Shapes:` lines, on which other tests stand: what it reads, builds and refuses."""

import math
from itertools import combinations

import numpy as np
import pytest

from backprop_lib import cnn, mlp
from backprop_lib.shapes import PRIMES, Argument, build, build_inputs, parse_shapes, shape_of, size_of, sizes_found


SIZES = {"N": 3, "T": 13, "D": 7, "H": 11, "K": 5}


def documented(doc):
    def function():
        pass
    function.__doc__ = doc
    return function


def parsed(line):
    return parse_shapes(documented(line))


# ------------------------------------------------------------------------------------------------ reading

def test_names_and_sizes_are_read_on_both_sides_of_the_arrow():
    inputs, outputs = parsed("Shapes: x (N, D), W (H, D), b (H) -> z (N, H), s ()")
    assert inputs == [Argument("x", ("N", "D"), None), Argument("W", ("H", "D"), None), Argument("b", ("H",), None)]
    assert outputs == [Argument("z", ("N", "H"), None), Argument("s", (), None)]


def test_names_may_hold_underscores_and_digits():
    assert [a.name for a in parsed("Shapes: W_ih (4H, D), h0 (N, H) -> hs (N, T, H)")[0]] == ["W_ih", "h0"]


@pytest.mark.parametrize("line, ranges", [
    ("Shapes: t (N) in 0..K-1 -> y ()", ["0..K-1"]),
    ("Shapes: t (N) in 0..1, p () in [0, 1) -> y ()", ["0..1", "[0, 1)"]),
    ("Shapes: p () in [0, 1), x (N) -> y ()", ["[0, 1)", None]),
    ("Shapes: x (N), s () in 1..3, k () in 0..K -> y ()", [None, "1..3", "0..K"]),
    ("Shapes: a (N) in [-2.5, 0.5), b (N) in -3..3 -> y ()", ["[-2.5, 0.5)", "-3..3"]),
])
def test_ranges_are_read_without_the_comma_that_follows(line, ranges):
    assert [a.range for a in parsed(line)[0]] == ranges


def test_the_line_may_be_broken():
    inputs, outputs = parsed("""One step.

    Shapes: x (N, D), h (N, H),
            W (4H, D)
            -> y (N, H),
            c (N, H)
    """)
    assert [a.name for a in inputs] == ["x", "h", "W"]
    assert [a.name for a in outputs] == ["y", "c"]


def test_a_broken_line_may_go_on_with_a_long_name_in_capitals():
    inputs, _ = parsed("""One step.

    Shapes: x (N, D),
            W_ih (4H, D) -> y (N, H)
    """)
    assert [a.name for a in inputs] == ["x", "W_ih"]


@pytest.mark.parametrize("rest", ["\n    Raises ValueError if x (N) is empty.", "\n\n    Then q (N, K) -> r (K).", "\n",
                                  "\n    Source: Hochreiter (1997)", "\n    See Pascanu et al. (2013), figure 2."])
def test_what_follows_the_line_is_not_read(rest):
    inputs, outputs = parsed("First.\n\n    Shapes: x (N) -> y (N, K)" + rest)
    assert [a.name for a in inputs] == ["x"]
    assert [a.name for a in outputs] == ["y"]


@pytest.mark.parametrize("doc", [None, "", "A sentence about shapes.", "shapes: x (N) -> y (N)"])
def test_a_docstring_without_the_line_is_refused(doc):
    with pytest.raises(ValueError, match=r"^function: the docstring has no line 'Shapes: x \(N, D\) -> z \(N, H\)'$"):
        parsed(doc)


@pytest.mark.parametrize("line", ["Shapes: x (N, D)", "Shapes: x (N) -> h (N) -> y (N)", "Shapes: x (N) => y (N)"])
def test_a_line_without_exactly_one_arrow_is_refused(line):
    with pytest.raises(ValueError, match="^function: 'Shapes:' needs one arrow between inputs and outputs$"):
        parsed(line)


@pytest.mark.parametrize("span", ["[0, 1]", "(0, 1)", "(0, 1]", "{0, 1}"])
def test_a_range_of_another_kind_is_read_or_refused_but_no_argument_is_lost_or_made_up(span):
    try:
        inputs, _ = parsed(f"Shapes: x (N) in {span}, y (H) -> z ()")
    except ValueError:
        return
    assert [a.name for a in inputs] == ["x", "y"]


# ------------------------------------------------------------------------------------------------ sizes

@pytest.mark.parametrize("dim, size", [("N", 3), ("4H", 44), ("K-1", 4), ("K+1", 6), ("2D-1", 13), ("3", 3),
                                       ("T-K+1", 9), ("0", 0), ("-3", -3), ("2H+3D", 43), ("N-2K", -7)])
def test_a_dimension_is_a_sum_of_multiples(dim, size):
    assert size_of(dim, SIZES) == size


@pytest.mark.parametrize("dim", ["n", "H/2", "N*K", "", "N K", "H2"])
def test_a_dimension_that_makes_no_sense_is_refused(dim):
    with pytest.raises((ValueError, KeyError)):
        size_of(dim, SIZES)


def test_an_unknown_letter_is_refused():
    with pytest.raises((ValueError, KeyError), match="Q"):
        size_of("Q", SIZES)


def test_the_standard_sizes_are_primes_and_differ_where_they_meet():
    assert all(value > 1 and all(value % d for d in range(2, value)) for value in PRIMES.values())
    for module in (mlp, cnn):
        for name in [name for name in dir(module) if name.endswith("_forward")]:
            inputs, _ = parse_shapes(getattr(module, name))
            letters = {dim[0] for argument in inputs for dim in argument.dims}
            assert all(PRIMES[a] != PRIMES[b] for a, b in combinations(letters, 2)), name


def test_products_and_groups():
    sizes = {"C": 6, "I": 5, "J": 7}
    assert size_of("CIJ", sizes) == 210 and size_of("2C", sizes) == 12 and size_of("CI-1", sizes) == 29
    assert size_of("C/groups", sizes) == 6 and size_of("C/groups", {**sizes, "groups": 3}) == 2


def test_options_come_from_the_sizes_or_their_defaults():
    rng = np.random.default_rng(0)
    *arrays, stride, padding, dilation, groups = build_inputs(cnn.conv2d_forward, rng, {**PRIMES, "C": 4, "F": 6,
                                                                                       "stride": (2, 1), "groups": 2})
    assert (stride, padding, dilation, groups) == ((2, 1), 0, 1, 2)
    assert [a.shape for a in arrays] == [(3, 4, 17, 29), (6, 2, 5, 11), (6,)]
    assert build_inputs(cnn.avg_pool2d_forward, rng)[1:] == [(5, 11), None, 0, True]


def test_letters_of_the_outputs_alone_are_found_in_the_arrays():
    sizes = sizes_found(cnn.max_pool2d_forward, [np.zeros((3, 2, 4, 6))], PRIMES)
    assert sizes == {**PRIMES, "P": 4, "Q": 6}


def test_shapes_follow_the_letters():
    assert shape_of(Argument("W", ("4H", "D"), None), SIZES) == (44, 7)
    assert shape_of(Argument("s", (), None), SIZES) == ()
    assert shape_of(Argument("x", ("N", "K"), None)) == (PRIMES["N"], PRIMES["K"])


# ------------------------------------------------------------------------------------------------ building

def build_one(item, sizes=SIZES, seed=1):
    return build(parsed(f"Shapes: {item} -> y ()")[0][0], np.random.default_rng(seed), sizes)


def test_without_a_range_it_is_standard_normal():
    x = build_one("x (N, D)", {"N": 300, "D": 200})
    assert x.shape == (300, 200) and x.dtype == np.float64
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02
    assert len(np.unique(x)) == x.size


@pytest.mark.parametrize("seed", range(5))
def test_an_integer_range_holds_integers_and_both_its_ends(seed):
    t = build_one("t (N, T) in 2..K-1", seed=seed)
    assert t.shape == (3, 13) and t.dtype.kind == "i"
    assert t.min() == 2 and t.max() == 4
    assert set(np.unique(build_one("t (T, T) in 2..K-1", seed=seed))) == {2, 3, 4}


@pytest.mark.parametrize("shape", ["(N)", "(N, K)", "(K, N)"])
def test_both_ends_occur_even_in_two_entries(shape):
    assert sorted(build_one(f"t {shape} in 0..99", {"N": 2, "K": 1}).flat) == [0, 99]


def test_a_float_range_is_uniform_and_without_its_upper_end():
    x = build_one("x (N, D) in [-2, 0.5)", {"N": 300, "D": 200})
    assert x.min() >= -2 and x.max() < 0.5
    assert x.min() < -1.99 and x.max() > 0.49
    assert abs(x.mean() + 0.75) < 0.02


def test_a_number_is_a_python_float():
    assert type(build_one("p () in [0, 1)")) is float
    assert type(build_one("s ()")) is float
    assert 0 <= build_one("p () in [0, 1)") < 1


def test_a_number_with_an_integer_range_is_an_integer():
    values = {build_one("k () in 1..3", seed=seed) for seed in range(30)}
    assert values == {1, 2, 3}
    assert all(isinstance(value, (int, np.integer)) for value in values)


def test_an_array_of_one_entry_stays_in_its_range():
    assert {int(build_one("t (N) in 1..3", {"N": 1}, seed)[0]) for seed in range(30)} == {1, 2, 3}


def test_arrays_may_be_empty():
    assert build_one("t (N) in 0..3", {"N": 0}).shape == (0,)
    assert build_one("x (N, D)", {"N": 0, "D": 2}).shape == (0, 2)


def test_the_same_generator_gives_the_same_numbers_and_the_next_call_others():
    assert build_one("x (N)", seed=1).tolist() == build_one("x (N)", seed=1).tolist()
    assert build_one("x (N)", seed=1).tolist() != build_one("x (N)", seed=2).tolist()


def test_inputs_come_in_order_and_only_inputs():
    f = documented("Shapes: x (N, D), t (N) in 0..K-1, p () in [0, 1) -> y (H), z (K)")
    x, t, p = build_inputs(f, np.random.default_rng(1), SIZES)
    assert x.shape == (3, 7) and t.shape == (3,) and isinstance(p, float)
    assert build_inputs(f, np.random.default_rng(1))[0].shape == (PRIMES["N"], PRIMES["D"])


def test_two_arguments_of_one_shape_differ():
    f = documented("Shapes: x (N, D), y (N, D) -> z ()")
    x, y = build_inputs(f, np.random.default_rng(1), SIZES)
    assert not math.isclose(x.sum(), y.sum())
