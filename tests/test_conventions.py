"""The rules every pure module keeps: docstrings that are true, caches, labels, light imports, complex-safe forwards.

A new pure module adds one line to MODULES.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import backprop_lib
from backprop_lib import cnn, embedding, gru, lstm, mlp, norm, rnn
from backprop_lib.shapes import build_inputs, parse_shapes, shape_of, sizes_found


MODULES = [mlp, cnn, rnn, lstm, gru, norm, embedding]
PREFIXES = {"embedding": "EMB"}                               # of equations; of other modules it is the name
OPTIONS = {"kernel_size", "stride", "padding", "output_padding", "dilation", "groups", "count_include_pad",
           "nonlinearity", "reset_after"}
DATA = {"t", "targets", "mask", "lengths", "running_mean", "running_var",                    # what gets no gradient
        "words", "context", "centre", "candidates"}
WHOLE_NUMBERS = {"rank"}                                        # arrays that never hold a complex number
LABEL_COLUMN = 64
LABEL = re.compile(r"# \([A-Z]+-\d+\)$")
DROPS_THE_IMAGINARY_PART = {"abs", "absolute", "fabs", "var", "std", "norm", "vdot"}
HEAVY = ["sympy", "matplotlib", "ipywidgets", "IPython", "torch", "tqdm", "scipy", "pandas"]


def public_functions(module):
    return [f for name, f in vars(module).items()
            if inspect.isfunction(f) and f.__module__ == module.__name__ and not name.startswith("_")]


def partner(forward):
    return getattr(sys.modules[forward.__module__], forward.__name__.removesuffix("_forward") + "_backward")


PUBLIC = [f for module in MODULES for f in public_functions(module)]
FORWARDS = [f for f in PUBLIC if f.__name__.endswith("_forward")]
DOCUMENTED = FORWARDS + [partner(forward) for forward in FORWARDS]
SOURCES = {module.__name__: Path(module.__file__).read_text(encoding="utf-8") for module in MODULES}
LABELLED = [(name, number, line) for name, text in SOURCES.items()
            for number, line in enumerate(text.splitlines(), 1) if LABEL.search(line)]


def name_of(function):
    return function.__name__


each_forward = pytest.mark.parametrize("forward", FORWARDS, ids=name_of)
each_module = pytest.mark.parametrize("module", MODULES, ids=name_of)


def arguments(function):
    """Names of the forward's arguments but its options, or of the backward's cotangents."""
    return [name for name in inspect.signature(function).parameters if name not in OPTIONS | {"cache"}]


def tuple_of(value):
    return value if isinstance(value, tuple) else (value,)


# ------------------------------------------------------------------------------------------------ docstrings

@each_module
def test_a_module_has_pairs_and_a_docstring(module):
    assert any(f.__module__ == module.__name__ for f in FORWARDS)
    assert module.__doc__


@pytest.mark.parametrize("function", PUBLIC, ids=name_of)
def test_a_docstring_starts_with_a_sentence_or_is_the_shapes_line(function):
    doc = inspect.getdoc(function)
    assert doc
    first = doc.split("\n\n")[0].split("\nShapes:")[0]
    assert first.startswith("Shapes:") or re.match(r"\S.*?\.(\s|$)", first, re.DOTALL), first


@pytest.mark.parametrize("function", PUBLIC, ids=name_of)
def test_a_function_fits_on_a_screen(function):
    assert len(inspect.getsource(function).splitlines()) <= 50


@pytest.mark.parametrize("function", DOCUMENTED, ids=name_of)
def test_the_shapes_line_names_the_arguments_in_order(function):
    assert [a.name for a in parse_shapes(function)[0]] == arguments(function)


@each_forward
def test_the_documented_outputs_have_the_documented_shapes(forward):
    documented = parse_shapes(forward)[1]
    *outputs, cache = forward(*build_inputs(forward, np.random.default_rng(1)))
    sizes = sizes_found(forward, outputs)
    assert [np.shape(y) for y in outputs] == [shape_of(a, sizes) for a in documented]


@each_forward
def test_the_documented_gradients_have_the_documented_shapes(forward):
    documented = parse_shapes(partner(forward))[1]
    *outputs, cache = forward(*build_inputs(forward, np.random.default_rng(1)))
    gradients = tuple_of(partner(forward)(*[np.ones(np.shape(y)) for y in outputs], cache))
    sizes = sizes_found(forward, outputs)
    assert [np.shape(g) for g in gradients] == [shape_of(a, sizes) for a in documented]


@each_forward
def test_cotangents_are_d_and_the_outputs_name_with_the_same_shape(forward):
    outputs, cotangents = parse_shapes(forward)[1], parse_shapes(partner(forward))[0]
    cotangents = [(a.name.removesuffix("_next"), a.dims) for a in cotangents]       # dc_next: from the next step
    assert cotangents == [(f"d{a.name}", a.dims) for a in outputs]


@each_forward
def test_gradients_are_d_and_the_arguments_name_in_order_with_the_same_shape(forward):
    inputs = [(f"d{a.name}", a.dims) for a in parse_shapes(forward)[0]]
    gradients = [(a.name, a.dims) for a in parse_shapes(partner(forward))[1]]
    assert gradients
    assert gradients == [item for item in inputs if item in gradients]


@each_forward
def test_every_random_argument_gets_a_gradient_unless_it_is_data(forward):
    """Targets, masks, lengths and numbers such as alpha are data; everything else must not be forgotten."""
    learned = [a.name for a in parse_shapes(forward)[0] if a.dims and a.name not in DATA]
    assert [a.name for a in parse_shapes(partner(forward))[1]] == [f"d{name}" for name in learned]


@each_forward
def test_a_backward_ends_with_the_cache(forward):
    assert list(inspect.signature(partner(forward)).parameters)[-1] == "cache"


@each_forward
def test_a_cache_is_a_named_tuple(forward):
    *_, cache = forward(*build_inputs(forward, np.random.default_rng(1)))
    assert isinstance(cache, tuple) and type(cache) is not tuple
    assert type(cache).__name__.endswith("Cache")
    assert list(type(cache).__annotations__ if cache._fields else {}) == list(cache._fields)


# ------------------------------------------------------------------------------------------------ source

@pytest.mark.parametrize("module, number, line", LABELLED)
def test_labels_stand_at_one_column(module, number, line):
    code, column = line[:LABEL.search(line).start()], LABEL.search(line).start()
    if len(code.rstrip()) < 60:
        assert column == LABEL_COLUMN
    else:
        assert column >= LABEL_COLUMN and code.endswith("  ")


@each_module
def test_a_label_marks_exactly_one_line_of_code(module):
    labels = re.findall(r"#.*?\(([A-Z]+-\d+)\)", SOURCES[module.__name__])
    assert labels
    assert len(labels) == len(set(labels))
    assert all(line.split("#")[0].strip() for name, _, line in LABELLED if name == module.__name__)
    assert len(labels) == sum(name == module.__name__ for name, _, _ in LABELLED)


@each_module
def test_labels_count_1_2_3_in_reading_order(module):
    labels = [re.search(r"\(([A-Z]+)-(\d+)\)", line[LABEL.search(line).start():]).groups()
              for name, _, line in LABELLED if name == module.__name__]
    name = module.__name__.split(".")[-1]
    family = PREFIXES.get(name, name.upper())
    assert labels == [(family, str(i + 1)) for i in range(len(labels))]


@each_module
def test_lines_are_at_most_120_columns(module):
    assert max(map(len, SOURCES[module.__name__].splitlines())) <= 120


def called_names(tree):
    """The last name of every function or method called: norm for np.linalg.norm(x), std for x.std()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def calls_to_forget_complex(source):
    """(function, call) for every call that drops an imaginary part, in everything but backward functions."""
    return [(f.name, call) for f in ast.walk(ast.parse(source)) if isinstance(f, ast.FunctionDef)
            and not f.name.endswith("_backward") for call in called_names(f) if call in DROPS_THE_IMAGINARY_PART]


