//! How long, how fast and in what memory is trained, from the command line.

use std::cmp::Ordering;

use anyhow::{Result, bail, ensure};
use burn::tensor::Device;
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use longlora_train::{Decay, FinetuneConfig, TrainingConfig, WindowOrder};

use crate::device::is_processor;
use crate::size::size;

/// Optimization, and what it may take.
#[derive(Args)]
pub(crate) struct TrainingArgs {
    /// Optimizer steps [default: 1000]
    #[arg(long, value_name = "STEPS", visible_alias = "max-steps")]
    steps: Option<u64>,
    /// Peak learning rate of everything but RoPE offsets [default: 2e-5]
    #[arg(long, value_name = "RATE", visible_alias = "lr")]
    learning_rate: Option<f64>,
    /// Peak learning rate of norms and embeddings [default: that of --learning-rate]
    #[arg(long, value_name = "RATE")]
    embedding_learning_rate: Option<f64>,
    /// What the rates do after the warm-up: stay, as LongLoRA's, or fall to a tenth on half a cosine [default: constant]
    #[arg(long, value_name = "DECAY")]
    decay: Option<DecayKind>,
    /// Peak learning rate of RoPE offsets [default: 1e-4]
    #[arg(long, value_name = "RATE")]
    pub(crate) rope_offset_learning_rate: Option<f64>,
    /// Steps of linear warm-up [default: 20]
    #[arg(long, value_name = "STEPS")]
    warmup_steps: Option<u64>,
    /// Windows per micro-batch [default: 1]
    #[arg(long, value_name = "WINDOWS")]
    batch_size: Option<usize>,
    /// Micro-batches per step [default: 8]
    #[arg(long, value_name = "COUNT", visible_alias = "grad-accum")]
    accumulation: Option<usize>,
    /// Micro-batches that run side by side, each in memory of its own; for processors [default: 1]
    #[arg(long, value_name = "COUNT")]
    parallel: Option<usize>,
    /// Memory that a step may take; the more, the less is computed twice [default: most of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    memory: Option<ByteSize>,
    /// Keep the inputs of blocks in the host's memory between forward and backward; for GPUs
    #[arg(long)]
    offload_activations: bool,
    /// Decoupled weight decay [default: 0]
    #[arg(long, value_name = "DECAY")]
    weight_decay: Option<f64>,
    /// Largest norm of the whole gradient; 0 does not clip [default: 1]
    #[arg(long, value_name = "NORM")]
    max_grad_norm: Option<f64>,
    /// End each text in the tokenizer's end-of-text token, which is learned, too; token ids stay as they are, and conversations end
    /// as the model's chat template says [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    append_eos: Option<bool>,
    /// Take windows as they stand in the text, instead of shuffled
    #[arg(long)]
    sequential: bool,
    /// Steps between checkpoints, which are ten minutes apart at most; 0 saves at the end alone [default: 100]
    #[arg(long, value_name = "STEPS")]
    save_every: Option<u64>,
    /// Every random number follows from it [default: 0]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DecayKind {
    /// The peak, to the end
    Constant,
    /// Down to a tenth of the peak on half a cosine
    Cosine,
}

impl From<DecayKind> for Decay {
    fn from(kind: DecayKind) -> Self {
        match kind {
            DecayKind::Constant => Self::Constant,
            DecayKind::Cosine => Self::Cosine,
        }
    }
}

impl TrainingArgs {
    /// What would change nothing on a device. A GPU takes one micro-batch at a time, and the processor keeps what it has where
    /// it is, whatever the settings of a run that may have begun elsewhere: only who asks for more is told.
    pub(crate) fn refuse_unsuitable(&self, device: &Device) -> Result<()> {
        match self.parallel {
            _ if is_processor(device) => ensure!(
                !self.offload_activations,
                "--offload-activations keeps activations in the host's memory; on `flex` they are there already, so leave \
                 it out, or name a GPU with --device"
            ),
            Some(parallel) if parallel > 1 => bail!(
                "--parallel `{parallel}` runs micro-batches side by side on the cores of a processor; on a GPU give a \
                 larger --batch-size instead"
            ),
            _ => {}
        }
        Ok(())
    }

