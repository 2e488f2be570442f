"""Labels on disk: one file for each reviewer, one JSON object a line, each on disk before its answer is given.

Nothing is ever changed in place: to undo a label, a line says so. Several processes may add to one file at once, without a lock: each line
is one write at the end of the file. A line that was cut short, by a killed process or a full disk, is left out and told; the next one
begins on a line of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from nalspark.errors import NalsparkError, StoreError

#: Where the labels of a result lie in its folder.
FOLDER = "labels"
_LABEL_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_NAME, _LONGEST_NOTE = 60, 2000
#: Between labels that lie farther apart, seconds, the reviewer was away.
_PAUSE_S = 120.0
#: Labels of which the rate is told.
_RECENT = 30


class LabelError(NalsparkError):
    """A label that cannot be kept as it is."""


@dataclass(frozen=True)
class Subject:
    """What a label is about.

    Attributes
    ----------
    system : str
        ``absorber_id``, or ``detection_id``.
    spectrum_id, species, z
        By which it is found again in a catalogue made anew; None where there is none.
    """

    system: str
    spectrum_id: str | None = None
    species: str | None = None
    z: float | None = None

    @property
    def key(self) -> tuple[str, str | None]:
        """What tells it from the others of a catalogue: two ions may be found at one pixel."""
        return self.system, self.species


def new_id() -> str:
    """Give a name for a label that no other has."""
    return uuid4().hex


def slug(reviewer: str) -> str:
    """Give the name of a reviewer's file: of names that differ in more than capitals and blanks, different ones."""
    plain = unicodedata.normalize("NFKD", reviewer).encode("ascii", "ignore").decode().lower()
    short = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    same = reviewer.lower().replace(" ", "-") == short
    return short if same else f"{short or 'reviewer'}-{hashlib.sha256(reviewer.encode()).hexdigest()[:6]}"


def check_reviewer(name: str) -> str:
    """Give a reviewer's name without blanks around it.

    Raises
    ------
    LabelError
        Where it is empty, too long, or has characters that cannot be printed.
    """
    name = " ".join(name.split())
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise LabelError(f"'{name[:_LONGEST_NAME]}' cannot be a reviewer's name: expected 1 to {_LONGEST_NAME} printable characters.")
    return name


class Journal:
    """The labels of one folder and one programme.

    Parameters
    ----------
    folder : Path
        ``DIR/labels``; made where it is not there.
    programme : str
        ``absorption`` or ``emission``: labels of the other are left alone.

    Raises
    ------
    StoreError
        Where the folder cannot be made or written.
    """

    def __init__(self, folder: Path, programme: str) -> None:
        self.folder, self.programme = folder, programme
        self._files: dict[Path, _File] = {}
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f".{new_id()}", "xb") as trial:
                os.unlink(trial.name)
        except OSError as error:
            raise StoreError(f"Labels cannot be kept in {folder}: {error.strerror}.") from None

    def add(self, subject: Subject, reviewer: str, said: Mapping[str, Any], label_id: str) -> dict[str, Any]:
        """Keep a label; it is on disk when this returns. The same `label_id` once more adds nothing.

        Parameters
        ----------
        subject : Subject
        reviewer : str
        said : mapping
            ``class``, ``reason``, ``note``, ``blind``, ``look``.
        label_id : str
            As :func:`new_id` gives it: of whoever asks, so that he may ask again where he got no answer.

        Raises
        ------
        LabelError
            Where the name, the note or `label_id` is none.
        StoreError
            Where it cannot be written.
        """
        if len(said["note"]) > _LONGEST_NOTE:
            raise LabelError(f"The note has {len(said['note'])} characters; at most {_LONGEST_NOTE} are kept.")
        if said["note"].encode("utf-8", "ignore").decode() != said["note"]:
            raise LabelError("The note has half a character: half of an emoji, perhaps. Take it away and say it again.")
        about = {"programme": self.programme, **asdict(subject)}
        return self._append(check_reviewer(reviewer), {**about, **said, "undoes": ""}, label_id)

    def undo(self, undoes: str, reviewer: str, label_id: str) -> dict[str, Any] | None:
        """Take a label of this reviewer away, and give it; None where there is none. `label_id` is that of the line which says so."""
        reviewer = check_reviewer(reviewer)
        with self._lock:
            known = self._own(reviewer).labels.get(undoes)
        if known is None or known["reviewer"] != reviewer or known["programme"] != self.programme:
            return None
        self._append(reviewer, {**known, "class": "", "reason": "", "note": "", "undoes": undoes}, label_id)
        return known

    def standing(self, reviewer: str, look: int) -> dict[tuple[str, str | None], dict[str, Any]]:
        """Give what a reviewer says, in the order in which he said it: the key of a :class:`Subject` → the last label not undone."""
        with self._lock:
            found: dict[tuple[str, str | None], dict[str, Any]] = {}
            for label in self._own(reviewer).standing():
                if (label["reviewer"], label["look"], label["programme"]) == (reviewer, look, self.programme):
                    key = label["system"], label["species"]
                    found.pop(key, None)
                    found[key] = label
            return found

    def looked_at(self) -> set[tuple[str, str | None]]:
        """Give the keys of what anybody has labelled."""
        with self._lock:
            everyone = [self._read(path) for path in sorted(self.folder.glob("*.jsonl"))]
            labels = (label for file in everyone for label in file.standing() if label["programme"] == self.programme)
            return {(label["system"], label["species"]) for label in labels}

    def torn(self) -> list[str]:
        """Tell of lines that were left out, one sentence a file."""
        with self._lock:
            files = {path.name: self._read(path).torn for path in sorted(self.folder.glob("*.jsonl"))}
        return [
            f"{number} line(s) of {self.folder / name} are no labels, and are left out: a process was killed while it wrote, or somebody "
            "edited the file."
            for name, number in files.items()
            if number
        ]

    def _append(self, reviewer: str, values: Mapping[str, Any], label_id: str) -> dict[str, Any]:
        if not _LABEL_ID.fullmatch(label_id):
            raise LabelError("A label must be named by 32 hexadecimal digits.")
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        known_by = {**values, "label_id": label_id, "reviewer": reviewer, "time": now}
        label = {name: known_by[name] for name in FIELDS}
        with self._lock:
            if known := self._own(reviewer).labels.get(label_id):
                return known
            _write_line(self.folder / f"{slug(reviewer)}.jsonl", json.dumps(label, ensure_ascii=False, allow_nan=False))
            return label

    def _own(self, reviewer: str) -> _File:
        return self._read(self.folder / f"{slug(reviewer)}.jsonl")

    def _read(self, path: Path) -> _File:
        file = self._files.setdefault(path, _File(path))
        file.refresh()
        return file


