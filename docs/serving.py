"""Requests a second of `read-cache serve`, times of a request, and processor time, with one network and with all.

    python docs/serving.py --model MODEL --network FOLDER [--seconds 10] [--rows 1]

It starts the server on a free port, and sends requests over connections that stay open, from 1 and then 16 clients.
Each client sends its next request when the last one is answered. The processor time is the server's own; it hardly
depends on other work on the machine.
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
    """Return the text of an answer."""
    headers = {"Content-Type": "application/json"}
    connection.request("POST" if body else "GET", path, body and json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    assert response.status == 200, text
    return text


def get(port, path):
    """Return the text of an answer, on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        return ask(connection, path)


def processor_time(port):
    """Return the seconds of processor time that the server has used."""
    return float(re.search(r"^process_cpu_seconds_total (\S+)$", get(port, "/metrics"), re.M)[1])


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
    print("| networks | clients | requests a second | p50, ms | p99, ms | processor time a request, ms |")
    print("|---|---|---|---|---|---|")
    with server(given.model, given.network) as port:
        served = json.loads(get(port, "/networks"))
        names = [network["name"] for network in served["networks"]]
        rows = [dict.fromkeys(served["fields"], TEXTS[index % 3]) for index in range(given.rows)]
        for networks in (names[:1], names):
            for clients in (1, 16):
                body, used = {"rows": rows, "networks": networks}, processor_time(port)
                times = measure(port, body, clients, given.seconds)
                used = 1000 * (processor_time(port) - used) / len(times)
                p50, p99 = np.percentile(times, [50, 99])
                rate = len(times) / given.seconds
                print(f"| {len(networks)} | {clients} | {rate:.1f} | {p50:.0f} | {p99:.0f} | {used:.1f} |", flush=True)
    print(f"load average of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
