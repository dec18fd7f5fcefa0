"""python -m backprop_lib.equations                      check every equation and print the table
python -m backprop_lib.equations render notebooks/*.ipynb   put the ledger's equations into the notebooks
"""

import sys

from .notebooks import rendered, rewrite
from .source import LabelError
from .ledger import FAMILIES, FACTOR, LIMIT, LedgerError, check_family, family

HEADER = f"{'equation':<9} {'where':<28} {'statement=code':>14} {'SymPy':>10} {'chain rule':>10} {f'x{FACTOR} seen':>10}"


def table():
    """Check every family and print one row an equation; returns the exit status."""
    print(HEADER)
    count, worst = 0, 0.0
    for prefix in FAMILIES:
        for v in check_family(family(prefix)):
            where = f"backprop_lib/{v.line.path.name}:{v.line.number}"
            derived = "" if v.proof == "definition" else f"{v.derived:.1e}"
            print(f"{v.label:<9} {where:<28} {v.executed:>14.1e} {v.proof:>10} {derived:>10} {v.weight:>10.1e}")
            count, worst = count + 1, max(worst, v.executed, v.derived)
    print(f"{count} equations; worst error {worst:.1e} (limit {LIMIT:.0e}); "
          f"each one's line times {FACTOR} makes a gradient check fail")


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
