//! Writing with a cache is writing without one; streaming is what its definition says.

use std::ops::ControlFlow;

use burn::module::Param;
use burn::tensor::{Device, Int, Tensor, TensorData};
use longlora_adapters::{
    AdapterConfig, LoraConfig, RopeGranularity, RopeOffsetConfig, Rotary, TargetModule,
};
use longlora_attention::{AttentionPattern, Layout, Segments, reference as attention};
use longlora_llama::{
    CacheKind, GenerateOptions, Generated, Llama, LlamaConfig, Sampling, StopReason, Streaming,
    load_pretrained, reference,
};
use serde_json::{Value, json};

use crate::fixture::golden;
use crate::random::{config, redraw, tokens};

const VOCAB: usize = 37;

fn model(changes: Value, seed: u64) -> Llama {
    redraw(config(changes).init(&Device::flex()), seed)
}

/// A model with a LoRA on every projection and offsets, none of them zero.
fn adapted(changes: Value, granularity: RopeGranularity, seed: u64) -> Llama {
    let lora = LoraConfig { target_modules: TargetModule::ALL.to_vec(), ..LoraConfig::default() };
    let adapters = AdapterConfig {
        lora: Some(lora),
        rope_offset: Some(RopeOffsetConfig::new(granularity)),
        norms: false,
        embeddings: false,
        head: false,
    };
    redraw(config(changes).init(&Device::flex()).attach(&adapters, 1), seed)
}

