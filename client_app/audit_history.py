"""Holds a site's audit log against the history that the coordinator's run wrote.

Each reply carries the hash of the log's last line to the server, and the history keeps the last one
of a round. So the site cannot write another log later without the history's hashes, and the server
cannot write other numbers of the site than those that are in its log.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from client_app.audit import IN, OUT, PASSED
from common.errors import UserError
from common.files import parse_json

REPORTED = {"validation": ("evaluate", "dice"), "loss": ("train", "loss")}
"""For a number in the history the kind of reply that brought it, and its name there."""


def differences(lines: Iterable[Mapping[str, Any]], history: Path, site: str = "") -> list[str]:
    """Return a sentence for everything in which a history differs from a log.

    Parameters
    ----------
    lines
        The lines of the log.
    history
        The coordinator's ``history.jsonl``.
    site
        The site's name in the history; empty for the name under which the log describes it.

    Raises
    ------
    UserError
        The history is not one that a run writes, or has no hash of the site.
    """
    logged: dict[str, tuple[str, int]] = {}  # run and round of a message by its line's hash
    reported: dict[tuple[str, int, str, str], list[float]] = defaultdict(list)
    last: tuple[str, int] | None = None
    for line in lines:
        if last is not None:
            logged[line["previous"]] = last
        last = (line["run"], line["round"]) if line["direction"] == IN else None
        if (line["direction"], line["verdict"]) != (OUT, PASSED):
            continue
        site = site or str(line.get("config", {}).get("config", {}).get("site", ""))
        for name, value in line.get("metrics", {}).get("metrics", {}).items():
            reported[line["run"], line["round"], line["kind"], name].append(value)
    rounds = [(number, entry, sha256) for number, entry, sha256 in _rounds(history, site) if sha256]
    if not rounds:
        raise UserError(f"{history}: found no hash of an audit log of site {site!r}")
    found = []
    for number, entry, sha256 in rounds:
        run, of_round = logged.get(sha256, ("", None))
        if of_round != number:
            found.append(f"round {number}: the history's hash {sha256[:16]}… is not in the log")
            continue
        for key, (kind, name) in REPORTED.items():
            values = reported[run, number, kind, name]
            if key in entry and entry[key] not in values:
                found.append(
                    f"round {number}: {key} is {entry[key]} in the history, {values} in the log"
                )
    return found


def _rounds(history: Path, site: str) -> Iterator[tuple[int, Mapping[str, Any], str]]:
    """Yield each round of a history with its entry of the site, and the hash of its log."""
    try:
        text = history.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{history}: cannot read the file ({error})") from None
    for count, raw in enumerate(text.splitlines(), start=1):
        try:
            line = parse_json(raw)
            yield (
                int(line["round"]),
                dict(line["sites"].get(site, {})),
                str(line.get("audit", {}).get(site, "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{history}: line {count} does not describe a round") from None
