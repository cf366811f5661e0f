//! Our fast paths against our slow ones, on random models.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::{InferenceStep, Learner, TrainStep};
use longlora_adapters::{
    AdapterConfig, Dropout, LoraConfig, RopeGranularity, RopeOffsetConfig, TargetModule,
};
use longlora_attention::{AttentionPattern, GroupSize, Shift};
use longlora_data::{TokenBatch, Window};
use longlora_llama::{ComputeType, Llama, LlamaConfig, Selection, collect, loss_and_gradient};
use longlora_train::{
    Execution, InputsWait, LearningRates, Optimizer, StepBatch, Trainee, TrainingConfig,
    clip_by_global_norm,
};
use serde_json::json;

use crate::fixture::{Tensors, windows};
use crate::gradients::{absolute_error, check_close, of_reference, of_step, relative_error};
use crate::random::{config, redraw, tokens, window};

const VOCAB: usize = 37;

/// Groups of eight tokens, half of the heads shifted.
const SHIFTED: AttentionPattern =
    AttentionPattern::Shifted { group_size: GroupSize::Tokens(8), shift: Shift::HalfHeads };

/// Everything that can be trained beside the weights, with dropout.
fn adapters(granularity: RopeGranularity) -> AdapterConfig {
    AdapterConfig {
        lora: Some(LoraConfig {
            rank: 3,
            alpha: 5.0,
            dropout: 0.3,
            target_modules: TargetModule::ALL.to_vec(),
            ..LoraConfig::default()
        }),
        norms: true,
        embeddings: true,
        head: false,
        rope_offset: Some(RopeOffsetConfig::new(granularity)),
    }
}

/// A model with random parameters; `None` trains all weights.
fn model(config: &LlamaConfig, adapters: Option<&AdapterConfig>) -> (Llama, Selection) {
    let llama = config.init(&Device::default().autodiff());
    let (llama, selection) = match adapters {
        None => (llama.train_all(), Selection::Base),
        Some(adapters) => (llama.attach(adapters, 0), Selection::Adapter(adapters.clone())),
    };
    (redraw(llama, 11), selection)
}

/// Micro-batches of unequal sizes: packed documents, padding, one-token documents.
fn uneven_batch() -> StepBatch {
    let window = |length, starts: &[usize]| window(length, starts, VOCAB, length as u64);
    let micro_batches = [
        vec![window(29, &[0, 9, 10]), window(17, &[0])],
        vec![window(5, &[0])],
        vec![window(31, &[0, 30]), window(2, &[0]), window(12, &[0, 6])],
    ];
    let micro_batches =
        micro_batches.iter().map(|windows| TokenBatch::from_windows(windows, 0)).collect();
    StepBatch { micro_batches, dropout: Dropout::new(71) }
}

/// The step block by block against plain autodiff over the whole model: loss and every gradient; and two micro-batches
/// side by side against one after another, bit by bit.
///
/// The same numbers are summed in another order. The gradient of an offset is a sum over all positions whose terms nearly
/// cancel, so its error is measured against the norm of the whole gradient. In 480 models from other seeds the largest
/// errors were 7e-6 of a tensor's largest entry, and for offsets 7e-7 of the norm.
#[track_caller]
fn check(
    case: &str,
    config: &LlamaConfig,
    adapters: Option<&AdapterConfig>,
    pattern: AttentionPattern,
) {
    let (llama, selection) = model(config, adapters);
    let batch = uneven_batch();
    let step = of_step(&llama, &selection, pattern, &batch, Execution::SMALLEST);
    let reference = of_reference(&llama, &selection, pattern, &batch);
    let error = (step.loss / reference.loss - 1.0).abs();
    assert!(error < 1e-6, "{case}: the loss is off by {error:.2e}");
    let norm = norm(&reference.gradients);
    let split = |gradients: &Tensors| -> (Tensors, Tensors) {
        gradients.clone().into_iter().partition(|(name, _)| name.ends_with("delta"))
    };
    let (offsets, others) = split(&step.gradients);
    let (reference_offsets, reference_others) = split(&reference.gradients);
    if !others.is_empty() {
        check_close(&others, &reference_others, 1e-5, case);
    }
    assert_eq!(offsets.len(), reference_offsets.len(), "{case}");
    for (name, offset) in &offsets {
        let error = absolute_error(offset, &reference_offsets[name]) / norm;
        assert!(error < 2e-6, "{case}: `{name}` is off by {error:.2e} of the norm");
    }

    let (here, away) = (InputsWait::OnDevice, InputsWait::InHostMemory);
    for (parallel, kept_blocks, inputs_wait) in [
        (2, 0, here),
        (1, 1, here),
        (1, usize::MAX, here),
        (2, 1, here),
        (1, 0, away),
        (2, 1, away),
    ] {
        let execution = Execution { parallel, kept_blocks, inputs_wait };
        let other = of_step(&llama, &selection, pattern, &batch, execution);
        assert_eq!(other.loss.to_bits(), step.loss.to_bits(), "{case}: {execution:?}");
        assert_eq!(other.gradients, step.gradients, "{case}: {execution:?}");
    }
}

