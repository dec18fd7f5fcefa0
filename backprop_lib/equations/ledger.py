"""Hold each statement against the code, against SymPy, and against its own absence."""

import importlib
from typing import NamedTuple

import numpy as np
import sympy

from ..gradcheck import GradientError, check_gradients, relative_error
from ..shapes import PRIMES, build, build_inputs, parse_shapes
from .evaluate import evaluate
from .language import name_of
from .proof import chain_rule, same_formula
from .source import LabelError, labelled_lines, recording, scaled


# Sizes in two orders, so that no size can be taken for a combination of others.
SIZES = (PRIMES, {"N": 13, "K": 5, "D": 11, "H": 7})
FAMILIES = {"MLP": "mlp", "CNN": "cnn"}                         # label prefix: module of the library and of the ledger
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
        return [s for pair in self.pairs for s in pair.statements]


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
    """The ledger's labels and the code's labels are the same, once each, 1, 2, 3… in the order they are read."""
    stated = [s.label for s in of.statements]
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
    walk(statement.rhs, set(getattr(statement.lhs, "indices", ())))


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
        value = evaluate(of, {}, sizes)
        return bool(value) if isinstance(of, sympy.core.relational.Relational) else int(value)
    return build_inputs(forward, rng, sizes | {name: option(of) for name, of in pair.options.items()})


class Run(NamedTuple):
    """One execution of a pair, with the statements beside it on the same inputs."""
    sizes: dict
    values: dict                                                # by name: inputs, cotangents, what the statements say
    coded: dict                                                 # by label: what the code lines computed
    returned: dict                                              # by name: what the functions returned


def run(of, pair, rng, sizes, on_kinks=False):
    """Run forward and backward once; `on_kinks` rounds the inputs, so that zeros and ties occur."""
    copy, coded = recording(of.module, of.source)
    forward, backward = (getattr(copy, f.__name__) for f in (pair.forward_function, pair.backward_function))
    (inputs, outputs), (cotangents, gradients) = parse_shapes(forward), parse_shapes(backward)
    sizes = all_sizes(pair, sizes)
    drawn = arguments(pair, forward, rng, sizes)
    drawn[:len(inputs)] = [np.round(v) if on_kinks and a.dims and a.range is None else v
                           for a, v in zip(inputs, drawn)]
    sent = [build(a, rng, sizes) for a in cotangents]
    try:
        *got, cache = forward(*drawn)
        back = backward(*sent, cache)
    except CODE_ERRORS as error:
        raise DoesNotRun(f"{type(error).__name__}: {error}") from error
    returned = dict(zip([a.name for a in outputs + gradients], [*got, *(back if isinstance(back, tuple) else (back,))]))
    values = dict(zip([a.name for a in inputs + cotangents], drawn[:len(inputs)] + sent))
    for statement in pair.all_forward + pair.all_backward:
        name = name_of(statement.lhs)
        if name in values:
            raise LedgerError(f"({statement.label}): {name} is given or defined already")
        values[name] = evaluate(statement.rhs, values, sizes, getattr(statement.lhs, "indices", ()))
    return Run(sizes, values, coded, returned)


def check_run(pair, statement, line, this):
    """Statement, code line and returned value are the same numbers; returns the largest relative error."""
    label, name = statement.label, name_of(statement.lhs)
    if len(this.coded.get(label, [])) != 1:
        raise LedgerError(f"({label}): its code line ran {len(this.coded.get(label, []))} times, expected once")
    compared = [("code", name, this.coded[label][0])]
    compared += [("returned value", other, this.returned[other]) for other in this.returned
                 if other in (name, *map(name_of, _inner_sides(pair)))]
    errors = []
    for what, name, value in compared:
        expected = this.values[name]
        if np.shape(value) != np.shape(expected):
            raise LedgerError(f"({label}): statement and {what} differ in shape: {expected.shape}, {np.shape(value)}")
        errors.append(relative_error(value, expected))
        if not errors[-1] <= LIMIT:
            raise LedgerError(f"({label}): statement and {what} differ by {errors[-1]:.1e}: {line.path.name}:"
                              f"{line.number}: {line.code}")
    return max(errors)


def _inner_sides(pair):
    """What the statements of the inner pair define: its code lines are checked there, what is returned here, too."""
    return [s.lhs for s in pair.inner.statements] if pair.inner else []


def gradient_error(of, pair, copy, rng):
    """The largest error that a gradient check finds in a copy of the pair."""
    forward, backward = (getattr(copy, f.__name__) for f in (pair.forward_function, pair.backward_function))
    args = arguments(pair, forward, rng, all_sizes(pair, of.sizes[0]))
    return max(check_gradients(forward, backward, *args, limit=np.inf, rng=rng).errors.values())


def weigh(of, pair, label, rng):
    """The error that shows once the line of a label is off by 1 %: of the gradients or else, where forward and
    backward share the change, of the outputs. Infinite if the functions refuse to run."""
    copy = scaled(of.module, label, FACTOR, of.source)
    try:
        error = gradient_error(of, pair, copy, rng)
        return error if error > NOTICED else output_error(of, pair, copy, rng)
    except CODE_ERRORS:
        return np.inf


