#!/usr/bin/env python3
"""A LangGraph graph whose nodes are phases in the journal."""

import json
import sys
from typing import TypedDict

import agent_journal
from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    prompt: str
    words: list[str]
    longest: str


@agent_journal.phase("split")
def split(state: State) -> State:
    return {"words": state["prompt"].split()}


@agent_journal.phase("choose")
def choose(state: State) -> State:
    return {"longest": max(state["words"], key=len)}


graph = StateGraph(State)
graph.add_node("split", split)
graph.add_node("choose", choose)
graph.add_edge(START, "split")
graph.add_edge("split", "choose")
graph.add_edge("choose", END)

end = graph.compile().invoke({"prompt": json.load(sys.stdin)["prompt"]})
agent_journal.result({"words": len(end["words"]), "longest": end["longest"]})
