"""What the survey wants to know of one source file. Ordinary functions: nothing here knows that it runs in a task."""

from __future__ import annotations

import ast
import lzma
import threading
import tokenize
import zlib
from dataclasses import dataclass
from typing import Final

Function = ast.FunctionDef | ast.AsyncFunctionDef
# Statements that push their bodies one level to the right.
_NESTS: Final = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match),
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
)
# Fields that hold statements, or parts of one that do. Expressions, nine nodes in ten, hold none.
_BLOCKS: Final = ("body", "orelse", "finalbody", "handlers", "cases")
# CPython counts the depth of the tree it makes once for all threads, and fails with "AST constructor recursion depth
# mismatch" when two parse at once. Parsing holds the GIL, so taking turns costs nothing.
_PARSING: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Measures:
    """One file in figures.

    Attributes:
        nesting: how many blocks stand around the most indented statement.
        longest: name of the longest function, empty without any.
        longest_lines: its length in lines.
        compressed: size in bytes after compression.
    """

    path: str
    encoding: str
    size: int
    lines: int
    functions: int
    classes: int
    nesting: int
    longest: str
    longest_lines: int
    compressed: int


def read_source(path: str) -> tuple[str, str]:
    """The text of a source file and its encoding, by its byte order mark or its coding line (PEP 263).

    Raises:
        OSError: it cannot be read.
        SyntaxError: the coding line names an encoding that does not exist, or contradicts the byte order mark.
        UnicodeDecodeError: its bytes are not of its encoding.
    """
    with tokenize.open(path) as file:
        return file.read(), file.encoding


def measure(path: str, text: str, encoding: str, compressed: int) -> Measures:
    """Parse the text and count.

    Raises:
        SyntaxError: it is not Python, or not of this version.
        ValueError: it holds a NUL character.
        RecursionError, MemoryError: it is nested deeper than the parser goes.
    """
    with _PARSING:
        tree = ast.parse(text, filename=path)
    functions = classes = deepest = longest_lines = 0
    longest = ""
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    while stack:  # a loop of its own: recursion would give up on files that Python itself accepts
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(node, ast.ClassDef):
            classes += 1
        elif isinstance(node, Function):
            functions += 1
            if (length := _length(node)) > longest_lines:
                longest, longest_lines = node.name, length
        inside = depth + isinstance(node, _NESTS)
        for block in _BLOCKS:
            stack.extend((child, inside) for child in getattr(node, block, ()))
    size, lines = len(text.encode("utf-8", "surrogatepass")), text.count("\n") + (not text.endswith("\n"))
    return Measures(path, encoding, size, lines, functions, classes, deepest, longest, longest_lines, compressed)


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def deflated_size(text: str) -> int:
    """Bytes after zlib: quick."""
    return len(zlib.compress(text.encode("utf-8", "surrogatepass"), 6))


def lzma_size(text: str) -> int:
    """Bytes after lzma: smaller and slow."""
    return len(lzma.compress(text.encode("utf-8", "surrogatepass"), preset=4))
