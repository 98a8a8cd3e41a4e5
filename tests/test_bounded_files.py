"""Archives, arrays and JSON that somebody made to be more than they look: refused before they take memory."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federated.experiments.run_folder import RunFolder
from privacy_pipeline.data.reading import tfrecord
from privacy_pipeline.dp.history import saved_history
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.bounded import DEEPEST, json_value
from privacy_pipeline.files.bounded_arrays import open_array, read_archive
from tests.package_sources import PACKAGES, dotted_names

HUGE = 1 << 40


def header(text: str, *, version: bytes = b"\x01\x00", body: bytes = b"\0" * 8) -> bytes:
    """A `.npy` file whose header is that text."""
    content = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(content).to_bytes(2 if version[0] == 1 else 4, "little") + content + body


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    return stream.getvalue()


ARRAYS: dict[str, bytes] = {
    "huge": header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({HUGE},), }}"),
    "product": header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({HUGE}, {HUGE}, {HUGE}), }}"),
    "negative": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
    "two negatives": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }"),
    "no size": header(f"{{'descr': '<U0', 'fortran_order': False, 'shape': ({HUGE},), }}", body=b""),
    "no stride": header(f"{{'descr': '|V0', 'fortran_order': False, 'shape': ({HUGE},), }}", body=b""),
    "wide": header(f"{{'descr': '<U{1 << 28}', 'fortran_order': False, 'shape': (4,), }}"),
    "short": header("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }"),
    "long": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", body=b"\0" * 16),
    "object": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
    "object inside": header("{'descr': [('a', '<f8'), ('b', '|O')], 'fortran_order': False, 'shape': (1,), }"),
    "pickled": pickled(),
    "a program": header("__import__('os').system('true')"),
    "deep": header("{'descr': " + "(" * 3000 + ")" * 3000 + ", 'fortran_order': False, 'shape': (1,), }"),
    "long header": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), " + " " * 60_000 + "}"),
    "long header, format 2": header("{'descr': '<f8', 'shape': (1,), }" + " " * (1 << 20), version=b"\x02\x00"),
    "format 9": header("{}", version=b"\x09\x00"),
    "no type": header("{'descr': 'nothing', 'fortran_order': False, 'shape': (1,), }"),
    "nothing": b"",
    "cut off": b"\x93NUMPY\x01\x00\xff\xff",
}


def archive(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return path


def lying(path: Path) -> Path:
    """An archive whose directory says that its one array has 2 GiB."""
    content = bytearray(archive(path, {"a.npy": ARRAYS["short"]}).read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 20 : at + 28] = (2 << 30).to_bytes(4, "little") * 2
    path.write_bytes(content)
    return path


def overlapping(path: Path) -> Path:
    """An archive of one large stored entry, which its directory lists a hundred times."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a0.npy", b"\0" * 100_000)
        made.filelist += [made.filelist[0]] * 99
        made.NameToInfo |= {}
    return path


@pytest.fixture
def little() -> Any:
    """Fails a test that made more than 64 MiB of anything."""
    tracemalloc.start()
    yield
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 << 20


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_what_their_headers_say(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(BadInputError, match=r"a\.npy: is not an array") as caught:
        open_array(tmp_path / "a.npy", fix="write it again")
    assert "\n" not in caught.value.message and caught.value.fix == "write it again"
    with pytest.raises(BadInputError, match="is not an archive of arrays"):
        read_archive(archive(tmp_path / "a.npz", {"a.npy": content}), fix="write it again")


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize(
    "make",
    [
        lambda path: archive(path, {"a.npy": b"\0" * (256 << 20)}, zipfile.ZIP_DEFLATED),
        lambda path: archive(path, {"a.npy": b"\0" * 100}, zipfile.ZIP_LZMA),
        lying,
        overlapping,
        lambda path: archive(path, {f"{n}.npy": b"" for n in range(1000)}),
        lambda path: path.write_bytes(b"PK\x05\x06" + b"\0" * 18) and path.write_bytes(b"no archive"),
    ],
    ids=["deflated", "lzma", "lying", "overlapping", "empty entries", "none"],
)
def test_archives_hold_no_more_than_they_are_long(make: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    make(path)
    tracemalloc.reset_peak()
    with pytest.raises(BadInputError, match="is not an archive of arrays"):
        read_archive(path, fix="x")
    with pytest.raises(BadInputError, match=r"checkpoint\.npz: is not an archive of arrays"):
        RunFolder(tmp_path).restore()


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    kept = {"a/0": np.arange(6.0).reshape(2, 3), "b": np.array(3), "empty": np.zeros((0, 4), np.float32)}
    kept |= {"names": np.array(["x", "yy"]), "turned": np.asfortranarray(np.arange(6).reshape(2, 3))}
    np.savez(tmp_path / "a.npz", **kept)
    found = read_archive(tmp_path / "a.npz", fix="x")
    assert sorted(found) == sorted(kept)
    for name, array in kept.items():
        np.testing.assert_array_equal(found[name], array)
        np.save(tmp_path / "one.npy", array)
        np.testing.assert_array_equal(open_array(tmp_path / "one.npy", fix="x"), array)


def test_deep_json_is_no_json() -> None:
    for depth in (DEEPEST + 1, 1_000, 100_000):
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            for given in (text, text.encode()):
                with pytest.raises(ValueError, match="nested too deeply"):
                    json_value(given)
    wide = json.dumps([{"a": [n]} for n in range(1000)])
    assert json_value(wide)[999] == {"a": [999]} and json_value("[" * 100 + "]" * 100)
    with pytest.raises(ValueError, match="digits"):
        json_value("1" * 100_000)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 1_500 + "1" + "}" * 1_500], ids=["cut off", "whole"])
