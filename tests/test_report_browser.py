"""The report in a real browser: nothing complains, nothing is fetched, nothing is cut off."""

from pathlib import Path

import pytest

import browser
from browser import Visit
from dermdistill.report import write_report
from report_runs import write_groups, write_pair, write_run

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


def alone(folder: Path) -> list[Path]:
    """A student; its teacher comes along."""
    student, teacher = write_pair(folder, epochs=3)
    for run in (student, teacher):
        write_groups(run)
    return [student]


def over_seeds(folder: Path) -> list[Path]:
    """Two methods over three seeds and their teacher, each run's section folded up."""
    runs = alone(folder)
    for method, seeds in (("ssd_kd", (1, 2)), ("kd", (1, 2, 3))):
        for seed in seeds:
            runs.append(write_run(folder / f"{method}-{seed}", method=method, epochs=2, seed=seed))
            write_groups(runs[-1])
    return runs


@pytest.mark.parametrize("runs", [alone, over_seeds])
def test_a_browser_finds_nothing_wrong(chromium, tmp_path, runs):
    address = write_report(runs(tmp_path / "runs"), tmp_path / "report.html").as_uri()
    for size in SIZES:
        for scheme in ("light", "dark"):
            visit = Visit(chromium, address, size, color_scheme=scheme)
            visit.page.goto(address)
            visit.page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
            assert visit.page.locator("svg").count() > 10
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert visit.page.evaluate(CUT_OFF) == []
            ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, ground[4:-1].split(","))) > 384) == (scheme == "light")
            assert visit.errors == []
            assert visit.elsewhere() == []
            visit.close()


def test_a_link_to_a_folded_run_opens_it(chromium, tmp_path):
    address = write_report(over_seeds(tmp_path / "runs"), tmp_path / "report.html").as_uri()
    visit = Visit(chromium, address, SIZES[1])
    visit.page.goto(f"{address}#run-3")
    assert visit.page.locator("details.run[open]").count() == 1
    assert visit.page.locator("#run-3").is_visible()
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
