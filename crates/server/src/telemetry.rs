//! What the server writes about itself: the log's set-up, and the events of instances.

use std::io::IsTerminal;

use pendula_engine::Dispatch;
use pendula_engine::effect::Observation;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Sends log lines to standard error. `filter` is `info`, or directives as `pendula_server=debug,warn`.
///
/// # Errors
/// When the filter cannot be read, or logging was set up before.
pub fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let coloured = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(coloured);
    match format {
        LogFormat::Text => registry.with(lines).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// An attempt leaves for a worker.
pub(crate) fn dispatched(dispatch: &Dispatch) {
    let Dispatch { instance, task, job, attempt, session, .. } = dispatch;
    tracing::debug_span!("instance", id = %instance, %task, %job, attempt)
        .in_scope(|| tracing::debug!(%session, "dispatched"));
}

/// What the engine observed, for people who read logs.
pub(crate) fn observed(observation: &Observation) {
    match observation {
        Observation::Ended { instance, job, state, reason, duration } => {
            let reason = reason.as_ref().map_or("", |reason| reason.as_str());
            tracing::debug_span!("instance", id = %instance, %job)
                .in_scope(|| tracing::debug!(%state, reason, took_ms = duration.as_millis() as u64, "ended"));
        }
        Observation::AttemptFailed { instance, attempt, reason } => {
            tracing::debug_span!("instance", id = %instance, attempt)
                .in_scope(|| tracing::debug!(%reason, "attempt failed"));
        }
        Observation::StopRequested { instance, cause } => {
            tracing::debug_span!("instance", id = %instance).in_scope(|| tracing::debug!(%cause, "stop requested"));
        }
        Observation::Progress { instance, attempt, per_mille, .. } => {
            tracing::trace!(%instance, attempt, per_mille, "progress");
        }
        Observation::TasksEnded { instance, since } => {
            let unsuccessful = since.failed + since.lost + since.stopped;
            tracing::trace!(%instance, succeeded = since.succeeded, unsuccessful, "tasks ended");
        }
        Observation::Fired { lateness } => tracing::trace!(late_us = lateness.as_micros() as u64, "fired"),
        Observation::Dispatched { .. } => {}
        Observation::Missed { job, count } => tracing::warn!(%job, count, "fire times passed without an instance"),
        Observation::NoWorker { job, why } => tracing::warn!(%job, why, "no worker may run it"),
        Observation::WorkerConnected { worker } => tracing::debug!(worker, "worker is known to its partition"),
        Observation::WorkerLost { worker, attempts: 0 } => tracing::debug!(worker, "worker left"),
        Observation::WorkerLost { worker, attempts } => tracing::warn!(worker, attempts, "worker lost"),
        Observation::Quarantined { instance, why } => tracing::error!(%instance, why, "instance set aside"),
    }
}
