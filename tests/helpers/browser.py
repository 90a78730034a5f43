"""A real browser for the pages that people read."""

import json
import time
from typing import Any

import numpy as np

TAB, RIGHT, LEFT, ESCAPE = "\ue004", "\ue014", "\ue012", "\ue00c"  # as WebDriver writes them


class Browser:
    """Headless Chromium, and what it loads."""

    def __init__(self, webdriver: Any, program: str, driver: str):
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1200,900"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

        self._actions = webdriver.ActionChains(self.driver)

    def point(self, selector: str, number: int = 0) -> None:
        """Move the pointer over one of the elements."""
        self._actions.move_to_element(self.driver.find_elements("css selector", selector)[number]).perform()

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def wait(self, script: str) -> Any:
        end = time.monotonic() + 10
        while not (found := self.run(f"return {script}")):
            assert time.monotonic() < end, f"{script} stayed {found!r}"
            time.sleep(0.05)
        return found

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def seen(self, card: int = 0) -> np.ndarray:
        """Red of the overlay on that card of the page, `[height, width]`."""
        self.wait(f"document.querySelectorAll('.card')[{card}].querySelector('.frame canvas')")
        width, height, red = self.run(
            "const canvas = document.querySelectorAll('.card')[arguments[0]].querySelector('.frame canvas');"
            "const {width, height} = canvas;"
            "const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;"
            "return [width, height, Array.from({length: width * height}, (_, i) => data[4 * i])];",
            card,
        )
        return np.array(red, float).reshape(height, width)

    def requested(self) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
