//! The year field of the Quartz dialect.

/// A set of years from 1970 to 2099.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Years([u64; 3]);

impl Years {
    pub(crate) const FIRST: u32 = 1970;
    pub(crate) const LAST: u32 = 2099;

    pub(crate) fn insert(&mut self, year: u32) {
        let bit = year - Self::FIRST;
        self.0[bit as usize / 64] |= 1 << (bit % 64);
    }

    /// The first year of the set that is `year` or later.
    pub(crate) fn next(&self, year: i16) -> Option<i16> {
        let from = year.max(Self::FIRST as i16);
        (from..=Self::LAST as i16).find(|year| self.contains(*year))
    }

    /// The last year of the set that is `year` or earlier.
    pub(crate) fn previous(&self, year: i16) -> Option<i16> {
        let to = year.min(Self::LAST as i16);
        (Self::FIRST as i16..=to).rev().find(|year| self.contains(*year))
    }

    fn contains(&self, year: i16) -> bool {
        let bit = (i32::from(year) - Self::FIRST as i32) as u32;
        self.0.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}
