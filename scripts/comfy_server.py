"""Start a ComfyUI server of our own, talk to its API, and stop it.

Standard library only, except that `aiohttp` (a requirement of every ComfyUI) carries the websocket. Used by the demo
and by the tests, and usable from a shell:

    with ComfyServer(comfyui, python, base) as server:
        result = server.queue(prompt)            # prompt in API format
        print(result.status, result.files)
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".webp", ".gif")
# The first keeps the template browser from covering a new user's page, the second makes the defaults a new install's.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.47.12"}


class ServerError(RuntimeError):
    """The server did not start, or went away; the message ends with the last lines of its log."""


# ------------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class OutputFile:
    """One file that a prompt wrote, as the server names it."""

    node_id: str
    filename: str
    subfolder: str
    type: str

    @property
    def is_video(self) -> bool:
        """True for a video or an animated image."""
        return self.filename.lower().endswith(VIDEO_SUFFIXES)


@dataclass
class Result:
    """What became of one prompt.

    `status` is "success", "error" (a node raised), "interrupted" or "rejected" (the server's validation refused it).
    `errors` holds the messages a user would read; `events` is every websocket message with its arrival time in
    seconds. A prompt with one valid output of several is run: `status` is "success" then, and the complaints about
    the others are in `node_errors`.
    """

    prompt_id: str = ""
    status: str = "success"
    errors: list[str] = field(default_factory=list)
    error: Json = field(default_factory=dict)
    node_errors: Json = field(default_factory=dict)
    outputs: dict[str, Json] = field(default_factory=dict)
    files: list[OutputFile] = field(default_factory=list)
    cached: set[str] = field(default_factory=set)
    executed: list[str] = field(default_factory=list)
    events: list[tuple[float, str, Json]] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when every output ran."""
        return self.status == "success" and not self.node_errors

    @property
    def images(self) -> list[OutputFile]:
        """Still images that the prompt wrote."""
        return [file for file in self.files if not file.is_video]

    @property
    def videos(self) -> list[OutputFile]:
        """Videos and animated images that the prompt wrote."""
        return [file for file in self.files if file.is_video]

    @property
    def steps(self) -> list[tuple[int, int]]:
        """Sampler progress as (step, number of steps), in order of arrival."""
        return [(data["value"], data["max"]) for _, kind, data in self.events if kind == "progress"]

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each node that ran, by node id."""
        marks = [(when, data["node"]) for when, kind, data in self.events if kind == "executing"]
        spent: dict[str, float] = {}
        for (start, node), (end, _) in zip(marks, marks[1:], strict=False):
            spent[node] = spent.get(node, 0.0) + end - start
        return spent


# ------------------------------------------------------------------------------------------------ client


class EventStream:
    """The server's websocket messages for one client id, received on a thread of its own."""

    def __init__(self, url: str, client_id: str):
        """Connect; returns once messages are being received."""
        self._url = url.replace("http", "ws", 1) + f"/ws?clientId={client_id}"
        self._messages: queue.Queue[tuple[float, str, Any]] = queue.Queue()
        self._connected = threading.Event()
        self._close: Callable[[], object] = lambda: None
        threading.Thread(target=self._run, daemon=True).start()
        if not self._connected.wait(30):
            raise ServerError(f"no websocket connection to {self._url}")

    def _run(self) -> None:
        import asyncio

        asyncio.run(self._receive())

    async def _receive(self) -> None:
        import asyncio

        import aiohttp

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._close = lambda: loop.call_soon_threadsafe(stop.set)
        try:
            async with aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as socket_:
                self._connected.set()
                stopping = asyncio.ensure_future(stop.wait())
                while not stop.is_set():
                    receiving = asyncio.ensure_future(socket_.receive())
                    await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    if not receiving.done():
                        receiving.cancel()
                        break
                    message = receiving.result()
                    if message.type == aiohttp.WSMsgType.TEXT:
                        body = json.loads(message.data)
                        self._messages.put((time.monotonic(), body["type"], body.get("data") or {}))
                    elif message.type == aiohttp.WSMsgType.BINARY:
                        self._messages.put((time.monotonic(), "binary", message.data))
                    else:
                        break
        except (aiohttp.ClientError, OSError):
            pass
        self._messages.put((time.monotonic(), "closed", {}))

    def next(self, timeout: float) -> tuple[float, str, Any]:
        """The next (time, type, data).

        Raises:
            queue.Empty: nothing came within `timeout` seconds.
        """
        return self._messages.get(timeout=timeout)

    def close(self) -> None:
        """Drop the connection."""
        with contextlib.suppress(RuntimeError):
            self._close()


class Pending:
    """A prompt that has been queued and is watched; `wait()` gives its result."""

    def __init__(self, client: Client, stream: EventStream, result: Result):
        """Keep what `Client.submit` made."""
        self._client, self._stream, self.result = client, stream, result
        self.done = result.status == "rejected"

    @property
    def prompt_id(self) -> str:
        """The server's id of this prompt."""
        return self.result.prompt_id

    def wait(
        self,
        timeout: float = 300,
        until: Callable[[str, Json], bool] | None = None,
        on_event: Callable[[str, Json], None] | None = None,
    ) -> Result:
        """Receive messages until the prompt ends, or until `until(type, data)` is true.

        Args:
            timeout: seconds without any end before TimeoutError.
            until: an earlier stop; call `wait` again to go on.
            on_event: called with every message that belongs to this prompt.

        Raises:
            ServerError: the connection closed, so the server is gone.
            TimeoutError: not finished in time.
        """
        deadline = time.monotonic() + timeout
        while not self.done:
            try:
                when, kind, data = self._stream.next(max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"prompt {self.prompt_id} did not finish within {timeout:.0f} s") from None
            if kind == "closed":
                raise ServerError(f"the server went away while prompt {self.prompt_id} ran")
            if kind == "binary":
                self.result.previews.append(data)
                continue
            if data.get("prompt_id", self.prompt_id) != self.prompt_id:
                continue
            self._note(when, kind, data)
            if on_event:
                on_event(kind, data)
            if until and until(kind, data):
                return self.result
        return self.result

    def _note(self, when: float, kind: str, data: Json) -> None:
        result = self.result
        result.events.append((when, kind, data))
        if kind == "execution_cached":
            result.cached |= set(data["nodes"])
        elif kind == "execution_error":
            result.status, result.error = "error", data
            result.errors.append(data["exception_message"].strip())
        elif kind == "execution_interrupted":
            result.status = "interrupted"
        elif kind == "executing" and data["node"] is not None:
            result.executed.append(data["node"])
        elif kind == "executing" and "prompt_id" in data:
            # /history is complete only now, not yet when execution_success arrives.
            self._finish()

    def _finish(self) -> None:
        self.done = True
        self._stream.close()
        history = self._client.get_json(f"/history/{self.prompt_id}").get(self.prompt_id, {})
        self.result.outputs = history.get("outputs", {})
        for node_id, output in self.result.outputs.items():
            for entry in (entry for value in output.values() if isinstance(value, list) for entry in value):
                if isinstance(entry, dict) and "filename" in entry:
                    file = OutputFile(
                        node_id, entry["filename"], entry.get("subfolder", ""), entry.get("type", "output")
                    )
                    self.result.files.append(file)


class Client:
    """The HTTP and websocket API of a running server."""

    def __init__(self, url: str):
        """Talk to the server at `url`, such as http://127.0.0.1:8188."""
        self.url = url

    def request(self, path: str, body: Any = None, timeout: float = 60) -> tuple[int, bytes]:
        """Send GET, or POST when there is a body; give status and answer, also for HTTP errors."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def get_json(self, path: str) -> Any:
        """GET a JSON document.

        Raises:
            ServerError: an answer other than 200.
        """
        status, body = self.request(path)
        if status != 200:
            raise ServerError(f"GET {path} answered {status}: {body[:300]!r}")
        return json.loads(body)

    def object_info(self, node: str | None = None) -> Json:
        """Schemas of all nodes by type, or of one."""
        if node is None:
            return self.get_json("/object_info")
        return self.get_json(f"/object_info/{urllib.parse.quote(node)}").get(node, {})

    def submit(self, prompt: Json, extra_data: Json | None = None) -> Pending:
        """Queue an API-format prompt and watch it.

        Args:
            prompt: node id -> {class_type, inputs}.
            extra_data: what a page sends beside it, such as {"extra_pnginfo": {"workflow": ...}} or
                {"preview_method": "auto"}.
        """
        client_id = uuid.uuid4().hex
        stream = EventStream(self.url, client_id)
        body = {"prompt": prompt, "client_id": client_id, "extra_data": extra_data or {}}
        status, answer = self.request("/prompt", body)
        if status != 200:
            stream.close()
            return Pending(self, stream, rejected(status, answer))
        reply = json.loads(answer)
        result = Result(prompt_id=reply["prompt_id"], node_errors=reply.get("node_errors") or {})
        result.errors += validation_messages(result.node_errors)
        return Pending(self, stream, result)

    def queue(self, prompt: Json, timeout: float = 300, **options: Any) -> Result:
        """Queue an API-format prompt and wait for its end; see `submit` and `Pending.wait` for the options."""
        extra_data = options.pop("extra_data", None)
        return self.submit(prompt, extra_data).wait(timeout, **options)

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the running prompt, or only the one named."""
        self.request("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def delete(self, *prompt_ids: str) -> None:
        """Take waiting prompts out of the queue."""
        self.request("/queue", {"delete": list(prompt_ids)})

    def fetch(self, file: OutputFile) -> bytes:
        """Contents of an output file, through the server.

        Raises:
            ServerError: the server does not have it, or has only a part of it.
        """
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        status, body = self.request(f"/view?{urllib.parse.urlencode(query)}")
        if status != 200:
            raise ServerError(f"/view of {file.filename} answered {status}")
        check_whole(body, file.filename)
        return body


def check_whole(content: bytes, name: str) -> None:
    """Refuse a file that a killed server left half-written: an mp4 or mov without its index, or an empty file.

    Args:
        content: Of the file.
        name: For the message.

    Raises:
        ServerError: It is not whole.
    """
    problem = "" if content else "is empty"
    if name.lower().endswith((".mp4", ".mov")) and not problem:
        at, kinds = 0, set()
        while 0 <= at <= len(content) - 8:
            size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
            size = int.from_bytes(content[at + 8 : at + 16], "big") if size == 1 else size or len(content) - at
            kinds.add(kind)
            at += max(size, 8)
        if at != len(content) or not {b"moov", b"mdat"} <= kinds:
            problem = f"has {len(content)} bytes and was not written to its end"
    if problem:
        raise ServerError(
            f"{name} {problem}: it is no result; allowed: files of a prompt that ended with success. Queue the prompt "
            f"again, and remove this file."
        )


def rejected(status: int, answer: bytes) -> Result:
    """Result of a prompt that the server's validation refused."""
    try:
        body = json.loads(answer)
    except ValueError:
        return Result(status="rejected", errors=[f"HTTP {status}: {answer[:300]!r}"])
    node_errors = body.get("node_errors") or {}
    problem = body.get("error", {})
    problem = problem if isinstance(problem, dict) else {"message": str(problem)}
    messages = validation_messages(node_errors) or [
        f"{problem.get('message', '')} {problem.get('details', '')}".strip()
    ]
    return Result(status="rejected", errors=messages, error=problem, node_errors=node_errors)


def validation_messages(node_errors: Json) -> list[str]:
    """One line per complaint: node type, message and details."""
    return [
        f"{node['class_type']}: {error['message']}: {error['details']}"
        for node in node_errors.values()
        for error in node["errors"]
    ]


# ------------------------------------------------------------------------------------------------ server


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    """True when a server can listen on this local port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def needs_cpu_flag(python: str | Path) -> bool:
    """True when this machine has no accelerator that the interpreter's torch can use.

    ComfyUI does not fall back by itself: without `--cpu` it stops at its first CUDA call.
    """
    if sys.platform.startswith("linux") and not any(
        os.path.exists(node) for node in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    ):
        return True
    found = "import torch; raise SystemExit(torch.cuda.is_available() or torch.backends.mps.is_available())"
    return (
        subprocess.run([str(python), "-c", found], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 1
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Start a process that Ctrl-C's signal ends, also from a shell's background job, whose children ignore it."""
    ignored = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    )
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class ComfyServer(Client):
    """A ComfyUI process with its own base directory, database and port.

    The base directory holds models, inputs, outputs, custom nodes and user settings, so nothing is read from or
    written to the source tree or another server's folders. The methods of `Client` talk to this server.
    """

    def __init__(
        self,
        comfyui: Path,
        python: str | Path,
        base: Path,
        *,
        port: int | None = None,
        arguments: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ):
        """Prepare the folders; nothing is started yet.

        Args:
            comfyui: the source tree, the folder of main.py.
            python: the interpreter that has ComfyUI's requirements.
            base: the server's base directory; created.
            port: local port; a free one when None.
            arguments: further command-line arguments, such as ("--cpu",).
            environment: variables added to this process's own.
        """
        self.comfyui, self.python, self.base = comfyui, python, base.resolve()
        self.port = port or free_port()
        self.arguments, self.environment = arguments, environment or {}
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.log_path = self.base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        for folder in ("custom_nodes", "input", "output", "temp", "models", "user/default"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        settings = self.base / "user" / "default" / "comfy.settings.json"
        if not settings.exists():
            settings.write_text(json.dumps(SETTINGS), encoding="utf-8")

    @property
    def command(self) -> list[str]:
        """The command line."""
        database = f"sqlite:///{self.base / 'user' / 'comfyui.db'}"
        fixed = ["--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        fixed += ["--database-url", database, "--disable-api-nodes", "--disable-auto-launch"]
        return [str(self.python), "main.py", *fixed, *self.arguments]

    def start(self, timeout: float = 240) -> ComfyServer:
        """Start the process and wait until its API answers.

        Raises:
            ServerError: it ended or did not answer in time.
        """
        # Without byte code every start would compile the whole host again.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with open(self.log_path, "wb") as log:
            with _interruptible():
                self.process = subprocess.Popen(
                    self.command,
                    cwd=self.comfyui,
                    env={**environment, **self.environment},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerError(
                    f"ComfyUI ended with status {self.process.returncode} before it was ready\n{self.tail()}"
                )
            with contextlib.suppress(OSError, ValueError, ServerError):
                self.get_json("/system_stats")
                return self
            time.sleep(0.1)
        self.kill()
        raise ServerError(f"ComfyUI was not ready within {timeout:.0f} s\n{self.tail()}")

    def stop(self, timeout: float = 20) -> None:
        """Ask the server to end as Ctrl-C does; kill it when it does not."""
        if self.process is None or self.process.poll() is not None:
            return
        # Windows has no SIGINT for one other process.
        self.process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait(self) -> None:
        """Wait until the server ends by itself."""
        if self.process is not None:
            self.process.wait()

    def kill(self) -> None:
        """End the server at once, as a crash or the out-of-memory killer would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """Everything the server has printed since its start."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def tail(self, lines: int = 25) -> str:
        """The last lines of the log and its path."""
        return "\n".join([*self.log().splitlines()[-lines:], f"(the whole log: {self.log_path})"])

    def path(self, file: OutputFile) -> Path:
        """Where an output file lies."""
        return self.base / file.type / file.subfolder / file.filename

    def outputs(self) -> set[Path]:
        """Every file in the output folder."""
        return {path for path in (self.base / "output").rglob("*") if path.is_file()}

    def __enter__(self) -> ComfyServer:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` only when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def copy_atomically(source: Path, destination: Path) -> None:
    """Copy a file so that `destination` is either absent, as before, or complete."""
    with atomic_path(destination) as part:
        shutil.copyfile(source, part)
