//! What a power loss leaves of a [`super::CrashDisk`], and the loop over every moment at which it can happen.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::CrashDisk;
use super::state::{Body, State};

/// Which of the possible states a power loss leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    /// Only what was fsynced.
    Minimum,
    /// All that programs had seen.
    Maximum,
    /// A pseudo-random mixture: changes of directories that were not fsynced may or may not be there (a rename within a
    /// directory is atomic; of one between directories both names may be there), and content that was not fsynced may
    /// be old, new, short, zeros, or new in pieces.
    Mixture(u64),
}

/// xorshift64*; enough to shake states, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap_or(0) % bound.max(1)
    }
}

pub(super) fn after_power_loss(before: &State, choice: Survivors) -> State {
    let mut after = before.clone();
    let mut dice = match choice {
        Survivors::Mixture(seed) => Some(Dice::new(seed)),
        _ => None,
    };
    for node in after.nodes.values_mut() {
        match &mut node.body {
            Body::File { seen, durable, poisoned } => {
                *seen = match (&choice, &mut dice) {
                    (Survivors::Minimum, _) => std::mem::take(durable),
                    // Pages that a failed fsync dropped never reach the platter.
                    _ if *poisoned => std::mem::take(durable),
                    (_, Some(dice)) => mixed(durable, seen, dice),
                    _ => std::mem::take(seen),
                };
                durable.clone_from(seen);
                *poisoned = false;
            }
            Body::Dir { seen, durable } => {
                if choice != Survivors::Maximum {
                    seen.clone_from(durable);
                }
            }
            Body::Symlink(_) => {}
        }
        let newer = dice.as_mut().map_or(choice == Survivors::Maximum, |d| d.below(2) == 1);
        if !newer {
            node.meta = node.durable_meta.clone();
        }
        node.durable_meta = node.meta.clone();
    }
    if let Some(dice) = &mut dice {
        let mut kept: BTreeMap<u64, usize> = BTreeMap::new();
        for half in &before.pending {
            // 0: lost; 1: only the new name is there; 2: all.
            let fate = *kept.entry(half.step).or_insert_with(|| dice.below(3));
            let one_dir = before.pending.iter().all(|h| h.step != half.step || h.dir == half.dir);
            let applies = if one_dir { fate > 0 } else { fate > usize::from(!half.add) };
            let Some(Body::Dir { seen, .. }) = after.nodes.get_mut(&half.dir).map(|n| &mut n.body) else {
                continue;
            };
            if !applies {
                continue;
            }
            if half.add {
                seen.insert(half.name.clone(), half.inode);
            } else if seen.get(&half.name) == Some(&half.inode) {
                seen.remove(&half.name);
            }
        }
    }
    for node in after.nodes.values_mut() {
        if let Body::Dir { seen, durable } = &mut node.body {
            durable.clone_from(seen);
        }
    }
    State { nodes: after.nodes, ..State::new() }
}

/// Content of which only a part reached the platter.
fn mixed(durable: &[u8], seen: &[u8], dice: &mut Dice) -> Vec<u8> {
    let old = |at: usize| durable.get(at).copied().unwrap_or(0);
    let len = match dice.below(3) {
        0 => seen.len(),
        1 => durable.len(),
        _ => durable.len().min(seen.len()) + dice.below(durable.len().abs_diff(seen.len()) + 1),
    };
    match dice.below(4) {
        // The length came, the data did not.
        0 => (0..len).map(old).collect(),
        1 => (0..len).map(|at| seen.get(at).copied().unwrap_or_else(|| old(at))).collect(),
        _ => {
            let piece = 1 + dice.below(seen.len() / 2 + 1);
            let mut new = false;
            (0..len)
                .map(|at| {
                    if at % piece == 0 {
                        new = dice.below(2) == 0;
                    }
                    if new { seen.get(at).copied().unwrap_or_else(|| old(at)) } else { old(at) }
                })
                .collect()
        }
    }
}

/// One state that a crash may leave.
#[derive(Debug)]
pub struct Aftermath {
    /// The disk as the next process finds it after the power came back.
    pub disk: CrashDisk,
    /// Whether the operation had said that it succeeded.
    pub completed: bool,
    /// The moment and the state, for messages.
    pub moment: String,
}

/// Says which moment was being checked when a test panics there.
struct Tell<'a>(&'a str);

impl Drop for Tell<'_> {
    #[expect(clippy::print_stderr, reason = "it speaks to the person who reads a failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the check failed for: {}", self.0);
        }
    }
}

/// How many mixtures are looked at for each moment.
const MIXTURES: u64 = 24;

/// Runs an operation on copies of a disk, with the power lost one step later each time until the operation completes,
/// and hands every surviving state to `check`. The operation must succeed when there is no crash.
///
/// `before` itself is not changed; what it holds counts as durable only as far as it was fsynced.
///
/// # Panics
/// When the operation fails without a crash, and when `check` does, naming the moment.
pub fn for_every_crash_point<T, E: Debug>(
    before: &CrashDisk,
    operation: impl Fn(&CrashDisk) -> Result<T, E>,
    mut check: impl FnMut(&Aftermath),
) {
    for step in 0.. {
        let disk = before.fork();
        disk.crash_after(step);
        let result = operation(&disk);
        let crashed = disk.crashed();
        let failure = result.as_ref().err();
        assert!(crashed || failure.is_none(), "the operation failed without a crash: {failure:?}");
        let states = [Survivors::Minimum, Survivors::Maximum];
        for choice in states.into_iter().chain((0..MIXTURES).map(|m| Survivors::Mixture(step * 1000 + m))) {
            let moment = if crashed {
                format!("power lost at step {step} ({}), {choice:?}", disk.last_step())
            } else {
                format!("power lost after the end, {choice:?}")
            };
            let tell = Tell(&moment);
            check(&Aftermath {
                disk: disk.survivors(choice),
                completed: result.is_ok(),
                moment: tell.0.to_owned(),
            });
        }
        if !crashed {
            return;
        }
    }
}

/// Proves that a crash test has teeth: runs it again and again, each time with one more fsync of the operation only
/// pretended, and demands that `check` panics somewhere for each of them.
///
/// # Panics
/// When the check stays green without an fsync, naming it by its number.
pub fn assert_every_sync_matters<T, E: Debug>(
    before: &CrashDisk,
    operation: impl Fn(&CrashDisk) -> Result<T, E>,
    check: impl Fn(&Aftermath),
) {
    let whole = before.fork();
    let completed = operation(&whole);
    assert!(completed.is_ok(), "the operation failed without a crash: {:?}", completed.err());
    for number in 0..whole.syncs() - before.syncs() {
        let disk = before.fork();
        disk.pretend_sync(number);
        let attempt = std::panic::AssertUnwindSafe(|| for_every_crash_point(&disk, &operation, &check));
        assert!(std::panic::catch_unwind(attempt).is_err(), "nobody misses fsync number {number}");
    }
}
