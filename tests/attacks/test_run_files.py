"""Names, flipped bits, a second run and kills, against the files of a run."""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from flwr.app import Message

from common import messages
from common.adapter import Adapter, load_adapter, save_adapter
from common.errors import UserError
from common.files import write_text
from server_app.checkpoint import load_checkpoint
from tests.attacks.kit import Ended, federate, says, three
from tests.strategies.fakes import FakeSite, random_adapter, same_bits

NAMES = {
    "28 kanji": "東京大学医学部附属病院循環器内科心臓磁気共鳴画像研究班第一室",
    "100 umlauts": "ü" * 100,
    "mathtext": "Hôpital $\\frac{$",
    "escape": "\x1b]0;pwned\x07",
    "newline": "A\nB",
    "10^5 letters": "x" * 10**5,
    "path": "../../x",
    "dots": "..",
    "script": "<script>alert(1)</script>",
    "formula": "=cmd|' /C calc'!A0",
    "direction": "a\u202eb",
    "half a character": "\ud800",
}
FLIPS = 200
KILLS = 6


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_does_not_end_the_run(tmp_path: Path, name: str) -> None:
    """Call a site by a name of any script or length: the run ends, in its own folder."""
    sites = {1: FakeSite("A"), 2: FakeSite("B"), 3: FakeSite(name)}
    ended = federate(sites, tmp_path / "deep" / "run", rounds=1, plots=True)
    assert ended.error is None
    assert ended.result()
    assert [path.name for path in tmp_path.rglob("*") if path.parent in (tmp_path,)] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]
    for path in (tmp_path / "deep" / "run").rglob("*.json*"):
        assert "\x1b" not in path.read_text("utf-8")


def test_a_flipped_bit_of_the_state_is_seen(tmp_path: Path) -> None:
    """Flip single bits of the state that a run resumes from: every one is seen."""
    ended = federate(three(), tmp_path / "run", rounds=1)
    path = max(ended.folder.glob("checkpoint*.safetensors"))
    for data in flipped(path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError):
            load_checkpoint(path)


def test_a_flipped_bit_of_the_result_is_seen(tmp_path: Path) -> None:
    """Flip single bits of the result: none changes a value, and most are seen."""
    ended = federate(three(), tmp_path / "run", rounds=1)
    path = ended.folder / "adapter.safetensors"
    good, seen = load_adapter(path)[0], 0
    for data in flipped(path.read_bytes()):
        path.write_bytes(data)
        try:  # a flip in the name of the SHA-256 alone leaves an adapter as other programs write it
            assert same_bits(load_adapter(path)[0], good)
        except UserError:
            seen += 1
    assert seen > 0.9 * FLIPS


def flipped(good: bytes) -> Iterator[bytes]:
    """Yield a file with one bit flipped, each time another."""
    random = Random(0)  # noqa: S311
    for _ in range(FLIPS):
        data = bytearray(good)
        data[random.randrange(len(good))] ^= 1 << random.randrange(8)
        yield bytes(data)


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    """Start a run where one goes on: refused, and the first ends as if nothing had been."""
    second: list[Ended] = []

    def begin(_message: Message, reply: Message) -> Message:
        second.append(federate({1: FakeSite("P"), 2: FakeSite("Q")}, tmp_path / "run", sites=2))
        return reply

    first = federate(three(faults={(2, messages.VALIDATE): begin}), tmp_path / "run")
    assert isinstance(second[0].error, UserError)
    assert first.error is None
    assert {site for line in first.history() for site in line["sites"]} == {"A", "B", "Z"}
    assert first.same_result(federate(three(), tmp_path / "other"))


def test_a_run_that_cannot_begin_removes_nothing(tmp_path: Path) -> None:
    """Start a run that no site joins over a finished one: its result stays."""
    ended = federate(three(), tmp_path / "run", rounds=1)
    before = (tmp_path / "run" / "adapter.safetensors").read_bytes()
    unwilling = FakeSite("A", faults={(0, messages.DESCRIBE): says("no")})
    assert federate({1: unwilling}, tmp_path / "run").error is not None
    assert (ended.folder / "adapter.safetensors").read_bytes() == before


def write_for_ever(told: int, adapter: Path, text: Path, one: Adapter, two: Adapter) -> None:
    """Replace both files again and again, and say so after the first."""
    try:
        while True:
            save_adapter(one, adapter)
            write_text(text, "a" * 100_000)
            os.write(told, b"x")
            save_adapter(two, adapter)
            write_text(text, "b" * 100_000)
    finally:
        os._exit(1)


def test_kills_leave_whole_files(tmp_path: Path) -> None:
    """Kill a process while it writes: what is there is the old file or the new one."""
    one, two = random_adapter(1, 256), random_adapter(2, 256)
    adapter, text = tmp_path / "x.safetensors", tmp_path / "t.json"
    random = Random(0)  # noqa: S311
    for _ in range(KILLS):
        begun, told = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            child = os.fork()
        if not child:
            write_for_ever(told, adapter, text, one, two)
        os.read(begun, 1)
        time.sleep(random.random() / 20)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(begun)
        os.close(told)
        found, _ = load_adapter(adapter)
        assert same_bits(found, one) or same_bits(found, two)
        assert text.read_text() in ("a" * 100_000, "b" * 100_000)
