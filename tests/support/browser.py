"""A real JupyterLab in a real Chromium, driven without clicking through menus.

``with laboratory(folder) as address`` runs a server with settings of its own; ``open_notebook`` waits until the kernel
is idle; ``run_all`` returns when every cell has run. The page's own application object is used (``window.jupyterapp``),
because waiting for icons to change is what makes browser tests unreliable.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from course.machine import browsers

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
_KERNEL_IDLE = """async () => {
  const shell = window.jupyterapp.shell;
  for (let i = 0; i < 900; i++) {
    const context = shell.currentWidget?.sessionContext;
    if (context) { await context.ready; if (context.session?.kernel?.status === 'idle') return; }
    await new Promise(resolve => setTimeout(resolve, 100));
  }
  throw new Error('the kernel did not become idle');
}"""


def chromium() -> str | None:
    """The machine's own browser; nothing is downloaded."""
    return next(map(str, browsers()), None)


@contextlib.contextmanager
def laboratory(root: Path, home: Path) -> Iterator[str]:
    """A JupyterLab server over ``root`` whose settings and state live in ``home``. Yields its address."""
    _write_settings(home)
    port = _free_port()
    log = (home / "lab.log").open("w")
    server = subprocess.Popen(
        _command(root, port), env=_environment(home), stdout=log, stderr=log, start_new_session=True
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api", server, home / "lab.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def _command(root: Path, port: int) -> list[str]:
    return [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={root}",
        "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip


def _environment(home: Path) -> dict[str, str]:
    names = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    return {
        **os.environ,
        **{name: str(home / folder) for name, folder in names.items()},
        "COURSE_LEARNER": str(home / "learner"),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _write_settings(home: Path) -> None:
    for name, values in _SETTINGS.items():
        package, plugin = name.split(":")
        path = home / "config" / "lab" / "user-settings" / package / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=1).read()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def browser() -> Iterator[object]:
    """A Chromium context of notebook width, through playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        try:
            yield started.new_context(viewport={"width": 1280, "height": 1000})
        finally:
            started.close()


def open_notebook(context, address: str, notebook: str):
    """The page with ``notebook`` open and its kernel idle. ``page.outside`` lists requests to other hosts,
    ``page.complaints`` the console's errors and warnings."""
    page = context.new_page()
    page.outside, page.complaints = [], []
    page.on("console", lambda m: page.complaints.append(m.text[:300]) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)[:300]))
    page.on("request", lambda r: page.outside.append(r.url) if _is_outside(r.url) else None)
    page.goto(f"{address}/lab/tree/{notebook}?reset")
    page.wait_for_function("window.jupyterapp !== undefined", timeout=60000)
    page.evaluate("async () => { await window.jupyterapp.restored }")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60000)
    page.evaluate(_KERNEL_IDLE)
    page.evaluate("async () => { await window.jupyterapp.commands.execute('application:toggle-left-area') }")
    return page


def _is_outside(url: str) -> bool:
    return "127.0.0.1" not in url and not url.startswith(("data:", "blob:"))


def saved(page) -> dict:
    """The open notebook as a save writes it, with the text of each cell as the list of lines that a file has.

    JupyterLab writes down what the kernel says of itself as soon as it knows it, which is a moment after it is idle.
    """
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.content.model.getMetadata('language_info')?.version", timeout=60000
    )
    path = page.evaluate("""async () => { await window.jupyterapp.commands.execute('docmanager:save');
        return window.jupyterapp.shell.currentWidget.context.path }""")
    return page.evaluate("""async path => (await (await fetch('/files/' + path + '?' + Date.now())).json())""", path)


def run_all(page) -> None:
    """Run every cell; returns when the last has run."""
    page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }")


def errors(page) -> list[str]:
    """The error outputs of all cells."""
    return page.evaluate("""() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
        .filter(cell => cell.type === 'code')
        .flatMap(cell => cell.outputs.toJSON())
        .filter(output => output.output_type === 'error')
        .map(output => output.ename + ': ' + output.evalue)""")


def unfinished(page) -> int:
    """How many code cells have not run."""
    return page.evaluate("""() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
        .filter(cell => cell.type === 'code' && cell.sharedModel.source.trim() && !cell.executionCount).length""")


def set_theme(page, theme: str) -> None:
    """ "JupyterLab Light" or "JupyterLab Dark"."""
    page.evaluate("async t => { await window.jupyterapp.commands.execute('apputils:change-theme', {theme: t}) }", theme)
    light = "true" if theme.endswith("Light") else "false"
    page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached", timeout=20000)
    page.wait_for_timeout(700)


def photograph(page, folder: Path, name: str, step: int = 900) -> list[Path]:
    """Screenshots of the whole open notebook, from top to bottom."""
    folder.mkdir(parents=True, exist_ok=True)
    height = page.evaluate(
        "() => document.querySelector('.jp-NotebookPanel-notebook .jp-WindowedPanel-outer').scrollHeight"
    )
    shots = []
    for number, top in enumerate(range(0, height, step)):
        page.evaluate(
            "y => document.querySelector('.jp-NotebookPanel-notebook .jp-WindowedPanel-outer').scrollTo(0, y)", top
        )
        page.wait_for_timeout(250)
        shots.append(folder / f"{name}_{number:02d}.png")
        page.screenshot(path=str(shots[-1]))
    return shots
