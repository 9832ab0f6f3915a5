#!/usr/bin/env python3
"""A Strands agent with a tool. agent_journal reports its phases and its result to the journal, so what
Strands prints is only log. Its spans join the session's trace.

MODEL_ID names a model on Bedrock. Without it, a script plays the model.
"""

import json
import os
import sys

import agent_journal
from opentelemetry import context, propagate
from strands import Agent, tool
from strands.models import BedrockModel
from strands.telemetry import StrandsTelemetry

from scripted_model import ScriptedModel


@tool
def count_words(text: str) -> int:
    """Counts the words of a text."""
    with agent_journal.phase("count"):
        return len(text.split())


def main() -> None:
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
        StrandsTelemetry().setup_otlp_exporter()
        # The runtime gives the trace of the session.
        context.attach(propagate.extract({"traceparent": os.environ.get("TRACEPARENT", "")}))
    prompt = json.load(sys.stdin)["prompt"]
    model_id = os.environ.get("MODEL_ID")
    model = BedrockModel(model_id=model_id) if model_id else ScriptedModel()
    agent = Agent(model=model, tools=[count_words])
    answer = agent(prompt)
    agent_journal.result({"answer": str(answer).strip(), "tokens": answer.metrics.accumulated_usage["totalTokens"]})


if __name__ == "__main__":
    main()
