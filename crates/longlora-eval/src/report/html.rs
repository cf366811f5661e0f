//! A report as a page.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::axis::Scale;
use super::plots::{self, Curve, LinePlot, Look, Plot, Point};
use super::{Cost, LossCurve, Report, ReportError, ReportTable, gibibytes};
use crate::bootstrap::half_width;
use crate::{HeatMap, Measurement, PositionBin};

/// The ending turns on the escaping of whatever is filled in.
const TEMPLATE: &str = "page.html";
/// Perplexities that are further apart, as a ratio, have a logarithmic axis.
const FAR_APART: f64 = 5.0;
/// A curve is drawn with about as many points.
const DRAWN_POINTS: usize = 500;
const BANDS: &str = "Bands are 95 % intervals, by the standard error.";

/// A heading, and what is below it.
#[derive(Debug, Clone)]
struct Section {
    title: String,
    figures: Vec<Figure>,
    tables: Vec<PageTable>,
}

/// A plot with what is said about it.
#[derive(Debug, Clone)]
struct Figure {
    caption: String,
    note: String,
    /// The plot in words, for who cannot see it.
    description: String,
    plot: Plot,
    legend: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    swatch: Plot,
}

#[derive(Debug, Clone)]
struct PageTable {
    /// Shown on demand, since a figure shows the same.
    folded: bool,
    table: ReportTable,
}

impl From<Section> for Value {
    fn from(Section { title, figures, tables }: Section) -> Self {
        context! { title, figures, tables }
    }
}

impl From<Figure> for Value {
    fn from(Figure { caption, note, description, plot, legend }: Figure) -> Self {
        context! { caption, note, description, plot, legend }
    }
}

impl From<Entry> for Value {
    fn from(Entry { name, swatch }: Entry) -> Self {
        context! { name, swatch }
    }
}

impl From<Plot> for Value {
    /// Only the body is markup already.
    fn from(Plot { width, height, most_width, body }: Plot) -> Self {
        context! { width, height, most_width, body => Value::from_safe_string(body) }
    }
}

impl From<PageTable> for Value {
    fn from(PageTable { folded, table }: PageTable) -> Self {
        let ReportTable { title, note, head, rows } = table;
        context! { folded, title, note, head, rows }
    }
}

pub(super) fn render(report: &Report) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    environment.add_template(TEMPLATE, include_str!("page.html"))?;
    let sections = [
        vec![perplexity(report)?, heat_maps(report)?],
        report.tables.iter().map(|table| section(&table.title, vec![], table, false)).collect(),
        vec![costs(report)?, losses(report)?],
    ];
    let sections = sections.into_iter().flatten();
    let is_filled = |section: &Section| !(section.figures.is_empty() && section.tables.is_empty());
    let context = context! {
        title => report.title.clone(),
        facts => report.facts.clone(),
        findings => report.findings.clone(),
        sections => sections.filter(is_filled).collect::<Vec<_>>(),
    };
    Ok(environment.get_template(TEMPLATE)?.render(context)?)
}

fn perplexity(report: &Report) -> Result<Section, ReportError> {
    let figures = [perplexity_by_length(report)?, loss_by_position(report)?].concat();
    let grid = report.perplexity.grid();
    let table = ReportTable {
        title: "Perplexity ± SE by context length".to_owned(),
        note: report.perplexity.note(),
        head: grid.head,
        rows: grid.rows,
    };
    let mut section = section("Perplexity", figures, &table, false);
    section.tables.extend(page_table(&report.position_table(), true));
    Ok(section)
}

