"""Who may read what is made, and change what a guarantee rests on."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privacy_pipeline.config.loader import load_config
from privacy_pipeline.covered_digests import KEY_FILE, secret_in
from privacy_pipeline.encrypted.transport import clients
from privacy_pipeline.encrypted.transport.certificates import init_parties, tls_context
from privacy_pipeline.encrypted.transport.dialing import addresses
from privacy_pipeline.encrypted.transport.identities import Peer
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.files.file_rights import (
    private_file,
    private_folder,
    refuse_folder_of_others,
    refuse_if_others_may_change,
    refuse_if_others_may_replace,
)
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import load_policy
from privacy_pipeline.ledger.storage import high_water
from privacy_pipeline.pipelines.workspace.workspace import Workspace

POLICY = "dataset: d\nepsilon: 4.0\ndelta: 1.0e-5\nunit: row\n"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_ledger_and_its_files_are_this_users_under_any_umask(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "ledger"
    Ledger.open(f"sqlite:///{folder}/ledger.db", create=True)
    assert mode(folder) == mode(folder.parent) == 0o700
    found = {path.name: mode(path) for path in folder.iterdir() if path.is_file()}
    assert "ledger.db" in found and "ledger_key.pem" in found
    assert all(one == 0o600 for one in found.values()), found


def test_whole_files_are_this_users_and_no_mode_is_widened(umask: int, tmp_path: Path) -> None:
    write_atomically(path=tmp_path / "new", text="x")
    (tmp_path / "old").write_text("x")
    (tmp_path / "old").chmod(0o644)
    write_atomically(path=tmp_path / "old", text="y")
    assert mode(tmp_path / "new") == mode(tmp_path / "old") == 0o600


def test_a_place_that_is_made_for_all_users_stays_theirs(tmp_path: Path) -> None:
    """A workspace in `/tmp` itself, by a user who may change `/tmp`."""
    tmp_path.chmod(0o1777)
    private_folder(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_what_is_there_is_narrowed_and_never_widened(umask: int, tmp_path: Path) -> None:
    for given, made in ((0o755, 0o700), (0o777, 0o700), (0o500, 0o500)):
        folder = tmp_path / f"{given:o}"
        folder.mkdir()
        folder.chmod(given)
        private_folder(folder)
        assert mode(folder) == made
        folder.chmod(0o700)
    for given, made in ((0o666, 0o600), (0o640, 0o600), (0o600, 0o600)):
        file = tmp_path / f"file{given:o}"
        file.touch()
        file.chmod(given)
        private_file(file)
        assert mode(file) == made


@pytest.mark.parametrize("rights", [0o620, 0o602, 0o666])
@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-journal", "ledger_key.pem"])
def test_a_ledger_or_key_that_others_may_write_is_refused(name: str, rights: int, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    url = f"sqlite:///{folder}/ledger.db"
    Ledger.open(url, create=True)
    (folder / name).touch()
    (folder / name).chmod(rights)
    with pytest.raises(PipelineError, match=rf"{name}.*mode {rights:04o}") as told:
        Ledger.open(url).rotate_key()
    assert "chmod" in told.value.fix and str(folder / name) in told.value.fix


@pytest.mark.parametrize("rights", [0o770, 0o777, 0o1777])
def test_a_ledgers_folder_that_others_may_write_is_refused(rights: int, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    url = f"sqlite:///{folder}/ledger.db"
    for create in (True, False):
        folder.mkdir(exist_ok=True)
        folder.chmod(rights)
        with pytest.raises(PipelineError, match=f"other users may change it .mode {rights:04o}"):
            Ledger.open(url, create=create)
        folder.chmod(0o700)
        Ledger.open(url, create=True)


def _policy(folder: Path) -> Callable[[], object]:
    (folder / "policy.yaml").write_text(POLICY)
    return lambda: load_policy(folder / "policy.yaml")


def _parties(folder: Path) -> Callable[[], object]:
    init_parties(folder=folder / "parties")
    return lambda: addresses(folder / "parties")


@pytest.mark.parametrize("made", [_policy, _parties], ids=["policy", "parties"])
def test_policy_and_parties_that_others_may_change_are_refused(
    made: Callable[[Path], Callable[[], object]], tmp_path: Path
) -> None:
    read = made(tmp_path)
    read()
    (file,) = [path for path in tmp_path.rglob("*.yaml")]
    for path, rights in ((file, 0o660), (file, 0o602), (file.parent, 0o720), (file.parent, 0o702)):
        before = mode(path)
        path.chmod(rights)
        with pytest.raises(PipelineError, match="other users may change it") as told:
            read()
        assert f"chmod go-w {path}" in told.value.fix
        path.chmod(before)
        read()


@pytest.mark.parametrize(
    ("name", "rights", "says"),
    [
        ("server0/key.pem", 0o640, "other users may read it"),
        ("server0/key.pem", 0o604, "other users may read it"),
        ("server0/key.pem", 0o620, "other users may change it"),
        ("server0/ca.pem", 0o646, "other users may change it"),
        ("server0/certificate.pem", 0o664, "other users may change it"),
        ("server0/revoked.pem", 0o606, "other users may change it"),
        ("server0", 0o777, "other users may change it"),
        ("ca/key.pem", 0o644, "other users may read it"),
        ("ca", 0o730, "other users may change it"),
        ("driver/ca.pem", 0o666, ""),
    ],
)
def test_keys_and_authorities_of_parties_that_others_may_read_or_change_are_refused(
    name: str, rights: int, says: str, tmp_path: Path
) -> None:
    parties = tmp_path / "parties"
    init_parties(folder=parties)
    clients.add_client(folder=parties, name="anna")
    clients.revoke(folder=parties, name="anna")
    bert = Peer(role="prediction-client", name="bert", serial="1")

    def used() -> None:
        tls_context(folder=parties / "server0", server=True).revocations.require_valid(bert)
        clients.revoke(folder=parties, name="server0")

    used()
    before = mode(parties / name)
    (parties / name).chmod(rights)
    if not says:
        used()  # another party's business
        return
    with pytest.raises(PipelineError, match=says) as told:
        used()
    assert "chmod " in told.value.fix and str(parties / name) in told.value.message + told.value.fix
    (parties / name).chmod(before)
    used()


def _workspace(root: Path) -> Workspace:
    config = load_config(Path(__file__).parents[1] / "configs" / "adult_plain.yaml")
    return Workspace(config.model_copy(update={"workspace": root}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("part", [".", "runs", "pipelines"])
def test_a_workspace_in_which_others_may_put_files_is_refused(part: str, tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    (root / part).mkdir(parents=True)
    os.chown(root / part, 12345, 12345)
    for rights in (0o770, 0o777):
        (root / part).chmod(rights)
        with pytest.raises(PipelineError, match=r"other users may change what is in it|belongs to user 12345"):
            _workspace(root).prepare()
    os.chown(root / part, 0, 0)
    _workspace(root).prepare()
    assert mode(root / part) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_workspace_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "workspace"
    (root / "pipelines").mkdir(parents=True)
    os.chown(root / "pipelines", 12345, 12345)
    (root / "pipelines").chmod(0o755)
    _workspace(root).prepare()  # root can do what it likes with it
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PipelineError, match="belongs to user 12345"):
        refuse_folder_of_others(root / "pipelines")
    refuse_folder_of_others(root)
    (root).chmod(0o1777)
    refuse_folder_of_others(root)


def test_what_this_host_has_seen_in_a_folder_of_all_users_is_not_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = f"sqlite:///{tmp_path}/ledger/ledger.db", tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv(high_water.ENVIRONMENT, str(seen))
    Ledger.open(url, create=True)
    seen.chmod(0o1777)
    with pytest.raises(PipelineError, match=f"{seen}: other users may change it"):
        Ledger.open(url).rotate_key(lost=False)


def test_a_link_counts_with_what_it_points_to(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    (open_to_all / "real").write_text("x")
    (tmp_path / "link").symlink_to(open_to_all / "real")
    open_to_all.chmod(0o777)
    with pytest.raises(PipelineError, match=str(open_to_all)):
        refuse_if_others_may_change(tmp_path / "link")
    open_to_all.chmod(0o1777)  # as /tmp is: nobody replaces what another made
    refuse_if_others_may_change(tmp_path / "link")
    with pytest.raises(PipelineError, match=str(open_to_all)):
        refuse_if_others_may_change(tmp_path / "link", own=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_ledger_of_another_user_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger/ledger.db"
    Ledger.open(url, create=True)
    os.chown(tmp_path / "ledger" / "ledger.db", 12345, 12345)
    with pytest.raises(PipelineError, match="belongs to user 12345"):
        Ledger.open(url)


def test_a_ledger_below_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """They could move its folder away, and put another one there between two looks at it."""
    above = tmp_path / "above"
    url = f"sqlite:///{above}/project/ledger/ledger.db"
    Ledger.open(url, create=True)
    policy, parties = _policy(above / "project"), _parties(above / "project")
    reads: list[Callable[[], object]] = [lambda: Ledger.open(url), lambda: Ledger.open(url, create=True)]
    for rights in (0o707, 0o777, 0o702):
        above.chmod(rights)
        for read in (*reads, policy, parties):
            with pytest.raises(PipelineError, match=f"{above}: other users may change it .mode {rights:04o}") as told:
                read()
            assert told.value.fix.endswith(f"chmod go-w {above}")
    above.chmod(0o755)
    for read in (*reads, policy, parties):
        read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_above_may_be_open_to_the_users_own_group_alone(tmp_path: Path) -> None:
    above = tmp_path / "above"
    url = f"sqlite:///{above}/project/ledger/ledger.db"
    Ledger.open(url, create=True)
    above.chmod(0o775)  # as `mkdir` makes it, where each user has a group of that name
    Ledger.open(url)
    os.chown(above, 0, 12345)
    with pytest.raises(PipelineError, match=f"{above}: other users may change it .mode 0775"):
        Ledger.open(url)
    refuse_if_others_may_replace(above / "workspace")  # a project's group shares its runs


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("planted", ["folder", "link", "link to a link", "the shared folder itself"])
def test_what_another_user_planted_in_a_shared_place_is_refused(planted: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)  # as /tmp is
    (tmp_path / "mine").mkdir(mode=0o700)
    if planted == "folder":
        (shared / "project").mkdir(mode=0o755)
        os.chown(shared / "project", 12345, 12345)
    elif planted == "link":
        (shared / "project").symlink_to(tmp_path / "mine")
        os.lchown(shared / "project", 12345, 12345)
    elif planted == "link to a link":
        (shared / "other").symlink_to(tmp_path / "mine")
        os.lchown(shared / "other", 12345, 12345)
        (tmp_path / "to").symlink_to("shared/../shared/other")
        (shared / "project").symlink_to("../to")
    else:
        (shared / "project").mkdir(mode=0o700)
        os.chown(shared, 12345, 12345)
    with pytest.raises(PipelineError, match=f"{shared}.*belongs to user 12345"):
        refuse_if_others_may_replace(shared / "project")
    with pytest.raises(PipelineError, match=f"{shared}.*belongs to user 12345"):
        Ledger.open(f"sqlite:///{shared}/project/deep/ledger/ledger.db", create=True)


def test_links_without_an_end_and_names_that_are_no_folders_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to("there")
    (tmp_path / "there").symlink_to("here")
    (tmp_path / "file").touch()
    for path in ("here/x", "file/x", "not/there/yet"):
        refuse_if_others_may_replace(tmp_path / path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here", "there"]


@pytest.mark.parametrize("wait", ["pin", "secret"])
def test_no_file_is_written_through_a_name_that_others_foresee(wait: str, tmp_path: Path) -> None:
    """A link under the name of a file that is being written would have something else written over."""
    (tmp_path / "victim").write_text("mine")
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger/ledger.db", create=True)
    data = tmp_path / "data"
    data.mkdir()
    for name in (f".{pins.FILE}.{os.getpid()}", f".{pins.FILE}.part", f".{KEY_FILE}.{os.getpid()}"):
        (data / name).symlink_to(tmp_path / "victim")
    if wait == "pin":
        assert pins.note(ledger, [data]) == []
    else:
        secret_in(data)
    assert (tmp_path / "victim").read_text() == "mine"
    assert {path.name for path in data.iterdir() if not path.is_symlink()} == {pins.FILE if wait == "pin" else KEY_FILE}


def test_commands_make_files_for_this_user_alone(tmp_path: Path) -> None:
    script = (
        "import os\nos.umask(0)\n"
        "from privacy_pipeline.cli.main import main\nimport sys\nsys.argv = ['privacy-pipeline', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    print(oct(os.umask(0)))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert told.stdout.strip().endswith("0o77")
