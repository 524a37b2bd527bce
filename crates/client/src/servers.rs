//! Where the servers of an installation are, and which of them is asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Url;

/// Addresses of equal servers. One is asked as long as it answers.
#[derive(Debug)]
pub(crate) struct Servers {
    urls: Vec<Url>,
    current: AtomicUsize,
}

impl Servers {
    /// At least one.
    pub(crate) fn new(urls: Vec<Url>) -> Self {
        assert!(!urls.is_empty(), "a client has a server");
        Servers { urls, current: AtomicUsize::new(0) }
    }

    pub(crate) fn all(&self) -> &[Url] {
        &self.urls
    }

    /// All of them, the one that answered last first, by their places.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.place(), self.urls.len());
        (0..count).map(move |step| (first + step) % count)
    }

    /// This one answered.
    pub(crate) fn stay_with(&self, place: usize) {
        self.current.store(place, Ordering::Relaxed);
    }

    /// This one is of no use at the moment: the next one is asked first, unless another is already.
    pub(crate) fn pass_over(&self, place: usize) {
        let next = (place + 1) % self.urls.len();
        let _ = self.current.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The one that is asked now.
    pub(crate) fn place(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// The address at `place`, as people write it.
    pub(crate) fn name(&self, place: usize) -> &str {
        self.urls[place].as_str().trim_end_matches('/')
    }

    /// The address that is asked now.
    pub(crate) fn current(&self) -> &str {
        self.name(self.place())
    }
}
