//! One line: a setting or an entry.

/// `NAME = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub name: String,
    pub value: String,
}

/// Time, user (system crontabs only) and command as it is written, with its `%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// Five fields joined by single spaces, or `@daily` and the like.
    pub schedule: String,
    pub user: Option<&'a str>,
    pub command: &'a str,
    /// The leading `-` by which some crons are asked not to log the run.
    pub quiet: bool,
}

const BLANKS: [char; 2] = [' ', '\t'];

/// Reads a setting as Vixie cron does: blanks around `=` do not count, name and value may be quoted, an unquoted value
/// loses the blanks at its end, and nothing is expanded. Anything else is no setting.
pub(super) fn setting(line: &str) -> Option<Setting> {
    let (name, rest) = match quoted(line) {
        Some((name, rest)) => (name, rest),
        None => line.split_at(line.find(['=', ' ', '\t'])?),
    };
    let rest = rest.trim_start_matches(BLANKS).strip_prefix('=')?;
    if name.contains('=') {
        return None;
    }
    let rest = rest.trim_start();
    let value = match quoted(rest) {
        Some((value, after)) if after.trim().is_empty() => value,
        Some(_) => return None,
        None if rest.starts_with(['\'', '"']) => return None,
        None => rest.trim_end(),
    };
    Some(Setting { name: name.to_owned(), value: value.to_owned() })
}

/// The text between a quote at the beginning and its match, and what follows. There are no escapes.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    text[1..].split_once(quote)
}

/// Cuts an entry into its parts. Whether the schedule is one is not checked here.
pub(super) fn entry(line: &str, has_user: bool) -> Result<Entry<'_>, String> {
    let (quiet, line) = match line.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let count = if line.starts_with('@') { 1 } else { 5 };
    let mut rest = line;
    let mut fields = Vec::new();
    while fields.len() < count {
        let Some(field) = word(&mut rest) else {
            return Err(match fields.len() {
                1..5 => format!("has {} of 5 time fields and nothing after them", fields.len()),
                _ => "is neither a setting nor an entry".to_owned(),
            });
        };
        fields.push(field);
    }
    let user = if has_user {
        let user = word(&mut rest).ok_or("ends after the time: user and command are missing")?;
        if !is_user(user) {
            return Err(format!(
                "`{user}` stands where the user belongs, and is no user name; is this a user crontab?"
            ));
        }
        Some(user)
    } else {
        None
    };
    let command = rest.trim_start_matches(BLANKS);
    if command.trim().is_empty() {
        return Err(if has_user {
            "ends after the user: the command is missing"
        } else {
            "ends after the time: the command is missing"
        }
        .to_owned());
    }
    Ok(Entry { schedule: fields.join(" "), user, command, quiet })
}

fn word<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let text = rest.trim_start_matches(BLANKS);
    let end = text.find(BLANKS).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    (!word.is_empty()).then_some(word)
}

/// What useradd(8) accepts, besides dots and capitals, which directories have.
fn is_user(text: &str) -> bool {
    let body = text.strip_suffix('$').unwrap_or(text);
    body.len() <= 64
        && body.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && body.chars().all(|c| c.is_ascii_alphanumeric() || "_.@-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_from_entries() {
        for (line, name, value) in [
            ("A=b", "A", "b"),
            ("A = b c  ", "A", "b c"),
            ("A\t=\t\"  b \" ", "A", "  b "),
            ("'A B'='x'", "A B", "x"),
            ("PATH=/a:$HOME # no comment", "PATH", "/a:$HOME # no comment"),
            ("A=b=c", "A", "b=c"),
            ("MAILTO=", "MAILTO", ""),
            ("MAILTO=\"\"", "MAILTO", ""),
            ("A=it's", "A", "it's"),
        ] {
            let expect = Setting { name: name.into(), value: value.into() };
            assert_eq!(setting(line), Some(expect), "{line}");
        }
        for line in ["* * * * * A=b cmd", "@daily x=1", "A b=c", "A=\"b\" c", "A='b", "'A=1'=b", "word"] {
            assert_eq!(setting(line), None, "{line}");
        }
    }

    #[test]
    fn entries_fall_into_time_user_and_command() {
        let parsed = |line, has_user| entry(line, has_user).map(|e| (e.schedule, e.user, e.command));
        assert_eq!(
            parsed("09,39 *     * * *  root   [ -x a ]  && b ", true),
            Ok(("09,39 * * * *".into(), Some("root"), "[ -x a ]  && b "))
        );
        assert_eq!(parsed("*\t* * * *\tls", false), Ok(("* * * * *".into(), None, "ls")));
        assert_eq!(parsed("@daily  root   ls", true), Ok(("@daily".into(), Some("root"), "ls")));
        assert_eq!(parsed("-0 1 * * * ls", false), Ok(("0 1 * * *".into(), None, "ls")));
        for (line, has_user, expect) in [
            ("* * *", false, "3 of 5"),
            ("* * * * *  ", false, "command is missing"),
            ("@daily", false, "command is missing"),
            ("* * * * * root", true, "after the user"),
            ("* * * * *", true, "user and command"),
            ("* * * * * /bin/ls -l", true, "no user name"),
        ] {
            let error = entry(line, has_user).expect_err(line);
            assert!(error.contains(expect), "{line}: {error}");
        }
    }
}
