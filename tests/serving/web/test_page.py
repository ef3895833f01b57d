"""The web page, in a real browser."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import save_checkpoint
from serving.api_keys import KEYS_VARIABLE
from serving.client import Client
from serving.web.page import PAGE_PATH
from tests.serving.mounted_replica import MountedReplica
from tests.support.asgi import make_replica, send_request, serve_replica
from tests.support.browser import start_browser
from tests.support.checkpoints import checkpoint_of

pytestmark = pytest.mark.slow

KEY = "a-key-of-the-page-test"


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with start_browser() as driver:
        yield driver


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")}, limits={"max_text_length": 2000})) as address:
        yield address


def wait_for_elements(browser: WebDriver, selector: str, count: int = 1) -> list:
    """Return the visible elements of a selector, once there are at least `count`."""

    def find(_: WebDriver) -> list | None:
        visible = [item for item in browser.find_elements(By.CSS_SELECTOR, selector) if item.is_displayed()]
        return visible if len(visible) >= count else None

    return WebDriverWait(browser, 60).until(find)


def label_file(browser: WebDriver, url: str, path: Path) -> str:
    """Return the content of the labelled file that the page offers."""
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})  # the page itself fetches no blob
    try:
        browser.get(url)
        browser.find_element(By.ID, "file").send_keys(str(path))
        wait_for_elements(browser, "#start")[0].click()
        [link] = wait_for_elements(browser, "#download")
        script = "const done = arguments[1]; fetch(arguments[0]).then((file) => file.text()).then(done)"
        content: str = browser.execute_async_script(script, link.get_attribute("href"))
    finally:
        browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
    return content


def test_the_keyboard_is_enough_from_text_to_explanation(browser: WebDriver, url: str, tmp_path: Path) -> None:
    """The text field has the focus; Ctrl+Enter classifies; Tab and Enter select another label's explanation."""
    browser.set_window_size(1000, 900)
    browser.get(url)
    text = "word1 😀 <b>word2</b> word3 words that nobody knows"
    browser.execute_script("document.getElementById('text').value = arguments[0]", text)  # the emoji cannot be typed
    browser.switch_to.active_element.send_keys(Keys.CONTROL, Keys.ENTER)
    labels = wait_for_elements(browser, "#labels button", 3)
    assert [label.get_attribute("aria-pressed") for label in labels] == ["true", "false", "false"]
    shares = [float(re.search(r"([\d.]+) %", label.text).group(1)) for label in labels]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)
    first = wait_for_elements(browser, "#why")[0].text
    assert wait_for_elements(browser, "#marked")[0].text == text
    assert wait_for_elements(browser, "#marked mark")
    labels[0].send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert labels[1].get_attribute("aria-pressed") == "true"
    assert wait_for_elements(browser, "#why")[0].text != first
    shares = [float(cell.text.replace("\u2212", "-")) for cell in wait_for_elements(browser, "#phrases td:last-child")]
    assert sum(shares[:-1]) == pytest.approx(shares[-1], abs=0.02)
    assert "non-static" not in wait_for_elements(browser, "#facts")[0].text
    assert "rand" in wait_for_elements(browser, "#facts")[0].text
    assert wait_for_elements(browser, "h1")[0].text == "docstrings"
    assert wait_for_elements(browser, "#purpose")[0].text == "Reads a text and assigns one of 3 labels."
    assert all(item.text for item in wait_for_elements(browser, "#labels .phrases", 1))
    assert "unknown to the model" in wait_for_elements(browser, "#unknown")[0].text
    browser.save_screenshot(str(tmp_path / "page.png"))
    assert not browser.get_log("browser")  # nothing is blocked by the page's own policy, and no script failed


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: WebDriver, url: str, tmp_path: Path) -> None:
    """Long words wrap."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        browser.get(url)
        wait_for_elements(browser, "#text")[0].send_keys("word1 " + "x" * 300 + " word2", Keys.CONTROL, Keys.ENTER)
        wait_for_elements(browser, "#labels button", 3)
        wait_for_elements(browser, "#facts")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        browser.save_screenshot(str(tmp_path / "phone.png"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_errors_are_shown(browser: WebDriver, url: str) -> None:
    """The page shows the service's message until the next response."""
    browser.get(url)
    field = wait_for_elements(browser, "#text")[0]
    browser.execute_script("arguments[0].value = 'x'.repeat(2001)", field)
    field.send_keys(Keys.CONTROL, Keys.ENTER)
    assert "at most 2000 are allowed" in wait_for_elements(browser, "[role=alert]:not(:empty)")[0].text
    field.clear()
    field.send_keys("word1")
    wait_for_elements(browser, "form > button")[0].click()
    wait_for_elements(browser, "#labels button", 3)
    assert not browser.find_element(By.ID, "error").text


