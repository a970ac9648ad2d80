"""`task_filter`: the fields of the Task page's queries, as conditions on rows of `tasks`.

docs/sdk/queries.md lists the fields. One that is not known, or has a form that it cannot have, is refused by name:
a filter that was left out in silence would answer with the wrong tasks.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select

from telemetry.errors import InvalidQuery
from telemetry.events import INT64_MAX, INT64_MIN
from telemetry.record import Section
from telemetry.server.store import schema
from telemetry.server.store.columns import is_column, parse_column, record_of_column, sort_value
from telemetry.server.store.conditions import has_tags, is_one_of, matches_expression, matches_search, status_is
from telemetry.server.store.gate import project_condition
from telemetry.server.store.patterns import Pattern
from telemetry.server.store.status import status_at
from telemetry.server.store.table import TASK_SORTS, sort_column
from telemetry.server.store.tag_query import parse_tags
from telemetry.values import text_of

__all__ = ["FILTER_FIELDS", "ParsedFilter", "TextTest", "check_words", "parse_filter"]

_tasks = schema.tasks.c

MAX_LIST = 5000
# Of all lists of a filter: SQLite may take 32,766 variables in a statement, and queries have lists of their own.
_MAX_WORDS = 10_000
# Each is a condition, a subquery or a level of the statement's tree, of which SQLite takes 1,000.
_MAX_CONDITIONS = 100
MAX_PAGE_SIZE = 500

_DATES = {
    "created": _tasks.created,
    "started": _tasks.started,
    "completed": _tasks.ended,
    "status_changed": _tasks.status_changed,
    "last_update": _tasks.last_update,
    "last_change": _tasks.last_change,
}
_NUMBERS = {
    "active_duration": TASK_SORTS["active_duration"],
    "last_iteration": _tasks.last_iteration,
    "progress": _tasks.progress,
}
_MODELS = {"models.input.model": Section.INPUT_MODELS, "models.output.model": Section.OUTPUT_MODELS}
_LISTS = ("id", "project", "type", "status", "tags", "system_tags", "parent", *_MODELS)
_PATTERNS = ("name", "comment")
_OTHERS = ("search_text", "_all_", "_any_", "order_by", "page", "page_size", "only_fields", "search_hidden")
FILTER_FIELDS = (
    *_LISTS,
    *_PATTERNS,
    *_DATES,
    *_NUMBERS,
    "hyperparams.<section>.<name>",
    "last_metrics.<md5>.<md5>.<value>",
    *_OTHERS,
)
# Known elsewhere, and without a meaning here.
_ABSENT = {
    "user": "tasks have no users here",
    "company": "tasks have no companies here",
    "report": "tasks have no reports here",
    "execution.queue": "no task queue is known yet",
    "project_name": "write project, and the project's name",
}
# What a pattern of _all_ and _any_ can look into.
_TEXTS = ("name", "comment", "id", "project", "type", "status", "tags", "parent")
_PLAIN_COLUMNS = {
    "name": _tasks.name,
    "comment": _tasks.comment,
    "id": _tasks.task_id,
    "project": _tasks.project,
    "type": _tasks.type,
    "tags": _tasks.tags,
    "parent": _tasks.parent,
    "search_text": _tasks.search_text,
}
_COMPARISON = re.compile(r"\s*(>=|<=|>|<|==|=)\s*(.+?)\s*", re.DOTALL)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": lambda left, right: left >= right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    "<": lambda left, right: left < right,
    "==": lambda left, right: left == right,
    "=": lambda left, right: left == right,
}
_META = re.compile(r"[.^$*+?{}\[\]\\|()]")
_SECOND_NS = 1_000_000_000
# Begins no text that a parameter has.
_AS_IT_IS = "\0"


@dataclass(frozen=True, slots=True)
class TextTest:
    """A pattern that at least one of some texts of a task must have (or, with `all_of`, each of them).

    It is tried in Python, after everything that SQL can decide.

    Attributes:
        literal: a plain text that will do as well, case-folded.
    """

    fields: tuple[str, ...]
    pattern: Pattern
    all_of: bool = False
    literal: str | None = None

    def passes(self, row: Row[Any]) -> bool:
        """Say whether a row passes, which has a column for each of the fields."""
        results = (self._found(getattr(row, f"text_{name}"), name) for name in self.fields)
        return all(results) if self.all_of else any(results)

    def _found(self, value: str | None, name: str) -> bool:
        texts = orjson.loads(value or "[]") if name == "tags" else [value or ""]
        return any(self.pattern.found_in(text) or (self.literal is not None and self.literal in text) for text in texts)


@dataclass(slots=True)
class ParsedFilter:
    """A filter taken apart.

    Attributes:
        order: expressions with whether the greatest comes first.
        fields: what to tell of each task besides.
    """

    conditions: list[ColumnElement[bool]] = field(default_factory=list)
    tests: list[TextTest] = field(default_factory=list)
    order: list[tuple[ColumnElement[Any], bool]] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    page: int | None = None
    page_size: int | None = None


def text_column(name: str, now_unix_ns: int) -> ColumnElement[Any]:
    """Return the column that holds a text for a TextTest."""
    return status_at(now_unix_ns) if name == "status" else _PLAIN_COLUMNS[name]


def parse_filter(connection: Connection, given: Mapping[str, Any], now_unix_ns: int) -> ParsedFilter:
    """Return what a filter asks for. `now_unix_ns`: the server's clock, for the status.

    Raises:
        InvalidQuery: a field is not known, has a form that it cannot have or is too large; says which.
    """
    _check_count(given, "the filter", "fields")
    words = sum(len(value) for value in given.values() if isinstance(value, list))
    if words > _MAX_WORDS:
        raise InvalidQuery(f"the filter has {words} entries in all; at most {_MAX_WORDS} are taken at once")
    parsed = ParsedFilter()
    reader = _FilterParser(connection, now_unix_ns, parsed)
    for name, value in given.items():
        # None is what callers put where they have nothing to say.
        if value is not None:
            reader.read(name, value)
    return parsed


class _FilterParser:
    def __init__(self, connection: Connection, now_unix_ns: int, parsed: ParsedFilter) -> None:
        self._connection = connection
        self._now_unix_ns = now_unix_ns
        self._parsed = parsed

    def read(self, name: str, value: Any) -> None:
        add = self._parsed.conditions.append
        if name in _LISTS or name.startswith("hyperparams."):
            add(self._list(name, value))
        elif name in _PATTERNS:
            self._parsed.tests.append(TextTest((name,), Pattern(_text(value, name), name)))
        elif name in _DATES:
            add(_range(_DATES[name], value, name, _date))
        elif name in _NUMBERS or name.startswith("last_metrics.") or (is_column(name) and ":" in name):
            add(_range(self._number(name), value, name, _number))
        elif name in ("_all_", "_any_"):
            self._fields(name, value)
        elif name == "search_text":
            self._search(_text(value, name))
        elif name == "order_by":
            self._order(value)
        elif name in ("page", "page_size"):
            self._page(name, value)
        elif name == "only_fields":
            self._parsed.fields.extend(texts_of(value, name))
        elif name != "search_hidden":
            raise _unknown(name)
        elif not isinstance(value, bool):
            raise InvalidQuery(f"search_hidden must be true or false, not {value!r:.60}")

    def _list(self, name: str, value: Any) -> ColumnElement[bool]:
        check_words(value, name)
        if name == "project":
            return _projects(value)
        if name.startswith("hyperparams."):
            return self._parameter(name, value if isinstance(value, list) else [value])
        expression = parse_tags(value, name)
        if name == "tags":
            return has_tags(schema.TAG, expression)
        if name == "system_tags":
            return has_tags(schema.SYSTEM_TAG, expression)
        if name == "status":
            return status_is(self._now_unix_ns, expression)
        if name in _MODELS:
            records = schema.records.c
            having = select(records.task).where(records.section == _MODELS[name], records.value.is_not(None))
            return matches_expression(
                expression,
                lambda models: _tasks.id.in_(having.where(records.key.in_(models))),
                _tasks.id.not_in(having),
            )
        return is_one_of({"id": _tasks.task_id, "type": _tasks.type, "parent": _tasks.parent}[name], expression)

    def _parameter(self, name: str, values: list[Any]) -> ColumnElement[bool]:
        words = [item if item is None or isinstance(item, str) else _parameter_word(item, name) for item in values]
        section, key = record_of_column(parse_column(name))
        records = schema.records.c
        # By task, after what else is asked: of all tasks it would be a walk through every record.
        text = (
            select(func.telemetry_text(records.value))
            .where(records.task == _tasks.id, records.section == section, records.key == key)
            .scalar_subquery()
        )
        return matches_expression(
            parse_tags(words, name),
            lambda texts: func.coalesce(text.in_([word.removeprefix(_AS_IT_IS) for word in texts]), False),
            text.is_(None),
        )

    def _number(self, name: str) -> ColumnElement[Any]:
        return _NUMBERS[name] if name in _NUMBERS else sort_value(self._connection, parse_column(name))

    def _fields(self, name: str, value: Any) -> None:
        all_of = name == "_all_"
        if not isinstance(value, Mapping) or set(value) not in ({"fields", "pattern"}, {"fields", "datetime"}):
            raise InvalidQuery(
                f'{name} must be {{"fields": […], "pattern": "…"}} or {{"fields": […], "datetime": […]}}'
            )
        fields = tuple(texts_of(value["fields"], f"{name}.fields"))
        known = _TEXTS if "pattern" in value else tuple(_DATES)
        for one in fields:
            if one not in known:
                raise InvalidQuery(f"{name} cannot look into {one!r:.60}; there are {', '.join(known)}")
        if "pattern" in value:
            pattern = Pattern(_text(value["pattern"], f"{name}.pattern"), f"{name}.pattern")
            self._parsed.tests.append(TextTest(fields, pattern, all_of))
            return
        ranges = [_range(_DATES[one], value["datetime"], f"{name}.datetime", _date) for one in fields]
        self._parsed.conditions.append(and_(*ranges) if all_of else or_(*ranges))

    def _search(self, text: str) -> None:
        """A plain text is looked for as it is; what could be a pattern as either. Case does not matter."""
        if not _META.search(text):
            self._parsed.conditions.append(matches_search(text))
            return
        try:
            pattern = Pattern(text, "search_text", in_lines=True)
        except InvalidQuery:
            # "C++" is a text that people look for.
            self._parsed.conditions.append(matches_search(text))
            return
        self._parsed.tests.append(TextTest(("search_text",), pattern, literal=text.casefold()))

    def _order(self, value: Any) -> None:
        for word in texts_of(value, "order_by"):
            key = word.removeprefix("-")
            if key not in TASK_SORTS and not is_column(key):
                raise InvalidQuery(
                    f"order_by has {word!r:.80}; tasks can be ordered by {', '.join(TASK_SORTS)}, "
                    "last_metrics.<md5>.<md5>.value, min_value or max_value, hyperparams.<section>.<name>, "
                    'with "-" in front for descending'
                )
            self._parsed.order.append((sort_column(self._connection, key, self._now_unix_ns), word.startswith("-")))

    def _page(self, name: str, value: Any) -> None:
        low, high = (0, 10**9) if name == "page" else (1, MAX_PAGE_SIZE)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidQuery(f"{name} is {value!r:.60}; it must be a whole number from {low} to {high}")
        setattr(self._parsed, name, value)


def check_words(value: Any, name: str) -> None:
    """Refuse a list of tags, ids or other words that no statement could hold.

    Raises:
        InvalidQuery: it has too many words, or too many operators among them.
    """
    if not isinstance(value, list):
        return
    if len(value) > MAX_LIST:
        raise InvalidQuery(f"{name} has {len(value)} entries; at most {MAX_LIST} are taken at once")
    operators = [word for word in value if isinstance(word, str) and word.startswith("__$") and word != "__$not"]
    _check_count(operators, name, "operators")


def _check_count(given: Sized, name: str, what: str) -> None:
    if len(given) > _MAX_CONDITIONS:
        raise InvalidQuery(f"{name} has {len(given)} {what}; at most {_MAX_CONDITIONS} are taken at once")


def texts_of(value: Any, name: str) -> list[str]:
    """Return a text or a list of texts as a list.

    Raises:
        InvalidQuery: it is neither, or a list of too many.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        _check_count(value, name, "entries")
        return list(value)
    raise InvalidQuery(f"{name} must be a text or a list of texts, not {value!r:.80}")