@each_module
def test_forwards_carry_complex_numbers(module):
    assert calls_to_forget_complex(SOURCES[module.__name__]) == []


@pytest.mark.parametrize("call", ["np.abs(x)", "abs(x)", "x.std()", "np.linalg.norm(x)", "np.vdot(x, x)", "np.var(x)"])
def test_the_search_for_such_calls_finds_them(call):
    assert len(calls_to_forget_complex(f"def f_forward(x):\n    return {call} + 1")) == 1
    assert len(calls_to_forget_complex(f"def helper(x):\n    return {call} + 1")) == 1
    assert calls_to_forget_complex(f"def f_backward(x):\n    return {call} + 1") == []


def ordered_complex(source):
    """Maxima of something that is not `.real`, and np.where on such a comparison, outside backward functions."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and not function.name.endswith("_backward"):
            for node in [node for node in ast.walk(function) if isinstance(node, ast.Call)]:
                name = next(iter(called_names(ast.Expression(node))))
                ordered = []
                if name in ("max", "min", "argmax", "argmin"):
                    method = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") != "np"
                    ordered = [node.func.value] if method else node.args[:1]
                elif name == "where" and isinstance(node.args[0], ast.Compare):
                    ordered = [node.args[0].left]
                yield from (ast.unparse(node) for value in ordered
                            if not (isinstance(value, ast.Attribute) and value.attr == "real"
                                    or getattr(value, "id", "") in WHOLE_NUMBERS))


@each_module
def test_forwards_compare_real_parts(module):
    assert list(ordered_complex(SOURCES[module.__name__])) == []


@pytest.mark.parametrize("call, found", [("z.max()", 1), ("np.max(z)", 1), ("np.where(z > 0, z, 0)", 1),
                                         ("z.real.max()", 0), ("np.max(z.real)", 0), ("np.where(z.real > 0, z, 0)", 0)])
def test_the_search_for_such_comparisons_finds_them(call, found):
    assert len(list(ordered_complex(f"def f_forward(z):\n    return {call}"))) == found
    assert list(ordered_complex(f"def f_backward(z):\n    return {call}")) == []


def in_place_operations(source):
    """Augmented assignments and assignments to entries or attributes in forward and backward functions."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and function.name.endswith(("_forward", "_backward")):
            names = {argument.arg for argument in function.args.args}
            for node in ast.walk(function):
                targets = [node.target] if isinstance(node, ast.AugAssign) else getattr(node, "targets", [])
                for target in targets:
                    root = target
                    while isinstance(root, (ast.Subscript, ast.Attribute)):
                        root = root.value
                    if (root is not target or isinstance(node, ast.AugAssign)) and getattr(root, "id", "") in names:
                        yield function.name, ast.unparse(node)


