"""Time of `nalspark review` from a key to the next picture on the screen, and to open a result of thousands of systems.

    python benchmarks/review.py --n 5000 --keys 200
    python benchmarks/review.py --n 5000 --keys 200 --sort score --pause 0

The result is that of tests/make_review.py: simulated quasars with one absorber each, 250 of them under as many names as are asked for, in
parts of 250. The time is measured in the page of a headless Chromium, from the key to the frame after the next system was drawn; the label
is on disk by then.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Page, chromium, served
from make_review import write_absorbers

from nalspark.review.journal import FOLDER, Journal

#: Press a key, and tell after how many milliseconds another system is on the screen.
PRESS = """(key) => new Promise((resolve) => {
  const start = performance.now();
  const watcher = new MutationObserver(() => {
    watcher.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
  });
  watcher.observe(document.body, { attributes: true, attributeFilter: ["data-shown"] });
  document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
})"""


def measure(folder: Path, options: argparse.Namespace) -> None:
    started = time.monotonic()
    with chromium() as browser, served("review", folder, "--reviewer", "benchmark") as server:
        opened = time.monotonic() - started
        page = Page(browser.new_context(viewport={"width": options.width, "height": 950}), server.url)
        print(f"the address after {opened:.1f} s, the first picture {time.monotonic() - started - opened:.1f} s later")
        if options.sort:
            page.page.select_option("#sort", options.sort)
            page.page.wait_for_timeout(3000)
        times = []
        for number in range(options.keys):
            page.page.wait_for_timeout(1000 * options.pause)
            times.append(page.page.evaluate(PRESS, "anus"[number % 4]))
            page.shown()
        page.labelled(options.keys)
    kept = Journal(folder / FOLDER, "absorption").standing("benchmark", 1)
    assert len(kept) == options.keys
    median, high, most = np.percentile(times, [50, 95, 100])
    print(f"{options.keys} keys, {options.pause:g} s apart: median {median:.0f} ms, 95 % below {high:.0f} ms, most {most:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000, help="absorbers (default 5000)")
    parser.add_argument("--keys", type=int, default=200, help="labels given (default 200)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before each key, in which a person would look (default 1)")
    parser.add_argument("--sort", default="", help="column to sort by (default chance)")
    parser.add_argument("--width", type=int, default=1300, help="of the window, pixels (default 1300)")
    parser.add_argument("--folder", type=Path, help="keep the result here, and use it again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "result"
        if not (folder / "manifest.json").exists():
            started = time.monotonic()
            write_absorbers(folder, options.n, per_part=250, repeat=True)
            print(f"a result of {options.n} absorbers written in {time.monotonic() - started:.0f} s")
        (folder / FOLDER / "benchmark.jsonl").unlink(missing_ok=True)
        print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        measure(folder, options)


if __name__ == "__main__":
    main()
