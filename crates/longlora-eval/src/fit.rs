//! How much of something fits.

/// The largest number at which `tokens` is at most `limit`, or `None` if that is not so at `least`.
///
/// `tokens` need not be computed for every number: it has to grow with it. Where it grows unevenly, as tokenizers do at
/// seams, the number found still fits, but one that is a little larger could, too.
///
/// # Errors
/// Those of `tokens`.
pub(crate) fn largest_that_fits<E>(
    least: usize,
    limit: usize,
    mut tokens: impl FnMut(usize) -> Result<usize, E>,
) -> Result<Option<usize>, E> {
    if tokens(least)? > limit {
        return Ok(None);
    }
    let (mut fits, mut step) = (least, 1);
    while tokens(fits + step)? <= limit {
        fits += step;
        step *= 2;
    }
    // `fits` fits, and `fits + step` does not.
    while step > 1 {
        step /= 2;
        if tokens(fits + step)? <= limit {
            fits += step;
        }
    }
    Ok(Some(fits))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_more_would_not_fit(least in 0..9usize, limit in 0..400usize, each in 1..7usize, rest in 0..20usize) {
            let tokens = |count: usize| Ok::<_, Infallible>(rest + each * count);
            match largest_that_fits(least, limit, tokens).unwrap() {
                None => prop_assert!(rest + each * least > limit),
                Some(count) => {
                    prop_assert!(count >= least);
                    prop_assert!(rest + each * count <= limit);
                    prop_assert!(rest + each * (count + 1) > limit);
                }
            }
        }
    }

    #[test]
    fn an_error_ends_the_search() {
        assert_eq!(
            largest_that_fits(1, 10, |count| if count < 5 { Ok(count) } else { Err("no") }),
            Err("no")
        );
    }
}
