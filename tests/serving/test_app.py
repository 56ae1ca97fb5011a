"""The routes: answers equal those of `read-cache predict`, and wrong requests are refused with what was expected."""

import json

import pytest
from fastapi.testclient import TestClient

import read_cache
from read_cache.config import ServeConfig
from read_cache.live.predict import Predictor
from read_cache.networks.saved import save_network
from read_cache.serving.app import create_app
from support.live import make_stores, network_of, saved_weights


def test_answers_are_those_of_predict(client, networks, models, rows) -> None:
    answer = client.post("/predict", json={"rows": rows})
    assert answer.status_code == 200
    expected = read_cache.predict(str(models["tied"]), networks, rows)
    found = answer.json()
    assert found["cut"] == 0
    assert [(line, name) for line, by_name in enumerate(found["predictions"], 1) for name in by_name] == [
        (one["line"], one["network"]) for one in expected
    ]
    for one in expected:
        own = found["predictions"][one["line"] - 1][one["network"]]
        assert (own["label"], own["value"]) == (one["label"], None)
        assert own["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)


def test_texts_and_objects_are_rows_and_some_networks_can_be_chosen(client, predictor) -> None:
    chosen = [predictor.names[3], predictor.names[0]]
    text = "the old river " * 100
    body = {"rows": [text, {"sentence": text, "id": 7}, "a town"], "networks": chosen}
    found = client.post("/predict", json=body).json()
    assert found["cut"] == 2
    assert found["predictions"][0] == found["predictions"][1]
    assert [sorted(row) for row in found["predictions"]] == [sorted(chosen)] * 3


def test_an_open_target_is_generated(tmp_path, rows_folder, models) -> None:
    (store,) = make_stores(tmp_path / "stores", rows_folder, "open").values()
    one, folder, model = network_of(store), tmp_path / "read", str(models["tied"])
    save_network(folder, one.record, saved_weights(one), one.calibration)
    config = ServeConfig(max_new_tokens=3)
    with TestClient(create_app(Predictor(model, [folder], config), config), "http://localhost") as client:
        (found,) = client.post("/predict", json={"rows": ["the old river"]}).json()["predictions"]
    (expected,) = read_cache.predict(model, folder, ["the old river"], max_new_tokens=3)
    assert found == {expected["network"]: {"label": expected["label"], "probabilities": {}, "value": None}}


def test_the_server_describes_itself(client, predictor) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    found = client.get("/networks").json()
    assert [network["name"] for network in found["networks"]] == list(predictor.names)
    assert (found["task"], found["fields"], found["labels"]) == ("words", ["sentence"], list(predictor.task.labels))
    assert set(client.get("/openapi.json").json()["paths"]) == {"/predict", "/networks", "/health", "/metrics"}


def test_metrics_count_requests_rows_and_batches(serving) -> None:
    with serving() as client:
        client.post("/predict", json={"rows": ["a river"] * 3})
        client.post("/predict", json={"rows": []})
        client.get("/elsewhere")
        response = client.get("/metrics")
    lines = response.text.splitlines()
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'read_cache_requests_total{path="/predict",status="200"} 1.0',
        'read_cache_requests_total{path="/predict",status="422"} 1.0',
        'read_cache_requests_total{path="other",status="404"} 1.0',
        "read_cache_rows_total 3.0",
        "read_cache_predict_seconds_count 2.0",
        "read_cache_batch_requests_sum 1.0",
        "read_cache_active_requests 0.0",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("body", "status", "facts"),
    [
        ({"rows": ["a", 3]}, 422, ["row 1 is 3", "sentence"]),
        ({"rows": ["a", "b\tc"]}, 422, ["row 1 has 2 texts", "needs 1"]),
        ({"rows": [{"text": "a"}]}, 422, ["row 0", "'sentence'", "text"]),
        ({"rows": [{"\ud800": "a"}]}, 422, ["row 0", "\\ud800"]),
        ({"rows": [{"sentence": ["a"]}]}, 422, ["['a']", "expected text"]),
        ({"rows": ["\ud800"]}, 422, ["row 0", "not Unicode"]),
        ({"rows": [" "]}, 422, ["row 0", "empty"]),
        ({"rows": []}, 422, ["rows", "at least 1"]),
        ({"rows": "a"}, 422, ["rows is 'a'", "list"]),
        ({"rows": ["a"] * 257}, 422, ["257 rows", "at most 256"]),
        ({"rows": ["a"], "networks": ["a", 1]}, 422, ["networks.1 is 1", "string"]),
        ({"rows": ["a"], "networks": []}, 422, ["networks", "at least 1"]),
        ({"rows": ["a"], "networks": ["read-gru", "nobody"]}, 404, ["'nobody'", "read-gru", "probe-"]),
        ({"rows": ["a"], "network": "read-gru"}, 422, ["'network'", "rows, networks"]),
        ({"network": "read-gru"}, 422, ["rows is missing"]),
        (["a"], 422, ["['a']"]),
    ],
)
def test_a_wrong_body_is_explained(client, body, status, facts) -> None:
    response = client.post("/predict", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code == status
    for fact in facts:
        assert fact in response.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "fact"),
    [
        ('{"rows": ', "application/json", "not JSON"),
        ('{"rows": ["a"]}', "text/plain", "application/json"),
        ("", "application/json", "missing"),
        ("[" * 100_000, "application/json", "nested"),
        (b"\xff", "application/json", "UTF-8"),
        ('{"rows": [' + "9" * 5000 + "]}", "application/json", "digits"),
    ],
)
def test_a_body_that_is_no_json_is_explained(client, content, kind, fact) -> None:
    response = client.post("/predict", content=content, headers={"Content-Type": kind})
    assert response.status_code in (400, 422)
    assert fact in response.json()["detail"]


def test_a_long_value_is_not_sent_back(client) -> None:
    for body in ({"rows": [{"a" * 9999: 1}]}, {"rows": "a" * 9999}, {"rows": ["a"], "networks": ["a" * 9999]}):
        assert len(client.post("/predict", json=body).content) < 1000
