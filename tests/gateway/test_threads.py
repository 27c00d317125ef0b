"""Threads beside an event loop: what they answer with, and the connections that they keep."""

import asyncio
import threading
from contextlib import closing

import pytest
from django.db import Error, OperationalError, connection, connections
from django.test import override_settings

from core.web import PLANE_THREADS
from gateway import threads
from gateway.threads import Threads
from tests.books import Books


def backend() -> int:
    """The server process behind this thread's connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid: int = cursor.fetchone()[0]
        return pid


def break_it() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_where_the_pool_is_small_no_thread_keeps_a_connection_from_the_others(books: Books) -> None:
    def is_open() -> bool:
        return connection.connection is not None

    async def story(alone: Threads) -> None:
        for most, kept in ((2 * PLANE_THREADS - 1, False), (2 * PLANE_THREADS, True)):
            with override_settings(DATABASE_POOL_MAX=most):
                await alone.call(backend)
                assert await alone.call(is_open) is kept
        await alone.call(connections.close_all)

    with closing(Threads(1)) as alone:
        asyncio.run(story(alone))


def ask_wrongly() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 / 0")


def test_a_thread_keeps_its_connection_as_long_as_it_is_good(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(alone: Threads) -> None:
        first = await alone.call(backend)
        assert await alone.call(backend) == first
        # One that was cut off in use is not kept.
        with pytest.raises(Error):
            await alone.call(break_it)
        second = await alone.call(backend)
        assert second != first
        # One that an error left whole is.
        with pytest.raises(Error):
            await alone.call(ask_wrongly)
        assert await alone.call(backend) == second
        # One that was cut off while idle is found out before it is used again.
        with books.connect() as raw:
            raw.execute("SELECT pg_terminate_backend(%s, 5000)", [second])
        monkeypatch.setattr(threads, "IDLE_SECONDS", 0.0)
        assert await alone.call(backend) != second
        await alone.call(connections.close_all)

    with closing(Threads(1)) as alone:
        asyncio.run(story(alone))


def test_the_work_is_done_in_a_thread_and_what_it_raises_is_raised_here() -> None:
    def fail() -> None:
        raise ValueError(threading.current_thread().name)

    async def story(pool: Threads) -> None:
        assert await pool.call(lambda: threading.current_thread() is threading.main_thread()) is False
        with pytest.raises(ValueError, match="plane"):
            await pool.call(fail)

    with closing(Threads(2)) as pool:
        asyncio.run(story(pool))


def test_who_waits_for_a_thread_while_the_database_is_found_gone_is_told_so_without_asking() -> None:
    asked: list[int] = []
    found_out = threading.Event()

    def find_out() -> None:
        assert found_out.wait(30)
        asked.append(0)
        raise OperationalError("nobody answers")

    async def story(pool: Threads) -> None:
        first = asyncio.create_task(pool.call(find_out))
        others = [asyncio.create_task(pool.call(lambda number=number: asked.append(number))) for number in (1, 2)]  # type: ignore[misc]
        await asyncio.sleep(0)
        found_out.set()
        told = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(one) for one in told] == [OperationalError] * 3
        # Whoever comes later asks again.
        await pool.call(lambda: asked.append(3))
        assert asked == [0, 3]

    with closing(Threads(1)) as pool:
        asyncio.run(story(pool))


def test_whatever_stops_a_thread_whoever_waits_is_told() -> None:
    def stop() -> None:
        raise SystemExit

    async def story(pool: Threads) -> None:
        with pytest.raises(RuntimeError, match="SystemExit"):
            await pool.call(stop)
        assert await pool.call(lambda: 1) == 1

    with closing(Threads(1)) as pool:
        asyncio.run(story(pool))
