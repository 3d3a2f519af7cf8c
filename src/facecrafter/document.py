"""Tables in Markdown documents that commands write, each between two lines of its own."""

from __future__ import annotations

from pathlib import Path

from facecrafter.errors import DataError


def read_document(document: Path) -> str:
    """The text of a Markdown file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return document.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no file {document}; name a Markdown file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the document {document} cannot be read ({reason}); name a Markdown file") from None


def with_table(document: Path, text: str, name: str, table: str) -> str:
    """A document's text with a table in place of what is between ``<!-- table NAME -->`` and ``<!-- end of table -->``.

    Args:
        document: for the message.
        text: of the document.
        name: of the table's place.
        table: Markdown.

    Raises:
        DataError: the document has no such place.
    """
    begin, end = f"<!-- table {name} -->", "<!-- end of table -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise DataError(f"{document} has no place for {name}; put the lines {begin} and {end} where it belongs")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"
