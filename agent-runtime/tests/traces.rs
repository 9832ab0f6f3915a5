//! The spans of a task. One test, because its provider is the process's.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::global;
use opentelemetry::trace::{SpanId, Status};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use serde_json::json;
use support::{Dynamo, Fault, Host, eventually, session_id};

fn span(spans: &[SpanData], name: &str) -> SpanData {
    let found = Vec::from_iter(spans.iter().filter(|span| span.name == name));
    assert_eq!(found.len(), 1, "{name}: {spans:?}");
    found[0].clone()
}

fn attribute(span: &SpanData, name: &str) -> String {
    let value = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    value.map(|attribute| attribute.value.to_string()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_and_a_retried_append_are_in_the_spans() {
    let spans = InMemorySpanExporter::default();
    global::set_tracer_provider(
        SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build(),
    );

    // The terminal event needs a second attempt.
    let failed = AtomicBool::new(false);
    let dynamo = Dynamo::new(move |call| {
        let first = call.status() == "AGENT_BACKGROUND_TASK_FAILED"
            && !failed.swap(true, Ordering::Relaxed);
        if first { Fault::ErrorBefore } else { Fault::None }
    });
    let (host, id) = (Host::start(&dynamo), session_id());
    host.invoke(&id, "run-1", json!({"do": "panic with a str"})).await;
    let event = host.terminal(&id).await;
    let finished = eventually("the task's span", async || {
        let finished = spans.get_finished_spans().unwrap();
        finished.iter().any(|span| span.name == "invoke_agent").then_some(finished)
    })
    .await;

    let (request, task) = (span(&finished, "POST /invocations"), span(&finished, "invoke_agent"));
    assert_eq!(request.parent_span_id, SpanId::INVALID, "nobody caused it");
    assert_eq!(task.parent_span_id, request.span_context.span_id());
    assert_eq!(task.status, Status::error("the agent panicked: a str"));
    assert_eq!(attribute(&task, "error.type"), "Panic");
    assert_eq!(attribute(&task, "gen_ai.conversation.id"), id.as_str());
    assert_eq!(request.status, Status::Unset, "the request was answered with 200");
    assert_eq!(attribute(&request, "http.response.status_code"), "200");
    let append = span(&finished, "PutItem AGENT_BACKGROUND_TASK_FAILED");
    assert_eq!(append.parent_span_id, task.span_context.span_id());
    assert_eq!(append.events.iter().map(|event| &*event.name).collect::<Vec<_>>(), ["retry"]);
    assert_eq!(attribute(&append, "journal.sort_key"), event.sort_key, "where it is at last");
    // A trace that nobody began is in the journal all the same.
    let trace = task.span_context.trace_id().to_string();
    assert_eq!(event.trace_id, Some(trace));
    assert!(finished.iter().all(|span| attribute(span, "session.id") == id.as_str()));
}
