"""The equation ledger: the statement of each numbered equation, how it is rendered, proved, executed and weighed.

`verify("MLP-3")` checks one in a notebook; `python -m backprop_lib.equations` checks all and prints a table.
"""

try:
    import sympy  # noqa: F401
except ImportError as error:
    raise ImportError('the equation ledger needs SymPy: pip install "backprop-notebooks[lab]"') from error

from .exercise import exercise
from .ledger import LedgerError
from .source import show_source
from .table import verify
from .worked import work_through


__all__ = ["LedgerError", "exercise", "show_source", "verify", "work_through"]
