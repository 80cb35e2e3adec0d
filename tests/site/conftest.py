"""The built site, on a server of this machine, and Chromium to look at it."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

HTML = Path(__file__).parents[2] / 'docs' / '_build' / 'html'


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope='session')
def address() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_address[1]}'
        server.shutdown()


@pytest.fixture(scope='session')
def browser() -> Iterator[Browser]:
    # Chromium's own services would look for hosts elsewhere.
    switches = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
    switches += ['--disable-component-update', '--disable-sync', '--no-first-run']
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which('chromium'), args=switches
        )
        yield chromium
        chromium.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'page_name' in metafunc.fixturenames:
        names = sorted(str(path.relative_to(HTML)) for path in HTML.rglob('*.html'))
        names = [name for name in names if not name.startswith(('_', 'genindex'))]
        assert names, f'{HTML} has no pages: python -m nox -s docs builds them'
        metafunc.parametrize('page_name', names)
