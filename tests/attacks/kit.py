"""What the attacks share: a hospital above every cohort, and a scripted federation.

:class:`Hospital` answers as ``rate-my-lora join`` does, within a run that the site approved.
:func:`federate` is a coordinator's run with scripted sites of :mod:`tests.strategies.fakes`.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from client_app.app import answer
from client_app.settings import SiteSettings
from client_app.site import open_site
from common import lora, messages, records
from common.adapter import Adapter, load_adapter
from common.config import RunConfig
from common.model import build_unet, save_base, skeleton
from common.options import Value
from server_app.run import run
from strategies.aggregation import Shapes
from tests.cardiac.samples import TINY, write_case, write_table
from tests.strategies.fakes import SHAPES, FakeGrid, FakeSite, Fault

SITE = "Siemens"
PATIENTS = 30
"""Of the hospital; enough for 20 to train, 5 to validate and 5 to test with."""
DISEASES = ("NOR", "HCM", "LV", "ARR", "FALL", "CIA", "TRI")
FEATURES = (4, 8, 8, 8, 8, 4)
RANK = 4


def disease(patient: int) -> str:
    """Return the diagnosis of a patient of the hospital."""
    return DISEASES[patient * patient % len(DISEASES)]


def write_hospital(folder: Path, patients: int = PATIENTS) -> Path:
    """Write the patients 001, 002 … in the layout of M&Ms-2, and the base model beside them."""
    rows = []
    for number in range(1, patients + 1):
        rows.append({"SUBJECT_CODE": str(number), "VENDOR": SITE, "DISEASE": disease(number)})
        for frame in ("ED", "ES"):
            write_case(folder / "data", patient=f"{number:03d}", frame=frame, slices=2)
    write_table(folder / "data", rows)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_base(build_unet(FEATURES), folder / "base.safetensors")
    return folder


class Hospital:
    """A deployed site's app behind its guard.

    Parameters
    ----------
    source
        Where :func:`write_hospital` wrote its patients.
    folder
        For its cache, its audit log and what it keeps of a run.
    settings
        Of the site; those of ``deploy/site.example.toml`` where nothing is said.
    """

    def __init__(self, source: Path, folder: Path, **settings: Value) -> None:
        self.data, self.base = source / "data", source / "base.safetensors"
        self.folder = folder
        self.cache, self.audit = folder / "cache", folder / "audit.jsonl"
        self.node: dict[str, Value] = {
            "site": SITE,
            "data-dir": str(self.data),
            "base-model": str(self.base),
            "cache-dir": str(self.cache),
            "audit-log": str(self.audit),
            "max-rank": 32,
            "max-local-epochs": 2,
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        if "approve" in {field.name for field in fields(SiteSettings)}:
            self.node.setdefault("approve", "any")
        self.flower_run, self.run_id = 1, "run1"
        open_site.cache_clear()

    def new_run(self) -> None:
        """Let all that follows belong to another run."""
        self.flower_run += 1
        self.run_id = f"run{self.flower_run}"

    def context(self) -> Context:
        """Return what Flower hands to the app."""
        return Context(self.flower_run, 7, dict(self.node), RecordDict(), {})

    def message(
        self,
        kind: str,
        adapter: Adapter | None = None,
        *,
        server_round: int | None = None,
        arrays: Mapping[str, ArrayRecord] | None = None,
        **config: object,
    ) -> Message:
        """Return a request as a coordinator would send it that writes what it likes.

        Parameters
        ----------
        adapter
            Goes with a request to train, validate or test.
        server_round
            The first round where the kind has one; for a test the last.
        arrays
            Records beside or in place of the adapter.
        config
            Goes into the message unchecked; underscores stand for hyphens.
        """
        plain = RunConfig.from_flat(TINY)
        default = {messages.DESCRIBE: 0, messages.TEST: plain.federation.rounds}.get(kind, 1)
        made = messages.REQUESTS.get(kind, messages.Describe)(
            plain,
            self.run_id,
            server_round=default if server_round is None else server_round,
            site_rank=adapter.rank if adapter else 0,
            run_rank=adapter.rank if adapter else 0,
            adapter=records.adapter_to_record(adapter) if adapter else None,
        )
        content = made.to_record()
        for key, value in config.items():
            content.config_records[messages.CONFIG][key.replace("_", "-")] = value  # type: ignore[assignment]
        for key, record in (arrays or {}).items():
            content[key] = record
        return Message(content, dst_node_id=7, message_type=kind)

    def send(self, message: Message) -> Message:
        """Return the site's answer to a message, as `join` gives it."""
        return answer(message, self.context())

    def ask(self, kind: str, adapter: Adapter | None = None, /, **more: Any) -> Message:
        """Send what :meth:`message` returns."""
        return self.send(self.message(kind, adapter, **more))

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the audit log."""
        text = self.audit.read_text("utf-8") if self.audit.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]

    def logged(self, kind: str) -> int:
        """Return how many requests of a kind are in the audit log."""
        return sum((line["direction"], line["kind"]) == ("in", kind) for line in self.log())


def start(rank: int = RANK) -> Adapter:
    """Return an adapter for the hospital's base model that changes nothing."""
    return lora.initial_adapter(lora.layer_shapes(skeleton(FEATURES)), rank, 1.0, seed=1)


