//! The stores from outside.

mod conformance;
