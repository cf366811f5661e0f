//! What a chat template is told beside the conversation.

use serde_json::{Map, Value};

/// By their names.
pub(crate) type TemplateArguments = Map<String, Value>;

/// From the command line.
pub(crate) fn template_arguments(text: &str) -> Result<TemplateArguments, String> {
    serde_json::from_str(text).map_err(|error| {
        format!("it is no JSON object ({error}); give one such as '{{\"enable_thinking\": false}}'")
    })
}
