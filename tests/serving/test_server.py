"""The command in a process of its own: addresses, signals, connections that end, and what is no HTTP."""

import http.client
import json
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread

import pytest
import uvicorn

from read_cache.serving.server import Server
from support.processes import Started, run

ROWS = {"rows": ["the old river runs past a quiet town"] * 200}


@contextmanager
def started(networks, models, *options: object) -> Iterator[tuple[Started, int]]:
    """Yield the running command and its port."""
    words = ["serve", "--model", models["tied"], "--network", networks, "--port", 0, *options]
    server = Started(words)
    try:
        end, errors = time.monotonic() + 60, server.output / "stderr"
        while not (found := re.search(r"http://\S+:(\d+);", errors.read_text() if errors.exists() else "")):
            assert server.process.is_alive()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield server, int(found[1])
    finally:
        if server.process.is_alive():
            server.process.kill()


def post(port: int, body: object, answers: list[tuple[int, object]]) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/predict", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answers.append((response.status, json.loads(response.read())))


def get(port: int, path: str) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def test_a_signal_ends_the_server_after_the_accepted_requests(networks, models) -> None:
    with started(networks, models, "--set", "wait=700", "--batch-size", 256) as (server, port):
        answers: list[tuple[int, object]] = []
        asking = Thread(target=post, args=(port, ROWS, answers))
        asking.start()
        while "read_cache_active_requests 1.0" not in get(port, "/metrics"):
            assert asking.is_alive()
        server.send(signal.SIGTERM)
        ended = server.end()
        asking.join()
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "Traceback" not in ended.stderr
    ((status, answer),) = answers
    assert status == 200
    assert len(answer["predictions"]) == 200
    with pytest.raises(ConnectionError):
        post(port, ROWS, answers)


def test_a_second_ctrl_c_cuts_requests_off_without_a_traceback(networks, models) -> None:
    with (
        started(networks, models, "--set", "wait=20000", "--batch-size", 256) as (server, port),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection,
    ):
        connection.request("POST", "/predict", '{"rows": ["a river"]}', {"Content-Type": "application/json"})
        while "read_cache_active_requests 1.0" not in get(port, "/metrics"):
            time.sleep(0.02)
        server.send(signal.SIGINT)
        time.sleep(0.5)
        server.send(signal.SIGINT)
        ended = server.end(15)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr


def test_a_signal_after_the_second_ctrl_c_changes_nothing() -> None:
    server = Server(uvicorn.Config("app"))
    logger = logging.getLogger("uvicorn.error")
    try:
        for sig, forced in ((signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGTERM, True)):
            server.handle_exit(sig, None)
            assert (server.should_exit, server.force_exit, logger.disabled) == (True, forced, forced)
    finally:
        logger.disabled = False


def test_broken_connections_and_what_is_no_http_leave_the_server_running(networks, models) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    body = json.dumps(ROWS).encode()
    pieces = [
        b"", b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", head, head + b"Content-Length: -1\r\n\r\n",
        head + b"Content-Length: 10\r\n\r\n{", head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"A" * 70_000,
        head + b"Content-Length: %d\r\n\r\n" % len(body) + body,  # whole, but nobody waits for the answer
    ]  # fmt: skip
    with started(networks, models, "--set", "wait=300", "--batch-size", 256) as (server, port):
        for piece in pieces * 3:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(piece)
        answers: list[tuple[int, object]] = []
        post(port, {"rows": ["a river"]}, answers)
        assert answers[0][0] == 200
        assert 'read_cache_requests_total{path="/predict",status="499"}' in get(port, "/metrics")
        server.send(signal.SIGINT)
        ended = server.end()
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr


def refused(networks, models, monkeypatch, capsys, *options: object) -> str:
    words = ["serve", "--model", models["tied"], "--network", networks, *options]
    code, out, err = run(words, monkeypatch, capsys)
    assert (code, out) == (2, "")
    return err


def test_an_address_that_others_can_reach_needs_a_token(networks, models, monkeypatch, capsys) -> None:
    for host in ("0.0.0.0", "::"):
        monkeypatch.setenv("READ_CACHE_TOKEN", " ")
        err = refused(networks, models, monkeypatch, capsys, "--host", host, "--port", 0)
        assert "READ_CACHE_TOKEN" in err
    monkeypatch.setenv("READ_CACHE_TOKEN", "secret")
    err = refused(networks / "none", models, monkeypatch, capsys, "--host", "0.0.0.0", "--port", 0)
    assert "no network" in err


def test_a_token_that_is_no_utf_8_is_refused_before_the_model_is_loaded(models, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("READ_CACHE_TOKEN", os.fsdecode(b"\xff"))
    err = refused(tmp_path / "none", models, monkeypatch, capsys, "--port", 0)
    assert "READ_CACHE_TOKEN is not UTF-8" in err


def test_an_address_that_cannot_be_used_is_named(networks, models, monkeypatch, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        err = refused(networks, models, monkeypatch, capsys, "--port", port)
    assert f"127.0.0.1 port {port}" in err
    assert "in use" in err
    for host in ("nowhere.invalid", "a" * 70):
        assert host in refused(networks, models, monkeypatch, capsys, "--host", host)
    assert "port" in refused(networks, models, monkeypatch, capsys, "--port", 65536)
    assert "waits" in refused(networks, models, monkeypatch, capsys, "--set", "waits=3")


def test_the_extra_is_named_where_it_is_missing(networks, models, monkeypatch, capsys) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "read_cache.serving.server", None)
    assert "read-cache[serve]" in refused(networks, models, monkeypatch, capsys)
