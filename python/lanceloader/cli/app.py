"""All commands, and their common options."""

from typing import Annotated

import typer

import lanceloader
from lanceloader.cli import (
    bench,
    cache,
    doctor,
    explain,
    head,
    info,
    materialize,
    warm,
)
from lanceloader.cli.failures import guarded

__all__ = ["app"]

app = typer.Typer(
    name="lanceloader",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache_app = typer.Typer(
    name="cache",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List or remove packed rows, or print where they are kept.",
)


def _print_version(*, value: bool) -> None:
    if value:
        typer.echo(f"lanceloader {lanceloader.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=lambda value: _print_version(value=value),
        ),
    ] = False,
) -> None:
    """Inspect Lance and LanceDB tables, and measure how fast they can be read for training.

    \b
    Exit codes:
      0    done
      1    failed; the last line of standard error says why and what to do
      2    wrong usage, or an extra is not installed
      130  interrupted by Ctrl-C

    \b
    Environment:
      LANCELOADER_STORAGE_OPTIONS  NAME=VALUE pairs, separated by spaces
      LANCELOADER_PROGRESS         1: always show bars, 0: never
      LANCELOADER_DEBUG            1: show the traceback of an error
      LANCELOADER_CACHE_DIR, LANCELOADER_MEMORY_LIMIT, ...: as for the library
    """


app.command("info")(guarded(info.info))
app.command("head")(guarded(head.head))
app.command("explain")(guarded(explain.explain))
app.command("bench")(guarded(bench.bench))
app.command("warm")(guarded(warm.warm))
app.command("materialize")(guarded(materialize.materialize))
app.command("doctor")(guarded(doctor.doctor))
app.add_typer(cache_app)
cache_app.command("list")(guarded(cache.list_entries))
cache_app.command("clear")(guarded(cache.clear))
cache_app.command("prune")(guarded(cache.prune))
cache_app.command("path")(guarded(cache.path))
