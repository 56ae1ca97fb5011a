"""What is refused before a route reads it: no token, one request too many, a body that is too long or too slow."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from read_cache.config import ServeConfig
from read_cache.serving.guard import Guard
from read_cache.serving.metrics import Metrics
from support.serving import held


def test_every_route_asks_for_the_token(serving) -> None:
    with serving("sécret") as client:
        right = {"Authorization": "Bearer sécret".encode()}
        for path in ("/health", "/networks", "/metrics", "/openapi.json", "/elsewhere"):
            for headers in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "sécret".encode()}):
                refused = client.get(path, headers=headers)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
                assert "Bearer" in refused.json()["detail"]
            assert client.get(path, headers=right).status_code == (404 if path == "/elsewhere" else 200)
        lower = {"Authorization": "bearer  sécret".encode(), "Host": "example.com"}
        assert client.get("/health", headers=lower).status_code == 200
        assert client.post("/predict", json={"rows": ["a"]}).status_code == 401
        assert client.post("/predict", json={"rows": ["a"]}, headers=right).status_code == 200


def test_without_a_token_the_host_is_this_machine(serving) -> None:
    with serving(host="127.0.0.2") as client:
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]", "[::1]:8000", "127.0.0.2:1"):
            assert client.get("/health", headers={"Host": host}).status_code == 200
        for host in ("example.com", "localhost.example.com:8000", "localhost:x", "\xff", ""):
            refused = client.get("/health", headers={"Host": host.encode("latin-1")})
            assert refused.status_code == 421
            assert "token" in refused.json()["detail"]


def test_a_long_body_is_refused_whether_its_length_is_given_or_not(serving) -> None:
    def pieces() -> Iterator[bytes]:
        yield from [b"x" * 50] * 3

    with serving(max_body=100) as client:
        for content in (b"x" * 101, pieces()):
            refused = client.post("/predict", content=content, headers={"Content-Type": "application/json"})
            assert refused.status_code == 413
            assert "100 bytes" in refused.json()["detail"]
        assert client.post("/predict", json={"rows": ["a river"]}).status_code == 200


def test_more_requests_than_the_queue_takes_are_told_to_come_back(serving, predictor, monkeypatch) -> None:
    with serving(queue=2) as client, ThreadPoolExecutor() as threads, held(predictor, monkeypatch) as hold:
        accepted = [threads.submit(client.post, "/predict", json={"rows": ["a river"]}) for _ in range(2)]
        hold.until(lambda: "read_cache_active_requests 2.0" in client.get("/metrics").text)
        refused = client.post("/predict", json={"rows": ["a river"]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/health").status_code == 200
        hold.release()
        assert [one.result().status_code for one in accepted] == [200, 200]
        assert client.post("/predict", json={"rows": ["a river"]}).status_code == 200


def test_a_prediction_that_takes_too_long_is_given_up(serving, predictor, monkeypatch) -> None:
    with serving(timeout=0.2) as client, held(predictor, monkeypatch) as hold:
        late = client.post("/predict", json={"rows": ["a river"]})
        assert late.status_code == 504
        assert "0.2 s" in late.json()["detail"]
        hold.release()
        assert client.post("/predict", json={"rows": ["a river"]}).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    """Below the client of the other tests, which sends at once."""

    async def never() -> AsyncIterator[dict[str, object]]:
        await asyncio.Event().wait()

    async def app(scope, receive, send) -> None:
        await receive()

    async def ask() -> None:
        guard = Guard(app, ServeConfig(timeout=0.05), "", Metrics())
        await guard({"type": "http", "path": "/predict", "headers": [(b"host", b"localhost")]}, never, None)

    with pytest.raises(Exception, match="did not arrive") as caught:
        asyncio.run(ask())
    assert caught.value.status_code == 408
