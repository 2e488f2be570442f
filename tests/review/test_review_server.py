"""The review's server: who may ask, what a blind review gives away, and what is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from make_review import HOSTILE

from nalspark.errors import NalsparkError
from nalspark.review.journal import FOLDER, Journal, new_id
from nalspark.review.server import Access, Review, make_app, open_server
from nalspark.review.systems import HIDDEN, absorber_exhibits

ACCESS = Access(8642, "the-token")
BASE, ORIGIN = f"http://127.0.0.1:{ACCESS.port}", {"Origin": f"http://127.0.0.1:{ACCESS.port}"}


@pytest.fixture
def folder(small_result: Path, tmp_path: Path) -> Path:
    """A copy, whose labels are the test's own; the tables are the same files."""
    copy = tmp_path / "result"
    copy.mkdir()
    for path in small_result.iterdir():
        if path.name != FOLDER:
            (copy / path.name).symlink_to(path)
    return copy


def review_of(folder: Path, **how: Any) -> Review:
    exhibits = absorber_exhibits(folder, how.pop("select", ""), how.pop("sample", None))
    return Review(exhibits, Journal(folder / FOLDER, exhibits.programme), "ann", **how)


def client_of(review: Review, *, known: bool = True) -> FlaskClient:
    client = make_app(review, ACCESS).test_client()
    if known:
        client.set_cookie(ACCESS.cookie, ACCESS.token, domain="127.0.0.1")
    return client


@pytest.fixture
def start(folder: Path) -> Callable[..., FlaskClient]:
    return lambda **how: client_of(review_of(folder, **how))


def get(client: FlaskClient, path: str, **query: Any) -> Any:
    response = client.get(path, base_url=BASE, query_string={"reviewer": "ann"} | query)
    return response.get_json() | {"status": response.status_code}


def seen(client: FlaskClient) -> dict[str, Any]:
    """What a page says of the systems that it shows."""
    facts = get(client, "/api/review")
    return {name: facts[name] for name in ("systems", "blind", "look")}


def label(client: FlaskClient, number: int, cls: str = "absorber", **more: Any) -> Any:
    tree = seen(client) | {"label_id": new_id(), "number": number, "reviewer": "ann", "class": cls, "reason": "", "note": ""} | more
    response = client.post("/api/label", base_url=BASE, json=tree, headers=ORIGIN)
    return response.get_json() | {"status": response.status_code}


# ---- who may ask


def test_the_token_opens_the_page_and_the_cookie_keeps_it_open(folder: Path) -> None:
    client = client_of(review_of(folder), known=False)
    assert client.get("/", base_url=BASE).status_code == 403
    opened = client.get(ACCESS.url)
    assert opened.status_code == 200 and b"<script src=" in opened.data
    cookie = opened.headers["Set-Cookie"]
    assert all(word in cookie for word in (ACCESS.cookie, "HttpOnly", "SameSite=Strict", "Path=/"))
    for path in ("/", "/static/review.js", "/static/uplot/uPlot.iife.min.js", "/programme/absorption.js", "/api/review"):
        assert client.get(path, base_url=BASE).status_code == 200, path


@pytest.mark.parametrize(
    "path", ["/", "/static/review.js", "/programme/absorption.js", "/api/review", "/api/systems", "/api/system/0", "/x"]
)
def test_nothing_is_given_to_whom_the_token_is_unknown(folder: Path, path: str) -> None:
    client = client_of(review_of(folder), known=False)
    for address in (path, f"{path}?token=", f"{path}?token=wrong", f"{path}?token=%C3%A9"):
        assert client.get(address, base_url=BASE).status_code == 403
    assert path == "/" or client.get(f"{path}?token={ACCESS.token}", base_url=BASE).status_code == 403
    client.set_cookie(ACCESS.cookie, "wrong", domain="127.0.0.1")
    assert client.get(path, base_url=BASE).status_code == 403


