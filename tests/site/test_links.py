"""Every link within the site leads to a page, and to a place on it."""

from __future__ import annotations

import functools
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HTML = Path(__file__).parents[2] / 'docs' / '_build' / 'html'


class Links(HTMLParser):
    """Collects the addresses that a page names, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what ``tag`` names."""
        attributes = dict(attrs)
        self.anchors |= {value for key in ('id', 'name') if (value := attributes.get(key))}
        link = attributes.get('href' if tag in ('a', 'link') else 'src')
        if link:
            self.links.append(link)


@functools.cache
def parsed(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text())
    return links


def test_links(page_name: str) -> None:
    page = HTML / page_name
    lost = []
    for link in parsed(page).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        anchor = unquote(parts.fragment)
        if not target.exists() or (
            anchor and target.suffix == '.html' and anchor not in parsed(target).anchors
        ):
            lost.append(link)
    assert not lost
