//! The table of paths.

use std::sync::Arc;

use axum::{Router, routing::MethodRouter};

use crate::pageserver::Pageserver;

/// Routes whose paths can be listed, which a [`Router`]'s cannot.
#[derive(Default)]
pub(super) struct Routes {
    pub paths: Vec<&'static str>,
    router: Router<Arc<Pageserver>>,
}

impl Routes {
    /// Adds a path.
    pub fn route(mut self, path: &'static str, methods: MethodRouter<Arc<Pageserver>>) -> Self {
        self.paths.push(path);
        Self { router: self.router.route(path, methods), ..self }
    }

    /// Adds another table's.
    pub fn merge(mut self, other: Routes) -> Self {
        self.paths.extend(other.paths);
        Self { router: self.router.merge(other.router), ..self }
    }

    /// For serving.
    pub fn into_router(self) -> Router<Arc<Pageserver>> {
        self.router
    }
}
