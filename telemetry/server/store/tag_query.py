"""Tag expressions: lists of tags and operators, read as the Task page reads them.

    ["a", "b"]                                      a or b
    ["__$and", "a", "b"]                            a and b
    ["a", "-b"], ["a", "__$not", "b"]               a and not b
    ["a", "b", "__$and", "c", "d"]                  a or b or (c and d)
    ["__$and", "__$or", "a", "b", "__$and", "c"]    (a or b) and c

The rules, from which all of the page's examples follow:

1. `__$or` and `__$and` (also `__$any` and `__$all`) apply to the tags that follow them until the next of
   them; each makes a group.
2. The groups are joined by the default operator: `or`, unless the list begins with `and`. Tags before the
   first operator are a group of the default operator; `__$nop` goes back to it.
3. `__$not` applies to the next tag only, and so does the prefix "-". A tag that itself begins with "-" can
   be excluded with `__$not`.
4. In a list without `or` and `and`, what is excluded is joined with `and`: neither of them.
5. None in the list also admits what has no tags at all.

Statuses, types and the other list filters of a query are read in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from telemetry.errors import InvalidQuery

__all__ = ["AllOf", "AnyOf", "Has", "HasNone", "Not", "TagExpression", "parse_tags"]


@dataclass(frozen=True, slots=True)
class Has:
    """It has this tag."""

    tag: str

    def matches(self, tags: Collection[str]) -> bool:
        return self.tag in tags


@dataclass(frozen=True, slots=True)
class HasNone:
    """It has no tags at all."""

    def matches(self, tags: Collection[str]) -> bool:
        return not tags


@dataclass(frozen=True, slots=True)
class Not:
    """It is not what `part` says."""

    part: TagExpression

    def matches(self, tags: Collection[str]) -> bool:
        return not self.part.matches(tags)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; with no parts, anything does."""

    parts: tuple[TagExpression, ...]

    def matches(self, tags: Collection[str]) -> bool:
        return all(part.matches(tags) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[TagExpression, ...]

    def matches(self, tags: Collection[str]) -> bool:
        return any(part.matches(tags) for part in self.parts)


TagExpression: TypeAlias = Has | HasNone | Not | AllOf | AnyOf

_MARK = "__$"
_OR, _AND, _DEFAULT, _NOT = "or", "and", "nop", "not"
_OPERATORS = {"or": _OR, "any": _OR, "and": _AND, "all": _AND, "nop": _DEFAULT, "not": _NOT}
_JOINERS: dict[str, type[AnyOf] | type[AllOf]] = {_OR: AnyOf, _AND: AllOf}


@dataclass(frozen=True, slots=True)
class _Operator:
    name: str
    written: str


@dataclass(frozen=True, slots=True)
class _Value:
    tag: str
    excluded: bool


def parse_tags(query: str | Iterable[str | None], what: str = "tags") -> TagExpression:
    """Return the expression that a list of tags and operators stands for.

    Args:
        query: a single text is one tag. A list without any tag admits everything.
        what: the filter's name, for errors.

    Raises:
        InvalidQuery: an operator that there is not, or `__$not` with no tag after it; the message says which.
    """
    words = [query] if isinstance(query, str) else _listed(query, what)
    admits_none = None in words
    joiner: str | None = None
    groups: list[tuple[str | None, list[_Value]]] = [(None, [])]
    for number, word in enumerate(_read([word for word in words if word is not None], what)):
        if isinstance(word, _Value):
            groups[-1][1].append(word)
            continue
        operator = word.name if word.name in _JOINERS else None
        # Only what the list begins with is the default operator.
        if number == 0:
            joiner = operator
        groups.append((operator, []))
    default = joiner or _OR
    groups = [(name, values) for name, values in groups if values]
    if all(name is None for name, _ in groups) and joiner is None:
        expression = _without_operators([value for _, values in groups for value in values])
    else:
        expression = _joined(default, [_joined(name or default, map(_term, values)) for name, values in groups])
    if not admits_none:
        return expression
    return HasNone() if expression == AllOf(()) else AnyOf((expression, HasNone()))


def _read(words: list[str], what: str) -> Iterable[_Operator | _Value]:
    """Yield operators and values; `__$not` is taken into the value that it applies to."""
    pending: str | None = None
    for word in words:
        item = _word(word, what)
        if isinstance(item, _Operator):
            if pending is not None:
                raise _no_value(pending, what)
            if item.name == _NOT:
                pending = item.written
            else:
                yield item
        elif pending is not None:
            # The tag as it is: a "-" belongs to it.
            yield _Value(word, excluded=True)
            pending = None
        else:
            yield item
    if pending is not None:
        raise _no_value(pending, what)


def _word(word: str, what: str) -> _Operator | _Value:
    if word.startswith(_MARK):
        name = _OPERATORS.get(word.removeprefix(_MARK))
        if name is None:
            raise _unsupported(word, what)
        return _Operator(name, word)
    _check_joined(word, what)
    if not word.startswith("-"):
        return _Value(word, excluded=False)
    if len(word) == 1:
        raise InvalidQuery(f'Value is expected after "-" in {what}')
    if word.startswith(f"-{_MARK}"):
        raise InvalidQuery(f'Unsupported operator {word!r:.80} in {what}: an operator takes no "-"')
    return _Value(word[1:], excluded=True)


def _listed(query: Iterable[str | None], what: str) -> list[str | None]:
    try:
        if isinstance(query, (Mapping, bytes)):
            raise TypeError("its items are not its words")
        words = list(query)
    except TypeError:
        raise InvalidQuery(f"{what} must be a list of texts, not {type(query).__name__}") from None
    for word in words:
        if word is not None and not isinstance(word, str):
            raise InvalidQuery(f"{what} must hold texts only, not {type(word).__name__} ({word!r:.60})")
        if word == "":
            raise InvalidQuery(f"{what} holds an empty text")
    return words


def _term(value: _Value) -> TagExpression:
    return Not(Has(value.tag)) if value.excluded else Has(value.tag)


def _without_operators(values: list[_Value]) -> TagExpression:
    included = [_term(value) for value in values if not value.excluded]
    excluded = [_term(value) for value in values if value.excluded]
    return _joined(_AND, [*([_joined(_OR, included)] if included else []), *excluded])


def _joined(operator: str, parts: Iterable[TagExpression]) -> TagExpression:
    found = tuple(parts)
    if not found:
        return AllOf(())
    return found[0] if len(found) == 1 else _JOINERS[operator](found)


def _no_value(operator: str, what: str) -> InvalidQuery:
    return InvalidQuery(f'Value is expected after "{operator}" in {what}: it applies to the tag that follows it')


def _unsupported(word: str, what: str) -> InvalidQuery:
    rest = word.removeprefix(_MARK)
    # Longest first: "__$nop" is no "__$no" with a "p".
    for operator in sorted(_OPERATORS, key=len, reverse=True):
        if rest.startswith(operator):
            return InvalidQuery(
                f"Unsupported operator {word!r:.80} in {what}. Is a comma missing between "
                f'"{_MARK}{operator}" and "{rest.removeprefix(operator):.60}"? Python joins two texts that have none'
            )
    known = ", ".join(f"{_MARK}{name}" for name in _OPERATORS)
    return InvalidQuery(f"Unsupported operator {word!r:.80} in {what}; there are {known}")


def _check_joined(word: str, what: str) -> None:
    before, mark, after = word.rpartition(_MARK)
    if mark and before.strip("-") and after in _OPERATORS:
        raise InvalidQuery(
            f"Unsupported operator {word!r:.80} in {what}. Is a comma missing between "
            f'"{before:.60}" and "{_MARK}{after}"? Python joins two texts that have none'
        )
