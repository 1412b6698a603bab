"""``rate-my-lora approve`` lists what runs ask for, approves one and takes it back."""

from pathlib import Path

import pytest

from client_app.approval import Approvals, NotApprovedError, Proposal
from client_app.connection import read_site
from common.config import RunConfig
from common.messages import Request
from tests.cli.running import Run
from tests.cli.test_join import write


def test_a_run_is_listed_approved_and_withdrawn(tmp_path: Path, run: Run) -> None:
    file = write(tmp_path, cache_dir=str(tmp_path / "cache"))
    command = ("approve", "--site-file", file)
    assert run(*command).out == "no run has asked this site yet\n"
    approvals = Approvals(read_site(file)[1])
    proposal = Proposal.of(Request(RunConfig(), "a1"), "ab" * 32)
    with pytest.raises(NotApprovedError):
        approvals.require(proposal)
    listed = run(*command)
    assert f"waits; to approve it: rate-my-lora approve {proposal.code}" in listed.out
    assert proposal.hash in listed.out
    assert "approved" in run(*command, proposal.code).out
    approvals.require(proposal)
    assert "withdrawn" in run(*command, proposal.code, "--withdraw").out
    with pytest.raises(NotApprovedError):
        approvals.require(proposal)
    unknown = run(*command, "0123456789abcdef")
    assert unknown.status == 2
    assert f"those that did: {proposal.code}" in unknown.error
