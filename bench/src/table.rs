//! What is printed: one row per measure, each a ratio of two values of the same run.

use std::fmt::Display;
use std::time::Duration;

/// How a ratio is judged.
#[derive(Clone, Copy)]
pub enum Target {
    /// At most one part in so many.
    Part(f64),
    /// At most this ratio.
    AtMost(f64),
    /// Shown for comparison only.
    None,
}

pub struct Row(String);

impl Row {
    /// `ours` beside the value of `other`, in `unit`.
    pub fn ratio(
        measure: &str,
        unit: &str,
        ours: f64,
        (other, theirs): (&str, f64),
        target: Target,
    ) -> Self {
        let ratio = ours / theirs;
        let shown =
            if ratio < 0.9 { format!("1/{:.1}", 1.0 / ratio) } else { format!("{ratio:.2}") };
        let (target, met) = match target {
            Target::Part(part) => (format!("≤ 1/{part}"), Some(ratio <= 1.0 / part)),
            Target::AtMost(limit) => (format!("≤ {limit}"), Some(ratio <= limit)),
            Target::None => (String::new(), None),
        };
        let beside = format!("{other}: {} {unit}", number(theirs));
        Self::line(measure, &format!("{} {unit}", number(ours)), &beside, &shown, &target, met)
    }

    /// A value with a limit of its own.
    pub fn limit(measure: &str, unit: &str, value: f64, limit: f64) -> Self {
        let (value_shown, target) =
            (format!("{} {unit}", number(value)), format!("≤ {} {unit}", number(limit)));
        Self::line(measure, &value_shown, "", "", &target, Some(value <= limit))
    }

    /// A value without a target.
    pub fn value(measure: &str, value: impl Display) -> Self {
        Self::line(measure, &value.to_string(), "", "", "", None)
    }

    /// A statement that is true or not.
    pub fn holds(measure: &str, value: &str, beside: &str, target: &str, met: bool) -> Self {
        Self::line(measure, value, beside, "", target, Some(met))
    }

    fn line(
        measure: &str,
        ours: &str,
        beside: &str,
        ratio: &str,
        target: &str,
        met: Option<bool>,
    ) -> Self {
        let met = met.map_or("", |met| if met { "met" } else { "**missed**" });
        Self(format!("| {measure} | {ours} | {beside} | {ratio} | {target} | {met} |"))
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        value if value < 1.0 => 3,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn medians<const N: usize>(values: &[Vec<f64>; N]) -> [f64; N] {
    values.each_ref().map(|values| median(values))
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// The slope of a line through the points, and its standard error.
pub fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let square: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / square;
    let left: f64 = points.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    (slope, (left / (count - 2.0) / square).sqrt())
}