/// Every kind of scaling, pre-trained on 8 tokens, so that a short text is long.
fn rope_kinds() -> Vec<Value> {
    let scaled = |scaling: Value| json!({ "max_position_embeddings": 32, "rope_scaling": scaling });
    vec![
        json!({}),
        scaled(json!({ "rope_type": "linear", "factor": 4.0 })),
        json!({
            "max_position_embeddings": 8,
            "rope_scaling": { "rope_type": "dynamic", "factor": 4.0 },
        }),
        scaled(json!({
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8,
        })),
        json!({
            "max_position_embeddings": 32,
            "original_max_position_embeddings": 8,
            "rope_scaling": {
                "rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [1.5, 3.0],
            },
        }),
        scaled(json!({
            "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        })),
    ]
}

fn warm(seed: u64) -> Sampling {
    Sampling {
        temperature: 0.9,
        top_k: Some(20),
        top_p: Some(0.95),
        repetition_penalty: 1.1,
        seed,
        ..Sampling::default()
    }
}

fn go_on(_: u32) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[track_caller]
fn check(llama: &Llama, what: &str) {
    check_after(&tokens(11, VOCAB, 4), llama, what);
}

/// Greedily and by draws, in chunks of every size, with and without a window.
#[track_caller]
fn check_after(prompt: &[u32], llama: &Llama, what: &str) {
    for (i, sampling) in [Sampling::default(), warm(7)].into_iter().enumerate() {
        for (window, chunk) in [(None, 1), (None, 4), (None, 512), (Some(5), 3), (Some(5), 512)] {
            let options = GenerateOptions {
                max_new_tokens: 14,
                sampling: sampling.clone(),
                window,
                prefill_chunk: chunk,
                ..GenerateOptions::default()
            };
            let ours = llama.generate(prompt, &options, go_on);
            let theirs = reference::generate(llama, prompt, &options, go_on);
            assert_eq!(ours, theirs, "{what}, sampling {i}, window {window:?}, chunks of {chunk}");
            assert_eq!(ours.ids.len(), 14);
        }
    }
}

#[test]
fn writing_with_a_cache_is_writing_without_one_under_every_rope() {
    for (seed, changes) in rope_kinds().into_iter().enumerate() {
        check(&model(changes.clone(), seed as u64), &changes.to_string());
    }
}

/// Dynamic and longrope change their frequencies behind 8 tokens; dynamic does so again and again.
#[test]
fn a_text_that_outgrows_its_frequencies_is_read_again() {
    for (seed, changes) in [2, 4].map(|kind| (kind as u64, rope_kinds()[kind].clone())) {
        let llama = model(changes.clone(), seed);
        check_after(&tokens(5, VOCAB, 4), &llama, &changes.to_string());
        let options = GenerateOptions { max_new_tokens: 700, ..GenerateOptions::default() };
        let ours = llama.generate(&tokens(3, VOCAB, 4), &options, go_on);
        let theirs = reference::generate(&llama, &tokens(3, VOCAB, 4), &options, go_on);
        assert_eq!(ours, theirs, "{changes}");
    }
}

#[test]
fn how_long_a_text_may_become_does_not_change_its_beginning() {
    for changes in rope_kinds() {
        let llama = model(changes.clone(), 3);
        let [short, long] = [5, 5000].map(|max_new_tokens| {
            let options = GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
            let mut left = 5;
            let generated = llama.generate(&tokens(3, VOCAB, 4), &options, |_| {
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            generated.ids
        });
        assert_eq!(short, long, "{changes}");
    }
}

#[test]
fn writing_with_a_cache_is_writing_without_one_whatever_the_heads() {
    for heads in [json!({"num_key_value_heads": 6}), json!({"num_key_value_heads": 1})] {
        check(&model(heads.clone(), 3), &heads.to_string());
    }
    check(&model(json!({"tie_word_embeddings": true}), 4), "a tied head");
}

#[test]
fn writing_with_a_cache_is_writing_without_one_with_an_adapter_and_with_it_merged() {
    let granularities = [RopeGranularity::Head, RopeGranularity::Pair, RopeGranularity::Shared];
    for (seed, granularity) in granularities.into_iter().enumerate() {
        for changes in [json!({}), rope_kinds()[2].clone()] {
            let llama = adapted(changes, granularity, seed as u64);
            check(&llama, &format!("{granularity}, attached"));
            check(&llama.merge(), &format!("{granularity}, merged"));
        }
    }
}

/// Prompts shorter and longer than the 12 tokens of Mistral's window.
#[test]
fn writing_with_a_cache_is_writing_without_one_in_every_family() {
    for family in ["llama_tied", "mistral_window", "mixtral", "qwen2", "qwen3"] {
        let folder = golden(&format!("families/{family}"));
        let mut llama = load_pretrained(&folder, &Device::flex()).unwrap();
        llama.config.eos_token_ids.clear();
        for length in [3, 30] {
            check_after(&tokens(length, VOCAB, 4), &llama, family);
        }
        if family == "mistral_window" {
            assert_eq!(llama.config.windows, [Some(12); 2]);
            check_windows_count(&llama, &tokens(30, VOCAB, 4));
        }
    }
}

/// Without its windows a model writes something else: that both ways agree is no tautology.
#[track_caller]
fn check_windows_count(llama: &Llama, prompt: &[u32]) {
    let mut wide = llama.clone();
    wide.config.windows.fill(None);
    let [ours, theirs] =
        [llama, &wide].map(|llama| llama.generate(prompt, &GenerateOptions::default(), go_on));
    assert_ne!(ours, theirs, "{:?}", llama.config.windows);
}

#[test]
fn writing_with_a_cache_is_writing_without_one_when_some_layers_have_a_window() {
    let qwen = |changes: Value| {
        let mut all = json!({ "model_type": "qwen2", "use_sliding_window": true });
        let fields = all.as_object_mut().unwrap();
        fields.insert("sliding_window".to_owned(), 5.into());
        fields.extend(changes.as_object().unwrap().clone());
        all
    };
    let types = json!(["sliding_attention", "full_attention", "sliding_attention"]);
    for (changes, windows) in [
        (json!({ "max_window_layers": 1 }), [None, Some(5), Some(5)]),
        (json!({ "max_window_layers": 2 }), [None, None, Some(5)]),
        (json!({ "layer_types": types }), [Some(5), None, Some(5)]),
    ] {
        let llama = model(qwen(changes), 6);
        assert_eq!(llama.config.windows, windows);
        let prompt = tokens(20, VOCAB, 4);
        check_after(&prompt, &llama, &format!("{windows:?}"));
        check_windows_count(&llama, &prompt);
    }
}

/// The state behind the tokens, whose entries go up to 3.5. This random model is steep, at some tokens more than at others:
/// so each is held to what one unit in the last place of the embeddings does to it. Measured: 1.53 times as much.
#[test]
fn a_cached_hidden_state_is_the_uncached_one() {
    let llama = adapted(json!({}), RopeGranularity::Head, 5);
    let text = tokens(300, VOCAB, 6);
    let whole = hidden(&llama, &text);
    let disturbed: Vec<Vec<f32>> = (1..=8)
        .map(|seed| {
            let mut llama = llama.clone();
            let table = &mut llama.model.embed_tokens.weight;
            *table = Param::from_tensor(moved_by_a_unit(table.val(), seed));
            hidden(&llama, &text)
        })
        .collect();
    let mut cache = llama.cache(CacheKind::Whole { length: 300, window: None });
    for (i, &id) in text.iter().enumerate() {
        let ours: Vec<f32> = llama.advance(&[id], &mut cache).into_data().iter().collect();
        let entries = i * 20..(i + 1) * 20;
        let error = largest_difference(&ours, &whole[entries.clone()]);
        let steep = disturbed
            .iter()
            .map(|other| largest_difference(&other[entries.clone()], &whole[entries.clone()]))
            .fold(0.0, f32::max);
        assert!(error <= 3.0 * steep, "token {i}: off by {error:e}, and {steep:e} by a unit");
    }
    assert_eq!(cache.tokens(), text);
}

/// Of all tokens at once.
fn hidden(llama: &Llama, text: &[u32]) -> Vec<f32> {
    let ids: Vec<i64> = text.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, text.len()]), &llama.device());
    let pass = llama.pass(AttentionPattern::Full, &Layout::dense(1, text.len()));
    llama.hidden(ids, &pass).into_data().iter().collect()
}

/// About half of the entries one unit in the last place further from zero.
fn moved_by_a_unit(table: Tensor<2>, seed: u32) -> Tensor<2> {
    let (shape, device) = (table.dims(), table.device());
    let entries: Vec<f32> = table.into_data().iter().collect();
    let moves = tokens(entries.len(), 2, seed.into());
    let moved = entries.iter().zip(moves).map(|(x, by)| f32::from_bits(x.to_bits() + by));
    Tensor::from_data(TensorData::new(moved.collect::<Vec<f32>>(), shape), &device)
}

fn largest_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs());
    // Unlike `f32::max`, this keeps a NaN.
    differences.fold(0.0, |error, x| if x > error || x.is_nan() { x } else { error })
}

