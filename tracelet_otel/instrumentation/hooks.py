"""What the instrumentors share: reversible wraps, and keeping one value from being recorded twice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from tracelet_otel.foundation.forks import SharedLock
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


class Wrap:
    """One wrapper around a method or a module's function. While it is off it calls what it wraps, and does
    nothing else.

    A plain function, not a ``wrapt.FunctionWrapper``: binding that costs more than some hooks may.
    """

    def __init__(self, owner: type | ModuleType, name: str, make: Make) -> None:
        self.owner = owner
        self.name = name
        self.on = True
        self._wrapped: Any = vars(owner)[name]
        self._wrapper = functools.wraps(self._wrapped)(make(_unbound(self._wrapped), self))
        setattr(owner, name, self._wrapper)

    def is_in_place(self) -> bool:
        """Whether it is among the method's wraps that show what they wrap."""
        outermost: Any = vars(self.owner)[self.name]
        seen: set[int] = set()
        while outermost is not None and id(outermost) not in seen:
            if outermost is self._wrapper:
                return True
            seen.add(id(outermost))
            outermost = getattr(outermost, "__wrapped__", None)
        return False

    def remove(self) -> None:
        """Takes the wrap away, or only switches it off where another tool's wrap is around it."""
        self.on = False
        if vars(self.owner).get(self.name) is self._wrapper:
            setattr(self.owner, self.name, self._wrapped)


Make = Callable[[Callable[..., Any], Wrap], Callable[..., Any]]
"""Makes the wrapper of a function, which calls it with untouched arguments and returns its value. The
:class:`Wrap` tells it whether it is on."""


def wrapped(before: Wrap | None, owner: type | ModuleType, name: str, make: Make) -> Wrap:
    """Has a method wrapped, of which at most one wrapper is on, so that nothing is recorded twice.

    Other tools may have wrapped the method before or after us. Taking ours away never takes theirs: where
    one of theirs is around ours, ours stays and is switched off, and is switched on again here.

    Args:
        before: the method's last wrap, if there was one.
        owner: the class, or a class derived from the one that has the method; or a module.
        name: the method's.
        make: called with the method as it is now.
    """
    # The module may have been imported again, unless a tool put a class derived from it in its place.
    homes = owner.__mro__ if isinstance(owner, type) else (owner,)
    if before is not None and before.owner in homes:
        home = before.owner
        if before.is_in_place():
            before.on = True
            return before
    else:
        # Wrapped where it is defined, or the wrapper would miss the class's other instances.
        home = next(base for base in homes if name in vars(base))
    if before is not None:
        before.remove()  # it is gone, or hidden in a wrap that does not show what it wraps
    return Wrap(home, name, make)


Call = functools.partial[Any]
"""The call of a wrapped method that is to be made: the function, and the instance before the arguments."""


def around(hook: Callable[..., Any]) -> Make:
    """The wrapper of a method that calls ``hook`` with the call to make, the instance and the arguments."""

    def make(method: Callable[..., Any], wrap: Wrap) -> Callable[..., Any]:
        def hooked(instance: Any, *args: Any, **kwargs: Any) -> Any:
            if not wrap.on:
                return method(instance, *args, **kwargs)
            return hook(functools.partial(method, instance, *args, **kwargs), instance, *args, **kwargs)

        return hooked

    return make


def _unbound(method: Any) -> Callable[..., Any]:
    """``method`` as a function of its instance: another tool's wrapper learns of that by being bound."""
    if type(method) is FunctionType:  # isinstance() believes a wrapper that says so
        return method

    @functools.wraps(method)
    def function(instance: Any, *args: Any, **kwargs: Any) -> Any:
        return method.__get__(instance, type(instance))(*args, **kwargs)

    return function


class Target(NamedTuple):
    """A method to wrap, in a module that may not be imported yet; without an owner, a function."""

    module: str
    owner: str
    name: str
    make: Make


class Hooks:
    """Wraps that are switched on and off together, any number of times.

    A module that is imported is wrapped at once, any other when it is imported; this imports no module.

    Args:
        targets: the methods. One that a library's version lacks costs its own hook and no other.
    """

    def __init__(self, targets: Collection[Target]) -> None:
        self._targets = targets
        self._wraps: dict[Target, Wrap] = {}
        self._awaited: set[str] = set()
        self._enabled = False
        self._lock = SharedLock()

    def enable(self) -> None:
        """Wraps what is not wrapped."""
        with self._lock:
            self._enabled = True
            for module in {target.module for target in self._targets}:
                if module not in self._awaited:
                    self._awaited.add(module)
                    wrapt.register_post_import_hook(self._imported, module)

    def disable(self) -> None:
        """Undoes :meth:`enable`."""
        with self._lock:
            self._enabled = False
            for wrap in self._wraps.values():
                wrap.remove()

    def _imported(self, module: Any) -> None:
        with self._lock:
            self._awaited.discard(module.__name__)
            for target in self._targets:
                if self._enabled and target.module == module.__name__:
                    # An exception here would make the user's import fail.
                    with Guard(f"hooking {target.module}.{target.owner}.{target.name}"):
                        owner = getattr(module, target.owner) if target.owner else module
                        self._wraps[target] = wrapped(
                            self._wraps.get(target), owner, target.name, target.make
                        )


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
