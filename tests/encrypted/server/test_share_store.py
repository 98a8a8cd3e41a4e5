"""What a server's store keeps, and what it takes for whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privacy_pipeline.encrypted.model import model_format, shares
from privacy_pipeline.encrypted.server import share_store
from privacy_pipeline.encrypted.server.share_store import Store
from privacy_pipeline.encrypted.transport.frames import BadMessageError
from tests.encrypted.programs.networks import mlp

MODEL = mlp([3, 2, 1])
A, B, C = "a" * 32, "b" * 32, "c" * 32


def bring(store: Store, sharing: str, folder: Path, *, without: str = "") -> None:
    model_format.save(MODEL, folder)
    store.begin_weights(sharing=sharing, architecture=(folder / model_format.ARCHITECTURE).read_bytes())
    for layer in MODEL.layers:
        for role in layer.weights:
            if role != without:
                size = store.weight_bytes(sharing=sharing, layer=layer.name, role=role)
                store.put_weight(sharing=sharing, layer=layer.name, role=role, content=bytes(size))
    store.commit_weights(sharing=sharing)


def put(store: Store, request: str, value: int, rows: int = 1, owner: str = "one") -> None:
    assert store.sharing is not None
    content = shares.to_bytes(np.full((2 * rows, 3), value))
    store.put_request(request, sharing=store.sharing, rows=rows, content=content, owner=owner)


def read(store: Store, stem: Path, number: int) -> list[int]:
    return np.fromfile(shares.half(store.folder / stem, number), "<i8").tolist()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "store")
    bring(found, A, tmp_path / "model")
    return found


def test_another_process_finds_whole_weights_and_no_others(store: Store, tmp_path: Path) -> None:
    again = Store(store.folder)
    assert again.sharing is not None and (again.sharing.identifier, again.sharing.digest) == (A, MODEL.digest())
    next((store.folder / "weights").glob("*~kernel.1")).write_bytes(b"short")
    assert Store(store.folder).sharing is None
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_weights_that_are_not_whole_do_not_replace_those_there_are(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadMessageError, match="not all weights were sent"):
        bring(store, B, tmp_path / "other", without="bias")
    assert store.sharing is not None and store.sharing.identifier == A
    with pytest.raises(BadMessageError, match="other weights are being sent"):
        store.put_weight(sharing=C, layer="dense0", role="kernel", content=b"")
    with pytest.raises(BadMessageError, match="no such weight"):
        store.weight_bytes(sharing=B, layer="../dense0", role="kernel")


def test_a_batch_is_its_requests_in_order_and_zeros(store: Store) -> None:
    put(store, A, 7)
    put(store, B, 5, rows=2)
    assert store.form(C, bucket=4, requests=[(B, 2), (A, 1)]) == []
    for number in range(2):
        assert read(store, shares.input_stem(C, "x"), number) == [5] * 6 + [7] * 3 + [0] * 3
    with pytest.raises(BadMessageError, match="no answer"):
        store.finish(C)
    for number in range(2):
        path = shares.half(store.folder / shares.output_stem(C), number)
        path.write_bytes(shares.to_bytes(np.array([10, 11, 12, 13]) + 100 * number))
    store.finish(C)
    (first, second), (third, _) = store.take(B, owner="one") or ((), ()), store.take(A, owner="one") or ((), ())
    assert (first.tolist(), second.tolist(), third.tolist()) == ([[10], [11]], [[110], [111]], [[12]])
    assert store.take(A, owner="one") is None and not list((store.folder / "batches").iterdir())


def test_requests_that_do_not_fit_make_no_batch(store: Store) -> None:
    put(store, A, 1, rows=3)
    assert store.form(C, bucket=4, requests=[(A, 2), (B, 1)]) == [A, B]
    for requests in ([(A, 3), (A, 3)], [(A, 3)] * 2):
        with pytest.raises(BadMessageError, match="do not make such a batch"):
            store.form(C, bucket=8, requests=requests)
    with pytest.raises(BadMessageError, match="do not make such a batch"):
        store.form(C, bucket=2, requests=[(A, 3)])
    with pytest.raises(BadMessageError, match="no such batch"):
        store.finish(C)


def has_room(store: Store, owner: str, size: int) -> bool:
    try:
        with store.taking(owner) as arrived:
            arrived(size)
    except BadMessageError:
        return False
    return True


def test_no_client_takes_the_room_of_others_and_only_what_came_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_store, "KEEPING_BYTES", 10)
    monkeypatch.setattr(share_store, "LARGEST_WAITING", 400)
    with store.taking("one") as of_one, store.taking("two") as of_two:
        of_one(90)
        with pytest.raises(BadMessageError, match="too many requests of this client wait"):
            of_one(1)
        assert not has_room(store, "one", 0)
        of_two(90)
        assert has_room(store, "three", 90)
        with store.taking("three") as of_three, store.taking("four") as of_four:
            of_three(90)
            of_four(89)
            with pytest.raises(BadMessageError, match="too many requests wait"):
                store.taking("five").__enter__()
    assert has_room(store, "one", 90)  # nothing of it stays counted


def test_an_answer_is_for_the_client_that_asked(store: Store) -> None:
    put(store, A, 1, owner="one")
    store.drop(A, owner="two")
    assert store.form(C, bucket=1, requests=[(A, 1)]) == []
    for number in range(2):
        shares.half(store.folder / shares.output_stem(C), number).write_bytes(shares.to_bytes(np.array([7])))
    store.finish(C)
    store.drop(A, owner="two")
    assert store.take(A, owner="two") is None
    assert store.take(A, owner="one") is not None


def test_a_request_that_was_dropped_meanwhile_has_no_answer(store: Store) -> None:
    put(store, A, 1)
    store.form(C, bucket=1, requests=[(A, 1)])
    store.drop(A, owner="one")
    for number in range(2):
        shares.half(store.folder / shares.output_stem(C), number).write_bytes(shares.to_bytes(np.array([7])))
    store.finish(C)
    assert store.take(A, owner="one") is None


def test_what_nobody_comes_for_is_dropped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, A, 1)
    monkeypatch.setattr(share_store, "KEEPING_BYTES", 0)
    monkeypatch.setattr(share_store, "LARGEST_WAITING", 100)
    assert has_room(store, "two", 25) and not has_room(store, "one", 1)  # 48 bytes of `one` wait
    monkeypatch.setattr(share_store, "KEPT_SECONDS", -1.0)
    assert has_room(store, "one", 25)
    assert store.form(C, bucket=1, requests=[(A, 1)]) == [A]


def test_new_weights_end_the_requests_that_wait(store: Store, tmp_path: Path) -> None:
    put(store, A, 1)
    old = store.sharing
    bring(store, B, tmp_path / "model")
    assert store.form(C, bucket=1, requests=[(A, 1)]) == [A]
    assert old is not None
    with pytest.raises(BadMessageError, match="the model changed"):
        store.put_request(A, sharing=old, rows=1, content=bytes(48), owner="one")
