"""A coordinator that writes into its messages what it likes, to end a site or fill its machine."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.common import Array
from safetensors.torch import save

from benchmarks.shared import peak, reset_peak
from client_app import runner
from common import messages, records
from tests.attacks.kit import Hospital, metrics, refusal, start

MIB = 2**20
NUMBERS = (-1, 2**31 - 1, 2**40, 10**9)


def counts(hospital: Hospital, **keys: object) -> tuple[str, int | None]:
    """Return what a new run learns by asking who the site is: a refusal, or a number of cases."""
    hospital.new_run()
    reply = hospital.ask(messages.DESCRIBE, **keys)
    return refusal(reply), metrics(reply).get("val-cases")


def test_no_memory_is_taken_for_another_network(hospital: Hospital) -> None:
    """Ask for a network of gigabytes: declined before a byte of it is taken."""
    counts(hospital)
    before = reset_peak()
    sentence, _ = counts(hospital, features="32,64,2048,2048,2048,32")
    assert sentence
    assert peak() - before < 200 * MIB


def test_the_disk_does_not_fill_with_prepared_volumes(hospital: Hospital) -> None:
    """Ask with ever other spacings, also tiny ones: the cache stays bounded."""

    def size() -> int:
        return sum(path.stat().st_size for path in hospital.cache.rglob("*") if path.is_file())

    counts(hospital)
    one = size()
    for step in range(1, 7):
        counts(hospital, spacing_mm=4.0 + step / 1000)
    assert size() < 5 * one
    for spacing in (0.1, 0.01, 1e-9, -1.0):
        assert counts(hospital, spacing_mm=spacing)[0]
    assert size() < 5 * one


@pytest.mark.parametrize("key", ["profile", "run-dir", "preset", "unheard-of", "cache-dir"])
def test_the_audit_log_does_not_fill(hospital: Hospital, key: str) -> None:
    """Send texts of megabytes: a line of the audit log is bounded."""
    hospital.ask(messages.DESCRIBE)
    before = hospital.audit.stat().st_size
    hospital.ask(messages.DESCRIBE, **{key: "x" * 10_000_000})
    assert 0 < hospital.audit.stat().st_size - before < 100_000


def test_names_of_keys_do_not_fill_the_audit_log(hospital: Hospital) -> None:
    """Send ten thousand keys and keys of megabytes: refused, and a line says so."""
    many = {f"key-{number}": "x" * 100 for number in range(10_000)}
    assert refusal(hospital.ask(messages.DESCRIBE, **many, **{"y" * 5_000_000: 1}))
    assert hospital.logged(messages.DESCRIBE) == 1
    assert hospital.audit.stat().st_size < MIB


@pytest.mark.parametrize("threads", [300, *NUMBERS])
def test_threads_are_the_sites_own(hospital: Hospital, threads: int) -> None:
    """Ask for a billion threads: their number is no business of a run."""
    before = torch.get_num_threads()
    hospital.ask(messages.DESCRIBE, threads=threads)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("rank", [65, *NUMBERS])
@pytest.mark.parametrize("sends", ["all", "none"])
def test_ranks_stay_within_the_sites_limit(hospital: Hospital, rank: int, sends: str) -> None:
    """Ask for rank 65, −1 or 2⁴⁰ where 32 is the most: nothing is trained."""
    keys = {"sends": sends, "merge": "pad", "rating": "none"} if sends == "none" else {}
    reply = hospital.ask(messages.TRAIN, **{"site-rank": rank, "run-rank": 65}, **keys)
    assert refusal(reply)
    assert not reply.content.metric_records


@pytest.mark.parametrize("key", ["server-round", "folds", "held", "run-rank"])
@pytest.mark.parametrize("value", [-1, 2**62, 1e300, True, "1", [1]])
def test_numbers_of_a_message_have_a_range(hospital: Hospital, key: str, value: object) -> None:
    """Send round 10⁹ and the like: declined, and the site answers the next request."""
    assert refusal(hospital.ask(messages.TRAIN, start(), **{key: value}))
    assert not refusal(hospital.ask(messages.TRAIN, start()))


@pytest.mark.parametrize(
    "kind", ["train.other", "query", "evaluate.describe", "nonsense", "x" * 999]
)
def test_an_unknown_message_does_not_end_join(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Send a message of a type that nobody knows: answered, logged, and `join` goes on."""
    sent = serve(
        hospital, monkeypatch, [hospital.message(kind), hospital.message(messages.DESCRIBE)]
    )
    assert len(sent) == 2
    assert refusal(sent[0])
    assert not refusal(sent[1])
    assert sum(line["direction"] == "in" for line in hospital.log()) == 2


def serve(hospital: Hospital, monkeypatch: pytest.MonkeyPatch, came: list[Any]) -> list[Any]:
    """Let a runner serve messages as `join` does; return its answers."""
    version = metadata.version(runner.PACKAGE)
    run = SimpleNamespace(run_id=1, fab_id=f"x/{runner.PACKAGE}", fab_version=version)
    sent: list[Any] = []
    waiting = iter(came)
    client = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(runner, "runtime_client", lambda *_: client)
    monkeypatch.setattr(runner, "HeartbeatSender", lambda _: SimpleNamespace(start=int, stop=int))
    monkeypatch.setattr(runner, "acquire_task", lambda _: "token")
    monkeypatch.setattr(runner, "pull_task", lambda _: (next(waiting), hospital.context(), run))
    monkeypatch.setattr(runner, "push_answer", lambda _, reply, __: sent.append(reply))
    turns = iter([True] * len(came))
    runner.Runner("127.0.0.1:1").serve(lambda: next(turns, False))
    return sent


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("code-was-run"),))


