//! Models by their Hugging Face name, fetched when a command is told so.
