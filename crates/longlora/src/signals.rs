//! Ctrl-C, and what else asks a program to end.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Signals so close to each other are one: `timeout` and terminals that are closed tell a process and its group.
const ONE: Duration = Duration::from_secs(1);

/// Calls `work` at Ctrl-C, SIGTERM and SIGHUP, the last one unless `nohup` has the program pass it over.
pub(crate) fn listen(mut work: impl FnMut() + Send + 'static) -> Result<()> {
    let last: Mutex<Option<Instant>> = Mutex::new(None);
    let once = move || {
        let mut last = last.lock().expect("nobody panics with it");
        let is_the_same = last.is_some_and(|last| last.elapsed() < ONE);
        *last = Some(Instant::now());
        drop(last);
        if !is_the_same {
            work();
        }
    };
    hear(once).context("cannot listen for Ctrl-C")
}

#[cfg(unix)]
fn hear(mut work: impl FnMut() + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut heard = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        heard.push(SIGHUP);
    }
    let mut signals = Signals::new(heard)?;
    let name = std::thread::Builder::new().name("signals".into());
    name.spawn(move || signals.forever().for_each(|_| work())).map(drop)
}

/// As Linux tells it; elsewhere nothing is known of it.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(not(unix))]
fn hear(work: impl FnMut() + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(work)
}

/// Asks another process to end.
pub(crate) fn terminate(process: u32) {
    #[cfg(unix)]
    {
        // Whether it hears is its own affair.
        let _ = std::process::Command::new("kill").args(["-TERM", &process.to_string()]).status();
    }
    #[cfg(not(unix))]
    let _ = process; // Ctrl-C has reached it, too: there is no other signal
}