#[test]
fn writing_ends_with_the_text_with_the_length_or_when_told_to() {
    let mut llama = model(json!({}), 13);
    let prompt = tokens(7, VOCAB, 8);
    let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let whole = llama.generate(&prompt, &options, go_on);
    assert_eq!(whole.stop, StopReason::Length);

    let none = GenerateOptions { max_new_tokens: 0, ..GenerateOptions::default() };
    let nothing = Generated { ids: vec![], stop: StopReason::Length };
    assert_eq!(llama.generate(&prompt, &none, go_on), nothing);

    let mut seen = vec![];
    let stopped = llama.generate(&prompt, &options, |id| {
        seen.push(id);
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped, Generated { ids: whole.ids[..3].to_vec(), stop: StopReason::Stopped });
    assert_eq!(seen, stopped.ids);

    let end = whole.ids[4];
    let first_end = whole.ids.iter().position(|&token| token == end).unwrap();
    let expected = Generated { ids: whole.ids[..first_end].to_vec(), stop: StopReason::EndOfText };
    let by_tokenizer = GenerateOptions { eos_token_ids: vec![end], ..options.clone() };
    assert_eq!(llama.generate(&prompt, &by_tokenizer, go_on), expected);
    llama.config.eos_token_ids = vec![end];
    assert_eq!(llama.generate(&prompt, &options, go_on), expected);
}

/// Token by token against the logits of the whole text, computed by nothing of ours that writes.
#[test]
fn greedy_writing_takes_the_likeliest_token() {
    let llama = model(json!({}), 13);
    let mut text = tokens(7, VOCAB, 8);
    let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    for id in llama.generate(&text.clone(), &options, go_on).ids {
        let ids: Vec<i64> = text.iter().map(|&id| i64::from(id)).collect();
        let data = TensorData::new(ids, [1, text.len()]);
        let ids = Tensor::<2, Int>::from_data(data, &llama.device());
        let layout = Layout::dense(1, text.len());
        let pass = llama.pass(AttentionPattern::Full, &layout);
        let last = llama.logits(ids, &pass).narrow(1, text.len() - 1, 1);
        let last: Vec<f32> = last.into_data().iter().collect();
        let likeliest = (0..VOCAB).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        assert_eq!(id as usize, likeliest);
        text.push(id);
    }
}

/// A conversation reads only what is new, and may take back what it has said.
#[test]
fn a_cache_that_forgot_the_end_of_its_text_is_as_if_it_had_never_read_it() {
    let llama = model(rope_kinds()[2].clone(), 9);
    let kind = CacheKind::Whole { length: 60, window: None };
    let (text, other) = (tokens(40, VOCAB, 1), tokens(20, VOCAB, 2));
    let turn = [&text[..25], &other].concat();

    let mut cache = llama.cache(kind);
    llama.prefill(&text, &mut cache, 16);
    assert_eq!(cache.keep_beginning_of(&turn), 25);
    let ours = llama.prefill(&turn[25..], &mut cache, 16);

    let mut fresh = llama.cache(kind);
    llama.prefill(&turn[..25], &mut fresh, 25);
    let theirs = llama.prefill(&turn[25..], &mut fresh, 16);
    assert_eq!(cache.tokens(), turn);
    let [ours, theirs] = [ours, theirs].map(|x| x.into_data().iter().collect::<Vec<f32>>());
    assert!(largest_difference(&ours, &theirs) <= 5e-5);

    // One token is always left to read.
    assert_eq!(cache.keep_beginning_of(&turn), turn.len() - 1);
    assert_eq!(cache.keep_beginning_of(&[]), 0);
    assert_eq!((cache.held(), cache.tokens().len()), (0, 0));
}

/// `longrope` and `dynamic` read a short text by other frequencies than a long one.
#[test]
fn a_cache_reads_a_short_text_after_a_long_one_as_a_fresh_one_does() {
    for scaling in [2, 4] {
        let llama = model(rope_kinds()[scaling].clone(), 9);
        let kind = CacheKind::Whole { length: 1000, window: None };
        let text = tokens(400, VOCAB, 1);
        let mut cache = llama.cache(kind);
        llama.prefill(&text, &mut cache, 64);
        assert_eq!(cache.keep_beginning_of(&text[..7]), 0);
        let ours = llama.prefill(&text[..7], &mut cache, 64);
        let theirs = llama.prefill(&text[..7], &mut llama.cache(kind), 64);
        ours.into_data().assert_eq(&theirs.into_data(), true);
    }
}

/// Each layer has its own, also where a config of our own making has several.
#[test]
fn layers_with_windows_of_different_widths_read_as_they_write() {
    let mut llama = model(json!({}), 5);
    let widths = [Some(3), Some(6), None].into_iter().cycle();
    llama.config.windows = widths.take(llama.config.num_hidden_layers).collect();
    check(&llama, "windows of 3 and 6");
}

/// StreamingLLM, spelled out: keys and values of every token ever read are kept as the projections made them; before a
/// chunk the list of those in use is cut; keys turn by their place in the list.
struct SlowStream<'a> {
    llama: &'a Llama,
    streaming: Streaming,
    in_use: Vec<usize>,
    read: usize,
    /// Of each layer, each token's key and value: `[1, kv_heads, 1, head_dim]`.
    layers: Vec<Vec<[Tensor<4>; 2]>>,
}

