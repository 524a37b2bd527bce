//! Which worker of those that are there: what excludes one, and which of the others the strategy takes.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use pendula_model::worker::Strategy;
use pendula_model::{AppId, SessionId};
use serde_json::json;

use super::state::{Active, Class, ClassId, Random, Session};

/// What came of looking for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Session(SessionId),
    /// No worker with a free slot may run this class.
    NoneForClass,
    /// Some may, but not more of this very instance.
    NoneForInstance,
}

/// Share of a worker's slots that are taken, in millionths, so that workers of different size fill evenly.
fn load(session: &Session) -> u64 {
    session.held.len() as u64 * 1_000_000 / u64::from(session.info.slots.max(1))
}

/// Chooses a session for the next attempt of `active`.
pub(super) fn choose(
    sessions: &mut BTreeMap<SessionId, Session>,
    app: AppId,
    class_id: ClassId,
    class: &mut Class,
    active: &Active,
    random: &mut Random,
) -> Choice {
    let limits = active.definition.spec.mode.limits();
    let min = (!class.selector.min.is_empty()).then_some(class.selector.min);
    let mut any_for_class = false;
    let mut candidates: Vec<(u64, Reverse<usize>, SessionId)> = Vec::new();
    let is_simple = class.selector.strategy == Strategy::LeastLoaded;
    for session in sessions.values_mut().filter(|session| session.app == app) {
        let info = &session.info;
        let eligible = *session.eligible.entry(class_id).or_insert_with(|| class.mismatch(info).is_none());
        let free = session.free();
        if !eligible || free == 0 || min.is_some_and(|min| min.mismatch(&info.metrics).is_some()) {
            continue;
        }
        any_for_class = true;
        let admits =
            |spread: &super::spread::Spread| spread.admits(&info.worker, limits.per_worker, limits.max_workers);
        if !active.spread.as_deref().is_none_or(admits) {
            continue;
        }
        let candidate = (load(session), Reverse(free), session.id);
        match candidates.first_mut() {
            // The usual strategy needs the best one only.
            Some(best) if is_simple => *best = candidate.min(*best),
            _ => candidates.push(candidate),
        }
    }
    if candidates.is_empty() {
        return if any_for_class { Choice::NoneForInstance } else { Choice::NoneForClass };
    }
    if let Some(best) = class.selector.best.map(|best| best as usize).filter(|best| *best < candidates.len()) {
        candidates.sort_unstable();
        candidates.truncate(best);
        candidates.sort_unstable_by_key(|(_, _, id)| *id);
    }
    let ids = candidates.iter().map(|(_, _, id)| *id);
    let chosen = match &class.selector.strategy {
        Strategy::LeastLoaded => candidates.iter().min().map(|(_, _, id)| *id),
        Strategy::First => sessions_by_age(sessions, ids),
        Strategy::RoundRobin => {
            let after = class.turn;
            ids.clone().filter(|id| after.is_none_or(|last| *id > last)).min().or_else(|| ids.min())
        }
        Strategy::Random => ids.clone().nth((random.next() % candidates.len() as u64) as usize),
        Strategy::StickyHash(parameter) => {
            let key = sticky_key(active, parameter);
            ids.max_by_key(|id| rendezvous(&key, &sessions[id].info.worker.name))
        }
    };
    let chosen = chosen.expect("there is a candidate");
    class.turn = Some(chosen);
    Choice::Session(chosen)
}

fn sessions_by_age(sessions: &BTreeMap<SessionId, Session>, ids: impl Iterator<Item = SessionId>) -> Option<SessionId> {
    ids.min_by_key(|id| (sessions[id].connected_at, *id))
}

/// What decides under `sticky_hash`: the name of the sub-task that is next, or else the value of the parameter.
fn sticky_key(active: &Active, parameter: &str) -> String {
    let task = active.spread.as_ref().and_then(|spread| spread.live.get(&spread.next_ready()?));
    if let Some(task) = task.filter(|task| !task.row.name.is_empty() && task.row.role.is_counted()) {
        return task.row.name.to_string();
    }
    let own = active.row.params.as_ref().and_then(|params| serde_json::from_str::<serde_json::Value>(params).ok());
    let value = match &own {
        Some(params) => params.get(parameter),
        None => active.definition.spec.params.get(parameter),
    };
    value.map(ToString::to_string).unwrap_or_default()
}

/// The weight of a worker for a key: the same on every server, and each key has its own order of workers, so that one
/// that goes moves no other's keys.
fn rendezvous(key: &str, worker: &str) -> u64 {
    let bytes = key.bytes().chain([0]).chain(worker.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // FNV alone leaves the last bytes in the lower bits.
    let mut random = Random(hash);
    random.next()
}

/// A candidate as it stands in a placement record or an explanation.
pub(super) fn describe(session: &Session, class: &Class, active: &Active) -> serde_json::Value {
    let mut candidate = json!({
        "worker": session.info.worker.name,
        "running": session.held.len(),
        "slots": session.info.slots,
    });
    if let Some(rejected) = rejection(session, class, active) {
        candidate["rejected"] = rejected.into();
    }
    candidate
}

/// Why a worker cannot take the next attempt now, or `None` if it can.
pub(super) fn rejection(session: &Session, class: &Class, active: &Active) -> Option<String> {
    if let Some(mismatch) = class.mismatch(&session.info) {
        return Some(mismatch);
    }
    if session.draining {
        return Some("draining".to_owned());
    }
    if session.free() == 0 {
        return Some("no free slot".to_owned());
    }
    if let Some(mismatch) = class.selector.min.mismatch(&session.info.metrics) {
        return Some(mismatch);
    }
    let (spread, limits) = (active.spread.as_deref()?, active.definition.spec.mode.limits());
    if spread.admits(&session.info.worker, limits.per_worker, limits.max_workers) {
        return None;
    }
    Some(match spread.on_worker.get(&session.info.worker) {
        Some(tasks) => format!("has {tasks} tasks of this instance, the most that `per_worker` allows"),
        None => {
            format!("{} other workers have tasks of it, the most that `max_workers` allows", spread.on_worker.len())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_over_workers_and_move_only_with_their_own() {
        let workers = ["w1", "w2", "w3", "w4"];
        let owner = |key: usize, among: &[&str]| {
            let best = among.iter().max_by_key(|worker| rendezvous(&key.to_string(), worker));
            best.map(|worker| (*worker).to_owned()).unwrap()
        };
        let before: Vec<String> = (0..4000).map(|key| owner(key, &workers)).collect();
        for worker in workers {
            let share = before.iter().filter(|owner| *owner == worker).count();
            assert!((800..1200).contains(&share), "{worker} has {share}");
        }
        for (key, was) in before.iter().enumerate().filter(|(_, was)| *was != "w2") {
            assert_eq!(owner(key, &["w1", "w3", "w4"]), *was);
        }
    }
}
