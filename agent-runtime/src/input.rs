use std::fmt;

use actix_web::web::Bytes;
use serde::Deserialize;

/// What the caller sent: JSON, byte for byte as it came. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Input(pub(crate) Bytes);

impl Input {
    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The body was checked when it was read.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Reads it as a type of the caller's, such as `serde_json::Value`.
    ///
    /// # Errors
    /// If it is not of that type.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.0)
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
