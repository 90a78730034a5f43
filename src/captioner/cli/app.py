"""The console command `captioner`. What a command needs is imported in it, so that `--help` comes at once."""

import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from captioner import __version__
from captioner.common.errors import CaptionerError, quoted
from captioner.common.workspace import DATA, MODEL, checkout_of

if TYPE_CHECKING:
    import numpy as np

    from captioner.data.images import UnreadableImage
    from captioner.inference.captioner import Captioner
    from captioner.search.caption import Caption

app = typer.Typer(name="captioner", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A model's folder, models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/captioner of the MLflow store. "
        "Without it: models/captioner of the checkout around.",
    ),
]


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


@app.command(no_args_is_help=True)
def caption(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO|FOLDER|URL",
            help="Pictures, folders (with all pictures in them and below), http or https addresses; with --shards, tar "
            "archives, their folders or patterns, also on S3.",
            show_default=False,
        ),
    ],
    model: Model = None,
    beam: Annotated[
        int, typer.Option(min=1, max=50, metavar="N", help="Width of the search: 1 is greedy, wider is slower.")
    ] = 3,
    max_words: Annotated[
        int | None,
        typer.Option(min=1, max=1000, metavar="N", help="Longest caption. Without it: as in training."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, max=100, metavar="N", help="Draw N captions of each picture, and give those that differ."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="Of --samples: above 0; below 1 is tamer, above 1 wilder.")
    ] = 1.0,
    top_p: Annotated[
        float,
        typer.Option(
            metavar="X", help="Of --samples: draw from the likeliest words that reach this probability, above 0 to 1."
        ),
    ] = 0.9,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of --samples: the same seed draws the same captions.")
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="A JSON object a line: image, caption, words, log_probability (nats), weights (words x rows x "
            "columns), of several heads also heads, of adaptive attention also grounding. With --samples: image and "
            "captions, a list of the others.",
        ),
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write there, for each picture, a PNG that shows where the model looked for each word; with --samples "
            "for the most probable caption.",
        ),
    ] = None,
    shards: Annotated[
        bool, typer.Option("--shards", help="Caption shards, tar archives of pictures, into the folder --output.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Of --shards: where a file of captions is written for each; also on S3."),
    ] = None,
    form: Annotated[
        Literal["jsonl", "parquet"], typer.Option("--format", help="Of --shards: the form of the files of captions.")
    ] = "jsonl",
) -> None:
    """Say what pictures show: a line a picture, in their order.

    \b
    captioner caption dog.jpg                         one caption
    captioner caption holidays/ > captions.txt        "path: caption", for every picture in the folder
    captioner caption dog.jpg --samples 5             several captions, the most probable first
    captioner caption dog.jpg --figure looks/         and where the model looked: looks/dog.jpg.png
    captioner caption holidays/ --json | jq .caption  with log-probability and attention
    captioner caption --shards crawl/ --output said/  every tar archive in the folder, see docs/scale.md

    The path stands before the caption unless a single picture was asked for. A picture that cannot be read is named
    on the standard error stream, and the rest continues.

    Shards are captioned on the Ray cluster that RAY_ADDRESS names, if it is set. What is there already is left as it
    is, so that an interrupted command goes on when it is called again. Pictures that cannot be read have their row.

    Exit code: 0 when every picture, or every shard, has its captions, 1 when one has none or on an error, 2 for wrong
    usage.
    """  # noqa: D301
    if not 0 < temperature < float("inf"):
        raise typer.BadParameter(f"received --temperature {temperature}; give a number above 0")
    if not 0 < top_p <= 1:
        raise typer.BadParameter(f"received --top-p {top_p}; give a number above 0, at most 1")
    if shards or output is not None:
        others = {
            **{"--samples": samples is not None, "--json": as_json, "--figure": figure is not None},
            **{"--temperature": temperature != 1, "--top-p": top_p != 0.9, "--seed": seed is not None},
        }
        if unfit := [option for option, given in others.items() if given]:
            raise typer.BadParameter(f"received {', '.join(unfit)} with --shards; leave that out")
        if not shards or output is None:
            raise typer.BadParameter(f"received {'--shards' if shards else '--output'} alone; give both")
        with _in_one_line("caption"), _directory(model) as directory:
            from captioner.cli.shards import caption_shards

            failed = caption_shards(directory, places, output, form, beam, max_words)
        if failed:
            raise typer.Exit(1)
        return
    with _in_one_line("caption"):
        from captioner.data.images import UnreadableImage
        from captioner.inference import pictures

        given = list(pictures.expand(places))
        if figure is not None:
            figure.mkdir(parents=True, exist_ok=True)
        # Where nothing can be captioned, nobody has to wait for a model.
        captioner = _captioner(model) if any(not isinstance(each, UnreadableImage) for each in given) else None
        shown: deque[np.ndarray] = deque()
        source = iter(given) if figure is None or captioner is None else _kept(given, shown, captioner)
        results: Iterator[Sequence[Caption] | UnreadableImage]
        if captioner is None:
            results = iter([each for each in given if isinstance(each, UnreadableImage)])
        elif samples is None:
            found = captioner.stream(source, beam, maximum_words=max_words)
            results = (each if isinstance(each, UnreadableImage) else [each] for each in found)
        else:
            results = _sampled(captioner, source, samples, temperature, top_p, max_words, seed)
        named = len(places) > 1 or Path(places[0]).is_dir()
        lines = partial(_lines, named=named, sampled=samples is not None, as_json=as_json)
        failed = _print_captions(given, results, lines, shown, figure)
    if failed:
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def score(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="SHARDS",
            help="With --shards: tar archives, their folders or patterns, also on S3.",
            show_default=False,
        ),
    ],
    shards: Annotated[
        bool, typer.Option("--shards", help="Score the captions of shards, against those that stand in the shards.")
    ] = False,
    captions: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Of --shards: what was the --output of captioner caption --shards."),
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Of BLEU, METEOR, ROUGE-L and CIDEr.")
    ] = "BLEU,METEOR,ROUGE-L,CIDEr",
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Of --shards: where the statistics of each picture are written, also on S3. Without it: scores in the "
            "folder of captions.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Score captions: BLEU, METEOR, ROUGE-L and CIDEr of all together, as evaluate computes them.

    \b
    captioner score --shards crawl/ --captions said/                     see docs/scale.md
    captioner score --shards crawl/ --captions said/ --metrics BLEU,CIDEr

    Pictures that cannot be read, or have no caption in their shard, are left out and counted. The work is done on the
    Ray cluster that RAY_ADDRESS names, if it is set. What is there already is left as it is, so that an interrupted
    command goes on when it is called again.

    Exit code: 0 with the scores, 1 on an error, 2 for wrong usage.
    """  # noqa: D301
    if not shards or captions is None:
        raise typer.BadParameter(f"received no {'--captions' if shards else '--shards'}; give both")
    with _in_one_line("score"):
        from captioner.cli.shards import score_shards
        from captioner.scoring.scorer import USUAL

        chosen = _names_among("--metrics", metrics, USUAL)
        if not chosen:
            raise CaptionerError(f"--metrics is {quoted(metrics)}: give one or more of {', '.join(USUAL)}.")
        score_shards(places, captions, output or f"{captions.rstrip('/')}/scores", chosen, as_json)


@app.command()
def info(
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    as_card: Annotated[
        bool, typer.Option("--card", help="Print a model card in Markdown: use, data, scores, limits.")
    ] = False,
) -> None:
    """Tell what a model is: its data, encoder, attention, scores and parameters."""
    if as_json and as_card:
        raise typer.BadParameter("received --json and --card; give one of them")
    with _in_one_line("info"):
        from captioner.cli.about import about, table
        from captioner.cli.card import card
        from captioner.common.files import json_of

        with _directory(model) as directory:
            if as_card:
                typer.echo(card(directory))
                return
            known = about(directory) | ({} if model is None else {"model": model})
        typer.echo(json_of(known, indent=2) if as_json else "\n".join(table(known)))


@app.command()
def check() -> None:
    """Look whether this machine is ready: packages, weights, Java, mirror, disk, GPU.

    Exit code: 0 when nothing that is needed is missing, else 1.
    """
    with _in_one_line("check"):
        from captioner.cli.readiness import findings

        ready = True
        for each in findings(checkout_of(Path.cwd())):
            typer.echo(each.line)
            ready = ready and (each.there or not each.needed)
    if not ready:
        raise typer.Exit(1)


@app.command()
def promote(
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Compare trainings on this data set. Without it: on that of the newest training."
        ),
    ] = None,
) -> None:
    """Make the best training's model the champion of its data set, models:/captioner-NAME@champion of the MLflow store.

    The best has the highest validation CIDEr, in the epoch that was kept, of all trainings that have finished and were
    judged by the same captions; where no epoch was chosen by that, the least negative log-likelihood. Its model is
    registered as a new version of captioner-NAME, once only; called again, the command changes nothing unless there is
    a better one. Then, say:

    \b
    captioner caption dog.jpg --model models:/captioner-flickr8k@champion
    mlflow models serve -m models:/captioner-flickr8k@champion --env-manager local
    """  # noqa: D301
    with _in_one_line("promote"):
        from captioner.comparison.compare import number
        from captioner.tracking.registry import CHAMPION
        from captioner.tracking.registry import promote as made

        best = made(checkout_of(Path.cwd()), dataset)
        of = "the only finished training" if best.trainings == 1 else f"the best of {best.trainings} finished trainings"
        score = best.metric.removeprefix("val/")
        typer.echo(
            f"models:/{best.name}@{CHAMPION} is version {best.version}: {best.run_name} (run {best.run_id[:8]}), "
            f"validation {score} {number(score, best.value)}, {of} on these captions of {best.dataset}."
        )
        if best.displaced:
            typer.echo(
                f"Before, it was version {best.displaced}, which was judged by other captions of {best.dataset}."
            )


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
        from rich.console import Console

        from captioner.common.files import json_of, replacing
        from captioner.comparison import views
        from captioner.comparison.compare import compare
        from captioner.comparison.runs import find

        checkout = checkout_of(Path.cwd())
        found = compare([find(run, checkout) for run in runs], resamples)
        if html is not None:
            with replacing(html) as beside:
                beside.write_text(views.page(found), "utf-8")
        if as_json:
            typer.echo(json_of(views.as_json(found), indent=2))
        else:
            views.show(found, Console())
        if html is not None:
            typer.echo(f"Wrote {html}.", err=True)


@app.command()
def study(
    dataset: Annotated[str, typer.Option(metavar="NAME", help="What all are trained on.")] = "scenes",
    attentions: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Two or more of those that `attention` in params.yaml may be.")
    ] = "uniform,bahdanau,dot",
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Of the trainings of each attention.")] = "1,2,3",
) -> None:
    """Train each attention with each seed, and say which differences are significant.

    The trainings are DVC experiments, one after the other. Interrupted, the command continues where it stopped. It
    writes results/study/index.html.
    """
    with _in_one_line("study"):
        from captioner.comparison.trainings import train_all
        from captioner.datasets import DATASETS
        from captioner.model.attention import ATTENTIONS

        datasets = _names_among("--dataset", dataset, DATASETS)
        if len(datasets) != 1:
            raise CaptionerError(f"--dataset is {quoted(dataset)}: a study has one; start one for each.")
        chosen = _names_among("--attentions", attentions, ATTENTIONS)
        if len(chosen) < 2:
            raise CaptionerError(f"--attentions is {quoted(attentions)}: a study needs two or more.")
        train_all(checkout_of(Path.cwd()), datasets[0], chosen, _seeds(seeds))


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="The port of 127.0.0.1.")] = 5000,
) -> None:
    """Show the runs in the MLflow UI, also the experiments that DVC restored from its cache."""
    with _in_one_line("ui"):
        from captioner.comparison import runs as measured
        from captioner.tracking import runs
        from captioner.tracking.ui import serve

        checkout = checkout_of(Path.cwd())
        runs.restore(checkout, checkout)
        for name, commit in measured.experiments(checkout).items():
            try:
                measured.track(name, commit, checkout)
            except CaptionerError as error:  # the others can be shown
                typer.echo(f"ui: {error}", err=True)
        serve(checkout, port)


@app.command()
def demo(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODEL", help="As for caption; given several times, they stand side by side."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="The port of 127.0.0.1.")] = 7860,
) -> None:
    """Show a web page, for this machine alone, on which to try models on pictures.

    \b
    captioner demo                                    the model of the checkout around
    captioner demo --model models/a --model models/b  two on the same picture

    Exit code: 0 after Ctrl-C, 1 on an error, 2 for wrong usage.
    """  # noqa: D301
    with _in_one_line("demo"):
        from importlib.util import find_spec

        lacking = [package for package in ("fastapi", "uvicorn") if find_spec(package) is None]
        if lacking:
            raise CaptionerError(
                f"{lacking[0]} is not installed: in the checkout, pip install -e '.[demo]' brings what this needs."
            )
        from captioner.common.ports import reserve
        from captioner.serving import demo

        places: list[str | None] = [*models] if models else [None]
        with reserve(port) as taken:
            loaded = [(place or str(MODEL), _captioner(place)) for place in places]
            demo.serve(demo.named(loaded), demo.sample_pictures(checkout_of(Path.cwd()) / DATA), taken)


def _names_among(option: str, given: str, allowed: Collection[str]) -> list[str]:
    """Return the names in a list with commas, each once."""
    names = list(dict.fromkeys(given.replace(",", " ").split()))
    for name in names:
        if name not in allowed:
            raise CaptionerError(f"{option} has {quoted(name)}: allowed are {', '.join(allowed)}.")
    return names


def _seeds(given: str) -> list[int]:
    from captioner.params import SEEDS

    values = given.replace(",", " ").split()
    if not values or not all(value.isdecimal() and len(value) <= 10 and int(value) < SEEDS for value in values):
        raise CaptionerError(
            f"--seeds is {quoted(given)}: give whole numbers from 0 to {SEEDS - 1}, as in --seeds 1,2,3."
        )
    return sorted({int(value) for value in values})


@contextmanager
def _directory(model: str | None) -> Iterator[Path]:
    """Yield the folder of a model; one from MLflow is there only within the block."""
    from tempfile import TemporaryDirectory

    checkout = checkout_of(Path.cwd())
    if model is None:
        yield checkout / MODEL
    elif model.startswith(("models:", "runs:")):
        from captioner.tracking.registry import fetch_model

        with TemporaryDirectory() as temporary:
            yield fetch_model(checkout, model, Path(temporary))
    else:
        yield Path(model)


def _captioner(model: str | None) -> "Captioner":
    from captioner.common.startup import fast_start
    from captioner.model.description import Description

    if os.environ.get("KERAS_HOME"):
        os.environ["KERAS_HOME"] = str(checkout_of(Path.cwd()) / os.environ["KERAS_HOME"])
    with _directory(model) as directory:
        Description.read(directory)  # says in no time that there is none
        with fast_start():
            from captioner import Captioner
        return Captioner.load(directory)


def _print_captions(
    given: Sequence[Any],
    results: "Iterator[Sequence[Caption] | UnreadableImage]",
    lines: Callable[..., Iterator[str]],
    shown: "deque[np.ndarray]",
    figure: Path | None,
) -> int:
    """Print what is said of each picture, draw its figure if wanted, and return how many could not be read.

    Args:
        given: the pictures, or why one cannot be read.
        results: of each, in the same order.
        lines: makes lines of a picture's name and its captions.
        shown: the pixels of the pictures under way, where figures are wanted.
        figure: the directory of figures.
    """
    from captioner.data.images import UnreadableImage

    failed = 0
    with _progress(len(given)) as (say, advance):
        for place, found, file in zip(given, results, _names(given), strict=True):
            advance()
            if isinstance(found, UnreadableImage):
                failed += 1
                say(f"caption: {found}", True)
                continue
            for line in lines(str(place), found):
                say(line, False)
            if figure is not None:
                _draw(shown.popleft(), found[0], figure / file)
    if failed and len(given) > 1:
        typer.echo(f"caption: {failed:,} of {len(given):,} pictures could not be read.", err=True)
    return failed


def _kept(given: Sequence[Any], shown: "deque[np.ndarray]", captioner: "Captioner") -> Iterator[Any]:
    """Yield the pixels of pictures, and keep those of the few that are under way, so that nothing is fetched twice."""
    from captioner.data.images import UnreadableImage

    for each in given:
        try:
            read = each if isinstance(each, UnreadableImage) else captioner.pixels(each)
        except UnreadableImage as error:
            read = error
        if not isinstance(read, UnreadableImage):
            shown.append(read)
        yield read


def _sampled(
    captioner: "Captioner",
    source: Iterator[Any],
    samples: int,
    temperature: float,
    top_p: float,
    maximum_words: int | None,
    seed: int | None,
) -> Iterator["Sequence[Caption] | UnreadableImage"]:
    from captioner.data.images import UnreadableImage

    for each in source:
        try:
            yield (
                each
                if isinstance(each, UnreadableImage)
                else captioner.samples(
                    each, samples, temperature=temperature, top_p=top_p, maximum_words=maximum_words, seed=seed
                )
            )
        except UnreadableImage as error:
            yield error


def _lines(place: str, captions: "Sequence[Caption]", named: bool, sampled: bool, as_json: bool) -> Iterator[str]:
    """Yield what is printed of one picture."""
    from captioner.common.files import json_of

    if not as_json:
        yield from (f"{place}: {caption.text}" if named else caption.text for caption in captions)
        return
    described = [{"caption": caption.text, **caption.described} for caption in captions]
    yield json_of({"image": place} | ({"captions": described} if sampled else described[0]))


def _names(given: Sequence[Any]) -> Iterator[str]:
    """Yield a file name for the figure of each picture, none twice."""
    from urllib.parse import unquote, urlsplit

    from captioner.common.files import file_names
    from captioner.inference import pictures

    places = (unquote(urlsplit(each).path) if pictures.is_address(each) else str(each) for each in given)
    yield from file_names((Path(place).name or "picture" for place in places), ".png")


def _draw(pixels: "np.ndarray", caption: "Caption", path: Path) -> None:
    from captioner.common.files import replacing
    from captioner.reports.attention_figure import attention_figure

    drawn = attention_figure(pixels, caption.words, caption.attention_by_position, caption.text)
    with replacing(path) as beside:
        drawn.save(beside, "PNG")


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Yield what prints a line, `say(line, err)`, and `advance()`, for a bar that is there only on a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=" pictures", disable=total < 2 or not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def say(line: str, err: bool) -> None:
            with tqdm.external_write_mode(sys.stderr if err else sys.stdout):
                typer.echo(line, err=err)

        yield say, bar.update


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
