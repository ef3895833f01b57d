"""Cache of compiled kernels on disk: by the content of the source, in a folder of the user.

numba's own cache belongs to the path of the source. But Ray unpacks the code of a job into a new folder on each node
whenever a file has changed, and a clone is a new folder too: all kernels would be compiled again, for up to half a
minute. Here they are compiled once for each user, processor and content of the source: of the kernel's file, and of all
files with kernels that it can call. The compiled code can be deleted at any time.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numba.core.config
from numba.core import event

from cluster.durable_files import make_private_folder, user_cache_path

logger = logging.getLogger(__name__)

_config: Any = numba.core.config  # its attributes are set when it is imported

_lock = Lock()
_files: dict[str, frozenset[Path]] = {}
"""Files that compiled code of a module depends on, by its name."""


class KernelLocator:
    """Cache location of a kernel's compiled code; the methods are those that numba calls."""

    def __init__(self, function: Callable[..., Any], file: str, folder: Path) -> None:
        self._py_file = file  # numba names it in a warning
        self._line = function.__code__.co_firstlineno
        digests = sorted(_digest(path) for path in _find_files(function))
        # numba's version too: another one would replace the index of the folder.
        self._digest = hashlib.sha256("".join([numba.__version__, *digests]).encode()).hexdigest()
        self._folder = folder / f"{Path(file).stem}-{self._digest[:20]}"

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> "KernelLocator":
        """Return the cache location of a function's compiled code."""
        folder = find_folder()
        assert folder is not None, "without a folder nothing is cached"
        return cls(function, file, folder)

    def ensure_cache_path(self) -> None:
        """Create the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return a digest of the files that the compiled code depends on."""
        return self._digest

    def get_disambiguator(self) -> str:
        """Return what distinguishes functions of the same name in a file."""
        return str(self._line)


@contextmanager
def kernel_cache() -> Iterator[bool]:
    """Let the kernel that is defined in the context have its compiled code in the cache.

    Yields whether there is a cache, the value of numba's argument `cache`. A message will announce the compilation.
    """
    with _lock:
        _announce_compilation()
        previous = _config.CACHE_LOCATOR_CLASSES
        _config.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelLocator.__name__}"
        try:
            yield find_folder() is not None
        finally:
            _config.CACHE_LOCATOR_CLASSES = previous


def _find_files(function: Callable[..., Any]) -> frozenset[Path]:
    """Return the file of a kernel, and those of the kernels and of this package's functions that its module imports."""
    files = frozenset([Path(function.__code__.co_filename)])
    for value in function.__globals__.values():
        name = str(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", ""))
        if name in _files:
            files |= _files[name]
        elif name.startswith(f"{__package__}."):
            files |= {Path(str(sys.modules[name].__file__))}
    _files[function.__module__] = _files.get(function.__module__, frozenset()) | files
    return files


def find_folder() -> Path | None:
    """Return the folder of the cache, which exists then; None if it cannot be written, or others can write the default.

    It is NUMBA_CACHE_DIR if that is set, or finetune-cnn/kernels in the user's folder of caches.
    """
    if _config.CACHE_DIR:
        return _create_folder(Path(_config.CACHE_DIR))
    folder = user_cache_path("kernels")
    # numba's files are pickles, which can contain any code.
    return folder if folder is not None and _make_private(folder) else None


@cache
def _create_folder(folder: Path) -> Path | None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


_make_private = cache(make_private_folder)


@cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class _Announcement(event.Listener):
    """Message before the first kernel is compiled in this process."""

    def __init__(self) -> None:
        self._is_announced = False

    def on_start(self, event: Any) -> None:
        module = str(event.data["dispatcher"].py_func.__module__)
        if not self._is_announced and module.startswith(("jobs.", "serving.")):
            self._is_announced = True
            folder = find_folder()
            no_folder = "it is not kept, for lack of a folder that only this user can write"
            kept = no_folder if folder is None else f"it is kept in {folder}"
            logger.info(f"compiling code for this processor, which takes up to half a minute; {kept}")

    def on_end(self, event: Any) -> None:
        pass


@cache
def _announce_compilation() -> None:
    """Let a message announce the first compilation in this process; another call does nothing."""
    # numba does not annotate register.
    event.register("numba:compile", _Announcement())  # type: ignore[no-untyped-call]
