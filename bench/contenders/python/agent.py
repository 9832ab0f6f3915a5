"""What the Rust container does, on the Python SDK: one client, and no call that blocks its loop."""

import asyncio
import logging
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

from bedrock_agentcore import BedrockAgentCoreApp

import journal

app = BedrockAgentCoreApp()
# By default it logs three lines an invocation.
app.logger.setLevel(logging.WARNING)
threads = ThreadPoolExecutor(journal.THREADS)
tasks = set()


async def put(run, status, **more):
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(threads, lambda: journal.put(*run, "agent", status, **more))


async def task(run, task_id):
    try:
        await put(run, "AGENT_BACKGROUND_TASK_COMPLETED", Result="null")
    finally:
        app.complete_async_task(task_id)


@app.entrypoint
async def invocations(payload):
    run = (payload["session_id"], str(uuid.uuid4()))
    await put(run, "AGENT_ENTRYPOINT_STARTED")
    await put(run, "AGENT_BACKGROUND_TASK_STARTED")
    task_id = app.add_async_task("agent")
    running = asyncio.create_task(task(run, task_id))
    tasks.add(running)
    running.add_done_callback(tasks.discard)
    return {"status": "started", "session_id": run[0], "task_id": str(task_id)}


app.run(port=int(os.environ["PORT"]), host="127.0.0.1")
