"""An MCP client that does what it is told: one JSON command a line on stdin, one JSON answer a
line on stdout.

    {"url", "token", "do": "call", "tool", "arguments", "mode"}  call a tool
    {..., "do": "list"}                                          list the tools
    {..., "do": "read", "uri"}                                   read a resource
    {..., "do": "post", "body", "headers", "chunks"}             send any bytes by POST; in pieces of
                                                                 this size and without their sum
    {..., "do": "http", "method"}                                send another HTTP request

`session` keeps one client open over several calls of that name. What the client shows of a
failure is in the answer as `error`.
"""

import asyncio
import contextlib
import json
import sys
import time

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

sessions: dict[str, tuple[contextlib.AsyncExitStack, Client]] = {}


async def opened(stack: contextlib.AsyncExitStack, command: dict) -> Client:
    headers = {"authorization": f"Bearer {command['token']}"} if command.get("token") else {}
    headers |= command.get("headers", {})
    http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=10))
    transport = streamable_http_client(command["url"], http_client=http)
    return await stack.enter_async_context(Client(transport, mode=command.get("mode", "auto"), cache=None))


async def use(client: Client, command: dict) -> dict:
    match command["do"]:
        case "call":
            result = await client.call_tool(command["tool"], command.get("arguments", {}))
            return {"text": "".join(part.text for part in result.content), "failed": bool(result.is_error)}
        case "list":
            return {"tools": sorted(tool.name for tool in (await client.list_tools()).tools)}
        case "read":
            return {"text": (await client.read_resource(command["uri"])).contents[0].text}
    raise ValueError(command["do"])


def shown(error: BaseException) -> dict:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError):
        return {"error": str(error), "code": error.error.code, "data": error.error.data}
    return {"error": f"{type(error).__name__}: {error}"}


async def pieces(content: bytes, size: int):
    for at in range(0, len(content), size):
        yield content[at : at + size]
        await asyncio.sleep(0.2)


async def raw(command: dict) -> dict:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    url = command["url"] + command.get("query", "")
    if command.get("token"):
        headers["authorization"] = f"Bearer {command['token']}"
    headers |= command.get("headers", {})
    method = command.get("method", "POST")
    content = command.get("body", "").encode() if method == "POST" else None
    if size := command.get("chunks"):
        content = pieces(content, size)
    async with httpx2.AsyncClient(timeout=5) as http:
        async with http.stream(method, url, content=content, headers=headers) as response:
            event_stream = response.headers.get("content-type", "").startswith("text/event-stream")
            # A stream that the server speaks on has no end.
            text = "" if event_stream and method == "GET" else (await response.aread()).decode()
            return {"status": response.status_code, "headers": dict(response.headers), "text": text}


async def run(command: dict) -> dict:
    if command["do"] in ("post", "http"):
        return await raw(command)
    name = command.get("session")
    if name and name in sessions:
        return await use(sessions[name][1], command)
    async with contextlib.AsyncExitStack() as stack:
        client = await opened(stack, command)
        if name:
            sessions[name] = (stack.pop_all(), client)
        return await use(client, command)


async def main() -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        begun = time.monotonic()
        try:
            answer = await run(json.loads(line))
        except BaseException as error:  # whatever the client throws is the answer
            answer = shown(error)
        print(json.dumps(answer | {"seconds": time.monotonic() - begun}), flush=True)


asyncio.run(main())
