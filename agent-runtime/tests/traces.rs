//! What OpenTelemetry is told of a task. One test, because its providers are the process's.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "support/converse.rs"]
mod converse;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use agent_runtime::{BedrockAgent, BedrockSettings};
use aws_sdk_bedrockruntime::config::{Credentials, Region};
use converse::Converse;
use opentelemetry::trace::{SpanId, Status};
use opentelemetry::{Value, global};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
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

/// The sum of a metric, by an attribute's value if one is named.
fn sum(exporter: &InMemoryMetricExporter, name: &str, by: Option<(&str, &str)>) -> i64 {
    let finished = exporter.get_finished_metrics().unwrap();
    let scopes = finished.last().unwrap().scope_metrics();
    let metric = scopes.flat_map(|scope| scope.metrics()).find(|metric| metric.name() == name);
    let counted = |attributes: Vec<&opentelemetry::KeyValue>| {
        by.is_none_or(|(key, value)| {
            attributes
                .iter()
                .any(|it| it.key.as_str() == key && it.value == Value::from(value.to_owned()))
        })
    };
    match metric.unwrap_or_else(|| panic!("no {name}")).data() {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
            .data_points()
            .filter(|point| counted(point.attributes().collect()))
            .map(|point| i64::try_from(point.value()).unwrap())
            .sum(),
        AggregatedMetrics::I64(MetricData::Sum(sum)) => {
            sum.data_points().map(|point| point.value()).sum()
        }
        AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
            .data_points()
            .filter(|point| counted(point.attributes().collect()))
            .map(|point| i64::try_from(point.count()).unwrap())
            .sum(),
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_and_a_retried_append_are_in_the_spans_and_counted() {
    let (spans, metrics) = (InMemorySpanExporter::default(), InMemoryMetricExporter::default());
    let meters = SdkMeterProvider::builder().with_periodic_exporter(metrics.clone()).build();
    global::set_tracer_provider(
        SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build(),
    );
    global::set_meter_provider(meters.clone());

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

    host.invoke(&session_id(), "run-1", json!({"do": "hang"})).await;
    let done = session_id();
    host.invoke(&done, "run-1", json!({"do": "return"})).await;
    host.terminal(&done).await;
    eventually("two tasks to be counted as ended", async || {
        meters.force_flush().unwrap();
        (sum(&metrics, "agent.tasks.ended", None) == 2).then_some(())
    })
    .await;
    assert_eq!(sum(&metrics, "agent.tasks.running", None), 1, "the one that hangs");
    assert_eq!(sum(&metrics, "agent.tasks.ended", Some(("outcome", "completed"))), 1);
    assert_eq!(sum(&metrics, "agent.tasks.ended", Some(("error.type", "Panic"))), 1);
    assert_eq!(sum(&metrics, "journal.append.retries", None), 1);
    assert_eq!(sum(&metrics, "journal.append.duration", Some(("journal.outcome", "durable"))), 8);

    check_the_spans_of_a_model(&spans).await;
}

/// The model's spans are the task's.
async fn check_the_spans_of_a_model(spans: &InMemorySpanExporter) {
    let call = converse::tool_use("t", "journal", json!({"phase": "plan", "step": "began"}));
    let service = Converse::start([
        converse::answer("tool_use", json!([call])),
        (403, "AccessDeniedException", json!({"message": "no access"})),
    ]);
    let settings = BedrockSettings::from_env(|name| match name {
        "MODEL_ID" => Some(converse::MODEL.to_owned()),
        _ => None,
    });
    let config = aws_sdk_bedrockruntime::Config::builder()
        .behavior_version_latest()
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::for_tests())
        .endpoint_url(&service.endpoint);
    let client = aws_sdk_bedrockruntime::Client::from_conf(config.build());
    let agent = BedrockAgent::new(settings.unwrap()).with_client(client);
    let (host, id) = (Host::start_with(&Dynamo::new(|_| Fault::None), agent), session_id());
    host.invoke(&id, "run-1", json!({"prompt": "hi"})).await;
    host.terminal(&id).await;
    let of_session = eventually("the task's span", async || {
        let mut finished = spans.get_finished_spans().unwrap();
        finished.retain(|span| attribute(span, "session.id") == id.as_str());
        finished.iter().any(|span| span.name == "invoke_agent").then_some(finished)
    })
    .await;
    let task = span(&of_session, "invoke_agent").span_context.span_id();
    let chats = Vec::from_iter(of_session.iter().filter(|it| it.name == "chat test.model-v1:0"));
    let [asks, refused] = chats.as_slice() else { panic!("{of_session:?}") };
    let tool = span(&of_session, "execute_tool journal");
    for child in [*asks, *refused, &tool] {
        assert_eq!(child.parent_span_id, task, "{child:?}");
        assert_eq!(attribute(child, "journal.invocation_id"), "run-1");
    }
    assert_eq!(attribute(asks, "gen_ai.usage.input_tokens"), "10");
    assert_eq!(attribute(asks, "gen_ai.response.finish_reasons"), "[\"tool_use\"]");
    assert_eq!(asks.status, Status::Unset);
    assert_eq!(attribute(refused, "error.type"), "ClientError");
    assert_eq!(refused.status, Status::error("AccessDeniedException: no access"));
    assert_eq!(attribute(&tool, "error.type"), "AgentError");
    service.stop().await;
}
