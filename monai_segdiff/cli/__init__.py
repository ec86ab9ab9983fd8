# SPDX-License-Identifier: Apache-2.0
"""Command ``monai-segdiff``. Its subcommands import what is slow to import, PyTorch above all, when they run."""

from __future__ import annotations

import atexit
import logging
import signal
import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from .doctor import doctor
from .predict import predict

__all__ = ["main"]

# Plain text reads as well in a log as in a terminal: no boxes, and a message is one line.
app = typer.Typer(
    help="Diffusion segmentation for MONAI: segment images with a bundle.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"monai-segdiff {version('monai_segdiff')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    # MONAI says twice that nvImageCodec is missing wherever pydicom is installed. ITK reads series here.
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)


def main() -> None:
    """Run the command and leave with its exit status.

    0: all done. 1: something failed; what did is on stderr. 2: wrong usage, nothing was done. 130: stopped by Ctrl-C.
    Ctrl-C while Python still imports the package, before this function runs, ends the process by the signal itself.
    """
    # What is left to do at the exit is not worth stopping, and would turn the status of finished work into a signal.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        app(prog_name="monai-segdiff")
    except KeyboardInterrupt:  # Typer does the same for what lies within its commands
        sys.exit(130)
    finally:
        # An interrupt that has passed through eval, as of a bundle's expressions, stays noted until the next one, and
        # "python -m" would at last end by the signal, whatever the status.
        exec("")
