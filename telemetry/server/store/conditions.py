"""Conditions on rows of `tasks`: what filters of every kind are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, false, func, not_, or_, select, true

from telemetry.server.store import schema
from telemetry.server.store.status import IN_PROGRESS, STALLED, status_at
from telemetry.server.store.tag_query import AllOf, AnyOf, Has, HasNone, Not, TagExpression

__all__ = ["PUBLISHED", "has_tags", "is_one_of", "matches_expression", "matches_search", "status_is"]

# Asked for as a status, though a task keeps the one that it ended with.
PUBLISHED = "published"

_tasks = schema.tasks.c


def matches_expression(
    expression: TagExpression,
    has_any: Callable[[Sequence[str]], ColumnElement[bool]],
    has_none: ColumnElement[bool],
) -> ColumnElement[bool]:
    """Return an expression as a condition.

    Args:
        has_any: gives the condition that a task has at least one of some tags; never NULL.
        has_none: the condition that it has none at all.
    """
    if isinstance(expression, Has):
        return has_any([expression.tag])
    if isinstance(expression, HasNone):
        return has_none
    if isinstance(expression, Not):
        return not_(matches_expression(expression.part, has_any, has_none))
    # Tags in one condition: a list of thousands would be a tree deeper than SQLite takes.
    if isinstance(expression, AnyOf):
        tags = [part.tag for part in expression.parts if isinstance(part, Has)]
        others = [part for part in expression.parts if not isinstance(part, Has)]
        found = [matches_expression(part, has_any, has_none) for part in others]
        return or_(false(), *found, *([has_any(tags)] if tags else []))
    assert isinstance(expression, AllOf)
    excluded = [part.part.tag for part in expression.parts if isinstance(part, Not) and isinstance(part.part, Has)]
    kept = [part for part in expression.parts if not (isinstance(part, Not) and isinstance(part.part, Has))]
    found = [matches_expression(part, has_any, has_none) for part in kept]
    return and_(true(), *found, *([not_(has_any(excluded))] if excluded else []))


def has_tags(kind: int, expression: TagExpression) -> ColumnElement[bool]:
    """Return the condition that a task's tags of a kind are what an expression says."""
    columns = schema.task_tags.c
    tagged = select(columns.task).where(columns.kind == kind)
    return matches_expression(
        expression, lambda tags: _tasks.id.in_(tagged.where(columns.tag.in_(tags))), _tasks.id.not_in(tagged)
    )


def is_one_of(column: ColumnElement[Any], expression: TagExpression) -> ColumnElement[bool]:
    """Return the condition that a column of one text, read as the only tag there is, is what an expression says."""
    value = func.coalesce(column, "")
    return matches_expression(expression, value.in_, value == "")


def status_is(now_unix_ns: int, expression: TagExpression) -> ColumnElement[bool]:
    """Return the condition on the status. A stalled task is in progress, too; one may be published besides."""
    status = status_at(now_unix_ns)

    def has_any(names: Sequence[str]) -> ColumnElement[bool]:
        wanted = [*names, *([STALLED] if IN_PROGRESS in names else [])]
        known = status.in_(wanted)
        return or_(known, _tasks.published == 1) if PUBLISHED in names else known

    return matches_expression(expression, has_any, status == "")


def matches_search(text: str) -> ColumnElement[bool]:
    """Return the condition that a text is in the name, comment, id, project or tags, without regard to case."""
    # Not LIKE: % and _ are what the user typed, and a pattern would end at a NUL.
    return func.instr(_tasks.search_text, text.casefold()) > 0
