"""How fast are private predictions, and what crosses between the parties: ours, stock TF-Encrypted, SPU, CrypTen?

    python benchmarks/encrypted.py            # everything that fits into two hours
    python benchmarks/encrypted.py --quick    # two networks, batch 1 and 1,024: at most ten minutes

Same network, weights and rows everywhere, 16 fractional bits, and each answer is compared with NumPy's.
Every engine runs in a separate process, one after the other, in turns; the best of the turns' medians counts, since
other programs may use the machine. A call includes sharing the rows and revealing the answer, but not building,
compiling and sharing the weights.

- ours: all parties in one process, new masks in every call. Rounds and bytes are counted separately, on its graph.
- stock: `tfe.keras.Sequential.predict` of TF-Encrypted 0.9.1 under its ABY3, in one process; its compiled calls reuse
  their masks, so it omits necessary work.
- spu: ABY3 of SPU 0.9.5 in its simulator (three threads and links in memory), compiled once, weights shared once.
- crypten: CrypTen 0.4.1, two processes and a first party that deals all random numbers and so is trusted.

The first three are simulations: no network is measured. A process may take `--limit` seconds and `--memory` GiB, and
all of them `--minutes`; the table marks what does not fit. Writes `results/encrypted.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from encrypted_networks import NETWORKS, network, rows_for  # noqa: E402
from peer_environments import interpreter  # noqa: E402

from privacy_pipeline.encrypted.model import model_format, reference  # noqa: E402
from privacy_pipeline.encrypted.sandbox import environment  # noqa: E402

RESULT = HERE / "results" / "encrypted.json"
BATCHES = (1, 128, 1024)
QUICK = ("20-64-32-1", "Adult MLP")
# No answer may differ from NumPy's by more.
LARGEST_ERROR = 0.05
SPU = ("spu==0.9.5",)
# CrypTen requires a package under its old name, which refuses to be installed unless a variable allows it.
CRYPTEN = ("crypten==0.4.1", "torch==1.13.1", "torchvision==0.14.1", "numpy==1.23.5")
Row = dict[str, Any]


def tf_encrypted(kind: str) -> list[str]:
    """Return the command of ours or stock."""
    return [str(environment.interpreter()), str(HERE / "encrypted_engines.py"), kind]


def peer(name: str, packages: tuple[str, ...]) -> list[str]:
    """Return the command of a peer, whose environment is made if it is missing."""
    python = interpreter(name, packages, variables={"SKLEARN_ALLOW_DEPRECATED_SKLEARN_PACKAGE_INSTALL": "True"})
    return [str(python), str(HERE / "peers" / f"{name}_speed.py")]


# An engine is a command that takes the folder of a job and prints one JSON row per batch size.
ENGINES: dict[str, Callable[[], list[str]]] = {
    "ours": partial(tf_encrypted, "ours"),
    "stock": partial(tf_encrypted, "stock"),
    "spu": partial(peer, "spu", SPU),
    "crypten": partial(peer, "crypten", CRYPTEN),
}
SETTING = {"ours": "one process", "stock": "one process", "spu": "one process", "crypten": "two processes"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two networks, batch 1 and 1,024, one turn")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=None)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--batches", nargs="+", type=int, default=None)
    parser.add_argument("--turns", type=int, default=None, help="2, or 1 with --quick")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of timed calls for one size")
    parser.add_argument("--minutes", type=float, default=None, help="minutes for everything: 120, or 10 with --quick")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that a process may take")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB of addresses that a process may take")
    given = parser.parse_args()
    names = given.networks or (QUICK if given.quick else tuple(NETWORKS))
    batches = given.batches or ((1, 1024) if given.quick else BATCHES)
    commands = {engine: ENGINES[engine]() for engine in given.engines}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process is left
    end = time.monotonic() + 60 * (given.minutes or (10 if given.quick else 120))
    best: dict[tuple[str, int, str], Row] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            prepare(name, batches, Path(folder), given.seconds)
            crossing = {}
            if "ours" in commands:
                counted = measured("count", tf_encrypted("count"), Path(folder), batches, given.limit, given.memory)
                crossing = {row["batch"]: row for row in counted if "failed" not in row}
            failed: set[str] = set()
            for turn in range(given.turns or (1 if given.quick else 2)):
                for engine, command in commands.items():
                    limit = min(given.limit, end - time.monotonic())
                    # Do not try again what failed once, and do not take longer for a second turn.
                    if engine in failed or (turn and limit < given.limit):
                        continue
                    rows = measured(engine, command, Path(folder), batches, limit, given.memory)
                    failed |= {engine for row in rows if "failed" in row}
                    for row in rows:
                        more = crossing.get(row["batch"], {}) if engine == "ours" else {}
                        keep(best, {"network": name, "engine": engine, "setting": SETTING[engine], **more, **row})
        write(list(best.values()))
    print("\n".join(table(names, batches, list(commands), best)))


def prepare(name: str, batches: tuple[int, ...], folder: Path, seconds: float) -> None:
    """Write the job of one network: model, rows, and NumPy's answers."""
    model = network(name)
    model_format.save(model, folder / "model")
    for batch in batches:
        rows = rows_for(model, batch)
        # Take one block at a time: the patches of a thousand pictures take gigabytes.
        blocks = [reference.evaluate(model, {"x": rows[i : i + 64]})[model.output] for i in range(0, batch, 64)]
        np.savez(folder / f"rows{batch}.npz", x=rows, expected=np.concatenate(blocks))
    (folder / "job.json").write_text(json.dumps({"batches": list(batches), "seconds": seconds}))


