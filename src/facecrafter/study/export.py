"""All answers as CSV."""

from __future__ import annotations

import csv
import io

from facecrafter.study.answers import COLUMNS, given, rows
from facecrafter.study.store import Store


def as_csv(store: Store) -> str:
    """A row an answer, practice and attention checks included; :data:`facecrafter.study.answers.COLUMNS`."""
    with store.database.reading() as session:
        answers = given(session)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: plain(value) for name, value in row.items()} for row in rows(answers, store.study))
    return text.getvalue()


def plain(value: object) -> object:
    """Text that no spreadsheet takes for a formula: names of methods and sets come from folders."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