/// MLPs take 4,096 tokens at a time: here two tiles, the second one short. Every budget of memory leaves the same bits, and
/// the numbers that plain autodiff finds in f64, as well as plain autodiff does in f32.
///
/// Over 4,150 positions that is not well for RoPE offsets, whose gradients are sums over positions of terms times the
/// position that nearly cancel: 1.3e-5 of the whole gradient's norm by plain autodiff, 2.5e-5 by ours, in the first layer.
/// FlashAttention's budget for gradients, three times the error of plain operations, holds for everything.
#[test]
fn a_step_over_more_than_one_tile_is_a_step() {
    for adapters in [None, Some(adapters(RopeGranularity::Head))] {
        let (llama, selection) = model(&config(json!({})), adapters.as_ref());
        let windows = [window(4150, &[0], VOCAB, 9)];
        let batch = StepBatch {
            micro_batches: vec![TokenBatch::from_windows(&windows, 0)],
            dropout: Dropout::new(5),
        };
        let step = of_step(&llama, &selection, SHIFTED, &batch, Execution::SMALLEST);
        for kept_blocks in [1, usize::MAX] {
            let execution = Execution { kept_blocks, ..Execution::SMALLEST };
            let other = of_step(&llama, &selection, SHIFTED, &batch, execution);
            assert_eq!(other.loss.to_bits(), step.loss.to_bits(), "{execution:?}");
            assert_eq!(other.gradients, step.gradients, "{execution:?}");
        }
        let reference = of_reference(&llama, &selection, SHIFTED, &batch);
        let exact = llama.clone().computing_in(ComputeType::F64);
        let exact = of_reference(&exact, &selection, SHIFTED, &batch);
        assert!((step.loss / exact.loss - 1.0).abs() < 1e-6);
        let norm = norm(&exact.gradients);
        for (name, exact) in &exact.gradients {
            let [ours, plain] =
                [&step, &reference].map(|step| absolute_error(&step.gradients[name], exact) / norm);
            assert!(ours < 2e-6_f64.max(3.0 * plain), "`{name}`: {ours:.2e}, plain {plain:.2e}");
        }
    }
}

/// The norm of a whole gradient.
fn norm(gradients: &Tensors) -> f64 {
    let square = |tensor: &TensorData| tensor.iter::<f64>().map(|entry| entry * entry).sum::<f64>();
    gradients.values().map(square).sum::<f64>().sqrt()
}

/// In training, too, documents of one window do not see each other: loss and gradients are those of the documents one
/// by one. Rotations by larger positions round differently: 1e-6 was measured.
#[test]
fn a_step_over_a_packed_window_is_a_step_over_its_documents() {
    let (llama, selection) = model(&config(json!({})), None);
    let packed = window(29, &[0, 9, 10], VOCAB, 4);
    let documents =
        [&packed.tokens[..9], &packed.tokens[9..10], &packed.tokens[10..]].map(<[u32]>::to_vec);
    let step = |windows: &[Window]| {
        let micro_batches = vec![TokenBatch::from_windows(windows, 0)];
        let batch = StepBatch { micro_batches, dropout: Dropout::new(0) };
        of_step(&llama, &selection, AttentionPattern::Full, &batch, Execution::SMALLEST)
    };
    let together = step(&[packed]);
    let alone = step(&windows(&documents));
    assert!((together.loss / alone.loss - 1.0).abs() < 1e-6, "{} {}", together.loss, alone.loss);
    check_close(&together.gradients, &alone.gradients, 1e-5, "packed");
}

#[test]
fn the_step_equals_plain_autodiff_for_every_kind_of_adapter() {
    for tied in [false, true] {
        let config = config(json!({ "tie_word_embeddings": tied }));
        for granularity in [RopeGranularity::Head, RopeGranularity::Pair, RopeGranularity::Shared] {
            let case = format!("{granularity}, tied: {tied}");
            check(&case, &config, Some(&adapters(granularity)), SHIFTED);
        }
    }
}

