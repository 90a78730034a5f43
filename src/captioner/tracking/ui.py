"""The MLflow UI of the store."""

import os
import sys
from pathlib import Path

from captioner.common.ports import HOST, reserve
from captioner.tracking.store import SQLITE, artifact_location, connect, store


def serve(root: Path, port: int) -> None:
    """Become the MLflow UI of the store on `127.0.0.1`, or say where the runs are if a server has them.

    Raises:
        CaptionerError: the port is in use.
    """
    uri = store(root)
    if not uri.startswith(SQLITE):
        print(f"The runs are at {uri} (MLFLOW_TRACKING_URI).")
        return
    reserve(port).close()
    _, experiment = connect(root)
    view = f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=scores"
    print(f"The runs are at http://{HOST}:{port}/{view} (end with Ctrl-C)", flush=True)
    arguments = ["server", "--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", uri]
    arguments += ["--default-artifact-root", artifact_location(root)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])
