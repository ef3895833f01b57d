"""The page, in a real browser."""

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
from serving.web import api_keys as keys
from serving.web import page
from tests.serving.asgi_client import make_replica, send_request, serve_replica
from tests.support.checkpoints import checkpoint_of

pytestmark = pytest.mark.slow

KEY = "a-key-for-the-page-alone"


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """Debian's chromium, without a window."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
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
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")}, limits={"max_text_length": 2000})) as found:
        yield found


def seen(browser: WebDriver, selector: str, count: int = 1) -> list:
    """Return the visible elements of a selector, once there are so many."""

    def found(_: WebDriver) -> list | None:
        visible = [each for each in browser.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()]
        return visible if len(visible) >= count else None

    return WebDriverWait(browser, 60).until(found)


def test_by_keyboard_from_text_to_reasons(browser: WebDriver, url: str, tmp_path: Path) -> None:
    """The text field has the focus; Ctrl+Enter answers; Tab and Enter choose another label's reasons."""
    browser.set_window_size(1000, 900)
    browser.get(url)
    text = "word1 😀 <b>word2</b> word3 words that nobody knows"
    browser.execute_script("document.getElementById('text').value = arguments[0]", text)  # its keys cannot be typed
    browser.switch_to.active_element.send_keys(Keys.CONTROL, Keys.ENTER)
    labels = seen(browser, "#labels button", 3)
    assert [each.get_attribute("aria-pressed") for each in labels] == ["true", "false", "false"]
    shares = [float(re.search(r"([\d.]+) %", each.text).group(1)) for each in labels]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)
    first = seen(browser, "#why")[0].text
    assert seen(browser, "#marked")[0].text == text
    assert seen(browser, "#marked mark")
    labels[0].send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert labels[1].get_attribute("aria-pressed") == "true"
    assert seen(browser, "#why")[0].text != first
    told = [float(cell.text.replace("\u2212", "-")) for cell in seen(browser, "#phrases td:last-child")]
    assert sum(told[:-1]) == pytest.approx(told[-1], abs=0.02)
    assert "non-static" not in seen(browser, "#facts")[0].text
    assert "rand" in seen(browser, "#facts")[0].text
    assert seen(browser, "h1")[0].text.startswith("docstrings-")
    browser.save_screenshot(str(tmp_path / "page.png"))
    assert not browser.get_log("browser")  # nothing refused by the page's own policy, no script that failed


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: WebDriver, url: str, tmp_path: Path) -> None:
    """Long words wrap."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        browser.get(url)
        seen(browser, "#text")[0].send_keys("word1 " + "x" * 300 + " word2", Keys.CONTROL, Keys.ENTER)
        seen(browser, "#labels button", 3)
        seen(browser, "#facts")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        browser.save_screenshot(str(tmp_path / "phone.png"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_is_refused_is_told(browser: WebDriver, url: str) -> None:
    """In the service's own words, and gone with the next answer."""
    browser.get(url)
    field = seen(browser, "#text")[0]
    browser.execute_script("arguments[0].value = 'x'.repeat(2001)", field)
    field.send_keys(Keys.CONTROL, Keys.ENTER)
    assert "at most 2000 are read" in seen(browser, "[role=alert]:not(:empty)")[0].text
    field.clear()
    field.send_keys("word1")
    seen(browser, "form > button")[0].click()
    seen(browser, "#labels button", 3)
    assert not browser.find_element(By.ID, "error").text


def test_a_key_is_asked_for(browser: WebDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the service wants one."""
    monkeypatch.setenv(keys.KEYS_VARIABLE, KEY)
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")})) as url:
        browser.get(url)
        seen(browser, "#key")[0].send_keys(KEY)
        seen(browser, "#text")[0].send_keys("word1", Keys.CONTROL, Keys.ENTER)
        seen(browser, "#labels button", 3)
        seen(browser, "#facts")


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    """No address in the page, and a policy that lets none in."""
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    _, headers, content = send_request(make_replica({"checkpoint": str(tmp_path / "c")}), "/")
    assert content.encode() == page.PAGE_PATH.read_bytes()
    assert "//" not in re.sub(r"^\s*//.*$|// places.*$", "", content, flags=re.MULTILINE)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2
