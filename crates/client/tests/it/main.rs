//! The client against a server made of canned answers.

mod canned;
mod follow;
mod requests;
mod several;