/// Where one model is lost, the others are told apart in a second figure.
fn perplexity_by_length(report: &Report) -> Result<Vec<Figure>, ReportError> {
    let point = |measurement: &Measurement| {
        let error = half_width(measurement.pieces().count())
            * measurement.nll_standard_error.unwrap_or(0.0);
        let nll = measurement.nll();
        let interval = [nll - error, nll + error].map(f64::exp);
        Point { x: measurement.length as f64, y: nll.exp(), interval }
    };
    let lengths = report.perplexity.lengths();
    let curves = report.perplexity.models().map(|model| {
        let measured = lengths.iter().filter_map(|&length| report.perplexity.get(model, length));
        (model, measured.map(point).collect())
    });
    let curves: Curves<'_> = curves.collect();
    let axes = |y| ("context length, tokens", Scale::Doubling, "perplexity", y);
    let (caption, y) = ("Perplexity by context length", scale_of(&curves));
    if y == Scale::Linear {
        let only = figure(report, caption, BANDS, axes(y), curves)?;
        return Ok(only.into_iter().collect());
    }
    let near = without_far(&curves, |lowest, perplexity| perplexity > 2.0 * lowest);
    let near_y = scale_of(&near);
    let near_note =
        format!("Perplexities above twice the lowest of their length are left out. {BANDS}");
    let near_caption = "Perplexity by context length, the lowest ones";
    let all_note = format!("Both axes are logarithmic. {BANDS}");
    let all = figure(report, caption, &all_note, axes(y), curves)?;
    let near = figure(report, near_caption, &near_note, axes(near_y), near)?;
    Ok(all.into_iter().chain(near).collect())
}

fn scale_of(curves: &Curves<'_>) -> Scale {
    let values = || curves.iter().flat_map(|(_, points)| points).map(|point| point.y);
    let shown = || values().filter(|&value| Scale::Decimal.shows(value));
    let (low, high) = (shown().fold(f64::INFINITY, f64::min), shown().fold(0.0, f64::max));
    if high > FAR_APART * low { Scale::Decimal } else { Scale::Linear }
}

/// Curves with gaps where they are far above the lowest one.
fn without_far<'a>(curves: &Curves<'a>, is_far: impl Fn(f64, f64) -> bool) -> Curves<'a> {
    let mut near = curves.clone();
    for point in near.iter_mut().flat_map(|(_, points)| points) {
        let beside =
            curves.iter().flat_map(|(_, points)| points).filter(|other| other.x == point.x);
        let lowest = beside.map(|other| other.y).fold(f64::INFINITY, f64::min);
        if is_far(lowest, point.y) {
            point.y = f64::NAN;
        }
    }
    near
}

/// All of the windows, then all but their beginning: it is high for every model, and hides what differs behind it.
fn loss_by_position(report: &Report) -> Result<Vec<Figure>, ReportError> {
    let models = report.longest();
    let Some((_, first)) = models.first() else { return Ok(vec![]) };
    let begin = first.length / 16;
    let curves = |from: usize| -> Curves<'_> {
        let point = |windows: usize, bin: &PositionBin| {
            let error = half_width(windows) * bin.nll_standard_error.unwrap_or(0.0);
            let (nll, middle) = (bin.nll(), (bin.start as f64 * (bin.end as f64 - 1.0)).sqrt());
            Point { x: middle, y: nll, interval: [nll - error, nll + error] }
        };
        let points = |measurement: &Measurement| {
            let bins = measurement.positions.iter().filter(|bin| bin.start >= from);
            bins.map(|bin| point(measurement.windows, bin)).collect()
        };
        models.iter().map(|(model, measurement)| (*model, points(measurement))).collect()
    };
    let axes = |x| ("tokens before, in the window", x, "loss, nats per token", Scale::Linear);
    let caption = format!("Loss by position in windows of {} tokens", first.length);
    let all = figure(report, &caption, BANDS, axes(Scale::Doubling), curves(0))?;
    let behind = without_far(&curves(begin), |lowest, nll| nll > lowest + 2f64.ln());
    let caption = format!("Loss by position from {begin} tokens on");
    let note = format!("Losses of twice the lowest perplexity and more are left out. {BANDS}");
    let behind = figure(report, &caption, &note, axes(Scale::Linear), behind)?;
    Ok(all.into_iter().chain(behind).collect())
}

