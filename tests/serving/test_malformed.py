"""A thousand malformed requests: each is refused, none raises an exception or is logged as an error."""

import json
import logging
import random
from typing import Any

ROUTES = ["/predict"] * 12 + ["/", "/health", "/networks", "/metrics", "/predict/", "/%00", "/../etc", "/openapi.json"]
METHODS = ["POST"] * 20 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]
KINDS = ["application/json"] * 8 + ["text/plain", "application/json; charset=utf-16", "multipart/form-data", "\xff", ""]
PIECES = ["rows", "networks", "sentence", "read-gru", "", "a river", "a\tb", "\ud800", "\0", "\n", "�", "a" * 3000]
NUMBERS = [0, -1, 1e400, float("nan"), 2**80, True, None]


def value(random: random.Random, depth: int = 0) -> Any:
    """Return a JSON value, of the types and names that a request has."""
    kind = random.randrange(6 if depth < 4 else 3)
    if kind == 0:
        return random.choice(NUMBERS)
    if kind < 3:
        return random.choice(PIECES)
    if kind < 5:
        return {random.choice(PIECES): value(random, depth + 1) for _ in range(random.randrange(4))}
    return [value(random, depth + 1) for _ in range(random.randrange(4))]


def body(random: random.Random) -> bytes:
    """Return a body: random bytes, JSON of wrong types, or a right one that is cut or has changed bytes."""
    kind = random.randrange(8)
    if kind == 0:
        return random.randbytes(random.randrange(200))
    if kind == 1:
        return random.choice(
            [b"[" * 50_000, b'{"rows":' * 5_000, b'{"rows": [' + b"9" * 5000 + b"]}", b"\xef\xbb\xbf{}"]
        )
    if kind < 5:
        rows: Any = {"rows": value(random), "networks": value(random)}
        return json.dumps(random.choice([rows, value(random), {"rows": [value(random)]}])).encode()
    right = bytearray(json.dumps({"rows": [{"sentence": "a quiet town"}], "networks": ["read-gru"]}).encode())
    for _ in range(random.randrange(1, 5)):
        right[random.randrange(len(right))] = random.randrange(256)
    return bytes(right[: random.choice([len(right), random.randrange(len(right))])])


def test_a_thousand_malformed_requests(client, caplog) -> None:
    draw = random.Random(0)
    statuses: list[int] = []
    while sum(status >= 400 for status in statuses) < 1000:
        headers = {"Content-Type": draw.choice(KINDS)}
        if not draw.randrange(10):
            headers |= {"Content-Encoding": "gzip", "Expect": "100-continue", "Authorization": "Bearer \xff"}
        headers = {name: text.encode("latin-1") for name, text in headers.items()}
        response = client.request(draw.choice(METHODS), draw.choice(ROUTES), content=body(draw), headers=headers)
        statuses.append(response.status_code)
        if response.status_code >= 400 and response.content:
            assert response.json()["detail"]
    assert set(statuses) <= {200, 400, 404, 405, 422}
    assert statuses.count(422) > 300
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]
    assert client.post("/predict", json={"rows": ["a river"]}).status_code == 200
