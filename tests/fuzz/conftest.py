"""The figures that `make fuzz` prints."""

from pathlib import Path

from _pytest.terminal import TerminalReporter

FOLDER = Path(__file__).parent
HEAD = " inputs    read refused other  ms max  parser"


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print how many inputs each parser read and refused, where only parsers were tested."""
    if [Path(arg).resolve() for arg in terminalreporter.config.args] != [FOLDER]:
        return
    terminalreporter.section("fuzzing")
    terminalreporter.write_line(HEAD)
    for outcome in ("passed", "xfailed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            terminalreporter.write_line(dict(report.user_properties).get("fuzz", report.nodeid))
