//! Our files in other programs: PEFT, transformers and llama.cpp have to read them as we do.
//!
//! Models are trained for a few steps, exported in every way, and read by each program in a virtual environment from the
//! ordinary package index. The same number of tokens, the same loss on a page, the same greedy text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::build::Build;
use crate::device::Device;
use crate::workspace::Workspace;
use crate::{models, python};

/// Tokens that are written.
const NEW_TOKENS: &str = "24";
/// Bytes of the page.
const PAGE: usize = 1500;
/// Largest difference of two losses in nats: both sum thousands of products in f32, in another order each.
const MAX_DIFFERENCE: f64 = 1e-4;
/// The same for llama.cpp, which rounds activations on the way.
const MAX_LLAMA_DIFFERENCE: f64 = 3e-3;

/// What one program made of one form of the model.
struct Reading {
    program: &'static str,
    form: &'static str,
    nll: f64,
    continuation: String,
    tokens: usize,
}

/// A base and an adapter that was trained on it here.
struct Adapted {
    form: &'static str,
    base: PathBuf,
    adapter: PathBuf,
}

/// Trains, exports, reads everywhere, compares, prints a table.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    models::run()?;
    let sh = Shell::new()?;
    let workspace = Workspace::read(&sh)?;
    let bench = Bench::new(&sh, &workspace)?;
    let smollm2 = workspace.root.join("models/SmolLM2-135M-Instruct");
    let short = ["--context-length", "256", "--learning-rate", "1e-3", "--warmup-steps", "0"];
    let train = |form, options: &[&str]| bench.train(form, &smollm2, &[&short, options].concat());

    let alone = ["--rope-offset", "none", "--train-embed", "false", "--train-norm", "false"];
    let lora = train("LoRA", &alone)?;
    let plus = train("LoRA, norms, embeddings", &["--rope-offset", "none"])?;
    let shared = ["--rope-offset", "shared", "--rope-offset-learning-rate", "0.05"];
    let offsets = train("shared RoPE offsets", &shared)?;
    let included = workspace.root.join("assets/model");
    let longer = ["--context-length", "1024", "--rope-scaling", "yarn", "--rope-offset", "none"];
    let yarn = bench.train("included model, YaRN", &included, &longer)?;

    let mut rows = vec![];
    for (model, peft_has_it) in [(&lora, true), (&plus, true), (&offsets, false), (&yarn, false)] {
        let mut readings = vec![bench.ours(model)?];
        if peft_has_it {
            readings.push(bench.python("peft", model.form, &[&model.base, &model.adapter])?);
        }
        let merged = bench.export(model, "folder")?;
        readings.push(bench.python("transformers", model.form, &[&merged])?);
        let gguf = bench.export(model, "gguf")?;
        readings.push(bench.python("llama", model.form, &[&gguf])?);
        rows.push(readings);
    }
    report(&rows)
}

