"""A function as a handler: its type name, its retry policy, and how its arguments and result are stored."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import typing
from collections.abc import Callable
from datetime import timedelta
from inspect import Parameter
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from shiftboss.bound import BoundTask
from shiftboss.codec import ArgumentsCodec
from shiftboss.context import Attempt
from shiftboss.errors import OptionError, TaskDefinitionError
from shiftboss.model import DEFAULT_MAX_ATTEMPTS, TypeInfo
from shiftboss.options import Options, checked_attempts, checked_name, checked_priority, checked_timeout, seconds
from shiftboss.results import ResultCodec
from shiftboss.retry import Constant, Exponential, RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")

Backoff = Callable[[int], float] | Callable[[int], timedelta]
ErrorTypes = type[BaseException] | tuple[type[BaseException], ...]


class Task(BoundTask[P, R]):
    """A handler with its type, options and retry policy. Calling it calls the function.

    Attributes:
        type: its stable name in the database.
        handler: the function.
        function_name: `module:qualname`.
        is_async: whether it is `async def`.
        takes_attempt: whether an `Attempt` is injected as its first parameter; known once `codecs()` was called.
        retry_policy: which errors are tried again, how often, when.
        timeout_s: for one attempt; `None` without.
    """

    def __init__(
        self,
        handler: Callable[..., Any],
        *,
        type: str | None = None,  # noqa: A002  the word of the domain
        queue: str = "default",
        priority: int = 0,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        timeout: float | timedelta | None = None,
        backoff: Backoff | None = None,
        retry_on: ErrorTypes | None = None,
        no_retry_on: ErrorTypes = (),
    ) -> None:
        """See `task`. Raises `TaskDefinitionError`."""
        _check_function(handler)
        self.handler = handler
        self.function_name = _function_name(handler)
        self.is_async = inspect.iscoroutinefunction(handler)
        self.takes_attempt = False
        try:
            self.type = checked_name("type", type or self.function_name)
            super().__init__(self, Options(queue=checked_name("queue", queue), priority=checked_priority(priority)))
            self.timeout_s = None if timeout is None else checked_timeout(timeout)
            self.retry_policy = RetryPolicy(
                max_attempts=checked_attempts(max_attempts),
                backoff=_checked_backoff(backoff),
                # sys.exit() in a handler is a failure like any other, so the default reaches beyond Exception.
                retry_on=(BaseException,) if retry_on is None else _checked_errors("retry_on", retry_on),
                no_retry_on=_checked_errors("no_retry_on", no_retry_on),
            )
        except OptionError as error:
            raise TaskDefinitionError(f"@task on {self.function_name} ({self.place}): {error}") from None
        functools.update_wrapper(self, handler, updated=())
        self._codecs: tuple[ArgumentsCodec, ResultCodec] | None = None
        self._try_codecs()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.type} of {self.function_name}>"

    @property
    def place(self) -> str:
        """`file:line` of the function."""
        code = getattr(inspect.unwrap(self.handler), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else "unknown place"

    def info(self) -> TypeInfo:
        """What a worker has to know of it."""
        backoff = self.retry_policy.backoff
        base_s, max_s = 1.0, 3600.0
        if isinstance(backoff, Exponential):
            base_s, max_s = backoff.base_s, backoff.max_s
        elif isinstance(backoff, Constant):
            base_s = max_s = backoff.delay_s
        return TypeInfo(
            type=self.type,
            max_attempts=self.retry_policy.max_attempts,
            timeout_s=self.timeout_s,
            is_async=self.is_async,
            backoff_base_s=base_s,
            backoff_max_s=max_s,
        )

    def codecs(self) -> tuple[ArgumentsCodec, ResultCodec]:
        """How its arguments and its result are stored; built at first use, when circular imports have ended.

        Raises:
            TaskDefinitionError: an annotation cannot be resolved, or has no JSON form.
        """
        if self._codecs is None:
            try:
                self._codecs = self._build_codecs()
            except NameError as error:
                raise TaskDefinitionError(
                    f"@task on {self.function_name} ({self.place}): an annotation cannot be resolved: {error}; "
                    "import that name at run time, at the top of the module and not only under TYPE_CHECKING"
                ) from error
        return self._codecs

    def _try_codecs(self) -> None:
        # A name may be defined further down, or behind a circular import: then it is resolved at first use.
        with contextlib.suppress(NameError):
            self._codecs = self._build_codecs()

    def _build_codecs(self) -> tuple[ArgumentsCodec, ResultCodec]:
        hints = typing.get_type_hints(self.handler, include_extras=True)
        parameters = {
            name: parameter.replace(annotation=hints.get(name, parameter.annotation))
            for name, parameter in inspect.signature(self.handler).parameters.items()
        }
        first = next(iter(parameters.values()), None)
        self.takes_attempt = first is not None and first.annotation is Attempt
        if first is not None and self.takes_attempt:
            self._check_attempt(parameters.pop(first.name))
        for parameter in parameters.values():
            if parameter.annotation is Attempt:
                raise TaskDefinitionError(
                    f"{self.type}: parameter {parameter.name}: an Attempt is injected as the first one only"
                )
        return ArgumentsCodec(self.type, parameters), ResultCodec(self.type, hints.get("return", Parameter.empty))

    def _check_attempt(self, parameter: Parameter) -> None:
        if parameter.kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
            raise TaskDefinitionError(f"{self.type}: the injected Attempt {parameter.name} must be an ordinary first parameter")


def _check_function(handler: Callable[..., Any]) -> None:
    if not inspect.isfunction(handler):
        raise TaskDefinitionError(f"@task is for functions, not for {handler!r}; write a function that calls it")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TaskDefinitionError(f"@task on {_function_name(handler)}: a generator has no single result; return a list")


def _function_name(handler: Callable[..., Any]) -> str:
    return f"{_module_name(handler.__module__)}:{handler.__qualname__}"


def _module_name(module: str) -> str:
    """The module's name as a worker would import it: a script's own `__main__` is named after its file."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return str(spec.name.removesuffix(".__main__"))
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else module


def _checked_errors(option: str, errors: ErrorTypes) -> tuple[type[BaseException], ...]:
    given = errors if isinstance(errors, tuple) else (errors,)
    for error in given:
        if not (isinstance(error, type) and issubclass(error, BaseException)):
            raise OptionError(f"{option}={errors!r} must be an exception class or a tuple of them")
    return given


def _checked_backoff(backoff: Backoff | None) -> Callable[[int], float]:
    if backoff is None:
        return Exponential()
    if not callable(backoff):
        raise OptionError(
            f"backoff={backoff!r} must be callable, attempt -> seconds; for a fixed delay use Constant({backoff!r})"
        )
    if isinstance(backoff, Exponential | Constant):
        seconds("backoff(1)", backoff(1))
        return backoff

    @functools.wraps(backoff)
    def in_seconds(attempt: int) -> float:
        return seconds(f"backoff({attempt})", backoff(attempt))

    return in_seconds
