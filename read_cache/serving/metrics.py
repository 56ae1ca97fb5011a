"""Counts and times of a server, in the text format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("read_cache_requests", "Requests.", ["path", "status"], registry=registry)
        self.seconds = Histogram("read_cache_predict_seconds", "Time of a request of /predict.", registry=registry)
        self.active = Gauge("read_cache_active_requests", "Requests of /predict under way.", registry=registry)
        self.rows = Counter("read_cache_rows", "Predicted rows.", registry=registry)
        self.batch_seconds = Histogram("read_cache_batch_seconds", "Time of a batch.", registry=registry)
        sizes = (1, 2, 4, 8, 16, 32, 64)
        self.batch_requests = Histogram(
            "read_cache_batch_requests", "Requests that shared a batch.", buckets=sizes, registry=registry
        )
