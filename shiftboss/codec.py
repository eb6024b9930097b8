"""A handler's arguments as JSON, by its annotations; checked when stored, decoded again when run.

The arguments are one JSON object, parameter name -> value, so that an operator can read `args->>'user_id'`. An argument
that was left out is not stored: the default of the code that runs the task decides, as in any call.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, Final, Literal, Union

import msgspec
from msgspec import UNSET, UnsetType

from shiftboss.errors import ArgumentsError, TaskDefinitionError
from shiftboss.logs.line import clip
from shiftboss.roundtrip import Flaw, equal, first_difference, first_unstorable, suspicious, type_nodes

DEFAULT_MAX_ARGS_BYTES: Final = 1_048_576

_NOTHING: Final = msgspec.Raw(b"{}")
_MAX_PATH_CHARS: Final = 300
_encode: Final = msgspec.json.Encoder().encode
_astuple: Final = msgspec.structs.astuple
_AT: Final = re.compile(r"^(?P<what>.*) - at `(?P<path>.*)`$", re.DOTALL)
_VARIADIC: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_HIDES_NULL: Final = (msgspec.inspect.StructType, msgspec.inspect.DataclassType)


class ArgumentsCodec:
    """The arguments of one handler. Thread-safe."""

    def __init__(self, type_name: str, parameters: Mapping[str, Parameter]) -> None:
        """Build it from resolved annotations (the injected `Attempt` taken out).

        Raises:
            TaskDefinitionError: an annotation has no JSON form.
            NameError: a name inside an annotation is not defined yet.
        """
        self._type_name = type_name
        self._parameters = dict(parameters)
        self._signature = inspect.Signature(list(parameters.values()))
        # Positional arguments alone are bound by the struct itself, in C.
        self._binds_itself = all(p.kind is Parameter.POSITIONAL_OR_KEYWORD for p in parameters.values())
        self._has_optional = any(p.default is not Parameter.empty or p.kind in _VARIADIC for p in parameters.values())
        self._is_plain = self._binds_itself and not self._has_optional
        self._variadic = next((name for name, p in parameters.items() if p.kind is Parameter.VAR_POSITIONAL), None)
        self._struct, self._hides_null = self._define()
        self._decoder = msgspec.json.Decoder(self._struct)
        self._decode = self._decoder.decode

    def _define(self) -> tuple[type[msgspec.Struct], bool]:
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        hides_null = False
        for name, parameter in self._parameters.items():
            kind = _field_type(parameter)
            hides_null |= check_annotation(f"{self._type_name}: parameter {name}", kind)
            if parameter.default is Parameter.empty and parameter.kind not in _VARIADIC:
                fields.append((name, kind))
            else:
                fields.append((name, Union[kind, UnsetType], UNSET))  # noqa: UP007  `None | X` and strings have no `|`
        try:
            struct = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=not self._binds_itself)
            msgspec.json.Decoder(struct)
        except (TypeError, ValueError) as error:
            raise TaskDefinitionError(f"{self._type_name}: its parameters cannot be arguments of a task: {error}") from error
        return struct, hides_null

    # ---- at enqueue

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_bytes: int = DEFAULT_MAX_ARGS_BYTES) -> msgspec.Raw:
        """The arguments of a call as JSON, after the same round trip that the handler will see.

        Raises:
            ArgumentsError: they do not fit the annotations, or cannot be stored; names the task type and the argument.
        """
        if not (args or kwargs or self._parameters):
            return _NOTHING  # neither given nor taken: nothing to check
        bound = self._bind(args, kwargs)
        try:
            raw = _encode(bound)
            if len(raw) <= max_bytes and not suspicious(raw):
                back = self._decoder.decode(raw)
                if equal(bound, back) and not (self._hides_null and b"null" in raw):
                    return msgspec.Raw(raw)
        except MemoryError:
            raise  # of this moment and not of the values
        except Exception as error:  # somebody's values: whatever they raise, the message names the argument
            raise self._explain(bound, error) from error
        return self._encode_slowly(bound, raw, max_bytes)

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> msgspec.Struct:
        if self._binds_itself:
            try:
                return self._struct(*args, **kwargs)
            except TypeError:
                pass  # the signature below says it better
        try:
            arguments = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise ArgumentsError(f"{self._type_name}: {error}; the handler takes {self._signature}") from None
        if self._variadic is not None and self._variadic in arguments:
            arguments[self._variadic] = list(arguments[self._variadic])  # as it will come back
        return self._struct(**arguments)

    def _encode_slowly(self, bound: msgspec.Struct, raw: bytes, max_bytes: int) -> msgspec.Raw:
        if len(raw) > max_bytes:
            raise self._too_large(bound, raw, max_bytes)
        for name in bound.__struct_fields__:
            if flaw := first_unstorable(getattr(bound, name), name) if getattr(bound, name) is not UNSET else None:
                raise self._error(flaw)
        back = self.decode(raw)
        for name in bound.__struct_fields__:
            sent = getattr(bound, name)
            if flaw := first_difference(sent, getattr(back, name), name) if sent is not UNSET else None:
                raise self._error(flaw)
        return msgspec.Raw(raw)

    def _error(self, flaw: Flaw) -> ArgumentsError:
        return ArgumentsError(f"{self._type_name}: argument {clip(flaw.path, _MAX_PATH_CHARS)} {flaw.why}")

    def _explain(self, bound: msgspec.Struct, error: Exception) -> ArgumentsError:
        if isinstance(error, msgspec.ValidationError):
            return self._mismatch(error)
        for name in bound.__struct_fields__:
            value = getattr(bound, name)
            if value is not UNSET and (flaw := first_unstorable(value, name)):
                return self._error(flaw)
        return ArgumentsError(f"{self._type_name}: the arguments cannot be stored as JSON: {error}")

    def _mismatch(self, error: msgspec.ValidationError) -> ArgumentsError:
        what, path = where(error)
        if not path:
            return ArgumentsError(f"{self._type_name}: {what}; the handler takes {self._signature}")
        parameter = self._parameters.get(re.split(r"[.\[]", path, maxsplit=1)[0])
        hint = f"; the handler declares {parameter}" if parameter is not None else ""
        return ArgumentsError(f"{self._type_name}: argument {path}: {what}{hint}")

    def _too_large(self, bound: msgspec.Struct, raw: bytes, max_bytes: int) -> ArgumentsError:
        sizes = {
            name: len(_encode(getattr(bound, name))) for name in bound.__struct_fields__ if getattr(bound, name) is not UNSET
        }
        largest = max(sizes, key=sizes.__getitem__)
        return ArgumentsError(
            f"{self._type_name}: the arguments are {len(raw):,} bytes of JSON, more than max_args_bytes={max_bytes:,}; "
            f"the largest is argument {largest} with {sizes[largest]:,}. Store it elsewhere and pass a reference."
        )

    # ---- at the attempt

    def decode(self, raw: bytes | msgspec.Raw) -> msgspec.Struct:
        """Stored arguments back as values of the annotated types.

        Raises:
            ArgumentsError: they do not fit this code's annotations; an older or newer version may have enqueued them.
        """
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise self._mismatch(error) from None
        except msgspec.DecodeError as error:
            raise ArgumentsError(f"{self._type_name}: the stored arguments are not JSON: {error}") from None

    def call(self, handler: Callable[..., Any], first: tuple[Any, ...], raw: bytes | msgspec.Raw) -> Any:
        """Call `handler` with `first` and then the stored arguments.

        Raises:
            ArgumentsError: see `decode`. Everything else comes from the handler.
        """
        try:
            values = self._decode(raw)
        except msgspec.DecodeError:
            values = self.decode(raw)  # says it better
        if self._is_plain:
            return handler(*first, *_astuple(values))
        args, kwargs = self._split(values)
        return handler(*first, *args, **kwargs)

    def _split(self, values: msgspec.Struct) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        gap = False  # an argument was left out: those after it go by name
        for name, parameter in self._parameters.items():
            value = getattr(values, name)
            if value is UNSET:
                gap = True
            elif parameter.kind is Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is Parameter.KEYWORD_ONLY or gap:
                kwargs[name] = value
            else:
                args.append(value)
        return args, kwargs

    def arguments(self, raw: bytes | msgspec.Raw) -> dict[str, Any]:
        """Stored arguments by parameter name, without those that were left out."""
        values = self.decode(raw)
        return {name: getattr(values, name) for name in values.__struct_fields__ if getattr(values, name) is not UNSET}


def encode_untyped(
    what: str,
    arguments: Mapping[str, object],
    max_bytes: int = DEFAULT_MAX_ARGS_BYTES,
    *,
    noun: Literal["argument", "meta"] = "argument",
) -> msgspec.Raw:
    """A JSON object from plain values, for a type whose handler this process does not know, and for `meta`.

    Raises:
        ArgumentsError: a value is not plain JSON.
    """
    plain = dict(arguments)
    for name, value in plain.items():
        if not isinstance(name, str):
            raise ArgumentsError(f"{what}: {noun} name {name!r} is not a string")
        if flaw := first_unstorable(name, f"name {name!r}") or first_unstorable(value, name):
            raise ArgumentsError(f"{what}: {noun} {clip(flaw.path, _MAX_PATH_CHARS)} {flaw.why}")
    raw = _encode(plain)
    if len(raw) > max_bytes:
        raise ArgumentsError(f"{what}: {noun}s of {len(raw):,} bytes of JSON are more than {max_bytes:,}; store them elsewhere")
    back = msgspec.json.decode(raw)
    for name, value in plain.items():
        if flaw := first_difference(value, back[name], name):
            raise ArgumentsError(f"{what}: {noun} {flaw.path} {flaw.why}")
    return msgspec.Raw(raw)


def _field_type(parameter: Parameter) -> Any:
    kind = Any if parameter.annotation is Parameter.empty else parameter.annotation
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return list[kind]  # type: ignore[valid-type]
    if parameter.kind is Parameter.VAR_KEYWORD:
        return dict[str, kind]  # type: ignore[valid-type]
    return kind


def check_annotation(what: str, kind: Any) -> bool:
    """Refuse what msgspec would hand through unseen; whether equality of such a value may overlook a null inside it."""
    if kind is Any:
        return False
    try:
        nodes = list(type_nodes(msgspec.inspect.type_info(kind)))
    except (TypeError, ValueError) as error:
        raise TaskDefinitionError(f"{what} cannot be stored as JSON: {error}") from error
    for node in nodes:
        if isinstance(node, msgspec.inspect.CustomType):
            raise TaskDefinitionError(
                f"{what} is {node.cls.__qualname__}, which has no JSON form; pass its plain data, an id, or a dataclass"
            )
    return any(isinstance(node, _HIDES_NULL) for node in nodes)


def where(error: msgspec.DecodeError) -> tuple[str, str]:
    """What msgspec says is wrong, and the path without its root: `("Expected `int`, got `str`", "user_id")`."""
    match = _AT.match(str(error))
    if match is None:
        return str(error), ""
    return match["what"], match["path"].replace("$.", "").removeprefix("$")
