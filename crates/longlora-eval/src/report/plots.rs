//! Numbers drawn as SVG.
//!
//! A page has its own colours, by day, by night and on paper. So nothing is drawn in a colour of its own: what it is
//! drawn as, an [`Ink`], is written into the colour, and then turned into classes that the page has rules for.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::ReportError;
use super::axis::{Axis, FONT, PIXEL, Scale};
use crate::HeatMap;

/// The backend divides font sizes by this.
const FONT_FACTOR: f64 = 1.24;
const WIDTH: i32 = 560 * PIXEL;
const HEIGHT: i32 = 350 * PIXEL;
/// Above a plot: the name of its vertical axis.
const TOP: i32 = 34 * PIXEL;
/// Below a plot: numbers, and the name of its horizontal axis.
const BOTTOM: i32 = 54 * PIXEL;
const RIGHT: i32 = 24 * PIXEL;
const CELL_HEIGHT: i32 = 30 * PIXEL;
/// Colours, dashes and markers repeat at different intervals: 140 series look different.
const COLOURS: u8 = 7;
const DASHES: u8 = 4;
const MARKERS: u8 = 5;
/// From this score on, a cell is too dark for dark text.
const DARK: f64 = 0.62;
/// Green of the colours that stand for an ink.
const STAND_IN: u8 = 0xA5;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What an SVG element has inside, and its size.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plot {
    pub(super) width: i32,
    pub(super) height: i32,
    /// In CSS pixels: it does not grow beyond.
    pub(super) most_width: i32,
    pub(super) body: String,
}

/// What something is drawn as.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ink {
    Text,
    Grid,
    Axis,
    Line(u8),
    Band(u8),
    Mark(u8),
    Faint(u8),
    Heat,
    OnHeat,
}

impl Ink {
    fn colour(self) -> RGBColor {
        let (role, series) = match self {
            Self::Text => (0, 0),
            Self::Grid => (1, 0),
            Self::Axis => (2, 0),
            Self::Line(series) => (3, series),
            Self::Band(series) => (4, series),
            Self::Mark(series) => (5, series),
            Self::Faint(series) => (6, series),
            Self::Heat => (7, 0),
            Self::OnHeat => (8, 0),
        };
        RGBColor(role, STAND_IN, series)
    }

    /// Classes of an element in a colour of [`colour`](Self::colour).
    fn classes(role: u8, series: u8) -> Option<String> {
        let colour = series % COLOURS;
        Some(match role {
            0 => "text".to_owned(),
            1 => "grid".to_owned(),
            2 => "axis".to_owned(),
            3 => format!("line series-{colour} dash-{}", series % DASHES),
            4 => format!("band series-{colour}"),
            5 => format!("mark series-{colour}"),
            6 => format!("faint series-{colour}"),
            7 => "heat".to_owned(),
            8 => "on-heat".to_owned(),
            _ => return None,
        })
    }

    fn stroke(self, width: i32) -> ShapeStyle {
        self.colour().stroke_width((width * PIXEL) as u32)
    }

    fn text(self, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
        let font = ("sans-serif", f64::from(FONT) * FONT_FACTOR).into_font();
        font.color(&self.colour()).pos(Pos::new(horizontal, vertical))
    }
}

/// A value, and the interval that it is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Around `y`, or equal to it.
    pub(super) interval: [f64; 2],
}

impl Point {
    pub(super) fn new(x: f64, y: f64) -> Self {
        Self { x, y, interval: [y, y] }
    }

    fn is_on(&self, x: Scale, y: Scale) -> bool {
        x.shows(self.x) && y.shows(self.y)
    }

    /// An interval that cannot be drawn is none.
    fn drawn_interval(&self, scale: Scale) -> [f64; 2] {
        match self.interval.into_iter().all(|end| scale.shows(end)) {
            true => self.interval,
            false => [self.y; 2],
        }
    }
}

/// A line through some points.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve {
    /// Its colour, dash and marker.
    pub(super) series: usize,
    pub(super) points: Vec<Point>,
    pub(super) look: Look,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Look {
    /// With a marker at each point.
    Marked,
    /// A line alone.
    Plain,
    /// A thin, pale line.
    Faint,
}

/// Curves over two axes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LinePlot<'a> {
    pub(super) x_name: &'a str,
    pub(super) y_name: &'a str,
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) curves: Vec<Curve>,
}

