//! Measuring commands against each other: rounds in which every rival runs once, medians, ratios of the same round.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use barman_testkit::{Error, Result, os};

/// One way to do the work.
pub(crate) struct Rival<'a> {
    /// Its name in the table.
    pub(crate) name: String,
    /// Makes everything ready; not measured.
    pub(crate) before: Box<dyn Fn() -> Result<()> + 'a>,
    /// The command that is measured.
    pub(crate) command: Box<dyn Fn() -> Result<Command> + 'a>,
    /// Takes away what the command made; not measured.
    pub(crate) after: Box<dyn Fn() -> Result<()> + 'a>,
}

impl<'a> Rival<'a> {
    pub(crate) fn new(name: impl Into<String>, command: impl Fn() -> Result<Command> + 'a) -> Self {
        let nothing = || Box::new(|| Ok(()));
        Self { name: name.into(), before: nothing(), command: Box::new(command), after: nothing() }
    }

    pub(crate) fn before(mut self, before: impl Fn() -> Result<()> + 'a) -> Self {
        self.before = Box::new(before);
        self
    }

    pub(crate) fn after(mut self, after: impl Fn() -> Result<()> + 'a) -> Self {
        self.after = Box::new(after);
        self
    }
}

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
    peak_kib: u64,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    work: String,
    name: String,
    wall: f64,
    cpu: f64,
    peak_kib: u64,
    /// Of the first rival to this one in the same round: median, lowest, highest. Nothing for the first rival itself.
    ratio: Option<(f64, f64, f64)>,
}

/// Lets the rivals run one after the other, `rounds` times. The first is ours; the others are what it is compared with. One
/// that fails is left out, and told.
pub(crate) fn compare(work: &str, rounds: usize, rivals: &[Rival<'_>]) -> Vec<Row> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); rivals.len()];
    let mut failed = vec![false; rivals.len()];
    for _ in 0..rounds.max(1) {
        for (at, rival) in rivals.iter().enumerate() {
            if failed[at] {
                continue;
            }
            match once(rival) {
                Ok(cost) => costs[at].push(cost),
                Err(error) => {
                    println!("{work}: {} is left out: {error}", rival.name);
                    failed[at] = true;
                    if at == 0 {
                        return Vec::new();
                    }
                }
            }
        }
    }
    let ours = costs.first().cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for (at, (rival, theirs)) in rivals.iter().zip(&costs).enumerate() {
        if failed[at] {
            continue;
        }
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(o, t)| o.wall / t.wall.max(1e-6)).collect();
        ratios.sort_by(f64::total_cmp);
        let ends = ratios.first().copied().zip(ratios.last().copied());
        let ratio = ends.filter(|_| at > 0).map(|(low, high)| (median(&ratios), low, high));
        let of = |what: fn(&Cost) -> f64| median(&theirs.iter().map(what).collect::<Vec<_>>());
        rows.push(Row {
            work: work.to_owned(),
            name: rival.name.clone(),
            wall: of(|c| c.wall),
            cpu: of(|c| c.cpu),
            peak_kib: theirs.iter().map(|c| c.peak_kib).max().unwrap_or(0),
            ratio,
        });
    }
    print(&rows, false);
    rows
}

/// Prints rows, with a head on demand.
pub(crate) fn print(rows: &[Row], head: bool) {
    if head {
        println!("| work | by | wall s | cpu s | peak MiB | ours / it (lowest–highest) |");
        println!("|---|---|---|---|---|---|");
    }
    for row in rows {
        let ratio = row
            .ratio
            .map_or_else(String::new, |(median, low, high)| format!("{median:.3} ({low:.3}–{high:.3})"));
        let peak = row.peak_kib as f64 / 1024.0;
        println!("| {} | {} | {:.3} | {:.2} | {peak:.0} | {ratio} |", row.work, row.name, row.wall, row.cpu);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

fn once(rival: &Rival<'_>) -> Result<Cost> {
    (rival.before)()?;
    let mut command = (rival.command)()?;
    // What earlier work left to be written must not be paid by this one.
    os::run(&mut Command::new("sync"))?;
    let cost = run(&mut command)?;
    (rival.after)()?;
    Ok(cost)
}

fn run(command: &mut Command) -> Result<Cost> {
    let program = format!("{command:?}");
    let spawned = |source| Error::Spawn { program: program.clone(), source };
    let output = tempfile::tempfile().map_err(spawned)?;
    let again = output.try_clone().map_err(spawned)?;
    let cpu = children_cpu();
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(output).stderr(again).spawn().map_err(spawned)?;
    let status_file = format!("/proc/{}/status", child.id());
    let ended = AtomicBool::new(false);
    let (status, wall, peak_kib) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak_kib(&status_file).unwrap_or(0).max(peak);
                std::thread::sleep(Duration::from_millis(10));
            }
            peak
        });
        let status = child.wait();
        let wall = begun.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        (status, wall, watch.join().unwrap_or(0))
    });
    let status = status.map_err(spawned)?;
    if !status.success() {
        return Err(Error::Program {
            program,
            status,
            output: "run it by hand to see what it says".to_owned(),
        });
    }
    Ok(Cost { wall, cpu: children_cpu() - cpu, peak_kib })
}

/// The most memory that a process had so far (its own, not that of its children).
fn peak_kib(status_file: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status_file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// Processor time of all ended children and their children, in seconds (proc(5): fields 16 and 17 of stat, in clock ticks
/// of 1/100 s).
fn children_cpu() -> f64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/stat") else { return 0.0 };
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(13) + ticks(14)) / 100.0
}
