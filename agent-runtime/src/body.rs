//! A JSON body, read without building a tree of it: 10 MB of small values would become hundreds.

use std::fmt;

use actix_web::web::{Bytes, BytesMut};
use serde::de::{Deserialize, Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members that can be asked for.
const NAMES: [&str; 7] =
    ["session_id", "sessionId", "input", "invocation_id", "after", "environment", "trace"];

/// A body of valid JSON, and if it is an object its members with one of the [`NAMES`].
pub(crate) struct Body<'a> {
    bytes: &'a Bytes,
    members: Vec<Member<'a>>,
}

/// A member of an object, with its place in the body.
struct Member<'a> {
    name: &'static str,
    value: &'a RawValue,
    begin: usize,
    end: usize,
    /// Where the next member begins, if there is one.
    next: Option<usize>,
}

impl<'a> Body<'a> {
    pub fn read(bytes: &'a Bytes) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let is_object = bytes.trim_ascii_start().starts_with(b"{");
        let members = match is_object {
            true => json.deserialize_map(Members(bytes))?,
            false => <&RawValue>::deserialize(&mut json).map(|_| Vec::new())?,
        };
        json.end()?;
        Ok(Self { bytes, members })
    }

    /// The member of this name. If it is repeated, the last one, as in most parsers.
    pub fn member(&self, name: &str) -> Option<&'a RawValue> {
        self.members.iter().rfind(|member| member.name == name).map(|member| member.value)
    }

    /// The body without the members of this name; the others are unchanged, byte for byte.
    pub fn without(&self, name: &str) -> Bytes {
        let (mut kept, mut at) = (BytesMut::new(), 0);
        for member in self.members.iter().filter(|member| member.name == name) {
            kept.extend_from_slice(self.bytes.get(at..member.begin).unwrap_or_default());
            at = member.next.unwrap_or(member.end);
            // The last one takes the comma before it along.
            let rest = kept.trim_ascii_end().strip_suffix(b",").filter(|_| member.next.is_none());
            kept.truncate(rest.map_or(kept.len(), <[u8]>::len));
        }
        if at == 0 {
            return self.bytes.clone();
        }
        kept.extend_from_slice(self.bytes.get(at..).unwrap_or_default());
        kept.freeze()
    }
}

struct Members<'a>(&'a Bytes);

impl<'de> Visitor<'de> for Members<'de> {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // Both are parts of the body.
        let offset = |raw: &RawValue| raw.get().as_ptr().addr() - self.0.as_ptr().addr();
        let mut members: Vec<Member> = Vec::new();
        let mut was_named = false;
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let (begin, end) = (offset(key), offset(value) + value.get().len());
            if let Some(previous) = members.last_mut().filter(|_| was_named) {
                previous.next = Some(begin);
            }
            // A name may be spelled with escapes.
            let named = |name: &&str| match key.get().contains('\\') {
                true => serde_json::from_str::<String>(key.get()).is_ok_and(|key| key == **name),
                false => key.get().trim_matches('"') == *name,
            };
            let name = NAMES.into_iter().find(named);
            was_named = name.is_some();
            members.extend(name.map(|name| Member { name, value, begin, end, next: None }));
        }
        Ok(members)
    }
}

/// How deep the JSON is nested.
pub(crate) fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    deepest
}

fn skip_string<'a>(bytes: &mut impl Iterator<Item = &'a u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(body: &str) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let kept = Body::read(&body).unwrap().without("session_id");
        String::from_utf8(kept.to_vec()).unwrap()
    }

    #[test]
    fn a_member_is_cut_out_and_the_rest_stays_as_it_came() {
        for (body, kept) in [
            (r#"{"session_id":"x"}"#, "{}"),
            (r#"{ "session_id" : "x" }"#, "{  }"),
            (r#"{"session_id":"x" , "b":1.50,"a":2}"#, r#"{"b":1.50,"a":2}"#),
            (r#"{"b":1, "session_id":"x", "a":2}"#, r#"{"b":1, "a":2}"#),
            (
                r#"{"b":1,"b":[{"session_id":1}], "session_id":"x"}"#,
                r#"{"b":1,"b":[{"session_id":1}]}"#,
            ),
            (r#"{"session_id":"x","session_id":"y","a":2}"#, r#"{"a":2}"#),
            (r#"{"session_id":"x","a":2,"session_id":"y"}"#, r#"{"a":2}"#),
            (r#"{"session\u005fid":"x","a\"session_id":2}"#, r#"{"a\"session_id":2}"#),
            (r#" [ {"session_id":"x"} ] "#, r#" [ {"session_id":"x"} ] "#),
        ] {
            assert_eq!(without(body), kept, "{body}");
            assert!(serde_json::from_str::<serde_json::Value>(&without(body)).is_ok(), "{kept}");
        }
    }

    #[test]
    fn of_a_repeated_member_the_last_counts() {
        let body = Bytes::from(r#"{"input":1,"input":2}"#);
        assert_eq!(Body::read(&body).unwrap().member("input").unwrap().get(), "2");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for body in
            ["", "{", "{}x", "[1,]", r#"{"a":1,}"#, r#"{"a" 1}"#, "{\"a\":\"\u{1}\"}", "nul"]
        {
            assert!(Body::read(&Bytes::copy_from_slice(body.as_bytes())).is_err(), "{body}");
        }
    }

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        for (json, levels) in
            [("1", 0), ("[]", 1), (r#"{"[[[":[{}]}"#, 3), (r#"["\"[[",[]]"#, 2), ("[[", 2)]
        {
            assert_eq!(nesting(json.as_bytes()), levels, "{json}");
        }
    }
}