def safetensors(header: object, body: bytes = b"", size: int | None = None) -> bytes:
    """Return a safetensors file with this header."""
    text = header if isinstance(header, bytes) else repr(header).replace("'", '"').encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def numpy_file(descr: str, shape: str) -> bytes:
    """Return the header of a numpy file."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped() -> bytes:
    """Return a numpy archive with a pickle in it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.npy", pickle.dumps(Code()))
    return packed.getvalue()


def tensor(dtype: str = "F32", shape: list[int] | None = None, end: int = 4) -> dict[str, object]:
    """Return a tensor's entry in a safetensors header."""
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": [0, end]}


PACKED: dict[str, bytes] = {
    "header beyond the file": safetensors({}, size=2**62),
    "deep nesting": safetensors(b'{"a":' * 100_000 + b"}" * 100_000),
    "overlapping": safetensors({"a": tensor(), "b": tensor()}, bytes(4)),
    "huge shape": safetensors({"a": tensor(shape=[2**40, 2**40])}, bytes(4)),
    "zero by 2^62": safetensors({"a.lora_A": tensor(shape=[0, 2**62], end=0)}),
    "float8": safetensors({"a": tensor("F8_E4M3", [4])}, bytes(4)),
    "empty": b"",
    "pickle": pickle.dumps(Code()),
}
RAW: dict[str, bytes] = {
    "pickle as an array": pickle.dumps(Code()),
    "objects": numpy_file("|O", "(1,)") + pickle.dumps(Code()),
    "archive": zipped(),
    "2^40 bytes": numpy_file("|u1", "(1099511627776,)"),
    "negative shape": numpy_file("|u1", "(-1,)"),
    "deep header": numpy_file("|u1", "(" * 5000 + ")" * 5000),
}


def hostile_arrays() -> Iterator[Any]:
    """Yield what comes in an adapter's place."""
    for name, data in PACKED.items():
        array = Array(np.frombuffer(data, np.uint8))
        yield pytest.param(ArrayRecord({records.PACKED: array}), id=name)
    for name, data in RAW.items():
        array = Array("uint8", (1,), "numpy.ndarray", data)
        yield pytest.param(ArrayRecord({records.PACKED: array}), id=name)
    yield pytest.param(ArrayRecord({}), id="nothing")
    one = Array(np.zeros(1, np.uint8))
    yield pytest.param(ArrayRecord({records.PACKED: one, "b": one}), id="two arrays")
    yield pytest.param(ArrayRecord({"other": one}), id="other name")


@pytest.mark.parametrize("arrays", [*hostile_arrays()])
def test_hostile_bytes_are_no_adapter(
    hospital: Hospital, arrays: ArrayRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Send pickles, bombs and nonsense in an adapter's place: refused, no code is run."""
    monkeypatch.chdir(tmp_path)
    before = reset_peak()
    asked = {"site-rank": 4, "run-rank": 4}
    assert refusal(hospital.ask(messages.VALIDATE, arrays={messages.ADAPTER: arrays}, **asked))
    assert peak() - before < 300 * MIB
    assert not list(tmp_path.rglob("code-was-run"))
    assert hospital.logged(messages.VALIDATE) == 1


def test_a_hundred_thousand_tensors_are_cheap(hospital: Hospital) -> None:
    """Send a hundred thousand empty tensors: refused, and the log stays small."""
    packed = save({f"t{number}": torch.zeros(0) for number in range(100_000)})
    array = Array(np.frombuffer(packed, np.uint8))
    arrays = {messages.ADAPTER: ArrayRecord({records.PACKED: array})}
    asked = {"site-rank": 4, "run-rank": 4}
    assert refusal(hospital.ask(messages.VALIDATE, arrays=arrays, **asked))
    assert hospital.audit.stat().st_size < 4 * MIB


def test_an_adapter_larger_than_it_can_be_is_not_opened(hospital: Hospital) -> None:
    """Send 64 MiB where kilobytes are due: refused without a copy of it."""
    big = records.tensors_to_record({"conv_0.conv_0.conv.lora_A": torch.zeros(16 * MIB)})
    asked = {"site-rank": 4, "run-rank": 4}
    before = reset_peak()
    assert refusal(hospital.ask(messages.VALIDATE, arrays={messages.ADAPTER: big}, **asked))
    assert peak() - before < 100 * MIB


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_values_that_poison_are_refused(hospital: Hospital, value: float) -> None:
    """Send an adapter with NaN, infinity or 10³⁰: refused."""
    adapter = start()
    first = next(iter(adapter.layers.values()))
    first.A[0, 0] = value
    assert refusal(hospital.ask(messages.TRAIN, adapter))
