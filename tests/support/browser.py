"""A headless Chromium."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.remote.webdriver import WebDriver


@contextmanager
def start_browser() -> Iterator[WebDriver]:
    """Context manager: a browser that logs the errors of its pages; skips the test if it is not installed."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The browser leaves its temporary files.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        service = webdriver.ChromeService(shutil.which("chromedriver"), env=os.environ | {"TMPDIR": folder})
        driver = webdriver.Chrome(options, service)
        driver.set_page_load_timeout(60)
        try:
            yield driver
        finally:
            driver.quit()
