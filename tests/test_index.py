"""The index: each link names a section that exists, once, and whose cells ran; each section with code is linked."""

import functools
import itertools
import re
from typing import NamedTuple

import pytest
from test_notebooks import ROOT, read, source


NOTEBOOKS = ROOT / "notebooks"
PAGE = (NOTEBOOKS / "INDEX.md").read_text(encoding="utf-8")
LINK = re.compile(r"(\w+) \[([^\]]+)\]\(([^)#]+)#([^)]*)\)(?:: claims? ([\d, ]*\d))?")
FRAME = ("What we left out", "Exercises")


class Item(NamedTuple):
    """A heading of a notebook, or a code cell, whose level is deeper than any heading's."""

    level: int
    title: str = ""
    cell: dict | None = None


@functools.cache
def outline(name):
    """The headings and code cells of a notebook, in order."""
    items = []
    for cell in read(NOTEBOOKS / name)["cells"]:
        headings = re.findall(r"^(#+) (.+)$", source(cell), re.MULTILINE)
        items += [Item(9, cell=cell)] if cell["cell_type"] == "code" else [Item(len(h), title) for h, title in headings]
    return items


def section(items, title):
    """What stands below a heading, up to the next one of its level or above."""
    first, *rest = itertools.dropwhile(lambda item: item.title != title, items)
    return list(itertools.takewhile(lambda item: item.level > first.level, rest))


def link_faults(number, title, name, anchor, claims, look=outline):
    """What is wrong with one link, one line each."""
    if not (NOTEBOOKS / name).is_file():
        return [f"there is no {name}"]
    items = look(name)
    count = sum(item.title == title for item in items)
    if count != 1:
        return [f"{name} has {count} headings {title!r}"]
    found, inside = [], section(items, title)
    if name.split("_")[0] != number:
        found.append(f"{name} is not notebook {number}")
    if anchor != title.replace(" ", "-"):
        found.append(f"JupyterLab has no anchor {anchor!r}")
    code = [item.cell for item in inside if item.cell]
    if not code or not all(cell["execution_count"] for cell in code):
        found.append(f"{title!r} of {name} has no code, or code that did not run")
    numbered = [item.title.split(". ")[0] for item in inside]
    return found + [f"{title!r} has no claim {n}" for n in re.findall(r"\d+", claims) if n not in numbered]


def faults(page):
    """What is wrong with an index page, one line each."""
    links = LINK.findall(page)
    found = [fault for link in links for fault in link_faults(*link)]
    rows = [row for row in re.findall(r"^\| .*", page, re.MULTILINE) if not row.endswith("notebook and section |")]
    found += [f"a row without a link: {row}" for row in rows if not LINK.search(row)]
    if page.count("](") != len(links):
        found.append(f"{page.count('](')} links, of which {len(links)} name notebook, heading and anchor")
    linked = {(name, title) for _, title, name, _, _ in links}
    return found + [f"{title!r} of {path.name} is not in the index" for path in sorted(NOTEBOOKS.glob("*.ipynb"))
                    for title, names in sections(path.name) if not linked & {(path.name, name) for name in names}]


def sections(name):
    """The sections of a notebook that have code, each with its own heading and those below it."""
    for title in [item.title for item in outline(name) if item.level == 2 and item.title not in FRAME]:
        inside = section(outline(name), title)
        if any(item.cell for item in inside):
            yield title, {title, *(item.title for item in inside if item.title)}


def test_every_link_leads_to_a_section_that_runs():
    assert faults(PAGE) == []


def test_the_index_is_found_from_the_readme_and_the_first_notebook():
    start = read(NOTEBOOKS / "00_start_here.ipynb")
    assert "](notebooks/INDEX.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert any("](INDEX.md)" in source(cell) for cell in start["cells"])


@pytest.mark.parametrize("old, new, fault", [
    ("(03_rnn.ipynb#Through-time)", "(03_lost.ipynb#Through-time)", "there is no 03_lost.ipynb"),
    ("[Through time](03_rnn", "[Through space](03_rnn", "0 headings 'Through space'"),
    ("02 [See it](02_cnn.ipynb#See-it)", "02 [Forward](02_cnn.ipynb#Forward)", "2 headings 'Forward'"),
    ("03_rnn.ipynb#Through-time", "03_rnn.ipynb#through-time", "no anchor 'through-time'"),
    ("03 [Through time]", "04 [Through time]", "03_rnn.ipynb is not notebook 04"),
    ("06b [Which limit?](06b_gradient_checking.ipynb#Which-limit?)",
     "06b [A recipe](06b_gradient_checking.ipynb#A-recipe)", "has no code"),
    ("claims 11, 12, 23", "claims 11, 12, 7", "has no claim 7"),
    ("03 [Through time](03_rnn.ipynb#Through-time)", "see notebook 03", "a row without a link"),
    ("03 [Through time](03_rnn.ipynb#Through-time)", "03 [Through time](03_rnn.ipynb)", "name notebook, heading"),
])
def test_a_doctored_page_is_found(old, new, fault):
    assert PAGE.count(old) == 1
    assert any(fault in line for line in faults(PAGE.replace(old, new)))


def test_a_section_without_a_row_is_found():
    without = "\n".join(line for line in PAGE.splitlines() if "#Dropout)" not in line)
    assert faults(without) == ["'Dropout' of 01b_activations_and_losses.ipynb is not in the index"]


def test_a_section_that_did_not_run_is_found():
    def look(name):
        return [item._replace(cell=item.cell and {**item.cell, "execution_count": None}) for item in outline(name)]
    link = "03", "Through time", "03_rnn.ipynb", "Through-time", ""
    assert link_faults(*link) == [] and "did not run" in link_faults(*link, look)[0]
