use actix::{Actor, Context};
use tokio_util::sync::DropGuard;

/// Stands for one running agent; its end is the agent's end.
///
/// It holds nothing but the agent's abort, and pulls it when dropped: actix drops an actor however
/// it ends, whereas `stopped` is not always called.
pub(crate) struct Worker {
    pub _abort: DropGuard,
}

impl Actor for Worker {
    type Context = Context<Self>;
}
