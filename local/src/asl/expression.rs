//! JSONata inside `{% … %}`.

use jsonata_core::evaluator::{Context, Evaluator};
use jsonata_core::parser;
use jsonata_core::value::JValue;
use serde_json::{Map, Value};

/// The expression in a text of the form `{% … %}`.
///
/// # Errors
/// If the text begins as an expression and does not end as one.
fn expression(text: &str) -> Result<Option<&str>, String> {
    let Some(rest) = text.strip_prefix("{%") else { return Ok(None) };
    rest.strip_suffix("%}").map(Some).ok_or_else(|| format!("the expression is not closed: {text}"))
}

/// Parses every expression in a JSON value.
///
/// # Errors
/// If one does not parse, or uses a function that Step Functions does not have.
pub(super) fn check(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) => match expression(text)? {
            None => Ok(()),
            Some(code) if code.contains("$eval(") => Err(format!("$eval is not available: {text}")),
            Some(code) => parser::parse(code).map(drop).map_err(|error| format!("{error}: {text}")),
        },
        Value::Array(items) => items.iter().try_for_each(check),
        Value::Object(fields) => fields.values().try_for_each(check),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// Replaces every expression in a JSON value by what it evaluates to. `variables` holds the
/// assigned variables and `states`.
///
/// # Errors
/// If an expression fails or evaluates to nothing, which is an error in Step Functions too.
pub(super) fn evaluate(value: &Value, variables: &Map<String, Value>) -> Result<Value, String> {
    match value {
        Value::String(text) => match expression(text)? {
            None => Ok(value.clone()),
            Some(code) => run(code, variables).map_err(|error| format!("{error}: {text}")),
        },
        Value::Array(items) => items.iter().map(|item| evaluate(item, variables)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| Ok((name.clone(), evaluate(field, variables)?)))
            .collect::<Result<Map<_, _>, String>>()
            .map(Value::Object),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(value.clone()),
    }
}

fn run(code: &str, variables: &Map<String, Value>) -> Result<Value, String> {
    let mut context = Context::new();
    for (name, value) in variables {
        context.bind(name.clone(), from_json(value)?);
    }
    let mut evaluator = Evaluator::with_context(context);
    // Step Functions adds $parse to JSONata.
    evaluator
        .register_fn("parse", |arguments: &[JValue]| {
            let text = arguments.first().and_then(JValue::as_str).unwrap_or_default();
            Ok(JValue::from_json_str(text).unwrap_or(JValue::Undefined))
        })
        .map_err(|error| error.to_string())?;
    // The library knows the name $random and cannot call it.
    evaluator
        .register_fn_override("random", |_: &[JValue]| Ok(JValue::from(fastrand::f64())))
        .map_err(|error| error.to_string())?;
    let code = parser::parse(code).map_err(|error| error.to_string())?;
    let value = evaluator.evaluate(&code, &JValue::Null).map_err(|error| error.to_string())?;
    if value.is_undefined() {
        return Err("the expression evaluates to nothing".to_owned());
    }
    serde_json::to_value(&value).map_err(|error| error.to_string())
}

/// By way of text: the direct conversion turns integers into floating-point numbers.
fn from_json(value: &Value) -> Result<JValue, String> {
    JValue::from_json_str(&value.to_string()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn eval(text: &str) -> Result<Value, String> {
        let variables =
            json!({"n": 7, "cause": "{\"errorMessage\":\"no\"}", "states": {"input": {}}});
        evaluate(&json!({"x": text}), variables.as_object().unwrap())
            .map(|value| value["x"].clone())
    }

    #[test]
    fn evaluates_as_step_functions_documents() {
        assert_eq!(eval("plain"), Ok(json!("plain")));
        assert_eq!(eval("{% $n + 1 %}"), Ok(json!(8)));
        assert_eq!(eval("{% $parse($cause).errorMessage %}"), Ok(json!("no")));
        assert_eq!(
            eval("{% $merge([{}, $sift({'a': 1}, function($v, $k) { $k != 'a' })]) %}"),
            Ok(json!({}))
        );
        assert_eq!(
            eval(
                "{% $fromMillis($toMillis('2026-11-23T02:45:00.007Z'), '[Y0001]-[M01]-[D01]T[H01]:[m01]:[s01].[f001]000Z') %}"
            ),
            Ok(json!("2026-11-23T02:45:00.007000Z"))
        );
        for time in [
            "2026-11-23T02:45:00Z",
            "2026-11-23T02:45:00.000000Z",
            "2026-11-23T02:45:00.000000000Z",
        ] {
            assert_eq!(
                eval(&format!("{{% $toMillis('{time}') %}}")),
                Ok(json!(1_795_401_900_000_i64)),
                "{time}"
            );
        }
        for _ in 0..1_000 {
            let number = eval("{% $random() %}").unwrap().as_f64().unwrap();
            assert!((0.0..1.0).contains(&number), "{number}");
        }
        assert_ne!(eval("{% $random() %}"), eval("{% $random() %}"));
        assert!(eval("{% $states.input.nothing %}").unwrap_err().contains("evaluates to nothing"));
        assert!(eval("{% $n").unwrap_err().contains("not closed"));
    }

    #[test]
    fn what_does_not_parse_or_does_not_exist_is_refused_at_load() {
        assert!(check(&json!({"a": ["{% 1 + %}"]})).is_err());
        assert!(check(&json!("{% $eval('1') %}")).unwrap_err().contains("$eval"));
        assert!(check(&json!({"a": ["{% 1 %}", 2, null]})).is_ok());
    }
}
