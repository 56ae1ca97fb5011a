"""Requests a second, and times of a request, of `read-cache serve` with one network and with all.

    python docs/serving.py --model MODEL --network FOLDER [--seconds 10] [--rows 1]

It starts the server on a free port, and sends requests over connections that stay open, from 1 and then 16 clients.
Each client sends its next request when the last one is answered.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np

TEXTS = ["The plot was dull and far too long.", "A warm, funny and clever film.", "Who wrote this?"]


@contextlib.contextmanager
def server(model, networks):
    """Yield the port of a running server."""
    program = "from read_cache.cli import main; main()"
    options = [word for network in networks for word in ("--network", network)]
    words = [sys.executable, "-c", program, "serve", "--model", model, "--port", "0", *options]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"http://\S+:(\d+);", line):
                yield int(found[1])
                break
            print(line, end="", file=sys.stderr)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def ask(connection, path, body=None):
    """Return the answer to a request."""
    headers = {"Content-Type": "application/json"}
    connection.request("POST" if body else "GET", path, body and json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read()
    assert response.status == 200, text
    return json.loads(text)


def measure(port, body, clients, seconds):
    """Return the times of all requests that clients sent within some seconds, in milliseconds."""
    times, end = [], time.monotonic() + seconds

    def send():
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            while (start := time.monotonic()) < end:
                ask(connection, "/predict", body)
                times.append(1000 * (time.monotonic() - start))

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--network", required=True, action="append")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rows", type=int, default=1)
    given = parser.parse_args()
    print("networks clients requests/s rows/s p50_ms p99_ms")
    with server(given.model, given.network) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        served = ask(connection, "/networks")
        names = [network["name"] for network in served["networks"]]
        rows = [dict.fromkeys(served["fields"], TEXTS[index % 3]) for index in range(given.rows)]
        for networks in (names[:1], names):
            for clients in (1, 16):
                measure(port, {"rows": rows, "networks": networks}, clients, 1)
                times = measure(port, {"rows": rows, "networks": networks}, clients, given.seconds)
                rate = len(times) / given.seconds
                p50, p99 = np.percentile(times, [50, 99])
                print(f"{len(networks)} {clients} {rate:.0f} {rate * given.rows:.0f} {p50:.1f} {p99:.1f}", flush=True)
    print(f"load before: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
