"""Make the pictures of README and docs from a real search and a real comparison of ml-100k.

    python docs/pictures/make.py              # about five minutes on one core the first time
    python docs/pictures/make.py --work=DIR   # keep the runs in DIR: the next call only takes the pictures again

Needs Chromium, chromedriver and the `test` extra (selenium). Writes `search.png` and `comparison.png` beside this file.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
from pathlib import Path
from typing import Any

WIDTH = 1200
"""Width of a picture in pixels; its height is that of the page's sections."""
COMMON = ["--dataset=ml-100k", "--epochs=4", "--threads=1", "--wandb=disabled", "--use_gpu=False"]
SEARCH = ["search", "--model=SharedBottom", "--trials=20", "--final-seeds=1", *COMMON]
COMPARISON = ["compare", "--models=SharedBottom,HiNet,DeepFM", "--seeds=2", *COMMON]
PICTURES = {
    # file: (command, sections of its page that are shown)
    "search.png": (SEARCH, ["Result", "History", "Importance of parameters"]),
    "comparison.png": (COMPARISON, ["Leaderboard", "Differences"]),
}


def main() -> int:
    """Train what is missing, open both pages and take their pictures.

    Returns:
        The exit code: that of the first command that fails, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("pictures-work"), help="folder of the runs")
    work = parser.parse_args().work
    from recbole_msr.cli import main as recbole_msr

    for command, _ in PICTURES.values():
        code = recbole_msr([*command, f"--output={work / command[0]}"])
        if code:
            return code
    browser = open_browser()
    try:
        for name, (command, sections) in PICTURES.items():
            take_picture(browser, work / command[0] / "report.html", sections, Path(__file__).with_name(name))
    finally:
        browser.quit()
    return 0


def open_browser() -> Any:
    """Open a headless Chromium; it shows pages in their light colours."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    driver = shutil.which("chromedriver")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))


def take_picture(browser: Any, page: Path, sections: list[str], path: Path) -> None:
    """Write the PNG of some sections of a page, once all their figures are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    def resize(height: int) -> None:
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    resize(800)
    browser.get(page.resolve().as_uri())
    browser.execute_script(
        "document.querySelector('nav').hidden = true; document.body.style.paddingBottom = '1rem';"
        "for (const section of document.querySelectorAll('section'))"
        "  section.hidden = !arguments[0].includes(section.querySelector('h2').textContent)",
        sections,
    )
    drawn = "return [...document.querySelectorAll('.figure')].every(f => !f.offsetWidth || f.dataset.drawn)"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(drawn))
    resize(browser.execute_script("return Math.ceil(document.body.getBoundingClientRect().height)"))
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(picture["data"]))
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
