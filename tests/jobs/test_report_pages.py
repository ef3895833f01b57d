"""The HTML reports of an evaluation, a search and a data check in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select

from jobs.data_checks.check import find_all
from jobs.data_checks.findings import sort_findings
from jobs.data_checks.page import render_data_check
from jobs.search.results.analysis import compare_embeddings
from jobs.search.results.report import write_search_report
from jobs.search.space import parse_space
from jobs.training.run_files.run_folder import BestCheckpoint
from tests.support.browser import start_browser
from tests.support.data_checks import make_rows
from tests.support.evaluations import render_random_evaluation, render_random_label_evaluation
from tests.support.trial_records import EXPERIMENT, make_records
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

HOSTILE = [
    "</script><script>document.title = 'changed'</script>",
    "<img src=x onerror=alert(1)>",
    "نص word1 عربي",
    "x" * 900,
]
PAGES = ("evaluation-2", "evaluation-20", "evaluation-150", "evaluation-labels", "search", "data-check")


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with start_browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `PAGES`."""
    folder = tmp_path_factory.mktemp("pages")
    for count in (2, 20, 150):
        labels = ["<i>first</i>", "ثانٍ", *(f"a long name of class {number}" for number in range(2, count))]
        page = render_random_evaluation(folder / f"checkpoint-{count}", labels, 400, HOSTILE)
        (folder / f"evaluation-{count}.html").write_text(page, encoding="utf-8")
    labels = [f"field::topic-{number}" for number in range(131)]
    page = render_random_label_evaluation(folder / "checkpoint-labels", labels, 400, HOSTILE)
    (folder / "evaluation-labels.html").write_text(page, encoding="utf-8")
    records = make_records(30)
    kinds = compare_embeddings(EXPERIMENT, records, [])
    best = BestCheckpoint("trial-1", "accuracy", {"accuracy": 0.9, "epoch": 1}, {"model.dropout": 0.1}, trial=1)
    labels_of_rows = np.repeat([0, 1], [4, 6])
    write_search_report(folder, EXPERIMENT, parse_space(EXPERIMENT), records, kinds, best, ["next"], labels_of_rows)
    (folder / "report.html").rename(folder / "search.html")
    train = [(f"a text w{number} of topic{number % 30}", f"class_{number % 30}") for number in range(300)]
    train += [("averylongword" * 30, "class_0"), ("", "class_29"), ("the same", "class_0"), ("the same", "class_1")]
    rows = make_rows([*train, *((text, "class_3") for text in HOSTILE)])
    findings = sort_findings(find_all(rows, 1000, seed=0))
    page = render_data_check("experiment_" + "x" * 80, rows, findings, "data-check-rows.csv")
    (folder / "data-check.html").write_text(page, encoding="utf-8")
    return folder


def open_page(browser: WebDriver, path: Path, width: int = 1400) -> None:
    """Open a page in a window of some width: that of a real window has a minimum."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())


def read_column(browser: WebDriver, table: str, column: int) -> list[str]:
    """Return the texts of a column's visible cells."""
    script = (
        "return [...document.querySelectorAll(arguments[0] + ' > tbody > tr:not([hidden])')]"
        ".map((row) => row.cells[arguments[1]].textContent)"
    )
    return browser.execute_script(script, table, column)


@pytest.mark.parametrize("name", PAGES)
def test_no_width_needs_horizontal_scrolling_and_no_script_fails(browser: WebDriver, folder: Path, name: str) -> None:
    """Nothing in a text is executed, and the policy of the page blocks nothing of its own."""
    for width in (1400, 600, 340):
        open_page(browser, folder / f"{name}.html", width)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.title != "changed"
    assert browser.find_elements(By.CSS_SELECTOR, "th[scope] button")  # the script has run
    assert not browser.find_elements(By.CSS_SELECTOR, "img, i:not(.legend i)")
    assert browser.get_log("browser") == []


def test_a_click_on_a_column_sorts_by_it_and_a_second_one_reverses_it(browser: WebDriver, folder: Path) -> None:
    """Numbers start with the largest one, names with the first."""
    open_page(browser, folder / "evaluation-20.html")
    table = "[aria-label=Classes] table"
    name, rows = browser.find_elements(By.CSS_SELECTOR, f"{table} th button")[:2]
    rows.click()
    numbers = [int(text.replace(",", "")) for text in read_column(browser, table, 1)]
    assert numbers == sorted(numbers, reverse=True)
    rows.send_keys(Keys.ENTER)
    assert [int(text.replace(",", "")) for text in read_column(browser, table, 1)] == sorted(numbers)
    name.click()
    names = read_column(browser, table, 0)
    assert names[:3] == ["<i>first</i>", "a long name of class 2", "a long name of class 3"]  # not 10 after 1
    headers = browser.find_elements(By.CSS_SELECTOR, f"{table} th")
    assert [header.get_attribute("aria-sort") for header in headers] == ["ascending", None, None, None, None]


