"""Detections in a browser: every class by its key, and the cut-outs drawn."""

from __future__ import annotations

from pathlib import Path

from browser import Page, chromium, served
from make_detections import write_detections

from nalspark.emission.review import CHOICES
from nalspark.review.journal import FOLDER, Journal

#: Different colours of a canvas, in its red, green and blue.
COLOURS = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, found = new Set();
  for (let k = 0; k < data.length; k += 4) found.add(data[k] << 16 | data[k + 1] << 8 | data[k + 2]);
  return found.size;
}"""


def test_every_class_is_given_by_its_key(tmp_path: Path) -> None:
    folder, said = write_detections(tmp_path / "result", len(CHOICES) + 2), {}
    with chromium() as browser, served("emission", "review", folder, "--reviewer", "ann") as server:
        page = Page(browser.new_context(viewport={"width": 1300, "height": 950}), server.url)
        assert page.page.locator("#picture figure canvas").count() == 5
        assert all(page.page.evaluate(f"[...document.querySelectorAll('#picture figure canvas')].map({COLOURS}).map(n => n > 20)"))
        for choice in CHOICES:
            said[page.press(choice.key)] = choice.value
        page.labelled(len(CHOICES))
        assert page.errors == []
        assert all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in page.asked)
    labels = Journal(folder / FOLDER, "emission").standing("ann", 1)
    assert {system: label["class"] for (system, _), label in labels.items()} == said
    assert len(said) == len(CHOICES)
