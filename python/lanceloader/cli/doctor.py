"""``lanceloader doctor``."""

import dataclasses

import typer

from lanceloader.cli import machine
from lanceloader.cli.failures import FAILED
from lanceloader.cli.options import Json
from lanceloader.cli.output import print_json, print_line

__all__ = ["doctor"]


def doctor(*, json: Json = False) -> None:
    """Check this machine and environment: versions, memory, disks, and what is missing.

    The exit code is 1 if something would keep tables from being read well.

    \b
    Examples:
      lanceloader doctor
      lanceloader doctor --json
    """
    findings = machine.findings()
    problems = [finding for finding in findings if finding.level == "problem"]
    if json:
        print_json(
            {
                "is_ok": not problems,
                "findings": [dataclasses.asdict(finding) for finding in findings],
            }
        )
    else:
        for finding in findings:
            print_line(f"{finding.level:<9}{finding.name:<14}{finding.text}")
            if finding.fix is not None:
                print_line(f"{'':<23}{finding.fix}")
    if problems:
        raise typer.Exit(FAILED)
