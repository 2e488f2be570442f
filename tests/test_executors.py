"""A cluster that does not answer and executors that do not come are said, and given up; without Spark."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from py4j.protocol import Py4JError

from nalspark import executors
from nalspark.errors import NalsparkError
from nalspark.session import shuffle_partitions


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_SILENT_S", 0.05)
    monkeypatch.setattr(executors, "_LOOK_S", 0.01)


@pytest.fixture
def port() -> Iterator[int]:
    """A port at which something listens that is no master."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# ---- the master


def test_a_wrong_port_is_a_sentence_before_spark_is_asked(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()[1]
    sentence = rf"^No Spark master answers at spark://127.0.0.1:{closed}: Connection refused. .*running\?$"
    with pytest.raises(NalsparkError, match=sentence), executors.coming_up(f"spark://127.0.0.1:{closed}"):
        raise AssertionError("Spark was asked")
    with pytest.raises(NalsparkError, match="No Spark master answers at spark://host: "), executors.coming_up("spark://host"):
        pass
    for master in (f"spark://127.0.0.1:{closed},127.0.0.1:{port}", "yarn", None):  # one of several masters is enough
        with executors.coming_up(master):
            pass


def test_a_port_that_is_no_masters_is_said_soon_and_ends_in_a_sentence(port: int, caplog: pytest.LogCaptureFixture) -> None:
    master = f"spark://127.0.0.1:{port}"
    sentence = f"^Spark did not start at {master}: All masters are unresponsive"
    with pytest.raises(NalsparkError, match=sentence) as refused, executors.coming_up(master):
        time.sleep(0.3)
        raise Py4JError("All masters are unresponsive! Giving up.\n\tat org.apache.spark")
    assert "\n" not in str(refused.value)
    assert caplog.messages == [f"After 0 s there is no answer from {master} yet. Spark tries for about a minute."]


# ---- executors


class Context:
    """A context whose jobs wait for executors; cancelled, they end."""

    def __init__(self, master: str, executors: int = 0, jobs: int = 1) -> None:
        self.master, self.executors, self.jobs, self.cancelled = master, executors, [7] * jobs, threading.Event()
        status = SimpleNamespace(size=lambda: 1 + self.executors)
        self._jsc = SimpleNamespace(sc=lambda: SimpleNamespace(getExecutorMemoryStatus=lambda: status))
        asked = {"spark.executor.cores": "2", "spark.executor.memory": "4g", "spark.driver.host": "driver", "spark.driver.port": "5"}
        self.getConf = lambda: asked
        self.statusTracker = lambda: SimpleNamespace(getActiveJobsIds=lambda: self.jobs)
        self.cancelAllJobs = self.cancelled.set


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page of a master tells, which listens at port 7077."""
    free = {"state": "ALIVE", "cores": 1, "coresused": 0, "memory": 1024, "memoryused": 0}
    told = {"url": "spark://127.0.0.1:7077", "workers": [free, free, free | {"state": "DEAD"}, free | {"coresused": 1, "memoryused": 512}]}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SPARK_MASTER_WEBUI_PORT", str(server.server_port))
        yield told
        server.shutdown()


def silence(master: str, caplog: pytest.LogCaptureFixture) -> tuple[str, str]:
    """What is said first, and what at the end, where no executor comes."""
    context: Any = Context(master)
    with pytest.raises(NalsparkError) as given_up, executors.awaited(context, 0.2):
        assert context.cancelled.wait(20)
        raise Py4JError("Job 7 cancelled as part of cancellation of all jobs")
    (said,) = caplog.messages
    caplog.clear()
    return said, str(given_up.value)


def test_that_none_has_come_is_said_with_what_was_asked_and_what_there_is(page: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    said, given_up = silence("spark://127.0.0.1:7077", caplog)
    there = (
        "Each was asked for with 2 cores (spark.executor.cores) and 4g (spark.executor.memory); spark://127.0.0.1:7077 has "
        "2 workers each with 1 of 1 cores and 1024 of 1024 MB free, 1 worker with 0 of 1 cores and 512 of 1024 MB free. "
        "Ask for less, wait for what others hold, or see whether the workers reach the driver at driver:5."
    )
    assert said == f"No executor has come in 0 s. {there} It goes on when one comes."
    assert given_up == f"Given up: No executor has come in 0 s. {there}"
    page["workers"] = []
    assert "spark://127.0.0.1:7077 has no worker." in silence("spark://127.0.0.1:7077", caplog)[0]


@pytest.mark.parametrize("master", ["spark://127.0.0.1:7078", "yarn"])
def test_the_page_of_another_master_tells_nothing(master: str, page: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert f"; what there is, the page of {master} shows." in silence(master, caplog)[1]


@pytest.mark.parametrize(
    "context",
    [Context("local[2]"), Context("spark://127.0.0.1:7077", executors=1), Context("spark://127.0.0.1:7077", jobs=0)],
    ids=["no cluster", "an executor", "no work"],
)
def test_nothing_is_said_where_nothing_waits(context: Any, caplog: pytest.LogCaptureFixture) -> None:
    with executors.awaited(context, 0.1):
        time.sleep(0.3)
    assert not caplog.messages and not context.cancelled.is_set()


def test_what_fails_for_another_reason_says_so_and_a_given_session_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    context: Any = Context("spark://127.0.0.1:7077")
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="another reason"), executors.awaited(context, math.inf):
        time.sleep(0.3)
        raise RuntimeError("another reason")
    assert len(caplog.messages) == 1 and not context.cancelled.is_set()


# ---- shuffles


@pytest.mark.parametrize(
    "cores, rows, partitions",
    [(2, 0, 1), (2, 300, 1), (200, 5000, 3), (16, 100_000, 16), (200, 500_000, 200), (2, 1_000_000, 20), (4, 750_000, 15)],
)
def test_a_shuffle_has_partitions_by_cores_and_rows(cores: int, rows: int, partitions: int) -> None:
    assert shuffle_partitions(cores, rows) == partitions
