//! Running as another user: only when the worker may, only as whom its owner named, never as root.

use pendula_worker::Failure;

use super::{ScriptConfig, invalid};
use crate::supervisor::User;

/// A local user, from `/etc/passwd` and `/etc/group`; directories of users elsewhere (LDAP) are not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) home: String,
    pub(super) rights: User,
}

/// The account behind `run_as`, if the definition has one.
///
/// # Errors
/// A failure that no retry mends, saying what is not permitted.
pub(super) fn permitted(run_as: Option<&str>, config: &ScriptConfig) -> Result<Option<Account>, Failure> {
    let Some(name) = run_as else { return Ok(None) };
    if !config.run_as.iter().any(|allowed| allowed == name) {
        return Err(invalid(format!(
            "`run_as: {name}` is not among the users that this worker's configuration allows"
        )));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(invalid(format!("`run_as: {name}` needs a worker that runs as root, which this one does not")));
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let account = find(name, &read("/etc/passwd"), &read("/etc/group"))
        .ok_or_else(|| invalid(format!("`run_as: {name}`: this machine has no such user in /etc/passwd")))?;
    if account.rights.uid == 0 {
        return Err(invalid(format!("`run_as: {name}` is root, as whom no script runs on request")));
    }
    if config.supervision.program().is_none() {
        return Err(invalid("`run_as` needs a worker whose program starts with `main_if_supervisor`"));
    }
    Ok(Some(account))
}

fn find(name: &str, passwd: &str, group: &str) -> Option<Account> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
    let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
    let further = group.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let number: u32 = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(number)
    });
    let groups = std::iter::once(gid).chain(further.filter(|group| *group != gid)).collect();
    let home = fields.get(5)?.to_string();
    Some(Account { name: name.to_owned(), home, rights: User { uid, gid, groups } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_with_all_their_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:100:Ada:/home/ada:/bin/zsh\nbroken:x\n";
        let group = "users:x:100:\ndocker:x:990:bob,ada\nwheel:x:10:bob\n";
        let account = find("ada", passwd, group).unwrap();
        assert_eq!(account.rights, User { uid: 1000, gid: 100, groups: vec![100, 990] });
        assert_eq!(account.home, "/home/ada");
        assert!(find("broken", passwd, group).is_none() && find("nobody", passwd, group).is_none());
    }

    #[test]
    fn sec_17_nobody_is_allowed_by_default_and_root_never() {
        assert!(permitted(None, &ScriptConfig::default()).unwrap().is_none());
        assert!(permitted(Some("nobody"), &ScriptConfig::default()).is_err());
        let config = ScriptConfig { run_as: vec!["root".to_owned()], ..ScriptConfig::default() };
        assert!(permitted(Some("root"), &config).is_err());
    }
}
