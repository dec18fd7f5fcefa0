"""Hold each statement against the code, against SymPy, and against its own absence."""

import copy
import functools
import importlib
import inspect
import itertools
from typing import NamedTuple

import numpy as np
import sympy

from ..gradcheck import GradientError, check_gradients, relative_error
from ..shapes import PRIMES, build, build_inputs, parse_shapes
from .evaluate import evaluate, letters_of, names_in, settle
from .proof import before, chain_rule, same_formula
from .source import LabelError, labelled_lines, recording, scaled, source_of


# Sizes in two orders, so that no size can be taken for a number or a combination of others.
SIZES = (PRIMES, {"N": 13, "K": 3, "D": 11, "H": 7})
# Label prefix: module of the library and of the ledger.
FAMILIES = {"MLP": "mlp", "CNN": "cnn", "RNN": "rnn", "LSTM": "lstm", "GRU": "gru", "NORM": "norm", "EMB": "embedding"}
LIMIT = 1e-12
FACTOR = 1.01
NOTICED = 1e-6
CODE_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError)


class LedgerError(AssertionError):
    """Statement, code and proof do not agree."""


class DoesNotRun(LedgerError):
    """The code refuses its arguments, or a statement asks for a size below 0."""


class Verdict(NamedTuple):
    """What was found for one label. Errors are relative, in the norm."""
    label: str
    line: object
    executed: float                                             # statement against the value of the code line
    proof: str                                                  # "definition", "formula" or "numbers"
    derived: float                                              # chain rule against statement, both executed
    weight: float                                               # error that shows when the line is changed
    change: str                                                 # how it was changed


class Family(NamedTuple):
    """One module of the library with the statements made about it."""
    prefix: str
    module: object
    pairs: tuple
    tex: dict
    sizes: tuple = SIZES                                        # two dicts {"N": 3, ...}
    by_numbers: tuple = ()                                      # labels for which SymPy's algebra does not finish
    source: str = None                                          # a changed source, for tests of the ledger itself

    @property
    def statements(self):
        """In the order of their numbers."""
        return sorted((s for pair in self.pairs for s in pair.statements), key=number_of)


def number_of(statement):
    return int(statement.label.split("-")[1])


def family(prefix):
    """The family of a label's prefix, such as MLP."""
    if prefix not in FAMILIES:
        raise LedgerError(f"no family has the prefix {prefix!r}; known: {', '.join(FAMILIES)}")
    name = FAMILIES[prefix]
    ledger = importlib.import_module(f"backprop_lib.equations.{name}")
    return Family(prefix, importlib.import_module(f"backprop_lib.{name}"), tuple(ledger.PAIRS), ledger.TEX,
                  getattr(ledger, "SIZES", SIZES), getattr(ledger, "BY_NUMBERS", ()))


def find(label):
    """Family, pair and statement of a label."""
    of = family(label.split("-")[0])
    for pair in of.pairs:
        for statement in pair.statements:
            if statement.label == label:
                return of, pair, statement
    raise LedgerError(f"({label}) is not in the ledger")


def check_labels(of):
    """The ledger's labels and the code's labels are the same, once each, 1, 2, 3… in the order they are read.

    In the ledger the numbers rise in every pair; the variants of a function have lines between each other's.
    """
    stated = [s.label for s in of.statements]
    for pair in of.pairs:
        if [s.label for s in pair.statements] != [s.label for s in sorted(pair.statements, key=number_of)]:
            raise LabelError(f"the ledger: {pair.forward_function.__name__}: number in reading order")
    coded = [line.label for line in labelled_lines(of.module, of.source)]
    expected = [f"{of.prefix}-{i}" for i in range(1, len(stated) + 1)]
    for where, labels in (("the ledger", stated), (f"{of.module.__name__}", coded)):
        doubled = {label for label in labels if labels.count(label) > 1}
        if doubled:
            raise LabelError(f"{where} has {sorted(doubled)} more than once")
        missing, extra = set(expected) - set(labels), set(labels) - set(expected)
        if missing or extra:
            raise LabelError(f"{where}: missing {sorted(missing)}, unexpected {sorted(extra)}")
        if labels != expected:
            first = next(i for i, label in enumerate(labels) if label != expected[i])
            raise LabelError(f"{where}: expected {expected[first]} but read {labels[first]}: number in reading order")


