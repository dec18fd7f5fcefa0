"""The notebook of claims: each heading's answer in bold is the verdict that its cell records."""

import json
import pathlib
import re


NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "07b_claims_on_trial.ipynb"
CLAIMS = list(range(1, 25))


def whole_text():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def faults(text):
    """What is wrong with the claims of a text, one line each."""
    parts = re.split(r"^### (\d+)\. ", text, flags=re.MULTILINE)
    numbers = [int(n) for n in parts[1::2]]
    found = [] if sorted(numbers) == CLAIMS else [f"the headings are {sorted(numbers)}"]
    for n, part in zip(numbers, parts[2::2]):
        answer = re.search(r"\*\*(\w+)", part)
        answer = answer and answer[1].lower()
        recorded = re.findall(r'^verdict\((\d+), "(\w+)"', part, re.MULTILINE)
        if recorded != [(str(n), answer)]:
            found.append(f"claim {n} says {answer}, its cell records {recorded}")
    return found


def test_each_answer_is_the_recorded_verdict():
    assert faults(whole_text()) == []


def test_a_doctored_text_is_found():
    text = whole_text()
    for old, new, fault in [("### 7. ", "### 8. ", "the headings are"), ("### 7. ", "7. ", "the headings are"),
                            ("**Right**", "**Wrong**", "claim 14 says wrong"),
                            ('verdict(2, "wrong"', 'verdict(2, "right"', "claim 2 says wrong"),
                            ('verdict(2, "wrong"', 'verdict(3, "wrong"', "claim 2 says wrong"),
                            ("verdict(24, ", "print(24, ", "claim 24 says imprecise")]:
        assert text.count(old) == 1
        assert faults(text.replace(old, new))[0].startswith(fault)
