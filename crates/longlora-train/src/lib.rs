//! Training by LongLoRA's recipe, within a budget of memory: that of one block at least.
//!
//! ```text
//! step:  block 0 ─► block 1 ─► … ─► norm ─► head + loss, in chunks      forward; of each block its input is kept, or its graph
//!        block 0 ◄─ block 1 ◄─ … ◄─ norm ◄─ gradient by hidden states   one block at a time; without a graph, recomputed
//! then:  clip by the global norm ─► AdamW by group ─► metrics, checkpoint
//! ```
//!
//! [`finetune()`] is the whole run, in reading order. [`Trainee`] is its step as burn-train's `TrainStep`, so burn's own
//! learner can drive it, too.

mod error;
mod document_counts;
mod event;
mod execution;
mod rope_target;
mod config;
mod evaluation;
mod batch;
mod step_output;
mod row_gradient;
mod step_gradients;
mod trainee;
mod gradients;
pub mod reference;
mod clip;
mod row_adam_w;
mod optimizer;
mod schedule;
mod kept_input;
mod memory;
mod rehearsal;
mod stop;
mod checkpoint;
mod step_report;
mod folder_lock;
mod run_folder;
mod session;
mod text;
mod finetune;
mod pretrain;
#[cfg(test)]
mod testing;

pub use batch::StepBatch;
pub use checkpoint::Checkpoint;
pub use clip::clip_by_global_norm;
pub use config::{
    DataConfig, FinetuneConfig, HeldOut, LearningRates, ModelConfig, TrainingConfig, WindowOrder,
};
pub use document_counts::DocumentCounts;
pub use error::TrainError;
pub use evaluation::EvaluationConfig;
pub use event::{Event, Reading};
pub use execution::{Execution, MemoryPlan};
pub use finetune::{finetune, preview, resume};
pub use folder_lock::FolderLock;
pub use kept_input::InputsWait;
pub use memory::{device_memory_held, peak_memory_bytes};
pub use optimizer::Optimizer;
pub use pretrain::{ModelSizes, PretrainConfig, pretrain};
pub use rehearsal::Rehearsal;
pub use rope_target::RopeTarget;
pub use row_adam_w::RowAdamW;
pub use row_gradient::RowGradient;
pub use run_folder::{HashedFile, Manifest, RunFolder};
pub use schedule::{Decay, Schedule};
pub use session::Outcome;
pub use step_output::StepOutput;
pub use step_report::StepReport;
pub use stop::Stop;
pub use text::{HeldOutText, held_out_documents, note_held_out};
pub use trainee::Trainee;
