"""msgspec without typing_extensions understands the same types, and everybody else still gets typing_extensions."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Decodes what is right and what is wrong into types of typing_extensions, and says what came of it.
DECODING = """
import sys
from typing import Annotated, Generic, TypeVar
loaded = "typing_extensions" in sys.modules
import msgspec
import typing_extensions
from typing_extensions import NamedTuple, NotRequired, Required, TypedDict

class Address(TypedDict, total=False):
    street: Required[str]
    number: Annotated[int, msgspec.Meta(ge=1)]

class Person(TypedDict):
    name: typing_extensions.Annotated[str, msgspec.Meta(max_length=5)]
    age: NotRequired[int]
    home: NotRequired[Address]

class Point(NamedTuple):
    x: Annotated[int, msgspec.Meta(lt=10)]
    y: int = 0

T = TypeVar("T")

class Box(msgspec.Struct, Generic[T]):
    inside: T

for type_, text in [
    (Person, b'{"name":"Ada"}'),
    (Person, b'{"name":"Ada","age":36,"home":{"street":"x","number":2}}'),
    (Person, b'{"age":36}'),
    (Person, b'{"name":"Ada Lovelace"}'),
    (Person, b'{"name":"Ada","home":{"number":2}}'),
    (Person, b'{"name":"Ada","home":{"street":"x","number":0}}'),
    (Point, b'[1]'),
    (Point, b'[10,1]'),
    (Box[Annotated[str, msgspec.Meta(min_length=2)]], b'{"inside":"ab"}'),
    (Box[Annotated[str, msgspec.Meta(min_length=2)]], b'{"inside":"a"}'),
]:
    try:
        print(msgspec.json.decode(text, type=type_))
    except msgspec.ValidationError as error:
        print(error)
print(msgspec.json.schema(Person))
print("loaded:", loaded, file=sys.stderr)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)


def test_types_of_typing_extensions_decode_the_same_with_and_without_it() -> None:
    alone, as_it_comes = run("import shiftboss.msgspec_import" + DECODING), run("import msgspec" + DECODING)
    assert alone.stdout == as_it_comes.stdout
    assert alone.stdout.count("Expected") == 4 and "'number': 2" in alone.stdout
    assert alone.stderr == "loaded: False\n"


@pytest.mark.parametrize("module", ["shiftboss.service", "shiftboss.actors.process"])
def test_a_process_of_the_service_starts_without_it_and_can_import_it(module: str) -> None:
    told = run(
        f"import sys, {module}; before = 'typing_extensions' in sys.modules; "
        "import typing_extensions; print(before, typing_extensions.TypedDict.__module__)"
    )
    assert told.stdout.split() == ["False", "typing_extensions"]


def test_what_is_loaded_already_stays_as_it_is() -> None:
    told = run(
        "import sys, typing_extensions as real; import shiftboss.msgspec_import; "
        "print(sys.modules['typing_extensions'] is real, 'msgspec' in sys.modules)"
    )
    assert told.stdout.split() == ["True", "False"]
