//! An adapter as callers see it.

use std::sync::Arc;

use super::engine::Command;
use super::model::Model;

pub struct Adapter {
    id: u64,
    model: Arc<Model>,
}

impl Adapter {
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn model_id(&self) -> u64 {
        self.model.id
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        let id = self.id;
        let _ = self
            .model
            .engine
            .send(Command::Do(Box::new(move |worker| worker.drop_adapter(id))));
    }
}
