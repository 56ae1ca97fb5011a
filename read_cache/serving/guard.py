"""Checks before a route reads a request: its token or host, the number of requests, the size and time of the body."""

import asyncio
import hmac
import re
import reprlib
import time

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from read_cache.config import ServeConfig
from read_cache.serving.metrics import Metrics

PATHS = ("/predict", "/networks", "/health", "/metrics")


class Guard:
    """ASGI middleware that refuses requests, and counts and times all of them."""

    def __init__(self, app: ASGIApp, config: ServeConfig, token: str, metrics: Metrics) -> None:
        """`token`: what requests must bear; empty for none."""
        self.app, self.config, self.metrics = app, config, metrics
        self.token = token.encode()
        self.hosts = {b"localhost", b"127.0.0.1", b"[::1]", config.host.lower().encode()}
        """Hosts that a request without a token may name."""
        self.active = 0
        """Requests of /predict under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, start, status = scope["path"], time.monotonic(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if refusal := self._refusal(scope):
                await refusal(scope, receive, counted)
            elif path != PATHS[0]:
                await self.app(scope, receive, counted)
            else:
                self.active += 1
                try:
                    with self.metrics.active.track_inprogress(), self.metrics.seconds.time():
                        await self.app(scope, self._limited(receive, start + self.config.timeout), counted)
                finally:
                    self.active -= 1
        finally:
            self.metrics.requests.labels(path if path in PATHS else "other", status).inc()

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the response to a request without the token, to another host, or to one too many."""
        headers = dict(scope["headers"])
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if self.token and not (scheme.lower() == b"bearer" and hmac.compare_digest(given.lstrip(b" "), self.token)):
            detail = "found no valid token, expected the header 'Authorization: Bearer TOKEN' with the server's token"
            return JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})
        host = headers.get(b"host", b"").lower()
        if not self.token and re.sub(rb":\d*$", b"", host) not in self.hosts:  # a web page whose name resolves to us
            found = reprlib.repr(host.decode("latin-1"))
            detail = f"the header Host is {found}, expected localhost: for other names, set READ_CACHE_TOKEN to a token"
            return JSONResponse({"detail": detail}, 421)
        if scope["path"] == PATHS[0] and self.active >= self.config.queue:
            detail = f"{self.active} requests are under way, which is the limit: send this one again later"
            return JSONResponse({"detail": detail}, 503, {"Retry-After": "1"})
        return None

    def _limited(self, receive: Receive, deadline: float) -> Receive:
        """Return a `receive` that raises HTTPException for a body that is too long or too slow."""
        left, complete = self.config.max_body, False

        async def limited() -> Message:
            nonlocal left, complete
            if complete:  # what follows is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {self.config.timeout:g} s") from None
            left -= len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if left < 0:
                raise HTTPException(413, f"the body has more than {self.config.max_body} bytes: send fewer rows")
            return message

        return limited
