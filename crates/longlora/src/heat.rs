//! Heat maps at the terminal.

use anyhow::Result;
use longlora_eval::{Answer, HeatMap};
use serde_json::json;

use crate::print;

/// Prints maps, or what they were made of.
pub(crate) fn show(maps: &[HeatMap], answers: &[Answer], as_json: bool) -> Result<()> {
    if as_json {
        print(&serde_json::to_string_pretty(&json!({ "heat_maps": maps, "answers": answers }))?);
        return Ok(());
    }
    for map in maps {
        print(&map.to_text());
    }
    Ok(())
}
