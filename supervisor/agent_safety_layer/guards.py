"""Wrappers for guarded functions: plain, async, generators and async generators stay what they are.

A generator is judged when it is first advanced, before anything of it runs; between its steps it neither counts time
nor is anybody's parent.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from agent_safety_layer.calls import Shape, argument_texts
from agent_safety_layer.errors import UsageError
from agent_safety_layer.operation import Operation

if TYPE_CHECKING:
    from agent_safety_layer.compiled import Sandbox, Source
    from agent_safety_layer.layer import SafetyLayer

    Begin = Callable[[tuple[Any, ...], dict[str, Any]], Operation]


def guarded(
    layer: SafetyLayer,
    func: Callable[..., Any],
    operation: str | None,
    given: dict[str, Any] | None,
    sandbox: Sandbox | None = None,
) -> Callable[..., Any]:
    """The function under the layer's guard: same kind, same signature, same name."""
    if isinstance(func, staticmethod | classmethod):
        return type(func)(guarded(layer, func.__func__, operation, given, sandbox))
    shape = Shape(func, given or {})
    name = operation or shape.name

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation:
        bound = shape.bind(args, kwargs)
        texts = argument_texts(bound)
        shown = shape.shown(args, kwargs)
        line = f"{name} {' '.join(texts)}" if texts else name
        return Operation(layer, name, shape.context(bound, shown), shown, layer.tracer, line=line, arguments=texts)

    plain = inspect.isroutine(func) or inspect.isclass(func) or isinstance(func, functools.partial)
    called = func if plain else type(func).__call__  # an object that can be called
    for kind, make in (
        (inspect.iscoroutinefunction, _coroutine_function),
        (inspect.isasyncgenfunction, _async_generator_function),
        (inspect.isgeneratorfunction, _generator_function),
    ):
        if kind(called):
            if sandbox is not None:
                if make is not _coroutine_function:
                    raise UsageError(f"{name} is a generator: it cannot leave a sandbox step by step.")
                return _sandboxed_coroutine_function(func, begin, sandbox)
            return make(func, begin)
    return _function(func, begin) if sandbox is None else _sandboxed_function(func, begin, sandbox)


def _function(func: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return begin(args, kwargs).run(lambda: func(*args, **kwargs))

    return wrapper


def _coroutine_function(func: Callable[..., Awaitable[Any]], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await begin(args, kwargs).run_async(lambda: func(*args, **kwargs))

    return wrapper


def sandbox_of(sandbox: Source, limits: Mapping[str, Any] | None) -> Sandbox | None:
    """What users say of a sandbox, None for no sandbox. Raises ``UsageError`` for limits without one."""
    if sandbox is not False:
        return sandbox, limits
    if limits:
        raise UsageError("Limits hold in a sandbox only.", remedy="Add sandbox=True.")
    return None


def _sandboxed_function(func: Callable[..., Any], begin: Begin, sandbox: Sandbox) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        operation = begin(args, kwargs)
        return operation.run(operation.sandboxed(lambda: func(*args, **kwargs), sandbox, returned_by(func)).run)

    return wrapper


def _sandboxed_coroutine_function(func: Callable[..., Any], begin: Begin, sandbox: Sandbox) -> Callable[..., Any]:
    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        operation = begin(args, kwargs)
        call = operation.sandboxed(lambda: func(*args, **kwargs), sandbox, returned_by(func))
        return await operation.run_async(call.arun)

    return wrapper


def returned_by(func: Callable[..., Any]) -> Any:
    """What the function says that it returns; None when it does not say, or it cannot be told."""
    try:
        return get_type_hints(func).get("return")
    except (NameError, TypeError, AttributeError):
        return None


def _generator_function(func: Callable[..., Generator[Any, Any, Any]], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        operation = begin(args, kwargs)
        if not operation.admit():
            return None
        generator: Generator[Any, Any, Any] | None = None
        advance: Callable[[], Any] | None = None
        while True:
            operation.enter()
            try:
                if advance is None:
                    generator = func(*args, **kwargs)
                    advance = generator.__next__
                item = advance()
            except StopIteration as stop:
                operation.leave()
                return stop.value if operation.completed(stop.value) else None
            except BaseException as error:
                operation.leave()
                operation.failed(error)
                raise
            operation.leave()
            assert generator is not None
            if operation.overran():
                generator.close()
                operation.completed(None)
                return None
            try:
                received = yield item
            except GeneratorExit:
                generator.close()
                operation.completed(None)
                raise
            except BaseException as error:
                advance = functools.partial(generator.throw, error)
            else:
                advance = functools.partial(generator.send, received)

    return wrapper


def _async_generator_function(func: Callable[..., AsyncGenerator[Any, Any]], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        operation = begin(args, kwargs)
        if not await operation.admit_async():
            return
        generator: AsyncGenerator[Any, Any] | None = None
        advance: Callable[[], Any] | None = None
        while True:
            operation.enter()
            try:
                if advance is None:
                    generator = func(*args, **kwargs)
                    advance = generator.__anext__
                item = await operation.stepping(advance())
            except StopAsyncIteration:
                operation.leave()
                operation.completed(None)
                return
            except BaseException as error:
                operation.leave()
                operation.failed(error)
                raise
            operation.leave()
            assert generator is not None
            if operation.overran():
                await generator.aclose()
                operation.completed(None)
                return
            try:
                received = yield item
            except GeneratorExit:
                await generator.aclose()
                operation.completed(None)
                raise
            except BaseException as error:
                advance = functools.partial(generator.athrow, error)
            else:
                advance = functools.partial(generator.asend, received)

    return wrapper


__all__ = ["guarded", "returned_by", "sandbox_of"]