def check_letters(statement):
    """No index letter is bound twice, or bound where it is also free: a reader could not tell them apart."""
    def walk(e, taken):
        if isinstance(e, (sympy.Sum, sympy.Product)):
            bound = {index for index, _, _ in e.limits}
            if bound & taken or len(bound) < len(e.limits):
                raise LedgerError(f"({statement.label}): a sum over {bound}, where one already has a meaning")
            taken = taken | bound
        for a in e.args:
            walk(a, taken)
    walk(statement.rhs, set(letters_of(statement)))


def check_options(pair):
    """Every option of the forward function has a letter: a default alone would hide that a statement lacks it."""
    inputs = {argument.name for argument in parse_shapes(pair.forward_function)[0]}
    unbound = set(inspect.signature(pair.forward_function).parameters) - inputs - set(pair.options)
    if unbound:
        raise LedgerError(f"{pair.forward_function.__name__}: the statements have no letter for {sorted(unbound)}")


def check_side(pair, statement):
    """A gradient stated as a definition of the forward function would never meet the chain rule."""
    name = statement.name
    inputs, outputs = parse_shapes(pair.forward_function)
    known = {argument.name for argument in inputs + outputs} | {s.name for s in pair.all_forward}
    if statement in pair.forward and name.startswith("d") and name[1:] in known:
        raise LedgerError(f"({statement.label}): {name} is a gradient and stands among the forward statements")


def all_sizes(pair, sizes):
    """The sizes with those that follow from them."""
    sizes = dict(sizes)
    for size, rule in pair.all_sizes:
        sizes[size.name] = int(evaluate(rule, {}, sizes))
        if sizes[size.name] < 0:
            raise DoesNotRun(f"{size} = {sizes[size.name]}")
    return sizes


def arguments(pair, forward, rng, sizes):
    """Random arguments for a forward function; its options are what the sizes say they are called."""
    def option(of):
        if isinstance(of, tuple):
            return tuple(map(option, of))
        if isinstance(of, (bool, str)):
            return of
        value = evaluate(of, {}, sizes)
        return bool(value) if isinstance(of, sympy.core.relational.Relational) else int(value)
    return build_inputs(forward, rng, sizes | {name: option(of) for name, of in pair.options.items()})


class Run(NamedTuple):
    """One execution of a pair, with the statements beside it on the same inputs."""
    sizes: dict
    values: dict                                                # by name: inputs, cotangents, what the statements say
    coded: dict                                                 # by label: what the code lines computed
    returned: dict                                              # by name in the statements: what the functions returned


def run(of, pair, rng, sizes, on_kinks=False):
    """Run a pair on random inputs; `on_kinks` makes them -1, 0 or 1, so that zeros and ties are common."""
    inputs, cotangents = (parse_shapes(f)[0] if f else [] for f in (pair.forward_function, pair.backward_function))
    sizes = all_sizes(pair, sizes)
    drawn = arguments(pair, pair.forward_function, rng, sizes)
    drawn[:len(inputs)] = [np.sign(np.round(v)) if on_kinks and a.dims and a.range is None else v
                           for a, v in zip(inputs, drawn)]
    return run_on(of, pair, drawn, [build(a, rng, sizes) for a in cotangents], sizes)


@functools.lru_cache(maxsize=16)
def _run(module, source, pair, sizes, kinks, seed):
    """One run for all the statements of a pair."""
    return run(Family("", module, (), {}, source=source), pair, np.random.default_rng(seed), dict(sizes), kinks)


