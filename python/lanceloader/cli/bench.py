"""``lanceloader bench``."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from lanceloader.cli import arms, racing
from lanceloader.cli.addresses import Address
from lanceloader.cli.failures import UsageError
from lanceloader.cli.options import (
    Branch,
    CacheDir,
    Columns,
    FormatName,
    Json,
    MemoryLimit,
    ReadName,
    StorageOption,
    TableName,
    Tag,
    Uri,
    Version,
)
from lanceloader.cli.output import print_json, print_line, print_table, quantity
from lanceloader.cli.selecting import selected
from lanceloader.cli.verdict import verdict
from lanceloader.monitor.progress import requested
from lanceloader.monitor.redaction import without_secrets

__all__ = ["bench"]


def bench(
    uri: Uri,
    columns: Columns = None,
    *,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Rows per batch.")
    ] = 1024,
    format: Annotated[  # noqa: A002
        FormatName, typer.Option("--format", help="The format of batches.")
    ] = "arrow",
    workers: Annotated[
        int,
        typer.Option("--workers", "-w", min=0, help="Worker processes of DataLoader."),
    ] = 0,
    step_ms: Annotated[
        float,
        typer.Option(
            "--step-ms",
            min=0.001,
            help="Milliseconds of a training step, for the verdict.",
        ),
    ] = 5.0,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.1, help="Total measured seconds."),
    ] = 2.0,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Turns of each way of reading.")
    ] = 3,
    limit: Annotated[
        float,
        typer.Option(
            "--limit",
            min=0.1,
            help="Seconds after which slow ways of reading and rounds are left out.",
        ),
    ] = 8.0,
    read: ReadName = None,
    memory_limit: MemoryLimit = None,
    cache_dir: CacheDir = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw the result: .png, .svg or .pdf."
        ),
    ] = None,
    table: TableName = None,
    version: Version = None,
    branch: Branch = None,
    tag: Tag = None,
    storage_option: StorageOption = None,
    json: Json = False,
) -> None:
    """Measure how fast this table is read on this machine, and say if that is enough.

    Shuffled batches of loader(), torch's DataLoader and lancedb's Permutation, and a scan in
    order, are timed in turns, as far as these are installed. First batches are timed
    separately, and rows are packed before the other batches are timed.

    \b
    Examples:
      lanceloader bench db/flights.lance
      lanceloader bench db/flights.lance --columns hour,delay --format torch_dict --step-ms 2
      lanceloader bench db/flights.lance --batch-size 256 --workers 2 --plot bench.png
    """
    check_plot(plot)
    address = Address.of(uri, table, version, branch, tag, storage_option)
    perm = selected(address.open(), columns)
    if len(perm) == 0:
        raise UsageError(f"{without_secrets(uri)} has no rows to read")
    perm = perm.with_read(read, memory_limit=memory_limit, cache_dir=cache_dir)
    batch_size = min(batch_size, len(perm))
    race = arms.Race(
        perm=perm.with_format(format),
        address=address,
        batch_size=batch_size,
        format=format,
        workers=workers,
    )
    ready, absent = arms.arms(race)
    # Progress bars would slow down the arms that have them.
    with requested(progress=False):
        results, left_out = racing.by_turns(
            ready, seconds=seconds, rounds=rounds, limit=limit
        )
    absent |= left_out
    words = verdict(results, batch_size=batch_size, step_ms=step_ms)
    if plot is not None:
        from lanceloader.cli.plot import draw

        draw(results, plot, f"{len(perm):,} rows, batches of {batch_size:,}")
    if json:
        print_json(
            {
                "rows": len(perm),
                "columns": perm.column_names,
                "version": perm.version,
                "batch_size": batch_size,
                "format": format,
                "workers": workers,
                "results": [
                    dataclasses.asdict(result)
                    | {"rows_per_second": result.rows_per_second}
                    for result in results
                ],
                "left_out": {
                    name: without_secrets(reason) for name, reason in absent.items()
                },
                "step_ms": step_ms,
                "needed_rows_per_second": batch_size / step_ms * 1e3,
                "is_enough": results[0].rows_per_second >= batch_size / step_ms * 1e3,
                "verdict": words,
                "plot": plot,
            }
        )
        return
    print_table(
        ("read by", "rows/s", "lowest", "highest", "first batch"),
        [
            (
                result.name,
                quantity(result.rows_per_second),
                quantity(min(result.turns)),
                quantity(max(result.turns)),
                f"{result.first_batch_seconds * 1e3:,.1f} ms",
            )
            for result in results
        ],
        right=("rows/s", "lowest", "highest", "first batch"),
    )
    for name, reason in absent.items():
        print_line(f"left out: {name}: {without_secrets(reason)}")
    print_line(f"\n{words}")


def check_plot(plot: Path | None) -> None:
    """Check before measuring that a picture can be drawn.

    Raises:
        UsageError: If it cannot.
    """
    if plot is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            '--plot needs matplotlib, which is not installed: pip install "lanceloader[plots]"'
        )
    if plot.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {plot}: the name must end in .png, .svg or .pdf")
    if not plot.absolute().parent.is_dir():
        raise UsageError(f"--plot {plot}: its folder does not exist")
