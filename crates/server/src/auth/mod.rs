//! Who is asking, and what that opens.
//!
//! A caller shows `Authorization: Bearer SECRET`. The secret's hash finds a [`Token`](pendula_model::token::Token), the
//! token's scope makes a [`Principal`], and [`Principal::may`] answers for each [`Permission`]. Users and roles come
//! later: they will make principals too, and nothing else has to know. REST routes declare what they need in
//! [`crate::api`]; worker sessions ask for [`Permission::ServeWork`] and wait for [`Authenticator::ended`].

mod authenticator;
mod bootstrap;
mod failures;
mod foreign;
mod principal;
mod secret;

pub(crate) use authenticator::watch_store;
pub use authenticator::{AuthError, Authenticator, Revoked};
pub use bootstrap::{BootstrapError, CONFIGURED, bootstrap};
pub(crate) use foreign::MARK as FOREIGN_MARK;
pub use foreign::{is_for_powerjob, md5_hex};
pub use principal::{Permission, Principal};
pub use secret::{Secret, WeakSecret};
