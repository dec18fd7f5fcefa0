"""Check equations in a notebook, and show what was found as a table."""

from .ledger import check_statement, find


def verify(*labels):
    """In a notebook: check these equations here and now, and say where their code is. Raises if one fails."""
    verdicts = [check_statement(*find(label)) for label in labels]
    plain = "\n".join(f"({v.label})  {v.line.code}  [{v.line.path.name}:{v.line.number}]  {_in_words(v)}"
                      for v in verdicts)
    rows = "\n".join(f"| ({v.label}) | `{v.line.code}` | {_in_words(v)} | {_link(v.line)} |" for v in verdicts)
    display(plain, f"| equation | code line | checked now | where |\n|:--|:--|:--|:--|\n{rows}")


def _in_words(verdict):
    agreed = {"definition": "statement = code", "formula": "statement = code = SymPy's chain rule",
              "numbers": "statement = code = SymPy's chain rule, in numbers"}[verdict.proof]
    return f"{agreed}; {verdict.change} is noticed"


def _link(line):
    """A link that works from the notebooks folder, in JupyterLab and on a code host."""
    return f"[{line.path.name}:{line.number}](../backprop_lib/{line.path.name}#L{line.number})"


def display(plain, markdown):
    """A table in a notebook, plain text elsewhere."""
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = lambda: None                              # noqa: E731
    if get_ipython() is None:
        print(plain)
        return
    from IPython.display import publish_display_data
    publish_display_data({"text/plain": plain, "text/markdown": markdown})
