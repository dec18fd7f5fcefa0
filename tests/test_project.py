"""The project's own promises: the files agree with each other, and with what the README says."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from backprop_lib.equations.ledger import FAMILIES, family


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = [path for path in sorted(ROOT.rglob("*")) if path.is_file()
         and path.suffix in {".md", ".py", ".toml", ".yml", ".ipynb", ".mplstyle", ".txt", ""}
         and not any(part.startswith(".") and part not in (".ci", ".github") or part in ("dist", "build")
                     for part in path.relative_to(ROOT).parts)]


def test_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    packages = [p for p in environment["dependencies"] if isinstance(p, str)]
    pip, = [p["pip"] for p in environment["dependencies"] if isinstance(p, dict)]
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]
    assert sorted(packages) == sorted(["python=3.11", "pip", *wanted])
    assert pip == ["-e .[lab]"] and environment["channels"] == ["conda-forge"]
    assert environment["name"] == PROJECT["name"] == "backprop-notebooks"


def test_the_core_needs_numpy_alone():
    assert [re.match(r"[\w-]+", d)[0] for d in PROJECT["dependencies"]] == ["numpy"]


def test_ci_covers_the_oldest_python_and_numpy():
    workflow = (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    oldest_python, oldest_numpy = PROJECT["requires-python"].lstrip(">="), PROJECT["dependencies"][0].split(">=")[1]
    assert f'python: "{oldest_python}", numpy: "numpy=={oldest_numpy}.*"' in workflow and "cron" in workflow


def test_readme_example_prints_what_it_says():
    code, answer = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", README, re.DOTALL).groups()
    assert len(code.strip().splitlines()) <= 12
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stderr == "" and run.stdout == answer


def test_readme_index_lists_every_notebook():
    listed = re.findall(r"\]\(notebooks/([\w.]+\.ipynb)\)", README)
    assert sorted(set(listed)) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README):
        target = target[0] or target[1]
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_readme_states_the_number_of_equations():
    assert f"{sum(len(family(prefix).statements) for prefix in FAMILIES)} equations" in README


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_installs_a_strangers_package_or_names_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search("pip install " + r"[^\n`]*backprop" + r"[-_]lib\b", text)
    if path.suffix != ".py":
        assert not re.search(r"(?<![\w.*/])/(?:root|work|farm)/", text)


def test_changelog_names_the_version():
    version = re.search(r'__version__ = "(.+)"', (ROOT / "backprop_lib/__init__.py").read_text())[1]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_notebook_order_is_alphabetical_reading_order():
    """`sorted` is what `make equations` and the label test rely on."""
    names = [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert names == sorted(names, key=lambda name: re.match(r"(\d\d)([a-z]?)_", name).groups())
