"""The leaderboard page in a real, headless Chromium: one that is installed, for none is downloaded.

$METALEAF_CHROMIUM names it where it is not on the path. Without Chromium or playwright these tests are skipped.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_cases import ATTACK, IN_A_NAME, honest, malicious

from metaleaf.report.site.page import write_site

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("METALEAF_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium: none of {', '.join(NAMES)}; set METALEAF_CHROMIUM"),
    pytest.mark.xdist_group("chromium"),  # one browser is enough
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        # Chromium's own sandbox refuses to run as root.
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    results = honest(tmp_path_factory.mktemp("results"))
    return write_site(results, tmp_path_factory.mktemp("site"))[0].as_uri()


class Visit:
    """A page that is open, and all that it said or asked for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(10_000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.asked(request.url, address))
        self.page.goto(address)

    def asked(self, url: str, address: str) -> None:
        if url.split("#")[0] != address.split("#")[0]:
            self.complaints.append(f"asks for {url}")

    def names(self, track: str = "new-clients") -> list[str]:
        """Algorithms of the rows that are seen, in their order."""
        found: list[str] = self.page.locator(f"#{track} tbody tr:visible th").all_inner_texts()
        return found

    def column(self, key: str, track: str = "new-clients") -> list[str]:
        place = self.page.evaluate(f"document.querySelector('#{track} th[data-key={key}]').cellIndex")
        found: list[str] = self.page.locator(f"#{track} tbody tr:visible td:nth-child({place + 1})").all_inner_texts()
        return [text.split(" ")[0].split("\n")[0] for text in found]

    def heading(self, key: str, track: str = "new-clients") -> Any:
        return self.page.locator(f"#{track} th[data-key={key}]")

    def field(self, name: str) -> Any:
        return self.page.locator(f"#filters [name={name}]")

    def fragment(self) -> str:
        found: str = self.page.evaluate("location.hash")
        return found


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    opened = Visit(browser, address)
    yield opened
    assert opened.complaints == []
    opened.context.close()


class TestFilters:
    def test_by_track_dataset_and_support(self, visit: Visit) -> None:
        assert visit.page.locator("#count").inner_text() == "42 of 42 rows"
        visit.field("dataset").select_option("femnist")
        assert visit.page.locator("#count").inner_text() == "15 of 42 rows"  # 12, and 3 on cost to target
        visit.field("support").select_option("20 %")
        assert visit.names() == ["Majority class", "FedAvg", "Local", "MAML"]
        assert not visit.page.locator("#new-environments").is_visible()
        visit.field("track").select_option("Cost to target")
        assert not visit.page.locator("#new-clients").is_visible()
        assert visit.names("cost-to-target") == ["FedAvg", "Local", "MAML"]
        visit.page.get_by_role("button", name="Clear").click()
        assert visit.page.locator("#count").inner_text() == "42 of 42 rows"

    def test_by_rounds_family_and_text(self, visit: Visit) -> None:
        visit.field("R").select_option("2")
        assert len(visit.names("new-environments")) == 3
        visit.field("family").select_option("meta-gradient")
        assert visit.names("new-environments") == ["few_round", "learned_start"]
        visit.page.get_by_label("Search").fill("LEARNED")
        assert visit.names("new-environments") == ["learned_start"]
        assert visit.names() == []

    def test_an_axis_spans_what_is_shown(self, visit: Visit) -> None:
        """From 50 to 70 % instead of 0 to 100."""
        ends = visit.heading("before", "new-environments").locator(".axis span")
        dots = visit.page.locator("#new-environments tbody tr:visible td:nth-child(7) circle")
        assert ends.all_text_contents() == ["50", "70"]
        assert {dot.get_attribute("cx") for dot in dots.all()} == {"0.00%", "50.00%", "100.00%"}
        visit.page.get_by_label("Search").fill("few_round")
        assert ends.all_text_contents() == ["60", "60.5"]


class TestSorting:
    def test_numbers_best_first_then_the_other_way_round_unknown_last(self, visit: Visit) -> None:
        visit.heading("before").locator("button").click()
        assert visit.heading("before").get_attribute("aria-sort") == "descending"
        values = visit.column("before")
        numbers = [float(value) for value in values if value != "–"]
        assert numbers == sorted(numbers, reverse=True)
        assert values[: len(numbers)].count("–") == 0
        assert values.count("–") == 6  # the baseline
        visit.heading("before").locator("button").click()
        assert visit.heading("before").get_attribute("aria-sort") == "ascending"
        values = visit.column("before")
        assert [float(value) for value in values if value != "–"] == sorted(numbers)
        assert values[-6:] == ["–"] * 6

    def test_names(self, visit: Visit) -> None:
        visit.heading("algorithm").locator("button").click()
        assert visit.names() == sorted(visit.names(), key=str.casefold)
        assert visit.page.locator("#new-clients th[aria-sort]").count() == 1

    def test_costs_least_first(self, visit: Visit) -> None:
        visit.heading("rounds", "cost-to-target").locator("button").click()
        assert visit.column("rounds", "cost-to-target")[-1] == "not"  # reached
        assert visit.heading("rounds", "cost-to-target").get_attribute("aria-sort") == "ascending"


