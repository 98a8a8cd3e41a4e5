"""`setup` and `demo`, and how a command of the bare wheel gets the environment that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.cli.output import errors_as_exit_codes, print_line
from privacy_pipeline.environments import place
from privacy_pipeline.environments.place import KINDS, Kind
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.processes.programs import ending_with_us
from privacy_pipeline.text.typed import typed

_CONFIGS = ("adult_plain.yaml", "adult_dp_sgd.yaml", "schemas/adult.pbtxt")


def setup(
    kind: Annotated[str, typer.Argument(metavar="pipeline|encrypted", help="Environment to make.")] = "pipeline",
) -> None:
    """Make the environment of pipelines (TFX, the demo's data) or of encrypted inference, from hash-pinned locks."""
    from privacy_pipeline.environments import making

    with errors_as_exit_codes(as_json=False):
        making.make(_known(kind), report=print_line)


def demo(
    folder: Annotated[Path, typer.Option("--to", help="Folder of the demo's configs, data and runs.")] = Path(),
) -> None:
    """Run real census data through the whole pipeline, plain and with DP-SGD, and compare both."""
    with errors_as_exit_codes(as_json=False):
        if not place.is_here("pipeline"):
            raise needed()
        folder.mkdir(parents=True, exist_ok=True)
        for name in _CONFIGS:
            _bring(name, folder / "configs" / name)
    register = ("budget", "register", "configs/adult_dp_sgd.yaml", "--epsilon", "10", "--delta", "1e-5")
    runs = (("run", "configs/adult_plain.yaml"), ("run", "configs/adult_dp_sgd.yaml"))
    for words in (("data", "adult"), register, *runs, ("diff", "adult-plain", "adult-dp-sgd")):
        print_line(f"$ {typed(*words)}")
        code = subprocess.run(ending_with_us([sys.executable, _command(), *words]), cwd=folder, check=False).returncode
        if code:
            raise typer.Exit(code)


def hand_over() -> None:
    """Continue in the environment of pipelines, if there is one and this process runs in another one."""
    if place.is_here("pipeline") or place.is_checkout() or sys.argv[1:2] == ["setup"]:
        return
    python = place.python("pipeline")
    if python is not None:
        sys.stdout.flush()
        command = str(python.with_name("privacy-pipeline"))
        os.execv(python, [str(python), command, *sys.argv[1:]])


def explained() -> PipelineError | None:
    """Return the error for a package that is missing together with TFX; None if TFX is installed."""
    return None if place.is_here("pipeline") else needed()


def needed() -> PipelineError:
    """Return the error of a command that needs the environment of pipelines."""
    return BadInputError(
        "this command needs TFX and TensorFlow, which are not installed here", fix=place.how_to_set_up("pipeline")
    )


def offer(error: PipelineError) -> None:
    """Ask the user at a terminal whether to set the environment up now; then continue in it."""
    if place.is_checkout() or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print_line(f"{error.message}.", err=True)
    if not typer.confirm("Set them up now (about 5 GB, some minutes)?", err=True):
        return
    setup("pipeline")
    hand_over()


def _known(kind: str) -> Kind:
    for one in KINDS:
        if kind == one:
            return one
    raise BadInputError(f"{kind!r}: there is no such environment", fix=f"use one of {', '.join(KINDS)}")


def _bring(name: str, target: Path) -> None:
    """Copy one of the configs that come with the package, unless the user has one."""
    if target.exists():
        return
    root = Path(place.__file__).resolve().parents[2]
    home = root / "configs" if place.is_checkout() else root / "privacy_pipeline" / "demo_configs"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(home / name, target)
    except OSError as error:
        raise BadInputError(f"{target}: cannot be written ({error.strerror})", fix="choose another folder") from None


def _command() -> str:
    return str(Path(sys.executable).with_name("privacy-pipeline"))