def measured(
    engine: str, command: list[str], folder: Path, batches: tuple[int, ...], limit: float, memory: float
) -> list[Row]:
    """Run one process of an engine; return a row for every batch size, `failed` if it gave none."""
    if limit <= 0:
        return [{"batch": batch, "failed": "not measured: the time was up"} for batch in batches]

    def held() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(memory * 2**30),) * 2)

    with (folder / "out").open("w+") as out, (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [*command, str(folder)],
            stdout=out,
            stderr=errors,
            env=environment.variables(),
            preexec_fn=held,
            start_new_session=True,
        )
        status: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(timeout=limit)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = [line for line in (folder / "out").read_text().splitlines() if line.startswith('{"batch"')]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        if not row.get("error", 0.0) < LARGEST_ERROR:
            row["failed"] = f"wrong by {row['error']:.2g}"
    if len(rows) < len(batches):
        errors_text = (folder / "errors").read_text().strip().splitlines()
        print(f"{engine}: status {status}; {errors_text[-1] if errors_text else ''}", file=sys.stderr)
        why = f"more than {limit:.0f} s" if status is None else f"more than {memory:.0f} GiB, or failed"
        rows += [{"batch": batch, "failed": why} for batch in batches[len(rows) :]]
    return rows


def keep(best: dict[tuple[str, int, str], Row], row: Row) -> None:
    """Keep the faster of two turns; a turn that failed counts only if none succeeded."""
    key = (row["network"], row["batch"], row["engine"])
    if key not in best or row.get("seconds", np.inf) < best[key].get("seconds", np.inf):
        best[key] = row


def write(rows: list[Row]) -> None:
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


def table(
    names: tuple[str, ...], batches: tuple[int, ...], engines: list[str], best: dict[tuple[str, int, str], Row]
) -> list[str]:
    """Return lines of Markdown."""
    lines = [
        "| network | batch | engine | ms a call | rows a second | ours is x times as fast | build s "
        "| rounds | MB a call | largest error |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        for batch in batches:
            own = best.get((name, batch, "ours"), {}).get("seconds")
            for engine in engines:
                row = best[name, batch, engine]
                start = f"| {name} | {batch:,} | {engine} |"
                if "failed" in row:
                    lines.append(f"{start} {row['failed']} | | | | | | |")
                    continue
                ratio = f"{row['seconds'] / own:.1f}" if own and engine != "ours" else ""
                sent = f"{row['bytes'] / 1e6:,.2f}" if "bytes" in row else ""
                lines.append(
                    f"{start} {row['seconds'] * 1e3:,.1f} | {batch / row['seconds']:,.0f} | {ratio} "
                    f"| {row['build']:.1f} | {row.get('rounds', '')} | {sent} | {row['error']:.1e} |"
                )
    return lines


if __name__ == "__main__":
    main()
