"""How much of a run does its audit take?

    make demo
    python -m benchmarks.audit_share adult-dp-sgd

Reads the records of runs: seconds of the audit, and of the run from its start to its end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

CLI = Path(sysconfig.get_paths()["scripts"]) / "privacy-pipeline"


def row(run: str) -> str:
    """Return one line of the table; exit if the run has no audit."""
    shown = json.loads(subprocess.run([CLI, "show", run, "--json"], check=True, capture_output=True).stdout)
    audits = [audit for audit in shown["summary"]["record"]["audits"] if "seconds" in audit]
    if not audits:
        sys.exit(f"run {run} has made no audit; its config has `audit: none`, or another engine than `native`")
    began, ended = (datetime.datetime.fromisoformat(shown["run"][key]) for key in ("started", "ended"))
    whole, audit = (ended - began).total_seconds(), sum(audit["seconds"] for audit in audits)
    return f"| {run} | {whole:.0f} | {audit:.1f} | {audit / whole:.1%} |"


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="names of runs in ./workspace")
    print("| run | seconds | of which audit | share |\n|---|---:|---:|---:|")
    for run in parser.parse_args().runs:
        print(row(run), flush=True)


if __name__ == "__main__":
    main()
