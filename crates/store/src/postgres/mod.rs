//! The store on PostgreSQL, which several servers share.

mod connect;
mod refusal;
mod tls;
mod url;
