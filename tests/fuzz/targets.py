"""The parsers that read what came from elsewhere, each with good inputs to damage.

A target prepares a folder and returns two functions: one makes a damaged input, the other has the
product read it. The reader may return, or raise the errors that are given beside the target.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import tomli_w
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common import Array
from safetensors.torch import save

from cardiac.datasets import read_cases
from cardiac.nifti import read_stack
from cardiac.preprocessing import load_volume, volumes
from client_app.audit import read_audit
from client_app.audit_summary import summarise
from client_app.connection import read_site
from client_app.guard import check_reply
from client_app.memory import Memory
from client_app.site import Site
from common import messages, records
from common.adapter import load_adapter, save_adapter
from common.config import RunConfig
from common.errors import UserError
from common.messages import ReplyError
from common.model import build_unet, load_base, save_base
from common.options import read_toml
from common.peft_format import load_peft, save_peft
from common.tensor_files import read_tensors, write_tensors
from results.run_reader import read_run
from results.watch import take_snapshot, view
from server_app.checkpoint import load_checkpoint, save_checkpoint
from server_app.run_dir import RunDir
from strategies.state import RunState
from tests.attacks.kit import FEATURES, Hospital, start, write_hospital
from tests.cardiac.samples import write_case, write_table
from tests.cardiac.test_described import write_listed, write_raw
from tests.cardiac.test_mnms import INDEX, write_mnms
from tests.fuzz.mutators import TEXTS, damaged, strange_json, strange_record
from tests.results.report_samples import make_run, write_run
from tests.strategies.fakes import SHAPES, random_adapter

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[[Random], Any]
Read = Callable[[Any], object]


@dataclass(frozen=True)
class Target:
    """A parser."""

    prepare: Callable[[Path], tuple[Make, Read]]
    ours: tuple[type[Exception], ...]
    """The errors that it documents."""
    waits: str = ""
    """Why it does not withstand yet."""


TARGETS: dict[str, Target] = {}


def target(
    *ours: type[Exception], waits: str = ""
) -> Callable[[Callable[[Path], tuple[Make, Read]]], None]:
    """Add a function to the targets under its name."""

    def add(prepare: Callable[[Path], tuple[Make, Read]]) -> None:
        TARGETS[prepare.__name__.replace("_", " ")] = Target(prepare, ours, waits)

    return add


def in_file(path: Path, read: Callable[[], object], *more: bytes) -> tuple[Make, Read]:
    """Damage the bytes of a good file, or ``more`` of its kind."""
    good = [path.read_bytes(), *more]

    def read_bytes(data: bytes) -> object:
        path.write_bytes(data)
        return read()

    return lambda random: damaged(good, random), read_bytes


def in_json(path: Path, good: Any, read: Callable[[], object]) -> tuple[Make, Read]:
    """Put strange values into good JSON; a list of values stands for one line each."""

    def make(random: Random) -> str:
        if random.random() < 0.3:
            text = json.dumps(good).encode()
            return damaged([text], random).decode("utf-8", "replace")
        if not isinstance(good, list):
            return strange_json(good, random)
        texts = [json.dumps(one) for one in good]
        at = random.randrange(len(good))
        texts[at] = strange_json(good[at], random)
        return "\n".join(texts) + "\n"

    def read_text(text: str) -> object:
        path.write_text(text, "utf-8")
        return read()

    return make, read_text


# Messages


@target(UserError)
def requests(folder: Path) -> tuple[Make, Read]:
    """Let a site read the server's messages."""
    good = requests_of(folder)

    def read(message: Message) -> None:
        request = messages.read_request(message)
        assert abs(request.site_rank) < 10**6
        assert request.server_round < 10**9

    return lambda random: strange_message(good, random), read


@target()
def guard(folder: Path) -> tuple[Make, Read]:
    """Let a whole site answer: nothing is raised, and what it answers may leave."""
    hospital = Hospital(write_hospital(folder), folder)
    good = requests_of(folder)
    hospital.ask(messages.DESCRIBE)
    seen = [0]

    def read(message: Message) -> None:
        late = UserError("there is no time to train")
        with mock.patch.object(Site, "network", side_effect=late), mock.patch("os.fsync"):
            reply = hospital.send(message)
        assert not reply.has_error()
        if messages.Failure.found_in(reply.content) is None:
            request = messages.read_request(message)
            check_reply(request, messages.unsealed(reply.content)[0])
        with hospital.audit.open("rb") as log:
            rotated = log.seek(0, os.SEEK_END) < seen[0]
            log.seek(0 if rotated else seen[0])
            for line in log:
                assert len(line) < 4_000_000
                json.loads(line)
            seen[0] = log.tell()

    return lambda random: strange_message(good, random), read


