"""Show the experiments in the MLflow UI, this workspace's included. No stage: `make ui` starts it."""

import os
import sys
from pathlib import Path

from stage import main_checkout

from captioner import tracking
from captioner.errors import CaptionerError

if __name__ == "__main__":
    try:
        tracking.restore(main_checkout(), Path())
        tracking.serve(main_checkout(), int(os.environ.get("PORT") or 5000))
    except CaptionerError as error:
        sys.exit(f"ui: {error}")
    except ValueError:
        sys.exit(f"ui: PORT is {os.environ['PORT']!r}, not a number: choose one, as in `make ui PORT=5001`.")
