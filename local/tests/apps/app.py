"""A BedrockAgentCoreApp with every way in which an agent can answer and fail. The input's `do` chooses."""

import asyncio
import threading
import time

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()


class NoPlan(Exception):
    pass


def stream(fails: bool):
    yield {"step": 1}
    yield "two"
    if fails:
        raise NoPlan("the plan\nhas no steps")


async def stream_async(fails: bool):
    for event in stream(fails):
        await asyncio.sleep(0.01)
        yield event


def work_on(seconds: float) -> None:
    task = app.add_async_task("work")

    def work() -> None:
        time.sleep(seconds)
        app.complete_async_task(task)

    threading.Thread(target=work).start()


@app.entrypoint
async def invoke(payload: dict, context):
    do = payload["do"]
    print("print of the agent:", do)
    if do == "answer":
        return {"session": context.session_id}
    if do == "sleep":
        await asyncio.sleep(0.2)
        return ["slept"]
    if do == "block":
        time.sleep(0.2)
        return None
    if do == "early":
        work_on(payload["seconds"])
        return {"accepted": True}
    if do == "raise":
        try:
            raise KeyError("steps")
        except KeyError as error:
            raise NoPlan("the plan\nhas no steps") from error
    if do == "stream":
        return stream(fails=False)
    if do == "stream async":
        return stream_async(fails=False)
    if do == "raise in stream":
        return stream(fails=True)
    if do == "raise in stream async":
        return stream_async(fails=True)
    raise ValueError(do)
