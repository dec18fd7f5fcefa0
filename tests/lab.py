"""JupyterLab in a real browser: start it on a copy of the notebooks, run one, move a slider, see what changed.

The server's settings, kernels and notebooks live in a temporary directory: neither a kernel left on the machine nor a
restored workspace decides the outcome, and the stored notebooks stay as they are.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import backprop_lib


TIMEOUT = 120                                                   # seconds, for anything a kernel or a server must do
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync"]
SERVER_FLAGS = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--IdentityProvider.token=",
                "--ServerApp.password=", "--ServerApp.port_retries=0", "--LabApp.news_url=",
                "--LabApp.expose_app_in_browser=True",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]

CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code')"""
# The toolbar says "idle" before a kernel is attached, so wait for the session itself.
KERNEL_READY = """() => window.jupyterapp?.shell?.currentWidget?.context?.sessionContext
    ?.session?.kernel?.status === 'idle'"""
# All cells as "Run All" does; or the first and those with `part` in their source, while the others stay as stored.
RUN = """part => {
    const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
    const places = notebook.widgets.flatMap((cell, i) => cell.model.type === 'code' ? [i] : []);
    const chosen = places.filter((i, n) => !part || !n
        || notebook.widgets[i].model.sharedModel.getSource().includes(part));
    window.backpropRun = undefined;                             // an evaluation has no time limit, a wait has one
    window.backpropCells = chosen.map(i => notebook.widgets[i].model);
    (async () => {
        window.backpropCells.forEach(model => model.clearExecution());
        if (!part) await app.commands.execute('notebook:run-all-cells');
        else for (notebook.activeCellIndex of chosen) await app.commands.execute('notebook:run-cell');
        window.backpropRun = [true];
    })().catch(error => { window.backpropRun = [String(error)]; });
    return chosen.length;
}"""
ERRORS = f"""() => ({CELLS})().flatMap(cell => {{
    const outputs = Array.from({{length: cell.model.outputs.length}}, (_, i) => cell.model.outputs.get(i).toJSON());
    return outputs.filter(output => output.output_type === 'error').map(output => output.ename + ': ' + output.evalue);
}})"""
NOT_RUN = """() => window.backpropCells
    .filter(model => model.sharedModel.getSource().trim() && !model.executionCount).length"""
OPEN = """path => { window.jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'}); }"""
OPENED = """path => window.jupyterapp?.shell?.currentWidget?.context?.path === path
    && !!document.querySelector('.jp-Notebook .jp-CodeCell')"""
SHUTDOWN = """() => Promise.race([window.jupyterapp.shell.currentWidget.context.sessionContext.shutdown(),
                                 new Promise(resolve => setTimeout(resolve, 10000))])"""
CLOSE = """() => window.jupyterapp.shell.currentWidget.dispose()"""
BROKEN_WIDGETS = """() => [...document.querySelectorAll('.jp-Notebook .jp-OutputArea-output')]
    .map(e => e.textContent).filter(t => /Error displaying widget|Error creating widget|Loading widget/.test(t))"""
RENDERED = """() => [...document.querySelectorAll('.jp-Notebook .jp-MarkdownCell')]
    .every(e => e.querySelector('.jp-RenderedMarkdown'))"""
# MathJax marks what it cannot parse with an error, and an unknown command by writing it in red, one element a letter.
MATH = """() => {
    const prose = [...document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown')];
    const all = css => prose.flatMap(e => [...e.querySelectorAll(css)]);
    const letter = c => String.fromCodePoint(parseInt(/mjx-c([0-9A-F]+)/.exec(c.className)?.[1] ?? '3F', 16));
    const text = e => [...e.querySelectorAll('mjx-c')].map(letter).join('');
    const source = prose.map(e => {
        const copy = e.cloneNode(true);
        copy.querySelectorAll('code, pre, mjx-container').forEach(inner => inner.remove());
        return copy.textContent;
    });
    return {blocks: all('mjx-container').length, raw: source.filter(text => text.includes('$$')),
            wrong: all('mjx-merror, mjx-mtext[style*="red"]').map(e => e.getAttribute('data-mjx-error') || text(e))};
}"""
# ipywidgets may replace the element on every redraw, and an Image gets a new address: look at the bytes themselves.
PICTURE = """async css => {
    const source = document.querySelector(css)?.src;
    if (!source) return '';
    const bytes = await fetch(source).then(answer => answer.arrayBuffer()).catch(() => undefined);
    if (!bytes?.byteLength) return '';
    const digest = await crypto.subtle.digest('SHA-256', bytes);
    return [...new Uint8Array(digest)].map(byte => byte.toString(16).padStart(2, '0')).join('');
}"""