impl LinePlot<'_> {
    /// `None`, if there is nothing to see.
    pub(super) fn draw(&self) -> Result<Option<Plot>, ReportError> {
        let shown = || {
            self.curves
                .iter()
                .flat_map(|curve| &curve.points)
                .filter(|point| point.is_on(self.x, self.y))
        };
        let xs: Vec<f64> = shown().map(|point| point.x).collect();
        let ys: Vec<f64> = shown().flat_map(|point| point.drawn_interval(self.y)).collect();
        if xs.is_empty() {
            return Ok(None);
        }
        let (x, y) = (Axis::new(self.x, &xs), Axis::new(self.y, &ys));
        draw(WIDTH, HEIGHT, |canvas| self.draw_on(canvas, &x, &y)).map(Some)
    }

    fn draw_on(&self, canvas: &Canvas<'_>, x: &Axis, y: &Axis) -> Result<(), ReportError> {
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(TOP)
            .margin_right(RIGHT)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(y.label_width() + 14 * PIXEL)
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .axis_style(Ink::Axis.stroke(1))
            .bold_line_style(Ink::Grid.stroke(1))
            .label_style(Ink::Text.text(HPos::Center, VPos::Center))
            .set_all_tick_mark_size(4 * PIXEL)
            .x_desc(self.x_name)
            .draw()?;
        canvas.draw(&Text::new(self.y_name, (0, 0), Ink::Text.text(HPos::Left, VPos::Top)))?;
        let at = |x: f64, y: f64| chart.backend_coord(&(x, y));
        for curve in &self.curves {
            // A line does not go on across a number that is none.
            for points in curve.points.split(|point| !point.is_on(self.x, self.y)) {
                let pixels: Vec<_> = points.iter().map(|point| at(point.x, point.y)).collect();
                let ends = points
                    .iter()
                    .map(|point| point.drawn_interval(self.y).map(|end| at(point.x, end)));
                draw_intervals(canvas, curve.series, &ends.collect::<Vec<_>>())?;
                draw_curve(canvas, curve, pixels)?;
            }
        }
        Ok(())
    }
}

/// A band, or a whisker on a point that is alone.
fn draw_intervals(
    canvas: &Canvas<'_>,
    series: usize,
    ends: &[[(i32, i32); 2]],
) -> Result<(), ReportError> {
    let series = look_of(series);
    if let &[[low, high]] = ends
        && low != high
    {
        canvas.draw(&PathElement::new([low, high], Ink::Faint(series).stroke(2)))?;
    }
    let is_wide = ends.iter().any(|[low, high]| low != high);
    if is_wide && ends.len() > 1 {
        let low = ends.iter().map(|[low, _]| *low);
        let high = ends.iter().rev().map(|[_, high]| *high);
        let outline: Vec<_> = low.chain(high).collect();
        canvas.draw(&Polygon::new(outline, Ink::Band(series).colour().filled()))?;
    }
    Ok(())
}

fn draw_curve(
    canvas: &Canvas<'_>,
    curve: &Curve,
    pixels: Vec<(i32, i32)>,
) -> Result<(), ReportError> {
    let series = look_of(curve.series);
    let ink = match curve.look {
        Look::Faint => Ink::Faint(series).stroke(1),
        _ => Ink::Line(series).stroke(2),
    };
    if pixels.len() > 1 {
        canvas.draw(&PathElement::new(pixels.clone(), ink))?;
    }
    if curve.look == Look::Marked {
        let radius = if pixels.len() > 12 { 3 } else { 4 } * PIXEL;
        pixels.into_iter().try_for_each(|pixel| draw_marker(canvas, series, pixel, radius))?;
    }
    Ok(())
}

fn draw_marker(
    canvas: &Canvas<'_>,
    series: u8,
    (x, y): (i32, i32),
    radius: i32,
) -> Result<(), ReportError> {
    let ink = Ink::Mark(series).colour();
    match series % MARKERS {
        0 => canvas.draw(&Circle::new((x, y), radius, ink.filled()))?,
        1 => {
            let corners = [(x - radius, y - radius), (x + radius, y + radius)];
            canvas.draw(&Rectangle::new(corners, ink.filled()))?;
        }
        2 => canvas.draw(&TriangleMarker::new((x, y), radius * 5 / 4, ink.filled()))?,
        3 => {
            let far = radius * 5 / 4;
            let corners = [(x, y - far), (x + far, y), (x, y + far), (x - far, y)];
            canvas.draw(&Polygon::new(corners, ink.filled()))?;
        }
        _ => canvas.draw(&Cross::new((x, y), radius, Ink::Mark(series).stroke(2)))?,
    }
    Ok(())
}

