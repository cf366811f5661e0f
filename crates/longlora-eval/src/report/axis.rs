//! Axes of plots: where numbers stand, and which of them are written there.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Units per CSS pixel: the backend rounds coordinates to whole units.
pub(super) const PIXEL: i32 = 2;
/// Of numbers and names.
pub(super) const FONT: i32 = 15 * PIXEL;
/// A plot has no more ticks on an axis.
const MOST_TICKS: usize = 9;
/// No axis reaches as far as this: with larger numbers, their differences are none.
const BEYOND: f64 = 1e100;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    Linear,
    /// Ticks at powers of two.
    Doubling,
    /// Ticks at one, two and five times powers of ten.
    Decimal,
}

impl Scale {
    /// Whether a number has a place on it.
    pub(super) fn shows(self, value: f64) -> bool {
        value.abs() < BEYOND && (self == Self::Linear || value > 1.0 / BEYOND)
    }

    fn position(self, number: f64) -> f64 {
        if self == Self::Linear { number } else { number.ln() }
    }

    fn number(self, position: f64) -> f64 {
        if self == Self::Linear { position } else { position.exp() }
    }

    fn ticks(self, range: &Range<f64>) -> Vec<f64> {
        let ticks = match self {
            Self::Linear => return even_ticks(range),
            Self::Doubling => powers(2.0, &[1.0], range),
            Self::Decimal => powers(10.0, &[1.0, 2.0, 5.0], range),
        };
        match ticks.len() {
            0..=2 => even_ticks(range),
            3..=MOST_TICKS => ticks,
            _ if self == Self::Decimal => thin(powers(10.0, &[1.0], range)),
            _ => thin(ticks),
        }
    }
}

/// Numbers and where they stand.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    scale: Scale,
    range: Range<f64>,
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// An axis that has room for all of these, and there is at least one.
    pub(super) fn new(scale: Scale, values: &[f64]) -> Self {
        let positions = || values.iter().map(|&value| scale.position(value));
        let low = positions().fold(f64::INFINITY, f64::min);
        let high = positions().fold(f64::NEG_INFINITY, f64::max);
        let room = match scale {
            _ if high - low > 1e-9 * high.abs() => 0.05 * (high - low),
            Scale::Linear => (0.1 * high.abs()).max(0.1),
            _ => 1.0,
        };
        let range = scale.number(low - room)..scale.number(high + room);
        let ticks = scale.ticks(&range);
        Self { scale, range, ticks }
    }

    /// In units.
    pub(super) fn label_width(&self) -> i32 {
        let longest = self.ticks.iter().map(|&tick| label(tick).len()).max().unwrap_or(1);
        longest as i32 * FONT * 6 / 10
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let at = |value| self.scale.position(value);
        let (low, high) = (at(self.range.start), at(self.range.end));
        start + ((at(*value) - low) / (high - low) * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { vec![] } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        label(*value)
    }
}

/// Four to seven round numbers, or a few more or less.
fn even_ticks(range: &Range<f64>) -> Vec<f64> {
    let rough = (range.end - range.start) / 7.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0].map(|digit| digit * power).into_iter().find(|&step| step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (range.start / step).ceil();
    let ticks = (0..MOST_TICKS).map(|n| (first + n as f64) * step);
    ticks.filter(|tick| range.contains(tick)).collect()
}

fn powers(base: f64, digits: &[f64], range: &Range<f64>) -> Vec<f64> {
    let [low, high] = [range.start, range.end].map(|end| (end.ln() / base.ln()).floor() as i32);
    let ticks = (low..=high).flat_map(|n| digits.iter().map(move |digit| digit * base.powi(n)));
    ticks.filter(|tick| range.contains(tick)).collect()
}

fn thin(ticks: Vec<f64>) -> Vec<f64> {
    let step = ticks.len().div_ceil(MOST_TICKS).max(1);
    ticks.into_iter().step_by(step).collect()
}

/// A number without the noise of its computation.
pub(super) fn label(number: f64) -> String {
    if number != 0.0 && !(1e-4..1e9).contains(&number.abs()) {
        return format!("{number:.0e}");
    }
    let text = format!("{number:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        let ticks = |scale, values: &[f64]| {
            let axis = Axis::new(scale, values);
            axis.ticks.iter().map(|&tick| label(tick)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ticks(Scale::Doubling, &[512.0, 3000.0, 8192.0]), "512 1024 2048 4096 8192");
        assert_eq!(ticks(Scale::Doubling, &[1.0, 65536.0]), "1 4 16 64 256 1024 4096 16384 65536");
        assert_eq!(ticks(Scale::Doubling, &[1000.0, 1500.0]), "1000 1100 1200 1300 1400 1500");
        assert_eq!(ticks(Scale::Doubling, &[1024.0]), "512 1024 2048");
        assert_eq!(ticks(Scale::Decimal, &[8.0, 900.0]), "10 20 50 100 200 500 1000");
        assert_eq!(ticks(Scale::Decimal, &[1e-3, 1e3]), "0.001 0.01 0.1 1 10 100 1000");
        assert_eq!(ticks(Scale::Linear, &[2.31, 2.44]), "2.325 2.35 2.375 2.4 2.425");
        assert_eq!(ticks(Scale::Linear, &[-1.0, 1.0]), "-1 -0.5 0 0.5 1");
        assert_eq!(ticks(Scale::Linear, &[2.0]), "1.8 1.9 2 2.1");
    }
}
