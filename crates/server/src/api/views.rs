//! From what is stored to what is shown.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pendula_engine::input::WorkerStatus;
use pendula_model::api::{AppView, AttemptView, InstanceView, JobView, ResultView, TokenKind, TokenView, WorkerView};
use pendula_model::app::App;
use pendula_model::instance::{Instance, PastAttempt, Payload};
use pendula_model::job::Job;
use pendula_model::task::Fanout;
use pendula_model::token::{Scope, Token};

use super::names::Known;
use super::task_views;
use crate::auth::is_for_powerjob;

pub(super) fn app(app: App) -> AppView {
    AppView {
        id: app.id,
        name: app.name,
        namespace: app.namespace,
        partition: app.partition.0,
        allow_scripts: app.allow_scripts,
        created_at: app.created_at,
        version: app.version,
    }
}

pub(super) fn job(app: &str, job: Job) -> JobView {
    JobView {
        id: job.id,
        app: app.to_owned(),
        spec: (*job.spec).clone(),
        revision: job.revision.0,
        version: job.version,
        next_fire: job.schedule.next_fire,
        last_fire: job.schedule.last_fire,
        missed: job.schedule.missed,
        created_at: job.created_at,
        updated_at: job.updated_at,
    }
}

/// Without its attempts and the list of its targets: see [`attempts`] and [`task_views::targets`].
pub(super) fn instance(names: &Known, instance: &Instance, fanout: Option<&Fanout>) -> InstanceView {
    InstanceView {
        id: instance.id,
        app: names.app(instance.app),
        job: names.job(instance.job),
        job_id: instance.job,
        revision: instance.revision.0,
        mode: names.mode(instance),
        origin: instance.origin,
        state: instance.state,
        reason: instance.reason.as_ref().map(ToString::to_string),
        message: instance.message.as_deref().map(str::to_owned),
        fire_time: instance.fire_time,
        missed_before: instance.missed_before,
        rerun_of: instance.rerun_of,
        idempotency_key: instance.idempotency_key.as_deref().map(str::to_owned),
        priority: instance.priority,
        created_at: instance.created_at,
        due_at: instance.due_at,
        expires_at: instance.expires_at,
        started_at: instance.started_at,
        ended_at: instance.ended_at,
        attempt: instance.attempt,
        failures: instance.failures,
        losses: instance.losses,
        stop_cause: instance.stop_cause,
        worker: instance.worker.as_ref().map(|worker| worker.name.to_string()),
        params: instance.params.as_deref().and_then(|params| serde_json::from_str(params).ok()),
        result: instance.result.as_ref().map(payload),
        tasks: fanout.map(|fanout| task_views::tasks(fanout, instance)),
        attempts: Vec::new(),
    }
}

/// All tries, oldest first. The last one is part of the instance; one that waits has not begun its next.
pub(super) fn attempts(instance: &Instance, past: Vec<PastAttempt>) -> Vec<AttemptView> {
    let latest_is_past = past.last().is_some_and(|last| last.attempt >= instance.attempt);
    let mut attempts: Vec<_> = past.into_iter().map(past_attempt).collect();
    if instance.attempt > 0 && !latest_is_past {
        attempts.push(AttemptView {
            attempt: instance.attempt,
            state: instance.task_state(),
            reason: instance.reason.as_ref().map(ToString::to_string),
            message: instance.message.as_deref().map(str::to_owned),
            worker: instance.worker.as_ref().map(|worker| worker.name.to_string()),
            worker_boot: instance.worker.as_ref().map(|worker| worker.boot.to_string()),
            dispatched_at: instance.dispatched_at,
            started_at: instance.started_at,
            ended_at: instance.ended_at,
            placement: placement(instance.placement.as_deref()),
        });
    }
    attempts
}

pub(super) fn past_attempt(past: PastAttempt) -> AttemptView {
    AttemptView {
        attempt: past.attempt,
        state: past.state,
        reason: Some(past.reason.to_string()),
        message: past.message.as_deref().map(str::to_owned),
        worker: past.worker.as_ref().map(|worker| worker.name.to_string()),
        worker_boot: past.worker.as_ref().map(|worker| worker.boot.to_string()),
        dispatched_at: past.dispatched_at,
        started_at: past.started_at,
        ended_at: Some(past.ended_at),
        placement: placement(past.placement.as_deref()),
    }
}

pub(super) fn placement(json: Option<&str>) -> Option<serde_json::Value> {
    json.and_then(|json| serde_json::from_str(json).ok())
}

pub(super) fn payload(payload: &Payload) -> ResultView {
    let mut view = ResultView { content_type: payload.content_type.clone(), json: None, text: None, base64: None };
    match std::str::from_utf8(&payload.bytes) {
        Ok(text) => match serde_json::from_str(text) {
            Ok(json) if payload.content_type == "application/json" => view.json = Some(json),
            _ => view.text = Some(text.to_owned()),
        },
        Err(_) => view.base64 = Some(STANDARD.encode(&payload.bytes)),
    }
    view
}

pub(super) fn worker(worker: WorkerStatus) -> WorkerView {
    let state = match (worker.connected, worker.draining) {
        (false, _) => "away",
        (true, true) => "draining",
        (true, false) => "connected",
    };
    WorkerView {
        name: worker.info.worker.name.to_string(),
        boot: worker.info.worker.boot.to_string(),
        address: worker.info.address,
        version: worker.info.version,
        processors: worker.info.processors,
        labels: worker.info.labels,
        slots: worker.info.slots,
        running: worker.running,
        state: state.to_owned(),
        connected_at: worker.connected_at,
        last_heard: worker.last_heard,
        metrics: worker.info.metrics,
    }
}

pub(super) fn token_kind(scope: &Scope) -> TokenKind {
    match scope {
        Scope::Admin => TokenKind::Admin,
        Scope::App { .. } => TokenKind::App,
        Scope::Worker { .. } => TokenKind::Worker,
        Scope::Metrics => TokenKind::Metrics,
    }
}

/// Without the secret, which is not stored.
pub(super) fn token(names: &Known, token: Token) -> TokenView {
    TokenView {
        id: token.id,
        kind: if is_for_powerjob(&token) { TokenKind::Powerjob } else { token_kind(&token.scope) },
        app: token.scope.app().map(|app| names.app(app)),
        name: token.name,
        created_at: token.created_at,
        expires_at: token.expires_at,
        secret: None,
    }
}

/// A name as it stands in a path.
pub(super) fn path_segment(name: &str) -> String {
    use std::fmt::Write;
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            write!(segment, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    segment
}
