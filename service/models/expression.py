"""The values that a Python file writes down, computed from its syntax tree and never by Python itself."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from service.models import conventions

MAX_VALUES = 500_000
"""Most numbers, strings and containers that one file may make, those in between counted too."""
MAX_TEXT = 1 << 16
MAX_BITS = 256
MAX_DEPTH = 100

_IMPORTS: Mapping[tuple[str, str], Callable[[], tuple[str, ...]]] = {
    (
        "pointcept.datasets.preprocessing.scannet.meta_data.scannet200_constants",
        "CLASS_LABELS_200",
    ): lambda: conventions.names("ScanNet200"),
}
"""The constants that Pointcept's own configurations import. They are looked up here; nothing is imported."""

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class Refused(Exception):
    """The file does something else than write down values.

    Args:
        node: where.
        what: words that follow "has in line N".
    """

    def __init__(self, node: ast.AST, what: str) -> None:
        super().__init__(what)
        self.line = getattr(node, "lineno", 0)
        self.what = what


class Evaluator:
    """Runs a file's statements in order. Every value is a copy of its own, and all are counted."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}
        self._made = 0
        self._depth = 0

    def run(self, tree: ast.Module) -> dict[str, Any]:
        """Return the names that the file's assignments leave.

        Raises:
            Refused: a statement or expression that is not supported, or a value past the limits.
        """
        for statement in tree.body:
            self._statement(statement)
        return self._names

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    if not isinstance(target, ast.Name):
                        raise Refused(node, f"an assignment to {_shown(target)}; only plain names can be assigned")
                    self._names[target.id] = self.value(value)
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.Delete(targets=targets):
                for target in targets:
                    if not isinstance(target, ast.Name) or target.id not in self._names:
                        raise Refused(node, f"a `del` of {_shown(target)}, which is not a name set before")
                    del self._names[target.id]
            case ast.ImportFrom(module=module, names=names, level=0):
                for alias in names:
                    known = _IMPORTS.get((module or "", alias.name))
                    if known is None:
                        raise Refused(node, f"an import of {module}.{alias.name}; a configuration may not run code")
                    self._names[alias.asname or alias.name] = known()
            case ast.Import() | ast.ImportFrom():
                raise Refused(node, "an import; a configuration may not run code")
            case ast.Expr(value=expression):
                self.value(expression)
                raise Refused(node, f"the expression {_shown(expression)} on its own; only assignments are read")
            case _:
                raise Refused(node, f"a statement ({type(node).__name__}) that is not an assignment")

    def value(self, node: ast.expr) -> Any:
        """Return what an expression stands for."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Refused(node, f"an expression nested deeper than {MAX_DEPTH}")
        try:
            return self._value(node)
        finally:
            self._depth -= 1

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as constant):
                return self._made_of(node, constant)
            case ast.Name(id=name):
                if name not in self._names:
                    raise Refused(node, f"the name {name!r}, which is not set before")
                return self._copy(node, self._names[name])
            case ast.List(elts=elements):
                return self._elements(elements)
            case ast.Tuple(elts=elements):
                return tuple(self._elements(elements))
            case ast.Dict(keys=keys, values=values):
                return self._dict(node, keys, values)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not() as sign, operand=operand):
                return self._unary(node, sign, self.value(operand))
            case ast.BinOp(left=left, op=sign, right=right):
                return self._binary(node, self.value(left), sign, self.value(right))
            case ast.Subscript(value=inner, slice=index):
                return self._subscript(node, self.value(inner), index)
            case ast.JoinedStr(values=parts):
                return self._text(node, "".join(self._part(part) for part in parts))
            case ast.ListComp(elt=element, generators=generators):
                return self._comprehension(element, generators)
            case ast.Call():
                return self._call(node)
            case _:
                raise Refused(node, f"{_shown(node)}; only values, names set before and their arithmetic are read")

    def _call(self, node: ast.Call) -> Any:
        match node.func:
            case ast.Name(id="dict"):
                return self._dict_call(node)
            case ast.Attribute(value=ast.Constant(value=str() as text), attr="format") if not node.keywords:
                return self._format(node, text, [self.value(argument) for argument in node.args])
            case ast.Name(id="list" | "tuple" | "len" | "sum" | "range" as name) if not node.keywords:
                arguments = [self.value(argument) for argument in node.args]
                return self._sequence_call(node, name, arguments)
        raise Refused(node, f"a call of {_shown(node.func)}; a configuration may not run code")

    def _dict_call(self, node: ast.Call) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for argument in node.args:
            made.update(self._mapping(argument))
        for keyword in node.keywords:
            if keyword.arg is None:
                made.update(self._mapping(keyword.value))
            else:
                made[keyword.arg] = self.value(keyword.value)
        return made

    def _mapping(self, node: ast.expr) -> dict[Any, Any]:
        found = self.value(node)
        if not isinstance(found, dict):
            raise Refused(node, f"{_shown(node)} where a dict is wanted")
        return found

    def _sequence_call(self, node: ast.Call, name: str, arguments: list[Any]) -> Any:
        if name == "range" and 1 <= len(arguments) <= 3 and all(type(argument) is int for argument in arguments):
            if len(arguments) < 3 or arguments[2] != 0:
                # A list here, for all that a configuration does with it; its length is known before it is made.
                numbers = range(*arguments)
                self._charge(node, max(0, -(-(numbers.stop - numbers.start) // numbers.step)))
                return list(numbers)
        elif len(arguments) == 0 and name in ("list", "tuple"):
            return [] if name == "list" else ()
        elif len(arguments) == 1 and isinstance(arguments[0], list | tuple | dict | str):
            if name == "len":
                return len(arguments[0])
            if name == "sum" and all(isinstance(number, int | float) for number in arguments[0]):
                return self._made_of(node, sum(arguments[0]))
            if name in ("list", "tuple"):
                self._charge(node, len(arguments[0]))
                return list(arguments[0]) if name == "list" else tuple(arguments[0])
        raise Refused(node, f"{_shown(node)}, which cannot be computed")

    def _format(self, node: ast.Call, text: str, arguments: list[Any]) -> str:
        pieces = text.split("{}")
        if len(pieces) != len(arguments) + 1 or any("{" in piece or "}" in piece for piece in pieces):
            raise Refused(node, f"{_shown(node)}; only {{}} is replaced, once for each argument")
        words = [self._word(node, argument) for argument in arguments]
        return self._text(node, "".join(piece + word for piece, word in zip(pieces, [*words, ""], strict=True)))

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        made: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found = self.value(node.value)
                if not isinstance(found, list | tuple):
                    raise Refused(node, f"{_shown(node)}, which is not a list")
                made.extend(found)
            else:
                made.append(self.value(node))
        return made

    def _dict(self, node: ast.Dict, keys: list[ast.expr | None], values: list[ast.expr]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, value in zip(keys, values, strict=True):
            if key is None:
                made.update(self._mapping(value))
                continue
            name = self.value(key)
            if not isinstance(name, str | int | float | bool | None):
                raise Refused(node, f"a dict with the key {_shown(key)}; keys are strings and numbers")
            made[name] = self.value(value)
        return made

    def _unary(self, node: ast.expr, sign: ast.unaryop, operand: Any) -> Any:
        if isinstance(sign, ast.Not):
            return not operand
        if not isinstance(operand, int | float):
            raise Refused(node, f"{_shown(node)}, which is not a number")
        return -operand if isinstance(sign, ast.USub) else +operand

    def _binary(self, node: ast.expr, left: Any, sign: ast.operator, right: Any) -> Any:
        compute = _ARITHMETIC.get(type(sign))
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        repeated = isinstance(sign, ast.Mult) and (
            (isinstance(left, list | tuple | str) and type(right) is int)
            or (isinstance(right, list | tuple | str) and type(left) is int)
        )
        joined = isinstance(sign, ast.Add) and type(left) is type(right) and isinstance(left, list | tuple | str)
        if compute is None or not (numbers or repeated or joined):
            raise Refused(node, f"{_shown(node)}, which cannot be computed")
        if repeated:
            sequence, times = (left, right) if type(right) is int else (right, left)
            return self._repeat(node, sequence, times)
        if isinstance(sign, ast.Pow) and abs(right) > MAX_BITS:
            raise Refused(node, f"{_shown(node)}, which is out of bounds")
        try:
            found = compute(left, right)
        except (ArithmeticError, ValueError) as error:
            raise Refused(node, f"{_shown(node)}, which cannot be computed: {error}") from error
        return self._text(node, found) if isinstance(found, str) else self._made_of(node, found)

    def _repeat(self, node: ast.expr, sequence: Any, times: int) -> Any:
        times = max(times, 0)
        if isinstance(sequence, str):
            if len(sequence) * times > MAX_TEXT:
                raise Refused(node, f"{_shown(node)}, which is out of bounds")
            return sequence * times
        self._charge(node, len(sequence) * times)
        made = [self._copy(node, element) for _ in range(times) for element in sequence]
        return made if isinstance(sequence, list) else tuple(made)

    def _subscript(self, node: ast.expr, inner: Any, index: ast.expr) -> Any:
        if isinstance(index, ast.Slice):
            bounds = [None if part is None else self.value(part) for part in (index.lower, index.upper, index.step)]
            key: Any = slice(*bounds)
        else:
            key = self.value(index)
        try:
            return inner[key]
        except (LookupError, TypeError, ValueError) as error:
            raise Refused(node, f"{_shown(node)}, which does not exist") from error

    def _part(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.FormattedValue(value=inner, conversion=-1, format_spec=None):
                return self._word(node, self.value(inner))
        raise Refused(node, f"{_shown(node)} in a string; only plain {{values}} are read")

    def _word(self, node: ast.expr, value: Any) -> str:
        if not isinstance(value, str | int | float | bool | None):
            raise Refused(node, f"{_shown(node)}, which puts something else than a number or a string into a string")
        return str(value)

    def _comprehension(self, element: ast.expr, generators: list[ast.comprehension]) -> list[Any]:
        if not generators:
            return [self.value(element)]
        first, rest = generators[0], generators[1:]
        if not isinstance(first.target, ast.Name) or first.ifs or first.is_async:
            raise Refused(element, "a comprehension with more than `for name in list`")
        source = self.value(first.iter)
        if not isinstance(source, list | tuple):
            raise Refused(first.iter, f"{_shown(first.iter)}, which is not a list")
        name, before = first.target.id, dict(self._names)
        made: list[Any] = []
        for item in source:
            self._names[name] = item
            made.extend(self._comprehension(element, rest))
        self._names = before
        return made

    def _copy(self, node: ast.AST, value: Any) -> Any:
        """Return a copy that shares nothing: a file of a few lines cannot weave a value larger than what is counted."""
        self._charge(node, 1)
        if isinstance(value, dict):
            return {key: self._copy(node, inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(node, inner) for inner in value)
        return value

    def _made_of(self, node: ast.AST, value: Any) -> Any:
        self._charge(node, 1)
        if isinstance(value, complex) or (type(value) is int and value.bit_length() > MAX_BITS):
            raise Refused(node, "a number out of bounds")
        return value

    def _text(self, node: ast.AST, text: str) -> str:
        self._charge(node, 1)
        if len(text) > MAX_TEXT:
            raise Refused(node, "a string out of bounds")
        return text

    def _charge(self, node: ast.AST, count: int) -> None:
        self._made += count
        if self._made > MAX_VALUES:
            raise Refused(node, f"more values than a configuration may have ({MAX_VALUES})")


def _shown(node: ast.AST) -> str:
    """Return the source of an expression, shortened."""
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):
        text = type(node).__name__
    return "`" + (text if len(text) <= 60 else text[:57] + "...") + "`"
