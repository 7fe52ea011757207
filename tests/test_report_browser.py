"""The report in a real browser: nothing complains, nothing is fetched, nothing is cut off."""

import pytest

from dermdistill.report import write_report
from devtools import Browser
from report_runs import write_groups, write_pair

WIDTHS = {390: 844, 1440: 900}
# Elements whose right edge passes the window, unless they scroll by themselves or stand in such.
CUT_OFF = """
[...document.querySelectorAll('body *')].filter(e => {
  for (let p = e; p; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
  return e.getBoundingClientRect().right > innerWidth + 1;
}).map(e => e.tagName + '.' + e.className.toString()).slice(0, 5)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_browser_finds_nothing_wrong(tmp_path):
    student, teacher = write_pair(tmp_path / "runs", epochs=3)
    for run in (student, teacher):
        write_groups(run)
    page = write_report([student], tmp_path / "report.html")
    with Browser() as browser:
        for width, height in WIDTHS.items():
            for scheme in ("light", "dark"):
                browser.open(page, width, height, scheme)
                assert browser.ask("document.querySelectorAll('svg').length") > 10
                assert browser.ask("document.documentElement.scrollWidth") <= width
                assert browser.ask(CUT_OFF) == []
                ground = browser.ask("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, ground[4:-1].split(","))) > 384) == (scheme == "light")
        assert browser.problems == []
        outside = [a for a in browser.requests if not a.startswith(("data:", page.as_uri()))]
        assert outside == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_browser_would_find_something_wrong(tmp_path):
    """The checks above can fail: a page with each fault is caught with each."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><img src='http://127.0.0.1:9/x.png'><script>console.error('no')</script>"
        "<div style='width:2000px'>wide</div>"
    )
    with Browser() as browser:
        browser.open(page, 390, 844)
        assert browser.ask("document.documentElement.scrollWidth") > 390
        assert browser.ask(CUT_OFF)
        assert any("no" in problem for problem in browser.problems)
        assert any(address.startswith("http://127") for address in browser.requests)
