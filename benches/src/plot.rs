//! The outcome as a picture.

use crate::race::Ratio;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use std::{error::Error, path::Path};

const WIDTH: u32 = 960;
const ROW_HEIGHT: u32 = 30;
const MARGIN_HEIGHT: u32 = 110;
/// Room for the legend below, in rows.
const LEGEND_ROWS: usize = 3;
/// Ratios beyond are drawn at the border.
const WORST: f64 = 0.25;
const BEST: f64 = 32.0;

/// The peers that are drawn, with their runtime, in the order of the legend.
const SERIES: &[(&str, &str, RGBColor)] = &[
    ("pea2pea", "tokio", RGBColor(0xD5, 0x5E, 0x00)),
    ("hand-wired", "tokio", RGBColor(0x00, 0x72, 0xB2)),
    ("hand-wired", "smol", RGBColor(0x00, 0x9E, 0x73)),
    ("hand-wired", "async-std", RGBColor(0xCC, 0x79, 0xA7)),
];

/// Draws how many times better anypea is: a row for each workload, a bar for each peer, and the
/// spread as a line.
pub fn draw(ratios: &[Ratio], path: &Path, machine: &str) -> Result<(), Box<dyn Error>> {
    // Special ways to use anypea would make it twice as long.
    let special = ["-by-address", "-encoded-once"];
    let drawn = |ratio: &&Ratio| {
        SERIES.iter().any(|(peer, ..)| *peer == ratio.peer)
            && !special.iter().any(|way| ratio.workload.ends_with(way))
    };
    let mut workloads: Vec<&str> = Vec::new();
    for ratio in ratios.iter().filter(drawn) {
        if !workloads.contains(&ratio.workload.as_str()) {
            workloads.push(&ratio.workload);
        }
    }
    if workloads.is_empty() {
        return Ok(());
    }
    let rows = workloads.len();
    let height = (rows + LEGEND_ROWS) as u32 * ROW_HEIGHT + MARGIN_HEIGHT;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = "How many times better than its peers anypea is (logarithmic; 1 is equal)";
    let area = area.titled(title, ("sans-serif", 18))?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(220)
        .build_cartesian_2d(
            (WORST..BEST).log_scale().base(2.0),
            -(LEGEND_ROWS as f64)..rows as f64,
        )?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(8)
        .x_label_formatter(&|x| format!("{x}"))
        .x_desc(machine)
        .axis_desc_style(("sans-serif", 13))
        .label_style(("sans-serif", 13))
        .draw()?;
    let one = |y: f64| (1.0, y);
    chart.draw_series([PathElement::new([one(0.0), one(rows as f64)], BLACK.stroke_width(2))])?;
    for (number, (peer, runtime, color)) in SERIES.iter().enumerate() {
        let mut bars = Vec::new();
        let mut spreads = Vec::new();
        for ratio in ratios.iter().filter(|r| r.peer == *peer && r.runtime == *runtime) {
            let Some(row) = workloads.iter().position(|name| *name == ratio.workload) else {
                continue;
            };
            // The first workload stands at the top.
            let row = (rows - 1 - row) as f64;
            let each = 0.8 / SERIES.len() as f64;
            let bottom = row + 0.9 - each * (number + 1) as f64;
            let within = |x: f64| x.clamp(WORST, BEST);
            let (median, min, max) =
                (within(ratio.spread.median), within(ratio.spread.min), within(ratio.spread.max));
            bars.push(Rectangle::new(
                [(1.0, bottom), (median, bottom + each * 0.9)],
                color.filled(),
            ));
            let middle = bottom + each * 0.45;
            spreads.push(PathElement::new([(min, middle), (max, middle)], BLACK.mix(0.7)));
        }
        chart
            .draw_series(bars)?
            .label(format!("{peer} ({runtime})"))
            .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
        chart.draw_series(spreads)?;
    }
    let style = ("sans-serif", 13).into_text_style(&area).pos(Pos::new(HPos::Right, VPos::Center));
    for (row, name) in workloads.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(WORST, (rows - 1 - row) as f64 + 0.5));
        let (_, top) = area.get_pixel_range();
        area.draw(&Text::new(*name, (x - 8, y - top.start), style.clone()))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}

/// How a contender grows with the number of its connections.
pub struct Growth {
    /// Its name.
    pub name: String,
    /// Whether it is anypea; the others are drawn thin.
    pub is_ours: bool,
    /// The runtime.
    pub runtime: &'static str,
    /// Connections and a value, for each panel of the plot.
    pub panels: [Vec<(f64, f64)>; 4],
}

/// What is drawn of it.
const PANELS: [&str; 4] = [
    "CPU time per message, the same few (µs)",
    "CPU time per message, all in turn (µs)",
    "memory per connection (kB)",
    "broadcast, per peer (µs)",
];

/// Draws how anypea grows: a panel for each value, a line for each
/// contender.
pub fn draw_growth(growth: &[Growth], path: &Path) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, (WIDTH, 760)).into_drawing_area();
    area.fill(&WHITE)?;
    let area =
        area.titled("What anypea costs with more and more connections", ("sans-serif", 18))?;
    for (number, panel) in area.split_evenly((2, 2)).iter().enumerate() {
        let points = || growth.iter().flat_map(|growth| &growth.panels[number]);
        let most = |value: fn(&(f64, f64)) -> f64| points().map(value).fold(0.0, f64::max);
        let (connections, top) = (most(|(x, _)| *x), most(|(_, y)| *y));
        let mut chart = ChartBuilder::on(panel)
            .caption(PANELS[number], ("sans-serif", 14))
            .margin(12)
            .x_label_area_size(38)
            .y_label_area_size(46)
            .build_cartesian_2d((80.0..connections * 1.25).log_scale(), 0.0..top * 1.2)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("connections")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .label_style(("sans-serif", 12))
            .draw()?;
        for line in growth {
            let color = SERIES[1..].iter().find(|(_, runtime, _)| *runtime == line.runtime);
            let color = color.map_or(BLACK, |(.., color)| *color);
            let style = if line.is_ours { color.stroke_width(3) } else { color.stroke_width(1) };
            let points = line.panels[number].iter().copied();
            chart
                .draw_series(LineSeries::new(points, style).point_size(3))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
        }
        if number > 0 {
            continue;
        }
        // The lines are the same in all panels.
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 12))
            .draw()?;
    }
    area.present()?;
    Ok(())
}