def test_files_with_deep_json_end_in_a_line(text: str, tmp_path: Path) -> None:
    for name in ("summary.json", "rounds.jsonl", "point.json"):
        (tmp_path / name).write_text(text + "\n")
    for read in (RunFolder(tmp_path).summary, RunFolder(tmp_path).rounds, RunFolder(tmp_path).point):
        with pytest.raises(PipelineError, match=str(tmp_path)):
            read()
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(BadInputError, match=r"history\.json: it cannot be read"):
        PrivacyHistory.load(tmp_path / "history.json")


@pytest.mark.usefixtures("little")
def test_a_history_inside_of_a_model_is_no_bomb(tmp_path: Path) -> None:
    import h5py

    bomb = archive(tmp_path / "a.keras", {"privacy_history.json": b" " * (256 << 20)}, zipfile.ZIP_DEFLATED)
    with h5py.File(tmp_path / "a.h5", "w") as file:  # 8 TiB that take no place in the file
        file.create_dataset("privacy_history", shape=(HUGE,), dtype="f8", chunks=(1024,), fillvalue=0)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("privacy_history", data=7)
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    tracemalloc.reset_peak()
    for path in (bomb, tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "endless.json"):
        with pytest.raises(BadInputError, match=path.name):
            saved_history.read(path)


@pytest.mark.usefixtures("little")
def test_a_small_gzip_file_holds_no_huge_record(tmp_path: Path) -> None:
    start = struct.pack("<Q", tfrecord.LARGEST_RECORD + 1)
    path = tmp_path / "a.tfrecord.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(start + struct.pack("<I", tfrecord.masked_crc32c(start)))
        for _ in range(64):
            stream.write(b"\0" * (1 << 20))
    with pytest.raises(BadInputError, match="record 1 has"):
        tfrecord.count_records(file=path)


# Where bytes of files and peers become values: each kind has one home, or reads what its own process wrote.
HOMES = {
    "json.loads": {
        "files/bounded.py": "the home",
        "backends/isolated/frames.py": "bounds its header, and catches what is nested",
        "backends/isolated/child.py": "its task, from its parent",
        "backends/isolated/crossing/layer_configs.py": "what it has just dumped",
        "backends/isolated/crossing/trace.py": "what Keras has just dumped; inside of the jail",
        "encrypted/worker": "its job, from its parent; imports nothing of ours",
        "pipelines/registration/count_rows.py": "the answer of its own process",
        "components": "properties that the pipeline was compiled with",
        "releases/beam_sums.py": "what its own stage wrote",
    },
    "np.load": {"files/bounded_arrays.py": "the home", "encrypted/worker": "its job, from its parent"},
    "pickle.loads": {
        "data/datasets/panels.py": "compared with a checksum",
        "backends/tuning.py": "",
        "backends/trials.py": "",
        "files/read_once.py": "of its parent",
    },
    "zipfile.ZipFile": {
        "files/bounded_arrays.py": "",
        "encrypted/model/weights_file.py": "",
        "dp/history/saved_history.py": "bounded",
    },
}


@pytest.mark.parametrize("called", HOMES)
def test_each_kind_of_reader_has_one_home(called: str) -> None:
    found = {file for package in PACKAGES for file in dotted_names(package).get(called, ())}
    assert found
    assert not {name for name in found if not any(name.startswith(home) for home in HOMES[called])}


def test_no_other_reader_of_archives_or_code_is_used() -> None:
    odd = {"tarfile", "shelve", "marshal", "dill", "cloudpickle", "joblib"}
    for package in PACKAGES:
        assert not {f"import {name}" for name in odd} & set(dotted_names(package))
