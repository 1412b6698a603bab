"""The model card says everything that the run's files say, and nothing else."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from cli.export import export
from common import lora
from common.adapter import save_adapter
from common.config import RunConfig
from common.errors import UserError
from common.model import build_unet, file_sha256, save_base
from server_app.run_dir import RunDir
from server_app.summary import summarise
from strategies.state import RoundRecord, RunState
from tests.cardiac.samples import TINY
from tests.conftest import SMALL

RANKS = {"GE": 2, "Philips": 3, "Siemens | new": 3}
STRUCTURES = ("LV", "MYO", "RV", "mean")


def scores(number: int) -> dict[str, float]:
    """Return what a site reports of its final test, with no number twice."""
    found = {"cases": 2.0 + 2 * number}
    for p, part in enumerate(("base", "test")):
        for s, structure in enumerate(STRUCTURES):
            found[f"{part}.dice.{structure}"] = 0.5 + 0.1 * number + 0.04 * p + 0.007 * s
            found[f"{part}.hd95_mm.{structure}"] = 30 + 7.3 * number - 3.1 * p + 1.7 * s
    return found


REPORTS = {name: scores(number) for number, name in enumerate(RANKS)}


def rounds() -> list[RoundRecord]:
    records = [RoundRecord(0)]
    for t in (1, 2):
        record = RoundRecord(t, lambda_t=0.2 * 0.95 ** (t - 1), seconds={"train": 30.0})
        records.append(record)
    for t, record in enumerate(records):
        for number, (name, rank) in enumerate(RANKS.items()):
            record.note(name, validation=0.4 + 0.11 * number + 0.013 * t)
            if t:
                record.note(name, rank=rank, examples=100 + number, penalty=1 - 0.1 * number)
                record.add_bytes(name, up=1000 * rank, down=2001 * rank)
    records[2].refuse("GE", "train", "the adapter is not finite")
    return records


def write_run(
    folder: Path, *, with_summary: bool = True, changes: Mapping[str, Any] | None = None
) -> Path:
    """Write the folder of a run of two rounds, and its base beside it."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build_unet(SMALL)
    base = folder.parent / "base.safetensors"
    sha256 = save_base(net, base)
    flat = {**TINY, "base-model": str(base), "base-sha256": sha256, "lambda-0": 0.2}
    config = RunConfig.from_flat({**flat, "run-dir": str(folder), **(changes or {})})
    run = RunDir(folder)
    adapter = lora.initial_adapter(lora.layer_shapes(net), 3, 1.0, 0)
    save_adapter(adapter, run.adapter, {"base-sha256": sha256})
    run.config.write_text(tomli_w.dumps(config.to_flat()))
    for record in rounds():
        run.save_round(RunState(adapter, record.server_round), record)
    if with_summary:
        summary = summarise("rate-my-lora", run.read_history(), REPORTS, 10_000)
        refused = [{"site": "GE", "phase": "test", "reason": "too late"}]
        run.write_summary({**summary, "refused": refused})
    return folder


