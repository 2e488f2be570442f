"""The page of a review, served to the browsers of this machine only.

Who may ask: whoever has the token, which is new at every start, and comes in the address first and as a cookie afterwards; under the name
127.0.0.1 or localhost and the server's own port, so that no other name can be made to lead here; and to change something, from the page
itself. Nothing is fetched from elsewhere, and what comes from files reaches the page as data, never as HTML.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flask import Flask, Response, abort, jsonify, request, send_from_directory
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from nalspark.errors import NalsparkError
from nalspark.review.exhibits import Exhibits
from nalspark.review.journal import Journal, check_reviewer, per_minute

HOST = "127.0.0.1"
#: Where the search for a free port begins, and how many are tried.
FIRST_PORT, _TRIED = 8642, 50
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: Bytes of a request; a label with its note is far smaller.
_LONGEST_REQUEST = 64 * 1024
#: What is shown: all systems; those that one has not labelled; those that nobody has; those labelled, of each class.
SHOW_ALL, SHOW_OPEN, SHOW_UNSEEN = "all", "open", "unseen"


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes
    ----------
    port : int
    token : str
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The address that opens the page."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """The cookie's name: browsers send cookies to all ports of a host."""
        return f"nalspark-review-{self.port}"

    @cached_property
    def hosts(self) -> frozenset[str]:
        return frozenset({f"{HOST}:{self.port}", f"localhost:{self.port}"})

    def knows(self, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


@dataclass(frozen=True)
class Review:
    """One review: what is looked at, how, and where labels go.

    Attributes
    ----------
    exhibits : Exhibits
    journal : Journal
    reviewer : str
        The name that the page begins with.
    blind : bool
        Whether what is hidden stays here.
    look : int
        1; of a second look at one's own labels 2.
    """

    exhibits: Exhibits
    journal: Journal
    reviewer: str
    blind: bool = False
    look: int = 1

    def __post_init__(self) -> None:
        check_reviewer(self.reviewer)

    @cached_property
    def numbers(self) -> dict[tuple[str, str | None], int]:
        """The number of each system by its key."""
        return {subject.key: number for number, subject in enumerate(self.exhibits.subjects)}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the systems and their numbers, by which a page and a server started anew see that they differ."""
        return hashlib.sha256(repr([subject.key for subject in self.exhibits.subjects]).encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Give what the page must know before it shows a system."""
        exhibits = self.exhibits
        columns = [{"name": one.name, "meaning": one.description} for one in exhibits.sortable(blind=self.blind)]
        return {
            "programme": exhibits.programme,
            "title": exhibits.title,
            "reviewer": self.reviewer,
            "blind": self.blind,
            "look": self.look,
            "classes": [vars(choice) for choice in exhibits.classes],
            "reasons": {name: [vars(choice) for choice in some] for name, some in exhibits.reasons.items()},
            "columns": columns,
            "script": f"/programme/{exhibits.script.name}",
            "warnings": self.journal.torn(),
            "systems": self.fingerprint,
        }

    def systems(self, reviewer: str, show: str, sort: str, *, descending: bool) -> dict[str, Any]:
        """List the systems in their order, each as number, name, class given or null, and value sorted by; with the progress.

        Of a second look these are the systems that the reviewer has labelled before.
        """
        given = self.journal.standing(reviewer, self.look)
        order, values = self.exhibits.order(sort, descending=descending, blind=self.blind)
        within = self._within(reviewer)
        shown = self._shown(show, given)
        subjects = self.exhibits.subjects
        listed = [
            (number, subjects[number].system, given.get(subjects[number].key, {}).get("class"), value)
            for number, value in zip(order, values, strict=True)
            if (within is None or number in within) and shown(number)
        ]
        return {"systems": listed, **self.progress(reviewer)}

    def _within(self, reviewer: str) -> set[int] | None:
        """The systems of a second look; None for all."""
        if self.look == 1:
            return None
        return {self.numbers[key] for key in self.journal.standing(reviewer, 1) if key in self.numbers}

    def _shown(self, show: str, given: Mapping[tuple[str, str | None], Mapping[str, Any]]) -> Any:
        subjects = self.exhibits.subjects
        if show == SHOW_ALL:
            return lambda number: True
        if show == SHOW_OPEN:
            return lambda number: subjects[number].key not in given
        if show == SHOW_UNSEEN:
            seen = self.journal.looked_at()
            return lambda number: subjects[number].key not in seen
        if show in {choice.value for choice in self.exhibits.classes}:
            return lambda number: given.get(subjects[number].key, {}).get("class") == show
        raise NalsparkError(f"The page cannot show '{show[:40]}'.")

    def progress(self, reviewer: str) -> dict[str, Any]:
        """Tell how many systems the reviewer has labelled, of how many, how fast, and which label undoing takes away."""
        given = {key: label for key, label in self.journal.standing(reviewer, self.look).items() if key in self.numbers}
        within = self._within(reviewer)
        last = next(reversed(given.values()), None)
        return {
            "labelled": len(given) if within is None else sum(self.numbers[key] in within for key in given),
            "total": len(self.exhibits) if within is None else len(within),
            "per_minute": per_minute(given.values()),
            "last": last and {"label_id": last["label_id"], "number": self.numbers[last["system"], last["species"]]},
        }

    def system(self, number: int, reviewer: str) -> dict[str, Any]:
        """Give all that the page shows of a system."""
        row = self.exhibits.row(number, blind=self.blind)
        subject = self.exhibits.subjects[number]
        label = self.journal.standing(reviewer, self.look).get(subject.key)
        return {
            "number": number,
            "system": subject.system,
            "label": label and {name: label[name] for name in ("label_id", "class", "reason", "note")},
            "facts": self.exhibits.facts(row),
            "remarks": self.exhibits.remarks(row),
            "picture": self.exhibits.draw(row),
        }

    def label(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what a reviewer says of a system."""
        number, reviewer, chosen, reason = asked["number"], asked["reviewer"], asked["class"], asked["reason"]
        if (asked["systems"], asked["blind"], asked["look"]) != (self.fingerprint, self.blind, self.look):
            raise NalsparkError("The server was started anew, with other systems or another way to look at them. Load the page again.")
        if not 0 <= number < len(self.exhibits):
            raise NalsparkError(f"There is no system {number}.")
        subject = self.exhibits.subjects[number]
        if chosen not in {choice.value for choice in self.exhibits.classes}:
            raise NalsparkError(f"'{chosen}' is no class of {self.exhibits.programme}.")
        if reason and reason not in {choice.value for choice in self.exhibits.reasons.get(chosen, ())}:
            raise NalsparkError(f"'{reason}' is no reason of '{chosen}'.")
        said = {"class": chosen, "reason": reason, "note": asked["note"].strip(), "blind": self.blind, "look": self.look}
        return self.journal.add(subject, reviewer, said, asked["label_id"])


#: What a request to change something has, and of which type.
_LABEL = {
    "label_id": str, "number": int, "systems": str, "blind": bool, "look": int,
    "reviewer": str, "class": str, "reason": str, "note": str,
}  # fmt: skip
_UNDO = {"label_id": str, "undoes": str, "reviewer": str}


def make_app(review: Review, access: Access) -> Flask:
    """Make the application: the page, its files, and what it asks for."""
    app = Flask("nalspark.review", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _LONGEST_REQUEST
    app.before_request(lambda: _admit(access))
    app.after_request(lambda response: _sealed(response, access))
    app.register_error_handler(NalsparkError, lambda error: (jsonify(error=str(error)), 400))
    app.register_error_handler(HTTPException, lambda error: (jsonify(error=error.description), error.code))
    _add_files(app, review)
    _add_questions(app, review)
    return app


def _add_files(app: Flask, review: Review) -> None:
    @app.get("/")
    def page() -> Response:
        return send_from_directory("static", "review.html")

    @app.get("/static/<path:name>")
    def static_file(name: str) -> Response:
        return send_from_directory("static", name)

    @app.get("/programme/<name>")
    def programme_file(name: str) -> Response:
        return send_from_directory(review.exhibits.script.parent, name)


def _add_questions(app: Flask, review: Review) -> None:
    @app.get("/api/review")
    def facts() -> Response:
        return jsonify(review.facts())

    @app.get("/api/systems")
    def systems() -> Response:
        asked = request.args
        how = asked.get("show", SHOW_ALL), asked.get("sort", "")
        return jsonify(review.systems(_reviewer(), *how, descending=asked.get("descending") == "1"))

    @app.get("/api/system/<int:number>")
    def system(number: int) -> Response:
        if number >= len(review.exhibits):
            abort(404, f"There is no system {number}.")
        return jsonify(review.system(number, _reviewer()))

    @app.post("/api/label")
    def label() -> Response:
        kept = review.label(_asked(_LABEL))
        return jsonify(label_id=kept["label_id"], **review.progress(kept["reviewer"]))

    @app.post("/api/undo")
    def undo() -> Response:
        asked = _asked(_UNDO)
        gone = review.journal.undo(asked["undoes"], asked["reviewer"], asked["label_id"])
        number = review.numbers.get((gone["system"], gone["species"])) if gone else None
        return jsonify(number=number, **review.progress(check_reviewer(asked["reviewer"])))


def _reviewer() -> str:
    return check_reviewer(request.args.get("reviewer", ""))


def _asked(wanted: Mapping[str, type]) -> dict[str, Any]:
    """The JSON of a request, whose fields have the types that are wanted."""
    tree = request.get_json(silent=True) if request.is_json else None
    if not isinstance(tree, dict) or not all(type(tree.get(name)) is kind for name, kind in wanted.items()):
        raise NalsparkError(f"Expected a JSON object with {', '.join(wanted)}.")
    return tree


def _admit(access: Access) -> None:
    """Refuse who may not ask."""
    if request.headers.get("Host") not in access.hosts:
        abort(403, f"This page is served as {HOST}:{access.port} or localhost:{access.port} only.")
    given = request.args.get("token") if request.path == "/" and "token" in request.args else request.cookies.get(access.cookie)
    if not access.knows(given):
        abort(403, "The token is missing or of an earlier start: open the address that the command printed.")
    if request.method not in ("GET", "HEAD") and not _from_the_page(access):
        abort(403, "Only the page itself may change something.")


def _from_the_page(access: Access) -> bool:
    origin = request.headers.get("Origin")
    if origin is None:
        return request.headers.get("Sec-Fetch-Site") == "same-origin"
    return origin == f"http://{request.headers['Host']}"


def _sealed(response: Response, access: Access) -> Response:
    response.headers.update(_HEADERS)
    if request.path == "/" and "token" in request.args and response.status_code == 200:
        response.set_cookie(access.cookie, access.token, httponly=True, samesite="Strict", path="/")
    return response


class _Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_request(self, *arguments: Any) -> None:
        pass


def open_server(review: Review, port: int | None = None) -> tuple[BaseWSGIServer, Access]:
    """Open a server on this machine's own address; it answers once it is told to ``serve_forever``.

    Parameters
    ----------
    review : Review
    port : int, optional
        By default the first free one from 8642 on.

    Raises
    ------
    NalsparkError
        Where the port is not free.
    """
    if port is not None and not 0 < port < 65536:
        raise NalsparkError(f"There is no port {port}: --port must be 1 to 65535.")
    for number in [port] if port else range(FIRST_PORT, FIRST_PORT + _TRIED):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, number))
            listening.listen(128)
        except OSError:
            listening.close()
            continue
        access = Access(number)
        with listening:  # the server has a descriptor of its own
            how: dict[str, Any] = {"threaded": True, "request_handler": _Quiet, "fd": listening.fileno()}
            return make_server(HOST, number, make_app(review, access), **how), access
    taken = f"Port {port} is" if port else f"Ports {FIRST_PORT} to {FIRST_PORT + _TRIED - 1} are"
    raise NalsparkError(f"{taken} not free: give another one with --port.")
