"""Keep the numbered display equations of the notebooks equal to the ledger."""

import json
import pathlib
import re

from .latex import render
from .ledger import FAMILIES, family
from .source import LabelError


BLOCK = re.compile(r"\$\$(?:(?!\$\$).)*?\\tag\{([A-Z]+-\d+)\}\s*\$\$", re.DOTALL)


def rendered():
    """{label: display block} for every equation of every family."""
    return {s.label: render(s, of.tex) for of in map(family, FAMILIES) for s in of.statements}


def markdown_cells(path):
    """The notebook and its markdown cells, each source joined to one string."""
    notebook = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    return notebook, [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def tagged(path):
    """The (label, block) pairs of one notebook, in reading order.

    Raises LabelError for a tag that is not a display block of its own, or that a reader would not see as one.
    """
    _, cells = markdown_cells(path)
    found = []
    for text in ("".join(cell["source"]) for cell in cells):
        blocks = [(m[1], m[0]) for m in BLOCK.finditer(text)]
        hidden = re.search(r"<!--|^ *(```|~~~)|~~|\\(def|let|renewcommand)\b", text, re.MULTILINE)
        alone = len(re.findall(rf"(?:\A|\n\n){BLOCK.pattern}(?=\n\n|\n?\Z)", text, re.DOTALL))
        if not len(blocks) == alone == text.count(r"\tag") or text.count("$$") % 2 or blocks and hidden:
            raise LabelError(f"{path}: a tag must stand in a block of its own, $$ ... $$ between empty lines, outside "
                             f"comments and code: {text[:60]!r}")
        found += blocks
    return found


def rewrite(path, blocks):
    """Put the ledger's blocks into a notebook; returns the labels that had differed."""
    notebook, cells = markdown_cells(path)
    changed = []

    def replace(match):
        if match[1] not in blocks:
            raise LabelError(f"{path}: ({match[1]}) is not in the ledger")
        if match[0] != blocks[match[1]]:
            changed.append(match[1])
        return blocks[match[1]]

    for cell in cells:
        cell["source"] = BLOCK.sub(replace, "".join(cell["source"])).splitlines(keepends=True)
    if changed:
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        pathlib.Path(path).write_text(text, encoding="utf-8")
    return changed


def check_notebooks(paths, blocks):
    """Every equation stands in the series once, in order, byte for byte, and every (MLP-7) in the text exists."""
    labels = []
    for path in paths:
        for label, block in tagged(path):
            if label not in blocks:
                raise LabelError(f"{path}: ({label}) is not in the ledger")
            if block != blocks[label]:
                raise LabelError(f"{path}: the block of ({label}) is not what the ledger prints: run `make equations`")
            labels.append(label)
        _, cells = markdown_cells(path)
        named = set(re.findall(rf"\b(?:{'|'.join(FAMILIES)})-\d+", "\n".join("".join(c["source"]) for c in cells)))
        if named - set(blocks):
            raise LabelError(f"{path}: the text names {sorted(named - set(blocks))}, which the ledger does not have")
    if labels != list(blocks):
        wrong = [pair for pair in zip(labels, blocks) if pair[0] != pair[1]]
        raise LabelError(f"the notebooks show {len(labels)} equations, the ledger has {len(blocks)}; "
                         + (f"read ({wrong[0][0]}) where ({wrong[0][1]}) was expected" if wrong else
                            f"missing or extra {sorted(set(labels) ^ set(blocks)) or 'repeated labels'}"))
