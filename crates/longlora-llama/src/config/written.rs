//! The way back: what `config.json` says of a model whose fields may have changed since it was read.

use serde_json::{Map, Value, json};

use super::LlamaConfig;

/// Keys of `config.json`, and what the public fields say under them.
pub(super) type Fields = Vec<(&'static str, Value)>;

impl LlamaConfig {
    /// The contents of a `config.json` that says the same: as it was read, but for the fields that have changed since, and
    /// for the RoPE parameters.
    ///
    /// Biases, norms of heads and sliding windows follow from the family or from several keys at once, and stay what they
    /// were read as.
    pub fn to_hugging_face(&self) -> Map<String, Value> {
        let mut config = self.hugging_face.clone();
        let now = self.fields().into_iter();
        let changed = now.filter(|field| !self.as_read.contains(field));
        config.extend(changed.map(|(key, value)| (key.to_owned(), value)));
        self.rope.write_hugging_face(&mut config);
        config
    }

    /// Everything that has a key of its own, beside RoPE.
    pub(super) fn fields(&self) -> Fields {
        let experts = self.experts.iter().flat_map(|experts| {
            [
                ("num_local_experts", json!(experts.count)),
                ("num_experts_per_tok", json!(experts.per_token)),
            ]
        });
        let eos_token_id = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        let fields = [
            ("model_type", json!(self.model_type)),
            ("hidden_size", json!(self.hidden_size)),
            ("intermediate_size", json!(self.intermediate_size)),
            ("num_hidden_layers", json!(self.num_hidden_layers)),
            ("num_attention_heads", json!(self.num_attention_heads)),
            ("num_key_value_heads", json!(self.num_key_value_heads)),
            ("head_dim", json!(self.rope.head_dim)),
            ("vocab_size", json!(self.vocab_size)),
            ("rms_norm_eps", json!(self.rms_norm_eps)),
            ("tie_word_embeddings", json!(self.tie_word_embeddings)),
            ("bos_token_id", json!(self.bos_token_id)),
            ("eos_token_id", eos_token_id),
        ];
        fields.into_iter().chain(experts).collect()
    }
}
