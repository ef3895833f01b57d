"""The web page, in a real browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from jobs.model.checkpoint import save_checkpoint
from serving.api_keys import KEYS_VARIABLE
from serving.web.page import PAGE_PATH
from tests.support.asgi import make_replica, send_request, serve_replica
from tests.support.checkpoints import checkpoint_of

pytestmark = pytest.mark.slow

KEY = "a-key-of-the-page-test"


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """A headless chromium."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


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
    assert wait_for_elements(browser, "h1")[0].text.startswith("docstrings-")
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
        wait_for_elements(browser, "#key")[0].send_keys(KEY)
        wait_for_elements(browser, "#text")[0].send_keys("word1", Keys.CONTROL, Keys.ENTER)
        wait_for_elements(browser, "#labels button", 3)
        wait_for_elements(browser, "#facts")


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
