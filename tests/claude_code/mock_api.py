#!/usr/bin/env python3
"""A scripted stand-in for the Messages API, for driving a real Claude Code client in tests. Standard library only.

    mock_api.py --port 8765 --log requests.jsonl [--port-file FILE]

The reply to a request is written in the prompt itself, so the server keeps no state. After the word MOCK come steps,
separated by `;;`, one for each message of the model:

    MOCK Bash {"command": "env"} ;; say all done     call the tool Bash, then end the turn with a text
    MOCK agent {"description": "d", "prompt": "MOCK Bash {\"command\": \"true\"}", "subagent_type": "general-purpose"}
    MOCK sleep 5 ;; say late                         the model thinks for 5 seconds
    MOCK fail 500                                    the API answers with an error
    MOCK Bash {"command": "a"} && Bash {"command": "b"}          two tool calls in one message

`agent` is the sub-agent tool under whichever name the client offers it. A step counts as done once the conversation
holds an assistant message after the prompt; when no step is left, or the request offers no such tool (titles, summaries
and the like), the answer is a short text. Every request is appended to the log as one JSON line, without its key.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRET_HEADERS = {"authorization", "x-api-key", "cookie"}
AGENT_TOOLS = ("Agent", "Task")
STEP_MARK = "MOCK "
SEPARATOR = re.compile(r"\s*(;;|&&)\s*")
Call = tuple[str, Any]
_log_lock = threading.Lock()


def texts(message: dict[str, Any]) -> list[str]:
    """Return the text blocks of a message, results of tools left out."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [block.get("text", "") for block in content or [] if block.get("type") == "text"]


def parse(script: str) -> list[list[Call]]:
    """Return the steps of a script, each a list of calls: a word, and its argument, which is JSON or plain text."""
    steps: list[list[Call]] = [[]]
    decoder = json.JSONDecoder(strict=False)
    rest = script.strip()
    while rest:
        word, _, rest = rest.partition(" ")
        if rest.startswith("{"):
            argument, end = decoder.raw_decode(rest)
            rest = rest[end:]
        else:
            argument = SEPARATOR.split(rest, maxsplit=1)[0].strip()
            rest = rest[len(argument) :]
        steps[-1].append((word, argument))
        separator = SEPARATOR.match(rest)
        if separator is None:
            break
        if separator[1] == ";;":
            steps.append([])
        rest = rest[separator.end() :]
    return steps


def next_step(messages: list[dict[str, Any]]) -> list[Call]:
    """Return the step of the last MOCK prompt that has not been answered yet, or a short text where none is left."""
    script, answered = "", 0
    for message in messages:
        if message.get("role") == "assistant":
            answered += 1
        for text in texts(message) if message.get("role") == "user" else []:
            if STEP_MARK in text:
                script, answered = text[text.index(STEP_MARK) + len(STEP_MARK) :], 0
    try:
        steps = parse(script)
    except ValueError as error:
        return [("say", f"mock: cannot read the script: {error}")]
    return steps[answered] if script and answered < len(steps) else [("say", "mock: nothing left to do")]


def blocks_for(calls: list[Call], tools: set[str]) -> list[dict[str, Any]]:
    """Return the content of the assistant message that a step asks for."""
    blocks: list[dict[str, Any]] = []
    for word, argument in calls:
        name = next((tool for tool in AGENT_TOOLS if tool in tools), "") if word == "agent" else word
        if word == "sleep":
            time.sleep(float(argument))
            blocks.append(text_block(f"slept {argument} s"))
        elif word == "say":
            blocks.append(text_block(argument))
        elif name in tools and isinstance(argument, dict):
            use = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": name, "input": argument}
            blocks.append(use)
        else:
            blocks.append(text_block(f"mock: no tool {word} here"))
    return blocks


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def events(message: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a message as the server-sent events of a streaming answer."""
    yield "message_start", {"message": {**message, "content": [], "stop_reason": None}}
    for index, block in enumerate(message["content"]):
        if block["type"] == "text":
            start: dict[str, Any] = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield "content_block_start", {"index": index, "content_block": start}
        yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"delta": stop, "usage": {"output_tokens": message["usage"]["output_tokens"]}}
    yield "message_stop", {}


class Handler(BaseHTTPRequestHandler):
    """Answers what the client asks; anything that is not the Messages API gets an empty object."""

    protocol_version = "HTTP/1.1"
    log_path: Path

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {"unparsed": raw.decode(errors="replace")}
        path = self.path.split("?", 1)[0]
        if path == "/v1/messages/count_tokens":
            self.record(body, "count")
            self.answer(200, {"input_tokens": 1000})
        elif path == "/v1/messages":
            self.messages(body)
        else:
            self.record(body, "other")
            self.answer(200, {})

    def do_GET(self) -> None:
        self.record({}, "other")
        self.answer(200, {"data": [], "has_more": False} if self.path.startswith("/v1/models") else {})

    def do_HEAD(self) -> None:
        self.record({}, "other")
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def messages(self, body: dict[str, Any]) -> None:
        step = next_step(body.get("messages", []))
        self.record(body, " && ".join(f"{word} {argument}" for word, argument in step))
        if step[0][0] == "fail":
            status = int(step[0][1])
            kind = "invalid_request_error" if status < 500 else "api_error"
            self.answer(status, {"type": "error", "error": {"type": kind, "message": f"mock failure {status}"}})
            return
        content = blocks_for(step, {tool.get("name", "") for tool in body.get("tools", [])})
        calls_tool = any(block["type"] == "tool_use" for block in content)
        message = {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model", "mock"),
            "content": content,
            "stop_reason": "tool_use" if calls_tool else "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 1000,
                "output_tokens": 20,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            },
        }
        if not body.get("stream"):
            self.answer(200, message)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for name, data in events(message):
            self.wfile.write(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def record(self, body: dict[str, Any], step: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in SECRET_HEADERS}
        entry = {
            "at": time.time(),
            "method": self.command,
            "path": self.path,
            "step": step,
            "headers": headers,
            "body": body,
        }
        with _log_lock, self.log_path.open("a") as log:
            log.write(json.dumps(entry) + "\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted Messages API on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, help="where to write the port, for tests that take a free one")
    options = parser.parse_args()
    Handler.log_path = options.log
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads = True
    if options.port_file:
        options.port_file.write_text(str(server.server_port))
    server.serve_forever()


if __name__ == "__main__":
    main()
