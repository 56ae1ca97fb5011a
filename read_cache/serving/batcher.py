"""The thread that predicts: it gathers waiting requests into a batch, runs it, and answers each request."""

import logging
import queue
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future

from read_cache.live.heads import Classified
from read_cache.live.predict import Predictor
from read_cache.serving.metrics import Metrics

logger = logging.getLogger(__name__)
Answer = tuple[list[dict[str, Classified]], int]
"""(predictions of each row by network, number of rows that were cut)."""


class Job:
    """The rows of one request, and the future of its answer."""

    def __init__(self, texts: Sequence[tuple[str, ...]], networks: Collection[str]) -> None:
        self.texts, self.networks = texts, networks
        self.arrived = time.monotonic()
        self.answer: Future[Answer] = Future()


class Batcher:
    """One thread, which alone computes with torch. Requests wait in their order; a cancelled one is skipped."""

    def __init__(self, predictor: Predictor, wait: float, metrics: Metrics) -> None:
        """`wait`: seconds that a request waits for others to fill its batch."""
        self.predictor, self.wait, self.metrics = predictor, wait, metrics
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Predict all that waits, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """True while requests are predicted."""
        return self._thread.is_alive()

    def submit(self, texts: Sequence[tuple[str, ...]], networks: Collection[str]) -> Future[Answer]:
        """Return the future predictions of rows. It raises what the prediction raises."""
        job = Job(texts, networks)
        self._jobs.put(job)
        return job.answer

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = self._gather(job)
            if started := [job for job in batch if job.answer.set_running_or_notify_cancel()]:
                self._answer(started)

    def _gather(self, job: Job) -> list[Job]:
        """Return the first job and those that follow until a batch is full, or the first has waited long enough."""
        batch, deadline = [job], job.arrived + self.wait
        while sum(len(job.texts) for job in batch) < self.predictor.window:
            try:
                following = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if following is None:  # the end comes after this batch
                self._jobs.put(None)
                break
            batch.append(following)
        return batch

    def _answer(self, batch: list[Job]) -> None:
        """Predict all rows of a batch together; if that fails, those of each request alone."""
        texts = [row for job in batch for row in job.texts]
        networks = {name for job in batch for name in job.networks}
        try:
            with self.metrics.batch_seconds.time():
                predicted, cut = self.predictor.predict_texts(texts, networks)
        except Exception as error:  # such as too little memory: the server goes on
            if len(batch) > 1:
                for job in batch:
                    self._answer([job])
            else:
                logger.exception("the prediction of %d rows failed", len(texts))
                batch[0].answer.set_exception(error)
            return
        self.metrics.rows.inc(len(texts))
        self.metrics.batch_requests.observe(len(batch))
        start = 0
        for job in batch:
            end = start + len(job.texts)
            rows = [{name: one for name, one in row.items() if name in job.networks} for row in predicted[start:end]]
            job.answer.set_result((rows, sum(cut[start:end])))
            start = end
