"""MLflow's own server, made to refuse what it should not take, in one line each.

Of itself it answers whoever asks, takes whatever comes, answers a request that it cannot parse with all of that, and an
error with a stack trace, and has nothing to set for any of these.
"""

import logging
import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from captioner.common.errors import CaptionerError, quoted

if TYPE_CHECKING:
    from starlette.exceptions import HTTPException
    from starlette.responses import Response

HOSTS = "CAPTIONER_SERVE_HOSTS"
LARGEST = 128 << 20  # bytes of a request
TOGETHER = 4 * LARGEST
WAITING = 64  # requests


class Refused(MlflowException):
    """Says in one line what cannot be captioned, and why; MLflow's server answers it as HTTP 400."""

    def __init__(self, message: str):
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """Return what the server answers."""
        self.message = str(self)  # the server has put all that was sent before it, pictures and all
        return super().serialize_as_json()


def install_guard() -> None:
    """Have the server that this process is about to become stand behind a `Guard`.

    Raises:
        CaptionerError: `HOSTS` has something else than names.
    """
    import fastapi
    from mlflow.pyfunc import scoring_server
    from starlette.middleware import Middleware

    from captioner.serving.guard import OWN_HOSTS, Guard, Limits

    limits = Limits(LARGEST, TOGETHER, WAITING)
    further = f", or name it in {HOSTS}"
    hosts = [*OWN_HOSTS, *_further_hosts()]
    before = Middleware(Guard, limits=limits, refused=_answered, hosts=hosts, further_hosts=further)
    # MLflow makes its application after the model was loaded, and hands it to nobody else.
    fastapi.FastAPI = partial(fastapi.FastAPI, middleware=[before])  # type: ignore[misc, assignment]
    scoring_server.invocations = partial(_invocations, scoring_server.invocations)


def _further_hosts() -> list[str]:
    """Return the names that the environment adds."""
    names = os.environ.get(HOSTS, "").lower().replace(",", " ").split()
    for name in names:
        if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:]+|\*", name):
            raise CaptionerError(
                f"{HOSTS} has {quoted(name)}: give names of hosts, without ports and brackets, as in a.org,10.0.0.5"
            )
    return names


def _invocations(answer: Any, data: bytes, content_type: str | None, *others: Any) -> Any:
    from captioner.serving.guard import is_awaited

    if not is_awaited():
        raise Refused("nobody waits for this any more")
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise Refused('received no JSON: send {"inputs": [...]} as Content-Type: application/json')
    try:
        return answer(data, content_type, *others)
    except Refused:
        raise
    except Exception as error:
        trace = error.json_kwargs.get("stack_trace") if isinstance(error, MlflowException) else None
        logging.getLogger(__name__).error("A request was refused: %s", trace or type(error).__name__)
        why = (str(error).splitlines() or [""])[0] if isinstance(error, MlflowException) else ""
        raise Refused(_shortened(why) or 'the request cannot be read: send JSON, {"inputs": [...]}') from None


def _answered(error: "HTTPException") -> "Response":
    """Answer what the guard refuses in MLflow's form."""
    from starlette.responses import JSONResponse

    codes = {403: "PERMISSION_DENIED", 503: "TEMPORARILY_UNAVAILABLE"}
    told = {"error_code": codes.get(error.status_code, "INVALID_PARAMETER_VALUE"), "message": error.detail}
    return JSONResponse(told, error.status_code, error.headers)


def _shortened(line: str) -> str:
    return line if len(line) <= 300 else f"{line[:300]}..."