def functions(pair, twin):
    """The pair's functions in a copy of their module; None where there is no backward function."""
    return [f and getattr(twin, f.__name__) for f in (pair.forward_function, pair.backward_function)]


def apply(forward, backward, drawn, sent):
    """What the two functions return, as tuples."""
    if backward is None:
        return _tuple(forward(*drawn)), ()
    *got, cache = forward(*drawn)
    return tuple(got), _tuple(backward(*sent, cache))


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def run_on(of, pair, drawn, sent, sizes):
    """Run forward on the arguments `drawn` and backward on the cotangents `sent`."""
    twin, coded = recording(of.module, of.source)
    forward, backward = functions(pair, twin)
    (inputs, outputs), (cotangents, gradients) = parse_shapes(forward), parse_shapes(backward) if backward else ([], [])
    try:
        got, back = apply(forward, backward, drawn, sent)
    except CODE_ERRORS as error:
        raise DoesNotRun(f"{type(error).__name__}: {error}") from error
    stated = {cotangent.removeprefix("d"): name for name, cotangent in pair.external.items()}
    names = [stated.get(a.name, a.name) for a in outputs + gradients]
    returned = dict(zip(names, [*got, *back]))
    values = dict(zip([a.name for a in inputs + cotangents], [*drawn[:len(inputs)], *sent]))
    known = set(values)
    for statement in pair.all_forward + pair.all_backward:
        if statement.name in known:
            raise LedgerError(f"({statement.label}): {statement.name} is given or defined already")
        known.add(statement.name)
    settle(pair.all_forward, values, sizes)
    settle(pair.all_backward, values, sizes)
    return Run(sizes, values, coded, returned)


def check_run(pair, statement, line, this):
    """Statement, code line and returned value are the same numbers; returns the largest relative error."""
    label = statement.label
    compared = [("code", statement.name, coded_value(pair, statement, this))]
    if pair.step:
        compared += [("code", s.name, coded_value(pair, s, this)) for s in pair.inner.statements]
    defined = {statement.name, *(s.name for s in _inner(pair))}
    compared += [("returned value", name, value) for name, value in this.returned.items() if name in defined]
    errors = []
    for what, name, value in compared:
        expected = this.values[name]
        if np.shape(value) != np.shape(expected):
            raise LedgerError(f"({label}): statement and {what} of {name} differ in shape: {expected.shape}, "
                              f"{np.shape(value)}")
        errors.append(relative_error(value, expected))
        if not errors[-1] <= LIMIT:
            raise LedgerError(f"({label}): statement and {what} of {name} differ by {errors[-1]:.1e}: "
                              f"{line.path.name}:{line.number}: {line.code}")
    return max(errors)


def coded_value(pair, statement, this):
    """What a code line computed. In a loop over time it ran T times, backward from the end: what has a time index is
    stacked along it, of a sum that grows only the last value counts."""
    values, letters = this.coded.get(statement.label, []), [i.name for i in letters_of(statement)]
    times = this.sizes["T"] if pair.step and (len(values) > 1 or "t" in letters) else 1
    if len(values) != times:
        raise LedgerError(f"({statement.label}): its code line ran {len(values)} times, expected {times}")
    if "t" not in letters or not pair.step:
        return values[-1]
    return np.stack(values if statement in pair.all_forward else values[::-1], axis=letters.index("t"))


def _inner(pair):
    """The statements of the inner pair: its code lines are checked there, what is returned here, too; and those
    without a number."""
    unnumbered = [s for s in pair.forward + pair.backward if not s.label]
    return [*(pair.inner.forward + pair.inner.backward if pair.inner else ()), *unnumbered]


class Sound(NamedTuple):
    """What the unchanged pair does with one set of arguments: the measure of a changed copy."""
    arguments: list
    outputs: tuple
    cotangents: list
    report: object                                              # of check_gradients; None without a backward function


