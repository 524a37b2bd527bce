//! The binary as people use it: started as a process, judged by its output and exit code.

mod command;
mod database;
mod exit_codes;
mod help;
mod import;
mod live;
mod many_tasks;
mod powerjob;
mod powerjob_database;
mod restart;
