"""Reference of the command line, from the parsers themselves."""

import argparse
import os

from conffusion.cli import make_parser

_WIDTH = "100"  # columns of the help texts


def command_line_page() -> str:
    """Markdown: what `conffusion --help` and `conffusion COMMAND --help` print."""
    os.environ["COLUMNS"] = _WIDTH
    parser = make_parser()
    parts = ["# Command line", "What `--help` prints.", _help("conffusion", parser)]
    parts += [_help(f"conffusion {name}", command) for name, command in commands(parser).items()]
    return "\n\n".join(parts) + "\n"


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Parser of every command, by name."""
    (choices,) = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(choices)


def _help(name: str, parser: argparse.ArgumentParser) -> str:
    parser.color = False  # type: ignore[attr-defined]  # Python 3.14 would colour it
    return f"## `{name}`\n\n```text\n{parser.format_help().rstrip()}\n```"
