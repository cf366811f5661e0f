//! From a parameter's path in our modules to its name in a checkpoint.

/// A parameter as a checkpoint has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckpointName {
    /// Hugging Face's name, or PEFT's for adapters without its `base_model.model.` prefix.
    pub(crate) name: String,
    /// Whether the file holds the transpose: PyTorch multiplies by `weightᵀ`, burn by `weight`.
    pub(crate) transposed: bool,
}

/// The checkpoint's name of the parameter at `path`, as burn's visitors spell it: `model.norm.gamma`.
pub(crate) fn checkpoint_name(path: &str) -> CheckpointName {
    let path = &feed_forward_name(&base_path(path));
    let (name, transposed) = match path.rsplit_once('.') {
        Some((layer, "gamma")) => (format!("{layer}.weight"), false),
        Some((layer, "lora_a")) => (format!("{}.lora_A.weight", without(layer, "update")), true),
        Some((layer, "lora_b")) => (format!("{}.lora_B.weight", without(layer, "update")), true),
        Some((layer, "magnitude")) => {
            (format!("{}.lora_magnitude_vector", without(layer, "update")), false)
        }
        Some((layer, "weight")) if layer.ends_with(".base") => {
            (format!("{}.weight", without(layer, "base")), true)
        }
        Some((layer, "bias")) if layer.ends_with(".base") => {
            (format!("{}.bias", without(layer, "base")), false)
        }
        Some(("lm_head", "weight")) => (path.to_owned(), true),
        Some((layer, "weight")) if layer.ends_with(".block_sparse_moe.gate") => {
            (path.to_owned(), true)
        }
        _ => (path.to_owned(), false),
    };
    CheckpointName { name, transposed }
}

/// The path without the variants of `Base`, in which the weight of a linear layer is kept.
pub(crate) fn base_path(path: &str) -> String {
    path.replacen(".base.Dense.", ".base.", 1)
        .replacen(".base.Nf4.blocks", ".base.weight", 1)
        .replacen(".base.Nf4.", ".base.", 1)
}

/// The path without the variants of `FeedForward`, and with Mixtral's names of its experts' layers.
fn feed_forward_name(path: &str) -> String {
    let Some((block, experts)) = path.split_once(".mlp.Experts.") else {
        return path.replacen(".mlp.Dense.", ".mlp.", 1);
    };
    let experts = [("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")]
        .iter()
        .fold(experts.to_owned(), |path, (ours, mixtrals)| path.replacen(ours, mixtrals, 1));
    format!("{block}.block_sparse_moe.{experts}")
}

fn without<'a>(layer: &'a str, field: &str) -> &'a str {
    let layer = layer.strip_suffix(field).and_then(|layer| layer.strip_suffix('.'));
    layer.expect("the path ends with the field of a LoRA layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, name: &str, transposed: bool) {
        assert_eq!(checkpoint_name(path), CheckpointName { name: name.to_owned(), transposed });
    }

    #[test]
    fn names_are_those_of_hugging_face_and_peft() {
        check("model.embed_tokens.weight", "model.embed_tokens.weight", false);
        check("model.norm.gamma", "model.norm.weight", false);
        check("lm_head.weight", "lm_head.weight", true);
        let block = "model.layers.11";
        check(
            &format!("{block}.mlp.Dense.up_proj.base.Dense.weight"),
            &format!("{block}.mlp.up_proj.weight"),
            true,
        );
        check(
            &format!("{block}.mlp.Experts.experts.3.down_proj.base.Dense.weight"),
            &format!("{block}.block_sparse_moe.experts.3.w2.weight"),
            true,
        );
        check(
            &format!("{block}.mlp.Experts.gate.weight"),
            &format!("{block}.block_sparse_moe.gate.weight"),
            true,
        );
        let layer = "model.layers.11.self_attn";
        check(&format!("{layer}.q_norm.gamma"), &format!("{layer}.q_norm.weight"), false);
        check(
            &format!("{layer}.q_proj.base.Dense.weight"),
            &format!("{layer}.q_proj.weight"),
            true,
        );
        check(&format!("{layer}.q_proj.base.Dense.bias"), &format!("{layer}.q_proj.bias"), false);
        let weight = format!("{layer}.q_proj.weight");
        check(&format!("{layer}.q_proj.base.Nf4.blocks"), &weight, true);
        check(&format!("{layer}.q_proj.base.Nf4.bias"), &format!("{layer}.q_proj.bias"), false);
        check(
            &format!("{layer}.q_proj.update.lora_a"),
            &format!("{layer}.q_proj.lora_A.weight"),
            true,
        );
        check(
            &format!("{layer}.q_proj.update.magnitude"),
            &format!("{layer}.q_proj.lora_magnitude_vector"),
            false,
        );
        check(&format!("{layer}.rope_offset.delta"), &format!("{layer}.rope_offset.delta"), false);
    }
}
