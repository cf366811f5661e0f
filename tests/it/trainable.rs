//! What is trained, counted by hand for LLaMA-2-7B, whose 27 GB of weights are never held.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use longlora_adapters::{
    AdapterConfig, LoraConfig, RopeGranularity, RopeOffsetConfig, TargetModule,
};
use longlora_llama::{Llama, LlamaConfig, Selection, Trainable, count_trainable};
use serde_json::json;

use crate::random::config;

/// LLaMA-2-7B: 6,738,415,616 parameters.
fn llama_2_7b() -> LlamaConfig {
    config(json!({
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": null,
        "max_position_embeddings": 4096,
    }))
}

/// Elements of the parameters that are in memory.
fn held(llama: &Llama) -> usize {
    struct Held(usize);
    impl ModuleVisitor for Held {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_initialized() {
                self.0 += param.lazy_shape().num_elements();
            }
        }
    }
    let mut held = Held(0);
    llama.visit(&mut held);
    held.0
}

/// Attaches `adapters` to a 7B model that has no weights yet.
#[track_caller]
fn check(adapters: &AdapterConfig, expected: Trainable) {
    for device in [Device::default(), Device::default().autodiff()] {
        let llama = llama_2_7b().init(&device).attach(adapters, 0);
        let count = count_trainable(&llama, &Selection::Adapter(adapters.clone()));
        assert_eq!(count, expected);
        assert_eq!(held(&llama), count.lora + count.rope_offsets, "only the new ones are held");
    }
}

#[test]
fn longlora_on_llama_2_7b_trains_what_the_paper_says() {
    let all = 6_738_415_616;
    check(
        &AdapterConfig {
            rope_offset: Some(RopeOffsetConfig::new(RopeGranularity::Head)),
            ..AdapterConfig::longlora()
        },
        Trainable {
            lora: 8_388_608,         // 32 layers · 4 projections · 2 · 4096 · 8
            rope_offsets: 1_024,     // 32 layers · 32 kv heads
            norms: 266_240,          // 65 norms · 4096
            embeddings: 131_072_000, // 32,000 · 4096
            weights: 0,
            frozen: all - 266_240 - 131_072_000,
        },
    );
}

#[test]
fn other_targets_and_granularities_are_counted_too() {
    let lora = LoraConfig {
        rank: 16,
        target_modules: vec![TargetModule::GateProj, TargetModule::DownProj],
        ..LoraConfig::default()
    };
    let offsets = |granularity| Some(RopeOffsetConfig::new(granularity));
    let adapters = AdapterConfig {
        lora: Some(lora),
        norms: false,
        embeddings: false,
        head: false,
        rope_offset: offsets(RopeGranularity::Pair),
    };
    let frozen = Trainable { frozen: 6_738_415_616, ..Trainable::default() };
    let lora = 32 * 2 * (4096 + 11_008) * 16;
    check(&adapters, Trainable { lora, rope_offsets: 32 * 32 * 64, ..frozen });
    let shared = AdapterConfig { rope_offset: offsets(RopeGranularity::Shared), ..adapters };
    check(&shared, Trainable { lora, rope_offsets: 64, ..frozen });
}

#[test]
fn a_model_that_is_trained_whole_is_counted_without_being_drawn() {
    let llama = llama_2_7b().init(&Device::default().autodiff()).train_all();
    let count = count_trainable(&llama, &Selection::Base);
    assert_eq!((count.total(), count.frozen, held(&llama)), (6_738_415_616, 0, 0));
    assert_eq!(count.weights, 6_738_415_616 - 266_240 - 131_072_000);
}

#[test]
fn the_table_groups_digits_and_leaves_out_what_there_is_none_of() {
    let adapters = AdapterConfig::longlora();
    let llama = llama_2_7b().init(&Device::default()).attach(&adapters, 0);
    let table = count_trainable(&llama, &Selection::Adapter(adapters)).to_string();
    let expected = "\
LoRA                 8,388,608    0.124 %
norms                  266,240    0.004 %
embeddings         131,072,000    1.943 %
trained            139,726,848    2.071 %
frozen           6,607,077,376   97.929 %";
    assert_eq!(table, expected);
}
