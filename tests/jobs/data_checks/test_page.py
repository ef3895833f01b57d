"""The page of a data check: content, escaping, and its width in a browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from jobs.data_checks.check import find_all
from jobs.data_checks.findings import Finding, FindingRow, Severity, sort_findings
from jobs.data_checks.page import NUM_ROWS, render_page
from tests.support.data_checks import make_rows

EVIL = "<script>alert('a text')</script>"


def test_texts_labels_and_names_are_escaped_and_nothing_is_loaded() -> None:
    rows = make_rows([(EVIL, "<b>x</b>"), ("ok", "y")])
    findings = [Finding("a <i>name", Severity.HIGH, "a & b", [FindingRow(0, note=EVIL, suggested="<b>y</b>")])]
    page = render_page("<u>name", rows, findings, "data-check-rows.csv")
    for text in ("<script", "<b>", "<i>", "<u>"):
        assert text not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|@import|url\(|https?:)", page)


def test_at_most_some_rows_of_a_finding_are_shown() -> None:
    rows = make_rows([(f"text number {number}", "xy"[number % 2]) for number in range(NUM_ROWS + 20)])
    finding = Finding("a finding", Severity.MEDIUM, "message", [FindingRow(index) for index in range(len(rows))])
    page = render_page("x", rows, [finding], "data-check-rows.csv")
    assert page.count("text number") == NUM_ROWS
    assert f"{NUM_ROWS} of {NUM_ROWS + 20} rows" in page
    assert 'href="data-check-rows.csv"' in page


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """A headless chromium."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 20, 150])
def test_no_width_needs_horizontal_scrolling(browser: WebDriver, tmp_path: Path, classes: int) -> None:
    """With long words and labels; a link leads to the rows of a finding."""
    train = [(f"a text w{number} of topic{number % classes}", f"class_{number % classes}") for number in range(600)]
    train += [("averylongword" * 30, "class_0"), ("", f"class_{classes - 1}")] * 2
    rows = make_rows([*train, ("the same", "class_0"), ("the same", "class_" + "1" * 1)])
    path = tmp_path / "page.html"
    findings = sort_findings(find_all(rows, 1000, seed=0))
    path.write_text(render_page("experiment_" + "x" * 80, rows, findings, "data-check-rows.csv"), encoding="utf-8")
    for width in (1200, 600, 340):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )  # a window of the browser has a minimum width
        browser.get(path.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert len(browser.find_elements(By.CSS_SELECTOR, "table:last-of-type .bar span")) >= classes
    link = browser.find_element(By.LINK_TEXT, "different labels")
    target = link.get_attribute("href").rpartition("#")[2]
    assert "different labels" in browser.find_element(By.ID, target).text