def card(run: Path, out: Path) -> str:
    export(out, run=run, formats=["safetensors", "peft"])
    return (out / "MODEL_CARD.md").read_text()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run 7")


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its first two lines."""
    section = text.split(f"## {heading}")[1].split("\n## ", maxsplit=1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def shown(name: str) -> str:
    return name.replace("|", "\\|")


def test_the_card_names_every_site_with_rank_slices_and_cases(run: Path, tmp_path: Path) -> None:
    found = rows(card(run, tmp_path / "out"), "Data and sites")
    assert found == [
        [shown(name), str(rank), str(100 + number), "2", str(2 + 2 * number)]
        for number, (name, rank) in enumerate(RANKS.items())
    ]


def test_the_card_has_every_score_of_base_and_result_with_its_n(run: Path, tmp_path: Path) -> None:
    found = rows(card(run, tmp_path / "out"), "Results on the sites' own test patients")
    expected = []
    for name, report in REPORTS.items():
        for structure in STRUCTURES:
            dice, hd95 = (
                [report[f"{part}.{metric}.{structure}"] for part in ("base", "test")]
                for metric in ("dice", "hd95_mm")
            )
            cells = [f"{value:.3f}" for value in dice] + [f"{value:.1f}" for value in hd95]
            expected.append([shown(name), str(int(report["cases"])), structure, *cells])
    assert found == expected


def test_the_card_has_validation_penalties_and_lambda_of_every_round(
    run: Path, tmp_path: Path
) -> None:
    text = card(run, tmp_path / "out")
    found = rows(text, "Validation over the rounds")
    assert [line[:2] for line in found] == [["0", "–"], ["1", "0.2000"], ["2", "0.1900"]]
    assert found[0][2:] == ["0.400", "0.510", "0.620"]
    assert found[2][2:] == ["0.426 (1.000)", "0.536 (0.900)", "0.646 (0.800)"]
    assert "- round 2, train, GE: the adapter is not finite\n" in text
    assert "- at the end, test, GE: too late\n" in text


def test_the_card_has_traffic_time_versions_and_configuration(run: Path, tmp_path: Path) -> None:
    text = card(run, tmp_path / "out")
    summary = json.loads((run / "summary.json").read_text())
    for key in ("up", "down", "full_weights"):
        assert f"{summary['bytes'][key]:,} bytes" in text
    for name, version in summary.get("versions", {}).items():
        assert f"{name} {version}" in text
    if "seconds" in summary:
        assert f"{summary['seconds']:.0f} s" in text
    config = dict(rows(text, "Configuration of the run"))
    assert set(config) == set(RunConfig.keys_that_affect("keys", "result", "length"))
    assert str(run) not in text
    assert config["features"] == TINY["features"]
    assert config["lambda-0"] == "0.2"
    assert "rounds: 2; λ₀ = 0.2" in text


def test_the_card_of_a_deployed_run_says_that_the_split_is_the_sites(
    run: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for line in lines:
        line["audit"] = {"GE": "a" * 64}
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = card(run, tmp_path / "out")
    assert "by its own settings, which the run's files do not record" in text
    assert "8:1:1" not in text
    config = dict(rows(text, "Configuration of the run"))
    assert not {"split-by", "split-seed", "affine-axes"} & set(config)


def test_the_card_has_the_fingerprint_of_every_file(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = {name: sha256 for name, _, sha256 in rows(card(run, out), "Files")}
    files = {path for path in out.rglob("*") if path.is_file()} - {out / "MODEL_CARD.md"}
    assert found == {path.relative_to(out).as_posix(): file_sha256(path) for path in files}
    for path in (run / "adapter.safetensors", run.parent / "base.safetensors"):
        assert file_sha256(path) in (out / "MODEL_CARD.md").read_text()


def test_the_card_gives_no_path_of_this_machine(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", changes={"data-dir": str(tmp_path / "secret" / "mnms2")})
    text = card(run, tmp_path / "out")
    assert str(tmp_path) not in text
    assert "mnms2" not in text  # a folder may be called after a patient
    assert "split into sites by `VENDOR`" in text


def test_phantoms_are_called_phantoms_where_the_run_names_no_data(
    run: Path, tmp_path: Path
) -> None:
    text = card(run, tmp_path / "out")
    assert "synthetic phantom hearts, not patients" in text


def test_a_card_without_a_run_says_what_is_not_known(run: Path, tmp_path: Path) -> None:
    export(
        tmp_path / "out", run.parent / "base.safetensors", run / "adapter.safetensors",
        config=run / "config.toml", formats=["safetensors"],
    )  # fmt: skip
    text = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert text.count("Not known: exported without `--run`") == 2
    for words in ("GE", "Philips", "Siemens", "phantom hearts", "0.2000"):
        assert words not in text
    assert "No medical device" in text
    assert "ACDC or M&Ms" in text


def test_a_run_that_ended_before_its_test_has_no_scores_on_its_card(tmp_path: Path) -> None:
    text = card(write_run(tmp_path / "run", with_summary=False), tmp_path / "out")
    assert "the run left no scores" in text
    assert rows(text, "Data and sites")[0] == ["GE", "2", "100", "2", "–"]
    assert "Traffic is not recorded" in text


def test_numbers_that_are_null_are_dashes(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["sites"]["GE"]["test"]["dice"]["RV"] = None
    (run / "summary.json").write_text(json.dumps(summary))
    found = rows(card(run, tmp_path / "out"), "Results on the sites' own test patients")
    (row,) = (row for row in found if row[0] == "GE" and row[2] == "RV")
    assert row[4] == "–"


def test_the_cards_python_is_python(run: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", card(run, tmp_path / "out"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "card", "exec")


# --- mistakes


def test_a_run_without_a_result_is_named(run: Path, tmp_path: Path) -> None:
    (run / "adapter.safetensors").unlink()
    with pytest.raises(UserError, match=r"run 7: no result .* expected adapter.safetensors"):
        export(tmp_path / "out", run=run)
    with pytest.raises(UserError, match="nowhere: no result"):
        export(tmp_path / "out", run=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", '{"sites": {"GE": {"test": 3}}}'),
        ("summary.json", '{"sites": {"GE": {"test": {"dice": {"LV": "high"}}}}}'),
        ("summary.json", '{"bytes": {"up": "many", "down": 3}}'),
        ("summary.json", '{"refused": ["GE"]}'),
        ("history.jsonl", "no\n"),
        ("history.jsonl", '{"round": 0, "lambda": 0, "sites": {"GE": {"validation": "0"}}}\n'),
        ("history.jsonl", '{"round": 1}\n'),
    ],
)
def test_a_file_that_no_run_wrote_is_named(
    run: Path, tmp_path: Path, name: str, content: str
) -> None:
    (run / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(str(run / name))):
        export(tmp_path / "out", run=run, formats=["safetensors"])
    assert not (tmp_path / "out").exists()


def test_a_run_has_its_own_adapter_and_configuration(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--adapter: found beside --run"):
        export(tmp_path / "out", run=run, adapter=run / "adapter.safetensors")
    with pytest.raises(UserError, match="--config: found beside --run"):
        export(tmp_path / "out", run=run, config=run / "config.toml")


def test_the_base_that_the_demo_made_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run = write_run(tmp_path / "run", changes={"base-model": "", "cache-dir": str(cache)})
    cache.mkdir()
    save_base(build_unet(SMALL), cache / "base-000000000000.safetensors")
    with pytest.raises(UserError, match="--base: missing, and neither base-model"):
        export(tmp_path / "out", run=run)
    (tmp_path / "base.safetensors").rename(cache / "base-111111111111.safetensors")
    export(tmp_path / "out", run=run, formats=["safetensors"])
    sha256 = file_sha256(cache / "base-111111111111.safetensors")
    assert sha256 in (tmp_path / "out" / "MODEL_CARD.md").read_text()
