//! The order of rows in q and k: interleaved pairs for llama.cpp, half-split ones for Hugging Face.

/// From half-split rows to interleaved ones, head by head; `width` numbers per row.
///
/// Row `i` of the first half of a head goes to `2i`, row `i` of its second half to `2i + 1`.
pub(super) fn interleave(numbers: &[f32], heads: usize, width: usize) -> Vec<f32> {
    reorder(numbers, heads, width, |row, half| (row % half) * 2 + row / half)
}

/// The way back.
pub(super) fn half_split(numbers: &[f32], heads: usize, width: usize) -> Vec<f32> {
    reorder(numbers, heads, width, |row, half| row / 2 + (row % 2) * half)
}

/// Moves each row of each head to the place that `place(row, rows / 2)` says.
fn reorder(
    numbers: &[f32],
    heads: usize,
    width: usize,
    place: impl Fn(usize, usize) -> usize,
) -> Vec<f32> {
    let head_dim = numbers.len() / heads / width;
    let mut moved = vec![0.0; numbers.len()];
    for head in 0..heads {
        for row in 0..head_dim {
            let from = (head * head_dim + row) * width;
            let to = (head * head_dim + place(row, head_dim / 2)) * width;
            moved[to..to + width].copy_from_slice(&numbers[from..from + width]);
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_of_each_head_are_interleaved_and_back() {
        let rows: Vec<f32> = [0, 1, 2, 3, 4, 5, 6, 7].map(|row| row as f32).to_vec();
        let interleaved = interleave(&rows, 2, 1);
        assert_eq!(interleaved, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(half_split(&interleaved, 2, 1), rows);
        let wide: Vec<f32> = (0..24).map(|number| number as f32).collect();
        assert_eq!(half_split(&interleave(&wide, 1, 4), 1, 4), wide);
        assert_eq!(interleave(&wide, 1, 4)[4..8], wide[12..16]);
    }
}
