"""The routes of the server: JSON in and out."""

import asyncio
import contextlib
import reprlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel, ConfigDict, Field

from read_cache.config import ServeConfig
from read_cache.errors import UserError
from read_cache.live.heads import Classified
from read_cache.live.predict import Predictor
from read_cache.serving.batcher import Batcher
from read_cache.serving.guard import Guard
from read_cache.serving.metrics import Metrics
from read_cache.settings import expected

LONGEST = 500
"""Characters of an error message; it may quote the request."""


class Rows(BaseModel):
    """The body of a request of /predict."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    rows: list[Any] = Field(min_length=1)
    """Objects with the task's text fields, or texts, with tabs between those of several fields."""
    networks: list[str] | None = Field(default=None, min_length=1, fail_fast=True)
    """Names of networks; by default all."""


class Predictions(BaseModel):
    """The answer of /predict."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    predictions: list[dict[str, Classified]]
    """By row, then by network."""
    cut: int
    """Number of rows that had more tokens than the networks' limit, and were cut."""


def create_app(predictor: Predictor, config: ServeConfig, token: str = "") -> FastAPI:
    """Return the ASGI application for a predictor that has the same settings.

    With a `token`, each request must bear it. Raises UserError for networks that cannot predict.
    """
    predictor.predict_texts([predictor.texts(dict.fromkeys(predictor.task.text_fields, "a"), "")], predictor.names)
    metrics = Metrics()
    batcher = Batcher(predictor, config, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.thread.start()
        yield
        batcher.close()

    app = FastAPI(title="read-cache", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Guard, config=config, token=token, metrics=metrics)
    app.add_exception_handler(UserError, lambda _, error: refusal(str(error)))
    unreadable = "the body cannot be read: expected JSON in UTF-8, not deeply nested, without numbers of 4,300 digits"
    app.add_exception_handler(400, lambda _, error: refusal(unreadable, 400))
    app.add_exception_handler(RequestValidationError, lambda _, error: refusal(explained(error)))

    @app.post("/predict")
    async def predict(body: Rows, request: Request) -> Predictions:
        networks = set(body.networks or predictor.names)
        if unknown := networks.difference(predictor.names):
            known = ", ".join(predictor.names)
            raise HTTPException(404, f"no network {reprlib.repr(min(unknown))} is served; served are: {known}")
        if len(body.rows) > config.max_rows:
            raise UserError(f"the request has {len(body.rows)} rows, expected at most {config.max_rows}")
        texts = [predictor.texts(row, f"row {index}") for index, row in enumerate(body.rows)]
        answer: asyncio.Future[Any] = asyncio.wrap_future(batcher.submit(texts, networks))
        disconnected: asyncio.Future[Any] = asyncio.ensure_future(request.receive())  # nothing else follows the body
        try:
            await asyncio.wait({answer, disconnected}, timeout=config.timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                predictions, cut = answer.result()
                return Predictions(predictions=predictions, cut=cut)
            if disconnected.done():
                raise HTTPException(499, "the client closed the connection")
            raise HTTPException(504, f"there was no prediction within {config.timeout:g} s: send the rows again later")
        finally:
            answer.cancel()
            disconnected.cancel()

    @app.get("/networks")
    async def networks() -> dict[str, Any]:
        records = {name: attached.records[name] for attached in predictor.attached for name in attached.records}
        return {
            "model": predictor.backbone.name,
            "task": predictor.task.name,
            "fields": predictor.task.text_fields,
            "labels": predictor.task.labels,
            "max_source_length": predictor.max_source_length,
            "networks": [
                {"name": name, "kind": records[name].kind, "scores": records[name].scores} for name in predictor.names
            ],
        }

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not batcher.thread.is_alive():
            raise HTTPException(503, "the thread that predicts has ended: start the server again")
        return {"status": "ok"}

    @app.get("/metrics")
    async def prometheus() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return app


def refusal(detail: str, status: int = 422) -> JSONResponse:
    """Return a response with a message, which may quote text that is not Unicode."""
    return JSONResponse({"detail": detail[:LONGEST].encode(errors="backslashreplace").decode()}, status)


def explained(error: RequestValidationError) -> str:
    """Return what was found in a body and what was expected."""
    problem = error.errors()[0]
    kind, found, name = problem["type"], problem["input"], ".".join(map(str, problem["loc"][1:])) or "the body"
    if kind == "json_invalid":
        return f"the body is not JSON: {problem['ctx']['error']}"
    if isinstance(found, bytes):
        return "the body is of another type: expected JSON and the header 'Content-Type: application/json'"
    if kind == "missing":
        return f"{name} is missing, expected an object with {' and '.join(Rows.model_fields)}"
    if kind == "extra_forbidden":
        return f"unknown field {name!r}; known: {', '.join(Rows.model_fields)}"
    return f"{name} is {reprlib.repr(found)}, expected {expected(problem['msg'])}"
