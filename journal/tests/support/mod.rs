use journal::{Journal, Settings};
use testing::{Dynamo, Fault, TABLE_NAME};

/// The journal in this engine, with its faults.
pub fn open(dynamo: &Dynamo) -> Journal {
    let table_name = TABLE_NAME.to_owned();
    Journal::new(dynamo.config(), Settings { table_name, retention_days: None })
}

/// The same without the faults.
#[allow(dead_code, reason = "each test file uses a part of it")]
pub fn open_calm(dynamo: &Dynamo) -> Journal {
    open(&Dynamo::over(dynamo.database.clone(), |_| Fault::None))
}
