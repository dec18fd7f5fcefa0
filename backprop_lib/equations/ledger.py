"""Hold each statement against the code, against SymPy, and against its own absence."""

import importlib
from typing import NamedTuple

import numpy as np

from ..gradcheck import GradientError, check_gradients, relative_error
from ..shapes import PRIMES, build, build_inputs, parse_shapes
from .evaluate import evaluate
from .language import name_of
from .proof import chain_rule, same_formula
from .source import LabelError, labelled_lines, recording, scaled


FAMILIES = {"MLP": "mlp"}                                       # label prefix: module of the library and of the ledger
LIMIT = 1e-12
FACTOR = 1.01


class LedgerError(AssertionError):
    """Statement, code and proof do not agree."""


class Verdict(NamedTuple):
    """What was found for one label. Errors are relative, in the norm."""
    label: str
    line: object
    executed: float                                             # statement against the value of the code line
    proof: str                                                  # "definition", "formula" or "numbers"
    derived: float                                              # chain rule against statement, both executed
    weight: float                                               # error of the gradient check when scaled by 1.01


class Family(NamedTuple):
    """One module of the library with the statements made about it."""
    prefix: str
    module: object
    pairs: tuple
    tex: dict
    sizes: dict = PRIMES
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
                  getattr(ledger, "SIZES", PRIMES))


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


def executed_values(of, pair, rng):
    """Run the pair once, and the statements beside it on the same inputs.

    Returns the statements' values by name (inputs and cotangents included) and the code lines' values by label.
    """
    copy, coded = recording(of.module, of.source)
    forward, backward = (getattr(copy, f.__name__) for f in (pair.forward_function, pair.backward_function))
    inputs = build_inputs(forward, rng, of.sizes)
    *_, cache = forward(*inputs)
    cotangents = [build(argument, rng, of.sizes) for argument in parse_shapes(backward)[0]]
    backward(*cotangents, cache)
    values = dict(zip([a.name for a in parse_shapes(forward)[0]], inputs))
    values.update(zip([a.name for a in parse_shapes(backward)[0]], cotangents))
    for statement in pair.statements:
        values[name_of(statement.lhs)] = _run(of, statement.rhs, statement.lhs, values)
    return values, coded


def _run(of, expression, lhs, values):
    return evaluate(expression, values, of.sizes, getattr(lhs, "indices", ()))


def weigh(of, pair, label, rng):
    """The largest gradient error that appears when the labelled right-hand side is multiplied by 1.01."""
    changed = scaled(of.module, label, FACTOR, of.source)
    forward, backward = (getattr(changed, f.__name__) for f in (pair.forward_function, pair.backward_function))
    report = check_gradients(forward, backward, *build_inputs(forward, rng, of.sizes), limit=np.inf, rng=rng)
    return max(report.errors.values())


def check_statement(of, pair, statement, seed=0):
    """All checks of one statement. Raises LedgerError naming the one that fails."""
    rng = np.random.default_rng(seed)
    values, coded = executed_values(of, pair, rng)
    label, name = statement.label, name_of(statement.lhs)
    line = next((line for line in labelled_lines(of.module, of.source) if line.label == label), None)
    if len(coded.get(label, [])) != 1:
        raise LedgerError(f"({label}): its code line ran {len(coded.get(label, []))} times, expected once")
    value = coded[label][0]
    if np.shape(value) != np.shape(values[name]):
        raise LedgerError(f"({label}): the code gives shape {np.shape(value)}, the statement {np.shape(values[name])}")
    executed = relative_error(value, values[name])
    if not executed <= LIMIT:
        raise LedgerError(f"({label}): statement and code differ by {executed:.1e}: {line.path.name}:{line.number}: "
                          f"{line.code}")
    proof, derived = _prove(of, pair, statement, values)
    weight = weigh(of, pair, label, rng)
    if not weight > 1e-6:
        raise LedgerError(f"({label}): nothing depends on it: its line times {FACTOR} passes every gradient check")
    return Verdict(label, line, executed, proof, derived, weight)


def _prove(of, pair, statement, values):
    if statement in pair.forward:
        return "definition", 0.0
    derivation = chain_rule(pair, statement.lhs)
    derived = relative_error(_run(of, derivation, statement.lhs, values), values[name_of(statement.lhs)])
    if not derived <= LIMIT:
        raise LedgerError(f"({statement.label}): the chain rule gives something else, relative error {derived:.1e}")
    return ("formula" if same_formula(pair, derivation, statement.rhs) else "numbers"), derived


def check_family(of):
    """Labels first, then every pair's own gradient check, then a Verdict for each statement in turn."""
    check_labels(of)
    rng = np.random.default_rng(0)
    for pair in of.pairs:
        try:
            check_gradients(pair.forward_function, pair.backward_function,
                            *build_inputs(pair.forward_function, rng, of.sizes))
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
    return f"{agreed}; 1 % off is noticed"


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
