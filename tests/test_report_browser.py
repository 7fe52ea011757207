"""The report in a real browser: nothing complains, nothing is fetched, nothing is cut off."""

import pytest

import browser
from browser import Visit
from dermdistill.report import write_report
from report_runs import write_groups, write_pair

pytestmark = [browser.browser, pytest.mark.slow]
SIZES = ((390, 844), (1440, 900))
# Elements whose right edge passes the window, unless they scroll by themselves or stand in such.
CUT_OFF = """
[...document.querySelectorAll('body *')].filter(e => {
  for (let p = e; p; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
  return e.getBoundingClientRect().right > innerWidth + 1;
}).map(e => e.tagName + '.' + e.className.toString()).slice(0, 5)
"""


def test_a_browser_finds_nothing_wrong(chromium, tmp_path):
    student, teacher = write_pair(tmp_path / "runs", epochs=3)
    for run in (student, teacher):
        write_groups(run)
    address = write_report([student], tmp_path / "report.html").as_uri()
    for size in SIZES:
        for scheme in ("light", "dark"):
            visit = Visit(chromium, address, size, color_scheme=scheme)
            visit.page.goto(address)
            assert visit.page.locator("svg").count() > 10
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert visit.page.evaluate(CUT_OFF) == []
            ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, ground[4:-1].split(","))) > 384) == (scheme == "light")
            assert visit.errors == []
            assert visit.elsewhere() == []
            visit.close()


def test_the_browser_would_find_something_wrong(chromium, tmp_path):
    """The checks above can fail: a page with each fault is caught with each."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><img src='http://127.0.0.1:9/x.png'><script>console.error('no')</script>"
        "<div style='width:2000px'>wide</div>"
    )
    visit = Visit(chromium, page.as_uri(), (390, 844))
    visit.page.goto(page.as_uri())
    assert visit.page.evaluate("document.documentElement.scrollWidth") > 390
    assert visit.page.evaluate(CUT_OFF)
    assert "no" in visit.errors
    assert visit.elsewhere() == ["http://127.0.0.1:9/x.png"]
    visit.close()
