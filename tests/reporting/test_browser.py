"""The page in a real browser: it loads, its script runs, nothing complains, nothing is asked of the network."""

import html
import os
import re
import shutil
import subprocess

import pytest
from runs import page_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--no-first-run")
POLICY = r'<meta http-equiv="Content-Security-Policy"[^>]*>'
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens a page: the document once its script has run, and what the console said."""
    folder = tmp_path_factory.mktemp("browser")

    def call(text, width=900):
        path = folder / "page.html"
        path.write_text(text, encoding="utf-8")
        how = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *OFFLINE]
        where = [f"--window-size={width},2000", f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
        environment = {**os.environ, "HOME": str(folder)}
        done = subprocess.run([BROWSER, *how, *where], capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0 and "<html" in done.stdout, done.stderr[-500:]
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return call


@pytest.mark.parametrize("name", ["whole", "evil"])
def test_it_loads_without_a_word(opened, name):
    document, console = opened(page_of(name))
    assert console == []
    marks = re.findall(r'<g [^>]*class="mark [^>]*>', document)
    assert len(marks) > 20 and all("tabindex=" in mark and "aria-label=" in mark for mark in marks)
    assert document.count('tabindex="0"') < len(marks)


def test_what_would_be_loaded_is_complained_about(opened):
    """The policy stops it and the console says so, or the test above could not fail."""
    harm = '<img src="https://example.invalid/x.png"><script>document.title = "run"</script>'
    document, console = opened(page_of("whole").replace("</main>", f"{harm}</main>"))
    assert len(console) == 2 and all("Content Security Policy" in line for line in console)
    assert "<title>run" not in document


@pytest.mark.parametrize("width", [320, 400, 900])
def test_nothing_is_wider_than_the_window(opened, width):
    """A browser without a window is at least 500 pixels wide, a frame in it is not."""
    text = re.sub(POLICY, "", page_of("deep")).replace("<details>", "<details open>")
    frame = f'<iframe width="{width}" height="2000" srcdoc="{html.escape(text)}"></iframe>'
    measured = "`${frames[0].document.documentElement.scrollWidth} of ${frames[0].innerWidth}`"
    document, _ = opened(f"<html>{frame}<script>onload = () => {{ document.title = {measured}; }}</script></html>")
    needed, there = map(int, re.search(r"<title>(\d+) of (\d+)</title>", document).groups())
    assert needed <= there == width