@pytest.mark.parametrize("line", ["z *= 2", "z[0] = 1", "z[0] += 1", "z.flat[0] = 1", "z.real[...] = 0"])
def test_the_search_for_such_assignments_finds_them(line):
    assert len(list(in_place_operations(f"def f_forward(z):\n    {line}\n    return z"))) == 1


@each_module
def test_no_argument_is_assigned_to_in_place(module):
    assert list(in_place_operations(SOURCES[module.__name__])) == []


# ------------------------------------------------------------------------------------------------ imports

def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          cwd=Path(backprop_lib.__file__).parents[1])


@pytest.mark.parametrize("imports", ["backprop_lib", "backprop_lib.nn", "backprop_lib.gradcheck",
                                     "backprop_lib, backprop_lib.mlp, backprop_lib.nn, backprop_lib.gradcheck",
                                     "backprop_lib.autodiff, backprop_lib.sweeps",
                                     "backprop_lib.plain, backprop_lib.perceptron, backprop_lib.fixed_point",
                                     "backprop_lib.targets, backprop_lib.data"])
def test_importing_the_library_brings_numpy_and_nothing_heavier(imports):
    done = run_python(f"import sys, {imports}; print(sorted(set(sys.modules) & set({HEAVY})))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@each_module
def test_a_pure_module_imports_only_numpy_typing_and_its_own_package(module):
    tree = ast.parse(SOURCES[module.__name__])
    absolute = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import)
                for alias in node.names}
    absolute |= {node.module.split(".")[0] for node in ast.walk(tree)
                 if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert absolute <= {"numpy", "typing", "math"}


@each_module
def test_a_pure_module_holds_no_state(module):
    """Nothing at module level but functions, classes, modules and constants that cannot change."""
    for name, value in vars(module).items():
        if not name.startswith("__"):
            assert callable(value) or inspect.ismodule(value) or isinstance(value, (int, float, str, tuple)), name
