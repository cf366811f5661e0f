//! Which held-out text is measured on.

/// Keeps at most `tokens` of the documents that are as long as `length`, the longest length to measure at, so that every
/// length is measured on the same documents: an equal share from the start of each. Where that would be less than `length`,
/// the first documents alone have a share, as many as have room. Returns how many that left out; none are kept, if none is
/// long enough, or `tokens` are fewer than `length`.
pub(crate) fn share(documents: &mut Vec<Vec<u32>>, tokens: usize, length: usize) -> usize {
    documents.retain(|document| document.len() >= length);
    let (long_enough, room) = (documents.len(), tokens / length.max(1));
    documents.truncate(room);
    let each = tokens / documents.len().max(1);
    documents.iter_mut().for_each(|document| document.truncate(each));
    long_enough - documents.len()
}

/// What has to be said of [`share`], if anything.
pub(crate) fn left_out(documents: &[Vec<u32>], left_out: usize, tokens: usize) -> Option<String> {
    (left_out > 0 && !documents.is_empty()).then(|| {
        format!(
            "of {} held-out documents that are long enough the first {} are measured on: {tokens} tokens are no whole window of \
             each; --eval-tokens takes more",
            left_out + documents.len(),
            documents.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents of so many tokens, and those that are kept.
    #[track_caller]
    fn check(documents: &[usize], tokens: usize, kept: &[usize], without: usize) -> Option<String> {
        let document = |(index, &length): (usize, &usize)| vec![index as u32; length];
        let mut documents: Vec<Vec<u32>> = documents.iter().enumerate().map(document).collect();
        assert_eq!(share(&mut documents, tokens, 8), without);
        assert_eq!(documents.iter().map(Vec::len).collect::<Vec<_>>(), kept);
        left_out(&documents, without, tokens)
    }

    #[test]
    fn short_documents_take_no_share_of_the_tokens() {
        assert_eq!(check(&[3, 20, 3, 3, 9], 24, &[12, 9], 0), None);
        assert_eq!(check(&[30, 30], 30, &[15, 15], 0), None);
    }

    #[test]
    fn where_the_shares_are_too_short_the_first_documents_are_taken() {
        let said = check(&[10, 7, 20, 30, 40], 25, &[8, 8, 8], 1).unwrap();
        assert!(said.contains("of 4 held-out documents"), "{said}");
        assert!(said.contains("the first 3 are") && said.contains("25 tokens"), "{said}");
        assert!(check(&[10, 20, 30], 15, &[10], 2).is_some());
    }

    #[test]
    fn where_no_window_is_whole_nothing_is_kept() {
        assert_eq!(check(&[7, 5], 100, &[], 0), None);
        assert_eq!(check(&[10, 20], 7, &[], 2), None);
    }
}
