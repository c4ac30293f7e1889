"""Ground-truth files, pickled or in JSON, read as plain data and nothing else.

A pickle is a program: loading one from the internet may run anything. Here it may only build dictionaries, lists,
tuples, sets, text, bytes, numbers, None, booleans and NumPy arrays of them; a file that asks for more is refused with
the name of what it asked for. NumPy's own loading functions are not called with the file's arguments either, since
they trust them: stand-ins take the few forms that plain arrays have.
"""

import io
import json
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import InputError

SUFFIXES = (".pkl", ".pickle", ".json")
LIMIT = 256 * 2**20  # bytes of a file: those published have 0.1 to 20 million
FREE, SLACK = 10**6, 4  # bytes made and elements described: so many, and so many for each byte of the file
DEPTH = 32  # levels of nesting: those published have 4
SCALARS = (str, bytes, bool, int, float, type(None))
PLAIN_DTYPE = re.compile(r"b1|[iufSU]\d{1,4}")


class NotPlain(ValueError):
    """What a pickle asks for beyond plain data."""


def read(path: str | Path) -> Any:
    """What a `.pkl`, `.pickle` or `.json` file holds, of plain types alone; InputError names the fault."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"a ground truth must be one of {', '.join(SUFFIXES)}, got {path}")
    if not path.is_file():
        raise InputError(f"no ground truth at {path}")
    if path.stat().st_size > LIMIT:
        raise InputError(f"a ground truth may have {LIMIT:,} bytes, {path} has {path.stat().st_size:,}")
    try:
        return _json(path.read_bytes()) if path.suffix.lower() == ".json" else loads(path.read_bytes())
    except NotPlain as fault:
        raise InputError(f"{path} is not read: {fault}") from None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"it is no JSON that can be read ({error})") from None


def loads(data: bytes) -> Any:
    """The plain data that a pickle describes; NotPlain (a ValueError) where it asks for anything else."""
    try:
        limit = FREE + SLACK * len(data)
        _check_operations(data, limit)
        budget = _Budget(limit)
        return _plain(_Unpickler(data, budget).load(), budget)
    except NotPlain:
        raise
    except RecursionError:
        raise NotPlain(f"it is nested deeper than {DEPTH} levels") from None
    except Exception as error:  # a broken pickle raises whatever its operations do
        raise NotPlain(f"it is no whole pickle ({type(error).__name__}: {error})") from None


def _check_operations(data: bytes, limit: int) -> None:
    """Walks through the operations with the size of each object in its place, and performs none.

    Finds a file that is cut off, tuples of tuples that would take for ever to hash (as keys, or in sets), and a place
    in the memo that is far off: the unpickler reserves as many places as the highest says.
    """
    stack: list[int | None] = []  # sizes; None is a mark
    memo: dict[int, int | None] = {}
    for operation, argument, _ in pickletools.genops(data):
        name, place = operation.name, argument if isinstance(argument, int) else len(memo)
        if name.endswith("PUT") or name == "MEMOIZE":
            if place > len(data):
                raise NotPlain(f"it asks for a memo of {place:,} places")
            memo[place] = stack[-1]
        elif name.endswith("GET") or name == "DUP":
            stack.append(stack[-1] if name == "DUP" else memo[place])
        else:
            size = 1 + _taken(stack, operation)
            if size > limit:
                raise NotPlain("it describes far more than it holds, by repeating itself")
            stack += [None if made is pickletools.markobject else size for made in operation.stack_after]


def _taken(stack: list[int | None], operation: pickletools.OpcodeInfo) -> int:
    """The size of what an operation takes from the stack; it is gone then."""
    wanted, size = operation.stack_before, 0
    if pickletools.markobject in wanted:
        while (top := stack.pop()) is not None:
            size += top
        wanted = wanted[: wanted.index(pickletools.markobject)]
    return size + sum(stack.pop() or 0 for _ in wanted)


class _Budget:
    """What a file may still describe: it may refer to one list or text many times, and so to more than memory holds.
    Where nothing is repeated, every element costs the file a byte."""

    def __init__(self, size: int) -> None:
        self.left = size

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise NotPlain("it describes far more than it holds, by repeating itself")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, budget: _Budget) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")  # as NumPy's arrays from Python 2 need
        self.budget = budget

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in ALLOWED:
            raise NotPlain(
                f"a ground truth holds plain data alone (numbers, text, lists, arrays), this asks for {name}"
            )
        return _StandIn(name, self.budget)

    def persistent_load(self, pid: Any, /) -> Any:
        raise NotPlain("a ground truth holds plain data alone, this asks for an object that is kept elsewhere")


class _StandIn:
    """A function that a pickle may call; a pickle can set nothing of it that another would see."""

    __slots__ = ("budget", "name")

    def __init__(self, name: str, budget: _Budget) -> None:
        self.name, self.budget = name, budget

    def __call__(self, *arguments: Any) -> Any:
        self.budget.spend(sum(len(a) for a in arguments if isinstance(a, (str, bytes, bytearray, list, tuple, set))))
        try:
            return ALLOWED[self.name](*arguments)
        except (TypeError, ValueError) as error:
            raise NotPlain(f"this asks for {self.name} in a form that plain data has no use for ({error})") from None

    def __setstate__(self, state: Any) -> None:
        raise NotPlain(f"this sets the state of {self.name}")


class _Dtype:
    """`numpy.dtype(code, align, copy)` of a plain code; its state may say the byte order and no more."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
            raise ValueError(f"an array's dtype must be a number, a boolean or text, got {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        order, *inner = state[1:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in inner):
            raise NotPlain(f"an array's dtype must be of one plain kind, got {self.code} with {state!r}"[:200])
        self.order = order

    def made(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """An array to be, as a pickle says: its bytes, dtype, shape and order."""

    __slots__ = ("parts",)

    def __init__(self, *_: Any) -> None:
        self.parts: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, raw = state
        self.parts = (raw, dtype, shape, "F" if column_major else "C")

    def made(self, budget: _Budget) -> np.ndarray:
        raw, dtype, shape, order = self.parts
        if not isinstance(dtype, _Dtype) or not isinstance(raw, (bytes, bytearray, str)):
            raise NotPlain("an array must be made of bytes of a plain dtype")
        budget.spend(len(raw))
        raw, kind = raw.encode("latin1") if isinstance(raw, str) else bytes(raw), dtype.made()
        if math.prod(shape) * kind.itemsize != len(raw) or min(shape, default=0) < 0:
            raise NotPlain(f"an array of shape {shape} and dtype {kind} is not made of {len(raw)} bytes")
        return np.ndarray(shape, kind, bytearray(raw), order="F" if order == "F" else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.parts = (raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    return _from_buffer(raw, dtype, (1,), "C").made(_Budget(64 * 1024))[0].item()


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes come as latin1, got {encoding!r}")
    return text.encode(encoding)


def _set(items: Any = ()) -> set[Any]:
    return set(items)


def _no_bytes() -> bytes:
    return b""


def _no_class() -> None:
    raise ValueError("it is no function")


# What pickles of plain data name, under every name that Python 2 and 3 and NumPy 1 and 2 gave it.
_FORMS: dict[Callable[..., Any], tuple[str, ...]] = {
    _set: ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset"),
    _no_bytes: ("builtins.bytes", "__builtin__.bytes"),
    _encoded: ("_codecs.encode",),
    _no_class: ("numpy.ndarray",),
    _Dtype: ("numpy.dtype",),
    _Array: ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    _scalar: ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    _from_buffer: ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
}
ALLOWED = {name: function for function, names in _FORMS.items() for name in names}


def _plain(value: Any, budget: _Budget, depth: int = 0) -> Any:
    """A copy of plain data, with arrays in place of what stands for them."""
    budget.spend(1)
    if depth > DEPTH:
        raise NotPlain(f"it is nested deeper than {DEPTH} levels")
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind in (list, tuple, set, frozenset):
        return kind(_plain(item, budget, depth + 1) for item in value)
    if kind is dict:
        return {_key(key, budget, depth + 1): _plain(item, budget, depth + 1) for key, item in value.items()}
    if kind is _Array:
        return value.made(budget)
    raise NotPlain(f"a ground truth holds plain data alone, this holds {getattr(value, 'name', kind.__name__)}")


def _key(key: Any, budget: _Budget, depth: int) -> Any:
    if type(key) not in (*SCALARS, tuple):
        raise NotPlain(f"a ground truth's keys are text or numbers, got a {type(key).__name__}")
    return _plain(key, budget, depth)


# For another unpickler that allows these names alone: its stand-ins, and what `plain` makes of their results.
NUMPY = {name: function for name, function in ALLOWED.items() if name.startswith("numpy.")}


def plain(value: Any, size: int) -> Any:
    """A copy of plain data, with arrays in place of what stands for them; size: bytes that it was read from."""
    return _plain(value, _Budget(SLACK * size))