#[test]
fn the_step_equals_plain_autodiff_when_one_kind_alone_is_trained() {
    let nothing = AdapterConfig {
        lora: None,
        norms: false,
        embeddings: false,
        head: false,
        rope_offset: None,
    };
    let offset = Some(RopeOffsetConfig::new(RopeGranularity::Shared));
    let lora = adapters(RopeGranularity::Head).lora;
    let dora = lora.clone().map(|lora| LoraConfig { use_dora: true, use_rslora: true, ..lora });
    let cases = [
        ("LoRA", AdapterConfig { lora, ..nothing.clone() }),
        ("DoRA", AdapterConfig { lora: dora, ..nothing.clone() }),
        ("the head", AdapterConfig { head: true, ..nothing.clone() }),
        ("norms", AdapterConfig { norms: true, ..nothing.clone() }),
        ("embeddings", AdapterConfig { embeddings: true, ..nothing.clone() }),
        ("offsets", AdapterConfig { rope_offset: offset, ..nothing }),
    ];
    for tied in [false, true] {
        let config = config(json!({ "tie_word_embeddings": tied }));
        for (kind, adapters) in &cases {
            check(&format!("{kind} alone, tied: {tied}"), &config, Some(adapters), SHIFTED);
        }
    }
}

#[test]
fn the_step_equals_plain_autodiff_when_everything_is_trained() {
    for tied in [false, true] {
        let config = config(json!({ "tie_word_embeddings": tied }));
        for pattern in [
            SHIFTED,
            AttentionPattern::LONGLORA,
            AttentionPattern::Full,
            AttentionPattern::SlidingWindow { window: 5 },
        ] {
            check(&format!("{pattern:?}, tied: {tied}"), &config, None, pattern);
        }
    }
}

#[test]
fn the_step_equals_plain_autodiff_under_every_rope_scaling() {
    let original = json!({ "original_max_position_embeddings": 16 });
    for (kind, mut scaling) in [
        ("linear", json!({ "factor": 4.0 })),
        ("dynamic", json!({ "factor": 4.0 })),
        ("yarn", original.clone()),
        ("llama3", original),
    ] {
        scaling["rope_type"] = kind.into();
        scaling["factor"] = 4.0.into();
        scaling["low_freq_factor"] = 1.0.into();
        scaling["high_freq_factor"] = 4.0.into();
        let config = config(json!({ "rope_scaling": scaling, "max_position_embeddings": 16 }));
        check(kind, &config, Some(&adapters(RopeGranularity::Pair)), SHIFTED);
    }
}

/// Burn locks graphs that share a parameter in an order that two threads can deadlock on: once in a few hundred steps,
/// if micro-batches shared their leaves.
#[test]
fn micro_batches_side_by_side_never_wait_for_each_other() {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (llama, selection) = model(&config(json!({})), Some(&adapters(RopeGranularity::Head)));
        let batch = uneven_batch();
        let micro_batches = batch.micro_batches.iter().cycle().take(12).cloned().collect();
        let batch = StepBatch { micro_batches, ..batch };
        let first = of_step(
            &llama,
            &selection,
            SHIFTED,
            &batch,
            Execution { parallel: 4, ..Execution::SMALLEST },
        );
        for _ in 0..60 {
            let again = of_step(
                &llama,
                &selection,
                SHIFTED,
                &batch,
                Execution { parallel: 4, ..Execution::SMALLEST },
            );
            assert_eq!(again.gradients, first.gradients);
        }
        sender.send(()).expect("the test waits");
    });
    let finished = receiver.recv_timeout(Duration::from_secs(120));
    assert_eq!(finished, Ok(()), "two micro-batches wait for each other");
}

#[test]
fn dropout_follows_the_seed_of_the_step_and_is_off_in_validation() {
    let dropping = adapters(RopeGranularity::Head);
    let mut keeping = dropping.clone();
    keeping.lora.as_mut().unwrap().dropout = 0.0;
    let losses = |adapters: &AdapterConfig, seeds: [u64; 2]| {
        let (llama, selection) = model(&config(json!({})), Some(adapters));
        let step = |seed| {
            let batch = StepBatch { dropout: Dropout::new(seed), ..uneven_batch() };
            of_step(&llama, &selection, SHIFTED, &batch, Execution::SMALLEST).loss
        };
        let trainee = Trainee {
            llama: llama.valid(),
            pattern: SHIFTED,
            max_grad_norm: None,
            execution: Execution::SMALLEST,
        };
        let validation = InferenceStep::step(&trainee, uneven_batch());
        (seeds.map(step), validation.loss())
    };

    let ([first, again], _) = losses(&dropping, [1, 1]);
    assert_eq!(first, again);
    let ([first, other], validation) = losses(&dropping, [1, 2]);
    assert!(first != other && first != validation, "{first}, {other}, {validation}");
    let ([first, other], same) = losses(&keeping, [1, 2]);
    assert_eq!((first, other), (other, same));
    assert_eq!(validation, same, "validation drops nothing");
}

