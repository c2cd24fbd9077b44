"""A real browser for the pages that are written."""

import shutil
from pathlib import Path

import pytest

_CHROMIUM = "/usr/bin/chromium"


@pytest.fixture
def browser(chromium):
    """A selenium driver of headless Chromium; `browser.get_log("browser")` holds what its console says.

    It has a profile of its own, and resolves no name: a page that needed the network would not have it.
    """
    yield chromium
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get_log("browser")  # what is read is gone


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """One Chromium for all tests: it takes a second to start."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    if not Path(_CHROMIUM).is_file() or driver is None:
        pytest.skip(f"no browser: {_CHROMIUM} and chromedriver are needed")
    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1200,900"),
        "host-resolver-rules=MAP * ~NOTFOUND",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield session
    finally:
        session.quit()
