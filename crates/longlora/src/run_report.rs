//! What a finished run shows and leaves: the table, the report, and where the result is.

use std::path::absolute;

use anyhow::Result;
use burn::tensor::Device;
use longlora_eval::{Cost, LossCurve, PerplexityTable, Report};
use longlora_gguf::is_gguf;
use longlora_llama::{Trainable, WeightStorage};
use longlora_train::{FinetuneConfig, RunFolder, StepReport};

use crate::comparison::Comparison;
use crate::measured_on::read_of;
use crate::places::{command, typed};
use crate::table_plan::TablePlan;
use crate::{print, say};

/// The files of a report.
const FILES: [&str; 3] = ["report.json", "report.md", "report.html"];

/// Whether a whole report is there.
pub(crate) fn has_report(run: &RunFolder) -> bool {
    FILES.iter().all(|name| run.path().join(name).exists())
}

/// The table, on standard output and in a report.
pub(crate) fn finish(
    config: &FinetuneConfig,
    run: &RunFolder,
    plan: &TablePlan,
    trainable: &Trainable,
    (device, place): (&Device, &str),
) -> Result<()> {
    let TablePlan { documents, lengths } = plan;
    let comparison = Comparison::measure(config, run, documents, lengths, device)?;
    let findings = comparison.findings()?;
    let table = comparison.table.to_text();
    let text = read_of(config, documents);
    let facts = facts(config, text, trainable, place);
    let report = report(config, run, comparison.table, findings, trainable, facts)?;
    let [json, markdown, html] = FILES;
    run.write(json, &report.to_json())?;
    run.write(markdown, &report.to_markdown())?;
    run.write(html, &report.to_html()?)?;
    print(&table);
    report.findings.iter().for_each(|finding| print(finding));
    tell_result(config, run, ", the report in report.html beside it");
    // The model that is included finds nothing to begin with.
    if !config.model.path.starts_with(absolute(run.path())?) {
        say(&format!(
            "perplexity does not tell what it still finds; {} does",
            passkeys_of(config, run)
        ));
    }
    Ok(())
}

/// The command that asks for passkeys.
fn passkeys_of(config: &FinetuneConfig, run: &RunFolder) -> String {
    let model = match config.adapters {
        Some(_) => {
            format!("--model {} --adapter {}", typed(&config.model.path), typed(&run.adapter()))
        }
        None => format!("--model {}", typed(&run.model())),
    };
    let weights = match config.model.weights {
        WeightStorage::F32 => String::new(),
        weights => format!(" --weights {weights}"),
    };
    command(&format!("eval passkey {model} --lengths {}{weights}", config.context.length))
}

fn facts(
    config: &FinetuneConfig,
    text: String,
    trainable: &Trainable,
    place: &str,
) -> Vec<(String, String)> {
    let facts = [
        ("model", config.model.path.display().to_string()),
        ("weights, in every row", config.model.weights.to_string()),
        ("data", config.data.path.display().to_string()),
        ("text to measure on", text),
        (
            "trained",
            format!("{} parameters for {} steps", trainable.total(), config.training.steps),
        ),
        ("seed", config.seed.to_string()),
        ("device", place.to_owned()),
        ("longlora", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// All that was measured of a run.
fn report(
    config: &FinetuneConfig,
    run: &RunFolder,
    perplexity: PerplexityTable,
    findings: Vec<String>,
    trainable: &Trainable,
    facts: Vec<(String, String)>,
) -> Result<Report> {
    let steps = run.metrics()?;
    let points = steps.iter().map(|step| (step.step, step.loss)).collect();
    Ok(Report {
        title: format!("{} at {} tokens", config.model.path.display(), config.context.length),
        facts,
        findings,
        perplexity,
        costs: vec![Cost {
            name: "training".to_owned(),
            context: config.context.window(),
            seconds: steps.iter().map(|step| step.step_time_ms / 1000.0).sum(),
            peak_memory_bytes: steps.iter().filter_map(StepReport::memory_bytes).max(),
            trainable: Some(trainable.total() as u64),
        }],
        losses: vec![LossCurve { name: "training".to_owned(), points }],
        ..Report::default()
    })
}

/// Says where the result is, `more` of it, and what Python does not take.
pub(crate) fn tell_result(config: &FinetuneConfig, run: &RunFolder, more: &str) {
    let result = match config.adapters {
        Some(_) => format!("the adapter is in {}", run.adapter().display()),
        None => format!("the model is in {}", run.model().display()),
    };
    say(&format!("{result}{more}"));
    if config.adapters.is_some() && is_gguf(&config.model.path) {
        let convert = command(&format!("convert {} --out DIR", typed(&config.model.path)));
        say(&format!(
            "Python takes no GGUF file as the base of an adapter; `{convert}` makes a folder of it"
        ));
    }
}
