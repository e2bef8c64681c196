"""The dashboard with a stopwatch at its WebSocket: `streamlit run tests/load/timed_app.py`.

The server's time is taken where its messages come in and go out, so that it holds whatever the server does for an
answer: waiting for its own threads, the script, putting the elements into bytes, and sending the last of them.
Each answer becomes a line of the file that LOAD_STOPWATCH names.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

ROOT = Path(__file__).resolve().parents[2]
# A message that says only that a script has ended is short: the long ones need not be read for it.
SHORT = 512
LOOK_S = 0.05
Message = MutableMapping[str, Any]


class Stopwatch:
    """ASGI middleware: from the request to run a script until its last element has been sent.

    A request that comes while a script still runs restarts it: one answer, timed from the first of the two. What a
    page asks for by itself (`run_every`) is marked `auto`.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app
        self.log = open(os.environ["LOAD_STOPWATCH"], "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self.watching: asyncio.Task | None = None

    def _write(self, **words: Any) -> None:
        self.log.write(json.dumps(words) + "\n")

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        self.watching = self.watching or asyncio.create_task(self._watch_the_loop())
        agent = dict(scope["headers"]).get(b"user-agent", b"").decode()
        who = agent.rpartition("session/")[2] if "session/" in agent else ""
        answer: dict[str, Any] = {}

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive" and message.get("bytes"):
                asked = BackMsg.FromString(message["bytes"])
                if asked.WhichOneof("type") == "rerun_script":
                    auto = asked.rerun_script.is_auto_rerun
                    # A person's click during a refresh: the click is what is timed from now on.
                    if not answer or (answer["auto"] and not auto):
                        answer.update(began=time.monotonic(), auto=auto, bytes=0, messages=0)
            return message

        async def said(message: Message) -> None:
            await send(message)
            payload = message.get("bytes") or b""
            if not answer or not payload:
                return
            answer["bytes"] += len(payload)
            answer["messages"] += 1
            if len(payload) < SHORT:
                told = ForwardMsg.FromString(payload)
                again = ForwardMsg.FINISHED_EARLY_FOR_RERUN
                if told.WhichOneof("type") == "script_finished" and told.script_finished != again:
                    self._write(who=who, ended=time.monotonic(), **answer)
                    answer.clear()

        await self.app(scope, heard, said)

    async def _watch_the_loop(self) -> None:
        """How late the event loop is: a request that waits to be read is not on the stopwatch yet."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(LOOK_S)
            self._write(late=round(time.monotonic() - began - LOOK_S, 4), at=began)


app = st.App(ROOT / "dashboard" / "Home.py", middleware=[Middleware(Stopwatch)])
