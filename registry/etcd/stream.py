"""gRPC's threads behind Trio: one call, and one bidirectional stream."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import trio

from registry.store import StoreError, Unavailable

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

__all__ = ["Stream", "finished", "grpc"]


class Stream:
    """A bidirectional stream: requests through a queue that gRPC drains, answers through one thread that reads."""

    def __init__(
        self, channel: Any, method: Any, metadata: list[tuple[str, str]], translate: Callable[[Any], StoreError]
    ) -> None:
        self.channel = channel
        """That it runs on."""
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._translate = translate
        self._send, self._answers = trio.open_memory_channel[Any](float("inf"))
        self._error: Any = None
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._read, args=(token,), name="shoal-etcd-stream", daemon=True).start()

    def _read(self, token: trio.lowlevel.TrioToken) -> None:
        """In the thread; ends when the call does, which `cancel` sees to."""
        error: Any = None
        try:
            answers: Iterator[Any] = self._call
            for answer in answers:
                token.run_sync_soon(self._arrived, answer)
        except grpc.RpcError as failed:
            error = failed
        except trio.RunFinishedError:
            return
        try:
            token.run_sync_soon(self._ended, error)
        except trio.RunFinishedError:
            pass

    def _arrived(self, answer: Any) -> None:
        try:
            self._send.send_nowait(answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # cancelled meanwhile

    def _ended(self, error: Any) -> None:
        self._error = error
        self._send.close()

    def send(self, request: Any) -> None:
        """Queue a request."""
        self._requests.put(request)

    async def receive(self) -> Any:
        """The next answer. Raises StoreError when the stream has ended."""
        try:
            return await self._answers.receive()
        except trio.EndOfChannel:
            pass
        if self._error is None:
            raise Unavailable("etcd closed the stream")
        raise self._translate(self._error)

    def cancel(self) -> None:
        """End the call, and the thread with it."""
        self._requests.put(None)
        self._call.cancel()
        self._answers.close()


async def finished(start: Callable[[], Any]) -> Any:
    """Start a gRPC future and wait for it; cancelling the task cancels it. Raises grpc.RpcError."""
    future = start()
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    waiting = True

    def wake() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            trio.lowlevel.reschedule(task)

    def on_done(_: Any) -> None:
        try:
            token.run_sync_soon(wake)
        except trio.RunFinishedError:
            pass

    def on_cancel(_: Any) -> trio.lowlevel.Abort:
        nonlocal waiting
        waiting = False
        future.cancel()
        return trio.lowlevel.Abort.SUCCEEDED

    future.add_done_callback(on_done)
    await trio.lowlevel.wait_task_rescheduled(on_cancel)
    try:
        return future.result()
    except grpc.FutureCancelledError:
        raise Unavailable("the connection was given up for another endpoint") from None
