"""What the instrumentors share: reversible wraps, and keeping one value from being recorded twice."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any, NamedTuple

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from tracelet_otel.foundation.guard import Guard

_silenced: ContextVar[bool] = ContextVar("tracelet_silenced", default=False)


@contextmanager
def silence_loggers() -> Generator[None]:
    """While a framework hands values that we have recorded to its loggers, their hooks record nothing."""
    token = _silenced.set(True)
    try:
        yield
    finally:
        _silenced.reset(token)


silenced = _silenced.get
"""Whether a hook must leave the value alone: a framework's hook has recorded it already."""


class Switch:
    """Whether one wrap is on. A wrapper that is off calls what it wraps and does nothing else."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = True


Make = Callable[[Callable[..., Any], Switch], Callable[..., Any]]
"""Makes the wrapper of a function. It calls the function with untouched arguments and returns its value."""


class Wrap:
    """A reversible wrap of one method.

    Other tools may have wrapped the method before or after us. Taking ours away never takes theirs: where
    one of theirs is around ours, ours stays and is switched off, and is switched on again later. At any
    time at most one of the wrappers that were made is on, so nothing is recorded twice.

    A plain function, not a ``wrapt.FunctionWrapper``: binding that costs more than some hooks may.

    Args:
        owner: the class, or a class derived from the one that has the method.
        name: the method's.
        make: makes the wrapper; called with the method as it is at that time.
    """

    def __init__(self, owner: type, name: str, make: Make) -> None:
        # Wrapped where it is defined, or the wrapper would miss the class's other instances.
        self.owner = next(base for base in owner.__mro__ if name in vars(base))
        self._name = name
        self._make = make
        self._wrapper: Callable[..., Any] | None = None
        self._switch = Switch()

    def enable(self) -> None:
        """Wraps the method; does nothing where it is wrapped already."""
        current: Any = vars(self.owner)[self._name]
        if self._wrapper is not None and _contains(current, self._wrapper):
            self._switch.on = True
            return
        # Our last wrapper is gone, or hidden in a wrap that does not show what it wraps.
        self._switch.on = False
        self._switch = Switch()
        self._wrapper = functools.wraps(current)(self._make(_unbound(current), self._switch))
        setattr(self.owner, self._name, self._wrapper)

    def disable(self) -> None:
        """Takes the wrap away, or switches it off where another tool's wrap is around it."""
        self._switch.on = False
        if self._wrapper is not None and vars(self.owner).get(self._name) is self._wrapper:
            setattr(self.owner, self._name, self._wrapper.__wrapped__)  # pyright: ignore[reportFunctionMemberAccess]
            self._wrapper = None


def _unbound(method: Any) -> Callable[..., Any]:
    """``method`` as a function of its instance: another tool's wrapper learns of that by being bound."""
    if type(method) is FunctionType:  # isinstance() believes a wrapper that says so
        return method

    @functools.wraps(method)
    def function(instance: Any, *args: Any, **kwargs: Any) -> Any:
        return method.__get__(instance, type(instance))(*args, **kwargs)

    return function


def _contains(outermost: Any, wrapper: object) -> bool:
    """Whether ``wrapper`` is among the wraps that show what they wrap."""
    seen: set[int] = set()
    while outermost is not None and id(outermost) not in seen:
        if outermost is wrapper:
            return True
        seen.add(id(outermost))
        outermost = getattr(outermost, "__wrapped__", None)
    return False


class Target(NamedTuple):
    """A method to wrap, in a module that may not be imported yet."""

    module: str
    owner: str
    name: str
    make: Make


class Hooks:
    """Wraps that are switched on and off together, any number of times.

    A module that is imported is wrapped at once, any other when it is imported; none is imported by this.

    Args:
        targets: the methods. One that a library's version lacks costs its own hook and no other.
    """

    def __init__(self, targets: Collection[Target]) -> None:
        self._targets = targets
        self._wraps: dict[Target, Wrap] = {}
        self._awaited: set[str] = set()
        self._enabled = False
        self._lock = threading.RLock()

    def enable(self) -> None:
        """Wraps what is not wrapped."""
        with self._lock:
            self._enabled = True
            for module in {target.module for target in self._targets}:
                if module in sys.modules:
                    self._imported(sys.modules[module])
                elif module not in self._awaited:
                    self._awaited.add(module)
                    wrapt.register_post_import_hook(self._imported, module)

    def disable(self) -> None:
        """Undoes :meth:`enable`."""
        with self._lock:
            self._enabled = False
            for wrap in self._wraps.values():
                wrap.disable()

    def _imported(self, module: Any) -> None:
        with self._lock:
            self._awaited.discard(module.__name__)
            if not self._enabled:
                return
            for target in self._targets:
                if target.module == module.__name__:
                    # An exception here would make the user's import fail.
                    with Guard(f"hooking {target.module}.{target.owner}.{target.name}"):
                        self._wrap(target, getattr(module, target.owner))

    def _wrap(self, target: Target, owner: type) -> None:
        wrap = self._wraps.get(target)
        # The module was imported again, unless a tool put a class derived from it in its place.
        if wrap is None or wrap.owner not in owner.__mro__:
            if wrap is not None:
                wrap.disable()
            wrap = self._wraps[target] = Wrap(owner, target.name, target.make)
        wrap.enable()


class HooksInstrumentor(BaseInstrumentor):
    """An instrumentor that consists of :class:`Hooks`. Repeated calls are quiet: ``configure()`` repeats.

    Class attributes:
        dependencies: the packages it hooks into, as in a requirements file.
        hooks: shared by all instances; OpenTelemetry makes one.
    """

    dependencies: Collection[str] = ()
    hooks: Hooks = Hooks(())

    def instrumentation_dependencies(self) -> Collection[str]:
        """The packages that are hooked into."""
        return self.dependencies

    def instrument(self, **kwargs: Any) -> None:
        """Hooks into the packages, now or once they are imported."""
        if self.is_instrumented_by_opentelemetry:
            self.hooks.enable()  # another tool may have put the original function back since
        else:
            super().instrument(**kwargs)

    def uninstrument(self, **kwargs: Any) -> None:
        """Undoes ``instrument()``; what others wrapped meanwhile stays wrapped."""
        if self.is_instrumented_by_opentelemetry:
            super().uninstrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        self.hooks.enable()

    def _uninstrument(self, **kwargs: Any) -> None:
        self.hooks.disable()
