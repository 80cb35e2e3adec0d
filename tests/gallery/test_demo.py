"""The demo."""

import re

import pytest


@pytest.mark.slow
def test_the_demo_makes_a_page_with_all_pictures(gallery, tmp_path, capsys):
    demo = gallery('demo')
    page = demo.run(1, tmp_path / 'new', small=True).read_text(encoding='utf-8')
    assert page.count('<img') == page.count('data:image/png;base64,') == len(demo.PARTS)
    text = re.sub(r'base64,[^"]*', '', page)
    printed = capsys.readouterr().out
    for shown in (text, printed):
        assert 'one seed' in shown
        assert not re.search(r'\bnan\b', shown)
    assert 'color-scheme' in text
    assert not re.search(r'(src|href)="(?!data:)', text)
