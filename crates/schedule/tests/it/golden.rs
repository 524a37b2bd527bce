//! Cases answered by other implementations; `golden/` holds the scripts that asked them.

use pendula_model::Timestamp;
use pendula_model::trigger::{CronDialect, Trigger};
use pendula_schedule::Plan;

use crate::{at, cron};

/// A case in which we knowingly answer otherwise.
struct Difference {
    expression: &'static str,
    /// Empty: wherever it is evaluated.
    zone: &'static str,
    why: &'static str,
}

const QUARTZ_DIFFERENCES: &[Difference] = &[Difference {
    expression: "0 0 12 1 * MON",
    zone: "",
    why: "we accept two restricted day fields and combine them by AND, as PowerJob's parser does",
}];

const UNIX_DIFFERENCES: &[Difference] = &[
    Difference {
        expression: "0 */2 * * *",
        zone: "",
        why: "Debian's cron takes any hour field that starts with `*` for one that runs through the day; we take the set \
              of hours, as its manual reads (\"granularity greater than one hour\")",
    },
    Difference {
        expression: "*/20 2 * * *",
        zone: "",
        why: "Debian's cron exempts a minute field that starts with `*` from the clock change rules and loses the whole \
              hour in spring; we go by the hours",
    },
    Difference {
        expression: "15 * * * *",
        zone: "Asia/Kathmandu",
        why: "cronsim steps over 00:15, the first minute after the gap of 1986; it happened, and cron runs in it",
    },
];

#[test]
fn quartz_dialect_agrees_with_quartz() {
    check(include_str!("../../golden/quartz.tsv"), CronDialect::Quartz, QUARTZ_DIFFERENCES, 350);
}

#[test]
fn unix_dialect_agrees_with_debian_cron() {
    check(include_str!("../../golden/unix.tsv"), CronDialect::Unix, UNIX_DIFFERENCES, 300);
}

fn check(table: &str, dialect: CronDialect, differences: &[Difference], at_least: usize) {
    let mut wrong = Vec::new();
    let mut agreed = 0;
    let mut needed = vec![false; differences.len()];
    for line in table.lines() {
        let [expression, zone, start, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not four columns: {line}");
        };
        let trigger = Trigger { dialect: Some(dialect), ..cron(expression, zone) };
        let answer = match Plan::compile(&trigger, at(start)) {
            Ok(plan) => {
                // Fewer expected fires than usual means that there are no more; then one more is asked for.
                let count = expected.split(',').count().max(8);
                plan.preview(at(start), count).iter().map(Timestamp::to_string).collect::<Vec<_>>().join(",")
            }
            Err(_) => "refused".to_owned(),
        };
        let known =
            differences.iter().position(|known| known.expression == expression && [zone, ""].contains(&known.zone));
        match known {
            _ if answer == expected => agreed += 1,
            Some(index) => needed[index] = true,
            None => wrong.push(format!("{expression} in {zone} from {start}\n  other {expected}\n  ours  {answer}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(agreed >= at_least, "only {agreed} cases agree");
    for (difference, needed) in differences.iter().zip(needed) {
        assert!(needed, "`{}` agrees now; it was listed because {}", difference.expression, difference.why);
    }
}
