//! Samples, medians, the tables, and the files that hold them: JSON for programs, SVG for people.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// What one measurement gave.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// Thousands of packets per second behind the director.
    kpps: f64,
    /// CPU time of the director per packet.
    nanoseconds: f64,
    /// Thousands of packets per second that the generator sent.
    offered_kpps: f64,
}

/// One sample per contender, in their order.
pub(crate) type Round<S = Sample> = Vec<S>;

impl Sample {
    pub(crate) fn new(window: Duration, packets: u64, cpu_time: Duration, sent: u64) -> Self {
        let per_millisecond = |count: u64| count as f64 / (window.as_secs_f64() * 1e3);
        Self {
            kpps: per_millisecond(packets),
            nanoseconds: cpu_time.as_secs_f64() * 1e9 / packets as f64,
            offered_kpps: per_millisecond(sent),
        }
    }
}

/// Figures of several contenders under one load.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    columns: &'static [&'static str],
    /// The column that the plot shows.
    plotted: usize,
    rows: Vec<(String, Vec<f64>)>,
}

const THROUGHPUT: [&str; 5] = ["kpps", "ns/packet", "× kpps", "ns ratio", "offered kpps"];

impl Table {
    /// Medians over the rounds. A ratio is the median of each round's own ratio to its first contender: of
    /// packets per second, and of CPU time (how many times less than the first one's).
    pub(crate) fn throughput(title: &str, names: &[&str], rounds: &[Round]) -> Self {
        let title = format!("{title}, one core, median of {} rounds", rounds.len());
        Self::new(title, &THROUGHPUT, 2, names, |index| {
            let over = |figure: fn(&Sample, &Sample) -> f64| {
                median_of(rounds.iter().map(|round| figure(&round[index], &round[0])))
            };
            vec![
                over(|sample, _| sample.kpps),
                over(|sample, _| sample.nanoseconds),
                over(|sample, first| sample.kpps / first.kpps),
                over(|sample, first| first.nanoseconds / sample.nanoseconds),
                over(|sample, _| sample.offered_kpps),
            ]
        })
    }

    /// A table of the figures that `row` gives for each name.
    pub(crate) fn new(
        title: String,
        columns: &'static [&'static str],
        plotted: usize,
        names: &[&str],
        row: impl Fn(usize) -> Vec<f64>,
    ) -> Self {
        let rows = names.iter().enumerate();
        Self {
            title,
            columns,
            plotted,
            rows: rows
                .map(|(index, name)| ((*name).to_owned(), row(index)))
                .collect(),
        }
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        println!("\n{}", self.title);
        let columns = self.columns.iter();
        let head: String = columns.map(|column| format!(" {column:>12}")).collect();
        println!("{:<40}{head}", "");
        for (name, figures) in &self.rows {
            let figures = figures
                .iter()
                .map(|figure| format!(" {:>12}", text(*figure)));
            println!("{name:<40}{}", figures.collect::<String>());
        }
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(name, figures)| {
            let figures = self.columns.iter().zip(figures);
            let mut row: Map<_, _> = figures
                .map(|(column, figure)| ((*column).to_owned(), json!(figure)))
                .collect();
            row.insert("name".to_owned(), json!(name));
            Value::Object(row)
        });
        json!({ "title": self.title, "rows": rows.collect::<Vec<_>>() })
    }
}

/// With as many digits as say something.
fn text(figure: f64) -> String {
    if figure < 20.0 {
        format!("{figure:.2}")
    } else {
        format!("{figure:.0}")
    }
}

/// Writes all tables beside what cargo builds; returns where.
///
/// # Errors
/// The files cannot be written.
pub(crate) fn write(tables: &[Table]) -> Result<[PathBuf; 2]> {
    let program = std::env::current_exe()?;
    // target/release/deps/datapath-…
    let target = program.ancestors().nth(3).context("no target folder")?;
    let values: Vec<_> = tables.iter().map(Table::json).collect();
    let text = serde_json::to_string_pretty(&json!({ "tables": values }))?;
    let [json, plot] = ["datapath.json", "datapath.svg"].map(|name| target.join(name));
    save(&json, &text)?;
    save(&plot, &svg(tables))?;
    Ok([json, plot])
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Bars of each table's plotted column, one table below the other.
fn svg(tables: &[Table]) -> String {
    const LINE: usize = 18;
    const BARS: f64 = 360.0;
    let (mut body, mut y) = (String::new(), 0);
    for table in tables {
        y += 2 * LINE;
        let column = table.columns[table.plotted];
        // Writing to a string does not fail, here and below.
        writeln!(
            body,
            "<text x='4' y='{y}' font-weight='bold'>{}: {column}</text>",
            table.title
        )
        .ok();
        let figure = |row: &(String, Vec<f64>)| row.1[table.plotted];
        let most = table
            .rows
            .iter()
            .map(figure)
            .fold(f64::MIN_POSITIVE, f64::max);
        for row in &table.rows {
            y += LINE;
            let (width, top) = (figure(row) / most * BARS, y - 12);
            writeln!(
                body,
                "<text x='4' y='{y}'>{}</text><rect x='180' y='{top}' width='{width:.0}' height='14' \
                 fill='#4878a8'/><text x='{:.0}' y='{y}'>{}</text>",
                row.0,
                width + 186.0,
                text(figure(row))
            )
            .ok();
        }
    }
    let height = y + LINE;
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='620' height='{height}' font-family='sans-serif' \
         font-size='12'>\n{body}</svg>\n"
    )
}

pub(crate) fn median_of(values: impl Iterator<Item = f64>) -> f64 {
    median(&mut values.collect::<Vec<_>>())
}

/// The middle value, or the mean of the two middle ones; `values` are sorted and not empty.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