fn heat_maps(report: &Report) -> Result<Section, ReportError> {
    let mut section =
        Section { title: "By length and depth".to_owned(), figures: vec![], tables: vec![] };
    for map in &report.heat_maps {
        let Some(plot) = plots::heat_map(map)? else { continue };
        section.figures.push(Figure {
            caption: map.title.clone(),
            note: "Mean scores in %, by context length and by where in the text the answer stands."
                .to_owned(),
            description: describe_map(map),
            plot,
            legend: vec![],
        });
        let grid = map.grid();
        let table = ReportTable {
            title: map.title.clone(),
            note: "Mean scores in %, and the number of answers.".to_owned(),
            head: grid.head,
            rows: grid.rows,
        };
        section.tables.extend(page_table(&table, true));
    }
    Ok(section)
}

fn describe_map(map: &HeatMap) -> String {
    let lengths = map.lengths().iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let scores =
        map.cells().iter().map(|cell| 100.0 * cell.score()).filter(|score| score.is_finite());
    let (low, high) = scores.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), score| {
        (score.min(low), score.max(high))
    });
    let title = &map.title;
    let depths = map.depths().len();
    match low <= high {
        true => format!(
            "{title}: from {low:.0} to {high:.0} % at {lengths} tokens and {depths} depths."
        ),
        false => format!("{title}: no scores."),
    }
}

/// Where there is one context length only, there is nothing to plot against it.
fn costs(report: &Report) -> Result<Section, ReportError> {
    let curves = |value: &dyn Fn(&Cost) -> Option<f64>| -> Curves<'_> {
        let of_name = |name| {
            let costs = report.costs.iter().filter(|cost| cost.name == name);
            let point = |cost: &Cost| Some(Point::new(cost.context as f64, value(cost)?));
            let mut points: Vec<Point> = costs.filter_map(point).collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            (name, points)
        };
        report.names().into_iter().map(of_name).collect()
    };
    let plot = |name, y| ("context length, tokens", Scale::Doubling, name, y);
    let mut figures = vec![];
    let first = report.costs.first().map(|cost| cost.context);
    if report.costs.iter().any(|cost| Some(cost.context) != first) {
        let note = "Both axes are logarithmic.";
        let times = curves(&|cost| Some(cost.seconds));
        let memory = curves(&|cost| cost.peak_memory_bytes.map(gibibytes));
        let time = plot("seconds", Scale::Decimal);
        figures.extend(figure(report, "Time by context length", note, time, times)?);
        let peak = plot("GiB", Scale::Doubling);
        figures.extend(figure(report, "Peak memory by context length", note, peak, memory)?);
    }
    let table = report.cost_table();
    Ok(section(&table.title, figures, &table, false))
}

fn losses(report: &Report) -> Result<Section, ReportError> {
    let points = |points: Vec<(u64, f64)>| -> Vec<Point> {
        points.into_iter().map(|(step, loss)| Point::new(step as f64, loss)).collect()
    };
    let smooth = |curve: &LossCurve| points(every_few(&curve.smoothed()));
    let curves = report.losses.iter().map(|curve| (curve.name.as_str(), smooth(curve))).collect();
    let raw = report.losses.iter().map(|curve| Curve {
        series: series(report, &curve.name),
        points: points(extremes(&curve.finite())),
        look: Look::Faint,
    });
    let plot = LinePlot {
        x_name: "step",
        y_name: "loss, nats per token",
        x: Scale::Linear,
        y: Scale::Linear,
        curves: raw.collect(),
    };
    let note = "Strong lines are moving averages, faint ones are the loss of each step.";
    let figure = finish(report, "Training loss by step", note, plot, curves, Look::Plain)?;
    let table = report.loss_table();
    Ok(section(&table.title, figure.into_iter().collect(), &table, false))
}

