"""A proxy on loopback in front of an HTTP service, which answers some requests badly."""

import contextlib
import dataclasses
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "refuse", "lose", "cut", "hang", "slow")
HANG_SECONDS = 1.5
"""More than the client's read timeout in the tests."""


@dataclasses.dataclass
class Proxy:
    """What the proxy does, and what it has done."""

    url: str
    fault: Callable[[str, str], str | None]
    """The fault of a request, by its method and path; None: it is answered well."""
    faults: list[tuple[float, str, str]] = dataclasses.field(default_factory=list)
    """Time, fault and path of each faulty answer."""


@contextlib.contextmanager
def faulty(service: str, fault: Callable[[str, str], str | None]) -> Iterator[Proxy]:
    """Run a proxy of the service at a URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            fault = proxy.fault(self.command, self.path)
            if fault:
                proxy.faults.append((time.monotonic(), fault, self.path))
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fault in ("500", "503"):
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault in ("hang", "refuse"):
                time.sleep(HANG_SECONDS if fault == "hang" else 0)
                self.hang_up()
                return
            status, headers, data = self.forward(body)
            if fault == "lose":  # the service has done it, and the client never learns
                self.hang_up()
                return
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            if fault == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.hang_up()
            elif fault == "slow":
                for start in range(0, len(data), max(1, len(data) // 6)):
                    time.sleep(HANG_SECONDS / 6)
                    self.wfile.write(data[start : start + max(1, len(data) // 6)])
            else:
                self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(urlsplit(service).netloc)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            answer = response.status, response.getheaders(), response.read()
            connection.close()
            return answer

        def hang_up(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass  # the client has gone

    server = Server(("127.0.0.1", 0), Handler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}", fault)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield proxy
    server.shutdown()
    server.server_close()