@pytest.mark.parametrize("host", ["evil.example:8642", "127.0.0.1", "127.0.0.1:8643", "127.0.0.1.evil.example:8642", "[::1]:8642", ""])
def test_no_other_name_leads_here(folder: Path, host: str) -> None:
    client = make_app(review_of(folder), ACCESS).test_client(use_cookies=False)
    cookie = f"{ACCESS.cookie}={ACCESS.token}"
    assert client.get("/api/review", headers={"Host": host, "Cookie": cookie}).status_code == 403
    for good in ("127.0.0.1:8642", "localhost:8642"):
        assert client.get("/api/review", headers={"Host": good, "Cookie": cookie}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://localhost:8642"},  # asked under the other name
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_only_the_page_itself_changes_something(start: Callable[..., FlaskClient], folder: Path, headers: dict[str, str]) -> None:
    client = start()
    tree = {"label_id": new_id(), "number": 0, "system": "s", "reviewer": "ann", "class": "not", "reason": "", "note": ""}
    for path in ("/api/label", "/api/undo"):
        assert client.post(path, base_url=BASE, json=tree, headers=headers).status_code == 403
    assert list((folder / FOLDER).iterdir()) == []


def test_every_answer_forbids_what_comes_from_elsewhere(folder: Path) -> None:
    client = client_of(review_of(folder), known=False)
    for response in (client.get(ACCESS.url), client.get("/api/review", base_url=BASE), client.get("/nothing", base_url=BASE)):
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff" and response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("name", ["../server.py", "..%2fserver.py", "%2e%2e/journal.py", "/etc/passwd", "uplot/../../cli.py"])
def test_no_other_file_is_served(start: Callable[..., FlaskClient], name: str) -> None:
    client = start()
    for path in ("static", "programme"):
        assert client.get(f"/{path}/{name}", base_url=BASE, follow_redirects=True).status_code == 404


def test_the_page_and_its_scripts_name_no_other_host_and_put_in_text_only() -> None:
    own = Path(__file__).parents[2] / "nalspark"
    files = [path for path in own.rglob("static/*") if path.suffix in (".js", ".html", ".css")]
    assert len(files) >= 5
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not [
            word for word in ("http:", "https:", "innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(") if word in text
        ]
        assert path.suffix != ".html" or ("style=" not in text and " on" not in text.replace(" only", "")), path


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    review = review_of(folder)
    server, access = open_server(review)
    try:
        assert server.server_address[0] == "127.0.0.1" and access.token not in repr(server)
        with pytest.raises(NalsparkError, match="--port"):
            open_server(review, access.port)
        other, second = open_server(review)
        other.server_close()
        assert second.port != access.port and second.token != access.token
    finally:
        server.server_close()


# ---- what is shown


def test_a_systems_picture_has_its_spectrum_its_lines_and_its_row(start: Callable[..., FlaskClient]) -> None:
    client = start()
    system = get(client, "/api/system/3")
    picture = system["picture"]
    assert [line["name"] for line in picture["lines"] if line["strong"]] == ["Mg II 2796", "Mg II 2803"]
    spectrum = picture["spectrum"]
    assert len({len(spectrum[name]) for name in ("wavelength", "flux", "error", "continuum")}) == 1 and len(spectrum["flux"]) > 3000
    assert spectrum["searched"] and len(picture["panels"]["each"]) == 8
    strong = next(panel for panel in picture["panels"]["each"] if panel["name"] == "Mg II 2796")
    middle = min(zip(map(abs, strong["velocity"]), strong["ratio"], strict=True))[1]
    assert middle < 0.75 and min(strong["model"]) < 0.75  # the line is there, and the fit found it
    names = {fact["name"] for fact in system["facts"]}
    assert {"z_abs", "ew_2796", "score"} <= names and "z_abs_err" not in names
    assert next(fact["text"] for fact in system["facts"] if fact["name"] == "z_abs").count("±") == 1


def test_hostile_names_are_data(start: Callable[..., FlaskClient]) -> None:
    client = start()
    listed = get(client, "/api/systems")["systems"]
    for name in HOSTILE:
        number = next(number for number, system, *_ in listed if system.startswith(name))
        response = client.get(f"/api/system/{number}?reviewer=ann", base_url=BASE)
        assert response.mimetype == "application/json" and response.get_json()["system"].startswith(name)
        assert label(client, number, note=name)["status"] == 200
    assert b"window.hacked" not in client.get("/", base_url=BASE).data


def test_systems_are_sorted_by_any_column_and_filtered(start: Callable[..., FlaskClient], folder: Path) -> None:
    client = start()
    assert len(get(client, "/api/systems")["systems"]) == 60
    for descending in (0, 1):
        values = [value for *_, value in get(client, "/api/systems", sort="z_abs", descending=descending)["systems"]]
        assert values == sorted(values, reverse=bool(descending)) and len(set(values)) == 60
    assert get(client, "/api/systems", sort="nothing")["status"] == 400
    assert get(client, "/api/systems", show="nothing")["status"] == 400
    for number, cls in ((0, "absorber"), (1, "unsure")):
        label(client, number, cls)
    label(client, 2, reviewer="bob")
    shown = {show: [number for number, *_ in get(client, "/api/systems", show=show)["systems"]] for show in ("open", "unseen", "unsure")}
    assert shown == {"open": list(range(2, 60)), "unseen": list(range(3, 60)), "unsure": [1]}


def test_a_selection_and_a_sample_are_the_same_after_a_new_start(start: Callable[..., FlaskClient]) -> None:
    how = {"select": "score < 0.9 and z_abs > 0.8", "sample": 9}
    first, second = (get(start(**how), "/api/systems", sort="score")["systems"] for _ in range(2))
    assert first == second and len(first) == 9 and all(value < 0.9 for *_, value in first)


# ---- blind


def test_a_blind_review_gives_nothing_away_that_is_hidden(start: Callable[..., FlaskClient], folder: Path) -> None:
    sighted, blind = start(), start(blind=True, select="score < 0.95")
    table = absorber_exhibits(folder).rows
    hidden = HIDDEN - {"n_ions"}  # that of several species alone
    assert table.num_rows == 60 and set(table.column_names) >= hidden
    facts = get(blind, "/api/review")
    assert facts["blind"] and not {column["name"] for column in facts["columns"]} & HIDDEN
    for name in hidden:
        assert get(blind, "/api/systems", sort=name)["status"] == 400
        assert get(sighted, "/api/systems", sort=name)["status"] == 200
    remarks = 0
    for number in range(5):
        seen = get(blind, f"/api/system/{number}")
        same = next(k for k in range(60) if get(sighted, f"/api/system/{k}")["system"] == seen["system"])
        known = get(sighted, f"/api/system/{same}")
        remarks += len(known["remarks"])
        assert seen["remarks"] == [] and not {fact["name"] for fact in seen["facts"]} & HIDDEN
        assert seen["picture"] == known["picture"]
        score = next(fact["text"] for fact in known["facts"] if fact["name"] == "score")
        assert score not in json.dumps(seen)
    assert remarks > 0
    assert label(blind, 0)["status"] == 200
    assert json.loads((folder / FOLDER / "ann.jsonl").read_text())["blind"] is True


# ---- what is kept


def test_a_label_is_on_disk_when_it_is_answered_and_undone_by_a_line(start: Callable[..., FlaskClient], folder: Path) -> None:
    client = start()
    kept = label(client, 4, "not", reason="sky", note=" beside 5579 ")
    (line,) = (folder / FOLDER / "ann.jsonl").read_text().splitlines()
    said = json.loads(line)
    assert (said["class"], said["reason"], said["note"], said["look"], said["blind"]) == ("not", "sky", "beside 5579", 1, False)
    assert said["system"].startswith(said["spectrum_id"]) and said["species"] == "MgII" and 0.7 < said["z"] < 1.1
    assert (kept["labelled"], kept["total"], kept["last"]["number"]) == (1, 60, 4)
    assert get(client, "/api/system/4")["label"]["reason"] == "sky"
    tree = {"label_id": new_id(), "undoes": kept["label_id"], "reviewer": "ann"}
    for _ in range(2):  # the answer to the first was lost
        gone = client.post("/api/undo", base_url=BASE, json=tree, headers=ORIGIN).get_json()
        assert (gone["number"], gone["labelled"], gone["last"]) == (4, 0, None)
    assert get(client, "/api/system/4")["label"] is None
    assert len((folder / FOLDER / "ann.jsonl").read_text().splitlines()) == 2


def test_the_same_label_asked_for_twice_is_kept_once_also_by_a_new_server(start: Callable[..., FlaskClient], folder: Path) -> None:
    label_id = new_id()
    for client in (start(), start()):
        assert label(client, 0, label_id=label_id)["labelled"] == 1
    assert len((folder / FOLDER / "ann.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"class": "perhaps"}, {"class": ""}, {"class": "absorber", "reason": "sky"}, {"class": "not", "reason": "rain"}, {"number": 60},
        {"number": -1}, {"number": "0"}, {"number": True}, {"systems": "others"}, {"blind": True}, {"look": 2}, {"note": None},
        {"note": "x" * 3000}, {"note": "\ud83d"}, {"reviewer": ""}, {"label_id": "../x"},
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused_in_a_sentence(start: Callable[..., FlaskClient], folder: Path, wrong: dict[str, Any]) -> None:
    tree = {"label_id": new_id(), "number": 0, "reviewer": "ann", "class": "not", "reason": "", "note": ""}
    client = start()
    tree |= seen(client) | wrong
    response = client.post("/api/label", base_url=BASE, json=tree, headers=ORIGIN)
    assert response.status_code == 400 and response.get_json()["error"].endswith(".")
    assert list((folder / FOLDER).iterdir()) == []


def test_a_request_that_is_no_json_or_too_long_is_refused(start: Callable[..., FlaskClient]) -> None:
    client = start()
    assert client.post("/api/label", base_url=BASE, data="class=not", headers=ORIGIN).status_code == 400
    assert client.post("/api/label", base_url=BASE, data="{", headers=ORIGIN, content_type="application/json").status_code == 400
    assert client.post("/api/label", base_url=BASE, json={"note": "x" * 100_000}, headers=ORIGIN).status_code == 413


def test_a_second_look_is_at_ones_own_labels_and_does_not_show_them(start: Callable[..., FlaskClient], folder: Path) -> None:
    first = start()
    for number, cls in ((3, "absorber"), (5, "not")):
        label(first, number, cls)
    label(first, 7, reviewer="bob")
    second = start(look=2)
    listed = get(second, "/api/systems", show="open")
    assert [number for number, *_ in listed["systems"]] == [3, 5] and (listed["labelled"], listed["total"]) == (0, 2)
    assert get(second, "/api/system/3")["label"] is None and listed["last"] is None
    assert label(second, 3, "not")["labelled"] == 1
    assert get(first, "/api/system/3")["label"]["class"] == "absorber"
    looks = [(said["look"], said["class"]) for said in map(json.loads, (folder / FOLDER / "ann.jsonl").read_text().splitlines())]
    assert looks == [(1, "absorber"), (1, "not"), (2, "not")]
    assert get(second, "/api/systems", reviewer="nobody")["systems"] == []


def test_a_part_that_is_gone_is_told_in_a_sentence(small_result: Path, tmp_path: Path) -> None:
    copy = tmp_path / "result"
    shutil.copytree(small_result, copy)
    client = client_of(review_of(copy))
    shutil.rmtree(copy / "tables" / "spectra")
    answer = get(client, "/api/system/0")
    assert answer["status"] == 400 and "Run all stages." in answer["error"]
