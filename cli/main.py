"""The console command ``rate-my-lora``, which consists of the commands in this package."""

import io
import sys

import typer
from rich.console import Console

from cli.audit import audit
from cli.authority import authority
from cli.check import check
from cli.compare import compare
from cli.evaluate import evaluate
from cli.export import export
from cli.join import join
from cli.phantom import phantom
from cli.predict import predict
from cli.pretrain import pretrain
from cli.report import report
from cli.site_key import site_key
from cli.superlink import superlink
from cli.watch import watch
from common.errors import UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

COMMANDS = (
    check, pretrain, phantom, evaluate, predict, export, report, compare, watch, join, audit,
    authority, site_key,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(superlink)


@app.callback()
def commands() -> None:
    """Federated LoRA for cardiac MRI segmentation, rated by every hospital."""


def main() -> None:
    """Run a command; a ``UserError`` becomes one line on stderr and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may hold what no encoding knows
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"Error: {error}", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