def _projects(value: Any) -> ColumnElement[bool]:
    """Exact names, with the operators of tags; "vision/*" is everything below vision."""

    def has_any(names: Sequence[str]) -> ColumnElement[bool]:
        exact = [name for name in names if not name.endswith("/*")]
        below = [name.removesuffix("/*") for name in names if name.endswith("/*")]
        _check_count(below, "project", 'entries that end with "/*"')
        return or_(
            _tasks.project.in_(exact),
            *(and_(project_condition((name,)), _tasks.project != name) for name in below),
        )

    return matches_expression(parse_tags(value, "project"), has_any, _tasks.project == "")


def _range(
    column: ColumnElement[Any], value: Any, name: str, convert: Callable[[Any, str], int | float]
) -> ColumnElement[bool]:
    """Return a range as a condition: [least, greatest] with null for an open end, or comparisons such as ">=5"."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    _check_count(items, name, "entries")
    compared = [isinstance(item, str) and _COMPARISON.fullmatch(item) for item in items]
    if items and all(compared):
        conditions = []
        for match in compared:
            assert match
            conditions.append(_OPERATORS[match[1]](column, convert(match[2], name)))
        return and_(*conditions)
    if len(items) == 2 and not any(compared):
        low, high = items
        bounds = [] if low is None else [column >= convert(low, name)]
        bounds += [] if high is None else [column <= convert(high, name)]
        if bounds:
            return and_(*bounds)
    elif len(items) == 1 and convert is _number and not any(compared):
        found: ColumnElement[bool] = column == convert(items[0], name)
        return found
    raise InvalidQuery(
        f'{name} is {value!r:.100}; it must be [least, greatest], or one or more comparisons such as ">=…" and "<…"'
    )


def _date(value: Any, name: str) -> int:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidQuery(
            f"{name}: {value!r:.60} is not a date; write 2024-01-31 or 2024-01-31T12:00:00+01:00, "
            "which is UTC where no zone is said"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * _SECOND_NS)


def _number(value: Any, name: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # SQLite's integers have 64 bits; what lies beyond them it compares as a float, as it would have read it.
        return value if isinstance(value, float) or INT64_MIN <= value <= INT64_MAX else float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidQuery(f"{name}: {value!r:.60} is not a number") from None


def _parameter_word(value: Any, name: str) -> str:
    """Return a number as a word that is no exclusion, though it may begin with a minus."""
    if isinstance(value, (bool, int, float)):
        return f"{_AS_IT_IS}{text_of(value)}"
    raise InvalidQuery(f"{name} must hold texts or numbers, not {value!r:.60}")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidQuery(f"{name} must be a text, not {value!r:.60}")
    return value


def _unknown(name: str) -> InvalidQuery:
    if name in _ABSENT:
        return InvalidQuery(f"task_filter: {name} cannot be asked for: {_ABSENT[name]}")
    close = difflib.get_close_matches(name, FILTER_FIELDS, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return InvalidQuery(f"task_filter has no field {name!r:.80}{hint}; there are {', '.join(FILTER_FIELDS)}")