#: What a line has, in its order.
FIELDS = (
    "label_id", "programme", "system", "spectrum_id", "species", "z", "reviewer",
    "class", "reason", "note", "blind", "look", "time", "undoes",
)  # fmt: skip
_TEXTS = ("label_id", "programme", "system", "reviewer", "class", "time", "undoes")


class _File:
    """One reviewer's file, of which only what is new is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self.labels: dict[str, dict[str, Any]] = {}
        self._undone: set[str] = set()
        self._read, self._wrong, self._open = 0, 0, False

    @property
    def torn(self) -> int:
        """Lines that are none, one that is not ended included."""
        return self._wrong + self._open

    def standing(self) -> Iterable[dict[str, Any]]:
        """Give the labels that no line undoes."""
        return [label for name, label in self.labels.items() if not label["undoes"] and name not in self._undone]

    def refresh(self) -> None:
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read:  # somebody replaced it: from the beginning
                    self._begin()
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            self._begin()
            return
        except OSError as error:
            raise StoreError(f"The labels {self.path} cannot be read: {error.strerror}.") from None
        whole, end, rest = new.rpartition(b"\n")
        self._read, self._open = self._read + len(whole) + len(end), bool(rest)
        for line in whole.split(b"\n"):
            label = _label(line)
            if label is None:
                self._wrong += bool(line.strip())
            elif label["label_id"] not in self.labels:
                self.labels[label["label_id"]] = label
                self._undone |= {label["undoes"]} - {""}


def _label(line: bytes) -> dict[str, Any] | None:
    """A line's label, with all fields; None where it is none."""
    try:
        tree = json.loads(line)
        label = {"spectrum_id": None, "species": None, "z": None, "reason": "", "note": "", "blind": False, "look": 1, "undoes": ""} | tree
    except (ValueError, TypeError, RecursionError):
        return None
    return label if all(isinstance(label.get(name), str) for name in _TEXTS) else None


def _write_line(path: Path, line: str) -> None:
    """Add a line to a file and have it on disk; behind one that was cut short it begins anew."""
    data = line.encode("utf-8") + b"\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            written = os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not size:
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"The label cannot be written to {path}: {error.strerror}. Mend it and say it again.") from None
    if written < len(data):
        raise StoreError(f"The label could not be written to {path} as a whole: the disk is full. Make room and say it again.")


def _sync_folder(folder: Path) -> None:
    """Have a new file's name on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def per_minute(labels: Iterable[Mapping[str, Any]]) -> float | None:
    """Compute how many labels a minute a reviewer gives, of his last ones and without pauses; None for fewer than three.

    Parameters
    ----------
    labels : iterable of mapping
        In the order in which they were given.
    """
    times = [datetime.fromisoformat(label["time"]).timestamp() for label in labels][-_RECENT:]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False) if 0 <= after - before < _PAUSE_S]
    return 60.0 * len(gaps) / max(sum(gaps), 1e-3) if len(gaps) > 1 else None
