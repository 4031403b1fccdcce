"""``stems serve``: the page where one drops a mix, asks for a stem, and hears both together."""

from __future__ import annotations

import argparse

from ml.cli.options import add_model, examples
from ml.settings import Settings


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "serve",
        description="Serve the page and its API (/openapi.json) until Ctrl-C.",
        epilog=examples("stems serve", "stems serve --port 0 --model film"),
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_port, default=8000, help="port; 0: any free one")
    add_model(parser, "the champion, also after a promotion")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Serve until interrupted."""
    from ml.serve.app import serve
    from ml.serve.security import is_loopback

    if not is_loopback(args.host):
        print(
            f"warning: everybody who can reach {args.host} may search, listen and download; "
            f"nobody is asked for a password"
        )
    try:
        serve(settings, host=args.host, port=args.port, model=args.model, on_ready=_ready)
    except KeyboardInterrupt:
        print("stopped")
    return 0


def _ready(url: str) -> None:
    print(f"listening on {url} (Ctrl-C stops)", flush=True)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port; expected 0…65535")
    return port
