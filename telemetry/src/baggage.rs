//! The run's id as a member of W3C `baggage`. The container needs it for a body that it refuses without
//! reading it. <https://www.w3.org/TR/baggage/>

use journal::text::is_invocation_id;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const KEY: &str = "journal.invocation_id";

/// Characters that need no encoding, so that an ARN stays readable.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b':').remove(b'-').remove(b'_').remove(b'.');

/// The member that names a run.
#[must_use]
pub fn run_baggage(invocation_id: &str) -> String {
    format!("{KEY}={}", utf8_percent_encode(invocation_id, PLAIN))
}

/// The run that a `baggage` names, and the other members, which are the caller's.
#[must_use]
pub fn split_baggage(baggage: &str) -> (Option<String>, Option<String>) {
    let run_of = |member: &str| {
        let (key, value) = member.split_once('=')?;
        let value = value.split(';').next().unwrap_or_default().trim();
        let run = percent_decode_str(value).decode_utf8().ok()?;
        (key.trim() == KEY).then(|| run.into_owned())
    };
    let (ours, theirs): (Vec<_>, Vec<_>) =
        baggage.split(',').partition(|member| run_of(member).is_some());
    let rest = Some(theirs.join(",")).filter(|rest| !rest.trim().is_empty());
    let run = ours.into_iter().filter_map(run_of).find(|run| is_invocation_id(run));
    (run, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_id_comes_back_and_the_callers_members_stay_as_they_were() {
        for id in ["arn:aws:states:us-east-1:000000000000:execution:s:x", "a b,c;d=%é\""] {
            let ours = run_baggage(id);
            assert!(ours.bytes().all(|byte| byte.is_ascii_graphic() && !b",;\"\\".contains(&byte)));
            assert_eq!(split_baggage(&ours), (Some(id.to_owned()), None));
            let both = format!("user=7;p=1 , {ours} , x = y");
            let (run, rest) = split_baggage(&both);
            assert_eq!((run.as_deref(), rest.as_deref()), (Some(id), Some("user=7;p=1 , x = y")));
        }
        let invalid = format!("{KEY}=,{KEY}=%0a,{KEY}=run-1");
        assert_eq!(split_baggage(&invalid), (Some("run-1".to_owned()), None));
        assert_eq!(split_baggage("user=7"), (None, Some("user=7".to_owned())));
    }
}
