//! Arrays that all cores write, chunk by chunk.
//!
//! `vec![0.0; len]` clears the whole array on one core while the others wait, and by the time they write to it, it has left
//! the cache. Here a chunk is cleared by the core that writes it, right before ([`written`]), or not at all ([`filled`]),
//! where what is computed is written without reading what was there: a chunk that a product writes is larger than a cache,
//! and its zeros would go to memory and back.
//!
//! Each chunk is a task of its own (`with_max_len(1)`), so that a core without work can take any that was not begun. Rayon by
//! itself puts several into one task, of which nothing can be taken from a core that falls behind.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

/// Numbers that are not there yet.
pub type Unwritten = [MaybeUninit<f32>];

/// `len` numbers in chunks of `chunk`, of which the last may be shorter; at least 1. `fill(index, chunk)` writes all of a
/// chunk and gives it back. With what else was returned, in the order of the chunks.
///
/// # Panics
/// If something else was given back.
pub fn filled<R: Send>(
    len: usize,
    chunk: usize,
    fill: impl for<'a> Fn(usize, &'a mut Unwritten) -> (&'a mut [f32], R) + Sync,
) -> (Vec<f32>, Vec<R>) {
    let mut returned = Vec::with_capacity(len.div_ceil(chunk));
    let numbers =
        filled_in_rounds(len, chunk, usize::MAX, fill, |of_chunk| returned.push(of_chunk));
    (numbers, returned)
}

/// As [`filled`], but what is returned goes to `take`, in the order of the chunks and soon: no more of it waits than what
/// `at_once` chunks return; at least 1.
///
/// # Panics
/// As [`filled`].
pub fn filled_in_rounds<R: Send>(
    len: usize,
    chunk: usize,
    at_once: usize,
    fill: impl for<'a> Fn(usize, &'a mut Unwritten) -> (&'a mut [f32], R) + Sync,
    mut take: impl FnMut(R),
) -> Vec<f32> {
    let mut numbers = Box::new_uninit_slice(len);
    let rounds = numbers.chunks_mut(chunk.saturating_mul(at_once)).enumerate();
    for (round, numbers) in rounds {
        let chunks = numbers.par_chunks_mut(chunk).enumerate().with_max_len(1);
        let of_chunk = |(index, chunk): (usize, &mut Unwritten)| {
            let place = chunk.as_ptr_range();
            let (chunk, returned) = fill(round * at_once + index, chunk);
            assert_is_at(chunk, place);
            returned
        };
        let returned: Vec<R> = chunks.map(of_chunk).collect();
        returned.into_iter().for_each(&mut take);
    }
    // SAFETY: the chunks are all of it, and each was given back as numbers; a panic would have ended this function before.
    #[expect(unsafe_code, reason = "only this shows that every chunk was written")]
    let numbers = unsafe { numbers.assume_init() };
    numbers.into_vec()
}

/// Two arrays side by side, as [`filled`].
///
/// # Panics
/// If they have different numbers of chunks, and as [`filled`].
pub fn both_filled(
    lens: [usize; 2],
    chunks: [usize; 2],
    fill: impl for<'a> Fn(usize, [&'a mut Unwritten; 2]) -> [&'a mut [f32]; 2] + Sync,
) -> [Vec<f32>; 2] {
    let counts = [0, 1].map(|i| lens[i].div_ceil(chunks[i]));
    assert_eq!(counts[0], counts[1], "two arrays have different numbers of chunks");
    let [mut first, mut second] = lens.map(Box::new_uninit_slice);
    let pairs = first.par_chunks_mut(chunks[0]).zip(second.par_chunks_mut(chunks[1])).enumerate();
    pairs.with_max_len(1).for_each(|(index, (first, second))| {
        let places = [first.as_ptr_range(), second.as_ptr_range()];
        let both = fill(index, [first, second]);
        both.into_iter().zip(places).for_each(|(chunk, place)| assert_is_at(chunk, place));
    });
    // SAFETY: as above; there are as many chunks of one as of the other, so none was left out.
    #[expect(unsafe_code, reason = "only this shows that every chunk was written")]
    let both = unsafe { [first.assume_init(), second.assume_init()] };
    both.map(<[f32]>::into_vec)
}