/// For a legend: a piece of a series.
pub(super) fn swatch(series: usize, look: Look) -> Result<Plot, ReportError> {
    let (width, height) = (44 * PIXEL, 14 * PIXEL);
    draw(width, height, |canvas| {
        let ends = [(0, height / 2), (width, height / 2)];
        let line = Curve { series, points: vec![], look: Look::Plain };
        draw_curve(canvas, &line, ends.to_vec())?;
        if look == Look::Marked {
            draw_marker(canvas, look_of(series), (width / 2, height / 2), 4 * PIXEL)?;
        }
        Ok(())
    })
}

/// Colours hold one byte.
fn look_of(series: usize) -> u8 {
    let period = usize::from(COLOURS) * usize::from(DASHES) * usize::from(MARKERS);
    (series % period) as u8
}

/// A row per depth, a column per length, and the score in each cell, in percent. `None`, if there is nothing to see.
pub(super) fn heat_map(map: &HeatMap) -> Result<Option<Plot>, ReportError> {
    let (lengths, depths) = (map.lengths(), map.depths());
    if lengths.is_empty() {
        return Ok(None);
    }
    let columns = lengths.len() as i32;
    let left = 58 * PIXEL;
    let widest = lengths[lengths.len() - 1].to_string().len() as i32 * FONT * 6 / 10 + 8 * PIXEL;
    let cell_width = ((WIDTH - left - PIXEL) / columns).clamp(widest, (110 * PIXEL).max(widest));
    let (width, bottom) =
        (left + columns * cell_width + PIXEL, TOP + depths.len() as i32 * CELL_HEIGHT);
    let plot = draw(width, bottom + BOTTOM, |canvas| {
        let centred = || Ink::Text.text(HPos::Center, VPos::Center);
        let text =
            |text: String, at, style: TextStyle<'static>| canvas.draw(&Text::new(text, at, style));
        text("depth".to_owned(), (0, 0), Ink::Text.text(HPos::Left, VPos::Top))?;
        for (row, &depth) in (0..).zip(&depths) {
            let y = TOP + row * CELL_HEIGHT;
            let side = (left - 8 * PIXEL, y + CELL_HEIGHT / 2);
            text(percent(depth) + " %", side, Ink::Text.text(HPos::Right, VPos::Center))?;
            for (column, &length) in (0..).zip(&lengths) {
                let x = left + column * cell_width;
                let score = map.get(length, depth).map(|cell| cell.score());
                draw_cell(canvas, [(x, y), (x + cell_width, y + CELL_HEIGHT)], score)?;
            }
        }
        for (column, length) in (0..).zip(&lengths) {
            let x = left + column * cell_width + cell_width / 2;
            text(length.to_string(), (x, bottom + 16 * PIXEL), centred())?;
        }
        let middle = left + columns * cell_width / 2;
        text("context length, tokens".to_owned(), (middle, bottom + 42 * PIXEL), centred())?;
        Ok(())
    })?;
    Ok(Some(plot))
}

/// What was not asked, or is no number, is an empty cell.
fn draw_cell(
    canvas: &Canvas<'_>,
    [start, end]: [(i32, i32); 2],
    score: Option<f64>,
) -> Result<(), ReportError> {
    if let Some(score) = score.filter(|score| score.is_finite()) {
        let heat = Ink::Heat.colour().mix(score.clamp(0.0, 1.0));
        canvas.draw(&Rectangle::new([start, end], heat.filled()))?;
        let ink = if score < DARK { Ink::Text } else { Ink::OnHeat };
        let middle = ((start.0 + end.0) / 2, (start.1 + end.1) / 2);
        let style = ink.text(HPos::Center, VPos::Center);
        canvas.draw(&Text::new(percent(score), middle, style))?;
    }
    canvas.draw(&Rectangle::new([start, end], Ink::Grid.stroke(1)))?;
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.0}", 100.0 * share)
}

