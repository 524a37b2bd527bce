//! Names of jobs, which are unique within an app here and were not there.

use std::collections::HashSet;

use pendula_model::limits::{NAME_CHARS, check_name};

/// A job's name here, and why it is another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub name: String,
    pub why: Option<String>,
}

/// Names for the jobs of an app, given with their ids, smaller ids first.
///
/// The rule does not depend on anything but the jobs: of several with one name the one with the smallest id keeps it, the
/// others get `-ID`; what cannot stand in a name becomes `-`; what is too long is cut and gets `-ID`.
pub(super) fn assign<'n>(jobs: impl Iterator<Item = (i64, &'n str)>) -> Vec<Named> {
    let jobs: Vec<_> = jobs.collect();
    let mut taken = HashSet::new();
    let mut kept = HashSet::new();
    for (id, name) in &jobs {
        if check_name("name", name).is_ok() && taken.insert((*name).to_owned()) {
            kept.insert(*id);
        }
    }
    let mut named = Vec::new();
    for (id, original) in jobs {
        if kept.contains(&id) {
            named.push(Named { name: original.to_owned(), why: None });
            continue;
        }
        let clean = cleaned(original);
        let is_long = clean.chars().count() > NAME_CHARS;
        let why = match () {
            () if original.trim().is_empty() => "it has no name there".to_owned(),
            () if is_long => format!("names have at most {NAME_CHARS} characters; it was {}", shown(original)),
            () if clean != original => {
                format!("a name holds no `/`, no control characters and no space at an end; it was {}", shown(original))
            }
            () => format!("an earlier job of the app is named {} too", shown(original)),
        };
        let mut name = clean.clone();
        let mut number = 1;
        while is_long && number == 1 || taken.contains(&name) {
            let ending = if number == 1 { format!("-{id}") } else { format!("-{id}-{number}") };
            let room = NAME_CHARS - ending.len();
            let begin: String = clean.chars().take(room).collect();
            name = format!("{}{ending}", begin.trim_end());
            number += 1;
        }
        taken.insert(name.clone());
        named.push(Named { name, why: Some(why) });
    }
    named
}

fn cleaned(name: &str) -> String {
    let fits = |c: char| check_name("name", &format!("a{c}a")).is_ok();
    let clean: String = name.trim().chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let clean = clean.trim();
    if clean.is_empty() || clean == "." || clean == ".." { "job".to_owned() } else { clean.to_owned() }
}

fn shown(name: &str) -> String {
    format!("{:?}", pendula_model::limits::cut(name, 300))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(jobs: &[(i64, &str)]) -> Vec<String> {
        let named = assign(jobs.iter().copied());
        for one in &named {
            check_name("name", &one.name).unwrap();
        }
        named.into_iter().map(|named| named.name).collect()
    }

    #[test]
    fn of_one_name_the_smallest_id_keeps_it() {
        assert_eq!(names(&[(3, "a"), (7, "a"), (9, "b"), (12, "a")]), ["a", "a-7", "b", "a-12"]);
        // A name that was there before is never taken away by a made one.
        assert_eq!(names(&[(3, "a"), (7, "a"), (9, "a-7")]), ["a", "a-7-2", "a-7"]);
    }

    #[test]
    fn what_cannot_stand_in_a_name_is_replaced_and_what_is_too_long_cut() {
        assert_eq!(
            names(&[(1, "a/b"), (2, " a-b"), (3, ""), (4, ".."), (5, "x\ny")]),
            ["a-b", "a-b-2", "job", "job-4", "x-y"]
        );
        let long = "报".repeat(200);
        let made = names(&[(41, &long), (42, &long)]);
        assert_eq!(made[0].chars().count(), NAME_CHARS);
        assert!(made[0].ends_with("报-41") && made[1].ends_with("报-42"), "{made:?}");
        // A space where it is cut is no end of a name.
        let spaced = format!("{} {}", "x".repeat(124), "y".repeat(20));
        assert_eq!(names(&[(41, &spaced)]), [format!("{}-41", "x".repeat(124))]);
    }

    #[test]
    fn a_change_is_explained() {
        let named = assign([(1, "a"), (2, "a"), (3, "a/b")].into_iter());
        assert_eq!(named[0].why, None);
        assert!(named[1].why.as_ref().unwrap().contains("earlier job"), "{named:?}");
        assert!(named[2].why.as_ref().unwrap().contains("a/b"), "{named:?}");
    }
}
