"""`read-cache serve`: predictions over HTTP."""

from typing import Any

import typer

from read_cache.cli.output import watching
from read_cache.cli.predict import BackboneOption, NetworksOption
from read_cache.cli.settings import SetOption, options, parse_set, takes
from read_cache.config import ServeConfig
from read_cache.errors import UserError


@takes(options(ServeConfig, "host", "port", "batch_size", "device"))
def serve(
    network: NetworksOption,
    model: BackboneOption,
    settings: SetOption = [],  # noqa: B006
    **chosen: Any,
) -> None:
    """Serve predictions over HTTP until SIGTERM or Ctrl-C.

    One pass of the backbone serves all side networks, and all requests that wait. POST /predict takes {"rows": [...]}.
    If the environment variable READ_CACHE_TOKEN is set, each request must have this access token.
    """
    try:
        from read_cache.serving.server import run_server
    except ImportError as error:
        raise UserError(
            f"serve needs packages that are not installed: run pip install 'read-cache[serve]' ({error})"
        ) from error

    config = ServeConfig(**chosen | parse_set(settings, [ServeConfig]))
    with watching() as watch:
        finished = run_server(model, network, config, watch)
    raise typer.Exit(0 if finished else 1)
