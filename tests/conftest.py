"""One BLAS thread, no progress bars: the same numbers and the same outputs on every run. And the order of the files."""

import os


os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False                  # it would put the files with few, long tests last


def pytest_collection_modifyitems(config, items):
    """Several workers take whole files in this order: the longest come first, so that none is left with one alone."""
    if hasattr(config, "workerinput"):
        first = ["test_lab.py", "test_equations.py"]
        items.sort(key=lambda item: (item.path.name not in first, item.path.suffix != ".ipynb"))


def pytest_terminal_summary(terminalreporter):
    """The table of equations, if the test that makes it has passed."""
    for report in terminalreporter.getreports("passed"):
        table = dict(report.user_properties).get("table")
        if table and report.when == "call":
            terminalreporter.section("equations")
            terminalreporter.write(table)