fn draw(
    width: i32,
    height: i32,
    on: impl FnOnce(&Canvas<'_>) -> Result<(), ReportError>,
) -> Result<Plot, ReportError> {
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, (width as u32, height as u32));
        let canvas = canvas.into_drawing_area();
        on(&canvas)?;
        canvas.present()?;
    }
    // The page opens the element itself, with a description.
    let body = svg.split_once(">\n").map_or("", |(_, body)| body).trim_end();
    let body = body.strip_suffix("</svg>").unwrap_or(body);
    Ok(Plot { width, height, most_width: width / PIXEL, body: with_classes(body) })
}

/// Puts classes in place of stand-in colours. A text cannot hold one: the backend escapes its quotes.
fn with_classes(svg: &str) -> String {
    let mut parts = svg.split("=\"#");
    let mut classy = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let classes = part
            .get(..6)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(|colour| {
                let [_, role, stand_in, series] = colour.to_be_bytes();
                Ink::classes(role, series).filter(|_| stand_in == STAND_IN)
            });
        match classes {
            Some(classes) => {
                classy += &format!("=\"currentColor\" class=\"{classes}{}", &part[6..])
            }
            None => classy += &format!("=\"#{part}"),
        }
    }
    classy
}

#[cfg(test)]
mod tests {
    use super::super::tests;
    use super::*;

    fn plot(points: &[(f64, f64)]) -> LinePlot<'static> {
        let points = points.iter().map(|&(x, y)| Point::new(x, y)).collect();
        let curves = vec![Curve { series: 0, points, look: Look::Marked }];
        LinePlot { x_name: "x <&>", y_name: "y", x: Scale::Doubling, y: Scale::Linear, curves }
    }

    fn body(plot: &LinePlot<'_>) -> String {
        plot.draw().unwrap().unwrap().body
    }

    #[test]
    fn every_colour_is_left_to_the_page() {
        let mut plot = plot(&[(512.0, 2.0), (1024.0, 1.0)]);
        for (series, look) in [Look::Plain, Look::Faint, Look::Marked].into_iter().enumerate() {
            let interval = [1.0, 3.0];
            let points = [1.0, 2.0].map(|x| Point { x, y: 2.0, interval }).to_vec();
            plot.curves.push(Curve { series: 200 + series, points, look });
        }
        let heat_map = heat_map(&tests::report().heat_maps[0]).unwrap().unwrap();
        for body in [body(&plot), heat_map.body, swatch(9, Look::Marked).unwrap().body] {
            assert!(!body.contains("\"#"), "{body}");
            assert!(!body.contains("<svg") && !body.contains("</svg") && !body.contains("http"));
            assert!(body.contains("currentColor"));
        }
    }

    #[test]
    fn texts_are_escaped() {
        let body = body(&plot(&[(1.0, 1.0)]));
        assert!(body.contains("x &lt;&amp;&gt;"), "{body}");
    }

    #[test]
    fn a_gap_parts_a_line() {
        let y = [1.0, 2.0, f64::NAN, 3.0, f64::INFINITY, 4.0, 5.0];
        let points: Vec<_> = (1..).map(f64::from).zip(y).collect();
        let lines = |points: &[(f64, f64)]| body(&plot(points)).matches("class=\"line").count();
        assert_eq!(lines(&points), 2);
        assert_eq!(lines(&points[..2]), 1);
        assert_eq!(lines(&points[..1]), 0);
    }

    #[test]
    fn what_has_no_place_on_a_scale_is_not_drawn() {
        for absurd in [f64::NAN, f64::INFINITY, f64::MAX, 0.0, -1.0] {
            assert_eq!(plot(&[(absurd, 1.0)]).draw().unwrap(), None);
        }
        assert_eq!(plot(&[]).draw().unwrap(), None);
        assert!(plot(&[(1e-99, 1e99), (1e99, -1e99)]).draw().unwrap().is_some());
    }

    #[test]
    fn a_heat_map_has_its_numbers_in_its_cells() {
        let map = &tests::report().heat_maps[0];
        let body = heat_map(map).unwrap().unwrap().body;
        for text in ["100", "75", "0", "0 %", "50 %", "512", "1024", "depth"] {
            assert!(body.contains(&format!(">\n{text}\n</text>")), "{text} is not in {body}");
        }
        assert_eq!(body.matches("class=\"heat\"").count(), 2, "nothing is drawn for a score of 0");
    }

    #[test]
    fn series_look_different() {
        let looks: std::collections::BTreeSet<_> =
            (0..140).map(|series| swatch(series, Look::Marked).unwrap().body).collect();
        assert_eq!(looks.len(), 140);
    }
}
