"""What a call carries, from a description in a bus file: a size, a distribution of sizes, or a template of JSON.

A template is a table. Text in it may hold expressions in braces, and text that is nothing else is the value itself::

    orderId = "order_{number}"                      # "order_17"
    total = "{real(5, 400)}"                        # 251.74
    status = "{weighted('paid', 9, 'failed', 1)}"
    note = "{filler}"                               # load.payload_bytes letters

Rules
-----
1. An expression is arithmetic, comparisons and ``a if b else c`` over numbers, text, `NAMES` and `FUNCTIONS`; nothing else of Python.
2. Everything is drawn from the scenario's seed and the call's number, so a call carries the same on every ground and with either driver.
   Each place where a function stands draws for itself.
3. It is turned into one function when the scenario is read. The first `TRIED` calls are tried then: what cannot become JSON, or is longer
   than `MAX_BYTES`, is an error of the scenario and not of the run. A later call that cannot be made fails, and the run goes on.
4. ``{{`` and ``}}`` are braces.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import Any, cast

from sim.errors import did_you_mean

MAX_BYTES = 1_000_000  # of one event
TRIED = 100
MAX_DIGITS = 20  # of a call's number
MAX_RANKS = 1_000_000
MAX_WORDS = 200_000  # so many are longer than an event may be
DAY_MS = 86_400_000
BEGIN_MS = 1_767_225_600_000  # 2026-01-01, when the times of `time()` begin
NAMES = {
    "number": "the number of the call, from 0",
    "filler": "so many letters x as load.payload_bytes says",
    "templates": "load.templates",
}
WORDS = (
    *("amber", "basin", "cedar", "delta", "ember", "fable", "grove", "haven", "inlet", "jetty", "kayak", "lotus", "maple", "north"),
    *("ocean", "pearl", "quill", "river", "slate", "tulip", "umbra", "vivid", "willow", "xenon", "yield", "zephyr"),
)

Content = Callable[[int], dict[str, Any]]
_MASK = (1 << 64) - 1
_SIZE = "size"
_ALMOST_ONE = 1 - 2**-53
_MOST_EXPONENT = 700.0  # of e, in a number
_NOT_MADE: dict[str, Any] = cast("dict[str, Any]", object())


def drawn(seed: int, place: int, number: int) -> float:
    """Return a number from 0 up to 1, the same for the same three (SplitMix64's finalizer of their mixture)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + place * 0xD1B54A32D192ED03 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & _MASK
    for _ in range(2):
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
    return (mixed >> 11) / (1 << 53)


# Functions of expressions: each gets a function that draws, then what stands in the parentheses. `u()` draws the next number of its place.
Draw = Callable[[], float]


def _check_bounds(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low = {low} is more than high = {high}")


def _integer(u: Draw, low: int, high: int) -> int:
    _check_bounds(low, high)
    return int(low) + int(u() * (int(high) - int(low) + 1))


def _real(u: Draw, low: float, high: float, digits: int = 2) -> float:
    _check_bounds(low, high)
    return round(low + u() * (high - low), digits)


def _choice(u: Draw, *values: Any) -> Any:
    return values[int(u() * len(values))]


def _weighted(u: Draw, *pairs: Any) -> Any:
    weights = pairs[1::2]
    at = u() * sum(weights)
    if min(weights) < 0 or not any(weights):
        raise ValueError(f"weighted: the weights are {', '.join(map(str, weights))}: give none below 0, and one above it")
    for value, weight in zip(pairs[::2], pairs[1::2], strict=True):
        at -= weight
        if at < 0:
            return value
    return pairs[-2]


def _uuid(u: Draw) -> str:
    return str(uuid.UUID(int=(int(u() * 2**53) << 75 | int(u() * 2**53) << 22 | int(u() * 2**22)) & (2**128 - 1), version=4))


def _word(u: Draw) -> str:
    return WORDS[int(u() * len(WORDS))]


def _words(u: Draw, many: int) -> str:
    if many > MAX_WORDS:
        raise ValueError(f"words({many}): {MAX_WORDS:,} is the most")
    return " ".join(_word(u) for _ in range(int(many)))


def _time(u: Draw) -> str:
    return _iso(BEGIN_MS + int(u() * DAY_MS))


def _letters(u: Draw, many: int) -> str:
    if many > MAX_BYTES:
        raise ValueError(f"letters({many}): {MAX_BYTES:,} is the most")
    return "x" * int(many)


def _lognormal(u: Draw, p50: float, p99: float, most: float = MAX_BYTES) -> int:
    if not 0 < p50 <= p99 or most < 0:
        raise ValueError(f"lognormal(p50={p50}, p99={p99}, most={most}): p50 is more than 0, p99 is not less, and most is not below 0")
    exponent = math.log(p50) + (math.log(p99) - math.log(p50)) / 2.3263478740408408 * _normal(u)
    return int(min(most, math.exp(min(exponent, _MOST_EXPONENT))))


def _exponential(u: Draw, mean: float, most: float = MAX_BYTES) -> int:
    if mean < 0 or most < 0:
        raise ValueError(f"exponential(mean={mean}, most={most}): neither is below 0")
    return int(min(most, -mean * math.log(1 - u())))


@lru_cache(maxsize=64)
def _ranks(many: int) -> list[float]:
    """Return the sums of 1, 1/2, 1/3 … up to each of so many ranks."""
    return list(accumulate(1 / rank for rank in range(1, many + 1)))


def _zipf(u: Draw, many: int) -> int:
    if not 1 <= many <= MAX_RANKS or many != int(many):
        raise ValueError(f"zipf({many}): give a whole number from 1 to {MAX_RANKS:,}")
    sums = _ranks(int(many))
    return min(int(many), bisect_right(sums, u() * sums[-1]) + 1)


FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "integer": (_integer, "integer(low, high): a whole number, both ends included"),
    "zipf": (_zipf, "zipf(n): a whole number from 1 to n, the k-th k times as rarely as the first"),
    "real": (_real, "real(low, high, digits=2): a number, rounded"),
    "choice": (_choice, "choice(a, b, …): one of them, each as likely"),
    "weighted": (_weighted, "weighted(a, 3, b, 1, …): one of them, by its weight"),
    "uuid": (_uuid, "uuid(): a UUID of version 4"),
    "word": (_word, "word(): a word"),
    "words": (_words, "words(n): so many words"),
    "time": (_time, "time(): a time of one day, as JavaScript prints it"),
    "text": (lambda u, value: str(value), "text(x): x as text"),
    "letters": (_letters, "letters(n): so many letters x"),
    "lognormal": (_lognormal, "lognormal(p50, p99, most=1000000): a size, bounded"),
    "exponential": (_exponential, "exponential(mean, most=1000000): a size, bounded"),
    "uniform": (_integer, "uniform(low, high): a size"),
}
TEXTS = frozenset(("uuid", "word", "words", "time", "text", "letters", "choice", "weighted"))  # functions whose value is, or may be, text
_SEVERAL = {"choice": 1, "weighted": 2}  # functions that take as many as one likes, so many at a time
SIZES = ("lognormal", "exponential", "uniform")  # distributions that may stand for a payload
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Div)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _normal(u: Draw) -> float:
    """Return a standard normal number (Box and Muller)."""
    return math.sqrt(-2 * math.log(1 - u())) * math.cos(2 * math.pi * u())