def requests_of(folder: Path) -> list[Message]:
    """Return a good request of each kind."""
    hospital = Hospital(folder, folder)
    kinds = (messages.TRAIN, messages.VALIDATE, messages.TEST)
    return [hospital.message(messages.DESCRIBE), *(hospital.message(k, start()) for k in kinds)]


def strange_message(good: list[Message], random: Random) -> Message:
    """Return one of the messages with another content, and now and then of another type."""
    message = random.choice(good)
    kind = message.metadata.message_type
    if random.random() < 0.05:
        kind = random.choice(("train.other", "query", "evaluate.test", "query.describe"))
    content = strange_record(message.content, random)
    if random.random() < 0.2:
        data = damaged([save(start().tensors())], random)
        content[messages.ADAPTER] = packed(data)
    return Message(content, dst_node_id=7, message_type=kind)


def packed(data: bytes) -> ArrayRecord:
    """Return bytes in the place of an adapter."""
    return ArrayRecord({records.PACKED: Array(np.frombuffer(data, np.uint8))})


@target(ReplyError)
def replies(folder: Path) -> tuple[Make, Read]:
    """Let the server read the sites' messages."""
    request = Message(RecordDict(), dst_node_id=7, message_type=messages.TRAIN)
    adapter = random_adapter(1, 4)
    scores = dict.fromkeys(messages.SCORES, 0.5)

    def read_adapter(arrays: ArrayRecord | None) -> Any:
        if arrays is None:
            raise ValueError("no adapter")
        return records.record_to_adapter(arrays, 1.0, SHAPES, 4)

    kinds: list[tuple[RecordDict, Callable[[RecordDict], Any]]] = [
        (messages.Description("GE", "a" * 64, 10, train_cases=2).to_record(),
         messages.Description.from_record),
        (messages.Update(adapter, 10, 0.5, 0.1).to_record(),
         lambda content: messages.Update.from_record(content, read_adapter)),
        (messages.Validation(0.5, 2, (0.5, 0.6)).to_record(),
         lambda content: messages.Validation.from_record(content, 2)),
        (messages.TestScores(2, scores).to_record(), messages.TestScores.from_record),
        (messages.Failure(messages.CANNOT, "GE").to_record(), messages.Validation.from_record),
    ]  # fmt: skip

    def make(random: Random) -> Any:
        good, read = random.choice(kinds)
        content = strange_record(good, random)
        if messages.ADAPTER in good and random.random() < 0.4:
            content[messages.ADAPTER] = packed(damaged([save(adapter.tensors())], random))
        return content, read

    def read(made: Any) -> None:
        content, read_content = made
        messages.read_reply(Message(content, reply_to=request), read_content)

    return make, read


@target(ValueError)
def adapters_in_messages(folder: Path) -> tuple[Make, Read]:
    """Read safetensors that a message brings."""
    good = [save(random_adapter(seed, 4).tensors(), {"a": "b"}) for seed in (1, 2)]

    def read(data: bytes) -> None:
        adapter = records.record_to_adapter(packed(data), 1.0, SHAPES, 4)
        assert all(value.isfinite().all() for value in adapter.tensors().values())

    return lambda random: damaged(good, random), read


# Files of tensors


@target(UserError)
def adapter_files(folder: Path) -> tuple[Make, Read]:
    """Read adapters, sealed and of other programs."""
    path = folder / "x.safetensors"
    adapter = random_adapter(1, 4)
    save_adapter(adapter, path, {"site": "GE"})
    return in_file(path, lambda: load_adapter(path), save(adapter.tensors(), {"scale": "1.0"}))


