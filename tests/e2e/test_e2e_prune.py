"""A whole run is pruned: its rows are found nowhere below the workspace, and making it again is charged again."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Project
from tests.pipelines.planted import found_below, needles

TEXT, NUMBER = "zyx-canary-Q7", 74213.0625
_FEATURES = """
feature { name: "note" type: BYTES annotation { tag: "ignore" } presence { min_fraction: 1 min_count: 1 }
  shape { dim { size: 1 } } }
feature { name: "amount" type: FLOAT annotation { tag: "ignore" } presence { min_fraction: 1 min_count: 1 }
  shape { dim { size: 1 } } }
"""


def plant(project: Project) -> None:
    """Adds two columns, and in one row of the train split values that are nowhere else."""
    for file in (project.train, project.eval):
        head, *rows = file.read_text().splitlines()
        lines = [f"{row},word{number % 7},{number % 9}.5" for number, row in enumerate(rows)]
        if file == project.train:
            lines[500] = f"{rows[500]},{TEXT},{NUMBER}"
        file.write_text("\n".join([f"{head},note,amount", *lines]) + "\n")
    project.schema.write_text(project.schema.read_text() + _FEATURES)


@pytest.mark.slow
def test_a_pruned_run_leaves_no_row_and_is_charged_again(project: Project) -> None:
    plant(project)
    workspace, wanted = project.root / "workspace", needles(TEXT, NUMBER)
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    run_id = project.done("run", "configs/dp.yaml", "--json").json["run"]["run_id"]
    before = found_below(workspace, wanted)
    assert any("text" in found for found in before) and any("float32" in found for found in before)

    told = project.done("workspace", "prune", "--dataset", "adult", "--json").json
    assert not told["removed"] and told["bytes"] > 0 and found_below(workspace, wanted) == before
    assert project.done("workspace", "prune", "--dataset", "adult", "--yes", "--json").json["paths"] == told["paths"]
    assert found_below(workspace, wanted) == []
    assert f"run {run_id} was pruned on" in project.done("show", run_id).text
    assert "(pruned)" in project.done("runs").text
    assert project.entries() == ["committed"]
    assert project.done("budget", "verify", "--receipt", "workspace/runs").code == 0

    ended = project.done("run", "configs/dp.yaml", "--json").json["run"]
    assert "cached" not in {node["status"] for node in ended["nodes"].values()}
    assert project.entries() == ["committed", "committed"]
    assert found_below(workspace, wanted)