struct Bench<'a> {
    sh: &'a Shell,
    root: &'a Path,
    program: PathBuf,
    python: PathBuf,
    work: PathBuf,
    page: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(sh: &'a Shell, workspace: &'a Workspace) -> anyhow::Result<Self> {
        let root = &workspace.root;
        let program = Build::new(sh, workspace, Device::default())?.program(sh, workspace)?;
        let folder = workspace.target_directory.join("interop");
        let requirements = root.join("tests/interop/requirements.txt");
        let python = python::environment(sh, &requirements, &folder.join("venv")).context(
            "llama-cpp-python is compiled here: that needs a C++ compiler and some minutes",
        )?;
        let work = folder.join("work");
        sh.remove_path(&work)?;
        sh.create_dir(&work)?;
        let page = work.join("page.txt");
        let text = sh.read_file(root.join("assets/text/held-out/austen_persuasion.txt"))?;
        let end = (0..=PAGE).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        sh.write_file(&page, text[..end].trim_end())?;
        Ok(Self { sh, root, program, python, work, page })
    }

    /// A few steps: enough to be seen.
    fn train(&self, form: &'static str, base: &Path, options: &[&str]) -> anyhow::Result<Adapted> {
        let Self { sh, program, root, .. } = self;
        let (data, out) = (root.join("assets/text/train"), self.work.join(file_name(form)));
        let few = "--steps 4 --batch-size 1 --accumulation 1 --no-eval".split(' ');
        cmd!(
            sh,
            "{program} finetune --model {base} --data {data} --out {out} {few...} {options...}"
        )
        .run()?;
        Ok(Adapted { form, base: base.to_owned(), adapter: out.join("adapter") })
    }

    fn export(&self, model: &Adapted, extension: &str) -> anyhow::Result<PathBuf> {
        let (Self { sh, program, .. }, Adapted { form, base, adapter }) = (self, model);
        let out = self.work.join(format!("{}.{extension}", file_name(form)));
        cmd!(sh, "{program} export --model {base} --adapter {adapter} --out {out} --dtype f32")
            .run()?;
        Ok(out)
    }

    /// What our own program makes of the base with an adapter, by our own tokenizer.
    fn ours(&self, model: &Adapted) -> anyhow::Result<Reading> {
        let (Self { sh, program, page, .. }, Adapted { form, base, adapter }) = (self, model);
        let model =
            ["--model".as_ref(), base.as_os_str(), "--adapter".as_ref(), adapter.as_os_str()];
        let length = self.tokens_of_page(base)?.to_string();
        let how = ["--lengths", &length, "--json"];
        let measured =
            cmd!(sh, "{program} eval perplexity {model...} --data {page} {how...}").read()?;
        let measured: Value = serde_json::from_str(&measured)?;
        let cell = &measured["rows"][0]["cells"][&length];
        let number =
            |key: &str| cell[key].as_f64().with_context(|| format!("no `{key}` in {cell}"));
        let how = ["--max-new-tokens", NEW_TOKENS, "--temperature", "0"];
        let text =
            cmd!(sh, "{program} generate {model...} --prompt-file {page} {how...}").read()?;
        let prompt = sh.read_file(page)?;
        let continuation = text.strip_prefix(&prompt).unwrap_or(&text).to_owned();
        let (nll_sum, scored) = (number("nll_sum")?, number("tokens")?);
        let (nll, tokens) = (nll_sum / scored, scored as usize + 1);
        Ok(Reading { program: "longlora", form, nll, continuation, tokens })
    }

    /// As transformers counts them, with the model's tokenizer.
    fn tokens_of_page(&self, model: &Path) -> anyhow::Result<usize> {
        let Self { sh, python, page, .. } = self;
        let count = "import sys, transformers as t; \
                     print(len(t.AutoTokenizer.from_pretrained(sys.argv[1])(open(sys.argv[2]).read()).input_ids))";
        let count =
            cmd!(sh, "{python} -c {count} {model} {page}").ignore_stderr().quiet().read()?;
        Ok(count.trim().parse()?)
    }

    fn python(
        &self,
        program: &'static str,
        form: &'static str,
        paths: &[&PathBuf],
    ) -> anyhow::Result<Reading> {
        let Self { sh, python, page, root, .. } = self;
        let script = root.join("tests/interop/compute.py");
        let said = cmd!(sh, "{python} {script} {program} {paths...} {page} {NEW_TOKENS}")
            .ignore_stderr()
            .read()?;
        let last = said.lines().last().context("the script said nothing")?;
        let said: Value = serde_json::from_str(last)?;
        Ok(Reading {
            program,
            form,
            nll: said["nll"].as_f64().context("no `nll`")?,
            continuation: said["continuation"].as_str().context("no `continuation`")?.to_owned(),
            tokens: said["ids"].as_array().context("no `ids`")?.len(),
        })
    }
}

fn file_name(form: &str) -> String {
    form.replace([' ', ','], "_")
}

#[expect(clippy::print_stdout, reason = "this is the result")]
fn report(rows: &[Vec<Reading>]) -> anyhow::Result<ExitCode> {
    println!("| model | program | nats per token | off by | greedy text |");
    println!("| --- | --- | ---: | ---: | --- |");
    let mut wrong = vec![];
    for readings in rows {
        let ours = &readings[0];
        for reading in readings {
            let off = (reading.nll - ours.nll).abs();
            let limit =
                if reading.program == "llama" { MAX_LLAMA_DIFFERENCE } else { MAX_DIFFERENCE };
            let same = reading.continuation.trim() == ours.continuation.trim();
            if off > limit || !same || reading.tokens != ours.tokens {
                wrong.push(format!(
                    "{} reads `{}` otherwise: {:?}",
                    reading.program, reading.form, reading.continuation
                ));
            }
            println!(
                "| {} | {} | {:.6} | {off:.1e} | {} |",
                reading.form,
                reading.program,
                reading.nll,
                if same { "the same" } else { "ANOTHER" },
            );
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(ExitCode::SUCCESS)
}
