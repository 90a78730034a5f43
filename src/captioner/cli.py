"""The console command `captioner`. What a command needs is imported in it, so that `--help` comes at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from captioner import __version__
from captioner.errors import CaptionerError

app = typer.Typer(
    name="captioner", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"captioner {__version__}")
        raise typer.Exit


def _resamples(count: int) -> int:
    if not 100 <= count <= 100_000:
        raise typer.BadParameter(f"received {count}; give 100 to 100000")
    return count


@app.callback()
def captioner(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Describe pictures in words, and see where the model looked for each word."""


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Two or more, each a directory with results, an MLflow run id (or its first 8 digits), a DVC "
            "experiment, a git revision, or workspace.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write a page that needs no network.")] = None,
    resamples: Annotated[
        int,
        typer.Option(
            callback=_resamples, metavar="N", help="Resamples of the test pictures, 100 to 100000; more are slower."
        ),
    ] = 1000,
) -> None:
    """Compare runs, and say which differences are real."""
    if len(runs) < 2:
        raise typer.BadParameter(f"received one run, {runs[0]!r}; give two or more")
    with _in_one_line("compare"):
        import json

        from rich.console import Console

        from captioner import comparison_views as views
        from captioner.comparison import compare
        from captioner.files import replacing
        from captioner.runs import checkout_of, find

        checkout = checkout_of(Path.cwd())
        found = compare([find(run, checkout) for run in runs], resamples)
        if html is not None:
            with replacing(html) as beside:
                beside.write_text(views.page(found), "utf-8")
        if as_json:
            typer.echo(json.dumps(views.as_json(found), ensure_ascii=False, indent=2, allow_nan=False))
        else:
            views.show(found, Console())
        if html is not None:
            typer.echo(f"Wrote {html}.", err=True)


@contextmanager
def _in_one_line(command: str) -> Iterator[None]:
    """End what a user can cause in one line on the standard error stream, and exit code 1."""
    try:
        yield
    except BrokenPipeError:
        raise
    except CaptionerError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error} ({error.filename or 'no file'})."
    except KeyboardInterrupt:
        message = "interrupted."
    else:
        return
    typer.echo(f"{command}: {message}", err=True)
    raise typer.Exit(1)
