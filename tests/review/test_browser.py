"""The page in a browser: labels given by keys, a server that is killed in between, and two reviewers at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, chromium, served, wait_until

from nalspark.review.journal import FOLDER, Journal

#: Key → class and reason.
KEYS = {
    "a": ("absorber", ""), "n": ("not", ""), "u": ("unsure", ""), "o": ("not", "other ion"), "s": ("not", "sky"), "c": ("not", "continuum"),
    "b": ("not", "BAL"), "x": ("not", "noise"), "S": ("unsure", "sky"),
}  # fmt: skip
WINDOW = {"viewport": {"width": 1300, "height": 950}}
PHONE = {"viewport": {"width": 420, "height": 900}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser() -> Any:
    with chromium() as started:
        yield started


def copy_of(result: Path, folder: Path) -> Path:
    """A result of the same files with labels of its own."""
    folder.mkdir()
    for path in result.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def folder(small_result: Path, tmp_path: Path) -> Path:
    return copy_of(small_result, tmp_path / "result")


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def standing(folder: Path, name: str) -> dict[str, tuple[str, str]]:
    labels = Journal(folder / FOLDER, "absorption").standing(name, 1)
    return {system: (label["class"], label["reason"]) for (system, _), label in labels.items()}


def test_fifty_labels_by_keys_an_undo_and_a_server_killed_in_between(folder: Path, browser: Any) -> None:
    context, said = browser.new_context(**WINDOW), {}
    with served("review", folder, "--reviewer", "ann") as server:
        page = Page(context, server.url)
        keys = [list(KEYS)[number % len(KEYS)] for number in range(50)]
        for key in keys[:20]:
            said[page.press(key)] = KEYS[key]
        undone = page.shown()
        page.press("a")
        number = page.number
        page.page.keyboard.press("z")
        assert page.shown(other_than=number) == undone
        page.labelled(20)
        server.kill()
        name, number = page.shown(), page.number
        page.page.keyboard.press(keys[20])
        page.page.wait_for_selector("#notice:not([hidden])")
        assert "Not kept yet" in page.page.text_content("#notice") and page.number == number
        page.page.keyboard.press("a")  # while one is not kept no other is taken
        opened = context.new_page()
        opened.goto(server.start())  # a new token; the cookie is for all pages of the browser
        page.shown(other_than=number)
        said[name] = KEYS[keys[20]]
        assert name == undone
        for key in keys[21:]:
            said[page.press(key)] = KEYS[key]
        page.labelled(50)
        assert page.errors == []
        assert all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in page.asked)
        assert page.page.evaluate("window.hacked") is None
    assert len(said) == 50 and standing(folder, "ann") == said
    written = lines(folder, "ann")
    assert len(written) == 52 and set(Counter(label["label_id"] for label in written).values()) == {1}
    assert [label["undoes"] for label in written if label["undoes"]] == [written[20]["label_id"]]


def test_two_reviewers_on_one_server_and_one_on_another(folder: Path, browser: Any) -> None:
    with served("review", folder, "--reviewer", "ann") as server, served("review", folder, "--reviewer", "cat") as other:
        pages = {name: Page(browser.new_context(**WINDOW), server.url) for name in ("ann", "bob")}
        pages["bob"].page.fill("#reviewer", "bob")
        pages["bob"].page.keyboard.press("Enter")
        pages["bob"].shown()
        pages["cat"] = Page(browser.new_context(**WINDOW), other.url)
        said: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in pages}
        for key in "anosxu":
            for name, page in pages.items():
                said[name][page.press(key)] = KEYS[key]
        for page in pages.values():
            page.labelled(6)
    for name in pages:
        assert standing(folder, name) == said[name] and len(lines(folder, name)) == 6
        assert {label["reviewer"] for label in lines(folder, name)} == {name}


@pytest.fixture(scope="module")
def shared(small_result: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A result and the address of its server, for tests whose reviewers differ."""
    folder = copy_of(small_result, tmp_path_factory.mktemp("shared") / "result")
    with served("review", folder, "--reviewer", "nobody") as server:
        yield folder, server.url


