//! What a run tells while it goes.

use crate::execution::MemoryPlan;
use crate::step_report::StepReport;

/// Something that has just been decided or done.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Before the first step: what will be kept in memory.
    Planned(&'a MemoryPlan),
    /// A step was taken.
    Stepped(&'a StepReport),
}
