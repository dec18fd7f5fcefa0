"""The exhibits of the museum as mutations: python mutations.py prints, for each, the first of our tests that fails.

Each exhibit meets the tests of its own module, all in one session: they are collected once, on the clean library. One
case of each test comes first, then a second one of each, so that a test that sees the exhibit is soon reached. It runs
once more when the exhibit is gone, and must pass. A change that is none, "harmless", must not be caught.
"""

import collections
import contextlib
import io
import pathlib
import sys

import pytest

from backprop_lib import gru
from backprop_lib.museum import EXHIBITS, Exhibit, on_show


HARMLESS = Exhibit("harmless", "", gru.gru_step_backward, "GRU-15", "dh_prev = du @ W_hh + dh * z", "", gru.gru_forward)
SHOWN = EXHIBITS | {"harmless": HARMLESS}


class Session:
    """A pytest plugin: a loop over the exhibits in place of the one over the tests. {name: first test that failed}"""

    def __init__(self):
        self.failed, self.caught = False, {}

    def pytest_runtest_logreport(self, report):
        self.failed |= report.failed

    def pytest_runtestloop(self, session):
        for name, exhibit in SHOWN.items():
            items = in_turns(item for item in session.items if item.path == file_of(exhibit))
            self.caught[name] = self.first_that_fails(exhibit, items)
        return True

    def first_that_fails(self, exhibit, items):
        """The name of the first test that fails while the exhibit is on show, and passes afterwards; or None."""
        with on_show(exhibit):
            first = next(filter(self.fails, items), None)
        return None if first is None or self.fails(first) else first.nodeid

    def fails(self, item):
        self.failed = False
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return self.failed


def in_turns(items):
    """The first case of each test, then the second ones, and so on."""
    seen, turns = collections.Counter(), []
    for item in items:
        turns.append((seen[item.originalname], item))
        seen[item.originalname] += 1
    return [item for _, item in sorted(turns, key=lambda turn: turn[0])]


def file_of(exhibit):
    """The tests of the module whose function is changed."""
    return pathlib.Path(__file__).with_name(f"test_{exhibit.function.__module__.split('.')[-1]}.py")


def main():
    session, shown = Session(), io.StringIO()
    files = sorted({str(file_of(exhibit)) for exhibit in SHOWN.values()})
    with contextlib.redirect_stdout(shown):
        pytest.main([*files, "-q", "--tb=no", "-p", "no:cacheprovider", "-m", "not hypothesis"], plugins=[session])
    if list(session.caught) != list(SHOWN):
        sys.exit(shown.getvalue())
    for name, test in session.caught.items():
        print(name, test or "NOT CAUGHT", sep="\t")


if __name__ == "__main__":
    main()
