"""Options that several commands share."""

import argparse


def add_configfile(command: argparse.ArgumentParser) -> None:
    """`--configfile`, as Snakemake has it."""
    command.add_argument("--configfile", nargs="*", default=[], help="overlays laid over config.yaml, weakest first")
