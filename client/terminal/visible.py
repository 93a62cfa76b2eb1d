"""Text from outside on a terminal: shown, never obeyed."""

from __future__ import annotations


def visible(text: str) -> str:
    """`text` as one line, with every character that a terminal would obey, or that has no shape, as its escape.

    Names, labels, failures and log lines come from whoever may post a job or run a worker: an escape sequence would
    clear the screen or set the window's title, a newline forge a row, a mark of direction turn a word around.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return "    " if char == "\t" else char.encode("unicode_escape").decode("ascii")
