"""Elements of HTML and SVG. Whatever is not markup already is text, and is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = {"br", "img", "meta"}


class Markup(str):
    """Text in which the markup is meant."""


Child = str | int | float | None | Iterable["Child"]


def el(tag: str, *children: Child, **attributes: object) -> Markup:
    """An element.

    Args:
        tag: its name.
        children: text, which is escaped; markup, which is not; lists of them; None for nothing.
        attributes: ``class_`` is ``class`` and ``aria_label`` is ``aria-label``; None and False leave one out, and True
            is one without a value.
    """
    words = [tag]
    for name, value in attributes.items():
        key = name.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{html.escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if tag in VOID else f"{start}{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Children one after the other."""
    return Markup("".join(_one(child) for child in children))


def _one(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    if isinstance(child, str | int | float):
        return html.escape(str(child))
    return join(child)
