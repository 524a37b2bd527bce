//! Real PowerJob workers and clients. The short tests want Java 8 or later and Maven; `make compat` tries all versions.

mod akka;
mod clients;
mod features;
mod import;
mod matrix;
mod short;
mod ticking;