def opened(browser: Any, url: str, reviewer: str, window: dict[str, Any]) -> Page:
    """A page of its own for a reviewer."""
    page = Page(browser.new_context(**window), url)
    page.page.fill("#reviewer", reviewer)
    page.page.keyboard.press("Enter")
    page.shown()
    return page


def test_hostile_names_are_shown_as_text(shared: tuple[Path, str], browser: Any) -> None:
    page = opened(browser, shared[1], "<b>x</b>", WINDOW)
    for name in ("<script>window.hacked=1</script>", '"><img src=x onerror=window.hacked=1>'):
        page.page.fill("#jump", name[:20])
        number = page.number
        page.page.keyboard.press("Enter")
        assert page.shown(other_than=number).startswith(name)
    assert page.page.evaluate("window.hacked ?? null") is None
    assert page.page.evaluate("document.images.length + document.querySelectorAll('b, main script').length") == 0


def test_a_note_a_move_and_a_sort_by_keys(shared: tuple[Path, str], browser: Any) -> None:
    page = opened(browser, shared[1], "dee", WINDOW)
    page.page.keyboard.press("e")
    page.page.keyboard.type("a note, no z")
    page.page.keyboard.press("Enter")
    first = page.press("n")
    page.press("ArrowLeft")
    assert page.shown() == first
    assert page.page.input_value("#note") == "a note, no z" and page.page.text_content("#given") == "not"
    assert [label["note"] for label in lines(shared[0], "dee")] == ["a note, no z"]
    page.page.select_option("#sort", "z_abs")
    page.shown()
    page.page.fill("#jump", "1")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector("#place:text('1 of 59')")
    redshifts = []
    for _ in range(5):
        redshifts.append(float(page.page.text_content("#first div:nth-child(2) dd").split()[0]))
        page.press("ArrowRight")
    assert redshifts == sorted(redshifts) and len(set(redshifts)) == 5


def test_a_phone_labels_by_buttons(shared: tuple[Path, str], browser: Any) -> None:
    page = opened(browser, shared[1], "eve", PHONE)
    assert page.page.evaluate("document.documentElement.scrollWidth") == 420
    for text, choice in (("absorber", ("absorber", "")), ("sky", ("not", "sky")), ("unsure", ("unsure", ""))):
        name, number = page.shown(), page.number
        page.page.locator("#say button", has_text=text).first.tap()
        page.shown(other_than=number)
        assert standing(shared[0], "eve")[name] == choice
    page.page.locator("#undo").tap()
    page.labelled(2)


def test_while_a_list_is_loaded_nothing_is_labelled_and_one_that_fails_changes_nothing(shared: tuple[Path, str], browser: Any) -> None:
    page = opened(browser, shared[1], "fay", WINDOW)
    number, held = page.number, []

    def asked(n: int) -> list[Any]:
        wait_until(lambda: page.page.wait_for_timeout(50) or len(held) == n)
        return [held.pop() for _ in range(n)]

    page.page.route("**/api/systems?*", lambda route: held.append(route))
    page.page.select_option("#sort", "z_abs")
    page.page.keyboard.press("e")
    page.page.keyboard.type("seen meanwhile")
    page.page.keyboard.press("Escape")
    for key in ("n", "ArrowRight", "a", "z"):
        page.page.keyboard.press(key)
    assert page.number is None and not (shared[0] / FOLDER / "fay.jsonl").exists()
    asked(1)[0].abort()
    page.page.wait_for_selector("#notice:not([hidden])")
    page.shown()
    assert page.number == number and page.page.input_value("#note") == "seen meanwhile"
    first = page.press("n")
    assert standing(shared[0], "fay") == {first: KEYS["n"]}
    # Of two lists that are asked for, the one that was asked for last is shown, whichever comes first.
    page.page.select_option("#show", "all")
    page.page.select_option("#show", "not")
    last, before = asked(2)
    last.continue_()
    page.shown()
    before.continue_()
    page.page.wait_for_timeout(500)
    assert page.page.text_content("#place") == "1 of 1" and page.page.text_content("#name") == first
