"""`.npy` files: read as if a stranger wrote them, header first, bounded and mapped; written block after block.

`numpy.load` accepts trailing bytes, structured types, and a small file that claims terabytes. Here a file is a matrix
of floats or it is refused, and what comes back is a read-only memory map.
"""

from __future__ import annotations

import ast
import ctypes
import hashlib
import json
import mmap
import os
import signal
import struct
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ensemble.core.complaints import any_of, counted
from ensemble.core.plain_file import open_plain
from ensemble.errors import InputError, PartialFailure

_MAGIC = b"\x93NUMPY"  # how every .npy file begins
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}  # of the header's length, by version of the format
_ONE_PARSER = Lock()  # Python 3.11's parser counts its depth for all threads together, and fails when two use it
_PIECE = 1 << 24  # bytes that are copied at a time to be written: a large matrix is not in memory twice
_LARGEST_HEADER = 10_000  # ours are 118 bytes long
_SIZES = {"<f2": 2, "<f4": 4, "<f8": 8}  # little-endian alone: a mapped file is not converted
_WITH_INFO = 4  # SA_SIGINFO of asm/signal.h: the handler is told the address
_ADDRESS_AT = 16  # bytes before si_addr in siginfo_t of 64-bit Linux
_CALLBACKS: list[object] = []
_ALLOWED = any_of([np.dtype(size).name for size in _SIZES], "and")


def map_matrix(path: Path) -> NDArray[np.floating[Any]]:
    """Map a C-ordered matrix (rows, columns) of float16, 32 or 64 read-only; anything else is an `InputError`."""
    try:
        with open_plain(path) as stream:
            rows, columns, kind = _matrix(_read_header(stream))
            offset = stream.tell()
            expected, held = rows * columns * _SIZES[kind], os.fstat(stream.fileno()).st_size - offset
            # exactly: too few bytes are a copy that was cut off, too many the remains of another file
            if held < expected:
                needed = f"{rows} x {columns} needs {expected} bytes of numbers"
                raise _NotAMatrix(f"cut off: {needed}, {expected - held} are missing")
            if held > expected:
                raise _NotAMatrix(f"{held - expected} bytes too many after its {rows} x {columns} numbers")
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray((rows, columns), dtype=kind, buffer=mapped, offset=offset)  # np.memmap's slices cost more
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error
    except _NotAMatrix as error:
        raise InputError(f"{path}: {error}") from error


def mapped_sha256(matrix: NDArray[Any]) -> str:
    """The hash of the whole file that `map_matrix` mapped, header included, read where its numbers are read next."""
    if (mapped := _map_of(matrix)) is None:
        raise ValueError("not a mapped matrix")
    return hashlib.sha256(mapped).hexdigest()


def release_pages(matrix: NDArray[Any]) -> None:
    """Let go of what a mapped matrix (or a view of one) has brought into memory; it is read again when needed."""
    # What was read stays in the system's cache of files, but no longer counts as this process's memory.
    mapped = _map_of(matrix)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _map_of(matrix: NDArray[Any]) -> mmap.mmap | None:
    base: Any = matrix
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def end_when_cut_short(*, as_json: bool) -> None:
    """From now on, end this process with a message where a mapped file is cut short while it is read.

    The kernel answers a read behind a mapped file's end with SIGBUS, which kills a process without a word, and which a
    handler in Python can't answer: the read would be tried again for ever. So the handler is C's, calls back here, and
    never returns. What the process had locked the kernel frees; its temporaries are swept by the next command.
    """
    if not sys.platform.startswith("linux") or struct.calcsize("P") != 8:  # the two structures below are theirs
        return

    def end(number: int, info: int, context: int) -> None:
        address = ctypes.c_uint64.from_address(info + _ADDRESS_AT).value
        text = f"{_mapped_at(address)}: was cut short while it was read; make it again, then give the same command"
        os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))
        if as_json:
            os.write(1, json.dumps({"error": [text], "exit_code": PartialFailure.exit_code}, indent=2).encode() + b"\n")
        os._exit(PartialFailure.exit_code)

    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(end)
    _CALLBACKS.append(callback)  # C keeps no reference
    action = _Action(ctypes.cast(callback, ctypes.c_void_p).value, (ctypes.c_ulong * 16)(), _WITH_INFO, None)
    ctypes.CDLL(None).sigaction(int(signal.SIGBUS), ctypes.byref(action), None)