@functools.lru_cache(maxsize=64)
def _sound(module, source, pair, sizes, seed):
    rng, cotangents = np.random.default_rng(seed), []
    forward, backward = functions(pair, recording(module, source)[0])
    args = arguments(pair, forward, rng, all_sizes(pair, dict(sizes)))
    if backward is None:
        return Sound(args, _tuple(forward(*args)), cotangents, None)

    @functools.wraps(backward)
    def listening(*given):
        cotangents[:] = copy.deepcopy(given[:-1])               # a backward function may work in place
        return backward(*given)
    report = check_gradients(forward, listening, *args, limit=np.inf, rng=rng)
    return Sound(args, forward(*args)[:-1], cotangents, report)


def sound_pair(of, pair, seed):
    """The gradient check of the pair as it stands, once for all its statements: by source, statements and sizes."""
    return _sound(of.module, source_of(of.module, of.source), pair, tuple(of.sizes[0].items()), seed)


def weigh(of, pair, label, sound):
    """The error that shows once the line of a label is off by 1 %: of the gradients or else, where forward and
    backward share the change, of the outputs. Infinite if the functions refuse to run."""
    forward, backward = functions(pair, scaled(of.module, label, FACTOR, of.source))
    try:
        if backward is None:
            return max(map(_difference, _tuple(forward(*sound.arguments)), sound.outputs))
        *outputs, cache = forward(*sound.arguments)
        if all(map(np.array_equal, outputs, sound.outputs)):    # forward is the same, and so are the true gradients
            back = _tuple(backward(*copy.deepcopy(sound.cotangents), cache))
            return max(map(_difference, back, (g.yours for g in sound.report.gradients)))
        error = max(check_gradients(forward, backward, *sound.arguments, limit=np.inf).errors.values())
        return error if error > NOTICED else max(map(_difference, outputs, sound.outputs))
    except CODE_ERRORS:
        return np.inf


def _difference(value, expected):
    return relative_error(value, expected) if np.shape(value) == np.shape(expected) else np.inf


def labelled_line(of, pair, statement):
    """The code line of a statement: in one of the pair's two functions, assigning to the statement's own name."""
    lines = {line.label: line for line in labelled_lines(of.module, of.source)}
    line = lines.get(statement.label)
    if line is None:
        raise LabelError(f"({statement.label}): no line of {of.module.__name__} carries this label")
    target = line.code.split("=")[0].strip(" +-*/@")
    if target != statement.name:
        raise LedgerError(f"({statement.label}): the statement differs: it defines {statement.name}, "
                          f"the code line is {line.code}")
    function = pair.forward_function if statement in pair.forward else pair.backward_function
    if line.function != function.__name__:
        raise LedgerError(f"({statement.label}): its line stands in {line.function}, not in {function.__name__}")
    return line


@np.errstate(invalid="ignore")                                  # a NaN is a difference: no warning is needed
def check_statement(of, pair, statement, seed=0):
    """All checks of one statement, the cheap ones first. Raises LedgerError naming the one that fails."""
    label = statement.label
    check_options(pair)
    check_letters(statement)
    check_side(pair, statement)
    line = labelled_line(of, pair, statement)
    executed, derived, change = 0.0, 0.0, ""
    for i, (sizes, kinks) in enumerate(itertools.product(of.sizes, (False, True))):
        try:
            this = _run(of.module, source_of(of.module, of.source), pair, tuple(sizes.items()), kinks, (seed, i))
        except DoesNotRun as error:
            raise LedgerError(f"({label}): statement and code differ so much that one does not run: {error}") from error
        executed = max(executed, check_run(pair, statement, line, this))
        derived = max(derived, check_derivation(pair, statement, this))
        change = {"b": "the opposite", "i": "1 more"}.get(np.asarray(this.coded[label][0]).dtype.kind, "1 % off")
    proof = prove(of, pair, statement)
    sound = sound_pair(of, pair, seed)
    error = max(sound.report.errors.values()) if sound.report else 0.0
    if not error <= LIMIT:
        raise LedgerError(f"({label}): {pair.backward_function.__name__} fails its gradient check by {error:.1e}")
    weight = weigh(of, pair, label, sound)
    if not weight > NOTICED:
        raise LedgerError(f"({label}): nothing depends on it: its line times {FACTOR} goes unnoticed")
    return Verdict(label, line, executed, proof, derived, weight, change)