@target(UserError)
def peft_folders(folder: Path) -> tuple[Make, Read]:
    """Read adapters of PEFT."""
    unet = build_unet(FEATURES)
    save_peft(start(), unet, folder)
    path = folder / "adapter_config.json"
    good = json.loads(path.read_text())
    files = [(path, *in_json(path, good, lambda: load_peft(folder)))]
    path = folder / "adapter_model.safetensors"
    files.append((path, *in_file(path, lambda: load_peft(folder))))
    whole = {path: path.read_bytes() for path, *_ in files}

    def make(random: Random) -> Any:
        path, make_one, read_one = random.choice(files)
        return path, make_one(random), read_one

    def read(made: Any) -> None:
        path, data, read_one = made
        try:
            read_one(data)
        finally:
            path.write_bytes(whole[path])

    return make, read


@target(UserError)
def checkpoints(folder: Path) -> tuple[Make, Read]:
    """Read the state that a run resumes from, also where the seal of damaged notes is right."""
    path = folder / "checkpoint.safetensors"
    state = RunState(random_adapter(1, 4), 3, {"GE": 0.5}, {"GE": 4}, run_id="a1")
    save_checkpoint(state, path)
    tensors, notes = read_tensors(path, "a checkpoint", sealed=True)
    make_bytes, read_bytes = in_file(path, lambda: load_checkpoint(path))

    def make(random: Random) -> Any:
        if random.random() < 0.4:
            return make_bytes(random)
        key = random.choice(list(notes))
        damage = damaged([notes[key].encode()], random).decode("utf-8", "replace")
        return {**notes, key: random.choice((damage, *map(str, TEXTS)))}

    def read(made: Any) -> None:
        if isinstance(made, bytes):
            read_bytes(made)
        else:
            write_tensors(path, tensors, made)
            load_checkpoint(path)

    return make, read


@target(UserError)
def base_files(folder: Path) -> tuple[Make, Read]:
    """Read base models."""
    path = folder / "base.safetensors"
    model = build_unet((1, 1, 1, 1, 1, 1))
    save_base(model, path)
    plain = save({name: value.contiguous() for name, value in model.state_dict().items()})
    return in_file(path, lambda: load_base(path, (1, 1, 1, 1, 1, 1)), plain)


@target()
def memory(folder: Path) -> tuple[Make, Read]:
    """Read what a site keeps between rounds: broken files are as none."""
    kept = Memory(folder / "memory" / "run")
    kept.save("own", 3, random_adapter(1, 4).tensors())
    (path,) = kept.folder.glob("*.safetensors")
    return in_file(path, lambda: kept.latest("own", 1, 5))


# A hospital's files


@target(UserError)
def nifti(folder: Path) -> tuple[Make, Read]:
    """Read images as they lie on disk, and packed."""
    case = write_case(folder, size=12, slices=2)
    image = read_stack(case.image).image
    plain = folder / "x.nii"
    image.to_filename(plain)
    make, read = in_file(plain, lambda: read_stack(plain))
    make_packed, read_packed = in_file(case.image, lambda: read_stack(case.image))

    def make_either(random: Random) -> Any:
        return (make(random), read) if random.random() < 0.7 else (make_packed(random), read_packed)

    return make_either, lambda made: made[1](made[0])


@target()
def prepared_volumes(folder: Path) -> tuple[Make, Read]:
    """Read prepared volumes: what is broken is made anew, the same as before."""
    case = write_case(folder, size=12, slices=2)
    cache = folder / "cache"
    good = load_volume(volumes([case], 4.0, cache), 0)
    (path,) = (path for path in cache.rglob("*") if path.is_file())

    def read() -> None:
        found = load_volume(volumes([case], 4.0, cache), 0)
        assert all(torch.equal(found[key], good[key]) for key in good)

    return in_file(path, read)


def table_target(folder: Path, table: Path) -> tuple[Make, Read]:
    """Damage a table of a data folder."""
    return in_file(table, lambda: read_cases(folder))


@target(UserError)
def tables_of_mnms2(folder: Path) -> tuple[Make, Read]:
    """Read dataset_information.csv of M&Ms-2."""
    for patient in ("001", "002", "003"):
        for frame in ("ED", "ES"):
            write_case(folder, size=8, slices=1, patient=patient, frame=frame)
    rows = [{"SUBJECT_CODE": str(n), "VENDOR": "GE", "AGE": "5"} for n in (1, 2, 3)]
    return table_target(folder, write_table(folder, rows))


@target(UserError)
def tables_of_mnms(folder: Path) -> tuple[Make, Read]:
    """Read the index of M&Ms."""
    write_mnms(folder)
    return table_target(folder, folder / INDEX)