class _Action(ctypes.Structure):
    """C's `struct sigaction` of 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def _mapped_at(address: int) -> str:
    """The file whose map holds an address."""
    with suppress(OSError, ValueError), open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            start, _, end = line.split(" ", 1)[0].partition("-")
            if int(start, 16) <= address < int(end, 16):
                return line.split(maxsplit=5)[-1].strip()
    return "a file"


class _NotAMatrix(Exception):
    """Why the file is refused, without its name."""


def _read_header(stream: BinaryIO) -> dict[str, Any]:
    """The header's dictionary, and the stream left at the first number."""
    start = stream.read(len(_MAGIC) + 2)
    if len(start) < len(_MAGIC) + 2 or not start.startswith(_MAGIC):
        raise _NotAMatrix("not an .npy file; save it with numpy.save")
    version = (start[-2], start[-1])
    if version not in _LENGTH_BYTES:
        raise _NotAMatrix(f".npy version {version[0]}.{version[1]} is unknown; 1.0, 2.0 and 3.0 are allowed")
    length_bytes = stream.read(_LENGTH_BYTES[version])
    length = int.from_bytes(length_bytes, "little")
    if length > _LARGEST_HEADER:
        raise _NotAMatrix(f"its header claims {length} bytes; at most {_LARGEST_HEADER} are allowed")
    text = stream.read(length)
    if len(length_bytes) < _LENGTH_BYTES[version] or len(text) < length:
        raise _NotAMatrix("cut off inside its header")
    return _parse_header(text)


@lru_cache(maxsize=64)  # many files of one shape have one header
def _parse_header(text: bytes) -> dict[str, Any]:
    """The literal in a header; never evaluated, and exactly numpy's three keys."""
    try:
        with _ONE_PARSER:
            # a literal runs no code; numpy itself reads headers this way
            header = ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:  # each for some header
        raise _NotAMatrix("its header can't be read; save it again with numpy.save") from error
    # by repr: keys may be of any type, and True == 1
    if not isinstance(header, dict) or set(map(repr, header)) != {"'descr'", "'fortran_order'", "'shape'"}:
        raise _NotAMatrix("its header doesn't hold exactly descr, fortran_order and shape; save it with numpy.save")
    return header


def _matrix(header: dict[str, Any]) -> tuple[int, int, str]:
    """The header's rows, columns and type; refused unless they are those of a matrix of ours."""
    kind, shape = header["descr"], header["shape"]
    if not isinstance(kind, str):
        raise _NotAMatrix(f"holds a structured type; only {_ALLOWED} are allowed")
    if kind not in _SIZES:
        raise _NotAMatrix(f"holds {_type_name(kind)}; only little-endian {_ALLOWED} are allowed")
    # type(), not isinstance: True is an int too
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise _NotAMatrix("its header holds no proper shape; save it again with numpy.save")
    if len(shape) != 2:
        raise _NotAMatrix(f"has {counted(len(shape), 'dimension')}; two are needed, (rows, classes)")
    if header["fortran_order"] is not False:
        raise _NotAMatrix("is in Fortran order; save numpy.ascontiguousarray of it")
    if shape[0] == 0 or shape[1] == 0:
        raise _NotAMatrix(f"has {shape[0]} rows and {shape[1]} columns; at least one of each is needed")
    return shape[0], shape[1], kind


def _type_name(kind: str) -> str:
    """What a person calls a numpy type string."""
    if "O" in kind:  # a pickle, which runs code when it is loaded
        return "Python objects"
    if len(kind) > 16:  # numpy builds whatever such a string describes, however large
        return "an unknown type"
    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError, SyntaxError):
        return f"an unknown type ({kind!r})"
    return f"big-endian {dtype.name}" if dtype.byteorder == ">" else dtype.name


def save_matrix(path: Path, matrix: NDArray[np.floating[Any]]) -> None:
    """Write a C-ordered, little-endian matrix, the same bytes as numpy would.

    Not by `numpy.lib.format.write_array`: on a full disk it raises an `OSError` without its number, since it writes
    with C's `fwrite`; and not by `numpy.save`, which chooses the version and could pickle.
    """
    with path.open("wb") as stream:
        header = {"descr": matrix.dtype.str, "fortran_order": False, "shape": matrix.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(matrix), step := max(1, _PIECE // matrix[:1].nbytes)):
            stream.write(matrix[start : start + step].tobytes())


class RowsFile:
    """An `.npy` file of float32 rows, of which there will be `rows`. As a context manager it is closed."""

    def __init__(self, path: Path, rows: int, columns: int) -> None:
        self._rows, self._columns, self._written = rows, columns, 0
        self._stream: BinaryIO = path.open("wb")
        # the number of rows first: an .npy header can't grow once numbers stand behind it
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def add(self, block: NDArray[np.floating[Any]]) -> None:
        """Append rows."""
        if block.ndim != 2 or block.shape[1] != self._columns or self._written + len(block) > self._rows:
            raise ValueError(f"{block.shape} does not go on from row {self._written} of {self._rows, self._columns}")
        self._stream.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
        self._written += len(block)

    def __enter__(self) -> RowsFile:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._stream.close()
        if kind is None and self._written != self._rows:
            raise ValueError(f"{self._written} of {self._rows} rows were written")