def check_derivation(pair, statement, this):
    """The chain rule against the statement, as numbers; returns the relative error."""
    errors = [0.0]
    for claim in claims(pair, statement):
        derivation = evaluate(chain_rule(pair, claim.lhs), this.values, this.sizes, letters_of(claim))
        errors.append(relative_error(derivation, this.values[claim.name]))
        if not errors[-1] <= LIMIT:
            raise LedgerError(f"({statement.label or statement.name}): the chain rule gives something else for "
                              f"{claim.name}, relative error {errors[-1]:.1e}")
    return max(errors)


def prove(of, pair, statement):
    """The chain rule against the statement, as formulas."""
    if statement in pair.all_forward:
        return "definition"
    if all(same_formula(pair, chain_rule(pair, claim.lhs), claim.rhs, before(pair, claim))
           for claim in claims(pair, statement)):
        return "formula"
    if statement.label not in of.by_numbers:
        raise LedgerError(f"({statement.label or statement.name}): SymPy's chain rule gives the same numbers but not "
                          "the same formula; if its algebra cannot finish, list the label in BY_NUMBERS")
    return "numbers"


def claims(pair, statement):
    """What the chain rule is asked about: a backward statement about a derivative. What only gives a name to a part of
    derivatives is right if every statement that uses it is."""
    if statement in pair.all_forward:
        return []
    named = set().union(*({s.name} | names_in(s.rhs) for s in pair.all_forward))
    if statement.name.removeprefix("d") in named:
        return [statement]
    arriving = {*pair.external.values(), *(pair.step.external.values() if pair.step else ())}
    if statement.name.startswith("d") and statement.name not in arriving:
        raise LedgerError(f"({statement.label or statement.name}): {statement.name} is set as a derivative, but the "
                          f"forward statements have no {statement.name[1:]}")
    users = [s for s in pair.all_backward if statement.name in names_in(s.rhs)]
    if not users:
        raise LedgerError(f"({statement.label}): {statement.name} is no derivative and nothing uses it")
    return users


def check_inner(of, pair):
    """What has no number, and the step inside a sequence, is proved as well."""
    this = run(of, pair, np.random.default_rng(0), of.sizes[0])
    unsaid = set(this.returned) - {s.name for s in pair.all_forward + pair.all_backward}
    unused = {s.name for s in pair.forward if not s.label} - set().union(
        *(names_in(s.rhs) for s in pair.all_forward + pair.all_backward))
    if unsaid or unused:
        raise LedgerError(f"{pair.forward_function.__name__}: no statement for {sorted(unsaid)}, no use for "
                          f"{sorted(unused)}")
    for statement in pair.all_backward:
        if not statement.label or pair.inner:
            check_derivation(pair, statement, this)
            prove(of, pair, statement)


def check_family(of):
    """Labels first, then every pair's own gradient check, then a Verdict for each statement in turn."""
    check_labels(of)
    rng = np.random.default_rng(0)
    for pair in [pair for pair in of.pairs if pair.backward_function]:
        try:
            check_gradients(pair.forward_function, pair.backward_function,
                            *arguments(pair, pair.forward_function, rng, all_sizes(pair, of.sizes[0])))
        except GradientError as error:
            raise LedgerError(f"{pair.backward_function.__name__}: {error}") from error
    for pair in of.pairs:
        check_inner(of, pair)
    for statement in of.statements:
        yield check_statement(of, next(p for p in of.pairs if statement in p.statements), statement)
