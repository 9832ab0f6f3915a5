use actix::{Actor, Context};
use tokio_util::sync::DropGuard;

/// Stands for one running agent; its end is the agent's end.
///
/// It holds only the agent's abort handle, and aborts the agent when dropped: actix always drops an
/// actor that ends, but does not always call `stopped`.
pub(crate) struct Worker {
    pub _abort: DropGuard,
}

impl Actor for Worker {
    type Context = Context<Self>;
}
