//! Plain greedy continuation.

use burn::tensor::{Int, Tensor, TensorData};
use longlora_attention::{AttentionPattern, Layout};

use crate::llama::Llama;

impl Llama {
    /// Continues `prompt` by the likeliest token, up to `max_new_tokens` times or to an end-of-text token, which is not
    /// returned. Attends in full and runs the whole text anew for each token.
    ///
    /// # Panics
    /// If `prompt` is empty.
    pub fn generate_greedy(&self, prompt: &[u32], max_new_tokens: usize) -> Vec<u32> {
        assert!(!prompt.is_empty(), "needs at least one token to continue");
        let mut ids = prompt.to_vec();
        for _ in 0..max_new_tokens {
            let next = self.likeliest_next(&ids);
            if self.config.eos_token_ids.contains(&next) {
                break;
            }
            ids.push(next);
        }
        ids.split_off(prompt.len())
    }

    fn likeliest_next(&self, ids: &[u32]) -> u32 {
        let seq = ids.len();
        let pass = self.pass(AttentionPattern::Full, &Layout::dense(1, seq));
        let data: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(data, [1, seq]), &self.device());
        let last = self.hidden(ids, &pass).narrow(1, seq - 1, 1).squeeze_dim::<2>(1);
        let next = last.matmul(self.head()).argmax(1).into_data();
        next.iter::<u32>().next().expect("argmax of one row is one index")
    }
}
