"""The console command ``rate-my-lora``, which consists of the commands in this package."""

import typer

from cli.approve import approve
from cli.audit import audit
from cli.authority import authority
from cli.check import check
from cli.compare import compare
from cli.evaluate import evaluate
from cli.export import export
from cli.join import join
from cli.options import run_command
from cli.phantom import phantom
from cli.predict import predict
from cli.pretrain import pretrain
from cli.report import report
from cli.site_key import site_key
from cli.superlink import superlink
from cli.watch import watch

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

COMMANDS = (
    check, pretrain, phantom, evaluate, predict, export, report, compare, watch, join, approve,
    audit, authority, site_key,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(superlink)


@app.callback()
def commands() -> None:
    """Federated LoRA for cardiac MRI segmentation, rated by every hospital."""


def main() -> None:
    """Run the command that was typed."""
    run_command(app)


if __name__ == "__main__":
    main()
