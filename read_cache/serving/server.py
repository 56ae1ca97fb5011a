"""Listening on an address, and serving until a signal."""

import contextlib
import ipaddress
import math
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from read_cache.config import ServeConfig
from read_cache.errors import UserError
from read_cache.live.predict import Predictor
from read_cache.networks.saved import find_networks
from read_cache.serving.app import create_app
from read_cache.watch import Watch

TOKEN = "READ_CACHE_TOKEN"
"""Environment variable with the token that requests must bear."""


class Server(uvicorn.Server):
    """A server that a signal ends: accepted requests are answered first, unless Ctrl-C follows."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal. Uvicorn would send it again at the end, so that the exit code were not 0."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def run_server(model: str, networks: Sequence[Path], config: ServeConfig, watch: Watch) -> bool:
    """Serve networks beside their backbone until SIGTERM or Ctrl-C; return False if a second Ctrl-C cut answers off.

    Raises UserError for networks that cannot predict together, an address that cannot be used, and one that other
    machines can reach if there is no token.
    """
    token = os.environ.get(TOKEN, "").strip()
    with bound(config, bool(token)) as listener:
        predictor = Predictor(model, find_networks(networks, live=True), config)
        server = Server(
            uvicorn.Config(
                create_app(predictor, config, token),
                lifespan="on",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(2 * config.timeout) + 1,  # requests end before, by their own limits
            )
        )
        with usable(config):
            listener.listen()  # fails if another server has bound the address and listens by now
        host, port = listener.getsockname()[:2]
        at = f"[{host}]" if ":" in host else host
        watch.say(f"serving {', '.join(predictor.names)} at http://{at}:{port}; Ctrl-C stops the server")
        server.run(sockets=[listener])
    return not server.force_exit


@contextlib.contextmanager
def usable(config: ServeConfig) -> Iterator[None]:
    """Raise UserError for an address that cannot be used."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{config.host} port {config.port} cannot be used: {reason}. Choose another --host or --port"
        ) from error


@contextlib.contextmanager
def bound(config: ServeConfig, has_token: bool) -> Iterator[socket.socket]:
    """Yield a socket that is bound and does not listen yet. Raises UserError."""
    with usable(config):
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    if not has_token and not ipaddress.ip_address(address[0]).is_loopback:
        raise UserError(
            f"other machines can reach host {config.host}: set the environment variable {TOKEN} to a token, which each "
            "request must then bear, or listen on 127.0.0.1"
        )
    with socket.socket(family, kind, protocol) as listener:
        with usable(config):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        yield listener