/// Head and loss in chunks against the definition in f64, for `count` tokens of which every third has no target.
///
/// 9.9e-7 is the largest error that was measured, over 131,072 entries of a vocabulary; burn's autodiff over all logits is
/// off by 1.2e-6 there.
#[track_caller]
fn check_loss(count: usize, vocab: usize, width: usize) {
    let device = Device::default();
    let (bound, scale) = (3.0, 1.0 / 64.0);
    let values = |length: usize, seed| -> Vec<f32> {
        tokens(length, 2001, seed).iter().map(|&x| (x as f32 / 1000.0 - 1.0) * bound).collect()
    };
    let (hidden, head) = (values(count * width, 1), values(width * vocab, 2));
    let mut targets: Vec<i64> = tokens(count, vocab, 3).into_iter().map(i64::from).collect();
    targets.iter_mut().step_by(3).for_each(|target| *target = -100);
    let (nll_sum, d_hidden, d_head) = loss_by_hand(&hidden, &head, &targets, width, scale);

    let hidden = Tensor::<2>::from_data(TensorData::new(hidden, [count, width]), &device);
    let head = Tensor::<2>::from_data(TensorData::new(head, [width, vocab]), &device);
    let ours = loss_and_gradient(hidden, head, &targets, scale, true);
    let errors = [
        (ours.nll_sum / nll_sum - 1.0).abs(),
        relative_error(&ours.d_hidden.into_data(), &TensorData::new(d_hidden, [count, width])),
        relative_error(&ours.d_head.unwrap().into_data(), &TensorData::new(d_head, [width, vocab])),
    ];
    assert!(errors.iter().all(|&error| error < 2e-6), "vocabulary {vocab}: {errors:?}");
}

/// `(nll_sum, d_hidden, d_head)`, token by token in f64.
fn loss_by_hand(
    hidden: &[f32],
    head: &[f32],
    targets: &[i64],
    width: usize,
    scale: f64,
) -> (f64, Vec<f64>, Vec<f64>) {
    let vocab = head.len() / width;
    let (mut nll_sum, mut d_hidden) = (0.0, vec![0.0; hidden.len()]);
    let mut d_head = vec![0.0; head.len()];
    for (token, &target) in targets.iter().enumerate() {
        let Ok(target) = usize::try_from(target) else { continue };
        let entries = token * width..(token + 1) * width;
        let mut logits = vec![0.0; vocab];
        for (&h, row) in hidden[entries.clone()].iter().zip(head.chunks(vocab)) {
            logits.iter_mut().zip(row).for_each(|(l, &w)| *l += f64::from(h) * f64::from(w));
        }
        // No maximum is subtracted: these logits are small.
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        nll_sum += sum.ln() - logits[target];
        let mut d_logits: Vec<f64> = logits.iter().map(|l| scale * l.exp() / sum).collect();
        d_logits[target] -= scale;
        let rows = head.chunks(vocab).zip(d_head.chunks_mut(vocab));
        for ((row, d_row), entry) in rows.zip(entries) {
            d_hidden[entry] = row.iter().zip(&d_logits).map(|(&w, d)| f64::from(w) * d).sum();
            d_row.iter_mut().zip(&d_logits).for_each(|(x, d)| *x += f64::from(hidden[entry]) * d);
        }
    }
    (nll_sum, d_hidden, d_head)
}

#[test]
fn the_chunked_loss_equals_the_whole_one() {
    check_loss(50, 29, 7); // one chunk
    check_loss(300, 1 << 17, 4); // 200 targets in chunks of 128
}

#[test]
fn tokens_without_targets_have_no_loss_and_no_gradient() {
    let device = Device::default();
    let hidden = Tensor::<2>::ones([3, 2], &device);
    let head = Tensor::<2>::ones([2, 5], &device);
    let loss = loss_and_gradient(hidden, head, &[-100; 3], 1.0, true);
    assert_eq!(loss.nll_sum, 0.0);
    for gradient in [loss.d_hidden, loss.d_head.unwrap()] {
        assert!(gradient.into_data().iter::<f32>().all(|entry| entry == 0.0));
    }
}

