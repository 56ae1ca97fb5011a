"""Requests that wait together share a batch, which changes no answer; one that fails or is given up harms no other."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from read_cache.config import ServeConfig
from read_cache.serving.batcher import Batcher
from read_cache.serving.metrics import Metrics
from support.serving import held


@pytest.fixture
def batcher(predictor) -> Iterator[Batcher]:
    """Its batches have four rows."""
    batcher = Batcher(predictor, ServeConfig(wait=0, queue=6), Metrics())
    batcher.thread.start()
    yield batcher
    batcher.close()


def texts_of(predictor, rows, *indices):
    return [predictor.texts(rows[index], "row") for index in indices]


def test_requests_that_wait_share_a_batch_and_get_their_own_answers(batcher, predictor, rows, monkeypatch) -> None:
    names = predictor.names
    wanted = [(0,), (1, 2), (3,), (4, 5, 6, 7, 8), (9,)]
    chosen = [names, names[:1], names[1:3], names, names[-1:]]
    alone = [predictor.predict_texts(texts_of(predictor, rows, *of), names)[0] for of in wanted]
    with held(predictor, monkeypatch) as hold:
        first = batcher.submit(texts_of(predictor, rows, 10), names)
        hold.until(lambda: hold.begun)
        answers = [batcher.submit(texts_of(predictor, rows, *of), own) for of, own in zip(wanted, chosen, strict=True)]
        hold.release()
        first.result(60)
        results = [answer.result(60) for answer in answers]
    assert hold.begun == [1, 4, 5, 1], "a batch is full with four rows"
    for (predictions, cut), own, expected in zip(results, chosen, alone, strict=True):
        assert cut == 0
        for row, by_name in zip(predictions, expected, strict=True):
            assert tuple(row) == own
            for name in own:
                assert row[name].probabilities == pytest.approx(by_name[name].probabilities, abs=1e-4)


def test_concurrent_clients_share_batches(serving, predictor, rows, monkeypatch) -> None:
    """Through HTTP; each client gets what it gets alone."""
    with serving() as client, ThreadPoolExecutor(8) as threads:
        alone = [client.post("/predict", json={"rows": [row]}).json() for row in rows[:8]]
        with held(predictor, monkeypatch) as hold:
            waiting = [threads.submit(client.post, "/predict", json={"rows": [row]}) for row in rows[:8]]
            hold.until(lambda: "read_cache_active_requests 8.0" in client.get("/metrics").text)
            hold.release()
            together = [one.result().json() for one in waiting]
        assert len(hold.begun) < 8
    for one, other in zip(together, alone, strict=True):
        for name, own in one["predictions"][0].items():
            expected = other["predictions"][0][name]
            assert own["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)


def test_a_request_waits_a_little_for_others(predictor, rows) -> None:
    batcher = Batcher(predictor, ServeConfig(wait=60_000), Metrics())
    batcher.thread.start()
    answers = [batcher.submit(texts_of(predictor, rows, index), predictor.names) for index in range(4)]
    assert all(answer.result(30)[0] for answer in answers), "a full batch waits no longer"
    last = batcher.submit(texts_of(predictor, rows, 4), predictor.names)
    batcher.close()
    assert last.result(0)[0], "nor does the last one"
    assert batcher.metrics.registry.get_sample_value("read_cache_batch_requests_sum") == 5
    assert batcher.metrics.registry.get_sample_value("read_cache_batch_requests_count") == 2


def test_a_request_that_is_given_up_is_skipped(batcher, predictor, rows, monkeypatch) -> None:
    with held(predictor, monkeypatch) as hold:
        first = batcher.submit(texts_of(predictor, rows, 0), predictor.names)
        hold.until(lambda: hold.begun)
        given_up, last = (batcher.submit(texts_of(predictor, rows, *of), predictor.names) for of in ((1, 2), (3,)))
        assert given_up.cancel()
        hold.release()
        assert first.result(60)
        assert last.result(60)
    assert hold.begun == [1, 1]


def test_requests_that_are_given_up_and_wait_are_bounded(batcher, predictor, rows, monkeypatch) -> None:
    texts = texts_of(predictor, rows, 0)
    with held(predictor, monkeypatch) as hold:
        first = batcher.submit(texts, predictor.names)
        hold.until(lambda: hold.begun)
        assert all(batcher.submit(texts, predictor.names).cancel() for _ in range(6))
        with pytest.raises(Exception, match="6 requests wait") as caught:
            batcher.submit(texts, predictor.names)
        assert (caught.value.status_code, caught.value.headers) == (503, {"Retry-After": "1"})
        hold.release()
        assert first.result(60)
    hold.until(lambda: batcher._jobs.empty())
    assert batcher.submit(texts, predictor.names).result(60)


def test_a_request_that_fails_fails_alone(batcher, predictor, rows, monkeypatch, caplog) -> None:
    bad, predict = texts_of(predictor, rows, 1), predictor.predict_texts

    def fails(texts, networks):
        if bad[0] in texts:
            raise MemoryError
        return predict(texts, networks)

    monkeypatch.setattr(predictor, "predict_texts", fails)
    batcher.config = ServeConfig(wait=500)
    good, failing, other = (
        batcher.submit(texts_of(predictor, rows, *of), predictor.names) for of in ((0,), (1,), (2, 3))
    )
    assert good.result(60)
    assert other.result(60)
    with pytest.raises(Exception, match="prediction failed") as caught:
        failing.result(60)
    assert caught.value.status_code == 500
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