/// Each of some chunks as its lowest and its highest point: no spike is lost.
fn extremes(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let chunk = (2 * points.len()).div_ceil(DRAWN_POINTS).max(1);
    let ends = |chunk: &[(u64, f64)]| {
        let by_loss = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
        let ends = [chunk.iter().min_by(by_loss), chunk.iter().max_by(by_loss)];
        let mut ends: Vec<_> = ends.into_iter().flatten().copied().collect();
        ends.sort_by_key(|(step, _)| *step);
        ends.dedup();
        ends
    };
    points.chunks(chunk).flat_map(ends).collect()
}

/// With the last one.
fn every_few(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let step = points.len().div_ceil(DRAWN_POINTS).max(1);
    points.iter().rev().step_by(step).rev().copied().collect()
}

/// Name and scale of the horizontal axis, then of the vertical one.
type Axes<'a> = (&'a str, Scale, &'a str, Scale);
/// By name.
type Curves<'a> = Vec<(&'a str, Vec<Point>)>;

/// A figure of curves with a marker at each point.
fn figure(
    report: &Report,
    caption: &str,
    note: &str,
    (x_name, x, y_name, y): Axes<'_>,
    curves: Curves<'_>,
) -> Result<Option<Figure>, ReportError> {
    let plot = LinePlot { x_name, y_name, x, y, curves: vec![] };
    finish(report, caption, note, plot, curves, Look::Marked)
}

/// Draws named curves over those that are there.
fn finish(
    report: &Report,
    caption: &str,
    note: &str,
    mut plot: LinePlot<'_>,
    mut curves: Curves<'_>,
    look: Look,
) -> Result<Option<Figure>, ReportError> {
    let is_shown = |point: &Point| plot.x.shows(point.x) && plot.y.shows(point.y);
    curves.retain(|(_, points)| points.iter().any(is_shown));
    let entry = |(name, _): &(&str, _)| -> Result<Entry, ReportError> {
        let swatch = plots::swatch(series(report, name), look)?;
        Ok(Entry { name: (*name).to_owned(), swatch })
    };
    let legend = curves.iter().map(entry).collect::<Result<_, _>>()?;
    let description = describe(caption, &plot, &curves);
    plot.curves.extend(curves.into_iter().map(|(name, points)| Curve {
        series: series(report, name),
        points,
        look,
    }));
    let (caption, note) = (caption.to_owned(), note.to_owned());
    Ok(plot.draw()?.map(|plot| Figure { caption, note, description, plot, legend }))
}

/// Where each curve begins and ends.
fn describe(caption: &str, plot: &LinePlot<'_>, curves: &Curves<'_>) -> String {
    let (x_name, y_name) = (plot.x_name, plot.y_name);
    let of_curve = |(name, points): &(&str, Vec<Point>)| {
        let mut shown =
            points.iter().filter(|point| plot.x.shows(point.x) && plot.y.shows(point.y));
        let words = |point: &Point| format!("{:.3} at {:.0}", point.y, point.x);
        match (shown.next().map(words), shown.next_back().map(words)) {
            (Some(first), Some(last)) => format!(" {name}: {first}, {last}."),
            (first, _) => format!(" {name}: {}.", first.unwrap_or_default()),
        }
    };
    let curves: String = curves.iter().map(of_curve).collect();
    format!("{caption}. {y_name} over {x_name}.{curves}")
}

fn series(report: &Report, name: &str) -> usize {
    report.names().iter().position(|one| *one == name).unwrap_or_default()
}

fn section(title: &str, figures: Vec<Figure>, table: &ReportTable, folded: bool) -> Section {
    Section {
        title: title.to_owned(),
        figures,
        tables: page_table(table, folded).into_iter().collect(),
    }
}

