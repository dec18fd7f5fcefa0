"""The ledger: every equation rendered, proved, executed, tied and weighed; and each of these checks seen to fail."""

import functools
import importlib.util
import itertools
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import sympy
from latex_reader import read_side

from backprop_lib.equations import __main__ as command
from backprop_lib.equations import exercise, work_through
from backprop_lib.equations import verify as verify_labels
from backprop_lib.equations.evaluate import evaluate, settle
from backprop_lib.equations.language import Statement, arrays, as_written, indices, one_if, pair, product, size, total
from backprop_lib.equations.latex import Printer, render
from backprop_lib.equations.ledger import (
    FAMILIES,
    Family,
    LedgerError,
    Run,
    check_derivation,
    check_family,
    check_inner,
    check_labels,
    check_statement,
    coded_value,
    family,
    prove,
    run,
    sound_pair,
)
from backprop_lib.equations.notebooks import check_notebooks, rendered, rewrite, tagged
from backprop_lib.equations.proof import chain_rule, rebuilt, same_formula
from backprop_lib.equations.source import LabelError, labelled_lines, rewritten, scaled
from backprop_lib.gradcheck import relative_error


ROOT = pathlib.Path(__file__).parents[1]
LABELS = [s.label for prefix in FAMILIES for s in family(prefix).statements]
BACKWARD = [s.label for prefix in FAMILIES for p in family(prefix).pairs for s in p.backward if s.label]


def located(of, label):
    return next((p, s) for p in of.pairs for s in p.statements if s.label == label)


def family_of(label):
    return family(label.split("-")[0])


def with_rhs(of, label, change):
    """The family with one ledger entry's right-hand side changed."""
    def edit(s):
        return s._replace(rhs=change(s.rhs)) if s.label == label else s
    pairs = tuple(p._replace(forward=tuple(map(edit, p.forward)), backward=tuple(map(edit, p.backward)))
                  for p in of.pairs)
    return of._replace(pairs=pairs)


def with_code(of, label, change):
    """The family with the code of one labelled line changed: `change` maps its right-hand side to another text."""
    source = pathlib.Path(of.module.__file__).read_text(encoding="utf-8").splitlines()
    line = next(line for line in labelled_lines(of.module) if line.label == label)
    target, sign, rhs = re.match(r"(\w+) (\+?=) (.*)", line.code).groups()
    indent = len(source[line.number - 1]) - len(source[line.number - 1].lstrip())
    source[line.number - 1] = f"{' ' * indent}{target} {sign} {change(rhs)}  # ({label})"
    return of._replace(source="\n".join(source) + "\n")


def check(of, label):
    return check_statement(of, *located(of, label))


@functools.cache
def verdict_of(label):
    """The verdict on an equation as it stands, found once."""
    return check(family_of(label), label)


@pytest.fixture
def checked_once(monkeypatch):
    """check_family with the verdicts that test_statement_code_and_proof_agree has found for each label."""
    def checked(of, of_pair, statement):
        assert (of, of_pair, statement) == (family_of(statement.label), *located(of, statement.label))
        return verdict_of(statement.label)
    monkeypatch.setattr("backprop_lib.equations.ledger.check_statement", checked)


# ------------------------------------------------------------------------------------------------ green

@pytest.mark.parametrize("label", LABELS)
def test_statement_code_and_proof_agree(label):
    verdict = verdict_of(label)
    assert verdict.executed <= 1e-12 and verdict.derived <= 1e-12
    assert verdict.proof == ("formula" if label in BACKWARD else "definition")
    if verdict.change == "1 % off":
        assert 1e-3 < verdict.weight < 0.1                      # 1 % is felt, and felt as about 1 %
    else:
        # a size, or a truth value turned round; a mean over 1 more than kept steps is 1/(kept + 1) off
        of_pair, _ = located(family_of(label), label)
        kept = sound_pair(family_of(label), of_pair, 0).arguments[2].sum() if label == "RNN-21" else None
        assert verdict.weight == pytest.approx(1 / (kept + 1)) if kept else verdict.weight > 0.1


@pytest.mark.parametrize("prefix", FAMILIES)
def test_labels_and_gradients_of_a_family(prefix, checked_once):
    of = family(prefix)
    check_labels(of)
    assert [v.label for v in check_family(of)] == [s.label for s in of.statements]


@pytest.mark.parametrize("label", LABELS)
def test_printed_equation_read_back_gives_the_same_numbers(label):
    """A second reader, with plain loops, computes what the LaTeX says and finds the value of the code."""
    of = family_of(label)
    of_pair, statement = located(of, label)
    this = run(of, of_pair, np.random.default_rng(5), of.sizes[0])
    body = render(statement, of.tex).removeprefix("$$\n").split(r" \tag")[0]
    left, right = body.split(" = ", 1)
    scope = {**this.values, statement.name: np.asarray(coded_value(of_pair, statement, this))}
    letters = [i.name for i in getattr(statement.lhs, "indices", ())]
    sides = [read_side(text, scope, this.sizes, of.tex) for text in (left, right)]
    for point in itertools.product(*(range(this.sizes[letter.rstrip("'").upper()]) for letter in letters)):
        i = dict(zip(letters, point))
        assert sides[0](i) == pytest.approx(sides[1](i), rel=1e-12, abs=1e-14)


def test_the_command_prints_count_worst_error_file_and_line(capsys, monkeypatch, record_property, checked_once):
    """What it prints is handed on, so that a run of all tests ends with it; see conftest.py."""
    monkeypatch.setattr("backprop_lib.equations.ledger.check_inner", lambda of, pair: None)
    command.main([])
    table = capsys.readouterr().out
    record_property("table", table)
    printed = table.splitlines()
    rows = [row for row in printed if row.split()[0] in LABELS]
    assert [row.split()[0] for row in rows] == LABELS
    for row in rows:
        path, number = row.split()[1].split(":")
        assert f"({row.split()[0]})" in (ROOT / path).read_text(encoding="utf-8").splitlines()[int(number) - 1]
    assert f"{len(LABELS)} equations; worst error" in printed[-1]


def test_the_command_is_a_command():
    run = subprocess.run([sys.executable, "-m", "backprop_lib.equations", "?"], capture_output=True, text=True,
                         cwd=ROOT)
    assert run.returncode == 1 and "check every equation and print the table" in run.stderr


# ------------------------------------------------------------------------------------------------ red

@pytest.mark.parametrize("label", LABELS)
def test_wrong_sign_in_a_ledger_entry_is_red(label):
    of = with_rhs(family_of(label), label, lambda rhs: -rhs)
    with pytest.raises(LedgerError, match=rf"\({label}\).*differ"):
        check(of, label)


@pytest.mark.parametrize("label", LABELS)
def test_wrong_sign_in_a_code_line_is_red(label):
    of = with_code(family_of(label), label, lambda rhs: f"-({rhs})")
    with pytest.raises(LedgerError, match=rf"\({label}\).*differ"):
        check(of, label)


@pytest.mark.parametrize("label", BACKWARD)
def test_the_same_wrong_sign_in_ledger_and_code_is_caught_by_sympy(label):
    of = with_code(with_rhs(family_of(label), label, lambda rhs: -rhs), label, lambda rhs: f"-({rhs})")
    with pytest.raises(LedgerError, match=rf"\({label}\).*chain rule"):
        check(of, label)


@pytest.mark.parametrize("label", BACKWARD)
def test_a_wrong_formula_is_not_called_proved(label):
    of_pair, statement = located(family_of(label), label)
    assert not same_formula(of_pair, chain_rule(of_pair, statement.lhs), 2 * statement.rhs)
    assert not same_formula(of_pair, chain_rule(of_pair, statement.lhs), -statement.rhs)


def test_the_same_wrong_derivative_in_ledger_and_code_is_caught_by_sympy():
    """The commonest slip: the derivative of tanh at z instead of at h."""
    n, h = indices("n h")
    dh, z = arrays("dh z")
    of = with_rhs(family("MLP"), "MLP-10", lambda rhs: dh[n, h] * (1 - z[n, h]**2))
    of = with_code(of, "MLP-10", lambda rhs: "dh * (1 - np.arctanh(h)**2)")
    with pytest.raises(LedgerError, match="chain rule"):
        check(of, "MLP-10")


def test_an_unlabelled_line_that_spoils_the_gradient_is_red():
    of = family("MLP")
    bad = rewritten(of.module, "MLP-2", lambda value: value)
    bad.linear_backward = lambda dz, cache, right=bad.linear_backward: tuple(-g for g in right(dz, cache))
    bad.linear_backward.__doc__, bad.linear_backward.__name__ = of.module.linear_backward.__doc__, "linear_backward"
    spoiled = (of.pairs[0]._replace(backward_function=bad.linear_backward), *of.pairs[1:])
    with pytest.raises(LedgerError, match="linear_backward: dx is wrong"):
        list(check_family(of._replace(pairs=spoiled)))


