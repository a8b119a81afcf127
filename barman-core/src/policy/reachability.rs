//! Timelines: which of them a recovery that starts on one can follow.

use std::collections::BTreeMap;

use crate::model::{Lsn, Timeline};

/// One line of a timeline history file: the log was followed on `parent` up to `at`, then on the next timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub parent: Timeline,
    /// The position at which it was left.
    pub at: Lsn,
}

/// What is known of the timelines of an archive: the content of its `.history` files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histories(BTreeMap<Timeline, Vec<Fork>>);

/// Whether a recovery from a point on one timeline can reach another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descent {
    /// It can: the other is the same, or was forked from it after that point.
    Yes,
    /// It cannot, by the history of the other.
    No,
    /// The history of the other is not known.
    Unknown,
}

impl Histories {
    /// No history at all: what an archive has that never saw a promotion.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records the history of a timeline, oldest fork first, as its file lists them.
    pub fn insert(&mut self, timeline: Timeline, forks: impl IntoIterator<Item = Fork>) {
        self.0.insert(timeline, forks.into_iter().collect());
    }

    /// The forks that led to a timeline, or `None` when its history is not known. Timeline 1 has none.
    pub fn of(&self, timeline: Timeline) -> Option<&[Fork]> {
        match self.0.get(&timeline) {
            // A history file always has a line; an empty one is damaged.
            Some(forks) if !forks.is_empty() => Some(forks),
            _ if timeline == Timeline::FIRST => Some(&[]),
            _ => None,
        }
    }

    /// Whether a recovery that starts at `from` on `ancestor` can go on to `timeline`.
    ///
    /// A timeline has a greater id than the one it was forked from (PostgreSQL's `findNewestTimeLine`), so that a smaller
    /// id is never a descendant.
    pub fn descent(&self, timeline: Timeline, ancestor: Timeline, from: Lsn) -> Descent {
        if timeline == ancestor {
            return Descent::Yes;
        }
        if timeline < ancestor {
            return Descent::No;
        }
        match self.of(timeline) {
            None => Descent::Unknown,
            Some(forks) if forks.iter().any(|f| f.parent == ancestor && f.at >= from) => Descent::Yes,
            Some(_) => Descent::No,
        }
    }

    /// The timelines with a known history that a recovery from `from` on `ancestor` can reach, itself left out.
    pub fn descendants(&self, ancestor: Timeline, from: Lsn) -> impl Iterator<Item = Timeline> {
        self.0
            .keys()
            .copied()
            .filter(move |t| *t != ancestor && self.descent(*t, ancestor, from) == Descent::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tl(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }

    #[test]
    fn i20_descent_goes_by_position_and_history() {
        let mut histories = Histories::new();
        let fork = |parent, at| Fork { parent: tl(parent), at: Lsn::new(at) };
        histories.insert(tl(2), [fork(1, 100)]);
        histories.insert(tl(3), [fork(1, 50)]);
        histories.insert(tl(4), [fork(1, 100), fork(2, 200)]);
        histories.insert(tl(6), []);
        for (timeline, ancestor, from, expected) in [
            (1, 1, 999, Descent::Yes),
            (2, 1, 100, Descent::Yes),
            (2, 1, 101, Descent::No),
            (3, 1, 60, Descent::No),
            (4, 1, 99, Descent::Yes),
            (4, 2, 150, Descent::Yes),
            (4, 2, 201, Descent::No),
            (4, 3, 0, Descent::No),
            (1, 2, 0, Descent::No),
            (5, 1, 0, Descent::Unknown),
            (6, 1, 0, Descent::Unknown),
        ] {
            let verdict = histories.descent(tl(timeline), tl(ancestor), Lsn::new(from));
            assert_eq!(verdict, expected, "{timeline} from {ancestor} at {from}");
        }
        assert_eq!(histories.descendants(tl(1), Lsn::new(60)).collect::<Vec<_>>(), [tl(2), tl(4)]);
    }
}