fn page_table(table: &ReportTable, folded: bool) -> Option<PageTable> {
    (!table.rows.is_empty()).then(|| PageTable { folded, table: table.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{self, HOSTILE};
    use super::*;

    #[test]
    fn a_page_holds_every_number() {
        let report = tests::report();
        let page = report.to_html().unwrap();
        let own = [report.position_table(), report.cost_table(), report.loss_table()];
        let texts = report.tables.iter().chain(&own).flat_map(|table| {
            table.rows.iter().flat_map(|row| &row[1..]).chain(&table.head).cloned()
        });
        let perplexities = report.perplexity.grid().rows;
        let perplexities = perplexities.iter().flat_map(|row| row[1..].to_vec());
        let scores = report.heat_maps[0].grid().rows.concat();
        for text in texts.chain(perplexities).chain(scores).filter(|text| text != HOSTILE) {
            let text = text.replace('/', "&#x2f;");
            let cell = [format!(">{text}</td>"), format!(">{text}</th>")];
            assert!(cell.iter().any(|cell| page.contains(cell)), "{text} is not in {page}");
        }
        for text in ["tiny, 2 layers", "Tuning halves the perplexity."] {
            assert!(page.contains(text), "{text} is not in {page}");
        }
    }

    #[test]
    fn a_page_loads_nothing_and_runs_nothing() {
        let page = tests::report().to_html().unwrap();
        for forbidden in ["http", "<script", "<link", "@import", "url(", "src="] {
            assert!(!page.contains(forbidden), "{forbidden} is in {page}");
        }
    }

    #[test]
    fn names_are_no_markup() {
        let mut report = tests::report();
        report.heat_maps[0].title = HOSTILE.to_owned();
        report.tables[0].title = HOSTILE.to_owned();
        report.tables[0].rows[0][1] = HOSTILE.to_owned();
        report.facts.push((HOSTILE.to_owned(), HOSTILE.to_owned()));
        report.findings.push(HOSTILE.to_owned());
        let page = report.to_html().unwrap();
        assert!(!page.contains("<b>") && !page.contains("&\"x"), "{page}");
        assert!(page.contains("&lt;b&gt;&amp;&quot;x"));
    }

    #[test]
    fn every_figure_is_described() {
        let page = tests::report().to_html().unwrap();
        let plots: Vec<&str> = page.split("<svg").skip(1).collect();
        let described =
            plots.iter().filter(|plot| plot.split('>').next().unwrap().contains("aria-label=\""));
        assert_eq!(described.count(), page.matches("<figure").count());
        assert_eq!(page.matches("<figure").count(), 7);
        assert_eq!(page.matches("<figcaption").count(), 7);
        assert!(page.contains("untouched: 11.023 at 512, 1211.967 at 1024."), "{page}");
    }

    #[test]
    fn an_empty_report_is_a_page() {
        let page = Report::default().to_html().unwrap();
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        assert!(!page.contains("<svg") && !page.contains("<table"));
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let page = tests::broken().to_html().unwrap();
        for plot in page.split("<svg").skip(1) {
            let plot = plot.split("</svg>").next().unwrap();
            assert!(!plot.contains("NaN") && !plot.contains("inf"), "{plot}");
        }
    }

    #[test]
    fn one_context_length_is_not_plotted_against() {
        let mut report = tests::report();
        report.costs.truncate(1);
        let section = costs(&report).unwrap();
        assert_eq!((section.figures.len(), section.tables.len()), (0, 1));
    }

    #[test]
    fn long_curves_are_drawn_with_fewer_points_and_all_spikes() {
        let mut points: Vec<(u64, f64)> = (0..10_000).map(|step| (step, 2.0)).collect();
        points[1234].1 = 9.0;
        let drawn = extremes(&points);
        assert!(drawn.len() <= 2 * DRAWN_POINTS && drawn.contains(&(1234, 9.0)));
        let drawn = every_few(&points);
        assert!(drawn.len() <= DRAWN_POINTS && drawn.ends_with(&[(9999, 2.0)]));
    }
}
