"""Show the experiments in the MLflow UI, also those that DVC restored from its cache. No stage: `make ui` starts it."""

import os
import sys
from pathlib import Path

from stage import main_checkout

from captioner.common.errors import CaptionerError
from captioner.comparison import runs
from captioner.tracking import runs as tracked
from captioner.tracking import ui

if __name__ == "__main__":
    try:
        checkout = main_checkout()
        tracked.restore(checkout, Path())
        for name, commit in runs.experiments(checkout).items():
            try:
                runs.track(name, commit, checkout)
            except CaptionerError as error:  # the others can be shown
                print(f"ui: {error}", file=sys.stderr)
        ui.serve(checkout, int(os.environ.get("PORT") or 5000))
    except CaptionerError as error:
        sys.exit(f"ui: {error}")
    except ValueError:
        sys.exit(f"ui: PORT is {os.environ['PORT']!r}, not a number: choose one, as in `make ui PORT=5001`.")
