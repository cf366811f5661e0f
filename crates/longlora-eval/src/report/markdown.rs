//! A report as Markdown.

use super::{Report, ReportTable};
use crate::Grid;

/// Sections that have nothing to show are left out.
pub(super) fn render(report: &Report) -> String {
    let mut parts = vec![format!("# {}\n", line(&report.title))];
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            parts.push(format!("## {}\n\n{body}", line(title)));
        }
    };
    section("Findings", report.findings.iter().map(|text| format!("- {}\n", line(text))).collect());
    let fact = |(term, text): &(String, String)| format!("- **{}**: {}\n", line(term), line(text));
    section("What was measured", report.facts.iter().map(fact).collect());
    if report.perplexity.models().next().is_some() {
        let (table, note) = (report.perplexity.to_markdown(), report.perplexity.note());
        section("Perplexity", format!("{note}\n\n{table}"));
    }
    for map in report.heat_maps.iter().filter(|map| !map.cells().is_empty()) {
        section(&map.title, map.to_markdown());
    }
    let own = [report.position_table(), report.cost_table(), report.loss_table()];
    for one in report.tables.iter().chain(&own) {
        section(&one.title, table(one));
    }
    parts.join("\n")
}

fn table(table: &ReportTable) -> String {
    if table.rows.is_empty() {
        return String::new();
    }
    let note = match table.note.is_empty() {
        true => String::new(),
        false => format!("{}\n\n", line(&table.note)),
    };
    let grid = Grid { head: table.head.clone(), rows: table.rows.clone() };
    format!("{note}{}", grid.to_markdown())
}

/// A break would end the row or the item.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::tests;
    use super::*;

    #[test]
    fn a_report_to_read_as_it_is() {
        let expected = r#"# Longer context for <b>&"x

## Findings

- Tuning halves the perplexity.

## What was measured

- **model**: tiny, 2 layers

## Perplexity

Scored tokens (and documents): 1022 (1) at 512, 2046 (1) at 1024.

| perplexity ± SE | 512 | 1024 |
| --- | ---: | ---: |
| untouched | 11.02 ± 1.10 | 1211.97 ± 121.20 |
| <b>&"x | 10.49 ± 1.57 | 9.49 ± 1.42 |

## passkey

| passkey: % by depth | 512 | 1024 |
| --- | ---: | ---: |
| 0 % | 100 (1) | - |
| 50 % | 0 (1) | 75 (1) |
| all | 50 (2) | 75 (1) |

## RULER

Mean scores in %.

| task | 512 |
| --- | ---: |
| niah \| single | 87.5 |

## Loss by position

Nats per token ± SE in windows of 1024 tokens, by the tokens before.

| tokens before | untouched | <b>&"x |
| --- | ---: | ---: |
| 1 | 8.000 ± 0.125 | 3.100 ± 0.125 |
| 2 to 3 | 7.500 ± 0.125 | 2.600 ± 0.125 |
| 4 to 7 | 7.250 ± 0.125 | 2.350 ± 0.125 |
| 8 to 15 | 7.125 ± 0.125 | 2.225 ± 0.125 |

## Time and memory

| name | context | seconds | peak GiB | trainable parameters |
| --- | ---: | ---: | ---: | ---: |
| <b>&"x | 512 | 1.50 | 1.50 | 4194304 |
| <b>&"x | 1024 | 4.25 | 3.00 | 4194304 |

## Training loss

Nats per token, as a moving average.

| name | steps | first | after 1/4 | after 1/2 | after 3/4 | last |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| <b>&"x | 200 | 3.000 | 2.021 | 2.010 | 2.007 | 2.005 |
"#;
        assert_eq!(render(&tests::report()), expected);
    }

    #[test]
    fn an_empty_report_has_no_sections() {
        let report = Report { title: "two\nlines".to_owned(), ..Report::default() };
        assert_eq!(render(&report), "# two lines\n");
    }

    #[test]
    fn what_is_no_number_does_no_harm() {
        assert!(render(&tests::broken()).contains("broken"));
    }
}