@target(UserError)
def tables_of_own(folder: Path) -> tuple[Make, Read]:
    """Read a table that a description names."""
    return table_target(folder, write_listed(folder) / "cases.csv")


@target(UserError)
def descriptions(folder: Path) -> tuple[Make, Read]:
    """Read dataset.toml."""
    return table_target(folder, write_listed(folder) / "dataset.toml")


@target(UserError)
def descriptions_of_nnunet(folder: Path) -> tuple[Make, Read]:
    """Read dataset.json of nnU-Net."""
    raw = write_raw(folder)
    path = raw / "dataset.json"
    good = json.loads(path.read_text())
    return in_json(path, good, lambda: read_cases(raw))


@target(UserError)
def infos_of_acdc(folder: Path) -> tuple[Make, Read]:
    """Read Info.cfg of ACDC."""
    case = write_case(folder / "made", size=8, slices=1)
    patient = folder / "training" / "patient001"
    patient.mkdir(parents=True)
    for frame in (1, 9):
        stem = patient / f"patient001_frame{frame:02d}"
        stem.with_name(f"{stem.name}.nii.gz").write_bytes(case.image.read_bytes())
        stem.with_name(f"{stem.name}_gt.nii.gz").write_bytes(case.label.read_bytes())
    path = patient / "Info.cfg"
    path.write_text("ED: 1\nES: 9\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    return in_file(path, lambda: read_cases(folder))


@target(UserError)
def site_files(folder: Path) -> tuple[Make, Read]:
    """Read a site's settings."""
    path = folder / "site.toml"
    text = (ROOT / "deploy" / "site.example.toml").read_text("utf-8")
    named = re.compile("^(root-certificates|private-key) = .*$", re.MULTILINE)
    path.write_text("insecure = true\n" + named.sub("", text), "utf-8")
    read_site(path)
    return in_file(path, lambda: read_site(path))


# The files of a run


@target(UserError)
def configurations(folder: Path) -> tuple[Make, Read]:
    """Read config.toml of a run."""
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(RunConfig().to_flat()))
    return in_file(path, lambda: RunConfig.from_flat(read_toml(path), str(path)))


def a_run(folder: Path) -> RunDir:
    """Write a finished run."""
    write_run(make_run(gains={"GE": 0.1, "Siemens": 0.05}, path=folder / "run"))
    return RunDir(folder / "run")


def read_all(run: RunDir) -> None:
    """Read a run as reports, comparisons and `watch` do."""
    found = read_run(run.path)
    found.gains()
    found.seconds()
    for site in found.sites:
        found.series(site, "validation")
        found.trainings(site)
        found.cases(site)
    view(take_snapshot(run.path), run.path)


@target(UserError)
def histories(folder: Path) -> tuple[Make, Read]:
    """Read history.jsonl."""
    run = a_run(folder)
    good = [json.loads(line) for line in run.history.read_text().splitlines()]
    return in_json(run.history, good, lambda: read_all(run))


@target(UserError)
def summaries(folder: Path) -> tuple[Make, Read]:
    """Read summary.json."""
    run = a_run(folder)
    return in_json(run.summary, json.loads(run.summary.read_text()), lambda: read_all(run))


@target()
def states(folder: Path) -> tuple[Make, Read]:
    """Read status.json as `watch` does."""
    run = a_run(folder)
    good = {"rounds": 10, "state": "running", "round": 3, "phase": "train", "started": 1.0}
    good |= {"since": 2.0, "host": "x", "pid": 5, "error": ""}
    return in_json(run.status, good, lambda: view(take_snapshot(run.path), run.path))


# The audit log


@target(UserError)
def audit_logs(folder: Path) -> tuple[Make, Read]:
    """Read audit.jsonl as `audit` does."""
    hospital = Hospital(write_hospital(folder, 3), folder)
    hospital.ask(messages.DESCRIBE)
    hospital.ask(messages.VALIDATE, start())

    def read() -> None:
        summarise(read_audit(hospital.audit))

    byte, line = in_file(hospital.audit, read), in_json(hospital.audit, hospital.log(), read)

    def make(random: Random) -> Any:
        make_one, read_one = random.choice((byte, line))
        return make_one(random), read_one

    return make, lambda made: made[1](made[0])
