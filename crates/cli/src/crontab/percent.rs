//! `%` in a command: the first one that is not escaped ends it, and what follows is its standard input.

/// The command and its standard input, as the cron(8) of Vixie and Debian cuts them.
///
/// In the command, `\%` means `%` and `\\` means `\`; a backslash before anything else stays. In the input, each `%` is
/// a line break, `\%` means `%`, other backslashes stay, and a last line without an end gets one. A `%` with nothing
/// after it gives no input.
pub(super) fn split(text: &str) -> (String, Option<String>) {
    let mut command = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => return (command, input(chars.as_str())),
            '\\' => match chars.next() {
                Some(escaped @ ('%' | '\\')) => command.push(escaped),
                Some(other) => command.extend(['\\', other]),
                None => command.push('\\'),
            },
            c => command.push(c),
        }
    }
    (command, None)
}

fn input(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let mut input = String::with_capacity(text.len() + 1);
    let mut backslash = false;
    for c in text.chars() {
        match c {
            '%' if backslash => input.push('%'),
            '%' => input.push('\n'),
            c => {
                if backslash {
                    input.push('\\');
                }
                // A backslash is written when it is known that it escapes nothing; a second one is the first of its own.
                if c != '\\' {
                    input.push(c);
                }
            }
        }
        backslash = c == '\\';
    }
    if backslash {
        input.push('\\');
    }
    if !input.ends_with('\n') {
        input.push('\n');
    }
    Some(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_cron_hold() {
        for (text, command, input) in [
            ("date +\\%F", "date +%F", None),
            ("a \\! b", "a \\! b", None),
            ("a \\\\ b", "a \\ b", None),
            ("a \\\\% b", "a \\", Some(" b\n")),
            ("mail joe%Hi,%%Bye%", "mail joe", Some("Hi,\n\nBye\n")),
            ("cat%50\\% off", "cat", Some("50% off\n")),
            ("cat%a\\b\\\\c", "cat", Some("a\\b\\\\c\n")),
            ("cat%a\\\\%b", "cat", Some("a\\%b\n")),
            ("cat%", "cat", None),
            ("cat%%", "cat", Some("\n")),
            ("cat%a\\", "cat", Some("a\\\n")),
            ("cat \\", "cat \\", None),
            ("%x", "", Some("x\n")),
        ] {
            assert_eq!(split(text), (command.to_owned(), input.map(str::to_owned)), "{text}");
        }
    }
}
