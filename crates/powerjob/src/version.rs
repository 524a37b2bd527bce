//! What can be said to which worker.

/// How a worker reads JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// 4.3.0 to 4.3.7 and 5.0.0-beta: a field that it does not know makes it refuse the message.
    Strict,
    /// 4.3.8, 4.3.9, 5.0.1-beta and later.
    Lenient,
}

impl Family {
    /// From a heartbeat's `version`, which may be missing or `UNKNOWN`: then it counts as strict, which harms nobody.
    pub(crate) fn of(version: Option<&str>) -> Family {
        let text = version.unwrap_or_default().trim();
        let number = text.split('-').next().unwrap_or_default();
        let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
        let version = [parts.next().flatten(), parts.next().flatten(), parts.next().flatten()];
        match version {
            [Some(major), Some(minor), Some(patch)] => match (major, minor, patch) {
                (..=3, _, _) | (4, ..=2, _) | (4, 3, ..=7) | (5, 0, 0) => Family::Strict,
                _ => Family::Lenient,
            },
            _ => Family::Strict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_2_every_released_version_has_its_family() {
        for strict in ["4.3.0", "4.3.3", "4.3.6", "4.3.7", "5.0.0-beta", "UNKNOWN", ""] {
            assert_eq!(Family::of(Some(strict)), Family::Strict, "{strict}");
        }
        for lenient in ["4.3.8", "4.3.9", "5.0.1-beta", "5.1.0", "5.1.0-bugfix", "5.1.1", "6.0.0"] {
            assert_eq!(Family::of(Some(lenient)), Family::Lenient, "{lenient}");
        }
        assert_eq!(Family::of(None), Family::Strict);
    }
}
