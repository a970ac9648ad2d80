"""Tag expressions: the page's examples, the traps of the system it describes, and an oracle written apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import InvalidQuery
from telemetry.server.store.tag_query import AllOf, AnyOf, Has, HasNone, Not, parse_tags

LETTERS = "abcdefg"
SETS = [frozenset(chosen) for size in range(len(LETTERS) + 1) for chosen in combinations(LETTERS, size)]


def admitted(query: Sequence[str | None]) -> set[frozenset[str]]:
    expression = parse_tags(query)
    return {tags for tags in SETS if expression.matches(tags)}


def expected(formula: str) -> set[frozenset[str]]:
    """Return the sets of tags for which a Python formula over the letters is true."""
    code = compile(formula, "formula", "eval")
    return {tags for tags in SETS if eval(code, {}, {letter: letter in tags for letter in LETTERS})}


@pytest.mark.parametrize(
    ("query", "formula"),
    [
        # The page's five examples; in the third one the comma that it lacks was put in.
        (["a", "b", "c"], "a or b or c"),
        (["__$and", "a", "b", "c"], "a and b and c"),
        (["__$not", "a", "b", "__$not", "c"], "not a and b and not c"),
        (["a", "b", "__$and", "c", "d"], "a or b or (c and d)"),
        (["__$and", "__$or", "a", "b", "__$and", "c", "d"], "(a or b) and c and d"),
    ],
)
def test_the_examples_of_the_page(query: list[str], formula: str) -> None:
    assert admitted(query) == expected(formula)


@pytest.mark.parametrize(
    ("query", "formula"),
    [
        (["__$or", "a", "b", "__$and", "c", "d"], "a or b or (c and d)"),
        (["a", "-b"], "a and not b"),
        (["-b", "a"], "a and not b"),
        (["a", "b", "-c", "-d"], "(a or b) and not c and not d"),
        (["-a"], "not a"),
        (["-a", "-b"], "not a and not b"),
        # Elsewhere a literal tag "-b"
        (["__$all", "a", "-b"], "a and not b"),
        (["__$and", "a", "__$not", "b"], "a and not b"),
        (["__$or", "a", "__$not", "b"], "a or not b"),
        (["__$or", "a", "-b"], "a or not b"),
        (["__$any", "a", "b"], "a or b"),
        (
            ["__$all", "a", "b", "c", "__$or", "d", "__$not", "e", "__$and", "__$or", "f", "g"],
            "a and b and c and (d or not e) and (f or g)",
        ),
        # Several groups of one operator stay apart
        (["__$and", "__$or", "a", "b", "__$or", "c", "d"], "(a or b) and (c or d)"),
        (["a", "__$and", "b", "c", "__$and", "d", "e"], "a or (b and c) or (d and e)"),
        (["__$and", "a", "b", "__$or", "c", "d"], "a and b and (c or d)"),
        # Back to the default
        (["__$and", "a", "__$or", "b", "c", "__$nop", "d", "e"], "a and (b or c) and d and e"),
        (["__$nop", "a", "-b"], "a and not b"),
        # An operator that no tag follows changes nothing: lists are often put together
        (["a", "b", "__$and"], "a or b"),
        (["__$and"], "True"),
        ([], "True"),
        (["a", "a"], "a"),
    ],
)
def test_the_traps(query: list[str], formula: str) -> None:
    assert admitted(query) == expected(formula)


def test_none_also_admits_what_has_no_tags() -> None:
    assert admitted(["a", None]) == expected("a") | {frozenset()}
    assert admitted(["__$and", "a", None, "b"]) == expected("a and b") | {frozenset()}
    assert admitted([None]) == {frozenset()}


def test_a_single_text_is_one_tag_and_not_its_letters() -> None:
    assert parse_tags("ab") == Has("ab")
    assert parse_tags("-ab") == Not(Has("ab"))


def test_a_tag_that_begins_with_a_dash_is_excluded_by_not() -> None:
    assert parse_tags(["__$not", "-old"]) == Not(Has("-old"))
    assert parse_tags(["--old"]) == Not(Has("-old"))


def test_the_tree_is_as_small_as_what_it_says() -> None:
    assert parse_tags(["a", "b", "__$and", "c", "d"]) == AnyOf(
        (AnyOf((Has("a"), Has("b"))), AllOf((Has("c"), Has("d"))))
    )
    assert parse_tags(["a", None]) == AnyOf((Has("a"), HasNone()))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        # As printed on the page: Python joins the two
        (["__$not", "a", "b", "__$notc"], 'Unsupported operator .*comma missing between "__\\$not" and "c"'),
        (["__$anda"], 'comma missing between "__\\$and" and "a"'),
        (["a__$and", "b"], 'comma missing between "a" and "__\\$and"'),
        (["__$xor", "a"], "Unsupported operator '__\\$xor' .*there are __\\$or"),
        (["__$", "a"], "Unsupported operator"),
        (["a", "-__$and", "b"], "Unsupported operator"),
        (["a", "__$not"], 'Value is expected after "__\\$not"'),
        (["__$not", "__$and", "a"], 'Value is expected after "__\\$not"'),
        (["__$not", "__$not", "a"], 'Value is expected after "__\\$not"'),
        (["__$not", None], 'Value is expected after "__\\$not"'),
        (["-"], 'Value is expected after "-"'),
        ([""], "empty"),
        ([1], "must hold texts only, not int"),
        (7, "must be a list of texts, not int"),
        ({"a": 1}, "must be a list of texts, not dict"),
    ],
)
def test_what_cannot_be_read_is_named(query: list[str], said: str) -> None:
    with pytest.raises(InvalidQuery, match=said):
        parse_tags(query)
    with pytest.raises(InvalidQuery, match=r"in status|status must|status holds"):
        parse_tags(query, "status")


NO_TAG = [[], *([word] for word in ("__$or", "__$any", "__$and", "__$all"))]


def oracle(query: list[str], tags: frozenset[str]) -> bool:
    """The page's words once more, evaluated on the spot and without a tree."""
    words = [("-", query[i]) if i and query[i - 1] == "__$not" else query[i] for i in range(len(query))]
    words = [word for word in words if word != "__$not"]
    operators = {"__$or": any, "__$any": any, "__$and": all, "__$all": all}
    # An operator that no tag follows changes nothing, but that the list begins with it.
    named = [
        word for i, word in enumerate(words) if word in operators and (not i or words[i + 1 : i + 2] not in NO_TAG)
    ]

    def holds(word: object) -> bool:
        if isinstance(word, tuple):
            return word[1] not in tags
        assert isinstance(word, str)
        return word[1:] not in tags if word.startswith("-") else word in tags

    if not named:
        wanted = [word for word in words if not isinstance(word, tuple) and not word.startswith("-")]
        unwanted = [word for word in words if word not in wanted]
        return (not wanted or any(map(holds, wanted))) and all(map(holds, unwanted))
    top = operators.get(str(words[0]), any)
    results: list[bool] = []
    current, group = top, list[object]()
    for word in [*words, "__$or"]:
        if isinstance(word, str) and word in operators:
            if group:
                results.append(current(map(holds, group)))
            current, group = operators[word], []
        else:
            group.append(word)
    return top(results) if results else True


TAG = st.sampled_from("abcd")
PIECES = st.one_of(
    TAG.map(lambda tag: [tag]),
    TAG.map(lambda tag: [f"-{tag}"]),
    TAG.map(lambda tag: ["__$not", tag]),
    st.sampled_from(["__$or", "__$and", "__$any", "__$all"]).map(lambda word: [word]),
)


@given(pieces=st.lists(PIECES, max_size=9), tags=st.frozensets(TAG))
def test_every_list_says_what_the_oracle_says(pieces: list[list[str]], tags: frozenset[str]) -> None:
    query = [word for piece in pieces for word in piece]
    assert parse_tags(query).matches(tags) == oracle(query, tags)