#[test]
fn a_head_that_is_not_trained_has_no_gradient() {
    let device = Device::default();
    let (hidden, head) = (Tensor::<2>::ones([1, 2], &device), Tensor::<2>::ones([2, 5], &device));
    let loss = loss_and_gradient(hidden, head, &[4], 1.0, false);
    assert!(loss.d_head.is_none());
    // Five equal logits.
    assert!((loss.nll_sum - 5f64.ln()).abs() < 1e-6);
}

/// The first step of Adam moves each entry by its rate, whatever the gradient: here the largest move of each tensor.
/// Decoupled decay would add `rate · decay · entry` to it, except for offsets, norms and biases.
#[test]
fn each_kind_of_parameter_moves_at_its_own_rate() {
    let adapters = adapters(RopeGranularity::Pair);
    let (llama, selection) = model(&config(json!({})), Some(&adapters));
    let rates = LearningRates { lora: 1e-3, norms_and_embeddings: 1e-4, rope_offsets: 1e-2 };
    for weight_decay in [0.0, 0.9] {
        let training = TrainingConfig {
            learning_rates: rates,
            warmup_steps: 0,
            weight_decay,
            ..TrainingConfig::default()
        };
        let mut optimizer = Optimizer::new(&training, 0);
        let trainee = Trainee {
            llama: llama.clone(),
            pattern: SHIFTED,
            max_grad_norm: None,
            execution: Execution::SMALLEST,
        };
        let grads = TrainStep::step(&trainee, uneven_batch()).grads;
        let moved = optimizer.adam_w.step(optimizer.rates.step(), trainee, grads);
        let (before, after) = (collect(&llama, &selection), collect(&moved.llama, &selection));
        for (name, before) in &before {
            let rate = match name {
                _ if name.contains("lora_") => rates.lora,
                _ if name.ends_with("delta") => rates.rope_offsets,
                _ => rates.norms_and_embeddings,
            };
            let moved = absolute_error(&after[name], before) / rate;
            // f32 rounds entries near 1 by 6e-8, which is 6e-4 of the smallest rate.
            let undecayed = ["delta", "norm.weight", "bias"].iter().any(|it| name.ends_with(it));
            if weight_decay == 0.0 || undecayed {
                assert!((moved - 1.0).abs() < 2e-3, "`{name}` moved by {moved} of its rate");
            } else {
                assert!(moved > 1.1, "`{name}` moved by {moved} of its rate");
            }
        }
    }
}

/// Three steps with warm-up, clipping and three learning rates.
#[test]
fn burns_learner_takes_the_same_steps_bit_for_bit() {
    let adapters = adapters(RopeGranularity::Head);
    let (llama, selection) = model(&config(json!({})), Some(&adapters));
    let training = TrainingConfig {
        learning_rates: LearningRates {
            lora: 1e-2,
            norms_and_embeddings: 1e-3,
            rope_offsets: 1e-4,
        },
        warmup_steps: 2,
        weight_decay: 0.1,
        ..TrainingConfig::default()
    };
    let max_norm = 0.25;
    let trainee = Trainee {
        llama,
        pattern: SHIFTED,
        max_grad_norm: Some(max_norm),
        execution: Execution::SMALLEST,
    };
    let optimizer = Optimizer::new(&training, 0);
    let batch = |step: u64| StepBatch { dropout: Dropout::new(step), ..uneven_batch() };

    let mut learner =
        Learner::new(trainee.clone(), optimizer.adam_w.clone(), optimizer.rates.clone());
    for step in 0..3 {
        learner.lr_step();
        let output = learner.train_step(batch(step));
        learner.optimizer_step(output.grads);
    }

    let (start, mut trainee, mut optimizer) = (trainee.clone(), trainee, optimizer);
    for step in 0..3 {
        let output = TrainStep::step(&trainee, batch(step));
        let (grads, norm) = clip_by_global_norm(&trainee.llama, output.grads, max_norm);
        assert!(norm > max_norm, "nothing would be clipped: {norm}");
        let rates = optimizer.rates.step();
        trainee = optimizer.adam_w.step(rates, trainee, grads);
    }

    let trained = |trainee: Trainee| collect(&trainee.llama.valid(), &selection);
    let by_hand = trained(trainee);
    assert_eq!(trained(learner.model()), by_hand);
    let start = trained(start);
    assert!(by_hand.iter().all(|(name, tensor)| *tensor != start[name]), "something stood still");
}
