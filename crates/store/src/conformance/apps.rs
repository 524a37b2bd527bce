use std::sync::Arc;
use std::time::Duration;

use pendula_model::TokenId;
use pendula_model::app::App;
use pendula_model::change::Change;
use pendula_model::token::{Scope, Token};

use super::world::World;
use crate::port::{Store, StoreError};

pub async fn apps_are_unique_by_name(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (beta, alpha) = (world.app("beta"), world.app("alpha"));
    world.commit(vec![Change::AppInserted(beta.clone()), Change::AppInserted(alpha.clone())]).await;
    assert_eq!(store.apps().await.unwrap(), [alpha.clone(), beta.clone()]);
    assert_eq!(store.app_by_name("beta").await.unwrap(), Some(beta.clone()));
    assert_eq!(store.app_by_id(alpha.id).await.unwrap(), Some(alpha.clone()));
    assert_eq!(store.app_by_name("Beta").await.unwrap(), None);

    let twin = world.app("beta");
    world.refuses(vec![Change::AppInserted(twin)]).await;
    world.refuses(vec![Change::AppInserted(App { name: "gamma".to_owned(), ..beta.clone() })]).await;

    let allowed = App { allow_scripts: true, version: 2, ..beta.clone() };
    world.refuses(vec![Change::AppUpdated(App { version: 1, ..allowed.clone() })]).await;
    world.refuses(vec![Change::AppUpdated(App { version: 3, ..allowed.clone() })]).await;
    world.refuses(vec![Change::AppUpdated(App { name: "delta".to_owned(), ..allowed.clone() })]).await;
    world.commit(vec![Change::AppUpdated(allowed.clone())]).await;
    world.refuses(vec![Change::AppUpdated(allowed.clone())]).await;
    assert_eq!(store.app_by_name("beta").await.unwrap(), Some(allowed));

    let job = world.job(&beta, "job");
    world.commit(vec![Change::JobInserted(job.clone())]).await;
    world.refuses(vec![Change::AppDeleted(beta.id)]).await;
    let gone = Change::JobDeleted { id: job.id, version: 1, at: world.now };
    world.commit(vec![gone, Change::AppDeleted(beta.id)]).await;
    world.refuses(vec![Change::AppDeleted(beta.id)]).await;
    assert_eq!(store.app_by_name("beta").await.unwrap(), None);
    let again = world.app("beta");
    world.commit(vec![Change::AppInserted(again)]).await;
}

pub async fn tokens_open_until_deleted(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let app = world.app("demo");
    world.commit(vec![Change::AppInserted(app.clone())]).await;
    let scopes = [Scope::Admin, Scope::App { app: app.id }, Scope::Worker { app: app.id }];
    let mut tokens = Vec::new();
    for (byte, scope) in (0_u8..).zip(scopes) {
        let token = Token {
            id: TokenId(world.next_id()),
            name: "it's a \"name\"".to_owned(),
            scope,
            hash: [byte; 32],
            created_at: world.now,
            expires_at: (byte == 1).then(|| world.now.plus(Duration::from_secs(60))),
        };
        store.token_insert(token.clone()).await.unwrap();
        tokens.push(token);
    }
    assert_eq!(store.tokens().await.unwrap(), tokens);
    assert_eq!(store.token_by_hash([1; 32]).await.unwrap().as_ref(), Some(&tokens[1]));
    assert_eq!(store.token_by_hash([9; 32]).await.unwrap(), None);

    let twin = Token { id: TokenId(world.next_id()), ..tokens[0].clone() };
    assert!(matches!(store.token_insert(twin).await, Err(StoreError::Exists { .. })));
    assert!(matches!(store.token_insert(tokens[0].clone()).await, Err(StoreError::Exists { .. })));
    let nobody = world.app("nobody").id;
    let stray =
        Token { hash: [7; 32], id: TokenId(world.next_id()), scope: Scope::App { app: nobody }, ..tokens[0].clone() };
    assert!(matches!(store.token_insert(stray).await, Err(StoreError::Conflict { .. })));

    assert!(store.token_delete(tokens[0].id).await.unwrap());
    assert!(!store.token_delete(tokens[0].id).await.unwrap());
    assert_eq!(store.token_by_hash([0; 32]).await.unwrap(), None);
    // An app takes its tokens with it.
    world.commit(vec![Change::AppDeleted(app.id)]).await;
    assert_eq!(store.tokens().await.unwrap(), []);
}
