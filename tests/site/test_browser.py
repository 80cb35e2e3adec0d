"""Every page in Chromium: light and dark, wide and as narrow as a phone, and search."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

# The contrast that WCAG 2.1 asks of text, success criterion 1.4.3 (AA).
CONTRAST = 4.5

# Whether the text of an element stands out from the first opaque background behind it.
CONTRASTS = """() => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number)
    const light = (color) => {
        const [r, g, b] = color.map((c) => c / 255)
            .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const color = parse(getComputedStyle(e).backgroundColor)
            if (color.length === 3 || color[3] === 1) return color.slice(0, 3)
        }
        return [255, 255, 255]
    }
    const found = []
    const texts = document.querySelectorAll(
        'article p, article li, article td, article dt, article h1, article h2, article pre')
    for (const element of texts) {
        if (!element.innerText || !element.checkVisibility()) continue
        const color = parse(getComputedStyle(element).color).slice(0, 3)
        const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x)
        found.push([(a + 0.05) / (b + 0.05), element.innerText.slice(0, 60)])
    }
    return found
}"""


def watched(page: Page, address: str) -> list[str]:
    """Return a list to which everything is added that a page does wrong."""
    wrong: list[str] = []
    page.on('pageerror', lambda error: wrong.append(f'error: {error}'))
    page.on(
        'console', lambda said: wrong.append(f'console: {said.text}') if said.type == 'error' else 0
    )
    page.on(
        'request',
        lambda request: (
            wrong.append(f'elsewhere: {request.url}')
            if not request.url.startswith((address, 'data:', 'blob:'))
            else 0
        ),
    )
    page.on(
        'response',
        lambda response: (
            wrong.append(f'{response.status}: {response.url}') if response.status >= 400 else 0
        ),
    )
    return wrong


@pytest.mark.parametrize(('scheme', 'width'), [('light', 1280), ('dark', 390)])
def test_page(browser: Browser, address: str, page_name: str, scheme: str, width: int) -> None:
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={'width': width, 'height': 900},
    )
    page = context.new_page()
    wrong = watched(page, address)
    page.goto(f'{address}/{page_name}', wait_until='load')
    assert page.evaluate('document.documentElement.dataset.theme') == scheme

    too_wide = page.evaluate('document.documentElement.scrollWidth - window.innerWidth')
    assert too_wide <= 0, f'the page is {too_wide} pixels wider than its window'
    broken = page.evaluate(
        '[...document.images].filter((i) => i.loading != "lazy" && !i.naturalWidth)'
        '.map((i) => i.src)'
    )
    assert not broken
    pale = [(ratio, text) for ratio, text in page.evaluate(CONTRASTS) if ratio < CONTRAST]
    assert not pale
    assert not wrong
    context.close()


def test_search_finds_a_class(browser: Browser, address: str) -> None:
    page = browser.new_page()
    wrong = watched(page, address)
    page.goto(f'{address}/search.html?q=MetaAdam')
    found = page.locator('ul.search a[href*="reference/meta.html"]')
    expect(found.first).to_be_visible(timeout=20_000)
    assert not wrong
    page.close()


def test_theme_can_be_chosen(browser: Browser, address: str) -> None:
    context = browser.new_context(color_scheme='light', viewport={'width': 1280, 'height': 900})
    page = context.new_page()
    page.goto(f'{address}/index.html')
    for choice in ('dark', 'light'):
        page.locator('button.theme-switch-button:visible').click()
        page.locator(f'button.theme-change-button[data-mode={choice}]:visible').click()
        assert page.evaluate('document.documentElement.dataset.theme') == choice
    context.close()
