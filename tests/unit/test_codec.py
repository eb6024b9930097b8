"""Arguments and results survive the way through JSON, or are refused with the name of what is wrong."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from inspect import signature
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftboss.codec import ArgumentsCodec, encode_untyped
from shiftboss.errors import ArgumentsError, ResultError, TaskDefinitionError
from shiftboss.results import MAX_RESULT_BYTES, ResultCodec


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Address:
    street: str
    number: int | None = None


@dataclass
class Person:
    name: str
    home: Address
    friends: list[Person] = field(default_factory=list)


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


class Pair(NamedTuple):
    left: int
    right: str


class Shape(TypedDict):
    sides: int


@dataclass(eq=False)
class Reading:
    """Equal to nothing but itself: the check must compare its fields."""

    value: float | None


@dataclass
class Sample:
    """Equal to another whatever its value is: equality says nothing about what JSON lost."""

    name: str
    value: float | None = field(default=None, compare=False)


def codec_of(kind: Any) -> ArgumentsCodec:
    def handler(value: Any) -> None: ...

    (parameter,) = signature(handler).parameters.values()
    return ArgumentsCodec("t", {"value": parameter.replace(annotation=kind)})


def codec(function: Any) -> ArgumentsCodec:
    return ArgumentsCodec("t", signature(function, eval_str=True).parameters)


def round_trip(kind: Any, value: object) -> Any:
    it = codec_of(kind)
    return it.call(lambda value: value, (), it.encode((value,), {}))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (str, "blåbær 😀"),
        (int, -(2**63)),
        (int, 2**64 - 1),
        (float, 1.5),
        (float, -0.0),
        (bool, True),
        (None, None),
        (list[int], [1, 2]),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2, 3)),
        (set[str], {"a", "b"}),
        (frozenset[int], frozenset({1})),
        (dict[str, int], {"a": 1}),
        (dict[int, str], {1: "a"}),
        (dict[UUID, int], {UUID(int=7): 1}),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
        (datetime, datetime(2026, 1, 2, 3, 4, 5)),  # noqa: DTZ001  without a zone is a value too
        (datetime, datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        (date, date(2026, 1, 2)),
        (time, time(3, 4, 5)),
        (timedelta, timedelta(days=1, seconds=2.5)),
        (UUID, UUID(int=5)),
        (Decimal, Decimal("1.10")),
        (Colour, Colour.RED),
        (Level, Level.LOW),
        (Literal["a", "b"], "b"),
        (bytes, b"\x00\xff"),
        (Address, Address("Storgata", None)),
        (Person, Person("Kari", Address("Storgata", 1), [Person("Ola", Address("Lia"))])),
        (Point, Point(1.0)),
        (Pair, Pair(1, "x")),
        (Shape, {"sides": 3}),
        (int | None, None),
        (int | str, "x"),
        (list[Address] | None, [Address("a")]),
        (dict[str, Any], {"a": [1, 2.5, None, {"b": True}]}),
        (Any, {"a": [1, "x"]}),
        (str, "a backslash and text: \\u0000 [[[{{{"),
    ],
)
def test_value_comes_back_as_it_was(kind: Any, value: object) -> None:
    back = round_trip(kind, value)
    assert back == value
    assert type(back) is type(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_any_json_value_comes_back(value: object) -> None:
    assert round_trip(Any, value) == value


@settings(max_examples=200, deadline=None)
@given(st.text() | st.floats() | st.integers() | st.lists(st.floats(), max_size=3) | st.datetimes() | st.binary())
def test_what_is_accepted_comes_back_and_the_rest_is_refused(value: object) -> None:
    try:
        back = round_trip(Any, value)
    except ArgumentsError as error:
        assert "value" in str(error)
    else:
        assert back == value


@settings(max_examples=100, deadline=None)
@given(st.builds(Person, st.text("abc"), st.builds(Address, st.text("xyz"), st.none() | st.integers(0, 9)), st.just([])))
def test_dataclasses_come_back(person: Person) -> None:
    assert round_trip(Person, person) == person


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (float, math.nan, "argument value"),
        (Any, math.nan, "argument value is nan"),
        (float | None, math.inf, "argument value is inf"),
        (list[float | None], [1.0, -math.inf], r"argument value\[1\] is -inf"),
        (Any, {"a": [math.nan]}, r"argument value\['a'\]\[0\] is nan"),
        (Reading, Reading(math.nan), r"argument value.*nan"),
        (Sample, Sample("a", math.nan), r"argument value\['value'\] is nan"),
        (str, "\ud800", "argument value holds a lone surrogate"),
        (list[str], ["a", "b\ud800"], r"argument value\[1\] holds a lone surrogate"),
        (dict[str, int], {"\udfff": 1}, "a key of value holds a lone surrogate"),
        (str, "a\0b", "argument value holds a NUL"),
        (Any, {"k\0": 1}, "a key of value holds a NUL"),
        (Person, Person("x\0", Address("a")), r"argument value\['name'\] holds a NUL"),
        (int, 2**64, "argument value is a number beyond 64 bits"),
        (int, -(2**63) - 1, "argument value is a number beyond 64 bits"),
        (Any, datetime(2026, 1, 1, tzinfo=UTC), "annotate it as datetime"),
        (Any, [Decimal("1.5")], r"argument value\[0\] is a Decimal .* annotate it as Decimal"),
        (Any, {1: "a"}, "annotate the type of the keys"),
        (Any, {"s": {1, 2}}, "set"),
        (Any, Address("x"), "annotate it as Address"),
        (dict[str, Any], {"b": b"x"}, "annotate it as bytes"),
        (str, UUID(int=1), "argument value is a UUID and would reach the handler as a str"),
        (str, Colour.RED, "Colour"),
        (Any, object(), "no JSON form"),
        (Any, 1 + 2j, "no JSON form"),
        (int, "1", "argument value: Expected `int`, got `str`; the handler declares value: int"),
        (Person, Person("x", Address(5)), r"argument value.home.street: Expected `str`, got `int`"),  # type: ignore[arg-type]
        (Colour, "green", "argument value: Invalid enum value"),
    ],
)
def test_refused_with_the_name_of_the_argument(kind: Any, value: object, says: str) -> None:
    with pytest.raises(ArgumentsError, match=says) as caught:
        codec_of(kind).encode((value,), {})
    assert str(caught.value).startswith("t: argument")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_too_deep_is_refused_and_deep_enough_is_not() -> None:
    assert round_trip(Any, nested(90)) == nested(90)
    for depth in (150, 5_000, 100_000):
        with pytest.raises(ArgumentsError, match="nested deeper than 100 levels"):
            codec_of(Any).encode((nested(depth),), {})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ArgumentsError, match="contains itself"):
        codec_of(Any).encode((loop,), {})


def test_many_brackets_are_not_deep() -> None:
    value = [["[[[", {"a": []}]] * 500
    assert round_trip(Any, value) == value


def test_size_limit_names_the_largest() -> None:
    def handler(small: str, large: str) -> None: ...

    with pytest.raises(ArgumentsError, match=r"max_args_bytes=1,000; the largest is argument large with 2,002"):
        codec(handler).encode(("x", "y" * 2_000), {}, 1_000)
    assert codec(handler).encode(("x", "y" * 2_000), {}, 3_000)


def test_every_kind_of_parameter() -> None:
    def handler(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **more: date) -> tuple[Any, ...]:
        return a, b, c, rest, d, e, more

    it = codec(handler)

    def call(*args: Any, **kwargs: Any) -> Any:
        return it.call(handler, (), it.encode(args, kwargs))

    assert call(1, 2, d=4) == handler(1, 2, d=4)
    assert call(1, b=2, d=4, e=6) == handler(1, b=2, d=4, e=6)
    assert call(1, 2, 3, 4, 5, d=4, x=date(2026, 1, 1)) == handler(1, 2, 3, 4, 5, d=4, x=date(2026, 1, 1))
    with pytest.raises(ArgumentsError, match="missing a required argument: 'b'"):
        call(1, d=4)
    with pytest.raises(ArgumentsError, match=r"argument rest\[1\]: Expected `int`"):
        call(1, 2, 3, 4, "x", d=4)
    with pytest.raises(ArgumentsError, match=r"argument more"):
        call(1, 2, d=4, x="not a date")


def test_stored_by_name_and_only_what_was_given() -> None:
    def handler(user_id: int, lang: str = "en", loud: bool = False) -> None: ...

    it = codec(handler)
    assert msgspec.json.decode(it.encode((42,), {})) == {"user_id": 42}
    assert msgspec.json.decode(it.encode((42,), {"loud": True})) == {"user_id": 42, "loud": True}
    assert it.arguments(b'{"user_id":1}') == {"user_id": 1}


def test_a_handler_without_parameters_takes_no_arguments() -> None:
    def nightly() -> str:
        return "done"

    it = codec(nightly)
    assert bytes(it.encode((), {})) == b"{}"
    assert it.call(nightly, (), it.encode((), {})) == "done"
    with pytest.raises(ArgumentsError, match="too many positional arguments"):
        it.encode((1,), {})
    with pytest.raises(ArgumentsError, match="unexpected keyword argument 'lang'"):
        it.encode((), {"lang": "no"})


def test_a_handler_that_needs_an_argument_is_not_enqueued_without() -> None:
    with pytest.raises(ArgumentsError, match="missing a required argument: 'value'"):
        codec_of(int).encode((), {})


def test_a_left_out_argument_takes_the_default_of_the_code_that_runs() -> None:
    def old(a: int = 1, b: int = 2) -> None: ...
    def new(a: int = 10, b: int = 20) -> tuple[int, int]:
        return a, b

    assert codec(new).call(new, (), codec(old).encode((), {"b": 5})) == (10, 5)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing a required argument: 'user_id'"),
        ((1, "en", 3), {}, "too many positional arguments"),
        ((1,), {"unknown": 1}, "unexpected keyword argument 'unknown'"),
        ((1,), {"user_id": 1}, "multiple values for argument 'user_id'"),
    ],
)
def test_call_that_does_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any], says: str) -> None:
    def handler(user_id: int, lang: str = "en") -> None: ...

    with pytest.raises(ArgumentsError, match=says) as caught:
        codec(handler).encode(args, kwargs)
    assert "the handler takes (user_id: int, lang: str = 'en')" in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"a":"x"}', "argument a: Expected `int`"),
        (b"{}", "missing required field `a`"),
        (b'{"a":1,"z":2}', "unknown field `z`"),
        (b"[1]", "Expected `object`"),
        (b"{", "not JSON"),
    ],
)
def test_stored_arguments_of_other_code_are_explained(raw: bytes, says: str) -> None:
    def handler(a: int) -> None: ...

    with pytest.raises(ArgumentsError, match=says):
        codec(handler).decode(raw)


class Socketish:
    pass


@pytest.mark.parametrize("kind", [Socketish, list[Socketish], complex, dict[str, range], datetime | UUID])
def test_annotation_without_json_form_is_refused_at_definition(kind: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="t: parameter value"):
        codec_of(kind)


def test_untyped_takes_plain_json_only() -> None:
    assert msgspec.json.decode(encode_untyped("t", {"a": [1, None, {"b": "c"}]})) == {"a": [1, None, {"b": "c"}]}
    for value in (math.nan, {1}, uuid4(), "\0", b"x", 2**70, {1: 2}, date(2026, 1, 1)):
        with pytest.raises(ArgumentsError, match="t: argument"):
            encode_untyped("t", {"a": value})
    with pytest.raises(ArgumentsError, match="more than 10"):
        encode_untyped("t", {"a": "x" * 100}, 10)


@pytest.mark.parametrize(
    ("kind", "value"), [(int, 7), (list[Address], [Address("a", 1)]), (Any, {"a": 1}), (None, None), (Address | None, None)]
)
def test_result_comes_back(kind: Any, value: object) -> None:
    it = ResultCodec("t", kind)
    assert it.decode(it.encode(value)) == value


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (int, "x", "result: Expected `int`, got `str`"),
        (int, None, "Expected `int`, got `null`"),
        (None, 5, "Expected `null`"),
        (Any, object(), "no JSON form"),
        (Any, math.nan, "nan"),
        (Any, {1, 2}, "set"),
        (Reading, Reading(math.inf), "inf"),
        (Sample, Sample("a", math.inf), "inf"),
        (str, "\0", "NUL"),
        (int, 2**64, "beyond 64 bits"),  # these two in as few bytes as can be
        (Any, nested(102), "nested deeper than 100 levels"),
        (str, "x" * MAX_RESULT_BYTES, "store it elsewhere"),
    ],
)
def test_result_that_cannot_be_stored(kind: Any, value: object, says: str) -> None:
    with pytest.raises(ResultError, match=says):
        ResultCodec("t", kind).encode(value)


def test_result_of_other_code_is_explained() -> None:
    with pytest.raises(ResultError, match="does not fit the return annotation"):
        ResultCodec("t", int).decode(b'"x"')
