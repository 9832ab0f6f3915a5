//! JSONata inside `{% … %}`.

use std::collections::BTreeMap;

use jsonata_core::ast::AstNode;
use jsonata_core::evaluator::{Context, Evaluator};
use jsonata_core::parser;
use jsonata_core::value::JValue;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The expression in a text of the form `{% … %}`.
///
/// # Errors
/// If the text begins as an expression and does not end as one.
fn expression(text: &str) -> Result<Option<&str>, String> {
    let Some(rest) = text.strip_prefix("{%") else { return Ok(None) };
    rest.strip_suffix("%}").map(Some).ok_or_else(|| format!("the expression is not closed: {text}"))
}

/// A value of the definition, with its expressions parsed.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(super) enum Template {
    Plain(Value),
    Expression { text: String, code: AstNode },
    Array(Vec<Template>),
    Object(BTreeMap<String, Template>),
}

impl TryFrom<Value> for Template {
    type Error = String;

    /// # Errors
    /// If an expression does not parse, or uses a function that Step Functions does not have.
    fn try_from(value: Value) -> Result<Self, String> {
        Ok(match value {
            Value::String(text) => match expression(&text)? {
                None => Self::Plain(text.into()),
                Some(code) if code.contains("$eval(") => {
                    return Err(format!("$eval is not available: {text}"));
                }
                Some(code) => {
                    let code = parser::parse(code).map_err(|error| format!("{error}: {text}"))?;
                    Self::Expression { text, code }
                }
            },
            Value::Array(items) => {
                Self::Array(items.into_iter().map(Self::try_from).collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => {
                let field = |(name, field)| Ok((name, Self::try_from(field)?));
                Self::Object(fields.into_iter().map(field).collect::<Result<_, String>>()?)
            }
            plain => Self::Plain(plain),
        })
    }
}

impl Template {
    /// The value that every expression in it evaluates to. `variables` holds the assigned variables
    /// and `states`.
    ///
    /// # Errors
    /// If an expression fails or evaluates to nothing, which is an error in Step Functions too.
    pub fn evaluate(&self, variables: &Map<String, Value>) -> Result<Value, String> {
        match self {
            Self::Plain(value) => Ok(value.clone()),
            Self::Expression { text, code } => {
                // Most expressions name few of the variables.
                let named = variables.iter().filter(|(name, _)| text.contains(name.as_str()));
                run(code, named).map_err(|error| format!("{error}: {text}"))
            }
            Self::Array(items) => items.iter().map(|item| item.evaluate(variables)).collect(),
            Self::Object(fields) => fields
                .iter()
                .map(|(name, field)| Ok((name.clone(), field.evaluate(variables)?)))
                .collect::<Result<Map<_, _>, String>>()
                .map(Value::Object),
        }
    }
}

fn run<'a>(
    code: &AstNode,
    variables: impl Iterator<Item = (&'a String, &'a Value)>,
) -> Result<Value, String> {
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
    let value = evaluator.evaluate(code, &JValue::Null).map_err(|error| error.to_string())?;
    if value.is_undefined() {
        return Err("the expression evaluates to nothing".to_owned());
    }
    serde_json::to_value(&value).map_err(|error| error.to_string())
}

/// Converts through text, because the direct conversion turns integers into floating-point numbers.
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
        let template = Template::try_from(json!({"x": text}))?;
        template.evaluate(variables.as_object().unwrap()).map(|value| value["x"].clone())
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
            "2026-11-23T02:45:00Z", "2026-11-23T02:45:00.000000Z", "2026-11-23T02:45:00.000000000Z",
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
        assert!(Template::try_from(json!({"a": ["{% 1 + %}"]})).is_err());
        assert!(Template::try_from(json!("{% $eval('1') %}")).unwrap_err().contains("$eval"));
        assert!(Template::try_from(json!({"a": ["{% 1 %}", 2, null]})).is_ok());
    }
}
