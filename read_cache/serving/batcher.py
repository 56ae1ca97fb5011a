"""The thread that predicts: it gathers waiting requests into a batch, predicts it, and answers each request."""

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future

from fastapi import HTTPException

from read_cache.config import ServeConfig
from read_cache.live.heads import Classified
from read_cache.live.predict import Predictor
from read_cache.serving.metrics import Metrics

logger = logging.getLogger(__name__)
Answer = tuple[list[dict[str, Classified]], int]
"""(predictions of each row by network, number of rows that were cut)."""


@dataclasses.dataclass(frozen=True)
class Job:
    """The rows of one request, and the future of its answer."""

    texts: Sequence[tuple[str, ...]]
    networks: Collection[str]
    answer: Future[Answer] = dataclasses.field(default_factory=Future)
    arrived: float = dataclasses.field(default_factory=time.monotonic)


class Batcher:
    """One thread, which alone computes with torch. Jobs wait in their order; a cancelled one is skipped."""

    def __init__(self, predictor: Predictor, config: ServeConfig, metrics: Metrics) -> None:
        self.predictor, self.config, self.metrics = predictor, config, metrics
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def close(self) -> None:
        """Predict all that waits, and end the thread."""
        self._jobs.put(None)
        self.thread.join()

    def submit(self, texts: Sequence[tuple[str, ...]], networks: Collection[str]) -> Future[Answer]:
        """Return the future predictions of rows. It raises HTTPException if the prediction fails.

        Raises HTTPException if the queue is full of jobs, which may be cancelled ones.
        """
        if (waiting := self._jobs.qsize()) >= self.config.queue:
            detail = f"{waiting} requests wait, which is the limit: send this one again later"
            raise HTTPException(503, detail, {"Retry-After": "1"})
        job = Job(texts, networks)
        self._jobs.put(job)
        return job.answer

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if batch := [job for job in self._gather(job) if job.answer.set_running_or_notify_cancel()]:
                self._predict(batch)

    def _gather(self, job: Job) -> list[Job]:
        """Return the first job and those that follow until a batch is full, or the first has waited long enough."""
        batch, rows = [job], len(job.texts)
        while rows < self.predictor.window:
            try:
                following = self._jobs.get(timeout=max(0.0, job.arrived + self.config.wait / 1000 - time.monotonic()))
            except queue.Empty:
                break
            if following is None:  # the end comes after this batch
                self._jobs.put(None)
                break
            batch.append(following)
            rows += len(following.texts)
        return batch

    def _predict(self, batch: list[Job]) -> None:
        """Predict all rows of a batch together; if that fails, those of each job alone."""
        texts = [row for job in batch for row in job.texts]
        try:
            with self.metrics.batch_seconds.time():
                predicted, cut = self.predictor.predict_texts(texts, {name for job in batch for name in job.networks})
        except Exception:  # such as too little memory: the server goes on
            if len(batch) > 1:
                for job in batch:
                    self._predict([job])
            else:
                logger.exception("the prediction of %d rows failed", len(texts))
                batch[0].answer.set_exception(HTTPException(500, "the prediction failed: see the server's log"))
            return
        self.metrics.rows.inc(len(texts))
        self.metrics.batch_requests.observe(len(batch))
        rows, cuts = iter(predicted), iter(cut)
        for job in batch:
            own = [{name: one for name, one in next(rows).items() if name in job.networks} for _ in job.texts]
            job.answer.set_result((own, sum(next(cuts) for _ in job.texts)))