@pytest.mark.parametrize(("count", "cell"), [(20, "table.matrix td.bad"), (150, "svg.map rect.bad")])
def test_a_cell_of_the_confusion_matrix_selects_its_texts(
    browser: WebDriver, folder: Path, count: int, cell: str
) -> None:
    open_page(browser, folder / f"evaluation-{count}.html")
    mistake = browser.find_element(By.CSS_SELECTOR, cell)
    true, predicted = (mistake.get_attribute(f"data-{name}") for name in ("true", "predicted"))
    rows = int(mistake.get_attribute("data-rows") or mistake.text)
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))",
                           mistake if count == 150 else mistake.find_element(By.TAG_NAME, "button"))  # fmt: skip
    assert len(read_column(browser, "#texts", 0)) == rows
    labels = [Select(browser.find_element(By.NAME, name)) for name in ("label", "predicted")]
    assert [item.first_selected_option.get_attribute("value") for item in labels] == [true, predicted]
    assert set(read_column(browser, "#texts", 1)) == {labels[0].first_selected_option.text}
    assert set(read_column(browser, "#texts", 2)) == {labels[1].first_selected_option.text}
    assert f"{rows} of {rows} matching rows" in browser.find_element(By.ID, "state").text


def test_texts_are_filtered_by_words_and_mistakes_and_shown_in_parts(browser: WebDriver, folder: Path) -> None:
    """The first rows are mistakes, in which phrases are marked; a hostile text is only a text."""
    open_page(browser, folder / "evaluation-2.html")
    assert len(read_column(browser, "#texts", 0)) == 50
    browser.find_element(By.ID, "more").click()
    assert len(read_column(browser, "#texts", 0)) == 100
    assert browser.find_elements(By.CSS_SELECTOR, "#texts tr:first-child mark")
    browser.find_element(By.NAME, "words").send_keys("</SCRIPT>")
    assert read_column(browser, "#texts", 0) == [HOSTILE[0]]
    browser.find_element(By.CSS_SELECTOR, "#filter button[type=reset]").click()
    browser.find_element(By.NAME, "mistakes").click()
    texts = read_column(browser, "#texts", 0)
    pairs = zip(read_column(browser, "#texts", 1), read_column(browser, "#texts", 2), strict=True)
    assert all(true != predicted for true, predicted in pairs)
    browser.find_element(By.CSS_SELECTOR, "#texts th:nth-child(4) button").click()  # sorting keeps the selection
    assert sorted(read_column(browser, "#texts", 0)) == sorted(texts)


def test_labels_are_sorted_by_threshold_and_select_the_texts_that_have_them(browser: WebDriver, folder: Path) -> None:
    """With several labels per text; wrong and missing ones are marked."""
    open_page(browser, folder / "evaluation-labels.html")
    table = "[aria-label=Labels] table"
    browser.find_elements(By.CSS_SELECTOR, f"{table} th button")[-1].click()
    thresholds = read_column(browser, table, 5)
    assert len(thresholds) == 131
    assert thresholds == sorted(thresholds, key=float, reverse=True)
    button = browser.find_element(By.CSS_SELECTOR, f"{table} td button")
    label, rows = read_column(browser, table, 0)[0], int(button.text)
    button.click()
    true = read_column(browser, "#texts", 1)
    assert len(true) == rows
    assert all(label in own.split(", ") for own in true)
    browser.find_element(By.CSS_SELECTOR, "#filter button[type=reset]").click()
    browser.find_element(By.NAME, "mistakes").click()
    marked = browser.find_elements(By.CSS_SELECTOR, "#texts tr:not([hidden]) :is(.wrong, .missing)")
    shown = browser.find_elements(By.CSS_SELECTOR, "#texts tbody tr:not([hidden])")
    assert len(marked) >= len(shown) > 10


def test_the_arrow_keys_move_in_the_confusion_matrix_and_enter_selects(browser: WebDriver, folder: Path) -> None:
    """The matrix is one stop of the Tab key."""
    open_page(browser, folder / "evaluation-2.html")
    buttons = browser.find_elements(By.CSS_SELECTOR, "table.matrix button")
    assert [button.get_attribute("tabindex") for button in buttons] == [None, "-1", "-1", "-1"]
    browser.execute_script("arguments[0].focus()", buttons[0])
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert browser.switch_to.active_element == buttons[3]
    assert "true: ثانٍ, predicted: ثانٍ" in buttons[3].get_attribute("aria-label")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert set(read_column(browser, "#texts", 1)) == {"ثانٍ"}


def test_a_trial_is_highlighted_in_every_chart(browser: WebDriver, folder: Path) -> None:
    open_page(browser, folder / "search.html")
    button = browser.find_element(By.CSS_SELECTOR, "tr[data-trial] button")
    browser.execute_script("arguments[0].click()", button)
    assert button.get_attribute("aria-pressed") == "true"
    selected = browser.find_elements(By.CSS_SELECTOR, f"svg [data-trial='{button.text}'].selected")
    assert len(selected) >= 6  # parallel coordinates, three settings or more, two learning curves
    assert len(browser.find_elements(By.CSS_SELECTOR, "svg .selected")) == len(selected)
    browser.execute_script("arguments[0].click()", button)
    assert not browser.find_elements(By.CSS_SELECTOR, ".selected")


def test_a_link_to_a_finding_opens_its_rows(browser: WebDriver, folder: Path) -> None:
    open_page(browser, folder / "data-check.html")
    closed = browser.find_element(By.CSS_SELECTOR, "details:not([open])")
    link = browser.find_element(By.CSS_SELECTOR, f"a[href='#{closed.get_attribute('id')}']")
    link.click()  # the browser follows it a moment later
    wait_for(lambda: closed.get_attribute("open"), "the rows of the finding", timeout=20, interval=0.05)
    assert closed.find_element(By.CSS_SELECTOR, "td.text").is_displayed()
    browser.find_element(By.LINK_TEXT, "different labels").click()
    [opened] = wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "details:target[open]"), "the other rows", 20)
    assert "the same" in opened.text
