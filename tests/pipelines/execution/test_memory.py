"""A run that does not fit is refused before it starts, with the number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.data import source
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.pipelines.execution import runs
from privacy_pipeline.pipelines.preflight import memory
from privacy_pipeline.pipelines.registration.register import register_dataset
from tests.pipelines.projects import write_project

GIB = 2**30
NONE = 9223372036854771712  # version 1's word for no limit
MACHINE = "MemTotal:       16777216 kB\nMemFree: 1 kB\n"  # 16 GiB


def _kernel(tmp_path: Path, groups: str, **limits: str) -> dict[str, Path]:
    """A /proc and a /sys/fs/cgroup; limits by path, with `__` for a slash and `_` for a dot."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(MACHINE)
    (proc / "self/cgroup").write_text(groups)
    for name, text in limits.items():
        file = cgroups / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_name({"max": "memory.max", "limit": "memory.limit_in_bytes"}[file.name]).write_text(text + "\n")
    return {"proc": proc, "cgroups": cgroups}


@pytest.mark.parametrize(
    ("groups", "limits", "gib"),
    [
        ("", {}, 16),
        ("0::/\n", {}, 16),
        ("0::/\n", {"max": "max"}, 16),
        ("0::/\n", {"max": str(3 * GIB)}, 3),
        ("0::/a/b\n", {"a__b__max": "max", "a__max": str(2 * GIB), "max": "max"}, 2),  # a parent's limit holds too
        ("0::/a/b\n", {"a__b__max": str(GIB), "a__max": str(2 * GIB)}, 1),
        ("0::/host/path\n", {"max": str(4 * GIB)}, 4),  # in a container the path may be the host's
        ("4:memory:/a\n0::/\n", {"memory__a__limit": str(5 * GIB), "memory__limit": str(NONE)}, 5),
        ("4:memory:/a\n", {"memory__a__limit": str(NONE)}, 16),
        ("4:cpu,memory:/docker/x\n", {"memory__limit": str(6 * GIB)}, 6),
        ("4:cpu:/a\n", {"memory__a__limit": str(GIB)}, 16),
        ("4:memory:/\n0::/u\n", {"memory__limit": str(7 * GIB), "unified__u__max": str(2 * GIB)}, 2),
        ("0::/\n", {"max": str(64 * GIB)}, 16),  # more than the machine has
    ],
)
def test_the_smallest_limit_holds(tmp_path: Path, groups: str, limits: dict[str, str], gib: int) -> None:
    assert memory.limit(**_kernel(tmp_path, groups, **limits)) == gib * GIB


def test_a_machine_without_control_groups_has_its_memory(tmp_path: Path) -> None:
    found = _kernel(tmp_path, "")
    (found["proc"] / "self/cgroup").unlink()
    assert memory.limit(**found) == 16 * GIB


def test_this_machine_has_some() -> None:
    assert memory.limit() > 2**28


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    size = memory.size_of(source.resolve(dataset=config.dataset), config.dataset)
    assert size == memory.Size(rows=200, columns=4)
    with (config.dataset.path / "span-1/train/rows.csv").open("a") as file:
        file.write("red,1.0,7,yes")  # a last line without an end
    (config.dataset.path / "span-1/train/empty.csv").write_text("colour,size,person,bought\n")
    assert memory.size_of(source.resolve(dataset=config.dataset), config.dataset).rows == 201


def test_the_forecast_grows_with_rows_and_columns() -> None:
    small = memory.Size(rows=1_000, columns=4)
    assert memory.forecast(small) < memory.forecast(memory.Size(rows=2_000, columns=4))
    assert memory.forecast(small) < memory.forecast(memory.Size(rows=1_000, columns=8))


def test_the_forecast_is_above_each_peak_that_was_measured() -> None:
    """The benchmark's own numbers, and not so far above that runs which fit are refused."""
    file = Path(__file__).parents[3] / "benchmarks/results/memory.json"
    measured = json.loads(file.read_text())
    assert len(measured) >= 4
    for one in measured:
        forecast = memory.forecast(memory.Size(rows=one["rows"], columns=one["columns"]))
        assert one["peak"] < forecast < 4 * one["peak"], one


def test_a_run_that_does_not_fit_is_told_the_number(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    found = source.resolve(dataset=config.dataset)
    needed = memory.forecast(memory.Size(rows=200, columns=4))
    memory.require_fits(config, found, most=needed)
    with pytest.raises(
        BadInputError, match=r"needs about 1\.\d GiB for 200 rows of 4 columns, and its machine .*: 1\.0 GiB"
    ):
        memory.require_fits(config, found, most=GIB)


def test_no_number_tells_how_many_rows_there_are_where_that_is_secret(tmp_path: Path) -> None:
    config = write_project(tmp_path, backend="dp_sgd")
    assert config.training.dp_sgd is not None
    section = config.training.dp_sgd.model_copy(update={"relation": "add_or_remove_one"})
    config = config.model_copy(update={"training": config.training.model_copy(update={"dp_sgd": section})})
    with pytest.raises(BadInputError, match=r"^memory: this run needs more memory for its data") as told:
        memory.require_fits(config, source.resolve(dataset=config.dataset), most=GIB)
    assert "200" not in told.value.message


@pytest.mark.parametrize("given", ["--runner=DataflowRunner", "--runner=FlinkRunner"])
def test_data_that_goes_elsewhere_needs_no_memory_here(tmp_path: Path, given: str) -> None:
    config = write_project(tmp_path, beam={"args": [given]})
    memory.require_fits(config, source.resolve(dataset=config.dataset), most=1)
    here = write_project(tmp_path / "here", beam={"args": ["--runner=DirectRunner"]})
    with pytest.raises(BadInputError, match="memory: "):
        memory.require_fits(here, source.resolve(dataset=here.dataset), most=1)


@pytest.mark.parametrize("backend", ["plain", "dp_sgd"])
def test_nothing_is_started_or_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    config = write_project(tmp_path, backend=backend)
    register_dataset(config=config, epsilon=30.0, delta=1e-4)
    monkeypatch.setenv(memory.ENVIRONMENT, str(2**20))
    before = Ledger.open(config.ledger).history(dataset="things")
    with pytest.raises(BadInputError, match="memory: this run needs about"):
        _start(config, tmp_path)
    assert list((tmp_path / "workspace/runs").iterdir()) == []
    assert Ledger.open(config.ledger).history(dataset="things") == before
    assert Ledger.open(config.ledger).status("things")[0].enforced_epsilon == 0


@pytest.mark.parametrize("given", ["8 GB", "-1", "0", "1e9", "٣"])
def test_another_limit_is_a_number_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(memory.ENVIRONMENT, given)
    config = write_project(tmp_path)
    with pytest.raises(BadInputError, match=r"PRIVACY_PIPELINE_MEMORY: .* is not a number of bytes"):
        memory.require_fits(config, source.resolve(dataset=config.dataset))


def _start(config: Any, tmp_path: Path) -> None:
    never: Any = pytest.fail
    runs.start(
        config=config,
        config_path=tmp_path / "c.yaml",
        from_nodes=[],
        to_nodes=[],
        on_start=lambda folder: never("started"),
        on_event=lambda event, state: None,
    )