    /// What may change between two parts of a run: its numbers do not depend on it.
    pub(crate) fn change(&self, training: &mut TrainingConfig) {
        training.memory = self.memory.or(training.memory);
        training.save_every = self.save_every.unwrap_or(training.save_every);
    }

    /// What is not said stays as it is.
    pub(crate) fn apply(&self, config: &mut FinetuneConfig) {
        config.seed = self.seed.unwrap_or(config.seed);
        config.data.append_eos = self.append_eos.unwrap_or(config.data.append_eos);
        if self.sequential {
            config.data.order = WindowOrder::Sequential;
        }
        self.change(&mut config.training);
        let training = &mut config.training;
        training.steps = self.steps.unwrap_or(training.steps);
        training.warmup_steps = self.warmup_steps.unwrap_or(training.warmup_steps);
        training.batch_size = self.batch_size.unwrap_or(training.batch_size);
        training.accumulation = self.accumulation.unwrap_or(training.accumulation);
        training.parallel = self.parallel.unwrap_or(training.parallel);
        training.offload_activations |= self.offload_activations;
        training.weight_decay = self.weight_decay.unwrap_or(training.weight_decay);
        training.max_grad_norm = self.max_grad_norm.unwrap_or(training.max_grad_norm);
        training.decay = self.decay.map_or(training.decay, Decay::from);
        let rates = &mut training.learning_rates;
        rates.lora = self.learning_rate.unwrap_or(rates.lora);
        let of_tables = self.embedding_learning_rate.or(self.learning_rate);
        rates.norms_and_embeddings = of_tables.unwrap_or(rates.norms_and_embeddings);
        rates.rope_offsets = self.rope_offset_learning_rate.unwrap_or(rates.rope_offsets);
    }
}

/// What is to be said of a warm-up that takes the whole run.
pub(crate) fn long_warm_up(training: &TrainingConfig) -> Option<String> {
    let (warm_up, steps) = (training.warmup_steps, training.steps);
    let peak = match warm_up.cmp(&steps) {
        Ordering::Less => return None,
        Ordering::Equal => "reaches its peak in the last step alone",
        Ordering::Greater => "never reaches its peak",
    };
    Some(format!(
        "the warm-up takes {warm_up} steps and the run has {steps}, so the learning rate {peak}; give fewer --warmup-steps, or \
         more --steps"
    ))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        training: TrainingArgs,
    }

    #[test]
    fn a_warm_up_that_takes_the_whole_run_is_told() {
        let warning = |warmup_steps| {
            let training = TrainingConfig { steps: 8, warmup_steps, ..TrainingConfig::default() };
            long_warm_up(&training).unwrap_or_default()
        };
        assert_eq!([0, 7].map(warning), ["", ""]);
        assert!(warning(8).contains("8 steps and the run has 8") && warning(8).contains("alone"));
        assert!(warning(20).contains("takes 20 steps") && warning(20).contains("never reaches"));
    }

    #[test]
    fn help_tells_the_defaults_of_the_recipe() {
        let config = FinetuneConfig::longlora("model".into(), "data".into(), 8);
        let training = &config.training;
        let rates = &training.learning_rates;
        assert!(rates.lora == rates.norms_and_embeddings);
        let program = Program::command();
        let check = |option: &str, default: &str| {
            let arg = program.get_arguments().find(|arg| arg.get_id() == option).unwrap();
            let help = arg.get_help().unwrap().to_string();
            assert!(help.ends_with(&format!("[default: {default}]")), "{option}: {help}");
        };
        check("steps", &training.steps.to_string());
        check("learning_rate", &format!("{:e}", rates.lora));
        check("rope_offset_learning_rate", &format!("{:e}", rates.rope_offsets));
        check("warmup_steps", &training.warmup_steps.to_string());
        check("batch_size", &training.batch_size.to_string());
        check("accumulation", &training.accumulation.to_string());
        check("parallel", &training.parallel.to_string());
        check("weight_decay", &training.weight_decay.to_string());
        check("max_grad_norm", &training.max_grad_norm.to_string());
        check("save_every", &training.save_every.to_string());
        check("append_eos", &config.data.append_eos.to_string());
        check("seed", &config.seed.to_string());
    }
}