def test_a_key_field_is_shown(browser: WebDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The field is shown only if the service requires a key."""
    monkeypatch.setenv(KEYS_VARIABLE, KEY)
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")})) as url:
        browser.get(url)
        wait_for_elements(browser, "#text")[0].send_keys("word1", Keys.CONTROL, Keys.ENTER)
        assert "enter the key above" in wait_for_elements(browser, "[role=alert]:not(:empty)")[0].text
        wait_for_elements(browser, "#key")[0].send_keys("wrong")
        wait_for_elements(browser, "form > button")[0].click()
        wait = WebDriverWait(browser, 60)
        wait.until(lambda driver: "enter another key above" in driver.find_element(By.ID, "error").text)
        wait_for_elements(browser, "#key")[0].clear()
        wait_for_elements(browser, "#text")[0].clear()
        wait_for_elements(browser, "#key")[0].send_keys(KEY)
        wait_for_elements(browser, "#text")[0].send_keys("word1", Keys.CONTROL, Keys.ENTER)
        wait_for_elements(browser, "#labels button", 3)
        wait_for_elements(browser, "#facts")


def test_five_labels_are_shown_and_more_on_request(browser: WebDriver, tmp_path: Path) -> None:
    """The facts have the numbers of rows that the metrics come from."""
    small = checkpoint_of("rand")
    weights = small.weights | {
        "output.weight": np.repeat(small.weights["output.weight"], 3, 0), "output.bias": np.zeros(9, np.float32)
    }  # fmt: skip
    metrics = {"epoch": 1, "rows": 1234, "validation_rows": 200, "accuracy": 0.5, "macro_f1": 0.25}
    many = replace(small, labels=[f"label {number}" for number in range(9)], weights=weights, metrics=metrics)
    save_checkpoint(tmp_path / "c", many)
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")})) as url:
        browser.get(url)
        wait_for_elements(browser, "#text")[0].send_keys("word1 word2", Keys.CONTROL, Keys.ENTER)
        assert len(wait_for_elements(browser, "#labels button", 5)) == 5
        [more] = wait_for_elements(browser, "#more")
        assert more.text == "4 more labels"
        more.click()
        assert len(wait_for_elements(browser, "#labels button", 9)) == 9
        assert more.text == "Show fewer"
        facts = wait_for_elements(browser, "#facts")[0].text
    for fact in ("training rows 1,234", "accuracy 0.5000 on 200 validation rows", "macro F1 0.2500 on 200"):
        assert fact in facts


def test_a_csv_file_is_labelled(browser: WebDriver, tmp_path: Path) -> None:
    """In requests that the limits allow; the file to download has the columns of the file and the labels."""
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    rows = [
        ["1", 'word1, "word2"', ""],
        ["2", "word3\nword4", "x"],
        ["3", "", ""],
        ["4", "é" * 300, ""],
        ["5", "word5"],
    ]
    path = tmp_path / "my.texts.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([["id", "text", "label"], *rows])
    limits = {"max_texts": 2, "max_text_length": 200}
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")}, limits=limits)) as url:
        expected = Client(url).classify([row[1] if len(row[1]) < 200 else "é" * 200 for row in rows][:2], top_k=1)
        browser.get(url)
        browser.find_element(By.ID, "file").send_keys(str(path))
        wait_for_elements(browser, "#start")[0].click()
        [link] = wait_for_elements(browser, "#download")
        assert link.text == "Download my.texts-labelled.csv (5 rows)"
        assert "5 of 5 rows labelled" in wait_for_elements(browser, "#state")[0].text
        content = label_file(browser, url, path)
    lines = list(csv.reader(content.removeprefix("\ufeff").splitlines(keepends=True), delimiter=";"))
    assert lines[0] == ["id", "text", "label", "predicted_label", "score"]
    assert [line[:3] for line in lines[1:]] == [[*row, ""][:3] for row in rows]
    assert [line[3] for line in lines[1:3]] == [labels[0]["label"] for labels in expected]
    assert all(0 < float(line[4]) <= 1 for line in lines[1:])


def test_an_unsure_text_has_no_label_if_the_box_is_checked(browser: WebDriver, tmp_path: Path) -> None:
    """The box is shown if the checkpoint has a threshold; the scores stay, also in a labelled file."""
    metrics = {"epoch": 1, "abstention": {"thresholds": {"retention": 0.999}}}
    save_checkpoint(tmp_path / "c", replace(checkpoint_of("rand"), metrics=metrics))
    (tmp_path / "texts.csv").write_text("text\nword1\nword2\n")
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")})) as url:
        browser.set_window_size(1000, 900)
        browser.get(url)
        [option] = wait_for_elements(browser, "#abstain-option")
        assert option.text == "No label if the score is below 99.9 %"
        field = browser.find_element(By.ID, "text")
        field.send_keys("word1 word2", Keys.CONTROL, Keys.ENTER)
        wait_for_elements(browser, "#labels button", 3)
        assert not browser.find_element(By.ID, "none").is_displayed()
        browser.find_element(By.ID, "abstain").click()
        field.send_keys(Keys.CONTROL, Keys.ENTER)
        assert wait_for_elements(browser, "#none")[0].text == "No label: no class reaches the threshold."
        assert len(wait_for_elements(browser, "#labels button", 3)) == 3
        browser.save_screenshot(str(tmp_path / "abstain.png"))
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "texts.csv"))
        wait_for_elements(browser, "#start")[0].click()
        assert "(no label) 2 (100.0 %)" in wait_for_elements(browser, "#counts")[0].text
    assert not [entry for entry in browser.get_log("browser") if url in entry["message"]]  # others: of earlier tests


def test_with_several_labels_per_text_those_above_their_thresholds_are_marked(
    browser: WebDriver, tmp_path: Path
) -> None:
    """A labelled file has them, the best first, and their scores; a text may have none."""
    texts = ["word1 word2", "word3", "word4 word5"]
    checkpoint = checkpoint_of("rand", **{"data.multi_label": True})
    first = Classifier(checkpoint).predict_proba(texts[:1])[0].clip(0.01, 0.99)
    thresholds = (first + np.array([-0.005, 0.005, -0.005])).tolist()  # the first text has the first label and the last
    metrics = {"epoch": 1, "accuracy": 0.5, "validation_rows": 9, "label_thresholds": {"values": thresholds}}
    save_checkpoint(tmp_path / "c", checkpoint := replace(checkpoint, metrics=metrics))
    expected = Classifier(checkpoint).predict_labels(texts)
    assert sorted(expected[0]) == ["a", "c"]
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(texts) + "\n")
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")})) as url:
        browser.get(url)
        browser.find_element(By.ID, "text").send_keys(texts[0], Keys.CONTROL, Keys.ENTER)
        buttons = wait_for_elements(browser, "#labels button", 3)
        names = [button.find_element(By.CSS_SELECTOR, "span").text for button in buttons]
        assert [name.removeprefix("\u2713 ") for name in names if name.startswith("\u2713")] == expected[0]
        assert "b" in names
        assert not browser.find_element(By.ID, "abstain-option").is_displayed()
        assert wait_for_elements(browser, "#purpose")[0].text == "Reads a text and assigns any of 3 labels."
        assert "all labels correct 0.5000 on 9 validation rows" in wait_for_elements(browser, "#facts")[0].text
        assert browser.find_element(By.ID, "function").get_attribute("textContent") == "the sigmoid function"
        content = label_file(browser, url, tmp_path / "texts.csv")
    rows = list(csv.DictReader(content.removeprefix("\ufeff").splitlines()))
    assert [row["labels"].split("|") if row["labels"] else [] for row in rows] == expected
    assert [len(row["scores"].split("|")) if row["scores"] else 0 for row in rows] == [*map(len, expected)]
    assert not [entry for entry in browser.get_log("browser") if url in entry["message"]]


@pytest.mark.parametrize("name", ["c", "c|d"])
def test_labels_that_contain_the_separator_are_lists_in_json(browser: WebDriver, tmp_path: Path, name: str) -> None:
    """In all rows of a labelled file, also where a text has other labels or none, as `finetune-cnn predict` writes."""
    texts = ["word1 word2", "word3", "word4 word5"]
    checkpoint = replace(checkpoint_of("rand", **{"data.multi_label": True}), labels=["a", "b", name])
    probabilities = Classifier(checkpoint).predict_proba(texts)
    thresholds = [*np.sort(probabilities[:, :2], axis=0)[1].tolist(), float(probabilities[:, 2].max()) - 1e-4]
    save_checkpoint(
        tmp_path / "c", replace(checkpoint, metrics={"epoch": 1, "label_thresholds": {"values": thresholds}})
    )
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(texts) + "\n")
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")})) as url:
        scores = Client(url).classify(texts)
        content = label_file(browser, url, tmp_path / "texts.csv")
    expected = [[row["label"] for row in rows if row["above_threshold"]] for rows in scores]
    assert {name} < {label for labels in expected for label in labels}
    cells = [row["labels"] for row in csv.DictReader(content.removeprefix("\ufeff").splitlines())]
    if name == "c":
        assert cells == ["|".join(labels) for labels in expected]
    else:
        assert [json.loads(cell) for cell in cells] == expected


def test_the_page_of_a_route_prefix_classifies(browser: WebDriver, tmp_path: Path) -> None:
    """Also if its address has no slash at the end."""
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    replica = make_replica({"checkpoint": str(tmp_path / "c")})
    with serve_replica(MountedReplica(replica, "/api/tickets")) as url:
        browser.get(url + "/api/tickets")
        assert browser.current_url == url + "/api/tickets/"
        wait_for_elements(browser, "#text")[0].send_keys("word1 word2", Keys.CONTROL, Keys.ENTER)
        wait_for_elements(browser, "#labels button", 3)


def test_a_further_model_can_be_chosen(browser: WebDriver, tmp_path: Path) -> None:
    """The choice is shown if there are any; facts, labels and labelled files are those of the chosen model."""
    other = checkpoint_of("static", name="reviews")
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    save_checkpoint(tmp_path / "d", replace(other, labels=["x", "y", "z"]))
    (tmp_path / "texts.csv").write_text("text\nword1\n")
    models = {"other": str(tmp_path / "d"), "broken": str(tmp_path)}
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c"), "models": models})) as url:
        browser.get(url)
        [choice] = wait_for_elements(browser, "#model")
        assert choice.text.split() == ["(default)", "other", "broken"]
        wait_for_elements(browser, "#facts")
        Select(choice).select_by_visible_text("other")
        WebDriverWait(browser, 60).until(lambda driver: driver.find_element(By.ID, "name").text == "reviews")
        browser.find_element(By.ID, "text").send_keys("word1 word2", Keys.CONTROL, Keys.ENTER)
        labels = wait_for_elements(browser, "#labels button .score", 3)
        names = {button.text.split()[0] for button in wait_for_elements(browser, "#labels button", len(labels))}
        assert names == {"x", "y", "z"}
        browser.execute_script("scrollTo(0, 0)")
        browser.save_screenshot(str(tmp_path / "models.png"))
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "texts.csv"))
        wait_for_elements(browser, "#start")[0].click()
        assert wait_for_elements(browser, "#counts tbody td")[0].text in names
        Select(choice).select_by_visible_text("broken")
        assert "broken is refused" in wait_for_elements(browser, "[role=alert]:not(:empty)")[0].text
        assert not browser.find_element(By.ID, "result").is_displayed()
        Select(choice).select_by_visible_text("(default)")
        WebDriverWait(browser, 60).until(lambda driver: driver.find_element(By.ID, "name").text == "docstrings")
        assert not browser.find_element(By.ID, "error").text


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"text\n", "no rows"), (b"text\n\xff\xfe\n", "not in UTF-8"), (b'text\n"open\n', "mark is not closed"),
     (b"text\n" + b"a\n" * 50_001, "50,001 rows; at most 50,000")],
)  # fmt: skip
def test_an_unusable_file_is_explained(
    browser: WebDriver, url: str, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    browser.get(url)
    browser.find_element(By.ID, "file").send_keys(str(path))
    assert message in wait_for_elements(browser, "#file-error:not(:empty)")[0].text


def test_the_page_has_no_external_resources(tmp_path: Path) -> None:
    """No URL in the page, and a policy that allows none."""
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    _, headers, content = send_request(make_replica({"checkpoint": str(tmp_path / "c")}), "/")
    assert content.encode() == PAGE_PATH.read_bytes()
    assert "//" not in re.sub(r"^\s*//.*$|// offsets.*$", "", content, flags=re.MULTILINE)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2