impl<'a> SlowStream<'a> {
    fn new(llama: &'a Llama, streaming: Streaming) -> Self {
        let layers = vec![vec![]; llama.model.layers.len()];
        Self { llama, streaming, in_use: vec![], read: 0, layers }
    }

    /// The final hidden state of the last of these tokens.
    fn read(&mut self, new: &[u32]) -> Vec<f32> {
        let Streaming { sinks, window } = self.streaming;
        while self.in_use.len() + new.len() > sinks + window {
            self.in_use.remove(sinks);
        }
        let past = self.in_use.len();
        self.in_use.extend(self.read..self.read + new.len());
        self.read += new.len();
        let (all, seq) = (self.in_use.len(), new.len());

        let LlamaConfig { rope, num_attention_heads: heads, .. } = &self.llama.config;
        let device = self.llama.device();
        let rotary = Rotary::at(rope, 0..all, sinks + window, &device);
        let ids: Vec<i64> = new.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, seq]), &device);
        let mut hidden_states = self.llama.embed(ids);
        for (block, layer) in self.llama.model.layers.iter().zip(&mut self.layers) {
            let x = block.input_layernorm.forward(hidden_states.clone());
            let of_heads = |x: Tensor<3>| {
                let heads = x.dims()[2] / rope.head_dim;
                x.reshape([1, seq, heads, rope.head_dim]).swap_dims(1, 2)
            };
            let projections = &block.self_attn;
            let q = of_heads(projections.q_proj.forward(x.clone(), None));
            let k = of_heads(projections.k_proj.forward(x.clone(), None));
            let v = of_heads(projections.v_proj.forward(x, None));
            layer.extend((0..seq).map(|i| [k.clone().narrow(2, i, 1), v.clone().narrow(2, i, 1)]));
            let [k, v] = [0, 1].map(|which| {
                Tensor::cat(
                    self.in_use.iter().map(|&token| layer[token][which].clone()).collect(),
                    2,
                )
            });
            let tables = rotary
                .tables(projections.rope_offset.as_ref().or(self.llama.model.rope_offset.as_ref()));
            let before = Tensor::zeros([1, *heads, past, rope.head_dim], &device);
            let q = if past == 0 { q } else { Tensor::cat(vec![before, q], 2) };
            let q = tables.rotate(q).narrow(2, past, seq);
            let segments = Segments::full(&Layout::dense(1, all));
            let scale = 1.0 / (rope.head_dim as f32).sqrt();
            let out = attention::attention(q, tables.rotate(k), v, &segments, scale);
            let out = out.swap_dims(1, 2).reshape([1, seq, heads * rope.head_dim]);
            hidden_states = hidden_states + projections.o_proj.forward(out, None);
            let x = block.post_attention_layernorm.forward(hidden_states.clone());
            hidden_states = hidden_states + block.mlp.forward(x, None);
        }
        let last = hidden_states.narrow(1, seq - 1, 1);
        self.llama.model.norm.forward(last).into_data().iter().collect()
    }
}

