"""A BedrockAgentCoreApp that also runs on AgentCore without Agent Journal: nothing in it knows the
journal. Start it with `uvicorn app:app`."""

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()


@app.entrypoint
def invoke(payload: dict, context) -> dict:
    words = payload["prompt"].split()
    return {"words": len(words), "session": context.session_id}


if __name__ == "__main__":
    app.run()
