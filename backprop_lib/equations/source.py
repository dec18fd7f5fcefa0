"""The labelled lines of a module: find them, read the values they compute, change them in a copy.

The library is never touched: a copy of the module is compiled from the changed source and lives for one check.
"""

import ast
import copy
import functools
import inspect
import pathlib
import re
import types
from typing import NamedTuple

import numpy as np


LABEL = re.compile(r"[^#]*#\s*\(([A-Z]+-\d+)\)\s*")


class Line(NamedTuple):
    """One labelled line of code."""
    label: str
    path: pathlib.Path
    number: int
    function: str
    code: str


class LabelError(ValueError):
    """A label stands where it must not, twice, out of order, or not where it must."""


def labelled_lines(module, source=None):
    """Every line of the module that ends in a comment such as `# (MLP-7)`, in order of appearance."""
    return _labelled_lines(pathlib.Path(module.__file__), source_of(module, source))


def source_of(module, source=None):
    """The module's source as it is on disk now, unless a changed one is given."""
    return pathlib.Path(module.__file__).read_text(encoding="utf-8") if source is None else source


@functools.lru_cache(maxsize=32)
def _labelled_lines(path, source):
    (tree, simple), lines, text = _parsed(source), [], source.splitlines()
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    quoted = {number for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
              for number in range(node.lineno, node.end_lineno)}
    for number, line in enumerate(text, start=1):
        found = LABEL.fullmatch(line)
        if found and number not in quoted:                      # the line does not end inside a docstring
            function = next((f.name for f in functions if f.lineno <= number <= f.end_lineno), None)
            code = " ".join(line.split("#")[0].strip() for node in on_line(simple, number)[:1]
                            for line in text[node.lineno - 1:node.end_lineno])
            lines.append(Line(found[1], path, number, function, code))
    return tuple(lines)


def simple_statements(tree):
    """The statements without a body of their own: assignments, returns, calls."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not hasattr(node, "body")]


def on_line(statements, number):
    """The statements that stand on a line, or reach over it."""
    return [node for node in statements if node.lineno <= number <= node.end_lineno]


def assignment(statements, line):
    """The assignment to one name that stands, alone, on a labelled line; and the name."""
    nodes = on_line(statements, line.number)
    if len(nodes) == 1 and isinstance(nodes[0], (ast.Assign, ast.AugAssign)):
        targets = [nodes[0].target] if isinstance(nodes[0], ast.AugAssign) else nodes[0].targets
        if len(targets) == 1 and isinstance(targets[0], ast.Name):
            return nodes[0], targets[0].id
    raise LabelError(f"({line.label}) {line.path.name}:{line.number}: a label stands behind an assignment to one name")


class _Rewrite(ast.NodeTransformer):
    def __init__(self, replace):
        self.replace = replace

    def visit_Assign(self, node):
        return self.replace.get(node, node)

    visit_AugAssign = visit_Assign


def _executed(module, code, **extra):
    """A fresh module, in the same package so that its imports work."""
    twin = types.ModuleType(module.__name__)
    twin.__package__, twin.__file__ = module.__package__, module.__file__
    twin.__dict__.update(extra)
    exec(code, twin.__dict__)
    return twin


def recording(module, source=None):
    """A copy of the module, and a dict that collects {label: [value, ...]} as the labelled lines run."""
    values, code = {}, _recording_code(pathlib.Path(module.__file__), source_of(module, source))
    return _executed(module, code, _values=values, _copied=copy.deepcopy), values


@functools.lru_cache(maxsize=8)
def _recording_code(path, source):
    tree, replace = ast.parse(source), {}
    statements = simple_statements(tree)
    for line in _labelled_lines(path, source):
        node, name = assignment(statements, line)
        save = ast.parse(f"_values.setdefault({line.label!r}, []).append(_copied({name}))").body
        replace[node] = [node, *save]
    return compile(ast.fix_missing_locations(_Rewrite(replace).visit(tree)), str(path), "exec")


def rewritten(module, label, change, source=None, **extra):
    """A copy of the module in which `change` (a function of one syntax node) has replaced a label's right-hand side."""
    tree, statements = _parsed(source_of(module, source))
    line = next((line for line in labelled_lines(module, source) if line.label == label), None)
    if line is None:
        raise LabelError(f"({label}): no line of {module.__name__} carries this label")
    node, _ = assignment(statements, line)
    unchanged = node.value
    try:
        node.value = change(unchanged)
        code = compile(ast.fix_missing_locations(tree), module.__file__, "exec")
    finally:
        node.value = unchanged                                  # the tree is kept for the next label
    return _executed(module, code, **extra)


@functools.lru_cache(maxsize=8)
def _parsed(source):
    tree = ast.parse(source)
    return tree, simple_statements(tree)


def scaled(module, label, factor, source=None):
    """A copy of the module in which one labelled right-hand side is multiplied by factor; see `off`."""
    def change(value):
        return ast.Call(ast.Name("_off", ast.Load()), [value, ast.Constant(factor)], [])
    return rewritten(module, label, change, source, _off=off)


def off(value, factor):
    """A float times factor, a whole number plus 1, the opposite of a truth value."""
    value = np.asarray(value)
    kind = value.dtype.kind
    return np.logical_not(value) if kind == "b" else value + 1 if kind in "iu" else value * factor


def show_source(*functions):
    """Show the real source of functions in a notebook."""
    from IPython.display import Markdown, display
    code = "\n\n".join(inspect.getsource(f).rstrip() for f in functions)
    display(Markdown(f"```python\n{code}\n```"))