def missing():
    """What this machine lacks to drive a browser, and how to get it; an empty string if nothing."""
    if importlib.util.find_spec("playwright") is None or importlib.util.find_spec("jupyterlab") is None:
        return 'playwright or jupyterlab is missing: pip install "backprop-notebooks[test]"'
    if chromium() is None:
        return "Chromium is missing: apt-get install chromium"
    return ""


def chromium():
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def wait_until(condition, what, timeout=TIMEOUT):
    """Ask again every tenth of a second; a clear AssertionError when the time is over."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} (waited {timeout} s)")
        time.sleep(0.1)


class Lab:
    """A JupyterLab server on a copy of a folder of notebooks, and a browser: use it in a `with` statement.

    Its page stays while notebook after notebook is opened in it, for loading JupyterLab is most of the work; one that
    failed is thrown away.
    """

    def __init__(self, notebooks, scratch):
        self.scratch = Path(scratch)
        self.root = self.scratch / "notebooks"
        self.screenshots = Path(os.environ.get("BACKPROP_SCREENSHOTS", self.scratch / "screenshots")).resolve()
        self.screenshots.mkdir(parents=True, exist_ok=True)
        self.page, self.page_errors = None, []
        shutil.copytree(notebooks, self.root, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))

    def __enter__(self):
        from playwright.sync_api import sync_playwright
        with contextlib.ExitStack() as stack:                   # what started is stopped, also if the next step fails
            stack.callback(self._stop_server)
            self._start_server()
            playwright = stack.enter_context(sync_playwright())
            self.browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
            stack.callback(self.browser.close)
            self._close = stack.pop_all().close
        return self

    def __exit__(self, *exception):
        self._close()

    def open(self, name):
        """Open a notebook alone, without side bars and without a workspace from earlier; wait for its kernel."""
        assert (self.root / name).is_file(), f"there is no notebook {name}"
        return OpenNotebook(self, name)

    def show(self, name):
        """Bring a notebook into the page, into a new one if there is none."""
        if self.page:
            self.page.evaluate(OPEN, name)
        else:
            self.page = self.browser.new_page(viewport={"width": 1280, "height": 1400})
            self.page.on("pageerror", lambda error: self.page_errors.append(str(error)))
            self.page.goto(f"{self.address}/doc/tree/{name}?reset", timeout=TIMEOUT * 1000)

    def write(self, name, cells):
        """Store a small notebook beside the others; a cell is ("code" or "markdown", source)."""
        import nbformat
        book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
        book.cells = [getattr(nbformat.v4, f"new_{kind}_cell")(source) for kind, source in cells]
        nbformat.write(book, self.root / name)

    def _start_server(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = self.scratch / "lab.log"
        with open(self.log, "w") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *SERVER_FLAGS, f"--port={port}",
                 f"--ServerApp.root_dir={self.root}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(), cwd=self.scratch)
        wait_until(self._answers, f"JupyterLab did not start, see {self.log}")

    def _answers(self):
        assert self.server.poll() is None, f"JupyterLab stopped:\n{self.log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(self.address + "/api/status", timeout=2):
                return True
        except OSError:
            return False

    def _stop_server(self):
        self.server.terminate()                                 # JupyterLab ends its kernels before it goes
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait(20)

    def _environment(self):
        """Its own settings, and a kernel python3 that is this interpreter with this backprop_lib."""
        home = self.scratch / "jupyter"
        settings = home / "config" / "lab" / "user-settings"
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        for path, content in {
            home / "data/kernels/python3/kernel.json": {"argv": argv, "display_name": "Python 3", "language": "python"},
            # every cell in the page, also those far below: a check must not miss what is not on the screen
            settings / "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
            settings / "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false"},
        }.items():
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(content))
        paths = [str(Path(backprop_lib.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {name: value for name, value in os.environ.items() if name not in ("JUPYTER_PATH", "MPLBACKEND")}
        return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "JUPYTER_PREFER_ENV_PATH": "0",
                "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_CONFIG_DIR": str(home / "config"),
                "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTERLAB_SETTINGS_DIR": str(settings),
                "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "IPYTHONDIR": str(home / "ipython")}


class OpenNotebook:
    """One notebook in one browser page: use it in a `with` statement, which leaves a screenshot when it fails."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name

    def __enter__(self):
        try:
            self.lab.show(self.name)
            self.page = self.lab.page
            self.wait_for(OPENED, "the notebook did not open", argument=self.name)
            self.wait_for(KERNEL_READY, "the kernel did not start")
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind=None, *details):
        if kind is not None:
            self.screenshot("failed")
        with contextlib.suppress(Exception):                    # a closed page would leave its kernel running
            self.page.evaluate(SHUTDOWN)
        if kind is None:
            self.page.evaluate(CLOSE)
        else:
            self.page.close()
            self.lab.page = None
        self.lab.page_errors.clear()

    def screenshot(self, label):
        """Store what the page looks like; returns the file."""
        path = self.lab.screenshots / f"{Path(self.name).stem}_{label}.png"
        self.page.screenshot(path=str(path))
        return path

    def wait_for(self, script, what, timeout=TIMEOUT, argument=None):
        wait_until(lambda: self.page.evaluate(script, argument), f"{self.name}: {what}", timeout)

    def run(self, part=None):
        """Clear and run all cells, or the first one and those that have `part` in their source; check that they ran
        and none raised, in the page or in the kernel; returns how many."""
        cells = self.page.evaluate(RUN, part)
        self.wait_for("() => window.backpropRun", "the cells did not finish")
        errors, missing = self.page.evaluate(ERRORS), self.page.evaluate(NOT_RUN)
        assert not errors, f"{self.name}: {'; '.join(errors)}"
        assert missing == 0, f"{self.name}: {missing} of {cells} cells did not run"
        self.check_page()
        return cells

    def check_page(self):
        """No script error, no broken widget."""
        errors = self.lab.page_errors
        assert not errors, f"{self.name}: errors of the page: {errors}"
        self.wait_for(f"() => ({BROKEN_WIDGETS})().length === 0", "a widget is not shown", timeout=20)

    def check_math(self, timeout=30):
        """Markdown is rendered, formulas are typeset, none is wrong and none is left as source; returns how many."""
        self.wait_for(RENDERED, "Markdown is not rendered", timeout)
        self.wait_for(f"() => {{ const math = ({MATH})(); return math.blocks > 0 && !math.raw.length; }}",
                      "no formula is typeset, or a $$ is left in the text", timeout)
        math = self.page.evaluate(MATH)
        assert not math["wrong"], f"{self.name}: MathJax refuses {math['wrong']}"
        return math["blocks"]

    def picture(self, css):
        """A digest of the picture's bytes; an empty string while there is none."""
        return self.page.evaluate(PICTURE, css)

    def expect_picture(self, css, png, timeout=30):
        """Wait until the picture consists of exactly these bytes."""
        wanted = hashlib.sha256(png).hexdigest()
        what = f"{self.name}: the picture {css} is not the one expected"
        wait_until(lambda: self.picture(css) == wanted, what, timeout)

    def move_slider(self, slider, picture, timeout=30):
        """Press the right arrow on the first element that fits `slider`, and wait until the picture is another one."""
        wait_until(lambda: self.picture(picture), f"{self.name}: there is no picture {picture}", timeout)
        handle = self.page.locator(slider).first
        handle.wait_for(timeout=timeout * 1000)
        before = self.picture(picture)
        handle.focus()
        for _ in range(4):
            self.page.keyboard.press("ArrowRight")
        wait_until(lambda: self.picture(picture) not in ("", before),
                   f"{self.name}: the slider {slider} moved and the picture {picture} stayed the same", timeout)
        self.check_page()
