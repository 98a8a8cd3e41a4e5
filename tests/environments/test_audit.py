"""`make audit`: what it accepts, what it refuses, and when it says that it did not run."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.environments import audit

_PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
_KNOWN = "CVE-2023-25668"  # of TensorFlow 2.9.1, accepted


def answer(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": [*packages], "fixes": []})


def package(name: str, version: str, *ids: str) -> dict[str, Any]:
    found = [{"id": one, "aliases": [f"{one}-alias"], "fix_versions": ["9.9"], "description": ""} for one in ids]
    return {"name": name, "version": version, "vulns": found}


def test_each_accepted_advisory_is_about_a_version_that_a_lock_pins() -> None:
    pinned = {
        f"{name}=={version}" for lock in audit.LOCKS.iterdir() for name, version in _PIN.findall(lock.read_text())
    }
    assert set(audit.accepted()) <= pinned
    assert all(ids for ids in audit.accepted().values())


def test_an_advisory_is_accepted_for_its_version_by_any_of_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.judged(audit.advisories(answer(package("tensorflow", "2.9.1", _KNOWN)))) == 0
    by_alias = package("tensorflow", "2.9.1", "GHSA-x")
    by_alias["vulns"][0]["aliases"] = [_KNOWN]
    assert audit.judged(audit.advisories(answer(by_alias))) == 0
    capsys.readouterr()
    for other in (package("tensorflow", "2.15.1", _KNOWN), package("tensorflow", "2.9.1", "CVE-1-1")):
        assert audit.judged(audit.advisories(answer(other))) == 1
        assert "mended by 9.9" in capsys.readouterr().out


@pytest.mark.parametrize(
    "said", ["", "<html>", "[]", "{}", answer({"name": "absl-py", "skip_reason": "not found"}, package("a", "1"))]
)
def test_what_is_not_an_answer_is_not_taken_for_a_clean_one(said: str) -> None:
    with pytest.raises(audit.NotRunError):
        audit.advisories(said)


@contextmanager
def service(known: dict[str, list[str]]) -> Iterator[str]:
    """Answers as osv.dev does, with advisories by `name==version`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, version = query["package"]["name"], query["version"]
            about = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": []}]
            found = [{"id": one, "affected": about} for one in known.get(f"{name}=={version}", [])]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": found} if found else {}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("known", "code", "told"),
    [
        ({"tensorflow==2.9.1": [_KNOWN]}, 0, "1 advisories hold for the locks, 1 of them accepted"),
        ({"tensorflow==2.9.1": [_KNOWN], "jinja2==3.1.6": ["CVE-1-1"]}, 1, "not accepted: jinja2==3.1.6 CVE-1-1"),
        ({}, 3, "it has none of the advisories that are known"),
        (None, 3, "did not run"),
    ],
    ids=["accepted", "new", "a service without advisories", "no service"],
)
def test_the_audit_of_the_locks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    known: dict[str, list[str]] | None,
    code: int,
    told: str,
) -> None:
    if not audit.PROGRAM.exists():
        pytest.skip("pip-audit is not here: make audit")
    with service(known or {}) as url:
        asked = url if known is not None else "http://127.0.0.1:9/v1/query"
        monkeypatch.setattr("sys.argv", ["audit", "--osv-url", asked])
        assert audit.main() == code
    # Two locks pin jinja2.
    assert told in capsys.readouterr().out
