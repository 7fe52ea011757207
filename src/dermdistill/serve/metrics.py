"""Counts and times for Prometheus, and one line of JSON a request; neither knows an image."""

import json
import sys
import time
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class Telemetry:
    """What one server tells about itself.

    Args:
        log: where the lines go; None for nowhere.
    """

    def __init__(self, log: TextIO | None = sys.stderr):
        self.log = log
        self.registry = CollectorRegistry()
        self.requests = Counter("dermdistill_requests", "answered requests",
                                ["route", "status"], registry=self.registry)  # fmt: skip
        self.seconds = Histogram("dermdistill_request_seconds", "from first byte to last",
                                 ["route"], buckets=SECONDS, registry=self.registry)  # fmt: skip
        self.waiting = Gauge("dermdistill_images_waiting", "images inside",
                             registry=self.registry)  # fmt: skip
        self.images = Counter("dermdistill_images", "images asked about", registry=self.registry)
        self.batches = Counter("dermdistill_batches", "calls of the model", registry=self.registry)

    def batch(self, size: int) -> None:
        """The model is asked about some images at once."""
        self.batches.inc()
        self.images.inc(size)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request is over."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        self.event("request", method=method, route=route, status=status,
                   ms=round(1000 * seconds, 1))  # fmt: skip

    def event(self, name: str, **fields) -> None:
        """One line of JSON."""
        if self.log is not None:
            line = {"time": round(time.time(), 3), "event": name, **fields}
            print(json.dumps(line), file=self.log, flush=True)

    def text(self) -> bytes:
        """All of it in Prometheus' form."""
        return generate_latest(self.registry)
