"""The ledger: every equation rendered, proved, executed, tied and weighed; and each of these checks seen to fail."""

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

from backprop_lib.equations import exercise
from backprop_lib.equations import verify as verify_labels
from backprop_lib.equations.evaluate import evaluate
from backprop_lib.equations.language import Statement, arrays, as_written, indices, one_if, pair, size, total
from backprop_lib.equations.latex import Printer, render
from backprop_lib.equations.ledger import (
    FAMILIES,
    Family,
    LedgerError,
    check_family,
    check_labels,
    check_statement,
    family,
    run,
)
from backprop_lib.equations.notebooks import check_notebooks, rendered, rewrite, tagged
from backprop_lib.equations.proof import chain_rule, same_formula
from backprop_lib.equations.source import LabelError, labelled_lines, rewritten, scaled


ROOT = pathlib.Path(__file__).parents[1]
LABELS = [s.label for prefix in FAMILIES for s in family(prefix).statements]
BACKWARD = [s.label for prefix in FAMILIES for p in family(prefix).pairs for s in p.backward]


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
    target, rhs = line.code.split(" = ", 1)
    indent = len(source[line.number - 1]) - len(source[line.number - 1].lstrip())
    source[line.number - 1] = f"{' ' * indent}{target} = {change(rhs)}  # ({label})"
    return of._replace(source="\n".join(source) + "\n")


def check(of, label):
    return check_statement(of, *located(of, label))


# ------------------------------------------------------------------------------------------------ green

@pytest.mark.parametrize("label", LABELS)
def test_statement_code_and_proof_agree(label):
    verdict = check(family_of(label), label)
    assert verdict.executed <= 1e-12 and verdict.derived <= 1e-12
    assert verdict.proof == ("formula" if label in BACKWARD else "definition")
    if verdict.change == "1 % off":
        assert 1e-3 < verdict.weight < 0.1                      # 1 % is felt, and felt as about 1 %
    else:
        assert verdict.weight > 0.1                             # a size, or a truth value turned round


@pytest.mark.parametrize("prefix", FAMILIES)
def test_labels_and_gradients_of_a_family(prefix):
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
    scope = {**this.values, str(getattr(statement.lhs, "base", statement.lhs)): np.asarray(this.coded[label][0])}
    letters = [i.name for i in getattr(statement.lhs, "indices", ())]
    sides = [read_side(text, scope, this.sizes, of.tex) for text in (left, right)]
    for point in itertools.product(*(range(this.sizes[letter.rstrip("'").upper()]) for letter in letters)):
        i = dict(zip(letters, point))
        assert sides[0](i) == pytest.approx(sides[1](i), rel=1e-12, abs=1e-14)


def test_the_command_prints_count_worst_error_file_and_line():
    run = subprocess.run([sys.executable, "-m", "backprop_lib.equations"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    rows = [row for row in run.stdout.splitlines() if row.split()[0] in LABELS]
    assert [row.split()[0] for row in rows] == LABELS
    for row in rows:
        path, number = row.split()[1].split(":")
        assert f"({row.split()[0]})" in (ROOT / path).read_text(encoding="utf-8").splitlines()[int(number) - 1]
    assert f"{len(LABELS)} equations; worst error" in run.stdout.splitlines()[-1]


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
    (lambda s: (s[0]._replace(label="MLP-99"), *s[1:]), r"missing \['MLP-1'\], unexpected \['MLP-99'\]"),
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
    (dict(y="1.5 * y + 7", dx="1.5 * dx"), "TOY-1", "statement and returned value differ"),
    (dict(y="1.5 * y + 7", dx="1.5 * dx"), "TOY-2", "statement and returned value differ"),
    (dict(dx="-dx"), "TOY-2", "statement and returned value differ"),
    (dict(backward="dx = (dy * 3 * x**2).copy()  # (TOY-2)\n    dx[x < 0] = 0"), "TOY-2", "returned value differ"),
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
    with pytest.raises(LedgerError, match=r"\(TOY-1\): its line stands in cube, not in its pair"):
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
