"""What the invoker does, on boto3."""

import json
import os

import boto3

import journal

agentcore = boto3.client("bedrock-agentcore")
runtime = os.environ["AGENT_RUNTIME_ARN"]


def handle(event, context):
    session_id, invocation_id = event["session_id"], event["invocation_id"]

    def put(status):
        return journal.put(session_id, invocation_id, "invoker", status)

    started = put("AGENT_INVOCATION_STARTED")
    answer = agentcore.invoke_agent_runtime(
        agentRuntimeArn=runtime,
        runtimeSessionId=session_id,
        contentType="application/json",
        accept="application/json",
        payload=json.dumps(
            {
                "input": event["input"],
                "invocation_id": invocation_id,
                "after": started,
                "environment": {"SESSION_ID": session_id},
            }
        ),
    )
    answer["response"].read()
    after = put("AGENT_INVOCATION_SUCCEEDED")
    return {"session_id": session_id, "status_code": answer["statusCode"], "after": after}
