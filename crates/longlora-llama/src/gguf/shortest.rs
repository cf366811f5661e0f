//! Numbers that GGUF keeps in f32, as they were written.

/// The shortest decimal number that is `value` as an f32: 1e-5, not 9.999999747378752e-6.
pub(super) fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().expect("a printed number can be read")
}
