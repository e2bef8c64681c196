"""Sessions without a browser: what Streamlit's page says over its WebSocket, so that only the server is measured."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect


@dataclass
class Session:
    """One open page: how often its script ran, and whether one ended in an exception."""

    answers: list[float] = field(default_factory=list)
    """Seconds from a question to the end of the script that answers it, one per run of the script."""
    errors: list[str] = field(default_factory=list)


async def visit(url: str, page: str, query: str, *, seconds: float = 0.0) -> Session:
    """Open a page and wait for it to be drawn; then stay for so many seconds, as a browser does: a part that
    refreshes itself is asked for again whenever its interval has passed."""
    session = Session()
    address = f"{url.replace('http', 'ws', 1)}/_stcore/stream"
    async with connect(address, subprotocols=["streamlit"], max_size=None) as socket:  # type: ignore[list-item]
        timers: dict[str, asyncio.Task] = {}
        asked: list[float] = []

        async def ask(fragment: str = "") -> None:
            message = BackMsg()
            message.rerun_script.query_string = query
            message.rerun_script.page_name = page
            if fragment:
                message.rerun_script.fragment_id = fragment
                message.rerun_script.is_auto_rerun = True
            asked.append(time.perf_counter())
            await socket.send(message.SerializeToString())

        async def again(fragment: str, interval: float) -> None:
            while True:
                await asyncio.sleep(interval)
                await ask(fragment)

        await ask()
        end = time.perf_counter() + 60.0
        with contextlib.suppress(TimeoutError):
            while (left := end - time.perf_counter()) > 0:
                message = ForwardMsg()
                data = await asyncio.wait_for(socket.recv(), left)
                message.ParseFromString(data if isinstance(data, bytes) else data.encode())
                kind = message.WhichOneof("type")
                if kind == "auto_rerun" and message.auto_rerun.fragment_id not in timers:
                    auto = message.auto_rerun
                    timers[auto.fragment_id] = asyncio.create_task(again(auto.fragment_id, auto.interval))
                elif kind == "delta" and message.delta.new_element.WhichOneof("type") == "exception":
                    session.errors.append(message.delta.new_element.exception.message)
                elif kind == "script_finished" and asked:
                    session.answers.append(time.perf_counter() - asked.pop(0))
                    if len(session.answers) == 1:
                        end = time.perf_counter() + seconds
        for timer in timers.values():
            timer.cancel()
    return session


def visits(url: str, pages: list[tuple[str, str]], *, seconds: float = 0.0) -> list[Session]:
    """Several sessions at once."""

    async def all_of_them() -> list[Session]:
        return await asyncio.gather(*(visit(url, page, query, seconds=seconds) for page, query in pages))

    # An open browser (playwright) occupies the event loop of the main thread.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(all_of_them())).result()