def refusal(reply: Message) -> str:
    """Return the sentence in which a site declines; empty where it answers."""
    assert not reply.has_error(), "Flower's own error text left the site"
    failure = messages.Failure.found_in(reply.content)
    return "" if failure is None else failure.reason


def metrics(reply: Message) -> dict[str, Any]:
    """Return the numbers of a reply; empty where the site declines."""
    found = reply.content.metric_records.get(messages.METRICS, MetricRecord())
    return dict(found)


@dataclass
class Ended:
    """How a coordinator's run ended, and the files that it left."""

    folder: Path
    error: BaseException | None

    def history(self) -> list[dict[str, Any]]:
        """Return its rounds."""
        path = self.folder / "history.jsonl"
        text = path.read_text("utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]

    def refused(self) -> dict[tuple[int, str, str], str]:
        """Return the reasons by (round, site, phase)."""
        return {
            (line["round"], one["site"], one["phase"]): one["reason"]
            for line in self.history()
            for one in line["refused"]
        }

    def result(self) -> dict[str, Tensor]:
        """Return the tensors of the run's adapter."""
        return load_adapter(self.folder / "adapter.safetensors")[0].tensors()

    def same_result(self, other: "Ended") -> bool:
        """Whether two runs ended with the same adapter, to the last bit."""
        one, two = self.result(), other.result()
        return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


def federate(
    sites: Mapping[int, FakeSite] | FakeGrid,
    run_dir: Path,
    /,
    *,
    plots: bool = False,
    **keys: Value,
) -> Ended:
    """Run a coordinator's whole run, its files too, with scripted sites by node.

    ``keys`` are of the run; three rounds of equal rank 4 where nothing is said. Plots, which take
    most of its time, are only made with ``plots``.
    """
    flat: dict[str, Value] = {"rank": RANK, "ranks": "equal", "rounds": 3, "wait-s": 1}
    flat |= {"run-dir": str(run_dir), "device": "cpu", "features": TINY["features"]}
    flat.update({key.replace("_", "-"): value for key, value in keys.items()})
    grid = sites if isinstance(sites, FakeGrid) else FakeGrid(sites)
    error: BaseException | None = None
    with (
        mock.patch.object(lora, "layer_shapes", return_value=SHAPES),
        mock.patch.object(Shapes, "of", return_value=Shapes(SHAPES, {})),
        nullcontext() if plots else mock.patch("server_app.run.plot_rounds"),
    ):
        try:
            run(grid, RunConfig.from_flat(flat))
        except Exception as found:
            error = found
    return Ended(run_dir, error)


def three(**bad: Any) -> dict[int, FakeSite]:
    """Return two honest sites, A and B, and the site Z with what is said of it."""
    return {1: FakeSite("A"), 2: FakeSite("B"), 3: FakeSite(**{"name": "Z", **bad})}


def always(kind: str, fault: Fault, rounds: int = 40) -> dict[tuple[int, str], Fault]:
    """Return the faults of a site that answers a kind of request so in every round."""
    return {(server_round, kind): fault for server_round in range(rounds)}


def changed(change: Any) -> Fault:
    """Return the fault of a site whose good reply ``change`` alters before it leaves."""

    def fault(_message: Message, reply: Message) -> Message:
        change(reply.content)
        return reply

    return fault


def says(text: str) -> Fault:
    """Return the fault of a site that answers with an error text."""

    def fault(message: Message, _reply: Message) -> Message:
        config = ConfigRecord({messages.ERROR: text})
        return Message(RecordDict({messages.CONFIG: config}), reply_to=message)

    return fault


def silent(_message: Message, _reply: Message) -> None:
    """Answer nothing."""
