"""MLflow's pages on the trainings of a home: ``python -m pipelines.mlflow_ui`` (``make mlflow``).

The store is opened first: one that was copied with its home then looks for artifacts in the copy.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit


def main(arguments: Sequence[str] | None = None) -> int:
    """Say where the runs are charted, and become MLflow's server, until Ctrl-C."""
    from mlflow.exceptions import MlflowException

    from ml.mlflow_store import PAGES_URL, charts_url
    from ml.progress import set_up_logging
    from ml.settings import SettingsError, load_settings

    set_up_logging()
    parser = argparse.ArgumentParser(prog="python -m pipelines.mlflow_ui", description=__doc__)
    parser.add_argument("--home", type=Path, help="default: STEMS_HOME, else ./data")
    parser.add_argument("--port", type=int, default=urlsplit(PAGES_URL).port, help="to listen on")
    args = parser.parse_args(arguments)
    try:
        settings = load_settings(args.home)
        uri = settings.tracking_uri
        url = charts_url(uri, settings.tracking.experiment)
    except (SettingsError, MlflowException) as error:
        parser.error(str(error))
    url = url.replace(PAGES_URL, f"http://127.0.0.1:{args.port}")
    sys.stdout.write(f"the trainings side by side: {url}\n")
    sys.stdout.flush()
    if not uri.startswith("http"):  # else it has a server of its own
        # Five processes that wait for judges of language models.
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        served = ("--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(args.port))
        os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--workers", "1", *served])
    return 0


if __name__ == "__main__":
    sys.exit(main())
