//! Layers and tiles drop entries of their own.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use longlora_adapters::{AdapterConfig, Dropout, LoraConfig, TargetModule};
use longlora_attention::{AttentionPattern, Layout};
use longlora_llama::{Block, Llama, Pass};
use serde_json::json;

use crate::random::{config, redraw, tokens};

/// A model whose every layer drops half of its input before A.
fn dropping() -> Llama {
    let lora = LoraConfig {
        dropout: 0.5,
        target_modules: TargetModule::ALL.to_vec(),
        ..LoraConfig::default()
    };
    let adapters = AdapterConfig { lora: Some(lora), ..AdapterConfig::longlora() };
    redraw(config(json!({})).init(&Device::default()).attach(&adapters, 0), 3).valid()
}

/// What one block makes of the same hidden states, as layer 0 and tile 0, again, as another layer, and as another tile.
fn outputs(of: impl Fn(Tensor<3>, usize, usize) -> Tensor<3>) -> [TensorData; 4] {
    let entries: Vec<f32> = tokens(7 * 20, 100, 1).iter().map(|&n| n as f32 / 50.0 - 1.0).collect();
    let hidden = Tensor::from_data(TensorData::new(entries, [1, 7, 20]), &Device::default());
    [(0, 0), (0, 0), (1, 0), (0, 1)]
        .map(|(layer, tile)| of(hidden.clone(), layer, tile).into_data())
}

#[test]
fn the_same_block_drops_other_entries_as_another_layer_or_tile() {
    let llama = dropping();
    let block: &Block = &llama.model.layers[0];
    let plain = || llama.pass(AttentionPattern::Full, &Layout::dense(1, 7));
    let attention = |pass: &Pass| outputs(|hidden, layer, _| block.attend(hidden, layer, pass));
    let mlp =
        |pass: &Pass| outputs(|hidden, layer, tile| block.feed_forward(hidden, layer, tile, pass));

    let pass = plain().with_dropout(Dropout::new(3));
    let [first, again, other_layer, _] = attention(&pass);
    assert_eq!(first, again);
    assert_ne!(first, other_layer, "attention");
    let [first, again, other_layer, other_tile] = mlp(&pass);
    assert_eq!(first, again);
    assert_ne!(first, other_layer, "MLP");
    assert_ne!(first, other_tile, "tiles");
    assert_ne!(other_layer, other_tile, "layer 1 and tile 1");

    // Without dropout a block is the same wherever it stands.
    for [first, others @ ..] in [attention(&plain()), mlp(&plain())] {
        assert!(others.iter().all(|other| *other == first));
    }
}