def make_content(payload: int | str | Mapping[str, Any], *, seed: int, payload_bytes: int, templates: int) -> Content:
    """Return the function that makes what a call carries: from its number, the event's `data` (of a batched channel, an item).

    Parameters
    ----------
    payload
        A size in bytes of JSON, a distribution of sizes such as ``lognormal(p50=900, p99=4000)``, or a template.
    seed, payload_bytes, templates
        Of the scenario.

    Raises
    ------
    ValueError
        What is wrong with it, in words.
    """
    try:
        described = json.dumps(payload, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:  # TOML has infinity, and times of its own
        raise ValueError(f"it has what JSON cannot: {error}") from None
    return _made(described, seed, payload_bytes, templates)


@lru_cache(maxsize=1024)
def _made(described: str, seed: int, payload_bytes: int, templates: int) -> Content:
    payload = json.loads(described)
    constants = {"filler": "x" * payload_bytes, "templates": templates}
    if isinstance(payload, dict):
        most, content = MAX_BYTES, _compiled(payload, seed=seed, constants=constants)
    else:
        # The size is that of call 0, and the numbers of later calls are longer.
        most, content = MAX_BYTES + MAX_DIGITS, _sized(payload, seed=seed, constants=constants)
    for number in range(TRIED):
        try:
            size = len(json.dumps(content(number), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        except (ArithmeticError, TypeError, ValueError, IndexError, MemoryError) as error:
            raise ValueError(f"call {number} of it cannot be made: {error}") from None
        if size > most:
            raise ValueError(f"call {number} of it has {size:,} bytes: {MAX_BYTES:,} is the most")
    return _guarded(content)


def _sized(payload: int | str, *, seed: int, constants: Mapping[str, Any]) -> Content:
    """Return what makes data of a size, or of sizes of a distribution."""
    overhead = _overhead(0)
    if not isinstance(payload, str):
        note = "x" * max(0, payload - overhead)
        return lambda number: {"id": number, "note": note}
    if not re.match(rf"\s*({'|'.join(SIZES)})\s*\(", payload):
        raise ValueError(f"{payload!r} is no distribution of sizes: write one of {'; '.join(FUNCTIONS[name][1] for name in SIZES)}")
    template = {_SIZE: f"{{{payload.strip()}}}"}
    try:
        sizes = _compiled(template, seed=seed, constants=constants)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"/{_SIZE}: ")) from None
    greatest: Any = 0
    with suppress(ArithmeticError, TypeError, ValueError):  # what cannot be made is told by the first calls
        greatest = _compiled(template, seed=seed, constants=constants, draw=lambda *_: _ALMOST_ONE)(0)[_SIZE]
    if isinstance(greatest, int | float) and greatest > MAX_BYTES:
        raise ValueError(f"{payload!r} makes up to {greatest:,} bytes, and {MAX_BYTES:,} is the most: lower it, or give most={MAX_BYTES}")
    return lambda number: {"id": number, "note": "x" * int(sizes(number)[_SIZE] - overhead)}


def _guarded(content: Content) -> Content:
    """Return the same, which gives what nobody can encode where a later call of it cannot be made: that call fails, and the run goes on."""

    def guarded(number: int) -> dict[str, Any]:
        try:
            return content(number)
        except Exception:  # an expression may fail for one number in a million
            return _NOT_MADE

    return guarded


def _overhead(number: int) -> int:
    """Return how many bytes of JSON stand around the filler of a payload that is a size."""
    return len(json.dumps({"id": number, "note": ""}, separators=(",", ":")))


def _compiled(
    template: Mapping[str, Any], *, seed: int, constants: Mapping[str, Any], draw: Callable[[int, int, int], float] = drawn
) -> Content:
    body = _Reader(constants).value(template, "")
    only = ast.arguments(posonlyargs=[], args=[ast.arg("number")], kwonlyargs=[], kw_defaults=[], defaults=[])
    code = compile(ast.fix_missing_locations(ast.Expression(ast.Lambda(only, body))), "<payload>", "eval")
    content: Content = eval(code, {"__builtins__": {}} | {f"_{name}": _bound(made, seed, draw) for name, (made, _) in FUNCTIONS.items()})
    return content


def _bound(made: Callable[..., Any], seed: int, draw: Callable[[int, int, int], float]) -> Callable[..., Any]:
    """Return a function of an expression as it is called: with its place and the number of the call, which it draws from."""

    def call(place: int, number: int, *given: Any, **named: Any) -> Any:
        turn = -1

        def u() -> float:
            nonlocal turn
            turn += 1
            return draw(seed, place + (turn << 20), number)

        return made(u, *given, **named)

    return call


class _Reader:
    """Turns a template into Python's own syntax tree, in which only what `payloads` allows can stand."""

    def __init__(self, constants: Mapping[str, Any]) -> None:
        self._constants = constants
        self._places = iter(range(1, 1 << 20))
        self._rules: dict[type[ast.AST], Callable[[Any], ast.expr | None]] = {
            ast.Constant: self._constant,
            ast.Name: self._name,
            ast.UnaryOp: self._unary,
            ast.BinOp: self._binary,
            ast.Compare: self._compare,
            ast.IfExp: lambda node: ast.IfExp(self._read(node.test), self._read(node.body), self._read(node.orelse)),
            ast.Call: self._call,
        }
        self._where = self._code = ""

    def value(self, value: Any, path: str) -> ast.expr:
        """Return one value of a template."""
        if isinstance(value, Mapping):
            keys: list[ast.expr | None] = [ast.Constant(str(key)) for key in value]
            return ast.Dict(keys, [self.value(one, f"{path}/{key}") for key, one in value.items()])
        if isinstance(value, list):
            return ast.List([self.value(one, f"{path}/{place}") for place, one in enumerate(value)], ast.Load())
        if not isinstance(value, str):
            return ast.Constant(value)
        parts = [self._expression(part, path) if is_code else ast.Constant(part) for is_code, part in _split(value, path)]
        if len(parts) == 1:
            return parts[0]
        is_text = [isinstance(one, ast.Constant) and isinstance(one.value, str) for one in parts]
        return ast.JoinedStr([one if text else ast.FormattedValue(one, -1) for one, text in zip(parts, is_text, strict=True)])

    def _expression(self, code: str, path: str) -> ast.expr:
        self._where, self._code = path, code
        try:
            tree = ast.parse(code.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._wrong("is no expression") from None
        return self._read(tree)

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self._where}: {self._code!r} {what}")

    def _read(self, node: ast.expr) -> ast.expr:
        found = self._rules.get(type(node), lambda _: None)(node)
        if found is None:
            raise self._wrong(
                f"is none of the expressions that may stand there: numbers, text, {', '.join(NAMES)}, + - * / // %, comparisons, "
                f"`a if b else c`, and {', '.join(FUNCTIONS)}"
            )
        return found

    def _constant(self, node: ast.Constant) -> ast.expr | None:
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise self._wrong("holds a number that is too large")
        return node if node.value is None or isinstance(node.value, str | int | float) else None

    def _name(self, node: ast.Name) -> ast.expr | None:
        if node.id == "number":
            return node
        if node.id not in self._constants:
            raise self._wrong(f"names {node.id!r}, which is none of {', '.join(NAMES)}{did_you_mean(node.id, [*NAMES, *FUNCTIONS])}")
        return ast.Constant(self._constants[node.id])

    def _unary(self, node: ast.UnaryOp) -> ast.expr | None:
        return ast.UnaryOp(node.op, self._read(node.operand)) if isinstance(node.op, ast.USub | ast.UAdd | ast.Not) else None

    def _binary(self, node: ast.BinOp) -> ast.expr | None:
        if not isinstance(node.op, _ARITHMETIC):
            return None
        if isinstance(node.op, ast.FloorDiv | ast.Mod | ast.Div) and not self._is_divisor(node.right):
            raise self._wrong("divides by what may become 0: divide by a number, or by templates")
        if not isinstance(node.op, ast.Add) and (self._is_text(node.left) or self._is_text(node.right)):
            raise self._wrong("calculates with text")
        return ast.BinOp(self._read(node.left), node.op, self._read(node.right))

    def _compare(self, node: ast.Compare) -> ast.expr | None:
        if not all(isinstance(op, _COMPARISONS) for op in node.ops):
            return None
        return ast.Compare(self._read(node.left), node.ops, [self._read(one) for one in node.comparators])

    def _call(self, node: ast.Call) -> ast.expr | None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name and name not in FUNCTIONS:
            raise self._wrong(f"calls {name!r}, which is none of {', '.join(FUNCTIONS)}{did_you_mean(name, FUNCTIONS)}")
        if not name or not all(one.arg for one in node.keywords):
            return None
        made, meaning = FUNCTIONS[name]
        try:
            inspect.signature(made).bind(None, *node.args, **{str(one.arg): one.value for one in node.keywords})
            fits = name not in _SEVERAL or (len(node.args) > 0 and len(node.args) % _SEVERAL[name] == 0)
        except TypeError:
            fits = False
        if not fits:
            raise self._wrong(f"does not fit: write {meaning}")
        given = [self._read(one) for one in node.args]
        if name == "text":
            return ast.JoinedStr([ast.FormattedValue(given[0], -1)])
        place: list[ast.expr] = [ast.Constant(next(self._places)), ast.Name("number", ast.Load())]
        named = [ast.keyword(one.arg, self._read(one.value)) for one in node.keywords]
        return ast.Call(ast.Name(f"_{name}", ast.Load()), place + given, named)

    def _is_divisor(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return isinstance(self._constants.get(node.id), int)
        return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value != 0

    def _is_text(self, node: ast.expr) -> bool:
        """Return whether what stands there is text, or may be."""
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Name) and node.func.id in TEXTS
        if isinstance(node, ast.Name):
            return isinstance(self._constants.get(node.id), str)
        if isinstance(node, ast.Constant):
            return isinstance(node.value, str)
        return any(self._is_text(one) for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr))


def _split(text: str, path: str) -> Iterator[tuple[bool, str]]:
    """Yield the parts of a text: whether it is an expression, and what stands there; at least one."""
    plain, at, found = "", 0, False
    while at < len(text):
        two = text[at : at + 2]
        if two in ("{{", "}}"):
            plain, at = plain + two[0], at + 2
        elif text[at] == "{":
            if plain:
                yield False, plain
            end = _closing(text, at, path)
            yield True, text[at + 1 : end]
            plain, at, found = "", end + 1, True
        elif text[at] == "}":
            raise ValueError(f"{path}: {text!r} has a }} without its {{: write }}}} for a brace")
        else:
            plain, at = plain + text[at], at + 1
    if plain or not found:
        yield False, plain


def _closing(text: str, begin: int, path: str) -> int:
    """Return where the brace is that ends an expression; one in quotes does not."""
    quote = ""
    for at in range(begin + 1, len(text)):
        if quote:
            quote = "" if text[at] == quote and text[at - 1] != "\\" else quote
        elif text[at] in "'\"":
            quote = text[at]
        elif text[at] == "}":
            return at
    raise ValueError(f"{path}: {text!r} has a {{ without its }}: write {{{{ for a brace")