def edited_source(of, old, new):
    source = pathlib.Path(of.module.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1
    return of._replace(source=source.replace(old, new))


@pytest.mark.parametrize("old, new, message", [
    ("# (MLP-3)", "# (MLP-2)", "more than once"),
    ("# (MLP-3)", "# no label", r"missing \['MLP-3'\]"),
    ("# (MLP-33)", "# (MLP-34)", r"missing \['MLP-33'\], unexpected \['MLP-34'\]"),
    ("# (MLP-3)", "# (MLQ-3)", r"unexpected \['MLQ-3'\]"),
])
def test_doubled_missing_and_misnumbered_labels_in_code_are_red(old, new, message):
    with pytest.raises(LabelError, match=message):
        check_labels(edited_source(family("MLP"), old, new))


def test_labels_out_of_order_in_code_are_red():
    of = edited_source(family("MLP"), "# (MLP-3)", "# (MLP-X)")
    of = of._replace(source=of.source.replace("# (MLP-2)", "# (MLP-3)").replace("# (MLP-X)", "# (MLP-2)"))
    with pytest.raises(LabelError, match="expected MLP-2 but read MLP-3"):
        check_labels(of)


@pytest.mark.parametrize("change, message", [
    (lambda s: s[:1] + s[:1] + s[2:], "more than once"),
    (lambda s: s[:1] + s[2:], "missing"),
    (lambda s: (*s[:-1], s[-1]._replace(label="MLP-99")), r"missing \['MLP-4'\], unexpected \['MLP-99'\]"),
    (lambda s: (s[1], s[0], *s[2:]), "number in reading order"),
])
def test_doubled_missing_and_misnumbered_labels_in_the_ledger_are_red(change, message):
    of = family("MLP")
    linear = of.pairs[0]
    statements = change(linear.forward + linear.backward)
    pairs = (linear._replace(forward=tuple(statements[:1]), backward=tuple(statements[1:])), *of.pairs[1:])
    with pytest.raises(LabelError, match=message):
        check_labels(of._replace(pairs=pairs))


@pytest.mark.parametrize("code", ["return z  # (TOY-1)", "z, w = z, z  # (TOY-1)", "z[0] = 1  # (TOY-1)"])
def test_a_label_stands_behind_an_assignment_to_one_name(tmp_path, code):
    module = load(tmp_path, f"def toy_forward(z):\n    {code}\n")
    with pytest.raises(LabelError, match="an assignment to one name"):
        scaled(module, "TOY-1", 2)


def test_unknown_labels_are_named():
    with pytest.raises(LedgerError, match=r"\(MLP-99\) is not in the ledger"):
        verify_labels("MLP-99")
    with pytest.raises(LedgerError, match="no family has the prefix 'XYZ'"):
        verify_labels("XYZ-1")
    with pytest.raises(LabelError, match="no line"):
        scaled(family("MLP").module, "MLP-99", 2)


def test_verify_prints_the_code_line_and_where_it_stands(capsys):
    verify_labels("MLP-1", "MLP-3")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("(MLP-1)  z = x @ W.T + b  [mlp.py:") and "statement = code;" in first
    assert second.startswith("(MLP-3)  dW = dz.T @ x  [mlp.py:") and "SymPy's chain rule" in second


@pytest.mark.parametrize("change, lines", [
    (lambda dx, dW, db: (dx, dW, db), ["dx (MLP-2): right", "dW (MLP-3): right", "db (MLP-4): right"]),
    (lambda dx, dW, db: (dx, -dW, db), ["dx (MLP-2): right", "Not yet (MLP-3): dW is wrong: .* a sign is flipped.",
                                        "db (MLP-4): right"]),
    (lambda dx, dW, db: (dx, dW.T, db / 3), ["dx (MLP-2): right", "Not yet (MLP-3): dW has shape .* looks transposed.",
                                             "Not yet (MLP-4): db is wrong: .* 1/N of a mean .*"]),
    (lambda dx, dW, db: (dx, dW), ["Not yet: check_gradients: backward returned 2 of 3 gradients; .*"]),
    (lambda dx, dW, db: None, ["Not yet: .* last line should be: return dx, dW, db"]),
    (lambda dx, dW, db: (dx @ dW.T.T, dW, db), [r"Not yet: inside your function: .*\(3, 11\).*\(11, 7\).*"]),
])
def test_an_exercise_says_which_equation_is_broken(capsys, change, lines):
    mlp = family("MLP").module
    exercise(mlp.linear_forward, lambda dz, cache: change(*mlp.linear_backward(dz, cache)))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(lines)
    for line, pattern in zip(printed, lines):
        assert re.fullmatch(pattern.replace("(MLP", r"\(MLP").replace("):", r"\):"), line), line


def test_an_exercise_with_the_readers_own_functions(capsys):
    exercise(lambda x: (x**3, x), lambda dy, x: dy * 3 * x**2, np.arange(1.0, 5.0))
    exercise(lambda x: (np.abs(x), x), lambda dy, x: dy * np.sign(x), np.arange(1.0, 5.0))
    right, refused = capsys.readouterr().out.splitlines()
    assert right == "dx: right" and "np.abs" in refused


def test_checks_leave_the_library_as_it_was():
    module = family("MLP").module
    before = (pathlib.Path(module.__file__).read_bytes(), dict(vars(module)))
    check(family("MLP"), "MLP-3")
    assert (pathlib.Path(module.__file__).read_bytes(), dict(vars(module))) == before
    x = np.ones((1, 1))
    assert module.linear_forward(x, x, x[0])[0] == 2 and scaled(module, "MLP-1", 3).linear_forward(x, x, x[0])[0] == 6


# ------------------------------------------------------------------------------------------------ notebooks

def notebook(path, *texts):
    cells = [{"cell_type": "markdown", "id": f"c{i}", "metadata": {}, "source": text.splitlines(keepends=True)}
             for i, text in enumerate(texts)]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def small_ledger():
    return {label: block for label, block in rendered().items() if label in ("MLP-1", "MLP-2")}


def test_the_notebooks_show_every_equation_once_in_order():
    check_notebooks(sorted((ROOT / "notebooks").glob("*.ipynb")), rendered())


def test_a_stale_block_is_red_and_rewritten(tmp_path):
    blocks = small_ledger()
    stale = blocks["MLP-2"].replace("W_{hd}", "W_{dh}")
    path = notebook(tmp_path / "a.ipynb", f"We say $a$ and $$b$$ first.\n\n{blocks['MLP-1']}\n", f"text\n\n{stale}\n")
    with pytest.raises(LabelError, match=r"block of \(MLP-2\) is not what the ledger prints"):
        check_notebooks([path], blocks)
    assert rewrite(path, blocks) == ["MLP-2"] and rewrite(path, blocks) == []
    check_notebooks([path], blocks)
    assert [label for label, _ in tagged(path)] == ["MLP-1", "MLP-2"]
    assert "$$b$$ first" in path.read_text()


@pytest.mark.parametrize("labels, message", [
    (["MLP-1"], r"missing or extra \['MLP-2'\]"),
    (["MLP-1", "MLP-1", "MLP-2"], r"read \(MLP-1\) where \(MLP-2\) was expected"),
    (["MLP-2", "MLP-1"], r"read \(MLP-2\) where \(MLP-1\) was expected"),
    (["MLP-1", "MLP-2", "MLP-2"], "repeated labels"),
])
def test_missing_doubled_and_misordered_blocks_are_red(tmp_path, labels, message):
    blocks = small_ledger()
    path = notebook(tmp_path / "a.ipynb", *(blocks[label] for label in labels))
    with pytest.raises(LabelError, match=message):
        check_notebooks([path], blocks)


@pytest.mark.parametrize("text", [
    "$$\\tag{MLP-2} x = 17$$", "$$ x = 1 \\tag{MLP-2}. $$", "$$ x = 1 \\tag*{MLP-2} $$",
    "$$ x = 1 \\tag {MLP-2} $$",
    "\\[ x = 1 \\tag{MLP-2} \\]", "\\begin{equation} x \\tag{MLP-99} \\end{equation}",
    "<!--\n\nBLOCK\n\n-->", "```\n\nBLOCK\n\n```", "~~~\n\nBLOCK\n\n~~~", "$\\def\\sum{\\prod}$\n\nBLOCK",
    "    BLOCK", "text\nBLOCK", "BLOCK\ntext", "`BLOCK`", "$$\n\nBLOCK", "~~\n\nBLOCK\n\n~~",
])
def test_a_tag_that_a_reader_would_not_see_as_the_ledgers_block_is_red(tmp_path, text):
    blocks = small_ledger()
    path = notebook(tmp_path / "a.ipynb", blocks["MLP-1"], text.replace("BLOCK", blocks["MLP-2"]), blocks["MLP-2"])
    with pytest.raises(LabelError):
        check_notebooks([path], blocks)


@pytest.mark.parametrize("text", ["as MLP-99 says", "see (MLP-1, MLP-99)", "(eq. MLP-99)"])
def test_unknown_labels_in_any_spelling_are_red(tmp_path, text):
    blocks = small_ledger()
    with pytest.raises(LabelError, match="MLP-99"):
        check_notebooks([notebook(tmp_path / "a.ipynb", *blocks.values(), text)], blocks)


def test_unknown_labels_in_a_notebook_are_red(tmp_path):
    blocks = small_ledger()
    both = "\n\n".join(blocks.values())
    path = notebook(tmp_path / "a.ipynb", both, "as (MLP-77) says")
    with pytest.raises(LabelError, match="MLP-77"):
        check_notebooks([path], blocks)
    path = notebook(tmp_path / "b.ipynb", both, "$$ x = 1 \\tag{MLP-78} $$")
    with pytest.raises(LabelError, match="MLP-78"):
        check_notebooks([path], blocks)
    with pytest.raises(LabelError, match="MLP-78"):
        rewrite(path, blocks)


# ------------------------------------------------------------------------------------------------ a family to come

CONV = '''
from typing import NamedTuple
import numpy as np

class Conv1dCache(NamedTuple):
    x: np.ndarray
    w: np.ndarray

STRIDE, PADDING, DILATION = 2, 3, 2

def columns(x, R, Q):
    """x (N, C, J) gathered at j = STRIDE q + DILATION r - PADDING, zero outside."""
    j = STRIDE * np.arange(Q) + DILATION * np.arange(R)[:, None] - PADDING
    inside = (j >= 0) & (j < x.shape[2])
    return np.where(inside, x[:, :, np.clip(j, 0, x.shape[2] - 1)], 0)

def conv1d_forward(x, w, b):
    """One-dimensional cross-correlation.

    Shapes: x (N, C, J), w (F, C, R), b (F) -> y (N, F, Q)
    """
    Q = (x.shape[2] + 2 * PADDING - DILATION * (w.shape[2] - 1) - 1) // STRIDE + 1
    y = np.einsum("ncrq,fcr->nfq", columns(x, w.shape[2], Q), w) + b[:, None]   # (TOY-1)
    return y, Conv1dCache(x, w)

def conv1d_backward(dy, cache):
    """Shapes: dy (N, F, Q) -> dx (N, C, J), dw (F, C, R), db (F)"""
    x, w = cache
    R, Q, J = w.shape[2], dy.shape[2], x.shape[2]
    j = STRIDE * np.arange(Q) + DILATION * np.arange(R)[:, None] - PADDING
    hit = (j[..., None] == np.arange(J)).astype(float)
    dx = np.einsum("nfq,fcr,rqj->ncj", dy, w, hit)              # (TOY-2)
    dw = np.einsum("nfq,ncrq->fcr", dy, columns(x, R, Q))       # (TOY-3)
    db = dy.sum(axis=(0, 2))                                    # (TOY-4)
    return dx, dw, db
'''


def load(tmp_path, source):
    path = tmp_path / "toy.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("toy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def conv_family(tmp_path):
    """Stride 2, padding 3, dilation 2, channels: a strided, dilated, padded convolution in the ledger's language."""
    module = load(tmp_path, CONV)
    n, c, f, j, r, q = indices("n c f j r q")
    x, w, b, y, dx, dw, db, dy = arrays("x w b y dx dw db dy")
    with as_written():
        at = 2 * q + 2 * r - 3
        statements = pair(
            module.conv1d_forward, module.conv1d_backward,
            [("TOY-1", y[n, f, q], total(w[f, c, r] * x[n, c, at], c, r) + b[f])],
            [("TOY-2", dx[n, c, j], total(dy[n, f, q] * w[f, c, r] * one_if(sympy.Eq(j, at)), f, q, r)),
             ("TOY-3", dw[f, c, r], total(dy[n, f, q] * x[n, c, at], n, q)),
             ("TOY-4", db[f], total(dy[n, f, q], n, q))])
    return Family("TOY", module, (statements,), {}, ({"N": 2, "C": 3, "F": 5, "J": 11, "R": 3, "Q": 7},
                                                {"N": 3, "C": 5, "F": 7, "J": 13, "R": 2, "Q": 9}))


def test_strided_dilated_padded_convolution_fits_the_ledger(conv_family):
    verdicts = list(check_family(conv_family))
    assert [v.proof for v in verdicts] == ["definition", "formula", "formula", "formula"]
    assert max(v.executed for v in verdicts) < 1e-15 and min(v.weight for v in verdicts) > 1e-3
    text = render(conv_family.statements[1], {})
    assert text == ("$$\n\\frac{\\partial L}{\\partial x_{ncj}} = \\sum_{f, q, r} "
                    "\\frac{\\partial L}{\\partial y_{nfq}}\\, w_{fcr}\\, [j = 2\\, q + 2\\, r - 3] \\tag{TOY-2}\n$$")


@pytest.mark.parametrize("wrong", [2, 4])
def test_a_wrong_padding_in_the_convolution_is_red(conv_family, wrong):
    n, f, q, j, r, c = indices("n f q j r c")
    dy, w = arrays("dy w")
    at = 2 * q + 2 * r - wrong
    bad = with_rhs(conv_family, "TOY-2",
                   lambda rhs: total(dy[n, f, q] * w[f, c, r] * one_if(sympy.Eq(j, at)), f, q, r))
    with pytest.raises(LedgerError, match="differ"):
        check(bad, "TOY-2")


DEAD = '''
from typing import NamedTuple
import numpy as np

class ToyCache(NamedTuple):
    x: np.ndarray

def toy_forward(x):
    """Doubles.

    Shapes: x (N, D) -> y (N, D)
    """
    y = 2 * x                                                   # (TOY-1)
    s = x + 1                                                   # (TOY-2)
    return y, ToyCache(x)

def toy_backward(dy, cache):
    """Shapes: dy (N, D) -> dx (N, D)"""
    dx = 2 * dy                                                 # (TOY-3)
    return dx
'''


def test_an_equation_nothing_depends_on_is_red(tmp_path):
    module = load(tmp_path, DEAD)
    n, d = indices("n d")
    x, y, s, dx, dy = arrays("x y s dx dy")
    toy = pair(module.toy_forward, module.toy_backward,
               [("TOY-1", y[n, d], 2 * x[n, d]), ("TOY-2", s[n, d], x[n, d] + 1)], [("TOY-3", dx[n, d], 2 * dy[n, d])])
    of = Family("TOY", module, (toy,), {})
    assert check(of, "TOY-1").weight > 1e-3
    with pytest.raises(LedgerError, match=r"\(TOY-2\): nothing depends on it"):
        check(of, "TOY-2")


# ------------------------------------------------------------------------------------------------ without a gradient

AVERAGE = '''
def average(old, new):
    """Something through which nothing is backpropagated.

    Shapes: old (D), new (D) -> mean (D)
    """
    {code}
    {dead}
    return {mean}
'''


@pytest.mark.parametrize("change, label, message", [
    ({}, "AVG-1", None),
    (dict(code="mean = (2 * old + new) / 3  # (AVG-1)"), "AVG-1", "statement and code of mean differ"),
    (dict(mean="mean + old"), "AVG-1", "statement and returned value of mean differ"),
    ({}, "AVG-2", "nothing depends on it"),
])
def test_a_function_without_a_gradient_is_executed_and_weighed(tmp_path, change, label, message):
    lines = {"code": "mean = (old + new) / 2  # (AVG-1)", "dead": "spare = old - new  # (AVG-2)", "mean": "mean"}
    module = load(tmp_path, AVERAGE.format(**lines | change))
    d, = indices("d,")
    old, new, mean, spare = arrays("old new mean spare")
    statements = [("AVG-1", mean[d], (old[d] + new[d]) / 2), ("AVG-2", spare[d], old[d] - new[d])]
    pairs = pair(module.average, None, statements, [])
    of = Family("AVG", module, (pairs,), {})
    if message is None:
        verdict = check(of, label)
        assert verdict.proof == "definition" and verdict.weight > 1e-3
    else:
        with pytest.raises(LedgerError, match=rf"\({label}\).*{message}"):
            check(of, label)


# ------------------------------------------------------------------------------------------------ an adversary's finds

TOY = '''
from typing import NamedTuple
import numpy as np

class ToyCache(NamedTuple):
    x: np.ndarray

def toy_forward(x):
    """Something smooth.

    Shapes: x (N, D) -> y (N, D)
    """
    {forward}
    return {y}, ToyCache(x)

def toy_backward(dy, cache):
    """Shapes: dy (N, D) -> dx (N, D)"""
    x, = cache
    {backward}
    return {dx}
'''


def toy_family(tmp_path, forward="y = x**3  # (TOY-1)", backward="dx = dy * 3 * x**2  # (TOY-2)", y="y", dx="dx"):
    module = load(tmp_path, TOY.format(forward=forward, backward=backward, y=y, dx=dx))
    n, d = indices("n d")
    x, dx, dy, y = arrays("x dx dy y")
    toy = pair(module.toy_forward, module.toy_backward,
               [("TOY-1", y[n, d], x[n, d]**3)], [("TOY-2", dx[n, d], dy[n, d] * 3 * x[n, d]**2)])
    return Family("TOY", module, (toy,), {})


def test_the_toy_family_is_right(tmp_path):
    assert [v.proof for v in check_family(toy_family(tmp_path))] == ["definition", "formula"]


@pytest.mark.parametrize("change, label, message", [
    (dict(y="1.5 * y + 7", dx="1.5 * dx"), "TOY-1", "statement and returned value of y differ"),
    (dict(y="1.5 * y + 7", dx="1.5 * dx"), "TOY-2", "statement and returned value of dx differ"),
    (dict(dx="-dx"), "TOY-2", "statement and returned value of dx differ"),
    (dict(backward="dx = (dy * 3 * x**2).copy()  # (TOY-2)\n    dx[x < 0] = 0"), "TOY-2", "value of dx differ"),
    (dict(backward="e = dy * 3 * x**2  # (TOY-2)\n    dx = e"), "TOY-2", "it defines dx, the code line is e ="),
    (dict(forward="y = x**3  # (TOY-1)\n    y = y + 0 * x"), "TOY-1", None),
])
def test_what_is_returned_and_what_is_labelled_must_be_the_statement(tmp_path, change, label, message):
    of = toy_family(tmp_path, **change)
    if message is None:
        assert check(of, label).weight > 1e-3
    else:
        with pytest.raises(LedgerError, match=rf"\({label}\).*{message}"):
            check(of, label)


def test_the_line_that_is_shown_is_the_line_that_is_checked(tmp_path):
    for forward in ["y = x**3; y = 1 * y  # (TOY-1)", "y = w = x**3  # (TOY-1)"]:
        with pytest.raises(LabelError, match="an assignment to one name"):
            check(toy_family(tmp_path, forward=forward), "TOY-1")
    of = toy_family(tmp_path, forward="y = (x\n         * x\n         * x)  # (TOY-1)")
    assert check(of, "TOY-1").line.code == "y = (x * x * x)"


def test_a_label_in_another_function_is_red(tmp_path):
    of = toy_family(tmp_path, forward="y = cube(x)")
    of.module.__dict__["cube"] = None
    path = pathlib.Path(of.module.__file__)
    path.write_text(path.read_text() + "\ndef cube(x):\n    y = x**3  # (TOY-1)\n    return y\n")
    with pytest.raises(LedgerError, match=r"\(TOY-1\): its line stands in cube, not in toy_forward"):
        check(of, "TOY-1")


def test_a_wrong_unlabelled_line_is_red_for_every_label(tmp_path):
    """Cache and code agree with the statement here; only the gradient check of the pair can tell."""
    of = toy_family(tmp_path, forward="y = x**3  # (TOY-1)\n    x = x + 0.1")
    with pytest.raises(LedgerError, match="differ|gradient check"):
        check(of, "TOY-2")


@pytest.mark.parametrize("label, wrong", [
    ("MLP-1", lambda a, i: total(a("W")[i("h"), i("h'")] * a("x")[i("n"), i("h'")], i("h'")) + a("b")[i("h")]),
    ("MLP-3", lambda a, i: total(a("dz")[i("k"), i("h")] * a("x")[i("k"), i("d")], i("k"))),
    ("MLP-4", lambda a, i: total(a("dz")[i("d"), i("h")], i("d"))),
])
def test_a_sum_over_a_longer_axis_is_red(label, wrong):
    """Outside an array reads 0, so the numbers would agree."""
    of = with_rhs(family("MLP"), label, lambda rhs: wrong(lambda n: arrays(n)[0], lambda n: indices(n)[0]))
    with pytest.raises(ValueError, match="but the axis has"):
        check(of, label)


def test_one_size_cannot_stand_for_a_combination_of_others():
    n, k = indices("n k")
    N, K, D, H = map(size, indices("n k d h"))
    y, t = arrays("y t")
    for fake in (15, N * (N + 2), D + H - N):
        of = with_rhs(family("MLP"), "MLP-5", lambda rhs, fake=fake: total((y[n, k] - t[n, k])**2, n, k) / fake)
        with pytest.raises(LedgerError, match="differ"):
            check(of, "MLP-5")


@pytest.mark.parametrize("label, code", [("MLP-12", "np.where(z.real < 0, 0, dh)"),
                                         ("MLP-20", "np.where(z.real >= 0, dh, alpha * dh)"),
                                         ("MLP-31", "dloss * lam * np.where(W >= 0, 1.0, -1.0)")])
def test_another_choice_at_the_kink_is_red(label, code):
    with pytest.raises(LedgerError, match="differ"):
        check(with_code(family("MLP"), label, lambda rhs: code), label)


def test_a_letter_with_two_meanings_is_red():
    n, k = indices("n k")
    dp, p, z = arrays("dp p z")
    for label, rhs in [("MLP-14", p[n, k] * (dp[n, k] - total(dp[n, k] * p[n, k], k))),
                       ("MLP-13", sympy.exp(z[n, k]) / total(sympy.exp(z[n, k]), k))]:
        with pytest.raises(LedgerError, match="one already has a meaning"):
            check(with_rhs(family("MLP"), label, lambda _, rhs=rhs: rhs), label)
    with pytest.raises(LedgerError, match="one already has a meaning"):
        check(with_rhs(family("MLP"), "MLP-4", lambda _: total(total(z[n, k], n), n)), "MLP-4")


def test_numbers_without_a_formula_are_not_proof(monkeypatch):
    monkeypatch.setattr("backprop_lib.equations.ledger.same_formula", lambda *_: False)
    with pytest.raises(LedgerError, match="not the same formula"):
        check(family("MLP"), "MLP-3")
    assert check(family("MLP")._replace(by_numbers=("MLP-3",)), "MLP-3").proof == "numbers"


def test_a_name_defined_twice_is_red():
    of = family("MLP")
    linear = of.pairs[0]
    n, h = indices("n h")
    dz, = arrays("dz")
    doubled = linear._replace(backward=(Statement("MLP-2", dz[n, h], 2 * dz[n, h]), *linear.backward[1:]))
    of = with_code(of._replace(pairs=(doubled, *of.pairs[1:])), "MLP-2", lambda rhs: "2 * dz")
    source = of.source.replace("dx = 2 * dz", "dz = 2 * dz").replace("return dx, dW, db", "return dz @ W, dW, db", 1)
    of = of._replace(source=source)
    with pytest.raises(LedgerError, match="dz is given or defined already"):
        check(of, "MLP-2")


def test_bound_indices_are_told_apart_however_deep_the_sums():
    n, c, f = indices("k k' k''")
    u, w, v, y = arrays("u w v y")

    def forward(u, w, v):
        """Shapes: u (K, K, K), w (K, K), v (K) -> y (K)"""

    dummy = pair(forward, None, [("R-1", y[n], v[n])], [])
    left = total(u[n, c, f] * w[n, f] * v[c], n, c, f)
    assert not same_formula(dummy, left, total(u[n, c, f] * w[c, f] * v[c], n, c, f))
    assert not same_formula(dummy, left, total(u[n, c, f] * w[n, f] * v[n], n, c, f))
    assert same_formula(dummy, left, total(v[n] * w[f, c] * u[f, n, c], c, n, f))
    assert same_formula(dummy, left, total(w[n, f] * total(v[c] * u[n, c, f], c), f, n))
    assert same_formula(dummy, total(u[n, c, f], n, c, f), total(u[f, n, c], c, f, n))
    assert not same_formula(dummy, total(u[n, c, f] * u[c, n, f], n, c, f), total(u[n, c, f]**2, n, c, f))


def test_a_delta_inside_an_inner_sum_is_collapsed():
    """sum_v g_v sum_t [v = c_t] a_vt = sum_t g_{c_t} a_{c_t t}: two finite sums may be exchanged."""
    n, t, s, v, u = indices("n t t' v v'")
    a, g, c, y = arrays("a g c y")

    def forward(a, g, c):
        """Shapes: a (V, T), g (V), c (T) -> y (V)"""

    dummy = pair(forward, None, [("R-1", y[v], g[v])], [])
    left = total(g[v] * total(one_if(sympy.Eq(v, c[t])) * a[v, t], t), v)
    assert same_formula(dummy, left, total(g[c[t]] * a[c[t], t], t))
    assert same_formula(dummy, total(total(one_if(sympy.Eq(v, c[t])), t), v), total(sympy.S.One, t))
    for wrong in (g[c[t]] * a[c[t], t], total(a[c[t], t], t), total(g[c[t]] * a[v, t], t), total(g[c[t]], t),
                  total(g[c[s]] * a[c[t], t], s, t), total(g[c[t]] * a[c[t], t], t, s), total(g[v], v)):
        assert not same_formula(dummy, left, wrong)
    beside = total(total(one_if(sympy.Eq(v, c[t])) * a[v, t], t) * total(a[v, s]**2, s), v)
    assert same_formula(dummy, beside, total(a[c[t], t] * a[c[t], s]**2, t, s))
    other = total(g[v] * total(one_if(sympy.Eq(u, c[t])) * a[v, t], t), v)          # a delta of u: the sum over v stays
    assert same_formula(dummy, other, total(one_if(sympy.Eq(u, c[t])) * total(g[v] * a[v, t], v), t))
    assert not same_formula(dummy, other, total(g[u] * a[u, t], t))
    assert not same_formula(dummy, other, total(one_if(sympy.Eq(u, c[t])) * g[u] * a[u, t], t))


def test_time_is_an_index_in_the_proof():
    """h_t feeds the loss and z_{t+1}: SymPy's chain rule finds both contributions."""
    n, t, h, k = indices("n t h h'")
    x, W, z, a, dz, dh, dy = arrays("x W z h dz dh dy")

    def forward(x, W):
        """Shapes: x (N, T, H), W (H, H) -> h (N, T, H)"""

    recurrence = pair(forward, None,
                      [("R-1", z[n, t, h], x[n, t, h] + total(W[h, k] * a[n, t - 1, k], k)),
                       ("R-2", a[n, t, h], sympy.tanh(z[n, t, h]))],
                      [("R-3", dh[n, t, h], dy[n, t, h] + total(dz[n, t + 1, k] * W[k, h], k)),
                       ("R-4", dz[n, t, h], dh[n, t, h] * (1 - a[n, t, h]**2)),
                       ("R-5", arrays("dW")[0][h, k], total(dz[n, t, h] * a[n, t - 1, k], n, t))],
                      external={"h": "dy"})
    for statement in recurrence.backward:
        assert same_formula(recurrence, chain_rule(recurrence, statement.lhs), statement.rhs), statement.label
    forgotten = Statement("R-3", dh[n, t, h], dy[n, t, h])
    assert not same_formula(recurrence, chain_rule(recurrence, forgotten.lhs), forgotten.rhs)


# ------------------------------------------------------------------------------------------------ what is remembered

def test_nothing_remembered_is_served_for_something_else(tmp_path):
    of = toy_family(tmp_path)
    n, d = indices("n d")
    x, dy = arrays("x dy")
    for _ in range(2):
        assert check(of, "TOY-2").proof == "formula"
        for wrong in (with_rhs(of, "TOY-2", lambda rhs: -rhs), with_rhs(of, "TOY-1", lambda rhs: x[n, d]**2),
                      with_code(of, "TOY-2", lambda rhs: f"-({rhs})"),
                      edited_source(of, "x, = cache", "x = cache.x + 1"),
                      of._replace(pairs=(of.pairs[0]._replace(external={"y": "x"}),))):
            with pytest.raises(LedgerError):
                check(wrong, "TOY-2")
    path = pathlib.Path(of.module.__file__)
    path.write_text(path.read_text().replace("return y,", "x = 2 * x; return y,"))      # behind the ledger's back
    with pytest.raises(LedgerError, match="differ"):
        check(of, "TOY-2")


def test_a_gradient_check_is_remembered_for_its_own_source_only(tmp_path):
    of = toy_family(tmp_path)
    check(of, "TOY-1")
    with pytest.raises(LedgerError, match="toy_backward fails its gradient check"):
        check(edited_source(of, "# (TOY-2)\n    return dx", "# (TOY-2)\n    dx[0, 0] = 0\n    return dx"), "TOY-1")
    assert check(of, "TOY-1").weight > 1e-3


def test_a_value_is_remembered_for_its_own_inputs_only():
    n, k = indices("n k")
    z, = arrays("z")
    values = {"z": np.arange(3.0)}
    assert evaluate(total(z[n], n), values, {"N": 3}) == 3
    evaluate(z[n], values, {"N": 3}, [n])[:] = 7                # what is handed out is a copy
    assert evaluate(z[n], values, {"N": 3}, [n]).tolist() == [0, 1, 2]
    values["z"][0] = 5
    assert evaluate(total(z[n], n), values, {"N": 3}) == 8
    assert evaluate(total(z[n], n, k), values, {"N": 3, "K": 4}) == 32
    assert evaluate(total(z[n], n, k), values, {"N": 3, "K": 5}) == 40


# ------------------------------------------------------------------------------------------------ the evaluator

SIZES = {"N": 2, "C": 3, "F": 5, "J": 11, "R": 3, "Q": 7, "K": 5, "T": 4}


def test_evaluator_reads_zero_outside_an_array_on_both_sides():
    j, = indices("j")
    x, = arrays("x")
    values = {"x": np.arange(1.0, 12.0)}
    assert evaluate(x[j - 2], values, SIZES, [j]).tolist() == [0, 0, *range(1, 10)]
    assert evaluate(x[j + 2], values, SIZES, [j]).tolist() == [*range(3, 12), 0, 0]


@pytest.mark.parametrize("stride, dilation, padding", [(1, 1, 0), (2, 1, 1), (3, 2, 4), (1, 3, 2)])
def test_evaluator_convolves_as_loops_do(stride, dilation, padding):
    rng = np.random.default_rng(0)
    n, c, f, q, r = indices("n c f q r")
    x, w = arrays("x w")
    values = {"x": rng.standard_normal((2, 3, 11)), "w": rng.standard_normal((5, 3, 3))}
    expression = total(w[f, c, r] * x[n, c, stride * q + dilation * r - padding], c, r)
    expected = np.zeros((2, 5, 7))
    for at in np.ndindex(2, 5, 7, 3, 3):
        N, F, Q, C, R = at
        J = stride * Q + dilation * R - padding
        expected[N, F, Q] += values["w"][F, C, R] * values["x"][N, C, J] if 0 <= J < 11 else 0
    np.testing.assert_allclose(evaluate(expression, values, SIZES, [n, f, q]), expected, rtol=1e-13, atol=1e-13)


def test_evaluator_keeps_inner_and_outer_uses_of_a_letter_apart():
    k, k2 = indices("k k'")
    z, = arrays("z")
    values = {"z": np.array([0.3, -1.0, 2.0, 0.5, 0.1])}
    softmax = sympy.exp(z[k]) / total(sympy.exp(z[k2]), k2)
    assert evaluate(total(softmax, k), values, SIZES) == pytest.approx(1)
    nested = total(z[k2] * total(z[k2], k2), k2)
    assert evaluate(nested, values, SIZES) == pytest.approx(values["z"].sum()**2)


def test_evaluator_sums_what_lacks_the_index_as_often_as_the_index_runs():
    k, n = indices("k n")
    z, = arrays("z")
    values = {"z": np.array([1.0, 2.0])}
    assert evaluate(total(1, k), values, SIZES) == 5
    assert evaluate(total(z[n], k), values, SIZES, [n]).tolist() == [5, 10]
    assert evaluate(z[n], values, {"N": 2, "K": 3}, [k, n]).tolist() == [[1, 2]] * 3
    assert evaluate(z[n], values, {"N": 2, "K": 3}, [n, k]).tolist() == [[1] * 3, [2] * 3]


def test_evaluator_gathers_at_an_array_of_classes_and_compares():
    n, k = indices("n k")
    p, t = arrays("p t")
    values = {"p": np.arange(10.0).reshape(2, 5), "t": np.array([3, 0])}
    assert evaluate(p[n, t[n]], values, SIZES, [n]).tolist() == [3, 5]
    assert evaluate(one_if(sympy.Eq(k, t[n])), values, SIZES, [n, k]).tolist() == [[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]
    assert evaluate(one_if(p[n, k] > 4), values, SIZES, [n, k]).tolist() == [[0] * 5, [1] * 5]


def test_evaluator_refuses_indices_that_make_no_sense():
    n, k = indices("n k")
    p, t = arrays("p t")
    values = {"p": np.arange(10.0).reshape(2, 5), "t": np.arange(2.0), "n": np.ones(3)}
    with pytest.raises(ValueError, match="k runs to 5, but the axis has 2"):
        evaluate(total(p[k, k], k), values, SIZES)
    with pytest.raises(ValueError, match="not a whole number"):
        evaluate(p[n, n + sympy.Rational(1, 2)], values, SIZES, [n])
    with pytest.raises(ValueError, match="stands without indices"):
        evaluate(sympy.Symbol("p", real=True), values, SIZES)
    with pytest.raises(KeyError):
        evaluate(t[indices("t")[0]], values, {"N": 2})          # the letter t is not the array t


def test_gates_stacked_in_one_array_are_read_with_one_letter():
    h, k = indices("h k")
    z, = arrays("z")
    values, sizes = {"z": np.arange(8.0)}, {"H": 2, "K": 3}
    assert evaluate(z[h], values, sizes, [h]).tolist() == [0, 1]
    assert evaluate(z[size(h) + h] * z[3 * size(h) + h], values, sizes, [h]).tolist() == [12, 21]
    with pytest.raises(ValueError, match="k runs to 3, but the axis has 8"):
        evaluate(z[k], values, sizes, [k])


def test_evaluator_has_room_for_many_sums_one_after_the_other():
    k, = indices("k")
    z, = arrays("z")
    values = {"z": np.arange(5.0)}
    assert evaluate(sum(total(z[k]**i, k) for i in range(1, 70)), values, SIZES) > 0


def test_evaluator_refuses_what_it_does_not_know():
    k, = indices("k")
    z, = arrays("z")
    values = {"z": np.ones((2, 3))}
    with pytest.raises(ValueError, match="1 indices, the array has 2 axes"):
        evaluate(z[k], values, SIZES, [k])
    with pytest.raises((TypeError, KeyError)):
        evaluate(sympy.gamma(z[k, k]), values, SIZES, [k])
    with pytest.raises(KeyError):
        evaluate(sympy.Symbol("unheard_of"), values, SIZES)


# ------------------------------------------------------------------------------------------------ the printer

def test_printer_keeps_the_order_typed_and_sets_parentheses_where_meaning_needs_them():
    n, d, h = indices("n d h")
    a, b, c = arrays("a b c")
    show = Printer({"mask": "m"})
    with as_written():
        cases = {
            r"b_{n}\, a_{n}": b[n] * a[n],
            r"-a_{n} - b_{n}": -a[n] - b[n],
            r"a_{n} - \left( b_{n} - c_{n} \right)": a[n] - (b[n] - c[n]),
            r"-\left( a_{n} + b_{n} \right)": -(a[n] + b[n]),
            r"\left( a_{n} + b_{n} \right)\, c_{n}": (a[n] + b[n]) * c[n],
            r"\left( \sum_{n} a_{n} \right)\, b_{d}": total(a[n], n) * b[d],
            r"b_{d}\, \sum_{n} a_{n}": b[d] * total(a[n], n),
            r"\sum_{n} \left( a_{n} + b_{n} \right)": total(a[n] + b[n], n),
            r"\sum_{n, d} a_{nd}": total(a[n, d], n, d),
            r"\left( \log a_{n} \right)\, b_{n}": sympy.log(a[n]) * b[n],
            r"\left( a_{n} + 1 \right)^{2}": (a[n] + 1)**2,
            r"\frac{a_{n} + 1}{b_{n} - 1}": (a[n] + 1) / (b[n] - 1),
            r"a_{n, 2\, d + h - 1}": a[n, 2 * d + h - 1],
            r"e^{-a_{n}}": sympy.exp(-a[n]),
        }
    for expected, expression in cases.items():
        assert show(expression) == expected


def test_printer_and_reader_agree_where_precedence_is_easily_lost():
    n, d = indices("n d")
    a, b, c = arrays("a b c")
    rng = np.random.default_rng(3)
    values = {name: rng.uniform(0.5, 2, 4) for name in "abc"}
    sizes = {"N": 4, "D": 4}
    with as_written():
        cases = [a[n] * sympy.log(b[n]) * c[n], a[n] * sympy.tanh(b[n]) * c[n] * (1 - c[n]),
                 total(a[d] * b[d], d) * c[n] * 2, (a[n] * sympy.log(b[n])) / c[n], (a[n]**2)**3, sympy.exp(a[n])**2,
                 2 * (3 * a[n]), -(a[n] - b[n])**2, -a[n] * -b[n], a[n] / (b[n] / c[n]), a[n] - (b[n] - (c[n] - 1)),
                 sympy.exp(a[n] + b[n]) * c[n], sympy.log(a[n] * b[n]) + c[n], (a[n] + b[n]) / (a[n] - 3) * c[n],
                 sympy.Rational(1, 2) * a[n] * total(sympy.exp(b[d]), d) / c[n], 1 / a[n]**2,
                 sympy.sign(a[n] - 1) * c[n],
                 sympy.Max(0, a[n] - 1) * b[n], sympy.Abs(a[n] - b[n]) * c[n], -total(a[d], d) - b[n], (-a[n])**3,
                 a[n] * (total(b[d], d) * c[n]), sympy.log(sympy.log(1 + a[n])) * b[n]]
    for e in cases:
        latex = Printer({})(e)
        assert not re.search(r"\}\^\{[^}]*\}\^", latex), latex          # MathJax refuses a double exponent
        compute = read_side(latex, values, sizes, {})
        expected = evaluate(e, values, sizes, [n])
        assert [compute({"n": i}) for i in range(4)] == pytest.approx(expected.tolist(), rel=1e-12), latex


def test_printer_refuses_what_it_could_only_print_ambiguously():
    t, = indices("t")
    b, = arrays("b")
    with pytest.raises(ValueError, match="only sums over a whole axis"):
        Printer({})(sympy.Sum(b[t], (t, 1, size(t) - 1)))
    for tex in ({"W_ih": "W", "W_hh": "W"}, {"W_ih": "W_{ih}"}):
        with pytest.raises(ValueError, match="TEX"):
            Printer(tex)
    d, d2 = indices("d d'")
    assert Printer({})(b[d2] * b[d]) in (r"b_{d}\, b_{d'}", r"b_{d'}\, b_{d}")


def test_printer_refuses_unset_names_and_unknown_functions():
    with pytest.raises(ValueError, match="name 'carry'"):
        Printer({})(arrays("carry")[0][indices("n")[0]])
    with pytest.raises(TypeError, match="no rule for gamma"):
        Printer({})(sympy.gamma(sympy.Symbol("a")))


def test_blocks_render_everywhere():
    for label, block in rendered().items():
        assert block.startswith("$$\n") and block.endswith(f"\\tag{{{label}}}\n$$") and block.count("$$") == 2
        assert not any(word in block for word in (r"\label", r"\eqref", r"\operatorname", r"\newcommand"))


def test_sizes_of_letters():
    assert [size(i).name for i in indices("k k' n")] == ["K", "K", "N"]


# ------------------------------------------------------------------------------------------------ convolution: guards

@pytest.mark.parametrize("label, old, new", [
    pytest.param("CNN-25", "R*S - k, 0)", "1 + k, 0)", id="last of equal maxima"),
    pytest.param("CNN-25", "R*S - k, 0)", "1, 0)", id="every one of equal maxima"),
    pytest.param("CNN-25", "np.arange(R*S).reshape(R, S)", "np.arange(R*S).reshape(S, R).T", id="column by column"),
    pytest.param("CNN-26", "np.where(inside, taps, -np.inf).real", "taps.real", id="padding wins"),
    pytest.param("CNN-28", "np.maximum(taps_inside(x, options), count_include_pad)",
                 "np.maximum(taps_inside(x, options), not count_include_pad)", id="the flag turned round"),
    pytest.param("CNN-28", "np.maximum(taps_inside(x, options), count_include_pad)", "taps_inside(x, options)",
                 id="the flag ignored"),
    pytest.param("CNN-10", "zip(outputs, kernel, stride, dilation)", "zip(outputs, kernel, dilation, stride)",
                 id="stride for dilation"),
    pytest.param("CNN-10", "(m0, m0), (m1, m1)", "(m1, m1), (m0, m0)", id="padding of the other axis"),
    pytest.param("CNN-11", "at.columns[:, s]] += windows", "at.columns[:, s]] = windows", id="the last tap only"),
    pytest.param("CNN-12", "np.split(a, groups, axes[0]), np.split(b, groups, axes[1])",
                 "np.split(a, groups, axes[0]), np.split(b, groups, axes[1])[::-1]", id="groups in reverse"),
    pytest.param("CNN-9", "(J + 2*m1 - e1*(S - 1) - 1)//u1 + 1", "-((e1*(S - 1) + 1 - J - 2*m1)//u1) + 1",
                 id="rounded up"),
])
def test_a_slip_in_the_convolution_code_is_red(label, old, new):
    with pytest.raises(LedgerError, match=rf"\({label}\)"):
        check(edited_source(family("CNN"), old, new), label)


def pair_of(of, name, **changes):
    """The family with every pair of one forward function changed."""
    assert any(p.forward_function.__name__ == name for p in of.pairs)
    return of._replace(pairs=tuple(p._replace(**changes) if p.forward_function.__name__ == name else p
                                   for p in of.pairs))


def of_function(name, **changes):
    return pair_of(family("CNN"), name, **changes)


def option_letters():
    return dict(zip("u0 u1 m0 m1 e0 e1".split(), indices("u_0 u_1 m_0 m_1 e_0 e_1")))


@pytest.mark.parametrize("label, swapped", [("CNN-10", ("u0", "u1")), ("CNN-10", ("m0", "m1")),
                                            ("CNN-10", ("e0", "e1")), ("CNN-10", ("u0", "e0")),
                                            ("CNN-8", ("e0", "m0")), ("CNN-11", ("m1", "u1"))])
def test_an_option_bound_to_the_wrong_letter_is_red(label, swapped):
    letters = option_letters()
    first, second = swapped
    letters[first], letters[second] = letters[second], letters[first]
    slide = {"stride": "u", "padding": "m", "dilation": "e"}
    options = {name: (letters[f"{letter}0"], letters[f"{letter}1"]) for name, letter in slide.items()}
    options["kernel_size"] = tuple(map(size, indices("r s")))
    with pytest.raises(LedgerError, match=rf"\({label}\)"):
        check(of_function("unfold_forward", options=options), label)


def test_an_option_that_is_not_bound_at_all_is_red_where_the_statement_has_it():
    with pytest.raises(LedgerError, match=r"no letter for \['dilation', 'padding', 'stride'\]"):
        check(of_function("conv2d_forward", options={"groups": size(indices("g")[0])}), "CNN-12")


def test_a_flag_bound_to_its_opposite_is_red():
    letter, = indices("a,")
    avg = next(p for p in family("CNN").pairs if p.forward_function.__name__ == "avg_pool2d_forward")
    for wrong in (letter < 1, letter >= 0):
        with pytest.raises(LedgerError, match="CNN-28"):
            check(of_function("avg_pool2d_forward", options=avg.options | {"count_include_pad": wrong}), "CNN-28")


def test_a_wrong_rule_for_a_size_is_red():
    I, J, R, S, P, Q = map(size, indices("i j r s p q"))
    for rule in ([(P, I - R), (Q, J - S + 1)], [(P, I - R + 1), (Q, J - R + 1)], [(P, I - 9), (Q, J)]):
        with pytest.raises(LedgerError, match="CNN-4"):
            check(of_function("correlate2d_forward", sizes=tuple(rule)), "CNN-4")


@pytest.mark.parametrize("function, label", [("conv2d_forward", "CNN-12"), ("max_pool2d_forward", "CNN-27")])
def test_a_missing_inner_pair_is_red(function, label):
    with pytest.raises(LedgerError, match=label):
        check(of_function(function, inner=None), label)


def test_an_inner_pair_that_defines_what_the_outer_one_does_is_red():
    unfold = next(p for p in family("CNN").pairs if p.forward_function.__name__ == "unfold_forward")
    with pytest.raises(LedgerError, match="dx is given or defined already"):
        check(of_function("flatten_forward", inner=unfold), "CNN-34")


INNER = '''
from typing import NamedTuple
import numpy as np

class ToyCache(NamedTuple):
    x: np.ndarray

def square_forward(x):
    """Shapes: x (N, D) -> h (N, D)"""
    h = x**2                                                    # (TOY-1)
    return h, ToyCache(x)

def square_backward(dh, cache):
    """Shapes: dh (N, D) -> dx (N, D)"""
    dx = 2 * cache.x * dh                                       # (TOY-2)
    return dx

def toy_forward(x):
    """Shapes: x (N, D) -> y (N, D)"""
    h, cache = square_forward(x)
    y = 3 * h                                                   # (TOY-3)
    return y, cache

def toy_backward(dy, cache):
    """Shapes: dy (N, D) -> dx (N, D)"""
    dh = 3 * dy                                                 # (TOY-4)
    dx = square_backward(dh, cache)
    return dx
'''


def inner_family(tmp_path, change=lambda source: source, direct=0):
    module = load(tmp_path, change(INNER))
    n, d = indices("n d")
    x, h, y, dx, dh, dy = arrays("x h y dx dh dy")
    square = pair(module.square_forward, module.square_backward,
                  [("TOY-1", h[n, d], x[n, d]**2)], [("TOY-2", dx[n, d], 2 * x[n, d] * dh[n, d])])
    toy = pair(module.toy_forward, module.toy_backward, [("TOY-3", y[n, d], 3 * h[n, d] + direct * x[n, d])],
               [("TOY-4", dh[n, d], 3 * dy[n, d])], inner=square)
    return Family("TOY", module, (square, toy), {})


def test_statements_of_an_inner_pair_must_hold_in_the_outer_one(tmp_path):
    assert [v.proof for v in check_family(inner_family(tmp_path))] == ["definition", "formula"] * 2
    past = lambda source: source.replace("y = 3 * h  ", "y = 3 * h + x  ")                      # noqa: E731
    honest = lambda source: past(source).replace("dx = square_backward(dh, cache)",             # noqa: E731
                                                 "dx = square_backward(dh, cache) + dy")
    for change, message in ((past, "fails its gradient check"), (honest, "statement and returned value of dx differ")):
        with pytest.raises(LedgerError, match=message):
            check(inner_family(tmp_path, change, direct=1), "TOY-4")


def test_lines_that_hold_whole_numbers_or_truth_values_are_weighed(tmp_path):
    def of(more):
        family = toy_family(tmp_path, forward=f"{more}  # (TOY-1)\n    y = s * x**3  # (TOY-2)",
                            backward="s = 2\n    dx = s * dy * 3 * x**2  # (TOY-3)")
        n, d = indices("n d")
        x, y, dx, dy = arrays("x y dx dy")
        s = sympy.Symbol("s", real=True)
        toy = family.pairs[0]
        return family._replace(pairs=(toy._replace(
            forward=(Statement("TOY-1", s, sympy.Integer(2)), Statement("TOY-2", y[n, d], s * x[n, d]**3)),
            backward=(Statement("TOY-3", dx[n, d], s * dy[n, d] * 3 * x[n, d]**2),)),))
    verdict = check(of("s = 2"), "TOY-1")
    assert verdict.change == "1 more" and verdict.weight > 0.1
    with pytest.raises(LedgerError, match="nothing depends on it"):
        check(toy_with_dead_line(tmp_path, "s = x > 0"), "TOY-2")


def toy_with_dead_line(tmp_path, line):
    of = toy_family(tmp_path, forward=f"y = x**3  # (TOY-1)\n    {line}  # (TOY-2)",
                    backward="dx = dy * 3 * x**2  # (TOY-3)")
    n, d = indices("n d")
    x, s = arrays("x s")
    toy = of.pairs[0]
    dead = Statement("TOY-2", s[n, d], one_if(x[n, d] > 0))
    return of._replace(pairs=(toy._replace(forward=(*toy.forward, dead),
                                           backward=(toy.backward[0]._replace(label="TOY-3"),)),))


def test_a_line_that_only_the_output_feels_is_weighed_by_the_output(tmp_path):
    of = toy_family(tmp_path, forward="s = 5.0  # (TOY-1)\n    y = x**3 + s  # (TOY-2)",
                    backward="dx = dy * 3 * x**2  # (TOY-3)")
    n, d = indices("n d")
    x, y = arrays("x y")
    s = sympy.Symbol("s", real=True)
    toy = of.pairs[0]
    of = of._replace(pairs=(toy._replace(
        forward=(Statement("TOY-1", s, sympy.Integer(5)), Statement("TOY-2", y[n, d], x[n, d]**3 + s)),
        backward=(toy.backward[0]._replace(label="TOY-3"),)),))
    assert 1e-4 < check(of, "TOY-1").weight < 0.1
    unused = of._replace(source=pathlib.Path(of.module.__file__).read_text().replace("x**3 + s", "x**3 + 5.0"))
    with pytest.raises(LedgerError, match="nothing depends on it"):
        check(unused, "TOY-1")


# ------------------------------------------------------------------------------------------------ shifted sums

def nothing(x):
    """Shapes: x (J) -> y (J)"""


def test_sums_over_shifted_indices_are_compared_by_what_they_add():
    j, q, s = indices("j q s")
    w, g, x = arrays("w g x")
    empty = pair(nothing, None, [], [])
    full = total(w[s] * g[j - s], s)
    assert same_formula(empty, full, total(g[q] * w[j - q], q))
    assert same_formula(empty, full, total(total(g[q] * w[s] * one_if(sympy.Eq(j, q + s)), s), q))
    for other in (total(w[s] * g[j + s], s), total(w[s] * g[j - s - 1], s), total(w[s] * g[s - j], s),
                  total(g[q] * w[q - j], q), total(g[q] * w[j - q + 1], q), total(w[s] * x[j - s], s),
                  total(g[q] * w[j - q]**2, q), total(g[q] * w[j - 2 * q], q), total(g[q] * w[j] * w[j - q], q)):
        assert not same_formula(empty, full, other), other
    # an array twice, and an index in a floor or in a delta only
    assert not same_formula(empty, total(w[s] * w[s - j], s), total(w[s] * w[s - 2 * j], s))
    assert not same_formula(empty, total(w[s] * g[sympy.floor(s / 2)], s), total(w[s] * g[s], s))
    assert not same_formula(empty, total(w[s] * one_if(sympy.Eq(2 * s, j)), s), w[j])
    assert not same_formula(empty, total(x[2 * s - j], s), total(x[2 * s + j], s))
    assert not same_formula(empty, total(x[j], s), x[j])


def test_a_bracket_is_flat_and_a_product_with_the_variable_has_no_rule():
    n, k = indices("n k")
    x, y = arrays("x y")
    kept = one_if(x[n] > 0) * x[n]
    step = pair(nothing, None, [("R-1", y[n], kept)], [])
    assert same_formula(step, chain_rule(step, arrays("dx")[0][n]), arrays("dy")[0][n] * one_if(x[n] > 0))
    first = pair(nothing, None, [("R-1", y[n], x[n] * product(one_if(x[n] > x[k]), k))], [])
    slope = arrays("dy")[0][n] * product(one_if(x[n] > x[k]), k)
    values = {"x": np.array([3.0, 1, 4, 1]), "dy": np.arange(1.0, 5)}
    derived = evaluate(chain_rule(first, arrays("dx")[0][n]), values, {"N": 4, "K": 4}, [n])
    assert derived.tolist() == evaluate(slope, values, {"N": 4, "K": 4}, [n]).tolist()
    all_of_them = pair(nothing, None, [("R-1", y[n], product(x[k], k))], [])
    with pytest.raises(TypeError, match="in a product over an index"):
        chain_rule(all_of_them, arrays("dx")[0][n])


# ------------------------------------------------------------------------------------------------ products and floors

def test_evaluator_multiplies_and_rounds_down_as_loops_do():
    n, k = indices("n k")
    z, = arrays("z")
    u, = indices("u_0,")
    values, sizes = {"z": np.array([2.0, 3.0, 5.0])}, {"N": 3, "K": 3, "U": 9, "u_0": 2}
    assert evaluate(product(z[k], k), values, sizes) == 30
    assert evaluate(product(z[n], k), values, sizes, [n]).tolist() == [8, 27, 125]
    assert evaluate(product(product(z[k], k), n), values, sizes) == 27000
    assert evaluate(total(product(z[k] + n, k), n), values, sizes) == 30 + 3 * 4 * 6 + 4 * 5 * 7
    assert evaluate(sympy.floor(n / u), values, sizes, [n]).tolist() == [0, 0, 1]
    assert evaluate(sympy.floor((n - 3) / u), values, sizes, [n]).tolist() == [-2, -1, -1]
    with as_written():
        whole = sympy.floor(49 * (1 / sympy.Symbol("U", integer=True)))
    assert evaluate(whole, values, {"U": 49}) == 1


def test_printer_and_reader_agree_on_products_floors_and_numbered_letters():
    n, d, d2 = indices("n d d'")
    u, = indices("u_0,")
    a, b, inside = arrays("a b inside")
    N, D = size(n), size(d)
    rng = np.random.default_rng(4)
    values = {"a": rng.uniform(0.5, 2, 4), "b": rng.uniform(0.5, 2, 12), "inside": rng.uniform(0, 1, 4)}
    sizes, tex = {"N": 4, "D": 4, "u_0": 2}, {"inside": r"\mathrm{in}"}
    with as_written():
        cases = [product(a[d], d) * b[n], b[n] * product(a[d], d), product(a[d] + b[n], d), product(a[d], d) + b[n],
                 product(a[d], d)**2, product(a[d]**2, d), 1 / product(a[d], d), total(product(a[d] * b[d2], d), d2),
                 product(total(a[d2], d2) * a[d], d), -product(-a[d], d), product(a[d], d) - product(b[d], d),
                 sympy.floor(n / u) * a[n], sympy.floor(n / u + n), sympy.floor(n / u) + n, sympy.floor(n / u)**2,
                 sympy.floor(n * (D / N)), 3 * sympy.floor(a[n] * 3), b[u * n + u - 1], b[sympy.floor(n * D / N) + u],
                 a[n - u] * u**2, inside[n] * u * (1 - inside[n]), one_if(sympy.Eq(n, sympy.floor(n / u) * u)),
                 one_if(u * n + 1 > D) * a[n], sympy.Max(1, total(one_if(sympy.Eq(n, u * d - 1)), d))]
    for e in cases:
        latex = Printer(tex)(e)
        compute = read_side(latex, values, sizes, tex)
        expected = evaluate(e, values, sizes, [n])
        assert [compute({"n": i}) for i in range(4)] == pytest.approx(expected.tolist(), rel=1e-12), latex


@pytest.mark.parametrize("right, wrong", [
    (r"\prod_{n} \left( a_{n} + 2 \right)", r"\prod_{n} a_{n} + 2"),
    (r"\left( \prod_{n} a_{n} \right)\, 2", r"\prod_{n} a_{n}\, 2"),
    (r"\prod_{n} a_{n}", r"\sum_{n} a_{n}"),
    (r"\left\lfloor \frac{n + 1}{u_0} \right\rfloor", r"\left\lfloor \frac{n}{u_0} \right\rfloor + 1"),
    (r"\left\lfloor \frac{n}{u_0} \right\rfloor", r"\frac{n}{u_0}"),
    (r"a_{u_0\, n - 1}", r"a_{u_1\, n - 1}"),
    (r"n / u_0", r"u_0 / n"),
])
def test_reader_tells_apart_what_differs_by_a_parenthesis_or_a_letter(right, wrong):
    values, sizes = {"a": np.array([1.5, 2.0, 3.0])}, {"N": 3, "u_0": 2, "u_1": 1}
    first, second = (read_side(text, values, sizes, {}) for text in (right, wrong))
    assert [first({"n": i}) for i in (1, 2)] != pytest.approx([second({"n": i}) for i in (1, 2)])


@pytest.mark.parametrize("text", [r"a_{nu_0}", r"a_{n}\, u_10", r"a_{n / u_0\, n}", r"2n", r"a_{n}b_{n}"])
def test_reader_refuses_what_can_be_read_in_two_ways(text):
    with pytest.raises(ValueError):
        read_side(text, {"a": np.ones(3), "b": np.ones(3)}, {"N": 3, "u_0": 2}, {})({"n": 1})


# ---------------------------------------------------------------------------------------------- one letter for another

@functools.cache
def runs_of(prefix, number):
    """The runs of one pair, as check_statement has them."""
    of = family(prefix)
    each = itertools.product(of.sizes, (False, True))
    return [run(of, of.pairs[number], np.random.default_rng([0, i]), *how) for i, how in enumerate(each)]


def letters_of(e):
    """The letters and sizes of an expression, but not those that only limit a sum."""
    e = e.function if isinstance(e, (sympy.Sum, sympy.Product)) else e
    return set().union(*map(letters_of, e.args)) if e.args else {e} if e.is_Symbol and e.is_integer else set()


def mutants(statement):
    """The right-hand side with one letter put for another, two letters swapped, or one whole number 1 off."""
    rhs, bound = statement.rhs, {i for s in statement.rhs.atoms(sympy.Sum, sympy.Product) for i, _, _ in s.limits}
    taken = bound | set(getattr(statement.lhs, "indices", ()))
    names = {a.name: a for a in sorted(letters_of(rhs) - taken, key=str)}
    others = [names.get(n, sympy.Symbol(n, integer=True, positive=n.isupper() or None))
              for n in family_of(statement.label).sizes[0] if n not in ("groups", str(statement.lhs))]
    inside = lambda e, change: (e.func(inside(e.function, change), *e.limits)                    # noqa: E731
                                if isinstance(e, (sympy.Sum, sympy.Product)) else
                                e.base[tuple(inside(i, change) for i in e.indices)] if isinstance(e, sympy.Indexed)
                                else e.func(*(inside(a, change) for a in e.args)) if e.args else change.get(e, e))
    changes = [{a: b} for a in names.values() for b in (*others, sympy.Integer(1), sympy.Integer(2)) if a != b]
    changes += [{a: b, b: a} for a, b in itertools.combinations(names.values(), 2)]
    changes += [{a: b, b: a} for a, b in itertools.combinations(sorted(taken, key=str), 2)]
    with as_written():
        return [(change, inside(rhs, change)) for change in changes]


def same_here(statement, rhs, this):
    try:
        with np.errstate(all="ignore"):
            value = evaluate(rhs, this.values, this.sizes, getattr(statement.lhs, "indices", ()))
    except (KeyError, ValueError, ZeroDivisionError):
        return False
    return relative_error(value, this.values[str(getattr(statement.lhs, "base", statement.lhs))]) <= 1e-12


# S r + s numbers the taps row by row with any number from S up in place of S; CNN-28 has dilation 1 and no channels
EQUAL = {"CNN-25": {"S->C", "S->F", "S->I", "S->J", "S->N"}, "CNN-28": {"e_0->1", "e_1->1", "e_0->e_1", "e_1->e_0",
                                                                        "m_0->D", "e_0->e_1,e_1->e_0"}}


@pytest.mark.parametrize("label", LABELS)
def test_one_letter_for_another_is_red(label):
    of = family_of(label)
    of_pair, statement = located(of, label)
    runs = runs_of(of.prefix, of.pairs.index(of_pair))
    unnoticed = {",".join(f"{a}->{b}" for a, b in change.items()) for change, rhs in mutants(statement)
                 if all(same_here(statement, rhs, this) for this in runs) and rebuilt(rhs) != rebuilt(statement.rhs)}
    swaps = {",".join((f"{a}->{b}", f"{b}->{a}")) for a, b in (("e_0", "r"), ("e_1", "s"), ("i", "m_0"))}
    assert unnoticed - swaps <= EQUAL.get(label, set())


@pytest.mark.parametrize("label, letters", [("CNN-3", "qf"), ("CNN-2", "sn"), ("CNN-7", "ns"), ("CNN-15", "ns")])
def test_a_sum_over_another_axis_is_red(label, letters):
    old, new = indices(" ".join(letters))

    def change(e):
        if isinstance(e, sympy.Sum):
            (i, low, high), = e.limits
            return sympy.Sum(change(e.function), (new, 0, size(new) - 1) if i == old else (i, low, high))
        return e.xreplace({old: new})
    with pytest.raises((LedgerError, ValueError)):
        check(with_rhs(family("CNN"), label, change), label)


def test_a_size_without_floor_is_red():
    with pytest.raises(LedgerError, match="CNN-8"):
        check(with_rhs(family("CNN"), "CNN-8", lambda rhs: rhs.replace(sympy.floor, lambda e: e)), "CNN-8")


def test_a_number_cannot_stand_for_a_size():
    n, k = indices("n k")
    y, t = arrays("y t")
    with as_written():
        rhs = 1 / (size(n) * 5) * total((y[n, k] - t[n, k])**2, n, k)
    with pytest.raises(LedgerError):
        check(with_rhs(family("MLP"), "MLP-5", lambda _: rhs), "MLP-5")


def test_a_sum_over_a_shorter_axis_is_red():
    j, k = indices("j k")
    x, = arrays("x")
    with pytest.raises(ValueError, match="but the axis has"):
        evaluate(total(x[k], k), {"x": np.ones(5)}, {"J": 5, "K": 3})


def test_a_range_counts_where_no_array_ends_it():
    j, q, s = indices("j q s")
    w, x = arrays("w x")
    empty = pair(nothing, None, [], [])
    for left, right in [(total(w[s], s), total(w[-s], s)), (total(sympy.exp(x[j]), j), total(sympy.exp(x[q]), q)),
                        (total(sympy.exp(x[j]) * w[j - 1], j), total(sympy.exp(x[j + 1]) * w[j], j)),
                        (total(one_if(sympy.Eq(j, q + s)), j), sympy.S.One),
                        (total(one_if(sympy.Eq(j, q - 1)), q) * x[j], x[j]),
                        (total(1 / x[j], j), total(1 / x[q], q))]:
        assert not same_formula(empty, left, right), (left, right)


def test_every_option_has_a_letter():
    unfold = next(p for p in family("CNN").pairs if p.forward_function.__name__ == "unfold_forward")
    one = {a: sympy.Integer(1) for a in indices("e_0 e_1")}
    of = of_function("unfold_forward", options={k: v for k, v in unfold.options.items() if k != "dilation"})
    for label in ("CNN-8", "CNN-9", "CNN-10", "CNN-11"):
        of = with_rhs(of, label, lambda rhs: rhs.xreplace(one))
    with pytest.raises(LedgerError, match="dilation"):
        check(of, "CNN-10")


def test_a_gradient_cannot_be_stated_as_a_definition():
    conv = next(p for p in family("CNN").pairs if p.forward_function.__name__ == "conv2d_forward")
    with pytest.raises(LedgerError):
        check(of_function("conv2d_forward", forward=conv.forward + conv.backward, backward=()), "CNN-14")


def test_a_dead_list_is_red(tmp_path):
    of = toy_family(tmp_path, forward="y = x**3  # (TOY-1)\n    s = [1.0, 2, 3, 4, 5]  # (TOY-2)",
                    backward="dx = dy * 3 * x**2  # (TOY-3)")
    k, = indices("k,")
    s, = arrays("s")
    toy = of.pairs[0]
    of = of._replace(pairs=(toy._replace(forward=(*toy.forward, Statement("TOY-2", s[k], k + 1)),
                                         backward=(toy.backward[0]._replace(label="TOY-3"),)),),
                     sizes=({"N": 3, "D": 7, "K": 5}, {"N": 13, "D": 11, "K": 5}))
    with pytest.raises(LedgerError, match="nothing depends on it"):
        check(of, "TOY-2")


def test_printer_refuses_names_that_read_as_something_else():
    n, u, far, two = indices("n u_0 u_10 np")
    x, m, mask = arrays("x m mask")
    with as_written():
        cases = [2 * far, 2 * two, m[n] * mask[n]]
        two_subscripts, quotient = x[n, u], x[(n / size(u)) * size(n)]
    for e in cases:
        with pytest.raises(ValueError):
            Printer({"mask": "m"})(e)
    assert Printer({})(two_subscripts) == "x_{n, u_0}"
    assert Printer({})(quotient) == r"x_{\left( n / U \right)\, N}"


# ------------------------------------------------------------------------------------------------ recurrences

LOOP = '''
from typing import NamedTuple
import numpy as np

class StepCache(NamedTuple):
    x: np.ndarray
    c_prev: np.ndarray
    W: np.ndarray
    w: np.ndarray
    c: np.ndarray

def step_forward(x, c_prev, W, w):
    """Shapes: x (N, D), c_prev (N, H), W (H, D), w (H) -> h (N, H), c (N, H)"""
    z = x @ W.T + w * c_prev                                    # (TOY-1)
    c = np.tanh(z)                                              # (TOY-2)
    h = c**2                                                    # (TOY-3)
    return h, c, StepCache(x, c_prev, W, w, c)

def step_backward(dh, dc_next, cache):
    """Shapes: dh (N, H), dc_next (N, H) -> dx (N, D), dc_prev (N, H), dW (H, D), dw (H)"""
    x, c_prev, W, w, c = cache
    dc = dc_next + dh * 2 * c                                   # (TOY-4)
    dz = dc * (1 - c**2)                                        # (TOY-5)
    dx = dz @ W                                                 # (TOY-6)
    dc_prev = dz * w                                            # (TOY-7)
    dW = dz.T @ x                                               # (TOY-8)
    dw = (dz * c_prev).sum(axis=0)                              # (TOY-9)
    return dx, dc_prev, dW, dw

class LoopCache(NamedTuple):
    steps: tuple

def loop_forward(x, c0, W, w):
    """Shapes: x (N, T, D), c0 (N, H), W (H, D), w (H) -> h (N, T, H), cs (N, T, H)"""
    c, hs, cs, steps = c0, [], [], []
    for t in range(x.shape[1]):
        c_prev = c                                              # (TOY-10)
        h, c, step = step_forward(x[:, t], c_prev, W, w)
        hs.append(h)
        cs.append(c)
        steps.append(step)
    return np.stack(hs, axis=1), np.stack(cs, axis=1), LoopCache(tuple(steps))

def loop_backward(dh, dcs, cache):
    """Shapes: dh (N, T, H), dcs (N, T, H) -> dx (N, T, D), dc0 (N, H), dW (H, D), dw (H)"""
    steps, = cache
    dxs, past, dW, dw = [], [0, 0], 0, 0
    for t in reversed(range(len(steps))):
        dc_next = dcs[:, t] + past[-1]                          # (TOY-11)
        dx_t, dc_prev, dW_t, dw_t = step_backward(dh[:, t], dc_next, steps[t])
        dxs.append(dx_t)
        past.append(dc_prev)
        dW += dW_t                                              # (TOY-12)
        dw += dw_t                                              # (TOY-13)
    dc0 = past[-1]                                              # (TOY-14)
    return np.stack(dxs[::-1], axis=1), dc0, dW, dw
'''
N_, T_, D_, H_ = indices("n t d h")


def loop_statements():
    """The right statements of the two pairs of LOOP: step forward and backward, loop forward and backward."""
    n, t, d, h = N_, T_, D_, H_
    x, c_prev, W, w, z, c, a, c0 = arrays("x c_prev W w z c h c0")
    dx, dc_prev, dW, dw, dz, dc, dh, dc_next, dcs, dc0, dW_t, dw_t = arrays(
        "dx dc_prev dW dw dz dc dh dc_next dcs dc0 dW_t dw_t")
    with as_written():
        return [[("TOY-1", z[n, h], total(W[h, d] * x[n, d], d) + w[h] * c_prev[n, h]),
                 ("TOY-2", c[n, h], sympy.tanh(z[n, h])),
                 ("TOY-3", a[n, h], c[n, h]**2)],
                [("TOY-4", dc[n, h], dc_next[n, h] + dh[n, h] * 2 * c[n, h]),
                 ("TOY-5", dz[n, h], dc[n, h] * (1 - c[n, h]**2)),
                 ("TOY-6", dx[n, d], total(dz[n, h] * W[h, d], h)),
                 ("TOY-7", dc_prev[n, h], dz[n, h] * w[h]),
                 ("TOY-8", dW[h, d], total(dz[n, h] * x[n, d], n)),
                 ("TOY-9", dw[h], total(dz[n, h] * c_prev[n, h], n))],
                [("TOY-10", c_prev[n, t, h], c[n, t - 1, h] + one_if(sympy.Eq(t, 0)) * c0[n, h])],
                [("TOY-11", dc_next[n, t, h], dcs[n, t, h] + dc_prev[n, t + 1, h]),
                 ("TOY-12", dW[h, d], total(dW_t[t, h, d], t)),
                 ("TOY-13", dw[h], total(dw_t[t, h], t)),
                 ("TOY-14", dc0[n, h], dc_prev[n, 0, h])]]


def loop_family(tmp_path, *edits, instead=None, edit=lambda groups: groups):
    """LOOP with its source edited (old, new, old, new, ...), right-hand sides in place of others {label: rhs}, and the
    four lists of statements changed by `edit`."""
    source = LOOP
    for old, new in zip(edits[::2], edits[1::2]):
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    module = load(tmp_path, source)
    groups = [[(label, lhs, (instead or {}).get(label, rhs)) for label, lhs, rhs in group]
              for group in loop_statements()]
    first, second, third, fourth = edit(groups)
    step = pair(module.step_forward, module.step_backward, first, second, {"c": "dc_next"})
    loop = pair(module.loop_forward, module.loop_backward, third, fourth, {"c": "dcs"}, step=step)
    return Family("TOY", module, (step, loop), {}, ({"N": 3, "T": 5, "D": 2, "H": 7}, {"N": 5, "T": 4, "D": 7, "H": 3}))


def red(of, label, message, kind=LedgerError):
    with pytest.raises(kind, match=message):
        check(of, label)


def test_the_loop_is_right(tmp_path):
    verdicts = list(check_family(loop_family(tmp_path)))
    assert [v.proof for v in verdicts] == ["definition"] * 3 + ["formula"] * 6 + ["definition"] + ["formula"] * 4
    assert max(v.executed for v in verdicts) < 1e-13 and min(v.weight for v in verdicts) > 1e-3


def slips_in_code_and_ledger():
    """What only the chain rule and the complex step can tell: name, label, wrong right-hand side, wrong code."""
    n, t, d, h = N_, T_, D_, H_
    dc_prev, dcs, dc_next, dh, c, dz, dW_t, dw_t = arrays("dc_prev dcs dc_next dh c dz dW_t dw_t")
    later, arrives = dc_prev[n, t + 1, h], dcs[n, t, h]
    return [
        ("later steps forgotten", "TOY-11", arrives, "dcs[:, t]"),
        ("what arrives forgotten", "TOY-11", later, "0 * dcs[:, t] + past[-1]"),
        ("sign of the later steps", "TOY-11", arrives - later, "dcs[:, t] - past[-1]"),
        ("sign of a part", "TOY-11", -arrives - later, "-dcs[:, t] - past[-1]"),
        ("two steps later", "TOY-11", arrives + dc_prev[n, t + 2, h], "dcs[:, t] + past[-2]"),
        ("both later steps", "TOY-11", arrives + later + dc_prev[n, t + 2, h], "dcs[:, t] + past[-1] + past[-2]"),
        ("one step of the sum", "TOY-12", dW_t[0, h, d], "dW_t - dW"),
        ("all but the first step", "TOY-12", total(dW_t[t, h, d] * one_if(t > 0), t), "dW_t * (t > 0)"),
        ("the mean over the steps", "TOY-13", total(dw_t[t, h], t) / size(t), "dw_t / len(steps)"),
        ("the cell of t = 1", "TOY-14", dc_prev[n, 1, h], "past[-2]"),
        ("minus the cell", "TOY-14", -dc_prev[n, 0, h], "-past[-1]"),
        ("immediate derivative", "TOY-4", dh[n, h] * 2 * c[n, h], "dh * 2 * c"),
        ("not by way of h", "TOY-4", dc_next[n, h], "dc_next"),
        ("old cell for new", "TOY-9", total(dz[n, h] * c[n, h], n), "(dz * c).sum(axis=0)"),
        ("no weight", "TOY-7", dz[n, h], "dz"),
    ]


@pytest.mark.parametrize("label, rhs, code", [pytest.param(*slip, id=name)
                                              for name, *slip in slips_in_code_and_ledger()])
def test_a_slip_through_time_in_code_and_ledger_is_caught_by_the_chain_rule(tmp_path, label, rhs, code):
    of = with_code(loop_family(tmp_path, instead={label: rhs}), label, lambda _: code)
    red(of, label, rf"\({label}\): the chain rule")


def slips_in_the_ledger():
    n, t, d, h = N_, T_, D_, H_
    c, c0, dc_prev, dcs, dW_t, c_prev = arrays("c c0 dc_prev dcs dW_t c_prev")
    before, start = c[n, t - 1, h], one_if(sympy.Eq(t, 0)) * c0[n, h]
    return [("TOY-10", before), ("TOY-10", start), ("TOY-10", before + one_if(sympy.Eq(t, 1)) * c0[n, h]),
            ("TOY-10", before + c0[n, h]), ("TOY-10", before - start), ("TOY-10", c[n, t - 2, h] + start),
            ("TOY-10", c[n, t + 1, h] + start), ("TOY-10", c[n, t, h] + start),
            ("TOY-11", dcs[n, t, h] + dc_prev[n, t, h]), ("TOY-11", dcs[n, t, h] + dc_prev[n, t - 1, h]),
            ("TOY-11", dcs[n, t, h] + dc_prev[n, t + 2, h]), ("TOY-11", dcs[n, t + 1, h] + dc_prev[n, t + 1, h]),
            ("TOY-12", dW_t[0, h, d]), ("TOY-12", total(dW_t[t + 1, h, d], t)), ("TOY-12", total(dW_t[n, h, d], n)),
            ("TOY-14", dc_prev[n, 1, h]), ("TOY-14", dc_prev[n, size(t) - 1, h]), ("TOY-14", dc_prev[n, -1, h])]


@pytest.mark.parametrize("label, rhs", slips_in_the_ledger())
def test_a_slip_through_time_in_the_ledger_is_red(tmp_path, label, rhs):
    red(loop_family(tmp_path, instead={label: rhs}), label, rf"\({label}\).*differ|without end|but the axis has",
        (LedgerError, ValueError))


@pytest.mark.parametrize("label, old, new, message", [
    pytest.param("TOY-10", "= c  ", "= c if t else 0 * c  ", "of c_prev differ", id="start ignored"),
    pytest.param("TOY-10", "range(x.shape[1])", "range(1, x.shape[1])", "4 times, expected 5", id="too few"),
    pytest.param("TOY-11", "    dc_next", "    for _ in range(1 + (t == 0)):\n            dc_next",
                 "6 times, expected 5", id="too often"),
    pytest.param("TOY-12", "    dW += dW_t", "    for _ in range(1 + (t == 0)):\n            dW += dW_t / 2**(t == 0)",
                 "6 times, expected 5", id="a sum too often"),
    pytest.param("TOY-11", "    dc_next = dcs[:, t] + past[-1]  ",
                 "    dc_next = dcs[:, t] + past[-1]\n        if t == 0:\n            dc_next = 1 * dc_next  ",
                 "1 times, expected 5", id="once"),
    pytest.param("TOY-11", "dxs[::-1]", "dxs", "returned value of dx differ", id="gradients in reverse"),
    pytest.param("TOY-10", "stack(cs,", "stack(cs[::-1],", "returned value of c differ", id="states in reverse"),
    pytest.param("TOY-10", "stack(cs,", "stack(hs,", "returned value of c differ", id="another state"),
    pytest.param("TOY-12", "[0, 0], 0, 0", "[0, 0], 1, 0", "of dW differ", id="a sum from 1"),
    pytest.param("TOY-12", "dc0, dW, dw\n", "dc0, 2 * dW, dw\n", "returned value of dW differ", id="sum twice"),
    pytest.param("TOY-13", "steps[t])\n", "steps[0])\n", "differ", id="one cache"),
    pytest.param("TOY-13", "step_forward(x[:, t],", "step_forward(x[:, 0],", "differ", id="one input"),
])
def test_a_slip_through_time_in_the_code_is_red(tmp_path, label, old, new, message):
    red(loop_family(tmp_path, old, new), label, rf"\({label}\).*{message}")


def test_values_are_stacked_in_the_order_of_time(tmp_path):
    later = "    for step in steps[::-1]:\n        c_prev = step.c_prev  # (TOY-10)\n    return np.stack(hs"
    for order, message in (("[::1]", None), ("[::-1]", r"\(TOY-10\).* of c_prev differ")):
        of = loop_family(tmp_path, "# (TOY-10)", "", "    return np.stack(hs", later.replace("[::-1]", order))
        assert check(of, "TOY-11") if message is None else red(of, "TOY-10", message) is None


def more(which, *added, without=()):
    """Changes one of the four lists of loop_statements: some labels left out, some statements added."""
    def edit(groups):
        kept = [[s for s in group if s[0] not in without] for group in groups]
        kept[which] = [*added, *kept[which]]
        return kept
    return edit


def named_parts(tmp_path, slope=None, old=None, code="1 - c**2", label=None):
    """LOOP with names for two parts that have no number: u = w c_prev, and the slope e of tanh."""
    n, d, h = N_, D_, H_
    W, x, w, c_prev, c, u, e, dc = arrays("W x w c_prev c u e dc")
    with as_written():
        rhs = {"TOY-1": total(W[h, d] * x[n, d], d) + u[n, h], "TOY-5": dc[n, h] * e[n, h]}
        parts = [(None, u[n, h], w[h] * (c_prev[n, h] if old is None else old)),
                 (label, e[n, h], 1 - c[n, h]**2 if slope is None else slope)]
    return loop_family(tmp_path, "(1 - c**2)", f"({code})", instead=rhs,
                       edit=lambda groups: more(1, parts[1])(more(0, parts[0])(groups)))


def test_what_has_no_number_is_checked_by_what_uses_it(tmp_path):
    n, h = N_, H_
    c, c_prev = arrays("c c_prev")
    of = named_parts(tmp_path)
    assert check(of, "TOY-1").proof == "definition" and check(of, "TOY-5").proof == "formula"
    check_inner(of, of.pairs[1])
    red(named_parts(tmp_path, old=c_prev[n, h] + 1), "TOY-1", r"\(TOY-1\).* of z differ")
    red(named_parts(tmp_path, slope=1 - c[n, h]), "TOY-5", r"\(TOY-5\).* of dz differ")
    wrong = named_parts(tmp_path, slope=1 - c[n, h], code="1 - c")
    red(wrong, "TOY-5", r"\(TOY-5\): the chain rule gives something else for dz")
    for of_pair in wrong.pairs:                                 # in the loop, the step's equations are proved again
        with pytest.raises(LedgerError, match="the chain rule gives something else for dz"):
            check_inner(wrong, of_pair)


def test_a_derivative_without_a_number_is_proved_too(tmp_path):
    n, h = N_, H_
    dz, dc = arrays("dz dc")
    of = loop_family(tmp_path, "dz = dc * (1 - c**2)                                        # (TOY-5)", "dz = 2 * dc",
                     edit=more(1, (None, dz[n, h], 2 * dc[n, h]), without=["TOY-5"]))
    with pytest.raises(LedgerError, match=r"\(dz\): the chain rule gives something else for dz"):
        check_inner(of, of.pairs[0])
    red(of, "TOY-6", r"\(TOY-6\): step_backward fails its gradient check")


def test_a_name_that_is_no_derivative_and_that_nothing_uses_is_red(tmp_path):
    n, h = N_, H_
    spare, dh = arrays("spare dh")
    code = ("    dc = dc_next", "    spare = 3 * dh  # (TOY-15)\n    dc = dc_next")
    message = "spare is no derivative and nothing uses it"
    red(loop_family(tmp_path, *code, edit=more(1, ("TOY-15", spare[n, h], 3 * dh[n, h]))), "TOY-15", message)
    of = loop_family(tmp_path, edit=more(1, (None, spare[n, h], 3 * dh[n, h])))
    with pytest.raises(LedgerError, match=message):
        check_inner(of, of.pairs[0])


def test_a_missing_statement_is_red_before_a_proof_can_do_without_it(tmp_path):
    of = loop_family(tmp_path, edit=more(1, without=["TOY-5"]))
    with pytest.raises(LabelError, match="TOY-5"):
        check_labels(of)
    red(of, "TOY-6", "dz", KeyError)
    of = loop_family(tmp_path, edit=more(2, without=["TOY-10"]))
    red(of, "TOY-11", "c_prev", KeyError)


def chain(*backward):
    """z = 2 x, y = 3 z, with the backward statements (name, right-hand side)."""
    n, = indices("n,")
    x, z, y = arrays("x z y")

    def forward(x):
        """Shapes: x (N) -> y (N)"""
    return pair(forward, forward, [("R-1", z[n], 2 * x[n]), ("R-2", y[n], 3 * z[n])],
                [(f"R-{i}", arrays(name)[0][n], rhs) for i, (name, rhs) in enumerate(backward, start=3)])


def test_two_statements_cannot_prove_each_other():
    n, = indices("n,")
    dx, dz, dy, e = arrays("dx dz dy e")
    right = chain(("dz", 3 * dy[n]), ("dx", 2 * dz[n]))
    by_way = chain(("e", 3 * dy[n]), ("dz", e[n]), ("dx", 2 * e[n]))
    circles = [chain(("dz", dx[n] / 2), ("dx", 2 * dz[n])), chain(("dx", 2 * dz[n]), ("dz", dx[n] / 2)),
               chain(("e", dz[n]), ("dz", e[n])), chain(("dz", e[n]), ("e", dz[n])),
               chain(("e", 2 * dz[n]), ("dz", e[n] / 2), ("dx", e[n])), chain(("dz", 5 * dy[n]), ("dx", 2 * dz[n]))]
    of = family("MLP")
    for of_pair in (right, by_way):
        assert {prove(of, of_pair, s) for s in of_pair.backward} == {"formula"}
    for of_pair in circles:
        with pytest.raises(LedgerError, match="not the same formula"):
            [prove(of, of_pair, s) for s in of_pair.backward]
        values = {"x": np.arange(1.0, 4), "dy": np.ones(3)}
        settle(of_pair.forward + of_pair.backward, values, {"N": 3})
        with pytest.raises(LedgerError, match="the chain rule gives something else"):
            [check_derivation(of_pair, s, Run({"N": 3}, values, {}, {})) for s in of_pair.backward]


def test_a_recurrence_settles_and_what_never_does_is_red(tmp_path):
    n, t, h = N_, T_, H_
    u, v, c, c0, c_prev = arrays("u v c c0 c_prev")
    loops = [Statement(None, u[t], v[t - 1] + 1), Statement(None, v[t], 2 * u[t])]
    values = {}
    settle(loops, values, {"T": 5})
    assert values["u"].tolist() == [1, 3, 7, 15, 31] and values["v"].tolist() == [2, 6, 14, 30, 62]
    assert settle(loops[::-1], again := {}, {"T": 5}) is None and again["u"].tolist() == values["u"].tolist()
    for endless in ([loops[0]._replace(rhs=v[t] + 1), loops[1]], [Statement(None, u[t], u[t] + 1)]):
        with pytest.raises(ValueError, match="define each other without end"):
            settle(endless, {}, {"T": 5})
    of = loop_family(tmp_path, instead={"TOY-10": 2 * c[n, t, h] + 1})
    red(of, "TOY-10", "define each other without end|differ", (LedgerError, ValueError))


@pytest.mark.parametrize("which, first", [(0, "TOY-1"), (1, "TOY-4"), (3, "TOY-11")])
def test_labels_out_of_order_inside_a_pair_are_red(tmp_path, which, first):
    def edit(groups):
        groups[which][0], groups[which][1] = groups[which][1], groups[which][0]
        return groups
    assert loop_statements()[which][0][0] == first
    with pytest.raises(LabelError, match="number in reading order"):
        check_labels(loop_family(tmp_path, edit=edit))


# ------------------------------------------------------------------------------------------------ RNN, LSTM, GRU

@pytest.mark.parametrize("function, label, options, message", [
    ("rnn_step_forward", "RNN-2", "relu", "its code line ran 0 times"),
    ("rnn_step_forward", "RNN-3", "tanh", "its code line ran 0 times"),
    ("rnn_step_forward", "RNN-2", "Tanh", "one does not run"),
    ("rnn_forward", "RNN-12", "relu", "its code line ran 0 times"),
    ("gru_forward", "GRU-20", False, "its code line ran 0 times"),
])
def test_another_text_or_truth_value_for_an_option_is_red(function, label, options, message):
    of = family_of(label)
    name = "reset_after" if function == "gru_forward" else "nonlinearity"
    red(pair_of(of, function, options={name: options}), label, rf"\({of.prefix}-\d+\).*{message}")
    red(pair_of(of, function, options={}), label, rf"no letter for \['{name}'\]")


@pytest.mark.parametrize("label, code", [
    pytest.param("RNN-2", "np.where(z.real <= 0, 0, z)", id="relu for tanh"),
    pytest.param("RNN-3", "np.tanh(z)", id="tanh for relu"),
    pytest.param("RNN-4", "np.where(h <= 0, 0, dh)", id="relu' for tanh'"),
    pytest.param("RNN-5", "dh * (1 - h**2)", id="tanh' for relu'"),
    pytest.param("RNN-5", "np.where(h < 0, 0, dh)", id="relu' at 0"),
    pytest.param("RNN-7", "dz @ W_hh.T", id="transposed"),
    pytest.param("RNN-9", "dz.T @ h", id="new state for old"),
    pytest.param("RNN-9", "h_prev.T @ dz", id="transposed gradient"),
    pytest.param("RNN-12", "dhs[:, t] + 0 * dh_prev", id="no later steps"),
    pytest.param("RNN-12", "dhs[:, -1 - t] + dh_prev", id="time turned round"),
    pytest.param("RNN-12", "dhs[:, t] * (t == 0) + dh_prev", id="one loss only"),
    pytest.param("RNN-15", "db_t / len(steps)", id="a mean for a sum"),
    pytest.param("RNN-11", "h * (t > 0)", id="start ignored"),
    pytest.param("RNN-11", "hs[-2] if t > 1 else h", id="two steps back"),
    pytest.param("RNN-16", "dh", id="state for the one before"),
    pytest.param("RNN-17", "hs[np.arange(len(hs)), lengths - 2]", id="one step early"),
    pytest.param("RNN-21", "mask.size", id="padding counted"),
    pytest.param("RNN-22", "-of_target.sum() / kept", id="padding in the loss"),
    pytest.param("RNN-23", "dloss / kept * error", id="padding in the gradient"),
    pytest.param("LSTM-2", "sigmoid(z_f)", id="another gate"),
    pytest.param("LSTM-6", "i * c_prev + f * g", id="gates swapped"),
    pytest.param("LSTM-7", "np.tanh(c_prev)", id="old cell for new"),
    pytest.param("LSTM-10", "dc_next + dh * o * m", id="m for 1 - m**2"),
    pytest.param("LSTM-10", "dc_next + dh * (1 - m**2)", id="no o"),
    pytest.param("LSTM-10", "dh * o * (1 - m**2)", id="no later cell"),
    pytest.param("LSTM-12", "dc * m", id="m for c_prev"),
    pytest.param("LSTM-13", "dc * g", id="g for i"),
    pytest.param("LSTM-14", "dc", id="nothing forgotten"),
    pytest.param("LSTM-16", "df * sigmoid(f)", id="sigma(f) for f (1 - f)"),
    pytest.param("LSTM-17", "dg * g * (1 - g)", id="sigma' for tanh'"),
    pytest.param("LSTM-22", "dz.T @ (o * m)", id="h for h_prev"),
    pytest.param("LSTM-25", "c0", id="the first cell for ever"),
    pytest.param("LSTM-27", "dc_prev + 0 * dcs[:, t]", id="no loss on cells"),
    pytest.param("LSTM-27", "dcs[:, t] + dh_prev", id="h for c"),
    pytest.param("LSTM-32", "dh_prev", id="dh0 for dc0"),
    pytest.param("LSTM-35", "z_o + p_o * c_prev", id="peephole at the old cell"),
    pytest.param("LSTM-34", "z_f + p_i * c_prev", id="another peephole"),
    pytest.param("LSTM-36", "dc_next + dh * o * (1 - m**2)", id="no way through the peephole"),
    pytest.param("LSTM-37", "dc * f + dz_i * p_i", id="one peephole left out"),
    pytest.param("LSTM-40", "(dz_o * c_prev).sum(axis=0)", id="old cell in the gradient"),
    pytest.param("GRU-5", "np.tanh(r * (a_n + u_n))", id="reset of the input, too"),
    pytest.param("GRU-5", "np.tanh(a_n + u_n)", id="no reset"),
    pytest.param("GRU-6", "z * n + (1 - z) * h_prev", id="z for 1 - z"),
    pytest.param("GRU-7", "dh * (n - h_prev)", id="sign"),
    pytest.param("GRU-8", "dh * z", id="z for 1 - z, backward"),
    pytest.param("GRU-10", "da_n * h_prev", id="the other GRU's dr"),
    pytest.param("GRU-11", "da_n", id="no reset on the way back"),
    pytest.param("GRU-15", "du @ W_hh", id="dh z missing"),
    pytest.param("GRU-15", "dh * z + da @ W_hh", id="da for du"),
    pytest.param("GRU-19", "da.sum(axis=0)", id="both biases alike"),
    pytest.param("GRU-21", "dhs[:, t] - dh_prev", id="sign of the later steps"),
    pytest.param("GRU-25", "db_ih_t", id="the other bias"),
    pytest.param("GRU-29", "h_prev", id="no reset before"),
    pytest.param("GRU-30", "r * (h_prev @ W_n.T + b_n)", id="reset after for before"),
    pytest.param("GRU-33", "ds * s", id="s for h_prev"),
    pytest.param("GRU-34", "dh * z + ds + da_r @ W_r + da_z @ W_z", id="no reset of ds"),
    pytest.param("GRU-34", "ds * r + da_r @ W_r + da_z @ W_z", id="dh z missing, reset before"),
    pytest.param("GRU-37", "da_n.T @ h_prev", id="h_prev for s"),
])
def test_a_slip_in_a_line_of_the_recurrent_code_is_red(label, code):
    red(with_code(family_of(label), label, lambda _: code), label, rf"\({label}\).* differ")


@pytest.mark.parametrize("old, new, label", [
    pytest.param('"tanh":\n        h =', '"relu":\n        h =', "RNN-2", id="branches swapped"),
    pytest.param('"tanh":\n        dz =', '"relu":\n        dz =', "RNN-5", id="branches swapped, backward"),
    pytest.param("dW_ih += dW_ih_t ", "dW_ih = dW_ih_t ", "RNN-13", id="the last addend"),
    pytest.param("lengths[:, None] - 1\n", "lengths[:, None] - 2\n", "RNN-18", id="gradient one step early"),
    pytest.param("z_i, z_f, z_g, z_o = np.split(z,", "z_i, z_g, z_f, z_o = np.split(z,", "LSTM-3", id="order of gates"),
    pytest.param("dz_i, dz_f, dz_g, dz_o], axis=1)\n    dx", "dz_i, dz_g, dz_f, dz_o], axis=1)\n    dx", "LSTM-19",
                 id="order of gates, backward"),
    pytest.param("np.stack([dp_i, dp_f,", "np.stack([dp_f, dp_i,", "LSTM-38", id="peepholes returned swapped"),
])
def test_a_slip_in_the_recurrent_code_is_red(old, new, label):
    red(edited_source(family_of(label), old, new), label, rf"\({label}\).*(differ|ran 0 times)")


def forgets(of, variant, name):
    """The family whose `instead` has forgotten to replace a name: what the base says of it stays."""
    of_pair, = (p for p in of.pairs if p.forward_function.__name__ == variant)
    inner, base = of_pair.inner, of.pairs[0]
    keep = lambda statements: tuple(s for s in statements if s.name != name)                    # noqa: E731
    more = lambda statements: tuple(s for s in statements if s.name == name)                    # noqa: E731
    inner = inner._replace(forward=inner.forward + more(base.forward), backward=inner.backward + more(base.backward))
    return pair_of(of, variant, forward=keep(of_pair.forward), backward=keep(of_pair.backward), inner=inner)


@pytest.mark.parametrize("variant, name, label, message", [
    ("peephole_lstm_step_forward", "z_i", "LSTM-34", "returned value of . differ"),
    ("peephole_lstm_step_forward", "z_o", "LSTM-33", "returned value of h differ"),
    ("peephole_lstm_step_forward", "dc", "LSTM-37", "of dc_prev differ"),
    ("peephole_lstm_step_forward", "dc_prev", "LSTM-36", "returned value of dc_prev differ"),
    ("gru_before_step_forward", "u_r", "GRU-28", "'u'"),
    ("gru_before_step_forward", "n", "GRU-30", "returned value of h differ"),
    ("gru_before_step_forward", "dr", "GRU-34", "of dh_prev differ"),
    ("gru_before_step_forward", "dh_prev", "GRU-33", "'du'"),
])
def test_a_variant_that_forgets_to_replace_a_statement_is_red(variant, name, label, message):
    red(forgets(family_of(label), variant, name), label, message, (LedgerError, KeyError))


def test_a_variant_that_forgets_to_leave_a_statement_out_is_red():
    of = forgets(forgets(family("GRU"), "gru_before_step_forward", "u"), "gru_before_step_forward", "du")
    with pytest.raises(LedgerError, match="the chain rule gives something else"):
        check_inner(of, of.pairs[2])


# ------------------------------------------------------------------------------------------------ nothing unsaid

def test_what_is_set_as_a_derivative_is_one(tmp_path):
    """2 dc under the name of a derivative, and halved where it is used."""
    n, h = N_, H_
    dc, dq, c = arrays("dc dq c")
    of = loop_family(tmp_path, instead={"TOY-5": dq[n, h] * (1 - c[n, h]**2) / 2},
                     edit=more(1, (None, dq[n, h], 2 * dc[n, h])))
    with pytest.raises(LedgerError, match=r"\(dq\): dq is set as a derivative, but the forward statements have no q"):
        check_inner(of, of.pairs[0])


def test_a_forward_name_without_a_number_that_nothing_uses_is_red(tmp_path):
    n, h = N_, H_
    s, c_prev = arrays("s c_prev")
    of = loop_family(tmp_path, edit=more(0, (None, s[n, h], 17 * c_prev[n, h])))
    with pytest.raises(LedgerError, match=r"step_forward: .* no use for \['s'\]"):
        check_inner(of, of.pairs[0])


def test_every_output_is_what_a_statement_says(tmp_path):
    """A shift of an output by a constant changes no gradient."""
    def of(output, y, external):
        source = TOY.format(forward="y = x**3  # (TOY-1)", y=y, dx="dx",
                            backward=f"dx = d{output} * 3 * x**2  # (TOY-2)")
        for old in ("-> y (N, D)", ": dy (N, D)", "(dy, cache)"):
            source = source.replace(old, old.replace("y (", f"{output} (").replace("dy,", f"d{output},"))
        module, (n, d) = load(tmp_path, source), indices("n d")
        x, dx, a, da = arrays(f"x dx y d{output}")
        return Family("TOY", module, (pair(
            module.toy_forward, module.toy_backward, [("TOY-1", a[n, d], x[n, d]**3)],
            [("TOY-2", dx[n, d], da[n, d] * 3 * x[n, d]**2)], external=external),), {})
    assert [v.proof for v in check_family(of("v", "y", {"y": "dv"}))] == ["definition", "formula"]
    red(of("v", "y + 7", {"y": "dv"}), "TOY-1", "returned value of y differ")
    extra = of("y", "y, 7 * np.sign(x.real)", {})
    path = pathlib.Path(extra.module.__file__)
    path.write_text(path.read_text().replace("-> y (N, D)", "-> y (N, D), s (N, D)").replace(
        ": dy (N, D)", ": dy (N, D), ds (N, D)").replace("(dy, cache)", "(dy, ds, cache)"))
    module = load(tmp_path, path.read_text())
    toy = extra.pairs[0]._replace(forward_function=module.toy_forward, backward_function=module.toy_backward)
    with pytest.raises(LedgerError, match=r"no statement for \['s'\]"):
        check_inner(extra._replace(module=module, pairs=(toy,)), toy)


def test_what_a_variant_takes_over_is_proved_in_the_variant():
    """A wrong do that nothing uses any more."""
    n, h = N_, H_
    do, dz_o, dh, m, o = arrays("do dz_o dh m o")
    of = family("LSTM")
    variant = of.pairs[2]
    wrong = {"do": 17 * dh[n, h], "dz_o": dh[n, h] * m[n, h] * (o[n, h] * (1 - o[n, h]))}
    inner = variant.inner._replace(backward=tuple(s._replace(rhs=wrong.get(s.name, s.rhs))
                                                  for s in variant.inner.backward))
    with pytest.raises(LedgerError, match=r"the chain rule gives something else for do"):
        check_inner(of, variant._replace(inner=inner))


# ------------------------------------------------------------------------------------------------ an example on paper

ON_PAPER = ([[[1.0], [-0.5]]], [[0.0]], [[0.0]], [[0.5], [0.0], [1.0], [0.25]], [[0.1], [0.2], [-0.5], [0.3]],
            [0.0, 1.0, 0.0, 0.0])


def on_paper():
    lstm = family("LSTM").module
    cotangents = np.array([[[0.0], [1.0]]]), np.zeros((1, 2, 1))
    work_through(lstm.lstm_forward, *map(np.array, ON_PAPER), cotangents=cotangents)


def test_an_example_on_paper_shows_every_number_of_every_step(capsys):
    on_paper()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sorted(row[0] for row in rows if len(row) > 1) == sorted(
        f"({s.label})" for p in family("LSTM").pairs[:2] for s in p.statements)
    numbers = {row[1]: [float(text.strip(",")) for text in row[2:]] for row in rows if len(row) > 1}
    i, f, g, o = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(-1.0)), np.tanh(1.0), 1 / (1 + np.exp(-0.25))
    assert numbers["c"][0] == pytest.approx(i * g, abs=5e-5) and numbers["f"][0] == pytest.approx(f, abs=5e-5)
    assert numbers["h"][0] == pytest.approx(o * np.tanh(i * g), abs=5e-5)
    assert numbers["dc_next"] == [numbers["dc_prev"][1], 0] and numbers["dh"][1] == 1
    assert numbers["dW_ih"] == pytest.approx(np.sum(np.reshape(numbers["dW_ih_t"], (2, 4)), axis=0), abs=2e-4)


def test_an_example_on_paper_refuses_code_that_differs_from_its_equation(monkeypatch):
    of = with_code(family("LSTM"), "LSTM-12", lambda rhs: "dc * i")
    monkeypatch.setattr("backprop_lib.equations.worked.located", lambda forward: (of, of.pairs[1]))
    with pytest.raises(LedgerError, match=r"\(LSTM-\d+\): statement and code differ"):
        on_paper()
