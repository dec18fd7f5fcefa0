"""python -m backprop_lib.equations                      check every equation and print the table
python -m backprop_lib.equations render notebooks/*.ipynb   put the ledger's equations into the notebooks
"""

import sys

from .ledger import FACTOR, FAMILIES, LIMIT, LedgerError, check_family, family
from .notebooks import rendered, rewrite
from .source import LabelError


COLUMNS = "{:<9} {:<28} {:>14} {:>10} {:>10} {:>10}"


def table():
    """Check every family and print one row an equation; returns the exit status."""
    print(COLUMNS.format("equation", "where", "statement=code", "SymPy", "chain rule", f"x{FACTOR} seen"))
    count, worst = 0, 0.0
    for prefix in FAMILIES:
        for v in check_family(family(prefix)):
            where = f"backprop_lib/{v.line.path.name}:{v.line.number}"
            derived = "" if v.proof == "definition" else f"{v.derived:.1e}"
            print(COLUMNS.format(v.label, where, f"{v.executed:.1e}", v.proof, derived, f"{v.weight:.1e}"))
            count, worst = count + 1, max(worst, v.executed, v.derived)
    print(f"{count} equations; worst error {worst:.1e} (limit {LIMIT:.0e}); "
          "each one's line was changed, and it was noticed")


def main(arguments):
    try:
        if arguments[:1] == ["render"]:
            blocks = rendered()
            for path in arguments[1:]:
                changed = rewrite(path, blocks)
                print(f"{path}: " + (f"rewrote {', '.join(changed)}" if changed else "up to date"))
        elif arguments:
            sys.exit(__doc__)
        else:
            table()
    except (LedgerError, LabelError) as error:
        sys.exit(f"RED: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
