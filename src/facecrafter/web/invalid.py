"""What the validator finds wrong in a request, in a sentence for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from facecrafter.config import models_in
from facecrafter.errors import nearest

LONGEST_NAME = 80  # characters of an unknown name that are looked at
WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "an object, {...}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_type": "a whole number",
    "list_type": "a list, [...]",
    "model_attributes_type": "an object, {...}",
    "model_type": "an object, {...}",
    "string_type": "text",
    "tuple_type": "a list, [...]",
}
_FROM = ("body", "path", "query", "header", "cookie")  # where FastAPI found a value
_BRANCH = re.compile(r"constrained-\w+|(dict|list|tuple)\[.*\]")  # which kind of several a value was tried as


def in_words(
    errors: Sequence[Mapping[str, Any]], model: type[BaseModel] | None = None, wanted: Mapping[str, str] | None = None
) -> str:
    """The first error of a request in one sentence, which never repeats the request's values.

    Args:
        errors: the validator's.
        model: what was asked for, for the names that there are.
        wanted: what fields of several kinds want, by name.
    """
    first = errors[0]
    place = _place(first, model)[0]
    # A value that may be of several kinds has errors of each; the one that was read furthest is what was meant.
    alike = [one for one in errors if _place(one, model)[0][: len(place)] == place]
    meant = max(alike, key=lambda one: len(_place(one, model)[0]))
    place, inner = _place(meant, model)
    kind, limits = meant["type"], meant.get("ctx", {})
    if kind == "extra_forbidden":
        name, where = place[-1][:LONGEST_NAME], ".".join(place[:-1])
        known = nearest(name, list(inner.model_fields)) if inner else "; leave it out"
        return f"there is no '{name}'{f' in {where}' if where else ''}{known}"
    if kind == "json_invalid":
        return "the request is no JSON"
    field = next((part for part in place if not part.isdigit()), "")
    several = len(alike) > 1 or kind in ("list_type", "string_pattern_mismatch")
    if field in (wanted or {}) and several and all(part.isdigit() for part in place[1:]):
        return f"{field} wants {(wanted or {})[field]}"
    if place[-1:] == ["[key]"]:
        return f"a name in {'.'.join(place[:-2])} has {_number(limits['max_length'])} characters at most"
    subject = ".".join(place) or "the request"
    if kind in WANTED:
        return f"{subject} wants {WANTED[kind]}"
    if kind == "literal_error":
        return f"{subject} wants {limits['expected']}"
    if kind == "missing":
        return f"{subject} is missing; give it"
    if kind == "string_pattern_mismatch":
        return f"{subject} is none that this server gives"
    if limits.get("min_length") == 1:
        return f"{subject} is empty; give a value"
    unit = "characters" if kind.startswith("string") else "entries"
    for limit, verb, words in (
        ("le", "is", "at most"),
        ("ge", "is", "at least"),
        ("max_length", "has", f"{unit} at most"),
        ("min_length", "has", f"{unit} at least"),
    ):
        if limit in limits:
            return f"{subject} {verb} {_number(limits[limit])} {words}"
    return f"{subject}: {meant['msg']}" if place else str(meant["msg"])


def _place(error: Mapping[str, Any], model: type[BaseModel] | None) -> tuple[list[str], type[BaseModel] | None]:
    """Where a value is in the request, without the kinds that it was tried as; and the model of the part it is in."""
    parts = [str(part) for part in error["loc"]]
    place: list[str] = []
    names: set[str] = set()
    inner = model
    for index, part in enumerate(parts):
        last = index == len(parts) - 1 and error["type"] == "extra_forbidden"
        if (index == 0 and model is None and part in _FROM) or (
            not last and (_BRANCH.fullmatch(part) or part in names)
        ):
            continue
        place.append(part)
        field = inner.model_fields.get(part) if inner and not last else None
        if field is not None and (found := next(models_in(field.annotation), None)):
            inner = found
            names.add(found.__name__)
    return place, inner


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
