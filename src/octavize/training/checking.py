"""What files and options say, checked by pydantic against declared types; a mistake is told in one line that
names key, value and remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from octavize.errors import InputError

C = TypeVar("C", bound=type)
UNKNOWN = ("unexpected_keyword_argument", "invalid_key")
REMEDIES = {
    "bool_type": "give true or false",
    "string_type": "give text",
    "dict_type": "give a mapping",
    "dataclass_type": "give a mapping",
    "list_type": "give a list",
    "tuple_type": "give a list",
}


def tells_mistakes(cls: C) -> C:
    """Decorator of a pydantic dataclass: what does not fit raises `InputError`."""
    build: Callable[..., None] = cls.__init__

    @wraps(build)
    def checked(self: Any, *args: Any, **settings: Any) -> None:
        try:
            build(self, *args, **settings)
        except ValidationError as error:
            raise InputError(explain(error, TypeAdapter(cls).json_schema())) from None

    cls.__init__ = checked
    return cls


@contextmanager
def told_of(where: str) -> Iterator[None]:
    """Say where a mistake is, in front of what it is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def explain(error: ValidationError, schema: Mapping[str, Any]) -> str:
    """The first mistake, unknown names before all else, and how many there are beside it.

    Args:
        schema: JSON schema of what was to be read, which knows ranges and names.
    """
    # pydantic counts the items that fit: a list whose one item does not is too short to it as well.
    mistakes = [m for m in error.errors(include_url=False) if not _miscounted(m)]
    mistakes.sort(key=lambda mistake: mistake["type"] not in UNKNOWN)  # what was meant by it may be missing
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return _told(mistakes[0], schema) + more


def _miscounted(mistake: Mapping[str, Any]) -> bool:
    return mistake["type"] == "too_short" and len(mistake["input"]) >= mistake["ctx"]["min_length"]


def _told(mistake: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    # A union's tags are in angle brackets: what the value was taken for is not part of its name.
    path = [key for key in mistake["loc"] if not str(key).startswith("<")]
    kind, found = mistake["type"], mistake.get("ctx", {})
    if kind == "missing":
        return f"{_name(path)} is missing: add it"
    if kind in UNKNOWN:
        known = ", ".join(sorted(_part(schema, path[:-1])["properties"]))
        place = f" in {_name(path[:-1])}" if path[:-1] else ""
        return f"unknown setting {path[-1]!r}{place}: choose from {known}"
    if isinstance(found.get("error"), InputError):
        return str(found["error"])
    return f"{_name(path)} is {mistake['input']!r}: {_remedy(mistake, found, _part(schema, path))}"


def _name(path: list[Any]) -> str:
    """`batch_size[*]` of a value in a mapping, `seed` of one of the `seeds`."""
    if path[-1] == "[key]":
        return f"a key of {_name(path[:-2])}"
    name = str(path[0])
    for key in path[1:]:
        name = name.removesuffix("s") if isinstance(key, int) else f"{name}[{key}]"
    return name


def _remedy(mistake: Mapping[str, Any], found: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    kind = mistake["type"]
    if kind == "value_error":
        return str(found["error"])
    if kind == "literal_error":
        return f"choose from {found['expected']}"
    if kind == "too_short":
        least = found["min_length"]
        return f"give at least {'one' if least == 1 else least}"
    if kind in REMEDIES:
        example = next((part["examples"][0] for part in _parts(field) if "examples" in part), None)
        return REMEDIES[kind] + (f", such as {example}" if example else "")
    number = next((part for part in _parts(field) if part.get("type") in ("integer", "number")), None)
    return mistake["msg"] if number is None else _range(number)


def _range(number: Mapping[str, Any]) -> str:
    low, above, high = (number.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if number.get("type") == "integer":
        return f"give a whole number of at least {low}"
    start = f"from {low:g}" if above is None else f"above {above:g}"
    upper = f" to {high:g}" if high is not None else " up" if above is None else ""
    return f"give a number {start}{upper}"


def _parts(part: Any) -> Iterator[Mapping[str, Any]]:
    """A part of a JSON schema and all parts of it."""
    if isinstance(part, Mapping):
        yield part
    for inner in part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ():
        yield from _parts(inner)


def _part(schema: Mapping[str, Any], path: list[Any]) -> Mapping[str, Any]:
    """What a JSON schema says of the value at a path, or of the last field on the way there."""
    here = schema
    for key in path:
        if key not in here.get("properties", {}):
            break
        here = here["properties"][key]
        # Of what may also be nothing, the part that it is otherwise.
        here = next((part for part in here.get("anyOf", ()) if "$ref" in part), here)
        if "$ref" in here:
            here = {**schema["$defs"][here["$ref"].rpartition("/")[2]], **here}
    return here
