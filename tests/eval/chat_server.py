"""A real HTTP server on 127.0.0.1 that speaks OpenAI's chat interface and can be told to misbehave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from aiohttp import web

Mode = Literal["good", "garbage", "500", "refuse", "too-long", "timeout", "slow", "null"]


class ChatServer:
    """Answers `/v1/chat/completions` with what `reply` makes of the messages, `/score` with `score` of the rows.

    `mode` says how; `fails_from` how many requests are answered well before it misbehaves.
    """

    def __init__(self) -> None:
        self.mode: Mode = "good"
        self.fails_from = 0
        self.reply: Callable[[list[dict[str, str]]], str] = lambda messages: "[[A]]"
        self.score: Callable[[dict[str, str]], float] = lambda row: 1.0
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.at_once = self.most_at_once = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.call_soon(self._ready.set)  # the loop runs: a stop that comes at once is heard
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/score", self._answer)
        self._runner = runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(request.headers.get("Authorization", ""))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._made(body, self.mode if len(self.requests) > self.fails_from else "good")
        finally:
            self.at_once -= 1

    async def _made(self, body: dict[str, Any], mode: Mode) -> web.StreamResponse:
        match mode:
            case "500":
                return web.Response(status=500, text="out of memory")
            case "refuse":
                return web.json_response({"error": f"invalid key {self.headers[-1]}"}, status=401)
            case "too-long":
                return web.json_response({"error": "longer than the context"}, status=400)
            case "garbage":
                return web.Response(text='{"choices": [')
            case "timeout":
                await asyncio.sleep(30)
            case "slow":
                await asyncio.sleep(0.05)
        if "rows" in body:
            return web.json_response({"scores": [self.score(row) for row in body["rows"]]})
        text = None if mode == "null" else self.reply(body["messages"])
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server for the time of a test."""
    server = ChatServer()
    try:
        yield server
    finally:
        server.stop()
