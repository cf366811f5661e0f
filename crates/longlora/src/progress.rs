//! How far a long job has come: a bar on a terminal, plain lines in a pipe.

use std::io::IsTerminal;
use std::process::exit;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use longlora_train::{Event, StepReport, Stop};

use crate::{say, signals};

/// Seconds between plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Progress of one job.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
    first_step: Option<u64>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}")
                .expect("the template is well-formed");
            ProgressBar::new(1).with_style(style)
        });
        Self { bar, started: Instant::now(), last_line: Instant::now(), first_step: None }
    }

    /// What a run has to tell.
    pub(crate) fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Resumed { step, taken } => say(&resumed(step, taken)),
            Event::Reading(reading) => say(&reading.to_string()),
            Event::Planned(plan) => {
                say(&plan.to_string());
                if plan.budget.is_none() {
                    say("--memory names it, too");
                }
                if !plan.fits() {
                    say(
                        "this may be more than there is; a shorter context or a smaller batch takes less",
                    );
                }
            }
            Event::Stepped(step) => self.step(step),
        }
    }

    /// After an optimizer step.
    fn step(&mut self, report: &StepReport) {
        let first = *self.first_step.get_or_insert(report.step);
        let taken = report.step + 1 - first;
        let each = self.started.elapsed().as_secs_f64() / taken as f64;
        let memory = match (report.device_memory_bytes, report.peak_memory_bytes) {
            (Some(held), _) => format!("  {} MiB on the GPU", held >> 20),
            (None, Some(peak)) => format!("  peak {} MiB", peak >> 20),
            (None, None) => String::new(),
        };
        let message = format!(
            "loss {:.4}  {:.0} tokens/s  {} of training left{memory}",
            report.loss,
            report.tokens_per_second(),
            duration(each * (report.steps - report.step) as f64),
        );
        self.show(report.step, report.steps, "step", &message);
    }

    /// Whether a step was taken.
    pub(crate) fn has_stepped(&self) -> bool {
        self.first_step.is_some()
    }

    /// After a window of a measurement; a table has several measurements, so what is left is said to be of this one.
    pub(crate) fn window(&mut self, what: &str, done: usize, all: usize) {
        let left = of_these_left(self.started.elapsed(), done, all);
        self.show(done as u64, all as u64, "window", &format!("{what}{left}"));
    }

    /// After a part of an exam, of which some may have been answered before.
    pub(crate) fn part(&mut self, what: &str, done: usize, all: usize) {
        self.show(done as u64, all as u64, "window", what);
    }

    fn show(&mut self, done: u64, all: u64, unit: &str, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done);
            bar.set_message(message.to_owned());
            return;
        }
        if self.last_line.elapsed() >= LINE_INTERVAL || done == all {
            say(&format!("{unit} {done}/{all}  {message}"));
            self.last_line = Instant::now();
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// From where a run goes on, and what that costs.
fn resumed(step: u64, taken: u64) -> String {
    let from = match step {
        0 => "no checkpoint was saved, so the run begins anew".to_owned(),
        step => format!("going on after step {step}, the last that was saved"),
    };
    match taken.saturating_sub(step) {
        0 => from,
        lost => format!("{from}; {lost} steps that were taken since are taken again"),
    }
}

/// What Ctrl-C does to a training.
#[derive(Clone, Default)]
pub(crate) struct CtrlC {
    /// Asked for by the first one.
    pub(crate) stop: Stop,
    /// What is said from then on.
    over: Arc<OnceLock<String>>,
}

impl CtrlC {
    /// From here on the first Ctrl-C asks to stop, and the second one ends the program at once.
    pub(crate) fn listen() -> Result<Self> {
        let ours = Self::default();
        let handler = ours.clone();
        signals::listen(move || {
            if let Some(words) = handler.over.get() {
                say(words);
                exit(1);
            }
            if handler.stop.requested() {
                say("stopped at once; the last checkpoint, if there is one, is whole");
                exit(1);
            }
            say("stopping after this step; once more to stop at once");
            handler.stop.request();
        })?;
        Ok(ours)
    }

    /// There is no step left to finish: the next Ctrl-C ends the program with these words.
    pub(crate) fn training_is_over(&self, words: String) {
        // It is over once.
        let _ = self.over.set(words);
    }
}

/// How long the rest takes, if it goes on as before.
fn of_these_left(elapsed: Duration, done: usize, all: usize) -> String {
    if done == 0 || done >= all {
        return String::new();
    }
    let seconds = elapsed.as_secs_f64() / done as f64 * (all - done) as f64;
    format!("  {} of these left", duration(seconds))
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_while_something_is() {
        let left = |done| of_these_left(Duration::from_secs(30), done, 12);
        assert_eq!(left(4), "  1 min 00 s of these left");
        assert_eq!(left(10), "  6 s of these left");
        assert_eq!([0, 12].map(left), ["", ""]);
    }
}
