"""A handler's result as JSON, by its return annotation."""

from __future__ import annotations

import inspect
from typing import Any, Final

import msgspec

from shiftboss.codec import check_annotation, where
from shiftboss.errors import ResultError
from shiftboss.model import NULL
from shiftboss.roundtrip import Flaw, equal, first_difference, first_unstorable, suspicious

MAX_RESULT_BYTES: Final = 1_048_576

_encode: Final = msgspec.json.Encoder().encode


class ResultCodec:
    """The result of one handler. Thread-safe."""

    def __init__(self, type_name: str, annotation: Any) -> None:
        """Build it from the resolved return annotation; `inspect.Signature.empty` is like `Any`.

        Raises:
            TaskDefinitionError: the annotation has no JSON form.
            NameError: a name inside it is not defined yet.
        """
        self._type_name = type_name
        self._kind = Any if annotation is inspect.Signature.empty else annotation
        self._always_none = annotation is None or annotation is type(None)
        self._hides_null = check_annotation(f"{type_name}: the return annotation", self._kind)
        self._decoder = msgspec.json.Decoder(self._kind)

    def allows_none(self) -> bool:
        """Whether the handler may return `None`, so that a missing result is not a lost one."""
        try:
            self._decoder.decode(NULL)
        except msgspec.ValidationError:
            return False
        return True

    def encode(self, result: object) -> msgspec.Raw:
        """The result as JSON; `NULL` when the handler is annotated to return nothing.

        Raises:
            ResultError: it cannot be stored, or does not fit the annotation.
        """
        if result is None and self._always_none:
            return NULL
        try:
            raw = _encode(result)
            if self._unharmed(result, raw):
                return msgspec.Raw(raw)
        except msgspec.ValidationError as error:
            what, path = where(error)
            raise ResultError(f"{self._type_name}: result{path}: {what}; fix the return annotation or what is returned") from None
        except MemoryError:
            raise  # of this moment and not of the value: the attempt failed, and another may find room
        except Exception as error:  # noqa: BLE001  somebody's values: whatever they raise, the message names the place
            flaw = first_unstorable(result, "result") or Flaw(
                "result", f"cannot be stored as JSON: {str(error) or type(error).__name__}"
            )
            raise self._error(flaw) from None
        return self._encode_slowly(result, raw)

    def _unharmed(self, result: object, raw: bytes) -> bool:
        if len(raw) > MAX_RESULT_BYTES or suspicious(raw):
            return False
        return equal(result, self._decoder.decode(raw)) and not (self._hides_null and b"null" in raw)

    def _encode_slowly(self, result: object, raw: bytes) -> msgspec.Raw:
        if len(raw) > MAX_RESULT_BYTES:
            raise self._error(
                Flaw("result", f"is {len(raw):,} bytes of JSON, more than {MAX_RESULT_BYTES:,}; store it elsewhere")
            )
        flaw = first_unstorable(result, "result") or first_difference(result, self._decoder.decode(raw), "result")
        if flaw:
            raise self._error(flaw)
        return msgspec.Raw(raw)

    def _error(self, flaw: Flaw) -> ResultError:
        return ResultError(f"{self._type_name}: {flaw.path} {flaw.why}")

    def decode(self, raw: bytes | msgspec.Raw) -> Any:
        """A stored result as a value of the annotated type.

        Raises:
            ResultError: it does not fit this code's annotation; an older or newer version may have stored it.
        """
        try:
            return self._decoder.decode(raw)
        except msgspec.DecodeError as error:
            what, path = where(error)
            raise ResultError(f"{self._type_name}: the stored result{path} does not fit the return annotation: {what}") from None