/// Long enough that buffers are moved to the front again. As steep as the other; measured: 1.2e-5.
#[test]
fn streaming_is_recomputing_with_what_is_kept_at_its_place_in_the_cache() {
    for (seed, sinks) in [4, 0, 1].into_iter().enumerate() {
        let changes = rope_kinds()[seed].clone();
        let llama = adapted(changes, RopeGranularity::Head, seed as u64);
        let streaming = Streaming { sinks, window: 12 };
        let mut cache = llama.cache(CacheKind::Streaming(streaming));
        let mut slow = SlowStream::new(&llama, streaming);
        let text = tokens(700, VOCAB, 5);
        let mut rest = text.as_slice();
        for chunk in [3, 1, 3, 2, 1, 1, 1, 7, 12, 1].into_iter().cycle() {
            let Some((new, later)) = rest.split_at_checked(chunk) else { break };
            rest = later;
            let ours: Vec<f32> = llama.advance(new, &mut cache).into_data().iter().collect();
            let error = largest_difference(&ours, &slow.read(new));
            let read = cache.tokens().len();
            assert!(error <= 4e-5, "{sinks} sinks, after {read} tokens: off by {error:e}");
            assert_eq!(cache.held(), read.min(sinks + 12));
        }
    }
}

#[test]
fn streaming_is_writing_with_a_plain_cache_as_long_as_everything_fits() {
    let llama = adapted(json!({}), RopeGranularity::Pair, 2);
    let prompt = tokens(20, VOCAB, 3);
    for sampling in [Sampling::default(), warm(2)] {
        let plain = GenerateOptions { max_new_tokens: 20, sampling, ..GenerateOptions::default() };
        let streaming = Some(Streaming { sinks: 4, window: 36 });
        let streamed = GenerateOptions { streaming, ..plain.clone() };
        let ours = llama.generate(&prompt, &streamed, go_on);
        assert_eq!(ours, llama.generate(&prompt, &plain, go_on));
    }
}

#[test]
fn a_streaming_cache_that_cannot_take_back_enough_starts_anew() {
    let llama = model(json!({}), 1);
    let mut cache = llama.cache(CacheKind::Streaming(Streaming { sinks: 2, window: 8 }));
    let text = tokens(30, VOCAB, 1);
    llama.prefill(&text, &mut cache, 512);
    assert_eq!(cache.held(), 10);
    let other = tokens(5, VOCAB, 2);
    assert_eq!(cache.keep_beginning_of(&[&text[..24], &other].concat()), 24);
    assert_eq!(cache.held(), 4);
    llama.prefill(&other, &mut cache, 512);
    assert_eq!(cache.keep_beginning_of(&[&text[..3], &other].concat()), 0);
    assert_eq!((cache.held(), cache.tokens().len()), (0, 0));
    llama.prefill(&other, &mut cache, 512);
    assert_eq!(cache.tokens(), other);
}