class TestLinks:
    def test_a_link_restores_what_was_seen(self, visit: Visit, browser: Any) -> None:
        visit.field("dataset").select_option("femnist")
        visit.field("support").select_option("50 %")
        visit.heading("after").locator("button").click()
        assert visit.fragment() == "#dataset=femnist&support=0.5&sort=after&order=descending"
        again = Visit(browser, visit.page.url)
        assert again.names() == visit.names() == ["MAML", "FedAvg", "Local", "Majority class"]
        assert again.field("support").input_value() == "0.5"
        assert again.complaints == []
        again.context.close()

    def test_back_and_forward(self, visit: Visit) -> None:
        visit.field("dataset").select_option("sent140")
        visit.field("support").select_option("90 %")
        visit.page.go_back()
        assert visit.field("support").input_value() == ""
        assert len(visit.names()) == 12
        visit.page.go_back()
        assert len(visit.names()) == 24
        visit.page.go_forward()
        visit.page.go_forward()
        assert len(visit.names()) == 4

    def test_a_link_by_hand(self, visit: Visit) -> None:
        visit.page.evaluate("location.hash = '#track=new-clients&support=0.2&sort=after'")
        visit.page.wait_for_function("document.querySelector('[aria-sort]')")
        assert visit.heading("after").get_attribute("aria-sort") == "descending"
        assert len(visit.names()) == 8

    def test_nonsense_in_a_link_changes_nothing(self, visit: Visit) -> None:
        for nonsense in ("#dataset=%3Cimg%3E&support=x&sort=__proto__&order=up&run=filters", "#run-none", "#%E0%A4%A"):
            visit.page.goto(visit.page.url.split("#")[0] + nonsense)
            assert visit.page.locator("#count").inner_text() == "42 of 42 rows"
            assert not visit.page.locator("dialog").is_visible()


class TestRuns:
    def test_a_click_shows_configuration_and_command(self, visit: Visit) -> None:
        visit.field("dataset").select_option("femnist")
        visit.page.locator("#new-clients a", has_text="MAML").first.click()
        dialog = visit.page.get_by_role("dialog", name="MAML on femnist")
        assert '"inner_lr": 0.01' in dialog.inner_text()
        assert "Seeds" in dialog.inner_text()
        assert "&run=run-small-femnist-maml-" in visit.fragment()
        visit.page.keyboard.press("Escape")
        assert not visit.page.locator("dialog").is_visible()
        assert visit.fragment() == "#dataset=femnist"
        visit.page.go_back()
        assert visit.page.locator("dialog").is_visible()

    def test_a_link_opens_it(self, visit: Visit, browser: Any) -> None:
        visit.page.locator("#new-clients a", has_text="Local").first.click()
        other = Visit(browser, visit.page.url)
        assert other.page.get_by_role("dialog", name="Local on femnist").is_visible()
        other.context.close()

    def test_by_keyboard(self, visit: Visit) -> None:
        """A heading sorts, a row opens its run, and closing that leads back to the row."""
        visit.heading("after").locator("button").focus()
        visit.page.keyboard.press("Enter")
        visit.page.keyboard.press("Space")
        assert visit.heading("after").get_attribute("aria-sort") == "ascending"
        link = visit.page.locator("#new-clients tbody a").first
        link.focus()
        visit.page.keyboard.press("Enter")
        assert visit.page.locator("dialog").is_visible()
        focused = "document.activeElement.textContent"
        assert visit.page.evaluate(focused) == "Close"
        name = link.inner_text()
        visit.page.keyboard.press("Enter")
        assert not visit.page.locator("dialog").is_visible()
        assert visit.page.evaluate(focused) == name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_only_tables_scroll_sideways(browser: Any, address: str, width: int, scheme: str) -> None:
    visit = Visit(browser, address, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for details in visit.page.locator("main > section > details").all():
        details.evaluate("element => { element.open = true; }")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.locator("#new-clients a").first.click()
    assert visit.page.evaluate("document.querySelector('dialog').scrollWidth") <= width
    paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme]
    assert visit.complaints == []
    visit.context.close()


def test_without_a_script_all_is_there(browser: Any, address: str) -> None:
    visit = Visit(browser, address, java_script_enabled=False)
    assert len(visit.names()) == 24
    assert not visit.page.locator("#filters").is_visible()
    run = visit.page.locator("#new-clients tbody a").first
    target = visit.page.locator(run.get_attribute("href"))
    assert not target.is_visible()
    visit.page.goto(f"{address}{run.get_attribute('href')}")
    assert target.count() == 1
    visit.context.close()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_malicious_record_does_nothing(browser: Any, tmp_path: Path, scripts: bool) -> None:
    path, refused = write_site(malicious(tmp_path / "results"), tmp_path / "site")
    assert refused == []
    visit = Visit(browser, path.as_uri(), java_script_enabled=scripts)
    page = visit.page
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert page.locator("img").count() == 0
    if scripts:
        for link in page.locator("a.shows").all():
            link.click()
            assert ATTACK in page.locator("dialog").inner_text()
            page.keyboard.press("Escape")
        visit.field("suite").select_option(IN_A_NAME)
        page.get_by_label("Search").fill(ATTACK)
        page.locator("#new-clients th[data-key=after] button").click()
        page.wait_for_timeout(200)  # an image that fails says so later
    assert page.evaluate("typeof pwned") == "undefined"
    assert visit.complaints == []
    visit.context.close()


def test_the_policy_stops_what_would_slip_through(browser: Any, address: str, tmp_path: Path) -> None:
    """If escaping failed, the browser would still run nothing: the page has a second line of defence."""
    html = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(html.replace("</main>", f"{ATTACK}</main>"), encoding="utf-8")
    visit = Visit(browser, broken.as_uri())
    visit.page.wait_for_timeout(200)
    assert visit.page.evaluate("typeof pwned") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)
    visit.context.close()