/// As [`filled`], but each chunk is zeros when `write(index, chunk)` gets it.
pub fn written<R: Send>(
    len: usize,
    chunk: usize,
    write: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> (Vec<f32>, Vec<R>) {
    filled(len, chunk, |index, chunk| {
        let chunk = cleared(chunk);
        let returned = write(index, chunk);
        (chunk, returned)
    })
}

/// Two arrays side by side, as [`written`].
///
/// # Panics
/// If they have different numbers of chunks.
pub fn both_written(
    lens: [usize; 2],
    chunks: [usize; 2],
    write: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> [Vec<f32>; 2] {
    both_filled(lens, chunks, |index, both| {
        let [first, second] = both.map(cleared);
        write(index, first, second);
        [first, second]
    })
}

/// A slice of numbers that lies where an unwritten one did shows that the latter was written.
fn assert_is_at(numbers: &[f32], place: Range<*const MaybeUninit<f32>>) {
    let Range { start, end } = numbers.as_ptr_range();
    assert_eq!(
        start.cast()..end.cast(),
        place,
        "another slice was given back than was to be filled"
    );
}

/// Zeros in place of what is not there yet.
fn cleared(chunk: &mut Unwritten) -> &mut [f32] {
    for number in &mut *chunk {
        number.write(0.0);
    }
    // SAFETY: each of its numbers was written.
    #[expect(unsafe_code, reason = "only this shows that every number was written")]
    unsafe {
        chunk.assume_init_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_written_or_zero() {
        for (len, chunk) in [(0, 4), (1, 4), (8, 4), (9, 4), (5, 100)] {
            let (numbers, sizes) = written(len, chunk, |index, chunk| {
                assert!(chunk.iter().all(|&number| number == 0.0));
                chunk[0] = 1.0 + index as f32;
                chunk.len()
            });
            let expected =
                |i: usize| if i.is_multiple_of(chunk) { 1.0 + (i / chunk) as f32 } else { 0.0 };
            assert_eq!(numbers, (0..len).map(expected).collect::<Vec<_>>());
            assert_eq!(sizes.iter().sum::<usize>(), len);
        }
    }

    #[test]
    fn what_chunks_return_is_taken_in_their_order_in_every_size_of_rounds() {
        for at_once in [1, 2, 3, 100, usize::MAX] {
            let mut taken = vec![];
            let numbers = filled_in_rounds(9, 2, at_once, numbered, |index| taken.push(index));
            assert_eq!(numbers, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0]);
            assert_eq!(taken, [0, 1, 2, 3, 4]);
        }
    }

    /// Its index as every number of a chunk.
    fn numbered(index: usize, chunk: &mut Unwritten) -> (&mut [f32], usize) {
        let chunk = cleared(chunk);
        chunk.fill(index as f32);
        (chunk, index)
    }

    #[test]
    #[should_panic(expected = "another slice was given back")]
    fn a_part_of_a_chunk_does_not_count_as_all_of_it() {
        filled(9, 4, |_, chunk| (cleared(&mut chunk[1..]), ()));
    }

    #[test]
    #[should_panic(expected = "another slice was given back")]
    fn what_lies_elsewhere_does_not_count_as_a_chunk() {
        both_filled([4, 4], [2, 2], |_, [first, _]| {
            [cleared(first), Box::leak(vec![0.0; 2].into_boxed_slice())]
        });
    }

    #[test]
    fn two_arrays_go_side_by_side() {
        let [wide, narrow] = both_written([10, 5], [4, 2], |index, wide, narrow| {
            wide.fill(index as f32);
            narrow[0] = wide.len() as f32;
        });
        assert_eq!(wide, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0]);
        assert_eq!(narrow, [4.0, 0.0, 4.0, 0.0, 2.0]);
        assert!(both_written([0, 0], [4, 2], |_, _, _| ()).concat().is_empty());
    }

    #[test]
    #[should_panic(expected = "different numbers of chunks")]
    fn what_does_not_go_side_by_side_is_refused() {
        both_written([10, 5], [4, 4], |_, _, _| ());
    }
}
