"""Holds the locks to the known advisories: `make audit`, or `python -m tests.environments.audit`.

Exit code 0: every advisory that holds for a lock is accepted, with its reason, in `accepted_advisories.toml`. 1: one is
not. 3: the audit did not run, because no advisory service answered.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "privacy_pipeline" / "environments" / "locks"
ACCEPTED = Path(__file__).with_name("accepted_advisories.toml")
PROGRAM = ROOT / ".tools" / "audit" / "bin" / "pip-audit"
_SERVICES = {"pypi": (), "osv": ("--vulnerability-service", "osv")}
_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """A known advisory that holds for a pinned package.

    Attributes:
        package: name and version, as `name==version`.
        ids: its identifier and the aliases of it.
        fixed: the versions that are said to mend it.
    """

    package: str
    ids: frozenset[str]
    fixed: tuple[str, ...]


class NotRunError(Exception):
    """The service gave no answer that can be relied on."""


def accepted() -> dict[str, set[str]]:
    """Accepted identifiers by `name==version`."""
    found: dict[str, set[str]] = {}
    for one in tomli.loads(ACCEPTED.read_text())["accepted"]:
        if not one["reason"].strip():
            raise ValueError(f"{ACCEPTED.name}: {one['package']} has no reason")
        found.setdefault(f"{one['package']}=={one['version']}", set()).update(one["ids"])
    return found


def advisories(answer: str) -> list[Advisory]:
    """The advisories in what pip-audit printed as JSON.

    Raises:
        NotRunError: it is not JSON, or a package was not looked up.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        raise NotRunError("the answer is not a list of packages") from error
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if skipped:
        raise NotRunError(f"{len(skipped)} of {len(packages)} packages were not looked up, {skipped[0]} first")
    return [
        Advisory(
            package=f"{one['name']}=={one['version']}",
            ids=frozenset({known["id"], *known["aliases"]}),
            fixed=tuple(known["fix_versions"]),
        )
        for one in packages
        for known in one["vulns"]
    ]


def asked(lock: Path, options: Sequence[str]) -> list[Advisory]:
    """The advisories for what a lock pins.

    Raises:
        NotRunError: the service was not reached, or did not look up all packages.
    """
    fixed = ("--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off")
    try:
        done = subprocess.run(
            [PROGRAM, *fixed, *options, "--requirement", lock],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotRunError(f"no answer within {_SECONDS} s") from error
    if not done.stdout.strip():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise NotRunError(lines[-1][:200] if lines else f"pip-audit ended with {done.returncode}")
    return advisories(done.stdout)


def all_asked(options: Sequence[str]) -> list[Advisory]:
    """The advisories for all locks.

    Raises:
        NotRunError: a lock was not looked up whole, or the service has none of the advisories that are accepted, so
            that it says nothing about any.
    """
    found = [one for name in ("pipeline", "encrypted", "uv") for one in asked(LOCKS / f"{name}.txt", options)]
    if not any(one.ids & accepted().get(one.package, set()) for one in found):
        raise NotRunError("it has none of the advisories that are known, and so it carries none")
    return found


def judged(found: Sequence[Advisory]) -> int:
    """Print what was found; 1 where an advisory is not accepted, else 0."""
    listed = accepted()
    new = [one for one in found if not one.ids & listed.get(one.package, set())]
    for one in new:
        mended = f"mended by {', '.join(one.fixed)}" if one.fixed else "no version mends it"
        print(f"not accepted: {one.package} {' '.join(sorted(one.ids))} ({mended})")
    print(f"audit: {len(found)} advisories hold for the locks, {len(found) - len(new)} of them accepted with a reason")
    if new:
        print(f"fix: another version, or a reason in {ACCEPTED.relative_to(ROOT)}")
    return 1 if new else 0


def main() -> int:
    """Ask one service after the other until one answers."""
    parser = argparse.ArgumentParser(prog="python -m tests.environments.audit")
    parser.add_argument("--osv-url", help="another service that answers as osv.dev does")
    url = parser.parse_args().osv_url
    services = {"osv": (*_SERVICES["osv"], "--osv-url", url)} if url else _SERVICES
    for name, options in services.items():
        try:
            found = all_asked(options)
        except NotRunError as error:
            print(f"{name}: {error}")
            continue
        return judged(found)
    print(
        "audit: did not run, since no advisory service answered; run `make audit` where pypi.org or osv.dev is reached"
    )
    return 3


if __name__ == "__main__":
    sys.exit(main())
