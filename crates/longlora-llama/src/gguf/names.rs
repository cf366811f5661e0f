//! Hugging Face's names of tensors, and llama.cpp's.

/// Where a tensor lies in a GGUF file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// llama.cpp's name.
    pub(super) name: String,
    /// Which of the stacked experts, if the tensor is one of them.
    pub(super) expert: Option<usize>,
}

/// Names inside a block.
const BLOCK: [(&str, &str); 12] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
];
/// Names of an expert's layers; llama.cpp stacks those of all experts.
const EXPERT: [(&str, &str); 3] =
    [("w1", "ffn_gate_exps"), ("w3", "ffn_up_exps"), ("w2", "ffn_down_exps")];

/// llama.cpp's place of the tensor with Hugging Face's name `name`; `None` if it has none.
pub(super) fn place(name: &str) -> Option<Place> {
    let outside = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = outside {
        return Some(Place { name: name.to_owned(), expert: None });
    }
    let (layer, tensor) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = tensor.rsplit_once('.')?;
    if let Some(expert) = part.strip_prefix("block_sparse_moe.experts.") {
        let (expert, part) = expert.split_once('.')?;
        let (_, part) = EXPERT.iter().find(|(ours, _)| *ours == part)?;
        let name = format!("blk.{layer}.{part}.{kind}");
        return Some(Place { name, expert: Some(expert.parse().ok()?) });
    }
    let (_, part) = BLOCK.iter().find(|(ours, _)| *ours == part)?;
    Some(Place { name: format!("blk.{layer}.{part}.{kind}"), expert: None })
}

/// Whether the tensor is rotated, and llama.cpp's `llama` architecture therefore has its rows in another order.
pub(super) fn is_rotated(name: &str) -> bool {
    [".q_proj.weight", ".q_proj.bias", ".k_proj.weight", ".k_proj.bias"]
        .iter()
        .any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<(&str, Option<usize>)>) {
        let expected = expected.map(|(name, expert)| Place { name: name.to_owned(), expert });
        assert_eq!(place(name), expected);
    }

    #[test]
    fn names_are_those_of_llama_cpp() {
        check("model.embed_tokens.weight", Some(("token_embd.weight", None)));
        check("lm_head.weight", Some(("output.weight", None)));
        check("model.layers.7.self_attn.q_proj.bias", Some(("blk.7.attn_q.bias", None)));
        check("model.layers.7.mlp.down_proj.weight", Some(("blk.7.ffn_down.weight", None)));
        check(
            "model.layers.0.block_sparse_moe.experts.3.w2.weight",
            Some(("blk.0.ffn_down_exps.weight", Some(3))),
        );
        check("model.layers.0.rope_offset.delta", None);
        check("model.layers.0.self_attn.rotary_emb.inv_freq", None);
    }
}
