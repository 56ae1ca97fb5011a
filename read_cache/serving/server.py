"""Listening on an address, and serving until a signal."""

import asyncio
import gc
import ipaddress
import logging
import math
import os
import signal
import socket
from collections.abc import Sequence
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
    """A server that a signal ends. Accepted requests are answered first, unless Ctrl-C is pressed again."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal. Uvicorn itself would send it again at the end, and the exit code would not be 0."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = logging.getLogger("uvicorn.error").disabled = True  # or it logs what is cut off
            for connection in self.server_state.connections:  # from Python 3.12 on, a server waits for all of them
                asyncio.get_running_loop().call_soon_threadsafe(connection.transport.abort)
        self.should_exit = True


def run_server(model: str, networks: Sequence[Path], config: ServeConfig, watch: Watch) -> bool:
    """Serve networks beside their backbone until SIGTERM or Ctrl-C; return False if accepted requests were cut off.

    Raises UserError for networks that cannot predict together, a token that is not UTF-8, an address that cannot be
    used, and one that other machines can reach if there is no token.
    """
    try:
        token = os.environb.get(TOKEN.encode(), b"").decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"the environment variable {TOKEN} is not UTF-8: set it to a token in UTF-8") from error
    with listen(config, token) as listener:
        predictor = Predictor(model, find_networks(networks, live=True), config)
        uvicorn_config = uvicorn.Config(
            create_app(predictor, config, token),
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(2 * config.timeout) + 1,  # requests end before, by their own limits
        )
        server = Server(uvicorn_config)
        gc.freeze()  # a collection over all that was imported and loaded would stop every answer for half a second
        host, port = listener.getsockname()[:2]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        count, task = len(predictor.names), predictor.task.name
        watch.say(f"serving {count} networks of {task} at http://{place}; Ctrl-C stops the server")
        server.run(sockets=[listener])
    return not server.force_exit


def listen(config: ServeConfig, token: str) -> socket.socket:
    """Return a listening socket. Clients that connect before the networks are open wait. Raises UserError."""
    try:
        family, *_, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        if not token and not ipaddress.ip_address(address[0]).is_loopback:
            raise UserError(
                f"other machines can reach host {config.host}: set the environment variable {TOKEN} to a token, which "
                "each request must then bear, or listen on 127.0.0.1"
            )
        listener = socket.create_server(address[:2], family=family)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it: answers leave at once
        return listener
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{config.host} port {config.port} cannot be used: {reason}. Choose another --host or --port"
        ) from error
