"""Docstrings are written for readers of the source; here they become reStructuredText that shows what they say."""

import re

_CODE = re.compile(r"(``.*?``|`[^`]+`|^ *(?:>>>|\.\.\.) [^\n]*)", flags=re.DOTALL | re.MULTILINE)
_MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?=\W|$)")  # would be emphasis, a substitution, an escape, a link


def to_rst(lines: list[str]) -> list[str]:
    """Code stays code, stars, bars and underscores stay, and lists become lists.

    Names of classes in backticks stay references, which become links where the class is on the site.
    """
    pieces = _CODE.split("\n".join(lines))
    pieces[::2] = [_MARKUP.sub(r"\\\g<0>", piece) for piece in pieces[::2]]
    pieces[1::2] = [_as_code(piece) for piece in pieces[1::2]]
    changed: list[str] = []
    for line in "".join(pieces).split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        if line.startswith(f"{indent}- ") and changed and not changed[-1].startswith((f"{indent}- ", f"{indent}  ")):
            changed.append("")
        changed.append(line)
    return changed


def _as_code(piece: str) -> str:
    is_class = re.match(r"`[A-Z]\w*[a-z]", piece)
    return piece if is_class or not piece.startswith("`") or piece.startswith("``") else f"`{piece}`"