def output_error(of, pair, copy, rng):
    """The largest error of the outputs of a copy of the pair."""
    args = arguments(pair, pair.forward_function, rng, all_sizes(pair, of.sizes[0]))
    name = pair.forward_function.__name__
    pairs = list(zip(*(getattr(module, name)(*args)[:-1] for module in (copy, recording(of.module, of.source)[0]))))
    return max(relative_error(y, sound) if np.shape(y) == np.shape(sound) else np.inf for y, sound in pairs)


def labelled_line(of, pair, statement):
    """The code line of a statement: in one of the pair's two functions, assigning to the statement's own name."""
    lines = {line.label: line for line in labelled_lines(of.module, of.source)}
    line = lines.get(statement.label)
    if line is None:
        raise LabelError(f"({statement.label}): no line of {of.module.__name__} carries this label")
    target = line.code.split("=")[0].strip(" +-*/@")
    if target != name_of(statement.lhs):
        raise LedgerError(f"({statement.label}): the statement differs: it defines {name_of(statement.lhs)}, "
                          f"the code line is {line.code}")
    if line.function not in (pair.forward_function.__name__, pair.backward_function.__name__):
        raise LedgerError(f"({statement.label}): its line stands in {line.function}, not in its pair")
    return line


def check_statement(of, pair, statement, seed=0):
    """All checks of one statement. Raises LedgerError naming the one that fails."""
    rng = np.random.default_rng(seed)
    label = statement.label
    check_letters(statement)
    line = labelled_line(of, pair, statement)
    try:
        runs = [run(of, pair, rng, sizes, kinks)
                for sizes, kinks in ((of.sizes[0], False), (of.sizes[1], False), (of.sizes[0], True))]
    except DoesNotRun as error:
        raise LedgerError(f"({label}): statement and code differ so much that one does not run: {error}") from error
    executed = max(check_run(pair, statement, line, this) for this in runs)
    proof, derived = prove(of, pair, statement, runs)
    sound = gradient_error(of, pair, recording(of.module, of.source)[0], rng)
    if not sound <= LIMIT:
        raise LedgerError(f"({label}): {pair.backward_function.__name__} fails its gradient check by {sound:.1e}")
    weight = weigh(of, pair, label, rng)
    if not weight > NOTICED:
        raise LedgerError(f"({label}): nothing depends on it: its line times {FACTOR} goes unnoticed")
    kind = np.asarray(runs[0].coded[label][0]).dtype.kind
    return Verdict(label, line, executed, proof, derived, weight,
                   {"b": "the opposite", "i": "1 more"}.get(kind, "1 % off"))


def prove(of, pair, statement, runs):
    """The chain rule against the statement: as numbers in every run, and as formulas."""
    if statement in pair.forward:
        return "definition", 0.0
    label, indices = statement.label, getattr(statement.lhs, "indices", ())
    derivation = chain_rule(pair, statement.lhs)
    derived = max(relative_error(evaluate(derivation, this.values, this.sizes, indices),
                                 this.values[name_of(statement.lhs)]) for this in runs)
    if not derived <= LIMIT:
        raise LedgerError(f"({label}): the chain rule gives something else, relative error {derived:.1e}")
    if same_formula(pair, derivation, statement.rhs):
        return "formula", derived
    if label not in of.by_numbers:
        raise LedgerError(f"({label}): SymPy's chain rule gives the same numbers but not the same formula; "
                          "if its algebra cannot finish, list the label in BY_NUMBERS")
    return "numbers", derived


def check_family(of):
    """Labels first, then every pair's own gradient check, then a Verdict for each statement in turn."""
    check_labels(of)
    rng = np.random.default_rng(0)
    for pair in of.pairs:
        try:
            check_gradients(pair.forward_function, pair.backward_function,
                            *arguments(pair, pair.forward_function, rng, all_sizes(pair, of.sizes[0])))
        except GradientError as error:
            raise LedgerError(f"{pair.backward_function.__name__}: {error}") from error
    for pair in of.pairs:
        for statement in pair.statements:
            yield check_statement(of, pair, statement)


def verify(*labels):
    """In a notebook: check these equations here and now, and say where their code is. Raises if one fails."""
    verdicts = [check_statement(*find(label)) for label in labels]
    plain = "\n".join(f"({v.label})  {v.line.code}  [{v.line.path.name}:{v.line.number}]  {_in_words(v)}"
                      for v in verdicts)
    rows = "\n".join(f"| ({v.label}) | `{v.line.code}` | {_in_words(v)} | {_link(v.line)} |" for v in verdicts)
    _display(plain, f"| equation | code line | checked now | where |\n|:--|:--|:--|:--|\n{rows}")


def _in_words(verdict):
    agreed = {"definition": "statement = code", "formula": "statement = code = SymPy's chain rule",
              "numbers": "statement = code = SymPy's chain rule, in numbers"}[verdict.proof]
    return f"{agreed}; {verdict.change} is noticed"


def _link(line):
    """A link that works from the notebooks folder, in JupyterLab and on a code host."""
    return f"[{line.path.name}:{line.number}](../backprop_lib/{line.path.name}#L{line.number})"


def _display(plain, markdown):
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = lambda: None                              # noqa: E731
    if get_ipython() is None:
        print(plain)
        return
    from IPython.display import display
    display({"text/plain": plain, "text/markdown": markdown}, raw=True)
