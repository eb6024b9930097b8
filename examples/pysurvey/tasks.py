"""The handlers. A broken file fails for good at its first attempt; one that cannot be read now may be readable later."""

from __future__ import annotations

import asyncio
import warnings
from typing import Final

from examples.pysurvey.measure import Measures, deflated_size, lzma_size, measure, read_source
from examples.pysurvey.report import Summary, write_report
from shiftboss import Attempt, Constant, task

# Trying again changes nothing for a file that Python cannot decode or parse.
BROKEN: Final = (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, MemoryError)
MAX_ATTEMPTS: Final = 3

# Parsing repeats what a compiler would warn about, once for every odd string in somebody else's code.
warnings.filterwarnings("ignore", category=SyntaxWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)


@task(type="survey:file", max_attempts=MAX_ATTEMPTS, timeout=60, backoff=Constant(0.5), no_retry_on=BROKEN)
def survey_file(path: str) -> Measures:
    """Read, decode, parse, measure and compress one file, in a thread of an executor."""
    text, encoding = read_source(path)
    return measure(path, text, encoding, deflated_size(text))


@task(type="survey:file_async", max_attempts=MAX_ATTEMPTS, timeout=60, backoff=Constant(0.5), no_retry_on=BROKEN)
async def survey_file_async(path: str) -> Measures:
    """The same as a coroutine: what would block the event loop runs in threads; lzma and reading release the GIL."""
    text, encoding = await asyncio.to_thread(read_source, path)
    compressed = await asyncio.to_thread(lzma_size, text)
    return await asyncio.to_thread(measure, path, text, encoding, compressed)


@task(type="survey:ping", priority=50)
def ping() -> None:
    """Does nothing, quickly: shows how soon an idle service starts a task."""


@task(type="survey:report", max_attempts=2, timeout=60)
def report(attempt: Attempt, database_url: str, folder: str) -> Summary:
    """Add up all results and write `report.json` and `report.md` into `folder`."""
    return write_report(database_url, folder, lambda done: attempt.progress(50, f"{done} results read"))
