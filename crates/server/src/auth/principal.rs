//! Whom a request acts for, and what they may do.

use pendula_model::token::{Scope, Token};
use pendula_model::{AppId, Timestamp, TokenId};

/// What an operation needs. Token scopes are coarse; roles will be able to tell all of these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// See definitions, instances, logs and workers of an app.
    View,
    /// Create, edit and delete an app's jobs.
    Define,
    /// Run, stop, cancel and retry; enable and disable; drain workers.
    Operate,
    /// Create, edit and delete apps, and let them run scripts.
    ManageApps,
    /// Create and revoke tokens.
    ManageTokens,
    /// See the server itself: its state, its listeners, its store.
    ViewServer,
    /// Have servers give their work to one another.
    ManageServers,
    /// Read `/metrics`.
    ReadMetrics,
    /// Run an app's work as a worker.
    ServeWork,
}

/// A caller who proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub token_id: TokenId,
    /// For people.
    pub name: String,
    pub scope: Scope,
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// Whether they may do it: to `app`, or where no app is concerned (or any one that they may see) to `None`.
    pub fn may(&self, permission: Permission, app: Option<AppId>) -> bool {
        use Permission::*;
        match (&self.scope, permission) {
            // An administrator is a person; what runs work shows a worker's token, so that it can be revoked alone.
            (Scope::Admin, ServeWork) => false,
            (Scope::Admin, _) => true,
            (Scope::App { app: own }, View | Define | Operate) => app.is_none_or(|app| app == *own),
            (Scope::Worker { app: own }, ServeWork) => app == Some(*own),
            (Scope::Metrics, ReadMetrics) => true,
            (Scope::App { .. } | Scope::Worker { .. } | Scope::Metrics, _) => false,
        }
    }

    /// Whether listings show only this app.
    pub fn only_app(&self) -> Option<AppId> {
        self.scope.app()
    }
}

impl From<Token> for Principal {
    fn from(token: Token) -> Self {
        Principal { token_id: token.id, name: token.name, scope: token.scope, expires_at: token.expires_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::*;

    fn may(scope: Scope) -> impl Fn(Permission, Option<AppId>) -> bool {
        let principal = Principal { token_id: TokenId(1), name: "t".to_owned(), scope, expires_at: None };
        move |permission, app| principal.may(permission, app)
    }

    #[test]
    fn scopes_open_what_they_say_and_nothing_else() {
        let (own, other) = (AppId(1), AppId(2));
        let all = [View, Define, Operate, ManageApps, ManageTokens, ViewServer, ManageServers, ReadMetrics, ServeWork];
        let opened = |scope: Scope, app| {
            let may = may(scope);
            all.into_iter().filter(|permission| may(*permission, app)).collect::<Vec<_>>()
        };
        assert_eq!(opened(Scope::App { app: own }, Some(own)), [View, Define, Operate]);
        assert_eq!(opened(Scope::App { app: own }, Some(other)), []);
        assert_eq!(opened(Scope::Worker { app: own }, Some(own)), [ServeWork]);
        assert_eq!(opened(Scope::Worker { app: own }, Some(other)), []);
        assert_eq!(opened(Scope::Worker { app: own }, None), []);
        assert_eq!(opened(Scope::Metrics, None), [ReadMetrics]);
        assert_eq!(opened(Scope::Admin, Some(own)), all[..8]);
    }
}
